// SPDX-License-Identifier: GPL-2.0

//! This CPU and the others.

use super::bindings;

/// Frequency of the host's TSC in kHz.
pub fn tsc_khz() -> u32 {
    // SAFETY: Reads a variable the kernel sets at boot.
    unsafe { bindings::iv_tsc_khz() }
}
