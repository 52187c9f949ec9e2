// SPDX-License-Identifier: GPL-2.0

//! A virtual machine.
//!
//! Lock order, outermost first: a vCPU's mutex, `creation`, the memory slots'
//! mutex, the interrupt routing's mutex, SRCU, the process's `mmap_lock`, the
//! nested tables' lock, the interrupt controllers' spinlock.

pub mod apic;
pub mod bus;
pub mod chip;
pub mod clock;
pub mod code_page;
pub mod control;
pub mod debug;
pub mod delivery;
pub mod events;
pub mod exit;
pub mod guest_access;
pub mod hypercall;
pub mod init;
pub mod instruction;
pub mod irq;
pub mod memory;
pub mod mmio;
pub mod model;
pub mod msr;
pub mod msr_filter;
pub mod pending;
pub mod pit;
pub mod port_io;
pub mod pv_eoi;
pub mod request;
pub mod run;
pub mod run_page;
pub mod settings;
pub mod setup;
pub mod step;
pub mod table;
pub mod timer;
pub mod vapic;
pub mod vcpu;

use self::bus::Bus;
use self::chip::Chip;
use self::clock::VmClock;
use self::memory::GuestMemory;
use self::msr_filter::MsrFilter;
use self::settings::Settings;
use self::table::Flusher;
use self::table::VcpuTable;
use self::table::MAX_VCPUS;
use crate::hw::Vendor;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;

/// A virtual machine.
#[pin_data]
pub struct Vm<V: Vendor> {
    /// Slots and nested page tables.
    pub memory: GuestMemory<V::Nested, Flusher>,
    /// Its vCPUs.
    pub vcpus: Arc<VcpuTable>,
    /// Interrupt controllers and the PIT.
    pub chip: Chip,
    /// What answers port I/O and MMIO besides memory.
    pub bus: Bus,
    /// Its clock.
    pub clock: VmClock,
    /// What userspace has switched on.
    pub settings: Arc<Settings>,
    /// Which MSRs the guest may access.
    pub msr_filter: MsrFilter,
    /// Held while vCPUs or interrupt controllers are created, which depend on
    /// each other's order.
    #[pin]
    pub creation: Mutex<()>,
    boot_cpu: AtomicU32,
}

impl<V: Vendor> Vm<V> {
    /// The id of the vCPU that starts first.
    pub fn boot_cpu(&self) -> u32 {
        self.boot_cpu.load(Ordering::Relaxed)
    }

    /// KVM_SET_BOOT_CPU_ID.
    ///
    /// # Errors
    ///
    /// `EBUSY` when there are vCPUs, `EINVAL` for an id none can have.
    pub fn set_boot_cpu(&self, id: u64) -> Result<isize> {
        let _creation = self.creation.lock();
        if self.vcpus.len() != 0 {
            return Err(EBUSY);
        }
        let id = u32::try_from(id).map_err(|_| EINVAL)?;
        let limit = self.settings.vcpu_id_limit().unwrap_or(u64::MAX);
        if id as usize >= MAX_VCPUS || u64::from(id) > limit {
            return Err(EINVAL);
        }
        self.boot_cpu.store(id, Ordering::Relaxed);
        Ok(0)
    }

    /// Whether a vCPU with this id can be created now; gives its place. Under
    /// `creation`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an id that is too large or a VM that is full, `EEXIST`.
    pub fn check_new_vcpu(&self, id: u32) -> Result<usize> {
        let index = self.vcpus.len();
        let limit = self.settings.vcpu_id_limit().unwrap_or(u64::MAX);
        if id as usize >= MAX_VCPUS || index >= MAX_VCPUS || u64::from(id) >= limit {
            return Err(EINVAL);
        }
        if self.vcpus.by_id(id).is_some() {
            return Err(EEXIST);
        }
        Ok(index)
    }
}
