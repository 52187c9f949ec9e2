// SPDX-License-Identifier: GPL-2.0-or-later

//! MSRs that userspace answers, and filters (KVM API document, 4.97 and `KVM_CAP_X86_USER_SPACE_MSR`).

use ironvm_abi_tests::guest::long_mode;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{code64, ensure_eq, ensure_errno, skip, test, Exit, Failure};
use ironvm_abi_tests::{Machine, Outcome, Vcpu};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("user_msr", unknown_msr_exits),
    test!("user_msr", refused_by_userspace),
    test!("user_msr", off_by_default),
    test!("user_msr", reasons_are_apart),
    test!("user_msr", unknown_reason),
    test!("user_msr", filter_denies),
    test!("user_msr", filter_default_deny),
    test!("user_msr", filter_errors),
];

const INVALID: u32 = 1 << 0;
const UNKNOWN: u32 = 1 << 1;
const FILTER: u32 = 1 << 2;

fn machine(reasons: u32, code: &[u8]) -> Result<(Machine, Vcpu), Failure> {
    let (machine, vcpu) = long_mode(code)?;
    if !machine.kvm.has(KVM_CAP_X86_USER_SPACE_MSR) {
        skip!("no KVM_CAP_X86_USER_SPACE_MSR");
    }
    machine
        .vm
        .enable(KVM_CAP_X86_USER_SPACE_MSR, &[reasons.into()])?;
    vcpu.change_regs(|r| r.rcx = u64::from(MSR_NONE))?;
    Ok((machine, vcpu))
}

fn unknown_msr_exits() -> Outcome {
    let code = code64!("rdmsr", "inc eax", "wrmsr", "out 0x10, al");
    let (_machine, vcpu) = machine(UNKNOWN, code)?;
    ensure_eq!(vcpu.run_on()?, Exit::Rdmsr(UNKNOWN, MSR_NONE), "exit");
    vcpu.set_msr_answer(0x1111_2222_3333_4444, false);
    let want = Exit::Wrmsr(UNKNOWN, MSR_NONE, 0x1111_2222_3333_4445);
    ensure_eq!(vcpu.run_on()?, want, "exit");
    vcpu.set_msr_answer(0, false);
    vcpu.run_to_done()
}

fn refused_by_userspace() -> Outcome {
    let (machine, vcpu) = machine(UNKNOWN, code64!("rdmsr", "hlt"))?;
    vcpu.run_on()?;
    vcpu.set_msr_answer(0, true);
    let caught = machine.expect_caught(&vcpu, GP)?;
    ensure_eq!((caught.rip, caught.error), (CODE, 0), "RIP, error");
    Ok(())
}

fn off_by_default() -> Outcome {
    let (machine, vcpu) = machine(UNKNOWN, code64!("rdmsr", "hlt"))?;
    machine.vm.enable(KVM_CAP_X86_USER_SPACE_MSR, &[0])?;
    machine.expect_caught(&vcpu, GP)?;
    Ok(())
}

/// A value that is refused is not an unknown MSR.
fn reasons_are_apart() -> Outcome {
    let code = code64!("wrmsr", "hlt");
    let bad =
        |vcpu: &Vcpu| vcpu.change_regs(|r| (r.rcx, r.rax) = (u64::from(MSR_APIC_BASE), 0x3ff));
    let (machine1, vcpu) = machine(UNKNOWN, code)?;
    bad(&vcpu)?;
    machine1.expect_caught(&vcpu, GP)?;
    let (_machine, vcpu) = machine(INVALID, code)?;
    bad(&vcpu)?;
    ensure_eq!(
        vcpu.run_on()?,
        Exit::Wrmsr(INVALID, MSR_APIC_BASE, 0x3ff),
        "exit"
    );
    vcpu.set_msr_answer(0, false);
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    Ok(())
}

fn unknown_reason() -> Outcome {
    let (machine, _vcpu) = machine(0, code64!("hlt"))?;
    let result = machine.vm.enable(KVM_CAP_X86_USER_SPACE_MSR, &[1 << 10]);
    ensure_errno!(result, libc::EINVAL, "an unknown reason");
    Ok(())
}

