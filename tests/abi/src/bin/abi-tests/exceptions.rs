// SPDX-License-Identifier: GPL-2.0-or-later

//! Exceptions that the guest handles itself, or does not.

use crate::cpu::{skip_on_stack, to_user_mode};
use ironvm_abi_tests::guest::{long_mode, Machine, Paging};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::processor_is_tcg;
use ironvm_abi_tests::{code16, code64, ensure, ensure_eq, skip, test, Exit, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("cpu", alignment_check),
    test!("cpu", undefined_opcode),
    test!("cpu", divide_error),
    test!("cpu", breakpoint),
    test!("cpu", general_protection_error_code),
    test!("cpu", page_fault_address),
    test!("cpu", page_fault_of_protection),
    test!("cpu", no_execute),
    test!("cpu", single_step_by_guest),
    test!("cpu", triple_fault),
    test!("cpu", triple_fault_real_mode),
    test!("cpu", double_fault),
];

/// #AC is the guest's own where it has asked for it: in user mode with CR0.AM and EFLAGS.AC.
fn alignment_check() -> Outcome {
    const AM: u64 = 1 << 18;
    const AC_FLAG: u64 = 1 << 18;
    const AC: u8 = 17;
    if processor_is_tcg() {
        skip!("QEMU's processor does not check alignment");
    }
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, code64!("iretq"))?;
    machine.load(CODE2, code64!("mov eax, [rsi + 1]", "ud2"));
    for (mask, flag, vector) in [(0, AC_FLAG, UD), (AM, 0, UD), (AM, AC_FLAG, AC)] {
        to_user_mode(&machine, &vcpu)?;
        machine.write(STACKS + 0x810, RFLAGS_FIXED | flag);
        vcpu.change_sregs(|s| s.cr0 = s.cr0 & !AM | mask)?;
        vcpu.change_regs(|r| (r.rip, r.rsi) = (CODE, DATA))?;
        let caught = machine.expect_caught(&vcpu, vector)?;
        let behind = if vector == UD { 3 } else { 0 };
        ensure_eq!(
            (caught.rip, caught.error),
            (CODE2 + behind, 0),
            "RIP, error"
        );
        machine.start(&vcpu, Paging::Long, CODE)?;
    }
    Ok(())
}

fn undefined_opcode() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("nop", "ud2", "out 0x10, al"))?;
    let caught = machine.expect_caught(&vcpu, UD)?;
    ensure_eq!((caught.rip, caught.count), (CODE + 1, 1), "RIP, count");
    skip_on_stack(&machine, &vcpu, 2)?;
    vcpu.run_to_done()
}

fn divide_error() -> Outcome {
    let code = code64!("xor ecx, ecx", "div ecx", "out 0x10, al");
    let (machine, vcpu) = long_mode(code)?;
    let caught = machine.expect_caught(&vcpu, DE)?;
    ensure_eq!(caught.rip, CODE + 2, "RIP");
    skip_on_stack(&machine, &vcpu, 2)?;
    vcpu.run_to_done()
}

fn breakpoint() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("int3", "out 0x10, al"))?;
    let caught = machine.expect_caught(&vcpu, BP)?;
    ensure_eq!(caught.rip, CODE + 1, "RIP behind INT3");
    vcpu.run_to_done()
}

fn general_protection_error_code() -> Outcome {
    // A selector beyond the table's end.
    let code = code64!("mov eax, 0x1230", "mov ds, ax", "hlt");
    let (machine, vcpu) = long_mode(code)?;
    let caught = machine.expect_caught(&vcpu, GP)?;
    ensure_eq!((caught.error, caught.rip), (0x1230, CODE + 5), "error, RIP");
    // A software interrupt whose vector is beyond the table's end.
    let (machine, vcpu) = long_mode(code64!("int 0x50", "hlt"))?;
    vcpu.change_sregs(|s| s.idt.limit = 0x4ff)?;
    let caught = machine.expect_caught(&vcpu, GP)?;
    ensure_eq!(
        (caught.error, caught.rip),
        (0x50 << 3 | 2, CODE),
        "error, RIP"
    );
    Ok(())
}

