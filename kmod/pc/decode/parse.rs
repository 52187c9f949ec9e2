// SPDX-License-Identifier: GPL-2.0

//! From bytes to an [`Insn`]: prefixes, opcode, ModRM, SIB, displacement,
//! immediate, in that order.

use super::cursor::Cursor;
use super::prefix::{Prefixes, Rex};
use super::tables::{self, Entry, Immediate};
use super::vector::{self, VectorPrefix};
use super::{DecodeError, Encoding, Insn, Map, MemoryOperand, ModRm, VectorFields, MAX_LENGTH};
use crate::pc::regs::{CpuMode, Reg, SegReg};

const NO_MEMORY: MemoryOperand = MemoryOperand {
    disp: 0,
    base: None,
    index: None,
    scale: 0,
    rip_relative: false,
    segment: SegReg::Ds,
};

/// What stands where no instruction is.
pub(super) const NO_INSN: Insn = Insn {
    memory: NO_MEMORY,
    imm: 0,
    imm2: 0,
    prefixes: Prefixes::NONE,
    rex: Rex(0),
    opcode: 0,
    map: Map::Primary,
    encoding: Encoding::Legacy,
    modrm: ModRm(0),
    vector: VectorFields {
        vvvv: 0,
        length: 0,
        evex: 0,
    },
    length: 0,
    operand_size: 0,
    address_size: 0,
    has_modrm: false,
};

/// An instruction with nothing decoded yet.
#[inline]
fn blank(mode: CpuMode) -> Insn {
    Insn {
        operand_size: mode.operand_size(),
        address_size: mode.address_size(),
        ..NO_INSN
    }
}

/// An instruction of `0F` and one more byte, nothing else.
#[inline]
pub(super) fn plain(opcode: u8, mode: CpuMode) -> Insn {
    Insn {
        opcode,
        map: Map::Of,
        length: 2,
        ..blank(mode)
    }
}

/// Decodes without short cuts.
pub(super) fn decode(bytes: &[u8], mode: CpuMode) -> Result<Insn, DecodeError> {
    let mut cursor = Cursor::new(bytes);
    let mut insn = blank(mode);
    let result = parse(&mut cursor, &mut insn, mode);
    // What lies beyond the bytes given decides nothing, not even "invalid".
    if cursor.taken() as usize > bytes.len().min(MAX_LENGTH) {
        return Err(if bytes.len() >= MAX_LENGTH {
            DecodeError::TooLong
        } else {
            DecodeError::TooShort
        });
    }
    result?;
    insn.length = cursor.taken() as u8;
    Ok(insn)
}

fn parse(cursor: &mut Cursor, insn: &mut Insn, mode: CpuMode) -> Result<(), DecodeError> {
    let first = legacy_prefixes(cursor, insn, mode.is_64bit());
    let mut entry = opcode(cursor, insn, mode, first)?;
    if entry.is_undefined(mode.is_64bit()) {
        return Err(DecodeError::Invalid);
    }
    if entry.has_modrm() {
        entry = modrm(cursor, insn, entry)?;
        sizes(insn, mode, entry);
        memory_operand(cursor, insn, mode);
    } else {
        if entry.is_conditional() && !entry.allows(ModRm(0), insn.prefixes.mandatory()) {
            return Err(DecodeError::Invalid);
        }
        sizes(insn, mode, entry);
    }
    immediate(cursor, insn, entry.immediate());
    if insn.map == Map::Amd3dNow {
        insn.opcode = cursor.byte();
        if !tables::is_3dnow(insn.opcode) {
            return Err(DecodeError::Invalid);
        }
    }
    if insn.prefixes.has(Prefixes::LOCK) && !may_lock(insn, entry) {
        return Err(DecodeError::Invalid);
    }
    Ok(())
}

