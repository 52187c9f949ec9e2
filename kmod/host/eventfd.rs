// SPDX-License-Identifier: GPL-2.0

//! Event file descriptors: signalled by this module ([`EventFd`]), and calling
//! into it when another party signals them ([`EventHook`]).
//!
//! Lock order: a hook's callback runs under the eventfd's own spinlock, with
//! interrupts off, in whatever context the signal comes from. It may take
//! spinlocks of the module, so [`EventFd::signal`] and dropping or making a hook
//! must not happen under a spinlock that a callback takes.

use super::bindings;
use super::task::IrqOff;
use core::mem::offset_of;
use core::ptr::addr_of_mut;
use core::ptr::NonNull;
use kernel::error::from_err_ptr;
use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::ffi::c_uint;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::types::Opaque;

/// Poll events of an eventfd's waiters.
const READABLE: usize = bindings::POLLIN as usize;
const CLOSED: usize = bindings::POLLHUP as usize;

/// A reference to an eventfd. It outlives the file descriptors.
///
/// # Invariants
///
/// A reference on the context is held.
pub struct EventFd {
    context: NonNull<bindings::eventfd_ctx>,
}

// SAFETY: The context's count and its methods are for any thread.
unsafe impl Send for EventFd {}
// SAFETY: As above.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// The eventfd behind descriptor `fd` of the current process.
    ///
    /// # Errors
    ///
    /// `EBADF` when it is not open, `EINVAL` when it is something else.
    pub fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Called in process context.
        let context = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: The reference is the one just taken.
        let context = NonNull::new(context).ok_or(EINVAL)?;
        Ok(Self { context })
    }

    /// Adds one to the counter and wakes who waits for it. Any context but NMI.
    ///
    /// False, and nothing is done, when called from the callback of an
    /// [`EventHook`]: a chain of eventfds could have no end.
    pub fn signal(&self) -> bool {
        // SAFETY: Reads a flag of the current thread.
        if !unsafe { bindings::iv_eventfd_signal_allowed() } {
            return false;
        }
        // SAFETY: By the type invariant.
        unsafe { bindings::eventfd_signal_mask(self.context.as_ptr(), 0) };
        true
    }
}

impl PartialEq for EventFd {
    fn eq(&self, other: &Self) -> bool {
        self.context == other.context
    }
}

impl Eq for EventFd {}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::eventfd_ctx_put(self.context.as_ptr()) };
    }
}

/// What happens when an eventfd is signalled.
pub trait EventCallback: Send + Sync + 'static {
    /// The eventfd has been signalled, once or more often, and its counter is
    /// zero again. Interrupts are off and the eventfd's lock is held: no
    /// sleeping, no locks but [`IrqSpinLock`](super::sync::IrqSpinLock), no
    /// signalling of eventfds.
    fn signalled(&self);
}

/// The entry in the eventfd's wait queue and what it calls, at a fixed address.
struct Inner<C> {
    entry: Opaque<bindings::wait_queue_entry>,
    event: EventFd,
    closed: Atomic<bool>,
    callback: C,
}

/// An eventfd that calls into this module, instead of waking its readers. It
/// shares the callback's data by dereferencing. Dropped, the callback has
/// returned and is not called again.
///
/// # Invariants
///
/// `inner` comes from `KBox::into_raw`, is freed on drop, and its entry is in
/// the wait queue of its eventfd.
pub struct EventHook<C: EventCallback> {
    inner: NonNull<Inner<C>>,
}

// SAFETY: The wait queue is locked; the callback's data is `Send` and `Sync`.
unsafe impl<C: EventCallback> Send for EventHook<C> {}
// SAFETY: As above.
unsafe impl<C: EventCallback> Sync for EventHook<C> {}

/// How [`hook_entry`] learns what to put into the queue, and says how it went.
#[repr(C)]
struct Registration {
    // First: `hook_entry` is given its address.
    table: bindings::poll_table,
    entry: *mut bindings::wait_queue_entry,
    result: c_int,
}

impl<C: EventCallback> EventHook<C> {
    /// Hooks into the eventfd behind descriptor `fd` of the current process.
    /// If it has been signalled already, `callback` is called at once. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `EBADF` when it is not open, `EINVAL` when it is something else, `EBUSY`
    /// when it has a hook already, of this module or another, `ENOMEM`.
    pub fn new(fd: i32, callback: C) -> Result<Self> {
        // SAFETY: Called in process context.
        let file = NonNull::new(from_err_ptr(unsafe { bindings::eventfd_fget(fd) })?);
        let file = file.ok_or(EBADF)?;
        let result = Self::hook(file, callback);
        // SAFETY: The reference was taken above.
        unsafe { bindings::fput(file.as_ptr()) };
        result
    }

