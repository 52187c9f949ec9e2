// SPDX-License-Identifier: GPL-2.0-or-later

//! Virtio devices (Virtual I/O Device version 1.2).
//!
//! What every device has in common is here; [`pci`] is how a guest finds and sets up a device,
//! [`worker`] the thread in which a device serves its queues.

pub mod blk;
pub mod buffers;
pub mod pci;
pub mod rng;
mod worker;

use virtio_bindings::bindings::{virtio_config, virtio_ring};
use vm_memory::GuestMemoryMmap;

use self::buffers::Request;

/// Features every device here offers: the modern interface, indirect descriptors and
/// notification suppression by index.
const COMMON_FEATURES: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1
    | 1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC
    | 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// Descriptors a queue has at most.
pub const QUEUE_SIZE: u16 = 256;

/// What a device does.
pub trait VirtioDevice: Send + 'static {
    /// The device's type (virtio 1.2, chapter 5).
    fn id(&self) -> u16;
    /// Class, subclass and interface of the PCI function.
    fn pci_class(&self) -> [u8; 3];
    /// How many queues the device has.
    fn queues(&self) -> usize;
    /// Features the device offers beside [`COMMON_FEATURES`].
    fn features(&self) -> u64;
    /// The driver chose these features and is about to use the device.
    fn activate(&mut self, features: u64);
    /// Reads the device's configuration; what lies past the end is left alone.
    fn config_read(&self, offset: usize, data: &mut [u8]);
    /// Writes the device's configuration.
    fn config_write(&mut self, offset: usize, data: &[u8]);
    /// Serves one request from `queue`; returns how many bytes were written into its buffers.
    fn serve(&mut self, queue: usize, request: Request<'_>, memory: &GuestMemoryMmap) -> u32;
}

/// Copies the part of `config` that a read at `offset` gets.
fn read_fields(config: &[u8], offset: usize, data: &mut [u8]) {
    for (value, byte) in data.iter_mut().zip(config.iter().skip(offset)) {
        *value = *byte;
    }
}
