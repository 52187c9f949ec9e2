// SPDX-License-Identifier: GPL-2.0-or-later

//! `struct kvm_run`, the page a vCPU shares with the VMM (API document 5),
//! and the reasons for which `KVM_RUN` returns.
//!
//! In the module this page is memory the VMM may write at any moment: use
//! these types for their layout and never hold a reference into it.

use super::{kvm_regs, kvm_sregs, kvm_vcpu_events};

abi_struct! {
    /// The communication page's head.
    kvm_run: 2352 {
        /// In.
        request_interrupt_window: u8,
        /// In.
        immediate_exit: u8,
        padding1: [u8; 6],
        /// Out: `KVM_EXIT_*`.
        exit_reason: u32,
        /// Out.
        ready_for_interrupt_injection: u8,
        /// Out.
        if_flag: u8,
        /// Out: `KVM_RUN_X86_*`.
        flags: u16,
        /// In and out.
        cr8: u64,
        /// In and out.
        apic_base: u64,
        /// What `exit_reason` is about; an unnamed union in C.
        exit: kvm_run_exit,
        kvm_valid_regs: u64,
        kvm_dirty_regs: u64,
        s: kvm_run_sync,
    }
}

/// Offset of the exit's particulars in [`kvm_run`].
pub const KVM_RUN_EXIT_OFFSET: usize = core::mem::offset_of!(kvm_run, exit);
const _: () = assert!(KVM_RUN_EXIT_OFFSET == 32);
const _: () = assert!(core::mem::offset_of!(kvm_run, kvm_valid_regs) == 288);
const _: () = assert!(core::mem::offset_of!(kvm_run, s) == 304);

/// Page of the vCPU's mapping that carries the data of port I/O.
pub const KVM_PIO_PAGE_OFFSET: u64 = 1;
/// Page of the vCPU's mapping that is the coalesced MMIO ring.
pub const KVM_COALESCED_MMIO_PAGE_OFFSET: u64 = 2;
/// First page of the vCPU's dirty ring.
pub const KVM_DIRTY_LOG_PAGE_OFFSET: u64 = 64;

abi_overlay! {
    /// The exit's particulars.
    kvm_run_exit: [u64; 32] {
        /// `KVM_EXIT_UNKNOWN`.
        hw, set_hw: kvm_run_hw,
        /// `KVM_EXIT_FAIL_ENTRY`.
        fail_entry, set_fail_entry: kvm_run_fail_entry,
        /// `KVM_EXIT_EXCEPTION`.
        ex, set_ex: kvm_run_ex,
        /// `KVM_EXIT_IO`.
        io, set_io: kvm_run_io,
        /// `KVM_EXIT_DEBUG`.
        debug, set_debug: kvm_debug_exit_arch,
        /// `KVM_EXIT_MMIO`.
        mmio, set_mmio: kvm_run_mmio,
        /// `KVM_EXIT_HYPERCALL`.
        hypercall, set_hypercall: kvm_run_hypercall,
        /// `KVM_EXIT_TPR_ACCESS`.
        tpr_access, set_tpr_access: kvm_run_tpr_access,
        /// `KVM_EXIT_INTERNAL_ERROR`.
        internal, set_internal: kvm_run_internal,
        /// `KVM_EXIT_INTERNAL_ERROR` with `KVM_INTERNAL_ERROR_EMULATION`.
        emulation_failure, set_emulation_failure: kvm_run_emulation_failure,
        /// `KVM_EXIT_SYSTEM_EVENT`.
        system_event, set_system_event: kvm_run_system_event,
        /// `KVM_EXIT_IOAPIC_EOI`.
        eoi, set_eoi: kvm_run_eoi,
        /// `KVM_EXIT_HYPERV`.
        hyperv, set_hyperv: kvm_hyperv_exit,
        /// `KVM_EXIT_X86_RDMSR` and `KVM_EXIT_X86_WRMSR`.
        msr, set_msr: kvm_run_msr,
        /// `KVM_EXIT_XEN`.
        xen, set_xen: kvm_xen_exit,
        /// `KVM_EXIT_NOTIFY`.
        notify, set_notify: kvm_run_notify,
        /// `KVM_EXIT_MEMORY_FAULT`.
        memory_fault, set_memory_fault: kvm_run_memory_fault,
    }
}

abi_struct! {
    /// `KVM_EXIT_UNKNOWN`.
    kvm_run_hw: 8 {
        hardware_exit_reason: u64,
    }
}

