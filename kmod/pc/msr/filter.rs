// SPDX-License-Identifier: GPL-2.0

//! Which MSRs a VMM lets its guest access: `KVM_X86_SET_MSR_FILTER` (API
//! document 4.97).

use core::ops::Deref;

use super::index::{X2APIC_FIRST, X2APIC_LAST};
use crate::uapi::errno::EINVAL;
use crate::uapi::{
    kvm_msr_filter, kvm_msr_filter_range, KVM_MSR_FILTER_DEFAULT_DENY,
    KVM_MSR_FILTER_MAX_BITMAP_SIZE, KVM_MSR_FILTER_RANGE_VALID_MASK, KVM_MSR_FILTER_READ,
    KVM_MSR_FILTER_VALID_MASK, KVM_MSR_FILTER_WRITE,
};

/// What a guest does to an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

impl Direction {
    const fn flag(self) -> u32 {
        match self {
            Self::Read => KVM_MSR_FILTER_READ,
            Self::Write => KVM_MSR_FILTER_WRITE,
        }
    }
}

/// A range of MSRs with a bit for each; `B` holds the bits.
#[derive(Clone, Debug)]
pub struct Range<B> {
    /// `KVM_MSR_FILTER_READ` and `KVM_MSR_FILTER_WRITE`.
    pub flags: u32,
    /// The first MSR.
    pub base: u32,
    /// How many MSRs.
    pub count: u32,
    /// Bytes of the bitmap; a set bit allows.
    pub bitmap: B,
}

impl<B: Deref<Target = [u8]>> Range<B> {
    /// What the range says, if it is about this access.
    fn verdict(&self, index: u32, direction: Direction) -> Option<bool> {
        if self.flags & direction.flag() == 0 {
            return None;
        }
        let bit = index.wrapping_sub(self.base);
        if index < self.base || bit >= self.count {
            return None;
        }
        let byte = self.bitmap.get((bit / 8) as usize).copied().unwrap_or(0);
        Some(byte >> (bit % 8) & 1 != 0)
    }
}

/// Bytes of a range's bitmap; `None` for an unused range.
///
/// # Errors
///
/// `EINVAL` for unknown flags and too many MSRs.
pub fn bitmap_bytes(range: &kvm_msr_filter_range) -> Result<Option<usize>, i32> {
    if range.nmsrs == 0 {
        return Ok(None);
    }
    if range.flags & !KVM_MSR_FILTER_RANGE_VALID_MASK != 0 {
        return Err(EINVAL);
    }
    // In words of 64 bits.
    let bytes = (range.nmsrs.div_ceil(64) as usize).saturating_mul(8);
    if bytes > KVM_MSR_FILTER_MAX_BITMAP_SIZE {
        return Err(EINVAL);
    }
    Ok(Some(bytes))
}

/// Checks a filter as a whole; says whether MSRs in no range are allowed.
///
/// # Errors
///
/// `EINVAL` for unknown flags, a bad range, and for denying everything.
pub fn check(filter: &kvm_msr_filter) -> Result<bool, i32> {
    if filter.flags & !KVM_MSR_FILTER_VALID_MASK != 0 {
        return Err(EINVAL);
    }
    let mut empty = true;
    for range in &filter.ranges {
        empty &= bitmap_bytes(range)?.is_none();
    }
    let allows = filter.flags & KVM_MSR_FILTER_DEFAULT_DENY == 0;
    if empty && !allows {
        return Err(EINVAL);
    }
    Ok(allows)
}

/// May the guest do it? The first range that is about the access decides.
/// The APIC's registers are never filtered.
pub fn allows<B: Deref<Target = [u8]>>(
    default: bool,
    ranges: &[Range<B>],
    index: u32,
    direction: Direction,
) -> bool {
    if (X2APIC_FIRST..=X2APIC_LAST).contains(&index) {
        return true;
    }
    ranges
        .iter()
        .find_map(|range| range.verdict(index, direction))
        .unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(flags: u32, base: u32, count: u32, bitmap: Vec<u8>) -> Range<Vec<u8>> {
        Range {
            flags,
            base,
            count,
            bitmap,
        }
    }

    #[test]
    fn the_first_fitting_range_decides() {
        let ranges = [
            range(KVM_MSR_FILTER_READ, 0x10, 4, vec![0b0101]),
            range(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 0x12, 4, vec![0]),
        ];
        let allowed = |index, direction| allows(true, &ranges, index, direction);
        assert!(allowed(0x10, Direction::Read));
        assert!(!allowed(0x11, Direction::Read));
        assert!(allowed(0x12, Direction::Read), "the second does not count");
        assert!(!allowed(0x12, Direction::Write));
        assert!(allowed(0x10, Direction::Write), "no range for it");
        assert!(!allowed(0x15, Direction::Read));
        assert!(allowed(0x16, Direction::Read));
        assert!(allowed(0xf, Direction::Read));
        assert!(!allows(false, &ranges, 0x16, Direction::Read));
    }

    #[test]
    fn the_apic_is_never_filtered() {
        let none: [Range<Vec<u8>>; 0] = [];
        assert!(allows(false, &none, 0x800, Direction::Write));
        assert!(allows(false, &none, 0x8ff, Direction::Read));
        assert!(!allows(false, &none, 0x900, Direction::Read));
    }

    #[test]
    fn filters_are_checked() {
        let mut filter = kvm_msr_filter::default();
        assert_eq!(check(&filter), Ok(true));
        filter.flags = KVM_MSR_FILTER_DEFAULT_DENY;
        assert_eq!(check(&filter), Err(EINVAL), "denies all");
        filter.ranges[3].nmsrs = 65;
        filter.ranges[3].flags = KVM_MSR_FILTER_WRITE;
        assert_eq!(check(&filter), Ok(false));
        assert_eq!(bitmap_bytes(&filter.ranges[3]), Ok(Some(16)));
        filter.ranges[3].flags = 4;
        assert_eq!(check(&filter), Err(EINVAL));
        filter.ranges[3].flags = 0;
        filter.ranges[3].nmsrs = 0x600 * 8;
        assert_eq!(check(&filter), Ok(false));
        filter.ranges[3].nmsrs += 1;
        assert_eq!(check(&filter), Err(EINVAL));
        filter.ranges[3].nmsrs = u32::MAX;
        assert_eq!(check(&filter), Err(EINVAL));
        filter.flags = 2;
        assert_eq!(check(&filter), Err(EINVAL));
    }

    proptest! {
        #[test]
        fn a_bit_is_an_msr(base: u32, count in 1u32..200, bits: u64, index: u32) {
            let bitmap = bits.to_le_bytes().repeat(4);
            let ranges = [range(KVM_MSR_FILTER_READ, base, count, bitmap)];
            for near in [index, base, base.wrapping_add(index % 256)] {
                if (0x800..0x900).contains(&near) {
                    continue;
                }
                let inside = near >= base && u64::from(near) < u64::from(base) + u64::from(count);
                let bit = bits >> (near.wrapping_sub(base) % 64) & 1 != 0;
                prop_assert_eq!(
                    allows(true, &ranges, near, Direction::Read),
                    !inside || bit
                );
            }
        }
    }
}
