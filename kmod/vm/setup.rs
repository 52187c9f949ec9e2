// SPDX-License-Identifier: GPL-2.0

//! Making a VM, and what userspace sets up before it runs.

use super::bus::Bus;
use super::chip::Chip;
use super::clock::VmClock;
use super::memory::GuestMemory;
use super::model;
use super::msr_filter::MsrFilter;
use super::request::Request;
use super::settings::Settings;
use super::table::Flusher;
use super::table::VcpuTable;
use super::table::MAX_VCPUS;
use super::Vm;
use crate::hw::Vendor;
use crate::pc::addr::PAGE_SIZE;
use crate::uapi;
use crate::uapi::kvm_clear_dirty_log;
use crate::uapi::kvm_dirty_log;
use crate::uapi::kvm_enable_cap;
use crate::uapi::kvm_userspace_memory_region;
use crate::uapi::kvm_userspace_memory_region2;
use core::sync::atomic::AtomicU32;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Pages of the task state segment that KVM_SET_TSS_ADDR places.
const TSS_PAGES: u64 = 3;

/// Least number of pages KVM_SET_NR_MMU_PAGES takes.
const MIN_MMU_PAGES: u64 = 64;

impl<V: Vendor> Vm<V> {
    /// A VM of the calling process, with nothing in it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`.
    pub fn new() -> Result<Arc<Self>> {
        let vcpus = Arc::new(VcpuTable::new()?, GFP_KERNEL_ACCOUNT)?;
        let memory = GuestMemory::new(V::nested_config(), Flusher(vcpus.clone()))?;
        let chip = Chip::new()?;
        let bus = Bus::new()?;
        let clock = VmClock::new()?;
        let settings = Arc::new(Settings::default(), GFP_KERNEL_ACCOUNT)?;
        let msr_filter = MsrFilter::new()?;
        Arc::pin_init(
            pin_init!(Self {
                memory,
                vcpus,
                chip,
                bus,
                clock,
                settings,
                msr_filter,
                creation <- new_mutex!((), "kvm creation"),
                boot_cpu: AtomicU32::new(0),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The VM's file is closed: nothing from outside reaches it any more. Its
    /// vCPUs may have files of their own still.
    pub fn shut_down(&self) {
        self.chip.shut_down();
        self.bus.shut_down();
    }

    /// KVM_SET_USER_MEMORY_REGION.
    pub fn set_memory_region(&self, region: &kvm_userspace_memory_region) -> Result {
        self.memory.set_region(region)
    }

    /// KVM_SET_USER_MEMORY_REGION2.
    pub fn set_memory_region2(&self, region: &kvm_userspace_memory_region2) -> Result {
        self.memory.set_region2(region)
    }

    /// KVM_GET_DIRTY_LOG.
    pub fn get_dirty_log(&self, log: &kvm_dirty_log) -> Result {
        self.memory.get_dirty_log(log)
    }

    /// KVM_CLEAR_DIRTY_LOG.
    pub fn clear_dirty_log(&self, log: &kvm_clear_dirty_log) -> Result {
        self.memory.clear_dirty_log(log)
    }

    /// KVM_SET_TSS_ADDR: memory that a processor without unrestricted guests
    /// needs for real mode. Both vendors run real mode natively here.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an address too high.
    pub fn set_tss_address(&self, address: u64) -> Result<isize> {
        if address > u64::from(u32::MAX) - TSS_PAGES * PAGE_SIZE {
            return Err(EINVAL);
        }
        Ok(0)
    }

    /// KVM_SET_IDENTITY_MAP_ADDR: as for [`Vm::set_tss_address`].
    ///
    /// # Errors
    ///
    /// `EINVAL` when there are vCPUs already.
    pub fn set_identity_map_address(&self, _address: u64) -> Result {
        let _creation = self.creation.lock();
        if self.vcpus.len() != 0 {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// KVM_SET_NR_MMU_PAGES: the size of a cache of shadow pages, of which
    /// nested paging has none.
    ///
    /// # Errors
    ///
    /// `EINVAL` for fewer than 64.
    pub fn set_mmu_pages(&self, count: u64) -> Result<isize> {
        if count < MIN_MMU_PAGES {
            return Err(EINVAL);
        }
        Ok(0)
    }

    /// KVM_ENABLE_CAP of a VM.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a capability that cannot be enabled, or arguments it does
    /// not take; what [`Chip::split`] gives.
    pub fn enable_capability(&self, cap: &kvm_enable_cap) -> Result {
        if cap.flags != 0 {
            return Err(EINVAL);
        }
        let [argument, ..] = cap.args;
        match cap.cap {
            uapi::KVM_CAP_SPLIT_IRQCHIP => self.split_irqchip(argument),
            uapi::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => self.memory.set_dirty_log_mode(argument),
            uapi::KVM_CAP_MAX_VCPU_ID => self.set_vcpu_id_limit(argument),
            uapi::KVM_CAP_X2APIC_API => self.set_x2apic_api(argument),
            uapi::KVM_CAP_X86_USER_SPACE_MSR => self.set_user_msr(argument),
            uapi::KVM_CAP_X86_TRIPLE_FAULT_EVENT => {
                self.settings.set_triple_fault_event(argument != 0);
                Ok(())
            }
            _ => Err(EINVAL),
        }
    }

    /// Once only, and not below the boot vCPU's id.
    fn set_vcpu_id_limit(&self, limit: u64) -> Result {
        let _creation = self.creation.lock();
        let before = self.settings.vcpu_id_limit();
        if limit > MAX_VCPUS as u64
            || limit < u64::from(self.boot_cpu())
            || before.is_some_and(|before| before != limit)
        {
            return Err(EINVAL);
        }
        self.settings.set_vcpu_id_limit(limit);
        Ok(())
    }

    fn set_user_msr(&self, reasons: u64) -> Result {
        let reasons = u32::try_from(reasons).map_err(|_| EINVAL)?;
        if reasons & !uapi::KVM_MSR_EXIT_REASON_VALID_MASK != 0 {
            return Err(EINVAL);
        }
        self.settings.set_user_msr(reasons);
        self.vcpus.request_all(Request::MSR_EXITS);
        Ok(())
    }

    fn set_x2apic_api(&self, flags: u64) -> Result {
        if flags & !model::X2APIC_API_FLAGS != 0 {
            return Err(EINVAL);
        }
        if flags & uapi::KVM_X2APIC_API_USE_32BIT_IDS != 0 {
            self.settings.set_x2apic_32bit_ids();
        }
        if flags & uapi::KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK != 0 {
            self.settings.set_x2apic_no_broadcast();
        }
        Ok(())
    }
}
