// SPDX-License-Identifier: GPL-2.0

//! Dirty logs: which frames of a slot have been written since userspace last
//! asked.
//!
//! Who writes makes the write possible first and sets the bit then; who
//! collects clears the bit first and takes the permission then. Whatever the
//! interleaving, a write ends up with its bit set or with one that was
//! collected after it became possible, and then userspace reads the page after
//! the write, or finds the bit the next time. So collecting needs only the read
//! side of the nested tables' lock and vCPUs go on faulting.
//!
//! Where processors keep lists of the pages they make dirty, "possible" is the
//! dirty flag of a leaf of 4 KiB, not its permission: no fault, and the bit is
//! set when the list is taken, which is whenever a vCPU leaves the inner loop. A
//! page that is in a list, but not in the log yet, keeps its dirty flag, because
//! only flags of pages whose bit was set are cleared; so its bit is set later.
//! Hence clearing does not need the lists. Reading has the vCPUs hand them over
//! first, so that what was written before the call is in the log.

use super::slots::MemorySlot;
use super::FlushRemote;
use super::Memory;
use super::View;
use crate::host::errno;
use crate::host::mm::cond_resched;
use crate::host::user::UserPtr;
use crate::hw::nested::Format;
use crate::pc::addr::Gfn;
use crate::pc::slots::dirty;
use crate::pc::slots::GfnRange;
use crate::pc::slots::Slot;
use crate::pc::slots::MAX_SLOTS;
use crate::uapi::kvm_clear_dirty_log;
use crate::uapi::kvm_dirty_log;
use crate::uapi::KVM_DIRTY_LOG_INITIALLY_SET;
use crate::uapi::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// Words handled at a time: on the stack, and between two offers to yield.
const CHUNK: usize = 32;

/// Space and number of a slot in an ioctl's argument.
///
/// # Errors
///
/// `EINVAL` for one that no slot can have.
fn slot_number(slot: u32) -> Result<u16> {
    let (space, id) = (slot >> 16, (slot & 0xffff) as u16);
    if space != 0 || id >= MAX_SLOTS {
        return Err(EINVAL);
    }
    Ok(id)
}

impl<F: Format, V: FlushRemote> View<'_, F, V> {
    /// A processor has noted that the guest has written to a frame.
    pub fn note_written(&self, gfn: Gfn) {
        let mut hint = self.hint.get();
        if let Some(entry) = self.slots.get().find_mapped(gfn, &mut hint) {
            entry.mark_dirty(gfn);
        }
        self.hint.set(hint);
    }
}

impl<F: Format, V: FlushRemote> Memory<F, V> {
    /// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` (KVM API document, 7.15): `mode` is
    /// the argument of `KVM_ENABLE_CAP`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an unknown or impossible combination of bits.
    pub fn set_dirty_log_mode(&self, mode: u64) -> Result {
        let allowed = if mode & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE != 0 {
            KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET
        } else {
            0
        };
        if mode & !allowed != 0 {
            return Err(EINVAL);
        }
        let _changes = self.changes.lock();
        self.dirty_mode.store(mode, Ordering::Relaxed);
        Ok(())
    }

    fn collects_manually(&self) -> bool {
        self.dirty_mode.load(Ordering::Relaxed) & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE != 0
    }

    /// `KVM_GET_DIRTY_LOG` (4.8): copies a slot's log out and, unless
    /// [`Memory::set_dirty_log_mode`] says that userspace does it itself,
    /// begins it anew. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a number no slot can have, `ENOENT` for a slot that is not
    /// there or has no log, `EFAULT`: the bits not copied out stay set.
    pub fn get_dirty_log(&self, request: &kvm_dirty_log) -> Result {
        let id = slot_number(request.slot)?;
        let _changes = self.changes.lock();
        let entry = self.logged(id)?;
        if self.logs_writes {
            self.vcpus.collect_written();
        }
        let log = entry.log.as_ref().ok_or(ENOENT)?;
        let to = UserPtr::new(request.dirty_bitmap);
        let clear = !self.collects_manually();
        let mut watched = false;
        let mut result = Ok(());
        let mut first = 0;
        for words in log.words.chunks(CHUNK) {
            let mut bits = [0; CHUNK];
            for (bits, word) in bits.iter_mut().zip(words) {
                *bits = collect(word, clear);
            }
            if clear {
                watched |= self.watch(&entry.slot, first, &bits);
            }
            result = copy_out(to, first, bits.get(..words.len()).unwrap_or(&[]));
            if result.is_err() {
                put_back(words, &bits, clear);
                break;
            }
            first = first.saturating_add(CHUNK);
            cond_resched();
        }
        if watched {
            self.flush();
        }
        result
    }

