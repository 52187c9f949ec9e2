// SPDX-License-Identifier: GPL-2.0-or-later

//! Memory accesses outside the slots that userspace answers (KVM API document, section 5,
//! `KVM_EXIT_MMIO`): plain moves. `emulate` has the other instructions.

use ironvm_abi_tests::exit::Mmio;
use ironvm_abi_tests::guest::long_mode;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::signals;
use ironvm_abi_tests::sys::Mapping;
use std::time::Duration;

use ironvm_abi_tests::{code64, ensure, ensure_eq, fail, test, Exit, Failure, Outcome, Vcpu};

pub const TESTS: &[Test] = &[
    test!("mmio", write_sizes),
    test!("mmio", read_sizes),
    test!("mmio", read_keeps_upper_bits),
    test!("mmio", immediate_writes),
    test!("mmio", addressing_forms),
    test!("mmio", crossing_mmio_pages),
    test!("mmio", write_crossing_from_memory),
    test!("mmio", read_crossing_to_memory),
    test!("mmio", completion_by_immediate_exit),
    test!("mmio", code_fetch_outside_memory),
    test!("mmio", wide_moves),
    test!("mmio", same_address_many_times),
    test!("mmio", page_tables_outside_memory),
];

fn next_mmio(vcpu: &Vcpu) -> Result<Mmio, Failure> {
    match vcpu.run_on()? {
        Exit::Mmio(mmio) => Ok(mmio),
        other => Err(vcpu.unexpected(&other)),
    }
}

fn expect_write(vcpu: &Vcpu, address: u64, length: u32, value: u64) -> Outcome {
    let m = next_mmio(vcpu)?;
    let got = (m.write, m.address, m.length, m.value());
    ensure_eq!(got, (true, address, length, value), "write");
    Ok(())
}

fn answer_read(vcpu: &Vcpu, address: u64, length: u32, value: u64) -> Outcome {
    let m = next_mmio(vcpu)?;
    let got = (m.write, m.address, m.length);
    ensure_eq!(got, (false, address, length), "read");
    vcpu.set_mmio_data(value);
    Ok(())
}

