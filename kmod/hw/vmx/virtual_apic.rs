// SPDX-License-Identifier: GPL-2.0

//! Local APICs that the processor keeps: the virtual-APIC page and the fields of
//! the VMCS for it. Which ones, and what is in them, is
//! [`apicv`](super::apicv).

use super::apicv::InterruptStatus;
use super::apicv::Mirror;
use super::apicv::RegisterPage;
use super::controls::Secondary;
use super::field::control;
use super::field::guest;
use super::field::ReadFields;
use super::state::Current;
use super::Vmx;
use crate::host::page::HostPage;
use crate::pc::lapic::Lapic;
use crate::pc::lapic::LapicPost;
use crate::pc::lapic::VectorSet;

/// On while the processor keeps the local APIC. Virtual-interrupt delivery asks
/// for exits of external interrupts, and virtual x2APIC mode for no APIC-access
/// page (27.2.1.1).
const CONTROLS: Secondary =
    Secondary(Secondary::X2APIC.0 | Secondary::APIC_REGISTERS.0 | Secondary::VIRTUAL_INTERRUPTS.0);

/// Distance of two registers in the page.
const STRIDE: usize = 16;

/// What the processor has of the local APIC of one vCPU.
#[derive(Default)]
pub(super) struct VirtualApic {
    /// It keeps it.
    on: bool,
    mirror: Mirror,
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
    /// A new VMCS: nothing is in service, and no completion exits.
    pub(super) fn set_up_virtual_apic(&self) {
        self.write(guest::INTERRUPT_STATUS, 0);
        self.write(control::EOI_EXIT_0, 0);
        self.write(control::EOI_EXIT_1, 0);
        self.write(control::EOI_EXIT_2, 0);
        self.write(control::EOI_EXIT_3, 0);
    }

    /// Before an entry, see [`crate::hw::Vendor::load_apic`].
    #[inline]
    pub(super) fn show_apic(&mut self, lapic: &Lapic, watched: impl FnOnce() -> VectorSet) -> bool {
        let (Some(_), Some(page)) = (&self.shared().apicv_bitmap, &self.virtual_apic) else {
            return false;
        };
        if !lapic.may_be_kept(watched) {
            self.hide_apic();
            return false;
        }
        if let Some(status) = self.apicv.mirror.show(lapic, page) {
            self.write(guest::INTERRUPT_STATUS, status.0);
        }
        if !self.apicv.on {
            self.switch_apicv(true);
        }
        true
    }

    /// Before an entry, see [`crate::hw::Vendor::withhold_apic`].
    #[inline]
    pub(super) fn hide_apic(&mut self) {
        if self.apicv.on {
            self.switch_apicv(false);
        }
    }

    #[inline(never)]
    fn switch_apicv(&mut self, on: bool) {
        let shared = self.shared();
        let bitmap = match &shared.apicv_bitmap {
            Some(bitmap) if on => bitmap,
            _ => &shared.msr_bitmap,
        };
        self.write(control::MSR_BITMAP, bitmap.hpa().0);
        self.words.secondary = self.words.secondary.assign(CONTROLS, on);
        self.write(control::SECONDARY, self.words.secondary.0);
        self.apicv.on = on;
    }

    /// After an exit, see [`crate::hw::Vendor::store_apic`].
    #[inline]
    pub(super) fn take_apic(&mut self, lapic: &mut Lapic, post: &LapicPost) -> bool {
        if !self.apicv.on {
            return false;
        }
        let Some(page) = &self.virtual_apic else {
            return false;
        };
        let status = InterruptStatus(Current.read16(guest::INTERRUPT_STATUS));
        self.apicv.mirror.take(lapic, page, status, post);
        true
    }
}