    /// `KVM_CLEAR_DIRTY_LOG` (4.116): the frames whose bits are set in the
    /// bitmap given have been taken note of. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` and `ENOENT` as [`dirty::clear`] says, `EFAULT`.
    pub fn clear_dirty_log(&self, request: &kvm_clear_dirty_log) -> Result {
        let id = slot_number(request.slot)?;
        let _changes = self.changes.lock();
        let entry = self.find_id(id);
        let slot = entry.as_ref().map(|entry| &entry.slot);
        let clear = dirty::clear(slot, request).map_err(errno::error)?;
        let entry = entry.ok_or(ENOENT)?;
        let log = entry.log.as_ref().ok_or(ENOENT)?;
        let from = UserPtr::new(request.dirty_bitmap);
        let mut watched = false;
        let mut result = Ok(());
        let mut nth = 0;
        while nth < clear.words && result.is_ok() {
            let mut bits = [0; CHUNK];
            let count = (clear.words.wrapping_sub(nth) as usize).min(CHUNK);
            result = copy_in(from, nth, bits.get_mut(..count).unwrap_or(&mut []));
            if result.is_ok() {
                let first = clear.first_word.wrapping_add(nth) as usize;
                let words = log.words.get(first..).unwrap_or(&[]);
                for (at, (bits, word)) in bits.iter_mut().take(count).zip(words).enumerate() {
                    *bits &= clear.mask(nth.wrapping_add(at as u64));
                    *bits &= word.fetch_and(!*bits, Ordering::SeqCst);
                }
                watched |= self.watch(&entry.slot, first, &bits);
            }
            nth = nth.wrapping_add(count as u64);
            cond_resched();
        }
        if watched {
            self.flush();
        }
        result
    }

    /// The slot with that number, as it is while `changes` is held.
    fn find_id(&self, id: u16) -> Option<MemorySlot> {
        self.slots.read().get().by_id(id).cloned()
    }

    fn logged(&self, id: u16) -> Result<MemorySlot> {
        self.find_id(id)
            .filter(|entry| entry.log.is_some())
            .ok_or(ENOENT)
    }

    /// Has the next write be seen to the frames whose bits are set in `bits`,
    /// which begins with word `first`. Whether a TLB may hide it still.
    fn watch(&self, slot: &Slot, first: usize, bits: &[u64; CHUNK]) -> bool {
        if bits.iter().all(|&bits| bits == 0) {
            return false;
        }
        let reader = self.nested.read();
        let mut any = false;
        for (at, &bits) in bits.iter().enumerate() {
            let start = (first.saturating_add(at) as u64).saturating_mul(dirty::WORD_BITS);
            let base = slot.base.0.wrapping_add(start);
            for (low, length) in dirty::runs(bits) {
                let start = base.wrapping_add(u64::from(low));
                any |= reader.watch(GfnRange {
                    start: Gfn(start),
                    end: Gfn(start.wrapping_add(u64::from(length))),
                });
            }
        }
        any
    }
}

/// The bits of a word, which are cleared then.
#[inline]
fn collect(word: &AtomicU64, clear: bool) -> u64 {
    let bits = word.load(Ordering::SeqCst);
    if bits == 0 || !clear {
        return bits;
    }
    word.swap(0, Ordering::SeqCst)
}

/// Sets bits again that could not be handed out.
fn put_back(words: &[AtomicU64], bits: &[u64], cleared: bool) {
    if !cleared {
        return;
    }
    for (word, bits) in words.iter().zip(bits) {
        word.fetch_or(*bits, Ordering::SeqCst);
    }
}

/// The address of word `first` of a bitmap.
fn word_at(bitmap: UserPtr, first: u64) -> Result<UserPtr> {
    let offset = usize::try_from(first.saturating_mul(8)).map_err(|_| EFAULT)?;
    bitmap.offset(offset)
}

fn copy_out(bitmap: UserPtr, first: usize, bits: &[u64]) -> Result {
    word_at(bitmap, first as u64)?.write_slice(bits)
}

fn copy_in(bitmap: UserPtr, first: u64, bits: &mut [u64]) -> Result {
    word_at(bitmap, first)?.read_slice(bits)
}
