// SPDX-License-Identifier: GPL-2.0

//! Tests of the timer: one per behaviour, and a model that counts.

use super::{ns_until, port, ticks_in, Pit, FREQUENCY_HZ};
use crate::uapi::{KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_FLAGS_SPEAKER_DATA_ON};
use proptest::prelude::*;

/// A timer, and the time.
struct Bench {
    pit: Pit,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        Self {
            pit: Pit::new(0),
            now: 0,
        }
    }

    fn write(&mut self, port: u16, value: u8) {
        assert!(self.pit.write(port, value, self.now));
    }

    fn read(&mut self, port: u16) -> u8 {
        self.pit.read(port, self.now).expect("a port of the PIT")
    }

    fn advance_ticks(&mut self, ticks: u64) {
        self.now = ns_until(ticks_in(self.now) + ticks);
    }

    /// Programs `counter` for `mode` and loads both bytes of `count`.
    fn program(&mut self, counter: u8, mode: u8, count: u16) {
        self.write(port::CONTROL, counter << 6 | 0x30 | mode << 1);
        let [low, high] = count.to_le_bytes();
        self.write(port::COUNTER0 + u16::from(counter), low);
        self.write(port::COUNTER0 + u16::from(counter), high);
    }

    fn latched(&mut self, counter: u8) -> u16 {
        self.write(port::CONTROL, counter << 6);
        let low = self.read(port::COUNTER0 + u16::from(counter));
        let high = self.read(port::COUNTER0 + u16::from(counter));
        u16::from_le_bytes([low, high])
    }

    fn status(&mut self, counter: u8) -> u8 {
        self.write(port::CONTROL, 0xe0 | 2 << counter);
        self.read(port::COUNTER0 + u16::from(counter))
    }

    /// Lets the timer fire at its own time; says whether to inject.
    fn fire(&mut self) -> bool {
        self.now = self.pit.next_expiry().expect("armed");
        self.pit.timer_fired(self.now).inject
    }
}

#[test]
fn ports() {
    let mut pit = Pit::new(0);
    for other in [0x3f, 0x44, 0x60, 0x62] {
        assert!(!pit.write(other, 0, 0));
        assert_eq!(pit.read(other, 0), None);
    }
}

#[test]
fn nothing_happens_before_it_is_programmed() {
    let pit = Pit::new(0);
    assert_eq!(pit.next_expiry(), None);
    let state = pit.get_state(0);
    assert_eq!(state.channels[0].mode, 0xff);
    assert_eq!(state.channels[0].count, 0x1_0000);
    assert_eq!(state.channels.map(|channel| channel.gate), [1, 1, 0]);
}

#[test]
fn rate_generator_does_not_drift() {
    let mut bench = Bench::new();
    bench.now = 123_456_789;
    let start = bench.now;
    // 100 Hz as Linux has it.
    bench.program(0, 2, 11932);
    for tick in 1..=1000u64 {
        assert!(bench.fire());
        assert!(!bench.pit.acked());
        assert_eq!(bench.now, start + ns_until(11932 * tick));
    }
    let expected = 11932u64 * 1000 * 1_000_000_000 / FREQUENCY_HZ;
    assert!(bench.now - start - expected <= 1);
}

#[test]
fn one_shot_modes_expire_once() {
    for mode in [0, 1, 4] {
        let mut bench = Bench::new();
        bench.program(0, mode, 1000);
        assert_eq!(bench.pit.next_expiry(), Some(ns_until(1000)));
        assert!(bench.fire(), "mode {mode}");
        assert_eq!(bench.pit.next_expiry(), None);
        assert!(!bench.pit.timer_fired(bench.now * 5).inject);
    }
    let mut bench = Bench::new();
    bench.program(0, 5, 1000);
    assert_eq!(bench.pit.next_expiry(), None);
}

#[test]
fn early_call_does_nothing() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    let expiry = bench.pit.next_expiry();
    let tick = bench.pit.timer_fired(ns_until(1000) - 1);
    assert!(!tick.inject);
    assert_eq!(tick.next_expiry, expiry);
}

#[test]
fn control_word_stops_the_counter() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.write(port::CONTROL, 0x34);
    assert_eq!(bench.pit.next_expiry(), None);
    assert_eq!(bench.status(0) & 0x40, 0x40, "null count");
    bench.write(port::COUNTER0, 0xe8);
    assert_eq!(bench.pit.next_expiry(), None, "one byte is not enough");
    bench.write(port::COUNTER0, 0x03);
    assert_eq!(bench.pit.next_expiry(), Some(ns_until(1000)));
    assert_eq!(bench.status(0) & 0x40, 0);
}

