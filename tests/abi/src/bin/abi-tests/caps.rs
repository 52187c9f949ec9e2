// SPDX-License-Identifier: GPL-2.0-or-later

//! What is advertised works: each capability that stands for an ioctl is tried.

use std::os::fd::AsRawFd;

use ironvm_abi_tests::fds::eventfd;
use ironvm_abi_tests::guest::Machine;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::{ioctl, ioctl_buffer, ioctl_mut, own_fd};
use ironvm_abi_tests::{ensure, ensure_eq, ensure_errno, lists, skip, test};
use ironvm_abi_tests::{Outcome, SysResult, Vcpu};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("caps", advertised_ioctls_work),
    test!("caps", advertised_enables_work),
    test!("caps", not_advertised_is_refused),
    test!("caps", same_on_device_and_vm),
    test!("caps", device_ctrl),
    test!("caps", binary_stats),
    test!("caps", disable_quirks),
    test!("caps", disable_exits_hlt),
    test!("caps", exception_payload),
    test!("caps", memory_fault_exit),
];

type Probe = fn(&Machine, &Vcpu) -> SysResult<i32>;

/// Gets a structure and puts it back.
fn there_and_back<T: Default>(vcpu: &Vcpu, get: Ioctl, set: Ioctl) -> SysResult<i32> {
    let value: T = vcpu.get(get)?;
    vcpu.set(set, &value)
}

const PROBES: &[(&str, u32, Probe)] = &[
    ("IRQCHIP", KVM_CAP_IRQCHIP, |m, _| m.vm.irq_line(5, 0)),
    ("USER_MEMORY", KVM_CAP_USER_MEMORY, |m, _| {
        m.vm.map(9, 0, 1 << 32, &m.memory)
    }),
    ("SET_TSS_ADDR", KVM_CAP_SET_TSS_ADDR, |m, _| {
        ioctl(&m.vm, KVM_SET_TSS_ADDR, 0xfffb_d000)
    }),
    ("VAPIC", KVM_CAP_VAPIC, |_, v| {
        let mut ctl = kvm_tpr_access_ctl::default();
        ioctl_mut(v, KVM_TPR_ACCESS_REPORTING, &mut ctl)
    }),
    ("EXT_CPUID", KVM_CAP_EXT_CPUID, |m, _| {
        m.kvm.supported_cpuid().map(|_| 0)
    }),
    ("MP_STATE", KVM_CAP_MP_STATE, |_, v| {
        there_and_back::<kvm_mp_state>(v, KVM_GET_MP_STATE, KVM_SET_MP_STATE)
    }),
    ("USER_NMI", KVM_CAP_USER_NMI, |_, v| ioctl(v, KVM_NMI, 0)),
    ("SET_GUEST_DEBUG", KVM_CAP_SET_GUEST_DEBUG, |_, v| {
        v.set(KVM_SET_GUEST_DEBUG, &kvm_guest_debug::default())
    }),
    ("REINJECT_CONTROL", KVM_CAP_REINJECT_CONTROL, |m, _| {
        let mut control = [0u64; 8];
        ioctl_buffer(&m.vm, KVM_REINJECT_CONTROL, &mut control)
    }),
    ("IRQ_ROUTING", KVM_CAP_IRQ_ROUTING, |m, _| {
        lists::set_routing(&m.vm, &[lists::route_to_msi(30, LAPIC, 0x40)])
    }),
    ("IRQ_INJECT_STATUS", KVM_CAP_IRQ_INJECT_STATUS, |m, _| {
        ioctl_mut(&m.vm, KVM_IRQ_LINE_STATUS, &mut kvm_irq_level::default())
    }),
    ("MCE", KVM_CAP_MCE, |_, v| {
        ioctl_mut(v, KVM_X86_SETUP_MCE, &mut (10u64 | 1 << 8))
    }),
    ("IRQFD", KVM_CAP_IRQFD, |m, _| m.vm.irqfd(&eventfd()?, 5, 0)),
    ("PIT_STATE2", KVM_CAP_PIT_STATE2, |m, _| {
        let state: kvm_pit_state2 = m.vm.get(KVM_GET_PIT2)?;
        m.vm.set(KVM_SET_PIT2, &state)
    }),
    ("IOEVENTFD", KVM_CAP_IOEVENTFD, |m, _| {
        let fd = eventfd()?;
        let arg = kvm_ioeventfd {
            addr: MMIO,
            len: 4,
            fd: fd.as_raw_fd(),
            ..Default::default()
        };
        m.vm.set(KVM_IOEVENTFD, &arg)
    }),
    ("ADJUST_CLOCK", KVM_CAP_ADJUST_CLOCK, |m, _| {
        m.vm.get::<kvm_clock_data>(KVM_GET_CLOCK)?;
        m.vm.set(KVM_SET_CLOCK, &kvm_clock_data::default())
    }),
    ("VCPU_EVENTS", KVM_CAP_VCPU_EVENTS, |_, v| {
        there_and_back::<kvm_vcpu_events>(v, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS)
    }),
    ("DEBUGREGS", KVM_CAP_DEBUGREGS, |_, v| {
        there_and_back::<kvm_debugregs>(v, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS)
    }),
    ("XSAVE", KVM_CAP_XSAVE, |_, v| {
        there_and_back::<kvm_xsave>(v, KVM_GET_XSAVE, KVM_SET_XSAVE)
    }),
    ("XCRS", KVM_CAP_XCRS, |_, v| {
        there_and_back::<kvm_xcrs>(v, KVM_GET_XCRS, KVM_SET_XCRS)
    }),
    ("GET_TSC_KHZ", KVM_CAP_GET_TSC_KHZ, |_, v| {
        ioctl(v, KVM_GET_TSC_KHZ, 0)
    }),
    ("SIGNAL_MSI", KVM_CAP_SIGNAL_MSI, |m, _| {
        m.vm.signal_msi(LAPIC, 0x40)
    }),
    ("READONLY_MEM", KVM_CAP_READONLY_MEM, |m, _| {
        m.vm.map(10, KVM_MEM_READONLY, 2 << 32, &m.memory)
    }),
    ("GET_MSR_FEATURES", KVM_CAP_GET_MSR_FEATURES, |m, _| {
        lists::msr_indices(&m.kvm, KVM_GET_MSR_FEATURE_INDEX_LIST).map(|l| l.len() as i32)
    }),
    ("SREGS2", KVM_CAP_SREGS2, |_, v| {
        there_and_back::<kvm_sregs2>(v, KVM_GET_SREGS2, KVM_SET_SREGS2)
    }),
    ("COALESCED_MMIO", KVM_CAP_COALESCED_MMIO, |m, _| {
        let zone = kvm_coalesced_mmio_zone {
            addr: MMIO + 0x1000,
            size: 16,
            ..Default::default()
        };
        m.vm.set(KVM_REGISTER_COALESCED_MMIO, &zone)
    }),
    ("USER_MEMORY2", KVM_CAP_USER_MEMORY2, |m, _| {
        let region = kvm_userspace_memory_region2 {
            slot: 11,
            guest_phys_addr: 3 << 32,
            memory_size: 4096,
            userspace_addr: m.memory.hva(),
            ..Default::default()
        };
        m.vm.set(KVM_SET_USER_MEMORY_REGION2, &region)
    }),
    ("PRE_FAULT_MEMORY", KVM_CAP_PRE_FAULT_MEMORY, |_, v| {
        let mut range = kvm_pre_fault_memory {
            gpa: 0x10_0000,
            size: 0x1000,
            ..Default::default()
        };
        ioctl_mut(v, KVM_PRE_FAULT_MEMORY, &mut range)
    }),
    ("X86_MSR_FILTER", KVM_CAP_X86_MSR_FILTER, |m, _| {
        m.vm.set(KVM_X86_SET_MSR_FILTER, &kvm_msr_filter::default())
    }),
];

