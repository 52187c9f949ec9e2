// SPDX-License-Identifier: GPL-2.0

//! The local APIC's timer (SDM vol. 3A section 12.5.4) as arithmetic: when it
//! expires next, and what its current count reads as.

use super::regs::{self, lvt};
use super::{Clock, Lapic, LocalSource, Mode};

/// What the caller has to do with the host timer of this vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum TimerCommand {
    /// Leave it as it is.
    Keep,
    /// Cancel it.
    Cancel,
    /// Let it expire at this time of [`Clock::now_ns`], which may be past.
    ArmNs {
        /// Nanoseconds.
        deadline: u64,
    },
    /// Let it expire at this value of [`Clock::guest_tsc`].
    ArmTsc {
        /// The guest's TSC.
        deadline: u64,
    },
}

/// Mode of the timer: bits 18..17 of its LVT entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerMode {
    /// Counts down once.
    OneShot,
    /// Starts over when it reaches zero.
    Periodic,
    /// Expires at a value of the TSC.
    TscDeadline,
    /// Reserved: never expires.
    Reserved,
}

impl TimerMode {
    const fn from_lvt(entry: u32) -> Self {
        let periodic = entry & lvt::TIMER_PERIODIC != 0;
        let deadline = entry & lvt::TIMER_TSC_DEADLINE != 0;
        match (periodic, deadline) {
            (false, false) => Self::OneShot,
            (true, false) => Self::Periodic,
            (false, true) => Self::TscDeadline,
            (true, true) => Self::Reserved,
        }
    }

    const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

/// What the registers do not tell.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Timer {
    /// When the count reaches zero, in ns; `None` when it is zero already.
    expiry_ns: Option<u64>,
    /// IA32_TSC_DEADLINE; zero when disarmed.
    deadline_tsc: u64,
}

impl Lapic {
    /// Mode of the timer.
    #[inline]
    pub fn timer_mode(&self) -> TimerMode {
        TimerMode::from_lvt(self.plain(regs::LVT_TIMER))
    }

    /// Nanoseconds per count, at least 1.
    fn tick_ns(&self) -> u64 {
        let divide = self.plain(regs::TIMER_DIVIDE);
        let exponent = (divide & 0b11) | (divide & 0b1000) >> 1;
        // The encoding starts with 2 and wraps to 1 behind 128.
        let divisor = 1u64 << (exponent.wrapping_add(1) & 7);
        divisor.saturating_mul(u64::from(self.config.bus_cycle_ns.max(1)))
    }

    /// The count's full run in ns; zero when the initial count is.
    fn period_ns(&self) -> u64 {
        let count = u64::from(self.plain(regs::TIMER_INITIAL));
        let period = count.saturating_mul(self.tick_ns());
        if count != 0 && self.timer_mode() == TimerMode::Periodic {
            return period.max(self.config.min_period_ns);
        }
        period
    }

    fn arm_count(&mut self, expiry_ns: u64) -> TimerCommand {
        self.timer.expiry_ns = Some(expiry_ns);
        TimerCommand::ArmNs {
            deadline: expiry_ns,
        }
    }

    fn disarm(&mut self) -> TimerCommand {
        self.timer = Timer::default();
        TimerCommand::Cancel
    }

    /// What the host timer should be doing now: for when it was lost, or the
    /// guest's TSC changed under it.
    pub fn timer_command(&self) -> TimerCommand {
        match (self.timer.expiry_ns, self.timer.deadline_tsc) {
            (Some(deadline), _) => TimerCommand::ArmNs { deadline },
            (None, 0) => TimerCommand::Cancel,
            (None, deadline) => TimerCommand::ArmTsc { deadline },
        }
    }

    /// Writes the initial count: starts the count, or stops it with zero.
    pub(super) fn set_initial_count(&mut self, value: u32, clock: &impl Clock) -> TimerCommand {
        if !self.timer_mode().counts() {
            return TimerCommand::Keep;
        }
        self.set_plain(regs::TIMER_INITIAL, value);
        if value == 0 {
            return self.disarm();
        }
        let expiry = clock.now_ns().saturating_add(self.period_ns());
        self.arm_count(expiry)
    }

    /// Reads the current count.
    pub(super) fn current_count(&self, clock: &impl Clock) -> u32 {
        let Some(expiry) = self.timer.expiry_ns else {
            return 0;
        };
        let now = clock.now_ns();
        let remaining = if now < expiry {
            expiry.saturating_sub(now)
        } else if self.timer_mode() == TimerMode::Periodic {
            // Expired, and nobody told the APIC yet.
            let period = self.period_ns();
            let late = now.saturating_sub(expiry);
            period.saturating_sub(late.checked_rem(period).unwrap_or(0))
        } else {
            0
        };
        // A count that has begun is not over: rounded up.
        let tick = self.tick_ns();
        let rounded = remaining.saturating_add(tick.saturating_sub(1));
        let counts = rounded.checked_div(tick).unwrap_or(0);
        // A stretched period would count from above the initial count.
        counts.min(u64::from(self.plain(regs::TIMER_INITIAL))) as u32
    }

