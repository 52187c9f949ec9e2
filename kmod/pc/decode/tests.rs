// SPDX-License-Identifier: GPL-2.0

//! Instructions by hand. The whole space is compared with another decoder in
//! `tests/decode.rs`.

use super::*;
use DecodeError::{Invalid, TooLong, TooShort};

fn long(bytes: &[u8]) -> Insn {
    decode(bytes, CpuMode::Long64).unwrap()
}

#[test]
fn what_exits() {
    for (bytes, length) in [
        (&[0x0f, 0xa2][..], 2),               // cpuid
        (&[0x0f, 0x30], 2),                   // wrmsr
        (&[0x0f, 0x32], 2),                   // rdmsr
        (&[0xf4], 1),                         // hlt
        (&[0x0f, 0x01, 0xd9], 3),             // vmmcall
        (&[0x0f, 0x01, 0xc1], 3),             // vmcall
        (&[0x41, 0x0f, 0x22, 0xc0], 4),       // mov cr0, r8
        (&[0x0f, 0x23, 0xf8], 3),             // mov dr7, rax
        (&[0x0f, 0x01, 0x7c, 0x24, 0x08], 5), // invlpg [rsp+8]
        (&[0x0f, 0x06], 2),                   // clts
        (&[0x0f, 0x01, 0xf0], 3),             // lmsw ax
        (&[0x0f, 0x09], 2),                   // wbinvd
        (&[0xf3, 0x0f, 0x09], 3),             // wbnoinvd
        (&[0x0f, 0x01, 0xd1], 3),             // xsetbv
        (&[0xcd, 0x80], 2),                   // int 0x80
        (&[0x0f, 0x31], 2),                   // rdtsc
        (&[0x0f, 0x33], 2),                   // rdpmc
        (&[0xf3, 0x90], 2),                   // pause
        (&[0xe4, 0x60], 2),                   // in al, 0x60
        (&[0xef], 1),                         // out dx, eax
        (&[0xf3, 0x6c], 2),                   // rep insb
        (&[0x48, 0x0f, 0xa2], 3),             // rex.w cpuid
        (&[0x66, 0x0f, 0x38, 0x82, 0x00], 5), // invpcid
        (&[0x0f, 0x18, 0x05, 1, 2, 3, 4], 7), // prefetchnta
    ] {
        let mut padded = [0x90; 15];
        padded[..bytes.len()].copy_from_slice(bytes);
        assert_eq!(long(&padded).length, length, "{bytes:x?}");
        assert_eq!(long(bytes).length, length, "{bytes:x?}");
        for short in 0..bytes.len() {
            assert_eq!(decode(&bytes[..short], CpuMode::Long64), Err(TooShort));
        }
    }
}

#[test]
fn the_fast_path_gives_what_the_slow_one_gives() {
    for mode in [CpuMode::Real, CpuMode::Prot32, CpuMode::Long64] {
        let mut fast = 0;
        for opcode in 0..=255 {
            if tables::is_plain(opcode) {
                fast += 1;
                let bytes = [0x0f, opcode];
                assert_eq!(Ok(parse::plain(opcode, mode)), parse::decode(&bytes, mode));
            }
        }
        assert_eq!(fast, 9);
    }
}

#[test]
fn the_cache_forgets_nothing_that_matters() {
    let mut cache = DecodeCache::new();
    let mov = [0x8b, 0x03, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90];
    for _ in 0..2 {
        for mode in [CpuMode::Long64, CpuMode::Prot16] {
            for len in 1..mov.len() {
                for last in [0x90, 0x91] {
                    let mut bytes = mov;
                    bytes[len - 1] ^= last;
                    let bytes = &bytes[..len];
                    assert_eq!(cache.decode(7, bytes, mode), decode(bytes, mode));
                    assert_eq!(cache.decode(7, bytes, mode), decode(bytes, mode));
                }
            }
        }
    }
}

