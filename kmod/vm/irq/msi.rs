// SPDX-License-Identifier: GPL-2.0

//! KVM_SIGNAL_MSI (KVM API document, 4.70).

use super::Delivery;
use crate::host::user::UserPtr;
use crate::hw::Vendor;
use crate::pc::irq::dest;
use crate::pc::irq::dest::Rules;
use crate::pc::irq::routes;
use crate::pc::irq::LineStatus;
use crate::pc::irq::Message;
use crate::uapi::kvm_msi;
use crate::uapi::KVM_MSI_VALID_DEVID;
use crate::vm::Vm;
use kernel::prelude::*;

impl<V: Vendor> Vm<V> {
    /// KVM_SIGNAL_MSI. Gives the number of vCPUs that got the message; 0 when
    /// they do not take it.
    ///
    /// # Errors
    ///
    /// `EINVAL` without interrupt controllers, for flags, and for a bad
    /// address; `EPERM` when there is no such vCPU; `EFAULT`.
    pub fn signal_msi(&self, arg: UserPtr) -> Result<isize> {
        let msi: kvm_msi = arg.read()?;
        let interrupts = self.chip.interrupts().ok_or(EINVAL)?;
        let delivery = &interrupts.delivery;
        let format = delivery.format();
        if msi.flags & !KVM_MSI_VALID_DEVID != 0
            || !routes::is_valid_address_hi(msi.address_hi, format)
        {
            return Err(EINVAL);
        }
        let message = Message::from_msi(msi.address_lo, msi.address_hi, msi.data, format);
        match delivery.send(&message) {
            LineStatus::Delivered(count) => Ok(count as isize),
            // The vector is pending already: the guest will see it.
            LineStatus::Coalesced => Ok(1),
            LineStatus::Ignored if delivery.reaches_any(&message) => Ok(0),
            LineStatus::Ignored => Err(EPERM),
        }
    }
}

impl Delivery {
    /// Whether the message is for any vCPU, if only that took it.
    fn reaches_any(&self, message: &Message) -> bool {
        let rules = Rules {
            broadcast_quirk: !self.settings.x2apic_no_broadcast(),
        };
        self.vcpus
            .iter()
            .any(|vcpu| dest::matches(message, &vcpu.apic.snapshot(), rules))
    }
}
