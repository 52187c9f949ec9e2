// SPDX-License-Identifier: GPL-2.0-or-later

//! A virtual CPU: a thread that enters the guest, and answers what brings it back out.
//!
//! A vCPU is stopped, or made to report, by [`Kick::kick`]: the flag `immediate_exit` in the memory it shares with KVM
//! makes the next entry return at once, and a signal ends an entry under way. In this order no
//! moment is left at which the kick could be missed.

mod cpuid;
mod report;
pub mod setup;

use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::Arc;

use anyhow::{Context, Result};
use kvm_bindings::{
    kvm_run, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::signal;

use crate::bus::Bus;
use crate::ending::{Control, Ending};
use crate::message::say;

/// What all vCPUs of a machine share.
#[derive(Clone)]
pub struct Shared {
    pub ports: Arc<Bus>,
    pub mmio: Arc<Bus>,
    pub control: Arc<Control>,
    pub memory: GuestMemoryMmap,
}

/// A vCPU, set up and ready to run.
pub struct Vcpu {
    pub index: u32,
    pub fd: VcpuFd,
    /// The Linux thread id of the thread that runs the vCPU; 0 before it does.
    thread: Arc<AtomicI32>,
}

/// Stops one vCPU.
pub struct Kick {
    run: *mut kvm_run,
    thread: Arc<AtomicI32>,
}

// SAFETY: the pointer is used for one atomic store to a byte that both sides treat as shared.
unsafe impl Send for Kick {}

impl Kick {
    /// Makes the vCPU leave the guest, now or at its next entry.
    ///
    /// # Safety
    ///
    /// The [`Vcpu`] this belongs to must still exist.
    pub unsafe fn kick(&self) {
        // SAFETY: the vCPU exists, so its kvm_run is mapped.
        unsafe { immediate_exit(self.run) }.store(1, Ordering::SeqCst);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread > 0 {
            // SAFETY: a plain system call. If the thread is gone, it fails; the signal's handler
            // does nothing wherever it lands.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal()) };
        }
    }
}

/// The flag that makes entries return at once. We write it from several threads, KVM reads it.
///
/// # Safety
///
/// `run` must be mapped for as long as the result is in use.
unsafe fn immediate_exit<'a>(run: *mut kvm_run) -> &'a AtomicU8 {
    // SAFETY: the caller keeps it mapped; nobody accesses the byte in another way.
    unsafe { AtomicU8::from_ptr(&raw mut (*run).immediate_exit) }
}

/// The signal that brings a thread out of the guest.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Lets the kick signal interrupt system calls without doing anything else.
///
/// # Errors
///
/// When the system refuses the handler.
pub fn install_kick_handler() -> Result<()> {
    signal::register_signal_handler(kick_signal(), ignore).context("cannot set up signals")
}

impl Vcpu {
    pub fn new(index: u32, fd: VcpuFd) -> Self {
        Self {
            index,
            fd,
            thread: Arc::default(),
        }
    }

    /// The handle to stop this vCPU with.
    pub fn kicker(&mut self) -> Kick {
        Kick {
            run: self.fd.get_kvm_run(),
            thread: self.thread.clone(),
        }
    }

    /// Runs the guest until the run ends. The calling thread belongs to this vCPU.
    pub fn run(&mut self, shared: &Shared) {
        // SAFETY: a plain query.
        let thread = unsafe { libc::gettid() };
        if let Err(error) = signal::unblock_signal(kick_signal()) {
            say!("vCPU {}: cannot unblock its signal: {error:?}", self.index);
            return;
        }
        self.thread.store(thread, Ordering::SeqCst);
        let mut reported = 0;
        while !shared.control.ended() {
            let asked = shared.control.reports_asked();
            if asked != reported {
                reported = asked;
                report::print(
                    self.index,
                    &mut self.fd,
                    &shared.memory,
                    &report::Cause::Asked,
                );
            }
            if let Some(ending) = self.enter(shared) {
                shared.control.end(ending);
            }
        }
    }

    /// Enters the guest once and answers why it came back.
    fn enter(&mut self, shared: &Shared) -> Option<Ending> {
        let reason = match self.fd.run() {
            Ok(reason) => reason,
            Err(error) => {
                return match error.errno() {
                    libc::EINTR => {
                        // What a kick is for is looked at after this, so none is lost.
                        // SAFETY: the mapping is ours.
                        unsafe { immediate_exit(self.fd.get_kvm_run()) }.store(0, Ordering::SeqCst);
                        None
                    }
                    libc::EAGAIN => None,
                    errno => Some(self.failed(shared, &report::Cause::Errno(errno))),
                };
            }
        };
        let cause = match reason {
            VcpuExit::IoOut(port, data) => {
                let (data, length) = (data.as_ptr(), data.len());
                let size = self.io_size();
                // SAFETY: the slice is part of the mapping of kvm_run, which `self.fd` keeps; KVM
                // does not touch it before the next entry.
                let data = unsafe { std::slice::from_raw_parts(data, length) };
                for item in data.chunks(size) {
                    shared.ports.write(u64::from(port), item);
                }
                return None;
            }
            VcpuExit::IoIn(port, data) => {
                let (data, length) = (data.as_mut_ptr(), data.len());
                let size = self.io_size();
                // SAFETY: as above, and nobody else holds a reference to it.
                let data = unsafe { std::slice::from_raw_parts_mut(data, length) };
                for item in data.chunks_mut(size) {
                    shared.ports.read(u64::from(port), item);
                }
                return None;
            }
            VcpuExit::MmioRead(address, data) => {
                shared.mmio.read(address, data);
                return None;
            }
            VcpuExit::MmioWrite(address, data) => {
                shared.mmio.write(address, data);
                return None;
            }
            VcpuExit::Intr
            | VcpuExit::IrqWindowOpen
            | VcpuExit::Hlt
            | VcpuExit::SetTpr
            | VcpuExit::TprAccess => {
                return None;
            }
            VcpuExit::Shutdown => report::Cause::TripleFault,
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => return Some(Ending::PowerOff),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => return Some(Ending::Reset),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => return Some(Ending::Panic),
            VcpuExit::InternalError => report::Cause::InternalError,
            VcpuExit::FailEntry(reason, cpu) => report::Cause::FailEntry { reason, cpu },
            VcpuExit::MemoryFault { flags, gpa, size } => {
                report::Cause::MemoryFault { flags, gpa, size }
            }
            other => report::Cause::Unexpected(format!("{other:?}")),
        };
        Some(self.failed(shared, &cause))
    }

    fn failed(&mut self, shared: &Shared, cause: &report::Cause) -> Ending {
        // The other vCPUs may fail in the same moment, and for the same reason: one report is
        // enough.
        if !shared.control.ended() {
            report::print(self.index, &mut self.fd, &shared.memory, cause);
        }
        match cause {
            report::Cause::TripleFault => Ending::TripleFault,
            _ => Ending::KvmError,
        }
    }

    /// The width in bytes of the port access that brought the vCPU out.
    fn io_size(&mut self) -> usize {
        // SAFETY: only called after an exit of type KVM_EXIT_IO, for which KVM filled this in.
        let size = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io.size };
        usize::from(size).max(1)
    }
}
