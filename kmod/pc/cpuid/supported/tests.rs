// SPDX-License-Identifier: GPL-2.0

use super::super::xsave::tests::host as xsave_host;
use super::*;
use proptest::prelude::*;

fn answer(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Answer {
    Answer { eax, ebx, ecx, edx }
}

fn text(bytes: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*bytes)
}

/// A Zen 4 with everything switched on that a table can switch on.
pub fn amd(leaf: u32, index: u32) -> Answer {
    match (leaf, index) {
        (0, _) => answer(0x10, text(b"Auth"), text(b"cAMD"), text(b"enti")),
        (1, _) => answer(0x00a1_0f11, 0x0110_0800, !0, !0),
        (2..=4, _) => Answer::ZERO,
        (7, 0) => answer(1, !0, !0, !0),
        (7, 1) => answer(!0, !0, !0, !0),
        (0xb, _) => answer(1, 2, 0x100, 3),
        (0xd, _) => xsave_host(leaf, index),
        (0x8000_0000, _) => answer(0x8000_0028, text(b"Auth"), text(b"cAMD"), text(b"enti")),
        (0x8000_0001, _) => answer(0x00a1_0f11, 0x4fff_1234, !0, !0),
        (0x8000_0002..=0x8000_0004, _) => answer(leaf, 1, 2, 3),
        (0x8000_0008, _) => answer(0x0034_3934, !0, 0x0000_701f, 0x0001_0007),
        (0x8000_001d, 0..=3) => answer(0x121 + index, 1, 2, 3),
        (0x8000_001d, _) => Answer::ZERO,
        (0x8000_0005..=0x8000_0028, _) => answer(!0, !0, !0, !0),
        _ => Answer::ZERO,
    }
}

/// A Sapphire Rapids, likewise.
pub fn intel(leaf: u32, index: u32) -> Answer {
    match (leaf, index) {
        (0, _) => answer(0x20, text(b"Genu"), text(b"ntel"), text(b"ineI")),
        (1, _) => answer(0x000806f8, 0x0110_0800, !0, !0),
        (2, _) => answer(0x00fe_ff01, 0xf0, 0, 0),
        (4, 0..=3) => answer(0x121 + index, 1, 2, 3),
        (4, _) => Answer::ZERO,
        (7, 0) => answer(2, !0, !0, !0),
        (7, 1 | 2) => answer(!0, !0, !0, !0),
        (0xd, _) => xsave_host(leaf, index),
        (0x8000_0000, _) => answer(0x8000_0008, 0, 0, 0),
        (0x8000_0001, _) => answer(0, 0, 0x121, 0x2c10_0800),
        (0x8000_0002..=0x8000_0004, _) => answer(leaf, 1, 2, 3),
        (0x8000_0006, _) => answer(0, 0, 0x0800_7040, 0),
        (0x8000_0007, _) => answer(0, 0, 0, 0x100),
        (0x8000_0008, _) => answer(0x0000_392e, 0x200, 0, 0),
        (1..=0x20, _) => answer(!0, !0, !0, !0),
        _ => Answer::ZERO,
    }
}

pub fn restrictions() -> Restrictions {
    Restrictions {
        withheld: FeatureSet::EMPTY,
        xcr0: u64::MAX,
        addressable_bits: 48,
    }
}

fn list(host: &impl Fn(u32, u32) -> Answer, restrictions: &Restrictions) -> Vec<kvm_cpuid_entry2> {
    let platform = Platform::new(host, restrictions);
    let mut entries = vec![kvm_cpuid_entry2::default(); 256];
    let count = supported(host, &platform, &mut entries).unwrap();
    entries.truncate(count);
    entries
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
    entries
        .iter()
        .find(|entry| entry.function == function && entry.index == index)
        .copied()
}

#[test]
fn vendors_are_told_by_their_names() {
    assert_eq!(Vendor::of_leaf0(&amd(0, 0)), Vendor::Amd);
    assert_eq!(Vendor::of_leaf0(&intel(0, 0)), Vendor::Intel);
    let hygon = answer(0, text(b"Hygo"), text(b"uine"), text(b"nGen"));
    assert_eq!(Vendor::of_leaf0(&hygon), Vendor::Amd);
    assert_eq!(Vendor::of_leaf0(&Answer::ZERO), Vendor::Intel);
}

#[test]
fn the_list_fits_small_buffers_and_refuses_smaller_ones() {
    let platform = Platform::new(&amd, &restrictions());
    let full = list(&amd, &restrictions()).len();
    assert!(full <= 100, "kvmtool has room for 100, not {full}");
    for room in [0, 1, full - 1] {
        let mut entries = vec![kvm_cpuid_entry2::default(); room];
        assert_eq!(supported(&amd, &platform, &mut entries), Err(E2BIG));
    }
    let mut entries = vec![kvm_cpuid_entry2::default(); full];
    assert_eq!(supported(&amd, &platform, &mut entries), Ok(full));
    assert!(list(&intel, &restrictions()).len() <= 100);
}

