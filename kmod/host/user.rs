// SPDX-License-Identifier: GPL-2.0

//! Memory of the process that makes an ioctl.
//!
//! Context: everything here may sleep and must run in the context of that
//! process.

use super::bindings;
use crate::uapi::Pod;
use core::mem::size_of_val;
use kernel::prelude::*;

/// An address given by userspace. Nothing is known about it; every access
/// through it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct UserPtr(usize);

impl UserPtr {
    /// The user address `address`.
    #[inline]
    pub const fn new(address: u64) -> Self {
        Self(address as usize)
    }

    /// The bare value: the address, or the argument of an ioctl that takes a
    /// number.
    #[inline]
    pub const fn addr(self) -> u64 {
        self.0 as u64
    }

    /// No address given.
    #[inline]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address `bytes` further on.
    ///
    /// # Errors
    ///
    /// `EFAULT` when the address space does not reach that far.
    #[inline]
    pub fn offset(self, bytes: usize) -> Result<Self> {
        self.0.checked_add(bytes).map(Self).ok_or(EFAULT)
    }

    /// Copies a value in.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    #[inline]
    pub fn read<T: Pod>(self) -> Result<T> {
        let mut value = T::zeroed();
        self.read_bytes(value.as_bytes_mut())?;
        Ok(value)
    }

    /// Copies a value out.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    #[inline]
    pub fn write<T: Pod>(self, value: &T) -> Result {
        self.write_bytes(value.as_bytes())
    }

    /// Fills `bytes` from this address on.
    ///
    /// # Errors
    ///
    /// `EFAULT`; part of `bytes` may have been overwritten.
    pub fn read_bytes(self, bytes: &mut [u8]) -> Result {
        // SAFETY: The destination is `bytes`; the source is checked by the callee.
        let left =
            unsafe { bindings::copy_from_user(bytes.as_mut_ptr().cast(), self.raw(), bytes.len()) };
        copied(left)
    }

    /// Stores `bytes` from this address on.
    ///
    /// # Errors
    ///
    /// `EFAULT`; a part may have been stored.
    pub fn write_bytes(self, bytes: &[u8]) -> Result {
        // SAFETY: The source is `bytes`; the destination is checked by the callee.
        let left =
            unsafe { bindings::copy_to_user(self.raw_mut(), bytes.as_ptr().cast(), bytes.len()) };
        copied(left)
    }

    /// Copies an array of `count` values in, of which there may be at most `max`.
    ///
    /// # Errors
    ///
    /// `E2BIG` for too many, `ENOMEM`, `EFAULT`.
    pub fn read_array<T: Pod>(self, count: usize, max: usize) -> Result<KVVec<T>> {
        if count > max {
            return Err(E2BIG);
        }
        let mut values = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        values.resize(count, T::zeroed(), GFP_KERNEL_ACCOUNT)?;
        self.read_slice(&mut values)?;
        Ok(values)
    }

    /// Fills `values` from this address on.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub fn read_slice<T: Pod>(self, values: &mut [T]) -> Result {
        let len = size_of_val(values);
        // SAFETY: The destination is `values`, whose elements may hold any bytes.
        let left = unsafe { bindings::copy_from_user(values.as_mut_ptr().cast(), self.raw(), len) };
        copied(left)
    }

    /// Stores `values` from this address on.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub fn write_slice<T: Pod>(self, values: &[T]) -> Result {
        let len = size_of_val(values);
        // SAFETY: The source is `values`, which has no uninitialised bytes.
        let left = unsafe { bindings::copy_to_user(self.raw_mut(), values.as_ptr().cast(), len) };
        copied(left)
    }

    #[inline]
    fn raw(self) -> *const kernel::ffi::c_void {
        self.0 as *const kernel::ffi::c_void
    }

    #[inline]
    fn raw_mut(self) -> *mut kernel::ffi::c_void {
        self.0 as *mut kernel::ffi::c_void
    }
}

/// The result of a copy that left `left` bytes.
#[inline]
fn copied(left: usize) -> Result {
    if left != 0 {
        return Err(EFAULT);
    }
    Ok(())
}
