// SPDX-License-Identifier: GPL-2.0-or-later

//! Locks that do not turn one panic into many.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also when a thread panicked while it held the lock.
///
/// A panicking thread ends the run (see `vmm::run`); until then the other threads only need to
/// get out, and no data under these locks is left half-written in a way that stops them.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
