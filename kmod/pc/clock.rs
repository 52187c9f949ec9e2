// SPDX-License-Identifier: GPL-2.0

//! Time for guests: from TSC ticks to nanoseconds, and the records in guest
//! memory that let a guest do that itself
//! (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW).

use crate::uapi::pvclock_vcpu_time_info;
use crate::uapi::pvclock_wall_clock;
use crate::uapi::PVCLOCK_GUEST_STOPPED;
use crate::uapi::PVCLOCK_TSC_STABLE_BIT;

/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond: TSC frequencies are in kHz.
const NS_PER_MS: u64 = 1_000_000;

/// Two TSC values written to vCPUs within this time are meant to be the same
/// moment of one clock.
const SYNC_WINDOW_NS: u64 = NS_PER_S;

/// How a guest makes nanoseconds of ticks: `((ticks << shift) * mul) >> 32`,
/// where a negative shift is one to the right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// Fraction of 2^32, at least a half.
    pub mul: u32,
    /// Shift of the ticks, -31 to 31.
    pub shift: i8,
}

impl Scale {
    /// For a clock of `khz`, of which 0 counts as 1.
    pub fn of_khz(khz: u32) -> Self {
        let mut ns = NS_PER_MS;
        let mut ticks = u64::from(khz.max(1));
        let mut shift = 0i8;
        // Both stay far below 2^63: one of the loops runs, at most 31 times.
        while ns >= ticks {
            ticks <<= 1;
            shift = shift.wrapping_add(1);
        }
        while ns << 1 < ticks {
            ns <<= 1;
            shift = shift.wrapping_sub(1);
        }
        // ns < ticks < 2^53, and ns < 2^32.
        let mul = (ns << 32) / ticks;
        Self {
            mul: u32::try_from(mul).unwrap_or(u32::MAX),
            shift,
        }
    }

    /// Nanoseconds of `ticks`, as the guest computes them.
    pub fn ns(self, ticks: u64) -> u64 {
        let shifted = if self.shift < 0 {
            ticks >> self.shift.unsigned_abs()
        } else {
            ticks << self.shift.unsigned_abs()
        };
        ((u128::from(shifted) * u128::from(self.mul)) >> 32) as u64
    }
}

/// A vCPU's clock at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The guest's TSC.
    pub tsc: u64,
    /// The guest's system time in nanoseconds.
    pub system_time: u64,
    /// Both advance together on all vCPUs.
    pub stable: bool,
    /// The guest has not run for a while and is to know it.
    pub stopped: bool,
}

/// The record for a vCPU. Written with `version` odd first, and even last.
pub fn time_info(moment: &Moment, scale: Scale, version: u32) -> pvclock_vcpu_time_info {
    let mut flags = 0;
    if moment.stable {
        flags |= PVCLOCK_TSC_STABLE_BIT;
    }
    if moment.stopped {
        flags |= PVCLOCK_GUEST_STOPPED;
    }
    pvclock_vcpu_time_info {
        version,
        tsc_timestamp: moment.tsc,
        system_time: moment.system_time,
        tsc_to_system_mul: scale.mul,
        tsc_shift: scale.shift,
        flags,
        ..pvclock_vcpu_time_info::default()
    }
}

/// The wall clock record: the time of day at system time 0.
pub fn wall_clock(realtime: u64, system_time: u64, version: u32) -> pvclock_wall_clock {
    let start = realtime.saturating_sub(system_time);
    pvclock_wall_clock {
        version,
        sec: (start / NS_PER_S) as u32,
        nsec: (start % NS_PER_S) as u32,
    }
}

/// The TSC values that userspace writes to a VM's vCPUs one after the other.
///
/// A VMM sets each vCPU to the same value, and between two writes time passes.
/// Values that differ by no more than that time are one moment, so the vCPU is
/// given the offset of the first.
#[derive(Clone, Copy, Default, Debug)]
pub struct WrittenTsc {
    last: Option<Write>,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    value: u64,
    offset: u64,
    at_ns: u64,
    khz: u32,
}

