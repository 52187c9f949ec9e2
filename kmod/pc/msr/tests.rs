// SPDX-License-Identifier: GPL-2.0

use super::super::cpuid::supported::tests::{amd, intel, restrictions};
use super::super::cpuid::{FeatureSet, Platform};
use super::super::regs::{Cr0, Cr4};
use super::index::*;
use super::table::{Check, Listed, TABLE};
use super::*;
use crate::pc::addr::Gpa;
use std::collections::HashMap;

mod machine_check;
mod properties;

/// A vCPU that keeps what it is told.
#[derive(Default)]
struct Machine {
    hardware: HashMap<u8, u64>,
    controls: Controls,
    apic_base: u64,
    apic: HashMap<u32, u64>,
    x2apic: bool,
    deadline: u64,
    tsc: u64,
    synchronized: Option<u64>,
    wall_clock: u64,
    ignore: bool,
    quirk: bool,
}

impl MsrContext for Machine {
    fn hardware(&mut self, msr: Hardware) -> u64 {
        self.hardware.get(&(msr as u8)).copied().unwrap_or(0)
    }

    fn set_hardware(&mut self, msr: Hardware, value: u64) {
        self.hardware.insert(msr as u8, value);
    }

    fn controls(&mut self) -> Controls {
        self.controls
    }

    fn set_efer(&mut self, value: Efer) {
        self.controls.efer = value;
    }

    fn apic_base(&mut self) -> u64 {
        self.apic_base
    }

    fn set_apic_base(&mut self, value: u64, _: Origin) -> Result<(), MsrError> {
        if value & 1 != 0 {
            return Err(MsrError::Invalid);
        }
        self.apic_base = value;
        Ok(())
    }

    fn x2apic(&mut self, index: u32) -> Result<u64, MsrError> {
        let value = self.apic.get(&index).copied();
        value.filter(|_| self.x2apic).ok_or(MsrError::Invalid)
    }

    fn set_x2apic(&mut self, index: u32, value: u64) -> Result<(), MsrError> {
        if !self.x2apic {
            return Err(MsrError::Invalid);
        }
        self.apic.insert(index, value);
        Ok(())
    }

    fn tsc_deadline(&mut self) -> u64 {
        self.deadline
    }

    fn set_tsc_deadline(&mut self, value: u64) {
        self.deadline = value;
    }

    fn tsc(&mut self) -> u64 {
        self.tsc
    }

    fn shift_tsc(&mut self, ticks: u64) {
        self.tsc = self.tsc.wrapping_add(ticks);
    }

    fn synchronize_tsc(&mut self, value: u64) {
        self.synchronized = Some(value);
    }

    fn wall_clock(&mut self) -> u64 {
        self.wall_clock
    }

    fn ignores_unknown(&self, _index: u32) -> bool {
        self.ignore
    }

    fn misc_enable_quirk(&self) -> bool {
        self.quirk
    }
}

/// A vCPU with a guest that is shown what it is said to be shown.
struct Bench {
    file: MsrFile,
    machine: Machine,
    caps: GuestCaps,
}

impl Bench {
    fn new(vendor: Vendor, features: &[Feature]) -> Self {
        let platform = platform(vendor);
        let mut caps = GuestCaps::without_cpuid(&platform);
        caps.vendor = vendor;
        caps.features = FeatureSet::EMPTY.with(features);
        caps.physical_bits = 40;
        Self {
            file: MsrFile::new(vendor, 0),
            machine: Machine {
                quirk: true,
                ..Machine::default()
            },
            caps,
        }
    }

    /// With all that the processor has.
    fn full(vendor: Vendor) -> Self {
        let features = platform(vendor).features;
        let mut bench = Self::new(vendor, &[]);
        bench.caps.features = features;
        bench
    }

    fn write(&mut self, index: u32, value: u64, origin: Origin) -> Result<Effect, MsrError> {
        self.file
            .write(index, value, origin, &self.caps, &mut self.machine)
    }

