// SPDX-License-Identifier: GPL-2.0-or-later

//! The local APIC: registers by page and by MSR, timer, interrupts to itself (APM volume 2,
//! chapter 16).

use std::time::{Duration, Instant};

use ironvm_abi_tests::driver::{lapic_register, msi_address, set_lapic_register, Driver, Eoi};
use ironvm_abi_tests::guest::long_mode_with_irqchip;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::lists;
use ironvm_abi_tests::{code64, ensure, ensure_eq, skip, test, Exit, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("lapic", registers_by_page),
    test!("lapic", reserved_bits),
    test!("lapic", lvt_masked_while_disabled),
    test!("lapic", software_disabled_takes_nothing),
    test!("lapic", self_interrupt),
    test!("lapic", tpr_holds_back),
    test!("lapic", cr8_is_tpr),
    test!("lapic", cr8_stays_when_the_mode_changes),
    test!("lapic", nmi_to_itself),
    test!("lapic", disabled_page_is_all_ones),
    test!("lapic", moved_page),
    test!("x2apic", switched_on_by_guest),
    test!("x2apic", registers_by_msr),
    test!("x2apic", msrs_fault_in_xapic_mode),
    test!("x2apic", bad_accesses_fault),
    test!("x2apic", page_is_all_ones),
    test!("x2apic", self_ipi),
    test!("x2apic", icr_is_one_register),
    test!("timer", one_shot),
    test!("timer", one_shot_fires_once),
    test!("timer", periodic),
    test!("timer", masked_does_not_fire),
    test!("timer", current_count_falls),
    test!("timer", divider),
    test!("timer", tsc_deadline),
    test!("timer", tsc_deadline_in_the_past),
    test!("timer", tsc_deadline_disarmed),
    test!("timer", wakes_hlt_many_times),
    test!("timer", stops_with_zero),
    test!("timer", fires_while_guest_spins),
];

fn registers_by_page() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    ensure_eq!(d.read_apic(APIC_ID)?, 0, "id");
    ensure_eq!(d.read_apic(APIC_VERSION)? & 0xff, 0x14, "version");
    for (register, value) in [
        (APIC_TPR, 0x20),
        (APIC_SVR, 0x1ee),
        (0xd0, 0x0300_0000),
        (APIC_LVT_LINT1, 0x0400),
        (APIC_TIMER_DIVIDE, 0xb),
        (APIC_LVT_TIMER, 0x2_0077),
    ] {
        d.apic(register, value)?;
        ensure_eq!(d.read_apic(register)?, value, "register {register:#x}");
        ensure_eq!(
            lapic_register(&d.vcpu, register)?,
            value,
            "by KVM_GET_LAPIC"
        );
    }
    Ok(())
}

fn reserved_bits() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    // The low four bits are not CR8's, and get lost where TPR is kept in it.
    d.apic(APIC_TPR, 0xffff_ff10)?;
    ensure_eq!(d.read_apic(APIC_TPR)?, 0x10, "TPR");
    // The version is not written.
    let version = d.read_apic(APIC_VERSION)?;
    d.apic(APIC_VERSION, 0)?;
    ensure_eq!(d.read_apic(APIC_VERSION)?, version, "version");
    Ok(())
}

/// Disabled by software, every entry of the vector table is masked and stays so.
fn lvt_masked_while_disabled() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_LVT_LINT1, 0x400)?;
    d.apic(APIC_SVR, 0xff)?;
    ensure_eq!(d.read_apic(APIC_LVT_LINT1)? >> 16 & 1, 1, "mask of LINT1");
    d.apic(APIC_LVT_TIMER, 0x40)?;
    ensure_eq!(
        d.read_apic(APIC_LVT_TIMER)? >> 16 & 1,
        1,
        "mask of the timer"
    );
    Ok(())
}

fn software_disabled_takes_nothing() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_SVR, 0xff)?;
    // Whether the call tells of it is not fixed.
    let _ = d.machine.vm.signal_msi(msi_address(0), 0x61);
    d.breathe()?;
    d.apic(APIC_SVR, 0x1ff)?;
    d.breathe()?;
    ensure_eq!(d.count(0x61), 0, "interrupts");
    Ok(())
}

