// SPDX-License-Identifier: GPL-2.0

use super::super::cpuid::supported::tests::{amd, restrictions};
use super::super::cpuid::{Answer, Feature, FeatureSet, Platform};
use super::*;
use proptest::prelude::*;

fn caps() -> GuestCaps {
    let platform = Platform::new(&(amd as fn(u32, u32) -> Answer), &restrictions());
    let mut caps = GuestCaps::without_cpuid(&platform);
    caps.cr4 =
        caps.cr4 | Cr4::LA57 | Cr4::PCIDE | Cr4::OSXSAVE | Cr4::SMEP | Cr4::SMAP | Cr4::FSGSBASE;
    caps.efer = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    caps.features = FeatureSet::EMPTY.with(&[Feature::XSAVE]);
    caps.physical_bits = 40;
    caps.xcr0 = xsave::GUEST_XCR0;
    caps
}

fn long() -> Controls {
    Controls {
        cr0: Cr0::PG | Cr0::PE | Cr0::WP | Cr0::ET | Cr0::NE,
        cr3: 0x1000,
        cr4: Cr4::PAE,
        efer: Efer::LME | Efer::LMA,
        cs_l: true,
    }
}

#[test]
fn cr0_alone() {
    assert_eq!(cr0(0), Ok(Cr0::ET));
    assert_eq!(cr0(0x6000_0010), Ok(Cr0::CD | Cr0::NW | Cr0::ET));
    assert_eq!(cr0(Cr0::NW.bits()), Err(Invalid));
    assert_eq!(cr0(Cr0::PG.bits()), Err(Invalid));
    assert_eq!(cr0(1 << 32), Err(Invalid));
    assert_eq!(
        cr0(1 << 10 | 1),
        Ok(Cr0::PE | Cr0::ET),
        "reserved bits stay zero"
    );
}

#[test]
fn long_mode_is_entered_from_a_short_segment_with_pae() {
    let mut old = Controls {
        cr0: Cr0::PE | Cr0::ET,
        cr4: Cr4::PAE,
        efer: Efer::LME | Efer::NXE,
        ..Controls::default()
    };
    let paging = (Cr0::PG | Cr0::PE).bits();
    assert_eq!(
        write_cr0(&old, paging),
        Ok((
            Cr0::PG | Cr0::PE | Cr0::ET,
            Efer::LME | Efer::LMA | Efer::NXE
        ))
    );
    old.cs_l = true;
    assert_eq!(write_cr0(&old, paging), Err(Invalid));
    old.cs_l = false;
    old.cr4 = Cr4(0);
    assert_eq!(write_cr0(&old, paging), Err(Invalid));
    old.efer = Efer(0);
    assert_eq!(
        write_cr0(&old, paging).map(|(_, efer)| efer),
        Ok(Efer(0)),
        "two-level paging needs nothing"
    );
}

#[test]
fn long_mode_is_left_from_compatibility_mode() {
    let mut old = long();
    assert_eq!(write_cr0(&old, Cr0::PE.bits()), Err(Invalid));
    old.cs_l = false;
    assert_eq!(
        write_cr0(&old, Cr0::PE.bits()),
        Ok((Cr0::PE | Cr0::ET, Efer::LME))
    );
    old.cr4 = Cr4::PAE | Cr4::PCIDE;
    assert_eq!(write_cr0(&old, Cr0::PE.bits()), Err(Invalid));
}

#[test]
fn cr4_in_long_mode() {
    let old = long();
    let write = |value: Cr4| write_cr4(&old, value.bits(), &caps());
    assert_eq!(write(Cr4::PAE | Cr4::PGE), Ok(Cr4::PAE | Cr4::PGE));
    assert_eq!(write(Cr4::PGE), Err(Invalid));
    assert_eq!(write(Cr4::PAE | Cr4::LA57), Err(Invalid));
    assert_eq!(write(Cr4::PAE | Cr4::VMXE), Err(Invalid));
    assert_eq!(write(Cr4::PAE | Cr4::PCIDE), Ok(Cr4::PAE | Cr4::PCIDE));
    assert_eq!(write(Cr4(Cr4::PAE.0 | 1 << 40)), Err(Invalid));
    let with_pcid = Controls { cr3: 0x1001, ..old };
    let value = Cr4::PAE | Cr4::PCIDE;
    assert_eq!(write_cr4(&with_pcid, value.bits(), &caps()), Err(Invalid));
    let has_pcids = Controls {
        cr4: value,
        ..with_pcid
    };
    assert_eq!(write_cr4(&has_pcids, value.bits(), &caps()), Ok(value));
}

