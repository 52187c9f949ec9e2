// SPDX-License-Identifier: GPL-2.0

//! Locks that the `kernel` crate does not have: a spinlock for data that hard
//! interrupts reach, and sleepable RCU.
//!
//! (For data that only threads reach there is `kernel::sync::Mutex`.)

mod spinlock;
mod srcu;

pub use spinlock::IrqSpinLock;
pub use srcu::Srcu;
pub use srcu::SrcuCell;
pub use srcu::SrcuGuard;

pub(crate) use spinlock::new_irq_spinlock;

use super::bindings;
