// SPDX-License-Identifier: GPL-2.0

//! Slots in order of where their memory is in the VMM's process.
//!
//! The frames of a range of addresses are found by bisection, however many slots
//! there are. Unlike frames, addresses may be several slots' at once.

use super::{GfnRange, Slot};
use crate::pc::addr::{Hva, PAGE_SHIFT};
use crate::pc::search::{partition_point, position};

/// A slot among those in order of address.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    slot: Slot,
    /// Behind the last byte of this slot and of all before it.
    reach: Hva,
}

impl Placed {
    /// The slot that comes behind `before`.
    pub fn behind(before: Option<&Self>, slot: Slot) -> Self {
        let end = slot.hva.wrapping_add(slot.pages << PAGE_SHIFT);
        Self {
            slot,
            reach: before.map_or(end, |before| before.reach.max(end)),
        }
    }
}

/// Where a slot goes that is not among them yet.
pub fn place_of(placed: &[Placed], slot: &Slot) -> usize {
    partition_point(placed, |entry| entry.slot.hva <= slot.hva)
}

/// Where a slot is.
pub fn index_of(placed: &[Placed], slot: &Slot) -> Option<usize> {
    let first = partition_point(placed, |entry| entry.slot.hva < slot.hva);
    let same = placed.get(first..).unwrap_or(&[]);
    // No two slots begin at the same frame.
    let offset = position(same, |entry| entry.slot.base == slot.base)?;
    Some(first.wrapping_add(offset))
}

/// Makes them true again after changes at index `changed` and behind it.
pub fn settle(placed: &mut [Placed], changed: usize) {
    let before = changed.checked_sub(1).and_then(|last| placed.get(last));
    let mut before = before.copied();
    for entry in placed.get_mut(changed..).unwrap_or_default() {
        *entry = Placed::behind(before.as_ref(), entry.slot);
        before = Some(*entry);
    }
}

/// The frames that a range of addresses is, slot by slot; `end` is excluded.
pub fn frames_at(placed: &[Placed], start: Hva, end: Hva) -> impl Iterator<Item = GfnRange> + '_ {
    let first = partition_point(placed, |entry| entry.reach <= start);
    placed
        .get(first..)
        .unwrap_or(&[])
        .iter()
        .take_while(move |entry| entry.slot.hva < end)
        .filter_map(move |entry| entry.slot.frames_at(start, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pc::addr::Gfn;
    use proptest::prelude::*;

    fn slot(base: usize, hva: u64, pages: u64) -> Slot {
        Slot {
            base: Gfn(base as u64 * 100),
            pages,
            hva: Hva(hva << PAGE_SHIFT),
            flags: 0,
            id: 0,
        }
    }

    proptest! {
        #[test]
        fn bisection_finds_what_a_look_at_each_does(
            places in prop::collection::vec((0u64..60, 1u64..20), 0..30),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            start in 0u64..80 * 4096,
            length in 0u64..30 * 4096,
        ) {
            let mut slots = Vec::new();
            let mut placed: Vec<Placed> = Vec::new();
            for (base, &(hva, pages)) in places.iter().enumerate() {
                let slot = slot(base, hva, pages);
                slots.push(slot);
                let place = place_of(&placed, &slot);
                placed.insert(place, Placed::behind(None, slot));
                settle(&mut placed, place);
            }
            for index in gone {
                if !slots.is_empty() {
                    let slot = slots.remove(index.index(slots.len()));
                    let place = index_of(&placed, &slot).unwrap();
                    placed.remove(place);
                    settle(&mut placed, place);
                }
            }
            let (start, end) = (Hva(start), Hva(start + length));
            let mut found: Vec<_> = frames_at(&placed, start, end).collect();
            found.sort_by_key(|frames| frames.start);
            let wanted: Vec<_> = slots.iter().filter_map(|s| s.frames_at(start, end)).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
