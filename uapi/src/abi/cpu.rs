// SPDX-License-Identifier: GPL-2.0-or-later

//! State of a vCPU.

abi_struct! {
    /// General registers (`KVM_GET_REGS`, API document 4.11).
    kvm_regs: 144 {
        rax: u64,
        rbx: u64,
        rcx: u64,
        rdx: u64,
        rsi: u64,
        rdi: u64,
        rsp: u64,
        rbp: u64,
        r8: u64,
        r9: u64,
        r10: u64,
        r11: u64,
        r12: u64,
        r13: u64,
        r14: u64,
        r15: u64,
        rip: u64,
        rflags: u64,
    }
}

abi_struct! {
    /// A segment register with its hidden part.
    kvm_segment: 24 {
        base: u64,
        /// In bytes, whatever `g`.
        limit: u32,
        selector: u16,
        type_: u8,
        present: u8,
        dpl: u8,
        db: u8,
        s: u8,
        l: u8,
        g: u8,
        avl: u8,
        unusable: u8,
        padding: u8,
    }
}

abi_struct! {
    /// GDTR or IDTR.
    kvm_dtable: 16 {
        base: u64,
        limit: u16,
        padding: [u16; 3],
    }
}

abi_struct! {
    /// Special registers (`KVM_GET_SREGS`, 4.13).
    kvm_sregs: 312 {
        cs: kvm_segment,
        ds: kvm_segment,
        es: kvm_segment,
        fs: kvm_segment,
        gs: kvm_segment,
        ss: kvm_segment,
        tr: kvm_segment,
        ldt: kvm_segment,
        gdt: kvm_dtable,
        idt: kvm_dtable,
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        cr8: u64,
        efer: u64,
        apic_base: u64,
        /// At most one bit: an external interrupt acknowledged but not yet
        /// injected.
        interrupt_bitmap: [u64; 4],
    }
}

abi_struct! {
    /// Special registers with PDPTRs (`KVM_GET_SREGS2`, 4.131).
    kvm_sregs2: 320 {
        cs: kvm_segment,
        ds: kvm_segment,
        es: kvm_segment,
        fs: kvm_segment,
        gs: kvm_segment,
        ss: kvm_segment,
        tr: kvm_segment,
        ldt: kvm_segment,
        gdt: kvm_dtable,
        idt: kvm_dtable,
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        cr8: u64,
        efer: u64,
        apic_base: u64,
        /// `KVM_SREGS2_FLAGS_*`.
        flags: u64,
        pdptrs: [u64; 4],
    }
}

pub const KVM_SREGS2_FLAGS_PDPTRS_VALID: u64 = 1;
/// Vectors, and bits of `kvm_sregs::interrupt_bitmap`.
pub const KVM_NR_INTERRUPTS: usize = 256;

abi_struct! {
    /// x87 and SSE state (`KVM_GET_FPU`, 4.17).
    kvm_fpu: 416 {
        fpr: [[u8; 16]; 8],
        fcw: u16,
        fsw: u16,
        /// Abridged, as FXSAVE has it.
        ftwx: u8,
        pad1: u8,
        last_opcode: u16,
        last_ip: u64,
        last_dp: u64,
        xmm: [[u8; 16]; 16],
        mxcsr: u32,
        pad2: u32,
    }
}

abi_struct! {
    /// An XSAVE area in standard format (`KVM_GET_XSAVE`, 4.42).
    kvm_xsave: 4096 {
        region: [u32; 1024],
        /// What `KVM_CAP_XSAVE2` says beyond 4096 bytes.
        extra: [u32; 0],
    }
}

abi_struct! {
    /// An extended control register.
    kvm_xcr: 16 {
        xcr: u32,
        reserved: u32,
        value: u64,
    }
}

pub const KVM_MAX_XCRS: usize = 16;

abi_struct! {
    /// `KVM_GET_XCRS` (4.44).
    kvm_xcrs: 392 {
        nr_xcrs: u32,
        flags: u32,
        xcrs: [kvm_xcr; KVM_MAX_XCRS],
        padding: [u64; 16],
    }
}

abi_struct! {
    /// `KVM_GET_DEBUGREGS` (4.33).
    kvm_debugregs: 128 {
        db: [u64; 4],
        dr6: u64,
        dr7: u64,
        flags: u64,
        reserved: [u64; 9],
    }
}

abi_struct! {
    /// The exception of [`kvm_vcpu_events`].
    kvm_vcpu_events_exception: 8 {
        injected: u8,
        nr: u8,
        has_error_code: u8,
        pending: u8,
        error_code: u32,
    }
}

abi_struct! {
    /// The interrupt of [`kvm_vcpu_events`].
    kvm_vcpu_events_interrupt: 4 {
        injected: u8,
        nr: u8,
        soft: u8,
        /// `KVM_X86_SHADOW_INT_*`.
        shadow: u8,
    }
}

abi_struct! {
    /// The NMI of [`kvm_vcpu_events`].
    kvm_vcpu_events_nmi: 4 {
        injected: u8,
        pending: u8,
        masked: u8,
        pad: u8,
    }
}

