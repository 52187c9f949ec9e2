// SPDX-License-Identifier: GPL-2.0

//! The two cascaded 8259A interrupt controllers of a PC, with the edge/level
//! control registers of the chipset (Intel 8259A data sheet; PIIX3 data sheet
//! for ELCR).
//!
//! After every call that changes something, [`Pic::output`] is the level of
//! the INTR line; the caller hands it to `LapicPost::set_extint` of the vCPUs
//! that take it. Nothing here blocks or calls back.

mod chip;
#[cfg(test)]
mod tests;

use super::irq::LineStatus;
use crate::uapi::kvm_pic_state;
use chip::{Acked, Chip};

/// Number of inputs of both chips.
pub const IRQS: usize = 16;
/// Input of the master that the slave's output is wired to.
const CASCADE: u8 = 2;
/// The input that a chip answers with when nothing asks any more.
const SPURIOUS: u8 = 7;

/// Ports of the pair.
pub mod port {
    /// Master, A0 = 0.
    pub const MASTER_COMMAND: u16 = 0x20;
    /// Master, A0 = 1.
    pub const MASTER_DATA: u16 = 0x21;
    /// Slave, A0 = 0.
    pub const SLAVE_COMMAND: u16 = 0xa0;
    /// Slave, A0 = 1.
    pub const SLAVE_DATA: u16 = 0xa1;
    /// Edge/level control of the master.
    pub const MASTER_ELCR: u16 = 0x4d0;
    /// Edge/level control of the slave.
    pub const SLAVE_ELCR: u16 = 0x4d1;
}

/// Inputs of the master that may be level triggered: not the timer, keyboard
/// and cascade.
const MASTER_ELCR_MASK: u8 = 0xf8;
/// Inputs of the slave that may be level triggered: not the RTC and the
/// coprocessor.
const SLAVE_ELCR_MASK: u8 = 0xde;

/// Which of the two chips.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// IRQs 0 to 7.
    Master,
    /// IRQs 8 to 15.
    Slave,
}

/// What a port access or an acknowledge did, as bitmaps of the 16 IRQs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Changed {
    /// Interrupts completed: their acknowledge notifiers are to be called.
    pub completed: u16,
    /// Inputs that were masked and are not any more.
    pub unmasked: u16,
}

/// Both controllers.
#[derive(Clone, Debug)]
pub struct Pic {
    master: Chip,
    slave: Chip,
    /// Sources that assert the input, as a bitmap.
    lines: [u32; IRQS],
}

impl Pic {
    /// The pair after reset.
    pub const fn new() -> Self {
        Self {
            master: Chip::new(MASTER_ELCR_MASK),
            slave: Chip::new(SLAVE_ELCR_MASK),
            lines: [0; IRQS],
        }
    }

    /// Level of the INTR line.
    #[inline]
    pub fn output(&self) -> bool {
        self.master_request().is_some()
    }

    /// The input the master would answer with.
    fn master_request(&self) -> Option<u8> {
        let cascade = if self.slave.request(0, 0).is_some() {
            1 << CASCADE
        } else {
            0
        };
        // In special fully nested mode the slave's more urgent requests come
        // through while a less urgent one of its own is in service.
        let nested = if self.master.special_fully_nested() {
            1 << CASCADE
        } else {
            0
        };
        self.master.request(cascade, nested)
    }

    /// Sets the level of input `irq` (0..16) as `source` (0..32) drives it.
    /// What does not exist is ignored.
    #[inline]
    pub fn set_irq(&mut self, irq: u8, source: u8, level: bool) -> LineStatus {
        let Some(line) = self.lines.get_mut(usize::from(irq)) else {
            return LineStatus::Ignored;
        };
        let source = 1u32.checked_shl(source.into()).unwrap_or(0);
        if level {
            *line |= source;
        } else {
            *line &= !source;
        }
        let level = *line != 0;
        if irq < 8 {
            self.master.set_input(irq, level)
        } else {
            self.slave.set_input(irq & 7, level)
        }
    }

    /// The processor's acknowledge cycle: the vector, which is that of a
    /// spurious interrupt if nothing asks any more.
    pub fn ack(&mut self) -> (u8, Changed) {
        let Some(irq) = self.master_request() else {
            return (self.master.vector(SPURIOUS), Changed::default());
        };
        let mut changed = Changed::default();
        changed.add(Which::Master, self.master.ack(irq));
        if irq != CASCADE {
            return (self.master.vector(irq), changed);
        }
        let Some(irq) = self.slave.request(0, 0) else {
            return (self.slave.vector(SPURIOUS), changed);
        };
        changed.add(Which::Slave, self.slave.ack(irq));
        (self.slave.vector(irq), changed)
    }

