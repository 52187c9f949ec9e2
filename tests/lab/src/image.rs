// SPDX-License-Identifier: GPL-2.0-or-later

//! The initramfs of the host under test, in three pieces: what comes from the
//! platform (made once), what was built from the clone (made after a build),
//! and what one run adds. The kernel unpacks archives that lie one behind the
//! other, so the pieces are only put together.

use crate::build::Builder;
use crate::guest;
use crate::modules::{needs_of, Dependencies};
use crate::place::hash;
use crate::setup::Platform;
use anyhow::{bail, Context, Result};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Changes when what the platform's piece is made of does.
const VERSION: u32 = 1;

/// Modules of the stock kernel that are there for `modprobe`, beside KVM's.
const MODULES: [&str; 12] = [
    "kvm_amd",
    "kvm_intel",
    "brd",
    "loop",
    "nbd",
    "overlay",
    "tun",
    "vhost_net",
    "vhost_vsock",
    "virtio_blk",
    "virtio_net",
    "zram",
];

/// Where the built module is in the host under test.
pub const OUR_MODULE: &str = "/lab/kvm.ko";

/// Writes a cpio archive in the form the kernel reads.
pub struct Archive<W: Write> {
    out: W,
    dirs: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            dirs: BTreeSet::new(),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let length = u32::try_from(content.len())
            .with_context(|| format!("{path} is too long for an initramfs"))?;
        let entry = cpio::NewcBuilder::new(path.trim_start_matches('/')).mode(mode);
        let mut writer = entry.write(&mut self.out, length);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    /// Adds the directory `path` and those above it.
    pub fn dir(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        let ends = path.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([path.len()]).filter(|end| *end > 0) {
            let dir = &path[..end];
            if self.dirs.insert(dir.to_owned()) {
                self.entry(dir, 0o040_755, &[])?;
            }
        }
        Ok(())
    }

    fn parent(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.dir(parent),
            None => Ok(()),
        }
    }

    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.parent(path)?;
        self.entry(path, 0o100_644, content)
    }

    pub fn program(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.parent(path)?;
        self.entry(path, 0o100_755, content)
    }

    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.parent(path)?;
        self.entry(path, 0o120_777, target.as_bytes())
    }

    /// Adds the directory `from` and all in it as `path`. What is neither file,
    /// directory nor symbolic link is left out.
    pub fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::PermissionsExt;
        self.dir(path)?;
        let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let name = name
                .to_str()
                .with_context(|| format!("{name:?} is no UTF-8"))?;
            let path = format!("{path}/{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.tree(&path, &entry.path())?;
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.entry(&path, 0o120_777, target.as_os_str().as_bytes())?;
            } else if kind.is_file() {
                let mode = entry.metadata()?.permissions().mode() & 0o7777;
                let content = fs::read(entry.path()).with_context(|| path.clone())?;
                self.entry(&path, 0o100_000 | mode, &content)?;
            }
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<W> {
        cpio::newc::trailer(&mut self.out)?;
        Ok(self.out)
    }
}

