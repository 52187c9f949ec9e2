// SPDX-License-Identifier: GPL-2.0-or-later

//! What the kernel logged while a test ran.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// Parts of lines that no test may cause.
const COMPLAINTS: &[&str] = &[
    "BUG:",
    "BUG at",
    "WARNING:",
    "Oops",
    "general protection",
    "panicked at",
    "invalid opcode",
    "INFO: task",
    "INFO: rcu",
    "rcu: INFO",
    "soft lockup",
    "hard LOCKUP",
    "unable to handle",
    "Kernel panic",
    "Bad page",
    "Bad rss-counter",
    "refcount_t:",
    "list_del corruption",
    "list_add corruption",
    "scheduling while atomic",
    "unchecked MSR access",
];

/// The kernel's log from a point in time on.
pub struct KernelLog {
    file: std::fs::File,
}

impl KernelLog {
    /// Starts at the present end. None where the log may not be read.
    pub fn open() -> Option<Self> {
        use std::io::{Seek, SeekFrom};
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/kmsg")
            .ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Self { file })
    }

    /// The lines since the start or the last call.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0u8; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(0) => return lines,
                Ok(n) => {
                    let text = String::from_utf8_lossy(&record[..n]);
                    let text = text.split_once(';').map_or(&*text, |(_, t)| t);
                    lines.push(text.lines().next().unwrap_or("").to_string());
                }
                // Records were overwritten before they were read: go on with what is left.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return lines,
            }
        }
    }

    /// Those of the lines that tell of a fault in the kernel.
    pub fn complaints(&mut self) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|l| COMPLAINTS.iter().any(|c| l.contains(c)));
        lines
    }
}
