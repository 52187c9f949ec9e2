// SPDX-License-Identifier: GPL-2.0

//! The I/O APIC: a 82093AA with 24 pins and the version KVM reports, 0x11,
//! which has no EOI register.
//!
//! A pin may have several sources (userspace, irqfds, the PIT, ...); its
//! level is the OR of theirs. Nothing here blocks, allocates or calls back
//! except into the [`IoApicSink`], so all of it may run under a spin lock
//! with interrupts off.
//!
//! Completion goes in two steps, because a resampled line has to be lowered
//! between them: [`IoApic::eoi`] tells which pins were completed; the caller
//! lowers and notifies those that have a resampler; then [`IoApic::resume`]
//! delivers again what is still asserted. A write of a register may likewise
//! find a line that became deliverable: see [`Written`].

#[cfg(test)]
mod tests;

use super::irq::msi::DestFormat;
use super::irq::{LineStatus, Message};
use super::lapic::VectorSet;
use crate::uapi::{kvm_ioapic_state, KVM_IOAPIC_NUM_PINS};

/// Number of pins.
pub const PINS: usize = KVM_IOAPIC_NUM_PINS;
/// Where the registers are after reset.
pub const DEFAULT_ADDRESS: u64 = 0xfec0_0000;
/// Size of the register window in bytes.
pub const WINDOW_SIZE: u64 = 0x100;

/// After this many completions in a row with the line still asserted, the
/// next delivery is left to a timer.
const STORM_LIMIT: u16 = 10_000;

/// Window offsets.
mod offset {
    pub(super) const SELECT: u32 = 0x00;
    pub(super) const DATA: u32 = 0x10;
}

/// Indirect registers.
mod register {
    pub(super) const ID: u8 = 0x00;
    pub(super) const VERSION: u8 = 0x01;
    pub(super) const ARBITRATION: u8 = 0x02;
    pub(super) const ENTRIES: u8 = 0x10;
    pub(super) const ID_SHIFT: u32 = 24;
    pub(super) const ID_MASK: u32 = 0xf;
    /// 24 pins, version 0x11.
    pub(super) const VERSION_VALUE: u32 = (super::PINS as u32 - 1) << 16 | 0x11;
}

/// Bits of a redirection table entry.
mod entry {
    pub(super) const VECTOR: u64 = 0xff;
    pub(super) const DELIVERY_STATUS: u64 = 1 << 12;
    pub(super) const REMOTE_IRR: u64 = 1 << 14;
    pub(super) const LEVEL: u64 = 1 << 15;
    pub(super) const MASKED: u64 = 1 << 16;
    pub(super) const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;
    /// Vector, modes, polarity, trigger and mask; extended destination and
    /// destination.
    pub(super) const WRITABLE: u64 = 0xfffe_0000_0001_afff;
    pub(super) const LOW: u64 = 0xffff_ffff;
}

/// Takes messages to the local APICs.
pub trait IoApicSink {
    /// Delivers `message`. Called with the I/O APIC's lock held.
    fn deliver(&mut self, message: &Message) -> LineStatus;
}

/// What a register write did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Written {
    /// An entry changed: [`IoApic::eoi_vectors`] may have.
    pub entries_changed: bool,
    /// Pins that were masked and are not any more.
    pub unmasked: u32,
    /// Pins whose asserted level can be delivered now. The caller lowers and
    /// notifies those that have a resampler, and hands all of them to
    /// [`IoApic::resume`].
    pub pending: u32,
}

/// An I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    base_address: u64,
    select: u8,
    id: u8,
    entries: [u64; PINS],
    /// Sources that assert the pin, as a bitmap.
    lines: [u32; PINS],
    /// Pins asserted (by a line, or by restored state).
    irr: u32,
    /// Edge-triggered pins whose edge was delivered while still asserted.
    edge_delivered: u32,
    /// Pins whose EOI is of interest though they are edge triggered.
    watched: u32,
    /// Completions in a row with the line still asserted.
    repeats: [u16; PINS],
    format: DestFormat,
}

impl IoApic {
    /// The I/O APIC after reset: all pins masked.
    pub const fn new() -> Self {
        Self {
            base_address: DEFAULT_ADDRESS,
            select: 0,
            id: 0,
            entries: [entry::MASKED; PINS],
            lines: [0; PINS],
            irr: 0,
            edge_delivered: 0,
            watched: 0,
            repeats: [0; PINS],
            format: DestFormat::Bits8,
        }
    }

    /// Where the registers are.
    #[inline]
    pub const fn base_address(&self) -> u64 {
        self.base_address
    }

