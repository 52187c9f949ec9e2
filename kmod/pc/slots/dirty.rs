// SPDX-License-Identifier: GPL-2.0

//! Dirty bitmaps: one bit per frame of a slot, in words of 64 bits as
//! `KVM_GET_DIRTY_LOG` hands them out.
//!
//! The words themselves are atomics of the module's; this is what to do with
//! which.

use super::Slot;
use crate::uapi::errno::{EINVAL, ENOENT};
use crate::uapi::kvm_clear_dirty_log;

/// Frames per word.
pub const WORD_BITS: u64 = 64;

/// Words of the bitmap of a slot with so many pages.
#[inline]
pub const fn words(pages: u64) -> u64 {
    pages.div_ceil(WORD_BITS)
}

/// Bytes of the bitmap, as userspace sees it.
#[inline]
pub const fn bytes(pages: u64) -> u64 {
    words(pages).saturating_mul(WORD_BITS / 8)
}

/// The word of a frame, and its bit there.
#[inline]
pub const fn position(index: u64) -> (u64, u64) {
    (index / WORD_BITS, 1 << (index % WORD_BITS))
}

/// The bits of word `word` that stand for frames `first..first + count`.
#[inline]
pub const fn mask(word: u64, first: u64, count: u64) -> u64 {
    let start = word.saturating_mul(WORD_BITS);
    let end = start.saturating_add(WORD_BITS);
    let low = if first > start { first } else { start };
    let last = first.saturating_add(count);
    let high = if last < end { last } else { end };
    if low >= high {
        return 0;
    }
    let length = high.wrapping_sub(low);
    let ones = if length >= WORD_BITS {
        !0
    } else {
        (1 << length) - 1
    };
    ones << (low % WORD_BITS)
}

/// The words that have bits of frames `first..first + count`, each with
/// those bits.
pub fn masks(first: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = if count == 0 {
        0
    } else {
        words(first.saturating_add(count))
    };
    (first / WORD_BITS..end).map(move |word| (word, mask(word, first, count)))
}

/// The indices of the frames whose bits are set in word `word`.
pub fn frames(word: u64, mut bits: u64) -> impl Iterator<Item = u64> {
    let start = word.saturating_mul(WORD_BITS);
    core::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let bit = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        Some(start.saturating_add(u64::from(bit)))
    })
}

/// The runs of set bits of a word as (lowest bit, length).
pub fn runs(mut bits: u64) -> impl Iterator<Item = (u32, u32)> {
    core::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let low = bits.trailing_zeros();
        let length = (bits >> low).trailing_ones();
        let ones = u64::MAX
            .checked_shr(64u32.wrapping_sub(length))
            .unwrap_or(0);
        bits &= !(ones << low);
        Some((low, length))
    })
}

/// A checked `KVM_CLEAR_DIRTY_LOG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clear {
    /// First word of the slot's bitmap.
    pub first_word: u64,
    /// Words to read from userspace.
    pub words: u64,
    /// Frames; the bits behind them are to be ignored.
    pub pages: u64,
}

impl Clear {
    /// The bits that count in the `nth` word read from userspace.
    #[inline]
    pub const fn mask(&self, nth: u64) -> u64 {
        mask(nth, 0, self.pages)
    }
}

