// SPDX-License-Identifier: GPL-2.0

//! Entering the guest, and what is to be done at once when it has exited.

use super::controls::Primary;
use super::event;
use super::event::Interruptibility;
use super::exit;
use super::exit::Reason;
use super::field::control;
use super::field::guest;
use super::field::info;
use super::field::ReadFields;
use super::insn;
use super::insn::InveptScope;
use super::vmcs::Current;
use super::Vmx;
use crate::host::cpu as host_cpu;
use crate::host::task::IrqOff;
use crate::hw::event::Interruption;
use crate::hw::event::Kind;
use crate::hw::Exit;
use crate::hw::IoExit;
use crate::hw::NestedFault;
use crate::hw::Registers;
use crate::pc::addr::Gpa;
use crate::pc::bits::bits;
use crate::pc::regs::Dr6;
use crate::pc::regs::Reg;
use crate::pc::regs::Rflags;
use crate::pc::regs::Vector;

extern "C" {
    /// See `vmenter.S`.
    fn iv_vmx_enter(gprs: *mut [u64; 16], host_rsp: *mut u64) -> u32;
}

/// What `iv_vmx_enter` returns; anything else when VMX has been switched off.
mod result {
    /// The guest ran, or its state was refused.
    pub(super) const EXITED: u32 = 0;
    /// VMLAUNCH or VMRESUME has failed.
    pub(super) const REFUSED: u32 = 1;
}

bits! {
    /// What is to be done before the next entry, beyond what each entry needs.
    Chores: u8 {
        /// Forget what was translated for the guest.
        FLUSH_TLB = 1 << 0;
        /// Flush the first-level data cache: at each entry.
        FLUSH_L1D = 1 << 1;
        /// Look at what the preemption timer is loaded with.
        TIMER = 1 << 2;
        /// The host uses PEBS, which is to be off: at each entry.
        PEBS = 1 << 3;
    }
}

/// No reason of an exit.
const NONE: Reason = Reason(u32::MAX);

/// What the last entry has come to.
pub(super) struct Entered {
    /// Why the guest has stopped.
    pub(super) reason: Reason,
    /// The entry failed before it began: the VM-instruction error, or 0 when
    /// VMX is off.
    refused: Option<u32>,
    /// The event whose delivery was cut off.
    pub(super) vectoring: Interruption,
    /// An interrupt for the host, acknowledged by the exit.
    pub(super) host_interrupt: Option<u8>,
    /// What an EPT violation says.
    qualification: u64,
    /// Length of the instruction that made the exit; 0 when it was none of
    /// [`INSTRUCTIONS`].
    pub(super) length: u8,
    /// RSP as the VMCS has it.
    rsp: u64,
    /// RFLAGS, likewise.
    pub(super) rflags: u64,
}

impl Entered {
    /// Before the first entry: RSP and RFLAGS are those of a new VMCS.
    pub(super) const fn new() -> Self {
        Self {
            reason: NONE,
            refused: None,
            vectoring: Interruption(0),
            host_interrupt: None,
            qualification: 0,
            length: 0,
            rsp: 0,
            rflags: 0,
        }
    }
}

/// Instructions that exit often. As they begin when no event is being delivered,
/// there is no IDT-vectoring information and no blocking of NMIs to look at
/// (SDM vol. 3, 28.2.4), and all have a length.
const INSTRUCTIONS: u64 = 1 << Reason::CPUID.0
    | 1 << Reason::HLT.0
    | 1 << Reason::VMCALL.0
    | 1 << Reason::CONTROL_REGISTER.0
    | 1 << Reason::IO.0
    | 1 << Reason::RDMSR.0
    | 1 << Reason::WRMSR.0;

/// Other exits that cannot come in the delivery of an event: those of events
/// between two instructions.
const BETWEEN: u64 = 1 << Reason::EXTERNAL_INTERRUPT.0
    | 1 << Reason::INTERRUPT_WINDOW.0
    | 1 << Reason::PREEMPTION_TIMER.0;

impl Reason {
    /// Whether it is one of a set of basic reasons below 64.
    #[inline]
    fn is_in(self, set: u64) -> bool {
        self.0 < 64 && set >> (self.0 & 63) & 1 != 0
    }
}

