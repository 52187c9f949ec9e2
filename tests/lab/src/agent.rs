// SPDX-License-Identifier: GPL-2.0-or-later

//! The first process of the host under test: loads the modules, runs one
//! command, reports its output and status, unloads the modules, and ends the
//! machine.
//!
//! What to do is in [`CONFIG`], a file of the initramfs.

use crate::emulator::{End, Sharing};
use crate::wire::{self, Kind};
use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::mount::{mount, MsFlags};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::pty::openpty;
use nix::sys::reboot::RebootMode;
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{read, write, Pid};
use std::collections::VecDeque;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the lab puts the [`Config`] of a run.
pub const CONFIG: &str = "/lab/config";
/// Where the shared directory is seen.
pub const SHARE: &str = "/share";
/// The virtiofs tag of the shared directory.
pub const SHARE_TAG: &str = "share";
/// Where the built programs are.
pub const BIN: &str = "/lab/bin";

/// How much standard input may wait for the command before no more is taken.
const STDIN_LIMIT: usize = 1 << 20;

/// What the agent is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The device to report on.
    pub port: String,
    /// Modules to load, in order: path and parameters.
    pub modules: Vec<(String, String)>,
    /// How to come by the shared directory, if there is one.
    pub share: Option<Sharing>,
    /// How to end the machine.
    pub end: End,
    /// Whether the command gets a terminal.
    pub terminal: bool,
    /// Seconds to let the kernel come to rest before the command runs.
    pub settle: u64,
    pub command: Vec<OsString>,
}

impl Config {
    /// As bytes: fields ended by NUL, each `key=value`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |key: &str, value: &[u8]| {
            out.extend_from_slice(key.as_bytes());
            out.push(b'=');
            out.extend_from_slice(value);
            out.push(0);
        };
        put("port", self.port.as_bytes());
        for (path, parameters) in &self.modules {
            put("module", format!("{path} {parameters}").as_bytes());
        }
        let share: &[u8] = match self.share {
            None => b"",
            Some(Sharing::Virtiofs) => b"virtiofs",
            Some(Sharing::Copy) => b"copy",
        };
        put("share", share);
        let end: &[u8] = match self.end {
            End::Reset => b"reset",
            End::PowerOff => b"power-off",
        };
        put("end", end);
        put("terminal", if self.terminal { b"1" } else { b"0" });
        put("settle", self.settle.to_string().as_bytes());
        for word in &self.command {
            put("command", word.as_bytes());
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut config = Self {
            port: String::new(),
            modules: Vec::new(),
            share: None,
            end: End::Reset,
            terminal: false,
            settle: 0,
            command: Vec::new(),
        };
        for field in bytes.split(|byte| *byte == 0).filter(|f| !f.is_empty()) {
            let at = field
                .iter()
                .position(|byte| *byte == b'=')
                .context("a field without a value")?;
            let (key, value) = (&field[..at], &field[at + 1..]);
            let text = || String::from_utf8_lossy(value).into_owned();
            match key {
                b"port" => config.port = text(),
                b"module" => {
                    let text = text();
                    let (path, parameters) = text.split_once(' ').unwrap_or((&text, ""));
                    config.modules.push((path.into(), parameters.into()));
                }
                b"share" => {
                    config.share = match value {
                        b"" => None,
                        b"virtiofs" => Some(Sharing::Virtiofs),
                        b"copy" => Some(Sharing::Copy),
                        _ => bail!("unknown way to share: {}", text()),
                    }
                }
                b"end" => {
                    config.end = match value {
                        b"reset" => End::Reset,
                        b"power-off" => End::PowerOff,
                        _ => bail!("unknown end: {}", text()),
                    }
                }
                b"terminal" => config.terminal = value == b"1",
                b"settle" => config.settle = text().parse()?,
                b"command" => config.command.push(OsString::from_vec(value.to_vec())),
                _ => bail!("unknown field {}", String::from_utf8_lossy(key)),
            }
        }
        Ok(config)
    }
}

