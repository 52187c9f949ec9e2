// SPDX-License-Identifier: GPL-2.0

//! Legacy prefixes and REX (APM volume 3, sections 1.2 and 1.3).

use crate::pc::regs::SegReg;

/// The prefix that selects between the instructions of one vector opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mandatory {
    /// None.
    None = 0,
    /// `66`.
    P66 = 1,
    /// `F3`.
    F3 = 2,
    /// `F2`.
    F2 = 3,
}

impl Mandatory {
    /// From the two bits VEX, EVEX and XOP encode it with.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::None,
            1 => Self::P66,
            2 => Self::F3,
            _ => Self::F2,
        }
    }
}

/// The legacy prefixes seen, in any order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Prefixes(u16);

impl Prefixes {
    /// None.
    pub const NONE: Self = Self(0);
    /// `66`.
    pub const OPERAND_SIZE: u16 = 1 << 0;
    /// `67`.
    pub const ADDRESS_SIZE: u16 = 1 << 1;
    /// `F0`.
    pub const LOCK: u16 = 1 << 2;
    /// `F3` (and no `F2` after it).
    pub const REP: u16 = 1 << 3;
    /// `F2` (and no `F3` after it).
    pub const REPNE: u16 = 1 << 4;
    /// A segment override that counts; which, is in the bits above.
    const SEGMENT: u16 = 1 << 5;
    const SEGMENT_SHIFT: u32 = 8;

    /// Is any of `bits` there?
    #[inline]
    pub const fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    /// Is there `F2` or `F3`?
    #[inline]
    pub const fn repeats(self) -> bool {
        self.has(Self::REP | Self::REPNE)
    }

    /// The segment override that counts: in 64-bit code only FS and GS do.
    #[inline]
    pub const fn segment(self) -> Option<SegReg> {
        if !self.has(Self::SEGMENT) {
            return None;
        }
        SegReg::from_encoding((self.0 >> Self::SEGMENT_SHIFT) as u8)
    }

    /// The mandatory prefix these amount to: `F2` and `F3` go before `66`.
    #[inline]
    pub const fn mandatory(self) -> Mandatory {
        if self.has(Self::REP) {
            return Mandatory::F3;
        }
        if self.has(Self::REPNE) {
            return Mandatory::F2;
        }
        if self.has(Self::OPERAND_SIZE) {
            return Mandatory::P66;
        }
        Mandatory::None
    }

    #[inline]
    pub(super) fn add(&mut self, bit: u16) {
        self.0 |= bit;
    }

    /// The later of `F2` and `F3` wins.
    #[inline]
    pub(super) fn set_repeat(&mut self, bit: u16) {
        self.0 = (self.0 & !(Self::REP | Self::REPNE)) | bit;
    }

    #[inline]
    pub(super) fn set_segment(&mut self, segment: SegReg) {
        self.0 = (self.0 & 0xff) | Self::SEGMENT | ((segment as u16) << Self::SEGMENT_SHIFT);
    }

    /// As VEX, EVEX and XOP give the mandatory prefix.
    #[inline]
    pub(super) fn set_mandatory(&mut self, prefix: Mandatory) {
        match prefix {
            Mandatory::None => {}
            Mandatory::P66 => self.add(Self::OPERAND_SIZE),
            Mandatory::F3 => self.add(Self::REP),
            Mandatory::F2 => self.add(Self::REPNE),
        }
    }
}

/// A REX prefix, or the like bits of VEX, EVEX and XOP in the same places.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Rex(pub u8);

impl Rex {
    const B: u8 = 1;
    const X: u8 = 2;
    const R: u8 = 4;
    const W: u8 = 8;
    const FIXED: u8 = 0x40;

    /// Was there a REX prefix? If so, byte registers 4 to 7 are SPL, BPL,
    /// SIL and DIL, not AH, CH, DH and BH.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & Self::FIXED != 0
    }

    /// 64-bit operand?
    #[inline]
    pub const fn w(self) -> bool {
        self.0 & Self::W != 0
    }

    /// What is added to ModRM `reg`: 0 or 8.
    #[inline]
    pub const fn r(self) -> u8 {
        (self.0 & Self::R) << 1
    }

    /// What is added to the SIB index: 0 or 8.
    #[inline]
    pub const fn x(self) -> u8 {
        (self.0 & Self::X) << 2
    }

    /// What is added to ModRM `r/m`, the SIB base or the opcode: 0 or 8.
    #[inline]
    pub const fn b(self) -> u8 {
        (self.0 & Self::B) << 3
    }

    /// From the inverted R, X and B in the top bits of a VEX, EVEX or XOP
    /// payload byte, and W.
    #[inline]
    pub(super) const fn from_inverted(rxb: u8, w: bool) -> Self {
        Self((!rxb >> 5) & 7 | if w { Self::W } else { 0 })
    }
}