fn self_interrupt() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    for n in 1..=3 {
        // The shorthand "self".
        d.apic(APIC_ICR, 0x4_0051)?;
        d.breathe()?;
        ensure_eq!(d.count(0x51), n, "interrupts by shorthand");
    }
    d.apic(APIC_ICR2, 0)?;
    d.apic(APIC_ICR, 0x52)?;
    d.breathe()?;
    ensure_eq!(d.count(0x52), 1, "interrupts by id");
    // All including itself; all but itself.
    d.apic(APIC_ICR, 0x8_0053)?;
    d.apic(APIC_ICR, 0xc_0054)?;
    d.breathe()?;
    ensure_eq!(
        (d.count(0x53), d.count(0x54)),
        (1, 0),
        "all, all but itself"
    );
    ensure_eq!(d.read_apic(APIC_ICR)? >> 12 & 1, 0, "delivery status");
    Ok(())
}

fn tpr_holds_back() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TPR, 0x50)?;
    d.machine.vm.signal_msi(msi_address(0), 0x51)?;
    d.machine.vm.signal_msi(msi_address(0), 0x61)?;
    d.breathe()?;
    ensure_eq!((d.count(0x51), d.count(0x61)), (0, 1), "below, above");
    d.apic(APIC_TPR, 0x40)?;
    d.breathe()?;
    ensure_eq!(d.count(0x51), 1, "after TPR fell");
    Ok(())
}

fn cr8_is_tpr() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let m = &d.machine;
    m.load(
        CODE,
        code64!(
            "mov cr8, rax",
            "mov ebx, [rsi]",
            "mov dword ptr [rsi], 0x70",
            "mov rcx, cr8",
            "out 0x10, al"
        ),
    );
    d.vcpu.change_regs(|r| {
        (r.rip, r.rax) = (CODE, 9);
        r.rsi = LAPIC + u64::from(APIC_TPR);
    })?;
    d.vcpu.run_to_done()?;
    let r = d.vcpu.regs()?;
    ensure_eq!((r.rbx, r.rcx), (0x90, 7), "TPR after CR8, CR8 after TPR");
    ensure_eq!(
        lapic_register(&d.vcpu, APIC_TPR)?,
        0x70,
        "TPR by KVM_GET_LAPIC"
    );
    ensure_eq!(d.vcpu.sregs()?.cr8, 7, "CR8 by KVM_GET_SREGS");
    // And what CR8 holds back comes when it falls.
    m.vm.signal_msi(msi_address(0), 0x65)?;
    d.breathe()?;
    ensure_eq!(d.count(0x65), 0, "interrupts held back");
    m.load(
        CODE,
        code64!(
            "sti",
            "xor eax, eax",
            "mov cr8, rax",
            "nop",
            "nop",
            "cli",
            "out 0x10, al"
        ),
    );
    d.vcpu.change_regs(|r| r.rip = CODE)?;
    d.vcpu.run_to_done()?;
    ensure_eq!(d.count(0x65), 1, "interrupts after CR8 fell");
    Ok(())
}

