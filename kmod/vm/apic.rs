// SPDX-License-Identifier: GPL-2.0

//! The guest's accesses to its local APIC.

use super::step::Step;
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

/// Bytes of a register.
const REGISTER_SIZE: u8 = 4;

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

    /// The local APIC has another base or mode, or is new: whether accesses to its
    /// page are virtualized from now on. May sleep.
    #[cold]
    pub fn settle_apic_page(&mut self) {
        let memory = &self.vm.memory;
        let (Some(lapic), Some(_)) = (self.lapic.as_mut(), memory.apic_page()) else {
            return;
        };
        let bare = !lapic.is_at_default_page();
        if bare && !self.bare_apic {
            memory.without_apic_page();
        }
        self.hw.virtualize_apic_page(!bare);
        // Accesses that are to be reported have to exit.
        lapic.set_in_page(!bare && !self.vapic.reports());
        if !bare && self.bare_apic {
            memory.with_apic_page();
        }
        self.bare_apic = bare;
        if !bare {
            memory.map_apic_page(&mut self.mmu);
        }
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
    /// keeps, which did not act on it. In x2APIC mode it has looked at reserved
    /// bits. In xAPIC mode it does not tell how much was written: what begins
    /// with the register's first byte counts as a write of all of it.
    #[inline(never)]
    pub fn written_by_processor(&mut self, offset: u16, value: u32) -> Step {
        match self.lapic.as_mut() {
            Some(lapic) if lapic.mode() == Mode::XApic => lapic.page_was_written(),
            _ => {
                let register = (offset >> 4) as u8;
                let msr = regs::x2apic_msr(register);
                let written = self.x2apic_write(msr, u64::from(value));
                return written.unwrap_or(Step::Resume);
            }
        }
        self.apic_page_write(u32::from(offset), REGISTER_SIZE, value)
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
            self.user_eoi = Some(action.vector);
            return Step::Leave;
        }
        self.vm.ioapic_eoi(action.vector);
        Step::Resume
    }

    /// Tells userspace's I/O APIC of the end of `vector`.
    #[cold]
    pub fn exit_ioapic_eoi(&mut self, vector: u8) {
        self.run
            .set_exit(uapi::KVM_EXIT_IOAPIC_EOI, uapi::kvm_run_eoi { vector });
    }
}
