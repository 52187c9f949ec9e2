// SPDX-License-Identifier: GPL-2.0-or-later

//! Making the reference platform.
//!
//! Stages, each with a stamp that holds what it was made from, so that an
//! interrupted setup goes on where it was and a changed input redoes what
//! depends on it. The first stage is `base.sh`; see there for why.

use crate::inside::{run_logged, Inside};
use crate::place::{hash, lock, Cache, Place};
use anyhow::{anyhow, bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The kernel's series; which release of it, the mirror decides once.
const SERIES: &str = "7.2";
/// The flavour of the host under test and of Linux guests.
const FLAVOUR: &str = "cloud-amd64";
/// The prepared kernel tree, as seen inside the root.
pub const KERNEL_TREE: &str = "/src/linux";
/// The compiler Debian builds this kernel with.
pub const CC: &str = "CC=gcc-14";

/// What the setup has made.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Its folder in the cache; `root` in it is the Debian 13 root.
    pub dir: PathBuf,
    /// The kernel's release, as `uname -r` says it.
    pub release: String,
}

impl Platform {
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// For running a program inside the root.
    pub fn inside(&self) -> Inside {
        Inside::new(&self.dir)
    }

    /// The stock kernel's modules and image, on this machine.
    pub fn modules_dir(&self) -> PathBuf {
        self.root().join("usr/lib/modules").join(&self.release)
    }

    pub fn vmlinuz(&self) -> PathBuf {
        self.modules_dir().join("vmlinuz")
    }
}

/// Makes the platform, or what is missing of it.
pub fn setup(place: &Place) -> Result<Platform> {
    let cache = &place.cache;
    fs::create_dir_all(cache.dir())
        .with_context(|| format!("cannot make {}", cache.dir().display()))?;
    let _lock = lock(&cache.join("lock"))?;

    let base = Command::new("sh")
        .arg(place.clone.join("tests/lab/base.sh"))
        .arg(cache.dir())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run sh")?;
    if !base.status.success() {
        bail!("the setup is not complete");
    }
    let dir = PathBuf::from(String::from_utf8(base.stdout)?.trim_end());

    let stages = Stages { dir: &dir };
    let release = choose_kernel(cache, &stages)?;
    let headers = format!("linux-headers-{release}");
    stages.stage("headers", &headers, "installing kernel headers", || {
        stages.install(&[&headers])
    })?;
    // The packages come from the network and the tree needs the processors:
    // both at once.
    std::thread::scope(|scope| {
        let packages = scope.spawn(|| {
            let wanted = [
                "qemu-system-x86".to_owned(),
                format!("linux-binary-{release}"),
                format!("linux-modules-{release}"),
            ];
            let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
            stages.stage(
                "host",
                &wanted.join(" "),
                "installing QEMU and the stock kernel",
                || stages.install(&wanted),
            )
        });
        let tree = tree(&stages, &release);
        let packages = packages
            .join()
            .unwrap_or_else(|_| Err(anyhow!("a stage panicked")));
        tree.and(packages)
    })?;
    let decompressor = "zstd";
    stages.stage("zstd", decompressor, "installing zstd", || {
        stages.install(&[decompressor])
    })?;
    Ok(Platform { dir, release })
}

/// The newest kernel of the series, chosen once and remembered.
fn choose_kernel(cache: &Cache, stages: &Stages) -> Result<String> {
    let file = cache.join("kernel");
    let output = Inside::new(stages.dir)
        .command("apt-cache")?
        .args(["pkgnames", &format!("linux-headers-{SERIES}.")])
        .output()?;
    let names = String::from_utf8_lossy(&output.stdout);
    if let Ok(release) = fs::read_to_string(&file) {
        let name = format!("linux-headers-{release}");
        if stages.stamped("headers", &name) || names.lines().any(|line| line == name) {
            return Ok(release);
        }
        eprintln!("lab: the mirror no longer has Linux {release}, choosing another");
    }
    let release = newest(&names).with_context(|| {
        format!("the mirror's trixie-backports has no Linux {SERIES} for {FLAVOUR}")
    })?;
    fs::write(&file, &release)?;
    Ok(release)
}

/// The newest release among the names of header packages.
fn newest(names: &str) -> Option<String> {
    names
        .lines()
        .filter_map(|name| name.strip_prefix("linux-headers-"))
        .filter(|release| release.starts_with(SERIES) && release.ends_with(FLAVOUR))
        .filter(|release| !release.contains("-rt-"))
        .max_by_key(|release| {
            release
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect::<Vec<u32>>()
        })
        .map(str::to_owned)
}

