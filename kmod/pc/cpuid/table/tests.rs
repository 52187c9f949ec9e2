// SPDX-License-Identifier: GPL-2.0

use super::super::supported::tests::{amd, intel, restrictions};
use super::super::supported::{supported, Platform};
use super::super::{xsave, GuestCaps};
use super::*;
use crate::pc::regs::{Cr4, Efer};
use proptest::prelude::*;

fn entry(function: u32, index: Option<u32>, value: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index: index.unwrap_or(0),
        flags: index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
        eax: value,
        ..Default::default()
    }
}

fn named(name: &[u8; 12], last: u32) -> kvm_cpuid_entry2 {
    let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
    kvm_cpuid_entry2 {
        eax: last,
        ebx: word(0),
        edx: word(4),
        ecx: word(8),
        ..Default::default()
    }
}

fn table(entries: Vec<kvm_cpuid_entry2>) -> CpuidTable<Vec<kvm_cpuid_entry2>> {
    CpuidTable::new(entries).ok().unwrap()
}

fn full(host: fn(u32, u32) -> Answer) -> (CpuidTable<Vec<kvm_cpuid_entry2>>, Platform) {
    let platform = Platform::new(&host, &restrictions());
    let mut entries = vec![kvm_cpuid_entry2::default(); 256];
    let count = supported(&host, &platform, &mut entries).unwrap();
    entries.truncate(count);
    (table(entries), platform)
}

#[test]
fn subleaves_are_told_apart_where_they_count() {
    let table = table(vec![
        entry(7, Some(1), 71),
        entry(1, None, 10),
        entry(7, Some(0), 70),
        entry(1, None, 11),
        entry(0x8000_003f, None, 3),
        entry(0x8000_0040, None, 4),
        entry(0x4000_0100, Some(2), 5),
    ]);
    let eax = |leaf, subleaf| table.find(leaf, subleaf).map(|answer| answer.eax);
    assert_eq!(eax(7, 0), Some(70));
    assert_eq!(eax(7, 1), Some(71));
    assert_eq!(eax(7, 2), None);
    assert_eq!(eax(1, 99), Some(10), "the first counts, for any subleaf");
    assert_eq!(eax(0x8000_003f, 0), Some(3));
    assert_eq!(eax(0x8000_0040, 0), Some(4));
    assert_eq!(eax(0x4000_0100, 2), Some(5));
    assert_eq!(eax(0x4000_0100, 1), None);
    assert_eq!(eax(3, 0), None);
    assert_eq!(table.entries()[0].eax, 71, "in the VMM's order");
}

#[test]
fn intel_answers_a_leaf_too_high_with_the_highest_basic_one() {
    let mut entries = vec![
        named(b"GenuineIntel", 0xd),
        entry(4, Some(0), 40),
        entry(0xd, Some(0), 130),
        entry(0xd, Some(1), 131),
        entry(0x4000_0000, None, 0x4000_0001),
        entry(0x8000_0000, None, 0x8000_0008),
    ];
    let table_intel = table(entries.clone());
    assert_eq!(table_intel.lookup(0x20, 0).eax, 130);
    assert_eq!(table_intel.lookup(0x20, 1).eax, 131);
    assert_eq!(table_intel.lookup(0x20, 2), Answer::ZERO);
    assert_eq!(table_intel.lookup(0x8000_0009, 0).eax, 130);
    assert_eq!(
        table_intel.lookup(0x8000_0007, 0),
        Answer::ZERO,
        "within its range"
    );
    assert_eq!(table_intel.lookup(5, 0), Answer::ZERO);
    assert_eq!(table_intel.lookup(4, 7), Answer::ZERO);
    assert_eq!(table_intel.lookup(0x4000_0002, 0).eax, 130);
    assert_eq!(table_intel.lookup(0x4000_0100, 0).eax, 130);
    assert_eq!(table_intel.lookup(0xc000_0000, 1).eax, 131);

    entries[0] = named(b"AuthenticAMD", 0xd);
    let table_amd = table(entries);
    assert_eq!(table_amd.lookup(0x20, 0), Answer::ZERO);
    assert_eq!(table_amd.lookup(0x8000_0009, 0), Answer::ZERO);
    assert_eq!(table_amd.lookup(0xd, 1).eax, 131);
}

