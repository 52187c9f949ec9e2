// SPDX-License-Identifier: GPL-2.0

//! The walk for the common case: four levels, a page of 4 KiB or 2 MiB,
//! nothing reserved, nothing forbidden, nothing left to mark.

use super::tables::{
    reserved_address, ACCESSED, ADDRESS, DIRTY, GLOBAL, NO_EXECUTE, PAGE_SIZE, PDP_SHIFT, PD_SHIFT,
    PML4_SHIFT, PRESENT, PT_SHIFT, USER, WRITABLE,
};
use super::{Access, GuestMemory, Paging, Translation};
use crate::pc::addr::{Gpa, Gva};
use crate::pc::regs::{Cr0, Cr4, Efer};

/// Index of an entry in the table for `SHIFT`, in bytes.
#[inline]
const fn slot<const SHIFT: u32>(address: u64) -> u64 {
    (address >> (SHIFT - 3)) & 0xff8
}

/// Reads an entry that must be present.
#[inline]
fn entry<M: GuestMemory>(mem: &mut M, table: u64, slot: u64) -> Option<u64> {
    let entry = mem.read_u64(Gpa((table & ADDRESS) | slot))?;
    (entry & PRESENT != 0).then_some(entry)
}

/// Translates `gva` if that is simple. `None` says nothing about why not.
#[inline]
pub(super) fn walk<M: GuestMemory>(
    mem: &mut M,
    paging: &Paging,
    gva: Gva,
    access: Access,
) -> Option<Translation> {
    if !paging.efer.has(Efer::LMA) || paging.cr4.any(Cr4::LA57) {
        return None;
    }
    let pml4e = entry(mem, paging.cr3, slot::<PML4_SHIFT>(gva.0))?;
    let pdpe = entry(mem, pml4e, slot::<PDP_SHIFT>(gva.0))?;
    if (pml4e | pdpe) & (PAGE_SIZE | GLOBAL) != 0 {
        return None;
    }
    let pde = entry(mem, pdpe, slot::<PD_SHIFT>(gva.0))?;
    let mut granted = pml4e & pdpe & pde;
    let mut seen = pml4e | pdpe | pde;
    let (leaf, shift) = if pde & PAGE_SIZE == 0 {
        let pte = entry(mem, pde, slot::<PT_SHIFT>(gva.0))?;
        granted &= pte;
        seen |= pte;
        (pte, PT_SHIFT)
    } else {
        // Bit 12 is a memory type, the other offset bits are reserved.
        if pde & 0x1f_e000 != 0 {
            return None;
        }
        (pde, PD_SHIFT)
    };
    if seen & reserved_address(paging) != 0 || !is_granted(paging, granted, seen, leaf, access) {
        return None;
    }
    let offset = (1 << shift) - 1;
    Some(Translation {
        gpa: Gpa((leaf & ADDRESS & !offset) | (gva.0 & offset)),
        page_shift: shift as u8,
        writable: granted & WRITABLE != 0,
        user: granted & USER != 0,
        executable: seen & NO_EXECUTE == 0,
    })
}

/// May the access be made, and are the bits it sets already set?
#[inline]
fn is_granted(paging: &Paging, granted: u64, seen: u64, leaf: u64, access: Access) -> bool {
    let mut wanted = 0;
    if access.is_user() {
        wanted |= USER;
    } else if granted & USER != 0 {
        let prevented = if access.is_fetch() {
            paging.cr4.any(Cr4::SMEP)
        } else {
            paging.cr4.any(Cr4::SMAP) && !access.overrides_smap()
        };
        if prevented {
            return false;
        }
    }
    if access.is_write() && (access.is_user() || paging.cr0.has(Cr0::WP)) {
        wanted |= WRITABLE;
    }
    if access.marks() {
        wanted |= ACCESSED;
        if access.is_write() && leaf & DIRTY == 0 {
            return false;
        }
    }
    if access.is_fetch() && seen & NO_EXECUTE != 0 {
        return false;
    }
    // Protection keys are left to the exact walk.
    granted & wanted == wanted && !(paging.cr4.any(Cr4::PKE) && granted & USER != 0)
}
