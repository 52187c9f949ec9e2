// SPDX-License-Identifier: GPL-2.0

//! Ticks of time-stamp counters, the host's and a guest's, and nanoseconds.
//!
//! Lengths of time saturate: one that does not fit lies so far ahead that it is
//! never reached. Divisions are of 64 bits by 32: the kernel has none of 128.

/// Nanoseconds in a millisecond: TSC frequencies are in kHz.
const NS_PER_MS: u32 = 1_000_000;

/// Two clocks of one machine differ by no more than one part in so many: what
/// NTP steers by is half of that.
const DRIFT: u64 = 1024;

/// Waits no longer than this are not worth a second look at the other clock.
const SHORT_NS: u64 = 20_000_000;

/// `value * numerator / denominator`, rounded up; a denominator of 0 counts as 1.
fn scale_up(value: u64, numerator: u32, denominator: u32) -> u64 {
    let (numerator, denominator) = (u64::from(numerator), u64::from(denominator.max(1)));
    let whole = (value / denominator).saturating_mul(numerator);
    // Both factors are below 2^32.
    let rest = (value % denominator).saturating_mul(numerator);
    whole.saturating_add(rest.div_ceil(denominator))
}

/// Nanoseconds in which a TSC of `khz` counts `ticks`, rounded up.
pub fn ns_of_ticks(ticks: u64, khz: u32) -> u64 {
    scale_up(ticks, NS_PER_MS, khz)
}

/// What a TSC of `khz` counts in `ns`, rounded up.
pub fn ticks_of_ns(ns: u64, khz: u32) -> u64 {
    scale_up(ns, khz, NS_PER_MS)
}

/// How many ticks to wait for an event that is `ns` ahead on a clock that is not
/// quite as fast as the TSC.
///
/// Of a long time somewhat less, so that the wait is over before the event and
/// what is left can be waited for by a second look at that clock.
pub fn ticks_to_wait(ns: u64, khz: u32) -> u64 {
    if ns <= SHORT_NS {
        return ticks_of_ns(ns, khz);
    }
    ticks_of_ns(ns.saturating_sub(ns / DRIFT), khz)
}

/// Bits of a multiplier behind the point (SDM vol. 3, 25.6.5).
const FRACTION: u32 = 48;

/// Tolerance of a TSC frequency, in parts per million, that needs no scaling.
const TOLERANCE_PPM: u64 = 250;

/// What userspace can set at most, in kHz.
const MAX_KHZ: u64 = 0x7fff_ffff;

/// How fast a guest's TSC is.
///
/// # Invariants
///
/// The multiplier is not 0, as a processor wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// As userspace was told, or told us.
    khz: u32,
    /// Of the host's TSC.
    host_khz: u32,
    /// Ticks of the guest's TSC for one of the host's, in parts of `1 << FRACTION`.
    multiplier: u64,
}

impl Rate {
    /// The multiplier of a TSC that is the host's.
    pub const ONE: u64 = 1 << FRACTION;

    /// The host's own.
    pub const fn of_host(host_khz: u32) -> Self {
        Self {
            khz: host_khz,
            host_khz,
            multiplier: Self::ONE,
        }
    }

    /// `khz`, of which 0 is the host's. `None` where the processor cannot do
    /// that: `scales` says whether it scales the TSC at all.
    pub fn new(khz: u64, host_khz: u32, scales: bool) -> Option<Self> {
        let host = Self::of_host(host_khz);
        if khz == 0 {
            return Some(host);
        }
        if khz >= MAX_KHZ {
            return None;
        }
        let khz = u32::try_from(khz).ok()?;
        let off = u64::from(khz.abs_diff(host_khz));
        if off <= u64::from(host_khz) * TOLERANCE_PPM / 1_000_000 {
            return Some(Self { khz, ..host });
        }
        if !scales {
            return None;
        }
        let multiplier = fraction(khz, host_khz)?;
        // INVARIANT: Just looked at.
        (multiplier != 0).then_some(Self {
            khz,
            host_khz,
            multiplier,
        })
    }

    /// In kHz, as userspace knows it.
    pub const fn khz(&self) -> u32 {
        self.khz
    }