    fn read(&mut self, index: u32, origin: Origin) -> Result<u64, MsrError> {
        self.file.read(index, origin, &self.caps, &mut self.machine)
    }

    fn guest(&mut self, index: u32, value: u64) -> Result<Effect, MsrError> {
        self.write(index, value, Origin::Guest)
    }

    fn host(&mut self, index: u32, value: u64) -> Result<Effect, MsrError> {
        self.write(index, value, Origin::Host)
    }

    fn value(&mut self, index: u32) -> Result<u64, MsrError> {
        self.read(index, Origin::Guest)
    }
}

fn platform(vendor: Vendor) -> Platform {
    let host: fn(u32, u32) -> _ = match vendor {
        Vendor::Amd => amd,
        Vendor::Intel => intel,
    };
    Platform::new(&host, &restrictions())
}

const INVALID: Result<Effect, MsrError> = Err(MsrError::Invalid);
const UNKNOWN: Result<Effect, MsrError> = Err(MsrError::Unknown);
const DONE: Result<Effect, MsrError> = Ok(Effect::None);

#[test]
fn a_search_finds_every_row_and_nothing_between() {
    for row in &TABLE {
        for index in [row.first, row.last] {
            assert_eq!(table::find(index).map(|found| found.first), Some(row.first));
        }
        let behind = row.last + 1;
        let is_next = TABLE.iter().any(|next| next.first == behind);
        assert_eq!(table::find(behind).is_some(), is_next, "{behind:#x}");
    }
    assert!(table::find(u32::MAX).is_none());
}

#[test]
fn runs_of_values_do_not_share_slots() {
    let mut owners: HashMap<u16, u32> = HashMap::new();
    for row in &TABLE {
        let Home::Value(first) = row.home else {
            continue;
        };
        for index in row.first..=row.last {
            let slot = first.0 + (index - row.first) as u16;
            assert!(usize::from(slot) < SLOTS);
            if let Some(other) = owners.insert(slot, index) {
                let clock = [abi::MSR_KVM_SYSTEM_TIME, abi::MSR_KVM_SYSTEM_TIME_NEW];
                assert!(
                    clock.contains(&index) && clock.contains(&other),
                    "{index:#x}"
                );
            }
        }
    }
    assert_eq!(owners.len(), SLOTS, "a slot is not used");
}

