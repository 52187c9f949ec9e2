// SPDX-License-Identifier: GPL-2.0

//! Tests of the PICs: one per behaviour, and a model.

use super::super::irq::LineStatus;
use super::{port, Pic, Which};
use proptest::prelude::*;

fn write(pic: &mut Pic, port: u16, value: u8) -> super::Changed {
    pic.write(port, value).expect("a port of the PIC")
}

fn read(pic: &mut Pic, port: u16) -> u8 {
    pic.read(port).expect("a port of the PIC").0
}

/// Initialises both as a PC does: vectors 0x20 and 0x28.
fn initialised(icw4: u8) -> Pic {
    let mut pic = Pic::new();
    for (command, base, cascade) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
        write(&mut pic, command, 0x11);
        write(&mut pic, command + 1, base);
        write(&mut pic, command + 1, cascade);
        write(&mut pic, command + 1, icw4);
    }
    pic
}

fn pulse(pic: &mut Pic, irq: u8) {
    let _ = pic.set_irq(irq, 0, true);
    let _ = pic.set_irq(irq, 0, false);
}

fn take(pic: &mut Pic) -> Option<u8> {
    pic.output().then(|| pic.ack().0)
}

#[test]
fn master_and_slave() {
    let mut pic = initialised(1);
    assert!(!pic.output());
    pulse(&mut pic, 4);
    assert!(pic.output());
    assert_eq!(take(&mut pic), Some(0x24));
    assert!(!pic.output());
    pulse(&mut pic, 12);
    // The cascade, input 2, is more urgent than input 4.
    assert_eq!(take(&mut pic), Some(0x2c));
    assert_eq!(
        write(&mut pic, port::SLAVE_COMMAND, 0x20).completed,
        1 << 12
    );
    assert_eq!(
        write(&mut pic, port::MASTER_COMMAND, 0x20).completed,
        1 << 2
    );
    assert_eq!(
        write(&mut pic, port::MASTER_COMMAND, 0x20).completed,
        1 << 4
    );
    assert_eq!(write(&mut pic, port::MASTER_COMMAND, 0x20).completed, 0);
}

#[test]
fn ports() {
    let mut pic = Pic::new();
    for other in [0x22, 0x1f, 0xa2, 0x4d2, 0x4cf] {
        assert!(pic.write(other, 0).is_none());
        assert!(pic.read(other).is_none());
    }
}

#[test]
fn priorities_nest() {
    let mut pic = initialised(1);
    pulse(&mut pic, 3);
    assert_eq!(take(&mut pic), Some(0x23));
    pulse(&mut pic, 5);
    assert_eq!(take(&mut pic), None);
    pulse(&mut pic, 1);
    assert_eq!(take(&mut pic), Some(0x21));
    write(&mut pic, port::MASTER_COMMAND, 0x20);
    assert_eq!(take(&mut pic), None);
    write(&mut pic, port::MASTER_COMMAND, 0x20);
    assert_eq!(take(&mut pic), Some(0x25));
}

#[test]
fn mask() {
    let mut pic = initialised(1);
    write(&mut pic, port::MASTER_DATA, 0xfe);
    assert_eq!(read(&mut pic, port::MASTER_DATA), 0xfe);
    assert_eq!(pic.set_irq(1, 0, true), LineStatus::Ignored);
    assert!(!pic.output());
    assert_eq!(pic.set_irq(0, 0, true), LineStatus::Delivered(1));
    assert_eq!(take(&mut pic), Some(0x20));
    write(&mut pic, port::MASTER_COMMAND, 0x60);
    // A masked edge is remembered.
    assert_eq!(write(&mut pic, port::MASTER_DATA, 0xfc).unmasked, 0b10);
    assert_eq!(take(&mut pic), Some(0x21));
}

#[test]
fn coalesced() {
    let mut pic = initialised(1);
    assert_eq!(pic.set_irq(6, 0, true), LineStatus::Delivered(1));
    let _ = pic.set_irq(6, 0, false);
    assert_eq!(pic.set_irq(6, 0, true), LineStatus::Coalesced);
}

