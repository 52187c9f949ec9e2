// SPDX-License-Identifier: GPL-2.0-or-later

//! Several vCPUs: start by INIT and SIPI, interrupts from one to another, shared memory.

use std::time::{Duration, Instant};

use ironvm_abi_tests::driver::{breathe, halt, lapic_register, wrmsr, Driver, Eoi};
use ironvm_abi_tests::guest::{Machine, Paging};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{
    code16, code64, ensure, ensure_eq, ensure_errno, test, Exit, Failure, Outcome, Vcpu,
};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("smp", init_and_sipi),
    test!("smp", first_init_ends_run),
    test!("smp", sipi_without_init_is_ignored),
    test!("smp", init_resets),
    test!("smp", interrupt_to_another),
    test!("smp", interrupt_to_running_vcpu),
    test!("smp", broadcast),
    test!("smp", logical_destination),
    test!("smp", x2apic_to_another),
    test!("smp", nmi_to_another),
    test!("smp", ping_pong, 60),
    test!("smp", turns_by_spinning, 120),
    test!("smp", atomic_counter),
    test!("smp", atomic_counter_on_fresh_memory),
    test!("smp", unstarted_vcpu_waits_for_signal),
    test!("smp", vcpus_fault_in_parallel),
    test!("smp", sixteen_vcpus),
    test!("smp", shootdown_by_ipi, 60),
];

fn mp_state(vcpu: &Vcpu) -> Result<u32, Failure> {
    Ok(vcpu.get::<kvm_mp_state>(KVM_GET_MP_STATE)?.mp_state)
}

/// What a kernel does to start its second processor, which begins in real mode at the page of the
/// SIPI's vector.
fn init_and_sipi() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let ap = d.machine.vcpu(1)?;
    ensure_eq!(mp_state(&ap)?, KVM_MP_STATE_UNINITIALIZED, "state before");
    // Every VMM does this; KVM finds a new local APIC by its id only after a change to one.
    let state: kvm_lapic_state = ap.get(KVM_GET_LAPIC)?;
    ap.set(KVM_SET_LAPIC, &state)?;
    d.machine.load(
        0x9000,
        code16!("mov ax, cs", "mov bx, 0x1234", "out 0x10, al", "hlt"),
    );
    std::thread::scope(|s| {
        let thread = s.spawn(|| ap.run_to_done());
        d.apic(APIC_ICR2, 1 << 24)?;
        d.apic(APIC_ICR, 0x4500)?;
        d.apic(APIC_ICR, 0x4609)?;
        d.apic(APIC_ICR, 0x4609)?;
        thread.join().unwrap()
    })?;
    let r = ap.regs()?;
    ensure_eq!((r.rax & 0xffff, r.rbx), (0x900, 0x1234), "AX, BX");
    ensure_eq!(mp_state(&ap)?, KVM_MP_STATE_RUNNABLE, "state after");
    let sregs = ap.sregs()?;
    ensure_eq!((sregs.cs.base, sregs.cs.selector), (0x9000, 0x900), "CS");
    // RDX after INIT holds the processor's signature.
    let signature = d.machine.cpuid.leaf(1, 0).map_or(0, |l| l.eax);
    ensure_eq!(r.rdx, u64::from(signature), "RDX");
    Ok(())
}

/// A vCPU that has never run returns once from its wait for INIT, with `EAGAIN`, and goes on to
/// wait for SIPI when it is run again. VMMs rely on it to look at what it is now.
fn first_init_ends_run() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let ap = d.machine.vcpu(1)?;
    let state: kvm_lapic_state = ap.get(KVM_GET_LAPIC)?;
    ap.set(KVM_SET_LAPIC, &state)?;
    d.machine.load(0x9000, code16!("out 0x10, al"));

    // It does not even look at what is to be completed.
    ap.set_immediate_exit(true);
    ensure_errno!(ap.run(), libc::EINTR, "KVM_RUN with immediate_exit");
    ap.set_immediate_exit(false);
    std::thread::scope(|s| {
        let thread = s.spawn(|| ap.run());
        d.apic(APIC_ICR2, 1 << 24)?;
        d.apic(APIC_ICR, 0x4500)?;
        ensure_errno!(thread.join().unwrap(), libc::EAGAIN, "KVM_RUN");
        Ok::<_, Failure>(())
    })?;
    ensure_eq!(
        mp_state(&ap)?,
        KVM_MP_STATE_INIT_RECEIVED,
        "state after INIT"
    );
    // Neither a further INIT nor the SIPI ends a run again.
    std::thread::scope(|s| {
        let thread = s.spawn(|| ap.run());
        d.apic(APIC_ICR, 0x4500)?;
        d.apic(APIC_ICR, 0x4609)?;
        let exit = thread.join().unwrap()?;
        ensure!(exit.is_out(PORT_DONE), "exit is {exit:x?}");
        Ok::<_, Failure>(())
    })?;
    ensure_eq!(mp_state(&ap)?, KVM_MP_STATE_RUNNABLE, "state after SIPI");
    Ok(())
}

