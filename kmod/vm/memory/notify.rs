// SPDX-License-Identifier: GPL-2.0

//! What the process's memory does to the guest's.

use super::FlushRemote;
use super::Memory;
use crate::host::mm::notifier::MemoryListener;
use crate::host::mm::table::TableList;
use crate::hw::nested::Context;
use crate::hw::nested::Format;
use crate::pc::addr::Gfn;
use crate::pc::addr::Hva;
use crate::pc::addr::PAGE_SIZE;
use crate::pc::slots::GfnRange;

impl<F: Format, V: FlushRemote> Memory<F, V> {
    /// Takes out of the nested tables whatever maps the addresses.
    fn zap_addresses(&self, start: Hva, end: Hva, context: Context) {
        let slots = self.slots.read();
        let mut affected = slots.get().frames_at(start, end).peekable();
        if affected.peek().is_none() {
            return;
        }
        let mut tables = TableList::new();
        let mut writer = self.nested.write();
        let mut was_mapped = false;
        for frames in affected {
            was_mapped |= writer.zap(frames, &mut tables);
        }
        // Under the lock: another change of the same page that finds nothing
        // mapped must be able to rely on it.
        if was_mapped {
            self.flush();
        }
        drop(writer);
        self.nested.free(tables, context);
    }

    /// Whether `test` says yes for any frames that the addresses are.
    fn any_frames(&self, start: Hva, end: Hva, test: impl Fn(GfnRange) -> bool) -> bool {
        let slots = self.slots.read();
        let mut any = false;
        for frames in slots.get().frames_at(start, end) {
            any |= test(frames);
        }
        any
    }

    /// Makes all vCPUs forget their translations.
    pub(super) fn flush(&self) {
        self.vcpus.flush_remote();
    }
}

impl<F: Format, V: FlushRemote> MemoryListener for Memory<F, V> {
    fn invalidate_start(&self, start: Hva, end: Hva, may_sleep: bool) {
        {
            let _lock = self.invalidating.lock();
            self.invalidations.begin(start, end);
        }
        let context = if may_sleep {
            Context::MaySleep
        } else {
            Context::Atomic
        };
        self.zap_addresses(start, end, context);
    }

    fn invalidate_end(&self, _start: Hva, _end: Hva) {
        let _lock = self.invalidating.lock();
        self.invalidations.end();
    }

    fn clear_young(&self, start: Hva, end: Hva) -> bool {
        self.any_frames(start, end, |frames| self.nested.clear_young(frames))
    }

    fn test_young(&self, hva: Hva) -> bool {
        let end = hva.wrapping_add(PAGE_SIZE);
        self.any_frames(hva, end, |frames| self.nested.test_young(frames))
    }

    fn release(&self) {
        // Nobody can fault any more: that takes a thread in this address space.
        let everything = GfnRange {
            start: Gfn(0),
            end: Gfn(u64::MAX),
        };
        self.zap(everything, Context::MaySleep);
    }
}
