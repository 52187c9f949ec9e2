// SPDX-License-Identifier: GPL-2.0

//! Registers in the run page (KVM_CAP_SYNC_REGS; KVM API document, 6.75):
//! stored at each exit, and taken over before each entry, if userspace asks.

use crate::hw::Vendor;
use crate::uapi;
use crate::uapi::kvm_run;
use crate::uapi::kvm_sync_regs;
use crate::vm::vcpu::Vcpu;
use core::mem::offset_of;
use kernel::prelude::*;

const REGS: usize = offset_of!(kvm_run, s) + offset_of!(kvm_sync_regs, regs);
const SREGS: usize = offset_of!(kvm_run, s) + offset_of!(kvm_sync_regs, sregs);
const EVENTS: usize = offset_of!(kvm_run, s) + offset_of!(kvm_sync_regs, events);

impl<V: Vendor> Vcpu<V> {
    /// Takes over what userspace has changed.
    ///
    /// # Errors
    ///
    /// `EINVAL` for sets that do not exist, and values that do not go.
    #[inline(always)]
    pub fn take_synced_registers(&mut self) -> Result {
        match (self.run.dirty_regs(), self.run.valid_regs()) {
            (0, 0) => Ok(()),
            (dirty, valid) => self.take_register_sets(dirty, valid),
        }
    }

    #[inline(never)]
    fn take_register_sets(&mut self, dirty: u64, valid: u64) -> Result {
        if (dirty | valid) & !uapi::KVM_SYNC_X86_VALID_FIELDS != 0 {
            return Err(EINVAL);
        }
        if dirty == 0 {
            return Ok(());
        }
        if dirty & uapi::KVM_SYNC_X86_REGS != 0 {
            self.set_regs(&self.run.synced(REGS))?;
        }
        if dirty & uapi::KVM_SYNC_X86_SREGS != 0 {
            self.set_sregs(&self.run.synced(SREGS))?;
        }
        if dirty & uapi::KVM_SYNC_X86_EVENTS != 0 {
            self.set_vcpu_events(&self.run.synced(EVENTS))?;
        }
        self.run.clear_dirty_regs();
        Ok(())
    }

    /// Stores what userspace wants to see.
    #[inline(always)]
    pub fn store_synced_registers(&mut self) -> Result {
        match self.run.valid_regs() {
            0 => Ok(()),
            wanted => self.store_register_sets(wanted),
        }
    }

    #[inline(never)]
    fn store_register_sets(&mut self, wanted: u64) -> Result {
        if wanted & uapi::KVM_SYNC_X86_REGS != 0 {
            let regs = self.get_regs()?;
            self.run.set_synced(REGS, regs);
        }
        if wanted & uapi::KVM_SYNC_X86_SREGS != 0 {
            let sregs = self.get_sregs()?;
            self.run.set_synced(SREGS, sregs);
        }
        if wanted & uapi::KVM_SYNC_X86_EVENTS != 0 {
            let events = self.get_vcpu_events()?;
            self.run.set_synced(EVENTS, events);
        }
        Ok(())
    }
}
