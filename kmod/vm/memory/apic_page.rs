// SPDX-License-Identifier: GPL-2.0

//! The page that stands for the registers of local APICs in xAPIC mode.
//!
//! A processor that virtualizes accesses to the APIC's page (SDM vol. 3, 30.4)
//! knows it by its host address: the nested tables have to lead there. They are
//! those of the whole machine, and for a vCPU whose accesses are not virtualized
//! it would be ordinary memory, shared with the others. So the page is mapped
//! only while there is no such vCPU, and no slot has its place.
//!
//! A vCPU whose accesses are not to be virtualized any more counts itself first,
//! takes the page out with the lock for writing, and has the others flush their
//! TLBs; then it may enter the guest. Who maps the page looks at the count under
//! the lock for reading. So either the page is there to be taken out, or the
//! count is seen. With slots it is the same: a new one is published, readers of
//! the old table are waited for, and the page is taken out.
//!
//! Where the page is not mapped, the guest's accesses are nested page faults
//! without memory, as on processors that have nothing of the kind.
//!
//! The page belongs to the machine, and no process maps it: the notifier has
//! nothing to do with it. Nothing reads or writes it.

use super::FlushRemote;
use super::Memory;
use super::VcpuMmu;
use crate::host::page::HostPage;
use crate::hw::nested::Context;
use crate::hw::nested::Format;
use crate::hw::nested::Level;
use crate::hw::nested::Permissions;
use crate::pc::addr::Gfn;
use crate::pc::addr::Gpa;
use crate::pc::addr::Hpa;
use crate::pc::lapic::regs::base;
use crate::pc::slots::GfnRange;
use crate::pc::slots::Slot;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// Where the guest finds it.
const PLACE: Gfn = Gpa(base::DEFAULT_ADDRESS).gfn();

const FRAMES: GfnRange = GfnRange {
    start: PLACE,
    end: Gfn(PLACE.0 + 1),
};

/// Not executable: a fetch is a fault, as it is without the page.
const PERMISSIONS: Permissions = Permissions {
    write: true,
    may_write: true,
    execute: false,
    clean: false,
};

/// The page of one machine.
pub(super) struct ApicPage {
    page: HostPage,
    /// vCPUs whose accesses are not virtualized.
    bare: AtomicU32,
}

impl ApicPage {
    /// A page that is mapped nowhere.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            page: HostPage::new()?,
            bare: AtomicU32::new(0),
        })
    }
}

impl<F: Format, V: FlushRemote> Memory<F, V> {
    /// The page that stands for the registers of local APICs, where processors
    /// take one.
    pub fn apic_page(&self) -> Option<Hpa> {
        Some(self.apic_page.as_ref()?.page.hpa())
    }

    /// One more vCPU is about to enter the guest, or goes on, without having its
    /// accesses virtualized. When this returns, the page is mapped nowhere. May
    /// sleep.
    pub fn without_apic_page(&self) {
        if let Some(apic) = &self.apic_page {
            apic.bare.fetch_add(1, Ordering::SeqCst);
            self.zap(FRAMES, Context::MaySleep);
        }
    }

    /// There is one less of them. Who wants the page maps it.
    pub fn with_apic_page(&self) {
        if let Some(apic) = &self.apic_page {
            apic.bare.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// One of them is gone: the others may have the page again.
    pub fn bare_vcpu_gone(&self) {
        self.with_apic_page();
        self.vcpus.settle_apic_page();
    }

    /// Maps the page, if nothing stands against it. May sleep.
    pub fn map_apic_page(&self, mmu: &mut VcpuMmu) {
        let Some(apic) = &self.apic_page else {
            return;
        };
        if mmu.tables.top_up().is_err() {
            return;
        }
        let slots = self.slots.read();
        if slots.get().find_mapped(PLACE, &mut 0).is_some() {
            return;
        }
        let reader = self.nested.read();
        if apic.bare.load(Ordering::SeqCst) == 0 {
            let page = apic.page.hpa();
            // Without enough tables it stays as it is.
            let _ = reader.map(PLACE, Level::Size4K, page, PERMISSIONS, &mut mmu.tables);
        }
    }

    /// A slot has been published: if it has the page's place, that is its own.
    /// May sleep.
    pub(super) fn make_way(&self, slot: &Slot) {
        if self.apic_page.is_some() && slot.index_of(PLACE).is_some() {
            // From here on nobody maps the page.
            self.slots.wait();
            self.zap(FRAMES, Context::MaySleep);
        }
    }

    /// A slot is where it was no more, and a table without it is published: if
    /// that was the page's place, it may come back.
    pub(super) fn way_is_free(&self, slot: &Slot) {
        if self.apic_page.is_some() && slot.index_of(PLACE).is_some() {
            self.vcpus.settle_apic_page();
        }
    }
}
