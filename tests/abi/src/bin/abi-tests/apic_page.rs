// SPDX-License-Identifier: GPL-2.0-or-later

//! The register page of the local APIC in xAPIC mode, which a processor may keep while the guest
//! runs (SDM volume 3, chapter 30): that it is what the local APIC is, and not there for a vCPU
//! whose local APIC is elsewhere.

use ironvm_abi_tests::driver::{entry, lapic_register, msi_address, wrmsr, Driver, Eoi};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::Mapping;
use ironvm_abi_tests::{code64, ensure, ensure_eq, skip, test, Exit, Failure, Outcome, Vcpu};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("apic-page", every_register),
    test!("apic-page", parts_of_registers),
    test!("apic-page", beside_registers),
    test!("apic-page", more_than_moves),
    test!("apic-page", what_userspace_sets),
    test!("apic-page", saved_and_restored),
    test!("apic-page", interrupts_within_one_run),
    test!("apic-page", level_interrupts_within_one_run),
    test!("apic-page", lower_priority_lets_interrupts_in),
    test!("apic-page", self_interrupt_is_in_icr),
    test!("apic-page", timer_by_the_page),
    test!("apic-page", errors),
    test!("apic-page", fetched_from),
    test!("apic-page", stack_in_it),
    test!("apic-page", not_there_when_disabled),
    test!("apic-page", not_there_in_x2apic_mode),
    test!("apic-page", not_there_when_moved),
    test!("apic-page", modes_change_beside_a_running_vcpu, 60),
    test!("apic-page", memory_over_it),
    test!("apic-page", memory_under_a_running_vcpu),
    test!("apic-page", reads_are_as_fast_after_memory),
    test!("apic-page", reads_are_as_fast_without_the_other_vcpu),
];

const LDR: u32 = 0xd0;
const DFR: u32 = 0xe0;
const LVT_THERMAL: u32 = 0x330;
const LVT_PERF: u32 = 0x340;
const LVT_ERROR: u32 = 0x370;

/// The registers that keep what is written.
const WRITABLE: [(u32, u32); 13] = [
    // The low four bits get lost where TPR is kept in CR8.
    (APIC_TPR, 0x30),
    (LDR, 0x0300_0000),
    (DFR, 0x0fff_ffff),
    (APIC_SVR, 0x1ee),
    (APIC_ICR2, 0x0500_0000),
    (APIC_LVT_TIMER, 0x3_0077),
    (LVT_THERMAL, 0x1_0041),
    (LVT_PERF, 0x1_0442),
    (APIC_LVT_LINT0, 0x1_0743),
    (APIC_LVT_LINT1, 0x1_0044),
    (LVT_ERROR, 0x1_0045),
    (APIC_TIMER_INITIAL, 0x7000_0000),
    (APIC_TIMER_DIVIDE, 0xa),
];

/// Those that are what they are as long as nothing happens.
fn steady() -> impl Iterator<Item = u32> {
    let sets = (0x100..0x280).step_by(16);
    let written = WRITABLE.into_iter().map(|(register, _)| register);
    [APIC_ID, APIC_VERSION, APIC_PPR, APIC_ESR, APIC_ICR]
        .into_iter()
        .chain(written)
        .chain(sets)
}

/// The guest reads what userspace reads.
fn compare(d: &Driver, when: &str) -> Outcome {
    for register in steady() {
        let value = d.read_apic(register)?;
        let saved = lapic_register(&d.vcpu, register)?;
        ensure_eq!(value, saved, "{when}: register {register:#x}");
    }
    Ok(())
}

fn every_register() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    compare(&d, "at first")?;
    for (register, value) in WRITABLE {
        d.apic(register, value)?;
        ensure_eq!(d.read_apic(register)?, value, "register {register:#x}");
    }
    compare(&d, "written")?;
    let now = d.read_apic(APIC_TIMER_CURRENT)?;
    ensure!(now < 0x7000_0000, "current count is {now:#x}");
    ensure!(now > 0, "current count");
    // Disabled by software, the entries of the vector table are masked.
    d.apic(APIC_LVT_LINT1, 0x44)?;
    d.apic(APIC_SVR, 0xee)?;
    ensure_eq!(d.read_apic(APIC_LVT_LINT1)?, 0x1_0044, "LINT1 disabled");
    compare(&d, "disabled")?;
    // Those that are written only read as nothing, and the version is not written.
    d.apic(APIC_SVR, 0x1ee)?;
    d.apic(APIC_EOI, 0)?;
    ensure_eq!(d.read_apic(APIC_EOI)?, 0, "EOI");
    d.apic(APIC_VERSION, 0)?;
    ensure_eq!(d.read_apic(APIC_VERSION)? & 0xff, 0x14, "version");
    compare(&d, "again")
}