#[test]
fn short_periods_are_stretched() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1);
    assert!(bench.pit.next_expiry().expect("armed") >= 200_000);
    bench.program(0, 0, 1);
    assert_eq!(bench.pit.next_expiry(), Some(ns_until(1)));
}

#[test]
fn zero_is_the_greatest_count() {
    let mut bench = Bench::new();
    bench.program(0, 2, 0);
    assert_eq!(bench.pit.next_expiry(), Some(ns_until(0x1_0000)));
    assert_eq!(bench.latched(0), 0);
    bench.advance_ticks(1);
    assert_eq!(bench.latched(0), 0xffff);
    assert_eq!(bench.pit.get_state(0).channels[0].count, 0x1_0000);
}

#[test]
fn bcd() {
    let mut bench = Bench::new();
    bench.write(port::CONTROL, 0x35);
    bench.write(port::COUNTER0, 0x34);
    bench.write(port::COUNTER0, 0x12);
    assert_eq!(bench.pit.next_expiry(), Some(ns_until(1234)));
    bench.advance_ticks(236);
    assert_eq!(bench.latched(0), 0x0998);
    bench.write(port::COUNTER0, 0);
    bench.write(port::COUNTER0, 0);
    bench.now += ns_until(1);
    assert_eq!(bench.latched(0), 0x9999);
}

#[test]
fn access_modes() {
    let mut bench = Bench::new();
    bench.write(port::CONTROL, 0x14);
    bench.write(port::COUNTER0, 0x80);
    assert_eq!(bench.pit.get_state(0).channels[0].count, 0x80);
    bench.advance_ticks(0x10);
    assert_eq!(bench.read(port::COUNTER0), 0x70);
    assert_eq!(bench.read(port::COUNTER0), 0x70);
    bench.write(port::CONTROL, 0x24);
    bench.write(port::COUNTER0, 0x80);
    assert_eq!(bench.pit.get_state(0).channels[0].count, 0x8000);
    assert_eq!(bench.read(port::COUNTER0), 0x80);
    bench.program(0, 2, 0x1234);
    assert_eq!(bench.read(port::COUNTER0), 0x34);
    assert_eq!(bench.read(port::COUNTER0), 0x12);
    assert_eq!(bench.read(port::COUNTER0), 0x34);
    assert_eq!(bench.read(port::CONTROL), 0);
}

#[test]
fn latch_holds_the_first() {
    let mut bench = Bench::new();
    bench.program(0, 2, 0x5000);
    bench.advance_ticks(0x100);
    bench.write(port::CONTROL, 0);
    bench.advance_ticks(0x100);
    bench.write(port::CONTROL, 0);
    bench.advance_ticks(0x100);
    assert_eq!(bench.read(port::COUNTER0), 0x00);
    assert_eq!(bench.read(port::COUNTER0), 0x4f);
    assert_eq!(bench.latched(0), 0x4d00);
}

#[test]
fn read_back() {
    let mut bench = Bench::new();
    bench.program(0, 2, 0x5000);
    bench.program(1, 3, 0x6000);
    // Status and count of 0 and 1.
    bench.write(port::CONTROL, 0xc6);
    bench.advance_ticks(0x10);
    assert_eq!(bench.read(port::COUNTER0), 0x80 | 0x30 | 2 << 1);
    assert_eq!(bench.read(port::COUNTER0), 0x00);
    assert_eq!(bench.read(port::COUNTER0), 0x50);
    assert_eq!(bench.read(0x41), 0x80 | 0x30 | 3 << 1);
    assert_eq!(bench.read(0x41), 0x00);
    assert_eq!(bench.read(0x41), 0x60);
    // Neither.
    bench.write(port::CONTROL, 0xf6);
    assert_eq!(bench.read(port::COUNTER0), 0xf0);
}

