// SPDX-License-Identifier: GPL-2.0

//! The emulator against the processor the test runs on: the same instruction
//! with the same random registers, flags and memory, executed by both.
//!
//! Everything 64-bit code can execute here without a fault or a stack of its
//! own; stack, control flow, other modes and faults are in the other tests.

#![cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]

#[path = "support/machine.rs"]
mod machine;

use std::arch::global_asm;
use std::ffi::c_void;

use iced_x86::{Decoder, DecoderOptions, Instruction, RflagsBits};
use ironvm_pc::pc::decode::{decode, Insn, Map};
use ironvm_pc::pc::emulate::{alu, Outcome};
use ironvm_pc::pc::regs::{CpuMode, Exception, Reg, Rflags};
use machine::{Machine, Random};

/// What the processor starts with and ends with. The assembly below knows the
/// offsets.
#[repr(C)]
#[derive(Clone)]
struct State {
    gprs: [u64; 16],
    rflags: u64,
    code: u64,
    xmm: [u128; 16],
}

// `run_native(state)`: loads everything but RSP, calls the code, stores
// everything.
global_asm!(
    "run_native:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "movups xmm0, [rdi + 144]",
    "movups xmm1, [rdi + 160]",
    "movups xmm2, [rdi + 176]",
    "movups xmm3, [rdi + 192]",
    "push qword ptr [rdi + 136]",
    "push qword ptr [rdi + 128]",
    "popfq",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rbp, [rdi + 40]",
    "mov rsi, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rdi, [rdi + 56]",
    "call [rsp]",
    "push rdi",
    "mov rdi, [rsp + 16]",
    "mov [rdi], rax",
    "mov [rdi + 8], rcx",
    "mov [rdi + 16], rdx",
    "mov [rdi + 24], rbx",
    "mov [rdi + 40], rbp",
    "mov [rdi + 48], rsi",
    "mov [rdi + 64], r8",
    "mov [rdi + 72], r9",
    "mov [rdi + 80], r10",
    "mov [rdi + 88], r11",
    "mov [rdi + 96], r12",
    "mov [rdi + 104], r13",
    "mov [rdi + 112], r14",
    "mov [rdi + 120], r15",
    "pushfq",
    "pop qword ptr [rdi + 128]",
    "mov rax, [rsp]",
    "mov [rdi + 56], rax",
    "movups [rdi + 144], xmm0",
    "movups [rdi + 160], xmm1",
    "movups [rdi + 176], xmm2",
    "movups [rdi + 192], xmm3",
    "cld",
    "add rsp, 24",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
);

extern "C" {
    fn run_native(state: *mut State);
    fn mmap(
        at: *mut c_void,
        len: usize,
        prot: i32,
        flags: i32,
        fd: i32,
        offset: i64,
    ) -> *mut c_void;
}

const DATA: usize = 3 * 4096;
/// Where memory operands point: shortly before a page's end.
const MIDDLE: u64 = 2 * 4096 - 16;

/// Pages for the instruction and for its data.
struct Host {
    code: *mut u8,
    data: *mut u8,
}

impl Host {
    fn new() -> Self {
        // SAFETY: an anonymous private mapping at an address of the kernel's
        // choice takes nothing away from anyone.
        let pages = unsafe { mmap(std::ptr::null_mut(), 4096 + DATA, 7, 0x22, -1, 0) };
        assert_ne!(pages as isize, -1, "no executable page");
        let code = pages.cast::<u8>();
        // SAFETY: the mapping is that long.
        let data = unsafe { code.add(4096) };
        Self { code, data }
    }

    fn base(&self) -> u64 {
        self.data as u64
    }

    /// Runs `bytes` on the processor, on `state` and `memory`.
    fn run(&mut self, bytes: &[u8], state: &mut State, memory: &mut [u8]) {
        state.code = self.code as u64;
        // SAFETY: both pages are ours and long enough, nothing else refers to
        // them while this runs, and `bytes` is one instruction that the
        // emulator has found to touch only registers and `memory`. `ret`
        // comes after it.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.code, bytes.len());
            *self.code.add(bytes.len()) = 0xc3;
            std::ptr::copy_nonoverlapping(memory.as_ptr(), self.data, DATA);
            run_native(state);
            std::ptr::copy_nonoverlapping(self.data, memory.as_mut_ptr(), DATA);
        }
    }
}

