// SPDX-License-Identifier: GPL-2.0-or-later

//! Virtio over PCI, the modern interface (virtio 1.2, 4.1), with MSI-X for interrupts.
//!
//! BAR 0 holds a page each for the common configuration, ISR, device configuration,
//! notifications, MSI-X table and pending bits. Notifications are ioeventfds: KVM takes them
//! without coming back to us.

mod common;

use std::sync::atomic::{AtomicU16, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use virtio_bindings::bindings::virtio_config as status;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::worker::{Input, Interrupt, Worker};
use super::{VirtioDevice, COMMON_FEATURES, QUEUE_SIZE};
use crate::devices::pci::config::{ConfigSpace, Identity};
use crate::devices::pci::msix::{self, Msix, Sink};
use crate::devices::pci::PciFunction;
use crate::message::say;
use crate::sync::lock;

const VENDOR: u16 = 0x1af4;
/// The device id of a modern device is this plus its virtio id.
const DEVICE_BASE: u16 = 0x1040;
const SUBSYSTEM: u16 = 0x1100;

/// Size of BAR 0 and of its parts, in bytes.
pub const MEMORY_SIZE: u64 = 0x8000;
const PART_SIZE: u64 = 0x1000;
const PART_COMMON: u64 = 0;
const PART_ISR: u64 = 1;
const PART_DEVICE: u64 = 2;
const PART_NOTIFY: u64 = 3;
const PART_MSIX_TABLE: u64 = 4;
const PART_MSIX_PENDING: u64 = 5;

/// Bytes between the places where two queues are notified.
const NOTIFY_MULTIPLIER: u32 = 4;

/// Vendor capability and the types of structure it can point to (4.1.4).
const CAPABILITY_VENDOR: u8 = 0x09;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;

/// "No interrupt for this" as MSI-X vector.
const NO_VECTOR: u16 = 0xffff;
const ISR_QUEUE: u8 = 1 << 0;
const ISR_CONFIG: u8 = 1 << 1;

const FEATURES_OK: u8 = status::VIRTIO_CONFIG_S_FEATURES_OK as u8;
const DRIVER_OK: u8 = status::VIRTIO_CONFIG_S_DRIVER_OK as u8;
const NEEDS_RESET: u8 = status::VIRTIO_CONFIG_S_NEEDS_RESET as u8;

/// What the device's thread and the registers share.
struct Signals {
    msix: Mutex<Msix>,
    isr: AtomicU8,
    status: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
}

impl Interrupt for Signals {
    fn used(&self, queue: usize) {
        self.isr.fetch_or(ISR_QUEUE, Ordering::SeqCst);
        if let Some(vector) = self.queue_vectors.get(queue) {
            lock(&self.msix).signal(vector.load(Ordering::SeqCst));
        }
    }

    fn needs_reset(&self) {
        self.status.fetch_or(NEEDS_RESET, Ordering::SeqCst);
        self.isr.fetch_or(ISR_CONFIG, Ordering::SeqCst);
        lock(&self.msix).signal(self.config_vector.load(Ordering::SeqCst));
    }
}

/// Where notifications of queues arrive without a detour through us.
pub trait Notifier: Send {
    /// From now on a write to `address` is a write to `event`.
    ///
    /// # Errors
    ///
    /// When KVM refuses it.
    fn connect(&self, event: &EventFd, address: u64) -> Result<()>;
    /// Ends what [`Self::connect`] began.
    fn disconnect(&self, event: &EventFd, address: u64);
}

impl Notifier for Arc<VmFd> {
    fn connect(&self, event: &EventFd, address: u64) -> Result<()> {
        self.register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .context("KVM refused an ioeventfd")
    }

    fn disconnect(&self, event: &EventFd, address: u64) {
        // It fails only if it was not connected, which is as good.
        let _ = self.unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch);
    }
}

/// A virtio device on the PCI bus.
pub struct VirtioPci<D> {
    name: String,
    device: Arc<Mutex<D>>,
    config: ConfigSpace,
    msix_capability: usize,
    signals: Arc<Signals>,
    memory: GuestMemoryMmap,
    notifier: Box<dyn Notifier>,
    /// Where BAR 0 is while notifications are connected there.
    connected: Option<u64>,

    offered: u64,
    chosen: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    queues: Vec<Queue>,
    events: Vec<Arc<EventFd>>,
    worker: Option<Worker>,
}

