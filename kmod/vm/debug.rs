// SPDX-License-Identifier: GPL-2.0

//! Debug registers of the guest, and the VMM's debugging of it
//! (KVM_SET_GUEST_DEBUG; KVM API document, 4.87).
//!
//! Guest accesses to debug registers always exit, so DR0 to DR3 are in the
//! processor only while a breakpoint is enabled. While the VMM debugs the
//! guest, its breakpoints are in force and the guest's are not.

use super::events::TrapInsn;
use super::step::Context;
use super::step::Handled;
use super::step::Step;
use super::vcpu::Vcpu;
use crate::host::debug_registers;
use crate::host::task::IrqOff;
use crate::hw::Vendor;
use crate::pc::decode::Insn;
use crate::pc::decode::Map;
use crate::pc::regs::Dr6;
use crate::pc::regs::Dr7;
use crate::pc::regs::Exception;
use crate::pc::regs::Rflags;
use crate::pc::regs::SegReg;
use crate::pc::regs::Vector;
use crate::uapi;
use crate::uapi::kvm_debug_exit_arch;
use crate::uapi::kvm_guest_debug;
use kernel::prelude::*;

/// Debug state of one vCPU.
pub struct Debug {
    /// DR0 to DR3 of the guest.
    pub addresses: [u64; 4],
    /// DR7 of the guest.
    pub dr7: u64,
    /// `KVM_GUESTDBG_*`.
    control: u32,
    user_addresses: [u64; 4],
    user_dr7: u64,
    loaded: bool,
}

impl Debug {
    /// After RESET.
    pub const fn new() -> Self {
        Self {
            addresses: [0; 4],
            dr7: Dr7::RESET.0,
            control: 0,
            user_addresses: [0; 4],
            user_dr7: Dr7::RESET.0,
            loaded: false,
        }
    }

    /// As after INIT; the VMM's debugging stays.
    pub fn reset<V: Vendor>(&mut self, hw: &mut V) {
        self.addresses = [0; 4];
        self.set_dr7(Dr7::RESET.0, hw);
    }

    fn user_has(&self, bits: u32) -> bool {
        self.control & (bits | uapi::KVM_GUESTDBG_ENABLE) == bits | uapi::KVM_GUESTDBG_ENABLE
    }

    /// The VMM steps the guest.
    pub fn user_steps(&self) -> bool {
        self.user_has(uapi::KVM_GUESTDBG_SINGLESTEP)
    }

    fn in_force(&self) -> (&[u64; 4], u64) {
        if self.user_has(uapi::KVM_GUESTDBG_USE_HW_BP) {
            (&self.user_addresses, self.user_dr7)
        } else {
            (&self.addresses, self.dr7)
        }
    }

    /// Sets the guest's DR7.
    pub fn set_dr7<V: Vendor>(&mut self, value: u64, hw: &mut V) {
        self.dr7 = value;
        hw.set_dr7(self.in_force().1);
    }

    /// Flags as the guest has them: without the VMM's single step.
    pub fn hide_flags(&self, flags: Rflags) -> Rflags {
        if self.user_steps() {
            flags.without(Rflags::TF)
        } else {
            flags
        }
    }

    /// Flags to run with: with the VMM's single step.
    pub fn show_flags(&self, flags: Rflags) -> Rflags {
        if self.user_steps() {
            flags.with(Rflags::TF)
        } else {
            flags
        }
    }

    /// Before entries: breakpoints that are enabled go into the processor.
    #[inline]
    pub fn load(&mut self, off: &IrqOff) {
        if (self.dr7 | self.user_dr7) & Dr7::ENABLES.0 != 0 {
            self.load_in_force(off);
        }
    }

    fn load_in_force(&mut self, off: &IrqOff) {
        let (addresses, dr7) = self.in_force();
        if dr7 & Dr7::ENABLES.0 == 0 {
            return;
        }
        debug_registers::load(off, addresses);
        self.loaded = true;
    }

    /// After exits: the guest's breakpoints are not in force any more.
    #[inline]
    pub fn unload(&mut self, off: &IrqOff) {
        if self.loaded {
            self.loaded = false;
            debug_registers::clear(off);
        }
    }
}

/// The exception that is all an instruction does: INT3, INTO, INT n.
fn raises(insn: &Insn) -> Option<Vector> {
    const INT3: u8 = 0xcc;
    const INT: u8 = 0xcd;
    const INTO: u8 = 0xce;
    if insn.map != Map::Primary {
        return None;
    }
    match insn.opcode {
        INT3 => Some(Vector::Breakpoint),
        INTO => Some(Vector::Overflow),
        INT => Vector::from_number(insn.imm as u8),
        _ => None,
    }
}

