// SPDX-License-Identifier: GPL-2.0-or-later

//! The PCI bus: one segment, one bus, up to 32 devices of one function each, reached by
//! configuration mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2).
//!
//! Lock order: the configuration ports, then one function, then its [`msix::Msix`], then the
//! interrupt router.

pub mod config;
pub mod msix;

use std::sync::{Arc, Mutex};

use anyhow::{bail, Result};

use crate::boot::layout::{PCI_MMIO_SIZE, PCI_MMIO_START};
use crate::bus::BusDevice;
use crate::devices::reset::ResetControl;
use crate::sync::lock;

/// How many devices a bus has room for.
pub const SLOTS: usize = 32;

/// One function of a device.
pub trait PciFunction: Send {
    /// Reads configuration space; `offset + data.len()` is at most 256.
    fn config_read(&mut self, offset: usize, data: &mut [u8]);
    /// Writes configuration space, within the same bounds.
    fn config_write(&mut self, offset: usize, data: &[u8]);
    /// Base and size of the memory the function answers at, if it is switched on.
    fn memory(&self) -> Option<(u64, u64)>;
    /// Reads the function's memory.
    fn memory_read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes the function's memory.
    fn memory_write(&mut self, offset: u64, data: &[u8]);
}

/// A function on the bus.
pub type Slot = Arc<Mutex<dyn PciFunction>>;

/// The functions on the bus, by device number.
#[derive(Default)]
pub struct PciBus {
    slots: Vec<Slot>,
}

impl PciBus {
    /// Puts `function` into the next slot.
    ///
    /// # Errors
    ///
    /// When the bus is full.
    pub fn add(&mut self, function: Slot) -> Result<()> {
        if self.slots.len() >= SLOTS {
            bail!("no more devices fit on the PCI bus");
        }
        self.slots.push(function);
        Ok(())
    }

    /// Where the memory of the next device goes: `size` bytes (a power of two) per slot.
    pub fn next_memory(&self, size: u64) -> u32 {
        (PCI_MMIO_START + self.slots.len() as u64 * size) as u32
    }

    /// Calls `access` with the function that answers at `address`, and the offset into it.
    fn at_memory(&self, address: u64, access: impl FnOnce(&mut dyn PciFunction, u64)) {
        for slot in &self.slots {
            let mut function = lock(slot);
            let Some((base, size)) = function.memory() else {
                continue;
            };
            if let Some(offset) = address.checked_sub(base).filter(|offset| *offset < size) {
                return access(&mut *function, offset);
            }
        }
    }
}

/// The window of memory in which devices lie.
pub struct PciWindow(Arc<PciBus>);

impl PciWindow {
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self(bus)
    }
}

impl BusDevice for PciWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.0
            .at_memory(PCI_MMIO_START + offset, |function, offset| {
                function.memory_read(offset, data);
            });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0
            .at_memory(PCI_MMIO_START + offset, |function, offset| {
                function.memory_write(offset, data);
            });
    }
}

const _: () = assert!(PCI_MMIO_START + PCI_MMIO_SIZE <= 1 << 32);

/// Configuration address register: accesses to the data port reach configuration space.
const ADDRESS_ENABLE: u32 = 1 << 31;
/// The reset control register lies inside the address register.
const RESET_OFFSET: u64 = 1;
const DATA_OFFSET: u64 = 4;

/// The configuration ports, 0xcf8 to 0xcff.
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    address: u32,
    reset: ResetControl,
}

impl ConfigPorts {
    pub fn new(bus: Arc<PciBus>, reset: ResetControl) -> Self {
        Self {
            bus,
            address: 0,
            reset,
        }
    }