fn parts_of_registers() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_LVT_TIMER, 0x3_0077)?;
    d.machine.load(
        CODE,
        code64!(
            "movzx eax, byte ptr [rsi]",
            "movzx ebx, byte ptr [rsi + 2]",
            "movzx ecx, word ptr [rsi]",
            "movzx edx, word ptr [rsi + 2]",
            "out 0x10, al"
        ),
    );
    d.vcpu.change_regs(|r| {
        (r.rip, r.rsi) = (CODE, LAPIC + u64::from(APIC_LVT_TIMER));
    })?;
    d.vcpu.run_to_done()?;
    let r = d.vcpu.regs()?;
    ensure_eq!((r.rax, r.rbx), (0x77, 3), "bytes");
    ensure_eq!((r.rcx, r.rdx), (0x77, 3), "words");
    Ok(())
}

/// What is not a register, or more than one, does no harm: eight bytes, between two registers, and
/// across the end of the page, behind which userspace answers.
fn beside_registers() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.machine
        .load(CODE, code64!("mov rax, [rsi]", "out 0x10, al"));
    d.machine
        .load(FREE, code64!("mov eax, [rsi]", "out 0x10, al"));
    for (code, offset) in [(CODE, 0x20), (FREE, 0x2e), (FREE, 0x24), (FREE, 0x3f8)] {
        d.vcpu
            .change_regs(|r| (r.rip, r.rsi) = (code, LAPIC + offset))?;
        d.vcpu.run_to_done()?;
    }
    d.vcpu
        .change_regs(|r| (r.rip, r.rsi, r.rax) = (FREE, LAPIC + 0xffe, 0))?;
    match d.vcpu.run_on()? {
        Exit::Mmio(m) if !m.write => {
            ensure_eq!((m.address, m.length), (LAPIC + 0x1000, 2), "rest of it");
            d.vcpu.set_mmio_data(0xabcd);
        }
        exit => return Err(d.vcpu.unexpected(&exit)),
    }
    d.vcpu.run_to_done()?;
    ensure_eq!(d.vcpu.regs()?.rax >> 16, 0xabcd, "what userspace gave");
    compare(&d, "afterwards")
}

fn more_than_moves() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_LVT_LINT1, 0x44)?;
    d.machine.load(
        CODE,
        code64!(
            "or dword ptr [rsi], 0x10000",
            "mov eax, 0x10055",
            "xchg eax, [rdi]",
            "cld",
            "mov ecx, 2",
            "lea rsi, [rdi - 0x10]",
            "mov edi, 0x6000",
            "2:",
            "movsd",
            "add rsi, 12",
            "loop 2b",
            "push qword ptr [rdx]",
            "pop rbx",
            "out 0x10, al"
        ),
    );
    d.vcpu.change_regs(|r| {
        r.rip = CODE;
        r.rsi = LAPIC + u64::from(APIC_LVT_LINT1);
        r.rdi = LAPIC + u64::from(LVT_ERROR);
        r.rdx = DATA2;
    })?;
    d.vcpu.run_to_done()?;
    ensure_eq!(d.read_apic(APIC_LVT_LINT1)?, 0x1_0044, "LINT1");
    ensure_eq!(d.read_apic(LVT_ERROR)?, 0x1_0055, "error entry");
    ensure_eq!(d.machine.read::<u32>(DATA2), 0x1_0044, "LINT1, copied");
    ensure_eq!(d.machine.read::<u32>(DATA2 + 4), 0x1_0055, "error, copied");
    compare(&d, "afterwards")
}

fn what_userspace_sets() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TPR, 0x20)?;
    let mut state: kvm_lapic_state = d.vcpu.get(KVM_GET_LAPIC)?;
    for (register, value) in WRITABLE {
        for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
            state.regs[register as usize + i] = byte as _;
        }
    }
    d.vcpu.set(KVM_SET_LAPIC, &state)?;
    for (register, value) in WRITABLE {
        ensure_eq!(d.read_apic(register)?, value, "register {register:#x}");
    }
    d.vcpu.change_sregs(|s| s.cr8 = 7)?;
    ensure_eq!(d.read_apic(APIC_TPR)?, 0x70, "TPR after CR8");
    compare(&d, "afterwards")
}

