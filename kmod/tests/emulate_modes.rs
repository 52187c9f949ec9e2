// SPDX-License-Identifier: GPL-2.0

//! What the processor the tests run on cannot show: other modes, the stack,
//! control transfer, faults of segmentation, ports, fetching.

#[path = "support/machine.rs"]
mod machine;

use ironvm_pc::pc::addr::Gva;
use ironvm_pc::pc::decode::{decode, DecodeError};
use ironvm_pc::pc::emulate::{
    fetch, invlpg_address, invpcid_operand, lmsw_operand, register_move, store_smsw, AccessLog,
    Outcome, RegisterMove,
};
use ironvm_pc::pc::regs::{
    Attributes, CpuMode, Cr0, Cr4, Exception, Reg, Rflags, SegReg, Segment, Vector,
};
use machine::{Machine, Waits};

const SIZE: usize = 0x2_0000;

fn machine(mode: CpuMode) -> Machine {
    let mut machine = Machine::long(0, SIZE);
    machine.set_mode(mode);
    machine.rip = 0x100;
    machine
}

fn faults(outcome: Outcome) -> Vector {
    match outcome {
        Outcome::Fault(exception) => exception.vector,
        other => panic!("{other:?}"),
    }
}

#[test]
fn real_mode_segments() {
    let mut machine = machine(CpuMode::Real);
    *machine.segments.get_mut(SegReg::Ds) = Segment::real_mode(0x1000, Attributes::DATA16);
    machine.gprs.set(Reg::Rbx, 0x1234_5678_0000_0020);
    machine.put(0x10020, &[0x34, 0x12]);
    // mov ax, [bx]
    assert_eq!(machine.execute(&[0x8b, 0x07]), Outcome::Done);
    assert_eq!(machine.reg(Reg::Rax), 0x1234, "offsets are 16 bits");
    assert_eq!(machine.rip, 0x102);
    // mov ax, [bp]: SS, whose base is 0.
    machine.put(0x20, &[0x78, 0x56]);
    machine.gprs.set(Reg::Rbp, 0x20);
    machine.execute(&[0x8b, 0x46, 0x00]);
    assert_eq!(machine.reg(Reg::Rax), 0x5678);
    // A word at FFFF does not fit the segment.
    machine.gprs.set(Reg::Rbx, 0xffff);
    assert_eq!(
        faults(machine.execute(&[0x8b, 0x07])),
        Vector::GeneralProtection
    );
    machine.gprs.set(Reg::Rbp, 0xffff);
    assert_eq!(faults(machine.execute(&[0x8b, 0x46, 0x00])), Vector::Stack);
    // 32-bit offsets beyond 64 KiB work with big real mode's limit.
    machine.segments.get_mut(SegReg::Ds).limit = u32::MAX;
    machine.segments.get_mut(SegReg::Ds).base = 0;
    machine.put(0x1_2340, &[0x99]);
    machine.gprs.set(Reg::Rbx, 0x1_2340);
    assert_eq!(machine.execute(&[0x67, 0x8a, 0x03]), Outcome::Done);
    assert_eq!(machine.reg(Reg::Rax) & 0xff, 0x99);
}

#[test]
fn sixteen_bit_operands_leave_the_rest() {
    let mut machine = machine(CpuMode::Prot16);
    machine.gprs.set(Reg::Rax, 0x1111_2222_3333_4444);
    machine.execute(&[0xb8, 0x55, 0x55]);
    assert_eq!(machine.reg(Reg::Rax), 0x1111_2222_3333_5555);
    machine.execute(&[0x66, 0xb8, 1, 0, 0, 0]);
    assert_eq!(machine.reg(Reg::Rax), 1, "32 bits clear the upper half");
    // inc ax by its one-byte opcode
    machine.gprs.set(Reg::Rax, 0xffff);
    machine.rflags |= Rflags::CF;
    machine.execute(&[0x40]);
    assert_eq!(machine.reg(Reg::Rax), 0);
    assert!(machine.rflags.has(Rflags::ZF | Rflags::CF));
}