abi_struct! {
    /// The SMI of [`kvm_vcpu_events`].
    kvm_vcpu_events_smi: 4 {
        smm: u8,
        pending: u8,
        smm_inside_nmi: u8,
        latched_init: u8,
    }
}

abi_struct! {
    /// The triple fault of [`kvm_vcpu_events`].
    kvm_vcpu_events_triple_fault: 1 {
        pending: u8,
    }
}

abi_struct! {
    /// `KVM_GET_VCPU_EVENTS` (4.31).
    kvm_vcpu_events: 64 {
        exception: kvm_vcpu_events_exception,
        interrupt: kvm_vcpu_events_interrupt,
        nmi: kvm_vcpu_events_nmi,
        sipi_vector: u32,
        /// `KVM_VCPUEVENT_VALID_*`.
        flags: u32,
        smi: kvm_vcpu_events_smi,
        triple_fault: kvm_vcpu_events_triple_fault,
        reserved: [u8; 26],
        exception_has_payload: u8,
        exception_payload: u64,
    }
}

pub const KVM_VCPUEVENT_VALID_NMI_PENDING: u32 = 0x01;
pub const KVM_VCPUEVENT_VALID_SIPI_VECTOR: u32 = 0x02;
pub const KVM_VCPUEVENT_VALID_SHADOW: u32 = 0x04;
pub const KVM_VCPUEVENT_VALID_SMM: u32 = 0x08;
pub const KVM_VCPUEVENT_VALID_PAYLOAD: u32 = 0x10;
pub const KVM_VCPUEVENT_VALID_TRIPLE_FAULT: u32 = 0x20;

pub const KVM_X86_SHADOW_INT_MOV_SS: u8 = 0x01;
pub const KVM_X86_SHADOW_INT_STI: u8 = 0x02;

abi_struct! {
    /// `KVM_GET_MP_STATE` (4.38).
    kvm_mp_state: 4 {
        /// `KVM_MP_STATE_*`.
        mp_state: u32,
    }
}

pub const KVM_MP_STATE_RUNNABLE: u32 = 0;
pub const KVM_MP_STATE_UNINITIALIZED: u32 = 1;
pub const KVM_MP_STATE_INIT_RECEIVED: u32 = 2;
pub const KVM_MP_STATE_HALTED: u32 = 3;
pub const KVM_MP_STATE_SIPI_RECEIVED: u32 = 4;
pub const KVM_MP_STATE_STOPPED: u32 = 5;
pub const KVM_MP_STATE_CHECK_STOP: u32 = 6;
pub const KVM_MP_STATE_OPERATING: u32 = 7;
pub const KVM_MP_STATE_LOAD: u32 = 8;
pub const KVM_MP_STATE_AP_RESET_HOLD: u32 = 9;
pub const KVM_MP_STATE_SUSPENDED: u32 = 10;

abi_struct! {
    /// An MSR and its value.
    kvm_msr_entry: 16 {
        index: u32,
        reserved: u32,
        data: u64,
    }
}

abi_struct! {
    /// Header of `KVM_GET_MSRS` and `KVM_SET_MSRS` (4.18).
    kvm_msrs: 8 {
        nmsrs: u32,
        pad: u32,
        entries: [kvm_msr_entry; 0],
    }
}

abi_struct! {
    /// Header of `KVM_GET_MSR_INDEX_LIST` (4.3).
    kvm_msr_list: 4 {
        nmsrs: u32,
        indices: [u32; 0],
    }
}

abi_struct! {
    /// A range of `KVM_X86_SET_MSR_FILTER` (4.97).
    kvm_msr_filter_range: 24 {
        /// `KVM_MSR_FILTER_READ` and `KVM_MSR_FILTER_WRITE`.
        flags: u32,
        /// MSRs in the bitmap.
        nmsrs: u32,
        /// The bitmap's first MSR.
        base: u32,
        /// Padding in C.
        pad: u32,
        /// User pointer to one bit per MSR; 1 allows.
        bitmap: u64,
    }
}

pub const KVM_MSR_FILTER_MAX_RANGES: usize = 16;
/// Greatest length of one range's bitmap in bytes.
pub const KVM_MSR_FILTER_MAX_BITMAP_SIZE: usize = 0x600;
pub const KVM_MSR_FILTER_READ: u32 = 1 << 0;
pub const KVM_MSR_FILTER_WRITE: u32 = 1 << 1;
pub const KVM_MSR_FILTER_RANGE_VALID_MASK: u32 = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;

abi_struct! {
    /// `KVM_X86_SET_MSR_FILTER` (4.97).
    kvm_msr_filter: 392 {
        /// `KVM_MSR_FILTER_DEFAULT_*`.
        flags: u32,
        /// Padding in C.
        pad: u32,
        ranges: [kvm_msr_filter_range; KVM_MSR_FILTER_MAX_RANGES],
    }
}

