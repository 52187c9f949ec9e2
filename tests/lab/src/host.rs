// SPDX-License-Identifier: GPL-2.0-or-later

//! One run of a host under test: boot, load the module, run a command, look at
//! what the kernel said.

use crate::agent::{Config, CONFIG, SHARE};
use crate::build::Builder;
use crate::emulator::{Emulator, Machine, Running, Sharing, Vendor};
use crate::image::{self, Archive};
use crate::inside::tail;
use crate::klog;
use crate::place::Place;
use crate::setup::Platform;
use crate::term;
use crate::wire::{self, Frame, Kind};
use anyhow::{bail, Context, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Which `/dev/kvm` the host under test has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kvm {
    /// The module of this repository.
    Ours,
    /// The kernel's own modules.
    Stock,
    /// No `/dev/kvm` at all.
    None,
}

/// The host under test to boot.
#[derive(Clone, Debug)]
pub struct HostSpec {
    pub vendor: Vendor,
    /// The processor's model, if not the usual one.
    pub model: Option<String>,
    pub kvm: Kvm,
    /// Parameters for the module.
    pub parameters: String,
    pub cpus: u32,
    pub memory_mib: u32,
    /// Counting mode: the TSC counts instructions.
    pub count: bool,
    pub share: Option<PathBuf>,
    /// More for the kernel's command line.
    pub append: String,
}

impl HostSpec {
    pub fn new(vendor: Vendor, kvm: Kvm) -> Self {
        Self {
            vendor,
            model: None,
            kvm,
            parameters: String::new(),
            cpus: 2,
            memory_mib: vendor.emulator().default_memory_mib(),
            count: false,
            share: None,
            append: String::new(),
        }
    }

    /// Refuses what cannot be, before anything is built for it.
    pub fn check(&self) -> Result<()> {
        if self.count && self.cpus != 1 {
            bail!("counting mode has one CPU");
        }
        self.vendor
            .emulator()
            .check(self.model.as_deref(), self.memory_mib)
    }
}

/// Where the command's standard input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Nothing,
    Stdin,
    /// The command gets a terminal that is the user's.
    Terminal,
}

/// What to run there.
pub struct Job {
    pub command: Vec<OsString>,
    pub input: Input,
    pub limit: Option<Duration>,
}

/// What becomes of the command's output.
pub trait Sink {
    fn stdout(&mut self, bytes: &[u8]);
    fn stderr(&mut self, bytes: &[u8]);
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The command's exit status; `None` if it did not come to that.
    pub status: Option<i32>,
    /// What went wrong with the host under test, whatever the command says.
    pub problem: Option<Problem>,
    /// The whole of what the console said.
    pub console: String,
}

/// What can go wrong with a host under test.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// It was not done in time.
    Limit(Duration),
    /// Its kernel tells of a fault.
    Fault(String),
    /// It ended, or does not end, or its agent cannot go on.
    Broken(String),
    /// The user has ended it.
    Escape,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Limit(limit) => write!(f, "not done within {} s", limit.as_secs()),
            Self::Fault(lines) => write!(f, "the kernel tells of a fault:\n{lines}"),
            Self::Broken(why) => write!(f, "{why}"),
            Self::Escape => write!(f, "ended by Ctrl-]"),
        }
    }
}

impl Outcome {
    /// The problem with the console's last lines, for people.
    pub fn explain(&self) -> Option<String> {
        let problem = self.problem.as_ref()?;
        if *problem == Problem::Escape {
            return Some(problem.to_string());
        }
        Some(format!(
            "host under test: {problem}\nlast lines of its console:\n{}",
            indent(&tail(&self.console, 40))
        ))
    }

    /// The exit status for the lab itself, as `timeout` numbers them.
    pub fn exit_code(&self) -> i32 {
        match (&self.problem, self.status) {
            (None, Some(status)) => status,
            (Some(Problem::Escape), _) => 130,
            (Some(Problem::Limit(_)), _) => 124,
            _ => 125,
        }
    }
}

