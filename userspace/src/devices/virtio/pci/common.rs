// SPDX-License-Identifier: GPL-2.0-or-later

//! The common configuration structure (virtio 1.2, 4.1.4.3): through it a driver negotiates
//! features, sets up queues and starts the device.

use std::sync::atomic::{AtomicU16, Ordering};

use virtio_queue::{Queue, QueueT};

use super::{VirtioPci, DRIVER_OK, FEATURES_OK, NO_VECTOR};
use crate::devices::virtio::VirtioDevice;

impl<D: VirtioDevice> VirtioPci<D> {
    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.queue_select))
    }

    fn queue_vector(&self) -> Option<&AtomicU16> {
        self.signals
            .queue_vectors
            .get(usize::from(self.queue_select))
    }

    /// A vector the driver may use, or "none" for one that does not exist.
    fn valid_vector(&self, vector: u16) -> u16 {
        if usize::from(vector) <= self.queues.len() {
            vector
        } else {
            NO_VECTOR
        }
    }

    /// Reads the common configuration (4.1.4.3).
    pub(super) fn common_read(&self, offset: u64, data: &mut [u8]) {
        let half = |value: u64, select: u32| match select {
            0 => value as u32,
            1 => (value >> 32) as u32,
            _ => 0,
        };
        let queue = self.queue();
        let of_queue = |value: fn(&Queue) -> u64| queue.map_or(0, value);
        let value: u64 = match offset {
            0 => u64::from(self.device_feature_select),
            4 => u64::from(half(self.offered, self.device_feature_select)),
            8 => u64::from(self.driver_feature_select),
            12 => u64::from(half(self.chosen, self.driver_feature_select)),
            16 => u64::from(self.signals.config_vector.load(Ordering::SeqCst)),
            18 => self.queues.len() as u64,
            20 => u64::from(self.status()),
            // The configuration never changes by itself: generation 0 for ever.
            21 => 0,
            22 => u64::from(self.queue_select),
            24 => of_queue(|queue| u64::from(queue.size())),
            26 => u64::from(
                self.queue_vector()
                    .map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst)),
            ),
            28 => of_queue(|queue| u64::from(queue.ready())),
            30 => u64::from(self.queue_select),
            32 => of_queue(Queue::desc_table),
            36 => of_queue(Queue::desc_table) >> 32,
            40 => of_queue(Queue::avail_ring),
            44 => of_queue(Queue::avail_ring) >> 32,
            48 => of_queue(Queue::used_ring),
            52 => of_queue(Queue::used_ring) >> 32,
            _ => 0,
        };
        for (byte, source) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = source;
        }
    }

    /// Writes the common configuration.
    pub(super) fn common_write(&mut self, offset: u64, data: &[u8]) {
        match *data {
            [value] if offset == 20 => self.set_status(value),
            [a, b] => self.common_write_16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.common_write_32(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => {
                self.common_write_32(offset, u32::from_le_bytes([a, b, c, d]));
                self.common_write_32(offset.wrapping_add(4), u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
    }

    fn common_write_16(&mut self, offset: u64, value: u16) {
        let vector = self.valid_vector(value);
        let running = self.status() & DRIVER_OK != 0;
        match offset {
            16 => self.signals.config_vector.store(vector, Ordering::SeqCst),
            22 => self.queue_select = value,
            26 => {
                if let Some(place) = self.queue_vector() {
                    place.store(vector, Ordering::SeqCst);
                }
            }
            24 | 28 => {
                let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
                    return;
                };
                match offset {
                    24 if !queue.ready() => queue.set_size(value),
                    28 if value == 1 && !running => queue.set_ready(true),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn common_write_32(&mut self, offset: u64, value: u32) {
        match offset {
            0 => self.device_feature_select = value,
            8 => self.driver_feature_select = value,
            12 => self.choose(value),
            32..=52 => {
                let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
                    return;
                };
                if queue.ready() {
                    return;
                }
                match offset {
                    32 => queue.set_desc_table_address(Some(value), None),
                    36 => queue.set_desc_table_address(None, Some(value)),
                    40 => queue.set_avail_ring_address(Some(value), None),
                    44 => queue.set_avail_ring_address(None, Some(value)),
                    48 => queue.set_used_ring_address(Some(value), None),
                    52 => queue.set_used_ring_address(None, Some(value)),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn choose(&mut self, value: u32) {
        // Features are settled once FEATURES_OK stands.
        if self.status() & FEATURES_OK != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_feature_select {
            0 => self.chosen = self.chosen & !0xffff_ffff | value,
            1 => self.chosen = self.chosen & 0xffff_ffff | value << 32,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{function, negotiate, read, write};
    use super::*;

    #[test]
    fn features_must_be_modern_and_offered() {
        let (_, mut function) = function();
        assert_eq!(negotiate(&mut function, 1), u64::from(3 | FEATURES_OK));
        assert_eq!(negotiate(&mut function, 0), 3, "not modern");
        assert_eq!(negotiate(&mut function, 1 | 1 << 5), 3, "not offered");
    }

    #[test]
    fn absent_queues_and_vectors() {
        let (_, mut function) = function();
        write(&mut function, 22, &[1, 0]);
        assert_eq!(read::<2>(&mut function, 24), 0, "size 0 means absent");
        write(&mut function, 24, &[16, 0]);
        write(&mut function, 28, &[1, 0]);
        write(&mut function, 22, &[0, 0]);
        write(&mut function, 26, &[1, 0]);
        assert_eq!(read::<2>(&mut function, 26), 1);
        write(&mut function, 26, &[2, 0]);
        assert_eq!(read::<2>(&mut function, 26), u64::from(NO_VECTOR));
    }
}
