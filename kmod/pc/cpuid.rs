// SPDX-License-Identifier: GPL-2.0

//! CPUID: what the host's processor and this module can give to a guest, what
//! the VMM made of it, and what the guest reads.
//!
//! - [`features`]: every feature bit, and on what terms a guest gets it.
//! - [`supported`]: the answers to `KVM_GET_SUPPORTED_CPUID` and
//!   `KVM_GET_EMULATED_CPUID`.
//! - [`table`]: a vCPU's CPUID, made for fast look-up.
//! - [`caps`]: what follows from a vCPU's CPUID for the rest of the module.
//! - [`xsave`]: sizes of XSAVE areas.

pub mod caps;
pub mod features;
pub mod supported;
pub mod table;
pub mod xsave;

pub use caps::GuestCaps;
pub use features::{Feature, FeatureSet, Word};
pub use supported::Platform;
pub use table::{CpuidTable, Dynamic};
pub use xsave::XsaveLayout;

/// Most entries a vCPU's CPUID may have, and `KVM_GET_SUPPORTED_CPUID` uses.
pub const MAX_ENTRIES: usize = 256;

/// An answer of the CPUID instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

impl Answer {
    /// All zero: what reserved leaves read as.
    pub const ZERO: Self = Self {
        eax: 0,
        ebx: 0,
        ecx: 0,
        edx: 0,
    };

    /// One of the registers.
    #[inline]
    pub const fn register(&self, register: features::Register) -> u32 {
        match register {
            features::Register::Eax => self.eax,
            features::Register::Ebx => self.ebx,
            features::Register::Ecx => self.ecx,
            features::Register::Edx => self.edx,
        }
    }

    /// One of the registers, to be changed.
    #[inline]
    pub fn register_mut(&mut self, register: features::Register) -> &mut u32 {
        match register {
            features::Register::Eax => &mut self.eax,
            features::Register::Ebx => &mut self.ebx,
            features::Register::Ecx => &mut self.ecx,
            features::Register::Edx => &mut self.edx,
        }
    }
}

/// Whose processor it is, or claims to be: the two differ in behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// AMD and Hygon.
    Amd,
    /// Intel, and all that follow it.
    Intel,
}

impl Vendor {
    /// The vendor named in leaf 0 (APM volume 3, E.3.1; SDM volume 2A).
    pub const fn of_leaf0(leaf: &Answer) -> Self {
        match (leaf.ebx, leaf.edx, leaf.ecx) {
            // "AuthenticAMD", "HygonGenuine".
            (0x6874_7541, 0x6974_6e65, 0x444d_4163) | (0x6f67_7948, 0x6e65_476e, 0x656e_6975) => {
                Self::Amd
            }
            _ => Self::Intel,
        }
    }
}
