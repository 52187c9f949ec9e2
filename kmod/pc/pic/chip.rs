// SPDX-License-Identifier: GPL-2.0

//! One 8259A.

use crate::pc::irq::LineStatus;
use crate::uapi::kvm_pic_state;

/// Bits of the words written with A0 = 0.
mod command {
    /// It is ICW1.
    pub(super) const ICW1: u8 = 0x10;
    /// ICW1: ICW4 follows.
    pub(super) const ICW1_IC4: u8 = 0x01;
    /// It is OCW3 (OCW2 otherwise).
    pub(super) const OCW3: u8 = 0x08;
    /// OCW3: the next read polls.
    pub(super) const POLL: u8 = 0x04;
    /// OCW3: the low bit selects the register to read.
    pub(super) const READ: u8 = 0x02;
    /// OCW3: it is ISR (IRR otherwise).
    pub(super) const READ_ISR: u8 = 0x01;
    /// OCW3: the next bit sets special mask mode.
    pub(super) const SPECIAL_MASK_VALID: u8 = 0x40;
    /// OCW3: special mask mode on.
    pub(super) const SPECIAL_MASK: u8 = 0x20;
    /// OCW2: operation, in bits 7..5.
    pub(super) const OPERATION_SHIFT: u32 = 5;
    /// OCW2: the level operated on.
    pub(super) const LEVEL: u8 = 0x07;
}

/// Operations of OCW2: R, SL and EOI.
mod operation {
    pub(super) const STOP_ROTATE_ON_AUTO_EOI: u8 = 0b000;
    pub(super) const EOI: u8 = 0b001;
    pub(super) const SPECIFIC_EOI: u8 = 0b011;
    pub(super) const ROTATE_ON_AUTO_EOI: u8 = 0b100;
    pub(super) const ROTATE_ON_EOI: u8 = 0b101;
    pub(super) const SET_PRIORITY: u8 = 0b110;
    pub(super) const ROTATE_ON_SPECIFIC_EOI: u8 = 0b111;
}

/// ICW2: the vector's high bits.
const ICW2_BASE: u8 = 0xf8;
/// ICW4: automatic EOI.
const ICW4_AUTO_EOI: u8 = 0x02;
/// ICW4: special fully nested mode.
const ICW4_SPECIAL_FULLY_NESTED: u8 = 0x10;

/// Which initialisation word is due with A0 = 1. The values are those of
/// `kvm_pic_state.init_state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// OCW1: the mask.
    Mask = 0,
    Icw2 = 1,
    Icw3 = 2,
    Icw4 = 3,
}

/// Inputs completed by an operation.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Acked {
    pub(super) completed: u8,
}

/// One 8259A.
#[derive(Clone, Debug)]
pub(super) struct Chip {
    /// Levels seen last, for edges.
    last_levels: u8,
    irr: u8,
    imr: u8,
    isr: u8,
    /// The input of highest priority, 0..8.
    first: u8,
    base: u8,
    reads_isr: bool,
    poll: bool,
    special_mask: bool,
    expected: Expected,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    icw4_follows: bool,
    elcr: u8,
    elcr_mask: u8,
}

impl Chip {
    pub(super) const fn new(elcr_mask: u8) -> Self {
        Self {
            last_levels: 0,
            irr: 0,
            imr: 0,
            isr: 0,
            first: 0,
            base: 0,
            reads_isr: false,
            poll: false,
            special_mask: false,
            expected: Expected::Mask,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            icw4_follows: false,
            elcr: 0,
            elcr_mask,
        }
    }

    pub(super) const fn special_fully_nested(&self) -> bool {
        self.special_fully_nested
    }

    pub(super) const fn masked(&self) -> u8 {
        self.imr
    }

    pub(super) const fn elcr(&self) -> u8 {
        self.elcr
    }

    pub(super) const fn vector(&self, input: u8) -> u8 {
        self.base | (input & 7)
    }

