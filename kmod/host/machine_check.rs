// SPDX-License-Identifier: GPL-2.0

//! Machine checks that end the run of a guest.

use super::bindings;

/// Has the kernel handle the machine check that this CPU has just reported as
/// an exit, as if it had come in user mode. Interrupts on or off.
pub fn handle() {
    // SAFETY: Called on the CPU that reported it, in the thread that ran the
    // guest.
    unsafe { bindings::iv_machine_check() };
}
