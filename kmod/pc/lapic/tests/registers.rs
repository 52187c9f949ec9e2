// SPDX-License-Identifier: GPL-2.0

//! Registers, delivery, modes, state.

use super::super::regs::{self, base, esr, lvt, svr};
use super::super::{
    Config, Context, Effect, EoiAction, GpFault, IdFormat, Initiator, InvalidState, Lapic,
    LapicPost, LocalDelivery, LocalSource, Mode, Posted, SuppressEoi, TimerCommand,
};
use super::{Bench, PERIODIC, TSC_DEADLINE};
use crate::pc::irq::{DeliveryMode, Message, Shorthand, BROADCAST};

#[test]
fn power_on_state() {
    let mut bench = Bench::with_config(Config::new(3), true);
    assert_eq!(bench.lapic.apic_base(), 0xfee0_0900);
    for (register, value) in [
        (regs::ID, 3 << 24),
        (regs::VERSION, 0x5_0014),
        (regs::TPR, 0),
        (regs::LDR, 0),
        (regs::DFR, u32::MAX),
        (regs::SVR, 0xff),
        (regs::ESR, 0),
        (regs::LVT_TIMER, lvt::MASKED),
        (regs::LVT_LINT0, 0x700),
        (regs::LVT_LINT1, lvt::MASKED),
        (regs::LVT_ERROR, lvt::MASKED),
        (regs::TIMER_INITIAL, 0),
        (regs::TIMER_CURRENT, 0),
    ] {
        assert_eq!(bench.read(register), value, "register {register:#x}");
    }
    let mut ap = Bench::with_config(Config::new(3), false);
    assert_eq!(ap.lapic.apic_base(), 0xfee0_0800);
    assert_eq!(ap.read(regs::LVT_LINT0), lvt::MASKED);
}

#[test]
fn priority_decides() {
    let mut bench = Bench::xapic();
    for vector in [0x31, 0x55, 0x52] {
        assert_eq!(
            bench.post.post(vector, false),
            Posted::Accepted {
                kick: vector == 0x31
            }
        );
    }
    assert!(bench.lapic.sync(&bench.post).is_none());
    assert_eq!(bench.take(), Some(0x55));
    assert_eq!(bench.lapic.ppr(), 0x50);
    // Same class: has to wait.
    assert_eq!(bench.take(), None);
    let action = bench.lapic.eoi();
    assert_eq!(
        action,
        Some(EoiAction {
            vector: 0x55,
            broadcast_to_ioapic: false
        })
    );
    bench.write(regs::TPR, 0x40);
    assert_eq!(bench.take(), Some(0x52));
    assert!(bench.lapic.eoi().is_some());
    assert_eq!(bench.take(), None);
    assert_eq!(bench.lapic.ppr(), 0x40);
    bench.lapic.set_cr8(2, &bench.post);
    assert_eq!(bench.read(regs::TPR), 0x20);
    assert_eq!(bench.take(), Some(0x31));
}

#[test]
fn kicks_and_coalescing() {
    let mut bench = Bench::xapic();
    assert!(bench.post.post(0x40, false).needs_kick());
    assert_eq!(bench.post.post(0x40, false), Posted::Coalesced);
    assert_eq!(
        bench.post.post(0x41, false),
        Posted::Accepted { kick: false }
    );
    assert!(bench.post.is_on());
    let _ = bench.lapic.sync(&bench.post);
    assert!(!bench.post.is_on());
    assert!(bench.post.post(0x40, false).needs_kick());
}

#[test]
fn level_sets_tmr_and_edge_clears_it() {
    let mut bench = Bench::xapic();
    for (level, broadcast) in [(true, true), (false, false), (true, true)] {
        let _ = bench.post.post(0x91, level);
        let _ = bench.lapic.sync(&bench.post);
        assert_eq!(bench.read(regs::TMR | 4), u32::from(level) << 17);
        assert_eq!(bench.take(), Some(0x91));
        assert_eq!(
            bench.write(regs::EOI, 0),
            Effect::Eoi(EoiAction {
                vector: 0x91,
                broadcast_to_ioapic: broadcast
            })
        );
    }
    assert_eq!(bench.write(regs::EOI, 0), Effect::None);
}

