// SPDX-License-Identifier: GPL-2.0

//! Instructions that touch a device and have to wait for it end in the same
//! state as if the device had answered at once, and the device sees each
//! access once, in the same order.

#[path = "support/machine.rs"]
mod machine;

use ironvm_pc::pc::addr::Gpa;
use ironvm_pc::pc::decode::decode;
use ironvm_pc::pc::emulate::{emulate, operand_page_offset, simple_move, AccessLog, Mmio, Outcome};
use ironvm_pc::pc::regs::{CpuMode, Exception, Gprs, Reg, Rflags};
use machine::{Machine, Random, Waits};

const BASE: u64 = 0x10_0000;
const SIZE: usize = 0x8000;
/// The device takes two pages in the middle.
const DEVICE: std::ops::Range<u64> = BASE + 0x3000..BASE + 0x5000;

/// Every form of instruction that can touch memory or a port. RBX points at
/// the operand, RSI and RDI at strings, RSP at a stack.
const FORMS: &[&[u8]] = &[
    &[0x00, 0x0b],                         // add [rbx], cl
    &[0x48, 0x01, 0x0b],                   // add [rbx], rcx
    &[0x03, 0x0b],                         // add ecx, [rbx]
    &[0xf0, 0x48, 0x01, 0x0b],             // lock add [rbx], rcx
    &[0x10, 0x0b],                         // adc [rbx], cl
    &[0x66, 0x19, 0x0b],                   // sbb [rbx], cx
    &[0x48, 0x39, 0x0b],                   // cmp [rbx], rcx
    &[0x80, 0x0b, 0x55],                   // or byte [rbx], 0x55
    &[0x81, 0x23, 1, 2, 3, 4],             // and dword [rbx], imm
    &[0x48, 0x83, 0x33, 0xff],             // xor qword [rbx], -1
    &[0x48, 0x83, 0x3b, 0x01],             // cmp qword [rbx], 1
    &[0x84, 0x0b],                         // test [rbx], cl
    &[0x48, 0x87, 0x0b],                   // xchg [rbx], rcx
    &[0x86, 0x0b],                         // xchg [rbx], cl
    &[0x88, 0x2b],                         // mov [rbx], ch
    &[0x48, 0x89, 0x0b],                   // mov [rbx], rcx
    &[0x8a, 0x2b],                         // mov ch, [rbx]
    &[0x48, 0x8b, 0x0b],                   // mov rcx, [rbx]
    &[0x48, 0x8b, 0x1b],                   // mov rbx, [rbx]
    &[0x8c, 0x1b],                         // mov [rbx], ds
    &[0xc6, 0x03, 0x12],                   // mov byte [rbx], imm
    &[0x48, 0xc7, 0x03, 1, 2, 3, 0x84],    // mov qword [rbx], imm
    &[0x48, 0x63, 0x0b],                   // movsxd rcx, [rbx]
    &[0x0f, 0xb6, 0x0b],                   // movzx ecx, byte [rbx]
    &[0x48, 0x0f, 0xbf, 0x0b],             // movsx rcx, word [rbx]
    &[0xfe, 0x03],                         // inc byte [rbx]
    &[0x48, 0xff, 0x0b],                   // dec qword [rbx]
    &[0xf7, 0x13],                         // not dword [rbx]
    &[0x48, 0xf7, 0x1b],                   // neg qword [rbx]
    &[0xf7, 0x03, 1, 2, 3, 4],             // test dword [rbx], imm
    &[0x48, 0xf7, 0x23],                   // mul qword [rbx]
    &[0xf6, 0x2b],                         // imul byte [rbx]
    &[0x48, 0x0f, 0xaf, 0x0b],             // imul rcx, [rbx]
    &[0x6b, 0x0b, 0x7f],                   // imul ecx, [rbx], 127
    &[0x48, 0xc1, 0x03, 0x05],             // rol qword [rbx], 5
    &[0xd3, 0x1b],                         // rcr dword [rbx], cl
    &[0x48, 0xd1, 0x23],                   // shl qword [rbx], 1
    &[0x0f, 0xa4, 0x0b, 0x03],             // shld [rbx], ecx, 3
    &[0x48, 0x0f, 0xad, 0x13],             // shrd [rbx], rdx, cl
    &[0x48, 0x0f, 0xa3, 0x13],             // bt [rbx], rdx
    &[0x0f, 0xab, 0x13],                   // bts [rbx], edx
    &[0xf0, 0x48, 0x0f, 0xba, 0x3b, 0x09], // lock btc qword [rbx], 9
    &[0x48, 0x0f, 0xb1, 0x0b],             // cmpxchg [rbx], rcx
    &[0xf0, 0x0f, 0xb0, 0x0b],             // lock cmpxchg [rbx], cl
    &[0x0f, 0xc7, 0x0b],                   // cmpxchg8b [rbx]
    &[0xf0, 0x0f, 0xc7, 0x0b],             // lock cmpxchg8b [rbx]
    &[0x48, 0x0f, 0xc1, 0x0b],             // xadd [rbx], rcx
    &[0x0f, 0x94, 0x03],                   // sete [rbx]
    &[0x48, 0x0f, 0x45, 0x0b],             // cmovne rcx, [rbx]
    &[0x0f, 0x44, 0x0b],                   // cmove ecx, [rbx]
    &[0x48, 0x0f, 0xc3, 0x0b],             // movnti [rbx], rcx
    &[0x48, 0x0f, 0x38, 0xf0, 0x0b],       // movbe rcx, [rbx]
    &[0x0f, 0x38, 0xf1, 0x0b],             // movbe [rbx], ecx
    &[0x0f, 0x10, 0x0b],                   // movups xmm1, [rbx]
    &[0x0f, 0x11, 0x0b],                   // movups [rbx], xmm1
    &[0xf3, 0x0f, 0x6f, 0x0b],             // movdqu xmm1, [rbx]
    &[0xf3, 0x0f, 0x7f, 0x0b],             // movdqu [rbx], xmm1
    &[0x0f, 0x16, 0x0b],                   // movhps xmm1, [rbx]
    &[0x66, 0x48, 0x0f, 0x7e, 0x0b],       // movq [rbx], xmm1
    &[0xff, 0x33],                         // push [rbx]
    &[0x8f, 0x03],                         // pop [rbx]
    &[0x66, 0x8f, 0x03],                   // pop word [rbx]
    &[0xff, 0x23],                         // jmp [rbx]
    &[0xff, 0x13],                         // call [rbx]
    &[0xd7],                               // xlat
    &[0xa4],                               // movsb
    &[0x48, 0xa5],                         // movsq
    &[0xf3, 0x48, 0xa5],                   // rep movsq
    &[0xf3, 0xa4],                         // rep movsb
    &[0xf3, 0x66, 0xab],                   // rep stosw
    &[0xf3, 0xad],                         // rep lodsd
    &[0xf3, 0xa6],                         // repe cmpsb
    &[0xf2, 0xaf],                         // repne scasd
    &[0x6c],                               // insb
    &[0xf3, 0x6d],                         // rep insd
    &[0xf3, 0x66, 0x6f],                   // rep outsw
    &[0x6e],                               // outsb
    &[0xe4, 0x60],                         // in al, 0x60
    &[0xed],                               // in eax, dx
    &[0x66, 0xef],                         // out dx, ax
];

