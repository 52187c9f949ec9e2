// SPDX-License-Identifier: GPL-2.0

//! The walk of a guest's page tables in software: from a linear address to a
//! guest physical one, or to the page fault the processor would raise.
//!
//! Covers paging off, 32-bit, PAE, four-level and five-level paging with PSE,
//! NX, WP, SMEP, SMAP, protection keys, reserved bits, and accessed and dirty
//! bits (APM volume 2, chapter 5; SDM volume 3A, chapter 4).
//!
//! It is on the way of every exit whose instruction must be fetched. So there
//! are two walks: a quick one for what nearly always is, four levels that grant
//! the access, and an exact one for everything else, faults included. The quick
//! one gives up at the first thing it does not expect and decides nothing.
//!
//! Canonical form is the business of whoever formed the linear address: bits
//! the paging mode does not translate are ignored here.

use super::addr::{Gpa, Gva, PAGE_SHIFT};
use super::regs::{Cr0, Cr4, Efer, PageFaultError};

mod quick;
mod tables;

/// Guest physical memory as a page walk sees it.
pub trait GuestMemory {
    /// Reads the eight bytes at `gpa`, a multiple of eight, in one access.
    /// `None` if no memory is there.
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64>;

    /// Replaces `old` by `new` at `gpa`, a multiple of eight, if it is still
    /// there. `Some(false)` if it was not, `None` if no memory is there or it
    /// cannot be written.
    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool>;

    /// Reads the four bytes at `gpa`, a multiple of four.
    #[inline]
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        let both = self.read_u64(Gpa(gpa.0 & !7))?;
        Some((both >> ((gpa.0 & 4) * 8)) as u32)
    }

    /// Replaces `old` by `new` at `gpa`, a multiple of four, if it is still
    /// there. May also answer `Some(false)` because a neighbour changed.
    #[inline]
    fn cmpxchg_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Option<bool> {
        let aligned = Gpa(gpa.0 & !7);
        let shift = (gpa.0 & 4) * 8;
        let both = self.read_u64(aligned)?;
        if (both >> shift) as u32 != old {
            return Some(false);
        }
        let kept = both & !(0xffff_ffff_u64 << shift);
        self.cmpxchg_u64(aligned, both, kept | (u64::from(new) << shift))
    }
}

/// The registers and processor properties a walk depends on.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    /// CR0: PG and WP.
    pub cr0: Cr0,
    /// CR3: the root table.
    pub cr3: u64,
    /// CR4: PSE, PAE, LA57, SMEP, SMAP, PKE.
    pub cr4: Cr4,
    /// EFER: LMA and NXE.
    pub efer: Efer,
    /// Rights of protection keys; heeded with CR4.PKE in long mode.
    pub pkru: u32,
    /// The four PAE directory pointers, if the processor holds copies of them
    /// (Intel); `None` to read them from memory (AMD with nested paging, APM
    /// volume 2, section 15.25).
    pub pdptes: Option<[u64; 4]>,
    /// Implemented physical address bits: MAXPHYADDR, at most 52.
    pub physical_bits: u8,
    /// Does the processor know 1 GiB pages?
    pub gib_pages: bool,
    /// Is bit 8 reserved in table pointers of the upper levels, as on AMD?
    pub reserves_global: bool,
}

/// What is asked of a translation. The low bits are those of a page fault's
/// error code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access(u32);

impl Access {
    const OVERRIDE: u32 = 1 << 30;
    const MARK: u32 = 1 << 31;

    /// A supervisor's data read.
    pub const READ: Self = Self(0);
    /// A supervisor's data write.
    pub const WRITE: Self = Self(PageFaultError::WRITE);
    /// A supervisor's instruction fetch.
    pub const FETCH: Self = Self(PageFaultError::FETCH);

    /// The same access made at privilege level `cpl`: 3 is user mode. Leave it
    /// out for what the processor reads for itself at any level (descriptor
    /// tables, task state segments).
    #[inline]
    pub const fn at_cpl(self, cpl: u8) -> Self {
        if cpl == 3 {
            Self(self.0 | PageFaultError::USER)
        } else {
            self
        }
    }

