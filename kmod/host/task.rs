// SPDX-License-Identifier: GPL-2.0

//! The thread that runs a vCPU: what the kernel wants of it before it enters a
//! guest, its signals, and how it sleeps.
//!
//! Context: each function says; nothing here takes a lock of the module.

mod irq;
mod runner;
mod signal;
mod wait;

pub use irq::IrqOff;
pub use irq::Pinned;
pub use irq::PreemptOff;
pub use runner::Runner;
pub use signal::signal_pending;
pub use signal::Sigmask;
pub use wait::WaitCell;

use super::bindings;
use super::cpu::boot_cpu_has;
use super::cpu::Feature;
use super::debug_registers;
use core::arch::asm;
use kernel::error::to_result;
use kernel::prelude::*;

/// Flags of a thread that must be served before it enters a guest. The shim
/// asserts that these are the kernel's.
const GUEST_WORK: usize = 1 << bindings::TIF_NEED_RESCHED
    | 1 << bindings::TIF_NEED_RESCHED_LAZY
    | 1 << bindings::TIF_SIGPENDING
    | 1 << bindings::TIF_NOTIFY_SIGNAL
    | 1 << bindings::TIF_NOTIFY_RESUME;

/// The current thread.
#[inline]
pub(super) fn current() -> *mut bindings::task_struct {
    let task: *mut bindings::task_struct;
    // SAFETY: Reads a per-CPU variable through GS. It is the same for a thread
    // wherever that runs, hence `pure`.
    unsafe {
        asm!(
            "mov {task}, gs:[rip + {variable}]",
            task = lateout(reg) task,
            variable = sym bindings::current_task,
            options(nostack, preserves_flags, pure, readonly),
        );
    }
    task
}

/// The current thread's flags, which others set at any time.
#[inline]
pub(super) fn thread_flags() -> usize {
    // SAFETY: The current thread exists; the flags are read as one word.
    unsafe { (&raw const (*current()).thread_info.flags).read_volatile() }
}

/// Whether a signal, a reschedule or other work waits for this thread. To be
/// asked last with interrupts off, so that nothing can be added unseen before
/// the guest runs: adding work sends an interrupt, which ends the guest. Any
/// context for a quick look.
#[inline]
pub fn guest_work_pending() -> bool {
    thread_flags() & GUEST_WORK != 0
}

/// Does the work that [`guest_work_pending`] saw. Interrupts and preemption
/// on; may sleep.
///
/// # Errors
///
/// `EINTR` when a signal is pending: the thread has to return to userspace.
pub fn handle_guest_work() -> Result {
    // SAFETY: Called in process context with interrupts on.
    to_result(unsafe { bindings::iv_handle_guest_work() })
}

/// A guest is about to run. A CPU without a tick is prepared to stay in it for
/// long, and time from here on is the guest's, in the accounting of this thread.
/// To be called with interrupts off before the last [`guest_work_pending`].
///
/// Whether the kernel follows what a CPU runs, for RCU without a tick or lock
/// debugging: then each entry goes between [`guest_state_enter`] and
/// [`guest_state_exit`].
#[inline]
pub fn guest_begin(_off: &IrqOff) -> bool {
    // SAFETY: Interrupts are off, as the function asks.
    unsafe { bindings::iv_guest_begin() }
}

/// A guest has run on this CPU, which has turned breakpoints off: the host's are
/// in force again, and on the way to user mode the kernel keeps what the guest
/// has trained from the VMM, where the host wants that.
#[inline]
pub fn guest_end(off: &IrqOff) {
    if debug_registers::host_has_breakpoints(off) || boot_cpu_has(Feature::IBPB_EXIT_TO_USER) {
        // SAFETY: Interrupts are off: the thread stays on its CPU.
        unsafe { bindings::iv_guest_end() };
    }
}

/// Time from here on is the kernel's again. `tracked`: what [`guest_begin`] said.
#[inline]
pub fn guest_timing_exit(_off: &IrqOff, tracked: bool) {
    if tracked {
        // SAFETY: Interrupts are off, as the function asks.
        unsafe { bindings::iv_guest_timing_exit() };
        return;
    }
    // A CPU that is not tracked accounts by its tick, which looks at this flag.
    // SAFETY: Only the thread itself changes its flags.
    unsafe {
        let flags = &raw mut (*current()).flags;
        *flags &= !bindings::PF_VCPU;
    }
}

/// Tells RCU, context tracking and lockdep that a guest runs from here on.
///
/// # Safety
///
/// Until [`guest_state_exit`] nothing runs on this CPU but the entry into the
/// guest: no RCU reader, no tracepoint, no lock.
#[inline]
pub unsafe fn guest_state_enter(_off: &IrqOff) {
    // SAFETY: Interrupts are off and by the precondition.
    unsafe { bindings::iv_guest_state_enter() };
}

/// The end of what [`guest_state_enter`] began.
///
/// # Safety
///
/// Follows a [`guest_state_enter`].
#[inline]
pub unsafe fn guest_state_exit(_off: &IrqOff) {
    // SAFETY: Interrupts are off and by the precondition.
    unsafe { bindings::iv_guest_state_exit() };
}

/// Nanoseconds this thread has been runnable and waited for a CPU, since it
/// began.
pub fn sched_run_delay_ns() -> u64 {
    // SAFETY: The current thread exists; its scheduler statistics are read as
    // one word and change only while it does not run.
    unsafe { (&raw const (*current()).sched_info.run_delay).read_volatile() }
}
