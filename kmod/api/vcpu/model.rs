// SPDX-License-Identifier: GPL-2.0

//! What processor the vCPU is: KVM_{GET,SET}_{CPUID2,MSRS,LAPIC} and
//! their kin (KVM API document, 4.18 to 4.20, 4.55 to 4.58).

use crate::api::list;
use crate::host::task::Sigmask;
use crate::host::user::UserPtr;
use crate::hw::Vendor;
use crate::pc::addr::Gva;
use crate::pc::cpuid::MAX_ENTRIES;
use crate::pc::lapic::IdFormat;
use crate::pc::msr::Origin;
use crate::pc::walk;
use crate::pc::walk::Access;
use crate::uapi::kvm_cpuid2;
use crate::uapi::kvm_enable_cap;
use crate::uapi::kvm_lapic_state;
use crate::uapi::kvm_signal_mask;
use crate::uapi::kvm_translation;
use crate::vm::step::Context;
use crate::vm::vcpu::Vcpu;
use core::mem::size_of;
use kernel::prelude::*;

impl<V: Vendor> Vcpu<V> {
    /// KVM_SET_CPUID2.
    ///
    /// # Errors
    ///
    /// `E2BIG` for more than 256 entries, `EINVAL` for an address width no
    /// processor has, `EFAULT`.
    pub fn set_cpuid2(&mut self, list: UserPtr) -> Result<isize> {
        let header: kvm_cpuid2 = list.read()?;
        let entries = list
            .offset(size_of::<kvm_cpuid2>())?
            .read_array(header.nent as usize, MAX_ENTRIES)?;
        self.model.set_cpuid(entries, self.exits != 0)?;
        self.after_cpuid();
        Ok(0)
    }

    /// KVM_GET_CPUID2.
    ///
    /// # Errors
    ///
    /// `E2BIG` when there is not enough room.
    pub fn get_cpuid2(&mut self, list: UserPtr) -> Result<isize> {
        self.mirror_state_in_cpuid();
        list::write_counted(list, size_of::<kvm_cpuid2>(), self.model.entries())
    }

    /// KVM_GET_MSRS: gives how many could be read, in order.
    pub fn get_msrs(&mut self, list: UserPtr) -> Result<isize> {
        list::each_msr(list, true, |entry| {
            entry.data = self.read_msr_value(entry.index, Origin::Host).ok()?;
            Some(())
        })
    }

    /// KVM_SET_MSRS: gives how many could be written, in order.
    pub fn set_msrs(&mut self, list: UserPtr) -> Result<isize> {
        list::each_msr(list, false, |entry| {
            self.write_msr_value(entry.index, entry.data, Origin::Host)
                .ok()
                .map(drop)
        })
    }

    /// KVM_GET_LAPIC.
    ///
    /// # Errors
    ///
    /// `EINVAL` without an in-kernel local APIC.
    pub fn get_lapic(&mut self) -> Result<kvm_lapic_state> {
        self.collect_posted();
        let format = self.lapic_id_format();
        let time = self.time;
        let lapic = self.lapic.as_ref().ok_or(EINVAL)?;
        Ok(lapic.get_state(format, &time))
    }

    /// KVM_SET_LAPIC.
    ///
    /// # Errors
    ///
    /// `EINVAL` without an in-kernel local APIC, or for an id that is not the
    /// vCPU's.
    pub fn set_lapic(&mut self, state: &kvm_lapic_state) -> Result {
        let format = self.lapic_id_format();
        let time = self.time;
        let lapic = self.lapic.as_mut().ok_or(EINVAL)?;
        let command = lapic
            .set_state(state, format, &self.shared.apic, &time)
            .map_err(|_| EINVAL)?;
        self.hw.set_cr8(lapic.cr8());
        self.apply_timer(command);
        Ok(())
    }

    fn lapic_id_format(&self) -> IdFormat {
        if self.vm.settings.x2apic_32bit_ids() {
            IdFormat::Bits32
        } else {
            IdFormat::Bits8
        }
    }

    /// KVM_SET_SIGNAL_MASK.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a length other than that of the kernel's signal set.
    pub fn set_signal_mask(&mut self, mask: UserPtr) -> Result<isize> {
        const SET_BYTES: u32 = size_of::<u64>() as u32;
        if mask.is_null() {
            self.sigmask = None;
            return Ok(0);
        }
        let header: kvm_signal_mask = mask.read()?;
        if header.len != SET_BYTES {
            return Err(EINVAL);
        }
        let bits: u64 = mask.offset(size_of::<kvm_signal_mask>())?.read()?;
        self.sigmask = Some(Sigmask::new(bits));
        Ok(0)
    }

    /// KVM_TRANSLATE: as a supervisor reads, without touching accessed bits.
    pub fn translate_for_user(&mut self, translation: &mut kvm_translation) -> Result {
        let mut reader = self.reader(Context::Sleepable);
        let gva = Gva(translation.linear_address);
        let found = walk::walk(&mut reader, &self.paging(), gva, Access::READ);
        translation.physical_address = found.map_or(u64::MAX, |found| found.gpa.0);
        translation.valid = u8::from(found.is_ok());
        translation.writeable = 1;
        translation.usermode = 0;
        Ok(())
    }

    /// KVM_X86_SETUP_MCE.
    ///
    /// # Errors
    ///
    /// `EINVAL` for more banks or other abilities than there are.
    pub fn setup_mce(&mut self, capabilities: &u64) -> Result {
        self.model.msrs.setup_mce(*capabilities).map_err(|_| EINVAL)
    }

    /// KVM_ENABLE_CAP of a vCPU: none can be enabled.
    ///
    /// # Errors
    ///
    /// `EINVAL`.
    pub fn enable_capability(&mut self, _cap: &kvm_enable_cap) -> Result {
        Err(EINVAL)
    }
}
