// SPDX-License-Identifier: GPL-2.0

//! The guest's accesses to PICs, PIT and I/O APIC.
//!
//! Context: any; nothing here sleeps.

use super::controllers::Controllers;
use super::Chip;
use crate::pc::addr::Gpa;
use crate::pc::pic::port as pic;
use crate::pc::pit::port as pit;
use crate::vm::irq::Pins;

/// A PIC has two ports, and so have the edge/level registers; an access stays
/// within.
#[inline]
const fn fits_pair(port: u16, size: u8) -> bool {
    ((port & 1) as u8).wrapping_add(size) <= 2
}

/// The counters have four ports with the control word.
#[inline]
const fn fits_counters(port: u16, size: u8) -> bool {
    ((port & 3) as u8).wrapping_add(size) <= 4
}

/// Below 256, the first ports of accesses that a chip may answer: a bit each.
const LOW_PORTS: [u64; 4] = {
    let mut map = [0; 4];
    let mut port = 0;
    while port < 256 {
        if matches!(
            port,
            pic::MASTER_COMMAND
                | pic::MASTER_DATA
                | pic::SLAVE_COMMAND
                | pic::SLAVE_DATA
                | pit::COUNTER0..=pit::CONTROL | pit::SPEAKER
        ) {
            map[(port >> 6) as usize] |= 1 << (port & 63);
        }
        port += 1;
    }
    map
};

/// Whether a chip may answer an access that begins at `port`. Most are for
/// userspace, and find out here.
#[inline]
fn may_answer(port: u16) -> bool {
    match LOW_PORTS.get(usize::from(port >> 6)) {
        Some(map) => map >> (port & 63) & 1 != 0,
        None => matches!(port, pic::MASTER_ELCR | pic::SLAVE_ELCR),
    }
}

impl Chip {
    /// Reads a port of size 1, 2 or 4 bytes; `None` when nothing here answers.
    #[inline]
    pub fn port_read(&self, port: u16, size: u8) -> Option<u32> {
        if !may_answer(port) {
            return None;
        }
        self.read_chip(port, size)
    }

    /// Writes a port of size 1, 2 or 4 bytes; false when nothing here takes
    /// it.
    #[inline]
    pub fn port_write(&self, port: u16, size: u8, value: u32) -> bool {
        may_answer(port) && self.write_chip(port, size, value)
    }

    fn read_chip(&self, port: u16, size: u8) -> Option<u32> {
        match port {
            pic::MASTER_COMMAND
            | pic::MASTER_DATA
            | pic::SLAVE_COMMAND
            | pic::SLAVE_DATA
            | pic::MASTER_ELCR
            | pic::SLAVE_ELCR
                if fits_pair(port, size) =>
            {
                self.pic_read(port, size)
            }
            pit::COUNTER0..=pit::CONTROL if fits_counters(port, size) => self.pit_read(port),
            pit::SPEAKER => self.pit_read(port),
            _ => None,
        }
    }

    fn write_chip(&self, port: u16, size: u8, value: u32) -> bool {
        match port {
            pic::MASTER_COMMAND
            | pic::MASTER_DATA
            | pic::SLAVE_COMMAND
            | pic::SLAVE_DATA
            | pic::MASTER_ELCR
            | pic::SLAVE_ELCR
                if fits_pair(port, size) =>
            {
                self.pic_write(port, size, value)
            }
            pit::COUNTER0..=pit::CONTROL if fits_counters(port, size) => {
                self.pit_write(port, value as u8)
            }
            pit::SPEAKER => self.pit_write(port, value as u8),
            _ => false,
        }
    }

    /// The PICs have byte ports: wider reads give zero.
    #[inline]
    fn pic_read(&self, port: u16, size: u8) -> Option<u32> {
        let (controllers, interrupts) = self.controllers()?;
        if size != 1 {
            return Some(0);
        }
        let (value, changed) = controllers.read_pic(port)?;
        if changed.completed != 0 {
            interrupts.completed(Pins::pic(changed.completed));
        }
        Some(value.into())
    }

    /// As for reads: wider writes are lost.
    #[inline]
    fn pic_write(&self, port: u16, size: u8, value: u32) -> bool {
        let Some((controllers, interrupts)) = self.controllers() else {
            return false;
        };
        if size != 1 {
            return true;
        }
        let Some(changed) = controllers.write_pic(port, value as u8) else {
            return false;
        };
        if changed.unmasked != 0 {
            interrupts.unmasked(Pins::pic(changed.unmasked));
        }
        if changed.completed != 0 {
            interrupts.completed(Pins::pic(changed.completed));
        }
        true
    }

    /// Reads the I/O APIC; false when that is elsewhere. Registers have 32
    /// bits: of wider reads the rest is zero.
    #[inline]
    pub fn ioapic_read(&self, gpa: Gpa, data: &mut [u8]) -> bool {
        let Some((controllers, _)) = self.controllers() else {
            return false;
        };
        let Some(offset) = controllers.ioapic_offset(gpa) else {
            return false;
        };
        let value = u64::from(controllers.read_ioapic(offset));
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
        true
    }

    /// Writes the I/O APIC; false when that is elsewhere.
    #[inline(always)]
    pub fn ioapic_write(&self, gpa: Gpa, data: &[u8]) -> bool {
        let Some((controllers, _)) = self.controllers() else {
            return false;
        };
        let Some(offset) = controllers.ioapic_offset(gpa) else {
            return false;
        };
        self.ioapic_write_at(controllers, offset, data)
    }

    fn ioapic_write_at(&self, controllers: &Controllers, offset: u32, data: &[u8]) -> bool {
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        let written = controllers.write_ioapic(offset, u32::from_le_bytes(bytes));
        self.ioapic_written(written);
        true
    }
}
