// SPDX-License-Identifier: GPL-2.0

//! Guest memory as instruction fetches and page walks need it: without
//! sleeping where that is not allowed.

use super::memory::FlushRemote;
use super::memory::View;
use super::step::Context;
use crate::hw::nested::Format;
use crate::pc::addr::Gpa;
use crate::pc::walk::GuestMemory;

/// Reads for one exit.
pub struct Reader<'a, F: Format, R: FlushRemote> {
    /// The memory.
    pub view: View<'a, F, R>,
    /// Whether sleeping is allowed.
    pub context: Context,
}

impl<F: Format, R: FlushRemote> Reader<'_, F, R> {
    /// Reads bytes that may lie anywhere. False when they cannot be read, in
    /// this context.
    #[inline]
    pub fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        match self.context {
            Context::Atomic => self.view.read_nofault(gpa, bytes).is_ok(),
            Context::Sleepable => self.view.read(gpa, bytes).is_ok(),
        }
    }
}

impl<F: Format, R: FlushRemote> GuestMemory for Reader<'_, F, R> {
    #[inline]
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        if let Ok(value) = self.view.read_u64_nofault(gpa) {
            return Some(value);
        }
        if self.context == Context::Atomic {
            return None;
        }
        let mut bytes = [0; 8];
        self.view.read(gpa, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    #[inline]
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        if let Ok(value) = self.view.read_u32_nofault(gpa) {
            return Some(value);
        }
        if self.context == Context::Atomic {
            return None;
        }
        let mut bytes = [0; 4];
        self.view.read(gpa, &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        let outcome = match self.context {
            Context::Atomic => self.view.cmpxchg_nofault(gpa, 8, old, new),
            Context::Sleepable => self.view.cmpxchg(gpa, 8, old, new),
        };
        outcome.ok().map(|swapped| swapped.is_ok())
    }
}
