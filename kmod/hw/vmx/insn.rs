// SPDX-License-Identifier: GPL-2.0

//! VMX instructions outside the world switch (SDM vol. 3, chapter 31).
//!
//! Each goes on after a fault: when the kernel has switched VMX off to go down,
//! they all raise #UD. Reads give 0 then, and the entry that follows fails.

use crate::pc::addr::Hpa;
use core::arch::asm;

/// `asm!` of one instruction, with what it has in the exception table: after a
/// fault, go on behind it (EX_TYPE_DEFAULT), with `flags` of the table if any.
macro_rules! go_on_after {
    (
        $(before $before:literal,)? $instruction:literal $(, then $then:literal)? $(, flags $flags:literal)?;
        $($operands:tt)*
    ) => {
        asm!(
            $($before,)?
            concat!("2: ", $instruction),
            concat!("3: ", $($then)?),
            ".pushsection __ex_table, \"a\"",
            ".balign 4",
            concat!(".long 2b - ., 3b - ., 1", $(" | ", $flags)?),
            ".popsection",
            $($operands)*
        )
    };
}

/// What INVEPT invalidates (SDM vol. 3, 31.3, INVEPT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(super) enum InveptScope {
    /// What was cached through one EPT pointer.
    Single = 1,
    /// What was cached through any.
    All = 2,
}

/// VMREAD of a field that the processor has. The caller has made the VMCS current
/// on this CPU, with interrupts off. A fault alone has to be told from a value,
/// and there the handler of exceptions sets 0.
#[inline]
pub(super) fn vmread(field: u32) -> u64 {
    let value: u64;
    // EX_FLAG_CLEAR_AX.
    // SAFETY: Reads the current VMCS, and writes only registers.
    unsafe {
        go_on_after!(
            "vmread rax, {field}", flags "0x1000";
            field = in(reg) u64::from(field),
            out("rax") value,
            options(nomem, nostack),
        );
    }
    value
}

/// As [`vmread`], for a field that the processor may not have.
pub(super) fn try_vmread(field: u32) -> Option<u64> {
    let value: u64;
    let refused: u8;
    // SAFETY: As for `vmread`.
    unsafe {
        go_on_after!(
            before "stc", "vmread {value}, {field}", then "setna {refused}";
            field = in(reg) u64::from(field),
            value = out(reg) value,
            refused = out(reg_byte) refused,
            options(nostack),
        );
    }
    (refused == 0).then_some(value)
}

/// VMWRITE. False when the processor has refused.
///
/// # Safety
///
/// The current VMCS is one of this module's, and with the value in it an exit
/// still comes back to the host as it was left, and the guest reaches no memory
/// of the host's.
#[inline]
pub(super) unsafe fn vmwrite(field: u32, value: u64) -> bool {
    let refused: u8;
    // SAFETY: By the precondition.
    unsafe {
        go_on_after!(
            "vmwrite {field}, {value}", then "setna {refused}";
            field = in(reg) u64::from(field),
            value = in(reg) value,
            refused = lateout(reg_byte) refused,
            options(nostack),
        );
    }
    refused == 0
}

/// As [`vmwrite`], for a field that every processor has: it cannot be refused.
///
/// # Safety
///
/// As for [`vmwrite`].
#[inline]
pub(super) unsafe fn vmwrite_plain(field: u32, value: u64) {
    // SAFETY: By the precondition.
    unsafe {
        go_on_after!(
            "vmwrite {field}, {value}";
            field = in(reg) u64::from(field),
            value = in(reg) value,
            options(nostack),
        );
    }
}

/// VMPTRLD: makes the VMCS in `page` the current one of this CPU. False when
/// the processor has refused.
///
/// # Safety
///
/// The page is a VMCS of this module with the revision identifier set, and it
/// is active on no other CPU.
#[inline]
pub(super) unsafe fn vmptrld(page: Hpa) -> bool {
    let refused: u8;
    let pointer = page.0;
    // SAFETY: By the precondition; the operand is a local variable.
    unsafe {
        go_on_after!(
            before "stc", "vmptrld [{pointer}]", then "setna {refused}";
            pointer = in(reg) &raw const pointer,
            refused = lateout(reg_byte) refused,
        );
    }
    refused == 0
}

/// VMCLEAR: writes everything the processor holds of the VMCS back to `page`,
/// which is then active nowhere and has not been launched.
///
/// # Safety
///
/// The page is a VMCS of this module, active on this CPU or on none.
#[inline]
pub(super) unsafe fn vmclear(page: Hpa) {
    let pointer = page.0;
    // SAFETY: By the precondition; the operand is a local variable.
    unsafe {
        go_on_after!(
            "vmclear [{pointer}]";
            pointer = in(reg) &raw const pointer,
        );
    }
}

/// INVEPT on this CPU.
#[inline]
pub(super) fn invept(scope: InveptScope, ept_pointer: u64) {
    let descriptor: [u64; 2] = [ept_pointer, 0];
    // SAFETY: Forgetting translations only costs time; the operand is a local
    // variable.
    unsafe {
        go_on_after!(
            "invept {scope}, [{descriptor}]";
            scope = in(reg) scope as u64,
            descriptor = in(reg) descriptor.as_ptr(),
        );
    }
}

/// Sets CR2, which VMX leaves to software.
#[inline]
pub(super) fn write_cr2(value: u64) {
    // SAFETY: The host reads CR2 only after a page fault has set it.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nostack, nomem, preserves_flags)) };
}

/// CR2.
#[inline]
pub(super) fn read_cr2() -> u64 {
    let value: u64;
    // SAFETY: Reading a control register has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nostack, nomem, preserves_flags)) };
    value
}
