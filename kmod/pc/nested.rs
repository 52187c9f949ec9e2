// SPDX-License-Identifier: GPL-2.0

//! Entries of nested page tables: the formats of both vendors, as values.
//!
//! [`Npt`] is AMD's (APM vol. 2, 15.25: an ordinary long-mode table, walked as
//! by user code), [`Ept`] Intel's (SDM vol. 3, 29.3). Both have 512 entries of
//! 8 bytes per table and leaves of 4 KiB, 2 MiB and 1 GiB, so a format is just
//! what its bits are called; the tables themselves are `hw::nested`.
//!
//! Levels count from 1, the table whose entries map 4 KiB each.

use super::addr::Gfn;
use super::addr::Hpa;
use core::marker::PhantomData;

mod format;
pub mod invalidation;

pub use format::Ept;
pub use format::Format;
pub use format::Npt;

/// Log2 of the entries of one table.
pub const INDEX_BITS: u32 = 9;

/// The most levels a table can have.
pub const MAX_LEVELS: u8 = 5;

/// How much a leaf maps. The discriminant is the level of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// 4 KiB.
    Size4K = 1,
    /// 2 MiB.
    Size2M = 2,
    /// 1 GiB.
    Size1G = 3,
}

impl Level {
    /// Every size, largest first.
    #[cfg(test)]
    const DESCENDING: [Self; 3] = [Self::Size1G, Self::Size2M, Self::Size4K];

    /// The level of the table that such a leaf is in.
    #[inline]
    pub const fn table(self) -> u8 {
        self as u8
    }

    /// The size that a leaf in a table of this level has.
    #[inline]
    pub const fn of_table(level: u8) -> Option<Self> {
        match level {
            1 => Some(Self::Size4K),
            2 => Some(Self::Size2M),
            3 => Some(Self::Size1G),
            _ => None,
        }
    }

    /// Log2 of the 4 KiB pages of the leaf.
    #[inline]
    pub const fn order(self) -> u32 {
        order_of(self as u8)
    }

    /// The 4 KiB pages of the leaf.
    #[inline]
    pub const fn pages(self) -> u64 {
        pages_of(self as u8)
    }

    /// The bytes of the leaf.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.pages() << super::addr::PAGE_SHIFT
    }
}

/// Log2 of the 4 KiB pages below one entry of a table of `level`.
#[inline]
pub const fn order_of(level: u8) -> u32 {
    let above = if level > MAX_LEVELS {
        MAX_LEVELS as u32
    } else {
        (level as u32).saturating_sub(1)
    };
    above * INDEX_BITS
}

/// The 4 KiB pages below one entry of a table of `level`.
#[inline]
pub const fn pages_of(level: u8) -> u64 {
    1u64.wrapping_shl(order_of(level))
}

/// Index of the entry for `gfn` in a table of `level`.
#[inline]
pub const fn index(gfn: Gfn, level: u8) -> usize {
    (gfn.0.wrapping_shr(order_of(level)) & ((1 << INDEX_BITS) - 1)) as usize
}

/// First frame of the block around `gfn` that one entry of `level` covers.
#[inline]
pub const fn block_start(gfn: Gfn, level: u8) -> Gfn {
    Gfn(gfn.0 & !(pages_of(level) - 1))
}

/// First frame behind the block around `gfn` that one entry of `level` covers.
#[inline]
pub const fn block_end(gfn: Gfn, level: u8) -> Gfn {
    Gfn(block_start(gfn, level).0.wrapping_add(pages_of(level)))
}

/// First frame that tables of `levels` levels do not reach.
#[inline]
pub const fn reach(levels: u8) -> Gfn {
    Gfn(pages_of(levels.saturating_add(1)))
}

/// What a guest does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read, or a read of a guest page table.
    Read,
    /// Write, or the processor's own write to a guest page table.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// What a leaf allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Writes, now.
    pub write: bool,
    /// Writes are the table's to grant: the host's mapping allows them and the
    /// slot does; only the dirty log may stand against it for a while.
    pub may_write: bool,
    /// Instruction fetches.
    pub execute: bool,
    /// Writes, of which the first is still to be recorded by the processor: the
    /// dirty flag is clear. Only with `write`.
    pub clean: bool,
}

/// An entry of a table of format `F`.
pub struct Entry<F> {
    raw: u64,
    format: PhantomData<F>,
}

impl<F> Clone for Entry<F> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Entry<F> {}

impl<F> PartialEq for Entry<F> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<F: Format> core::fmt::Debug for Entry<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}({:#x})", F::NAME, self.raw)
    }
}

/// Bits of an entry that are an address: 51 to 12 in both formats.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The entry is a leaf above level 1: bit 7 in both formats.
const LARGE: u64 = 1 << 7;

/// Software's (bits 52 to 56 are ignored by both processors): see
/// [`Permissions::may_write`].
const MAY_WRITE: u64 = 1 << 52;

