// SPDX-License-Identifier: GPL-2.0

//! Exit reasons and qualifications, all of them.

use super::super::field::Field;
use super::*;
use std::cell::RefCell;
use std::collections::HashMap;

/// Fields with values; remembers what was read. Reading another one panics.
#[derive(Default)]
struct Fields {
    values: HashMap<u32, u64>,
    read: RefCell<Vec<u32>>,
}

impl Fields {
    fn with(values: &[(u32, u64)]) -> Self {
        Self {
            values: values.iter().copied().collect(),
            ..Self::default()
        }
    }

    fn get(&self, encoding: u32) -> u64 {
        self.read.borrow_mut().push(encoding);
        self.values
            .get(&encoding)
            .copied()
            .unwrap_or_else(|| panic!("read {encoding:#x}"))
    }
}

impl ReadFields for Fields {
    fn read<F: Field>(&self, field: F) -> F::Value {
        F::from_register(self.get(field.encoding()))
    }
}

fn qualified(reason: Reason, qualification: u64) -> Exit {
    let fields = Fields::with(&[(info::QUALIFICATION.encoding(), qualification)]);
    let exit = decode(reason, &fields);
    assert_eq!(fields.read.borrow().len(), 1, "reads one field");
    exit
}

/// Reasons that say all: nothing else is read.
#[test]
fn plain_reasons() {
    let plain: &[(&[u32], &str)] = &[
        (&[1, 52, 62], "HostInterrupt"),
        (&[7, 43], "InterruptWindow"),
        (&[8], "NmiWindow"),
        (&[10], "Cpuid"),
        (&[12], "Hlt"),
        (&[18], "Hypercall"),
        (&[31], "ReadMsr"),
        (&[32], "WriteMsr"),
        (&[13, 54], "CacheFlush"),
        (&[40], "Pause"),
        (&[36, 39], "MonitorWait"),
        (&[55], "SetXcr"),
        (&[15], "ReadPmc"),
        (&[9], "TaskSwitch"),
        (&[2], "Shutdown"),
        (
            &[
                11, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 50, 53, 59, 60, 63, 64, 65, 67, 68, 69,
                70, 72, 73, 76, 77, 78, 79, 80, 81, 84, 85,
            ],
            "Undefined",
        ),
    ];
    let qualified = [0, 28, 29, 30, 45, 48];
    for number in 0..=0xffffu32 {
        if qualified.contains(&number) {
            continue;
        }
        let expected = plain
            .iter()
            .find(|(reasons, _)| reasons.contains(&number))
            .map_or_else(
                || format!("Unexpected {{ code: {number} }}"),
                |(_, exit)| (*exit).to_owned(),
            );
        let exit = decode(Reason(number), &Fields::default());
        assert_eq!(format!("{exit:?}"), expected, "reason {number}");
    }
}

#[test]
fn end_of_an_interrupt() {
    let exit = qualified(Reason(45), 0x61);
    assert!(matches!(exit, Exit::Eoi { vector: 0x61 }));
}

/// What the upper half of the reason adds does not hide the exit.
#[test]
fn modifiers() {
    for modifier in [1 << 26, 1 << 27, 1 << 28, 1 << 29] {
        let exit = decode(Reason(10 | modifier), &Fields::default());
        assert!(matches!(exit, Exit::Cpuid));
        let exit = decode(Reason(13 | modifier), &Fields::default());
        assert!(matches!(exit, Exit::CacheFlush));
        let exit = decode(Reason(14 | modifier), &Fields::default());
        assert!(matches!(exit, Exit::Unexpected { code: 14 }));
    }
}

#[test]
fn failed_entries() {
    for number in 0..128u32 {
        let reason = Reason(1 << 31 | number);
        assert!(reason.is_entry_failure() && !Reason(number).is_entry_failure());
        let Exit::EntryFailed { reason } = decode(reason, &Fields::default()) else {
            panic!("reason {number} was decoded");
        };
        assert_eq!(reason, 0x8000_0000 | u64::from(number));
    }
}

#[test]
fn control_register_accesses() {
    for number in 0..16u8 {
        for gpr in 0..16u8 {
            for access in 0..4u64 {
                // Bits 31 to 16: LMSW's operand; bit 6: it is in memory.
                for rest in [0, 0xffff_0040, 0xffff_ffff_0000_0000] {
                    let bits = u64::from(number) | access << 4 | u64::from(gpr) << 8 | rest;
                    let Exit::ControlRegister(told) = qualified(Reason(28), bits) else {
                        panic!("{bits:#x}");
                    };
                    let expected = match access {
                        0 | 1 => RegisterAccess::Move {
                            number,
                            gpr,
                            write: access == 0,
                        },
                        _ => RegisterAccess::Decode,
                    };
                    assert_eq!(format!("{told:?}"), format!("{expected:?}"));
                }
            }
        }
    }
}

#[test]
fn debug_register_accesses() {
    for number in 0..8u8 {
        for gpr in 0..16u8 {
            for write in [false, true] {
                let bits = u64::from(number) | u64::from(!write) << 4 | u64::from(gpr) << 8;
                let exit = qualified(Reason(29), bits);
                let Exit::DebugRegister(RegisterAccess::Move {
                    number: told_number,
                    gpr: told_gpr,
                    write: told_write,
                }) = exit
                else {
                    panic!("{bits:#x}");
                };
                assert_eq!((told_number, told_gpr, told_write), (number, gpr, write));
            }
        }
    }
}

