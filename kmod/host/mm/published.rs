// SPDX-License-Identifier: GPL-2.0

//! A value that readers see without waiting while it is replaced as a whole.
//!
//! Sleepable RCU with a domain of its own: [`Reading`] is proof that one reads
//! in the right one. A writer that need not know when the last reader of the old
//! value is gone does not wait; the old value is freed with a later wait.
//!
//! Waiting ([`Published::wait`]) sleeps and must not be done while reading, nor
//! under a lock that is taken while reading.

use crate::host::sync::Srcu;
use crate::host::sync::SrcuGuard;
use core::ptr;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// A published value.
struct Node<T> {
    value: T,
    /// The one that was replaced before it, once it is replaced itself.
    older: *mut Node<T>,
}

/// A value that readers see while it is replaced.
///
/// # Invariants
///
/// `current` comes from `KBox::into_raw`, as do the nodes of the list that
/// `retired` begins; all are owned by this value and none is in both.
pub struct Published<T> {
    domain: Srcu,
    current: AtomicPtr<Node<T>>,
    /// Counts values, from 1.
    generation: AtomicU64,
    retired: AtomicPtr<Node<T>>,
    /// Values in that list, about.
    waiting: AtomicUsize,
}

// SAFETY: It owns its `T`s.
unsafe impl<T: Send> Send for Published<T> {}
// SAFETY: It shares `&T` between threads, and drops `T` on any.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T> Published<T> {
    /// Publishes a first value. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(value: T) -> Result<Self> {
        let domain = Srcu::new()?;
        let current = AtomicPtr::new(KBox::into_raw(Prepared::new(value)?.0));
        // INVARIANT: One node, no list.
        Ok(Self {
            domain,
            current,
            generation: AtomicU64::new(1),
            retired: AtomicPtr::new(ptr::null_mut()),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Begins to read. Any context.
    #[inline]
    pub fn read(&self) -> Reading<'_, T> {
        Reading {
            guard: self.domain.read(),
            from: self,
        }
    }

    /// Lets all who begin to read from now on see `new`. Does not wait.
    pub fn publish(&self, new: Prepared<T>) {
        // INVARIANT: The new node is owned; the old one goes to the list.
        let old = self.current.swap(KBox::into_raw(new.0), Ordering::AcqRel);
        // After it: who has seen the new number sees the new value.
        self.generation.fetch_add(1, Ordering::Release);
        self.retire(old);
    }

    /// A number that goes up when a value has been published. For readers that
    /// find the number that another reader took before it looked, what that one
    /// saw is current, or was when they began.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How many replaced values wait to be freed, about.
    pub fn retired(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn retire(&self, node: *mut Node<T>) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut older = self.retired.load(Ordering::Relaxed);
        loop {
            // SAFETY: By the invariant the node lives, and it is in no list yet;
            // readers do not look at `older`.
            unsafe { (*node).older = older };
            match self.retired.compare_exchange_weak(
                older,
                node,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => older = now,
            }
        }
    }

    /// Waits until nobody sees a value that has been replaced by now, and frees
    /// those. May sleep.
    pub fn wait(&self) {
        self.waiting.store(0, Ordering::Relaxed);
        // INVARIANT: The list is taken out, to be freed.
        let mut node = self.retired.swap(ptr::null_mut(), Ordering::AcqRel);
        self.domain.synchronize();
        while !node.is_null() {
            // SAFETY: By the invariant; whoever saw the node has finished.
            let retired = unsafe { KBox::from_raw(node) };
            node = retired.older;
        }
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        // Readers borrow `self`, so there are none, and this waits for nobody.
        self.wait();
        // SAFETY: By the invariant.
        drop(unsafe { KBox::from_raw(*self.current.get_mut()) });
    }
}

/// A value to publish: what can fail has been done.
pub struct Prepared<T>(KBox<Node<T>>);

impl<T> Prepared<T> {
    /// Prepares `value`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(value: T) -> Result<Self> {
        let node = Node {
            value,
            older: ptr::null_mut(),
        };
        Ok(Self(KBox::new(node, GFP_KERNEL_ACCOUNT)?))
    }
}

/// A reader: what it sees stays until it is dropped.
pub struct Reading<'a, T> {
    #[allow(dead_code, reason = "held, not used")]
    guard: SrcuGuard<'a>,
    from: &'a Published<T>,
}

impl<T> Reading<'_, T> {
    /// The value of this moment.
    #[inline]
    pub fn get(&self) -> &T {
        // SAFETY: What is current now is freed only after a wait for readers
        // that have begun before it was replaced, such as this one.
        unsafe { &(*self.from.current.load(Ordering::Acquire)).value }
    }
}
