// SPDX-License-Identifier: GPL-2.0

//! The vCPU file.

mod events;
mod model;
mod registers;
mod sync;

use super::ioctl_table;
use crate::host::file::FileObject;
use crate::host::mutex::KillableMutex;
use crate::host::page::HostPage;
use crate::host::user::UserPtr;
use crate::hw::Vendor;
use crate::vm::run_page::RunPages;
use crate::vm::vcpu::Vcpu;
use crate::vm::Vm;
use kernel::prelude::*;
use kernel::static_lock_class;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;

/// What a vCPU's file descriptor stands for.
#[pin_data]
pub struct VcpuFile<V: Vendor> {
    vm: Arc<Vm<V>>,
    run: Arc<RunPages>,
    #[pin]
    vcpu: KillableMutex<KBox<Vcpu<V>>>,
}

impl<V: Vendor> VcpuFile<V> {
    /// The file of a new vCPU.
    pub fn new(vcpu: KBox<Vcpu<V>>) -> Result<Arc<Self>> {
        let vm = vcpu.vm.clone();
        let run = vcpu.run.clone();
        Arc::pin_init(
            pin_init!(Self {
                vm,
                run,
                vcpu <- KillableMutex::new(vcpu, c"kvm vcpu", static_lock_class!()),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }
}

impl<V: Vendor> FileObject for VcpuFile<V> {
    const MAPPABLE: bool = true;

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: UserPtr) -> Result<isize> {
        // A vCPU's memory is its creator's.
        if !this.vm.memory.is_current_mm() {
            return Err(EIO);
        }
        let runs = cmd == crate::uapi::KVM_RUN;
        if !runs && (cmd >> 8) & 0xff != crate::uapi::KVMIO {
            return Err(EINVAL);
        }
        let mut guard = this.vcpu.lock()?;
        let vcpu = &mut **guard;
        vcpu.keep_tsc_over_suspend();
        if !runs {
            return vcpu.ioctl(cmd, arg);
        }
        if !arg.is_null() {
            return Err(EINVAL);
        }
        vcpu.run().map(|()| 0)
    }

    fn mmap_page(&self, offset: usize) -> Option<&HostPage> {
        if offset as u64 == crate::uapi::KVM_COALESCED_MMIO_PAGE_OFFSET {
            return Some(self.vm.bus.coalesced_page());
        }
        self.run.page(offset)
    }
}

impl<V: Vendor> Vcpu<V> {
    /// Every ioctl but KVM_RUN, which is not to look through the table.
    #[inline(never)]
    fn ioctl(&mut self, cmd: u32, arg: UserPtr) -> Result<isize> {
        let vcpu = self;
        ioctl_table! { cmd, arg;
            KVM_GET_REGS => output || vcpu.get_regs();
            KVM_SET_REGS => input |regs| vcpu.set_regs(regs);
            KVM_GET_SREGS => output || vcpu.get_sregs();
            KVM_SET_SREGS => input |sregs| vcpu.set_sregs(sregs);
            KVM_GET_SREGS2 => output || vcpu.get_sregs2();
            KVM_SET_SREGS2 => input |sregs| vcpu.set_sregs2(sregs);
            KVM_GET_FPU => output || vcpu.get_fpu();
            KVM_SET_FPU => input |state| vcpu.set_fpu(state);
            KVM_GET_XSAVE => raw |to| vcpu.get_xsave(to).map(|()| 0);
            KVM_GET_XSAVE2 => raw |to| vcpu.get_xsave2(to).map(|()| 0);
            KVM_SET_XSAVE => raw |from| vcpu.set_xsave(from).map(|()| 0);
            KVM_GET_XCRS => output || vcpu.get_xcrs();
            KVM_SET_XCRS => input |xcrs| vcpu.set_xcrs(xcrs);
            KVM_GET_DEBUGREGS => output || vcpu.get_debugregs();
            KVM_SET_DEBUGREGS => input |regs| vcpu.set_debugregs(regs);
            KVM_GET_VCPU_EVENTS => output || vcpu.get_vcpu_events();
            KVM_SET_VCPU_EVENTS => input |events| vcpu.set_vcpu_events(events);
            KVM_GET_MP_STATE => output || vcpu.get_mp_state();
            KVM_SET_MP_STATE => input |state| vcpu.set_mp_state(state);
            KVM_GET_LAPIC => output || vcpu.get_lapic();
            KVM_SET_LAPIC => input |state| vcpu.set_lapic(state);
            KVM_GET_MSRS => raw |list| vcpu.get_msrs(list);
            KVM_SET_MSRS => raw |list| vcpu.set_msrs(list);
            KVM_SET_CPUID2 => raw |list| vcpu.set_cpuid2(list);
            KVM_GET_CPUID2 => raw |list| vcpu.get_cpuid2(list);
            KVM_INTERRUPT => input |interrupt| vcpu.interrupt(interrupt);
            KVM_NMI => none || vcpu.nmi();
            KVM_SET_SIGNAL_MASK => raw |mask| vcpu.set_signal_mask(mask);
            KVM_SET_GUEST_DEBUG => input |debug| vcpu.set_guest_debug(debug);
            KVM_TRANSLATE => both |translation| vcpu.translate_for_user(translation);
            KVM_TPR_ACCESS_REPORTING => both |control| vcpu.set_tpr_reporting(control);
            KVM_SET_VAPIC_ADDR => input |address| vcpu.set_vapic_address(address);
            KVM_X86_SETUP_MCE => input |capabilities| vcpu.setup_mce(capabilities);
            KVM_X86_SET_MCE => input |mce| vcpu.set_mce(mce);
            KVM_SET_TSC_KHZ => raw |khz: UserPtr| vcpu.set_tsc_khz(khz.addr());
            KVM_GET_TSC_KHZ => raw |_| vcpu.get_tsc_khz();
            KVM_KVMCLOCK_CTRL => none || vcpu.clock_was_stopped();
            KVM_ENABLE_CAP => input |cap| vcpu.enable_capability(cap);
            _ => EINVAL
        }
    }
}
