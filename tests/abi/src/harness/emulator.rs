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
        key: "accessed-dirty",
        what: "Bochs sets accessed and dirty bits in the guest's tables without asking the EPT \
               on processors whose EPT has no such bits",
        applies: || in_bochs() && !processor_has("ept_ad"),
        tests: &["dirty_log/accessed_and_dirty_bits_of_guest_tables"],
    },
    Fault {
        key: "held-trap",
        what: "in Bochs on AMD's processors a debug trap that the shadow of MOV SS holds back is lost in \
               an exit, and a VMCB has no place for it",
        applies: || in_bochs() && processor_has("svm"),
        tests: &["debug/watchpoint_of_the_guest_before_an_exit"],
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
        key: "disabled-self-ipi",
        what: "the kernel's own module leaves self-IPIs to the processor while the local APIC is \
               disabled by software, too",
        applies: || parameter("kvm_intel", "enable_apicv"),
        tests: &["delivery/software_disabled_sends_nothing"],
    },
    Fault {
        // Nor this one.
        key: "event-on-the-apic",
        what: "the kernel's own module executes the next instruction in place of an event that \
               cannot be delivered because its stack is the local APIC's page",
        applies: || {
            std::path::Path::new("/sys/module/kvm_amd").exists()
                || parameter("kvm_intel", "enable_apicv")
        },
        tests: &["apic-page/stack_in_it"],
    },
    Fault {
        key: "apic-page-is-memory",
        what: "with the kernel's own module a vCPU whose local APIC is not in xAPIC mode reads and \
               writes the page that stands for those of others",
        applies: || parameter("kvm_intel", "enable_apicv"),
        tests: &[
            "apic-page/not_there_when_disabled",
            "apic-page/not_there_in_x2apic_mode",
            "apic-page/modes_change_beside_a_running_vcpu",
        ],
    },
    Fault {
        key: "written-esr",
        what: "the kernel's own module leaves what the guest writes to ESR in the page that the \
               processor keeps",
        applies: || parameter("kvm_intel", "enable_apicv"),
        tests: &["apic-page/errors"],
    },
    Fault {
        // It lets guests execute that page; ours does not.
        key: "fetch-from-the-apic",
        what: "Bochs ends when a guest fetches an instruction from the APIC-access page, which the \
               kernel's own module lets it",
        applies: || in_bochs() && parameter("kvm_intel", "enable_apicv"),
        tests: &["apic-page/fetched_from"],
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
        assert_eq!(key("injection/traps_by_events"), Some("event-length"));
        assert_eq!(key("injection/traps_by"), None);
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