#[test]
fn eoi_broadcast_suppression() {
    for (suppress, advertised, broadcast) in [
        (SuppressEoi::Absent, false, true),
        (SuppressEoi::Ignored, true, true),
        (SuppressEoi::Honoured, true, false),
    ] {
        let config = Config {
            suppress_eoi: suppress,
            ..Config::new(0)
        };
        let mut bench = Bench::with_config(config, true);
        bench.write(regs::SVR, svr::ENABLE | svr::SUPPRESS_EOI_BROADCAST | 0xff);
        assert_eq!(bench.read(regs::VERSION) >> 24 & 1 == 1, advertised);
        assert_eq!(bench.read(regs::SVR) >> 12 & 1 == 1, advertised);
        let _ = bench.post.post(0x50, true);
        let _ = bench.lapic.sync(&bench.post);
        assert_eq!(bench.take(), Some(0x50));
        let action = bench.lapic.eoi();
        assert_eq!(
            action.map(|action| action.broadcast_to_ioapic),
            Some(broadcast)
        );
    }
}

#[test]
fn software_disable_masks_lvts_and_stops_fixed() {
    let mut bench = Bench::xapic();
    bench.write(regs::LVT_LINT1, 0x400);
    assert_eq!(bench.read(regs::LVT_LINT1), 0x400);
    assert_eq!(bench.write(regs::SVR, 0xff), Effect::Lint0);
    assert_eq!(bench.read(regs::LVT_LINT1), 0x400 | lvt::MASKED);
    bench.write(regs::LVT_LINT1, 0x400);
    assert_eq!(bench.read(regs::LVT_LINT1), 0x400 | lvt::MASKED);
    let fixed = Message::fixed(1, 0x60);
    assert_eq!(bench.post.accept(&fixed), Posted::Rejected);
    let nmi = Message {
        mode: DeliveryMode::Nmi,
        ..fixed
    };
    assert!(bench.post.accept(&nmi).needs_kick());
    assert_eq!(bench.lapic.sync(&bench.post).nmis, 1);
}

#[test]
fn events() {
    let mut bench = Bench::xapic();
    assert!(bench.post.post_sipi(0x11).needs_kick());
    assert_eq!(bench.post.post_init(), Posted::Accepted { kick: false });
    let events = bench.lapic.sync(&bench.post);
    // The INIT came later and cancels the startup.
    assert!(events.init());
    assert_eq!(events.sipi(), None);
    let _ = bench.post.post_init();
    let _ = bench.post.post_sipi(0x9a);
    let events = bench.lapic.sync(&bench.post);
    assert!(events.init());
    assert_eq!(events.sipi(), Some(0x9a));
    for _ in 0..5 {
        let _ = bench.post.post_nmi();
    }
    let _ = bench.post.post_timer();
    let _ = bench.post.post_smi();
    let events = bench.lapic.sync(&bench.post);
    assert_eq!(events.nmis, 2);
    assert!(events.timer() && events.smi() && !events.init());
    assert!(bench.lapic.sync(&bench.post).is_none());
}

#[test]
fn extint_line() {
    let mut bench = Bench::xapic();
    // LINT0 is masked: nobody has to look.
    assert!(!bench.post.set_extint(true));
    assert!(bench.post.extint() && !bench.post.is_on());
    assert!(!bench.post.set_extint(false));
    assert_eq!(bench.write(regs::LVT_LINT0, 0x700), Effect::Lint0);
    assert!(bench.post.set_extint(true));
    assert!(!bench.post.set_extint(true));
    assert!(bench.post.extint());
    assert!(!bench.post.set_extint(false));
    assert!(!bench.post.extint());
}

#[test]
fn self_ipi() {
    let mut bench = Bench::x2apic();
    assert_eq!(bench.wrmsr(regs::SELF_IPI, 0x77), Ok(Effect::None));
    assert_eq!(bench.take(), Some(0x77));
    assert_eq!(bench.wrmsr(regs::ICR, 0x4_0078), Ok(Effect::None));
    assert_eq!(bench.lapic.highest_request(), Some(0x78));
    // It is edge triggered, whatever the vector was before.
    assert!(bench.lapic.eoi().is_some());
    let _ = bench.post.post(0x79, true);
    let _ = bench.lapic.sync(&bench.post);
    assert_eq!(bench.take(), Some(0x79));
    assert!(bench.lapic.eoi().is_some_and(|a| a.broadcast_to_ioapic));
    assert_eq!(bench.wrmsr(regs::SELF_IPI, 0x79), Ok(Effect::None));
    assert_eq!(bench.take(), Some(0x79));
    assert!(bench.lapic.eoi().is_some_and(|a| !a.broadcast_to_ioapic));
    assert_eq!(bench.take(), Some(0x78));
    assert_eq!(bench.wrmsr(regs::SELF_IPI, 0x177), Err(GpFault));
    assert_eq!(bench.rdmsr(regs::SELF_IPI), Err(GpFault));
    // In xAPIC mode there is no such register.
    let mut xapic = Bench::xapic();
    xapic.write(regs::SELF_IPI, 0x77);
    assert_eq!(xapic.lapic.highest_request(), None);
}

