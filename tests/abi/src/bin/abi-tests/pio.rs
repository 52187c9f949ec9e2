// SPDX-License-Identifier: GPL-2.0-or-later

//! Port accesses that userspace answers (KVM API document, section 5, `KVM_EXIT_IO`).

use ironvm_abi_tests::exit::Io;
use ironvm_abi_tests::guest::{long_mode, Machine};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{code16, code32, code64, ensure, ensure_eq, fail, test};
use ironvm_abi_tests::{Exit, Failure, Outcome, Vcpu};

pub const TESTS: &[Test] = &[
    test!("pio", out_sizes),
    test!("pio", in_sizes),
    test!("pio", in_keeps_upper_bits),
    test!("pio", port_in_dx),
    test!("pio", outs_once),
    test!("pio", rep_outs),
    test!("pio", rep_outs_backwards),
    test!("pio", ins_once),
    test!("pio", rep_ins),
    test!("pio", rep_ins_words),
    test!("pio", rep_with_zero_count),
    test!("pio", rep_outs_over_pages),
    test!("pio", rip_at_exit),
    test!("pio", real_mode),
    test!("pio", protected_mode),
    test!("pio", real_mode_string),
];

/// Runs to a port access that userspace must answer.
fn next_io(vcpu: &Vcpu) -> Result<Io, Failure> {
    match vcpu.run_on()? {
        Exit::Io(io) if io.port != PORT_DONE && io.port != PORT_CAUGHT => Ok(io),
        other => Err(vcpu.unexpected(&other)),
    }
}

fn io(out: bool, size: u8, port: u16, data: &[u8]) -> Io {
    Io {
        out,
        size,
        port,
        count: data.len() as u32 / u32::from(size),
        data: data.to_vec(),
    }
}

fn out_sizes() -> Outcome {
    let code = code64!(
        "mov eax, 0x11223344",
        "out 0x80, al",
        "out 0x81, ax",
        "out 0x84, eax",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    ensure_eq!(next_io(&vcpu)?, io(true, 1, 0x80, &[0x44]), "byte");
    ensure_eq!(next_io(&vcpu)?, io(true, 2, 0x81, &[0x44, 0x33]), "word");
    let all = [0x44, 0x33, 0x22, 0x11];
    ensure_eq!(next_io(&vcpu)?, io(true, 4, 0x84, &all), "dword");
    vcpu.run_to_done()
}

fn in_sizes() -> Outcome {
    let code = code64!(
        "in al, 0x80",
        "mov bl, al",
        "in ax, 0x82",
        "mov cx, ax",
        "in eax, 0x84",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    for (size, port, data) in [
        (1, 0x80, &[0xaa][..]),
        (2, 0x82, &[0xbb, 0xcc]),
        (4, 0x84, &[1, 2, 3, 4]),
    ] {
        let got = next_io(&vcpu)?;
        ensure_eq!(
            (got.out, got.size, got.port, got.count),
            (false, size, port, 1),
            "read"
        );
        vcpu.set_io_data(data);
    }
    vcpu.run_to_done()?;
    let regs = vcpu.regs()?;
    ensure_eq!(
        (regs.rbx, regs.rcx, regs.rax),
        (0xaa, 0xccbb, 0x0403_0201),
        "values"
    );
    Ok(())
}

/// Byte and word reads leave the rest of RAX alone; a dword read clears the upper half.
fn in_keeps_upper_bits() -> Outcome {
    let code = code64!(
        "mov rax, -1",
        "in al, 0x80",
        "mov rbx, rax",
        "mov rax, -1",
        "in ax, 0x80",
        "mov rcx, rax",
        "mov rax, -1",
        "in eax, 0x80",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    for _ in 0..3 {
        let size = next_io(&vcpu)?.size;
        vcpu.set_io_data(&vec![0; size.into()]);
    }
    vcpu.run_to_done()?;
    let regs = vcpu.regs()?;
    ensure_eq!(regs.rbx, 0xffff_ffff_ffff_ff00, "RAX after a byte");
    ensure_eq!(regs.rcx, 0xffff_ffff_ffff_0000, "RAX after a word");
    ensure_eq!(regs.rax, 0, "RAX after a dword");
    Ok(())
}

fn port_in_dx() -> Outcome {
    let code = code64!(
        "mov edx, 0xabcd1f0",
        "mov al, 7",
        "out dx, al",
        "mov dx, 0xffff",
        "out dx, al",
        "in al, dx",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    ensure_eq!(next_io(&vcpu)?, io(true, 1, 0xd1f0, &[7]), "port of DX");
    ensure_eq!(next_io(&vcpu)?, io(true, 1, 0xffff, &[7]), "last port");
    let got = next_io(&vcpu)?;
    ensure_eq!(
        (got.out, got.port),
        (false, 0xffff),
        "read of the last port"
    );
    vcpu.set_io_data(&[9]);
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax & 0xff, 9, "AL");
    Ok(())
}

fn outs_once() -> Outcome {
    let code = code64!("outsb", "outsw", "outsd", "out 0x10, al");
    let (machine, vcpu) = long_mode(code)?;
    machine.load(DATA, &[1, 2, 3, 4, 5, 6, 7]);
    vcpu.change_regs(|r| (r.rsi, r.rdx) = (DATA, 0x80))?;
    ensure_eq!(next_io(&vcpu)?, io(true, 1, 0x80, &[1]), "OUTSB");
    ensure_eq!(next_io(&vcpu)?, io(true, 2, 0x80, &[2, 3]), "OUTSW");
    ensure_eq!(next_io(&vcpu)?, io(true, 4, 0x80, &[4, 5, 6, 7]), "OUTSD");
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rsi, DATA + 7, "RSI");
    Ok(())
}

/// Collects writes to a port until the guest is done. How many come in one exit is not fixed.
fn collect(vcpu: &Vcpu, size: u8, port: u16) -> Result<Vec<u8>, Failure> {
    let mut all = Vec::new();
    loop {
        match vcpu.run_on()? {
            Exit::Io(io) if io.out && io.port == port && io.size == size => all.extend(io.data),
            exit if exit.is_out(PORT_DONE) => return Ok(all),
            exit => return Err(vcpu.unexpected(&exit)),
        }
    }
}

fn rep_outs() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("rep outsb", "out 0x10, al"))?;
    let data: Vec<u8> = (0..200).collect();
    machine.load(DATA, &data);
    vcpu.change_regs(|r| (r.rsi, r.rdx, r.rcx) = (DATA, 0x3f8, 200))?;
    ensure_eq!(collect(&vcpu, 1, 0x3f8)?, data, "bytes");
    let regs = vcpu.regs()?;
    ensure_eq!((regs.rsi, regs.rcx), (DATA + 200, 0), "RSI and RCX");
    Ok(())
}