fn sipi_without_init_is_ignored() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let other = d.another(1)?;
    // It has been made runnable by userspace, so there is nothing to start.
    let running = kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    };
    other.set(KVM_SET_MP_STATE, &running)?;
    d.apic(APIC_ICR2, 1 << 24)?;
    d.apic(APIC_ICR, 0x4609)?;
    breathe(&other)?;
    ensure_eq!(other.sregs()?.cs.selector, SEL_CODE64, "CS");
    Ok(())
}

/// INIT takes a running vCPU back to where it waits for SIPI.
fn init_resets() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let other = d.runnable(1)?;
    d.machine
        .load(0x9000, code16!("mov bx, 0x77", "out 0x10, al"));
    d.machine.load(CODE, code64!("2:", "pause", "jmp 2b"));
    other.change_regs(|r| r.rip = CODE)?;
    std::thread::scope(|s| {
        let thread = s.spawn(|| other.run_to_done());
        d.apic(APIC_ICR2, 1 << 24)?;
        d.apic(APIC_ICR, 0x4500)?;
        d.apic(APIC_ICR, 0x4609)?;
        thread.join().unwrap()
    })?;
    ensure_eq!(other.regs()?.rbx, 0x77, "BX");
    let sregs = other.sregs()?;
    ensure_eq!(sregs.cr0 & (CR0_PE | CR0_PG), 0, "CR0");
    ensure_eq!(sregs.efer, 0, "EFER");
    Ok(())
}

fn interrupt_to_another() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let other = d.runnable(1)?;
    for n in 1..=10 {
        std::thread::scope(|s| {
            let thread = s.spawn(|| halt(&other));
            d.apic(APIC_ICR2, 1 << 24)?;
            d.apic(APIC_ICR, 0x55)?;
            thread.join().unwrap()
        })?;
        ensure_eq!(d.count(0x55), n, "interrupts");
    }
    d.breathe()?;
    ensure_eq!(d.count(0x55), 10, "interrupts at the sender");
    Ok(())
}

/// The target runs guest code all the time; it must be kicked, not found at its next exit.
fn interrupt_to_running_vcpu() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let other = d.runnable(1)?;
    let code = code64!(
        "sti",
        "2:",
        "cmp qword ptr [rsi], rbx",
        "jb 2b",
        "cli",
        "out 0x10, al"
    );
    d.machine.load(CODE, code);
    for n in 1..=10u64 {
        other.change_regs(|r| {
            (r.rip, r.rsi, r.rbx) = (CODE, DATA + 8 * 0x56, n);
        })?;
        std::thread::scope(|s| {
            let thread = s.spawn(|| other.run_to_done());
            std::thread::sleep(Duration::from_millis(5));
            d.apic(APIC_ICR2, 1 << 24)?;
            d.apic(APIC_ICR, 0x56)?;
            thread.join().unwrap()
        })?;
        ensure_eq!(d.count(0x56), n, "interrupts");
    }
    Ok(())
}

fn broadcast() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let others = [d.runnable(1)?, d.runnable(2)?, d.runnable(3)?];
    // All but itself.
    d.apic(APIC_ICR, 0xc_0057)?;
    for (n, other) in (1..).zip(&others) {
        breathe(other)?;
        ensure_eq!(d.count(0x57), n, "interrupts after vCPU {n}");
    }
    d.breathe()?;
    ensure_eq!(d.count(0x57), 3, "interrupts at the sender");
    // All.
    d.apic(APIC_ICR, 0x8_0058)?;
    for other in &others {
        breathe(other)?;
    }
    d.breathe()?;
    ensure_eq!(d.count(0x58), 4, "interrupts");
    // The broadcast id.
    d.apic(APIC_ICR2, 0xff << 24)?;
    d.apic(APIC_ICR, 0x59)?;
    for other in &others {
        breathe(other)?;
    }
    d.breathe()?;
    ensure_eq!(d.count(0x59), 4, "interrupts by id 0xff");
    Ok(())
}

