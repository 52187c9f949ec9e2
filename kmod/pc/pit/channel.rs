// SPDX-License-Identifier: GPL-2.0

//! One counter of the 8254.

use super::{ns_until, ticks_in, MIN_PERIOD_TICKS};
use crate::uapi::kvm_pit_channel_state;

/// What a count of zero stands for.
const FULL_BINARY: u32 = 0x1_0000;
const FULL_BCD: u32 = 10_000;

/// `kvm_pit_channel_state.mode` before the counter was ever programmed.
const MODE_NONE: u8 = 0xff;

/// Status byte: the output's level.
const STATUS_OUTPUT: u8 = 0x80;
/// Status byte: the count written last is not in the counter yet.
const STATUS_NULL_COUNT: u8 = 0x40;

/// Operating mode (8254 data sheet, "Mode definitions").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Not programmed yet.
    None,
    /// 0: interrupt on terminal count.
    TerminalCount,
    /// 1: hardware retriggerable one-shot.
    OneShot,
    /// 2: rate generator.
    RateGenerator,
    /// 3: square wave.
    SquareWave,
    /// 4: software triggered strobe.
    SoftwareStrobe,
    /// 5: hardware triggered strobe.
    HardwareStrobe,
}

impl Mode {
    const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::None => MODE_NONE,
            Self::TerminalCount => 0,
            Self::OneShot => 1,
            Self::RateGenerator => 2,
            Self::SquareWave => 3,
            Self::SoftwareStrobe => 4,
            Self::HardwareStrobe => 5,
        }
    }

    const fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    /// A falling gate stops the count where it is.
    const fn gate_pauses(self) -> bool {
        matches!(self, Self::TerminalCount | Self::SoftwareStrobe)
    }
}

/// Which bytes of the count are accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Low,
    High,
    Both,
}

impl Access {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            1 => Self::Low,
            2 => Self::High,
            _ => Self::Both,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Low => 1,
            Self::High => 2,
            Self::Both => 3,
        }
    }

    const fn first(self) -> Next {
        match self {
            Self::Low => Next::Low,
            Self::High => Next::High,
            Self::Both => Next::LowOfBoth,
        }
    }
}

/// The byte that is accessed next; the numbers are those of
/// `kvm_pit_channel_state.{read,write}_state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Low = 1,
    High = 2,
    LowOfBoth = 3,
    HighOfBoth = 4,
}

impl Next {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Low),
            2 => Some(Self::High),
            3 => Some(Self::LowOfBoth),
            4 => Some(Self::HighOfBoth),
            _ => None,
        }
    }
}

/// A latched count and the byte of it that is read next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Latch {
    count: u16,
    next: Next,
}

/// One counter.
///
/// # Invariants
///
/// `count` is 1 to 65536.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    /// The count it was loaded with.
    count: u32,
    /// When it was, in ns.
    loaded_at: u64,
    /// Ticks that had passed when the gate stopped the count.
    paused: Option<u64>,
    /// Counting since `loaded_at`, or paused.
    started: bool,
    mode: Mode,
    bcd: bool,
    gate: bool,
    access: Access,
    read_next: Next,
    write_next: Next,
    /// First of two bytes written.
    low_byte: u8,
    latched_count: Option<Latch>,
    latched_status: Option<u8>,
}

impl Channel {
    pub(super) const fn new(gate: bool, now_ns: u64) -> Self {
        Self {
            count: FULL_BINARY,
            loaded_at: now_ns,
            paused: None,
            started: true,
            mode: Mode::None,
            bcd: false,
            gate,
            access: Access::Both,
            read_next: Next::LowOfBoth,
            write_next: Next::LowOfBoth,
            low_byte: 0,
            latched_count: None,
            latched_status: None,
        }
    }

    pub(super) const fn gate(&self) -> bool {
        self.gate
    }

    const fn full(&self) -> u32 {
        if self.bcd {
            FULL_BCD
        } else {
            FULL_BINARY
        }
    }

    /// Ticks counted at time `now_ns`.
    fn elapsed(&self, now_ns: u64) -> u64 {
        match self.paused {
            Some(ticks) => ticks,
            None => ticks_in(now_ns.saturating_sub(self.loaded_at)),
        }
    }

    /// Ticks into the current period. `count` is never zero.
    fn phase(&self, elapsed: u64) -> u64 {
        elapsed.checked_rem(u64::from(self.count)).unwrap_or(0)
    }