    /// Distance of the most urgent of `inputs` from the input of highest
    /// priority; 8 if there is none.
    const fn rank(&self, inputs: u8) -> u32 {
        inputs
            .rotate_right((self.first & 7) as u32)
            .trailing_zeros()
    }

    const fn input_at(&self, rank: u32) -> u8 {
        ((rank + self.first as u32) & 7) as u8
    }

    /// The input to be served next, if any: the most urgent request that is
    /// not masked and more urgent than all in service. `extra` are requests
    /// that come from elsewhere; an input of `nested` is not blocked by
    /// itself being in service.
    pub(super) const fn request(&self, extra: u8, nested: u8) -> Option<u8> {
        let rank = self.rank((self.irr | extra) & !self.imr);
        if rank >= u8::BITS {
            return None;
        }
        let blocking = if self.special_mask {
            self.isr & !self.imr
        } else {
            self.isr
        };
        let blocking = self.rank(blocking);
        let input = self.input_at(rank);
        if rank < blocking || (rank == blocking && nested & 1 << input != 0) {
            return Some(input);
        }
        None
    }

    pub(super) fn set_input(&mut self, input: u8, level: bool) -> LineStatus {
        let bit = 1 << (input & 7);
        let rises = level && self.last_levels & bit == 0;
        let level_triggered = self.elcr & bit != 0;
        let pending = self.irr & bit != 0;
        let requests = level && (level_triggered || rises);
        if level {
            self.last_levels |= bit;
        } else {
            self.last_levels &= !bit;
        }
        if requests {
            self.irr |= bit;
        } else if level_triggered {
            self.irr &= !bit;
        }
        if self.imr & bit != 0 {
            return LineStatus::Ignored;
        }
        if requests && pending {
            return LineStatus::Coalesced;
        }
        LineStatus::Delivered(1)
    }

    pub(super) fn clear_request(&mut self, input: u8) {
        self.irr &= !(1 << (input & 7));
    }