impl<V: Vendor> Vcpu<V> {
    /// KVM_SET_GUEST_DEBUG.
    ///
    /// # Errors
    ///
    /// `EBUSY` when an exception is to be injected and one waits already;
    /// `EINVAL` for control bits that are not known.
    pub fn set_guest_debug(&mut self, debug: &kvm_guest_debug) -> Result {
        const KNOWN: u32 = uapi::KVM_GUESTDBG_ENABLE
            | uapi::KVM_GUESTDBG_SINGLESTEP
            | uapi::KVM_GUESTDBG_USE_HW_BP
            | uapi::KVM_GUESTDBG_USE_SW_BP
            | uapi::KVM_GUESTDBG_INJECT_BP
            | uapi::KVM_GUESTDBG_INJECT_DB;
        if debug.control & !KNOWN != 0 {
            return Err(EINVAL);
        }
        let inject = debug.control & (uapi::KVM_GUESTDBG_INJECT_BP | uapi::KVM_GUESTDBG_INJECT_DB);
        if inject != 0 {
            if self.events.exception.is_some() {
                return Err(EBUSY);
            }
            self.events
                .raise(if inject & uapi::KVM_GUESTDBG_INJECT_DB != 0 {
                    Exception::debug(0)
                } else {
                    Exception::plain(Vector::Breakpoint)
                });
        }
        let flags = self.debug.hide_flags(self.regs.rflags);
        self.debug.control = if debug.control & uapi::KVM_GUESTDBG_ENABLE != 0 {
            debug.control
        } else {
            0
        };
        let [a, b, c, d, .., dr7] = debug.arch.debugreg;
        self.debug.user_addresses = [a, b, c, d];
        self.debug.user_dr7 = (dr7 & !Dr7::GD.0) | Dr7::RESET.0;
        self.regs.rflags = self.debug.show_flags(flags);
        let (_, in_force) = self.debug.in_force();
        self.hw.set_dr7(in_force);
        let breakpoints = u32::from(self.debug.user_has(uapi::KVM_GUESTDBG_USE_SW_BP));
        self.hw
            .set_exception_intercepts(breakpoints << Vector::Breakpoint.number());
        Ok(())
    }

    /// After an instruction that was completed in software: the trap the processor
    /// would have taken if TF was set.
    #[inline(never)]
    pub fn after_step(&mut self) -> Handled {
        if !self.regs.rflags.has(Rflags::TF) {
            return Ok(Step::Resume);
        }
        self.trap_step()
    }

    #[cold]
    fn trap_step(&mut self) -> Handled {
        if self.debug.user_steps() {
            return Ok(self.exit_debug(Vector::Debug, Dr6::BS.0));
        }
        self.raise(Exception::debug(Dr6::BS.0))
    }

    /// An intercepted #DB. The guest's DR6 is told of the cause when it gets one.
    pub fn debug_exception(&mut self) -> Handled {
        let cause = self.hw.debug_cause();
        let users = self.debug.user_steps() || self.debug.user_has(uapi::KVM_GUESTDBG_USE_HW_BP);
        if users {
            return Ok(self.exit_debug(Vector::Debug, cause));
        }
        if cause & Dr6::BD.0 != 0 {
            // As its handler finds it (APM vol. 2, 13.1.1.3).
            self.debug
                .set_dr7(self.debug.dr7 & !Dr7::GD.0, &mut self.hw);
        }
        self.raise(Exception::debug(cause))
    }

    /// A #BP or #OF of userspace waits: looks for the instruction at RIP that
    /// raises it, which is what the handler returns behind. Where the guest has
    /// another one by now, there is none.
    #[cold]
    pub fn find_trap(&mut self) {
        let insn = self.instruction(Context::Sleepable);
        let vector = self.events.exception.as_ref().map(|e| e.vector);
        self.events.trap = insn
            .ok()
            .filter(|insn| raises(insn) == vector)
            .map(|insn| TrapInsn {
                rip: self.regs.rip,
                length: insn.length,
            });
    }

    /// An intercepted #BP: the VMM's.
    pub fn breakpoint(&mut self) -> Step {
        self.exit_debug(Vector::Breakpoint, 0)
    }

    /// KVM_EXIT_DEBUG.
    pub fn exit_debug(&mut self, vector: Vector, cause: u64) -> Step {
        let base = self.hw.segment_base(SegReg::Cs);
        self.run.set_exit(
            uapi::KVM_EXIT_DEBUG,
            kvm_debug_exit_arch {
                exception: u32::from(vector.number()),
                pad: 0,
                pc: base.wrapping_add(self.regs.rip),
                dr6: cause | Dr6::RESET.0,
                dr7: self.debug.in_force().1,
            },
        );
        Step::User
    }

    /// Reads debug register `number`; 4 and 5 are other names of 6 and 7.
    pub fn read_debug_register(&self, number: u8) -> u64 {
        match number & 7 {
            4 | 6 => self.regs.dr6.0,
            5 | 7 => self.debug.dr7,
            index => self
                .debug
                .addresses
                .get(usize::from(index))
                .copied()
                .unwrap_or(0),
        }
    }

    /// Writes debug register `number`. `None`: #GP(0).
    pub fn write_debug_register(&mut self, number: u8, value: u64) -> Option<()> {
        match number & 7 {
            4 | 6 if value >> 32 != 0 => return None,
            5 | 7 if value >> 32 != 0 => return None,
            4 | 6 => self.regs.dr6 = (Dr6(value) & Dr6::CAUSES) | Dr6::RESET,
            5 | 7 => self.debug.set_dr7(value | Dr7::RESET.0, &mut self.hw),
            index => *self.debug.addresses.get_mut(usize::from(index))? = value,
        }
        Some(())
    }

    /// Whether the access to a debug register traps instead (DR7.GD).
    pub fn debug_access_traps(&mut self) -> Option<Handled> {
        if self.debug.dr7 & Dr7::GD.0 == 0 {
            return None;
        }
        self.debug
            .set_dr7(self.debug.dr7 & !Dr7::GD.0, &mut self.hw);
        Some(self.raise(Exception::debug(Dr6::BD.0)))
    }
}
