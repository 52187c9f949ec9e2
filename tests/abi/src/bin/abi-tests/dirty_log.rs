// SPDX-License-Identifier: GPL-2.0-or-later

//! The log of pages that the guest writes (KVM API document, 4.8, 4.117).

use ironvm_abi_tests::guest::{long_mode, Machine};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::{ioctl_mut, Mapping};
use ironvm_abi_tests::{
    code64, ensure, ensure_eq, ensure_errno, skip, test, Failure, Outcome, Vcpu,
};
use kvm_bindings::*;

mod complete;

pub const COMPLETE: &[Test] = complete::TESTS;

pub const TESTS: &[Test] = &[
    test!("dirty_log", written_pages_only),
    test!("dirty_log", reading_clears_and_writes_set_again),
    test!("dirty_log", clean_after_start),
    test!("dirty_log", switched_on_late),
    test!("dirty_log", switched_off_and_on),
    test!("dirty_log", huge_pages_are_logged_small, 60),
    test!("dirty_log", writes_of_the_module),
    test!("dirty_log", odd_number_of_pages),
    test!("dirty_log", errors),
    test!("dirty_log", accessed_and_dirty_bits_of_guest_tables),
    test!("dirty_log", manual_clear),
    test!("dirty_log", ring_cap_is_sane),
];

const PAGE: u64 = 4096;
const AT: u64 = 0x1000_0000;
const PAGES: usize = 200;

/// Writes ECX pages from RSI on, RDX bytes apart, then says done; and again.
fn writer() -> &'static [u8] {
    code64!(
        "2:",
        "inc qword ptr [rsi]",
        "add rsi, rdx",
        "dec ecx",
        "jnz 2b",
        "out 0x10, al",
        "jmp 2b",
    )
}

fn logged(pages: usize, flags: u32) -> Result<(Machine, Vcpu, Mapping), Failure> {
    let (machine, vcpu) = long_mode(writer())?;
    let memory = Mapping::aligned(pages * PAGE as usize, 2 << 20)?;
    machine.vm.map(1, flags, AT, &memory)?;
    Ok((machine, vcpu, memory))
}

fn write_pages(vcpu: &Vcpu, first: u64, count: u64, step: u64) -> Outcome {
    vcpu.change_regs(|r| {
        r.rip = CODE;
        (r.rsi, r.rcx, r.rdx) = (AT + first * PAGE, count, step * PAGE);
    })?;
    vcpu.run_to_done()
}

fn set_bits(bitmap: &[u64]) -> Vec<usize> {
    let bit = |i: &usize| bitmap[i / 64] & 1 << (i % 64) != 0;
    (0..bitmap.len() * 64).filter(bit).collect()
}

fn dirty(machine: &Machine, pages: usize) -> Result<Vec<usize>, Failure> {
    Ok(set_bits(&machine.vm.dirty_log(1, pages)?))
}

fn written_pages_only() -> Outcome {
    let (machine, vcpu, _memory) = logged(PAGES, KVM_MEM_LOG_DIRTY_PAGES)?;
    write_pages(&vcpu, 3, 20, 7)?;
    let want: Vec<usize> = (0..20).map(|i| 3 + 7 * i).collect();
    ensure_eq!(dirty(&machine, PAGES)?, want, "dirty pages");
    Ok(())
}

fn reading_clears_and_writes_set_again() -> Outcome {
    let (machine, vcpu, _memory) = logged(PAGES, KVM_MEM_LOG_DIRTY_PAGES)?;
    for round in 0..10u64 {
        write_pages(&vcpu, round, 3, 50)?;
        let first = round as usize;
        ensure_eq!(
            dirty(&machine, PAGES)?,
            vec![first, first + 50, first + 100],
            "dirty pages of round {round}"
        );
        ensure_eq!(dirty(&machine, PAGES)?, vec![], "dirty pages after reading");
        // The same once more: it was clean, and must be logged anew.
        write_pages(&vcpu, round, 1, 1)?;
        ensure_eq!(dirty(&machine, PAGES)?, vec![first], "written again");
    }
    Ok(())
}

fn clean_after_start() -> Outcome {
    let (machine, vcpu, memory) = logged(PAGES, KVM_MEM_LOG_DIRTY_PAGES)?;
    ensure_eq!(dirty(&machine, PAGES)?, vec![], "dirty pages at start");
    // What the host writes is not the guest's.
    memory.write(0, 1u64);
    ensure_eq!(
        dirty(&machine, PAGES)?,
        vec![],
        "dirty pages after the host's write"
    );
    // A read may make dirty: KVM maps a page that it may write at once.
    machine.load(CODE2, code64!("mov rax, [rsi]", "out 0x10, al"));
    vcpu.change_regs(|r| (r.rip, r.rsi) = (CODE2, AT))?;
    vcpu.run_to_done()?;
    let bits = dirty(&machine, PAGES)?;
    ensure!(
        bits.is_empty() || bits == [0],
        "dirty pages after a read: {bits:?}"
    );
    Ok(())
}

