// SPDX-License-Identifier: GPL-2.0-or-later

//! When an interrupt reaches a guest that has its local APIC in x2APIC mode, where processors can
//! do all of it themselves: SDM volume 3, 12.8.3 and 7.8, whoever does it.

use ironvm_abi_tests::driver::{
    entry, lapic_register, msi_address, set_lapic_register, wrmsr, Driver, Eoi,
};
use ironvm_abi_tests::harness::{emulator, Test};
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{code64, ensure, ensure_eq, skip, test, Failure, Outcome, Vcpu};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("delivery", waits_while_interrupts_are_off, 60),
    test!("delivery", waits_in_the_shadow_of_sti),
    test!("delivery", priority_holds_back),
    test!("delivery", nested_by_priority),
    test!("delivery", requests_follow_one_another),
    test!("delivery", ends_hlt),
    test!("delivery", level_until_lowered),
    test!("delivery", registers_by_get_lapic),
    test!("delivery", registers_by_set_lapic),
    test!("delivery", task_priority_stays_whole),
    test!("delivery", software_disabled_sends_nothing),
    test!("delivery", illegal_vector_to_itself),
    test!("delivery", switched_off_and_on),
    test!("delivery", to_a_running_vcpu, 120),
    test!("delivery", messages_to_a_running_vcpu, 120),
];

const X2APIC: u64 = LAPIC | 1 << 11 | 1 << 10;
/// Where the test's own handlers lie.
const HANDLER: u64 = FREE;
/// What they note.
const NOTES: u64 = DATA2;

const fn msr(register: u32) -> u32 {
    MSR_X2APIC + register / 16
}

fn driver() -> Result<Driver, Failure> {
    let d = Driver::new(Eoi::X2apic)?;
    d.wrmsr(MSR_APIC_BASE, X2APIC | 1 << 8)?;
    Ok(d)
}

/// Runs `code` in the guest until it says that it is done.
fn run(d: &Driver, code: &[u8]) -> Result<kvm_regs, Failure> {
    d.machine.load(CODE, code);
    d.vcpu
        .change_regs(|r| (r.rip, r.rflags) = (CODE, RFLAGS_FIXED))?;
    d.vcpu.run_to_done()?;
    Ok(d.vcpu.regs()?)
}

fn count_address(vector: u64) -> u64 {
    DATA + 8 * vector
}

/// Long enough for many interrupts of the host, with the guest's own off.
fn waits_while_interrupts_are_off() -> Outcome {
    let d = driver()?;
    for _ in 0..5 {
        d.machine.write(count_address(0x51), 0u64);
        let r = run(
            &d,
            code64!(
                "sti",
                "nop",
                "cli",
                "mov ecx, 0x83f",
                "mov eax, 0x51",
                "xor edx, edx",
                "wrmsr",
                "mov ecx, 1500000",
                "2:",
                "dec ecx",
                "jnz 2b",
                "mov rbx, [{count}]",
                "sti",
                "nop",
                "nop",
                "cli",
                "mov rbp, [{count}]",
                "out 0x10, al",
                count = const DATA + 8 * 0x51,
            ),
        )?;
        ensure_eq!(r.rbx, 0, "interrupts while they are off");
        ensure_eq!(r.rbp, 1, "interrupts when they are on");
    }
    Ok(())
}

fn waits_in_the_shadow_of_sti() -> Outcome {
    let d = driver()?;
    // Notes RBX, which tells how far the guest has come.
    d.machine.load(
        HANDLER,
        code64!("mov [{notes}], rbx", "iretq", notes = const NOTES),
    );
    d.machine.set_handler(0x51, HANDLER);
    run(
        &d,
        code64!(
            "xor ebx, ebx",
            "mov ecx, 0x83f",
            "mov eax, 0x51",
            "xor edx, edx",
            "wrmsr",
            "sti",
            "inc ebx",
            "inc ebx",
            "inc ebx",
            "cli",
            "out 0x10, al",
        ),
    )?;
    ensure_eq!(
        d.machine.read::<u64>(NOTES),
        1,
        "instructions between STI and the interrupt"
    );
    Ok(())
}

