// SPDX-License-Identifier: GPL-2.0-or-later

//! What KVM and its guests say to each other: `asm/kvm_para.h`,
//! `asm/pvclock-abi.h`, and the documents under
//! `Documentation/virt/kvm/x86/` (cpuid, msr, hypercalls).

/// Leaf with the signature in EBX, ECX and EDX.
pub const KVM_CPUID_SIGNATURE: u32 = 0x4000_0000;
pub const KVM_SIGNATURE: [u8; 12] = *b"KVMKVMKVM\0\0\0";
/// Leaf with `KVM_FEATURE_*` in EAX and `KVM_HINTS_*` in EDX.
pub const KVM_CPUID_FEATURES: u32 = 0x4000_0001;

// Bit numbers.
pub const KVM_FEATURE_CLOCKSOURCE: u32 = 0;
pub const KVM_FEATURE_NOP_IO_DELAY: u32 = 1;
pub const KVM_FEATURE_MMU_OP: u32 = 2;
pub const KVM_FEATURE_CLOCKSOURCE2: u32 = 3;
pub const KVM_FEATURE_ASYNC_PF: u32 = 4;
pub const KVM_FEATURE_STEAL_TIME: u32 = 5;
pub const KVM_FEATURE_PV_EOI: u32 = 6;
pub const KVM_FEATURE_PV_UNHALT: u32 = 7;
pub const KVM_FEATURE_PV_TLB_FLUSH: u32 = 9;
pub const KVM_FEATURE_ASYNC_PF_VMEXIT: u32 = 10;
pub const KVM_FEATURE_PV_SEND_IPI: u32 = 11;
pub const KVM_FEATURE_POLL_CONTROL: u32 = 12;
pub const KVM_FEATURE_PV_SCHED_YIELD: u32 = 13;
pub const KVM_FEATURE_ASYNC_PF_INT: u32 = 14;
pub const KVM_FEATURE_MSI_EXT_DEST_ID: u32 = 15;
pub const KVM_FEATURE_HC_MAP_GPA_RANGE: u32 = 16;
pub const KVM_FEATURE_MIGRATION_CONTROL: u32 = 17;
pub const KVM_FEATURE_CLOCKSOURCE_STABLE_BIT: u32 = 24;
/// A hint, in EDX.
pub const KVM_HINTS_REALTIME: u32 = 0;

pub const MSR_KVM_WALL_CLOCK: u32 = 0x11;
pub const MSR_KVM_SYSTEM_TIME: u32 = 0x12;
pub const MSR_KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
pub const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
pub const MSR_KVM_ASYNC_PF_EN: u32 = 0x4b56_4d02;
pub const MSR_KVM_STEAL_TIME: u32 = 0x4b56_4d03;
pub const MSR_KVM_PV_EOI_EN: u32 = 0x4b56_4d04;
pub const MSR_KVM_POLL_CONTROL: u32 = 0x4b56_4d05;
pub const MSR_KVM_ASYNC_PF_INT: u32 = 0x4b56_4d06;
pub const MSR_KVM_ASYNC_PF_ACK: u32 = 0x4b56_4d07;
pub const MSR_KVM_MIGRATION_CONTROL: u32 = 0x4b56_4d08;
/// Enable bit of the MSRs that name a guest address.
pub const KVM_MSR_ENABLED: u64 = 1;

abi_struct! {
    /// A vCPU's steal time record, aligned to 64 bytes in guest memory.
    kvm_steal_time: 64 {
        /// Nanoseconds.
        steal: u64,
        /// Odd while the record is written.
        version: u32,
        flags: u32,
        /// `KVM_VCPU_PREEMPTED` and `KVM_VCPU_FLUSH_TLB`.
        preempted: u8,
        u8_pad: [u8; 3],
        pad: [u32; 11],
    }
}

pub const KVM_VCPU_PREEMPTED: u8 = 1 << 0;
pub const KVM_VCPU_FLUSH_TLB: u8 = 1 << 1;
pub const KVM_STEAL_ALIGNMENT_BITS: u32 = 5;
/// Address bits of `MSR_KVM_STEAL_TIME`.
pub const KVM_STEAL_VALID_BITS: u64 = !0 << (KVM_STEAL_ALIGNMENT_BITS + 1);
/// Bits of `MSR_KVM_STEAL_TIME` that must be 0.
pub const KVM_STEAL_RESERVED_MASK: u64 = ((1 << KVM_STEAL_ALIGNMENT_BITS) - 1) << 1;

abi_struct! {
    /// Result of `KVM_HC_CLOCK_PAIRING`.
    kvm_clock_pairing: 64 {
        sec: i64,
        nsec: i64,
        /// The guest's TSC at that time.
        tsc: u64,
        flags: u32,
        pad: [u32; 9],
    }
}

pub const KVM_CLOCK_PAIRING_WALLCLOCK: u64 = 0;

abi_struct! {
    /// A vCPU's clock: how to make time of the TSC.
    pvclock_vcpu_time_info: 32 {
        /// Odd while the record is written.
        version: u32,
        pad0: u32,
        /// The guest's TSC at `system_time`.
        tsc_timestamp: u64,
        /// Nanoseconds.
        system_time: u64,
        /// Nanoseconds per (shifted) TSC tick, times 2^32.
        tsc_to_system_mul: u32,
        /// Left shift of the TSC delta; negative shifts right.
        tsc_shift: i8,
        /// `PVCLOCK_*`.
        flags: u8,
        pad: [u8; 2],
    }
}

abi_struct! {
    /// The wall clock at system time 0.
    pvclock_wall_clock: 12 {
        /// Odd while the record is written.
        version: u32,
        sec: u32,
        nsec: u32,
    }
}

pub const PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
pub const PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;

pub const KVM_PV_EOI_ENABLED: u8 = 1;
pub const KVM_PV_EOI_DISABLED: u8 = 0;

pub const KVM_ASYNC_PF_ENABLED: u64 = 1 << 0;
pub const KVM_ASYNC_PF_SEND_ALWAYS: u64 = 1 << 1;
pub const KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT: u64 = 1 << 2;
pub const KVM_ASYNC_PF_DELIVERY_AS_INT: u64 = 1 << 3;
pub const KVM_MIGRATION_READY: u64 = 1 << 0;

pub const KVM_HC_VAPIC_POLL_IRQ: u64 = 1;
pub const KVM_HC_MMU_OP: u64 = 2;
pub const KVM_HC_FEATURES: u64 = 3;
pub const KVM_HC_KICK_CPU: u64 = 5;
pub const KVM_HC_CLOCK_PAIRING: u64 = 9;
pub const KVM_HC_SEND_IPI: u64 = 10;
pub const KVM_HC_SCHED_YIELD: u64 = 11;
pub const KVM_HC_MAP_GPA_RANGE: u64 = 12;

// What a hypercall returns, negated.
pub const KVM_ENOSYS: i64 = 1000;
pub const KVM_EFAULT: i64 = 14;
pub const KVM_EINVAL: i64 = 22;
pub const KVM_E2BIG: i64 = 7;
pub const KVM_EPERM: i64 = 1;
pub const KVM_EOPNOTSUPP: i64 = 95;
