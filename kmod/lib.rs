// SPDX-License-Identifier: GPL-2.0

//! The host-testable half of `kvm.ko`.
//!
//! The module's own root is `kvm_main.rs`; both roots name the same files, so
//! what passes here is what runs in the kernel.

#![cfg_attr(not(test), no_std)]

pub mod pc;

/// What of `hw` is free of kernel types.
pub mod hw {
    pub mod event;
    pub mod exit;

    pub use self::exit::Event;
    pub use self::exit::Exit;
    pub use self::exit::IoExit;
    pub use self::exit::NestedFault;
    pub use self::exit::RegisterAccess;

    /// What of `hw::vmx` is.
    pub mod vmx {
        pub mod apicv;
        pub mod controls;
        pub mod dump;
        pub mod event;
        pub mod exit;
        pub mod field;
        pub mod msr_bitmap;
        pub mod run_timer;
        pub mod write_log;
    }
}

/// What of `vm` is.
pub mod vm {
    pub mod request;
}

#[path = "../uapi/src/abi.rs"]
pub mod uapi;
