// SPDX-License-Identifier: GPL-2.0

//! The thread that runs a vCPU, for others to give their time to.

use super::current;
use crate::host::bindings;
use core::ptr;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering;

/// The thread that last said it was the one.
///
/// # Invariants
///
/// The pointer is null, or to a `struct pid` of which this value owns one
/// reference. Who takes the pointer out takes the reference with it.
pub struct Runner {
    pid: AtomicPtr<bindings::pid>,
}

impl Runner {
    /// Nobody yet.
    pub const fn new() -> Self {
        // INVARIANT: Null.
        Self {
            pid: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The calling thread is the one.
    #[inline]
    pub fn set_current(&self) {
        // SAFETY: The calling thread has its pid as long as it runs.
        let own = unsafe { (*current()).thread_pid };
        if self.pid.load(Ordering::Relaxed) != own {
            self.replace();
        }
    }

    #[cold]
    fn replace(&self) {
        // SAFETY: Process context; the reference is ours.
        let pid = unsafe { bindings::iv_get_current_pid() };
        // INVARIANT: The reference goes in with the pointer, and the old one out.
        put(self.pid.swap(pid, Ordering::AcqRel));
    }

    /// Lets the thread run in place of the calling one, if it waits for a CPU.
    /// Whether it was so. Process context; may sleep.
    pub fn yield_to(&self) -> bool {
        // INVARIANT: The reference comes out with the pointer.
        let pid = self.pid.swap(ptr::null_mut(), Ordering::AcqRel);
        if pid.is_null() {
            // Somebody else does it right now.
            return false;
        }
        // SAFETY: There is a reference.
        let yielded = unsafe { bindings::iv_yield_to(pid) } > 0;
        let none = ptr::null_mut();
        // INVARIANT: The reference goes back with the pointer.
        if self
            .pid
            .compare_exchange(none, pid, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            put(pid);
        }
        yielded
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        put(*self.pid.get_mut());
    }
}

/// Gives a reference up that came out of a [`Runner`].
fn put(pid: *mut bindings::pid) {
    // SAFETY: By the callers there is a reference, or none to a null pointer,
    // which the kernel allows.
    unsafe { bindings::put_pid(pid) };
}