/// From xAPIC mode to disabled and back, and to x2APIC mode; by the guest and by userspace.
fn cr8_stays_when_the_mode_changes() -> Outcome {
    const BASE: u64 = 0xfee0_0900;
    let code = code64!(
        "mov ecx, 0x1b",
        "xor edx, edx",
        "2:",
        "mov eax, ebx",
        "wrmsr",
        "mov r8, cr8",
        "out 0x10, al",
        "jmp 2b"
    );
    let (machine, vcpu) = long_mode_with_irqchip(code)?;
    let mut sregs = vcpu.sregs()?;
    sregs.cr8 = 9;
    vcpu.set_sregs(&sregs)?;
    for base in [BASE, BASE & !0x800, BASE, BASE | 0x400, BASE & !0x800, BASE] {
        vcpu.change_regs(|r| r.rbx = base)?;
        vcpu.run_to_done()?;
        ensure_eq!(vcpu.regs()?.r8, 9, "CR8 with APIC base {base:#x}");
        ensure_eq!(vcpu.sregs()?.cr8, 9, "CR8 by KVM_GET_SREGS");
    }
    for base in [BASE & !0x800, BASE | 0x400, BASE] {
        sregs = vcpu.sregs()?;
        sregs.apic_base = base;
        vcpu.set_sregs(&sregs)?;
        vcpu.change_regs(|r| r.rbx = base)?;
        vcpu.run_to_done()?;
        ensure_eq!(vcpu.regs()?.r8, 9, "CR8 with APIC base {base:#x} set");
    }
    // What it holds back comes when it is lowered.
    machine.load(
        FREE,
        code64!("xor eax, eax", "mov cr8, rax", "sti", "2:", "jmp 2b"),
    );
    set_lapic_register(&vcpu, APIC_SVR, 0x1ff)?;
    vcpu.change_regs(|r| r.rip = FREE)?;
    machine.vm.signal_msi(msi_address(0), 0x55)?;
    machine.expect_caught(&vcpu, 0x55)?;
    Ok(())
}

fn nmi_to_itself() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.machine.load(
        CODE,
        code64!("mov dword ptr [rsi], 0x400", "nop", "out 0x10, al"),
    );
    d.vcpu
        .change_regs(|r| (r.rip, r.rsi) = (CODE, LAPIC + u64::from(APIC_ICR)))?;
    d.machine.expect_caught(&d.vcpu, NMI)?;
    d.vcpu.run_to_done()
}

/// Without KVM_X86_QUIRK_LAPIC_MMIO_HOLE (a quirk that is on by default) it would be userspace's.
fn disabled_page_is_all_ones() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.wrmsr(MSR_APIC_BASE, LAPIC | 1 << 8)?;
    ensure_eq!(d.read_apic(APIC_ID)?, !0, "register of the disabled APIC");
    d.apic(APIC_ICR, 0x4_0051)?;
    d.breathe()?;
    ensure_eq!(d.count(0x51), 0, "interrupts");
    // CPUID tells of it.
    d.machine
        .load(CODE, code64!("mov eax, 1", "cpuid", "out 0x10, al"));
    d.vcpu.change_regs(|r| r.rip = CODE)?;
    d.vcpu.run_to_done()?;
    ensure_eq!(d.vcpu.regs()?.rdx >> 9 & 1, 0, "APIC bit of CPUID");
    Ok(())
}

/// A base other than the usual one need not be supported, but must not stop the vCPU.
fn moved_page() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let moved = 0xfee1_0000u64;
    if d.vcpu
        .set_msr(MSR_APIC_BASE, moved | 1 << 11 | 1 << 8)
        .is_err()
    {
        skip!("the base cannot be moved");
    }
    d.vcpu
        .change_regs(|r| (r.rip, r.rsi) = (CODE2 + 0x10, moved + 0x30))?;
    match d.vcpu.run_on()? {
        Exit::Mmio(m) if !m.write => d.vcpu.set_mmio_data(0x5_0014),
        exit if exit.is_out(PORT_DONE) => return Ok(()),
        exit => return Err(d.vcpu.unexpected(&exit)),
    }
    d.vcpu.run_to_done()
}

const X2APIC_BASE: u64 = LAPIC | 1 << 11 | 1 << 10 | 1 << 8;

fn x2apic_driver() -> Result<Driver, ironvm_abi_tests::Failure> {
    let d = Driver::new(Eoi::X2apic)?;
    d.wrmsr(MSR_APIC_BASE, X2APIC_BASE)?;
    Ok(d)
}

fn msr(register: u32) -> u32 {
    MSR_X2APIC + register / 16
}

fn switched_on_by_guest() -> Outcome {
    let d = x2apic_driver()?;
    ensure_eq!(d.rdmsr(MSR_APIC_BASE)?, X2APIC_BASE, "base");
    ensure_eq!(
        d.vcpu.sregs()?.apic_base,
        X2APIC_BASE,
        "base by KVM_GET_SREGS"
    );
    ensure_eq!(d.rdmsr(msr(APIC_ID))?, 0, "id");
    Ok(())
}

