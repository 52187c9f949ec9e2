// SPDX-License-Identifier: GPL-2.0

//! `kvm.ko`: the KVM ABI served from Rust.
//!
//! Layers, each knowing only those below it: `api` (the ABI), `vm` (a virtual
//! machine), `pc` (what a PC is) and `hw` (how this CPU runs a guest), `host`
//! (what Linux gives).

// The crate's modules are shared with the host-testable `ironvm-pc` crate,
// where `pub` is their interface.
#![allow(unreachable_pub)]

use kernel::prelude::*;

mod pc;

#[allow(dead_code, reason = "the ABI is declared whole")]
#[path = "../uapi/src/abi.rs"]
mod uapi;

module! {
    type: KvmModule,
    name: "kvm",
    authors: ["The ironvm authors"],
    description: "KVM in Rust: AMD SVM and Intel VMX",
    license: "GPL",
}

struct KvmModule;

impl kernel::Module for KvmModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self)
    }
}
