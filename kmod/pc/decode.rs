// SPDX-License-Identifier: GPL-2.0

//! The instruction decoder: length, prefixes, opcode and operands of any x86
//! instruction in 16-bit, 32-bit and 64-bit code (APM volume 3, chapter 1 and
//! appendix A; SDM volume 2, chapter 2 and appendix A).
//!
//! It knows the whole encoding space: the one-byte map, `0F`, `0F 38`, `0F 3A`,
//! 3DNow!, x87, VEX, EVEX and XOP. What it does not know is an instruction's
//! meaning, which is [`emulate`](super::emulate)'s business; but for moves
//! ([`PlainMove`]).
//!
//! What it refuses, and what it lets pass, is in `docs/emulator.md`: in short,
//! it is exact about length and never accepts an opcode no manual defines, but
//! it does not check every combination of vector length, W bit and mandatory
//! prefix. The processor has done so before it exits.

use super::regs::{CpuMode, Reg, SegReg};

mod cache;
mod cursor;
mod parse;
mod plain;
mod prefix;
mod tables;
mod vector;

pub use cache::{DecodeCache, Place};
pub use plain::{MoveRegister, PlainMove};
pub use prefix::{Mandatory, Prefixes, Rex};

/// The longest instruction, in bytes (APM volume 3, section 1.1).
pub const MAX_LENGTH: usize = 15;

/// Why bytes are not an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// The bytes end inside the instruction.
    TooShort,
    /// The instruction would be longer than 15 bytes: #GP.
    TooLong,
    /// Not an instruction: #UD.
    Invalid,
}

/// How the opcode was introduced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Encoding {
    /// By legacy prefixes, REX and escape bytes.
    Legacy,
    /// By `C4` or `C5`.
    Vex,
    /// By `62`.
    Evex,
    /// By `8F`.
    Xop,
}

/// The opcode map the opcode byte belongs to. Numbered as VEX, EVEX and XOP
/// encode them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Map {
    /// One-byte opcodes.
    Primary = 0,
    /// `0F xx`.
    Of = 1,
    /// `0F 38 xx`.
    Of38 = 2,
    /// `0F 3A xx`.
    Of3a = 3,
    /// EVEX map 5.
    Five = 5,
    /// EVEX map 6.
    Six = 6,
    /// VEX map 7.
    Seven = 7,
    /// XOP map 8.
    Xop8 = 8,
    /// XOP map 9.
    Xop9 = 9,
    /// XOP map 10.
    XopA = 10,
    /// 3DNow!: `0F 0F`, the opcode byte coming last.
    Amd3dNow = 15,
}

/// A ModRM byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct ModRm(pub u8);

impl ModRm {
    /// The `mod` field, 0 to 3.
    #[inline]
    pub const fn mode(self) -> u8 {
        self.0 >> 6
    }

    /// The `reg` field without REX: also the opcode extension.
    #[inline]
    pub const fn reg(self) -> u8 {
        (self.0 >> 3) & 7
    }

    /// The `r/m` field without REX.
    #[inline]
    pub const fn rm(self) -> u8 {
        self.0 & 7
    }

    /// Does `r/m` name a register?
    #[inline]
    pub const fn is_register(self) -> bool {
        self.0 >= 0xc0
    }
}

/// The fields only VEX, EVEX and XOP have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VectorFields {
    /// The second source register, already inverted: 0 to 15, to 31 in EVEX.
    pub vvvv: u8,
    /// Vector length: 0 is 128 bits, 1 is 256, 2 is 512.
    pub length: u8,
    /// The third byte of an EVEX prefix: mask register, broadcast, zeroing.
    pub evex: u8,
}

