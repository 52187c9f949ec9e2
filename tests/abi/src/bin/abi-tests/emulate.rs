// SPDX-License-Identifier: GPL-2.0-or-later

//! Instructions whose operand is a device's register, in 16, 32 and 64-bit mode.
//!
//! Each case runs twice with the same registers: on memory, where the processor itself executes it,
//! and on addresses that userspace answers, where the module does. Registers, flags and contents
//! must come out the same. Flags that the manual leaves undefined are not compared.

use ironvm_abi_tests::guest::{Chips, Machine, Paging};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{code16, code32, code64, ensure, ensure_eq, fail, test};
use ironvm_abi_tests::{Exit, Failure, Outcome, Vcpu};
use kvm_bindings::*;

mod cases;

pub const TESTS: &[Test] = &[
    test!("emulate", moves_16, 60),
    test!("emulate", moves_32, 60),
    test!("emulate", moves_64, 60),
    test!("emulate", arithmetic_16, 60),
    test!("emulate", arithmetic_32, 60),
    test!("emulate", arithmetic_64, 60),
    test!("emulate", shifts_16, 60),
    test!("emulate", shifts_32, 60),
    test!("emulate", shifts_64, 60),
    test!("emulate", bits_16, 60),
    test!("emulate", bits_32, 60),
    test!("emulate", bits_64, 60),
    test!("emulate", exchanges_16, 60),
    test!("emulate", exchanges_32, 60),
    test!("emulate", exchanges_64, 60),
    test!("emulate", strings_16, 60),
    test!("emulate", strings_32, 60),
    test!("emulate", strings_64, 60),
    test!("emulate", others_16, 60),
    test!("emulate", others_32, 60),
    test!("emulate", others_64, 60),
    test!("emulate", wide_64, 60),
    test!("emulate", unknown_instruction),
    test!("emulate", locked_exchange_of_16_bytes),
    test!("emulate", unknown_instruction_in_user_mode),
    test!("emulate", segment_limit_16),
    test!("emulate", page_fault_during_emulation),
    test!("emulate", single_step_over_mmio),
];

/// Memory ends where the devices of a PC begin, so that real mode reaches them.
const RAM: u64 = 0x5_0000;
const DEVICE: u64 = 0xa_0000;
const LENGTH: usize = 256;

/// The mode a case runs in.
#[derive(Clone, Copy, PartialEq)]
pub enum Bits {
    B16,
    B32,
    B64,
}

/// An instruction, or a few.
pub struct Case {
    pub name: &'static str,
    pub code: &'static [u8],
    /// Flags that are defined after it.
    pub flags: u64,
}

/// What a run left behind.
#[derive(Debug, PartialEq)]
struct Left {
    registers: [u64; 9],
    flags: u64,
    memory: Vec<u8>,
    stack: u64,
}

fn pattern() -> Vec<u8> {
    // Bytes with the top bit set and clear, and no two words alike.
    (0..LENGTH as u32)
        .map(|i| (i * 37 + 0x80 - i / 3) as u8)
        .collect()
}

fn machine_for(bits: Bits) -> Result<(Machine, Vcpu), Failure> {
    let machine = Machine::build(Chips::None, DEVICE)?;
    let vcpu = machine.vcpu(0)?;
    match bits {
        Bits::B16 => machine.real_mode(&vcpu, code16!("hlt"))?,
        Bits::B32 => machine.protected_mode(&vcpu, code32!("hlt"))?,
        Bits::B64 => machine.long_mode(&vcpu, code64!("hlt"))?,
    }
    Ok((machine, vcpu))
}

