// SPDX-License-Identifier: GPL-2.0

//! Lists that come with a count in front: CPUID entries, MSRs.

use crate::host::user::UserPtr;
use crate::uapi::kvm_msr_entry;
use crate::uapi::kvm_msrs;
use crate::uapi::Pod;
use core::mem::size_of;
use kernel::prelude::*;

/// Most MSRs in one KVM_GET_MSRS or KVM_SET_MSRS.
const MAX_IO_MSRS: usize = 256;

/// Writes `values` behind a header of `header` bytes that begins with their
/// number, of which userspace has said how many it has room for.
///
/// # Errors
///
/// `E2BIG` when that are too few; nothing is written then. `EFAULT`.
pub fn write_counted<T: Pod>(to: UserPtr, header: usize, values: &[T]) -> Result<isize> {
    let room: u32 = to.read()?;
    let count = u32::try_from(values.len()).map_err(|_| E2BIG)?;
    if room < count {
        return Err(E2BIG);
    }
    to.offset(header)?.write_slice(values)?;
    to.write(&count)?;
    Ok(0)
}

/// Calls `act` on each MSR of a list until that gives `None`; gives how many
/// it took. With `read`, the values are written back.
///
/// # Errors
///
/// `E2BIG` for more than 256, `EFAULT`.
pub fn each_msr(
    list: UserPtr,
    read: bool,
    act: impl FnMut(&mut kvm_msr_entry) -> Option<()>,
) -> Result<isize> {
    let header: kvm_msrs = list.read()?;
    if header.nmsrs as usize >= MAX_IO_MSRS {
        return Err(E2BIG);
    }
    let place = list.offset(size_of::<kvm_msrs>())?;
    let mut entries: KVVec<kvm_msr_entry> = place.read_array(header.nmsrs as usize, MAX_IO_MSRS)?;
    let done = entries.iter_mut().map_while(act).count();
    if read {
        place.write_slice(&entries)?;
    }
    Ok(done as isize)
}
