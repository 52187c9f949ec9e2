// SPDX-License-Identifier: GPL-2.0

//! The GSI routing table of a VM.
//!
//! A table is immutable once published. It is read under SRCU in any context,
//! and replaced as a whole under the mutex for changes.

use super::Interrupts;
use super::Pins;
use super::MAX_ROUTES;
use crate::host::user::UserPtr;
use crate::hw::Vendor;
use crate::pc::ioapic::PINS as IOAPIC_PINS;
use crate::pc::irq::routes;
use crate::pc::irq::routes::InvalidRoute;
use crate::pc::irq::routes::Route;
use crate::pc::irq::routes::RouteRules;
use crate::pc::irq::routes::Routes;
use crate::pc::irq::routes::Target;
use crate::pc::irq::routes::DEFAULT_ROUTES;
use crate::pc::pic::IRQS as PIC_IRQS;
use crate::uapi;
use crate::uapi::kvm_irq_routing;
use crate::uapi::kvm_irq_routing_entry;
use crate::vm::Vm;
use core::mem::size_of;
use kernel::prelude::*;

/// Stands for no GSI: GSIs are below [`MAX_ROUTES`].
const NO_GSI: u16 = u16::MAX;
const _: () = assert!(MAX_ROUTES < NO_GSI as u32);

/// A routing table.
///
/// # Invariants
///
/// `routes` went through [`routes::prepare`].
pub(super) struct Table {
    routes: KVVec<Route>,
    /// The GSI that leads to each pin.
    ioapic: [u16; IOAPIC_PINS],
    pic: [u16; PIC_IRQS],
}

impl Table {
    /// No GSI leads anywhere.
    pub(super) fn empty() -> Self {
        // INVARIANT: There is nothing to sort.
        Self {
            routes: KVVec::new(),
            ioapic: [NO_GSI; IOAPIC_PINS],
            pic: [NO_GSI; PIC_IRQS],
        }
    }

    /// The table that PICs and I/O APIC come with.
    pub(super) fn default_routes() -> Result<Self> {
        let mut table = KVVec::with_capacity(DEFAULT_ROUTES, GFP_KERNEL_ACCOUNT)?;
        for route in (0..DEFAULT_ROUTES).filter_map(routes::default_route) {
            table.push(route, GFP_KERNEL_ACCOUNT)?;
        }
        Self::new(table)
    }

    fn new(mut routes: KVVec<Route>) -> Result<Self> {
        routes::prepare(&mut routes).map_err(|InvalidRoute| EINVAL)?;
        // INVARIANT: Just prepared.
        let mut table = Self {
            routes,
            ..Self::empty()
        };
        // Backwards, so that of several GSIs the first counts.
        for route in table.routes.iter().rev() {
            let place = match route.target {
                Target::IoApic { pin } => table.ioapic.get_mut(usize::from(pin)),
                Target::Pic { irq } => table.pic.get_mut(usize::from(irq)),
                Target::Msi { .. } => None,
            };
            if let Some(place) = place {
                *place = route.gsi as u16;
            }
        }
        Ok(table)
    }

    fn from_abi(entries: &[kvm_irq_routing_entry], rules: RouteRules) -> Result<Self> {
        let mut routes = KVVec::with_capacity(entries.len(), GFP_KERNEL_ACCOUNT)?;
        for entry in entries {
            let mut entry = *entry;
            // Nothing here looks at who sent a message.
            if entry.type_ == uapi::KVM_IRQ_ROUTING_MSI {
                entry.flags &= !uapi::KVM_MSI_VALID_DEVID;
            }
            let route = Route::from_abi(&entry, rules).map_err(|InvalidRoute| EINVAL)?;
            routes.push(route, GFP_KERNEL_ACCOUNT)?;
        }
        Self::new(routes)
    }

    /// For lookups.
    #[inline]
    pub(super) fn routes(&self) -> Routes<'_> {
        Routes::from_prepared(&self.routes)
    }

    /// The pins that `gsi` leads to.
    pub(super) fn pins_of(&self, gsi: u32) -> Pins {
        let mut pins = Pins::default();
        for route in self.routes().lookup(gsi) {
            pins.insert(&route.target);
        }
        pins
    }

    /// The GSIs that lead to the pins, one for each.
    pub(super) fn gsis_of(&self, pins: Pins) -> impl Iterator<Item = u32> + '_ {
        let ioapic = self.ioapic.iter().enumerate();
        let ioapic = ioapic.filter(move |(pin, _)| pins.has_ioapic(*pin));
        let pic = self.pic.iter().enumerate();
        let pic = pic.filter(move |(irq, _)| pins.has_pic(*irq));
        Iterator::chain(ioapic, pic)
            .map(|(_, gsi)| *gsi)
            .filter(|gsi| *gsi != NO_GSI)
            .map(u32::from)
    }
}

impl Interrupts {
    /// Replaces the routing table. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a route that cannot be, `ENOMEM`. The old table stays then.
    fn set_routes(&self, entries: &[kvm_irq_routing_entry]) -> Result {
        let rules = RouteRules {
            full_irqchip: self.controllers.is_some(),
            format: self.delivery.format(),
        };
        let table = KBox::new(Table::from_abi(entries, rules)?, GFP_KERNEL_ACCOUNT)?;
        let _changes = self.changes.lock();
        drop(self.routing.replace(table)?);
        self.update_watched();
        Ok(())
    }
}

impl<V: Vendor> Vm<V> {
    /// KVM_SET_GSI_ROUTING (KVM API document, 4.52).
    ///
    /// # Errors
    ///
    /// `EINVAL` without interrupt controllers, for flags, too many routes, or
    /// one that cannot be; `EFAULT`, `ENOMEM`.
    pub fn set_gsi_routing(&self, arg: UserPtr) -> Result<isize> {
        let header: kvm_irq_routing = arg.read()?;
        let interrupts = self.chip.interrupts().ok_or(EINVAL)?;
        if header.nr > MAX_ROUTES || header.flags != 0 {
            return Err(EINVAL);
        }
        let entries = arg
            .offset(size_of::<kvm_irq_routing>())?
            .read_array(header.nr as usize, MAX_ROUTES as usize)?;
        interrupts.set_routes(&entries)?;
        self.chip.sweep_irqfds();
        Ok(0)
    }
}
