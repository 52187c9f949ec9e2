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
    /// The guest as it was before it was made to step.
    step: Option<Before>,
}

/// What a step changes beyond the instruction's own doing.
#[derive(Clone, Copy)]
struct Before {
    flags: Rflags,
    dr6: u64,
}

/// A step has ended.
#[derive(Clone, Copy)]
pub(super) struct Stepped {
    /// DR6 before it.
    dr6: u64,
    /// The guest steps by itself, too.
    guests: bool,
}

impl Stepped {
    /// The DR6 that the guest is to have after a #DB which left `dr6`, and
    /// whether the #DB is the guest's: for a breakpoint of its own.
    pub(super) fn settle(self, dr6: u64) -> (u64, bool) {
        if self.guests {
            return (dr6, true);
        }
        // Breakpoints noted before may be gone.
        if dr6 & !self.dr6 & (Dr6::B.0 | Dr6::BD.0 | Dr6::BT.0) == 0 {
            return (self.dr6, false);
        }
        ((dr6 & !Dr6::BS.0) | (self.dr6 & Dr6::BS.0), true)
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

    /// Makes the guest, whose DR6 is `dr6`, exit after one instruction.
    pub(super) fn step_over(&mut self, regs: &mut Registers, dr6: u64) {
        if self.step.is_none() {
            let flags = regs.rflags;
            self.step = Some(Before { flags, dr6 });
            regs.rflags = regs.rflags.with(Rflags::TF | Rflags::RF);
        }
    }

    /// After an exit: takes our flags back, if the guest was made to step.
    pub(super) fn end_step(&mut self, regs: &mut Registers) -> Option<Stepped> {
        let before = self.step.take()?;
        let saved = before.flags;
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
            dr6: before.dr6,
            guests: saved.has(Rflags::TF),
        })
    }
}
