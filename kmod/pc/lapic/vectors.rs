// SPDX-License-Identifier: GPL-2.0

//! A set of interrupt vectors: the form of IRR, ISR and TMR.

/// A set of the 256 interrupt vectors.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VectorSet([u64; 4]);

impl VectorSet {
    /// The set without members.
    pub const EMPTY: Self = Self([0; 4]);

    /// The set whose vector `64 * i + b` is bit `b` of word `i`.
    #[inline]
    pub const fn from_words(words: [u64; 4]) -> Self {
        Self(words)
    }

    /// The set as words, lowest vectors first.
    #[inline]
    pub const fn words(&self) -> [u64; 4] {
        self.0
    }

    #[inline]
    const fn place(vector: u8) -> (usize, u64) {
        // `vector >> 6` is below 4, so the index cannot be out of bounds.
        ((vector >> 6) as usize, 1 << (vector & 63))
    }

    /// Whether `vector` is a member.
    #[inline]
    pub const fn contains(&self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        self.0[word] & bit != 0
    }

    /// Adds `vector`; says whether it was new.
    #[inline]
    pub fn insert(&mut self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    /// Removes `vector`; says whether it was there.
    #[inline]
    pub fn remove(&mut self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        let there = self.0[word] & bit != 0;
        self.0[word] &= !bit;
        there
    }

    /// The highest member, which is the one of highest priority.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        let [w0, w1, w2, w3] = self.0;
        let (base, word) = if w3 != 0 {
            (192, w3)
        } else if w2 != 0 {
            (128, w2)
        } else if w1 != 0 {
            (64, w1)
        } else if w0 != 0 {
            (0, w0)
        } else {
            return None;
        };
        Some(base | (word.ilog2() as u8))
    }

    /// Whether there is no member.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        let [w0, w1, w2, w3] = self.0;
        w0 | w1 | w2 | w3 == 0
    }

    /// Whether both have the same members; without a call, which comparing
    /// arrays is.
    #[inline]
    pub const fn equals(&self, other: &Self) -> bool {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, other.0);
        (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3) == 0
    }

    /// The members of either.
    #[inline]
    pub const fn union(&self, other: &Self) -> Self {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, other.0);
        Self([a0 | b0, a1 | b1, a2 | b2, a3 | b3])
    }

    /// Whether a vector is in this set and in one of the others.
    #[inline]
    pub const fn meets(&self, one: &Self, other: &Self) -> bool {
        let ([s0, s1, s2, s3], [a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, one.0, other.0);
        s0 & (a0 | b0) | s1 & (a1 | b1) | s2 & (a2 | b2) | s3 & (a3 | b3) != 0
    }

    /// Number of members.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Adds 64 vectors' worth at word `index` (0..4), with `level` telling
    /// which of them are to be members of `triggers` afterwards.
    #[inline]
    pub(super) fn merge_word(&mut self, triggers: &mut Self, index: usize, bits: u64, level: u64) {
        if let (Some(word), Some(trigger)) = (self.0.get_mut(index), triggers.0.get_mut(index)) {
            *word |= bits;
            *trigger = (*trigger & !bits) | (level & bits);
        }
    }

    /// The 32-bit register that shows vectors `32 * index ..`, as the local
    /// APIC lays them out. Zero when `index` is above 7.
    #[inline]
    pub fn register(&self, index: usize) -> u32 {
        match self.0.get(index >> 1) {
            Some(word) if index & 1 == 0 => *word as u32,
            Some(word) => (*word >> 32) as u32,
            None => 0,
        }
    }

    /// Replaces the 32 vectors of one register; nothing when `index` is
    /// above 7.
    pub fn set_register(&mut self, index: usize, value: u32) {
        let Some(word) = self.0.get_mut(index >> 1) else {
            return;
        };
        let shift = if index & 1 == 0 { 0 } else { 32 };
        *word = (*word & !(0xffff_ffff << shift)) | (u64::from(value) << shift);
    }
}
