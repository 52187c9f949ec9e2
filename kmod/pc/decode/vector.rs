// SPDX-License-Identifier: GPL-2.0

//! VEX, EVEX and XOP: their prefixes, and which opcodes their maps define
//! (APM volume 3, sections 1.9 and 1.10; SDM volume 2A, sections 2.3 and 2.7).

use super::cursor::Cursor;
use super::prefix::{Mandatory, Rex};
use super::tables::Entry;
use super::{DecodeError, Encoding, Map, VectorFields};

/// What a VEX, EVEX or XOP prefix says.
pub(super) struct VectorPrefix {
    pub(super) map: Map,
    pub(super) rex: Rex,
    pub(super) mandatory: Mandatory,
    pub(super) fields: VectorFields,
}

/// The two-byte VEX prefix, from after `C5`.
pub(super) fn vex2(cursor: &mut Cursor) -> VectorPrefix {
    let payload = cursor.byte();
    VectorPrefix {
        map: Map::Of,
        // X and B are not there and count as inverted zero.
        rex: Rex::from_inverted(payload | 0x60, false),
        mandatory: Mandatory::from_bits(payload),
        fields: fields(payload),
    }
}

/// The three-byte VEX prefix from after `C4`, or XOP from after `8F`.
pub(super) fn vex3(cursor: &mut Cursor, encoding: Encoding) -> Result<VectorPrefix, DecodeError> {
    let first = cursor.byte();
    let second = cursor.byte();
    let map = match (encoding, first & 0x1f) {
        (Encoding::Vex, 1) => Map::Of,
        (Encoding::Vex, 2) => Map::Of38,
        (Encoding::Vex, 3) => Map::Of3a,
        (Encoding::Vex, 7) => Map::Seven,
        (Encoding::Xop, 8) => Map::Xop8,
        (Encoding::Xop, 9) => Map::Xop9,
        (Encoding::Xop, 10) => Map::XopA,
        _ => return Err(DecodeError::Invalid),
    };
    Ok(VectorPrefix {
        map,
        rex: Rex::from_inverted(first, second & 0x80 != 0),
        mandatory: Mandatory::from_bits(second),
        fields: fields(second),
    })
}

/// The fields of the last byte of a VEX or XOP prefix.
fn fields(payload: u8) -> VectorFields {
    VectorFields {
        vvvv: (!payload >> 3) & 0xf,
        length: (payload >> 2) & 1,
        evex: 0,
    }
}

/// The EVEX prefix, from after `62`. The bits that APX gives a meaning must
/// be as they were before it.
pub(super) fn evex(cursor: &mut Cursor, is_64bit: bool) -> Result<VectorPrefix, DecodeError> {
    let first = cursor.byte();
    let second = cursor.byte();
    let third = cursor.byte();
    if first & 0x08 != 0 || second & 0x04 == 0 {
        return Err(DecodeError::Invalid);
    }
    let map = match first & 7 {
        1 => Map::Of,
        2 => Map::Of38,
        3 => Map::Of3a,
        5 => Map::Five,
        6 => Map::Six,
        _ => return Err(DecodeError::Invalid),
    };
    // The bit that makes vvvv (or a vector index) 16 to 31, inverted.
    let high = if is_64bit { (!third & 0x08) << 1 } else { 0 };
    Ok(VectorPrefix {
        map,
        rex: Rex::from_inverted(first, second & 0x80 != 0),
        mandatory: Mandatory::from_bits(second),
        fields: VectorFields {
            vvvv: ((!second >> 3) & 0xf) | high,
            length: (third >> 5) & 3,
            evex: third,
        },
    })
}

