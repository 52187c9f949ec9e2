// SPDX-License-Identifier: GPL-2.0-or-later

//! A guest's TSC that is not as fast as the host's (KVM API document, 4.55, 4.56, KVM_CAP_TSC_CONTROL).
//!
//! The test's own TSC is the host's, so what a guest reads can be bounded by what is read before and
//! after it.

use std::arch::x86_64::{_mm_lfence, _rdtsc};

use ironvm_abi_tests::driver::{wrmsr, Driver, Eoi};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::ioctl;
use ironvm_abi_tests::{
    code64, ensure, ensure_eq, ensure_errno, skip, test, Failure, Machine, Outcome, Vcpu,
};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("tsc", own_rate_is_always_taken),
    test!("tsc", rates_that_cannot_be),
    test!("tsc", rates),
    test!("tsc", all_ways_to_read_agree),
    test!("tsc", written),
    test!("tsc", rate_of_the_vm),
    test!("tsc", rate_of_the_vm_comes_first),
    test!("tsc", vcpus_written_alike_agree),
    test!("tsc", clock_keeps_time),
];

fn host_tsc() -> u64 {
    // SAFETY: neither has any other effect.
    unsafe {
        _mm_lfence();
        let tsc = _rdtsc();
        _mm_lfence();
        tsc
    }
}

fn khz_of(vcpu: &Vcpu) -> Result<u64, Failure> {
    Ok(ioctl(vcpu, KVM_GET_TSC_KHZ, 0)? as u64)
}

/// A guest whose TSC can have any rate.
fn driver() -> Result<(Driver, u64), Failure> {
    let d = Driver::new(Eoi::Xapic)?;
    if !d.machine.kvm.has(KVM_CAP_TSC_CONTROL) {
        skip!("no KVM_CAP_TSC_CONTROL");
    }
    let khz = khz_of(&d.vcpu)?;
    Ok((d, khz))
}

/// Slower and faster ones; the nearest differs by more than is let pass without scaling.
fn some_rates(host: u64) -> [u64; 6] {
    [
        host / 7,
        host / 2,
        host - host / 1_000,
        host + host / 1_000,
        host * 3,
        host * 17 + 1,
    ]
}

fn set_khz(vcpu: &Vcpu, khz: u64) -> Outcome {
    ioctl(vcpu, KVM_SET_TSC_KHZ, khz)?;
    ensure_eq!(khz_of(vcpu)?, khz, "kHz");
    Ok(())
}

/// With the capability or without.
fn own_rate_is_always_taken() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let khz = khz_of(&vcpu)?;
    ioctl(&vcpu, KVM_SET_TSC_KHZ, khz)?;
    ensure_eq!(khz_of(&vcpu)?, khz, "kHz");
    ioctl(&vcpu, KVM_SET_TSC_KHZ, 0)?;
    ensure_eq!(khz_of(&vcpu)?, khz, "kHz for 0");
    ensure_eq!(
        machine.kvm.has(KVM_CAP_TSC_CONTROL),
        machine.kvm.has(KVM_CAP_VM_TSC_CONTROL),
        "for a vCPU, for a VM"
    );
    Ok(())
}

fn rates_that_cannot_be() -> Outcome {
    let (d, khz) = driver()?;
    for wrong in [0x7fff_ffff, 0xffff_ffff] {
        ensure_errno!(
            ioctl(&d.vcpu, KVM_SET_TSC_KHZ, wrong),
            libc::EINVAL,
            "{wrong:#x} kHz"
        );
    }
    ensure_eq!(khz_of(&d.vcpu)?, khz, "kHz");
    Ok(())
}

/// Fails unless what the guest counts between two of its own reads lies within what the host's TSC
/// allows.
fn expect_rate(d: &Driver, khz: u64, host: u64) -> Outcome {
    let mut before = (0, 0, 0);
    for n in 0..20 {
        let first = host_tsc();
        let guest = d.tsc()?;
        let last = host_tsc();
        if n > 0 {
            let (first_before, guest_before, last_before) = before;
            let ticks = |host_ticks: u64| host_ticks as f64 * khz as f64 / host as f64;
            let (least, most) = (ticks(first - last_before), ticks(last - first_before));
            let counted = (guest - guest_before) as f64;
            ensure!(
                least - 2.0 <= counted && counted <= most + 2.0,
                "at {khz} kHz the guest counted {counted} ticks, not {least} to {most}"
            );
        }
        before = (first, guest, last);
    }
    Ok(())
}

