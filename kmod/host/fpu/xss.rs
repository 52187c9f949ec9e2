// SPDX-License-Identifier: GPL-2.0

//! IA32_XSS: which supervisor states XSAVES and XRSTORS touch (SDM vol. 1,
//! 13.3). Guests are given none, but on AMD they can execute both instructions
//! whatever their CPUID says, and would then reach the host's states.

use crate::host::cpu::boot_cpu_has;
use crate::host::cpu::rdmsr_safe;
use crate::host::cpu::wrmsr_safe;
use crate::host::cpu::Feature;
use crate::host::task::IrqOff;

const MSR_IA32_XSS: u32 = 0xda0;

/// The host's supervisor states.
#[derive(Clone, Copy, Debug)]
pub struct HostXss(u64);

impl HostXss {
    /// The host's; none where the processor has no XSAVES.
    pub fn read() -> Self {
        if !boot_cpu_has(Feature::XSAVES) {
            return Self(0);
        }
        Self(rdmsr_safe(MSR_IA32_XSS).unwrap_or(0))
    }

    /// No supervisor states, for a guest; [`HostXss::restore`] follows before
    /// interrupts are on.
    #[inline]
    pub fn clear(self, _off: &IrqOff) {
        if self.0 != 0 {
            // SAFETY: Zero is always valid, and the kernel saves no states with
            // interrupts off here.
            let _ = unsafe { wrmsr_safe(MSR_IA32_XSS, 0) };
        }
    }

    /// The host's states again.
    #[inline]
    pub fn restore(self, _off: &IrqOff) {
        if self.0 != 0 {
            // SAFETY: The host's own value.
            let _ = unsafe { wrmsr_safe(MSR_IA32_XSS, self.0) };
        }
    }
}
