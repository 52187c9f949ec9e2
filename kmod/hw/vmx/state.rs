// SPDX-License-Identifier: GPL-2.0

//! State of the guest in its VMCS: read when it is asked for, and kept until the
//! next entry where it is asked for often.

use super::cpu;
use super::cpu::Shared;
use super::dump;
use super::event::Interruptibility;
use super::field::guest;
use super::field::Field16;
use super::field::Field32;
use super::field::Field64;
use super::field::FieldNatural;
use super::field::ReadFields;
use super::insn;
use super::vmcs::Field;
use super::Vmx;
use crate::host::log::info_ratelimited;
use crate::host::log::RateLimit;
use crate::host::task::IrqOff;
use crate::pc::regs::Attributes;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
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

/// Where [`Cache::valid`] speaks of the interruptibility.
const INTERRUPTIBILITY: u32 = 1 << 5;

/// Fields that the way of an exit asks for more than once.
#[derive(Default)]
pub(super) struct Cache {
    valid: Cell<u32>,
    cs_access: Cell<u64>,
    ss_access: Cell<u64>,
    cr0: Cell<u64>,
    cr3: Cell<u64>,
    cr4: Cell<u64>,
    interruptibility: Cell<u64>,
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
        self.interruptibility.set(u64::from(interruptibility));
        self.valid.set(INTERRUPTIBILITY);
    }

    #[inline]
    fn get(&self, bit: u32, slot: &Cell<u64>, read: impl FnOnce() -> u64) -> u64 {
        if self.valid.get() & bit == 0 {
            slot.set(read());
            self.valid.set(self.valid.get() | bit);
        }
        slot.get()
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

/// The fields of the VMCS that is current on this CPU, with interrupts off.
pub(super) struct Current;

impl ReadFields for Current {
    #[inline]
    fn read16(&self, field: Field16) -> u16 {
        insn::vmread(field.encoding()) as u16
    }

    #[inline]
    fn read32(&self, field: Field32) -> u32 {
        insn::vmread(field.encoding()) as u32
    }

    #[inline]
    fn read64(&self, field: Field64) -> u64 {
        insn::vmread(field.encoding())
    }

    #[inline]
    fn read_natural(&self, field: FieldNatural) -> u64 {
        insn::vmread(field.encoding())
    }
}

impl<const ACCESSED_DIRTY: bool> Vmx<ACCESSED_DIRTY> {
    /// Reads a field.
    #[inline]
    pub(super) fn read<F: Field>(&self, field: F) -> F::Value {
        F::from_register(if self.in_use {
            insn::vmread(field.operand())
        } else {
            self.read_outside(field.operand())
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
        let (operand, value) = (field.operand(), F::to_register(value));
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

    #[inline]
    pub(super) fn cs_access(&self) -> u32 {
        let cache = &self.cache;
        let read = || u64::from(self.read(guest::CS_ACCESS));
        cache.get(1 << 0, &cache.cs_access, read) as u32
    }

    #[inline]
    pub(super) fn ss_access(&self) -> u32 {
        let cache = &self.cache;
        let read = || u64::from(self.read(guest::SS_ACCESS));
        cache.get(1 << 1, &cache.ss_access, read) as u32
    }

    #[inline]
    pub(super) fn real_cr0(&self) -> u64 {
        let cache = &self.cache;
        cache.get(1 << 2, &cache.cr0, || self.read(guest::CR0))
    }

    #[inline]
    pub(super) fn real_cr3(&self) -> u64 {
        let cache = &self.cache;
        cache.get(1 << 3, &cache.cr3, || self.read(guest::CR3))
    }

    #[inline]
    pub(super) fn real_cr4(&self) -> u64 {
        let cache = &self.cache;
        cache.get(1 << 4, &cache.cr4, || self.read(guest::CR4))
    }

    #[inline]
    pub(super) fn interruptibility(&self) -> Interruptibility {
        let cache = &self.cache;
        let read = || u64::from(self.read(guest::INTERRUPTIBILITY));
        Interruptibility(cache.get(INTERRUPTIBILITY, &cache.interruptibility, read) as u32)
    }

    pub(super) fn write_interruptibility(&self, state: Interruptibility) {
        if state != self.interruptibility() {
            self.write(guest::INTERRUPTIBILITY, state.0);
            self.cache.interruptibility.set(u64::from(state.0));
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
        let step = on && Rflags(self.entered.rflags).has(Rflags::TF);
        self.write(guest::PENDING_DEBUG, if step { PENDING_STEP } else { 0 });
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
            self.write(guest::PENDING_DEBUG, 0);
            return;
        }
        let step = flags.has(Rflags::TF);
        self.write(guest::PENDING_DEBUG, if step { PENDING_STEP } else { 0 });
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
