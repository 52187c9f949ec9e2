// SPDX-License-Identifier: GPL-2.0-or-later

//! The task priority in guest memory (`KVM_SET_VAPIC_ADDR`), reports of accesses to TPR
//! (`KVM_TPR_ACCESS_REPORTING`), and the hypercall that goes with them
//! (Documentation/virt/kvm/x86/hypercalls.rst, KVM_HC_VAPIC_POLL_IRQ).

use ironvm_abi_tests::driver::{lapic_register, msi_address, set_lapic_register, Driver, Eoi};
use ironvm_abi_tests::guest::{long_mode, long_mode_with_irqchip, Machine};
use ironvm_abi_tests::harness::{Failure, Test};
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::{self, SysResult};
use ironvm_abi_tests::vcpu::Vcpu;
use ironvm_abi_tests::{code64, ensure, ensure_eq, ensure_errno, test, Exit, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("vapic", refused),
    test!("vapic", word_is_told_the_state),
    test!("vapic", word_shows_what_is_in_service),
    test!("vapic", tpr_is_taken_from_the_word),
    test!("vapic", lowered_tpr_lets_interrupts_in),
    test!("vapic", word_in_untouched_memory),
    test!("vapic", switched_off),
    test!("vapic", poll_hypercall),
    test!("tpr-access", refused_flags),
    test!("tpr-access", write_is_reported),
    test!("tpr-access", read_is_reported),
    test!("tpr-access", emulated_access_is_reported),
    test!("tpr-access", other_registers_are_not),
    test!("tpr-access", cr8_is_not),
    test!("tpr-access", switched_off_again),
];

/// Where the word is: at the end of a page, not aligned to it.
const WORD: u64 = DATA2 + 0xff4;

/// KVM_HC_VAPIC_POLL_IRQ: asks for nothing but the exit.
const POLL_IRQ: u64 = 1;

/// Offset of `tpr_access` in `kvm_run`, where every exit has its particulars.
const PARTICULARS: usize = 32;

fn set_word(vcpu: &Vcpu, address: u64) -> SysResult<i32> {
    let address = kvm_vapic_addr {
        vapic_addr: address,
    };
    vcpu.set(KVM_SET_VAPIC_ADDR, &address)
}

fn report(vcpu: &Vcpu, enabled: u32) -> SysResult<i32> {
    let mut control = kvm_tpr_access_ctl {
        enabled,
        ..Default::default()
    };
    sys::ioctl_mut(vcpu, KVM_TPR_ACCESS_REPORTING, &mut control)
}

/// The word: TPR, class in service, nothing, interrupt requested.
fn word(m: &Machine) -> [u8; 4] {
    m.read::<u32>(WORD).to_le_bytes()
}

fn refused() -> Outcome {
    let (m, vcpu) = long_mode(code64!("out 0x10, al"))?;
    ensure!(m.kvm.has(KVM_CAP_VAPIC), "KVM_CAP_VAPIC");
    ensure_errno!(set_word(&vcpu, WORD), libc::EINVAL, "no local APIC");
    let (_m, vcpu) = long_mode_with_irqchip(code64!("out 0x10, al"))?;
    ensure_errno!(set_word(&vcpu, MMIO), libc::EINVAL, "no memory");
    ensure_errno!(set_word(&vcpu, MEMORY - 2), libc::EINVAL, "half of it");
    set_word(&vcpu, MEMORY - 4)?;
    set_word(&vcpu, 0)?;
    Ok(())
}

fn word_is_told_the_state() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.apic(APIC_TPR, 0x70)?;
    d.machine.vm.signal_msi(msi_address(0), 0x61)?;
    set_word(&d.vcpu, WORD)?;
    d.machine.write(WORD, 0xaaaa_aaaa_u32);
    ensure_eq!(
        d.read(WORD)?.to_le_bytes(),
        [0x70, 0, 0, 0x61],
        "what the guest reads"
    );
    Ok(())
}