fn same(saved: &kvm_lapic_state, vcpu: &Vcpu, when: &str) -> Outcome {
    let now: kvm_lapic_state = vcpu.get(KVM_GET_LAPIC)?;
    // The kernel's own KVM tells an old PPR until the guest runs.
    for register in steady().filter(|register| *register != APIC_PPR) {
        let bytes = register as usize..register as usize + 4;
        let (one, other) = (&saved.regs[bytes.clone()], &now.regs[bytes]);
        ensure_eq!(one, other, "{when}: register {register:#x}");
    }
    Ok(())
}

/// With an interrupt in service and another one requested behind it.
fn saved_and_restored() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    for (register, value) in WRITABLE {
        if register != APIC_TIMER_INITIAL {
            d.apic(register, value)?;
        }
    }
    d.machine.vm.signal_msi(msi_address(0), 0x91)?;
    d.breathe()?;
    d.machine.vm.signal_msi(msi_address(0), 0x82)?;
    d.breathe()?;
    ensure_eq!((d.count(0x91), d.count(0x82)), (1, 0), "interrupts");
    let saved: kvm_lapic_state = d.vcpu.get(KVM_GET_LAPIC)?;
    ensure_eq!(lapic_register(&d.vcpu, APIC_ISR + 0x40)?, 1 << 0x11, "ISR");
    ensure_eq!(lapic_register(&d.vcpu, APIC_IRR + 0x40)?, 1 << 2, "IRR");
    d.apic(APIC_EOI, 0)?;
    d.breathe()?;
    ensure_eq!(d.count(0x82), 1, "interrupts after EOI");
    d.apic(APIC_EOI, 0)?;
    d.apic(APIC_ICR2, 0x0700_0000)?;
    d.vcpu.set(KVM_SET_LAPIC, &saved)?;
    same(&saved, &d.vcpu, "restored")?;
    compare(&d, "restored")?;
    same(&saved, &d.vcpu, "after the guest has run")?;
    d.apic(APIC_EOI, 0)?;
    d.breathe()?;
    ensure_eq!(d.count(0x82), 2, "the interrupt that was restored");
    Ok(())
}

/// Priorities, interrupts to itself and their ends, by the page, and nothing that userspace sees.
fn interrupts_within_one_run() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.machine.load(
        CODE,
        code64!(
            "mov ecx, 50",
            "sti",
            "2:",
            "mov dword ptr [rsi + 0x300], 0x40051",
            "mov dword ptr [rsi + 0x300], 0x40061",
            "nop",
            "loop 2b",
            // Both wait for the priority.
            "mov dword ptr [rsi + 0x80], 0x6f",
            "mov dword ptr [rsi + 0x300], 0x40055",
            "mov dword ptr [rsi + 0x300], 0x40065",
            "mov dword ptr [rsi + 0x300], 0x40075",
            "nop",
            "mov r8, [0x52a8]",
            "mov r9, [0x5328]",
            "mov r10, [0x53a8]",
            "mov r11d, [rsi + 0x220]",
            "mov r12d, [rsi + 0x230]",
            "mov dword ptr [rsi + 0x80], 0x5f",
            "nop",
            "mov r13, [0x52a8]",
            "mov r14, [0x5328]",
            "mov dword ptr [rsi + 0x80], 0",
            "nop",
            "cli",
            "out 0x10, al"
        ),
    );
    d.vcpu.change_regs(|r| (r.rip, r.rsi) = (CODE, LAPIC))?;
    d.vcpu.run_to_done()?;
    ensure_eq!((d.count(0x51), d.count(0x61)), (50, 50), "interrupts");
    let r = d.vcpu.regs()?;
    ensure_eq!((r.r8, r.r9, r.r10), (0, 0, 1), "with priority 0x6f");
    ensure_eq!((r.r11, r.r12), (1 << 0x15, 1 << 5), "requests");
    ensure_eq!((r.r13, r.r14), (0, 1), "with priority 0x5f");
    ensure_eq!((d.count(0x55), d.count(0x65)), (1, 1), "with priority 0");
    compare(&d, "afterwards")
}

