// SPDX-License-Identifier: GPL-2.0

//! The legacy opcode maps: what follows each opcode, and where it is defined
//! (APM volume 3, appendix A; SDM volume 2D, appendix A).
//!
//! An entry says how to find the end of the instruction and which forms exist.
//! Rows are sixteen opcodes.

use super::{Mandatory, Map, ModRm};

/// One opcode's entry. The low four bits are the kind of immediate.
#[derive(Clone, Copy)]
pub(super) struct Entry(u16);

/// What follows the operands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Immediate {
    /// Nothing.
    None,
    /// A signed byte.
    Byte,
    /// A word, unsigned.
    Word,
    /// A word or doubleword, by operand size.
    Zword,
    /// As wide as the operand, even eight bytes.
    Full,
    /// A word and a byte.
    WordByte,
    /// An offset by operand size and a selector.
    Far,
    /// A branch distance by operand size, always four bytes in 64-bit code.
    Near,
    /// An absolute offset by address size.
    Offset,
    /// Two bytes.
    TwoBytes,
    /// A doubleword.
    Dword,
    /// Not an opcode.
    Undefined,
}

// Kinds of immediate.
const N: u16 = 0;
const IB: u16 = 1;
const IW: u16 = 2;
const IZ: u16 = 3;
const IV: u16 = 4;
const WB: u16 = 5;
const AP: u16 = 6;
const JZ: u16 = 7;
const OF: u16 = 8;
const II: u16 = 9;
const ID: u16 = 10;
const XX: u16 = 15;

// Properties.
/// A ModRM byte follows.
const M: u16 = 1 << 4;
/// Undefined in 64-bit code.
const NO64: u16 = 1 << 5;
/// In 64-bit code the operand has 64 bits, or 16 with `66`.
const D64: u16 = 1 << 6;
/// In 64-bit code the operand always has 64 bits.
const F64: u16 = 1 << 7;
/// May be locked if the destination is memory.
const LOCK: u16 = 1 << 8;
/// Which forms exist depends on ModRM: see [`group`].
const GROUP: u16 = 1 << 9;
/// Only with a memory operand.
const MEM: u16 = 1 << 10;
/// Only with a register operand.
const REG: u16 = 1 << 11;
// Mandatory prefixes for which nothing is defined.
const NO_NP: u16 = 1 << 12;
const NO_66: u16 = 1 << 13;
const NO_F3: u16 = 1 << 14;
const NO_F2: u16 = 1 << 15;

// Frequent combinations.
const ML: u16 = M | LOCK;
const MB: u16 = M | IB;
const JB: u16 = IB | F64;
/// MMX and SSE2 integer: no prefix or `66`.
const V2: u16 = M | NO_F3 | NO_F2;
/// `66` only.
const V66: u16 = M | NO_NP | NO_F3 | NO_F2;
/// `66` or `F2`.
const VD: u16 = M | NO_NP | NO_F3;
/// No prefix only.
const VN: u16 = M | NO_66 | NO_F3 | NO_F2;
/// No prefix or `F3`.
const VS: u16 = M | NO_66 | NO_F2;
/// All but `F2`.
const V3: u16 = M | NO_F2;
/// `F3` only.
const VF3: u16 = M | NO_NP | NO_66 | NO_F2;
/// `66` or `F3`.
const VK: u16 = M | NO_NP | NO_F2;
/// All but no prefix.
const VX: u16 = M | NO_NP;

impl Entry {
    pub(super) const fn immediate(self) -> Immediate {
        match self.0 & 15 {
            N => Immediate::None,
            IB => Immediate::Byte,
            IW => Immediate::Word,
            IZ => Immediate::Zword,
            IV => Immediate::Full,
            WB => Immediate::WordByte,
            AP => Immediate::Far,
            JZ => Immediate::Near,
            OF => Immediate::Offset,
            II => Immediate::TwoBytes,
            ID => Immediate::Dword,
            _ => Immediate::Undefined,
        }
    }

    pub(super) const fn has_modrm(self) -> bool {
        self.0 & M != 0
    }