#[test]
fn strings_of_sixteen_bit_code() {
    let mut machine = machine(CpuMode::Real);
    machine.segments.get_mut(SegReg::Es).base = 0x1_0000;
    machine.put(0xfff8, b"abcdefgh");
    machine.gprs.set(Reg::Rcx, 0xaaaa_0008);
    machine.gprs.set(Reg::Rsi, 0xbbbb_fff8);
    machine.gprs.set(Reg::Rdi, 0xcccc_0010);
    assert_eq!(machine.execute(&[0xf3, 0xa4]), Outcome::Done);
    assert_eq!(machine.bytes(0x1_0010, 8), b"abcdefgh");
    // Only the low words moved, and SI wrapped.
    assert_eq!(machine.reg(Reg::Rcx), 0xaaaa_0000);
    assert_eq!(machine.reg(Reg::Rsi), 0xbbbb_0000);
    assert_eq!(machine.reg(Reg::Rdi), 0xcccc_0018);
    // 67: ECX, ESI and EDI.
    machine.gprs.set(Reg::Rcx, 1);
    machine.gprs.set(Reg::Rsi, 0x100);
    machine.gprs.set(Reg::Rdi, 0xdead_0000_0000_0100);
    assert_eq!(machine.execute(&[0x67, 0xf3, 0xa4]), Outcome::Done);
    assert_eq!(machine.reg(Reg::Rdi), 0x101, "the upper half is cleared");
}

#[test]
fn string_segments() {
    let mut machine = machine(CpuMode::Prot32);
    machine.segments.get_mut(SegReg::Fs).base = 0x1000;
    machine.segments.get_mut(SegReg::Es).base = 0x2000;
    machine.put(0x1010, &[7]);
    machine.gprs.set(Reg::Rsi, 0x10);
    machine.gprs.set(Reg::Rdi, 0x20);
    // movsb es:[edi], fs:[esi]
    assert_eq!(machine.execute(&[0x64, 0xa4]), Outcome::Done);
    assert_eq!(machine.bytes(0x2020, 1), [7]);
    // ES is not there.
    *machine.segments.get_mut(SegReg::Es) = Segment::NULL;
    assert_eq!(faults(machine.execute(&[0xa4])), Vector::GeneralProtection);
}

#[test]
fn protected_mode_types_and_privilege() {
    let mut machine = machine(CpuMode::Prot32);
    machine.segments.get_mut(SegReg::Ds).attributes = Attributes(0xc91);
    machine.gprs.set(Reg::Rbx, 0x1000);
    assert_eq!(machine.execute(&[0x8a, 0x03]), Outcome::Done);
    assert_eq!(
        faults(machine.execute(&[0x88, 0x03])),
        Vector::GeneralProtection
    );
    // cs: mov [ebx], al
    assert_eq!(
        faults(machine.execute(&[0x2e, 0x88, 0x03])),
        Vector::GeneralProtection
    );
    // The accesses carry privilege, the SMAP override, and ask for marks.
    machine.cpl = 3;
    machine.rflags |= Rflags::AC;
    machine.accesses.clear();
    machine.execute(&[0x8a, 0x03]);
    let (_, access) = machine.accesses[0];
    assert!(access.is_user() && !access.is_write());
    assert_eq!(access, access.with_ac(true).marking());
}

#[test]
fn long_mode_addresses() {
    let mut machine = machine(CpuMode::Long64);
    machine.gprs.set(Reg::Rbx, 0x8000_0000_0000);
    assert_eq!(
        faults(machine.execute(&[0x8a, 0x03])),
        Vector::GeneralProtection
    );
    machine.gprs.set(Reg::Rbp, 1 << 63);
    assert_eq!(faults(machine.execute(&[0x8a, 0x45, 0x00])), Vector::Stack);
    // 67: the offset is cut to 32 bits.
    machine.gprs.set(Reg::Rbx, 0xffff_ffff_0000_1000);
    machine.put(0x1000, &[0x42]);
    assert_eq!(machine.execute(&[0x67, 0x8a, 0x03]), Outcome::Done);
    assert_eq!(machine.reg(Reg::Rax) & 0xff, 0x42);
    // RIP-relative: from the end of the instruction.
    machine.rip = 0x2000;
    machine.put(0x2017, &[0x43]);
    machine.execute(&[0x8a, 0x05, 0x11, 0, 0, 0]);
    assert_eq!(machine.reg(Reg::Rax) & 0xff, 0x43);
    // FS has a base, DS has none.
    machine.segments.get_mut(SegReg::Fs).base = 0x3000;
    machine.segments.get_mut(SegReg::Ds).base = 0x3000;
    machine.gprs.set(Reg::Rbx, 0x10);
    machine.put(0x3010, &[0x44]);
    machine.execute(&[0x64, 0x8a, 0x0b]);
    machine.execute(&[0x8a, 0x2b]);
    assert_eq!(machine.reg(Reg::Rcx), 0x44);
}

