// SPDX-License-Identifier: GPL-2.0-or-later

//! Message-signalled interrupts of a PCI function (MSI-X; PCI Local Bus 3.0, 6.8.2).
//!
//! Each vector has a GSI and an eventfd of its own: raising it is one write, and KVM sends the
//! message the guest programmed.

use std::sync::Arc;

use anyhow::{Context, Result};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::irq::{Message, Router};
use crate::message::say;

/// Capability id of MSI-X.
pub const CAPABILITY: u8 = 0x11;
/// Offset of the message control word in the capability.
pub const CONTROL: usize = 2;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;
/// The bits of the message control word the guest may change.
pub const CONTROL_WRITABLE: u16 = CONTROL_ENABLE | CONTROL_MASK_ALL;

const ENTRY_SIZE: usize = 16;
const ENTRY_CONTROL: usize = 12;
const ENTRY_MASKED: u8 = 1 << 0;

/// Where interrupts can be sent from: the part of [`Router`] a function needs.
pub trait Sink: Send + Sync {
    /// A GSI of its own that `event` raises.
    ///
    /// # Errors
    ///
    /// When KVM refuses it.
    fn connect(&self, event: &EventFd) -> Result<u32>;
    /// Where interrupts of `gsi` go from now on.
    ///
    /// # Errors
    ///
    /// When KVM refuses it.
    fn route(&self, gsi: u32, message: Message) -> Result<()>;
}

impl Sink for Router {
    fn connect(&self, event: &EventFd) -> Result<u32> {
        let gsi = self.allocate();
        self.bind(event, gsi)?;
        Ok(gsi)
    }

    fn route(&self, gsi: u32, message: Message) -> Result<()> {
        self.set_message(gsi, message)
    }
}

struct Vector {
    entry: [u8; ENTRY_SIZE],
    /// Raised while it was masked.
    pending: bool,
    event: EventFd,
    gsi: u32,
}

impl Vector {
    fn masked(&self) -> bool {
        self.entry[ENTRY_CONTROL] & ENTRY_MASKED != 0
    }

    fn message(&self) -> Message {
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.entry;
        Message {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            data: u32::from_le_bytes([i, j, k, l]),
        }
    }
}

/// A function's vectors.
pub struct Msix {
    sink: Arc<dyn Sink>,
    control: u16,
    vectors: Vec<Vector>,
}

impl Msix {
    /// `count` vectors, all masked.
    ///
    /// # Errors
    ///
    /// When the system or KVM refuses a resource.
    pub fn new(sink: Arc<dyn Sink>, count: u16) -> Result<Self> {
        let mut vectors = Vec::new();
        for _ in 0..count {
            let event = EventFd::new(EFD_NONBLOCK).context("cannot make an eventfd")?;
            let gsi = sink.connect(&event)?;
            let mut entry = [0; ENTRY_SIZE];
            entry[ENTRY_CONTROL] = ENTRY_MASKED;
            vectors.push(Vector {
                entry,
                pending: false,
                event,
                gsi,
            });
        }
        Ok(Self {
            sink,
            control: 0,
            vectors,
        })
    }

    /// The capability's body, for a table and a pending-bit array in BAR 0.
    pub fn capability(count: u16, table: u32, pending: u32) -> [u8; 10] {
        let mut body = [0; 10];
        let size = count.saturating_sub(1).to_le_bytes();
        let fields = size
            .into_iter()
            .chain(table.to_le_bytes())
            .chain(pending.to_le_bytes());
        for (byte, value) in body.iter_mut().zip(fields) {
            *byte = value;
        }
        body
    }

    /// Takes the message control word the guest wrote.
    pub fn set_control(&mut self, control: u16) {
        self.control = control;
        for index in 0..self.vectors.len() {
            self.update(index);
        }
    }

    fn quiet(&self) -> bool {
        self.control & CONTROL_ENABLE == 0 || self.control & CONTROL_MASK_ALL != 0
    }

    /// Brings KVM up to date with a vector, and raises it if it waited.
    fn update(&mut self, index: usize) {
        let quiet = self.quiet();
        let Some(vector) = self.vectors.get_mut(index) else {
            return;
        };
        if quiet || vector.masked() {
            return;
        }
        if let Err(error) = self.sink.route(vector.gsi, vector.message()) {
            say!("an interrupt cannot be routed: {error:#}");
            return;
        }
        if std::mem::take(&mut vector.pending) {
            raise(&vector.event);
        }
    }

    /// Raises vector `index`, now or once it is unmasked. Vectors that do not exist, like the
    /// guest's "no vector", raise nothing.
    pub fn signal(&mut self, index: u16) {
        if self.control & CONTROL_ENABLE == 0 {
            return;
        }
        let quiet = self.quiet();
        let Some(vector) = self.vectors.get_mut(usize::from(index)) else {
            return;
        };
        if quiet || vector.masked() {
            vector.pending = true;
        } else {
            raise(&vector.event);
        }
    }

