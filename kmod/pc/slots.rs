// SPDX-License-Identifier: GPL-2.0

//! Memory slots: which guest frames are which memory of the VMM's process.
//!
//! Arithmetic only. The table of slots is a slice the caller owns, sorted by
//! first frame and free of overlaps; [`plan`] says what a request of the VMM
//! would do to it, and keeps both properties when the caller does just that
//! at the place it names. The element type is the caller's, so that it can
//! carry a dirty bitmap and whatever else belongs to a slot ([`SlotEntry`]).

use super::addr::{Gfn, Gpa, Hva, PAGE_SHIFT, PAGE_SIZE};
use super::search::partition_point;
use crate::uapi::errno::{EEXIST, EINVAL};
use crate::uapi::{kvm_userspace_memory_region, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};

pub mod by_address;
pub mod dirty;

/// Slots a VM may have: the value of `KVM_CAP_NR_MEMSLOTS`.
pub const MAX_SLOTS: u16 = 32_764;

/// Most pages of one slot; bitmap indices stay within 31 bits.
pub const MAX_SLOT_PAGES: u64 = (1 << 31) - 1;

/// A run of guest frames, `end` excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GfnRange {
    /// First frame.
    pub start: Gfn,
    /// Frame behind the last.
    pub end: Gfn,
}

impl GfnRange {
    /// Frames in the range.
    #[inline]
    pub const fn pages(self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// What both ranges have, if anything.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Self { start, end })
    }
}

/// A memory slot.
///
/// Invariants, established by [`plan`]: `pages` is 1 to [`MAX_SLOT_PAGES`];
/// neither the frames nor the host addresses wrap; `hva` is page-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First frame.
    pub base: Gfn,
    /// Frames.
    pub pages: u64,
    /// Where the first frame is in the VMM's process.
    pub hva: Hva,
    /// `KVM_MEM_*`.
    pub flags: u32,
    /// The number the VMM knows it by.
    pub id: u16,
}

impl Slot {
    /// The slot's frames.
    #[inline]
    pub const fn frames(&self) -> GfnRange {
        GfnRange {
            start: self.base,
            end: Gfn(self.base.0.wrapping_add(self.pages)),
        }
    }

    /// Index of a frame in the slot, as in its dirty bitmap.
    #[inline]
    pub const fn index_of(&self, gfn: Gfn) -> Option<u64> {
        // A frame below the base wraps to more than any slot's length.
        let index = gfn.0.wrapping_sub(self.base.0);
        if index < self.pages {
            Some(index)
        } else {
            None
        }
    }

    /// Is the frame in the slot?
    #[inline]
    pub const fn contains(&self, gfn: Gfn) -> bool {
        self.index_of(gfn).is_some()
    }

    /// Where a frame is in the VMM's process.
    #[inline]
    pub const fn hva_of(&self, gfn: Gfn) -> Option<Hva> {
        match self.index_of(gfn) {
            Some(index) => Some(self.hva.wrapping_add(index << PAGE_SHIFT)),
            None => None,
        }
    }

    /// Where a byte is in the VMM's process, and how many bytes from there
    /// on are in the slot.
    #[inline]
    pub const fn bytes_at(&self, gpa: Gpa) -> Option<(Hva, u64)> {
        let Some(index) = self.index_of(gpa.gfn()) else {
            return None;
        };
        let offset = (index << PAGE_SHIFT) | gpa.page_offset();
        let length = self.pages << PAGE_SHIFT;
        Some((self.hva.wrapping_add(offset), length.wrapping_sub(offset)))
    }

    /// The frame that an address of the VMM's process is, if the slot has it.
    #[inline]
    pub const fn gfn_of(&self, hva: Hva) -> Option<Gfn> {
        let index = hva.0.wrapping_sub(self.hva.0) >> PAGE_SHIFT;
        if hva.0 >= self.hva.0 && index < self.pages {
            Some(Gfn(self.base.0.wrapping_add(index)))
        } else {
            None
        }
    }

