// SPDX-License-Identifier: GPL-2.0

//! Plain moves: MOV, MOVZX and MOVSX between memory and a register or an
//! immediate. Nearly all accesses to devices are of this kind, so what their
//! bytes say is worked out once, when they are decoded.

use super::{Encoding, Insn, Map};
use crate::pc::regs::Reg;

/// A move between memory and a register, or of an immediate to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlainMove {
    /// To memory, rather than from it?
    pub write: bool,
    /// Bytes in memory: 1, 2, 4 or 8.
    pub size: u8,
    /// Length of the instruction.
    pub length: u8,
    /// The register, unless `immediate` is what is written.
    pub reg: MoveRegister,
    /// What is written, in the low bytes, if that is no register.
    pub immediate: Option<u64>,
}

/// The register of a [`PlainMove`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoveRegister {
    /// Which one.
    pub reg: Reg,
    /// Bytes of it that a read writes: 1, 2, 4 or 8.
    pub size: u8,
    /// It is the high byte of its fellow: AH, CH, DH or BH.
    pub high_byte: bool,
    /// What is read is extended by its sign.
    pub sign_extend: bool,
}

impl PlainMove {
    /// `insn` as a plain move, if it is one.
    pub fn of(insn: &Insn) -> Option<Self> {
        if insn.encoding != Encoding::Legacy || !insn.has_modrm() || insn.modrm.is_register() {
            return None;
        }
        let wide = insn.operand_size;
        let (write, size) = match (insn.map, insn.opcode) {
            (Map::Primary, 0x88 | 0xc6) => (true, 1),
            (Map::Primary, 0x89 | 0xc7) => (true, wide),
            (Map::Primary, 0x8a) => (false, 1),
            (Map::Primary, 0x8b) => (false, wide),
            (Map::Of, 0xb6 | 0xbe) => (false, 1),
            (Map::Of, 0xb7 | 0xbf) => (false, 2),
            _ => return None,
        };
        let extends = insn.map == Map::Of;
        let immediate = write && insn.opcode & 0x40 != 0;
        Some(Self {
            write,
            size,
            length: insn.length,
            reg: MoveRegister {
                reg: insn.reg(),
                size: if extends { wide } else { size },
                high_byte: !extends && insn.names_high_byte(insn.reg(), size),
                sign_extend: extends && insn.opcode & 8 != 0,
            },
            immediate: immediate.then_some(insn.imm),
        })
    }
}
