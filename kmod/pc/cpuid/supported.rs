// SPDX-License-Identifier: GPL-2.0

//! What a guest can be given: `KVM_GET_SUPPORTED_CPUID` (API document 4.46)
//! and `KVM_GET_EMULATED_CPUID` (4.88).
//!
//! Leaves that say nothing are left out; a guest reads zeros there all the
//! same. That keeps the list well below the 100 entries some VMMs have room
//! for.

use super::features::{Feature, FeatureSet, Word};
use super::xsave::{self, XsaveLayout};
use super::{Answer, Vendor, MAX_ENTRIES};
use crate::uapi::errno::E2BIG;
use crate::uapi::{
    kvm_cpuid_entry2, KVM_CPUID_FEATURES, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_CPUID_SIGNATURE,
    KVM_SIGNATURE,
};

/// Highest basic leaf that is described.
const MAX_BASIC: u32 = 0x1f;
/// The caches of AMD's processors.
const CACHES_EXTENDED: u32 = 0x8000_001d;
/// More features of AMD's processors.
const FEATURES_EXTENDED_2: u32 = 0x8000_0021;
/// Highest extended leaf that is described.
const MAX_EXTENDED: u32 = 0x8000_0022;
/// Highest subleaf of leaf 7 that is described.
const MAX_LEAF7: u32 = 2;
/// Caches that are looked for in leaves 4 and 0x8000_001d.
const MAX_CACHES: u32 = 16;

/// The host as far as it decides what guests get.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// The processor's vendor.
    pub vendor: Vendor,
    /// Features guests get.
    pub features: FeatureSet,
    /// Extended states guests may enable in XCR0.
    pub xcr0: u64,
    /// Supervisor states guests may enable in XSS.
    pub xss: u64,
    /// Sizes of extended states.
    pub xsave: XsaveLayout,
    /// Width of a guest physical address a guest may have.
    pub physical_bits: u8,
    /// Width of a guest physical address that nested paging can map.
    pub addressable_bits: u8,
}

/// What the module has to say about the host before guests get anything.
#[derive(Clone, Copy, Debug)]
pub struct Restrictions {
    /// Features that are not given, whatever the host has.
    pub withheld: FeatureSet,
    /// States the kernel saves and restores for guests (XCR0).
    pub xcr0: u64,
    /// Width of an address that nested paging can map: 48 with four levels.
    pub addressable_bits: u8,
}

impl Platform {
    /// Takes stock of the host.
    pub fn new(host: &impl Fn(u32, u32) -> Answer, restrictions: &Restrictions) -> Self {
        let leaf0 = host(0, 0);
        let vendor = Vendor::of_leaf0(&leaf0);
        let xsave_leaf = if leaf0.eax >= 0xd {
            host(0xd, 0)
        } else {
            Answer::ZERO
        };
        let host_xcr0 = u64::from(xsave_leaf.eax) | u64::from(xsave_leaf.edx) << 32;
        let mut platform = Self {
            vendor,
            features: host_features(host, vendor).minus(&restrictions.withheld),
            xcr0: host_xcr0 & restrictions.xcr0 & xsave::GUEST_XCR0,
            // No supervisor state is switched.
            xss: 0,
            xsave: XsaveLayout::of_host(host),
            physical_bits: physical_bits(host),
            addressable_bits: 0,
        };
        platform.addressable_bits = platform.physical_bits.min(restrictions.addressable_bits);
        platform.settle();
        platform
    }

    /// Takes away features that are worth nothing without others.
    fn settle(&mut self) {
        let drop = |set: &mut FeatureSet, without: bool, features: &[Feature]| {
            if without {
                *set = set.minus(&FeatureSet::EMPTY.with(features));
            }
        };
        let set = &mut self.features;
        if !set.has(Feature::XSAVE) {
            self.xcr0 = 0;
            set.set_word(Word::LeafDEax, 0);
        }
        if self.xcr0 & xsave::AVX512 != xsave::AVX512 {
            self.xcr0 &= !xsave::AVX512;
        }
        let no_avx = self.xcr0 & xsave::YMM == 0;
        drop(set, no_avx, AVX_FEATURES);
        if no_avx {
            self.xcr0 &= !xsave::AVX512;
        }
        drop(set, self.xcr0 & xsave::AVX512 == 0, AVX512_FEATURES);
        drop(set, self.xcr0 & xsave::PKRU == 0, &[Feature::PKU]);
        if !set.has(Feature::PKU) {
            self.xcr0 &= !xsave::PKRU;
        }
    }