    /// The function the address register selects, and the offset into its configuration space
    /// for an access `offset` bytes into the data port.
    fn selected(&self, offset: u64) -> Option<(&Slot, usize)> {
        let bus_number = self.address >> 16 & 0xff;
        let device = self.address >> 11 & 0x1f;
        let function = self.address >> 8 & 7;
        // The bits between are reserved; AMD uses some for registers beyond 256, which we lack.
        let reserved = self.address >> 24 & 0x7f;
        if self.address & ADDRESS_ENABLE == 0 || reserved | bus_number | function != 0 {
            return None;
        }
        let slot = self.bus.slots.get(device as usize)?;
        Some((slot, (self.address & 0xfc) as usize + offset as usize))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let end = offset + data.len() as u64;
        match (offset, &mut *data) {
            (0, [a, b, c, d]) => [*a, *b, *c, *d] = self.address.to_le_bytes(),
            (RESET_OFFSET, [byte]) => *byte = self.reset.value(),
            (DATA_OFFSET.., _) if end <= 2 * DATA_OFFSET => {
                if let Some((slot, offset)) = self.selected(offset - DATA_OFFSET) {
                    lock(slot).config_read(offset, data);
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, [a, b, c, d]) => self.address = u32::from_le_bytes([*a, *b, *c, *d]),
            (RESET_OFFSET, [value]) => self.reset.set(*value),
            (DATA_OFFSET.., _) if offset + data.len() as u64 <= 2 * DATA_OFFSET => {
                if let Some((slot, offset)) = self.selected(offset - DATA_OFFSET) {
                    lock(slot).config_write(offset, data);
                }
            }
            _ => {}
        }
    }
}

/// The host bridge, device 0: only there to be found.
pub struct HostBridge(config::ConfigSpace);

impl HostBridge {
    pub fn new() -> Self {
        Self(config::ConfigSpace::new(&config::Identity {
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: [0x06, 0x00, 0x00],
            subsystem_vendor: 0,
            subsystem: 0,
        }))
    }
}

impl PciFunction for HostBridge {
    fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn memory(&self) -> Option<(u64, u64)> {
        None
    }

    fn memory_read(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn memory_write(&mut self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ending::{Control, Ending};

    fn ports() -> (Arc<Control>, ConfigPorts) {
        let control = Arc::new(Control::new().unwrap());
        let mut bus = PciBus::default();
        bus.add(Arc::new(Mutex::new(HostBridge::new()))).unwrap();
        let ports = ConfigPorts::new(Arc::new(bus), ResetControl::new(control.clone()));
        (control, ports)
    }

    fn config(ports: &mut ConfigPorts, address: u32, offset: u64, size: usize) -> Vec<u8> {
        ports.write(0, &address.to_le_bytes());
        let mut data = vec![0; size];
        ports.read(DATA_OFFSET + offset, &mut data);
        data
    }

    #[test]
    fn host_bridge_is_device_0() {
        let (_, mut ports) = ports();
        assert_eq!(
            config(&mut ports, ADDRESS_ENABLE, 0, 4),
            [0x36, 0x1b, 0x08, 0]
        );
        assert_eq!(config(&mut ports, ADDRESS_ENABLE, 2, 2), [0x08, 0]);
        assert_eq!(config(&mut ports, ADDRESS_ENABLE | 8, 3, 1), [0x06]);
    }

    #[test]
    fn nothing_answers_elsewhere() {
        let (_, mut ports) = ports();
        let absent = [
            0,
            ADDRESS_ENABLE | 1 << 11,
            ADDRESS_ENABLE | 1 << 8,
            ADDRESS_ENABLE | 1 << 16,
        ];
        for address in absent {
            assert_eq!(config(&mut ports, address, 0, 4), [0xff; 4], "{address:#x}");
        }
        // Past the end of the data port.
        assert_eq!(config(&mut ports, ADDRESS_ENABLE, 2, 4), [0xff; 4]);
    }

    #[test]
    fn address_register_reads_back_and_reset_register_lies_in_it() {
        let (control, mut ports) = ports();
        ports.write(0, &0x8000_1234u32.to_le_bytes());
        let mut data = [0; 4];
        ports.read(0, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x8000_1234);
        ports.write(RESET_OFFSET, &[6]);
        assert_eq!(control.ending(), Some(Ending::Reset));
    }
}
