// SPDX-License-Identifier: GPL-2.0-or-later

//! A network of its own for an emulator.
//!
//! Bochs' serial line is a TCP connection, which is for nobody else: what is
//! started while a thread is [`Sealed`] sees only a loopback device that is its
//! own.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sched::{setns, unshare, CloneFlags};
use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// While it lives, this thread is in a new network namespace.
pub struct Sealed {
    before: File,
}

impl Sealed {
    pub fn new() -> Result<Self> {
        let before = File::open("/proc/thread-self/ns/net").context("no network namespaces")?;
        unshare(CloneFlags::CLONE_NEWNET)
            .context("this machine (a container?) does not let root make network namespaces")?;
        let sealed = Self { before };
        loopback_up().context("cannot bring up a loopback device")?;
        Ok(sealed)
    }

    /// Back to the network from before; sockets that were made keep theirs.
    pub fn leave(self) -> Result<()> {
        setns(&self.before, CloneFlags::CLONE_NEWNET).context("cannot go back to the network")
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        // `leave` tells; here it is too late to.
        let _ = setns(&self.before, CloneFlags::CLONE_NEWNET);
    }
}

fn loopback_up() -> Result<()> {
    // Any socket of this network will do.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from)?;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING)?;
    // SAFETY: the kernel reads one `ifreq` through the pointer.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) })?;
    Ok(())
}
