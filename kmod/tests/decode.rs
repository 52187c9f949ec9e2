// SPDX-License-Identifier: GPL-2.0

//! The decoder against iced-x86, over every opcode of every map in all three
//! code sizes, and over random bytes: same verdict, same length, same operands.
//!
//! Where they may differ is listed, with the reason, in [`tolerated`] (we
//! accept, iced does not) and [`refused_on_purpose`] (the other way round).

use std::collections::HashSet;

use iced_x86::{
    Code, CodeSize, Decoder, DecoderError, DecoderOptions, Instruction, OpCodeOperandKind, OpKind,
    Register,
};
use ironvm_pc::pc::decode::{decode, DecodeError, Encoding, Insn, Map, Prefixes};
use ironvm_pc::pc::regs::{CpuMode, Reg, SegReg};

const IP: u64 = 0x1000;

const MODES: [(CpuMode, u32); 3] = [
    (CpuMode::Prot16, 16),
    (CpuMode::Prot32, 32),
    (CpuMode::Long64, 64),
];

/// xorshift64*: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 32) as u8
    }
}

/// Bytes under construction: an instruction's start, to be filled up with
/// random ones to twenty.
#[derive(Clone, Copy, Default)]
struct Bytes {
    bytes: [u8; 20],
    len: usize,
}

impl Bytes {
    fn with(mut self, more: &[u8]) -> Self {
        for byte in more {
            self.bytes[self.len] = *byte;
            self.len += 1;
        }
        self
    }

    fn filled(mut self, random: &mut Random) -> [u8; 20] {
        for byte in &mut self.bytes[self.len..] {
            *byte = random.byte();
        }
        self.bytes
    }
}

#[derive(Default)]
struct Tally {
    checked: u64,
    valid: u64,
    tolerated: u64,
    failed: u64,
    /// One of each kind is told.
    codes: HashSet<(Code, u8)>,
    failures: Vec<String>,
}

impl Tally {
    fn check(&mut self, bytes: &[u8; 20], mode: (CpuMode, u32)) {
        self.checked += 1;
        let (mode, bitness) = mode;
        let mut decoder = Decoder::with_ip(bitness, bytes, IP, DecoderOptions::NONE);
        let theirs = decoder.decode();
        let verdict = match (decode(bytes, mode), theirs.is_invalid()) {
            (Ok(ours), false) => {
                self.valid += 1;
                compare(&ours, &theirs, &decoder)
            }
            (Ok(ours), true) => {
                assert_eq!(decoder.last_error(), DecoderError::InvalidInstruction);
                match tolerated(&ours, bytes) {
                    Some(_) => {
                        self.tolerated += 1;
                        Ok(())
                    }
                    None => Err(format!("accepted: {:?} {:02x}", ours.map, ours.opcode)),
                }
            }
            (Err(DecodeError::TooShort), _) => Err("too short?".into()),
            (Err(error), false) if refused_on_purpose(&theirs, bytes).is_none() => {
                Err(format!("refused: {error:?}"))
            }
            (Err(_), _) => Ok(()),
        };
        if let Err(what) = verdict {
            self.failed += 1;
            if !self.codes.insert((theirs.code(), bytes[0])) {
                return;
            }
            self.failures.push(format!(
                "{bitness}-bit {:02x?} {:?} ({} bytes): {what}",
                &bytes[..theirs.len().max(6)],
                theirs.code(),
                theirs.len()
            ));
        }
    }

    fn finish(self, at_least: u64) {
        for failure in self.failures.iter().take(20) {
            println!("{failure}");
        }
        println!(
            "{} checked, {} valid in both, {} tolerated",
            self.checked, self.valid, self.tolerated
        );
        assert_eq!(self.failed, 0, "that many differ");
        assert!(self.valid >= at_least, "too few were instructions");
    }
}

