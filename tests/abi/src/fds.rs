// SPDX-License-Identifier: GPL-2.0-or-later

//! `/dev/kvm` and VM file descriptors.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use kvm_bindings::*;

use crate::ioctls::*;
use crate::lists::{self, Cpuid};
use crate::sys::{self, check, own_fd, Mapping, SysResult};
use crate::vcpu::Vcpu;

/// `/dev/kvm`, open.
pub struct Kvm(OwnedFd);

impl AsRawFd for Kvm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Kvm {
    /// Opens the device.
    pub fn open() -> SysResult<Self> {
        let flags = libc::O_RDWR | libc::O_CLOEXEC;
        // SAFETY: a constant string that ends in a zero byte.
        let fd = unsafe { libc::open(c"/dev/kvm".as_ptr(), flags) };
        check("open /dev/kvm", i64::from(fd)).map(|fd| Kvm(own_fd(fd as i32)))
    }

    /// `KVM_CHECK_EXTENSION`.
    pub fn extension(&self, capability: u32) -> SysResult<i32> {
        sys::ioctl(self, KVM_CHECK_EXTENSION, u64::from(capability))
    }

    /// Whether a capability is there.
    pub fn has(&self, capability: u32) -> bool {
        self.extension(capability).is_ok_and(|v| v > 0)
    }

    /// `KVM_CREATE_VM` of the given type.
    pub fn create_vm(&self, kind: u64) -> SysResult<Vm> {
        sys::ioctl(self, KVM_CREATE_VM, kind).map(|fd| Vm(own_fd(fd)))
    }

    /// Size of a vCPU's shared area in bytes.
    pub fn run_size(&self) -> SysResult<usize> {
        sys::ioctl(self, KVM_GET_VCPU_MMAP_SIZE, 0).map(|v| v as usize)
    }

    /// `KVM_GET_SUPPORTED_CPUID`.
    pub fn supported_cpuid(&self) -> SysResult<Cpuid> {
        lists::get_cpuid(self, KVM_GET_SUPPORTED_CPUID)
    }
}

