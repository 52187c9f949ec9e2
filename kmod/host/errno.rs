// SPDX-License-Identifier: GPL-2.0

//! Errors of code that knows their numbers only.

use kernel::error::Error;

/// The error whose number is `errno`, which is positive.
pub fn error(errno: i32) -> Error {
    Error::from_errno(errno.wrapping_neg())
}
