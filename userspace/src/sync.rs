// SPDX-License-Identifier: GPL-2.0-or-later

//! Locks that do not turn one panic into many.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also when a thread panicked while it held the lock.
///
/// A panic ends the process (see `main`); in the moment until then there is nothing better to do.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
