// SPDX-License-Identifier: GPL-2.0

//! What Linux gives: every use of the kernel's C interface, behind safe types.
//!
//! No other part of the module names `bindings` or calls a shim.

mod bindings;

pub mod cpu;
pub mod file;
pub mod fpu;
pub mod mm;
pub mod page;
pub mod sync;
pub mod task;
pub mod user;
