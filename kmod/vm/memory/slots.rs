// SPDX-License-Identifier: GPL-2.0

//! The table of slots, and changing it.
//!
//! A table is immutable once published; a change makes a new one. `pc::slots`
//! decides what a request does, this makes it so while vCPUs run.

use super::log::DirtyLog;
use super::FlushRemote;
use super::Memory;
use crate::host::errno;
use crate::host::mm::published::Prepared;
use crate::host::mm::table::TableList;
use crate::hw::nested::Context;
use crate::hw::nested::Format;
use crate::hw::nested::Level;
use crate::pc::addr::Gfn;
use crate::pc::addr::Hva;
use crate::pc::slots;
use crate::pc::slots::by_address;
use crate::pc::slots::by_address::Placed;
use crate::pc::slots::plan;
use crate::pc::slots::Change;
use crate::pc::slots::GfnRange;
use crate::pc::slots::Request;
use crate::pc::slots::Slot;
use crate::pc::slots::SlotEntry;
use crate::pc::slots::MAX_SLOTS;
use crate::uapi::kvm_userspace_memory_region;
use crate::uapi::kvm_userspace_memory_region2;
use crate::uapi::KVM_DIRTY_LOG_INITIALLY_SET;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A slot as the module keeps it.
#[derive(Clone)]
pub(super) struct MemorySlot {
    pub(super) slot: Slot,
    /// Its dirty log, if writes are logged.
    pub(super) log: Option<Arc<DirtyLog>>,
    /// It is being deleted or moved: not there for whoever looks up a frame,
    /// but the notifier must still find what is mapped.
    retiring: bool,
}

impl SlotEntry for MemorySlot {
    #[inline]
    fn slot(&self) -> &Slot {
        &self.slot
    }
}

impl MemorySlot {
    /// Notes a write to a frame of the slot.
    #[inline]
    pub(super) fn mark_dirty(&self, gfn: Gfn) {
        if let (Some(log), Some(index)) = (&self.log, self.slot.index_of(gfn)) {
            log.mark(index);
        }
    }
}

/// A table of slots, sorted by first frame and free of overlaps, and ways to
/// find one by other keys. What has thousands of slots changes them one by one,
/// and faults and the notifier look them up all the time.
#[derive(Default)]
pub(super) struct Slots {
    entries: KVVec<MemorySlot>,
    /// The slots in order of their memory's addresses.
    placed: KVVec<Placed>,
    /// By number: the slot's index in `entries`, or [`NO_SLOT`].
    indices: KVVec<u16>,
}

/// There is no slot with this number. No index is as high.
const NO_SLOT: u16 = u16::MAX;

const _: () = assert!(MAX_SLOTS < NO_SLOT);

impl Slots {
    /// The slots, in order.
    #[inline]
    fn all(&self) -> &[MemorySlot] {
        &self.entries
    }

    /// The frames that addresses of the process are, slot by slot, those of
    /// slots on their way out included.
    pub(super) fn frames_at(&self, start: Hva, end: Hva) -> impl Iterator<Item = GfnRange> + '_ {
        by_address::frames_at(&self.placed, start, end)
    }

    /// The slot of a frame; `hint` as in [`slots::find`].
    #[inline]
    pub(super) fn find(&self, gfn: Gfn, hint: &mut usize) -> Option<&MemorySlot> {
        slots::find(&self.entries, gfn, hint).filter(|entry| !entry.retiring)
    }

    /// The slot of a frame that may still be mapped: one on its way out, too.
    pub(super) fn find_mapped(&self, gfn: Gfn, hint: &mut usize) -> Option<&MemorySlot> {
        slots::find(&self.entries, gfn, hint)
    }

    /// The slot with the VMM's number.
    pub(super) fn by_id(&self, id: u16) -> Option<&MemorySlot> {
        self.entries.get(self.index_of_id(id)?)
    }

    fn index_of_id(&self, id: u16) -> Option<usize> {
        let index = *self.indices.get(usize::from(id))?;
        (index != NO_SLOT).then_some(usize::from(index))
    }

    /// A table with `skip` left out and `new` put in before what is then at
    /// `place`.
    fn rebuilt(&self, skip: Option<usize>, new: Option<(usize, MemorySlot)>) -> Result<Self> {
        let gone = skip.and_then(|index| self.entries.get(index));
        let gone = gone.map(|entry| entry.slot);
        let added = new.as_ref().map(|(_, entry)| entry.slot);
        let place = new.as_ref().map(|(place, _)| *place);
        let changed = skip.unwrap_or(usize::MAX).min(place.unwrap_or(usize::MAX));

        let mut entries = copy_with_room(&self.entries)?;
        if let Some(index) = skip {
            entries.remove(index).map_err(|_| ENOENT)?;
        }
        if let Some((place, entry)) = new {
            entries.insert_within_capacity(place, entry)?;
        }
        Ok(Self {
            placed: placed(&self.placed, gone, added)?,
            indices: indices(&self.indices, gone, &entries, changed)?,
            entries,
        })
    }

    /// A table in which slot `index` is on its way out.
    fn retiring(&self, index: usize) -> Result<Self> {
        let entry = self.entries.get(index).ok_or(ENOENT)?;
        let retiring = MemorySlot {
            retiring: true,
            ..entry.clone()
        };
        self.rebuilt(Some(index), Some((index, retiring)))
    }
}

