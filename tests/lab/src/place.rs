// SPDX-License-Identifier: GPL-2.0-or-later

//! Where things are: the clone, the cache, and one clone's part of the cache.

use anyhow::{bail, Context, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The cache folder: `$XDG_CACHE_HOME/ironvm-lab`, else `~/.cache/ironvm-lab`.
///
/// It holds the platform and everything that is built, so that nothing is written
/// into a clone. It can be deleted at any time.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

impl Cache {
    pub fn find() -> Result<Self> {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .filter(|dir| Path::new(dir).is_absolute())
            .map(PathBuf::from)
            .or_else(|| {
                std::env::var_os("HOME")
                    .filter(|home| !home.is_empty())
                    .map(|home| Path::new(&home).join(".cache"))
            })
            .context("neither XDG_CACHE_HOME nor HOME is set: no place for the cache")?;
        Ok(Self(base.join("ironvm-lab")))
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }
}

/// A clone of the repository and its own folder in the cache.
#[derive(Clone, Debug)]
pub struct Place {
    pub cache: Cache,
    pub clone: PathBuf,
    /// This clone's builds; other clones have others.
    pub build: PathBuf,
}

impl Place {
    /// Finds the clone that the current directory is in.
    pub fn find() -> Result<Self> {
        let here = std::env::current_dir().context("the current directory is gone")?;
        let clone = here
            .ancestors()
            .find(|dir| dir.join("Kbuild").is_file() && dir.join("tests/lab/packages").is_file())
            .context("not in a clone of ironvm: change into one")?;
        Self::of(Cache::find()?, clone)
    }

    pub fn of(cache: Cache, clone: &Path) -> Result<Self> {
        let clone = clone.canonicalize()?;
        let build = cache.join("build").join(key(&clone));
        Ok(Self {
            cache,
            clone,
            build,
        })
    }

    /// Makes this clone's build folder and removes those of clones that are gone.
    pub fn open(&self) -> Result<()> {
        let all = self.cache.join("build");
        fs::create_dir_all(&self.build)
            .with_context(|| format!("cannot make {}", self.build.display()))?;
        fs::write(
            self.build.join("clone"),
            self.clone.as_os_str().as_encoded_bytes(),
        )?;
        for other in fs::read_dir(all)?.flatten().map(|entry| entry.path()) {
            let Ok(clone) = fs::read_to_string(other.join("clone")) else {
                continue;
            };
            if !Path::new(&clone).exists() {
                // Only room is lost when this fails.
                let _ = fs::remove_dir_all(&other);
            }
        }
        Ok(())
    }
}

/// A readable name for the clone at `path`, different for different paths.
fn key(path: &Path) -> String {
    let name = path.file_name().map_or("root".into(), |name| {
        name.to_string_lossy()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-")
    });
    format!("{name}-{:016x}", hash(path.as_os_str().as_encoded_bytes()))
}

/// FNV-1a: tells inputs apart, protects against nobody.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Holds `path` locked until dropped; says so when it has to wait.
pub fn lock(path: &Path) -> Result<Flock<File>> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            eprintln!(
                "lab: waiting for another lab to be done with {}",
                path.display()
            );
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(lock) => Ok(lock),
                Err((_, error)) => bail!("cannot lock {}: {error}", path.display()),
            }
        }
        Err((_, error)) => bail!("cannot lock {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_one_name_have_keys_of_their_own() {
        let (one, two) = (key(Path::new("/a/iron vm")), key(Path::new("/b/iron vm")));
        assert!(one.starts_with("iron-vm-"));
        assert_ne!(one, two);
    }
}
