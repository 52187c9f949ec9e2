// SPDX-License-Identifier: GPL-2.0

//! Banks, and errors that the VMM injects.

use super::*;
use crate::uapi::kvm_x86_mce;

#[test]
fn machine_check_banks_end_where_the_vmm_said() {
    let mut bench = Bench::full(Vendor::Amd);
    assert_eq!(bench.value(MC31_MISC), Ok(0), "all, before it says");
    assert_eq!(bench.file.setup_mce(0), Err(22));
    assert_eq!(bench.file.setup_mce(33), Err(22));
    assert_eq!(bench.file.setup_mce(10 | 1 << 10), Err(22), "no CMCI");
    assert_eq!(bench.file.setup_mce(10 | 1 << 8), Ok(()));
    assert_eq!(bench.value(MCG_CAP), Ok(10 | 1 << 8));
    assert_eq!(bench.value(MCG_CTL), Ok(u64::MAX));
    assert_eq!(bench.value(MC0_CTL + 36), Ok(u64::MAX));
    assert_eq!(bench.value(MC0_CTL + 39), Ok(0));
    assert_eq!(bench.value(MC0_CTL + 40), Err(MsrError::Invalid));
    assert_eq!(bench.guest(MC0_CTL + 40, 0), INVALID);
    assert_eq!(bench.guest(MC0_CTL, 0), DONE);
    assert_eq!(bench.guest(MC0_CTL, !(1 << 10)), DONE);
    assert_eq!(bench.guest(MC0_CTL, 2), INVALID);
    assert_eq!(bench.guest(MC0_CTL + 1, 1), INVALID, "status");
    assert_eq!(bench.guest(MC0_CTL + 1, 0), DONE);
    assert_eq!(bench.guest(HWCR, 1 << 18), DONE);
    assert_eq!(bench.guest(MC0_CTL + 1, 1), DONE);
    assert_eq!(bench.guest(MC0_CTL + 2, 0x1234), DONE);
    assert_eq!(bench.value(MC0_CTL + 2), Ok(0x1234));
    assert_eq!(bench.guest(MC0_CTL2, 1), INVALID);
    assert_eq!(bench.guest(MCG_CTL, 1), INVALID);
    assert_eq!(bench.guest(MCG_CTL, 0), DONE);
    assert_eq!(bench.file.setup_mce(10), Ok(()));
    assert_eq!(bench.guest(MCG_CTL, 0), INVALID, "there is none");
    assert_eq!(bench.host(MCG_CTL, 0), DONE);
}

#[test]
fn injected_errors() {
    let mut bench = Bench::full(Vendor::Amd);
    let file = &mut bench.file;
    file.setup_mce(mce::SUPPORTED_CAP | 4).unwrap();
    let error = |status: u64, bank| kvm_x86_mce {
        status: 1 << 63 | status,
        addr: 0x1000,
        misc: 7,
        mcg_status: 5,
        bank,
        ..Default::default()
    };
    let uncorrected = 1 << 61;
    let status = |file: &MsrFile, bank: u16| file.get(Slot(Slot::MC_BANKS.0 + bank * 4 + 1));
    assert_eq!(file.inject_mce(&error(0, 4), true), Err(22));
    let invalid = kvm_x86_mce {
        status: 1,
        ..error(0, 0)
    };
    assert_eq!(file.inject_mce(&invalid, true), Err(22));

    // A corrected error waits; another is lost, and that is noted.
    assert_eq!(
        file.inject_mce(&error(1, 1), true),
        Ok(mce::Injected::Nothing)
    );
    assert_eq!(status(file, 1), 1 << 63 | 1);
    assert_eq!(
        file.inject_mce(&error(2, 1), true),
        Ok(mce::Injected::Nothing)
    );
    assert_eq!(status(file, 1), 3 << 62 | 2);

    // An uncorrected one raises #MC.
    assert_eq!(
        file.inject_mce(&error(uncorrected, 0), true),
        Ok(mce::Injected::Exception)
    );
    assert_eq!(file.get(Slot::MCG_STATUS), 5);
    assert_eq!(status(file, 0), 1 << 63 | uncorrected);
    // A corrected one does not displace it.
    assert_eq!(
        file.inject_mce(&error(1, 0), true),
        Ok(mce::Injected::Nothing)
    );
    assert_eq!(status(file, 0), 3 << 62 | uncorrected);
    // A second one while the first is handled is too much.
    assert_eq!(
        file.inject_mce(&error(uncorrected, 2), true),
        Ok(mce::Injected::Shutdown)
    );
    file.put(Slot::MCG_STATUS, 0);
    assert_eq!(
        file.inject_mce(&error(uncorrected, 2), false),
        Ok(mce::Injected::Shutdown),
        "CR4.MCE is clear"
    );
    file.put(Slot(Slot::MC_BANKS.0 + 8), 0);
    assert_eq!(
        file.inject_mce(&error(uncorrected, 2), true),
        Ok(mce::Injected::Nothing),
        "the bank does not report"
    );
}
