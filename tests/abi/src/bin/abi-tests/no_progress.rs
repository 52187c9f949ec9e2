// SPDX-License-Identifier: GPL-2.0-or-later

//! Guests that cannot go on: whatever becomes of them, the host's thread and processor must not.
//!
//! Where KVM tries again for ever, a signal must end the run; where it gives up, it says so by an
//! exit. Any of these is accepted, a thread that no signal takes out of the module is not.

use std::time::Duration;

use ironvm_abi_tests::guest::{Chips, Machine, Paging};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{code16, code64, ensure, fail, signals, test};
use ironvm_abi_tests::{Exit, Failure, Outcome, Vcpu};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("no_progress", interrupt_through_vectors_outside_memory),
    test!("no_progress", interrupt_onto_stack_outside_memory),
    test!("no_progress", exception_through_vectors_outside_memory),
    test!("no_progress", exception_onto_stack_outside_memory),
    test!("no_progress", long_mode_vectors_outside_memory),
    test!("no_progress", long_mode_stack_outside_memory),
    test!("no_progress", failed_delivery_tells_where),
    test!("no_progress", long_mode_page_tables_outside_memory),
    test!("no_progress", exits_without_end),
    test!("no_progress", fault_in_its_own_handler),
    test!("no_progress", repeated_string_without_end),
    test!("no_progress", code_at_end_of_memory),
    test!("no_progress", rip_beyond_segment),
];

/// Runs until a signal ends it, for a while. True: it was a signal.
fn run_for_a_while(vcpu: &Vcpu) -> Result<bool, Failure> {
    let _kicker = signals::Kicker::start(Duration::from_millis(200))?;
    // So many exits to userspace are no standstill, but neither is their end of interest.
    for _ in 0..1000 {
        match vcpu.run() {
            Err(e) if e.number == libc::EINTR => return Ok(true),
            Err(e) if e.number == libc::EFAULT => return Ok(false),
            Err(e) => return Err(e.into()),
            Ok(Exit::InternalError(..) | Exit::Shutdown | Exit::FailEntry(_) | Exit::Hlt) => {
                return Ok(false)
            }
            Ok(Exit::Mmio(_) | Exit::Io(_)) => {}
            Ok(exit) => return Err(vcpu.unexpected(&exit)),
        }
    }
    Ok(false)
}

/// Instructions at the point of the standstill: some that exit, some that do not, some that mean
/// nothing. None of them may be taken for what faulted.
fn real_mode_codes() -> [&'static [u8]; 6] {
    [
        code16!("2:", "jmp 2b"),
        code16!("2:", "cpuid", "jmp 2b"),
        code16!("2:", "mov [di], al", "jmp 2b"),
        code16!("2:", "in al, dx", "jmp 2b"),
        code16!("2:", "paddd xmm0, [si]", "jmp 2b"),
        code16!("2:", "int3", "jmp 2b"),
    ]
}

fn real_mode(change: impl Fn(&mut kvm_sregs), interrupt: bool) -> Outcome {
    for code in real_mode_codes() {
        let machine = Machine::build(Chips::None, 0xa_0000)?;
        let vcpu = machine.vcpu(0)?;
        machine.real_mode(&vcpu, code)?;
        vcpu.change_sregs(&change)?;
        vcpu.change_regs(|r| r.rflags |= RFLAGS_IF)?;
        if interrupt {
            vcpu.set(KVM_INTERRUPT, &kvm_interrupt { irq: 0x20 })?;
        }
        run_for_a_while(&vcpu)?;
    }
    Ok(())
}

fn interrupt_through_vectors_outside_memory() -> Outcome {
    real_mode(|s| s.idt.base = MMIO, true)
}

fn interrupt_onto_stack_outside_memory() -> Outcome {
    real_mode(|s| s.ss.base = 0xb_0000, true)
}

fn exception_through_vectors_outside_memory() -> Outcome {
    real_mode(|s| s.idt.base = MMIO, false)
}

fn exception_onto_stack_outside_memory() -> Outcome {
    real_mode(|s| s.ss.base = 0xb_0000, false)
}

fn long_mode(code: &[u8], change: impl Fn(&mut kvm_sregs), rsp: Option<u64>) -> Outcome {
    for interrupt in [false, true] {
        let machine = Machine::new()?;
        let vcpu = machine.vcpu(0)?;
        machine.long_mode(&vcpu, code)?;
        vcpu.change_sregs(&change)?;
        vcpu.change_regs(|r| {
            r.rflags |= RFLAGS_IF;
            r.rsp = rsp.unwrap_or(r.rsp);
            r.rsi = MMIO;
        })?;
        if interrupt {
            vcpu.set(KVM_INTERRUPT, &kvm_interrupt { irq: 0x20 })?;
        }
        run_for_a_while(&vcpu)?;
    }
    Ok(())
}

fn long_mode_vectors_outside_memory() -> Outcome {
    long_mode(
        code64!("2:", "cpuid", "ud2", "jmp 2b"),
        |s| s.idt.base = MMIO,
        None,
    )
}

fn long_mode_stack_outside_memory() -> Outcome {
    long_mode(code64!("2:", "cpuid", "ud2", "jmp 2b"), |_| {}, Some(MMIO))
}

