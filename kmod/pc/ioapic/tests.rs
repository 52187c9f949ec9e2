// SPDX-License-Identifier: GPL-2.0

//! Tests of the I/O APIC.

use super::super::irq::{DestMode, LineStatus, Message};
use super::{IoApic, IoApicSink, Written, DEFAULT_ADDRESS, PINS, STORM_LIMIT};
use proptest::prelude::*;

/// Takes note of what is delivered.
struct Sink {
    sent: Vec<Message>,
    answer: LineStatus,
}

impl Sink {
    fn new() -> Self {
        Self {
            sent: Vec::new(),
            answer: LineStatus::Delivered(1),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        let vectors = self.sent.iter().map(|message| message.vector).collect();
        self.sent.clear();
        vectors
    }
}

impl IoApicSink for Sink {
    fn deliver(&mut self, message: &Message) -> LineStatus {
        self.sent.push(*message);
        self.answer
    }
}

const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;

fn write_register(ioapic: &mut IoApic, register: u8, value: u32) -> Written {
    assert_eq!(ioapic.write(0x00, register.into()), Written::default());
    ioapic.write(0x10, value)
}

fn read_register(ioapic: &mut IoApic, register: u8) -> u32 {
    let _ = ioapic.write(0x00, register.into());
    assert_eq!(ioapic.read(0x00), register.into());
    ioapic.read(0x10)
}

fn set_entry(ioapic: &mut IoApic, pin: u8, low: u32) -> Written {
    write_register(ioapic, 0x10 + 2 * pin, low)
}

fn entry(ioapic: &mut IoApic, pin: u8) -> u32 {
    read_register(ioapic, 0x10 + 2 * pin)
}

#[test]
fn registers() {
    let mut ioapic = IoApic::new();
    assert_eq!(ioapic.base_address(), DEFAULT_ADDRESS);
    assert_eq!(read_register(&mut ioapic, 0), 0);
    assert_eq!(read_register(&mut ioapic, 1), 0x0017_0011);
    let _ = write_register(&mut ioapic, 0, 0xff00_0000);
    assert_eq!(read_register(&mut ioapic, 0), 0x0f00_0000);
    assert_eq!(read_register(&mut ioapic, 2), 0x0f00_0000);
    assert_eq!(write_register(&mut ioapic, 1, 0), Written::default());
    assert_eq!(read_register(&mut ioapic, 1), 0x0017_0011);
    for pin in 0..PINS as u8 {
        assert_eq!(entry(&mut ioapic, pin), MASKED);
    }
    for beyond in [0x03, 0x0f, 0x40, 0xff] {
        assert_eq!(read_register(&mut ioapic, beyond), u32::MAX);
        assert_eq!(write_register(&mut ioapic, beyond, 0), Written::default());
    }
    // No EOI register in this version.
    assert_eq!(ioapic.write(0x40, 0x31), Written::default());
    assert_eq!(ioapic.read(0x40), 0);
}

#[test]
fn entries_keep_what_is_defined() {
    let mut ioapic = IoApic::new();
    let written = set_entry(&mut ioapic, 3, u32::MAX);
    assert!(written.entries_changed);
    assert_eq!(entry(&mut ioapic, 3), 0x0001_afff, "status bits stay clear");
    let _ = write_register(&mut ioapic, 0x17, 0x12ff_ffff);
    assert_eq!(read_register(&mut ioapic, 0x17), 0x12fe_0000);
    assert!(!set_entry(&mut ioapic, 3, u32::MAX).entries_changed);
}

#[test]
fn edge() {
    let mut ioapic = IoApic::new();
    let mut sink = Sink::new();
    let written = set_entry(&mut ioapic, 4, 0x31);
    assert_eq!(written.unmasked, 1 << 4);
    assert_eq!(written.pending, 0);
    let status = ioapic.set_irq(4, 0, true, &mut sink);
    assert_eq!(status, LineStatus::Delivered(1));
    assert_eq!(ioapic.set_irq(4, 0, true, &mut sink), LineStatus::Coalesced);
    assert_eq!(sink.take(), [0x31]);
    let _ = ioapic.set_irq(4, 0, false, &mut sink);
    let _ = ioapic.set_irq(4, 0, true, &mut sink);
    assert_eq!(sink.take(), [0x31]);
    // An EOI does not deliver it again.
    let pins = ioapic.eoi(0x31, false);
    assert_eq!(pins, 1 << 4);
    assert_eq!(ioapic.resume(pins, &mut sink), 0);
    assert_eq!(sink.take(), []);
}

#[test]
fn edge_while_masked_is_lost() {
    let mut ioapic = IoApic::new();
    let mut sink = Sink::new();
    assert_eq!(ioapic.set_irq(4, 0, true, &mut sink), LineStatus::Ignored);
    assert_eq!(set_entry(&mut ioapic, 4, 0x31).pending, 0);
    assert_eq!(sink.take(), []);
}

#[test]
fn message_is_the_entry() {
    let mut ioapic = IoApic::new();
    let mut sink = Sink::new();
    let _ = write_register(&mut ioapic, 0x19, 0x0300_0000);
    let _ = set_entry(&mut ioapic, 4, 0x0931 | LEVEL);
    let _ = ioapic.set_irq(4, 0, true, &mut sink);
    let message = sink.sent[0];
    assert_eq!(message.dest, 3);
    assert_eq!(message.dest_mode, DestMode::Logical);
    assert_eq!(message.vector, 0x31);
    assert!(message.level_triggered);
    assert!(message.is_redirectable());
}

#[test]
fn level_until_deasserted() {
    let mut ioapic = IoApic::new();
    let mut sink = Sink::new();
    let _ = set_entry(&mut ioapic, 10, 0x51 | LEVEL);
    assert_eq!(
        ioapic.set_irq(10, 0, true, &mut sink),
        LineStatus::Delivered(1)
    );
    assert_eq!(entry(&mut ioapic, 10), 0x51 | LEVEL | REMOTE_IRR);
    assert_eq!(
        ioapic.set_irq(10, 0, true, &mut sink),
        LineStatus::Coalesced
    );
    assert_eq!(sink.take(), [0x51]);
    for _ in 0..3 {
        let pins = ioapic.eoi(0x51, true);
        assert_eq!(pins, 1 << 10);
        assert_eq!(entry(&mut ioapic, 10), 0x51 | LEVEL);
        assert_eq!(ioapic.resume(pins, &mut sink), 0);
        assert_eq!(sink.take(), [0x51]);
    }
    // Lowered between the two steps, as a resampler does.
    let pins = ioapic.eoi(0x51, true);
    let _ = ioapic.set_irq(10, 0, false, &mut sink);
    assert_eq!(ioapic.resume(pins, &mut sink), 0);
    assert_eq!(sink.take(), []);
    assert_eq!(ioapic.eoi(0x52, true), 0);
}

#[test]
fn level_is_delivered_when_unmasked() {
    let mut ioapic = IoApic::new();
    let mut sink = Sink::new();
    let _ = set_entry(&mut ioapic, 10, 0x51 | LEVEL | MASKED);
    assert_eq!(ioapic.set_irq(10, 0, true, &mut sink), LineStatus::Ignored);
    let written = set_entry(&mut ioapic, 10, 0x51 | LEVEL);
    assert_eq!(written.unmasked, 1 << 10);
    assert_eq!(written.pending, 1 << 10);
    assert_eq!(ioapic.resume(written.pending, &mut sink), 0);
    assert_eq!(sink.take(), [0x51]);
    // Masked again while in service: completed, but not delivered again.
    let _ = set_entry(&mut ioapic, 10, 0x51 | LEVEL | MASKED);
    let pins = ioapic.eoi(0x51, true);
    assert_eq!(pins, 1 << 10);
    assert_eq!(ioapic.resume(pins, &mut sink), 0);
    assert_eq!(sink.take(), []);
    let written = set_entry(&mut ioapic, 10, 0x51 | LEVEL);
    assert_eq!(ioapic.resume(written.pending, &mut sink), 0);
    assert_eq!(sink.take(), [0x51]);
}

#[test]
fn switching_to_edge_and_back_completes() {
    let mut ioapic = IoApic::new();
    let mut sink = Sink::new();
    let _ = set_entry(&mut ioapic, 10, 0x51 | LEVEL);
    let _ = ioapic.set_irq(10, 0, true, &mut sink);
    assert_eq!(sink.take(), [0x51]);
    let written = set_entry(&mut ioapic, 10, 0x51 | MASKED);
    assert_eq!(written.pending, 0);
    assert_eq!(ioapic.get_state().irr, 0, "a level is no edge");
    let again = set_entry(&mut ioapic, 10, 0x52 | MASKED);
    assert_eq!(again.unmasked, 0);
    let _ = set_entry(&mut ioapic, 10, 0x51 | MASKED);
    assert_eq!(entry(&mut ioapic, 10), 0x51 | MASKED);
    let written = set_entry(&mut ioapic, 10, 0x51 | LEVEL);
    assert_eq!(written.pending, 1 << 10);
    assert_eq!(ioapic.resume(written.pending, &mut sink), 0);
    assert_eq!(sink.take(), [0x51]);
}

#[test]
fn sources_are_ored() {
    let mut ioapic = IoApic::new();
    let mut sink = Sink::new();
    let _ = set_entry(&mut ioapic, 10, 0x51 | LEVEL);
    let _ = ioapic.set_irq(10, 0, true, &mut sink);
    let _ = ioapic.set_irq(10, 5, true, &mut sink);
    let _ = ioapic.set_irq(10, 0, false, &mut sink);
    assert_eq!(sink.take(), [0x51]);
    let pins = ioapic.eoi(0x51, true);
    assert_eq!(ioapic.resume(pins, &mut sink), 0);
    assert_eq!(sink.take(), [0x51], "source 5 still asserts it");
    let _ = ioapic.set_irq(10, 5, false, &mut sink);
    let pins = ioapic.eoi(0x51, true);
    assert_eq!(ioapic.resume(pins, &mut sink), 0);
    assert_eq!(sink.take(), []);
    // Sources and pins that do not exist.
    assert_eq!(ioapic.set_irq(24, 0, true, &mut sink), LineStatus::Ignored);
    let _ = ioapic.set_irq(10, 32, true, &mut sink);
    assert_eq!(sink.take(), []);
}

#[test]
fn rejected_level_is_not_in_service() {
    let mut ioapic = IoApic::new();
    let mut sink = Sink::new();
    sink.answer = LineStatus::Ignored;
    let _ = set_entry(&mut ioapic, 10, 0x51 | LEVEL);
    assert_eq!(ioapic.set_irq(10, 0, true, &mut sink), LineStatus::Ignored);
    assert_eq!(entry(&mut ioapic, 10), 0x51 | LEVEL);
    sink.answer = LineStatus::Coalesced;
    assert_eq!(
        ioapic.set_irq(10, 0, true, &mut sink),
        LineStatus::Coalesced
    );
    assert_eq!(entry(&mut ioapic, 10), 0x51 | LEVEL | REMOTE_IRR);
}

#[test]
fn storm_is_reported() {
    let mut ioapic = IoApic::new();
    let mut sink = Sink::new();
    let _ = set_entry(&mut ioapic, 10, 0x51 | LEVEL);
    let _ = ioapic.set_irq(10, 0, true, &mut sink);
    sink.take();
    for _ in 0..STORM_LIMIT {
        let pins = ioapic.eoi(0x51, true);
        assert_eq!(ioapic.resume(pins, &mut sink), 0);
        assert_eq!(sink.take(), [0x51]);
    }
    let pins = ioapic.eoi(0x51, true);
    assert_eq!(ioapic.resume(pins, &mut sink), 1 << 10);
    assert_eq!(sink.take(), []);
    // The timer's call.
    assert_eq!(ioapic.resume(1 << 10, &mut sink), 0);
    assert_eq!(sink.take(), [0x51]);
}

#[test]
fn vectors_of_interest() {
    let mut ioapic = IoApic::new();
    let _ = set_entry(&mut ioapic, 2, 0x30);
    let _ = set_entry(&mut ioapic, 3, 0x31);
    let _ = set_entry(&mut ioapic, 10, 0x51 | LEVEL | MASKED);
    ioapic.set_watched(1 << 2);
    let vectors = ioapic.eoi_vectors();
    let members: Vec<u8> = (0..=255).filter(|v| vectors.contains(*v)).collect();
    assert_eq!(members, [0x30, 0x51]);
}

#[test]
fn state() {
    let mut ioapic = IoApic::new();
    let mut sink = Sink::new();
    let _ = write_register(&mut ioapic, 0, 0x0500_0000);
    let _ = set_entry(&mut ioapic, 1, 0x21);
    let _ = set_entry(&mut ioapic, 5, 0x25 | LEVEL);
    let _ = set_entry(&mut ioapic, 6, 0x26 | LEVEL);
    let _ = ioapic.set_irq(1, 0, true, &mut sink);
    let _ = ioapic.set_irq(5, 0, true, &mut sink);
    sink.answer = LineStatus::Ignored;
    let _ = ioapic.set_irq(6, 0, true, &mut sink);
    sink.take();
    let state = ioapic.get_state();
    assert_eq!(state.base_address, DEFAULT_ADDRESS);
    assert_eq!(state.id, 5);
    assert_eq!(state.ioregsel, 0x10 + 12);
    assert_eq!(state.irr, 1 << 5 | 1 << 6, "the edge was delivered");
    assert_eq!(state.redirtbl[5], u64::from(0x25 | LEVEL | REMOTE_IRR));

    let mut other = IoApic::new();
    let mut sink = Sink::new();
    other.set_state(&state, &mut sink);
    assert_eq!(sink.take(), [0x26], "5 is in service");
    let mut again = other.get_state();
    assert_eq!(again.redirtbl[6], u64::from(0x26 | LEVEL | REMOTE_IRR));
    again.redirtbl[6] = state.redirtbl[6];
    assert_eq!(again, state);
    let pins = other.eoi(0x25, true);
    assert_eq!(other.resume(pins, &mut sink), 0);
    assert_eq!(sink.take(), [0x25], "asserted until a source lowers it");
    let _ = other.set_irq(5, 0, false, &mut sink);
    let pins = other.eoi(0x25, true);
    assert_eq!(other.resume(pins, &mut sink), 0);
    assert_eq!(sink.take(), []);
}

#[derive(Clone, Debug)]
enum Op {
    Line { pin: u8, source: u8, level: bool },
    Entry { pin: u8, low: u32 },
    Write { offset: u32, value: u32 },
    Eoi { vector: u8, level: bool },
    Refuse(bool),
    SaveRestore,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u8..26, 0u8..4, any::<bool>())
            .prop_map(|(pin, source, level)| Op::Line { pin, source, level }),
        4 => (0u8..24, 0x20u32..0x28, any::<bool>(), any::<bool>()).prop_map(
            |(pin, vector, level, masked)| Op::Entry {
                pin,
                low: vector | u32::from(level) << 15 | u32::from(masked) << 16,
            }
        ),
        1 => (any::<u32>(), any::<u32>())
            .prop_map(|(offset, value)| Op::Write { offset: offset & 0x30, value }),
        6 => (0x20u8..0x28, any::<bool>()).prop_map(|(vector, level)| Op::Eoi { vector, level }),
        1 => any::<bool>().prop_map(Op::Refuse),
        1 => Just(Op::SaveRestore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 400 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Nothing panics; remote IRR is for level-triggered pins only; an
    /// asserted, unmasked level is always either in service or was refused.
    #[test]
    fn random_traffic(ops in prop::collection::vec(op(), 1..200)) {
        let mut ioapic = IoApic::new();
        let mut sink = Sink::new();
        let mut refused = false;
        for op in ops {
            match op {
                Op::Line { pin, source, level } => {
                    let _ = ioapic.set_irq(pin, source, level, &mut sink);
                }
                Op::Entry { pin, low } => {
                    let written = set_entry(&mut ioapic, pin, low);
                    let _ = ioapic.resume(written.pending, &mut sink);
                }
                Op::Write { offset, value } => {
                    let written = ioapic.write(offset, value);
                    let _ = ioapic.resume(written.pending, &mut sink);
                }
                Op::Eoi { vector, level } => {
                    let pins = ioapic.eoi(vector, level);
                    let _ = ioapic.resume(pins, &mut sink);
                }
                Op::Refuse(refuse) => {
                    refused |= refuse;
                    sink.answer = if refuse {
                        LineStatus::Ignored
                    } else {
                        LineStatus::Delivered(1)
                    };
                }
                Op::SaveRestore => {
                    let state = ioapic.get_state();
                    ioapic.set_state(&state, &mut sink);
                }
            }
            for pin in 0..PINS {
                let entry = ioapic.entries[pin] as u32;
                let level = entry & LEVEL != 0;
                prop_assert!(level || entry & REMOTE_IRR == 0);
                let asserted = ioapic.irr & 1 << pin != 0;
                if level && asserted && entry & MASKED == 0 && !refused {
                    prop_assert!(entry & REMOTE_IRR != 0, "pin {} is stuck", pin);
                }
            }
        }
    }
}
