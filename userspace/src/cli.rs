// SPDX-License-Identifier: GPL-2.0-or-later

//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use crate::size::{self, ByteSize};

const EXAMPLES: &str = "\
Examples:
  Can this machine run guests?
      ironvm check

  Boot a kernel with an initramfs, console on this terminal (Ctrl-A x leaves):
      ironvm run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0'

  Two vCPUs, 1 GiB, a disk, a second disk the guest cannot write:
      truncate -s 4G root.img
      ironvm run --kernel vmlinuz --cpus 2 --memory 1G \\
          --disk root.img --disk data.img,ro --append 'console=ttyS0 root=/dev/vda'

  In a script: console to a file, end instead of rebooting, exit status from the guest:
      ironvm run --kernel vmlinuz --initrd test.cpio --console file:log \\
          --no-reboot --exit-port --append 'console=ttyS0 panic=-1'; echo $?";

const EXIT_STATUSES: &str = "\
Exit status:
    0  the guest powered off (with --exit-port: it reported 0)
    2  the command line is wrong
  119  the guest powered off without reporting a status (only with --exit-port)
  120  the guest reset and --no-reboot was given
  121  the guest's kernel reported a panic (pvpanic)
  122  a vCPU triple-faulted
  123  KVM could not run the guest any further; registers are on stderr
  125  ironvm could not do what was asked; the reason is on stderr
  126  ended with Ctrl-A x
  128+N  ended by signal N
  With --exit-port any other status is the one the guest reported.";

/// Run virtual machines on KVM.
#[derive(Debug, Parser)]
#[command(name = "ironvm", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest and stay with it until it ends
    #[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_STATUSES}"))]
    Run(RunArgs),
    /// Say what this host offers for running guests, and how to get what is missing
    Check(CheckArgs),
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The KVM device to look at
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm")]
    pub kvm_device: PathBuf,
}

#[derive(Args, Debug)]
pub struct RunArgs {
    /// Kernel to boot: a bzImage (vmlinuz), or an ELF vmlinux with a PVH entry point
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,

    /// Initial RAM disk or initramfs to give the kernel
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// Kernel command line
    #[arg(
        long,
        value_name = "STRING",
        default_value = "console=ttyS0",
        allow_hyphen_values = true
    )]
    pub append: String,

    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,

    /// Guest memory: K, M, G or T; a bare number is in MiB
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size::parse)]
    pub memory: ByteSize,

    /// Back guest memory with transparent huge pages where the host can
    #[arg(long)]
    pub hugepages: bool,

    /// Raw disk image or block device, as virtio disk; `,ro` makes it read-only. Repeatable:
    /// the first is /dev/vda, the next /dev/vdb, ...
    #[arg(long = "disk", value_name = "FILE[,ro]")]
    pub disks: Vec<DiskArg>,

    /// Where a serial port goes: `stdio`, `file:PATH` or `none`. The first is ttyS0 (default
    /// stdio), a second one ttyS1
    #[arg(long = "console", value_name = "WHERE")]
    pub consoles: Vec<ConsoleArg>,

    /// End when the guest resets, instead of booting it again
    #[arg(long)]
    pub no_reboot: bool,

    /// Give the guest a port (0xf4 if none is named) that ends the run: a byte written there
    /// becomes the exit status
    #[arg(
        long,
        value_name = "PORT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0xf4",
        value_parser = parse_port
    )]
    pub exit_port: Option<u16>,

    /// The KVM device to use
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm")]
    pub kvm_device: PathBuf,

    /// Say only what went wrong
    #[arg(long, short)]
    pub quiet: bool,
}

/// One `--disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArg {
    pub path: PathBuf,
    pub read_only: bool,
}

impl FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, read_only) = match text.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        if path.is_empty() {
            return Err("name a file, as in disk.img or disk.img,ro".to_owned());
        }
        Ok(Self {
            path: PathBuf::from(path),
            read_only,
        })
    }
}

/// One `--console`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleArg {
    Stdio,
    File(PathBuf),
    None,
}

impl FromStr for ConsoleArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "none" => Ok(Self::None),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            _ => Err("use stdio, file:PATH or none".to_owned()),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| "an I/O port is a number up to 0xffff, as in 0xf4".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(args: &[&str]) -> Result<RunArgs, clap::Error> {
        let all = ["ironvm", "run", "--kernel", "k"].iter().chain(args);
        Cli::try_parse_from(all).map(|cli| match cli.command {
            Command::Run(args) => args,
            Command::Check(_) => unreachable!(),
        })
    }

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let args = run(&[]).unwrap();
        assert_eq!(args.cpus, 1);
        assert_eq!(args.memory, ByteSize(512 << 20));
        assert_eq!(args.append, "console=ttyS0");
        assert_eq!(args.exit_port, None);
        assert!(args.disks.is_empty() && args.consoles.is_empty() && !args.no_reboot);
    }

    #[test]
    fn disks() {
        let args = run(&["--disk", "a.img", "--disk", "/x/b,c.img,ro"]).unwrap();
        assert_eq!(
            args.disks[0],
            DiskArg {
                path: "a.img".into(),
                read_only: false
            }
        );
        assert_eq!(
            args.disks[1],
            DiskArg {
                path: "/x/b,c.img".into(),
                read_only: true
            }
        );
        assert!(run(&["--disk", ",ro"]).is_err());
    }

    #[test]
    fn consoles() {
        let args = run(&[
            "--console",
            "file:log",
            "--console",
            "none",
            "--console",
            "stdio",
        ])
        .unwrap();
        assert_eq!(
            args.consoles,
            [
                ConsoleArg::File("log".into()),
                ConsoleArg::None,
                ConsoleArg::Stdio
            ]
        );
        for bad in ["file:", "tcp:1", "stdin", ""] {
            assert!(run(&["--console", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn exit_port() {
        assert_eq!(run(&["--exit-port"]).unwrap().exit_port, Some(0xf4));
        assert_eq!(run(&["--exit-port=0x501"]).unwrap().exit_port, Some(0x501));
        assert_eq!(run(&["--exit-port=80"]).unwrap().exit_port, Some(80));
        assert!(run(&["--exit-port=0x10000"]).is_err());
    }

    #[test]
    fn append_may_begin_with_a_hyphen() {
        assert_eq!(run(&["--append", "-x"]).unwrap().append, "-x");
    }
}
