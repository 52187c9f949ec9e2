// SPDX-License-Identifier: GPL-2.0-or-later

//! The ACPI tables (ACPI 6.5, chapter 5): a PC with the fixed hardware that switches it off and
//! resets it, serial ports, a clock, one PCI host bridge, and its processors.
//!
//! Not the hardware-reduced kind: Linux then does without PIT and PIC, and cannot find out the
//! frequency of its timers on a hypervisor that does not tell it.

use super::aml;
use super::layout::{self, gsi, port};
use crate::devices::acpi_pm;

/// What the tables are to describe.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub cpus: u32,
    /// Which serial ports exist.
    pub serial: [bool; 2],
}

const OEM_ID: &[u8; 6] = b"IRONVM";
const OEM_TABLE_ID: &[u8; 8] = b"IRONVM  ";
const CREATOR_ID: &[u8; 4] = b"IRVM";
const CHECKSUM_OFFSET: usize = 9;
const RSDP_SIZE: usize = 36;
const FACS_SIZE: usize = 64;
const FADT_SIZE: usize = 276;

/// A table under construction: the common header (5.2.6), then the body.
struct Table(Vec<u8>);

impl Table {
    fn new(signature: &[u8; 4], revision: u8) -> Self {
        let mut bytes = signature.to_vec();
        bytes.extend([0; 4]);
        bytes.extend([revision, 0]);
        bytes.extend(OEM_ID);
        bytes.extend(OEM_TABLE_ID);
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(CREATOR_ID);
        bytes.extend(1u32.to_le_bytes());
        Self(bytes)
    }

    fn append(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Writes a field at `offset` from the table's beginning, growing the table to hold it.
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0.splice(offset..end, bytes.iter().copied());
    }

    /// The finished table, its length and checksum filled in.
    fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() as u32).to_le_bytes();
        self.put(4, &length);
        let sum = checksum(&self.0);
        self.put(CHECKSUM_OFFSET, &[sum]);
        self.0
    }
}

/// The byte that makes the sum of `bytes` and itself zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

/// All tables, to be put at guest-physical `base` (aligned to a page); the RSDP comes first.
pub fn build(machine: &Machine, base: u64) -> Vec<u8> {
    let mut image = Image {
        base,
        bytes: vec![0; RSDP_SIZE],
    };
    let facs = image.place(&facs(), FACS_SIZE);
    let dsdt = image.place(&dsdt(machine), 16);
    let fadt = image.place(&fadt(facs, dsdt), 16);
    let madt = image.place(&madt(machine.cpus), 16);
    let mut xsdt = Table::new(b"XSDT", 1);
    for entry in [fadt, madt] {
        xsdt.append(&entry.to_le_bytes());
    }
    let xsdt = image.place(&xsdt.finish(), 16);
    image.bytes.splice(..RSDP_SIZE, rsdp(xsdt));
    image.bytes
}

/// Tables one behind the other.
struct Image {
    base: u64,
    bytes: Vec<u8>,
}

impl Image {
    /// Appends `table`, aligned to `alignment` bytes, and says at which address.
    fn place(&mut self, table: &[u8], alignment: usize) -> u64 {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(alignment), 0);
        let address = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }
}

/// Root system description pointer (5.2.5.3).
fn rsdp(xsdt: u64) -> Vec<u8> {
    /// How much of it the first revision's checksum covers.
    const FIRST_REVISION_SIZE: usize = 20;
    const REVISION: u8 = 2;
    let mut bytes = b"RSD PTR \0".to_vec();
    bytes.extend(OEM_ID);
    bytes.push(REVISION);
    bytes.extend([0; 4]);
    let first: Vec<u8> = bytes.iter().take(FIRST_REVISION_SIZE).copied().collect();
    bytes.splice(8..9, [checksum(&first)]);
    bytes.extend((RSDP_SIZE as u32).to_le_bytes());
    bytes.extend(xsdt.to_le_bytes());
    let sum = checksum(&bytes);
    bytes.extend([sum, 0, 0, 0]);
    bytes
}

/// Firmware ACPI control structure (5.2.10): required beside fixed hardware, otherwise unused.
fn facs() -> Vec<u8> {
    const VERSION_OFFSET: usize = 32;
    let mut bytes = b"FACS".to_vec();
    bytes.extend((FACS_SIZE as u32).to_le_bytes());
    bytes.resize(VERSION_OFFSET, 0);
    bytes.push(2);
    bytes.resize(FACS_SIZE, 0);
    bytes
}

/// A register in I/O space, as a generic address (5.2.3.2).
fn io_register(address: u16, bytes: u8) -> Vec<u8> {
    const SYSTEM_IO: u8 = 1;
    let access_size = match bytes {
        1 => 1,
        2 => 2,
        _ => 3,
    };
    let mut gas = vec![SYSTEM_IO, bytes * 8, 0, access_size];
    gas.extend(u64::from(address).to_le_bytes());
    gas
}

