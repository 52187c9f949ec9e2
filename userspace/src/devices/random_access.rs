// SPDX-License-Identifier: GPL-2.0-or-later

//! A guest that writes and reads at random: whatever it does, no device panics or hangs.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::pci::msix::tests::Recorder;
use super::pci::{ConfigPorts, HostBridge, PciBus, PciWindow};
use super::virtio::blk::Block;
use super::virtio::pci::{Notifier, VirtioPci};
use super::virtio::rng::Rng;
use super::{acpi_pm, cmos, exit_port, i8042, pvpanic, reset, serial};
use crate::boot::layout::{port, PCI_MMIO_SIZE, PCI_MMIO_START};
use crate::bus::{Bus, BusDevice};
use crate::console::output::Output;
use crate::ending::Control;

const STEPS: u32 = 50_000;
/// Guest memory: rings and buffers at random lie in it often enough to be used.
const MEMORY_SIZE: u64 = 0x1_0000;

/// xorshift64: the same sequence in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A number of the kind that matters: small, an address, or anything.
    fn value(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(32),
            1 => self.below(MEMORY_SIZE) & !0xf,
            2 => 1 << self.below(64),
            _ => self.next(),
        }
    }
}

struct Nowhere;

impl Notifier for Nowhere {
    fn connect(&self, _event: &EventFd, _address: u64) -> Result<()> {
        Ok(())
    }
    fn disconnect(&self, _event: &EventFd, _address: u64) {}
}

/// Starts a device as a driver does, with rings at random places in memory.
fn start(mmio: &Bus, device: u64, random: &mut Random) {
    let base = PCI_MMIO_START + super::virtio::pci::MEMORY_SIZE * device;
    let put = |offset: u64, data: &[u8]| mmio.write(base + offset, data);
    for status in [0, 1, 3] {
        put(20, &[status]);
    }
    put(8, &1u32.to_le_bytes());
    put(12, &1u32.to_le_bytes());
    put(20, &[0xb]);
    put(22, &[0, 0]);
    put(24, &(1u16 << random.below(9)).to_le_bytes());
    for place in [32, 40, 48] {
        put(place, &(random.below(MEMORY_SIZE) & !0xf).to_le_bytes());
    }
    put(28, &[1, 0]);
    put(20, &[0xf]);
}

fn put<D: BusDevice + 'static>(bus: &mut Bus, base: u16, length: u16, device: D) {
    bus.insert(
        u64::from(base),
        u64::from(length),
        Arc::new(Mutex::new(device)),
    )
    .unwrap();
}

fn platform(control: &Arc<Control>) -> Bus {
    let mut ports = Bus::default();
    let event = || EventFd::new(EFD_NONBLOCK).unwrap();
    let console = serial::Serial::new(event(), Arc::new(event()), Output::none());
    put(&mut ports, port::COM[0], port::COM_SIZE, console);
    put(
        &mut ports,
        port::I8042,
        port::I8042_SIZE,
        i8042::I8042::new(control.clone()),
    );
    put(&mut ports, port::CMOS, port::CMOS_SIZE, cmos::Cmos::new());
    put(
        &mut ports,
        port::PVPANIC,
        1,
        pvpanic::Pvpanic::new(control.clone()),
    );
    put(
        &mut ports,
        port::PM,
        port::PM_SIZE,
        acpi_pm::AcpiPm::new(control.clone()),
    );
    put(
        &mut ports,
        0xf4,
        1,
        exit_port::ExitPort::new(control.clone()),
    );
    ports
}

fn pci(memory: &GuestMemoryMmap) -> Arc<PciBus> {
    let mut bus = PciBus::default();
    bus.add(Arc::new(Mutex::new(HostBridge::new()))).unwrap();
    let sink = Arc::new(Recorder::default());
    let disk = super::virtio::buffers::tests::file(&[0; 8192]);
    let block = Block::new(disk, 16, false, "disk");
    let place = bus.next_memory(super::virtio::pci::MEMORY_SIZE);
    let block = VirtioPci::new(
        "disk",
        block,
        place,
        memory.clone(),
        sink.clone(),
        Box::new(Nowhere),
    );
    bus.add(Arc::new(Mutex::new(block.unwrap()))).unwrap();
    let place = bus.next_memory(super::virtio::pci::MEMORY_SIZE);
    let rng = VirtioPci::new("rng", Rng, place, memory.clone(), sink, Box::new(Nowhere));
    bus.add(Arc::new(Mutex::new(rng.unwrap()))).unwrap();
    Arc::new(bus)
}

#[test]
fn devices_survive_random_accesses() {
    let control = Arc::new(Control::new().unwrap());
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE as usize)]).unwrap();
    let bus = pci(&memory);
    let mut ports = platform(&control);
    let reset = reset::ResetControl::new(control);
    put(
        &mut ports,
        port::PCI_CONFIG,
        port::PCI_CONFIG_SIZE,
        ConfigPorts::new(bus.clone(), reset),
    );
    let mut mmio = Bus::default();
    let window = Arc::new(Mutex::new(PciWindow::new(bus)));
    mmio.insert(PCI_MMIO_START, PCI_MMIO_SIZE, window).unwrap();

    let places = [0x3f8, 0x60, 0x70, 0x505, 0x600, 0xcf8, 0xf4];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..STEPS {
        let size = 1usize << random.below(4);
        let mut data = random.value().to_le_bytes();
        let data = &mut data[..size];
        match random.below(9) {
            0 => ports.read(places[random.below(7) as usize] + random.below(12), data),
            1 => ports.write(places[random.below(7) as usize] + random.below(12), data),
            2 => {
                // Configuration space of some device.
                let address =
                    0x8000_0000u32 | (random.below(4) << 11 | random.below(64) << 2) as u32;
                ports.write(0xcf8, &address.to_le_bytes());
                ports.write(0xcfc + random.below(4), data);
            }
            3 => memory
                .write_slice(data, GuestAddress(random.below(MEMORY_SIZE - 8)))
                .unwrap(),
            4 => mmio.read(PCI_MMIO_START + random.below(0x1_8000), data),
            6 => start(&mmio, 1 + random.below(2), &mut random),
            // The common configuration of one device, more than the rest.
            5 => mmio.write(
                PCI_MMIO_START + 0x8000 * (1 + random.below(2)) + random.below(64),
                data,
            ),
            _ => mmio.write(PCI_MMIO_START + random.below(0x1_8000), data),
        }
    }
}
