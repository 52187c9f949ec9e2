// SPDX-License-Identifier: GPL-2.0-or-later

//! Eventfds and routes that come and go while they are used. Nothing may be lost, nothing may come
//! twice, and nothing after it has been taken away.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ironvm_abi_tests::driver::{entry, msi_address, Driver, Eoi};
use ironvm_abi_tests::fds::{eventfd, eventfd_add, eventfd_take};
use ironvm_abi_tests::guest::long_mode;
use ironvm_abi_tests::harness::{emulator, Test};
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::lists::{route_to_msi, set_routing};
use ironvm_abi_tests::sys::ioctl_mut;
use ironvm_abi_tests::{code64, ensure, ensure_eq, test};
use ironvm_abi_tests::{Exit, Failure, Outcome, SysResult};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("event_races", irqfd_comes_and_goes, 240),
    test!("event_races", routes_change_under_signals, 240),
    test!("event_races", resamplers_come_and_go, 240),
    test!("event_races", ioeventfd_comes_and_goes, 240),
    test!("event_races", pit_is_set_while_it_ticks, 240),
];

/// Rounds of what changes: so many, or fewer where a loaded machine takes long for them.
fn rounds() -> impl Iterator<Item = u32> {
    const MOST: u32 = 300;
    const LONG: Duration = Duration::from_secs(3);
    let least = if emulator::is_slow() { 20 } else { 100 };
    let start = Instant::now();
    (0..MOST).take_while(move |round| *round < least || start.elapsed() < LONG)
}

/// Signals an eventfd until told to stop; how often.
fn signal_until(fd: &OwnedFd, stop: &AtomicBool) -> SysResult<u64> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        eventfd_add(fd, 1)?;
        count += 1;
    }
    Ok(count)
}

/// Tells the other threads to stop, also when this one fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// While it is not assigned, signals stay in the eventfd and raise nothing.
fn irqfd_comes_and_goes() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let vm = &d.machine.vm;
    set_routing(vm, &[route_to_msi(30, msi_address(0), 0x70)])?;
    let fd = eventfd()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| -> Outcome {
        let signals = s.spawn(|| signal_until(&fd, &stop));
        let _stop = Stop(&stop);
        for round in rounds() {
            vm.irqfd(&fd, 30, 0)?;
            d.halt()?;
            vm.irqfd(&fd, 30, KVM_IRQFD_FLAG_DEASSIGN)?;
            // What was raised before.
            d.breathe()?;
            let before = d.count(0x70);
            d.breathe()?;
            ensure_eq!(d.count(0x70), before, "interrupts of round {round}");
        }
        stop.store(true, Ordering::Relaxed);
        let signals = signals.join().unwrap()?;
        ensure!(d.count(0x70) <= signals, "more interrupts than signals");
        Ok(())
    })
}

/// Each signal goes by the old or the new route; the last one by the last route.
fn routes_change_under_signals() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let vm = &d.machine.vm;
    let route = |vector| set_routing(vm, &[route_to_msi(30, msi_address(0), vector)]);
    route(0x70)?;
    let fd = eventfd()?;
    vm.irqfd(&fd, 30, 0)?;
    let stop = AtomicBool::new(false);
    let signals = std::thread::scope(|s| {
        let signals = s.spawn(|| signal_until(&fd, &stop));
        let _stop = Stop(&stop);
        for round in rounds() {
            route(0x70 + (round & 1))?;
            d.breathe()?;
        }
        stop.store(true, Ordering::Relaxed);
        Ok::<_, Failure>(signals.join().unwrap()?)
    })?;
    d.breathe()?;
    let (first, second) = (d.count(0x70), d.count(0x71));
    ensure!(first + second <= signals, "{first} + {second} of {signals}");
    ensure_eq!(eventfd_take(&fd)?, 0, "count left in the eventfd");
    route(0x72)?;
    eventfd_add(&fd, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x72), 1, "interrupts by the last route");
    ensure_eq!((d.count(0x70), d.count(0x71)), (first, second), "by others");
    Ok(())
}