    /// The frames that a range of addresses of the VMM's process is; `end`
    /// is excluded, and a page of which the range has one byte counts whole.
    pub fn frames_at(&self, start: Hva, end: Hva) -> Option<GfnRange> {
        let length = self.pages << PAGE_SHIFT;
        let last = self.hva.wrapping_add(length);
        let start = start.max(self.hva);
        let end = end.min(last);
        if start >= end {
            return None;
        }
        let first = start.0.wrapping_sub(self.hva.0) >> PAGE_SHIFT;
        let behind = end.0.wrapping_sub(self.hva.0).div_ceil(PAGE_SIZE);
        Some(GfnRange {
            start: Gfn(self.base.0.wrapping_add(first)),
            end: Gfn(self.base.0.wrapping_add(behind)),
        })
    }

    /// May one leaf of `1 << order` pages map the frame? It may when the
    /// naturally aligned block around it is all in the slot, and guest
    /// physical and host virtual address agree in the bits below its size.
    #[inline]
    pub const fn block_fits(&self, gfn: Gfn, order: u32) -> bool {
        let Some(size) = 1u64.checked_shl(order) else {
            return false;
        };
        let low = size.wrapping_sub(1);
        if ((self.hva.0 >> PAGE_SHIFT) ^ self.base.0) & low != 0 {
            return false;
        }
        let first = Gfn(gfn.0 & !low);
        let last = Gfn(gfn.0 | low);
        self.contains(first) && self.contains(last)
    }

    /// Are writes of the guest logged?
    #[inline]
    pub const fn logs_dirty(&self) -> bool {
        self.flags & KVM_MEM_LOG_DIRTY_PAGES != 0
    }

    /// Are writes of the guest for the VMM to emulate?
    #[inline]
    pub const fn read_only(&self) -> bool {
        self.flags & KVM_MEM_READONLY != 0
    }
}

/// An element of the table of slots.
pub trait SlotEntry {
    /// The slot it is.
    fn slot(&self) -> &Slot;
}

impl SlotEntry for Slot {
    #[inline]
    fn slot(&self) -> &Slot {
        self
    }
}

/// The slot of a frame.
///
/// `hint` is the index found last: most look-ups hit the slot of the one
/// before. Any value is allowed in it, also one of another table.
#[inline]
pub fn find<'a, T: SlotEntry>(slots: &'a [T], gfn: Gfn, hint: &mut usize) -> Option<&'a T> {
    if let Some(entry) = slots.get(*hint) {
        if entry.slot().contains(gfn) {
            return Some(entry);
        }
    }
    let index = index_of(slots, gfn)?;
    *hint = index;
    slots.get(index)
}

/// Index of the slot of a frame.
pub fn index_of<T: SlotEntry>(slots: &[T], gfn: Gfn) -> Option<usize> {
    let behind = partition_point(slots, |entry| entry.slot().base <= gfn);
    let index = behind.checked_sub(1)?;
    slots.get(index)?.slot().contains(gfn).then_some(index)
}

/// The slots that have frames of a range, in order.
pub fn overlapping<T: SlotEntry>(slots: &[T], range: GfnRange) -> impl Iterator<Item = &T> {
    let first = partition_point(slots, |entry| entry.slot().frames().end <= range.start);
    slots
        .get(first..)
        .unwrap_or(&[])
        .iter()
        .take_while(move |entry| range.pages() != 0 && entry.slot().base < range.end)
}

/// What the VMM asks for, in the terms of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Slot number.
    pub id: u16,
    /// Address space.
    pub space: u16,
    /// `KVM_MEM_*`.
    pub flags: u32,
    /// First byte.
    pub gpa: Gpa,
    /// Bytes.
    pub size: u64,
    /// First byte in the VMM's process.
    pub hva: Hva,
}

impl From<&kvm_userspace_memory_region> for Request {
    fn from(region: &kvm_userspace_memory_region) -> Self {
        Self {
            // The two halves of one number.
            id: (region.slot & 0xffff) as u16,
            space: (region.slot >> 16) as u16,
            flags: region.flags,
            gpa: Gpa(region.guest_phys_addr),
            size: region.memory_size,
            hva: Hva(region.userspace_addr),
        }
    }
}

/// What the VM and the host allow.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Address spaces: 1, or 2 with SMM.
    pub spaces: u16,
    /// `KVM_MEM_*` flags that are supported.
    pub flags: u32,
    /// First frame beyond the guest's physical address space.
    pub end: Gfn,
    /// First address beyond the VMM's own half.
    pub user_end: Hva,
}

