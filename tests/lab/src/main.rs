// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo lab`: the command line.

use anyhow::{bail, Result};
use clap::{Args, Parser, Subcommand};
use lab::build::{Builder, Module, Programs};
use lab::emulator::Vendor;
use lab::host::{HostSpec, Input, Job, Kvm, Prepared, Through};
use lab::place::Place;
use lab::{bench, inside, setup, table, term, test};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(
    name = "lab",
    version,
    about = "Builds ironvm and runs it in an emulated machine"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the reference platform in the cache (the other commands do it too)
    Setup,
    /// Build kvm.ko, ironvm and the tests
    Build,
    /// Boot the host under test and a Linux guest in it, on this terminal
    Run(Run),
    /// Run a command in the host under test
    Exec(Exec),
    /// Open a shell in the host under test
    Shell(Host),
    /// Run all tests, or those whose name contains FILTER
    Test {
        filter: Option<String>,
        /// Also those that take hours on a small machine: most of what runs in Bochs
        #[arg(long)]
        long: bool,
    },
    /// Count the instructions of each kind of exit, ours beside stock KVM's
    Bench {
        #[arg(long, value_enum, default_value = "svm")]
        vendor: Vendor,
        /// The model of its processor, by Bochs' name for it (vmx only)
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
    },
}

/// The host under test.
#[derive(Args)]
struct Host {
    /// The kind of hardware virtualization it has
    #[arg(long, value_enum, default_value = "svm")]
    vendor: Vendor,
    /// The model of its processor, by Bochs' name for it, as in
    /// corei7_skylake_x (vmx only) [default: corei7_ivy_bridge_3770k]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Whose /dev/kvm it has
    #[arg(long, value_enum, default_value = "ours")]
    kvm: Kvm,
    /// Its number of CPUs [default: 2]
    #[arg(long)]
    cpus: Option<u32>,
    /// Its memory, as in 2G or 512M [default: 2G, with vmx 1G; vmx has no more than 2G]
    #[arg(long, value_parser = table::megabytes)]
    mem: Option<u32>,
    /// Counting mode: the TSC counts instructions (one CPU). With vmx it always does;
    /// then this only lets the host come to rest first
    #[arg(long)]
    count: bool,
    /// A directory for it to read, as the working directory (with vmx a copy in its memory)
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// Parameters for the module, as in "a=1 b=2"
    #[arg(long, value_name = "PARAMETERS", default_value = "")]
    module_args: String,
    /// More for its kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// Use what was built last
    #[arg(long)]
    no_build: bool,
    /// Do without the programs that do not build
    #[arg(long)]
    keep_going: bool,
}

impl Host {
    fn spec(&self) -> HostSpec {
        let usual = HostSpec::new(self.vendor, self.kvm);
        HostSpec {
            model: self.model.clone(),
            parameters: self.module_args.clone(),
            cpus: self.cpus.unwrap_or(if self.count { 1 } else { 2 }),
            memory_mib: self.mem.unwrap_or(usual.memory_mib),
            count: self.count,
            share: self.share.clone(),
            append: self.append.clone(),
            ..usual
        }
    }

    fn module(&self) -> Module {
        match self.kvm {
            // What is counted is what users run.
            Kvm::Ours if self.count => Module::Lenient,
            Kvm::Ours => Module::Quick,
            Kvm::Stock | Kvm::None => Module::Not,
        }
    }

    fn programs(&self) -> Programs {
        if self.keep_going {
            Programs::Lenient
        } else {
            Programs::Strict
        }
    }
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    host: Host,
    /// Run COMMAND in the guest instead of a shell and return its exit status
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// End it after this many seconds [default: 300 with --exec, else none]
    #[arg(long, value_name = "SECS")]
    timeout: Option<u64>,
    /// More arguments for `ironvm run`
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

#[derive(Args)]
struct Exec {
    #[command(flatten)]
    host: Host,
    /// End it after this many seconds
    #[arg(long, value_name = "SECS", default_value_t = 300)]
    timeout: u64,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

fn main() {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|word| word == inside::ENTER) {
        let rest: Vec<_> = arguments.collect();
        let status = inside::enter(&rest).unwrap_or_else(|error| {
            eprintln!("lab: {error:#}");
            125
        });
        std::process::exit(status);
    }
    let status = dispatch(Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("lab: {error:#}");
        125
    });
    std::process::exit(status);
}