#[test]
fn entries_are_unique_and_say_when_the_subleaf_counts() {
    for entries in [list(&amd, &restrictions()), list(&intel, &restrictions())] {
        for (at, entry) in entries.iter().enumerate() {
            let twins = entries[..at]
                .iter()
                .filter(|other| (other.function, other.index) == (entry.function, entry.index));
            assert_eq!(twins.count(), 0, "{entry:?}");
            let indexed = matches!(entry.function, 4 | 7 | 0xd | 0x8000_001d);
            assert_eq!(
                entry.flags == KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                indexed,
                "{entry:?}"
            );
        }
    }
}

#[test]
fn a_processor_with_all_bits_gives_only_known_ones() {
    for host in [amd as fn(u32, u32) -> Answer, intel] {
        let entries = list(&host, &restrictions());
        let leaf1 = find(&entries, 1, 0).unwrap();
        assert_eq!(leaf1.ecx, Word::Leaf1Ecx.info().given | 0x8120_0000);
        assert_eq!(leaf1.ecx & Feature::VMX.mask(), 0);
        assert_eq!(leaf1.ecx & Feature::OSXSAVE.mask(), 0);
        assert_eq!(leaf1.edx & Feature::HTT.mask(), 0);
        assert_eq!(leaf1.ebx, 0x0800);
        let leaf7 = find(&entries, 7, 0).unwrap();
        assert_eq!(leaf7.ebx & Feature::SGX.mask(), 0);
        assert_ne!(leaf7.ebx & Feature::TSC_ADJUST.mask(), 0);
        assert_eq!(leaf7.edx & Feature::AMX_TILE.mask(), 0);
        assert_eq!(find(&entries, 6, 0).unwrap().eax, 4);
        assert!(find(&entries, 0xa, 0).is_none());
        assert!(find(&entries, 0x8000_0022, 0).is_none());
    }
}

#[test]
fn amd_has_what_only_amd_has() {
    let entries = list(&amd, &restrictions());
    let features = find(&entries, 0x8000_0001, 0).unwrap();
    assert_eq!(features.ecx & Feature::SVM.mask(), 0);
    assert_ne!(features.ecx & Feature::TOPOEXT.mask(), 0);
    assert_eq!(features.ebx, 0x4000_1234);
    assert_eq!(find(&entries, 0x8000_0000, 0).unwrap().eax, 0x8000_0022);
    assert!(find(&entries, 0x8000_000a, 0).is_none());
    assert!(find(&entries, 0x8000_001d, 4).is_some_and(|last| last.eax == 0));
    assert!(find(&entries, 0x8000_001d, 5).is_none());
    assert!(find(&entries, 0x8000_001e, 0).is_none());
    let leaf7 = find(&entries, 7, 0).unwrap();
    assert_eq!(leaf7.eax, 1);
    assert_eq!(leaf7.edx & Feature::ARCH_CAPABILITIES.mask(), 0);
    assert!(find(&entries, 4, 0).is_none());
    let sizes = find(&entries, 0x8000_0008, 0).unwrap();
    assert_eq!(
        sizes.eax, 0x0030_3934,
        "52 bits, 57 linear, 48 to be mapped"
    );
    assert_ne!(sizes.ebx & Feature::EFER_LMSLE_MBZ.mask(), 0);
}

#[test]
fn an_older_amd_gets_the_leaf_that_says_lfence_serializes() {
    for (last, expected) in [(0x8000_001e, 0x8000_0021), (0x8000_001a, 0x8000_001a)] {
        let host = |leaf: u32, index: u32| match leaf {
            0x8000_0000 => answer(last, 0, 0, 0),
            0x8000_001f.. => Answer::ZERO,
            _ => amd(leaf, index),
        };
        let entries = list(&host, &restrictions());
        assert_eq!(find(&entries, 0x8000_0000, 0).unwrap().eax, expected);
        let more = find(&entries, 0x8000_0021, 0).map(|leaf| leaf.eax);
        assert_eq!(more, (expected > last).then_some(1 << 2 | 1 << 9));
    }
}

#[test]
fn intel_has_what_only_intel_has() {
    let entries = list(&intel, &restrictions());
    assert_eq!(find(&entries, 0, 0).unwrap().eax, 0x1f);
    assert!(find(&entries, 2, 0).is_some());
    assert!(find(&entries, 4, 4).is_some_and(|last| last.eax == 0));
    let leaf7 = find(&entries, 7, 0).unwrap();
    assert_ne!(leaf7.edx & Feature::ARCH_CAPABILITIES.mask(), 0);
    assert_eq!(find(&entries, 7, 2).unwrap().edx, 0x20);
    assert_eq!(find(&entries, 0x8000_0000, 0).unwrap().eax, 0x8000_0008);
    assert!(find(&entries, 0x8000_0021, 0).is_none());
    assert_eq!(find(&entries, 0x8000_0008, 0).unwrap().eax, 0x002e_392e);
    assert_eq!(find(&entries, 0x8000_0008, 0).unwrap().ebx, 0x200);
}

