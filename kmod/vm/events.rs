// SPDX-License-Identifier: GPL-2.0

//! Events on their way into the guest: exceptions, NMIs and interrupts.
//!
//! Priority and blocking follow APM vol. 2, 8.5 and SDM vol. 3A, 7.9. An event
//! is injected by the VM entry; one whose delivery an exit cut off is delivered
//! again before anything new.

use crate::hw::Event;
use crate::hw::Registers;
use crate::hw::Vendor;
use crate::pc::regs::Dr6;
use crate::pc::regs::Exception;
use crate::pc::regs::FaultPair;
use crate::pc::regs::Rflags;
use crate::pc::regs::Vector;

/// NMIs that can wait: one is held by the processor while another is handled.
const MAX_PENDING_NMIS: u8 = 2;

/// INT3, INT n or INTO whose exception is to be delivered. The handler returns
/// behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TrapInsn {
    /// Its address.
    pub rip: u64,
    /// Its length in bytes.
    pub length: u8,
}

/// What waits to be delivered to one vCPU.
#[derive(Default)]
pub struct EventQueue {
    /// Being delivered: the entry that carried it did not complete it.
    pub injected: Option<Event>,
    /// Raised by an instruction, not yet delivered.
    pub exception: Option<Exception>,
    /// The instruction that raises `exception`, if that is a trap.
    pub trap: Option<TrapInsn>,
    /// Interrupt queued by KVM_INTERRUPT, for a VMM with its own controllers.
    pub external: Option<u8>,
    /// NMIs not yet delivered.
    pub nmis: u8,
    /// Triple fault: leave for userspace.
    pub triple_fault: bool,
}

impl EventQueue {
    /// Raises an exception, or what it makes of the one that is being
    /// delivered already (APM vol. 2, 8.2.9).
    pub fn raise(&mut self, exception: Exception) {
        let first = match (self.exception.take(), self.injected) {
            (Some(first), _) => Some(first.vector),
            (None, Some(Event::Exception(vector, _))) => Vector::from_number(vector),
            (None, _) => None,
        };
        let Some(first) = first else {
            self.exception = Some(exception);
            return;
        };
        match first.then(exception.vector) {
            // The first is a fault: its instruction runs again and raises it again.
            FaultPair::Serial => self.exception = Some(exception),
            FaultPair::DoubleFault => {
                self.exception = Some(Exception::with_code(Vector::DoubleFault, 0));
            }
            FaultPair::Shutdown => self.triple_fault = true,
        }
        if matches!(self.injected, Some(Event::Exception(..))) {
            self.injected = None;
        }
    }

    /// An exception has come up in the delivery of what the entry carried. An
    /// interrupt or NMI gives way to it, as in the processor, which has
    /// acknowledged it (APM vol. 2, 8.2.9); of two exceptions [`Self::raise`]
    /// makes one. An NMI that was acknowledged blocks others all the same.
    pub fn delivery_faulted<V: Vendor>(&mut self, hw: &mut V) {
        if self.injected == Some(Event::Nmi) {
            hw.set_nmi_blocked(true);
        }
        if matches!(self.injected, Some(Event::Interrupt(_) | Event::Nmi)) {
            self.injected = None;
        }
    }

    /// `count` NMIs have arrived.
    pub fn raise_nmi(&mut self, count: u8, blocked: bool) {
        let limit = MAX_PENDING_NMIS - u8::from(blocked);
        self.nmis = self.nmis.saturating_add(count).min(limit);
    }

    /// The interrupt that has been acknowledged but not delivered. Without a
    /// local APIC that is one of KVM_INTERRUPT as well, which waits for the guest
    /// to let it in; a local APIC is yet to pass it on.
    pub fn interrupt_in_flight(&self, lapic: bool) -> Option<u8> {
        match self.injected {
            Some(Event::Interrupt(vector)) => Some(vector),
            _ if lapic => None,
            _ => self.external,
        }
    }

    /// Sets or clears what [`Self::interrupt_in_flight`] tells.
    pub fn set_interrupt_in_flight(&mut self, vector: Option<u8>, lapic: bool) {
        if matches!(self.injected, Some(Event::Interrupt(_))) {
            self.injected = None;
        }
        if lapic {
            self.injected = vector.map(Event::Interrupt).or(self.injected);
        } else {
            self.external = vector;
        }
    }

    /// Registers get what the exception that waits brings with it, as when it
    /// is delivered; userspace is shown it as one that is.
    pub fn apply_payload<V: Vendor>(&mut self, hw: &mut V, regs: &mut Registers) {
        if let Some(exception) = &self.exception {
            apply_payload(hw, regs, exception);
        }
    }

    /// Whether an NMI could be delivered and end a HLT.
    pub fn nmi_ready<V: Vendor>(&self, hw: &V, regs: &Registers) -> bool {
        self.nmis > 0 && !hw.nmi_blocked(regs)
    }