#[test]
fn operands() {
    // mov dword ptr fs:[rax + r9*4 + 0x12345678], 0x9abcdef0
    let insn = long(&[
        0x64, 0x42, 0xc7, 0x84, 0x88, 0x78, 0x56, 0x34, 0x12, 0xf0, 0xde, 0xbc, 0x9a,
    ]);
    assert_eq!(insn.length, 13);
    assert_eq!(insn.memory.base, Some(Reg::Rax));
    assert_eq!(insn.memory.index, Some(Reg::R9));
    assert_eq!(insn.memory.scale, 2);
    assert_eq!(insn.memory.disp, 0x1234_5678);
    assert_eq!(insn.memory.segment, SegReg::Fs);
    assert_eq!(insn.imm as u32, 0x9abc_def0);
    assert_eq!(insn.operand_size, 4);
    // movabs al, [0x1122334455667788]
    let insn = long(&[0xa0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    assert!(insn.has_memory());
    assert_eq!(insn.memory.disp, 0x1122_3344_5566_7788);
    // mov rax, imm64
    let insn = long(&[0x49, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((insn.length, insn.opcode_reg()), (10, Reg::R8));
    assert_eq!(insn.imm, 0x0807_0605_0403_0201);
    // mov [rip - 1], al
    let insn = long(&[0x88, 0x05, 0xff, 0xff, 0xff, 0xff]);
    assert!(insn.memory.rip_relative && insn.memory.base.is_none());
    assert_eq!(insn.memory.disp, u64::MAX);
    // mov [bp+si-2], ax in 16-bit code
    let insn = decode(&[0x89, 0x42, 0xfe], CpuMode::Real).unwrap();
    assert_eq!(insn.memory.segment, SegReg::Ss);
    assert_eq!(insn.memory.base, Some(Reg::Rbp));
    assert_eq!(insn.memory.index, Some(Reg::Rsi));
    assert_eq!((insn.operand_size, insn.address_size), (2, 2));
    // enter 0x1234, 5
    let insn = long(&[0xc8, 0x34, 0x12, 0x05]);
    assert_eq!((insn.imm, insn.imm2), (0x1234, 5));
    // jmp far 0x1234:0x56789abc
    let insn = decode(&[0xea, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12], CpuMode::Prot32).unwrap();
    assert_eq!((insn.imm, insn.imm2), (0x5678_9abc, 0x1234));
}

#[test]
fn prefixes() {
    // REX counts only right before the opcode.
    assert_eq!(long(&[0x48, 0x66, 0x89, 0x00]).operand_size, 2);
    assert_eq!(long(&[0x66, 0x48, 0x89, 0x00]).operand_size, 8);
    // The last of F2 and F3 counts.
    let insn = long(&[0xf2, 0xf3, 0xa4]);
    assert!(insn.prefixes.has(Prefixes::REP) && !insn.prefixes.has(Prefixes::REPNE));
    // In 64-bit code ES, CS, SS and DS prefixes do nothing.
    assert_eq!(long(&[0x65, 0x2e, 0x8b, 0x00]).memory.segment, SegReg::Gs);
    let insn = decode(&[0x65, 0x2e, 0x8b, 0x00], CpuMode::Prot32).unwrap();
    assert_eq!(insn.memory.segment, SegReg::Cs);
    // A RIP-relative operand has no 16-bit form.
    assert_eq!(long(&[0x67, 0x8b, 0x05, 0, 0, 0, 0]).address_size, 4);
}

#[test]
fn refusals() {
    let refused: [&[u8]; 13] = [
        &[0x06],                               // push es
        &[0xf0, 0x90],                         // lock nop
        &[0xf0, 0x01, 0xc0],                   // lock add with registers
        &[0xf0, 0x83, 0x38, 0x00],             // lock cmp
        &[0xf0, 0x8b, 0x00],                   // lock mov
        &[0x0f, 0x04],                         // nothing
        &[0xff, 0xf8],                         // group 5, /7
        &[0x8d, 0xc0],                         // lea with a register
        &[0xd5, 0x10],                         // REX2: AAD does not exist in 64-bit code
        &[0x66, 0xc5, 0xf8, 0x77],             // 66 before VEX
        &[0x48, 0xc5, 0xf8, 0x77],             // REX before VEX
        &[0x62, 0xf4, 0x7c, 0x08, 0x01, 0xc0], // EVEX map 4: APX
        &[0x0f, 0x0f, 0xc0, 0x00],             // 3DNow! without such a suffix
    ];
    for bytes in refused {
        assert_eq!(decode(bytes, CpuMode::Long64), Err(Invalid), "{bytes:x?}");
    }
    assert_eq!(
        decode(&[0xc5, 0xf8, 0x77], CpuMode::Real),
        Err(Invalid),
        "no VEX in real mode"
    );
    assert_eq!(decode(&[0xc5, 0x18], CpuMode::Real).unwrap().length, 2);
}

#[test]
fn length_limit() {
    let mut bytes = [0x66; 20];
    bytes[14] = 0x90;
    assert_eq!(long(&bytes).length, 15);
    bytes[14] = 0x66;
    bytes[15] = 0x90;
    assert_eq!(decode(&bytes, CpuMode::Long64), Err(TooLong));
    assert_eq!(decode(&bytes[..15], CpuMode::Long64), Err(TooLong));
    assert_eq!(decode(&bytes[..14], CpuMode::Long64), Err(TooShort));
    assert_eq!(decode(&[], CpuMode::Long64), Err(TooShort));
    // The limit falls inside the immediate.
    let mut bytes = [0x66; 15];
    bytes[12] = 0x0f;
    bytes[13] = 0x80;
    assert_eq!(decode(&bytes, CpuMode::Long64), Err(TooLong));
}
