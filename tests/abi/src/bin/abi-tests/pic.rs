// SPDX-License-Identifier: GPL-2.0-or-later

//! The pair of 8259A PICs as the guest sees them (Intel 8259A data sheet).

use ironvm_abi_tests::driver::{Driver, Eoi};
use ironvm_abi_tests::guest::Machine;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{code16, ensure_eq, test, Outcome};

pub const TESTS: &[Test] = &[
    test!("pic", registers),
    test!("pic", edge),
    test!("pic", slave),
    test!("pic", masked),
    test!("pic", priority),
    test!("pic", level_trigger),
    test!("pic", no_interrupt_without_eoi),
    test!("pic", spurious),
    test!("pic", real_mode),
    test!("pic", wakes_hlt),
    test!("pic", poll_and_read_registers),
    test!("pic", lint0_masked),
];

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xa0;

fn pulse(d: &Driver, gsi: u32) -> Outcome {
    d.machine.vm.irq_line(gsi, 1)?;
    d.machine.vm.irq_line(gsi, 0)?;
    Ok(())
}

fn registers() -> Outcome {
    let d = Driver::new(Eoi::Pic)?;
    d.init_pics(0x30)?;
    for port in [MASTER, SLAVE] {
        d.out(port + 1, 0x5a)?;
        ensure_eq!(d.inb(port + 1)?, 0x5a, "mask at port {port:#x}");
    }
    // ELCR: the timer, the keyboard, the cascade and the clock are always edge-triggered.
    d.out(0x4d0, 0xff)?;
    d.out(0x4d1, 0xff)?;
    ensure_eq!((d.inb(0x4d0)?, d.inb(0x4d1)?), (0xf8, 0xde), "ELCR");
    Ok(())
}

fn edge() -> Outcome {
    let d = Driver::new(Eoi::Pic)?;
    d.init_pics(0x30)?;
    for n in 1..=5 {
        pulse(&d, 4)?;
        d.breathe()?;
        ensure_eq!(d.count(0x34), n, "interrupts");
    }
    // The level alone is no new edge.
    d.machine.vm.irq_line(4, 1)?;
    d.breathe()?;
    d.machine.vm.irq_line(4, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x34), 6, "interrupts");
    Ok(())
}

fn slave() -> Outcome {
    let d = Driver::new(Eoi::Pic)?;
    d.init_pics(0x30)?;
    for gsi in [8, 9, 12, 15] {
        pulse(&d, gsi)?;
        d.breathe()?;
        ensure_eq!(d.count(0x30 + gsi as u8), 1, "interrupts of input {gsi}");
    }
    Ok(())
}

fn masked() -> Outcome {
    let d = Driver::new(Eoi::Pic)?;
    d.init_pics(0x30)?;
    d.out(MASTER + 1, 1 << 3)?;
    d.machine.vm.irq_line(3, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x33), 0, "interrupts while masked");
    // The edge was remembered.
    d.out(MASTER + 1, 0)?;
    d.breathe()?;
    ensure_eq!(d.count(0x33), 1, "interrupts after unmasking");
    Ok(())
}

/// Of two that wait, the lower number comes first; without its EOI the other does not come.
fn priority() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    d.init_pics(0x30)?;
    d.machine.vm.irq_line(5, 1)?;
    d.machine.vm.irq_line(1, 1)?;
    d.breathe()?;
    ensure_eq!((d.count(0x31), d.count(0x35)), (1, 0), "before EOI");
    d.out(MASTER, 0x20)?;
    d.breathe()?;
    ensure_eq!((d.count(0x31), d.count(0x35)), (1, 1), "after EOI");
    Ok(())
}

fn level_trigger() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    d.init_pics(0x30)?;
    d.out(0x4d0, 1 << 5)?;
    d.machine.vm.irq_line(5, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x35), 1, "interrupts");
    d.out(MASTER, 0x20)?;
    d.breathe()?;
    ensure_eq!(d.count(0x35), 2, "interrupts while the line stays");
    d.machine.vm.irq_line(5, 0)?;
    d.out(MASTER, 0x20)?;
    d.breathe()?;
    ensure_eq!(d.count(0x35), 2, "interrupts after the line fell");
    Ok(())
}

