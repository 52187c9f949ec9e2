// SPDX-License-Identifier: GPL-2.0-or-later

//! Opening the KVM device, and what we need of it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{anyhow, bail, Context, Result};
use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_EXT_CPUID, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_IOEVENTFD,
    KVM_CAP_IOEVENTFD_ANY_LENGTH, KVM_CAP_IRQCHIP, KVM_CAP_IRQFD, KVM_CAP_IRQ_ROUTING,
    KVM_CAP_PIT2, KVM_CAP_SET_IDENTITY_MAP_ADDR, KVM_CAP_SET_TSS_ADDR, KVM_CAP_USER_MEMORY,
};
use kvm_ioctls::Kvm;

use crate::memory;
use crate::size::ByteSize;
use crate::vcpu::setup;

/// The capabilities without which no guest runs here, and their names in KVM's API document.
pub const REQUIRED: &[(u32, &str)] = &[
    (KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"),
    (KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"),
    (
        KVM_CAP_SET_IDENTITY_MAP_ADDR,
        "KVM_CAP_SET_IDENTITY_MAP_ADDR",
    ),
    (KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"),
    (KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"),
    (KVM_CAP_PIT2, "KVM_CAP_PIT2"),
    (KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"),
    (KVM_CAP_IRQFD, "KVM_CAP_IRQFD"),
    (KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"),
    (KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH"),
    (KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// The highest number of vCPUs the machine model has room for: the 8-bit APIC ids below the
/// IOAPIC's and the broadcast id.
pub const MODEL_MAX_VCPUS: u32 = 254;

/// Opens the KVM device.
///
/// # Errors
///
/// A sentence that says why it cannot be used and what to do about it.
pub fn open(path: &Path) -> Result<Kvm> {
    let c_path = CString::new(path.as_os_str().as_bytes())
        .with_context(|| format!("{} is not a path", path.display()))?;
    let kvm = Kvm::new_with_path(c_path)
        .map_err(|error| anyhow!("{}", explain_open(path, error.errno())))?;
    match kvm.get_api_version() {
        version if version == KVM_API_VERSION as i32 => Ok(kvm),
        -1 => bail!("{} is not a KVM device; name the right one with --kvm-device", path.display()),
        version => bail!(
            "{} speaks version {version} of the KVM API and ironvm needs {KVM_API_VERSION}; use a kernel of this century",
            path.display()
        ),
    }
}

/// Why opening the device failed with `errno`, and the remedy.
pub fn explain_open(path: &Path, errno: i32) -> String {
    let path = path.display();
    match errno {
        libc::ENOENT => format!(
            "there is no {path}: load the KVM module (`modprobe kvm`, or `modprobe kvm_amd` or `kvm_intel` for the kernel's own) and make sure virtualization is switched on in the firmware; `ironvm check` tells more"
        ),
        libc::EACCES | libc::EPERM => format!(
            "you may not open {path}: become a member of its group (`sudo usermod -aG kvm $USER`, then log in again)"
        ),
        libc::ENODEV | libc::ENXIO => format!(
            "nothing answers at {path}: load the KVM module (`modprobe kvm`); `ironvm check` tells more"
        ),
        libc::EBUSY => format!("{path} is busy: another hypervisor may hold the processor's virtualization"),
        _ => format!("cannot open {path}: {}", std::io::Error::from_raw_os_error(errno)),
    }
}

/// The required capabilities this KVM does not have, by name.
pub fn missing(kvm: &Kvm) -> Vec<&'static str> {
    REQUIRED
        .iter()
        .filter(|(cap, _)| kvm.check_extension_raw(libc::c_ulong::from(*cap)) <= 0)
        .map(|(_, name)| *name)
        .collect()
}

/// Checks that this KVM can run a guest of `cpus` vCPUs with `memory`.
///
/// # Errors
///
/// A sentence for the user.
pub fn require(kvm: &Kvm, cpus: u32, memory: ByteSize) -> Result<()> {
    let missing = missing(kvm);
    if !missing.is_empty() {
        bail!(
            "this KVM lacks {}; `ironvm check` tells more",
            missing.join(", ")
        );
    }
    let most = max_vcpus(kvm);
    if cpus > most {
        bail!("--cpus {cpus}: KVM allows a guest at most {most} vCPUs here");
    }
    let supported = setup::supported_cpuid(kvm)?;
    let bits = setup::physical_address_bits(supported.as_slice());
    if memory::end(memory) > 1 << bits {
        bail!("--memory {memory}: guests have {bits} bits of physical address here; ask for less");
    }
    Ok(())
}

/// The highest number of vCPUs a guest can have here.
pub fn max_vcpus(kvm: &Kvm) -> u32 {
    u32::try_from(kvm.get_max_vcpus())
        .unwrap_or(MODEL_MAX_VCPUS)
        .min(MODEL_MAX_VCPUS)
}
