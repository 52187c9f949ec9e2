// SPDX-License-Identifier: GPL-2.0

//! One thread that sleeps until others have something for it: a halted vCPU.
//!
//! The waker first makes the condition true (an atomic), then calls
//! [`WaitCell::wake`]; the sleeper marks itself asleep, then looks at the
//! condition. Each of the two orders is followed by a full barrier, so one of
//! them sees the other.

use super::signal_pending;
use crate::host::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Release;
use kernel::types::Opaque;

/// Where one thread sleeps and any may wake it.
pub struct WaitCell {
    cell: Opaque<bindings::rcuwait>,
    /// A thread is in [`WaitCell::wait`].
    taken: Atomic<bool>,
}

// SAFETY: `rcuwait` is made to be used by several threads, with one sleeper,
// which `taken` sees to.
unsafe impl Send for WaitCell {}
// SAFETY: As above.
unsafe impl Sync for WaitCell {}

impl WaitCell {
    /// A cell in which nobody sleeps.
    pub const fn new() -> Self {
        Self {
            cell: Opaque::new(bindings::rcuwait {
                task: core::ptr::null_mut(),
            }),
            taken: Atomic::new(false),
        }
    }

    /// Sleeps until `condition` holds. Process context. `condition` is asked
    /// between going to sleep and sleeping, so it may not sleep itself.
    ///
    /// # Errors
    ///
    /// `EINTR` when a signal is pending, `EBUSY` when another thread is here.
    pub fn wait(&self, mut condition: impl FnMut() -> bool) -> Result {
        if condition() {
            return Ok(());
        }
        if self.taken.cmpxchg(false, true, Acquire).is_err() {
            return Err(EBUSY);
        }
        // SAFETY: This is the only sleeper; `finish` below ends what it begins.
        unsafe { bindings::iv_rcuwait_prepare(self.cell.get()) };
        let result = loop {
            // SAFETY: Called in process context; the state is put right by
            // `schedule` or `finish`.
            unsafe { bindings::iv_set_interruptible() };
            if condition() {
                break Ok(());
            }
            if signal_pending() {
                break Err(EINTR);
            }
            // SAFETY: Called in process context without locks.
            unsafe { bindings::schedule() };
        };
        // SAFETY: Ends what `prepare` began.
        unsafe { bindings::finish_rcuwait(self.cell.get()) };
        self.taken.store(false, Release);
        result
    }

    /// Wakes the sleeper, if there is one, to look at its condition; true when
    /// there was one and it slept. Any context up to a hard interrupt.
    #[inline]
    pub fn wake(&self) -> bool {
        // SAFETY: The cell is initialised; the function takes RCU itself.
        unsafe { bindings::rcuwait_wake_up(self.cell.get()) != 0 }
    }
}

impl Default for WaitCell {
    fn default() -> Self {
        Self::new()
    }
}
