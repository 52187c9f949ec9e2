// SPDX-License-Identifier: GPL-2.0-or-later

//! The IOAPIC, messages, and routes (KVM API document, 4.52, 4.70; Intel 82093AA data sheet).

use ironvm_abi_tests::driver::{entry, lapic_register, msi_address, Driver, Eoi};
use ironvm_abi_tests::fds::Kvm;
use ironvm_abi_tests::guest::Machine;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::lists::{route_to_chip, route_to_msi, set_routing};
use ironvm_abi_tests::{ensure, ensure_eq, ensure_errno, test, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("ioapic", registers),
    test!("ioapic", edge),
    test!("ioapic", edge_while_masked_is_lost),
    test!("ioapic", level),
    test!("ioapic", level_masked_and_opened),
    test!("ioapic", remote_irr),
    test!("ioapic", nmi_mode),
    test!("ioapic", extint_and_fixed_do_not_mix),
    test!("ioapic", gsi_0_is_pin_0),
    test!("msi", signal),
    test!("msi", signal_many_vectors),
    test!("msi", signal_to_absent),
    test!("msi", nmi_by_message),
    test!("msi", priority_of_vectors),
    test!("routing", gsi_to_message),
    test!("routing", default_routes),
    test!("routing", replaced_routes),
    test!("routing", errors),
    test!("routing", many_routes),
];

fn registers() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let version = d.read_ioapic(1)?;
    ensure_eq!(version & 0xff, 0x11, "version");
    ensure_eq!(version >> 16 & 0xff, 23, "highest entry");
    d.ioapic(7, 0x0a00_0000_0001_a047)?;
    // Delivery status and remote IRR are not written.
    ensure_eq!(d.read_ioapic(0x10 + 14)?, 0x1_a047, "lower half");
    ensure_eq!(d.read_ioapic(0x10 + 15)?, 0x0a00_0000, "upper half");
    d.write(IOAPIC, 0)?;
    d.write(IOAPIC + 0x10, 0x0300_0000)?;
    ensure_eq!(d.read_ioapic(0)?, 0x0300_0000, "id");
    Ok(())
}

fn pulse(d: &Driver, gsi: u32) -> Outcome {
    d.machine.vm.irq_line(gsi, 1)?;
    d.machine.vm.irq_line(gsi, 0)?;
    Ok(())
}

fn edge() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.ioapic(5, entry(0x45, 0, false))?;
    d.ioapic(23, entry(0x57, 0, false))?;
    for n in 1..=5 {
        pulse(&d, 5)?;
        pulse(&d, 23)?;
        d.breathe()?;
        ensure_eq!((d.count(0x45), d.count(0x57)), (n, n), "interrupts");
    }
    d.machine.vm.irq_line(5, 1)?;
    d.breathe()?;
    d.machine.vm.irq_line(5, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x45), 6, "interrupts while the line stays");
    Ok(())
}

/// What a masked pin does with an edge is up to the chip; it must not lose later ones.
fn edge_while_masked_is_lost() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let open = entry(0x45, 0, false);
    d.ioapic(5, open | 1 << 16)?;
    pulse(&d, 5)?;
    d.breathe()?;
    ensure_eq!(d.count(0x45), 0, "interrupts while masked");
    d.ioapic(5, open)?;
    d.breathe()?;
    let before = d.count(0x45);
    pulse(&d, 5)?;
    d.breathe()?;
    ensure_eq!(d.count(0x45), before + 1, "interrupts after unmasking");
    Ok(())
}

fn level() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    d.ioapic(9, entry(0x49, 0, true))?;
    d.machine.vm.irq_line(9, 1)?;
    d.breathe()?;
    d.breathe()?;
    ensure_eq!(d.count(0x49), 1, "interrupts before EOI");
    d.apic(APIC_EOI, 0)?;
    d.breathe()?;
    ensure_eq!(
        d.count(0x49),
        2,
        "interrupts after EOI while the line stays"
    );
    d.machine.vm.irq_line(9, 0)?;
    d.apic(APIC_EOI, 0)?;
    d.breathe()?;
    ensure_eq!(d.count(0x49), 2, "interrupts after the line fell");
    d.machine.vm.irq_line(9, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x49), 3, "interrupts after the line rose again");
    Ok(())
}

