// SPDX-License-Identifier: GPL-2.0

//! Reading and writing the calling process's memory by host virtual address.
//!
//! The functions named `nofault` neither sleep nor bring pages in: they may be
//! used with interrupts off, and give [`Fault`] for a page that is not there.
//! The others may sleep and take `mmap_lock`. All need the process's own mm to
//! be the current one.

use crate::host::bindings;
use crate::pc::addr::Hva;
use core::arch::asm;

/// Nothing (suitable) is mapped at the address: `EFAULT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// The end of the part of the address space that a process has.
pub fn user_end() -> Hva {
    // SAFETY: Reads what does not change after boot.
    Hva(unsafe { bindings::iv_user_end() } as u64)
}

/// Copies from the process. Part of `to` may have been written on a fault.
#[inline]
pub fn read(hva: Hva, to: &mut [u8]) -> Result<(), Fault> {
    // SAFETY: `to` is valid for its length; the address is checked by the callee.
    done(unsafe { bindings::iv_user_read(to.as_mut_ptr().cast(), hva.0 as usize, to.len()) })
}

/// Copies to the process. Part may have been written on a fault.
#[inline]
pub fn write(hva: Hva, from: &[u8]) -> Result<(), Fault> {
    // SAFETY: `from` is valid for its length; the address is checked by the callee.
    done(unsafe { bindings::iv_user_write(hva.0 as usize, from.as_ptr().cast(), from.len()) })
}

/// [`read`], of pages that are there.
#[inline]
pub fn read_nofault(hva: Hva, to: &mut [u8]) -> Result<(), Fault> {
    // SAFETY: `to` is valid for its length; the address is checked by the callee.
    done(unsafe {
        bindings::iv_user_read_nofault(to.as_mut_ptr().cast(), hva.0 as usize, to.len())
    })
}

/// [`write`], to pages that are there and writable.
#[inline]
pub fn write_nofault(hva: Hva, from: &[u8]) -> Result<(), Fault> {
    // SAFETY: `from` is valid for its length; the address is checked by the callee.
    done(unsafe {
        bindings::iv_user_write_nofault(hva.0 as usize, from.as_ptr().cast(), from.len())
    })
}

/// One load of 8 bytes at an aligned address.
#[inline]
pub fn read_u64_nofault(hva: Hva) -> Result<u64, Fault> {
    let mut value = 0;
    // SAFETY: The address is checked by the callee.
    let read = unsafe { bindings::iv_user_get_u64_nofault(hva.0 as usize, &mut value) };
    read.then_some(value).ok_or(Fault)
}

/// One load of 4 bytes at an aligned address.
#[inline]
pub fn read_u32_nofault(hva: Hva) -> Result<u32, Fault> {
    let mut value = 0;
    // SAFETY: The address is checked by the callee.
    let read = unsafe { bindings::iv_user_get_u32_nofault(hva.0 as usize, &mut value) };
    read.then_some(value).ok_or(Fault)
}

/// A word of the process's memory, and what it was.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Word {
    /// Where, at a multiple of eight.
    pub hva: Hva,
    /// Its value.
    pub value: u64,
}

/// The 16 bytes at `hva`, of a page that is there, if all `words` are there and
/// have their values. The words are read first.
#[inline]
pub fn read_if_nofault(words: &[Word], hva: Hva) -> Option<u128> {
    const { assert!(core::mem::size_of::<Word>() == 16) };
    let mut read = [0; 2];
    // SAFETY: A `Word` is two integers, `read` is two; addresses of memory are
    // checked by the callee.
    let same = unsafe {
        bindings::iv_user_read_if_nofault(
            words.as_ptr().cast(),
            words.len(),
            hva.0 as usize,
            read.as_mut_ptr(),
        )
    };
    let [low, high] = read;
    same.then_some(u128::from(high) << 64 | u128::from(low))
}

/// Replaces `size` (1, 2, 4 or 8) bytes at `hva`, naturally aligned, by `new` if
/// they are `old`; atomic and locked as the processor's CMPXCHG. `Ok(Err(seen))`
/// when they are `seen` instead. May sleep. [`Fault`] for another size too.
pub fn cmpxchg(hva: Hva, size: u32, old: u64, new: u64) -> Result<Result<(), u64>, Fault> {
    let mut seen = old;
    // SAFETY: The address is checked by the callee.
    let result = unsafe { bindings::iv_user_cmpxchg(hva.0 as usize, size, &mut seen, new) };
    exchanged(result, seen)
}

/// [`cmpxchg`], of bytes that are there and writable.
#[inline]
pub fn cmpxchg_nofault(hva: Hva, size: u32, old: u64, new: u64) -> Result<Result<(), u64>, Fault> {
    let mut seen = old;
    // SAFETY: The address is checked by the callee.
    let result = unsafe { bindings::iv_user_cmpxchg_nofault(hva.0 as usize, size, &mut seen, new) };
    exchanged(result, seen)
}

#[inline]
fn exchanged(result: i32, seen: u64) -> Result<Result<(), u64>, Fault> {
    match result {
        0 => Ok(Ok(())),
        1 => Ok(Err(seen)),
        _ => Err(Fault),
    }
}

fn done(left: usize) -> Result<(), Fault> {
    if left == 0 {
        Ok(())
    } else {
        Err(Fault)
    }
}

/// `index` if it is less than `len`, else 0; also where the processor
/// speculates past the comparison that made sure of it (Spectre variant 1).
#[inline]
pub fn index_nospec(index: u64, len: u64) -> u64 {
    let mask: u64;
    // SAFETY: Compares two registers and writes a third.
    unsafe {
        asm!(
            "cmp {index}, {len}",
            "sbb {mask}, {mask}",
            index = in(reg) index,
            len = in(reg) len,
            mask = out(reg) mask,
            options(pure, nomem, nostack),
        );
    }
    index & mask
}
