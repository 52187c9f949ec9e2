// SPDX-License-Identifier: GPL-2.0

//! The emulator against the processor the test runs on: the same instruction
//! with the same random registers, flags and memory, executed by both.
//!
//! Everything 64-bit code can execute here without a fault or a stack of its
//! own; stack, control flow, other modes and faults are in the other tests.

#![cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]

#[path = "support/machine.rs"]
mod machine;
#[path = "support/native.rs"]
mod native;

use ironvm_pc::pc::decode::decode;
use ironvm_pc::pc::emulate::{alu, Outcome};
use ironvm_pc::pc::regs::{CpuMode, Reg, Rflags};
use machine::{Machine, Random};
use native::{build, compare, run_all, template, Case, Form, Host, DATA};

macro_rules! opcodes {
    ($($opcode:expr),* $(,)?) => { [$( &[$opcode] ),*] };
}

#[test]
fn arithmetic() {
    let rm: [&'static [u8; 1]; 32] = opcodes![
        0x00, 0x01, 0x02, 0x03, 0x08, 0x09, 0x0a, 0x0b, 0x10, 0x11, 0x12, 0x13, 0x18, 0x19, 0x1a,
        0x1b, 0x20, 0x21, 0x22, 0x23, 0x28, 0x29, 0x2a, 0x2b, 0x30, 0x31, 0x32, 0x33, 0x38, 0x39,
        0x3a, 0x3b,
    ];
    for opcode in rm {
        let lockable = opcode[0] & 2 == 0 && opcode[0] < 0x38;
        let plain = template(opcode, Form::Any);
        let template = if lockable { plain.lock() } else { plain };
        run_all(&[template], 200, u64::from(opcode[0]) + 1);
    }
    for extension in 0..8 {
        let group = |opcode, immediate| {
            let plain = template(opcode, Form::Group(extension)).immediate(immediate);
            if extension == 7 {
                plain
            } else {
                plain.lock()
            }
        };
        let all = [group(&[0x80], 1), group(&[0x81], 4), group(&[0x83], 1)];
        run_all(&all, 200, 77 + u64::from(extension));
    }
    let accumulator = [
        template(&[0x04], Form::Implied).immediate(1),
        template(&[0x0d], Form::Implied).immediate(4),
        template(&[0x14], Form::Implied).immediate(1),
        template(&[0x1d], Form::Implied).immediate(4),
        template(&[0x25], Form::Implied).immediate(4),
        template(&[0x2c], Form::Implied).immediate(1),
        template(&[0x35], Form::Implied).immediate(4),
        template(&[0x3d], Form::Implied).immediate(4),
        template(&[0xa8], Form::Implied).immediate(1),
        template(&[0xa9], Form::Implied).immediate(4),
    ];
    run_all(&accumulator, 200, 5);
}

#[test]
fn unary_and_tests() {
    let all = [
        template(&[0xfe], Form::Group(0)).lock(),
        template(&[0xfe], Form::Group(1)).lock(),
        template(&[0xff], Form::Group(0)).lock(),
        template(&[0xff], Form::Group(1)).lock(),
        template(&[0xf6], Form::Group(0)).immediate(1),
        template(&[0xf7], Form::Group(0)).immediate(4),
        template(&[0xf6], Form::Group(2)).lock(),
        template(&[0xf7], Form::Group(2)).lock(),
        template(&[0xf6], Form::Group(3)).lock(),
        template(&[0xf7], Form::Group(3)).lock(),
        template(&[0x84], Form::Any),
        template(&[0x85], Form::Any),
    ];
    run_all(&all, 1000, 11);
}

#[test]
fn shifts_and_rotates() {
    for extension in 0..8 {
        let all = [
            template(&[0xc0], Form::Group(extension)).immediate(1),
            template(&[0xc1], Form::Group(extension)).immediate(1),
            template(&[0xd0], Form::Group(extension)),
            template(&[0xd1], Form::Group(extension)),
            template(&[0xd2], Form::Group(extension)),
            template(&[0xd3], Form::Group(extension)),
        ];
        run_all(&all, 400, 31 + u64::from(extension));
    }
    let double = [
        template(&[0x0f, 0xa4], Form::Any).immediate(1),
        template(&[0x0f, 0xa5], Form::Any),
        template(&[0x0f, 0xac], Form::Any).immediate(1),
        template(&[0x0f, 0xad], Form::Any),
    ];
    run_all(&double, 1500, 43);
}

