// SPDX-License-Identifier: GPL-2.0

//! Which MSRs a guest reaches without an exit, and where the MSR bitmap has them:
//! SDM vol. 3, 25.6.9. A wrong bit would give the guest an MSR of the host's.

use crate::pc::msr::index;

/// MSRs the guest reads and writes without an exit: those of its own that entries
/// and exits switch, or this module does. A value that is not canonical faults in
/// the guest itself.
pub const PASSED_THROUGH: [u32; 6] = [
    index::SYSENTER_CS,
    index::SYSENTER_ESP,
    index::SYSENTER_EIP,
    index::FS_BASE,
    index::GS_BASE,
    index::KERNEL_GS_BASE,
];

/// Kinds of accesses: a half of the bitmap each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

/// Where a set bit makes this access exit: offset of the byte, and the bit in it
/// as a mask. `None` for an MSR that the bitmap does not have: it always exits.
pub const fn place(msr: u32, access: Access) -> Option<(usize, u8)> {
    /// Bytes for the MSRs of one range.
    const RANGE: usize = 0x400;
    let (range, nth) = match msr {
        0..=0x1fff => (0, msr),
        0xc000_0000..=0xc000_1fff => (RANGE, msr & 0x1fff),
        _ => return None,
    };
    let half = match access {
        Access::Read => 0,
        Access::Write => 2 * RANGE,
    };
    Some((half + range + (nth / 8) as usize, 1 << (nth % 8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners() {
        use Access::{Read, Write};
        for (msr, access, offset, mask) in [
            (0, Read, 0, 1),
            (0x1fff, Read, 0x3ff, 0x80),
            (0xc000_0000, Read, 0x400, 1),
            (0xc000_1fff, Read, 0x7ff, 0x80),
            (0, Write, 0x800, 1),
            (0x1fff, Write, 0xbff, 0x80),
            (0xc000_0000, Write, 0xc00, 1),
            (0xc000_1fff, Write, 0xfff, 0x80),
            // SYSENTER_ESP, KERNEL_GS_BASE.
            (0x175, Read, 0x2e, 0x20),
            (0xc000_0102, Write, 0xc20, 4),
        ] {
            assert_eq!(place(msr, access), Some((offset, mask)), "{msr:#x}");
        }
    }

    #[test]
    fn no_two_share_a_bit() {
        let mut taken = vec![0u8; 4096];
        for msr in (0..=0x1fff).chain(0xc000_0000..=0xc000_1fff) {
            for access in [Access::Read, Access::Write] {
                let (offset, mask) = place(msr, access).unwrap();
                assert_eq!(taken[offset] & mask, 0, "{msr:#x}");
                taken[offset] |= mask;
            }
        }
        assert!(taken.iter().all(|byte| *byte == 0xff));
    }

    #[test]
    fn others_always_exit() {
        for msr in [0x2000, 0xbfff_ffff, 0xc000_2000, 0x4000_0000, u32::MAX] {
            assert_eq!(place(msr, Access::Read), None);
            assert_eq!(place(msr, Access::Write), None);
        }
    }

    /// By number, so that none comes in unnoticed.
    #[test]
    fn what_guests_reach() {
        let mut passed = PASSED_THROUGH;
        passed.sort_unstable();
        assert_eq!(
            passed,
            [0x174, 0x175, 0x176, 0xc000_0100, 0xc000_0101, 0xc000_0102]
        );
    }
}