    /// The features of a word, as a guest gets them.
    fn word(&self, word: Word) -> u32 {
        self.features.word(word)
    }
}

/// Features that need the upper halves of YMM registers.
const AVX_FEATURES: &[Feature] = &[
    Feature::AVX,
    Feature::FMA,
    Feature::F16C,
    Feature::AVX2,
    Feature::VAES,
    Feature::VPCLMULQDQ,
    Feature::AVX_VNNI,
    Feature::AVX_IFMA,
    Feature::AVX_VNNI_INT8,
    Feature::AVX_NE_CONVERT,
    Feature::AVX_VNNI_INT16,
    Feature::SHA512,
    Feature::SM3,
    Feature::SM4,
    Feature::XOP,
    Feature::FMA4,
];

/// Features that need the AVX-512 states.
const AVX512_FEATURES: &[Feature] = &[
    Feature::AVX512F,
    Feature::AVX512DQ,
    Feature::AVX512_IFMA,
    Feature::AVX512PF,
    Feature::AVX512ER,
    Feature::AVX512CD,
    Feature::AVX512BW,
    Feature::AVX512VL,
    Feature::AVX512_VBMI,
    Feature::AVX512_VBMI2,
    Feature::AVX512_VNNI,
    Feature::AVX512_BITALG,
    Feature::AVX512_VPOPCNTDQ,
    Feature::AVX512_4VNNIW,
    Feature::AVX512_4FMAPS,
    Feature::AVX512_VP2INTERSECT,
    Feature::AVX512_FP16,
    Feature::AVX512_BF16,
];

/// The features the table lets through.
fn host_features(host: &impl Fn(u32, u32) -> Answer, vendor: Vendor) -> FeatureSet {
    let basic = host(0, 0).eax;
    let extended = host(0x8000_0000, 0).eax;
    let mut set = FeatureSet::EMPTY;
    for word in Word::ALL {
        let info = word.info();
        let present = match info.leaf >> 16 {
            0 => info.leaf <= basic && (info.leaf != 7 || info.index <= host(7, 0).eax),
            0x8000 => info.leaf <= extended,
            _ => false,
        };
        let bits = if present {
            host(info.leaf, info.index).register(info.register)
        } else {
            0
        };
        set.set_word(word, (bits & info.given) | info.emulated);
    }
    match vendor {
        Vendor::Amd => set.assign(Feature::ARCH_CAPABILITIES, false),
        Vendor::Intel => {
            set.set_word(Word::Ext21Eax, 0);
            set.set_word(Word::Ext21Ecx, 0);
            set.assign(Feature::EFER_LMSLE_MBZ, false);
        }
    }
    set
}

/// Width of the host's physical addresses (leaf 0x8000_0008).
fn physical_bits(host: &impl Fn(u32, u32) -> Answer) -> u8 {
    if host(0x8000_0000, 0).eax < 0x8000_0008 {
        return 36;
    }
    // Eight bits.
    let bits = (host(0x8000_0008, 0).eax & 0xff) as u8;
    bits.clamp(32, 52)
}

/// Entries that go to a VMM's buffer.
struct Sink<'a> {
    entries: &'a mut [kvm_cpuid_entry2],
    count: usize,
}

impl Sink<'_> {
    fn put(&mut self, entry: kvm_cpuid_entry2) -> Result<(), i32> {
        let place = self.entries.get_mut(self.count).ok_or(E2BIG)?;
        *place = entry;
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    fn leaf(&mut self, function: u32, answer: Answer) -> Result<(), i32> {
        self.put(entry(function, 0, 0, answer))
    }

    fn subleaf(&mut self, function: u32, index: u32, answer: Answer) -> Result<(), i32> {
        self.put(entry(
            function,
            index,
            KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            answer,
        ))
    }
}

fn entry(function: u32, index: u32, flags: u32, answer: Answer) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        flags,
        eax: answer.eax,
        ebx: answer.ebx,
        ecx: answer.ecx,
        edx: answer.edx,
        padding: [0; 3],
    }
}

/// Fills `entries` with what guests can be given; returns how many there are.
///
/// # Errors
///
/// `E2BIG` when there is not enough room.
pub fn supported(
    host: &impl Fn(u32, u32) -> Answer,
    platform: &Platform,
    entries: &mut [kvm_cpuid_entry2],
) -> Result<usize, i32> {
    let room = entries.len().min(MAX_ENTRIES);
    let mut sink = Sink {
        entries: entries.get_mut(..room).unwrap_or_default(),
        count: 0,
    };
    basic(host, platform, &mut sink)?;
    paravirtual(platform, &mut sink)?;
    extended(host, platform, &mut sink)?;
    Ok(sink.count)
}