#[test]
fn long_mode_stack() {
    let mut machine = machine(CpuMode::Long64)
        .with(Reg::Rsp, 0x1000)
        .with(Reg::Rax, 0x1122_3344_5566_7788);
    machine.rip = 0x100;
    machine.execute(&[0x50]);
    assert_eq!(machine.reg(Reg::Rsp), 0xff8);
    assert_eq!(machine.word(0xff8), 0x1122_3344_5566_7788);
    machine.execute(&[0x66, 0x50]);
    assert_eq!(machine.reg(Reg::Rsp), 0xff6);
    // push -1, sign-extended
    machine.execute(&[0x6a, 0xff]);
    assert_eq!(machine.word(0xfee), u64::MAX);
    // pop rsp keeps what it popped
    machine.put(0xfee, &0x2000_u64.to_le_bytes());
    machine.execute(&[0x5c]);
    assert_eq!(machine.reg(Reg::Rsp), 0x2000);
    // push rsp pushes the old value
    machine.execute(&[0x54]);
    assert_eq!(machine.word(0x1ff8), 0x2000);
    // pop qword [rsp+8]: the address counts from the new RSP
    machine.execute(&[0x8f, 0x44, 0x24, 0x08]);
    assert_eq!(machine.reg(Reg::Rsp), 0x2000);
    assert_eq!(machine.word(0x2008), 0x2000);
}

#[test]
fn stack_width_follows_ss() {
    let mut machine = machine(CpuMode::Prot32).with(Reg::Rsp, 0x1_0002);
    machine.segments.get_mut(SegReg::Ss).attributes = Attributes::DATA16;
    machine.gprs.set(Reg::Rax, 0x1234_5678);
    // SP is 2: a doubleword wraps to FFFE and does not fit the limit.
    machine.segments.get_mut(SegReg::Ss).limit = 0xffff;
    assert_eq!(faults(machine.execute(&[0x50])), Vector::Stack);
    assert_eq!(machine.reg(Reg::Rsp), 0x1_0002);
    machine.execute(&[0x66, 0x50]);
    assert_eq!(machine.reg(Reg::Rsp), 0x1_0000, "only SP changes");
    assert_eq!(machine.bytes(0, 2), [0x78, 0x56]);
    machine.execute(&[0x66, 0x50]);
    assert_eq!(machine.reg(Reg::Rsp), 0x1_fffe);
    assert_eq!(machine.bytes(0xfffe, 2), [0x78, 0x56]);
}

#[test]
fn control_transfer() {
    let mut machine = machine(CpuMode::Long64)
        .with(Reg::Rsp, 0x1000)
        .with(Reg::Rbx, 0x800);
    machine.put(0x800, &0x4444_5555_u64.to_le_bytes());
    machine.rip = 0x100;
    machine.rflags |= Rflags::RF;
    // call [rbx]
    machine.execute(&[0xff, 0x13]);
    assert_eq!(machine.rip, 0x4444_5555);
    assert_eq!(machine.word(0xff8), 0x102);
    assert!(!machine.rflags.has(Rflags::RF));
    // ret 8
    machine.execute(&[0xc2, 8, 0]);
    assert_eq!((machine.rip, machine.reg(Reg::Rsp)), (0x102, 0x1008));
    // jmp -2
    machine.execute(&[0xeb, 0xfe]);
    assert_eq!(machine.rip, 0x102);
    // jz +0x10, not taken and taken
    machine.execute(&[0x74, 0x10]);
    assert_eq!(machine.rip, 0x104);
    machine.rflags |= Rflags::ZF;
    machine.execute(&[0x0f, 0x84, 0x10, 0, 0, 0]);
    assert_eq!(machine.rip, 0x11a);
    // A target that is not canonical.
    machine.put(0x800, &(1_u64 << 62).to_le_bytes());
    let before = machine.clone();
    assert_eq!(
        faults(machine.execute(&[0xff, 0x13])),
        Vector::GeneralProtection
    );
    assert_eq!(machine.gprs, before.gprs);
}

#[test]
fn enforced_control_flow_is_left_to_the_processor() {
    let mut machine = machine(CpuMode::Long64)
        .with(Reg::Rsp, 0x1000)
        .with(Reg::Rbx, 0x800);
    machine.cr4 |= Cr4::CET;
    let before = machine.clone();
    for bytes in [
        &[0xff, 0x13][..],
        &[0xff, 0x23],
        &[0xc3],
        &[0xe8, 0, 0, 0, 0],
    ] {
        assert_eq!(machine.execute(bytes), Outcome::Unhandleable);
        assert!(machine.visible() == before.visible());
    }
    assert_eq!(machine.execute(&[0x74, 0x00]), Outcome::Done);
}

