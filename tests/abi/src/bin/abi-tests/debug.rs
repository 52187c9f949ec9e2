// SPDX-License-Identifier: GPL-2.0-or-later

//! Debugging the guest from userspace (KVM API document, 4.87).

use ironvm_abi_tests::guest::long_mode;
use ironvm_abi_tests::harness::{emulator, Test};
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::processor_is_tcg;
use ironvm_abi_tests::{code64, ensure, ensure_eq, ensure_errno, skip, test, Exit};
use ironvm_abi_tests::{Failure, Machine, Outcome, SysResult, Vcpu};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("debug", single_step),
    test!("debug", single_step_over_emulated),
    test!("debug", single_step_does_not_show),
    test!("debug", software_breakpoint),
    test!("debug", breakpoint_is_the_guests_without_it),
    test!("debug", hardware_breakpoint),
    test!("debug", watchpoint),
    test!("debug", watchpoint_of_the_guest_before_an_exit),
    test!("debug", dr6_of_the_guest_stays),
    test!("debug", switched_off),
    test!("debug", injected_trap),
    test!("debug", injected_breakpoint),
    test!("debug", injected_breakpoint_beside_its_intercept),
    test!("debug", injected_breakpoint_without_int3),
    test!("debug", unknown_control_bits),
];

fn control(vcpu: &Vcpu, bits: u32, debugreg: [u64; 8]) -> SysResult<i32> {
    let debug = kvm_guest_debug {
        control: bits,
        arch: kvm_guest_debug_arch { debugreg },
        ..Default::default()
    };
    vcpu.set(KVM_SET_GUEST_DEBUG, &debug)
}

fn machine(code: &[u8]) -> Result<(Machine, Vcpu), Failure> {
    let (machine, vcpu) = long_mode(code)?;
    if !machine.kvm.has(KVM_CAP_SET_GUEST_DEBUG) {
        skip!("no KVM_CAP_SET_GUEST_DEBUG");
    }
    Ok((machine, vcpu))
}

fn expect_stop(vcpu: &Vcpu, vector: u8, at: u64) -> Outcome {
    match vcpu.run_on()? {
        Exit::Debug { exception, pc, .. } if exception == u32::from(vector) && pc == at => Ok(()),
        exit => Err(Failure::Failed(format!(
            "exit is {exit:x?}, expected exception {vector} at {at:#x}"
        ))),
    }
}

const STEP: u32 = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;

fn single_step() -> Outcome {
    let (_machine, vcpu) = machine(code64!("nop", "mov eax, 1", "nop", "hlt"))?;
    control(&vcpu, STEP, [0; 8])?;
    for next in [1, 6, 7] {
        expect_stop(&vcpu, DB, CODE + next)?;
        ensure_eq!(vcpu.regs()?.rip, CODE + next, "RIP");
    }
    Ok(())
}

fn single_step_over_emulated() -> Outcome {
    let code = code64!(
        "xor eax, eax",
        "cpuid",
        "mov ecx, 0x277",
        "rdmsr",
        "nop",
        "hlt"
    );
    let (_machine, vcpu) = machine(code)?;
    control(&vcpu, STEP, [0; 8])?;
    for next in [2, 4, 9, 11, 12] {
        expect_stop(&vcpu, DB, CODE + next)?;
    }
    Ok(())
}

/// The trap flag is the debugger's: the guest must not find it in the flags that it pushes.
fn single_step_does_not_show() -> Outcome {
    let (_machine, vcpu) = machine(code64!("nop", "pushfq", "pop rbx", "hlt"))?;
    control(&vcpu, STEP, [0; 8])?;
    for _ in 0..3 {
        let exit = vcpu.run_on()?;
        ensure!(matches!(exit, Exit::Debug { .. }), "exit is {exit:x?}");
        ensure_eq!(vcpu.regs()?.rflags & RFLAGS_TF, 0, "TF by KVM_GET_REGS");
    }
    // What PUSHF pushed is another matter: KVM lets it show.
    control(&vcpu, 0, [0; 8])?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    Ok(())
}

