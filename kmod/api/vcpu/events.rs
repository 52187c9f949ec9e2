// SPDX-License-Identifier: GPL-2.0

//! Events and run state in and out: KVM_{GET,SET}_{VCPU_EVENTS,MP_STATE},
//! KVM_INTERRUPT, KVM_NMI (KVM API document, 4.16, 4.31, 4.38, 4.64).

use crate::hw::Event;
use crate::hw::Vendor;
use crate::pc::regs::Dr6;
use crate::pc::regs::Exception;
use crate::pc::regs::Vector;
use crate::uapi;
use crate::uapi::kvm_interrupt;
use crate::uapi::kvm_mp_state;
use crate::uapi::kvm_vcpu_events;
use crate::vm::request::Request;
use crate::vm::vcpu::MpState;
use crate::vm::vcpu::Vcpu;
use kernel::prelude::*;

impl<V: Vendor> Vcpu<V> {
    /// KVM_GET_VCPU_EVENTS.
    pub fn get_vcpu_events(&mut self) -> Result<kvm_vcpu_events> {
        self.collect_posted();
        self.events.apply_payload(&mut self.hw, &mut self.regs);
        let mut out = kvm_vcpu_events::default();
        let queue = &self.events;
        let exception = match (queue.injected, &queue.exception) {
            (Some(Event::Exception(vector, code)), _) => Some((vector, code)),
            (_, Some(pending)) => Some((pending.vector.number(), pending.error_code)),
            _ => None,
        };
        if let Some((vector, code)) = exception {
            out.exception.injected = 1;
            out.exception.nr = vector;
            out.exception.has_error_code = u8::from(code.is_some());
            out.exception.error_code = code.unwrap_or(0);
        }
        if let Some(vector) = queue.interrupt_in_flight(self.lapic.is_some()) {
            out.interrupt.injected = 1;
            out.interrupt.nr = vector;
        }
        out.nmi.injected = u8::from(queue.injected == Some(Event::Nmi));
        if self.hw.interrupt_shadow() {
            out.interrupt.shadow = uapi::KVM_X86_SHADOW_INT_MOV_SS | uapi::KVM_X86_SHADOW_INT_STI;
        }
        out.nmi.pending = queue.nmis;
        out.nmi.masked = u8::from(self.hw.nmi_blocked(&self.regs));
        out.smi.latched_init = u8::from(self.init_pending);
        out.sipi_vector = u32::from(self.sipi_pending.unwrap_or(0));
        out.flags = uapi::KVM_VCPUEVENT_VALID_NMI_PENDING | uapi::KVM_VCPUEVENT_VALID_SHADOW;
        if self.vm.settings.triple_fault_event() {
            out.flags |= uapi::KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
            out.triple_fault.pending = u8::from(queue.triple_fault);
        }
        Ok(out)
    }

