// SPDX-License-Identifier: GPL-2.0

//! What holds for any MSR and any value.

use super::*;
use crate::pc::cpuid::xsave;
use proptest::prelude::*;

proptest! {
    /// No access, however wild, panics; a refused write changes nothing that
    /// can be read; an accepted one of a plain value reads back.
    #[test]
    fn accesses_are_all_or_nothing(
        accesses in prop::collection::vec(
            (0usize..TABLE.len(), 0u32..200, any::<u64>(), 0u32..64, any::<bool>()), 1..50),
        vendor in prop::sample::select(vec![Vendor::Amd, Vendor::Intel]),
    ) {
        let mut bench = Bench::full(vendor);
        bench.caps.xcr0 = xsave::GUEST_XCR0;
        bench.machine.x2apic = true;
        bench.file.setup_mce(mce::SUPPORTED_CAP | 32).unwrap();
        for (place, offset, value, shift, host) in accesses {
            let row = &TABLE[place];
            let index = row.first + offset % (row.last - row.first + 1);
            let value = value >> shift;
            let origin = if host { Origin::Host } else { Origin::Guest };
            let before = bench.read(index, origin);
            match bench.write(index, value, origin) {
                Err(_) => prop_assert_eq!(bench.read(index, origin), before, "{:#x}", index),
                Ok(_) => {
                    let plain = matches!(row.home, Home::Value(_) | Home::Hardware(_));
                    let kept = !matches!(
                        row.check,
                        Check::SignExtend | Check::TscAux | Check::Hwcr | Check::MiscEnable
                    );
                    let ignored = origin == Origin::Guest && row.guest == Access::WritesIgnored;
                    if plain && kept && !ignored {
                        prop_assert_eq!(bench.read(index, Origin::Host), Ok(value), "{:#x}", index);
                    }
                }
            }
        }
    }

    /// A lone MSR of any number.
    #[test]
    fn any_number_can_be_tried(index: u32, value: u64, host: bool) {
        let mut bench = Bench::full(Vendor::Amd);
        let origin = if host { Origin::Host } else { Origin::Guest };
        let in_table = TABLE.iter().any(|row| (row.first..=row.last).contains(&index));
        let result = bench.write(index, value, origin);
        if !in_table {
            prop_assert_eq!(result, UNKNOWN);
        }
    }
}
