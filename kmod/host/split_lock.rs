// SPDX-License-Identifier: GPL-2.0

//! Locked accesses across cache lines, which hold up every CPU: the kernel has
//! the processor raise #AC for them, in guests too (`split_lock_detect=`; SDM
//! vol. 3, 10.1.2.3).

use super::bindings;
use super::cpu;

/// Whether the processor looks for them.
pub fn is_detected() -> bool {
    cpu::boot_cpu_has(cpu::Feature::SPLIT_LOCK_DETECT)
}

/// Has the kernel do what it does to a program whose instruction at `rip` makes
/// such an access: slow it down and let it, or else send a signal. True when the
/// instruction is to be executed again. May sleep.
pub fn handle(rip: u64) -> bool {
    // SAFETY: Called in the thread that ran the guest, where sleeping is allowed.
    unsafe { bindings::iv_guest_split_lock(rip) }
}