    pub(super) const fn is_undefined(self, is_64bit: bool) -> bool {
        self.0 & 15 == XX || (is_64bit && self.0 & NO64 != 0)
    }

    pub(super) const fn defaults_to_64(self) -> bool {
        self.0 & D64 != 0
    }

    pub(super) const fn forced_to_64(self) -> bool {
        self.0 & F64 != 0
    }

    pub(super) const fn may_lock(self) -> bool {
        self.0 & LOCK != 0
    }

    pub(super) const fn is_group(self) -> bool {
        self.0 & GROUP != 0
    }

    /// Does it depend on ModRM or on the mandatory prefix whether the opcode
    /// is defined?
    pub(super) const fn is_conditional(self) -> bool {
        self.0 & (GROUP | MEM | REG | NO_NP | NO_66 | NO_F3 | NO_F2) != 0
    }

    /// Is the opcode defined for this kind of operand and this prefix?
    pub(super) const fn allows(self, modrm: ModRm, prefix: Mandatory) -> bool {
        let refused = match prefix {
            Mandatory::None => NO_NP,
            Mandatory::P66 => NO_66,
            Mandatory::F3 => NO_F3,
            Mandatory::F2 => NO_F2,
        } | if modrm.is_register() { MEM } else { REG };
        self.0 & refused == 0
    }

    const fn vector(immediate: u16) -> Self {
        Self(M | immediate)
    }

    /// Entries for the maps that have no table: ModRM and this immediate.
    pub(super) const MODRM: Self = Self::vector(N);
    pub(super) const MODRM_BYTE: Self = Self::vector(IB);
    pub(super) const MODRM_DWORD: Self = Self::vector(ID);
    pub(super) const BARE: Self = Self(N);
    pub(super) const UNDEFINED: Self = Self(XX);
    /// EXTRQ and INSERTQ with immediates.
    pub(super) const MODRM_TWO_BYTES: Self = Self(M | II | REG | NO_NP | NO_F3);
    /// XBEGIN.
    pub(super) const MODRM_NEAR: Self = Self(M | JZ);
    /// The memory forms of group 3 that take an immediate.
    pub(super) const TEST_BYTE: Self = Self(M | IB);
    pub(super) const TEST_ZWORD: Self = Self(M | IZ);
    /// POP, PUSH: 64-bit by default.
    pub(super) const MODRM_D64: Self = Self(M | D64);
    /// Near CALL and JMP.
    pub(super) const MODRM_F64: Self = Self(M | F64);
}

/// The entry of an opcode in a legacy map.
#[inline]
pub(super) const fn entry(map: Map, opcode: u8) -> Entry {
    let at = opcode as usize;
    Entry(match map {
        Map::Primary => PRIMARY[at],
        Map::Of => OF_MAP[at],
        Map::Of38 => OF38_MAP[at],
        Map::Of3a => OF3A_MAP[at],
        _ => XX,
    })
}

/// Is this `0F` opcode complete in two bytes, whatever the mode, and one that
/// exits? Those are decoded without looking further.
#[inline]
pub(super) const fn is_plain(opcode: u8) -> bool {
    // CLTS, INVD, WBINVD, WRMSR, RDTSC, RDMSR, RDPMC, CPUID, RSM.
    const LOW: u64 = 1 << 0x06 | 1 << 0x08 | 1 << 0x09 | 0xf << 0x30;
    const HIGH: u64 = 1 << (0xa2 - 0x80) | 1 << (0xaa - 0x80);
    match opcode >> 6 {
        0 => LOW >> (opcode & 63) & 1 != 0,
        2 => HIGH >> (opcode & 63) & 1 != 0,
        _ => false,
    }
}

const ALU: [u16; 6] = [ML, ML, M, M, IB, IZ];

