// SPDX-License-Identifier: GPL-2.0-or-later

//! What KVM offers to guests that know it: clock, wall clock, stolen time, quick EOI (Linux's
//! documentation of KVM's MSRs and CPUID leaves).

use ironvm_abi_tests::driver::{msi_address, Driver, Eoi};
use ironvm_abi_tests::guest::{long_mode, Machine};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{code64, ensure, ensure_eq, skip, test, Failure, Outcome, SysResult, Vcpu};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("pv", features_and_base),
    test!("pv", clock_page),
    test!("pv", clock_advances_with_tsc),
    test!("pv", clock_is_clock_of_vm),
    test!("pv", clock_bad_address),
    test!("pv", clock_paused_flag),
    test!("pv", wall_clock),
    test!("pv", steal_time),
    test!("pv", steal_time_bad_address),
    test!("pv", async_page_fault_area),
    test!("pv", quick_eoi),
    test!("pv", msrs_need_features),
    test!("pv", kick_hypercall),
    test!("pv", kick_shows_in_mp_state),
    test!("pv", ipis_by_hypercall),
    test!("pv", tsc_adjust),
];

const WALL_CLOCK: u32 = 0x4b56_4d00;
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const ASYNC_PF_EN: u32 = 0x4b56_4d02;
const STEAL_TIME: u32 = 0x4b56_4d03;
const PV_EOI: u32 = 0x4b56_4d04;

const FEATURE_CLOCK2: u32 = 1 << 3;
const FEATURE_ASYNC_PF: u32 = 1 << 4;
const FEATURE_STEAL_TIME: u32 = 1 << 5;
const FEATURE_PV_EOI: u32 = 1 << 6;
const FEATURE_UNHALT: u32 = 1 << 7;
const FEATURE_SEND_IPI: u32 = 1 << 11;

fn features(machine: &Machine) -> u32 {
    machine.cpuid.leaf(0x4000_0001, 0).map_or(0, |l| l.eax)
}

fn need(machine: &Machine, feature: u32, what: &str) -> Outcome {
    if features(machine) & feature == 0 {
        skip!("no {what}");
    }
    Ok(())
}

/// `struct pvclock_vcpu_time_info`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct ClockPage {
    version: u32,
    pad: u32,
    tsc: u64,
    system_time: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
    pad2: [u8; 2],
}

impl ClockPage {
    /// Nanoseconds at a value of the guest's TSC.
    fn at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc);
        let ticks = match self.shift {
            s if s >= 0 => ticks << s,
            s => ticks >> -s,
        };
        self.system_time + ((u128::from(ticks) * u128::from(self.multiplier)) >> 32) as u64
    }
}

fn features_and_base() -> Outcome {
    let machine = Machine::new()?;
    let Some(leaf) = machine.cpuid.leaf(0x4000_0000, 0) else {
        ironvm_abi_tests::fail!("no leaf 0x40000000");
    };
    ensure!(leaf.eax >= 0x4000_0001, "highest leaf is {:#x}", leaf.eax);
    ensure!(
        machine.cpuid.leaf(0x4000_0001, 0).is_some(),
        "no leaf 0x40000001"
    );
    Ok(())
}

fn clock_driver() -> Result<Driver, Failure> {
    let d = Driver::new(Eoi::Xapic)?;
    need(&d.machine, FEATURE_CLOCK2, "KVM clock")?;
    d.wrmsr(SYSTEM_TIME, DATA2 | 1)?;
    Ok(d)
}

fn clock_page() -> Outcome {
    let d = clock_driver()?;
    let page: ClockPage = d.machine.read(DATA2);
    ensure!(
        page.version != 0 && page.version % 2 == 0,
        "version {}",
        page.version
    );
    ensure!(page.multiplier != 0, "multiplier is 0");
    ensure_eq!(d.rdmsr(SYSTEM_TIME)?, DATA2 | 1, "MSR");
    // A second's worth of ticks is a second, to a hundredth.
    let khz = ironvm_abi_tests::sys::ioctl(&d.vcpu, KVM_GET_TSC_KHZ, 0)? as u64;
    let second = page.at(page.tsc + khz * 1000) - page.system_time;
    ensure!(
        (990_000_000..=1_010_000_000).contains(&second),
        "{khz} kHz are {second} ns"
    );
    Ok(())
}

fn clock_advances_with_tsc() -> Outcome {
    let d = clock_driver()?;
    let mut last = 0;
    for _ in 0..50 {
        let tsc = d.tsc()?;
        let page: ClockPage = d.machine.read(DATA2);
        let now = page.at(tsc);
        ensure!(now >= last, "{now} ns after {last} ns");
        last = now;
    }
    Ok(())
}

