// SPDX-License-Identifier: GPL-2.0-or-later

//! Memory slots (KVM API document, 4.35).

use ironvm_abi_tests::fds::{Kvm, Vm};
use ironvm_abi_tests::guest::{long_mode, Paging};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::{ioctl, ioctl_ref, Mapping};
use ironvm_abi_tests::{code64, ensure, ensure_eq, ensure_errno, skip, test, Exit, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("memslots", create_and_delete),
    test!("memslots", misaligned),
    test!("memslots", bad_ranges),
    test!("memslots", bad_slot_numbers),
    test!("memslots", unknown_flags),
    test!("memslots", overlap),
    test!("memslots", delete_absent),
    test!("memslots", size_is_fixed),
    test!("memslots", host_address_is_fixed),
    test!("memslots", move_slot),
    test!("memslots", move_under_guest),
    test!("memslots", delete_under_guest),
    test!("memslots", replace_memory),
    test!("memslots", read_only_write_exits),
    test!("memslots", read_only_toggle),
    test!("memslots", many_slots, 60),
    test!("memslots", all_slot_numbers, 60),
    test!("memslots", region2),
    test!("memslots", not_writable_host_memory),
    test!("memslots", unmapped_host_memory),
    test!("memslots", page_crossing_slots),
    test!("memslots", sees_host_writes),
    test!("memslots", above_4g),
    test!("memslots", shared_file_memory),
];

const PAGE: u64 = 4096;
const AT: u64 = 0x1000_0000;

fn empty_vm() -> Result<(Kvm, Vm, Mapping), ironvm_abi_tests::Failure> {
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm(0)?;
    let memory = Mapping::anonymous(64 * PAGE as usize)?;
    Ok((kvm, vm, memory))
}

fn create_and_delete() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    for _ in 0..100 {
        vm.map(5, 0, AT, &memory)?;
        vm.set_memory(5, 0, AT, 0, memory.hva())?;
    }
    // Deleting needs no valid host address.
    vm.map(5, 0, AT, &memory)?;
    vm.set_memory(5, 0, 0, 0, 0)?;
    vm.map(6, 0, AT, &memory)?;
    Ok(())
}

fn misaligned() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    let hva = memory.hva();
    let cases = [
        ("address", vm.set_memory(0, 0, AT + 1, PAGE, hva)),
        ("address", vm.set_memory(0, 0, AT + 0x800, PAGE, hva)),
        ("size", vm.set_memory(0, 0, AT, PAGE + 1, hva)),
        ("size", vm.set_memory(0, 0, AT, 1, hva)),
        ("host address", vm.set_memory(0, 0, AT, PAGE, hva + 1)),
        ("host address", vm.set_memory(0, 0, AT, PAGE, hva + 0x200)),
    ];
    for (what, result) in cases {
        ensure_errno!(result, libc::EINVAL, "misaligned {what}");
    }
    Ok(())
}

fn bad_ranges() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    let hva = memory.hva();
    let top = 0xffff_ffff_ffff_f000;
    let cases = [
        (
            "a range that wraps",
            vm.set_memory(0, 0, top, 2 * PAGE, hva),
        ),
        (
            "a kernel address",
            vm.set_memory(0, 0, AT, PAGE, 0xffff_8880_0000_0000),
        ),
        (
            "the end of user space",
            vm.set_memory(0, 0, AT, 2 * PAGE, 0x7fff_ffff_f000),
        ),
        (
            "a host range that wraps",
            vm.set_memory(0, 0, AT, 2 * PAGE, top),
        ),
        ("2^63 bytes", vm.set_memory(0, 0, 0, 1 << 63, hva)),
    ];
    for (what, result) in cases {
        ensure_errno!(result, libc::EINVAL, "{what}");
    }
    ensure_errno!(
        ioctl(&vm, KVM_SET_USER_MEMORY_REGION, 0),
        libc::EFAULT,
        "null pointer"
    );
    Ok(())
}

