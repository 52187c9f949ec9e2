// SPDX-License-Identifier: GPL-2.0

//! What may be written to an MSR, and what it becomes.

use super::super::cpuid::{Feature, GuestCaps, Vendor};
use super::index;
use super::table::{Check, Row, Slot};
use super::{
    linear_bits, Effect, MsrContext, MsrError, MsrFile, Origin, MISC_ENABLE_EMON,
    MISC_ENABLE_MWAIT, MISC_ENABLE_UNAVAILABLE, MISC_FEATURES_CPUID_FAULTS,
    PLATFORM_INFO_CPUID_FAULTS,
};
use crate::uapi::KVM_STEAL_RESERVED_MASK;

/// A write to be checked.
pub(super) struct Request<'a> {
    pub row: &'a Row,
    pub index: u32,
    pub value: u64,
    pub origin: Origin,
}

/// `value`, if `valid`.
const fn accept(value: u64, valid: bool) -> Result<u64, MsrError> {
    if valid {
        Ok(value)
    } else {
        Err(MsrError::Invalid)
    }
}

impl MsrFile {
    /// The value to store for a write.
    pub(super) fn checked<C: MsrContext>(
        &self,
        request: &Request<'_>,
        caps: &GuestCaps,
        context: &C,
    ) -> Result<u64, MsrError> {
        let value = request.value;
        let host = request.origin == Origin::Host;
        match request.row.check {
            Check::Any => Ok(value),
            Check::Bits(bits) => accept(value, value & !bits == 0),
            Check::Canonical => accept(value, sign_extend(value, linear_bits(caps)) == value),
            Check::SignExtend => Ok(sign_extend(value, linear_bits(caps))),
            Check::PatTypes => accept(value, types(value).all(is_pat_type)),
            Check::MtrrTypes => accept(value, types(value).all(is_mtrr_type)),
            Check::MtrrVariable => accept(value, is_mtrr_variable(request.index, value, caps)),
            Check::MtrrDefault => accept(
                value,
                value & !0xcff == 0 && is_mtrr_type((value & 0xff) as u8),
            ),
            Check::McBank => self.check_bank(request.index, value, host, caps),
            Check::McCtl2 => self.check_ctl2(value, host),
            Check::McgCtl => self.check_mcg_ctl(value, host),
            Check::SpecCtrl => accept(value, value & !spec_ctrl_bits(caps) == 0),
            Check::TscAux => tsc_aux(value, caps),
            Check::FeatureControl => {
                let locked = self.get(Slot::FEATURE_CONTROL) & 1 != 0;
                accept(value, value & !1 == 0 && (host || !locked))
            }
            Check::Hwcr => hwcr(value),
            Check::MiscEnable => self.misc_enable(value, host, caps, context),
            Check::MiscFeatures => {
                let platform = self.get(Slot::PLATFORM_INFO);
                let faults = value & MISC_FEATURES_CPUID_FAULTS != 0;
                let announced = platform & PLATFORM_INFO_CPUID_FAULTS != 0;
                accept(
                    value,
                    value & !MISC_FEATURES_CPUID_FAULTS == 0 && (announced || !faults),
                )
            }
            Check::Xss => accept(value, value & !caps.xss == 0),
            Check::StealTime => accept(value, value & KVM_STEAL_RESERVED_MASK == 0),
            Check::PvEoi => accept(value, value & 2 == 0),
        }
    }

    /// The guest cannot change what is not there, and EMON does not change.
    fn misc_enable<C: MsrContext>(
        &self,
        value: u64,
        host: bool,
        caps: &GuestCaps,
        context: &C,
    ) -> Result<u64, MsrError> {
        let old = self.get(Slot::MISC_ENABLE);
        let mut new = value;
        if !host {
            if (old ^ value) & MISC_ENABLE_UNAVAILABLE != 0 {
                return Err(MsrError::Invalid);
            }
            new = value & !MISC_ENABLE_EMON | old & MISC_ENABLE_EMON;
        }
        let mwait_changes = (old ^ new) & MISC_ENABLE_MWAIT != 0;
        let shown = context.misc_enable_quirk() || caps.has(Feature::SSE3);
        accept(new, shown || !mwait_changes)
    }
}

