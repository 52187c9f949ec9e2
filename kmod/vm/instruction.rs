// SPDX-License-Identifier: GPL-2.0

//! The exiting instruction, where the processor does not tell its length or
//! operands: fetched through the guest's page tables and decoded.
//!
//! The walk of the tables is the dearest part of that, so a vCPU remembers the
//! last page of code: under all that a translation depends on, which entries of
//! the tables led there and what they were. It reads those entries again each
//! time: as long as they are what they were, so is the translation. Nothing of
//! the code itself is remembered.

use super::code_page::Fetched;
use super::code_page::Recorder;
use super::guest_access::Reader;
use super::step::Context;
use super::step::Handled;
use super::step::Step;
use super::step::Stop;
use super::table::Flusher;
use super::vcpu::Vcpu;
use crate::host::cpu;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::addr::Gva;
use crate::pc::addr::PAGE_SIZE;
use crate::pc::cpuid::Feature;
use crate::pc::decode::DecodeError;
use crate::pc::decode::Insn;
use crate::pc::decode::Place;
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
const MAX_LENGTH: usize = 15;

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
            pkru: self.guest_pkru(),
            pdptes: self.hw.pdptes(),
            physical_bits: self.model.caps().physical_bits,
            gib_pages: self.model.caps().has(Feature::GBPAGES),
            reserves_global: V::RESERVES_GLOBAL,
        }
    }

    /// PKRU of the guest, which the processor has while the guest's state is
    /// loaded.
    #[inline]
    fn guest_pkru(&self) -> u32 {
        match self.host_pkru {
            None => self.pkru,
            Some(_) => cpu::read_pkru(),
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
    pub fn linear_rip(&self) -> Gva {
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
        match self.hw.instruction_length(&self.regs) {
            Some(length) => Ok(length),
            None => self.decoded_length(context),
        }
    }

    #[inline(never)]
    fn decoded_length(&mut self, context: Context) -> Handled<u8> {
        let gva = self.linear_rip();
        let view = self.vm.memory.enter();
        let fetched = self.code.fetch(&self.hw, gva, &view);
        drop(view);
        if let Some(length) = fetched.and_then(|fetched| plain_length(&fetched)) {
            return Ok(length);
        }
        let place = self.decode(fetched, context)?;
        Ok(self.decoded.get(place).length)
    }

    /// The exiting instruction.
    pub fn instruction(&mut self, context: Context) -> Handled<Insn> {
        let place = self.decode(None, context)?;
        Ok(*self.decoded.get(place))
    }

    /// Decodes the exiting instruction, from `fetched` if that is enough of it.
    #[inline(always)]
    pub fn decode(&mut self, fetched: Option<Fetched>, context: Context) -> Handled<Place> {
        let mode = self.mode();
        if let Some(Fetched { bytes, len }) = fetched {
            match self.decoded.find(self.regs.rip, bytes, len, mode) {
                Ok(place) => return Ok(place),
                // It goes on on the next page.
                Err(DecodeError::TooShort) => {}
                Err(_) => return Err(Stop::Unhandleable),
            }
        }
        self.fetch_and_decode(mode, context)
    }

    #[cold]
    fn fetch_and_decode(&mut self, mode: CpuMode, context: Context) -> Handled<Place> {
        let Fetched { bytes, len } = self.fetch(context)?;
        self.decoded
            .find(self.regs.rip, bytes, len, mode)
            .map_err(|_| Stop::Unhandleable)
    }

    /// The exiting instruction's bytes, as far as they are on one page that is
    /// known.
    #[inline(never)]
    pub fn fetch_known(&self) -> Option<Fetched> {
        let view = self.vm.memory.enter();
        self.code.fetch(&self.hw, self.linear_rip(), &view)
    }

    /// The bytes at CS:RIP, up to the longest an instruction can be. Bytes on
    /// a second page may be missing if that page is.
    #[cold]
    pub fn fetch(&mut self, context: Context) -> Handled<Fetched> {
        let gva = self.linear_rip();
        let first = ((PAGE_SIZE - gva.page_offset()) as usize).min(MAX_LENGTH);
        let mut bytes = [0; 16];
        let (head, rest) = bytes.split_at_mut(first);
        let gpa = self.translate_code(gva, context)?;
        self.read_code(gpa, head, context)?;
        let mut len = first;
        let tail = rest.get_mut(..MAX_LENGTH.saturating_sub(first));
        if let Some(tail) = tail.filter(|tail| !tail.is_empty()) {
            let next = gva.wrapping_add(first as u64);
            let access = Access::FETCH.at_cpl(self.hw.cpl());
            // An instruction that ends before the page boundary needs no more.
            match self.translate(next, access, context) {
                Ok(gpa) => {
                    self.read_code(gpa, tail, context)?;
                    len = MAX_LENGTH;
                }
                Err(Stop::Step(Step::Sleep)) => return Err(Stop::Step(Step::Sleep)),
                Err(_) => {}
            }
        }
        Ok(Fetched {
            bytes: u128::from_le_bytes(bytes),
            len: len as u8,
        })
    }

    /// Translates an address of code, and remembers the way.
    fn translate_code(&mut self, gva: Gva, context: Context) -> Handled<Gpa> {
        let access = Access::FETCH.at_cpl(self.hw.cpl());
        let paging = self.paging();
        let mut recorder = Recorder::new(self.reader(context));
        match walk::walk(&mut recorder, &paging, gva, access) {
            Ok(found) => {
                let known = recorder.known(&self.hw, gva, found.gpa);
                drop(recorder);
                self.code = known;
                Ok(found.gpa)
            }
            Err(_) if context == Context::Atomic => Err(Stop::Step(Step::Sleep)),
            Err(error) => Err(self.walk_failed(gva, error)),
        }
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
fn plain_length(fetched: &Fetched) -> Option<u8> {
    let head = fetched.bytes as u32;
    let length = match head & 0xffff {
        // CPUID, RDMSR, WRMSR.
        0xa20f | 0x320f | 0x300f => 2,
        // VMCALL, VMMCALL, XSETBV.
        0x010f => match (head >> 16) & 0xff {
            0xc1 | 0xd9 | 0xd1 => 3,
            _ => return None,
        },
        // HLT.
        low if low & 0xff == 0xf4 => 1,
        _ => return None,
    };
    (length <= fetched.len).then_some(length)
}