fn bad_slot_numbers() -> Outcome {
    let (kvm, vm, memory) = empty_vm()?;
    let limit = kvm.extension(KVM_CAP_NR_MEMSLOTS)? as u32;
    ensure!(limit >= 32, "only {limit} slots");
    ensure_errno!(
        vm.map(limit, 0, AT, &memory),
        libc::EINVAL,
        "slot {limit}, the first beyond"
    );
    ensure_errno!(vm.map(0xffff, 0, AT, &memory), libc::EINVAL, "slot 0xffff");
    let spaces = vm.extension(KVM_CAP_MULTI_ADDRESS_SPACE)?.max(1) as u32;
    ensure_errno!(
        vm.map(spaces << 16, 0, AT, &memory),
        libc::EINVAL,
        "address space {spaces}"
    );
    vm.map(limit - 1, 0, AT, &memory)?;
    Ok(())
}

fn unknown_flags() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    for flag in [1 << 3, 1 << 16, 1 << 31] {
        ensure_errno!(vm.map(0, flag, AT, &memory), libc::EINVAL, "flag {flag:#x}");
    }
    // A guest_memfd slot needs the longer structure.
    ensure_errno!(
        vm.map(0, KVM_MEM_GUEST_MEMFD, AT, &memory),
        libc::EINVAL,
        "KVM_MEM_GUEST_MEMFD by the short structure"
    );
    Ok(())
}

fn overlap() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    let hva = memory.hva();
    vm.set_memory(0, 0, AT, 16 * PAGE, hva)?;
    let cases = [
        ("the same range", AT, 16),
        ("the first page", AT, 1),
        ("the last page", AT + 15 * PAGE, 1),
        ("the middle", AT + 4 * PAGE, 2),
        ("around it", AT - PAGE, 18),
        ("its start", AT - PAGE, 2),
        ("its end", AT + 15 * PAGE, 2),
    ];
    for (what, gpa, pages) in cases {
        let result = vm.set_memory(1, 0, gpa, pages * PAGE, hva);
        ensure_errno!(result, libc::EEXIST, "overlap of {what}");
    }
    vm.set_memory(1, 0, AT - PAGE, PAGE, hva)?;
    vm.set_memory(2, 0, AT + 16 * PAGE, PAGE, hva)?;
    // One host range may be two guest ranges.
    vm.set_memory(3, 0, AT + 32 * PAGE, 16 * PAGE, hva)?;
    Ok(())
}

fn delete_absent() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    ensure_errno!(
        vm.set_memory(0, 0, AT, 0, memory.hva()),
        libc::EINVAL,
        "size 0 of a slot that is not there"
    );
    Ok(())
}

fn size_is_fixed() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    vm.set_memory(0, 0, AT, 4 * PAGE, memory.hva())?;
    for pages in [1, 3, 5] {
        ensure_errno!(
            vm.set_memory(0, 0, AT, pages * PAGE, memory.hva()),
            libc::EINVAL,
            "{pages} pages for 4"
        );
    }
    // The very same once more is no change and no error.
    vm.set_memory(0, 0, AT, 4 * PAGE, memory.hva())?;
    Ok(())
}

fn host_address_is_fixed() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    vm.set_memory(0, 0, AT, 4 * PAGE, memory.hva())?;
    ensure_errno!(
        vm.set_memory(0, 0, AT, 4 * PAGE, memory.hva() + PAGE),
        libc::EINVAL,
        "another host address"
    );
    Ok(())
}

fn move_slot() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    let hva = memory.hva();
    vm.set_memory(0, 0, AT, 4 * PAGE, hva)?;
    vm.set_memory(1, 0, AT + 8 * PAGE, 4 * PAGE, hva)?;
    ensure_errno!(
        vm.set_memory(0, 0, AT + 6 * PAGE, 4 * PAGE, hva),
        libc::EEXIST,
        "move onto another slot"
    );
    // A slot may overlap where it was itself.
    vm.set_memory(0, 0, AT + 2 * PAGE, 4 * PAGE, hva)?;
    vm.set_memory(2, 0, AT, 2 * PAGE, hva)?;
    Ok(())
}

