// SPDX-License-Identifier: GPL-2.0

//! Signals of the thread that runs a vCPU.

use super::current;
use super::thread_flags;
use crate::host::bindings;
use core::marker::PhantomData;

/// Flags that say a signal is pending.
const SIGNAL: usize = 1 << bindings::TIF_SIGPENDING | 1 << bindings::TIF_NOTIFY_SIGNAL;

/// Signals that cannot be blocked.
const UNBLOCKABLE: u64 = 1 << (bindings::SIGKILL - 1) | 1 << (bindings::SIGSTOP - 1);

/// Whether a signal waits to be delivered to this thread. Any context.
#[inline]
pub fn signal_pending() -> bool {
    thread_flags() & SIGNAL != 0
}

/// The signals blocked while a guest runs (KVM_SET_SIGNAL_MASK); bit n - 1 for
/// signal n, as in the kernel's `sigset_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sigmask(u64);

impl Sigmask {
    /// The mask with these bits; SIGKILL and SIGSTOP are never in it.
    pub const fn new(bits: u64) -> Self {
        Self(bits & !UNBLOCKABLE)
    }

    /// Makes this the thread's mask until the guard is dropped. A signal that is
    /// let through only here ends the guest's run, and stays pending under the
    /// old mask for the thread to collect. Process context, same thread.
    pub fn apply(self) -> SigmaskGuard {
        let mut new = bindings::sigset_t {
            sig: [self.0 as usize],
        };
        // SAFETY: Only the thread itself changes its masks. `real_blocked` tells
        // others which signals must be kept although they are ignored.
        unsafe {
            let saved = &raw mut (*current()).real_blocked;
            bindings::sigprocmask(bindings::SIG_SETMASK as i32, &mut new, saved);
        }
        SigmaskGuard {
            _thread: PhantomData,
        }
    }
}

/// The thread has the mask of [`Sigmask::apply`]. Dropped, it has its old one.
///
/// # Invariants
///
/// `real_blocked` of the current thread holds its old mask.
#[must_use]
pub struct SigmaskGuard {
    // Not `Send`: the mask is the thread's.
    _thread: PhantomData<*mut ()>,
}

impl Drop for SigmaskGuard {
    fn drop(&mut self) {
        // SAFETY: By the invariant; only the thread itself changes its masks.
        unsafe {
            let saved = &raw mut (*current()).real_blocked;
            bindings::sigprocmask(bindings::SIG_SETMASK as i32, saved, core::ptr::null_mut());
            (*saved).sig = [0];
        }
    }
}
