// SPDX-License-Identifier: GPL-2.0

//! The device node: misc device 10:232, `/dev/kvm`.

use super::bindings;
use super::from_result;
use super::Table;
use super::UserPtr;
use core::marker::PhantomData;
use kernel::error::to_result;
use kernel::ffi::c_long;
use kernel::ffi::c_uint;
use kernel::ffi::c_ulong;
use kernel::prelude::*;
use kernel::types::Opaque;

/// What the device node answers. An open node has no state.
pub trait DeviceFile: 'static {
    /// Serves an ioctl. `arg` is the argument as given: an address or a number.
    ///
    /// # Errors
    ///
    /// The errno that userspace sees.
    fn ioctl(cmd: u32, arg: UserPtr) -> Result<isize>;
}

/// The C side of the device node.
struct Operations<D>(PhantomData<D>);

impl<D: DeviceFile> Operations<D> {
    const FILE: Table<bindings::file_operations> = Table(bindings::file_operations {
        owner: crate::THIS_MODULE.as_ptr(),
        llseek: Some(bindings::noop_llseek),
        unlocked_ioctl: Some(Self::ioctl),
        compat_ioctl: bindings::compat_ptr_ioctl,
        ..pin_init::zeroed()
    });

    /// # Safety
    ///
    /// Called by the kernel for a file with these operations.
    unsafe extern "C" fn ioctl(_file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        from_result(|| D::ioctl(cmd, UserPtr::new(arg as u64)))
    }
}

/// The registered device node. Dropped, the node is gone; files of it that are
/// open keep the module loaded, so none is then.
///
/// # Invariants
///
/// The misc device is registered.
pub struct Device(Pin<KBox<Opaque<bindings::miscdevice>>>);

// SAFETY: A misc device may be deregistered by any thread.
unsafe impl Send for Device {}
// SAFETY: Nothing is done through a shared reference.
unsafe impl Sync for Device {}

/// Registers `/dev/kvm`. Its files can be opened from here on. May sleep.
///
/// # Errors
///
/// `EBUSY` when another module serves it, `ENOMEM`.
pub fn register_device<D: DeviceFile>() -> Result<Device> {
    let device = bindings::miscdevice {
        minor: bindings::KVM_MINOR as i32,
        name: c"kvm".as_char_ptr(),
        fops: &Operations::<D>::FILE.0,
        ..pin_init::zeroed()
    };
    let device = KBox::pin(Opaque::new(device), GFP_KERNEL)?;
    // SAFETY: The structure is filled in, and does not move until it is
    // deregistered.
    to_result(unsafe { bindings::misc_register(device.get()) })?;
    // INVARIANT: Just registered.
    Ok(Device(device))
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::misc_deregister(self.0.get()) };
    }
}
