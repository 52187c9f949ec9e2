// SPDX-License-Identifier: GPL-2.0

//! The processor's debug registers around the run of a guest.
//!
//! Context: interrupts off.

use crate::host::task::IrqOff;
use core::arch::asm;

/// DR7 with every breakpoint off.
const DR7_OFF: u64 = 0x400;

extern "C" {
    /// Of each CPU: DR7 as the kernel wants it.
    static cpu_dr7: usize;
}

/// Loads DR0 to DR3 for a guest whose DR7 enables some of them. The host's own
/// breakpoints are off until [`guest_end`].
///
/// [`guest_end`]: super::task::guest_end
pub fn load(off: &IrqOff, addresses: &[u64; 4]) {
    clear(off);
    let [a, b, c, d] = *addresses;
    // SAFETY: Breakpoints are off in DR7; the guest's DR7 is in force only in
    // the guest.
    unsafe {
        asm!("mov dr0, {}", in(reg) a, options(nostack, preserves_flags));
        asm!("mov dr1, {}", in(reg) b, options(nostack, preserves_flags));
        asm!("mov dr2, {}", in(reg) c, options(nostack, preserves_flags));
        asm!("mov dr3, {}", in(reg) d, options(nostack, preserves_flags));
    }
}

/// Turns all breakpoints off.
pub fn clear(_off: &IrqOff) {
    // SAFETY: Turning breakpoints off harms nothing; the host's come back by
    // `guest_end`.
    unsafe { asm!("mov dr7, {}", in(reg) DR7_OFF, options(nostack, preserves_flags)) };
}

/// Whether the host has breakpoints on this CPU (`hw_breakpoint_active`).
#[inline]
pub fn host_has_breakpoints(_off: &IrqOff) -> bool {
    /// DR7: the global enable bit of each.
    const ENABLED: u8 = 0xaa;
    let active: u8;
    // SAFETY: Reads a per-CPU variable of this CPU through GS.
    unsafe {
        asm!(
            "test byte ptr gs:[rip + {variable}], {enabled}",
            "setnz {active}",
            variable = sym cpu_dr7,
            enabled = const ENABLED,
            active = lateout(reg_byte) active,
            options(nostack, readonly),
        );
    }
    active != 0
}
