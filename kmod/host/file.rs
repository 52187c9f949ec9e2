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
use core::any::TypeId;
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

/// What `private_data` of an object's file points to.
///
/// The tag comes first and is the same for every `T`: it tells what `T` is.
#[repr(C)]
struct Private<T> {
    tag: TypeId,
    object: Arc<T>,
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
    unsafe fn private<'a>(file: *mut bindings::file) -> &'a Private<T> {
        // SAFETY: By the precondition `private_data` is such a box, which lives
        // until `release`.
        unsafe { &*(*file).private_data.cast::<Private<T>>() }
    }

    /// # Safety
    ///
    /// Called by the kernel for a file with these operations.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: The file has these operations, so its object is a `T`.
        let private = unsafe { Self::private(file) };
        let result = T::ioctl(
            private.object.as_arc_borrow(),
            cmd,
            UserPtr::new(arg as u64),
        );
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
        let (private, offset) = unsafe {
            let fault = &(*vmf).__bindgen_anon_1;
            (Self::private((*fault.vma).vm_file), fault.pgoff)
        };
        let Some(page) = private.object.mmap_page(offset) else {
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
        // SAFETY: `PreparedFd::new` leaked the box to the file; nobody else takes it.
        let private = unsafe { KBox::from_raw((*file).private_data.cast::<Private<T>>()) };
        T::release(KBox::into_inner(private).object);
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
        let private = KBox::new(
            Private {
                tag: TypeId::of::<T>(),
                object,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: Called in process context.
        let fd = unsafe { bindings::get_unused_fd_flags(bindings::O_CLOEXEC) };
        let fd = c_uint::try_from(fd).map_err(|_| Error::from_errno(fd))?;

        let private = KBox::into_raw(private);
        // SAFETY: The operations are static, the name is copied, and the file
        // owns `private` from here on unless this fails.
        let file = from_err_ptr(unsafe {
            bindings::iv_anon_inode_getfile(
                name.as_char_ptr(),
                &Operations::<T>::FILE.0,
                private.cast(),
                bindings::O_RDWR as c_int,
            )
        });
        match file.map(NonNull::new) {
            // INVARIANT: Just reserved and made.
            Ok(Some(file)) => Ok(Self { fd, file }),
            failed => {
                // SAFETY: The descriptor was reserved above; no file took `private`.
                unsafe {
                    bindings::put_unused_fd(fd);
                    drop(KBox::from_raw(private));
                }
                Err(failed.err().unwrap_or(ENOMEM))
            }
        }
    }

    /// The number that [`PreparedFd::install`] will make valid.
    pub fn fd(&self) -> i32 {
        self.fd as i32
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

/// Makes a file for `object` and installs it: [`PreparedFd::new`] and
/// [`PreparedFd::install`] in one.
///
/// # Errors
///
/// As [`PreparedFd::new`].
pub fn anon_fd<T: FileObject>(name: &CStr, object: Arc<T>) -> Result<i32> {
    PreparedFd::new(name, object).map(PreparedFd::install)
}

/// The object that the current process's descriptor `fd` stands for.
///
/// # Errors
///
/// `EBADF` when it is not open, `EINVAL` when it stands for something else.
pub fn fd_object<T: FileObject>(fd: i32) -> Result<Arc<T>> {
    let fd = c_uint::try_from(fd).map_err(|_| EBADF)?;
    // SAFETY: Called in process context.
    let file = NonNull::new(unsafe { bindings::fget(fd) }).ok_or(EBADF)?;
    // SAFETY: The reference just taken keeps the file open until `fput`.
    unsafe {
        let object = object_of(file.as_ptr());
        bindings::fput(file.as_ptr());
        object.ok_or(EINVAL)
    }
}

/// The `T` that an open file stands for, if it does.
///
/// # Safety
///
/// `file` is an open file and stays so during the call.
unsafe fn object_of<T: FileObject>(file: *mut bindings::file) -> Option<Arc<T>> {
    // SAFETY: An open file has operations, and these do not change.
    let operations = unsafe { &*(*file).f_op };
    // Only files of this module's objects have both: the device node's have no
    // `release`.
    if operations.owner != crate::THIS_MODULE.as_ptr() || operations.release.is_none() {
        return None;
    }
    // SAFETY: It is a file of `PreparedFd::new`, so `private_data` points to a
    // `Private` of some type, which starts with its tag.
    let private = unsafe { (*file).private_data };
    // SAFETY: As above.
    if unsafe { private.cast::<TypeId>().read() } != TypeId::of::<T>() {
        return None;
    }
    // SAFETY: The tag says that the type is `T`.
    Some(unsafe { (*private.cast::<Private<T>>()).object.clone() })
}