fn rates() -> Outcome {
    let (d, host) = driver()?;
    expect_rate(&d, host, host)?;
    for khz in some_rates(host) {
        set_khz(&d.vcpu, khz)?;
        expect_rate(&d, khz, host)?;
    }
    set_khz(&d.vcpu, host)?;
    expect_rate(&d, host, host)
}

/// RDTSC, RDTSCP, RDMSR and KVM_GET_MSRS.
fn all_ways_to_read_agree() -> Outcome {
    let (d, host) = driver()?;
    d.machine.load(CODE, code64!("rdtscp", "out 0x10, al"));
    for khz in some_rates(host) {
        set_khz(&d.vcpu, khz)?;
        let mut last = 0;
        for _ in 0..5 {
            d.vcpu.change_regs(|r| r.rip = CODE)?;
            d.vcpu.run_to_done()?;
            let r = d.vcpu.regs()?;
            let reads = [
                r.rdx << 32 | r.rax & 0xffff_ffff,
                d.tsc()?,
                d.rdmsr(MSR_TSC)?,
                d.vcpu.msr(MSR_TSC)?,
            ];
            for (way, value) in reads.into_iter().enumerate() {
                ensure!(
                    value >= last,
                    "at {khz} kHz, read {way}: {value} after {last}"
                );
                last = value;
            }
        }
    }
    Ok(())
}

/// By the guest and by userspace.
fn written() -> Outcome {
    let (d, host) = driver()?;
    for (n, khz) in (1..).zip(some_rates(host)) {
        set_khz(&d.vcpu, khz)?;
        // Farther apart than what is taken for the same moment of one clock.
        for (step, value) in [n << 48, n << 48 | 1 << 46].into_iter().enumerate() {
            let before = host_tsc();
            if step == 0 {
                d.wrmsr(MSR_TSC, value)?;
            } else {
                d.vcpu.set_msr(MSR_TSC, value)?;
            }
            let now = d.tsc()?;
            let most = u128::from(host_tsc() - before) * u128::from(khz) / u128::from(host) + 2;
            ensure!(
                now >= value && u128::from(now - value) <= most,
                "at {khz} kHz the TSC is {now:#x} after {value:#x} was written"
            );
        }
        expect_rate(&d, khz, host)?;
    }
    Ok(())
}

fn rate_of_the_vm() -> Outcome {
    let machine = Machine::new()?;
    if !machine.vm.has(KVM_CAP_VM_TSC_CONTROL) {
        skip!("no KVM_CAP_VM_TSC_CONTROL");
    }
    let host = ioctl(&machine.vm, KVM_GET_TSC_KHZ, 0)? as u64;
    for khz in [host / 2, 0, host * 2] {
        ioctl(&machine.vm, KVM_SET_TSC_KHZ, khz)?;
        let expected = if khz == 0 { host } else { khz };
        ensure_eq!(
            ioctl(&machine.vm, KVM_GET_TSC_KHZ, 0)? as u64,
            expected,
            "kHz of the VM"
        );
    }
    ensure_errno!(
        ioctl(&machine.vm, KVM_SET_TSC_KHZ, 0x7fff_ffff),
        libc::EINVAL,
        "too many kHz"
    );
    let vcpu = machine.vcpu(0)?;
    ensure_eq!(khz_of(&vcpu)?, host * 2, "kHz of a new vCPU");
    ensure_errno!(
        ioctl(&machine.vm, KVM_SET_TSC_KHZ, host),
        libc::EINVAL,
        "with a vCPU"
    );
    // The vCPU can still have one of its own.
    set_khz(&vcpu, host * 3)
}

