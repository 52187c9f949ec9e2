// SPDX-License-Identifier: GPL-2.0-or-later

//! The configuration space of a PCI function with one 32-bit memory BAR, or none
//! (PCI Local Bus 3.0, chapter 6).

use crate::boot::layout::PAGE_SIZE;

const SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
/// The first byte past the header.
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What a function is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Class, subclass, programming interface.
    pub class: [u8; 3],
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

/// A function's configuration space.
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The bits the guest may change.
    writable: [u8; SIZE],
    bar_size: u32,
    /// Where the next capability goes.
    free: usize,
    /// The pointer that the next capability's address is to be written to.
    last_link: usize,
}

impl ConfigSpace {
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bar_size: 0,
            free: FIRST_CAPABILITY,
            last_link: CAPABILITIES,
        };
        let [class, subclass, interface] = identity.class;
        space.put(0, &identity.vendor.to_le_bytes());
        space.put(2, &identity.device.to_le_bytes());
        space.put(REVISION, &[identity.revision, interface, subclass, class]);
        space.put(SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.put(SUBSYSTEM_VENDOR + 2, &identity.subsystem.to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;
        space.allow(COMMAND, &command.to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Gives the function memory: `size` bytes, a power of two and at least a page, at `address`.
    pub fn set_bar(&mut self, address: u32, size: u32) {
        debug_assert!(size.is_power_of_two() && u64::from(size) >= PAGE_SIZE);
        self.bar_size = size;
        self.put(BAR0, &address.to_le_bytes());
        self.put(COMMAND, &COMMAND_MEMORY.to_le_bytes());
        // The address bits below the size read as zero, which tells the guest the size.
        self.allow(BAR0, &(!(size - 1)).to_le_bytes());
    }

    /// Adds a capability with what follows its id and link; returns where it is.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let place = self.free;
        self.put(self.last_link, &[place as u8]);
        self.put(place, &[id, 0]);
        self.put(place + 2, body);
        self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.last_link = place + 1;
        self.free = (place + 2 + body.len()).next_multiple_of(4);
        place
    }

    /// Lets the guest change the bits of `mask` at `offset`.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (byte, mask) in self.writable.iter_mut().skip(offset).zip(mask) {
            *byte = *mask;
        }
    }

    fn put(&mut self, offset: usize, data: &[u8]) {
        for (byte, value) in self.bytes.iter_mut().skip(offset).zip(data) {
            *byte = *value;
        }
    }

    /// A guest's read. What lies past the end reads as ones.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (value, byte) in data.iter_mut().zip(self.bytes.iter().skip(offset)) {
            *value = *byte;
        }
    }

    /// A guest's write: changes what may be changed.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let bytes = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((byte, mask), value) in bytes.zip(data) {
            *byte = (*byte & !mask) | (value & mask);
        }
    }

    /// Two bytes of configuration space as a number.
    pub fn word(&self, offset: usize) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Base and size of the function's memory, if it has any and it is switched on.
    pub fn memory(&self) -> Option<(u64, u64)> {
        if self.bar_size == 0 || self.word(COMMAND) & COMMAND_MEMORY == 0 {
            return None;
        }
        let mut base = [0; 4];
        self.read(BAR0, &mut base);
        Some((
            u64::from(u32::from_le_bytes(base)),
            u64::from(self.bar_size),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: [1, 2, 3],
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        space.set_bar(0xe000_8000, 0x8000);
        space
    }

    fn dword(space: &ConfigSpace, offset: usize) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn identity_is_read_only() {
        let mut space = space();
        for offset in [0, REVISION, SUBSYSTEM_VENDOR] {
            let before = dword(&space, offset);
            space.write(offset, &[0x5a; 4]);
            assert_eq!(dword(&space, offset), before);
        }
        assert_eq!(dword(&space, 0), 0x1042_1af4);
        assert_eq!(dword(&space, REVISION), 0x0102_0301);
    }

    #[test]
    fn bar_tells_its_size_and_moves() {
        let mut space = space();
        assert_eq!(space.memory(), Some((0xe000_8000, 0x8000)));
        space.write(BAR0, &[0xff; 4]);
        assert_eq!(dword(&space, BAR0), 0xffff_8000);
        space.write(BAR0, &0xe123_4567u32.to_le_bytes());
        assert_eq!(space.memory(), Some((0xe123_0000, 0x8000)));
        space.write(COMMAND, &[0, 0]);
        assert_eq!(space.memory(), None);
        // The other BARs do not exist.
        space.write(BAR0 + 4, &[0xff; 4]);
        assert_eq!(dword(&space, BAR0 + 4), 0);
    }

    #[test]
    fn capabilities_are_chained() {
        let mut space = space();
        let first = space.add_capability(9, &[1, 2, 3]);
        let second = space.add_capability(0x11, &[4; 10]);
        assert_eq!(
            space.word(STATUS) & STATUS_CAPABILITIES,
            STATUS_CAPABILITIES
        );
        let mut place = [0];
        space.read(CAPABILITIES, &mut place);
        assert_eq!(usize::from(place[0]), first);
        assert_eq!(dword(&space, first), 0x0201_0009 | (second as u32) << 8);
        assert_eq!(dword(&space, second), 0x0404_0011);
        assert_eq!(second % 4, 0);
    }

    #[test]
    fn accesses_past_the_end_are_harmless() {
        let mut space = space();
        space.write(254, &[1, 2, 3, 4]);
        let mut data = [0xff; 4];
        space.read(254, &mut data);
        assert_eq!(data, [0, 0, 0xff, 0xff]);
    }
}
