// SPDX-License-Identifier: GPL-2.0

//! The one table of capabilities: what is reported works, what is not here is
//! reported as 0 (KVM API document, 4.4, 7 and 8).

use crate::host::cpu;
use crate::host::fpu;
use crate::hw::Vendor;
use crate::pc::slots::MAX_SLOTS;
use crate::uapi;
use crate::vm::clock;
use crate::vm::irq::MAX_ROUTES;
use crate::vm::model;
use crate::vm::table::MAX_VCPUS;
use crate::vm::Vm;

/// What KVM_CHECK_EXTENSION answers.
enum Answer {
    /// Always this.
    Value(isize),
    /// Asked of the host.
    Host(fn() -> isize),
}

use Answer::Host;
use Answer::Value;

/// It works.
const YES: Answer = Value(1);

/// Every capability that is not 0.
const TABLE: &[(u32, Answer)] = &[
    // Memory.
    (uapi::KVM_CAP_USER_MEMORY, YES),
    (uapi::KVM_CAP_USER_MEMORY2, YES),
    (uapi::KVM_CAP_DESTROY_MEMORY_REGION_WORKS, YES),
    (uapi::KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, YES),
    (uapi::KVM_CAP_NR_MEMSLOTS, Value(MAX_SLOTS as isize)),
    (uapi::KVM_CAP_READONLY_MEM, YES),
    (uapi::KVM_CAP_SYNC_MMU, YES),
    (
        uapi::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        Value(
            (uapi::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | uapi::KVM_DIRTY_LOG_INITIALLY_SET)
                as isize,
        ),
    ),
    (uapi::KVM_CAP_SET_TSS_ADDR, YES),
    (uapi::KVM_CAP_SET_IDENTITY_MAP_ADDR, YES),
    // vCPUs.
    (uapi::KVM_CAP_NR_VCPUS, Host(recommended_vcpus)),
    (uapi::KVM_CAP_MAX_VCPUS, Value(MAX_VCPUS as isize)),
    (uapi::KVM_CAP_MAX_VCPU_ID, Value(MAX_VCPUS as isize)),
    (uapi::KVM_CAP_SET_BOOT_CPU_ID, YES),
    (uapi::KVM_CAP_MP_STATE, YES),
    (uapi::KVM_CAP_EXT_CPUID, YES),
    (uapi::KVM_CAP_EXT_EMUL_CPUID, YES),
    (uapi::KVM_CAP_GET_MSR_FEATURES, YES),
    (uapi::KVM_CAP_XSAVE, YES),
    (uapi::KVM_CAP_XSAVE2, Host(xsave_size)),
    (uapi::KVM_CAP_XCRS, Host(has_xcrs)),
    (uapi::KVM_CAP_SREGS2, YES),
    (uapi::KVM_CAP_DEBUGREGS, YES),
    (uapi::KVM_CAP_VCPU_EVENTS, YES),
    (uapi::KVM_CAP_INTR_SHADOW, YES),
    (uapi::KVM_CAP_X86_ROBUST_SINGLESTEP, YES),
    (uapi::KVM_CAP_SET_GUEST_DEBUG, YES),
    (uapi::KVM_CAP_MCE, Value(model::MCE_BANKS as isize)),
    (uapi::KVM_CAP_USER_NMI, YES),
    (uapi::KVM_CAP_IMMEDIATE_EXIT, YES),
    (
        uapi::KVM_CAP_SYNC_REGS,
        Value(uapi::KVM_SYNC_X86_VALID_FIELDS as isize),
    ),
    (uapi::KVM_CAP_INTERNAL_ERROR_DATA, YES),
    (uapi::KVM_CAP_HLT, YES),
    (uapi::KVM_CAP_NOP_IO_DELAY, YES),
    (uapi::KVM_CAP_X86_TRIPLE_FAULT_EVENT, YES),
    (
        uapi::KVM_CAP_X86_USER_SPACE_MSR,
        Value(uapi::KVM_MSR_EXIT_REASON_VALID_MASK as isize),
    ),
    (uapi::KVM_CAP_X86_MSR_FILTER, YES),
    // Interrupts and timers.
    (uapi::KVM_CAP_IRQCHIP, YES),
    (uapi::KVM_CAP_SPLIT_IRQCHIP, YES),
    (uapi::KVM_CAP_IRQ_ROUTING, Value(MAX_ROUTES as isize)),
    (uapi::KVM_CAP_IRQ_INJECT_STATUS, YES),
    (uapi::KVM_CAP_SIGNAL_MSI, YES),
    (uapi::KVM_CAP_IOAPIC_POLARITY_IGNORED, YES),
    (uapi::KVM_CAP_PIT, YES),
    (uapi::KVM_CAP_PIT2, YES),
    (uapi::KVM_CAP_PIT_STATE2, YES),
    (uapi::KVM_CAP_REINJECT_CONTROL, YES),
    (uapi::KVM_CAP_TSC_DEADLINE_TIMER, YES),
    (
        uapi::KVM_CAP_X2APIC_API,
        Value(model::X2APIC_API_FLAGS as isize),
    ),
    (uapi::KVM_CAP_VAPIC, YES),
    (uapi::KVM_CAP_IRQFD, YES),
    (uapi::KVM_CAP_IRQFD_RESAMPLE, YES),
    (
        uapi::KVM_CAP_COALESCED_MMIO,
        Value(uapi::KVM_COALESCED_MMIO_PAGE_OFFSET as isize),
    ),
    (uapi::KVM_CAP_COALESCED_PIO, YES),
    (uapi::KVM_CAP_IOEVENTFD, YES),
    (uapi::KVM_CAP_IOEVENTFD_NO_LENGTH, YES),
    (uapi::KVM_CAP_IOEVENTFD_ANY_LENGTH, YES),
    // Clocks.
    (uapi::KVM_CAP_CLOCKSOURCE, YES),
    (
        uapi::KVM_CAP_ADJUST_CLOCK,
        Value(clock::ADJUST_FLAGS as isize),
    ),
    (uapi::KVM_CAP_KVMCLOCK_CTRL, YES),
    (uapi::KVM_CAP_GET_TSC_KHZ, YES),
    // Others.
    (uapi::KVM_CAP_CHECK_EXTENSION_VM, YES),
    (uapi::KVM_CAP_DEVICE_CTRL, YES),
    (uapi::KVM_CAP_ENABLE_CAP, YES),
    (uapi::KVM_CAP_ENABLE_CAP_VM, YES),
];

