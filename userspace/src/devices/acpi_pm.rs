// SPDX-License-Identifier: GPL-2.0-or-later

//! ACPI fixed hardware (ACPI 6.5, 4.8.3): switching off, and the power management timer.
//!
//! There is no SMI to switch ACPI on with: it always is. No event is ever raised, so the event
//! registers only remember what the guest enables.

use std::sync::Arc;
use std::time::Instant;

use crate::boot::layout::port;
use crate::bus::BusDevice;
use crate::ending::{Control, Ending};

/// PM1 event block: status, then enable, 16 bits each.
pub const EVENT: u16 = port::PM;
pub const EVENT_SIZE: u8 = 4;
/// PM1 control register.
pub const CONTROL: u16 = port::PM + 4;
pub const CONTROL_SIZE: u8 = 2;
/// PM timer.
pub const TIMER: u16 = port::PM + 8;
pub const TIMER_SIZE: u8 = 4;

/// The sleep type `\_S5` names.
pub const SLEEP_TYPE_OFF: u16 = 5;
/// What the reset register is told, also on a PC's port 0xcf9: full reset.
pub const RESET_VALUE: u8 = 6;

const ENABLE_OFFSET: u64 = 2;
const CONTROL_OFFSET: u64 = (CONTROL - EVENT) as u64;
const TIMER_OFFSET: u64 = (TIMER - EVENT) as u64;

/// PM1 control: ACPI is on.
const SCI_ENABLE: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_TYPE_MASK: u16 = 7;
const SLEEP_ENABLE: u16 = 1 << 13;

const TIMER_HZ: u128 = 3_579_545;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The PM register block.
pub struct AcpiPm {
    control: Arc<Control>,
    enable: u16,
    started: Instant,
}

impl AcpiPm {
    pub fn new(control: Arc<Control>) -> Self {
        Self {
            control,
            enable: 0,
            started: Instant::now(),
        }
    }

    fn registers(&self) -> [u8; port::PM_SIZE as usize] {
        let mut bytes = [0; port::PM_SIZE as usize];
        let ticks = self.started.elapsed().as_nanos() * TIMER_HZ / NANOS_PER_SECOND;
        let fields = [
            (ENABLE_OFFSET, u32::from(self.enable)),
            (CONTROL_OFFSET, u32::from(SCI_ENABLE)),
            // The timer wraps: only its low 32 bits exist.
            (TIMER_OFFSET, ticks as u32),
        ];
        for (offset, value) in fields {
            for (byte, source) in bytes
                .iter_mut()
                .skip(offset as usize)
                .zip(value.to_le_bytes())
            {
                *byte = source;
            }
        }
        bytes
    }
}

impl BusDevice for AcpiPm {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let registers = self.registers();
        data.fill(0);
        for (byte, source) in data.iter_mut().zip(registers.iter().skip(offset as usize)) {
            *byte = *source;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let value = match *data {
            [low, high, ..] => u16::from_le_bytes([low, high]),
            _ => return,
        };
        match offset {
            ENABLE_OFFSET => self.enable = value,
            CONTROL_OFFSET
                if value & SLEEP_ENABLE != 0
                    && value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == SLEEP_TYPE_OFF =>
            {
                self.control.end(Ending::PowerOff);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> (Arc<Control>, AcpiPm) {
        let control = Arc::new(Control::new().unwrap());
        (control.clone(), AcpiPm::new(control))
    }

    #[test]
    fn soft_off_powers_off() {
        let (control, mut pm) = device();
        pm.write(
            CONTROL_OFFSET,
            &(SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT).to_le_bytes(),
        );
        assert_eq!(
            control.ending(),
            None,
            "without the enable bit nothing happens"
        );
        pm.write(
            CONTROL_OFFSET,
            &(SLEEP_ENABLE | 1 << SLEEP_TYPE_SHIFT).to_le_bytes(),
        );
        assert_eq!(
            control.ending(),
            None,
            "other sleep types are not switched off"
        );
        pm.write(
            CONTROL_OFFSET,
            &(SLEEP_ENABLE | SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT).to_le_bytes(),
        );
        assert_eq!(control.ending(), Some(Ending::PowerOff));
    }

    #[test]
    fn acpi_is_on() {
        let (_, mut pm) = device();
        let mut value = [0; 2];
        pm.read(CONTROL_OFFSET, &mut value);
        assert_eq!(u16::from_le_bytes(value) & SCI_ENABLE, SCI_ENABLE);
    }

    #[test]
    fn timer_counts_at_its_frequency() {
        let (_, mut pm) = device();
        pm.started = Instant::now() - std::time::Duration::from_secs(10);
        let mut value = [0; 4];
        pm.read(TIMER_OFFSET, &mut value);
        let ticks = u128::from(u32::from_le_bytes(value));
        // A loaded machine may take its time between the two lines above, but not a minute.
        assert!((10 * TIMER_HZ..60 * TIMER_HZ).contains(&ticks), "{ticks}");
    }

    #[test]
    fn enable_bits_are_kept_and_status_is_clear() {
        let (_, mut pm) = device();
        pm.write(ENABLE_OFFSET, &[0x20, 0x01]);
        let mut value = [0xff; 4];
        pm.read(0, &mut value);
        assert_eq!(value, [0, 0, 0x20, 0x01]);
    }
}