#[test]
fn icr_of_xapic() {
    let mut bench = Bench::xapic();
    bench.write(regs::ICR_HIGH, 0x05ff_ffff);
    assert_eq!(bench.read(regs::ICR_HIGH), 0x0500_0000);
    let Effect::Ipi(ipi) = bench.write(regs::ICR, 0x1000 | 0x4000 | 0x31) else {
        panic!("no IPI");
    };
    assert_eq!(ipi.shorthand, Shorthand::None);
    assert_eq!(ipi.message, Message::fixed(5, 0x31));
    assert_eq!(bench.read(regs::ICR), 0x4031, "BUSY reads as zero");

    bench.write(regs::ICR_HIGH, 0xff00_0000);
    let Effect::Ipi(ipi) = bench.write(regs::ICR, 0x4031) else {
        panic!("no IPI");
    };
    assert_eq!(ipi.message.dest, BROADCAST);

    let Effect::Ipi(ipi) = bench.write(regs::ICR, 0xc_4500) else {
        panic!("no IPI");
    };
    assert_eq!(ipi.shorthand, Shorthand::AllButSelf);
    assert_eq!(ipi.message.mode, DeliveryMode::Init);
    // INIT with level de-assert.
    assert_eq!(bench.write(regs::ICR, 0xc_8500), Effect::None);
    let Effect::Ipi(ipi) = bench.write(regs::ICR, 0xc_4612) else {
        panic!("no IPI");
    };
    assert_eq!(ipi.message.mode, DeliveryMode::Startup);
    assert_eq!(ipi.message.vector, 0x12);
}

#[test]
fn icr_of_x2apic() {
    let mut bench = Bench::x2apic();
    let value = 0x0001_0002_0000_4831;
    let Ok(Effect::Ipi(ipi)) = bench.wrmsr(regs::ICR, value) else {
        panic!("no IPI");
    };
    assert_eq!(ipi.message.dest, 0x0001_0002);
    assert_eq!(bench.rdmsr(regs::ICR), Ok(value));
    assert_eq!(bench.rdmsr(regs::ICR_HIGH), Err(GpFault));
    assert_eq!(bench.wrmsr(regs::ICR_HIGH, 0), Err(GpFault));
    for bit in [13, 16, 17, 20, 31] {
        assert_eq!(bench.wrmsr(regs::ICR, 0x4031 | 1 << bit), Err(GpFault));
    }
}

#[test]
fn illegal_vectors_and_registers_are_errors() {
    let mut bench = Bench::xapic();
    bench.write(regs::LVT_ERROR, 0xfe);
    assert_eq!(bench.write(regs::ICR, 0x4_400f), Effect::None);
    assert_eq!(bench.take(), Some(0xfe));
    assert_eq!(bench.read(regs::ESR), 0, "shown by a write only");
    bench.write(regs::ESR, 0);
    assert_eq!(bench.read(regs::ESR), esr::SEND_ILLEGAL_VECTOR);
    assert_eq!(bench.post.post(15, false), Posted::Rejected);
    let _ = bench.lapic.sync(&bench.post);
    assert_eq!(bench.read(0x3c), 0);
    bench.write(regs::ESR, 0);
    let both = esr::RECEIVE_ILLEGAL_VECTOR | esr::ILLEGAL_REGISTER;
    assert_eq!(bench.read(regs::ESR), both);
    bench.write(regs::ESR, 0);
    assert_eq!(bench.read(regs::ESR), 0);
    // An error interrupt with an illegal vector ends somewhere.
    bench.write(regs::LVT_ERROR, 0x03);
    bench.write(regs::ICR, 0x4_400f);
    bench.write(regs::ESR, 0);
    let both = esr::SEND_ILLEGAL_VECTOR | esr::RECEIVE_ILLEGAL_VECTOR;
    assert_eq!(bench.read(regs::ESR), both);
}

