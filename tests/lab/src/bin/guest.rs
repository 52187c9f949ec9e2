// SPDX-License-Identifier: GPL-2.0-or-later

//! `guest`, a command of the host under test: boots the Linux guest there is
//! under ironvm or QEMU; see `lab::guest`.

use clap::Parser;
use lab::guest::{exec, shell, Vmm};
use std::ffi::OsString;

#[derive(Parser)]
#[command(name = "guest", about = "Boots a Linux guest under ironvm, or QEMU")]
struct Cli {
    /// Run COMMAND in the guest and return its exit status, 255 when the guest
    /// ends before it
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// More for the guest kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// Boot it under QEMU with these words, whose program is in the shared root
    #[arg(
        long,
        value_name = "WORDS",
        allow_hyphen_values = true,
        conflicts_with = "arguments"
    )]
    qemu: Option<String>,
    /// More arguments for `ironvm run`
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

fn main() {
    let cli = Cli::parse();
    let vmm = match cli.qemu {
        Some(words) => Vmm::Qemu(words),
        None => Vmm::Ironvm(cli.arguments),
    };
    let status = match &cli.exec {
        Some(command) => exec(command, &cli.append, &vmm),
        None => shell(&cli.append, &vmm),
    };
    let status = status.unwrap_or_else(|error| {
        eprintln!("guest: {error:#}");
        255
    });
    std::process::exit(status);
}
