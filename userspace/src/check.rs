// SPDX-License-Identifier: GPL-2.0-or-later

//! `ironvm check`: what this host offers for running guests.

use anyhow::Result;

use crate::cli::CheckArgs;
use crate::kvm;

/// Does what `ironvm check` is asked for, and returns the exit status.
///
/// # Errors
///
/// A sentence for the user.
pub fn command(args: &CheckArgs) -> Result<u8> {
    kvm::open(&args.kvm_device)?;
    Ok(0)
}