#[test]
fn mmio_sizes() {
    let mut bench = Bench::xapic();
    let Bench { lapic, post, clock } = &mut bench;
    let cx = Context { post, clock };
    for (offset, size) in [(0x80, 1), (0x80, 2), (0x84, 4), (0x82, 2)] {
        assert_eq!(lapic.mmio_write(offset, size, 0x55, &cx), Effect::None);
        assert_eq!(lapic.tpr(), 0);
    }
    let _ = lapic.mmio_write(0x80, 4, 0x55, &cx);
    assert_eq!(lapic.tpr(), 0x55);
    assert_eq!(lapic.mmio_read(0x30, 4, clock), 0x5_0014);
    assert_eq!(lapic.mmio_read(0x32, 2, clock), 5);
    assert_eq!(lapic.mmio_read(0x32, 1, clock), 5);
    assert_eq!(lapic.mmio_read(0x30, 1, clock), 0x14);
    assert_eq!(lapic.mmio_read(0x34, 4, clock), 0);
    assert_eq!(lapic.mmio_read(0x34, 0, clock), 0);
    assert_eq!(lapic.mmio_read(0x32, 4, clock), 0);
}

#[test]
fn x2apic_reserved_bits() {
    let mut bench = Bench::x2apic();
    for (register, value) in [
        (regs::TPR, 0x100),
        (regs::EOI, 1),
        (regs::ESR, 1),
        (regs::SVR, 0x400),
        (regs::SVR, 0x1000),
        (regs::LVT_TIMER, 0x100),
        (regs::LVT_ERROR, 0x100),
        (regs::LVT_LINT0, 1 << 17),
        (regs::TIMER_DIVIDE, 4),
        (regs::TIMER_INITIAL, 1 << 32),
        (regs::ID, 0),
        (regs::VERSION, 0),
        (regs::PPR, 0),
        (regs::LDR, 0),
        (regs::DFR, 0),
        (regs::IRR, 0),
        (regs::TIMER_CURRENT, 0),
        (regs::LVT_CMCI, 0),
        (0x3d, 0),
    ] {
        let result = bench.wrmsr(register, value);
        assert_eq!(result, Err(GpFault), "{register:#x} = {value:#x}");
    }
    for (register, value) in [
        (regs::TPR, 0xff),
        (regs::EOI, 0),
        (regs::ESR, 0),
        (regs::SVR, 0x1ff),
        (regs::LVT_TIMER, 0x4_1040),
        (regs::LVT_LINT0, 0x1_f7ff),
        (regs::TIMER_DIVIDE, 0xb),
    ] {
        assert!(
            bench.wrmsr(register, value).is_ok(),
            "{register:#x} = {value:#x}"
        );
    }
    for register in [regs::EOI, regs::DFR, regs::APR, regs::RRD, 0x00, 0x3d] {
        assert_eq!(bench.rdmsr(register), Err(GpFault), "{register:#x}");
    }
    assert_eq!(bench.rdmsr(regs::ID), Ok(1));
    assert_eq!(bench.rdmsr(regs::LDR), Ok(2));
    assert_eq!(bench.lapic.x2apic_read(0x840, &bench.clock), Err(GpFault));
    assert_eq!(bench.lapic.x2apic_read(0x8ff, &bench.clock), Err(GpFault));
    // Not in xAPIC mode.
    let mut xapic = Bench::xapic();
    assert_eq!(xapic.rdmsr(regs::ID), Err(GpFault));
    assert_eq!(xapic.wrmsr(regs::SELF_IPI, 0x40), Err(GpFault));
}

#[test]
fn x2apic_ldr_of_a_large_id() {
    let config = Config::new(0x123);
    let mut lapic = Lapic::new(config, false);
    let post = LapicPost::new(0x123);
    let value = lapic.apic_base() | base::X2APIC;
    assert_eq!(lapic.set_apic_base(value, Initiator::Guest, &post), Ok(()));
    let clock = super::TestClock::default();
    assert_eq!(lapic.x2apic_read(0x80d, &clock), Ok(0x12_0008));
    assert_eq!(lapic.x2apic_read(0x802, &clock), Ok(0x123));
}

