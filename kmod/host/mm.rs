// SPDX-License-Identifier: GPL-2.0

//! Memory of the process that runs a guest, and pages of nested tables.
//!
//! Guest memory is that process's own: it is reached through host virtual
//! addresses ([`copy`]), turned into physical pages one at a time ([`pin`]) and
//! given back when the kernel says so ([`notifier`]). Nothing stays pinned.
//!
//! Lock order: `mmap_lock` (taken by [`pin::pin`], by registering a notifier and
//! by page faults of the functions of [`copy`] that may sleep), then the
//! kernel's page-table locks (held around the ageing callbacks of a notifier),
//! then [`rwlock::RwLock`]. So nothing that pins, copies or allocates may run
//! under an [`rwlock::RwLock`].

pub mod copy;
pub mod notifier;
pub mod pin;
pub mod published;
pub mod rwlock;
pub mod table;

use super::bindings;

/// Gives the processor away if someone else waits for it. May sleep.
#[inline]
pub fn cond_resched() {
    // SAFETY: Has no precondition but a context that may sleep; in one that may
    // not, the kernel complains and goes on.
    unsafe { bindings::iv_mm_cond_resched() }
}
