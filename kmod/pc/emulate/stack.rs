// SPDX-License-Identifier: GPL-2.0

//! PUSH, POP, near CALL, JMP, RET and Jcc.
//!
//! The stack is written before RSP and RIP change, so that a fault or a device
//! under the stack leaves nothing half done.

use super::alu;
use super::operand::Use;
use super::{EmuContext, Exec, Outcome, Step};
use crate::pc::regs::{is_canonical, Cr4, Exception, Reg, SegReg};

impl<C: EmuContext> Exec<'_, C> {
    /// Size of the stack pointer: SP, ESP or RSP (APM volume 2, section 4.7.3).
    fn stack_size(&self) -> u8 {
        if self.mode.is_64bit() {
            return 8;
        }
        if self.ctx.segment(SegReg::Ss).attributes.default_big() {
            4
        } else {
            2
        }
    }

    /// Writes `value` below the top of the stack. Returns the new stack
    /// pointer for [`set_stack_pointer`](Self::set_stack_pointer).
    fn write_stack(&mut self, size: u8, value: u64) -> Step<u64> {
        let mask = alu::mask(self.stack_size());
        let top = self.ctx.gprs().get(Reg::Rsp);
        let pointer = top.wrapping_sub(u64::from(size)) & mask;
        let len = usize::from(size);
        let gva = self.linear(SegReg::Ss, pointer, len, true)?;
        let access = self.data_access(true);
        let span = self.translate(gva, len, access)?;
        self.store_memory(&span, size, value)?;
        Ok(pointer)
    }

    /// Reads the top of the stack.
    fn read_stack(&mut self, size: u8) -> Step<u64> {
        let mask = alu::mask(self.stack_size());
        let pointer = self.ctx.gprs().get(Reg::Rsp) & mask;
        let len = usize::from(size);
        let gva = self.linear(SegReg::Ss, pointer, len, false)?;
        let access = self.data_access(false);
        let span = self.translate(gva, len, access)?;
        self.load_memory(&span, size)
    }

    fn set_stack_pointer(&mut self, pointer: u64) {
        let size = self.stack_size();
        self.write_reg(Reg::Rsp, size, pointer);
    }

    /// Moves the stack pointer up by `bytes`.
    fn drop_stack(&mut self, bytes: u64) {
        let pointer = self.ctx.gprs().get(Reg::Rsp).wrapping_add(bytes);
        self.set_stack_pointer(pointer);
    }

    fn push(&mut self, value: u64) -> Step<()> {
        let pointer = self.write_stack(self.insn.operand_size, value)?;
        self.set_stack_pointer(pointer);
        self.finish()
    }

    pub(super) fn push_register(&mut self) -> Step<()> {
        let value = self.ctx.gprs().get(self.insn.opcode_reg());
        self.push(value)
    }

    pub(super) fn push_immediate(&mut self) -> Step<()> {
        self.push(self.insn.imm)
    }

    pub(super) fn push_rm(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let place = self.rm(size, Use::Read)?;
        let value = self.load(&place, size)?;
        self.push(value)
    }

    pub(super) fn pop_register(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let value = self.read_stack(size)?;
        self.drop_stack(u64::from(size));
        // After the increment: POP SP keeps what it popped.
        self.write_reg(self.insn.opcode_reg(), size, value);
        self.finish()
    }

    pub(super) fn pop_rm(&mut self) -> Step<()> {
        let size = self.insn.operand_size;
        let value = self.read_stack(size)?;
        if self.insn.modrm.is_register() {
            self.drop_stack(u64::from(size));
            self.write_reg(self.insn.rm(), size, value);
            return self.finish();
        }
        self.rsp_bias = u64::from(size);
        let place = self.rm(size, Use::Write)?;
        self.store(&place, size, value)?;
        self.drop_stack(u64::from(size));
        self.finish()
    }

    /// Calls, returns and indirect jumps also keep a shadow stack and look for
    /// landing pads when the guest uses those; not here.
    fn refuse_enforcement(&self) -> Step<()> {
        if self.ctx.cr4().has(Cr4::CET) {
            return Err(Outcome::Unhandleable);
        }
        Ok(())
    }

    /// Checks a near branch's target (APM volume 3, JMP).
    fn branch_target(&self, target: u64) -> Result<u64, Exception> {
        if self.mode.is_64bit() {
            return match is_canonical(target, self.ctx.cr4().has(Cr4::LA57)) {
                true => Ok(target),
                false => Err(Exception::GP0),
            };
        }
        let target = target & alu::mask(self.insn.operand_size);
        if target > u64::from(self.ctx.segment(SegReg::Cs).limit) {
            return Err(Exception::GP0);
        }
        Ok(target)
    }

    fn relative_target(&self) -> Result<u64, Exception> {
        self.branch_target(self.next_rip().wrapping_add(self.insn.imm))
    }

    pub(super) fn jump_relative(&mut self) -> Step<()> {
        let target = self.relative_target()?;
        self.finish_at(target);
        Ok(())
    }

    pub(super) fn jump_if(&mut self) -> Step<()> {
        if alu::condition(self.insn.opcode, self.ctx.rflags()) {
            return self.jump_relative();
        }
        self.finish()
    }

    pub(super) fn jump_rm(&mut self) -> Step<()> {
        self.refuse_enforcement()?;
        let size = self.insn.operand_size;
        let place = self.rm(size, Use::Read)?;
        let value = self.load(&place, size)?;
        let target = self.branch_target(value)?;
        self.finish_at(target);
        Ok(())
    }

    fn call(&mut self, target: u64) -> Step<()> {
        let pointer = self.write_stack(self.insn.operand_size, self.next_rip())?;
        self.set_stack_pointer(pointer);
        self.finish_at(target);
        Ok(())
    }

    pub(super) fn call_relative(&mut self) -> Step<()> {
        self.refuse_enforcement()?;
        let target = self.relative_target()?;
        self.call(target)
    }

    pub(super) fn call_rm(&mut self) -> Step<()> {
        self.refuse_enforcement()?;
        let size = self.insn.operand_size;
        let place = self.rm(size, Use::Read)?;
        let value = self.load(&place, size)?;
        let target = self.branch_target(value)?;
        self.call(target)
    }

    /// RET, perhaps dropping bytes of arguments.
    pub(super) fn near_return(&mut self) -> Step<()> {
        self.refuse_enforcement()?;
        let size = self.insn.operand_size;
        let value = self.read_stack(size)?;
        let target = self.branch_target(value)?;
        self.drop_stack(u64::from(size).wrapping_add(self.insn.imm));
        self.finish_at(target);
        Ok(())
    }
}
