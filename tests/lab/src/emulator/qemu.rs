// SPDX-License-Identifier: GPL-2.0-or-later

//! QEMU's TCG, for SVM.

use super::{Emulator, End, Machine, Running, Sharing};
use anyhow::{bail, Context, Result};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// QEMU emulates SVM with nested paging.
pub struct Qemu;

/// Where the run's folder is seen inside the root.
const RUN: &str = "/run/lab";
/// QEMU's log of processors that were reset, in the run's folder.
const RESETS: &str = "resets";
/// Where the shared directory is seen inside the root.
const SHARE: &str = "/mnt";

impl Emulator for Qemu {
    fn port(&self) -> &'static str {
        "/dev/vport0p1"
    }

    fn append(&self) -> &'static str {
        // The host under test must never take a hypervisor below for its own.
        "no-kvmapf"
    }

    fn end(&self) -> End {
        End::Reset
    }

    fn sharing(&self) -> Sharing {
        Sharing::Virtiofs
    }

    fn default_memory_mib(&self) -> u32 {
        2048
    }

    fn stock_module(&self, _model: Option<&str>) -> &'static str {
        "kvm_amd"
    }

    fn check(&self, model: Option<&str>, _memory_mib: u32) -> Result<()> {
        if let Some(model) = model {
            bail!(
                "--model {model}: only machines in Bochs (--vendor vmx) have a choice of processor"
            );
        }
        Ok(())
    }

    fn failure(&self, run: &Path) -> Option<String> {
        let log = fs::read(run.join(RESETS)).ok()?;
        String::from_utf8_lossy(&log)
            .contains("Triple fault")
            .then(|| "QEMU: the machine's processor met a triple fault and was reset".into())
    }

    fn start(&self, machine: &Machine) -> Result<Running> {
        let file_server = machine
            .share
            .map(|share| serve_files(machine, share))
            .transpose()?;
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);

        let inside = machine.platform.inside().bind(machine.run, RUN);
        let mut qemu = inside.command("qemu-system-x86_64")?;
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        qemu.args(["-no-reboot", "-monitor", "none", "-cpu", "EPYC,+svm,+npt"]);
        if machine.count {
            // Counted time stands still unless there is one thread.
            qemu.args(["-accel", "tcg,thread=single"]);
            qemu.args(["-icount", "shift=0,sleep=off"]);
        } else {
            qemu.args(["-accel", "tcg,thread=multi"]);
        }
        // Tells a triple fault from a machine that was stopped.
        qemu.args(["-d", "cpu_reset", "-D", &format!("{RUN}/{RESETS}")]);
        qemu.args(["-smp", &machine.cpus.to_string()]);
        qemu.args(["-m", &format!("{}M", machine.memory_mib)]);
        qemu.arg("-kernel").arg(&machine.kernel);
        qemu.args(["-initrd", &format!("{RUN}/initrd")]);
        qemu.args(["-append", &machine.append]);
        qemu.args(["-chardev", &format!("file,id=console,path={RUN}/console")]);
        qemu.args(["-serial", "chardev:console"]);
        qemu.args(["-chardev", "stdio,id=agent,signal=off"]);
        qemu.args(["-device", "virtio-serial-pci"]);
        qemu.args(["-device", "virtserialport,chardev=agent,name=agent"]);
        if machine.share.is_some() {
            // The file server works on the machine's memory itself.
            let size = machine.memory_mib;
            qemu.args([
                "-object",
                &format!("memory-backend-memfd,id=memory,size={size}M,share=on"),
            ]);
            qemu.args(["-machine", "memory-backend=memory"]);
            qemu.args(["-chardev", &format!("socket,id=files,path={RUN}/files")]);
            let tag = crate::agent::SHARE_TAG;
            qemu.args([
                "-device",
                &format!("vhost-user-fs-pci,chardev=files,tag={tag}"),
            ]);
        }
        let log = File::create(machine.run.join("emulator"))?;
        let process = qemu
            .stdin(Stdio::from(theirs.try_clone()?))
            .stdout(Stdio::from(theirs))
            .stderr(log)
            .spawn()
            .context("cannot start QEMU")?;
        let mut processes = vec![process];
        processes.extend(file_server);
        let ours = OwnedFd::from(ours);
        Ok(Running {
            from_agent: File::from(ours.try_clone()?),
            to_agent: File::from(ours),
            processes,
        })
    }
}

/// Starts virtiofsd for `share` and waits for its socket.
fn serve_files(machine: &Machine, share: &Path) -> Result<Child> {
    let share = share
        .canonicalize()
        .with_context(|| format!("cannot share {}", share.display()))?;
    if !share.is_dir() {
        bail!("cannot share {}: not a directory", share.display());
    }
    let log = machine.run.join("files.log");
    let mut child = machine
        .platform
        .inside()
        .bind(machine.run, RUN)
        .bind_read_only(&share, SHARE)
        .command("/usr/libexec/virtiofsd")?
        .args(["--socket-path", &format!("{RUN}/files")])
        .args(["--shared-dir", SHARE])
        .args(["--sandbox", "none", "--readonly", "--cache", "auto"])
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()
        .context("cannot start virtiofsd")?;
    let give_up = Instant::now() + Duration::from_secs(10);
    while !machine.run.join("files").exists() {
        if child.try_wait()?.is_some() || Instant::now() > give_up {
            let _ = child.kill();
            let _ = child.wait();
            bail!(
                "virtiofsd does not start: {}",
                fs::read_to_string(&log)?.trim()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}
