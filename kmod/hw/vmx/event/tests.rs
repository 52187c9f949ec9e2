// SPDX-License-Identifier: GPL-2.0

//! Injection and what is left of it after an exit, over all combinations.

use super::*;
use crate::hw::event::interrupted;

const ALL_CODES: [ErrorCodes; 4] = [
    ErrorCodes {
        protected: false,
        any: false,
    },
    ErrorCodes {
        protected: false,
        any: true,
    },
    ErrorCodes {
        protected: true,
        any: false,
    },
    ErrorCodes {
        protected: true,
        any: true,
    },
];

fn events() -> Vec<Event> {
    let mut all = vec![Event::Nmi];
    for vector in 0..=255 {
        all.push(Event::Interrupt(vector));
        all.push(Event::SoftwareInterrupt(vector));
        for code in [None, Some(0), Some(0x7), Some(0xffff), Some(0xffff_ffff)] {
            all.push(Event::Exception(vector, code));
        }
    }
    all
}

/// The checks of SDM vol. 3, 27.2.1.3, "VM-Entry Control Fields", on an entry
/// that delivers an event, word by word.
fn entry_accepts(injection: &Injection, codes: ErrorCodes) -> bool {
    let info = injection.info.0;
    let (vector, kind) = (info & 0xff, info >> 8 & 7);
    let deliver_code = info >> 11 & 1 != 0;
    if info >> 31 == 0 || info & 0x7fff_f000 != 0 {
        return false;
    }
    let kind_and_vector = match kind {
        0 | 4..=6 => true,
        2 => vector == 2,
        3 => vector <= 31,
        // 1 is reserved; 7 is for a pending MTF.
        _ => false,
    };
    let has_code_by_vector = matches!(vector, 8 | 10..=14 | 17);
    let code_bit = if kind != 3 || !codes.protected {
        !deliver_code
    } else {
        codes.any || deliver_code == has_code_by_vector
    };
    // Types 4 to 6 need an instruction length, which we never write.
    kind_and_vector && code_bit && kind < 4 && deliver_code == injection.error_code.is_some()
}

#[test]
fn no_entry_is_refused_for_its_event() {
    for event in events() {
        for codes in ALL_CODES {
            let Some(injection) = Injection::of(event, codes) else {
                assert!(matches!(event, Event::SoftwareInterrupt(_)), "{event:?}");
                continue;
            };
            assert!(
                entry_accepts(&injection, codes),
                "{event:?}, {codes:?}: {injection:?}"
            );
        }
    }
}

#[test]
fn injections_by_kind() {
    for codes in ALL_CODES {
        for vector in 0..=255u8 {
            let injection = Injection::of(Event::Interrupt(vector), codes).unwrap();
            assert_eq!(injection.info.0, 1 << 31 | u32::from(vector));
            assert_eq!(
                Injection::of(Event::SoftwareInterrupt(vector), codes),
                None,
                "RIP is at it"
            );
        }
        let nmi = Injection::of(Event::Nmi, codes).unwrap();
        assert_eq!((nmi.info.0, nmi.error_code), (0x8000_0202, None));
    }
    let of = |vector, code, codes: ErrorCodes| {
        let injection = Injection::of(Event::Exception(vector, code), codes).unwrap();
        (injection.info.0, injection.error_code)
    };
    let [real, real_any, protected, any] = ALL_CODES;
    // #PF
    assert_eq!(of(14, Some(7), protected), (0x8000_0b0e, Some(7)));
    assert_eq!(of(14, Some(7), any), (0x8000_0b0e, Some(7)));
    assert_eq!(of(14, Some(7), real), (0x8000_030e, None));
    assert_eq!(of(14, Some(7), real_any), (0x8000_030e, None));
    // One that is owed is made up, one too many is left out: unless the
    // processor takes both.
    assert_eq!(of(13, None, protected), (0x8000_0b0d, Some(0)));
    assert_eq!(of(13, None, any), (0x8000_030d, None));
    assert_eq!(of(6, Some(5), protected), (0x8000_0306, None));
    assert_eq!(of(6, Some(5), any), (0x8000_0b06, Some(5)));
    // #CP: only a processor that knows it.
    assert_eq!(of(21, Some(3), protected), (0x8000_0315, None));
    assert_eq!(of(21, Some(3), any), (0x8000_0b15, Some(3)));
    // #BP and #OF: RIP is behind the instruction.
    assert_eq!(of(3, None, protected), (0x8000_0303, None));
    assert_eq!(of(4, None, any), (0x8000_0304, None));
}