abi_struct! {
    /// `KVM_EXIT_FAIL_ENTRY`.
    kvm_run_fail_entry: 16 {
        hardware_entry_failure_reason: u64,
        /// The host's processor.
        cpu: u32,
        pad: u32,
    }
}

abi_struct! {
    /// `KVM_EXIT_EXCEPTION`.
    kvm_run_ex: 8 {
        exception: u32,
        error_code: u32,
    }
}

abi_struct! {
    /// `KVM_EXIT_IO`.
    kvm_run_io: 16 {
        /// `KVM_EXIT_IO_IN` or `KVM_EXIT_IO_OUT`.
        direction: u8,
        /// Bytes of one item: 1, 2 or 4.
        size: u8,
        port: u16,
        /// Items.
        count: u32,
        /// Where the data are, counted from the start of `kvm_run`.
        data_offset: u64,
    }
}

pub const KVM_EXIT_IO_IN: u8 = 0;
pub const KVM_EXIT_IO_OUT: u8 = 1;

abi_struct! {
    /// `KVM_EXIT_DEBUG`.
    kvm_debug_exit_arch: 32 {
        exception: u32,
        pad: u32,
        pc: u64,
        dr6: u64,
        dr7: u64,
    }
}

abi_struct! {
    /// `KVM_EXIT_MMIO`.
    kvm_run_mmio: 24 {
        phys_addr: u64,
        data: [u8; 8],
        /// Bytes, 1 to 8.
        len: u32,
        is_write: u8,
        pad: [u8; 3],
    }
}

abi_struct! {
    /// `KVM_EXIT_HYPERCALL`.
    kvm_run_hypercall: 72 {
        nr: u64,
        args: [u64; 6],
        /// In.
        ret: u64,
        /// `KVM_EXIT_HYPERCALL_*`.
        flags: u64,
    }
}

pub const KVM_EXIT_HYPERCALL_LONG_MODE: u64 = 1 << 0;

abi_struct! {
    /// `KVM_EXIT_TPR_ACCESS`.
    kvm_run_tpr_access: 16 {
        rip: u64,
        is_write: u32,
        pad: u32,
    }
}

abi_struct! {
    /// `KVM_EXIT_INTERNAL_ERROR`.
    kvm_run_internal: 136 {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// How many of `data` count.
        ndata: u32,
        data: [u64; 16],
    }
}

abi_struct! {
    /// `KVM_EXIT_INTERNAL_ERROR` with `KVM_INTERNAL_ERROR_EMULATION`.
    kvm_run_emulation_failure: 32 {
        suberror: u32,
        /// 64-bit words that follow and count, `flags` among them.
        ndata: u32,
        /// `KVM_INTERNAL_ERROR_EMULATION_FLAG_*`.
        flags: u64,
        insn_size: u8,
        insn_bytes: [u8; 15],
    }
}

pub const KVM_INTERNAL_ERROR_EMULATION: u32 = 1;
pub const KVM_INTERNAL_ERROR_SIMUL_EX: u32 = 2;
pub const KVM_INTERNAL_ERROR_DELIVERY_EV: u32 = 3;
pub const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: u32 = 4;
pub const KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES: u64 = 1 << 0;

abi_struct! {
    /// `KVM_EXIT_SYSTEM_EVENT`.
    kvm_run_system_event: 136 {
        /// `KVM_SYSTEM_EVENT_*`; `type` in C.
        type_: u32,
        ndata: u32,
        data: [u64; 16],
    }
}

pub const KVM_SYSTEM_EVENT_SHUTDOWN: u32 = 1;
pub const KVM_SYSTEM_EVENT_RESET: u32 = 2;
pub const KVM_SYSTEM_EVENT_CRASH: u32 = 3;
pub const KVM_SYSTEM_EVENT_WAKEUP: u32 = 4;
pub const KVM_SYSTEM_EVENT_SUSPEND: u32 = 5;
pub const KVM_SYSTEM_EVENT_SEV_TERM: u32 = 6;
pub const KVM_SYSTEM_EVENT_TDX_FATAL: u32 = 7;

abi_struct! {
    /// `KVM_EXIT_IOAPIC_EOI`.
    kvm_run_eoi: 1 {
        vector: u8,
    }
}

