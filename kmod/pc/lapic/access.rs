// SPDX-License-Identifier: GPL-2.0

//! Register accesses of the guest: the page of xAPIC mode (SDM vol. 3A
//! section 12.4.1) and the MSRs of x2APIC mode (section 12.12.1).

use super::regs::{self, esr, icr, lvt, svr};
use super::timer::TimerCommand;
use super::{Clock, Effect, GpFault, Lapic, LapicPost, Mode, SuppressEoi};
use crate::pc::irq::dest::x2apic_ldr;
use crate::pc::irq::{
    DeliveryMode, DestMode, IpiRequest, Message, Shorthand, BROADCAST, BROADCAST_8BIT,
};

/// What a register write needs besides the registers.
#[derive(Debug)]
pub struct Context<'a, C> {
    /// Where the APIC publishes its state.
    pub post: &'a LapicPost,
    /// The time, asked for only where it matters.
    pub clock: &'a C,
}

/// Bits of the registers' page offset within one register.
const OFFSET_IN_REGISTER: u32 = 0xf;
/// Bits of an access's offset within the page.
const OFFSET_IN_PAGE: u32 = 0xfff;

impl Lapic {
    /// Reads `size` bytes (1, 2 or 4) at `offset` of the page in xAPIC mode.
    /// Only the first four bytes of each 16 are backed; elsewhere, and for
    /// accesses that cross out of them, zero is read.
    pub fn mmio_read(&mut self, offset: u32, size: u8, clock: &impl Clock) -> u32 {
        let offset = offset & OFFSET_IN_PAGE;
        let within = offset & OFFSET_IN_REGISTER;
        if within.wrapping_add(u32::from(size)) > 4 {
            return 0;
        }
        let value = match self.read_register((offset >> 4) as u8, clock) {
            Some(value) => value,
            None => {
                self.raise_error(esr::ILLEGAL_REGISTER);
                0
            }
        };
        let value = value.checked_shr(within.wrapping_mul(8)).unwrap_or(0);
        match size {
            0 => 0,
            1 => value & 0xff,
            2 => value & 0xffff,
            _ => value,
        }
    }

    /// Writes the page in xAPIC mode. Writes that are not of 4 bytes at a
    /// multiple of 16 are ignored.
    #[inline]
    #[must_use]
    pub fn mmio_write<C: Clock>(
        &mut self,
        offset: u32,
        size: u8,
        value: u32,
        cx: &Context<'_, C>,
    ) -> Effect {
        let offset = offset & OFFSET_IN_PAGE;
        if size != 4 || offset & OFFSET_IN_REGISTER != 0 {
            return Effect::None;
        }
        let register = (offset >> 4) as u8;
        match register {
            regs::ID => {
                self.set_plain(regs::ID, value & 0xff00_0000);
                self.publish(cx.post);
                Effect::None
            }
            regs::LDR => {
                self.set_plain(regs::LDR, value & 0xff00_0000);
                self.publish(cx.post);
                Effect::None
            }
            regs::DFR => {
                self.set_plain(regs::DFR, value | regs::dfr::ONES);
                self.publish(cx.post);
                Effect::None
            }
            regs::ICR => self.write_xapic_icr(value),
            regs::ICR_HIGH => {
                self.set_plain(regs::ICR_HIGH, value & icr::HIGH_DESTINATION);
                Effect::None
            }
            _ => match self.write_register(register, value, cx) {
                Some(effect) => effect,
                None => {
                    // Writes of read-only registers are dropped in silence.
                    if self.read_register(register, cx.clock).is_none() {
                        self.raise_error(esr::ILLEGAL_REGISTER);
                    }
                    Effect::None
                }
            },
        }
    }

    /// Reads an MSR of the range 0x800..=0x8ff.
    ///
    /// # Errors
    ///
    /// #GP outside x2APIC mode, and for registers that do not exist or are
    /// write-only.
    pub fn x2apic_read(&mut self, msr: u32, clock: &impl Clock) -> Result<u64, GpFault> {
        let register = self.x2apic_register(msr)?;
        match register {
            regs::ICR => Ok(self.icr()),
            regs::EOI | regs::DFR | regs::APR | regs::RRD | regs::ICR_HIGH => Err(GpFault),
            _ => match self.read_register(register, clock) {
                Some(value) => Ok(u64::from(value)),
                None => Err(GpFault),
            },
        }
    }

    /// Writes an MSR of the range 0x800..=0x8ff.
    ///
    /// # Errors
    ///
    /// #GP outside x2APIC mode, for registers that do not exist or are
    /// read-only, and for reserved bits.
    #[inline]
    pub fn x2apic_write<C: Clock>(
        &mut self,
        msr: u32,
        value: u64,
        cx: &Context<'_, C>,
    ) -> Result<Effect, GpFault> {
        let register = self.x2apic_register(msr)?;
        if register == regs::ICR {
            return self.write_x2apic_icr(value);
        }
        let Ok(value) = u32::try_from(value) else {
            return Err(GpFault);
        };
        if value & self.x2apic_reserved(register) != 0 {
            return Err(GpFault);
        }
        if register == regs::SELF_IPI {
            self.request_self(value as u8);
            return Ok(Effect::None);
        }
        self.write_register(register, value, cx).ok_or(GpFault)
    }