/// The upper bits all equal to bit `width - 1`.
const fn sign_extend(value: u64, width: u32) -> u64 {
    let unused = 64u32.wrapping_sub(width);
    // Shifting as a signed number copies the sign.
    ((value.wrapping_shl(unused) as i64).wrapping_shr(unused)) as u64
}

/// The eight bytes of a value.
fn types(value: u64) -> impl Iterator<Item = u8> {
    value.to_le_bytes().into_iter()
}

/// UC, WC, WT, WP, WB, UC- (APM volume 2, section 7.8.1).
const fn is_pat_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6 | 7)
}

/// UC, WC, WT, WP, WB (APM volume 2, section 7.7.1).
const fn is_mtrr_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

/// A variable MTRR's base with a type, or its mask (APM volume 2, 7.7.2).
const fn is_mtrr_variable(index: u32, value: u64, caps: &GuestCaps) -> bool {
    let is_base = index.wrapping_sub(index::MTRR_PHYS_BASE0) % 2 == 0;
    let reserved = if is_base { 0xf00 } else { 0x7ff };
    if value & (reserved | caps.reserved_physical()) != 0 {
        return false;
    }
    !is_base || is_mtrr_type((value & 0xff) as u8)
}

/// The bits of SPEC_CTRL the guest may set (APM volume 2, section 3.2.9; SDM
/// volume 4, table 2-2).
fn spec_ctrl_bits(caps: &GuestCaps) -> u64 {
    const BITS: [(u64, &[Feature]); 8] = [
        // IBRS.
        (1 << 0, &[Feature::SPEC_CTRL, Feature::AMD_IBRS]),
        // STIBP.
        (1 << 1, &[Feature::INTEL_STIBP, Feature::AMD_STIBP]),
        // SSBD.
        (1 << 2, &[Feature::SPEC_CTRL_SSBD, Feature::AMD_SSBD]),
        // IPRED_DIS_U and IPRED_DIS_S.
        (3 << 3, &[Feature::IPRED_CTRL]),
        // RRSBA_DIS_U and RRSBA_DIS_S.
        (3 << 5, &[Feature::RRSBA_CTRL]),
        // PSFD.
        (1 << 7, &[Feature::INTEL_PSFD, Feature::AMD_PSFD]),
        // DDPD_U.
        (1 << 8, &[Feature::DDPD_U]),
        // BHI_DIS_S.
        (1 << 10, &[Feature::BHI_CTRL]),
    ];
    BITS.iter()
        .filter(|(_, features)| features.iter().any(|feature| caps.has(*feature)))
        .fold(0, |allowed, (bits, _)| allowed | bits)
}

/// AMD's processors drop the upper half, Intel's fault.
fn tsc_aux(value: u64, caps: &GuestCaps) -> Result<u64, MsrError> {
    if caps.vendor == Vendor::Amd {
        return Ok(value & 0xffff_ffff);
    }
    accept(value, value >> 32 == 0)
}

/// HWCR (APM volume 2, section 3.2.10 and the processors' manuals): what
/// disables the TLB cache, the flush filter and IGNNE is dropped; McStatusWrEn
/// and TscFreqSel are kept.
fn hwcr(value: u64) -> Result<u64, MsrError> {
    const DROPPED: u64 = 1 << 3 | 1 << 6 | 1 << 8;
    const KEPT: u64 = 1 << 18 | 1 << 24;
    let value = value & !DROPPED;
    accept(value, value & !KEPT == 0)
}

/// A write to PRED_CMD (APM volume 2, section 3.2.9).
pub(super) fn prediction_command(value: u64, caps: &GuestCaps) -> Result<Effect, MsrError> {
    let mut bits = 0;
    if caps.has(Feature::SPEC_CTRL) || caps.has(Feature::AMD_IBPB) {
        bits |= 1 << 0;
    }
    if caps.has(Feature::SBPB) {
        bits |= 1 << 7;
    }
    match accept(value, value & !bits == 0)? {
        0 => Ok(Effect::None),
        value => Ok(Effect::PredictionCommand(value)),
    }
}

/// A write to FLUSH_CMD (SDM volume 4, table 2-2).
pub(super) fn flush_command(value: u64, caps: &GuestCaps) -> Result<Effect, MsrError> {
    let bits = u64::from(caps.has(Feature::FLUSH_L1D));
    match accept(value, value & !bits == 0)? {
        0 => Ok(Effect::None),
        _ => Ok(Effect::FlushL1d),
    }
}
