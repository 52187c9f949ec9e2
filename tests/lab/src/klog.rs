// SPDX-License-Identifier: GPL-2.0-or-later

//! Finding in a kernel's messages that something went wrong in it.

/// What the kernel says when something is wrong with itself. Whatever a test
/// says, a host under test that said one of these has failed.
const FAULTS: [&str; 29] = [
    "BUG:",
    "kernel BUG at",
    "WARNING:",
    "Oops:",
    "Kernel panic",
    "general protection fault",
    "unable to handle",
    "double fault",
    "stack segment:",
    "invalid opcode:",
    "divide error:",
    "unchecked MSR access error",
    "UBSAN:",
    "KASAN:",
    "KCSAN:",
    "possible recursive locking",
    "possible circular locking",
    "suspicious RCU usage",
    "inconsistent lock state",
    "held lock freed",
    "lock held when returning to user space",
    "detected stall",
    "self-detected stall",
    "blocked for more than",
    "blocked in I/O wait for more than",
    "hard LOCKUP",
    "scheduling while atomic",
    "Bad rss-counter",
    "list_add corruption",
];

/// Some of the above also begin what is said of a program or is no fault.
const HARMLESS: [&str; 2] = [
    // A program's own fault: "traps: prog[12] general protection fault ip:".
    "traps: ",
    // A mitigation that is off, said at boot.
    "mitigation",
];

/// The lines of `log` that tell of a fault.
pub fn faults(log: &str) -> Vec<&str> {
    log.lines().filter(|line| is_fault(line)).collect()
}

fn is_fault(line: &str) -> bool {
    FAULTS.iter().any(|fault| line.contains(fault))
        && !HARMLESS.iter().any(|harmless| line.contains(harmless))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_says_when_it_is_broken() {
        for line in [
            "[    5.1] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[    5.1] kernel BUG at mm/slub.c:4321!",
            "[    5.1] Oops: general protection fault, maybe for address 0x1: 0000 [#1] SMP NOPTI",
            "[    5.1] WARNING: CPU: 1 PID: 77 at arch/x86/kernel/fpu/core.c:499 fpu+0x1/0x2",
            "[    5.1] WARNING: possible recursive locking detected",
            "[    5.1] WARNING: possible circular locking dependency detected",
            "[    5.1] WARNING: suspicious RCU usage",
            "[   99.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[   99.1] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[  150.1] INFO: task abi-tests:90 blocked for more than 40 seconds.",
            "[   30.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [ironvm:80]",
            "[    5.1] unchecked MSR access error: RDMSR from 0x1234 at rIP: 0xffffffff",
            "[    5.1] Kernel panic - not syncing: Attempted to kill init!",
            "[    5.1] rust_kernel: panicked at kmod/x.rs:1:2:\nkernel BUG at rust/helpers/bug.c:7!",
        ] {
            assert_eq!(faults(line).len(), 1, "{line}");
        }
    }

    #[test]
    fn what_a_healthy_kernel_says() {
        for line in [
            "[    0.1] kvm: loading out-of-tree module taints kernel.",
            "[    0.1] kvm: module verification failed: signature and/or required key missing",
            "[    0.1] clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable",
            "[    1.1] traps: prog[77] general protection fault ip:401000 sp:7ffe error:0 in prog",
            "[    0.1] random: crng init done",
        ] {
            assert!(faults(line).is_empty(), "{line}");
        }
    }
}