fn level_masked_and_opened() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let open = entry(0x49, 0, true);
    d.ioapic(9, open | 1 << 16)?;
    d.machine.vm.irq_line(9, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x49), 0, "interrupts while masked");
    d.ioapic(9, open)?;
    // Every EOI brings it back as long as the line stays.
    d.breathe()?;
    ensure!(d.count(0x49) >= 1, "no interrupt after unmasking");
    d.machine.vm.irq_line(9, 0)?;
    d.breathe()?;
    let count = d.count(0x49);
    d.breathe()?;
    ensure_eq!(d.count(0x49), count, "interrupts after the line fell");
    Ok(())
}

fn remote_irr() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    d.ioapic(9, entry(0x49, 0, true))?;
    let remote = |d: &Driver| d.read_ioapic(0x10 + 18).map(|v| v >> 14 & 1);
    ensure_eq!(remote(&d)?, 0, "remote IRR before");
    d.machine.vm.irq_line(9, 1)?;
    ensure_eq!(remote(&d)?, 1, "remote IRR");
    d.machine.vm.irq_line(9, 0)?;
    d.breathe()?;
    ensure_eq!(remote(&d)?, 1, "remote IRR before EOI");
    d.apic(APIC_EOI, 0)?;
    ensure_eq!(remote(&d)?, 0, "remote IRR after EOI");
    Ok(())
}

fn nmi_mode() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.ioapic(6, entry(0, 0, false) | 4 << 8)?;
    pulse(&d, 6)?;
    d.vcpu.change_regs(|r| r.rip = CODE2 + 0x60)?;
    let caught = d.machine.expect_caught(&d.vcpu, NMI)?;
    ensure_eq!(caught.count, 1, "NMIs");
    Ok(())
}

/// One line goes to both chips; with the PICs masked only the IOAPIC's interrupt arrives.
fn extint_and_fixed_do_not_mix() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.init_pics(0x30)?;
    d.out(0x21, 0xff)?;
    d.out(0xa1, 0xff)?;
    d.ioapic(4, entry(0x64, 0, false))?;
    pulse(&d, 4)?;
    d.breathe()?;
    ensure_eq!((d.count(0x34), d.count(0x64)), (0, 1), "PIC, IOAPIC");
    Ok(())
}

/// In the default routes numbers are pins; that a PC's timer is on pin 2 is the VMM's business.
fn gsi_0_is_pin_0() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.ioapic(2, entry(0x42, 0, false))?;
    d.ioapic(0, entry(0x40, 0, false))?;
    pulse(&d, 0)?;
    d.breathe()?;
    ensure_eq!((d.count(0x40), d.count(0x42)), (1, 0), "pin 0, pin 2");
    Ok(())
}

fn signal() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    for n in 1..=5 {
        let delivered = d.machine.vm.signal_msi(msi_address(0), 0x61)?;
        ensure!(delivered > 0, "KVM_SIGNAL_MSI gave {delivered}");
        d.breathe()?;
        ensure_eq!(d.count(0x61), n, "interrupts");
    }
    Ok(())
}

fn signal_many_vectors() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    for vector in 0x20..=0xfeu8 {
        d.machine.vm.signal_msi(msi_address(0), vector.into())?;
    }
    for _ in 0..40 {
        d.breathe()?;
    }
    for vector in 0x20..=0xfe {
        ensure_eq!(d.count(vector), 1, "interrupts of vector {vector:#x}");
    }
    Ok(())
}

fn signal_to_absent() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    // Nobody takes it: not an error of the call, and nothing delivered.
    let result = d.machine.vm.signal_msi(msi_address(77), 0x61);
    ensure!(
        !matches!(result, Ok(n) if n > 0),
        "message to nobody: {result:?}"
    );
    d.breathe()?;
    ensure_eq!(d.count(0x61), 0, "interrupts");
    Ok(())
}

fn nmi_by_message() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.machine.vm.signal_msi(msi_address(0), 4 << 8)?;
    d.vcpu.change_regs(|r| r.rip = CODE2 + 0x60)?;
    d.machine.expect_caught(&d.vcpu, NMI)?;
    Ok(())
}

