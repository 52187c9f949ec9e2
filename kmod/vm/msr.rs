// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR, and the same of userspace. What each MSR is stands in
//! `pc::msr`; here it is given the vCPU.

use super::model;
use super::pending::Pending;
use super::step::Context;
use super::step::Handled;
use super::step::Step;
use super::timer::GuestTime;
use super::timer::VcpuTimer;
use super::vcpu::Vcpu;
use super::vcpu::VcpuShared;
use super::Vm;
use crate::host::cpu;
use crate::host::log::info_ratelimited;
use crate::host::params;
use crate::hw::Vendor;
use crate::pc::control::Controls;
use crate::pc::lapic;
use crate::pc::lapic::Clock;
use crate::pc::lapic::Initiator;
use crate::pc::lapic::Lapic;
use crate::pc::msr::filter::Direction;
use crate::pc::msr::index;
use crate::pc::msr::index::TSC_AUX;
use crate::pc::msr::mce;
use crate::pc::msr::Effect;
use crate::pc::msr::Hardware;
use crate::pc::msr::MsrContext;
use crate::pc::msr::MsrError;
use crate::pc::msr::Origin;
use crate::pc::regs::Cr4;
use crate::pc::regs::Efer;
use crate::pc::regs::Exception;
use crate::pc::regs::Reg;
use crate::pc::regs::Vector;
use crate::uapi;
use crate::uapi::kvm_x86_mce;
use kernel::prelude::*;

/// What KVM_X86_GET_MCE_CAP_SUPPORTED says.
pub const MCE_CAPABILITIES: u64 = mce::SUPPORTED_CAP | model::MCE_BANKS as u64;

/// The vCPU as MSRs reach it.
struct Machine<'a, V: Vendor> {
    vm: &'a Vm<V>,
    shared: &'a VcpuShared,
    hw: &'a mut V,
    lapic: Option<&'a mut Lapic>,
    user_apic_base: &'a mut u64,
    time: &'a mut GuestTime,
    timer: &'a mut VcpuTimer,
    /// What a write to the local APIC asks for beyond it.
    effect: lapic::Effect,
}

impl<V: Vendor> MsrContext for Machine<'_, V> {
    fn hardware(&mut self, msr: Hardware) -> u64 {
        self.hw.msr(msr)
    }

    fn set_hardware(&mut self, msr: Hardware, value: u64) {
        self.hw.set_msr(msr, value);
    }

    fn controls(&mut self) -> Controls {
        super::control::controls(self.hw)
    }

    fn set_efer(&mut self, value: Efer) {
        self.hw.set_efer(value.0);
        self.hw.flush_tlb();
    }

    fn apic_base(&mut self) -> u64 {
        match &self.lapic {
            Some(lapic) => lapic.apic_base(),
            None => *self.user_apic_base,
        }
    }

    fn set_apic_base(&mut self, value: u64, origin: Origin) -> Result<(), MsrError> {
        let initiator = match origin {
            Origin::Guest => Initiator::Guest,
            Origin::Host => Initiator::Userspace,
        };
        super::control::write_apic_base(
            self.hw,
            self.lapic.as_deref_mut(),
            self.user_apic_base,
            self.shared,
            value,
            initiator,
        )
        .map_err(|_| MsrError::Invalid)
    }

    fn x2apic(&mut self, index: u32) -> Result<u64, MsrError> {
        let lapic = self.lapic.as_mut().ok_or(MsrError::Invalid)?;
        lapic
            .x2apic_read(index, self.time)
            .map_err(|_| MsrError::Invalid)
    }

    fn set_x2apic(&mut self, index: u32, value: u64) -> Result<(), MsrError> {
        let lapic = self.lapic.as_mut().ok_or(MsrError::Invalid)?;
        let context = lapic::Context {
            post: &self.shared.apic,
            clock: &*self.time,
        };
        self.effect = lapic
            .x2apic_write(index, value, &context)
            .map_err(|_| MsrError::Invalid)?;
        self.hw.set_cr8(lapic.cr8());
        Ok(())
    }

    fn tsc_deadline(&mut self) -> u64 {
        self.lapic.as_ref().map_or(0, |lapic| lapic.tsc_deadline())
    }

    fn set_tsc_deadline(&mut self, value: u64) {
        if let Some(lapic) = self.lapic.as_mut() {
            let command = lapic.set_tsc_deadline(value, self.time);
            self.timer.apply(self.hw, self.time, command);
        }
    }

    fn tsc(&mut self) -> u64 {
        self.time.guest_tsc()
    }

    fn shift_tsc(&mut self, ticks: u64) {
        self.time.tsc_offset = self.time.tsc_offset.wrapping_add(ticks);
        self.hw.set_tsc_offset(self.time.tsc_offset);
    }

    fn synchronize_tsc(&mut self, value: u64) {
        self.time.tsc_offset = self.vm.clock.offset_for_written_tsc(value, &self.time.rate);
        self.hw.set_tsc_offset(self.time.tsc_offset);
    }

    fn wall_clock(&mut self) -> u64 {
        self.vm.clock.wall_clock_address()
    }

    fn ignores_unknown(&self, index: u32) -> bool {
        let ignored = params::ignore_msrs();
        if ignored && params::report_ignored_msrs() {
            info_ratelimited!("ignored an access to MSR {index:#x}, which does not exist\n");
        }
        ignored
    }
}

