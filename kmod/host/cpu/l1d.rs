// SPDX-License-Identifier: GPL-2.0

//! L1 terminal fault: a guest reads what is in the first-level data cache,
//! whatever its page tables say. Where the processor has that error and the
//! kernel's policy (`l1tf=`) asks for it, the cache is flushed before the guest
//! runs: each time other code than the inner loop has run, or each time.

use super::bindings;
use super::boot_cpu_has;
use super::wrmsr_safe;
use super::Feature;
use crate::host::page::HostPages;
use crate::pc::addr::PAGE_SIZE;
use core::arch::asm;
use kernel::prelude::*;

/// Log2 of the pages that displace everything in the cache: 64 KiB, more than
/// any affected processor has.
const BUFFER_ORDER: u32 = 4;

/// Bytes of a cache line.
const LINE: usize = 64;

const MSR_FLUSH_CMD: u32 = 0x10b;
const L1D_FLUSH: u64 = 1 << 0;

/// Flushes the cache, where the processor can by a command.
pub fn flush_l1d() {
    // SAFETY: The register has no state: a flush only costs time.
    let _ = unsafe { wrmsr_safe(MSR_FLUSH_CMD, L1D_FLUSH) };
}

/// When the cache is flushed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// The processor does not need it, or the kernel was told not to.
    Never,
    /// When the host has run other code than the loop around the guest.
    Conditional,
    /// Before each entry.
    Always,
}

/// How the cache is flushed, and when. While there is one, the kernel shows the
/// policy to the user as ours.
pub struct L1dFlush {
    policy: Policy,
    /// For processors without the command.
    buffer: Option<HostPages>,
}

impl L1dFlush {
    /// As the kernel and the processor want it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        // SAFETY: Reads variables of the kernel that are set at boot, and sets the
        // one that is the hypervisor's.
        let policy = match unsafe { bindings::iv_l1tf_policy() } {
            0 => Policy::Never,
            1 => Policy::Conditional,
            _ => Policy::Always,
        };
        let by_hand = policy != Policy::Never && !boot_cpu_has(Feature::FLUSH_L1D);
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
    pub fn on_load(&self) {
        if self.policy == Policy::Conditional {
            self.flush();
        }
    }

    /// Whether each entry is to be preceded by [`Self::flush`].
    #[inline]
    pub fn at_each_entry(&self) -> bool {
        self.policy == Policy::Always
    }

    /// Flushes it.
    #[cold]
    pub fn flush(&self) {
        let Some(buffer) = &self.buffer else {
            flush_l1d();
            return;
        };
        // Translations first, so that the second pass only loads lines.
        touch(buffer, PAGE_SIZE as usize);
        touch(buffer, LINE);
    }
}

impl Drop for L1dFlush {
    fn drop(&mut self) {
        // SAFETY: Sets the variable that is the hypervisor's.
        unsafe { bindings::iv_l1tf_policy_ends() };
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