fn indent(text: &str) -> String {
    let lines = text.lines().map(|line| format!("  | {line}\n"));
    lines.collect::<Vec<_>>().concat()
}

/// A host under test that is ready to boot: its initramfs is put together.
pub struct Prepared<'a> {
    platform: &'a Platform,
    spec: &'a HostSpec,
    modules: Vec<(String, String)>,
    run: RunDir,
}

impl<'a> Prepared<'a> {
    /// Collects what was built. Afterwards the builds may change.
    pub fn new(
        place: &Place,
        platform: &'a Platform,
        builder: &Builder,
        spec: &'a HostSpec,
    ) -> Result<Self> {
        spec.check()?;
        let lock = crate::place::lock(&platform.dir.join("images.lock"))?;
        let platform_piece = image::platform_piece(platform)?;
        drop(lock);
        let ours = spec.kvm == Kvm::Ours;
        let built = image::built_piece(builder, &place.build.join("images"), ours)?;
        let mut modules: Vec<(String, String)> = Vec::new();
        match spec.kvm {
            Kvm::Ours => {
                let needs = built.needs.iter().map(String::as_str);
                for path in image::stock_modules(platform, needs)? {
                    modules.push((path, String::new()));
                }
                modules.push((image::OUR_MODULE.into(), spec.parameters.clone()));
            }
            Kvm::Stock => {
                let module = spec.vendor.emulator().stock_module(spec.model.as_deref());
                for path in image::stock_modules(platform, [module])? {
                    let parameters = if path.ends_with("/kvm.ko") {
                        spec.parameters.clone()
                    } else {
                        String::new()
                    };
                    modules.push((path, parameters));
                }
            }
            Kvm::None => {}
        }
        let run = RunDir::new(place)?;
        image::join(&[&platform_piece, &built.file], &run.0.join("initrd"))?;
        Ok(Self {
            platform,
            spec,
            modules,
            run,
        })
    }

    /// Boots it and runs `job` in it.
    pub fn run(self, job: &Job, sink: &mut dyn Sink) -> Result<Outcome> {
        let spec = self.spec;
        let emulator = spec.vendor.emulator();
        let sharing = spec
            .share
            .as_deref()
            .map(|share| (emulator.sharing(), share));
        let config = Config {
            port: emulator.port().into(),
            modules: self.modules,
            share: sharing.map(|(sharing, _)| sharing),
            end: emulator.end(),
            terminal: job.input == Input::Terminal,
            settle: if spec.count { 5 } else { 0 },
            command: job.command.clone(),
        };
        let run = &self.run.0;
        let initrd = File::options().append(true).open(run.join("initrd"))?;
        let mut archive = Archive::new(BufWriter::new(initrd));
        archive.file(CONFIG, &config.encode())?;
        let mut mounted = None;
        match sharing {
            Some((Sharing::Virtiofs, share)) => mounted = Some(share),
            Some((Sharing::Copy, share)) => archive
                .tree(SHARE, share)
                .with_context(|| format!("cannot share {}", share.display()))?,
            None => {}
        }
        archive.finish()?.flush()?;
        // An oops ends the machine at once; warnings are seen on the console.
        let append = format!(
            "console=ttyS0,115200 loglevel=5 oops=panic panic=-1 mitigations=off {} {}",
            emulator.append(),
            spec.append
        );
        let machine = Machine {
            platform: self.platform,
            model: spec.model.as_deref(),
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            count: spec.count,
            kernel: Path::new("/usr/lib/modules")
                .join(&self.platform.release)
                .join("vmlinuz"),
            append,
            run,
            share: mounted,
        };
        let running = emulator.start(&machine)?;
        Session {
            running,
            emulator,
            run: run.clone(),
            console: run.join("console"),
            start: Instant::now(),
            limit: job.limit,
            fault_seen: None,
            window: None,
        }
        .attend(job, sink)
        .with_context(|| emulator_log(run))
    }
}