fn clock_is_clock_of_vm() -> Outcome {
    let d = clock_driver()?;
    let set = kvm_clock_data {
        clock: 5_000_000_000_000,
        ..Default::default()
    };
    d.machine.vm.set(KVM_SET_CLOCK, &set)?;
    let tsc = d.tsc()?;
    let page: ClockPage = d.machine.read(DATA2);
    let guest = page.at(tsc);
    let host = d.machine.vm.get::<kvm_clock_data>(KVM_GET_CLOCK)?.clock;
    ensure!(
        guest >= set.clock,
        "guest's clock {guest} is before {}",
        set.clock
    );
    let apart = host.abs_diff(guest);
    ensure!(apart < 5_000_000_000, "guest {guest}, KVM_GET_CLOCK {host}");
    Ok(())
}

/// An address without memory: no page is written, and nothing breaks.
fn clock_bad_address() -> Outcome {
    let d = clock_driver()?;
    for address in [MMIO | 1, (1 << 50) | 1, MEMORY | 1] {
        let _ = d.vcpu.set_msr(SYSTEM_TIME, address);
        d.tsc()?;
    }
    d.wrmsr(SYSTEM_TIME, 0)?;
    let before: ClockPage = d.machine.read(DATA2);
    d.tsc()?;
    let after: ClockPage = d.machine.read(DATA2);
    ensure_eq!(
        after.version,
        before.version,
        "version after it was switched off"
    );
    Ok(())
}

/// `KVM_KVMCLOCK_CTRL` tells the guest that it was stopped.
fn clock_paused_flag() -> Outcome {
    let d = clock_driver()?;
    if !d.machine.kvm.has(KVM_CAP_KVMCLOCK_CTRL) {
        skip!("no KVM_CAP_KVMCLOCK_CTRL");
    }
    ironvm_abi_tests::sys::ioctl(&d.vcpu, KVM_KVMCLOCK_CTRL, 0)?;
    d.tsc()?;
    let page: ClockPage = d.machine.read(DATA2);
    ensure!(page.flags & 2 != 0, "flags are {:#x}", page.flags);
    Ok(())
}

fn wall_clock() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    need(&d.machine, FEATURE_CLOCK2, "KVM clock")?;
    d.wrmsr(WALL_CLOCK, DATA2)?;
    let version: u32 = d.machine.read(DATA2);
    let seconds: u32 = d.machine.read(DATA2 + 4);
    let nanoseconds: u32 = d.machine.read(DATA2 + 8);
    ensure!(version != 0 && version % 2 == 0, "version {version}");
    ensure!(nanoseconds < 1_000_000_000, "{nanoseconds} ns");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    // The time when this VM's clock was zero: not long ago.
    let apart = now.abs_diff(u64::from(seconds));
    ensure!(apart < 600, "wall clock {seconds}, host {now}");
    Ok(())
}

fn steal_time() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    need(&d.machine, FEATURE_STEAL_TIME, "steal time")?;
    d.machine.load(DATA2, &[0; 64]);
    d.wrmsr(STEAL_TIME, DATA2 | 1)?;
    d.tsc()?;
    let version: u32 = d.machine.read(DATA2 + 8);
    ensure!(version != 0 && version % 2 == 0, "version {version}");
    let first: u64 = d.machine.read(DATA2);
    d.tsc()?;
    let second: u64 = d.machine.read(DATA2);
    ensure!(second >= first, "stolen time {second} after {first}");
    ensure_eq!(d.rdmsr(STEAL_TIME)?, DATA2 | 1, "MSR");
    Ok(())
}

/// The area is aligned to 64 bytes; other bits are reserved.
fn steal_time_bad_address() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    need(&d.machine, FEATURE_STEAL_TIME, "steal time")?;
    ensure!(
        d.vcpu.set_msr(STEAL_TIME, DATA2 | 3).is_err(),
        "a reserved bit is taken"
    );
    let _ = d.vcpu.set_msr(STEAL_TIME, MMIO | 1);
    d.tsc()?;
    Ok(())
}

