// SPDX-License-Identifier: GPL-2.0

//! Operands of the system instructions whose exits do not carry them: moves to
//! and from control and debug registers, LMSW, SMSW, INVLPG, INVPCID. What
//! they mean is the vCPU's business; the caller also moves RIP.

use super::operand::Use;
use super::{AccessLog, EmuContext, Exec, Outcome, Step};
use crate::pc::addr::Gva;
use crate::pc::decode::{Insn, Prefixes};
use crate::pc::regs::{CpuMode, Reg};

/// A MOV between a general register and a control or debug register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterMove {
    /// To the control or debug register?
    pub write: bool,
    /// A debug register, rather than a control register?
    pub debug: bool,
    /// Which control or debug register, 0 to 15. Not all exist.
    pub number: u8,
    /// The general register.
    pub gpr: Reg,
}

/// The operands of MOV CRn and MOV DRn (`0F 20` to `0F 23`), if `insn` is one.
/// They are eight bytes in 64-bit code and four elsewhere.
pub fn register_move(insn: &Insn) -> Option<RegisterMove> {
    if !(0x20..=0x23).any(|opcode| insn.is_0f(opcode)) {
        return None;
    }
    let debug = insn.opcode & 1 != 0;
    let mut number = insn.reg().number();
    if !debug && insn.prefixes.has(Prefixes::LOCK) {
        // APM volume 3, section 1.2.5: LOCK stands in for REX.R.
        number |= 8;
    }
    Some(RegisterMove {
        write: insn.opcode & 2 != 0,
        debug,
        number,
        gpr: insn.rm(),
    })
}

/// The offset of `insn`'s memory operand in its segment.
pub fn effective_address<C: EmuContext>(ctx: &mut C, insn: &Insn) -> u64 {
    Exec::new(ctx, insn, &mut AccessLog::new()).effective_offset()
}

/// The linear address INVLPG (`0F 01 /7`) names; `None` if it is none, and the
/// instruction does nothing: INVLPG never faults on its address in 64-bit code
/// and makes no access outside it.
pub fn invlpg_address<C: EmuContext>(ctx: &mut C, insn: &Insn) -> Option<Gva> {
    if !insn.is_0f(0x01) || insn.modrm.reg() != 7 || !insn.has_memory() {
        return None;
    }
    let mut log = AccessLog::new();
    let exec = Exec::new(ctx, insn, &mut log);
    let offset = exec.effective_offset();
    let segment = insn.memory.segment;
    if exec.mode.is_64bit() {
        return exec.linear(segment, offset, 1, false).ok();
    }
    let base = exec.ctx.segment(segment).base;
    Some(Gva(base.wrapping_add(offset) & 0xffff_ffff))
}

/// The value LMSW (`0F 01 /6`) loads, from a register or memory.
///
/// # Errors
///
/// As [`emulate`](super::emulate): the operand may fault or lie in a device.
/// Clear the log when done.
pub fn lmsw_operand<C: EmuContext>(ctx: &mut C, insn: &Insn, log: &mut AccessLog) -> Step<u16> {
    if !insn.is_0f(0x01) || insn.modrm.reg() != 6 {
        return Err(Outcome::Unhandleable);
    }
    let mut exec = Exec::new(ctx, insn, log);
    let place = exec.rm(2, Use::Read)?;
    exec.load(&place, 2).map(|word| word as u16)
}

/// Stores what SMSW (`0F 01 /4`) stores: two bytes of `cr0` to memory, or as
/// many as the operand size says to a register. Moves RIP.
///
/// # Errors
///
/// As [`emulate`](super::emulate). Clear the log when done.
pub fn store_smsw<C: EmuContext>(
    ctx: &mut C,
    insn: &Insn,
    log: &mut AccessLog,
    cr0: u64,
) -> Step<()> {
    if !insn.is_0f(0x01) || insn.modrm.reg() != 4 {
        return Err(Outcome::Unhandleable);
    }
    let mut exec = Exec::new(ctx, insn, log);
    if insn.modrm.is_register() {
        exec.write_reg(insn.rm(), insn.operand_size, cr0);
    } else {
        let place = exec.rm(2, Use::Write)?;
        exec.store(&place, 2, cr0)?;
    }
    exec.finish()
}

/// The operands of INVPCID (`66 0F 38 82`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvpcidDescriptor {
    /// What to invalidate: 0 one address, 1 one PCID, 2 all, 3 all but global.
    pub kind: u64,
    /// The descriptor's first half: the PCID; bits 63 to 12 must be 0.
    pub pcid: u64,
    /// The descriptor's second half: the address.
    pub address: Gva,
}

/// Reads the operands of INVPCID.
///
/// # Errors
///
/// As [`emulate`](super::emulate). Clear the log when done.
pub fn invpcid_operand<C: EmuContext>(
    ctx: &mut C,
    insn: &Insn,
    log: &mut AccessLog,
) -> Step<InvpcidDescriptor> {
    if !insn.has_memory() {
        return Err(Outcome::Unhandleable);
    }
    let mut exec = Exec::new(ctx, insn, log);
    let kind_size = if exec.mode == CpuMode::Long64 { 8 } else { 4 };
    let kind = exec.read_reg(insn.reg(), kind_size);
    let offset = exec.effective_offset();
    let span = exec.memory_at(offset, 16, Use::Read)?;
    let mut bytes = [0; 16];
    exec.read_span(&span, &mut bytes)?;
    let both = u128::from_le_bytes(bytes);
    Ok(InvpcidDescriptor {
        kind,
        pcid: both as u64,
        address: Gva((both >> 64) as u64),
    })
}
