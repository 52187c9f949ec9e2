// SPDX-License-Identifier: GPL-2.0

//! The one-byte opcodes (APM volume 3, chapter 3 and table A-1).

use super::alu;
use super::operand::Use;
use super::{EmuContext, Exec, Outcome, Step};
use crate::pc::regs::{Exception, Reg, Rflags};

impl<C: EmuContext> Exec<'_, C> {
    pub(super) fn primary(&mut self) -> Step<()> {
        let opcode = self.insn.opcode;
        match opcode {
            0x00..=0x3f => self.arithmetic(),
            0x40..=0x4f => self.step_register(),
            0x50..=0x57 => self.push_register(),
            0x58..=0x5f => self.pop_register(),
            0x63 if self.mode.is_64bit() => self.move_extended(self.insn.operand_size.min(4), true),
            0x68 | 0x6a => self.push_immediate(),
            0x69 | 0x6b => self.multiply_immediate(),
            0x6c..=0x6f => self.string_io(),
            0x70..=0x7f => self.jump_if(),
            0x80..=0x83 => self.group_1(),
            0x84 | 0x85 => self.test_register(),
            0x86 | 0x87 => self.exchange(),
            0x88 | 0x89 => self.move_to_rm(),
            0x8a | 0x8b => self.move_from_rm(),
            0x8c => self.store_segment(),
            0x8d => self.load_address(),
            0x8f => self.pop_rm(),
            0x90..=0x97 => self.exchange_accumulator(),
            0x98 => self.extend_accumulator(),
            0x99 => self.extend_to_rdx(),
            0x9e => self.flags_from_ah(),
            0x9f => self.flags_to_ah(),
            0xa0..=0xa3 => self.move_offset(),
            0xa4..=0xa7 | 0xaa..=0xaf => self.string(),
            0xa8 | 0xa9 => self.test_immediate(),
            0xb0..=0xbf => self.move_immediate_to_register(),
            0xc0 | 0xc1 | 0xd0..=0xd3 => self.group_2(),
            0xc2 | 0xc3 => self.near_return(),
            0xc6 | 0xc7 => self.move_immediate(),
            0xd7 => self.translate_byte(),
            0xe4..=0xe7 | 0xec..=0xef => self.port_io(),
            0xe8 => self.call_relative(),
            0xe9 | 0xeb => self.jump_relative(),
            0xf5 | 0xf8 | 0xf9 | 0xfc | 0xfd => self.flag(),
            0xf6 | 0xf7 => self.group_3(),
            0xfe | 0xff => self.group_4_and_5(),
            _ => Err(Outcome::Unhandleable),
        }
    }

    /// The opcodes 00 to 3F: eight operations in six forms.
    fn arithmetic(&mut self) -> Step<()> {
        let operation = self.insn.opcode >> 3;
        let size = self.sized();
        match self.insn.opcode & 7 {
            0 | 1 => {
                let source = self.read_reg(self.insn.reg(), size);
                self.arithmetic_rm(operation, size, source)
            }
            2 | 3 => {
                let place = self.rm(size, Use::Read)?;
                let source = self.load(&place, size)?;
                self.arithmetic_register(operation, self.insn.reg(), size, source)
            }
            4 | 5 => self.arithmetic_register(operation, Reg::Rax, size, self.insn.imm),
            _ => Err(Outcome::Unhandleable),
        }
    }

    fn arithmetic_register(&mut self, operation: u8, reg: Reg, size: u8, source: u64) -> Step<()> {
        let old = self.read_reg(reg, size);
        let (new, flags) = alu::binary(operation, old, source, self.ctx.rflags(), size);
        if operation != CMP {
            self.write_reg(reg, size, new);
        }
        self.set_arithmetic(flags);
        self.finish()
    }

    fn arithmetic_rm(&mut self, operation: u8, size: u8, source: u64) -> Step<()> {
        let compares = operation == CMP;
        let usage = if compares { Use::Read } else { Use::Write };
        let place = self.rm(size, usage)?;
        let old = self.load(&place, size)?;
        let (new, flags) = alu::binary(operation, old, source, self.ctx.rflags(), size);
        if !compares {
            self.replace(&place, size, old, new)?;
        }
        self.set_arithmetic(flags);
        self.finish()
    }

    fn group_1(&mut self) -> Step<()> {
        self.arithmetic_rm(self.insn.modrm.reg(), self.sized(), self.insn.imm)
    }

    /// INC and DEC of one byte, which exist outside 64-bit code.
    fn step_register(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let reg = self.insn.opcode_reg();
        let down = self.insn.opcode & 8 != 0;
        let old = self.read_reg(reg, size);
        let (new, flags) = alu::step(old, down, self.ctx.rflags(), size);
        self.write_reg(reg, size, new);
        self.set_arithmetic(flags);
        self.finish()
    }

    fn test_register(&mut self) -> Step<()> {
        let size = self.sized();
        let source = self.read_reg(self.insn.reg(), size);
        self.test(size, source)
    }

    fn test(&mut self, size: u8, source: u64) -> Step<()> {
        let place = self.rm(size, Use::Read)?;
        let value = self.load(&place, size)?;
        self.set_arithmetic(alu::logic(value & source, size));
        self.finish()
    }

    fn test_immediate(&mut self) -> Step<()> {
        let size = self.sized();
        let value = self.read_reg(Reg::Rax, size);
        self.set_arithmetic(alu::logic(value & self.insn.imm, size));
        self.finish()
    }

    fn exchange(&mut self) -> Step<()> {
        let size = self.sized();
        let reg = self.insn.reg();
        let place = self.rm(size, Use::Write)?;
        let old = self.load(&place, size)?;
        let new = self.read_reg(reg, size);
        self.replace_locked(&place, size, old, new)?;
        self.write_reg(reg, size, old);
        self.finish()
    }

    /// XCHG with the accumulator; 90 without REX.B is NOP.
    fn exchange_accumulator(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let reg = self.insn.opcode_reg();
        if reg != Reg::Rax {
            let other = self.read_reg(reg, size);
            let accumulator = self.read_reg(Reg::Rax, size);
            self.write_reg(reg, size, accumulator);
            self.write_reg(Reg::Rax, size, other);
        }
        self.finish()
    }

    pub(super) fn move_to_rm(&mut self) -> Step<()> {
        let size = self.sized();
        let value = self.read_reg(self.insn.reg(), size);
        let place = self.rm(size, Use::Write)?;
        self.store(&place, size, value)?;
        self.finish()
    }

    fn move_from_rm(&mut self) -> Step<()> {
        let size = self.sized();
        let place = self.rm(size, Use::Read)?;
        let value = self.load(&place, size)?;
        self.write_reg(self.insn.reg(), size, value);
        self.finish()
    }

    fn move_immediate(&mut self) -> Step<()> {
        if self.insn.modrm.reg() != 0 {
            return Err(Outcome::Unhandleable);
        }
        let size = self.sized();
        let place = self.rm(size, Use::Write)?;
        self.store(&place, size, self.insn.imm)?;
        self.finish()
    }

    fn move_immediate_to_register(&mut self) -> Step<()> {
        let size = if self.insn.opcode & 8 == 0 {
            1
        } else {
            self.insn.operand_size
        };
        self.write_reg(self.insn.opcode_reg(), size, self.insn.imm);
        self.finish()
    }

    /// MOV between the accumulator and an absolute offset.
    fn move_offset(&mut self) -> Step<()> {
        let size = self.sized();
        let stores = self.insn.opcode & 2 != 0;
        let usage = if stores { Use::Write } else { Use::Read };
        let offset = self.insn.memory.disp;
        let span = self.memory_at(offset, usize::from(size), usage)?;
        if stores {
            let value = self.read_reg(Reg::Rax, size);
            self.store_memory(&span, size, value)?;
        } else {
            let value = self.load_memory(&span, size)?;
            self.write_reg(Reg::Rax, size, value);
        }
        self.finish()
    }

    /// MOVSX, MOVZX and MOVSXD from `size` bytes.
    pub(super) fn move_extended(&mut self, size: u8, signed: bool) -> Step<()> {
        let place = self.rm(size, Use::Read)?;
        let mut value = self.load(&place, size)?;
        if signed {
            value = alu::sign_extend(value, size);
        }
        self.write_reg(self.insn.reg(), self.insn.operand_size, value);
        self.finish()
    }

    /// MOV from a segment register: two bytes to memory, zero-extended to a
    /// register.
    fn store_segment(&mut self) -> Step<()> {
        let number = self.insn.modrm.reg();
        let reg = crate::pc::regs::SegReg::from_encoding(number).ok_or(Exception::UD)?;
        let selector = u64::from(self.ctx.segment(reg).selector);
        if self.insn.modrm.is_register() {
            self.write_reg(self.insn.rm(), self.insn.operand_size, selector);
        } else {
            let place = self.rm(2, Use::Write)?;
            self.store(&place, 2, selector)?;
        }
        self.finish()
    }

    fn load_address(&mut self) -> Step<()> {
        let offset = self.effective_offset();
        self.write_reg(self.insn.reg(), self.insn.operand_size, offset);
        self.finish()
    }

    /// CBW, CWDE, CDQE.
    fn extend_accumulator(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let half = self.read_reg(Reg::Rax, size >> 1);
        self.write_reg(Reg::Rax, size, alu::sign_extend(half, size >> 1));
        self.finish()
    }

    /// CWD, CDQ, CQO.
    fn extend_to_rdx(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let value = alu::sign_extend(self.read_reg(Reg::Rax, size), size);
        let sign = if (value as i64) < 0 { u64::MAX } else { 0 };
        self.write_reg(Reg::Rdx, size, sign);
        self.finish()
    }

    fn flags_from_ah(&mut self) -> Step<()> {
        const AH: u64 = 0xd5;
        let ah = (self.ctx.gprs().get(Reg::Rax) >> 8) & AH;
        let others = self.ctx.rflags().0 & !AH;
        self.ctx.set_rflags(Rflags(others | ah));
        self.finish()
    }

    fn flags_to_ah(&mut self) -> Step<()> {
        let flags = (self.ctx.rflags().0 & 0xd5) | 2;
        let rest = self.ctx.gprs().get(Reg::Rax) & !0xff00;
        self.ctx.gprs_mut().set(Reg::Rax, rest | (flags << 8));
        self.finish()
    }

    /// CMC, CLC, STC, CLD, STD.
    fn flag(&mut self) -> Step<()> {
        match self.insn.opcode {
            0xf5 => {
                let carry = self.ctx.rflags().has(Rflags::CF);
                self.assign_flag(Rflags::CF, !carry);
            }
            0xf8 => self.assign_flag(Rflags::CF, false),
            0xf9 => self.assign_flag(Rflags::CF, true),
            0xfc => self.assign_flag(Rflags::DF, false),
            _ => self.assign_flag(Rflags::DF, true),
        }
        self.finish()
    }

    /// XLAT.
    fn translate_byte(&mut self) -> Step<()> {
        let table = self.ctx.gprs().get(Reg::Rbx);
        let index = self.ctx.gprs().get(Reg::Rax) & 0xff;
        let mask = super::segment::address_mask(self.insn.address_size);
        let offset = table.wrapping_add(index) & mask;
        let span = self.memory_at(offset, 1, Use::Read)?;
        let value = self.load_memory(&span, 1)?;
        let rest = self.ctx.gprs().get(Reg::Rax) & !0xff;
        self.ctx.gprs_mut().set(Reg::Rax, rest | value);
        self.finish()
    }

    /// Rotates and shifts by an immediate, by 1 or by CL.
    fn group_2(&mut self) -> Step<()> {
        let size = self.sized();
        let count = match self.insn.opcode {
            0xc0 | 0xc1 => self.insn.imm as u8,
            0xd0 | 0xd1 => 1,
            _ => self.ctx.gprs().get(Reg::Rcx) as u8,
        };
        let place = self.rm(size, Use::Write)?;
        let old = self.load(&place, size)?;
        let operation = self.insn.modrm.reg();
        let (new, flags) = alu::shift(operation, old, count, self.ctx.rflags(), size);
        self.store(&place, size, new)?;
        self.set_arithmetic(flags);
        self.finish()
    }

    /// IMUL with an immediate.
    fn multiply_immediate(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        self.multiply_into_register(size, Some(self.insn.imm))
    }

    /// IMUL of `r/m` and an immediate or the destination.
    pub(super) fn multiply_into_register(&mut self, size: u8, factor: Option<u64>) -> Step<()> {
        let place = self.rm(size, Use::Read)?;
        let value = self.load(&place, size)?;
        let reg = self.insn.reg();
        let factor = factor.unwrap_or_else(|| self.read_reg(reg, size));
        let (low, _, overflows) = alu::multiply(true, value, factor, size);
        self.write_reg(reg, size, low);
        self.assign_flag(Rflags::CF | Rflags::OF, overflows);
        self.finish()
    }

    /// TEST, NOT, NEG, MUL, IMUL, DIV, IDIV.
    fn group_3(&mut self) -> Step<()> {
        let size = self.sized();
        match self.insn.modrm.reg() {
            0 | 1 => self.test(size, self.insn.imm),
            2 | 3 => self.negate(size),
            4 | 5 => self.multiply_accumulator(size),
            _ => self.divide(size),
        }
    }

    fn negate(&mut self, size: u8) -> Step<()> {
        let place = self.rm(size, Use::Write)?;
        let old = self.load(&place, size)?;
        if self.insn.modrm.reg() == 2 {
            self.replace(&place, size, old, !old)?;
        } else {
            let (new, flags) = alu::sub(0, old, false, size);
            self.replace(&place, size, old, new)?;
            self.set_arithmetic(flags);
        }
        self.finish()
    }

    fn multiply_accumulator(&mut self, size: u8) -> Step<()> {
        let signed = self.insn.modrm.reg() == 5;
        let place = self.rm(size, Use::Read)?;
        let value = self.load(&place, size)?;
        let accumulator = self.read_reg(Reg::Rax, size);
        let (low, high, overflows) = alu::multiply(signed, accumulator, value, size);
        if size == 1 {
            self.write_reg(Reg::Rax, 2, (high << 8) | low);
        } else {
            self.write_reg(Reg::Rax, size, low);
            self.write_reg(Reg::Rdx, size, high);
        }
        self.assign_flag(Rflags::CF | Rflags::OF, overflows);
        self.finish()
    }

    fn divide(&mut self, size: u8) -> Step<()> {
        let signed = self.insn.modrm.reg() == 7;
        let place = self.rm(size, Use::Read)?;
        let divisor = self.load(&place, size)?;
        let low = self.read_reg(Reg::Rax, size);
        let high = if size == 1 {
            (self.ctx.gprs().get(Reg::Rax) >> 8) & 0xff
        } else {
            self.read_reg(Reg::Rdx, size)
        };
        let (quotient, remainder) =
            alu::divide(signed, high, low, divisor, size).ok_or(Exception::DE)?;
        if size == 1 {
            self.write_reg(Reg::Rax, 2, (remainder << 8) | quotient);
        } else {
            self.write_reg(Reg::Rax, size, quotient);
            self.write_reg(Reg::Rdx, size, remainder);
        }
        self.finish()
    }

    /// INC, DEC, and of words also CALL, JMP and PUSH.
    fn group_4_and_5(&mut self) -> Step<()> {
        let size = self.sized();
        match self.insn.modrm.reg() {
            0 | 1 => self.step_rm(size),
            2 if size != 1 => self.call_rm(),
            4 if size != 1 => self.jump_rm(),
            6 if size != 1 => self.push_rm(),
            _ => Err(Outcome::Unhandleable),
        }
    }

    fn step_rm(&mut self, size: u8) -> Step<()> {
        let down = self.insn.modrm.reg() == 1;
        let place = self.rm(size, Use::Write)?;
        let old = self.load(&place, size)?;
        let (new, flags) = alu::step(old, down, self.ctx.rflags(), size);
        self.replace(&place, size, old, new)?;
        self.set_arithmetic(flags);
        self.finish()
    }
}

/// CMP among the eight operations.
const CMP: u8 = 7;