/// A VM.
pub struct Vm(OwnedFd);

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Vm {
    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// `KVM_CHECK_EXTENSION` on the VM.
    pub fn extension(&self, capability: u32) -> SysResult<i32> {
        sys::ioctl(self, KVM_CHECK_EXTENSION, u64::from(capability))
    }

    /// Whether a capability is there.
    pub fn has(&self, capability: u32) -> bool {
        self.extension(capability).is_ok_and(|v| v > 0)
    }

    /// `KVM_ENABLE_CAP` with its first arguments.
    pub fn enable(&self, capability: u32, args: &[u64]) -> SysResult<i32> {
        let mut cap = kvm_enable_cap {
            cap: capability,
            ..Default::default()
        };
        cap.args[..args.len()].copy_from_slice(args);
        sys::ioctl_ref(self, KVM_ENABLE_CAP, &cap)
    }

    /// An ioctl that only takes a structure.
    pub fn set<T>(&self, call: Ioctl, arg: &T) -> SysResult<i32> {
        sys::ioctl_ref(self, call, arg)
    }

    /// An ioctl that fills a structure.
    pub fn get<T: Default>(&self, call: Ioctl) -> SysResult<T> {
        let mut value = T::default();
        sys::ioctl_mut(self, call, &mut value)?;
        Ok(value)
    }

    /// `KVM_SET_USER_MEMORY_REGION`.
    pub fn set_memory(
        &self,
        slot: u32,
        flags: u32,
        gpa: u64,
        size: u64,
        hva: u64,
    ) -> SysResult<i32> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: hva,
        };
        self.set(KVM_SET_USER_MEMORY_REGION, &region)
    }

    /// Puts `memory` at `gpa`.
    pub fn map(&self, slot: u32, flags: u32, gpa: u64, memory: &Mapping) -> SysResult<i32> {
        self.set_memory(slot, flags, gpa, memory.len() as u64, memory.hva())
    }

    /// `KVM_GET_DIRTY_LOG` of a slot of `pages` pages, one bit each.
    pub fn dirty_log(&self, slot: u32, pages: usize) -> SysResult<Vec<u64>> {
        let mut bitmap = vec![0u64; pages.div_ceil(64)];
        let mut log = kvm_dirty_log {
            slot,
            ..Default::default()
        };
        log.__bindgen_anon_1.dirty_bitmap = bitmap.as_mut_ptr().cast();
        self.set(KVM_GET_DIRTY_LOG, &log)?;
        Ok(bitmap)
    }

    /// `KVM_CREATE_IRQCHIP`.
    pub fn create_irqchip(&self) -> SysResult<i32> {
        sys::ioctl(self, KVM_CREATE_IRQCHIP, 0)
    }

    /// `KVM_CREATE_PIT2`.
    pub fn create_pit(&self) -> SysResult<i32> {
        self.set(KVM_CREATE_PIT2, &kvm_pit_config::default())
    }

    /// `KVM_IRQ_LINE`.
    pub fn irq_line(&self, gsi: u32, level: u32) -> SysResult<i32> {
        let mut line = kvm_irq_level {
            level,
            ..Default::default()
        };
        line.__bindgen_anon_1.irq = gsi;
        self.set(KVM_IRQ_LINE, &line)
    }

    /// `KVM_IRQFD` without a resamplefd.
    pub fn irqfd(&self, fd: &OwnedFd, gsi: u32, flags: u32) -> SysResult<i32> {
        let arg = kvm_irqfd {
            fd: fd.as_raw_fd() as u32,
            gsi,
            flags,
            ..Default::default()
        };
        self.set(KVM_IRQFD, &arg)
    }

    /// `KVM_IRQFD` with a resamplefd.
    pub fn irqfd_resampling(&self, fd: &OwnedFd, gsi: u32, resample: &OwnedFd) -> SysResult<i32> {
        let arg = kvm_irqfd {
            fd: fd.as_raw_fd() as u32,
            gsi,
            flags: KVM_IRQFD_FLAG_RESAMPLE,
            resamplefd: resample.as_raw_fd() as u32,
            ..Default::default()
        };
        self.set(KVM_IRQFD, &arg)
    }

    /// `KVM_SIGNAL_MSI`.
    pub fn signal_msi(&self, address: u64, data: u32) -> SysResult<i32> {
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..Default::default()
        };
        self.set(KVM_SIGNAL_MSI, &msi)
    }

    /// `KVM_CREATE_VCPU`, with nothing else done.
    pub fn create_vcpu(&self, id: u64) -> SysResult<OwnedFd> {
        sys::ioctl(self, KVM_CREATE_VCPU, id).map(own_fd)
    }

    /// A vCPU with its shared area mapped.
    pub fn vcpu(&self, kvm: &Kvm, id: u32) -> SysResult<Vcpu> {
        Vcpu::new(self.create_vcpu(u64::from(id))?, kvm.run_size()?, id)
    }
}

/// A new `eventfd` that does not block.
pub fn eventfd() -> SysResult<OwnedFd> {
    // SAFETY: a system call on plain numbers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    check("eventfd", i64::from(fd)).map(|fd| own_fd(fd as i32))
}

/// Adds to an `eventfd`.
pub fn eventfd_add(fd: &OwnedFd, value: u64) -> SysResult<()> {
    // SAFETY: eight readable bytes.
    let n = unsafe { libc::write(fd.as_raw_fd(), (&raw const value).cast(), 8) };
    check("write eventfd", n as i64).map(drop)
}

/// Takes the count of an `eventfd`; zero when nothing was added.
pub fn eventfd_take(fd: &OwnedFd) -> SysResult<u64> {
    let mut value = 0u64;
    // SAFETY: eight writable bytes.
    let n = unsafe { libc::read(fd.as_raw_fd(), (&raw mut value).cast(), 8) };
    match check("read eventfd", n as i64) {
        Ok(_) => Ok(value),
        Err(e) if e.number == libc::EAGAIN => Ok(0),
        Err(e) => Err(e),
    }
}
