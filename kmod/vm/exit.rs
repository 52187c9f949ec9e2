// SPDX-License-Identifier: GPL-2.0

//! The one match over exits, and the answers that need no file of their own.

use super::step::Context;
use super::step::Handled;
use super::step::Step;
use super::vcpu::MpState;
use super::vcpu::Vcpu;
use super::vcpu::NO_CPU;
use crate::host::cpu;
use crate::host::machine_check;
use crate::host::split_lock;
use crate::hw::Exit;
use crate::hw::Frequent;
use crate::hw::IoExit;
use crate::hw::Vendor;
use crate::pc::control;
use crate::pc::regs::Cr0;
use crate::pc::regs::Exception;
use crate::pc::regs::Reg;
use crate::pc::regs::Rflags;
use crate::pc::regs::Vector;
use crate::uapi;

impl<V: Vendor> Vcpu<V> {
    /// Answers an exit for which the inner loop came to [`Step::Sleep`], where
    /// sleeping is allowed.
    ///
    /// # Errors
    ///
    /// The error that KVM_RUN returns.
    pub fn handle(&mut self, exit: Exit) -> Handled {
        match exit {
            Exit::NestedFault(fault) => self.nested_fault(fault),
            other => self.handle_in(other, Context::Sleepable),
        }
    }

    /// Answers the exit that the vendor has to tell, with interrupts off.
    ///
    /// Each kind is settled where it is handled, so that what a frequent one
    /// comes to is known there, and goes through no memory.
    #[inline(always)]
    pub fn answer_exit(&mut self) -> Step {
        let context = Context::Atomic;
        match self.hw.frequent_exit() {
            Some(Frequent::Cpuid) => {
                let handled = self.cpuid(context);
                self.settle_atomic(handled, Exit::Cpuid)
            }
            Some(Frequent::Hypercall) => {
                let handled = self.hypercall(context);
                self.settle_atomic(handled, Exit::Hypercall)
            }
            Some(Frequent::ReadMsr) => {
                let handled = self.read_msr(context);
                self.settle_atomic(handled, Exit::ReadMsr)
            }
            Some(Frequent::WriteMsr) => {
                let handled = self.write_msr(context);
                self.settle_atomic(handled, Exit::WriteMsr)
            }
            Some(Frequent::NestedFault) => self.answer_nested_fault(self.hw.nested_fault()),
            Some(Frequent::Io) => self.answer_port_io(self.hw.io()),
            None => self.answer_other(),
        }
    }

    #[inline(always)]
    fn answer_port_io(&mut self, io: IoExit) -> Step {
        let handled = self.port_io(io, Context::Atomic);
        self.settle_atomic(handled, Exit::Io(io))
    }

    #[inline(never)]
    fn answer_other(&mut self) -> Step {
        let exit = self.hw.exit(&mut self.regs);
        if let Exit::NestedFault(fault) = exit {
            return self.answer_nested_fault(fault);
        }
        let handled = self.handle_in(exit, Context::Atomic);
        self.rcu_waits |= matches!(exit, Exit::HostInterrupt);
        self.settle_atomic(handled, exit)
    }

    /// What the vCPU does after a handler in the inner loop.
    #[inline(always)]
    pub(super) fn settle_atomic(&mut self, handled: Handled, exit: Exit) -> Step {
        match self.settle(handled, Context::Atomic) {
            Ok(Step::Resume) => self.go_on(),
            // The handler says an error again where that can be told.
            Ok(Step::Sleep) | Err(_) => self.sleep_on(exit),
            Ok(step) => step,
        }
    }

    /// Enters the guest again. But an event that was cut off goes before an
    /// interrupt of the host, which a guest that cuts it off again and again
    /// would keep out.
    #[inline(always)]
    pub(super) fn go_on(&self) -> Step {
        match self.events.injected {
            Some(_) => Step::Leave,
            None => Step::Resume,
        }
    }

    /// The exit is to be handled where sleeping is allowed.
    #[inline]
    pub(super) fn sleep_on(&mut self, exit: Exit) -> Step {
        self.unanswered = exit;
        Step::Sleep
    }

