// SPDX-License-Identifier: GPL-2.0-or-later

//! The cases: the same source lines assembled for each mode.
//!
//! A line is made of parts, because the assembler's strings must be literals. `SI`, `DI`, `CX` and
//! `BX` stand for the registers of the mode's own width, `PTR` for the size of what a push moves.

use super::Case;
use ironvm_abi_tests::guest_code;

#[macro_use]
mod integer;
#[macro_use]
mod other;

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// Which flags are defined, by kind of instruction (APM volume 3).
const ALL: u64 = CF | PF | AF | ZF | SF | OF;
const ARITH: u64 = ALL;
const LOGIC: u64 = ALL & !AF;
const SHIFT: u64 = ALL & !AF;
const SHIFT_MANY: u64 = SHIFT & !OF;
const ROTATE: u64 = ALL;
const ROTATE_MANY: u64 = ALL & !OF;
const CARRY: u64 = CF;
const ZERO: u64 = ZF;
const CARRY_OVERFLOW: u64 = CF | OF;
const NONE: u64 = 0;

/// Makes the macro of a mode, which makes a case from lines.
macro_rules! mode {
    ($name:ident, $code:literal, $si:literal, $di:literal, $cx:literal, $bx:literal,
     $ptr:literal, $d:tt) => {
        macro_rules! $name {
                            (@part SI) => { $si };
                            (@part DI) => { $di };
                            (@part CX) => { $cx };
                            (@part BX) => { $bx };
                            (@part PTR) => { $ptr };
                            (@part $d part:literal) => { $d part };
                            ($d flags:ident $d name:literal: $d([$d($d part:tt)*]),+) => {
                                Case {
                                    name: $d name,
                                    flags: $d flags,
                                    code: guest_code!(
                                        @lines $code,
                                        [$d(concat!($d($name!(@part $d part)),*)),+, "out 0x10, al"]
                                    ),
                                }
                            };
                        }
    };
}

mode!(case16, ".code16", "si", "di", "cx", "bx", "word ptr", $);
mode!(case32, ".code32", "esi", "edi", "ecx", "ebx", "dword ptr", $);
mode!(case64, ".code64", "rsi", "rdi", "rcx", "rbx", "qword ptr", $);

macro_rules! lists {
    ($module:ident, $case:ident: $($list:ident)*) => {
        pub mod $module {
            use super::*;
            $(pub fn $list() -> Vec<Case> { $list!($case) })*
        }
    };
}

lists!(bits16, case16: moves arithmetic shifts bits exchanges strings others);
lists!(bits32, case32: moves arithmetic shifts bits exchanges strings others);
lists!(bits64, case64: moves arithmetic shifts bits exchanges strings others);