/// The vector table is where no memory is: an exit says that an event could not be delivered, and
/// which address it is about.
fn failed_delivery_tells_where() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, code64!("ud2"))?;
    vcpu.change_sregs(|s| s.idt.base = MMIO)?;
    let exit = vcpu.run_on()?;
    let Exit::InternalError(KVM_INTERNAL_ERROR_DELIVERY_EV, data) = &exit else {
        return Err(vcpu.unexpected(&exit));
    };
    let gate = MMIO + u64::from(UD) * 16;
    // The processor reads a gate in one or in two accesses.
    let at = data.get(3).copied().unwrap_or(0);
    ensure!(
        data.len() >= 5 && (gate..gate + 16).contains(&at),
        "data are {data:x?}"
    );
    Ok(())
}

fn long_mode_page_tables_outside_memory() -> Outcome {
    for code in [
        code64!("2:", "cpuid", "jmp 2b"),
        code64!("2:", "mov [rsi], eax", "jmp 2b"),
        code64!("2:", "jmp 2b"),
    ] {
        long_mode(code, |s| s.cr3 = MMIO, None)?;
    }
    Ok(())
}

/// Every instruction exits and is answered in the module: only a signal ends it.
fn exits_without_end() -> Outcome {
    for code in [
        code64!("2:", "cpuid", "jmp 2b"),
        code64!("2:", "mov ecx, 0x277", "rdmsr", "jmp 2b"),
        code64!("2:", "mov eax, [rdi]", "jmp 2b"),
        code64!("2:", "in al, 0x21", "jmp 2b"),
        code64!("2:", "mov rax, cr0", "mov cr0, rax", "jmp 2b"),
    ] {
        let (_machine, vcpu) = ironvm_abi_tests::guest::long_mode_with_irqchip(code)?;
        vcpu.change_regs(|r| r.rdi = LAPIC + 0x20)?;
        if !run_for_a_while(&vcpu)? {
            fail!("the guest ended by itself");
        }
    }
    // And 4 KiB of nothing but exits, with a jump at its end.
    let mut code: Vec<u8> = [0x0f, 0xa2].repeat(2000);
    code.extend(code64!("mov eax, 0x8000", "jmp rax"));
    let (_machine, vcpu) = ironvm_abi_tests::guest::long_mode(&code)?;
    if !run_for_a_while(&vcpu)? {
        fail!("the guest ended by itself");
    }
    Ok(())
}

/// A page fault whose handler's first instruction faults the same way, for ever.
fn fault_in_its_own_handler() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, code64!("mov eax, [rsi]", "hlt"))?;
    // The stack is wound back so that it does not run out.
    machine.set_handler(PF, CODE + 0x100);
    machine.load(
        CODE + 0x100,
        code64!("mov rsp, rbx", "mov eax, [rsi]", "hlt"),
    );
    vcpu.change_regs(|r| (r.rsi, r.rbx) = (0x77_7000_0000, r.rsp))?;
    if !run_for_a_while(&vcpu)? {
        fail!("the guest ended by itself");
    }
    Ok(())
}

/// A count of 2^63 on memory and on a port.
fn repeated_string_without_end() -> Outcome {
    for code in [
        code64!("rep lodsb", "hlt"),
        code64!("rep outsb", "hlt"),
        code64!("rep insb", "hlt"),
    ] {
        let (machine, vcpu) = ironvm_abi_tests::guest::long_mode(code)?;
        // All addresses below 2 MiB are mapped; the string runs on in page faults after that.
        machine.set_handler(PF, CODE + 0x100);
        machine.load(
            CODE + 0x100,
            code64!("mov esi, ebx", "mov edi, ebx", "add rsp, 8", "iretq"),
        );
        vcpu.change_regs(|r| {
            (r.rcx, r.rdx) = (1 << 63, 0x80);
            (r.rsi, r.rdi, r.rbx) = (FREE, FREE, FREE);
        })?;
        run_for_a_while(&vcpu)?;
    }
    Ok(())
}

/// The last bytes of memory begin an instruction whose rest is outside.
fn code_at_end_of_memory() -> Outcome {
    for bytes in [
        &[0x0f][..],
        &[0x48],
        &[0xb8, 1, 2],
        &[0x66, 0x66, 0x66],
        &[0xe4],
    ] {
        let machine = Machine::new()?;
        let vcpu = machine.vcpu(0)?;
        machine.long_mode(&vcpu, code64!("hlt"))?;
        let at = MEMORY - bytes.len() as u64;
        machine.load(at, bytes);
        machine.start(&vcpu, Paging::Long, at)?;
        run_for_a_while(&vcpu)?;
    }
    Ok(())
}

/// Real mode with a limit of 4 GiB and an instruction pointer that only fits there, or not at all.
fn rip_beyond_segment() -> Outcome {
    for (limit, rip) in [
        (0xffff, 0x1_0000u64),
        (0xffff, 0xfffe),
        (0xffff_ffff, 0x1_0000),
        (0xffff_ffff, 0xffff_fffe),
        (0xffff_ffff, 0xffff_f000),
        (0xffff, 0xffff_ffff),
    ] {
        for code in real_mode_codes() {
            let machine = Machine::new()?;
            let vcpu = machine.vcpu(0)?;
            machine.real_mode(&vcpu, code)?;
            for page in (0..0x2_0000u64).step_by(0x1000) {
                machine.load(page + 0xff0, code);
            }
            vcpu.change_sregs(|s| {
                (s.cs.base, s.cs.selector) = (0, 0);
                s.cs.limit = limit;
                s.cs.g = u8::from(limit > 0xf_ffff);
            })?;
            vcpu.change_regs(|r| r.rip = rip)?;
            run_for_a_while(&vcpu)?;
        }
    }
    Ok(())
}
