// SPDX-License-Identifier: GPL-2.0-or-later

//! The table of tests that run in the host under test (`tests.table`).

use crate::emulator::Vendor;
use crate::host::Kvm;
use anyhow::{ensure, Context, Result};
use clap::ValueEnum;
use std::time::Duration;

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub vendor: Vendor,
    /// The processor's model, if not the usual one.
    pub model: Option<String>,
    /// CPUs of the host under test.
    pub cpus: u32,
    pub memory_mib: u32,
    pub kvm: Kvm,
    pub limit: Duration,
    /// The host under test sees the platform's root as its shared directory.
    pub root: bool,
    /// More for its kernel's command line.
    pub append: String,
    /// For a shell.
    pub command: String,
    /// Left out where time is short.
    pub long: bool,
}

/// Reads the table's rows; see the head of the file for its form. A row that
/// names several numbers of CPUs becomes one test for each.
pub fn parse(text: &str) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = || format!("tests.table, line {}", index + 1);
        for row in parse_row(line).with_context(at)? {
            ensure!(
                rows.iter().all(|other| other.name != row.name),
                "{}: there is another {}",
                at(),
                row.name
            );
            rows.push(row);
        }
    }
    Ok(rows)
}

fn parse_row(line: &str) -> Result<Vec<Row>> {
    let mut rest = line;
    let mut column = || {
        let (word, after) = rest
            .split_once(char::is_whitespace)
            .context("columns are missing")?;
        rest = after.trim_start();
        Ok::<_, anyhow::Error>(word)
    };
    let (name, vendor, cpus) = (column()?, column()?, column()?);
    let (memory, kvm, limit) = (column()?, column()?, column()?);
    let (vendor, model) = match vendor.split_once(':') {
        Some((vendor, model)) => (vendor, Some(model.to_owned())),
        None => (vendor, None),
    };
    let (append, rest) = match rest.strip_prefix("kernel(") {
        Some(words) => words.split_once("):").context("kernel( without ):")?,
        None => ("", rest),
    };
    let rest = rest.trim_start();
    let (root, command) = match rest.strip_prefix("root:") {
        Some(command) => (true, command.trim_start()),
        None => (false, rest),
    };
    let mut cpus = cpus.split(',').map(str::parse::<u32>);
    let first = Row {
        name: name.to_owned(),
        vendor: Vendor::from_str(vendor, false).map_err(anyhow::Error::msg)?,
        model,
        cpus: cpus.next().context("CPUs")?.context("CPUs")?,
        memory_mib: megabytes(memory).map_err(anyhow::Error::msg)?,
        kvm: Kvm::from_str(kvm, false).map_err(anyhow::Error::msg)?,
        limit: Duration::from_secs(limit.parse().context("limit")?),
        root,
        append: append.to_owned(),
        command: command.to_owned(),
        long: false,
    };
    let mut rows = vec![first];
    for cpus in cpus {
        let cpus = cpus.context("CPUs")?;
        rows.push(Row {
            name: format!("{name}@{cpus}"),
            cpus,
            long: true,
            ..rows[0].clone()
        });
    }
    Ok(rows)
}

/// Reads a size of memory, as in 2G or 512M; returns MiB.
pub fn megabytes(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.trim_end_matches(['b', 'B']) {
        rest if rest.ends_with(['g', 'G']) => (&rest[..rest.len() - 1], 1024),
        rest if rest.ends_with(['m', 'M']) => (&rest[..rest.len() - 1], 1),
        rest => (rest, 1),
    };
    digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|size| *size >= 256)
        .ok_or_else(|| "a size of at least 256M, as in 2G or 512M".to_owned())
}