fn no_interrupt_without_eoi() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    d.init_pics(0x30)?;
    pulse(&d, 4)?;
    d.breathe()?;
    pulse(&d, 4)?;
    d.breathe()?;
    ensure_eq!(d.count(0x34), 1, "interrupts before EOI");
    d.out(MASTER, 0x20)?;
    d.breathe()?;
    ensure_eq!(d.count(0x34), 2, "interrupts after EOI");
    Ok(())
}

/// A request that is gone at the acknowledge gives input 7.
fn spurious() -> Outcome {
    let d = Driver::new(Eoi::Pic)?;
    d.init_pics(0x30)?;
    d.out(0x4d0, 1 << 5)?;
    d.machine.vm.irq_line(5, 1)?;
    d.machine.vm.irq_line(5, 0)?;
    d.breathe()?;
    ensure_eq!(d.count(0x35), 0, "interrupts of a line that fell again");
    Ok(())
}

fn real_mode() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let vcpu = machine.vcpu(0)?;
    let code = code16!(
        "mov al, 0x11",
        "out 0x20, al",
        "mov al, 8",
        "out 0x21, al",
        "mov al, 4",
        "out 0x21, al",
        "mov al, 1",
        "out 0x21, al",
        "xor al, al",
        "out 0x21, al",
        "sti",
        "2:",
        "out 0x10, al",
        "jmp 2b",
    );
    machine.real_mode(&vcpu, code)?;
    machine.load(
        CODE2,
        code16!("inc bx", "mov al, 0x20", "out 0x20, al", "iret"),
    );
    machine.set_real_handler(8 + 4, CODE2 as u16);
    vcpu.run_to_done()?;
    for n in 1..=3 {
        machine.vm.irq_line(4, 1)?;
        machine.vm.irq_line(4, 0)?;
        vcpu.run_to_done()?;
        ensure_eq!(vcpu.regs()?.rbx, n, "interrupts");
    }
    Ok(())
}

/// The line rises in another thread while the vCPU sleeps in the module.
fn wakes_hlt() -> Outcome {
    let d = Driver::new(Eoi::Pic)?;
    d.init_pics(0x30)?;
    for n in 1..=5 {
        std::thread::scope(|s| {
            s.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                pulse(&d, 4)
            });
            d.halt()
        })?;
        ensure_eq!(d.count(0x34), n, "interrupts");
    }
    Ok(())
}

fn poll_and_read_registers() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    d.init_pics(0x30)?;
    d.machine.vm.irq_line(4, 1)?;
    d.out(MASTER, 0x0a)?;
    ensure_eq!(d.inb(MASTER)?, 1 << 4, "IRR");
    d.out(MASTER, 0x0b)?;
    ensure_eq!(d.inb(MASTER)?, 0, "ISR before");
    d.breathe()?;
    ensure_eq!(d.inb(MASTER)?, 1 << 4, "ISR in service");
    // A specific EOI of another input leaves it.
    d.out(MASTER, 0x60 | 3)?;
    ensure_eq!(d.inb(MASTER)?, 1 << 4, "ISR after EOI of input 3");
    d.out(MASTER, 0x60 | 4)?;
    ensure_eq!(d.inb(MASTER)?, 0, "ISR after EOI");
    Ok(())
}

/// With the local APIC's LINT0 masked nothing of the PICs arrives.
fn lint0_masked() -> Outcome {
    let d = Driver::new(Eoi::Pic)?;
    d.init_pics(0x30)?;
    d.apic(APIC_LVT_LINT0, 0x1_0700)?;
    d.machine.vm.irq_line(4, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x34), 0, "interrupts with LINT0 masked");
    d.apic(APIC_LVT_LINT0, 0x700)?;
    d.breathe()?;
    ensure_eq!(d.count(0x34), 1, "interrupts with LINT0 open");
    Ok(())
}