/// Where the operand lies: in the device, or half in it.
const PLACES: [u64; 8] = [
    DEVICE.start,
    DEVICE.start + 0x123,
    DEVICE.start - 1,
    DEVICE.start - 3,
    DEVICE.end - 1,
    DEVICE.end - 5,
    // In the device but over its inner page boundary.
    DEVICE.start + 0x1000 - 3,
    // Not in the device at all.
    BASE + 0x2000,
];

fn start(place: u64, random: &mut Random) -> Machine {
    let mut machine = Machine::long(BASE, SIZE);
    random.fill(&mut machine.memory);
    for reg in Reg::ALL {
        machine.gprs.set(reg, random.next());
    }
    for xmm in &mut machine.xmm {
        *xmm = u128::from(random.next()) << 64 | u128::from(random.next());
    }
    machine.device_at = DEVICE;
    machine.gprs.set(Reg::Rbx, place);
    machine.gprs.set(Reg::Rcx, random.below(12));
    machine.gprs.set(Reg::Rdx, random.below(64));
    let strings = [place, BASE + 0x1000, BASE + 0x6003];
    machine.gprs.set(Reg::Rsi, random.pick(&strings));
    machine.gprs.set(Reg::Rdi, random.pick(&strings));
    let stacks = [BASE + 0x800, place, DEVICE.start + 4];
    machine.gprs.set(Reg::Rsp, random.pick(&stacks));
    machine.rflags = Rflags(random.next() & (Rflags::ARITHMETIC.0 | Rflags::DF.0) | 2);
    machine.rip = 0x1000;
    machine
}