/// The agent's whole life.
pub fn main() -> ! {
    if std::process::id() != 1 {
        eprintln!("lab-agent is the first process of the host under test, not a command");
        std::process::exit(2);
    }
    // A reset ends every emulator, if not as cleanly.
    let mut end = End::Reset;
    if let Err(error) = live(&mut end) {
        // Nobody listens on the port: the console is all there is.
        eprintln!("lab-agent: {error:#}");
    }
    nix::unistd::sync();
    let _ = nix::sys::reboot::reboot(match end {
        End::Reset => RebootMode::RB_AUTOBOOT,
        End::PowerOff => RebootMode::RB_POWER_OFF,
    });
    unreachable!("the kernel ends the machine");
}

fn live(end: &mut End) -> Result<()> {
    mounts()?;
    let config = Config::decode(&fs::read(CONFIG).context(CONFIG)?)?;
    *end = config.end;
    let mut port = open_port(&config.port)?;
    match work(&config, &mut port) {
        Ok(status) => wire::send(&mut port, Kind::Exit, &status.to_le_bytes())?,
        Err(error) => wire::send(&mut port, Kind::Failed, format!("{error:#}").as_bytes())?,
    }
    // What a serial line has not sent by then is lost; other ports keep nothing.
    let _ = nix::sys::termios::tcdrain(&port);
    Ok(())
}

fn mounts() -> Result<()> {
    let table = [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
    ];
    for (kind, at) in table {
        // Some are there only once their parent is mounted, or never.
        let _ = fs::create_dir_all(at);
        match mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => eprintln!("lab-agent: {at}: {error}"),
        }
    }
    // A task that does not run for so long is stuck, not slow.
    fs::write("/proc/sys/kernel/hung_task_timeout_secs", "40").context("hung_task_timeout_secs")
}

fn open_port(path: &str) -> Result<File> {
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        match File::options().read(true).write(true).open(path) {
            Ok(port) => {
                raw(&port)?;
                return Ok(port);
            }
            Err(error) if Instant::now() > give_up => bail!("{path}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A serial line must pass bytes as they are; other ports do anyway.
fn raw(port: &File) -> Result<()> {
    use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, ControlFlags, SetArg};
    if let Ok(mut settings) = tcgetattr(port) {
        cfmakeraw(&mut settings);
        // As fast as it can; `cfsetspeed` cannot be linked statically.
        let others = settings.control_flags.bits() & !libc::CBAUD;
        settings.control_flags = ControlFlags::from_bits_retain(others | libc::B115200);
        tcsetattr(port, SetArg::TCSANOW, &settings)?;
    }
    Ok(())
}

fn work(config: &Config, port: &mut File) -> Result<u32> {
    for (path, parameters) in &config.modules {
        load(path, parameters).with_context(|| format!("cannot load {path}"))?;
    }
    if let Some(sharing) = config.share {
        mount_share(sharing).context("cannot mount the shared directory")?;
    }
    std::thread::sleep(Duration::from_secs(config.settle));
    let status = run(config, port)?;
    end_all_others();
    for (path, _) in config.modules.iter().rev() {
        unload(path).with_context(|| format!("after the command, cannot unload {path}"))?;
    }
    Ok(status)
}

/// The shared directory, read-only however it comes.
fn mount_share(sharing: Sharing) -> Result<()> {
    let none = None::<&str>;
    fs::create_dir_all(SHARE)?;
    match sharing {
        Sharing::Virtiofs => mount(
            Some(SHARE_TAG),
            SHARE,
            Some("virtiofs"),
            MsFlags::MS_RDONLY,
            none,
        )?,
        Sharing::Copy => {
            mount(Some(SHARE), SHARE, none, MsFlags::MS_BIND, none)?;
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, SHARE, none, flags, none)?;
        }
    }
    Ok(())
}

fn load(path: &str, parameters: &str) -> Result<()> {
    let file = File::open(path)?;
    let parameters = CString::new(parameters)?;
    // SAFETY: the descriptor and the string live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    Errno::result(result)?;
    Ok(())
}

fn unload(path: &str) -> Result<()> {
    let name = Path::new(path).file_stem().context("no name")?;
    let name = CString::new(name.to_string_lossy().replace('-', "_"))?;
    // SAFETY: the string lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    match Errno::result(result) {
        // The command itself may have unloaded it.
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Ends whatever the command left running, so that it holds no module.
fn end_all_others() {
    let _ = nix::sys::signal::kill(Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL);
    while waitpid(Pid::from_raw(-1), None).is_ok() {}
}

/// The command's ends of standard input and output.
struct Streams {
    stdin: Option<OwnedFd>,
    outputs: Vec<(Kind, OwnedFd)>,
    terminal: Option<OwnedFd>,
}

fn run(config: &Config, port: &mut File) -> Result<u32> {
    let [program, arguments @ ..] = &config.command[..] else {
        bail!("no command");
    };
    let mut command = Command::new(program);
    command.args(arguments);
    command.current_dir(if config.share.is_some() { SHARE } else { "/" });
    command.env_clear();
    command.env("PATH", format!("{BIN}:/usr/sbin:/usr/bin:/sbin:/bin"));
    command.envs([("HOME", "/"), ("TERM", "linux"), ("PS1", "host# ")]);
    command.env("RUST_BACKTRACE", "1");
    let signals = child_signals()?;
    // SAFETY: the closure makes only a system call.
    unsafe { command.pre_exec(unblock_signals) };
    let (child, streams) = if config.terminal {
        start_on_terminal(command)?
    } else {
        start_on_pipes(command)?
    };
    wire::send(port, Kind::Started, b"")?;
    pump(child, streams, port, &signals)
}

fn cannot_run(error: std::io::Error, command: &Command) -> anyhow::Error {
    anyhow::anyhow!(
        "cannot run {}: {error}",
        command.get_program().to_string_lossy()
    )
}

fn start_on_pipes(mut command: Command) -> Result<(Pid, Streams)> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| cannot_run(error, &command))?;
    let stdin = child.stdin.take().map(OwnedFd::from);
    let stdout = child.stdout.take().map(OwnedFd::from);
    let stderr = child.stderr.take().map(OwnedFd::from);
    let outputs = [(Kind::Stdout, stdout), (Kind::Stderr, stderr)]
        .into_iter()
        .filter_map(|(kind, fd)| Some((kind, fd?)))
        .collect();
    let streams = Streams {
        stdin,
        outputs,
        terminal: None,
    };
    Ok((Pid::from_raw(i32::try_from(child.id())?), streams))
}

