// SPDX-License-Identifier: GPL-2.0

//! Runs an instruction on the processor the test runs on, and compares what it
//! did with what the emulator did.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::arch::global_asm;
use std::ffi::c_void;

use crate::machine::{Machine, Random};
use iced_x86::{Decoder, DecoderOptions, Instruction, RflagsBits};
use ironvm_pc::pc::decode::{decode, Insn, Map};
use ironvm_pc::pc::emulate::{alu, Outcome};
use ironvm_pc::pc::regs::{CpuMode, Exception, Reg, Rflags};

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

#[allow(
    improper_ctypes,
    reason = "the assembly above knows the layout: u128 is 16 bytes"
)]
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

pub const DATA: usize = 3 * 4096;
/// Where memory operands point: shortly before a page's end.
const MIDDLE: u64 = 2 * 4096 - 16;

/// Pages for the instruction and for its data.
pub struct Host {
    code: *mut u8,
    data: *mut u8,
}

impl Host {
    pub fn new() -> Self {
        // SAFETY: an anonymous private mapping at an address of the kernel's
        // choice takes nothing away from anyone.
        let pages = unsafe { mmap(std::ptr::null_mut(), 4096 + DATA, 7, 0x22, -1, 0) };
        assert_ne!(pages as isize, -1, "no executable page");
        let code = pages.cast::<u8>();
        // SAFETY: the mapping is that long.
        let data = unsafe { code.add(4096) };
        Self { code, data }
    }

    pub fn base(&self) -> u64 {
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
pub enum Form {
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

pub struct Template {
    prefix: &'static [u8],
    opcode: &'static [u8],
    form: Form,
    /// Bytes of immediate: 0, 1, or 4 for "by operand size".
    immediate: u8,
    /// 66 and REX.W may be used.
    pub sizes: bool,
    lock: bool,
}

pub const fn template(opcode: &'static [u8], form: Form) -> Template {
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
    pub const fn immediate(self, bytes: u8) -> Self {
        Self {
            immediate: bytes,
            ..self
        }
    }

    pub const fn lock(self) -> Self {
        Self { lock: true, ..self }
    }

    pub const fn prefix(self, prefix: &'static [u8]) -> Self {
        Self {
            prefix,
            sizes: false,
            ..self
        }
    }
}

/// One instruction ready to run, and what it starts with.
pub struct Case {
    pub bytes: Vec<u8>,
    pub machine: Machine,
}

pub fn build(template: &Template, host: &Host, random: &mut Random) -> Case {
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

pub fn compare(case: &Case, host: &mut Host) -> Outcome {
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
pub fn run_all(templates: &[Template], rounds: u32, seed: u64) -> u32 {
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