    /// KVM_SET_VCPU_EVENTS.
    ///
    /// # Errors
    ///
    /// `EINVAL` for flags that are not known or not enabled, and vectors that
    /// are no exceptions.
    pub fn set_vcpu_events(&mut self, events: &kvm_vcpu_events) -> Result {
        let mut known = uapi::KVM_VCPUEVENT_VALID_NMI_PENDING
            | uapi::KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | uapi::KVM_VCPUEVENT_VALID_SHADOW;
        if self.vm.settings.triple_fault_event() {
            known |= uapi::KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        }
        if events.flags & !known != 0 {
            return Err(EINVAL);
        }
        let exception = if events.exception.injected != 0 {
            let vector = Vector::from_number(events.exception.nr).ok_or(EINVAL)?;
            if vector == Vector::Nmi {
                return Err(EINVAL);
            }
            let code =
                (events.exception.has_error_code != 0).then_some(events.exception.error_code);
            Some((vector, code))
        } else {
            None
        };
        self.collect_posted();

        let queue = &mut self.events;
        queue.injected = None;
        // KVM_GET_VCPU_EVENTS has put into registers what comes with one.
        queue.exception = exception.map(|(vector, error_code)| Exception {
            vector,
            error_code,
            payload: match vector {
                Vector::PageFault => self.hw.cr2(),
                Vector::Debug => (self.regs.dr6 & Dr6::B).0,
                _ => 0,
            },
        });
        // That of INT n comes again with its instruction, where RIP is.
        let interrupt = events.interrupt.injected != 0 && events.interrupt.soft == 0;
        queue.set_interrupt_in_flight(
            interrupt.then_some(events.interrupt.nr),
            self.lapic.is_some(),
        );
        if events.nmi.injected != 0 {
            queue.injected = Some(Event::Nmi);
        }
        if events.flags & uapi::KVM_VCPUEVENT_VALID_SHADOW != 0 {
            self.hw.set_interrupt_shadow(events.interrupt.shadow != 0);
        }
        if events.flags & uapi::KVM_VCPUEVENT_VALID_NMI_PENDING != 0 {
            queue.nmis = events.nmi.pending.min(2);
        }
        self.hw.set_nmi_blocked(events.nmi.masked != 0);
        if events.flags & uapi::KVM_VCPUEVENT_VALID_SIPI_VECTOR != 0
            && self.mp_state == MpState::InitReceived
        {
            self.sipi_pending = u8::try_from(events.sipi_vector).ok().filter(|v| *v != 0);
        }
        if events.flags & uapi::KVM_VCPUEVENT_VALID_TRIPLE_FAULT != 0 {
            self.events.triple_fault = events.triple_fault.pending != 0;
        }
        Ok(())
    }

    /// KVM_GET_MP_STATE.
    pub fn get_mp_state(&mut self) -> Result<kvm_mp_state> {
        self.collect_posted();
        self.process_init_sipi();
        let unhalted = self.unhalted || self.shared.requests.has(Request::UNHALT);
        let mp_state = match self.mp_state {
            // KVM_HC_KICK_CPU has ended the HLT.
            MpState::Halted if unhalted => uapi::KVM_MP_STATE_RUNNABLE,
            MpState::Runnable => uapi::KVM_MP_STATE_RUNNABLE,
            MpState::Uninitialized => uapi::KVM_MP_STATE_UNINITIALIZED,
            MpState::InitReceived => uapi::KVM_MP_STATE_INIT_RECEIVED,
            MpState::Halted => uapi::KVM_MP_STATE_HALTED,
        };
        Ok(kvm_mp_state { mp_state })
    }

    /// KVM_SET_MP_STATE.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a state that this vCPU cannot be in.
    pub fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result {
        if self.lapic.is_none() && state.mp_state != uapi::KVM_MP_STATE_RUNNABLE {
            return Err(EINVAL);
        }
        self.mp_state = match state.mp_state {
            uapi::KVM_MP_STATE_RUNNABLE => MpState::Runnable,
            uapi::KVM_MP_STATE_UNINITIALIZED => MpState::Uninitialized,
            uapi::KVM_MP_STATE_HALTED => MpState::Halted,
            uapi::KVM_MP_STATE_INIT_RECEIVED => MpState::InitReceived,
            // INIT received, and the startup IPI is on its way.
            uapi::KVM_MP_STATE_SIPI_RECEIVED => {
                self.sipi_pending = Some(self.sipi_pending.unwrap_or(0));
                MpState::InitReceived
            }
            _ => return Err(EINVAL),
        };
        Ok(())
    }

    /// KVM_INTERRUPT.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a vector above 255, `ENXIO` with PICs in the module,
    /// `EEXIST` when one is queued already.
    pub fn interrupt(&mut self, interrupt: &kvm_interrupt) -> Result {
        let vector = u8::try_from(interrupt.irq).map_err(|_| EINVAL)?;
        if self.lapic.is_some() && !self.vm.chip.is_split() {
            return Err(ENXIO);
        }
        if self.events.external.is_some() {
            return Err(EEXIST);
        }
        self.events.external = Some(vector);
        Ok(())
    }

    /// KVM_NMI.
    pub fn nmi(&mut self) -> Result {
        let blocked = self.hw.nmi_blocked(&self.regs);
        self.events.raise_nmi(1, blocked);
        Ok(())
    }
}
