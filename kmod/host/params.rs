// SPDX-License-Identifier: GPL-2.0

//! Module parameters: `/sys/module/kvm/parameters/`.
//!
//! The names are those of the kernel's own KVM that programs look at. Those
//! that only say what the module does cannot be set to anything else.
//!
//! Context: any.

use super::bindings;

/// A guest's access to an MSR that does not exist reads 0 and writes nothing,
/// instead of raising #GP (`ignore_msrs`, off).
#[inline]
pub fn ignore_msrs() -> bool {
    // SAFETY: Reads a variable.
    unsafe { bindings::iv_param_ignore_msrs() }
}

/// Accesses that [`ignore_msrs`] lets pass are logged (`report_ignored_msrs`,
/// on).
#[inline]
pub fn report_ignored_msrs() -> bool {
    // SAFETY: Reads a variable.
    unsafe { bindings::iv_param_report_ignored_msrs() }
}

/// The processor's list of pages written serves the dirty log (`pml`, on).
#[inline]
pub fn pml() -> bool {
    // SAFETY: Reads a variable.
    unsafe { bindings::iv_param_pml() }
}

/// Processors keep local APICs of guests and deliver their interrupts
/// (`enable_apicv`, on).
pub fn apicv() -> bool {
    // SAFETY: Reads a variable.
    unsafe { bindings::iv_param_apicv() }
}

/// The processor ends a guest's run when its timer expires (`preemption_timer`,
/// on).
pub fn preemption_timer() -> bool {
    // SAFETY: Reads a variable.
    unsafe { bindings::iv_param_preemption_timer() }
}

/// After how many PAUSEs a guest's run ends.
#[derive(Clone, Copy, Default)]
pub struct PauseFilter {
    /// So many (`pause_filter_count`, 3000). 0: they are not counted.
    pub count: u16,
    /// Only those that are at most so many ticks of the TSC apart
    /// (`pause_filter_thresh`, 128), if not 0.
    pub threshold: u16,
}

/// The parameters of SVM's PAUSE filter, which has 16 bits for each.
pub fn pause_filter() -> PauseFilter {
    // SAFETY: Reads variables.
    let (count, threshold) = unsafe {
        (
            bindings::iv_param_pause_filter_count(),
            bindings::iv_param_pause_filter_thresh(),
        )
    };
    PauseFilter {
        count: u16::try_from(count).unwrap_or(u16::MAX),
        threshold: u16::try_from(threshold).unwrap_or(u16::MAX),
    }
}

/// What came of the parameters that ask something of the processor.
#[derive(Default)]
pub struct Settled {
    /// [`pml`], and the processor has such a list.
    pub pml: bool,
    /// [`apicv`], and the processor can.
    pub apicv: bool,
    /// [`preemption_timer`], and the processor can be relied on.
    pub preemption_timer: bool,
    /// Both 0 where the processor does not count PAUSEs.
    pub pause_filter: PauseFilter,
}

/// Has these parameters read as what came of them.
pub fn settle(settled: &Settled) {
    // SAFETY: Writes variables.
    unsafe {
        bindings::iv_param_settle(settled.pml, settled.apicv, settled.preemption_timer);
        let PauseFilter { count, threshold } = settled.pause_filter;
        bindings::iv_param_settle_pause_filter(count.into(), threshold.into());
    }
}

/// PAUSEs of a guest that are at most so many ticks of the TSC apart are in one
/// loop (`ple_gap`, 128). 0: loops are not looked for.
pub fn ple_gap() -> u32 {
    // SAFETY: Reads a variable.
    unsafe { bindings::iv_param_ple_gap() }
}

/// A loop of PAUSEs that has gone on for so many ticks ends the guest's run
/// (`ple_window`, 4096).
pub fn ple_window() -> u32 {
    // SAFETY: Reads a variable.
    unsafe { bindings::iv_param_ple_window() }
}
