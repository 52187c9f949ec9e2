// SPDX-License-Identifier: GPL-2.0-or-later

//! A random number generator that a seed fixes (splitmix64).

/// The generator of one thread.
pub struct Rng(u64);

/// Values at which comparisons, shifts and additions go wrong.
const EDGES: [u64; 24] = [
    0,
    1,
    2,
    7,
    8,
    63,
    64,
    255,
    256,
    4095,
    4096,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

impl Rng {
    /// A generator that `seed` and `stream` fix.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Rng(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.any();
        rng
    }

    /// Any 64 bits.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.any() % limit
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of a list.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number near an edge.
    pub fn edge(&mut self) -> u64 {
        let near = self.below(3);
        self.pick(&EDGES).wrapping_add(near).wrapping_sub(1)
    }

    /// A number of any of several kinds.
    pub fn number(&mut self) -> u64 {
        match self.below(5) {
            0 => self.any(),
            1 => self.edge(),
            2 => 1 << self.below(64),
            _ => self.below(32),
        }
    }
}
