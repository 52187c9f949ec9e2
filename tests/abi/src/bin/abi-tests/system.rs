// SPDX-License-Identifier: GPL-2.0-or-later

//! `/dev/kvm` itself: version, capabilities, lists (KVM API document, 4.1 to 4.6, 4.46, 4.88).

use ironvm_abi_tests::fds::Kvm;
use ironvm_abi_tests::harness::{emulator, Test};
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::sys::{ioctl, ioctl_mut};
use ironvm_abi_tests::{ensure, ensure_eq, ensure_errno, lists, skip, test, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("system", api_version),
    test!("system", version_takes_no_argument),
    test!("system", mmap_size),
    test!("system", union_of_clients),
    test!("system", unknown_capabilities),
    test!("system", capability_values),
    test!("system", unknown_ioctls),
    test!("system", other_ioctls),
    test!("system", msr_index_list),
    test!("system", msr_feature_list),
    test!("system", msr_features_read),
    test!("system", supported_cpuid_sizes),
    test!("system", supported_cpuid_content),
    test!("system", supported_cpuid_bad_pointer),
    test!("system", emulated_cpuid),
    test!("system", mce_capability),
];

fn api_version() -> Outcome {
    let kvm = Kvm::open()?;
    ensure_eq!(
        ioctl(&kvm, KVM_GET_API_VERSION, 0)?,
        12,
        "KVM_GET_API_VERSION"
    );
    Ok(())
}

fn version_takes_no_argument() -> Outcome {
    let kvm = Kvm::open()?;
    ensure_errno!(
        ioctl(&kvm, KVM_GET_API_VERSION, 1),
        libc::EINVAL,
        "GET_API_VERSION(1)"
    );
    ensure_errno!(
        ioctl(&kvm, KVM_GET_VCPU_MMAP_SIZE, 1),
        libc::EINVAL,
        "GET_VCPU_MMAP_SIZE(1)"
    );
    Ok(())
}

fn mmap_size() -> Outcome {
    let kvm = Kvm::open()?;
    let size = kvm.run_size()?;
    ensure!(
        size >= std::mem::size_of::<kvm_run>() && size % 4096 == 0,
        "vCPU mmap size {size}"
    );
    let ring = kvm.extension(KVM_CAP_COALESCED_MMIO)?;
    if ring > 0 {
        ensure!(
            size >= (ring as usize + 1) * 4096,
            "no room for the coalesced ring at page {ring} in {size} bytes"
        );
    }
    Ok(())
}