/// Takes prefixes and returns the byte after them. A REX prefix counts only
/// right before the opcode.
fn legacy_prefixes(cursor: &mut Cursor, insn: &mut Insn, is_64bit: bool) -> u8 {
    for _ in 0..MAX_LENGTH {
        let byte = cursor.byte();
        match byte {
            0x66 => insn.prefixes.add(Prefixes::OPERAND_SIZE),
            0x67 => insn.prefixes.add(Prefixes::ADDRESS_SIZE),
            0xf0 => insn.prefixes.add(Prefixes::LOCK),
            0xf2 => insn.prefixes.set_repeat(Prefixes::REPNE),
            0xf3 => insn.prefixes.set_repeat(Prefixes::REP),
            0x64 => insn.prefixes.set_segment(SegReg::Fs),
            0x65 => insn.prefixes.set_segment(SegReg::Gs),
            0x26 | 0x2e | 0x36 | 0x3e => {
                let segment = SegReg::from_encoding((byte >> 3) & 3);
                if let (false, Some(segment)) = (is_64bit, segment) {
                    insn.prefixes.set_segment(segment);
                }
            }
            0x40..=0x4f if is_64bit => {
                insn.rex = Rex(byte);
                continue;
            }
            _ => return byte,
        }
        insn.rex = Rex(0);
    }
    // Fifteen prefixes: any opcode is beyond the limit.
    cursor.byte()
}

/// Finds map, opcode and entry, `first` being the first byte after the
/// legacy prefixes.
fn opcode(
    cursor: &mut Cursor,
    insn: &mut Insn,
    mode: CpuMode,
    first: u8,
) -> Result<Entry, DecodeError> {
    match first {
        0x0f => {
            escaped(cursor, insn);
            Ok(match insn.map {
                Map::Amd3dNow => Entry::MODRM,
                map => tables::entry(map, insn.opcode),
            })
        }
        0xc4 | 0xc5 | 0x62 if mode.is_64bit() || cursor.peek() >= 0xc0 => {
            vector_opcode(cursor, insn, mode, first)
        }
        // POP with a `reg` other than 0, or a map number below 8, is not XOP.
        0x8f if cursor.peek() & 0x1f >= 8 => vector_opcode(cursor, insn, mode, first),
        _ => {
            insn.opcode = first;
            Ok(tables::entry(Map::Primary, first))
        }
    }
}

fn escaped(cursor: &mut Cursor, insn: &mut Insn) {
    (insn.map, insn.opcode) = match cursor.byte() {
        0x38 => (Map::Of38, cursor.byte()),
        0x3a => (Map::Of3a, cursor.byte()),
        0x0f => (Map::Amd3dNow, 0),
        opcode => (Map::Of, opcode),
    };
}

/// An opcode introduced by VEX, EVEX or XOP. Those exist in protected mode
/// only, and take no legacy prefix but segment and address size.
fn vector_opcode(
    cursor: &mut Cursor,
    insn: &mut Insn,
    mode: CpuMode,
    first: u8,
) -> Result<Entry, DecodeError> {
    let refused = Prefixes::OPERAND_SIZE | Prefixes::LOCK | Prefixes::REP | Prefixes::REPNE;
    let bad_prefix = insn.prefixes.has(refused) || insn.rex.is_present();
    let is_64bit = mode.is_64bit();
    let (encoding, prefix) = match first {
        0xc5 => (Encoding::Vex, Ok(vector::vex2(cursor))),
        0xc4 => (Encoding::Vex, vector::vex3(cursor, Encoding::Vex)),
        0x8f => (Encoding::Xop, vector::vex3(cursor, Encoding::Xop)),
        _ => (Encoding::Evex, vector::evex(cursor, is_64bit)),
    };
    let VectorPrefix {
        map,
        rex,
        mandatory,
        fields,
    } = prefix?;
    if bad_prefix || mode.is_real_or_vm86() {
        return Err(DecodeError::Invalid);
    }
    insn.encoding = encoding;
    insn.map = map;
    // Outside 64-bit code there are eight registers, whatever the bits say.
    insn.rex = if is_64bit { rex } else { Rex(rex.0 & 8) };
    insn.vector = fields;
    if !is_64bit {
        insn.vector.vvvv &= 7;
    }
    insn.prefixes.set_mandatory(mandatory);
    insn.opcode = cursor.byte();
    Ok(vector::entry(encoding, map, insn.opcode))
}