fn rep_outs_backwards() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("std", "rep outsw", "cld", "out 0x10, al"))?;
    for i in 0..16u16 {
        machine.write(DATA + 2 * u64::from(i), i);
    }
    vcpu.change_regs(|r| (r.rsi, r.rdx, r.rcx) = (DATA + 30, 0x3f8, 16))?;
    let want: Vec<u8> = (0..16u16).rev().flat_map(u16::to_le_bytes).collect();
    ensure_eq!(collect(&vcpu, 2, 0x3f8)?, want, "words");
    ensure_eq!(vcpu.regs()?.rsi, DATA - 2, "RSI");
    Ok(())
}

fn ins_once() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("insb", "insw", "insd", "out 0x10, al"))?;
    machine.load(DATA, &[0xee; 8]);
    vcpu.change_regs(|r| (r.rdi, r.rdx) = (DATA, 0x80))?;
    for data in [&[1][..], &[2, 3], &[4, 5, 6, 7]] {
        let got = next_io(&vcpu)?;
        ensure_eq!(
            (got.out, usize::from(got.size), got.count),
            (false, data.len(), 1),
            "read"
        );
        vcpu.set_io_data(data);
    }
    vcpu.run_to_done()?;
    let got = machine.read::<[u8; 8]>(DATA);
    ensure_eq!(got, [1, 2, 3, 4, 5, 6, 7, 0xee], "memory");
    ensure_eq!(vcpu.regs()?.rdi, DATA + 7, "RDI");
    Ok(())
}

/// Answers reads of a port with numbers counted up until the guest is done; gives how many.
fn supply(vcpu: &Vcpu, size: u8, port: u16) -> Result<u32, Failure> {
    let mut next = 0u32;
    loop {
        match vcpu.run_on()? {
            Exit::Io(io) if !io.out && io.port == port && io.size == size => {
                let mut data = Vec::new();
                for _ in 0..io.count {
                    data.extend_from_slice(&next.to_le_bytes()[..size.into()]);
                    next += 1;
                }
                vcpu.set_io_data(&data);
            }
            exit if exit.is_out(PORT_DONE) => return Ok(next),
            exit => return Err(vcpu.unexpected(&exit)),
        }
    }
}

fn rep_ins() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("rep insb", "out 0x10, al"))?;
    vcpu.change_regs(|r| (r.rdi, r.rdx, r.rcx) = (DATA, 0x60, 250))?;
    ensure_eq!(supply(&vcpu, 1, 0x60)?, 250, "reads");
    let want: Vec<u8> = (0..250).collect();
    ensure_eq!(machine.memory.bytes(DATA as usize, 250), want, "memory");
    let regs = vcpu.regs()?;
    ensure_eq!((regs.rdi, regs.rcx), (DATA + 250, 0), "RDI and RCX");
    Ok(())
}

fn rep_ins_words() -> Outcome {
    // Over the border of two pages, as a disk's sector may lie.
    let (machine, vcpu) = long_mode(code64!("rep insw", "out 0x10, al"))?;
    let at = DATA2 - 100;
    vcpu.change_regs(|r| (r.rdi, r.rdx, r.rcx) = (at, 0x1f0, 256))?;
    ensure_eq!(supply(&vcpu, 2, 0x1f0)?, 256, "reads");
    for i in 0..256u64 {
        ensure_eq!(machine.read::<u16>(at + 2 * i), i as u16, "word {i}");
    }
    Ok(())
}

