// SPDX-License-Identifier: GPL-2.0

//! MOVS, CMPS, STOS, LODS, SCAS, INS and OUTS, once or repeated.
//!
//! Each iteration is an instruction of its own: it changes registers when it is
//! complete, and the access log starts empty for the next.

use super::log::{Key, Pio};
use super::operand::Use;
use super::segment::address_mask;
use super::{alu, Answer, EmuContext, Exec, Outcome, Step};
use crate::pc::addr::PAGE_SIZE;
use crate::pc::decode::Prefixes;
use crate::pc::regs::{Reg, Rflags, SegReg};

/// Iterations before the vCPU gets to look at other work.
const ITERATIONS: u32 = 256;

impl<C: EmuContext> Exec<'_, C> {
    pub(super) fn string(&mut self) -> Step<()> {
        self.repeat(Self::string_iteration)
    }

    pub(super) fn string_io(&mut self) -> Step<()> {
        let port = self.ctx.gprs().get(Reg::Rdx) as u16;
        let size = self.io_size();
        self.check_ports(port, size)?;
        self.repeat(Self::string_io_iteration)
    }

    /// Runs `iteration` once, or as REP says. An iteration answers whether a
    /// repetition is to go on.
    fn repeat(&mut self, iteration: fn(&mut Self) -> Step<bool>) -> Step<()> {
        if !self.insn.prefixes.repeats() {
            iteration(self)?;
            return self.finish();
        }
        for _ in 0..ITERATIONS {
            if self.count() == 0 {
                return self.finish();
            }
            let goes_on = iteration(self)?;
            self.log.clear();
            self.passed = 0;
            let left = self.count().wrapping_sub(1);
            self.write_reg(Reg::Rcx, self.insn.address_size, left);
            if left == 0 || !goes_on {
                return self.finish();
            }
        }
        Err(Outcome::Repeat)
    }

    /// CX, ECX or RCX.
    fn count(&self) -> u64 {
        self.read_reg(Reg::Rcx, self.insn.address_size)
    }

    /// Moves SI or DI by one element.
    fn advance(&mut self, reg: Reg, size: u8) {
        let step = u64::from(size);
        let old = self.ctx.gprs().get(reg);
        let new = if self.ctx.rflags().has(Rflags::DF) {
            old.wrapping_sub(step)
        } else {
            old.wrapping_add(step)
        };
        self.write_reg(reg, self.insn.address_size, new);
    }

    /// The element at SI, in DS or the segment that overrides it.
    fn load_source(&mut self, size: u8) -> Step<u64> {
        let mask = address_mask(self.insn.address_size);
        let offset = self.ctx.gprs().get(Reg::Rsi) & mask;
        let span = self.memory_at(offset, usize::from(size), Use::Read)?;
        self.load_memory(&span, size)
    }

    /// Where the element at DI lies, always in ES.
    fn destination(&mut self, size: u8, usage: Use) -> Step<super::memory::Span> {
        let mask = address_mask(self.insn.address_size);
        let offset = self.ctx.gprs().get(Reg::Rdi) & mask;
        let write = usage == Use::Write;
        let gva = self.linear(SegReg::Es, offset, usize::from(size), write)?;
        let access = self.data_access(write);
        self.translate(gva, usize::from(size), access)
    }

    fn string_iteration(&mut self) -> Step<bool> {
        let size = self.sized();
        match self.insn.opcode {
            0xa4 | 0xa5 => {
                let value = self.load_source(size)?;
                let to = self.destination(size, Use::Write)?;
                self.store_memory(&to, size, value)?;
                self.advance(Reg::Rsi, size);
                self.advance(Reg::Rdi, size);
                Ok(true)
            }
            0xa6 | 0xa7 => {
                let left = self.load_source(size)?;
                let from = self.destination(size, Use::Read)?;
                let right = self.load_memory(&from, size)?;
                self.advance(Reg::Rsi, size);
                self.advance(Reg::Rdi, size);
                Ok(self.compare(left, right, size))
            }
            0xaa | 0xab => {
                let value = self.read_reg(Reg::Rax, size);
                let to = self.destination(size, Use::Write)?;
                self.store_memory(&to, size, value)?;
                self.advance(Reg::Rdi, size);
                Ok(true)
            }
            0xac | 0xad => {
                let value = self.load_source(size)?;
                self.write_reg(Reg::Rax, size, value);
                self.advance(Reg::Rsi, size);
                Ok(true)
            }
            0xae | 0xaf => {
                let left = self.read_reg(Reg::Rax, size);
                let from = self.destination(size, Use::Read)?;
                let right = self.load_memory(&from, size)?;
                self.advance(Reg::Rdi, size);
                Ok(self.compare(left, right, size))
            }
            _ => Err(Outcome::Unhandleable),
        }
    }

    /// Sets the flags of a comparison; does REPE or REPNE go on?
    fn compare(&mut self, left: u64, right: u64, size: u8) -> bool {
        let (_, flags) = alu::sub(left, right, false, size);
        self.set_arithmetic(flags);
        flags.has(Rflags::ZF) == self.insn.prefixes.has(Prefixes::REP)
    }

    fn io_size(&self) -> u8 {
        self.sized().min(4)
    }

    fn string_io_iteration(&mut self) -> Step<bool> {
        let size = self.io_size();
        let port = self.ctx.gprs().get(Reg::Rdx) as u16;
        if self.insn.opcode & 2 == 0 {
            // The destination is found first: an element taken from the port
            // could not be put back.
            let to = self.destination(size, Use::Write)?;
            let value = self.read_port(port, size, self.elements_ahead(to.gpa().0, size))?;
            self.store_memory(&to, size, u64::from(value))?;
            self.advance(Reg::Rdi, size);
        } else {
            let value = self.load_source(size)?;
            self.write_port(port, size, value as u32)?;
            self.advance(Reg::Rsi, size);
        }
        Ok(true)
    }

    /// How many elements a repeated INS will take for certain: as many as the
    /// page of its destination holds, which is known to be writable.
    fn elements_ahead(&self, destination: u64, size: u8) -> u32 {
        let upwards = !self.ctx.rflags().has(Rflags::DF);
        if !self.insn.prefixes.repeats() || !upwards {
            return 1;
        }
        let room = PAGE_SIZE - (destination & (PAGE_SIZE - 1));
        let fitting = (room / u64::from(size.max(1))).max(1);
        self.count().min(fitting) as u32
    }

    /// Reads a port through the log.
    pub(super) fn read_port(&mut self, port: u16, size: u8, count: u32) -> Step<u32> {
        let key = Key::pio(port, size, false);
        let value = match self.log.replay(self.passed, key) {
            Some(noted) => noted as u32,
            None => match self.ctx.pio_read(port, size, count) {
                Answer::Now(value) => {
                    self.log.note(key, u64::from(value))?;
                    value
                }
                Answer::Pending => {
                    self.log.wait(key)?;
                    return Err(Outcome::NeedsPio(Pio {
                        port,
                        size,
                        write: false,
                        data: 0,
                        count,
                    }));
                }
            },
        };
        self.passed = self.passed.saturating_add(1);
        Ok(value)
    }

    /// Writes a port through the log.
    pub(super) fn write_port(&mut self, port: u16, size: u8, data: u32) -> Step<()> {
        let data = data & alu::mask(size) as u32;
        let key = Key::pio(port, size, true);
        if self.log.replay(self.passed, key).is_none() {
            match self.ctx.pio_write(port, size, data) {
                Answer::Now(()) => self.log.note(key, 0)?,
                Answer::Pending => {
                    self.log.wait(key)?;
                    return Err(Outcome::NeedsPio(Pio {
                        port,
                        size,
                        write: true,
                        data,
                        count: 1,
                    }));
                }
            }
        }
        self.passed = self.passed.saturating_add(1);
        Ok(())
    }
}
