// SPDX-License-Identifier: GPL-2.0-or-later

//! What the kernel says of its memory, to tell a leak.

use std::time::{Duration, Instant};

use crate::harness::{Failure, Outcome};

/// Kilobytes of a line of `/proc/meminfo`; zero if there is no such line.
pub fn meminfo(name: &str) -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|l| l.split(':').next() == Some(name));
    line.and_then(|l| l.split_whitespace().nth(1))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Kilobytes of free pages that each CPU keeps for itself. `MemFree` does not have them, and the
/// kernel lets a CPU that frees much keep many megabytes.
fn free_with_cpus() -> i64 {
    let text = std::fs::read_to_string("/proc/zoneinfo").unwrap_or_default();
    let pages: i64 = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("count:"))
        .filter_map(|count| count.trim().parse::<i64>().ok())
        .sum();
    pages * 4
}

/// The amounts that must come back, in kilobytes but for the files.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Memory that is not free.
    pub used: i64,
    /// Slab memory that cannot be reclaimed.
    pub slab: i64,
    /// `vmalloc` memory: modules, stacks, large tables.
    pub vmalloc: i64,
    /// Page tables, those of guests included.
    pub tables: i64,
    /// Open files.
    pub files: i64,
}

impl Usage {
    /// What is used now, after caches were dropped.
    pub fn now() -> Self {
        // Without the right to, caches count as used, and the slack is not enough.
        let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
        let files = std::fs::read_to_string("/proc/sys/fs/file-nr").unwrap_or_default();
        let files = files.split_whitespace().next().and_then(|n| n.parse().ok());
        Self {
            used: meminfo("MemTotal") - meminfo("MemFree") - free_with_cpus(),
            slab: meminfo("SUnreclaim"),
            vmalloc: meminfo("VmallocUsed"),
            tables: meminfo("PageTables") + meminfo("SecPageTables"),
            files: files.unwrap_or(0),
        }
    }

    fn excess(&self, before: &Usage, slack: &Usage) -> Option<String> {
        let rows = [
            ("memory in use", self.used, before.used, slack.used),
            ("slab memory", self.slab, before.slab, slack.slab),
            (
                "vmalloc memory",
                self.vmalloc,
                before.vmalloc,
                slack.vmalloc,
            ),
            ("page tables", self.tables, before.tables, slack.tables),
            ("open files", self.files, before.files, slack.files),
        ];
        let over = rows
            .iter()
            .find(|(_, now, before, slack)| now - before > *slack);
        over.map(|(what, now, before, slack)| {
            format!("{what}: {before} before, {now} after, {slack} allowed")
        })
    }

    /// Fails unless everything is back within `slack`. The kernel frees much of it later (RCU, work
    /// queues), so it has up to ten seconds.
    pub fn check_back(before: &Usage, slack: &Usage) -> Outcome {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let excess = Usage::now().excess(before, slack);
            match excess {
                None => return Ok(()),
                Some(why) if Instant::now() >= end => return Err(Failure::Failed(why)),
                Some(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

/// Users of a loaded module; None if it is not loaded or does not tell.
pub fn module_users(name: &str) -> Option<i64> {
    let text = std::fs::read_to_string(format!("/sys/module/{name}/refcnt")).ok()?;
    text.trim().parse().ok()
}
