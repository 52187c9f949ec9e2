// SPDX-License-Identifier: GPL-2.0-or-later

//! The KVM ABI as Rust types.
//!
//! `abi.rs` is compiled into the kernel module too, so it depends on nothing.

#![no_std]

mod abi;
pub use abi::*;