/// Flat logical ids: a bit for each, several in one message.
fn logical_destination() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let others = [d.runnable(1)?, d.runnable(2)?];
    d.apic(0xd0, 1 << 24)?;
    ironvm_abi_tests::driver::set_lapic_register(&others[0], 0xd0, 2 << 24)?;
    ironvm_abi_tests::driver::set_lapic_register(&others[1], 0xd0, 4 << 24)?;
    d.apic(APIC_ICR2, 6 << 24)?;
    d.apic(APIC_ICR, 0x800 | 0x5a)?;
    for other in &others {
        breathe(other)?;
    }
    d.breathe()?;
    ensure_eq!(d.count(0x5a), 2, "interrupts");
    // Lowest priority: one of the named takes it.
    d.apic(APIC_ICR2, 6 << 24)?;
    d.apic(APIC_ICR, 0x900 | 0x5b)?;
    for other in &others {
        breathe(other)?;
    }
    d.breathe()?;
    ensure_eq!(d.count(0x5b), 1, "interrupts of lowest priority");
    Ok(())
}

fn x2apic_to_another() -> Outcome {
    let d = Driver::new(Eoi::X2apic)?;
    let other = d.runnable(1)?;
    let base = LAPIC | 1 << 11 | 1 << 10;
    d.wrmsr(MSR_APIC_BASE, base | 1 << 8)?;
    wrmsr(&other, MSR_APIC_BASE, base)?;
    for n in 1..=10 {
        d.wrmsr(MSR_X2APIC + APIC_ICR / 16, 1 << 32 | 0x5c)?;
        halt(&other)?;
        ensure_eq!(d.count(0x5c), n, "interrupts");
    }
    // Logical: cluster 0, bit 1.
    d.wrmsr(MSR_X2APIC + APIC_ICR / 16, 2 << 32 | 0x800 | 0x5d)?;
    halt(&other)?;
    ensure_eq!(d.count(0x5d), 1, "interrupts by logical id");
    Ok(())
}

fn nmi_to_another() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let other = d.runnable(1)?;
    d.apic(APIC_ICR2, 1 << 24)?;
    d.apic(APIC_ICR, 0x400)?;
    other.change_regs(|r| r.rip = CODE2 + 0x60)?;
    d.machine.expect_caught(&other, NMI)?;
    Ok(())
}

/// Two vCPUs take turns at a word, and spin with PAUSE until it is their turn: there may be one CPU
/// for both, and each of a thousand turns needs the other one to get it.
fn turns_by_spinning() -> Outcome {
    const TURNS: u64 = 1000;
    let machine = Machine::new()?;
    let vcpus = [machine.vcpu(0)?, machine.vcpu(1)?];
    for (own, vcpu) in (0u64..).zip(&vcpus) {
        let code = code64!(
            "2:",
            "mov rax, [rsi]",
            "cmp rax, rdx",
            "jae 4f",
            "and eax, 1",
            "cmp rax, rbx",
            "je 3f",
            "pause",
            "jmp 2b",
            "3:",
            "inc qword ptr [rsi]",
            "inc r13",
            "jmp 2b",
            "4:",
            "out 0x10, al",
        );
        machine.long_mode(vcpu, code)?;
        vcpu.change_regs(|r| {
            (r.rsi, r.rdx, r.rbx) = (DATA, TURNS, own);
            r.rflags = RFLAGS_FIXED | RFLAGS_IF;
        })?;
    }
    let [first, second] = &vcpus;
    std::thread::scope(|s| {
        let thread = s.spawn(|| second.run_to_done());
        first.run_to_done()?;
        thread.join().unwrap()
    })?;
    ensure_eq!(machine.read::<u64>(DATA), TURNS, "turns");
    for vcpu in &vcpus {
        ensure_eq!(vcpu.regs()?.r13, TURNS / 2, "turns of one vCPU");
    }
    Ok(())
}