#[test]
fn spurious() {
    let mut pic = initialised(1);
    assert_eq!(pic.ack().0, 0x27);
    write(&mut pic, port::SLAVE_ELCR, 0x02);
    let _ = pic.set_irq(9, 0, true);
    assert!(pic.output());
    let _ = pic.set_irq(9, 0, false);
    assert!(!pic.output());
    assert_eq!(pic.ack().0, 0x27);
    write(&mut pic, port::MASTER_COMMAND, 0x0b);
    assert_eq!(read(&mut pic, port::MASTER_COMMAND), 0, "not in service");
}

#[test]
fn level_triggered() {
    let mut pic = initialised(1);
    write(&mut pic, port::SLAVE_ELCR, 0xff);
    write(&mut pic, port::MASTER_ELCR, 0xff);
    assert_eq!(read(&mut pic, port::SLAVE_ELCR), 0xde);
    assert_eq!(read(&mut pic, port::MASTER_ELCR), 0xf8);
    let _ = pic.set_irq(11, 0, true);
    let _ = pic.set_irq(11, 1, true);
    for _ in 0..2 {
        assert_eq!(take(&mut pic), Some(0x2b));
        assert!(!pic.output());
        write(&mut pic, port::SLAVE_COMMAND, 0x20);
        write(&mut pic, port::MASTER_COMMAND, 0x20);
    }
    let _ = pic.set_irq(11, 0, false);
    assert!(pic.output(), "source 1 asserts it");
    let _ = pic.set_irq(11, 1, false);
    assert!(!pic.output());
}

#[test]
fn auto_eoi() {
    let mut pic = initialised(3);
    pulse(&mut pic, 4);
    let (vector, changed) = pic.ack();
    assert_eq!(vector, 0x24);
    assert_eq!(changed.completed, 1 << 4);
    pulse(&mut pic, 5);
    assert_eq!(take(&mut pic), Some(0x25));
    // Rotating: what was served last is least urgent.
    write(&mut pic, port::MASTER_COMMAND, 0x80);
    pulse(&mut pic, 0);
    assert_eq!(take(&mut pic), Some(0x20));
    pulse(&mut pic, 0);
    pulse(&mut pic, 7);
    assert_eq!(take(&mut pic), Some(0x27));
    assert_eq!(take(&mut pic), Some(0x20));
    write(&mut pic, port::MASTER_COMMAND, 0x00);
    pulse(&mut pic, 1);
    pulse(&mut pic, 0);
    assert_eq!(take(&mut pic), Some(0x21), "1 is the first after 0");
    assert_eq!(take(&mut pic), Some(0x20));
}

#[test]
fn rotation() {
    let mut pic = initialised(1);
    write(&mut pic, port::MASTER_COMMAND, 0xc0 | 3);
    pulse(&mut pic, 3);
    pulse(&mut pic, 4);
    assert_eq!(take(&mut pic), Some(0x24));
    // Rotate on EOI: now 4 is least urgent.
    write(&mut pic, port::MASTER_COMMAND, 0xa0);
    pulse(&mut pic, 4);
    pulse(&mut pic, 5);
    assert_eq!(take(&mut pic), Some(0x25));
    // Rotate on specific EOI.
    assert_eq!(
        write(&mut pic, port::MASTER_COMMAND, 0xe0 | 5).completed,
        1 << 5
    );
    assert_eq!(take(&mut pic), Some(0x23));
}

#[test]
fn special_mask() {
    let mut pic = initialised(1);
    pulse(&mut pic, 1);
    assert_eq!(take(&mut pic), Some(0x21));
    pulse(&mut pic, 5);
    assert_eq!(take(&mut pic), None);
    write(&mut pic, port::MASTER_DATA, 0x02);
    write(&mut pic, port::MASTER_COMMAND, 0x68);
    assert_eq!(take(&mut pic), Some(0x25));
    // The masked one is not completed by an EOI without a level.
    assert_eq!(
        write(&mut pic, port::MASTER_COMMAND, 0x20).completed,
        1 << 5
    );
    assert_eq!(write(&mut pic, port::MASTER_COMMAND, 0x20).completed, 0);
    write(&mut pic, port::MASTER_COMMAND, 0x48);
    assert_eq!(
        write(&mut pic, port::MASTER_COMMAND, 0x20).completed,
        1 << 1
    );
}