#[test]
fn apic_base_transitions() {
    const OFF: u64 = 0xfee0_0000;
    const X: u64 = OFF | base::ENABLE;
    const X2: u64 = X | base::X2APIC;
    const ILLEGAL: u64 = OFF | base::X2APIC;
    let all = [OFF, X, X2];
    let legal = [(OFF, X), (X, OFF), (X, X2), (X2, OFF)];
    for from in all {
        for to in [OFF, X, X2, ILLEGAL] {
            let mut bench = Bench::xapic();
            let set =
                |bench: &mut Bench, value, who| bench.lapic.set_apic_base(value, who, &bench.post);
            assert_eq!(set(&mut bench, from, Initiator::Userspace), Ok(()));
            let expected = if from == to || legal.contains(&(from, to)) {
                Ok(())
            } else {
                Err(GpFault)
            };
            assert_eq!(set(&mut bench, to, Initiator::Guest), expected);
            let expected = if to == ILLEGAL { Err(GpFault) } else { Ok(()) };
            assert_eq!(set(&mut bench, to, Initiator::Userspace), expected);
        }
    }
}

#[test]
fn apic_base_reserved_bits() {
    let mut bench = Bench::with_config(
        Config {
            x2apic: false,
            max_phys_bits: 40,
            ..Config::new(0)
        },
        true,
    );
    let good = bench.lapic.apic_base();
    for bit in [0, 7, 9, 10, 40, 63] {
        for who in [Initiator::Guest, Initiator::Userspace] {
            let result = bench.lapic.set_apic_base(good | 1 << bit, who, &bench.post);
            assert_eq!(result, Err(GpFault), "bit {bit}");
        }
    }
    let moved = 0x80_1234_5000 | base::ENABLE;
    let result = bench
        .lapic
        .set_apic_base(moved, Initiator::Guest, &bench.post);
    assert_eq!(result, Ok(()));
    assert_eq!(bench.lapic.page_address(), 0x80_1234_5000);
    assert!(!bench.lapic.is_bsp());
}

#[test]
fn disabled_apic_takes_nothing_but_the_pic() {
    let mut bench = Bench::xapic();
    assert!(!bench.post.snapshot().accepts_extint());
    let off = bench.lapic.apic_base() & !base::ENABLE;
    let result = bench
        .lapic
        .set_apic_base(off, Initiator::Guest, &bench.post);
    assert_eq!(result, Ok(()));
    assert_eq!(bench.lapic.mode(), Mode::Disabled);
    assert!(!bench.post.snapshot().enabled());
    assert!(bench.post.snapshot().accepts_extint());
    assert!(bench.lapic.accepts_extint());
    assert_eq!(
        bench.post.accept(&Message::fixed(1, 0x40)),
        Posted::Rejected
    );
}

#[test]
fn lint0_is_published() {
    let mut bench = Bench::xapic();
    assert_eq!(bench.write(regs::LVT_LINT0, 0x700), Effect::Lint0);
    assert!(bench.post.snapshot().accepts_extint());
    assert!(bench.lapic.accepts_extint());
    assert_eq!(
        bench.write(regs::LVT_LINT0, 0x700 | lvt::MASKED),
        Effect::Lint0
    );
    assert!(!bench.post.snapshot().accepts_extint());
    bench.write(regs::LVT_LINT0, 0x400);
    assert!(bench.post.snapshot().lint0_nmi());
    let delivery = bench.lapic.deliver_local(LocalSource::Lint0);
    assert_eq!(delivery, LocalDelivery::Nmi);
}

#[test]
fn performance_counter_interrupt_masks_itself() {
    let config = Config {
        mask_lvtpc: true,
        ..Config::new(1)
    };
    let mut bench = Bench::with_config(config, false);
    bench.write(regs::SVR, 0x1ff);
    bench.write(regs::LVT_PERF, 0x400);
    let first = bench.lapic.deliver_local(LocalSource::Perf);
    assert_eq!(first, LocalDelivery::Nmi);
    let second = bench.lapic.deliver_local(LocalSource::Perf);
    assert_eq!(second, LocalDelivery::None);
}

