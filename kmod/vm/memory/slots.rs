// SPDX-License-Identifier: GPL-2.0

//! The table of slots, and changing it.
//!
//! A table is immutable once published; a change makes a new one. `pc::slots`
//! decides what a request does, this makes it so while vCPUs run.

use super::dirty::positive;
use super::dirty::DirtyLog;
use super::FlushRemote;
use super::Memory;
use crate::host::mm::published::Prepared;
use crate::host::mm::table::TableList;
use crate::hw::nested::Context;
use crate::hw::nested::Format;
use crate::hw::nested::Level;
use crate::pc::addr::Gfn;
use crate::pc::addr::Hva;
use crate::pc::addr::PAGE_SHIFT;
use crate::pc::slots;
use crate::pc::slots::plan;
use crate::pc::slots::Change;
use crate::pc::slots::GfnRange;
use crate::pc::slots::Request;
use crate::pc::slots::Slot;
use crate::pc::slots::SlotEntry;
use crate::uapi::kvm_userspace_memory_region;
use crate::uapi::kvm_userspace_memory_region2;
use crate::uapi::KVM_DIRTY_LOG_INITIALLY_SET;
use core::ptr;
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

/// A table of slots, sorted by first frame and free of overlaps.
#[derive(Default)]
pub(super) struct Slots {
    entries: KVVec<MemorySlot>,
    /// From the lowest to behind the highest address of any slot's memory: most
    /// of what changes in a process is not guest memory.
    hull: Option<(Hva, Hva)>,
}

impl Slots {
    /// The slots, in order.
    #[inline]
    fn all(&self) -> &[MemorySlot] {
        &self.entries
    }

    /// The frames that addresses of the process are, slot by slot, those of
    /// slots on their way out included.
    pub(super) fn frames_at(&self, start: Hva, end: Hva) -> impl Iterator<Item = GfnRange> + '_ {
        let inside = self
            .hull
            .is_some_and(|(low, high)| start < high && end > low);
        let entries = if inside { self.all() } else { &[] };
        entries
            .iter()
            .filter_map(move |entry| entry.slot.frames_at(start, end))
    }

    /// The slot of a frame; `hint` as in [`slots::find`].
    #[inline]
    pub(super) fn find(&self, gfn: Gfn, hint: &mut usize) -> Option<&MemorySlot> {
        slots::find(&self.entries, gfn, hint).filter(|entry| !entry.retiring)
    }

    /// The slot with the VMM's number.
    pub(super) fn by_id(&self, id: u16) -> Option<&MemorySlot> {
        let index = slots::index_of_id(&self.entries, id)?;
        self.entries.get(index)
    }

    /// A table with `skip` left out and `new` put in before what is then at
    /// `place`.
    fn rebuilt(&self, skip: Option<usize>, new: Option<(usize, MemorySlot)>) -> Result<Self> {
        let room = self.entries.len().saturating_add(1);
        let mut entries = KVVec::with_capacity(room, GFP_KERNEL_ACCOUNT)?;
        let (place, mut new) = match new {
            Some((place, entry)) => (place, Some(entry)),
            None => (usize::MAX, None),
        };
        let mut skip = skip.and_then(|index| self.entries.get(index));
        for entry in &self.entries {
            if skip.take_if(|skip| ptr::eq(*skip, entry)).is_some() {
                continue;
            }
            if entries.len() == place {
                if let Some(new) = new.take() {
                    entries.push_within_capacity(new)?;
                }
            }
            entries.push_within_capacity(entry.clone())?;
        }
        if let Some(new) = new {
            entries.push_within_capacity(new)?;
        }
        let hull = entries
            .iter()
            .map(span)
            .reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
        Ok(Self { entries, hull })
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

/// The addresses of a slot's memory.
fn span(entry: &MemorySlot) -> (Hva, Hva) {
    let bytes = entry.slot.pages << PAGE_SHIFT;
    (entry.slot.hva, entry.slot.hva.wrapping_add(bytes))
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
        let change = plan(now.all(), request, &self.limits).map_err(positive)?;
        match change {
            Change::Nothing => Ok(()),
            Change::Create { place, slot } => {
                let entry = self.entry(slot)?;
                let next = Prepared::new(now.rebuilt(None, Some((place, entry)))?)?;
                self.slots.publish(next);
                drop(reading);
                self.tidy();
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
        if !self.logs_begin_set() && self.nested.protect(slot.frames(), Context::MaySleep) {
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