/// Runs the code at `CODE` with SI and DI on `base` and gives what is left.
fn run(
    machine: &Machine,
    vcpu: &Vcpu,
    bits: Bits,
    start: &kvm_sregs,
    base: u64,
    mask: u64,
) -> Result<Left, Failure> {
    let real = bits == Bits::B16;
    vcpu.set_sregs(start)?;
    if real {
        vcpu.change_sregs(|s| {
            for segment in [&mut s.ds, &mut s.es] {
                (segment.base, segment.selector) = (base, (base >> 4) as u16);
            }
        })?;
    }
    let wide = if bits == Bits::B64 { !0 } else { 0xffff_ffff };
    let offset = if real { 0 } else { base };
    let stack = if real { 0x7e0 } else { STACKS + 0xf00 };
    machine.load(STACKS, &[0; 0x1000]);
    vcpu.set_regs(&kvm_regs {
        rip: if real { 0 } else { CODE },
        rsp: stack,
        rflags: RFLAGS_FIXED | RFLAGS_CF,
        rax: 0x8182_8384_1122_b344 & wide,
        rbx: 0x5152_5354_91a2_33c4 & wide,
        rcx: 3,
        rdx: 0x0102_0304_0506_0708 & wide,
        rsi: offset,
        rdi: offset + 64,
        rbp: 0x7172_7374_7576_7778 & wide,
        r8: 0xfedc_ba98_7654_3210,
        r9: 0x0f1e_2d3c_4b5a_6978,
        ..Default::default()
    })?;
    let device = if base == RAM {
        machine.load(RAM, &pattern());
        vcpu.run_to_done()?;
        machine.memory.bytes(RAM as usize, LENGTH)
    } else {
        answer_until_done(vcpu)?
    };
    let r = vcpu.regs()?;
    Ok(Left {
        registers: [
            r.rax,
            r.rbx,
            r.rcx,
            r.rdx,
            r.rsi.wrapping_sub(offset),
            r.rdi.wrapping_sub(offset),
            r.rbp,
            r.r8,
            r.r9,
        ],
        flags: r.rflags & mask,
        memory: device,
        stack: r.rsp,
    })
}

/// Plays a device of `LENGTH` bytes of memory at `DEVICE`.
fn answer_until_done(vcpu: &Vcpu) -> Result<Vec<u8>, Failure> {
    let mut device = pattern();
    loop {
        match vcpu.run_on()? {
            exit if exit.is_out(PORT_DONE) => return Ok(device),
            Exit::Mmio(m) => {
                let first = m.address.wrapping_sub(DEVICE) as usize;
                let length = m.length as usize;
                let Some(part) = device.get_mut(first..first + length) else {
                    fail!("access of {length} bytes at {:#x}", m.address);
                };
                if m.write {
                    part.copy_from_slice(&m.data[..length]);
                } else {
                    let mut bytes = [0xa5; 8];
                    bytes[..length].copy_from_slice(part);
                    vcpu.set_mmio_data(u64::from_le_bytes(bytes));
                }
            }
            exit => return Err(vcpu.unexpected(&exit)),
        }
    }
}