#[test]
fn multiplication_and_division() {
    let multiply = [
        template(&[0xf6], Form::Group(4)),
        template(&[0xf7], Form::Group(4)),
        template(&[0xf6], Form::Group(5)),
        template(&[0xf7], Form::Group(5)),
        template(&[0x0f, 0xaf], Form::Any),
        template(&[0x69], Form::Any).immediate(4),
        template(&[0x6b], Form::Any).immediate(1),
    ];
    assert_eq!(run_all(&multiply, 1000, 51), 0);
    let divide = [
        template(&[0xf6], Form::Group(6)),
        template(&[0xf7], Form::Group(6)),
        template(&[0xf6], Form::Group(7)),
        template(&[0xf7], Form::Group(7)),
    ];
    let faults = run_all(&divide, 3000, 52);
    assert!(
        (1000..11_000).contains(&faults),
        "{faults} of 12000 faulted"
    );
}

/// Which divisions fault, against 128-bit arithmetic.
#[test]
fn division_faults() {
    let mut random = Random(53);
    let mut divided = 0;
    for _ in 0..200_000 {
        for size in [1_u8, 2, 4, 8] {
            let mask = alu::mask(size);
            let high = match random.below(3) {
                0 => 0,
                1 => mask,
                _ => random.operand() & mask,
            };
            let low = random.operand() & mask;
            let divisor = random.operand() & mask;
            let bits = alu::bits(size);
            let dividend = u128::from(high) << bits | u128::from(low);
            let unsigned = dividend
                .checked_div(u128::from(divisor))
                .filter(|quotient| *quotient <= u128::from(mask))
                .map(|quotient| {
                    let remainder = dividend % u128::from(divisor);
                    (quotient as u64, remainder as u64)
                });
            assert_eq!(alu::divide(false, high, low, divisor, size), unsigned);
            let unused = 128 - 2 * bits;
            let dividend = (dividend << unused) as i128 >> unused;
            let divisor = i128::from(alu::sign_extend(divisor, size) as i64);
            let limit = 1_i128 << (bits - 1);
            let signed = dividend
                .checked_div(divisor)
                .filter(|quotient| (-limit..limit).contains(quotient))
                .map(|quotient| {
                    let remainder = dividend % divisor;
                    (quotient as u64 & mask, remainder as u64 & mask)
                });
            let ours = alu::divide(true, high, low, divisor as u64, size);
            assert_eq!(ours, signed, "{dividend} / {divisor}");
            divided += u32::from(signed.is_some());
        }
    }
    assert!(divided > 100_000);
}

#[test]
fn bits() {
    // The bit number in a register reaches far; keep it inside the pages.
    let mut host = Host::new();
    let mut random = Random(61);
    for opcode in [0xa3_u8, 0xab, 0xb3, 0xbb] {
        for _ in 0..3000 {
            let case = loop {
                let opcode: &'static [u8] = match opcode {
                    0xa3 => &[0x0f, 0xa3],
                    0xab => &[0x0f, 0xab],
                    0xb3 => &[0x0f, 0xb3],
                    _ => &[0x0f, 0xbb],
                };
                let plain = template(opcode, Form::Any);
                let lockable = opcode[1] != 0xa3;
                let template = if lockable { plain.lock() } else { plain };
                let mut case = build(&template, &host, &mut random);
                let insn = decode(&case.bytes, CpuMode::Long64).unwrap();
                if insn.has_memory() {
                    if insn.memory.base == Some(insn.reg()) {
                        continue;
                    }
                    let number = random.below(40_000) as i64 - 20_000;
                    // Upper bits beyond the operand size must not count.
                    let junk = random.next() << 32;
                    let number = match insn.operand_size {
                        8 => number as u64,
                        _ => junk | number as u64 & 0xffff_ffff,
                    };
                    case.machine.gprs.set(insn.reg(), number);
                }
                break case;
            };
            assert_eq!(compare(&case, &mut host), Outcome::Done);
        }
    }
    let immediate = [
        template(&[0x0f, 0xba], Form::Group(4)).immediate(1),
        template(&[0x0f, 0xba], Form::Group(5)).immediate(1).lock(),
        template(&[0x0f, 0xba], Form::Group(6)).immediate(1).lock(),
        template(&[0x0f, 0xba], Form::Group(7)).immediate(1).lock(),
    ];
    run_all(&immediate, 1000, 62);
}