#[test]
fn topology_goes_on_counting() {
    let mut level = entry(0xb, Some(1), 4);
    level.edx = 77;
    let table = table(vec![
        named(b"AuthenticAMD", 0xd),
        entry(0xb, Some(0), 1),
        level,
    ]);
    assert_eq!(table.lookup(0xb, 1).eax, 4);
    assert_eq!(
        table.lookup(0xb, 0x105),
        Answer {
            ecx: 5,
            edx: 77,
            ..Answer::ZERO
        }
    );
}

#[test]
fn an_empty_table_reads_zero() {
    let table = table(Vec::new());
    assert_eq!(table.lookup(0, 0), Answer::ZERO);
    assert_eq!(table.lookup(0x8000_0001, 0), Answer::ZERO);
    assert_eq!(table.lookup(u32::MAX, u32::MAX), Answer::ZERO);
}

#[test]
fn what_no_processor_has_is_refused() {
    assert_eq!(
        CpuidTable::new(vec![kvm_cpuid_entry2::default(); 257]).err(),
        Some(E2BIG)
    );
    for (bits, valid) in [(0, true), (48, true), (57, true), (47, false), (64, false)] {
        let sizes = entry(0x8000_0008, None, 40 | bits << 8);
        let result = CpuidTable::new(vec![sizes]);
        assert_eq!(result.err(), (!valid).then_some(EINVAL));
    }
}

#[test]
fn a_table_of_the_greatest_length_is_whole() {
    let entries: Vec<_> = (0..256).map(|index| entry(4, Some(index), index)).collect();
    let table = table(entries);
    for index in 0..256 {
        assert_eq!(table.lookup(4, index).eax, index);
    }
    assert_eq!(table.find(4, 256), None);
}

#[test]
fn dynamic_bits_follow_the_guest() {
    let (mut table, platform) = full(amd);
    let base = Dynamic {
        apic: true,
        xcr0: 1,
        ..Dynamic::default()
    };
    let bit = |table: &CpuidTable<Vec<_>>, feature| table.bit(feature);
    table.set_dynamic(base, &platform.xsave);
    assert!(!bit(&table, Feature::OSXSAVE) && !bit(&table, Feature::OSPKE));
    assert!(bit(&table, Feature::APIC));
    assert!(!bit(&table, Feature::MONITOR));
    assert_eq!(table.lookup(0xd, 0).ebx, 576);
    assert_eq!(table.lookup(0xd, 0).ecx, 2696, "the most there can be");

    let busy = Dynamic {
        osxsave: true,
        pke: true,
        apic: false,
        monitor: Some(true),
        xcr0: xsave::GUEST_XCR0,
        xss: 0,
    };
    table.set_dynamic(busy, &platform.xsave);
    assert!(bit(&table, Feature::OSXSAVE) && bit(&table, Feature::OSPKE));
    assert!(!bit(&table, Feature::APIC));
    assert!(bit(&table, Feature::MONITOR));
    assert_eq!(table.lookup(0xd, 0).ebx, 2696);
    assert_eq!(table.lookup(0xd, 1).ebx, 2440);
    assert_eq!(table.dynamic(), Some(busy));

    table.set_dynamic(base, &platform.xsave);
    assert!(bit(&table, Feature::APIC), "what the VMM set comes back");
}

#[test]
fn dynamic_bits_need_their_feature() {
    let (_, platform) = full(amd);
    let mut table = table(vec![entry(1, None, 0), entry(7, Some(0), 0)]);
    let all = Dynamic {
        osxsave: true,
        pke: true,
        apic: true,
        monitor: None,
        xcr0: 3,
        xss: 0,
    };
    table.set_dynamic(all, &platform.xsave);
    assert_eq!(table.lookup(1, 0), Answer::ZERO);
    assert_eq!(table.lookup(7, 0), Answer::ZERO);
}