    /// Answers an exit in either context; nested page faults differ too much.
    fn handle_in(&mut self, exit: Exit, context: Context) -> Handled {
        match exit {
            Exit::Cpuid => self.cpuid(context),
            Exit::ReadMsr => self.read_msr(context),
            Exit::WriteMsr => self.write_msr(context),
            Exit::Hypercall => self.hypercall(context),
            Exit::Io(io) => self.port_io(io, context),
            // Matched before.
            Exit::NestedFault(_) => Ok(Step::Resume),
            Exit::HostInterrupt | Exit::HostNmi => Ok(Step::Leave),
            Exit::InterruptWindow => self.interrupt_window(),
            Exit::Deadline => {
                self.timer_expired();
                Ok(Step::Resume)
            }
            Exit::Hlt => self.halt(context),
            Exit::NmiWindow => Ok(Step::Resume),
            Exit::ControlRegister(access) => self.control_register(access, context),
            Exit::DebugRegister(access) => self.debug_register(access, context),
            Exit::SetXcr => self.set_xcr(context),
            Exit::Exception { vector, error_code } => self.exception(vector, error_code, context),
            Exit::CacheFlush | Exit::MonitorWait => self.skip(context),
            Exit::Pause => self.pause(context),
            Exit::Undefined => self.raise(Exception::UD),
            Exit::ReadPmc => self.raise(Exception::GP0),
            Exit::Shutdown => {
                self.events.triple_fault = true;
                Ok(Step::Leave)
            }
            Exit::Eoi { vector } if V::KEEPS_APIC => Ok(self.completed_by_processor(vector)),
            Exit::ApicWrite { offset, value } if V::KEEPS_APIC => {
                Ok(self.written_by_processor(offset, value))
            }
            Exit::Eoi { .. } | Exit::ApicWrite { .. } => Ok(self.unexpected(0)),
            Exit::TaskSwitch => Ok(self.internal_error(uapi::KVM_INTERNAL_ERROR_EMULATION)),
            Exit::EntryFailed { reason } => Ok(self.entry_failed(reason)),
            Exit::Unexpected { code } => Ok(self.unexpected(code)),
        }
    }

    /// Raises an exception in the guest.
    pub fn raise(&mut self, exception: Exception) -> Handled {
        self.events.raise(exception);
        Ok(if self.events.triple_fault {
            Step::Leave
        } else {
            Step::Resume
        })
    }

    /// The guest waits for another vCPU, which perhaps has no CPU: it is given
    /// this one.
    fn pause(&mut self, context: Context) -> Handled {
        if context == Context::Atomic {
            return Ok(Step::Sleep);
        }
        self.vm.vcpus.yield_to_another(self.shared.index);
        self.skip(context)
    }

    /// Goes on after the exiting instruction, which did nothing.
    fn skip(&mut self, context: Context) -> Handled {
        let length = self.instruction_length(context)?;
        self.advance(length)
    }

    /// The exiting instruction is complete: RIP, the interrupt shadow and RF
    /// are as after it, and a single step of the guest traps.
    #[inline(always)]
    pub fn advance(&mut self, length: u8) -> Handled {
        let next = self.regs.rip.wrapping_add(u64::from(length));
        self.complete_instruction(next)
    }

    /// As [`Vcpu::advance`], with the address of the next instruction.
    #[inline(always)]
    pub fn complete_instruction(&mut self, next: u64) -> Handled {
        match self.go_behind(next) {
            true => self.after_step(),
            false => Ok(Step::Resume),
        }
    }

    /// RIP, the interrupt shadow and RF are as after the instruction. Whether there
    /// is more to do, by [`Vcpu::after_step`].
    #[inline(always)]
    pub fn go_behind(&mut self, next: u64) -> bool {
        // Only 64-bit code goes on beyond 4 GiB.
        let crosses = (next ^ self.regs.rip) >> 32 != 0;
        self.regs.rip = if crosses && !self.is_64bit() {
            next & 0xffff_ffff
        } else {
            next
        };
        self.hw.set_interrupt_shadow(false);
        let flags = self.regs.rflags;
        if !flags.any(Rflags::RF | Rflags::TF) {
            return false;
        }
        self.regs.rflags = flags.without(Rflags::RF);
        flags.has(Rflags::TF)
    }

    #[inline(always)]
    fn cpuid(&mut self, context: Context) -> Handled {
        let length = self.instruction_length(context)?;
        if self.model.msrs.cpuid_faults() && self.hw.cpl() != 0 {
            return self.raise(Exception::GP0);
        }
        let leaf = self.regs.gprs.get32(Reg::Rax);
        let subleaf = self.regs.gprs.get32(Reg::Rcx);
        let answer = self.model.cpuid(leaf, subleaf);
        self.regs.gprs.set32(Reg::Rax, answer.eax);
        self.regs.gprs.set32(Reg::Rbx, answer.ebx);
        self.regs.gprs.set32(Reg::Rcx, answer.ecx);
        self.regs.gprs.set32(Reg::Rdx, answer.edx);
        self.advance(length)
    }