#[test]
fn operands_are_as_wide_as_they_should_be() {
    let mut machine = machine(CpuMode::Long64).with(Reg::Rbx, 0x1000);
    machine.device_at = 0x1000..0x2000;
    let widths: [(&[u8], u8); 8] = [
        (&[0x66, 0x63, 0x0b], 2),       // movsxd cx, word [rbx]
        (&[0x63, 0x0b], 4),             // movsxd ecx, dword [rbx]
        (&[0x48, 0x63, 0x0b], 4),       // movsxd rcx, dword [rbx]
        (&[0x48, 0x0f, 0xb6, 0x0b], 1), // movzx rcx, byte [rbx]
        (&[0x48, 0x8c, 0x1b], 2),       // mov [rbx], ds
        (&[0x66, 0xc7, 0x03, 1, 2], 2), // mov word [rbx], imm
        (&[0x48, 0x0f, 0x94, 0x03], 1), // sete [rbx]
        (&[0xff, 0x33], 8),             // push [rbx]
    ];
    machine.gprs.set(Reg::Rsp, 0x4000);
    for (bytes, width) in widths {
        assert_eq!(machine.execute(bytes), Outcome::Done);
        let seen = machine.device.seen.pop().unwrap();
        assert_eq!(seen.len, width, "{bytes:02x?}");
        assert!(machine.device.seen.is_empty());
    }
}

#[test]
fn targets_outside_the_segment() {
    let mut machine = machine(CpuMode::Prot32);
    machine.segments.get_mut(SegReg::Cs).limit = 0x1000;
    machine.rip = 0xff0;
    assert_eq!(
        faults(machine.execute(&[0xeb, 0x7f])),
        Vector::GeneralProtection
    );
    assert_eq!(machine.execute(&[0xeb, 0x08]), Outcome::Done);
    assert_eq!(machine.rip, 0xffa);
    // 66 makes it 16 bits: IP wraps.
    machine.segments.get_mut(SegReg::Cs).limit = u32::MAX;
    machine.rip = 0x1_fff0;
    machine.execute(&[0x66, 0xe9, 0x7f, 0x00]);
    assert_eq!(machine.rip, 0x73);
}

#[test]
fn port_permissions() {
    let mut machine = machine(CpuMode::Long64).with(Reg::Rdx, 0x60);
    machine.cpl = 3;
    machine.waits = Waits::Never;
    *machine.segments.get_mut(SegReg::Tr) = Segment {
        base: 0x4000,
        limit: 0x67 + 0x20,
        selector: 0x40,
        attributes: Attributes::TSS_BUSY,
    };
    machine.put(0x4066, &0x68_u16.to_le_bytes());
    // All ports allowed.
    assert_eq!(machine.execute(&[0xec]), Outcome::Done);
    // Port 0x61 is not.
    machine.put(0x4068 + 0xc, &[0x02]);
    assert_eq!(machine.execute(&[0xec]), Outcome::Done);
    let word = machine.execute(&[0x66, 0xed]);
    assert_eq!(faults(word), Vector::GeneralProtection);
    // Beyond the limit of the TSS.
    machine.gprs.set(Reg::Rdx, 0x3f8);
    assert_eq!(faults(machine.execute(&[0xee])), Vector::GeneralProtection);
    // IOPL 3 needs no bitmap.
    machine.rflags |= Rflags::IOPL;
    assert_eq!(machine.execute(&[0xee]), Outcome::Done);
    // Virtual-8086 mode needs it all the same.
    machine.set_mode(CpuMode::Vm86);
    machine.segments.get_mut(SegReg::Tr).attributes = Attributes::TSS_BUSY;
    machine.segments.get_mut(SegReg::Tr).base = 0x4000;
    machine.segments.get_mut(SegReg::Tr).limit = 0x67;
    assert_eq!(faults(machine.execute(&[0xee])), Vector::GeneralProtection);
    machine.set_mode(CpuMode::Real);
    assert_eq!(machine.execute(&[0xee]), Outcome::Done);
}

