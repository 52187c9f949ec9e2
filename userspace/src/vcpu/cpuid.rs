// SPDX-License-Identifier: GPL-2.0-or-later

//! CPUID of one vCPU: what KVM supports on this host, with the vCPU's own place in the machine in
//! it. The machine has one socket of as many single-threaded cores as there are vCPUs.
//!
//! Leaves are those of AMD's APM volume 3, appendix E, and Intel's SDM volume 2A, CPUID.

use kvm_bindings::{kvm_cpuid_entry2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};

/// Where a vCPU is in the machine.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Number of the vCPU, which is its APIC id.
    pub index: u32,
    /// How many vCPUs the machine has.
    pub count: u32,
    /// The local APIC's timer has a TSC-deadline mode.
    pub deadline_timer: bool,
}

impl Place {
    /// Bits of the APIC id that number the cores.
    fn core_bits(self) -> u32 {
        self.count.max(1).next_power_of_two().trailing_zeros()
    }

    fn last_core(self) -> u32 {
        self.count.saturating_sub(1)
    }
}

const BASIC_MAX: u32 = 0;
const FEATURES: u32 = 1;
const INTEL_CACHES: u32 = 4;
const INTEL_TOPOLOGY: u32 = 0xb;
const INTEL_TOPOLOGY_V2: u32 = 0x1f;
const AMD_FEATURES: u32 = 0x8000_0001;
const AMD_SIZES: u32 = 0x8000_0008;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;

const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
const FEATURES_ECX_HYPERVISOR: u32 = 1 << 31;
/// More than one logical processor in the package.
const FEATURES_EDX_HTT: u32 = 1 << 28;
/// The processors in the package are cores, not threads.
const AMD_FEATURES_ECX_CMP_LEGACY: u32 = 1 << 1;

/// Level of the cache that all cores share.
const SHARED_CACHE_LEVEL: u32 = 3;

/// Replaces the bits `shift..shift + width` of `register`.
fn put(register: &mut u32, shift: u32, width: u32, value: u32) {
    let mask = (1u32 << width) - 1;
    *register = *register & !(mask << shift) | (value & mask) << shift;
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on {
        *register | bit
    } else {
        *register & !bit
    };
}

/// The CPUID entries of the vCPU at `place`, made of those KVM supports.
pub fn for_vcpu(supported: &[kvm_cpuid_entry2], place: Place) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = supported
        .iter()
        .filter(|entry| !matches!(entry.function, INTEL_TOPOLOGY | INTEL_TOPOLOGY_V2))
        .copied()
        .collect();
    for entry in &mut entries {
        adapt(entry, place);
    }
    let basic_max = supported
        .iter()
        .find(|entry| entry.function == BASIC_MAX)
        .map_or(0, |entry| entry.eax);
    for leaf in [INTEL_TOPOLOGY, INTEL_TOPOLOGY_V2] {
        if basic_max >= leaf {
            entries.extend(topology(leaf, place));
        }
    }
    entries
}

fn adapt(entry: &mut kvm_cpuid_entry2, place: Place) {
    let several = place.count > 1;
    match entry.function {
        FEATURES => {
            put(&mut entry.ebx, 24, 8, place.index);
            put(&mut entry.ebx, 16, 8, place.count);
            set(&mut entry.ecx, FEATURES_ECX_HYPERVISOR, true);
            if place.deadline_timer {
                set(&mut entry.ecx, FEATURES_ECX_TSC_DEADLINE, true);
            }
            set(&mut entry.edx, FEATURES_EDX_HTT, several);
        }
        // Bits 4:0 of EAX are the cache's type; 0 ends the list.
        INTEL_CACHES if entry.eax & 0x1f != 0 => {
            let sharers = sharers(entry.eax, place);
            put(&mut entry.eax, 26, 6, place.last_core());
            put(&mut entry.eax, 14, 12, sharers);
        }
        AMD_CACHES if entry.eax & 0x1f != 0 => {
            let sharers = sharers(entry.eax, place);
            put(&mut entry.eax, 14, 12, sharers);
        }
        AMD_FEATURES if is_amd(entry) => set(&mut entry.ecx, AMD_FEATURES_ECX_CMP_LEGACY, several),
        AMD_SIZES => {
            put(&mut entry.ecx, 0, 8, place.last_core());
            put(&mut entry.ecx, 12, 4, place.core_bits());
        }
        AMD_TOPOLOGY => {
            entry.eax = place.index;
            // Core id, and one thread per core; then one node.
            entry.ebx = place.index & 0xff;
            entry.ecx = 0;
            entry.edx = 0;
        }
        _ => {}
    }
}

/// How many processors share a cache, less one; both vendors have its level in EAX bits 7:5.
fn sharers(eax: u32, place: Place) -> u32 {
    if eax >> 5 & 7 >= SHARED_CACHE_LEVEL {
        place.last_core()
    } else {
        0
    }
}

