// SPDX-License-Identifier: GPL-2.0

//! Walks over hand-made tables. `model` below restates the rules one access
//! at a time; random tables must lead both to the same answer.

use super::*;
use std::collections::BTreeMap;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;

#[derive(Default, Clone)]
struct Ram {
    words: BTreeMap<u64, u64>,
    /// Fails that many compare-exchanges, changing nothing.
    interference: u32,
    reads: u32,
    holes: Vec<u64>,
}

impl GuestMemory for Ram {
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        assert_eq!(gpa.0 % 8, 0);
        self.reads += 1;
        if self.holes.contains(&gpa.page_base().0) {
            return None;
        }
        Some(self.words.get(&gpa.0).copied().unwrap_or(0))
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        if self.interference > 0 {
            self.interference -= 1;
            return Some(false);
        }
        let word = self.words.entry(gpa.0).or_insert(0);
        if *word != old {
            return Some(false);
        }
        *word = new;
        Some(true)
    }
}

impl Ram {
    fn put32(&mut self, at: u64, value: u32) {
        let word = self.words.entry(at & !7).or_insert(0);
        let shift = (at & 4) * 8;
        *word = *word & !(0xffff_ffff << shift) | (u64::from(value) << shift);
    }
}

fn long() -> Paging {
    Paging {
        cr0: Cr0::PE | Cr0::PG | Cr0::WP,
        cr3: 0x1000,
        cr4: Cr4::PAE,
        efer: Efer::LME | Efer::LMA | Efer::NXE,
        pkru: 0,
        pdptes: None,
        physical_bits: 40,
        gib_pages: true,
        reserves_global: true,
    }
}

/// Four levels at 0x1000..0x5000 that map 0x7000_4020_3000 to 0xabc000.
const GVA: Gva = Gva(0x7000_4060_3123);

fn four_levels(leaf: u64) -> Ram {
    let mut ram = Ram::default();
    ram.words.insert(0x1000 + 0xe0 * 8, 0x2000 | P | W | U);
    ram.words.insert(0x2000 + 8, 0x3000 | P | W | U);
    ram.words.insert(0x3000 + 3 * 8, 0x4000 | P | W | U);
    ram.words.insert(0x4000 + 3 * 8, leaf);
    ram
}

fn code(result: Result<Translation, WalkError>) -> u32 {
    match result {
        Err(WalkError::PageFault(error)) => error.0,
        other => panic!("not a page fault: {other:?}"),
    }
}

#[test]
fn no_paging() {
    let paging = Paging {
        cr0: Cr0::PE,
        ..long()
    };
    let got = walk(&mut Ram::default(), &paging, GVA, Access::WRITE).unwrap();
    assert_eq!(got.gpa.0, GVA.0);
}

#[test]
fn long_mode_small_page() {
    let mut ram = four_levels(0xabc000 | P | W | U);
    let got = walk(&mut ram, &long(), GVA, Access::READ.at_cpl(3)).unwrap();
    assert_eq!(got.gpa, Gpa(0xabc123));
    assert_eq!(got.page_shift, 12);
    assert!(got.writable && got.user && got.executable);
    assert_eq!(ram.reads, 4);
    let before = ram.words.clone();
    walk(&mut ram, &long(), GVA, Access::WRITE).unwrap();
    assert_eq!(ram.words, before, "nothing is marked unless asked");
}

#[test]
fn five_levels() {
    let mut ram = four_levels(0xabc000 | P);
    ram.words.insert(0x9000 + 8 * 0x1ff, 0x1000 | P | W | U);
    let mut paging = long();
    paging.cr4 |= Cr4::LA57;
    paging.cr3 = 0x9000 | 0x18;
    let gva = Gva(GVA.0 | 0xffff_0000_0000_0000);
    let got = walk(&mut ram, &paging, gva, Access::READ).unwrap();
    assert_eq!(got.gpa, Gpa(0xabc123));
    assert!(!got.writable && !got.user);
}

