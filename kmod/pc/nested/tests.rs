// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const ALL: Permissions = Permissions {
    write: true,
    may_write: true,
    execute: true,
    clean: false,
};

const NONE: Permissions = Permissions {
    write: false,
    may_write: false,
    execute: false,
    clean: false,
};

#[test]
fn npt_entries_are_long_mode_entries_of_user_pages() {
    // Present, writable, user, accessed.
    assert_eq!(Entry::<Npt>::table(Hpa(0x1234_5000)).raw(), 0x1234_5027);
    let leaf = Entry::<Npt>::leaf(Hpa(0x1234_5000), Level::Size4K, ALL);
    assert_eq!(leaf.raw(), MAY_WRITE | 0x1234_5067);
    let large = Entry::<Npt>::leaf(Hpa(0x4020_0000), Level::Size2M, NONE);
    assert_eq!(large.raw(), 1 << 63 | 0x4020_00a5);
}

#[test]
fn ept_entries_have_a_memory_type_in_leaves_only() {
    type Plain = Ept<false>;
    assert_eq!(Entry::<Plain>::table(Hpa(0x1000)).raw(), 0x1007);
    assert_eq!(Entry::<Ept<true>>::table(Hpa(0x1000)).raw(), 0x1107);
    let leaf = Entry::<Plain>::leaf(Hpa(0x1000), Level::Size4K, ALL);
    assert_eq!(leaf.raw(), MAY_WRITE | 0x1077);
    let large = Entry::<Ept<true>>::leaf(Hpa(0x4000_0000), Level::Size1G, NONE);
    assert_eq!(large.raw(), 0x4000_01f1);
}

#[test]
fn levels_are_sizes() {
    assert_eq!(Level::Size4K.bytes(), 4 << 10);
    assert_eq!(Level::Size2M.bytes(), 2 << 20);
    assert_eq!(Level::Size1G.bytes(), 1 << 30);
    assert_eq!(reach(4).gpa().0, 1 << 48);
    assert_eq!(reach(5).gpa().0, 1 << 57);
    assert_eq!(order_of(0), 0);
    assert_eq!(order_of(200), 45);
    for level in Level::DESCENDING {
        assert_eq!(Level::of_table(level.table()), Some(level));
    }
    assert_eq!(Level::of_table(4), None);
}

#[test]
fn an_address_above_the_entry_field_does_not_reach_other_bits() {
    let leaf = Entry::<Npt>::leaf(Hpa(!0), Level::Size4K, NONE);
    assert_eq!(leaf.hpa(), Hpa(ADDRESS));
    assert_eq!(leaf.permissions(), NONE);
}

fn check_part<F: Format>(hpa: u64, size: Level, permissions: Permissions, nth: usize) {
    let level = size.table();
    let leaf = Entry::<F>::leaf(Hpa(hpa & !(size.bytes() - 1)), size, permissions);
    let part = leaf.part(level, nth);
    assert!(part.is_leaf(level - 1));
    assert_eq!(part.permissions(), permissions);
    assert_eq!(part.is_accessed(), leaf.is_accessed());
    assert_eq!(part.is_dirty(), leaf.is_dirty());
    let step = size.bytes() / 512;
    assert_eq!(part.hpa().0, leaf.hpa().0 + nth as u64 * step);
    let below = Level::of_table(level - 1).unwrap();
    assert_eq!(part, Entry::leaf(part.hpa(), below, permissions));
}

fn check_merged<F: Format>(hpa: u64, a: Permissions, b: Permissions, either: Permissions) {
    let leaf = |permissions| Entry::<F>::leaf(Hpa(hpa), Level::Size4K, permissions);
    assert_eq!(leaf(a).merged(leaf(b)), leaf(either));
}

fn check_leaf<F: Format>(hpa: u64, permissions: Permissions) {
    for size in Level::DESCENDING {
        let hpa = Hpa(hpa & !(size.bytes() - 1));
        let leaf = Entry::<F>::leaf(hpa, size, permissions);
        assert!(leaf.is_present());
        assert!(leaf.is_leaf(size.table()) && !leaf.is_table(size.table()));
        assert_eq!(leaf.hpa(), hpa);
        assert_eq!(leaf.permissions(), permissions);
        assert!(leaf.allows(Access::Read));
        assert_eq!(leaf.allows(Access::Write), permissions.write);
        assert_eq!(leaf.allows(Access::Fetch), permissions.execute);
        assert!(leaf.with_write().allows(Access::Write));
        assert_eq!(leaf.with_write().hpa(), hpa);

        // What zapping and write protection do to it.
        let protected = Entry::<F>::from_raw(leaf.raw() & !F::WRITE);
        assert!(!protected.allows(Access::Write) && protected.is_present());
        assert_eq!(protected.permissions().may_write, permissions.may_write);
    }
}