fn software_breakpoint() -> Outcome {
    if processor_is_tcg() {
        skip!("the processor (QEMU TCG) does not intercept #BP");
    }
    let (machine, vcpu) = machine(code64!("nop", "int3", "mov eax, 7", "hlt"))?;
    control(&vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, [0; 8])?;
    expect_stop(&vcpu, BP, CODE + 1)?;
    ensure_eq!(vcpu.regs()?.rip, CODE + 1, "RIP at INT3");
    // The debugger puts the instruction back and goes on.
    machine.load(CODE + 1, &[0x90]);
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    ensure_eq!(vcpu.regs()?.rax, 7, "RAX");
    Ok(())
}

fn breakpoint_is_the_guests_without_it() -> Outcome {
    let (machine, vcpu) = machine(code64!("int3", "hlt"))?;
    machine.expect_caught(&vcpu, BP)?;
    Ok(())
}

fn hardware_breakpoint() -> Outcome {
    let (_machine, vcpu) = machine(code64!("nop", "nop", "nop", "nop", "hlt"))?;
    let mut registers = [0; 8];
    registers[0] = CODE + 2;
    registers[7] = 0x401;
    control(
        &vcpu,
        KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
        registers,
    )?;
    expect_stop(&vcpu, DB, CODE + 2)?;
    // The guest's own registers are as they were.
    let debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    ensure_eq!(
        (debug.db[0], debug.dr7),
        (0, 0x400),
        "DR0, DR7 of the guest"
    );
    control(&vcpu, 0, [0; 8])?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    Ok(())
}

fn watchpoint() -> Outcome {
    let (machine, vcpu) = machine(code64!("mov rax, [rsi]", "mov [rsi], rbx", "nop", "hlt"))?;
    vcpu.change_regs(|r| (r.rsi, r.rbx) = (DATA, 5))?;
    let mut registers = [0; 8];
    registers[1] = DATA;
    // DR1, writes of eight bytes.
    registers[7] = 0x404 | 0b1001 << 20;
    control(
        &vcpu,
        KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
        registers,
    )?;
    let exit = vcpu.run_on()?;
    let Exit::Debug { dr6, pc, .. } = exit else {
        return Err(vcpu.unexpected(&exit));
    };
    ensure_eq!((dr6 & 0xf, pc), (2, CODE + 6), "DR6, address");
    ensure_eq!(machine.read::<u64>(DATA), 5, "value");
    Ok(())
}

/// MOV SS holds back what its own load has met until the next instruction is done, and that one may
/// exit (SDM vol. 3, 7.8.3).
fn watchpoint_of_the_guest_before_an_exit() -> Outcome {
    if !emulator::processor_has("vmx") {
        skip!("a VMCB has no place for it");
    }
    let code = code64!("mov ss, [rsi]", "cpuid", "out 0x10, al", "hlt");
    let (machine, vcpu) = machine(code)?;
    machine.write(DATA, SEL_DATA);
    vcpu.change_regs(|r| r.rsi = DATA)?;
    let mut debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    debug.db[0] = DATA;
    // DR0, reads and writes of two bytes.
    debug.dr7 = 0x401 | 0b0111 << 16;
    vcpu.set(KVM_SET_DEBUGREGS, &debug)?;
    let caught = machine.expect_caught(&vcpu, DB)?;
    ensure_eq!(caught.rip, CODE + 4, "RIP behind CPUID");
    let debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    ensure_eq!(debug.dr6 & 0xf, 1, "cause in DR6");
    vcpu.run_to_done()
}

/// What userspace is told of its own breakpoints and steps has nothing of the guest's DR6 in it, and
/// leaves nothing there.
fn dr6_of_the_guest_stays() -> Outcome {
    // A step, and the guest's third breakpoint.
    const OLD: u64 = 0xffff_4ff4;
    let (_machine, vcpu) = machine(code64!("nop", "nop", "nop", "mov rbx, dr6", "hlt"))?;
    let mut debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    debug.dr6 = OLD;
    vcpu.set(KVM_SET_DEBUGREGS, &debug)?;
    let mut registers = [0; 8];
    registers[0] = CODE + 1;
    registers[7] = 0x401;
    let dr6 = || -> Result<u64, Failure> {
        let exit = vcpu.run_on()?;
        let Exit::Debug { dr6, .. } = exit else {
            return Err(vcpu.unexpected(&exit));
        };
        Ok(dr6)
    };
    control(
        &vcpu,
        KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
        registers,
    )?;
    ensure_eq!(dr6()?, 0xffff_0ff1, "DR6 told at a breakpoint");
    control(&vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, [0; 8])?;
    ensure_eq!(dr6()?, 0xffff_4ff0, "DR6 told after a step");
    let debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    ensure_eq!(debug.dr6, OLD, "DR6 by KVM_GET_DEBUGREGS");
    control(&vcpu, 0, [0; 8])?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    ensure_eq!(vcpu.regs()?.rbx, OLD, "DR6 of the guest");
    Ok(())
}