/// In the handler: the interrupt in service by its class, and the one behind it.
fn word_shows_what_is_in_service() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let m = &d.machine;
    m.load(
        CODE,
        code64!(
            "mov eax, [rsi]",
            "mov [rdi], eax",
            "mov dword ptr [rdx], 0",
            "iretq"
        ),
    );
    m.set_handler(0x75, CODE);
    m.vm.signal_msi(msi_address(0), 0x75)?;
    m.vm.signal_msi(msi_address(0), 0x51)?;
    set_word(&d.vcpu, WORD)?;
    d.vcpu.change_regs(|r| {
        (r.rsi, r.rdi) = (WORD, DATA2);
        r.rdx = LAPIC + u64::from(APIC_EOI);
    })?;
    d.breathe()?;
    ensure_eq!(
        m.read::<u32>(DATA2).to_le_bytes(),
        [0, 0x70, 0, 0x51],
        "in the handler"
    );
    ensure_eq!(d.count(0x51), 1, "the other interrupt");
    Ok(())
}

fn tpr_is_taken_from_the_word() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    set_word(&d.vcpu, WORD)?;
    for tpr in [0x50, 0x57, 0xf0, 0] {
        // An exit follows the write at once.
        d.write(WORD, 0xffff_ff00 | tpr)?;
        ensure_eq!(lapic_register(&d.vcpu, APIC_TPR)?, tpr, "TPR");
        ensure_eq!(d.vcpu.run_cr8(), u64::from(tpr) >> 4, "CR8");
        d.breathe()?;
        ensure_eq!(word(&d.machine), [tpr as u8, 0, 0, 0], "the word");
    }
    // What userspace sets, the word follows.
    set_lapic_register(&d.vcpu, APIC_TPR, 0x30)?;
    ensure_eq!(d.read(WORD)?, 0x30, "the word after KVM_SET_LAPIC");
    Ok(())
}

fn lowered_tpr_lets_interrupts_in() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    set_word(&d.vcpu, WORD)?;
    d.write(WORD, 0x60)?;
    d.machine.vm.signal_msi(msi_address(0), 0x61)?;
    d.machine.vm.signal_msi(msi_address(0), 0x71)?;
    d.breathe()?;
    ensure_eq!((d.count(0x61), d.count(0x71)), (0, 1), "below, above");
    d.write(WORD, 0x50)?;
    d.breathe()?;
    ensure_eq!(d.count(0x61), 1, "after TPR fell");
    Ok(())
}

/// The page of the word is not there yet, and goes away again.
fn word_in_untouched_memory() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let gpa = FREE + 0x10_0000;
    set_word(&d.vcpu, gpa)?;
    for tpr in [0x50_u32, 0x20] {
        d.write(gpa, tpr)?;
        ensure_eq!(lapic_register(&d.vcpu, APIC_TPR)?, tpr, "TPR");
        d.machine
            .memory
            .advise(gpa as usize, 4096, libc::MADV_DONTNEED)?;
        d.breathe()?;
        ensure_eq!(lapic_register(&d.vcpu, APIC_TPR)? & !tpr, 0, "TPR");
        ensure_eq!(
            d.machine.read::<u32>(gpa),
            lapic_register(&d.vcpu, APIC_TPR)?,
            "the word"
        );
    }
    Ok(())
}

fn switched_off() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    set_word(&d.vcpu, WORD)?;
    d.write(WORD, 0x40)?;
    set_word(&d.vcpu, 0)?;
    d.write(WORD, 0x70)?;
    ensure_eq!(lapic_register(&d.vcpu, APIC_TPR)?, 0x40, "TPR");
    d.apic(APIC_TPR, 0x20)?;
    ensure_eq!(d.read(WORD)?, 0x70, "the word");
    Ok(())
}

/// The guest's code has one vendor's instruction for hypercalls; the other's works too.
fn poll_hypercall() -> Outcome {
    for code in [
        code64!("vmmcall", "out 0x10, al"),
        code64!("vmcall", "out 0x10, al"),
    ] {
        let (_m, vcpu) = long_mode_with_irqchip(code)?;
        vcpu.change_regs(|r| r.rax = POLL_IRQ)?;
        vcpu.run_to_done()?;
        let regs = vcpu.regs()?;
        ensure_eq!((regs.rax, regs.rip), (0, CODE + 3), "result, address");
    }
    Ok(())
}