/// How an instruction's operands are encoded.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// ModRM with any register or memory.
    Any,
    /// ModRM with memory only.
    Memory,
    /// ModRM with this opcode extension.
    Group(u8),
    /// The same with memory only.
    GroupMemory(u8),
    /// Nothing: registers are implied or in the opcode.
    Implied,
}

struct Template {
    prefix: &'static [u8],
    opcode: &'static [u8],
    form: Form,
    /// Bytes of immediate: 0, 1, or 4 for "by operand size".
    immediate: u8,
    /// 66 and REX.W may be used.
    sizes: bool,
    lock: bool,
}

const fn template(opcode: &'static [u8], form: Form) -> Template {
    Template {
        prefix: &[],
        opcode,
        form,
        immediate: 0,
        sizes: true,
        lock: false,
    }
}

impl Template {
    const fn immediate(self, bytes: u8) -> Self {
        Self {
            immediate: bytes,
            ..self
        }
    }

    const fn lock(self) -> Self {
        Self { lock: true, ..self }
    }

    const fn prefix(self, prefix: &'static [u8]) -> Self {
        Self {
            prefix,
            sizes: false,
            ..self
        }
    }
}

/// One instruction ready to run, and what it starts with.
struct Case {
    bytes: Vec<u8>,
    machine: Machine,
}

fn build(template: &Template, host: &Host, random: &mut Random) -> Case {
    let mut machine = Machine::long(host.base(), DATA);
    random.fill(&mut machine.memory);
    for reg in Reg::ALL {
        machine.gprs.set(reg, random.operand());
    }
    for xmm in &mut machine.xmm[..4] {
        *xmm = u128::from(random.next()) << 64 | u128::from(random.next());
    }
    let flags = random.next() & (Rflags::ARITHMETIC.0 | Rflags::DF.0);
    machine.rflags = Rflags(flags | 2);

    let mut bytes = template.prefix.to_vec();
    let (mut small, mut rex) = (false, 0);
    if template.sizes {
        match random.below(4) {
            0 => small = true,
            1 => rex |= 0x48,
            2 => rex |= 0x40,
            _ => {}
        }
    }
    if small {
        bytes.push(0x66);
    }
    let memory = match template.form {
        Form::Any | Form::Group(_) => random.below(2) == 0,
        Form::Memory | Form::GroupMemory(_) => true,
        Form::Implied => false,
    };
    if template.lock && memory && random.below(2) == 0 {
        bytes.push(0xf0);
    }
    // Registers but RSP, which is the host's.
    let pick = |random: &mut Random| loop {
        let number = random.below(16) as u8;
        if number != 4 && !(template.prefix.is_empty() && number == 12) {
            return number;
        }
    };
    let (reg, rm) = (pick(random), pick(random));
    let reg = match template.form {
        Form::Group(extension) | Form::GroupMemory(extension) => extension,
        _ if !template.prefix.is_empty() && template.opcode[0] == 0x0f => reg & 3,
        _ => reg,
    };
    if template.form != Form::Implied {
        let bits = (reg >> 3) << 2 | rm >> 3;
        if bits != 0 {
            rex |= 0x40 | bits;
        }
    }
    if rex != 0 {
        bytes.push(rex);
    }
    bytes.extend(template.opcode);
    if template.form != Form::Implied {
        let mode = if memory { 0x40 } else { 0xc0 };
        bytes.push(mode | (reg & 7) << 3 | rm & 7);
        if memory {
            if rm & 7 == 4 {
                bytes.push(0x24);
            }
            let disp = random.next() as i8;
            bytes.push(disp as u8);
            let align = if template.aligned() { !15 } else { u64::MAX };
            let target = (host.base() + MIDDLE + random.below(24)) & align;
            machine
                .gprs
                .set(Reg::from_bits(rm), target.wrapping_sub(disp as i64 as u64));
        }
    }
    let count = match template.immediate {
        4 if small => 2,
        count => count,
    };
    for _ in 0..count {
        bytes.push(random.operand() as u8);
    }
    Case { bytes, machine }
}

impl Template {
    /// Must memory be aligned to 16 bytes?
    fn aligned(&self) -> bool {
        matches!(
            (self.prefix, self.opcode),
            (_, [0x0f, 0x28 | 0x29 | 0x2b])
                | ([0x66], [0x0f, 0x6f | 0x7f | 0xe7])
                | (_, [0x0f, 0x38, 0x2a])
        )
    }
}