/// A guest may say where it would be told of asynchronous page faults. Without an interrupt for
/// that it is told nothing, and its memory comes as it always does.
fn async_page_fault_area() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    need(&d.machine, FEATURE_ASYNC_PF, "asynchronous page faults")?;
    ensure_eq!(d.rdmsr(ASYNC_PF_EN)?, 0, "at first");
    for value in [DATA2 | 1, DATA2 | 3, 0, FREE | 1] {
        d.wrmsr(ASYNC_PF_EN, value)?;
        ensure_eq!(d.rdmsr(ASYNC_PF_EN)?, value, "as the guest reads it");
        ensure_eq!(d.vcpu.msr(ASYNC_PF_EN)?, value, "as userspace reads it");
    }
    for reserved in [0x10, 0x20] {
        ensure!(
            d.vcpu.set_msr(ASYNC_PF_EN, DATA2 | reserved).is_err(),
            "reserved bit {reserved:#x} is taken"
        );
    }
    d.machine.write(FREE, 0u64);
    let untouched = FREE + 0x10_0000;
    d.machine
        .memory
        .advise(untouched as usize, 4096, libc::MADV_DONTNEED)?;
    d.write(untouched, 7)?;
    ensure_eq!(d.read(untouched)?, 7, "memory that was not there");
    ensure_eq!(d.machine.read::<u64>(FREE), 0, "the area");
    Ok(())
}

/// The handler finds a bit set that says it need not write EOI, clears it, and the next interrupt
/// comes all the same.
fn quick_eoi() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    need(&d.machine, FEATURE_PV_EOI, "PV EOI")?;
    d.machine.write(DATA2, 0u32);
    d.machine.set_handler(0x71, CODE);
    d.machine.load(
        CODE,
        code64!(
            "inc r14",
            "btr dword ptr [{word}], 0",
            "jc 2f",
            "push rax",
            "mov eax, 0xfee000b0",
            "mov dword ptr [rax], 0",
            "pop rax",
            "iretq",
            "2:",
            "inc r15",
            "iretq",
            word = const DATA2,
        ),
    );
    d.wrmsr(PV_EOI, DATA2 | 1)?;
    d.vcpu.change_regs(|r| (r.r14, r.r15) = (0, 0))?;
    for n in 1..=10 {
        d.machine.vm.signal_msi(msi_address(0), 0x71)?;
        d.breathe()?;
        ensure_eq!(d.vcpu.regs()?.r14, n, "interrupts");
    }
    // Where the processor ends interrupts itself the bit may stay clear.
    let quick = d.vcpu.regs()?.r15;
    ensure!(quick <= 10, "{quick} EOIs saved of 10");
    ensure_eq!(d.machine.read::<u32>(DATA2), 0, "word at the end");
    Ok(())
}

/// With `KVM_CAP_ENFORCE_PV_FEATURE_CPUID`, MSRs whose feature is not in CPUID fault.
fn msrs_need_features() -> Outcome {
    let machine = Machine::new()?;
    if !machine.kvm.has(KVM_CAP_ENFORCE_PV_FEATURE_CPUID) {
        skip!("no KVM_CAP_ENFORCE_PV_FEATURE_CPUID");
    }
    let vcpu = machine.vm.vcpu(&machine.kvm, 0)?;
    let mut cpuid = machine.cpuid.clone();
    cpuid.entries.retain(|e| e.function >> 8 != 0x40_0000);
    vcpu.enable(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, &[1])?;
    cpuid.set(&vcpu)?;
    machine.long_mode(&vcpu, code64!("wrmsr", "hlt"))?;
    vcpu.change_regs(|r| (r.rcx, r.rax) = (u64::from(SYSTEM_TIME), DATA2 | 1))?;
    machine.expect_caught(&vcpu, GP)?;
    Ok(())
}

/// KVM_HC_KICK_CPU wakes a vCPU that halts, without an interrupt.
/// Puts a hypercall at `CODE`.
fn load_hypercall(machine: &Machine) {
    let vendor = machine.cpuid.leaf(0, 0).map_or(0, |l| l.ebx);
    let call: &[u8] = if vendor == u32::from_le_bytes(*b"Genu") {
        code64!("vmcall", "out 0x10, al")
    } else {
        code64!("vmmcall", "out 0x10, al")
    };
    machine.load(CODE, call);
}

/// A machine whose first vCPU can kick its second, which is runnable.
fn kicking() -> Result<(Driver, Vcpu), Failure> {
    let d = Driver::new(Eoi::Xapic)?;
    need(&d.machine, FEATURE_UNHALT, "PV unhalt")?;
    let other = d.another(1)?;
    set_mp_state(&other, KVM_MP_STATE_RUNNABLE)?;
    load_hypercall(&d.machine);
    d.machine.load(
        CODE + 0x100,
        code64!("cli", "hlt", "mov ebx, 0x99", "out 0x10, al"),
    );
    other.change_regs(|r| r.rip = CODE + 0x100)?;
    Ok((d, other))
}

fn set_mp_state(vcpu: &Vcpu, mp_state: u32) -> SysResult<i32> {
    vcpu.set(KVM_SET_MP_STATE, &kvm_mp_state { mp_state })
}

