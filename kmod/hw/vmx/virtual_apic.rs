// SPDX-License-Identifier: GPL-2.0

//! Local APICs that the processor keeps: the virtual-APIC page and the fields of
//! the VMCS for it. Which ones, and what is in them, is
//! [`apicv`].

use super::apicv;
use super::apicv::Changes;
use super::apicv::InterruptStatus;
use super::apicv::Kept;
use super::apicv::Mirror;
use super::apicv::RegisterPage;
use super::controls::Pin;
use super::controls::Primary;
use super::controls::Secondary;
use super::exit;
use super::field::control;
use super::field::guest;
use super::field::info;
use super::field::ReadFields;
use super::vmcs::Current;
use super::Vmx;
use crate::host::page::HostPage;
use crate::hw::Exit;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::lapic::regs;
use crate::pc::lapic::Lapic;
use crate::pc::lapic::LapicPost;
use crate::pc::lapic::VectorSet;

/// Distance of two registers in the page.
const STRIDE: usize = 16;

/// What the processor has of the local APIC of one vCPU.
#[derive(Default)]
pub(super) struct VirtualApic {
    /// What it keeps.
    kept: Kept,
    /// Accesses to the register page are virtualized: they exit, unless it keeps
    /// the page.
    page: bool,
    /// It takes posted interrupts: the VMCS says where they are.
    pub(super) posted: bool,
    mirror: Mirror,
}

impl VirtualApic {
    /// What it keeps when it is to keep nothing.
    const fn hidden(&self) -> Kept {
        if self.page {
            Kept::Closed
        } else {
            Kept::Nothing
        }
    }
}

impl RegisterPage for HostPage {
    #[inline]
    fn register(&self, register: u8) -> u32 {
        self.read(usize::from(register) * STRIDE).unwrap_or(0)
    }

    #[inline]
    fn set_register(&self, register: u8, value: u32) {
        let _ = self.write(usize::from(register) * STRIDE, value);
    }
}

impl<const ACCESSED_DIRTY: bool> Vmx<ACCESSED_DIRTY> {
    /// A new VMCS: nothing is requested or in service, and no completion exits.
    pub(super) fn set_up_virtual_apic(&self) {
        self.write(guest::INTERRUPT_STATUS, 0);
        self.write_eoi_exits(VectorSet::EMPTY);
    }

    fn write_eoi_exits(&self, vectors: VectorSet) {
        let [w0, w1, w2, w3] = vectors.words();
        self.write(control::EOI_EXIT_0, w0);
        self.write(control::EOI_EXIT_1, w1);
        self.write(control::EOI_EXIT_2, w2);
        self.write(control::EOI_EXIT_3, w3);
    }

    /// Before an entry, see [`crate::hw::Vendor::load_apic`].
    #[inline]
    pub(super) fn show_apic(&mut self, lapic: &mut Lapic, watched: impl Fn() -> VectorSet) {
        let kept = if self.apicv.page {
            Mirror::show_registers(lapic, &self.virtual_apic);
            Kept::Page
        } else {
            Kept::X2Apic
        };
        let changes = self.apicv.mirror.show(lapic, &self.virtual_apic, watched);
        self.write_changes(changes, kept);
    }

    #[inline]
    fn write_changes(&mut self, changes: Changes, kept: Kept) {
        if let Some(status) = changes.status {
            self.write(guest::INTERRUPT_STATUS, status.0);
        }
        if let Some(vectors) = changes.eoi_exits {
            self.write_eoi_exits(vectors);
        }
        if self.apicv.kept != kept {
            self.switch_apicv(kept);
        }
    }

    /// Before an entry, see [`crate::hw::Vendor::withhold_apic`].
    #[inline]
    pub(super) fn hide_apic(&mut self) {
        if self.apicv.kept.is_shown() {
            self.switch_apicv(self.apicv.hidden());
        }
    }

    #[inline(never)]
    pub(super) fn switch_apicv(&mut self, kept: Kept) {
        let shared = self.shared();
        let bitmap = match &shared.apicv_bitmap {
            Some(bitmap) if kept == Kept::X2Apic => bitmap,
            _ => &shared.msr_bitmap,
        };
        self.write(control::MSR_BITMAP, bitmap.hpa().0);
        let controls = kept.controls();
        let secondary = self.words.secondary.without(apicv::CONTROLS) | controls;
        self.words.secondary = secondary;
        self.write(control::SECONDARY, secondary.0);
        let closed = kept == Kept::Closed;
        if closed || self.apicv.kept == Kept::Closed {
            // With the shadow, the task priority would not exit in the page.
            let primary = self.words.primary.assign(Primary::TPR_SHADOW, !closed);
            self.words.primary = primary.assign(Primary::CR8_LOAD | Primary::CR8_STORE, closed);
        }
        if self.apicv.posted {
            // Only together with delivery, says 27.2.1.1.
            let posted = controls.has(Secondary::VIRTUAL_INTERRUPTS);
            let pin = self.words.pin.assign(Pin::POSTED_INTERRUPTS, posted);
            self.write(control::PIN, pin.0);
        }
        self.apicv.kept = kept;
    }

    /// See [`crate::hw::Vendor::virtualize_apic_page`].
    pub(super) fn virtualize_page(&mut self, on: bool) {
        if self.apicv.page == on {
            return;
        }
        self.apicv.page = on;
        self.switch_apicv(self.apicv.hidden());
        // What has been translated is not known to be that page (30.4.6.2).
        self.flush_tlb();
    }

    /// After an exit, see [`crate::hw::Vendor::store_apic`].
    #[inline]
    pub(super) fn take_apic(&mut self, lapic: &mut Lapic, post: &LapicPost) -> bool {
        let kept = self.apicv.kept;
        if !kept.is_shown() {
            return false;
        }
        let status = InterruptStatus(Current.read(guest::INTERRUPT_STATUS));
        self.apicv
            .mirror
            .take(lapic, &self.virtual_apic, status, post);
        if kept == Kept::Page {
            Mirror::take_command(lapic, &self.virtual_apic);
        }
        true
    }

    /// An access to the register page that the processor leaves to us (30.4.1).
    #[inline(never)]
    pub(super) fn apic_access_exit(&mut self) -> Exit {
        // As for an EPT violation.
        self.cache.begin(Current.read(guest::INTERRUPTIBILITY));
        exit::apic_access(&Current, Gpa(regs::base::DEFAULT_ADDRESS))
    }

    /// The guest has written a register that the processor leaves to us
    /// (30.4.3.3).
    #[inline(never)]
    pub(super) fn apic_write_exit(&self) -> Exit {
        let offset = Current.read(info::QUALIFICATION) & 0xfff;
        Exit::ApicWrite {
            offset: offset as u16,
            value: self.virtual_apic.register((offset >> 4) as u8),
        }
    }
}
