// SPDX-License-Identifier: GPL-2.0

//! What processor guests can be given on this host: lists of CPUID leaves and
//! of MSRs.

use crate::api::list;
use crate::host::cpu;
use crate::host::errno;
use crate::host::user::UserPtr;
use crate::pc::cpuid::supported;
use crate::pc::cpuid::MAX_ENTRIES;
use crate::pc::msr::lists;
use crate::uapi::kvm_cpuid2;
use crate::uapi::kvm_cpuid_entry2;
use crate::uapi::kvm_msr_list;
use crate::vm::model;
use core::mem::size_of;
use kernel::prelude::*;

/// Writes the entries that `fill` gives to a list of userspace, which says how
/// many it has room for.
///
/// # Errors
///
/// `E2BIG` when that are too few, `EFAULT`, `ENOMEM`.
fn write_entries(
    list: UserPtr,
    fill: impl FnOnce(&mut [kvm_cpuid_entry2]) -> Result<usize, i32>,
) -> Result<isize> {
    let header: kvm_cpuid2 = list.read()?;
    let room = (header.nent as usize).min(MAX_ENTRIES);
    let mut entries = KVVec::with_capacity(room, GFP_KERNEL)?;
    entries.resize(room, kvm_cpuid_entry2::default(), GFP_KERNEL)?;
    let filled = fill(&mut entries).map_err(errno::error)?;
    entries.truncate(filled);
    list.offset(size_of::<kvm_cpuid2>())?
        .write_slice(&entries)?;
    list.write(&(filled as u32))?;
    Ok(0)
}

/// KVM_GET_SUPPORTED_CPUID.
///
/// # Errors
///
/// `E2BIG` for too little room, `EFAULT`, `ENOMEM`.
pub fn get_supported_cpuid(list: UserPtr) -> Result<isize> {
    let platform = model::platform()?;
    write_entries(list, |entries| {
        supported::supported(&model::host_cpuid, platform, entries)
    })
}

/// KVM_GET_EMULATED_CPUID.
///
/// # Errors
///
/// As [`get_supported_cpuid`].
pub fn get_emulated_cpuid(list: UserPtr) -> Result<isize> {
    write_entries(list, |entries| supported::emulated(false, entries))
}

/// KVM_GET_MSR_INDEX_LIST.
///
/// # Errors
///
/// `E2BIG` for too little room; the number needed is told. `EFAULT`, `ENOMEM`.
pub fn get_msr_index_list(list: UserPtr) -> Result<isize> {
    write_list(list, lists::state(model::platform()?))
}

/// KVM_GET_MSR_FEATURE_INDEX_LIST.
///
/// # Errors
///
/// As [`get_msr_index_list`].
pub fn get_msr_feature_index_list(list: UserPtr) -> Result<isize> {
    write_list(list, lists::features(model::platform()?))
}

fn write_list(list: UserPtr, indices: impl Iterator<Item = u32>) -> Result<isize> {
    let mut values = KVVec::new();
    for index in indices {
        values.push(index, GFP_KERNEL)?;
    }
    let written = list::write_counted(list, size_of::<kvm_msr_list>(), &values);
    if written == Err(E2BIG) {
        // How many there are is told.
        list.write(&(values.len() as u32))?;
    }
    written
}

/// KVM_GET_MSRS of `/dev/kvm`: feature MSRs of the host.
///
/// # Errors
///
/// `E2BIG`, `EFAULT`.
pub fn get_feature_msrs(list: UserPtr) -> Result<isize> {
    let platform = model::platform()?;
    let host = |index| cpu::rdmsr_safe(index).ok();
    list::each_msr(list, true, |entry| {
        entry.data = lists::feature(entry.index, platform, &host)?;
        Some(())
    })
}
