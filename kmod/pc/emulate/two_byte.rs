// SPDX-License-Identifier: GPL-2.0

//! The opcodes after `0F` and `0F 38` (APM volume 3, tables ).

use super::alu;
use super::operand::{Place, Use};
use super::{EmuContext, Exec, Outcome, Step};
use crate::pc::decode::{Mandatory, Prefixes};
use crate::pc::regs::{Exception, Reg, Rflags};

impl<C: EmuContext> Exec<'_, C> {
    pub(super) fn two_byte(&mut self) -> Step<()> {
        match self.insn.opcode {
            // Prefetches and NOPs touch nothing.
            0x0d | 0x18..=0x1f => self.finish(),
            0x10..=0x13
            | 0x16
            | 0x17
            | 0x28
            | 0x29
            | 0x2b
            | 0x6e
            | 0x6f
            | 0x7e
            | 0x7f
            | 0xd6
            | 0xe7
            | 0xf0 => self.vector_move(),
            0x40..=0x4f => self.move_if(),
            0x80..=0x8f => self.jump_if(),
            0x90..=0x9f => self.set_if(),
            0xa3 | 0xab | 0xb3 | 0xbb => self.bit_by_register(),
            0xba => self.bit_by_immediate(),
            0xa4 | 0xa5 | 0xac | 0xad => self.double_shift(),
            0xaf => {
                let size = self.insn.operand_size;
                self.multiply_into_register(size, None)
            }
            0xb0 | 0xb1 => self.compare_exchange(),
            0xbc | 0xbd => self.bit_scan(),
            0xb6 | 0xb7 => self.move_extended(1 << (self.insn.opcode & 1), false),
            0xbe | 0xbf => self.move_extended(1 << (self.insn.opcode & 1), true),
            0xc0 | 0xc1 => self.exchange_add(),
            0xc3 => self.move_non_temporal(),
            0xc7 => self.compare_exchange_pair(),
            0xc8..=0xcf => self.swap_bytes(),
            _ => Err(Outcome::Unhandleable),
        }
    }

    pub(super) fn three_byte_38(&mut self) -> Step<()> {
        match (self.insn.opcode, self.insn.prefixes.mandatory()) {
            (0xf0 | 0xf1, Mandatory::None | Mandatory::P66) => self.move_big_endian(),
            // MOVDIRI.
            (0xf9, Mandatory::None) => self.move_non_temporal(),
            // MOVNTDQA.
            (0x2a, Mandatory::P66) => self.vector_move(),
            _ => Err(Outcome::Unhandleable),
        }
    }

    /// CMOVcc reads its operand whether or not it moves, and clears the upper
    /// half of a 32-bit destination.
    fn move_if(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let place = self.rm(size, Use::Read)?;
        let mut value = self.load(&place, size)?;
        if !alu::condition(self.insn.opcode, self.ctx.rflags()) {
            value = self.read_reg(self.insn.reg(), size);
        }
        self.write_reg(self.insn.reg(), size, value);
        self.finish()
    }

    fn set_if(&mut self) -> Step<()> {
        let place = self.rm(1, Use::Write)?;
        let value = alu::condition(self.insn.opcode, self.ctx.rflags());
        self.store(&place, 1, u64::from(value))?;
        self.finish()
    }

    /// BT, BTS, BTR, BTC with the bit number in a register. In memory it
    /// reaches beyond the operand, in both directions.
    fn bit_by_register(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let number = self.read_reg(self.insn.reg(), size);
        let operation = (self.insn.opcode >> 3) & 3;
        let usage = bit_usage(operation);
        let place = if self.insn.modrm.is_register() {
            self.rm(size, usage)?
        } else {
            let signed = alu::sign_extend(number, size) as i64;
            let operands = signed >> alu::bits(size).trailing_zeros();
            let distance = operands.wrapping_mul(i64::from(size)) as u64;
            let mask = super::segment::address_mask(self.insn.address_size);
            let offset = self.effective_offset().wrapping_add(distance) & mask;
            Place::Memory(self.memory_at(offset, usize::from(size), usage)?)
        };
        self.bit(operation, &place, number)
    }

    fn bit_by_immediate(&mut self) -> Step<()> {
        let operation = self.insn.modrm.reg() & 3;
        let place = self.rm(self.insn.operand_size, bit_usage(operation))?;
        self.bit(operation, &place, self.insn.imm)
    }

    fn bit(&mut self, operation: u8, place: &Place, number: u64) -> Step<()> {
        let size = self.insn.operand_size;
        let bit = 1 << (number & u64::from(alu::bits(size) - 1));
        let old = self.load(place, size)?;
        let new = match operation {
            1 => old | bit,
            2 => old & !bit,
            3 => old ^ bit,
            _ => old,
        };
        if operation != 0 {
            self.replace(place, size, old, new)?;
        }
        self.assign_flag(Rflags::CF, old & bit != 0);
        self.finish()
    }

    /// BSF and BSR. With F3 they are other instructions on some processors,
    /// TZCNT and LZCNT, and which the guest has is not known here.
    fn bit_scan(&mut self) -> Step<()> {
        if self.insn.prefixes.mandatory() == Mandatory::F3 {
            return Err(Outcome::Unhandleable);
        }
        let size = self.insn.operand_size;
        let place = self.rm(size, Use::Read)?;
        let value = self.load(&place, size)?;
        self.assign_flag(Rflags::ZF, value == 0);
        // Of zero, the destination stays as it was, as all processors have it.
        let found = if self.insn.opcode == 0xbc {
            value.trailing_zeros()
        } else {
            63u32.wrapping_sub(value.leading_zeros())
        };
        if value != 0 {
            self.write_reg(self.insn.reg(), size, u64::from(found));
        }
        self.finish()
    }

    /// SHLD and SHRD, by an immediate or CL.
    fn double_shift(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let count = if self.insn.opcode & 1 == 0 {
            self.insn.imm as u8
        } else {
            self.ctx.gprs().get(Reg::Rcx) as u8
        };
        let right = self.insn.opcode & 8 != 0;
        let fill = self.read_reg(self.insn.reg(), size);
        let place = self.rm(size, Use::Write)?;
        let old = self.load(&place, size)?;
        let flags = self.ctx.rflags();
        let (new, flags) = alu::double_shift(right, old, fill, count, flags, size);
        self.store(&place, size, new)?;
        self.set_arithmetic(flags);
        self.finish()
    }

    /// CMPXCHG. The destination is written in any case, with what it held if
    /// the comparison failed.
    fn compare_exchange(&mut self) -> Step<()> {
        let size = self.sized();
        let place = self.rm(size, Use::Write)?;
        let old = self.load(&place, size)?;
        let accumulator = self.read_reg(Reg::Rax, size);
        let (_, flags) = alu::sub(accumulator, old, false, size);
        let equal = flags.has(Rflags::ZF);
        let new = if equal {
            self.read_reg(self.insn.reg(), size)
        } else {
            old
        };
        if equal || matches!(place, Place::Memory(_)) {
            self.replace(&place, size, old, new)?;
        }
        if !equal {
            self.write_reg(Reg::Rax, size, old);
        }
        self.set_arithmetic(flags);
        self.finish()
    }

    /// CMPXCHG8B and CMPXCHG16B.
    fn compare_exchange_pair(&mut self) -> Step<()> {
        if self.insn.modrm.reg() != 1 || self.insn.modrm.is_register() {
            return Err(Outcome::Unhandleable);
        }
        let wide = self.insn.rex.w() && self.mode.is_64bit();
        let half: u8 = if wide { 8 } else { 4 };
        let len = usize::from(half) * 2;
        let offset = self.effective_offset();
        let gva = self.linear(self.insn.memory.segment, offset, len, true)?;
        if wide && gva.0 & 15 != 0 {
            return Err(Exception::GP0.into());
        }
        let access = self.data_access(true);
        let span = self.translate(gva, len, access)?;
        let mut old = [0; 16];
        let bytes = &mut old[..len];
        self.read_span(&span, bytes)?;
        let found = u128::from_le_bytes(old);
        let expected = self.pair(Reg::Rdx, Reg::Rax, half);
        let equal = found == expected;
        let new = if equal {
            self.pair(Reg::Rcx, Reg::Rbx, half)
        } else {
            found
        };
        let mut new = new.to_le_bytes();
        if self.insn.prefixes.has(Prefixes::LOCK) {
            self.replace_span(&span, &mut old[..len], &mut new[..len])?;
        } else {
            self.write_span(&span, &mut new[..len])?;
        }
        if !equal {
            self.write_reg(Reg::Rax, half, found as u64);
            let high = (found >> alu::bits(half)) as u64;
            self.write_reg(Reg::Rdx, half, high);
        }
        self.assign_flag(Rflags::ZF, equal);
        self.finish()
    }

    fn pair(&self, high: Reg, low: Reg, half: u8) -> u128 {
        let high = u128::from(self.read_reg(high, half)) << alu::bits(half);
        high | u128::from(self.read_reg(low, half))
    }

    fn exchange_add(&mut self) -> Step<()> {
        let size = self.sized();
        let reg = self.insn.reg();
        let place = self.rm(size, Use::Write)?;
        let old = self.load(&place, size)?;
        let added = self.read_reg(reg, size);
        let (sum, flags) = alu::add(old, added, false, size);
        if let Place::Memory(_) = place {
            self.replace(&place, size, old, sum)?;
            self.write_reg(reg, size, old);
        } else {
            self.write_reg(reg, size, old);
            self.store(&place, size, sum)?;
        }
        self.set_arithmetic(flags);
        self.finish()
    }

    /// MOVNTI and MOVDIRI: a doubleword or quadword.
    fn move_non_temporal(&mut self) -> Step<()> {
        if self.insn.modrm.is_register() {
            return Err(Exception::UD.into());
        }
        let size = if self.insn.operand_size == 8 { 8 } else { 4 };
        let value = self.read_reg(self.insn.reg(), size);
        let place = self.rm(size, Use::Write)?;
        self.store(&place, size, value)?;
        self.finish()
    }

    fn move_big_endian(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let unused = 64 - alu::bits(size);
        if self.insn.opcode == 0xf0 {
            let place = self.rm(size, Use::Read)?;
            let value = self.load(&place, size)?.swap_bytes() >> unused;
            self.write_reg(self.insn.reg(), size, value);
        } else {
            let value = self.read_reg(self.insn.reg(), size).swap_bytes() >> unused;
            let place = self.rm(size, Use::Write)?;
            self.store(&place, size, value)?;
        }
        self.finish()
    }

    /// BSWAP; of 16 bits it is undefined.
    fn swap_bytes(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        if size == 2 {
            return Err(Outcome::Unhandleable);
        }
        let reg = self.insn.opcode_reg();
        let value = self.read_reg(reg, size).swap_bytes() >> (64 - alu::bits(size));
        self.write_reg(reg, size, value);
        self.finish()
    }
}

/// BT only reads.
fn bit_usage(operation: u8) -> Use {
    if operation == 0 {
        Use::Read
    } else {
        Use::Write
    }
}