/// What follows an opcode of these maps.
pub(super) fn entry(encoding: Encoding, map: Map, opcode: u8) -> Entry {
    if !defined(encoding, map).has(opcode) {
        return Entry::UNDEFINED;
    }
    match (encoding, map) {
        // VZEROUPPER and VZEROALL.
        (Encoding::Vex, Map::Of) if opcode == 0x77 => Entry::BARE,
        (_, Map::Of) if matches!(opcode, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) => Entry::MODRM_BYTE,
        (_, Map::Of3a | Map::Xop8) => Entry::MODRM_BYTE,
        (_, Map::XopA | Map::Seven) => Entry::MODRM_DWORD,
        _ => Entry::MODRM,
    }
}

/// A set of opcodes.
struct Opcodes([u64; 4]);

impl Opcodes {
    /// The set of these inclusive ranges.
    const fn of(ranges: &[(u8, u8)]) -> Self {
        let mut set = [0; 4];
        let mut at = 0;
        while at < ranges.len() {
            let (first, last) = ranges[at];
            let mut opcode = first as usize;
            while opcode <= last as usize {
                set[opcode >> 6] |= 1 << (opcode & 63);
                opcode += 1;
            }
            at += 1;
        }
        Self(set)
    }

    #[inline]
    const fn has(&self, opcode: u8) -> bool {
        self.0[(opcode >> 6) as usize] >> (opcode & 63) & 1 != 0
    }
}

fn defined(encoding: Encoding, map: Map) -> &'static Opcodes {
    match (encoding, map) {
        (Encoding::Vex, Map::Of) => &VEX_OF,
        (Encoding::Vex, Map::Of38) => &VEX_OF38,
        (Encoding::Vex, Map::Of3a) => &VEX_OF3A,
        (Encoding::Vex, Map::Seven) => &VEX_SEVEN,
        (Encoding::Evex, Map::Of) => &EVEX_OF,
        (Encoding::Evex, Map::Of38) => &EVEX_OF38,
        (Encoding::Evex, Map::Of3a) => &EVEX_OF3A,
        (Encoding::Evex, Map::Five) => &EVEX_FIVE,
        (Encoding::Evex, Map::Six) => &EVEX_SIX,
        (Encoding::Xop, Map::Xop8) => &XOP_8,
        (Encoding::Xop, Map::Xop9) => &XOP_9,
        (Encoding::Xop, Map::XopA) => &XOP_A,
        _ => &NOTHING,
    }
}

static NOTHING: Opcodes = Opcodes([0; 4]);

#[rustfmt::skip]
static VEX_OF: Opcodes = Opcodes::of(&[
    (0x10, 0x17), (0x28, 0x2f), (0x41, 0x42), (0x44, 0x47), (0x4a, 0x4b), (0x50, 0x77),
    (0x7c, 0x7f), (0x90, 0x93), (0x98, 0x99), (0xae, 0xae), (0xc2, 0xc2), (0xc4, 0xc6),
    (0xd0, 0xfe),
]);

#[rustfmt::skip]
static VEX_OF38: Opcodes = Opcodes::of(&[
    (0x00, 0x0f), (0x13, 0x13), (0x16, 0x1a), (0x1c, 0x1e), (0x20, 0x25), (0x28, 0x41),
    (0x45, 0x47), (0x49, 0x49), (0x4b, 0x4b), (0x50, 0x53), (0x58, 0x5a), (0x5c, 0x5c),
    (0x5e, 0x5e), (0x6c, 0x6c), (0x72, 0x72), (0x78, 0x79), (0x8c, 0x8c), (0x8e, 0x8e),
    (0x90, 0x93), (0x96, 0x9f), (0xa6, 0xaf), (0xb0, 0xb1), (0xb4, 0xbf), (0xcb, 0xcd),
    (0xcf, 0xcf), (0xd2, 0xd3), (0xda, 0xef), (0xf2, 0xf3), (0xf5, 0xf7),
]);

#[rustfmt::skip]
static VEX_OF3A: Opcodes = Opcodes::of(&[
    (0x00, 0x02), (0x04, 0x06), (0x08, 0x0f), (0x14, 0x19), (0x1d, 0x1d), (0x20, 0x22),
    (0x30, 0x33), (0x38, 0x39), (0x40, 0x42), (0x44, 0x44), (0x46, 0x46), (0x48, 0x4c),
    (0x5c, 0x63), (0x68, 0x6f), (0x78, 0x7f), (0xce, 0xcf), (0xde, 0xdf), (0xf0, 0xf0),
]);