fn advertised_ioctls_work() -> Outcome {
    let machine = Machine::with_irqchip()?;
    machine.vm.create_pit()?;
    let vcpu = machine.vcpu(0)?;
    let mut wrong = Vec::new();
    for (name, capability, probe) in PROBES {
        if !machine.vm.has(*capability) {
            continue;
        }
        if let Err(e) = probe(&machine, &vcpu) {
            wrong.push(format!("{name}: {e}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join(", "));
    Ok(())
}

/// `KVM_ENABLE_CAP` of what clients enable when they see it.
fn advertised_enables_work() -> Outcome {
    let cases: [(&str, u32, u64); 8] = [
        ("SPLIT_IRQCHIP", KVM_CAP_SPLIT_IRQCHIP, 24),
        ("EXCEPTION_PAYLOAD", KVM_CAP_EXCEPTION_PAYLOAD, 1),
        ("X86_TRIPLE_FAULT_EVENT", KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1),
        ("X86_USER_SPACE_MSR", KVM_CAP_X86_USER_SPACE_MSR, 4),
        (
            "MANUAL_DIRTY_LOG_PROTECT2",
            KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            1,
        ),
        ("MAX_VCPU_ID", KVM_CAP_MAX_VCPU_ID, 4),
        (
            "EXIT_ON_EMULATION_FAILURE",
            KVM_CAP_EXIT_ON_EMULATION_FAILURE,
            1,
        ),
        ("MSR_PLATFORM_INFO", KVM_CAP_MSR_PLATFORM_INFO, 0),
    ];
    let kvm = ironvm_abi_tests::fds::Kvm::open()?;
    for (name, capability, argument) in cases {
        let vm = kvm.create_vm(0)?;
        // For one of these the value is a limit that was always there, not a thing to enable.
        let advertised = vm.has(capability);
        let result = vm.enable(capability, &[argument]);
        if advertised && capability != KVM_CAP_MAX_VCPU_ID {
            ensure!(result.is_ok(), "{name}: {result:?}");
        } else if !advertised {
            ensure_errno!(result, libc::EINVAL, "{name}, which is not advertised");
        }
    }
    Ok(())
}

/// What is not advertised must not half work.
fn not_advertised_is_refused() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    if !machine.vm.has(KVM_CAP_NESTED_STATE) {
        let mut state = [0u64; 1024];
        state[0] = 8192 << 32;
        let result = ioctl_buffer(&vcpu, KVM_GET_NESTED_STATE, &mut state);
        ensure!(result.is_err(), "KVM_GET_NESTED_STATE gave {result:?}");
    }
    if !machine.vm.has(KVM_CAP_X86_SMM) {
        let result = ioctl(&vcpu, KVM_SMI, 0);
        ensure!(result.is_err(), "KVM_SMI gave {result:?}");
    }
    if !machine.vm.has(KVM_CAP_GUEST_MEMFD) {
        let mut arg = kvm_create_guest_memfd {
            size: 4096,
            ..Default::default()
        };
        let result = ioctl_mut(&machine.vm, KVM_CREATE_GUEST_MEMFD, &mut arg);
        ensure!(result.is_err(), "KVM_CREATE_GUEST_MEMFD gave {result:?}");
    }
    let result = ioctl_buffer(
        &vcpu,
        ("KVM_GET_ONE_REG", request(3, 0xab, 16)),
        &mut [0; 2],
    );
    ensure!(
        result.is_err(),
        "an ioctl of another direction gave {result:?}"
    );
    Ok(())
}

/// For an ordinary VM what the device says and what the VM says is the same, but for what depends
/// on the VM's own state.
fn same_on_device_and_vm() -> Outcome {
    let machine = Machine::new()?;
    if !machine.kvm.has(KVM_CAP_CHECK_EXTENSION_VM) {
        skip!("no KVM_CAP_CHECK_EXTENSION_VM");
    }
    for capability in 0..250 {
        let (device, vm) = (
            machine.kvm.extension(capability)?,
            machine.vm.extension(capability)?,
        );
        let own = [
            KVM_CAP_GUEST_MEMFD_FLAGS,
            KVM_CAP_MULTI_ADDRESS_SPACE,
            KVM_CAP_X2APIC_API,
        ];
        if !own.contains(&capability) {
            ensure_eq!(vm, device, "capability {capability}");
        }
    }
    Ok(())
}

const KVM_CAP_GUEST_MEMFD_FLAGS: u32 = 244;

fn device_ctrl() -> Outcome {
    let machine = Machine::new()?;
    if !machine.kvm.has(KVM_CAP_DEVICE_CTRL) {
        skip!("no KVM_CAP_DEVICE_CTRL");
    }
    let create = |kind: u32, flags: u32| {
        let mut device = kvm_create_device {
            type_: kind,
            flags,
            ..Default::default()
        };
        ioctl_mut(&machine.vm, KVM_CREATE_DEVICE, &mut device).map(|_| device.fd)
    };
    ensure_errno!(create(999, 0), libc::ENODEV, "device of type 999");
    ensure_errno!(
        create(999, 1),
        libc::ENODEV,
        "test for a device of type 999"
    );
    // A device, if there is one, is a descriptor that knows device attributes only.
    if create(kvm_device_type_KVM_DEV_TYPE_VFIO, 1).is_ok() {
        let fd = own_fd(create(kvm_device_type_KVM_DEV_TYPE_VFIO, 0)? as i32);
        ensure_errno!(ioctl(&fd, KVM_RUN, 0), libc::ENOTTY, "KVM_RUN on a device");
        let attribute = kvm_device_attr {
            group: 99,
            ..Default::default()
        };
        let result = ironvm_abi_tests::sys::ioctl_ref(&fd, KVM_HAS_DEVICE_ATTR, &attribute);
        ensure_errno!(result, libc::ENXIO, "attribute group 99");
    }
    Ok(())
}

/// The header says where descriptors and values lie; all of it can be read.
fn binary_stats() -> Outcome {
    let machine = Machine::new()?;
    if !machine.vm.has(KVM_CAP_BINARY_STATS_FD) {
        skip!("no KVM_CAP_BINARY_STATS_FD");
    }
    let vcpu = machine.vcpu(0)?;
    for raw in [
        ioctl(&machine.vm, KVM_GET_STATS_FD, 0)?,
        ioctl(&vcpu, KVM_GET_STATS_FD, 0)?,
    ] {
        let fd = own_fd(raw);
        let mut header = [0u32; 6];
        // SAFETY: 24 writable bytes.
        let n = unsafe { libc::pread(fd.as_raw_fd(), header.as_mut_ptr().cast(), 24, 0) };
        ensure_eq!(n, 24, "bytes of the header");
        let [_flags, name_size, count, id, descriptors, data] = header;
        ensure!(
            count > 0 && name_size > 0,
            "{count} values, names of {name_size}"
        );
        ensure!(
            id >= 24 && descriptors > id && data > descriptors,
            "offsets {header:?}"
        );
        let mut value = 0u64;
        // SAFETY: eight writable bytes.
        let n = unsafe { libc::pread(fd.as_raw_fd(), (&raw mut value).cast(), 8, data.into()) };
        ensure_eq!(n, 8, "bytes of the first value");
    }
    Ok(())
}

fn disable_quirks() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let quirks = machine.vm.extension(KVM_CAP_DISABLE_QUIRKS2)? as u64;
    if quirks == 0 {
        skip!("no KVM_CAP_DISABLE_QUIRKS2");
    }
    let result = machine.vm.enable(KVM_CAP_DISABLE_QUIRKS2, &[1 << 40]);
    ensure_errno!(result, libc::EINVAL, "an unknown quirk");
    // KVM_X86_QUIRK_LINT0_REENABLED: without it LINT0 is masked after reset.
    if quirks & 1 != 0 {
        machine.vm.enable(KVM_CAP_DISABLE_QUIRKS2, &[1])?;
        let vcpu = machine.vcpu(0)?;
        let lint0 = ironvm_abi_tests::driver::lapic_register(&vcpu, APIC_LVT_LINT0)?;
        ensure_eq!(lint0, 0x1_0000, "LINT0 after reset");
    }
    Ok(())
}

/// With HLT not intercepted the guest sleeps on the processor; it must still be taken out of it.
fn disable_exits_hlt() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let kinds = machine.vm.extension(KVM_CAP_X86_DISABLE_EXITS)? as u64;
    if kinds & 2 == 0 {
        skip!("HLT exits cannot be disabled");
    }
    machine.vm.enable(KVM_CAP_X86_DISABLE_EXITS, &[2])?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, ironvm_abi_tests::code64!("2:", "hlt", "jmp 2b"))?;
    ironvm_abi_tests::signals::interrupt_after(std::time::Duration::from_millis(50))?;
    ensure_errno!(vcpu.run(), libc::EINTR, "KVM_RUN");
    Ok(())
}

