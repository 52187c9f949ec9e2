// SPDX-License-Identifier: GPL-2.0-or-later

//! A serial port, a 16550A (vm-superio's), between the guest and a console.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial as Uart, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::console::output::Output;

/// The interrupt line, as an eventfd KVM listens to.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the main loop when the guest has read what it was given.
struct Drained(Arc<EventFd>);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // The event only wakes the main loop; it is nonblocking, and full means woken.
        let _ = self.0.write(1);
    }
}

/// A serial port.
pub struct Serial {
    uart: Uart<Line, Drained, Output>,
    /// Input that did not fit into the receiver's FIFO yet.
    waiting: VecDeque<u8>,
}

/// How much input is taken before [`Serial::wants_input`] says no, in bytes.
const WAITING_MAX: usize = 4096;

impl Serial {
    /// A port that raises `interrupt`, writes `drained` when it can take input again and sends
    /// what the guest writes to `output`.
    pub fn new(interrupt: EventFd, drained: Arc<EventFd>, output: Output) -> Self {
        Self {
            uart: Uart::with_events(Line(interrupt), Drained(drained), output),
            waiting: VecDeque::new(),
        }
    }

    /// Whether more input can be taken now.
    pub fn wants_input(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// Takes input for the guest.
    pub fn input(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
        self.feed();
    }

    /// Passes on waiting input as far as the FIFO has room.
    pub fn feed(&mut self) {
        let room = self.uart.fifo_capacity().min(self.waiting.len());
        if room == 0 {
            return;
        }
        let bytes: Vec<u8> = self.waiting.iter().copied().take(room).collect();
        // A port in loopback mode takes nothing; the bytes wait for the next occasion.
        let taken = self.uart.enqueue_raw_bytes(&bytes).unwrap_or(0);
        self.waiting.drain(..taken.min(room));
    }
}

/// Register offsets and bits of a 16550.
const IER: u64 = 1;
const IIR: u8 = 2;
const LCR: u8 = 3;
const LCR_DIVISOR_ACCESS: u8 = 1 << 7;

impl Serial {
    /// Forgets that an interrupt was signalled already, when the guest is about to write the
    /// interrupt enable register.
    ///
    /// Enabling an interrupt whose condition holds must raise it. The device model raises one
    /// only if none is identified as pending, and would stay silent for ever if the guest missed
    /// the first, as Linux does while it probes the port with its interrupt line masked.
    fn rearm(&mut self) {
        if self.uart.read(LCR) & LCR_DIVISOR_ACCESS == 0 {
            self.uart.read(IIR);
        }
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // The registers are bytes; a wider read gets the neighbours, as on an 8-bit bus.
        for (offset, byte) in (offset..).zip(data) {
            *byte = self.uart.read(offset as u8);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (offset, byte) in (offset..).zip(data) {
            if offset == IER {
                self.rearm();
            }
            // A byte that cannot be written out is lost, as on a line nobody listens to.
            let _ = self.uart.write(offset as u8, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> (EventFd, Arc<EventFd>, Serial) {
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let drained = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let serial = Serial::new(
            interrupt.try_clone().unwrap(),
            drained.clone(),
            Output::none(),
        );
        (interrupt, drained, serial)
    }

    #[test]
    fn long_input_arrives_whole_and_in_order() {
        let (interrupt, drained, mut serial) = port();
        serial.write(1, &[1]); // receiver interrupt on
        let text: Vec<u8> = (0..200).collect();
        serial.input(&text);
        assert!(interrupt.read().is_ok());
        let mut received = Vec::new();
        while received.len() < text.len() {
            let mut byte = [0];
            serial.read(0, &mut byte);
            received.push(byte[0]);
            if drained.read().is_ok() {
                serial.feed();
            }
        }
        assert_eq!(received, text);
    }

    #[test]
    fn enabling_raises_an_interrupt_that_was_missed() {
        let (interrupt, _, mut serial) = port();
        let raised = |serial: &mut Serial, enable: u8| {
            serial.write(IER, &[enable]);
            interrupt.read().is_ok()
        };
        assert!(raised(&mut serial, 2), "the transmitter is empty");
        assert!(!raised(&mut serial, 0));
        assert!(raised(&mut serial, 2), "it still is");
        serial.input(b"x");
        assert!(raised(&mut serial, 1), "and there is input");
    }

    #[test]
    fn input_is_bounded() {
        let (_, _, mut serial) = port();
        assert!(serial.wants_input());
        serial.input(&[0; WAITING_MAX + 100]);
        assert!(!serial.wants_input());
    }
}
