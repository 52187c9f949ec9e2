// SPDX-License-Identifier: GPL-2.0-or-later

//! The guest of `lab run`: the stock kernel with busybox, under ironvm.

use crate::host::Sink;
use crate::image::{add_busybox, Archive};
use crate::inside::tail;
use crate::setup::Platform;
use anyhow::Result;
use std::io::{Read, Write};

/// The guest's kernel, in the host under test.
pub const KERNEL: &str = "/lab/guest/vmlinuz";
/// The guest's initramfs, in the host under test.
pub const INITRD: &str = "/lab/guest/initrd.cpio";
/// A run's addition to it.
const EXEC: &str = "/lab/guest/exec.cpio";
/// Puts both together and becomes the command of its arguments.
pub const WITH_EXEC: &str =
    "cat /lab/guest/exec.cpio >>/lab/guest/initrd.cpio && exec \"$@\" </dev/null";
/// Where the addition puts the command to run, in the guest.
const COMMAND: &str = "/lab/command";

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
reboot -f
"#;

/// The initramfs of the guest.
pub fn initrd(platform: &Platform) -> Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    add_busybox(&mut archive, platform)?;
    archive.program("/init", INIT.as_bytes())?;
    archive.finish()
}

/// What makes the guest run `command`: a piece of the host's initramfs with a
/// piece of the guest's in it.
pub fn exec_piece(command: &str, mark: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    archive.file(COMMAND, format!("{command}\n").as_bytes())?;
    archive.file("/lab/mark", mark.as_bytes())?;
    let piece = archive.finish()?;
    let mut outer = Archive::new(Vec::new());
    outer.file(EXEC, &piece)?;
    outer.finish()
}

/// A mark that no console has said before.
pub fn new_mark() -> Result<String> {
    let mut bytes = [0; 12];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Shows what the command says and keeps the console for a failure.
pub struct ExecSink {
    marks: Marks,
    console: Vec<u8>,
}

impl ExecSink {
    pub fn new(mark: &str) -> Self {
        Self {
            marks: Marks::new(mark),
            console: Vec::new(),
        }
    }

    pub fn status(&self) -> Option<i32> {
        self.marks.status()
    }

    /// The end of what the guest's console and ironvm said.
    pub fn console(&self) -> String {
        let text = String::from_utf8_lossy(&self.console).replace('\r', "");
        tail(&text, 40)
    }
}

impl Sink for ExecSink {
    fn stdout(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
        let said = self.marks.feed(bytes);
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(&said).and_then(|()| stdout.flush());
    }

    fn stderr(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
        let _ = std::io::stderr().write_all(bytes);
    }
}

/// The kernel's command line for the guest.
pub fn append(exec: bool) -> String {
    let quiet = if exec { " quiet" } else { " loglevel=5" };
    format!("console=ttyS0 panic=-1 reboot=t{quiet}")
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