fn write_sizes() -> Outcome {
    let code = code64!(
        "mov rax, 0x1122334455667788",
        "mov [rsi], al",
        "mov [rsi + 2], ax",
        "mov [rsi + 4], eax",
        "mov [rsi + 8], rax",
        "mov [rsi + 1], ah",
        "mov [rsi + 3], eax",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    expect_write(&vcpu, MMIO, 1, 0x88)?;
    expect_write(&vcpu, MMIO + 2, 2, 0x7788)?;
    expect_write(&vcpu, MMIO + 4, 4, 0x5566_7788)?;
    expect_write(&vcpu, MMIO + 8, 8, 0x1122_3344_5566_7788)?;
    expect_write(&vcpu, MMIO + 1, 1, 0x77)?;
    expect_write(&vcpu, MMIO + 3, 4, 0x5566_7788)?;
    vcpu.run_to_done()
}

fn read_sizes() -> Outcome {
    let code = code64!(
        "mov al, [rsi]",
        "mov bx, [rsi + 2]",
        "mov ecx, [rsi + 4]",
        "mov rdx, [rsi + 8]",
        "mov dil, [rsi + 16]",
        "mov r15w, [rsi + 18]",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    answer_read(&vcpu, MMIO, 1, 0x81)?;
    answer_read(&vcpu, MMIO + 2, 2, 0x8283)?;
    answer_read(&vcpu, MMIO + 4, 4, 0x8485_8687)?;
    answer_read(&vcpu, MMIO + 8, 8, 0x8899_aabb_ccdd_eeff)?;
    answer_read(&vcpu, MMIO + 16, 1, 0x91)?;
    answer_read(&vcpu, MMIO + 18, 2, 0x9293)?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!(
        (r.rax, r.rbx, r.rcx, r.rdx, r.rdi, r.r15),
        (
            0x81,
            0x8283,
            0x8485_8687,
            0x8899_aabb_ccdd_eeff,
            0x91,
            0x9293
        ),
        "values"
    );
    Ok(())
}

fn read_keeps_upper_bits() -> Outcome {
    let code = code64!(
        "mov rax, -1",
        "mov rbx, -1",
        "mov rcx, -1",
        "mov al, [rsi]",
        "mov bx, [rsi]",
        "mov ecx, [rsi]",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    for length in [1, 2, 4] {
        answer_read(&vcpu, MMIO, length, 0)?;
    }
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!(
        (r.rax, r.rbx, r.rcx),
        (0xffff_ffff_ffff_ff00, 0xffff_ffff_ffff_0000, 0),
        "registers"
    );
    Ok(())
}

fn immediate_writes() -> Outcome {
    let code = code64!(
        "mov byte ptr [rsi], 0x12",
        "mov word ptr [rsi], 0x3456",
        "mov dword ptr [rsi], 0x789abcde",
        "mov qword ptr [rsi], -2",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    expect_write(&vcpu, MMIO, 1, 0x12)?;
    expect_write(&vcpu, MMIO, 2, 0x3456)?;
    expect_write(&vcpu, MMIO, 4, 0x789a_bcde)?;
    expect_write(&vcpu, MMIO, 8, -2i64 as u64)?;
    vcpu.run_to_done()
}

/// ModRM, SIB, displacements, RIP-relative, absolute, 32-bit addresses, segment bases.
fn addressing_forms() -> Outcome {
    let code = code64!(
        "mov [rsi + 4 * rcx], eax",
        "mov [rsi + 8 * rcx + 0x10], eax",
        "mov [rsi + 0x12345], eax",
        "mov [rsi - 8], eax",
        "mov [r12], eax",
        "mov [r13], eax",
        "mov [r13 + 2 * r14], eax",
        "mov [rsp + rcx], eax",
        "mov [8 * rcx + 0x50000000], eax",
        // MOV moffs with a 64-bit address.
        ".byte 0xa3",
        ".quad 0xd0000040",
        // A 32-bit address wraps at 4 GiB.
        "mov [esi + ebx], eax",
        "mov fs:[rcx], eax",
        "mov gs:[rsi], eax",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    vcpu.change_regs(|r| {
        (r.rsi, r.rcx, r.rbx) = (MMIO, 3, 0xffff_fff0);
        (r.r12, r.r13, r.r14) = (MMIO + 0x100, MMIO + 0x200, 5);
        (r.rsp, r.rax) = (MMIO + 0x300, 0x77);
    })?;
    vcpu.change_sregs(|s| (s.fs.base, s.gs.base) = (MMIO + 0x400, 0x1000))?;
    for address in [
        MMIO + 12,
        MMIO + 24 + 16,
        MMIO + 0x12345,
        MMIO - 8,
        MMIO + 0x100,
        MMIO + 0x200,
        MMIO + 0x20a,
        MMIO + 0x303,
        0x5000_0018,
        MMIO + 0x40,
        MMIO - 16,
        MMIO + 0x403,
        MMIO + 0x1000,
    ] {
        expect_write(&vcpu, address, 4, 0x77)?;
    }
    vcpu.change_regs(|r| r.rsp = STACKS + 0x800)?;
    vcpu.run_to_done()
}

/// An access over two pages is two exits, the first with the bytes of the first page.
fn crossing_mmio_pages() -> Outcome {
    let code = code64!("mov [rsi], rax", "mov rbx, [rsi]", "out 0x10, al");
    let (_machine, vcpu) = long_mode(code)?;
    let at = MMIO + 0xffd;
    vcpu.change_regs(|r| (r.rsi, r.rax) = (at, 0x1122_3344_5566_7788))?;
    expect_write(&vcpu, at, 3, 0x66_7788)?;
    expect_write(&vcpu, at + 3, 5, 0x11_2233_4455)?;
    answer_read(&vcpu, at, 3, 0xcc_bbaa)?;
    answer_read(&vcpu, at + 3, 5, 0x55_4433_2211)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rbx, 0x5544_3322_11cc_bbaa, "value read");
    Ok(())
}

/// The first half of the access lies in memory, the other does not.
fn write_crossing_from_memory() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("mov [rsi], rax", "out 0x10, al"))?;
    let memory = Mapping::anonymous(4096)?;
    machine.vm.map(1, 0, MMIO - 4096, &memory)?;
    vcpu.change_regs(|r| (r.rsi, r.rax) = (MMIO - 4, 0x1122_3344_5566_7788))?;
    expect_write(&vcpu, MMIO, 4, 0x1122_3344)?;
    vcpu.run_to_done()?;
    ensure_eq!(memory.read::<u32>(4092), 0x5566_7788, "half in memory");
    Ok(())
}

fn read_crossing_to_memory() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("mov rax, [rsi]", "out 0x10, al"))?;
    let memory = Mapping::anonymous(4096)?;
    memory.write(0, 0xaabb_ccddu32);
    machine.vm.map(1, 0, MMIO + 4096, &memory)?;
    vcpu.change_regs(|r| r.rsi = MMIO + 4092)?;
    answer_read(&vcpu, MMIO + 4092, 4, 0x1122_3344)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 0xaabb_ccdd_1122_3344, "value");
    Ok(())
}

