// SPDX-License-Identifier: GPL-2.0-or-later

//! What Bochs writes into its log: how the machine ended.

/// What Bochs calls a panic when the machine turns itself off.
const POWER_OFF: &str = "ACPI control: soft power off";
/// Marks a panic.
const PANIC: &str = ">>PANIC<<";

/// Why Bochs has given up, in its own words; `None` if it has not, or if the
/// machine has turned itself off, which Bochs calls a panic too.
pub fn panic(log: &str) -> Option<String> {
    // Bochs writes a panic once as a message and once as its last word, which
    // may stand in the middle of a line.
    let last = log.rfind(PANIC)?;
    let line_start = log[..last].rfind('\n').map_or(0, |at| at + 1);
    let line = log[line_start..].lines().next()?;
    let (before, text) = line.split_once(PANIC)?;
    let text = text.trim();
    if text == POWER_OFF {
        return None;
    }
    // The part that panicked stands in brackets before.
    let part = before
        .rfind('[')
        .map(|at| before[at..].trim_matches(['[', ']', ' ']))
        .filter(|part| !part.is_empty());
    let hint = if text.contains("exception with no resolution") || text.contains("shutdown state") {
        " (a triple fault: the host under test has reset itself, or lost its way)"
    } else if text.contains("cpu directive malformed") {
        " (is there a processor of that model?)"
    } else {
        ""
    };
    Some(match part {
        Some(part) => format!("{part}: {text}{hint}"),
        None => format!("{text}{hint}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_off_is_no_panic() {
        let log = "00000000000i[      ] Bochs x86 Emulator 3.0\n\
                   01488424016p[ACPI  ] >>PANIC<< ACPI control: soft power off\n";
        assert_eq!(panic(log), None);
        assert_eq!(panic(""), None);
        assert_eq!(panic("00000000000i[CPU0  ] fine\n"), None);
    }

    #[test]
    fn panics_are_told() {
        let log = "00000000000p[IMG   ] >>PANIC<< image locked: '/run/lab/disk'";
        assert_eq!(panic(log).unwrap(), "IMG: image locked: '/run/lab/disk'");
        let log = "x\n0123p[CPU0  ] >>PANIC<< exception(): 3rd (14) exception with no resolution\n";
        assert!(panic(log).unwrap().contains("triple fault"));
        // No matter what came before.
        let log = "1p[ACPI  ] >>PANIC<< ACPI control: soft power off\n2p[CPU0  ] >>PANIC<< x\n";
        assert_eq!(panic(log).unwrap(), "CPU0: x");
    }
}