#[test]
fn ports() {
    let mut machine = machine(CpuMode::Long64)
        .with(Reg::Rdx, 0xffff_03f8)
        .with(Reg::Rax, 0x1122_3344_5566_7788);
    machine.execute(&[0xe6, 0x80]);
    machine.execute(&[0x66, 0xef]);
    machine.execute(&[0x48, 0xef]);
    let seen: Vec<_> = machine
        .device
        .seen
        .iter()
        .map(|seen| (seen.address, seen.len, seen.data))
        .collect();
    assert_eq!(
        seen,
        [(0x80, 1, 0x88), (0x3f8, 2, 0x7788), (0x3f8, 4, 0x5566_7788)]
    );
    machine.execute(&[0xe4, 0x80]);
    assert_eq!(machine.reg(Reg::Rax) >> 8, 0x11_2233_4455_6677);
    machine.execute(&[0xed]);
    assert_eq!(
        machine.reg(Reg::Rax) >> 32,
        0,
        "32 bits clear the upper half"
    );
}

#[test]
fn vector_moves_heed_the_controls() {
    let mut machine = machine(CpuMode::Long64).with(Reg::Rbx, 0x1001);
    let movups = &[0x0f, 0x10, 0x03];
    let movaps = &[0x0f, 0x28, 0x03];
    assert_eq!(machine.execute(movups), Outcome::Done);
    assert_eq!(
        faults(machine.execute(movaps)),
        Vector::GeneralProtection,
        "misaligned"
    );
    machine.cr0 |= Cr0::TS;
    assert_eq!(faults(machine.execute(movups)), Vector::DeviceNotAvailable);
    machine.cr4 = machine.cr4.without(Cr4::OSFXSR);
    assert_eq!(faults(machine.execute(movups)), Vector::InvalidOpcode);
}

#[test]
fn unknown_instructions_are_left_alone() {
    let mut machine = machine(CpuMode::Long64).with(Reg::Rbx, 0x1000);
    let before = machine.clone();
    let unknown: [&[u8]; 10] = [
        &[0x0f, 0xa2],                   // cpuid
        &[0xf4],                         // hlt
        &[0x0f, 0xae, 0x03],             // fxsave [rbx]
        &[0xd9, 0x03],                   // fld dword [rbx]
        &[0xc5, 0xfc, 0x10, 0x03],       // vmovups ymm0, [rbx]
        &[0x0f, 0x58, 0x03],             // addps xmm0, [rbx]
        &[0x0f, 0x6f, 0x03],             // movq mm0, [rbx]
        &[0x8e, 0x1b],                   // mov ds, [rbx]
        &[0xff, 0x1b],                   // call far [rbx]
        &[0x66, 0x0f, 0x38, 0x82, 0x03], // invpcid
    ];
    for bytes in unknown {
        assert_eq!(machine.execute(bytes), Outcome::Unhandleable, "{bytes:x?}");
        assert!(machine.visible() == before.visible());
    }
}

#[test]
fn fetching() {
    let mut machine = machine(CpuMode::Long64);
    // mov rcx, imm64 across a page boundary
    let bytes = [0x48, 0xb9, 1, 2, 3, 4, 5, 6, 7, 8];
    machine.rip = 0x2000 - 4;
    machine.put(machine.rip, &bytes);
    let fetched = fetch(&mut machine).unwrap();
    assert_eq!(fetched.insn.unwrap().length, 10);
    assert_eq!(&fetched.bytes()[..10], bytes);
    let accesses: Vec<_> = machine.accesses.drain(..).collect();
    assert_eq!(accesses.len(), 2);
    assert!(accesses.iter().all(|(_, access)| access.is_fetch()));
    assert_eq!((accesses[0].0, accesses[1].0), (0x1ffc, 0x2000));
    // What fits the first page does not touch the second.
    machine.unmapped.push(0x2000);
    machine.rip = 0x2000 - 2;
    machine.put(machine.rip, &[0x0f, 0xa2]);
    assert_eq!(fetch(&mut machine).unwrap().insn.unwrap().length, 2);
    machine.rip = 0x2000 - 1;
    let Err(Outcome::Fault(fault)) = fetch(&mut machine) else {
        panic!();
    };
    assert_eq!((fault.vector, fault.payload), (Vector::PageFault, 0x2000));
    // Beyond RIP's range.
    machine.rip = 1 << 47;
    assert_eq!(
        fetch(&mut machine).unwrap_err(),
        Outcome::Fault(Exception::GP0)
    );
    // In a device.
    machine.device_at = 0x5000..0x6000;
    machine.rip = 0x5000;
    assert_eq!(fetch(&mut machine).unwrap_err(), Outcome::Unhandleable);
}

