// SPDX-License-Identifier: GPL-2.0-or-later

//! A virtual machine as a whole: capabilities to enable, clock, devices,
//! statistics.

abi_struct! {
    /// `KVM_ENABLE_CAP` (API document 4.37).
    kvm_enable_cap: 104 {
        /// `KVM_CAP_*`.
        cap: u32,
        flags: u32,
        args: [u64; 4],
        pad: [u8; 64],
    }
}

/// `KVM_CAP_X86_DISABLE_EXITS` (7.13).
pub const KVM_X86_DISABLE_EXITS_MWAIT: u64 = 1 << 0;
pub const KVM_X86_DISABLE_EXITS_HLT: u64 = 1 << 1;
pub const KVM_X86_DISABLE_EXITS_PAUSE: u64 = 1 << 2;
pub const KVM_X86_DISABLE_EXITS_CSTATE: u64 = 1 << 3;
pub const KVM_X86_DISABLE_EXITS_APERFMPERF: u64 = 1 << 4;

/// `KVM_CAP_DISABLE_QUIRKS2` (7.30).
pub const KVM_X86_QUIRK_LINT0_REENABLED: u64 = 1 << 0;
pub const KVM_X86_QUIRK_CD_NW_CLEARED: u64 = 1 << 1;
pub const KVM_X86_QUIRK_LAPIC_MMIO_HOLE: u64 = 1 << 2;
pub const KVM_X86_QUIRK_OUT_7E_INC_RIP: u64 = 1 << 3;
pub const KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT: u64 = 1 << 4;
pub const KVM_X86_QUIRK_FIX_HYPERCALL_INSN: u64 = 1 << 5;
pub const KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS: u64 = 1 << 6;
pub const KVM_X86_QUIRK_SLOT_ZAP_ALL: u64 = 1 << 7;
pub const KVM_X86_QUIRK_STUFF_FEATURE_MSRS: u64 = 1 << 8;
pub const KVM_X86_QUIRK_IGNORE_GUEST_PAT: u64 = 1 << 9;
pub const KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM: u64 = 1 << 10;
pub const KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT: u64 = 1 << 11;

/// `KVM_CAP_X86_BUS_LOCK_EXIT` (7.21).
pub const KVM_BUS_LOCK_DETECTION_OFF: u64 = 1 << 0;
pub const KVM_BUS_LOCK_DETECTION_EXIT: u64 = 1 << 1;
/// `KVM_CAP_PMU_CAPABILITY`.
pub const KVM_PMU_CAP_DISABLE: u64 = 1 << 0;
/// `KVM_CAP_X86_NOTIFY_VMEXIT`.
pub const KVM_X86_NOTIFY_VMEXIT_ENABLED: u64 = 1 << 0;
pub const KVM_X86_NOTIFY_VMEXIT_USER: u64 = 1 << 1;

/// The only version of the API there ever was.
pub const KVM_API_VERSION: i32 = 12;

/// Argument of `KVM_CREATE_VM`.
pub const KVM_X86_DEFAULT_VM: u64 = 0;
pub const KVM_X86_SW_PROTECTED_VM: u64 = 1;

abi_struct! {
    /// `KVM_GET_CLOCK` and `KVM_SET_CLOCK` (4.29).
    kvm_clock_data: 48 {
        /// Nanoseconds of the guest's system time.
        clock: u64,
        /// `KVM_CLOCK_*`.
        flags: u32,
        pad0: u32,
        /// Nanoseconds since the epoch, with `KVM_CLOCK_REALTIME`.
        realtime: u64,
        /// With `KVM_CLOCK_HOST_TSC`.
        host_tsc: u64,
        pad: [u32; 4],
    }
}

pub const KVM_CLOCK_TSC_STABLE: u32 = 1 << 1;
pub const KVM_CLOCK_REALTIME: u32 = 1 << 2;
pub const KVM_CLOCK_HOST_TSC: u32 = 1 << 3;

