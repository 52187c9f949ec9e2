// SPDX-License-Identifier: GPL-2.0

//! What is done to many frames at once.

use super::walk::is_covered;
use super::walk::place;
use super::walk::Walk;
use super::Context;
use super::Entry;
use super::Format;
use super::NestedTable;
use crate::host::mm::cond_resched;
use crate::host::mm::table::TableList;
use crate::host::mm::table::TablePage;
use crate::pc::addr::Gfn;
use crate::pc::nested::block_end;
use crate::pc::nested::reach;
use crate::pc::slots::GfnRange;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// See [`super::Writer::zap`]. The lock is held for writing.
pub(super) fn zap<F: Format>(walk: &Walk<'_, F>, frames: GfnRange, tables: &mut TableList) -> bool {
    let end = frames.end.min(reach(walk.table.levels));
    let mut gfn = frames.start;
    let mut was_mapped = false;
    while gfn < end {
        // The highest entry that covers nothing but frames of the range.
        let here = walk.descend_while(gfn, |level| !is_covered(gfn, level, frames.start, end));
        gfn = block_end(gfn, here.level);
        if !here.entry.is_present() {
            continue;
        }
        was_mapped = true;
        let old = Entry::<F>::from_raw(here.slot.swap(0, Ordering::AcqRel));
        if old.is_table(here.level) {
            // SAFETY: The entry was the only place with the address, and nobody
            // else walks the tables now.
            let page = unsafe { TablePage::from_hpa(walk.table.address(old)) };
            walk.table.epoch.end();
            tables.push(page, here.level.saturating_sub(1));
        }
    }
    was_mapped
}

/// Has the next write through a leaf be seen ([`Entry::unseen`]); whether it
/// could go on without.
///
/// The processor may set the dirty flag at the same time: then it is cleared,
/// and the processor has the page in its list, or it stays set and is counted
/// again the next time.
pub(super) fn watch<F: Format>(slot: &AtomicU64, entry: Entry<F>, logs: bool) -> bool {
    let bits = entry.unseen(logs);
    let permissions = entry.permissions();
    let is_seen = !permissions.write || bits & F::WRITE == 0 && permissions.clean;
    !is_seen && slot.fetch_and(!bits, Ordering::SeqCst) & bits != 0
}

/// Clears a leaf's accessed bit; whether it was set.
pub(super) fn clear_young<F: Format>(slot: &AtomicU64, entry: Entry<F>) -> bool {
    if F::ACCESSED == 0 {
        return true;
    }
    entry.is_accessed() && slot.fetch_and(!F::ACCESSED, Ordering::AcqRel) & F::ACCESSED != 0
}

/// Whether a leaf's accessed bit is set.
pub(super) fn test_young<F: Format>(_slot: &AtomicU64, entry: Entry<F>) -> bool {
    F::ACCESSED == 0 || entry.is_accessed()
}

/// Calls `change` for every leaf that maps a frame of the range; returns
/// whether any call said yes.
///
/// Leaves that come or go meanwhile may be seen or not.
pub(super) fn update<F: Format>(
    walk: &Walk<'_, F>,
    frames: GfnRange,
    change: impl Fn(&AtomicU64, Entry<F>) -> bool,
) -> bool {
    let end = frames.end.min(reach(walk.table.levels));
    let mut gfn = frames.start;
    let mut any = false;
    while gfn < end {
        gfn = update_table(walk, gfn, end, &change, &mut any);
    }
    any
}

/// [`update`] for a range of any length: takes the read lock and, in a context
/// that may sleep, gives it back now and then.
pub(super) fn update_in_parts<F: Format>(
    table: &NestedTable<F>,
    frames: GfnRange,
    context: Context,
    change: impl Fn(&AtomicU64, Entry<F>) -> bool,
) -> bool {
    let end = frames.end.min(reach(table.levels));
    let mut gfn = frames.start;
    let mut any = false;
    while gfn < end {
        {
            let reader = table.read();
            while gfn < end {
                gfn = update_table(&reader.walk(), gfn, end, &change, &mut any);
                if context == Context::MaySleep && table.lock.is_wanted() {
                    break;
                }
            }
        }
        if context == Context::MaySleep {
            cond_resched();
        }
    }
    any
}

/// The part of [`update`] in the lowest table for `gfn`. Returns the first
/// frame that is left to do.
fn update_table<F: Format>(
    walk: &Walk<'_, F>,
    mut gfn: Gfn,
    end: Gfn,
    change: &impl Fn(&AtomicU64, Entry<F>) -> bool,
    any: &mut bool,
) -> Gfn {
    let mut here = walk.descend(gfn);
    let behind = block_end(gfn, here.level.saturating_add(1)).min(end);
    loop {
        if here.entry.is_leaf(here.level) {
            *any |= change(here.slot, here.entry);
        }
        gfn = block_end(gfn, here.level);
        if gfn >= behind {
            return gfn;
        }
        here = place(here.inside, gfn, here.level);
        if here.entry.is_table(here.level) {
            return gfn;
        }
    }
}
