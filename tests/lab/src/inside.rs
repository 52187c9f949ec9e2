// SPDX-License-Identifier: GPL-2.0-or-later

//! Running a program inside the root.
//!
//! The program gets mount and PID namespaces of its own: whatever ends it or
//! the lab, no mount and no process stays behind. The namespaces are made by a
//! second run of the lab (`lab __inside`, [`enter`]), which is single-threaded
//! and may therefore do between fork and exec what it needs to.

use anyhow::{bail, Context, Result};
use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::sys::signal::Signal;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{chdir, chroot, fork, ForkResult};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The subcommand under which the lab starts itself.
pub const ENTER: &str = "__inside";

/// Where Debian keeps the bundle of CA certificates.
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A program to be run inside the root.
pub struct Inside {
    root: PathBuf,
    binds: Vec<OsString>,
    dir: PathBuf,
    env: Vec<(OsString, OsString)>,
}

impl Inside {
    /// Network access as the machine has it: its resolver, CA bundle, proxies.
    /// `platform` is the folder that has the root.
    pub fn new(platform: &Path) -> Self {
        let mut inside = Self {
            root: platform.join("root"),
            binds: Vec::new(),
            dir: "/".into(),
            env: Vec::new(),
        };
        inside.bind_file(Path::new("/etc/resolv.conf"), "/etc/resolv.conf");
        let bundle = std::env::var_os("SSL_CERT_FILE").unwrap_or(CA_BUNDLE.into());
        inside.bind_file(Path::new(&bundle), CA_BUNDLE);
        inside.set("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        inside.set("HOME", "/root");
        inside.set("LANG", "C.UTF-8");
        inside.set("CARGO_HTTP_CAINFO", CA_BUNDLE);
        for (name, value) in std::env::vars_os() {
            let lower = name.to_string_lossy().to_lowercase();
            if lower == "term" || lower.ends_with("_proxy") {
                inside.set(name, value);
            }
        }
        inside
    }

    fn bind_file(&mut self, source: &Path, target: &str) {
        let Ok(source) = source.canonicalize() else {
            return;
        };
        let mount_point = self.root.join(target.trim_start_matches('/'));
        // A bind mount needs a file to cover, and must not follow a symlink
        // out of the root.
        if mount_point.is_symlink() {
            let _ = fs::remove_file(&mount_point);
        }
        if !mount_point.exists() {
            let _ = File::create(&mount_point);
        }
        if mount_point.is_file() {
            self.bind_as(&source, target, "ro");
        }
    }

    fn bind_as(&mut self, source: &Path, target: &str, mode: &str) {
        let mut bind = OsString::from(mode);
        for part in [OsStr::new(target), source.as_os_str()] {
            bind.push(":");
            bind.push(part);
        }
        self.binds.push(bind);
    }

    /// Shows the folder `source` as `target`, which must have no colon in it.
    pub fn bind(mut self, source: &Path, target: &str) -> Self {
        self.bind_as(source, target, "rw");
        self
    }

    /// Shows the folder `source` as `target`, read-only.
    pub fn bind_read_only(mut self, source: &Path, target: &str) -> Self {
        self.bind_as(source, target, "ro");
        self
    }

    /// The working directory, as seen inside.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.set(name, value);
        self
    }

    fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.env.push((name.into(), value.into()));
    }

    /// A command that runs `program` inside, to be given its arguments.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        if !nix::unistd::geteuid().is_root() {
            bail!("needs root (to mount and chroot): run this as root");
        }
        // `/proc/self/exe` also names a binary that was rebuilt meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("lab").arg(ENTER).arg(&self.root);
        command.arg(self.binds.len().to_string()).args(&self.binds);
        command.arg(&self.dir).arg(program);
        command.env_clear().envs(self.env.iter().cloned());
        command.stdin(Stdio::null());
        Ok(command)
    }
}

/// Does what [`Inside::command`] asked for; `args` are those behind [`ENTER`].
/// Returns the exit status of the program, 128 + N when signal N ended it.
pub fn enter(args: &[OsString]) -> Result<i32> {
    let [root, count, rest @ ..] = args else {
        bail!("{ENTER}: arguments are missing");
    };
    let count: usize = count.to_string_lossy().parse()?;
    if rest.len() < count + 2 {
        bail!("{ENTER}: arguments are missing");
    }
    let (binds, rest) = rest.split_at(count);
    let root = Path::new(root);

    die_with_parent();
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .context("this machine (a container?) does not let root make namespaces")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    for (name, flags) in [("dev", MsFlags::MS_REC), ("sys", MsFlags::empty())] {
        let source = Path::new("/").join(name);
        mount(
            Some(&source),
            &root.join(name),
            none,
            MsFlags::MS_BIND | flags,
            none,
        )
        .with_context(|| format!("cannot bind /{name}"))?;
    }
    for bind in binds {
        bind_mount(root, bind)?;
    }

    // SAFETY: this process has one thread, so the child may go on as it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => loop {
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, status)) => return Ok(status),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => bail!("waiting: {error}"),
            }
        },
        ForkResult::Child => {
            // The first process of the PID namespace: when it goes, all go.
            die_with_parent();
            let proc = root.join("proc");
            mount(Some("proc"), &proc, Some("proc"), MsFlags::empty(), none)
                .context("cannot mount /proc")?;
            chroot(root).with_context(|| format!("cannot chroot to {}", root.display()))?;
            chdir(Path::new(&rest[0]))
                .with_context(|| format!("no {} inside the root", rest[0].to_string_lossy()))?;
            let error = Command::new(&rest[1]).args(&rest[2..]).exec();
            bail!("cannot run {}: {error}", rest[1].to_string_lossy())
        }
    }
}

fn bind_mount(root: &Path, bind: &OsStr) -> Result<()> {
    let text = bind.to_string_lossy();
    let mut parts = text.splitn(3, ':');
    let (Some(mode), Some(target), Some(source)) = (parts.next(), parts.next(), parts.next())
    else {
        bail!("{ENTER}: no mount: {text}");
    };
    let none = None::<&str>;
    let target = root.join(target.trim_start_matches('/'));
    if Path::new(source).is_dir() {
        fs::create_dir_all(&target)?;
    }
    let what = || format!("cannot bind {source} to {}", target.display());
    mount(Some(source), &target, none, MsFlags::MS_BIND, none).with_context(what)?;
    if mode == "ro" {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &target, none, flags, none).with_context(what)?;
    }
    Ok(())
}

/// Whatever ends the lab also ends what it started.
fn die_with_parent() {
    // It can only fail for a signal that does not exist.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
}

/// Runs `command` with its output in `log`; a failure shows the end of it.
pub fn run_logged(mut command: Command, log: &Path, what: &str) -> Result<()> {
    let file = File::options().create(true).append(true).open(log)?;
    let from = file.metadata()?.len();
    let status = command
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("{what}: cannot start"))?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read(log)?;
    let new = String::from_utf8_lossy(text.get(from as usize..).unwrap_or_default()).into_owned();
    bail!(
        "{what} failed ({status}), the end of {}:\n{}",
        log.display(),
        tail(&new, 20)
    )
}

/// The last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\n", 2), "a");
    }
}
