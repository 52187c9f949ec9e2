// SPDX-License-Identifier: GPL-2.0

//! INIT and startup IPIs, and what else a vCPU does between two runs of the
//! guest.

use super::pending::Pending;
use super::request::Request;
use super::step::Handled;
use super::step::Step;
use super::vcpu::MpState;
use super::vcpu::Vcpu;
use crate::hw::Registers;
use crate::hw::Vendor;
use crate::pc::regs::Cr0;
use crate::pc::regs::Reg;
use crate::pc::regs::SegReg;

impl<V: Vendor> Vcpu<V> {
    /// Takes what was posted to the local APIC; for ioctls that read state.
    pub fn collect_posted(&mut self) {
        if self.shared.apic.is_on() {
            self.take_posted();
        }
        self.look_at_timer();
    }

    /// Does what others asked of this vCPU. May sleep.
    #[inline(always)]
    pub fn process_requests(&mut self) {
        if self.shared.requests.any() {
            self.process_all_requests();
        }
    }

    fn process_all_requests(&mut self) {
        let requests = self.shared.requests.take();
        let has = |request: Request| requests & request.0 != 0;
        if has(Request::FLUSH_TLB) {
            self.hw.flush_tlb();
        }
        if has(Request::MSR_EXITS) {
            self.hw.intercept_all_msrs(self.vm.watches_msrs());
        }
        if has(Request::CLOCK) {
            self.update_clock();
        }
        if has(Request::DIRECTORY_POINTERS) {
            self.load_pdptes();
        }
        if has(Request::APIC_PAGE) {
            self.settle_apic_page();
        }
        if has(Request::UNHALT) {
            self.unhalted = true;
        }
        self.process_init_sipi();
    }

    /// Acts on an INIT or startup IPI that has arrived.
    pub fn process_init_sipi(&mut self) {
        if self.init_pending {
            self.init_pending = false;
            self.init();
            self.mp_state = if self.shared.id == self.vm.boot_cpu() {
                MpState::Runnable
            } else {
                MpState::InitReceived
            };
        }
        if let Some(vector) = self.sipi_pending.take() {
            if self.mp_state == MpState::InitReceived {
                self.start_at(vector);
            }
        }
    }

    /// INIT (APM vol. 2, 14.1.3): as RESET, but the FPU, MSRs and the APIC's
    /// base stay, and so do the cache bits of CR0.
    fn init(&mut self) {
        let cache = self.hw.cr0() & (Cr0::CD.0 | Cr0::NW.0);
        self.hw.init();
        self.unhalted = false;
        self.hw.set_cr0(cache | Cr0::ET.0);
        self.regs = Registers::RESET;
        self.regs
            .gprs
            .set(Reg::Rdx, u64::from(self.model.signature()));
        self.events = super::events::EventQueue::default();
        self.pending = Pending::None;
        self.debug.reset(&mut self.hw);
        self.hw.flush_tlb();
        if let Some(lapic) = self.lapic.as_mut() {
            let command = lapic.init(&self.shared.apic);
            self.vapic.init();
            self.hw.set_cr8(lapic.cr8());
            self.apply_timer(command);
        }
        self.paging_changed();
    }

    /// Startup IPI: real mode at the 4 KiB page `vector`.
    fn start_at(&mut self, vector: u8) {
        let mut cs = self.hw.segment(SegReg::Cs);
        cs.selector = u16::from(vector) << 8;
        cs.base = u64::from(vector) << 12;
        self.hw.set_segment(SegReg::Cs, &cs);
        self.regs.rip = 0;
        self.mp_state = MpState::Runnable;
    }

    /// Completes the instruction that userspace has been asked about, if there is
    /// one. What is left to settle, if anything is.
    #[inline(always)]
    pub fn complete_pending(&mut self) -> Option<Handled> {
        match self.pending {
            Pending::None => None,
            Pending::Written { next, rip } => {
                self.pending = Pending::None;
                self.complete_written(next, rip)
            }
            Pending::Move(pending) => {
                self.pending = Pending::None;
                match self.complete_move(pending) {
                    Ok(Step::Resume) => None,
                    handled => Some(handled),
                }
            }
            _ => Some(self.complete_other()),
        }
    }

    #[inline(never)]
    fn complete_other(&mut self) -> Handled {
        match core::mem::take(&mut self.pending) {
            Pending::None => Ok(Step::Resume),
            Pending::In { size, next, rip } => self.complete_in(size, next, rip),
            Pending::Written { next, rip } => {
                self.complete_written(next, rip).unwrap_or(Ok(Step::Resume))
            }
            Pending::Move(pending) => self.complete_move(pending),
            Pending::Emulation(emulation) => self.complete_emulation(emulation),
            Pending::Msr { read, length, rip } => self.complete_msr(read, length, rip),
        }
    }
}
