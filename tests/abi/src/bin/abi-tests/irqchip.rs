// SPDX-License-Identifier: GPL-2.0-or-later

//! Creation and state of the interrupt chips, the PIT and the clock (KVM API document, 4.24, 4.26,
//! 4.27, 4.29, 4.30, 4.57, 4.58, 4.71, 4.72).

use ironvm_abi_tests::driver::{lapic_register, set_lapic_register, Driver, Eoi};
use ironvm_abi_tests::fds::Kvm;
use ironvm_abi_tests::guest::Machine;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::{ioctl, ioctl_mut};
use ironvm_abi_tests::{ensure, ensure_eq, ensure_errno, test, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("irqchip", create_once),
    test!("irqchip", not_after_vcpu),
    test!("irqchip", pic_state),
    test!("irqchip", ioapic_state),
    test!("irqchip", bad_chip),
    test!("irqchip", state_without_chips),
    test!("irqchip", lapic_state_at_start),
    test!("irqchip", lapic_round_trip),
    test!("irqchip", lapic_without_chips),
    test!("irqchip", lapic_page_is_memory_without_chips),
    test!("irqchip", pit_needs_chips),
    test!("irqchip", pit_state),
    test!("irqchip", pit_with_speaker_port),
    test!("irqchip", clock),
    test!("irqchip", clock_flags),
    test!("irqchip", irq_line_errors),
    test!("irqchip", irq_line_status),
    test!("irqchip", apic_id_of_vcpu),
];

fn create_once() -> Outcome {
    let vm = Kvm::open()?.create_vm(0)?;
    vm.create_irqchip()?;
    ensure_errno!(vm.create_irqchip(), libc::EEXIST, "a second time");
    Ok(())
}

fn not_after_vcpu() -> Outcome {
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm(0)?;
    let _vcpu = vm.vcpu(&kvm, 0)?;
    ensure_errno!(vm.create_irqchip(), libc::EINVAL, "after a vCPU");
    Ok(())
}

fn get_chip(machine: &Machine, id: u32) -> ironvm_abi_tests::SysResult<kvm_irqchip> {
    let mut chip = kvm_irqchip {
        chip_id: id,
        ..Default::default()
    };
    ioctl_mut(&machine.vm, KVM_GET_IRQCHIP, &mut chip)?;
    Ok(chip)
}

fn pic_state() -> Outcome {
    let machine = Machine::with_irqchip()?;
    for id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE] {
        let mut chip = get_chip(&machine, id)?;
        // SAFETY: the chip's id says that the union holds a PIC.
        let pic = unsafe { &mut chip.chip.pic };
        let mask = if id == KVM_IRQCHIP_PIC_MASTER {
            0xf8
        } else {
            0xde
        };
        ensure_eq!(pic.elcr_mask, mask, "ELCR mask of chip {id}");
        pic.imr = 0x5a;
        pic.irq_base = 0x70;
        pic.irr = 0x01;
        pic.isr = 0x04;
        pic.auto_eoi = 1;
        let want = *pic;
        machine.vm.set(KVM_SET_IRQCHIP, &chip)?;
        // SAFETY: as above.
        let got = unsafe { get_chip(&machine, id)?.chip.pic };
        ensure_eq!(got, want, "PIC {id}");
    }
    Ok(())
}

fn ioapic_state() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let mut chip = get_chip(&machine, KVM_IRQCHIP_IOAPIC)?;
    // SAFETY: the chip's id says that the union holds an IOAPIC.
    let ioapic = unsafe { &mut chip.chip.ioapic };
    ensure_eq!({ ioapic.base_address }, IOAPIC, "base address");
    for pin in ioapic.redirtbl {
        // SAFETY: the union is 64 bits either way.
        ensure_eq!(unsafe { pin.bits } >> 16 & 1, 1, "mask bit at start");
    }
    for (i, pin) in ioapic.redirtbl.iter_mut().enumerate() {
        pin.bits = 0x0300_0000_0001_0030 + i as u64;
    }
    ioapic.ioregsel = 0x12;
    ioapic.id = 5;
    machine.vm.set(KVM_SET_IRQCHIP, &chip)?;
    let got = get_chip(&machine, KVM_IRQCHIP_IOAPIC)?;
    // SAFETY: as above.
    let got = unsafe { &got.chip.ioapic };
    ensure_eq!(({ got.ioregsel }, { got.id }), (0x12, 5), "selector, id");
    for (i, pin) in got.redirtbl.iter().enumerate() {
        // SAFETY: as above.
        let bits = unsafe { pin.bits };
        ensure_eq!(bits, 0x0300_0000_0001_0030 + i as u64, "pin {i}");
    }
    Ok(())
}