/// An interrupt waits for its class to be above that of the task priority, and comes right after.
fn priority_holds_back() -> Outcome {
    let d = driver()?;
    let r = run(
        &d,
        code64!(
            "sti",
            "xor edx, edx",
            "mov ecx, 0x808",
            "mov eax, 0x50",
            "wrmsr",
            "mov ecx, 0x83f",
            "mov eax, 0x5f",
            "wrmsr",
            "nop",
            "nop",
            "mov rbx, [{count}]",
            // PPR, and the request.
            "mov ecx, 0x80a",
            "rdmsr",
            "mov esi, eax",
            "mov ecx, 0x822",
            "rdmsr",
            "mov edi, eax",
            "mov ecx, 0x808",
            "mov eax, 0x4f",
            "wrmsr",
            "nop",
            "mov rbp, [{count}]",
            "mov ecx, 0x83f",
            "mov eax, 0x60",
            "wrmsr",
            "nop",
            "cli",
            "out 0x10, al",
            count = const DATA + 8 * 0x5f,
        ),
    )?;
    ensure_eq!(r.rbx, 0, "interrupts held back");
    ensure_eq!(r.rsi & 0xff, 0x50, "PPR");
    ensure_eq!(r.rdi, 1 << 31, "IRR of 0x40 to 0x5f");
    ensure_eq!(r.rbp, 1, "interrupts after TPR is lowered");
    ensure_eq!(d.count(0x60), 1, "interrupts of a higher class");
    Ok(())
}

/// In a handler with interrupts on, only a higher class interrupts; the rest follows its end.
fn nested_by_priority() -> Outcome {
    let d = driver()?;
    // Each handler adds its own digit to R15 at its begin, and again at its end.
    d.machine.load(
        HANDLER,
        code64!(
            "shl r15, 4",
            "or r15, 5",
            "sti",
            "xor edx, edx",
            "mov ecx, 0x83f",
            "mov eax, 0x41",
            "wrmsr",
            "mov eax, 0x5e",
            "wrmsr",
            "mov eax, 0x61",
            "wrmsr",
            "nop",
            "cli",
            "shl r15, 4",
            "or r15, 5",
            "xor eax, eax",
            "mov ecx, 0x80b",
            "wrmsr",
            "iretq",
        ),
    );
    d.machine.set_handler(0x51, HANDLER);
    for (at, vector, digit) in [(0x100, 0x41u8, 4u8), (0x200, 0x5e, 0xe), (0x300, 0x61, 6)] {
        let mut code = code64!("shl r15, 4", "or r15, 0").to_vec();
        if let Some(last) = code.last_mut() {
            *last = digit;
        }
        code.extend(code64!(
            "xor eax, eax",
            "xor edx, edx",
            "mov ecx, 0x80b",
            "wrmsr",
            "iretq"
        ));
        d.machine.load(HANDLER + at, &code);
        d.machine.set_handler(vector, HANDLER + at);
    }
    let r = run(
        &d,
        code64!(
            "xor r15d, r15d",
            "sti",
            "mov ecx, 0x83f",
            "mov eax, 0x51",
            "xor edx, edx",
            "wrmsr",
            "nop",
            "nop",
            "cli",
            "out 0x10, al",
        ),
    )?;
    ensure_eq!(r.r15, 0x565e4, "handlers in order");
    ensure_eq!(d.rdmsr(msr(APIC_PPR))?, 0, "PPR at the end");
    Ok(())
}

/// Many that wait are delivered when interrupts go on, the highest first.
fn requests_follow_one_another() -> Outcome {
    let d = driver()?;
    for vector in (0x20..=0xffu32).rev() {
        d.machine.vm.signal_msi(msi_address(0), vector)?;
    }
    let r = run(
        &d,
        code64!(
            "sti",
            "nop",
            "cli",
            "mov ecx, 0x820",
            "xor ebx, ebx",
            "2:",
            "rdmsr",
            "or ebx, eax",
            "inc ecx",
            "cmp ecx, 0x828",
            "jb 2b",
            "out 0x10, al",
        ),
    )?;
    // Each handler returns to before CLI, where the next one is taken.
    ensure_eq!(r.rbx as u32, 0, "requests left");
    for vector in 0x20..=0xff {
        ensure_eq!(d.count(vector), 1, "interrupts {vector:#x}");
    }
    Ok(())
}

