// SPDX-License-Identifier: GPL-2.0

//! The host's clocks, in nanoseconds.
//!
//! Context: any but NMI.

use super::bindings;
use super::cpu::rdtsc_ordered;
use super::task::IrqOff;

/// The monotonic clock: since boot, without suspend, at the rate NTP steers to.
/// The clock of [`Timer`](super::timer::Timer).
#[inline]
pub fn monotonic_ns() -> u64 {
    // SAFETY: Reads the clock.
    unsafe { bindings::ktime_get() as u64 }
}

/// All clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// The host's TSC.
    pub tsc: u64,
    /// Monotonic clock.
    pub monotonic: u64,
    /// Monotonic clock at the rate of the hardware.
    pub raw: u64,
    /// Boot-time clock.
    pub boottime: u64,
    /// Real-time clock.
    pub realtime: u64,
    /// The clocks are computed from this very TSC value. Otherwise the host's
    /// clocksource is another one and the TSC was read within about a
    /// microsecond.
    pub from_tsc: bool,
}

impl Clocks {
    /// Reads them.
    pub fn read() -> Self {
        let mut snapshot = bindings::system_time_snapshot::default();
        let (before, after) = {
            let _off = IrqOff::new();
            let before = rdtsc_ordered();
            // SAFETY: Stores to the local structure.
            unsafe {
                bindings::ktime_get_snapshot_id(
                    bindings::CLOCK_MONOTONIC as bindings::clockid_t,
                    &mut snapshot,
                );
            }
            (before, rdtsc_ordered())
        };
        let exact = snapshot_tsc(&snapshot);
        let between = before.wrapping_add(after.wrapping_sub(before) / 2);
        let monotonic = snapshot.systime as u64;
        Self {
            tsc: exact.unwrap_or(between),
            monotonic,
            raw: snapshot.monoraw as u64,
            boottime: from_monotonic(monotonic, bindings::tk_offsets_TK_OFFS_BOOT),
            realtime: from_monotonic(monotonic, bindings::tk_offsets_TK_OFFS_REAL),
            from_tsc: exact.is_some(),
        }
    }

    /// The raw clock with time in suspend added: a clock that goes at the rate
    /// of the TSC, for guests that count TSC ticks themselves.
    pub fn raw_boottime(&self) -> u64 {
        let suspended = self.boottime.wrapping_sub(self.monotonic);
        self.raw.wrapping_add(suspended)
    }
}

/// The TSC value that a snapshot was computed from.
fn snapshot_tsc(snapshot: &bindings::system_time_snapshot) -> Option<u64> {
    if snapshot.valid == 0 {
        return None;
    }
    if snapshot.cs_id == bindings::clocksource_ids_CSID_X86_TSC {
        return Some(snapshot.cycles);
    }
    (snapshot.hw_csid == bindings::clocksource_ids_CSID_X86_TSC).then_some(snapshot.hw_cycles)
}

/// The time on another clock when the monotonic clock reads `monotonic`.
fn from_monotonic(monotonic: u64, clock: bindings::tk_offsets) -> u64 {
    // SAFETY: Reads an offset of the kernel's clocks.
    unsafe { bindings::ktime_mono_to_any(monotonic as i64, clock) as u64 }
}