#[test]
fn gate_of_counter_2() {
    let mut bench = Bench::new();
    // As the calibration of a TSC does it: mode 0, gate on.
    bench.write(port::SPEAKER, 0x01);
    bench.program(2, 0, 0x1000);
    assert_eq!(bench.read(port::SPEAKER) & 0x2f, 0x01);
    bench.advance_ticks(0x800);
    // Paused and resumed.
    bench.write(port::SPEAKER, 0x00);
    bench.advance_ticks(0x10_0000);
    assert_eq!(bench.latched(2), 0x800);
    assert_eq!(bench.read(port::SPEAKER) & 0x20, 0);
    bench.write(port::SPEAKER, 0x01);
    bench.advance_ticks(0x7fe);
    assert_eq!(bench.read(port::SPEAKER) & 0x20, 0);
    bench.advance_ticks(3);
    assert_eq!(bench.read(port::SPEAKER) & 0x20, 0x20);
    // Without gate the load waits.
    bench.write(port::SPEAKER, 0x00);
    bench.program(2, 0, 0x1000);
    bench.advance_ticks(0x2000);
    assert_eq!(bench.latched(2), 0x1000);
}

#[test]
fn gate_triggers_one_shot_and_square_wave() {
    for mode in [1, 2, 3, 5] {
        let mut bench = Bench::new();
        bench.write(port::SPEAKER, 0x01);
        bench.program(2, mode, 0x1000);
        bench.advance_ticks(0x123);
        bench.write(port::SPEAKER, 0x00);
        bench.write(port::SPEAKER, 0x01);
        assert_eq!(bench.latched(2), 0x1000, "mode {mode}");
    }
}

#[test]
fn speaker_port() {
    let mut bench = Bench::new();
    bench.write(port::SPEAKER, 0xff);
    assert_eq!(bench.read(port::SPEAKER) & 0x0f, 0x03);
    let first = bench.read(port::SPEAKER) & 0x10;
    bench.now += 15_085;
    assert_ne!(bench.read(port::SPEAKER) & 0x10, first);
    assert_eq!(bench.pit.flags(), KVM_PIT_FLAGS_SPEAKER_DATA_ON);
}

#[test]
fn ticks_are_made_up_for() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    assert!(bench.fire());
    // Not completed: the next four are owed.
    bench.now = ns_until(5000);
    let tick = bench.pit.timer_fired(bench.now);
    assert!(!tick.inject);
    assert_eq!(tick.next_expiry, Some(ns_until(6000)));
    for _ in 0..4 {
        assert!(bench.pit.acked());
    }
    assert!(!bench.pit.acked());
    assert!(bench.fire());
    // Unmasking forgets.
    bench.now = ns_until(9000);
    assert!(!bench.pit.timer_fired(bench.now).inject);
    bench.pit.reset_reinject();
    assert!(!bench.pit.acked());
    assert!(bench.fire());
    // What nobody took will not be completed.
    bench.pit.not_delivered();
    assert!(bench.fire());
}

#[test]
fn ticks_are_lost_without_reinjection() {
    let mut bench = Bench::new();
    bench.pit.set_reinject(false);
    assert!(!bench.pit.reinject());
    bench.program(0, 2, 1000);
    assert!(bench.fire());
    assert!(bench.fire());
    bench.now = ns_until(9000);
    assert!(bench.pit.timer_fired(bench.now).inject);
    assert!(!bench.pit.acked());
}

#[test]
fn hpet_legacy_stops_interrupts() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    let state = bench.pit.get_state(bench.now);
    bench
        .pit
        .set_state(&state.channels, KVM_PIT_FLAGS_HPET_LEGACY, 500);
    assert_eq!(bench.pit.next_expiry(), None);
    assert_eq!(bench.pit.flags(), KVM_PIT_FLAGS_HPET_LEGACY);
    let state = bench.pit.get_state(bench.now);
    bench.pit.set_state(&state.channels, 0, 500);
    assert_eq!(bench.pit.next_expiry(), Some(500 + ns_until(1000)));
}

#[test]
fn state_round_trip() {
    let mut bench = Bench::new();
    bench.program(0, 3, 0x4000);
    bench.program(1, 2, 18);
    bench.write(port::SPEAKER, 0x03);
    bench.program(2, 3, 1193);
    bench.write(port::COUNTER2, 0x55);
    bench.write(port::CONTROL, 0xc2);
    bench.read(port::COUNTER0);
    bench.read(port::COUNTER0);
    let state = bench.pit.get_state(bench.now);
    let mut other = Pit::new(0);
    other.set_state(&state.channels, state.flags, bench.now);
    assert_eq!(other.get_state(bench.now), state);
    assert_eq!(other.next_expiry(), bench.pit.next_expiry());
    assert_eq!(
        other.read(port::COUNTER0, bench.now),
        Some(0x40),
        "the rest of the latch"
    );
}

