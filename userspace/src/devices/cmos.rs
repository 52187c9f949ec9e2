// SPDX-License-Identifier: GPL-2.0-or-later

//! The real-time clock and its memory, an MC146818: index port, data port.
//!
//! The clock shows the host's time in UTC. Setting it is remembered as an offset for the life of
//! the machine. Alarms and periodic interrupts do not exist.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;

/// The memory byte that holds the century, as the FADT says.
pub const CENTURY: u8 = 0x32;

const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 0xa;
const STATUS_B: u8 = 0xb;
const STATUS_C: u8 = 0xc;
const STATUS_D: u8 = 0xd;

/// Status A: the divider of a running 32 kHz clock.
const DIVIDER_RUNNING: u8 = 0x26;
/// Status B: hours count to 23.
const HOURS_24: u8 = 1 << 1;
/// Status B: the clock's numbers are binary, not decimal digits.
const BINARY: u8 = 1 << 2;
/// Status B: the clock stands still while it is being set.
const SET: u8 = 1 << 7;
/// Status D: the battery is good.
const VALID: u8 = 1 << 7;

const MEMORY_SIZE: usize = 128;
const INDEX_MASK: u8 = 0x7f;
const SECONDS_PER_DAY: i64 = 86_400;

/// The clock.
pub struct Cmos {
    index: u8,
    memory: [u8; MEMORY_SIZE],
    /// Seconds the guest's clock is ahead of the host's.
    ahead: i64,
}

/// A moment in UTC, as the clock's registers show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    /// 1 is Sunday.
    weekday: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

/// Days from the epoch to a date of the Gregorian calendar, counted in years that begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl Civil {
    fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(SECONDS_PER_DAY);
        let rest = seconds.rem_euclid(SECONDS_PER_DAY);
        // The year is at most one above this guess, as a year has at most 366 days.
        let mut year = 1970 + days.div_euclid(366);
        while days_from_civil(year + 1, 1, 1) <= days {
            year += 1;
        }
        let month = (1..=12)
            .rev()
            .find(|month| days_from_civil(year, *month, 1) <= days)
            .unwrap_or(1);
        Self {
            year,
            month,
            day: days - days_from_civil(year, month, 1) + 1,
            weekday: (days + 4).rem_euclid(7) + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    fn to_unix(self) -> i64 {
        days_from_civil(self.year, self.month, self.day) * SECONDS_PER_DAY
            + self.hour * 3600
            + self.minute * 60
            + self.second
    }
}

fn host_time() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}

impl Cmos {
    pub fn new() -> Self {
        let mut memory = [0; MEMORY_SIZE];
        memory[usize::from(STATUS_A)] = DIVIDER_RUNNING;
        memory[usize::from(STATUS_B)] = HOURS_24;
        memory[usize::from(STATUS_D)] = VALID;
        Self {
            index: 0,
            memory,
            ahead: 0,
        }
    }

