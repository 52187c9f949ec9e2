// SPDX-License-Identifier: GPL-2.0

//! The timer.

use super::super::regs::{self, lvt};
use super::super::{Config, Effect, TimerCommand};
use super::{Bench, ONE_SHOT, PERIODIC, TSC_DEADLINE};

const DIVIDE_BY_1: u32 = 0b1011;

fn armed(effect: Effect) -> u64 {
    match effect {
        Effect::Timer(TimerCommand::ArmNs { deadline }) => deadline,
        other => panic!("not armed: {other:?}"),
    }
}

#[test]
fn divide_values() {
    let expected = [2, 4, 8, 16, 32, 64, 128, 1];
    for (code, divisor) in expected.into_iter().enumerate() {
        let mut bench = Bench::xapic();
        let code = code as u32;
        bench.write(regs::TIMER_DIVIDE, (code & 3) | (code & 4) << 1);
        assert_eq!(
            armed(bench.write(regs::TIMER_INITIAL, 1000)),
            1000 * divisor
        );
    }
}

#[test]
fn bus_clock_is_configurable() {
    let config = Config {
        bus_cycle_ns: 40,
        ..Config::new(1)
    };
    let mut bench = Bench::with_config(config, false);
    assert_eq!(armed(bench.write(regs::TIMER_INITIAL, 10)), 10 * 2 * 40);
}

#[test]
fn one_shot_counts_down_once() {
    let mut bench = Bench::xapic();
    assert_eq!(bench.lvt_timer(ONE_SHOT), Effect::None);
    bench.write(regs::TIMER_DIVIDE, DIVIDE_BY_1);
    let deadline = armed(bench.write(regs::TIMER_INITIAL, 1_000_000));
    assert_eq!(bench.read(regs::TIMER_CURRENT), 1_000_000);
    bench.clock.advance(400_000);
    assert_eq!(bench.read(regs::TIMER_CURRENT), 600_000);
    let early = bench.lapic.timer_fired(&bench.clock);
    assert_eq!(early, TimerCommand::ArmNs { deadline });
    assert_eq!(bench.take(), None);
    bench.clock.advance(600_000);
    assert_eq!(bench.read(regs::TIMER_CURRENT), 0);
    assert_eq!(bench.lapic.timer_fired(&bench.clock), TimerCommand::Keep);
    assert_eq!(bench.take(), Some(0x40));
    bench.clock.advance(5_000_000);
    assert_eq!(bench.lapic.timer_fired(&bench.clock), TimerCommand::Keep);
    assert_eq!(bench.lapic.highest_request(), None);
}

#[test]
fn periodic_does_not_drift_or_burst() {
    let mut bench = Bench::xapic();
    bench.lvt_timer(PERIODIC);
    bench.write(regs::TIMER_DIVIDE, DIVIDE_BY_1);
    assert_eq!(
        armed(bench.write(regs::TIMER_INITIAL, 1_000_000)),
        1_000_000
    );
    // Each time late by something; never does it add up.
    for tick in 1..10u64 {
        bench.clock.ns.set(tick * 1_000_000 + tick * 777);
        let next = bench.lapic.timer_fired(&bench.clock);
        let deadline = (tick + 1) * 1_000_000;
        assert_eq!(next, TimerCommand::ArmNs { deadline });
        assert_eq!(bench.take(), Some(0x40));
        assert!(bench.lapic.eoi().is_some());
    }
    // After a pause of many periods one interrupt, and the phase is kept.
    bench.clock.ns.set(50_300_000);
    assert_eq!(bench.read(regs::TIMER_CURRENT), 700_000);
    let deadline = 51_000_000;
    let next = bench.lapic.timer_fired(&bench.clock);
    assert_eq!(next, TimerCommand::ArmNs { deadline });
    assert_eq!(bench.take(), Some(0x40));
    assert_eq!(bench.lapic.highest_request(), None);
}

#[test]
fn short_periods_are_stretched() {
    let mut bench = Bench::xapic();
    bench.lvt_timer(PERIODIC);
    bench.write(regs::TIMER_DIVIDE, DIVIDE_BY_1);
    assert_eq!(armed(bench.write(regs::TIMER_INITIAL, 1)), 200_000);
    assert!(bench.read(regs::TIMER_CURRENT) <= 1);
    bench.lvt_timer(ONE_SHOT);
    assert_eq!(armed(bench.write(regs::TIMER_INITIAL, 1)), 1);
}

#[test]
fn mode_change_keeps_the_running_count() {
    let mut bench = Bench::xapic();
    bench.write(regs::TIMER_DIVIDE, DIVIDE_BY_1);
    bench.lvt_timer(PERIODIC);
    bench.write(regs::TIMER_INITIAL, 1_000_000);
    bench.clock.advance(700_000);
    assert_eq!(bench.lvt_timer(ONE_SHOT), Effect::None);
    assert_eq!(bench.read(regs::TIMER_CURRENT), 300_000);
    bench.clock.advance(300_000);
    assert_eq!(bench.lapic.timer_fired(&bench.clock), TimerCommand::Keep);
    assert_eq!(bench.take(), Some(0x40));
    // Back to periodic: the count has ended and does not start by itself.
    bench.lvt_timer(PERIODIC);
    assert_eq!(bench.read(regs::TIMER_CURRENT), 0);
    assert_eq!(bench.read(regs::TIMER_INITIAL), 1_000_000);
}