    /// In kHz, as it is.
    pub const fn real_khz(&self) -> u32 {
        if self.is_scaled() {
            self.khz
        } else {
            self.host_khz
        }
    }

    /// Whether the processor scales the host's TSC for the guest.
    #[inline]
    pub const fn is_scaled(&self) -> bool {
        self.multiplier != Self::ONE
    }

    /// Ticks of the guest's TSC for one of the host's, in parts of
    /// [`Rate::ONE`].
    pub const fn multiplier(&self) -> u64 {
        self.multiplier
    }

    /// What the guest's TSC reads, but for an offset, when the host's reads
    /// `host`: as the processor computes it.
    #[inline]
    pub fn of_host_tsc(&self, host: u64) -> u64 {
        if !self.is_scaled() {
            return host;
        }
        let product = u128::from(host).wrapping_mul(u128::from(self.multiplier));
        (product >> FRACTION) as u64
    }

    /// What the host's TSC counts, at least, while the guest's counts `ticks`.
    pub fn host_ticks(&self, ticks: u64) -> u64 {
        if !self.is_scaled() {
            return ticks;
        }
        // The multiplier is rounded down, and so is each value of the TSC.
        scale_up(ticks.saturating_add(1), self.host_khz, self.khz)
    }
}

/// `numerator / denominator` in parts of `1 << FRACTION`, rounded down. `None` if
/// that is no number, or too large.
fn fraction(numerator: u32, denominator: u32) -> Option<u64> {
    let (numerator, denominator) = (u64::from(numerator), u64::from(denominator));
    let whole = numerator.checked_div(denominator)?;
    // As on paper, 32 bits of the fraction and then 16; rests are below 2^32.
    let rest = numerator.checked_rem(denominator)? << 32;
    let upper = rest.checked_div(denominator)?;
    let rest = rest.checked_rem(denominator)? << 16;
    let lower = rest.checked_div(denominator)?;
    (whole >> (u64::BITS - FRACTION) == 0).then_some(whole << FRACTION | upper << 16 | lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values at which something could overflow or round.
    fn edges() -> Vec<u64> {
        let mut values = vec![0, 1, 2, u64::MAX];
        for shift in 0..64 {
            let power = 1u64 << shift;
            values.extend([power - 1, power, power.saturating_add(1)]);
        }
        let ms = u64::from(NS_PER_MS);
        values.extend([ms - 1, ms, ms + 1, SHORT_NS, SHORT_NS + 1]);
        values
    }

    const RATES: [u32; 8] = [
        1,
        999,
        100_000,
        1_000_000,
        2_599_999,
        3_500_001,
        u32::MAX - 1,
        u32::MAX,
    ];

    /// What the exact quotient is, rounded up, or the largest number.
    fn exact(value: u64, numerator: u64, denominator: u64) -> u64 {
        let product = u128::from(value) * u128::from(numerator);
        let quotient = product.div_ceil(u128::from(denominator));
        u64::try_from(quotient).unwrap_or(u64::MAX)
    }

    #[test]
    fn conversions_are_exact_or_saturate() {
        for value in edges() {
            for khz in RATES {
                let rate = u64::from(khz);
                let ms = u64::from(NS_PER_MS);
                assert_eq!(ns_of_ticks(value, khz), exact(value, ms, rate));
                assert_eq!(ticks_of_ns(value, khz), exact(value, rate, ms));
            }
        }
    }

    #[test]
    fn no_conversion_is_too_short() {
        for ticks in edges() {
            for khz in RATES {
                let ns = ns_of_ticks(ticks, khz);
                assert!(ns == u64::MAX || ticks_of_ns(ns, khz) >= ticks);
            }
        }
    }

    #[test]
    fn a_tsc_without_a_rate_is_no_fault() {
        assert_eq!(ns_of_ticks(3, 0), 3_000_000);
        assert_eq!(ticks_of_ns(3, 0), 0);
    }

    #[test]
    fn long_waits_end_before_the_event_and_short_ones_behind() {
        let khz = 2_000_000;
        assert_eq!(ticks_to_wait(1_000, khz), 2_000);
        assert_eq!(ticks_to_wait(SHORT_NS, khz), 2 * SHORT_NS);
        for ns in edges().into_iter().filter(|ns| *ns > SHORT_NS) {
            let ticks = ticks_to_wait(ns, khz);
            assert!(ticks <= ticks_of_ns(ns, khz));
            // By more than a clock can be off that NTP steers, by less than 1 in 1000.
            if ns < 1 << 50 {
                assert!(ticks < 2 * (ns - ns / 2_000));
                assert!(ticks > 2 * (ns - ns / 1_000));
            }
        }
    }

    #[test]
    fn multipliers_are_exact() {
        for host in RATES {
            for khz in RATES {
                let exact = (u128::from(khz) << FRACTION) / u128::from(host);
                let expected = u64::try_from(exact).ok();
                assert_eq!(fraction(khz, host), expected, "{khz} of {host}");
            }
        }
        assert_eq!(fraction(1, 0), None);
        assert_eq!(fraction(3, 2), Some(Rate::ONE + Rate::ONE / 2));
    }

    #[test]
    fn which_rates_there_are() {
        let host = 1_000_000;
        let rate = |khz, scales| Rate::new(khz, host, scales);
        assert_eq!(rate(0, false), Some(Rate::of_host(host)));
        // As good as the host's, under the name it was given.
        for khz in [999_750, 1_000_250] {
            let near = rate(khz, true).expect("near");
            assert_eq!((near.khz(), near.real_khz()), (khz as u32, host));
            assert_eq!(rate(khz, false), Some(near));
            assert!(!near.is_scaled());
        }
        for khz in [1, 999_749, 1_000_251, MAX_KHZ - 1] {
            assert_eq!(rate(khz, false), None);
            let scaled = rate(khz, true).expect("scaled");
            assert!(scaled.is_scaled());
            assert_eq!(u64::from(scaled.real_khz()), khz);
        }
        assert_eq!(rate(MAX_KHZ, true), None);
        assert_eq!(rate(u64::MAX, true), None);
        // More than a processor can multiply by, less than it can.
        assert_eq!(Rate::new(1 << 30, 1, true), None);
        assert_eq!(Rate::new(1 << 16, 1, true), None);
        assert!(Rate::new((1 << 16) - 1, 1, true).is_some());
        assert!(Rate::new(1, u32::MAX, true).is_some());
        // A host that does not know its own.
        assert_eq!(Rate::new(5, 0, true), None);
    }

    /// Whatever the rates, the guest's TSC has counted what was waited for when the
    /// host's has counted what is said.
    #[test]
    fn waits_at_another_rate_are_not_too_short() {
        for host_khz in RATES {
            for khz in RATES {
                let Some(rate) = Rate::new(u64::from(khz), host_khz, true) else {
                    continue;
                };
                for start in [0, 12_345_678_901, 1 << 50] {
                    for ticks in [0, 1, 1_000, 3_500_000_000, 1 << 40] {
                        let wait = rate.host_ticks(ticks);
                        // Without an end it is never over.
                        let Some(end) = u64::checked_add(start, wait) else {
                            continue;
                        };
                        if wait == u64::MAX {
                            continue;
                        }
                        let product = u128::from(end) * u128::from(rate.multiplier());
                        if product >> FRACTION > u128::from(u64::MAX) {
                            continue;
                        }
                        let counted = rate.of_host_tsc(end) - rate.of_host_tsc(start);
                        // The multiplier has so many digits.
                        let error = (u128::from(wait) >> FRACTION) as u64 + 1;
                        assert!(
                            counted + error >= ticks,
                            "{khz} of {host_khz}: {counted} of {ticks}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_hosts_rate_changes_nothing() {
        let rate = Rate::of_host(2_000_000);
        for value in edges() {
            assert_eq!(rate.of_host_tsc(value), value);
            assert_eq!(rate.host_ticks(value), value);
        }
    }

    /// A TSC that has wrapped around goes on as the processor's product does.
    #[test]
    fn the_product_is_cut_off() {
        let rate = Rate::new(3, 2, true).expect("a rate");
        let product = u128::from(u64::MAX) * 3 / 2;
        assert_eq!(rate.of_host_tsc(u64::MAX), product as u64);
    }
}
