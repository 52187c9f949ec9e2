// SPDX-License-Identifier: GPL-2.0-or-later

//! `ironvm`: runs virtual machines on KVM.
//!
//! The command line is taken apart in [`cli`]; `ironvm run` is [`vmm`], `ironvm check` is
//! [`check`]. Every way a run can end has its own exit status, see [`ending`].

mod boot;
mod bus;
mod check;
mod cli;
mod config;
mod console;
mod devices;
mod ending;
mod irq;
mod kvm;
mod memory;
mod size;
mod sync;
mod vcpu;
mod vmm;

use clap::Parser;
use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::ending::status;

fn main() -> ExitCode {
    console::terminal::restore_on_panic();
    let done = match Cli::parse().command {
        Command::Run(args) => vmm::command(&args),
        Command::Check(args) => check::command(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ironvm: {error:#}");
            ExitCode::from(status::FAILED)
        }
    }
}
