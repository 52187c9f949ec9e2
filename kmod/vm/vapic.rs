// SPDX-License-Identifier: GPL-2.0

//! The task priority in guest memory, and reports of accesses to TPR: what a
//! VMM needs to patch guests that write TPR all the time into ones that do so
//! without an exit (KVM_SET_VAPIC_ADDR, KVM_TPR_ACCESS_REPORTING).
//!
//! The word that the VMM names belongs to the vCPU. Before an entry it is told
//! TPR, the class of the interrupt in service and the interrupt requested;
//! after the exit its lowest byte is TPR.
//!
//! Context: [`Vcpu::write_vapic`] and [`Vcpu::take_vapic`] run with interrupts
//! off. If the word's page is not there, both leave it to their sleepable
//! counterparts in the outer loop.

use super::request::Request;
use super::step::Step;
use super::vcpu::Vcpu;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::lapic::regs;
use crate::uapi;
use crate::uapi::kvm_tpr_access_ctl;
use crate::uapi::kvm_vapic_addr;
use core::mem::size_of;
use kernel::prelude::*;

/// An access to TPR that userspace wants to know of.
struct TprAccess {
    /// Address of the instruction.
    rip: u64,
    write: bool,
}

/// What userspace wants of one vCPU's task priority.
#[derive(Default)]
pub struct Vapic {
    /// Where the word is.
    word: Option<Gpa>,
    /// The word has been told TPR, and not been read since.
    shared: bool,
    /// Accesses to TPR are reported.
    reports: bool,
    /// The one to report when its instruction is done.
    access: Option<TprAccess>,
}

impl Vapic {
    /// Whether there is a word.
    #[inline]
    pub const fn is_on(&self) -> bool {
        self.word.is_some()
    }

    /// Whether an access is to be reported.
    #[inline]
    pub const fn has_report(&self) -> bool {
        self.access.is_some()
    }

    /// Whether accesses to TPR are reported.
    #[inline]
    pub const fn reports(&self) -> bool {
        self.reports
    }

    /// An access to the page of the local APIC by the instruction at `rip`,
    /// while accesses to TPR are reported.
    #[cold]
    pub fn note_tpr_access(&mut self, offset: u32, rip: u64, write: bool) {
        if offset >> 4 == u32::from(regs::TPR) {
            self.access = Some(TprAccess { rip, write });
        }
    }

    /// INIT: there is no word until userspace names one again.
    pub fn init(&mut self) {
        self.word = None;
        self.access = None;
    }
}

impl<V: Vendor> Vcpu<V> {
    /// KVM_SET_VAPIC_ADDR: where the word is; 0 for none.
    ///
    /// # Errors
    ///
    /// `EINVAL` without a local APIC in the kernel, or where there is no memory
    /// that can be written.
    pub fn set_vapic_address(&mut self, address: &kvm_vapic_addr) -> Result {
        // A processor that keeps the local APIC knows nothing of the word.
        self.lapic.as_mut().ok_or(EINVAL)?.show_again();
        let first = Gpa(address.vapic_addr);
        self.vapic.word = None;
        if first.0 == 0 {
            return Ok(());
        }
        let last = first.wrapping_add(size_of::<u32>() as u64 - 1);
        let view = self.vm.memory.enter();
        for byte in [first, last] {
            view.probe(byte, true).map_err(|_| EINVAL)?;
        }
        drop(view);
        self.vapic.word = Some(first);
        self.vapic.shared = false;
        Ok(())
    }

    /// KVM_TPR_ACCESS_REPORTING.
    ///
    /// # Errors
    ///
    /// `EINVAL` for flags: there are none.
    pub fn set_tpr_reporting(&mut self, control: &mut kvm_tpr_access_ctl) -> Result {
        if control.flags != 0 {
            return Err(EINVAL);
        }
        self.vapic.reports = control.enabled != 0;
        if V::KEEPS_APIC {
            self.shared.requests.add(Request::APIC_PAGE);
        }
        Ok(())
    }

    /// The word as the local APIC makes it: TPR, a byte of its own for the
    /// guest, the class of the interrupt in service, the interrupt requested.
    fn vapic_word(&self) -> Option<[u8; 4]> {
        let lapic = self.lapic.as_ref()?;
        let in_service = lapic.highest_in_service().unwrap_or(0) & 0xf0;
        let requested = lapic.highest_request().unwrap_or(0);
        Some([lapic.tpr(), in_service, 0, requested])
    }

    /// Before an entry: tells the word.
    #[cold]
    pub fn write_vapic(&mut self) {
        let (Some(gpa), Some(word)) = (self.vapic.word, self.vapic_word()) else {
            return;
        };
        let written = self.vm.memory.enter().write_nofault(gpa, &word);
        self.vapic.shared = written.is_ok();
    }

    /// Brings the word's page in, so that [`Vcpu::write_vapic`] finds it.
    #[cold]
    pub fn touch_vapic(&self) {
        if let (Some(gpa), Some(word)) = (self.vapic.word, self.vapic_word()) {
            // Where there is no memory now, TPR stays the local APIC's.
            let _ = self.vm.memory.enter().write(gpa, &word);
        }
    }

    /// After an exit: TPR is what the guest has left in the word. False if the
    /// page is not there: try again with [`Vcpu::take_vapic_sleeping`].
    #[cold]
    pub fn take_vapic(&mut self) -> bool {
        let Some(gpa) = self.vapic.word else {
            return true;
        };
        if !self.vapic.shared {
            return false;
        }
        let mut tpr = [0];
        let read = self.vm.memory.enter().read_nofault(gpa, &mut tpr);
        self.take_vapic_tpr(read.is_ok().then_some(tpr))
    }

    /// [`Vcpu::take_vapic`] where sleeping is allowed.
    #[cold]
    pub fn take_vapic_sleeping(&mut self) {
        if let (Some(gpa), true) = (self.vapic.word, self.vapic.shared) {
            let mut tpr = [0];
            let read = self.vm.memory.enter().read(gpa, &mut tpr);
            let _ = self.take_vapic_tpr(read.is_ok().then_some(tpr));
        }
        self.vapic.shared = false;
    }

    fn take_vapic_tpr(&mut self, tpr: Option<[u8; 1]>) -> bool {
        let (Some([tpr]), Some(lapic)) = (tpr, self.lapic.as_mut()) else {
            return false;
        };
        self.vapic.shared = false;
        lapic.set_tpr(tpr, &self.shared.apic);
        self.hw.set_cr8(lapic.cr8());
        true
    }

    /// `step`, but out of the inner loop if an access to TPR is to be reported.
    #[inline]
    pub fn step_with_report(&self, step: Step) -> Step {
        if self.vapic.access.is_some() {
            step.at_least_leave()
        } else {
            step
        }
    }

    /// Reports the access to TPR whose instruction is done.
    #[cold]
    pub fn report_tpr_access(&mut self) {
        let Some(access) = self.vapic.access.take() else {
            return;
        };
        self.run.set_exit(
            uapi::KVM_EXIT_TPR_ACCESS,
            uapi::kvm_run_tpr_access {
                rip: access.rip,
                is_write: u32::from(access.write),
                pad: 0,
            },
        );
    }
}
