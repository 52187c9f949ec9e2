// SPDX-License-Identifier: GPL-2.0

//! Where the guest's port and memory accesses go that the vCPU itself does not
//! answer. What nothing takes here is userspace's.
//!
//! Context: any; nothing here sleeps.

use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::vm::Vm;

impl<V: Vendor> Vm<V> {
    /// Reads a port of size 1, 2 or 4 bytes.
    #[inline]
    pub fn port_read(&self, port: u16, size: u8) -> Option<u32> {
        self.chip.port_read(port, size)
    }

    /// Writes a port of size 1, 2 or 4 bytes; false when nothing takes it.
    #[inline]
    pub fn port_write(&self, port: u16, size: u8, value: u32) -> bool {
        if self.chip.port_write(port, size, value) {
            return true;
        }
        let bytes = value.to_le_bytes();
        let data = bytes.get(..usize::from(size)).unwrap_or(&bytes);
        self.bus.write(&self.bus.ports, port.into(), data)
    }

    /// Reads up to 8 bytes of a device; false when none answers.
    #[inline]
    pub fn mmio_read(&self, gpa: Gpa, data: &mut [u8]) -> bool {
        self.chip.ioapic_read(gpa, data)
    }

    /// Writes up to 8 bytes of a device; false when none takes them.
    #[inline(always)]
    pub fn mmio_write(&self, gpa: Gpa, data: &[u8]) -> bool {
        self.chip.ioapic_write(gpa, data) || self.bus.write(&self.bus.mmio, gpa.0, data)
    }
}
