// SPDX-License-Identifier: GPL-2.0

//! The bits of the two formats.

/// The bits of a format.
///
/// An implementation must have bit 7 for "a leaf above level 1", the address
/// in bits 51 to 12, and ignore bits 52 to 56. An entry of which no bit of
/// [`Format::PRESENT`] is set maps nothing, whatever else it holds.
pub trait Format: Copy + Send + Sync + 'static {
    /// Name, for people.
    const NAME: &'static str;
    /// Any of these set: the entry maps something.
    const PRESENT: u64;
    /// Set: writes are allowed.
    const WRITE: u64;
    /// All set: instruction fetches are allowed, without `NO_EXECUTE`.
    const EXECUTE: u64;
    /// Set: instruction fetches are not allowed.
    const NO_EXECUTE: u64;
    /// Set by the processor on use; 0 when it does not do that.
    const ACCESSED: u64;
    /// Set in a leaf by the processor on a write; 0 when it does not do that.
    const DIRTY: u64;
    /// All a pointer to a table has besides the address.
    const TABLE: u64;
    /// All a leaf of ordinary memory has besides address and permissions.
    const LEAF: u64;
}

/// AMD's nested page tables (APM vol. 2, 15.25.5: every access is one of user
/// mode, so bit 2 must be set throughout; the host has EFER.NXE set).
#[derive(Clone, Copy, Debug)]
pub struct Npt;

impl Npt {
    const P: u64 = 1 << 0;
    const RW: u64 = 1 << 1;
    const US: u64 = 1 << 2;
    const A: u64 = 1 << 5;
    const D: u64 = 1 << 6;
    const NX: u64 = 1 << 63;
}

impl Format for Npt {
    const NAME: &'static str = "NPT";
    const PRESENT: u64 = Self::P;
    const WRITE: u64 = Self::RW;
    const EXECUTE: u64 = 0;
    const NO_EXECUTE: u64 = Self::NX;
    const ACCESSED: u64 = Self::A;
    const DIRTY: u64 = Self::D;
    const TABLE: u64 = Self::P | Self::RW | Self::US | Self::A;
    // Memory type: write-back from the host's PAT entry 0; the guest's own
    // PAT is combined with it (15.25.8).
    const LEAF: u64 = Self::P | Self::US;
}

/// Intel's extended page tables (SDM vol. 3, 29.3.2), with accessed and dirty
/// flags (29.3.5, EPTP bit 6) or without.
#[derive(Clone, Copy, Debug)]
pub struct Ept<const ACCESSED_DIRTY: bool>;

impl<const ACCESSED_DIRTY: bool> Ept<ACCESSED_DIRTY> {
    const R: u64 = 1 << 0;
    const W: u64 = 1 << 1;
    const X: u64 = 1 << 2;
    /// Memory type (bits 5 to 3) write-back.
    const WRITE_BACK: u64 = 6 << 3;
    /// The guest's PAT is ignored.
    const IGNORE_PAT: u64 = 1 << 6;
    const A: u64 = if ACCESSED_DIRTY { 1 << 8 } else { 0 };
    const D: u64 = if ACCESSED_DIRTY { 1 << 9 } else { 0 };
}

impl<const ACCESSED_DIRTY: bool> Format for Ept<ACCESSED_DIRTY> {
    const NAME: &'static str = "EPT";
    const PRESENT: u64 = Self::R | Self::W | Self::X;
    const WRITE: u64 = Self::W;
    const EXECUTE: u64 = Self::X;
    const NO_EXECUTE: u64 = 0;
    const ACCESSED: u64 = Self::A;
    const DIRTY: u64 = Self::D;
    const TABLE: u64 = Self::R | Self::W | Self::X | Self::A;
    const LEAF: u64 = Self::R | Self::WRITE_BACK | Self::IGNORE_PAT;
}
