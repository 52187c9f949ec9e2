// SPDX-License-Identifier: GPL-2.0

//! Virtual-processor identifiers: they keep one vCPU's translations apart from
//! another's, so that none is dropped at entries and exits (SDM vol. 3, 29.4).
//!
//! An identifier that comes back into use may still have translations of its
//! last owner in some CPU's TLB; a vCPU flushes when it comes to a CPU.

use super::cpu::Shared;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// Identifiers there are: 0 is the host's own.
const COUNT: usize = 1 << 16;

/// The identifiers in use.
pub(super) struct Vpids(KVec<AtomicU64>);

impl Vpids {
    /// All are free but 0.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        let mut words = KVec::with_capacity(COUNT / 64, GFP_KERNEL)?;
        for index in 0..COUNT / 64 {
            words.push(AtomicU64::new(u64::from(index == 0)), GFP_KERNEL)?;
        }
        Ok(Self(words))
    }

    /// One that nobody uses. `None` when all are in use: the vCPU runs without.
    fn allocate(&self) -> Option<u16> {
        for (index, word) in self.0.iter().enumerate() {
            let mut old = word.load(Ordering::Relaxed);
            while old != u64::MAX {
                let bit = old.trailing_ones();
                let new = old | 1_u64.wrapping_shl(bit);
                match word.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return u16::try_from(index * 64 + bit as usize).ok(),
                    Err(now) => old = now,
                }
            }
        }
        None
    }

    /// Gives one back.
    fn free(&self, vpid: u16) {
        if let Some(word) = self.0.get(usize::from(vpid) / 64) {
            word.fetch_and(!(1 << (vpid % 64)), Ordering::Relaxed);
        }
    }
}

/// The identifier of one vCPU, if the processor knows such things and one was
/// free.
pub(super) struct Vpid {
    number: Option<u16>,
    shared: &'static Shared,
}

impl Vpid {
    /// One for a new vCPU.
    pub(super) fn allocate(shared: &'static Shared) -> Self {
        let has_vpid = shared.controls.has_vpid();
        Self {
            number: has_vpid.then(|| shared.vpids.allocate()).flatten(),
            shared,
        }
    }

    /// The number.
    pub(super) fn number(&self) -> Option<u16> {
        self.number
    }
}

impl Drop for Vpid {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.vpids.free(number);
        }
    }
}
