// SPDX-License-Identifier: GPL-2.0-or-later

//! Local APICs in the module, the other chips in userspace (`KVM_CAP_SPLIT_IRQCHIP`), and the
//! format of ids beyond 255 (`KVM_CAP_X2APIC_API`).

use ironvm_abi_tests::driver::{msi_address, Driver, Eoi};
use ironvm_abi_tests::guest::Chips;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::lists::{route_to_msi, set_routing};
use ironvm_abi_tests::{ensure, ensure_eq, ensure_errno, skip, test, Exit, Failure, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("split", message_arrives),
    test!("split", eoi_of_level_exits),
    test!("split", eoi_of_level_under_single_step),
    test!("split", eoi_of_edge_stays),
    test!("split", chips_are_userspace),
    test!("split", interrupt_of_userspace_pic),
    test!("split", saving_leaves_the_interrupt_waiting),
    test!("split", no_irqchip_state),
    test!("split", irqfd_to_message),
    test!("split", x2apic_api),
];

const PINS: u32 = 24;

fn driver(eoi: Eoi) -> Result<Driver, Failure> {
    if !ironvm_abi_tests::fds::Kvm::open()?.has(KVM_CAP_SPLIT_IRQCHIP) {
        skip!("no KVM_CAP_SPLIT_IRQCHIP");
    }
    Ok(Driver::with(Chips::Split(PINS.into()), eoi)?)
}

fn message_arrives() -> Outcome {
    let d = driver(Eoi::Xapic)?;
    for n in 1..=5 {
        d.machine.vm.signal_msi(msi_address(0), 0x61)?;
        d.breathe()?;
        ensure_eq!(d.count(0x61), n, "interrupts");
    }
    Ok(())
}

/// The message of the level-triggered interrupt of [`level_driver`].
const LEVEL: u32 = 0x65 | 1 << 15;

/// A route of a pin of the I/O APIC names a level-triggered vector.
fn level_driver() -> Result<Driver, Failure> {
    let d = driver(Eoi::None)?;
    set_routing(&d.machine.vm, &[route_to_msi(5, msi_address(0), LEVEL)])?;
    Ok(d)
}

/// The interrupt has come for the `n`th time, and the guest's next instruction completes it.
fn interrupt_then_eoi(d: &Driver, n: u64) -> Outcome {
    d.machine.vm.signal_msi(msi_address(0), LEVEL)?;
    d.breathe()?;
    ensure_eq!(d.count(0x65), n, "interrupts");
    d.vcpu.change_regs(|r| {
        (r.rip, r.rax) = (CODE2, 0);
        r.rsi = LAPIC + u64::from(APIC_EOI);
    })?;
    Ok(())
}

/// A level-triggered vector that a route of one of the IOAPIC's pins names: its EOI is told to
/// userspace, which has the IOAPIC.
fn eoi_of_level_exits() -> Outcome {
    let d = level_driver()?;
    for n in 1..=3 {
        interrupt_then_eoi(&d, n)?;
        ensure_eq!(d.vcpu.run_on()?, Exit::IoapicEoi(0x65), "exit at EOI");
        d.vcpu.run_to_done()?;
    }
    Ok(())
}

/// The exit for the end of an interrupt and the one for the step of the instruction that ends it
/// are both made, whichever comes first.
fn eoi_of_level_under_single_step() -> Outcome {
    let d = level_driver()?;
    let step = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    for n in 1..=3 {
        interrupt_then_eoi(&d, n)?;
        let debug = |control| kvm_guest_debug {
            control,
            ..Default::default()
        };
        d.vcpu.set(KVM_SET_GUEST_DEBUG, &debug(step))?;
        let exits = [d.vcpu.run_on()?, d.vcpu.run_on()?];
        d.vcpu.set(KVM_SET_GUEST_DEBUG, &debug(0))?;
        let told = exits.contains(&Exit::IoapicEoi(0x65));
        ensure!(told, "the end was not told: {exits:?}");
        let stepped = exits.iter().any(|exit| matches!(exit, Exit::Debug { .. }));
        ensure!(stepped, "no step: {exits:?}");
        d.vcpu.run_to_done()?;
    }
    Ok(())
}

fn eoi_of_edge_stays() -> Outcome {
    let d = driver(Eoi::None)?;
    set_routing(&d.machine.vm, &[route_to_msi(5, msi_address(0), 0x65)])?;
    d.machine.vm.signal_msi(msi_address(0), 0x65)?;
    d.breathe()?;
    d.apic(APIC_EOI, 0)?;
    ensure_eq!(d.count(0x65), 1, "interrupts");
    Ok(())
}