/// A capability that says where in BAR 0 a structure is.
fn structure(kind: u8, part: u64, extra: &[u8]) -> Vec<u8> {
    let length = 16 + extra.len() as u8;
    let mut body = vec![length, kind, 0, 0, 0, 0];
    body.extend(((part * PART_SIZE) as u32).to_le_bytes());
    body.extend((PART_SIZE as u32).to_le_bytes());
    body.extend(extra);
    body
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// Puts `device` on the bus with its memory at `address`.
    ///
    /// # Errors
    ///
    /// When the system or KVM refuses a resource.
    pub fn new(
        name: &str,
        device: D,
        address: u32,
        memory: GuestMemoryMmap,
        sink: Arc<dyn Sink>,
        notifier: Box<dyn Notifier>,
    ) -> Result<Self> {
        let count = device.queues();
        let mut queues = Vec::new();
        let mut events = Vec::new();
        for _ in 0..count {
            queues.push(Queue::new(QUEUE_SIZE).context("queues of this size do not exist")?);
            events.push(Arc::new(
                EventFd::new(EFD_NONBLOCK).context("cannot make an eventfd")?,
            ));
        }
        // One vector for the configuration and one for each queue.
        let vectors = u16::try_from(count)? + 1;
        let mut config = ConfigSpace::new(&Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + device.id(),
            revision: 1,
            class: device.pci_class(),
            subsystem_vendor: VENDOR,
            subsystem: SUBSYSTEM,
        });
        config.set_bar(address, MEMORY_SIZE as u32);
        config.add_capability(CAPABILITY_VENDOR, &structure(CFG_COMMON, PART_COMMON, &[]));
        config.add_capability(CAPABILITY_VENDOR, &structure(CFG_ISR, PART_ISR, &[]));
        config.add_capability(CAPABILITY_VENDOR, &structure(CFG_DEVICE, PART_DEVICE, &[]));
        let notify = structure(CFG_NOTIFY, PART_NOTIFY, &NOTIFY_MULTIPLIER.to_le_bytes());
        config.add_capability(CAPABILITY_VENDOR, &notify);
        let table = (PART_MSIX_TABLE * PART_SIZE) as u32;
        let pending = (PART_MSIX_PENDING * PART_SIZE) as u32;
        let msix_capability =
            config.add_capability(msix::CAPABILITY, &Msix::capability(vectors, table, pending));
        config.allow(
            msix_capability + msix::CONTROL,
            &msix::CONTROL_WRITABLE.to_le_bytes(),
        );
        let offered = COMMON_FEATURES | device.features();
        let mut function = Self {
            name: name.to_owned(),
            device: Arc::new(Mutex::new(device)),
            config,
            msix_capability,
            signals: Arc::new(Signals {
                msix: Mutex::new(Msix::new(sink, vectors)?),
                isr: AtomicU8::new(0),
                status: AtomicU8::new(0),
                config_vector: AtomicU16::new(NO_VECTOR),
                queue_vectors: (0..count).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            }),
            memory,
            notifier,
            connected: None,
            offered,
            chosen: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            queues,
            events,
            worker: None,
        };
        function.connect_notifications()?;
        Ok(function)
    }

    /// Lets KVM take notifications at where BAR 0 is now.
    fn connect_notifications(&mut self) -> Result<()> {
        let base = self.config.memory().map(|(base, _)| base);
        if base == self.connected {
            return Ok(());
        }
        let place = |base: u64, index: usize| {
            base + PART_NOTIFY * PART_SIZE + index as u64 * u64::from(NOTIFY_MULTIPLIER)
        };
        if let Some(old) = self.connected.take() {
            for (index, event) in self.events.iter().enumerate() {
                self.notifier.disconnect(event, place(old, index));
            }
        }
        if let Some(new) = base {
            self.connected = base;
            for (index, event) in self.events.iter().enumerate() {
                self.notifier.connect(event, place(new, index))?;
            }
        }
        Ok(())
    }

    fn status(&self) -> u8 {
        self.signals.status.load(Ordering::SeqCst)
    }

    fn set_status(&mut self, new: u8) {
        let old = self.status();
        if new == 0 {
            self.reset();
            return;
        }
        let mut accepted = new | old & NEEDS_RESET;
        if new & FEATURES_OK != 0 && old & FEATURES_OK == 0 && !self.features_acceptable() {
            accepted &= !FEATURES_OK;
        }
        self.signals.status.store(accepted, Ordering::SeqCst);
        let starts = accepted & DRIVER_OK != 0 && old & DRIVER_OK == 0;
        if starts && (accepted & FEATURES_OK == 0 || self.start().is_err()) {
            self.signals.needs_reset();
        }
    }

    fn features_acceptable(&self) -> bool {
        self.chosen & !self.offered == 0 && self.chosen & 1 << status::VIRTIO_F_VERSION_1 != 0
    }

    /// The driver is ready: hands the queues to a thread.
    fn start(&mut self) -> Result<()> {
        let event_index =
            self.chosen & 1 << virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX != 0;
        let mut inputs = Vec::new();
        for (queue, event) in self.queues.iter_mut().zip(&self.events) {
            if !queue.ready() {
                inputs.push(None);
                continue;
            }
            if !queue.is_valid(&self.memory) {
                anyhow::bail!("a queue is not in memory");
            }
            queue.set_event_idx(event_index);
            // What the driver did to it before it was ready counts.
            let mut running = Queue::new(QUEUE_SIZE)?;
            std::mem::swap(queue, &mut running);
            *queue = copy_settings(&running)?;
            inputs.push(Some(Input {
                queue: running,
                event: event.clone(),
            }));
        }
        lock(&self.device).activate(self.chosen);
        let interrupt: Arc<dyn Interrupt> = self.signals.clone();
        self.worker = Some(Worker::start(
            &self.name,
            self.device.clone(),
            inputs,
            self.memory.clone(),
            interrupt,
        )?);
        Ok(())
    }

    fn reset(&mut self) {
        // Stops the thread: afterwards no buffer of the driver's is touched any more.
        self.worker = None;
        for queue in &mut self.queues {
            queue.reset();
        }
        for event in &self.events {
            // Nonblocking; a notification from before the reset means nothing after it.
            let _ = event.read();
        }
        self.chosen = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.queue_select = 0;
        self.signals
            .config_vector
            .store(NO_VECTOR, Ordering::SeqCst);
        for vector in &self.signals.queue_vectors {
            vector.store(NO_VECTOR, Ordering::SeqCst);
        }
        self.signals.isr.store(0, Ordering::SeqCst);
        self.signals.status.store(0, Ordering::SeqCst);
    }
}