    /// A guest's read of the table.
    pub fn table_read(&self, offset: usize, data: &mut [u8]) {
        let bytes = self.vectors.iter().flat_map(|vector| vector.entry);
        for (value, byte) in data.iter_mut().zip(bytes.skip(offset)) {
            *value = byte;
        }
    }

    /// A guest's write to the table.
    pub fn table_write(&mut self, offset: usize, data: &[u8]) {
        let bytes = self.vectors.iter_mut().flat_map(|vector| &mut vector.entry);
        for (byte, value) in bytes.skip(offset).zip(data) {
            *byte = *value;
        }
        // Accesses are aligned and at most 8 bytes long: they touch one entry.
        self.update(offset / ENTRY_SIZE);
    }

    /// A guest's read of the pending bits.
    pub fn pending_read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        for (index, vector) in self.vectors.iter().enumerate() {
            let byte = (index / 8)
                .checked_sub(offset)
                .and_then(|byte| data.get_mut(byte));
            if let Some(byte) = byte {
                *byte |= u8::from(vector.pending) << (index % 8);
            }
        }
    }
}

fn raise(event: &EventFd) {
    // The counter never gets near its end: KVM reads it at once.
    let _ = event.write(1);
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Remembers what KVM would be told.
    #[derive(Default)]
    pub struct Recorder {
        pub events: Mutex<Vec<EventFd>>,
        pub routes: Mutex<Vec<(u32, Message)>>,
    }

    impl Recorder {
        /// Whether vector `index` was raised since the last time.
        pub fn raised(&self, index: usize) -> bool {
            self.events.lock().unwrap()[index].read().is_ok()
        }
    }

    impl Sink for Recorder {
        fn connect(&self, event: &EventFd) -> Result<u32> {
            let mut events = self.events.lock().unwrap();
            events.push(event.try_clone()?);
            Ok(23 + events.len() as u32)
        }

        fn route(&self, gsi: u32, message: Message) -> Result<()> {
            self.routes.lock().unwrap().push((gsi, message));
            Ok(())
        }
    }

    fn msix() -> (Arc<Recorder>, Msix) {
        let recorder = Arc::new(Recorder::default());
        let msix = Msix::new(recorder.clone(), 2).unwrap();
        (recorder, msix)
    }

    fn program(msix: &mut Msix, vector: usize) {
        let base = vector * ENTRY_SIZE;
        msix.table_write(base, &0xfee0_1000u32.to_le_bytes());
        msix.table_write(base + 4, &[0; 4]);
        msix.table_write(base + 8, &(0x30 + vector as u32).to_le_bytes());
        msix.table_write(base + 12, &[0; 4]);
    }

    #[test]
    fn programmed_vectors_are_routed_and_raised() {
        let (recorder, mut msix) = msix();
        msix.set_control(CONTROL_ENABLE);
        program(&mut msix, 1);
        let message = Message {
            address: 0xfee0_1000,
            data: 0x31,
        };
        assert_eq!(*recorder.routes.lock().unwrap(), [(25, message)]);
        msix.signal(1);
        assert!(recorder.raised(1));
        assert!(!recorder.raised(0));
    }

    #[test]
    fn masked_vectors_wait() {
        let (recorder, mut msix) = msix();
        msix.set_control(CONTROL_ENABLE);
        program(&mut msix, 0);
        msix.table_write(ENTRY_CONTROL, &[ENTRY_MASKED, 0, 0, 0]);
        msix.signal(0);
        assert!(!recorder.raised(0));
        let mut pending = [0; 8];
        msix.pending_read(0, &mut pending);
        assert_eq!(pending[0], 1);
        msix.table_write(ENTRY_CONTROL, &[0; 4]);
        assert!(recorder.raised(0));
        msix.pending_read(0, &mut pending);
        assert_eq!(pending[0], 0);
    }

    #[test]
    fn whole_function_can_be_masked() {
        let (recorder, mut msix) = msix();
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK_ALL);
        program(&mut msix, 0);
        assert!(recorder.routes.lock().unwrap().is_empty());
        msix.signal(0);
        assert!(!recorder.raised(0));
        msix.set_control(CONTROL_ENABLE);
        assert!(recorder.raised(0));
    }

    #[test]
    fn disabled_or_absent_vectors_raise_nothing() {
        let (recorder, mut msix) = msix();
        program(&mut msix, 0);
        msix.signal(0);
        msix.set_control(CONTROL_ENABLE);
        assert!(!recorder.raised(0));
        msix.signal(2);
        msix.signal(0xffff);
        assert!(!recorder.raised(0) && !recorder.raised(1));
    }

    #[test]
    fn table_reads_back_and_ends() {
        let (_, mut msix) = msix();
        program(&mut msix, 1);
        let mut data = [0; 4];
        msix.table_read(ENTRY_SIZE + 8, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x31);
        msix.table_write(4096, &[1; 8]);
        let mut data = [0xff; 4];
        msix.table_read(2 * ENTRY_SIZE, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}
