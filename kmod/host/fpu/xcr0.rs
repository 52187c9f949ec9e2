// SPDX-License-Identifier: GPL-2.0

//! XCR0: which extended states are enabled (SDM vol. 1, 13.3).

use crate::host::cpu::boot_cpu_has;
use crate::host::cpu::xgetbv0;
use crate::host::cpu::xsetbv0;
use crate::host::cpu::Feature;
use crate::host::task::IrqOff;

const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const MPX: u64 = 0b11 << 3;
const AVX512: u64 = 0b111 << 5;
const PKRU: u64 = 1 << 9;
const AMX: u64 = 0b11 << 17;

/// A value that this processor takes in XCR0.
///
/// # Invariants
///
/// It has no more than the host's XCR0 and keeps the rules by which the
/// components depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xcr0(u64);

impl Xcr0 {
    /// After RESET: x87 alone.
    pub const RESET: Self = Self(X87);

    /// `value`, if the processor takes it and the host, whose own value is
    /// given, has enabled all of it.
    pub fn new(value: u64, host: Self) -> Option<Self> {
        // INVARIANT: Checked.
        (value & !host.0 == 0 && consistent(value)).then_some(Self(value))
    }

    /// The host's; `None` when it does not use XSAVE. Not to be asked while a
    /// guest's is loaded.
    pub fn host() -> Option<Self> {
        // INVARIANT: It is what the processor has now.
        boot_cpu_has(Feature::OSXSAVE).then(|| Self(xgetbv0()))
    }

    /// XSAVE and XRSTOR reach PKRU.
    #[inline]
    pub const fn has_pkru(self) -> bool {
        self.0 & PKRU != 0
    }

    /// The bits.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Makes this the processor's, where `now` is it; for around an entry into
    /// the guest. The host's has to be back before interrupts are on.
    #[inline]
    pub fn switch_from(self, now: Self, off: &IrqOff) {
        if self == now {
            return;
        }
        // SAFETY: By the type invariant the processor takes the value; the
        // caller switches back before interrupts are on.
        unsafe { xsetbv0(off, self.0) };
    }
}

/// Whether the components that `value` enables go together.
const fn consistent(value: u64) -> bool {
    let avx_without_sse = value & AVX != 0 && value & SSE == 0;
    let half_of_mpx = value & MPX != 0 && value & MPX != MPX;
    let half_of_avx512 = value & AVX512 != 0 && value & (AVX512 | AVX) != AVX512 | AVX;
    let half_of_amx = value & AMX != 0 && value & AMX != AMX;
    value & X87 != 0 && !avx_without_sse && !half_of_mpx && !half_of_avx512 && !half_of_amx
}
