// SPDX-License-Identifier: GPL-2.0

//! From a host virtual address to the page behind it.
//!
//! All of this is about the calling task's own memory. A [`Pinned`] page is
//! held for the moment in which it is entered into a nested table and then let
//! go: from there on the MMU notifier keeps the table true.
//!
//! Memory without `struct page` (`VM_IO`, `VM_PFNMAP`: a device's registers) is
//! refused with [`PinError::Fault`].

use crate::host::bindings;
use crate::pc::addr::Hpa;
use crate::pc::addr::Hva;
use crate::pc::nested::Level;
use core::ptr;
use core::ptr::NonNull;

/// Why there is no page. `EFAULT`, `EHWPOISON` and `EINTR` of `get_user_pages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinError {
    /// Nothing is mapped there, or not for this kind of access.
    Fault,
    /// The page's memory is broken.
    HwPoison,
    /// A signal came while the page was being brought in.
    Interrupted,
}

/// A page of the process, with a reference.
///
/// # Invariants
///
/// `page` has a reference which this value drops.
pub struct Pinned {
    page: NonNull<bindings::page>,
    writable: bool,
}

impl Pinned {
    /// Physical address of the page.
    #[inline]
    pub fn hpa(&self) -> Hpa {
        // SAFETY: By the invariant a live page.
        Hpa(unsafe { bindings::iv_page_phys(self.page.as_ptr()) })
    }

    /// The process's page table lets the page be written.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Notes that a guest can write the page from now on.
    ///
    /// To be called under the lock under which the notifier would take the page
    /// away, so that the process still maps it.
    #[inline]
    pub fn mark_dirty(&self) {
        // SAFETY: By the invariant a live page.
        unsafe { bindings::iv_page_dirty(self.page.as_ptr()) };
    }
}

impl Drop for Pinned {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the invariant there is a reference to drop.
        unsafe { bindings::iv_page_put(self.page.as_ptr()) };
    }
}

/// The page at `hva`, for reading or for writing too, brought in if need be.
///
/// A page pinned for reading is writable nevertheless when the process's page
/// table allows it at this moment; that costs nothing and saves the fault of
/// the first write. May sleep, takes `mmap_lock`.
///
/// # Errors
///
/// [`PinError`].
pub fn pin(hva: Hva, write: bool) -> Result<Pinned, PinError> {
    if let Some(pinned) = pin_present(hva, true) {
        return Ok(pinned);
    }
    // Read-only, or not there. A read of a page that is there is common: code,
    // and memory that the process shares.
    if !write {
        if let Some(pinned) = pin_present(hva, false) {
            return Ok(pinned);
        }
    }
    // SAFETY: Acts on the calling task's own memory; the contract of this
    // function allows sleeping.
    if unsafe { bindings::iv_fault_in(hva.0 as usize, write) } {
        // What has just been brought in is often writable: private memory, shmem.
        let brought_in = pin_present(hva, true);
        let brought_in = brought_in.or_else(|| (!write).then(|| pin_present(hva, false))?);
        if let Some(pinned) = brought_in {
            return Ok(pinned);
        }
    }
    bring_in(hva, write)
}

/// The page at `hva` if the process has it mapped already. Does not sleep.
#[inline]
pub fn pin_present(hva: Hva, write: bool) -> Option<Pinned> {
    let mut page = ptr::null_mut();
    // SAFETY: `page` receives the result; any address may be asked for.
    let found = unsafe { bindings::iv_gup_fast(hva.0 as usize, write, &mut page) };
    if !found {
        return None;
    }
    // INVARIANT: The reference was taken for the caller.
    NonNull::new(page).map(|page| Pinned {
        page,
        writable: write,
    })
}

/// The page at `hva`, however long it takes; with the reason when there is none.
fn bring_in(hva: Hva, write: bool) -> Result<Pinned, PinError> {
    let mut page = ptr::null_mut();
    // SAFETY: As in `pin_present`; the contract of `pin` allows sleeping.
    let got = unsafe { bindings::iv_gup_slow(hva.0 as usize, write, &mut page) };
    match (got, NonNull::new(page)) {
        // INVARIANT: The reference was taken for the caller.
        (1, Some(page)) => Ok(Pinned {
            page,
            writable: write,
        }),
        (error, _) => Err(pin_error(error)),
    }
}

fn pin_error(error: i32) -> PinError {
    let is = |errno: u32| error == -(errno as i32);
    if is(bindings::EHWPOISON) {
        PinError::HwPoison
    } else if is(bindings::EINTR) || is(bindings::EAGAIN) || is(bindings::ERESTARTSYS) {
        PinError::Interrupted
    } else {
        PinError::Fault
    }
}

/// How much one entry of the process's page table maps at `hva`; `None` when
/// nothing is there.
///
/// True only as long as the notifier has not reported a change, so: read the
/// invalidation sequence first, check it under the lock afterwards.
#[inline]
pub fn host_level(hva: Hva) -> Option<Level> {
    // SAFETY: Walks the calling task's own tables with interrupts off.
    match unsafe { bindings::iv_host_mapping_shift(hva.0 as usize) } {
        0 => None,
        30 => Some(Level::Size1G),
        21 => Some(Level::Size2M),
        _ => Some(Level::Size4K),
    }
}

/// Sends the calling task the `SIGBUS` of a touch of broken memory at `hva`.
pub fn send_hwpoison(hva: Hva) {
    // SAFETY: Signals the calling task; the address is only reported.
    unsafe { bindings::iv_send_hwpoison(hva.0 as usize) };
}