fn page_fault_address() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("mov rax, [rsi]", "mov [rdi], rax", "out 0x10, al"))?;
    let missing = 0x77_7000_0123u64;
    vcpu.change_regs(|r| (r.rsi, r.rdi) = (missing, missing + 0x1000))?;
    let caught = machine.expect_caught(&vcpu, PF)?;
    ensure_eq!(
        (caught.cr2, caught.error, caught.rip),
        (missing, 0, CODE),
        "read"
    );
    skip_on_stack(&machine, &vcpu, 3)?;
    let caught = machine.expect_caught(&vcpu, PF)?;
    let want = (missing + 0x1000, 2, CODE + 3);
    ensure_eq!((caught.cr2, caught.error, caught.rip), want, "write");
    skip_on_stack(&machine, &vcpu, 3)?;
    vcpu.run_to_done()
}

fn page_fault_of_protection() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("mov [rsi], eax", "out 0x10, al"))?;
    let entry = Paging::Long.entry_address(DATA2);
    machine.write(entry, DATA2 | PTE_P);
    vcpu.change_regs(|r| r.rsi = DATA2 + 8)?;
    let caught = machine.expect_caught(&vcpu, PF)?;
    ensure_eq!(
        (caught.cr2, caught.error),
        (DATA2 + 8, 3),
        "CR2, error code"
    );
    // The guest's tables allow it now; returning runs it again.
    machine.write(entry, DATA2 | PTE_P | PTE_W);
    vcpu.run_to_done()
}

fn no_execute() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("jmp rsi"))?;
    vcpu.change_sregs(|s| s.efer |= EFER_NXE)?;
    machine.write(
        Paging::Long.entry_address(DATA2),
        DATA2 | PTE_P | PTE_W | PTE_NX,
    );
    machine.load(DATA2, code64!("hlt"));
    vcpu.change_regs(|r| r.rsi = DATA2)?;
    let caught = machine.expect_caught(&vcpu, PF)?;
    let want = (DATA2, 0x11, DATA2);
    ensure_eq!(
        (caught.cr2, caught.error, caught.rip),
        want,
        "CR2, error, RIP"
    );
    Ok(())
}

fn single_step_by_guest() -> Outcome {
    let code = code64!("mov eax, 1", "cpuid", "nop", "out 0x80, al", "nop", "hlt");
    let (machine, vcpu) = long_mode(code)?;
    vcpu.change_regs(|r| r.rflags |= RFLAGS_TF)?;
    // After each instruction, the emulated ones as well.
    for next in [5, 7, 8] {
        let caught = machine.expect_caught(&vcpu, DB)?;
        ensure_eq!(caught.rip, CODE + next, "RIP of the trap");
    }
    let exit = vcpu.run_on()?;
    ensure!(exit.is_out(0x80), "exit is {exit:x?}");
    for next in [10, 11] {
        let caught = machine.expect_caught(&vcpu, DB)?;
        ensure_eq!(caught.rip, CODE + next, "RIP of the trap");
    }
    let debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    ensure!(
        debug.dr6 & 1 << 14 != 0,
        "DR6.BS is clear: {:#x}",
        debug.dr6
    );
    Ok(())
}

fn triple_fault() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("ud2"))?;
    vcpu.change_sregs(|s| s.idt.limit = 0)?;
    ensure_eq!(vcpu.run_on()?, Exit::Shutdown, "exit");
    Ok(())
}

fn triple_fault_real_mode() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.real_mode(&vcpu, code16!("int3"))?;
    vcpu.change_sregs(|s| s.idt.limit = 0)?;
    ensure_eq!(vcpu.run_on()?, Exit::Shutdown, "exit");
    Ok(())
}

fn double_fault() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("mov eax, [rsi]", "hlt"))?;
    // Neither #PF nor #GP nor #NP has a gate that is present.
    for vector in [PF, GP, 11] {
        machine.write(IDT + 16 * u64::from(vector), [0u64; 2]);
    }
    vcpu.change_regs(|r| r.rsi = 0x77_7000_0000)?;
    let caught = machine.expect_caught(&vcpu, DF)?;
    ensure_eq!(caught.error, 0, "error code");
    Ok(())
}