#[rustfmt::skip]
static PRIMARY: [u16; 256] = [
    // 00: ADD, OR; 0F is an escape.
    ALU[0], ALU[1], ALU[2], ALU[3], ALU[4], ALU[5], NO64, NO64,
    ALU[0], ALU[1], ALU[2], ALU[3], ALU[4], ALU[5], NO64, XX,
    // 10: ADC, SBB.
    ALU[0], ALU[1], ALU[2], ALU[3], ALU[4], ALU[5], NO64, NO64,
    ALU[0], ALU[1], ALU[2], ALU[3], ALU[4], ALU[5], NO64, NO64,
    // 20: AND, DAA, SUB, DAS; segment prefixes never get here.
    ALU[0], ALU[1], ALU[2], ALU[3], ALU[4], ALU[5], XX, NO64,
    ALU[0], ALU[1], ALU[2], ALU[3], ALU[4], ALU[5], XX, NO64,
    // 30: XOR, AAA, CMP, AAS.
    ALU[0], ALU[1], ALU[2], ALU[3], ALU[4], ALU[5], XX, NO64,
    M, M, M, M, IB, IZ, XX, NO64,
    // 40: INC, DEC; REX prefixes never get here.
    NO64, NO64, NO64, NO64, NO64, NO64, NO64, NO64,
    NO64, NO64, NO64, NO64, NO64, NO64, NO64, NO64,
    // 50: PUSH, POP.
    D64, D64, D64, D64, D64, D64, D64, D64, D64, D64, D64, D64, D64, D64, D64, D64,
    // 60: PUSHA, POPA, BOUND, MOVSXD/ARPL, PUSH, IMUL, INS, OUTS.
    NO64, NO64, M | MEM | NO64, M, XX, XX, XX, XX,
    IZ | D64, M | IZ, IB | D64, MB, N, N, N, N,
    // 70: Jcc.
    JB, JB, JB, JB, JB, JB, JB, JB, JB, JB, JB, JB, JB, JB, JB, JB,
    // 80: group 1, TEST, XCHG, MOV, LEA, POP.
    MB | LOCK, M | IZ | LOCK, MB | LOCK | NO64, MB | LOCK, M, M, ML, ML,
    M, M, M, M, M | GROUP, M | MEM, M | GROUP, M | D64 | GROUP,
    // 90: XCHG, CBW, CWD, CALL far, WAIT, PUSHF, POPF, SAHF, LAHF.
    N, N, N, N, N, N, N, N, N, N, AP | NO64, N, D64, D64, N, N,
    // A0: MOV offset, string instructions, TEST.
    OF, OF, OF, OF, N, N, N, N, IB, IZ, N, N, N, N, N, N,
    // B0: MOV immediate.
    IB, IB, IB, IB, IB, IB, IB, IB, IV, IV, IV, IV, IV, IV, IV, IV,
    // C0: shifts, RET, LES, LDS, MOV, ENTER, LEAVE, RETF, INT, IRET.
    MB, MB, IW | F64, F64, M | MEM | NO64, M | MEM | NO64, MB | GROUP, M | IZ | GROUP,
    WB | D64, D64, IW, N, N, IB, NO64, N,
    // D0: shifts, AAM, AAD, SALC, XLAT, x87.
    M, M, M, M, IB | NO64, IB | NO64, NO64, N, M, M, M, M, M, M, M, M,
    // E0: LOOP, JCXZ, IN, OUT, CALL, JMP.
    JB, JB, JB, JB, IB, IB, IB, IB, JZ | F64, JZ | F64, AP | NO64, JB, N, N, N, N,
    // F0: INT1, HLT, CMC, group 3, flags, groups 4 and 5.
    XX, N, XX, XX, N, N, ML | GROUP, ML | GROUP, N, N, N, N, N, N, ML | GROUP, ML | GROUP,
];

