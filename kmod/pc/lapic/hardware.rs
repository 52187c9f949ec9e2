// SPDX-License-Identifier: GPL-2.0

//! What a processor needs that does the work of a local APIC itself, and keeps
//! its state while the guest runs (SDM vol. 3, chapter 30). This APIC stays the
//! one that everybody asks: the processor is shown it before an entry, and what
//! the guest has done is taken back right after the exit.
//!
//! In x2APIC mode the guest's instructions say what they access. In xAPIC mode
//! the processor has to know the accesses to the register page: whether it does
//! is for the owner to say ([`Lapic::set_in_page`]). A new IA32_APIC_BASE ends it.

use super::regs::{self, icr};
use super::{Lapic, Mode, VectorSet};

/// Registers that the guest reads in the page without an exit and that change by
/// software alone, in xAPIC mode. The others it reads so are TPR, ISR, TMR and IRR.
pub const PAGE_REGISTERS: [u8; 17] = [
    regs::ID,
    regs::VERSION,
    regs::EOI,
    regs::LDR,
    regs::DFR,
    regs::SVR,
    regs::ESR,
    regs::ICR,
    regs::ICR_HIGH,
    regs::LVT_TIMER,
    regs::LVT_THERMAL,
    regs::LVT_PERF,
    regs::LVT_LINT0,
    regs::LVT_LINT1,
    regs::LVT_ERROR,
    regs::TIMER_INITIAL,
    regs::TIMER_DIVIDE,
];

impl Lapic {
    /// Whether a processor could keep this APIC until the next exit, and deliver
    /// its interrupts: it knows the accesses to its registers, which are MSRs or
    /// in the page, and it is software enabled, for else it accepts no self-IPI,
    /// and a processor knows nothing of that.
    #[inline]
    pub fn may_be_kept(&self) -> bool {
        (self.mode() == Mode::X2Apic || self.in_page) && self.software_enabled()
    }

    /// A processor may answer accesses to the register page.
    #[inline]
    pub const fn in_page(&self) -> bool {
        self.in_page
    }

    /// From now on it may, or may not. Only for an APIC that
    /// [`Self::is_at_default_page`].
    pub fn set_in_page(&mut self, on: bool) {
        self.in_page = on && self.is_at_default_page();
        self.registers_changed = true;
        self.changed = true;
    }

    /// What the page holds of one of [`PAGE_REGISTERS`].
    #[inline]
    pub fn page_register(&self, register: u8) -> u32 {
        match register {
            // Never read by anybody but the guest.
            regs::EOI => 0,
            regs::VERSION => self.version(),
            register => self.plain(register),
        }
    }

    /// Whether any of [`PAGE_REGISTERS`] may have changed since the last call, of
    /// an APIC that is [`Self::in_page`].
    #[inline]
    pub fn take_registers_changed(&mut self) -> bool {
        core::mem::take(&mut self.registers_changed)
    }

    /// The processor has put what the guest has written into the page, which is
    /// not always what the register holds then.
    #[inline]
    pub fn page_was_written(&mut self) {
        self.note_registers();
    }

    /// What the page has of the interrupt command: the guest changes it without
    /// an exit.
    #[inline]
    pub fn take_command(&mut self, low: u32) {
        self.take_register(regs::ICR, low, !icr::BUSY);
    }

    /// As [`Self::take_command`], its high half.
    #[inline]
    pub fn take_command_high(&mut self, high: u32) {
        self.take_register(regs::ICR_HIGH, high, icr::HIGH_DESTINATION);
    }

    #[inline]
    fn take_register(&mut self, register: u8, value: u32, writable: u32) {
        if value == self.plain(register) {
            return;
        }
        self.hold(register, value & writable);
        if value & !writable != 0 {
            self.note_registers();
        }
    }

    /// Which of the vectors last requested are level triggered.
    #[inline]
    pub const fn tmr(&self) -> &VectorSet {
        &self.tmr
    }

    /// The guest has run: these are requested and in service now.
    #[inline]
    pub fn take_back(&mut self, irr: VectorSet, isr: VectorSet) {
        self.irr = irr;
        self.isr = isr;
        self.update_ppr();
    }

    /// Something but requests is not as it was at the last [`Self::shown`]:
    /// whoever keeps this APIC has to look at it again.
    #[inline]
    pub const fn has_changed(&self) -> bool {
        self.changed
    }

    /// Whoever keeps this APIC is to look at it again.
    pub fn show_again(&mut self) {
        self.changed = true;
    }

    /// Whoever keeps this APIC knows what it is.
    #[inline]
    pub fn shown(&mut self) {
        self.changed = false;
    }
}