    #[inline]
    fn x2apic_register(&self, msr: u32) -> Result<u8, GpFault> {
        let register = msr.wrapping_sub(regs::X2APIC_MSR_BASE);
        if self.mode() != Mode::X2Apic || register >= regs::REGISTERS as u32 {
            return Err(GpFault);
        }
        Ok(register as u8)
    }

    /// Bits of a writable register that must be zero in x2APIC mode.
    fn x2apic_reserved(&self, register: u8) -> u32 {
        match register {
            regs::TPR | regs::SELF_IPI => !0xff,
            regs::EOI | regs::ESR => !0,
            regs::SVR => !self.svr_writable(),
            regs::TIMER_DIVIDE => !regs::DIVIDE_MASK,
            _ => match self.lvt_writable(register) {
                // Read-only bits may be written back as they were read.
                Some(writable) => !(writable | lvt::DELIVERY_STATUS | lvt::REMOTE_IRR),
                None => 0,
            },
        }
    }

    fn svr_writable(&self) -> u32 {
        let suppress = match self.config.suppress_eoi {
            SuppressEoi::Absent => 0,
            SuppressEoi::Ignored | SuppressEoi::Honoured => svr::SUPPRESS_EOI_BROADCAST,
        };
        svr::VECTOR | svr::ENABLE | svr::FOCUS_OFF | suppress
    }

    /// The writable bits of an LVT entry; `None` for other registers.
    pub(super) fn lvt_writable(&self, register: u8) -> Option<u32> {
        const COMMON: u32 = lvt::VECTOR | lvt::MASKED;
        match register {
            regs::LVT_TIMER if self.config.tsc_deadline => {
                Some(COMMON | lvt::TIMER_PERIODIC | lvt::TIMER_TSC_DEADLINE)
            }
            regs::LVT_TIMER => Some(COMMON | lvt::TIMER_PERIODIC),
            regs::LVT_ERROR => Some(COMMON),
            regs::LVT_THERMAL | regs::LVT_PERF => Some(COMMON | lvt::DELIVERY_MODE),
            regs::LVT_CMCI if self.config.cmci => Some(COMMON | lvt::DELIVERY_MODE),
            regs::LVT_LINT0 | regs::LVT_LINT1 => {
                Some(COMMON | lvt::DELIVERY_MODE | lvt::POLARITY | lvt::LEVEL)
            }
            _ => None,
        }
    }

    /// The ID register in the mode's own format.
    pub(super) fn id_register(&self) -> u32 {
        match self.mode() {
            Mode::X2Apic => self.config.id,
            Mode::XApic | Mode::Disabled => self.plain(regs::ID),
        }
    }

    pub(super) fn ldr(&self) -> u32 {
        match self.mode() {
            Mode::X2Apic => x2apic_ldr(self.config.id),
            Mode::XApic | Mode::Disabled => self.plain(regs::LDR),
        }
    }

    fn icr(&self) -> u64 {
        u64::from(self.plain(regs::ICR)) | u64::from(self.plain(regs::ICR_HIGH)) << 32
    }

    /// Arbitration priority (SDM vol. 3A section 12.6.2.4).
    fn apr(&self) -> u32 {
        let class = |vector: Option<u8>| vector.unwrap_or(0) & 0xf0;
        let busy = class(self.irr.highest()).max(class(self.isr.highest()));
        u32::from(if self.tpr() & 0xf0 >= busy {
            self.tpr()
        } else {
            busy
        })
    }

    /// The value of a register that exists in either mode; `None` for others.
    fn read_register(&self, register: u8, clock: &impl Clock) -> Option<u32> {
        let value = match register {
            regs::ID => self.id_register(),
            regs::VERSION => self.version(),
            regs::APR => self.apr(),
            regs::PPR => u32::from(self.ppr),
            regs::EOI | regs::RRD => 0,
            regs::LDR => self.ldr(),
            regs::ISR..=0x17 => self.isr.register(usize::from(register - regs::ISR)),
            regs::TMR..=0x1f => self.tmr.register(usize::from(register - regs::TMR)),
            regs::IRR..=0x27 => self.irr.register(usize::from(register - regs::IRR)),
            regs::TIMER_CURRENT => self.current_count(clock),
            regs::TPR
            | regs::DFR
            | regs::SVR
            | regs::ESR
            | regs::ICR
            | regs::ICR_HIGH
            | regs::TIMER_INITIAL
            | regs::TIMER_DIVIDE => self.plain(register),
            _ if self.lvt_writable(register).is_some() => self.plain(register),
            _ => return None,
        };
        Some(value)
    }

