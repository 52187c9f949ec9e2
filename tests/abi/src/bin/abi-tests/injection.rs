// SPDX-License-Identifier: GPL-2.0-or-later

//! Leaving the guest at will, and interrupts that userspace injects: no interrupt hardware in the
//! module (KVM API document, 4.16, 4.21, 4.64, section 5).

use std::time::{Duration, Instant};

use ironvm_abi_tests::guest::{long_mode, long_mode_with_irqchip, Machine};
use ironvm_abi_tests::harness::{emulator, Test};
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::signals;
use ironvm_abi_tests::sys::{check, ioctl, ioctl_buffer, SysResult};
use ironvm_abi_tests::{code16, code64, ensure, ensure_eq, ensure_errno, fail, skip, test};
use ironvm_abi_tests::{Exit, Outcome, Vcpu};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("injection", immediate_exit),
    test!("injection", immediate_exit_before_first_run),
    test!("injection", signal_ends_run),
    test!("injection", signal_is_noticed_soon),
    test!("injection", host_interrupts_beside_faults),
    test!("injection", signal_mask),
    test!("injection", signal_mask_errors),
    test!("injection", interrupt_when_ready),
    test!("injection", interrupt_window),
    test!("injection", window_after_sti_shadow),
    test!("injection", window_not_while_blocked),
    test!("injection", interrupt_wakes_hlt),
    test!("injection", interrupt_errors),
    test!("injection", interrupt_in_real_mode),
    test!("injection", many_interrupts),
    test!("injection", nmi),
    test!("injection", nmi_blocked_until_iret),
    test!("injection", nmi_waiting_leaves_no_trace),
    test!("injection", nmi_ignores_if),
    test!("injection", nmi_wakes_hlt),
    test!("injection", exception_by_events),
    test!("injection", debug_exception_by_events),
    test!("injection", traps_by_events),
    test!("injection", refused_entry_keeps_the_event),
    test!("injection", saving_repeats_no_interrupt),
    test!("injection", waiting_exception_has_its_address),
    test!("injection", waiting_step_is_in_dr6),
    test!("injection", pending_interrupt_survives_save),
];

/// Says done for ever, with RBX counting.
fn talker() -> &'static [u8] {
    code64!("2:", "inc rbx", "out 0x10, al", "jmp 2b")
}

fn spinner() -> &'static [u8] {
    code64!("2:", "inc rbx", "jmp 2b")
}

fn inject(vcpu: &Vcpu, vector: u32) -> SysResult<i32> {
    vcpu.set(KVM_INTERRUPT, &kvm_interrupt { irq: vector })
}

fn immediate_exit() -> Outcome {
    let (machine, vcpu) = long_mode(talker())?;
    if !machine.kvm.has(KVM_CAP_IMMEDIATE_EXIT) {
        skip!("no KVM_CAP_IMMEDIATE_EXIT");
    }
    vcpu.run_to_done()?;
    vcpu.set_immediate_exit(true);
    for _ in 0..10 {
        ensure_errno!(vcpu.run(), libc::EINTR, "KVM_RUN");
        // What userspace was told last it may look at again.
        ensure_eq!(vcpu.exit_reason(), KVM_EXIT_IO, "exit reason");
    }
    ensure_eq!(vcpu.regs()?.rbx, 1, "rounds of the guest");
    vcpu.set_immediate_exit(false);
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rbx, 2, "rounds of the guest");
    Ok(())
}

fn immediate_exit_before_first_run() -> Outcome {
    let (_machine, vcpu) = long_mode(talker())?;
    vcpu.set_immediate_exit(true);
    ensure_errno!(vcpu.run(), libc::EINTR, "KVM_RUN");
    ensure_eq!(vcpu.regs()?.rip, CODE, "RIP");
    vcpu.set_immediate_exit(false);
    vcpu.run_to_done()
}

fn signal_ends_run() -> Outcome {
    let (_machine, vcpu) = long_mode(spinner())?;
    signals::interrupt_after(Duration::from_millis(50))?;
    ensure_errno!(vcpu.run(), libc::EINTR, "KVM_RUN");
    ensure_eq!(vcpu.exit_reason(), KVM_EXIT_INTR, "exit reason");
    let first = vcpu.regs()?.rbx;
    ensure!(first > 0, "the guest did not run");
    ensure_errno!(vcpu.run(), libc::EINTR, "KVM_RUN again");
    ensure!(vcpu.regs()?.rbx > first, "the guest did not go on");
    Ok(())
}

