// SPDX-License-Identifier: GPL-2.0

//! Pages for nested page tables: 512 entries each, which the processor and
//! other threads read and write at any time, so entries are atomics.
//!
//! Allocation ([`TableCache::top_up`]) sleeps and comes before any lock; under
//! the lock a [`TableCache`] only hands out what it has.

use crate::host::bindings;
use crate::pc::addr::Hpa;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use kernel::prelude::*;

/// Entries of one table.
const ENTRIES: usize = 512;

/// The contents of a table page.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; ENTRIES]);

impl Table {
    /// Entry number `index`, modulo the size of the table.
    #[inline]
    pub fn entry(&self, index: usize) -> &AtomicU64 {
        &self.0[index % ENTRIES]
    }

    /// All entries, in the order of what they map.
    #[inline]
    pub fn entries(&self) -> &[AtomicU64; ENTRIES] {
        &self.0
    }

    /// Physical address.
    #[inline]
    pub fn hpa(&self) -> Hpa {
        // SAFETY: The kernel sets the variable before it starts modules.
        let base = unsafe { bindings::page_offset_base };
        Hpa((ptr::from_ref(self) as usize).wrapping_sub(base) as u64)
    }

    /// The table in the page at `hpa`.
    ///
    /// # Safety
    ///
    /// `hpa` is what [`TablePage::into_hpa`] gave, and the page is not freed
    /// within `'a`.
    #[inline]
    pub unsafe fn at<'a>(hpa: Hpa) -> &'a Self {
        // SAFETY: The kernel sets the variable before it starts modules.
        let base = unsafe { bindings::page_offset_base };
        let address = base.wrapping_add(hpa.0 as usize) as *const Self;
        // SAFETY: A live page of this size and alignment, by the contract; all
        // its bytes are atomics.
        unsafe { &*address }
    }
}

/// A table page that nothing refers to yet, or any more.
///
/// # Invariants
///
/// The address is that of a page from `iv_table_alloc`, owned by this value.
pub struct TablePage(NonNull<Table>);

// SAFETY: The page is plain memory without thread affinity.
unsafe impl Send for TablePage {}
// SAFETY: Its contents are atomics.
unsafe impl Sync for TablePage {}

impl TablePage {
    /// Allocates an empty table, charged to the task's memory cgroup and
    /// counted among the secondary page tables. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        // SAFETY: No precondition but a context that may sleep.
        let page = unsafe { bindings::iv_table_alloc() };
        // INVARIANT: Just allocated.
        NonNull::new(page.cast()).map(Self).ok_or(ENOMEM)
    }

    /// The contents.
    #[inline]
    pub fn table(&self) -> &Table {
        // SAFETY: By the invariant a live page; it was zeroed, which is a valid `Table`.
        unsafe { self.0.as_ref() }
    }

    /// Physical address.
    #[inline]
    pub fn hpa(&self) -> Hpa {
        self.table().hpa()
    }

    /// Gives the page away: to the entry of another table that shall hold this
    /// address, and through [`TablePage::from_hpa`] later back.
    #[inline]
    pub fn into_hpa(self) -> Hpa {
        ManuallyDrop::new(self).hpa()
    }

    /// Takes back a page given away.
    ///
    /// # Safety
    ///
    /// `hpa` came from [`TablePage::into_hpa`] and is taken back once.
    #[inline]
    pub unsafe fn from_hpa(hpa: Hpa) -> Self {
        // SAFETY: The page lives: whoever holds its address owns it.
        let table = unsafe { Table::at(hpa) };
        // INVARIANT: By the contract of this function.
        Self(NonNull::from(table))
    }
}

impl Drop for TablePage {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::iv_table_free(self.0.as_ptr().cast()) };
    }
}

/// Tables that have been taken out of use with all below them, on the way to
/// being freed. What they contain stays as it is: a processor may still read
/// it until its TLB has been flushed.
///
/// The links live in `struct page`, so a list never allocates.
///
/// # Invariants
///
/// `head` is null or a page owned by the list, with the level in its low bits;
/// the link of each page is of the same form.
pub struct TableList {
    head: usize,
    owned: PhantomData<TablePage>,
}

/// The bits of a link that hold a level: pages are aligned.
const LEVEL_BITS: usize = 7;

impl TableList {
    /// An empty list.
    #[inline]
    pub const fn new() -> Self {
        // INVARIANT: Empty.
        Self {
            head: 0,
            owned: PhantomData,
        }
    }

    /// Puts `page`, a table of `level` (1 to 7), first.
    pub fn push(&mut self, page: TablePage, level: u8) {
        let page = ManuallyDrop::new(page);
        let address = page.0.as_ptr() as usize;
        // SAFETY: The list owns the page now; its link is unused.
        unsafe { bindings::iv_table_set_next(address as *mut _, self.head as *mut _) };
        // INVARIANT: The page's link is the old head.
        self.head = address | (level as usize & LEVEL_BITS);
    }

    /// Takes the first table and its level.
    pub fn pop(&mut self) -> Option<(TablePage, u8)> {
        let level = (self.head & LEVEL_BITS) as u8;
        let page = NonNull::new((self.head & !LEVEL_BITS) as *mut Table)?;
        // SAFETY: By the invariant a page of the list.
        let next = unsafe { bindings::iv_table_next(page.as_ptr().cast()) };
        // INVARIANT: The link has the form of `head`; the page leaves the list.
        self.head = next as usize;
        Some((TablePage(page), level))
    }
}

impl Default for TableList {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TableList {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// The bit that encrypts memory where it is set in a physical address; 0 if the
/// host does not encrypt its own.
pub fn encryption_bit() -> u64 {
    // SAFETY: Reads a variable that does not change after boot.
    unsafe { bindings::iv_encryption_bit() }
}

/// Tables a single mapping can need: all levels below the root of five.
pub const CACHE_SIZE: usize = 4;

/// A vCPU's stock of empty tables, so that mapping under the lock does not
/// allocate.
#[derive(Default)]
pub struct TableCache {
    pages: [Option<TablePage>; CACHE_SIZE],
    len: usize,
}

impl TableCache {
    /// An empty cache.
    pub const fn new() -> Self {
        Self {
            pages: [const { None }; CACHE_SIZE],
            len: 0,
        }
    }

    /// Fills the cache. May sleep; does nothing when it is full.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    #[inline]
    pub fn top_up(&mut self) -> Result {
        if self.len == CACHE_SIZE {
            return Ok(());
        }
        self.fill()
    }

    #[cold]
    fn fill(&mut self) -> Result {
        while self.len < CACHE_SIZE {
            self.put(TablePage::new()?);
        }
        Ok(())
    }

    /// An empty table, if there is one left.
    #[inline]
    pub fn take(&mut self) -> Option<TablePage> {
        let last = self.len.checked_sub(1)?;
        self.len = last;
        self.pages.get_mut(last)?.take()
    }

    /// Takes back a table that was not needed and is still empty.
    #[inline]
    pub fn put(&mut self, page: TablePage) {
        if let Some(slot) = self.pages.get_mut(self.len) {
            *slot = Some(page);
            self.len = self.len.wrapping_add(1);
        }
    }
}