/// Whether this is an AMD processor's feature leaf: Intel has none of these bits.
fn is_amd(entry: &kvm_cpuid_entry2) -> bool {
    const AMD_ONLY: u32 = 1 << 2 // SVM
        | 1 << 4 // CR8 in 32-bit mode
        | 1 << 6 // SSE4A
        | 1 << 22; // topology extensions
    entry.ecx & AMD_ONLY != 0
}

/// The levels of the machine: threads in a core, cores in the package, nothing above.
fn topology(leaf: u32, place: Place) -> [kvm_cpuid_entry2; 3] {
    const LEVEL_THREAD: u32 = 1;
    const LEVEL_CORE: u32 = 2;
    let level = |index: u32, kind: u32, bits: u32, processors: u32| kvm_cpuid_entry2 {
        function: leaf,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: bits,
        ebx: processors,
        ecx: index | kind << 8,
        edx: place.index,
        ..Default::default()
    };
    [
        level(0, LEVEL_THREAD, 0, 1),
        level(1, LEVEL_CORE, place.core_bits(), place.count),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    fn place(index: u32, count: u32) -> Place {
        Place {
            index,
            count,
            deadline_timer: true,
        }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found: Vec<_> = entries
            .iter()
            .filter(|e| e.function == function && e.index == index)
            .collect();
        assert_eq!(found.len(), 1, "leaf {function:#x}.{index}");
        *found[0]
    }

    #[test]
    fn apic_id_is_everywhere_the_same() {
        let supported = [
            entry(BASIC_MAX, 0, [0x1f, 0, 0, 0]),
            entry(FEATURES, 0, [0x800f12, 0xff05_0800, 0, FEATURES_EDX_HTT]),
            entry(INTEL_TOPOLOGY, 0, [9, 9, 9, 9]),
            entry(AMD_TOPOLOGY, 0, [9, 9, 9, 9]),
        ];
        let entries = for_vcpu(&supported, place(2, 3));
        assert_eq!(find(&entries, FEATURES, 0).ebx, 0x0203_0800);
        for leaf in [INTEL_TOPOLOGY, INTEL_TOPOLOGY_V2] {
            for level in 0..3 {
                assert_eq!(find(&entries, leaf, level).edx, 2);
            }
            assert_eq!(find(&entries, leaf, 1).eax, 2, "three cores take two bits");
            assert_eq!(find(&entries, leaf, 1).ebx, 3);
        }
        assert_eq!(find(&entries, AMD_TOPOLOGY, 0).eax, 2);
        assert_eq!(find(&entries, AMD_TOPOLOGY, 0).ebx, 2);
    }

    #[test]
    fn features_follow_the_machine() {
        let supported = [entry(FEATURES, 0, [0, 0, 0, FEATURES_EDX_HTT | 1])];
        let one = find(&for_vcpu(&supported, place(0, 1)), FEATURES, 0);
        assert_eq!(one.edx, 1);
        assert_eq!(one.ecx, FEATURES_ECX_HYPERVISOR | FEATURES_ECX_TSC_DEADLINE);
        let none = Place {
            deadline_timer: false,
            ..place(0, 2)
        };
        let two = find(&for_vcpu(&supported, none), FEATURES, 0);
        assert_eq!(two.edx, FEATURES_EDX_HTT | 1);
        assert_eq!(two.ecx, FEATURES_ECX_HYPERVISOR);
    }

    #[test]
    fn only_the_last_cache_is_shared() {
        let cache = |level: u32| 1 | level << 5;
        let supported = [
            entry(INTEL_CACHES, 0, [cache(1) | 0xfff << 14, 0, 0, 0]),
            entry(INTEL_CACHES, 1, [cache(3), 0, 0, 0]),
            entry(INTEL_CACHES, 2, [0, 0, 0, 0]),
            entry(AMD_CACHES, 0, [cache(3), 0, 0, 0]),
        ];
        let entries = for_vcpu(&supported, place(0, 4));
        assert_eq!(find(&entries, INTEL_CACHES, 0).eax, cache(1) | 3 << 26);
        assert_eq!(
            find(&entries, INTEL_CACHES, 1).eax,
            cache(3) | 3 << 26 | 3 << 14
        );
        assert_eq!(find(&entries, INTEL_CACHES, 2).eax, 0);
        assert_eq!(find(&entries, AMD_CACHES, 0).eax, cache(3) | 3 << 14);
    }

    #[test]
    fn amd_core_count() {
        let supported = [entry(AMD_SIZES, 0, [0x3030, 0, 0xf0ff, 0])];
        let entries = for_vcpu(&supported, place(0, 4));
        assert_eq!(find(&entries, AMD_SIZES, 0).ecx, 0x2003);
        assert_eq!(find(&entries, AMD_SIZES, 0).eax, 0x3030);
    }

    #[test]
    fn small_processors_have_no_topology_leaf() {
        let supported = [entry(BASIC_MAX, 0, [0xa, 0, 0, 0])];
        assert_eq!(for_vcpu(&supported, place(0, 2)).len(), 1);
    }
}
