// SPDX-License-Identifier: GPL-2.0

//! The module's own reads and writes of guest memory, on the guest's behalf.
//!
//! By host virtual address, in the context of the VMM's process, so whatever
//! the process may do with its memory works here too. Writes are logged.

use super::slots::MemorySlot;
use super::FlushRemote;
use super::View;
use crate::host::mm::copy;
use crate::hw::nested::Format;
use crate::pc::addr::Gpa;
use crate::pc::addr::Hva;
use crate::pc::addr::PAGE_SHIFT;

/// Why guest memory could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// No slot there: a device's memory, or nothing.
    NoSlot,
    /// A write to a read-only slot.
    ReadOnly,
    /// The process has nothing mapped there; for the functions named `nofault`
    /// also that it has not been brought in: try again where sleeping is
    /// allowed.
    Fault,
}

impl From<copy::Fault> for MemoryError {
    #[inline]
    fn from(_: copy::Fault) -> Self {
        Self::Fault
    }
}

/// Result of reaching guest memory.
pub type MemoryResult<T = ()> = core::result::Result<T, MemoryError>;

/// A run of guest memory within one slot.
struct Run<'a> {
    entry: &'a MemorySlot,
    hva: Hva,
    /// Bytes up to the end of the slot.
    len: u64,
}

impl<F: Format, V: FlushRemote> View<'_, F, V> {
    #[inline]
    fn run(&self, gpa: Gpa) -> MemoryResult<Run<'_>> {
        let mut hint = self.hint.get();
        let entry = self.slots.get().find(gpa.gfn(), &mut hint);
        self.hint.set(hint);
        let entry = entry.ok_or(MemoryError::NoSlot)?;
        let bytes = entry.slot.pages << PAGE_SHIFT;
        let offset = gpa.0.wrapping_sub(entry.slot.base.gpa().0);
        let offset = copy::index_nospec(offset, bytes);
        Ok(Run {
            entry,
            hva: entry.slot.hva.wrapping_add(offset),
            len: bytes.wrapping_sub(offset),
        })
    }

    #[inline]
    fn writable_run(&self, gpa: Gpa) -> MemoryResult<Run<'_>> {
        let run = self.run(gpa)?;
        if run.entry.slot.read_only() {
            return Err(MemoryError::ReadOnly);
        }
        Ok(run)
    }

    /// Where a byte of guest memory is in the process, and how many bytes from
    /// there on are in the slot.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoSlot`].
    #[inline]
    pub fn hva_of(&self, gpa: Gpa) -> MemoryResult<(Hva, u64)> {
        self.run(gpa).map(|run| (run.hva, run.len))
    }

    /// Whether there is memory at `gpa`, and whether it may be written.
    #[inline]
    pub fn probe(&self, gpa: Gpa, write: bool) -> MemoryResult {
        if write {
            self.writable_run(gpa).map(drop)
        } else {
            self.run(gpa).map(drop)
        }
    }

    /// Reads guest memory, also across slots. May sleep.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]; part of `to` may have been written then.
    pub fn read(&self, gpa: Gpa, to: &mut [u8]) -> MemoryResult {
        self.read_with(gpa, to, copy::read)
    }

    /// [`View::read`], of memory that is there; any context.
    pub fn read_nofault(&self, gpa: Gpa, to: &mut [u8]) -> MemoryResult {
        self.read_with(gpa, to, copy::read_nofault)
    }

    fn read_with(
        &self,
        mut gpa: Gpa,
        mut to: &mut [u8],
        read: impl Fn(Hva, &mut [u8]) -> Result<(), copy::Fault>,
    ) -> MemoryResult {
        while !to.is_empty() {
            let run = self.run(gpa)?;
            let (part, rest) = to.split_at_mut(piece(run.len, to.len()));
            read(run.hva, part)?;
            gpa = gpa.wrapping_add(part.len() as u64);
            to = rest;
        }
        Ok(())
    }

    /// Writes guest memory, also across slots. May sleep.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]; part may have been written then.
    pub fn write(&self, gpa: Gpa, from: &[u8]) -> MemoryResult {
        self.write_with(gpa, from, copy::write)
    }

    /// [`View::write`], to memory that is there and writable; any context.
    pub fn write_nofault(&self, gpa: Gpa, from: &[u8]) -> MemoryResult {
        self.write_with(gpa, from, copy::write_nofault)
    }

    fn write_with(
        &self,
        mut gpa: Gpa,
        mut from: &[u8],
        write: impl Fn(Hva, &[u8]) -> Result<(), copy::Fault>,
    ) -> MemoryResult {
        while !from.is_empty() {
            let run = self.writable_run(gpa)?;
            let (part, rest) = from.split_at(piece(run.len, from.len()));
            let result = write(run.hva, part);
            // Also after a fault, as part may have been written.
            self.mark(&run, gpa, part.len());
            result?;
            gpa = gpa.wrapping_add(part.len() as u64);
            from = rest;
        }
        Ok(())
    }

    /// Notes that `len` bytes at `gpa` have been written.
    #[inline]
    fn mark(&self, run: &Run<'_>, gpa: Gpa, len: usize) {
        if run.entry.log.is_none() {
            return;
        }
        let last = gpa.wrapping_add((len as u64).saturating_sub(1)).gfn();
        let mut gfn = gpa.gfn();
        while gfn <= last {
            run.entry.mark_dirty(gfn);
            gfn.0 = gfn.0.wrapping_add(1);
        }
    }

    /// One load of 8 bytes; any context. Not for an access across slots.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoSlot`], [`MemoryError::Fault`].
    #[inline]
    pub fn read_u64_nofault(&self, gpa: Gpa) -> MemoryResult<u64> {
        Ok(copy::read_u64_nofault(self.run(gpa)?.start_of(8)?)?)
    }

    /// One load of 4 bytes; any context. Not for an access across slots.
    ///
    /// # Errors
    ///
    /// As [`View::read_u64_nofault`].
    #[inline]
    pub fn read_u32_nofault(&self, gpa: Gpa) -> MemoryResult<u32> {
        Ok(copy::read_u32_nofault(self.run(gpa)?.start_of(4)?)?)
    }

    /// Replaces `size` (1, 2, 4 or 8) bytes by `new` if they are `old`, as a
    /// locked CMPXCHG does; `Ok(Err(seen))` if they are not. Atomic if naturally
    /// aligned; otherwise only as atomic as a read and a write. May sleep.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]; [`MemoryError::Fault`] also for another size.
    pub fn cmpxchg(
        &self,
        gpa: Gpa,
        size: u32,
        old: u64,
        new: u64,
    ) -> MemoryResult<Result<(), u64>> {
        if is_aligned(gpa, size) {
            return self.cmpxchg_with(gpa, size, old, new, copy::cmpxchg);
        }
        let mut bytes = [0; 8];
        let bytes = bytes.get_mut(..size as usize).ok_or(MemoryError::Fault)?;
        self.read(gpa, bytes)?;
        match exchange(bytes, old, new) {
            Ok(()) => self.write(gpa, bytes).map(Ok),
            Err(seen) => Ok(Err(seen)),
        }
    }

    /// [`View::cmpxchg`] of memory that is there and writable; any context.
    ///
    /// # Errors
    ///
    /// As [`View::cmpxchg`].
    pub fn cmpxchg_nofault(
        &self,
        gpa: Gpa,
        size: u32,
        old: u64,
        new: u64,
    ) -> MemoryResult<Result<(), u64>> {
        if is_aligned(gpa, size) {
            return self.cmpxchg_with(gpa, size, old, new, copy::cmpxchg_nofault);
        }
        let mut bytes = [0; 8];
        let bytes = bytes.get_mut(..size as usize).ok_or(MemoryError::Fault)?;
        self.read_nofault(gpa, bytes)?;
        match exchange(bytes, old, new) {
            Ok(()) => self.write_nofault(gpa, bytes).map(Ok),
            Err(seen) => Ok(Err(seen)),
        }
    }

    fn cmpxchg_with(
        &self,
        gpa: Gpa,
        size: u32,
        old: u64,
        new: u64,
        cmpxchg: impl Fn(Hva, u32, u64, u64) -> Result<Result<(), u64>, copy::Fault>,
    ) -> MemoryResult<Result<(), u64>> {
        let run = self.writable_run(gpa)?;
        let outcome = cmpxchg(run.start_of(u64::from(size))?, size, old, new)?;
        if outcome.is_ok() {
            run.entry.mark_dirty(gpa.gfn());
        }
        Ok(outcome)
    }
}