    fn interrupt_window(&mut self) -> Handled {
        self.hw.request_interrupt_window(false);
        Ok(if self.has_kernel_pic() {
            Step::Resume
        } else {
            Step::Leave
        })
    }

    fn halt(&mut self, context: Context) -> Handled {
        let length = self.instruction_length(context)?;
        let step = self.advance(length)?;
        if self.lapic.is_none() {
            if self.events.external.is_some() && self.can_wake() {
                return Ok(step);
            }
            self.run.set_reason(uapi::KVM_EXIT_HLT);
            return Ok(Step::User);
        }
        self.mp_state = MpState::Halted;
        Ok(step.at_least_leave())
    }

    /// An intercepted exception: the host's, the VMM's, or the guest's own.
    ///
    /// Always leaves the inner loop. Delivering an exception can raise the next
    /// one before an instruction of the guest has run, and again without end
    /// (#AC or #DB on the handler's stack); no interrupt of the host would get
    /// through in between.
    fn exception(&mut self, vector: u8, error_code: Option<u32>, context: Context) -> Handled {
        let step = self.intercepted_exception(vector, error_code, context)?;
        Ok(step.at_least_leave())
    }

    fn intercepted_exception(
        &mut self,
        vector: u8,
        error_code: Option<u32>,
        context: Context,
    ) -> Handled {
        match Vector::from_number(vector) {
            Some(Vector::Debug) => self.debug_exception(),
            Some(Vector::Breakpoint) => Ok(self.breakpoint()),
            Some(Vector::InvalidOpcode) => self.invalid_opcode(context),
            // The exit is all that the host has got of it.
            Some(Vector::MachineCheck) => {
                machine_check::handle();
                Ok(Step::Leave)
            }
            Some(Vector::Alignment) if split_lock::is_detected() && !self.checks_alignment() => {
                self.split_lock(error_code, context)
            }
            Some(vector) => {
                self.events.delivery_faulted(&mut self.hw);
                self.raise(Exception {
                    vector,
                    error_code,
                    payload: 0,
                })
            }
            None => Ok(self.unexpected(u64::from(vector))),
        }
    }

    /// Whether #AC can be the guest's own.
    fn checks_alignment(&self) -> bool {
        control::checks_alignment(Cr0(self.hw.cr0()), self.regs.rflags, self.hw.cpl())
    }

    /// #AC that the guest has not asked for: a locked access that the host does
    /// not like.
    #[cold]
    fn split_lock(&mut self, error_code: Option<u32>, context: Context) -> Handled {
        if context == Context::Atomic {
            return Ok(Step::Sleep);
        }
        if split_lock::handle(self.regs.rip) {
            return Ok(Step::Resume);
        }
        self.run.set_exit(
            uapi::KVM_EXIT_EXCEPTION,
            uapi::kvm_run_ex {
                exception: u32::from(Vector::Alignment.number()),
                error_code: error_code.unwrap_or(0),
            },
        );
        Ok(Step::User)
    }

    /// KVM_EXIT_INTERNAL_ERROR without particulars.
    pub fn internal_error(&mut self, suberror: u32) -> Step {
        self.run.set_exit(
            uapi::KVM_EXIT_INTERNAL_ERROR,
            uapi::kvm_run_internal {
                suberror,
                ndata: 0,
                data: [0; 16],
            },
        );
        Step::User
    }

    fn entry_failed(&mut self, reason: u64) -> Step {
        if self.vm.settings.first_refusal() {
            self.hw.dump();
        }
        self.run.set_exit(
            uapi::KVM_EXIT_FAIL_ENTRY,
            uapi::kvm_run_fail_entry {
                hardware_entry_failure_reason: reason,
                cpu: match self.last_cpu {
                    NO_CPU => cpu::raw_current_cpu(),
                    cpu => cpu,
                },
                pad: 0,
            },
        );
        Step::User
    }

    fn unexpected(&mut self, code: u64) -> Step {
        let mut data = [0; 16];
        data[0] = code;
        data[1] = u64::from(self.last_cpu);
        self.run.set_exit(
            uapi::KVM_EXIT_INTERNAL_ERROR,
            uapi::kvm_run_internal {
                suberror: uapi::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
                ndata: 2,
                data,
            },
        );
        Step::User
    }
}
