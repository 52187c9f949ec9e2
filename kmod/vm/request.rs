// SPDX-License-Identifier: GPL-2.0

//! How other threads and interrupt handlers reach a vCPU: request bits and a
//! kick. Everything else of a vCPU belongs to the thread that runs it.
//!
//! The protocol is the usual one of two flags. The asker sets a request bit,
//! then looks at the mode; the vCPU sets its mode, then looks at the bits.
//! Whoever comes second sees the other.

use core::sync::atomic::fence;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// Something a vCPU has to do before it enters the guest again.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Request(pub u64);

impl Request {
    /// Nothing but to look again: interrupts have been posted.
    pub const EVENT: Self = Self(1 << 0);
    /// Drop every cached translation of guest memory.
    pub const FLUSH_TLB: Self = Self(1 << 1);
    /// Userspace has changed which accesses to MSRs it decides on.
    pub const MSR_EXITS: Self = Self(1 << 2);
    /// The guest's clock has to be written again.
    pub const CLOCK: Self = Self(1 << 3);
    /// The processor's copies of the PAE directory pointers are old.
    pub const DIRECTORY_POINTERS: Self = Self(1 << 4);
    /// End a HLT, whatever else there is.
    pub const UNHALT: Self = Self(1 << 5);
    /// Nothing but to leave the guest, and with that to hand over the list of
    /// pages written.
    pub const WRITTEN: Self = Self(1 << 6);
    /// The local APIC's page may have moved, appeared or gone.
    pub const APIC_PAGE: Self = Self(1 << 7);
}

const OUTSIDE: u32 = 0;
const IN_GUEST: u32 = 1;
const KICKED: u32 = 2;

/// Requests to one vCPU, and whether it is in the guest.
pub struct Requests {
    pending: AtomicU64,
    mode: AtomicU32,
    cpu: AtomicU32,
}

impl Requests {
    /// No requests, outside the guest.
    pub const fn new() -> Self {
        Self {
            pending: AtomicU64::new(0),
            mode: AtomicU32::new(OUTSIDE),
            cpu: AtomicU32::new(u32::MAX),
        }
    }

    /// Adds a request. The caller kicks the vCPU.
    #[inline]
    pub fn add(&self, request: Request) {
        self.pending.fetch_or(request.0, Ordering::Release);
    }

    /// Whether any request is pending.
    #[inline]
    pub fn any(&self) -> bool {
        self.pending.load(Ordering::Relaxed) != 0
    }

    /// Whether this request is pending.
    #[inline]
    pub fn has(&self, request: Request) -> bool {
        self.pending.load(Ordering::Relaxed) & request.0 != 0
    }

    /// Takes all pending requests.
    #[inline]
    pub fn take(&self) -> u64 {
        self.pending.swap(0, Ordering::AcqRel)
    }

    /// The vCPU's thread is about to enter the guest on `cpu`: interrupts are
    /// off there until [`Requests::leave`]. Look at [`Requests::any`] after it.
    #[inline]
    pub fn enter(&self, cpu: u32) {
        self.cpu.store(cpu, Ordering::Relaxed);
        self.mode.store(IN_GUEST, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The vCPU's thread is out of the guest.
    #[inline]
    pub fn leave(&self) {
        self.mode.store(OUTSIDE, Ordering::Release);
    }

    /// The CPU to interrupt so that the vCPU looks at its requests, if it is
    /// in the guest and nobody has interrupted it since it entered.
    ///
    /// `here`: this CPU. Who is on the vCPU's CPU is its own thread, between two
    /// entries (interrupts are off there), or comes when it has left: it looks
    /// before it enters. It does not count as interrupted by that, or nobody
    /// else would interrupt it for as long as it goes on entering.
    #[inline]
    pub fn cpu_to_kick(&self, here: u32) -> Option<u32> {
        self.cpu_to_notify(here)?;
        self.mode
            .compare_exchange(IN_GUEST, KICKED, Ordering::AcqRel, Ordering::Relaxed)
            .ok()
            .map(|_| self.cpu.load(Ordering::Relaxed))
    }

    /// The CPU on which the vCPU is in the guest, if nobody has interrupted it
    /// since it entered and it is not this CPU, `here`.
    #[inline]
    pub fn cpu_to_notify(&self, here: u32) -> Option<u32> {
        fence(Ordering::SeqCst);
        if self.mode.load(Ordering::Acquire) != IN_GUEST {
            return None;
        }
        let cpu = self.cpu.load(Ordering::Relaxed);
        (cpu != here).then_some(cpu)
    }

    /// Whether the vCPU is in the guest, or was a moment ago and has not said
    /// that it left.
    #[inline]
    pub fn is_in_guest(&self) -> bool {
        fence(Ordering::SeqCst);
        self.mode.load(Ordering::Acquire) != OUTSIDE
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_interrupt_makes_a_vcpu_leave() {
        let requests = Requests::new();
        assert_eq!(requests.cpu_to_kick(1), None, "outside");
        requests.enter(3);
        assert_eq!(requests.cpu_to_notify(1), Some(3));
        assert_eq!(requests.cpu_to_kick(1), Some(3));
        assert_eq!(requests.cpu_to_kick(2), None, "it is on its way");
        assert_eq!(requests.cpu_to_notify(2), None);
        assert!(requests.is_in_guest());
        requests.leave();
        assert!(!requests.is_in_guest());
    }

    #[test]
    fn what_a_vcpu_does_to_itself_keeps_nobody_else_from_interrupting_it() {
        let requests = Requests::new();
        requests.enter(3);
        assert_eq!(requests.cpu_to_kick(3), None);
        assert_eq!(requests.cpu_to_notify(3), None);
        assert_eq!(requests.cpu_to_notify(1), Some(3));
        assert_eq!(requests.cpu_to_kick(1), Some(3));
    }

    #[test]
    fn requests_are_taken_once() {
        let requests = Requests::new();
        requests.add(Request::CLOCK);
        requests.add(Request::FLUSH_TLB);
        assert!(requests.any() && requests.has(Request::CLOCK));
        assert_eq!(requests.take(), Request::CLOCK.0 | Request::FLUSH_TLB.0);
        assert!(!requests.any());
    }
}
