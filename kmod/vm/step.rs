// SPDX-License-Identifier: GPL-2.0

//! What handlers of exits may do, and what becomes of the vCPU after them.

use crate::pc::regs::Exception;
use kernel::prelude::*;

/// What becomes of the vCPU after an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Enter the guest again.
    Resume,
    /// Leave the inner loop: the host, or a change of the vCPU's own state,
    /// wants to be looked at.
    Leave,
    /// The answer may have to wait for memory: handle the exit again where
    /// that is allowed. Nothing has been changed yet.
    Sleep,
    /// The run page says what userspace has to do.
    User,
}

impl Step {
    /// This step, or `other` if this one would go on.
    #[inline(always)]
    pub fn or(self, other: Self) -> Self {
        match self {
            Self::Resume => other,
            step => step,
        }
    }

    /// This step, or leaving the inner loop if it would go on.
    pub fn at_least_leave(self) -> Self {
        self.or(Self::Leave)
    }
}

/// Why a handler stopped halfway.
#[derive(Debug)]
pub enum Stop {
    /// The vCPU goes on like this instead.
    Step(Step),
    /// The instruction raises this.
    Fault(Exception),
    /// The instruction cannot be handled here: userspace is shown its bytes.
    Unhandleable,
    /// KVM_RUN fails.
    Error(Error),
}

impl From<Step> for Stop {
    fn from(step: Step) -> Self {
        Self::Step(step)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// What a handler gives.
pub type Handled<T = Step> = Result<T, Stop>;

/// What a handler may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// Interrupts are off: memory that is not present cannot be reached.
    Atomic,
    /// Sleeping is allowed.
    Sleepable,
}
