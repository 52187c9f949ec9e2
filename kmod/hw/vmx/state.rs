// SPDX-License-Identifier: GPL-2.0

//! State of the guest in its VMCS: read when it is asked for, and kept until the
//! next entry where it is asked for often.

use super::cpu;
use super::cpu::Shared;
use super::dump;
use super::event::Interruptibility;
use super::field::guest;
use super::field::Field;
use super::field::Field32;
use super::field::FieldNatural;
use super::field::ReadFields;
use super::insn;
use super::vmcs::Current;
use super::Vmx;
use crate::host::log::info_ratelimited;
use crate::host::log::RateLimit;
use crate::host::task::IrqOff;
use crate::pc::regs::Attributes;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
use crate::pc::regs::DescriptorTable;
use crate::pc::regs::Efer;
use crate::pc::regs::Rflags;
use crate::pc::regs::SegReg;
use core::cell::Cell;
use kernel::prelude::*;

/// Bits of CR0 that the guest changes without an exit: they mean nothing to the
/// host, nor to a walk of the guest's tables that has not begun yet.
pub(super) const CR0_OWN: Cr0 = Cr0(Cr0::MP.0 | Cr0::EM.0 | Cr0::TS.0 | Cr0::WP.0 | Cr0::AM.0);

/// Bits of CR4 that the guest changes without an exit: every processor with
/// unrestricted guests has them, and CPUID does not mirror them.
pub(super) const CR4_OWN: Cr4 = Cr4(Cr4::VME.0
    | Cr4::PVI.0
    | Cr4::TSD.0
    | Cr4::DE.0
    | Cr4::PGE.0
    | Cr4::PCE.0
    | Cr4::OSFXSR.0
    | Cr4::OSXMMEXCPT.0);

/// Pending debug exceptions: a single step.
const PENDING_STEP: u64 = 1 << 14;

/// Access rights: the segment cannot be used.
const UNUSABLE: u32 = 1 << 16;

/// What of [`Cache`] is valid, where [`Cache::valid`] has the bits set.
mod cached {
    /// Access rights of CS and SS.
    pub(super) const SEGMENTS: u8 = 1 << 0;
    /// CR0, CR3 and CR4.
    pub(super) const CONTROL_REGISTERS: u8 = 1 << 1;
    /// The interruptibility.
    pub(super) const INTERRUPTIBILITY: u8 = 1 << 2;
}

/// Fields that the way of an exit asks for more than once. Those that are wanted
/// together are read together.
#[derive(Default)]
pub(super) struct Cache {
    valid: Cell<u8>,
    pub(super) cs_access: Cell<u32>,
    pub(super) ss_access: Cell<u32>,
    pub(super) cr0: Cell<u64>,
    pub(super) cr3: Cell<u64>,
    pub(super) cr4: Cell<u64>,
    interruptibility: Cell<u32>,
}

impl Cache {
    /// The guest has run, or a field has been written.
    #[inline]
    pub(super) fn forget(&self) {
        self.valid.set(0);
    }

    /// The guest has run, and this is its interruptibility.
    #[inline]
    pub(super) fn begin(&self, interruptibility: u32) {
        self.interruptibility.set(interruptibility);
        self.valid.set(cached::INTERRUPTIBILITY);
    }

    #[inline]
    fn has(&self, part: u8) -> bool {
        self.valid.get() & part != 0
    }

    #[inline]
    fn note(&self, part: u8) {
        self.valid.set(self.valid.get() | part);
    }
}

/// Access rights of a segment register as an entry takes them.
pub(super) fn access_rights(which: SegReg, attributes: Attributes) -> u32 {
    let mut rights = attributes.to_access_rights();
    if !attributes.present() {
        rights |= UNUSABLE;
    }
    // Loading a segment register sets "accessed"; an entry insists on it.
    if rights & UNUSABLE == 0 && attributes.is_code_or_data() && which != SegReg::Ldtr {
        rights |= 1;
    }
    rights
}

impl<const ACCESSED_DIRTY: bool> Vmx<ACCESSED_DIRTY> {
    /// Reads a field.
    #[inline]
    pub(super) fn read<F: Field>(&self, field: F) -> F::Value {
        F::from_register(if self.in_use {
            insn::vmread(field.encoding())
        } else {
            self.read_outside(field.encoding())
        })
    }

    #[inline(never)]
    fn read_outside(&self, operand: u32) -> u64 {
        self.vmcs
            .with_current(|| insn::vmread(operand))
            .unwrap_or(0)
    }

    /// Writes a field of the guest's state or of the controls. `value` must not
    /// open the host to the guest: see [`insn::vmwrite`].
    #[inline]
    pub(super) fn write<F: Field>(&self, field: F, value: F::Value) {
        let (operand, value) = (field.encoding(), F::to_register(value));
        // SAFETY: The VMCS is this vCPU's. Callers write state of the guest,
        // which an entry checks and which reaches memory through the extended
        // page tables only, or controls out of `Controls`.
        let write = || unsafe { insn::vmwrite(operand, value) };
        let written = if self.in_use {
            write()
        } else {
            self.vmcs.with_current(write).unwrap_or(false)
        };
        if !written {
            refused(operand, value);
        }
    }

    /// The table register whose fields these are.
    pub(super) fn descriptor_table(&self, base: FieldNatural, limit: Field32) -> DescriptorTable {
        DescriptorTable {
            base: self.read(base),
            limit: self.read(limit) as u16,
        }
    }