/// A queue as the driver set it up, for the registers to show while the device's thread has the
/// one in use.
fn copy_settings(queue: &Queue) -> Result<Queue> {
    let mut copy = Queue::new(QUEUE_SIZE)?;
    let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
    copy.set_size(queue.size());
    let (low, high) = halves(queue.desc_table());
    copy.set_desc_table_address(low, high);
    let (low, high) = halves(queue.avail_ring());
    copy.set_avail_ring_address(low, high);
    let (low, high) = halves(queue.used_ring());
    copy.set_used_ring_address(low, high);
    copy.set_ready(queue.ready());
    Ok(copy)
}

impl<D: VirtioDevice> PciFunction for VirtioPci<D> {
    fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        let control = self.msix_capability + msix::CONTROL;
        if offset < control + 2 && offset + data.len() > control {
            lock(&self.signals.msix).set_control(self.config.word(control));
        }
        if let Err(error) = self.connect_notifications() {
            say!("{}: {error:#}", self.name);
        }
    }

    fn memory(&self) -> Option<(u64, u64)> {
        self.config.memory()
    }

    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let within = offset % PART_SIZE;
        match offset / PART_SIZE {
            PART_COMMON => self.common_read(within, data),
            PART_ISR if within == 0 => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.signals.isr.swap(0, Ordering::SeqCst);
                }
            }
            PART_DEVICE => lock(&self.device).config_read(within as usize, data),
            PART_MSIX_TABLE => lock(&self.signals.msix).table_read(within as usize, data),
            PART_MSIX_PENDING => lock(&self.signals.msix).pending_read(within as usize, data),
            _ => {}
        }
    }

    fn memory_write(&mut self, offset: u64, data: &[u8]) {
        let within = offset % PART_SIZE;
        match offset / PART_SIZE {
            PART_COMMON => self.common_write(within, data),
            PART_DEVICE => lock(&self.device).config_write(within as usize, data),
            PART_NOTIFY => {
                let index = within / u64::from(NOTIFY_MULTIPLIER);
                if let Some(event) = self.events.get(index as usize) {
                    // Full means notified.
                    let _ = event.write(1);
                }
            }
            PART_MSIX_TABLE => lock(&self.signals.msix).table_write(within as usize, data),
            _ => {}
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::rng::Rng;
    use super::*;
    use crate::devices::pci::msix::tests::Recorder;

    #[derive(Default)]
    struct Notifications(Arc<Mutex<Vec<u64>>>);

    impl Notifier for Notifications {
        fn connect(&self, _event: &EventFd, address: u64) -> Result<()> {
            self.0.lock().unwrap().push(address);
            Ok(())
        }
        fn disconnect(&self, _event: &EventFd, address: u64) {
            self.0.lock().unwrap().retain(|other| *other != address);
        }
    }

    pub const BASE: u32 = 0xe000_0000;

    pub fn function() -> (Arc<Mutex<Vec<u64>>>, VirtioPci<Rng>) {
        let notifications = Notifications::default();
        let places = notifications.0.clone();
        let memory = super::super::buffers::tests::memory();
        let sink = Arc::new(Recorder::default());
        let function =
            VirtioPci::new("rng", Rng, BASE, memory, sink, Box::new(notifications)).unwrap();
        (places, function)
    }

    pub fn read<const N: usize>(function: &mut VirtioPci<Rng>, offset: u64) -> u64 {
        let mut data = [0; 8];
        function.memory_read(offset, &mut data[..N]);
        u64::from_le_bytes(data)
    }

    pub fn write(function: &mut VirtioPci<Rng>, offset: u64, data: &[u8]) {
        function.memory_write(offset, data);
    }

    /// As far as features negotiated.
    pub fn negotiate(function: &mut VirtioPci<Rng>, high: u32) -> u64 {
        write(function, 20, &[0]);
        write(function, 20, &[1]);
        write(function, 20, &[3]);
        write(function, 8, &1u32.to_le_bytes());
        write(function, 12, &high.to_le_bytes());
        write(function, 20, &[3 | FEATURES_OK]);
        read::<1>(function, 20)
    }

    pub fn set_up_queue(function: &mut VirtioPci<Rng>, descriptors: u64) {
        write(function, 22, &[0, 0]);
        write(function, 24, &16u16.to_le_bytes());
        write(function, 32, &descriptors.to_le_bytes());
        write(function, 40, &0x2000u64.to_le_bytes());
        write(function, 48, &0x3000u64.to_le_bytes());
        write(function, 28, &[1, 0]);
    }

    #[test]
    fn device_starts_and_resets() {
        let (_, mut function) = function();
        negotiate(&mut function, 1);
        set_up_queue(&mut function, 0x1000);
        write(&mut function, 20, &[3 | FEATURES_OK | DRIVER_OK]);
        assert_eq!(
            read::<1>(&mut function, 20),
            u64::from(3 | FEATURES_OK | DRIVER_OK)
        );
        assert!(function.worker.is_some());
        assert_eq!(
            read::<8>(&mut function, 32),
            0x1000,
            "registers still show the queue"
        );
        write(&mut function, 20, &[0]);
        assert!(function.worker.is_none());
        assert_eq!(read::<1>(&mut function, 20), 0);
        assert_eq!(read::<2>(&mut function, 28), 0, "the queue is off");
        assert_eq!(
            read::<2>(&mut function, 24),
            u64::from(QUEUE_SIZE),
            "and of full size again"
        );
    }

    #[test]
    fn a_queue_outside_memory_needs_a_reset() {
        let (_, mut function) = function();
        negotiate(&mut function, 1);
        set_up_queue(&mut function, 1 << 40);
        write(&mut function, 20, &[3 | FEATURES_OK | DRIVER_OK]);
        assert_eq!(
            read::<1>(&mut function, 20) as u8 & NEEDS_RESET,
            NEEDS_RESET
        );
        assert_eq!(
            read::<1>(&mut function, PART_ISR * PART_SIZE),
            u64::from(ISR_CONFIG)
        );
        assert_eq!(
            read::<1>(&mut function, PART_ISR * PART_SIZE),
            0,
            "reading clears it"
        );
    }

    #[test]
    fn notifications_follow_the_bar() {
        let (places, mut function) = function();
        let notify = PART_NOTIFY * PART_SIZE;
        assert_eq!(*places.lock().unwrap(), [u64::from(BASE) + notify]);
        function.config_write(4, &[0, 0]);
        assert!(places.lock().unwrap().is_empty(), "memory is switched off");
        function.config_write(0x10, &0xe010_0000u32.to_le_bytes());
        function.config_write(4, &[2, 0]);
        assert_eq!(*places.lock().unwrap(), [0xe010_0000 + notify]);
    }

    #[test]
    fn every_structure_is_found() {
        let (_, mut function) = function();
        let mut place = [0];
        function.config_read(0x34, &mut place);
        let mut kinds = Vec::new();
        while place[0] != 0 {
            let mut capability = [0; 16];
            function.config_read(usize::from(place[0]), &mut capability);
            if capability[0] == CAPABILITY_VENDOR {
                let offset = u32::from_le_bytes(capability[8..12].try_into().unwrap());
                kinds.push((capability[3], offset));
            } else {
                assert_eq!(capability[0], msix::CAPABILITY);
                assert_eq!(capability[2], 1, "two vectors, less one");
            }
            place = [capability[1]];
        }
        assert_eq!(kinds, [(1, 0), (3, 0x1000), (4, 0x2000), (2, 0x3000)]);
    }
}