abi_struct! {
    /// `KVM_EXIT_HYPERV`.
    kvm_hyperv_exit: 56 {
        /// `KVM_EXIT_HYPERV_*`; `type` in C.
        type_: u32,
        pad1: u32,
        u: kvm_hyperv_exit_detail,
    }
}

abi_overlay! {
    /// The particulars of a [`kvm_hyperv_exit`].
    kvm_hyperv_exit_detail: [u64; 6] {
        /// `KVM_EXIT_HYPERV_SYNIC`.
        synic, set_synic: kvm_hyperv_exit_synic,
        /// `KVM_EXIT_HYPERV_HCALL`.
        hcall, set_hcall: kvm_hyperv_exit_hcall,
        /// `KVM_EXIT_HYPERV_SYNDBG`.
        syndbg, set_syndbg: kvm_hyperv_exit_syndbg,
    }
}

pub const KVM_EXIT_HYPERV_SYNIC: u32 = 1;
pub const KVM_EXIT_HYPERV_HCALL: u32 = 2;
pub const KVM_EXIT_HYPERV_SYNDBG: u32 = 3;

abi_struct! {
    /// A write to the synthetic interrupt controller.
    kvm_hyperv_exit_synic: 32 {
        msr: u32,
        pad2: u32,
        control: u64,
        evt_page: u64,
        msg_page: u64,
    }
}

abi_struct! {
    /// A Hyper-V hypercall.
    kvm_hyperv_exit_hcall: 32 {
        input: u64,
        result: u64,
        params: [u64; 2],
    }
}

abi_struct! {
    /// The synthetic debugger.
    kvm_hyperv_exit_syndbg: 48 {
        msr: u32,
        pad2: u32,
        control: u64,
        status: u64,
        send_page: u64,
        recv_page: u64,
        pending_page: u64,
    }
}

abi_struct! {
    /// `KVM_EXIT_X86_RDMSR` and `KVM_EXIT_X86_WRMSR`.
    kvm_run_msr: 24 {
        /// In: non-zero makes the instruction fail with #GP.
        error: u8,
        pad: [u8; 7],
        /// `KVM_MSR_EXIT_REASON_*`.
        reason: u32,
        index: u32,
        /// In for a read, out for a write.
        data: u64,
    }
}

pub const KVM_MSR_EXIT_REASON_INVAL: u32 = 1 << 0;
pub const KVM_MSR_EXIT_REASON_UNKNOWN: u32 = 1 << 1;
pub const KVM_MSR_EXIT_REASON_FILTER: u32 = 1 << 2;
pub const KVM_MSR_EXIT_REASON_VALID_MASK: u32 =
    KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;

abi_struct! {
    /// `KVM_EXIT_XEN`.
    kvm_xen_exit: 80 {
        /// `KVM_EXIT_XEN_HCALL`; `type` in C.
        type_: u32,
        pad: u32,
        longmode: u32,
        cpl: u32,
        input: u64,
        result: u64,
        params: [u64; 6],
    }
}

pub const KVM_EXIT_XEN_HCALL: u32 = 1;

abi_struct! {
    /// `KVM_EXIT_NOTIFY`.
    kvm_run_notify: 4 {
        flags: u32,
    }
}

pub const KVM_NOTIFY_CONTEXT_INVALID: u32 = 1 << 0;

abi_struct! {
    /// `KVM_EXIT_MEMORY_FAULT`.
    kvm_run_memory_fault: 24 {
        /// `KVM_MEMORY_EXIT_FLAG_*`.
        flags: u64,
        gpa: u64,
        size: u64,
    }
}

pub const KVM_MEMORY_EXIT_FLAG_PRIVATE: u64 = 1 << 3;

abi_struct! {
    /// The register classes of `KVM_CAP_SYNC_REGS` (6.74).
    kvm_sync_regs: 520 {
        regs: kvm_regs,
        sregs: kvm_sregs,
        events: kvm_vcpu_events,
    }
}

abi_overlay! {
    /// Room for [`kvm_sync_regs`].
    kvm_run_sync: [u64; 256] {
        /// The registers.
        regs, set_regs: kvm_sync_regs,
    }
}

pub const KVM_SYNC_X86_REGS: u64 = 1 << 0;
pub const KVM_SYNC_X86_SREGS: u64 = 1 << 1;
pub const KVM_SYNC_X86_EVENTS: u64 = 1 << 2;
pub const KVM_SYNC_X86_VALID_FIELDS: u64 =
    KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;

