// SPDX-License-Identifier: GPL-2.0-or-later

//! Page tables of each mode, mapping the first 4 GiB to themselves (APM volume 2, chapter 5).
//!
//! The lowest 2 MiB (4 MiB without PAE) are mapped by 4 KiB pages, whose entries tests change.

use kvm_bindings::kvm_sregs;

use crate::guest::Machine;
use crate::layout::*;

/// A paging mode, and with it the mode of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// 32-bit protected mode without paging.
    Off,
    /// 32-bit paging with 4 MiB pages.
    Bits32,
    /// PAE paging.
    Pae,
    /// Long mode with four levels.
    Long,
    /// Long mode with five levels.
    Long5,
}

const ENTRY: u64 = PTE_P | PTE_W | PTE_U;
const BITS32_TABLE: u64 = PAGE_TABLES + 0x1000;
const PDPT: u64 = PAGE_TABLES + 0x1000;
const PDS: u64 = PAGE_TABLES + 0x2000;
const LOW_TABLE: u64 = PAGE_TABLES + 0x6000;
/// Top of five-level paging, or the four entries of PAE paging.
const EXTRA: u64 = PAGE_TABLES + 0x7000;

impl Paging {
    /// Whether it is one of long mode.
    pub fn is_long(self) -> bool {
        matches!(self, Paging::Long | Paging::Long5)
    }

    /// Writes the tables and sets the control registers.
    pub fn set_up(self, machine: &Machine, sregs: &mut kvm_sregs) {
        let cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP;
        sregs.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
        sregs.efer = 0;
        sregs.cr0 = cr0 | CR0_PG;
        match self {
            Paging::Off => sregs.cr0 = cr0,
            Paging::Bits32 => {
                bits32(machine);
                sregs.cr4 |= CR4_PSE;
                sregs.cr3 = PAGE_TABLES;
            }
            Paging::Pae => {
                directories(machine);
                (0..4).for_each(|i| machine.write(EXTRA + 8 * i, (PDS + 0x1000 * i) | PTE_P));
                sregs.cr4 |= CR4_PAE;
                sregs.cr3 = EXTRA;
            }
            Paging::Long => {
                long(machine);
                sregs.cr4 |= CR4_PAE;
                sregs.cr3 = PAGE_TABLES;
                sregs.efer = EFER_LME | EFER_LMA;
            }
            Paging::Long5 => {
                long(machine);
                machine.write(EXTRA, PAGE_TABLES | ENTRY);
                sregs.cr4 |= CR4_PAE | CR4_LA57;
                sregs.cr3 = EXTRA;
                sregs.efer = EFER_LME | EFER_LMA;
            }
        }
    }

    /// Where the entry of the 4 KiB page of `gva` lies, below 2 MiB.
    pub fn entry_address(self, gva: u64) -> u64 {
        match self {
            Paging::Bits32 => BITS32_TABLE + 4 * (gva >> 12),
            _ => LOW_TABLE + 8 * (gva >> 12),
        }
    }
}

fn bits32(machine: &Machine) {
    machine.write(PAGE_TABLES, (BITS32_TABLE | ENTRY) as u32);
    for i in 1..1024u64 {
        machine.write(PAGE_TABLES + 4 * i, (i << 22 | ENTRY | PTE_PS) as u32);
    }
    for i in 0..1024u64 {
        machine.write(BITS32_TABLE + 4 * i, (i << 12 | ENTRY) as u32);
    }
}

/// Four page directories for 4 GiB and the table of the lowest 2 MiB.
fn directories(machine: &Machine) {
    for i in 0..4 * 512u64 {
        machine.write(PDS + 8 * i, i << 21 | ENTRY | PTE_PS);
    }
    machine.write(PDS, LOW_TABLE | ENTRY);
    for i in 0..512u64 {
        machine.write(LOW_TABLE + 8 * i, i << 12 | ENTRY);
    }
}

fn long(machine: &Machine) {
    directories(machine);
    machine.write(PAGE_TABLES, PDPT | ENTRY);
    (0..4).for_each(|i| machine.write(PDPT + 8 * i, (PDS + 0x1000 * i) | ENTRY));
}