#[rustfmt::skip]
static OF_MAP: [u16; 256] = [
    // 00: groups 6 and 7, LAR, LSL, SYSCALL, CLTS, SYSRET, INVD, WBINVD, UD2, PREFETCH, FEMMS.
    M | GROUP, M | GROUP, M, M, XX, N, N, N, N, N, XX, N, XX, M, N, XX,
    // 10: moves.
    M, M, M, V2 | MEM, V2, V2, V3, V2 | MEM, M, M, M, M, M, M, M, M,
    // 20: MOV CR and DR, moves, conversions, comparisons.
    M, M, M, M, XX, XX, XX, XX, V2, V2, M, M | MEM, M, M, V2, V2,
    // 30: WRMSR, RDTSC, RDMSR, RDPMC, SYSENTER, SYSEXIT, GETSEC.
    N, N, N, N, N, N, XX, VN & !M, XX, XX, XX, XX, XX, XX, XX, XX,
    // 40: CMOVcc.
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    // 50: SSE arithmetic.
    V2 | REG, M, VS, VS, V2, V2, V2, V2, M, M, M, V3, M, M, M, M,
    // 60: MMX.
    V2, V2, V2, V2, V2, V2, V2, V2, V2, V2, V2, V2, V66, V66, V2, V3,
    // 70: shuffles, shifts, comparisons, EMMS, VMREAD, VMWRITE, horizontal, moves.
    MB, V2 | IB | GROUP, V2 | IB | GROUP, V2 | IB | GROUP, V2, V2, V2, VN & !M,
    M | F64 | GROUP, M | F64 | GROUP, XX, XX, VD, VD, V3, V3,
    // 80: Jcc.
    JZ | F64, JZ | F64, JZ | F64, JZ | F64, JZ | F64, JZ | F64, JZ | F64, JZ | F64,
    JZ | F64, JZ | F64, JZ | F64, JZ | F64, JZ | F64, JZ | F64, JZ | F64, JZ | F64,
    // 90: SETcc.
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    // A0: PUSH and POP FS, CPUID, BT, SHLD, PadLock; PUSH and POP GS, RSM, BTS, SHRD, group 15, IMUL.
    D64, D64, N, M, MB, M, M | REG, M | REG, D64, D64, N, ML, MB, M, M | GROUP, M,
    // B0: CMPXCHG, LSS, BTR, LFS, LGS, MOVZX; POPCNT, UD1, group 8, BTC, BSF, BSR, MOVSX.
    ML, ML, M | MEM, ML, M | MEM, M | MEM, M, M, VF3, M, MB | LOCK | GROUP, ML, M, M, M, M,
    // C0: XADD, CMPPS, MOVNTI, PINSRW, PEXTRW, SHUFPS, group 9, BSWAP.
    ML, ML, MB, VN | MEM, V2 | IB, V2 | IB | REG, V2 | IB, ML | GROUP,
    N, N, N, N, N, N, N, N,
    // D0: MMX and SSE2.
    VD, V2, V2, V2, V2, V2, VX, V2 | REG, V2, V2, V2, V2, V2, V2, V2, V2,
    // E0: MMX and SSE2.
    V2, V2, V2, V2, V2, V2, VX, V2 | MEM, V2, V2, V2, V2, V2, V2, V2, V2,
    // F0: MMX and SSE2, UD0.
    M | NO_NP | NO_66 | NO_F3 | MEM, V2, V2, V2, V2, V2, V2, V2 | REG,
    V2, V2, V2, V2, V2, V2, V2, M,
];

#[rustfmt::skip]
static OF38_MAP: [u16; 256] = [
    // 00: SSSE3.
    V2, V2, V2, V2, V2, V2, V2, V2, V2, V2, V2, V2, XX, XX, XX, XX,
    // 10: SSE4.1 blends, PTEST; PABS.
    V66, XX, XX, XX, V66, V66, XX, V66, XX, XX, XX, XX, V2, V2, V2, XX,
    // 20: SSE4.1.
    V66, V66, V66, V66, V66, V66, XX, XX, V66, V66, V66 | MEM, V66, XX, XX, XX, XX,
    // 30: SSE4.1.
    V66, V66, V66, V66, V66, V66, XX, V66, V66, V66, V66, V66, V66, V66, V66, V66,
    // 40.
    V66, V66, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 50.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 60.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 70.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 80: INVEPT, INVVPID, INVPCID.
    V66 | MEM, V66 | MEM, V66 | MEM, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 90.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // A0.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // B0.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // C0: SHA, GF2P8MULB.
    XX, XX, XX, XX, XX, XX, XX, XX, VN, VN, VN, VN, VN, VN, XX, V66,
    // D0: AES and Key Locker.
    XX, XX, XX, XX, XX, XX, XX, XX, VF3 | MEM, XX, XX, V66, VK, VK, VK, VK,
    // E0.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // F0: MOVBE, CRC32, WRUSS, ADCX, MOVDIR, ENQCMD, RAO.
    M | NO_F3 | GROUP, M | NO_F3 | GROUP, XX, XX, XX, V66 | MEM, V3, XX,
    M | NO_NP, VN | MEM, VF3 | REG, VF3 | REG, M | MEM, XX, XX, XX,
];