/// What QEMU, Firecracker, Cloud Hypervisor, crosvm and kvmtool together refuse to start without.
fn union_of_clients() -> Outcome {
    let kvm = Kvm::open()?;
    let needed = [
        (KVM_CAP_USER_MEMORY, 1),
        (KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1),
        (KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1),
        (KVM_CAP_NR_MEMSLOTS, 32),
        (KVM_CAP_READONLY_MEM, 1),
        (KVM_CAP_SYNC_MMU, 1),
        (KVM_CAP_INTERNAL_ERROR_DATA, 1),
        (KVM_CAP_IOEVENTFD, 1),
        (KVM_CAP_IOEVENTFD_ANY_LENGTH, 1),
        (KVM_CAP_IRQFD, 1),
        (KVM_CAP_IRQCHIP, 1),
        (KVM_CAP_SPLIT_IRQCHIP, 1),
        (KVM_CAP_IRQ_ROUTING, 1024),
        (KVM_CAP_IRQ_INJECT_STATUS, 1),
        (KVM_CAP_SIGNAL_MSI, 1),
        (KVM_CAP_PIT2, 1),
        (KVM_CAP_PIT_STATE2, 1),
        (KVM_CAP_SET_TSS_ADDR, 1),
        (KVM_CAP_SET_IDENTITY_MAP_ADDR, 1),
        (KVM_CAP_EXT_CPUID, 1),
        (KVM_CAP_MP_STATE, 1),
        (KVM_CAP_DEBUGREGS, 1),
        (KVM_CAP_XSAVE, 1),
        (KVM_CAP_XCRS, i32::from(emulator::processor_has("xsave"))),
        (KVM_CAP_VCPU_EVENTS, 1),
        (KVM_CAP_X86_ROBUST_SINGLESTEP, 1),
        (KVM_CAP_SET_GUEST_DEBUG, 1),
        (KVM_CAP_MCE, 10),
        (KVM_CAP_ADJUST_CLOCK, 1),
        (KVM_CAP_GET_TSC_KHZ, 1),
        (KVM_CAP_TSC_DEADLINE_TIMER, 1),
        (KVM_CAP_IMMEDIATE_EXIT, 1),
        (KVM_CAP_USER_NMI, 1),
        (KVM_CAP_HLT, 1),
        (KVM_CAP_COALESCED_MMIO, 1),
        (KVM_CAP_CHECK_EXTENSION_VM, 1),
        (KVM_CAP_ENABLE_CAP, 1),
        (KVM_CAP_ENABLE_CAP_VM, 1),
        (KVM_CAP_DEVICE_CTRL, 1),
        (KVM_CAP_NR_VCPUS, 1),
        (KVM_CAP_MAX_VCPUS, 2),
        (KVM_CAP_MAX_VCPU_ID, 2),
    ];
    let vm = kvm.create_vm(0)?;
    for (capability, least) in needed {
        let value = kvm.extension(capability)?;
        ensure!(
            value >= least,
            "capability {capability} is {value}, less than {least}"
        );
        let value = vm.extension(capability)?;
        ensure!(
            value >= least,
            "capability {capability} on the VM is {value}, less than {least}"
        );
    }
    Ok(())
}

fn unknown_capabilities() -> Outcome {
    let kvm = Kvm::open()?;
    // 5, 17, 19, 20, 27, 28 were given up long ago; the others are beyond all or of other machines.
    for capability in [5, 17, 27, 28, 42, 43, 64, 67, 107, 1000, 0x7fff_ffff] {
        let value = kvm.extension(capability)?;
        ensure_eq!(value, 0, "capability {capability}");
    }
    // The argument is a long; what does not fit an int must not be cut to one that means something.
    let wide = ioctl(&kvm, KVM_CHECK_EXTENSION, 1 << 32 | 5)?;
    ensure_eq!(wide, 0, "capability 5 + 2^32");
    Ok(())
}

fn capability_values() -> Outcome {
    let kvm = Kvm::open()?;
    let vcpus = kvm.extension(KVM_CAP_MAX_VCPUS)?;
    let recommended = kvm.extension(KVM_CAP_NR_VCPUS)?;
    let ids = kvm.extension(KVM_CAP_MAX_VCPU_ID)?;
    ensure!(
        recommended <= vcpus,
        "NR_VCPUS {recommended} > MAX_VCPUS {vcpus}"
    );
    ensure!(vcpus <= ids, "MAX_VCPUS {vcpus} > MAX_VCPU_ID {ids}");
    if kvm.has(KVM_CAP_XSAVE2) {
        let size = kvm.extension(KVM_CAP_XSAVE2)?;
        ensure!(
            size >= 4096,
            "XSAVE2 size {size} is less than struct kvm_xsave"
        );
    }
    if kvm.has(KVM_CAP_VM_TYPES) {
        let types = kvm.extension(KVM_CAP_VM_TYPES)?;
        ensure!(types & 1 == 1, "VM type 0 is not in {types:#x}");
    }
    Ok(())
}