#[test]
fn special_fully_nested() {
    for (icw4, nested) in [(0x01, None), (0x11, Some(0x29))] {
        let mut pic = initialised(icw4);
        pulse(&mut pic, 12);
        assert_eq!(take(&mut pic), Some(0x2c));
        pulse(&mut pic, 3);
        assert_eq!(take(&mut pic), None, "less urgent than the cascade");
        pulse(&mut pic, 9);
        assert_eq!(take(&mut pic), nested);
    }
}

#[test]
fn poll() {
    let mut pic = initialised(1);
    write(&mut pic, port::MASTER_COMMAND, 0x0c);
    assert_eq!(read(&mut pic, port::MASTER_COMMAND), 0x07);
    pulse(&mut pic, 6);
    write(&mut pic, port::MASTER_COMMAND, 0x0c);
    assert_eq!(read(&mut pic, port::MASTER_COMMAND), 0x86);
    assert!(!pic.output());
    write(&mut pic, port::MASTER_COMMAND, 0x0b);
    assert_eq!(read(&mut pic, port::MASTER_COMMAND), 1 << 6, "in service");
    write(&mut pic, port::MASTER_COMMAND, 0x20);
    assert_eq!(read(&mut pic, port::MASTER_COMMAND), 0);
}

#[test]
fn reading_requests() {
    let mut pic = initialised(1);
    pulse(&mut pic, 6);
    pulse(&mut pic, 8);
    assert_eq!(read(&mut pic, port::MASTER_COMMAND), 1 << 6 | 1 << 2);
    assert_eq!(read(&mut pic, port::SLAVE_COMMAND), 1);
    take(&mut pic);
    assert_eq!(read(&mut pic, port::MASTER_COMMAND), 1 << 6);
}

#[test]
fn initialisation() {
    let mut pic = initialised(3);
    write(&mut pic, port::MASTER_DATA, 0xff);
    write(&mut pic, port::MASTER_ELCR, 0x20);
    let _ = pic.set_irq(3, 0, true);
    let _ = pic.set_irq(5, 0, true);
    let changed = write(&mut pic, port::MASTER_COMMAND, 0x10);
    assert_eq!(changed.unmasked, 0xff);
    assert_eq!(
        read(&mut pic, port::MASTER_COMMAND),
        1 << 5,
        "levels remain"
    );
    write(&mut pic, port::MASTER_DATA, 0x47);
    write(&mut pic, port::MASTER_DATA, 4);
    // Without ICW4 the next write is a mask, and there is no automatic EOI.
    write(&mut pic, port::MASTER_DATA, 0x08);
    assert_eq!(read(&mut pic, port::MASTER_DATA), 0x08);
    assert_eq!(take(&mut pic), Some(0x45));
    write(&mut pic, port::MASTER_COMMAND, 0x0b);
    assert_eq!(read(&mut pic, port::MASTER_COMMAND), 1 << 5);
    // The line was high all the time; only a new edge counts.
    write(&mut pic, port::MASTER_DATA, 0x00);
    let _ = pic.set_irq(3, 1, true);
    assert_eq!(take(&mut pic), None);
    let _ = pic.set_irq(3, 0, false);
    let _ = pic.set_irq(3, 1, false);
    let _ = pic.set_irq(3, 0, true);
    assert_eq!(take(&mut pic), Some(0x43));
}