fn rep_with_zero_count() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("rep outsb", "rep insb", "out 0x10, al"))?;
    vcpu.change_regs(|r| (r.rsi, r.rdi, r.rdx) = (DATA, DATA, 0x80))?;
    vcpu.run_to_done()?;
    let regs = vcpu.regs()?;
    ensure_eq!((regs.rsi, regs.rdi), (DATA, DATA), "RSI and RDI");
    Ok(())
}

fn rep_outs_over_pages() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("rep outsd", "out 0x10, al"))?;
    let count = 3000u64;
    for i in 0..count {
        machine.write(FREE + 2 + 4 * i, i as u32);
    }
    vcpu.change_regs(|r| (r.rsi, r.rdx, r.rcx) = (FREE + 2, 0x80, count))?;
    let want: Vec<u8> = (0..count as u32).flat_map(u32::to_le_bytes).collect();
    ensure!(collect(&vcpu, 4, 0x80)? == want, "dwords differ");
    Ok(())
}

/// The instruction pointer is behind the instruction once userspace is asked to write, and once the
/// vCPU is entered again after a read.
fn rip_at_exit() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("in al, 0x80", "out 0x80, al", "hlt"))?;
    next_io(&vcpu)?;
    vcpu.set_io_data(&[0x5a]);
    // Completion by an entry that does not run the guest.
    vcpu.set_immediate_exit(true);
    match vcpu.run() {
        Err(e) if e.number == libc::EINTR => {}
        other => fail!("immediate exit gave {other:x?}"),
    }
    vcpu.set_immediate_exit(false);
    let regs = vcpu.regs()?;
    ensure_eq!((regs.rax & 0xff, regs.rip), (0x5a, CODE + 2), "AL and RIP");
    next_io(&vcpu)?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    ensure_eq!(vcpu.regs()?.rip, CODE + 5, "RIP");
    Ok(())
}

fn real_mode() -> Outcome {
    let code = code16!(
        "mov dx, 0x3f8",
        "mov eax, 0x12345678",
        "out dx, al",
        "out dx, ax",
        "out dx, eax",
        "in al, dx",
        "out 0x10, al",
    );
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.real_mode(&vcpu, code)?;
    ensure_eq!(next_io(&vcpu)?, io(true, 1, 0x3f8, &[0x78]), "byte");
    ensure_eq!(next_io(&vcpu)?, io(true, 2, 0x3f8, &[0x78, 0x56]), "word");
    let all = [0x78, 0x56, 0x34, 0x12];
    ensure_eq!(next_io(&vcpu)?, io(true, 4, 0x3f8, &all), "dword");
    next_io(&vcpu)?;
    vcpu.set_io_data(&[0x99]);
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax & 0xff, 0x99, "AL");
    Ok(())
}

fn protected_mode() -> Outcome {
    let code = code32!("mov dx, 0x3f8", "rep outsb", "in eax, dx", "out 0x10, al");
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.protected_mode(&vcpu, code)?;
    machine.load(DATA, b"hello");
    // The upper half of the registers does not count.
    vcpu.change_regs(|r| (r.rsi, r.rcx) = (DATA, 5))?;
    let mut text = Vec::new();
    while text.len() < 5 {
        text.extend(next_io(&vcpu)?.data);
    }
    ensure_eq!(text, b"hello".to_vec(), "bytes");
    next_io(&vcpu)?;
    vcpu.set_io_data(&[1, 2, 3, 4]);
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 0x0403_0201, "EAX");
    Ok(())
}

/// String accesses with segments: the source may be overridden, the destination is ES.
fn real_mode_string() -> Outcome {
    let code = code16!(
        "mov ax, 0x0500",
        "mov es, ax",
        "mov ax, 0x0600",
        "mov ds, ax",
        "mov dx, 0x80",
        "mov si, 0x10",
        "mov di, 0x20",
        "mov cx, 4",
        "rep outsb",
        "mov cx, 3",
        "rep insb",
        "mov si, 0x20",
        "mov cx, 3",
        ".byte 0x26",
        "rep outsb",
        "out 0x10, al",
    );
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.real_mode(&vcpu, code)?;
    machine.load(0x6010, &[1, 2, 3, 4]);
    let mut written = Vec::new();
    let mut next = 0x70;
    loop {
        match vcpu.run_on()? {
            exit if exit.is_out(PORT_DONE) => break,
            Exit::Io(io) if io.out => written.extend(io.data),
            Exit::Io(io) => {
                let data: Vec<u8> = (0..io.count as u8).map(|i| next + i).collect();
                next += io.count as u8;
                vcpu.set_io_data(&data);
            }
            exit => return Err(vcpu.unexpected(&exit)),
        }
    }
    ensure_eq!(
        machine.read::<[u8; 3]>(0x5020),
        [0x70, 0x71, 0x72],
        "memory at ES:DI"
    );
    ensure_eq!(written, vec![1, 2, 3, 4, 0x70, 0x71, 0x72], "bytes written");
    Ok(())
}
