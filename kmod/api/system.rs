// SPDX-License-Identifier: GPL-2.0

//! `/dev/kvm` itself.

mod model;

use super::capability;
use super::ioctl_table;
use crate::host::file::DeviceFile;
use crate::host::file::PreparedFd;
use crate::host::user::UserPtr;
use crate::hw::Vendor;
use crate::uapi;
use crate::vm::msr;
use crate::vm::run_page;
use crate::vm::Vm;
use core::marker::PhantomData;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

/// The device node on processors of vendor `V`.
pub struct SystemFile<V: Vendor>(PhantomData<fn() -> V>);

impl<V: Vendor> DeviceFile for SystemFile<V> {
    fn ioctl(cmd: u32, arg: UserPtr) -> Result<isize> {
        ioctl_table! { cmd, arg;
            KVM_GET_API_VERSION => raw |arg| no_argument(arg, uapi::KVM_API_VERSION as isize);
            KVM_CREATE_VM => raw |kind| create_vm::<V>(kind);
            KVM_CHECK_EXTENSION => raw |number: UserPtr| Ok(capability::value::<V>(number.addr()));
            KVM_GET_VCPU_MMAP_SIZE => raw |arg| no_argument(arg, (run_page::PAGES * PAGE_SIZE) as isize);
            KVM_GET_SUPPORTED_CPUID => raw model::get_supported_cpuid;
            KVM_GET_EMULATED_CPUID => raw model::get_emulated_cpuid;
            KVM_GET_MSR_INDEX_LIST => raw model::get_msr_index_list;
            KVM_GET_MSR_FEATURE_INDEX_LIST => raw model::get_msr_feature_index_list;
            KVM_GET_MSRS => raw model::get_feature_msrs;
            KVM_X86_GET_MCE_CAP_SUPPORTED => output || Ok(msr::MCE_CAPABILITIES);
            _ => EINVAL
        }
    }
}

fn no_argument(arg: UserPtr, value: isize) -> Result<isize> {
    if arg.is_null() {
        Ok(value)
    } else {
        Err(EINVAL)
    }
}

/// KVM_CREATE_VM.
///
/// # Errors
///
/// `EINVAL` for a type other than the ordinary, `ENOMEM`, `EMFILE`.
fn create_vm<V: Vendor>(kind: UserPtr) -> Result<isize> {
    if kind.addr() != uapi::KVM_X86_DEFAULT_VM {
        return Err(EINVAL);
    }
    let vm = Vm::<V>::new()?;
    Ok(PreparedFd::new(c"kvm-vm", vm)?.install() as isize)
}