#[test]
fn fetching_stops_at_the_segment_limit() {
    let mut machine = machine(CpuMode::Prot32);
    machine.segments.get_mut(SegReg::Cs).limit = 0x1001;
    machine.rip = 0x1000;
    machine.put(0x1000, &[0x0f, 0xa2]);
    assert_eq!(fetch(&mut machine).unwrap().insn.unwrap().length, 2);
    machine.segments.get_mut(SegReg::Cs).limit = 0x1000;
    assert_eq!(
        fetch(&mut machine).unwrap_err(),
        Outcome::Fault(Exception::GP0)
    );
    machine.segments.get_mut(SegReg::Cs).limit = 0xfff;
    assert_eq!(
        fetch(&mut machine).unwrap_err(),
        Outcome::Fault(Exception::GP0)
    );
    machine.segments.get_mut(SegReg::Cs).limit = u32::MAX;
    machine.put(0x1000, &[0x66; 15]);
    assert_eq!(
        fetch(&mut machine).unwrap_err(),
        Outcome::Fault(Exception::GP0)
    );
    machine.put(0x1000, &[0x0f, 0x04]);
    let nothing = fetch(&mut machine).unwrap();
    assert_eq!(nothing.insn, Err(DecodeError::Invalid));
}

#[test]
fn operands_of_system_instructions() {
    let long = |bytes: &[u8]| decode(bytes, CpuMode::Long64).unwrap();
    let expected = |write, debug, number, gpr| {
        Some(RegisterMove {
            write,
            debug,
            number,
            gpr,
        })
    };
    let moved = |bytes: &[u8]| register_move(&long(bytes));
    assert_eq!(
        moved(&[0x0f, 0x22, 0xd8]),
        expected(true, false, 3, Reg::Rax)
    );
    assert_eq!(
        moved(&[0x45, 0x0f, 0x20, 0xc7]),
        expected(false, false, 8, Reg::R15)
    );
    assert_eq!(
        moved(&[0xf0, 0x0f, 0x22, 0xc1]),
        expected(true, false, 8, Reg::Rcx)
    );
    assert_eq!(
        moved(&[0x0f, 0x23, 0xf8]),
        expected(true, true, 7, Reg::Rax)
    );
    // `mod` is ignored.
    assert_eq!(
        moved(&[0x0f, 0x20, 0x05]),
        expected(false, false, 0, Reg::Rbp)
    );
    assert_eq!(moved(&[0x0f, 0xa2]), None);

    let mut machine = machine(CpuMode::Long64)
        .with(Reg::Rbx, 0x1000)
        .with(Reg::Rcx, 0xffff_1234);
    let mut log = AccessLog::new();
    let lmsw = lmsw_operand(&mut machine, &long(&[0x0f, 0x01, 0xf1]), &mut log);
    assert_eq!(lmsw, Ok(0x1234));
    machine.put(0x1000, &[0xcd, 0xab]);
    let lmsw = lmsw_operand(&mut machine, &long(&[0x0f, 0x01, 0x33]), &mut log);
    assert_eq!(lmsw, Ok(0xabcd));

    let smsw = long(&[0x0f, 0x01, 0x23]);
    let cr0 = 0xffff_ffff_8005_0033;
    assert_eq!(store_smsw(&mut machine, &smsw, &mut log, cr0), Ok(()));
    assert_eq!(machine.bytes(0x1000, 4), [0x33, 0, 0, 0]);
    let smsw = long(&[0x48, 0x0f, 0x01, 0xe1]);
    assert_eq!(store_smsw(&mut machine, &smsw, &mut log, cr0), Ok(()));
    assert_eq!(machine.reg(Reg::Rcx), cr0);

    let invlpg = long(&[0x0f, 0x01, 0x7b, 0x10]);
    assert_eq!(invlpg_address(&mut machine, &invlpg), Some(Gva(0x1010)));
    machine.gprs.set(Reg::Rbx, 1 << 50);
    assert_eq!(invlpg_address(&mut machine, &invlpg), None);
    assert!(machine.accesses.iter().all(|(at, _)| *at == 0x1000));

    machine.gprs.set(Reg::Rbx, 0x2000);
    machine.gprs.set(Reg::Rax, 1);
    machine.put(0x2000, &5_u64.to_le_bytes());
    machine.put(0x2008, &0x7000_u64.to_le_bytes());
    let invpcid = long(&[0x66, 0x0f, 0x38, 0x82, 0x03]);
    let operand = invpcid_operand(&mut machine, &invpcid, &mut log).unwrap();
    assert_eq!(
        (operand.kind, operand.pcid, operand.address),
        (1, 5, Gva(0x7000))
    );
}