fn start_on_terminal(mut command: Command) -> Result<(Pid, Streams)> {
    let pty = openpty(None, None)?;
    // The child must not hold the end that is ours.
    fcntl(
        &pty.master,
        FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    let end = || pty.slave.try_clone().map(Stdio::from);
    command.stdin(end()?).stdout(end()?).stderr(end()?);
    // SAFETY: the closure makes only system calls.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            Ok(())
        });
    }
    let child = command
        .spawn()
        .map_err(|error| cannot_run(error, &command))?;
    let streams = Streams {
        stdin: Some(pty.master.try_clone()?),
        outputs: vec![(Kind::Stdout, pty.master.try_clone()?)],
        terminal: Some(pty.master),
    };
    Ok((Pid::from_raw(i32::try_from(child.id())?), streams))
}

/// A descriptor that is readable when a child has ended.
fn child_signals() -> Result<OwnedFd> {
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    Ok(fd.as_fd().try_clone_to_owned()?)
}

/// Before a program begins: [`child_signals`] is ours alone. A shell that
/// begins with SIGCHLD blocked waits for ever for a job that ends while it waits.
fn unblock_signals() -> std::io::Result<()> {
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Carries bytes both ways until the command has ended and said all.
fn pump(child: Pid, mut streams: Streams, port: &mut File, signals: &OwnedFd) -> Result<u32> {
    for fd in streams
        .stdin
        .iter()
        .chain(streams.outputs.iter().map(|o| &o.1))
    {
        nonblocking(fd.as_fd())?;
    }
    let mut incoming = Incoming::default();
    let mut status = None;
    loop {
        let ready = wait(&streams, port, signals, &incoming, status.is_some())?;
        drain_signals(signals);
        status = status.or(reap(child));
        let mut moved = false;
        let mut index = 0;
        while let Some((kind, fd)) = streams.outputs.get(index) {
            match forward(fd, *kind, port)? {
                Flow::End => drop(streams.outputs.remove(index)),
                flow => {
                    moved |= flow == Flow::Moved;
                    index += 1;
                }
            }
        }
        if ready.port {
            incoming.take_from(port)?;
        }
        incoming.give_to(&mut streams)?;
        // What the command's own children still hold open is not waited for.
        if let (Some(status), false) = (status, moved) {
            return Ok(status);
        }
    }
}

struct Ready {
    port: bool,
}

fn wait(
    streams: &Streams,
    port: &File,
    signals: &OwnedFd,
    incoming: &Incoming,
    ended: bool,
) -> Result<Ready> {
    let take = incoming.waiting.len() < STDIN_LIMIT && !incoming.port_closed;
    let mut fds = vec![
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(
            port.as_fd(),
            if take {
                PollFlags::POLLIN
            } else {
                PollFlags::empty()
            },
        ),
    ];
    for (_, fd) in &streams.outputs {
        fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
    }
    if let (Some(fd), false) = (&streams.stdin, incoming.waiting.is_empty()) {
        fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLOUT));
    }
    let timeout = if ended {
        PollTimeout::ZERO
    } else {
        PollTimeout::NONE
    };
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => bail!("poll: {error}"),
    }
    let port = fds[1]
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLIN));
    Ok(Ready { port })
}

