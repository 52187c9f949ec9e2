// SPDX-License-Identifier: GPL-2.0

//! Ticks of a time-stamp counter and nanoseconds.
//!
//! Everything saturates: a time that does not fit lies so far ahead that it is
//! never reached.

/// Nanoseconds in a millisecond: TSC frequencies are in kHz.
const NS_PER_MS: u64 = 1_000_000;

/// Two clocks of one machine differ by no more than one part in so many: what
/// NTP steers by is half of that.
const DRIFT: u64 = 1024;

/// Waits no longer than this are not worth a second look at the other clock.
const SHORT_NS: u64 = 20 * NS_PER_MS;

/// `value * numerator / denominator`, rounded up; a denominator of 0 counts as 1.
fn scale_up(value: u64, numerator: u64, denominator: u64) -> u64 {
    let denominator = denominator.max(1);
    let whole = (value / denominator).saturating_mul(numerator);
    let rest = u128::from(value % denominator).saturating_mul(u128::from(numerator));
    let rest = rest.div_ceil(u128::from(denominator));
    whole.saturating_add(u64::try_from(rest).unwrap_or(u64::MAX))
}

/// Nanoseconds in which a TSC of `khz` counts `ticks`, rounded up.
pub fn ns_of_ticks(ticks: u64, khz: u32) -> u64 {
    scale_up(ticks, NS_PER_MS, u64::from(khz))
}

/// What a TSC of `khz` counts in `ns`, rounded up.
pub fn ticks_of_ns(ns: u64, khz: u32) -> u64 {
    scale_up(ns, u64::from(khz), NS_PER_MS)
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
        values.extend([
            NS_PER_MS - 1,
            NS_PER_MS,
            NS_PER_MS + 1,
            SHORT_NS,
            SHORT_NS + 1,
        ]);
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
                assert_eq!(ns_of_ticks(value, khz), exact(value, NS_PER_MS, rate));
                assert_eq!(ticks_of_ns(value, khz), exact(value, rate, NS_PER_MS));
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
        assert_eq!(ns_of_ticks(3, 0), 3 * NS_PER_MS);
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
}
