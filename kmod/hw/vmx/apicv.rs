// SPDX-License-Identifier: GPL-2.0

//! The local APIC in the processor: SDM vol. 3, chapter 30.
//!
//! In x2APIC mode the processor can keep ISR and TPR in the virtual-APIC page,
//! and do what the guest's accesses to these registers ask for, without an
//! exit. Before an entry the page is shown the local APIC ([`Mirror::show`]),
//! after the exit the local APIC takes what the guest has done
//! ([`Mirror::take`]).
//!
//! The processor is not asked to deliver interrupts: nothing is requested while
//! it keeps the APIC. A request comes with an exit anyway, and then the entry
//! delivers it; while one waits, all accesses exit.

use crate::pc::lapic::regs;
use crate::pc::lapic::Lapic;
use crate::pc::lapic::LapicPost;
use crate::pc::lapic::VectorSet;
use core::ops::RangeInclusive;

/// The register as an MSR.
const fn msr(register: u8) -> u32 {
    regs::X2APIC_MSR_BASE + register as u32
}

/// MSRs whose reads the processor answers out of the page (30.5).
pub const READ: [RangeInclusive<u32>; 3] = [
    msr(regs::TPR)..=msr(regs::TPR),
    msr(regs::PPR)..=msr(regs::PPR),
    // In-service, trigger mode and interrupt request registers.
    msr(regs::ISR)..=msr(regs::IRR + 7),
];

/// MSRs whose writes the processor does, reserved bits included (30.5). Not a
/// self-IPI, which would be a request.
pub const WRITTEN: [u32; 2] = [msr(regs::TPR), msr(regs::EOI)];

/// Guest interrupt status (25.4.2): what the processor has to deliver next,
/// nothing here, and in the upper half (SVI) what is in service.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct InterruptStatus(pub u16);

impl InterruptStatus {
    /// That of an APIC with these interrupts in service.
    #[inline]
    pub fn of(in_service: &VectorSet) -> Self {
        Self(u16::from_le_bytes([0, in_service.highest().unwrap_or(0)]))
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
    isr: VectorSet,
    tmr: VectorSet,
    status: InterruptStatus,
}

impl Mirror {
    /// Makes `page` what `lapic` is. The guest interrupt status, if that is to
    /// be written.
    #[inline]
    pub fn show(&mut self, lapic: &Lapic, page: &impl RegisterPage) -> Option<InterruptStatus> {
        let tpr = u32::from(lapic.tpr());
        if page.register(regs::TPR) != tpr {
            page.set_register(regs::TPR, tpr);
        }
        write_set(page, regs::ISR, &mut self.isr, lapic.isr());
        write_set(page, regs::TMR, &mut self.tmr, lapic.tmr());
        let status = InterruptStatus::of(lapic.isr());
        if status == self.status {
            return None;
        }
        self.status = status;
        Some(status)
    }

    /// Makes `lapic` what the guest has left in `page`. `status`: what the
    /// VMCS says after the exit.
    #[inline]
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
        // Interrupts are only completed, the highest first.
        if status == self.status {
            return;
        }
        self.status = status;
        self.isr = read_set(page, regs::ISR);
        lapic.take_back(self.isr);
    }
}

#[cfg(test)]
mod tests;
