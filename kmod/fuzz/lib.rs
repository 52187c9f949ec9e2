// SPDX-License-Identifier: GPL-2.0

//! What the fuzzers do with bytes of anyone's choice.

#[path = "../tests/support/machine.rs"]
pub mod machine;

use iced_x86::{Decoder, DecoderOptions};
use ironvm_pc::pc::addr::{Gpa, Gva};
use ironvm_pc::pc::decode::{decode, DecodeCache, Encoding, Map, MAX_LENGTH};
use ironvm_pc::pc::emulate::{emulate, fetch, simple_move, AccessLog, Outcome};
use ironvm_pc::pc::regs::{Attributes, CpuMode, Cr0, Cr4, Efer, Reg, Rflags, Segment};
use ironvm_pc::pc::walk::{walk, Access, GuestMemory, Paging};
use machine::{Machine, Waits};

const MODES: [CpuMode; 7] = [
    CpuMode::Real,
    CpuMode::Vm86,
    CpuMode::Prot16,
    CpuMode::Prot32,
    CpuMode::Compat16,
    CpuMode::Compat32,
    CpuMode::Long64,
];

/// Input taken from the front; zeros when it is used up.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    fn mode(&mut self) -> CpuMode {
        MODES[usize::from(self.byte()) % MODES.len()]
    }
}

/// Decoding: length within bounds, independent of what follows, the same from
/// the cache, and the same as iced's where both know the instruction.
pub fn decoding(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.mode();
    let bytes = input.0;
    let mut cache = DecodeCache::new();
    let result = decode(bytes, mode);
    assert_eq!(cache.decode(1, bytes, mode), result);
    assert_eq!(cache.decode(1, bytes, mode), result);
    let Ok(insn) = result else {
        return;
    };
    let length = usize::from(insn.length);
    assert!((1..=MAX_LENGTH.min(bytes.len())).contains(&length));
    assert_eq!(decode(&bytes[..length], mode), Ok(insn));
    assert!(decode(&bytes[..length - 1], mode).is_err());
    let theirs = Decoder::new(
        u32::from(mode.address_size()) * 8,
        bytes,
        DecoderOptions::NONE,
    )
    .decode();
    if !theirs.is_invalid() && insn.map != Map::Amd3dNow {
        assert_eq!(length, theirs.len(), "{:02x?}", &bytes[..length]);
    }
    assert!(insn.encoding == Encoding::Legacy || !mode.is_real_or_vm86());
}

/// Emulation of any instruction in any state: it ends, in few steps or as a
/// repetition, and faults leave no trace.
pub fn emulation(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.mode();
    let mut machine = Machine::long(0, 0x1_0000);
    machine.set_mode(mode);
    machine.confined = true;
    machine.device_at = 0x8000..0xa000;
    machine.cpl = input.byte() & 3;
    machine.waits = Waits::Sometimes(input.word());
    machine.flaky = input.byte() & 1 != 0;
    machine.rflags = Rflags(input.word());
    for reg in Reg::ALL {
        let value = input.word();
        // Mostly where memory is.
        let value = if value & 7 == 0 {
            value
        } else {
            value & 0xffff
        };
        machine.gprs.set(reg, value);
    }
    for at in [0, 2, 3, 4, 5, 7] {
        if input.byte() & 3 == 0 {
            machine.segments.0[at] = Segment {
                base: input.word(),
                limit: input.word() as u32,
                selector: 8,
                attributes: Attributes(input.word() as u16),
            };
        }
    }
    let Ok(insn) = decode(input.0, mode) else {
        return;
    };
    let address = machine.reg(Reg::Rbx);
    let _ = simple_move(&insn, &machine.gprs, Gpa(address), address & 0xfff);
    let before = machine.clone();
    let mut log = AccessLog::new();
    for _ in 0..2000 {
        match emulate(&mut machine, &insn, &mut log) {
            Outcome::NeedsMmio(mmio) => {
                let data = machine.serve_mmio(mmio);
                log.complete(data);
            }
            Outcome::NeedsPio(pio) => {
                let data = machine.serve_pio(pio);
                log.complete(data);
            }
            Outcome::Repeat => {}
            Outcome::Done => return,
            Outcome::Fault(fault) => {
                assert_eq!(fault.error_code.is_some(), fault.vector.has_error_code());
                assert_eq!(machine.rip, before.rip);
                if !insn.prefixes.repeats() {
                    assert_eq!(machine.gprs, before.gprs);
                }
                return;
            }
            Outcome::Unhandleable => {
                assert!(machine.visible() == before.visible());
                return;
            }
        }
    }
    assert!(insn.prefixes.repeats(), "no end: {insn:?}");
}

/// Fetching from anywhere.
pub fn fetching(data: &[u8]) {
    let mut input = Input(data);
    let mut machine = Machine::long(0, 0x3000);
    machine.set_mode(input.mode());
    machine.confined = true;
    machine.segments.0[1].limit = input.word() as u32;
    machine.segments.0[1].base = u64::from(input.byte());
    machine.rip = input.word()
        & if input.byte() & 7 == 0 {
            u64::MAX
        } else {
            0x2fff
        };
    let len = input.0.len().min(0x3000);
    machine.put(0, &input.0[..len]);
    if let Ok(fetched) = fetch(&mut machine) {
        if let Ok(insn) = fetched.insn {
            assert!(usize::from(insn.length) <= fetched.bytes().len());
        }
    }
}

/// Tables whose every entry is of the guest's choice.
struct Tables<'a>(Input<'a>);

impl GuestMemory for Tables<'_> {
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        assert_eq!(gpa.0 % 8, 0);
        let word = self.0.word();
        // Present more often than not.
        (word & 0xff00 != 0xff00).then_some(word | u64::from(word & 0x1000 == 0))
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, _old: u64, _new: u64) -> Option<bool> {
        assert_eq!(gpa.0 % 8, 0);
        match self.0.byte() {
            0 => None,
            byte => Some(byte & 1 != 0),
        }
    }
}

/// Walks over any tables end, within the processor's physical addresses.
pub fn walking(data: &[u8]) {
    let mut input = Input(data);
    let paging = Paging {
        cr0: Cr0(input.word()),
        cr3: input.word(),
        cr4: Cr4(input.word()),
        efer: Efer(input.word()),
        pkru: input.word() as u32,
        pdptes: (input.byte() & 1 != 0).then(|| [0; 4].map(|_: u64| input.word())),
        physical_bits: input.byte(),
        gib_pages: input.byte() & 1 != 0,
        reserves_global: input.byte() & 1 != 0,
    };
    let kinds = [Access::READ, Access::WRITE, Access::FETCH];
    let mut access = kinds[usize::from(input.byte()) % 3]
        .at_cpl(input.byte() & 3)
        .with_ac(input.byte() & 1 != 0);
    if input.byte() & 1 != 0 {
        access = access.marking();
    }
    let gva = Gva(input.word());
    let _ = walk(&mut Tables(input), &paging, gva, access);
}

/// Everything.
pub fn all(data: &[u8]) {
    decoding(data);
    emulation(data);
    fetching(data);
    walking(data);
}