#[test]
fn waiting_changes_nothing() {
    let mut random = Random(1);
    let (mut waited, mut touched) = (0, 0);
    for form in FORMS {
        let insn = decode(form, CpuMode::Long64).unwrap();
        assert_eq!(usize::from(insn.length), form.len(), "{form:02x?}");
        let mut reached = false;
        for place in PLACES {
            for _ in 0..12 {
                let first = start(place, &mut random);
                let mut at_once = first.clone();
                let outcome = at_once.run(&insn);
                assert_ne!(outcome, Outcome::Unhandleable, "{form:02x?}");
                reached |= !at_once.device.seen.is_empty();
                touched += at_once.device.seen.len();
                for waits in [
                    Waits::Always,
                    Waits::Sometimes(random.next()),
                    Waits::Sometimes(random.next()),
                ] {
                    for flaky in [false, true] {
                        let mut slowly = first.clone();
                        slowly.waits = waits;
                        slowly.flaky = flaky;
                        assert_eq!(slowly.run(&insn), outcome, "{form:02x?}");
                        assert!(
                            slowly.visible() == at_once.visible(),
                            "{form:02x?} at {place:#x}, {waits:?}:\n{:x?}\n{:x?}",
                            slowly.device.seen,
                            at_once.device.seen
                        );
                        waited += 1;
                    }
                }
            }
        }
        assert!(reached, "{form:02x?} never touched the device");
    }
    assert!(waited > 10_000 && touched > 10_000);
}

/// While the answer is outstanding nothing of the instruction is to be seen.
#[test]
fn nothing_is_committed_early() {
    let mut random = Random(2);
    let mut compared = 0;
    for form in FORMS {
        let insn = decode(form, CpuMode::Long64).unwrap();
        for place in [DEVICE.start + 0x10, DEVICE.start - 2, DEVICE.end - 2] {
            let mut machine = start(place, &mut random);
            machine.waits = Waits::Always;
            let before = machine.clone();
            let mut log = AccessLog::new();
            loop {
                let outcome = emulate(&mut machine, &insn, &mut log);
                let data = match outcome {
                    Outcome::NeedsMmio(mmio) => machine.serve_mmio(mmio),
                    Outcome::NeedsPio(pio) => machine.serve_pio(pio),
                    _ => break,
                };
                log.complete(data);
                if !insn.prefixes.repeats() {
                    compared += 1;
                    assert_eq!(machine.gprs, before.gprs, "{form:02x?}");
                    assert_eq!(machine.rflags, before.rflags, "{form:02x?}");
                    assert_eq!(machine.xmm, before.xmm, "{form:02x?}");
                    assert_eq!(machine.rip, before.rip, "{form:02x?}");
                    if place == DEVICE.start + 0x10 {
                        assert!(machine.memory == before.memory, "{form:02x?}");
                    }
                }
            }
        }
    }
    assert!(compared > 250, "{compared}");
}

/// A fault in the second half of an operand comes before any access to the
/// device in the first.
#[test]
fn faults_come_first() {
    let mut random = Random(3);
    let mut faults = 0;
    for form in FORMS {
        let insn = decode(form, CpuMode::Long64).unwrap();
        if !insn.has_memory() {
            continue;
        }
        for (unmapped, read_only) in [(true, false), (false, true)] {
            let mut machine = start(DEVICE.end - 1, &mut random);
            machine.gprs.set(Reg::Rsp, BASE + 0x800);
            let page = DEVICE.end;
            if unmapped {
                machine.unmapped.push(page);
            }
            if read_only {
                machine.read_only.push(page);
            }
            let before = machine.clone();
            if let Outcome::Fault(exception) = machine.run(&insn) {
                faults += 1;
                assert_eq!(exception.payload & !0xfff, page, "{form:02x?}");
                assert!(machine.device.seen.is_empty(), "{form:02x?}");
                assert!(machine.visible() == before.visible(), "{form:02x?}");
            }
        }
    }
    assert!(faults > 50, "{faults}");
}

