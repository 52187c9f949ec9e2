// SPDX-License-Identifier: GPL-2.0-or-later

//! A vCPU's file descriptor and its shared area.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use kvm_bindings::*;

use crate::exit::Exit;
use crate::harness::Failure;
use crate::ioctls::*;
use crate::layout::{PORT_CAUGHT, PORT_DONE};
use crate::lists;
use crate::sys::{self, Mapping, SysResult};

/// A vCPU.
pub struct Vcpu {
    fd: OwnedFd,
    /// `struct kvm_run` and what follows it.
    pub run: Mapping,
    /// Its id, which is its local APIC's too.
    pub id: u32,
}

impl AsRawFd for Vcpu {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Vcpu {
    /// Maps the shared area of `size` bytes.
    pub fn new(fd: OwnedFd, size: usize, id: u32) -> SysResult<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let run = Mapping::new(size, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0)?;
        Ok(Self { fd, run, id })
    }

    /// An ioctl that fills a structure.
    pub fn get<T: Default>(&self, call: Ioctl) -> SysResult<T> {
        let mut value = T::default();
        sys::ioctl_mut(self, call, &mut value)?;
        Ok(value)
    }

    /// An ioctl that only takes a structure.
    pub fn set<T>(&self, call: Ioctl, arg: &T) -> SysResult<i32> {
        sys::ioctl_ref(self, call, arg)
    }

    /// `KVM_GET_REGS`.
    pub fn regs(&self) -> SysResult<kvm_regs> {
        self.get(KVM_GET_REGS)
    }

    /// `KVM_SET_REGS`.
    pub fn set_regs(&self, regs: &kvm_regs) -> SysResult<i32> {
        self.set(KVM_SET_REGS, regs)
    }

    /// Changes some general registers.
    pub fn change_regs(&self, change: impl FnOnce(&mut kvm_regs)) -> SysResult<i32> {
        let mut regs = self.regs()?;
        change(&mut regs);
        self.set_regs(&regs)
    }

    /// `KVM_GET_SREGS`.
    pub fn sregs(&self) -> SysResult<kvm_sregs> {
        self.get(KVM_GET_SREGS)
    }

    /// `KVM_SET_SREGS`.
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> SysResult<i32> {
        self.set(KVM_SET_SREGS, sregs)
    }

    /// Changes some system registers.
    pub fn change_sregs(&self, change: impl FnOnce(&mut kvm_sregs)) -> SysResult<i32> {
        let mut sregs = self.sregs()?;
        change(&mut sregs);
        self.set_sregs(&sregs)
    }

    /// Reads one MSR.
    pub fn msr(&self, index: u32) -> Result<u64, Failure> {
        match lists::get_msrs(self, &[index])? {
            (1, values) => Ok(values[0]),
            _ => Err(Failure::Failed(format!("MSR {index:#x} cannot be read"))),
        }
    }

    /// Writes one MSR.
    pub fn set_msr(&self, index: u32, value: u64) -> Result<(), Failure> {
        match lists::set_msrs(self, &[(index, value)])? {
            1 => Ok(()),
            _ => Err(Failure::Failed(format!(
                "MSR {index:#x} does not take {value:#x}"
            ))),
        }
    }

    /// `KVM_ENABLE_CAP` on the vCPU.
    pub fn enable(&self, capability: u32, args: &[u64]) -> SysResult<i32> {
        let mut cap = kvm_enable_cap {
            cap: capability,
            ..Default::default()
        };
        cap.args[..args.len()].copy_from_slice(args);
        self.set(KVM_ENABLE_CAP, &cap)
    }

    /// `KVM_RUN` once.
    pub fn run(&self) -> SysResult<Exit> {
        sys::ioctl(self, KVM_RUN, 0)?;
        Ok(Exit::read(&self.run))
    }

    /// Runs to the next exit that is not one of a signal.
    pub fn run_on(&self) -> SysResult<Exit> {
        loop {
            match self.run() {
                Err(e) if e.number == libc::EINTR || e.number == libc::EAGAIN => {}
                other => return other,
            }
        }
    }

    /// Runs until the guest says that it has finished; any other exit fails.
    pub fn run_to_done(&self) -> Result<(), Failure> {
        match self.run_on()? {
            exit if exit.is_out(PORT_DONE) => Ok(()),
            exit => Err(self.unexpected(&exit)),
        }
    }

    /// Says which exit came that should not have, and where.
    pub fn unexpected(&self, exit: &Exit) -> Failure {
        let regs = self.regs().unwrap_or_default();
        let what = if exit.is_out(PORT_CAUGHT) {
            "the guest caught an exception it did not expect".to_string()
        } else {
            format!("unexpected exit {exit:x?}")
        };
        Failure::Failed(format!(
            "{what} at rip {:#x}, rax {:#x}, rsp {:#x}",
            regs.rip, regs.rax, regs.rsp
        ))
    }

    fn area(&self) -> *mut kvm_run {
        self.run.at(0)
    }

    /// Fills in what a port read gives.
    pub fn set_io_data(&self, data: &[u8]) {
        // SAFETY: the vCPU is not running, and the last exit was a port access.
        let offset = unsafe { (*self.area()).__bindgen_anon_1.io.data_offset };
        self.run.fill(offset as usize, data);
    }

    /// Fills in what a memory read gives.
    pub fn set_mmio_data(&self, value: u64) {
        // SAFETY: the vCPU is not running, and the last exit was a memory access.
        unsafe { (*self.area()).__bindgen_anon_1.mmio.data = value.to_le_bytes() };
    }

    /// Fills in what `RDMSR` gives, or that the access fails.
    pub fn set_msr_answer(&self, value: u64, error: bool) {
        // SAFETY: the vCPU is not running, and the last exit was an MSR access.
        unsafe {
            (*self.area()).__bindgen_anon_1.msr.data = value;
            (*self.area()).__bindgen_anon_1.msr.error = u8::from(error);
        }
    }

    /// Sets `immediate_exit`; any thread may.
    pub fn set_immediate_exit(&self, on: bool) {
        // SAFETY: one byte of a mapping that lives as long as `self`.
        unsafe { (&raw mut (*self.area()).immediate_exit).write_volatile(u8::from(on)) };
    }

    /// Sets `request_interrupt_window`.
    pub fn set_request_window(&self, on: bool) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.area()).request_interrupt_window).write_volatile(u8::from(on)) };
    }

    /// `ready_for_interrupt_injection` of the last exit.
    pub fn ready_for_interrupt(&self) -> bool {
        // SAFETY: as above.
        unsafe { (&raw const (*self.area()).ready_for_interrupt_injection).read_volatile() != 0 }
    }

    /// `if_flag` of the last exit.
    pub fn if_flag(&self) -> bool {
        // SAFETY: as above.
        unsafe { (&raw const (*self.area()).if_flag).read_volatile() != 0 }
    }

    /// `cr8` of the last exit, or for the next entry.
    pub fn run_cr8(&self) -> u64 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.area()).cr8).read_volatile() }
    }

    /// `apic_base` of the last exit.
    pub fn run_apic_base(&self) -> u64 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.area()).apic_base).read_volatile() }
    }

    /// `exit_reason` of the last return from `KVM_RUN`, even of one with an error.
    pub fn exit_reason(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.area()).exit_reason).read_volatile() }
    }
}