const READ: u32 = 1;
const WRITE: u32 = 2;

/// One range; a clear bit denies.
fn filter(
    machine: &Machine,
    flags: u32,
    range: u32,
    base: u32,
    bits: &mut [u8],
) -> Result<i32, Failure> {
    let mut filter = kvm_msr_filter {
        flags,
        ..Default::default()
    };
    filter.ranges[0] = kvm_msr_filter_range {
        flags: range,
        nmsrs: bits.len() as u32 * 8,
        base,
        bitmap: bits.as_mut_ptr(),
    };
    Ok(machine.vm.set(KVM_X86_SET_MSR_FILTER, &filter)?)
}

fn filter_denies() -> Outcome {
    let code = code64!("rdmsr", "wrmsr", "out 0x10, al");
    let (machine, vcpu) = machine(FILTER, code)?;
    if !machine.kvm.has(KVM_CAP_X86_MSR_FILTER) {
        skip!("no KVM_CAP_X86_MSR_FILTER");
    }
    vcpu.set_msr(MSR_STAR, 0x1234)?;
    // STAR is the second of eight: writes of it are denied, reads are not.
    let mut bits = [!2u8];
    filter(&machine, 0, WRITE, 0xc000_0080, &mut bits)?;
    vcpu.change_regs(|r| r.rcx = u64::from(MSR_STAR))?;
    ensure_eq!(
        vcpu.run_on()?,
        Exit::Wrmsr(FILTER, MSR_STAR, 0x1234),
        "exit"
    );
    vcpu.set_msr_answer(0, false);
    vcpu.run_to_done()?;
    // Userspace itself is not filtered.
    ensure_eq!(vcpu.msr(MSR_STAR)?, 0x1234, "MSR");
    // No filter any more.
    machine
        .vm
        .set(KVM_X86_SET_MSR_FILTER, &kvm_msr_filter::default())?;
    vcpu.change_regs(|r| r.rip = CODE)?;
    vcpu.run_to_done()
}

/// What no range covers is denied with this flag; without the exit it faults.
fn filter_default_deny() -> Outcome {
    let (machine, vcpu) = machine(
        0,
        code64!("rdmsr", "out 0x10, al", "mov ecx, 0x277", "rdmsr", "hlt"),
    )?;
    if !machine.kvm.has(KVM_CAP_X86_MSR_FILTER) {
        skip!("no KVM_CAP_X86_MSR_FILTER");
    }
    let mut bits = [0xffu8];
    filter(
        &machine,
        KVM_MSR_FILTER_DEFAULT_DENY,
        READ | WRITE,
        0xc000_0080,
        &mut bits,
    )?;
    vcpu.change_regs(|r| r.rcx = u64::from(MSR_STAR))?;
    vcpu.run_to_done()?;
    machine.expect_caught(&vcpu, GP)?;
    Ok(())
}

fn filter_errors() -> Outcome {
    let (machine, _vcpu) = machine(0, code64!("hlt"))?;
    if !machine.kvm.has(KVM_CAP_X86_MSR_FILTER) {
        skip!("no KVM_CAP_X86_MSR_FILTER");
    }
    let bad = kvm_msr_filter {
        flags: 1 << 9,
        ..Default::default()
    };
    let result = machine.vm.set(KVM_X86_SET_MSR_FILTER, &bad);
    ensure_errno!(result, libc::EINVAL, "an unknown flag");
    let mut empty = kvm_msr_filter {
        flags: KVM_MSR_FILTER_DEFAULT_DENY,
        ..Default::default()
    };
    let result = machine.vm.set(KVM_X86_SET_MSR_FILTER, &empty);
    ensure_errno!(result, libc::EINVAL, "deny all, without a range");
    empty.ranges[0].flags = 1 << 7;
    empty.ranges[0].nmsrs = 8;
    let result = machine.vm.set(KVM_X86_SET_MSR_FILTER, &empty);
    ensure_errno!(result, libc::EINVAL, "an unknown flag of a range");
    Ok(())
}