#[test]
fn io_instructions() {
    for (encoded, size) in [(0u64, 1u8), (1, 2), (3, 4)] {
        for input in [false, true] {
            for string in [false, true] {
                // REP, and an immediate operand.
                for rest in [0, 1 << 5, 1 << 6, 3 << 5] {
                    for port in [0u16, 0x80, 0x3f8, 0xcf8, 0xffff] {
                        let bits = encoded
                            | u64::from(input) << 3
                            | u64::from(string) << 4
                            | rest
                            | u64::from(port) << 16;
                        let Exit::Io(io) = qualified(Reason(30), bits) else {
                            panic!("{bits:#x}");
                        };
                        assert_eq!(
                            (io.port, io.size, io.input, io.string, io.next_rip),
                            (port, size, input, string, None)
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn ept_violations() {
    const GPA: u64 = 0x12_3456_7890;
    for bits in 0..1u64 << 9 {
        for rest in [0, 1 << 12, 0xffff_ffff_ffff_fe00] {
            let fields = Fields::with(&[
                (info::QUALIFICATION.encoding(), bits | rest),
                (info::GUEST_PHYSICAL.encoding(), GPA),
            ]);
            let Exit::NestedFault(fault) = decode(Reason(48), &fields) else {
                panic!("{bits:#x}");
            };
            assert_eq!(fields.read.borrow().len(), 2, "reads no field twice");
            assert_eq!(fault.gpa, Gpa(GPA));
            let bit = |number: u32| bits >> number & 1 != 0;
            assert_eq!(fault.write, bit(1));
            assert_eq!(fault.fetch, bit(2));
            assert_eq!(fault.present, (3..=6).any(bit));
            // With a linear address: bit 8 tells. Without: the PDPTEs.
            assert_eq!(fault.table_walk, !bit(7) || !bit(8));
        }
    }
}

#[test]
fn exceptions_and_nmis() {
    for kind in 0..8u32 {
        for vector in 0..=255u8 {
            for has_code in [false, true] {
                for unblocked in [0, 1 << 12] {
                    let bits = kind << 8 | u32::from(vector) | u32::from(has_code) << 11;
                    let bits = bits | unblocked;
                    let fields = Fields::with(&[
                        (info::INTERRUPTION.encoding(), u64::from(bits | 1 << 31)),
                        (info::ERROR_CODE.encoding(), 0x77),
                    ]);
                    let exit = decode(Reason(0), &fields);
                    let expected = match kind {
                        2 => Exit::HostNmi,
                        3 | 5 | 6 => Exit::Exception {
                            vector,
                            error_code: has_code.then_some(0x77),
                        },
                        _ => Exit::Unexpected { code: 0 },
                    };
                    assert_eq!(format!("{exit:?}"), format!("{expected:?}"), "{bits:#x}");
                    let invalid = Fields::with(&[(info::INTERRUPTION.encoding(), u64::from(bits))]);
                    assert!(matches!(
                        decode(Reason(0), &invalid),
                        Exit::Unexpected { code: 0 }
                    ));
                }
            }
        }
    }
}

#[test]
fn unblocking_by_iret() {
    for number in 0..=100u32 {
        for set in [false, true] {
            let qualification = u64::from(set) << 12;
            for vector in 0..32u32 {
                let interruption = 1 << 31 | 3 << 8 | u32::from(set) << 12 | vector;
                let fields = Fields::with(&[
                    (info::QUALIFICATION.encoding(), qualification),
                    (info::INTERRUPTION.encoding(), u64::from(interruption)),
                ]);
                let expected = match number {
                    // Undefined for a double fault.
                    0 => set && vector != 8,
                    48 | 62 | 66 => set,
                    _ => false,
                };
                assert_eq!(
                    nmi_unblocked(Reason(number), &fields),
                    expected,
                    "reason {number}, vector {vector}"
                );
            }
        }
    }
    let invalid = Fields::with(&[(info::INTERRUPTION.encoding(), 1 << 12)]);
    assert!(!nmi_unblocked(Reason(0), &invalid));
}

#[test]
fn apic_accesses() {
    for kind in 0..16u64 {
        for offset in [0, 0x80, 0xfff] {
            let qualification = kind << 12 | offset | 0xffff << 16;
            let fields = Fields::with(&[(info::QUALIFICATION.encoding(), qualification)]);
            let Exit::NestedFault(fault) = apic_access(&fields, Gpa(0xfee0_0abc)) else {
                panic!("kind {kind}");
            };
            let linear = kind < 4;
            let expected = if linear { offset } else { 0 };
            assert_eq!(fault.gpa, Gpa(0xfee0_0000 | expected));
            assert_eq!((fault.write, fault.fetch), (kind == 1, kind == 2));
            assert_eq!(fault.table_walk, !linear);
        }
    }
}

/// SDM vol. 3, appendix C: those that are an instruction have its length.
#[test]
fn instruction_lengths() {
    let events = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 34, 35, 37, 38, 41, 42, 43, 44, 45, 48, 49, 52, 56, 62,
        66, 71, 74, 75, 82, 83,
    ];
    for number in 0..86u32 {
        assert_eq!(
            Reason(number).has_instruction_length(),
            !events.contains(&number),
            "reason {number}"
        );
        assert_eq!(
            Reason(number | 1 << 26).has_instruction_length(),
            Reason(number).has_instruction_length()
        );
    }
    assert!(!Reason(86).has_instruction_length());
}

#[test]
fn names() {
    let unnamed: Vec<_> = (0..=0xffffu32)
        .filter(|number| Reason(*number).name().is_none())
        .take(9)
        .collect();
    assert_eq!(unnamed, [35, 38, 42, 71, 82, 83, 86, 87, 88]);
    assert_eq!(
        Reason(0x8000_0021).name(),
        Some("VM-entry failure: invalid guest state")
    );
    let mut seen = std::collections::HashSet::new();
    for number in 0..128 {
        if let Some(name) = Reason(number).name() {
            assert!(seen.insert(name), "two are named {name}");
        }
    }
}
