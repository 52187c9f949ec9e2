// SPDX-License-Identifier: GPL-2.0

//! Access to memory by linear address: page crossing, devices, the log.

use super::log::Key;
use super::{Answer, EmuContext, Exec, Mmio, Outcome, Step, Target};
use crate::pc::addr::{Gpa, Gva, PAGE_SIZE};
use crate::pc::regs::Rflags;
use crate::pc::walk::Access;

/// The largest operand, in bytes.
pub(super) const MAX_OPERAND: usize = 16;

/// A translated operand of up to 16 bytes: one piece, or two if it crosses a
/// page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    first: Gpa,
    first_len: u8,
    /// Of length 0 if there is none.
    second: Gpa,
    second_len: u8,
}

impl Span {
    /// Is it in one page?
    fn is_whole(&self) -> bool {
        self.second_len == 0
    }

    /// Where it begins.
    pub(super) fn gpa(&self) -> Gpa {
        self.first
    }
}

impl<C: EmuContext> Exec<'_, C> {
    /// The access as this code makes it: privilege, SMAP override.
    pub(super) fn data_access(&self, write: bool) -> Access {
        let kind = if write { Access::WRITE } else { Access::READ };
        kind.at_cpl(self.ctx.cpl())
            .with_ac(self.ctx.rflags().has(Rflags::AC))
            .marking()
    }

    /// Translates all of an operand before any of it is touched.
    pub(super) fn translate(&mut self, gva: Gva, len: usize, access: Access) -> Step<Span> {
        let room = PAGE_SIZE - gva.page_offset();
        let first = self.ctx.translate(gva, access)?;
        let len = len.min(MAX_OPERAND) as u8;
        if u64::from(len) <= room {
            return Ok(Span {
                first,
                first_len: len,
                second: Gpa(0),
                second_len: 0,
            });
        }
        let mut next = gva.wrapping_add(room);
        if !self.mode.is_64bit() {
            next.0 &= 0xffff_ffff;
        }
        let first_len = room as u8;
        Ok(Span {
            first,
            first_len,
            second: self.ctx.translate(next, access)?,
            second_len: len - first_len,
        })
    }

    /// Reads an operand. `data` is as long as the span.
    ///
    /// What crosses a page is noted in the log even where it is memory, both
    /// when read and when written. Its halves cannot be written at once, and
    /// if the second has to be given up, the instruction begins again with the
    /// first already changed.
    pub(super) fn read_span(&mut self, span: &Span, data: &mut [u8]) -> Step<()> {
        if !span.is_whole() {
            let (first, second) = split(data, span)?;
            self.read_noted(span.first, first, true)?;
            return self.read_noted(span.second, second, true);
        }
        match self.ctx.read_phys(span.first, data)? {
            Target::Memory => Ok(()),
            Target::Device => self.read_noted(span.first, data, false),
            Target::Changed => Err(Outcome::Repeat),
        }
    }

    /// Writes an operand. `data` is as long as the span.
    pub(super) fn write_span(&mut self, span: &Span, data: &mut [u8]) -> Step<()> {
        if !span.is_whole() {
            let (first, second) = split(data, span)?;
            self.write_noted(span.first, first, true)?;
            return self.write_noted(span.second, second, true);
        }
        match self.ctx.write_phys(span.first, data)? {
            Target::Memory => Ok(()),
            Target::Device => self.write_noted(span.first, data, false),
            Target::Changed => Err(Outcome::Repeat),
        }
    }

    /// Writes `new` where `old` was read, atomically if that is possible: in
    /// memory and naturally aligned. Anything else is written plainly, as a
    /// processor's locked access to a device is nothing special either.
    pub(super) fn replace_span(&mut self, span: &Span, old: &mut [u8], new: &mut [u8]) -> Step<()> {
        let aligned = span.first.0 % (new.len().max(1) as u64) == 0;
        if !span.is_whole() || !aligned {
            return self.write_span(span, new);
        }
        match self.ctx.cmpxchg_phys(span.first, old, new)? {
            Target::Memory => Ok(()),
            Target::Changed => Err(Outcome::Repeat),
            Target::Device => self.write_noted(span.first, new, false),
        }
    }

    /// Reads through the log, in pieces of up to eight bytes: a device, or
    /// what `may_be_memory`.
    fn read_noted(&mut self, gpa: Gpa, data: &mut [u8], may_be_memory: bool) -> Step<()> {
        let mut at = gpa;
        for piece in data.chunks_mut(8) {
            let key = Key::memory(at, piece.len(), false);
            let value = match self.log.replay(self.passed, key) {
                Some(noted) => noted,
                None => self.read_anew(at, piece, key, may_be_memory)?,
            };
            for (to, from) in piece.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
            self.passed = self.passed.saturating_add(1);
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    fn read_anew(&mut self, at: Gpa, piece: &mut [u8], key: Key, may_be_memory: bool) -> Step<u64> {
        let in_memory = may_be_memory && self.ctx.read_phys(at, piece)? == Target::Memory;
        if !in_memory && self.ctx.mmio_read(at, piece) == Answer::Pending {
            self.log.wait(key)?;
            return Err(Outcome::NeedsMmio(Mmio {
                gpa: at,
                data: 0,
                len: piece.len() as u8,
                write: false,
            }));
        }
        let value = gather(piece);
        self.log.note(key, value)?;
        Ok(value)
    }

    /// Writes through the log, in pieces of up to eight bytes.
    fn write_noted(&mut self, gpa: Gpa, data: &[u8], may_be_memory: bool) -> Step<()> {
        let mut at = gpa;
        for piece in data.chunks(8) {
            let key = Key::memory(at, piece.len(), true);
            if self.log.replay(self.passed, key).is_none() {
                self.write_anew(at, piece, key, may_be_memory)?;
            }
            self.passed = self.passed.saturating_add(1);
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    fn write_anew(&mut self, at: Gpa, piece: &[u8], key: Key, may_be_memory: bool) -> Step<()> {
        let in_memory = may_be_memory && self.ctx.write_phys(at, piece)? == Target::Memory;
        if !in_memory && self.ctx.mmio_write(at, piece) == Answer::Pending {
            self.log.wait(key)?;
            return Err(Outcome::NeedsMmio(Mmio {
                gpa: at,
                data: gather(piece),
                len: piece.len() as u8,
                write: true,
            }));
        }
        self.log.note(key, 0)
    }
}

/// The two pieces of an operand's bytes.
fn split<'d>(data: &'d mut [u8], span: &Span) -> Step<(&'d mut [u8], &'d mut [u8])> {
    data.split_at_mut_checked(usize::from(span.first_len))
        .ok_or(Outcome::Unhandleable)
}

/// Up to eight bytes as a number.
pub(super) fn gather(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    for (to, from) in all.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(all)
}