fn emulator_log(run: &Path) -> String {
    let log = fs::read_to_string(run.join("emulator")).unwrap_or_default();
    format!("the emulator says:\n{}", indent(&tail(&log, 10)))
}

/// The folder of one run, removed with it.
struct RunDir(PathBuf);

impl RunDir {
    fn new(place: &Place) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let runs = place.cache.join("run");
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = runs.join(format!("{}-{next}", std::process::id()));
        fs::create_dir_all(&runs)?;
        for old in fs::read_dir(&runs)?.flatten() {
            // Left by a lab that was killed.
            let name = old.file_name().to_string_lossy().into_owned();
            let pid = name.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(pid).exists() {
                let _ = fs::remove_dir_all(old.path());
            }
        }
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the helper threads tell the session.
enum Event {
    Frame(Frame),
    /// The agent's stream is at its end, or is none.
    Over(String),
    Escape,
}

/// Attends to a machine until it has ended.
struct Session {
    running: Running,
    emulator: &'static dyn Emulator,
    /// The run's folder.
    run: PathBuf,
    console: PathBuf,
    start: Instant,
    limit: Option<Duration>,
    fault_seen: Option<Instant>,
    window: Option<(u16, u16)>,
}

/// How often the console and the limits are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How long a machine may go on, or take to end, once its fate is known.
const GRACE: Duration = Duration::from_secs(10);

impl Session {
    fn attend(mut self, job: &Job, sink: &mut dyn Sink) -> Result<Outcome> {
        let (sender, events) = channel();
        listen(self.running.from_agent.try_clone()?, sender.clone());
        let raw = match job.input {
            Input::Terminal => Some(term::Raw::new()?),
            _ => None,
        };
        let mut status = None;
        let mut problem = self.until_exit(job, sink, &sender, &events, &mut status)?;
        drop(raw);
        if matches!(problem, None | Some(Problem::Broken(_))) {
            if !self.ends()? && problem.is_none() {
                problem = Some(Problem::Broken("does not end after the command".into()));
            }
            if let Some(why) = self.emulator.failure(&self.run) {
                problem = Some(Problem::Broken(match problem {
                    Some(problem) => format!("{problem}\n{why}"),
                    None => why,
                }));
            }
        }
        drop(self.running);
        let console = read_console(&self.console);
        let faults = klog::faults(&console);
        if !faults.is_empty() && problem != Some(Problem::Escape) {
            problem = Some(Problem::Fault(indent(&faults.join("\n"))));
        }
        Ok(Outcome {
            status,
            problem,
            console,
        })
    }

    fn until_exit(
        &mut self,
        job: &Job,
        sink: &mut dyn Sink,
        sender: &Sender<Event>,
        events: &Receiver<Event>,
        status: &mut Option<i32>,
    ) -> Result<Option<Problem>> {
        let mut next_look = Instant::now();
        loop {
            let event = match events.recv_timeout(TICK) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => bail!("no more events"),
            };
            match event {
                Some(Event::Frame(frame)) => match frame.kind {
                    Kind::Started => self.feed(job.input, sender)?,
                    Kind::Stdout => sink.stdout(&frame.content),
                    Kind::Stderr => sink.stderr(&frame.content),
                    Kind::Exit => {
                        let bytes = frame.content.first_chunk().copied();
                        *status = bytes.map(i32::from_le_bytes);
                        return Ok(None);
                    }
                    Kind::Failed => {
                        let why = String::from_utf8_lossy(&frame.content).into_owned();
                        return Ok(Some(Problem::Broken(why)));
                    }
                    other => bail!("the agent sent {other:?}"),
                },
                Some(Event::Over(why)) => return Ok(Some(Problem::Broken(why))),
                Some(Event::Escape) => return Ok(Some(Problem::Escape)),
                None => {}
            }
            if Instant::now() < next_look {
                continue;
            }
            next_look = Instant::now() + TICK;
            if job.input == Input::Terminal {
                self.follow_window()?;
            }
            if let Some(problem) = self.look() {
                return Ok(Some(problem));
            }
        }
    }