/// Reads eight bytes at RSI, leaves, and again.
fn reader() -> &'static [u8] {
    code64!("2:", "mov rax, [rsi]", "out 0x10, al", "jmp 2b")
}

fn move_under_guest() -> Outcome {
    let (machine, vcpu) = long_mode(reader())?;
    let memory = Mapping::anonymous(PAGE as usize)?;
    memory.write(0, 0x1122_3344_5566_7788u64);
    machine.vm.map(1, 0, AT, &memory)?;
    vcpu.change_regs(|r| r.rsi = AT)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 0x1122_3344_5566_7788, "value before");
    machine.vm.map(1, 0, AT + PAGE, &memory)?;
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(&exit, Exit::Mmio(m) if m.address == AT && !m.write && m.length == 8),
        "exit at the old place is {exit:x?}"
    );
    vcpu.set_mmio_data(7);
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 7, "value of the MMIO read");
    vcpu.change_regs(|r| r.rsi = AT + PAGE)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 0x1122_3344_5566_7788, "value after");
    Ok(())
}

fn delete_under_guest() -> Outcome {
    let (machine, vcpu) = long_mode(reader())?;
    let memory = Mapping::anonymous(PAGE as usize)?;
    vcpu.change_regs(|r| r.rsi = AT)?;
    for round in 0..20u64 {
        machine.vm.map(1, 0, AT, &memory)?;
        memory.write(0, round);
        vcpu.run_to_done()?;
        ensure_eq!(vcpu.regs()?.rax, round, "value of round {round}");
        machine.vm.set_memory(1, 0, AT, 0, 0)?;
        let exit = vcpu.run_on()?;
        ensure!(
            matches!(exit, Exit::Mmio(_)),
            "exit without the slot: {exit:x?}"
        );
        vcpu.set_mmio_data(round + 100);
        vcpu.run_to_done()?;
        ensure_eq!(vcpu.regs()?.rax, round + 100, "MMIO value of round {round}");
    }
    Ok(())
}

/// Other memory at the same guest address must be what the guest sees at once.
fn replace_memory() -> Outcome {
    let (machine, vcpu) = long_mode(reader())?;
    let memory = [
        Mapping::anonymous(PAGE as usize)?,
        Mapping::anonymous(PAGE as usize)?,
    ];
    memory[0].write(0, 0xaaaau64);
    memory[1].write(0, 0xbbbbu64);
    vcpu.change_regs(|r| r.rsi = AT)?;
    for round in 0..20 {
        machine.vm.map(1, 0, AT, &memory[round % 2])?;
        vcpu.run_to_done()?;
        let want = [0xaaaa, 0xbbbb][round % 2];
        ensure_eq!(vcpu.regs()?.rax, want, "value of round {round}");
        machine.vm.set_memory(1, 0, AT, 0, 0)?;
    }
    Ok(())
}

fn read_only_write_exits() -> Outcome {
    let code = code64!(
        "mov rax, [rsi]",
        "out 0x10, al",
        "mov dword ptr [rsi + 4], 0x12345678",
        "mov rax, [rsi]",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    let memory = Mapping::anonymous(PAGE as usize)?;
    memory.write(0, 0x5555_6666_7777_8888u64);
    machine.vm.map(1, KVM_MEM_READONLY, AT, &memory)?;
    vcpu.change_regs(|r| r.rsi = AT)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 0x5555_6666_7777_8888, "value read");
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(&exit, Exit::Mmio(m) if m.write && m.address == AT + 4
            && m.length == 4 && m.value() == 0x1234_5678),
        "exit of the write is {exit:x?}"
    );
    vcpu.run_to_done()?;
    ensure_eq!(
        vcpu.regs()?.rax,
        0x5555_6666_7777_8888,
        "value after the write"
    );
    Ok(())
}