#[test]
fn large_pages() {
    let mut ram = four_levels(0);
    ram.words.insert(0x3018, 0x4060_0000 | PS | P | W);
    let got = walk(&mut ram, &long(), GVA, Access::WRITE).unwrap();
    assert_eq!((got.gpa, got.page_shift), (Gpa(0x4060_3123), 21));
    ram.words.insert(0x2008, 0x8000_0000 | PS | G | P);
    let got = walk(&mut ram, &long(), GVA, Access::READ).unwrap();
    assert_eq!((got.gpa, got.page_shift), (Gpa(0x8060_3123), 30));
    let mut paging = long();
    paging.gib_pages = false;
    assert_eq!(code(walk(&mut ram, &paging, GVA, Access::READ)), 9);
}

#[test]
fn reserved_bits_long() {
    let set = |level: u64, bits: u64, paging: &Paging| {
        let mut ram = four_levels(0xabc000 | P | W | U);
        let at = [0x1700, 0x2008, 0x3018, 0x4018][level as usize];
        *ram.words.get_mut(&at).unwrap() |= bits;
        walk(&mut ram, paging, GVA, Access::READ)
    };
    let mut plain = long();
    for level in 0..4 {
        assert_eq!(code(set(level, 1 << 40, &plain)), 9, "MAXPHYADDR");
        assert_eq!(code(set(level, 1 << 51, &plain)), 9);
        assert!(set(level, 1 << 52, &plain).is_ok(), "available");
        plain.efer = plain.efer.without(Efer::NXE);
        assert_eq!(code(set(level, NX, &plain)), 9, "NX without NXE");
        plain.efer |= Efer::NXE;
        assert!(set(level, NX, &plain).is_ok());
    }
    assert_eq!(code(set(0, PS, &plain)), 9);
    assert_eq!(code(set(0, G, &plain)), 9);
    assert_eq!(code(set(1, G, &plain)), 9);
    assert!(set(2, G, &plain).is_ok());
    plain.reserves_global = false;
    assert!(set(0, G, &plain).is_ok());
    assert_eq!(code(set(2, PS | 0x2000, &plain)), 9, "offset bits of 2 MiB");
    assert_eq!(code(set(1, PS | 0x2000, &plain)), 9, "offset bits of 1 GiB");
    plain.physical_bits = 60;
    assert!(set(3, 1 << 51, &plain).is_ok(), "never more than 52 bits");
}

#[test]
fn permissions() {
    let mut kernel_page = four_levels(0xabc000 | P | W);
    let mut user_page = four_levels(0xabc000 | P | U);
    let mut paging = long();
    let user = |access: Access| access.at_cpl(3);
    assert_eq!(
        code(walk(&mut kernel_page, &paging, GVA, user(Access::READ))),
        5
    );
    assert_eq!(
        code(walk(&mut kernel_page, &paging, GVA, user(Access::WRITE))),
        7
    );
    assert_eq!(
        code(walk(&mut kernel_page, &paging, GVA, user(Access::FETCH))),
        0x15
    );
    assert_eq!(code(walk(&mut user_page, &paging, GVA, Access::WRITE)), 3);
    paging.cr0 = paging.cr0.without(Cr0::WP);
    assert!(walk(&mut user_page, &paging, GVA, Access::WRITE).is_ok());
    assert_eq!(
        code(walk(&mut user_page, &paging, GVA, user(Access::WRITE))),
        7
    );
    assert!(walk(&mut user_page, &paging, GVA, Access::FETCH).is_ok());
    paging.cr4 |= Cr4::SMEP | Cr4::SMAP;
    assert_eq!(
        code(walk(&mut user_page, &paging, GVA, Access::FETCH)),
        0x11
    );
    assert!(walk(&mut user_page, &paging, GVA, user(Access::FETCH)).is_ok());
    assert_eq!(code(walk(&mut user_page, &paging, GVA, Access::READ)), 1);
    let stac = Access::READ.with_ac(true);
    assert!(walk(&mut user_page, &paging, GVA, stac).is_ok());
    assert!(walk(&mut kernel_page, &paging, GVA, Access::READ).is_ok());
}

