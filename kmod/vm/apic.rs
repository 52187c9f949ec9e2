// SPDX-License-Identifier: GPL-2.0

//! The guest's accesses to its local APIC.

use super::run::Step;
use super::vcpu::Vcpu;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::addr::PAGE_SIZE;
use crate::pc::lapic;
use crate::pc::lapic::Effect;
use crate::pc::lapic::EoiAction;
use crate::pc::lapic::GpFault;
use crate::pc::lapic::Mode;
use crate::uapi;

impl<V: Vendor> Vcpu<V> {
    /// RDMSR of 0x800 to 0x8ff.
    #[inline]
    pub fn x2apic_read(&mut self, msr: u32) -> Result<u64, GpFault> {
        let lapic = self.lapic.as_mut().ok_or(GpFault)?;
        lapic.x2apic_read(msr, &self.time)
    }

    /// WRMSR of 0x800 to 0x8ff.
    #[inline]
    pub fn x2apic_write(&mut self, msr: u32, value: u64) -> Result<Step, GpFault> {
        let lapic = self.lapic.as_mut().ok_or(GpFault)?;
        let context = lapic::Context {
            post: &self.shared.apic,
            clock: &self.time,
        };
        let effect = lapic.x2apic_write(msr, value, &context)?;
        Ok(self.apply_apic_effect(effect))
    }

    /// Offset in the page of the local APIC, if that is where `gpa` is.
    #[inline]
    pub fn apic_offset(&self, gpa: Gpa) -> Option<u32> {
        let lapic = self.lapic.as_ref()?;
        let offset = gpa.0.wrapping_sub(lapic.page_address());
        (offset < PAGE_SIZE && lapic.mode() == Mode::XApic).then_some(offset as u32)
    }

    /// Reads the page of the local APIC.
    pub fn apic_page_read(&mut self, offset: u32, size: u8) -> u32 {
        match self.lapic.as_mut() {
            Some(lapic) => lapic.mmio_read(offset, size, &self.time),
            None => 0,
        }
    }

    /// Writes the page of the local APIC.
    pub fn apic_page_write(&mut self, offset: u32, size: u8, value: u32) -> Step {
        let Some(lapic) = self.lapic.as_mut() else {
            return Step::Resume;
        };
        let context = lapic::Context {
            post: &self.shared.apic,
            clock: &self.time,
        };
        let effect = lapic.mmio_write(offset, size, value, &context);
        self.hw.set_cr8(lapic.cr8());
        self.apply_apic_effect(effect)
    }

    /// Does what a register write asks for.
    #[inline]
    pub fn apply_apic_effect(&mut self, effect: Effect) -> Step {
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
        if self.vm.chip.is_split() {
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
