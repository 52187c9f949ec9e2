// SPDX-License-Identifier: GPL-2.0

//! The interrupt controllers of a VM besides the local APICs: in the module
//! (KVM_CREATE_IRQCHIP), in userspace with local APICs in the module
//! (KVM_CAP_SPLIT_IRQCHIP), or all of it in userspace. Which one is said once,
//! before there are vCPUs, under the VM's lock for creation.
//!
//! Lock order: as in [`super::irq`].

mod controllers;
mod eoi;
mod ports;
mod state;
mod vectors;

pub use self::controllers::Controllers;
pub use self::vectors::Vectors;

use self::eoi::Storm;
use super::irq::Delivery;
use super::irq::Interrupts;
use super::irq::IrqFds;
use super::irq::Pins;
use super::irq::MAX_ROUTES;
use super::pit::PitTimer;
use super::Vm;
use crate::host::timer::Timer;
use crate::hw::Vendor;
use crate::pc::lapic;
use crate::pc::lapic::EoiAction;
use crate::pc::lapic::Lapic;
use crate::pc::lapic::SuppressEoi;
use crate::pc::lapic::VectorSet;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::SetOnce;

/// The interrupt controllers of a VM, or that there are none.
pub struct Chip {
    wiring: SetOnce<Wiring>,
}

/// What there is with local APICs in the module. Fields are dropped in this
/// order: first who may call back.
struct Wiring {
    irqfds: IrqFds,
    /// Makes counter 0 of the PIT interrupt, if there is a PIT.
    pit_timer: SetOnce<PitTimer>,
    /// Delivers again what a guest does not get to handle.
    storm: Option<Timer<Storm>>,
    interrupts: Arc<Interrupts>,
}

impl Chip {
    /// No interrupt controllers.
    ///
    /// # Errors
    ///
    /// None.
    pub fn new() -> Result<Self> {
        Ok(Self {
            wiring: SetOnce::new(),
        })
    }

    /// What raises interrupts, unless all of it is in userspace.
    #[inline]
    pub fn interrupts(&self) -> Option<&Arc<Interrupts>> {
        Some(&self.wiring.as_ref()?.interrupts)
    }

    /// The irqfds and what they raise.
    pub fn irqfds(&self) -> Option<(&IrqFds, &Arc<Interrupts>)> {
        let wiring = self.wiring.as_ref()?;
        Some((&wiring.irqfds, &wiring.interrupts))
    }

    /// PICs and I/O APIC, if they are in the module.
    #[inline(always)]
    fn controllers(&self) -> Option<(&Controllers, &Interrupts)> {
        let interrupts = self.interrupts()?;
        Some((interrupts.controllers.as_ref()?, interrupts))
    }

    /// Forgets irqfds whose eventfd nobody has open. May sleep.
    pub fn sweep_irqfds(&self) {
        if let Some(wiring) = self.wiring.as_ref() {
            wiring.irqfds.sweep();
        }
    }

    /// The place of the PIT's timer, with PICs and I/O APIC in the module.
    pub fn pit_place(&self) -> Option<(&SetOnce<PitTimer>, &Arc<Interrupts>)> {
        let wiring = self.wiring.as_ref()?;
        let _ = wiring.interrupts.controllers.as_ref()?;
        Some((&wiring.pit_timer, &wiring.interrupts))
    }

    /// The PIT and its timer.
    #[inline]
    pub fn pit(&self) -> Option<(&PitTimer, &Arc<Interrupts>)> {
        let wiring = self.wiring.as_ref()?;
        Some((wiring.pit_timer.as_ref()?, &wiring.interrupts))
    }

    /// Whether PICs and I/O APIC are in userspace, and local APICs here.
    #[inline]
    pub fn is_split(&self) -> bool {
        self.interrupts()
            .is_some_and(|interrupts| interrupts.controllers.is_none())
    }

    /// The local APIC of a new vCPU, unless userspace models it.
    pub fn new_lapic(&self, id: u32, is_bsp: bool) -> Option<Lapic> {
        let interrupts = self.interrupts()?;
        let mut config = lapic::Config::new(id);
        // The I/O APIC here has no register for a directed EOI; userspace's
        // is unknown.
        config.suppress_eoi = match interrupts.controllers {
            Some(_) => SuppressEoi::Absent,
            None => SuppressEoi::Ignored,
        };
        Some(Lapic::new(config, is_bsp))
    }

