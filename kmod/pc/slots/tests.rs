// SPDX-License-Identifier: GPL-2.0

use super::{plan as plan_at, *};
use proptest::prelude::*;

const MEMORY: u64 = 0x7f00_0000_0000;

fn limits() -> Limits {
    Limits {
        spaces: 1,
        flags: KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY,
        end: Gfn(1 << 36),
        user_end: Hva(0x7fff_ffff_f000),
    }
}

fn request(id: u16, first: u64, pages: u64) -> Request {
    Request {
        id,
        space: 0,
        flags: 0,
        gpa: Gpa(first << PAGE_SHIFT),
        size: pages << PAGE_SHIFT,
        hva: Hva(MEMORY + u64::from(id) * 0x1_0000_0000),
    }
}

fn plan(slots: &[Slot], request: &Request, limits: &Limits) -> Result<Change, i32> {
    let index = slots.iter().position(|slot| slot.id == request.id);
    plan_at(slots, index, request, limits)
}

/// Does what the plan says.
fn apply(slots: &mut Vec<Slot>, request: &Request) -> Result<Change, i32> {
    let change = plan(slots, request, &limits())?;
    match change {
        Change::Nothing => {}
        Change::Create { place, slot } => slots.insert(place, slot),
        Change::Delete { index } => {
            slots.remove(index);
        }
        Change::Move { index, place, slot } => {
            slots.remove(index);
            slots.insert(place, slot);
        }
        Change::Flags { index, slot } => slots[index] = slot,
    }
    Ok(change)
}

fn table(requests: &[Request]) -> Vec<Slot> {
    let mut slots = Vec::new();
    for request in requests {
        apply(&mut slots, request).unwrap();
    }
    slots
}

#[test]
fn a_request_splits_the_slot_number() {
    let region = kvm_userspace_memory_region {
        slot: 0x0001_0007,
        flags: 3,
        guest_phys_addr: 0x1000,
        memory_size: 0x2000,
        userspace_addr: 0x3000,
    };
    let request = Request::from(&region);
    assert_eq!((request.id, request.space), (7, 1));
    assert_eq!(request.gpa, Gpa(0x1000));
    assert_eq!(request.hva, Hva(0x3000));
}

#[test]
fn malformed_requests_are_invalid() {
    let good = request(0, 0, 16);
    let bad = [
        Request { flags: 4, ..good },
        Request {
            size: 0x1001,
            ..good
        },
        Request {
            gpa: Gpa(0x800),
            ..good
        },
        Request {
            hva: Hva(MEMORY + 1),
            ..good
        },
        Request {
            hva: Hva(0x7fff_ffff_0000),
            ..good
        },
        Request {
            hva: Hva(!0xfff),
            ..good
        },
        Request { space: 1, ..good },
        Request {
            id: MAX_SLOTS,
            ..good
        },
        Request {
            gpa: Gpa(!0xfff),
            ..good
        },
        Request {
            gpa: Gpa((1 << 48) - 0x1000),
            ..good
        },
        Request {
            size: (MAX_SLOT_PAGES + 1) << PAGE_SHIFT,
            hva: Hva(0),
            ..good
        },
    ];
    for request in bad {
        assert_eq!(plan(&[], &request, &limits()), Err(EINVAL), "{request:?}");
    }
    assert!(plan(&[], &good, &limits()).is_ok());
    let largest = Request {
        size: MAX_SLOT_PAGES << PAGE_SHIFT,
        hva: Hva(0),
        ..good
    };
    assert!(plan(&[], &largest, &limits()).is_ok());
}

#[test]
fn a_slot_may_end_with_the_address_space() {
    let last = request(0, (1 << 36) - 16, 16);
    assert!(plan(&[], &last, &limits()).is_ok());
}

#[test]
fn overlap_is_refused_and_touching_is_not() {
    let slots = table(&[request(0, 16, 16)]);
    let try_at = |first, pages| plan(&slots, &request(1, first, pages), &limits());
    assert_eq!(try_at(31, 1), Err(EEXIST));
    assert_eq!(try_at(0, 17), Err(EEXIST));
    assert_eq!(try_at(0, 64), Err(EEXIST));
    assert!(matches!(try_at(0, 16), Ok(Change::Create { place: 0, .. })));
    assert!(matches!(
        try_at(32, 16),
        Ok(Change::Create { place: 1, .. })
    ));
}

#[test]
fn overlap_is_reported_before_the_end_of_memory() {
    let slots = table(&[request(0, (1 << 36) - 1, 1)]);
    assert_eq!(
        plan(&slots, &request(1, (1 << 36) - 1, 2), &limits()),
        Err(EEXIST)
    );
}

#[test]
fn changes_are_told_apart() {
    let mut slots = table(&[request(0, 0, 16), request(1, 64, 16), request(2, 128, 16)]);
    let same = request(1, 64, 16);
    assert_eq!(apply(&mut slots, &same), Ok(Change::Nothing));

    let logging = Request {
        flags: KVM_MEM_LOG_DIRTY_PAGES,
        ..same
    };
    assert!(matches!(
        apply(&mut slots, &logging),
        Ok(Change::Flags { index: 1, .. })
    ));
    assert!(slots[1].logs_dirty());

    let read_only = Request {
        flags: KVM_MEM_READONLY,
        ..same
    };
    assert_eq!(plan(&slots, &read_only, &limits()), Err(EINVAL));
    assert_eq!(plan(&slots, &request(1, 64, 8), &limits()), Err(EINVAL));
    let elsewhere = Request {
        hva: Hva(MEMORY - 0x1000),
        ..same
    };
    assert_eq!(plan(&slots, &elsewhere, &limits()), Err(EINVAL));

    assert!(matches!(
        apply(&mut slots, &request(0, 200, 16)),
        Ok(Change::Move {
            index: 0,
            place: 2,
            ..
        })
    ));
    assert!(matches!(
        apply(&mut slots, &request(0, 0, 16)),
        Ok(Change::Move {
            index: 2,
            place: 0,
            ..
        })
    ));

    let delete = Request {
        size: 0,
        ..request(1, 999, 0)
    };
    assert_eq!(apply(&mut slots, &delete), Ok(Change::Delete { index: 1 }));
    assert_eq!(apply(&mut slots, &delete), Err(EINVAL));
}

