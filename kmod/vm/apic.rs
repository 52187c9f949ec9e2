// SPDX-License-Identifier: GPL-2.0

//! The guest's accesses to its local APIC.

use super::run::Step;
use super::vcpu::Vcpu;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::addr::PAGE_SIZE;
use crate::pc::lapic;
use crate::pc::lapic::regs;
use crate::pc::lapic::regs::base;
use crate::pc::lapic::Effect;
use crate::pc::lapic::EoiAction;
use crate::pc::lapic::GpFault;
use crate::pc::lapic::Mode;
use crate::uapi;

/// A value of IA32_APIC_BASE for a local APIC that userspace models: what the
/// register can hold.
pub fn user_base(value: u64) -> Option<u64> {
    let reserved = value & base::RESERVED_LOW != 0;
    (!reserved && Mode::from_base(value).is_some()).then_some(value)
}

impl<V: Vendor> Vcpu<V> {
    /// WRMSR of 0x800 to 0x8ff.
    #[inline(always)]
    pub fn x2apic_write(&mut self, msr: u32, value: u64) -> Result<Step, GpFault> {
        let lapic = self.lapic.as_mut().ok_or(GpFault)?;
        let context = lapic::Context {
            post: &self.shared.apic,
            clock: &self.time,
        };
        let effect = lapic.x2apic_write(msr, value, &context)?;
        if msr == regs::x2apic_msr(regs::TPR) {
            self.hw.set_cr8(lapic.cr8());
        }
        Ok(self.apply_apic_effect(effect))
    }

    /// The guest has completed an interrupt at the local APIC that the processor
    /// keeps; ours knows.
    #[cold]
    pub fn completed_by_processor(&mut self, vector: u8) -> Step {
        match self.lapic.as_ref().map(|lapic| lapic.completed(vector)) {
            Some(action) => self.complete_interrupt(action),
            None => Step::Resume,
        }
    }

    /// The guest has written a register of the local APIC that the processor
    /// keeps, which did not act on it but has looked at reserved bits.
    #[cold]
    pub fn written_by_processor(&mut self, register: u8, value: u32) -> Step {
        self.x2apic_write(regs::x2apic_msr(register), u64::from(value))
            .unwrap_or(Step::Resume)
    }

    /// Offset in the page of the local APIC, if that is where `gpa` is. The page
    /// is there in every mode.
    #[inline]
    pub fn apic_offset(&self, gpa: Gpa) -> Option<u32> {
        let lapic = self.lapic.as_ref()?;
        let offset = gpa.0.wrapping_sub(lapic.page_address());
        (offset < PAGE_SIZE).then_some(offset as u32)
    }

    /// Reads the page of the local APIC: all ones but in xAPIC mode.
    #[inline(always)]
    pub fn apic_page_read(&mut self, offset: u32, size: u8) -> u64 {
        match self.lapic.as_mut() {
            Some(lapic) if lapic.mode() == Mode::XApic => {
                if self.vapic.reports() {
                    self.vapic.note_tpr_access(offset, self.regs.rip, false);
                }
                u64::from(lapic.mmio_read(offset, size, &self.time))
            }
            _ => u64::MAX,
        }
    }

    /// Writes the page of the local APIC.
    pub fn apic_page_write(&mut self, offset: u32, size: u8, value: u32) -> Step {
        let Some(lapic) = self.lapic.as_mut() else {
            return Step::Resume;
        };
        if lapic.mode() != Mode::XApic {
            return Step::Resume;
        }
        let context = lapic::Context {
            post: &self.shared.apic,
            clock: &self.time,
        };
        let effect = lapic.mmio_write(offset, size, value, &context);
        if offset >> 4 == u32::from(regs::TPR) {
            self.hw.set_cr8(lapic.cr8());
        }
        if self.vapic.reports() {
            self.vapic.note_tpr_access(offset, self.regs.rip, true);
        }
        let step = self.apply_apic_effect(effect);
        self.step_with_report(step)
    }

    /// Does what a register write asks for, which mostly is nothing.
    #[inline(always)]
    pub fn apply_apic_effect(&mut self, effect: Effect) -> Step {
        match effect {
            Effect::None | Effect::Lint0 => Step::Resume,
            effect => self.apply_effect(effect),
        }
    }

    #[inline(never)]
    fn apply_effect(&mut self, effect: Effect) -> Step {
        match effect {
            Effect::None | Effect::Lint0 => {}
            Effect::Eoi(action) => return self.complete_interrupt(action),
            Effect::Ipi(request) => self.vm.vcpus.send_ipi(&request, &self.shared),
            Effect::Timer(command) => self.apply_timer(command),
        }
        Step::Resume
    }

    /// An interrupt was completed: level-triggered ones are told to the I/O
    /// APIC, here or in userspace.
    pub fn complete_interrupt(&mut self, action: EoiAction) -> Step {
        if !self.vm.chip.wants_eoi(action) {
            return Step::Resume;
        }
        if self.split_irqchip {
            self.run.set_exit(
                uapi::KVM_EXIT_IOAPIC_EOI,
                uapi::kvm_run_eoi {
                    vector: action.vector,
                },
            );
            return Step::User;
        }
        self.vm.ioapic_eoi(action.vector);
        Step::Resume
    }
}