    /// Whether an I/O APIC, here or in userspace, has to see the EOI. No lock.
    #[inline]
    pub fn wants_eoi(&self, action: EoiAction) -> bool {
        let Some(interrupts) = self.interrupts() else {
            return false;
        };
        match &interrupts.controllers {
            Some(controllers) => action.broadcast_to_ioapic || controllers.wants_eoi(action.vector),
            None => action.broadcast_to_ioapic && interrupts.is_user_eoi_vector(action.vector),
        }
    }

    /// Vectors whose EOI the I/O APIC has to see, even of edge-triggered
    /// interrupts. No lock.
    pub fn eoi_vectors(&self) -> VectorSet {
        match self.controllers() {
            Some((controllers, _)) => controllers.eoi_vectors(),
            None => VectorSet::EMPTY,
        }
    }

    /// The processor's acknowledge cycle at the PICs; `None` when nothing asks
    /// any more.
    pub fn acknowledge_pic(&self) -> Option<u8> {
        let (controllers, interrupts) = self.controllers()?;
        let (vector, changed) = controllers.acknowledge()?;
        if changed.completed != 0 {
            interrupts.completed(Pins::pic(changed.completed));
        }
        Some(vector)
    }

    /// The VM's file is closed: eventfds neither call back any more nor are
    /// called. Timers go on for vCPUs that may still run, and end when this is
    /// dropped. May sleep.
    pub fn shut_down(&self) {
        if let Some(wiring) = self.wiring.as_ref() {
            wiring.irqfds.clear();
        }
    }

    fn install(&self, delivery: Delivery, controllers: bool, reserved_pins: u32) -> Result {
        let controllers = controllers.then(|| Controllers::new(delivery.clone()));
        let is_full = controllers.is_some();
        let interrupts = Interrupts::new(delivery, controllers, reserved_pins)?;
        let interrupts = Arc::new(interrupts, GFP_KERNEL_ACCOUNT)?;
        let storm = match is_full {
            true => Some(Timer::new(Storm::new(interrupts.clone()))?),
            false => None,
        };
        let wiring = Wiring {
            irqfds: IrqFds::new()?,
            pit_timer: SetOnce::new(),
            storm,
            interrupts,
        };
        if !self.wiring.populate(wiring) {
            return Err(EEXIST);
        }
        Ok(())
    }
}

impl<V: Vendor> Vm<V> {
    fn delivery(&self) -> Delivery {
        Delivery {
            vcpus: self.vcpus.clone(),
            settings: self.settings.clone(),
        }
    }

    /// KVM_CREATE_IRQCHIP (KVM API document, 4.24).
    ///
    /// # Errors
    ///
    /// `EEXIST` when there are interrupt controllers, `EINVAL` when there are
    /// vCPUs, `ENOMEM`.
    pub fn create_irqchip(&self) -> Result {
        let _creation = self.creation.lock();
        if self.chip.interrupts().is_some() {
            return Err(EEXIST);
        }
        if self.vcpus.len() != 0 {
            return Err(EINVAL);
        }
        self.chip.install(self.delivery(), true, 0)
    }

    /// KVM_CAP_SPLIT_IRQCHIP (7.5): local APICs in the module; the first
    /// `pins` GSIs are those of userspace's I/O APIC.
    ///
    /// # Errors
    ///
    /// `EINVAL` for too many pins, `EEXIST` when there are interrupt
    /// controllers or vCPUs, `ENOMEM`.
    pub fn split_irqchip(&self, pins: u64) -> Result {
        let _creation = self.creation.lock();
        let pins = u32::try_from(pins).map_err(|_| EINVAL)?;
        if pins > MAX_ROUTES {
            return Err(EINVAL);
        }
        if self.chip.interrupts().is_some() || self.vcpus.len() != 0 {
            return Err(EEXIST);
        }
        self.chip.install(self.delivery(), false, pins)
    }
}
