// SPDX-License-Identifier: GPL-2.0-or-later

//! Building `kvm.ko` and the programs, inside the root.

use crate::inside::{tail, Inside};
use crate::place::{lock, Place};
use crate::setup::{Platform, CC, KERNEL_TREE};
use crate::sync::sync;
use anyhow::{anyhow, bail, Context, Result};
use nix::fcntl::Flock;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the copy of the clone is seen inside the root.
const SOURCE: &str = "/ironvm";
const TARGET_DIR: &str = "/target";
const CARGO_HOME: &str = "/cargo";
/// Named, so that flags for programs do not reach build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The packages whose programs go into the host under test.
const PACKAGES: [&str; 3] = ["ironvm", "ironvm-abi-tests", "ironvm-lab"];

/// How `kvm.ko` is to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    Not,
    /// Soon: by several threads, for somewhat larger code.
    Quick,
    /// As users build it. A warning is told.
    Lenient,
    /// A warning is a failure, the kernel's lints included.
    Strict,
}

/// What is to be done about a program that does not build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// Go on with the others.
    Lenient,
    /// Fail.
    Strict,
}

/// The built pieces of one clone, locked against another build of the same.
pub struct Builder<'a> {
    place: &'a Place,
    platform: &'a Platform,
    _lock: Flock<File>,
}

impl<'a> Builder<'a> {
    /// Takes the lock and copies the clone.
    pub fn new(place: &'a Place, platform: &'a Platform) -> Result<Self> {
        place.open()?;
        let builder = Self::without_copying(place, platform)?;
        for dir in ["src", "target", "images"] {
            fs::create_dir_all(place.build.join(dir))?;
        }
        fs::create_dir_all(place.cache.join("cargo"))?;
        sync(&place.clone, &place.build.join("src"))?;
        Ok(builder)
    }

    /// Takes the lock only: what was built last is what there is.
    pub fn without_copying(place: &'a Place, platform: &'a Platform) -> Result<Self> {
        let lock = lock(&place.build.join("lock"))?;
        Ok(Self {
            place,
            platform,
            _lock: lock,
        })
    }

    fn inside(&self) -> Inside {
        self.inside_with(&self.place.build.join("src"))
    }

    /// The root with the copy of the clone that is in `source`.
    fn inside_with(&self, source: &Path) -> Inside {
        let build = &self.place.build;
        self.platform
            .inside()
            .bind(source, SOURCE)
            .bind(&build.join("target"), TARGET_DIR)
            .bind(&self.place.cache.join("cargo"), CARGO_HOME)
            .dir(SOURCE)
            .env("CARGO_HOME", CARGO_HOME)
            .env("CARGO_TARGET_DIR", TARGET_DIR)
            .env("LIBCLANG_PATH", "/usr/lib/llvm-19/lib")
    }

    /// Builds everything that goes into the host under test.
    pub fn all(&self, module: Module, programs: Programs) -> Result<()> {
        std::thread::scope(|scope| {
            let programs = scope.spawn(|| self.programs(programs));
            let module = self.module(module);
            let programs = programs
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the build panicked")));
            module.and(programs)
        })
    }

    /// Where `kvm.ko` is, once built.
    pub fn module_file(&self) -> PathBuf {
        self.place.build.join("src/kvm.ko")
    }

    /// Builds `kvm.ko`. When strict, also with the kernel's lints, for their
    /// warnings alone: Clippy's compiler optimizes less, and costs are counted.
    pub fn module(&self, how: Module) -> Result<()> {
        let units = format!("UNITS={}", crate::setup::jobs());
        let source = self.place.build.join("src");
        match how {
            Module::Not => return Ok(()),
            Module::Quick => return self.make_module(&source, &[&units], how),
            Module::Lenient | Module::Strict => {}
        }
        if how == Module::Strict {
            let lints = self.place.build.join("lints");
            fs::create_dir_all(&lints)?;
            sync(&self.place.clone, &lints)?;
            self.make_module(&lints, &["CLIPPY=1", &units], how)?;
        }
        self.make_module(&source, &[], how)
    }