fn bad_chip() -> Outcome {
    let machine = Machine::with_irqchip()?;
    for id in [3, 4, u32::MAX] {
        ensure_errno!(get_chip(&machine, id), libc::EINVAL, "get chip {id}");
        let chip = kvm_irqchip {
            chip_id: id,
            ..Default::default()
        };
        let result = machine.vm.set(KVM_SET_IRQCHIP, &chip);
        ensure_errno!(result, libc::EINVAL, "set chip {id}");
    }
    ensure_errno!(
        ioctl(&machine.vm, KVM_GET_IRQCHIP, 0),
        libc::EFAULT,
        "null pointer"
    );
    Ok(())
}

fn state_without_chips() -> Outcome {
    let machine = Machine::new()?;
    ensure_errno!(get_chip(&machine, 0), libc::ENXIO, "KVM_GET_IRQCHIP");
    let chip = kvm_irqchip::default();
    let result = machine.vm.set(KVM_SET_IRQCHIP, &chip);
    ensure_errno!(result, libc::ENXIO, "KVM_SET_IRQCHIP");
    ensure_errno!(machine.vm.irq_line(1, 1), libc::ENXIO, "KVM_IRQ_LINE");
    let result = machine.vm.signal_msi(LAPIC, 0x40);
    ensure!(result.is_err(), "KVM_SIGNAL_MSI gave {result:?}");
    Ok(())
}

fn lapic_state_at_start() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let vcpu = machine.vcpu(0)?;
    let register = |r| lapic_register(&vcpu, r);
    ensure_eq!(register(APIC_SVR)?, 0xff, "SVR");
    ensure_eq!(register(APIC_VERSION)? & 0xff, 0x14, "version");
    ensure!(register(APIC_VERSION)? >> 16 >= 4, "LVT entries");
    ensure_eq!(register(APIC_LVT_TIMER)?, 0x1_0000, "LVT timer");
    ensure_eq!(register(APIC_LVT_LINT0)?, 0x700, "LINT0 is ExtINT");
    ensure_eq!(register(APIC_TPR)?, 0, "TPR");
    ensure_eq!(register(0xe0)?, 0xffff_ffff, "DFR");
    Ok(())
}

fn lapic_round_trip() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let vcpu = machine.vcpu(0)?;
    for (register, value) in [
        (APIC_SVR, 0x1ff),
        (APIC_TPR, 0x30),
        (APIC_LVT_TIMER, 0x2_0040),
        (APIC_LVT_LINT1, 0x400),
        (APIC_TIMER_DIVIDE, 0xb),
        (APIC_TIMER_INITIAL, 0x7fff_ffff),
        (APIC_ISR + 0x20, 0x2),
        (APIC_IRR + 0x10, 0x1_0000),
        (0xd0, 0x0100_0000),
    ] {
        set_lapic_register(&vcpu, register, value)?;
        ensure_eq!(
            lapic_register(&vcpu, register)?,
            value,
            "register {register:#x}"
        );
    }
    Ok(())
}

fn lapic_without_chips() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let result = vcpu.get::<kvm_lapic_state>(KVM_GET_LAPIC);
    ensure_errno!(result, libc::EINVAL, "KVM_GET_LAPIC");
    let result = vcpu.set(KVM_SET_LAPIC, &kvm_lapic_state::default());
    ensure_errno!(result, libc::EINVAL, "KVM_SET_LAPIC");
    Ok(())
}

/// Without local APICs in the module, their page is userspace's as any other.
fn lapic_page_is_memory_without_chips() -> Outcome {
    let code = ironvm_abi_tests::code64!("mov eax, [rsi]", "out 0x10, al");
    let (_machine, vcpu) = ironvm_abi_tests::guest::long_mode(code)?;
    vcpu.change_regs(|r| r.rsi = LAPIC + 0x20)?;
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(&exit, ironvm_abi_tests::Exit::Mmio(m) if m.address == LAPIC + 0x20),
        "exit is {exit:x?}"
    );
    vcpu.set_mmio_data(0x1234);
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 0x1234, "value");
    Ok(())
}

fn pit_needs_chips() -> Outcome {
    let machine = Machine::new()?;
    ensure_errno!(machine.vm.create_pit(), libc::ENOENT, "KVM_CREATE_PIT2");
    let result = machine.vm.get::<kvm_pit_state2>(KVM_GET_PIT2);
    ensure_errno!(result, libc::ENXIO, "KVM_GET_PIT2");
    let machine = Machine::with_irqchip()?;
    let result = machine.vm.get::<kvm_pit_state2>(KVM_GET_PIT2);
    ensure_errno!(result, libc::ENXIO, "KVM_GET_PIT2 before it is made");
    machine.vm.create_pit()?;
    ensure_errno!(machine.vm.create_pit(), libc::EEXIST, "a second PIT");
    Ok(())
}

