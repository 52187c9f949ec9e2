// SPDX-License-Identifier: GPL-2.0

//! Interrupts to other CPUs.
//!
//! Context: any; [`run_on`] with interrupts on, for the target may be waiting for
//! this CPU in the same way.

use super::bindings;
use kernel::error::to_result;
use kernel::ffi::c_void;
use kernel::prelude::*;

/// Interrupts `cpu`, whatever it is doing; a guest on it exits. Does not wait.
/// `cpu` must be online, or have been a moment ago.
#[inline]
pub fn send_reschedule(cpu: u32) {
    // SAFETY: The kernel sends to any CPU that exists; numbers come from
    // `current_cpu`.
    unsafe { bindings::iv_send_reschedule(cpu as i32) };
}

/// Interrupts `cpu` with [`notification_vector`]: the kernel does nothing then,
/// and a guest there that is to be notified by it takes what has been posted
/// without an exit. As [`send_reschedule`] otherwise.
#[inline]
pub fn notify(cpu: u32) {
    // SAFETY: As for `send_reschedule`.
    unsafe { bindings::iv_notify_cpu(cpu as i32) };
}

/// The vector of [`notify`].
pub fn notification_vector() -> u8 {
    // SAFETY: Gives a constant.
    unsafe { bindings::iv_notification_vector() as u8 }
}

/// Runs `call` on CPU `cpu` with interrupts off, and waits for it.
///
/// # Errors
///
/// `ENXIO` when the CPU is not online.
pub fn run_on<F: FnOnce() + Send>(cpu: u32, call: F) -> Result {
    let mut call = Some(call);
    // SAFETY: `trampoline::<F>` takes a pointer to an `Option<F>`, which
    // outlives the call because the kernel waits for its end.
    to_result(unsafe {
        bindings::smp_call_function_single(
            cpu as i32,
            Some(trampoline::<F>),
            (&raw mut call).cast(),
            1,
        )
    })
}

/// # Safety
///
/// `info` points to an `Option<F>` that nobody else uses now.
unsafe extern "C" fn trampoline<F: FnOnce()>(info: *mut c_void) {
    // SAFETY: By the precondition.
    if let Some(call) = unsafe { (*info.cast::<Option<F>>()).take() } {
        call();
    }
}
