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
        applies: stock_vmx,
        tests: &[
            "injection/traps_by_events",
            "debug/injected_breakpoint",
            "debug/injected_breakpoint_beside_its_intercept",
        ],
    },
    Fault {
        // The kernel's module writes that field; ours sets both. (APM volume 2, 15.20.)
        key: "next-rip",
        what: "Bochs pushes RIP for an injected #BP or #OF, where processors that have it push the \
               VMCB's next RIP, which the kernel's own module counts on",
        applies: || in_bochs() && stock_svm(),
        tests: &[
            "injection/traps_by_events",
            "debug/injected_breakpoint",
            "debug/injected_breakpoint_beside_its_intercept",
            "debug/injected_breakpoint_without_int3",
        ],
    },
    Fault {
        // Ours writes the field before each event and never looks.
        key: "old-event",
        what: "Bochs clears no more than the valid bit of EVENTINJ; the kernel's own module takes what \
               is left for an event, with which it does not step over the IRET of an NMI's handler",
        applies: || in_bochs() && stock_svm(),
        tests: &[
            "injection/nmi_blocked_until_iret",
            "injection/nmi_waiting_leaves_no_trace",
        ],
    },
    Fault {
        // The kernel's as well.
        key: "old-tsc",
        what: "the kernel's own module finds out when a TSC deadline is over when it is armed, and does \
               not look again when the TSC is written",
        applies: || stock_vmx() || stock_svm(),
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
        applies: || stock_svm() || parameter("kvm_intel", "enable_apicv"),
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
            "lapic/disabled_page_is_all_ones",
            "x2apic/page_is_all_ones",
        ],
    },
    Fault {
        // The API document says nothing of these ioctls but that they go with the capability, which
        // it offers here as well.
        key: "vapic-beside-apicv",
        what: "the kernel's own module offers KVM_CAP_VAPIC where the processor keeps the local APIC, \
               too, but sees neither the guest's accesses to TPR nor its interrupts then",
        applies: || parameter("kvm_intel", "enable_apicv"),
        tests: &[
            "vapic/word_is_told_the_state",
            "vapic/word_shows_what_is_in_service",
            "tpr-access/write_is_reported",
            "tpr-access/read_is_reported",
            "tpr-access/emulated_access_is_reported",
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
    faults_for(name)
        .filter(|fault| !despite.iter().any(|key| key == fault.key))
        .find(|fault| (fault.applies)())
        .map(|fault| fault.what)
}

fn faults_for(name: &str) -> impl Iterator<Item = &'static Fault> + '_ {
    FAULTS
        .iter()
        .filter(move |fault| fault.tests.contains(&name))
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

/// Whether the kernel's own module for VMX is loaded.
fn stock_vmx() -> bool {
    std::path::Path::new("/sys/module/kvm_intel").exists()
}

/// Whether the kernel's own module for SVM is.
fn stock_svm() -> bool {
    std::path::Path::new("/sys/module/kvm_amd").exists()
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
        let keys = |name| faults_for(name).map(|fault| fault.key).collect::<Vec<_>>();
        assert_eq!(
            keys("injection/traps_by_events"),
            ["event-length", "next-rip"]
        );
        assert!(keys("injection/traps_by").is_empty());
    }

    #[test]
    fn a_fault_names_a_test_once() {
        for fault in FAULTS {
            let mut names = fault.tests.to_vec();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), fault.tests.len(), "{}", fault.key);
        }
    }
}