#[test]
fn cr4_outside_long_mode() {
    let old = Controls::default();
    let write = |value: Cr4| write_cr4(&old, value.bits(), &caps());
    assert_eq!(write(Cr4::LA57), Ok(Cr4::LA57));
    assert_eq!(write(Cr4::PAE | Cr4::PCIDE), Err(Invalid));
    assert_eq!(write(Cr4(0)), Ok(Cr4(0)));
}

#[test]
fn cr3_and_cr8_have_a_width() {
    let old = long();
    assert_eq!(write_cr3(&old, 0xff_ffff_f000, &caps()), Ok(0xff_ffff_f000));
    assert_eq!(write_cr3(&old, 1 << 40, &caps()), Err(Invalid));
    assert_eq!(write_cr3(&old, 1 << 63, &caps()), Err(Invalid));
    let mut with_pcids = old;
    with_pcids.cr4 |= Cr4::PCIDE;
    assert_eq!(
        write_cr3(&with_pcids, 1 << 63 | 0x1003, &caps()),
        Ok(0x1003)
    );
    assert_eq!(write_cr3(&with_pcids, 1 << 62, &caps()), Err(Invalid));
    let protected = Controls::default();
    assert_eq!(write_cr3(&protected, 1 << 40, &caps()), Ok(1 << 40));
    assert_eq!(write_cr8(15), Ok(15));
    assert_eq!(write_cr8(16), Err(Invalid));
    assert_eq!(debug_control(0xffff_ffff), Ok(0xffff_ffff));
    assert_eq!(debug_control(1 << 32), Err(Invalid));
}

#[test]
fn efer_keeps_lma_and_heeds_paging() {
    let old = long();
    let lme = Efer::LME;
    let write = |value: Efer, host| write_efer(&old, value.bits(), &caps(), host);
    assert_eq!(
        write(lme | Efer::NXE, false),
        Ok(lme | Efer::LMA | Efer::NXE)
    );
    assert_eq!(write(lme | Efer::LMA, false), Ok(lme | Efer::LMA));
    assert_eq!(
        write(Efer(0), false),
        Err(Invalid),
        "clears LME while paging"
    );
    assert_eq!(write(Efer(0), true), Ok(Efer::LMA));
    assert_eq!(write(lme | Efer::SVME, true), Err(Invalid));
    assert_eq!(write(lme | Efer::FFXSR, false), Err(Invalid));
    assert_eq!(
        write(lme | Efer::FFXSR, true),
        Ok(lme | Efer::LMA | Efer::FFXSR),
        "the module has it"
    );
}

#[test]
fn xcr0_wants_its_states_complete() {
    for (value, valid) in [
        (0, false),
        (1, true),
        (2, false),
        (3, true),
        (5, false),
        (7, true),
        (0xe7, true),
        (0x27, false),
        (0xe3, false),
        (0x2e7, true),
        (0x207, true),
        (0x1f, false),
        (0x6_0007, false),
        (1 << 63 | 1, false),
    ] {
        assert_eq!(write_xcr0(value, &caps()).is_ok(), valid, "{value:#x}");
    }
    let without = GuestCaps { xcr0: 0, ..caps() };
    assert!(write_xcr0(1, &without).is_ok());
    assert!(write_xcr0(3, &without).is_err());
}