/// A repeated instruction stops at a fault with what it has done so far.
#[test]
fn a_fault_ends_a_repetition_where_it_is() {
    let mut machine = Machine::long(BASE, SIZE)
        .with(Reg::Rcx, 100)
        .with(Reg::Rdi, BASE + 0xff0)
        .with(Reg::Rax, 0x55);
    machine.unmapped.push(BASE + 0x1000);
    machine.rip = 0x1000;
    let outcome = machine.execute(&[0xf3, 0xaa]);
    assert!(matches!(outcome, Outcome::Fault(fault) if fault.payload == BASE + 0x1000));
    assert_eq!(machine.reg(Reg::Rcx), 84);
    assert_eq!(machine.reg(Reg::Rdi), BASE + 0x1000);
    assert_eq!(machine.rip, 0x1000);
    assert_eq!(machine.bytes(BASE + 0xff0, 16), [0x55; 16]);
}

#[test]
fn a_repetition_is_bounded() {
    let mut machine = Machine::long(BASE, SIZE)
        .with(Reg::Rcx, 10_000)
        .with(Reg::Rdi, BASE);
    let insn = decode(&[0xf3, 0xaa], CpuMode::Long64).unwrap();
    let mut log = AccessLog::new();
    let mut calls = 0;
    while emulate(&mut machine, &insn, &mut log) == Outcome::Repeat {
        assert!(log.is_empty());
        assert_eq!(machine.rip, 0);
        calls += 1;
    }
    assert_eq!(machine.reg(Reg::Rcx), 0);
    assert!((5..1000).contains(&calls), "{calls}");
    let idle = Machine::long(BASE, SIZE);
    let mut none = idle.clone();
    assert_eq!(none.execute(&[0xf3, 0xaa]), Outcome::Done);
    assert_eq!(none.memory, idle.memory, "a count of 0 does nothing");
}

/// A locked instruction whose memory changed under it has no effect yet.
#[test]
fn locked_instructions_begin_again() {
    let forms: [&[u8]; 4] = [
        &[0xf0, 0x48, 0x01, 0x0b],
        &[0x48, 0x87, 0x0b],
        &[0xf0, 0x48, 0x0f, 0xc1, 0x0b],
        &[0xf0, 0x48, 0x0f, 0xc7, 0x0b],
    ];
    for form in forms {
        let mut first = Machine::long(BASE, SIZE)
            .with(Reg::Rbx, BASE + 0x100)
            .with(Reg::Rcx, 7);
        first.put(BASE + 0x100, &[3]);
        let mut machine = first.clone();
        machine.contended = 1;
        let insn = decode(form, CpuMode::Long64).unwrap();
        let mut log = AccessLog::new();
        let outcome = emulate(&mut machine, &insn, &mut log);
        assert_eq!(outcome, Outcome::Repeat, "{form:02x?}");
        assert!(machine.visible() == first.visible(), "{form:02x?}");
        assert_eq!(machine.run(&insn), Outcome::Done);
        assert_eq!(machine.exchanges, 2);
    }
    // Not aligned, or without LOCK: an ordinary write.
    let mut machine = Machine::long(BASE, SIZE).with(Reg::Rbx, BASE + 1);
    machine.execute(&[0xf0, 0x48, 0x01, 0x0b]);
    machine.gprs.set(Reg::Rbx, BASE);
    machine.execute(&[0x48, 0x01, 0x0b]);
    assert_eq!(machine.exchanges, 0);
}

/// A guest that changes what the instruction depends on while a device is
/// being asked gets its accesses made anew.
#[test]
fn a_log_that_does_not_fit_is_dropped() {
    let insn = decode(&[0x48, 0x01, 0x0b], CpuMode::Long64).unwrap();
    let mut machine = Machine::long(BASE, SIZE).with(Reg::Rbx, DEVICE.start);
    machine.device_at = DEVICE;
    machine.waits = Waits::Always;
    let mut log = AccessLog::new();
    let Outcome::NeedsMmio(mmio) = emulate(&mut machine, &insn, &mut log) else {
        panic!();
    };
    assert_eq!((mmio.gpa.0, mmio.len, mmio.write), (DEVICE.start, 8, false));
    log.complete(1);
    machine.gprs.set(Reg::Rbx, DEVICE.start + 8);
    let Outcome::NeedsMmio(mmio) = emulate(&mut machine, &insn, &mut log) else {
        panic!();
    };
    assert_eq!((mmio.gpa.0, mmio.write), (DEVICE.start + 8, false));
    assert!(machine.run(&insn) == Outcome::Done);
}

