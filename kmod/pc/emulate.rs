// SPDX-License-Identifier: GPL-2.0

//! The instruction emulator: executes what the processor could not, because
//! an operand lies where there is no memory or because the instruction does
//! port I/O with a string.
//!
//! It works on a vCPU through [`EmuContext`] and knows nothing else. Three
//! rules hold everywhere:
//!
//! - Registers change only when an instruction, or one iteration of a repeated
//!   one, is complete. Until then it can be given up and begun again.
//! - Every access to a device (and to memory, where an operand crosses a page) is
//!   noted in an [`AccessLog`]. When a device's answer must come from userspace,
//!   the emulator returns; called again with the same instruction and the answer,
//!   it replays what it has noted instead of asking the devices twice.
//! - What it does not know is [`Outcome::Unhandleable`], never a guess.
//!
//! `docs/emulator.md` lists the instructions and the reasons behind the rules.

use super::addr::{Gpa, Gva};
use super::decode::{Encoding, Insn, Map};
use super::regs::{CpuMode, Cr0, Cr4, Exception, Gprs, Rflags, SegReg, Segment};
use super::walk::Access;

pub mod alu;
mod execute;
mod fetch;
mod log;
mod memory;
mod operand;
mod ports;
mod segment;
mod simple;
mod stack;
mod string;
mod system;
mod two_byte;
mod xmm;

pub use fetch::{fetch, Fetched};
pub use log::{AccessLog, Mmio, Pio, MAX_ACCESSES};
pub use simple::{operand_page_offset, simple_move, SimpleMove};
pub use system::{
    effective_address, invlpg_address, invpcid_operand, lmsw_operand, register_move, store_smsw,
    InvpcidDescriptor, RegisterMove,
};

/// What lies at a guest physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Memory: the access is done.
    Memory,
    /// No memory, or none for this kind of access: a device's business.
    Device,
    /// Memory, but it no longer held what was to be replaced. Nothing was
    /// written.
    Changed,
}

/// Whether a device has answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<T> {
    /// Yes, here and now.
    Now(T),
    /// Userspace has to.
    Pending,
}

/// What became of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is complete and RIP points behind it. The caller drops an interrupt
    /// shadow and, if RFLAGS.TF was set before, raises #DB.
    Done,
    /// It is not complete: a repeated instruction after a bounded number of
    /// iterations, or something that cannot be done right now. Registers are
    /// consistent. Look for pending work, then call again; if the log is empty
    /// the guest may as well run on.
    Repeat,
    /// Do this access to a device, tell [`AccessLog::complete`] the answer,
    /// call again.
    NeedsMmio(Mmio),
    /// Do this access to a port, tell [`AccessLog::complete`] the answer, call
    /// again.
    NeedsPio(Pio),
    /// Inject this; RIP still points at the instruction.
    Fault(Exception),
    /// Not an instruction the emulator knows.
    Unhandleable,
}

/// A result that leaves early with the outcome of the whole instruction.
pub type Step<T> = Result<T, Outcome>;

impl From<Exception> for Outcome {
    fn from(exception: Exception) -> Self {
        Self::Fault(exception)
    }
}

/// The vCPU, as the emulator needs it.
///
/// Methods that access memory may answer `Err(Outcome::Repeat)` when they
/// cannot now (say, because they would have to sleep): the instruction is given
/// up, and begun again on the next call.
pub trait EmuContext {
    /// The general registers.
    fn gprs(&self) -> &Gprs;
    /// The general registers, to change.
    fn gprs_mut(&mut self) -> &mut Gprs;
    /// Instruction pointer.
    fn rip(&self) -> u64;
    /// Sets the instruction pointer.
    fn set_rip(&mut self, rip: u64);
    /// The flags.
    fn rflags(&self) -> Rflags;
    /// Sets the flags.
    fn set_rflags(&mut self, rflags: Rflags);
    /// The mode the processor is in.
    fn mode(&self) -> CpuMode;
    /// Current privilege level, 0 to 3.
    fn cpl(&self) -> u8;
    /// A segment register.
    fn segment(&self, reg: SegReg) -> Segment;
    /// Control register 0.
    fn cr0(&self) -> Cr0;
    /// Control register 4.
    fn cr4(&self) -> Cr4;
    /// The low 128 bits of a vector register, 0 to 15.
    fn xmm(&mut self, number: u8) -> u128;
    /// Replaces the low 128 bits of a vector register and leaves the others.
    fn set_xmm(&mut self, number: u8, value: u128);