fn drain_signals(signals: &OwnedFd) {
    let mut buffer = [0; 1024];
    while read(signals, &mut buffer).is_ok_and(|count| count > 0) {}
}

/// The first process inherits every orphan; only `child` counts.
fn reap(child: Pid) -> Option<u32> {
    let mut found = None;
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        match status {
            WaitStatus::Exited(pid, code) if pid == child => found = Some(code as u32),
            WaitStatus::Signaled(pid, signal, _) if pid == child => {
                found = Some(128 + signal as u32);
            }
            WaitStatus::StillAlive => break,
            _ => {}
        }
    }
    found
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Moved,
    Nothing,
    End,
}

fn forward(fd: &OwnedFd, kind: Kind, port: &mut File) -> Result<Flow> {
    let mut buffer = [0; 16384];
    match read(fd, &mut buffer) {
        Ok(0) => Ok(Flow::End),
        Ok(count) => {
            wire::send(port, kind, &buffer[..count])?;
            Ok(Flow::Moved)
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Flow::Nothing),
        // A terminal that nobody has open.
        Err(Errno::EIO) => Ok(Flow::End),
        Err(error) => bail!("reading the command's output: {error}"),
    }
}

/// What has come for the command and waits for it.
#[derive(Default)]
struct Incoming {
    raw: Vec<u8>,
    waiting: VecDeque<u8>,
    at_end: bool,
    port_closed: bool,
    size: Option<(u16, u16)>,
}

impl Incoming {
    fn take_from(&mut self, port: &File) -> Result<()> {
        let mut buffer = [0; 16384];
        let count = read(port, &mut buffer)?;
        self.port_closed = count == 0;
        self.raw.extend_from_slice(&buffer[..count]);
        while let Some(frame) = wire::take(&mut self.raw)? {
            match (frame.kind, &frame.content[..]) {
                (Kind::Stdin, content) => self.waiting.extend(content),
                (Kind::StdinEnd, _) => self.at_end = true,
                (Kind::WindowSize, &[a, b, c, d]) => {
                    self.size = Some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])));
                }
                (kind, _) => bail!("the lab sent {kind:?}"),
            }
        }
        Ok(())
    }

    fn give_to(&mut self, streams: &mut Streams) -> Result<()> {
        if let (Some((rows, columns)), Some(terminal)) = (self.size.take(), &streams.terminal) {
            set_size(terminal.as_fd(), rows, columns)?;
        }
        while let Some(stdin) = &streams.stdin {
            let (first, _) = self.waiting.as_slices();
            if first.is_empty() {
                break;
            }
            match write(stdin, first) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                // The command does not want it.
                Err(_) => {
                    self.waiting.clear();
                    streams.stdin = None;
                }
            }
        }
        if self.at_end && self.waiting.is_empty() {
            streams.stdin = None;
        }
        Ok(())
    }
}

fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel reads one `winsize` through the pointer.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) })?;
    Ok(())
}

fn nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_survives_the_file() {
        let config = Config {
            port: "/dev/vport0p1".into(),
            modules: vec![
                ("/a/kvm.ko".into(), "x=1 y=2".into()),
                ("/b.ko".into(), String::new()),
            ],
            share: Some(Sharing::Copy),
            end: End::PowerOff,
            terminal: false,
            settle: 3,
            command: vec!["sh".into(), "-c".into(), "echo 'a=b'".into(), "".into()],
        };
        assert_eq!(Config::decode(&config.encode()).unwrap(), config);
        assert!(Config::decode(b"nonsense\0").is_err());
    }
}