/// A copy that has room for one more.
fn copy_with_room<T: Clone>(values: &[T]) -> Result<KVVec<T>> {
    let room = values.len().saturating_add(1);
    let mut copy = KVVec::with_capacity(room, GFP_KERNEL_ACCOUNT)?;
    copy.extend_from_slice(values, GFP_KERNEL_ACCOUNT)?;
    Ok(copy)
}

/// The slots in order of address, without `gone` and with `added`.
fn placed(before: &[Placed], gone: Option<Slot>, added: Option<Slot>) -> Result<KVVec<Placed>> {
    let mut placed = copy_with_room(before)?;
    let mut changed = usize::MAX;
    if let Some(gone) = gone {
        changed = by_address::index_of(&placed, &gone).ok_or(ENOENT)?;
        placed.remove(changed).map_err(|_| ENOENT)?;
    }
    if let Some(added) = added {
        let place = by_address::place_of(&placed, &added);
        changed = changed.min(place);
        placed.insert_within_capacity(place, Placed::behind(None, added))?;
    }
    by_address::settle(&mut placed, changed);
    Ok(placed)
}

/// The indices of slots by their numbers. `before` is what they were without
/// `gone` being gone, and before `entries` from `changed` on.
fn indices(
    before: &[u16],
    gone: Option<Slot>,
    entries: &[MemorySlot],
    changed: usize,
) -> Result<KVVec<u16>> {
    let mut indices = copy_with_room(before)?;
    if let Some(place) = gone.and_then(|gone| indices.get_mut(usize::from(gone.id))) {
        *place = NO_SLOT;
    }
    let mut index = changed;
    for entry in entries.get(changed..).unwrap_or(&[]) {
        let id = usize::from(entry.slot.id);
        if let Some(missing) = id.wrapping_add(1).checked_sub(indices.len()) {
            indices.extend_with(missing, NO_SLOT, GFP_KERNEL_ACCOUNT)?;
        }
        if let Some(place) = indices.get_mut(id) {
            *place = index as u16;
        }
        index = index.wrapping_add(1);
    }
    Ok(indices)
}

impl<F: Format, V: FlushRemote> Memory<F, V> {
    /// `KVM_SET_USER_MEMORY_REGION` (KVM API document, 4.35): creates, moves or
    /// deletes a slot, or changes whether its writes are logged. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` and `EEXIST` as [`plan`] says, `ENOMEM`. Nothing has changed
    /// then.
    pub fn set_region(&self, region: &kvm_userspace_memory_region) -> Result {
        self.change(&Request::from(region))
    }

    /// `KVM_SET_USER_MEMORY_REGION2` (4.140). There is no guest_memfd, so the
    /// flag for it is not known and its fields are not looked at.
    ///
    /// # Errors
    ///
    /// As [`Memory::set_region`].
    pub fn set_region2(&self, region: &kvm_userspace_memory_region2) -> Result {
        self.set_region(&kvm_userspace_memory_region {
            slot: region.slot,
            flags: region.flags,
            guest_phys_addr: region.guest_phys_addr,
            memory_size: region.memory_size,
            userspace_addr: region.userspace_addr,
        })
    }