    /// Begins to pass standard input on.
    fn feed(&mut self, input: Input, sender: &Sender<Event>) -> Result<()> {
        match input {
            Input::Nothing => wire::send(&mut self.running.to_agent, Kind::StdinEnd, b"")?,
            Input::Stdin | Input::Terminal => {
                let to = self.running.to_agent.try_clone()?;
                let sender = sender.clone();
                let terminal = input == Input::Terminal;
                thread::spawn(move || pass_stdin(to, terminal, &sender));
            }
        }
        Ok(())
    }

    fn follow_window(&mut self) -> Result<()> {
        let size = term::size();
        if size == self.window {
            return Ok(());
        }
        self.window = size;
        if let Some((rows, columns)) = size {
            let [a, b] = rows.to_le_bytes();
            let [c, d] = columns.to_le_bytes();
            wire::send(&mut self.running.to_agent, Kind::WindowSize, &[a, b, c, d])?;
        }
        Ok(())
    }

    /// Looks whether the machine must be ended.
    fn look(&mut self) -> Option<Problem> {
        if self.limit.is_some_and(|limit| self.start.elapsed() > limit) {
            return self.limit.map(Problem::Limit);
        }
        if self.fault_seen.is_none() && !klog::faults(&read_console(&self.console)).is_empty() {
            self.fault_seen = Some(Instant::now());
        }
        // The fault itself is reported from the whole console in the end.
        self.fault_seen
            .is_some_and(|seen| seen.elapsed() > GRACE)
            .then(|| Problem::Fault(String::new()))
    }

    /// Waits for the emulator to end by itself.
    fn ends(&mut self) -> Result<bool> {
        let give_up = Instant::now() + GRACE;
        let Some(process) = self.running.processes.first_mut() else {
            return Ok(true);
        };
        while Instant::now() < give_up {
            if process.try_wait()?.is_some() {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(false)
    }
}

/// The console as text that is safe to show: without control characters.
fn read_console(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .chars()
        .filter(|c| *c == '\n' || *c == '\t' || !c.is_control())
        .collect()
}

fn listen(mut from: File, events: Sender<Event>) {
    thread::spawn(move || loop {
        let event = match wire::receive(&mut from) {
            Ok(Some(frame)) => Event::Frame(frame),
            Ok(None) => Event::Over("ended before the command did".into()),
            Err(error) => Event::Over(format!("the agent's port: {error}")),
        };
        let over = matches!(event, Event::Over(_));
        if events.send(event).is_err() || over {
            return;
        }
    });
}

fn pass_stdin(mut to: File, terminal: bool, events: &Sender<Event>) {
    let mut buffer = [0; 4096];
    loop {
        let bytes = match std::io::stdin().read(&mut buffer) {
            Ok(0) | Err(_) => {
                // The machine may be gone already.
                let _ = wire::send(&mut to, Kind::StdinEnd, b"");
                return;
            }
            Ok(count) => &buffer[..count],
        };
        if terminal && bytes.contains(&term::ESCAPE) {
            let _ = events.send(Event::Escape);
            return;
        }
        if wire::send(&mut to, Kind::Stdin, bytes).is_err() {
            return;
        }
    }
}

/// Passes output through as it comes.
pub struct Through;

impl Sink for Through {
    fn stdout(&mut self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        // Nobody reading is no reason to end.
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    }

    fn stderr(&mut self, bytes: &[u8]) {
        let _ = std::io::stderr().write_all(bytes);
    }
}

/// Keeps output, both kinds in the order they came.
#[derive(Default)]
pub struct Keep {
    pub stdout: Vec<u8>,
    pub all: Vec<u8>,
}

impl Sink for Keep {
    fn stdout(&mut self, bytes: &[u8]) {
        self.stdout.extend_from_slice(bytes);
        self.all.extend_from_slice(bytes);
    }

    fn stderr(&mut self, bytes: &[u8]) {
        self.all.extend_from_slice(bytes);
    }
}