/// The IOAPIC hears of each end, and sends the next while the line stays.
fn level_interrupts_within_one_run() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.ioapic(9, entry(0x49, 0, true))?;
    d.machine.vm.irq_line(9, 1)?;
    d.breathe()?;
    let count = d.count(0x49);
    ensure!(count > 1, "{count} interrupts while the line stays");
    d.machine.vm.irq_line(9, 0)?;
    d.breathe()?;
    let count = d.count(0x49);
    d.breathe()?;
    ensure_eq!(d.count(0x49), count, "interrupts after it fell");
    ensure_eq!(d.read_ioapic(0x10 + 18)? >> 14 & 1, 0, "remote IRR");
    // In service while the line falls and rises.
    let d = Driver::new(Eoi::None)?;
    d.ioapic(9, entry(0x49, 0, true))?;
    for n in 1..=5 {
        d.machine.vm.irq_line(9, 1)?;
        d.breathe()?;
        ensure_eq!(d.count(0x49), n, "interrupts");
        ensure_eq!(d.read_apic(APIC_ISR + 0x20)?, 1 << 9, "ISR");
        ensure_eq!(d.read_apic(0x180 + 0x20)?, 1 << 9, "TMR");
        d.machine.vm.irq_line(9, 0)?;
        d.apic(APIC_EOI, 0)?;
        ensure_eq!(d.read_apic(APIC_ISR + 0x20)?, 0, "ISR after EOI");
    }
    Ok(())
}

/// What userspace sends while the priority holds it back comes when the guest lowers it, by the
/// page or CR8, without any other exit.
fn lower_priority_lets_interrupts_in() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.machine.load(
        CODE,
        code64!(
            "sti",
            "nop",
            "mov r8, [0x5308]",
            "mov dword ptr [rsi + 0x80], 0x50",
            "nop",
            "mov r9, [0x5308]",
            "cli",
            "out 0x10, al"
        ),
    );
    d.machine.load(
        FREE,
        code64!(
            "sti",
            "nop",
            "mov r8, [0x5308]",
            "mov eax, 5",
            "mov cr8, rax",
            "nop",
            "mov r9, [0x5308]",
            "mov r10, cr8",
            "mov r11d, [rsi + 0x80]",
            "cli",
            "out 0x10, al"
        ),
    );
    for (n, code) in [CODE, FREE, CODE, FREE].into_iter().enumerate() {
        d.apic(APIC_TPR, 0x60)?;
        d.machine.vm.signal_msi(msi_address(0), 0x61)?;
        d.vcpu.change_regs(|r| (r.rip, r.rsi) = (code, LAPIC))?;
        d.vcpu.run_to_done()?;
        let r = d.vcpu.regs()?;
        let n = n as u64;
        ensure_eq!((r.r8, r.r9), (n, n + 1), "before and after it fell");
        if code == FREE {
            ensure_eq!((r.r10, r.r11), (5, 0x50), "CR8, TPR");
        }
    }
    Ok(())
}

fn self_interrupt_is_in_icr() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    for (command, high) in [
        (0x4_0051, 0x0100_0000),
        (0x4_4052, 0xff00_0000),
        (0x4_0053, 0),
    ] {
        d.apic(APIC_ICR2, high)?;
        ensure_eq!(lapic_register(&d.vcpu, APIC_ICR2)?, high, "ICR2");
        d.apic(APIC_ICR, command)?;
        ensure_eq!(lapic_register(&d.vcpu, APIC_ICR)?, command, "ICR");
        ensure_eq!(d.read_apic(APIC_ICR)?, command, "ICR read");
        ensure_eq!(d.read_apic(APIC_ICR2)?, high, "ICR2 read");
        d.breathe()?;
        ensure_eq!(d.count(command as u8), 1, "interrupts");
    }
    // To itself by its id, and to all.
    d.apic(APIC_ICR2, 0)?;
    d.apic(APIC_ICR, 0x54)?;
    d.apic(APIC_ICR, 0x8_0055)?;
    d.breathe()?;
    ensure_eq!((d.count(0x54), d.count(0x55)), (1, 1), "interrupts");
    compare(&d, "afterwards")
}

