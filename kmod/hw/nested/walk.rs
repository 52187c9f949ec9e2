// SPDX-License-Identifier: GPL-2.0

//! Going down the tables.

use super::Entry;
use super::Format;
use super::NestedTable;
use crate::host::mm::table::Table;
use crate::pc::addr::Gfn;
use crate::pc::addr::Hpa;
use crate::pc::nested::block_end;
use crate::pc::nested::block_start;
use crate::pc::nested::index;
use crate::pc::nested::order_of;
use crate::pc::nested::INDEX_BITS;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// A view of the structure while it is locked.
///
/// # Invariants
///
/// The lock of `table` is held, for reading at least, throughout `'t`; so the
/// tables that entries point to are not freed in `'t`.
pub(super) struct Walk<'t, F: Format> {
    pub(super) table: &'t NestedTable<F>,
}

/// An entry in its table.
pub(super) struct Place<'t, F> {
    /// Where it is.
    pub(super) slot: &'t AtomicU64,
    /// What it was when it was read.
    pub(super) entry: Entry<F>,
    /// The level of its table.
    pub(super) level: u8,
    /// Its table.
    pub(super) inside: &'t Table,
}

/// A lowest table that a vCPU has been to: frames beside the last one are found
/// without going down from the root.
#[derive(Default)]
pub struct LastTable {
    /// The structure's [`Epoch`] at that time; 0 if there is none.
    epoch: u64,
    /// The first frame's number, without the bits that are the index.
    block: u64,
    table: Hpa,
}

impl LastTable {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            epoch: 0,
            block: 0,
            table: Hpa(0),
        }
    }
}

/// A number that changes whenever a table is taken out of the structure, which
/// is under the lock for writing. No two structures ever have the same, nor one
/// the same twice.
pub(super) struct Epoch(AtomicU64);

impl Epoch {
    /// That of a new structure.
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(Self::next()))
    }

    /// A table has been taken out. The lock is held for writing.
    pub(super) fn end(&self) {
        self.0.store(Self::next(), Ordering::Relaxed);
    }

    /// From 1 on; 64 bits do not overflow.
    fn next() -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    #[inline]
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl<'t, F: Format> Walk<'t, F> {
    /// # Safety
    ///
    /// The lock of `table` is held, for reading at least, throughout `'t`.
    pub(super) unsafe fn new(table: &'t NestedTable<F>) -> Self {
        // INVARIANT: By the contract of this function.
        Self { table }
    }

    /// The root table.
    #[inline]
    pub(super) fn root(&self) -> &'t Table {
        self.table.root.table()
    }

    /// The table that `entry` points to: an entry read from a table of this
    /// walk, for which [`Entry::is_table`] holds.
    ///
    /// # Safety
    ///
    /// As said.
    #[inline]
    pub(super) unsafe fn below(&self, entry: Entry<F>) -> &'t Table {
        // SAFETY: Entries that point to tables hold what `into_hpa` gave, and
        // by the invariant the page is not freed in `'t`.
        unsafe { Table::at(self.table.address(entry)) }
    }

    /// The entry for `gfn` in the lowest table there is.
    #[inline]
    pub(super) fn descend(&self, gfn: Gfn) -> Place<'t, F> {
        self.descend_while(gfn, |_| true)
    }

    /// [`Walk::descend`], by way of the table that `last` holds where `gfn` is
    /// in it. Next time it holds the one found now.
    #[inline]
    pub(super) fn descend_from(&self, gfn: Gfn, last: &mut LastTable) -> Place<'t, F> {
        let epoch = self.table.epoch.get();
        let block = gfn.0 >> INDEX_BITS;
        if last.epoch == epoch && last.block == block {
            // SAFETY: The table was part of this structure, no other has its
            // epoch, and none has been taken out since; by the invariant none
            // is in `'t`.
            return place(unsafe { Table::at(last.table) }, gfn, 1);
        }
        let here = self.descend(gfn);
        if here.level == 1 {
            *last = LastTable {
                epoch,
                block,
                table: here.inside.hpa(),
            };
        }
        here
    }

    /// The entry for `gfn` in the lowest table there is, but not below the
    /// first level where `further` says no.
    #[inline]
    pub(super) fn descend_while(
        &self,
        gfn: Gfn,
        mut further: impl FnMut(u8) -> bool,
    ) -> Place<'t, F> {
        let mut inside = self.root();
        let mut level = self.table.levels;
        let mut shift = order_of(level);
        loop {
            let slot = inside.entry(gfn.0.wrapping_shr(shift) as usize);
            let entry: Entry<F> = load(slot);
            if !entry.is_table(level) || !further(level) {
                return Place {
                    slot,
                    entry,
                    level,
                    inside,
                };
            }
            // SAFETY: Just read from a table of this walk.
            inside = unsafe { self.below(entry) };
            level = level.wrapping_sub(1);
            shift = shift.wrapping_sub(INDEX_BITS);
        }
    }
}

/// The entry for `gfn` in `inside`, a table of `level`.
#[inline]
pub(super) fn place<F: Format>(inside: &Table, gfn: Gfn, level: u8) -> Place<'_, F> {
    let slot = inside.entry(index(gfn, level));
    Place {
        slot,
        entry: load(slot),
        level,
        inside,
    }
}

/// What is in the entry now.
#[inline]
pub(super) fn load<F: Format>(slot: &AtomicU64) -> Entry<F> {
    Entry::from_raw(slot.load(Ordering::Acquire))
}

/// The block around `gfn` that one entry of `level` covers lies wholly between
/// `start` and `end`.
#[inline]
pub(super) fn is_covered(gfn: Gfn, level: u8, start: Gfn, end: Gfn) -> bool {
    block_start(gfn, level) >= start && block_end(gfn, level) <= end
}