/// While a vector is in service only those of a higher class come.
fn priority_of_vectors() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    let send = |v: u32| d.machine.vm.signal_msi(msi_address(0), v);
    send(0x55)?;
    d.breathe()?;
    send(0x5f)?;
    send(0x4f)?;
    d.breathe()?;
    ensure_eq!(
        (d.count(0x5f), d.count(0x4f)),
        (0, 0),
        "same and lower class"
    );
    send(0x60)?;
    d.breathe()?;
    ensure_eq!(d.count(0x60), 1, "higher class");
    ensure_eq!(lapic_register(&d.vcpu, 0xa0)?, 0x60, "PPR");
    d.apic(APIC_EOI, 0)?;
    d.apic(APIC_EOI, 0)?;
    d.breathe()?;
    ensure_eq!((d.count(0x5f), d.count(0x4f)), (1, 0), "after two EOIs");
    d.apic(APIC_EOI, 0)?;
    d.breathe()?;
    ensure_eq!(d.count(0x4f), 1, "after three EOIs");
    Ok(())
}

fn gsi_to_message() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    set_routing(&d.machine.vm, &[route_to_msi(30, msi_address(0), 0x70)])?;
    for n in 1..=3 {
        d.machine.vm.irq_line(30, 1)?;
        d.breathe()?;
        ensure_eq!(d.count(0x70), n, "interrupts");
        d.machine.vm.irq_line(30, 0)?;
        d.breathe()?;
        ensure_eq!(d.count(0x70), n, "interrupts after the line fell");
    }
    Ok(())
}

fn default_routes() -> Outcome {
    let d = Driver::new(Eoi::Pic)?;
    d.init_pics(0x30)?;
    for pin in 0..24 {
        d.ioapic(pin, 1 << 16)?;
    }
    for gsi in (0..16).filter(|&g| g != 2) {
        pulse(&d, gsi)?;
        d.breathe()?;
        ensure_eq!(d.count(0x30 + gsi as u8), 1, "interrupts of GSI {gsi}");
    }
    Ok(())
}

fn replaced_routes() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.ioapic(5, entry(0x45, 0, false))?;
    d.ioapic(6, entry(0x46, 0, false))?;
    set_routing(&d.machine.vm, &[route_to_chip(5, KVM_IRQCHIP_IOAPIC, 6)])?;
    pulse(&d, 5)?;
    d.breathe()?;
    ensure_eq!((d.count(0x45), d.count(0x46)), (0, 1), "pin 5, pin 6");
    // No route at all: nothing happens.
    set_routing(&d.machine.vm, &[])?;
    pulse(&d, 5)?;
    d.breathe()?;
    ensure_eq!((d.count(0x45), d.count(0x46)), (0, 1), "pin 5, pin 6");
    Ok(())
}

fn errors() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let route = |entry: kvm_irq_routing_entry| set_routing(&machine.vm, &[entry]);
    let good = route_to_msi(30, msi_address(0), 0x40);
    route(good)?;
    let cases = [
        ("type", kvm_irq_routing_entry { type_: 99, ..good }),
        (
            "flags",
            kvm_irq_routing_entry {
                flags: 1 << 9,
                ..good
            },
        ),
        ("chip", route_to_chip(5, 7, 0)),
        (
            "pin of the IOAPIC",
            route_to_chip(5, KVM_IRQCHIP_IOAPIC, 24),
        ),
        ("pin of a PIC", route_to_chip(5, KVM_IRQCHIP_PIC_MASTER, 8)),
        ("GSI", route_to_msi(1 << 20, msi_address(0), 0x40)),
    ];
    for (what, entry) in cases {
        ensure_errno!(route(entry), libc::EINVAL, "bad {what}");
    }
    let many = vec![good; 5000];
    ensure_errno!(set_routing(&machine.vm, &many), libc::EINVAL, "5000 routes");
    let chipless = Kvm::open()?.create_vm(0)?;
    let result = set_routing(&chipless, &[good]);
    ensure_errno!(result, libc::EINVAL, "routes without chips");
    Ok(())
}

fn many_routes() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let limit = d.machine.kvm.extension(KVM_CAP_IRQ_ROUTING)? as u32;
    let route = |gsi: u32| route_to_msi(gsi, msi_address(0), 0x20 + gsi % 0xd0);
    let routes: Vec<_> = (0..limit).map(route).collect();
    set_routing(&d.machine.vm, &routes)?;
    for gsi in [0, 100, limit - 1] {
        d.machine.vm.irq_line(gsi, 1)?;
        d.breathe()?;
        let vector = 0x20 + (gsi % 0xd0) as u8;
        ensure!(d.count(vector) >= 1, "no interrupt of GSI {gsi}");
    }
    Ok(())
}