fn mp_state(vcpu: &Vcpu) -> SysResult<u32> {
    Ok(vcpu.get::<kvm_mp_state>(KVM_GET_MP_STATE)?.mp_state)
}

/// The first vCPU kicks the one with APIC id 1.
fn kick(d: &Driver) -> Outcome {
    d.vcpu
        .change_regs(|r| (r.rip, r.rax, r.rbx, r.rcx) = (CODE, 5, 0, 1))?;
    d.vcpu.run_to_done()?;
    ensure_eq!(d.vcpu.regs()?.rax, 0, "result of the hypercall");
    Ok(())
}

fn kick_hypercall() -> Outcome {
    let (d, other) = kicking()?;
    std::thread::scope(|s| {
        let thread = s.spawn(|| other.run_to_done());
        std::thread::sleep(std::time::Duration::from_millis(50));
        kick(&d)?;
        thread.join().unwrap()
    })?;
    ensure_eq!(other.regs()?.rbx, 0x99, "RBX of the one that was woken");
    Ok(())
}

/// A halted vCPU whose HLT is to end is as good as running, and saved so.
fn kick_shows_in_mp_state() -> Outcome {
    let (d, other) = kicking()?;
    d.machine.load(CODE + 0x100, code64!("out 0x10, al"));
    set_mp_state(&other, KVM_MP_STATE_HALTED)?;
    ensure_eq!(mp_state(&other)?, KVM_MP_STATE_HALTED, "state before");
    kick(&d)?;
    for time in ["first", "second"] {
        ensure_eq!(
            mp_state(&other)?,
            KVM_MP_STATE_RUNNABLE,
            "state, {time} time"
        );
    }
    other.run_to_done()?;
    set_mp_state(&other, KVM_MP_STATE_HALTED)?;
    ensure_eq!(mp_state(&other)?, KVM_MP_STATE_HALTED, "state after");
    Ok(())
}

/// One hypercall interrupts several vCPUs, wherever their ids are; it tells how many.
fn ipis_by_hypercall() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    need(&d.machine, FEATURE_SEND_IPI, "PV IPIs")?;
    let (other, far) = (d.another(1)?, d.another(90)?);
    load_hypercall(&d.machine);
    let state: kvm_lapic_state = far.get(KVM_GET_LAPIC)?;
    far.set(KVM_SET_LAPIC, &state)?;
    let send = |low: u64, high: u64, lowest: u64, command: u64| -> Result<u64, Failure> {
        d.vcpu.change_regs(|r| {
            (r.rip, r.rax, r.rbx, r.rcx) = (CODE, 10, low, high);
            (r.rdx, r.rsi) = (lowest, command);
        })?;
        d.vcpu.run_to_done()?;
        Ok(d.vcpu.regs()?.rax)
    };
    let pending = |vcpu: &Vcpu, vector: u32| -> Result<bool, Failure> {
        let word = ironvm_abi_tests::driver::lapic_register(vcpu, 0x200 + vector / 32 * 0x10)?;
        Ok(word >> (vector % 32) & 1 != 0)
    };
    ensure_eq!(
        send(0b10, 1 << (90 - 64), 0, 0x61)?,
        2,
        "result for 1 and 90"
    );
    ensure!(pending(&other, 0x61)? && pending(&far, 0x61)?, "0x61");
    ensure!(!pending(&d.vcpu, 0x61)?, "0x61 at the sender");
    ensure_eq!(send(1, 0, 90, 0x62)?, 1, "result for 90 alone");
    ensure!(!pending(&other, 0x62)? && pending(&far, 0x62)?, "0x62");
    ensure_eq!(
        send(0b101, 0, 0, 0x63)?,
        1,
        "result for 0 and an id that is none's"
    );
    ensure!(pending(&d.vcpu, 0x63)?, "0x63 at the sender");
    Ok(())
}

/// Writing TSC_ADJUST moves the TSC by the difference.
fn tsc_adjust() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("wrmsr", "rdtsc", "out 0x10, al"))?;
    let offered = machine.cpuid.leaf(7, 0).is_some_and(|l| l.ebx & 2 != 0);
    if !offered {
        skip!("no TSC_ADJUST");
    }
    vcpu.change_regs(|r| (r.rcx, r.rdx) = (u64::from(MSR_TSC_ADJUST), 0x4000))?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure!(r.rdx >= 0x4000, "upper half of the TSC is {:#x}", r.rdx);
    ensure_eq!(vcpu.msr(MSR_TSC_ADJUST)?, 0x4000 << 32, "TSC_ADJUST");
    Ok(())
}
