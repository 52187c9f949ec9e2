// SPDX-License-Identifier: GPL-2.0

//! Nested page tables: from guest physical to host physical addresses.
//!
//! One [`NestedTable`] per virtual machine, shared by its vCPUs. The format is
//! a type ([`Format`]), so neither vendor pays for the other.
//!
//! # Locking
//!
//! An `rwlock` guards the *structure*. Under the read side ([`NestedTable::read`])
//! any number of threads install entries, split leaves and change bits of
//! leaves, each by one atomic operation on one entry, as the processor itself
//! does when it sets accessed and dirty bits. Only the write side
//! ([`NestedTable::write`]) takes mapped memory or a table page out. Whoever
//! does must have every vCPU's TLB flushed before the lock is given back, and
//! before [`TableList`] and memory are freed: that is the caller's part, as the
//! table knows no vCPUs.
//!
//! Nothing here sleeps or allocates, except creating a table, and freeing one or
//! changing a large range when told that it may sleep.

use crate::host::mm::rwlock::ReadGuard;
use crate::host::mm::rwlock::RwLock;
use crate::host::mm::rwlock::WriteGuard;
use crate::host::mm::table;
use crate::host::mm::table::TableCache;
use crate::host::mm::table::TableList;
use crate::host::mm::table::TablePage;
use crate::pc::addr::Gfn;
use crate::pc::addr::Hpa;
use crate::pc::slots::GfnRange;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

pub use crate::pc::nested::reach;
pub use crate::pc::nested::Access;
pub use crate::pc::nested::Entry;
pub use crate::pc::nested::Ept;
pub use crate::pc::nested::Format;
pub use crate::pc::nested::Level;
pub use crate::pc::nested::Npt;
pub use crate::pc::nested::Permissions;

mod install;
mod range;
mod walk;

use walk::Epoch;
use walk::Walk;

pub use walk::LastTable;

/// The nested page tables of one virtual machine.
#[pin_data(PinnedDrop)]
pub struct NestedTable<F: Format> {
    #[pin]
    lock: RwLock<()>,
    root: TablePage,
    epoch: Epoch,
    levels: u8,
    /// The host's memory encryption bit: set in every address, also in that of
    /// the root. 0 without encryption.
    encryption: u64,
    /// The processors keep lists of the pages they make dirty.
    logs_writes: bool,
    format: PhantomData<F>,
}

/// What a large-range operation may do between two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// Sleep.
    MaySleep,
    /// Not sleep: finish, however long it takes.
    Atomic,
}

impl<F: Format> NestedTable<F> {
    /// An initialiser for an empty table of `levels` levels. With `logs_writes`,
    /// the processors keep lists of the pages they make dirty. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` unless there are 4 or 5 levels.
    pub fn new(levels: u8, logs_writes: bool) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            lock <- RwLock::new(()),
            root: TablePage::new()?,
            epoch: Epoch::new(),
            levels: if matches!(levels, 4 | 5) { levels } else { return Err(EINVAL) },
            encryption: table::encryption_bit(),
            logs_writes,
            format: PhantomData,
        }? Error)
    }

    /// Address of the root table, as the processor takes it.
    pub fn root(&self) -> Hpa {
        Hpa(self.root.hpa().0 | self.encryption)
    }

    /// Locks the structure, with other readers.
    #[inline]
    pub fn read(&self) -> Reader<'_, F> {
        Reader {
            guard: self.lock.read(),
            table: self,
        }
    }

    /// Locks the structure, with other readers, if nobody changes it. With
    /// interrupts off this is the only way: who holds the lock for writing waits
    /// for every CPU to flush its TLB.
    #[inline]
    pub fn try_read(&self) -> Option<Reader<'_, F>> {
        Some(Reader {
            guard: self.lock.try_read()?,
            table: self,
        })
    }

    /// Locks the structure, alone.
    #[inline]
    pub fn write(&self) -> Writer<'_, F> {
        Writer {
            guard: self.lock.write(),
            table: self,
        }
    }

    /// Frees tables that [`Writer::zap`] has taken out, with all below them.
    /// To be called once no TLB can hold anything of them.
    pub fn free(&self, mut tables: TableList, context: Context) {
        while let Some((page, level)) = tables.pop() {
            self.take_apart(&page, level, &mut tables);
            drop(page);
            if context == Context::MaySleep {
                crate::host::mm::cond_resched();
            }
        }
    }

    /// Moves the tables that `page` points to to the list, and counts its
    /// leaves as gone.
    fn take_apart(&self, page: &TablePage, level: u8, tables: &mut TableList) {
        for slot in page.table().entries() {
            let entry = Entry::<F>::from_raw(slot.load(Ordering::Relaxed));
            if entry.is_table(level) {
                // SAFETY: `page` is out of the structure, so this entry was the
                // only place that held the address, and nobody reads it again.
                let below = unsafe { TablePage::from_hpa(self.address(entry)) };
                tables.push(below, level.saturating_sub(1));
            }
        }
    }

    /// The entry for a table page.
    #[inline]
    fn entry_for(&self, page: &TablePage) -> Entry<F> {
        Entry::table(Hpa(page.hpa().0 | self.encryption))
    }

    /// The address in an entry.
    #[inline]
    fn address(&self, entry: Entry<F>) -> Hpa {
        Hpa(entry.hpa().0 & !self.encryption)
    }
}

