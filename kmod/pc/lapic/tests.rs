// SPDX-License-Identifier: GPL-2.0

//! Tests of the local APIC: one per behaviour, and random traffic.

mod properties;
mod registers;
mod timer;

use super::regs::{self, base, lvt, svr};
use super::{Clock, Config, Context, Effect, Initiator, Lapic, LapicPost};
use core::cell::Cell;

/// Time under control. The TSC runs at 2 GHz.
#[derive(Default)]
struct TestClock {
    ns: Cell<u64>,
}

impl TestClock {
    fn advance(&self, ns: u64) {
        self.ns.set(self.ns.get() + ns);
    }
}

impl Clock for TestClock {
    fn now_ns(&self) -> u64 {
        self.ns.get()
    }

    fn guest_tsc(&self) -> u64 {
        self.ns.get() * 2
    }
}

/// A local APIC with all that goes with it.
struct Bench {
    lapic: Lapic,
    post: LapicPost,
    clock: TestClock,
}

impl Bench {
    fn with_config(config: Config, bsp: bool) -> Self {
        let bench = Self {
            lapic: Lapic::new(config, bsp),
            post: LapicPost::new(config.id),
            clock: TestClock::default(),
        };
        bench.lapic.publish(&bench.post);
        bench
    }

    /// An enabled xAPIC with id 1.
    fn xapic() -> Self {
        let mut bench = Self::with_config(Config::new(1), false);
        bench.write(regs::SVR, svr::ENABLE | 0xff);
        bench
    }

    /// An enabled x2APIC with id 1.
    fn x2apic() -> Self {
        let mut bench = Self::xapic();
        let value = bench.lapic.apic_base() | base::X2APIC;
        let done = bench
            .lapic
            .set_apic_base(value, Initiator::Guest, &bench.post);
        assert_eq!(done, Ok(()));
        bench
    }

    fn write(&mut self, register: u8, value: u32) -> Effect {
        let cx = Context {
            post: &self.post,
            clock: &self.clock,
        };
        self.lapic
            .mmio_write(u32::from(register) << 4, 4, value, &cx)
    }

    fn read(&mut self, register: u8) -> u32 {
        self.lapic
            .mmio_read(u32::from(register) << 4, 4, &self.clock)
    }

    fn wrmsr(&mut self, register: u8, value: u64) -> Result<Effect, super::GpFault> {
        let cx = Context {
            post: &self.post,
            clock: &self.clock,
        };
        self.lapic
            .x2apic_write(0x800 + u32::from(register), value, &cx)
    }

    fn rdmsr(&mut self, register: u8) -> Result<u64, super::GpFault> {
        self.lapic
            .x2apic_read(0x800 + u32::from(register), &self.clock)
    }

    fn lvt_timer(&mut self, bits: u32) -> Effect {
        self.write(regs::LVT_TIMER, bits | 0x40)
    }

    /// Takes one interrupt if one is pending.
    fn take(&mut self) -> Option<u8> {
        let vector = self.lapic.pending_vector()?;
        self.lapic.ack(vector);
        Some(vector)
    }
}

/// Bits of LVT timer for each mode.
const ONE_SHOT: u32 = 0;
const PERIODIC: u32 = lvt::TIMER_PERIODIC;
const TSC_DEADLINE: u32 = lvt::TIMER_TSC_DEADLINE;