    /// How wide destinations in entries are.
    pub fn set_format(&mut self, format: DestFormat) {
        self.format = format;
    }

    /// Sets the pins whose EOI matters to someone even if they are edge
    /// triggered (the PIT's, when it reinjects).
    pub fn set_watched(&mut self, pins: u32) {
        self.watched = pins;
    }

    #[inline]
    fn entry(&self, pin: usize) -> u64 {
        self.entries.get(pin).copied().unwrap_or(entry::MASKED)
    }

    #[inline]
    fn change_entry(&mut self, pin: usize, clear: u64, set: u64) {
        if let Some(entry) = self.entries.get_mut(pin) {
            *entry = (*entry & !clear) | set;
        }
    }

    /// Whether pin `pin` is masked; true for pins that do not exist.
    #[inline]
    pub fn is_masked(&self, pin: u8) -> bool {
        self.entry(usize::from(pin)) & entry::MASKED != 0
    }

    /// Vectors whose EOI [`Self::eoi`] has to see: those of level-triggered
    /// and of watched pins, masked or not.
    pub fn eoi_vectors(&self) -> VectorSet {
        let mut vectors = VectorSet::EMPTY;
        for pin in 0..PINS {
            let entry = self.entry(pin);
            if entry & entry::LEVEL != 0 || self.watched & 1 << pin != 0 {
                vectors.insert((entry & entry::VECTOR) as u8);
            }
        }
        vectors
    }

    /// Sets the level of `pin` as `source` (0..32) drives it. What does not
    /// exist is ignored.
    #[inline]
    pub fn set_irq(
        &mut self,
        pin: u8,
        source: u8,
        level: bool,
        sink: &mut impl IoApicSink,
    ) -> LineStatus {
        let pin = usize::from(pin);
        let Some(line) = self.lines.get_mut(pin) else {
            return LineStatus::Ignored;
        };
        let source = 1u32.checked_shl(source.into()).unwrap_or(0);
        if level {
            *line |= source;
        } else {
            *line &= !source;
        }
        let bit = 1u32 << pin;
        if *line == 0 {
            self.irr &= !bit;
            self.edge_delivered &= !bit;
            // Lowering a line always succeeds; KVM reports it as 1.
            return LineStatus::Delivered(1);
        }
        let rises = self.irr & bit == 0;
        self.irr |= bit;
        if !rises && self.entry(pin) & entry::LEVEL == 0 {
            return LineStatus::Coalesced;
        }
        self.service(pin, sink)
    }

    /// Delivers an asserted pin if its entry lets it.
    fn service(&mut self, pin: usize, sink: &mut impl IoApicSink) -> LineStatus {
        let entry = self.entry(pin);
        if entry & entry::MASKED != 0 {
            return LineStatus::Ignored;
        }
        let level = entry & entry::LEVEL != 0;
        if level && entry & entry::REMOTE_IRR != 0 {
            return LineStatus::Coalesced;
        }
        let status = sink.deliver(&Message::from_rte(entry, self.format));
        if status != LineStatus::Ignored {
            if level {
                self.change_entry(pin, 0, entry::REMOTE_IRR);
            } else {
                self.edge_delivered |= 1 << pin;
            }
        }
        status
    }

    /// A local APIC completed `vector`, which it had as level triggered or
    /// not. Returns the pins that have this vector: their acknowledge
    /// notifiers are to be called. Then hand them to [`Self::resume`].
    #[must_use]
    pub fn eoi(&mut self, vector: u8, level_triggered: bool) -> u32 {
        let mut pins = 0;
        for pin in 0..PINS {
            if self.entry(pin) & entry::VECTOR != u64::from(vector) {
                continue;
            }
            pins |= 1 << pin;
            if level_triggered {
                self.change_entry(pin, entry::REMOTE_IRR, 0);
            }
        }
        pins
    }

    /// Delivers those of `pins` again that are level triggered and still
    /// asserted. Returns the pins for which this has gone on for so long that
    /// the guest may not get to anything else: the caller is to call again
    /// for those after some 10 ms.
    #[must_use]
    pub fn resume(&mut self, pins: u32, sink: &mut impl IoApicSink) -> u32 {
        let mut storming = 0;
        for pin in 0..PINS {
            let bit = 1u32 << pin;
            let entry = self.entry(pin);
            let blocked = entry & (entry::MASKED | entry::REMOTE_IRR) != 0;
            if pins & bit == 0 || entry & entry::LEVEL == 0 || blocked {
                continue;
            }
            let Some(repeats) = self.repeats.get_mut(pin) else {
                continue;
            };
            if self.irr & bit == 0 {
                *repeats = 0;
                continue;
            }
            *repeats = repeats.saturating_add(1);
            if *repeats > STORM_LIMIT {
                *repeats = 0;
                storming |= bit;
                continue;
            }
            let _ = self.service(pin, sink);
        }
        storming
    }

