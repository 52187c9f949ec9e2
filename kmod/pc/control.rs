// SPDX-License-Identifier: GPL-2.0

//! Legal values of the control registers, EFER and XCR0.
//!
//! Functions for guests' writes return what the register becomes, or that the
//! write raises #GP with error code 0. Sources: APM volume 2, sections 3.1,
//! 5.3 and 11.5; SDM volume 3A, sections 2.5 and 4.1.

use super::cpuid::{xsave, GuestCaps};
use super::regs::{Cr0, Cr4, Efer, Rflags};

/// The write raises #GP(0); as an ioctl it is `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// The mode-defining registers as they are before a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
    /// CS.L.
    pub cs_l: bool,
}

/// `Ok` if `valid`.
const fn require(valid: bool) -> Result<(), Invalid> {
    if valid {
        Ok(())
    } else {
        Err(Invalid)
    }
}

/// The value CR0 holds when `value` was written, if that is legal at all.
///
/// # Errors
///
/// [`Invalid`] for bits above 31, NW without CD, PG without PE.
pub fn cr0(value: u64) -> Result<Cr0, Invalid> {
    require(value >> 32 == 0)?;
    // Undefined bits below stay zero, and ET is wired to one.
    let cr0 = (Cr0(value) & Cr0::DEFINED).with(Cr0::ET);
    require(cr0.has(Cr0::CD) || !cr0.has(Cr0::NW))?;
    require(cr0.has(Cr0::PE) || !cr0.has(Cr0::PG))?;
    Ok(cr0)
}

/// A guest's write to CR0: what CR0 and EFER become. PDPTRs are to be loaded
/// afterwards when [`uses_pdptrs`] says so.
///
/// # Errors
///
/// [`Invalid`] as [`cr0`], and for entering long mode without PAE or from a
/// long code segment, for leaving paging from 64-bit code or with PCIDs, and
/// for clearing WP with CET.
pub fn write_cr0(old: &Controls, value: u64) -> Result<(Cr0, Efer), Invalid> {
    let new = cr0(value)?;
    let starts = new.has(Cr0::PG) && !old.cr0.has(Cr0::PG);
    let stops = !new.has(Cr0::PG) && old.cr0.has(Cr0::PG);
    if starts && old.efer.has(Efer::LME) {
        require(old.cr4.has(Cr4::PAE) && !old.cs_l)?;
    }
    if stops {
        require(!old.cr4.has(Cr4::PCIDE))?;
        require(!(old.efer.has(Efer::LMA) && old.cs_l))?;
    }
    require(new.has(Cr0::WP) || !old.cr4.has(Cr4::CET))?;
    Ok((new, long_mode_active(old.efer, new)))
}

/// EFER with LMA as CR0.PG and LME make it.
pub const fn long_mode_active(efer: Efer, cr0: Cr0) -> Efer {
    efer.assign(Efer::LMA, efer.has(Efer::LME) && cr0.has(Cr0::PG))
}

/// A guest's write to CR3: what CR3 becomes. With PCIDs bit 63 only says that what
/// is cached for the new one may stay.
///
/// # Errors
///
/// [`Invalid`] in long mode for bits beyond the physical address width.
pub fn write_cr3(old: &Controls, value: u64, caps: &GuestCaps) -> Result<u64, Invalid> {
    const MAY_STAY: u64 = 1 << 63;
    let value = if old.cr4.has(Cr4::PCIDE) {
        value & !MAY_STAY
    } else {
        value
    };
    if old.efer.has(Efer::LMA) {
        require(value & caps.reserved_physical() == 0)?;
    }
    Ok(value)
}

/// The value CR4 holds when `value` was written, if that is legal at all.
///
/// # Errors
///
/// [`Invalid`] for bits the guest may not set.
pub fn cr4(value: u64, caps: &GuestCaps) -> Result<Cr4, Invalid> {
    require(value & !caps.cr4.bits() == 0)?;
    Ok(Cr4(value))
}

/// A guest's write to CR4. PDPTRs are to be loaded afterwards when
/// [`uses_pdptrs`] says so.
///
/// # Errors
///
/// [`Invalid`] as [`cr4`], and in long mode for clearing PAE or changing
/// LA57, for PCIDE outside long mode or with a PCID in CR3, and for CET
/// without CR0.WP.
pub fn write_cr4(old: &Controls, value: u64, caps: &GuestCaps) -> Result<Cr4, Invalid> {
    let new = cr4(value, caps)?;
    let long = old.efer.has(Efer::LMA);
    if long {
        require(new.has(Cr4::PAE))?;
        require(!new.changed(old.cr4).has(Cr4::LA57))?;
    }
    if new.has(Cr4::PCIDE) && !old.cr4.has(Cr4::PCIDE) {
        require(long && old.cr3 & 0xfff == 0)?;
    }
    require(old.cr0.has(Cr0::WP) || !new.has(Cr4::CET))?;
    Ok(new)
}

