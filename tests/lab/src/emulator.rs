// SPDX-License-Identifier: GPL-2.0-or-later

//! The emulators that a host under test can run in.

mod bochs;
mod qemu;

use crate::setup::Platform;
use anyhow::Result;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;

pub use bochs::Bochs;
pub use qemu::Qemu;

/// The two ways of hardware virtualization, each with its emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Vendor {
    /// AMD's, emulated by QEMU.
    Svm,
    /// Intel's, emulated by Bochs.
    Vmx,
}

impl Vendor {
    pub fn emulator(self) -> &'static dyn Emulator {
        match self {
            Self::Svm => &Qemu,
            Self::Vmx => &Bochs,
        }
    }
}

/// A machine to be emulated.
pub struct Machine<'a> {
    pub platform: &'a Platform,
    /// The processor's model, by the emulator's name for it.
    pub model: Option<&'a str>,
    pub cpus: u32,
    pub memory_mib: u32,
    /// Whether the TSC counts instructions instead of time.
    pub count: bool,
    /// Kernel and command line.
    pub kernel: PathBuf,
    pub append: String,
    /// A folder of this run; `initrd` in it is the initramfs, `console` in it
    /// becomes what the machine's console says.
    pub run: &'a Path,
    /// A directory for the machine to read, unless it is in the initramfs.
    pub share: Option<&'a Path>,
}

/// A machine that runs, until dropped.
pub struct Running {
    /// What the agent says, and where to answer it.
    pub from_agent: File,
    pub to_agent: File,
    /// The emulator first, then what helps it.
    pub processes: Vec<Child>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// How a machine ends itself so that its emulator ends too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Reset,
    PowerOff,
}

/// How a machine comes to see the shared directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// It is mounted from outside.
    Virtiofs,
    /// A copy of it is in the initramfs.
    Copy,
}

/// Something that can run a [`Machine`].
pub trait Emulator: Sync {
    /// The device of the host under test through which the agent reports.
    fn port(&self) -> &'static str;

    /// Kernel parameters that the emulated machine wants.
    fn append(&self) -> &'static str;

    /// How the machine is to end itself.
    fn end(&self) -> End;

    fn sharing(&self) -> Sharing;

    /// The machine's memory when nobody says how much.
    fn default_memory_mib(&self) -> u32;

    /// The kernel's own module for the processor.
    fn stock_module(&self, model: Option<&str>) -> &'static str;

    /// Refuses what the emulator cannot do.
    fn check(&self, model: Option<&str>, memory_mib: u32) -> Result<()>;

    /// Why the emulator itself has given up, from what it left in the folder
    /// `run`; `None` if it has not.
    fn failure(&self, run: &Path) -> Option<String>;

    /// Starts the machine.
    fn start(&self, machine: &Machine) -> Result<Running>;
}
