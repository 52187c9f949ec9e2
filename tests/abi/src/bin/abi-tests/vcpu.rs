// SPDX-License-Identifier: GPL-2.0-or-later

//! A vCPU's creation and its shared area (KVM API document, 4.7, 4.5, section 5).

use std::os::fd::AsRawFd;

use ironvm_abi_tests::fds::Kvm;
use ironvm_abi_tests::guest::Machine;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::sys::{ioctl, Mapping};
use ironvm_abi_tests::{code64, ensure, ensure_eq, ensure_errno, test, Exit, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("vcpu", duplicate_id),
    test!("vcpu", id_too_large),
    test!("vcpu", any_order_of_ids),
    test!("vcpu", mmap_bounds),
    test!("vcpu", unknown_ioctls),
    test!("vcpu", reset_state),
    test!("vcpu", run_without_memory),
    test!("vcpu", run_structure),
    test!("vcpu", hlt_without_irqchip),
    test!("vcpu", runs_in_another_thread),
    test!("vcpu", cpuid_round_trip),
    test!("vcpu", cpuid_after_run),
];

fn duplicate_id() -> Outcome {
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm(0)?;
    let vcpu = vm.create_vcpu(3)?;
    ensure_errno!(vm.create_vcpu(3), libc::EEXIST, "a second vCPU 3");
    // The id stays taken as long as the VM lives.
    drop(vcpu);
    ensure_errno!(vm.create_vcpu(3), libc::EEXIST, "vCPU 3 after its close");
    Ok(())
}

fn id_too_large() -> Outcome {
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm(0)?;
    let limit = kvm.extension(KVM_CAP_MAX_VCPU_ID)? as u64;
    for id in [limit, limit + 1, 0xffff_ffff, 1 << 32, u64::MAX] {
        ensure_errno!(vm.create_vcpu(id), libc::EINVAL, "vCPU {id:#x}");
    }
    vm.create_vcpu(limit - 1)?;
    Ok(())
}

fn any_order_of_ids() -> Outcome {
    let machine = Machine::new()?;
    machine.load(0x8000, code64!("hlt"));
    for id in [7, 2, 30, 0] {
        let vcpu = machine.vcpu(id)?;
        machine.start(&vcpu, ironvm_abi_tests::guest::Paging::Long, 0x8000)?;
        ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit of vCPU {id}");
    }
    Ok(())
}

fn mmap_bounds() -> Outcome {
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm(0)?;
    let fd = vm.create_vcpu(0)?;
    let size = kvm.run_size()?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let map = |length, offset| Mapping::new(length, prot, libc::MAP_SHARED, fd.as_raw_fd(), offset);
    let whole = map(size, 0)?;
    ensure_eq!(whole.read::<u32>(8), 0, "exit reason before the first run");
    // Mapping goes beyond the end, touching does not: that is a SIGBUS.
    let beyond = map(4096, 1 << 30);
    if let Ok(beyond) = beyond {
        let touch = || -> Outcome {
            beyond.read::<u8>(0);
            Ok(())
        };
        let outcome = ironvm_abi_tests::harness::in_child(std::time::Duration::from_secs(5), touch);
        let text = format!("{outcome:?}");
        ensure!(text.contains("signal 7"), "touch beyond the area: {text}");
    }
    // Two mappings are the same memory.
    let again = map(4096, 0)?;
    whole.write(1, 1u8);
    ensure_eq!(again.read::<u8>(1), 1, "immediate_exit in a second mapping");
    Ok(())
}

fn unknown_ioctls() -> Outcome {
    let kvm = Kvm::open()?;
    let vcpu = kvm.create_vm(0)?.create_vcpu(0)?;
    for number in [0x00, 0x0f, 0x43, 0xf0, 0xff] {
        let call = ("unknown ioctl", request(0, number, 0));
        let errno = ioctl(&vcpu, call, 0).map_err(|e| e.number);
        ensure!(
            matches!(errno, Err(libc::ENOTTY | libc::EINVAL)),
            "ioctl {number:#x} gave {errno:?}"
        );
    }
    ensure_errno!(ioctl(&vcpu, KVM_RUN, 1), libc::EINVAL, "KVM_RUN(1)");
    Ok(())
}