/// Also with interrupts off in the guest, and within a time that no host timer explains.
fn signal_is_noticed_soon() -> Outcome {
    let (_machine, vcpu) = long_mode(spinner())?;
    signals::interrupt_after(Duration::from_millis(20))?;
    let start = Instant::now();
    for _ in 0..20 {
        ensure_errno!(vcpu.run(), libc::EINTR, "KVM_RUN");
    }
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(10), "20 signals took {took:?}");
    Ok(())
}

/// The host's own interrupts end runs at any point of a guest, right behind the delivery of an
/// exception too. A guest that faults all the time finds each frame whole, and its stack where it
/// was.
fn host_interrupts_beside_faults() -> Outcome {
    // A quarter of a second there: the ticks of the host in that time.
    let faults = if emulator::is_slow() {
        3_000_000
    } else {
        300_000
    };
    for flags in [RFLAGS_FIXED, RFLAGS_FIXED | RFLAGS_IF] {
        let (machine, vcpu) = long_mode(code64!(
            "mov rbp, rsp",
            "2:",
            "div ebx",
            "cmp rsp, rbp",
            "jne 3f",
            "dec esi",
            "jnz 2b",
            "3:",
            "out {done}, al",
            "jmp 3b",
            done = const PORT_DONE,
        ))?;
        machine.set_handler(DE, CODE2);
        machine.load(
            CODE2,
            code64!(
                "cmp [rsp + 24], rbp",
                "jne 3f",
                // DIV EBX has two bytes.
                "add qword ptr [rsp], 2",
                "iretq",
                "3:",
                "out {caught}, al",
                "jmp 3b",
                caught = const PORT_CAUGHT,
            ),
        );
        vcpu.change_regs(|r| {
            r.rflags = flags;
            r.rsi = faults;
        })?;
        let rsp = vcpu.regs()?.rsp;
        let exit = vcpu.run_on()?;
        let regs = vcpu.regs()?;
        if exit.is_out(PORT_CAUGHT) {
            let [rip, _, _, old] = machine.read::<[u64; 4]>(regs.rsp);
            fail!(
                "with {} faults to go one was at {rip:#x} with RSP {old:#x}, not {rsp:#x}",
                regs.rsi
            );
        }
        if !exit.is_out(PORT_DONE) {
            return Err(vcpu.unexpected(&exit));
        }
        ensure_eq!(regs.rsi, 0, "faults to go when the stack has moved");
        ensure_eq!(regs.rsp, rsp, "RSP");
    }
    Ok(())
}

/// `KVM_SET_SIGNAL_MASK` with the signals in `open` let through and all others not.
fn set_mask(vcpu: &Vcpu, open: &[i32]) -> SysResult<i32> {
    let bits = open.iter().fold(!0u64, |m, s| m & !(1 << (s - 1)));
    // Length, then the mask, which is not aligned.
    let mut buffer = [8 | bits << 32, bits >> 32];
    ioctl_buffer(vcpu, KVM_SET_SIGNAL_MASK, &mut buffer)
}

/// A signal blocked outside and open within `KVM_RUN`: pending, it ends the run and stays pending.
fn signal_mask() -> Outcome {
    let (_machine, vcpu) = long_mode(talker())?;
    signals::catch(signals::KICK)?;
    // SAFETY: plain data, filled by the calls that follow.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable and readable.
    let r = unsafe {
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signals::KICK);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut())
    };
    check("pthread_sigmask", i64::from(-r))?;
    set_mask(&vcpu, &[signals::KICK])?;
    vcpu.run_to_done()?;
    signals::send(signals::thread_id(), signals::KICK);
    ensure_errno!(vcpu.run(), libc::EINTR, "KVM_RUN with the signal pending");
    ensure_errno!(vcpu.run(), libc::EINTR, "KVM_RUN with it still pending");
    let mut signal = 0;
    // SAFETY: `set` and `signal` are valid.
    unsafe { libc::sigwait(&set, &mut signal) };
    ensure_eq!(signal, signals::KICK, "signal taken");
    vcpu.run_to_done()?;
    // Without a mask of its own the vCPU runs with the thread's, which blocks it.
    ioctl(&vcpu, KVM_SET_SIGNAL_MASK, 0)?;
    signals::send(signals::thread_id(), signals::KICK);
    vcpu.run_to_done()
}

