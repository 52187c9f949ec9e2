// SPDX-License-Identifier: GPL-2.0

//! Fetching the instruction at CS:RIP.

use super::{EmuContext, Outcome, Step, Target};
use crate::pc::addr::{Gva, PAGE_SIZE};
use crate::pc::decode::{decode, DecodeError, Insn, MAX_LENGTH};
use crate::pc::regs::{is_canonical, CpuMode, Cr4, Exception, SegReg};
use crate::pc::walk::Access;

/// An instruction and the bytes it was made from.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    bytes: [u8; 16],
    len: u8,
    /// The instruction, or why the bytes are none.
    pub insn: Result<Insn, DecodeError>,
}

impl Fetched {
    /// The bytes fetched: all of the instruction, and perhaps some behind it.
    /// What userspace is told when the emulator does not know an instruction.
    pub fn bytes(&self) -> &[u8] {
        let len = usize::from(self.len).min(MAX_LENGTH);
        &self.bytes[..len]
    }
}

/// Fetches and decodes the instruction at CS:RIP.
///
/// The second page is touched only if the first does not hold the whole
/// instruction, as the processor would.
///
/// # Errors
///
/// `Fault` if RIP is outside its segment or not mapped, or if the instruction
/// is too long; `Unhandleable` if it lies in a device; what `ctx` answers.
pub fn fetch<C: EmuContext>(ctx: &mut C) -> Step<Fetched> {
    let mode = ctx.mode();
    let rip = ctx.rip();
    let (start, allowed) = code_window(ctx, mode, rip)?;
    let access = Access::FETCH.at_cpl(ctx.cpl());
    let mut bytes = [0; 16];

    let in_page = (PAGE_SIZE - start.page_offset()).min(allowed);
    // A whole 16 bytes are cheaper to copy than 15.
    let first = in_page.min(16) as usize;
    read(ctx, start, access, &mut bytes[..first])?;
    let insn = decode(&bytes[..first.min(MAX_LENGTH)], mode);
    if insn != Err(DecodeError::TooShort) {
        return fetched(bytes, first, insn);
    }
    let rest = (allowed - in_page).min((16 - first) as u64) as usize;
    if rest == 0 {
        // The segment ends inside the instruction.
        return Err(Exception::GP0.into());
    }
    let mut next = start.wrapping_add(first as u64);
    if !mode.is_64bit() {
        next.0 &= 0xffff_ffff;
    }
    let both = first.wrapping_add(rest).min(16);
    read(ctx, next, access, &mut bytes[first..both])?;
    let insn = decode(&bytes[..both.min(MAX_LENGTH)], mode);
    if insn == Err(DecodeError::TooShort) {
        return Err(Exception::GP0.into());
    }
    fetched(bytes, both, insn)
}

fn fetched(bytes: [u8; 16], len: usize, insn: Result<Insn, DecodeError>) -> Step<Fetched> {
    if insn == Err(DecodeError::TooLong) {
        return Err(Exception::GP0.into());
    }
    Ok(Fetched {
        bytes,
        len: len as u8,
        insn,
    })
}

/// The linear address of the next instruction, and how many bytes of code
/// may follow it.
fn code_window<C: EmuContext>(ctx: &C, mode: CpuMode, rip: u64) -> Result<(Gva, u64), Exception> {
    if mode.is_64bit() {
        if !is_canonical(rip, ctx.cr4().has(Cr4::LA57)) {
            return Err(Exception::GP0);
        }
        return Ok((Gva(rip), 16));
    }
    let cs = ctx.segment(SegReg::Cs);
    let rip = rip & 0xffff_ffff;
    let limit = u64::from(cs.limit);
    if rip > limit {
        return Err(Exception::GP0);
    }
    let linear = cs.base.wrapping_add(rip) & 0xffff_ffff;
    Ok((Gva(linear), (limit - rip).wrapping_add(1).min(16)))
}

fn read<C: EmuContext>(ctx: &mut C, at: Gva, access: Access, to: &mut [u8]) -> Step<()> {
    let gpa = ctx.translate(at, access)?;
    match ctx.read_phys(gpa, to)? {
        Target::Memory => Ok(()),
        Target::Device => Err(Outcome::Unhandleable),
        Target::Changed => Err(Outcome::Repeat),
    }
}