#[pinned_drop]
impl<F: Format> PinnedDrop for NestedTable<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut tables = TableList::new();
        self.take_apart(&self.root, self.levels, &mut tables);
        self.free(tables, Context::MaySleep);
    }
}

/// The structure, locked with other readers.
pub struct Reader<'t, F: Format> {
    #[allow(dead_code, reason = "held, not used")]
    guard: ReadGuard<'t, ()>,
    table: &'t NestedTable<F>,
}

/// The structure, locked alone.
pub struct Writer<'t, F: Format> {
    #[allow(dead_code, reason = "held, not used")]
    guard: WriteGuard<'t, ()>,
    table: &'t NestedTable<F>,
}

impl<'t, F: Format> Reader<'t, F> {
    #[inline]
    fn walk(&self) -> Walk<'_, F> {
        // SAFETY: The guard keeps writers out while `self` is borrowed.
        unsafe { Walk::new(self.table) }
    }

    /// Maps the frame `gfn` to the page `hpa`, where nothing is mapped yet but the
    /// tables are there: so it is with most frames. `None` if this is not such a
    /// case; nothing has been done then. `last` is the calling vCPU's own.
    #[inline(always)]
    pub fn fill(
        &self,
        gfn: Gfn,
        hpa: Hpa,
        permissions: Permissions,
        last: &mut LastTable,
    ) -> Option<()> {
        install::fill(&self.walk(), gfn, hpa, permissions, last)
    }

    /// Maps the frame `gfn`, or the whole block of `size` around it, to memory:
    /// `hpa` is the page for `gfn` itself. Where smaller leaves are in use
    /// already only the frame's own is made.
    ///
    /// # Errors
    ///
    /// [`NoTables`]: fill the cache, without the lock, and try again.
    pub fn map(
        &self,
        gfn: Gfn,
        size: Level,
        hpa: Hpa,
        permissions: Permissions,
        cache: &mut TableCache,
    ) -> Result<Installed, NoTables> {
        install::map(&self.walk(), gfn, size, hpa, permissions, cache)
    }

    /// Has the next write to every frame of the range be seen, in one go: by a
    /// fault, or by the processor's list of pages written. Returns whether a TLB
    /// may still let writes through unseen.
    pub fn watch(&self, frames: GfnRange) -> bool {
        let logs = self.table.logs_writes;
        range::update(&self.walk(), frames, |slot, entry| {
            range::watch(slot, entry, logs)
        })
    }

    /// Lets an access to a mapped frame through if the table alone can: it does
    /// already, or it is a write that only the dirty log stands against and the
    /// leaf is at most `largest`.
    #[inline]
    pub fn grant(&self, gfn: Gfn, access: Access, largest: Level) -> bool {
        install::grant(&self.walk(), gfn, access, largest)
    }
}

impl<F: Format> Writer<'_, F> {
    #[inline]
    fn walk(&self) -> Walk<'_, F> {
        // SAFETY: The guard keeps everyone else out while `self` is borrowed.
        unsafe { Walk::new(self.table) }
    }

    /// Takes out everything that maps a frame of the range, also where a larger
    /// leaf maps more than that. Table pages out of use go to `tables`.
    ///
    /// Returns whether anything was mapped. If so, every TLB must be flushed
    /// before the lock is given back, and only then may `tables` be freed.
    ///
    /// Takes a bounded number of steps, whatever the range: what lies wholly
    /// within it goes with the entry that covers it.
    #[must_use = "the TLBs must be flushed"]
    pub fn zap(&mut self, frames: GfnRange, tables: &mut TableList) -> bool {
        range::zap(&self.walk(), frames, tables)
    }
}

impl<F: Format> NestedTable<F> {
    /// [`Reader::watch`] for a range of any length: takes the read lock and,
    /// in a context that may sleep, gives it back now and then.
    pub fn watch(&self, frames: GfnRange, context: Context) -> bool {
        range::update_in_parts(self, frames, context, |slot, entry| {
            range::watch(slot, entry, self.logs_writes)
        })
    }

    /// Whether a frame of the range has been accessed since the last call. TLBs
    /// are left alone: a stale one costs precision, not correctness.
    ///
    /// Takes the read lock, does not sleep. Always true for what is mapped if
    /// the processor has no accessed bits.
    pub fn clear_young(&self, frames: GfnRange) -> bool {
        range::update(&self.read().walk(), frames, range::clear_young)
    }

    /// [`NestedTable::clear_young`], but leaving it so.
    pub fn test_young(&self, frames: GfnRange) -> bool {
        range::update(&self.read().walk(), frames, range::test_young)
    }
}

/// What mapping a frame has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// The frame is mapped now, and was not before.
    New,
    /// The frame was mapped already; perhaps with fewer permissions.
    Known,
    /// The frame was mapped to other memory: every TLB must be flushed.
    Replaced,
}

/// The cache had no tables left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTables;
