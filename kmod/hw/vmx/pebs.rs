// SPDX-License-Identifier: GPL-2.0

//! PEBS of the host while a guest runs: perf has the processor itself write
//! records of what it samples (SDM vol. 3, 21.6.2.4).
//!
//! It writes them at linear addresses, which are the guest's then: so PEBS is
//! off. So are the counters it is on for: one that overflows without PEBS is not
//! loaded again, and samples nothing more before it has counted all its range.
//!
//! An NMI that ends the guest's run may be perf's. Its handler finds everything as
//! perf has left it, and what it leaves is taken away again: it switches all
//! counters on, and PEBS off for those that sample too much. An NMI between two runs
//! finds PEBS off, and may switch some of it on: each entry looks while PEBS is in use.

use crate::host::cpu;

const MSR_PEBS_ENABLE: u32 = 0x3f1;
const MSR_PERF_GLOBAL_CTRL: u32 = 0x38f;
const MSR_PERF_CAPABILITIES: u32 = 0x345;
/// PERF_CAPABILITIES: PEBS_ENABLE has a bit for each counter, where
/// PERF_GLOBAL_CTRL has it.
const CAPABILITIES_BASELINE: u64 = 1 << 14;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_NO_PEBS: u64 = 1 << 12;

/// Counters in PEBS_ENABLE: the others may say how those sample.
const GENERAL_COUNTERS: u64 = 0xff;
/// With [`CAPABILITIES_BASELINE`].
const ALL_COUNTERS: u64 = 0xffff_ffff_ffff;

/// CPUID.1:EDX, the debug store, of which PEBS is a part.
const EDX_DEBUG_STORE: u32 = 1 << 21;

/// The counters that PEBS can be on for; none if the processor does not have it.
pub(super) fn counters() -> u64 {
    let exists = cpu::cpuid(1, 0).edx & EDX_DEBUG_STORE != 0
        && cpu::rdmsr_safe(MSR_MISC_ENABLE).is_ok_and(|misc| misc & MISC_ENABLE_NO_PEBS == 0)
        && cpu::rdmsr_safe(MSR_PEBS_ENABLE).is_ok()
        && cpu::rdmsr_safe(MSR_PERF_GLOBAL_CTRL).is_ok();
    if !exists {
        return 0;
    }
    match cpu::rdmsr_safe(MSR_PERF_CAPABILITIES) {
        Ok(capabilities) if capabilities & CAPABILITIES_BASELINE != 0 => ALL_COUNTERS,
        _ => GENERAL_COUNTERS,
    }
}

/// The host's PEBS, while it is off for a guest.
#[derive(Default)]
pub(super) struct Pebs {
    /// As [`counters`] says.
    counters: u64,
    /// PEBS_ENABLE of the host.
    enabled: u64,
    /// PERF_GLOBAL_CTRL of the host, if PEBS is in use.
    running: u64,
}

impl Pebs {
    /// `counters`: as [`counters`] says.
    pub(super) fn new(counters: u64) -> Self {
        Self {
            counters,
            ..Self::default()
        }
    }

    /// Before the first entry. True when the host uses it: each entry has to look
    /// then.
    #[inline]
    pub(super) fn load(&mut self) -> bool {
        if self.counters == 0 {
            return false;
        }
        let enabled = cpu::rdmsr(MSR_PEBS_ENABLE);
        if enabled != 0 {
            self.enabled = enabled;
            self.running = cpu::rdmsr(MSR_PERF_GLOBAL_CTRL);
            self.stop();
        }
        enabled != 0
    }

    /// Before each entry while the host uses it.
    #[cold]
    pub(super) fn look(&mut self) {
        let enabled = cpu::rdmsr(MSR_PEBS_ENABLE);
        let running = cpu::rdmsr(MSR_PERF_GLOBAL_CTRL);
        if enabled == 0 && running & self.enabled & self.counters == 0 {
            return;
        }
        if enabled != 0 {
            self.enabled = enabled;
        }
        self.running |= running;
        self.stop();
    }

    /// After the last exit. True when the host uses it.
    #[inline]
    pub(super) fn unload(&mut self) -> bool {
        let used = self.enabled != 0;
        if used {
            self.give_back();
        }
        used
    }

    /// Has the host handle an NMI that has ended the guest's run. What
    /// [`Pebs::load`] says.
    pub(super) fn around(&mut self, handle: impl FnOnce()) -> bool {
        self.unload();
        handle();
        self.load()
    }

    #[cold]
    fn stop(&mut self) {
        let others = self.running & !(self.enabled & self.counters);
        // SAFETY: The host's are back after the guest's run. The counters come
        // first: none overflows without PEBS.
        unsafe {
            cpu::wrmsr(MSR_PERF_GLOBAL_CTRL, others);
            cpu::wrmsr(MSR_PEBS_ENABLE, 0);
        }
    }

    #[cold]
    fn give_back(&mut self) {
        // Unless an NMI has had it switched since.
        let switched = cpu::rdmsr(MSR_PEBS_ENABLE) != 0;
        // SAFETY: The values are the host's own.
        unsafe {
            if !switched {
                cpu::wrmsr(MSR_PEBS_ENABLE, self.enabled);
            }
            cpu::wrmsr(MSR_PERF_GLOBAL_CTRL, self.running);
        }
        self.enabled = 0;
    }
}
