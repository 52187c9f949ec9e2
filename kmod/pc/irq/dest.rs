// SPDX-License-Identifier: GPL-2.0

//! Which local APICs a message is for (SDM vol. 3A section 12.6.2, APM vol. 2
//! section 16.6).

use super::{DeliveryMode, DestMode, Message, BROADCAST, BROADCAST_8BIT};
use crate::pc::lapic::regs::dfr;
use crate::pc::lapic::Snapshot;

/// Rules that a VM can choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// A device's destination 0xff is a broadcast for APICs in x2APIC mode
    /// too: KVM's behaviour unless KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK.
    pub broadcast_quirk: bool,
}

/// Whether `message`, sent by a device or an IPI without shorthand, is for
/// the local APIC that published `target`. With `rules.broadcast_quirk`,
/// `message` must come from a device (MSI or I/O APIC): IPIs are matched with
/// `Rules::default()`.
#[inline]
pub fn matches(message: &Message, target: &Snapshot, rules: Rules) -> bool {
    if !target.enabled() {
        return false;
    }
    if message.dest == BROADCAST {
        return true;
    }
    if target.is_x2apic() {
        if rules.broadcast_quirk && message.dest == BROADCAST_8BIT {
            return true;
        }
        return match message.dest_mode {
            DestMode::Physical => is_id(message.dest, target),
            DestMode::Logical => in_x2apic_logical(message.dest, x2apic_ldr(target.x2apic_id())),
        };
    }
    if message.dest == BROADCAST_8BIT {
        return true;
    }
    match message.dest_mode {
        DestMode::Physical => is_id(message.dest, target),
        DestMode::Logical => in_xapic_logical(message.dest, target),
    }
}

/// The logical destination register of x2APIC mode, which follows from the
/// id: cluster in the high half, one of 16 bits in the low half.
#[inline]
pub const fn x2apic_ldr(id: u32) -> u32 {
    ((id >> 4) << 16) | 1 << (id & 0xf)
}

#[inline]
const fn in_x2apic_logical(dest: u32, ldr: u32) -> bool {
    dest >> 16 == ldr >> 16 && dest & ldr & 0xffff != 0
}

/// Whether `id` is the APIC id of `target`. No id is a broadcast here.
#[inline]
pub fn is_id(id: u32, target: &Snapshot) -> bool {
    let [first, second] = ids(target);
    id == first || id == second
}

/// The ids that `target` answers to; one if both are the same.
#[inline]
pub fn ids(target: &Snapshot) -> [u32; 2] {
    let full = target.x2apic_id();
    let first = if target.is_x2apic() {
        full
    } else {
        u32::from(target.xapic_id())
    };
    // An APIC whose id does not fit 8 bits can still be woken by its full id
    // before it switches to x2APIC mode.
    let woken = full > BROADCAST_8BIT;
    [first, if woken { full } else { first }]
}

fn in_xapic_logical(dest: u32, target: &Snapshot) -> bool {
    if dest > BROADCAST_8BIT {
        return false;
    }
    let dest = dest as u8;
    let logical = target.logical_id();
    match target.model() {
        dfr::FLAT => dest & logical != 0,
        dfr::CLUSTER => dest >> 4 == logical >> 4 && dest & logical & 0xf != 0,
        _ => false,
    }
}

/// Picks the one receiver of a redirectable message, in one pass over those
/// that match.
///
/// The lowest published task priority class wins, as the hardware's
/// arbitration has it; among equals a hash of vector and vCPU spreads
/// different vectors over different vCPUs and keeps each at its place, so
/// that its data stay in one cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arbiter {
    best: Option<(u64, usize)>,
}

impl Arbiter {
    /// Considers the candidate `index`, which must match the message. One
    /// that cannot take fixed interrupts is passed over where the message is
    /// one.
    #[inline]
    pub fn consider(&mut self, message: &Message, index: usize, target: &Snapshot) {
        let fixed = matches!(
            message.mode,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        );
        if fixed && !target.software_enabled() {
            return;
        }
        let class = u64::from(target.priority() >> 4);
        let key = class << 32 | u64::from(spread(target.x2apic_id(), message.vector));
        match self.best {
            Some((best, _)) if best <= key => {}
            _ => self.best = Some((key, index)),
        }
    }

    /// The receiver, if any candidate could take it.
    #[inline]
    pub fn winner(&self) -> Option<usize> {
        self.best.map(|(_, index)| index)
    }
}

/// Well mixed 32 bits of an id and a vector.
#[inline]
const fn spread(id: u32, vector: u8) -> u32 {
    let mut x = (id ^ (vector as u32) << 24).wrapping_mul(0x9e37_79b1);
    x ^= x >> 15;
    x = x.wrapping_mul(0x85eb_ca77);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae3d);
    x ^ x >> 16
}
