// SPDX-License-Identifier: GPL-2.0

//! Model-specific registers of this CPU.
//!
//! Context: any. Which CPU it is must be settled by the caller, who has
//! interrupts or preemption off unless the register is the same on all.

use super::bindings;
use core::arch::asm;
use kernel::prelude::*;

/// Reads an MSR that exists; one that does not is reported in the kernel log
/// and reads as 0.
#[inline]
pub fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: RDMSR has no effect on memory; a fault is caught by the exception
    // table, whose handler zeroes both registers.
    unsafe {
        asm!(
            "2: rdmsr",
            "3:",
            ".pushsection __ex_table, \"a\"",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".long {fixup}",
            ".popsection",
            fixup = const bindings::EX_TYPE_RDMSR,
            in("ecx") msr,
            out("eax") low,
            out("edx") high,
            options(nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR; a value or register that the processor refuses is reported in
/// the kernel log and has no effect.
///
/// # Safety
///
/// The kernel can live with the value, or its own is back before it matters.
#[inline]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: By the precondition; a fault is caught by the exception table.
    unsafe {
        asm!(
            "2: wrmsr",
            "3:",
            ".pushsection __ex_table, \"a\"",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".long {fixup}",
            ".popsection",
            fixup = const bindings::EX_TYPE_WRMSR,
            in("ecx") msr,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags),
        );
    }
}

/// Reads an MSR that may not exist.
///
/// # Errors
///
/// `EIO` when the processor refuses.
pub fn rdmsr_safe(msr: u32) -> Result<u64> {
    let mut value = 0;
    // SAFETY: Stores to the local variable; a fault is caught.
    if unsafe { bindings::iv_rdmsr_safe(msr, &mut value) } != 0 {
        return Err(EIO);
    }
    Ok(value)
}

/// Writes an MSR that may not exist, or a value it may not take.
///
/// # Errors
///
/// `EIO` when the processor refuses.
///
/// # Safety
///
/// As for [`wrmsr`].
pub unsafe fn wrmsr_safe(msr: u32, value: u64) -> Result {
    // SAFETY: By the precondition; a fault is caught.
    if unsafe { bindings::iv_wrmsr_safe(msr, value) } != 0 {
        return Err(EIO);
    }
    Ok(())
}
