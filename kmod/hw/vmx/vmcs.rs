// SPDX-License-Identifier: GPL-2.0

//! One VMCS, and where it is.
//!
//! A VMCS is reached by VMREAD and VMWRITE only, on the CPU where it is the
//! current one. A CPU keeps in itself parts of each VMCS that has been made
//! current there (it is *active* there) until VMCLEAR, which only that CPU can
//! do; so each CPU has a list of them (SDM vol. 3, 25.1 and 25.11.1).
//!
//! Who holds the vCPU makes its VMCS current, with interrupts off. A list
//! belongs to its CPU, which changes it with interrupts off; [`Vmcs::evict`]
//! asks that CPU by an interrupt. An NMI there (the emergency on the way down)
//! finds a list that can be followed at any moment.

use super::cpu;
use super::field::Field;
use super::field::ReadFields;
use super::insn;
use crate::host::cpu as host_cpu;
use crate::host::page::HostPage;
use crate::host::task::IrqOff;
use crate::pc::addr::Hpa;
use core::ptr::null_mut;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// The VMCS is active on no CPU.
const NOWHERE: u32 = u32::MAX;

/// The VMCS that is current on this CPU, with interrupts off; to be asked only for
/// fields that the processor has.
pub(super) struct Current;

impl ReadFields for Current {
    #[inline(always)]
    fn read<F: Field>(&self, field: F) -> F::Value {
        F::from_register(insn::vmread(field.encoding()))
    }
}

impl Current {
    /// Writes a field: state of the guest, which an entry checks, controls out of
    /// `Controls`, or state of this host.
    #[inline(always)]
    pub(super) fn write<F: Field>(&self, field: F, value: F::Value) {
        // SAFETY: As said above, no exit leads the host elsewhere.
        unsafe { insn::vmwrite_plain(field.encoding(), F::to_register(value)) };
    }
}

/// A VMCS, at an address of its own: lists point to it.
///
/// # Invariants
///
/// `cpu` names the CPU in whose list the value is; it is in no other list, and
/// active nowhere else.
struct Node {
    page: HostPage,
    cpu: AtomicU32,
    next: AtomicPtr<Node>,
    previous: AtomicPtr<Node>,
}

/// The VMCSs of one CPU.
pub(super) struct Active {
    first: AtomicPtr<Node>,
    current: AtomicPtr<Node>,
}

// SAFETY: Null pointers are values.
unsafe impl Zeroable for Active {}

/// One VMCS, owned.
pub(super) struct Vmcs(KBox<Node>);

impl Vmcs {
    /// A VMCS that holds nothing yet. May sleep.
    ///
    /// `revision`: what IA32_VMX_BASIC calls the revision identifier.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(revision: u32) -> Result<Self> {
        let page = HostPage::new()?;
        page.write(0, revision).ok_or(EINVAL)?;
        // INVARIANT: In no list.
        let node = Node {
            page,
            cpu: AtomicU32::new(NOWHERE),
            next: AtomicPtr::new(null_mut()),
            previous: AtomicPtr::new(null_mut()),
        };
        Ok(Self(KBox::new(node, GFP_KERNEL_ACCOUNT)?))
    }

    /// Physical address.
    #[inline]
    pub(super) fn hpa(&self) -> Hpa {
        self.0.page.hpa()
    }

    /// Whether it is active on another CPU than this one, so that it must be
    /// evicted before it is used here.
    #[inline]
    pub(super) fn is_elsewhere(&self, cpu: u32) -> bool {
        let active = self.0.cpu.load(Ordering::Acquire);
        active != NOWHERE && active != cpu
    }

    /// Whether it is active on no CPU.
    pub(super) fn is_nowhere(&self) -> bool {
        self.0.cpu.load(Ordering::Acquire) == NOWHERE
    }

    /// Makes it active nowhere. Interrupts are on.
    #[cold]
    pub(super) fn evict(&self) {
        let cpu = self.0.cpu.load(Ordering::Acquire);
        if cpu == NOWHERE {
            return;
        }
        // A CPU that is gone has cleared its list when it went.
        let _ = host_cpu::run_on(cpu, || {
            let off = IrqOff::new();
            if self.0.cpu.load(Ordering::Relaxed) == host_cpu::current_cpu(&off) {
                self.0.leave(&off);
            }
        });
    }

    /// Whether it is the current one of the CPU that `here` is of.
    #[inline]
    pub(super) fn is_current(&self, here: &Active) -> bool {
        here.current.load(Ordering::Relaxed) == self.node()
    }

    /// Makes it the current one of this CPU. False when the processor refuses,
    /// which it does when VMX is off here.
    ///
    /// It is not active on another CPU.
    #[inline]
    pub(super) fn make_current(&self, off: &IrqOff) -> bool {
        let Some(here) = cpu::active(off) else {
            return false;
        };
        here.current.load(Ordering::Relaxed) == self.node() || self.load(off, here)
    }

    fn load(&self, off: &IrqOff, here: &Active) -> bool {
        let cpu = host_cpu::current_cpu(off);
        if self.is_elsewhere(cpu) || !cpu::is_online(off) {
            return false;
        }
        if self.0.cpu.load(Ordering::Relaxed) == NOWHERE {
            // SAFETY: The VMCS is this module's and active nowhere.
            unsafe { insn::vmclear(self.hpa()) };
            self.0.join(here, cpu);
        }
        // What the last guest has trained in the predictors is not for this one.
        host_cpu::another_guest(off);
        // SAFETY: The page is a VMCS with its revision set by `new`, active on
        // this CPU alone.
        let loaded = unsafe { insn::vmptrld(self.hpa()) };
        let current = if loaded { self.node() } else { null_mut() };
        here.current.store(current, Ordering::Relaxed);
        loaded
    }

    /// Calls `act` with the VMCS current on this CPU, whichever that is. `None`
    /// when that cannot be: VMX is off.
    ///
    /// Interrupts are on, or it is not active on another CPU.
    pub(super) fn with_current<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        if self.is_elsewhere(host_cpu::raw_current_cpu()) {
            self.evict();
        }
        let mut off = IrqOff::new();
        if self.is_elsewhere(host_cpu::current_cpu(&off)) {
            // It was in the list of this CPU's predecessor: the thread has been
            // moved in between. Once evicted it is in no list.
            drop(off);
            self.evict();
            off = IrqOff::new();
        }
        self.make_current(&off).then(act)
    }

    fn node(&self) -> *mut Node {
        (&raw const *self.0).cast_mut()
    }
}