/// Two vCPUs wake each other by turns.
fn ping_pong() -> Outcome {
    const ROUNDS: u64 = 500;
    let d = Driver::new(Eoi::Xapic)?;
    let other = d.runnable(1)?;
    // RBX: whom to send to; R12: the own count's address; ECX rounds. Waits, then answers.
    let code = code64!(
        "2:",
        "cli",
        "cmp qword ptr [r12], 0",
        "jne 3f",
        "sti",
        "hlt",
        "jmp 2b",
        "3:",
        "dec qword ptr [r12]",
        "inc r13",
        "mov [rdi], ebx",
        "mov [rsi], r8d",
        "cmp r13, {rounds}",
        "jb 2b",
        "out 0x10, al",
        rounds = const ROUNDS,
    );
    d.machine.load(CODE, code);
    let set = |vcpu: &Vcpu, own: u8, peer_id: u64, peer: u64| {
        vcpu.change_regs(|r| {
            (r.rip, r.rflags) = (CODE, RFLAGS_FIXED);
            r.rsi = LAPIC + u64::from(APIC_ICR);
            r.rdi = LAPIC + u64::from(APIC_ICR2);
            (r.rbx, r.r8) = (peer_id << 24, peer);
            (r.r12, r.r13) = (DATA + 8 * u64::from(own), 0);
        })
    };
    set(&d.vcpu, 0x60, 1, 0x61)?;
    set(&other, 0x61, 0, 0x60)?;
    // The first stroke.
    d.machine.write(DATA + 8 * 0x60, 1u64);
    std::thread::scope(|s| {
        let thread = s.spawn(|| other.run_to_done());
        d.vcpu.run_to_done()?;
        thread.join().unwrap()
    })?;
    ensure_eq!(d.vcpu.regs()?.r13, ROUNDS, "rounds of the first");
    ensure_eq!(other.regs()?.r13, ROUNDS, "rounds of the second");
    Ok(())
}

fn count_together(d: &Driver, vcpus: &[Vcpu], at: u64, each: u64) -> Outcome {
    let code = code64!(
        "2:",
        "lock inc qword ptr [rsi]",
        "dec rcx",
        "jnz 2b",
        "out 0x10, al"
    );
    d.machine.load(CODE, code);
    for vcpu in vcpus {
        vcpu.change_regs(|r| (r.rip, r.rsi, r.rcx) = (CODE, at, each))?;
    }
    std::thread::scope(|s| {
        let threads: Vec<_> = vcpus.iter().map(|v| s.spawn(|| v.run_to_done())).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap())
    })?;
    ensure_eq!(
        d.machine.read::<u64>(at),
        each * vcpus.len() as u64,
        "count"
    );
    Ok(())
}

fn atomic_counter() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let vcpus = [d.runnable(1)?, d.runnable(2)?];
    count_together(&d, &vcpus, DATA2, 200_000)
}

/// The page is not there when both begin: the first write of one must not be lost by the fault of
/// the other.
fn atomic_counter_on_fresh_memory() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let vcpus = [d.runnable(1)?, d.runnable(2)?, d.runnable(3)?];
    for page in 0..100u64 {
        count_together(&d, &vcpus, 0x20_0000 + page * 4096, 20)?;
    }
    Ok(())
}

/// A vCPU that waits for SIPI sleeps in the module; a signal ends it as ever.
fn unstarted_vcpu_waits_for_signal() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let ap = d.machine.vcpu(1)?;
    ironvm_abi_tests::signals::interrupt_after(Duration::from_millis(50))?;
    let start = Instant::now();
    let result = ap.run();
    ensure!(
        matches!(&result, Err(e) if e.number == libc::EINTR || e.number == libc::EAGAIN),
        "KVM_RUN gave {result:x?}"
    );
    ensure!(
        start.elapsed() >= Duration::from_millis(20),
        "KVM_RUN did not wait"
    );
    ensure_eq!(mp_state(&ap)?, KVM_MP_STATE_UNINITIALIZED, "state");
    Ok(())
}