/// Operands of 64 bits and registers that only long mode has.
pub fn wide() -> Vec<Case> {
    vec![
        case64!(ARITH "add m64, r": ["add qword ptr [rsi], r8"]),
        case64!(ARITH "add r, m64": ["add r8, [rsi]"]),
        case64!(ARITH "add m64, imm": ["add qword ptr [rsi], -0x12345678"]),
        case64!(ARITH "adc m64, r": ["adc qword ptr [rsi], r8"]),
        case64!(ARITH "adc r, m64": ["adc r8, [rsi]"]),
        case64!(ARITH "adc m64, imm": ["adc qword ptr [rsi], -0x12345678"]),
        case64!(ARITH "sub m64, r": ["sub qword ptr [rsi], r8"]),
        case64!(ARITH "sub r, m64": ["sub r8, [rsi]"]),
        case64!(ARITH "sub m64, imm": ["sub qword ptr [rsi], -0x12345678"]),
        case64!(ARITH "sbb m64, r": ["sbb qword ptr [rsi], r8"]),
        case64!(ARITH "sbb r, m64": ["sbb r8, [rsi]"]),
        case64!(ARITH "sbb m64, imm": ["sbb qword ptr [rsi], -0x12345678"]),
        case64!(ARITH "cmp m64, r": ["cmp qword ptr [rsi], r8"]),
        case64!(ARITH "cmp r, m64": ["cmp r8, [rsi]"]),
        case64!(ARITH "cmp m64, imm": ["cmp qword ptr [rsi], -0x12345678"]),
        case64!(LOGIC "and m64, r": ["and qword ptr [rsi], r8"]),
        case64!(LOGIC "and r, m64": ["and r8, [rsi]"]),
        case64!(LOGIC "and m64, imm": ["and qword ptr [rsi], -0x12345678"]),
        case64!(LOGIC "or m64, r": ["or qword ptr [rsi], r8"]),
        case64!(LOGIC "or r, m64": ["or r8, [rsi]"]),
        case64!(LOGIC "or m64, imm": ["or qword ptr [rsi], -0x12345678"]),
        case64!(LOGIC "xor m64, r": ["xor qword ptr [rsi], r8"]),
        case64!(LOGIC "xor r, m64": ["xor r8, [rsi]"]),
        case64!(LOGIC "xor m64, imm": ["xor qword ptr [rsi], -0x12345678"]),
        case64!(ALL "mov m64, r": ["mov [rsi], r8"]),
        case64!(ALL "mov r, m64": ["mov r9, [rsi]"]),
        case64!(ALL "mov m64, imm": ["mov qword ptr [rsi], -5"]),
        case64!(ALL "mov m8, sil": ["mov r8, rsi"], ["and r8, 0xff"], ["mov [rsi], r8b"]),
        case64!(ALL "movzx r64, m8": ["movzx r8, byte ptr [rsi]"]),
        case64!(ALL "movzx r64, m16": ["movzx r8, word ptr [rsi]"]),
        case64!(ALL "movsx r64, m8": ["movsx r8, byte ptr [rsi]"]),
        case64!(ALL "movsx r64, m16": ["movsx r8, word ptr [rsi]"]),
        case64!(ALL "movsxd": ["movsxd r8, dword ptr [rsi]"]),
        case64!(LOGIC "test m64": ["test [rsi], r8"]),
        case64!(ARITH "inc m64": ["inc qword ptr [rsi]"]),
        case64!(ARITH "dec m64": ["dec qword ptr [rsi]"]),
        case64!(ARITH "neg m64": ["neg qword ptr [rsi]"]),
        case64!(ALL "not m64": ["not qword ptr [rsi]"]),
        case64!(ALL "xchg m64": ["xchg [rsi], r8"]),
        case64!(ARITH "xadd m64": ["xadd [rsi], r8"]),
        case64!(ARITH "cmpxchg m64 other": ["cmpxchg [rsi], r8"]),
        case64!(ARITH "cmpxchg m64 equal": ["mov rax, [rsi]"], ["lock cmpxchg [rsi], r8"]),
        case64!(CARRY "bts m64, r": ["mov ebx, 77"], ["bts [rsi], rbx"]),
        case64!(CARRY "bts m64, imm": ["bts qword ptr [rsi], 45"]),
        case64!(CARRY "btr m64 far": ["mov ebx, 1000"], ["btr [rsi], rbx"]),
        case64!(SHIFT_MANY "shl m64": ["shl qword ptr [rsi], 33"]),
        case64!(SHIFT_MANY "sar m64": ["sar qword ptr [rsi], cl"]),
        case64!(ROTATE_MANY "ror m64": ["ror qword ptr [rsi], 33"]),
        case64!(SHIFT_MANY "shld m64": ["shld [rsi], r8, 40"]),
        case64!(CARRY_OVERFLOW "mul m64": ["mul qword ptr [rsi]"]),
        case64!(CARRY_OVERFLOW "imul r, m64": ["imul r8, [rsi]"]),
        case64!(NONE "div m64": ["xor edx, edx"], ["div qword ptr [rsi]"]),
        case64!(ALL "stosq": ["stosq"]),
        case64!(ALL "rep stosq": ["mov ecx, 7"], ["rep stosq"]),
        case64!(ALL "rep movsq": ["mov ecx, 7"], ["rep movsq"]),
        case64!(ALL "lodsq": ["lodsq"]),
        case64!(ARITH "cmpsq": ["cmpsq"]),
        case64!(ARITH "scasq": ["scasq"]),
        case64!(ZERO "bsf r64": ["bsf r8, [rsi]"]),
        case64!(ALL "cmovz r64": ["xor eax, eax"], ["cmovz r8, [rsi]"]),
        case64!(ALL "mov with index": ["mov r8d, 6"], ["mov eax, [rsi + 8 * r8 + 3]"]),
        case64!(ARITH "add with 32-bit address": ["add dword ptr [esi + 4], ebx"]),
        case64!(ALL "rep stosd with 32-bit address": ["mov ecx, 5"], ["rep stosd dword ptr es:[edi], eax"]),
        case64!(ALL "movnti m64": ["movnti [rsi], r8"]),
    ]
}