proptest! {
    #[test]
    fn leaves_give_back_what_was_put_in(
        hpa in 0u64..1 << 52, write: bool, may_write: bool, execute: bool,
    ) {
        let permissions = Permissions { write, may_write, execute, clean: false };
        check_leaf::<Npt>(hpa, permissions);
        check_leaf::<Ept<true>>(hpa, permissions);
        check_leaf::<Ept<false>>(hpa, permissions);
    }

    #[test]
    fn a_merged_leaf_allows_what_either_does(
        hpa in 0u64..1 << 52, a: [bool; 3], b: [bool; 3],
    ) {
        let permissions = |[write, may_write, execute]: [bool; 3]| Permissions {
            write, may_write, execute, clean: false,
        };
        let either = permissions([a[0] || b[0], a[1] || b[1], a[2] || b[2]]);
        check_merged::<Npt>(hpa, permissions(a), permissions(b), either);
        check_merged::<Ept<true>>(hpa, permissions(a), permissions(b), either);
    }

    #[test]
    fn the_parts_of_a_leaf_map_what_it_maps(
        hpa in 0u64..1 << 52, write: bool, may_write: bool, execute: bool, nth in 0usize..512,
    ) {
        let permissions = Permissions { write, may_write, execute, clean: false };
        for size in [Level::Size2M, Level::Size1G] {
            check_part::<Npt>(hpa, size, permissions, nth);
            check_part::<Ept<true>>(hpa, size, permissions, nth);
            check_part::<Ept<false>>(hpa, size, permissions, nth);
        }
    }

    #[test]
    fn tables_are_not_leaves(hpa in 0u64..1 << 52, level in 2u8..=5) {
        let table = Entry::<Npt>::table(Hpa(hpa));
        prop_assert!(table.is_table(level) && !table.is_leaf(level));
        let table = Entry::<Ept<true>>::table(Hpa(hpa));
        prop_assert!(table.is_table(level) && !table.is_leaf(level));
        prop_assert_eq!(table.hpa().0, hpa & !0xfff);
    }

    #[test]
    fn indices_put_the_frame_together_again(frame in 0u64..1 << 45) {
        let gfn = Gfn(frame);
        let mut rebuilt = 0;
        for level in (1..=MAX_LEVELS).rev() {
            rebuilt |= (index(gfn, level) as u64) << order_of(level);
            prop_assert!(block_start(gfn, level) <= gfn && gfn < block_end(gfn, level));
            prop_assert_eq!(block_end(gfn, level).0 - block_start(gfn, level).0, pages_of(level));
        }
        prop_assert_eq!(rebuilt, frame);
    }
}

const CLEAN: Permissions = Permissions { clean: true, ..ALL };

#[test]
fn a_clean_leaf_is_writable_and_not_dirty() {
    let leaf = Entry::<Ept<true>>::leaf(Hpa(0x1000), Level::Size4K, CLEAN);
    assert!(leaf.allows(Access::Write) && !leaf.is_dirty());
    assert_eq!(leaf.permissions(), CLEAN);
    // Without the permission to write there is nothing to record.
    let none = Permissions {
        clean: true,
        ..NONE
    };
    let leaf = Entry::<Ept<true>>::leaf(Hpa(0x1000), Level::Size4K, none);
    assert_eq!(leaf.permissions(), NONE);
}

/// A read that maps a clean leaf must not hide a write, nor a write the clean leaf's permission.
#[test]
fn a_leaf_is_clean_until_somebody_has_written() {
    type Leaf = Entry<Ept<true>>;
    let leaf = |permissions| Leaf::leaf(Hpa(0x1000), Level::Size4K, permissions);
    let read_only = Permissions {
        write: false,
        ..ALL
    };
    assert_eq!(leaf(read_only).merged(leaf(CLEAN)), leaf(CLEAN));
    assert_eq!(leaf(CLEAN).merged(leaf(ALL)), leaf(ALL));
    assert_eq!(leaf(ALL).merged(leaf(CLEAN)), leaf(ALL));
    assert!(leaf(CLEAN).with_write().is_dirty());
}

fn check_unseen<F: Format>(size: Level, logs: bool, want: Permissions) {
    let before = Entry::<F>::leaf(Hpa(0x4000_0000), size, ALL);
    let after = Entry::<F>::from_raw(before.raw() & !before.unseen(logs));
    assert_eq!(after.permissions(), want, "{size:?}, {logs}");
    // The dirty flag alone would let a later grant of the permission pass for
    // a write that was recorded.
    assert!(!after.is_dirty());
    assert!(after.is_accessed() == before.is_accessed() && after.hpa() == before.hpa());
}

#[test]
fn the_next_write_is_seen_by_a_fault_or_by_the_dirty_flag() {
    let protected = Permissions {
        write: false,
        ..ALL
    };
    for size in Level::DESCENDING {
        check_unseen::<Npt>(size, false, protected);
        check_unseen::<Ept<true>>(size, false, protected);
        check_unseen::<Ept<false>>(size, false, protected);
        // No dirty flags, no list.
        check_unseen::<Ept<false>>(size, true, protected);
    }
    check_unseen::<Ept<true>>(Level::Size4K, true, CLEAN);
    check_unseen::<Ept<true>>(Level::Size2M, true, protected);
    check_unseen::<Ept<true>>(Level::Size1G, true, protected);
}
