// SPDX-License-Identifier: GPL-2.0

//! Coalesced writes: kept in a ring that userspace reads when it gets to it
//! (KVM API document, 4.116 and 8.13).

use super::Devices;
use crate::host::page::HostPage;
use crate::host::sync::new_irq_spinlock;
use crate::host::sync::IrqSpinLock;
use crate::hw::Vendor;
use crate::uapi::kvm_coalesced_mmio;
use crate::uapi::kvm_coalesced_mmio_ring;
use crate::uapi::kvm_coalesced_mmio_zone;
use crate::uapi::KVM_COALESCED_MMIO_MAX;
use crate::vm::Vm;
use core::mem::offset_of;
use core::mem::size_of;
use core::sync::atomic::fence;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// Most zones in one address space.
const MAX_ZONES: usize = 1000;

/// A range whose writes are coalesced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Zone {
    address: u64,
    size: u64,
}

impl Zone {
    const fn from_abi(zone: &kvm_coalesced_mmio_zone) -> Self {
        Self {
            address: zone.addr,
            size: zone.size as u64,
        }
    }

    /// Whether a write is within.
    #[inline]
    pub(super) fn has(&self, address: u64, data: &[u8]) -> bool {
        self.contains(&Self {
            address,
            size: data.len() as u64,
        })
    }

    #[inline]
    fn contains(&self, other: &Self) -> bool {
        match other.address.checked_sub(self.address) {
            Some(offset) => other.size <= self.size && offset <= self.size - other.size,
            None => false,
        }
    }
}

/// The ring. Userspace maps its page, so what is read from it may be anything.
pub(super) struct Ring {
    page: HostPage,
    writer: IrqSpinLock<()>,
}

impl Ring {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            page: HostPage::new()?,
            writer: new_irq_spinlock!(()),
        })
    }

    pub(super) fn page(&self) -> &HostPage {
        &self.page
    }

    /// Adds a write; false when there is no room.
    pub(super) fn push(&self, address: u64, is_port: bool, data: &[u8]) -> bool {
        let mut entry = kvm_coalesced_mmio {
            phys_addr: address,
            len: data.len() as u32,
            pio: is_port.into(),
            data: [0; 8],
        };
        if data.len() > entry.data.len() {
            return false;
        }
        for (to, from) in entry.data.iter_mut().zip(data) {
            *to = *from;
        }
        let _writer = self.writer.lock();
        self.append(entry).is_some()
    }

    fn append(&self, entry: kvm_coalesced_mmio) -> Option<()> {
        const FIRST: usize = offset_of!(kvm_coalesced_mmio_ring, first);
        const LAST: usize = offset_of!(kvm_coalesced_mmio_ring, last);
        const ENTRIES: usize = offset_of!(kvm_coalesced_mmio_ring, coalesced_mmio);
        let place: u32 = self.page.read(LAST)?;
        if place >= KVM_COALESCED_MMIO_MAX {
            return None;
        }
        let next = place.wrapping_add(1) % KVM_COALESCED_MMIO_MAX;
        // One entry stays free, so that a full ring is not an empty one.
        if next == self.page.read::<u32>(FIRST)? {
            return None;
        }
        let offset = size_of::<kvm_coalesced_mmio>().checked_mul(place as usize)?;
        self.page.write(ENTRIES.checked_add(offset)?, entry)?;
        // Who sees the new end sees the entry.
        fence(Ordering::Release);
        self.page.write(LAST, next)
    }
}

impl Devices {
    fn with_zones(&self, zones: KVVec<Zone>) -> Result<Self> {
        let mut events = KVVec::with_capacity(self.events.len(), GFP_KERNEL_ACCOUNT)?;
        events.extend_from_slice(&self.events, GFP_KERNEL_ACCOUNT)?;
        Ok(Self { events, zones })
    }

    fn with_zone(&self, new: Zone) -> Result<Self> {
        let room = self.zones.len().saturating_add(1);
        if room > MAX_ZONES {
            return Err(ENOSPC);
        }
        let mut zones = KVVec::with_capacity(room, GFP_KERNEL_ACCOUNT)?;
        zones.extend_from_slice(&self.zones, GFP_KERNEL_ACCOUNT)?;
        zones.push(new, GFP_KERNEL_ACCOUNT)?;
        self.with_zones(zones)
    }

    /// Without the zones that `gone` is within; `None` if there are none.
    fn without_zone(&self, gone: Zone) -> Result<Option<Self>> {
        if !self.zones.iter().any(|zone| zone.contains(&gone)) {
            return Ok(None);
        }
        let mut zones = KVVec::with_capacity(self.zones.len(), GFP_KERNEL_ACCOUNT)?;
        for zone in self.zones.iter().filter(|zone| !zone.contains(&gone)) {
            zones.push(*zone, GFP_KERNEL_ACCOUNT)?;
        }
        self.with_zones(zones).map(Some)
    }
}

/// Whether the zone is one of ports.
fn is_ports(zone: &kvm_coalesced_mmio_zone) -> Result<bool> {
    match zone.pio {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(EINVAL),
    }
}

impl<V: Vendor> Vm<V> {
    /// KVM_REGISTER_COALESCED_MMIO.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an unknown address space, `ENOSPC` for too many zones,
    /// `ENOMEM`.
    pub fn register_coalesced(&self, zone: &kvm_coalesced_mmio_zone) -> Result {
        let space = self.bus.space(is_ports(zone)?);
        let new = Zone::from_abi(zone);
        self.bus
            .change(space, |devices| devices.with_zone(new).map(Some))
    }

    /// KVM_UNREGISTER_COALESCED_MMIO: of all zones that the range is within.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an unknown address space, `ENOMEM`.
    pub fn unregister_coalesced(&self, zone: &kvm_coalesced_mmio_zone) -> Result {
        let space = self.bus.space(is_ports(zone)?);
        let gone = Zone::from_abi(zone);
        self.bus.change(space, |devices| devices.without_zone(gone))
    }
}