    fn cell(&self, index: u8) -> u8 {
        self.memory.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn status_b(&self) -> u8 {
        self.cell(STATUS_B)
    }

    /// A number as the clock's registers show it.
    fn encode(&self, value: i64) -> u8 {
        let value = value.clamp(0, 99) as u8;
        if self.status_b() & BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> i64 {
        if self.status_b() & BINARY != 0 {
            i64::from(value)
        } else {
            i64::from(value >> 4) * 10 + i64::from(value & 0xf)
        }
    }

    /// Puts the time `now` (Unix seconds) into the clock's registers.
    fn show(&mut self, now: i64) {
        let time = Civil::from_unix(now);
        let fields = [
            (SECONDS, time.second),
            (MINUTES, time.minute),
            (HOURS, time.hour),
            (WEEKDAY, time.weekday),
            (DAY, time.day),
            (MONTH, time.month),
            (YEAR, time.year % 100),
            (CENTURY, time.year / 100),
        ];
        for (index, value) in fields {
            let value = self.encode(value);
            self.put(index, value);
        }
    }

    /// Takes the time in the registers as the time it is now.
    fn set_from_registers(&mut self, host: i64) {
        let field = |index| self.decode(self.cell(index));
        let time = Civil {
            year: field(CENTURY) * 100 + field(YEAR),
            month: field(MONTH).clamp(1, 12),
            day: field(DAY).clamp(1, 31),
            weekday: 1,
            hour: field(HOURS),
            minute: field(MINUTES),
            second: field(SECONDS),
        };
        self.ahead = time.to_unix() - host;
    }

    fn put(&mut self, index: u8, value: u8) {
        if let Some(cell) = self.memory.get_mut(usize::from(index)) {
            *cell = value;
        }
    }

    fn read_data(&mut self) -> u8 {
        let clock = matches!(self.index, SECONDS..=YEAR | CENTURY);
        if clock && self.status_b() & SET == 0 {
            self.show(host_time() + self.ahead);
        }
        match self.index {
            // No interrupt is ever pending.
            STATUS_C => 0,
            index => self.cell(index),
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.index {
            STATUS_A | STATUS_C | STATUS_D => {}
            STATUS_B => {
                let was_setting = self.status_b() & SET != 0;
                if value & SET != 0 && !was_setting {
                    self.show(host_time() + self.ahead);
                }
                self.put(STATUS_B, value | HOURS_24);
                if value & SET == 0 && was_setting {
                    self.set_from_registers(host_time());
                }
            }
            index => self.put(index, value),
        }
    }
}

impl BusDevice for Cmos {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let ([byte], 1) = (data, offset) {
            *byte = self.read_data();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (data, offset) {
            ([index], 0) => self.index = index & INDEX_MASK,
            ([value], 1) => self.write_data(*value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar() {
        for (seconds, civil) in [
            (0, (1970, 1, 1, 5, 0, 0, 0)),
            (951_782_399, (2000, 2, 28, 2, 23, 59, 59)),
            (951_782_400, (2000, 2, 29, 3, 0, 0, 0)),
            (1_735_689_599, (2024, 12, 31, 3, 23, 59, 59)),
            (4_102_444_800, (2100, 1, 1, 6, 0, 0, 0)),
        ] {
            let time = Civil::from_unix(seconds);
            let fields = (
                time.year,
                time.month,
                time.day,
                time.weekday,
                time.hour,
                time.minute,
                time.second,
            );
            assert_eq!(fields, civil);
            assert_eq!(time.to_unix(), seconds);
        }
    }

    fn register(cmos: &mut Cmos, index: u8) -> u8 {
        cmos.write(0, &[index]);
        let mut value = [0];
        cmos.read(1, &mut value);
        value[0]
    }

    #[test]
    fn registers_show_decimal_digits_unless_asked_for_binary() {
        let mut cmos = Cmos::new();
        cmos.show(1_735_689_599);
        assert_eq!(cmos.cell(YEAR), 0x24);
        assert_eq!(cmos.cell(SECONDS), 0x59);
        assert_eq!(cmos.cell(CENTURY), 0x20);
        cmos.put(STATUS_B, HOURS_24 | BINARY);
        cmos.show(1_735_689_599);
        assert_eq!(cmos.cell(SECONDS), 59);
    }

    #[test]
    fn clock_can_be_set() {
        let mut cmos = Cmos::new();
        cmos.write(0, &[STATUS_B]);
        cmos.write(1, &[SET | HOURS_24]);
        for (index, value) in [
            (CENTURY, 0x19),
            (YEAR, 0x99),
            (MONTH, 0x12),
            (DAY, 0x31),
            (HOURS, 0x12),
            (MINUTES, 0x30),
            (SECONDS, 0),
        ] {
            cmos.write(0, &[index]);
            cmos.write(1, &[value]);
        }
        cmos.write(0, &[STATUS_B]);
        cmos.write(1, &[HOURS_24]);
        assert_eq!(register(&mut cmos, YEAR), 0x99);
        assert_eq!(register(&mut cmos, CENTURY), 0x19);
        assert_eq!(register(&mut cmos, HOURS), 0x12);
    }

    #[test]
    fn no_update_is_ever_in_progress() {
        let mut cmos = Cmos::new();
        assert_eq!(register(&mut cmos, STATUS_A) & 0x80, 0);
        assert_eq!(register(&mut cmos, STATUS_D), VALID);
    }
}
