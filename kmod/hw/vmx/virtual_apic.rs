// SPDX-License-Identifier: GPL-2.0

//! Local APICs that the processor keeps: the virtual-APIC page and the fields of
//! the VMCS for it. Which ones, and what is in them, is
//! [`apicv`].

use super::apicv;
use super::apicv::InterruptStatus;
use super::apicv::Mirror;
use super::apicv::RegisterPage;
use super::controls::Pin;
use super::controls::Secondary;
use super::exit::Reason;
use super::field::control;
use super::field::guest;
use super::field::info;
use super::field::ReadFields;
use super::state::Current;
use super::Vmx;
use crate::host::page::HostPage;
use crate::hw::Exit;
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
    /// It takes posted interrupts: the VMCS says where they are.
    pub(super) posted: bool,
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
    pub(super) fn show_apic(&mut self, lapic: &Lapic, watched: impl FnOnce() -> VectorSet) -> bool {
        let shared = self.shared();
        let (Some(_), Some(page)) = (&shared.apicv_bitmap, &self.virtual_apic) else {
            return false;
        };
        let (mirror, delivers) = (&mut self.apicv.mirror, shared.delivers());
        let changes = if delivers && lapic.may_be_delivered() {
            mirror.show(lapic, page, Some(watched))
        } else if !delivers && lapic.may_be_kept(watched) {
            mirror.show(lapic, page, None::<fn() -> VectorSet>)
        } else {
            self.hide_apic();
            return false;
        };
        if let Some(status) = changes.status {
            self.write(guest::INTERRUPT_STATUS, status.0);
        }
        if let Some(vectors) = changes.eoi_exits {
            self.write_eoi_exits(vectors);
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
    pub(super) fn switch_apicv(&mut self, on: bool) {
        let shared = self.shared();
        let bitmap = match &shared.apicv_bitmap {
            Some(bitmap) if on => bitmap,
            _ => &shared.msr_bitmap,
        };
        self.write(control::MSR_BITMAP, bitmap.hpa().0);
        self.words.secondary = self.words.secondary.assign(CONTROLS, on);
        self.write(control::SECONDARY, self.words.secondary.0);
        if self.apicv.posted {
            // Only together with delivery, says 27.2.1.1.
            let pin = self.words.pin.assign(Pin::POSTED_INTERRUPTS, on);
            self.write(control::PIN, pin.0);
        }
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
        let delivers = self.shared.delivers();
        self.apicv.mirror.take(lapic, page, status, delivers, post);
        true
    }

    /// The guest has written a register that the processor leaves to us
    /// (30.4.3.3).
    #[cold]
    pub(super) fn apic_write_exit(&self) -> Exit {
        let offset = Current.read_natural(info::QUALIFICATION) & 0xfff;
        match (apicv::written(offset), &self.virtual_apic) {
            (Some(register), Some(page)) => Exit::ApicWrite {
                register,
                value: page.register(register),
            },
            _ => Exit::Unexpected {
                code: u64::from(Reason::APIC_WRITE.0),
            },
        }
    }
}