impl Run<'_> {
    /// Where `size` bytes are that the run must have.
    #[inline]
    fn start_of(&self, size: u64) -> MemoryResult<Hva> {
        if size > self.len {
            return Err(MemoryError::NoSlot);
        }
        Ok(self.hva)
    }
}

/// An access of `size` bytes, if that is a size of one, is naturally aligned.
/// The host's processor may not do others atomically, or take the attempt ill.
#[inline]
fn is_aligned(gpa: Gpa, size: u32) -> bool {
    matches!(size, 1 | 2 | 4 | 8) && gpa.0 & u64::from(size).wrapping_sub(1) == 0
}

/// Puts `new` into `bytes` if they are `old`; else what they are.
fn exchange(bytes: &mut [u8], old: u64, new: u64) -> Result<(), u64> {
    let mut seen = [0; 8];
    for (to, from) in seen.iter_mut().zip(&*bytes) {
        *to = *from;
    }
    let seen = u64::from_le_bytes(seen);
    let unused = 64_u32.saturating_sub((bytes.len() as u32).saturating_mul(8));
    if (seen ^ old).wrapping_shl(unused) != 0 {
        return Err(seen);
    }
    for (to, from) in bytes.iter_mut().zip(new.to_le_bytes()) {
        *to = from;
    }
    Ok(())
}

/// How much of `wanted` bytes are among the next `available`.
#[inline]
fn piece(available: u64, wanted: usize) -> usize {
    usize::try_from(available).map_or(wanted, |available| available.min(wanted))
}