/// Encodings we accept and iced does not, and why that is right or harmless.
fn tolerated(insn: &Insn, _bytes: &[u8]) -> Option<&'static str> {
    if insn.encoding != Encoding::Legacy {
        return Some("combinations of W, L, vvvv, mask, prefix and form are not checked");
    }
    match (insn.map, insn.opcode) {
        (Map::Primary, 0xd8..=0xdf) => Some("reserved x87 encodings are not told apart"),
        (Map::Of, 0x20 | 0x22) if insn.prefixes.has(Prefixes::LOCK) => {
            Some("LOCK MOV CR0 is MOV CR8 on AMD")
        }
        (Map::Of, 0x01) if insn.modrm.is_register() => {
            Some("which prefix each register form takes is not checked")
        }
        (Map::Of, 0x12 | 0x13 | 0x16 | 0x17 | 0xd6) => {
            Some("memory or register is not told apart by mandatory prefix")
        }
        (Map::Of38, 0xd8 | 0xdc..=0xdf | 0xf6 | 0xf8) => {
            Some("memory or register is not told apart by mandatory prefix")
        }
        (Map::Of, 0x00 | 0xae | 0xc7) if insn.prefixes.repeats() => {
            Some("LKGS, RDFSBASE and SENDUIPI are not refused outside 64-bit code")
        }
        (Map::Of3a, 0xf0) => Some("the ModRM byte of HRESET is not checked"),
        (Map::Of, 0xa6 | 0xa7) => Some("PadLock is not told apart"),
        (Map::Of, 0x20..=0x23) => Some("which CRs and DRs exist is the emulator's business"),
        _ => None,
    }
}

/// Instructions iced knows and we refuse.
fn refused_on_purpose(_theirs: &Instruction, _bytes: &[u8]) -> Option<&'static str> {
    None
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, ours: T, theirs: T) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    Err(format!("{what}: ours {ours:x?}, theirs {theirs:x?}"))
}

fn compare(ours: &Insn, theirs: &Instruction, decoder: &Decoder<'_>) -> Result<(), String> {
    expect("length", usize::from(ours.length), theirs.len())?;
    expect(
        "lock",
        ours.prefixes.has(Prefixes::LOCK),
        theirs.has_lock_prefix(),
    )?;
    let info = theirs.op_code();
    // Their environments have two sizes, and XBEGIN ignores REX.W.
    let other_rules = ours.map == Map::Primary && matches!(ours.opcode, 0xd8..=0xdf | 0xc7);
    if ours.encoding == Encoding::Legacy && info.operand_size() != 0 && !other_rules {
        let size = u32::from(ours.operand_size) * 8;
        expect("operand size", size, info.operand_size())?;
    }
    if info.address_size() != 0 {
        let size = u32::from(ours.address_size) * 8;
        expect("address size", size, info.address_size())?;
    }
    for at in 0..theirs.op_count() {
        let form = info.op_kind(at);
        match theirs.op_kind(at) {
            OpKind::Register => register(ours, theirs, at, form)?,
            OpKind::Memory if form == OpCodeOperandKind::seg_rBX_al => {}
            OpKind::Memory => memory(ours, theirs)?,
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                let next = IP + u64::from(ours.length);
                let mask = match theirs.op_kind(at) {
                    OpKind::NearBranch16 => 0xffff,
                    OpKind::NearBranch32 => 0xffff_ffff,
                    _ => u64::MAX,
                };
                let target = next.wrapping_add(ours.imm) & mask;
                expect("target", target, theirs.near_branch_target())?;
            }
            OpKind::FarBranch16 => {
                expect("offset", ours.imm, u64::from(theirs.far_branch16()))?;
                expect("selector", ours.imm2, theirs.far_branch_selector())?;
            }
            OpKind::FarBranch32 => {
                expect("offset", ours.imm, u64::from(theirs.far_branch32()))?;
                expect("selector", ours.imm2, theirs.far_branch_selector())?;
            }
            OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI => {
                expect(
                    "segment",
                    segment(ours.memory.segment),
                    their_segment(theirs),
                )?;
            }
            OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => {}
            _ => immediate(ours, theirs, at, form, decoder)?,
        }
    }
    Ok(())
}

fn segment(segment: SegReg) -> Register {
    match segment {
        SegReg::Es => Register::ES,
        SegReg::Cs => Register::CS,
        SegReg::Ss => Register::SS,
        SegReg::Ds => Register::DS,
        SegReg::Fs => Register::FS,
        SegReg::Gs => Register::GS,
        _ => Register::None,
    }
}

/// The segment iced found. In 64-bit code it reports overrides that do
/// nothing (APM volume 3, section 1.2.4).
fn their_segment(theirs: &Instruction) -> Register {
    let ignored = matches!(
        theirs.segment_prefix(),
        Register::ES | Register::CS | Register::SS | Register::DS
    );
    if theirs.code_size() != CodeSize::Code64 || !ignored {
        return theirs.memory_segment();
    }
    match theirs.memory_base().full_register() {
        Register::RSP | Register::RBP => Register::SS,
        _ => Register::DS,
    }
}

