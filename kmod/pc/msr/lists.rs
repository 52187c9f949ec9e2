// SPDX-License-Identifier: GPL-2.0

//! The lists of MSRs that VMMs ask for, and MSRs that tell about the host
//! (API document 4.3 and 4.18).

use super::super::cpuid::{Feature, Platform, Vendor};
use super::index;
use super::table::{self, Listed, Needs, Row, TABLE};
use super::PLATFORM_INFO_CPUID_FAULTS;

/// Bits of ARCH_CAPABILITIES that are as true for a guest as for the host
/// (SDM volume 4, table 2-2): what the processor is immune to. Left out are
/// bits that announce an MSR which is not there: TSX_CTRL (7), the energy
/// filter (11), XAPIC_DISABLE (21), MCU_OPT_CTRL (18) and others.
const ARCH_CAPABILITIES_GIVEN: u64 = {
    let bits: [u32; 19] = [
        0,  // RDCL_NO
        1,  // IBRS_ALL
        2,  // RSBA
        3,  // SKIP_L1DFL_VMENTRY
        4,  // SSB_NO
        5,  // MDS_NO
        6,  // PSCHANGE_MC_NO
        8,  // TAA_NO
        13, // SBDR_SSDP_NO
        14, // FBSDP_NO
        15, // PSDP_NO
        17, // FB_CLEAR
        19, // RRSBA
        20, // BHI_NO
        24, // PBRSB_NO
        26, // GDS_NO
        27, // RFDS_NO
        28, // RFDS_CLEAR
        62, // ITS_NO
    ];
    let mut mask = 0;
    let mut next = 0;
    while next < bits.len() {
        mask |= 1u64 << bits[next];
        next += 1;
    }
    mask
};

/// Is the MSR one that a host can have at all? Vendor and features of the
/// host decide, not those a guest is shown.
fn offered(row: &Row, platform: &Platform) -> bool {
    match row.needs {
        Needs::Nothing => true,
        Needs::Any(features) => features
            .iter()
            .any(|feature| platform.features.has(*feature)),
        Needs::Paravirtual(feature) => platform.features.has(feature),
        Needs::Amd => platform.vendor == Vendor::Amd,
        Needs::Intel => platform.vendor == Vendor::Intel,
    }
}

/// The MSRs of `KVM_GET_MSR_INDEX_LIST`.
pub fn state(platform: &Platform) -> impl Iterator<Item = u32> + '_ {
    rows().filter_map(move |row| {
        let listed = matches!(row.listed, Listed::State | Listed::Feature);
        (listed && offered(row, platform)).then_some(row.first)
    })
}

/// The MSRs of `KVM_GET_MSR_FEATURE_INDEX_LIST`.
pub fn features(platform: &Platform) -> impl Iterator<Item = u32> + '_ {
    rows().filter_map(move |row| {
        let listed = matches!(row.listed, Listed::Feature | Listed::FeatureOnly);
        (listed && offered(row, platform)).then_some(row.first)
    })
}

fn rows() -> impl Iterator<Item = &'static Row> {
    static ROWS: [Row; TABLE.len()] = TABLE;
    ROWS.iter()
}

/// Is the MSR in a list on some host?
pub fn is_listed(index: u32) -> bool {
    table::find(index).is_some_and(|row| row.listed != Listed::No)
}

/// What `KVM_GET_MSRS` on `/dev/kvm` says of a feature MSR; `None` when it is
/// not in the list. `host` reads an MSR of the host's, if it has it.
pub fn feature(index: u32, platform: &Platform, host: &impl Fn(u32) -> Option<u64>) -> Option<u64> {
    if !features(platform).any(|listed| listed == index) {
        return None;
    }
    Some(match index {
        index::UCODE_REV => host(index).unwrap_or(default_ucode(platform.vendor)),
        index::ARCH_CAPABILITIES => arch_capabilities(platform, host),
        index::PLATFORM_INFO => PLATFORM_INFO_CPUID_FAULTS,
        index::DE_CFG => de_cfg(platform, host),
        _ => return None,
    })
}

/// LFENCE serializes: always, or because the host's kernel has said so.
fn de_cfg(platform: &Platform, host: &impl Fn(u32) -> Option<u64>) -> u64 {
    const LFENCE_SERIALIZES: u64 = 1 << 1;
    if platform.features.has(Feature::LFENCE_RDTSC) {
        return LFENCE_SERIALIZES;
    }
    host(index::DE_CFG).unwrap_or(0) & LFENCE_SERIALIZES
}

/// The guest's ARCH_CAPABILITIES, as long as its VMM does not say otherwise.
pub fn arch_capabilities(platform: &Platform, host: &impl Fn(u32) -> Option<u64>) -> u64 {
    if !platform.features.has(Feature::ARCH_CAPABILITIES) {
        return 0;
    }
    host(index::ARCH_CAPABILITIES).unwrap_or(0) & ARCH_CAPABILITIES_GIVEN
}

/// A microcode revision guests take for recent.
pub(super) const fn default_ucode(vendor: Vendor) -> u64 {
    match vendor {
        Vendor::Amd => 0x0100_0065,
        // In the upper half.
        Vendor::Intel => 1 << 32,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cpuid::supported::tests::{amd, restrictions};
    use super::*;

    #[test]
    fn a_kernel_can_make_lfence_serialize() {
        let mut platform = Platform::new(&amd, &restrictions());
        assert_eq!(feature(index::DE_CFG, &platform, &|_| None), Some(2));
        platform.features.assign(Feature::LFENCE_RDTSC, false);
        assert_eq!(feature(index::DE_CFG, &platform, &|_| None), Some(0));
        assert_eq!(feature(index::DE_CFG, &platform, &|_| Some(0xff)), Some(2));
    }

    #[test]
    fn second_controls_of_banks_need_cmci() {
        use super::super::{mce, table::Access};
        assert_eq!(mce::SUPPORTED_CAP & 1 << 10, 0, "no CMCI");
        for index in [index::MC0_CTL2, index::MC31_CTL2] {
            let guest = table::find(index).map(|row| row.guest);
            assert_eq!(guest, Some(Access::WriteOnly));
        }
    }
}
