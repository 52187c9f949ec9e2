// SPDX-License-Identifier: GPL-2.0

//! A guest access that the nested tables did not let through.

use super::slots::MemorySlot;
use super::FlushRemote;
use super::VcpuMmu;
use super::View;
use crate::host::mm::pin;
use crate::host::mm::pin::Found;
use crate::host::mm::pin::Look;
use crate::host::mm::pin::PinError;
use crate::hw::nested::Access;
use crate::hw::nested::Format;
use crate::hw::nested::Installed;
use crate::hw::nested::Level;
use crate::hw::nested::Permissions;
use crate::pc::addr::Gfn;
use crate::pc::addr::Gpa;
use crate::pc::addr::Hva;
use crate::pc::nested::invalidation::Ticket;

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The access goes through now, or will when it is tried again.
    Resume,
    /// No memory there: a device's, for whoever emulates it.
    Mmio,
    /// A write to a read-only slot: to be emulated as if no memory was there.
    ReadOnly,
    /// The process has nothing (suitable) mapped there: `EFAULT`.
    BadAddress,
    /// The memory is broken. The calling thread has its `SIGBUS`.
    HwPoison,
    /// A signal came first: `EINTR`.
    Interrupted,
    /// No memory for a table: `ENOMEM`.
    NoMemory,
}

impl<F: Format, V: FlushRemote> View<'_, F, V> {
    /// Handles a nested page fault of the calling thread's vCPU. May sleep.
    ///
    /// `present`: the processor says that a leaf was there but did not allow
    /// the access. It saves time either way; neither answer is wrong.
    pub fn fault(&self, gpa: Gpa, access: Access, present: bool, mmu: &mut VcpuMmu) -> Fault {
        let gfn = gpa.gfn();
        let Some(entry) = self.slots.get().find(gfn, &mut mmu.hint) else {
            return Fault::Mmio;
        };
        let write = access == Access::Write;
        if write && entry.slot.read_only() {
            return Fault::ReadOnly;
        }
        if present && self.grant(entry, gfn, access) {
            return Fault::Resume;
        }
        if mmu.tables.top_up().is_err() {
            return Fault::NoMemory;
        }
        match self.bring_in(entry, gfn, write, mmu) {
            Ok(()) => Fault::Resume,
            Err(fault) => fault,
        }
    }

    /// Lets the access through if that needs no page of the process.
    fn grant(&self, entry: &MemorySlot, gfn: Gfn, access: Access) -> bool {
        let reader = self.memory.nested.read();
        let granted = reader.grant(gfn, access, self.largest(entry));
        if granted && access == Access::Write {
            // After the permission: whoever clears the log does it the other
            // way round, so that no write is lost.
            entry.mark_dirty(gfn);
        }
        granted
    }

    /// Maps the process's page. `Ok` also when it has to be tried again.
    fn bring_in(
        &self,
        entry: &MemorySlot,
        gfn: Gfn,
        write: bool,
        mmu: &mut VcpuMmu,
    ) -> Result<(), Fault> {
        let hva = entry.slot.hva_of(gfn).ok_or(Fault::Mmio)?;
        let wanted = Wanted {
            entry,
            gfn,
            hva,
            write,
        };
        match self.map_present(&wanted, mmu) {
            Look::Found(_) => return Ok(()),
            Look::Absent if pin::fault_in(hva, write) => {
                if let Look::Found(_) = self.map_present(&wanted, mmu) {
                    return Ok(());
                }
            }
            _ => {}
        }
        self.map_pinned(&wanted, mmu)
    }

    /// Maps what the process's page table has, if that is found.
    fn map_present(&self, wanted: &Wanted<'_>, mmu: &mut VcpuMmu) -> Look {
        let ticket = self.memory.invalidations.ticket();
        let look = pin::look(wanted.hva, wanted.write);
        if let Look::Found(found) = look {
            self.install(ticket, wanted, found, mmu);
        }
        look
    }

    /// Maps what only `get_user_pages` can get.
    fn map_pinned(&self, wanted: &Wanted<'_>, mmu: &mut VcpuMmu) -> Result<(), Fault> {
        let hva = wanted.hva;
        let ticket = self.memory.invalidations.ticket();
        let page = pin::pin(hva, wanted.write).map_err(|error| give_up(hva, error))?;
        let found = Found {
            hpa: page.hpa(),
            size: pin::host_level(hva).unwrap_or(Level::Size4K),
            writable: page.is_writable(),
        };
        self.install(ticket, wanted, found, mmu);
        Ok(())
    }

    /// Maps what was found since the ticket was taken, unless it may have gone
    /// meanwhile: then the guest's next try finds out.
    fn install(&self, ticket: Ticket, wanted: &Wanted<'_>, found: Found, mmu: &mut VcpuMmu) {
        let Wanted {
            entry,
            gfn,
            hva,
            write,
        } = *wanted;
        let size = self.leaf_size(entry, gfn, found.size);
        let start = Hva(hva.0 & !size.bytes().wrapping_sub(1));
        let end = start.wrapping_add(size.bytes());
        let reader = self.memory.nested.read();
        if !self.memory.invalidations.allow(ticket, start, end) {
            return;
        }
        let permissions = self.permissions(entry, found.writable, write);
        let installed = reader.map(gfn, size, found.hpa, permissions, &mut mmu.tables);
        if permissions.may_write {
            // SAFETY: The notifier takes the lock that `reader` holds before
            // the process loses a page, and none is being lost.
            unsafe { found.mark_dirty() };
        }
        if write {
            entry.mark_dirty(gfn);
        }
        drop(reader);
        if installed == Ok(Installed::Replaced) {
            self.memory.flush();
        }
    }

    /// What the leaf for a page allows.
    fn permissions(&self, entry: &MemorySlot, writable: bool, write: bool) -> Permissions {
        let may_write = writable && !entry.slot.read_only();
        // A write that is to be logged has to be seen: by the processor, or by
        // a fault.
        let unseen = write || entry.log.is_none();
        Permissions {
            write: may_write && (unseen || self.memory.logs_writes),
            may_write,
            execute: true,
            clean: may_write && !unseen,
        }
    }

    /// The largest leaf that may map a frame of the slot.
    #[inline]
    fn largest(&self, entry: &MemorySlot) -> Level {
        if entry.log.is_some() {
            Level::Size4K
        } else {
            self.memory.largest
        }
    }

    /// The largest leaf for a frame that the process maps as part of `host`.
    fn leaf_size(&self, entry: &MemorySlot, gfn: Gfn, host: Level) -> Level {
        let largest = self.largest(entry).min(host);
        if largest == Level::Size4K || !entry.slot.block_fits(gfn, Level::Size2M.order()) {
            return Level::Size4K;
        }
        if largest == Level::Size1G && !entry.slot.block_fits(gfn, largest.order()) {
            return Level::Size2M;
        }
        largest
    }
}

/// A frame that shall be mapped.
struct Wanted<'a> {
    /// Its slot.
    entry: &'a MemorySlot,
    gfn: Gfn,
    /// Where it is in the process.
    hva: Hva,
    /// It shall be writable.
    write: bool,
}

/// What a page that could not be had means for the guest.
#[cold]
fn give_up(hva: Hva, error: PinError) -> Fault {
    match error {
        PinError::Fault => Fault::BadAddress,
        PinError::Interrupted => Fault::Interrupted,
        PinError::HwPoison => {
            pin::send_hwpoison(hva);
            Fault::HwPoison
        }
    }
}