/// What to do with the table of slots. `index` is the element's place in the
/// table as given; `place` is where the new one goes in a table without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is so already.
    Nothing,
    /// Insert the slot.
    Create {
        /// Where to insert it.
        place: usize,
        /// The slot.
        slot: Slot,
    },
    /// Remove the slot.
    Delete {
        /// Which.
        index: usize,
    },
    /// Remove the slot and insert it elsewhere.
    Move {
        /// Which.
        index: usize,
        /// Where to insert it, once it has been removed.
        place: usize,
        /// What it is then.
        slot: Slot,
    },
    /// Only the flags change.
    Flags {
        /// Which.
        index: usize,
        /// What it is then.
        slot: Slot,
    },
}

/// Checks a request against the rules of `KVM_SET_USER_MEMORY_REGION` (API
/// document 4.35) and says what it does to the table of its address space.
/// `index` is where the slot with the request's number is, if there is one.
///
/// # Errors
///
/// `EINVAL` for what can never be: unknown flags, addresses or a size that
/// are not page-aligned, wrap or lie outside; a slot or address space that
/// does not exist; deleting a slot that is not there; resizing a slot, or
/// changing its memory or whether it is read-only. `EEXIST` when it overlaps
/// another slot.
pub fn plan<T: SlotEntry>(
    slots: &[T],
    index: Option<usize>,
    request: &Request,
    limits: &Limits,
) -> Result<Change, i32> {
    check_shape(request, limits)?;

    let old = index.and_then(|index| slots.get(index));
    if request.size == 0 {
        return index.map_or(Err(EINVAL), |index| Ok(Change::Delete { index }));
    }

    let new = Slot {
        base: request.gpa.gfn(),
        pages: request.size >> PAGE_SHIFT,
        hva: request.hva,
        flags: request.flags,
        id: request.id,
    };
    let (Some(index), Some(old)) = (index, old) else {
        check_place(slots, &new, limits)?;
        let place = partition_point(slots, |entry| entry.slot().base < new.base);
        return Ok(Change::Create { place, slot: new });
    };

    let old = *old.slot();
    if new.hva != old.hva || new.pages != old.pages {
        return Err(EINVAL);
    }
    if (new.flags ^ old.flags) & !KVM_MEM_LOG_DIRTY_PAGES != 0 {
        return Err(EINVAL);
    }
    if new.base != old.base {
        check_place(slots, &new, limits)?;
        let before = partition_point(slots, |entry| entry.slot().base < new.base);
        let place = before.saturating_sub(usize::from(index < before));
        return Ok(Change::Move {
            index,
            place,
            slot: new,
        });
    }
    if new.flags != old.flags {
        return Ok(Change::Flags { index, slot: new });
    }
    Ok(Change::Nothing)
}

/// The rules that do not depend on other slots.
fn check_shape(request: &Request, limits: &Limits) -> Result<(), i32> {
    if request.flags & !limits.flags != 0 {
        return Err(EINVAL);
    }
    let aligned = |value: u64| value % PAGE_SIZE == 0;
    if !aligned(request.size) || !aligned(request.gpa.0) || !aligned(request.hva.0) {
        return Err(EINVAL);
    }
    match request.hva.checked_add(request.size) {
        Some(end) if end <= limits.user_end => {}
        _ => return Err(EINVAL),
    }
    if request.space >= limits.spaces || request.id >= MAX_SLOTS {
        return Err(EINVAL);
    }
    if request.gpa.checked_add(request.size).is_none() {
        return Err(EINVAL);
    }
    if request.size >> PAGE_SHIFT > MAX_SLOT_PAGES {
        return Err(EINVAL);
    }
    Ok(())
}

/// The rules for a slot that comes to a place.
fn check_place<T: SlotEntry>(slots: &[T], new: &Slot, limits: &Limits) -> Result<(), i32> {
    if overlapping(slots, new.frames()).any(|entry| entry.slot().id != new.id) {
        return Err(EEXIST);
    }
    if new.frames().end > limits.end {
        return Err(EINVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