#[test]
fn state() {
    let mut pic = initialised(1);
    write(&mut pic, port::MASTER_ELCR, 0x20);
    write(&mut pic, port::MASTER_COMMAND, 0xc2);
    pulse(&mut pic, 4);
    pulse(&mut pic, 9);
    take(&mut pic);
    write(&mut pic, port::SLAVE_DATA, 0x40);
    write(&mut pic, port::SLAVE_COMMAND, 0x0b);
    pulse(&mut pic, 14);
    pulse(&mut pic, 8);
    let master = pic.get_state(Which::Master);
    let slave = pic.get_state(Which::Slave);
    assert_eq!(master.irq_base, 0x20);
    assert_eq!(master.priority_add, 3);
    assert_eq!(master.isr, 1 << 4);
    assert_eq!(master.irr, 1 << 2);
    assert_eq!(master.elcr_mask, 0xf8);
    assert_eq!(slave.imr, 0x40);
    assert_eq!(slave.irr, 0x43);
    assert_eq!(slave.read_reg_select, 1);
    assert_eq!(slave.elcr_mask, 0xde);

    let mut other = Pic::new();
    other.set_state(Which::Master, &master);
    other.set_state(Which::Slave, &slave);
    assert_eq!(other.get_state(Which::Master), master);
    assert_eq!(other.get_state(Which::Slave), slave);
    for pic in [&mut pic, &mut other] {
        assert_eq!(take(pic), None);
        write(pic, port::MASTER_COMMAND, 0x20);
        assert_eq!(take(pic), Some(0x28));
        write(pic, port::SLAVE_COMMAND, 0x20);
        write(pic, port::MASTER_COMMAND, 0x20);
        assert_eq!(take(pic), Some(0x29));
    }
}

/// One chip as the data sheet tells it, with a list for the priorities.
#[derive(Clone, Debug)]
struct ModelChip {
    /// Inputs, most urgent first.
    order: Vec<usize>,
    level: [bool; 8],
    requested: [bool; 8],
    masked: [bool; 8],
    served: [bool; 8],
    level_triggered: [bool; 8],
}

impl ModelChip {
    fn new() -> Self {
        Self {
            order: (0..8).collect(),
            level: [false; 8],
            requested: [false; 8],
            masked: [false; 8],
            served: [false; 8],
            level_triggered: [false; 8],
        }
    }

    fn set(&mut self, input: usize, level: bool) {
        if self.level_triggered[input] {
            self.requested[input] = level;
        } else if level && !self.level[input] {
            self.requested[input] = true;
        }
        self.level[input] = level;
    }

    fn winner(&self) -> Option<usize> {
        for input in &self.order {
            if self.served[*input] {
                return None;
            }
            if self.requested[*input] && !self.masked[*input] {
                return Some(*input);
            }
        }
        None
    }

    fn serve(&mut self, input: usize) {
        self.served[input] = true;
        if !self.level_triggered[input] {
            self.requested[input] = false;
        }
    }

    fn lowest(&mut self, input: usize) {
        while self.order[7] != input {
            self.order.rotate_left(1);
        }
    }

    fn command(&mut self, operation: u8, input: usize) {
        let top = self.order.iter().copied().find(|input| self.served[*input]);
        match operation {
            1 | 5 => {
                if let Some(top) = top {
                    self.served[top] = false;
                    if operation == 5 {
                        self.lowest(top);
                    }
                }
            }
            3 => self.served[input] = false,
            6 => self.lowest(input),
            7 => {
                self.served[input] = false;
                self.lowest(input);
            }
            _ => {}
        }
    }
}

#[derive(Clone, Debug)]
struct Model {
    chips: [ModelChip; 2],
}

impl Model {
    fn settle(&mut self) {
        self.chips[0].requested[2] = self.chips[1].winner().is_some();
    }

    fn ack(&mut self) -> u8 {
        let Some(input) = self.chips[0].winner() else {
            return 0x27;
        };
        self.chips[0].serve(input);
        if input != 2 {
            return 0x20 + input as u8;
        }
        let input = self.chips[1].winner().expect("the cascade follows it");
        self.chips[1].serve(input);
        0x28 + input as u8
    }
}

#[derive(Clone, Debug)]
enum Op {
    Line {
        irq: u8,
        level: bool,
    },
    Ack,
    Command {
        slave: bool,
        operation: u8,
        input: u8,
    },
    Mask {
        slave: bool,
        mask: u8,
    },
    Elcr {
        slave: bool,
        value: u8,
    },
    SaveRestore,
}

