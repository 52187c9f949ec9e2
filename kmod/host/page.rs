// SPDX-License-Identifier: GPL-2.0

//! Whole pages of host memory, by host physical address.
//!
//! For what the processor reads by physical address (VMCB, VMCS, bitmaps) and
//! for pages that a process maps (`kvm_run`). Both kinds of page are written by
//! parties the compiler does not see, so their contents are reached through
//! copies or a raw pointer and never through a Rust reference made here.
//!
//! Context: allocation may sleep; freeing and access may not and need no lock.

use super::bindings;
use crate::pc::addr::Hpa;
use crate::pc::addr::PAGE_SIZE;
use crate::uapi::Pod;
use core::mem::align_of;
use core::mem::size_of;
use core::ptr::NonNull;
use kernel::prelude::*;

/// Bytes of one page.
const PAGE_BYTES: usize = PAGE_SIZE as usize;

/// Largest order [`HostPages::alloc`] takes: 4 MiB, the page allocator's limit.
const MAX_ORDER: u32 = 10;

/// `2^order` physically contiguous pages, zeroed when allocated and charged to
/// the allocating task's memory cgroup.
///
/// # Invariants
///
/// `address` is what the page allocator gave for `order`, and this value is the
/// only one that frees it; there are `len` bytes.
pub struct HostPages {
    address: NonNull<u8>,
    order: u32,
    len: usize,
}

// SAFETY: The pages are plain memory without thread affinity; whoever reads or
// writes through `as_ptr` answers for data races.
unsafe impl Send for HostPages {}
// SAFETY: As above; the methods copy bytes of integers, for which a torn value
// is still a value.
unsafe impl Sync for HostPages {}

impl HostPages {
    /// Allocates `2^order` zeroed pages. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` for an order above 10.
    pub fn alloc(order: u32) -> Result<Self> {
        if order > MAX_ORDER {
            return Err(EINVAL);
        }
        let flags = bindings::GFP_KERNEL_ACCOUNT | bindings::__GFP_ZERO;
        // SAFETY: Any combination of valid flags and an order in range may be asked for.
        let address = unsafe { bindings::get_free_pages_noprof(flags, order) };
        let address = NonNull::new(address as *mut u8).ok_or(ENOMEM)?;
        // INVARIANT: Just allocated with this order.
        Ok(Self {
            address,
            order,
            len: PAGE_BYTES << order,
        })
    }

    /// Size in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Physical address of the first byte.
    #[inline]
    pub fn hpa(&self) -> Hpa {
        physical_address(self.address)
    }

    /// The first byte, in the kernel's map of all memory. The pointer is valid
    /// for [`HostPages::len`] bytes as long as `self` lives.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Copies the value at byte `offset` out; `None` when it does not fit.
    #[inline]
    pub fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        let source = self.field::<T>(offset)?;
        // SAFETY: `field` checked the bounds; every bit pattern is a `T`.
        Some(unsafe { source.read_volatile() })
    }

    /// Copies `value` to byte `offset`; `None` when it does not fit.
    #[inline]
    pub fn write<T: Pod>(&self, offset: usize, value: T) -> Option<()> {
        let target = self.field::<T>(offset)?;
        // SAFETY: `field` checked the bounds.
        unsafe { target.write_volatile(value) };
        Some(())
    }

    /// Sets every byte to `value`.
    pub fn fill(&self, value: u8) {
        // SAFETY: The pages have this many bytes.
        unsafe { self.as_ptr().write_bytes(value, self.len()) };
    }

    fn check(&self, offset: usize, len: usize) -> Option<()> {
        (offset.checked_add(len)? <= self.len()).then_some(())
    }

    /// Where a naturally aligned `T` at `offset` is.
    #[inline]
    fn field<T: Pod>(&self, offset: usize) -> Option<*mut T> {
        self.check(offset, size_of::<T>())?;
        // SAFETY: `offset` is within the pages.
        let field = unsafe { self.as_ptr().add(offset) }.cast::<T>();
        field.is_aligned().then_some(field)
    }
}

impl Drop for HostPages {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::free_pages(self.address.as_ptr() as usize, self.order) };
    }
}

/// One page: [`HostPages`] of order 0, which a process may map.
pub struct HostPage(HostPages);

impl HostPage {
    /// Allocates a zeroed page. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        HostPages::alloc(0).map(Self)
    }

    /// As [`HostPages::read`]; where the offset is known, so is the answer.
    #[inline]
    pub fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        let source = self.field::<T>(offset)?;
        // SAFETY: `field` checked the bounds; every bit pattern is a `T`.
        Some(unsafe { source.read_volatile() })
    }

    /// As [`HostPages::write`].
    #[inline]
    pub fn write<T: Pod>(&self, offset: usize, value: T) -> Option<()> {
        let target = self.field::<T>(offset)?;
        // SAFETY: `field` checked the bounds.
        unsafe { target.write_volatile(value) };
        Some(())
    }

    /// Where a naturally aligned `T` at `offset` is: a page is aligned for
    /// whatever fits in it.
    #[inline]
    fn field<T: Pod>(&self, offset: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() <= PAGE_BYTES) };
        let fits =
            offset <= PAGE_BYTES.wrapping_sub(size_of::<T>()) && size_of::<T>() <= PAGE_BYTES;
        if !fits || offset % align_of::<T>() != 0 {
            return None;
        }
        // SAFETY: `offset` is within the page.
        Some(unsafe { self.as_ptr().add(offset) }.cast::<T>())
    }

    /// The page's `struct page`, with a reference for a mapping.
    pub(super) fn mapped(&self) -> *mut bindings::page {
        // SAFETY: The address is that of a page this value owns.
        unsafe { bindings::iv_get_page(self.as_ptr().cast()) }
    }
}

impl core::ops::Deref for HostPage {
    type Target = HostPages;

    #[inline]
    fn deref(&self) -> &HostPages {
        &self.0
    }
}

/// Physical address of what lies in memory that the kernel has allocated as
/// physically contiguous: in a box, a reference count or a page, not on a stack.
pub fn physical_address_of<T>(value: &T) -> Hpa {
    physical_address(NonNull::from(value).cast())
}

/// Physical address of a byte in the kernel's map of all memory.
#[inline]
fn physical_address(address: NonNull<u8>) -> Hpa {
    // SAFETY: The kernel sets the variable before it starts modules.
    let base = unsafe { bindings::page_offset_base };
    Hpa((address.as_ptr() as usize).wrapping_sub(base) as u64)
}