    /// Reads the window at `offset`. Narrower accesses take the low bytes.
    pub fn read(&self, offset: u32) -> u32 {
        match offset {
            offset::SELECT => u32::from(self.select),
            offset::DATA => self.read_register(),
            _ => 0,
        }
    }

    /// The pin and half that the selected register is; the half is true for
    /// the high one.
    fn selected_entry(&self) -> Option<(usize, bool)> {
        let index = usize::from(self.select.checked_sub(register::ENTRIES)?);
        let pin = index >> 1;
        (pin < PINS).then_some((pin, index & 1 != 0))
    }

    fn read_register(&self) -> u32 {
        match self.select {
            register::ID | register::ARBITRATION => u32::from(self.id) << register::ID_SHIFT,
            register::VERSION => register::VERSION_VALUE,
            _ => match self.selected_entry() {
                Some((pin, true)) => (self.entry(pin) >> 32) as u32,
                Some((pin, false)) => self.entry(pin) as u32,
                None => u32::MAX,
            },
        }
    }

    /// Writes the window at `offset`. Narrower accesses are extended with
    /// zeros.
    #[must_use]
    pub fn write(&mut self, offset: u32, value: u32) -> Written {
        match offset {
            offset::SELECT => self.select = value as u8,
            offset::DATA if self.select == register::ID => {
                self.id = ((value >> register::ID_SHIFT) & register::ID_MASK) as u8;
            }
            offset::DATA => {
                if let Some((pin, high)) = self.selected_entry() {
                    return self.write_entry(pin, high, value);
                }
            }
            _ => {}
        }
        Written::default()
    }

    fn write_entry(&mut self, pin: usize, high: bool, value: u32) -> Written {
        let before = self.entry(pin);
        let written = if high {
            before & entry::LOW | u64::from(value) << 32
        } else {
            before & !entry::LOW | u64::from(value)
        };
        let mut after = written & entry::WRITABLE | before & entry::READ_ONLY;
        if after & entry::LEVEL == 0 {
            // Guests complete interrupts of chips without EOI register by
            // switching to edge and back.
            after &= !entry::REMOTE_IRR;
        }
        self.change_entry(pin, !0, after);

        let bit = 1u32 << pin;
        let becomes_edge = before & !after & entry::LEVEL != 0;
        if becomes_edge {
            // The level that is there is no edge.
            self.edge_delivered |= self.irr & bit;
        } else if after & entry::LEVEL != 0 {
            self.edge_delivered &= !bit;
        }
        let unmasked = before & !after & entry::MASKED != 0;
        let blocked = entry::MASKED | entry::REMOTE_IRR;
        let deliverable = self.irr & bit != 0 && after & entry::LEVEL != 0 && after & blocked == 0;
        Written {
            entries_changed: before != after,
            unmasked: if unmasked { bit } else { 0 },
            pending: if deliverable { bit } else { 0 },
        }
    }

    /// The state for KVM_GET_IRQCHIP. Edges that were delivered are not in
    /// `irr`.
    pub const fn get_state(&self) -> kvm_ioapic_state {
        kvm_ioapic_state {
            base_address: self.base_address,
            ioregsel: self.select as u32,
            id: self.id as u32,
            irr: self.irr & !self.edge_delivered,
            pad: 0,
            redirtbl: self.entries,
        }
    }

    /// Takes the state of KVM_SET_IRQCHIP, and delivers what is asserted in
    /// it. Sources keep the levels they drive. Undefined bits are dropped.
    pub fn set_state(&mut self, state: &kvm_ioapic_state, sink: &mut impl IoApicSink) {
        self.base_address = state.base_address;
        self.select = state.ioregsel as u8;
        self.id = (state.id & register::ID_MASK) as u8;
        for (entry, new) in self.entries.iter_mut().zip(state.redirtbl) {
            *entry = new & (entry::WRITABLE | entry::READ_ONLY);
        }
        self.repeats = [0; PINS];
        self.edge_delivered = 0;
        self.irr = state.irr & ((1 << PINS) - 1);
        for pin in 0..PINS {
            if self.irr & 1 << pin != 0 {
                let _ = self.service(pin, sink);
            }
        }
    }
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}
