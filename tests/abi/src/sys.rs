// SPDX-License-Identifier: GPL-2.0-or-later

//! System calls with their error kept as a number.

use std::fmt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A failed system call: which one, and its `errno`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno {
    /// What was called, for messages.
    pub call: &'static str,
    /// The `errno` value.
    pub number: i32,
}

impl Errno {
    /// The error that the last system call of this thread left.
    pub fn last(call: &'static str) -> Self {
        let number = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        Self { call, number }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed with {}", self.call, name(self.number))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Result of a system call.
pub type SysResult<T> = Result<T, Errno>;

/// Name of an `errno` value, or its number.
pub fn name(errno: i32) -> String {
    let known = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::ENOSPC => "ENOSPC",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        other => return format!("errno {other}"),
    };
    known.to_string()
}

/// Turns the return value of a system call into a result.
pub fn check(call: &'static str, returned: i64) -> SysResult<i64> {
    if returned < 0 {
        return Err(Errno::last(call));
    }
    Ok(returned)
}

/// `ioctl` with an integer argument.
pub fn ioctl(fd: &impl AsRawFd, call: (&'static str, u64), arg: u64) -> SysResult<i32> {
    // SAFETY: no Rust object is lent; an argument that the kernel takes as a pointer can only be
    // one of the wild ones that tests pass on purpose, and those are not backed by Rust objects.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), call.1 as libc::c_ulong as _, arg) };
    check(call.0, i64::from(r)).map(|v| v as i32)
}

/// The kernel goes by the size in the request; a smaller argument is a mistake in the test.
fn check_size<T>(call: (&'static str, u64)) {
    let stated = crate::ioctls::argument_size(call.1);
    assert!(std::mem::size_of::<T>() >= stated, "argument of {}", call.0);
}

/// `ioctl` with an argument that the kernel only reads.
pub fn ioctl_ref<T>(fd: &impl AsRawFd, call: (&'static str, u64), arg: &T) -> SysResult<i32> {
    check_size::<T>(call);
    // SAFETY: `arg` outlives the call; the callers pass the type that the number is made for.
    let r = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            call.1 as libc::c_ulong as _,
            arg as *const T,
        )
    };
    check(call.0, i64::from(r)).map(|v| v as i32)
}

/// `ioctl` with an argument that the kernel may write.
pub fn ioctl_mut<T>(fd: &impl AsRawFd, call: (&'static str, u64), arg: &mut T) -> SysResult<i32> {
    check_size::<T>(call);
    // SAFETY: `arg` outlives the call; the callers pass the type that the number is made for.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), call.1 as libc::c_ulong as _, arg as *mut T) };
    check(call.0, i64::from(r)).map(|v| v as i32)
}

/// `ioctl` whose argument is a structure with a list at its end, laid out in `buffer`.
pub fn ioctl_buffer(
    fd: &impl AsRawFd,
    call: (&'static str, u64),
    buffer: &mut [u64],
) -> SysResult<i32> {
    // SAFETY: `buffer` outlives the call; the callers size it by the count they put in it.
    let r = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            call.1 as libc::c_ulong as _,
            buffer.as_mut_ptr(),
        )
    };
    check(call.0, i64::from(r)).map(|v| v as i32)
}

/// Takes a file descriptor that an ioctl has just made.
pub fn own_fd(raw: i32) -> OwnedFd {
    // SAFETY: the number was returned by the kernel a moment ago and nobody else holds it.
    unsafe { OwnedFd::from_raw_fd(raw as RawFd) }
}

/// Memory from `mmap`, unmapped when dropped.
pub struct Mapping {
    address: *mut u8,
    length: usize,
}

// SAFETY: the memory belongs to the process; access goes through volatile copies.
unsafe impl Send for Mapping {}
// SAFETY: as above; what races there are lie between guest and host and are meant.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Anonymous, private, readable and writable memory of `length` bytes.
    pub fn anonymous(length: usize) -> SysResult<Self> {
        Self::new(
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    }

    /// Anonymous memory whose address is a multiple of `align`, a power of two.
    pub fn aligned(length: usize, align: usize) -> SysResult<Self> {
        let wide = Self::anonymous(length + align)?;
        let start = (wide.address as usize).next_multiple_of(align);
        let before = start - wide.address as usize;
        let after = align - before;
        // SAFETY: both ranges lie in the mapping just made, at its two ends.
        unsafe {
            if before > 0 {
                libc::munmap(wide.address.cast(), before);
            }
            if after > 0 {
                libc::munmap((start + length) as *mut _, after);
            }
        }
        std::mem::forget(wide);
        Ok(Self {
            address: start as *mut u8,
            length,
        })
    }

    /// `mmap` at an address of the kernel's choice.
    pub fn new(length: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> SysResult<Self> {
        // SAFETY: no fixed address is asked for, so no existing mapping is replaced.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, prot, flags, fd, offset) };
        if address == libc::MAP_FAILED {
            return Err(Errno::last("mmap"));
        }
        Ok(Self {
            address: address.cast(),
            length,
        })
    }

    /// Where it starts.
    pub fn ptr(&self) -> *mut u8 {
        self.address
    }

    /// Where it starts, as the ABI takes it.
    pub fn hva(&self) -> u64 {
        self.address as u64
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// A pointer to a `T` at `offset`; panics beyond the end, which fails the test.
    pub fn at<T>(&self, offset: usize) -> *mut T {
        let end = offset.checked_add(std::mem::size_of::<T>());
        assert!(
            end.is_some_and(|end| end <= self.length),
            "offset {offset:#x} is outside the mapping"
        );
        // SAFETY: within the mapping, checked above.
        unsafe { self.address.add(offset).cast() }
    }

    /// Reads a `T` at `offset`, whatever its alignment.
    pub fn read<T: Copy>(&self, offset: usize) -> T {
        let p = self.at::<T>(offset);
        if (p as usize) % std::mem::align_of::<T>() == 0 {
            // SAFETY: in bounds by `at`, aligned, and plain data in every use here.
            return unsafe { p.read_volatile() };
        }
        // SAFETY: in bounds by `at`.
        unsafe { p.read_unaligned() }
    }

    /// Writes a `T` at `offset`, whatever its alignment.
    pub fn write<T: Copy>(&self, offset: usize, value: T) {
        let p = self.at::<T>(offset);
        if (p as usize) % std::mem::align_of::<T>() == 0 {
            // SAFETY: in bounds by `at`, aligned.
            unsafe { p.write_volatile(value) };
            return;
        }
        // SAFETY: in bounds by `at`.
        unsafe { p.write_unaligned(value) };
    }

    /// Copies bytes in.
    pub fn fill(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length, "outside the mapping");
        // SAFETY: in bounds, and `bytes` cannot overlap a mapping that no slice was made of.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.add(offset), bytes.len())
        };
    }

    /// Copies bytes out.
    pub fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= self.length, "outside the mapping");
        (offset..offset + length).map(|i| self.read(i)).collect()
    }

