// SPDX-License-Identifier: GPL-2.0

//! The I/O and MSR permission maps: APM vol. 2, 15.10.1 and 15.11.
//!
//! A set bit is an intercept. All vCPUs share the maps: all ports exit, and all
//! MSRs except those that VMRUN, VMLOAD and VMSAVE switch and
//! whose values need no check.

use crate::host::global::Global;
use crate::host::page::HostPages;
use crate::pc::addr::Hpa;
use kernel::prelude::*;

/// The I/O map has a bit for each of 64 Ki ports and a few beyond: 12 KiB.
const IO_MAP_ORDER: u32 = 2;
/// The MSR map has two bits for each of 3 * 8192 MSRs: 8 KiB with its gap.
const MSR_MAP_ORDER: u32 = 1;

/// MSRs the guest reads and writes without an exit. Non-canonical values fault
/// in the guest itself.
const PASSED_THROUGH: [u32; 9] = [
    0x0000_0174, // SYSENTER_CS
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0100, // FS_BASE
    0xc000_0101, // GS_BASE
    0xc000_0102, // KERNEL_GS_BASE
    0x0000_0175, // SYSENTER_ESP
];

struct Maps {
    io: HostPages,
    msr: HostPages,
    /// With every MSR intercepted: for VMs whose userspace filters them.
    all_msrs: HostPages,
}

static MAPS: Global<Maps> = Global::new();

/// Physical addresses of the maps that every vCPU uses.
#[derive(Clone, Copy)]
pub(super) struct PermissionMaps {
    io: Hpa,
    msr: Hpa,
    all_msrs: Hpa,
}

impl PermissionMaps {
    /// The maps of the module. Address 0 before [`init`], which no vCPU precedes.
    pub(super) fn shared() -> Self {
        match MAPS.get() {
            Some(maps) => Self {
                io: maps.io.hpa(),
                msr: maps.msr.hpa(),
                all_msrs: maps.all_msrs.hpa(),
            },
            None => Self {
                io: Hpa(0),
                msr: Hpa(0),
                all_msrs: Hpa(0),
            },
        }
    }

    pub(super) fn io(self) -> Hpa {
        self.io
    }

    /// `all`: every MSR is intercepted.
    pub(super) fn msr(self, all: bool) -> Hpa {
        if all {
            self.all_msrs
        } else {
            self.msr
        }
    }
}

/// Where an MSR's two bits are: byte offset in the map, and shift.
const fn position(msr: u32) -> Option<(usize, u32)> {
    let (vector, index) = match msr {
        0..=0x1fff => (0, msr),
        0xc000_0000..=0xc000_1fff => (1, msr - 0xc000_0000),
        0xc001_0000..=0xc001_1fff => (2, msr - 0xc001_0000),
        _ => return None,
    };
    Some(((vector * 0x800 + index / 4) as usize, (index % 4) * 2))
}

/// Makes the maps.
pub(super) fn init() -> Result {
    let io = HostPages::alloc(IO_MAP_ORDER)?;
    io.fill(0xff);
    let msr = HostPages::alloc(MSR_MAP_ORDER)?;
    msr.fill(0xff);
    for passed in PASSED_THROUGH {
        let (offset, shift) = position(passed).ok_or(EINVAL)?;
        let byte: u8 = msr.read(offset).ok_or(EINVAL)?;
        msr.write(offset, byte & !(3 << shift)).ok_or(EINVAL)?;
    }
    let all_msrs = HostPages::alloc(MSR_MAP_ORDER)?;
    all_msrs.fill(0xff);
    MAPS.set(Maps { io, msr, all_msrs })
}

/// Frees the maps.
///
/// # Safety
///
/// No vCPU exists.
pub(super) unsafe fn exit() {
    // SAFETY: By the precondition.
    unsafe { MAPS.clear() };
}