    /// Writes a register that both modes write alike; `None` for others.
    #[inline]
    fn write_register<C: Clock>(
        &mut self,
        register: u8,
        value: u32,
        cx: &Context<'_, C>,
    ) -> Option<Effect> {
        let effect = match register {
            regs::EOI => match self.eoi() {
                Some(action) => Effect::Eoi(action),
                None => Effect::None,
            },
            regs::TPR => {
                self.set_tpr(value as u8, cx.post);
                Effect::None
            }
            regs::SVR => self.write_svr(value, cx.post),
            regs::ESR => {
                let errors = core::mem::take(&mut self.errors);
                self.set_plain(regs::ESR, errors);
                Effect::None
            }
            regs::TIMER_INITIAL => timer_effect(self.set_initial_count(value, cx.clock)),
            regs::TIMER_DIVIDE => timer_effect(self.set_divide(value, cx.clock)),
            _ => {
                let writable = self.lvt_writable(register)?;
                self.write_lvt(register, value & writable, cx.post)
            }
        };
        Some(effect)
    }

    fn write_lvt(&mut self, register: u8, value: u32, post: &LapicPost) -> Effect {
        let value = if self.software_enabled() {
            value
        } else {
            value | lvt::MASKED
        };
        if register == regs::LVT_TIMER {
            return timer_effect(self.set_lvt_timer(value));
        }
        self.set_plain(register, value);
        if register != regs::LVT_LINT0 {
            return Effect::None;
        }
        self.publish(post);
        Effect::Lint0
    }

    /// Software disabled, all LVT entries are masked (SDM vol. 3A section
    /// 12.4.7.2).
    fn mask_lvts(&mut self) {
        for register in regs::LVT_CMCI..=regs::LVT_ERROR {
            if self.lvt_writable(register).is_some() {
                let entry = self.plain(register);
                self.set_plain(register, entry | lvt::MASKED);
            }
        }
    }

    fn write_svr(&mut self, value: u32, post: &LapicPost) -> Effect {
        self.set_plain(regs::SVR, value & self.svr_writable());
        self.changed = true;
        if self.software_enabled() {
            self.publish(post);
            return Effect::None;
        }
        self.mask_lvts();
        self.publish(post);
        Effect::Lint0
    }

    fn write_xapic_icr(&mut self, value: u32) -> Effect {
        let command = value & !icr::BUSY;
        self.set_plain(regs::ICR, command);
        let dest = match self.plain(regs::ICR_HIGH) >> 24 {
            BROADCAST_8BIT => BROADCAST,
            dest => dest,
        };
        self.send(command, dest)
    }

    #[inline]
    fn write_x2apic_icr(&mut self, value: u64) -> Result<Effect, GpFault> {
        let command = value as u32;
        if command & icr::X2APIC_RESERVED != 0 {
            return Err(GpFault);
        }
        let command = command & !icr::BUSY;
        let dest = (value >> 32) as u32;
        self.set_plain(regs::ICR, command);
        self.set_plain(regs::ICR_HIGH, dest);
        Ok(self.send(command, dest))
    }

    /// Sends what ICR asks for (SDM vol. 3A section 12.6.1). A fixed
    /// interrupt to itself is done here; the rest is up to the caller.
    #[inline]
    fn send(&mut self, command: u32, dest: u32) -> Effect {
        let vector = (command & icr::VECTOR) as u8;
        let level_triggered = command & icr::LEVEL != 0;
        let shorthand = match (command >> icr::SHORTHAND_SHIFT) & 3 {
            0 => Shorthand::None,
            1 => Shorthand::Myself,
            2 => Shorthand::All,
            _ => Shorthand::AllButSelf,
        };
        let mode = DeliveryMode::from_bits(command >> icr::DELIVERY_MODE_SHIFT);
        let by_vector = matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if by_vector && shorthand == Shorthand::Myself && !level_triggered {
            self.request_self(vector);
            return Effect::None;
        }
        if by_vector && vector < regs::FIRST_LEGAL_VECTOR {
            self.raise_error(esr::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        let message = Message {
            dest: match shorthand {
                Shorthand::None | Shorthand::Myself => dest,
                Shorthand::All | Shorthand::AllButSelf => BROADCAST,
            },
            dest_mode: DestMode::from_bit(command & icr::LOGICAL != 0),
            mode,
            vector,
            level_triggered,
            assert: !level_triggered || command & icr::ASSERT != 0,
            redirect_hint: false,
            watched: false,
        };
        if message.is_deassert() {
            return Effect::None;
        }
        Effect::Ipi(IpiRequest { shorthand, message })
    }
}

const fn timer_effect(command: TimerCommand) -> Effect {
    match command {
        TimerCommand::Keep => Effect::None,
        command => Effect::Timer(command),
    }
}
