// SPDX-License-Identifier: GPL-2.0

//! What follows from a vCPU's CPUID for the rest of the module.
//!
//! Worked out once, when the VMM sets CPUID.

use core::ops::DerefMut;

use super::super::regs::{Cr4, Efer};
use super::features::{Feature, FeatureSet, Word};
use super::supported::{signature, Platform};
use super::table::CpuidTable;
use super::Vendor;
use crate::uapi::{kvm_cpuid_entry2, KVM_CPUID_SIGNATURE};

/// CR4 bits a guest may set only with a feature.
const CR4_FEATURES: [(Cr4, Feature); 8] = [
    (Cr4::UMIP, Feature::UMIP),
    (Cr4::LA57, Feature::LA57),
    (Cr4::FSGSBASE, Feature::FSGSBASE),
    (Cr4::PCIDE, Feature::PCID),
    (Cr4::OSXSAVE, Feature::XSAVE),
    (Cr4::SMEP, Feature::SMEP),
    (Cr4::SMAP, Feature::SMAP),
    (Cr4::PKE, Feature::PKU),
];

/// CR4 bits any guest may set: each is as old as its feature, and a VMM that
/// sets no CPUID runs its guests all the same.
const CR4_ALWAYS: Cr4 = Cr4(Cr4::VME.0
    | Cr4::PVI.0
    | Cr4::TSD.0
    | Cr4::DE.0
    | Cr4::PSE.0
    | Cr4::PAE.0
    | Cr4::MCE.0
    | Cr4::PGE.0
    | Cr4::PCE.0
    | Cr4::OSFXSR.0
    | Cr4::OSXMMEXCPT.0);

/// EFER bits a guest may set only with a feature.
const EFER_FEATURES: [(Efer, Feature); 6] = [
    (Efer::SCE, Feature::SYSCALL),
    (Efer::LME, Feature::LM),
    (Efer::LMA, Feature::LM),
    (Efer::NXE, Feature::NX),
    (Efer::FFXSR, Feature::FXSR_OPT),
    (Efer::AIBRSE, Feature::AUTOIBRS),
];

/// What a guest may do.
#[derive(Clone, Copy, Debug)]
pub struct GuestCaps {
    /// Features that the guest is shown and that the module provides. GBPAGES
    /// is there when the host has it: nested paging cannot take it away.
    pub features: FeatureSet,
    /// Whose processor the guest sees.
    pub vendor: Vendor,
    /// Width of its physical addresses, 32 to 52.
    pub physical_bits: u8,
    /// Bits it may set in CR4.
    pub cr4: Cr4,
    /// Bits it may set in EFER.
    pub efer: Efer,
    /// Bits the VMM may set in EFER on its behalf.
    pub host_efer: Efer,
    /// Bits it may set in XCR0; 0 without XSAVE.
    pub xcr0: u64,
    /// Bits it may set in XSS.
    pub xss: u64,
    /// May the guest use only the paravirtual features it is shown
    /// (`KVM_CAP_ENFORCE_PV_FEATURE_CPUID`)?
    pub enforce_pv: bool,
}

impl GuestCaps {
    /// Of a vCPU whose VMM has not set CPUID.
    pub fn without_cpuid(platform: &Platform) -> Self {
        let mut caps = Self {
            features: FeatureSet::EMPTY,
            vendor: Vendor::Intel,
            physical_bits: 36,
            cr4: CR4_ALWAYS,
            efer: Efer(0),
            host_efer: efer(&platform.features),
            xcr0: 0,
            xss: 0,
            enforce_pv: false,
        };
        caps.settle(platform);
        caps
    }

    /// Of a vCPU whose VMM has.
    pub fn new<S>(table: &CpuidTable<S>, platform: &Platform, enforce_pv: bool) -> Self
    where
        S: DerefMut<Target = [kvm_cpuid_entry2]>,
    {
        let mut shown = FeatureSet::EMPTY;
        for word in Word::ALL {
            shown.set_word(word, table.word(word));
        }
        shown.set_word(Word::KvmEax, paravirtual(table));

        let quad = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let states = table.find(0xd, 0).unwrap_or_default();
        let supervisor = table.find(0xd, 1).unwrap_or_default();
        let mut caps = Self {
            features: shown.and(&platform.features),
            vendor: table.vendor(),
            physical_bits: physical_bits(table),
            xcr0: quad(states.eax, states.edx) & platform.xcr0,
            xss: quad(supervisor.ecx, supervisor.edx) & platform.xss,
            enforce_pv,
            ..Self::without_cpuid(platform)
        };
        caps.settle(platform);
        caps
    }

    fn settle(&mut self, platform: &Platform) {
        if !self.features.has(Feature::XSAVE) {
            self.xcr0 = 0;
            self.xss = 0;
        }
        self.cr4 = CR4_FEATURES
            .iter()
            .filter(|(_, feature)| self.features.has(*feature))
            .fold(CR4_ALWAYS, |bits, (bit, _)| bits | *bit);
        self.efer = efer(&self.features);
        self.features
            .assign(Feature::GBPAGES, platform.features.has(Feature::GBPAGES));
    }

    /// Is the guest shown the feature, and does the module provide it?
    #[inline]
    pub const fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// May the guest use the paravirtual feature? It may, unless told
    /// otherwise, use what it is not shown.
    #[inline]
    pub const fn may_use(&self, feature: Feature) -> bool {
        !self.enforce_pv || self.has(feature)
    }

    /// Bits of a physical address that do not exist for the guest.
    #[inline]
    pub const fn reserved_physical(&self) -> u64 {
        u64::MAX.wrapping_shl(self.physical_bits as u32)
    }
}

/// The EFER bits of features.
fn efer(features: &FeatureSet) -> Efer {
    EFER_FEATURES
        .iter()
        .filter(|(_, feature)| features.has(*feature))
        .fold(Efer(0), |bits, (bit, _)| bits | *bit)
}

/// Width of the guest's physical addresses.
fn physical_bits<S>(table: &CpuidTable<S>) -> u8
where
    S: DerefMut<Target = [kvm_cpuid_entry2]>,
{
    let last = table.find(0x8000_0000, 0).unwrap_or_default().eax;
    match table.find(0x8000_0008, 0) {
        // Eight bits.
        Some(sizes) if last >= 0x8000_0008 => ((sizes.eax & 0xff) as u8).clamp(32, 52),
        _ => 36,
    }
}

/// KVM's features as the VMM shows them. Another hypervisor's leaves may
/// stand before KVM's, which then begin at a higher multiple of 0x100.
fn paravirtual<S>(table: &CpuidTable<S>) -> u32
where
    S: DerefMut<Target = [kvm_cpuid_entry2]>,
{
    let kvm = signature();
    table
        .entries()
        .iter()
        .filter(|entry| {
            (0..0x100).contains(&(entry.function.wrapping_sub(KVM_CPUID_SIGNATURE) >> 8))
        })
        .filter(|entry| entry.function & 0xff == 0)
        .find(|entry| (entry.ebx, entry.ecx, entry.edx) == (kvm.ebx, kvm.ecx, kvm.edx))
        .and_then(|entry| table.find(entry.function.wrapping_add(1), 0))
        .map_or(0, |features| features.eax)
}
