// SPDX-License-Identifier: GPL-2.0

//! The guest's XMM registers, while its FPU state is the current thread's.

use super::restore_if_needed;
use crate::host::task::IrqOff;
use core::arch::asm;

macro_rules! for_each_register {
    ($number:expr, $macro:ident, $place:expr) => {
        match $number & 15 {
            0 => $macro!("xmm0", $place),
            1 => $macro!("xmm1", $place),
            2 => $macro!("xmm2", $place),
            3 => $macro!("xmm3", $place),
            4 => $macro!("xmm4", $place),
            5 => $macro!("xmm5", $place),
            6 => $macro!("xmm6", $place),
            7 => $macro!("xmm7", $place),
            8 => $macro!("xmm8", $place),
            9 => $macro!("xmm9", $place),
            10 => $macro!("xmm10", $place),
            11 => $macro!("xmm11", $place),
            12 => $macro!("xmm12", $place),
            13 => $macro!("xmm13", $place),
            14 => $macro!("xmm14", $place),
            _ => $macro!("xmm15", $place),
        }
    };
}

macro_rules! store {
    ($register:literal, $place:expr) => {
        // SAFETY: Writes the 16 bytes of the place.
        unsafe {
            asm!(
                concat!("movups [{}], ", $register),
                in(reg) $place,
                options(nostack, preserves_flags),
            )
        }
    };
}

macro_rules! load {
    ($register:literal, $place:expr) => {
        // SAFETY: Reads the 16 bytes of the place. The register is the guest's,
        // which the kernel's own code does not use.
        unsafe {
            asm!(
                concat!("movups ", $register, ", [{}]"),
                in(reg) $place,
                options(nostack, preserves_flags, readonly),
            )
        }
    };
}

/// Reads XMM register `number`, 0 to 15. The guest's FPU state is swapped in.
pub fn read_xmm(number: u8) -> u128 {
    let off = IrqOff::new();
    restore_if_needed(&off);
    let mut bytes = [0u8; 16];
    for_each_register!(number, store, bytes.as_mut_ptr());
    u128::from_le_bytes(bytes)
}

/// Writes XMM register `number`, 0 to 15. The guest's FPU state is swapped in.
pub fn write_xmm(number: u8, value: u128) {
    let off = IrqOff::new();
    restore_if_needed(&off);
    let bytes = value.to_le_bytes();
    for_each_register!(number, load, bytes.as_ptr());
}
