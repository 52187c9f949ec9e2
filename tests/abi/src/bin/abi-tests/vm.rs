// SPDX-License-Identifier: GPL-2.0-or-later

//! A VM's creation and what its descriptor refuses (KVM API document, 4.2, 4.7).

use std::os::fd::AsRawFd;

use ironvm_abi_tests::fds::Kvm;
use ironvm_abi_tests::guest::Machine;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::sys::{ioctl, Mapping};
use ironvm_abi_tests::{ensure_eq, ensure_errno, skip, test, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("vm", create_many),
    test!("vm", unknown_types),
    test!("vm", unknown_ioctls),
    test!("vm", has_no_mmap),
    test!("vm", lives_on_without_device),
    test!("vm", other_process_is_refused),
    test!("vm", set_tss_addr),
    test!("vm", set_identity_map_addr),
    test!("vm", identity_map_after_vcpu),
    test!("vm", enable_cap_errors),
    test!("vm", split_irqchip_errors),
    test!("vm", boot_cpu_id),
    test!("vm", largest_vcpu_id),
    test!("vm", nr_mmu_pages),
];

fn create_many() -> Outcome {
    let kvm = Kvm::open()?;
    let vms: Result<Vec<_>, _> = (0..64).map(|_| kvm.create_vm(0)).collect();
    ensure_eq!(vms?.len(), 64, "VMs");
    Ok(())
}

fn unknown_types() -> Outcome {
    let kvm = Kvm::open()?;
    let types = kvm.extension(KVM_CAP_VM_TYPES)?.max(1) as u32;
    for kind in 0..32u64 {
        if types & 1 << kind == 0 {
            ensure_errno!(kvm.create_vm(kind), libc::EINVAL, "VM of type {kind}");
        }
    }
    for kind in [32, 0xff, 0x8000_0000, 1 << 32, u64::MAX] {
        ensure_errno!(kvm.create_vm(kind), libc::EINVAL, "VM of type {kind:#x}");
    }
    Ok(())
}

fn unknown_ioctls() -> Outcome {
    let vm = Kvm::open()?.create_vm(0)?;
    for number in [0x00, 0x0f, 0x43, 0xf0, 0xff] {
        let call = ("unknown ioctl", request(0, number, 0));
        ensure_errno!(ioctl(&vm, call, 0), libc::ENOTTY, "ioctl {number:#x}");
    }
    for call in [KVM_RUN, KVM_GET_REGS, KVM_GET_API_VERSION, KVM_CREATE_VM] {
        ensure_errno!(ioctl(&vm, call, 0), libc::ENOTTY, "{} on a VM", call.0);
    }
    Ok(())
}

fn has_no_mmap() -> Outcome {
    let vm = Kvm::open()?.create_vm(0)?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let map = Mapping::new(4096, prot, libc::MAP_SHARED, vm.as_raw_fd(), 0);
    ensure_errno!(map, libc::ENODEV, "mmap of a VM");
    Ok(())
}

/// A VM needs neither `/dev/kvm` open nor its own descriptor while a vCPU is there.
fn lives_on_without_device() -> Outcome {
    let code = ironvm_abi_tests::code64!("hlt");
    let (machine, vcpu) = ironvm_abi_tests::guest::long_mode(code)?;
    let Machine {
        kvm, vm, memory, ..
    } = machine;
    drop(kvm);
    drop(vm);
    let exit = vcpu.run_on()?;
    ensure_eq!(exit, ironvm_abi_tests::Exit::Hlt, "exit");
    drop(memory);
    Ok(())
}

/// The memory is that of the process that made the VM; any other gets `EIO`.
fn other_process_is_refused() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, ironvm_abi_tests::code64!("hlt"))?;
    let child = || -> Outcome {
        ensure_errno!(machine.vm.create_vcpu(1), libc::EIO, "CREATE_VCPU");
        ensure_errno!(vcpu.run(), libc::EIO, "KVM_RUN");
        ensure_errno!(vcpu.regs(), libc::EIO, "KVM_GET_REGS");
        Ok(())
    };
    ironvm_abi_tests::harness::in_child(std::time::Duration::from_secs(10), child)?;
    ensure_eq!(vcpu.run_on()?, ironvm_abi_tests::Exit::Hlt, "exit");
    Ok(())
}

fn set_tss_addr() -> Outcome {
    let vm = Kvm::open()?.create_vm(0)?;
    ioctl(&vm, KVM_SET_TSS_ADDR, 0xfffb_d000)?;
    // Three pages below 4 GiB.
    ensure_errno!(
        ioctl(&vm, KVM_SET_TSS_ADDR, 0xffff_e000),
        libc::EINVAL,
        "TSS at the last two pages below 4 GiB"
    );
    Ok(())
}

fn set_identity_map_addr() -> Outcome {
    let vm = Kvm::open()?.create_vm(0)?;
    vm.set(KVM_SET_IDENTITY_MAP_ADDR, &0xfffb_c000u64)?;
    vm.set(KVM_SET_IDENTITY_MAP_ADDR, &0u64)?;
    ensure_errno!(
        ioctl(&vm, KVM_SET_IDENTITY_MAP_ADDR, 0),
        libc::EFAULT,
        "null pointer"
    );
    Ok(())
}

fn identity_map_after_vcpu() -> Outcome {
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm(0)?;
    let _vcpu = vm.vcpu(&kvm, 0)?;
    ensure_errno!(
        vm.set(KVM_SET_IDENTITY_MAP_ADDR, &0xfffb_c000u64),
        libc::EINVAL,
        "KVM_SET_IDENTITY_MAP_ADDR after a vCPU"
    );
    Ok(())
}