fn pit_state() -> Outcome {
    let machine = Machine::with_irqchip()?;
    machine.vm.create_pit()?;
    let mut state: kvm_pit_state2 = machine.vm.get(KVM_GET_PIT2)?;
    state.channels[0].count = 0x1_0000;
    state.channels[0].mode = 2;
    state.channels[0].rw_mode = 3;
    state.channels[2].count = 0x1234;
    state.channels[2].gate = 1;
    state.channels[1].mode = 3;
    machine.vm.set(KVM_SET_PIT2, &state)?;
    let got: kvm_pit_state2 = machine.vm.get(KVM_GET_PIT2)?;
    for i in 0..3 {
        let key = |s: &kvm_pit_state2| {
            let c = s.channels[i];
            (c.count, c.mode, c.rw_mode, c.gate)
        };
        ensure_eq!(key(&got), key(&state), "channel {i}");
    }
    let old: kvm_pit_state = machine.vm.get(KVM_GET_PIT)?;
    ensure_eq!(old.channels[2].count, 0x1234, "count by KVM_GET_PIT");
    Ok(())
}

fn pit_with_speaker_port() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let config = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    machine.vm.set(KVM_CREATE_PIT2, &config)?;
    Ok(())
}

fn clock() -> Outcome {
    let machine = Machine::new()?;
    let _vcpu = machine.vcpu(0)?;
    let set = kvm_clock_data {
        clock: 1_000_000_000_000,
        ..Default::default()
    };
    machine.vm.set(KVM_SET_CLOCK, &set)?;
    let first: kvm_clock_data = machine.vm.get(KVM_GET_CLOCK)?;
    let second: kvm_clock_data = machine.vm.get(KVM_GET_CLOCK)?;
    ensure!(
        first.clock >= set.clock && first.clock < set.clock + 20_000_000_000,
        "clock {} after {}",
        first.clock,
        set.clock
    );
    ensure!(second.clock >= first.clock, "the clock went back");
    Ok(())
}

fn clock_flags() -> Outcome {
    let machine = Machine::new()?;
    let flags = machine.vm.extension(KVM_CAP_ADJUST_CLOCK)? as u32;
    let got: kvm_clock_data = machine.vm.get(KVM_GET_CLOCK)?;
    ensure!(
        got.flags & !flags == 0,
        "flags {:#x} beyond {flags:#x}",
        got.flags
    );
    let bad = kvm_clock_data {
        flags: 1 << 20,
        ..Default::default()
    };
    let result = machine.vm.set(KVM_SET_CLOCK, &bad);
    ensure_errno!(result, libc::EINVAL, "unknown flag");
    Ok(())
}

/// Numbers without a route are not an error for `KVM_IRQ_LINE`.
fn irq_line_errors() -> Outcome {
    let machine = Machine::with_irqchip()?;
    for gsi in [24, 1000, 4095, 100_000, u32::MAX] {
        if let Err(e) = machine.vm.irq_line(gsi, 1) {
            ensure_eq!(e.number, libc::EINVAL, "errno of GSI {gsi}");
        }
    }
    Ok(())
}

fn irq_line_status() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let status = |gsi, level| -> Result<i32, ironvm_abi_tests::Failure> {
        let mut line = kvm_irq_level {
            level,
            ..Default::default()
        };
        line.__bindgen_anon_1.irq = gsi;
        ioctl_mut(&d.machine.vm, KVM_IRQ_LINE_STATUS, &mut line)?;
        // SAFETY: both fields of the union are 32 bits.
        Ok(unsafe { line.__bindgen_anon_1.status })
    };
    d.ioapic(5, ironvm_abi_tests::driver::entry(0x45, 0, false))?;
    ensure!(status(5, 1)? >= 1, "the edge was not delivered");
    status(5, 0)?;
    d.breathe()?;
    ensure_eq!(d.count(0x45), 1, "interrupts");
    Ok(())
}

fn apic_id_of_vcpu() -> Outcome {
    let machine = Machine::with_irqchip()?;
    for id in [0, 1, 9] {
        let vcpu = machine.vcpu(id)?;
        ensure_eq!(lapic_register(&vcpu, APIC_ID)? >> 24, id, "APIC id");
    }
    Ok(())
}