#[rustfmt::skip]
static OF3A_MAP: [u16; 256] = [
    // 00: rounding, blends, PALIGNR.
    XX, XX, XX, XX, XX, XX, XX, XX,
    V66 | IB, V66 | IB, V66 | IB, V66 | IB, V66 | IB, V66 | IB, V66 | IB, V2 | IB,
    // 10: extracts.
    XX, XX, XX, XX, V66 | IB, V66 | IB, V66 | IB, V66 | IB, XX, XX, XX, XX, XX, XX, XX, XX,
    // 20: inserts.
    V66 | IB, V66 | IB, V66 | IB, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 30.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 40: dot products, PCLMULQDQ.
    V66 | IB, V66 | IB, V66 | IB, XX, V66 | IB, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 50.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 60: string comparisons.
    V66 | IB, V66 | IB, V66 | IB, V66 | IB, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 70.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 80.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // 90.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // A0.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // B0.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // C0: SHA1RNDS4, GF2P8AFFINE.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, VN | IB, XX, V66 | IB, V66 | IB,
    // D0: AESKEYGENASSIST.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, V66 | IB,
    // E0.
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    // F0: HRESET.
    VF3 | IB | REG, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
];

/// The members of a group, one bit for each value of ModRM `reg`.
struct Members {
    /// Defined with a memory operand.
    memory: u8,
    /// Defined with a register operand.
    register: u8,
}

const fn members(memory: u8, register: u8) -> Members {
    Members { memory, register }
}

/// `0F 01` with a register operand: which of the 64 are defined, with one
/// prefix or another. VMX, SGX, MONITOR, TDX, XGETBV, SVM, SMSW, shadow stacks,
/// protection keys, user interrupts, LMSW, SWAPGS and what came after.
const SYSTEM_REGISTER_FORMS: u64 = {
    let vmx = 0xff; // C0..C7
    let monitor = 0xff << 8; // C8..CF
    let xgetbv = 0xf3 << 16; // D0, D1, D4..D7
    let svm = 0xff << 24; // D8..DF
    let smsw = 0xff << 32; // E0..E7
    let keys = 0xf7 << 40; // E8..EA, EC..EF
    let lmsw = 0xff << 48; // F0..F7
    let swapgs = 0xff << 56; // F8..FF
    vmx | monitor | xgetbv | svm | smsw | keys | lmsw | swapgs
};