/// When the last resampler goes, nobody holds the line up.
fn resamplers_come_and_go() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let vm = &d.machine.vm;
    d.ioapic(11, entry(0x4b, 0, true))?;
    let (fd, resample) = (eventfd()?, eventfd()?);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| -> Outcome {
        s.spawn(|| signal_until(&fd, &stop));
        let _stop = Stop(&stop);
        for round in rounds() {
            vm.irqfd_resampling(&fd, 11, &resample)?;
            d.halt()?;
            vm.irqfd(&fd, 11, KVM_IRQFD_FLAG_DEASSIGN)?;
            d.breathe()?;
            let before = d.count(0x4b);
            d.breathe()?;
            ensure_eq!(d.count(0x4b), before, "interrupts of round {round}");
        }
        Ok(())
    })?;
    let mut chip = kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    ioctl_mut(vm, KVM_GET_IRQCHIP, &mut chip)?;
    // SAFETY: The chip asked for.
    let irr = unsafe { chip.chip.ioapic.irr };
    ensure_eq!(irr & 1 << 11, 0, "the line");
    ensure!(eventfd_take(&resample)? > 0, "nothing was resampled");
    Ok(())
}

/// Every write is either an exit or a notification.
fn ioeventfd_comes_and_goes() -> Outcome {
    const WRITES: u64 = 20_000;
    let code = code64!(
        "mov dx, 0xc0",
        "mov ecx, 20000",
        "2:",
        "out dx, al",
        "loop 2b",
        "out 0x10, al"
    );
    let (machine, vcpu) = long_mode(code)?;
    let vm = &machine.vm;
    let fd = eventfd()?;
    let arg = kvm_ioeventfd {
        addr: 0xc0,
        len: 1,
        fd: fd.as_raw_fd(),
        flags: 1 << kvm_ioeventfd_flag_nr_pio,
        ..Default::default()
    };
    let gone = kvm_ioeventfd {
        flags: arg.flags | 1 << kvm_ioeventfd_flag_nr_deassign,
        ..arg
    };
    let exits = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| -> Outcome {
        let changes = s.spawn(|| -> SysResult<u32> {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                vm.set(KVM_IOEVENTFD, &arg)?;
                vm.set(KVM_IOEVENTFD, &gone)?;
                rounds += 1;
            }
            Ok(rounds)
        });
        let _stop = Stop(&stop);
        loop {
            match vcpu.run_on()? {
                Exit::Io(io) if io.port == 0xc0 => {
                    exits.fetch_add(1, Ordering::Relaxed);
                }
                Exit::Io(io) if io.port == PORT_DONE => break,
                exit => return Err(vcpu.unexpected(&exit)),
            }
        }
        stop.store(true, Ordering::Relaxed);
        let rounds = changes.join().unwrap()?;
        ensure!(rounds > 0, "the eventfd never came");
        Ok(())
    })?;
    let notified = eventfd_take(&fd)?;
    let exits = exits.into_inner();
    ensure_eq!(
        exits + notified,
        WRITES,
        "{exits} exits, {notified} notified"
    );
    Ok(())
}

/// The state is set anew again and again, by an ioctl, while the guest has its ticks.
fn pit_is_set_while_it_ticks() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.machine.vm.create_pit()?;
    d.ioapic(0, entry(0x40, 0, false))?;
    d.out(0x43, 0x34)?;
    d.out(0x40, 0xe8)?;
    d.out(0x40, 0x03)?;
    d.halt()?;
    let state: kvm_pit_state2 = d.machine.vm.get(KVM_GET_PIT2)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| -> Outcome {
        let sets = s.spawn(|| -> SysResult<()> {
            while !stop.load(Ordering::Relaxed) {
                d.machine.vm.set(KVM_SET_PIT2, &state)?;
                std::thread::sleep(Duration::from_micros(1500));
            }
            Ok(())
        });
        let _stop = Stop(&stop);
        for _ in rounds() {
            d.halt()?;
        }
        stop.store(true, Ordering::Relaxed);
        sets.join().unwrap()?;
        Ok(())
    })?;
    let before = d.count(0x40);
    while d.count(0x40) < before + 10 {
        d.halt()?;
    }
    Ok(())
}
