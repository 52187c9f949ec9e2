// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs a table of tests, each in a process of its own with a time limit.
//!
//! A test that hangs, dies or makes the kernel complain has failed; the next one runs all the same.

use std::fmt::Display;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use crate::sys::{check, own_fd, Errno};

pub mod emulator;
pub mod kernel_log;

use kernel_log::KernelLog;

/// Why a test did not pass.
#[derive(Debug, Clone)]
pub enum Failure {
    /// What was seen and what was expected.
    Failed(String),
    /// What is missing that the test needs.
    Skipped(String),
}

/// Result of a test.
pub type Outcome = Result<(), Failure>;

impl From<Errno> for Failure {
    fn from(e: Errno) -> Self {
        Failure::Failed(e.to_string())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::Failed(text)
    }
}

/// Leaves the test as failed.
#[macro_export]
macro_rules! fail {
    ($($args:tt)+) => {
        return Err($crate::Failure::Failed(format!($($args)+)))
    };
}

/// Leaves the test as skipped.
#[macro_export]
macro_rules! skip {
    ($($args:tt)+) => {
        return Err($crate::Failure::Skipped(format!($($args)+)))
    };
}

/// Fails unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($args:tt)+) => {
        if !$cond {
            $crate::fail!("{} (line {})", format!($($args)+), line!());
        }
    };
}

/// Fails unless both are equal; the last argument says what was compared.
#[macro_export]
macro_rules! ensure_eq {
    ($got:expr, $want:expr, $($args:tt)+) => {{
        let (got, want) = (&$got, &$want);
        if got != want {
            $crate::fail!(
                "{}: got {:x?}, expected {:x?} (line {})",
                format!($($args)+), got, want, line!()
            );
        }
    }};
}

/// Fails unless a system call failed with one of the given errors.
#[macro_export]
macro_rules! ensure_errno {
    ($result:expr, $want:expr, $($args:tt)+) => {
        match $result {
            Err(e) if e.number == $want => {}
            Err(e) => $crate::fail!(
                "{}: {}, expected {} (line {})",
                format!($($args)+), e, $crate::sys::name($want), line!()
            ),
            Ok(_) => $crate::fail!(
                "{}: succeeded, expected {} (line {})",
                format!($($args)+), $crate::sys::name($want), line!()
            ),
        }
    };
}

/// Makes a row of a table of tests: `test!("subject", function)`, with an optional limit in
/// seconds.
#[macro_export]
macro_rules! test {
    ($subject:literal, $function:ident) => {
        $crate::test!($subject, $function, 30)
    };
    ($subject:literal, $function:ident, $limit:literal) => {
        $crate::harness::Test {
            name: concat!($subject, "/", stringify!($function)),
            run: $function,
            limit: std::time::Duration::from_secs($limit),
        }
    };
}

/// A test.
#[derive(Clone, Copy)]
pub struct Test {
    /// `subject/name`.
    pub name: &'static str,
    /// What it does; run in a child process.
    pub run: fn() -> Outcome,
    /// How long it may take.
    pub limit: Duration,
}

#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

/// `main` of a program that is a table of tests. Gives the exit status.
pub fn main(tables: &[&[Test]]) -> i32 {
    let mut list = false;
    let mut despite = Vec::new();
    let mut filters = Vec::new();
    let mut left_out = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => list = true,
            "--despite" => match args.next() {
                Some(key) if emulator::keys().any(|known| known == key) => despite.push(key),
                _ => {
                    let known: Vec<_> = emulator::keys().collect();
                    eprintln!("--despite takes one of: {}", known.join(", "));
                    return 2;
                }
            },
            "--without" => left_out.extend(args.next()),
            "--help" | "-h" => {
                println!(
                    "usage: [--list] [--without FILTER]... [--despite FAULT]... [FILTER...]\n\
                     A FILTER is a part of a test's name. --despite runs as well what is skipped \
                     because of that fault of the emulator: {}",
                    emulator::keys().collect::<Vec<_>>().join(", ")
                );
                return 0;
            }
            _ => filters.push(arg),
        }
    }
    let named = |t: &Test, by: &[String]| by.iter().any(|part| t.name.contains(part));
    let chosen = |t: &&Test| (filters.is_empty() || named(t, &filters)) && !named(t, &left_out);
    let tests = tables.iter().flat_map(|t| t.iter()).filter(chosen);
    if list {
        tests.for_each(|t| println!("{}", t.name));
        return 0;
    }
    let mut tally = Tally::default();
    for test in tests {
        let excuse = emulator::excuse(test.name, &despite);
        tally.note(
            test.name,
            match excuse {
                Some(why) => Err(Failure::Skipped(why.into())),
                None => run(test),
            },
        );
    }
    tally.finish()
}

impl Tally {
    fn note(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                say(format_args!("ok {name}"));
            }
            Err(Failure::Skipped(why)) => {
                self.skipped += 1;
                say(format_args!("skip {name}: {}", one_line(&why)));
            }
            Err(Failure::Failed(why)) => {
                self.failed += 1;
                say(format_args!("FAIL {name}: {}", one_line(&why)));
            }
        }
    }

    fn finish(&self) -> i32 {
        let skipped = match self.skipped {
            0 => String::new(),
            n => format!(", {n} skipped"),
        };
        say(format_args!(
            "{} passed, {} failed{skipped}",
            self.passed, self.failed
        ));
        i32::from(self.failed > 0)
    }
}