/// Number of a general register, high byte registers counting as the register
/// they are part of; of any other, its own number.
fn number(register: Register) -> usize {
    if register.is_gpr() {
        register.full_register().number()
    } else {
        register.number()
    }
}

fn register(
    ours: &Insn,
    theirs: &Instruction,
    at: u32,
    form: OpCodeOperandKind,
) -> Result<(), String> {
    let register = theirs.op_register(at);
    let name = format!("{form:?}");
    // The bits that make vector registers 16 to 31 are not for general ones.
    let low = |number: usize| {
        if register.is_gpr() {
            number
        } else {
            number & 15
        }
    };
    let byte = |reg: Reg| {
        let legacy = register.size() == 1 && !ours.rex.is_present();
        usize::from(reg.number()) & if legacy && register.is_gpr() { 3 } else { 15 }
    };
    let (what, number_of_ours) = if name.ends_with("_vvvv") || name.ends_with("_vvvvp1") {
        ("vvvv", usize::from(ours.vector.vvvv) & 15)
    } else if form == OpCodeOperandKind::sti_opcode {
        ("stack register", usize::from(ours.modrm.rm()))
    } else if name.ends_with("_opcode") {
        ("opcode register", byte(ours.opcode_reg()))
    } else if name.ends_with("_rm") || name.ends_with("_or_mem") {
        ("r/m", byte(ours.rm()))
    } else if name.ends_with("_reg") {
        ("reg", byte(ours.reg()))
    } else {
        return Ok(());
    };
    let mask = if register.is_mm()
        || register.is_k()
        || register.is_tmm()
        || register.is_segment_register()
        || register.is_st()
    {
        7
    } else {
        15
    };
    if register.is_bnd() || name == "cr_reg" {
        return Ok(());
    }
    expect(what, number_of_ours & mask, low(number(register)))
}

fn memory(ours: &Insn, theirs: &Instruction) -> Result<(), String> {
    if !ours.has_memory() {
        return Err("no memory operand".into());
    }
    let operand = ours.memory;
    let base = match operand.base {
        Some(reg) => number_of(reg),
        None if operand.rip_relative => Some(100),
        None => None,
    };
    let their_base = match theirs.memory_base() {
        Register::None => None,
        Register::RIP | Register::EIP => Some(100),
        register => Some(register.full_register().number()),
    };
    expect("base", base, their_base)?;
    let index = theirs.memory_index();
    if index.is_vector_register() {
        let ours = operand.index.and_then(number_of);
        expect("vector index", ours, Some(index.number() & 15))?;
    } else {
        let theirs = (index != Register::None).then(|| index.full_register().number());
        expect("index", operand.index.and_then(number_of), theirs)?;
    }
    if operand.index.is_some() {
        expect("scale", 1 << operand.scale, theirs.memory_index_scale())?;
    }
    let mask = match ours.address_size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let mut disp = operand.disp;
    if operand.rip_relative {
        disp = disp.wrapping_add(IP + u64::from(ours.length));
    }
    // EVEX multiplies an eight-bit displacement, we leave it.
    let compressed = ours.encoding == Encoding::Evex && ours.modrm.mode() == 1;
    if !compressed {
        let theirs = theirs.memory_displacement64() & mask;
        expect("displacement", disp & mask, theirs)?;
    }
    expect("segment", segment(operand.segment), their_segment(theirs))
}

fn number_of(reg: Reg) -> Option<usize> {
    Some(usize::from(reg.number()))
}

fn immediate(
    ours: &Insn,
    theirs: &Instruction,
    at: u32,
    form: OpCodeOperandKind,
    decoder: &Decoder<'_>,
) -> Result<(), String> {
    let constants = decoder.get_constant_offsets(theirs);
    if !constants.has_immediate() {
        // The 1 of the shifts D0 and D1 is not in the bytes.
        return Ok(());
    }
    if form == OpCodeOperandKind::imm4_m2z {
        // The low bits of the byte that also names a register.
        return Ok(());
    }
    let bits = match theirs.op_kind(at) {
        OpKind::Immediate8 | OpKind::Immediate8_2nd => 8,
        OpKind::Immediate16 | OpKind::Immediate8to16 => 16,
        OpKind::Immediate32 | OpKind::Immediate8to32 => 32,
        OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 64,
        other => return Err(format!("operand kind {other:?}")),
    };
    let value = if theirs.op_kind(at) == OpKind::Immediate8_2nd {
        u64::from(ours.imm2)
    } else {
        ours.imm
    };
    let mask = u64::MAX >> (64 - bits);
    expect("immediate", value & mask, theirs.immediate(at) & mask)
}

