// SPDX-License-Identifier: GPL-2.0

//! The bytes of an instruction, taken one after the other.

/// Up to 15 instruction bytes, taken from the front.
///
/// Past the end it yields zeros and counts on, so that only the count has to
/// be compared with the length, once, at the end.
pub(super) struct Cursor {
    rest: u128,
    taken: u32,
}

impl Cursor {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self {
            rest: load(bytes),
            taken: 0,
        }
    }

    /// How many bytes were taken.
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// The byte that [`Cursor::byte`] takes next.
    pub(super) fn peek(&self) -> u8 {
        self.rest as u8
    }

    pub(super) fn byte(&mut self) -> u8 {
        let byte = self.rest as u8;
        self.rest >>= 8;
        self.taken = self.taken.wrapping_add(1);
        byte
    }

    pub(super) fn word(&mut self) -> u16 {
        let word = self.rest as u16;
        self.rest >>= 16;
        self.taken = self.taken.wrapping_add(2);
        word
    }

    pub(super) fn dword(&mut self) -> u32 {
        let dword = self.rest as u32;
        self.rest >>= 32;
        self.taken = self.taken.wrapping_add(4);
        dword
    }

    pub(super) fn qword(&mut self) -> u64 {
        let qword = self.rest as u64;
        self.rest >>= 64;
        self.taken = self.taken.wrapping_add(8);
        qword
    }

    pub(super) fn signed_byte(&mut self) -> u64 {
        i64::from(self.byte() as i8) as u64
    }

    pub(super) fn signed_word(&mut self) -> u64 {
        i64::from(self.word() as i16) as u64
    }

    pub(super) fn signed_dword(&mut self) -> u64 {
        i64::from(self.dword() as i32) as u64
    }
}

/// The first 16 of `bytes` as a number, zeros where there are fewer.
#[inline]
pub(super) fn load(bytes: &[u8]) -> u128 {
    if let Some(all) = bytes.first_chunk() {
        return u128::from_le_bytes(*all);
    }
    // Fewer than 16 but at least 8: two words that overlap.
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let shift = (bytes.len() as u32).wrapping_sub(8).wrapping_mul(8);
        let last = u128::from(u64::from_le_bytes(*last));
        return u128::from(u64::from_le_bytes(*first)) | last.wrapping_shl(shift);
    }
    let mut word = 0;
    for byte in bytes.iter().rev() {
        word = (word << 8) | u64::from(*byte);
    }
    u128::from(word)
}