#[test]
fn conversion_is_exact() {
    for ticks in [
        0,
        1,
        2,
        239,
        1000,
        65536,
        FREQUENCY_HZ,
        FREQUENCY_HZ * 86400 * 365,
    ] {
        assert_eq!(ticks_in(ns_until(ticks)), ticks);
        if ticks != 0 {
            assert_eq!(ticks_in(ns_until(ticks) - 1), ticks - 1);
        }
    }
    assert_eq!(ticks_in(1_000_000_000), FREQUENCY_HZ);
    let _ = ticks_in(u64::MAX);
    let _ = ns_until(u64::MAX);
}

/// Counts tick by tick as the data sheet describes each mode. Returns the
/// counting element and the output after `ticks`.
fn model(mode: u8, count: u32, ticks: u32) -> (u16, bool) {
    let even = count & !1;
    let mut element = if mode == 3 { even } else { count };
    let mut output = matches!(mode, 2..=5);
    for _ in 0..ticks {
        match mode {
            2 => {
                element -= 1;
                output = element != 1;
                if element == 0 {
                    element = count;
                    output = count != 1;
                }
            }
            3 => {
                // Odd counts: one tick more while the output is high.
                if element == 0 || (element == 2 && (!output || count == even)) {
                    element = even;
                    output = !output;
                } else {
                    element -= 2;
                }
            }
            _ => {
                element = if element == 0 { 0xffff } else { element - 1 };
                match mode {
                    0 | 1 => output |= element == 0,
                    _ => output = element != 0,
                }
            }
        }
    }
    (element as u16, output)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 1000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Count and output are those of a counter that counts.
    #[test]
    fn counts_as_the_model(
        mode in 0u8..6,
        count in prop_oneof![3u16..20, 3u16..2000],
        ticks in prop_oneof![0u32..60, 0u32..6000],
    ) {
        let mut bench = Bench::new();
        bench.write(port::SPEAKER, 1);
        bench.program(2, mode, count);
        bench.advance_ticks(ticks.into());
        let (element, output) = model(mode, count.into(), ticks);
        prop_assert_eq!(bench.latched(2), element);
        // Modes 0, 1, 4 and 5 wrap; the output changes once only.
        if matches!(mode, 2 | 3) || ticks <= u32::from(count) + 1 {
            prop_assert_eq!(bench.read(port::SPEAKER) & 0x20 != 0, output);
        }
    }

    /// Interrupts: as many as periods have passed, whenever one looks.
    #[test]
    fn no_tick_is_lost(count in 300u16..5000, looks in prop::collection::vec(1u64..20_000_000, 1..50)) {
        let mut bench = Bench::new();
        bench.program(0, 2, count);
        let mut injected = 0u64;
        for step in looks {
            bench.now += step;
            let tick = bench.pit.timer_fired(bench.now);
            prop_assert!(tick.next_expiry.expect("armed") > bench.now);
            injected += u64::from(tick.inject);
            while bench.pit.acked() {
                injected += 1;
            }
        }
        prop_assert_eq!(injected, ticks_in(bench.now) / u64::from(count));
    }

    /// Any byte at any port at any time, and any state.
    #[test]
    fn random_traffic(
        ops in prop::collection::vec((0u16..5, any::<u8>(), 0u8..4, any::<u32>()), 1..200),
        counts in any::<[u32; 3]>(),
        bytes in any::<[u8; 9]>(),
        flags: u32,
    ) {
        let mut bench = Bench::new();
        let [status, read_state, write_state, write_latch, rw_mode, mode, bcd, gate, latched] = bytes;
        let channels = counts.map(|count| crate::uapi::kvm_pit_channel_state {
            count,
            latched_count: 0x1234,
            count_latched: latched,
            status_latched: latched & 1,
            status, read_state, write_state, write_latch, rw_mode, mode, bcd, gate,
            count_load_time: -1,
        });
        bench.pit.set_state(&channels, flags, bench.now);
        for (index, value, action, step) in ops {
            let port = if index == 4 { port::SPEAKER } else { port::COUNTER0 + index };
            match action {
                0 => bench.now += u64::from(step) << (value & 15),
                1 => {
                    bench.read(port);
                }
                2 => {
                    let _ = bench.pit.timer_fired(bench.now);
                    let _ = bench.pit.acked();
                }
                _ => bench.write(port, value),
            }
            let state = bench.pit.get_state(bench.now);
            for channel in state.channels {
                prop_assert!((1..=0x1_0000).contains(&channel.count));
            }
        }
    }
}