/// What QEMU writes before the first run; it gives up when one is refused.
#[test]
fn qemu_restores_its_state() {
    for vendor in [Vendor::Amd, Vendor::Intel] {
        let mut bench = Bench::full(vendor);
        bench.file.setup_mce(mce::SUPPORTED_CAP | 10).unwrap();
        let mut list: Vec<(u32, u64)> = vec![
            (SYSENTER_CS, 0),
            (SYSENTER_ESP, 0),
            (SYSENTER_EIP, 0),
            (PAT, 0x0007_0406_0007_0406),
            (STAR, 0),
            (CSTAR, 0),
            (KERNEL_GS_BASE, 0),
            (SFMASK, 0),
            (LSTAR, 0),
            (TSC, 0),
            (TSC_ADJUST, 0),
            (TSC_AUX, 0),
            (TSC_DEADLINE, 0),
            (MISC_ENABLE, 1),
            (UCODE_REV, 0x0100_0065),
            (SMI_COUNT, 0),
            (SPEC_CTRL, 0),
            (VIRT_SPEC_CTRL, 0),
            (HWCR, 0),
            (POWER_CTL, 0),
            (PLATFORM_INFO, 1 << 31),
            (MISC_FEATURES_ENABLES, 0),
            (ARCH_CAPABILITIES, 0),
            (XSS, 0),
            (abi::MSR_KVM_SYSTEM_TIME, 0),
            (abi::MSR_KVM_WALL_CLOCK, 0),
            (abi::MSR_KVM_SYSTEM_TIME_NEW, 0),
            (abi::MSR_KVM_WALL_CLOCK_NEW, 0),
            (abi::MSR_KVM_ASYNC_PF_INT, 0),
            (abi::MSR_KVM_ASYNC_PF_EN, 0),
            (abi::MSR_KVM_PV_EOI_EN, 0),
            (abi::MSR_KVM_STEAL_TIME, 0),
            (abi::MSR_KVM_POLL_CONTROL, 1),
            (MTRR_DEF_TYPE, 0xc06),
            (MTRR_FIX_64K, 0x0606_0606_0606_0606),
            (MCG_STATUS, 0),
            (MCG_CTL, u64::MAX),
            (FEATURE_CONTROL, 0),
            (EFER, 0xd01),
            (APIC_BASE, 0xfee0_0900),
        ];
        list.extend((0..8).flat_map(|n| {
            [
                (MTRR_PHYS_BASE0 + 2 * n, 6),
                (MTRR_PHYS_BASE0 + 2 * n + 1, 0xff_ffff_f800),
            ]
        }));
        list.extend((MTRR_FIX_16K_80000..=MTRR_FIX_16K_A0000).map(|index| (index, 0)));
        list.extend(
            (MTRR_FIX_4K_C0000..=MTRR_FIX_4K_F8000).map(|index| (index, 0x0505_0505_0505_0505)),
        );
        for bank in 0..10 {
            list.push((MC0_CTL + 4 * bank, u64::MAX));
            list.extend((1..4).map(|register| (MC0_CTL + 4 * bank + register, 0)));
        }
        for (index, value) in list {
            assert!(bench.host(index, value).is_ok(), "write of {index:#x}");
            assert!(
                bench.read(index, Origin::Host).is_ok(),
                "read of {index:#x}"
            );
        }
    }
}

#[test]
fn what_is_listed_can_be_read_and_put_back() {
    for vendor in [Vendor::Amd, Vendor::Intel] {
        let platform = platform(vendor);
        let mut full = Bench::full(vendor);
        let mut bare = Bench::new(vendor, &[]);
        full.file.setup_mce(mce::SUPPORTED_CAP | 10).unwrap();
        let mut count = 0;
        for index in lists::state(&platform) {
            count += 1;
            let value = full.read(index, Origin::Host).unwrap();
            assert!(full.host(index, value).is_ok(), "{index:#x}");
            assert!(bare.read(index, Origin::Host).is_ok(), "{index:#x}");
            assert!(bare.host(index, 0).is_ok(), "{index:#x}");
        }
        assert!(count > 25, "{count}");
    }
}

#[test]
fn lists_say_what_the_host_has() {
    let amd_list: Vec<u32> = lists::state(&platform(Vendor::Amd)).collect();
    let intel_list: Vec<u32> = lists::state(&platform(Vendor::Intel)).collect();
    for index in [TSC, STAR, TSC_DEADLINE, UCODE_REV, abi::MSR_KVM_STEAL_TIME] {
        assert!(
            amd_list.contains(&index) && intel_list.contains(&index),
            "{index:#x}"
        );
    }
    assert!(intel_list.contains(&ARCH_CAPABILITIES) && !amd_list.contains(&ARCH_CAPABILITIES));
    for index in [
        FS_BASE,
        EFER,
        APIC_BASE,
        MTRR_DEF_TYPE,
        MC0_CTL,
        DE_CFG,
        abi::MSR_KVM_ASYNC_PF_INT,
    ] {
        assert!(!amd_list.contains(&index), "{index:#x}");
    }
    let features: Vec<u32> = lists::features(&platform(Vendor::Amd)).collect();
    assert_eq!(features, [UCODE_REV, PLATFORM_INFO, DE_CFG]);
    let features: Vec<u32> = lists::features(&platform(Vendor::Intel)).collect();
    assert_eq!(features, [UCODE_REV, PLATFORM_INFO, ARCH_CAPABILITIES]);
}

