// SPDX-License-Identifier: GPL-2.0-or-later

//! The user's terminal, raw for as long as something in the host under test
//! has it.

use anyhow::Result;
use nix::sys::signal::{signal, SigHandler, Signal};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg, Termios};
use std::io::IsTerminal;
use std::sync::OnceLock;

/// What ends the host under test: Ctrl-].
pub const ESCAPE: u8 = 0x1d;

/// How the terminal was, for whoever is the one to restore it.
static BEFORE: OnceLock<libc::termios> = OnceLock::new();

/// Whether there is a terminal on both ends.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// A terminal that passes every key on; as before when dropped.
pub struct Raw(Termios);

impl Raw {
    pub fn new() -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin)?;
        let _ = BEFORE.set(before.clone().into());
        for end in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
            // SAFETY: the handler calls async-signal-safe functions only.
            unsafe { signal(end, SigHandler::Handler(restore_and_exit)) }?;
        }
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

extern "C" fn restore_and_exit(number: libc::c_int) {
    if let Some(before) = BEFORE.get() {
        // SAFETY: the pointer is to a `termios` that lives for ever.
        unsafe { libc::tcsetattr(0, libc::TCSANOW, before) };
    }
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(128 + number) };
}

/// Rows and columns of the terminal.
pub fn size() -> Option<(u16, u16)> {
    // SAFETY: all-zero is a valid `winsize`.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `winsize` through the pointer.
    let result = unsafe { libc::ioctl(0, libc::TIOCGWINSZ, &mut size) };
    (result == 0 && size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}
