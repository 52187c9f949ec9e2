// SPDX-License-Identifier: GPL-2.0-or-later

//! QEMU as the guest's VMM: that of the platform's root, which the host under
//! test shares.

use super::KERNEL;
use crate::agent::SHARE;
use anyhow::{bail, Context, Result};
use nix::mount::{mount, MsFlags};
use std::path::Path;
use std::process::Command;

/// The program, in the root.
const QEMU: &str = "usr/bin/qemu-system-x86_64";
/// What QEMU needs of the host, and where in the root it sees it.
const BINDS: [(&str, &str); 4] = [
    ("/dev", "dev"),
    ("/proc", "proc"),
    ("/tmp", "tmp"),
    ("/lab", "mnt"),
];

/// The command that boots the guest with `words` for QEMU. `initrd` is in `/tmp`.
pub fn command(words: &str, initrd: &Path, append: &str) -> Result<Command> {
    let root = Path::new(SHARE);
    if !root.join(QEMU).exists() {
        bail!("{SHARE} has no QEMU: the row of the table begins with \"root:\"");
    }
    for (from, to) in BINDS {
        let none = None::<&str>;
        mount(Some(from), &root.join(to), none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot show QEMU {from}"))?;
    }
    let kernel = KERNEL.replacen("/lab/", "/mnt/", 1);
    let mut qemu = Command::new("chroot");
    qemu.arg(root).arg(format!("/{QEMU}"));
    qemu.args(["-accel", "kvm", "-m", "256M", "-no-reboot"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    qemu.args(["-serial", "stdio"]);
    qemu.args(words.split_whitespace());
    qemu.args(["-kernel", &kernel, "-initrd"]).arg(initrd);
    qemu.arg("-append");
    qemu.arg(format!("console=ttyS0 panic=-1 cryptomgr.notests {append}").trim());
    Ok(qemu)
}