fn signal_mask_errors() -> Outcome {
    let (_machine, vcpu) = long_mode(talker())?;
    for length in [0u64, 4, 7, 9, 16, 128] {
        let mut buffer = [length, 0, 0];
        let result = ioctl_buffer(&vcpu, KVM_SET_SIGNAL_MASK, &mut buffer);
        ensure_errno!(result, libc::EINVAL, "mask of {length} bytes");
    }
    ensure_errno!(
        ioctl(&vcpu, KVM_SET_SIGNAL_MASK, 8),
        libc::EFAULT,
        "pointer 8"
    );
    Ok(())
}

fn interrupt_when_ready() -> Outcome {
    let code = code64!("sti", "nop", "2:", "out 0x10, al", "jmp 2b");
    let (machine, vcpu) = long_mode(code)?;
    vcpu.run_to_done()?;
    ensure!(vcpu.ready_for_interrupt(), "not ready with IF set");
    inject(&vcpu, 0x55)?;
    let caught = machine.expect_caught(&vcpu, 0x55)?;
    ensure!(caught.rflags & RFLAGS_IF != 0, "IF in the saved flags");
    ensure_eq!(vcpu.regs()?.rflags & RFLAGS_IF, 0, "IF in the handler");
    vcpu.run_to_done()
}

fn interrupt_window() -> Outcome {
    let code = code64!(
        "out 0x10, al",
        "mov ecx, 1000",
        "2:",
        "loop 2b",
        "sti",
        "3:",
        "jmp 3b"
    );
    let (machine, vcpu) = long_mode(code)?;
    vcpu.run_to_done()?;
    ensure!(!vcpu.ready_for_interrupt(), "ready with IF clear");
    vcpu.set_request_window(true);
    ensure_eq!(vcpu.run_on()?, Exit::IrqWindow, "exit");
    ensure!(vcpu.ready_for_interrupt(), "not ready in the window");
    ensure!(vcpu.if_flag(), "IF is clear in the window");
    vcpu.set_request_window(false);
    inject(&vcpu, 0x60)?;
    machine.expect_caught(&vcpu, 0x60)?;
    Ok(())
}

/// After STI one more instruction runs before an interrupt may come.
fn window_after_sti_shadow() -> Outcome {
    let code = code64!("out 0x10, al", "sti", "inc ebx", "2:", "inc ecx", "jmp 2b");
    let (_machine, vcpu) = long_mode(code)?;
    vcpu.run_to_done()?;
    vcpu.set_request_window(true);
    ensure_eq!(vcpu.run_on()?, Exit::IrqWindow, "exit");
    ensure!(
        vcpu.regs()?.rbx >= 1,
        "the window opened in the shadow of STI"
    );
    Ok(())
}

/// A window that is asked for while IF is clear does not open until it is set; other exits go on.
fn window_not_while_blocked() -> Outcome {
    let (_machine, vcpu) = long_mode(talker())?;
    vcpu.set_request_window(true);
    for _ in 0..5 {
        vcpu.run_to_done()?;
        ensure!(!vcpu.ready_for_interrupt(), "ready with IF clear");
    }
    vcpu.change_regs(|r| r.rflags |= RFLAGS_IF)?;
    ensure_eq!(vcpu.run_on()?, Exit::IrqWindow, "exit with IF set");
    Ok(())
}

fn interrupt_wakes_hlt() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("sti", "hlt", "out 0x10, al"))?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    ensure!(vcpu.ready_for_interrupt(), "not ready in HLT");
    inject(&vcpu, 0x61)?;
    let caught = machine.expect_caught(&vcpu, 0x61)?;
    ensure_eq!(caught.rip, CODE + 2, "RIP behind HLT");
    vcpu.run_to_done()
}

fn interrupt_errors() -> Outcome {
    let (_machine, vcpu) = long_mode(talker())?;
    for vector in [256, 1000, u32::MAX] {
        ensure_errno!(inject(&vcpu, vector), libc::EINVAL, "vector {vector}");
    }
    let (_machine, vcpu) = long_mode_with_irqchip(talker())?;
    ensure_errno!(inject(&vcpu, 0x40), libc::ENXIO, "with a full irqchip");
    Ok(())
}