#[test]
fn moves() {
    let all = [
        template(&[0x88], Form::Any),
        template(&[0x89], Form::Any),
        template(&[0x8a], Form::Any),
        template(&[0x8b], Form::Any),
        template(&[0x8d], Form::Memory),
        template(&[0xc6], Form::Group(0)).immediate(1),
        template(&[0xc7], Form::Group(0)).immediate(4),
        template(&[0x63], Form::Any),
        template(&[0x0f, 0xb6], Form::Any),
        template(&[0x0f, 0xb7], Form::Any),
        template(&[0x0f, 0xbe], Form::Any),
        template(&[0x0f, 0xbf], Form::Any),
        template(&[0x86], Form::Any).lock(),
        template(&[0x87], Form::Any).lock(),
        template(&[0x93], Form::Implied),
        template(&[0x90], Form::Implied),
        template(&[0x98], Form::Implied),
        template(&[0x99], Form::Implied),
        template(&[0x9e], Form::Implied),
        template(&[0x9f], Form::Implied),
        template(&[0xb5], Form::Implied).immediate(1),
        template(&[0xf5], Form::Implied),
        template(&[0xf8], Form::Implied),
        template(&[0xf9], Form::Implied),
        template(&[0xfc], Form::Implied),
        template(&[0xfd], Form::Implied),
        template(&[0x0f, 0xc3], Form::Memory).prefix(&[]),
    ];
    run_all(&all, 600, 71);
    let big_endian = [
        template(&[0x0f, 0x38, 0xf0], Form::Memory),
        template(&[0x0f, 0x38, 0xf1], Form::Memory),
    ];
    if std::arch::is_x86_feature_detected!("movbe") {
        run_all(&big_endian, 600, 73);
    }
    let mut swap = template(&[0x0f, 0xcb], Form::Implied);
    swap.sizes = false;
    run_all(&[swap], 300, 72);
}