/// Pages that the guest could write before must not stay writable unseen.
fn switched_on_late() -> Outcome {
    let (machine, vcpu, memory) = logged(PAGES, 0)?;
    write_pages(&vcpu, 0, PAGES as u64, 1)?;
    ensure_errno!(
        machine.vm.dirty_log(1, PAGES),
        libc::ENOENT,
        "log of a slot without one"
    );
    machine.vm.map(1, KVM_MEM_LOG_DIRTY_PAGES, AT, &memory)?;
    dirty(&machine, PAGES)?;
    write_pages(&vcpu, 5, 2, 100)?;
    ensure_eq!(dirty(&machine, PAGES)?, vec![5, 105], "dirty pages");
    Ok(())
}

fn switched_off_and_on() -> Outcome {
    let (machine, vcpu, memory) = logged(PAGES, KVM_MEM_LOG_DIRTY_PAGES)?;
    for round in 0..5 {
        write_pages(&vcpu, round, 1, 1)?;
        machine.vm.map(1, 0, AT, &memory)?;
        write_pages(&vcpu, 0, PAGES as u64, 1)?;
        machine.vm.map(1, KVM_MEM_LOG_DIRTY_PAGES, AT, &memory)?;
        dirty(&machine, PAGES)?;
        write_pages(&vcpu, 20 + round, 1, 1)?;
        let want = vec![20 + round as usize];
        ensure_eq!(
            dirty(&machine, PAGES)?,
            want,
            "dirty pages of round {round}"
        );
    }
    Ok(())
}

/// Memory in huge pages, mapped huge before the log is switched on: one small page is one bit.
fn huge_pages_are_logged_small() -> Outcome {
    let pages = 2048;
    let (machine, vcpu, memory) = logged(pages, 0)?;
    memory.advise(0, memory.len(), libc::MADV_HUGEPAGE)?;
    write_pages(&vcpu, 0, pages as u64, 1)?;
    machine.vm.map(1, KVM_MEM_LOG_DIRTY_PAGES, AT, &memory)?;
    dirty(&machine, pages)?;
    write_pages(&vcpu, 700, 2, 1000)?;
    ensure_eq!(dirty(&machine, pages)?, vec![700, 1700], "dirty pages");
    write_pages(&vcpu, 701, 1, 1)?;
    ensure_eq!(dirty(&machine, pages)?, vec![701], "dirty pages");
    // Off again: huge leaves may come back, and the contents are what was written.
    machine.vm.map(1, 0, AT, &memory)?;
    write_pages(&vcpu, 0, pages as u64, 1)?;
    ensure_eq!(
        memory.read::<u64>(700 * PAGE as usize),
        3,
        "count in page 700"
    );
    ensure_eq!(
        memory.read::<u64>(699 * PAGE as usize),
        2,
        "count in page 699"
    );
    Ok(())
}

/// What an emulated instruction writes is logged too: INS into the slot.
fn writes_of_the_module() -> Outcome {
    let (machine, vcpu, memory) = logged(PAGES, KVM_MEM_LOG_DIRTY_PAGES)?;
    machine.load(CODE2, code64!("insb", "out 0x10, al"));
    vcpu.change_regs(|r| (r.rip, r.rdi, r.rdx) = (CODE2, AT + 9 * PAGE, 0x80))?;
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(&exit, ironvm_abi_tests::Exit::Io(io) if !io.out),
        "exit is {exit:x?}"
    );
    vcpu.set_io_data(&[7]);
    vcpu.run_to_done()?;
    ensure_eq!(memory.read::<u8>(9 * PAGE as usize), 7, "byte");
    ensure_eq!(dirty(&machine, PAGES)?, vec![9], "dirty pages");
    Ok(())
}

/// The bitmap is whole words; nothing is written behind it.
fn odd_number_of_pages() -> Outcome {
    for pages in [1usize, 63, 64, 65] {
        let (machine, vcpu, _memory) = logged(pages, KVM_MEM_LOG_DIRTY_PAGES)?;
        write_pages(&vcpu, pages as u64 - 1, 1, 1)?;
        let mut bitmap = vec![u64::MAX; pages.div_ceil(64) + 1];
        let mut log = kvm_dirty_log {
            slot: 1,
            ..Default::default()
        };
        log.__bindgen_anon_1.dirty_bitmap = bitmap.as_mut_ptr().cast();
        machine.vm.set(KVM_GET_DIRTY_LOG, &log)?;
        let words = pages.div_ceil(64);
        ensure_eq!(set_bits(&bitmap[..words]), vec![pages - 1], "{pages} pages");
        ensure_eq!(bitmap[words], u64::MAX, "word behind the bitmap");
    }
    Ok(())
}

