// SPDX-License-Identifier: GPL-2.0

//! A mutex whose waiters can be killed: for locks that a client can hold as
//! long as it likes, such as a vCPU's while it runs.
//!
//! Context: process context; may sleep.

use super::bindings;
// With lock debugging the function is a macro.
#[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
use super::bindings::iv_mutex_lock_killable as lock_killable;
#[cfg(not(CONFIG_DEBUG_LOCK_ALLOC))]
use super::bindings::mutex_lock_killable as lock_killable;
use core::cell::UnsafeCell;
use core::ops::Deref;
use core::ops::DerefMut;
use core::pin::Pin;
use kernel::prelude::*;
use kernel::sync::LockClassKey;
use kernel::types::Opaque;

/// A value behind a kernel mutex.
///
/// # Invariants
///
/// `lock` is an initialised mutex; `value` is accessed by its holder only.
#[pin_data]
pub struct KillableMutex<T> {
    #[pin]
    lock: Opaque<bindings::mutex>,
    value: UnsafeCell<T>,
}

// SAFETY: It owns the value.
unsafe impl<T: Send> Send for KillableMutex<T> {}
// SAFETY: The mutex lets one thread at a time at the value.
unsafe impl<T: Send> Sync for KillableMutex<T> {}

impl<T> KillableMutex<T> {
    /// A mutex around `value`. `name` and `key` are for lock debugging.
    pub fn new(
        value: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The place is valid for a mutex and pinned; name and key
            // are static.
            lock <- unsafe {
                Opaque::ffi_init(|place| {
                    bindings::__mutex_init(place, name.as_char_ptr(), key.as_ptr());
                })
            },
            value: UnsafeCell::new(value),
        })
    }

    /// Waits for the mutex.
    ///
    /// # Errors
    ///
    /// `EINTR` when the thread has been killed while it waited.
    #[inline]
    pub fn lock(&self) -> Result<KillableGuard<'_, T>> {
        // SAFETY: By the invariant.
        match unsafe { lock_killable(self.lock.get()) } {
            0 => Ok(KillableGuard(self)),
            _ => Err(EINTR),
        }
    }
}

/// The mutex is held until this is dropped.
pub struct KillableGuard<'a, T>(&'a KillableMutex<T>);

impl<T> Deref for KillableGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The guard's thread holds the mutex.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for KillableGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The guard's thread holds the mutex, and the guard is unique.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for KillableGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The guard's thread holds the mutex.
        unsafe { bindings::mutex_unlock(self.0.lock.get()) };
    }
}
