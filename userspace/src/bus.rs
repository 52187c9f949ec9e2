// SPDX-License-Identifier: GPL-2.0-or-later

//! An address space with devices in it: I/O ports or memory-mapped I/O.
//!
//! The bus is complete before the first vCPU runs and does not change afterwards, so lookups take
//! no lock; each device has its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::{bail, Result};

use crate::sync::lock;

/// A device that answers reads and writes in its range.
pub trait BusDevice: Send {
    /// Fills `data` with what the guest reads, `offset` bytes into the device's range.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes what the guest writes, `offset` bytes into the device's range.
    fn write(&mut self, offset: u64, data: &[u8]);
}

struct Range {
    length: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// Devices by address.
#[derive(Default)]
pub struct Bus {
    /// By first address. Ranges do not overlap and do not wrap.
    ranges: BTreeMap<u64, Range>,
}

impl Bus {
    /// Puts `device` at `base..base + length`.
    ///
    /// # Errors
    ///
    /// When the range is empty, wraps or overlaps another device's: a mistake in the machine's
    /// layout.
    pub fn insert(
        &mut self,
        base: u64,
        length: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<()> {
        let Some(end) = base.checked_add(length).filter(|end| *end > base) else {
            bail!("device range {base:#x}+{length:#x} is empty or wraps");
        };
        let below = self.ranges.range(..end).next_back();
        if let Some((other, range)) = below {
            if other + range.length > base {
                bail!("device ranges {base:#x}+{length:#x} and {other:#x} overlap");
            }
        }
        self.ranges.insert(base, Range { length, device });
        Ok(())
    }

    fn find(&self, address: u64) -> Option<(u64, &Arc<Mutex<dyn BusDevice>>)> {
        let (base, range) = self.ranges.range(..=address).next_back()?;
        let offset = address - base;
        (offset < range.length).then_some((offset, &range.device))
    }

    /// A guest's read. Where no device answers, all bits read as one, as on a real bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(address) {
            lock(device).read(offset, data);
        }
    }

    /// A guest's write. Where no device answers, it is lost.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address) {
            lock(device).write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder {
        writes: Vec<(u64, Vec<u8>)>,
    }

    impl BusDevice for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.writes.push((offset, data.to_vec()));
        }
    }

    fn device() -> Arc<Mutex<Recorder>> {
        Arc::default()
    }

    #[test]
    fn access_reaches_the_device_at_its_offset() {
        let mut bus = Bus::default();
        let (low, high) = (device(), device());
        bus.insert(0x3f8, 8, low.clone()).unwrap();
        bus.insert(0x400, 1, high.clone()).unwrap();
        let mut byte = [0];
        bus.read(0x3fd, &mut byte);
        assert_eq!(byte, [5]);
        bus.write(0x3ff, &[1, 2]);
        bus.write(0x400, &[3]);
        bus.write(0x401, &[4]);
        assert_eq!(low.lock().unwrap().writes, [(7, vec![1, 2])]);
        assert_eq!(high.lock().unwrap().writes, [(0, vec![3])]);
    }

    #[test]
    fn nobody_there_reads_as_ones() {
        let mut bus = Bus::default();
        bus.insert(0x100, 4, device()).unwrap();
        for address in [0, 0xff, 0x104, u64::MAX] {
            let mut data = [0; 4];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 4], "{address:#x}");
        }
    }

    #[test]
    fn overlaps_are_refused() {
        let mut bus = Bus::default();
        bus.insert(0x100, 0x10, device()).unwrap();
        for (base, length) in [
            (0xf8, 9),
            (0x100, 1),
            (0x10f, 1),
            (0x80, 0x1000),
            (0x50, 0),
            (u64::MAX, 2),
        ] {
            assert!(
                bus.insert(base, length, device()).is_err(),
                "{base:#x}+{length:#x}"
            );
        }
        bus.insert(0xf8, 8, device()).unwrap();
        bus.insert(0x110, 8, device()).unwrap();
    }
}