impl<const ACCESSED_DIRTY: bool> Vmx<ACCESSED_DIRTY> {
    /// Runs the guest until it exits. The VMCS is current: `load` was called.
    #[inline(always)]
    pub(super) fn run(&mut self, off: &IrqOff, regs: &mut Registers) {
        self.write_changed(regs);
        if insn::read_cr2() != self.cr2 {
            insn::write_cr2(self.cr2);
        }
        if self.chores != Chores(0) {
            self.do_chores();
        }
        // SAFETY: Interrupts are off, the VMCS is current on this CPU, the
        // host-state area is this host's and this CPU's (`load`), and the
        // guest reaches no memory but through its extended page tables.
        let result = unsafe { iv_vmx_enter(&mut regs.gprs.0, &mut self.host_rsp) };
        if result != result::EXITED {
            return self.entry_refused(result);
        }
        self.cr2 = insn::read_cr2();
        let reason = Reason(Current.read(info::REASON));
        self.entered.reason = reason;
        regs.rip = Current.read(guest::RIP);
        let rsp = Current.read(guest::RSP);
        self.entered.rsp = rsp;
        regs.gprs.set(Reg::Rsp, rsp);
        let rflags = Current.read(guest::RFLAGS);
        self.entered.rflags = rflags;
        regs.rflags = Rflags(rflags);
        if reason.is_in(INSTRUCTIONS) {
            self.entered.vectoring = Interruption(0);
            self.entered.length = Current.read(info::INSTRUCTION_LENGTH) as u8;
            self.cache.begin(Current.read(guest::INTERRUPTIBILITY));
        } else if reason == Reason::EPT_VIOLATION {
            self.after_ept_violation();
        } else {
            self.after_other_exit(off, reason);
        }
    }

    #[inline(always)]
    fn after_ept_violation(&mut self) {
        self.entered.length = 0;
        // For MMIO: perhaps the instruction is completed by userspace, when the
        // VMCS may have to be made the current one to read it.
        self.cache.begin(Current.read(guest::INTERRUPTIBILITY));
        let qualification = Current.read(info::QUALIFICATION);
        self.entered.qualification = qualification;
        let vectoring = Interruption(Current.read(info::VECTORING));
        self.entered.vectoring = vectoring;
        self.block_nmis(vectoring, exit::nmi_unblocked_by_iret(qualification));
    }

    /// Whether NMIs are blocked, if an exit has changed that.
    #[inline(always)]
    fn block_nmis(&mut self, vectoring: Interruption, unblocked: bool) {
        if let Some(blocked) = event::nmi_blocking(vectoring, unblocked) {
            let state = self.interruptibility();
            self.write_interruptibility(state.assign(Interruptibility::NMI, blocked));
        }
    }

    /// What is asked for now and then.
    #[inline(never)]
    fn do_chores(&mut self) {
        if self.chores.has(Chores::TIMER) {
            self.write_timer();
        }
        if self.chores.has(Chores::FLUSH_TLB) {
            insn::invept(InveptScope::Single, self.eptp);
        }
        if self.chores.has(Chores::PEBS) {
            self.pebs.look();
        }
        if self.chores.has(Chores::FLUSH_L1D) {
            self.shared().l1d.flush();
        }
        self.chores = self.chores.without(Chores::FLUSH_TLB);
    }

    /// The interrupt that the exit has acknowledged is the host's.
    #[inline(never)]
    pub(super) fn pass_host_interrupt(&mut self, off: &IrqOff) {
        if let Some(vector) = self.entered.host_interrupt.take() {
            host_cpu::take_interrupt(off, vector);
        }
    }

    /// On another CPU than before. The VMCS is current there.
    #[cold]
    pub(super) fn moved(&mut self, off: &IrqOff) {
        // What this CPU's TLB remembers of an earlier time here is stale, and so
        // is what it remembers of former tables with the same root.
        self.chores.set(Chores::FLUSH_TLB, true);
        self.host.moved(off);
    }

    /// Has the next run end when it is to.
    #[inline]
    fn write_timer(&mut self) {
        if let Some(counts) = self.run_timer.next(host_cpu::rdtsc()) {
            // Without it there is no such field.
            if self.shared().controls.has_preemption_timer() {
                Current.write(guest::PREEMPTION_TIMER, counts);
            }
        }
        self.chores.set(Chores::TIMER, !self.run_timer.is_settled());
    }

    /// What the guest is to have otherwise than it had at its last exit.
    #[inline]
    fn write_changed(&mut self, regs: &Registers) {
        // Most exits change it.
        Current.write(guest::RIP, regs.rip);
        let rsp = regs.gprs.get(Reg::Rsp);
        if rsp != self.entered.rsp {
            self.entered.rsp = rsp;
            Current.write(guest::RSP, rsp);
        }
        let changed = regs.rflags.0 ^ self.entered.rflags;
        if changed != 0 {
            self.entered.rflags = regs.rflags.0;
            Current.write(guest::RFLAGS, regs.rflags.0);
            if Rflags(changed).any(Rflags::IF | Rflags::TF) {
                self.flags_changed(regs.rflags);
            }
        }
        if self.words.primary != self.words.primary_written {
            self.words.primary_written = self.words.primary;
            Current.write(control::PRIMARY, self.words.primary.0);
        }
    }

