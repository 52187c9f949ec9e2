// SPDX-License-Identifier: GPL-2.0

//! Messages as devices write them: MSI address and data (SDM vol. 3A section
//! 12.11), and the I/O APIC's redirection table entry.

use super::{DeliveryMode, DestMode, Message};

mod address {
    pub(super) const DEST_SHIFT: u32 = 12;
    pub(super) const DEST_MASK: u32 = 0xff;
    /// Extended destination: bits 14..8 of the destination.
    pub(super) const EXT_DEST_SHIFT: u32 = 5;
    pub(super) const EXT_DEST_MASK: u32 = 0x7f;
    pub(super) const REDIRECT_HINT: u32 = 1 << 3;
    pub(super) const LOGICAL: u32 = 1 << 2;
    /// In the high half, with 32-bit ids: bits 31..8 of the destination.
    pub(super) const HIGH_DEST: u32 = 0xffff_ff00;
}

mod data {
    pub(super) const VECTOR: u32 = 0xff;
    pub(super) const DELIVERY_MODE_SHIFT: u32 = 8;
    pub(super) const LEVEL: u32 = 1 << 15;
}

/// Bits of a redirection table entry that make up the message.
mod rte {
    pub(super) const VECTOR: u64 = 0xff;
    pub(super) const DELIVERY_MODE_SHIFT: u32 = 8;
    pub(super) const LOGICAL: u64 = 1 << 11;
    pub(super) const LEVEL: u64 = 1 << 15;
    pub(super) const EXT_DEST_SHIFT: u32 = 49;
    pub(super) const EXT_DEST_MASK: u64 = 0x7f;
    pub(super) const DEST_SHIFT: u32 = 56;
}

/// How wide a device's destination field is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DestFormat {
    /// 8 bits, as in the manual.
    #[default]
    Bits8,
    /// 15 bits: seven more from reserved bits (KVM_FEATURE_MSI_EXT_DEST_ID
    /// as the guest writes it). KVM itself never decodes this; VMMs translate
    /// to `Bits32`.
    Bits15,
    /// 32 bits: 24 more from the high half of the address
    /// (KVM_X2APIC_API_USE_32BIT_IDS).
    Bits32,
}

impl Message {
    /// Decodes an MSI. The high half of the address counts with
    /// [`DestFormat::Bits32`] only. A message asserts its level whatever bit
    /// 14 of the data says: in the ABI, a level-triggered one without it is
    /// what VMMs send for a pin of their I/O APIC.
    pub const fn from_msi(
        address_lo: u32,
        address_hi: u32,
        msi_data: u32,
        format: DestFormat,
    ) -> Self {
        let low = (address_lo >> address::DEST_SHIFT) & address::DEST_MASK;
        let dest = match format {
            DestFormat::Bits8 => low,
            DestFormat::Bits15 => {
                low | (((address_lo >> address::EXT_DEST_SHIFT) & address::EXT_DEST_MASK) << 8)
            }
            DestFormat::Bits32 => low | (address_hi & address::HIGH_DEST),
        };
        let level_triggered = msi_data & data::LEVEL != 0;
        Self {
            dest,
            dest_mode: DestMode::from_bit(address_lo & address::LOGICAL != 0),
            mode: DeliveryMode::from_bits(msi_data >> data::DELIVERY_MODE_SHIFT),
            vector: (msi_data & data::VECTOR) as u8,
            level_triggered,
            assert: true,
            redirect_hint: address_lo & address::REDIRECT_HINT != 0,
            watched: false,
        }
    }

    /// Decodes a redirection table entry of an I/O APIC.
    pub const fn from_rte(entry: u64, format: DestFormat) -> Self {
        let low = (entry >> rte::DEST_SHIFT) as u32;
        let dest = match format {
            DestFormat::Bits8 | DestFormat::Bits32 => low,
            DestFormat::Bits15 => {
                low | (((entry >> rte::EXT_DEST_SHIFT) & rte::EXT_DEST_MASK) as u32) << 8
            }
        };
        Self {
            dest,
            dest_mode: DestMode::from_bit(entry & rte::LOGICAL != 0),
            mode: DeliveryMode::from_bits((entry >> rte::DELIVERY_MODE_SHIFT) as u32),
            vector: (entry & rte::VECTOR) as u8,
            level_triggered: entry & rte::LEVEL != 0,
            assert: true,
            redirect_hint: false,
            watched: true,
        }
    }
}