fn timer_by_the_page() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TIMER_DIVIDE, 0xb)?;
    d.apic(APIC_LVT_TIMER, 0x71)?;
    for n in 1..=3 {
        d.apic(APIC_TIMER_INITIAL, 100_000)?;
        ensure_eq!(d.read_apic(APIC_TIMER_INITIAL)?, 100_000, "initial count");
        d.halt()?;
        ensure_eq!(d.count(0x71), n, "interrupts");
        ensure_eq!(d.read_apic(APIC_TIMER_CURRENT)?, 0, "current count");
    }
    // Another mode stops it.
    d.apic(APIC_TIMER_INITIAL, 0x7fff_ffff)?;
    d.apic(APIC_TIMER_INITIAL, 0)?;
    ensure_eq!(
        d.read_apic(APIC_TIMER_CURRENT)?,
        0,
        "current count, stopped"
    );
    compare(&d, "afterwards")
}

/// ESR tells of errors since it was written last.
fn errors() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_ESR, 0)?;
    ensure_eq!(d.read_apic(APIC_ESR)?, 0, "ESR");
    d.apic(APIC_ESR, 0xffff_ffff)?;
    ensure_eq!(d.read_apic(APIC_ESR)?, 0, "ESR is not what was written");
    compare(&d, "afterwards")
}

fn fetched_from() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    // As code, the registers would be something.
    ensure_eq!(d.read_apic(APIC_ID)?, 0, "id");
    d.vcpu.change_regs(|r| r.rip = LAPIC + 0x20)?;
    let exit = d.vcpu.run_on()?;
    ensure!(
        matches!(exit, Exit::InternalError(1, _)),
        "exit is {exit:x?}"
    );
    Ok(())
}

/// An interrupt whose frame would go there is not delivered: userspace is told.
fn stack_in_it() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.machine
        .load(CODE, code64!("sti", "nop", "nop", "out 0x10, al"));
    ensure_eq!(d.read_apic(APIC_ID)?, 0, "id");
    d.machine.vm.signal_msi(msi_address(0), 0x61)?;
    d.vcpu
        .change_regs(|r| (r.rip, r.rsp) = (CODE, LAPIC + 0x140))?;
    let exit = d.vcpu.run_on()?;
    ensure!(
        matches!(exit, Exit::InternalError(KVM_INTERNAL_ERROR_DELIVERY_EV, _)),
        "exit is {exit:x?}"
    );
    Ok(())
}

/// Reads and writes that find no local APIC.
fn expect_nothing(d: &Driver, when: &str) -> Outcome {
    for register in [APIC_ID, APIC_TPR, APIC_ISR, APIC_ICR, APIC_LVT_TIMER, 0x400] {
        d.apic(register, 0x40051)?;
        ensure_eq!(d.read_apic(register)?, !0, "{when}: register {register:#x}");
    }
    Ok(())
}

const XAPIC: u64 = LAPIC | 1 << 11 | 1 << 8;
const X2APIC: u64 = XAPIC | 1 << 10;
const DISABLED: u64 = LAPIC | 1 << 8;

fn not_there_when_disabled() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    for _ in 0..3 {
        d.apic(APIC_LVT_LINT1, 0x1_0066)?;
        ensure_eq!(d.read_apic(APIC_LVT_LINT1)?, 0x1_0066, "LINT1");
        d.wrmsr(MSR_APIC_BASE, DISABLED)?;
        expect_nothing(&d, "disabled")?;
        d.wrmsr(MSR_APIC_BASE, XAPIC)?;
        compare(&d, "enabled again")?;
    }
    ensure_eq!(d.count(0x51), 0, "interrupts");
    Ok(())
}

fn not_there_in_x2apic_mode() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    for _ in 0..3 {
        d.apic(APIC_SVR, 0x1ff)?;
        d.apic(APIC_TPR, 0x20)?;
        d.wrmsr(MSR_APIC_BASE, X2APIC)?;
        expect_nothing(&d, "x2APIC mode")?;
        ensure_eq!(d.rdmsr(MSR_X2APIC + APIC_TPR / 16)?, 0x20, "TPR by MSR");
        d.wrmsr(MSR_X2APIC + APIC_TPR / 16, 0x30)?;
        d.wrmsr(MSR_APIC_BASE, DISABLED)?;
        d.wrmsr(MSR_APIC_BASE, XAPIC)?;
        compare(&d, "xAPIC mode again")?;
    }
    ensure_eq!(d.count(0x51), 0, "interrupts");
    // By userspace.
    for base in [X2APIC, XAPIC, DISABLED, XAPIC] {
        d.vcpu.set_msr(MSR_APIC_BASE, base)?;
        if base == XAPIC {
            compare(&d, "by userspace")?;
        } else {
            expect_nothing(&d, "by userspace")?;
        }
    }
    Ok(())
}