    /// Writes the divide configuration. A running count goes on from where it
    /// is at the new speed.
    pub(super) fn set_divide(&mut self, value: u32, clock: &impl Clock) -> TimerCommand {
        let count = self.current_count(clock);
        self.set_plain(regs::TIMER_DIVIDE, value & regs::DIVIDE_MASK);
        if self.timer.expiry_ns.is_none() || count == 0 {
            return TimerCommand::Keep;
        }
        let remaining = u64::from(count).saturating_mul(self.tick_ns());
        let expiry = clock.now_ns().saturating_add(remaining);
        self.arm_count(expiry)
    }

    /// Writes the timer's LVT entry, of which `value` has the defined bits
    /// only. Changing to or from TSC-deadline mode disarms; changing between
    /// one-shot and periodic takes effect when the count reaches zero.
    pub(super) fn set_lvt_timer(&mut self, value: u32) -> TimerCommand {
        let before = self.timer_mode();
        self.set_plain(regs::LVT_TIMER, value);
        if before.counts() == self.timer_mode().counts() {
            return TimerCommand::Keep;
        }
        self.set_plain(regs::TIMER_INITIAL, 0);
        self.disarm()
    }

    /// Reads IA32_TSC_DEADLINE (MSR 0x6e0): zero once it has expired.
    #[inline]
    pub const fn tsc_deadline(&self) -> u64 {
        self.timer.deadline_tsc
    }

    /// Writes IA32_TSC_DEADLINE. Ignored in other timer modes. A deadline
    /// that has passed requests the interrupt at once.
    pub fn set_tsc_deadline(&mut self, deadline: u64, clock: &impl Clock) -> TimerCommand {
        if self.timer_mode() != TimerMode::TscDeadline || self.mode() == Mode::Disabled {
            return TimerCommand::Keep;
        }
        let was_armed = self.timer.deadline_tsc != 0;
        self.timer.deadline_tsc = deadline;
        if deadline != 0 {
            return self.tsc_timer_fired(clock);
        }
        if was_armed {
            TimerCommand::Cancel
        } else {
            TimerCommand::Keep
        }
    }

    /// The host timer expired. Requests the interrupt if the APIC's timer
    /// expired by now, and says what to do with the host timer next. A call
    /// that comes too early, or for a timer armed anew since, does no harm.
    pub fn timer_fired(&mut self, clock: &impl Clock) -> TimerCommand {
        if self.timer.deadline_tsc != 0 {
            return self.tsc_timer_fired(clock);
        }
        let Some(expiry) = self.timer.expiry_ns else {
            return TimerCommand::Keep;
        };
        let now = clock.now_ns();
        if now < expiry {
            return TimerCommand::ArmNs { deadline: expiry };
        }
        let _ = self.deliver_local(LocalSource::Timer);
        let period = self.period_ns();
        if self.timer_mode() != TimerMode::Periodic || period == 0 {
            self.timer.expiry_ns = None;
            return TimerCommand::Keep;
        }
        // The next multiple of the period that is still to come: neither
        // drift nor a burst after a pause.
        let late = now.saturating_sub(expiry);
        let periods = late.checked_div(period).unwrap_or(0).saturating_add(1);
        self.arm_count(expiry.saturating_add(periods.saturating_mul(period)))
    }

    fn tsc_timer_fired(&mut self, clock: &impl Clock) -> TimerCommand {
        let deadline = self.timer.deadline_tsc;
        if clock.guest_tsc() < deadline {
            return TimerCommand::ArmTsc { deadline };
        }
        let _ = self.deliver_local(LocalSource::Timer);
        self.disarm()
    }

    /// Starts the timer after its registers were replaced. `count` is what
    /// the current count register of another APIC read as; `mode_stays` keeps
    /// an armed TSC deadline.
    ///
    /// A count of zero with a running initial count means that the count had
    /// just expired, and it is not known whether anyone noticed: it expires
    /// again rather than not at all.
    pub(super) fn resume_timer(
        &mut self,
        count: u32,
        mode_stays: bool,
        clock: &impl Clock,
    ) -> TimerCommand {
        let mode = self.timer_mode();
        if mode == TimerMode::TscDeadline && mode_stays {
            return self.timer_command();
        }
        let _ = self.disarm();
        let period = self.period_ns();
        if !mode.counts() || period == 0 {
            return TimerCommand::Cancel;
        }
        let mut remaining = u64::from(count).saturating_mul(self.tick_ns()).min(period);
        if remaining == 0 && mode == TimerMode::Periodic {
            remaining = period;
        }
        let expiry = clock.now_ns().saturating_add(remaining);
        self.arm_count(expiry)
    }
}
