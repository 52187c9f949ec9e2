// SPDX-License-Identifier: GPL-2.0-or-later

//! A copy of the clone to build in, so that nothing is written into the clone.
//!
//! Times of change are copied too, for builds to be incremental. What the
//! builds themselves leave in the copy stays; what was copied before and is no
//! longer in the clone goes (the list of it is kept beside the copy).

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Brings the copy `to` of the clone `from` up to date.
pub fn sync(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let list = to.with_extension("list");
    let old: BTreeSet<PathBuf> = fs::read_to_string(&list)
        .unwrap_or_default()
        .lines()
        .map(PathBuf::from)
        .collect();
    let mut new = BTreeSet::new();
    copy_dir(from, to, Path::new(""), &mut new)
        .with_context(|| format!("cannot copy {}", from.display()))?;
    // An interrupted copy must not forget what it has copied.
    write_list(&list, old.union(&new))?;
    for gone in old.difference(&new) {
        match fs::remove_file(to.join(gone)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    write_list(&list, new.iter())
}

fn write_list<'a>(list: &Path, paths: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    let text: String = paths
        .map(|path| format!("{}\n", path.to_string_lossy()))
        .collect::<Vec<_>>()
        .concat();
    Ok(fs::write(list, text)?)
}

fn copy_dir(from: &Path, to: &Path, dir: &Path, seen: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    fs::create_dir_all(to.join(dir))?;
    for entry in fs::read_dir(from.join(dir))? {
        let entry = entry?;
        if left_out(dir, &entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = dir.join(entry.file_name());
        let copied = if entry.file_type()?.is_dir() {
            copy_dir(from, to, &path, seen)
        } else {
            copy_file(&from.join(&path), &to.join(&path)).map(|()| {
                seen.insert(path);
            })
        };
        match copied {
            // An editor's temporary file may go at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// What is no source: git's own, cargo's output, and a hand-made build's.
fn left_out(dir: &Path, name: &str) -> bool {
    let output = [".o", ".ko", ".mod", ".mod.c", ".cmd", ".rmeta", ".order"];
    name == ".git"
        || (dir == Path::new("") && name == "target")
        || output.iter().any(|end| name.ends_with(end))
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let source = from.symlink_metadata()?;
    if source.is_symlink() {
        let target = fs::read_link(from)?;
        if fs::read_link(to).is_ok_and(|found| found == target) {
            return Ok(());
        }
        remove_any(to)?;
        return symlink(target, to);
    }
    if let Ok(copy) = to.symlink_metadata() {
        let same = copy.is_file()
            && copy.len() == source.len()
            && copy.modified()? == source.modified()?
            && copy.permissions() == source.permissions();
        if same {
            return Ok(());
        }
        remove_any(to)?;
    }
    fs::copy(from, to)?;
    let times = FileTimes::new().set_modified(source.modified()?);
    File::open(to)?.set_times(times)
}

fn remove_any(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_follows_the_clone_and_keeps_outputs() {
        let base = std::env::temp_dir().join(format!("lab-sync-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir_all(from.join(".git")).unwrap();
        fs::write(from.join("sub/a.rs"), "one").unwrap();
        fs::write(from.join("b.rs"), "two").unwrap();
        sync(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/a.rs")).unwrap(), "one");
        assert!(!to.join(".git").exists());

        fs::write(to.join("kvm.ko"), "built").unwrap();
        fs::remove_file(from.join("b.rs")).unwrap();
        fs::write(from.join("sub/a.rs"), "changed").unwrap();
        sync(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/a.rs")).unwrap(), "changed");
        assert!(!to.join("b.rs").exists());
        assert!(to.join("kvm.ko").exists());
        fs::remove_dir_all(base).unwrap();
    }
}
