// SPDX-License-Identifier: GPL-2.0

//! The processor's debug registers around the run of a guest.
//!
//! Context: interrupts off.

use crate::host::task::IrqOff;
use core::arch::asm;

/// DR7 with every breakpoint off.
const DR7_OFF: u64 = 0x400;

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