#[test]
fn caps_are_what_both_the_vmm_and_the_module_say() {
    let (table_amd, platform) = full(amd);
    let caps = GuestCaps::new(&table_amd, &platform, false);
    assert_eq!(caps.features, platform.features);
    assert_eq!(caps.vendor, Vendor::Amd);
    assert_eq!(caps.physical_bits, 52);
    assert_eq!(caps.xcr0, xsave::GUEST_XCR0);
    assert!(caps
        .cr4
        .has(Cr4::OSXSAVE | Cr4::SMAP | Cr4::PKE | Cr4::PCIDE | Cr4::UMIP));
    assert!(!caps.cr4.any(Cr4::VMXE | Cr4::SMXE | Cr4::CET | Cr4::PKS));
    assert!(caps.efer.has(Efer::LME | Efer::NXE | Efer::SCE));
    assert!(!caps.efer.any(Efer::SVME | Efer::LMSLE));

    let mut entries = table_amd.entries().to_vec();
    for entry in &mut entries {
        match entry.function {
            // The VMM takes SMEP away and adds VMX.
            1 => entry.ecx |= Feature::VMX.mask(),
            7 if entry.index == 0 => entry.ebx &= !Feature::SMEP.mask(),
            0xd if entry.index == 0 => entry.eax = 0xffff_ffe3,
            0x8000_0001 => entry.edx &= !(Feature::GBPAGES.mask() | Feature::NX.mask()),
            0x8000_0008 => entry.eax = 0x3028,
            _ => {}
        }
    }
    let caps = GuestCaps::new(&table(entries), &platform, false);
    assert!(!caps.has(Feature::VMX) && !caps.has(Feature::SMEP));
    assert!(!caps.cr4.any(Cr4::SMEP));
    assert!(
        caps.has(Feature::GBPAGES),
        "hardware walks the guest's tables"
    );
    assert!(!caps.efer.any(Efer::NXE) && caps.host_efer.has(Efer::NXE));
    assert_eq!(caps.xcr0, xsave::GUEST_XCR0 & !xsave::YMM);
    assert_eq!(caps.reserved_physical(), !0 << 40);
}

#[test]
fn without_cpuid_there_is_little() {
    let (_, platform) = full(intel);
    let caps = GuestCaps::without_cpuid(&platform);
    assert!(caps.cr4.has(Cr4::PAE | Cr4::OSFXSR));
    assert!(!caps.cr4.any(Cr4::OSXSAVE | Cr4::SMEP));
    assert_eq!(caps.efer, Efer(0));
    assert!(caps.host_efer.has(Efer::LME | Efer::NXE));
    assert_eq!((caps.xcr0, caps.physical_bits), (0, 36));
    assert!(caps.may_use(Feature::PV_STEAL_TIME));
}

#[test]
fn kvms_leaves_are_found_behind_another_hypervisors() {
    let (_, platform) = full(amd);
    let mut signature = named(b"KVMKVMKVM\0\0\0", 0);
    (signature.ecx, signature.edx) = (signature.edx, signature.ecx);
    signature.function = 0x4000_0100;
    let mut other = named(b"Microsoft Hv", 0);
    other.function = 0x4000_0000;
    let entries = vec![
        other,
        entry(0x4000_0001, None, !0),
        signature,
        entry(0x4000_0101, None, 1 << 5 | 1 << 14),
    ];
    let caps = GuestCaps::new(&table(entries), &platform, true);
    assert!(caps.may_use(Feature::PV_STEAL_TIME));
    assert!(!caps.may_use(Feature::PV_EOI));
    assert!(!caps.may_use(Feature::PV_ASYNC_PF_INT), "not there yet");
}

proptest! {
    /// Heads and chains find what a search from the front finds.
    #[test]
    fn look_ups_agree_with_a_search(
        entries in prop::collection::vec(
            (prop::sample::select(vec![
                0u32, 1, 4, 7, 0xd, 0x1f, 0x20, 0x4000_0000, 0x4000_000f, 0x4000_0010,
                0x8000_0000, 0x8000_003f, 0x8000_0040, 0xc000_0000,
            ]), prop::option::of(0u32..4), any::<u32>()),
            0..40,
        ),
        leaf in prop::sample::select(vec![
            0u32, 1, 4, 7, 0xd, 0x1f, 0x20, 0x4000_000f, 0x4000_0010, 0x8000_003f, 0x8000_0040,
        ]),
        subleaf in 0u32..5,
    ) {
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(function, index, value)| entry(function, index, value))
            .collect();
        let slow = entries
            .iter()
            .find(|entry| entry.function == leaf && answers(entry, subleaf))
            .map(|entry| entry.eax);
        if let Ok(table) = CpuidTable::new(entries) {
            prop_assert_eq!(table.find(leaf, subleaf).map(|answer| answer.eax), slow);
            if let Some(eax) = slow {
                prop_assert_eq!(table.lookup(leaf, subleaf).eax, eax);
            }
        }
    }
}