/// A memory operand before segmentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryOperand {
    /// Displacement, sign-extended; the absolute offset of `A0`..`A3`. The
    /// eight-bit displacement of EVEX stands as encoded, not multiplied.
    pub disp: u64,
    /// Base register.
    pub base: Option<Reg>,
    /// Index register. With the vector index of a gather or scatter, the
    /// general register of that number.
    pub index: Option<Reg>,
    /// Log2 of the factor of the index, 0 to 3.
    pub scale: u8,
    /// Relative to the next instruction?
    pub rip_relative: bool,
    /// The segment, overrides heeded.
    pub segment: SegReg,
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insn {
    /// The memory operand; meaningful if [`has_memory`](Self::has_memory).
    pub memory: MemoryOperand,
    /// The immediate: sign-extended, except that a sixteen-bit one alone
    /// (RET, ENTER) and a selector are zero-extended. For a relative branch,
    /// the distance.
    pub imm: u64,
    /// The second immediate: the nesting level of ENTER, the selector of a
    /// far pointer, the index of EXTRQ and INSERTQ.
    pub imm2: u16,
    /// Prefixes seen.
    pub prefixes: Prefixes,
    /// REX, or what VEX, EVEX or XOP say in its place.
    pub rex: Rex,
    /// The opcode byte.
    pub opcode: u8,
    /// Its map.
    pub map: Map,
    /// How it was introduced.
    pub encoding: Encoding,
    /// The ModRM byte; 0 without one.
    pub modrm: ModRm,
    /// Fields of VEX, EVEX and XOP.
    pub vector: VectorFields,
    /// Length in bytes, 1 to 15.
    pub length: u8,
    /// Operand size in bytes for the opcodes that are not byte-sized: 2, 4 or 8.
    pub operand_size: u8,
    /// Address size in bytes: 2, 4 or 8.
    pub address_size: u8,
    has_modrm: bool,
}

impl Insn {
    /// Is there a ModRM byte?
    #[inline]
    pub const fn has_modrm(&self) -> bool {
        self.has_modrm
    }

    /// Does a ModRM byte give a memory operand, or is the operand an absolute
    /// offset (`A0`..`A3`)? The implied operands of string instructions do
    /// not count.
    #[inline]
    pub const fn has_memory(&self) -> bool {
        if self.has_modrm {
            return !self.modrm.is_register();
        }
        matches!(self.map, Map::Primary) && matches!(self.opcode, 0xa0..=0xa3)
    }

    /// The register of the ModRM byte's `reg` field, extended by REX.
    #[inline]
    pub const fn reg(&self) -> Reg {
        Reg::from_bits(self.modrm.reg() | self.rex.r())
    }

    /// The register of the ModRM byte's `r/m` field, extended by REX;
    /// meaningful if that is a register.
    #[inline]
    pub const fn rm(&self) -> Reg {
        Reg::from_bits(self.modrm.rm() | self.rex.b())
    }

    /// The register in the opcode's low three bits, extended by REX.
    #[inline]
    pub const fn opcode_reg(&self) -> Reg {
        Reg::from_bits((self.opcode & 7) | self.rex.b())
    }

    /// Is this number of a register of `size` bytes AH, CH, DH or BH? Without REX
    /// those have the numbers 4 to 7.
    #[inline]
    pub const fn names_high_byte(&self, reg: Reg, size: u8) -> bool {
        size == 1 && !self.rex.is_present() && matches!(reg.number(), 4..=7)
    }

    /// Is it this opcode of the one-byte map?
    #[inline]
    pub const fn is_primary(&self, opcode: u8) -> bool {
        matches!(self.map, Map::Primary) && self.opcode == opcode
    }

    /// Is it this opcode of the `0F` map, in legacy encoding?
    #[inline]
    pub const fn is_0f(&self, opcode: u8) -> bool {
        matches!((self.map, self.encoding), (Map::Of, Encoding::Legacy)) && self.opcode == opcode
    }
}

/// Decodes the instruction that `bytes` begin with, as `mode` reads them.
///
/// # Errors
///
/// See [`DecodeError`]. [`DecodeError::TooShort`] is answered whenever the
/// bytes given do not decide; at most 15 are looked at.
#[inline]
pub fn decode(bytes: &[u8], mode: CpuMode) -> Result<Insn, DecodeError> {
    if let &[0x0f, opcode, ..] = bytes {
        if tables::is_plain(opcode) {
            return Ok(parse::plain(opcode, mode));
        }
    }
    parse::decode(bytes, mode)
}

#[cfg(test)]
mod tests;