    /// Interrupts and NMIs of the host, and the delivery of events.
    #[inline(never)]
    fn after_other_exit(&mut self, off: &IrqOff, reason: Reason) {
        self.cache.forget();
        self.entered.length = 0;
        self.entered.vectoring = Interruption(0);
        if reason == Reason::EXTERNAL_INTERRUPT {
            self.entered.host_interrupt = Some(Current.read(info::INTERRUPTION) as u8);
        }
        if reason.is_in(BETWEEN) {
            return;
        }
        if reason.is_entry_failure() {
            return self.take_event_back();
        }
        if reason == Reason::EXCEPTION_OR_NMI {
            let interruption = Interruption(Current.read(info::INTERRUPTION));
            if interruption.is(Kind::Nmi) {
                // It is being handled already, as far as this CPU knows: no
                // other arrives before this one's handler returns.
                let used = self.pebs.around(|| host_cpu::take_nmi(off));
                self.chores.set(Chores::PEBS, used);
                return;
            }
        }
        let vectoring = Interruption(Current.read(info::VECTORING));
        self.entered.vectoring = vectoring;
        self.block_nmis(vectoring, exit::nmi_unblocked(reason, &Current));
    }

    /// Length of the instruction that made an exit which is none of
    /// [`INSTRUCTIONS`].
    #[inline(never)]
    pub(super) fn other_length(&self) -> Option<u8> {
        if !self.entered.reason.has_instruction_length() {
            return None;
        }
        let length = self.read(info::INSTRUCTION_LENGTH);
        (1..=15).contains(&length).then_some(length as u8)
    }

    #[cold]
    fn entry_refused(&mut self, result: u32) {
        self.cache.forget();
        self.entered.length = 0;
        self.entered.vectoring = Interruption(0);
        self.entered.reason = NONE;
        if result != result::REFUSED {
            // The VMCS cannot be read.
            self.entered.refused = Some(0);
            return;
        }
        self.entered.refused = Some(Current.read(info::INSTRUCTION_ERROR));
        self.take_event_back();
    }

    /// The entry has failed, so its event was not delivered: as if it had been
    /// cut off. An exit would have cleared it.
    fn take_event_back(&mut self) {
        self.entered.vectoring = Interruption(Current.read(control::ENTRY_INTERRUPTION));
        self.write(control::ENTRY_INTERRUPTION, 0);
    }

    /// What the EPT violation says that was the last exit.
    #[inline(always)]
    pub(super) fn ept_violation(&self) -> NestedFault {
        let gpa = Gpa(Current.read(info::GUEST_PHYSICAL));
        exit::ept_violation(self.entered.qualification, gpa)
    }

    /// What the exit says, which an access to ports made.
    #[inline(always)]
    pub(super) fn port_access(&self) -> IoExit {
        exit::io(Current.read(info::QUALIFICATION))
    }

    /// Why the guest has stopped.
    #[inline]
    pub(super) fn decode_exit(&mut self) -> Exit {
        match self.entered.reason {
            // What comes most of what is not `Frequent`.
            Reason::EXTERNAL_INTERRUPT => Exit::HostInterrupt,
            reason => self.decode_other(reason),
        }
    }

    /// What the exit says beside its reason.
    #[inline(never)]
    fn decode_other(&mut self, reason: Reason) -> Exit {
        match reason {
            Reason::APIC_ACCESS => return self.apic_access_exit(),
            Reason::APIC_WRITE => return self.apic_write_exit(),
            _ => {}
        }
        if let Some(error) = self.entered.refused.take() {
            return Exit::EntryFailed {
                reason: u64::from(error),
            };
        }
        if reason == Reason::PREEMPTION_TIMER && self.run_timer.is_due(host_cpu::rdtsc()) {
            return Exit::Deadline;
        }
        let exit = exit::decode(reason, &Current);
        match exit {
            Exit::NmiWindow => self.words.primary.set(Primary::NMI_WINDOW, false),
            Exit::Exception { vector, .. } if vector == Vector::Debug.number() => {
                // The processor tells it here and does not write DR6 (28.2.1,
                // table 28-1).
                self.debug_cause = Current.read(info::QUALIFICATION) & Dr6::CAUSES.0;
            }
            Exit::EntryFailed { .. } if reason.basic() == Reason::ENTRY_MACHINE_CHECK => {
                return Exit::Exception {
                    vector: Vector::MachineCheck.number(),
                    error_code: None,
                };
            }
            _ => {}
        }
        exit
    }
}