fn ends_hlt() -> Outcome {
    let d = driver()?;
    for n in 1..=20 {
        // One that waited before.
        d.wrmsr(msr(APIC_SELF_IPI), 0x51)?;
        d.halt()?;
        ensure_eq!(d.count(0x51), n, "interrupts to itself");
        d.machine.vm.signal_msi(msi_address(0), 0x52)?;
        d.halt()?;
        ensure_eq!(d.count(0x52), n, "messages");
    }
    // One that comes while it sleeps.
    std::thread::scope(|s| {
        let sender = s.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(30));
            d.machine.vm.signal_msi(msi_address(0), 0x53)
        });
        d.halt()?;
        sender.join().unwrap()?;
        Ok::<(), Failure>(())
    })?;
    ensure_eq!(d.count(0x53), 1, "interrupts while asleep");
    Ok(())
}

/// The I/O APIC sees the end of what is level triggered, and asks again while the line stays.
fn level_until_lowered() -> Outcome {
    let d = Driver::with(ironvm_abi_tests::guest::Chips::Full, Eoi::None)?;
    d.ioapic(9, entry(0x49, 0, true))?;
    d.wrmsr(MSR_APIC_BASE, X2APIC | 1 << 8)?;
    d.machine.vm.irq_line(9, 1)?;
    d.breathe()?;
    d.breathe()?;
    ensure_eq!(d.count(0x49), 1, "interrupts before EOI");
    d.wrmsr(msr(APIC_EOI), 0)?;
    d.breathe()?;
    ensure_eq!(d.count(0x49), 2, "interrupts after EOI");
    d.machine.vm.irq_line(9, 0)?;
    d.wrmsr(msr(APIC_EOI), 0)?;
    d.breathe()?;
    ensure_eq!(d.count(0x49), 2, "interrupts after the line fell");
    // The same vector as a message is edge triggered.
    d.machine.vm.signal_msi(msi_address(0), 0x49)?;
    d.breathe()?;
    ensure_eq!(d.count(0x49), 3, "interrupts by message");
    d.wrmsr(msr(APIC_EOI), 0)?;
    d.machine.vm.irq_line(9, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x49), 4, "interrupts after the line rose again");
    d.machine.vm.irq_line(9, 0)?;
    d.wrmsr(msr(APIC_EOI), 0)?;
    Ok(())
}

fn registers_by_get_lapic() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    d.wrmsr(MSR_APIC_BASE, X2APIC | 1 << 8)?;
    d.wrmsr(msr(APIC_SELF_IPI), 0x51)?;
    d.breathe()?;
    ensure_eq!(d.count(0x51), 1, "interrupts");
    d.wrmsr(msr(APIC_SELF_IPI), 0x45)?;
    d.machine.vm.signal_msi(msi_address(0), 0x62)?;
    let register = |register| lapic_register(&d.vcpu, register);
    // 32 vectors each: from 0x40, and from 0x60.
    ensure_eq!(register(APIC_ISR + 0x20)?, 1 << 17, "ISR");
    ensure_eq!(register(APIC_IRR + 0x20)?, 1 << 5, "IRR");
    ensure_eq!(register(APIC_IRR + 0x30)?, 1 << 2, "IRR");
    d.wrmsr(msr(APIC_TPR), 0x30)?;
    ensure_eq!(register(APIC_TPR)?, 0x30, "TPR");
    ensure_eq!(register(APIC_PPR)?, 0x50, "PPR");
    d.breathe()?;
    ensure_eq!(
        (d.count(0x45), d.count(0x62)),
        (0, 1),
        "interrupts below and above"
    );
    d.wrmsr(msr(APIC_EOI), 0)?;
    d.wrmsr(msr(APIC_EOI), 0)?;
    ensure_eq!(register(APIC_ISR + 0x20)?, 0, "ISR after two EOIs");
    ensure_eq!(register(APIC_PPR)?, 0x30, "PPR after two EOIs");
    d.breathe()?;
    ensure_eq!(d.count(0x45), 1, "interrupts when nothing is above");
    Ok(())
}