fn interrupt_in_real_mode() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.real_mode(&vcpu, code16!("sti", "2:", "out 0x10, al", "jmp 2b"))?;
    machine.load(CODE2, code16!("inc bx", "iret"));
    machine.set_real_handler(0x20, CODE2 as u16);
    vcpu.run_to_done()?;
    for n in 1..=5u64 {
        vcpu.run_to_done()?;
        ensure!(vcpu.ready_for_interrupt(), "not ready");
        inject(&vcpu, 0x20)?;
        vcpu.run_to_done()?;
        ensure_eq!(vcpu.regs()?.rbx, n, "interrupts taken");
    }
    Ok(())
}

fn many_interrupts() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("sti", "2:", "inc rbx", "jmp 2b"))?;
    machine.set_handler(0x40, CODE2);
    machine.load(CODE2, code64!("inc rcx", "iretq"));
    vcpu.set_request_window(true);
    for n in 0..500 {
        ensure_eq!(vcpu.run_on()?, Exit::IrqWindow, "exit");
        inject(&vcpu, 0x40)?;
        // The previous one has been taken when the window opens again.
        ensure_eq!(vcpu.regs()?.rcx, n, "interrupts taken");
    }
    Ok(())
}

fn nmi() -> Outcome {
    let (machine, vcpu) = long_mode(talker())?;
    ioctl(&vcpu, KVM_NMI, 0)?;
    let caught = machine.expect_caught(&vcpu, NMI)?;
    ensure_eq!(caught.rip, CODE, "RIP");
    vcpu.run_to_done()
}

/// In the handler of an NMI no other comes; the one that waits comes after IRET, and only one.
fn nmi_blocked_until_iret() -> Outcome {
    let (machine, vcpu) = long_mode(talker())?;
    machine.set_handler(NMI, CODE2);
    machine.load(
        CODE2,
        code64!("inc rcx", "out 0x80, al", "inc rdx", "iretq"),
    );
    ioctl(&vcpu, KVM_NMI, 0)?;
    let exit = vcpu.run_on()?;
    ensure!(exit.is_out(0x80), "exit is {exit:x?}");
    let events: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    ensure_eq!(events.nmi.masked, 1, "NMIs are masked in the handler");
    ioctl(&vcpu, KVM_NMI, 0)?;
    ioctl(&vcpu, KVM_NMI, 0)?;
    let exit = vcpu.run_on()?;
    ensure!(exit.is_out(0x80), "exit is {exit:x?}");
    let r = vcpu.regs()?;
    ensure_eq!((r.rcx, r.rdx), (2, 1), "handlers begun, handlers ended");
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rcx, 2, "handlers begun");
    Ok(())
}

/// However the module finds the end of a handler for the NMI behind it: DR6 and the flags are
/// the guest's.
fn nmi_waiting_leaves_no_trace() -> Outcome {
    for before in [0xffff_0ff0u64, 0xffff_4ff0, 0xffff_0ff1] {
        let code = code64!("mov dr6, rbx", "out 0x80, al", "pushfq", "pop rsi", "hlt");
        let (machine, vcpu) = long_mode(code)?;
        machine.set_handler(NMI, CODE2);
        machine.load(
            CODE2,
            code64!("inc rcx", "mov r8, dr6", "out 0x81, al", "iretq"),
        );
        vcpu.change_regs(|r| r.rbx = before)?;
        ensure!(vcpu.run_on()?.is_out(0x80), "no write to 0x80");
        ioctl(&vcpu, KVM_NMI, 0)?;
        for n in 1..=5 {
            ensure!(vcpu.run_on()?.is_out(0x81), "no write to 0x81");
            let r = vcpu.regs()?;
            ensure_eq!((r.rcx, r.r8), (n, before), "handlers, DR6 in the last");
            if n < 5 {
                ioctl(&vcpu, KVM_NMI, 0)?;
            }
        }
        ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
        ensure_eq!(vcpu.regs()?.rsi, 2, "flags");
        let debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
        ensure_eq!(debug.dr6, before, "DR6 by KVM_GET_DEBUGREGS");
    }
    Ok(())
}

fn nmi_ignores_if() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("cli", "2:", "out 0x10, al", "jmp 2b"))?;
    vcpu.run_to_done()?;
    ioctl(&vcpu, KVM_NMI, 0)?;
    let caught = machine.expect_caught(&vcpu, NMI)?;
    ensure_eq!(caught.rflags & RFLAGS_IF, 0, "IF");
    vcpu.run_to_done()
}

