// SPDX-License-Identifier: GPL-2.0-or-later

//! The guest-physical addresses of what we put into memory before the guest starts, and of the
//! machine's fixed devices.

pub const PAGE_SIZE: u64 = 0x1000;

/// Global descriptor table the first vCPU starts with.
pub const GDT_START: u64 = 0x500;
/// PVH start info, followed by its module list and memory map.
pub const PVH_START_INFO: u64 = 0x6000;
pub const PVH_MODULES: u64 = 0x6040;
pub const PVH_MEMMAP: u64 = 0x6080;
/// Boot parameters ("zero page") of the Linux boot protocol.
pub const BOOT_PARAMS: u64 = 0x7000;
/// First page table: PML4, then one PDPT, then four page directories, a page each.
pub const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line, up to 64 KiB.
pub const CMDLINE_START: u64 = 0x20000;
/// End of the memory below 640 KiB that is free for the guest.
pub const LOW_RAM_END: u64 = 0x9fc00;
/// Where the BIOS area would be: the ACPI tables, where a guest also finds them by search.
pub const ACPI_START: u64 = 0xe0000;
pub const ACPI_SIZE: u64 = 0x20000;
/// First address of memory above the legacy area; bzImages are loaded here.
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// PCI memory window, for BARs.
pub const PCI_MMIO_START: u64 = 0xe000_0000;
pub const PCI_MMIO_SIZE: u64 = 0x1000_0000;

pub const IOAPIC: u32 = 0xfec0_0000;
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Four pages KVM may want on Intel: one for an identity-mapped page table, three for a TSS.
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
pub const TSS: u64 = 0xfffb_d000;
pub const KVM_PAGES_SIZE: u64 = 4 * PAGE_SIZE;

/// I/O ports: base and, where it is not one, number.
pub mod port {
    pub const COM: [u16; 2] = [0x3f8, 0x2f8];
    pub const COM_SIZE: u16 = 8;
    pub const I8042: u16 = 0x60;
    pub const I8042_SIZE: u16 = 5;
    pub const CMOS: u16 = 0x70;
    pub const CMOS_SIZE: u16 = 2;
    pub const PVPANIC: u16 = 0x505;
    /// ACPI power management block.
    pub const PM: u16 = 0x600;
    pub const PM_SIZE: u16 = 12;
    /// PCI configuration mechanism #1.
    pub const PCI_CONFIG: u16 = 0xcf8;
    pub const PCI_CONFIG_SIZE: u16 = 8;
    /// Ports that KVM answers itself: both PICs, their trigger modes, the PIT and its gate.
    const OF_KVM: [(u16, u16); 5] = [(0x20, 2), (0xa0, 2), (0x4d0, 2), (0x40, 4), (0x61, 1)];

    /// Whether no device is at `port`.
    pub fn is_free(port: u16) -> bool {
        let devices = [
            (COM[0], COM_SIZE),
            (COM[1], COM_SIZE),
            (I8042, I8042_SIZE),
            (CMOS, CMOS_SIZE),
            (PVPANIC, 1),
            (PM, PM_SIZE),
            (PCI_CONFIG, PCI_CONFIG_SIZE),
        ];
        !devices
            .iter()
            .chain(&OF_KVM)
            .any(|(base, size)| (*base..base + size).contains(&port))
    }

    /// Reset control register, among the PCI configuration ports as in a PC.
    pub const RESET: u16 = 0xcf9;
}

/// Interrupt lines (GSIs below 24 are IOAPIC pins).
pub mod gsi {
    pub const COM: [u32; 2] = [4, 3];
    pub const ACPI_SCI: u32 = 9;
}
