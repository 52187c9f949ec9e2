// SPDX-License-Identifier: GPL-2.0

//! The kernel tells what it changes in a process's page tables.
//!
//! The callbacks come from whoever changes the process's memory: any thread,
//! with `mmap_lock` and page-table locks of that process held or not. None of
//! them may sleep, allocate, or wait for someone who does.

use crate::host::bindings;
use crate::host::task::current;
use crate::pc::addr::Hva;
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Who wants to know. Ranges are `start` to before `end`.
pub trait MemoryListener: Send + Sync + 'static {
    /// The range is about to change. From the return of this call to the
    /// matching [`MemoryListener::invalidate_end`], nothing may use or look up
    /// what was mapped there. Several ranges can be under way at a time. With
    /// `may_sleep`, letting others run is allowed; waiting never is.
    fn invalidate_start(&self, start: Hva, end: Hva, may_sleep: bool);

    /// The range has changed.
    fn invalidate_end(&self, start: Hva, end: Hva);

    /// Whether the range has been accessed since the last call. Page-table
    /// locks are held.
    fn clear_young(&self, start: Hva, end: Hva) -> bool;

    /// Whether the page at `hva` has been accessed since the last
    /// [`MemoryListener::clear_young`]. Page-table locks are held.
    fn test_young(&self, hva: Hva) -> bool;

    /// The address space goes away: nothing of it may be used from now on.
    fn release(&self);
}

#[repr(C)]
struct Subscription<L> {
    raw: UnsafeCell<bindings::mmu_notifier>,
    listener: Arc<L>,
}

/// A registration with the address space of the task that made it; ends when
/// dropped, after [`MemoryListener::release`] has been called.
///
/// # Invariants
///
/// `subscription` is a registered notifier in a box that this value owns;
/// it keeps its `mm_struct` allocated.
pub struct MmuNotifier<L: MemoryListener> {
    subscription: NonNull<Subscription<L>>,
}

// SAFETY: Unregistering may happen on any thread, and `Arc<L>` is `Send`.
unsafe impl<L: MemoryListener> Send for MmuNotifier<L> {}
// SAFETY: The only shared operation compares a pointer that does not change.
unsafe impl<L: MemoryListener> Sync for MmuNotifier<L> {}

impl<L: MemoryListener> MmuNotifier<L> {
    const OPS: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
        release: Some(Self::release),
        clear_flush_young: Some(Self::clear_young),
        clear_young: Some(Self::clear_young),
        test_young: Some(Self::test_young),
        invalidate_range_start: Some(Self::invalidate_range_start),
        invalidate_range_end: Some(Self::invalidate_range_end),
        arch_invalidate_secondary_tlbs: None,
        alloc_notifier: None,
        free_notifier: None,
    };

    /// Reports the calling task's address space to `listener`. Sleeps; takes
    /// `mmap_lock` for writing.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`; `EINVAL` for a task without an address space.
    pub fn register(listener: Arc<L>) -> Result<Self> {
        // SAFETY: Reads a field of the calling task.
        let mm = unsafe { bindings::iv_current_mm() };
        if mm.is_null() {
            return Err(EINVAL);
        }
        let subscription = KBox::new(
            Subscription {
                raw: UnsafeCell::new(bindings::mmu_notifier {
                    ops: &Self::OPS,
                    ..Default::default()
                }),
                listener,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: The box stays where it is until `drop` has unregistered it;
        // the address space is that of the calling task, so it has users.
        to_result(unsafe { bindings::mmu_notifier_register(subscription.raw.get(), mm) })?;
        // INVARIANT: Registered, and the box is ours.
        Ok(Self {
            subscription: NonNull::from(KBox::leak(subscription)),
        })
    }

    /// The calling task runs in the address space that is listened to.
    #[inline]
    pub fn is_current(&self) -> bool {
        // SAFETY: By the invariant the box lives; `mm` is set by registering
        // and not changed.
        let mm = unsafe { (*self.subscription.as_ref().raw.get()).mm };
        // SAFETY: The calling task exists, and only it changes the field.
        mm == unsafe { (*current()).mm }
    }

    /// The listener of a registered notifier.
    ///
    /// # Safety
    ///
    /// `raw` is the notifier that the kernel passes to a callback in `OPS`.
    unsafe fn listener<'a>(raw: *mut bindings::mmu_notifier) -> &'a L {
        // SAFETY: It is the first field of a `Subscription<L>`, which outlives
        // every callback: unregistering waits for them.
        unsafe { &(*raw.cast::<Subscription<L>>()).listener }
    }

    /// # Safety
    ///
    /// As [`MmuNotifier::listener`]'s.
    unsafe extern "C" fn release(raw: *mut bindings::mmu_notifier, _mm: *mut bindings::mm_struct) {
        // SAFETY: By this function's contract.
        unsafe { Self::listener(raw) }.release();
    }

    /// # Safety
    ///
    /// As [`MmuNotifier::listener`]'s.
    unsafe extern "C" fn clear_young(
        raw: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
        start: usize,
        end: usize,
    ) -> bool {
        // SAFETY: By this function's contract.
        let listener = unsafe { Self::listener(raw) };
        listener.clear_young(Hva(start as u64), Hva(end as u64))
    }

    /// # Safety
    ///
    /// As [`MmuNotifier::listener`]'s.
    unsafe extern "C" fn test_young(
        raw: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
        address: usize,
    ) -> bool {
        // SAFETY: By this function's contract.
        unsafe { Self::listener(raw) }.test_young(Hva(address as u64))
    }

    /// # Safety
    ///
    /// As [`MmuNotifier::listener`]'s; `range` is valid during the call.
    unsafe extern "C" fn invalidate_range_start(
        raw: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) -> i32 {
        // SAFETY: By this function's contract.
        let listener = unsafe { Self::listener(raw) };
        // SAFETY: By this function's contract.
        let (start, end, flags) = unsafe { ((*range).start, (*range).end, (*range).flags) };
        let may_sleep = flags & bindings::MMU_NOTIFIER_RANGE_BLOCKABLE != 0;
        listener.invalidate_start(Hva(start as u64), Hva(end as u64), may_sleep);
        0
    }

    /// # Safety
    ///
    /// As [`MmuNotifier::listener`]'s; `range` is valid during the call.
    unsafe extern "C" fn invalidate_range_end(
        raw: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) {
        // SAFETY: By this function's contract.
        let listener = unsafe { Self::listener(raw) };
        // SAFETY: By this function's contract.
        let (start, end) = unsafe { ((*range).start, (*range).end) };
        listener.invalidate_end(Hva(start as u64), Hva(end as u64));
    }
}

impl<L: MemoryListener> Drop for MmuNotifier<L> {
    fn drop(&mut self) {
        let raw = self.subscription.as_ptr();
        // SAFETY: By the invariant registered. Waits for running callbacks, and
        // none comes later.
        unsafe {
            let notifier = (*raw).raw.get();
            bindings::mmu_notifier_unregister(notifier, (*notifier).mm);
        }
        // SAFETY: Leaked by `register`, and the kernel has forgotten it.
        drop(unsafe { KBox::from_raw(raw) });
    }
}