    fn change(&self, request: &Request) -> Result {
        let _changes = self.changes.lock();
        let reading = self.slots.read();
        let now = reading.get();
        let index = now.index_of_id(request.id);
        let change = plan(now.all(), index, request, &self.limits).map_err(errno::error)?;
        match change {
            Change::Nothing => Ok(()),
            Change::Create { place, slot } => {
                let entry = self.entry(slot)?;
                let next = Prepared::new(now.rebuilt(None, Some((place, entry)))?)?;
                self.slots.publish(next);
                drop(reading);
                self.tidy();
                self.make_way(&slot);
                Ok(())
            }
            Change::Delete { index } => {
                let slot = now.all().get(index).ok_or(EINVAL)?.slot;
                let between = Prepared::new(now.retiring(index)?)?;
                let next = Prepared::new(now.rebuilt(Some(index), None)?)?;
                drop(reading);
                self.replace(&slot, between, next);
                Ok(())
            }
            Change::Move { index, place, slot } => {
                let entry = now.all().get(index).ok_or(EINVAL)?;
                let old = entry.slot;
                let moved = MemorySlot {
                    slot,
                    log: self.log_for(&slot, entry.log.as_ref())?,
                    retiring: false,
                };
                let between = Prepared::new(now.retiring(index)?)?;
                let next = Prepared::new(now.rebuilt(Some(index), Some((place, moved)))?)?;
                drop(reading);
                self.replace(&old, between, next);
                self.make_way(&slot);
                Ok(())
            }
            Change::Flags { index, slot } => {
                let entry = self.entry(slot)?;
                let next = Prepared::new(now.rebuilt(Some(index), Some((index, entry)))?)?;
                drop(reading);
                self.slots.publish(next);
                self.logging_changed(&slot);
                Ok(())
            }
        }
    }

    fn entry(&self, slot: Slot) -> Result<MemorySlot> {
        Ok(MemorySlot {
            log: self.log_for(&slot, None)?,
            slot,
            retiring: false,
        })
    }

    /// The dirty log a slot shall have: the one it has had, or a new one.
    fn log_for(&self, slot: &Slot, had: Option<&Arc<DirtyLog>>) -> Result<Option<Arc<DirtyLog>>> {
        if !slot.logs_dirty() {
            return Ok(None);
        }
        if let Some(log) = had {
            return Ok(Some(log.clone()));
        }
        let log = DirtyLog::new(slot.pages, self.logs_begin_set())?;
        Ok(Some(Arc::new(log, GFP_KERNEL_ACCOUNT)?))
    }

    fn logs_begin_set(&self) -> bool {
        self.dirty_mode.load(Ordering::Relaxed) & KVM_DIRTY_LOG_INITIALLY_SET != 0
    }

    /// From the present table to one where `slot` is not, or is elsewhere, by
    /// way of one where it is on its way out.
    fn replace(&self, slot: &Slot, between: Prepared<Slots>, next: Prepared<Slots>) {
        self.slots.publish(between);
        // From here on nobody maps the slot's frames, or reaches its memory.
        self.slots.wait();
        self.zap(slot.frames(), Context::MaySleep);
        self.slots.publish(next);
        // Whoever sees the table between takes the slot for deleted: no wait.
        self.way_is_free(slot);
    }

    /// What is mapped in a slot whose logging has been switched follows suit.
    fn logging_changed(&self, slot: &Slot) {
        if !slot.logs_dirty() {
            // So that large leaves can come back.
            if slot.pages >= Level::Size2M.pages() {
                self.zap(slot.frames(), Context::MaySleep);
            }
            return;
        }
        // From here on every write that goes by the table of slots is logged.
        self.slots.wait();
        if !self.logs_begin_set() && self.nested.watch(slot.frames(), Context::MaySleep) {
            self.flush();
        }
    }

    /// Takes the frames out of the nested tables.
    pub(super) fn zap(&self, frames: GfnRange, context: Context) {
        let mut tables = TableList::new();
        let mut writer = self.nested.write();
        if writer.zap(frames, &mut tables) {
            self.flush();
        }
        drop(writer);
        self.nested.free(tables, context);
    }

    /// Frees tables of slots that have been replaced without waiting, before
    /// they are many.
    fn tidy(&self) {
        if self.slots.retired() >= MAX_RETIRED {
            self.slots.wait();
        }
    }
}

/// Tables of slots that may wait to be freed.
const MAX_RETIRED: usize = 64;
