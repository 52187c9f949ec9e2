// SPDX-License-Identifier: GPL-2.0

//! Moves between a register and memory, short-circuited.
//!
//! When such an instruction exits because of its only access, the processor
//! has checked segmentation and paging and says where the access goes. There
//! is nothing left to compute but the value. Nearly all accesses to devices
//! are of this kind.

use super::alu;
use super::operand::{read_part, write_part};
use super::segment::address_mask;
use crate::pc::addr::{Gpa, PAGE_SIZE};
use crate::pc::decode::{Insn, MoveRegister, PlainMove};
use crate::pc::regs::Gprs;

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
    /// Where the instruction wants what it reads.
    to: MoveRegister,
}

/// Offset in its page of the memory operand of `insn`, which is at `rip`, in a
/// segment that begins at `base`.
#[inline(always)]
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

/// The only access of `insn`, at `gpa`, if it is simple: [`SimpleMove::of`] a
/// plain move.
pub fn simple_move(insn: &Insn, gprs: &Gprs, gpa: Gpa, start: u64) -> Option<SimpleMove> {
    SimpleMove::of(&PlainMove::of(insn)?, gprs, gpa, start)
}

impl SimpleMove {
    /// The only access of a plain move, at `gpa`, unless the operand crosses a
    /// page. `start` is where in its page the operand begins
    /// ([`operand_page_offset`]): for an access that reaches into a second page
    /// the processor gives that page's start.
    ///
    /// To be used when the processor exited because of this access and gave its
    /// address. What was read is passed to [`SimpleMove::finish_read`]; then the
    /// caller moves RIP by the instruction's length and does what follows a
    /// completed instruction.
    #[inline(always)]
    pub fn of(plain: &PlainMove, gprs: &Gprs, gpa: Gpa, start: u64) -> Option<Self> {
        let PlainMove { write, size, .. } = *plain;
        if start != gpa.page_offset() || start > PAGE_SIZE - u64::from(size) {
            return None;
        }
        let data = match plain.immediate {
            _ if !write => 0,
            Some(imm) => imm & alu::mask(size),
            None => read_part(gprs, plain.reg.reg, size, plain.reg.high_byte),
        };
        Some(Self {
            data,
            write,
            size,
            length: plain.length,
            to: plain.reg,
        })
    }

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