/// RDMSR and WRMSRNS, URDMSR and UWRMSR with the number as an immediate.
static VEX_SEVEN: Opcodes = Opcodes::of(&[(0xf6, 0xf6), (0xf8, 0xf8)]);

#[rustfmt::skip]
static EVEX_OF: Opcodes = Opcodes::of(&[
    (0x10, 0x17), (0x28, 0x2f), (0x51, 0x51), (0x54, 0x76), (0x78, 0x7b), (0x7e, 0x7f),
    (0xc2, 0xc2), (0xc4, 0xc6), (0xd1, 0xd6), (0xd8, 0xef), (0xf1, 0xf6), (0xf8, 0xfe),
]);

#[rustfmt::skip]
static EVEX_OF38: Opcodes = Opcodes::of(&[
    (0x00, 0x00), (0x04, 0x04), (0x0b, 0x0d), (0x10, 0x16), (0x18, 0x40), (0x42, 0x47),
    (0x4c, 0x55), (0x58, 0x5b), (0x62, 0x66), (0x68, 0x68), (0x70, 0x73), (0x75, 0x7f),
    (0x83, 0x83), (0x88, 0x8b), (0x8d, 0x8d), (0x8f, 0x93), (0x96, 0xa3), (0xa6, 0xaf),
    (0xb4, 0xbf), (0xc4, 0xc4), (0xc6, 0xc8), (0xca, 0xcd), (0xcf, 0xcf), (0xdc, 0xdf),
]);

#[rustfmt::skip]
static EVEX_OF3A: Opcodes = Opcodes::of(&[
    (0x00, 0x01), (0x03, 0x05), (0x08, 0x0b), (0x0f, 0x0f), (0x14, 0x1b), (0x1d, 0x23),
    (0x25, 0x27), (0x38, 0x3b), (0x3e, 0x3f), (0x42, 0x44), (0x50, 0x51), (0x54, 0x57),
    (0x66, 0x67), (0x70, 0x73), (0xc2, 0xc2), (0xce, 0xcf),
]);

#[rustfmt::skip]
static EVEX_FIVE: Opcodes = Opcodes::of(&[
    (0x10, 0x11), (0x1d, 0x1d), (0x2a, 0x2a), (0x2c, 0x2f), (0x51, 0x51), (0x58, 0x5f),
    (0x6e, 0x6e), (0x78, 0x7e),
]);

#[rustfmt::skip]
static EVEX_SIX: Opcodes = Opcodes::of(&[
    (0x13, 0x13), (0x2c, 0x2d), (0x42, 0x43), (0x4c, 0x4f), (0x56, 0x57), (0x96, 0x9f),
    (0xa6, 0xaf), (0xb6, 0xbf), (0xd6, 0xd7),
]);

#[rustfmt::skip]
static XOP_8: Opcodes = Opcodes::of(&[
    (0x85, 0x87), (0x8e, 0x8f), (0x95, 0x97), (0x9e, 0x9f), (0xa2, 0xa3), (0xa6, 0xa6),
    (0xb6, 0xb6), (0xc0, 0xc3), (0xcc, 0xcf), (0xec, 0xef),
]);

#[rustfmt::skip]
static XOP_9: Opcodes = Opcodes::of(&[
    (0x01, 0x02), (0x12, 0x12), (0x80, 0x83), (0x90, 0x9b), (0xc1, 0xc3), (0xc6, 0xc7),
    (0xcb, 0xcb), (0xd1, 0xd3), (0xd6, 0xd7), (0xdb, 0xdb), (0xe1, 0xe3),
]);

static XOP_A: Opcodes = Opcodes::of(&[(0x10, 0x10), (0x12, 0x12)]);
