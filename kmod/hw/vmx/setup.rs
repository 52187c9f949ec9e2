// SPDX-License-Identifier: GPL-2.0

//! A new VMCS: controls, and the state after RESET.

use super::controls::Controls;
use super::controls::Pin;
use super::controls::Primary;
use super::controls::Secondary;
use super::field::control;
use super::field::guest;
use super::run_timer::RunTimer;
use super::state;
use super::write_log;
use super::Vmx;
use crate::host::cpu as host_cpu;
use crate::host::params;
use crate::host::task::IrqOff;
use crate::hw::reset_registers;
use crate::hw::VmSetup;
use crate::hw::ALWAYS_INTERCEPTED;
use kernel::prelude::*;

/// No VMCS is linked.
const NO_LINK: u64 = u64::MAX;

/// How long a guest runs at most without an exit, in milliseconds.
///
/// An interrupt of the host ends the run of a guest whatever the guest's IF is,
/// so that would not need a bound; but not every emulated processor is one where
/// it does. The timer is loaded at each entry by the processor itself and costs
/// one exit in that time.
const LONGEST_RUN: u64 = 2;

/// The control words that change while the VMCS is in use.
pub(super) struct Words {
    /// As they are to be at the next entry.
    pub(super) primary: Primary,
    /// As the VMCS has them.
    pub(super) primary_written: Primary,
    /// Without posted interrupts, which come and go.
    pub(super) pin: Pin,
    /// Written when they change.
    pub(super) secondary: Secondary,
}

impl Words {
    /// Those of a new VMCS.
    pub(super) fn new(controls: &Controls) -> Self {
        let secondary = controls
            .secondary
            .with(Secondary::INVPCID | Secondary::XSAVES | Secondary::ENCLS | Secondary::PML);
        Self {
            primary: controls.primary.base,
            primary_written: controls.primary.base,
            pin: controls.pin.with(Pin::PREEMPTION_TIMER),
            secondary: secondary.assign(
                Secondary::PAUSE_LOOP,
                controls.has_pause_loop_exiting() && params::ple_gap() != 0,
            ),
        }
    }
}

/// The preemption timer of a new VMCS.
pub(super) fn run_timer(controls: &Controls) -> RunTimer {
    let ticks = u64::from(host_cpu::tsc_khz()).wrapping_mul(LONGEST_RUN);
    RunTimer::new(controls.preemption_timer_shift(), ticks)
}

impl<const ACCESSED_DIRTY: bool> Vmx<ACCESSED_DIRTY> {
    /// Fills the VMCS of a new vCPU.
    ///
    /// # Errors
    ///
    /// `EIO` when VMX is off.
    pub(super) fn set_up(&mut self, setup: &VmSetup) -> Result {
        self.vmcs.with_current(|| ()).ok_or(EIO)?;
        self.set_up_controls();
        if let Some(page) = setup.apic_page {
            self.write(control::APIC_ACCESS_PAGE, page.0);
        }
        self.set_up_host();
        self.set_up_guest();
        reset_registers(self);
        Ok(())
    }

    fn set_up_controls(&mut self) {
        let shared = self.shared();
        let controls = &shared.controls;
        self.write(control::PIN, self.words.pin.0);
        self.write(control::PRIMARY, self.words.primary.0);
        self.write(control::SECONDARY, self.words.secondary.0);
        self.write(control::EXIT, controls.exit.base.0);
        self.write(control::ENTRY, controls.entry.base.0);
        self.write(control::EXCEPTION_BITMAP, ALWAYS_INTERCEPTED);
        // Bit 14 of the bitmap is clear: no page fault exits.
        self.write(control::PAGE_FAULT_MASK, 0);
        self.write(control::PAGE_FAULT_MATCH, 0);
        self.write(control::CR3_TARGET_COUNT, 0);
        self.write(control::EXIT_MSR_STORE_COUNT, 0);
        self.write(control::EXIT_MSR_LOAD_COUNT, 0);
        self.write(control::ENTRY_MSR_LOAD_COUNT, 0);
        self.write(control::ENTRY_INTERRUPTION, 0);
        self.write(control::MSR_BITMAP, shared.msr_bitmap.hpa().0);
        self.write(control::EPTP, self.eptp);
        self.write(control::CR0_MASK, !state::CR0_OWN.0);
        self.write(control::CR4_MASK, !state::CR4_OWN.0);
        self.write(control::TSC_OFFSET, 0);
        if controls.has_vpid() {
            self.write(control::VPID, self.vpid);
        }
        self.write(control::VIRTUAL_APIC_PAGE, self.virtual_apic.hpa().0);
        self.write(control::TPR_THRESHOLD, 0);
        if self.words.secondary.has(Secondary::PAUSE_LOOP) {
            self.write(control::PLE_GAP, params::ple_gap());
            self.write(control::PLE_WINDOW, params::ple_window());
        }
        if let Some(page) = &self.written {
            self.write(control::PML_ADDRESS, page.hpa().0);
            self.write(guest::PML_INDEX, write_log::EMPTY);
        }
        if shared.apicv_bitmap.is_some() {
            self.set_up_virtual_apic();
        }
        if self.words.secondary.has(Secondary::XSAVES) {
            self.write(control::XSS_EXITING, 0);
        }
        if self.words.secondary.has(Secondary::ENCLS) {
            self.write(control::ENCLS_EXITING, u64::MAX);
        }
        if controls.has_preemption_timer() {
            self.write(guest::PREEMPTION_TIMER, self.run_timer.written());
        }
    }

    fn set_up_host(&mut self) {
        let (vmcs, host) = (&self.vmcs, &mut self.host);
        vmcs.with_current(|| {
            let off = IrqOff::new();
            host.set_up(&off);
            host.moved(&off);
        });
    }

    /// What RESET sets and INIT does not.
    fn set_up_guest(&mut self) {
        self.write(guest::LINK_POINTER, NO_LINK);
        self.write(guest::DEBUGCTL, 0);
        self.write(guest::ACTIVITY, 0);
        self.write(guest::INTERRUPTIBILITY, 0);
        self.write(guest::PENDING_DEBUG, 0);
        self.write(guest::SYSENTER_CS, 0);
        self.write(guest::SYSENTER_ESP, 0);
        self.write(guest::SYSENTER_EIP, 0);
    }
}
