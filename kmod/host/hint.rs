// SPDX-License-Identifier: GPL-2.0

//! What the compiler is not to know.

use core::arch::asm;
use core::ptr;

/// The same reference, as one that the compiler has not seen before.
///
/// At the head of a loop that seldom turns twice. Without it the addresses of all
/// fields that the loop names are worked out before it, for turns that never
/// come, and kept in memory because there are more of them than registers.
#[inline(always)]
#[allow(
    clippy::pointers_in_nomem_asm_block,
    reason = "there is no instruction, so nothing is read or written"
)]
pub fn fresh<T>(value: &mut T) -> &mut T {
    let mut pointer = ptr::from_mut(value);
    // SAFETY: No instruction.
    unsafe { asm!("/* {0} */", inout(reg) pointer, options(nomem, nostack, preserves_flags)) };
    // SAFETY: It is the pointer from the exclusive reference, which is borrowed
    // for as long.
    unsafe { &mut *pointer }
}
