// SPDX-License-Identifier: GPL-2.0-or-later

//! Interrupts: which global system interrupt (GSI) goes where.
//!
//! GSIs 0 to 23 are the pins of the IOAPIC, 0 to 15 also the inputs of the two PICs; the timer is
//! on IOAPIC pin 2, as in a PC. GSIs from 24 on are message-signalled interrupts, handed out to
//! PCI devices; KVM delivers them when the eventfd bound to them is written.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use kvm_bindings::{
    kvm_irq_routing_entry, KvmIrqRouting, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::sync::lock;

/// The IOAPIC pin the timer (GSI 0) is wired to.
pub const PIT_PIN: u32 = 2;
const IOAPIC_PINS: u32 = 24;
const PIC_PINS: u32 = 8;

/// Where a message-signalled interrupt goes: what the guest wrote into the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

/// The interrupt routing of one virtual machine.
///
/// The lock is held over the ioctl, so that two changes reach KVM in their order.
pub struct Router {
    vm: Arc<VmFd>,
    /// The message behind each GSI from [`IOAPIC_PINS`] on.
    messages: Mutex<Vec<Message>>,
}

impl Router {
    /// Sets up the routing of the wired interrupts.
    ///
    /// # Errors
    ///
    /// When KVM refuses it.
    pub fn new(vm: Arc<VmFd>) -> Result<Self> {
        let router = Self {
            vm,
            messages: Mutex::default(),
        };
        router.update(&[])?;
        Ok(router)
    }

    /// A GSI of its own for one message; nothing is delivered until [`Self::set_message`].
    pub fn allocate(&self) -> u32 {
        let mut messages = lock(&self.messages);
        messages.push(Message::default());
        IOAPIC_PINS + messages.len() as u32 - 1
    }

    /// Sends `gsi` (from [`Self::allocate`]) to where `message` says.
    ///
    /// # Errors
    ///
    /// When KVM refuses it, as with an address that is no interrupt's.
    pub fn set_message(&self, gsi: u32, message: Message) -> Result<()> {
        let mut messages = lock(&self.messages);
        let index = gsi
            .checked_sub(IOAPIC_PINS)
            .and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| messages.get_mut(index)) {
            Some(slot) if *slot == message => return Ok(()),
            Some(slot) => *slot = message,
            None => return Ok(()),
        }
        self.update(&messages)
    }

    /// Raises `gsi` whenever `event` is written.
    ///
    /// # Errors
    ///
    /// When KVM refuses it.
    pub fn bind(&self, event: &EventFd, gsi: u32) -> Result<()> {
        self.vm
            .register_irqfd(event, gsi)
            .with_context(|| format!("KVM refused an irqfd for GSI {gsi}"))
    }

    fn update(&self, messages: &[Message]) -> Result<()> {
        let entries = entries(messages);
        let routing = KvmIrqRouting::from_entries(&entries).context("too many interrupt routes")?;
        self.vm
            .set_gsi_routing(&routing)
            .context("KVM refused the interrupt routing")
    }
}

fn entries(messages: &[Message]) -> Vec<kvm_irq_routing_entry> {
    let wired = |gsi: u32, chip: u32, pin: u32| {
        let mut entry = kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            ..Default::default()
        };
        entry.u.irqchip.irqchip = chip;
        entry.u.irqchip.pin = pin;
        entry
    };
    let mut entries = Vec::new();
    for gsi in 0..2 * PIC_PINS {
        let chip = if gsi < PIC_PINS {
            KVM_IRQCHIP_PIC_MASTER
        } else {
            KVM_IRQCHIP_PIC_SLAVE
        };
        entries.push(wired(gsi, chip, gsi % PIC_PINS));
    }
    for gsi in (0..IOAPIC_PINS).filter(|gsi| *gsi != PIT_PIN) {
        let pin = if gsi == 0 { PIT_PIN } else { gsi };
        entries.push(wired(gsi, KVM_IRQCHIP_IOAPIC, pin));
    }
    for (gsi, message) in (IOAPIC_PINS..).zip(messages) {
        // A vector nobody programmed has no route: an interrupt there is lost, as on hardware.
        if *message == Message::default() {
            continue;
        }
        let mut entry = kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_MSI,
            ..Default::default()
        };
        entry.u.msi.address_lo = message.address as u32;
        entry.u.msi.address_hi = (message.address >> 32) as u32;
        entry.u.msi.data = message.data;
        entries.push(entry);
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_is_on_pin_2_and_nothing_else_is() {
        let mut on_pin_2 = Vec::new();
        for entry in entries(&[]) {
            assert_eq!(entry.type_, KVM_IRQ_ROUTING_IRQCHIP);
            // SAFETY: entries of this type hold an irqchip.
            let chip = unsafe { entry.u.irqchip };
            if chip.irqchip == KVM_IRQCHIP_IOAPIC && chip.pin == PIT_PIN {
                on_pin_2.push(entry.gsi);
            }
        }
        assert_eq!(on_pin_2, [0]);
    }

    #[test]
    fn messages_follow_the_pins() {
        let message = Message {
            address: 0x1_fee0_1000,
            data: 0x4031,
        };
        let all = entries(&[Message::default(), message]);
        let msis: Vec<_> = all
            .iter()
            .filter(|e| e.type_ == KVM_IRQ_ROUTING_MSI)
            .collect();
        assert_eq!(msis.len(), 1);
        assert_eq!(msis[0].gsi, 25);
        // SAFETY: entries of this type hold an MSI.
        let msi = unsafe { msis[0].u.msi };
        assert_eq!(
            (msi.address_hi, msi.address_lo, msi.data),
            (1, 0xfee0_1000, 0x4031)
        );
    }
}
