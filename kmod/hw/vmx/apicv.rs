// SPDX-License-Identifier: GPL-2.0

//! The local APIC in the processor: SDM vol. 3, chapter 30.
//!
//! The processor can keep IRR, ISR and TPR in the virtual-APIC page, and do what
//! the guest's accesses to these registers ask for, without an exit. Before an
//! entry the page is shown the local APIC ([`Mirror::show`]), after the exit the
//! local APIC takes what the guest has done ([`Mirror::take`]). Accesses to other
//! registers exit in x2APIC mode. In xAPIC mode all are read in the page, but for
//! those that change by themselves, and exits for a write come after it.
//!
//! It delivers what is requested there as well, whenever the guest lets it.

use super::controls::Secondary;
use crate::pc::lapic::regs;
use crate::pc::lapic::regs::x2apic_msr as msr;
use crate::pc::lapic::Lapic;
use crate::pc::lapic::LapicPost;
use crate::pc::lapic::VectorSet;
use crate::pc::lapic::PAGE_REGISTERS;
use core::ops::RangeInclusive;

/// MSRs whose reads the processor answers out of the page (30.5).
pub const READ: [RangeInclusive<u32>; 3] = [
    msr(regs::TPR)..=msr(regs::TPR),
    msr(regs::PPR)..=msr(regs::PPR),
    // In-service, trigger mode and interrupt request registers.
    msr(regs::ISR)..=msr(regs::IRR + 7),
];

/// MSRs whose writes the processor does, reserved bits included (30.5).
pub const WRITTEN: [u32; 3] = [msr(regs::TPR), msr(regs::EOI), msr(regs::SELF_IPI)];

/// The secondary controls for local APICs.
pub const CONTROLS: Secondary = Secondary(
    Secondary::APIC_ACCESSES.0
        | Secondary::X2APIC.0
        | Secondary::APIC_REGISTERS.0
        | Secondary::VIRTUAL_INTERRUPTS.0,
);

/// What of the local APIC is left to the processor.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Kept {
    /// Nothing but the task priority, as CR8.
    #[default]
    Nothing,
    /// Nothing, and it has accesses to the register page exit (30.4): also that
    /// to the task priority.
    Closed,
    /// All that it can keep in x2APIC mode.
    X2Apic,
    /// The register page.
    Page,
}

impl Kept {
    /// Of [`CONTROLS`] those for that (25.6.2, 27.2.1.1).
    pub const fn controls(self) -> Secondary {
        const REGISTERS: Secondary = Secondary::APIC_REGISTERS;
        const ACCESSES: Secondary = Secondary::APIC_ACCESSES;
        const INTERRUPTS: Secondary = Secondary::VIRTUAL_INTERRUPTS;
        match self {
            Self::Nothing => Secondary::NONE,
            Self::X2Apic => Secondary(Secondary::X2APIC.0 | REGISTERS.0 | INTERRUPTS.0),
            Self::Closed => ACCESSES,
            Self::Page => Secondary(ACCESSES.0 | REGISTERS.0 | INTERRUPTS.0),
        }
    }

    /// The virtual-APIC page is what the local APIC is.
    #[inline]
    pub const fn is_shown(self) -> bool {
        !matches!(self, Self::Nothing | Self::Closed)
    }
}

/// Guest interrupt status (25.4.2): in the low half (RVI) what the processor has
/// to deliver next, in the upper half (SVI) what is in service; 0 is nothing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct InterruptStatus(pub u16);

impl InterruptStatus {
    /// That of an APIC with these requests and these interrupts in service.
    #[inline]
    pub fn of(irr: &VectorSet, isr: &VectorSet) -> Self {
        let requested = irr.highest().unwrap_or(0);
        let in_service = isr.highest().unwrap_or(0);
        Self(u16::from_le_bytes([requested, in_service]))
    }

    /// Nothing is requested and nothing in service.
    #[inline]
    pub const fn is_idle(self) -> bool {
        self.0 == 0
    }
}

/// The virtual-APIC page (30.1.1).
pub trait RegisterPage {
    /// Reads a register.
    fn register(&self, register: u8) -> u32;
    /// Writes a register.
    fn set_register(&self, register: u8, value: u32);
}

