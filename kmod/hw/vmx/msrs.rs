// SPDX-License-Identifier: GPL-2.0

//! MSRs of the guest: which it reaches without an exit, and which this module
//! switches by hand because entries and exits do not.
//!
//! Entries and exits switch FS_BASE, GS_BASE and the SYSENTER registers (guest
//! and host state), and EFER by a control of their own. The SYSCALL registers and
//! KERNEL_GS_BASE are left to software (SDM vol. 3, 28.4). The host uses them
//! when it enters or leaves user mode only, so they change once for a stay in the
//! inner loop.

use super::apicv;
use super::msr_bitmap;
use super::msr_bitmap::Access;
use super::msr_bitmap::PASSED_THROUGH;
use crate::host::cpu;
use crate::host::page::HostPage;
use crate::pc::addr::Hpa;
use crate::pc::msr::index;
use kernel::prelude::*;

/// The MSR bitmap of all guests: a set bit is an exit (SDM vol. 3, 25.6.9).
pub(super) struct MsrBitmap(HostPage);

impl MsrBitmap {
    /// Makes the bitmap. `keeps_apic`: of guests whose local APIC the processor keeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(keeps_apic: bool) -> Result<Self> {
        let bitmap = Self(HostPage::new()?);
        bitmap.0.fill(0xff);
        for passed in PASSED_THROUGH {
            bitmap.pass(passed, Access::Read)?;
            bitmap.pass(passed, Access::Write)?;
        }
        if keeps_apic {
            for msr in apicv::READ.into_iter().flatten() {
                bitmap.pass(msr, Access::Read)?;
            }
            for msr in apicv::WRITTEN {
                bitmap.pass(msr, Access::Write)?;
            }
        }
        Ok(bitmap)
    }

    fn pass(&self, msr: u32, access: Access) -> Result {
        let (offset, mask) = msr_bitmap::place(msr, access).ok_or(EINVAL)?;
        let byte: u8 = self.0.read(offset).ok_or(EINVAL)?;
        self.0.write(offset, byte & !mask).ok_or(EINVAL)
    }

    /// Physical address.
    pub(super) fn hpa(&self) -> Hpa {
        self.0.hpa()
    }
}

/// The registers of SYSCALL.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Syscall {
    /// Selectors.
    pub(super) star: u64,
    /// Target of 64-bit code.
    pub(super) lstar: u64,
    /// Target of compatibility mode, where SYSCALL is undefined: kept for the
    /// guest, and never in the processor.
    pub(super) cstar: u64,
    /// Flags to clear.
    pub(super) sfmask: u64,
}

impl Syscall {
    /// Those of this CPU.
    pub(super) fn read() -> Self {
        Self {
            star: cpu::rdmsr(index::STAR),
            lstar: cpu::rdmsr(index::LSTAR),
            cstar: 0,
            sfmask: cpu::rdmsr(index::SFMASK),
        }
    }

    /// Puts them into this CPU, which has `now`.
    ///
    /// # Safety
    ///
    /// The host's are back before it runs user code.
    #[inline]
    unsafe fn replace(&self, now: &Self) {
        for (msr, value, old) in [
            (index::STAR, self.star, now.star),
            (index::LSTAR, self.lstar, now.lstar),
            (index::SFMASK, self.sfmask, now.sfmask),
        ] {
            if value != old {
                // SAFETY: By the precondition; the guest's values have been
                // checked when it wrote them.
                unsafe { cpu::wrmsr(msr, value) };
            }
        }
    }
}

/// The MSRs of one guest that this module switches by hand, between
/// [`SwitchedMsrs::load`] and [`SwitchedMsrs::unload`] with interrupts off.
#[derive(Default)]
pub(super) struct SwitchedMsrs {
    /// What the guest has written, whether the processor has it or not.
    pub(super) syscall: Syscall,
    kernel_gs_base: u64,
    /// SYSCALL can be executed, so its registers matter.
    syscall_on: bool,
    host_syscall: Syscall,
    host_kernel_gs_base: u64,
    loaded: bool,
    syscall_loaded: bool,
}

impl SwitchedMsrs {
    /// `host`: the host's registers of SYSCALL, the same on every CPU.
    pub(super) fn new(host: Syscall) -> Self {
        Self {
            host_syscall: host,
            ..Self::default()
        }
    }

    /// The processor gets the guest's.
    #[inline(always)]
    pub(super) fn load(&mut self) {
        self.loaded = true;
        self.host_kernel_gs_base = cpu::rdmsr(index::KERNEL_GS_BASE);
        if self.kernel_gs_base != self.host_kernel_gs_base {
            // SAFETY: The host's is put back by `unload`; the kernel needs it
            // only on its way to user mode.
            unsafe { cpu::wrmsr(index::KERNEL_GS_BASE, self.kernel_gs_base) };
        }
        if self.syscall_on {
            self.load_syscall();
        }
    }

    fn load_syscall(&mut self) {
        self.syscall_loaded = true;
        // SAFETY: `unload` puts the host's back.
        unsafe { self.syscall.replace(&self.host_syscall) };
    }

    /// The host gets its own back.
    #[inline(always)]
    pub(super) fn unload(&mut self) {
        self.kernel_gs_base = cpu::rdmsr(index::KERNEL_GS_BASE);
        if self.kernel_gs_base != self.host_kernel_gs_base {
            // SAFETY: The value is the host's own.
            unsafe { cpu::wrmsr(index::KERNEL_GS_BASE, self.host_kernel_gs_base) };
        }
        if self.syscall_loaded {
            self.syscall_loaded = false;
            // SAFETY: The values are the host's own.
            unsafe { self.host_syscall.replace(&self.syscall) };
        }
        self.loaded = false;
    }

    /// EFER.SCE of the guest has changed.
    pub(super) fn enable_syscall(&mut self, on: bool) {
        self.syscall_on = on;
        if on && self.loaded && !self.syscall_loaded {
            self.load_syscall();
        }
    }

    /// Changes the guest's registers of SYSCALL.
    pub(super) fn change_syscall(&mut self, change: impl FnOnce(&mut Syscall)) {
        let old = self.syscall;
        change(&mut self.syscall);
        if self.syscall_loaded {
            // SAFETY: `unload` puts the host's back.
            unsafe { self.syscall.replace(&old) };
        }
    }

    /// KERNEL_GS_BASE of the guest.
    pub(super) fn kernel_gs_base(&self) -> u64 {
        if self.loaded {
            cpu::rdmsr(index::KERNEL_GS_BASE)
        } else {
            self.kernel_gs_base
        }
    }

    /// Sets KERNEL_GS_BASE of the guest. The value has been checked.
    pub(super) fn set_kernel_gs_base(&mut self, value: u64) {
        self.kernel_gs_base = value;
        if self.loaded {
            // SAFETY: As in `load`.
            unsafe { cpu::wrmsr(index::KERNEL_GS_BASE, value) };
        }
    }
}
