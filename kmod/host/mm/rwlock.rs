// SPDX-License-Identifier: GPL-2.0

//! The kernel's reader-writer spinlock.
//!
//! Holders must not sleep; preemption is off, interrupts stay as they are. Not
//! for use in interrupt handlers.

use crate::host::bindings;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ops::DerefMut;
use kernel::prelude::*;
use kernel::types::Opaque;

/// A value behind an `rwlock_t`.
#[pin_data]
pub struct RwLock<T> {
    #[pin]
    lock: Opaque<bindings::rwlock_t>,
    value: UnsafeCell<T>,
}

// SAFETY: The lock gives `&mut T` to one thread at a time.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: Readers share `&T` between threads, writers move through `&mut T`.
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    /// An initialiser for a lock around `value`.
    pub fn new(value: T) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The pointer is to memory for the lock, which stays in place.
            lock <- Opaque::ffi_init(|lock| unsafe { bindings::iv_rwlock_init(lock) }),
            value: UnsafeCell::new(value),
        })
    }

    /// Locks for reading, with other readers.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: Initialised by `new`.
        unsafe { bindings::iv_read_lock(self.lock.get()) };
        ReadGuard(self, PhantomData)
    }

    /// Locks for reading if that needs no waiting. For those who must not wait
    /// for a writer, as with interrupts off for one that sends interrupts.
    #[inline]
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        // SAFETY: Initialised by `new`.
        if !unsafe { bindings::iv_read_trylock(self.lock.get()) } {
            return None;
        }
        Some(ReadGuard(self, PhantomData))
    }

    /// Locks for writing, alone.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: Initialised by `new`.
        unsafe { bindings::iv_write_lock(self.lock.get()) };
        WriteGuard(self, PhantomData)
    }

    /// Whether a holder should let go: another wants the lock or the processor.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        // SAFETY: Initialised by `new`.
        unsafe { bindings::iv_lock_wanted(self.lock.get()) }
    }
}

/// Read access, until dropped. Stays on its thread.
pub struct ReadGuard<'a, T>(&'a RwLock<T>, PhantomData<*mut ()>);

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: Locked for reading, so nobody writes.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: A guard exists only while its lock is held for reading.
        unsafe { bindings::iv_read_unlock(self.0.lock.get()) };
    }
}

/// Write access, until dropped. Stays on its thread.
pub struct WriteGuard<'a, T>(&'a RwLock<T>, PhantomData<*mut ()>);

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: Locked for writing by this thread.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: Locked for writing by this thread.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: A guard exists only while its lock is held for writing.
        unsafe { bindings::iv_write_unlock(self.0.lock.get()) };
    }
}
