// SPDX-License-Identifier: GPL-2.0-or-later

//! This side of the machine: the terminal, signals and files, which stay when the guest resets;
//! and the loop in which the main thread waits.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use vmm_sys_util::eventfd::EventFd;

use crate::cli::ConsoleArg;
use crate::config::SERIAL_PORTS;
use crate::console::escape::{self, Escapes, Request};
use crate::console::output::{Output, Writer};
use crate::console::terminal::{self, Raw};
use crate::devices::serial::Serial;
use crate::ending::{Control, Ending};
use crate::message::{self, say};
use crate::sync::lock;

/// How long the end waits for the console's reader to take the last output.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Most input taken at once, in bytes.
const INPUT_CHUNK: usize = 1024;

/// Signals that end the run, unless our parent had us ignore them.
const ENDING_SIGNALS: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// The signal that makes every vCPU report what it is doing.
const REPORT_SIGNAL: Signal = Signal::SIGUSR1;

/// The serial port that is connected to stdin, and the event it raises when it takes more.
pub struct Console {
    pub serial: Option<Arc<Mutex<Serial>>>,
    pub drained: Arc<EventFd>,
}

/// Our side of the machine.
pub struct Host {
    signals: SignalFd,
    outputs: [Output; SERIAL_PORTS],
    writers: Vec<Writer>,
    /// Which serial port, if any, is on stdio.
    on_stdio: Option<usize>,
    stdin: Stdin,
}

/// What is known of stdin.
struct Stdin {
    /// There may be more to read.
    open: bool,
    terminal: bool,
    raw: Option<Raw>,
    escapes: Escapes,
}

/// What there is to do.
struct Ready {
    drained: bool,
    signal: bool,
    input: bool,
}