fn read_only_toggle() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    vm.map(0, 0, AT, &memory)?;
    ensure_errno!(
        vm.map(0, KVM_MEM_READONLY, AT, &memory),
        libc::EINVAL,
        "a slot made read-only"
    );
    vm.map(0, KVM_MEM_LOG_DIRTY_PAGES, AT, &memory)?;
    vm.map(0, 0, AT, &memory)?;
    Ok(())
}

/// Every other page of a range as a slot of its own, then the guest reads all.
fn many_slots() -> Outcome {
    const COUNT: u64 = 500;
    let code = code64!(
        "2:",
        "mov rax, [rsi]",
        "add rbx, rax",
        "add rsi, 8192",
        "dec ecx",
        "jnz 2b",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    let memory = Mapping::anonymous((COUNT * PAGE) as usize)?;
    // Not in order, so that the order of creation cannot be the order of addresses.
    for i in 0..COUNT {
        let i = i * 7 % COUNT;
        memory.write((i * PAGE) as usize, i + 1);
        let gpa = AT + 2 * i * PAGE;
        let slot = 1 + i as u32;
        machine
            .vm
            .set_memory(slot, 0, gpa, PAGE, memory.hva() + i * PAGE)?;
    }
    vcpu.change_regs(|r| {
        r.rsi = AT;
        r.rcx = COUNT;
    })?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rbx, COUNT * (COUNT + 1) / 2, "sum");
    Ok(())
}

fn all_slot_numbers() -> Outcome {
    let (kvm, vm, memory) = empty_vm()?;
    let limit = (kvm.extension(KVM_CAP_NR_MEMSLOTS)? as u64).min(2048);
    for i in 0..limit {
        vm.set_memory(i as u32, 0, AT + i * PAGE, PAGE, memory.hva())?;
    }
    for i in 0..limit {
        vm.set_memory(i as u32, 0, 0, 0, 0)?;
    }
    vm.map(0, 0, AT, &memory)?;
    Ok(())
}

fn region2() -> Outcome {
    let (_kvm, vm, memory) = empty_vm()?;
    if !vm.has(KVM_CAP_USER_MEMORY2) {
        skip!("no KVM_CAP_USER_MEMORY2");
    }
    let mut region = kvm_userspace_memory_region2 {
        slot: 1,
        guest_phys_addr: AT,
        memory_size: memory.len() as u64,
        userspace_addr: memory.hva(),
        ..Default::default()
    };
    ioctl_ref(&vm, KVM_SET_USER_MEMORY_REGION2, &region)?;
    ensure_errno!(vm.map(2, 0, AT, &memory), libc::EEXIST, "overlap");
    region.memory_size = 0;
    ioctl_ref(&vm, KVM_SET_USER_MEMORY_REGION2, &region)?;
    vm.map(2, 0, AT, &memory)?;
    Ok(())
}

/// Memory that the VMM itself may not write: the guest reads it, a write fails with `EFAULT`.
fn not_writable_host_memory() -> Outcome {
    let code = code64!(
        "mov rax, [rsi]",
        "out 0x10, al",
        "inc rax",
        "mov [rsi], rax",
        "out 0x10, al"
    );
    let (machine, vcpu) = long_mode(code)?;
    let memory = Mapping::anonymous(PAGE as usize)?;
    memory.write(0, 99u64);
    memory.protect(0, PAGE as usize, libc::PROT_READ)?;
    machine.vm.map(1, 0, AT, &memory)?;
    vcpu.change_regs(|r| r.rsi = AT)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 99, "value read");
    ensure_errno!(vcpu.run(), libc::EFAULT, "a write to it");
    // Made writable, the guest goes on where it was.
    memory.protect(0, PAGE as usize, libc::PROT_READ | libc::PROT_WRITE)?;
    vcpu.run_to_done()?;
    ensure_eq!(memory.read::<u64>(0), 100, "value written");
    Ok(())
}