impl<V: Vendor> Vcpu<V> {
    /// Calls `act` with the MSR file and what it reaches. Inlined: what a read
    /// does not use of it costs nothing.
    #[inline(always)]
    fn with_msrs<T>(
        &mut self,
        act: impl FnOnce(&mut model::Model, &mut Machine<'_, V>) -> T,
    ) -> (T, lapic::Effect) {
        let mut machine = Machine {
            vm: &self.vm,
            shared: &self.shared,
            hw: &mut self.hw,
            lapic: self.lapic.as_mut(),
            user_apic_base: &mut self.user_apic_base,
            time: &mut self.time,
            timer: &mut self.timer,
            effect: lapic::Effect::None,
        };
        let result = act(&mut self.model, &mut machine);
        (result, machine.effect)
    }

    /// Reads an MSR.
    ///
    /// # Errors
    ///
    /// [`MsrError`].
    pub fn read_msr_value(&mut self, index: u32, origin: Origin) -> Result<u64, MsrError> {
        let (result, _) = self.with_msrs(|model, machine| {
            let (caps, msrs) = model.caps_and_msrs();
            msrs.read(index, origin, caps, machine)
        });
        result
    }

    /// Writes an MSR; gives what else the vCPU does.
    ///
    /// # Errors
    ///
    /// [`MsrError`].
    pub fn write_msr_value(
        &mut self,
        index: u32,
        value: u64,
        origin: Origin,
    ) -> Result<Step, MsrError> {
        let (result, effect) = self.with_msrs(|model, machine| {
            let (caps, msrs) = model.caps_and_msrs();
            msrs.write(index, value, origin, caps, machine)
        });
        let effect_step = self.apply_msr_effect(result?);
        let step = if index == TSC_AUX {
            // Loaded on the way into the inner loop.
            effect_step.at_least_leave()
        } else {
            effect_step
        };
        let from_apic = self.apply_apic_effect(effect);
        Ok(if from_apic == Step::Resume {
            step
        } else {
            from_apic
        })
    }

    fn apply_msr_effect(&mut self, effect: Effect) -> Step {
        match effect {
            Effect::None | Effect::MemoryTypes => {}
            Effect::CpuidChanged => {
                self.mirror_state_in_cpuid();
                // Perhaps the local APIC's page is elsewhere.
                return Step::Leave;
            }
            Effect::PredictionCommand(command) => cpu::prediction_command(command),
            Effect::FlushL1d => cpu::flush_l1d(),
            Effect::TscMoved
            | Effect::SystemTime { .. }
            | Effect::WallClock { .. }
            | Effect::StealTime(_)
            | Effect::PvEoi(_) => {
                self.clock_changed(effect);
                return Step::Leave;
            }
        }
        Step::Resume
    }

    /// RDMSR.
    #[inline(always)]
    pub fn read_msr(&mut self, context: Context) -> Handled {
        let length = self.instruction_length(context)?;
        let index = self.regs.gprs.get32(Reg::Rcx);
        if self.vm.allows_msr(index, Direction::Read) {
            if let Some(value) = self.model.plain_msr(index) {
                self.regs.gprs.set_edx_eax(value);
                return self.advance(length);
            }
        }
        self.read_other_msr(index, length)
    }

    /// RDMSR of what takes more than a look at the MSR file.
    #[inline(never)]
    fn read_other_msr(&mut self, index: u32, length: u8) -> Handled {
        if !self.vm.allows_msr(index, Direction::Read) {
            return self.msr_refused(index, None, uapi::KVM_MSR_EXIT_REASON_FILTER, length);
        }
        match self.read_msr_value(index, Origin::Guest) {
            Ok(value) => {
                self.regs.gprs.set_edx_eax(value);
                self.advance(length)
            }
            Err(error) => self.msr_refused(index, None, reason(error), length),
        }
    }

    /// WRMSR.
    #[inline]
    pub fn write_msr(&mut self, context: Context) -> Handled {
        let length = self.instruction_length(context)?;
        let index = self.regs.gprs.get32(Reg::Rcx);
        let value = self.regs.gprs.edx_eax();
        if (index::X2APIC_FIRST..=index::X2APIC_LAST).contains(&index) {
            return match self.x2apic_write(index, value) {
                Ok(step) => self.advance_then(length, step),
                Err(_) => {
                    self.msr_refused(index, Some(value), uapi::KVM_MSR_EXIT_REASON_INVAL, length)
                }
            };
        }
        if !self.vm.allows_msr(index, Direction::Write) {
            return self.msr_refused(index, Some(value), uapi::KVM_MSR_EXIT_REASON_FILTER, length);
        }
        match self.write_msr_value(index, value, Origin::Guest) {
            Ok(step) => self.advance_then(length, step),
            Err(error) => self.msr_refused(index, Some(value), reason(error), length),
        }
    }

    /// Goes on after the instruction, which also asked for `step`.
    #[inline(always)]
    pub fn advance_then(&mut self, length: u8, step: Step) -> Handled {
        Ok(self.advance(length)?.or(step))
    }

    /// An access that is not to be: #GP, or userspace decides if it asked to.
    #[cold]
    fn msr_refused(
        &mut self,
        index: u32,
        written: Option<u64>,
        reason: u32,
        length: u8,
    ) -> Handled {
        if self.vm.settings.user_msr() & reason == 0 {
            return self.raise(Exception::GP0);
        }
        let exit = match written {
            None => uapi::KVM_EXIT_X86_RDMSR,
            Some(_) => uapi::KVM_EXIT_X86_WRMSR,
        };
        self.run.set_exit(
            exit,
            uapi::kvm_run_msr {
                error: 0,
                pad: [0; 7],
                reason,
                index,
                data: written.unwrap_or(0),
            },
        );
        self.pending = Pending::Msr {
            read: written.is_none(),
            length,
            rip: self.regs.rip,
        };
        Ok(Step::User)
    }

    /// Completes an access that userspace has decided on.
    pub fn complete_msr(&mut self, read: bool, length: u8, rip: u64) -> Handled {
        if self.regs.rip != rip {
            return Ok(Step::Resume);
        }
        let answer: uapi::kvm_run_msr = self.run.exit();
        if answer.error != 0 {
            return self.raise(Exception::GP0);
        }
        if read {
            self.regs.gprs.set_edx_eax(answer.data);
        }
        self.advance(length)
    }

    /// KVM_X86_SET_MCE.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a bank there is not, or a status that is not valid.
    pub fn set_mce(&mut self, error: &kvm_x86_mce) -> Result {
        let enabled = Cr4(self.hw.cr4()).has(Cr4::MCE);
        let injected = self
            .model
            .msrs
            .inject_mce(error, enabled)
            .map_err(|errno| Error::from_errno(-errno))?;
        match injected {
            mce::Injected::Nothing => {}
            mce::Injected::Exception => {
                self.events.raise(Exception::plain(Vector::MachineCheck));
            }
            mce::Injected::Shutdown => self.events.triple_fault = true,
        }
        Ok(())
    }
}

const fn reason(error: MsrError) -> u32 {
    match error {
        MsrError::Unknown => uapi::KVM_MSR_EXIT_REASON_UNKNOWN,
        MsrError::Invalid => uapi::KVM_MSR_EXIT_REASON_INVAL,
    }
}