/// Makes the prepared kernel tree. An interrupted `make` may leave half a file,
/// so a preparation that was begun and not done starts from the source.
fn tree(stages: &Stages, release: &str) -> Result<()> {
    let begun = stages.stamp("prepare-begun");
    if begun.exists() && !stages.stamped("prepare", release) {
        fs::remove_file(stages.stamp("source")).ok();
    }
    source(stages, release)?;
    fs::write(begun, "")?;
    prepare(stages, release)
}

/// Fetches and unpacks the source of exactly the chosen kernel.
fn source(stages: &Stages, release: &str) -> Result<()> {
    stages.stage("source", release, "fetching the kernel's source", || {
        let headers = format!("linux-headers-{release}");
        let output = Inside::new(stages.dir)
            .command("dpkg-query")?
            .args(["-W", "-f", "${source:Version}", &headers])
            .output()?;
        let version = String::from_utf8(output.stdout)?;
        if version.is_empty() {
            bail!("{headers} is not installed");
        }
        // Drivers are configured but never compiled here; without them the
        // tree is a third of its size.
        let script = format!(
            "set -e; rm -rf /src; mkdir /src; cd /src
             apt-get -q download linux-source-{SERIES}='{version}'
             dpkg-deb --fsys-tarfile linux-source-*.deb |
                 tar -x --to-stdout ./usr/src/linux-source-{SERIES}.tar.xz |
                 tar -x -J --exclude='*/drivers/*.c' --exclude='*/sound/*.c' --exclude='*.dts' --exclude='*.dtsi'
             rm linux-source-*.deb
             mv linux-source-{SERIES} linux"
        );
        stages.shell(&script)
    })
}

/// Configures the tree as the stock kernel is and builds what modules need.
fn prepare(stages: &Stages, release: &str) -> Result<()> {
    stages.stage("prepare", release, "preparing the kernel tree", || {
        let jobs = jobs();
        let make = format!("make -j{jobs} {CC} KERNELRELEASE={release}");
        let script = format!(
            "set -e; cd {KERNEL_TREE}
             cp /usr/src/linux-headers-{release}/.config .
             cp /usr/src/linux-headers-{release}/Module.symvers .
             {make} olddefconfig
             {make} modules_prepare"
        );
        stages.shell(&script)
    })
}

/// How many jobs a build may run at once.
pub fn jobs() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// The stages of one setup.
struct Stages<'a> {
    /// The platform's folder.
    dir: &'a Path,
}

impl Stages<'_> {
    fn stage(
        &self,
        name: &str,
        inputs: &str,
        title: &str,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if self.stamped(name, inputs) {
            return Ok(());
        }
        eprintln!("lab: {title}");
        let start = Instant::now();
        work().with_context(|| format!("{title} failed"))?;
        fs::write(self.stamp(name), content(inputs))?;
        eprintln!("lab: {title}: done in {} s", start.elapsed().as_secs());
        Ok(())
    }

    /// Installs packages, from backports where they are there.
    fn install(&self, packages: &[&str]) -> Result<()> {
        let script = format!(
            "export DEBIAN_FRONTEND=noninteractive
             dpkg --configure -a || exit
             install() {{ apt-get -q -y --no-install-recommends -t trixie-backports install {}; }}
             install || {{ apt-get -q update && install; }}",
            packages.join(" ")
        );
        self.shell(&script)
    }

    fn shell(&self, script: &str) -> Result<()> {
        let mut command = Inside::new(self.dir).command("sh")?;
        command.arg("-c").arg(script);
        run_logged(command, &self.dir.join("setup.log"), "a step of the setup")
    }

    fn stamp(&self, name: &str) -> PathBuf {
        self.dir.join(format!("stamp.{name}"))
    }

    /// Whether a stage was done with these inputs. (`base.sh` removes all
    /// stamps when it makes the root.)
    fn stamped(&self, name: &str, inputs: &str) -> bool {
        fs::read_to_string(self.stamp(name)).is_ok_and(|found| found == content(inputs))
    }
}

fn content(inputs: &str) -> String {
    format!("{:016x}\n", hash(inputs.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_compares_numbers() {
        let names = "linux-headers-7.2.9+deb13-cloud-amd64\n\
                     linux-headers-7.2.12+deb13-cloud-amd64\n\
                     linux-headers-7.2.13+deb13-amd64\n\
                     linux-headers-7.2.14+deb13-common\n";
        assert_eq!(newest(names).unwrap(), "7.2.12+deb13-cloud-amd64");
        assert_eq!(newest("linux-headers-7.2.9+deb13-amd64\n"), None);
    }
}
