// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN: the loop around the guest.
//!
//! Two loops, one in the other. The inner one runs with interrupts off: enter
//! the guest, answer the exit, enter again. It ends when an exit needs to
//! sleep, when userspace must see it, or when the host wants something of this
//! CPU or thread; a pending interrupt of the host ends the guest run by itself,
//! so nobody has to look. The outer loop does what needs interrupts on.
//!
//! Lock order: none is held in the inner loop but the interrupt controllers'
//! spinlock, shortly.

use super::events::InterruptSource;
use super::pending::Pending;
use super::request::Request;
use super::run_page::Status;
use super::step::Context;
use super::step::Handled;
use super::step::Step;
use super::step::Stop;
use super::vcpu::MpState;
use super::vcpu::Vcpu;
use super::vcpu::NO_CPU;
use crate::host::cpu;
use crate::host::fpu;
use crate::host::hint::fresh;
use crate::host::task;
use crate::host::task::IrqOff;
use crate::host::task::PreemptOff;
use crate::hw::Exit;
use crate::hw::Vendor;
use crate::pc::control;
use crate::pc::lapic::Lapic;
use crate::pc::regs::Exception;
use crate::pc::regs::Rflags;
use crate::uapi;
use kernel::prelude::*;

impl<V: Vendor> Vcpu<V> {
    /// KVM_RUN (KVM API document, 4.10), in the address space of the machine.
    ///
    /// # Errors
    ///
    /// `EINTR` for a signal or `immediate_exit`, `EAGAIN` after the first INIT
    /// of an application processor, `EFAULT` for guest memory that the process
    /// cannot access.
    #[inline(always)]
    pub fn run(&mut self) -> Result {
        self.shared.runner.set_current();
        self.take_synced_registers()?;
        self.take_user_cr8()?;
        let _mask = self.sigmask.map(|mask| mask.apply());
        self.fpu.swap_in()?;
        let result = self.complete_and_run();
        self.fpu.swap_out();
        self.store_status();
        self.store_synced_registers()?;
        result
    }

    /// CR8 is the VMM's to set where it models the local APIC.
    #[inline(always)]
    fn take_user_cr8(&mut self) -> Result {
        if self.lapic.is_some() {
            return Ok(());
        }
        let wanted = self.run.cr8();
        if wanted != u64::from(self.hw.cr8()) {
            let cr8 = control::write_cr8(wanted).map_err(|_| EINVAL)?;
            self.set_cr8(cr8);
        }
        Ok(())
    }

    #[inline(always)]
    fn complete_and_run(&mut self) -> Result {
        if let Some(handled) = self.complete_pending() {
            if self.settle(handled, Context::Sleepable)? == Step::User {
                return Ok(());
            }
        }
        // The exit reason stays: userspace may look at the last one again.
        if self.run.immediate_exit() {
            return Err(EINTR);
        }
        let result = if self.mp_state == MpState::Uninitialized {
            self.wait_for_init()
        } else {
            self.run_loops()
        };
        if result == Err(EINTR) {
            self.run.set_reason(uapi::KVM_EXIT_INTR);
        }
        result
    }

    #[inline(always)]
    fn run_loops(&mut self) -> Result {
        while !fresh(self).run_and_handle()? {}
        Ok(())
    }

    /// One turn of the outer loop. True when userspace has to do something.
    #[inline(always)]
    fn run_and_handle(&mut self) -> Result<bool> {
        self.process_requests();
        if self.mp_state != MpState::Runnable && !self.wait_until_runnable()? {
            return Ok(false);
        }
        if task::guest_work_pending() {
            task::handle_guest_work()?;
        }
        let wants_window = self.run.wants_interrupt_window();
        if self.has_something_for_user(wants_window) && self.tell_user() {
            return Ok(true);
        }
        self.account_steal();
        if self.events.awaits_trap() {
            self.find_trap();
        }
        if self.vapic.is_on() {
            self.touch_vapic();
        }
        let step = match self.run_guest(wants_window) {
            Step::Sleep => self.handle_sleeping()?,
            step => step,
        };
        Ok(step == Step::User)
    }

    /// Whether [`Vcpu::tell_user`] is to look: most of the time it is not.
    #[inline(always)]
    fn has_something_for_user(&self, wants_window: bool) -> bool {
        // All at once: each is seldom the case.
        self.events.triple_fault | self.user_eoi.is_some() | self.vapic.has_report() | wants_window
    }