/// Prefixes to try before every opcode, for all modes.
const PREFIXES: [&[u8]; 8] = [
    &[],
    &[0x66],
    &[0x67],
    &[0xf3],
    &[0xf2],
    &[0xf0],
    &[0x66, 0xf2, 0x67],
    &[0x2e, 0x64],
];

/// REX prefixes to put between those and the opcode in 64-bit code.
const REX: [&[u8]; 4] = [&[], &[0x48], &[0x40], &[0x4f]];

const ESCAPES: [&[u8]; 5] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a], &[0x0f, 0x0f]];

/// ModRM bytes for a round: every `reg`, with registers and memory.
fn modrms(random: &mut Random) -> [u8; 32] {
    let mut all = [0; 32];
    for (at, byte) in all.iter_mut().enumerate() {
        let mode = (at as u8 & 3) << 6;
        let reg = (at as u8 >> 2) << 3;
        *byte = mode | reg | random.byte() & 7;
    }
    all
}

fn legacy_maps(mode: (CpuMode, u32), tally: &mut Tally) {
    let mut random = Random(0x1234_5678_9abc_def1 + u64::from(mode.1));
    let rexes = if mode.1 == 64 { &REX[..] } else { &REX[..1] };
    for escape in ESCAPES {
        for prefix in PREFIXES {
            for rex in rexes {
                for opcode in 0..=255 {
                    let start = Bytes::default()
                        .with(prefix)
                        .with(rex)
                        .with(escape)
                        .with(&[opcode]);
                    for modrm in modrms(&mut random) {
                        let bytes = start.with(&[modrm]).filled(&mut random);
                        tally.check(&bytes, mode);
                    }
                }
            }
        }
    }
}

#[test]
fn legacy_maps_16() {
    let mut tally = Tally::default();
    legacy_maps(MODES[0], &mut tally);
    tally.finish(100_000);
}

#[test]
fn legacy_maps_32() {
    let mut tally = Tally::default();
    legacy_maps(MODES[1], &mut tally);
    tally.finish(100_000);
}

#[test]
fn legacy_maps_64() {
    let mut tally = Tally::default();
    legacy_maps(MODES[2], &mut tally);
    tally.finish(400_000);
}

/// Every ModRM byte of the opcodes whose forms are told apart by it.
#[test]
fn groups() {
    let mut random = Random(99);
    let mut tally = Tally::default();
    let groups: [&[u8]; 20] = [
        &[0x0f, 0x00],
        &[0x0f, 0x01],
        &[0x0f, 0xae],
        &[0x0f, 0xc7],
        &[0x0f, 0xba],
        &[0x0f, 0x71],
        &[0x0f, 0x72],
        &[0x0f, 0x73],
        &[0x0f, 0x78],
        &[0x0f, 0xa6],
        &[0x0f, 0xa7],
        &[0x0f, 0x1e],
        &[0x80],
        &[0x8f],
        &[0xc6],
        &[0xc7],
        &[0xf6],
        &[0xf7],
        &[0xfe],
        &[0xff],
    ];
    for mode in MODES {
        for prefix in PREFIXES {
            for group in groups {
                for modrm in 0..=255 {
                    let start = Bytes::default().with(prefix).with(group);
                    let bytes = start.with(&[modrm]).filled(&mut random);
                    tally.check(&bytes, mode);
                }
            }
        }
    }
    tally.finish(40_000);
}

