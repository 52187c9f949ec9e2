// SPDX-License-Identifier: GPL-2.0

//! Interrupts off, preemption off: as values that end it when dropped.

use core::marker::PhantomData;

/// Witness that this thread stays on its CPU.
///
/// # Safety
///
/// While a value of the type exists, its thread cannot move to another CPU.
pub unsafe trait Pinned {}

/// Interrupts are off on this CPU. Dropped, they are as they were before.
///
/// # Invariants
///
/// Interrupts are off, and the thread is the one that made the value.
pub struct IrqOff {
    were_on: bool,
    // Not `Send`: it belongs to the CPU it was made on.
    _thread: PhantomData<*mut ()>,
}

// SAFETY: A thread with interrupts off is not preempted.
unsafe impl Pinned for IrqOff {}

impl IrqOff {
    /// Turns interrupts off.
    #[inline]
    #[must_use]
    pub fn new() -> Self {
        // INVARIANT: Off from here on.
        Self {
            were_on: save_and_disable(),
            _thread: PhantomData,
        }
    }

    /// As [`IrqOff::new`] where interrupts are on: dropped, they are on.
    #[inline]
    #[must_use]
    pub fn from_on() -> Self {
        disable();
        // INVARIANT: Off from here on.
        Self {
            were_on: true,
            _thread: PhantomData,
        }
    }

    /// Takes the interrupts that are pending, if interrupts were on before this
    /// value was made. The thread may be preempted and come back on another
    /// CPU, so nothing per-CPU may be held over this.
    #[inline]
    pub fn window(&mut self) {
        if !self.were_on {
            return;
        }
        enable_once();
    }
}

impl Drop for IrqOff {
    #[inline]
    fn drop(&mut self) {
        if self.were_on {
            enable();
        }
    }
}

#[cfg(not(CONFIG_TRACE_IRQFLAGS))]
mod raw {
    use core::arch::asm;

    /// The interrupt flag in RFLAGS.
    const IF: usize = 1 << 9;

    #[inline]
    pub(super) fn save_and_disable() -> bool {
        let flags: usize;
        // SAFETY: The kernel may turn interrupts off; `IrqOff` turns them on again.
        unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
        flags & IF != 0
    }

    #[inline]
    pub(super) fn disable() {
        // SAFETY: As above.
        unsafe { asm!("cli", options(nostack)) };
    }

    #[inline]
    pub(super) fn enable() {
        // SAFETY: They were on before.
        unsafe { core::arch::asm!("sti", options(nostack)) };
    }

    #[inline]
    pub(super) fn enable_once() {
        // An interrupt is taken after the instruction that follows STI.
        // SAFETY: They were on before.
        unsafe { core::arch::asm!("sti", "nop", "cli", options(nostack)) };
    }
}

/// With lock debugging the kernel follows each change.
#[cfg(CONFIG_TRACE_IRQFLAGS)]
mod raw {
    use crate::host::bindings;

    pub(super) fn save_and_disable() -> bool {
        // SAFETY: The kernel may turn interrupts off; `IrqOff` turns them on again.
        unsafe { bindings::iv_irq_save() }
    }

    pub(super) fn disable() {
        // SAFETY: As above.
        unsafe { bindings::iv_irq_save() };
    }

    pub(super) fn enable() {
        // SAFETY: They were on before.
        unsafe { bindings::iv_irq_enable() };
    }

    pub(super) fn enable_once() {
        enable();
        // SAFETY: The kernel may turn interrupts off.
        unsafe { bindings::iv_irq_save() };
    }
}

use raw::disable;
use raw::enable;
use raw::enable_once;
use raw::save_and_disable;

/// The count is a variable of the CPU, and without debugging that is all.
#[cfg(all(
    CONFIG_PREEMPTION,
    not(CONFIG_DEBUG_PREEMPT),
    not(CONFIG_TRACE_PREEMPT_TOGGLE)
))]
mod preempt {
    use crate::host::bindings;
    use core::arch::asm;

    #[inline]
    pub(super) fn disable() {
        // SAFETY: Counts; `enable` counts back.
        unsafe {
            asm!(
                "inc dword ptr gs:[rip + {count}]",
                count = sym bindings::__preempt_count,
                options(nostack),
            );
        }
    }

    #[inline]
    pub(super) fn enable() {
        let zero: u8;
        // SAFETY: Counted in `disable`. The count is zero when nothing else
        // keeps preemption off and a reschedule is wanted.
        unsafe {
            asm!(
                "dec dword ptr gs:[rip + {count}]",
                "setz {zero}",
                count = sym bindings::__preempt_count,
                zero = lateout(reg_byte) zero,
                options(nostack),
            );
        }
        if zero != 0 {
            // SAFETY: Preemption is on again.
            unsafe { bindings::iv_preempt_schedule() };
        }
    }
}

#[cfg(not(all(
    CONFIG_PREEMPTION,
    not(CONFIG_DEBUG_PREEMPT),
    not(CONFIG_TRACE_PREEMPT_TOGGLE)
)))]
mod preempt {
    use crate::host::bindings;

    pub(super) fn disable() {
        // SAFETY: Counts; `enable` counts back.
        unsafe { bindings::iv_preempt_disable() };
    }

    pub(super) fn enable() {
        // SAFETY: Counted in `disable`.
        unsafe { bindings::iv_preempt_enable() };
    }
}

/// Preemption is off: this thread is not taken off its CPU. Interrupts come.
/// Dropped, preemption is as it was before.
pub struct PreemptOff {
    // Not `Send`: the count belongs to the CPU it was made on.
    _thread: PhantomData<*mut ()>,
}

// SAFETY: A thread that is not preempted and does not sleep stays on its CPU.
unsafe impl Pinned for PreemptOff {}

impl PreemptOff {
    /// Turns preemption off.
    #[inline]
    #[must_use]
    pub fn new() -> Self {
        preempt::disable();
        Self {
            _thread: PhantomData,
        }
    }
}

impl Drop for PreemptOff {
    #[inline]
    fn drop(&mut self) {
        preempt::enable();
    }
}