/// Four vCPUs touch the same 16 MiB at once, each writing its own word of every page.
fn vcpus_fault_in_parallel() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let size = 16u64 << 20;
    let at = 0x1000_0000u64;
    let memory = ironvm_abi_tests::sys::Mapping::aligned(size as usize, 2 << 20)?;
    memory.advise(0, size as usize, libc::MADV_NOHUGEPAGE)?;
    d.machine.vm.map(1, 0, at, &memory)?;
    let vcpus: Vec<Vcpu> = (1..5).map(|id| d.runnable(id)).collect::<Result<_, _>>()?;
    let code = code64!(
        "2:",
        "mov [rsi], rbx",
        "add rsi, 4096",
        "dec rcx",
        "jnz 2b",
        "out 0x10, al"
    );
    d.machine.load(CODE, code);
    for (i, vcpu) in (0..).zip(&vcpus) {
        vcpu.change_regs(|r| {
            (r.rip, r.rsi) = (CODE, at + 8 * i);
            (r.rbx, r.rcx) = (i + 1, size / 4096);
        })?;
    }
    std::thread::scope(|s| {
        let threads: Vec<_> = vcpus.iter().map(|v| s.spawn(|| v.run_to_done())).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap())
    })?;
    for page in (0..size as usize).step_by(4096) {
        let words: [u64; 4] = memory.read(page);
        ensure_eq!(words, [1, 2, 3, 4], "words of page {page:#x}");
    }
    Ok(())
}

fn sixteen_vcpus() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let vcpus: Vec<Vcpu> = (1..17).map(|id| d.runnable(id)).collect::<Result<_, _>>()?;
    for vcpu in &vcpus {
        let id = lapic_register(vcpu, APIC_ID)? >> 24;
        ensure_eq!(id, vcpu.id, "APIC id");
    }
    count_together(&d, &vcpus, DATA2, 2_000)
}

/// One changes a page's entry, tells the other by an interrupt whose handler does INVLPG, and the
/// other must never see the old page after its answer.
fn shootdown_by_ipi() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let other = d.runnable(1)?;
    let m = &d.machine;
    let window = DATA2;
    let entry = Paging::Long.entry_address(window);
    let pages = [0x10_0000u64, 0x10_1000];
    for (page, mark) in pages.iter().zip([0xaaaau64, 0xbbbb]) {
        m.write(*page, mark);
    }
    m.write(entry, pages[0] | PTE_P | PTE_W);
    m.set_handler(0x66, CODE + 0x200);
    m.load(
        CODE + 0x200,
        code64!(
            "push rax",
            "mov eax, {window}",
            "invlpg [rax]",
            "mov eax, 0xfee000b0",
            "mov dword ptr [rax], 0",
            "lock inc qword ptr [{count}]",
            "pop rax",
            "iretq",
            window = const DATA2,
            count = const DATA + 8 * 0x66,
        ),
    );
    // Reads the window for ever, until told to end.
    m.load(
        CODE,
        code64!(
            "sti",
            "2:",
            "mov rax, [rsi]",
            "cmp qword ptr [rdi], 0",
            "je 2b",
            "cli",
            "out 0x10, al"
        ),
    );
    m.load(
        CODE + 0x300,
        code64!(
            "mov rdx, [r9]",
            "mov [r10], r11",
            "mov [rdi], ebx",
            "mov dword ptr [rsi], 0x66",
            "2:",
            "pause",
            "cmp [r9], rdx",
            "je 2b",
            "out 0x10, al",
        ),
    );
    let stop = DATA + 0xff8;
    for round in 0..100usize {
        m.write(stop, 0u64);
        other.change_regs(|r| (r.rip, r.rsi, r.rdi) = (CODE, window, stop))?;
        let new = pages[(round + 1) % 2];
        std::thread::scope(|s| {
            let thread = s.spawn(|| other.run_to_done());
            d.vcpu.change_regs(|r| {
                (r.rip, r.rflags) = (CODE + 0x300, RFLAGS_FIXED);
                r.rsi = LAPIC + u64::from(APIC_ICR);
                (r.rdi, r.rbx) = (LAPIC + u64::from(APIC_ICR2), 1 << 24);
                r.r9 = DATA + 8 * 0x66;
                (r.r10, r.r11) = (entry, new | PTE_P | PTE_W);
            })?;
            d.vcpu.run_to_done()?;
            m.write(stop, 1u64);
            thread.join().unwrap()
        })?;
        // One more read, surely after the answer.
        other.change_regs(|r| (r.rip, r.rsi, r.rdi) = (CODE, window, stop))?;
        let exit = other.run_on()?;
        ensure!(matches!(&exit, Exit::Io(_)), "exit is {exit:x?}");
        let want = [0xaaaa, 0xbbbb][(round + 1) % 2];
        ensure_eq!(other.regs()?.rax, want, "value in round {round}");
    }
    Ok(())
}