/// The TSC of a new vCPU begins at 0, at the rate of its VM.
fn rate_of_the_vm_comes_first() -> Outcome {
    let machine = Machine::new()?;
    if !machine.vm.has(KVM_CAP_VM_TSC_CONTROL) {
        skip!("no KVM_CAP_VM_TSC_CONTROL");
    }
    let host = ioctl(&machine.vm, KVM_GET_TSC_KHZ, 0)? as u64;
    ioctl(&machine.vm, KVM_SET_TSC_KHZ, host * 2)?;
    let before = host_tsc();
    let vcpus = [machine.vcpu(0)?, machine.vcpu(1)?];
    for vcpu in &vcpus {
        machine.long_mode(vcpu, code64!("rdtsc", "out 0x10, al"))?;
        vcpu.run_to_done()?;
        let r = vcpu.regs()?;
        let now = r.rdx << 32 | r.rax & 0xffff_ffff;
        let most = (host_tsc() - before) * 2 + 2;
        ensure!(now <= most, "TSC is {now}, at most {most} have passed");
    }
    Ok(())
}

/// As a VMM does it when it takes a guest over.
fn vcpus_written_alike_agree() -> Outcome {
    let (d, host) = driver()?;
    let other = d.another(1)?;
    let khz = host * 2 + 7;
    set_khz(&d.vcpu, khz)?;
    set_khz(&other, khz)?;
    d.vcpu.set_msr(MSR_TSC, 1 << 50)?;
    other.set_msr(MSR_TSC, 1 << 50)?;
    let mut last = 0;
    for _ in 0..10 {
        for vcpu in [&d.vcpu, &other] {
            let now = vcpu.msr(MSR_TSC)?;
            ensure!(now >= last, "{now} on one vCPU after {last} on the other");
            last = now;
        }
    }
    // What they differ by is less than the time between the two writes.
    let before = d.vcpu.msr(MSR_TSC)?;
    let between = other.msr(MSR_TSC)?;
    let after = d.vcpu.msr(MSR_TSC)?;
    ensure!(
        before <= between && between <= after,
        "{before}, on the other {between}, {after}"
    );
    Ok(())
}

const SYSTEM_TIME: u32 = 0x4b56_4d01;

/// The guest's clock, made of its TSC, goes with the VM's.
fn clock_keeps_time() -> Outcome {
    let (d, host) = driver()?;
    if !d.machine.kvm.has(KVM_CAP_CLOCKSOURCE) {
        skip!("no KVM_CAP_CLOCKSOURCE");
    }
    for khz in some_rates(host) {
        set_khz(&d.vcpu, khz)?;
        // Page 6, and the bit that switches it on.
        wrmsr(&d.vcpu, SYSTEM_TIME, DATA2 | 1)?;
        for _ in 0..10 {
            let before = vm_clock(&d)?;
            let tsc = d.tsc()?;
            let after = vm_clock(&d)?;
            let guest = ns_at(&d, tsc);
            // The VM's clock may be corrected to the host's by some parts in a million.
            let slack = 2_000;
            ensure!(
                before <= guest + slack && guest <= after + slack,
                "at {khz} kHz the guest's clock is {guest}, the VM's {before} to {after}"
            );
        }
    }
    Ok(())
}

fn vm_clock(d: &Driver) -> Result<u64, Failure> {
    let mut clock = kvm_clock_data::default();
    ironvm_abi_tests::sys::ioctl_mut(&d.machine.vm, KVM_GET_CLOCK, &mut clock)?;
    Ok(clock.clock)
}

/// Nanoseconds by the record in the guest's memory (`struct pvclock_vcpu_time_info`).
fn ns_at(d: &Driver, tsc: u64) -> u64 {
    let m = &d.machine;
    let ticks = tsc.wrapping_sub(m.read(DATA2 + 8));
    let shift: i8 = m.read(DATA2 + 28);
    let ticks = match shift {
        s if s >= 0 => ticks << s,
        s => ticks >> -s,
    };
    let multiplier: u32 = m.read(DATA2 + 24);
    m.read::<u64>(DATA2 + 16) + (u128::from(ticks) * u128::from(multiplier) >> 32) as u64
}
