// SPDX-License-Identifier: GPL-2.0

//! Interrupts to other CPUs.
//!
//! Context: [`send_reschedule`] any; the rest with interrupts on, for the
//! target may be waiting for this CPU in the same way.

use super::bindings;
use super::MAX_CPUS;
use crate::host::task::PreemptOff;
use kernel::error::to_result;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::types::Opaque;

/// A set of CPUs, of the kernel's size: allocate it ahead, not on a stack.
#[repr(transparent)]
#[allow(dead_code, reason = "VMX clears a VMCS on the CPU that holds it")]
pub struct CpuMask(Opaque<bindings::cpumask>);

// SAFETY: It is an array of words.
unsafe impl Send for CpuMask {}
// SAFETY: Only methods with `&mut self` write.
unsafe impl Sync for CpuMask {}

#[allow(dead_code, reason = "VMX clears a VMCS on the CPU that holds it")]
impl CpuMask {
    /// Allocates an empty set. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<KBox<Self>> {
        let mask = KBox::<Self>::zeroed(GFP_KERNEL_ACCOUNT)?;
        Ok(mask)
    }

    /// Removes every CPU.
    pub fn clear(&mut self) {
        // SAFETY: The mask is exclusively borrowed; no CPU has its bit.
        unsafe { self.0.get().write_bytes(0, 1) };
    }

    /// Adds a CPU; a number that no CPU can have is ignored.
    pub fn set(&mut self, cpu: u32) {
        if let Some((word, bit)) = Self::position(cpu) {
            // SAFETY: The mask is exclusively borrowed and `word` is in bounds.
            unsafe { *word_of(self.0.get(), word) |= bit };
        }
    }

    /// Whether the set has no CPU.
    pub fn is_empty(&self) -> bool {
        // SAFETY: The mask is borrowed, so nobody writes.
        (0..MAX_CPUS / 64).all(|word| unsafe { *word_of(self.0.get(), word) } == 0)
    }

    fn position(cpu: u32) -> Option<(usize, u64)> {
        let cpu = cpu as usize;
        (cpu < MAX_CPUS).then_some((cpu / 64, 1 << (cpu % 64)))
    }
}

// SAFETY: The empty set is all zero bytes.
unsafe impl Zeroable for CpuMask {}

/// Word `word` of a mask.
///
/// # Safety
///
/// `mask` is valid and `word` below `MAX_CPUS / 64`.
unsafe fn word_of(mask: *mut bindings::cpumask, word: usize) -> *mut u64 {
    // SAFETY: By the precondition.
    unsafe { mask.cast::<u64>().add(word) }
}

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

/// Interrupts the CPUs of `mask` but this one. With `wait`, each of them has
/// taken an interrupt when this returns: what was running there when it was
/// called has been left, and a guest has exited.
#[allow(dead_code, reason = "VMX clears a VMCS on the CPU that holds it")]
pub fn kick_many(mask: &CpuMask, wait: bool) {
    let _pinned = PreemptOff::new();
    // SAFETY: Preemption is off, as the function asks; `nothing` takes no argument.
    unsafe {
        bindings::smp_call_function_many(mask.0.get(), Some(nothing), core::ptr::null_mut(), wait);
    }
}

/// The interrupt is the effect.
extern "C" fn nothing(_info: *mut c_void) {}

/// Runs `call` on CPU `cpu` with interrupts off, and waits for it.
///
/// # Errors
///
/// `ENXIO` when the CPU is not online.
#[allow(dead_code, reason = "VMX clears a VMCS on the CPU that holds it")]
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
