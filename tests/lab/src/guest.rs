// SPDX-License-Identifier: GPL-2.0-or-later

//! The guest of `lab run`: the stock kernel with busybox, under ironvm or QEMU. Its
//! initramfs is made on this machine, the rest runs in the host under test.

mod qemu;

use crate::image::{add_busybox, add_modules, Archive};
use crate::inside::tail;
use crate::setup::Platform;
use anyhow::{bail, Context, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The guest's kernel, in the host under test.
pub const KERNEL: &str = "/lab/guest/vmlinuz";
/// The guest's initramfs, in the host under test.
pub const INITRD: &str = "/lab/guest/initrd.cpio";
/// Modules of the stock kernel that the guest loads: drivers of ironvm's devices.
pub const MODULES: [&str; 2] = ["virtio_blk", "virtio_rng"];
/// The guest's first program. With a command to run, it marks the beginning
/// and the end of its output; see [`Marks`].
pub const INIT: &str = r#"#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
export PATH=/bin HOME=/ TERM=linux
for module in virtio_blk virtio_rng; do
    modprobe -q $module
done
if [ -e /lab/command ]; then
    mark=$(cat /lab/mark)
    stty -opost -echo 2>/dev/null
    echo "$mark begin"
    sh /lab/command </dev/null 2>&1
    echo "$mark end $?"
else
    echo
    echo "Linux $(uname -r) as a guest of ironvm; exit ends it."
    export PS1='guest# '
    setsid cttyhack sh
fi
sync
poweroff -f
"#;

/// The initramfs of the guest.
pub fn initrd(platform: &Platform) -> Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    add_busybox(&mut archive, platform)?;
    add_modules(&mut archive, platform, &MODULES)?;
    archive.program("/init", INIT.as_bytes())?;
    archive.finish()
}

/// What makes the guest run `command`: an archive behind its initramfs.
fn exec_piece(command: &str, mark: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    archive.file("/lab/command", format!("{command}\n").as_bytes())?;
    archive.file("/lab/mark", mark.as_bytes())?;
    archive.finish()
}

/// A mark that no console has said before.
fn new_mark() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// The command that boots the guest.
fn ironvm(initrd: &Path, append: &str, arguments: &[OsString]) -> Command {
    let mut ironvm = Command::new("ironvm");
    ironvm.args(["run", "--kernel", KERNEL, "--initrd"]);
    ironvm.arg(initrd);
    ironvm.args(["--no-reboot", "--append"]);
    // The self-tests of its crypto take seconds in an emulator.
    ironvm.arg(format!("console=ttyS0 panic=-1 cryptomgr.notests {append}").trim());
    ironvm.args(arguments);
    ironvm
}

/// What runs the guest.
pub enum Vmm {
    /// `ironvm run`, with more arguments.
    Ironvm(Vec<OsString>),
    /// QEMU, with these words.
    Qemu(String),
}

impl Vmm {
    fn command(&self, initrd: &Path, append: &str) -> Result<Command> {
        match self {
            Self::Ironvm(arguments) => Ok(ironvm(initrd, append, arguments)),
            Self::Qemu(words) => qemu::command(words, initrd, append),
        }
    }
}

/// Becomes a guest with a shell.
pub fn shell(append: &str, vmm: &Vmm) -> Result<i32> {
    let append = format!("loglevel=5 {append}");
    let error = vmm.command(Path::new(INITRD), &append)?.exec();
    bail!("cannot run the guest: {error}")
}

/// Runs `command` in a guest; its exit status.
pub fn exec(command: &str, append: &str, vmm: &Vmm) -> Result<i32> {
    let mark = new_mark()?;
    let initrd = std::env::temp_dir().join(format!("{mark}.cpio"));
    let mut content = fs::read(INITRD).context(INITRD)?;
    content.extend(exec_piece(command, &mark)?);
    fs::write(&initrd, content)?;

    let mut child = vmm
        .command(&initrd, &format!("quiet {append}"))?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run the guest")?;
    let mut console = child.stdout.take().context("no console")?;
    let mut marks = Marks::new(&mark);
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = console.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        seen.extend_from_slice(&buffer[..count]);
        let mut stdout = std::io::stdout();
        stdout.write_all(&marks.feed(&buffer[..count]))?;
        stdout.flush()?;
    }
    let ended = child.wait()?;
    // Only room is lost when this fails.
    let _ = fs::remove_file(initrd);
    let console = || tail(&String::from_utf8_lossy(&seen).replace('\r', ""), 60);
    let Some(status) = marks.status() else {
        bail!(
            "the guest ended ({ended}) before the command did; the guest's console:\n{}",
            console()
        );
    };
    if !ended.success() {
        bail!("the command ended with {status}, but the guest with {ended}");
    }
    Ok(status)
}

/// Finds the command's output between the marks in what the console says.
///
/// There is no other way out of a guest than its console, so the marks must be
/// lines that nothing else writes: each run makes up its own.
pub struct Marks {
    begin: Vec<u8>,
    end: Vec<u8>,
    seen: Vec<u8>,
    inside: bool,
    status: Option<i32>,
}

impl Marks {
    pub fn new(mark: &str) -> Self {
        Self {
            begin: format!("{mark} begin\n").into_bytes(),
            end: format!("{mark} end ").into_bytes(),
            seen: Vec::new(),
            inside: false,
            status: None,
        }
    }

    /// Takes what the console said; returns what of it the command said.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.seen.extend_from_slice(bytes);
        if !self.inside {
            let Some(at) = find(&self.seen, &self.begin) else {
                return Vec::new();
            };
            self.seen.drain(..at + self.begin.len());
            self.inside = true;
        }
        if self.status.is_some() {
            return Vec::new();
        }
        let Some(at) = find(&self.seen, &self.end) else {
            // Its last bytes may be the first ones of the mark.
            let sure = self.seen.len().saturating_sub(self.end.len());
            return self.seen.drain(..sure).collect();
        };
        let rest = &self.seen[at + self.end.len()..];
        if let Some(line) = rest.iter().position(|byte| *byte == b'\n') {
            let text = String::from_utf8_lossy(&rest[..line]).trim().to_owned();
            self.status = Some(text.parse().unwrap_or(255));
        }
        self.seen.drain(..at).collect()
    }

    /// The command's exit status, once it is known.
    pub fn status(&self) -> Option<i32> {
        self.status
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks() {
        let console = b"noise\nM begin\nhello\nM en\nM end 3\nmore";
        for step in 1..console.len() {
            let mut marks = Marks::new("M");
            let mut said = Vec::new();
            for chunk in console.chunks(step) {
                said.extend(marks.feed(chunk));
            }
            assert_eq!(said, b"hello\nM en\n", "in pieces of {step}");
            assert_eq!(marks.status(), Some(3));
        }
    }

    #[test]
    fn no_status_without_an_end() {
        let mut marks = Marks::new("M");
        marks.feed(b"M begin\nM end 12");
        assert_eq!(marks.status(), None);
    }
}
