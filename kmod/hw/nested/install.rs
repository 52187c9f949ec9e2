// SPDX-License-Identifier: GPL-2.0

//! Putting leaves in, while other vCPUs do the same.
//!
//! Every change is one compare-and-exchange of one entry. One that fails means
//! that someone else, or the processor, has changed the entry: look again.

use super::walk::LastTable;
use super::walk::Place;
use super::walk::Walk;
use super::Access;
use super::Entry;
use super::Format;
use super::Installed;
use super::Level;
use super::NoTables;
use super::Permissions;
use crate::host::mm::table::TableCache;
use crate::pc::addr::Gfn;
use crate::pc::addr::Hpa;
use crate::pc::addr::PAGE_SHIFT;
use core::sync::atomic::Ordering;

/// See [`super::Reader::fill`].
#[inline]
pub(super) fn fill<F: Format>(
    walk: &Walk<'_, F>,
    gfn: Gfn,
    hpa: Hpa,
    permissions: Permissions,
    last: &mut LastTable,
) -> Option<()> {
    let here = walk.descend_from(gfn, last);
    if here.level != 1 || here.entry.is_present() {
        return None;
    }
    let page = Hpa(hpa.0 | walk.table.encryption);
    replace(&here, Entry::leaf(page, Level::Size4K, permissions))
}

/// See [`super::Reader::map`].
pub(super) fn map<F: Format>(
    walk: &Walk<'_, F>,
    gfn: Gfn,
    size: Level,
    hpa: Hpa,
    permissions: Permissions,
    cache: &mut TableCache,
) -> Result<Installed, NoTables> {
    loop {
        let here = walk.descend(gfn);
        let wanted = wanted_leaf(walk, gfn, here.level, hpa, permissions);
        match wanted {
            Some((own, leaf)) if own <= size => {
                if let Some(done) = put(&here, leaf) {
                    return Ok(done);
                }
            }
            Some((_, leaf)) if here.entry.is_present() => {
                if is_same_memory(here.entry, leaf) && suffices(here.entry, permissions) {
                    return Ok(Installed::Known);
                }
                split(walk, &here, cache)?;
            }
            _ => grow(walk, &here, cache)?,
        }
    }
}

/// The leaf that a table of `level` would have for `gfn`, if it can have any.
fn wanted_leaf<F: Format>(
    walk: &Walk<'_, F>,
    gfn: Gfn,
    level: u8,
    hpa: Hpa,
    permissions: Permissions,
) -> Option<(Level, Entry<F>)> {
    let own = Level::of_table(level)?;
    let inside = (gfn.0 & own.pages().wrapping_sub(1)) << PAGE_SHIFT;
    let block = Hpa(hpa.0.wrapping_sub(inside) | walk.table.encryption);
    Some((own, Entry::leaf(block, own, permissions)))
}

/// Puts a leaf into a place that holds no table. `None`: the entry has changed.
fn put<F: Format>(here: &Place<'_, F>, leaf: Entry<F>) -> Option<Installed> {
    if !here.entry.is_present() {
        replace(here, leaf)?;
        return Some(Installed::New);
    }
    if is_same_memory(here.entry, leaf) {
        let merged = here.entry.merged(leaf);
        if merged != here.entry {
            replace(here, merged)?;
        }
        return Some(Installed::Known);
    }
    // Cannot be, by the invalidation protocol; should it be, the memory that is
    // right is what the caller has just found.
    replace(here, leaf)?;
    Some(Installed::Replaced)
}

/// See [`super::Reader::grant`].
pub(super) fn grant<F: Format>(
    walk: &Walk<'_, F>,
    gfn: Gfn,
    access: Access,
    largest: Level,
) -> bool {
    loop {
        let here = walk.descend(gfn);
        if here.entry.allows(access) {
            return here.entry.is_leaf(here.level);
        }
        let can = here.entry.is_leaf(here.level)
            && access == Access::Write
            && here.entry.permissions().may_write
            && here.level <= largest.table();
        if !can {
            return false;
        }
        if replace(&here, here.entry.with_write()).is_some() {
            return true;
        }
    }
}

/// Puts an empty table into an empty place.
fn grow<F: Format>(
    walk: &Walk<'_, F>,
    here: &Place<'_, F>,
    cache: &mut TableCache,
) -> Result<(), NoTables> {
    let page = cache.take().ok_or(NoTables)?;
    match replace(here, walk.table.entry_for(&page)) {
        // The entry owns the page now.
        Some(()) => {
            page.into_hpa();
        }
        None => cache.put(page),
    }
    Ok(())
}

/// Puts a table of smaller leaves for the same memory, with the same
/// permissions, in the place of a leaf. No TLB needs to know.
fn split<F: Format>(
    walk: &Walk<'_, F>,
    here: &Place<'_, F>,
    cache: &mut TableCache,
) -> Result<(), NoTables> {
    let page = cache.take().ok_or(NoTables)?;
    for (nth, slot) in page.table().entries().iter().enumerate() {
        slot.store(here.entry.part(here.level, nth).raw(), Ordering::Relaxed);
    }
    if replace(here, walk.table.entry_for(&page)).is_none() {
        // Not empty any more, so not for the cache.
        return Ok(());
    }
    // The entry owns the page now.
    page.into_hpa();
    Ok(())
}

/// The place now holds `new`; `None` if it had changed.
#[inline]
fn replace<F: Format>(here: &Place<'_, F>, new: Entry<F>) -> Option<()> {
    here.slot
        .compare_exchange(
            here.entry.raw(),
            new.raw(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        )
        .ok()
        .map(drop)
}

/// Both leaves, of the same level, map the same memory.
#[inline]
fn is_same_memory<F: Format>(one: Entry<F>, other: Entry<F>) -> bool {
    one.hpa() == other.hpa()
}

/// The leaf allows what `wanted` does.
#[inline]
fn suffices<F: Format>(leaf: Entry<F>, wanted: Permissions) -> bool {
    let has = leaf.permissions();
    (has.write || !wanted.write) && (has.execute || !wanted.execute)
}
