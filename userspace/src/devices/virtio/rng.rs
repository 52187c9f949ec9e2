// SPDX-License-Identifier: GPL-2.0-or-later

//! The entropy device (virtio 1.2, 5.4): random bytes of the host's.

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vm_memory::GuestMemoryMmap;

use super::buffers::Request;
use super::VirtioDevice;

/// Bytes given per request at most; a driver that wants more asks again.
const REQUEST_MAX: u64 = 64 * 1024;
const CHUNK: usize = 256;

/// The entropy device.
pub struct Rng;

impl VirtioDevice for Rng {
    fn id(&self) -> u16 {
        VIRTIO_ID_RNG as u16
    }

    fn pci_class(&self) -> [u8; 3] {
        [0xff, 0, 0]
    }

    fn queues(&self) -> usize {
        1
    }

    fn features(&self) -> u64 {
        0
    }

    fn activate(&mut self, _features: u64) {}

    fn config_read(&self, _offset: usize, _data: &mut [u8]) {}

    fn config_write(&mut self, _offset: usize, _data: &[u8]) {}

    fn serve(&mut self, _queue: usize, mut request: Request<'_>, _memory: &GuestMemoryMmap) -> u32 {
        let mut left = request.writable.len().min(REQUEST_MAX) as usize;
        let mut written = 0;
        while left > 0 {
            let mut chunk = [0; CHUNK];
            let wanted = left.min(CHUNK);
            // SAFETY: writes at most `wanted` bytes, which the array has.
            let got = unsafe { libc::getrandom(chunk.as_mut_ptr().cast(), wanted, 0) };
            let Some(bytes) = usize::try_from(got).ok().and_then(|got| chunk.get(..got)) else {
                break;
            };
            written += request.writable.write(bytes);
            left -= bytes.len();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffers::tests::{buffers, memory};
    use super::super::buffers::Buffers;
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn whole_buffer_is_filled() {
        let memory = memory();
        let request = Request {
            readable: Buffers::default(),
            writable: buffers(&memory, &[(0x100, 1000), (0x1000, 1000)]),
        };
        assert_eq!(Rng.serve(0, request, &memory), 2000);
        let mut bytes = [0u8; 1000];
        memory.read_slice(&mut bytes, GuestAddress(0x1000)).unwrap();
        // All zero by chance once in 2^8000 times.
        assert!(bytes.iter().any(|byte| *byte != 0));
        let after: u8 = memory.read_obj(GuestAddress(0x1000 + 1000)).unwrap();
        assert_eq!(after, 0);
    }
}
