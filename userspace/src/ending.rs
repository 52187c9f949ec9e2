// SPDX-License-Identifier: GPL-2.0-or-later

//! How a run can end, and the exit status each end gives.
//!
//! Any thread may end the run; the first to do so decides how. Everybody else notices through
//! [`Control::ended`] (vCPU threads, between two entries into the guest) or the event (the main
//! loop).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Mutex;

use anyhow::{Context, Result};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::sync::lock;

/// Exit statuses of the process. The numbers are part of the interface: `docs/ironvm.md`.
pub mod status {
    /// The guest switched itself off.
    pub const POWER_OFF: u8 = 0;
    /// The guest switched itself off, but `--exit-port` was given and it reported nothing.
    pub const NO_REPORT: u8 = 119;
    /// The guest asked for a reset and `--no-reboot` was given.
    pub const RESET: u8 = 120;
    /// The guest's kernel reported a panic (pvpanic).
    pub const PANIC: u8 = 121;
    /// A vCPU shut down: triple fault.
    pub const TRIPLE_FAULT: u8 = 122;
    /// KVM could not go on with the guest.
    pub const KVM_ERROR: u8 = 123;
    /// `ironvm` itself failed: bad input, or the host lacks something.
    pub const FAILED: u8 = 125;
    /// The user left with Ctrl-A x.
    pub const ESCAPE: u8 = 126;
    /// Ended by a signal: this plus the signal's number.
    pub const SIGNAL: u8 = 128;
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    PowerOff,
    Reset,
    /// The guest wrote this status to the exit port.
    Reported(u8),
    Panic,
    TripleFault,
    KvmError,
    /// A thread of ours failed; what happened is already on stderr.
    Failed,
    Escape,
    Signal(i32),
}

impl Ending {
    /// The exit status of the process; `report_expected` says whether `--exit-port` was given.
    pub fn status(self, report_expected: bool) -> u8 {
        match self {
            Self::PowerOff if report_expected => status::NO_REPORT,
            Self::PowerOff => status::POWER_OFF,
            Self::Reset => status::RESET,
            Self::Reported(value) => value,
            Self::Panic => status::PANIC,
            Self::TripleFault => status::TRIPLE_FAULT,
            Self::KvmError => status::KVM_ERROR,
            Self::Failed => status::FAILED,
            Self::Escape => status::ESCAPE,
            Self::Signal(number) => {
                status::SIGNAL.saturating_add(u8::try_from(number).unwrap_or(0))
            }
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(f, "the guest powered off"),
            Self::Reset => write!(f, "the guest reset"),
            Self::Reported(value) => write!(f, "the guest reported status {value}"),
            Self::Panic => write!(f, "the guest's kernel panicked"),
            Self::TripleFault => write!(f, "the guest triple-faulted"),
            Self::KvmError => write!(f, "KVM could not run the guest any further"),
            Self::Failed => write!(f, "ironvm failed"),
            Self::Escape => write!(f, "ended from the console"),
            Self::Signal(number) => write!(f, "ended by signal {number}"),
        }
    }
}

/// Through which the threads of one run agree that it is over.
#[derive(Debug)]
pub struct Control {
    ended: AtomicBool,
    /// How often vCPUs were asked to report.
    reports: AtomicU32,
    ending: Mutex<Option<Ending>>,
    event: EventFd,
}

impl Control {
    /// # Errors
    ///
    /// When the system has no file descriptor left.
    pub fn new() -> Result<Self> {
        Ok(Self {
            ended: AtomicBool::new(false),
            reports: AtomicU32::new(0),
            ending: Mutex::new(None),
            event: EventFd::new(EFD_NONBLOCK).context("cannot make an eventfd")?,
        })
    }

    /// Ends the run, unless something else already did.
    pub fn end(&self, how: Ending) {
        lock(&self.ending).get_or_insert(how);
        self.ended.store(true, Ordering::SeqCst);
        // The counter saturates at 2^64-2 and a failed write means it is not zero: either way the
        // main loop wakes up.
        let _ = self.event.write(1);
    }

    /// Whether the run is over.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Asks all vCPUs to report what they are doing, once they are kicked.
    pub fn ask_for_reports(&self) {
        self.reports.fetch_add(1, Ordering::SeqCst);
    }

    /// How often vCPUs were asked to report.
    pub fn reports_asked(&self) -> u32 {
        self.reports.load(Ordering::SeqCst)
    }

    /// How the run ended, once it did.
    pub fn ending(&self) -> Option<Ending> {
        *lock(&self.ending)
    }

    /// Readable from the moment the run is over.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_ending_wins() {
        let control = Control::new().unwrap();
        assert!(!control.ended());
        assert_eq!(control.ending(), None);
        control.end(Ending::Reset);
        control.end(Ending::PowerOff);
        assert!(control.ended());
        assert_eq!(control.ending(), Some(Ending::Reset));
        assert!(control.event().read().is_ok());
    }

    #[test]
    fn statuses_are_told_apart() {
        let all = [
            Ending::PowerOff,
            Ending::Reset,
            Ending::Panic,
            Ending::TripleFault,
            Ending::KvmError,
            Ending::Failed,
            Ending::Escape,
            Ending::Signal(15),
        ];
        let mut seen: Vec<u8> = all.iter().map(|e| e.status(false)).collect();
        seen.push(Ending::PowerOff.status(true));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all.len() + 1);
        assert_eq!(Ending::Reported(7).status(true), 7);
        assert_eq!(Ending::Signal(15).status(false), 143);
    }
}