#[test]
fn upper_half_of_an_error_code_is_dropped() {
    let protected = ALL_CODES[2];
    let event = Event::Exception(14, Some(0xdead_8007));
    assert_eq!(
        Injection::of(event, protected).unwrap().error_code,
        Some(0x8007)
    );
}

/// What IDT-vectoring information says (SDM vol. 3, 25.9.3 and 28.2.4), by hand.
fn expected(kind: u32, vector: u8, code: Option<u32>) -> Option<Event> {
    match kind {
        0 => Some(Event::Interrupt(vector)),
        2 => Some(Event::Nmi),
        3 => Some(Event::Exception(vector, code)),
        4..=6 => Some(Event::SoftwareInterrupt(vector)),
        _ => None,
    }
}

#[test]
fn every_vectoring_information() {
    const CODE: u32 = 0x1234_5678;
    for kind in 0..8u32 {
        for vector in 0..=255u8 {
            for has_code in [false, true] {
                // Bits 30 to 12 are undefined: all or none of them.
                for undefined in [0, 0x7fff_f000] {
                    let info = kind << 8 | u32::from(vector) | u32::from(has_code) << 11;
                    let info = info | undefined;
                    let mut read = 0;
                    let event = interrupted(Interruption(info | 1 << 31), || {
                        read += 1;
                        CODE
                    });
                    let code = has_code.then_some(CODE);
                    assert_eq!(event, expected(kind, vector, code), "{info:#x}");
                    let needed = kind == 3 && has_code;
                    assert_eq!(read, u32::from(needed), "read only where it counts");
                    let nothing = interrupted(Interruption(info), || panic!("not valid"));
                    assert_eq!(nothing, None);
                }
            }
        }
    }
}

/// What is cut off and delivered again is the same event.
#[test]
fn delivered_again_as_it_was() {
    for event in events() {
        for codes in ALL_CODES {
            let Some(injection) = Injection::of(event, codes) else {
                continue;
            };
            // IDT-vectoring information is the entry's (28.2.4).
            let again = interrupted(injection.info, || {
                u32::from(injection.error_code.expect("has none"))
            });
            let again = again.expect("no event");
            assert_eq!(Injection::of(again, codes), Some(injection), "{event:?}");
            assert!(
                !matches!(again, Event::SoftwareInterrupt(_)),
                "would be dropped"
            );
        }
    }
}

#[test]
fn blocking_of_nmis() {
    for kind in 0..8u32 {
        for vector in 0..=255u32 {
            for unblocked in [false, true] {
                let info = kind << 8 | vector;
                let valid = nmi_blocking(Interruption(info | 1 << 31), unblocked);
                // While an event is delivered the other bit is undefined.
                assert_eq!(valid, (kind == 2).then_some(false), "{info:#x}");
                let invalid = nmi_blocking(Interruption(info), unblocked);
                assert_eq!(invalid, unblocked.then_some(true), "{info:#x}");
            }
        }
    }
}

#[test]
fn kinds() {
    for bits in 0..8u32 {
        let kind = Interruption(bits << 8).kind();
        assert_eq!(kind.map(|kind| kind as u32), (bits != 1).then_some(bits));
    }
    assert!(Interruption(0x8000_0202).is(Kind::Nmi));
    assert!(!Interruption(0x202).is(Kind::Nmi));
    assert_eq!(Interruptibility::NMI.0, 8);
}