fn registers_by_msr() -> Outcome {
    let d = x2apic_driver()?;
    ensure_eq!(d.rdmsr(msr(APIC_VERSION))? & 0xff, 0x14, "version");
    for (register, value) in [
        (APIC_TPR, 0x20),
        (APIC_SVR, 0x1ee),
        (APIC_LVT_LINT1, 0x400),
        (APIC_TIMER_DIVIDE, 0xb),
        (APIC_LVT_TIMER, 0x2_0077),
    ] {
        d.wrmsr(msr(register), value)?;
        ensure_eq!(d.rdmsr(msr(register))?, value, "register {register:#x}");
        ensure_eq!(d.vcpu.msr(msr(register))?, value, "by KVM_GET_MSRS");
    }
    // Logical id: cluster and bit, from the id.
    ensure_eq!(d.rdmsr(msr(0xd0))?, 1, "logical id");
    Ok(())
}

fn msrs_fault_in_xapic_mode() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.vcpu
        .change_regs(|r| (r.rip, r.rcx) = (CODE2 + 0x50, u64::from(msr(APIC_ID))))?;
    d.machine.expect_caught(&d.vcpu, GP)?;
    Ok(())
}

fn bad_accesses_fault() -> Outcome {
    let d = x2apic_driver()?;
    let read = |register: u32| {
        d.vcpu.change_regs(|r| {
            (r.rip, r.rcx) = (CODE2 + 0x50, u64::from(register));
            r.rsp = STACKS + 0xf00;
        })?;
        d.machine.expect_caught(&d.vcpu, GP)
    };
    let write = |register: u32, value: u64| {
        d.vcpu.change_regs(|r| {
            (r.rip, r.rcx) = (CODE2 + 0x40, u64::from(register));
            (r.rax, r.rdx) = (value & 0xffff_ffff, value >> 32);
            r.rsp = STACKS + 0xf00;
        })?;
        d.machine.expect_caught(&d.vcpu, GP)
    };
    // EOI is write-only, DFR is not there, SELF IPI is write-only.
    read(msr(APIC_EOI))?;
    read(msr(0xe0))?;
    read(msr(APIC_SELF_IPI))?;
    // Id and version are read-only, and there are no upper halves.
    write(msr(APIC_ID), 1)?;
    write(msr(APIC_VERSION), 0)?;
    write(msr(APIC_SVR), 1 << 32)?;
    // From x2APIC straight to xAPIC.
    write(MSR_APIC_BASE, LAPIC | 1 << 11 | 1 << 8)?;
    ensure_eq!(d.rdmsr(MSR_APIC_BASE)?, X2APIC_BASE, "base");
    Ok(())
}

fn page_is_all_ones() -> Outcome {
    let d = x2apic_driver()?;
    ensure_eq!(d.read_apic(APIC_ID)?, !0, "register by the page");
    Ok(())
}

fn self_ipi() -> Outcome {
    let d = x2apic_driver()?;
    for n in 1..=5 {
        d.wrmsr(msr(APIC_SELF_IPI), 0x58)?;
        d.breathe()?;
        ensure_eq!(d.count(0x58), n, "interrupts");
    }
    Ok(())
}

fn icr_is_one_register() -> Outcome {
    let d = x2apic_driver()?;
    d.wrmsr(msr(APIC_ICR), 0x59)?;
    d.breathe()?;
    ensure_eq!(d.count(0x59), 1, "interrupts to id 0");
    d.wrmsr(msr(APIC_ICR), 7 << 32 | 0x59)?;
    d.breathe()?;
    ensure_eq!(d.count(0x59), 1, "interrupts to id 7");
    ensure_eq!(d.rdmsr(msr(APIC_ICR))?, 7 << 32 | 0x59, "ICR");
    // The broadcast id.
    d.wrmsr(msr(APIC_ICR), 0xffff_ffff << 32 | 0x5a)?;
    d.breathe()?;
    ensure_eq!(d.count(0x5a), 1, "interrupts to all");
    Ok(())
}