pub const KVM_MSR_FILTER_DEFAULT_ALLOW: u32 = 0;
pub const KVM_MSR_FILTER_DEFAULT_DENY: u32 = 1 << 0;
pub const KVM_MSR_FILTER_VALID_MASK: u32 = KVM_MSR_FILTER_DEFAULT_DENY;

abi_struct! {
    /// An entry of the old `KVM_SET_CPUID`.
    kvm_cpuid_entry: 24 {
        function: u32,
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
        padding: u32,
    }
}

abi_struct! {
    /// Header of the old `KVM_SET_CPUID` (4.20).
    kvm_cpuid: 8 {
        nent: u32,
        padding: u32,
        entries: [kvm_cpuid_entry; 0],
    }
}

abi_struct! {
    /// An answer of CPUID.
    kvm_cpuid_entry2: 40 {
        function: u32,
        index: u32,
        /// `KVM_CPUID_FLAG_*`.
        flags: u32,
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
        padding: [u32; 3],
    }
}

/// `index` counts. (The spelling is the ABI's.)
pub const KVM_CPUID_FLAG_SIGNIFCANT_INDEX: u32 = 1 << 0;
/// Deprecated, ignored.
pub const KVM_CPUID_FLAG_STATEFUL_FUNC: u32 = 1 << 1;
/// Deprecated, ignored.
pub const KVM_CPUID_FLAG_STATE_READ_NEXT: u32 = 1 << 2;

abi_struct! {
    /// Header of `KVM_SET_CPUID2` and `KVM_GET_SUPPORTED_CPUID` (4.46).
    kvm_cpuid2: 8 {
        nent: u32,
        padding: u32,
        entries: [kvm_cpuid_entry2; 0],
    }
}

abi_struct! {
    /// Debug registers for the debugger.
    kvm_guest_debug_arch: 64 {
        debugreg: [u64; 8],
    }
}

abi_struct! {
    /// `KVM_SET_GUEST_DEBUG` (4.87).
    kvm_guest_debug: 72 {
        /// `KVM_GUESTDBG_*`.
        control: u32,
        pad: u32,
        arch: kvm_guest_debug_arch,
    }
}

pub const KVM_GUESTDBG_ENABLE: u32 = 0x0000_0001;
pub const KVM_GUESTDBG_SINGLESTEP: u32 = 0x0000_0002;
pub const KVM_GUESTDBG_USE_SW_BP: u32 = 0x0001_0000;
pub const KVM_GUESTDBG_USE_HW_BP: u32 = 0x0002_0000;
pub const KVM_GUESTDBG_INJECT_DB: u32 = 0x0004_0000;
pub const KVM_GUESTDBG_INJECT_BP: u32 = 0x0008_0000;
pub const KVM_GUESTDBG_BLOCKIRQ: u32 = 0x0010_0000;

abi_struct! {
    /// Header of `KVM_SET_SIGNAL_MASK` (4.21).
    kvm_signal_mask: 4 {
        /// Bytes of `sigset`.
        len: u32,
        sigset: [u8; 0],
    }
}

abi_struct! {
    /// `KVM_X86_SET_MCE` (4.106).
    kvm_x86_mce: 64 {
        status: u64,
        addr: u64,
        misc: u64,
        mcg_status: u64,
        bank: u8,
        pad1: [u8; 7],
        pad2: [u64; 3],
    }
}

/// Most banks `KVM_X86_SETUP_MCE` accepts and `KVM_CAP_MCE` reports.
pub const KVM_MAX_MCE_BANKS: usize = 32;

abi_struct! {
    /// Header of `KVM_SET_PMU_EVENT_FILTER` (4.120).
    kvm_pmu_event_filter: 32 {
        action: u32,
        nevents: u32,
        fixed_counter_bitmap: u32,
        flags: u32,
        pad: [u32; 4],
        events: [u64; 0],
    }
}

pub const KVM_PMU_EVENT_ALLOW: u32 = 0;
pub const KVM_PMU_EVENT_DENY: u32 = 1;

abi_struct! {
    /// `KVM_GET_ONE_REG` and `KVM_SET_ONE_REG` (4.68).
    kvm_one_reg: 16 {
        id: u64,
        /// User pointer to the value.
        addr: u64,
    }
}

abi_struct! {
    /// Header of `KVM_GET_REG_LIST` (4.69).
    kvm_reg_list: 8 {
        n: u64,
        reg: [u64; 0],
    }
}

pub const KVM_REG_ARCH_MASK: u64 = 0xff00_0000_0000_0000;
pub const KVM_REG_X86: u64 = 0x2000_0000_0000_0000;
pub const KVM_REG_SIZE_SHIFT: u32 = 52;
pub const KVM_REG_SIZE_MASK: u64 = 0x00f0_0000_0000_0000;
pub const KVM_REG_SIZE_U64: u64 = 0x0030_0000_0000_0000;
pub const KVM_X86_REG_TYPE_MSR: u64 = 2;
pub const KVM_X86_REG_TYPE_KVM: u64 = 3;
pub const KVM_REG_GUEST_SSP: u32 = 0;
