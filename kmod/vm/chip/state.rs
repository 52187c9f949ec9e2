// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_IRQCHIP and KVM_SET_IRQCHIP (KVM API document, 4.26 and 4.27).

use crate::hw::Vendor;
use crate::pc::pic::Which;
use crate::uapi::kvm_irqchip;
use crate::uapi::KVM_IRQCHIP_IOAPIC;
use crate::uapi::KVM_IRQCHIP_PIC_MASTER;
use crate::uapi::KVM_IRQCHIP_PIC_SLAVE;
use crate::vm::Vm;
use kernel::prelude::*;

impl<V: Vendor> Vm<V> {
    /// KVM_GET_IRQCHIP: the state of the chip that `chip_id` names.
    ///
    /// # Errors
    ///
    /// `ENXIO` unless the controllers are in the module, `EINVAL` for another
    /// chip.
    pub fn get_irqchip(&self, chip: &mut kvm_irqchip) -> Result {
        let (controllers, _) = self.chip.controllers().ok_or(ENXIO)?;
        match chip.chip_id {
            KVM_IRQCHIP_PIC_MASTER => chip.chip.set_pic(controllers.pic_state(Which::Master)),
            KVM_IRQCHIP_PIC_SLAVE => chip.chip.set_pic(controllers.pic_state(Which::Slave)),
            KVM_IRQCHIP_IOAPIC => chip.chip.set_ioapic(controllers.ioapic_state()),
            _ => return Err(EINVAL),
        }
        Ok(())
    }

    /// KVM_SET_IRQCHIP.
    ///
    /// # Errors
    ///
    /// As [`Vm::get_irqchip`].
    pub fn set_irqchip(&self, chip: &kvm_irqchip) -> Result {
        let (controllers, _) = self.chip.controllers().ok_or(ENXIO)?;
        match chip.chip_id {
            KVM_IRQCHIP_PIC_MASTER => controllers.set_pic_state(Which::Master, &chip.chip.pic()),
            KVM_IRQCHIP_PIC_SLAVE => controllers.set_pic_state(Which::Slave, &chip.chip.pic()),
            KVM_IRQCHIP_IOAPIC => controllers.set_ioapic_state(&chip.chip.ioapic()),
            _ => return Err(EINVAL),
        }
        Ok(())
    }
}
