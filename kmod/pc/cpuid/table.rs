// SPDX-License-Identifier: GPL-2.0

//! A vCPU's CPUID: the entries its VMM set, found fast.
//!
//! Entries stay in the order they came in, as `KVM_GET_CPUID2` returns them.
//! A table of heads leads from a leaf to its first entry, a chain from there
//! to the others of the leaf. The few bits that mirror the guest's own state
//! are written into the entries when that state changes ([`Dynamic`]), so
//! that a look-up is a read.

use core::ops::DerefMut;

use super::super::search::position;
use super::features::{Feature, Register, Word};
use super::xsave::XsaveLayout;
use super::{Answer, Vendor, MAX_ENTRIES};
use crate::uapi::errno::{E2BIG, EINVAL};
use crate::uapi::{kvm_cpuid_entry2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};

/// Basic leaves with a head of their own.
const BASIC: usize = 0x20;
/// Leaves from 0x4000_0000 on with a head of their own.
const HYPERVISOR: usize = 0x10;
/// Leaves from 0x8000_0000 on with a head of their own.
const EXTENDED: usize = 0x40;

/// The place of an entry, counted from 1; 0 is none.
type Place = u16;

/// The state of the guest that CPUID shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// CR4.PKE.
    pub pke: bool,
    /// APIC_BASE enables the APIC.
    pub apic: bool,
    /// MISC_ENABLE.MONITOR, when it decides the feature bit (without
    /// `KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT`); else `None`.
    pub monitor: Option<bool>,
    /// XCR0.
    pub xcr0: u64,
    /// XSS.
    pub xss: u64,
}

/// A vCPU's CPUID. `S` holds the entries.
pub struct CpuidTable<S> {
    entries: S,
    basic: [Place; BASIC],
    hypervisor: [Place; HYPERVISOR],
    extended: [Place; EXTENDED],
    /// The next entry of the same leaf, by the place before this one.
    next: [Place; MAX_ENTRIES],
    vendor: Vendor,
    dynamic: Option<Dynamic>,
    /// What the VMM set, where `dynamic` overwrites it.
    offers_apic: bool,
}

impl<S: DerefMut<Target = [kvm_cpuid_entry2]>> CpuidTable<S> {
    /// Takes what a VMM set with `KVM_SET_CPUID2` (API document 4.20).
    ///
    /// The first entry for a leaf and subleaf counts. The dynamic bits are
    /// what the VMM set until [`set_dynamic`](Self::set_dynamic).
    ///
    /// # Errors
    ///
    /// `E2BIG` for more than [`MAX_ENTRIES`]; `EINVAL` for a width of linear
    /// addresses that no processor has.
    pub fn new(entries: S) -> Result<Self, i32> {
        if entries.len() > MAX_ENTRIES {
            return Err(E2BIG);
        }
        let mut table = Self {
            entries,
            basic: [0; BASIC],
            hypervisor: [0; HYPERVISOR],
            extended: [0; EXTENDED],
            next: [0; MAX_ENTRIES],
            vendor: Vendor::Intel,
            dynamic: None,
            offers_apic: false,
        };
        table.link();
        if let Some(leaf0) = table.find(0, 0) {
            table.vendor = Vendor::of_leaf0(&leaf0);
        }
        if let Some(sizes) = table.find(0x8000_0008, 0) {
            if !matches!(sizes.eax >> 8 & 0xff, 0 | 48 | 57) {
                return Err(EINVAL);
            }
        }
        table.offers_apic = table.bit(Feature::APIC);
        Ok(table)
    }

    /// Builds the heads and chains. From the end, so that the first entry
    /// becomes the head, and a chain only ever leads onwards.
    fn link(&mut self) {
        let Self {
            entries,
            basic,
            hypervisor,
            extended,
            next,
            ..
        } = self;
        let mut place = entries.len().min(MAX_ENTRIES);
        while let Some(index) = place.checked_sub(1) {
            let function = entries.get(index).map_or(0, |entry| entry.function);
            let head = basic
                .get_mut(function as usize)
                .or_else(|| hypervisor.get_mut((function ^ 0x4000_0000) as usize))
                .or_else(|| extended.get_mut((function ^ 0x8000_0000) as usize));
            if let (Some(head), Some(next)) = (head, next.get_mut(index)) {
                *next = *head;
                // At most MAX_ENTRIES.
                *head = place as Place;
            }
            place = index;
        }
    }

    /// The place of a leaf's first entry, for a leaf that has a head.
    #[inline]
    fn head(&self, leaf: u32) -> Option<Place> {
        if let Some(head) = self.basic.get(leaf as usize) {
            return Some(*head);
        }
        if let Some(head) = self.extended.get((leaf ^ 0x8000_0000) as usize) {
            return Some(*head);
        }
        self.hypervisor.get((leaf ^ 0x4000_0000) as usize).copied()
    }

