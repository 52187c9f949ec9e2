// SPDX-License-Identifier: GPL-2.0

//! KVM_HC_SEND_IPI: one hypercall sends an IPI to up to 128 APIC ids
//! (Documentation/virt/kvm/x86/hypercalls.rst, number 10).

use super::{DeliveryMode, DestMode, Message};
use crate::pc::lapic::regs::icr;

/// The decoded hypercall: an iterator over the APIC ids to send
/// [`PvIpi::message`] to.
#[derive(Clone, Copy, Debug)]
pub struct PvIpi {
    bitmap: u128,
    lowest: u32,
    message: Message,
}

impl PvIpi {
    /// Decodes the arguments: bitmap halves `a0` and `a1`, lowest APIC id
    /// `a2`, ICR `a3`. A guest outside 64-bit mode has bitmap halves of 32
    /// bits.
    ///
    /// `None` if the ICR names a destination of its own (a shorthand or a
    /// logical one). The hypercall then returns -KVM_EINVAL.
    pub const fn decode(a0: u64, a1: u64, a2: u64, a3: u64, long_mode: bool) -> Option<Self> {
        let bitmap = if long_mode {
            a0 as u128 | (a1 as u128) << 64
        } else {
            (a0 as u32) as u128 | ((a1 as u32) as u128) << 32
        };
        let command = a3 as u32;
        if command & (icr::LOGICAL | 0b11 << icr::SHORTHAND_SHIFT) != 0 {
            return None;
        }
        let level_triggered = command & icr::LEVEL != 0;
        Some(Self {
            bitmap,
            lowest: a2 as u32,
            message: Message {
                dest: a2 as u32,
                dest_mode: DestMode::Physical,
                mode: DeliveryMode::from_bits(command >> icr::DELIVERY_MODE_SHIFT),
                vector: (command & icr::VECTOR) as u8,
                level_triggered,
                assert: !level_triggered || command & icr::ASSERT != 0,
                redirect_hint: false,
                watched: false,
            },
        })
    }

    /// Whether no id is left.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.bitmap == 0
    }

    /// Takes an id out; false if it is not among them.
    pub const fn remove(&mut self, id: u32) -> bool {
        let Some(offset) = id.checked_sub(self.lowest) else {
            return false;
        };
        let Some(bit) = 1u128.checked_shl(offset) else {
            return false;
        };
        let had = self.bitmap & bit != 0;
        self.bitmap &= !bit;
        had
    }

    /// What every id of the iteration gets. Its `dest` means nothing: ids are
    /// compared with [`is_id`](super::dest::is_id), so that none is a
    /// broadcast.
    #[inline]
    pub const fn message(&self) -> Message {
        self.message
    }
}

impl Iterator for PvIpi {
    type Item = u32;

    /// The next APIC id. Ids beyond 32 bits end the iteration.
    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.bitmap == 0 {
            return None;
        }
        let offset = self.bitmap.trailing_zeros();
        self.bitmap &= self.bitmap.wrapping_sub(1);
        self.lowest.checked_add(offset)
    }
}
