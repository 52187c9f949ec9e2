// SPDX-License-Identifier: GPL-2.0

//! The exiting instruction, where the processor does not tell its length or
//! operands: fetched through the guest's page tables and decoded.

use super::guest_access::Reader;
use super::run::Context;
use super::run::Handled;
use super::run::Step;
use super::run::Stop;
use super::table::Flusher;
use super::vcpu::Vcpu;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::addr::Gva;
use crate::pc::addr::PAGE_SIZE;
use crate::pc::cpuid::Feature;
use crate::pc::decode;
use crate::pc::decode::Insn;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
use crate::pc::regs::CpuMode;
use crate::pc::regs::Efer;
use crate::pc::regs::Exception;
use crate::pc::regs::SegReg;
use crate::pc::walk;
use crate::pc::walk::Access;
use crate::pc::walk::Paging;
use crate::pc::walk::WalkError;

/// Longest instruction in bytes.
pub const MAX_LENGTH: usize = 15;

/// Instruction bytes as fetched.
#[derive(Clone, Copy, Default)]
pub struct Fetched {
    bytes: [u8; MAX_LENGTH],
    len: u8,
}

impl Fetched {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

impl<V: Vendor> Vcpu<V> {
    /// The mode instructions execute in.
    #[inline]
    pub fn mode(&self) -> CpuMode {
        CpuMode::of(
            Cr0(self.hw.cr0()),
            Efer(self.hw.efer()),
            self.regs.rflags,
            self.hw.code_attributes(),
        )
    }

    /// Whether the guest executes 64-bit code.
    #[inline]
    pub fn is_64bit(&self) -> bool {
        self.hw.code_attributes().long() && Efer(self.hw.efer()).has(Efer::LMA)
    }

    /// What a walk of the guest's page tables depends on.
    #[inline]
    pub fn paging(&self) -> Paging {
        Paging {
            cr0: Cr0(self.hw.cr0()),
            cr3: self.hw.cr3(),
            cr4: Cr4(self.hw.cr4()),
            efer: Efer(self.hw.efer()),
            pkru: self.pkru,
            pdptes: self.hw.pdptes(),
            physical_bits: self.model.caps().physical_bits,
            gib_pages: self.model.caps().has(Feature::GBPAGES),
            reserves_global: V::RESERVES_GLOBAL,
        }
    }

    /// Translates a linear address.
    #[inline]
    pub fn translate(&self, gva: Gva, access: Access, context: Context) -> Handled<Gpa> {
        self.translate_with(&mut self.reader(context), gva, access)
    }

    /// Guest memory, for reads in this context.
    #[inline]
    pub fn reader(&self, context: Context) -> Reader<'_, V::Nested, Flusher> {
        Reader {
            view: self.vm.memory.enter(),
            context,
        }
    }

    #[inline]
    fn translate_with(
        &self,
        reader: &mut Reader<'_, V::Nested, Flusher>,
        gva: Gva,
        access: Access,
    ) -> Handled<Gpa> {
        match walk::walk(reader, &self.paging(), gva, access) {
            Ok(translation) => Ok(translation.gpa),
            Err(_) if reader.context == Context::Atomic => Err(Stop::Step(Step::Sleep)),
            Err(error) => Err(self.walk_failed(gva, error)),
        }
    }

    /// The guest's tables do not lead anywhere: its own fault, or a race with
    /// another of its processors that running the instruction again settles.
    #[cold]
    fn walk_failed(&self, gva: Gva, error: WalkError) -> Stop {
        match error {
            WalkError::PageFault(code) => Stop::Fault(Exception::page_fault(code, gva.0)),
            WalkError::Contended => Stop::Step(Step::Resume),
            WalkError::Memory(_) => Stop::Unhandleable,
        }
    }

    /// Linear address of the instruction.
    #[inline]
    fn linear_rip(&self) -> Gva {
        if self.is_64bit() {
            Gva(self.regs.rip)
        } else {
            let base = self.hw.segment_base(SegReg::Cs);
            Gva(base.wrapping_add(self.regs.rip) & 0xffff_ffff)
        }
    }

    /// Length of the exiting instruction.
    #[inline]
    pub fn instruction_length(&mut self, context: Context) -> Handled<u8> {
        if let Some(length) = self.hw.instruction_length(&self.regs) {
            return Ok(length);
        }
        let gva = self.linear_rip();
        if gva.page_offset() <= PAGE_SIZE - 8 {
            let access = Access::FETCH.at_cpl(self.hw.cpl());
            let mut reader = self.reader(context);
            let gpa = self.translate_with(&mut reader, gva, access)?;
            if let Some(length) = reader.peek_u64(gpa).and_then(plain_length) {
                return Ok(length);
            }
        }
        Ok(self.instruction(context)?.length)
    }

    /// The exiting instruction.
    pub fn instruction(&mut self, context: Context) -> Handled<Insn> {
        let fetched = self.fetch(context)?;
        match decode::decode(fetched.as_slice(), self.mode()) {
            Ok(insn) => Ok(insn),
            Err(_) => Err(Stop::Unhandleable),
        }
    }

    /// The bytes at CS:RIP, up to the longest an instruction can be. Bytes on
    /// a second page may be missing if that page is.
    pub fn fetch(&mut self, context: Context) -> Handled<Fetched> {
        let gva = self.linear_rip();
        let access = Access::FETCH.at_cpl(self.hw.cpl());
        let first = ((PAGE_SIZE - gva.page_offset()) as usize).min(MAX_LENGTH);
        let mut fetched = Fetched::default();
        let (head, tail) = fetched.bytes.split_at_mut(first);
        let gpa = self.translate(gva, access, context)?;
        self.read_code(gpa, head, context)?;
        fetched.len = first as u8;
        if tail.is_empty() {
            return Ok(fetched);
        }
        let next = gva.wrapping_add(first as u64);
        // An instruction that ends before the page boundary needs no more.
        match self.translate(next, access, context) {
            Ok(gpa) => {
                self.read_code(gpa, tail, context)?;
                fetched.len = MAX_LENGTH as u8;
            }
            Err(Stop::Step(Step::Sleep)) => return Err(Stop::Step(Step::Sleep)),
            Err(_) => {}
        }
        Ok(fetched)
    }

    fn read_code(&self, gpa: Gpa, bytes: &mut [u8], context: Context) -> Handled<()> {
        if self.reader(context).read(gpa, bytes) {
            return Ok(());
        }
        Err(match context {
            Context::Atomic => Stop::Step(Step::Sleep),
            Context::Sleepable => Stop::Unhandleable,
        })
    }
}

/// Length of the instructions that exit most, when they come without a prefix.
#[inline]
fn plain_length(head: u64) -> Option<u8> {
    match head & 0xffff {
        // CPUID, RDMSR, WRMSR.
        0xa20f | 0x320f | 0x300f => Some(2),
        // VMCALL, VMMCALL, XSETBV.
        0x010f => match (head >> 16) & 0xff {
            0xc1 | 0xd9 | 0xd1 => Some(3),
            _ => None,
        },
        // HLT.
        low if low & 0xff == 0xf4 => Some(1),
        _ => None,
    }
}

