// SPDX-License-Identifier: GPL-2.0

//! Instructions decoded lately. A guest's driver touches its device through few
//! instructions, and comparing sixteen bytes is much less than decoding them.

use super::{cursor, decode, parse, DecodeError, Insn, PlainMove};
use crate::pc::regs::CpuMode;

/// A power of two.
const ENTRIES: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Everything the decoder saw: it depends on nothing else.
    bytes: u128,
    /// 0 in an entry without an instruction.
    len: u8,
    mode: CpuMode,
    insn: Insn,
    plain: Option<PlainMove>,
}

/// A small cache of decoded instructions, found by address and valid by
/// content. One for each vCPU.
#[derive(Clone, Copy, Debug)]
pub struct DecodeCache {
    entries: [Entry; ENTRIES],
}

/// Where [`DecodeCache::find`] has an instruction, until the next one.
#[derive(Clone, Copy, Debug)]
pub struct Place(usize);

impl DecodeCache {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            entries: [Entry {
                bytes: 0,
                len: 0,
                mode: CpuMode::Long64,
                insn: parse::NO_INSN,
                plain: None,
            }; ENTRIES],
        }
    }

    /// As [`decode`]; `rip` says where to look, and no more.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(&mut self, rip: u64, bytes: &[u8], mode: CpuMode) -> Result<Insn, DecodeError> {
        let len = bytes.len().min(super::MAX_LENGTH);
        let bytes = bytes.get(..len).unwrap_or(bytes);
        let place = self.find(rip, cursor::load(bytes), len as u8, mode)?;
        Ok(*self.get(place))
    }

    /// Decodes the first `len` bytes, at most 15, of `bytes`, little-endian;
    /// the others are 0.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    #[inline]
    pub fn find(
        &mut self,
        rip: u64,
        bytes: u128,
        len: u8,
        mode: CpuMode,
    ) -> Result<Place, DecodeError> {
        let place = Place((rip ^ (rip >> 4)) as usize % ENTRIES);
        let entry = &self.entries[place.0 % ENTRIES];
        if entry.bytes == bytes && entry.len == len && entry.mode == mode && len != 0 {
            return Ok(place);
        }
        self.fill(place, bytes, len, mode)?;
        Ok(place)
    }

    #[cold]
    fn fill(
        &mut self,
        place: Place,
        bytes: u128,
        len: u8,
        mode: CpuMode,
    ) -> Result<(), DecodeError> {
        let whole = bytes.to_le_bytes();
        let seen = whole.get(..usize::from(len)).unwrap_or(&whole);
        let insn = decode(seen, mode)?;
        self.entries[place.0 % ENTRIES] = Entry {
            bytes,
            len,
            mode,
            plain: PlainMove::of(&insn),
            insn,
        };
        Ok(())
    }

    /// What [`DecodeCache::find`] has found, if that is a plain move.
    #[inline]
    pub const fn plain(&self, place: Place) -> Option<&PlainMove> {
        self.entries[place.0 % ENTRIES].plain.as_ref()
    }

    /// What [`DecodeCache::find`] has found.
    #[inline]
    pub const fn get(&self, place: Place) -> &Insn {
        &self.entries[place.0 % ENTRIES].insn
    }
}

impl Default for DecodeCache {
    fn default() -> Self {
        Self::new()
    }
}