#[test]
fn feature_msrs_tell_about_the_host() {
    let host = |index| match index {
        UCODE_REV => Some(77),
        // TSX_CTRL among them, which guests do not have.
        ARCH_CAPABILITIES => Some(0xff),
        _ => None,
    };
    let intel = platform(Vendor::Intel);
    assert_eq!(lists::feature(UCODE_REV, &intel, &host), Some(77));
    assert_eq!(lists::feature(UCODE_REV, &intel, &|_| None), Some(1 << 32));
    assert_eq!(lists::feature(ARCH_CAPABILITIES, &intel, &host), Some(0x7f));
    assert_eq!(lists::feature(DE_CFG, &intel, &host), None);
    assert_eq!(lists::feature(TSC, &intel, &host), None);
    let amd = platform(Vendor::Amd);
    assert_eq!(lists::feature(DE_CFG, &amd, &host), Some(2));
    assert_eq!(lists::feature(ARCH_CAPABILITIES, &amd, &host), None);
    assert_eq!(lists::arch_capabilities(&amd, &host), 0);
}

#[test]
fn what_does_not_exist_faults_unless_told_otherwise() {
    let mut bench = Bench::full(Vendor::Amd);
    for index in [0x1234, 0xc001_0117, 0x9e, 0x345, 0xe8, 0x4b56_4d08] {
        assert_eq!(bench.value(index), Err(MsrError::Unknown), "{index:#x}");
        assert_eq!(bench.guest(index, 0), UNKNOWN);
        assert_eq!(bench.host(index, 0), UNKNOWN);
    }
    bench.machine.ignore = true;
    assert_eq!(bench.value(0x1234), Ok(0));
    assert_eq!(bench.guest(0x1234, 5), DONE);
    assert_eq!(bench.guest(SMI_COUNT, 5), INVALID, "it exists");
}

#[test]
fn features_bring_msrs_to_the_guest_alone() {
    let mut bench = Bench::new(Vendor::Intel, &[]);
    assert_eq!(bench.value(TSC_AUX), Err(MsrError::Invalid));
    assert_eq!(bench.guest(TSC_AUX, 1), INVALID);
    assert_eq!(bench.host(TSC_AUX, 1), DONE);
    bench.caps.features = FeatureSet::EMPTY.with(&[Feature::RDPID]);
    assert_eq!(bench.value(TSC_AUX), Ok(1));
    assert_eq!(bench.value(FEATURE_CONTROL), Ok(0));
    bench.caps.vendor = Vendor::Amd;
    assert_eq!(bench.value(FEATURE_CONTROL), Err(MsrError::Invalid));
}

#[test]
fn paravirtual_msrs_are_there_unless_the_vm_is_strict() {
    let mut bench = Bench::new(Vendor::Amd, &[Feature::PV_STEAL_TIME]);
    assert_eq!(
        bench.guest(abi::MSR_KVM_PV_EOI_EN, 0x1001),
        Ok(Effect::PvEoi(Some(Gpa(0x1000))))
    );
    bench.caps.enforce_pv = true;
    assert_eq!(bench.guest(abi::MSR_KVM_PV_EOI_EN, 0), UNKNOWN);
    assert_eq!(bench.value(abi::MSR_KVM_PV_EOI_EN), Err(MsrError::Unknown));
    assert_eq!(bench.read(abi::MSR_KVM_PV_EOI_EN, Origin::Host), Ok(0x1001));
    assert_eq!(
        bench.guest(abi::MSR_KVM_STEAL_TIME, 0x2041),
        Ok(Effect::StealTime(Some(Gpa(0x2040))))
    );
}