    /// What userspace must see before the guest goes on. Whether the run page
    /// says so now.
    #[inline(never)]
    fn tell_user(&mut self) -> bool {
        if self.events.triple_fault {
            self.events.triple_fault = false;
            self.run.set_reason(uapi::KVM_EXIT_SHUTDOWN);
        } else if let Some(vector) = self.user_eoi.take() {
            self.exit_ioapic_eoi(vector);
        } else if self.vapic.has_report() {
            self.report_tpr_access();
        } else if self.takes_user_interrupts() && self.ready_for_interrupt() {
            self.run.set_reason(uapi::KVM_EXIT_IRQ_WINDOW_OPEN);
        } else {
            return false;
        }
        true
    }

    /// Handles the last exit, which may have to sleep.
    #[inline(never)]
    fn handle_sleeping(&mut self) -> Result<Step> {
        if self.vapic.is_on() {
            self.take_vapic_sleeping();
        }
        if let Exit::NestedFault(fault) = self.unanswered {
            if self.bring_in_absent(fault) {
                return Ok(Step::Leave);
            }
        }
        let handled = self.handle(self.unanswered);
        let settled = self.settle(handled, Context::Sleepable);
        if settled != Ok(Step::User) {
            // What the first pass began and this one did not take up: memory is
            // there now, or the guest's tables lead elsewhere.
            self.pending = Pending::None;
        }
        settled
    }

    /// What the vCPU does after a handler, wherever that ended.
    #[inline(always)]
    pub(super) fn settle(&mut self, handled: Handled, context: Context) -> Result<Step> {
        match handled {
            Ok(step) | Err(Stop::Step(step)) => Ok(step),
            Err(Stop::Error(error)) => Err(error),
            Err(Stop::Unhandleable) => self.settle_unhandleable(context),
            Err(Stop::Fault(exception)) => self.settle_fault(exception, context),
        }
    }

    #[cold]
    fn settle_unhandleable(&mut self, context: Context) -> Result<Step> {
        match context {
            Context::Atomic => Ok(Step::Sleep),
            Context::Sleepable => Ok(self.emulation_failed()),
        }
    }

    #[cold]
    fn settle_fault(&mut self, exception: Exception, context: Context) -> Result<Step> {
        let handled = self.raise(exception);
        self.settle(handled, context)
    }

    /// The inner loop. With [`Step::Sleep`], `unanswered` is to be handled.
    /// `wants_window`: userspace wants to be told of the interrupt window.
    #[inline(always)]
    fn run_guest(&mut self, wants_window: bool) -> Step {
        let preempt = PreemptOff::new();
        let mut off = IrqOff::from_on();
        let cpu = cpu::current_cpu(&off);
        let moved = self.last_cpu != cpu;
        if moved {
            self.last_cpu = cpu;
            self.tsc_aux.moved(&off);
        }
        if !self.hw.load(&off, moved) {
            return self.cannot_load(preempt, off);
        }
        let tracked = self.load(&off);
        self.shared.requests.enter(cpu);
        // From here on whoever wants something sends an interrupt, too.
        let mut step = Step::Leave;
        if !self.shared.requests.any() && !task::guest_work_pending() {
            step = self.run_guest_loaded(&off, tracked, wants_window);
            self.note_written();
        }
        self.shared.requests.leave();
        self.unload(&off);
        // The interrupt that ended the guest run is part of the guest's time.
        self.hw.take_host_interrupt(&off);
        off.window();
        task::guest_timing_exit(&off, tracked);
        drop(off);
        drop(preempt);
        step
    }

    /// Another CPU has to give the vCPU up first, or this one runs no guests: the
    /// extension is off.
    #[inline(never)]
    fn cannot_load(&mut self, preempt: PreemptOff, off: IrqOff) -> Step {
        self.last_cpu = NO_CPU;
        drop(off);
        if self.hw.prepare(&preempt) {
            return Step::Leave;
        }
        self.sleep_on(Exit::EntryFailed { reason: 0 })
    }

    /// Puts what the processor has listed as written into the dirty logs, before
    /// others take the vCPU for one that is out of the guest.
    #[inline(always)]
    fn note_written(&mut self) {
        let memory = &self.vm.memory;
        let mut view = None;
        self.hw.take_written(|gfn| {
            view.get_or_insert_with(|| memory.enter()).note_written(gfn);
        });
    }

