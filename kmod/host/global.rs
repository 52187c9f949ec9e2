// SPDX-License-Identifier: GPL-2.0

//! A value that lives as long as the module is in use: made when it loads,
//! dropped when it unloads (a `static` itself is never dropped).

use core::marker::PhantomData;
use core::ptr::null_mut;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// A module-wide value.
///
/// # Invariants
///
/// The pointer is null or came from `KBox::into_raw`.
pub struct Global<T: Send + Sync + 'static> {
    value: AtomicPtr<T>,
    _owns: PhantomData<T>,
}

impl<T: Send + Sync + 'static> Global<T> {
    /// No value yet.
    pub const fn new() -> Self {
        Self {
            value: AtomicPtr::new(null_mut()),
            _owns: PhantomData,
        }
    }

    /// Sets the value. `EBUSY` when there is one already, `ENOMEM`.
    pub fn set(&self, value: T) -> Result {
        let new = KBox::into_raw(KBox::new(value, GFP_KERNEL)?);
        let swapped =
            self.value
                .compare_exchange(null_mut(), new, Ordering::AcqRel, Ordering::Acquire);
        if swapped.is_ok() {
            return Ok(());
        }
        // SAFETY: `new` came from `KBox::into_raw` above and was not shared.
        drop(unsafe { KBox::from_raw(new) });
        Err(EBUSY)
    }

    /// The value, once set.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: By the invariant the pointer is null or valid until `clear`,
        // whose caller promises that no reference is left.
        unsafe { self.value.load(Ordering::Acquire).as_ref() }
    }

    /// Drops the value.
    ///
    /// # Safety
    ///
    /// Nothing may use a reference from [`Global::get`] any more: the module
    /// is being unloaded, or has failed to load.
    pub unsafe fn clear(&self) {
        let old = self.value.swap(null_mut(), Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: By the invariant, and taken out of `self` just now.
            drop(unsafe { KBox::from_raw(old) });
        }
    }
}