/// `EINVAL`, not the `ENOTTY` of the other descriptors.
fn unknown_ioctls() -> Outcome {
    let kvm = Kvm::open()?;
    for number in [0x0f, 0x40, 0x7f, 0xfe, 0xff] {
        let call = ("unknown ioctl", request(0, number, 0));
        ensure_errno!(ioctl(&kvm, call, 0), libc::EINVAL, "ioctl {number:#x}");
    }
    // The right number with the wrong size or direction is another ioctl.
    let call = ("CREATE_VM with a size", request(1, 0x01, 8));
    ensure_errno!(ioctl(&kvm, call, 0), libc::EINVAL, "CREATE_VM of size 8");
    // TCGETS: what `isatty` asks.
    ensure_errno!(ioctl(&kvm, ("TCGETS", 0x5401), 0), libc::EINVAL, "TCGETS");
    Ok(())
}

/// Ioctls of other descriptors are not known here.
fn other_ioctls() -> Outcome {
    let kvm = Kvm::open()?;
    for call in [
        KVM_CREATE_VCPU,
        KVM_SET_USER_MEMORY_REGION,
        KVM_CREATE_IRQCHIP,
        KVM_RUN,
        KVM_GET_REGS,
        KVM_SET_CPUID2,
    ] {
        ensure_errno!(ioctl(&kvm, call, 0), libc::EINVAL, "{} on /dev/kvm", call.0);
    }
    Ok(())
}

/// `E2BIG` with the true count when the list does not fit, and nothing written behind it.
fn check_index_list(call: Ioctl) -> Result<Vec<u32>, ironvm_abi_tests::Failure> {
    let kvm = Kvm::open()?;
    let (result, count, _) = lists::msr_indices_of(&kvm, call, 0);
    ensure_errno!(result, libc::E2BIG, "{} with room for 0", call.0);
    ensure!(count > 0, "{} says it has no MSRs", call.0);
    let (result, again, _) = lists::msr_indices_of(&kvm, call, count - 1);
    ensure_errno!(result, libc::E2BIG, "{} with room for one less", call.0);
    ensure_eq!(again, count, "count of {}", call.0);
    let (result, again, list) = lists::msr_indices_of(&kvm, call, count + 5);
    result?;
    ensure_eq!(again, count, "count of {} with more room", call.0);
    let mut sorted = list[..count as usize].to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    ensure_eq!(sorted.len(), count as usize, "distinct MSRs of {}", call.0);
    ensure_errno!(
        ioctl(&kvm, call, 0),
        libc::EFAULT,
        "{} with a null pointer",
        call.0
    );
    Ok(sorted)
}

fn msr_index_list() -> Outcome {
    let list = check_index_list(KVM_GET_MSR_INDEX_LIST)?;
    use ironvm_abi_tests::layout::*;
    for index in [MSR_TSC, MSR_STAR, MSR_SYSENTER_CS, MSR_PAT] {
        ensure!(list.contains(&index), "MSR {index:#x} is not listed");
    }
    Ok(())
}

fn msr_feature_list() -> Outcome {
    if !Kvm::open()?.has(KVM_CAP_GET_MSR_FEATURES) {
        skip!("no KVM_CAP_GET_MSR_FEATURES");
    }
    check_index_list(KVM_GET_MSR_FEATURE_INDEX_LIST).map(drop)
}

fn msr_features_read() -> Outcome {
    let kvm = Kvm::open()?;
    if !kvm.has(KVM_CAP_GET_MSR_FEATURES) {
        skip!("no KVM_CAP_GET_MSR_FEATURES");
    }
    let list = lists::msr_indices(&kvm, KVM_GET_MSR_FEATURE_INDEX_LIST)?;
    let (done, _) = lists::get_msrs(&kvm, &list)?;
    ensure_eq!(done, list.len(), "feature MSRs read from /dev/kvm");
    let (done, _) = lists::get_msrs(&kvm, &[list[0], 0x1234_5678, list[0]])?;
    ensure_eq!(done, 1, "feature MSRs read before an unknown one");
    Ok(())
}

