// SPDX-License-Identifier: GPL-2.0-or-later

//! Making Bochs from Debian's source, with the patches of `tests/lab/bochs`, each of
//! which says what it mends.
//!
//! Only what a host under test has is built in, and no debugger, which Debian's
//! own build asks at every instruction.

use crate::inside::run_logged;
use crate::place::{hash, lock};
use crate::setup::{jobs, Platform};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

const PATCHES: [&str; 6] = [
    include_str!("../../../bochs/halted.patch"),
    include_str!("../../../bochs/paging.patch"),
    include_str!("../../../bochs/several-cpus.patch"),
    include_str!("../../../bochs/svm.patch"),
    include_str!("../../../bochs/virtual-interrupts.patch"),
    include_str!("../../../bochs/vmx.patch"),
];

/// Where the folder of the build is seen inside the root.
const BUILD: &str = "/bochs";

/// The source comes by a list of packages of its own, from the mirror that the
/// root was made from.
const SCRIPT: &str = "set -e
    sed -n 's/^deb \\(.* trixie main\\)$/deb-src \\1/p' /etc/apt/sources.list > sources.list
    mkdir -p lists/partial
    apt() {
        apt-get -q -o Dir::Etc::SourceList=$PWD/sources.list -o Dir::Etc::SourceParts=/dev/null \
            -o Dir::State::Lists=$PWD/lists -o APT::Sandbox::User=root \"$@\"
    }
    apt update
    apt source --tar-only --download-only bochs
    mkdir source
    tar -x --strip-components=1 -C source -f bochs_*.orig.tar.*
    cd source
    for patch in ../*.patch; do
        patch -p1 --fuzz=0 < $patch
    done
    ./configure --quiet CFLAGS=-O2 CXXFLAGS=-O2 --with-nogui --disable-docbook \
        --enable-all-optimizations --enable-cpu-level=6 --enable-x86-64 --enable-smp \
        --enable-pci --enable-fpu --enable-3dnow --enable-a20-pin --enable-avx --enable-evex \
        --enable-amx --enable-cet --enable-memtype --enable-protection-keys --enable-uintr \
        --enable-svm --enable-vmx=2
    make -j$JOBS
    strip -o ../bochs bochs";

/// The folder with the program `bochs`, which is made when missing: one for each
/// set of patches, so that clones do not undo each other's.
pub fn made(platform: &Platform) -> Result<PathBuf> {
    let inputs = PATCHES.concat() + SCRIPT;
    let dir = platform
        .dir
        .join(format!("bochs-{:016x}", hash(inputs.as_bytes())));
    let _lock = lock(&platform.dir.join("bochs.lock"))?;
    if dir.exists() {
        return Ok(dir);
    }
    let title = "making Bochs (3 minutes with 2 processors)";
    eprintln!("lab: {title}");
    let start = Instant::now();
    let new = platform.dir.join("bochs.new");
    let made = make(platform, &new)
        .and_then(|()| finish(&new, &dir))
        .context("Bochs cannot be made, on which hosts under test with `vmx` run");
    let _ = fs::remove_dir_all(&new);
    made?;
    eprintln!("lab: {title}: done in {} s", start.elapsed().as_secs());
    Ok(dir)
}

fn make(platform: &Platform, new: &Path) -> Result<()> {
    // One may have been begun and not done.
    let _ = fs::remove_dir_all(new);
    fs::create_dir_all(new)?;
    for (index, patch) in PATCHES.iter().enumerate() {
        fs::write(new.join(format!("{index}.patch")), patch)?;
    }
    let mut command = platform
        .inside()
        .bind(new, BUILD)
        .dir(BUILD)
        .env("JOBS", jobs().to_string())
        .env("DEBIAN_FRONTEND", "noninteractive")
        .command("sh")?;
    command.args(["-c", SCRIPT]);
    run_logged(command, &platform.dir.join("bochs.log"), "a step of it")
}

/// Keeps the program alone.
fn finish(new: &Path, dir: &Path) -> Result<()> {
    let done = new.join("done");
    fs::create_dir(&done)?;
    fs::rename(new.join("bochs"), done.join("bochs"))?;
    fs::rename(done, dir)?;
    Ok(())
}