impl<F: Format> Entry<F> {
    /// The entry with these bits.
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self {
            raw,
            format: PhantomData,
        }
    }

    /// The bits.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.raw
    }

    /// Points to a table of the next lower level. Its own permissions are
    /// full: leaves alone decide.
    #[inline]
    pub const fn table(hpa: Hpa) -> Self {
        Self::from_raw((hpa.0 & ADDRESS) | F::TABLE)
    }

    /// Maps memory. The accessed bit is set already, and the dirty bit where
    /// writes are allowed and nobody asks for them, so that the processor need
    /// not come back to do it. The dirty bit is never set without the permission
    /// to write.
    #[inline]
    pub const fn leaf(hpa: Hpa, size: Level, permissions: Permissions) -> Self {
        let mut raw = (hpa.0 & ADDRESS) | F::LEAF | F::ACCESSED;
        if !matches!(size, Level::Size4K) {
            raw |= LARGE;
        }
        if permissions.write {
            raw |= F::WRITE;
            if !permissions.clean {
                raw |= F::DIRTY;
            }
        }
        if permissions.may_write {
            raw |= MAY_WRITE;
        }
        if permissions.execute {
            raw |= F::EXECUTE;
        } else {
            raw |= F::NO_EXECUTE;
        }
        Self::from_raw(raw)
    }

    /// Maps something: memory or a table.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.raw & F::PRESENT != 0
    }

    /// Maps memory, being in a table of `level`.
    #[inline]
    pub const fn is_leaf(self, level: u8) -> bool {
        self.is_present() && (level == 1 || self.raw & LARGE != 0)
    }

    /// Points to a table, being in a table of `level`.
    #[inline]
    pub const fn is_table(self, level: u8) -> bool {
        self.is_present() && level != 1 && self.raw & LARGE == 0
    }

    /// The address in it: of the memory or of the table. With memory
    /// encryption it has the encryption bit.
    #[inline]
    pub const fn hpa(self) -> Hpa {
        Hpa(self.raw & ADDRESS)
    }

    /// What this leaf allows.
    #[inline]
    pub const fn permissions(self) -> Permissions {
        Permissions {
            write: self.raw & F::WRITE != 0,
            may_write: self.raw & MAY_WRITE != 0,
            execute: self.raw & F::EXECUTE == F::EXECUTE && self.raw & F::NO_EXECUTE == 0,
            clean: self.raw & F::WRITE != 0 && F::DIRTY != 0 && self.raw & F::DIRTY == 0,
        }
    }

    /// Whether this leaf lets an access through.
    #[inline]
    pub const fn allows(self, access: Access) -> bool {
        let permissions = self.permissions();
        match access {
            Access::Read => self.is_present(),
            Access::Write => self.is_present() && permissions.write,
            Access::Fetch => self.is_present() && permissions.execute,
        }
    }

    /// The processor has used this leaf since the bit was last cleared.
    #[inline]
    pub const fn is_accessed(self) -> bool {
        self.raw & F::ACCESSED != 0
    }

    /// This leaf maps more than one frame.
    #[inline]
    pub const fn is_large(self) -> bool {
        self.raw & LARGE != 0
    }

    /// The bits to clear so that the next write through this leaf is seen: the
    /// permission to write, and a fault tells; or with `logs`, where the
    /// processor keeps a list of the pages it makes dirty, the dirty flag alone.
    /// A large leaf is one entry of that list for many frames, so it takes the
    /// fault, which splits it.
    #[inline]
    pub const fn unseen(self, logs: bool) -> u64 {
        if logs && F::DIRTY != 0 && !self.is_large() {
            F::DIRTY
        } else {
            F::WRITE | F::DIRTY
        }
    }

    /// The processor has written through this leaf since the bit was cleared.
    #[cfg(test)]
    const fn is_dirty(self) -> bool {
        self.raw & F::DIRTY != 0
    }

    /// With writes allowed, and recorded as done.
    #[inline]
    pub const fn with_write(self) -> Self {
        Self::from_raw(self.raw | F::WRITE | F::DIRTY | F::ACCESSED)
    }

    /// A leaf for the same memory that allows what either allows.
    #[inline]
    pub const fn merged(self, other: Self) -> Self {
        let both = self.raw | other.raw;
        let denied = self.raw & other.raw & F::NO_EXECUTE;
        Self::from_raw((both & !F::NO_EXECUTE) | denied)
    }

    /// Entry number `index` of the table that maps the same memory with the
    /// same permissions as this leaf, which is in a table of `level`.
    #[inline]
    pub const fn part(self, level: u8, index: usize) -> Self {
        let below = level.saturating_sub(1);
        let pages = (index as u64 & ((1 << INDEX_BITS) - 1)).wrapping_shl(order_of(below));
        let mut raw = self.raw | (pages << super::addr::PAGE_SHIFT);
        if below == 1 {
            raw &= !LARGE;
        }
        Self::from_raw(raw)
    }
}

#[cfg(test)]
mod tests;
