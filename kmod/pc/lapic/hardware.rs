// SPDX-License-Identifier: GPL-2.0

//! What a processor needs that completes the interrupts of a local APIC itself,
//! and keeps ISR and TPR of its own while the guest runs (SDM vol. 3, chapter
//! 30). This APIC stays the one that everybody asks: the processor is shown it
//! before an entry, and what the guest has done is taken back right after the
//! exit.

use super::{Lapic, Mode, VectorSet};

impl Lapic {
    /// Whether a processor could keep this APIC until the next exit: its
    /// registers are MSRs, and nobody has to hear of the end of an interrupt.
    /// That is so when no request waits for it, and what is in service is
    /// neither level triggered nor `watched`, which is asked only if something
    /// is in service.
    #[inline]
    pub fn may_be_kept(&self, watched: impl FnOnce() -> VectorSet) -> bool {
        self.mode() == Mode::X2Apic
            && self.irr.is_empty()
            && (self.isr.is_empty() || !self.isr.meets(&self.tmr, &watched()))
    }

    /// Which of the vectors last requested are level triggered.
    #[inline]
    pub const fn tmr(&self) -> &VectorSet {
        &self.tmr
    }

    /// The guest has run: these are in service now.
    #[inline]
    pub fn take_back(&mut self, isr: VectorSet) {
        self.isr = isr;
        self.update_ppr();
    }
}