    /// `madvise` on a part.
    pub fn advise(&self, offset: usize, length: usize, advice: i32) -> SysResult<()> {
        assert!(offset + length <= self.length, "outside the mapping");
        // SAFETY: within the mapping; what the advice does to its contents is the caller's wish.
        let r = unsafe { libc::madvise(self.address.add(offset).cast(), length, advice) };
        check("madvise", i64::from(r)).map(drop)
    }

    /// `mprotect` on a part.
    pub fn protect(&self, offset: usize, length: usize, prot: i32) -> SysResult<()> {
        assert!(offset + length <= self.length, "outside the mapping");
        // SAFETY: within the mapping.
        let r = unsafe { libc::mprotect(self.address.add(offset).cast(), length, prot) };
        check("mprotect", i64::from(r)).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `mmap` with this length.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

/// Whether the processor is QEMU's TCG, whose SVM lacks some intercepts (a `#BP` of the guest is
/// never intercepted).
pub fn processor_is_tcg() -> bool {
    // SAFETY: every 64-bit processor has CPUID. (Newer compilers know that it is safe.)
    #[allow(unused_unsafe)]
    let leaf = unsafe { std::arch::x86_64::__cpuid(0x4000_0000) };
    leaf.ebx == u32::from_le_bytes(*b"TCGT")
}
