// SPDX-License-Identifier: GPL-2.0-or-later

//! Lines for the user.
//!
//! `eprintln!` and `println!` panic when nobody reads what they write; a guest must not end
//! because the log of its run did. [`say`] and [`answer`] take what those take.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Writes to stderr, in one piece.
pub fn to_stderr(text: Arguments<'_>) {
    // There is nobody to tell if this fails.
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}

/// Writes to stdout, in one piece.
pub fn to_stdout(text: Arguments<'_>) {
    let _ = io::stdout().write_all(text.to_string().as_bytes());
}

/// A line on stderr, with our name in front.
macro_rules! say {
    ($($text:tt)+) => {
        $crate::message::to_stderr(format_args!("ironvm: {}\n", format_args!($($text)+)))
    };
}
pub(crate) use say;

/// A line on stdout.
macro_rules! answer {
    () => {
        $crate::message::to_stdout(format_args!("\n"))
    };
    ($($text:tt)+) => {
        $crate::message::to_stdout(format_args!("{}\n", format_args!($($text)+)))
    };
}
pub(crate) use answer;
