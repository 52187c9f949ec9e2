// SPDX-License-Identifier: GPL-2.0

//! From a host virtual address to the page behind it.
//!
//! All of this is about the calling task's own memory. Nothing is kept: an
//! address goes into a nested table, and the MMU notifier keeps that true.
//! Memory that the process has mapped already is found by looking
//! ([`look`]); [`fault_in`] does what a touch would; for what both leave over
//! there is `get_user_pages` ([`pin`]).
//!
//! Memory without `struct page` (`VM_IO`, `VM_PFNMAP`: a device's registers) is
//! refused with [`PinError::Fault`].

use crate::host::bindings;
use crate::host::task::IrqOff;
use crate::pc::addr::Hpa;
use crate::pc::addr::Hva;
use crate::pc::addr::PAGE_SHIFT;
use crate::pc::nested::Level;
use core::ptr;
use core::ptr::NonNull;

// What `iv_host_page` says below the address.
const ASK: u64 = 1;
const LOW_BITS: u64 = 0xfff;
const SHIFT: u64 = 0x3f;
const WRITABLE: u64 = 0x40;
const DIRTY: u64 = 0x80;

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
}

impl Drop for Pinned {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the invariant there is a reference to drop.
        unsafe { bindings::iv_page_put(self.page.as_ptr()) };
    }
}

/// A page that the process's page table had when it was looked at.
///
/// # Invariants
///
/// The word is what `iv_host_page` gives for plain memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Found(u64);

impl Found {
    /// A page that was not looked up, but pinned: `size` around it is in one
    /// piece with it.
    pub fn pinned(page: &Pinned, size: Level) -> Self {
        let writable = if page.is_writable() { WRITABLE } else { 0 };
        let shift = u64::from(PAGE_SHIFT.wrapping_add(size.order()));
        // INVARIANT: The same bits.
        Self(page.hpa().0 | shift | writable)
    }

    /// Physical address of the page.
    #[inline]
    pub const fn hpa(self) -> Hpa {
        Hpa(self.0 & !LOW_BITS)
    }

    /// How much of the process's memory around it is in one piece with it.
    #[inline]
    pub const fn size(self) -> Level {
        match self.0 & SHIFT {
            30 => Level::Size1G,
            21 => Level::Size2M,
            _ => Level::Size4K,
        }
    }

    /// The process may write it.
    #[inline]
    pub const fn is_writable(self) -> bool {
        self.0 & WRITABLE != 0
    }

    /// Notes that a guest can write the page from now on.
    ///
    /// # Safety
    ///
    /// The process still maps the page: as when the lock is held under which
    /// the notifier would take the page away, and it has nothing to report.
    #[inline]
    pub unsafe fn mark_dirty(self) {
        // The kernel looks at the entry's own flag before it forgets the entry,
        // and takes the flag back only with a report to the notifier.
        if self.0 & DIRTY != 0 {
            return;
        }
        // SAFETY: By the contract memory in use, so it has a `struct page`.
        unsafe { bindings::iv_page_dirty(self.hpa().0) };
    }
}

/// What a look at the process's page table says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Memory that may be used.
    Found(Found),
    /// A page that only [`pin`] may give: a file's, the zero page.
    Ask,
    /// Nothing there, or not for this access.
    Absent,
}

/// Looks up what the process's page table maps at `hva` and allows. Does not
/// sleep.
///
/// What is found may be gone before this returns: read the invalidation
/// sequence first, check it afterwards under the lock.
#[inline]
pub fn look(_off: &IrqOff, hva: Hva, write: bool) -> Look {
    // SAFETY: Walks the calling task's own tables with interrupts off.
    let entry = unsafe { bindings::iv_host_page(hva.0 as usize, write) };
    match entry {
        0 => Look::Absent,
        ASK => Look::Ask,
        // INVARIANT: Plain memory.
        word => Look::Found(Found(word)),
    }
}

/// Brings the page at `hva` in as a touch by the process would, without touching
/// it. Whether it can be expected to be there now; if not, [`pin`] tells why.
/// May sleep.
#[inline]
pub fn fault_in(hva: Hva, write: bool) -> bool {
    // SAFETY: Acts on the calling task's own memory.
    unsafe { bindings::iv_fault_in(hva.0 as usize, write) }
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
    if let Some(pinned) = pin_present(hva, write) {
        return Ok(pinned);
    }
    bring_in(hva, write)
}

/// The page at `hva` if the process has it mapped already. Does not sleep.
fn pin_present(hva: Hva, write: bool) -> Option<Pinned> {
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
pub fn host_level(_off: &IrqOff, hva: Hva) -> Option<Level> {
    // SAFETY: Walks the calling task's own tables with interrupts off.
    level_of_shift(unsafe { bindings::iv_host_mapping_shift(hva.0 as usize) })
}

/// The leaf of `1 << shift` bytes.
#[inline]
fn level_of_shift(shift: u32) -> Option<Level> {
    match shift {
        12 => Some(Level::Size4K),
        21 => Some(Level::Size2M),
        30 => Some(Level::Size1G),
        _ => None,
    }
}

/// Sends the calling task the `SIGBUS` of a touch of broken memory at `hva`.
pub fn send_hwpoison(hva: Hva) {
    // SAFETY: Signals the calling task; the address is only reported.
    unsafe { bindings::iv_send_hwpoison(hva.0 as usize) };
}