/// Groups whose members differ in more than existence: the entry of the
/// member, or `UNDEFINED` (APM volume 3, table A-6).
pub(super) const fn group(
    map: Map,
    opcode: u8,
    modrm: ModRm,
    prefix: Mandatory,
    entry: Entry,
) -> Entry {
    let reg = modrm.reg();
    let exists = match (map, opcode) {
        // MOV to and from segment registers.
        (Map::Primary, 0x8c) => members(0x3f, 0x3f),
        (Map::Primary, 0x8e) => members(0x3d, 0x3d),
        (Map::Primary, 0x8f) => members(1, 1),
        (Map::Primary, 0xc6) if modrm.0 == 0xf8 => return Entry::MODRM_BYTE,
        (Map::Primary, 0xc7) if modrm.0 == 0xf8 => return Entry::MODRM_NEAR,
        (Map::Primary, 0xc6 | 0xc7) => members(1, 1),
        (Map::Primary, 0xf6) if reg < 2 => return Entry::TEST_BYTE,
        (Map::Primary, 0xf7) if reg < 2 => return Entry::TEST_ZWORD,
        (Map::Primary, 0xf6 | 0xf7) => members(0xff, 0xff),
        (Map::Primary, 0xfe) => members(3, 3),
        (Map::Primary, 0xff) => match reg {
            2 | 4 => return Entry::MODRM_F64,
            6 => return Entry::MODRM_D64,
            _ => members(0x2b, 0x03),
        },
        (Map::Of, 0x00) => match prefix {
            // LKGS.
            Mandatory::F2 => members(0x7f, 0x7f),
            _ => members(0x3f, 0x3f),
        },
        (Map::Of, 0x01) if modrm.is_register() => {
            let known = SYSTEM_REGISTER_FORMS >> (modrm.0 & 63) & 1 != 0;
            members(0, if known { 0xff } else { 0 })
        }
        (Map::Of, 0x01) => match prefix {
            // RSTORSSP.
            Mandatory::F3 => members(0xff, 0),
            _ => members(0xdf, 0),
        },
        (Map::Of, 0x71 | 0x72) => members(0, 0x54),
        (Map::Of, 0x73) => match prefix {
            Mandatory::P66 => members(0, 0xcc),
            _ => members(0, 0x44),
        },
        (Map::Of, 0x78) => match prefix {
            Mandatory::None => return Entry::MODRM_F64,
            Mandatory::P66 if reg == 0 => return Entry::MODRM_TWO_BYTES,
            Mandatory::F2 => return Entry::MODRM_TWO_BYTES,
            _ => return Entry::UNDEFINED,
        },
        (Map::Of, 0x79) => match prefix {
            Mandatory::None => return Entry::MODRM_F64,
            Mandatory::F3 => return Entry::UNDEFINED,
            _ => members(0, 0xff),
        },
        (Map::Of, 0xae) => match prefix {
            Mandatory::None => members(0xff, 0xe0),
            Mandatory::P66 => members(0xc0, 0x40),
            Mandatory::F3 => members(0x50, 0x7f),
            Mandatory::F2 => members(0, 0x40),
        },
        (Map::Of, 0xba) => members(0xf0, 0xf0),
        (Map::Of, 0xc7) => match prefix {
            Mandatory::F3 => members(0x42, 0xc0),
            Mandatory::P66 => members(0x42, 0xc0),
            Mandatory::None => members(0xfa, 0xc0),
            Mandatory::F2 => members(0x02, 0),
        },
        // MOVBE knows no registers, CRC32 does.
        (Map::Of38, 0xf0 | 0xf1) => match prefix {
            Mandatory::F2 => members(0xff, 0xff),
            _ => members(0xff, 0),
        },
        _ => members(0xff, 0xff),
    };
    let set = if modrm.is_register() {
        exists.register
    } else {
        exists.memory
    };
    if set >> reg & 1 == 0 {
        return Entry::UNDEFINED;
    }
    entry
}

/// May this member of a lockable group be locked? (The entry of the opcode has
/// said that some may.)
pub(super) const fn member_may_lock(map: Map, opcode: u8, reg: u8) -> bool {
    match (map, opcode) {
        // All of group 1 but CMP.
        (Map::Primary, 0x80..=0x83) => reg != 7,
        // NOT and NEG.
        (Map::Primary, 0xf6 | 0xf7) => reg == 2 || reg == 3,
        // INC and DEC.
        (Map::Primary, 0xfe | 0xff) => reg < 2,
        // BTS, BTR and BTC.
        (Map::Of, 0xba) => reg > 4,
        // CMPXCHG8B.
        (Map::Of, 0xc7) => reg == 1,
        _ => true,
    }
}

/// Is this the last byte of a 3DNow! instruction?
pub(super) const fn is_3dnow(suffix: u8) -> bool {
    matches!(
        suffix,
        0x0c | 0x0d
            | 0x1c
            | 0x1d
            | 0x8a
            | 0x8e
            | 0x90
            | 0x94
            | 0x96
            | 0x97
            | 0x9a
            | 0x9e
            | 0xa0
            | 0xa4
            | 0xa6
            | 0xa7
            | 0xaa
            | 0xae
            | 0xb0
            | 0xb4
            | 0xb6
            | 0xb7
            | 0xbb
            | 0xbf
    )
}
