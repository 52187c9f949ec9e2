// SPDX-License-Identifier: GPL-2.0

//! One-shot timers on the host's monotonic clock.
//!
//! Context: [`Timer::start`] and [`Timer::try_cancel`] any, also from the
//! callback and with spinlocks held; [`Timer::cancel`] and drop wait for a
//! running callback, so they need a context that may, and may not hold a lock
//! that the callback takes. The callback runs in a hard interrupt.

use super::bindings;
use core::ptr::addr_of_mut;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::types::Opaque;

/// What happens when a timer expires.
pub trait TimerCallback: Send + Sync + 'static {
    /// The timer has expired. Hard interrupt context: no sleeping, no locks but
    /// [`IrqSpinLock`](super::sync::IrqSpinLock).
    ///
    /// Returns when it is to expire next, in ns of the monotonic clock; a time
    /// in the past means at once. `None` leaves it as it is: stopped, or
    /// started anew by another thread meanwhile.
    fn fire(&self) -> Option<u64>;
}

/// The timer and what it calls, at a fixed address.
#[repr(C)]
struct Inner<C> {
    // First: the callback is given its address.
    timer: Opaque<bindings::hrtimer>,
    callback: C,
}

/// A timer, with its callback's data, which it shares by dereferencing.
///
/// Starting it again replaces the time it was started with. Dropped, it is
/// cancelled, and its callback has returned.
///
/// # Invariants
///
/// `inner` comes from `KBox::into_raw`, is freed on drop, and its timer is set up.
pub struct Timer<C: TimerCallback> {
    inner: NonNull<Inner<C>>,
}

// SAFETY: The kernel's timer may be used by any thread; the callback's data is
// `Send` and `Sync`.
unsafe impl<C: TimerCallback> Send for Timer<C> {}
// SAFETY: As above.
unsafe impl<C: TimerCallback> Sync for Timer<C> {}

impl<C: TimerCallback> Timer<C> {
    /// Makes a timer that is stopped. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(callback: C) -> Result<Self> {
        let inner = KBox::new(
            Inner {
                timer: Opaque::zeroed(),
                callback,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: The timer stays where it is until it is cancelled and freed.
        unsafe {
            bindings::hrtimer_setup(
                inner.timer.get(),
                Some(expired::<C>),
                bindings::CLOCK_MONOTONIC as bindings::clockid_t,
                bindings::hrtimer_mode_HRTIMER_MODE_ABS_PINNED_HARD,
            );
        }
        // INVARIANT: Set up; `drop` frees it.
        let inner = NonNull::from(KBox::leak(inner));
        Ok(Self { inner })
    }

    /// Starts it, to expire when the monotonic clock reads `at` ns, on this CPU;
    /// a time in the past means at once.
    pub fn start(&self, at: u64) {
        // SAFETY: By the type invariant.
        unsafe { start(self.raw(), at) };
    }

    /// Stops it and waits for its callback, should that run. True when it had
    /// been going to expire.
    pub fn cancel(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::hrtimer_cancel(self.raw()) != 0 }
    }

    /// Stops it unless its callback runs now, which it tells by `None`.
    /// Otherwise true when it had been going to expire.
    pub fn try_cancel(&self) -> Option<bool> {
        // SAFETY: By the type invariant.
        match unsafe { bindings::hrtimer_try_to_cancel(self.raw()) } {
            -1 => None,
            stopped => Some(stopped != 0),
        }
    }

    fn raw(&self) -> *mut bindings::hrtimer {
        // SAFETY: By the type invariant; no reference is made.
        Opaque::cast_into(unsafe { addr_of_mut!((*self.inner.as_ptr()).timer) })
    }
}

impl<C: TimerCallback> core::ops::Deref for Timer<C> {
    type Target = C;

    fn deref(&self) -> &C {
        // SAFETY: By the type invariant; the data is only ever shared.
        unsafe { &(*self.inner.as_ptr()).callback }
    }
}

impl<C: TimerCallback> Drop for Timer<C> {
    fn drop(&mut self) {
        self.cancel();
        // SAFETY: By the type invariant; the callback neither runs nor will.
        drop(unsafe { KBox::from_raw(self.inner.as_ptr()) });
    }
}

/// Starts a timer.
///
/// # Safety
///
/// The timer is set up.
unsafe fn start(timer: *mut bindings::hrtimer, at: u64) {
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    // SAFETY: By the precondition.
    unsafe {
        bindings::hrtimer_start_range_ns(
            timer,
            at,
            0,
            bindings::hrtimer_mode_HRTIMER_MODE_ABS_PINNED_HARD,
        );
    }
}

/// # Safety
///
/// Called by the kernel for the timer of an `Inner<C>`.
unsafe extern "C" fn expired<C: TimerCallback>(
    timer: *mut bindings::hrtimer,
) -> bindings::hrtimer_restart {
    // SAFETY: The timer is the first field; what holds it is not freed before
    // this returns.
    let inner = unsafe { &*timer.cast::<Inner<C>>() };
    if let Some(at) = inner.callback.fire() {
        // Not by returning RESTART: that would write the expiry of a timer that
        // another thread may have started meanwhile.
        // SAFETY: A timer may be started from its callback.
        unsafe { start(timer, at) };
    }
    bindings::hrtimer_restart_HRTIMER_NORESTART
}
