// SPDX-License-Identifier: GPL-2.0

//! The page-modification log: SDM vol. 3, 29.3.6.
//!
//! One page of 512 entries. The processor fills it from the last entry to the
//! first with the addresses of pages whose EPT leaf it makes dirty; the PML index
//! is that of the next. When there is none left the guest exits before the write.

use crate::pc::addr::Gfn;
use crate::pc::addr::Gpa;

/// Entries of the log.
const ENTRIES: u16 = 512;

/// The index of an empty log.
pub const EMPTY: u16 = ENTRIES - 1;

/// Bytes of an entry.
const ENTRY: usize = 8;

/// The frames in the log, given the PML index after an exit. `read` gives the
/// 8 bytes at an offset in the page.
#[inline]
pub fn frames(index: u16, read: impl Fn(usize) -> Option<u64>) -> impl Iterator<Item = Gfn> {
    // A full log has the index count below 0.
    let first = if index < ENTRIES {
        index.wrapping_add(1)
    } else {
        0
    };
    (first..ENTRIES)
        .filter_map(move |nth| read(usize::from(nth).wrapping_mul(ENTRY)))
        .map(|entry| Gpa(entry).gfn())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(index: u16) -> Vec<u64> {
        let page = |offset: usize| (offset <= 4088).then_some((offset as u64 / 8) << 12);
        frames(index, page).map(|gfn| gfn.0).collect()
    }

    #[test]
    fn an_empty_log_has_nothing() {
        assert_eq!(found(EMPTY), []);
    }

    #[test]
    fn entries_are_behind_the_index() {
        assert_eq!(found(510), [511]);
        assert_eq!(found(508), [509, 510, 511]);
        assert_eq!(found(0), (1..512).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_log_has_all() {
        assert_eq!(found(0xffff), (0..512).collect::<Vec<_>>());
        // No processor leaves such an index; the page is read all the same.
        assert_eq!(found(512).len(), 512);
    }

    #[test]
    fn what_is_below_a_page_is_not_looked_at() {
        let frames: Vec<_> = frames(510, |_| Some(0x1234_5fff)).collect();
        assert_eq!(frames, [Gfn(0x1_2345)]);
    }
}