fn compare(bits: Bits, cases: &[Case]) -> Outcome {
    let (machine, vcpu) = machine_for(bits)?;
    let start = vcpu.sregs()?;
    let mut wrong = Vec::new();
    for case in cases {
        machine.load(CODE, case.code);
        let native = run(&machine, &vcpu, bits, &start, RAM, case.flags)?;
        match run(&machine, &vcpu, bits, &start, DEVICE, case.flags) {
            Ok(left) if left == native => {}
            Ok(left) => wrong.push(format!("{}: {}", case.name, difference(&left, &native))),
            Err(Failure::Failed(why) | Failure::Skipped(why)) => {
                wrong.push(format!("{}: {why}", case.name))
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} cases: {}",
        wrong.len(),
        cases.len(),
        wrong.join(" | ")
    );
    Ok(())
}

fn difference(got: &Left, want: &Left) -> String {
    const NAMES: [&str; 9] = ["ax", "bx", "cx", "dx", "si", "di", "bp", "r8", "r9"];
    for (i, name) in NAMES.iter().enumerate() {
        if got.registers[i] != want.registers[i] {
            return format!(
                "{name} {:#x}, not {:#x}",
                got.registers[i], want.registers[i]
            );
        }
    }
    if got.flags != want.flags {
        return format!("flags {:#x}, not {:#x}", got.flags, want.flags);
    }
    if got.stack != want.stack {
        return format!("stack {:#x}, not {:#x}", got.stack, want.stack);
    }
    let at = (0..LENGTH)
        .find(|&i| got.memory[i] != want.memory[i])
        .unwrap_or(0);
    format!(
        "byte {at} {:#x}, not {:#x}",
        got.memory[at], want.memory[at]
    )
}

macro_rules! families {
    ($($name16:ident $name32:ident $name64:ident $list:ident;)*) => {
        $(
            fn $name16() -> Outcome {
                compare(Bits::B16, &cases::bits16::$list())
            }
            fn $name32() -> Outcome {
                compare(Bits::B32, &cases::bits32::$list())
            }
            fn $name64() -> Outcome {
                compare(Bits::B64, &cases::bits64::$list())
            }
        )*
    };
}

families! {
    moves_16 moves_32 moves_64 moves;
    arithmetic_16 arithmetic_32 arithmetic_64 arithmetic;
    shifts_16 shifts_32 shifts_64 shifts;
    bits_16 bits_32 bits_64 bits;
    exchanges_16 exchanges_32 exchanges_64 exchanges;
    strings_16 strings_32 strings_64 strings;
    others_16 others_32 others_64 others;
}

fn wide_64() -> Outcome {
    compare(Bits::B64, &cases::wide())
}

/// An instruction that the module does not know is an internal error with its bytes.
fn unknown_instruction() -> Outcome {
    let (machine, vcpu) = machine_for(Bits::B64)?;
    let code = code64!("paddd xmm0, [rsi]", "hlt");
    machine.load(CODE, code);
    vcpu.change_regs(|r| r.rsi = DEVICE)?;
    let exit = vcpu.run_on()?;
    let Exit::InternalError(1, data) = exit else {
        fail!("exit is {exit:x?}, expected an emulation error");
    };
    ensure_eq!(vcpu.regs()?.rip, CODE, "RIP");
    // Flags, then the length and 15 bytes, if the flag says so.
    ensure!(
        data.first().is_some_and(|flags| flags & 1 == 1),
        "no bytes in {data:x?}"
    );
    let bytes: Vec<u8> = data[1..].iter().flat_map(|w| w.to_le_bytes()).collect();
    let length = usize::from(bytes[0]);
    ensure!(length >= 4, "only {length} bytes");
    ensure_eq!(bytes[1..5].to_vec(), code[..4].to_vec(), "bytes");
    Ok(())
}

/// Sixteen bytes cannot be exchanged at once by software: what the module is asked for may be
/// read, but nothing is written, and the instruction is told as one that it does not know.
fn locked_exchange_of_16_bytes() -> Outcome {
    let (machine, vcpu) = machine_for(Bits::B64)?;
    if machine
        .cpuid
        .leaf(1, 0)
        .is_none_or(|l| l.ecx & 1 << 13 == 0)
    {
        ironvm_abi_tests::skip!("no CMPXCHG16B");
    }
    machine.load(CODE, code64!("lock cmpxchg16b [rsi]", "hlt"));
    vcpu.change_regs(|r| (r.rsi, r.rax, r.rdx) = (DEVICE, 0, 0))?;
    let mut reads = 0;
    let exit = loop {
        match vcpu.run_on()? {
            Exit::Mmio(access) if !access.write && reads < 2 => reads += 1,
            exit => break exit,
        }
    };
    ensure!(
        matches!(exit, Exit::InternalError(1, _)),
        "exit is {exit:x?}, expected an emulation error"
    );
    ensure_eq!(vcpu.regs()?.rip, CODE, "RIP");
    Ok(())
}

/// A program in the guest must not be able to stop the guest: there it is an undefined opcode.
fn unknown_instruction_in_user_mode() -> Outcome {
    let (machine, vcpu) = machine_for(Bits::B64)?;
    machine.load(CODE, code64!("iretq"));
    machine.load(CODE2, code64!("paddd xmm0, [rsi]"));
    let frame = [
        CODE2,
        u64::from(SEL_USER_CODE64),
        RFLAGS_FIXED,
        STACKS + 0x400,
        u64::from(SEL_USER_DATA),
    ];
    for (i, word) in (0..).zip(frame) {
        machine.write(STACKS + 0x800 + 8 * i, word);
    }
    machine.write(TSS + 4, STACKS + 0xff0);
    vcpu.change_regs(|r| (r.rsp, r.rsi) = (STACKS + 0x800, DEVICE))?;
    let caught = machine.expect_caught(&vcpu, UD)?;
    ensure_eq!(caught.rip, CODE2, "RIP");
    Ok(())
}

/// An emulated access beyond the segment's limit faults as it would on memory.
fn segment_limit_16() -> Outcome {
    let (machine, vcpu) = machine_for(Bits::B16)?;
    machine.load(CODE, code16!("mov eax, [si]", "hlt"));
    machine.set_real_handler(GP, 0x6000);
    machine.load(0x6000, code16!("out 0x10, al"));
    vcpu.change_sregs(|s| (s.ds.base, s.ds.selector) = (DEVICE, 0xa000))?;
    vcpu.change_regs(|r| r.rsi = 0xfffe)?;
    vcpu.run_to_done()
}

/// MOVS from the device to memory that the guest has not mapped: the fault is the guest's.
fn page_fault_during_emulation() -> Outcome {
    let (machine, vcpu) = machine_for(Bits::B64)?;
    machine.load(CODE, code64!("movsd", "out 0x10, al"));
    let entry = Paging::Long.entry_address(RAM);
    machine.write(entry, RAM);
    vcpu.change_regs(|r| (r.rsi, r.rdi) = (DEVICE, RAM))?;
    let mut reads = 0;
    let exit = loop {
        match vcpu.run_on()? {
            Exit::Mmio(m) if !m.write && m.length == 4 => {
                vcpu.set_mmio_data(0xabcd_1234);
                reads += 1;
            }
            other => break other,
        }
    };
    ensure!(exit.is_out(PORT_CAUGHT), "exit is {exit:x?}");
    let caught = machine.caught();
    let want = (u64::from(PF), RAM, 2, CODE);
    ensure_eq!(
        (caught.vector, caught.cr2, caught.error, caught.rip),
        want,
        "fault"
    );
    ensure!(reads <= 1, "{reads} reads before the fault");
    // Mapped now, the instruction runs again.
    machine.write(entry, RAM | PTE_P | PTE_W);
    loop {
        match vcpu.run_on()? {
            Exit::Mmio(m) if !m.write => vcpu.set_mmio_data(0xabcd_1234),
            exit if exit.is_out(PORT_DONE) => break,
            exit => return Err(vcpu.unexpected(&exit)),
        }
    }
    ensure_eq!(machine.read::<u32>(RAM), 0xabcd_1234, "copied value");
    Ok(())
}

/// The trap after an instruction comes after an emulated one too. (KVM loses the one of an access
/// that userspace answers, and traps after the next instruction.)
fn single_step_over_mmio() -> Outcome {
    let (machine, vcpu) = machine_for(Bits::B64)?;
    machine.load(CODE, code64!("mov [rsi], eax", "nop", "nop", "hlt"));
    vcpu.change_regs(|r| {
        r.rsi = DEVICE;
        r.rflags |= RFLAGS_TF;
    })?;
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(&exit, Exit::Mmio(m) if m.write),
        "exit is {exit:x?}"
    );
    let first = machine.expect_caught(&vcpu, DB)?.rip;
    ensure!(
        first == CODE + 2 || first == CODE + 3,
        "RIP of the first trap is {first:#x}"
    );
    let second = machine.expect_caught(&vcpu, DB)?.rip;
    ensure_eq!(second, first + 1, "RIP of the second trap");
    Ok(())
}