fn supported_cpuid_sizes() -> Outcome {
    let kvm = Kvm::open()?;
    let full = kvm.supported_cpuid()?;
    let n = full.entries.len() as u32;
    ensure!(n > 4, "only {n} CPUID leaves");
    // kvmtool has room for 100 and gives up beyond.
    ensure!(n <= 100, "{n} CPUID leaves do not fit kvmtool's buffer");
    for room in [1, n / 2, n - 1] {
        let (result, count) = lists::get_cpuid_and_count(&kvm, KVM_GET_SUPPORTED_CPUID, room);
        ensure_errno!(result, libc::E2BIG, "room for {room} of {n} leaves");
        ensure_eq!(count, room, "count after that");
    }
    let exact = lists::get_cpuid_of(&kvm, KVM_GET_SUPPORTED_CPUID, n)?;
    ensure_eq!(exact.entries.len(), full.entries.len(), "leaves");
    let none = lists::get_cpuid_of(&kvm, KVM_GET_SUPPORTED_CPUID, 0);
    ensure_errno!(none, libc::E2BIG, "room for no leaf");
    // More room than any list needs is no error, and no reason to allocate it either.
    let huge = lists::get_cpuid_of(&kvm, KVM_GET_SUPPORTED_CPUID, 100_000)?;
    ensure_eq!(
        huge.entries.len(),
        full.entries.len(),
        "leaves with room for 100000"
    );
    Ok(())
}

fn supported_cpuid_content() -> Outcome {
    let kvm = Kvm::open()?;
    let cpuid = kvm.supported_cpuid()?;
    let Some(first) = cpuid.leaf(0, 0) else {
        ironvm_abi_tests::fail!("no leaf 0");
    };
    ensure!(first.eax >= 1, "highest leaf is {}", first.eax);
    let Some(features) = cpuid.leaf(1, 0) else {
        ironvm_abi_tests::fail!("no leaf 1");
    };
    const X2APIC: u32 = 1 << 21;
    const APIC_PAE_MSR_TSC_PSE: u32 = 1 << 9 | 1 << 6 | 1 << 5 | 1 << 4 | 1 << 3;
    ensure_eq!(
        features.edx & APIC_PAE_MSR_TSC_PSE,
        APIC_PAE_MSR_TSC_PSE,
        "basic features of leaf 1"
    );
    ensure!(features.ecx & X2APIC != 0, "x2APIC is not offered");
    let Some(long) = cpuid.leaf(0x8000_0001, 0) else {
        ironvm_abi_tests::fail!("no leaf 0x80000001");
    };
    ensure!(long.edx & 1 << 29 != 0, "long mode is not offered");
    let Some(signature) = cpuid.leaf(0x4000_0000, 0) else {
        ironvm_abi_tests::fail!("no leaf 0x40000000");
    };
    let name = [signature.ebx, signature.ecx, signature.edx].map(u32::to_le_bytes);
    ensure_eq!(name.concat(), b"KVMKVMKVM\0\0\0".to_vec(), "signature");
    Ok(())
}

fn supported_cpuid_bad_pointer() -> Outcome {
    let kvm = Kvm::open()?;
    for pointer in [0u64, 0x1000, u64::MAX - 7, 0xffff_8000_0000_0000] {
        ensure_errno!(
            ioctl(&kvm, KVM_GET_SUPPORTED_CPUID, pointer),
            libc::EFAULT,
            "KVM_GET_SUPPORTED_CPUID at {pointer:#x}"
        );
    }
    Ok(())
}

fn emulated_cpuid() -> Outcome {
    let kvm = Kvm::open()?;
    if !kvm.has(KVM_CAP_EXT_EMUL_CPUID) {
        skip!("no KVM_CAP_EXT_EMUL_CPUID");
    }
    lists::get_cpuid(&kvm, KVM_GET_EMULATED_CPUID)?;
    Ok(())
}

fn mce_capability() -> Outcome {
    let kvm = Kvm::open()?;
    let mut value = 0u64;
    ioctl_mut(&kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, &mut value)?;
    // Bit 8: MCG_CTL is present; bit 24: software error recovery.
    ensure!(value & 1 << 8 != 0, "MCG_CTL_P is missing in {value:#x}");
    Ok(())
}
