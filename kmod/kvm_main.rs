// SPDX-License-Identifier: GPL-2.0

//! `kvm.ko`: the KVM ABI served from Rust.
//!
//! Layers, each knowing only those below it: `api` (the ABI), `vm` (a virtual
//! machine), `pc` (what a PC is) and `hw` (how this CPU runs a guest), `host`
//! (what Linux gives).

// The crate's modules are shared with the host-testable `ironvm-pc` crate,
// where `pub` is their interface.
#![allow(unreachable_pub)]

use crate::host::cpu::Extension;
use crate::host::cpu::Virtualization;
use crate::host::file::Device;
use crate::hw::svm::Svm;
use crate::hw::vmx;
use crate::hw::vmx::Vmx;
use crate::hw::Vendor;
use core::marker::PhantomData;
use kernel::prelude::*;

mod api;
mod host;
mod hw;
#[allow(
    dead_code,
    unused_imports,
    reason = "the PC is described whole: the other vendor and the tests use the rest"
)]
mod pc;
mod vm;

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

/// What the vendor holds for all vCPUs, as long as this lives.
struct Globals<V: Vendor>(PhantomData<fn() -> V>);

impl<V: Vendor> Globals<V> {
    fn new() -> Result<Self> {
        V::load_globals()?;
        let this = Self(PhantomData);
        vm::model::init::<V>()?;
        Ok(this)
    }
}

impl<V: Vendor> Drop for Globals<V> {
    fn drop(&mut self) {
        // SAFETY: Dropped after the device node and with virtualization off:
        // no file of the module is open, so no vCPU is left.
        unsafe {
            vm::model::exit();
            V::unload_globals();
        }
    }
}

/// The module on one vendor's processors. Fields are dropped in this order.
struct Running<V: Vendor> {
    /// The way in.
    _device: Device,
    /// The extension, on every CPU.
    _virtualization: Virtualization<V>,
    _globals: Globals<V>,
}

impl<V: Vendor> Running<V> {
    fn start() -> Result<Self> {
        V::probe()?;
        let globals = Globals::new()?;
        let virtualization = Virtualization::enable()?;
        host::params::settle(&V::settled());
        let device = host::file::register_device::<api::SystemFile<V>>()?;
        pr_info!("{} virtual machines are ready to run\n", V::NAME);
        Ok(Self {
            _device: device,
            _virtualization: virtualization,
            _globals: globals,
        })
    }
}

/// The module on the processors it has found. The vendor is chosen here, once.
#[expect(dead_code, reason = "held, not used")]
enum KvmModule {
    Svm(Running<Svm>),
    /// Extended page tables have accessed and dirty flags.
    Vmx(Running<Vmx<true>>),
    /// They have not.
    OldVmx(Running<Vmx<false>>),
}

impl kernel::Module for KvmModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        match Extension::of_this_cpu() {
            Extension::Svm => Running::start().map(Self::Svm),
            Extension::Vmx if vmx::has_accessed_dirty() => Running::start().map(Self::Vmx),
            Extension::Vmx => Running::start().map(Self::OldVmx),
        }
    }
}
