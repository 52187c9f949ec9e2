// SPDX-License-Identifier: GPL-2.0

//! Commands to the processor's predictors and caches on a guest's behalf.

use super::wrmsr_safe;

const MSR_PRED_CMD: u32 = 0x49;
const MSR_FLUSH_CMD: u32 = 0x10b;
const L1D_FLUSH: u64 = 1 << 0;

/// Writes PRED_CMD. The processor has the bits of `command`; on one that does
/// not, nothing happens.
pub fn prediction_command(command: u64) {
    // SAFETY: The register has no state: a command only forgets predictions.
    let _ = unsafe { wrmsr_safe(MSR_PRED_CMD, command) };
}

/// Flushes the first-level data cache, where the processor can.
pub fn flush_l1d() {
    // SAFETY: The register has no state: a flush only costs time.
    let _ = unsafe { wrmsr_safe(MSR_FLUSH_CMD, L1D_FLUSH) };
}