fn op() -> impl Strategy<Value = Op> {
    let irq = (0u8..15).prop_map(|irq| if irq < 2 { irq } else { irq + 1 });
    prop_oneof![
        8 => (irq, any::<bool>()).prop_map(|(irq, level)| Op::Line { irq, level }),
        6 => Just(Op::Ack),
        // Without the operations of automatic EOI, which has its own test.
        6 => (any::<bool>(), 1u8..8, 0u8..8)
            .prop_filter("automatic EOI", |(_, operation, _)| *operation != 4)
            .prop_map(|(slave, operation, input)| Op::Command { slave, operation, input }),
        2 => (any::<bool>(), any::<u8>()).prop_map(|(slave, mask)| Op::Mask { slave, mask }),
        1 => (any::<bool>(), any::<u8>()).prop_map(|(slave, value)| Op::Elcr { slave, value }),
        1 => Just(Op::SaveRestore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 500 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Output and vectors are those of the model.
    #[test]
    fn as_the_model(ops in prop::collection::vec(op(), 1..300)) {
        let mut pic = initialised(1);
        let mut model = Model { chips: [ModelChip::new(), ModelChip::new()] };
        for op in ops {
            match op {
                Op::Line { irq, level } => {
                    let _ = pic.set_irq(irq, 0, level);
                    model.chips[usize::from(irq / 8)].set(usize::from(irq % 8), level);
                }
                Op::Ack => {
                    prop_assert_eq!(pic.ack().0, model.ack());
                }
                Op::Command { slave, operation, input } => {
                    let port = if slave { port::SLAVE_COMMAND } else { port::MASTER_COMMAND };
                    write(&mut pic, port, operation << 5 | input);
                    model.chips[usize::from(slave)].command(operation, input.into());
                }
                Op::Mask { slave, mask } => {
                    let port = if slave { port::SLAVE_DATA } else { port::MASTER_DATA };
                    write(&mut pic, port, mask);
                    for input in 0..8 {
                        model.chips[usize::from(slave)].masked[input] = mask & 1 << input != 0;
                    }
                }
                Op::Elcr { slave, value } => {
                    let port = if slave { port::SLAVE_ELCR } else { port::MASTER_ELCR };
                    write(&mut pic, port, value);
                    let value = read(&mut pic, port);
                    let chip = &mut model.chips[usize::from(slave)];
                    for input in 0..8 {
                        chip.level_triggered[input] = value & 1 << input != 0;
                        if chip.level_triggered[input] {
                            chip.requested[input] = chip.level[input];
                        }
                    }
                }
                Op::SaveRestore => {
                    for which in [Which::Master, Which::Slave] {
                        let state = pic.get_state(which);
                        pic.set_state(which, &state);
                    }
                }
            }
            model.settle();
            prop_assert_eq!(pic.output(), model.chips[0].winner().is_some());
        }
    }

    /// Any byte at any port, and any state, leave it working.
    #[test]
    fn random_traffic(
        ops in prop::collection::vec((0usize..6, any::<u8>(), 0u8..4), 1..300),
        state in any::<[u8; 16]>(),
    ) {
        const PORTS: [u16; 6] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];
        let mut pic = Pic::new();
        let [last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask,
            init_state, auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr,
            elcr_mask] = state;
        for which in [Which::Master, Which::Slave] {
            pic.set_state(which, &crate::uapi::kvm_pic_state {
                last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll,
                special_mask, init_state, auto_eoi, rotate_on_auto_eoi,
                special_fully_nested_mode, init4, elcr, elcr_mask,
            });
        }
        for (port, value, action) in ops {
            match action {
                0 => {
                    let _ = pic.set_irq(value, value >> 4, value & 1 != 0);
                }
                1 => {
                    let output = pic.output();
                    let (vector, _) = pic.ack();
                    // The cascade's own input may ask without the slave.
                    prop_assert!(output || vector & 7 == 7);
                }
                2 => {
                    let _ = pic.read(PORTS[port]);
                }
                _ => {
                    write(&mut pic, PORTS[port], value);
                }
            }
        }
    }
}
