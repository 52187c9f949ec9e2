// SPDX-License-Identifier: GPL-2.0

//! Paravirtual EOI: a flag in guest memory says that the guest may complete
//! its interrupt by clearing the flag, without an exit
//! (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN).
//!
//! Context: interrupts off; a flag that is not in memory is not used.

use super::vcpu::Vcpu;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::lapic::EoiAction;
use crate::uapi::KVM_PV_EOI_DISABLED;
use crate::uapi::KVM_PV_EOI_ENABLED;

impl<V: Vendor> Vcpu<V> {
    /// After an exit, before interrupts are looked at: has the guest completed
    /// the one it was offered?
    #[inline]
    pub fn settle_pv_eoi(&mut self) {
        let offered = self
            .lapic
            .as_ref()
            .is_some_and(|lapic| lapic.pv_eoi_is_offered());
        if offered {
            self.take_pv_eoi_flag();
        }
    }

    #[cold]
    fn take_pv_eoi_flag(&mut self) {
        let still_set = self.pv_eoi.is_some_and(|flag| self.clear_flag(flag));
        if let Some(lapic) = self.lapic.as_mut() {
            // Only edge-triggered interrupts nobody waits for were offered.
            let _ = lapic.pv_eoi_settle(still_set);
        }
    }

    /// Clears the flag; true when it was set.
    fn clear_flag(&self, flag: Gpa) -> bool {
        let view = self.vm.memory.enter();
        let set = u64::from(KVM_PV_EOI_ENABLED);
        let cleared = u64::from(KVM_PV_EOI_DISABLED);
        // The guest tests and clears on this very CPU, never at the same time.
        matches!(view.cmpxchg_nofault(flag, 1, set, cleared), Ok(Ok(())))
    }

    /// After interrupts were delivered: offers the one in service, if nothing
    /// needs to know of its end: neither others nor a processor that delivers,
    /// for which it would stay in service and hold back the next ones.
    #[inline]
    pub fn offer_pv_eoi(&mut self) {
        let Some(flag) = self.pv_eoi else {
            return;
        };
        if self.processor_keeps_apic() {
            return;
        }
        let vector = self.lapic.as_ref().and_then(|lapic| lapic.pv_eoi_vector());
        let Some(vector) = vector else {
            return;
        };
        let action = EoiAction {
            vector,
            broadcast_to_ioapic: false,
        };
        if self.vm.chip.wants_eoi(action) {
            return;
        }
        let written = self
            .vm
            .memory
            .enter()
            .write_nofault(flag, &[KVM_PV_EOI_ENABLED]);
        if let (Ok(()), Some(lapic)) = (written, self.lapic.as_mut()) {
            lapic.pv_eoi_offer();
        }
    }
}
