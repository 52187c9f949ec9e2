// SPDX-License-Identifier: GPL-2.0

//! What answers port I/O and MMIO in the module: interrupt controllers and PIT
//! (in [`super::chip`]), eventfds, and the ring of coalesced writes.
//!
//! Context: accesses any but NMI, with interrupts off too; ioctls may sleep.
//!
//! Lock order: the mutex for changes, then SRCU, then the ring's spinlock,
//! which is innermost. Eventfds are signalled under SRCU alone.

mod coalesced;
mod dispatch;
mod ioeventfd;

use self::coalesced::Ring;
use self::coalesced::Zone;
use self::ioeventfd::IoEvent;
use crate::host::page::HostPage;
use crate::host::sync::Srcu;
use crate::host::sync::SrcuCell;
use core::pin::Pin;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;

/// What takes writes in one address space. Immutable once published.
#[derive(Default)]
struct Devices {
    /// By address.
    events: KVVec<IoEvent>,
    zones: KVVec<Zone>,
}

impl Devices {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.zones.is_empty()
    }
}

/// An address space: ports or guest physical addresses.
struct Space {
    is_ports: bool,
    devices: SrcuCell<Devices>,
    /// Whether there are any devices: most ports and many VMs have none.
    in_use: AtomicBool,
}

impl Space {
    fn new(srcu: &Arc<Srcu>, is_ports: bool) -> Result<Self> {
        let devices = KBox::new(Devices::default(), GFP_KERNEL_ACCOUNT)?;
        Ok(Self {
            is_ports,
            devices: SrcuCell::new(srcu.clone(), devices),
            in_use: AtomicBool::new(false),
        })
    }
}

/// What answers port I/O and MMIO of one VM, besides controllers and PIT.
pub struct Bus {
    srcu: Arc<Srcu>,
    ports: Space,
    mmio: Space,
    ring: Ring,
    /// Held while devices come and go.
    changes: Pin<KBox<Mutex<()>>>,
}

impl Bus {
    /// Nothing on it. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        let srcu = Arc::new(Srcu::new()?, GFP_KERNEL_ACCOUNT)?;
        Ok(Self {
            ports: Space::new(&srcu, true)?,
            mmio: Space::new(&srcu, false)?,
            srcu,
            ring: Ring::new()?,
            changes: KBox::pin_init(new_mutex!((), "kvm bus"), GFP_KERNEL_ACCOUNT)?,
        })
    }

    /// The page of the ring of coalesced writes, which every vCPU maps.
    pub fn coalesced_page(&self) -> &HostPage {
        self.ring.page()
    }

    /// The VM's file is closed. Nothing here calls back.
    pub fn shut_down(&self) {}

    fn space(&self, is_ports: bool) -> &Space {
        if is_ports {
            &self.ports
        } else {
            &self.mmio
        }
    }

    /// A write to an address; false when nothing takes it.
    #[inline]
    fn write(&self, space: &Space, address: u64, data: &[u8]) -> bool {
        space.in_use.load(Ordering::Relaxed) && self.write_device(space, address, data)
    }

    fn write_device(&self, space: &Space, address: u64, data: &[u8]) -> bool {
        let reading = self.srcu.read();
        let devices = space.devices.load(&reading);
        if let Some(event) = ioeventfd::find(&devices.events, address, data) {
            return event.signal();
        }
        let coalesced = devices.zones.iter().any(|zone| zone.has(address, data));
        coalesced && self.ring.push(address, space.is_ports, data)
    }

    /// Replaces the devices of a space by what `change` makes of them. May
    /// sleep.
    fn change(
        &self,
        space: &Space,
        change: impl FnOnce(&Devices) -> Result<Option<Devices>>,
    ) -> Result {
        let _changes = self.changes.lock();
        let Some(next) = change(space.devices.load(&self.srcu.read()))? else {
            return Ok(());
        };
        let in_use = !next.is_empty();
        let next = KBox::new(next, GFP_KERNEL_ACCOUNT)?;
        drop(space.devices.replace(next)?);
        space.in_use.store(in_use, Ordering::Relaxed);
        Ok(())
    }
}
