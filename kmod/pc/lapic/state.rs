// SPDX-License-Identifier: GPL-2.0

//! The register page as userspace sees it (KVM_GET_LAPIC, KVM_SET_LAPIC).

use super::regs::{self, dfr, icr, svr};
use super::{Clock, Lapic, LapicPost, Mode, TimerCommand, VectorSet};
use crate::uapi::{kvm_lapic_state, KVM_APIC_REG_SIZE};

/// Format of the ID register in the register page of an APIC in x2APIC mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdFormat {
    /// Bits 31..24, as in xAPIC mode.
    Bits8,
    /// All 32 bits (KVM_X2APIC_API_USE_32BIT_IDS).
    Bits32,
}

/// The state cannot be had: KVM_SET_LAPIC returns EINVAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidState;

/// Distance of two registers in the page.
const STRIDE: usize = 16;

fn read(page: &kvm_lapic_state, register: u8) -> u32 {
    let start = usize::from(register).saturating_mul(STRIDE);
    match page.regs.get(start..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => u32::from_le_bytes(*bytes),
        None => 0,
    }
}

fn write(page: &mut kvm_lapic_state, register: u8, value: u32) {
    let start = usize::from(register).saturating_mul(STRIDE);
    let tail = page.regs.get_mut(start..).unwrap_or(&mut []);
    if let Some(bytes) = tail.first_chunk_mut() {
        *bytes = value.to_le_bytes();
    }
}

fn read_set(page: &kvm_lapic_state, first: u8) -> VectorSet {
    let mut set = VectorSet::EMPTY;
    // The first of eight registers has an index that is a multiple of 8.
    for index in 0..8u8 {
        set.set_register(usize::from(index), read(page, first | index));
    }
    set
}

impl Lapic {
    /// The register page. The caller calls [`Self::sync`] and, if the timer
    /// may have expired, [`Self::timer_fired`] first, so that it is complete.
    pub fn get_state(&self, format: IdFormat, clock: &impl Clock) -> kvm_lapic_state {
        let mut page = kvm_lapic_state {
            regs: [0; KVM_APIC_REG_SIZE],
        };
        for (register, value) in (0u8..).zip(self.plain) {
            write(&mut page, register, value);
        }
        for offset in 0..8u8 {
            let index = usize::from(offset);
            write(&mut page, regs::ISR | offset, self.isr.register(index));
            write(&mut page, regs::TMR | offset, self.tmr.register(index));
            write(&mut page, regs::IRR | offset, self.irr.register(index));
        }
        let id = match (self.mode(), format) {
            (Mode::X2Apic, IdFormat::Bits8) => self.config.id << 24,
            _ => self.id_register(),
        };
        write(&mut page, regs::ID, id);
        write(&mut page, regs::VERSION, self.version());
        write(&mut page, regs::PPR, u32::from(self.ppr));
        write(&mut page, regs::LDR, self.ldr());
        write(&mut page, regs::TIMER_CURRENT, self.current_count(clock));
        page
    }

    /// Replaces all registers. What was posted and not taken is forgotten.
    /// The caller programs the host timer as told, and looks at
    /// [`Self::accepts_extint`] again.
    ///
    /// Read-only registers are not taken from `page`, undefined bits are
    /// dropped, and requested vectors below 16 are kept, though they never
    /// reach the processor. A TSC deadline, which is not in `page`, stays
    /// armed if the timer was and is in that mode.
    ///
    /// # Errors
    ///
    /// [`InvalidState`] when in x2APIC mode a 32-bit id differs from the
    /// APIC's own.
    pub fn set_state(
        &mut self,
        page: &kvm_lapic_state,
        format: IdFormat,
        post: &LapicPost,
        clock: &impl Clock,
    ) -> Result<TimerCommand, InvalidState> {
        let id = read(page, regs::ID);
        let x2apic = self.mode() == Mode::X2Apic;
        if x2apic && format == IdFormat::Bits32 && id != self.config.id {
            return Err(InvalidState);
        }
        if !x2apic {
            self.set_plain(regs::ID, id & 0xff00_0000);
            self.set_plain(regs::LDR, read(page, regs::LDR) & 0xff00_0000);
            self.set_plain(regs::DFR, read(page, regs::DFR) | dfr::ONES);
        }
        let svr_bits = svr::VECTOR | svr::ENABLE | svr::FOCUS_OFF | svr::SUPPRESS_EOI_BROADCAST;
        self.set_plain(regs::TPR, read(page, regs::TPR) & 0xff);
        self.set_plain(regs::SVR, read(page, regs::SVR) & svr_bits);
        self.set_plain(regs::ESR, read(page, regs::ESR) & 0xff);
        self.set_plain(regs::ICR, read(page, regs::ICR) & !icr::BUSY);
        self.set_plain(regs::ICR_HIGH, read(page, regs::ICR_HIGH));
        let mode_before = self.timer_mode();
        for register in regs::LVT_CMCI..=regs::LVT_ERROR {
            if let Some(writable) = self.lvt_writable(register) {
                self.set_plain(register, read(page, register) & writable);
            }
        }
        let mode_stays = mode_before == self.timer_mode();
        let divide = read(page, regs::TIMER_DIVIDE) & regs::DIVIDE_MASK;
        self.set_plain(regs::TIMER_DIVIDE, divide);
        self.set_plain(regs::TIMER_INITIAL, read(page, regs::TIMER_INITIAL));

        post.discard_requests();
        self.irr = read_set(page, regs::IRR);
        self.isr = read_set(page, regs::ISR);
        self.tmr = read_set(page, regs::TMR);
        self.errors = 0;
        self.update_ppr();
        let timer = self.resume_timer(read(page, regs::TIMER_CURRENT), mode_stays, clock);
        self.publish(post);
        Ok(timer)
    }
}