fn registers_by_set_lapic() -> Outcome {
    let d = driver()?;
    d.wrmsr(msr(APIC_SELF_IPI), 0x51)?;
    d.breathe()?;
    // In service and requested are others now, and the task priority.
    let mut state: kvm_lapic_state = d.vcpu.get(KVM_GET_LAPIC)?;
    let mut set = |register: u32, value: u32| {
        for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
            state.regs[register as usize + i] = byte as _;
        }
    };
    set(APIC_ISR + 0x30, 1 << 5);
    set(APIC_IRR + 0x20, 1 << 17);
    set(APIC_IRR + 0x30, 1 << 20);
    set(APIC_TPR, 0x20);
    d.vcpu.set(KVM_SET_LAPIC, &state)?;
    ensure_eq!(d.rdmsr(msr(APIC_PPR))?, 0x60, "PPR");
    ensure_eq!(d.rdmsr(msr(APIC_TPR))?, 0x20, "TPR");
    ensure_eq!(d.rdmsr(msr(APIC_ISR + 0x30))?, 1 << 5, "ISR");
    d.breathe()?;
    ensure_eq!(
        (d.count(0x51), d.count(0x74)),
        (1, 1),
        "interrupts above the one in service"
    );
    d.wrmsr(msr(APIC_EOI), 0)?;
    ensure_eq!(d.rdmsr(msr(APIC_PPR))?, 0x20, "PPR after EOI");
    d.breathe()?;
    ensure_eq!(d.count(0x51), 2, "interrupts after EOI");
    // While nothing waits and nothing is in service, too.
    set_lapic_register(&d.vcpu, APIC_ISR + 0x30, 1 << 5)?;
    ensure_eq!(d.rdmsr(msr(APIC_PPR))?, 0x60, "PPR of an idle APIC");
    d.wrmsr(msr(APIC_EOI), 0)?;
    ensure_eq!(d.rdmsr(msr(APIC_PPR))?, 0x20, "PPR after its EOI");
    Ok(())
}

/// No other register changes its lower half.
fn task_priority_stays_whole() -> Outcome {
    if !emulator::processor_has("vmx") {
        skip!("with SVM only CR8 is kept, which has no lower half");
    }
    let d = driver()?;
    d.wrmsr(msr(APIC_TPR), 0x57)?;
    d.wrmsr(msr(APIC_LVT_LINT1), 0x1_0400)?;
    ensure_eq!(d.rdmsr(msr(APIC_TPR))?, 0x57, "TPR");
    ensure_eq!(d.rdmsr(msr(APIC_PPR))?, 0x57, "PPR");
    Ok(())
}

fn software_disabled_sends_nothing() -> Outcome {
    let d = driver()?;
    d.wrmsr(msr(APIC_SELF_IPI), 0x51)?;
    d.breathe()?;
    d.wrmsr(msr(APIC_SVR), 0xff)?;
    d.wrmsr(msr(APIC_SELF_IPI), 0x51)?;
    d.breathe()?;
    d.wrmsr(msr(APIC_SVR), 0x1ff)?;
    d.breathe()?;
    ensure_eq!(d.count(0x51), 1, "interrupts");
    d.wrmsr(msr(APIC_SELF_IPI), 0x51)?;
    d.breathe()?;
    ensure_eq!(d.count(0x51), 2, "interrupts when it is enabled again");
    Ok(())
}

fn illegal_vector_to_itself() -> Outcome {
    let d = driver()?;
    d.wrmsr(msr(APIC_SELF_IPI), 0x51)?;
    d.breathe()?;
    d.wrmsr(msr(APIC_SELF_IPI), 3)?;
    d.breathe()?;
    ensure_eq!(d.machine.caught().count, 0, "exceptions");
    d.wrmsr(msr(APIC_SELF_IPI), 0x51)?;
    d.breathe()?;
    ensure_eq!(d.count(0x51), 2, "interrupts");
    Ok(())
}