    /// `input` is served now.
    pub(super) fn ack(&mut self, input: u8) -> Acked {
        let bit = 1 << (input & 7);
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
            return Acked::default();
        }
        if self.rotate_on_auto_eoi {
            self.make_lowest(input);
        }
        Acked { completed: bit }
    }

    fn make_lowest(&mut self, input: u8) {
        self.first = input.wrapping_add(1) & 7;
    }

    fn complete(&mut self, input: u8) -> Acked {
        let bit = 1 << (input & 7);
        let completed = self.isr & bit;
        self.isr &= !bit;
        Acked { completed }
    }

    pub(super) fn write_command(&mut self, value: u8, levels: u8) -> Acked {
        if value & command::ICW1 != 0 {
            return self.write_icw1(value, levels);
        }
        if value & command::OCW3 != 0 {
            self.write_ocw3(value);
            return Acked::default();
        }
        self.write_ocw2(value)
    }

    fn write_icw1(&mut self, value: u8, levels: u8) -> Acked {
        let completed = self.isr;
        self.icw4_follows = value & command::ICW1_IC4 != 0;
        // Edges are forgotten, so a line that is high needs a new one; levels
        // are seen again at once.
        self.last_levels = levels;
        self.irr = levels & self.elcr;
        self.imr = 0;
        self.isr = 0;
        self.first = 0;
        self.reads_isr = false;
        self.poll = false;
        self.special_mask = false;
        self.rotate_on_auto_eoi = false;
        if !self.icw4_follows {
            self.auto_eoi = false;
            self.special_fully_nested = false;
        }
        self.expected = Expected::Icw2;
        Acked { completed }
    }

    fn write_ocw3(&mut self, value: u8) {
        if value & command::POLL != 0 {
            self.poll = true;
        }
        if value & command::READ != 0 {
            self.reads_isr = value & command::READ_ISR != 0;
        }
        if value & command::SPECIAL_MASK_VALID != 0 {
            self.special_mask = value & command::SPECIAL_MASK != 0;
        }
    }

    fn write_ocw2(&mut self, value: u8) -> Acked {
        let level = value & command::LEVEL;
        let operation = value >> command::OPERATION_SHIFT;
        match operation {
            operation::STOP_ROTATE_ON_AUTO_EOI => self.rotate_on_auto_eoi = false,
            operation::ROTATE_ON_AUTO_EOI => self.rotate_on_auto_eoi = true,
            operation::EOI | operation::ROTATE_ON_EOI => {
                return self.unspecific_eoi(operation == operation::ROTATE_ON_EOI);
            }
            operation::SPECIFIC_EOI => return self.complete(level),
            operation::SET_PRIORITY => self.make_lowest(level),
            operation::ROTATE_ON_SPECIFIC_EOI => {
                self.make_lowest(level);
                return self.complete(level);
            }
            _ => {}
        }
        Acked::default()
    }

    fn unspecific_eoi(&mut self, rotate: bool) -> Acked {
        // In special mask mode a masked input is not completed this way.
        let eligible = if self.special_mask {
            self.isr & !self.imr
        } else {
            self.isr
        };
        if eligible == 0 {
            return Acked::default();
        }
        let input = self.input_at(self.rank(eligible));
        if rotate {
            self.make_lowest(input);
        }
        self.complete(input)
    }

    pub(super) fn write_data(&mut self, value: u8) {
        match self.expected {
            Expected::Mask => self.imr = value,
            Expected::Icw2 => {
                self.base = value & ICW2_BASE;
                self.expected = Expected::Icw3;
            }
            // The cascade is wired as it is.
            Expected::Icw3 if self.icw4_follows => self.expected = Expected::Icw4,
            Expected::Icw3 => self.expected = Expected::Mask,
            Expected::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                self.expected = Expected::Mask;
            }
        }
    }

    /// Whether the next read polls; it does so once.
    pub(super) fn take_poll(&mut self) -> bool {
        core::mem::take(&mut self.poll)
    }

    /// IRR or ISR, as OCW3 selected.
    pub(super) const fn read_status(&self, extra_requests: u8) -> u8 {
        if self.reads_isr {
            self.isr
        } else {
            self.irr | extra_requests
        }
    }

    pub(super) fn write_elcr(&mut self, value: u8, levels: u8) {
        self.elcr = value & self.elcr_mask;
        self.irr = (self.irr & !self.elcr) | (levels & self.elcr);
    }

    pub(super) const fn get_state(&self) -> kvm_pic_state {
        kvm_pic_state {
            last_irr: self.last_levels,
            irr: self.irr,
            imr: self.imr,
            isr: self.isr,
            priority_add: self.first,
            irq_base: self.base,
            read_reg_select: self.reads_isr as u8,
            poll: self.poll as u8,
            special_mask: self.special_mask as u8,
            init_state: self.expected as u8,
            auto_eoi: self.auto_eoi as u8,
            rotate_on_auto_eoi: self.rotate_on_auto_eoi as u8,
            special_fully_nested_mode: self.special_fully_nested as u8,
            init4: self.icw4_follows as u8,
            elcr: self.elcr,
            elcr_mask: self.elcr_mask,
        }
    }

    /// Takes a state; `elcr_mask` is wired and not taken.
    pub(super) fn set_state(&mut self, state: &kvm_pic_state) {
        self.last_levels = state.last_irr;
        self.irr = state.irr;
        self.imr = state.imr;
        self.isr = state.isr;
        self.first = state.priority_add & 7;
        self.base = state.irq_base & ICW2_BASE;
        self.reads_isr = state.read_reg_select != 0;
        self.poll = state.poll != 0;
        self.special_mask = state.special_mask != 0;
        self.expected = match state.init_state {
            1 => Expected::Icw2,
            2 => Expected::Icw3,
            3 => Expected::Icw4,
            _ => Expected::Mask,
        };
        self.auto_eoi = state.auto_eoi != 0;
        self.rotate_on_auto_eoi = state.rotate_on_auto_eoi != 0;
        self.special_fully_nested = state.special_fully_nested_mode != 0;
        self.icw4_follows = state.init4 != 0;
        self.elcr = state.elcr & self.elcr_mask;
    }
}
