// SPDX-License-Identifier: GPL-2.0

//! Interrupts and NMIs of the host that a VMX exit has acknowledged: the kernel
//! handles them as if they had come now, with the IDT and with FRED alike.

use super::bindings;
use crate::host::task::IrqOff;

/// Has the kernel handle the external interrupt `vector`.
pub fn take_interrupt(_off: &IrqOff, vector: u8) {
    // SAFETY: Interrupts are off, as they are when one is taken; the processor
    // has acknowledged this one.
    unsafe { bindings::iv_take_interrupt(u32::from(vector)) };
}

/// Has the kernel handle an NMI, and unblocks NMIs. To be called at once after
/// the exit.
pub fn take_nmi(_off: &IrqOff) {
    // SAFETY: The processor has taken an NMI, and blocks others.
    unsafe { bindings::iv_take_nmi() };
}
