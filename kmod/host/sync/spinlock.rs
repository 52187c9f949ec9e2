// SPDX-License-Identifier: GPL-2.0

//! A spinlock that is held with interrupts off.
//!
//! Context: any but NMI. While it is held nothing may sleep. It spins also on
//! kernels whose ordinary spinlocks sleep.

use super::bindings;
use crate::host::task::IrqOff;
use core::cell::UnsafeCell;
use core::ops::Deref;
use core::ops::DerefMut;
use core::pin::Pin;
use kernel::prelude::*;
use kernel::sync::LockClassKey;
use kernel::types::Opaque;

/// Data that one CPU at a time may touch, from any context but NMI.
///
/// Made by [`new_irq_spinlock!`]; it need not be pinned.
pub struct IrqSpinLock<T: ?Sized> {
    lock: Opaque<bindings::raw_spinlock_t>,
    data: UnsafeCell<T>,
}

// SAFETY: The lock goes with its data.
unsafe impl<T: ?Sized + Send> Send for IrqSpinLock<T> {}
// SAFETY: One holder at a time gets at the data.
unsafe impl<T: ?Sized + Send> Sync for IrqSpinLock<T> {}

/// Makes an [`IrqSpinLock`] around a value. Locks made at the same place in the
/// source are of one class for the kernel's lock checking.
macro_rules! new_irq_spinlock {
    ($value:expr) => {
        $crate::host::sync::IrqSpinLock::new(
            $value,
            ::kernel::optional_name!(),
            ::kernel::static_lock_class!(),
        )
    };
}
pub(crate) use new_irq_spinlock;

impl<T> IrqSpinLock<T> {
    /// For [`new_irq_spinlock!`].
    #[doc(hidden)]
    pub fn new(value: T, name: &'static CStr, class: Pin<&'static LockClassKey>) -> Self {
        let lock = Opaque::zeroed();
        // SAFETY: Name and class are static. An unlocked lock refers to nothing
        // but these, so it may move.
        unsafe {
            bindings::iv_raw_spin_lock_init(
                lock.get(),
                name.as_char_ptr(),
                core::ptr::from_ref(class.get_ref()).cast_mut().cast(),
            );
        }
        Self {
            lock,
            data: UnsafeCell::new(value),
        }
    }
}

impl<T: ?Sized> IrqSpinLock<T> {
    /// Turns interrupts off and waits for the lock.
    #[inline]
    pub fn lock(&self) -> IrqSpinGuard<'_, T> {
        let off = IrqOff::new();
        // SAFETY: The lock is initialised; the guard gives it back.
        unsafe { bindings::iv_raw_spin_lock(self.lock.get()) };
        IrqSpinGuard {
            lock: self,
            _off: off,
        }
    }
}

/// An [`IrqSpinLock`] is held and interrupts are off. Dropped, neither.
pub struct IrqSpinGuard<'a, T: ?Sized> {
    lock: &'a IrqSpinLock<T>,
    // Dropped after the lock is given back.
    _off: IrqOff,
}

impl<T: ?Sized> Deref for IrqSpinGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized> DerefMut for IrqSpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The lock is held.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T: ?Sized> Drop for IrqSpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The guard holds the lock.
        unsafe { bindings::iv_raw_spin_unlock(self.lock.lock.get()) };
    }
}