/// Flags whose value is defined after the instruction.
fn defined_flags(insn: &Insn, theirs: &Instruction, machine: &Machine) -> Rflags {
    let mut defined = Rflags::ARITHMETIC | Rflags::DF;
    let undefined = theirs.rflags_undefined();
    for (bit, flag) in [
        (RflagsBits::CF, Rflags::CF),
        (RflagsBits::PF, Rflags::PF),
        (RflagsBits::AF, Rflags::AF),
        (RflagsBits::ZF, Rflags::ZF),
        (RflagsBits::SF, Rflags::SF),
        (RflagsBits::OF, Rflags::OF),
    ] {
        if undefined & bit != 0 {
            defined = defined.without(flag);
        }
    }
    // SHL and SHR by more than the operand has bits leave CF undefined, and
    // any shift by more than one leaves OF.
    let by_cl = matches!(insn.opcode, 0xd2 | 0xd3);
    if insn.map == Map::Primary && (by_cl || matches!(insn.opcode, 0xc0 | 0xc1)) {
        let count = if by_cl {
            machine.reg(Reg::Rcx)
        } else {
            insn.imm
        };
        let size = if insn.opcode & 1 == 0 {
            1
        } else {
            insn.operand_size
        };
        let count = count & if size == 8 { 63 } else { 31 };
        if count > u64::from(alu::bits(size)) {
            defined = defined.without(Rflags::CF);
        }
        if count > 1 {
            defined = defined.without(Rflags::OF);
        }
    }
    defined
}

/// Shifts of two 16-bit operands by more than 16 have an undefined result.
fn is_undefined(insn: &Insn, machine: &Machine) -> bool {
    if insn.map != Map::Of || insn.operand_size != 2 {
        return false;
    }
    let count = match insn.opcode {
        0xa4 | 0xac => insn.imm,
        0xa5 | 0xad => machine.reg(Reg::Rcx),
        _ => return false,
    };
    count & 31 > 16
}

fn compare(case: &Case, host: &mut Host) -> Outcome {
    let before = &case.machine;
    let insn = decode(&case.bytes, CpuMode::Long64).unwrap_or_else(|error| {
        panic!("{error:?}: {:02x?}", case.bytes);
    });
    assert_eq!(usize::from(insn.length), case.bytes.len());
    let mut emulated = before.clone();
    let outcome = emulated.run(&insn);
    if outcome != Outcome::Done || is_undefined(&insn, before) {
        return outcome;
    }
    assert_eq!(emulated.rip, before.rip + u64::from(insn.length));

    let mut state = State {
        gprs: before.gprs.0,
        rflags: before.rflags.0,
        code: 0,
        xmm: before.xmm,
    };
    let mut memory = before.memory.clone();
    host.run(&case.bytes, &mut state, &mut memory);

    let theirs = Decoder::new(64, &case.bytes, DecoderOptions::NONE).decode();
    let defined = defined_flags(&insn, &theirs, before);
    let context = || {
        format!(
            "{:?} {:02x?}\nfrom {:x?}",
            theirs.code(),
            case.bytes,
            before.gprs
        )
    };
    for reg in Reg::ALL {
        if reg != Reg::Rsp {
            let native = state.gprs[usize::from(reg.number())];
            let ours = emulated.reg(reg);
            assert_eq!(ours, native, "{reg:?}: {ours:#x} {native:#x} {}", context());
        }
    }
    assert_eq!(
        emulated.rflags & defined,
        Rflags(state.rflags) & defined,
        "flags {:?} {}",
        before.rflags,
        context()
    );
    assert!(emulated.memory == memory, "memory {}", context());
    assert_eq!(emulated.xmm[..4], state.xmm[..4], "xmm {}", context());
    outcome
}

/// Runs every template `rounds` times. Returns how many did not complete.
fn run_all(templates: &[Template], rounds: u32, seed: u64) -> u32 {
    let mut host = Host::new();
    let mut random = Random(seed);
    let mut others = 0;
    for template in templates {
        for _ in 0..rounds {
            let case = build(template, &host, &mut random);
            match compare(&case, &mut host) {
                Outcome::Done => {}
                Outcome::Fault(exception) if exception == Exception::DE => others += 1,
                other => panic!("{other:?}: {:02x?}", case.bytes),
            }
        }
    }
    others
}

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
