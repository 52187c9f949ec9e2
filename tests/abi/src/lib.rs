// SPDX-License-Identifier: GPL-2.0-or-later

//! What the tests of `/dev/kvm` share.
//!
//! The programs of this package know only the KVM ABI, never which module serves it. Results of
//! system calls are kept raw (`errno` by value), because which error comes back is part of what is
//! tested; that is why the ioctls are called directly and not through a client library.

pub mod asm;
pub mod driver;
pub mod exit;
pub mod fds;
pub mod guest;
pub mod harness;
pub mod ioctls;
pub mod layout;
pub mod lists;
pub mod memory_info;
pub mod signals;
pub mod sys;
pub mod vcpu;

pub use exit::Exit;
pub use guest::Machine;
pub use harness::{Failure, Outcome};
pub use sys::{Errno, SysResult};
pub use vcpu::Vcpu;