/// Runs checks that are not functions of a table under the same lines of output.
pub struct Report {
    tally: Tally,
}

impl Report {
    /// An empty report.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self {
            tally: Tally::default(),
        }
    }

    /// Prints and counts one result.
    pub fn note(&mut self, name: &str, outcome: Outcome) {
        self.tally.note(name, outcome);
    }

    /// Prints the sum and gives the exit status.
    pub fn finish(&self) -> i32 {
        self.tally.finish()
    }
}

/// Prints one line at once: the machine may not live to the next.
pub fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    // A closed standard output leaves nobody to tell.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

fn run(test: &Test) -> Outcome {
    let log = KernelLog::open();
    let outcome = in_child(test.limit, test.run);
    let complaints = log.map(|mut log| log.complaints()).unwrap_or_default();
    match (complaints.first(), outcome) {
        (None, outcome) => outcome,
        (Some(line), Err(Failure::Failed(why))) => {
            Err(Failure::Failed(format!("{why}; the kernel says: {line}")))
        }
        (Some(line), _) => Err(Failure::Failed(format!("the kernel says: {line}"))),
    }
}

/// Runs `body` in a child process group, for at most `limit`.
pub fn in_child(limit: Duration, body: impl FnOnce() -> Outcome) -> Outcome {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two numbers.
    let r = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    check("pipe2", i64::from(r))?;
    let (reader, writer) = (own_fd(ends[0]), own_fd(ends[1]));
    // SAFETY: this process has one thread here, so the child may do what it likes.
    let pid = check("fork", i64::from(unsafe { libc::fork() }))? as i32;
    if pid == 0 {
        drop(reader);
        child(body, std::fs::File::from(writer));
    }
    drop(writer);
    let status = wait(pid, limit);
    // SAFETY: the group is the child's own; its number is not reused before it is gone.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
    let message = read_available(&reader);
    match status {
        None => Err(Failure::Failed(format!(
            "no end after {} s",
            limit.as_secs()
        ))),
        Some(status) => judge(status, &message),
    }
}

/// Says where the threads of a process that does not end are: in which system call, waiting for
/// what, and, where the kernel tells, by which way.
fn tell_threads(pid: i32) {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return;
    };
    for task in tasks.flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        say(format_args!(
            "thread {}: {} call {} at {}",
            task.file_name().to_string_lossy(),
            one_line(&read("wchan")),
            one_line(&read("syscall")),
            one_line(&read("stack")),
        ));
    }
}

fn child(body: impl FnOnce() -> Outcome, mut pipe: std::fs::File) -> ! {
    // SAFETY: plain system calls of a process with one thread.
    unsafe {
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let (code, text) = match outcome {
        Ok(Ok(())) => (0, String::new()),
        Ok(Err(Failure::Failed(why))) => (1, why),
        Ok(Err(Failure::Skipped(why))) => (2, why),
        Err(panic) => (1, panic_text(&*panic)),
    };
    // If the parent is gone there is nobody to tell.
    let _ = pipe.write_all(text.as_bytes());
    // SAFETY: ends the process without running the parent's exit handlers.
    unsafe { libc::_exit(code) }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<String>() {
        return text.clone();
    }
    if let Some(text) = panic.downcast_ref::<&str>() {
        return (*text).to_string();
    }
    "panicked".to_string()
}

/// Waits for a child; kills it at the end of its time. None: it ran out of it.
pub fn wait(pid: i32, limit: Duration) -> Option<i32> {
    if let Some(status) = wait_until(pid, Instant::now() + limit) {
        return Some(status);
    }
    tell_threads(pid);
    // SAFETY: `pid` is a child not yet waited for, so the number is still its own.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
    // SAFETY: as above; covers a child that has not come to set its group.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    // A process stuck in the kernel does not die; then it is left behind.
    wait_until(pid, Instant::now() + Duration::from_secs(10));
    None
}

fn wait_until(pid: i32, deadline: Instant) -> Option<i32> {
    // SAFETY: a system call on plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = own_fd(check("pidfd_open", fd).ok()? as i32);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid `pollfd`.
        let n = unsafe { libc::poll(&mut poll, 1, left.as_millis() as i32) };
        if n == 1 {
            let mut status = 0;
            // SAFETY: `status` is writable; the child has ended, so this does not block.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            return Some(status);
        }
        if left.is_zero() {
            return None;
        }
    }
}

fn read_available(fd: &std::os::fd::OwnedFd) -> String {
    let mut text = Vec::new();
    let mut chunk = [0u8; 4096];
    // SAFETY: sets a flag on an open descriptor.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    loop {
        // SAFETY: `chunk` has the stated size.
        let n = unsafe { libc::read(fd.as_raw_fd(), chunk.as_mut_ptr().cast(), chunk.len()) };
        if n <= 0 {
            return String::from_utf8_lossy(&text).into_owned();
        }
        text.extend_from_slice(&chunk[..n as usize]);
    }
}

fn judge(status: i32, message: &str) -> Outcome {
    if libc::WIFSIGNALED(status) {
        return Err(Failure::Failed(format!(
            "killed by signal {}",
            libc::WTERMSIG(status)
        )));
    }
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        2 => Err(Failure::Skipped(message.to_string())),
        _ => Err(Failure::Failed(message.to_string())),
    }
}
