// SPDX-License-Identifier: GPL-2.0-or-later

//! The memory map the guest is given.

use super::layout::{
    ACPI_SIZE, ACPI_START, HIGH_RAM_START, IDENTITY_MAP, KVM_PAGES_SIZE, LOW_RAM_END,
};

/// Kinds of memory, with the numbers e820 and PVH have for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// One range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub size: u64,
    pub kind: Kind,
}

const fn range(start: u64, end: u64, kind: Kind) -> Range {
    Range {
        start,
        size: end - start,
        kind,
    }
}

/// The map for a machine with RAM in `ram`, the first of which begins at 0 and is larger than
/// 1 MiB. Sorted by address.
pub fn map(ram: &[(u64, u64)]) -> Vec<Range> {
    let mut map = vec![
        range(0, LOW_RAM_END, Kind::Ram),
        range(LOW_RAM_END, 0xa0000, Kind::Reserved),
        range(ACPI_START, ACPI_START + ACPI_SIZE, Kind::Reserved),
        range(IDENTITY_MAP, IDENTITY_MAP + KVM_PAGES_SIZE, Kind::Reserved),
    ];
    for &(start, size) in ram {
        let from = start.max(HIGH_RAM_START);
        map.push(range(from, start + size, Kind::Ram));
    }
    map.sort_unstable_by_key(|range| range.start);
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use crate::size::{ByteSize, GIB, MIB};

    fn check(size: ByteSize) -> Vec<Range> {
        let ram = memory::ranges(size);
        let map = map(&ram);
        for pair in map.windows(2) {
            assert!(pair[0].start + pair[0].size <= pair[1].start, "{pair:x?}");
        }
        for range in &map {
            assert!(range.size > 0);
        }
        for range in map.iter().filter(|range| range.kind == Kind::Ram) {
            assert!(
                ram.iter().any(|(start, size)| range.start >= *start
                    && range.start + range.size <= start + size),
                "{range:x?} is not backed"
            );
        }
        map
    }

    #[test]
    fn ranges_are_sorted_disjoint_and_backed() {
        for size in [16 * MIB, 512 * MIB, 3 * GIB, 3 * GIB + MIB, 16 * GIB] {
            check(ByteSize(size));
        }
    }

    #[test]
    fn all_memory_above_the_legacy_area_is_reported() {
        let map = check(ByteSize(5 * GIB));
        let ram: u64 = map
            .iter()
            .filter(|range| range.kind == Kind::Ram && range.start >= HIGH_RAM_START)
            .map(|range| range.size)
            .sum();
        assert_eq!(ram, 5 * GIB - HIGH_RAM_START);
    }

    #[test]
    fn acpi_tables_are_not_ram() {
        let map = check(ByteSize(512 * MIB));
        assert!(map.contains(&range(ACPI_START, ACPI_START + ACPI_SIZE, Kind::Reserved)));
    }
}
