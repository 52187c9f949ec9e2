// SPDX-License-Identifier: GPL-2.0

//! TSC_AUX, which RDTSCP and RDPID read: on each CPU its number, for getcpu, unless
//! a guest runs there that has its own.

use super::boot_cpu_has;
use super::rdmsr;
use super::wrmsr;
use super::Feature;
use crate::host::task::IrqOff;
use crate::pc::msr::index::TSC_AUX;

/// TSC_AUX while one vCPU runs.
#[derive(Default)]
pub struct TscAux {
    /// The guest can read it.
    pub is_read: bool,
    /// The host's on this CPU, if there is such a register.
    host: Option<u64>,
    loaded: bool,
}

impl TscAux {
    /// The vCPU is on another CPU than before.
    pub fn moved(&mut self, _off: &IrqOff) {
        let exists = boot_cpu_has(Feature::RDTSCP) || boot_cpu_has(Feature::RDPID);
        self.host = exists.then(|| rdmsr(TSC_AUX));
    }

    /// The processor gets the guest's.
    #[inline]
    pub fn load(&mut self, _off: &IrqOff, guest: u64) {
        if self.is_read && self.host.is_some_and(|host| host != guest) {
            self.loaded = true;
            // SAFETY: Only RDTSCP and RDPID read it; `unload` puts the host's back.
            unsafe { wrmsr(TSC_AUX, guest) };
        }
    }

    /// The processor gets the host's again.
    #[inline]
    pub fn unload(&mut self, _off: &IrqOff) {
        if let (true, Some(host)) = (self.loaded, self.host) {
            self.loaded = false;
            // SAFETY: The value is the host's own.
            unsafe { wrmsr(TSC_AUX, host) };
        }
    }
}
