// SPDX-License-Identifier: GPL-2.0

//! What a PC is: processor behaviour and chipset, as pure code.
//!
//! Nothing below this module knows the kernel, allocates, or contains
//! `unsafe`. Everything here is compiled twice: into `kvm.ko` and into the
//! `ironvm-pc` crate for tests, Miri and fuzzers.

#![forbid(unsafe_code)]

pub mod addr;
pub mod bits;
pub mod clock;
pub mod control;
pub mod cpuid;
pub mod decode;
pub mod emulate;
pub mod ioapic;
pub mod irq;
pub mod lapic;
pub mod msr;
pub mod nested;
pub mod pic;
pub mod pit;
pub mod regs;
pub mod search;
pub mod slots;
pub mod tsc;
pub mod walk;