/// Fixed ACPI description table (5.2.9).
fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    const FLAGS: u32 = 1 << 0 // WBINVD works
        | 1 << 2 // C1 works
        | 1 << 4 // no fixed power button
        | 1 << 5 // no fixed sleep button
        | 1 << 8 // the PM timer has 32 bits
        | 1 << 10; // the reset register works
    const BOOT_ARCH: u16 = 1 << 0 // legacy devices
        | 1 << 2; // no VGA
    const NO_C_STATE: u16 = 0xffff;
    let mut table = Table::new(b"FACP", 6);
    table.put(36, &(facs as u32).to_le_bytes());
    table.put(40, &(dsdt as u32).to_le_bytes());
    table.put(46, &(gsi::ACPI_SCI as u16).to_le_bytes());
    table.put(56, &u32::from(acpi_pm::EVENT).to_le_bytes());
    table.put(64, &u32::from(acpi_pm::CONTROL).to_le_bytes());
    table.put(76, &u32::from(acpi_pm::TIMER).to_le_bytes());
    table.put(
        88,
        &[
            acpi_pm::EVENT_SIZE,
            acpi_pm::CONTROL_SIZE,
            0,
            acpi_pm::TIMER_SIZE,
        ],
    );
    table.put(96, &NO_C_STATE.to_le_bytes());
    table.put(98, &NO_C_STATE.to_le_bytes());
    table.put(108, &[crate::devices::cmos::CENTURY]);
    table.put(109, &BOOT_ARCH.to_le_bytes());
    table.put(112, &FLAGS.to_le_bytes());
    table.put(116, &io_register(port::RESET, 1));
    table.put(128, &[acpi_pm::RESET_VALUE]);
    table.put(131, &[5]);
    table.put(132, &facs.to_le_bytes());
    table.put(140, &dsdt.to_le_bytes());
    table.put(148, &io_register(acpi_pm::EVENT, acpi_pm::EVENT_SIZE));
    table.put(172, &io_register(acpi_pm::CONTROL, acpi_pm::CONTROL_SIZE));
    table.put(208, &io_register(acpi_pm::TIMER, acpi_pm::TIMER_SIZE));
    table.put(FADT_SIZE - 8, b"IRONVM\0\0");
    table.finish()
}

/// Multiple APIC description table (5.2.12): APIC ids are the vCPU numbers.
fn madt(cpus: u32) -> Vec<u8> {
    const PCAT_COMPATIBLE: u32 = 1;
    const ENABLED: u32 = 1;
    const EVERY_PROCESSOR: u8 = 0xff;
    const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
    let mut table = Table::new(b"APIC", 5);
    table.append(&layout::LOCAL_APIC.to_le_bytes());
    table.append(&PCAT_COMPATIBLE.to_le_bytes());
    for cpu in 0..cpus {
        table.append(&[0, 8, cpu as u8, cpu as u8]);
        table.append(&ENABLED.to_le_bytes());
    }
    table.append(&[1, 12, cpus as u8, 0]);
    table.append(&layout::IOAPIC.to_le_bytes());
    table.append(&0u32.to_le_bytes());
    // The timer's ISA interrupt 0 is wired to pin 2, as `irq` routes it.
    let source_override = |isa: u8, gsi: u32, flags: u16| {
        [
            &[2, 10, 0, isa][..],
            &gsi.to_le_bytes(),
            &flags.to_le_bytes(),
        ]
        .concat()
    };
    table.append(&source_override(0, crate::irq::PIT_PIN, 0));
    table.append(&source_override(
        gsi::ACPI_SCI as u8,
        gsi::ACPI_SCI,
        ACTIVE_HIGH_LEVEL,
    ));
    // LINT1 of every local APIC is NMI.
    table.append(&[4, 6, EVERY_PROCESSOR, 0, 0, 1]);
    table.finish()
}

/// Differentiated system description table: what cannot be found by probing.
fn dsdt(machine: &Machine) -> Vec<u8> {
    let mut devices = vec![pci_host(), clock(), pvpanic()];
    let serial = [(*b"COM1", 0), (*b"COM2", 1)];
    for ((segment, number), present) in serial.into_iter().zip(machine.serial) {
        if present {
            devices.push(serial_port(segment, number));
        }
    }
    let sleep_type = aml::integer(u32::from(acpi_pm::SLEEP_TYPE_OFF));
    let soft_off = aml::package(&[
        sleep_type.clone(),
        sleep_type,
        aml::integer(0),
        aml::integer(0),
    ]);
    let mut table = Table::new(b"DSDT", 2);
    table.append(&aml::name(*b"_S5_", &soft_off));
    table.append(&aml::root_scope(*b"_SB_", &devices));
    table.finish()
}