#[test]
fn cmci_entry_is_optional() {
    let config = Config {
        cmci: true,
        ..Config::new(1)
    };
    let mut bench = Bench::with_config(config, false);
    bench.write(regs::SVR, 0x1ff);
    bench.write(regs::LVT_CMCI, 0xf3);
    assert_eq!(bench.read(regs::LVT_CMCI), 0xf3);
    assert_eq!(bench.read(regs::VERSION), 0x6_0014);
    let mut without = Bench::xapic();
    without.write(regs::LVT_CMCI, 0xf3);
    assert_eq!(without.read(regs::LVT_CMCI), 0);
}

#[test]
fn init_keeps_id_and_mode() {
    let mut bench = Bench::x2apic();
    bench.wrmsr(regs::TPR, 0x20).expect("legal");
    let _ = bench.post.post(0x99, false);
    let _ = bench.lapic.sync(&bench.post);
    let _ = bench.post.post(0x98, false);
    assert_eq!(bench.lapic.init(&bench.post), TimerCommand::Cancel);
    let _ = bench.lapic.sync(&bench.post);
    assert_eq!(bench.lapic.mode(), Mode::X2Apic);
    assert_eq!(bench.rdmsr(regs::ID), Ok(1));
    assert_eq!(bench.rdmsr(regs::TPR), Ok(0));
    assert_eq!(bench.rdmsr(regs::SVR), Ok(0xff));
    assert_eq!(bench.lapic.highest_request(), None);
    assert_eq!(bench.lapic.reset(false, &bench.post), TimerCommand::Cancel);
    assert_eq!(bench.lapic.mode(), Mode::XApic);
    assert!(!bench.post.snapshot().is_x2apic());
}

#[test]
fn state_round_trip() {
    let mut bench = Bench::xapic();
    bench.lvt_timer(PERIODIC);
    bench.write(regs::TIMER_DIVIDE, 0xb);
    bench.write(regs::TIMER_INITIAL, 1_000_000);
    bench.write(regs::LDR, 0x0200_0000);
    bench.write(regs::DFR, 0x0fff_ffff);
    bench.write(regs::TPR, 0x35);
    for vector in [0x40, 0x80, 0xf1] {
        let _ = bench.post.post(vector, vector == 0x80);
    }
    let _ = bench.lapic.sync(&bench.post);
    assert_eq!(bench.take(), Some(0xf1));
    bench.clock.advance(250_000);
    let page = bench.lapic.get_state(IdFormat::Bits8, &bench.clock);

    let mut other = Bench::with_config(Config::new(1), false);
    other.clock.advance(7_000_000);
    let _ = other.post.post(0x55, false);
    let set = other
        .lapic
        .set_state(&page, IdFormat::Bits8, &other.post, &other.clock);
    assert_eq!(
        set,
        Ok(TimerCommand::ArmNs {
            deadline: 7_750_000
        })
    );
    let _ = other.lapic.sync(&other.post);
    let again = other.lapic.get_state(IdFormat::Bits8, &other.clock);
    assert!(page.regs == again.regs);
    assert_eq!(other.lapic.ppr(), 0xf0);
    assert_eq!(other.post.snapshot(), bench.post.snapshot());
    assert_eq!(other.lapic.eoi().map(|action| action.vector), Some(0xf1));
    assert_eq!(other.take(), Some(0x80));
    let action = other.lapic.eoi();
    assert_eq!(action.map(|action| action.broadcast_to_ioapic), Some(true));
}

#[test]
fn reset_state_of_the_bsp_survives_restore() {
    let mut bench = Bench::with_config(Config::new(0), true);
    assert!(bench.lapic.accepts_extint());
    let page = bench.lapic.get_state(IdFormat::Bits8, &bench.clock);
    let set = bench
        .lapic
        .set_state(&page, IdFormat::Bits8, &bench.post, &bench.clock);
    assert_eq!(set, Ok(TimerCommand::Cancel));
    assert!(bench.lapic.accepts_extint());
    assert!(bench.post.snapshot().accepts_extint());
}

#[test]
fn state_keeps_a_tsc_deadline() {
    let mut bench = Bench::xapic();
    bench.lvt_timer(TSC_DEADLINE);
    let command = bench.lapic.set_tsc_deadline(5000, &bench.clock);
    let page = bench.lapic.get_state(IdFormat::Bits8, &bench.clock);
    let set = bench
        .lapic
        .set_state(&page, IdFormat::Bits8, &bench.post, &bench.clock);
    assert_eq!(set, Ok(command));
    assert_eq!(bench.lapic.tsc_deadline(), 5000);
}

