// SPDX-License-Identifier: GPL-2.0

//! The host's segment registers and descriptor tables, which a VMX exit does
//! not give back as they were.
//!
//! Context: interrupts off.

use super::bindings;
use crate::host::cpu;
use crate::host::task::thread_flags;
use crate::host::task::IrqOff;
use core::arch::asm;

/// Selector of the kernel's code.
pub const KERNEL_CS: u16 = bindings::__KERNEL_CS as u16;
/// Selector of the kernel's stack.
pub const KERNEL_DS: u16 = bindings::__KERNEL_DS as u16;
/// Selector of the task state segment.
pub const KERNEL_TR: u16 = (bindings::GDT_ENTRY_TSS * 8) as u16;

const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

extern "C" {
    /// Of each CPU: TR has a smaller limit than the kernel has given it.
    static __tss_limit_invalid: bool;
}

/// GDTR, as SGDT stores it and LGDT loads it.
#[repr(C, packed)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Gdtr {
    limit: u16,
    base: u64,
}

impl Gdtr {
    /// That of this CPU.
    fn read() -> Self {
        let mut gdtr = Self::default();
        // SAFETY: Stores to the structure, which is as the instruction lays it
        // out.
        unsafe { asm!("sgdt [{}]", in(reg) &mut gdtr, options(nostack, preserves_flags)) };
        gdtr
    }

    /// Linear address of the table.
    pub fn base(&self) -> u64 {
        self.base
    }
}

/// This CPU's tables, of all but the first the linear address.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Global descriptor table.
    pub gdt: Gdtr,
    /// Interrupt descriptor table.
    pub idt: u64,
    /// Task state segment.
    pub tss: u64,
}

/// Those of this CPU.
pub fn tables(_off: &IrqOff) -> Tables {
    let mut tables = Tables {
        gdt: Gdtr::read(),
        idt: 0,
        tss: 0,
    };
    // SAFETY: Stores to the two integers.
    unsafe { bindings::iv_host_tables(&mut tables.idt, &mut tables.tss) };
    tables
}

/// The limits of GDTR and TR are as the kernel has set them again. On return
/// to user mode TR itself may be loaded again, if the thread uses ports.
///
/// # Safety
///
/// `gdtr` is this CPU's: [`tables`] has told it here.
#[inline]
pub unsafe fn restore_tables(gdtr: &Gdtr, _off: &IrqOff) {
    // SAFETY: By the precondition; the table is where it was all the time.
    unsafe { asm!("lgdt [{}]", in(reg) gdtr, options(nostack, preserves_flags, readonly)) };
    if thread_flags() & 1 << bindings::TIF_IO_BITMAP != 0 {
        // SAFETY: Interrupts are off.
        unsafe { bindings::iv_reload_task_register() };
        return;
    }
    // SAFETY: Writes a per-CPU variable of this CPU through GS, as the kernel
    // asks of who makes the limit smaller (`invalidate_tss_limit`).
    unsafe {
        asm!(
            "mov byte ptr gs:[rip + {variable}], 1",
            variable = sym __tss_limit_invalid,
            options(nostack, preserves_flags),
        );
    }
}

/// FS base of the thread.
#[inline]
pub fn fs_base() -> u64 {
    if !cpu::boot_cpu_has(cpu::Feature::FSGSBASE) {
        return cpu::rdmsr(MSR_FS_BASE);
    }
    let base: u64;
    // SAFETY: The processor has the instruction, and the kernel enables it.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nostack, nomem, preserves_flags)) };
    base
}

/// Segment registers of user mode. All are null in 64-bit programs that do
/// nothing unusual.
#[derive(Clone, Copy, Default, Debug)]
pub struct Selectors {
    ds: u16,
    es: u16,
    fs: u16,
    gs: u16,
    ldt: u16,
}

impl Selectors {
    /// Those of the thread.
    pub fn read() -> Self {
        let (ds, es, fs, gs, ldt) = Self::registers();
        Self {
            ds: ds as u16,
            es: es as u16,
            fs: fs as u16,
            gs: gs as u16,
            ldt: ldt as u16,
        }
    }

    /// Whether all of the thread's are null, so that there is nothing to restore.
    #[inline]
    pub fn are_null() -> bool {
        let (ds, es, fs, gs, ldt) = Self::registers();
        ds | es | fs | gs | ldt == 0
    }

    #[inline(always)]
    fn registers() -> (u64, u64, u64, u64, u64) {
        let (ds, es, fs, gs, ldt): (u64, u64, u64, u64, u64);
        // SAFETY: Reading segment registers has no effect.
        unsafe {
            asm!(
                "mov {ds:e}, ds",
                "mov {es:e}, es",
                "mov {fs:e}, fs",
                "mov {gs:e}, gs",
                "sldt {ldt:e}",
                ds = out(reg) ds,
                es = out(reg) es,
                fs = out(reg) fs,
                gs = out(reg) gs,
                ldt = out(reg) ldt,
                options(nostack, nomem, preserves_flags),
            );
        }
        (ds, es, fs, gs, ldt)
    }

    /// Loads them again, where they are not null. `fs_base` is the thread's.
    pub fn restore(&self, _off: &IrqOff, fs_base: u64) {
        let user_gs_base = cpu::rdmsr(MSR_KERNEL_GS_BASE);
        // SAFETY: The selectors are those the thread had, in its own tables; a
        // selector that is not valid any more loads null.
        unsafe { bindings::iv_restore_selectors(self.ds, self.es, self.fs, self.gs, self.ldt) };
        // Loading a selector has changed the base.
        // SAFETY: Both are the thread's own.
        unsafe {
            if self.fs != 0 {
                cpu::wrmsr(MSR_FS_BASE, fs_base);
            }
            if self.gs != 0 {
                cpu::wrmsr(MSR_KERNEL_GS_BASE, user_gs_base);
            }
        }
    }
}
