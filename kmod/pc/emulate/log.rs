// SPDX-License-Identifier: GPL-2.0

//! The accesses that an unfinished instruction has made: to devices, and to
//! operands that cross a page.
//!
//! They are noted in order. When the instruction is begun again, the n-th
//! access it makes is compared with the n-th noted one: if it is the same, the
//! noted answer is taken and the device left alone.

use super::{Outcome, Step};
use crate::pc::addr::Gpa;

/// The most accesses one instruction, or one iteration, can make: a 16-byte
/// operand that crosses a page, read and written in pieces of up to 8 bytes.
pub const MAX_ACCESSES: usize = 8;

/// An access to a device in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mmio {
    /// Where.
    pub gpa: Gpa,
    /// What is written, in the low bytes; 0 for a read.
    pub data: u64,
    /// How many bytes, 1 to 8.
    pub len: u8,
    /// Write, rather than read?
    pub write: bool,
}

/// An access to a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pio {
    /// Which port.
    pub port: u16,
    /// How many bytes: 1, 2 or 4.
    pub size: u8,
    /// Write, rather than read?
    pub write: bool,
    /// What is written; 0 for a read.
    pub data: u32,
    /// How many reads like this one are certain to follow, this one included.
    /// 1 for a write.
    pub count: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Memory(Gpa),
    Port(u16),
}

/// An access without its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    place: Place,
    len: u8,
    write: bool,
}

impl Key {
    pub(super) fn memory(gpa: Gpa, len: usize, write: bool) -> Self {
        Self {
            place: Place::Memory(gpa),
            len: len as u8,
            write,
        }
    }

    pub(super) fn pio(port: u16, size: u8, write: bool) -> Self {
        Self {
            place: Place::Port(port),
            len: size,
            write,
        }
    }
}

/// The accesses noted so far, and the one waiting for an answer.
#[derive(Clone, Copy, Debug)]
pub struct AccessLog {
    noted: [(Key, u64); MAX_ACCESSES],
    count: usize,
    pending: Option<Key>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self::new()
    }
}

impl AccessLog {
    /// One with nothing in it.
    pub const fn new() -> Self {
        let nothing = Key {
            place: Place::Port(0),
            len: 0,
            write: false,
        };
        Self {
            noted: [(nothing, 0); MAX_ACCESSES],
            count: 0,
            pending: None,
        }
    }

    /// Nothing noted and nothing waited for: the instruction could as well be
    /// run by the processor.
    pub const fn is_empty(&self) -> bool {
        self.count == 0 && self.pending.is_none()
    }

    /// Is an answer waited for?
    pub const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Forgets everything: an instruction was given up for good.
    pub fn clear(&mut self) {
        self.count = 0;
        self.pending = None;
    }

    /// Takes the answer to the access that [`Outcome::NeedsMmio`] or
    /// [`Outcome::NeedsPio`] asked for: what was read, in the low bytes, or
    /// anything for a write. Without an access asked for it does nothing.
    pub fn complete(&mut self, data: u64) {
        let Some(key) = self.pending.take() else {
            return;
        };
        if let Some(slot) = self.noted.get_mut(self.count) {
            *slot = (key, data);
            self.count = self.count.wrapping_add(1);
        }
    }

    /// The answer noted at place `at`, if it is one to `key`. If it is not,
    /// the guest has changed what the instruction depends on, and the rest of
    /// the log means nothing any more.
    pub(super) fn replay(&mut self, at: usize, key: Key) -> Option<u64> {
        self.pending = None;
        if at >= self.count {
            return None;
        }
        match self.noted.get(at) {
            Some(&(noted, data)) if noted == key => Some(data),
            _ => {
                self.count = at;
                None
            }
        }
    }

    /// Notes an access that is done.
    pub(super) fn note(&mut self, key: Key, data: u64) -> Step<()> {
        let slot = self.noted.get_mut(self.count);
        *slot.ok_or(Outcome::Unhandleable)? = (key, data);
        self.count = self.count.wrapping_add(1);
        Ok(())
    }

    /// Notes that an answer is waited for. Fails if there would be no room
    /// for it.
    pub(super) fn wait(&mut self, key: Key) -> Step<()> {
        if self.count >= MAX_ACCESSES {
            return Err(Outcome::Unhandleable);
        }
        self.pending = Some(key);
        Ok(())
    }
}
