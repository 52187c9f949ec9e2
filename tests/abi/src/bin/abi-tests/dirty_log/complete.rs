// SPDX-License-Identifier: GPL-2.0-or-later

//! No write is missing in the log, whoever keeps it: faults on pages that are not writable, or a
//! list of limited length that the processor fills while the guest runs (VMX: 512 pages).

use ironvm_abi_tests::driver::{Driver, Eoi};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::Mapping;
use ironvm_abi_tests::{code64, ensure, ensure_eq, test, Failure, Outcome, Vcpu};
use kvm_bindings::*;

use super::{dirty, logged, write_pages, AT, PAGE};

pub const TESTS: &[Test] = &[
    test!("dirty_log", more_pages_than_a_list_holds, 60),
    test!("dirty_log", what_was_written_before_is_read, 60),
    test!("dirty_log", read_while_vcpus_write, 120),
    test!("dirty_log", events_that_find_the_list_full, 60),
    test!("dirty_log", nmis_that_find_the_list_full, 60),
];

/// Pages that are there and clean: what the first touch does is not what is tested.
fn settle(machine: &ironvm_abi_tests::guest::Machine, vcpu: &Vcpu, pages: usize) -> Outcome {
    write_pages(vcpu, 0, pages as u64, 1)?;
    ensure_eq!(dirty(machine, pages)?.len(), pages, "pages first written");
    ensure_eq!(dirty(machine, pages)?, vec![], "dirty pages after reading");
    Ok(())
}

/// In one run, upwards and downwards, with a number that leaves the list neither empty nor full.
fn more_pages_than_a_list_holds() -> Outcome {
    let pages = 1900;
    let (machine, vcpu, _memory) = logged(pages, KVM_MEM_LOG_DIRTY_PAGES)?;
    settle(&machine, &vcpu, pages)?;
    for count in [pages, 511, 512, 513, 1024, 1025] {
        write_pages(&vcpu, 0, count as u64, 1)?;
        let want: Vec<usize> = (0..count).collect();
        ensure_eq!(dirty(&machine, pages)?, want, "pages of {count} upwards");
        let first = pages as u64 - 1;
        write_pages(&vcpu, first, count as u64, 1u64.wrapping_neg())?;
        let want: Vec<usize> = (pages - count..pages).collect();
        ensure_eq!(dirty(&machine, pages)?, want, "pages of {count} downwards");
    }
    Ok(())
}

/// A vCPU that has written and stays in the guest: what it has written is in the log that is read
/// then, not in a later one.
fn what_was_written_before_is_read() -> Outcome {
    let pages = 100;
    let (machine, vcpu, _memory) = logged(pages, KVM_MEM_LOG_DIRTY_PAGES)?;
    settle(&machine, &vcpu, pages)?;
    let code = code64!(
        "2:",
        "inc qword ptr [rsi]",
        "add rsi, rdx",
        "dec ecx",
        "jnz 2b",
        "mov qword ptr [r10], 1",
        "3:",
        "cmp qword ptr [r10], 1",
        "je 3b",
        "out 0x10, al",
    );
    machine.load(CODE2, code);
    for round in 0..20u64 {
        machine.write(DATA, 0u64);
        vcpu.change_regs(|r| {
            r.rip = CODE2;
            (r.rsi, r.rcx, r.rdx, r.r10) = (AT + round * PAGE, 40, 2 * PAGE, DATA);
            r.rflags = RFLAGS_FIXED | RFLAGS_IF;
        })?;
        let found = std::thread::scope(|s| {
            let thread = s.spawn(|| vcpu.run_to_done());
            while machine.read::<u64>(DATA) == 0 && !thread.is_finished() {
                std::hint::spin_loop();
            }
            let found = dirty(&machine, pages);
            machine.write(DATA, 2u64);
            thread.join().unwrap()?;
            found
        })?;
        let want: Vec<usize> = (0..40).map(|i| round as usize + 2 * i).collect();
        ensure_eq!(found, want, "dirty pages of round {round}");
    }
    Ok(())
}

/// Counts up a word in each of R9 pages from R8 on, all over again until the word at R10 is set.
fn endless_writer() -> &'static [u8] {
    code64!(
        "3:",
        "mov rsi, r8",
        "mov rcx, r9",
        "2:",
        "inc qword ptr [rsi]",
        "add rsi, 4096",
        "dec rcx",
        "jnz 2b",
        "cmp qword ptr [r10], 0",
        "je 3b",
        "out 0x10, al",
    )
}

