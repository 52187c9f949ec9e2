// SPDX-License-Identifier: GPL-2.0

//! The processor's predictors and caches: what the host's mitigations want of a
//! hypervisor, and commands on a guest's behalf.

use super::bindings;
use super::wrmsr_safe;
use crate::host::task::IrqOff;

const MSR_PRED_CMD: u32 = 0x49;

/// Writes PRED_CMD. The processor has the bits of `command`; on one that does
/// not, nothing happens.
pub fn prediction_command(command: u64) {
    // SAFETY: The register has no state: a command only forgets predictions.
    let _ = unsafe { wrmsr_safe(MSR_PRED_CMD, command) };
}

/// The guest about to run is another than the last one of this CPU: it is not
/// to use what that has trained, where the host wants that.
pub fn another_guest(_off: &IrqOff) {
    // SAFETY: A barrier only costs time.
    unsafe { bindings::iv_another_guest() };
}