/// The exit for an access to TPR by the instruction at `CODE`.
fn expect_report(vcpu: &Vcpu, write: bool) -> Result<kvm_regs, Failure> {
    match vcpu.run_on()? {
        Exit::Other(KVM_EXIT_TPR_ACCESS) => {}
        exit => return Err(vcpu.unexpected(&exit)),
    }
    ensure_eq!(vcpu.run.read::<u64>(PARTICULARS), CODE, "address");
    ensure_eq!(
        vcpu.run.read::<u32>(PARTICULARS + 8),
        u32::from(write),
        "is_write"
    );
    Ok(vcpu.regs()?)
}

fn refused_flags() -> Outcome {
    let (_m, vcpu) = long_mode_with_irqchip(code64!("out 0x10, al"))?;
    let mut control = kvm_tpr_access_ctl {
        enabled: 1,
        flags: 1,
        ..Default::default()
    };
    let result = sys::ioctl_mut(&vcpu, KVM_TPR_ACCESS_REPORTING, &mut control);
    ensure_errno!(result, libc::EINVAL, "flags");
    report(&vcpu, 1)?;
    // Where userspace models the local APIC it is taken, and of no use.
    let (_m, vcpu) = long_mode(code64!("out 0x10, al"))?;
    report(&vcpu, 1)?;
    vcpu.run_to_done()
}

fn write_is_reported() -> Outcome {
    let (_m, vcpu) = long_mode_with_irqchip(code64!("mov [rsi], eax", "out 0x10, al"))?;
    report(&vcpu, 1)?;
    vcpu.change_regs(|r| (r.rsi, r.rax) = (LAPIC + u64::from(APIC_TPR), 0x30))?;
    let regs = expect_report(&vcpu, true)?;
    // The instruction is complete.
    ensure_eq!(regs.rip, CODE + 2, "rip");
    ensure_eq!(lapic_register(&vcpu, APIC_TPR)?, 0x30, "TPR");
    vcpu.run_to_done()
}

fn read_is_reported() -> Outcome {
    let (_m, vcpu) = long_mode_with_irqchip(code64!("mov eax, [rsi]", "out 0x10, al"))?;
    report(&vcpu, 1)?;
    set_lapic_register(&vcpu, APIC_TPR, 0x50)?;
    vcpu.change_regs(|r| r.rsi = LAPIC + u64::from(APIC_TPR))?;
    let regs = expect_report(&vcpu, false)?;
    ensure_eq!((regs.rip, regs.rax), (CODE + 2, 0x50), "rip, what was read");
    vcpu.run_to_done()
}

/// An instruction that is more than a move: it reads first and writes then.
fn emulated_access_is_reported() -> Outcome {
    let (_m, vcpu) = long_mode_with_irqchip(code64!("or dword ptr [rsi], 0x20", "out 0x10, al"))?;
    report(&vcpu, 1)?;
    set_lapic_register(&vcpu, APIC_TPR, 0x50)?;
    vcpu.change_regs(|r| r.rsi = LAPIC + u64::from(APIC_TPR))?;
    let regs = expect_report(&vcpu, true)?;
    ensure_eq!(regs.rip, CODE + 3, "rip");
    ensure_eq!(lapic_register(&vcpu, APIC_TPR)?, 0x70, "TPR");
    vcpu.run_to_done()
}

fn other_registers_are_not() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    report(&d.vcpu, 1)?;
    for register in [APIC_SVR, APIC_EOI, APIC_ID] {
        d.read_apic(register)?;
    }
    d.apic(APIC_SVR, 0x1ff)?;
    d.machine.vm.signal_msi(msi_address(0), 0x61)?;
    d.breathe()?;
    ensure_eq!(d.count(0x61), 1, "interrupts");
    Ok(())
}

fn cr8_is_not() -> Outcome {
    let code = code64!("mov cr8, rax", "mov rcx, cr8", "out 0x10, al");
    let (_m, vcpu) = long_mode_with_irqchip(code)?;
    report(&vcpu, 1)?;
    vcpu.change_regs(|r| r.rax = 5)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rcx, 5, "CR8");
    Ok(())
}

fn switched_off_again() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    report(&d.vcpu, 1)?;
    report(&d.vcpu, 0)?;
    d.apic(APIC_TPR, 0x30)?;
    ensure_eq!(d.read_apic(APIC_TPR)?, 0x30, "TPR");
    Ok(())
}