    /// Writes a byte to one of [`port`]. `None` if it is none of them.
    pub fn write(&mut self, port: u16, value: u8) -> Option<Changed> {
        let (which, is_command) = match port {
            port::MASTER_COMMAND => (Which::Master, true),
            port::MASTER_DATA => (Which::Master, false),
            port::SLAVE_COMMAND => (Which::Slave, true),
            port::SLAVE_DATA => (Which::Slave, false),
            port::MASTER_ELCR | port::SLAVE_ELCR => {
                self.write_elcr(port, value);
                return Some(Changed::default());
            }
            _ => return None,
        };
        let levels = self.levels(which);
        let chip = self.chip_mut(which);
        let masked = chip.masked();
        let mut changed = Changed::default();
        if is_command {
            changed.add(which, chip.write_command(value, levels));
        } else {
            chip.write_data(value);
        }
        let unmasked = masked & !chip.masked();
        changed.unmasked = shift(which, unmasked);
        Some(changed)
    }

    /// Reads a byte from one of [`port`]. `None` if it is none of them. A
    /// read may acknowledge an interrupt, in poll mode.
    pub fn read(&mut self, port: u16) -> Option<(u8, Changed)> {
        let (which, is_command) = match port {
            port::MASTER_COMMAND => (Which::Master, true),
            port::MASTER_DATA => (Which::Master, false),
            port::SLAVE_COMMAND => (Which::Slave, true),
            port::SLAVE_DATA => (Which::Slave, false),
            port::MASTER_ELCR => return Some((self.master.elcr(), Changed::default())),
            port::SLAVE_ELCR => return Some((self.slave.elcr(), Changed::default())),
            _ => return None,
        };
        if self.chip_mut(which).take_poll() {
            return Some(self.poll(which));
        }
        let value = if is_command {
            self.status(which)
        } else {
            self.chip_mut(which).masked()
        };
        Some((value, Changed::default()))
    }

    /// A read in poll mode acknowledges.
    fn poll(&mut self, which: Which) -> (u8, Changed) {
        let request = match which {
            Which::Master => self.master_request(),
            Which::Slave => self.slave.request(0, 0),
        };
        let mut changed = Changed::default();
        let Some(irq) = request else {
            return (SPURIOUS, changed);
        };
        changed.add(which, self.chip_mut(which).ack(irq));
        (0x80 | irq, changed)
    }

    /// IRR or ISR.
    fn status(&self, which: Which) -> u8 {
        match which {
            Which::Slave => self.slave.read_status(0),
            Which::Master => {
                let cascade = self.slave.request(0, 0).is_some();
                self.master
                    .read_status(if cascade { 1 << CASCADE } else { 0 })
            }
        }
    }

    fn write_elcr(&mut self, port: u16, value: u8) {
        let which = if port == port::MASTER_ELCR {
            Which::Master
        } else {
            Which::Slave
        };
        let levels = self.levels(which);
        self.chip_mut(which).write_elcr(value, levels);
    }

    fn chip_mut(&mut self, which: Which) -> &mut Chip {
        match which {
            Which::Master => &mut self.master,
            Which::Slave => &mut self.slave,
        }
    }

    /// Levels at the inputs of a chip.
    fn levels(&self, which: Which) -> u8 {
        let first = match which {
            Which::Master => 0,
            Which::Slave => 8,
        };
        let lines = self.lines.iter().skip(first).take(8);
        lines.enumerate().fold(0, |levels, (input, line)| {
            levels | u8::from(*line != 0) << input
        })
    }

    /// The state of one chip for KVM_GET_IRQCHIP.
    pub fn get_state(&self, which: Which) -> kvm_pic_state {
        match which {
            Which::Master => {
                let mut state = self.master.get_state();
                if self.slave.request(0, 0).is_some() {
                    state.irr |= 1 << CASCADE;
                }
                state
            }
            Which::Slave => self.slave.get_state(),
        }
    }

    /// Takes the state of one chip of KVM_SET_IRQCHIP. Sources keep the
    /// levels they drive.
    pub fn set_state(&mut self, which: Which, state: &kvm_pic_state) {
        self.chip_mut(which).set_state(state);
        // The slave's request is not kept: it follows from the slave.
        self.master.clear_request(CASCADE);
    }
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

const fn shift(which: Which, inputs: u8) -> u16 {
    match which {
        Which::Master => inputs as u16,
        Which::Slave => (inputs as u16) << 8,
    }
}

impl Changed {
    fn add(&mut self, which: Which, acked: Acked) {
        self.completed |= shift(which, acked.completed);
    }
}
