// SPDX-License-Identifier: GPL-2.0

//! A set of vectors that is replaced by one party and looked at by others.

use crate::pc::lapic::VectorSet;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// A set of vectors. It is replaced a word at a time: who looks meanwhile
/// sees, for each vector, the old or the new answer.
#[derive(Default)]
pub struct Vectors([AtomicU64; 4]);

impl Vectors {
    /// Whether `vector` is a member.
    #[inline]
    pub fn contains(&self, vector: u8) -> bool {
        match self.0.get(usize::from(vector >> 6)) {
            Some(word) => word.load(Ordering::Relaxed) >> (vector & 63) & 1 != 0,
            None => false,
        }
    }

    /// The whole set.
    pub fn load(&self) -> VectorSet {
        let [w0, w1, w2, w3] = &self.0;
        VectorSet::from_words([w0, w1, w2, w3].map(|word| word.load(Ordering::Relaxed)))
    }

    /// Replaces the set.
    pub fn store(&self, vectors: VectorSet) {
        for (word, new) in self.0.iter().zip(vectors.words()) {
            word.store(new, Ordering::Relaxed);
        }
    }
}
