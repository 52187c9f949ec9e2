// SPDX-License-Identifier: GPL-2.0-or-later

//! The terminal on stdin: raw while a guest has it, as it was before at any end.
//!
//! The settings to go back to lie in a static, because a signal handler or a panic hook must be
//! able to restore them too.

use std::cell::UnsafeCell;
use std::io::{self, IsTerminal};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};

struct Saved(UnsafeCell<MaybeUninit<libc::termios>>);

// SAFETY: written only in `Raw::take`, by the one that set `TAKEN`, before `RAW` is set; read only
// while `RAW` is set.
unsafe impl Sync for Saved {}

static SAVED: Saved = Saved(UnsafeCell::new(MaybeUninit::uninit()));
/// The terminal is raw and [`SAVED`] holds what it was.
static RAW: AtomicBool = AtomicBool::new(false);
/// There is at most one [`Raw`].
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Signals that end the process on the spot.
const FATAL: [Signal; 5] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGABRT,
    Signal::SIGILL,
    Signal::SIGFPE,
];

/// Restores the terminal if it is raw. Async-signal-safe.
pub fn restore() {
    if RAW.swap(false, Ordering::SeqCst) {
        // SAFETY: `RAW` was true, so the settings are initialized and nobody writes them;
        // tcsetattr is async-signal-safe.
        unsafe {
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, (*SAVED.0.get()).as_ptr());
        }
    }
}

extern "C" fn restore_and_die(signal: libc::c_int) {
    restore();
    // SAFETY: both are async-signal-safe. The default action ends the process once the handler
    // returns and the signal is unblocked.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Whether stdin is a terminal.
pub fn is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether we may read from and change the terminal: a background job may not.
pub fn in_foreground() -> bool {
    // SAFETY: plain queries about this process.
    unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp() }
}

/// The guest's hold on the terminal; dropping it gives the terminal back.
pub struct Raw {
    settings: libc::termios,
}

impl Raw {
    /// Makes the terminal raw: every key reaches the guest, nothing is echoed.
    ///
    /// # Errors
    ///
    /// When stdin is no terminal, or its settings cannot be changed.
    pub fn enter() -> Result<Self> {
        if TAKEN.swap(true, Ordering::SeqCst) {
            anyhow::bail!("the terminal is already in use");
        }
        Self::take().inspect_err(|_| TAKEN.store(false, Ordering::SeqCst))
    }

    fn take() -> Result<Self> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: tcgetattr fills the structure in or fails.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error()).context("cannot read the terminal's settings");
        }
        // SAFETY: it did not fail.
        let before: libc::termios = unsafe { before.assume_init() };
        // SAFETY: `RAW` is false, so nobody reads; `TAKEN` was false, so nobody else writes.
        unsafe { (*SAVED.0.get()).write(before) };
        catch_fatal_signals().context("cannot set up signals")?;
        let mut settings = before;
        // SAFETY: changes a structure of ours.
        unsafe { libc::cfmakeraw(&mut settings) };
        // Our own messages still want their carriage returns.
        settings.c_oflag = before.c_oflag;
        let raw = Self { settings };
        raw.set().context("cannot set up the terminal")?;
        Ok(raw)
    }

    /// Makes the terminal raw again, after [`restore`] or after a shell had it.
    ///
    /// # Errors
    ///
    /// When the settings cannot be changed.
    pub fn set(&self) -> io::Result<()> {
        RAW.store(true, Ordering::SeqCst);
        // SAFETY: the structure is initialized.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &self.settings) } != 0 {
            let error = io::Error::last_os_error();
            RAW.store(false, Ordering::SeqCst);
            return Err(error);
        }
        Ok(())
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
        TAKEN.store(false, Ordering::SeqCst);
    }
}

fn catch_fatal_signals() -> io::Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(restore_and_die),
        SaFlags::SA_NODEFER | SaFlags::SA_ONSTACK,
        SigSet::empty(),
    );
    for signal in FATAL {
        // SAFETY: the handler is async-signal-safe.
        unsafe { signal::sigaction(signal, &action) }.map_err(io::Error::from)?;
    }
    Ok(())
}