fn errors() -> Outcome {
    let (machine, vcpu, _memory) = logged(PAGES, KVM_MEM_LOG_DIRTY_PAGES)?;
    ensure_errno!(machine.vm.dirty_log(7, PAGES), libc::ENOENT, "no such slot");
    ensure_errno!(machine.vm.dirty_log(0xffff, 1), libc::EINVAL, "slot 0xffff");
    ensure_errno!(
        machine.vm.dirty_log(0x50_0001, 1),
        libc::EINVAL,
        "space 0x50"
    );
    write_pages(&vcpu, 4, 1, 1)?;
    let mut log = kvm_dirty_log {
        slot: 1,
        ..Default::default()
    };
    log.__bindgen_anon_1.padding2 = 8;
    let result = machine.vm.set(KVM_GET_DIRTY_LOG, &log);
    ensure_errno!(result, libc::EFAULT, "bad bitmap pointer");
    Ok(())
}

/// The processor's own writes into the guest's page tables are writes of the guest.
fn accessed_and_dirty_bits_of_guest_tables() -> Outcome {
    let (machine, vcpu, _memory) = logged(PAGES, 0)?;
    write_pages(&vcpu, 0, 1, 1)?;
    machine
        .vm
        .set_memory(0, KVM_MEM_LOG_DIRTY_PAGES, 0, MEMORY, machine.memory.hva())?;
    let pages = (MEMORY / PAGE) as usize;
    machine.vm.dirty_log(0, pages)?;
    let entry = ironvm_abi_tests::guest::Paging::Long.entry_address(DATA2);
    machine.write(entry, DATA2 | PTE_P | PTE_W);
    vcpu.change_regs(|r| {
        r.rip = CODE;
        (r.rsi, r.rcx, r.rdx) = (DATA2, 1, 0);
    })?;
    vcpu.run_to_done()?;
    let bits = set_bits(&machine.vm.dirty_log(0, pages)?);
    ensure!(
        bits.contains(&((DATA2 / PAGE) as usize)),
        "data page in {bits:x?}"
    );
    ensure!(
        bits.contains(&((entry / PAGE) as usize)),
        "table page in {bits:x?}"
    );
    ensure_eq!(machine.read::<u64>(entry) >> 5 & 3, 3, "accessed and dirty");
    Ok(())
}

fn manual_clear() -> Outcome {
    let (machine, vcpu, memory) = logged(PAGES, 0)?;
    if machine.vm.extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)? & 1 == 0 {
        skip!("no KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
    }
    machine.vm.enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, &[1])?;
    machine.vm.map(1, KVM_MEM_LOG_DIRTY_PAGES, AT, &memory)?;
    write_pages(&vcpu, 0, 3, 64)?;
    ensure_eq!(dirty(&machine, PAGES)?, vec![0, 64, 128], "dirty pages");
    ensure_eq!(
        dirty(&machine, PAGES)?,
        vec![0, 64, 128],
        "reading does not clear"
    );
    let mut bitmap = [1u64];
    let mut clear = kvm_clear_dirty_log {
        slot: 1,
        num_pages: 64,
        first_page: 64,
        ..Default::default()
    };
    clear.__bindgen_anon_1.dirty_bitmap = bitmap.as_mut_ptr().cast();
    ioctl_mut(&machine.vm, KVM_CLEAR_DIRTY_LOG, &mut clear)?;
    ensure_eq!(
        dirty(&machine, PAGES)?,
        vec![0, 128],
        "dirty pages after clearing"
    );
    write_pages(&vcpu, 64, 1, 1)?;
    ensure_eq!(dirty(&machine, PAGES)?, vec![0, 64, 128], "written again");
    clear.first_page = 1;
    let result = ioctl_mut(&machine.vm, KVM_CLEAR_DIRTY_LOG, &mut clear);
    ensure_errno!(result, libc::EINVAL, "first page not a multiple of 64");
    Ok(())
}

/// If the ring is offered, its size must be a number that can be asked for.
fn ring_cap_is_sane() -> Outcome {
    let machine = Machine::new()?;
    let size = machine.vm.extension(KVM_CAP_DIRTY_LOG_RING_ACQ_REL)?;
    if size == 0 {
        skip!("no KVM_CAP_DIRTY_LOG_RING_ACQ_REL");
    }
    ensure!(
        (size as u32).is_power_of_two(),
        "largest ring is {size} bytes"
    );
    machine
        .vm
        .enable(KVM_CAP_DIRTY_LOG_RING_ACQ_REL, &[size as u64])?;
    let result = machine
        .vm
        .enable(KVM_CAP_DIRTY_LOG_RING_ACQ_REL, &[size as u64]);
    ensure_errno!(result, libc::EINVAL, "a second time");
    Ok(())
}
