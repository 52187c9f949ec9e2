// SPDX-License-Identifier: GPL-2.0

//! PICs and I/O APIC behind their spinlock, and the PICs' line to the vCPUs.
//!
//! Context: any but NMI. Nothing here calls out but to post interrupts to
//! vCPUs: what an access means for others is returned.

use super::vectors::Vectors;
use crate::host::sync::new_irq_spinlock;
use crate::host::sync::IrqSpinLock;
use crate::pc::addr::Gpa;
use crate::pc::ioapic::IoApic;
use crate::pc::ioapic::Written;
use crate::pc::ioapic::DEFAULT_ADDRESS;
use crate::pc::ioapic::WINDOW_SIZE;
use crate::pc::irq::LineStatus;
use crate::pc::lapic::VectorSet;
use crate::pc::pic::Changed;
use crate::pc::pic::Pic;
use crate::pc::pic::Which;
use crate::uapi::kvm_ioapic_state;
use crate::uapi::kvm_pic_state;
use crate::vm::irq::Delivery;
use crate::vm::irq::Source;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// Of a write with A0 = 0: the bits that make it OCW3 with P.
const OCW3_POLL_MASK: u8 = 0x1c;
const OCW3_POLL: u8 = 0x0c;

/// Whether a write to a PIC asks for poll mode.
const fn is_poll_command(port: u16, value: u8) -> bool {
    port & 1 == 0 && value & OCW3_POLL_MASK == OCW3_POLL
}

struct State {
    ioapic: IoApic,
    pic: Pic,
    /// Level of the PICs' line that the vCPUs were told.
    output: bool,
    /// A PIC has been set to poll mode, in which reads change it, or may have
    /// been.
    polls: bool,
}

/// The PICs and the I/O APIC of a VM.
pub struct Controllers {
    delivery: Delivery,
    state: IrqSpinLock<State>,
    /// Where the I/O APIC is.
    base: AtomicU64,
    /// Vectors whose EOI the I/O APIC has to see.
    eoi_vectors: Vectors,
}

impl Controllers {
    /// All after reset.
    pub fn new(delivery: Delivery) -> Self {
        Self {
            delivery,
            state: new_irq_spinlock!(State {
                ioapic: IoApic::new(),
                pic: Pic::new(),
                output: false,
                polls: false,
            }),
            base: AtomicU64::new(DEFAULT_ADDRESS),
            eoi_vectors: Vectors::default(),
        }
    }

    /// Whether the I/O APIC has to see EOIs of `vector`, even of edge-triggered
    /// interrupts.
    #[inline]
    pub fn wants_eoi(&self, vector: u8) -> bool {
        self.eoi_vectors.contains(vector)
    }

    /// All of them.
    pub fn eoi_vectors(&self) -> VectorSet {
        self.eoi_vectors.load()
    }

    /// Sets the level of a pin of the I/O APIC.
    pub fn set_ioapic(&self, pin: u8, source: Source, level: bool) -> LineStatus {
        let mut state = self.state.lock();
        state
            .ioapic
            .set_irq(pin, source as u8, level, &mut &self.delivery)
    }

    /// Sets the level of an input of the PICs.
    pub fn set_pic(&self, irq: u8, source: Source, level: bool) -> LineStatus {
        let mut state = self.state.lock();
        let status = state.pic.set_irq(irq, source as u8, level);
        self.drive_output(&mut state);
        status
    }

    /// The acknowledge cycle; `None` when the line is down.
    pub fn acknowledge(&self) -> Option<(u8, Changed)> {
        let mut state = self.state.lock();
        if !state.output {
            return None;
        }
        let answer = state.pic.ack();
        self.drive_output(&mut state);
        Some(answer)
    }

    /// Reads a port of the PICs.
    #[inline]
    pub fn read_pic(&self, port: u16) -> Option<(u8, Changed)> {
        let mut state = self.state.lock();
        let answer = state.pic.read(port);
        if state.polls {
            self.drive_output(&mut state);
        }
        answer
    }

    /// Writes a port of the PICs.
    #[inline]
    pub fn write_pic(&self, port: u16, value: u8) -> Option<Changed> {
        let mut state = self.state.lock();
        let answer = state.pic.write(port, value);
        state.polls |= is_poll_command(port, value);
        self.drive_output(&mut state);
        answer
    }

    /// Tells the vCPUs when the level of the PICs' line has changed.
    #[inline]
    fn drive_output(&self, state: &mut State) {
        let level = state.pic.output();
        if level != state.output {
            state.output = level;
            self.tell_vcpus(level);
        }
    }

    /// Under the lock, so that the last level told is the last level.
    fn tell_vcpus(&self, level: bool) {
        for vcpu in self.delivery.vcpus.iter() {
            if vcpu.apic.set_extint(level) {
                vcpu.kick();
            }
        }
    }

    /// Offset in the I/O APIC's window, if that is where `gpa` is.
    #[inline]
    pub fn ioapic_offset(&self, gpa: Gpa) -> Option<u32> {
        let offset = gpa.0.wrapping_sub(self.base.load(Ordering::Relaxed));
        (offset < WINDOW_SIZE).then_some(offset as u32)
    }

    /// Reads the I/O APIC's window.
    pub fn read_ioapic(&self, offset: u32) -> u32 {
        self.state.lock().ioapic.read(offset)
    }

    /// Writes the I/O APIC's window.
    pub fn write_ioapic(&self, offset: u32, value: u32) -> Written {
        let mut state = self.state.lock();
        let written = state.ioapic.write(offset, value);
        if written.entries_changed {
            self.publish_vectors(&state);
        }
        written
    }

    /// The EOI of a level-triggered interrupt. Gives the pins that it
    /// completes: whoever watches them is told, then [`Controllers::resume`].
    pub fn eoi(&self, vector: u8) -> u32 {
        self.state.lock().ioapic.eoi(vector, true)
    }

    /// Delivers what is still asserted at these pins. Gives those to be tried
    /// again later.
    pub fn resume(&self, pins: u32) -> u32 {
        let mut state = self.state.lock();
        state.ioapic.resume(pins, &mut &self.delivery)
    }

    /// Sets the pins of the I/O APIC whose EOI matters even if they are edge
    /// triggered.
    pub fn watch(&self, pins: u32) {
        let mut state = self.state.lock();
        state.ioapic.set_watched(pins);
        self.publish_vectors(&state);
    }

    fn publish_vectors(&self, state: &State) {
        self.eoi_vectors.store(state.ioapic.eoi_vectors());
    }

    /// The I/O APIC for userspace.
    pub fn ioapic_state(&self) -> kvm_ioapic_state {
        self.state.lock().ioapic.get_state()
    }

    /// Sets the I/O APIC, and delivers what is asserted.
    pub fn set_ioapic_state(&self, new: &kvm_ioapic_state) {
        let mut state = self.state.lock();
        state.ioapic.set_state(new, &mut &self.delivery);
        self.base
            .store(state.ioapic.base_address(), Ordering::Relaxed);
        self.publish_vectors(&state);
    }

    /// A PIC for userspace.
    pub fn pic_state(&self, which: Which) -> kvm_pic_state {
        self.state.lock().pic.get_state(which)
    }

    /// Sets a PIC.
    pub fn set_pic_state(&self, which: Which, new: &kvm_pic_state) {
        let mut state = self.state.lock();
        state.pic.set_state(which, new);
        state.polls |= new.poll != 0;
        self.drive_output(&mut state);
    }
}