    /// Builds `kvm.ko` in `source`.
    fn make_module(&self, source: &Path, arguments: &[&str], how: Module) -> Result<()> {
        // Objects that were built with warnings would not warn again.
        let dirty = source.with_extension("dirty");
        if dirty.exists() {
            remove_objects(source)?;
        }
        File::create(&dirty)?;
        let mut make = self.inside_with(source).command("make")?;
        make.arg(format!("-j{}", crate::setup::jobs()))
            .args(["-C", KERNEL_TREE])
            .arg(format!("M={SOURCE}"))
            .arg(CC)
            .arg(format!("KERNELRELEASE={}", self.platform.release))
            .args(arguments)
            .arg("modules");
        let (ok, output) = captured(make)?;
        if !ok {
            bail!("kvm.ko does not build:\n{}", output.trim_end());
        }
        let warned = has_warning(&output);
        if warned && how == Module::Strict {
            bail!("kvm.ko builds with warnings:\n{}", output.trim_end());
        }
        if !source.join("kvm.ko").is_file() {
            bail!(
                "make left no kvm.ko; its last lines:\n{}",
                tail(&output, 10)
            );
        }
        if warned {
            eprintln!("lab: kvm.ko builds with warnings, which `lab build` shows");
            return Ok(());
        }
        fs::remove_file(dirty)?;
        Ok(())
    }

    /// Builds the programs, static, so that they run with nothing around them.
    pub fn programs(&self, how: Programs) -> Result<()> {
        // What does not build must not be there from before; cargo puts back
        // what has not changed.
        for old in self.program_files().unwrap_or_default() {
            fs::remove_file(old)?;
        }
        let mut cargo = self.cargo("build")?;
        cargo.args(["--release", "--bins", "--keep-going"]);
        for package in PACKAGES {
            cargo.args(["--package", package]);
        }
        if cargo.status()?.success() {
            return Ok(());
        }
        if how == Programs::Lenient {
            eprintln!("lab: going on with the programs that do build");
            return Ok(());
        }
        bail!("the programs do not build");
    }

    /// A cargo command on the copy of the clone.
    pub fn cargo(&self, what: &str) -> Result<Command> {
        let flags = "-C target-feature=+crt-static";
        let mut cargo = self
            .inside()
            .env("RUSTFLAGS", flags)
            // Half of a program would be what only a debugger reads.
            .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
            .env("CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS", "fallback")
            .command("cargo")?;
        cargo.args([what, "--quiet", "--target", TARGET]);
        // Someone at work may have added a crate; a clone to be judged is whole.
        if std::env::var_os("CI").is_some() {
            cargo.arg("--locked");
        }
        Ok(cargo)
    }

    /// A command that fails when a file is not formatted. Cargo knows only the
    /// files of its packages, so the module's are named by their root.
    pub fn format(&self) -> Result<Command> {
        let script = "cargo fmt --all --check; a=$?
            rustfmt --check --edition 2021 kmod/kvm_main.rs; b=$?
            exit $((a | b))";
        let mut command = self.inside().command("sh")?;
        command.args(["-c", script]);
        Ok(command)
    }

    /// The built programs.
    pub fn program_files(&self) -> Result<Vec<PathBuf>> {
        let dir = self.place.build.join("target").join(TARGET).join("release");
        let mut files = Vec::new();
        for entry in fs::read_dir(&dir).context("nothing was built yet")? {
            let path = entry?.path();
            if is_program(&path) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.extension().is_none()
        && path
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs `command`; its status and its output, stderr behind stdout.
pub fn captured(mut command: Command) -> Result<(bool, String)> {
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), text))
}

/// Whether the output of make and the compilers has a warning in it.
fn has_warning(output: &str) -> bool {
    output.lines().any(|line| {
        let line = line.to_ascii_lowercase();
        line.contains("warning:") || line.contains("warning[")
    })
}

/// Removes what make has built in the module's part of the copy.
fn remove_objects(source: &Path) -> Result<()> {
    let mut dirs = vec![source.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else if [".o", ".ko", ".mod", ".cmd"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_all_tools_are_seen() {
        assert!(has_warning("warning: unused variable: `x`"));
        assert!(has_warning(
            "a.c:1:2: warning: unused variable [-Wunused-variable]"
        ));
        assert!(has_warning("WARNING: modpost: missing MODULE_LICENSE()"));
        assert!(!has_warning(
            "  CLIPPY [M] kmod/kvm_main.o\n  LD [M]  kvm.ko"
        ));
    }
}