/// Operand and address size (APM volume 3, tables 1-2 and 1-3).
fn sizes(insn: &mut Insn, mode: CpuMode, entry: Entry) {
    if insn.prefixes == Prefixes::default() && insn.rex == Rex(0) {
        // Everything is as it began, but for the instructions that have their
        // own size in 64-bit code.
        if mode.is_64bit() && (entry.forced_to_64() || entry.defaults_to_64()) {
            insn.operand_size = 8;
        }
        return;
    }
    let small = insn.prefixes.has(Prefixes::OPERAND_SIZE) && insn.encoding == Encoding::Legacy;
    insn.operand_size = match (mode.operand_size(), small) {
        (2, false) | (4, true) => 2,
        _ => 4,
    };
    if mode.is_64bit() {
        if entry.forced_to_64() || (entry.defaults_to_64() && !small) {
            insn.operand_size = 8;
        }
        if insn.rex.w() {
            insn.operand_size = if is_port_io(insn) { 4 } else { 8 };
        }
    }
    insn.address_size = match (
        mode.address_size(),
        insn.prefixes.has(Prefixes::ADDRESS_SIZE),
    ) {
        (8, false) => 8,
        (4, true) | (2, false) => 2,
        _ => 4,
    };
    insn.memory.segment = insn.prefixes.segment().unwrap_or(SegReg::Ds);
}

/// Ports are at most four bytes wide.
fn is_port_io(insn: &Insn) -> bool {
    insn.map == Map::Primary && matches!(insn.opcode, 0x6c..=0x6f | 0xe4..=0xe7 | 0xec..=0xef)
}

/// Takes the ModRM byte and answers with the entry of that form.
fn modrm(cursor: &mut Cursor, insn: &mut Insn, entry: Entry) -> Result<Entry, DecodeError> {
    insn.modrm = ModRm(cursor.byte());
    insn.has_modrm = true;
    if insn.encoding != Encoding::Legacy {
        return Ok(entry);
    }
    if insn.map == Map::Of && matches!(insn.opcode, 0x20..=0x23) {
        // MOV to and from control and debug registers ignores `mod`.
        insn.modrm.0 |= 0xc0;
    }
    if !entry.is_conditional() {
        return Ok(entry);
    }
    let prefix = insn.prefixes.mandatory();
    if !entry.allows(insn.modrm, prefix) {
        return Err(DecodeError::Invalid);
    }
    if !entry.is_group() {
        return Ok(entry);
    }
    let member = tables::group(insn.map, insn.opcode, insn.modrm, prefix, entry);
    if member.is_undefined(false) || !member.allows(insn.modrm, prefix) {
        return Err(DecodeError::Invalid);
    }
    Ok(member)
}

/// Base and index of the eight forms of 16-bit addressing.
const PAIRS_16: [(Option<Reg>, Option<Reg>); 8] = [
    (Some(Reg::Rbx), Some(Reg::Rsi)),
    (Some(Reg::Rbx), Some(Reg::Rdi)),
    (Some(Reg::Rbp), Some(Reg::Rsi)),
    (Some(Reg::Rbp), Some(Reg::Rdi)),
    (Some(Reg::Rsi), None),
    (Some(Reg::Rdi), None),
    (Some(Reg::Rbp), None),
    (Some(Reg::Rbx), None),
];

/// Takes SIB and displacement.
fn memory_operand(cursor: &mut Cursor, insn: &mut Insn, mode: CpuMode) {
    if insn.modrm.is_register() {
        return;
    }
    if insn.address_size == 2 {
        memory_16(cursor, insn);
    } else {
        memory_32(cursor, insn, mode);
    }
    let stack = matches!(insn.memory.base, Some(Reg::Rbp | Reg::Rsp));
    if stack && insn.prefixes.segment().is_none() {
        insn.memory.segment = SegReg::Ss;
    }
}