#[test]
fn expired_one_shot_expires_again_after_restore() {
    let mut bench = Bench::xapic();
    bench.lvt_timer(0);
    bench.write(regs::TIMER_INITIAL, 1000);
    bench.clock.advance(5000);
    let page = bench.lapic.get_state(IdFormat::Bits8, &bench.clock);
    let set = bench
        .lapic
        .set_state(&page, IdFormat::Bits8, &bench.post, &bench.clock);
    assert_eq!(set, Ok(TimerCommand::ArmNs { deadline: 5000 }));
}

#[test]
fn id_formats() {
    let id_at = |page: &crate::uapi::kvm_lapic_state| {
        u32::from_le_bytes([
            page.regs[0x20],
            page.regs[0x21],
            page.regs[0x22],
            page.regs[0x23],
        ])
    };
    let mut bench = Bench::x2apic();
    let set = |bench: &mut Bench, id: u32, format| {
        let mut page = bench.lapic.get_state(format, &bench.clock);
        page.regs[0x20..0x24].copy_from_slice(&id.to_le_bytes());
        bench
            .lapic
            .set_state(&page, format, &bench.post, &bench.clock)
    };
    let page = bench.lapic.get_state(IdFormat::Bits8, &bench.clock);
    assert_eq!(id_at(&page), 1 << 24);
    let page = bench.lapic.get_state(IdFormat::Bits32, &bench.clock);
    assert_eq!(id_at(&page), 1);
    assert!(set(&mut bench, 7 << 24, IdFormat::Bits8).is_ok());
    assert_eq!(bench.rdmsr(regs::ID), Ok(1), "read-only");
    let refused = set(&mut bench, 7, IdFormat::Bits32);
    assert_eq!(refused, Err(InvalidState));
    assert!(set(&mut bench, 1, IdFormat::Bits32).is_ok());

    let mut xapic = Bench::xapic();
    assert!(set(&mut xapic, 7 << 24, IdFormat::Bits32).is_ok());
    assert_eq!(xapic.read(regs::ID), 7 << 24);
    assert_eq!(xapic.post.snapshot().xapic_id(), 7);
}

#[test]
fn pv_eoi() {
    let mut bench = Bench::xapic();
    assert_eq!(bench.lapic.pv_eoi_vector(), None);
    let _ = bench.post.post(0x40, false);
    let _ = bench.lapic.sync(&bench.post);
    bench.take();
    assert_eq!(bench.lapic.pv_eoi_vector(), Some(0x40));
    bench.lapic.pv_eoi_offer();
    assert_eq!(bench.lapic.pv_eoi_settle(true), None);
    assert_eq!(bench.lapic.highest_in_service(), Some(0x40));
    bench.lapic.pv_eoi_offer();
    let action = bench.lapic.pv_eoi_settle(false);
    assert_eq!(action.map(|action| action.vector), Some(0x40));
    assert_eq!(bench.lapic.pv_eoi_settle(false), None);
    // Not while a request waits, and not for level-triggered ones.
    for (vector, level, in_service) in [(0x60, false, Some(0x60)), (0x50, true, Some(0x50))] {
        let _ = bench.post.post(vector, level);
        let _ = bench.lapic.sync(&bench.post);
        bench.take();
        let _ = bench.post.post(0x30, false);
        let _ = bench.lapic.sync(&bench.post);
        assert_eq!(bench.lapic.highest_in_service(), in_service);
        assert_eq!(bench.lapic.pv_eoi_vector(), None);
        let _ = bench.lapic.eoi();
        assert_eq!(bench.take(), Some(0x30));
        let _ = bench.lapic.eoi();
        let _ = bench.post.post(vector, level);
        let _ = bench.lapic.sync(&bench.post);
        bench.take();
        assert_eq!(bench.lapic.pv_eoi_vector().is_some(), !level);
        let _ = bench.lapic.eoi();
    }
}

#[test]
fn task_priority_is_published_by_class() {
    let mut bench = Bench::xapic();
    bench.write(regs::TPR, 0x37);
    assert_eq!(bench.post.snapshot().priority(), 0x37);
    bench.lapic.set_cr8(0, &bench.post);
    assert_eq!(bench.post.snapshot().priority(), 0);
}