/// Checks a `KVM_CLEAR_DIRTY_LOG` (API document 4.116) for a slot that was
/// found by the number in it, or was not.
///
/// # Errors
///
/// `EINVAL` when the first page is not a multiple of 64, when the range
/// leaves the slot, or when its length is no multiple of 64 and it does not
/// end with the slot; `ENOENT` without such a slot or without a log.
pub fn clear(slot: Option<&Slot>, request: &kvm_clear_dirty_log) -> Result<Clear, i32> {
    if request.first_page % WORD_BITS != 0 {
        return Err(EINVAL);
    }
    let slot = slot.filter(|slot| slot.logs_dirty()).ok_or(ENOENT)?;
    let pages = u64::from(request.num_pages);
    let room = slot.pages.checked_sub(request.first_page).ok_or(EINVAL)?;
    if pages > room || (pages < room && pages % WORD_BITS != 0) {
        return Err(EINVAL);
    }
    Ok(Clear {
        first_word: request.first_page / WORD_BITS,
        words: words(pages),
        pages,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::addr::{Gfn, Hva};
    use super::*;
    use crate::uapi::KVM_MEM_LOG_DIRTY_PAGES;
    use proptest::prelude::*;

    fn slot(pages: u64, flags: u32) -> Slot {
        Slot {
            base: Gfn(0),
            pages,
            hva: Hva(0x1000),
            flags,
            id: 0,
        }
    }

    fn request(first_page: u64, num_pages: u32) -> kvm_clear_dirty_log {
        kvm_clear_dirty_log {
            first_page,
            num_pages,
            ..Default::default()
        }
    }

    #[test]
    fn sizes_are_those_userspace_allocates() {
        assert_eq!((words(1), bytes(1)), (1, 8));
        assert_eq!((words(64), bytes(64)), (1, 8));
        assert_eq!((words(65), bytes(65)), (2, 16));
    }

    #[test]
    fn clear_follows_the_document() {
        let logged = slot(200, KVM_MEM_LOG_DIRTY_PAGES);
        let check = |first, count| clear(Some(&logged), &request(first, count));
        assert_eq!(
            check(64, 64),
            Ok(Clear {
                first_word: 1,
                words: 1,
                pages: 64
            })
        );
        assert_eq!(
            check(128, 72),
            Ok(Clear {
                first_word: 2,
                words: 2,
                pages: 72
            })
        );
        assert_eq!(check(0, 0).map(|clear| clear.words), Ok(0));
        assert_eq!(check(1, 64), Err(EINVAL));
        assert_eq!(check(128, 73), Err(EINVAL));
        assert_eq!(check(64, 65), Err(EINVAL));
        assert_eq!(check(256, 0), Err(EINVAL));
        assert_eq!(check(0, u32::MAX), Err(EINVAL));
        assert_eq!(
            clear(Some(&slot(200, 0)), &request(0, 200)).unwrap_err(),
            ENOENT
        );
        assert_eq!(clear(None, &request(0, 200)).unwrap_err(), ENOENT);
        assert_eq!(clear(None, &request(7, 200)).unwrap_err(), EINVAL);
    }

    #[test]
    fn the_last_word_of_a_clear_counts_in_part() {
        let clear = Clear {
            first_word: 2,
            words: 2,
            pages: 72,
        };
        assert_eq!(clear.mask(0), !0);
        assert_eq!(clear.mask(1), 0xff);
        assert_eq!(clear.mask(2), 0);
    }

    proptest! {
        #[test]
        fn masks_cover_exactly_the_range(first in 0u64..1000, count in 0u64..400) {
            let mut found: Vec<u64> = Vec::new();
            for (word, bits) in masks(first, count) {
                prop_assert_ne!(bits, 0);
                found.extend(frames(word, bits));
            }
            prop_assert_eq!(found, (first..first + count).collect::<Vec<_>>());
        }

        #[test]
        fn positions_agree_with_masks(index in 0u64..u64::MAX / 2) {
            let (word, bit) = position(index);
            prop_assert_eq!(mask(word, index, 1), bit);
        }

        #[test]
        fn runs_cover_exactly_the_bits(bits: u64) {
            let mut rebuilt = 0u64;
            let mut next = 0;
            for (low, length) in runs(bits) {
                prop_assert!(low >= next && length > 0);
                next = low + length + 1; // runs are maximal
                for bit in low..low + length {
                    rebuilt |= 1 << bit;
                }
            }
            prop_assert_eq!(rebuilt, bits);
        }
    }
}