/// APM volume 2, table 14-1: processor state after reset.
fn reset_state() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let regs = vcpu.regs()?;
    let sregs = vcpu.sregs()?;
    ensure_eq!(regs.rip, 0xfff0, "RIP");
    ensure_eq!(regs.rflags, 2, "RFLAGS");
    ensure_eq!(sregs.cs.selector, 0xf000, "CS selector");
    ensure_eq!(sregs.cs.base, 0xffff_0000, "CS base");
    ensure_eq!(sregs.cr0, 0x6000_0010, "CR0");
    ensure_eq!(sregs.cr4, 0, "CR4");
    ensure_eq!(sregs.efer, 0, "EFER");
    ensure_eq!(sregs.apic_base & 0xffff_f000, 0xfee0_0000, "APIC base");
    ensure_eq!(sregs.idt.limit, 0xffff, "IDT limit");
    let debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    ensure_eq!(debug.dr6, 0xffff_0ff0, "DR6");
    ensure_eq!(debug.dr7, 0x400, "DR7");
    Ok(())
}

/// The first fetch of a VM without memory is outside all slots.
fn run_without_memory() -> Outcome {
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm(0)?;
    let vcpu = vm.vcpu(&kvm, 0)?;
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(exit, Exit::InternalError(1, _)),
        "exit is {exit:x?}, expected an emulation error"
    );
    Ok(())
}

fn run_structure() -> Outcome {
    let code = code64!("mov al, 1", "out 0x10, al", "sti", "out 0x10, al");
    let (_machine, vcpu) = ironvm_abi_tests::guest::long_mode(code)?;
    vcpu.run_to_done()?;
    ensure!(!vcpu.if_flag(), "if_flag with IF clear");
    ensure_eq!(vcpu.run_apic_base() & 0xffff_f000, 0xfee0_0000, "apic_base");
    ensure_eq!(vcpu.run_cr8(), 0, "cr8");
    vcpu.run_to_done()?;
    ensure!(vcpu.if_flag(), "if_flag with IF set");
    Ok(())
}

fn hlt_without_irqchip() -> Outcome {
    let code = code64!("hlt", "mov eax, 0x1234", "hlt");
    let (_machine, vcpu) = ironvm_abi_tests::guest::long_mode(code)?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "first exit");
    ensure_eq!(vcpu.regs()?.rip, 0x8001, "RIP behind HLT");
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "second exit");
    ensure_eq!(vcpu.regs()?.rax, 0x1234, "RAX");
    Ok(())
}

fn runs_in_another_thread() -> Outcome {
    let code = code64!("2:", "inc rax", "hlt", "jmp 2b");
    let (_machine, vcpu) = ironvm_abi_tests::guest::long_mode(code)?;
    for n in 1..=8u64 {
        let exit = std::thread::scope(|s| s.spawn(|| vcpu.run_on()).join());
        ensure_eq!(exit.unwrap()?, Exit::Hlt, "exit in thread {n}");
        ensure_eq!(vcpu.regs()?.rax, n, "RAX after thread {n}");
    }
    Ok(())
}

fn cpuid_round_trip() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let n = machine.cpuid.entries.len() as u32;
    let got = ironvm_abi_tests::lists::get_cpuid_of(&vcpu, KVM_GET_CPUID2, n)?;
    ensure_eq!(got.entries.len() as u32, n, "leaves");
    let functions = |c: &ironvm_abi_tests::lists::Cpuid| -> Vec<_> {
        c.entries.iter().map(|e| (e.function, e.index)).collect()
    };
    ensure_eq!(functions(&got), functions(&machine.cpuid), "leaves");
    for room in [0, 1, n - 1] {
        let (small, count) =
            ironvm_abi_tests::lists::get_cpuid_and_count(&vcpu, KVM_GET_CPUID2, room);
        ensure_errno!(small, libc::E2BIG, "room for {room} of {n} leaves");
        ensure_eq!(count, room, "count after that");
    }
    let mut many = machine.cpuid.clone();
    many.entries.resize(1000, Default::default());
    ensure_errno!(many.set(&vcpu), libc::E2BIG, "1000 leaves");
    Ok(())
}

/// After the first run CPUID may be set again only to what it is.
fn cpuid_after_run() -> Outcome {
    let (machine, vcpu) = ironvm_abi_tests::guest::long_mode(code64!("hlt"))?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    let mut cpuid = machine.cpuid.clone();
    cpuid.set_apic_id(0);
    cpuid.set(&vcpu)?;
    if let Some(leaf) = cpuid.leaf_mut(0, 0) {
        leaf.eax = 1;
    }
    ensure_errno!(cpuid.set(&vcpu), libc::EINVAL, "another CPUID after a run");
    Ok(())
}