/// Fills `entries` with what guests can be given although it is slow, or no
/// more than tolerated: MONITOR and MWAIT, which do nothing.
///
/// # Errors
///
/// `E2BIG` when there is not enough room.
pub fn emulated(mwait: bool, entries: &mut [kvm_cpuid_entry2]) -> Result<usize, i32> {
    let mut sink = Sink { entries, count: 0 };
    sink.leaf(
        0,
        Answer {
            eax: 1,
            ..Answer::ZERO
        },
    )?;
    let monitor = if mwait { Feature::MONITOR.mask() } else { 0 };
    sink.leaf(
        1,
        Answer {
            ecx: monitor,
            ..Answer::ZERO
        },
    )?;
    Ok(sink.count)
}

fn basic(
    host: &impl Fn(u32, u32) -> Answer,
    platform: &Platform,
    sink: &mut Sink<'_>,
) -> Result<(), i32> {
    let mut leaf0 = host(0, 0);
    leaf0.eax = leaf0.eax.min(MAX_BASIC);
    let last = leaf0.eax;
    sink.leaf(0, leaf0)?;

    let leaf1 = host(1, 0);
    sink.leaf(
        1,
        Answer {
            eax: leaf1.eax,
            // Only the CLFLUSH line: ids and counts are the VMM's.
            ebx: leaf1.ebx & 0x0000_ff00,
            ecx: platform.word(Word::Leaf1Ecx),
            edx: platform.word(Word::Leaf1Edx),
        },
    )?;
    if platform.vendor == Vendor::Intel {
        if last >= 2 {
            sink.leaf(2, host(2, 0))?;
        }
        if last >= 4 {
            caches(host, 4, sink)?;
        }
    }
    if last >= 6 {
        sink.leaf(
            6,
            Answer {
                eax: platform.word(Word::Leaf6Eax),
                ..Answer::ZERO
            },
        )?;
    }
    if last >= 7 {
        leaf7(host(7, 0).eax.min(MAX_LEAF7), platform, sink)?;
    }
    if last >= 0xd {
        leaf_d(host, platform, sink)?;
    }
    // The crystal and the TSC's ratio to it, and nominal frequencies, are
    // left to the VMM: it may run the guest's TSC at another rate.
    Ok(())
}

fn leaf7(last: u32, platform: &Platform, sink: &mut Sink<'_>) -> Result<(), i32> {
    sink.subleaf(
        7,
        0,
        Answer {
            eax: last,
            ebx: platform.word(Word::Leaf7Ebx),
            ecx: platform.word(Word::Leaf7Ecx),
            edx: platform.word(Word::Leaf7Edx),
        },
    )?;
    if last >= 1 {
        sink.subleaf(
            7,
            1,
            Answer {
                eax: platform.word(Word::Leaf7_1Eax),
                edx: platform.word(Word::Leaf7_1Edx),
                ..Answer::ZERO
            },
        )?;
    }
    if last >= 2 {
        sink.subleaf(
            7,
            2,
            Answer {
                edx: platform.word(Word::Leaf7_2Edx),
                ..Answer::ZERO
            },
        )?;
    }
    Ok(())
}

fn leaf_d(
    host: &impl Fn(u32, u32) -> Answer,
    platform: &Platform,
    sink: &mut Sink<'_>,
) -> Result<(), i32> {
    let size = platform.xsave.standard_size(platform.xcr0);
    sink.subleaf(
        0xd,
        0,
        Answer {
            eax: low(platform.xcr0),
            ebx: size,
            ecx: size,
            edx: high(platform.xcr0),
        },
    )?;
    if platform.xcr0 == 0 {
        return Ok(());
    }
    let states = platform.xcr0 | platform.xss;
    let compacts = platform.features.has(Feature::XSAVEC) || platform.features.has(Feature::XSAVES);
    sink.subleaf(
        0xd,
        1,
        Answer {
            eax: platform.word(Word::LeafDEax),
            ebx: if compacts {
                platform.xsave.compacted_size(states)
            } else {
                0
            },
            ecx: low(platform.xss),
            edx: high(platform.xss),
        },
    )?;
    for index in 2..64 {
        if states >> index & 1 == 0 {
            continue;
        }
        let state = host(0xd, index);
        sink.subleaf(
            0xd,
            index,
            Answer {
                eax: state.eax,
                ebx: state.ebx,
                // Supervisor state; aligned when compacted.
                ecx: state.ecx & 3,
                edx: 0,
            },
        )?;
    }
    Ok(())
}