#[test]
fn sregs_must_go_together() {
    let good = long();
    assert_eq!(check_sregs(&good, &caps()), Ok(()));
    assert_eq!(check_sregs(&Controls::default(), &caps()), Ok(()));
    for bad in [
        Controls {
            cr4: Cr4(0),
            ..good
        },
        Controls {
            efer: Efer::LME,
            ..good
        },
        Controls {
            cr3: 1 << 40,
            ..good
        },
        Controls {
            cr0: Cr0::PE,
            ..good
        },
        Controls {
            cr4: Cr4::PAE | Cr4::VMXE,
            ..good
        },
        Controls {
            cr0: good.cr0 | Cr0::NW,
            ..good
        },
        Controls {
            efer: good.efer | Efer::SVME,
            ..good
        },
        Controls {
            cs_l: true,
            ..Controls::default()
        },
    ] {
        assert_eq!(check_sregs(&bad, &caps()), Err(Invalid), "{bad:?}");
    }
}

#[test]
fn pdptrs_belong_to_pae_paging() {
    let pae = Controls {
        cr0: Cr0::PG | Cr0::PE,
        cr4: Cr4::PAE,
        ..Controls::default()
    };
    assert!(uses_pdptrs(pae.cr0, pae.cr4, pae.efer));
    assert!(!uses_pdptrs(pae.cr0, pae.cr4, Efer::LMA));
    assert!(!uses_pdptrs(Cr0::PE, pae.cr4, pae.efer));
    assert!(!reloads_pdptrs(&pae, pae.cr0 | Cr0::TS, pae.cr4, pae.efer));
    assert!(reloads_pdptrs(&pae, pae.cr0 | Cr0::CD, pae.cr4, pae.efer));
    assert!(reloads_pdptrs(&pae, pae.cr0, pae.cr4 | Cr4::PGE, pae.efer));
}

proptest! {
    /// A chain of accepted writes never leaves what SET_SREGS accepts.
    #[test]
    fn writes_stay_within_sregs(steps in prop::collection::vec((0u8..4, any::<u64>()), 0..60)) {
        let caps = caps();
        let mut now = Controls::default();
        for (register, value) in steps {
            match register {
                0 => if let Ok((cr0, efer)) = write_cr0(&now, value & 0xe005_003f) {
                    now.cr0 = cr0;
                    now.efer = efer;
                    // A jump to 64-bit code may follow, and does half the time.
                    now.cs_l = efer.has(Efer::LMA) && value >> 63 != 0;
                },
                1 => if let Ok(cr4) = write_cr4(&now, value & caps.cr4.bits(), &caps) {
                    now.cr4 = cr4;
                },
                2 => if let Ok(efer) = write_efer(&now, value & 0xd01, &caps, false) {
                    now.efer = efer;
                },
                _ => if let Ok(cr3) = write_cr3(&now, value & 0xff_ffff_f000, &caps) {
                    now.cr3 = cr3;
                },
            }
            prop_assert_eq!(check_sregs(&now, &caps), Ok(()), "{:?}", now);
        }
    }
}

#[test]
fn machine_checks_are_the_hosts() {
    let with = Cr4::PAE | Cr4::MCE;
    for host in [Cr4::SMEP, Cr4::SMEP | Cr4::MCE] {
        for guest in [Cr4::PAE, with] {
            let expected = if host.has(Cr4::MCE) { with } else { Cr4::PAE };
            assert_eq!(cr4_in_force(guest, host), expected);
        }
    }
}

#[test]
fn alignment_is_checked_in_user_mode_if_both_ask_for_it() {
    for mask in [Cr0::PE, Cr0::PE | Cr0::AM] {
        for flags in [Rflags::FIXED, Rflags::FIXED | Rflags::AC] {
            for cpl in 0..=3 {
                let all = mask.has(Cr0::AM) && flags.has(Rflags::AC) && cpl == 3;
                assert_eq!(checks_alignment(mask, flags, cpl), all);
            }
        }
    }
    assert!(checks_alignment(Cr0::AM, Rflags::AC, 3));
    assert!(!checks_alignment(Cr0::AM, Rflags::AC, 0));
}