    /// The access rights of CS and SS are valid in what this gives.
    #[inline]
    pub(super) fn segments(&self) -> &Cache {
        if !self.cache.has(cached::SEGMENTS) {
            self.read_into_cache(|cache, fields| {
                cache.cs_access.set(fields.read(guest::CS_ACCESS));
                cache.ss_access.set(fields.read(guest::SS_ACCESS));
                cache.note(cached::SEGMENTS);
            });
        }
        &self.cache
    }

    /// CR0, CR3 and CR4, as the processor has them, are valid in what this gives.
    #[inline]
    pub(super) fn control_registers(&self) -> &Cache {
        if !self.cache.has(cached::CONTROL_REGISTERS) {
            self.read_into_cache(|cache, fields| {
                cache.cr0.set(fields.read(guest::CR0));
                cache.cr3.set(fields.read(guest::CR3));
                cache.cr4.set(fields.read(guest::CR4));
                cache.note(cached::CONTROL_REGISTERS);
            });
        }
        &self.cache
    }

    #[inline(always)]
    pub(super) fn interruptibility(&self) -> Interruptibility {
        if !self.cache.has(cached::INTERRUPTIBILITY) {
            self.read_into_cache(|cache, fields| {
                let state = fields.read(guest::INTERRUPTIBILITY);
                cache.interruptibility.set(state);
                cache.note(cached::INTERRUPTIBILITY);
            });
        }
        Interruptibility(self.cache.interruptibility.get())
    }

    /// Reads fields into the cache. When VMX is off they are what they were.
    #[inline(always)]
    fn read_into_cache(&self, read: impl FnOnce(&Cache, &Current)) {
        if self.in_use {
            read(&self.cache, &Current);
        } else {
            self.read_into_cache_outside(read);
        }
    }

    #[inline(never)]
    fn read_into_cache_outside(&self, read: impl FnOnce(&Cache, &Current)) {
        let _ = self.vmcs.with_current(|| read(&self.cache, &Current));
    }

    pub(super) fn write_interruptibility(&self, state: Interruptibility) {
        if state != self.interruptibility() {
            self.write(guest::INTERRUPTIBILITY, state.0);
            self.cache.interruptibility.set(state.0);
        }
    }

    /// Begins or ends the shadow of an instruction. Which of the two, STI or
    /// MOV SS, nobody says: that of MOV SS can be with any RFLAGS.
    #[cold]
    pub(super) fn change_shadow(&self, on: bool) {
        let open = self
            .interruptibility()
            .without(Interruptibility::STI | Interruptibility::MOV_SS);
        self.write_interruptibility(open.assign(Interruptibility::MOV_SS, on));
        // A single step waited for the end of the shadow; who ends it has
        // looked at TF. In a new one an entry wants to see it wait.
        self.set_pending_step(on && Rflags(self.entered.rflags).has(Rflags::TF));
    }

    /// Whether a single step waits for the end of the shadow. Breakpoints that
    /// MOV SS itself has met may wait as well: the next entry delivers them.
    fn set_pending_step(&self, on: bool) {
        let others = self.read(guest::PENDING_DEBUG) & !PENDING_STEP;
        let step = if on { PENDING_STEP } else { 0 };
        self.write(guest::PENDING_DEBUG, others | step);
    }

    /// RFLAGS are not those of the last exit: makes what an entry compares
    /// with them fit (SDM vol. 3, 27.3.1.5).
    #[cold]
    pub(super) fn flags_changed(&self, flags: Rflags) {
        let state = self.interruptibility();
        if !state.any(Interruptibility::STI | Interruptibility::MOV_SS) {
            return;
        }
        if state.has(Interruptibility::STI) && !flags.has(Rflags::IF) {
            // Without IF there is no shadow of STI.
            self.write_interruptibility(state.without(Interruptibility::STI));
            return self.set_pending_step(false);
        }
        self.set_pending_step(flags.has(Rflags::TF));
    }

    /// PAE paging: the processor has copies of the directory pointers.
    pub(super) fn has_pdptes(&self) -> bool {
        self.cr0.has(Cr0::PG) && self.cr4.has(Cr4::PAE) && !self.efer.has(Efer::LMA)
    }

    /// Writes the VMCS to the kernel log, unless VMX is off: then it is not the
    /// VMCS that stands against running the guest. A client can make any number
    /// of VMs that come here.
    pub(super) fn dump_to_log(&self) {
        static LIMIT: RateLimit = RateLimit::new();
        if !cpu::is_online(&IrqOff::new()) || !LIMIT.allows() {
            return;
        }
        let read = |operand| self.vmcs.with_current(|| insn::try_vmread(operand))?;
        let mut line = |text: core::fmt::Arguments<'_>| pr_err!("{}\n", text);
        pr_err!("the processor has refused to run a guest\n");
        dump::dump(&read, &mut line);
    }

    /// What all vCPUs share.
    #[inline]
    pub(super) fn shared(&self) -> &'static Shared {
        self.shared
    }
}

/// A field this processor does not have has been written, or VMX is off.
#[cold]
fn refused(operand: u32, value: u64) {
    if !crate::host::cpu::rebooting() {
        info_ratelimited!("VMWRITE of {value:#x} to field {operand:#x} was refused\n");
    }
}
