// SPDX-License-Identifier: GPL-2.0

//! The address space of the process that made a virtual machine.

use super::current;
use crate::host::bindings;
use core::ptr::NonNull;
use kernel::prelude::*;

/// A reference to an address space. It keeps the structure, so that it can be
/// compared, not the mappings: those end with the process.
///
/// # Invariants
///
/// A reference (`mm_count`) on `mm` is held.
pub struct MmRef {
    mm: NonNull<bindings::mm_struct>,
}

// SAFETY: The count is atomic.
unsafe impl Send for MmRef {}
// SAFETY: The count is atomic.
unsafe impl Sync for MmRef {}

impl MmRef {
    /// The current process's.
    ///
    /// # Errors
    ///
    /// `EINVAL` in a kernel thread.
    pub fn current() -> Result<Self> {
        // SAFETY: A thread's own `mm` changes in its own context only.
        let mm = NonNull::new(unsafe { (*current()).mm }).ok_or(EINVAL)?;
        // SAFETY: The current thread holds a reference.
        unsafe { bindings::mmgrab(mm.as_ptr()) };
        // INVARIANT: Just taken.
        Ok(Self { mm })
    }

    /// Whether the current thread runs in this address space. When it does,
    /// user addresses of the virtual machine's owner are its own.
    #[inline]
    pub fn is_current(&self) -> bool {
        // SAFETY: A thread's own `mm` changes in its own context only.
        unsafe { (*current()).mm == self.mm.as_ptr() }
    }

    /// The structure.
    #[allow(dead_code, reason = "for the notifier")]
    pub(in crate::host) fn as_raw(&self) -> *mut bindings::mm_struct {
        self.mm.as_ptr()
    }
}

impl Drop for MmRef {
    fn drop(&mut self) {
        // SAFETY: By the invariant.
        unsafe { bindings::mmdrop(self.mm.as_ptr()) };
    }
}