const TIMER: u8 = 0x90;

fn one_shot() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TIMER_DIVIDE, 0xb)?;
    d.apic(APIC_LVT_TIMER, TIMER.into())?;
    for n in 1..=5 {
        d.apic(APIC_TIMER_INITIAL, 1_000_000)?;
        d.halt()?;
        ensure_eq!(d.count(TIMER), n, "interrupts");
    }
    Ok(())
}

fn one_shot_fires_once() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TIMER_DIVIDE, 0xb)?;
    d.apic(APIC_LVT_TIMER, TIMER.into())?;
    d.apic(APIC_TIMER_INITIAL, 100_000)?;
    d.halt()?;
    ensure_eq!(d.read_apic(APIC_TIMER_CURRENT)?, 0, "current count");
    std::thread::sleep(Duration::from_millis(20));
    d.breathe()?;
    ensure_eq!(d.count(TIMER), 1, "interrupts");
    Ok(())
}

fn periodic() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TIMER_DIVIDE, 0xb)?;
    d.apic(APIC_LVT_TIMER, 0x2_0000 | u32::from(TIMER))?;
    d.apic(APIC_TIMER_INITIAL, 5_000_000)?;
    let start = Instant::now();
    while d.count(TIMER) < 10 {
        d.halt()?;
    }
    // The bus runs at 1 GHz: 5 ms each. Later is the host's affair, earlier cannot be.
    ensure!(
        start.elapsed() > Duration::from_millis(40),
        "10 ticks in {:?}",
        start.elapsed()
    );
    d.apic(APIC_TIMER_INITIAL, 0)?;
    d.breathe()?;
    let count = d.count(TIMER);
    std::thread::sleep(Duration::from_millis(20));
    d.breathe()?;
    ensure_eq!(d.count(TIMER), count, "interrupts after it was stopped");
    Ok(())
}

fn masked_does_not_fire() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TIMER_DIVIDE, 0xb)?;
    d.apic(APIC_LVT_TIMER, 0x1_0000 | u32::from(TIMER))?;
    d.apic(APIC_TIMER_INITIAL, 100_000)?;
    std::thread::sleep(Duration::from_millis(20));
    d.breathe()?;
    ensure_eq!(d.count(TIMER), 0, "interrupts");
    Ok(())
}

fn current_count_falls() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TIMER_DIVIDE, 0xb)?;
    d.apic(APIC_LVT_TIMER, 0x1_0000 | u32::from(TIMER))?;
    d.apic(APIC_TIMER_INITIAL, 0xffff_fff0)?;
    let mut last = d.read_apic(APIC_TIMER_CURRENT)?;
    ensure!(last > 0, "current count is zero at start");
    for _ in 0..10 {
        let now = d.read_apic(APIC_TIMER_CURRENT)?;
        ensure!(now < last, "current count {now} after {last}");
        last = now;
    }
    Ok(())
}

/// By 128 the same count lasts 128 times as long.
fn divider() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_LVT_TIMER, TIMER.into())?;
    d.apic(APIC_TIMER_DIVIDE, 0xa)?;
    let start = Instant::now();
    d.apic(APIC_TIMER_INITIAL, 1_000_000)?;
    d.halt()?;
    let took = start.elapsed();
    ensure!(took >= Duration::from_millis(120), "128 ms took {took:?}");
    ensure!(took < Duration::from_secs(10), "128 ms took {took:?}");
    Ok(())
}

fn deadline_driver() -> Result<Driver, ironvm_abi_tests::Failure> {
    let d = Driver::new(Eoi::Xapic)?;
    let bit = 1u32 << 24;
    let mut cpuid = d.machine.cpuid.clone();
    match cpuid.leaf_mut(1, 0) {
        // The bit may be set whenever the capability is there.
        Some(leaf) if d.machine.kvm.has(KVM_CAP_TSC_DEADLINE_TIMER) => leaf.ecx |= bit,
        _ => skip!("no KVM_CAP_TSC_DEADLINE_TIMER"),
    }
    cpuid.set_apic_id(0);
    cpuid.set(&d.vcpu)?;
    d.apic(APIC_LVT_TIMER, 0x4_0000 | u32::from(TIMER))?;
    Ok(d)
}

