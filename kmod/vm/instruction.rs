// SPDX-License-Identifier: GPL-2.0

//! The exiting instruction, where the processor does not tell its length or
//! operands: fetched through the guest's page tables and decoded.
//!
//! The walk of the tables is the dearest part of that. For the few instructions
//! that exit most (CPUID, RDMSR and their like) a vCPU remembers where its last
//! code page was, as the processor's own TLB does, under all that a translation
//! depends on but the tables' contents. What is found there is believed only if
//! it is such an instruction without a prefix; else the tables are walked. A
//! guest would have to map another page at the same address, with the same CR3,
//! that has the same instruction with a prefix at the same place, to go on at a
//! wrong address of its own.

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
use crate::pc::decode::Insn;
use crate::pc::regs::CpuMode;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
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

/// Where one page of the guest's code was found, and when that holds.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct CodeKey {
    page: Gva,
    cr3: u64,
    /// CR0, CR4 and EFER have no bits in common that paging depends on.
    mode: [u64; 3],
    cpl: u8,
}

/// The translation of the last code page.
#[derive(Default)]
pub struct CodePage {
    key: CodeKey,
    found: Option<Gpa>,
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

    /// Translates an address of code.
    #[inline]
    fn translate_code(&mut self, gva: Gva, context: Context) -> Handled<Gpa> {
        let key = CodeKey {
            page: gva.page_base(),
            cr3: self.hw.cr3(),
            mode: [self.hw.cr0(), self.hw.cr4(), self.hw.efer()],
            cpl: self.hw.cpl(),
        };
        if self.code.key == key {
            if let Some(page) = self.code.found {
                return Ok(page.wrapping_add(gva.page_offset()));
            }
        }
        let gpa = self.translate(gva, Access::FETCH.at_cpl(key.cpl), context)?;
        self.code = CodePage {
            key,
            found: Some(gpa.page_base()),
        };
        Ok(gpa)
    }

    /// Length of the exiting instruction.
    #[inline]
    pub fn instruction_length(&mut self, context: Context) -> Handled<u8> {
        if let Some(length) = self.hw.instruction_length(&self.regs) {
            return Ok(length);
        }
        let gva = self.linear_rip();
        if gva.page_offset() <= PAGE_SIZE - 8 {
            let gpa = self.translate_code(gva, context)?;
            let head = self.reader(context).peek_u64(gpa);
            if let Some(length) = head.and_then(plain_length) {
                return Ok(length);
            }
        }
        Ok(self.instruction(context)?.length)
    }

    /// The exiting instruction.
    pub fn instruction(&mut self, context: Context) -> Handled<Insn> {
        let fetched = self.fetch(context)?;
        let mode = self.mode();
        self.decoded
            .decode(self.regs.rip, fetched.as_slice(), mode)
            .map_err(|_| Stop::Unhandleable)
    }

    /// The bytes at CS:RIP, up to the longest an instruction can be. Bytes on
    /// a second page may be missing if that page is.
    #[inline]
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