fn completion_by_immediate_exit() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("mov eax, [rsi]", "hlt"))?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    answer_read(&vcpu, MMIO, 4, 0x1357_9bdf)?;
    vcpu.set_immediate_exit(true);
    match vcpu.run() {
        Err(e) if e.number == libc::EINTR => {}
        other => fail!("immediate exit gave {other:x?}"),
    }
    vcpu.set_immediate_exit(false);
    let regs = vcpu.regs()?;
    ensure_eq!((regs.rax, regs.rip), (0x1357_9bdf, CODE + 2), "EAX and RIP");
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    Ok(())
}

fn code_fetch_outside_memory() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("jmp rsi"))?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(exit, Exit::InternalError(1, _)),
        "exit is {exit:x?}, expected an emulation error"
    );
    ensure_eq!(vcpu.regs()?.rip, MMIO, "RIP");
    Ok(())
}

/// Sixteen bytes are two accesses of eight.
fn wide_moves() -> Outcome {
    let code = code64!(
        "movups xmm1, [rdi]",
        "movups [rsi], xmm1",
        "movups xmm2, [rsi + 32]",
        "movdqa [rsi + 64], xmm2",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    vcpu.change_regs(|r| (r.rsi, r.rdi) = (MMIO, DATA))?;
    machine.write(DATA, std::array::from_fn::<u8, 16, _>(|i| i as u8));
    expect_write(&vcpu, MMIO, 8, 0x0706_0504_0302_0100)?;
    expect_write(&vcpu, MMIO + 8, 8, 0x0f0e_0d0c_0b0a_0908)?;
    answer_read(&vcpu, MMIO + 32, 8, 0x1111_2222_3333_4444)?;
    answer_read(&vcpu, MMIO + 40, 8, 0x5555_6666_7777_8888)?;
    expect_write(&vcpu, MMIO + 64, 8, 0x1111_2222_3333_4444)?;
    expect_write(&vcpu, MMIO + 72, 8, 0x5555_6666_7777_8888)?;
    vcpu.run_to_done()
}

/// A device's register read in a loop; nothing may be remembered from one access to the next.
fn same_address_many_times() -> Outcome {
    let code = code64!(
        "2:",
        "mov eax, [rsi]",
        "add rbx, rax",
        "dec ecx",
        "jnz 2b",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    vcpu.change_regs(|r| (r.rsi, r.rcx) = (MMIO, 300))?;
    for i in 0..300 {
        answer_read(&vcpu, MMIO, 4, i)?;
    }
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rbx, 299 * 300 / 2, "sum");
    Ok(())
}

/// Page tables that are not in memory give the guest no way on. KVM tries again and again; what must
/// hold is that a signal ends it.
fn page_tables_outside_memory() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("mov cr3, rsi", "mov rax, [rdi]", "hlt"))?;
    vcpu.change_regs(|r| (r.rsi, r.rdi) = (MMIO, DATA))?;
    signals::interrupt_after(Duration::from_millis(300))?;
    match vcpu.run() {
        Err(e) if e.number == libc::EINTR => Ok(()),
        Ok(Exit::Hlt) => fail!("the guest went on without page tables"),
        Ok(Exit::Shutdown | Exit::InternalError(..) | Exit::Mmio(_)) => Ok(()),
        other => fail!("KVM_RUN gave {other:x?}"),
    }
}
