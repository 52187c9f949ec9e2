// SPDX-License-Identifier: GPL-2.0

//! One value of a type for every CPU.
//!
//! Context: allocation and drop may sleep, access is free.

use super::bindings;
use super::Pinned;
use core::arch::asm;
use core::mem::align_of;
use core::mem::size_of;
use core::ptr::NonNull;
use kernel::prelude::*;

/// One `T` for every possible CPU, all bytes zero at first.
///
/// A CPU's own value is also seen by interrupt handlers on it; so `T` is `Sync`
/// and changes through atomics.
///
/// # Invariants
///
/// `base` is what the per-CPU allocator gave for a `T`: the address of CPU n's
/// value is `base` plus that CPU's offset.
pub struct PerCpu<T> {
    base: NonNull<T>,
}

// SAFETY: It owns values that may be sent.
unsafe impl<T: Send> Send for PerCpu<T> {}
// SAFETY: It gives out shared references to `Sync` values only.
unsafe impl<T: Sync> Sync for PerCpu<T> {}

impl<T: Zeroable + Send + Sync> PerCpu<T> {
    /// Allocates. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        const { assert!(!core::mem::needs_drop::<T>()) };
        // SAFETY: Size and alignment are those of a type.
        let base = unsafe {
            bindings::pcpu_alloc_noprof(
                size_of::<T>(),
                align_of::<T>(),
                false,
                bindings::GFP_KERNEL,
            )
        };
        // INVARIANT: Just allocated; all zero bytes are a `T`.
        let base = NonNull::new(base.cast::<T>()).ok_or(ENOMEM)?;
        Ok(Self { base })
    }

    /// This CPU's value.
    #[inline]
    pub fn this<'a>(&'a self, _pinned: &'a impl Pinned) -> &'a T {
        let address: usize;
        // SAFETY: Adds this CPU's offset, a per-CPU variable read through GS.
        unsafe {
            asm!(
                "add {address}, gs:[rip + {offset}]",
                address = inout(reg) self.base.as_ptr() as usize => address,
                offset = sym bindings::this_cpu_off,
                options(nostack, readonly),
            );
        }
        // SAFETY: By the invariant; the value lives as long as `self`.
        unsafe { &*(address as *const T) }
    }
}

impl<T> Drop for PerCpu<T> {
    fn drop(&mut self) {
        // SAFETY: By the invariant; `T` needs no drop, as `new` checked.
        unsafe { bindings::free_percpu(self.base.as_ptr().cast()) };
    }
}