    /// Translates a linear address for an access (see [`walk`](super::walk)).
    ///
    /// # Errors
    ///
    /// `Fault` with the page fault, or another way out.
    fn translate(&mut self, gva: Gva, access: Access) -> Step<Gpa>;

    /// Reads memory that lies within one page, or says that a device is there.
    ///
    /// # Errors
    ///
    /// A way out, if it cannot be read now.
    fn read_phys(&mut self, gpa: Gpa, data: &mut [u8]) -> Step<Target>;

    /// Writes memory that lies within one page, or says that a device is there
    /// (or memory that only reads, whose writes are a device's business).
    ///
    /// # Errors
    ///
    /// A way out, if it cannot be written now.
    fn write_phys(&mut self, gpa: Gpa, data: &[u8]) -> Step<Target>;

    /// Atomically replaces `old` by `new`, both of 1, 2, 4, 8 or 16 bytes, at
    /// an address that is a multiple of their size.
    ///
    /// # Errors
    ///
    /// A way out, if it cannot be done now.
    fn cmpxchg_phys(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> Step<Target>;

    /// Reads one to eight bytes of a device.
    fn mmio_read(&mut self, gpa: Gpa, data: &mut [u8]) -> Answer<()>;

    /// Writes one to eight bytes of a device.
    fn mmio_write(&mut self, gpa: Gpa, data: &[u8]) -> Answer<()>;

    /// Reads a port, `size` being 1, 2 or 4. `count` such reads are certain to
    /// follow one another: a caller that must ask userspace may ask for as
    /// many at once, and answer the next calls from what it got.
    fn pio_read(&mut self, port: u16, size: u8, count: u32) -> Answer<u32>;

    /// Writes a port, `size` being 1, 2 or 4.
    fn pio_write(&mut self, port: u16, size: u8, data: u32) -> Answer<()>;
}

/// One instruction on its way.
struct Exec<'a, C> {
    ctx: &'a mut C,
    insn: &'a Insn,
    log: &'a mut AccessLog,
    mode: CpuMode,
    /// How many noted accesses this run has passed.
    passed: usize,
    /// Added to RSP when it is the base of an operand: POP computes addresses
    /// after incrementing it.
    rsp_bias: u64,
}

impl<'a, C: EmuContext> Exec<'a, C> {
    fn new(ctx: &'a mut C, insn: &'a Insn, log: &'a mut AccessLog) -> Self {
        let mode = ctx.mode();
        Self {
            ctx,
            insn,
            log,
            mode,
            passed: 0,
            rsp_bias: 0,
        }
    }

    /// The address of the next instruction.
    fn next_rip(&self) -> u64 {
        let next = self.ctx.rip().wrapping_add(u64::from(self.insn.length));
        next & self.mode.rip_mask()
    }

    /// Ends an instruction that goes on to `rip`.
    fn finish_at(&mut self, rip: u64) {
        self.ctx.set_rip(rip);
        let rflags = self.ctx.rflags();
        if rflags.has(Rflags::RF) {
            self.ctx.set_rflags(rflags.without(Rflags::RF));
        }
    }

    /// Ends an instruction that goes on to the next.
    fn finish(&mut self) -> Step<()> {
        let next = self.next_rip();
        self.finish_at(next);
        Ok(())
    }

    fn run(&mut self) -> Step<()> {
        if self.insn.encoding != Encoding::Legacy {
            return Err(Outcome::Unhandleable);
        }
        match self.insn.map {
            Map::Primary => self.primary(),
            Map::Of => self.two_byte(),
            Map::Of38 => self.three_byte_38(),
            _ => Err(Outcome::Unhandleable),
        }
    }
}

/// Executes `insn`, which must be what `ctx`'s RIP points at.
///
/// With a log that is not empty it continues an instruction for which it had
/// returned [`Outcome::NeedsMmio`], [`Outcome::NeedsPio`] or
/// [`Outcome::Repeat`]; `insn` must be the same.
pub fn emulate<C: EmuContext>(ctx: &mut C, insn: &Insn, log: &mut AccessLog) -> Outcome {
    let result = Exec::new(ctx, insn, log).run();
    match result {
        Ok(()) => {
            log.clear();
            Outcome::Done
        }
        Err(outcome @ (Outcome::NeedsMmio(_) | Outcome::NeedsPio(_) | Outcome::Repeat)) => outcome,
        Err(outcome) => {
            log.clear();
            outcome
        }
    }
}