fn pci_host() -> Vec<u8> {
    let last = layout::PCI_MMIO_START + layout::PCI_MMIO_SIZE - 1;
    aml::device(
        *b"PCI0",
        &[
            aml::name(*b"_HID", &aml::eisa_id(*b"PNP0A03")),
            aml::name(*b"_UID", &aml::integer(0)),
            aml::name(*b"_BBN", &aml::integer(0)),
            aml::name(
                *b"_CRS",
                &aml::resources(&[
                    aml::bus_numbers(0, 0),
                    aml::io(port::PCI_CONFIG, port::PCI_CONFIG_SIZE as u8),
                    aml::io_window(0, port::PCI_CONFIG - 1),
                    aml::io_window(port::PCI_CONFIG + port::PCI_CONFIG_SIZE, 0xffff),
                    aml::memory_window(layout::PCI_MMIO_START as u32, last as u32),
                ]),
            ),
        ],
    )
}

fn serial_port(segment: aml::Segment, number: usize) -> Vec<u8> {
    let base = port::COM.get(number).copied().unwrap_or_default();
    let line = gsi::COM.get(number).copied().unwrap_or_default();
    aml::device(
        segment,
        &[
            aml::name(*b"_HID", &aml::eisa_id(*b"PNP0501")),
            aml::name(*b"_UID", &aml::integer(number as u32 + 1)),
            aml::name(
                *b"_CRS",
                &aml::resources(&[aml::io(base, port::COM_SIZE as u8), aml::irq(line)]),
            ),
        ],
    )
}

fn clock() -> Vec<u8> {
    aml::device(
        *b"RTC_",
        &[
            aml::name(*b"_HID", &aml::eisa_id(*b"PNP0B00")),
            aml::name(
                *b"_CRS",
                &aml::resources(&[aml::io(port::CMOS, port::CMOS_SIZE as u8)]),
            ),
        ],
    )
}

fn pvpanic() -> Vec<u8> {
    const PRESENT_AND_WORKING: u32 = 0xf;
    aml::device(
        *b"PEVT",
        &[
            aml::name(*b"_HID", &aml::string("QEMU0001")),
            aml::name(*b"_STA", &aml::integer(PRESENT_AND_WORKING)),
            aml::name(*b"_CRS", &aml::resources(&[aml::io(port::PVPANIC, 1)])),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xe0000;
    const HEADER_SIZE: usize = 36;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u32_at(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    /// The table at a guest-physical address, its checksum verified.
    fn table<'a>(image: &'a [u8], address: u64, signature: &[u8; 4]) -> &'a [u8] {
        let bytes = &image[(address - BASE) as usize..];
        let bytes = &bytes[..u32_at(bytes, 4) as usize];
        assert_eq!(&bytes[..4], signature);
        assert_eq!(sum(bytes), 0, "{signature:?}");
        bytes
    }

    fn image(cpus: u32) -> Vec<u8> {
        build(
            &Machine {
                cpus,
                serial: [true, true],
            },
            BASE,
        )
    }

    #[test]
    fn every_table_is_found_from_the_rsdp() {
        let image = image(4);
        assert_eq!(&image[..8], b"RSD PTR ");
        assert_eq!(sum(&image[..20]), 0);
        assert_eq!(sum(&image[..36]), 0);
        let xsdt = table(&image, u64_at(&image, 24), b"XSDT");
        assert_eq!(xsdt.len(), HEADER_SIZE + 2 * 8);
        let fadt = table(&image, u64_at(xsdt, 36), b"FACP");
        assert_eq!(fadt.len(), FADT_SIZE);
        table(&image, u64_at(xsdt, 44), b"APIC");
        let dsdt = u64_at(fadt, 140);
        assert_eq!(dsdt, u64::from(u32_at(fadt, 40)));
        table(&image, dsdt, b"DSDT");
        let facs = u64_at(fadt, 132);
        assert_eq!(facs % 64, 0);
        assert_eq!(&image[(facs - BASE) as usize..][..4], b"FACS");
    }

    #[test]
    fn madt_lists_every_cpu_once() {
        for cpus in [1, 2, 16, 254] {
            let image = image(cpus);
            let xsdt = table(&image, u64_at(&image, 24), b"XSDT");
            let madt = table(&image, u64_at(xsdt, 44), b"APIC");
            let mut ids = Vec::new();
            let mut rest = &madt[44..];
            while let [kind, length, ..] = *rest {
                assert!(length >= 2);
                if kind == 0 {
                    ids.push(u32::from(rest[3]));
                }
                rest = &rest[usize::from(length)..];
            }
            assert!(rest.is_empty());
            assert_eq!(ids, (0..cpus).collect::<Vec<_>>());
        }
    }

    #[test]
    fn largest_machine_fits() {
        assert!(image(254).len() as u64 <= layout::ACPI_SIZE);
    }
}
