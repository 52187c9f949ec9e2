// SPDX-License-Identifier: GPL-2.0

//! What the VMX-preemption timer is to be loaded with: SDM vol. 3, 28.5.1.
//!
//! The processor loads it at each entry with the value in the VMCS, counts it
//! down by one each time bit `shift` of its TSC changes, and ends the guest's run
//! when it is zero. So a value holds for one length of a run. That is what bounds
//! all of them; a run that a deadline is to end needs its own at each entry.

/// A deadline that no TSC reaches.
const NEVER: u64 = u64::MAX;

/// Processors whose timer does not count at the rate it claims (Intel's
/// specification updates, "VMX-Preemption Timer Does Not Count Down at the Rate
/// Specified"), by CPUID.1:EAX, as far as they have unrestricted guests:
/// Clarkdale and Arrandale, steppings C2 and K0 (322911, AAU65; 322814, AAT59),
/// and Xeon E3-1200 v2 before its last stepping.
const WRONG_RATES: [u32; 3] = [0x2_0652, 0x2_0655, 0x3_06a8];

/// Whether the timer of the processor with this CPUID.1:EAX does not do for
/// deadlines. A run of about the right length it does bound.
pub fn has_wrong_rate(signature: u32) -> bool {
    WRONG_RATES.contains(&signature)
}

/// The timer of one vCPU.
pub struct RunTimer {
    /// A count is `1 << shift` ticks of the TSC (A.6), at most 31.
    shift: u8,
    /// Counts of the longest run.
    longest: u32,
    /// What the VMCS has.
    written: u32,
    /// Runs end when the host's TSC reads this.
    deadline: u64,
}

impl RunTimer {
    /// One whose field in the VMCS has been written with [`RunTimer::written`].
    /// The longest run takes `ticks` of the TSC.
    pub fn new(shift: u8, ticks: u64) -> Self {
        let shift = shift & 31;
        let longest = u32::try_from((ticks >> shift).max(1)).unwrap_or(u32::MAX);
        Self {
            shift,
            longest,
            written: longest,
            deadline: NEVER,
        }
    }

    /// What the VMCS has.
    pub const fn written(&self) -> u32 {
        self.written
    }

    /// Runs end when the host's TSC reads `deadline`, which may be past.
    #[inline]
    pub fn set_deadline(&mut self, deadline: Option<u64>) {
        self.deadline = deadline.unwrap_or(NEVER);
    }

    /// Whether what the last [`RunTimer::next`] has told holds for all entries to
    /// come; otherwise it is to be asked before each.
    #[inline]
    pub const fn is_settled(&self) -> bool {
        self.deadline == NEVER
    }

    /// What is to be written to the VMCS for an entry when the host's TSC reads
    /// `now`, if it has something else.
    #[inline]
    pub fn next(&mut self, now: u64) -> Option<u32> {
        let counts = self.counts(now);
        if counts == self.written {
            return None;
        }
        self.written = counts;
        Some(counts)
    }

    /// Counts from `now` to the first change of the TSC's bit at or behind the
    /// deadline: never too few.
    #[inline]
    fn counts(&self, now: u64) -> u32 {
        let shift = u32::from(self.shift & 31);
        let begun = self.deadline & (1u64 << shift).wrapping_sub(1) != 0;
        let end = (self.deadline >> shift).saturating_add(u64::from(begun));
        let counts = end.saturating_sub(now >> shift);
        counts.min(u64::from(self.longest)) as u32
    }

    /// Whether it is the deadline that has ended the run, when the host's TSC
    /// reads `now`.
    #[inline]
    pub const fn is_due(&self, now: u64) -> bool {
        now >= self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The TSC when the processor's timer, loaded with `counts` at `now`, is zero.
    fn fires(counts: u32, now: u64, shift: u8) -> u128 {
        if counts == 0 {
            return u128::from(now);
        }
        (u128::from(now >> shift) + u128::from(counts)) << shift
    }

    fn edges() -> impl Iterator<Item = u64> {
        (0..64).flat_map(|shift| {
            let power = 1u64 << shift;
            [power - 1, power, power + 1, u64::MAX - power, u64::MAX]
        })
    }

    #[test]
    fn a_run_ends_at_the_deadline_or_earlier_but_bounded() {
        for shift in [0, 1, 5, 7, 20, 31] {
            for now in edges() {
                for deadline in edges() {
                    let mut timer = RunTimer::new(shift, u64::MAX);
                    timer.set_deadline(Some(deadline));
                    let _ = timer.next(now);
                    let at = fires(timer.written(), now, shift);
                    let bounded = timer.written() == timer.longest;
                    let end = u128::from(deadline.max(now));
                    assert!(
                        bounded || at >= end,
                        "{now:#x} {deadline:#x} {shift}: too early"
                    );
                    assert!(
                        at < end + (1 << shift),
                        "{now:#x} {deadline:#x} {shift}: too late"
                    );
                }
            }
        }
    }

    #[test]
    fn no_run_is_longer_than_the_longest() {
        let mut timer = RunTimer::new(5, 32_000);
        assert_eq!(timer.written(), 1_000);
        assert!(timer.is_settled());
        timer.set_deadline(Some(1 << 40));
        // The bound comes first: nothing to write.
        assert_eq!(timer.next(0), None);
        assert!(!timer.is_settled());
        assert_eq!(timer.next((1 << 40) - 3_200), Some(100));
        assert_eq!(timer.next((1 << 40) - 3_200), None);
        assert_eq!(timer.next((1 << 40) - 1), Some(1));
        assert_eq!(timer.next(1 << 40), Some(0));
        assert_eq!(timer.next((1 << 40) + 1), None);
    }

    #[test]
    fn without_a_deadline_it_is_written_once() {
        let mut timer = RunTimer::new(0, 500);
        timer.set_deadline(Some(100));
        assert_eq!(timer.next(40), Some(60));
        assert!(!timer.is_due(99));
        assert!(timer.is_due(100));
        timer.set_deadline(None);
        assert!(!timer.is_due(100));
        assert_eq!(timer.next(50), Some(500));
        assert!(timer.is_settled());
    }

    #[test]
    fn every_run_is_at_least_a_count() {
        assert_eq!(RunTimer::new(31, 0).written(), 1);
        assert_eq!(RunTimer::new(0, u64::MAX).written(), u32::MAX);
        // Bits that a shift does not have.
        assert_eq!(RunTimer::new(32, 7).written(), 7);
    }
}