/// The ports of the PICs and the page of the IOAPIC are userspace's.
fn chips_are_userspace() -> Outcome {
    let d = driver(Eoi::Xapic)?;
    d.vcpu
        .change_regs(|r| (r.rip, r.rdx) = (CODE2 + 0x30, 0x21))?;
    let exit = d.vcpu.run_on()?;
    ensure!(
        matches!(&exit, Exit::Io(io) if !io.out && io.port == 0x21),
        "exit is {exit:x?}"
    );
    d.vcpu.run_to_done()?;
    d.vcpu
        .change_regs(|r| (r.rip, r.rsi) = (CODE2 + 0x10, IOAPIC + 0x10))?;
    let exit = d.vcpu.run_on()?;
    ensure!(
        matches!(&exit, Exit::Mmio(m) if m.address == IOAPIC + 0x10),
        "exit is {exit:x?}"
    );
    d.vcpu.run_to_done()
}

/// An interrupt of userspace's PIC that the guest does not let in yet is not one that is being
/// delivered, whatever userspace reads and writes back.
fn saving_leaves_the_interrupt_waiting() -> Outcome {
    let d = driver(Eoi::None)?;
    ironvm_abi_tests::driver::set_lapic_register(&d.vcpu, APIC_LVT_LINT0, 0x700)?;
    d.vcpu.set(KVM_INTERRUPT, &kvm_interrupt { irq: 0x38 })?;
    d.vcpu.change_sregs(|_| ())?;
    let events: kvm_vcpu_events = d.vcpu.get(KVM_GET_VCPU_EVENTS)?;
    ensure_eq!(events.interrupt.injected, 0, "interrupt being delivered");
    d.vcpu.set(KVM_SET_VCPU_EVENTS, &events)?;
    // Interrupts are off.
    d.apic(APIC_EOI, 0)?;
    ensure_eq!(d.count(0x38), 0, "interrupts while they are off");
    d.breathe()?;
    ensure_eq!(d.count(0x38), 1, "interrupts");
    Ok(())
}

/// `KVM_INTERRUPT` is the PIC's way in, by LINT0.
fn interrupt_of_userspace_pic() -> Outcome {
    let d = driver(Eoi::None)?;
    ironvm_abi_tests::driver::set_lapic_register(&d.vcpu, APIC_LVT_LINT0, 0x700)?;
    for n in 1..=3 {
        d.vcpu.set(KVM_INTERRUPT, &kvm_interrupt { irq: 0x38 })?;
        d.breathe()?;
        ensure_eq!(d.count(0x38), n, "interrupts");
    }
    Ok(())
}

fn no_irqchip_state() -> Outcome {
    let d = driver(Eoi::None)?;
    let mut chip = kvm_irqchip::default();
    let result = ironvm_abi_tests::sys::ioctl_mut(&d.machine.vm, KVM_GET_IRQCHIP, &mut chip);
    ensure_errno!(result, libc::ENXIO, "KVM_GET_IRQCHIP");
    ensure_errno!(d.machine.vm.create_pit(), libc::ENOENT, "KVM_CREATE_PIT2");
    d.vcpu.get::<kvm_lapic_state>(KVM_GET_LAPIC)?;
    Ok(())
}

fn irqfd_to_message() -> Outcome {
    use ironvm_abi_tests::fds::{eventfd, eventfd_add};
    let d = driver(Eoi::Xapic)?;
    set_routing(&d.machine.vm, &[route_to_msi(30, msi_address(0), 0x70)])?;
    let fd = eventfd()?;
    d.machine.vm.irqfd(&fd, 30, 0)?;
    for n in 1..=3 {
        eventfd_add(&fd, 1)?;
        d.halt()?;
        ensure_eq!(d.count(0x70), n, "interrupts");
    }
    Ok(())
}

fn x2apic_api() -> Outcome {
    let d = driver(Eoi::X2apic)?;
    let flags = d.machine.vm.extension(KVM_CAP_X2APIC_API)?;
    if flags == 0 {
        skip!("no KVM_CAP_X2APIC_API");
    }
    let result = d.machine.vm.enable(KVM_CAP_X2APIC_API, &[1 << 20]);
    ensure_errno!(result, libc::EINVAL, "unknown flag");
    d.machine.vm.enable(KVM_CAP_X2APIC_API, &[3])?;
    d.wrmsr(MSR_APIC_BASE, LAPIC | 1 << 11 | 1 << 10 | 1 << 8)?;
    // The id has 32 bits in this format.
    let state: kvm_lapic_state = d.vcpu.get(KVM_GET_LAPIC)?;
    let id: Vec<u8> = (0x20..0x24).map(|i| state.regs[i] as u8).collect();
    ensure_eq!(id, vec![0, 0, 0, 0], "id");
    // The upper half of the address holds the rest of the id; nobody has that one.
    let far = d.machine.vm.signal_msi(msi_address(0) | 1 << 40, 0x61);
    ensure!(!matches!(far, Ok(n) if n > 0), "message to nobody: {far:?}");
    d.machine.vm.signal_msi(msi_address(0), 0x61)?;
    d.breathe()?;
    ensure_eq!(d.count(0x61), 1, "interrupts");
    Ok(())
}
