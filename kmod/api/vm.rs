// SPDX-License-Identifier: GPL-2.0

//! The VM file.

use super::capability;
use super::ioctl_table;
use super::vcpu::VcpuFile;
use crate::host::file::FileObject;
use crate::host::file::PreparedFd;
use crate::host::user::UserPtr;
use crate::hw::Vendor;
use crate::uapi::kvm_create_device;
use crate::vm::vcpu::Vcpu;
use crate::vm::Vm;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;

impl<V: Vendor> FileObject for Vm<V> {
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: UserPtr) -> Result<isize> {
        if !this.memory.is_current_mm() {
            return Err(EIO);
        }
        let vm: Arc<Self> = this.into();
        ioctl_table! { cmd, arg;
            KVM_CREATE_VCPU => raw |id| create_vcpu(&vm, id);
            KVM_CHECK_EXTENSION => raw |number: UserPtr| Ok(capability::value_for_vm(&vm, number.addr()));
            KVM_ENABLE_CAP => input |cap| vm.enable_capability(cap);
            KVM_SET_USER_MEMORY_REGION => input |region| vm.set_memory_region(region);
            KVM_SET_USER_MEMORY_REGION2 => input |region| vm.set_memory_region2(region);
            KVM_GET_DIRTY_LOG => input |log| vm.get_dirty_log(log);
            KVM_CLEAR_DIRTY_LOG => input |log| vm.clear_dirty_log(log);
            KVM_SET_TSS_ADDR => raw |address: UserPtr| vm.set_tss_address(address.addr());
            KVM_SET_IDENTITY_MAP_ADDR => input |address: &u64| vm.set_identity_map_address(*address);
            KVM_SET_NR_MMU_PAGES => raw |count: UserPtr| vm.set_mmu_pages(count.addr());
            KVM_SET_BOOT_CPU_ID => raw |id: UserPtr| vm.set_boot_cpu(id.addr());
            KVM_CREATE_IRQCHIP => none || vm.create_irqchip();
            KVM_GET_IRQCHIP => both |chip| vm.get_irqchip(chip);
            KVM_SET_IRQCHIP => input |chip| vm.set_irqchip(chip);
            KVM_IRQ_LINE => input |level| vm.irq_line(level);
            KVM_IRQ_LINE_STATUS => both |level| vm.irq_line_status(level);
            KVM_SIGNAL_MSI => raw |msi| vm.signal_msi(msi);
            KVM_SET_GSI_ROUTING => raw |routes| vm.set_gsi_routing(routes);
            KVM_IRQFD => input |irqfd| vm.irqfd(irqfd);
            KVM_IOEVENTFD => input |ioeventfd| vm.ioeventfd(ioeventfd);
            KVM_REGISTER_COALESCED_MMIO => input |zone| vm.register_coalesced(zone);
            KVM_UNREGISTER_COALESCED_MMIO => input |zone| vm.unregister_coalesced(zone);
            KVM_CREATE_PIT => none || vm.create_pit_with_speaker();
            KVM_CREATE_PIT2 => input |config| vm.create_pit(config);
            KVM_GET_PIT => output || vm.get_pit();
            KVM_SET_PIT => input |state| vm.set_pit(state);
            KVM_GET_PIT2 => output || vm.get_pit2();
            KVM_SET_PIT2 => input |state| vm.set_pit2(state);
            KVM_REINJECT_CONTROL => input |control| vm.reinject_control(control);
            KVM_GET_CLOCK => output || vm.get_clock();
            KVM_SET_CLOCK => input |clock| vm.set_clock(clock);
            KVM_SET_TSC_KHZ => raw |khz: UserPtr| vm.set_tsc_khz(khz.addr());
            KVM_GET_TSC_KHZ => raw |_| vm.get_tsc_khz();
            KVM_CREATE_DEVICE => input create_device;
            KVM_X86_SET_MSR_FILTER => input |filter| vm.set_msr_filter(filter);
            _ => ENOTTY
        }
    }

    fn release(this: Arc<Self>) {
        this.shut_down();
    }
}

/// KVM_CREATE_DEVICE: no kind of device is made this way.
///
/// # Errors
///
/// `ENODEV` for every kind.
fn create_device(_device: &kvm_create_device) -> Result {
    Err(ENODEV)
}

/// KVM_CREATE_VCPU.
///
/// # Errors
///
/// `EINVAL` for an id that is too large or a VM that is full, `EEXIST` for an
/// id in use, `ENOMEM`.
fn create_vcpu<V: Vendor>(vm: &Arc<Vm<V>>, id: UserPtr) -> Result<isize> {
    let id = u32::try_from(id.addr()).map_err(|_| EINVAL)?;
    let creation = vm.creation.lock();
    let index = vm.check_new_vcpu(id)?;
    let vcpu = Vcpu::new(vm.clone(), id, index)?;
    let shared = vcpu.shared.clone();
    let fd = PreparedFd::new(c"kvm-vcpu", VcpuFile::new(vcpu)?)?;
    vm.vcpus.push(shared)?;
    drop(creation);
    Ok(fd.install() as isize)
}
