// SPDX-License-Identifier: GPL-2.0

//! Operands: registers of every width, and memory resolved once to where it
//! lies, then read and written there.

use super::memory::Span;
use super::{EmuContext, Exec, Step};
use crate::pc::decode::{Insn, Prefixes};
use crate::pc::emulate::alu;
use crate::pc::regs::{Gprs, Reg, Rflags};

/// Where an operand is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Register(Reg),
    Memory(Span),
}

/// What an instruction does with an operand in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    /// Written, perhaps after having been read.
    Write,
}

/// The low `size` bytes of a register, as `insn` names it.
#[inline]
pub(super) fn read_register(gprs: &Gprs, insn: &Insn, reg: Reg, size: u8) -> u64 {
    read_part(gprs, reg, size, insn.names_high_byte(reg, size))
}

/// As [`read_register`]; `high_byte`: the register is AH, CH, DH or BH.
#[inline]
pub(super) fn read_part(gprs: &Gprs, reg: Reg, size: u8, high_byte: bool) -> u64 {
    if high_byte {
        let whole = Reg::from_bits(reg.number() & 3);
        return (gprs.get(whole) >> 8) & 0xff;
    }
    gprs.get(reg) & alu::mask(size)
}

/// Writes the low `size` bytes of a register, as `insn` names it. Four clear
/// the upper half, one and two leave the rest (APM volume 1, section 3.1.2).
#[inline]
pub(super) fn write_register(gprs: &mut Gprs, insn: &Insn, reg: Reg, size: u8, value: u64) {
    write_part(gprs, reg, size, insn.names_high_byte(reg, size), value);
}

/// As [`write_register`]; `high_byte`: the register is AH, CH, DH or BH.
#[inline]
pub(super) fn write_part(gprs: &mut Gprs, reg: Reg, size: u8, high_byte: bool, value: u64) {
    if high_byte {
        let whole = Reg::from_bits(reg.number() & 3);
        let rest = gprs.get(whole) & !0xff00;
        return gprs.set(whole, rest | ((value & 0xff) << 8));
    }
    let kept = match size {
        1 | 2 => gprs.get(reg) & !alu::mask(size),
        _ => 0,
    };
    gprs.set(reg, kept | (value & alu::mask(size)));
}

impl<C: EmuContext> Exec<'_, C> {
    /// The low `size` bytes of a register.
    #[inline]
    pub(super) fn read_reg(&self, reg: Reg, size: u8) -> u64 {
        read_register(self.ctx.gprs(), self.insn, reg, size)
    }

    /// Writes the low `size` bytes of a register.
    #[inline]
    pub(super) fn write_reg(&mut self, reg: Reg, size: u8, value: u64) {
        write_register(self.ctx.gprs_mut(), self.insn, reg, size, value);
    }

    /// Resolves the ModRM byte's `r/m` operand.
    pub(super) fn rm(&mut self, size: u8, usage: Use) -> Step<Place> {
        if self.insn.modrm.is_register() {
            return Ok(Place::Register(self.insn.rm()));
        }
        let offset = self.effective_offset();
        self.memory_at(offset, usize::from(size), usage)
            .map(Place::Memory)
    }

    /// Resolves memory at `offset` in the instruction's segment.
    pub(super) fn memory_at(&mut self, offset: u64, len: usize, usage: Use) -> Step<Span> {
        let write = usage == Use::Write;
        let gva = self.linear(self.insn.memory.segment, offset, len, write)?;
        let access = self.data_access(write);
        self.translate(gva, len, access)
    }

    /// Reads an operand of up to eight bytes.
    pub(super) fn load(&mut self, place: &Place, size: u8) -> Step<u64> {
        match place {
            Place::Register(reg) => Ok(self.read_reg(*reg, size)),
            Place::Memory(span) => self.load_memory(span, size),
        }
    }

    /// Reads up to eight bytes of memory.
    pub(super) fn load_memory(&mut self, span: &Span, size: u8) -> Step<u64> {
        let mut bytes = [0; 8];
        let data = &mut bytes[..usize::from(size.min(8))];
        self.read_span(span, data)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes an operand of up to eight bytes.
    pub(super) fn store(&mut self, place: &Place, size: u8, value: u64) -> Step<()> {
        match place {
            Place::Register(reg) => {
                self.write_reg(*reg, size, value);
                Ok(())
            }
            Place::Memory(span) => self.store_memory(span, size, value),
        }
    }

    /// Writes up to eight bytes of memory.
    pub(super) fn store_memory(&mut self, span: &Span, size: u8, value: u64) -> Step<()> {
        let mut bytes = value.to_le_bytes();
        self.write_span(span, &mut bytes[..usize::from(size.min(8))])
    }

    /// Writes an operand that was read before as `old`: atomically with LOCK.
    pub(super) fn replace(&mut self, place: &Place, size: u8, old: u64, new: u64) -> Step<()> {
        if self.insn.prefixes.has(Prefixes::LOCK) {
            return self.replace_locked(place, size, old, new);
        }
        self.store(place, size, new)
    }

    /// Like [`replace`](Self::replace), atomically in any case: XCHG needs no
    /// prefix.
    pub(super) fn replace_locked(
        &mut self,
        place: &Place,
        size: u8,
        old: u64,
        new: u64,
    ) -> Step<()> {
        let span = match place {
            Place::Register(_) => return self.store(place, size, new),
            Place::Memory(span) => *span,
        };
        let len = usize::from(size.min(8));
        let mut old = old.to_le_bytes();
        let mut new = new.to_le_bytes();
        self.replace_span(&span, &mut old[..len], &mut new[..len])
    }

    /// Replaces the six arithmetic flags.
    pub(super) fn set_arithmetic(&mut self, flags: Rflags) {
        let others = self.ctx.rflags().without(Rflags::ARITHMETIC);
        self.ctx.set_rflags(others | (flags & Rflags::ARITHMETIC));
    }

    /// Sets or clears flags.
    pub(super) fn assign_flag(&mut self, flag: Rflags, on: bool) {
        let flags = self.ctx.rflags().assign(flag, on);
        self.ctx.set_rflags(flags);
    }

    /// The operand size of an opcode whose lowest bit tells bytes from words.
    pub(super) fn sized(&self) -> u8 {
        if self.insn.opcode & 1 == 0 {
            1
        } else {
            self.insn.operand_size
        }
    }
}
