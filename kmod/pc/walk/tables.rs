// SPDX-License-Identifier: GPL-2.0

//! The descent through the levels, and the checks on what it found.

use super::{Access, GuestMemory, Paging, Translation, WalkError};
use crate::pc::addr::{Gpa, Gva};
use crate::pc::regs::{Cr0, Cr4, Efer, PageFaultError};

/// Entry bits (APM volume 2, section 5.4).
pub(super) const PRESENT: u64 = 1 << 0;
pub(super) const WRITABLE: u64 = 1 << 1;
pub(super) const USER: u64 = 1 << 2;
pub(super) const ACCESSED: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
pub(super) const PAGE_SIZE: u64 = 1 << 7;
pub(super) const GLOBAL: u64 = 1 << 8;
pub(super) const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51 to 12: an address in an eight-byte entry.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 62 to 52, which only long mode leaves to software.
const PAE_RESERVED: u64 = 0x7ff0_0000_0000_0000;
/// Bits of a PAE directory pointer that must be zero, below the address.
const PDPTE_RESERVED: u64 = 0x1e6;

/// Shifts of the address by which each kind of table is indexed.
const PML5_SHIFT: u32 = 48;
pub(super) const PML4_SHIFT: u32 = 39;
pub(super) const PDP_SHIFT: u32 = 30;
pub(super) const PD_SHIFT: u32 = 21;
pub(super) const PT_SHIFT: u32 = 12;
/// The directory of 32-bit paging has 1024 entries of four bytes.
const PD32_SHIFT: u32 = 22;

/// Takes note of the entries a walk passes.
pub(super) trait Trail {
    /// An entry of `wide` (eight bytes) or narrow (four) format, read at `gpa`.
    fn passed(&mut self, gpa: u64, entry: u64, wide: bool);
}

/// Takes no note.
pub(super) struct NoTrail;

impl Trail for NoTrail {
    #[inline]
    fn passed(&mut self, _gpa: u64, _entry: u64, _wide: bool) {}
}

/// The entries passed, root first.
#[derive(Default)]
pub(super) struct Recorded {
    entries: [(u64, u64); 5],
    count: usize,
    wide: bool,
}

impl Trail for Recorded {
    fn passed(&mut self, gpa: u64, entry: u64, wide: bool) {
        if let Some(slot) = self.entries.get_mut(self.count) {
            *slot = (gpa, entry);
            self.count = self.count.wrapping_add(1);
        }
        self.wide = wide;
    }
}

