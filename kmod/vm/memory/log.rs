// SPDX-License-Identifier: GPL-2.0

//! What a slot with a dirty log has: a bit for each of its frames.

use crate::host::mm::cond_resched;
use crate::pc::slots::dirty;
use core::sync::atomic::fence;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// One bit per frame of a slot.
pub(super) struct DirtyLog {
    pub(super) words: KVVec<AtomicU64>,
}

impl DirtyLog {
    /// A log for so many frames, with no bit set or with all. May sleep.
    pub(super) fn new(pages: u64, set: bool) -> Result<Self> {
        let count = dirty::words(pages);
        let len = usize::try_from(count).map_err(|_| ENOMEM)?;
        let mut words = KVVec::with_capacity(len, GFP_KERNEL_ACCOUNT)?;
        for word in 0..count {
            let bits = if set { dirty::mask(word, 0, pages) } else { 0 };
            words.push_within_capacity(AtomicU64::new(bits))?;
            if word % 65536 == 65535 {
                cond_resched();
            }
        }
        Ok(Self { words })
    }

    /// Sets the bit of frame `index`.
    #[inline]
    pub(super) fn mark(&self, index: u64) {
        let (word, bit) = dirty::position(index);
        let Some(word) = usize::try_from(word).ok().and_then(|at| self.words.get(at)) else {
            return;
        };
        // The write comes before the look at the bit; whoever clears the bit
        // lets userspace read after that.
        fence(Ordering::SeqCst);
        // A page is written many times for each time it is collected.
        if word.load(Ordering::SeqCst) & bit == 0 {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }
}