fn tsc_deadline() -> Outcome {
    let d = deadline_driver()?;
    let khz = ironvm_abi_tests::sys::ioctl(&d.vcpu, KVM_GET_TSC_KHZ, 0)? as u64;
    for n in 1..=5 {
        let deadline = d.tsc()? + 5 * khz;
        d.wrmsr(MSR_TSC_DEADLINE, deadline)?;
        d.halt()?;
        ensure_eq!(d.count(TIMER), n, "interrupts");
        let now = d.tsc()?;
        ensure!(now >= deadline, "TSC {now} before the deadline {deadline}");
        ensure_eq!(d.rdmsr(MSR_TSC_DEADLINE)?, 0, "deadline after it");
    }
    Ok(())
}

fn tsc_deadline_in_the_past() -> Outcome {
    let d = deadline_driver()?;
    d.tsc()?;
    d.wrmsr(MSR_TSC_DEADLINE, 1)?;
    d.halt()?;
    ensure_eq!(d.count(TIMER), 1, "interrupts");
    Ok(())
}

fn tsc_deadline_disarmed() -> Outcome {
    let d = deadline_driver()?;
    let khz = ironvm_abi_tests::sys::ioctl(&d.vcpu, KVM_GET_TSC_KHZ, 0)? as u64;
    let deadline = d.tsc()? + 3_600_000 * khz;
    d.wrmsr(MSR_TSC_DEADLINE, deadline)?;
    ensure_eq!(d.rdmsr(MSR_TSC_DEADLINE)?, deadline, "deadline");
    let (_, values) = lists::get_msrs(&d.vcpu, &[MSR_TSC_DEADLINE])?;
    ensure_eq!(values[0], deadline, "deadline by KVM_GET_MSRS");
    d.wrmsr(MSR_TSC_DEADLINE, 0)?;
    d.breathe()?;
    ensure_eq!(d.count(TIMER), 0, "interrupts");
    // In this mode the initial count does nothing.
    d.apic(APIC_TIMER_INITIAL, 1000)?;
    std::thread::sleep(Duration::from_millis(10));
    d.breathe()?;
    ensure_eq!(d.count(TIMER), 0, "interrupts by the initial count");
    Ok(())
}

fn wakes_hlt_many_times() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TIMER_DIVIDE, 0xb)?;
    d.apic(APIC_LVT_TIMER, TIMER.into())?;
    for n in 1..=200 {
        d.apic(APIC_TIMER_INITIAL, 20_000 + 1_000 * n as u32)?;
        d.halt()?;
        ensure_eq!(d.count(TIMER), n, "interrupts");
    }
    Ok(())
}

fn stops_with_zero() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TIMER_DIVIDE, 0xb)?;
    d.apic(APIC_LVT_TIMER, TIMER.into())?;
    d.apic(APIC_TIMER_INITIAL, 2_000_000_000)?;
    d.apic(APIC_TIMER_INITIAL, 0)?;
    ensure_eq!(d.read_apic(APIC_TIMER_CURRENT)?, 0, "current count");
    ensure_eq!(d.count(TIMER), 0, "interrupts");
    Ok(())
}

/// A guest that never exits by itself gets its timer interrupt all the same.
fn fires_while_guest_spins() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TIMER_DIVIDE, 0xb)?;
    d.apic(APIC_LVT_TIMER, 0x2_0000 | u32::from(TIMER))?;
    d.machine.load(
        CODE,
        code64!(
            "sti",
            "2:",
            "cmp qword ptr [rsi], 5",
            "jb 2b",
            "cli",
            "out 0x10, al"
        ),
    );
    d.apic(APIC_TIMER_INITIAL, 2_000_000)?;
    d.vcpu
        .change_regs(|r| (r.rip, r.rsi) = (CODE, DATA + 8 * u64::from(TIMER)))?;
    d.vcpu.run_to_done()?;
    ensure!(d.count(TIMER) >= 5, "interrupts");
    Ok(())
}