    /// The counting element, as its register shows it.
    fn current(&self, now_ns: u64) -> u16 {
        let elapsed = self.elapsed(now_ns);
        let count = u64::from(self.count);
        let value = if !self.started {
            count
        } else if self.mode == Mode::SquareWave {
            // It counts by two, twice per period.
            let doubled = elapsed.wrapping_mul(2).checked_rem(count).unwrap_or(0);
            count.wrapping_sub(doubled) & !1
        } else if self.mode.is_periodic() {
            count.wrapping_sub(self.phase(elapsed))
        } else {
            // Past zero it goes on from the top.
            let full = u64::from(self.full());
            let past = elapsed.checked_rem(full).unwrap_or(0);
            count.wrapping_add(full).wrapping_sub(past)
        };
        let value = (value.checked_rem(u64::from(self.full())).unwrap_or(0)) as u16;
        if self.bcd {
            to_bcd(value)
        } else {
            value
        }
    }

    /// Level of the output.
    pub(super) fn output(&self, now_ns: u64) -> bool {
        if !self.started {
            return self.mode != Mode::TerminalCount;
        }
        let elapsed = self.elapsed(now_ns);
        let count = u64::from(self.count);
        match self.mode {
            Mode::None | Mode::TerminalCount | Mode::OneShot => elapsed >= count,
            Mode::RateGenerator => !self.gate || self.phase(elapsed).wrapping_add(1) != count,
            Mode::SquareWave => !self.gate || self.phase(elapsed) < count.div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != count,
        }
    }

    /// A control word other than latch and read back.
    pub(super) fn program(&mut self, value: u8) {
        self.access = Access::from_bits(value >> 4);
        self.mode = Mode::from_bits(value >> 1);
        self.bcd = value & 1 != 0;
        self.read_next = self.access.first();
        self.write_next = self.access.first();
        self.latched_count = None;
        self.latched_status = None;
        self.paused = None;
        self.started = false;
    }

