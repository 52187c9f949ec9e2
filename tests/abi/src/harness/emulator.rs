// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that cannot pass in an emulator, because its processor is not what the manuals say, or on
//! the kernel's own KVM because of a fault of its own.
//!
//! Each is named with the fault. One that an emulator is to blame for belongs here only if it fails
//! there on the kernel's own KVM as well, and for that reason.

/// What is wrong here and which tests therefore cannot pass.
struct Fault {
    /// For `--despite`.
    key: &'static str,
    what: &'static str,
    /// Whether it is so here.
    applies: fn() -> bool,
    tests: &'static [&'static str],
}

const FAULTS: &[Fault] = &[
    Fault {
        // Not of a module that bounds a guest's time by the preemption timer.
        key: "interrupts-off",
        what: "in Bochs an interrupt does not make a guest exit that has interrupts off",
        applies: in_bochs,
        tests: &[
            "caps/disable_exits_hlt",
            "injection/signal_ends_run",
            "injection/signal_is_noticed_soon",
            "no_progress/exits_without_end",
            "no_progress/rip_beyond_segment",
            "smp/shootdown_by_ipi",
        ],
    },
    Fault {
        // With one CPU its loop is another, which does it right.
        key: "several-cpus",
        what: "in Bochs with several CPUs a guest that an interrupt makes exit right after an \
               exception was delivered has RIP of before the delivery, all else of after it",
        applies: || in_bochs() && processors() > 1,
        tests: &["injection/host_interrupts_beside_faults"],
    },
    Fault {
        key: "accessed-dirty",
        what: "Bochs sets accessed and dirty bits in the guest's tables without asking the EPT \
               on processors whose EPT has no such bits",
        applies: || in_bochs() && !processor_has("ept_ad"),
        tests: &["dirty_log/accessed_and_dirty_bits_of_guest_tables"],
    },
    Fault {
        key: "trap-flag",
        what: "in Bochs on AMD's processors the host gets lost after an exit of a guest that has TF set",
        applies: || in_bochs() && processor_has("svm"),
        tests: &[
            "cpu/single_step_by_guest",
            "debug/single_step",
            "emulate/single_step_over_mmio",
        ],
    },
    Fault {
        key: "cr2",
        what: "in Bochs on AMD's processors VMRUN does not load CR2",
        applies: || in_bochs() && processor_has("svm"),
        tests: &["emulate/page_fault_during_emulation"],
    },
    Fault {
        // No emulator's, but the kernel's own: it enters such an event without its length.
        key: "event-length",
        what: "the kernel's own module for VMX forgets how long the instruction of an event is that \
               userspace has set: refused by some processors, delivered with a wrong address by others",
        applies: || std::path::Path::new("/sys/module/kvm_intel").exists(),
        tests: &[
            "injection/traps_by_events",
            "debug/injected_breakpoint",
            "debug/injected_breakpoint_beside_its_intercept",
        ],
    },
    Fault {
        // The kernel's as well.
        key: "old-tsc",
        what: "the kernel's own module finds out when a TSC deadline is over when it is armed, and does \
               not look again when the TSC is written",
        applies: || {
            ["kvm_intel", "kvm_amd"]
                .iter()
                .any(|module| std::path::Path::new("/sys/module").join(module).exists())
        },
        tests: &[
            "deadline/tsc_written_by_the_guest",
            "deadline/tsc_written_by_userspace",
            "deadline/rate_changed_while_armed",
        ],
    },
    Fault {
        // The kernel's own module does not run there then: the alignment of its posted-interrupt
        // descriptor, which is what it has to be, is not enough for Bochs.
        key: "virtual-interrupts",
        what: "Bochs delivers a virtual interrupt to a guest with interrupts off when one of the \
               host is pending, and does not tell which one an exit has cut off",
        applies: || in_bochs() && delivers_by_processor(),
        tests: &[
            "delivery/waits_while_interrupts_are_off",
            "dirty_log/events_that_find_the_list_full",
        ],
    },
    Fault {
        key: "disabled-self-ipi",
        what: "the kernel's own module leaves self-IPIs to the processor while the local APIC is \
               disabled by software, too",
        applies: || parameter("kvm_intel", "enable_apicv"),
        tests: &["delivery/software_disabled_sends_nothing"],
    },
    Fault {
        // Not an emulator's either.
        key: "late-list",
        what: "the kernel's own module for VMX reads the dirty log without waiting for the vCPUs to \
               hand over their page-modification logs",
        applies: || parameter("kvm_intel", "pml"),
        tests: &["dirty_log/what_was_written_before_is_read"],
    },
];

/// The faults that can be told to be ignored.
pub fn keys() -> impl Iterator<Item = &'static str> {
    FAULTS.iter().map(|fault| fault.key)
}

/// Why the test `name` is not to be run here, if it is not. The faults in `despite` are no reason.
pub fn excuse(name: &str, despite: &[String]) -> Option<&'static str> {
    let fault = fault_for(name)?;
    let counts = !despite.iter().any(|key| key == fault.key) && (fault.applies)();
    counts.then_some(fault.what)
}

fn fault_for(name: &str) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.tests.contains(&name))
}

/// Whether what takes minutes is to be done less often: an emulator that has one thread and a
/// fifth of TCG's speed.
pub fn is_slow() -> bool {
    in_bochs()
}

/// Whether the kernel names `feature` among those of the processor or of its VMX.
pub fn processor_has(feature: &str) -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.split_whitespace().any(|word| word == feature)
}

/// Whether a module has this parameter, and it says yes.
fn parameter(module: &str, name: &str) -> bool {
    std::fs::read_to_string(format!("/sys/module/{module}/parameters/{name}"))
        .is_ok_and(|value| value.starts_with('Y'))
}

/// Whether processors deliver interrupts of guests, with whichever module.
fn delivers_by_processor() -> bool {
    parameter("kvm", "virtual_interrupts") || parameter("kvm_intel", "enable_apicv")
}

/// How many processors are online.
fn processors() -> usize {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let is_first = |line: &&str| line.starts_with("processor");
    info.lines().filter(is_first).count()
}

/// Whether this machine is in Bochs, told by its firmware.
fn in_bochs() -> bool {
    std::fs::read_to_string("/sys/class/dmi/id/bios_vendor")
        .is_ok_and(|vendor| vendor.contains("Bochs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_tests_are_excused() {
        let key = |name| fault_for(name).map(|fault| fault.key);
        assert_eq!(key("caps/disable_exits_hlt"), Some("interrupts-off"));
        assert_eq!(key("caps/disable_exits"), None);
    }

    #[test]
    fn a_test_has_one_reason() {
        let mut names: Vec<_> = FAULTS.iter().flat_map(|fault| fault.tests).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