impl WrittenTsc {
    /// Userspace writes `value` when the vCPU's TSC would be `plain` without an
    /// offset, the host's clock is `now_ns` and the guest's frequency `khz`: the
    /// offset of the vCPU's TSC.
    pub fn write(&mut self, value: u64, plain: u64, now_ns: u64, khz: u32) -> u64 {
        if let Some(last) = self.last {
            let window = u64::from(khz).saturating_mul(SYNC_WINDOW_NS / NS_PER_MS);
            let recent = now_ns.wrapping_sub(last.at_ns) < SYNC_WINDOW_NS;
            // A value of 0 is what a vCPU gets when it is made, whenever.
            let close = value.abs_diff(last.value) < window;
            let same = (recent && close) || (value == 0 && last.value == 0);
            if same && khz == last.khz {
                return last.offset;
            }
        }
        let offset = value.wrapping_sub(plain);
        self.last = Some(Write {
            value,
            offset,
            at_ns: now_ns,
            khz,
        });
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_is_exact_enough_at_every_frequency() {
        for khz in [
            1,
            999,
            1_000,
            999_999,
            1_000_000,
            1_000_001,
            2_600_000,
            5_000_000,
            u32::MAX,
        ] {
            let scale = Scale::of_khz(khz);
            assert!(scale.mul >= 1 << 31, "{khz}: {scale:?}");
            // An hour of ticks, or what fits.
            let ticks = u64::from(khz) * 3_600_000;
            let exact = 3600 * NS_PER_S;
            let error = scale.ns(ticks).abs_diff(exact);
            assert!(error < 2_000, "{khz}: off by {error} ns in an hour");
        }
    }

    #[test]
    fn zero_frequency_does_not_divide_by_zero() {
        assert_eq!(Scale::of_khz(0), Scale::of_khz(1));
    }

    #[test]
    fn scale_of_one_gigahertz() {
        let scale = Scale::of_khz(1_000_000);
        assert_eq!(scale.ns(12_345), 12_345);
    }

    #[test]
    fn writes_close_together_give_one_offset() {
        let mut written = WrittenTsc::default();
        let khz = 1_000_000;
        let first = written.write(1_000, 500, 0, khz);
        assert_eq!(first, 500);
        // The same value half a second later, and one that has advanced.
        assert_eq!(written.write(1_000, 500_000_500, NS_PER_S / 2, khz), first);
        assert_eq!(
            written.write(400_001_000, 900_000_500, NS_PER_S * 9 / 10, khz),
            first
        );
    }

    #[test]
    fn writes_far_apart_are_taken_as_they_are() {
        let mut written = WrittenTsc::default();
        let khz = 1_000_000;
        written.write(1_000, 0, 0, khz);
        assert_eq!(
            written.write(1_000, 5_000, 2 * NS_PER_S, khz),
            1_000u64.wrapping_sub(5_000)
        );
        // A jump of the value within the second.
        let offset = written.write(50 * NS_PER_S, 6_000, 2 * NS_PER_S + 1, khz);
        assert_eq!(offset, 50 * NS_PER_S - 6_000);
    }

    #[test]
    fn writes_at_different_rates_are_of_different_clocks() {
        let mut written = WrittenTsc::default();
        assert_eq!(written.write(0, 500, 0, 1_000_000), 500u64.wrapping_neg());
        assert_eq!(
            written.write(0, 1_200, 100, 2_000_000),
            1_200u64.wrapping_neg()
        );
    }

    #[test]
    fn records() {
        let moment = Moment {
            tsc: 7,
            system_time: 9,
            stable: true,
            stopped: true,
        };
        let info = time_info(&moment, Scale::of_khz(2_000_000), 4);
        assert_eq!(
            (info.version, info.tsc_timestamp, info.system_time),
            (4, 7, 9)
        );
        assert_eq!(info.flags, PVCLOCK_TSC_STABLE_BIT | PVCLOCK_GUEST_STOPPED);
        let wall = wall_clock(10 * NS_PER_S + 5, 3 * NS_PER_S, 2);
        assert_eq!((wall.version, wall.sec, wall.nsec), (2, 7, 5));
    }
}
