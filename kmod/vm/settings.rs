// SPDX-License-Identifier: GPL-2.0

//! What userspace has switched on for a VM (KVM_ENABLE_CAP).

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// Switches of one VM. Written under ioctls, read by vCPUs.
#[derive(Default)]
pub struct Settings {
    bits: AtomicU64,
    user_msr: AtomicU64,
    vcpu_id_limit: AtomicU64,
}

const TRIPLE_FAULT_EVENT: u64 = 1 << 0;
const X2APIC_32BIT_IDS: u64 = 1 << 1;
const X2APIC_NO_BROADCAST: u64 = 1 << 2;
const REFUSED: u64 = 1 << 3;

impl Settings {
    fn has(&self, bit: u64) -> bool {
        self.bits.load(Ordering::Relaxed) & bit != 0
    }

    fn set(&self, bit: u64, on: bool) {
        if on {
            self.bits.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.bits.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// The processor has refused to enter a vCPU of the VM. True the first
    /// time: the kernel log is told once.
    pub fn first_refusal(&self) -> bool {
        self.bits.fetch_or(REFUSED, Ordering::Relaxed) & REFUSED == 0
    }

    /// KVM_CAP_X86_TRIPLE_FAULT_EVENT: a pending triple fault is part of
    /// KVM_GET_VCPU_EVENTS.
    pub fn triple_fault_event(&self) -> bool {
        self.has(TRIPLE_FAULT_EVENT)
    }

    /// Sets [`Settings::triple_fault_event`].
    pub fn set_triple_fault_event(&self, on: bool) {
        self.set(TRIPLE_FAULT_EVENT, on);
    }

    /// KVM_X2APIC_API_USE_32BIT_IDS.
    pub fn x2apic_32bit_ids(&self) -> bool {
        self.has(X2APIC_32BIT_IDS)
    }

    /// Sets [`Settings::x2apic_32bit_ids`].
    pub fn set_x2apic_32bit_ids(&self) {
        self.set(X2APIC_32BIT_IDS, true);
    }

    /// KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: 0xff is no broadcast in x2APIC
    /// mode.
    pub fn x2apic_no_broadcast(&self) -> bool {
        self.has(X2APIC_NO_BROADCAST)
    }

    /// Sets [`Settings::x2apic_no_broadcast`].
    pub fn set_x2apic_no_broadcast(&self) {
        self.set(X2APIC_NO_BROADCAST, true);
    }

    /// KVM_CAP_MAX_VCPU_ID: ids of vCPUs are to be below this, if userspace has
    /// said so.
    pub fn vcpu_id_limit(&self) -> Option<u64> {
        Some(self.vcpu_id_limit.load(Ordering::Relaxed)).filter(|limit| *limit != 0)
    }

    /// Sets [`Settings::vcpu_id_limit`]; 0 is none.
    pub fn set_vcpu_id_limit(&self, limit: u64) {
        self.vcpu_id_limit.store(limit, Ordering::Relaxed);
    }

    /// KVM_CAP_X86_USER_SPACE_MSR: `KVM_MSR_EXIT_REASON_*` bits.
    pub fn user_msr(&self) -> u32 {
        self.user_msr.load(Ordering::Relaxed) as u32
    }

    /// Sets [`Settings::user_msr`].
    pub fn set_user_msr(&self, reasons: u32) {
        self.user_msr.store(u64::from(reasons), Ordering::Relaxed);
    }
}