    #[inline(never)]
    fn run_guest_loaded(&mut self, off: &IrqOff, tracked: bool, wants_window: bool) -> Step {
        if self.rcu_waits {
            self.note_quiescence(off, tracked);
        }
        if wants_window && self.takes_user_interrupts() {
            if self.ready_for_interrupt() {
                return Step::Leave;
            }
            self.hw.request_interrupt_window(true);
        }
        self.look_at_timer();
        loop {
            let step = fresh(self).enter_and_answer(off, tracked);
            if step != Step::Resume {
                return step;
            }
        }
    }

    /// One turn of the inner loop: [`Step::Resume`] has another one follow.
    #[inline(always)]
    fn enter_and_answer(&mut self, off: &IrqOff, tracked: bool) -> Step {
        self.deliver_events();
        if self.init_pending {
            // INIT forgets what has been handed to the processor.
            return Step::Leave;
        }
        if self.vapic.is_on() {
            self.write_vapic();
        }
        self.enter(off, tracked);
        self.exits = self.exits.wrapping_add(1);
        self.events.after_exit(&self.hw, &mut self.regs);
        self.sync_apic();
        self.settle_pv_eoi();
        if self.vapic.is_on() && !self.take_vapic() {
            let exit = self.hw.exit(&mut self.regs);
            return self.sleep_on(exit);
        }
        self.answer_exit()
    }

    /// RCU takes the guest for user mode. Where each CPU has a tick, it looks
    /// at what that interrupts: so it is enough to tell it after interrupts
    /// that have ended the guest's run.
    #[inline(never)]
    fn note_quiescence(&mut self, off: &IrqOff, tracked: bool) {
        if tracked {
            return;
        }
        self.rcu_waits = false;
        // SAFETY: Nothing runs between the two calls.
        unsafe {
            task::guest_state_enter(off);
            task::guest_state_exit(off);
        }
    }

    /// Enters the guest; with `tracked`, the kernel wants to be told.
    #[inline]
    fn enter(&mut self, off: &IrqOff, tracked: bool) {
        if tracked {
            // SAFETY: Nothing runs before the world switch.
            unsafe { task::guest_state_enter(off) };
        }
        self.hw.enter(off, &mut self.regs);
        if tracked {
            // SAFETY: Follows the call above.
            unsafe { task::guest_state_exit(off) };
        }
    }

    /// Gives the processor what of the guest is not the vendor's to load. Whether
    /// the kernel wants to be told of each entry.
    #[inline(always)]
    fn load(&mut self, off: &IrqOff) -> bool {
        fpu::restore_if_needed(off);
        self.host_xss.clear(off);
        if self.hw.has_xsave() {
            self.load_xcr0(off);
        }
        self.load_pkru(off);
        self.tsc_aux.load(off, self.model.msrs.tsc_aux());
        self.debug.load(off);
        task::guest_begin(off)
    }

    #[inline(always)]
    fn unload(&mut self, off: &IrqOff) {
        self.debug.unload(off);
        task::guest_end(off);
        self.unload_pkru(off);
        self.tsc_aux.unload(off);
        self.hw.unload(off);
        self.host_xss.restore(off);
        if self.loaded_xcr0.is_some() {
            self.unload_xcr0(off);
        }
    }

    #[inline(always)]
    fn load_xcr0(&mut self, off: &IrqOff) {
        match self.host_xcr0 {
            Some(host) if host != self.xcr0 => {
                self.xcr0.switch_from(host, off);
                self.loaded_xcr0 = Some(self.xcr0);
            }
            _ => {}
        }
    }

    #[inline(always)]
    fn unload_xcr0(&mut self, off: &IrqOff) {
        // Not `xcr0`, which the guest may have changed since.
        if let (Some(host), Some(loaded)) = (self.host_xcr0, self.loaded_xcr0.take()) {
            host.switch_from(loaded, off);
        }
    }

    /// The guest's protection key rights, if it uses them: XRSTOR loads them
    /// whatever CR4.PKE is (SDM vol. 1, 13.8).
    #[inline(always)]
    fn load_pkru(&mut self, off: &IrqOff) {
        let used = self.hw.has_protection_keys() || self.xcr0.has_pkru();
        if !used || !cpu::boot_cpu_has(cpu::Feature::OSPKE) {
            return;
        }
        let host = cpu::read_pkru();
        self.host_pkru = Some(host);
        if host != self.pkru {
            // SAFETY: CR4.PKE of a guest means that the host has it; the
            // host's value comes back before interrupts are on.
            unsafe { cpu::write_pkru(off, self.pkru) };
        }
    }