/// The answer of `/dev/kvm` on processors of vendor `V`.
pub fn value<V: Vendor>(number: u64) -> isize {
    const TSC_CONTROL: [u32; 2] = [uapi::KVM_CAP_TSC_CONTROL, uapi::KVM_CAP_VM_TSC_CONTROL];
    if TSC_CONTROL.iter().any(|cap| u64::from(*cap) == number) {
        return isize::from(V::scales_tsc());
    }
    let found = TABLE.iter().find(|(cap, _)| u64::from(*cap) == number);
    match found {
        Some((_, Value(value))) => *value,
        Some((_, Host(ask))) => ask(),
        None => 0,
    }
}

/// The answer of a VM: some things depend on it.
pub fn value_for_vm<V: Vendor>(_vm: &Vm<V>, number: u64) -> isize {
    value::<V>(number)
}

/// As many vCPUs as the host has CPUs.
fn recommended_vcpus() -> isize {
    (cpu::online_cpus() as isize).min(MAX_VCPUS as isize)
}

/// Bytes of KVM_GET_XSAVE2 for a guest with everything the process may use.
fn xsave_size() -> isize {
    model::xsave_size(fpu::permitted_features()) as isize
}

fn has_xcrs() -> isize {
    isize::from(fpu::Xcr0::host().is_some())
}
