// SPDX-License-Identifier: GPL-2.0

//! The 8254 interval timer and the speaker port of a PC (Intel 8254 data
//! sheet), as arithmetic over the time of an access.
//!
//! Times are monotonic nanoseconds of the caller. Counter 0's output raises
//! IRQ 0: [`Pit::next_expiry`] is when, and the caller's timer calls
//! [`Pit::timer_fired`]. Whatever changes counter 0 changes the next expiry,
//! so the caller programs its timer anew after every write of a port and
//! after [`Pit::set_state`].

mod channel;
#[cfg(test)]
mod tests;

use crate::uapi::{
    kvm_pit_channel_state, kvm_pit_state2, KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_FLAGS_SPEAKER_DATA_ON,
};
use channel::Channel;

/// The counters' clock in Hz.
pub const FREQUENCY_HZ: u64 = 1_193_182;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// The shortest time between two interrupts of counter 0, in ticks (200 us),
/// so that a guest cannot keep the host busy with timers.
const MIN_PERIOD_TICKS: u64 = 239;

/// Half the period of the refresh signal of port 0x61, in ns.
const REFRESH_NS: u64 = 15_085;

/// Ports of the timer.
pub mod port {
    /// Counter 0.
    pub const COUNTER0: u16 = 0x40;
    /// Counter 2.
    pub const COUNTER2: u16 = 0x42;
    /// Control word.
    pub const CONTROL: u16 = 0x43;
    /// Speaker and gate of counter 2 (KVM_PIT_SPEAKER_DUMMY).
    pub const SPEAKER: u16 = 0x61;
}

/// Bits of the control word.
mod control {
    pub(super) const SELECT_SHIFT: u32 = 6;
    /// Read back; not a counter.
    pub(super) const READ_BACK: u8 = 3;
    pub(super) const ACCESS_SHIFT: u32 = 4;
    /// Access mode 0: latch the count.
    pub(super) const LATCH: u8 = 0;
    /// Read back: do not latch the counts.
    pub(super) const NO_COUNT: u8 = 0x20;
    /// Read back: do not latch the status.
    pub(super) const NO_STATUS: u8 = 0x10;
}

/// Bits of the speaker port.
mod speaker {
    pub(super) const GATE2: u8 = 0x01;
    pub(super) const DATA: u8 = 0x02;
    pub(super) const REFRESH: u8 = 0x10;
    pub(super) const OUT2: u8 = 0x20;
}

/// Ticks that pass in `ns`, rounded down.
const fn ticks_in(ns: u64) -> u64 {
    let seconds = ns / NS_PER_SECOND;
    let rest = ns % NS_PER_SECOND;
    seconds
        .saturating_mul(FREQUENCY_HZ)
        .saturating_add(rest * FREQUENCY_HZ / NS_PER_SECOND)
}

/// Nanoseconds until `ticks` have passed, rounded up, so that
/// `ticks_in(ns_until(t)) == t`.
const fn ns_until(ticks: u64) -> u64 {
    let seconds = ticks / FREQUENCY_HZ;
    let rest = ticks % FREQUENCY_HZ;
    seconds
        .saturating_mul(NS_PER_SECOND)
        .saturating_add((rest * NS_PER_SECOND).div_ceil(FREQUENCY_HZ))
}

/// What to do about the timer's interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[must_use]
pub struct Tick {
    /// Raise IRQ 0 and lower it again. When nobody listens
    /// (`LineStatus::Ignored`), tell with [`Pit::not_delivered`].
    pub inject: bool,
    /// The next expiry in ns; `None`: no timer.
    pub next_expiry: Option<u64>,
}

/// How ticks that the guest had no time for are treated
/// (KVM_REINJECT_CONTROL).
#[derive(Clone, Copy, Debug)]
struct Reinject {
    on: bool,
    /// Ticks owed to the guest.
    pending: u32,
    /// The guest completed the last one.
    acked: bool,
}

/// A 8254 with the speaker port.
#[derive(Clone, Debug)]
pub struct Pit {
    channels: [Channel; 3],
    speaker_data: bool,
    hpet_legacy: bool,
    reinject: Reinject,
    /// Expiries of counter 0 seen since it was loaded.
    expiries: u64,
}

impl Pit {
    /// The timer after reset at time `now_ns`.
    pub const fn new(now_ns: u64) -> Self {
        Self {
            channels: [
                Channel::new(true, now_ns),
                Channel::new(true, now_ns),
                Channel::new(false, now_ns),
            ],
            speaker_data: false,
            hpet_legacy: false,
            reinject: Reinject {
                on: true,
                pending: 0,
                acked: true,
            },
            expiries: 0,
        }
    }

    #[inline]
    fn channel_mut(&mut self, index: u8) -> Option<&mut Channel> {
        self.channels.get_mut(usize::from(index))
    }

    /// Writes a byte to one of [`port`]; `false` if it is none of them.
    pub fn write(&mut self, port: u16, value: u8, now_ns: u64) -> bool {
        match port {
            port::COUNTER0..=port::COUNTER2 => {
                let index = (port - port::COUNTER0) as u8;
                let Some(channel) = self.channel_mut(index) else {
                    return false;
                };
                if channel.write(value, now_ns) && index == 0 {
                    self.counter0_loaded();
                }
            }
            port::CONTROL => self.write_control(value, now_ns),
            port::SPEAKER => {
                self.speaker_data = value & speaker::DATA != 0;
                if let Some(channel) = self.channel_mut(2) {
                    channel.set_gate(value & speaker::GATE2 != 0, now_ns);
                }
            }
            _ => return false,
        }
        true
    }