impl Recorded {
    /// Sets accessed in every entry and, for a write, dirty in the last.
    /// False if an entry had changed since it was read.
    pub(super) fn mark<M: GuestMemory>(
        &self,
        mem: &mut M,
        access: Access,
    ) -> Result<bool, WalkError> {
        for (index, &(gpa, entry)) in self.entries.iter().take(self.count).enumerate() {
            let last = index.wrapping_add(1) == self.count;
            let dirty = if last && access.is_write() { DIRTY } else { 0 };
            let marked = entry | ACCESSED | dirty;
            if marked == entry {
                continue;
            }
            let done = if self.wide {
                mem.cmpxchg_u64(Gpa(gpa), entry, marked)
            } else {
                mem.cmpxchg_u32(Gpa(gpa), entry as u32, marked as u32)
            };
            if !done.ok_or(WalkError::Memory(Gpa(gpa)))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The end of a descent: all levels present and well-formed.
#[derive(Clone, Copy)]
pub(super) struct Found {
    /// The entry that maps the page.
    leaf: u64,
    /// Bits set in every entry on the way.
    granted: u64,
    /// Bits set in any entry on the way.
    seen: u64,
    gpa: u64,
    shift: u32,
}

impl Found {
    /// Are the bits already set that `access` would set?
    #[inline]
    pub(super) fn is_marked(&self, access: Access) -> bool {
        self.granted & ACCESSED != 0 && (!access.is_write() || self.leaf & DIRTY != 0)
    }

    /// Do the tables grant `access` (APM volume 2, section 5.6)?
    #[inline]
    pub(super) fn check(&self, paging: &Paging, access: Access) -> Result<Translation, WalkError> {
        let user_page = self.granted & USER != 0;
        let writable = self.granted & WRITABLE != 0;
        let executable = self.seen & NO_EXECUTE == 0;

        let mut allowed = true;
        if access.is_user() {
            allowed &= user_page;
        } else if user_page {
            let prevention = if access.is_fetch() {
                paging.cr4.has(Cr4::SMEP)
            } else {
                paging.cr4.has(Cr4::SMAP) && !access.overrides_smap()
            };
            allowed &= !prevention;
        }
        if access.is_write() && !writable {
            allowed &= !access.is_user() && !paging.cr0.has(Cr0::WP);
        }
        allowed &= executable || !access.is_fetch();
        if !allowed {
            return Err(fault(paging, access, PageFaultError::PRESENT));
        }
        if user_page && paging.cr4.has(Cr4::PKE) && self.key_forbids(paging, access) {
            let reason = PageFaultError::PRESENT | PageFaultError::PROTECTION_KEY;
            return Err(fault(paging, access, reason));
        }
        Ok(Translation {
            gpa: Gpa(self.gpa),
            page_shift: self.shift as u8,
            writable,
            user: user_page,
            executable,
        })
    }

    /// Protection keys (APM volume 2, section 5.6.7): data accesses to user
    /// pages in long mode.
    #[cold]
    fn key_forbids(&self, paging: &Paging, access: Access) -> bool {
        if !paging.efer.has(Efer::LMA) || access.is_fetch() {
            return false;
        }
        let key = ((self.leaf >> 59) & 0xf) as u32;
        let rights = paging.pkru >> (2 * key);
        let no_access = rights & 1 != 0;
        let no_write = rights & 2 != 0;
        no_access
            || (access.is_write() && no_write && (access.is_user() || paging.cr0.has(Cr0::WP)))
    }
}

/// The page fault of `access`, for a `reason` of error code bits.
#[cold]
fn fault(paging: &Paging, access: Access, reason: u32) -> WalkError {
    let mut code = access.0 & (PageFaultError::WRITE | PageFaultError::USER) | reason;
    let reports_fetch =
        paging.cr4.has(Cr4::SMEP) || (paging.efer.has(Efer::NXE) && paging.cr4.has(Cr4::PAE));
    if access.is_fetch() && reports_fetch {
        code |= PageFaultError::FETCH;
    }
    WalkError::PageFault(PageFaultError(code))
}

/// Follows the tables from CR3 to the entry that maps `gva`.
#[inline]
pub(super) fn descend<M: GuestMemory, T: Trail>(
    mem: &mut M,
    paging: &Paging,
    gva: Gva,
    access: Access,
    trail: &mut T,
) -> Result<Found, WalkError> {
    if paging.efer.has(Efer::LMA) {
        let shift = if paging.cr4.has(Cr4::LA57) {
            PML5_SHIFT
        } else {
            PML4_SHIFT
        };
        let reserved = reserved_address(paging);
        let root = paging.cr3 & ADDRESS;
        return descend_wide(mem, paging, gva.0, access, root, shift, reserved, trail);
    }
    if paging.cr4.has(Cr4::PAE) {
        return descend_pae(mem, paging, gva.0 & 0xffff_ffff, access, trail);
    }
    descend_narrow(mem, paging, gva.0 & 0xffff_ffff, access, trail)
}

/// The bits of an eight-byte entry that no level may have set.
#[inline]
pub(super) fn reserved_address(paging: &Paging) -> u64 {
    let beyond = u64::MAX.wrapping_shl(u32::from(paging.physical_bits.min(52)));
    let no_execute = if paging.efer.has(Efer::NXE) {
        0
    } else {
        NO_EXECUTE
    };
    (beyond & ADDRESS) | no_execute
}

/// Reserved bits of the entry at the level of `shift`, besides those all
/// levels share.
#[inline]
fn reserved_at(paging: &Paging, shift: u32, entry: u64) -> u64 {
    let pointer_global = if paging.reserves_global { GLOBAL } else { 0 };
    match (shift, entry & PAGE_SIZE != 0) {
        (PML4_SHIFT | PML5_SHIFT, _) => PAGE_SIZE | pointer_global,
        (PDP_SHIFT, true) if !paging.gib_pages => PAGE_SIZE,
        // The page's offset bits, but for bit 12: the PAT bit of a large page.
        (PDP_SHIFT, true) => ((1 << PDP_SHIFT) - 1) & !0x1fff,
        (PDP_SHIFT, false) => pointer_global,
        (PD_SHIFT, true) => ((1 << PD_SHIFT) - 1) & !0x1fff,
        _ => 0,
    }
}

/// The levels whose entries are eight bytes, from the table at `root` indexed
/// by the address shifted right by `shift`.
#[inline]
#[allow(clippy::too_many_arguments)]
fn descend_wide<M: GuestMemory, T: Trail>(
    mem: &mut M,
    paging: &Paging,
    address: u64,
    access: Access,
    root: u64,
    top_shift: u32,
    reserved: u64,
    trail: &mut T,
) -> Result<Found, WalkError> {
    let mut table = root;
    let mut shift = top_shift;
    let mut granted = u64::MAX;
    let mut seen = 0;
    loop {
        let at = table | ((address.wrapping_shr(shift) & 0x1ff) << 3);
        let entry = mem.read_u64(Gpa(at)).ok_or(WalkError::Memory(Gpa(at)))?;
        if entry & PRESENT == 0 {
            return Err(fault(paging, access, 0));
        }
        if entry & (reserved | reserved_at(paging, shift, entry)) != 0 {
            let reason = PageFaultError::PRESENT | PageFaultError::RESERVED;
            return Err(fault(paging, access, reason));
        }
        granted &= entry;
        seen |= entry;
        trail.passed(at, entry, true);
        // At the levels above, the bit is reserved and was refused.
        if shift == PT_SHIFT || entry & PAGE_SIZE != 0 {
            let offset = !u64::MAX.wrapping_shl(shift);
            return Ok(Found {
                leaf: entry,
                granted,
                seen,
                gpa: (entry & ADDRESS & !offset) | (address & offset),
                shift,
            });
        }
        table = entry & ADDRESS;
        shift = shift.wrapping_sub(9);
    }
}

/// PAE: a directory pointer without permissions, then two ordinary levels.
#[cold]
fn descend_pae<M: GuestMemory, T: Trail>(
    mem: &mut M,
    paging: &Paging,
    address: u64,
    access: Access,
    trail: &mut T,
) -> Result<Found, WalkError> {
    let index = (address >> PDP_SHIFT) & 3;
    let pointer = match paging.pdptes {
        Some(pointers) => pointers[(index & 3) as usize],
        None => {
            let at = (paging.cr3 & 0xffff_ffe0) | (index << 3);
            // The A bit is reserved here, but QEMU's processor sets it itself.
            mem.read_u64(Gpa(at)).ok_or(WalkError::Memory(Gpa(at)))? & !ACCESSED
        }
    };
    if pointer & PRESENT == 0 {
        return Err(fault(paging, access, 0));
    }
    let reserved = reserved_address(paging) | PAE_RESERVED;
    if pointer & (reserved | NO_EXECUTE | PDPTE_RESERVED) != 0 {
        let reason = PageFaultError::PRESENT | PageFaultError::RESERVED;
        return Err(fault(paging, access, reason));
    }
    let root = pointer & ADDRESS;
    descend_wide(
        mem, paging, address, access, root, PD_SHIFT, reserved, trail,
    )
}

/// 32-bit paging: two levels of four-byte entries, 4 MiB pages with PSE.
#[cold]
fn descend_narrow<M: GuestMemory, T: Trail>(
    mem: &mut M,
    paging: &Paging,
    address: u64,
    access: Access,
    trail: &mut T,
) -> Result<Found, WalkError> {
    let at = (paging.cr3 & 0xffff_f000) | ((address >> PD32_SHIFT) << 2);
    let directory = read_narrow(mem, paging, at, access)?;
    trail.passed(at, directory, false);
    if directory & PAGE_SIZE != 0 && paging.cr4.has(Cr4::PSE) {
        return large_narrow(paging, address, access, directory);
    }
    let at = (directory & 0xffff_f000) | (((address >> PT_SHIFT) & 0x3ff) << 2);
    let entry = read_narrow(mem, paging, at, access)?;
    trail.passed(at, entry, false);
    Ok(Found {
        leaf: entry,
        granted: directory & entry,
        seen: directory | entry,
        gpa: (entry & 0xffff_f000) | (address & 0xfff),
        shift: PT_SHIFT,
    })
}

/// A four-byte entry that must be present.
fn read_narrow<M: GuestMemory>(
    mem: &mut M,
    paging: &Paging,
    at: u64,
    access: Access,
) -> Result<u64, WalkError> {
    let entry = mem.read_u32(Gpa(at)).ok_or(WalkError::Memory(Gpa(at)))?;
    if u64::from(entry) & PRESENT == 0 {
        return Err(fault(paging, access, 0));
    }
    Ok(u64::from(entry))
}

/// A 4 MiB page. Bits 20 to 13 of the entry are bits 39 to 32 of its address,
/// as far as the processor implements them (PSE-36; APM volume 2, section 5.2.2).
fn large_narrow(
    paging: &Paging,
    address: u64,
    access: Access,
    entry: u64,
) -> Result<Found, WalkError> {
    let high = (entry >> 13) & 0xff;
    let implemented = u32::from(paging.physical_bits.clamp(32, 40)) - 32;
    let bit_21 = entry & (1 << 21);
    if bit_21 != 0 || high >> implemented != 0 {
        let reason = PageFaultError::PRESENT | PageFaultError::RESERVED;
        return Err(fault(paging, access, reason));
    }
    let offset = (1_u64 << PD32_SHIFT) - 1;
    Ok(Found {
        leaf: entry,
        granted: entry,
        seen: entry,
        gpa: (high << 32) | (entry & 0xffff_ffff & !offset) | (address & offset),
        shift: PD32_SHIFT,
    })
}
