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
mod message;
mod size;
mod sync;
mod vcpu;
mod vmm;

use clap::Parser;
use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::ending::status;
use crate::message::say;

fn main() -> ExitCode {
    end_on_panic();
    let done = match Cli::parse().command {
        Command::Run(args) => vmm::command(&args),
        Command::Check(args) => check::command(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say!("{error:#}");
            ExitCode::from(status::FAILED)
        }
    }
}

/// A panic is a mistake of ours, in whichever thread. The terminal is given back, the mistake
/// shown, and the process ends: a guest with half of its threads would only hang.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        console::terminal::restore();
        report(info);
        say!("this is a mistake in ironvm itself; please report it");
        std::process::exit(i32::from(status::FAILED));
    }));
}