    /// The same access with RFLAGS.AC as `ac`, which lifts SMAP from explicit
    /// supervisor accesses.
    #[inline]
    pub const fn with_ac(self, ac: bool) -> Self {
        if ac {
            Self(self.0 | Self::OVERRIDE)
        } else {
            self
        }
    }

    /// The same access, which also sets accessed and dirty bits.
    #[inline]
    pub const fn marking(self) -> Self {
        Self(self.0 | Self::MARK)
    }

    /// Is it a write?
    #[inline]
    pub const fn is_write(self) -> bool {
        self.0 & PageFaultError::WRITE != 0
    }

    /// Is it an instruction fetch?
    #[inline]
    pub const fn is_fetch(self) -> bool {
        self.0 & PageFaultError::FETCH != 0
    }

    /// Is it made in user mode?
    #[inline]
    pub const fn is_user(self) -> bool {
        self.0 & PageFaultError::USER != 0
    }

    const fn overrides_smap(self) -> bool {
        self.0 & Self::OVERRIDE != 0
    }

    const fn marks(self) -> bool {
        self.0 & Self::MARK != 0
    }
}

/// Where a linear address leads, and what may be done there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The guest physical address.
    pub gpa: Gpa,
    /// Log2 of the size of the page that maps it: 12, 21, 22 or 30.
    pub page_shift: u8,
    /// Do the tables allow writes?
    pub writable: bool,
    /// Do the tables allow user mode?
    pub user: bool,
    /// Do the tables allow instruction fetches?
    pub executable: bool,
}

/// Why there is no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError {
    /// The guest is to get #PF with this error code, CR2 being the address asked.
    PageFault(PageFaultError),
    /// A table lies where there is no memory (or none that can be written,
    /// when bits had to be set in it).
    Memory(Gpa),
    /// The tables kept changing while bits were to be set in them. Nothing was
    /// accessed: the guest can simply run the instruction again.
    Contended,
}

/// How often entries that change under the walk are read again.
const RETRIES: u32 = 8;

/// Translates `gva` for `access`.
///
/// # Errors
///
/// [`WalkError::PageFault`] is the guest's own fault; the others are about
/// the memory its tables lie in.
#[inline]
pub fn walk<M: GuestMemory>(
    mem: &mut M,
    paging: &Paging,
    gva: Gva,
    access: Access,
) -> Result<Translation, WalkError> {
    if !paging.cr0.has(Cr0::PG) {
        return Ok(Translation {
            gpa: Gpa(gva.0),
            page_shift: PAGE_SHIFT as u8,
            writable: true,
            user: true,
            executable: true,
        });
    }
    match quick::walk(mem, paging, gva, access) {
        Some(translation) => Ok(translation),
        None => exact(mem, paging, gva, access),
    }
}

/// The walk that knows every mode and every fault.
#[cold]
fn exact<M: GuestMemory>(
    mem: &mut M,
    paging: &Paging,
    gva: Gva,
    access: Access,
) -> Result<Translation, WalkError> {
    let found = tables::descend(mem, paging, gva, access, &mut tables::NoTrail)?;
    let translation = found.check(paging, access)?;
    if access.marks() && !found.is_marked(access) {
        return mark(mem, paging, gva, access);
    }
    Ok(translation)
}

/// Walks again, remembering the entries passed, and sets the accessed and
/// dirty bits in them. An entry that changed meanwhile starts the walk anew:
/// its successor may not grant the access.
#[cold]
fn mark<M: GuestMemory>(
    mem: &mut M,
    paging: &Paging,
    gva: Gva,
    access: Access,
) -> Result<Translation, WalkError> {
    for _ in 0..RETRIES {
        let mut trail = tables::Recorded::default();
        let found = tables::descend(mem, paging, gva, access, &mut trail)?;
        let translation = found.check(paging, access)?;
        if trail.mark(mem, access)? {
            return Ok(translation);
        }
    }
    Err(WalkError::Contended)
}

#[cfg(test)]
mod tests;
