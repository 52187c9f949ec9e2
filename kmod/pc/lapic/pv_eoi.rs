// SPDX-License-Identifier: GPL-2.0

//! Paravirtual EOI (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN):
//! a flag in guest memory lets the guest complete an interrupt without an
//! exit.
//!
//! Before entry: if [`Lapic::pv_eoi_vector`] names an interrupt whose EOI
//! nobody else waits for, set the flag in guest memory and call
//! [`Lapic::pv_eoi_offer`]. After an exit, if [`Lapic::pv_eoi_is_offered`]:
//! test and clear the flag in one step, and call [`Lapic::pv_eoi_settle`].

use super::{EoiAction, Lapic};

impl Lapic {
    /// The interrupt that the guest may complete on its own: the one in
    /// service of highest priority, if it is edge triggered and no request
    /// waits for its end.
    #[inline]
    pub fn pv_eoi_vector(&self) -> Option<u8> {
        let vector = self.isr.highest()?;
        (self.irr.is_empty() && !self.tmr.contains(vector)).then_some(vector)
    }

    /// The flag in guest memory is set.
    #[inline]
    pub fn pv_eoi_offer(&mut self) {
        self.pv_eoi_offered = true;
    }

    /// Whether the flag in guest memory was set and not looked at since.
    #[inline]
    pub const fn pv_eoi_is_offered(&self) -> bool {
        self.pv_eoi_offered
    }

    /// The flag was cleared by the caller, who found it still set or not. If
    /// not, the guest has completed its interrupt.
    #[inline]
    pub fn pv_eoi_settle(&mut self, flag_was_set: bool) -> Option<EoiAction> {
        let offered = core::mem::take(&mut self.pv_eoi_offered);
        if !offered || flag_was_set {
            return None;
        }
        self.eoi()
    }
}
