// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests of the KVM ABI, one module per subject. See `tests/README.md`.

mod apic_page;
mod caps;
mod cpu;
mod deadline;
mod debug;
mod delivery;
mod dirty_log;
mod emulate;
mod event_races;
mod eventfd;
mod exceptions;
mod host;
mod hotplug;
mod injection;
mod ioapic;
mod irqchip;
mod lapic;
mod memslots;
mod mmio;
mod msrs;
mod no_progress;
mod paging;
mod pic;
mod pio;
mod pit;
mod pv;
mod registers;
mod smp;
mod split;
mod system;
mod tsc;
mod user_msr;
mod vapic;
mod vcpu;
mod vm;

fn main() {
    std::process::exit(ironvm_abi_tests::harness::main(&[
        system::TESTS,
        caps::TESTS,
        vm::TESTS,
        vcpu::TESTS,
        memslots::TESTS,
        registers::TESTS,
        pio::TESTS,
        mmio::TESTS,
        cpu::TESTS,
        exceptions::TESTS,
        dirty_log::TESTS,
        dirty_log::COMPLETE,
        emulate::TESTS,
        msrs::TESTS,
        paging::TESTS,
        injection::TESTS,
        no_progress::TESTS,
        irqchip::TESTS,
        pic::TESTS,
        ioapic::TESTS,
        eventfd::TESTS,
        event_races::TESTS,
        host::TESTS,
        hotplug::TESTS,
        lapic::TESTS,
        apic_page::TESTS,
        deadline::TESTS,
        delivery::TESTS,
        pit::TESTS,
        smp::TESTS,
        split::TESTS,
        debug::TESTS,
        pv::TESTS,
        tsc::TESTS,
        user_msr::TESTS,
        vapic::TESTS,
    ]));
}
