// SPDX-License-Identifier: GPL-2.0

//! The processor's predictors and caches: what the host's mitigations want of a
//! hypervisor, and commands on a guest's behalf.

use super::bindings;
use super::wrmsr_safe;
use crate::host::task::IrqOff;

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

/// The guest about to run is another than the last one of this CPU: it is not
/// to use what that has trained, where the host wants that.
pub fn another_guest(_off: &IrqOff) {
    // SAFETY: A barrier only costs time.
    unsafe { bindings::iv_another_guest() };
}

/// When the first-level data cache is flushed before a guest runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L1tf {
    /// The processor does not need it, or the kernel was told not to.
    Never,
    /// When the host has run other code than the loop around the guest.
    Conditional,
    /// Each time.
    Always,
}

/// What the kernel's policy is for this processor; the kernel shows it to the
/// user as ours until [`l1tf_policy_ends`].
pub fn l1tf_policy() -> L1tf {
    // SAFETY: Reads variables of the kernel that are set at boot, and sets the
    // one that is the hypervisor's.
    match unsafe { bindings::iv_l1tf_policy() } {
        0 => L1tf::Never,
        1 => L1tf::Conditional,
        _ => L1tf::Always,
    }
}

/// The kernel shows no policy of ours any more.
pub fn l1tf_policy_ends() {
    // SAFETY: Sets the variable that is the hypervisor's.
    unsafe { bindings::iv_l1tf_policy_ends() };
}