#[test]
fn no_execute() {
    let mut ram = four_levels(0xabc000 | P | U | NX);
    let mut paging = long();
    assert_eq!(code(walk(&mut ram, &paging, GVA, Access::FETCH)), 0x11);
    assert!(
        !walk(&mut ram, &paging, GVA, Access::READ)
            .unwrap()
            .executable
    );
    // Without NX and SMEP a fetch is not reported as one.
    paging.efer = paging.efer.without(Efer::NXE);
    ram.words.insert(0x4018, 0);
    assert_eq!(code(walk(&mut ram, &paging, GVA, Access::FETCH)), 0);
    paging.cr4 |= Cr4::SMEP;
    assert_eq!(code(walk(&mut ram, &paging, GVA, Access::FETCH)), 0x10);
}

#[test]
fn protection_keys() {
    let key = 5_u64;
    let mut ram = four_levels(0xabc000 | P | W | U | (key << 59));
    let mut paging = long();
    paging.pkru = 1 << (2 * key);
    assert!(walk(&mut ram, &paging, GVA, Access::READ.at_cpl(3)).is_ok());
    paging.cr4 |= Cr4::PKE;
    assert_eq!(
        code(walk(&mut ram, &paging, GVA, Access::READ.at_cpl(3))),
        0x25
    );
    assert!(walk(&mut ram, &paging, GVA, Access::FETCH.at_cpl(3)).is_ok());
    paging.pkru = 2 << (2 * key);
    assert!(walk(&mut ram, &paging, GVA, Access::READ).is_ok());
    assert_eq!(code(walk(&mut ram, &paging, GVA, Access::WRITE)), 0x23);
    paging.cr0 = paging.cr0.without(Cr0::WP);
    assert!(walk(&mut ram, &paging, GVA, Access::WRITE).is_ok());
    let mut kernel_page = four_levels(0xabc000 | P | W | (key << 59));
    paging.pkru = u32::MAX;
    assert!(walk(&mut kernel_page, &paging, GVA, Access::WRITE).is_ok());
}

#[test]
fn marks_accessed_and_dirty() {
    let mut ram = four_levels(0xabc000 | P | W | U);
    walk(&mut ram, &long(), GVA, Access::READ.marking()).unwrap();
    for at in [0x1700, 0x2008, 0x3018, 0x4018] {
        assert_eq!(ram.words[&at] & (A | D), A, "{at:#x}");
    }
    walk(&mut ram, &long(), GVA, Access::WRITE.marking()).unwrap();
    assert_eq!(ram.words[&0x4018] & (A | D), A | D);
    assert_eq!(ram.words[&0x3018] & D, 0, "only the leaf gets dirty");
    let mut read_only = four_levels(0xabc000 | P | U);
    assert_eq!(
        code(walk(&mut read_only, &long(), GVA, Access::WRITE.marking())),
        3
    );
    assert_eq!(read_only.words[&0x4018] & D, 0, "a fault marks nothing");
}

#[test]
fn contention_ends() {
    let mut ram = four_levels(0xabc000 | P | W | U);
    ram.interference = 3;
    assert!(walk(&mut ram, &long(), GVA, Access::READ.marking()).is_ok());
    let mut ram = four_levels(0xabc000 | P | W | U);
    ram.interference = u32::MAX;
    assert_eq!(
        walk(&mut ram, &long(), GVA, Access::READ.marking()),
        Err(WalkError::Contended)
    );
}

#[test]
fn tables_outside_memory() {
    let mut ram = four_levels(0xabc000 | P);
    ram.holes = vec![0x3000];
    assert_eq!(
        walk(&mut ram, &long(), GVA, Access::READ),
        Err(WalkError::Memory(Gpa(0x3018)))
    );
}

