// SPDX-License-Identifier: GPL-2.0

//! The host timer behind a local APIC's timer, and time as the APIC sees it.

use super::vcpu::Vcpu;
use super::vcpu::VcpuShared;
use crate::host::cpu;
use crate::host::time;
use crate::host::timer::Timer;
use crate::host::timer::TimerCallback;
use crate::hw::Vendor;
use crate::pc::lapic;
use crate::pc::lapic::TimerCommand;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Nanoseconds in a millisecond: TSC frequencies are in kHz.
const NS_PER_MS: u64 = 1_000_000;

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

/// The host timer of one vCPU.
pub type VcpuTimer = Timer<Expiry>;

/// A timer for the vCPU, stopped.
pub fn new(shared: &Arc<VcpuShared>) -> Result<VcpuTimer> {
    Timer::new(Expiry(shared.clone()))
}

/// Time as one vCPU sees it.
#[derive(Clone, Copy)]
pub struct GuestTime {
    /// Added to the host's TSC.
    pub tsc_offset: u64,
    /// [`cpu::tsc_set_back`] when the offset was so.
    pub set_back: u64,
    /// Frequency of the guest's TSC in kHz: the host's.
    pub tsc_khz: u32,
}

impl lapic::Clock for GuestTime {
    #[inline]
    fn now_ns(&self) -> u64 {
        time::monotonic_ns()
    }

    #[inline]
    fn guest_tsc(&self) -> u64 {
        cpu::rdtsc_ordered().wrapping_add(self.tsc_offset)
    }
}

impl GuestTime {
    /// When, in ns of the monotonic clock, the guest's TSC reads `deadline`.
    fn tsc_to_ns(&self, deadline: u64) -> u64 {
        use lapic::Clock;
        let ticks = deadline.saturating_sub(self.guest_tsc());
        let khz = u64::from(self.tsc_khz.max(1));
        let whole = (ticks / khz).saturating_mul(NS_PER_MS);
        let rest = (ticks % khz).saturating_mul(NS_PER_MS) / khz;
        time::monotonic_ns().saturating_add(whole.saturating_add(rest))
    }
}

/// Does with the host timer what the local APIC wants.
pub fn apply(timer: &VcpuTimer, time: &GuestTime, command: TimerCommand) {
    let at = match command {
        TimerCommand::Keep => return,
        // A callback that runs now only makes the vCPU look, in vain.
        TimerCommand::Cancel => {
            let _ = timer.try_cancel();
            return;
        }
        TimerCommand::ArmNs { deadline } => deadline,
        TimerCommand::ArmTsc { deadline } => time.tsc_to_ns(deadline),
    };
    // The clock of timers is signed.
    timer.start(at.min(i64::MAX as u64));
}

impl<V: Vendor> Vcpu<V> {
    /// Does with the host timer what the local APIC wants.
    pub fn apply_timer(&mut self, command: TimerCommand) {
        apply(&self.timer, &self.time, command);
    }
}