/// Where it was, there is nothing of the module's any more.
fn not_there_when_moved() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TPR, 0x20)?;
    let moved = 0xfee1_0000u64;
    let base = moved | 1 << 11 | 1 << 8;
    if d.vcpu.set_msr(MSR_APIC_BASE, base).is_err() {
        skip!("the base cannot be moved");
    }
    d.machine
        .load(CODE, code64!("mov eax, [rsi]", "out 0x10, al"));
    let at = LAPIC + u64::from(APIC_TPR);
    d.vcpu.change_regs(|r| (r.rip, r.rsi) = (CODE, at))?;
    match d.vcpu.run_on()? {
        Exit::Mmio(m) if !m.write && m.address == at => d.vcpu.set_mmio_data(0x1234_5678),
        exit => return Err(d.vcpu.unexpected(&exit)),
    }
    d.vcpu.run_to_done()?;
    ensure_eq!(d.vcpu.regs()?.rax, 0x1234_5678, "what userspace gave");
    ensure_eq!(d.read(moved + u64::from(APIC_TPR))?, 0x20, "TPR, moved");
    d.vcpu.set_msr(MSR_APIC_BASE, XAPIC)?;
    compare(&d, "moved back")
}

/// One vCPU uses the page all the time, and sees its own registers; the other changes its mode.
fn modes_change_beside_a_running_vcpu() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let (other, third) = (d.runnable(1)?, d.runnable(2)?);
    let stop = DATA + 0xff8;
    // Ends early with what it should not have read.
    d.machine.load(
        FREE,
        code64!(
            "2:",
            "mov eax, [rsi + 0x20]",
            "cmp eax, 0x01000000",
            "jne 3f",
            "mov dword ptr [rsi + 0x80], 0x10",
            "mov eax, [rsi + 0x80]",
            "cmp eax, 0x10",
            "jne 3f",
            "inc r8",
            "mov dword ptr [rsi + 0x300], 0x40058",
            "sti",
            "nop",
            "cli",
            "cmp qword ptr [rdi], 0",
            "je 2b",
            "mov eax, 0x600d",
            "3:",
            "out 0x10, al"
        ),
    );
    d.machine.write(stop, 0u64);
    other.change_regs(|r| (r.rip, r.rsi, r.rdi, r.r8) = (FREE, LAPIC, stop, 0))?;
    let result = std::thread::scope(|s| {
        let thread = s.spawn(|| other.run_to_done());
        let result = change_modes(&d, &third);
        d.machine.write(stop, 1u64);
        thread.join().unwrap()?;
        result
    });
    result?;
    let r = other.regs()?;
    ensure_eq!(r.rax, 0x600d, "how the other ended, or what it read");
    // As many as it sent, for each has come before the next.
    ensure_eq!(d.count(0x58), r.r8, "interrupts of the other");
    compare(&d, "afterwards")
}

fn change_modes(d: &Driver, third: &Vcpu) -> Outcome {
    for round in 0..20 {
        d.wrmsr(MSR_APIC_BASE, X2APIC)?;
        expect_nothing(d, "x2APIC mode")?;
        d.wrmsr(MSR_APIC_BASE, DISABLED)?;
        expect_nothing(d, "disabled")?;
        d.wrmsr(MSR_APIC_BASE, XAPIC)?;
        ensure_eq!(d.read_apic(APIC_ID)?, 0, "id, round {round}");
        d.apic(APIC_LVT_LINT1, 0x1_0000 | round)?;
        ensure_eq!(d.read_apic(APIC_LVT_LINT1)?, 0x1_0000 | round, "LINT1");
    }
    // A third one that was never in xAPIC mode when it ran.
    wrmsr(third, MSR_APIC_BASE, X2APIC & !(1 << 8))?;
    ensure_eq!(d.read_apic(APIC_ID)?, 0, "id beside the third");
    Ok(())
}

const SLOT: u32 = 7;
const MARK: u32 = 0x600d_600d;