fn nmi_wakes_hlt() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("cli", "hlt", "out 0x10, al"))?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    ioctl(&vcpu, KVM_NMI, 0)?;
    let caught = machine.expect_caught(&vcpu, NMI)?;
    ensure_eq!(caught.rip, CODE + 2, "RIP behind HLT");
    vcpu.run_to_done()
}

/// A #GP with the error code 0x58 that userspace sets.
fn set_protection_fault(vcpu: &Vcpu) -> Outcome {
    let mut events: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    events.exception.injected = 1;
    events.exception.nr = GP;
    events.exception.has_error_code = 1;
    events.exception.error_code = 0x58;
    vcpu.set(KVM_SET_VCPU_EVENTS, &events)?;
    Ok(())
}

/// An exception that userspace sets is delivered at the next entry.
fn exception_by_events() -> Outcome {
    let (machine, vcpu) = long_mode(talker())?;
    set_protection_fault(&vcpu)?;
    let caught = machine.expect_caught(&vcpu, GP)?;
    ensure_eq!((caught.error, caught.rip), (0x58, CODE), "error, RIP");
    vcpu.run_to_done()
}

/// A #DB whose delivery userspace has saved and restored: DR6 has its cause already.
fn debug_exception_by_events() -> Outcome {
    let (machine, vcpu) = long_mode(talker())?;
    machine.set_handler(DB, CODE2);
    machine.load(CODE2, code64!("mov rcx, dr6", "out 0x80, al"));
    let mut debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    debug.dr6 = 0xffff_4ff2;
    vcpu.set(KVM_SET_DEBUGREGS, &debug)?;
    set_exception(&vcpu, DB)?;
    ensure!(vcpu.run_on()?.is_out(0x80), "no write to 0x80");
    ensure_eq!(vcpu.regs()?.rcx, 0xffff_4ff2, "DR6");
    Ok(())
}

/// An entry that the processor refuses for the guest's state has delivered nothing.
fn refused_entry_keeps_the_event() -> Outcome {
    const INVALID_GUEST_STATE: u64 = 1 << 31 | 33;
    if !emulator::processor_has("vmx") {
        skip!("SVM takes any task register");
    }
    let (machine, vcpu) = long_mode(talker())?;
    let tr = vcpu.sregs()?.tr;
    let refused = || -> Outcome {
        vcpu.change_sregs(|s| (s.tr.present, s.tr.unusable) = (0, 1))?;
        let exit = vcpu.run_on()?;
        ensure_eq!(exit, Exit::FailEntry(INVALID_GUEST_STATE), "exit");
        vcpu.change_sregs(|s| s.tr = tr)?;
        Ok(())
    };

    vcpu.change_regs(|r| r.rflags |= RFLAGS_IF)?;
    inject(&vcpu, 0x77)?;
    refused()?;
    let caught = machine.expect_caught(&vcpu, 0x77)?;
    ensure_eq!((caught.rip, caught.count), (CODE, 1), "RIP, times");
    vcpu.run_to_done()?;

    set_protection_fault(&vcpu)?;
    refused()?;
    let caught = machine.expect_caught(&vcpu, GP)?;
    ensure_eq!((caught.error, caught.count), (0x58, 2), "error, times");
    vcpu.run_to_done()?;

    ioctl(&vcpu, KVM_NMI, 0)?;
    refused()?;
    let caught = machine.expect_caught(&vcpu, NMI)?;
    ensure_eq!(caught.count, 3, "times");
    vcpu.run_to_done()
}

/// Reading and writing back what is waiting leaves it there, once.
fn saving_repeats_no_interrupt() -> Outcome {
    let (machine, vcpu) = long_mode(talker())?;
    vcpu.change_regs(|r| r.rflags |= RFLAGS_IF)?;
    inject(&vcpu, 0x77)?;
    vcpu.change_sregs(|_| ())?;
    let caught = machine.expect_caught(&vcpu, 0x77)?;
    ensure_eq!((caught.rip, caught.count), (CODE, 1), "RIP, times");
    vcpu.run_to_done()?;

    inject(&vcpu, 0x78)?;
    let events: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    vcpu.set(KVM_SET_VCPU_EVENTS, &events)?;
    vcpu.change_sregs(|_| ())?;
    let caught = machine.expect_caught(&vcpu, 0x78)?;
    ensure_eq!(caught.count, 2, "times");
    vcpu.run_to_done()
}

