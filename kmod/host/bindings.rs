// SPDX-License-Identifier: GPL-2.0

//! The kernel's C interface: `kernel::bindings` and the functions of `shim/`.
//!
//! Only files below `host/` name this module.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    reason = "generated"
)]

use kernel::ffi;

pub(super) use kernel::bindings::*;

include!("bindings_generated.rs");
