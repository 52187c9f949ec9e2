// SPDX-License-Identifier: GPL-2.0-or-later

//! `lab test`: every test of the project.
//!
//! First what needs no host under test: the builds, the format, the lints,
//! `cargo test`. Then the rows of `tests.table`, each on a host of its own; with
//! `--long` also on hosts with other numbers of CPUs, and those of `long.table`.

use crate::build::{captured, Builder, Module, Programs};
use crate::host::{HostSpec, Input, Job, Keep, Outcome, Prepared};
use crate::inside::tail;
use crate::place::Place;
use crate::setup::{setup, Platform};
use crate::table::{self, Row, Tally};
use anyhow::{anyhow, Context, Result};
use std::collections::VecDeque;
use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

/// Of a failing test's output this much is shown.
const SHOWN_LINES: usize = 120;

/// Runs the tests whose name contains `filter`, with `long` also those that do
/// not fit into an hour; the exit status for the lab.
pub fn all(place: &Place, filter: Option<&str>, long: bool) -> Result<i32> {
    let mut text = fs::read_to_string(place.clone.join("tests/lab/tests.table"))?;
    if long {
        text += &fs::read_to_string(place.clone.join("tests/lab/long.table"))?;
    }
    let rows = table::parse(&text)?;
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    let rows: VecDeque<Row> = rows
        .into_iter()
        .filter(|row| wanted(&row.name) && (long || !row.long))
        .collect();

    let platform = setup(place)?;
    let builder = Builder::new(place, &platform)?;
    let report = Report::default();
    let mut steps = 0;
    for (name, step) in STEPS {
        if wanted(name) {
            report.step(name, || step(&builder));
            steps += 1;
        }
    }
    if steps == 0 && rows.is_empty() {
        return Err(anyhow!(
            "no test's name contains {:?}",
            filter.unwrap_or("")
        ));
    }
    if !rows.is_empty() {
        // The rows that need what does not build fail; the others count.
        if let Err(error) = builder.all(Module::Lenient, Programs::Lenient) {
            println!("lab: {error:#}");
        }
        on_hosts(place, &platform, &builder, rows, &report);
    }
    Ok(report.finish())
}

type Step = fn(&Builder) -> Result<(bool, Tally, String)>;

const STEPS: [(&str, Step); 5] = [
    ("build-module", |builder| {
        told(builder.module(Module::Strict))
    }),
    ("build-programs", |builder| {
        told(builder.programs(Programs::Strict))
    }),
    ("format", |builder| plain(builder.format()?)),
    ("lints", |builder| {
        let mut clippy = builder.cargo("clippy")?;
        clippy.args([
            "--workspace",
            "--all-targets",
            "--keep-going",
            "--",
            "-D",
            "warnings",
        ]);
        plain(clippy)
    }),
    ("cargo-test", |builder| {
        let mut cargo = builder.cargo("test")?;
        cargo.args(["--workspace", "--no-fail-fast"]);
        let (success, output) = captured(cargo)?;
        Ok((success, Tally::of_cargo(&output, success), output))
    }),
];

fn told(result: Result<()>) -> Result<(bool, Tally, String)> {
    result.map(|()| (true, Tally::PASS, String::new()))
}

fn plain(command: Command) -> Result<(bool, Tally, String)> {
    let (success, output) = captured(command)?;
    let tally = if success { Tally::PASS } else { Tally::FAIL };
    Ok((success, tally, output))
}

/// Runs `rows`, as many at once as the machine has room for.
fn on_hosts(
    place: &Place,
    platform: &Platform,
    builder: &Builder,
    rows: VecDeque<Row>,
    report: &Report,
) {
    let largest = rows.iter().map(|row| row.memory_mib).max().unwrap_or(0);
    let count = at_once(crate::setup::jobs(), available_mib(), largest);
    let rows = Mutex::new(rows);
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| loop {
                let Some(row) = rows.lock().ok().and_then(|mut rows| rows.pop_front()) else {
                    return;
                };
                report.step(&row.name, || one(place, platform, builder, &row));
            });
        }
    });
}

/// Two hosts at once, if there are processors and memory for both.
fn at_once(processors: usize, available_mib: u64, largest_mib: u32) -> usize {
    let need = 2 * (u64::from(largest_mib) + 512);
    if processors >= 2 && available_mib >= need {
        2
    } else {
        1
    }
}