abi_struct! {
    /// `KVM_CREATE_DEVICE` (4.79).
    kvm_create_device: 12 {
        /// In: `KVM_DEV_TYPE_*`; `type` in C.
        type_: u32,
        /// Out.
        fd: u32,
        /// In: `KVM_CREATE_DEVICE_*`.
        flags: u32,
    }
}

pub const KVM_CREATE_DEVICE_TEST: u32 = 1;
pub const KVM_DEV_TYPE_VFIO: u32 = 4;
pub const KVM_DEV_VFIO_FILE: u32 = 1;
pub const KVM_DEV_VFIO_FILE_ADD: u64 = 1;
pub const KVM_DEV_VFIO_FILE_DEL: u64 = 2;

abi_struct! {
    /// `KVM_SET_DEVICE_ATTR` (4.80).
    kvm_device_attr: 24 {
        flags: u32,
        group: u32,
        attr: u64,
        /// User pointer to the attribute.
        addr: u64,
    }
}

/// Attributes of `/dev/kvm` itself.
pub const KVM_X86_GRP_SYSTEM: u32 = 0;
pub const KVM_X86_XCOMP_GUEST_SUPP: u64 = 0;
/// Attributes of a vCPU.
pub const KVM_VCPU_TSC_CTRL: u32 = 0;
pub const KVM_VCPU_TSC_OFFSET: u64 = 0;

abi_struct! {
    /// Head of a statistics file (`KVM_GET_STATS_FD`, 4.133).
    kvm_stats_header: 24 {
        flags: u32,
        /// Bytes of each name, the 0 at its end included.
        name_size: u32,
        num_desc: u32,
        id_offset: u32,
        desc_offset: u32,
        data_offset: u32,
    }
}

abi_struct! {
    /// Describes a statistic; its name follows.
    kvm_stats_desc: 16 {
        /// `KVM_STATS_TYPE_*`, `KVM_STATS_UNIT_*` and `KVM_STATS_BASE_*`.
        flags: u32,
        exponent: i16,
        /// Values of 64 bits.
        size: u16,
        /// From the start of the data.
        offset: u32,
        bucket_size: u32,
        name: [u8; 0],
    }
}

/// Bytes of a name in this module's files.
pub const KVM_STATS_NAME_SIZE: usize = 48;

pub const KVM_STATS_TYPE_CUMULATIVE: u32 = 0;
pub const KVM_STATS_TYPE_INSTANT: u32 = 1;
pub const KVM_STATS_TYPE_PEAK: u32 = 2;
pub const KVM_STATS_TYPE_LINEAR_HIST: u32 = 3;
pub const KVM_STATS_TYPE_LOG_HIST: u32 = 4;
pub const KVM_STATS_UNIT_NONE: u32 = 0 << 4;
pub const KVM_STATS_UNIT_BYTES: u32 = 1 << 4;
pub const KVM_STATS_UNIT_SECONDS: u32 = 2 << 4;
pub const KVM_STATS_UNIT_CYCLES: u32 = 3 << 4;
pub const KVM_STATS_UNIT_BOOLEAN: u32 = 4 << 4;
pub const KVM_STATS_BASE_POW10: u32 = 0 << 8;
pub const KVM_STATS_BASE_POW2: u32 = 1 << 8;

abi_struct! {
    /// `KVM_HYPERV_EVENTFD`.
    kvm_hyperv_eventfd: 24 {
        conn_id: u32,
        fd: i32,
        flags: u32,
        padding: [u32; 3],
    }
}

abi_struct! {
    /// `KVM_XEN_HVM_CONFIG` (4.46).
    kvm_xen_hvm_config: 56 {
        flags: u32,
        msr: u32,
        blob_addr_32: u64,
        blob_addr_64: u64,
        blob_size_32: u8,
        blob_size_64: u8,
        pad2: [u8; 30],
    }
}
