// SPDX-License-Identifier: GPL-2.0

//! A guest access that the nested tables did not let through.

use super::slots::MemorySlot;
use super::FlushRemote;
use super::Left;
use super::VcpuMmu;
use super::View;
use crate::host::mm::pin;
use crate::host::mm::pin::Found;
use crate::host::mm::pin::Look;
use crate::host::mm::pin::PinError;
use crate::host::task::IrqOff;
use crate::hw::nested::Access;
use crate::hw::nested::Format;
use crate::hw::nested::Installed;
use crate::hw::nested::Level;
use crate::hw::nested::Permissions;
use crate::hw::nested::Reader;
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
    /// Handles a nested page fault of the calling thread's vCPU as far as that
    /// goes without waiting. Interrupts are off. `None` where it does not:
    /// [`View::fault`] is to be called for the same fault next.
    ///
    /// Whoever expects devices asks [`View::is_known_device`] first.
    ///
    /// `present`: the processor says that a leaf was there but did not allow
    /// the access. It saves time either way; neither answer is wrong.
    #[inline(always)]
    pub fn try_fault(
        &self,
        gpa: Gpa,
        access: Access,
        present: bool,
        mmu: &mut VcpuMmu,
    ) -> Option<Fault> {
        let wanted = match self.want(gpa, access, mmu) {
            Ok(wanted) => wanted,
            Err(fault) => return Some(fault),
        };
        if present && self.grant(&self.memory.nested.try_read()?, &wanted) {
            return Some(Fault::Resume);
        }
        self.try_map_present(&wanted, mmu)
    }

    /// Handles a nested page fault of the calling thread's vCPU. May sleep.
    ///
    /// `present` as for [`View::try_fault`].
    pub fn fault(&self, gpa: Gpa, access: Access, present: bool, mmu: &mut VcpuMmu) -> Fault {
        let left = core::mem::take(&mut mmu.left);
        if left == Left::Flush {
            self.memory.flush();
        }
        if self.is_known_device(gpa, mmu) {
            return Fault::Mmio;
        }
        let wanted = match self.want(gpa, access, mmu) {
            Ok(wanted) => wanted,
            Err(fault) => return fault,
        };
        if present && self.grant(&self.memory.nested.read(), &wanted) {
            return Fault::Resume;
        }
        if mmu.tables.top_up().is_err() {
            return Fault::NoMemory;
        }
        let absent = matches!(left, Left::Absent { gfn, .. } if gfn == wanted.gfn);
        match self.bring_in(&wanted, absent, mmu) {
            Ok(()) => Fault::Resume,
            Err(fault) => fault,
        }
    }

    /// Whether the vCPU's last fault where there is no memory was on this page.
    #[inline(always)]
    pub fn is_known_device(&self, gpa: Gpa, mmu: &VcpuMmu) -> bool {
        mmu.device == (gpa.gfn(), self.generation())
    }

    /// What of the process's memory the access is to.
    #[inline(always)]
    fn want(&self, gpa: Gpa, access: Access, mmu: &mut VcpuMmu) -> Result<Wanted<'_>, Fault> {
        let gfn = gpa.gfn();
        // Before the look: slots that change meanwhile have another number then.
        let generation = self.generation();
        let Some(entry) = self.slots.get().find(gfn, &mut mmu.hint) else {
            mmu.device = (gfn, generation);
            return Err(Fault::Mmio);
        };
        if access == Access::Write && entry.slot.read_only() {
            return Err(Fault::ReadOnly);
        }
        Ok(Wanted {
            entry,
            gfn,
            hva: entry.slot.hva_of(gfn).ok_or(Fault::Mmio)?,
            access,
        })
    }

    /// Lets the access through if that needs no page of the process.
    fn grant(&self, reader: &Reader<'_, F>, wanted: &Wanted<'_>) -> bool {
        let granted = reader.grant(wanted.gfn, wanted.access, self.largest(wanted.entry));
        if granted && wanted.write() {
            // After the permission: whoever clears the log does it the other
            // way round, so that no write is lost.
            wanted.entry.mark_dirty(wanted.gfn);
        }
        granted
    }

    /// Maps the process's page. `Ok` also when it has to be tried again.
    /// `absent`: the process had none a moment ago.
    fn bring_in(&self, wanted: &Wanted<'_>, absent: bool, mmu: &mut VcpuMmu) -> Result<(), Fault> {
        let look = if absent {
            Look::Absent
        } else {
            self.map_present(wanted, mmu)
        };
        match look {
            Look::Found(_) => return Ok(()),
            Look::Absent if pin::fault_in(wanted.hva, wanted.write()) => {
                if let Look::Found(_) = self.map_present(wanted, mmu) {
                    return Ok(());
                }
            }
            _ => {}
        }
        self.map_pinned(wanted, mmu)
    }

    /// Maps what the process's page table has, if that is found.
    #[inline(never)]
    fn map_present(&self, wanted: &Wanted<'_>, mmu: &mut VcpuMmu) -> Look {
        let ticket = self.memory.invalidations.ticket();
        let look = pin::look(&IrqOff::from_on(), wanted.hva, wanted.write());
        if let Look::Found(found) = look {
            self.install_and_flush(ticket, wanted, found, mmu);
        }
        look
    }

    /// [`View::map_present`] without waiting; what it did not do, it notes.
    #[inline(always)]
    fn try_map_present(&self, wanted: &Wanted<'_>, mmu: &mut VcpuMmu) -> Option<Fault> {
        let ticket = self.memory.invalidations.ticket();
        let found = match pin::look(&IrqOff::new(), wanted.hva, wanted.write()) {
            Look::Found(found) => found,
            Look::Absent => {
                mmu.left = Left::Absent {
                    gfn: wanted.gfn,
                    hva: wanted.hva,
                    write: wanted.write(),
                };
                return None;
            }
            Look::Ask => return None,
        };
        let reader = self.memory.nested.try_read()?;
        match self.install(reader, ticket, wanted, found, mmu)? {
            Installed::New | Installed::Known => Some(Fault::Resume),
            Installed::Replaced => {
                mmu.left = Left::Flush;
                None
            }
        }
    }

    /// Maps what only `get_user_pages` can get.
    #[inline(never)]
    fn map_pinned(&self, wanted: &Wanted<'_>, mmu: &mut VcpuMmu) -> Result<(), Fault> {
        let hva = wanted.hva;
        let ticket = self.memory.invalidations.ticket();
        let page = pin::pin(hva, wanted.write()).map_err(|error| give_up(hva, error))?;
        let size = pin::host_level(&IrqOff::new(), hva).unwrap_or(Level::Size4K);
        let found = Found::pinned(&page, size);
        self.install_and_flush(ticket, wanted, found, mmu);
        Ok(())
    }

    /// Maps what was found since the ticket was taken, unless it may have gone
    /// meanwhile: then the guest's next try finds out.
    #[inline(always)]
    fn install_and_flush(
        &self,
        ticket: Ticket,
        wanted: &Wanted<'_>,
        found: Found,
        mmu: &mut VcpuMmu,
    ) {
        let reader = self.memory.nested.read();
        if self.install(reader, ticket, wanted, found, mmu) == Some(Installed::Replaced) {
            self.memory.flush();
        }
    }

    /// Maps what was found since the ticket was taken. `None` if it may have
    /// gone meanwhile, or there are not enough tables at hand. Does not wait;
    /// but what has been [`Installed::Replaced`] is still in TLBs.
    #[inline(always)]
    fn install(
        &self,
        reader: Reader<'_, F>,
        ticket: Ticket,
        wanted: &Wanted<'_>,
        found: Found,
        mmu: &mut VcpuMmu,
    ) -> Option<Installed> {
        let size = match found.size() {
            // Most are, and nothing has to be worked out for them.
            Level::Size4K => Level::Size4K,
            host => self.leaf_size(wanted.entry, wanted.gfn, host),
        };
        let Wanted {
            entry, gfn, hva, ..
        } = *wanted;
        let start = Hva(hva.0 & !size.bytes().wrapping_sub(1));
        let end = start.wrapping_add(size.bytes());
        if !self.memory.invalidations.allow(ticket, start, end) {
            return None;
        }
        let permissions = self.permissions(entry, found.is_writable(), wanted.write());
        let hpa = found.hpa();
        let filled = size == Level::Size4K
            && reader
                .fill(gfn, hpa, permissions, &mut mmu.last_table)
                .is_some();
        let installed = match filled {
            true => Ok(Installed::New),
            false => reader.map(gfn, size, hpa, permissions, &mut mmu.tables),
        };
        if permissions.may_write {
            // SAFETY: The notifier takes the lock that `reader` holds before
            // the process loses a page, and none is being lost.
            unsafe { found.mark_dirty() };
        }
        if wanted.write() {
            entry.mark_dirty(gfn);
        }
        installed.ok()
    }

    /// What the leaf for a page allows.
    #[inline]
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
    /// The access that it shall allow.
    access: Access,
}

impl Wanted<'_> {
    /// It shall be writable.
    #[inline]
    fn write(&self) -> bool {
        self.access == Access::Write
    }
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
