// SPDX-License-Identifier: GPL-2.0

//! No bytes and no state make the decoder or the emulator panic, run on
//! without end, or go back on its word. Overflow checks are on here as they
//! are in the kernel.

#[path = "support/machine.rs"]
mod machine;

use ironvm_pc::pc::decode::{decode, MAX_LENGTH};
use ironvm_pc::pc::emulate::{emulate, fetch, AccessLog, Outcome};
use ironvm_pc::pc::regs::{Attributes, CpuMode, Gprs, Rflags, SegReg, Segment};
use machine::{Machine, Waits};
use proptest::prelude::*;

const BASE: u64 = 0;
const SIZE: usize = 0x1_0000;

fn modes() -> impl Strategy<Value = CpuMode> {
    prop::sample::select(vec![
        CpuMode::Real,
        CpuMode::Vm86,
        CpuMode::Prot16,
        CpuMode::Prot32,
        CpuMode::Compat16,
        CpuMode::Compat32,
        CpuMode::Long64,
    ])
}

fn cases(many: u32) -> ProptestConfig {
    // Miri is some thousand times slower.
    ProptestConfig {
        cases: if cfg!(miri) { 40 } else { many },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Registers that mostly point into memory.
fn registers() -> impl Strategy<Value = [u64; 16]> {
    let value = prop_oneof![
        6 => 0..(SIZE as u64 - 64),
        1 => any::<u64>(),
        1 => (0_u64..64).prop_map(|low| low.wrapping_sub(32)),
    ];
    prop::array::uniform16(value)
}

/// Bytes that are often prefixed, escaped and repeated as programs do it.
fn instructions() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(vec![
        &[][..],
        &[0x66],
        &[0x67],
        &[0xf3],
        &[0xf2],
        &[0xf0],
        &[0x48],
        &[0x65],
        &[0x0f],
        &[0x66, 0x0f],
        &[0xf3, 0x0f],
        &[0x48, 0x0f],
        &[0x0f, 0x38],
    ]);
    (prefix, prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(prefix, rest)| {
        let mut bytes = prefix.to_vec();
        bytes.extend(rest);
        bytes
    })
}

fn segment() -> impl Strategy<Value = Segment> {
    let attributes = prop_oneof![
        3 => Just(Attributes::DATA32),
        1 => Just(Attributes::DATA16),
        1 => any::<u16>().prop_map(Attributes),
    ];
    let limit = prop_oneof![3 => Just(u32::MAX), 1 => any::<u32>(), 1 => Just(0xffff)];
    let base = prop_oneof![4 => Just(0_u64), 1 => any::<u64>()];
    (attributes, limit, base).prop_map(|(attributes, limit, base)| Segment {
        base,
        limit,
        selector: 8,
        attributes,
    })
}

/// Does everything the machine would touch exist? Its memory ends, where a
/// real one's translation would fault.
fn confine(machine: &mut Machine) {
    machine.confined = true;
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn decoding_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..24), mode in modes()) {
        if let Ok(insn) = decode(&bytes, mode) {
            let length = usize::from(insn.length);
            prop_assert!((1..=MAX_LENGTH).contains(&length) && length <= bytes.len());
            prop_assert_eq!(decode(&bytes[..length], mode), Ok(insn));
        }
    }

    #[test]
    fn emulating_any_bytes(
        bytes in instructions(),
        mode in modes(),
        registers in registers(),
        segments in prop::array::uniform6(segment()),
        flags in any::<u64>(),
        cpl in 0_u8..4,
        waits in any::<u64>(),
        flaky in any::<bool>(),
    ) {
        let mut machine = Machine::long(BASE, SIZE);
        machine.set_mode(mode);
        machine.gprs = Gprs(registers);
        for (at, segment) in segments.iter().enumerate() {
            if at != SegReg::Cs as usize {
                machine.segments.0[at] = *segment;
            }
        }
        machine.rflags = Rflags(flags);
        machine.cpl = cpl;
        machine.waits = Waits::Sometimes(waits);
        machine.flaky = flaky;
        machine.device_at = 0x8000..0xa000;
        confine(&mut machine);
        let Ok(insn) = decode(&bytes, mode) else {
            return Ok(());
        };
        let before = machine.clone();
        let mut log = AccessLog::new();
        for _ in 0..600 {
            match emulate(&mut machine, &insn, &mut log) {
                Outcome::NeedsMmio(mmio) => {
                    prop_assert!((1..=8).contains(&mmio.len));
                    let data = machine.serve_mmio(mmio);
                    log.complete(data);
                }
                Outcome::NeedsPio(pio) => {
                    prop_assert!(matches!(pio.size, 1 | 2 | 4) && pio.count > 0);
                    let data = machine.serve_pio(pio);
                    log.complete(data);
                }
                Outcome::Repeat => {}
                Outcome::Done => return Ok(()),
                Outcome::Fault(fault) => {
                    prop_assert_eq!(fault.error_code.is_some(), fault.vector.has_error_code());
                    prop_assert_eq!(machine.rip, before.rip);
                    if !insn.prefixes.repeats() {
                        prop_assert_eq!(machine.gprs, before.gprs);
                        prop_assert_eq!(machine.xmm, before.xmm);
                    }
                    return Ok(());
                }
                Outcome::Unhandleable => {
                    prop_assert!(machine.visible() == before.visible());
                    return Ok(());
                }
            }
        }
        // Only a repetition with a large count may take that long.
        prop_assert!(insn.prefixes.repeats());
    }

    #[test]
    fn fetching_anywhere(
        code in prop::collection::vec(any::<u8>(), 16),
        rip in prop_oneof![0_u64..(SIZE as u64 - 32), any::<u64>()],
        mode in modes(),
        limit in prop_oneof![Just(u32::MAX), any::<u32>(), 0_u32..0x2000],
        unmapped in 0_u64..16,
    ) {
        let mut machine = Machine::long(BASE, SIZE);
        machine.set_mode(mode);
        confine(&mut machine);
        machine.segments.get_mut(SegReg::Cs).limit = limit;
        machine.rip = rip;
        machine.unmapped.push(unmapped << 12);
        if rip < SIZE as u64 - 16 {
            machine.put(rip, &code);
        }
        if let Ok(fetched) = fetch(&mut machine) {
            if let Ok(insn) = fetched.insn {
                prop_assert!(usize::from(insn.length) <= fetched.bytes().len());
                prop_assert_eq!(decode(fetched.bytes(), mode), Ok(insn));
            }
        }
    }
}