/// Bits of CR4 that are the host's while a guest runs.
///
/// MCE: a machine check shuts the processor down where it is clear (SDM vol. 3,
/// 7.15, "Interrupt 18"), and is the host's affair whoever runs.
pub const CR4_HOST: Cr4 = Cr4::MCE;

/// The CR4 to run a guest with that has `guest`.
pub const fn cr4_in_force(guest: Cr4, host: Cr4) -> Cr4 {
    guest
        .without(CR4_HOST)
        .with(Cr4(host.bits() & CR4_HOST.bits()))
}

/// Does the guest have accesses checked for alignment (SDM vol. 3, 7.15,
/// "Interrupt 17")?
pub const fn checks_alignment(cr0: Cr0, flags: Rflags, cpl: u8) -> bool {
    cr0.has(Cr0::AM) && flags.has(Rflags::AC) && cpl == 3
}

/// Does the guest page with PAE outside long mode, and so through PDPTRs in
/// the processor?
pub const fn uses_pdptrs(cr0: Cr0, cr4: Cr4, efer: Efer) -> bool {
    cr0.has(Cr0::PG) && cr4.has(Cr4::PAE) && !efer.has(Efer::LMA)
}

/// Must the PDPTRs be loaded again after a write to CR0 or CR4 (APM volume 2,
/// section 5.2.3)?
pub const fn reloads_pdptrs(old: &Controls, cr0: Cr0, cr4: Cr4, efer: Efer) -> bool {
    let cr0_bits = Cr0(Cr0::CD.0 | Cr0::NW.0 | Cr0::PG.0);
    let cr4_bits = Cr4(Cr4::PGE.0 | Cr4::PSE.0 | Cr4::PAE.0 | Cr4::SMEP.0);
    uses_pdptrs(cr0, cr4, efer)
        && (old.cr0.changed(cr0).any(cr0_bits) || old.cr4.changed(cr4).any(cr4_bits))
}

/// A guest's write to CR8: the task priority.
///
/// # Errors
///
/// [`Invalid`] for more than four bits.
pub fn write_cr8(value: u64) -> Result<u8, Invalid> {
    require(value <= 0xf)?;
    // Four bits.
    Ok(value as u8)
}

/// A write to EFER, by the guest or by its VMM; LMA is not written.
///
/// # Errors
///
/// [`Invalid`] for bits that may not be set and for changing LME while paging
/// is on. A VMM may set what the module provides, though the guest is not
/// shown it, and may change LME.
pub fn write_efer(
    old: &Controls,
    value: u64,
    caps: &GuestCaps,
    host: bool,
) -> Result<Efer, Invalid> {
    let allowed = if host {
        caps.host_efer | caps.efer
    } else {
        caps.efer
    };
    let new = Efer(value).without(Efer::LMA);
    require(new.without(allowed) == Efer(0))?;
    let flips = new.changed(old.efer).has(Efer::LME);
    require(host || !(flips && old.cr0.has(Cr0::PG)))?;
    Ok(new | (old.efer & Efer::LMA))
}

/// A write to XCR0 (APM volume 2, section 11.5.2).
///
/// # Errors
///
/// [`Invalid`] without x87, for AVX without SSE, for a part of AVX-512, and
/// for states the guest does not have.
pub fn write_xcr0(value: u64, caps: &GuestCaps) -> Result<u64, Invalid> {
    require(value & xsave::X87 != 0)?;
    require(value & xsave::YMM == 0 || value & xsave::SSE != 0)?;
    let avx512 = value & xsave::AVX512;
    require(avx512 == 0 || (avx512 == xsave::AVX512 && value & xsave::YMM != 0))?;
    // x87 and SSE come with XSAVE.
    require(value & !(caps.xcr0 | xsave::X87) == 0)?;
    Ok(value)
}

/// Do the registers of a `KVM_SET_SREGS` go together?
///
/// # Errors
///
/// [`Invalid`] when no sequence of legal writes leads there.
pub fn check_sregs(new: &Controls, caps: &GuestCaps) -> Result<(), Invalid> {
    let long = new.efer.has(Efer::LME) && new.cr0.has(Cr0::PG);
    if long {
        require(new.cr4.has(Cr4::PAE) && new.efer.has(Efer::LMA))?;
        require(new.cr3 & caps.reserved_physical() == 0)?;
    } else {
        // 64-bit code outside long mode, or long mode without paging.
        require(!new.efer.has(Efer::LMA) && !new.cs_l)?;
    }
    cr4(new.cr4.bits(), caps)?;
    cr0(new.cr0.bits())?;
    require(new.efer.without(caps.host_efer | caps.efer) == Efer(0))
}

/// A write to DR6 or DR7: the upper half must be zero (APM volume 2, 13.1.1).
///
/// # Errors
///
/// [`Invalid`] when it is not.
pub const fn debug_control(value: u64) -> Result<u64, Invalid> {
    if value >> 32 == 0 {
        Ok(value)
    } else {
        Err(Invalid)
    }
}

#[cfg(test)]
mod tests;