    #[inline(always)]
    fn unload_pkru(&mut self, off: &IrqOff) {
        let Some(host) = self.host_pkru else {
            return;
        };
        self.host_pkru = None;
        self.pkru = cpu::read_pkru();
        if host != self.pkru {
            // SAFETY: The value is the host's own.
            unsafe { cpu::write_pkru(off, host) };
        }
    }

    /// Takes what was posted, and hands the next event to the processor.
    #[inline]
    fn deliver_events(&mut self) {
        if self.shared.apic.is_on() {
            self.take_posted();
        }
        if !self.events.is_idle() || self.interrupt_waits() || self.apic_changed() {
            return self.deliver_waiting();
        }
        if self.pv_eoi.is_some() {
            self.offer_pv_eoi();
        }
        if self.watches_cr8 {
            self.watch_cr8(false);
        }
    }

    /// Lets writes of CR8 exit, while an interrupt waits for a lower priority.
    /// A VMM that models the local APIC sees every write.
    fn watch_cr8(&mut self, on: bool) {
        self.watches_cr8 = on && self.lapic.is_some();
        self.hw.intercept_cr8_write(on || self.lapic.is_none());
    }

    /// Whether any interrupt waits, be it masked.
    #[inline]
    fn interrupt_waits(&self) -> bool {
        let requested = match &self.lapic {
            Some(lapic) => !lapic.irr().is_empty() || self.shared.apic.extint(),
            None => false,
        };
        requested || self.events.external.is_some()
    }

    /// Whether a processor that keeps the local APIC is to look at it again.
    #[inline]
    fn apic_changed(&self) -> bool {
        V::KEEPS_APIC && self.lapic.as_ref().is_some_and(Lapic::has_changed)
    }

    fn deliver_waiting(&mut self) {
        let keeps = self.processor_keeps_apic();
        let mut source = Controllers {
            lapic: self.lapic.as_mut(),
            shared: &self.shared,
            chip: &self.vm.chip,
            injects: !keeps,
        };
        self.events
            .deliver(&mut self.hw, &mut self.regs, &mut source);
        self.show_apic(keeps);
        if keeps {
            // The processor sees a request that waits for a lower priority.
            self.watch_cr8(false);
            return;
        }
        self.offer_pv_eoi();
        let watch = self.lapic.as_ref().is_some_and(is_blocked_by_tpr);
        self.watch_cr8(watch);
    }

    /// Whether the processor keeps the local APIC in the guest, and delivers its
    /// requests. A task priority in guest memory is nothing it knows of.
    #[inline]
    pub(super) fn processor_keeps_apic(&self) -> bool {
        let lapic = self.lapic.as_ref();
        V::KEEPS_APIC && !self.vapic.is_on() && lapic.is_some_and(|lapic| self.hw.keeps(lapic))
    }

    /// Shows the local APIC to the processor, if that keeps it.
    #[inline]
    fn show_apic(&mut self, keeps: bool) {
        if !keeps {
            self.hw.withhold_apic();
        }
        let Some(lapic) = self.lapic.as_mut() else {
            return;
        };
        if keeps {
            let chip = &self.vm.chip;
            self.hw.load_apic(lapic, || chip.eoi_vectors());
        }
        if !self.vapic.is_on() {
            lapic.shown();
        }
    }

    /// Takes what other threads posted to the local APIC.
    pub fn take_posted(&mut self) {
        let Some(lapic) = self.lapic.as_mut() else {
            return;
        };
        let posted = lapic.sync(&self.shared.apic);
        if posted.is_none() {
            return;
        }
        if posted.nmis > 0 {
            let blocked = self.hw.nmi_blocked(&self.regs);
            self.events.raise_nmi(posted.nmis, blocked);
        }
        if posted.timer() {
            self.timer_expired();
        }
        if posted.init() {
            self.init_pending = true;
            // A startup IPI of before the INIT does not start it again.
            self.sipi_pending = None;
        }
        if let Some(vector) = posted.sipi() {
            self.sipi_pending = Some(vector);
        }
        if self.init_pending || self.sipi_pending.is_some() {
            self.shared.requests.add(Request::EVENT);
        }
    }

    /// What the guest did to its local APIC without an exit, CR8 at least: it
    /// learns of it here.
    #[inline]
    fn sync_apic(&mut self) {
        let Some(lapic) = self.lapic.as_mut() else {
            return;
        };
        if self.hw.store_apic(lapic, &self.shared.apic) {
            return;
        }
        let cr8 = self.hw.cr8();
        if lapic.cr8() != cr8 {
            lapic.set_cr8(cr8, &self.shared.apic);
        }
    }