/// Bits of `kvm_run::flags`.
pub const KVM_RUN_X86_SMM: u16 = 1 << 0;
pub const KVM_RUN_X86_BUS_LOCK: u16 = 1 << 1;
pub const KVM_RUN_X86_GUEST_MODE: u16 = 1 << 2;

pub const KVM_EXIT_UNKNOWN: u32 = 0;
pub const KVM_EXIT_EXCEPTION: u32 = 1;
pub const KVM_EXIT_IO: u32 = 2;
pub const KVM_EXIT_HYPERCALL: u32 = 3;
pub const KVM_EXIT_DEBUG: u32 = 4;
pub const KVM_EXIT_HLT: u32 = 5;
pub const KVM_EXIT_MMIO: u32 = 6;
pub const KVM_EXIT_IRQ_WINDOW_OPEN: u32 = 7;
pub const KVM_EXIT_SHUTDOWN: u32 = 8;
pub const KVM_EXIT_FAIL_ENTRY: u32 = 9;
pub const KVM_EXIT_INTR: u32 = 10;
pub const KVM_EXIT_SET_TPR: u32 = 11;
pub const KVM_EXIT_TPR_ACCESS: u32 = 12;
pub const KVM_EXIT_NMI: u32 = 16;
pub const KVM_EXIT_INTERNAL_ERROR: u32 = 17;
pub const KVM_EXIT_WATCHDOG: u32 = 21;
pub const KVM_EXIT_SYSTEM_EVENT: u32 = 24;
pub const KVM_EXIT_IOAPIC_EOI: u32 = 26;
pub const KVM_EXIT_HYPERV: u32 = 27;
pub const KVM_EXIT_X86_RDMSR: u32 = 29;
pub const KVM_EXIT_X86_WRMSR: u32 = 30;
pub const KVM_EXIT_DIRTY_RING_FULL: u32 = 31;
pub const KVM_EXIT_AP_RESET_HOLD: u32 = 32;
pub const KVM_EXIT_X86_BUS_LOCK: u32 = 33;
pub const KVM_EXIT_XEN: u32 = 34;
pub const KVM_EXIT_NOTIFY: u32 = 37;
pub const KVM_EXIT_MEMORY_FAULT: u32 = 39;
pub const KVM_EXIT_TDX: u32 = 40;
pub const KVM_EXIT_SNP_REQ_CERTS: u32 = 43;

abi_struct! {
    /// `KVM_REGISTER_COALESCED_MMIO` (4.117).
    kvm_coalesced_mmio_zone: 16 {
        addr: u64,
        size: u32,
        /// Non-zero for ports.
        pio: u32,
    }
}

abi_struct! {
    /// A write kept in the ring.
    kvm_coalesced_mmio: 24 {
        phys_addr: u64,
        len: u32,
        /// Non-zero for ports.
        pio: u32,
        data: [u8; 8],
    }
}

abi_struct! {
    /// Head of the ring of coalesced writes, one page long.
    kvm_coalesced_mmio_ring: 8 {
        first: u32,
        last: u32,
        coalesced_mmio: [kvm_coalesced_mmio; 0],
    }
}

/// Entries of the ring.
pub const KVM_COALESCED_MMIO_MAX: u32 = 170;
const _: () = assert!(KVM_COALESCED_MMIO_MAX as usize == (4096 - 8) / 24);

abi_struct! {
    /// `KVM_IOEVENTFD` (4.59).
    kvm_ioeventfd: 64 {
        datamatch: u64,
        /// A port or a guest physical address.
        addr: u64,
        /// 1, 2, 4 or 8 bytes; 0 for any length.
        len: u32,
        fd: i32,
        /// `KVM_IOEVENTFD_FLAG_*`.
        flags: u32,
        pad: [u8; 36],
    }
}

pub const KVM_IOEVENTFD_FLAG_DATAMATCH: u32 = 1 << 0;
pub const KVM_IOEVENTFD_FLAG_PIO: u32 = 1 << 1;
pub const KVM_IOEVENTFD_FLAG_DEASSIGN: u32 = 1 << 2;
pub const KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY: u32 = 1 << 3;
/// Inside the kernel: an entry for any length on the fast path.
pub const KVM_IOEVENTFD_FLAG_FAST_MMIO: u32 = 1 << 4;
pub const KVM_IOEVENTFD_VALID_FLAG_MASK: u32 = (1 << 5) - 1;