    pub(super) fn latch_count(&mut self, now_ns: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(Latch {
                count: self.current(now_ns),
                next: self.access.first(),
            });
        }
    }

    pub(super) fn latch_status(&mut self, now_ns: u64) {
        if self.latched_status.is_some() {
            return;
        }
        let output = if self.output(now_ns) {
            STATUS_OUTPUT
        } else {
            0
        };
        let null = if self.started { 0 } else { STATUS_NULL_COUNT };
        let mode = (self.mode.number() & 7) << 1;
        let status = output | null | self.access.bits() << 4 | mode | u8::from(self.bcd);
        self.latched_status = Some(status);
    }

    pub(super) fn read(&mut self, now_ns: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        if let Some(latch) = self.latched_count.take() {
            let [low, high] = latch.count.to_le_bytes();
            return match latch.next {
                Next::Low => low,
                Next::High | Next::HighOfBoth => high,
                Next::LowOfBoth => {
                    self.latched_count = Some(Latch {
                        next: Next::High,
                        ..latch
                    });
                    low
                }
            };
        }
        let [low, high] = self.current(now_ns).to_le_bytes();
        match self.read_next {
            Next::Low => low,
            Next::High => high,
            Next::LowOfBoth => {
                self.read_next = Next::HighOfBoth;
                low
            }
            Next::HighOfBoth => {
                self.read_next = Next::LowOfBoth;
                high
            }
        }
    }

    /// Writes a byte of the count; says whether the count is complete.
    pub(super) fn write(&mut self, value: u8, now_ns: u64) -> bool {
        let bytes = match self.write_next {
            Next::Low => [value, 0],
            Next::High => [0, value],
            Next::LowOfBoth => {
                self.low_byte = value;
                self.write_next = Next::HighOfBoth;
                return false;
            }
            Next::HighOfBoth => {
                self.write_next = Next::LowOfBoth;
                [self.low_byte, value]
            }
        };
        self.load(u16::from_le_bytes(bytes), now_ns);
        true
    }

    fn load(&mut self, written: u16, now_ns: u64) {
        let count = if self.bcd {
            from_bcd(written)
        } else {
            u32::from(written)
        };
        self.count = if count == 0 { self.full() } else { count };
        self.start(now_ns);
    }

    fn start(&mut self, now_ns: u64) {
        self.loaded_at = now_ns;
        self.started = true;
        let held = !self.gate && self.mode.gate_pauses();
        self.paused = held.then_some(0);
    }

    pub(super) fn set_gate(&mut self, gate: bool, now_ns: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        if !self.started {
            return;
        }
        match self.mode {
            Mode::TerminalCount | Mode::SoftwareStrobe => {
                if gate {
                    let done = ns_until(self.elapsed(now_ns));
                    self.loaded_at = now_ns.saturating_sub(done);
                    self.paused = None;
                } else {
                    self.paused = Some(self.elapsed(now_ns));
                }
            }
            Mode::None => {}
            // A rising gate triggers anew.
            _ if gate => self.start(now_ns),
            _ => {}
        }
    }

    /// Whether the output of this counter, with its gate wired high, ever
    /// raises an interrupt.
    fn interrupts(&self) -> bool {
        self.started
            && !matches!(self.mode, Mode::None | Mode::HardwareStrobe)
            && self.paused.is_none()
    }

    /// Ticks between interrupts.
    fn stride(&self) -> u64 {
        let count = u64::from(self.count);
        if self.mode.is_periodic() {
            count.max(MIN_PERIOD_TICKS)
        } else {
            count
        }
    }

    /// When the interrupt after the first `done` ones is due, in ns.
    pub(super) fn expiry(&self, done: u64) -> Option<u64> {
        if !self.interrupts() || (done != 0 && !self.mode.is_periodic()) {
            return None;
        }
        let ticks = done.saturating_add(1).saturating_mul(self.stride());
        Some(self.loaded_at.saturating_add(ns_until(ticks)))
    }

    /// Number of interrupts due since the count was loaded.
    pub(super) fn expiries(&self, now_ns: u64) -> u64 {
        if !self.interrupts() {
            return 0;
        }
        let passed = self.elapsed(now_ns).checked_div(self.stride()).unwrap_or(0);
        if self.mode.is_periodic() {
            passed
        } else {
            passed.min(1)
        }
    }

    pub(super) fn get_state(&self, now_ns: u64) -> kvm_pit_channel_state {
        let (latched_count, count_latched) = match self.latched_count {
            Some(latch) => (latch.count, latch.next as u8),
            None => (0, 0),
        };
        let load_time = match self.paused {
            Some(ticks) => now_ns.saturating_sub(ns_until(ticks)),
            None => self.loaded_at,
        };
        kvm_pit_channel_state {
            count: self.count,
            latched_count,
            count_latched,
            status_latched: u8::from(self.latched_status.is_some()),
            status: self.latched_status.unwrap_or(0),
            read_state: self.read_next as u8,
            write_state: self.write_next as u8,
            write_latch: self.low_byte,
            rw_mode: self.access.bits(),
            mode: self.mode.number(),
            bcd: u8::from(self.bcd),
            gate: u8::from(self.gate),
            count_load_time: i64::try_from(load_time).unwrap_or(i64::MAX),
        }
    }

    /// Takes a state, and starts over from its count.
    pub(super) fn set_state(&mut self, state: &kvm_pit_channel_state, now_ns: u64) {
        self.mode = match state.mode {
            MODE_NONE => Mode::None,
            mode => Mode::from_bits(mode),
        };
        self.bcd = state.bcd != 0;
        self.gate = state.gate != 0;
        self.access = Access::from_bits(state.rw_mode);
        let first = self.access.first();
        self.read_next = Next::from_number(state.read_state).unwrap_or(first);
        self.write_next = Next::from_number(state.write_state).unwrap_or(first);
        self.low_byte = state.write_latch;
        self.latched_count = Next::from_number(state.count_latched).map(|next| Latch {
            count: state.latched_count,
            next,
        });
        self.latched_status = (state.status_latched != 0).then_some(state.status);
        self.count = match state.count {
            0 => self.full(),
            count => count.min(FULL_BINARY),
        };
        self.start(now_ns);
    }
}

/// The value of four BCD digits. Digits above 9 count as they are.
const fn from_bcd(bcd: u16) -> u32 {
    let bcd = bcd as u32;
    (bcd & 0xf) + (bcd >> 4 & 0xf) * 10 + (bcd >> 8 & 0xf) * 100 + (bcd >> 12 & 0xf) * 1000
}

/// Four BCD digits of a value below 10000.
const fn to_bcd(value: u16) -> u16 {
    (value % 10) | (value / 10 % 10) << 4 | (value / 100 % 10) << 8 | (value / 1000 % 10) << 12
}