    /// Hooks into the eventfd of an open `file`.
    fn hook(file: NonNull<bindings::file>, callback: C) -> Result<Self> {
        // SAFETY: The caller has the file open.
        let context = from_err_ptr(unsafe { bindings::eventfd_ctx_fileget(file.as_ptr()) })?;
        let inner = KBox::new(
            Inner {
                entry: Opaque::new(bindings::wait_queue_entry {
                    func: Some(woken::<C>),
                    ..Default::default()
                }),
                event: EventFd {
                    context: NonNull::new(context).ok_or(EINVAL)?,
                },
                closed: Atomic::new(false),
                callback,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let mut registration = Registration {
            table: bindings::poll_table {
                _qproc: Some(hook_entry),
                _key: !0,
            },
            entry: inner.entry.get(),
            result: -(bindings::EINVAL as c_int),
        };
        // SAFETY: The file is open; the table is that of a `Registration`, whose
        // entry does not move until it is out of the queue.
        let events = unsafe { bindings::iv_poll(file.as_ptr(), addr_of_mut!(registration).cast()) };
        to_result(registration.result)?;
        // INVARIANT: The entry is in the queue.
        let this = Self {
            inner: NonNull::from(KBox::leak(inner)),
        };
        if events as usize & READABLE != 0 {
            let _off = IrqOff::new();
            this.signalled();
        }
        Ok(this)
    }

    /// Whether this hooks into `event`.
    pub fn is_on(&self, event: &EventFd) -> bool {
        self.inner().event == *event
    }

    /// Whether the eventfd's last descriptor has been closed, so that only
    /// kernel code that still has a reference can signal it.
    pub fn is_closed(&self) -> bool {
        self.inner().closed.load(Relaxed)
    }

    fn inner(&self) -> &Inner<C> {
        // SAFETY: By the type invariant; it is only ever shared.
        unsafe { self.inner.as_ref() }
    }
}

impl<C: EventCallback> core::ops::Deref for EventHook<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.inner().callback
    }
}

impl<C: EventCallback> Drop for EventHook<C> {
    fn drop(&mut self) {
        let inner = self.inner();
        let mut count = 0;
        // SAFETY: By the type invariant. The queue's lock, which the callback
        // runs under, is taken: after this it neither runs nor will.
        unsafe {
            bindings::eventfd_ctx_remove_wait_queue(
                inner.event.context.as_ptr(),
                inner.entry.get(),
                &mut count,
            );
            drop(KBox::from_raw(self.inner.as_ptr()));
        }
    }
}

/// Called by the eventfd's `poll` with its wait queue.
///
/// # Safety
///
/// `table` is that of a [`Registration`].
unsafe extern "C" fn hook_entry(
    _file: *mut bindings::file,
    queue: *mut bindings::wait_queue_head_t,
    table: *mut bindings::poll_table,
) {
    let registration = table.cast::<Registration>();
    // SAFETY: By the precondition. Only an eventfd without such a waiter takes
    // one, so a signal goes to one place.
    unsafe {
        (*registration).result =
            bindings::add_wait_queue_priority_exclusive(queue, (*registration).entry);
    }
}

/// Called under the wait queue's lock, interrupts off, when the eventfd is
/// signalled or closed.
///
/// # Safety
///
/// `entry` is that of an `Inner<C>`, `key` the events.
unsafe extern "C" fn woken<C: EventCallback>(
    entry: *mut bindings::wait_queue_entry,
    _mode: c_uint,
    _flags: c_int,
    key: *mut c_void,
) -> c_int {
    // SAFETY: By the precondition; the entry is taken out of the queue before
    // what holds it is freed.
    let inner = unsafe {
        &*entry
            .byte_sub(offset_of!(Inner<C>, entry))
            .cast::<Inner<C>>()
    };
    let events = key as usize;
    if events & CLOSED != 0 {
        inner.closed.store(true, Relaxed);
    }
    if events & READABLE == 0 {
        return 0;
    }
    let mut count = 0;
    // SAFETY: The lock is held.
    unsafe { bindings::eventfd_ctx_do_read(inner.event.context.as_ptr(), &mut count) };
    inner.callback.signalled();
    // The event is consumed: nobody else is woken for it.
    1
}