#[test]
fn records_of_the_clock() {
    let mut bench = Bench::full(Vendor::Amd);
    assert_eq!(
        bench.guest(abi::MSR_KVM_SYSTEM_TIME_NEW, 0x3021),
        Ok(Effect::SystemTime {
            record: Some(Gpa(0x3020)),
            old: false
        })
    );
    assert_eq!(bench.file.system_time(), Some(Gpa(0x3020)));
    assert_eq!(
        bench.value(abi::MSR_KVM_SYSTEM_TIME),
        Ok(0x3021),
        "one clock"
    );
    assert_eq!(
        bench.guest(abi::MSR_KVM_SYSTEM_TIME, 0x3020),
        Ok(Effect::SystemTime {
            record: None,
            old: true
        })
    );
    assert_eq!(bench.file.system_time(), None);
    bench.machine.wall_clock = 0x4000;
    assert_eq!(bench.value(abi::MSR_KVM_WALL_CLOCK), Ok(0x4000));
    assert_eq!(
        bench.guest(abi::MSR_KVM_WALL_CLOCK_NEW, 0x5000),
        Ok(Effect::WallClock {
            record: Gpa(0x5000)
        })
    );
    assert_eq!(bench.guest(abi::MSR_KVM_STEAL_TIME, 0x2003), INVALID);
    assert_eq!(
        bench.guest(abi::MSR_KVM_STEAL_TIME, 0x2000),
        Ok(Effect::StealTime(None))
    );
    assert_eq!(bench.guest(abi::MSR_KVM_PV_EOI_EN, 0x1003), INVALID);
    assert_eq!(bench.guest(abi::MSR_KVM_POLL_CONTROL, 2), INVALID);
    assert!(bench.file.may_poll());
    assert_eq!(bench.guest(abi::MSR_KVM_POLL_CONTROL, 0), DONE);
    assert!(!bench.file.may_poll());
    assert_eq!(bench.guest(abi::MSR_KVM_ASYNC_PF_EN, 0x5003), DONE);
    assert_eq!(bench.value(abi::MSR_KVM_ASYNC_PF_EN), Ok(0x5003));
    for reserved in [4, 8, 0x10, 0x20] {
        assert_eq!(bench.guest(abi::MSR_KVM_ASYNC_PF_EN, reserved), INVALID);
    }
}

#[test]
fn a_guest_that_sets_its_tsc_moves_the_adjustment() {
    let mut bench = Bench::full(Vendor::Intel);
    bench.machine.tsc = 1000;
    assert_eq!(bench.guest(TSC, 1500), Ok(Effect::TscMoved));
    assert_eq!(bench.machine.tsc, 1500);
    assert_eq!(bench.value(TSC_ADJUST), Ok(500));
    assert_eq!(bench.guest(TSC_ADJUST, 100), Ok(Effect::TscMoved));
    assert_eq!(bench.machine.tsc, 1100);
    assert_eq!(bench.guest(TSC, 0), Ok(Effect::TscMoved));
    assert_eq!(bench.value(TSC_ADJUST), Ok(1000u64.wrapping_neg()));
    assert_eq!(bench.value(TSC), Ok(0));

    assert_eq!(bench.host(TSC, 9), Ok(Effect::TscMoved));
    assert_eq!(bench.machine.synchronized, Some(9));
    assert_eq!(bench.host(TSC_ADJUST, 5), DONE);
    assert_eq!((bench.machine.tsc, bench.value(TSC_ADJUST)), (0, Ok(5)));
}

#[test]
fn addresses_must_be_canonical() {
    let mut bench = Bench::new(Vendor::Amd, &[]);
    for index in [LSTAR, CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE] {
        assert_eq!(bench.guest(index, 0x7fff_ffff_ffff), DONE);
        assert_eq!(bench.guest(index, 0xffff_8000_0000_0000), DONE);
        assert_eq!(bench.guest(index, 0x8000_0000_0000), INVALID);
        assert_eq!(bench.host(index, 1 << 63), INVALID);
        assert_eq!(bench.value(index), Ok(0xffff_8000_0000_0000));
    }
    assert_eq!(bench.guest(SYSENTER_EIP, 0x8000_0000_0000), DONE);
    assert_eq!(bench.value(SYSENTER_EIP), Ok(0xffff_8000_0000_0000));
    bench.caps.features = FeatureSet::EMPTY.with(&[Feature::LA57]);
    assert_eq!(bench.guest(LSTAR, 0x8000_0000_0000), DONE);
    assert_eq!(bench.guest(LSTAR, 1 << 56), INVALID);
}