#[test]
fn kvm_shows_its_name_and_what_is_wired() {
    let withheld = FeatureSet::EMPTY.with(&[Feature::PV_STEAL_TIME]);
    let entries = list(
        &amd,
        &Restrictions {
            withheld,
            ..restrictions()
        },
    );
    let name = find(&entries, 0x4000_0000, 0).unwrap();
    assert_eq!(
        (name.eax, name.ebx, name.ecx, name.edx),
        (0x4000_0001, text(b"KVMK"), text(b"VMKV"), text(b"M\0\0\0"))
    );
    let features = find(&entries, 0x4000_0001, 0).unwrap().eax;
    assert_eq!(features & 1 << 5, 0);
    assert_eq!(
        features & 1 << 14,
        0,
        "interrupts of asynchronous page faults"
    );
    assert_eq!(features, 0x0100_38db);
}

#[test]
fn extended_states_agree_with_their_leaf() {
    let entries = list(&amd, &restrictions());
    let sizes = find(&entries, 0xd, 0).unwrap();
    assert_eq!((sizes.eax, sizes.ebx, sizes.ecx), (0x2e7, 2696, 2696));
    let features = find(&entries, 0xd, 1).unwrap();
    assert_eq!((features.eax, features.ebx, features.ecx), (7, 2440, 0));
    let states: Vec<u32> = entries
        .iter()
        .filter(|entry| entry.function == 0xd)
        .map(|entry| entry.index)
        .collect();
    assert_eq!(states, [0, 1, 2, 5, 6, 7, 9]);
}

#[test]
fn without_a_state_its_features_go() {
    let without = |xcr0: u64| {
        Platform::new(
            &intel,
            &Restrictions {
                xcr0,
                ..restrictions()
            },
        )
    };
    let no_avx512 = without(xsave::X87 | xsave::SSE | xsave::YMM | 0x40);
    assert_eq!(no_avx512.xcr0, 7);
    assert!(!no_avx512.features.has(Feature::AVX512F));
    assert!(!no_avx512.features.has(Feature::AVX512_FP16));
    assert!(!no_avx512.features.has(Feature::PKU));
    assert!(no_avx512.features.has(Feature::AVX2));
    let no_avx = without(xsave::X87 | xsave::SSE | xsave::AVX512);
    assert_eq!(no_avx.xcr0, 3);
    assert!(!no_avx.features.has(Feature::AVX2));
    let withheld = FeatureSet::EMPTY.with(&[Feature::XSAVE]);
    let none = Platform::new(
        &intel,
        &Restrictions {
            withheld,
            ..restrictions()
        },
    );
    assert_eq!(none.xcr0, 0);
    assert_eq!(none.features.word(Word::LeafDEax), 0);
    assert!(!none.features.has(Feature::AVX));
}

#[test]
fn emulated_bits_are_few() {
    let mut entries = [kvm_cpuid_entry2::default(); 4];
    assert_eq!(emulated(true, &mut entries), Ok(2));
    assert_eq!((entries[1].function, entries[1].ecx), (1, 8));
    assert_eq!(emulated(true, &mut entries[..1]), Err(E2BIG));
}

proptest! {
    /// Whatever the host says, the list ends, and no bit is given that the
    /// host does not have and the module does not provide.
    #[test]
    fn nothing_is_made_up(seed: u64, last in 0u32..0x30, extended in 0u32..0x40) {
        let host = |leaf: u32, index: u32| match leaf {
            0 => answer(last, text(b"Auth"), text(b"cAMD"), text(b"enti")),
            0x8000_0000 => answer(0x8000_0000 + extended, 0, 0, 0),
            _ => {
                let mix = seed
                    .wrapping_mul(u64::from(leaf).wrapping_mul(2).wrapping_add(1))
                    .rotate_left(index % 64);
                answer(mix as u32, (mix >> 32) as u32, !mix as u32, (mix >> 7) as u32)
            }
        };
        let platform = Platform::new(&host, &restrictions());
        let mut entries = vec![kvm_cpuid_entry2::default(); 256];
        let count = supported(&host, &platform, &mut entries).unwrap();
        for word in Word::ALL {
            let info = word.info();
            let Some(entry) = find(&entries[..count], info.leaf, info.index) else { continue };
            let shown = answer(entry.eax, entry.ebx, entry.ecx, entry.edx)
                .register(info.register);
            let host = host(info.leaf, info.index).register(info.register);
            prop_assert_eq!(shown & !(host & info.given | info.emulated), 0, "{:?}", word);
        }
        prop_assert!((32..=52).contains(&platform.physical_bits));
    }
}