/// Memory of userspace at the page's place is memory.
fn memory_over_it() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let memory = Mapping::anonymous(0x1000)?;
    ensure_eq!(d.read_apic(APIC_ID)?, 0, "id");
    for round in 0..3 {
        memory.write(APIC_ID as usize, MARK + round);
        if d.machine.vm.map(SLOT, 0, LAPIC, &memory).is_err() {
            skip!("the module has memory of its own there");
        }
        ensure_eq!(d.read_apic(APIC_ID)?, MARK + round, "memory");
        d.apic(APIC_TPR, MARK)?;
        ensure_eq!(memory.read::<u32>(APIC_TPR as usize), MARK, "written");
        ensure_eq!(lapic_register(&d.vcpu, APIC_TPR)?, 0, "TPR");
        d.machine.vm.set_memory(SLOT, 0, LAPIC, 0, memory.hva())?;
        compare(&d, "without the memory")?;
    }
    Ok(())
}

/// The same with a vCPU that reads all the time.
fn memory_under_a_running_vcpu() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let memory = Mapping::anonymous(0x1000)?;
    memory.write(LDR as usize, MARK);
    if d.machine.vm.map(SLOT, 0, LAPIC, &memory).is_err() {
        skip!("the module has memory of its own there");
    }
    d.machine.vm.set_memory(SLOT, 0, LAPIC, 0, memory.hva())?;
    d.apic(LDR, 0x0300_0000)?;
    d.machine.load(
        CODE,
        code64!(
            "sti",
            "2:",
            "mov eax, [rsi]",
            "cmp eax, ebx",
            "jne 2b",
            "cli",
            "out 0x10, al"
        ),
    );
    for _ in 0..5 {
        d.vcpu.change_regs(|r| {
            (r.rip, r.rsi, r.rbx) = (CODE, LAPIC + u64::from(LDR), u64::from(MARK));
        })?;
        std::thread::scope(|s| {
            let thread = s.spawn(|| d.vcpu.run_to_done());
            std::thread::sleep(std::time::Duration::from_millis(5));
            d.machine.vm.map(SLOT, 0, LAPIC, &memory)?;
            thread.join().unwrap()
        })?;
        d.machine.vm.set_memory(SLOT, 0, LAPIC, 0, memory.hva())?;
        ensure_eq!(d.read_apic(LDR)?, 0x0300_0000, "without the memory");
    }
    Ok(())
}

/// Ticks of the TSC that 32 reads of a register take: the least of some tries, so that nothing of
/// the host's is in it.
fn time_of_reads(d: &Driver) -> Result<u64, Failure> {
    d.machine.load(
        CODE,
        code64!(
            "mov r9, -1",
            "mov r8d, 16",
            "2:",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "mov rbx, rax",
            "mov ecx, 32",
            "3:",
            "mov eax, [rsi]",
            "loop 3b",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "sub rax, rbx",
            "cmp rax, r9",
            "cmovb r9, rax",
            "dec r8d",
            "jnz 2b",
            "out 0x10, al"
        ),
    );
    d.vcpu
        .change_regs(|r| (r.rip, r.rsi) = (CODE, LAPIC + u64::from(APIC_ID)))?;
    d.vcpu.run_to_done()?;
    Ok(d.vcpu.regs()?.r9)
}

/// Whoever answers the reads, the processor or the module, does so again.
fn ensure_as_fast(d: &Driver, before: u64, when: &str) -> Outcome {
    let after = time_of_reads(d)?;
    ensure!(
        after < before.saturating_mul(8),
        "32 reads took {before} ticks, and {after} {when}"
    );
    Ok(())
}

fn reads_are_as_fast_after_memory() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let memory = Mapping::anonymous(0x1000)?;
    let before = time_of_reads(&d)?;
    for at in [LAPIC, LAPIC + 0x10_0000] {
        if d.machine.vm.map(SLOT, 0, LAPIC, &memory).is_err() {
            skip!("the module has memory of its own there");
        }
        d.read_apic(APIC_ID)?;
        // Moved away, or deleted.
        if at != LAPIC {
            d.machine.vm.map(SLOT, 0, at, &memory)?;
            ensure_as_fast(&d, before, "after the memory was moved")?;
        }
        d.machine.vm.set_memory(SLOT, 0, at, 0, memory.hva())?;
        ensure_as_fast(&d, before, "after the memory was gone")?;
    }
    Ok(())
}

fn reads_are_as_fast_without_the_other_vcpu() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let other = d.runnable(1)?;
    let before = time_of_reads(&d)?;
    // It runs, and is never in xAPIC mode again.
    wrmsr(&other, MSR_APIC_BASE, DISABLED & !(1 << 8))?;
    drop(other);
    ensure_as_fast(&d, before, "after a vCPU without local APIC was gone")
}
