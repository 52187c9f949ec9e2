// SPDX-License-Identifier: GPL-2.0

//! Moves between a register and memory, short-circuited.
//!
//! When such an instruction exits because of its only access, the processor
//! has checked segmentation and paging and says where the access goes. There
//! is nothing left to compute but the value. Nearly all accesses to devices
//! are of this kind.

use super::alu;
use super::operand::{is_high_byte, read_register, write_part};
use super::segment::address_mask;
use crate::pc::addr::{Gpa, PAGE_SIZE};
use crate::pc::decode::{Encoding, Insn, Map};
use crate::pc::regs::{Gprs, Reg};

/// One access that is all an instruction does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimpleMove {
    /// What is written, in the low bytes; 0 for a read.
    pub data: u64,
    /// Write, rather than read?
    pub write: bool,
    /// Bytes in memory: 1, 2, 4 or 8.
    pub size: u8,
    /// Length of the instruction.
    pub length: u8,
    to: Destination,
}

/// Where an instruction wants what it reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Destination {
    reg: Reg,
    /// Bytes of it that are written: 1, 2, 4 or 8.
    size: u8,
    high_byte: bool,
    sign_extend: bool,
}

/// Offset in its page of the memory operand of `insn`, which is at `rip`, in a
/// segment that begins at `base`.
#[inline]
pub fn operand_page_offset(insn: &Insn, gprs: &Gprs, rip: u64, base: u64) -> u64 {
    let operand = &insn.memory;
    let mut offset = operand.disp;
    if operand.rip_relative {
        offset = offset
            .wrapping_add(rip)
            .wrapping_add(u64::from(insn.length));
    }
    if let Some(base) = operand.base {
        offset = offset.wrapping_add(gprs.get(base));
    }
    if let Some(index) = operand.index {
        offset = offset.wrapping_add(gprs.get(index) << (operand.scale & 3));
    }
    let linear = base.wrapping_add(offset & address_mask(insn.address_size));
    linear & (PAGE_SIZE - 1)
}

/// The only access of `insn`, at `gpa`, if it is simple: MOV, MOVZX or MOVSX
/// with an operand that does not cross a page. `start` is where in its page the
/// operand begins ([`operand_page_offset`]): for an access that reaches into a
/// second page the processor gives that page's start.
///
/// To be used when the processor exited because of this access and gave its
/// address. What was read is passed to
/// [`SimpleMove::finish_read`]; then the caller moves
/// RIP by the instruction's length and does what follows a completed
/// instruction.
#[inline(always)]
pub fn simple_move(insn: &Insn, gprs: &Gprs, gpa: Gpa, start: u64) -> Option<SimpleMove> {
    if insn.encoding != Encoding::Legacy || !insn.has_modrm() || insn.modrm.is_register() {
        return None;
    }
    let wide = insn.operand_size;
    let (write, size) = match (insn.map, insn.opcode) {
        (Map::Primary, 0x88) => (true, 1),
        (Map::Primary, 0x89) => (true, wide),
        (Map::Primary, 0x8a) => (false, 1),
        (Map::Primary, 0x8b) => (false, wide),
        (Map::Primary, 0xc6) => (true, 1),
        (Map::Primary, 0xc7) => (true, wide),
        (Map::Of, 0xb6 | 0xbe) => (false, 1),
        (Map::Of, 0xb7 | 0xbf) => (false, 2),
        _ => return None,
    };
    if start != gpa.page_offset() || start > PAGE_SIZE - u64::from(size) {
        return None;
    }
    let data = match (write, insn.opcode) {
        (false, _) => 0,
        (true, 0xc6 | 0xc7) => insn.imm & alu::mask(size),
        (true, _) => read_register(gprs, insn, insn.reg(), size),
    };
    let extends = insn.map == Map::Of;
    Some(SimpleMove {
        data,
        write,
        size,
        length: insn.length,
        to: Destination {
            reg: insn.reg(),
            size: if extends { wide } else { size },
            high_byte: !extends && is_high_byte(insn, insn.reg(), size),
            sign_extend: extends && insn.opcode & 8 != 0,
        },
    })
}

impl SimpleMove {
    /// Puts what the read gave where the instruction wants it.
    #[inline(always)]
    pub fn finish_read(&self, gprs: &mut Gprs, data: u64) {
        let to = &self.to;
        let value = if to.sign_extend {
            alu::sign_extend(data, self.size)
        } else {
            data & alu::mask(self.size)
        };
        write_part(gprs, to.reg, to.size, to.high_byte, value);
    }
}
