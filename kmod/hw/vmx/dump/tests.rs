// SPDX-License-Identifier: GPL-2.0

//! The dump of a VMCS, as text.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn lines(read: &dyn Fn(u32) -> Option<u64>) -> Vec<String> {
    let mut lines = Vec::new();
    dump(read, &mut |line| lines.push(line.to_string()));
    lines
}

/// A guest in 64-bit mode that could not be entered.
fn vmcs() -> HashMap<u32, u64> {
    [
        (info::REASON.encoding(), 0x8000_0021),
        (info::QUALIFICATION.encoding(), 4),
        (info::INSTRUCTION_ERROR.encoding(), 0),
        (info::VECTORING.encoding(), 0),
        (info::VECTORING_ERROR_CODE.encoding(), 0),
        (control::ENTRY_INTERRUPTION.encoding(), 0x8000_0b0e),
        (control::ENTRY_ERROR_CODE.encoding(), 2),
        (guest::RIP.encoding(), 0xffff_ffff_8100_0000),
        (guest::RSP.encoding(), 0),
        (guest::CR0.encoding(), 0x8005_0033),
        (guest::CS_SELECTOR.encoding(), 0x10),
        (guest::CS_BASE.encoding(), 0),
        (guest::CS_LIMIT.encoding(), 0xffff_ffff),
        (guest::CS_ACCESS.encoding(), 0xa09b),
        (guest::TR_SELECTOR.encoding(), 0x40),
        (guest::TR_BASE.encoding(), 0x1000),
        (guest::TR_LIMIT.encoding(), 0x67),
        (guest::TR_ACCESS.encoding(), 0x8b),
        (guest::LDTR_SELECTOR.encoding(), 0),
        (guest::LDTR_BASE.encoding(), 0),
        (guest::LDTR_LIMIT.encoding(), 0),
        (guest::LDTR_ACCESS.encoding(), 0x1_0000),
        (guest::GDTR_BASE.encoding(), 0x2000),
        (guest::GDTR_LIMIT.encoding(), 0x7f),
        (guest::ACTIVITY.encoding(), 0),
        (guest::INTERRUPTIBILITY.encoding(), 9),
        (host::RIP.encoding(), 0xffff_ffff_c000_0000),
        (control::PIN.encoding(), 0x3f),
        (control::SECONDARY.encoding(), 0xa2),
        (control::EPTP.encoding(), 0x1234_501e),
        (control::TSC_OFFSET.encoding(), 0),
    ]
    .into_iter()
    .collect()
}

#[test]
fn can_be_read() {
    let vmcs = vmcs();
    let text = lines(&|field| vmcs.get(&field).copied());
    let expected = "\
VMCS: the last exit or failed entry
  Exit qualification 0x0000000000000004
  Exit reason 0x80000021
  error: none
  reason: VM-entry failure: invalid guest state (entry failed)
  invalid: VMCS link pointer
VMCS: guest
  CR0 0x0000000080050033, GDTR base 0x0000000000002000, RSP 0x0000000000000000, RIP 0xffffffff81000000
  GDTR limit 0x0000007f, Interruptibility state 0x00000009, Activity state 0x00000000
  CS   0010 base=0000000000000000 limit=ffffffff access=0a09b
  LDTR 0000 base=0000000000000000 limit=00000000 access=10000
  TR   0040 base=0000000000001000 limit=00000067 access=0008b
  interruptibility: blocking by STI, blocking by NMI
VMCS: host
  RIP 0xffffffffc0000000
VMCS: controls
  EPT pointer 0x000000001234501e
  Pin-based controls 0x0000003f, VM-entry interruption information 0x80000b0e, VM-entry exception error code 0x00000002, Secondary processor-based controls 0x000000a2
  pin-based: external-interrupt exiting, NMI exiting, virtual NMIs
  secondary: enable EPT, enable VPID, unrestricted guest
  injected: exception, vector 14, with error code";
    assert_eq!(text.join("\n"), expected);
}

#[test]
fn nothing_but_headings_of_a_vmcs_that_cannot_be_read() {
    let text = lines(&|_| None);
    assert_eq!(
        text,
        [
            "VMCS: the last exit or failed entry",
            "VMCS: guest",
            "VMCS: host",
            "VMCS: controls"
        ]
    );
}

/// Every field is in the dump once: a value of its own for each shows it.
#[test]
fn all_fields_are_there() {
    let text = lines(&|field| Some(u64::from(field) << 4 | 0xf)).join("\n");
    let numbers: Vec<_> = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|word| match word.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            // In the table of segments.
            None => u32::from_str_radix(word, 16).ok(),
        })
        .collect();
    for group in [control::ALL, info::ALL, guest::ALL, host::ALL] {
        for field in group {
            let value = field.encoding << 4 | 0xf;
            let times = numbers.iter().filter(|number| **number == value).count();
            assert_eq!(times, 1, "{} ({:#x})", field.name, field.encoding);
        }
    }
}

/// A table has what there is, by width, and rows that fit.
#[test]
fn tables() {
    let text = |group, values, read: &dyn Fn(u32) -> Option<u64>| {
        let mut text = Vec::new();
        table(read, &mut |line| text.push(line.to_string()), group, values);
        text
    };
    let host = text(host::ALL, Values::All, &|field| {
        (field >> 13 != Field64::WIDTH).then_some(0)
    });
    assert_eq!(host.len(), 3 + 1 + 2);
    assert_eq!(host[3], "  IA32_SYSENTER_CS 0x00000000");
    assert_eq!(
        host[5],
        "  FS selector 0x0000, GS selector 0x0000, TR selector 0x0000"
    );
    assert!(text(host::ALL, Values::NonZero, &|_| Some(0)).is_empty());
}

proptest! {
    /// Whatever the fields hold: no panic, and lines that the log can take.
    #[test]
    fn any_value(seed in any::<u64>()) {
        let text = lines(&|field| {
            let mixed = (u64::from(field) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed & 7 != 0).then_some(mixed.rotate_left(17))
        });
        for line in text {
            prop_assert!(line.len() < 900, "{}", line);
            prop_assert!(!line.contains('\n'));
        }
    }
}