impl Drop for Vmcs {
    fn drop(&mut self) {
        self.evict();
    }
}

impl Node {
    /// Goes to the front of the list of this CPU, whose interrupts are off.
    fn join(&self, here: &Active, cpu: u32) {
        let this = (&raw const *self).cast_mut();
        let first = here.first.load(Ordering::Relaxed);
        self.next.store(first, Ordering::Relaxed);
        self.previous.store(null_mut(), Ordering::Relaxed);
        // SAFETY: What is in a list lives, for it leaves before it is dropped;
        // only this CPU changes the list.
        if let Some(first) = unsafe { first.as_ref() } {
            first.previous.store(this, Ordering::Relaxed);
        }
        // An NMI on this CPU sees the list with it or without it.
        here.first.store(this, Ordering::Release);
        // INVARIANT: In the list of this CPU now.
        self.cpu.store(cpu, Ordering::Release);
    }

    /// Leaves the list of this CPU, and the CPU itself.
    fn leave(&self, off: &IrqOff) {
        let Some(here) = cpu::active(off) else {
            return;
        };
        // SAFETY: The VMCS is this module's, active on this CPU.
        unsafe { insn::vmclear(self.page.hpa()) };
        let this = (&raw const *self).cast_mut();
        if here.current.load(Ordering::Relaxed) == this {
            here.current.store(null_mut(), Ordering::Relaxed);
        }
        let next = self.next.load(Ordering::Relaxed);
        let previous = self.previous.load(Ordering::Relaxed);
        // SAFETY: As in `join`.
        unsafe {
            match previous.as_ref() {
                Some(previous) => previous.next.store(next, Ordering::Relaxed),
                None => here.first.store(next, Ordering::Relaxed),
            }
            if let Some(next) = next.as_ref() {
                next.previous.store(previous, Ordering::Relaxed);
            }
        }
        // INVARIANT: In no list. The owner may drop it from here on.
        self.cpu.store(NOWHERE, Ordering::Release);
    }
}

impl Active {
    /// Clears every VMCS that is active on this CPU, which is its own.
    pub(super) fn clear_all(&self, off: &IrqOff) {
        loop {
            let first = self.first.load(Ordering::Relaxed);
            // SAFETY: What is in a list lives; only this CPU changes the list.
            match unsafe { first.as_ref() } {
                Some(node) => node.leave(off),
                None => return,
            }
        }
    }

    /// Writes what the processor holds of every VMCS back to memory, where the
    /// kernel that takes over after a crash may look. Whatever was going on
    /// here will not go on.
    pub(super) fn emergency(&self) {
        let mut next = self.first.load(Ordering::Acquire);
        // SAFETY: What is in a list lives; the CPU that changes it is this one.
        while let Some(node) = unsafe { next.as_ref() } {
            // SAFETY: The VMCS is this module's, active on this CPU.
            unsafe { insn::vmclear(node.page.hpa()) };
            next = node.next.load(Ordering::Relaxed);
        }
    }
}