#[test]
fn string_input_asks_ahead() {
    let mut machine = Machine::long(BASE, SIZE)
        .with(Reg::Rcx, 1000)
        .with(Reg::Rdi, BASE + 0x1000 - 8)
        .with(Reg::Rdx, 0x1f0);
    assert_eq!(machine.execute(&[0xf3, 0x66, 0x6d]), Outcome::Done);
    // Four words to the end of the page, then all that the next ones hold.
    assert_eq!(machine.pio_counts[..5], [4, 3, 2, 1, 996]);
    assert_eq!(machine.device.seen.len(), 1000);
    let mut once = Machine::long(BASE, SIZE).with(Reg::Rdi, BASE);
    once.execute(&[0x6c]);
    assert_eq!(once.pio_counts, [1]);
    let mut downwards = Machine::long(BASE, SIZE)
        .with(Reg::Rcx, 3)
        .with(Reg::Rdi, BASE + 16);
    downwards.rflags |= Rflags::DF;
    downwards.execute(&[0xf3, 0x6c]);
    assert_eq!(downwards.pio_counts, [1, 1, 1]);
}

#[test]
fn wide_compare_exchange_wants_alignment() {
    let mut machine = Machine::long(BASE, SIZE).with(Reg::Rbx, BASE + 8);
    let outcome = machine.execute(&[0x48, 0x0f, 0xc7, 0x0b]);
    assert_eq!(outcome, Outcome::Fault(Exception::GP0));
}

/// The short cut for moves does what the emulator does.
#[test]
fn simple_moves() {
    let moves: [&[u8]; 16] = [
        &[0x88, 0x2b],
        &[0x40, 0x88, 0x2b],
        &[0x89, 0x0b],
        &[0x66, 0x89, 0x0b],
        &[0x4c, 0x89, 0x0b],
        &[0x8a, 0x2b],
        &[0x8b, 0x0b],
        &[0x66, 0x8b, 0x0b],
        &[0x48, 0x8b, 0x1b],
        &[0xc6, 0x03, 0xfe],
        &[0x48, 0xc7, 0x03, 1, 2, 3, 0x84],
        &[0x0f, 0xb6, 0x0b],
        &[0x66, 0x0f, 0xbe, 0x0b],
        &[0x48, 0x0f, 0xbf, 0x0b],
        &[0x44, 0x0f, 0xb7, 0x0b],
        &[0x66, 0xc7, 0x03, 1, 0x82],
    ];
    let mut random = Random(9);
    for bytes in moves {
        let insn = decode(bytes, CpuMode::Long64).unwrap();
        for _ in 0..50 {
            let mut emulated = start(DEVICE.start + 0x40, &mut random);
            let mut short = emulated.clone();
            assert_eq!(emulated.run(&insn), Outcome::Done);

            let gpa = Gpa(DEVICE.start + 0x40);
            let simple = simple_move(&insn, &short.gprs, gpa, 0x40).unwrap();
            let start = operand_page_offset(&insn, &short.gprs, short.rip, 0);
            assert_eq!(start, 0x40, "{bytes:02x?}");
            let data = short.serve_mmio(Mmio {
                gpa,
                data: simple.data,
                len: simple.size,
                write: simple.write,
            });
            if !simple.write {
                simple.finish_read(&mut short.gprs, data);
            }
            short.rip += u64::from(insn.length);
            assert!(short.visible() == emulated.visible(), "{bytes:02x?}");
        }
        let page = Gpa(DEVICE.start + 0x1000);
        let at = |offset: u64| simple_move(&insn, &Gprs::default(), Gpa(page.0 + offset), offset);
        let size = u64::from(at(0).unwrap().size);
        assert!(at(0x1000 - size).is_some());
        if size > 1 {
            assert!(at(0x1000 - size + 1).is_none(), "{bytes:02x?}");
        }
        // It reaches into the page from the one before.
        assert!(simple_move(&insn, &Gprs::default(), page, 0xfff).is_none());
    }
    let others: [&[u8]; 8] = [
        &[0x89, 0xcb],
        &[0x01, 0x0b],
        &[0x87, 0x0b],
        &[0xa4],
        &[0xff, 0x33],
        &[0x63, 0x0b],
        &[0x0f, 0x11, 0x0b],
        &[0xc5, 0xf8, 0x11, 0x0b],
    ];
    for bytes in others {
        let insn = decode(bytes, CpuMode::Long64).unwrap();
        assert_eq!(simple_move(&insn, &Gprs::default(), Gpa(0), 0), None);
    }
}
