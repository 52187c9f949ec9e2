// SPDX-License-Identifier: GPL-2.0

//! This CPU and the others: registers, per-CPU storage, interrupts between
//! CPUs, and the use of hardware virtualization on all of them.
//!
//! Functions that read a register read that of whatever CPU they happen to run
//! on; where that matters they take a [`Pinned`] token.

mod features;
mod handover;
mod ipi;
mod l1d;
mod mitigation;
mod msr;
mod percpu;
mod tsc;
mod tsc_aux;
mod virtualization;

pub use features::boot_cpu_has;
pub use features::cpuid;
pub use features::host_physical_bits;
pub use features::Feature;
pub use handover::take_interrupt;
pub use handover::take_nmi;
pub use ipi::notification_vector;
pub use ipi::notify;
pub use ipi::run_on;
pub use ipi::send_reschedule;
pub use l1d::flush_l1d;
pub use l1d::L1dFlush;
pub use mitigation::another_guest;
pub use mitigation::prediction_command;
pub use msr::rdmsr;
pub use msr::rdmsr_safe;
pub use msr::wrmsr;
pub use msr::wrmsr_safe;
pub use percpu::PerCpu;
pub use tsc::tsc_set_back;
pub use tsc_aux::TscAux;
pub use virtualization::rebooting;
pub use virtualization::CpuHooks;
pub use virtualization::Extension;
pub use virtualization::Virtualization;

use super::bindings;
use super::task::IrqOff;
use super::task::Pinned;
use core::arch::asm;

#[cfg(not(CONFIG_SMP))]
compile_error!("per-CPU access below is that of an SMP kernel");

/// CPUs there can be: all CPU numbers are below.
pub const MAX_CPUS: usize = bindings::NR_CPUS as usize;

/// CPU numbers in use on this machine, present or to come, are below.
#[inline]
pub fn cpu_ids() -> u32 {
    // SAFETY: Set at boot.
    unsafe { bindings::nr_cpu_ids }
}

/// The CPU this runs on, fixed as long as the token lives.
#[inline]
pub fn current_cpu(_pinned: &impl Pinned) -> u32 {
    raw_current_cpu()
}

/// The CPU this runs on, or ran on a moment ago.
#[inline]
pub fn raw_current_cpu() -> u32 {
    let cpu: u32;
    // SAFETY: Reads a per-CPU variable of this CPU through GS.
    unsafe {
        asm!(
            "mov {cpu:e}, gs:[rip + {variable}]",
            cpu = lateout(reg) cpu,
            variable = sym bindings::cpu_number,
            options(nostack, preserves_flags, readonly),
        );
    }
    cpu
}

/// Time-stamp counter, read about now.
#[inline]
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: The kernel keeps RDTSC enabled for itself.
    unsafe {
        asm!(
            "rdtsc",
            out("eax") low,
            out("edx") high,
            options(nomem, nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Time-stamp counter, read in program order with respect to earlier loads.
#[inline]
pub fn rdtsc_ordered() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: The kernel keeps RDTSC enabled for itself.
    unsafe {
        asm!(
            "lfence",
            "rdtsc",
            out("eax") low,
            out("edx") high,
            options(nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Frequency of the host's TSC in kHz; 0 when it has none that can be used.
#[inline]
pub fn tsc_khz() -> u32 {
    // SAFETY: Set at boot.
    unsafe { bindings::tsc_khz }
}

/// Whether the TSC is in step on all CPUs and keeps its rate.
pub fn tsc_stable() -> bool {
    // SAFETY: Reads a variable of the kernel.
    unsafe { bindings::iv_tsc_stable() }
}

/// CR3 of this CPU, as it must be loaded on a return to the host.
#[inline]
pub fn host_cr3(_off: &IrqOff) -> u64 {
    let value: u64;
    // SAFETY: Reading a control register has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nostack, nomem, preserves_flags)) };
    value
}

/// CR0 of this CPU.
#[inline]
pub fn host_cr0() -> u64 {
    let value: u64;
    // SAFETY: Reading a control register has no effect.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nostack, nomem, preserves_flags)) };
    value
}

/// CR4 of this CPU.
#[inline]
pub fn host_cr4(_pinned: &impl Pinned) -> u64 {
    let value: u64;
    // SAFETY: Reading a control register has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nostack, nomem, preserves_flags)) };
    value
}

/// XCR0 of this CPU: the extended states that are enabled. The host must have
/// XSAVE enabled ([`Feature::OSXSAVE`]).
#[inline]
pub fn xgetbv0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: The kernel enables XSAVE where the processor has it, and callers
    // ask first.
    unsafe {
        asm!(
            "xgetbv",
            in("ecx") 0,
            out("eax") low,
            out("edx") high,
            options(nostack, nomem, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Sets XCR0 of this CPU. Interrupts are off because interrupt handlers may
/// use the FPU under the host's value.
///
/// # Safety
///
/// `value` is one the processor takes, and the host's value is back before
/// interrupts are on.
#[inline]
pub unsafe fn xsetbv0(_off: &IrqOff, value: u64) {
    // SAFETY: By the precondition.
    unsafe {
        asm!(
            "xsetbv",
            in("ecx") 0,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags),
        );
    }
}

/// PKRU, of a processor with protection keys enabled ([`Feature::OSPKE`]).
#[inline]
pub fn read_pkru() -> u32 {
    let value: u32;
    // SAFETY: Callers ask for the feature first.
    unsafe {
        asm!(
            "rdpkru",
            in("ecx") 0,
            out("eax") value,
            out("edx") _,
            options(nostack, nomem, preserves_flags),
        );
    }
    value
}

/// Sets PKRU, of a processor with protection keys enabled ([`Feature::OSPKE`]).
///
/// # Safety
///
/// The task's own value is back before the kernel touches user memory.
#[inline]
pub unsafe fn write_pkru(_off: &IrqOff, value: u32) {
    // SAFETY: By the precondition, and callers ask for the feature first.
    unsafe {
        asm!(
            "wrpkru",
            in("ecx") 0,
            in("eax") value,
            in("edx") 0,
            options(nostack, preserves_flags),
        );
    }
}

/// CPUs that are online.
pub fn online_cpus() -> u32 {
    // SAFETY: Reads a counter.
    unsafe { bindings::iv_num_online_cpus() }
}