#[test]
fn reserved_bits_of_the_flag_mask() {
    for vendor in [Vendor::Amd, Vendor::Intel] {
        let mut bench = Bench::full(vendor);
        assert_eq!(bench.guest(SFMASK, 0xffff_ffff), DONE);
        assert_eq!(bench.guest(SFMASK, 1 << 32), INVALID);
        assert_eq!(bench.host(SFMASK, 1 << 63), INVALID);
        assert_eq!(bench.value(SFMASK), Ok(0xffff_ffff));
    }
}

#[test]
fn memory_types() {
    let mut bench = Bench::full(Vendor::Amd);
    assert_eq!(
        bench.guest(PAT, 0x0706_0504_0100_0107),
        Ok(Effect::MemoryTypes)
    );
    assert_eq!(bench.guest(PAT, 2), INVALID);
    assert_eq!(bench.guest(PAT, 8 << 56), INVALID);
    assert_eq!(bench.value(MTRR_CAP), Ok(0x508));
    assert_eq!(bench.guest(MTRR_CAP, 0), INVALID);
    assert_eq!(bench.host(MTRR_CAP, 0x508), INVALID);
    assert_eq!(bench.guest(MTRR_DEF_TYPE, 0xc06), Ok(Effect::MemoryTypes));
    for bad in [2, 7, 0x100, 0x1000] {
        assert_eq!(bench.guest(MTRR_DEF_TYPE, bad), INVALID, "{bad:#x}");
    }
    assert_eq!(bench.guest(MTRR_FIX_64K, 7), INVALID);
    assert_eq!(
        bench.guest(MTRR_FIX_4K_F8000, 0x06 << 56),
        Ok(Effect::MemoryTypes)
    );
    assert_eq!(bench.value(MTRR_FIX_4K_F8000), Ok(0x06 << 56));
    assert_eq!(bench.value(MTRR_FIX_4K_C0000), Ok(0));
    assert_eq!(
        bench.guest(MTRR_PHYS_BASE0, 0xff_ffff_f006),
        Ok(Effect::MemoryTypes)
    );
    assert_eq!(bench.guest(MTRR_PHYS_BASE0, 0x106), INVALID);
    assert_eq!(bench.guest(MTRR_PHYS_BASE0, 1 << 40), INVALID);
    assert_eq!(
        bench.guest(MTRR_PHYS_MASK7, 0xff_ffff_f800),
        Ok(Effect::MemoryTypes)
    );
    assert_eq!(bench.guest(MTRR_PHYS_MASK7, 0x400), INVALID);
    assert_eq!(bench.value(MTRR_PHYS_MASK7), Ok(0xff_ffff_f800));
}