/// Adds busybox and its commands.
pub fn add_busybox<W: Write>(archive: &mut Archive<W>, platform: &Platform) -> Result<()> {
    let busybox = platform.root().join("usr/bin/busybox");
    archive.program("/bin/busybox", &fs::read(busybox)?)?;
    let output = platform
        .inside()
        .command("busybox")?
        .arg("--list")
        .output()?;
    let list = String::from_utf8(output.stdout)?;
    if list.lines().count() < 50 {
        bail!(
            "busybox --list: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for name in list.lines().filter(|name| *name != "busybox") {
        archive.symlink(&format!("/bin/{name}"), "busybox")?;
    }
    for dir in ["/sbin", "/usr/bin", "/usr/sbin"] {
        archive.parent(dir)?;
        let up = if dir.matches('/').count() == 1 {
            "bin"
        } else {
            "../bin"
        };
        archive.symlink(dir, up)?;
    }
    archive.file("/etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")?;
    archive.file("/etc/group", b"root:x:0:\n")?;
    for dir in ["/dev", "/proc", "/sys", "/tmp", "/run", "/lab"] {
        archive.dir(dir)?;
    }
    Ok(())
}

/// The platform's piece: busybox, the stock modules, the guest's kernel and
/// initramfs. Made when missing; the caller holds a lock.
pub fn platform_piece(platform: &Platform) -> Result<PathBuf> {
    let made_of = format!(
        "{VERSION} {} {:016x}",
        [&MODULES[..], &guest::MODULES[..]].concat().join(" "),
        hash(guest::INIT.as_bytes())
    );
    let name = format!(
        "platform-{}-{:016x}.cpio",
        platform.release,
        hash(made_of.as_bytes())
    );
    let images = platform.dir.join("images");
    let piece = images.join(name);
    if piece.exists() {
        return Ok(piece);
    }
    fs::create_dir_all(&images)?;
    let temporary = images.join(format!("new-{}", std::process::id()));
    let mut archive = Archive::new(BufWriter::new(File::create(&temporary)?));
    add_busybox(&mut archive, platform)?;
    add_modules(&mut archive, platform, &MODULES)?;
    archive.file(guest::KERNEL, &fs::read(platform.vmlinuz())?)?;
    archive.file(guest::INITRD, &guest::initrd(platform)?)?;
    archive
        .finish()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    fs::rename(&temporary, &piece)?;
    Ok(piece)
}

/// Adds stock modules and what they need, decompressed, with a `modules.dep`
/// that says so.
pub fn add_modules<W: Write>(
    archive: &mut Archive<W>,
    platform: &Platform,
    names: &[&str],
) -> Result<()> {
    let dep = platform.modules_dir().join("modules.dep");
    let files = Dependencies::read(&dep)?.load_order(names.iter().copied());
    let home = format!("/lib/modules/{}", platform.release);
    for file in &files {
        let output = platform
            .inside()
            .command("xz")?
            .args(["-dc", &format!("/usr{home}/{file}")])
            .output()?;
        if !output.status.success() {
            bail!("{file}: {}", String::from_utf8_lossy(&output.stderr));
        }
        archive.file(&format!("{home}/{}", plain(file)), &output.stdout)?;
    }
    let dep: String = fs::read_to_string(dep)?
        .lines()
        .filter(|line| {
            files
                .iter()
                .any(|file| line.starts_with(&format!("{file}:")))
        })
        .map(|line| line.replace(".ko.xz", ".ko") + "\n")
        .collect();
    archive.file(&format!("{home}/modules.dep"), dep.as_bytes())
}

fn plain(file: &str) -> &str {
    file.strip_suffix(".xz").unwrap_or(file)
}

/// The modules of the stock kernel that `names` come down to, in load order,
/// as paths in the host under test.
pub fn stock_modules<'a>(
    platform: &Platform,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<String>> {
    let deps = Dependencies::read(&platform.modules_dir().join("modules.dep"))?;
    let home = format!("/lib/modules/{}", platform.release);
    Ok(deps
        .load_order(names)
        .iter()
        .map(|file| format!("{home}/{}", plain(file)))
        .collect())
}

/// What was built from the clone, as a piece of the initramfs.
pub struct BuiltPiece {
    pub file: PathBuf,
    /// The stock modules that our module needs.
    pub needs: Vec<String>,
}

/// The program of the agent.
const AGENT: &str = "lab-agent";

/// The clone's piece: the agent as `/init`, the programs, the module if
/// wanted. Made anew when one of them has changed.
pub fn built_piece(builder: &Builder, images: &Path, module: bool) -> Result<BuiltPiece> {
    let programs = builder.program_files()?;
    // Without its first program the machine would not come up.
    if !programs.iter().any(|program| program.ends_with(AGENT)) {
        bail!("{AGENT}, the first program of the host under test, is not built: do without --no-build");
    }
    let module = module.then(|| builder.module_file());
    let needs = match &module {
        Some(file) => needs_of(&fs::read(file).context("kvm.ko was not built yet")?),
        None => Vec::new(),
    };
    let name = if module.is_some() {
        "built"
    } else {
        "programs"
    };
    let file = images.join(format!("{name}.cpio"));
    let made_of = describe(programs.iter().chain(&module))?;
    let list = file.with_extension("list");
    if file.exists() && fs::read_to_string(&list).is_ok_and(|old| old == made_of) {
        return Ok(BuiltPiece { file, needs });
    }
    let _ = fs::remove_file(&list);
    fs::create_dir_all(images)?;
    let mut archive = Archive::new(BufWriter::new(File::create(&file)?));
    for program in &programs {
        let name = program
            .file_name()
            .context("a program without a name")?
            .to_string_lossy();
        let content = fs::read(program)?;
        if name == AGENT {
            archive.program("/init", &content)?;
        } else if name != "lab" {
            archive.program(&format!("{}/{name}", crate::agent::BIN), &content)?;
        }
    }
    if let Some(module) = &module {
        archive.file(OUR_MODULE, &fs::read(module)?)?;
    }
    archive
        .finish()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    fs::write(list, made_of)?;
    Ok(BuiltPiece { file, needs })
}

/// Tells states of `files` apart.
fn describe<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Result<String> {
    let mut text = String::new();
    for file in files {
        let meta = file.metadata()?;
        text += &format!("{file:?} {} {:?}\n", meta.len(), meta.modified()?);
    }
    Ok(text)
}

/// Puts `pieces` one behind the other into `to`.
pub fn join(pieces: &[&Path], to: &Path) -> Result<()> {
    let mut out = File::create(to)?;
    for piece in pieces {
        let mut piece = File::open(piece).with_context(|| format!("no {}", piece.display()))?;
        io::copy(&mut piece, &mut out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn an_archive_reads_back() {
        let mut archive = Archive::new(Vec::new());
        archive.program("/lab/bin/x", b"program").unwrap();
        archive.file("/lab/config", b"").unwrap();
        archive.symlink("/sbin", "bin").unwrap();
        let bytes = archive.finish().unwrap();
        let mut found = Vec::new();
        let mut rest = &bytes[..];
        loop {
            let mut reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            let entry = reader.entry();
            found.push((entry.name().to_owned(), entry.mode(), content));
            rest = reader.finish().unwrap();
        }
        let dir = |name: &str| (name.to_owned(), 0o040_755, Vec::new());
        assert_eq!(
            found,
            [
                dir("lab"),
                dir("lab/bin"),
                ("lab/bin/x".into(), 0o100_755, b"program".to_vec()),
                ("lab/config".into(), 0o100_644, Vec::new()),
                ("sbin".into(), 0o120_777, b"bin".to_vec()),
            ]
        );
    }
}