/// Leaves `vcpu` behind its read of a device, with the exception that this made waiting.
fn complete_read(vcpu: &Vcpu) -> Outcome {
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(&exit, Exit::Mmio(m) if m.address == MMIO && !m.write),
        "exit is {exit:x?}"
    );
    vcpu.set_mmio_data(0x5a);
    vcpu.set_immediate_exit(true);
    ensure_errno!(vcpu.run(), libc::EINTR, "KVM_RUN");
    vcpu.set_immediate_exit(false);
    Ok(())
}

/// A page fault that has not been delivered yet: CR2 is part of the state that is saved.
fn waiting_exception_has_its_address() -> Outcome {
    const NOWHERE: u64 = 1 << 40;
    let (machine, vcpu) = long_mode(code64!("movsb", "out 0x10, al"))?;
    vcpu.change_regs(|r| (r.rsi, r.rdi) = (MMIO, NOWHERE))?;
    complete_read(&vcpu)?;
    let events: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    let exception = events.exception;
    ensure_eq!((exception.injected, exception.nr), (1, PF), "exception");
    let sregs = vcpu.sregs()?;
    ensure_eq!(sregs.cr2, NOWHERE, "CR2");
    vcpu.set_sregs(&sregs)?;
    vcpu.set(KVM_SET_VCPU_EVENTS, &events)?;
    let caught = machine.expect_caught(&vcpu, PF)?;
    ensure_eq!((caught.cr2, caught.error), (NOWHERE, 2), "CR2, error");
    Ok(())
}

/// The same of a single step and DR6.
fn waiting_step_is_in_dr6() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("mov al, [rsi]", "nop", "out 0x10, al"))?;
    vcpu.change_regs(|r| {
        r.rsi = MMIO;
        r.rflags |= 1 << 8;
    })?;
    complete_read(&vcpu)?;
    let events: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    let exception = events.exception;
    ensure_eq!((exception.injected, exception.nr), (1, DB), "exception");
    let debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    ensure_eq!(debug.dr6, 0xffff_4ff0, "DR6");
    vcpu.set(KVM_SET_VCPU_EVENTS, &events)?;
    let caught = machine.expect_caught(&vcpu, DB)?;
    ensure_eq!(caught.rip, CODE + 2, "RIP");
    Ok(())
}

/// INT3 and INTO whose delivery userspace has saved and restored: their handlers find the address
/// behind the instruction, in the guest's registers as on its stack.
fn traps_by_events() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, code64!("int3", "hlt", "int3", "hlt"))?;
    machine.expect_caught(&vcpu, BP)?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    set_exception(&vcpu, BP)?;
    let caught = machine.expect_caught(&vcpu, BP)?;
    ensure_eq!((caught.rip, caught.count), (CODE + 3, 2), "RIP, times");
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");

    machine.real_mode(&vcpu, code16!("into", "out 0x10, al", "hlt"))?;
    machine.load(CODE2, code16!("pop bx", "push bx", "iret"));
    machine.set_real_handler(OVERFLOW, CODE2 as u16);
    set_exception(&vcpu, OVERFLOW)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rbx, 1, "IP on the stack");
    Ok(())
}

fn set_exception(vcpu: &Vcpu, vector: u8) -> SysResult<i32> {
    let mut events: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    events.exception.injected = 1;
    events.exception.nr = vector;
    vcpu.set(KVM_SET_VCPU_EVENTS, &events)
}

/// An injected interrupt that the guest has not taken yet is part of the state that is saved.
fn pending_interrupt_survives_save() -> Outcome {
    let code = code64!("sti", "nop", "2:", "out 0x10, al", "jmp 2b");
    let (_machine, vcpu) = long_mode(code)?;
    vcpu.run_to_done()?;
    inject(&vcpu, 0x77)?;
    let events: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    let sregs = vcpu.sregs()?;
    let in_bitmap = sregs.interrupt_bitmap[0x77 / 64] & 1 << (0x77 % 64) != 0;
    ensure!(
        in_bitmap || events.interrupt.injected != 0 && events.interrupt.nr == 0x77,
        "neither the bitmap nor the events tell of it: {:?}",
        events.interrupt
    );
    let regs = vcpu.regs()?;
    let (second, other) = long_mode(code)?;
    other.set_sregs(&sregs)?;
    other.set_regs(&regs)?;
    other.set(KVM_SET_VCPU_EVENTS, &events)?;
    second.expect_caught(&other, 0x77)?;
    Ok(())
}