#[test]
fn speculation_control_follows_features() {
    let mut bench = Bench::new(Vendor::Amd, &[Feature::AMD_IBRS, Feature::AMD_SSBD]);
    assert_eq!(bench.guest(SPEC_CTRL, 5), DONE);
    assert_eq!(bench.value(SPEC_CTRL), Ok(5));
    assert_eq!(bench.guest(SPEC_CTRL, 2), INVALID);
    assert_eq!(
        bench.host(SPEC_CTRL, 2),
        INVALID,
        "the processor may not have it"
    );
    bench.caps.features = FeatureSet::EMPTY;
    assert_eq!(bench.guest(SPEC_CTRL, 0), INVALID);
    assert_eq!(bench.host(SPEC_CTRL, 0), DONE);
    assert_eq!(bench.guest(PRED_CMD, 1), INVALID);

    bench.caps.features = FeatureSet::EMPTY.with(&[Feature::AMD_IBPB, Feature::FLUSH_L1D]);
    assert_eq!(bench.guest(PRED_CMD, 1), Ok(Effect::PredictionCommand(1)));
    assert_eq!(bench.guest(PRED_CMD, 0), DONE);
    assert_eq!(bench.guest(PRED_CMD, 0x80), INVALID);
    assert_eq!(bench.value(PRED_CMD), Err(MsrError::Invalid));
    assert_eq!(bench.guest(FLUSH_CMD, 1), Ok(Effect::FlushL1d));
    assert_eq!(bench.guest(FLUSH_CMD, 2), INVALID);
}

#[test]
fn efer_goes_through_its_rules() {
    let mut bench = Bench::full(Vendor::Amd);
    bench.caps.efer = Efer::LME | Efer::SCE | Efer::NXE;
    bench.machine.controls = Controls {
        cr0: Cr0::PG | Cr0::PE,
        cr4: Cr4::PAE,
        efer: Efer::LME | Efer::LMA,
        ..Controls::default()
    };
    assert_eq!(bench.guest(EFER, 0x901), DONE);
    assert_eq!(bench.value(EFER), Ok(0xd01));
    assert_eq!(bench.guest(EFER, 0), INVALID);
    assert_eq!(bench.guest(EFER, 0x1900), INVALID);
}

#[test]
fn the_apic_is_asked() {
    let mut bench = Bench::full(Vendor::Amd);
    assert_eq!(bench.guest(0x83f, 0x20), INVALID, "not in x2APIC mode");
    bench.machine.x2apic = true;
    assert_eq!(bench.guest(0x83f, 0x20), DONE);
    assert_eq!(bench.value(0x83f), Ok(0x20));
    assert_eq!(bench.value(0x8ff), Err(MsrError::Invalid));
    assert_eq!(bench.guest(TSC_DEADLINE, 99), DONE);
    assert_eq!(bench.value(TSC_DEADLINE), Ok(99));
    assert_eq!(
        bench.guest(APIC_BASE, 0xfee0_0800),
        Ok(Effect::CpuidChanged)
    );
    assert_eq!(bench.guest(APIC_BASE, 1), INVALID);
    assert_eq!(bench.value(APIC_BASE), Ok(0xfee0_0800));
}

#[test]
fn odds_and_ends_of_amd() {
    let mut bench = Bench::full(Vendor::Amd);
    bench.caps.features.assign(Feature::RDTSCP, true);
    assert_eq!(bench.guest(HWCR, 0x0104_0148), DONE);
    assert_eq!(bench.value(HWCR), Ok(0x0104_0000));
    assert_eq!(bench.guest(HWCR, 1 << 4), INVALID);
    assert_eq!(bench.guest(TSC_AUX, 0x1_0000_0007), DONE);
    assert_eq!(bench.value(TSC_AUX), Ok(7));
    assert_eq!(bench.guest(DE_CFG, 2), DONE);
    assert_eq!(bench.guest(DE_CFG, 4), INVALID);
    assert_eq!(bench.guest(UCODE_REV, 9), DONE);
    assert_eq!(bench.value(UCODE_REV), Ok(0x0100_0065), "forgotten");
    assert_eq!(bench.host(UCODE_REV, 9), DONE);
    assert_eq!(bench.value(UCODE_REV), Ok(9));
    assert_eq!(bench.guest(NB_CFG, 1 << 46), DONE);
    assert_eq!(bench.value(SYSCFG), Ok(0));
    assert_eq!(bench.host(SYSCFG, 0), INVALID);
    assert_eq!(bench.guest(MMIO_CONF_BASE, 1), INVALID);
    assert_eq!(bench.value(OSVW_ID_LENGTH), Ok(3));
    assert_eq!(bench.guest(OSVW_STATUS, 0), INVALID);
}