/// Out of x2APIC mode its MSRs are gone, whatever has been going on.
fn switched_off_and_on() -> Outcome {
    let d = driver()?;
    d.wrmsr(msr(APIC_SELF_IPI), 0x51)?;
    d.breathe()?;
    d.wrmsr(MSR_APIC_BASE, LAPIC | 1 << 8)?;
    d.vcpu.change_regs(|r| {
        (r.rip, r.rcx) = (CODE2 + 0x50, u64::from(msr(APIC_TPR)));
    })?;
    d.machine.expect_caught(&d.vcpu, 13)?;
    d.wrmsr(MSR_APIC_BASE, LAPIC | 1 << 11 | 1 << 8)?;
    d.apic(APIC_SVR, 0x1ff)?;
    d.apic(APIC_ICR, 0x4_0051)?;
    d.apic(APIC_TPR, 0x60)?;
    d.wrmsr(MSR_APIC_BASE, X2APIC | 1 << 8)?;
    ensure_eq!(d.rdmsr(msr(APIC_TPR))?, 0x60, "TPR");
    d.breathe()?;
    ensure_eq!(d.count(0x51), 1, "interrupts held back");
    d.wrmsr(msr(APIC_TPR), 0)?;
    d.breathe()?;
    ensure_eq!(d.count(0x51), 2, "interrupts");
    Ok(())
}

/// A second vCPU that spins until `rounds` interrupts have come. RBX: its instructions.
fn spinning(d: &Driver, vector: u64, rounds: u64) -> Result<Vcpu, Failure> {
    let other = d.another(1)?;
    other.set(
        KVM_SET_MP_STATE,
        &kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        },
    )?;
    wrmsr(&other, MSR_APIC_BASE, X2APIC)?;
    d.machine.load(
        HANDLER,
        code64!(
            "sti",
            "2:",
            "inc rbx",
            "pause",
            "cmp [rsi], rdi",
            "jb 2b",
            "cli",
            "out 0x10, al",
        ),
    );
    other.change_regs(|r| {
        (r.rip, r.rflags) = (HANDLER, RFLAGS_FIXED);
        (r.rsi, r.rdi) = (count_address(vector), rounds);
    })?;
    Ok(other)
}

fn rounds() -> u64 {
    if emulator::is_slow() {
        200
    } else {
        2000
    }
}

/// Each arrives, at a vCPU that does nothing to let it: the next is sent when it has.
fn to_a_running_vcpu() -> Outcome {
    let d = driver()?;
    let rounds = rounds();
    let other = spinning(&d, 0x5c, rounds)?;
    d.machine.load(
        CODE,
        code64!(
            // An interrupt of the host has to end the run of this guest.
            "sti",
            "xor r8d, r8d",
            "2:",
            "mov ecx, 0x830",
            "mov eax, 0x5c",
            "mov edx, 1",
            "wrmsr",
            "inc r8",
            "3:",
            "pause",
            "cmp [{count}], r8",
            "jb 3b",
            "cmp r8, r9",
            "jb 2b",
            "out 0x10, al",
            count = const DATA + 8 * 0x5c,
        ),
    );
    d.vcpu
        .change_regs(|r| (r.rip, r.rflags, r.r9) = (CODE, RFLAGS_FIXED, rounds))?;
    std::thread::scope(|s| {
        let thread = s.spawn(|| other.run_to_done());
        d.vcpu.run_to_done()?;
        thread.join().unwrap()
    })?;
    ensure_eq!(d.count(0x5c), rounds, "interrupts");
    Ok(())
}

/// The same from outside, with an NMI among them now and then.
fn messages_to_a_running_vcpu() -> Outcome {
    const NMI: u8 = 2;
    let d = driver()?;
    let rounds = rounds();
    let other = spinning(&d, 0x5d, rounds)?;
    d.machine.load(
        HANDLER + 0x100,
        code64!("inc qword ptr [{notes}]", "iretq", notes = const NOTES),
    );
    d.machine.set_handler(NMI, HANDLER + 0x100);
    let mut nmis = 0u64;
    std::thread::scope(|s| {
        let thread = s.spawn(|| other.run_to_done());
        for n in 1..=rounds {
            if n % 10 == 0 {
                nmis += 1;
                d.machine.vm.signal_msi(msi_address(1), 0x400)?;
            }
            d.machine.vm.signal_msi(msi_address(1), 0x5d)?;
            while d.count(0x5d) < n || d.machine.read::<u64>(NOTES) < nmis {
                std::thread::yield_now();
            }
        }
        thread.join().unwrap()
    })?;
    ensure_eq!(d.count(0x5d), rounds, "interrupts");
    ensure!(nmis > 0, "no NMIs");
    Ok(())
}
