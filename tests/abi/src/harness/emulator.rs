// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that cannot pass in an emulator, because its processor is not what the manuals say.
//!
//! Each is named with the emulator's fault. A test belongs here only if it fails there on the
//! kernel's own KVM as well, and for that reason.

/// An emulator that hosts under test run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Emulator {
    Bochs,
}

/// What an emulator gets wrong and which tests therefore cannot pass in it.
struct Fault {
    emulator: Emulator,
    /// For `--despite`.
    key: &'static str,
    what: &'static str,
    /// Whether the processor is one that has it.
    applies: fn() -> bool,
    tests: &'static [&'static str],
}

const FAULTS: [Fault; 2] = [
    Fault {
        emulator: Emulator::Bochs,
        // Not of a module that bounds a guest's time by the preemption timer.
        key: "interrupts-off",
        what: "in Bochs an interrupt does not make a guest exit that has interrupts off",
        applies: || true,
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
        emulator: Emulator::Bochs,
        key: "accessed-dirty",
        what: "Bochs sets accessed and dirty bits in the guest's tables without asking the EPT \
               on processors whose EPT has no such bits",
        applies: || !processor_has("ept_ad"),
        tests: &["dirty_log/accessed_and_dirty_bits_of_guest_tables"],
    },
];

/// The faults that can be told to be ignored.
pub fn keys() -> impl Iterator<Item = &'static str> {
    FAULTS.iter().map(|fault| fault.key)
}

/// Why the test `name` is not to be run here, if it is not. The faults in `despite` are no reason.
pub fn excuse(name: &str, despite: &[String]) -> Option<&'static str> {
    let emulator = here()?;
    let fault = fault_for(emulator, name)?;
    let counts = !despite.iter().any(|key| key == fault.key) && (fault.applies)();
    counts.then_some(fault.what)
}

fn fault_for(emulator: Emulator, name: &str) -> Option<&'static Fault> {
    FAULTS
        .iter()
        .find(|fault| fault.emulator == emulator && fault.tests.contains(&name))
}

/// Whether what takes minutes is to be done less often: an emulator that has one thread and a
/// fifth of TCG's speed.
pub fn is_slow() -> bool {
    here() == Some(Emulator::Bochs)
}

/// Whether the kernel names `feature` among those of the processor or of its VMX.
fn processor_has(feature: &str) -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.split_whitespace().any(|word| word == feature)
}

/// The emulator that this machine is in, told by its firmware.
fn here() -> Option<Emulator> {
    let vendor = std::fs::read_to_string("/sys/class/dmi/id/bios_vendor").ok()?;
    vendor.contains("Bochs").then_some(Emulator::Bochs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_tests_are_excused() {
        let key = |name| fault_for(Emulator::Bochs, name).map(|fault| fault.key);
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