    /// An application processor that has never run: userspace is told of its
    /// first INIT, and may look at what it is then.
    #[cold]
    fn wait_for_init(&mut self) -> Result {
        loop {
            self.take_posted();
            self.process_requests();
            if self.mp_state != MpState::Uninitialized {
                return Err(EAGAIN);
            }
            self.shared.sleep()?;
        }
    }

    /// In HLT, or an application processor that waits: sleeps. True when it is
    /// runnable now.
    fn wait_until_runnable(&mut self) -> Result<bool> {
        self.take_posted();
        self.look_at_timer();
        self.process_requests();
        if self.mp_state == MpState::Halted && (self.unhalted || self.can_wake()) {
            self.unhalted = false;
            self.mp_state = MpState::Runnable;
        }
        if self.mp_state == MpState::Runnable {
            self.slept();
            return Ok(true);
        }
        self.sleep()?;
        Ok(false)
    }

    /// Whether something ends the HLT.
    pub fn can_wake(&mut self) -> bool {
        if self.events.nmi_ready(&self.hw, &self.regs) || self.events.exception.is_some() {
            return true;
        }
        if !self.regs.rflags.has(Rflags::IF) {
            return false;
        }
        let external = self.events.external.is_some();
        let mut source = Controllers {
            lapic: self.lapic.as_mut(),
            shared: &self.shared,
            chip: &self.vm.chip,
            injects: true,
        };
        source.any(external)
    }

    /// Whether KVM_INTERRUPT would be delivered at once.
    fn ready_for_interrupt(&self) -> bool {
        self.events.external.is_none()
            && self.regs.rflags.has(Rflags::IF)
            && !self.hw.interrupt_shadow()
            && self.events.is_idle()
    }

    /// Whether interrupts of KVM_INTERRUPT reach the processor: nothing is in
    /// the way, or a local APIC that passes those of userspace's PICs on.
    fn takes_user_interrupts(&self) -> bool {
        match &self.lapic {
            None => true,
            Some(lapic) => self.split_irqchip && lapic.accepts_extint(),
        }
    }

    /// Whether the PIC is in the kernel; else userspace queues its interrupts.
    #[inline]
    pub fn has_kernel_pic(&self) -> bool {
        self.lapic.is_some() && !self.split_irqchip
    }

    #[inline(always)]
    fn store_status(&mut self) {
        let (cr8, apic_base) = match &self.lapic {
            Some(lapic) => (lapic.cr8(), lapic.apic_base()),
            None => (self.hw.cr8(), self.user_apic_base),
        };
        self.run.set_status(&Status {
            ready_for_interrupt: self.has_kernel_pic()
                || (self.takes_user_interrupts() && self.ready_for_interrupt()),
            interrupts_on: self.regs.rflags.has(Rflags::IF),
            flags: 0,
            cr8: u64::from(cr8),
            apic_base,
        });
    }
}

fn is_blocked_by_tpr(lapic: &Lapic) -> bool {
    lapic.pending_vector().is_none() && lapic.highest_request().is_some()
}

/// The interrupt controllers of one vCPU: its local APIC, and the PIC behind
/// LINT0.
struct Controllers<'a> {
    lapic: Option<&'a mut Lapic>,
    shared: &'a super::vcpu::VcpuShared,
    chip: &'a super::chip::Chip,
    /// Interrupts of the local APIC are for us to deliver; else only those of
    /// the PICs are.
    injects: bool,
}

impl InterruptSource for Controllers<'_> {
    #[inline]
    fn any(&mut self, external: bool) -> bool {
        let Some(lapic) = self.lapic.as_ref() else {
            return external;
        };
        (self.injects && lapic.pending_vector().is_some())
            || ((external || self.shared.apic.extint()) && lapic.accepts_extint())
    }

    fn take(&mut self, external: &mut Option<u8>) -> Option<u8> {
        let Some(lapic) = self.lapic.as_mut() else {
            return external.take();
        };
        if (external.is_some() || self.shared.apic.extint()) && lapic.accepts_extint() {
            let vector = external.take().or_else(|| self.chip.acknowledge_pic());
            if vector.is_some() {
                return vector;
            }
        }
        if !self.injects {
            return None;
        }
        let vector = lapic.pending_vector()?;
        lapic.ack(vector);
        Some(vector)
    }
}