fn available_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}

fn one(
    place: &Place,
    platform: &Platform,
    builder: &Builder,
    row: &Row,
) -> Result<(bool, Tally, String)> {
    let spec = HostSpec {
        model: row.model.clone(),
        cpus: row.cpus,
        memory_mib: row.memory_mib,
        share: row.root.then(|| platform.root()),
        append: row.append.clone(),
        ..HostSpec::new(row.vendor, row.kvm)
    };
    let job = Job {
        command: vec!["sh".into(), "-c".into(), row.command.clone().into()],
        input: Input::Nothing,
        limit: Some(row.limit),
    };
    let mut output = Keep::default();
    let outcome = Prepared::new(place, platform, builder, &spec)?.run(&job, &mut output)?;
    Ok(judge(&outcome, &output))
}

fn judge(outcome: &Outcome, output: &Keep) -> (bool, Tally, String) {
    let success = outcome.status == Some(0) && outcome.problem.is_none();
    let said = String::from_utf8_lossy(&output.stdout);
    let tally = Tally::of_program(&said, success);
    let mut text = String::from_utf8_lossy(&output.all).into_owned();
    match (outcome.explain(), outcome.status) {
        (Some(problem), _) => text += &format!("\n{problem}"),
        (None, Some(status)) => text += &format!("\nexit status {status}"),
        (None, None) => {}
    }
    (success, tally, text)
}

/// What has been run so far.
#[derive(Default)]
struct Report(Mutex<Results>);

#[derive(Default)]
struct Results {
    tally: Tally,
    /// Name and output.
    failed: Vec<(String, String)>,
}

impl Report {
    fn step(&self, name: &str, run: impl FnOnce() -> Result<(bool, Tally, String)>) {
        let start = Instant::now();
        let (success, tally, output) =
            run().unwrap_or_else(|error| (false, Tally::FAIL, format!("{error:#}")));
        let failed = !success || tally.failed > 0;
        let verdict = if failed { "FAILED" } else { "ok" };
        let seconds = start.elapsed().as_secs_f32();
        println!("{verdict:6}  {name:24} {seconds:6.1} s  {tally}");
        if let Ok(mut results) = self.0.lock() {
            results.tally.add(tally);
            if failed {
                results.failed.push((name.to_owned(), output));
            }
        }
    }

    /// Shows what failed, and the sum as the last line.
    fn finish(self) -> i32 {
        let results = match self.0.into_inner() {
            Ok(results) => results,
            Err(poisoned) => poisoned.into_inner(),
        };
        for (name, output) in &results.failed {
            println!("\n==== {name} ====\n{}", tail(output, SHOWN_LINES));
        }
        if !results.failed.is_empty() {
            let names: Vec<_> = results.failed.iter().map(|f| f.0.as_str()).collect();
            println!("\nfailed: {}", names.join(" "));
        }
        println!("{}", results.tally);
        i32::from(results.tally.failed > 0)
    }
}

/// The outcome of running `row` by itself, for `lab bench`.
pub fn run_alone(
    place: &Place,
    platform: &Platform,
    builder: &Builder,
    spec: &HostSpec,
    job: &Job,
) -> Result<String> {
    let mut output = Keep::default();
    let outcome = Prepared::new(place, platform, builder, spec)?.run(job, &mut output)?;
    let (success, _, text) = judge(&outcome, &output);
    if !success {
        return Err(anyhow!("{text}")).context("the run failed");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Problem;

    #[test]
    fn two_at_once_need_room() {
        assert_eq!(at_once(2, 8192, 2048), 2);
        assert_eq!(at_once(1, 8192, 2048), 1);
        assert_eq!(at_once(4, 4096, 2048), 1);
    }

    #[test]
    fn a_fault_of_the_host_fails_a_test_that_passed() {
        let outcome = |problem| Outcome {
            status: Some(0),
            problem,
            console: String::new(),
        };
        let output = Keep {
            stdout: b"3 passed, 0 failed\n".to_vec(),
            all: Vec::new(),
        };
        let (success, tally, _) = judge(&outcome(None), &output);
        assert!(success && tally.failed == 0);
        let problem = Problem::Fault("BUG: x".into());
        let (success, tally, text) = judge(&outcome(Some(problem)), &output);
        assert!(!success && tally.failed == 1 && text.contains("BUG: x"));
    }
}