    fn write_control(&mut self, value: u8, now_ns: u64) {
        let select = value >> control::SELECT_SHIFT;
        if select == control::READ_BACK {
            self.read_back(value, now_ns);
            return;
        }
        let access = (value >> control::ACCESS_SHIFT) & 3;
        let Some(channel) = self.channel_mut(select) else {
            return;
        };
        if access == control::LATCH {
            channel.latch_count(now_ns);
        } else {
            channel.program(value);
            if select == 0 {
                self.counter0_loaded();
            }
        }
    }

    fn read_back(&mut self, value: u8, now_ns: u64) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if value & 2 << index == 0 {
                continue;
            }
            if value & control::NO_COUNT == 0 {
                channel.latch_count(now_ns);
            }
            if value & control::NO_STATUS == 0 {
                channel.latch_status(now_ns);
            }
        }
    }

    fn counter0_loaded(&mut self) {
        self.expiries = 0;
        self.reset_reinject();
    }

    /// Reads a byte from one of [`port`]; `None` if it is none of them. The
    /// control word cannot be read; it reads as zero.
    pub fn read(&mut self, port: u16, now_ns: u64) -> Option<u8> {
        match port {
            port::COUNTER0..=port::COUNTER2 => self
                .channel_mut((port - port::COUNTER0) as u8)
                .map(|channel| channel.read(now_ns)),
            port::CONTROL => Some(0),
            port::SPEAKER => Some(self.read_speaker(now_ns)),
            _ => None,
        }
    }

    fn read_speaker(&self, now_ns: u64) -> u8 {
        let [_, _, counter2] = &self.channels;
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        bit(counter2.gate(), speaker::GATE2)
            | bit(self.speaker_data, speaker::DATA)
            | bit((now_ns / REFRESH_NS) & 1 != 0, speaker::REFRESH)
            | bit(counter2.output(now_ns), speaker::OUT2)
    }

    /// When counter 0 raises IRQ 0 next, in ns; `None` if it does not.
    pub fn next_expiry(&self) -> Option<u64> {
        if self.hpet_legacy {
            return None;
        }
        let [counter0, _, _] = &self.channels;
        counter0.expiry(self.expiries)
    }

    /// The caller's timer fired. A call that comes too early does no harm.
    pub fn timer_fired(&mut self, now_ns: u64) -> Tick {
        let mut inject = false;
        if self.next_expiry().is_some_and(|expiry| expiry <= now_ns) {
            let [counter0, _, _] = &self.channels;
            let passed = counter0.expiries(now_ns);
            let fresh = passed.saturating_sub(self.expiries);
            self.expiries = passed;
            inject = self.owe(u32::try_from(fresh).unwrap_or(u32::MAX));
        }
        Tick {
            inject,
            next_expiry: self.next_expiry(),
        }
    }

    /// `ticks` passed; says whether to inject one now.
    fn owe(&mut self, ticks: u32) -> bool {
        if !self.reinject.on {
            return ticks != 0;
        }
        self.reinject.pending = self.reinject.pending.saturating_add(ticks);
        self.inject_owed()
    }

    fn inject_owed(&mut self) -> bool {
        if !self.reinject.acked || self.reinject.pending == 0 {
            return false;
        }
        self.reinject.acked = false;
        self.reinject.pending = self.reinject.pending.saturating_sub(1);
        true
    }

    /// The guest completed IRQ 0, at the PIC or with an EOI. Returns whether
    /// to inject the next one that it is owed.
    #[must_use]
    pub fn acked(&mut self) -> bool {
        self.reinject.acked = true;
        self.reinject.on && self.inject_owed()
    }

    /// Nobody took the interrupt, so nobody will complete it.
    pub fn not_delivered(&mut self) {
        self.reinject.acked = true;
    }

    /// Forgets ticks that are owed: also when IRQ 0 is unmasked.
    pub fn reset_reinject(&mut self) {
        self.reinject.pending = 0;
        self.reinject.acked = true;
    }

    /// KVM_REINJECT_CONTROL: whether ticks that came while an earlier one was
    /// not completed are made up for (the default), or lost. Only when they
    /// are, [`Self::acked`] needs to be called.
    pub fn set_reinject(&mut self, on: bool) {
        self.reset_reinject();
        self.reinject.on = on;
    }

    /// Whether lost ticks are made up for.
    #[inline]
    pub const fn reinject(&self) -> bool {
        self.reinject.on
    }

    /// The state for KVM_GET_PIT2; KVM_GET_PIT leaves out the flags.
    pub fn get_state(&self, now_ns: u64) -> kvm_pit_state2 {
        let mut flags = 0;
        if self.hpet_legacy {
            flags |= KVM_PIT_FLAGS_HPET_LEGACY;
        }
        if self.speaker_data {
            flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
        }
        let [counter0, counter1, counter2] = &self.channels;
        kvm_pit_state2 {
            channels: [
                counter0.get_state(now_ns),
                counter1.get_state(now_ns),
                counter2.get_state(now_ns),
            ],
            flags,
            reserved: [0; 9],
        }
    }

    /// Takes the state of KVM_SET_PIT2. All counters start over from their
    /// counts at `now_ns`. KVM_SET_PIT is this with the flags kept
    /// ([`Self::flags`]).
    pub fn set_state(&mut self, channels: &[kvm_pit_channel_state; 3], flags: u32, now_ns: u64) {
        for (channel, state) in self.channels.iter_mut().zip(channels) {
            channel.set_state(state, now_ns);
        }
        self.hpet_legacy = flags & KVM_PIT_FLAGS_HPET_LEGACY != 0;
        self.speaker_data = flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON != 0;
        self.counter0_loaded();
    }

    /// The flags of [`kvm_pit_state2`].
    pub fn flags(&self) -> u32 {
        self.get_state(0).flags
    }
}