/// What a migration does: pages in the log are copied, while two vCPUs go on writing. In the end
/// the copy is the memory; a page that was written and not in the log is older in the copy.
fn read_while_vcpus_write() -> Outcome {
    const EACH: usize = 1300;
    let pages = 2 * EACH;
    let (machine, vcpu, memory) = logged(pages, KVM_MEM_LOG_DIRTY_PAGES)?;
    settle(&machine, &vcpu, pages)?;
    let other = machine.vcpu(1)?;
    machine.long_mode(&other, endless_writer())?;
    for (vcpu, first) in [(&vcpu, 0), (&other, EACH as u64)] {
        vcpu.change_regs(|r| {
            r.rip = CODE;
            (r.r8, r.r9, r.r10) = (AT + first * PAGE, EACH as u64, DATA);
            // So that an interrupt ends the guest's run also where it would not without.
            r.rflags = RFLAGS_FIXED | RFLAGS_IF;
        })?;
    }
    let mut copy = vec![1u64; pages];
    let mut seen = 0;
    std::thread::scope(|s| {
        let threads = [&vcpu, &other].map(|vcpu| s.spawn(|| vcpu.run_to_done()));
        let mut read = || {
            while seen < 30 * pages && threads.iter().all(|thread| !thread.is_finished()) {
                seen += copy_dirty(&machine, &memory, &mut copy)?;
                std::thread::yield_now();
            }
            Ok::<_, Failure>(())
        };
        let result = read();
        machine.write(DATA, 1u64);
        for thread in threads {
            thread.join().unwrap()?;
        }
        result
    })?;
    copy_dirty(&machine, &memory, &mut copy)?;
    ensure!(seen >= 30 * pages, "only {seen} pages were in the log");
    for (page, &copied) in copy.iter().enumerate() {
        let now: u64 = memory.read(page * PAGE as usize);
        ensure_eq!(copied, now, "copied count of page {page}");
        ensure!(now > 1, "page {page} was not written");
    }
    ensure_eq!(dirty(&machine, pages)?, vec![], "dirty pages in the end");
    Ok(())
}

/// Copies the words of the pages in the log; how many there were.
fn copy_dirty(
    machine: &ironvm_abi_tests::guest::Machine,
    memory: &Mapping,
    copy: &mut [u64],
) -> Result<usize, Failure> {
    let found = dirty(machine, copy.len())?;
    for &page in &found {
        copy[page] = memory.read(page * PAGE as usize);
    }
    Ok(found.len())
}

/// Writes R13 pages from RSI on, which takes no time in which the host could end the run. Then sends
/// itself RBX by its local APIC with each of R12 pages as the stack, and waits a while for R15 to
/// follow R14.
fn interrupt_each_page() -> &'static [u8] {
    code64!(
        "5:",
        "inc qword ptr [rsi]",
        "add rsi, 4096",
        "dec r13",
        "jnz 5b",
        "2:",
        "lea rsp, [rsi + 0xff0]",
        "mov ecx, 0x830",
        "mov rax, rbx",
        "xor edx, edx",
        "inc r14",
        "wrmsr",
        "mov edi, 1000",
        "3:",
        "cmp r15, r14",
        "jae 4f",
        "dec edi",
        "jnz 3b",
        "4:",
        "add rsi, 4096",
        "dec r12",
        "jnz 2b",
        "cli",
        "out 0x10, al",
    )
}

/// The delivery of an event is the write for which there is no place in the list: the event must
/// come all the same, and once. The guest leaves the module for nothing else meanwhile.
fn events_find_the_list_full(command: u64, vector: u8, handler: &[u8]) -> Outcome {
    // The list is full after a dozen events.
    const BEFORE: u64 = 500;
    const EVENTS: u64 = 30;
    let pages = (BEFORE + EVENTS) as usize;
    let d = Driver::new(Eoi::None)?;
    d.wrmsr(MSR_APIC_BASE, LAPIC | 1 << 11 | 1 << 10 | 1 << 8)?;
    let memory = Mapping::aligned(pages * PAGE as usize, 2 << 20)?;
    d.machine.vm.map(1, KVM_MEM_LOG_DIRTY_PAGES, AT, &memory)?;
    d.machine.load(CODE, interrupt_each_page());
    d.machine.load(CODE2, handler);
    d.machine.set_handler(vector, CODE2);
    // Pages that are there and clean from the second round on.
    for round in 0..20 {
        d.vcpu.change_regs(|r| {
            (r.rip, r.rsi, r.r12, r.r13) = (CODE, AT, EVENTS, BEFORE);
            (r.r14, r.r15, r.rbx) = (0, 0, command);
            r.rflags = RFLAGS_FIXED | RFLAGS_IF;
        })?;
        d.vcpu.run_to_done()?;
        let r = d.vcpu.regs()?;
        ensure_eq!(r.r15, EVENTS, "events of round {round}");
        let want: Vec<usize> = (0..pages).collect();
        ensure_eq!(dirty(&d.machine, pages)?, want, "pages of round {round}");
    }
    Ok(())
}

fn events_that_find_the_list_full() -> Outcome {
    let handler = code64!(
        "inc r15",
        "mov ecx, 0x80b",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "iretq",
    );
    events_find_the_list_full(0x5c, 0x5c, handler)
}

fn nmis_that_find_the_list_full() -> Outcome {
    events_find_the_list_full(0x400, NMI, code64!("inc r15", "iretq"))
}
