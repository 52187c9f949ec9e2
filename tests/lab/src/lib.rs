// SPDX-License-Identifier: GPL-2.0-or-later

//! The lab: makes the reference platform, boots the *host under test* in an
//! emulator and runs things in it.
//!
//! The words: the *root* is the Debian 13 directory in the cache in which
//! everything is built and the emulators run; the *host under test* is the
//! machine in the emulator, which loads `kvm.ko`; a *guest* is a virtual
//! machine of that host.

pub mod agent;
pub mod bench;
pub mod build;
pub mod emulator;
pub mod guest;
pub mod host;
pub mod image;
pub mod inside;
pub mod klog;
pub mod modules;
pub mod place;
pub mod setup;
pub mod sync;
pub mod table;
pub mod term;
pub mod test;
pub mod wire;