fn dispatch(command: Command) -> Result<i32> {
    let place = Place::find()?;
    match command {
        Command::Setup => {
            let start = Instant::now();
            let platform = setup::setup(&place)?;
            println!(
                "lab: Linux {} in {}, {} s",
                platform.release,
                platform.dir.display(),
                start.elapsed().as_secs()
            );
            Ok(0)
        }
        Command::Build => {
            let platform = setup::setup(&place)?;
            Builder::new(&place, &platform)?.all(Module::Strict, Programs::Strict)?;
            Ok(0)
        }
        Command::Run(run) => run_guest(&place, &run),
        Command::Exec(exec) => {
            let input = if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
                Input::Nothing
            } else {
                Input::Stdin
            };
            let job = Job {
                command: exec.command,
                input,
                limit: Some(Duration::from_secs(exec.timeout)),
            };
            on_host(&place, &exec.host, &job)
        }
        Command::Shell(host) => {
            let job = Job {
                command: vec!["sh".into()],
                input: announce("the host under test"),
                limit: None,
            };
            on_host(&place, &host, &job)
        }
        Command::Test { filter, long } => test::all(&place, filter.as_deref(), long),
        Command::Bench { vendor, model } => bench::bench(&place, vendor, model.as_deref()),
    }
}

/// How a person talks to `what`, and says how to end it.
fn announce(what: &str) -> Input {
    if !term::is_interactive() {
        return Input::Stdin;
    }
    eprintln!("lab: booting {what}; Ctrl-] ends it");
    Input::Terminal
}

/// Builds, boots, runs `job`; the exit status for the lab.
fn on_host(place: &Place, host: &Host, job: &Job) -> Result<i32> {
    let spec = host.spec();
    spec.check()?;
    let platform = setup::setup(place)?;
    let builder = if host.no_build {
        Builder::without_copying(place, &platform)?
    } else {
        let builder = Builder::new(place, &platform)?;
        builder.all(host.module(), host.programs())?;
        builder
    };
    let prepared = Prepared::new(place, &platform, &builder, &spec)?;
    // Others may build while this one runs.
    drop(builder);
    let outcome = prepared.run(job, &mut Through)?;
    if let Some(text) = outcome.explain() {
        eprintln!("lab: {}", text.trim_end());
    }
    Ok(outcome.exit_code())
}

/// `lab run`.
fn run_guest(place: &Place, run: &Run) -> Result<i32> {
    if run.host.kvm == Kvm::None {
        bail!("a guest needs /dev/kvm: --kvm ours or stock");
    }
    let mut command: Vec<OsString> = vec!["guest".into()];
    let mut limit = run.timeout;
    let input = match &run.exec {
        Some(exec) => {
            command.extend(["--exec".into(), exec.into()]);
            limit = limit.or(Some(300));
            Input::Nothing
        }
        None => announce("the host under test and a guest in it"),
    };
    command.push("--".into());
    command.extend(run.arguments.iter().cloned());
    let job = Job {
        command,
        input,
        limit: limit.map(Duration::from_secs),
    };
    on_host(place, &run.host, &job)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_sound() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["lab", "exec", "--count", "--", "sh", "-c", "exit 3"]);
        let Command::Exec(exec) = cli.command else {
            panic!("not exec");
        };
        assert_eq!(exec.host.spec().cpus, 1);
        assert_eq!(exec.command.len(), 3);
    }
}
