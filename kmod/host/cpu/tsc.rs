// SPDX-License-Identifier: GPL-2.0

//! The host's TSC over a suspend: firmware may begin it anew, and a guest's,
//! which is so far from it, must not go back.
//!
//! Context: any.

use super::rdtsc_ordered;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

/// The TSC when the host went to sleep last.
static AT_SUSPEND: AtomicU64 = AtomicU64::new(0);

/// Ticks by which it has been set back, in all.
static SET_BACK: AtomicU64 = AtomicU64::new(0);

/// The host goes to sleep.
pub(super) fn suspends() {
    AT_SUSPEND.store(rdtsc_ordered(), Relaxed);
}

/// It is back.
pub(super) fn resumes() {
    let lost = AT_SUSPEND.load(Relaxed).saturating_sub(rdtsc_ordered());
    SET_BACK.store(SET_BACK.load(Relaxed).wrapping_add(lost), Relaxed);
}

/// Ticks by which suspends have set the TSC back since the module was loaded.
/// Threads of the VMM do not run when this changes.
#[inline]
pub fn tsc_set_back() -> u64 {
    SET_BACK.load(Relaxed)
}
