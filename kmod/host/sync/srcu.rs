// SPDX-License-Identifier: GPL-2.0

//! Sleepable RCU: readers that never wait and may sleep, and a writer that
//! waits until no reader can still see what it has replaced.
//!
//! Context: readers any, also with interrupts off; writers process context, and
//! never inside a reader of the same domain (they would wait for themselves),
//! nor holding a lock that such a reader takes.

use super::bindings;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// A domain: its writers wait for its readers only.
///
/// # Invariants
///
/// The structure is initialised.
pub struct Srcu(KBox<Opaque<bindings::srcu_struct>>);

// SAFETY: The structure is made to be used by all CPUs.
unsafe impl Send for Srcu {}
// SAFETY: As above.
unsafe impl Sync for Srcu {}

impl Srcu {
    /// Makes a domain. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        let domain = KBox::new(Opaque::zeroed(), GFP_KERNEL_ACCOUNT)?;
        // SAFETY: The structure stays where it is until it is cleaned up.
        to_result(unsafe { bindings::iv_srcu_init(domain.get()) })?;
        // INVARIANT: Just initialised.
        Ok(Self(domain))
    }

    /// Begins to read. What is loaded under the guard stays until it is dropped.
    #[inline]
    pub fn read(&self) -> SrcuGuard<'_> {
        // SAFETY: Initialised; the guard ends the section on the same thread.
        let index = unsafe { bindings::__srcu_read_lock(self.0.get()) };
        SrcuGuard {
            domain: self,
            index,
            _thread: PhantomData,
        }
    }

    /// Waits for every reader that has begun by now. May sleep.
    pub fn synchronize(&self) {
        // SAFETY: Initialised.
        unsafe { bindings::synchronize_srcu_expedited(self.0.get()) };
    }
}

impl Drop for Srcu {
    fn drop(&mut self) {
        // SAFETY: Initialised; guards borrow the domain, so there are no readers.
        unsafe { bindings::cleanup_srcu_struct(self.0.get()) };
    }
}

/// A reader of a domain.
pub struct SrcuGuard<'a> {
    domain: &'a Srcu,
    index: c_int,
    // Not `Send`: a reader ends in the context it began in.
    _thread: PhantomData<*mut ()>,
}

impl Drop for SrcuGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The index is that of the section the guard began.
        unsafe { bindings::__srcu_read_unlock(self.domain.0.get(), self.index) };
    }
}

/// A value that is read without waiting and replaced as a whole.
///
/// # Invariants
///
/// `value` comes from `KBox::into_raw` and is owned by the cell.
pub struct SrcuCell<T> {
    value: Atomic<*mut T>,
    domain: Arc<Srcu>,
    /// It has been loaded under a guard of another domain: nothing is known
    /// about its readers, so what is replaced is never freed.
    strayed: Atomic<bool>,
    _owned: PhantomData<KBox<T>>,
}

// SAFETY: It owns a `T` and shares it.
unsafe impl<T: Send + Sync> Send for SrcuCell<T> {}
// SAFETY: As above; a replaced value moves to the thread that replaced it.
unsafe impl<T: Send + Sync> Sync for SrcuCell<T> {}

impl<T> SrcuCell<T> {
    /// Publishes `value` to the readers of `domain`.
    pub fn new(domain: Arc<Srcu>, value: KBox<T>) -> Self {
        // INVARIANT: As stated.
        Self {
            value: Atomic::new(KBox::into_raw(value)),
            domain,
            strayed: Atomic::new(false),
            _owned: PhantomData,
        }
    }

    /// The current value. `guard` is one of the cell's own domain.
    #[inline]
    pub fn load<'a>(&'a self, guard: &'a SrcuGuard<'_>) -> &'a T {
        if !core::ptr::eq(guard.domain, &*self.domain) {
            self.stray();
        }
        // SAFETY: A value that has been published stays until a grace period
        // after it is replaced, which the guard holds up; or for good.
        unsafe { &*self.value.load(Acquire) }
    }

    #[cold]
    fn stray(&self) {
        // Ordered before the load: a writer whose exchange comes after that
        // load sees the flag.
        if !self.strayed.xchg(true, Full) {
            pr_err!("a published value was read outside its domain\n");
        }
    }

    /// Publishes `new` and gives the old value back once no reader has it. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the old value may still be in use, which a reader under a
    /// wrong guard brings about; it is published no more, and leaked.
    pub fn replace(&self, new: KBox<T>) -> Result<KBox<T>> {
        // INVARIANT: As stated.
        let old = self.value.xchg(KBox::into_raw(new), Full);
        self.domain.synchronize();
        if self.strayed.load(Relaxed) {
            return Err(EINVAL);
        }
        // SAFETY: By the invariant; it is not published any more, and whoever
        // had loaded it has finished.
        Ok(unsafe { KBox::from_raw(old) })
    }
}

impl<T> Drop for SrcuCell<T> {
    fn drop(&mut self) {
        let value = self.value.load(Relaxed);
        if let Some(value) = NonNull::new(value) {
            // SAFETY: By the invariant; readers borrow the cell, so there are none.
            drop(unsafe { KBox::from_raw(value.as_ptr()) });
        }
    }
}