#[test]
fn pae() {
    let mut ram = Ram::default();
    let mut paging = Paging {
        efer: Efer::NXE,
        cr3: 0x1_0000_1020,
        ..long()
    };
    ram.words.insert(0x1020 + 2 * 8, 0x3000 | P);
    ram.words.insert(0x3000 + 3 * 8, 0x4000 | P | W | U);
    ram.words
        .insert(0x4000 + 3 * 8, 0xab_0000_c000 | P | W | U | NX);
    let gva = Gva(0xffff_ffff_8060_3123);
    let got = walk(&mut ram, &paging, gva, Access::WRITE.at_cpl(3).marking()).unwrap();
    assert_eq!(got.gpa, Gpa(0xab_0000_c123));
    assert_eq!(ram.words[&0x1030], 0x3000 | P, "pointers have no A bit");
    assert_eq!(ram.words[&0x4018] & (A | D), A | D);
    assert_eq!(ram.words[&0x3018] & (A | D), A);

    // An emulated processor may have marked the pointer itself.
    ram.words.insert(0x1030, 0x3000 | P | A);
    assert!(walk(&mut ram, &paging, gva, Access::READ).is_ok());
    ram.words.insert(0x1030, 0x3000 | P | W);
    assert_eq!(code(walk(&mut ram, &paging, gva, Access::READ)), 9);
    paging.pdptes = Some([0, 0, 0x3000 | P, 0]);
    assert!(walk(&mut ram, &paging, gva, Access::READ).is_ok());
    let other = Gva(0x4060_3123);
    assert_eq!(code(walk(&mut ram, &paging, other, Access::READ)), 0);
    ram.words.insert(0x4018, 0xabc000 | P | (1 << 52));
    assert_eq!(code(walk(&mut ram, &paging, gva, Access::READ)), 9);
    ram.words.insert(0x3018, 0x20_0000 | P | PS);
    let got = walk(&mut ram, &paging, gva, Access::READ).unwrap();
    assert_eq!((got.gpa, got.page_shift), (Gpa(0x20_3123), 21));
}

#[test]
fn thirty_two_bit() {
    let mut ram = Ram::default();
    let mut paging = Paging {
        efer: Efer(0),
        cr4: Cr4(0),
        ..long()
    };
    ram.put32(0x1000 + 0x201 * 4, 0x4000 | 7);
    ram.put32(0x4000 + 0x203 * 4, 0xffff_f000 | 7);
    let gva = Gva(0x8060_3123);
    let got = walk(&mut ram, &paging, gva, Access::WRITE.at_cpl(3).marking()).unwrap();
    assert_eq!((got.gpa, got.page_shift), (Gpa(0xffff_f123), 12));
    assert_eq!(ram.read_u32(Gpa(0x1804)), Some(0x4000 | 0x27));
    assert_eq!(ram.read_u32(Gpa(0x480c)), Some(0xffff_f000 | 0x67));
    assert_eq!(ram.read_u32(Gpa(0x4808)), Some(0), "the neighbour stays");

    // PS means nothing without PSE.
    ram.put32(0x1804, 0x4000 | 0x87);
    assert_eq!(
        walk(&mut ram, &paging, gva, Access::READ).unwrap().gpa,
        Gpa(0xffff_f123)
    );
    paging.cr4 = Cr4::PSE;
    let got = walk(&mut ram, &paging, gva, Access::READ);
    assert_eq!(got.unwrap().gpa, Gpa(0x2_0020_3123));
    // Bits 20 to 13 are address bits 39 to 32.
    ram.put32(0x1804, 0xffc0_0000 | (0xab << 13) | 0x87);
    let got = walk(&mut ram, &paging, gva, Access::READ).unwrap();
    assert_eq!((got.gpa, got.page_shift), (Gpa(0xab_ffe0_3123), 22));
    paging.physical_bits = 39;
    assert_eq!(code(walk(&mut ram, &paging, gva, Access::READ)), 9);
    paging.physical_bits = 40;
    ram.put32(0x1804, 0xffe0_0000 | 0x87);
    assert_eq!(code(walk(&mut ram, &paging, gva, Access::READ)), 9);
}