fn memory_16(cursor: &mut Cursor, insn: &mut Insn) {
    let memory = &mut insn.memory;
    (memory.base, memory.index) = PAIRS_16[(insn.modrm.rm() & 7) as usize];
    memory.disp = match (insn.modrm.mode(), insn.modrm.rm()) {
        (0, 6) => {
            memory.base = None;
            cursor.signed_word()
        }
        (0, _) => 0,
        (1, _) => cursor.signed_byte(),
        _ => cursor.signed_word(),
    };
}

fn memory_32(cursor: &mut Cursor, insn: &mut Insn, mode: CpuMode) {
    let memory = &mut insn.memory;
    let mut base = insn.modrm.rm();
    if base == 4 {
        let sib = cursor.byte();
        base = sib & 7;
        let index = ((sib >> 3) & 7) | insn.rex.x();
        memory.scale = sib >> 6;
        // Number 4 means none, but a vector index has no such exception.
        memory.index = if index == 4 && !has_vector_index(insn.map, insn.encoding, insn.opcode) {
            None
        } else {
            Some(Reg::from_bits(index))
        };
    } else if base == 5 && insn.modrm.mode() == 0 {
        memory.rip_relative = mode.is_64bit();
        memory.disp = cursor.signed_dword();
        return;
    }
    if base == 5 && insn.modrm.mode() == 0 {
        memory.disp = cursor.signed_dword();
        return;
    }
    memory.base = Some(Reg::from_bits(base | insn.rex.b()));
    memory.disp = match insn.modrm.mode() {
        0 => 0,
        1 => cursor.signed_byte(),
        _ => cursor.signed_dword(),
    };
}

/// Gathers and scatters.
fn has_vector_index(map: Map, encoding: Encoding, opcode: u8) -> bool {
    map == Map::Of38
        && match encoding {
            Encoding::Vex => matches!(opcode, 0x90..=0x93),
            Encoding::Evex => matches!(opcode, 0x90..=0x93 | 0xa0..=0xa3 | 0xc6 | 0xc7),
            _ => false,
        }
}

/// Takes the immediate operands.
fn immediate(cursor: &mut Cursor, insn: &mut Insn, kind: Immediate) {
    let size = insn.operand_size;
    match kind {
        Immediate::None | Immediate::Undefined => {}
        Immediate::Byte => insn.imm = cursor.signed_byte(),
        Immediate::Word => insn.imm = u64::from(cursor.word()),
        Immediate::Dword => insn.imm = cursor.signed_dword(),
        Immediate::Zword if size == 2 => insn.imm = cursor.signed_word(),
        Immediate::Zword => insn.imm = cursor.signed_dword(),
        Immediate::Full => {
            insn.imm = match size {
                2 => cursor.signed_word(),
                4 => cursor.signed_dword(),
                _ => cursor.qword(),
            }
        }
        Immediate::Near if size == 2 => insn.imm = cursor.signed_word(),
        Immediate::Near => insn.imm = cursor.signed_dword(),
        Immediate::WordByte => {
            insn.imm = u64::from(cursor.word());
            insn.imm2 = u16::from(cursor.byte());
        }
        Immediate::TwoBytes => {
            insn.imm = u64::from(cursor.byte());
            insn.imm2 = u16::from(cursor.byte());
        }
        Immediate::Far => {
            insn.imm = match size {
                2 => u64::from(cursor.word()),
                _ => u64::from(cursor.dword()),
            };
            insn.imm2 = cursor.word();
        }
        Immediate::Offset => {
            insn.memory.disp = match insn.address_size {
                2 => u64::from(cursor.word()),
                4 => u64::from(cursor.dword()),
                _ => cursor.qword(),
            }
        }
    }
}

/// Does the LOCK prefix make sense here (APM volume 3, section 1.2.5)?
fn may_lock(insn: &Insn, entry: Entry) -> bool {
    if insn.encoding != Encoding::Legacy {
        return false;
    }
    if insn.map == Map::Of && matches!(insn.opcode, 0x20 | 0x22) {
        // AMD's way to CR8 without REX.
        return insn.modrm.reg() == 0;
    }
    entry.may_lock()
        && !insn.modrm.is_register()
        && tables::member_may_lock(insn.map, insn.opcode, insn.modrm.reg())
}
