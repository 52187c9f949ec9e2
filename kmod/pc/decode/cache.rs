// SPDX-License-Identifier: GPL-2.0

//! Instructions decoded lately. A guest's driver touches its device through few
//! instructions, and comparing sixteen bytes is much less than decoding them.

use super::{decode, parse, DecodeError, Insn};
use crate::pc::regs::CpuMode;

/// A power of two.
const ENTRIES: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Everything the decoder saw: it depends on nothing else.
    bytes: u128,
    len: usize,
    mode: CpuMode,
    insn: Insn,
}

/// A small cache of decoded instructions, found by address and valid by
/// content. One for each vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct DecodeCache {
    entries: [Option<Entry>; ENTRIES],
}

impl DecodeCache {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            entries: [None; ENTRIES],
        }
    }

    /// As [`decode`]; `rip` says where to look, and no more.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    #[inline]
    pub fn decode(&mut self, rip: u64, bytes: &[u8], mode: CpuMode) -> Result<Insn, DecodeError> {
        let slot = &mut self.entries[(rip ^ (rip >> 4)) as usize % ENTRIES];
        let word = parse::load(bytes);
        if let Some(entry) = slot {
            if entry.bytes == word && entry.len == bytes.len() && entry.mode == mode {
                return Ok(entry.insn);
            }
        }
        let insn = decode(bytes, mode)?;
        *slot = Some(Entry {
            bytes: word,
            len: bytes.len(),
            mode,
            insn,
        });
        Ok(insn)
    }
}
