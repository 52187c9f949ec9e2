// SPDX-License-Identifier: GPL-2.0

//! Files: the device node `/dev/kvm`, and file descriptors that stand for an
//! object of this module (a virtual machine, a vCPU, a device).
//!
//! Both keep the module loaded while they are open: `owner` is set in their
//! operations. An object's file holds one reference to it; release gives that
//! reference back to the object's type.
//!
//! Context: everything is called in process context and may sleep. No locks
//! are held.

mod device;

pub use device::register_device;
pub use device::Device;
pub use device::DeviceFile;

use super::bindings;
use super::page::HostPage;
use super::user::UserPtr;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use kernel::error::from_err_ptr;
use kernel::error::from_result;
use kernel::ffi::c_int;
use kernel::ffi::c_long;
use kernel::ffi::c_uint;
use kernel::ffi::c_ulong;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;

/// What a file descriptor of this module stands for.
pub trait FileObject: Send + Sync + Sized + 'static {
    /// Whether the descriptor can be mapped: [`FileObject::mmap_page`].
    const MAPPABLE: bool = false;

    /// Serves an ioctl. `arg` is the argument as given: an address or a number.
    ///
    /// # Errors
    ///
    /// The errno that userspace sees.
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: UserPtr) -> Result<isize>;

    /// The page that a mapping of the descriptor shows at page `offset` of the
    /// file; a touch of any other offset raises SIGBUS.
    fn mmap_page(&self, _offset: usize) -> Option<&HostPage> {
        None
    }

    /// The last file descriptor is closed. The object lives on while other
    /// references to it do.
    fn release(this: Arc<Self>) {
        drop(this);
    }
}

/// Lets a table of C functions be a `const`.
#[repr(transparent)]
struct Table<T>(T);

// SAFETY: The tables are never written, and the kernel reads them from any thread.
unsafe impl<T> Sync for Table<T> {}

/// The C side of an object's file.
struct Operations<T>(PhantomData<T>);

impl<T: FileObject> Operations<T> {
    const FILE: Table<bindings::file_operations> = Table(bindings::file_operations {
        owner: crate::THIS_MODULE.as_ptr(),
        llseek: Some(bindings::noop_llseek),
        unlocked_ioctl: Some(Self::ioctl),
        compat_ioctl: bindings::compat_ptr_ioctl,
        mmap: if T::MAPPABLE { Some(Self::mmap) } else { None },
        release: Some(Self::release),
        ..pin_init::zeroed()
    });

    const VMA: Table<bindings::vm_operations_struct> = Table(bindings::vm_operations_struct {
        fault: Some(Self::fault),
        ..pin_init::zeroed()
    });

    /// # Safety
    ///
    /// `file` is an open file made by [`PreparedFd::new`] for this `T`.
    unsafe fn object<'a>(file: *mut bindings::file) -> ArcBorrow<'a, T> {
        // SAFETY: By the precondition `private_data` is a reference that the
        // file holds until `release`.
        unsafe { ArcBorrow::from_raw((*file).private_data.cast_const().cast::<T>()) }
    }

    /// # Safety
    ///
    /// Called by the kernel for a file with these operations.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: The file has these operations, so its object is a `T`.
        let object = unsafe { Self::object(file) };
        let result = T::ioctl(object, cmd, UserPtr::new(arg as u64));
        match result {
            Ok(value) => value,
            Err(error) => error.to_errno() as c_long,
        }
    }

    /// # Safety
    ///
    /// Called by the kernel for a file with these operations.
    unsafe extern "C" fn mmap(
        _file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: The kernel passes a new area, which holds a reference to the file.
        unsafe { (*vma).vm_ops = &Self::VMA.0 };
        0
    }

    /// # Safety
    ///
    /// Called by the kernel for an area that `mmap` above set up.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The fault names its area, the area its file, and the area keeps
        // the file open.
        let (object, offset) = unsafe {
            let fault = &(*vmf).__bindgen_anon_1;
            (Self::object((*fault.vma).vm_file), fault.pgoff)
        };
        let Some(page) = object.mmap_page(offset) else {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS as bindings::vm_fault_t;
        };
        // SAFETY: The field is where the handler returns a page with a reference.
        unsafe { (*vmf).page = page.mapped() };
        0
    }

    /// # Safety
    ///
    /// Called by the kernel once, when the last reference to the file is gone.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `PreparedFd::new` gave the reference to the file; nobody else
        // takes it.
        let object = unsafe { Arc::from_raw((*file).private_data.cast_const().cast::<T>()) };
        T::release(object);
        0
    }
}

/// A file descriptor that is ready but not visible to the process yet, so that
/// whatever can fail may still be done. Dropped, it leaves no trace but a call
/// of [`FileObject::release`].
///
/// # Invariants
///
/// `fd` is reserved in the current process's table; `file` is a reference to a
/// file that has not been installed.
pub struct PreparedFd {
    fd: c_uint,
    file: NonNull<bindings::file>,
}

impl PreparedFd {
    /// Makes a file for `object`, named `name` in `/proc`, open for reading and
    /// writing, closed on exec.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`; the object is dropped then, without a call
    /// of [`FileObject::release`].
    pub fn new<T: FileObject>(name: &CStr, object: Arc<T>) -> Result<Self> {
        // SAFETY: Called in process context.
        let fd = unsafe { bindings::get_unused_fd_flags(bindings::O_CLOEXEC) };
        let fd = c_uint::try_from(fd).map_err(|_| Error::from_errno(fd))?;

        let object = Arc::into_raw(object);
        // SAFETY: The operations are static, the name is copied, and the file
        // owns `object` from here on unless this fails.
        let file = from_err_ptr(unsafe {
            bindings::iv_anon_inode_getfile(
                name.as_char_ptr(),
                &Operations::<T>::FILE.0,
                object.cast_mut().cast(),
                bindings::O_RDWR as c_int,
            )
        });
        match file.map(NonNull::new) {
            // INVARIANT: Just reserved and made.
            Ok(Some(file)) => Ok(Self { fd, file }),
            failed => {
                // SAFETY: The descriptor was reserved above; no file took `object`.
                unsafe {
                    bindings::put_unused_fd(fd);
                    drop(Arc::from_raw(object));
                }
                Err(failed.err().unwrap_or(ENOMEM))
            }
        }
    }

    /// Makes the descriptor visible and returns it. From here on another
    /// thread of the process may use or close it.
    pub fn install(self) -> i32 {
        let this = ManuallyDrop::new(self);
        // SAFETY: By the invariant; both move to the process's table.
        unsafe { bindings::fd_install(this.fd, this.file.as_ptr()) };
        this.fd as i32
    }
}

impl Drop for PreparedFd {
    fn drop(&mut self) {
        // SAFETY: By the invariant; neither has been installed.
        unsafe {
            bindings::put_unused_fd(self.fd);
            bindings::fput(self.file.as_ptr());
        }
    }
}