    /// Nothing waits, except perhaps an interrupt.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.injected.is_none() && self.exception.is_none() && self.nmis == 0
    }

    /// Whether the next entry carries something already, so that an interrupt
    /// has to wait for the one after.
    #[inline]
    fn occupied(&self) -> bool {
        self.injected.is_some()
    }

    /// After an exit: keeps the event whose delivery was cut off.
    #[inline]
    pub fn after_exit<V: Vendor>(&mut self, hw: &V, regs: &mut Registers) {
        // What the entry carried has arrived, unless the processor says
        // otherwise.
        match hw.interrupted_event() {
            None => self.injected = None,
            Some(event) => self.cut_off(event, regs),
        }
    }

    #[cold]
    fn cut_off(&mut self, event: Event, regs: &mut Registers) {
        let carried = self.injected.replace(event);
        // INT n, INT3 and INTO happen again when the instruction does.
        if matches!(event, Event::SoftwareInterrupt(_)) || is_trap(event) {
            self.injected = None;
        }
        // An entry that carried a trap began behind its instruction.
        let trap = self.trap.filter(|_| carried.is_some_and(is_trap));
        if let Some(insn) = trap.filter(|insn| insn.end() == regs.rip) {
            regs.rip = insn.rip;
        }
    }

    /// Whether a trap waits: who can sleep says which instruction raises it.
    #[inline]
    pub fn awaits_trap(&self) -> bool {
        matches!(&self.exception, Some(exception) if exception.vector.is_trap())
    }

    /// Before an entry: hands the most urgent event to the processor.
    /// `interrupt` takes the highest interrupt of the controllers when asked.
    #[inline]
    pub fn deliver<V: Vendor>(
        &mut self,
        hw: &mut V,
        regs: &mut Registers,
        interrupt: &mut impl InterruptSource,
    ) {
        if !self.is_idle() {
            self.deliver_queued(hw, regs);
        }
        if !interrupt.any(self.external.is_some()) {
            return;
        }
        let open = regs.rflags.has(Rflags::IF) && !hw.interrupt_shadow();
        if !open || self.occupied() {
            hw.request_interrupt_window(true);
            return;
        }
        let Some(vector) = interrupt.take(&mut self.external) else {
            return;
        };
        self.inject(hw, Event::Interrupt(vector));
        // Another one behind it?
        if interrupt.any(self.external.is_some()) {
            hw.request_interrupt_window(true);
        }
    }

    fn inject<V: Vendor>(&mut self, hw: &mut V, event: Event) {
        self.injected = Some(event);
        hw.inject(event);
    }

    fn deliver_queued<V: Vendor>(&mut self, hw: &mut V, regs: &mut Registers) {
        if let Some(event) = self.injected {
            hw.inject(event);
        } else if let Some(exception) = self.exception.take() {
            self.inject_exception(hw, regs, exception);
        }
        if self.nmis == 0 {
            return;
        }
        if self.occupied() || hw.nmi_blocked(regs) || hw.interrupt_shadow() {
            hw.request_nmi_window(regs);
            return;
        }
        self.nmis -= 1;
        self.inject(hw, Event::Nmi);
    }

    fn inject_exception<V: Vendor>(
        &mut self,
        hw: &mut V,
        regs: &mut Registers,
        exception: Exception,
    ) {
        if exception.vector.is_trap() {
            // Without its instruction there is no trap: the guest has changed
            // its code, or goes on elsewhere after another event.
            let Some(insn) = self.trap.filter(|insn| insn.rip == regs.rip) else {
                return;
            };
            regs.rip = insn.end();
        }
        apply_payload(hw, regs, &exception);
        // A fault is pushed with RF so that its handler can return to an
        // instruction with a breakpoint on it.
        if !exception.vector.is_trap() && exception.vector != Vector::Debug {
            regs.rflags = regs.rflags.with(Rflags::RF);
        }
        // In real mode nothing pushes an error code.
        let code = exception.error_code.filter(|_| hw.cr0() & 1 != 0);
        self.inject(hw, Event::Exception(exception.vector.number(), code));
    }
}

impl TrapInsn {
    /// Where the handler returns to.
    const fn end(&self) -> u64 {
        self.rip.wrapping_add(self.length as u64)
    }
}

/// What an exception does to registers beside its delivery.
fn apply_payload<V: Vendor>(hw: &mut V, regs: &mut Registers, exception: &Exception) {
    match exception.vector {
        Vector::PageFault => hw.set_cr2(exception.payload),
        Vector::Debug => regs.dr6 = regs.dr6.without(Dr6::B).with(Dr6(exception.payload)),
        _ => {}
    }
}

fn is_trap(event: Event) -> bool {
    matches!(event, Event::Exception(vector, None)
        if Vector::from_number(vector).is_some_and(Vector::is_trap))
}

/// The interrupt controllers, as the queue asks them.
pub trait InterruptSource {
    /// Whether an interrupt could be taken now; `external`: one is queued
    /// beside the controllers.
    fn any(&mut self, external: bool) -> bool;
    /// Acknowledges the highest one, which may be `external`.
    fn take(&mut self, external: &mut Option<u8>) -> Option<u8>;
}
