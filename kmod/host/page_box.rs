// SPDX-License-Identifier: GPL-2.0

//! One page of host memory that holds one hardware structure, such as a VMCB.

use crate::host::page::HostPage;
use crate::pc::addr::Hpa;
use core::marker::PhantomData;
use core::mem::align_of;
use core::mem::size_of;
use core::ops::Deref;
use core::ops::DerefMut;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

/// A structure that may live alone in a zeroed page.
///
/// # Safety
///
/// Every bit pattern is a valid value, and no field gives a way to other memory
/// of the kernel that safe code could follow.
pub unsafe trait PageData: Sized {}

/// A zeroed page seen as one `T`, owned.
///
/// # Invariants
///
/// The page is at least as large and as aligned as `T`, and nothing but this
/// value gives the kernel's code access to it.
pub struct PageBox<T: PageData> {
    page: HostPage,
    _data: PhantomData<T>,
}

// SAFETY: The page belongs to this value alone; `T` is plain data.
unsafe impl<T: PageData> Send for PageBox<T> {}

impl<T: PageData> PageBox<T> {
    /// A zeroed `T`. `ENOMEM` when no page is free.
    pub fn new() -> Result<Self> {
        const { assert!(size_of::<T>() <= PAGE_SIZE && align_of::<T>() <= PAGE_SIZE) };
        // INVARIANT: The size was checked above; the page is new.
        Ok(Self {
            page: HostPage::new()?,
            _data: PhantomData,
        })
    }

    /// The physical address, for the processor.
    #[inline]
    pub fn hpa(&self) -> Hpa {
        self.page.hpa()
    }
}

impl<T: PageData> Deref for PageBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the invariant the page holds a `T`, which any bits are.
        unsafe { &*self.page.as_ptr().cast::<T>() }
    }
}

impl<T: PageData> DerefMut for PageBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: As for `deref`; `&mut self` makes the access unique.
        unsafe { &mut *self.page.as_ptr().cast::<T>() }
    }
}