/// The rules of long mode stated again, without regard for speed: first the
/// list of entries, then one rule after another.
fn model(ram: &Ram, paging: &Paging, gva: u64, access: Access) -> Result<u64, u32> {
    let base = u32::from(access.is_write()) * 2
        + u32::from(access.is_user()) * 4
        + u32::from(access.is_fetch() && (paging.efer.has(Efer::NXE) || paging.cr4.has(Cr4::SMEP)))
            * 16;
    let bit = |value: u64, n: u32| value >> n & 1 == 1;
    let mut at = paging.cr3 & 0xf_ffff_ffff_f000;
    let mut entries = vec![];
    let mut size = 0;
    for level in [4, 3, 2, 1] {
        let index = gva >> (12 + 9 * (level - 1)) & 0x1ff;
        let entry = ram.words.get(&(at + index * 8)).copied().unwrap_or(0);
        if !bit(entry, 0) {
            return Err(base);
        }
        let large = bit(entry, 7) && level > 1;
        let mut bad = (u32::from(paging.physical_bits)..52).any(|n| bit(entry, n));
        bad |= bit(entry, 63) && !paging.efer.has(Efer::NXE);
        bad |= large && level == 4;
        bad |= large && level == 3 && !paging.gib_pages;
        bad |= paging.reserves_global && bit(entry, 8) && level >= 3 && !large;
        bad |= paging.reserves_global && bit(entry, 8) && level == 4;
        bad |= large && (13..12 + 9 * (level - 1)).any(|n| bit(entry, n as u32));
        if bad {
            return Err(base | 9);
        }
        entries.push(entry);
        size = 12 + 9 * (level - 1);
        at = entry & 0xf_ffff_ffff_f000;
        if large {
            break;
        }
    }
    let every = |n| entries.iter().all(|&e| bit(e, n));
    let user = every(2);
    if access.is_user() && !user {
        return Err(base | 1);
    }
    if access.is_write() && !every(1) && (access.is_user() || paging.cr0.has(Cr0::WP)) {
        return Err(base | 1);
    }
    if access.is_fetch() && entries.iter().any(|&e| bit(e, 63)) {
        return Err(base | 1);
    }
    if !access.is_user() && user && access.is_fetch() && paging.cr4.has(Cr4::SMEP) {
        return Err(base | 1);
    }
    let lifted = access.with_ac(true) == access;
    if !access.is_user() && user && !access.is_fetch() && paging.cr4.has(Cr4::SMAP) && !lifted {
        return Err(base | 1);
    }
    let mask = (1_u64 << size) - 1;
    Ok(at & !mask | gva & mask)
}

#[test]
fn random_tables_agree_with_the_model() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut outcomes = BTreeMap::new();
    for _ in 0..20_000 {
        let mut ram = four_levels(0x1c_8040_0000 | P | W | U);
        for at in [0x1700, 0x2008, 0x3018, 0x4018] {
            let word = ram.words.get_mut(&at).unwrap();
            let chosen = random();
            if chosen & 3 == 0 {
                let weird = [P, W, U, PS, G, NX, 1 << 40, 0x2000, 1 << 58, A];
                *word ^= weird[(chosen >> 8) as usize % weird.len()];
                *word ^= weird[(chosen >> 16) as usize % weird.len()];
            }
        }
        let mut paging = long();
        let chosen = random();
        paging.cr0 = paging.cr0.assign(Cr0::WP, chosen & 1 != 0);
        paging.cr4 = paging.cr4.assign(Cr4::SMEP, chosen & 2 != 0);
        paging.cr4 = paging.cr4.assign(Cr4::SMAP, chosen & 4 != 0);
        paging.efer = paging.efer.assign(Efer::NXE, chosen & 0x18 != 0);
        paging.gib_pages = chosen & 0x20 != 0;
        paging.reserves_global = chosen & 0x40 != 0;
        let kinds = [Access::READ, Access::WRITE, Access::FETCH];
        let access = kinds[(chosen >> 8) as usize % 3]
            .at_cpl((chosen >> 16) as u8 & 3)
            .with_ac(chosen & 0x80 != 0);
        let expected = model(&ram, &paging, GVA.0, access);
        let got = match walk(&mut ram, &paging, GVA, access) {
            Ok(translation) => Ok(translation.gpa.0),
            Err(WalkError::PageFault(error)) => Err(error.0),
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(got, expected, "{paging:?} {access:?} {:x?}", ram.words);
        *outcomes.entry(got.err()).or_insert(0) += 1;
    }
    assert!(
        outcomes.len() > 10,
        "the walks were too alike: {outcomes:?}"
    );
}
