// SPDX-License-Identifier: GPL-2.0

//! NMI blocking, which SVM leaves to the hypervisor where it has no virtual
//! NMIs (APM vol. 2, 15.21.10).
//!
//! The IRET that ends a handler is intercepted before it executes, and there is
//! no intercept for when it has. The next exit at another address shows it; if
//! an NMI waits, TF makes that exit come after one instruction.

use crate::hw::Registers;
use crate::pc::regs::Dr6;
use crate::pc::regs::Rflags;

/// Where the guest is with an NMI.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NmiState {
    /// It can take one.
    Open,
    /// Its handler runs; IRET is intercepted.
    Blocked,
    /// It is at the IRET of its handler.
    Leaving {
        /// Address of the IRET.
        iret: u64,
    },
}

/// NMI blocking of one vCPU.
pub(super) struct Nmi {
    pub(super) state: NmiState,
    /// The guest's flags as they were before it was made to step.
    step: Option<Rflags>,
}

/// A step has ended.
#[derive(Clone, Copy)]
pub(super) struct Stepped {
    /// The guest steps by itself, too.
    guests: bool,
}

impl Stepped {
    /// What of the cause of a #DB after it is the guest's, if anything: breakpoints
    /// of its own.
    pub(super) fn settle(self, cause: u64) -> Option<u64> {
        if self.guests {
            return Some(cause);
        }
        let own = cause & !Dr6::BS.0;
        (own != 0).then_some(own)
    }
}

impl Nmi {
    pub(super) const fn new() -> Self {
        Self {
            state: NmiState::Open,
            step: None,
        }
    }

    #[inline]
    pub(super) fn is_active(&self) -> bool {
        self.state != NmiState::Open || self.step.is_some()
    }

    pub(super) fn blocked(&self, regs: &Registers) -> bool {
        match self.state {
            NmiState::Open => false,
            NmiState::Blocked => true,
            NmiState::Leaving { iret } => regs.rip == iret,
        }
    }

    /// After an exit: has the IRET been executed?
    pub(super) fn look(&mut self, regs: &Registers) {
        if matches!(self.state, NmiState::Leaving { iret } if regs.rip != iret) {
            self.state = NmiState::Open;
        }
    }

    /// Makes the guest exit after one instruction.
    pub(super) fn step_over(&mut self, regs: &mut Registers) {
        if self.step.is_none() {
            self.step = Some(regs.rflags);
            regs.rflags = regs.rflags.with(Rflags::TF | Rflags::RF);
        }
    }

    /// After an exit: takes our flags back, if the guest was made to step.
    pub(super) fn end_step(&mut self, regs: &mut Registers) -> Option<Stepped> {
        let saved = self.step.take()?;
        // An IRET or POPF that was stepped over has loaded flags of its own;
        // TF from there is the guest's.
        let stepped_in_place = regs.rflags.has(Rflags::TF | Rflags::RF);
        if stepped_in_place || !saved.has(Rflags::TF) {
            regs.rflags = regs
                .rflags
                .assign(Rflags::TF, saved.has(Rflags::TF))
                .assign(Rflags::RF, saved.has(Rflags::RF) && stepped_in_place);
        }
        Some(Stepped {
            guests: saved.has(Rflags::TF),
        })
    }
}
