// SPDX-License-Identifier: GPL-2.0

//! The kernel log, for messages that a guest or a client can cause: they come
//! in bounded numbers.
//!
//! Context: any but NMI.

use super::time::monotonic_ns;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;

/// Messages per period.
const BURST: u32 = 10;
/// The period, in ns.
const PERIOD: u64 = 5_000_000_000;

/// How often one place in the source may log.
pub struct RateLimit {
    /// When the current period began.
    since: Atomic<u64>,
    /// Messages asked for in it.
    asked: Atomic<u32>,
}

impl RateLimit {
    /// No message so far.
    pub const fn new() -> Self {
        Self {
            since: Atomic::new(0),
            asked: Atomic::new(0),
        }
    }

    /// Whether one more message may be logged. Approximate when several CPUs
    /// ask at once.
    pub fn allows(&self) -> bool {
        let now = monotonic_ns();
        if now.wrapping_sub(self.since.load(Relaxed)) >= PERIOD {
            self.since.store(now, Relaxed);
            self.asked.store(0, Relaxed);
        }
        let asked = self.asked.load(Relaxed);
        if asked >= BURST {
            return false;
        }
        self.asked.store(asked + 1, Relaxed);
        true
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new()
    }
}

/// `pr_info!`, at most ten times in five seconds from one place.
macro_rules! info_ratelimited {
    ($($message:tt)*) => {{
        static LIMIT: $crate::host::log::RateLimit = $crate::host::log::RateLimit::new();
        if LIMIT.allows() {
            ::kernel::pr_info!($($message)*);
        }
    }};
}

pub(crate) use info_ratelimited;