#[test]
fn conditions() {
    let set: [&'static [u8]; 16] = [
        &[0x0f, 0x90],
        &[0x0f, 0x91],
        &[0x0f, 0x92],
        &[0x0f, 0x93],
        &[0x0f, 0x94],
        &[0x0f, 0x95],
        &[0x0f, 0x96],
        &[0x0f, 0x97],
        &[0x0f, 0x98],
        &[0x0f, 0x99],
        &[0x0f, 0x9a],
        &[0x0f, 0x9b],
        &[0x0f, 0x9c],
        &[0x0f, 0x9d],
        &[0x0f, 0x9e],
        &[0x0f, 0x9f],
    ];
    for opcode in set {
        run_all(&[template(opcode, Form::Group(0))], 200, 81);
    }
    let moves: [&'static [u8]; 4] = [&[0x0f, 0x42], &[0x0f, 0x45], &[0x0f, 0x4c], &[0x0f, 0x47]];
    for opcode in moves {
        run_all(&[template(opcode, Form::Any)], 600, 82);
    }
}

#[test]
fn exchanges() {
    let all = [
        template(&[0x0f, 0xc0], Form::Any).lock(),
        template(&[0x0f, 0xc1], Form::Any).lock(),
        template(&[0x0f, 0xb0], Form::Any).lock(),
        template(&[0x0f, 0xb1], Form::Any).lock(),
    ];
    run_all(&all, 2000, 91);
    // Comparisons that succeed are rare among random numbers.
    let mut host = Host::new();
    let mut random = Random(92);
    let opcodes: [&'static [u8]; 3] = [&[0x0f, 0xb0], &[0x0f, 0xb1], &[0x0f, 0xc7]];
    let mut equal = 0;
    for opcode in opcodes {
        let form = if opcode[1] == 0xc7 {
            Form::GroupMemory(1)
        } else {
            Form::Any
        };
        let mut template = template(opcode, form).lock();
        template.sizes = true;
        for _ in 0..3000 {
            let mut case = build(&template, &host, &mut random);
            let insn = decode(&case.bytes, CpuMode::Long64).unwrap();
            // What a MOV reads there is what the accumulator should hold.
            if opcode[1] == 0xc7 {
                let base = insn.memory.base.unwrap();
                let wide = insn.rex.w();
                let mask = if wide { !15 } else { u64::MAX };
                let target = case.machine.reg(base).wrapping_add(insn.memory.disp) & mask;
                let based = target.wrapping_sub(insn.memory.disp);
                case.machine.gprs.set(base, based);
                if !matches!(base, Reg::Rax | Reg::Rdx) && random.below(2) == 0 {
                    let (low, high) = if wide {
                        (case.machine.word(target), case.machine.word(target + 8))
                    } else {
                        let both = case.machine.word(target);
                        (both & 0xffff_ffff, both >> 32)
                    };
                    case.machine.gprs.set(Reg::Rax, low);
                    case.machine.gprs.set(Reg::Rdx, high);
                }
            } else if insn.has_memory() && insn.memory.base != Some(Reg::Rax) {
                let base = insn.memory.base.unwrap();
                let target = case.machine.reg(base).wrapping_add(insn.memory.disp);
                if random.below(2) == 0 {
                    let value = case.machine.word(target);
                    case.machine.gprs.set(Reg::Rax, value);
                }
            } else if random.below(2) == 0 && !insn.has_memory() {
                let value = case.machine.reg(insn.rm());
                case.machine.gprs.set(Reg::Rax, value);
            }
            let mut copy = case.machine.clone();
            assert_eq!(compare(&case, &mut host), Outcome::Done);
            copy.run(&insn);
            equal += u32::from(copy.rflags.has(Rflags::ZF));
        }
    }
    assert!(equal > 3000, "{equal} comparisons succeeded");
}

#[test]
fn strings() {
    let mut host = Host::new();
    let mut random = Random(101);
    for _ in 0..20_000 {
        let mut machine = Machine::long(host.base(), DATA);
        // Few values, so that comparisons find something.
        random.fill(&mut machine.memory);
        for byte in &mut machine.memory {
            *byte = (*byte & 3 == 0).into();
        }
        for reg in Reg::ALL {
            machine.gprs.set(reg, random.operand());
        }
        machine.gprs.set(Reg::Rax, random.next() & 1);
        machine.rflags = Rflags(random.next() & (Rflags::ARITHMETIC.0 | Rflags::DF.0) | 2);
        let near = host.base() + DATA as u64 / 2;
        machine.gprs.set(Reg::Rsi, near + random.below(600) - 300);
        machine.gprs.set(Reg::Rdi, near + random.below(600) - 300);
        machine.gprs.set(Reg::Rcx, random.below(700));
        let mut bytes = vec![];
        match random.below(4) {
            0 => bytes.push(0xf2),
            1 | 2 => bytes.push(0xf3),
            _ => {}
        }
        match random.below(4) {
            0 => bytes.push(0x66),
            1 => bytes.push(0x48),
            _ => {}
        }
        let opcodes = [0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf];
        let opcode = random.pick(&opcodes);
        bytes.push(opcode);
        let wide = bytes.contains(&0x48) && opcode & 1 != 0;
        if wide {
            machine.gprs.set(Reg::Rcx, random.below(300));
        }
        let case = Case { bytes, machine };
        assert_eq!(compare(&case, &mut host), Outcome::Done);
    }
}

#[test]
fn table_lookup() {
    let mut host = Host::new();
    let mut random = Random(111);
    for _ in 0..500 {
        let mut case = build(&template(&[0xd7], Form::Implied), &host, &mut random);
        case.machine.gprs.set(Reg::Rbx, host.base() + 4000);
        assert_eq!(compare(&case, &mut host), Outcome::Done);
    }
}

#[test]
fn vector_moves() {
    let plain = |opcode| template(opcode, Form::Memory).prefix(&[0x3e]);
    let with = |prefix, opcode| template(opcode, Form::Memory).prefix(prefix);
    let all = [
        plain(&[0x0f, 0x10]),
        plain(&[0x0f, 0x11]),
        plain(&[0x0f, 0x12]),
        plain(&[0x0f, 0x13]),
        plain(&[0x0f, 0x16]),
        plain(&[0x0f, 0x17]),
        plain(&[0x0f, 0x28]),
        plain(&[0x0f, 0x29]),
        plain(&[0x0f, 0x2b]),
        with(&[0x66], &[0x0f, 0x10]),
        with(&[0x66], &[0x0f, 0x13]),
        with(&[0x66], &[0x0f, 0x17]),
        with(&[0x66], &[0x0f, 0x28]),
        with(&[0x66], &[0x0f, 0x6e]),
        with(&[0x66], &[0x0f, 0x7e]),
        with(&[0x66], &[0x0f, 0x6f]),
        with(&[0x66], &[0x0f, 0x7f]),
        with(&[0x66], &[0x0f, 0xd6]),
        with(&[0x66], &[0x0f, 0xe7]),
        with(&[0x66], &[0x0f, 0x38, 0x2a]),
        with(&[0xf3], &[0x0f, 0x10]),
        with(&[0xf3], &[0x0f, 0x11]),
        with(&[0xf3], &[0x0f, 0x6f]),
        with(&[0xf3], &[0x0f, 0x7f]),
        with(&[0xf3], &[0x0f, 0x7e]),
        with(&[0xf2], &[0x0f, 0x10]),
        with(&[0xf2], &[0x0f, 0x11]),
        with(&[0xf2], &[0x0f, 0xf0]),
    ];
    run_all(&all, 300, 121);
}
