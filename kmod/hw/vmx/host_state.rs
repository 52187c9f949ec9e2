// SPDX-License-Identifier: GPL-2.0

//! What an exit has to find of the host (SDM vol. 3, 25.5 and 28.5), in one
//! place with the reasons.
//!
//! | what | why | when it is written |
//! |---|---|---|
//! | CR0, selectors, SYSENTER_CS and _EIP, EFER, RIP | never change | once |
//! | TR, GDTR, IDTR and GS base, SYSENTER_ESP | each CPU has its own | on another CPU |
//! | CR3 | the thread's address space, and its PCID on this CPU, which another thread's run in between may have changed | load, if changed |
//! | CR4 | changes with the thread (TSD, PCE) | load, if changed |
//! | FS base | the thread's TLS | load, if changed |
//! | RSP | how deep the thread is in its stack | the world switch, if changed |
//!
//! Some things an exit does not give back as they were, and `unload` does:
//!
//! - DS, ES, FS, GS and LDTR: VM entry refuses selectors of user mode, so the
//!   fields are 0 and a selector the thread had is loaded again.
//! - The limits of GDTR and TR: an exit sets them to 64 KiB and 0x67, which
//!   opens the rest of the GDT's page to user mode and closes the I/O bitmap.
//!   (That of IDTR does not matter: 256 vectors end below it.)
//! - DEBUGCTL is 0 after an exit. FREEZE_WHILE_SMM, by which the host's counters
//!   do not see SMM, is on in the guest as well: most SMIs of this CPU may come
//!   there. The rest of it is about code that runs.
//! - DR7 is 0x400 after an exit: `vm::debug` has the host's breakpoints, which
//!   SVM needs as well.
//!
//! PAT is not switched: what memory is to the guest, the extended page tables say
//! alone (SDM vol. 3, 29.3.7.2).
//!
//! Counters of the host run on in the guest, and their NMIs exit, but for those of
//! PEBS (`pebs`).

use super::field::guest;
use super::field::host;
use super::vmcs::Current;
use crate::host::cpu;
use crate::host::segments;
use crate::host::segments::Gdtr;
use crate::host::segments::Selectors;
use crate::host::task::IrqOff;
use crate::pc::msr::index;

const MSR_DEBUGCTL: u32 = 0x1d9;
const DEBUGCTL_FREEZE_WHILE_SMM: u64 = 1 << 14;

/// What the host-state area holds of what changes, and what the thread gets
/// back from `unload`.
#[derive(Default)]
pub(super) struct HostState {
    cr3: u64,
    cr4: u64,
    fs_base: u64,
    gdtr: Gdtr,
    /// The host's, of which the guest's follows.
    debugctl: u64,
    /// Those that `unload` loads again, if there are any.
    selectors: Option<Selectors>,
}

extern "C" {
    /// Where exits go: see `vmenter.S`.
    fn iv_vmx_exit();
}

impl HostState {
    /// What never changes. The VMCS is current.
    pub(super) fn set_up(&mut self, off: &IrqOff) {
        Current.write(host::CR0, cpu::host_cr0());
        Current.write(host::CS_SELECTOR, segments::KERNEL_CS);
        Current.write(host::SS_SELECTOR, segments::KERNEL_DS);
        Current.write(host::DS_SELECTOR, 0);
        Current.write(host::ES_SELECTOR, 0);
        Current.write(host::FS_SELECTOR, 0);
        Current.write(host::GS_SELECTOR, 0);
        Current.write(host::TR_SELECTOR, segments::KERNEL_TR);
        Current.write(host::SYSENTER_CS, cpu::rdmsr(index::SYSENTER_CS) as u32);
        Current.write(host::SYSENTER_EIP, cpu::rdmsr(index::SYSENTER_EIP));
        Current.write(host::EFER, cpu::rdmsr(index::EFER));
        Current.write(host::RIP, iv_vmx_exit as usize as u64);
        self.cr3 = cpu::host_cr3(off);
        self.cr4 = cpu::host_cr4(off);
        self.fs_base = segments::fs_base();
        Current.write(host::CR3, self.cr3);
        Current.write(host::CR4, self.cr4);
        Current.write(host::FS_BASE, self.fs_base);
    }

    /// What each CPU has its own of. The VMCS is current.
    pub(super) fn moved(&mut self, off: &IrqOff) {
        let tables = segments::tables(off);
        self.gdtr = tables.gdt;
        Current.write(host::GDTR_BASE, tables.gdt.base());
        Current.write(host::IDTR_BASE, tables.idt);
        Current.write(host::TR_BASE, tables.tss);
        Current.write(host::GS_BASE, cpu::rdmsr(index::GS_BASE));
        Current.write(host::SYSENTER_ESP, cpu::rdmsr(index::SYSENTER_ESP));
    }

    /// Before the first entry with interrupts off. The VMCS is current.
    #[inline(always)]
    pub(super) fn load(&mut self, off: &IrqOff) {
        let cr3 = cpu::host_cr3(off);
        if self.cr3 != cr3 {
            self.cr3 = cr3;
            Current.write(host::CR3, cr3);
        }
        let cr4 = cpu::host_cr4(off);
        if self.cr4 != cr4 {
            self.cr4 = cr4;
            Current.write(host::CR4, cr4);
        }
        let fs_base = segments::fs_base();
        if self.fs_base != fs_base {
            self.fs_base = fs_base;
            Current.write(host::FS_BASE, fs_base);
        }
        let debugctl = cpu::rdmsr(MSR_DEBUGCTL);
        if self.debugctl != debugctl {
            self.debugctl = debugctl;
            Current.write(guest::DEBUGCTL, debugctl & DEBUGCTL_FREEZE_WHILE_SMM);
        }
        if !Selectors::are_null() {
            self.selectors = Some(Selectors::read());
        }
    }

    /// After the last exit, before interrupts are on.
    #[inline(always)]
    pub(super) fn unload(&mut self, off: &IrqOff) {
        // SAFETY: `moved` has been called here: a vCPU that comes to another CPU
        // is told so before its first entry there.
        unsafe { segments::restore_tables(&self.gdtr, off) };
        if self.selectors.is_some() {
            self.restore_selectors(off);
        }
        if self.debugctl != 0 {
            // SAFETY: The value is the host's own.
            unsafe { cpu::wrmsr(MSR_DEBUGCTL, self.debugctl) };
        }
    }

    #[inline(never)]
    fn restore_selectors(&mut self, off: &IrqOff) {
        if let Some(selectors) = self.selectors.take() {
            selectors.restore(off, self.fs_base);
        }
    }
}
