// SPDX-License-Identifier: GPL-2.0

//! What is behind a local APIC's timer, and time as the APIC sees it.
//!
//! Where the processor can end a run of the guest at a given time, that is
//! enough while the vCPU runs: it looks when it is there again. The host's timer
//! wakes one that sleeps; on other processors it also ends the runs.

use super::vcpu::Vcpu;
use super::vcpu::VcpuShared;
use crate::host::cpu;
use crate::host::time;
use crate::host::timer::Timer;
use crate::host::timer::TimerCallback;
use crate::hw::Vendor;
use crate::pc::lapic;
use crate::pc::lapic::Lapic;
use crate::pc::lapic::TimerCommand;
use crate::pc::tsc;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Wakes or kicks the vCPU when its timer expires.
pub struct Expiry(Arc<VcpuShared>);

impl TimerCallback for Expiry {
    fn fire(&self) -> Option<u64> {
        if self.0.apic.post_timer().needs_kick() {
            self.0.kick();
        }
        None
    }
}

/// What is behind the local APIC's timer of one vCPU.
pub struct VcpuTimer {
    host: Timer<Expiry>,
    /// The host's timer has been started, and not been stopped since.
    started: bool,
    /// What the host's TSC reads when the processor is to end a run.
    deadline: Option<u64>,
}

impl VcpuTimer {
    /// A timer for the vCPU, stopped.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(shared: &Arc<VcpuShared>) -> Result<Self> {
        Ok(Self {
            host: Timer::new(Expiry(shared.clone()))?,
            started: false,
            deadline: None,
        })
    }

    /// Does what the local APIC wants.
    pub fn apply<V: Vendor>(&mut self, hw: &mut V, time: &GuestTime, command: TimerCommand) {
        if command == TimerCommand::Keep {
            return;
        }
        let deadline = time.host_tsc_at(command);
        if hw.set_deadline(deadline) {
            self.deadline = deadline;
            self.stop_host();
        } else if deadline.is_some() {
            self.start_host(time, command);
        } else {
            self.stop_host();
        }
    }

    /// Whether it is for the vCPU itself to see that the timer has expired, and
    /// it has.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| cpu::rdtsc() >= deadline)
    }

    /// Before the vCPU sleeps: the host wakes it, as the local APIC wants by
    /// `command`.
    fn watch(&mut self, time: &GuestTime, command: TimerCommand) {
        if self.deadline.is_some() && !self.started {
            self.start_host(time, command);
        }
    }

    /// The vCPU sleeps no more.
    #[inline]
    fn watch_no_more(&mut self) {
        if self.deadline.is_some() && self.started {
            self.stop_host();
        }
    }

    fn start_host(&mut self, time: &GuestTime, command: TimerCommand) {
        let at = match command {
            TimerCommand::Keep | TimerCommand::Cancel => return,
            TimerCommand::ArmNs { deadline } => deadline,
            TimerCommand::ArmTsc { deadline } => time.tsc_to_ns(deadline),
        };
        self.started = true;
        // The clock of timers is signed.
        self.host.start(at.min(i64::MAX as u64));
    }

    fn stop_host(&mut self) {
        if self.started {
            self.started = false;
            // A callback that runs now only makes the vCPU look, in vain.
            let _ = self.host.try_cancel();
        }
    }
}

/// Time as one vCPU sees it.
#[derive(Clone, Copy)]
pub struct GuestTime {
    /// How fast the guest's TSC is.
    pub rate: tsc::Rate,
    /// Added to the host's TSC at that rate.
    pub tsc_offset: u64,
    /// [`cpu::tsc_set_back`] when the offset was so.
    pub set_back: u64,
}

impl lapic::Clock for GuestTime {
    #[inline]
    fn now_ns(&self) -> u64 {
        time::monotonic_ns()
    }

    #[inline]
    fn guest_tsc(&self) -> u64 {
        self.tsc_at(cpu::rdtsc_ordered())
    }
}

impl GuestTime {
    /// What the guest's TSC reads when the host's reads `host`.
    #[inline]
    pub fn tsc_at(&self, host: u64) -> u64 {
        self.rate.of_host_tsc(host).wrapping_add(self.tsc_offset)
    }

    /// When, in ns of the monotonic clock, the guest's TSC reads `deadline`.
    fn tsc_to_ns(&self, deadline: u64) -> u64 {
        use lapic::Clock;
        let ticks = deadline.saturating_sub(self.guest_tsc());
        let ns = tsc::ns_of_ticks(self.rate.host_ticks(ticks), cpu::tsc_khz());
        time::monotonic_ns().saturating_add(ns)
    }

    /// What the host's TSC reads when the timer is to expire, if it is armed.
    fn host_tsc_at(&self, command: TimerCommand) -> Option<u64> {
        let now = cpu::rdtsc_ordered();
        let ticks = match command {
            TimerCommand::Keep | TimerCommand::Cancel => return None,
            TimerCommand::ArmTsc { deadline } => {
                let ticks = deadline.saturating_sub(self.tsc_at(now));
                self.rate.host_ticks(ticks)
            }
            TimerCommand::ArmNs { deadline } => {
                let ns = deadline.saturating_sub(time::monotonic_ns());
                tsc::ticks_to_wait(ns, cpu::tsc_khz())
            }
        };
        Some(now.saturating_add(ticks))
    }
}

impl<V: Vendor> Vcpu<V> {
    /// Does what the local APIC wants of its timer.
    pub fn apply_timer(&mut self, command: TimerCommand) {
        self.timer.apply(&mut self.hw, &self.time, command);
    }

    /// If the timer has expired, without having told: the local APIC learns it.
    #[inline]
    pub fn look_at_timer(&mut self) {
        if self.timer.is_due() {
            self.timer_expired();
        }
    }

    /// The local APIC's timer may have expired.
    pub fn timer_expired(&mut self) {
        if let Some(lapic) = self.lapic.as_mut() {
            let _ = lapic.timer_fired(&self.time);
            // Not what that has told: an expired deadline has to go, too.
            let command = lapic.timer_command();
            self.apply_timer(command);
        }
    }

    /// The guest's TSC has been changed, or the host's: a deadline stays what it
    /// is, so it is nearer now, or farther away.
    pub fn tsc_changed(&mut self) {
        if let Some(command) = self.lapic.as_ref().map(Lapic::timer_command) {
            self.apply_timer(command);
        }
    }

    /// Sleeps until something is posted or requested, the timer expires, or a
    /// signal comes.
    ///
    /// # Errors
    ///
    /// `EINTR` for a signal.
    pub fn sleep(&mut self) -> Result {
        if let Some(lapic) = self.lapic.as_ref() {
            self.timer.watch(&self.time, lapic.timer_command());
        }
        self.shared.sleep()
    }

    /// The vCPU is going to run, after a sleep perhaps.
    #[inline]
    pub fn slept(&mut self) {
        self.timer.watch_no_more();
    }
}