/// With the capability on, what a pending exception brings is told apart from the exception.
fn exception_payload() -> Outcome {
    let machine = Machine::new()?;
    if !machine.vm.has(KVM_CAP_EXCEPTION_PAYLOAD) {
        skip!("no KVM_CAP_EXCEPTION_PAYLOAD");
    }
    machine.vm.enable(KVM_CAP_EXCEPTION_PAYLOAD, &[1])?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, ironvm_abi_tests::code64!("hlt"))?;
    let mut events: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    events.exception.pending = 1;
    events.exception.nr = PF;
    events.exception.has_error_code = 1;
    events.exception.error_code = 2;
    events.exception_has_payload = 1;
    events.exception_payload = 0x1234_5000;
    vcpu.set(KVM_SET_VCPU_EVENTS, &events)?;
    let got: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    ensure_eq!(
        (got.exception.pending, got.exception.injected),
        (1, 0),
        "pending, injected"
    );
    let caught = machine.expect_caught(&vcpu, PF)?;
    ensure_eq!((caught.cr2, caught.error), (0x1234_5000, 2), "CR2, error");
    Ok(())
}

/// `EFAULT` of `KVM_RUN` says where, if the capability is there.
fn memory_fault_exit() -> Outcome {
    let code = ironvm_abi_tests::code64!("mov [rsi], eax", "hlt");
    let (machine, vcpu) = ironvm_abi_tests::guest::long_mode(code)?;
    if !machine.vm.has(KVM_CAP_MEMORY_FAULT_INFO) {
        skip!("no KVM_CAP_MEMORY_FAULT_INFO");
    }
    let memory = ironvm_abi_tests::sys::Mapping::anonymous(4096)?;
    machine.vm.map(1, 0, 0x1000_0000, &memory)?;
    drop(memory);
    vcpu.change_regs(|r| r.rsi = 0x1000_0010)?;
    ensure_errno!(vcpu.run(), libc::EFAULT, "KVM_RUN");
    let exit = ironvm_abi_tests::Exit::read(&vcpu.run);
    if vcpu.exit_reason() == KVM_EXIT_MEMORY_FAULT {
        let want = ironvm_abi_tests::Exit::MemoryFault(0, 0x1000_0000, 4096);
        ensure_eq!(exit, want, "fault");
    }
    Ok(())
}
