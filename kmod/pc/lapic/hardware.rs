// SPDX-License-Identifier: GPL-2.0

//! What a processor needs that does the work of a local APIC itself, and keeps
//! its state while the guest runs (SDM vol. 3, chapter 30). This APIC stays the
//! one that everybody asks: the processor is shown it before an entry, and what
//! the guest has done is taken back right after the exit.

use super::{Lapic, Mode, VectorSet};

impl Lapic {
    /// Whether a processor that delivers no interrupts could keep this APIC
    /// until the next exit: its registers are MSRs, and nobody has to hear of
    /// the end of an interrupt. That is so when no request waits for it, and
    /// what is in service is neither level triggered nor `watched`, which is
    /// asked only if something is in service.
    #[inline]
    pub fn may_be_kept(&self, watched: impl FnOnce() -> VectorSet) -> bool {
        self.mode() == Mode::X2Apic
            && self.irr.is_empty()
            && (self.isr.is_empty() || !self.isr.meets(&self.tmr, &watched()))
    }

    /// Whether a processor could deliver this APIC's interrupts: its registers
    /// are MSRs, and it is software enabled, for else it accepts no self-IPI,
    /// and a processor knows nothing of that.
    #[inline]
    pub fn may_be_delivered(&self) -> bool {
        self.mode() == Mode::X2Apic && self.software_enabled()
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