#[test]
fn divide_change_keeps_the_count() {
    let mut bench = Bench::xapic();
    bench.write(regs::TIMER_DIVIDE, DIVIDE_BY_1);
    bench.write(regs::TIMER_INITIAL, 1_000_000);
    bench.clock.advance(400_000);
    let deadline = armed(bench.write(regs::TIMER_DIVIDE, 0));
    assert_eq!(deadline, 400_000 + 2 * 600_000);
    assert_eq!(bench.read(regs::TIMER_CURRENT), 600_000);
}

#[test]
fn initial_count_zero_stops() {
    let mut bench = Bench::xapic();
    bench.write(regs::TIMER_INITIAL, 1000);
    let stop = bench.write(regs::TIMER_INITIAL, 0);
    assert_eq!(stop, Effect::Timer(TimerCommand::Cancel));
    assert_eq!(bench.read(regs::TIMER_CURRENT), 0);
}

#[test]
fn masked_timer_counts_but_does_not_interrupt() {
    let mut bench = Bench::xapic();
    bench.lvt_timer(lvt::MASKED);
    bench.write(regs::TIMER_DIVIDE, DIVIDE_BY_1);
    bench.write(regs::TIMER_INITIAL, 1000);
    bench.clock.advance(500);
    assert_eq!(bench.read(regs::TIMER_CURRENT), 500);
    bench.clock.advance(500);
    assert_eq!(bench.lapic.timer_fired(&bench.clock), TimerCommand::Keep);
    assert_eq!(bench.lapic.highest_request(), None);
}

#[test]
fn tsc_deadline() {
    let mut bench = Bench::xapic();
    // In another mode the MSR does not exist, so to speak.
    let ignored = bench.lapic.set_tsc_deadline(1000, &bench.clock);
    assert_eq!(ignored, TimerCommand::Keep);
    assert_eq!(bench.lapic.tsc_deadline(), 0);

    bench.lvt_timer(TSC_DEADLINE);
    let command = bench.lapic.set_tsc_deadline(1000, &bench.clock);
    assert_eq!(command, TimerCommand::ArmTsc { deadline: 1000 });
    assert_eq!(bench.lapic.tsc_deadline(), 1000);
    assert_eq!(bench.lapic.timer_command(), command);
    bench.clock.advance(499);
    assert_eq!(bench.lapic.timer_fired(&bench.clock), command);
    assert_eq!(bench.lapic.highest_request(), None);
    bench.clock.advance(1);
    let fired = bench.lapic.timer_fired(&bench.clock);
    assert_eq!(fired, TimerCommand::Cancel);
    assert_eq!(bench.lapic.tsc_deadline(), 0);
    assert_eq!(bench.take(), Some(0x40));
    assert_eq!(bench.lapic.timer_fired(&bench.clock), TimerCommand::Keep);
}

#[test]
fn tsc_deadline_in_the_past_fires_at_once() {
    let mut bench = Bench::xapic();
    bench.lvt_timer(TSC_DEADLINE);
    bench.clock.advance(1_000_000);
    let command = bench.lapic.set_tsc_deadline(5, &bench.clock);
    assert_eq!(command, TimerCommand::Cancel);
    assert_eq!(bench.take(), Some(0x40));
    assert_eq!(bench.lapic.tsc_deadline(), 0);
}

#[test]
fn tsc_deadline_zero_disarms() {
    let mut bench = Bench::xapic();
    bench.lvt_timer(TSC_DEADLINE);
    let _ = bench.lapic.set_tsc_deadline(1000, &bench.clock);
    let command = bench.lapic.set_tsc_deadline(0, &bench.clock);
    assert_eq!(command, TimerCommand::Cancel);
    let again = bench.lapic.set_tsc_deadline(0, &bench.clock);
    assert_eq!(again, TimerCommand::Keep);
}

#[test]
fn leaving_deadline_mode_disarms() {
    let mut bench = Bench::xapic();
    bench.lvt_timer(TSC_DEADLINE);
    let _ = bench.lapic.set_tsc_deadline(1000, &bench.clock);
    // The initial count means nothing in this mode.
    assert_eq!(bench.write(regs::TIMER_INITIAL, 77), Effect::None);
    assert_eq!(bench.read(regs::TIMER_INITIAL), 0);
    assert_eq!(bench.read(regs::TIMER_CURRENT), 0);
    let left = bench.lvt_timer(PERIODIC);
    assert_eq!(left, Effect::Timer(TimerCommand::Cancel));
    bench.write(regs::TIMER_INITIAL, 77);
    let entered = bench.lvt_timer(TSC_DEADLINE);
    assert_eq!(entered, Effect::Timer(TimerCommand::Cancel));
    assert_eq!(bench.lapic.timer_command(), TimerCommand::Cancel);
}