/// How many tests did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl Tally {
    pub const PASS: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub const FAIL: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// What a test program says in its last line and by its exit status.
    pub fn of_program(output: &str, success: bool) -> Self {
        let last = output.lines().rev().find(|line| !line.trim().is_empty());
        let Some(mut tally) = last.and_then(Self::parse) else {
            return if success { Self::PASS } else { Self::FAIL };
        };
        // Nothing having run is no success, and a bad end is a failure.
        if tally.failed == 0 && (!success || tally == Self::default()) {
            tally.failed = 1;
        }
        tally
    }

    /// What `cargo test` says.
    pub fn of_cargo(output: &str, success: bool) -> Self {
        let mut tally = Self::default();
        for line in output.lines() {
            let Some(rest) = line.trim_start().strip_prefix("test result:") else {
                continue;
            };
            for part in rest.split(['.', ';']) {
                let mut words = part.split_whitespace();
                let Some(Ok(number)) = words.next().map(str::parse::<u32>) else {
                    continue;
                };
                match words.next() {
                    Some("passed") => tally.passed += number,
                    Some("failed") => tally.failed += number,
                    Some("ignored") => tally.skipped += number,
                    _ => {}
                }
            }
        }
        if tally.failed == 0 && (!success || tally == Self::default()) {
            tally.failed = 1;
        }
        tally
    }

    /// Reads `N passed, N failed[, N skipped]`.
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.trim().split(", ");
        let mut number = |word: &str| {
            let part = parts.next()?;
            part.strip_suffix(word)?.trim_end().parse::<u32>().ok()
        };
        let passed = number("passed")?;
        let failed = number("failed")?;
        Some(Self {
            passed,
            failed,
            skipped: number("skipped").unwrap_or(0),
        })
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Renders columns: the first to the left, the others to the right.
pub fn render(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if column == 0 {
                line += &format!("{cell:width$}");
            } else {
                line += &format!("  {cell:>width$}");
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read() {
        let rows = parse("# head\n\n a svm 2 1G ours 60  test -c /dev/kvm \n").unwrap();
        assert_eq!(
            rows,
            [Row {
                name: "a".into(),
                vendor: Vendor::Svm,
                model: None,
                cpus: 2,
                memory_mib: 1024,
                kvm: Kvm::Ours,
                limit: Duration::from_secs(60),
                root: false,
                append: String::new(),
                command: "test -c /dev/kvm".into(),
                long: false,
            }]
        );
        let rows = parse("a svm 1,2 1G ours 60 true").unwrap();
        let of = |row: &Row| (row.name.clone(), row.cpus, row.long);
        let made: Vec<_> = rows.iter().map(of).collect();
        assert_eq!(made, [("a".into(), 1, false), ("a@2".into(), 2, true)]);
        let rows = parse("a vmx:corei7_skylake_x 2 1G ours 60 true").unwrap();
        assert_eq!(rows[0].vendor, Vendor::Vmx);
        assert_eq!(rows[0].model.as_deref(), Some("corei7_skylake_x"));
        let rows = parse("a svm 2 1G ours 60 root: ls").unwrap();
        assert!(rows[0].root);
        assert_eq!(rows[0].command, "ls");
        let rows = parse("a svm 2 1G ours 60 kernel(x=1 y): root: (ls)").unwrap();
        assert_eq!((rows[0].append.as_str(), rows[0].root), ("x=1 y", true));
        assert_eq!(rows[0].command, "(ls)");
        assert!(parse("a svm 2 1G ours 60 kernel(x ls").is_err());
        assert!(parse("a svm 2 1G ours").is_err());
        assert!(parse("a svm 1,x 1G ours 60 true").is_err());
        assert!(parse("a power 2 1G ours 60 true").is_err());
        assert!(parse("a svm 1 1G ours 60 x\na svm 1 1G ours 60 y").is_err());
    }

    #[test]
    fn the_table_itself_is_sound() {
        let both = concat!(
            include_str!("../tests.table"),
            include_str!("../long.table")
        );
        let rows = parse(both).unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            let emulator = row.vendor.emulator();
            emulator
                .check(row.model.as_deref(), row.memory_mib)
                .unwrap();
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(megabytes("2G"), Ok(2048));
        assert_eq!(megabytes("512m"), Ok(512));
        assert_eq!(megabytes("768MB"), Ok(768));
        assert!(megabytes("1").is_err());
        assert!(megabytes("9999999G").is_err());
    }

    fn tally(passed: u32, failed: u32, skipped: u32) -> Tally {
        Tally {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn a_program_says_how_many() {
        let of = Tally::of_program;
        assert_eq!(of("x\n3 passed, 0 failed\n\n", true), tally(3, 0, 0));
        assert_eq!(of("3 passed, 1 failed, 2 skipped", false), tally(3, 1, 2));
        // A bad end after a good last line, nothing run, no last line at all.
        assert_eq!(of("3 passed, 0 failed", false), tally(3, 1, 0));
        assert_eq!(of("0 passed, 0 failed", true), tally(0, 1, 0));
        assert_eq!(of("whatever", true), Tally::PASS);
        assert_eq!(of("", false), Tally::FAIL);
    }

    #[test]
    fn cargo_says_how_many() {
        let text = "test a ... ok\ntest result: ok. 15 passed; 0 failed; 1 ignored; 0 measured; \
                    0 filtered out; finished in 0.00s\n\ntest result: FAILED. 2 passed; 1 failed; \
                    0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(Tally::of_cargo(text, false), tally(17, 1, 1));
        assert_eq!(
            Tally::of_cargo("error: does not compile", false),
            Tally::FAIL
        );
        assert_eq!(Tally::of_cargo("", true), Tally::FAIL);
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let text = render(&[row(&["exit", "KVM"]), row(&["page-fault", "8038"])]);
        assert_eq!(text, "exit         KVM\npage-fault  8038\n");
    }
}
