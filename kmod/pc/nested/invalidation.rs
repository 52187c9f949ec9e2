// SPDX-License-Identifier: GPL-2.0

//! Who looks a page up and maps it, and who takes the page away, without
//! waiting for each other.
//!
//! The one who maps takes a [`Ticket`], looks the page up, locks the nested
//! table (for reading), and maps only if [`Invalidations::allow`] still says
//! yes. The one who takes away calls [`Invalidations::begin`], then zaps what is
//! mapped (with the table locked for writing), changes the process's memory,
//! and calls [`Invalidations::end`]. So either the mapping comes first and is
//! zapped, or the mapper sees the invalidation: under way, or ended since the
//! ticket.
//!
//! Ranges are host virtual addresses. Of several under way only the hull is
//! kept: that some faults are tried again for nothing is cheaper than a list.
//!
//! `begin` and `end` must not run at the same time as another of them (a lock
//! of the caller's); `ticket` and `allow` take none.

use crate::pc::addr::Hva;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// The invalidations of one address space.
pub struct Invalidations {
    /// Invalidations that have ended.
    ended: AtomicU64,
    /// Invalidations under way.
    active: AtomicU64,
    /// Hull of those under way; meaningless when there are none.
    start: AtomicU64,
    end: AtomicU64,
}

/// A moment before a page was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Invalidations {
    /// None so far.
    pub const fn new() -> Self {
        Self {
            ended: AtomicU64::new(0),
            active: AtomicU64::new(0),
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
        }
    }

    /// Taken before a page is looked up.
    #[inline]
    pub fn ticket(&self) -> Ticket {
        Ticket(self.ended.load(Ordering::Acquire))
    }

    /// Whether what has been looked up since `ticket` was taken, within `start`
    /// to before `end`, may be mapped. The nested table is locked.
    #[inline]
    pub fn allow(&self, ticket: Ticket, start: Hva, end: Hva) -> bool {
        // In the opposite order of the writers': one that has ended by the
        // first load has counted itself by the last.
        if self.active.load(Ordering::Acquire) != 0 {
            let overlaps = start.0 < self.end.load(Ordering::Acquire)
                && end.0 > self.start.load(Ordering::Acquire);
            if overlaps {
                return false;
            }
        }
        self.ended.load(Ordering::Acquire) == ticket.0
    }

    /// What is mapped at `start` to before `end` is going to change.
    pub fn begin(&self, start: Hva, end: Hva) {
        let active = self.active.load(Ordering::Relaxed);
        let hull = if active == 0 {
            (start.0, end.0)
        } else {
            (
                start.0.min(self.start.load(Ordering::Relaxed)),
                end.0.max(self.end.load(Ordering::Relaxed)),
            )
        };
        self.start.store(hull.0, Ordering::Release);
        self.end.store(hull.1, Ordering::Release);
        // Sequentially consistent: the caller looks next for what is mapped.
        self.active.store(active.wrapping_add(1), Ordering::SeqCst);
    }

    /// A change that has begun is done.
    pub fn end(&self) {
        let ended = self.ended.load(Ordering::Relaxed);
        self.ended.store(ended.wrapping_add(1), Ordering::Release);
        let active = self.active.load(Ordering::Relaxed);
        self.active
            .store(active.saturating_sub(1), Ordering::Release);
    }

    /// Changes under way.
    #[cfg(test)]
    fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }
}

impl Default for Invalidations {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::sync::{Mutex, RwLock};

    const PAGE: Hva = Hva(0x7000);
    const BEHIND: Hva = Hva(0x8000);

    #[test]
    fn only_what_overlaps_waits() {
        let all = Invalidations::new();
        let ticket = all.ticket();
        assert!(all.allow(ticket, PAGE, BEHIND));
        all.begin(Hva(0x8000), Hva(0x9000));
        assert!(all.allow(ticket, PAGE, BEHIND));
        all.begin(Hva(0x5000), Hva(0x6000));
        assert!(!all.allow(ticket, PAGE, BEHIND), "in the hull of both");
        all.end();
        all.end();
        assert!(!all.allow(ticket, PAGE, BEHIND), "ended since the ticket");
        assert!(all.allow(all.ticket(), PAGE, BEHIND));
        all.begin(Hva(0x7fff), Hva(0x8000));
        assert!(!all.allow(all.ticket(), PAGE, BEHIND));
        assert_eq!(all.active(), 1);
    }

    #[test]
    fn a_hull_is_forgotten_with_its_last_change() {
        let all = Invalidations::new();
        all.begin(Hva(0), Hva(u64::MAX));
        all.end();
        all.begin(Hva(0x1000), Hva(0x2000));
        assert!(all.allow(all.ticket(), PAGE, BEHIND));
    }

    /// A page of the process goes from one frame to the next; mappers map what
    /// they found. Nobody may ever see an old frame mapped once its change has
    /// got past the zap.
    #[test]
    fn no_mapping_outlives_the_page() {
        const ROUNDS: usize = 20_000;
        let all = Invalidations::new();
        let changing = Mutex::new(());
        let page = AtomicUsize::new(1);
        // 0: nothing mapped.
        let mapped = RwLock::new(AtomicUsize::new(0));
        let stop = AtomicBool::new(false);
        let mappings = AtomicUsize::new(0);
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let ticket = all.ticket();
                        let found = page.load(Ordering::Acquire);
                        std::thread::yield_now();
                        let table = mapped.read().unwrap();
                        if found != 0 && all.allow(ticket, PAGE, BEHIND) {
                            table.store(found, Ordering::Release);
                            mappings.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            // Others come and go, so that hulls form and are reset.
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let lock = changing.lock().unwrap();
                    all.begin(Hva(0x1000), Hva(0x2000));
                    drop(lock);
                    std::thread::yield_now();
                    let _lock = changing.lock().unwrap();
                    all.end();
                }
            });
            let mut round = 0;
            while round < ROUNDS || mappings.load(Ordering::Relaxed) == 0 {
                round += 1;
                std::thread::yield_now();
                let before = mapped.read().unwrap().load(Ordering::Acquire);
                if before != 0 && before != page.load(Ordering::Relaxed) {
                    stop.store(true, Ordering::Relaxed);
                    panic!("round {round}: frame {before} was mapped after its page had gone");
                }
                {
                    let _lock = changing.lock().unwrap();
                    all.begin(PAGE, BEHIND);
                }
                mapped.write().unwrap().store(0, Ordering::Release);
                page.store(0, Ordering::Release);
                std::thread::yield_now();
                let left = mapped.read().unwrap().load(Ordering::Acquire);
                page.store(round + 1, Ordering::Release);
                {
                    let _lock = changing.lock().unwrap();
                    all.end();
                }
                if left != 0 {
                    stop.store(true, Ordering::Relaxed);
                    panic!("round {round}: frame {left} is mapped, its page is gone");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_ne!(mappings.load(Ordering::Relaxed), 0);
    }
}