/// A leaf that describes one cache per subleaf until one has type 0.
fn caches(
    host: &impl Fn(u32, u32) -> Answer,
    function: u32,
    sink: &mut Sink<'_>,
) -> Result<(), i32> {
    for index in 0..MAX_CACHES {
        let cache = host(function, index);
        sink.subleaf(function, index, cache)?;
        if cache.eax & 0x1f == 0 {
            break;
        }
    }
    Ok(())
}

fn paravirtual(platform: &Platform, sink: &mut Sink<'_>) -> Result<(), i32> {
    sink.leaf(KVM_CPUID_SIGNATURE, signature())?;
    sink.leaf(
        KVM_CPUID_FEATURES,
        Answer {
            eax: platform.word(Word::KvmEax),
            ..Answer::ZERO
        },
    )
}

/// Leaf 0x4000_0000.
pub(super) fn signature() -> Answer {
    let [b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = KVM_SIGNATURE;
    Answer {
        eax: KVM_CPUID_FEATURES,
        ebx: u32::from_le_bytes([b0, b1, b2, b3]),
        ecx: u32::from_le_bytes([c0, c1, c2, c3]),
        edx: u32::from_le_bytes([d0, d1, d2, d3]),
    }
}

fn extended(
    host: &impl Fn(u32, u32) -> Answer,
    platform: &Platform,
    sink: &mut Sink<'_>,
) -> Result<(), i32> {
    let mut first = host(0x8000_0000, 0);
    if first.eax < 0x8000_0000 {
        return Ok(());
    }
    let mut last = first.eax.min(MAX_EXTENDED);
    // What the module adds there is to be seen. Only where the host has the
    // leaves up to the caches, which VMMs then take from it.
    if last >= CACHES_EXTENDED && platform.word(Word::Ext21Eax) != 0 {
        last = last.max(FEATURES_EXTENDED_2);
    }
    first.eax = last;
    sink.leaf(0x8000_0000, first)?;
    for function in 0x8000_0001..=last {
        let Some(answer) = extended_leaf(function, host(function, 0), platform) else {
            continue;
        };
        sink.leaf(function, answer)?;
    }
    if platform.vendor == Vendor::Amd && last >= CACHES_EXTENDED {
        caches(host, CACHES_EXTENDED, sink)?;
    }
    Ok(())
}

/// What becomes of an extended leaf without subleaves; `None` hides it.
fn extended_leaf(function: u32, host: Answer, platform: &Platform) -> Option<Answer> {
    let word = |word| platform.word(word);
    let answer = match function {
        0x8000_0001 => Answer {
            eax: host.eax,
            // The package type; the rest is reserved or the brand's.
            ebx: host.ebx & 0xf000_ffff,
            ecx: word(Word::Ext1Ecx),
            edx: word(Word::Ext1Edx),
        },
        // The brand string, caches and TLBs.
        0x8000_0002..=0x8000_0006 => host,
        0x8000_0007 => Answer {
            edx: word(Word::Ext7Edx),
            ..Answer::ZERO
        },
        0x8000_0008 => Answer {
            eax: address_sizes(host.eax, platform),
            ebx: word(Word::Ext8Ebx),
            // Core count and size of the core's id, for the VMM to replace.
            ecx: host.ecx & 0x0000_f0ff,
            edx: 0,
        },
        // TLBs for 1 GiB pages.
        0x8000_0019 => Answer {
            eax: host.eax,
            ebx: host.ebx,
            ..Answer::ZERO
        },
        // Widths of the execution units.
        0x8000_001a => Answer {
            eax: host.eax & 7,
            ..Answer::ZERO
        },
        FEATURES_EXTENDED_2 => Answer {
            eax: word(Word::Ext21Eax),
            ecx: word(Word::Ext21Ecx),
            ..Answer::ZERO
        },
        _ => return None,
    };
    Some(answer)
}

/// Leaf 0x8000_0008, EAX.
fn address_sizes(host: u32, platform: &Platform) -> u32 {
    let linear = (host >> 8 & 0xff).max(48);
    u32::from(platform.physical_bits) | linear << 8 | u32::from(platform.addressable_bits) << 16
}

const fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

#[cfg(test)]
pub mod tests;