impl Host {
    /// Opens the consoles' files and takes hold of signals and the terminal.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub fn new(consoles: &[ConsoleArg; SERIAL_PORTS], quiet: bool) -> Result<Self> {
        // Before any thread starts, so that all of them leave signals to us.
        let signals = take_signals().context("cannot set up signals")?;
        let mut outputs: [Output; SERIAL_PORTS] = std::array::from_fn(|_| Output::none());
        let mut writers = Vec::new();
        for (output, console) in outputs.iter_mut().zip(consoles) {
            let file = match console {
                ConsoleArg::None => continue,
                ConsoleArg::Stdio => stdout()?,
                ConsoleArg::File(path) => OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(path)
                    .with_context(|| {
                        format!("--console file:{}: cannot write there", path.display())
                    })?,
            };
            let (writer, to) = Writer::start(file)?;
            writers.push(writer);
            *output = to;
        }
        let on_stdio = consoles
            .iter()
            .position(|console| *console == ConsoleArg::Stdio);
        let stdin = Stdin::new(on_stdio.is_some(), quiet)?;
        Ok(Self {
            signals,
            outputs,
            writers,
            on_stdio,
            stdin,
        })
    }

    /// Where serial port `number` writes.
    pub fn output(&self, number: usize) -> Output {
        self.outputs
            .get(number)
            .cloned()
            .unwrap_or_else(Output::none)
    }

    /// The number of the serial port on stdio.
    pub fn on_stdio(&self) -> Option<usize> {
        self.on_stdio
    }

    /// A line for the user.
    pub fn say(&self, line: &str) {
        say!("{line}");
    }

    /// Waits until the run is over, and serves the console meanwhile. `kick` brings all vCPUs out
    /// of the guest for a moment.
    ///
    /// # Errors
    ///
    /// When the system fails us.
    pub fn wait(&mut self, control: &Control, console: &Console, kick: &dyn Fn()) -> Result<()> {
        while !control.ended() {
            let wants_input = console
                .serial
                .as_ref()
                .is_some_and(|serial| lock(serial).wants_input());
            let ready = self.poll(control, console, wants_input)?;
            if ready.drained {
                drained(console);
            }
            if ready.signal {
                self.signal(control, kick)?;
            }
            if ready.input {
                self.input(control, console, kick);
            }
        }
        Ok(())
    }

    fn poll(&self, control: &Control, console: &Console, wants_input: bool) -> Result<Ready> {
        let stdin = io::stdin();
        let mut fds = vec![
            PollFd::new(borrow(control.event()), PollFlags::POLLIN),
            PollFd::new(borrow(&console.drained), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        if wants_input && self.stdin.readable() {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        let ready = |index: usize| {
            fds.get(index)
                .and_then(PollFd::revents)
                .is_some_and(|events| !events.is_empty())
        };
        Ok(Ready {
            drained: ready(1),
            signal: ready(2),
            input: ready(3),
        })
    }

    fn signal(&mut self, control: &Control, kick: &dyn Fn()) -> Result<()> {
        let Some(info) = self.signals.read_signal().context("cannot read signals")? else {
            return Ok(());
        };
        match Signal::try_from(info.ssi_signo as i32) {
            Ok(Signal::SIGTSTP) => {
                terminal::restore();
                // SAFETY: stops this process; it goes on here when it is continued.
                unsafe { libc::raise(libc::SIGSTOP) };
                self.stdin.resume();
            }
            Ok(REPORT_SIGNAL) => report(control, kick),
            Ok(Signal::SIGCONT) => self.stdin.resume(),
            Ok(signal) => control.end(Ending::Signal(signal as i32)),
            Err(_) => {}
        }
        Ok(())
    }

    fn input(&mut self, control: &Control, console: &Console, kick: &dyn Fn()) {
        let mut for_guest = Vec::new();
        for request in self.stdin.read(&mut for_guest) {
            match request {
                Request::Report => report(control, kick),
                Request::Quit => control.end(Ending::Escape),
                Request::Help => message::to_stderr(format_args!("\n{}", escape::HELP)),
            }
        }
        if let Some(serial) = &console.serial {
            lock(serial).input(&for_guest);
        }
    }

    /// Lets go of vCPUs that wait for somebody to read the console. Nothing written from now on
    /// gets out.
    pub fn close_output(&self) {
        for writer in &self.writers {
            writer.close();
        }
    }

    /// Gives what was written to the consoles some time to get out, and the terminal back.
    pub fn finish(self) {
        for writer in &self.writers {
            writer.drain(DRAIN_LIMIT);
        }
    }
}

fn report(control: &Control, kick: &dyn Fn()) {
    control.ask_for_reports();
    kick();
}

fn drained(console: &Console) {
    // Nonblocking; what counts is that it is zero afterwards.
    let _ = console.drained.read();
    if let Some(serial) = &console.serial {
        lock(serial).feed();
    }
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the event keeps its descriptor open for as long as it is borrowed here.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// A handle of our own on stdout: unbuffered, and dropping it does not close stdout.
fn stdout() -> Result<File> {
    io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map(File::from)
        .context("cannot use stdout as console")
}

/// Blocks the signals we want to hear of and returns where they arrive.
fn take_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in ENDING_SIGNALS {
        if !is_ignored(signal) {
            set.add(signal);
        }
    }
    set.add(Signal::SIGTSTP);
    set.add(Signal::SIGCONT);
    set.add(REPORT_SIGNAL);
    nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

fn is_ignored(signal: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks; should that fail, all zeroes is a valid structure.
    let action = unsafe {
        libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

impl Stdin {
    fn new(used: bool, quiet: bool) -> Result<Self> {
        let mut stdin = Self {
            open: used,
            terminal: used && terminal::is_terminal(),
            raw: None,
            escapes: Escapes::default(),
        };
        if stdin.terminal && terminal::in_foreground() {
            if !quiet {
                say!("Ctrl-A x ends the guest, Ctrl-A h shows all keys");
            }
            stdin.raw = Some(Raw::enter()?);
        }
        Ok(stdin)
    }

    /// Whether reading is allowed: a background job that read its terminal would be stopped.
    fn readable(&self) -> bool {
        self.open && (!self.terminal || terminal::in_foreground())
    }

    /// After having been stopped, or moved between foreground and background.
    fn resume(&mut self) {
        if !self.terminal || !terminal::in_foreground() {
            return;
        }
        let again = match &self.raw {
            Some(raw) => raw.set().map_err(Into::into),
            None => Raw::enter().map(|raw| self.raw = Some(raw)),
        };
        if let Err(error) = again {
            say!("{error:#}");
        }
    }

    /// Reads what is there; the guest's part of it goes to `for_guest`.
    fn read(&mut self, for_guest: &mut Vec<u8>) -> Vec<Request> {
        let mut buffer = [0; INPUT_CHUNK];
        // Not through `io::stdin()`, which buffers: `poll` would not see what it holds.
        let count = match nix::unistd::read(io::stdin().as_fd(), &mut buffer) {
            Ok(count) => count,
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => return Vec::new(),
            Err(_) => 0,
        };
        let input = buffer.get(..count).unwrap_or_default();
        if input.is_empty() {
            self.open = false;
        }
        if !self.terminal {
            // A file or a pipe is the guest's, byte for byte.
            for_guest.extend_from_slice(input);
            return Vec::new();
        }
        self.escapes.filter(input, for_guest)
    }
}