fn unmapped_host_memory() -> Outcome {
    let (machine, vcpu) = long_mode(reader())?;
    let memory = Mapping::anonymous(2 * PAGE as usize)?;
    machine.vm.map(1, 0, AT, &memory)?;
    drop(memory);
    vcpu.change_regs(|r| r.rsi = AT)?;
    ensure_errno!(vcpu.run(), libc::EFAULT, "a read of unmapped memory");
    Ok(())
}

/// An access over the border of two slots is one access.
fn page_crossing_slots() -> Outcome {
    let code = code64!(
        "mov rax, [rsi]",
        "not rax",
        "mov [rsi], rax",
        "out 0x10, al"
    );
    let (machine, vcpu) = long_mode(code)?;
    let memory = Mapping::anonymous(2 * PAGE as usize)?;
    // Their order in the host is the other way round.
    machine.vm.set_memory(1, 0, AT, PAGE, memory.hva() + PAGE)?;
    machine.vm.set_memory(2, 0, AT + PAGE, PAGE, memory.hva())?;
    memory.write(2 * PAGE as usize - 4, 0x1111_2222u32);
    memory.write(0, 0x3333_4444u32);
    vcpu.change_regs(|r| r.rsi = AT + PAGE - 4)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, !0x3333_4444_1111_2222, "value");
    ensure_eq!(memory.read::<u32>(0), !0x3333_4444u32, "upper half");
    Ok(())
}

fn sees_host_writes() -> Outcome {
    let (machine, vcpu) = long_mode(reader())?;
    let memory = Mapping::anonymous(PAGE as usize)?;
    machine.vm.map(1, 0, AT, &memory)?;
    vcpu.change_regs(|r| r.rsi = AT)?;
    // The first read maps the shared page of zeroes; the write after it gives it a page of its own.
    for value in [0, 1, 2, 3u64] {
        if value > 0 {
            memory.write(0, value);
        }
        vcpu.run_to_done()?;
        ensure_eq!(vcpu.regs()?.rax, value, "value read");
    }
    memory.advise(0, PAGE as usize, libc::MADV_DONTNEED)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 0, "value after MADV_DONTNEED");
    Ok(())
}

fn above_4g() -> Outcome {
    let (machine, vcpu) = long_mode(reader())?;
    let memory = Mapping::anonymous(PAGE as usize)?;
    memory.write(0, 0x4242u64);
    let gpa = 0x12_3456_7000u64;
    machine.vm.map(1, 0, gpa, &memory)?;
    // A 4 KiB page of the low table is pointed there.
    let entry = Paging::Long.entry_address(DATA2);
    machine.write(entry, gpa | PTE_P | PTE_W);
    vcpu.change_regs(|r| r.rsi = DATA2)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 0x4242, "value read above 4 GiB");
    Ok(())
}

fn shared_file_memory() -> Outcome {
    let code = code64!("inc qword ptr [rsi]", "out 0x10, al");
    let (machine, vcpu) = long_mode(code)?;
    // SAFETY: a constant name that ends in a zero byte.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    let fd = ironvm_abi_tests::sys::own_fd(ironvm_abi_tests::sys::check(
        "memfd_create",
        i64::from(fd),
    )? as i32);
    use std::os::fd::AsRawFd;
    // SAFETY: a system call on plain numbers.
    unsafe { libc::ftruncate(fd.as_raw_fd(), PAGE as i64) };
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let shared = || Mapping::new(PAGE as usize, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0);
    let (first, second) = (shared()?, shared()?);
    second.write(0, 41u64);
    machine.vm.map(1, 0, AT, &first)?;
    vcpu.change_regs(|r| r.rsi = AT)?;
    vcpu.run_to_done()?;
    ensure_eq!(second.read::<u64>(0), 42, "value in the other mapping");
    Ok(())
}