fn enable_cap_errors() -> Outcome {
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm(0)?;
    for capability in [5, 1000, 0xffff_ffff] {
        ensure_errno!(
            vm.enable(capability, &[]),
            libc::EINVAL,
            "KVM_ENABLE_CAP {capability}"
        );
    }
    // A capability that is not one to enable.
    ensure_errno!(
        vm.enable(KVM_CAP_USER_MEMORY, &[]),
        libc::EINVAL,
        "KVM_ENABLE_CAP of KVM_CAP_USER_MEMORY"
    );
    let flags = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        flags: 1,
        args: [24, 0, 0, 0],
        ..Default::default()
    };
    ensure_errno!(
        vm.set(KVM_ENABLE_CAP, &flags),
        libc::EINVAL,
        "KVM_ENABLE_CAP with flags"
    );
    ensure_errno!(ioctl(&vm, KVM_ENABLE_CAP, 0), libc::EFAULT, "null pointer");
    let vcpu = vm.vcpu(&kvm, 0)?;
    ensure_errno!(
        vcpu.enable(1000, &[]),
        libc::EINVAL,
        "KVM_ENABLE_CAP 1000 on a vCPU"
    );
    Ok(())
}

fn split_irqchip_errors() -> Outcome {
    let kvm = Kvm::open()?;
    if !kvm.has(KVM_CAP_SPLIT_IRQCHIP) {
        skip!("no KVM_CAP_SPLIT_IRQCHIP");
    }
    let vm = kvm.create_vm(0)?;
    ensure_errno!(
        vm.enable(KVM_CAP_SPLIT_IRQCHIP, &[100_000]),
        libc::EINVAL,
        "100000 pins"
    );
    vm.enable(KVM_CAP_SPLIT_IRQCHIP, &[24])?;
    ensure_errno!(
        vm.enable(KVM_CAP_SPLIT_IRQCHIP, &[24]),
        libc::EEXIST,
        "a second time"
    );
    ensure_errno!(vm.create_irqchip(), libc::EEXIST, "full irqchip after it");
    let late = kvm.create_vm(0)?;
    let _vcpu = late.vcpu(&kvm, 0)?;
    ensure_errno!(
        late.enable(KVM_CAP_SPLIT_IRQCHIP, &[24]),
        libc::EEXIST,
        "after a vCPU"
    );
    Ok(())
}

fn boot_cpu_id() -> Outcome {
    let kvm = Kvm::open()?;
    if !kvm.has(KVM_CAP_SET_BOOT_CPU_ID) {
        skip!("no KVM_CAP_SET_BOOT_CPU_ID");
    }
    let vm = kvm.create_vm(0)?;
    vm.create_irqchip()?;
    ioctl(&vm, KVM_SET_BOOT_CPU_ID, 1)?;
    let first = vm.vcpu(&kvm, 0)?;
    ensure_errno!(
        ioctl(&vm, KVM_SET_BOOT_CPU_ID, 0),
        libc::EBUSY,
        "after a vCPU"
    );
    let second = vm.vcpu(&kvm, 1)?;
    let state = |v: &ironvm_abi_tests::Vcpu| v.get::<kvm_mp_state>(KVM_GET_MP_STATE);
    ensure_eq!(
        state(&first)?.mp_state,
        KVM_MP_STATE_UNINITIALIZED,
        "state of vCPU 0"
    );
    ensure_eq!(
        state(&second)?.mp_state,
        KVM_MP_STATE_RUNNABLE,
        "state of vCPU 1"
    );
    Ok(())
}

/// A VMM says once which ids its vCPUs will have (`KVM_CAP_MAX_VCPU_ID`, enabled).
fn largest_vcpu_id() -> Outcome {
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm(0)?;
    let most = vm.extension(KVM_CAP_MAX_VCPU_ID)? as u64;
    let limit = |ids: u64| vm.enable(KVM_CAP_MAX_VCPU_ID, &[ids]);
    ensure_errno!(limit(most + 1), libc::EINVAL, "{} ids", most + 1);
    ioctl(&vm, KVM_SET_BOOT_CPU_ID, 8)?;
    ensure_errno!(limit(7), libc::EINVAL, "7 ids with boot vCPU 8");
    limit(10)?;
    limit(10)?;
    for other in [0, 9, 11] {
        ensure_errno!(limit(other), libc::EINVAL, "{other} ids after 10");
    }
    ensure_errno!(
        ioctl(&vm, KVM_SET_BOOT_CPU_ID, 11),
        libc::EINVAL,
        "boot vCPU 11"
    );
    ensure_errno!(ioctl(&vm, KVM_CREATE_VCPU, 10), libc::EINVAL, "vCPU 10");
    vm.vcpu(&kvm, 9)?;
    Ok(())
}

fn nr_mmu_pages() -> Outcome {
    let vm = Kvm::open()?.create_vm(0)?;
    ensure_errno!(
        ioctl(&vm, KVM_SET_NR_MMU_PAGES, 1),
        libc::EINVAL,
        "one MMU page"
    );
    ioctl(&vm, KVM_SET_NR_MMU_PAGES, 1000)?;
    let got = ioctl(&vm, KVM_GET_NR_MMU_PAGES, 0);
    // The getter was deprecated; either answer is one that clients know.
    match got {
        Ok(n) => ensure_eq!(n, 1000, "MMU pages"),
        Err(e) => ensure_eq!(e.number, libc::ENOTTY, "errno of GET_NR_MMU_PAGES"),
    }
    Ok(())
}