#[test]
fn a_slot_may_move_onto_itself() {
    let slots = table(&[request(0, 16, 16), request(1, 48, 16)]);
    let half = request(0, 24, 16);
    assert!(matches!(
        plan(&slots, &half, &limits()),
        Ok(Change::Move {
            index: 0,
            place: 0,
            ..
        })
    ));
    assert_eq!(plan(&slots, &request(0, 40, 16), &limits()), Err(EEXIST));
}

#[test]
fn a_byte_has_the_rest_of_the_slot_behind_it() {
    let slot = table(&[request(0, 16, 2)])[0];
    assert_eq!(
        slot.bytes_at(Gpa(0x1_1ffe)),
        Some((Hva(MEMORY + 0x1ffe), 2))
    );
    assert_eq!(slot.bytes_at(Gpa(0x1_0000)), Some((Hva(MEMORY), 0x2000)));
    assert_eq!(slot.bytes_at(Gpa(0x1_2000)), None);
    assert_eq!(slot.bytes_at(Gpa(0xffff)), None);
}

#[test]
fn blocks_need_equal_low_bits_and_room() {
    let slot = Slot {
        base: Gfn(0x100),
        pages: 0x600,
        hva: Hva(0x7f00_0010_0000),
        flags: 0,
        id: 0,
    };
    assert!(slot.block_fits(Gfn(0x200), 9));
    assert!(slot.block_fits(Gfn(0x3ff), 9));
    assert!(!slot.block_fits(Gfn(0x1ff), 9), "starts before the slot");
    assert!(!slot.block_fits(Gfn(0x600), 9), "ends behind the slot");
    assert!(slot.block_fits(Gfn(0x100), 0));
    assert!(!slot.block_fits(Gfn(0x200), 18));
    assert!(!slot.block_fits(Gfn(0x200), 64));
    let skewed = Slot {
        hva: Hva(0x7f00_0010_1000),
        ..slot
    };
    assert!(!skewed.block_fits(Gfn(0x200), 9));
    assert!(skewed.block_fits(Gfn(0x200), 0));
}

#[test]
fn host_ranges_round_to_whole_pages() {
    let slot = table(&[request(0, 16, 4)])[0];
    let frames = |start: u64, end: u64| {
        slot.frames_at(Hva(MEMORY + start), Hva(MEMORY + end))
            .map(|range| (range.start.0, range.end.0))
    };
    assert_eq!(frames(0x1000, 0x2000), Some((17, 18)));
    assert_eq!(frames(0x1fff, 0x2001), Some((17, 19)));
    assert_eq!(frames(0x3000, 0x9000), Some((19, 20)));
    assert_eq!(frames(0x4000, 0x9000), None);
    assert_eq!(frames(0x1000, 0x1000), None);
    assert_eq!(
        slot.frames_at(Hva(0), Hva(u64::MAX)).map(GfnRange::pages),
        Some(4)
    );
    assert_eq!(slot.frames_at(Hva(0), Hva(MEMORY)), None);
}

proptest! {
    /// Whatever is asked for, the table stays sorted and free of overlaps,
    /// and every look-up agrees with a search of the whole table.
    #[test]
    fn the_table_keeps_its_order(
        requests in prop::collection::vec((0u16..6, 0u64..64, 0u64..12, 0u32..4), 1..40),
        hint in 0usize..8,
    ) {
        let mut slots = Vec::new();
        let mut hint = hint;
        for (id, first, pages, flags) in requests {
            let before = slots.clone();
            if apply(&mut slots, &Request { flags, ..request(id, first, pages) }).is_err() {
                prop_assert_eq!(&slots, &before);
            }
            for pair in slots.windows(2) {
                prop_assert!(pair[0].frames().end <= pair[1].base);
            }
            for gfn in (0..80).map(Gfn) {
                let slow = slots.iter().find(|slot| slot.contains(gfn));
                prop_assert_eq!(find(&slots, gfn, &mut hint), slow);
                if let Some(slot) = slow {
                    let hva = slot.hva_of(gfn).unwrap();
                    prop_assert_eq!(slot.gfn_of(hva), Some(gfn));
                    prop_assert_eq!(slot.gfn_of(hva.wrapping_add(0xfff)), Some(gfn));
                }
            }
        }
    }

    #[test]
    fn overlapping_finds_what_a_search_finds(
        requests in prop::collection::vec((0u16..8, 0u64..100, 1u64..12), 1..12),
        start in 0u64..110, length in 0u64..40,
    ) {
        let mut slots = Vec::new();
        for (id, first, pages) in requests {
            let _ = apply(&mut slots, &request(id, first, pages));
        }
        let range = GfnRange { start: Gfn(start), end: Gfn(start + length) };
        let slow: Vec<_> = slots
            .iter()
            .filter(|slot| slot.frames().intersection(range).is_some())
            .collect();
        let found: Vec<_> = overlapping(&slots, range).collect();
        prop_assert_eq!(found, slow);
    }
}
