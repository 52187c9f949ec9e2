// SPDX-License-Identifier: GPL-2.0

//! SVM instructions outside the world switch.

use crate::pc::addr::Hpa;
use core::arch::asm;

/// VMSAVE: writes FS, GS, TR, LDTR and the SYSCALL and SYSENTER MSRs of this
/// CPU to the save area of `page` (APM vol. 2, 15.5.2). Does nothing when the
/// kernel has switched SVM off to go down.
#[inline]
pub(super) fn vmsave(page: Hpa) {
    // EX_TYPE_DEFAULT: go on after the instruction.
    // SAFETY: The page is a VMCB of this module; nothing but it is written.
    unsafe {
        asm!(
            "2: vmsave rax",
            "3:",
            ".pushsection __ex_table, \"a\"",
            ".balign 4",
            ".long 2b - ., 3b - ., 1",
            ".popsection",
            in("rax") page.0,
            options(nostack, preserves_flags),
        );
    }
}