/// Every SIB byte with every `mod`, in both wide address sizes.
#[test]
fn addressing() {
    let mut random = Random(7);
    let mut tally = Tally::default();
    for mode in MODES {
        for prefix in [&[][..], &[0x67], &[0x36], &[0x65]] {
            let rexes = if mode.1 == 64 {
                &[&[][..], &[0x41], &[0x42], &[0x43]][..]
            } else {
                &[&[][..]][..]
            };
            for rex in rexes {
                for modrm in 0..=255 {
                    for sib in (0..=255).step_by(if modrm & 7 == 4 { 1 } else { 64 }) {
                        let bytes = Bytes::default()
                            .with(prefix)
                            .with(rex)
                            .with(&[0x8b, modrm, sib])
                            .filled(&mut random);
                        tally.check(&bytes, mode);
                    }
                }
            }
        }
    }
    tally.finish(100_000);
}

#[test]
fn vex_and_xop() {
    let mut random = Random(0xfeed);
    let mut tally = Tally::default();
    for mode in MODES {
        for (introducer, maps) in [(0xc4, 0..=7_u8), (0x8f, 7..=12)] {
            for map in maps {
                for opcode in 0..=255 {
                    for second in 0..16 {
                        // W, vvvv (none in half of the cases), L, pp.
                        let vvvv = if second & 1 == 0 {
                            15
                        } else {
                            random.byte() & 15
                        };
                        let payload = (second & 8) << 4 | vvvv << 3 | (random.byte() & 7);
                        let inverted = if mode.1 == 64 { random.byte() } else { 0xff } & 0xe0;
                        for _ in 0..3 {
                            let modrm = random.byte() | if second & 2 == 0 { 0xc0 } else { 0 };
                            let bytes = Bytes::default()
                                .with(&[introducer, inverted | map, payload, opcode, modrm])
                                .filled(&mut random);
                            tally.check(&bytes, mode);
                        }
                    }
                }
            }
        }
        for opcode in 0..=255 {
            for _ in 0..24 {
                let bytes = Bytes::default()
                    .with(&[0xc5, random.byte() | 0x80 | 0x40, opcode])
                    .filled(&mut random);
                tally.check(&bytes, mode);
            }
        }
    }
    tally.finish(15_000);
}

#[test]
fn evex() {
    let mut random = Random(0xbeef);
    let mut tally = Tally::default();
    for mode in MODES {
        for map in 0..8 {
            for opcode in 0..=255 {
                for at in 0..64_u8 {
                    let inverted = if mode.1 == 64 { random.byte() } else { 0xff } & 0xf0;
                    let vvvv = if at & 8 == 0 { 15 } else { random.byte() & 15 };
                    // Every prefix and W; the usual lengths without a mask, then anything.
                    let second = (at & 4) << 5 | vvvv << 3 | 4 | at & 3;
                    let third = match at >> 4 {
                        0 => 0x08,
                        1 => 0x28,
                        2 => 0x48 | (random.byte() & 0x17),
                        _ => random.byte(),
                    };
                    let bytes = Bytes::default()
                        .with(&[0x62, inverted | map, second, third, opcode])
                        .filled(&mut random);
                    tally.check(&bytes, mode);
                }
            }
        }
    }
    tally.finish(8_000);
}

#[test]
fn random_bytes() {
    let mut random = Random(0x5eed);
    let mut tally = Tally::default();
    for _ in 0..100_000 {
        for mode in MODES {
            let bytes = Bytes::default().filled(&mut random);
            tally.check(&bytes, mode);
        }
    }
    tally.finish(200_000);
}

/// Every proper prefix of an instruction is too short, never something else.
#[test]
fn truncation() {
    let mut random = Random(0x7777);
    let mut instructions = 0;
    for _ in 0..30_000 {
        for (mode, _) in MODES {
            let bytes = Bytes::default().filled(&mut random);
            let Ok(insn) = decode(&bytes, mode) else {
                continue;
            };
            instructions += 1;
            let length = usize::from(insn.length);
            assert_eq!(decode(&bytes[..length], mode), Ok(insn));
            for short in 0..length {
                assert_eq!(
                    decode(&bytes[..short], mode),
                    Err(DecodeError::TooShort),
                    "{:x?}",
                    &bytes[..short]
                );
            }
        }
    }
    assert!(instructions > 50_000);
}

#[test]
fn the_reference_knows_what_we_think() {
    let mut decoder = Decoder::new(64, &[0x0f, 0xa2], DecoderOptions::NONE);
    let instruction = decoder.decode();
    assert_eq!(instruction.code(), Code::Cpuid);
    assert_eq!(instruction.code_size(), CodeSize::Code64);
}