    /// Index in `entries` of the entry for a leaf and subleaf.
    #[inline]
    fn index_of(&self, leaf: u32, subleaf: u32) -> Option<usize> {
        let Some(mut place) = self.head(leaf) else {
            return position(&self.entries, |entry| {
                entry.function == leaf && answers(entry, subleaf)
            });
        };
        loop {
            let index = usize::from(place).checked_sub(1)?;
            if answers(self.entries.get(index)?, subleaf) {
                return Some(index);
            }
            place = *self.next.get(index)?;
        }
    }

    /// What the VMM set for a leaf and subleaf, with dynamic bits.
    #[inline]
    pub fn find(&self, leaf: u32, subleaf: u32) -> Option<Answer> {
        let entry = self.entries.get(self.index_of(leaf, subleaf)?)?;
        Some(Answer {
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
        })
    }

    /// What the guest reads.
    #[inline]
    pub fn lookup(&self, leaf: u32, subleaf: u32) -> Answer {
        match self.find(leaf, subleaf) {
            Some(answer) => answer,
            None => self.missing(leaf, subleaf),
        }
    }

    /// What the guest reads where the VMM set nothing.
    ///
    /// AMD's processors have zeros there. Intel's answer a leaf beyond the
    /// highest of its range as if it were the highest basic leaf (SDM volume
    /// 2A, CPUID). Both go on counting in the subleaves of the topology.
    #[cold]
    fn missing(&self, leaf: u32, subleaf: u32) -> Answer {
        if matches!(leaf, 0xb | 0x1f) {
            if let Some(level) = self.find(leaf, 1) {
                return Answer {
                    ecx: subleaf & 0xff,
                    edx: level.edx,
                    ..Answer::ZERO
                };
            }
        }
        if self.vendor == Vendor::Amd {
            return Answer::ZERO;
        }
        let first = match leaf {
            0x4000_0000..=0x4fff_ffff => leaf & 0xffff_ff00,
            0x8000_0000.. => leaf & 0xffff_0000,
            _ => 0,
        };
        let last = self.find(first, 0).map(|range| range.eax);
        if last.is_some_and(|last| leaf <= last) {
            return Answer::ZERO;
        }
        let Some(highest) = self.find(0, 0) else {
            return Answer::ZERO;
        };
        self.find(highest.eax, subleaf).unwrap_or(Answer::ZERO)
    }

    /// Does the VMM offer a feature?
    pub fn bit(&self, feature: Feature) -> bool {
        self.word(feature.word()) & feature.mask() != 0
    }

    /// A word of feature bits as the VMM set it.
    pub fn word(&self, word: Word) -> u32 {
        let info = word.info();
        self.find(info.leaf, info.index)
            .map_or(0, |answer| answer.register(info.register))
    }

    /// The vendor the guest sees.
    #[inline]
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// The entries, dynamic bits included.
    #[inline]
    pub fn entries(&self) -> &[kvm_cpuid_entry2] {
        &self.entries
    }

    /// The state last given to [`set_dynamic`](Self::set_dynamic).
    pub fn dynamic(&self) -> Option<Dynamic> {
        self.dynamic
    }

    /// Makes the entries mirror the guest's state. Cheap when nothing
    /// changed.
    #[inline]
    pub fn set_dynamic(&mut self, dynamic: Dynamic, layout: &XsaveLayout) {
        if self.dynamic != Some(dynamic) {
            self.write_dynamic(dynamic, layout);
        }
    }

    fn write_dynamic(&mut self, dynamic: Dynamic, layout: &XsaveLayout) {
        self.dynamic = Some(dynamic);
        let xsave = self.bit(Feature::XSAVE);
        self.put(Feature::OSXSAVE, xsave && dynamic.osxsave);
        let apic = self.offers_apic && dynamic.apic;
        self.put(Feature::APIC, apic);
        if let Some(monitor) = dynamic.monitor {
            self.put(Feature::MONITOR, monitor);
        }
        let pku = self.bit(Feature::PKU);
        self.put(Feature::OSPKE, pku && dynamic.pke);

        self.put_register(0xd, 0, Register::Ebx, layout.standard_size(dynamic.xcr0));
        if self.bit(Feature::XSAVEC) || self.bit(Feature::XSAVES) {
            let size = layout.compacted_size(dynamic.xcr0 | dynamic.xss);
            self.put_register(0xd, 1, Register::Ebx, size);
        }
    }

    fn put(&mut self, feature: Feature, present: bool) {
        let info = feature.word().info();
        let old = self.word(feature.word());
        let new = if present {
            old | feature.mask()
        } else {
            old & !feature.mask()
        };
        self.put_register(info.leaf, info.index, info.register, new);
    }

    fn put_register(&mut self, leaf: u32, subleaf: u32, register: Register, value: u32) {
        let index = self.index_of(leaf, subleaf);
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else {
            return;
        };
        match register {
            Register::Eax => entry.eax = value,
            Register::Ebx => entry.ebx = value,
            Register::Ecx => entry.ecx = value,
            Register::Edx => entry.edx = value,
        }
    }
}

/// Is the entry, of the right leaf, for the subleaf?
#[inline]
fn answers(entry: &kvm_cpuid_entry2, subleaf: u32) -> bool {
    entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0 || entry.index == subleaf
}

#[cfg(test)]
mod tests;