#[test]
fn odds_and_ends_of_intel() {
    let mut bench = Bench::full(Vendor::Intel);
    bench.caps.features = bench
        .caps
        .features
        .with(&[Feature::RDTSCP, Feature::XSAVES]);
    bench.caps.xss = 0;
    assert_eq!(bench.guest(TSC_AUX, 1 << 32), INVALID);
    assert_eq!(bench.guest(XSS, 0x800), INVALID);
    assert_eq!(bench.guest(XSS, 0), Ok(Effect::CpuidChanged));
    assert_eq!(bench.guest(ARCH_CAPABILITIES, 1), INVALID);
    assert_eq!(bench.host(ARCH_CAPABILITIES, 0x2b), DONE);
    assert_eq!(bench.value(ARCH_CAPABILITIES), Ok(0x2b));
    assert_eq!(bench.guest(FEATURE_CONTROL, 4), INVALID);
    assert_eq!(bench.guest(FEATURE_CONTROL, 1), DONE);
    assert_eq!(bench.guest(FEATURE_CONTROL, 0), INVALID, "locked");
    assert_eq!(bench.host(FEATURE_CONTROL, 0), DONE);
    assert_eq!(bench.value(PERF_STATUS), Ok(0x400_0000_03e8));
    assert_eq!(bench.guest(PERF_STATUS, 0), INVALID);
    assert_eq!(bench.guest(DEBUGCTL, 1), DONE);
    assert_eq!(bench.value(DEBUGCTL), Ok(0));
    assert_eq!(bench.guest(DEBUGCTL, 1 << 6), INVALID);
    assert_eq!(bench.guest(SMI_COUNT, 1), INVALID);
    assert_eq!(bench.host(SMI_COUNT, 3), DONE);
    assert_eq!(bench.value(SMI_COUNT), Ok(3));
}

#[test]
fn misc_enable_keeps_what_is_not_there() {
    let mut bench = Bench::full(Vendor::Intel);
    let reset = bench.value(MISC_ENABLE).unwrap();
    assert_eq!(reset, 0x1800);
    assert_eq!(bench.guest(MISC_ENABLE, 1), INVALID);
    assert_eq!(bench.guest(MISC_ENABLE, reset | 0x81), DONE);
    assert_eq!(bench.value(MISC_ENABLE), Ok(reset | 1), "EMON stays");
    assert_eq!(
        bench.guest(MISC_ENABLE, reset | 1 << 18),
        Ok(Effect::CpuidChanged)
    );
    assert!(bench.file.mwait_enabled());
    assert_eq!(bench.host(MISC_ENABLE, 1), Ok(Effect::CpuidChanged));
    bench.machine.quirk = false;
    bench.caps.features.assign(Feature::SSE3, false);
    assert_eq!(bench.host(MISC_ENABLE, 1 << 18), INVALID);
}

#[test]
fn cpuid_faults_where_announced() {
    let mut bench = Bench::full(Vendor::Intel);
    assert!(!bench.file.cpuid_faults());
    assert_eq!(bench.guest(MISC_FEATURES_ENABLES, 1), DONE);
    assert!(bench.file.cpuid_faults());
    assert_eq!(bench.guest(MISC_FEATURES_ENABLES, 2), INVALID);
    assert_eq!(bench.guest(PLATFORM_INFO, 0), INVALID);
    assert_eq!(bench.host(PLATFORM_INFO, 0), DONE);
    assert_eq!(bench.guest(MISC_FEATURES_ENABLES, 1), INVALID);
    assert_eq!(bench.guest(MISC_FEATURES_ENABLES, 0), DONE);
}

#[test]
fn listed_rows_are_single() {
    for row in TABLE.iter().filter(|row| row.listed != Listed::No) {
        assert_eq!(row.first, row.last, "a run in a list shows its first only");
    }
}
