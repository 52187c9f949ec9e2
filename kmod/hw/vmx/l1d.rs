// SPDX-License-Identifier: GPL-2.0

//! L1 terminal fault: a guest reads what is in the first-level data cache,
//! whatever its page tables say. Where the processor has that error and the
//! kernel's policy (`l1tf=`) asks for it, the cache is flushed before the guest
//! runs: each time other code than the inner loop has run, or each time.

use crate::host::cpu;
use crate::host::cpu::L1tf;
use crate::host::page::HostPages;
use crate::pc::addr::PAGE_SIZE;
use core::arch::asm;
use kernel::prelude::*;

/// Log2 of the pages that displace everything in the cache: 64 KiB, more than
/// any affected processor has.
const BUFFER_ORDER: u32 = 4;

/// Bytes of a cache line.
const LINE: usize = 64;

/// How the cache is flushed, and when.
pub(super) struct L1dFlush {
    policy: L1tf,
    /// For processors without the command.
    buffer: Option<HostPages>,
}

impl L1dFlush {
    /// As the kernel and the processor want it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        let policy = cpu::l1tf_policy();
        let by_hand = policy != L1tf::Never && !cpu::boot_cpu_has(cpu::Feature::FLUSH_L1D);
        let mut flush = Self {
            policy,
            buffer: None,
        };
        if by_hand {
            flush.buffer = Some(HostPages::alloc(BUFFER_ORDER)?);
        }
        Ok(flush)
    }

    /// Other code than the inner loop has run.
    #[inline]
    pub(super) fn on_load(&self) {
        if self.policy == L1tf::Conditional {
            self.flush();
        }
    }

    /// Whether each entry is to be preceded by [`Self::flush`].
    #[inline]
    pub(super) fn at_each_entry(&self) -> bool {
        self.policy == L1tf::Always
    }

    /// Flushes it.
    #[cold]
    pub(super) fn flush(&self) {
        let Some(buffer) = &self.buffer else {
            cpu::flush_l1d();
            return;
        };
        // Translations first, so that the second pass only loads lines.
        touch(buffer, PAGE_SIZE as usize);
        touch(buffer, LINE);
    }
}

impl Drop for L1dFlush {
    fn drop(&mut self) {
        cpu::l1tf_policy_ends();
    }
}

/// Reads a byte of the buffer every `step` bytes.
fn touch(buffer: &HostPages, step: usize) {
    let start = buffer.as_ptr();
    for offset in (0..buffer.len()).step_by(step) {
        // SAFETY: The buffer has more bytes; reading them has no effect.
        unsafe { start.wrapping_add(offset).read_volatile() };
    }
    // No later load comes before these.
    // SAFETY: A barrier.
    unsafe { asm!("lfence", options(nostack, preserves_flags)) };
}