fn switched_off() -> Outcome {
    let (_machine, vcpu) = machine(code64!("nop", "nop", "nop", "hlt"))?;
    control(&vcpu, STEP, [0; 8])?;
    expect_stop(&vcpu, DB, CODE + 1)?;
    control(&vcpu, 0, [0; 8])?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    ensure_eq!(vcpu.regs()?.rflags & RFLAGS_TF, 0, "TF");
    Ok(())
}

fn injected_trap() -> Outcome {
    let (machine, vcpu) = machine(code64!("nop", "hlt"))?;
    control(&vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB, [0; 8])?;
    let caught = machine.expect_caught(&vcpu, DB)?;
    ensure_eq!(caught.rip, CODE, "RIP");
    Ok(())
}

/// A guest about to run `code`, which has had a breakpoint: what delivers one is mapped.
fn machine_with_breakpoints(code: &[u8]) -> Result<(Machine, Vcpu), Failure> {
    let (machine, vcpu) = machine(code64!("int3", "hlt"))?;
    machine.load(CODE + 2, code);
    machine.expect_caught(&vcpu, BP)?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    Ok((machine, vcpu))
}

/// INT3 is a trap: its handler finds the address behind the instruction.
fn injected_breakpoint() -> Outcome {
    for code in [
        code64!("int3", "hlt"),
        code64!(".byte 0xcd, 3", "hlt"),
        code64!(".byte 0x66, 0xcc", "hlt"),
    ] {
        let (machine, vcpu) = machine_with_breakpoints(code)?;
        control(&vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP, [0; 8])?;
        let caught = machine.expect_caught(&vcpu, BP)?;
        let end = CODE + 2 + code.len() as u64 - 1;
        ensure_eq!((caught.rip, caught.count), (end, 2), "RIP, times");
        ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    }
    Ok(())
}

/// A VMM passes on the breakpoint that it has intercepted.
fn injected_breakpoint_beside_its_intercept() -> Outcome {
    let (machine, vcpu) = machine_with_breakpoints(code64!("int3", "hlt"))?;
    let bits = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_INJECT_BP;
    control(&vcpu, bits, [0; 8])?;
    let caught = machine.expect_caught(&vcpu, BP)?;
    ensure_eq!((caught.rip, caught.count), (CODE + 3, 2), "RIP, times");
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    Ok(())
}

/// The instruction has been replaced since: it is run, and there is no breakpoint.
fn injected_breakpoint_without_int3() -> Outcome {
    if std::path::Path::new("/sys/module/kvm_intel").exists() {
        skip!("on VMX the kernel's own module pushes some address");
    }
    let (machine, vcpu) = machine_with_breakpoints(code64!("nop", "int3", "hlt"))?;
    control(&vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP, [0; 8])?;
    let caught = machine.expect_caught(&vcpu, BP)?;
    ensure_eq!((caught.rip, caught.count), (CODE + 4, 2), "RIP, times");
    Ok(())
}

/// KVM ignores bits it does not know, but for those that `KVM_CAP_SET_GUEST_DEBUG2` tells of.
fn unknown_control_bits() -> Outcome {
    let (machine, vcpu) = machine(code64!("nop", "hlt"))?;
    let known = machine.vm.extension(KVM_CAP_SET_GUEST_DEBUG2)? as u32;
    if known == 0 {
        skip!("no KVM_CAP_SET_GUEST_DEBUG2");
    }
    ensure!(known & STEP == STEP, "single step is not in {known:#x}");
    let result = ironvm_abi_tests::sys::ioctl(&vcpu, KVM_SET_GUEST_DEBUG, 8);
    ensure_errno!(result, libc::EFAULT, "bad pointer");
    Ok(())
}
