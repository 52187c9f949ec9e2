// SPDX-License-Identifier: GPL-2.0-or-later

//! The 8254 PIT in the module (Intel 8254 data sheet; KVM API document, 4.57).

use std::time::{Duration, Instant};

use ironvm_abi_tests::driver::{entry, Driver, Eoi};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::{ensure, ensure_eq, test, Failure, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("pit", ticks_by_pic),
    test!("pit", ticks_by_ioapic),
    test!("pit", one_shot_fires_once),
    test!("pit", count_falls),
    test!("pit", latch),
    test!("pit", read_back),
    test!("pit", channel_2_and_speaker_port),
    test!("pit", state_tells_of_guest),
    test!("pit", reload_by_state),
];

const CHANNEL0: u16 = 0x40;
const CHANNEL2: u16 = 0x42;
const COMMAND: u16 = 0x43;
const SPEAKER: u16 = 0x61;
/// Ticks of the PIT in a second.
const HERTZ: u64 = 1_193_182;

fn driver(eoi: Eoi) -> Result<Driver, Failure> {
    let d = Driver::new(eoi)?;
    // With the dummy of the speaker's port.
    let config = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    d.machine.vm.set(KVM_CREATE_PIT2, &config)?;
    Ok(d)
}

fn program(d: &Driver, channel: u16, mode: u8, count: u16) -> Outcome {
    let select = ((channel - CHANNEL0) as u8) << 6;
    d.out(COMMAND, select | 0x30 | mode << 1)?;
    d.out(channel, count as u8)?;
    d.out(channel, (count >> 8) as u8)
}

fn read_count(d: &Driver, channel: u16) -> Result<u16, Failure> {
    let select = ((channel - CHANNEL0) as u8) << 6;
    d.out(COMMAND, select)?;
    let low = d.inb(channel)?;
    Ok(u16::from_le_bytes([low, d.inb(channel)?]))
}

fn ticks_by_pic() -> Outcome {
    let d = driver(Eoi::Pic)?;
    d.init_pics(0x30)?;
    let count = 20_000;
    let start = Instant::now();
    program(&d, CHANNEL0, 2, count)?;
    while d.count(0x30) < 10 {
        d.halt()?;
    }
    let least = Duration::from_micros(9 * u64::from(count) * 1_000_000 / HERTZ);
    let took = start.elapsed();
    ensure!(took >= least, "10 ticks in {took:?}, less than {least:?}");
    Ok(())
}

fn ticks_by_ioapic() -> Outcome {
    let d = driver(Eoi::Xapic)?;
    d.ioapic(0, entry(0x40, 0, false))?;
    d.ioapic(2, entry(0x40, 0, false))?;
    program(&d, CHANNEL0, 2, 20_000)?;
    while d.count(0x40) < 10 {
        d.halt()?;
    }
    Ok(())
}

fn one_shot_fires_once() -> Outcome {
    let d = driver(Eoi::Pic)?;
    d.init_pics(0x30)?;
    program(&d, CHANNEL0, 0, 5_000)?;
    d.halt()?;
    std::thread::sleep(Duration::from_millis(30));
    d.breathe()?;
    ensure_eq!(d.count(0x30), 1, "interrupts");
    Ok(())
}

fn count_falls() -> Outcome {
    let d = driver(Eoi::None)?;
    // The longest period is 55 ms; two reads close together seldom lie on both sides of its end.
    program(&d, CHANNEL0, 2, 0)?;
    let mut falls = 0;
    let mut last = read_count(&d, CHANNEL0)?;
    for _ in 0..20 {
        let now = read_count(&d, CHANNEL0)?;
        falls += u32::from(now < last);
        last = now;
    }
    ensure!(falls >= 10, "the count fell only {falls} times of 20");
    Ok(())
}

/// A latched count stays until it is read, however long that takes.
fn latch() -> Outcome {
    let d = driver(Eoi::None)?;
    program(&d, CHANNEL0, 2, 0)?;
    let before = read_count(&d, CHANNEL0)?;
    d.out(COMMAND, 0)?;
    std::thread::sleep(Duration::from_millis(3));
    // A second latch command changes nothing.
    d.out(COMMAND, 0)?;
    let low = d.inb(CHANNEL0)?;
    let latched = u16::from_le_bytes([low, d.inb(CHANNEL0)?]);
    let passed = before.wrapping_sub(latched);
    let now = read_count(&d, CHANNEL0)?;
    ensure!(
        latched.wrapping_sub(now) >= 3000,
        "{latched} then {now}, 3 ms later"
    );
    ensure!(passed < 60_000, "{before} then {latched}");
    Ok(())
}

fn read_back() -> Outcome {
    let d = driver(Eoi::None)?;
    program(&d, CHANNEL0, 2, 1000)?;
    // Status of channel 0 only.
    d.out(COMMAND, 0xe2)?;
    let status = d.inb(CHANNEL0)?;
    ensure_eq!(status & 0x3f, 0x34, "mode and access of the status");
    Ok(())
}

/// Channel 2 is gated and read by port 0x61, as kernels do to measure time.
fn channel_2_and_speaker_port() -> Outcome {
    let d = driver(Eoi::None)?;
    let port = d.inb(SPEAKER)?;
    d.out(SPEAKER, port & !2 | 1)?;
    program(&d, CHANNEL2, 0, 20_000)?;
    ensure_eq!(d.inb(SPEAKER)? & 0x20, 0, "output before the end");
    let start = Instant::now();
    while d.inb(SPEAKER)? & 0x20 == 0 {
        ensure!(
            start.elapsed() < Duration::from_secs(10),
            "the output stays low"
        );
    }
    ensure!(
        start.elapsed() > Duration::from_millis(10),
        "the output rose at once"
    );
    Ok(())
}

fn state_tells_of_guest() -> Outcome {
    let d = driver(Eoi::None)?;
    program(&d, CHANNEL0, 2, 0x1234)?;
    program(&d, CHANNEL2, 3, 0x4321)?;
    let state: kvm_pit_state2 = d.machine.vm.get(KVM_GET_PIT2)?;
    ensure_eq!(
        (state.channels[0].count, state.channels[0].mode),
        (0x1234, 2),
        "channel 0"
    );
    ensure_eq!(
        (state.channels[2].count, state.channels[2].mode),
        (0x4321, 3),
        "channel 2"
    );
    Ok(())
}

/// Restored state starts the timer as if the guest had.
fn reload_by_state() -> Outcome {
    let d = driver(Eoi::Pic)?;
    d.init_pics(0x30)?;
    let mut state: kvm_pit_state2 = d.machine.vm.get(KVM_GET_PIT2)?;
    state.channels[0].count = 10_000;
    state.channels[0].mode = 2;
    state.channels[0].rw_mode = 3;
    state.channels[0].gate = 1;
    d.machine.vm.set(KVM_SET_PIT2, &state)?;
    while d.count(0x30) < 5 {
        d.halt()?;
    }
    Ok(())
}
