// SPDX-License-Identifier: GPL-2.0

//! IN and OUT, and who may use which port (APM volume 2, section 12.2.4).

use super::{EmuContext, Exec, Step};
use crate::pc::addr::Gva;
use crate::pc::regs::{CpuMode, Exception, Reg, SegReg};
use crate::pc::walk::Access;

/// Offset of the I/O bitmap's own offset in a 32-bit or 64-bit TSS.
const MAP_BASE: u64 = 0x66;
/// The low type bit that tells a 32-bit or 64-bit TSS from a 16-bit one.
const TSS_32: u8 = 8;

impl<C: EmuContext> Exec<'_, C> {
    pub(super) fn port_io(&mut self) -> Step<()> {
        let size = self.sized().min(4);
        let port = if self.insn.opcode & 8 == 0 {
            self.insn.imm as u16 & 0xff
        } else {
            self.ctx.gprs().get(Reg::Rdx) as u16
        };
        self.check_ports(port, size)?;
        if self.insn.opcode & 2 == 0 {
            let value = self.read_port(port, size, 1)?;
            self.write_reg(Reg::Rax, size, u64::from(value));
        } else {
            let value = self.ctx.gprs().get(Reg::Rax) as u32;
            self.write_port(port, size, value)?;
        }
        self.finish()
    }

    /// May this code use the `size` ports from `port`?
    pub(super) fn check_ports(&mut self, port: u16, size: u8) -> Step<()> {
        let asks = match self.mode {
            CpuMode::Real => false,
            CpuMode::Vm86 => true,
            _ => self.ctx.cpl() > self.ctx.rflags().iopl(),
        };
        if asks {
            self.check_bitmap(port, size)?;
        }
        Ok(())
    }

    /// All bits of the ports must be clear in the bitmap of the task.
    fn check_bitmap(&mut self, port: u16, size: u8) -> Step<()> {
        let tss = self.ctx.segment(SegReg::Tr);
        let limit = u64::from(tss.limit);
        let usable = !tss.attributes.unusable() && tss.attributes.kind() & TSS_32 != 0;
        if !usable || limit < MAP_BASE + 1 {
            return Err(Exception::GP0.into());
        }
        let map = u64::from(self.read_system_word(tss.base, MAP_BASE)?);
        let byte = map + u64::from(port >> 3);
        // Two bytes are always read, so that ports may straddle.
        if byte + 1 > limit {
            return Err(Exception::GP0.into());
        }
        let bits = self.read_system_word(tss.base, byte)? >> (port & 7);
        let wanted = !u16::MAX.wrapping_shl(u32::from(size));
        if bits & wanted != 0 {
            return Err(Exception::GP0.into());
        }
        Ok(())
    }

    /// Reads two bytes as the processor reads its own structures, whatever
    /// the privilege of the code.
    fn read_system_word(&mut self, base: u64, offset: u64) -> Step<u16> {
        let mut linear = base.wrapping_add(offset);
        if !self.mode.is_64bit() {
            linear &= 0xffff_ffff;
        }
        let span = self.translate(Gva(linear), 2, Access::READ.marking())?;
        self.load_memory(&span, 2).map(|word| word as u16)
    }
}