#[inline]
fn read_set(page: &impl RegisterPage, first: u8) -> VectorSet {
    let word = |index: u8| {
        let low = page.register(first | index << 1);
        let high = page.register(first | index << 1 | 1);
        u64::from(low) | u64::from(high) << 32
    };
    VectorSet::from_words([word(0), word(1), word(2), word(3)])
}

/// Writes the registers that differ from what the page `has`.
#[inline]
fn write_set(page: &impl RegisterPage, first: u8, has: &mut VectorSet, set: &VectorSet) {
    if has.equals(set) {
        return;
    }
    let words = (0u8..).zip(has.words().into_iter().zip(set.words()));
    for (index, (old, new)) in words {
        if old != new {
            page.set_register(first | index << 1, new as u32);
            page.set_register(first | index << 1 | 1, (new >> 32) as u32);
        }
    }
    *has = *set;
}

/// What the virtual-APIC page and the VMCS have of a local APIC.
#[derive(Default, Debug)]
pub struct Mirror {
    irr: VectorSet,
    isr: VectorSet,
    tmr: VectorSet,
    status: InterruptStatus,
    eoi_exits: VectorSet,
}

/// Fields of the VMCS that are to be written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    /// Guest interrupt status.
    pub status: Option<InterruptStatus>,
    /// EOI-exit bitmap.
    pub eoi_exits: Option<VectorSet>,
}

impl Mirror {
    /// Makes `page` what `lapic` is, and says what of the VMCS is to follow.
    ///
    /// `watched`: the vectors whose end others wait for beside those that are
    /// level triggered. Asked only if there is anything whose end can come.
    #[inline]
    pub fn show(
        &mut self,
        lapic: &Lapic,
        page: &impl RegisterPage,
        watched: impl FnOnce() -> VectorSet,
    ) -> Changes {
        let tpr = u32::from(lapic.tpr());
        if page.register(regs::TPR) != tpr {
            page.set_register(regs::TPR, tpr);
        }
        write_set(page, regs::IRR, &mut self.irr, lapic.irr());
        write_set(page, regs::ISR, &mut self.isr, lapic.isr());
        write_set(page, regs::TMR, &mut self.tmr, lapic.tmr());
        let mut changes = Changes::default();
        let status = InterruptStatus::of(lapic.irr(), lapic.isr());
        if status != self.status {
            self.status = status;
            changes.status = Some(status);
        }
        if !status.is_idle() {
            let exits = lapic.tmr().union(&watched());
            if !exits.equals(&self.eoi_exits) {
                self.eoi_exits = exits;
                changes.eoi_exits = Some(exits);
            }
        }
        changes
    }

    /// As [`Mirror::show`], what else the guest reads in the register page.
    pub fn show_registers(lapic: &mut Lapic, page: &impl RegisterPage) {
        if !lapic.take_registers_changed() {
            return;
        }
        for register in PAGE_REGISTERS {
            let value = lapic.page_register(register);
            if page.register(register) != value {
                page.set_register(register, value);
            }
        }
    }

    /// Makes `lapic` what the guest has left in `page`. `status`: what the
    /// VMCS says after the exit.
    #[inline(always)]
    pub fn take(
        &mut self,
        lapic: &mut Lapic,
        page: &impl RegisterPage,
        status: InterruptStatus,
        post: &LapicPost,
    ) {
        let tpr = page.register(regs::TPR) as u8;
        if tpr != lapic.tpr() {
            lapic.set_tpr(tpr, post);
        }
        // Equal ones say nothing: the same vector may have been requested again.
        // But what came up and was completed meanwhile has left nothing.
        if status != self.status || !status.is_idle() {
            self.status = status;
            self.take_sets(lapic, page);
        }
        lapic.shown();
    }

    /// As [`Mirror::take`], what else the guest has written into the register
    /// page without an exit: a self-IPI, and the destination of others.
    pub fn take_command(lapic: &mut Lapic, page: &impl RegisterPage) {
        lapic.take_command(page.register(regs::ICR));
        lapic.take_command_high(page.register(regs::ICR_HIGH));
    }

    #[inline(never)]
    fn take_sets(&mut self, lapic: &mut Lapic, page: &impl RegisterPage) {
        self.irr = read_set(page, regs::IRR);
        self.isr = read_set(page, regs::ISR);
        lapic.take_back(self.irr, self.isr);
    }
}

#[cfg(test)]
mod tests;
