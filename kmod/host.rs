// SPDX-License-Identifier: GPL-2.0

//! What Linux gives: every use of the kernel's C interface, behind safe types.
//!
//! No other part of the module names `bindings` or calls a shim.

mod bindings;

pub mod cpu;
pub mod debug_registers;
pub mod errno;
pub mod eventfd;
pub mod file;
pub mod fpu;
pub mod global;
pub mod hint;
pub mod log;
pub mod machine_check;
pub mod mm;
pub mod mutex;
pub mod page;
pub mod page_box;
pub mod params;
pub mod segments;
pub mod split_lock;
pub mod sync;
pub mod task;
pub mod time;
pub mod timer;
pub mod user;
