// SPDX-License-Identifier: GPL-2.0

//! Random traffic.

use super::super::regs::{self, base};
use super::super::{Config, IdFormat, Initiator, Lapic, LapicPost, Mode, Posted, VectorSet};
use super::Bench;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Op {
    Mmio { offset: u32, size: u8, value: u32 },
    MmioRead { offset: u32, size: u8 },
    Wrmsr { register: u8, value: u64 },
    Rdmsr { register: u8 },
    Base(u64),
    Deadline(u64),
    Advance(u32),
    Fire,
    Post { vector: u8, level: bool },
    Nmi,
    Init,
    Take,
    Eoi,
    Cr8(u8),
    SaveRestore,
    Garbage(u8),
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..0x200),
        Just(u32::MAX),
        (0u32..0x8_0000),
        Just(0x1ff),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u32..0x40, value()).prop_map(|(r, value)| Op::Mmio { offset: r << 4, size: 4, value }),
        1 => (any::<u32>(), any::<u8>(), value())
            .prop_map(|(offset, size, value)| Op::Mmio { offset, size, value }),
        1 => (any::<u32>(), any::<u8>()).prop_map(|(offset, size)| Op::MmioRead { offset, size }),
        6 => (any::<u8>(), value()).prop_map(|(register, value)| Op::Wrmsr {
            register: register & 0x4f,
            value: value.into(),
        }),
        1 => (any::<u8>(), any::<u64>()).prop_map(|(register, value)| Op::Wrmsr { register, value }),
        2 => any::<u8>().prop_map(|register| Op::Rdmsr { register }),
        1 => (0u64..16).prop_map(|bits| Op::Base(0xfee0_0000 | bits << 8)),
        2 => (0u64..10_000_000).prop_map(Op::Deadline),
        4 => (0u32..3_000_000).prop_map(Op::Advance),
        4 => Just(Op::Fire),
        8 => (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Op::Post { vector, level }),
        1 => Just(Op::Nmi),
        1 => Just(Op::Init),
        8 => Just(Op::Take),
        6 => Just(Op::Eoi),
        2 => any::<u8>().prop_map(Op::Cr8),
        1 => Just(Op::SaveRestore),
        1 => any::<u8>().prop_map(Op::Garbage),
    ]
}

fn run(bench: &mut Bench, op: &Op) {
    let Bench { lapic, post, clock } = bench;
    let cx = super::Context { post, clock };
    match *op {
        Op::Mmio {
            offset,
            size,
            value,
        } => {
            let _ = lapic.mmio_write(offset, size, value, &cx);
        }
        Op::MmioRead { offset, size } => {
            lapic.mmio_read(offset, size, clock);
        }
        Op::Wrmsr { register, value } => {
            let _ = lapic.x2apic_write(0x800 + u32::from(register), value, &cx);
        }
        Op::Rdmsr { register } => {
            let _ = lapic.x2apic_read(0x800 + u32::from(register), clock);
        }
        Op::Base(value) => {
            let _ = lapic.set_apic_base(value, Initiator::Guest, post);
        }
        Op::Deadline(value) => {
            let _ = lapic.set_tsc_deadline(value, clock);
        }
        Op::Advance(ns) => clock.advance(ns.into()),
        Op::Fire => {
            let _ = lapic.timer_fired(clock);
        }
        Op::Post { vector, level } => {
            let _ = post.post(vector, level);
            let _ = lapic.sync(post);
        }
        Op::Nmi => {
            let _ = post.post_nmi();
            let _ = lapic.sync(post);
        }
        Op::Init => {
            let _ = lapic.init(post);
        }
        Op::Take => {
            if let Some(vector) = lapic.pending_vector() {
                lapic.ack(vector);
            }
        }
        Op::Eoi => {
            let _ = lapic.eoi();
        }
        Op::Cr8(value) => lapic.set_cr8(value, post),
        Op::SaveRestore => {
            let page = lapic.get_state(IdFormat::Bits32, clock);
            let before = (lapic.irr, lapic.isr, lapic.tmr, lapic.ppr());
            assert!(lapic
                .set_state(&page, IdFormat::Bits32, post, clock)
                .is_ok());
            assert_eq!(before, (lapic.irr, lapic.isr, lapic.tmr, lapic.ppr()));
            let again = lapic.get_state(IdFormat::Bits32, clock);
            for (index, (before, after)) in page.regs.iter().zip(&again.regs).enumerate() {
                // A count of zero is not known to be over and starts again.
                let count = index >> 4 == usize::from(regs::TIMER_CURRENT);
                let over = page.regs[usize::from(regs::TIMER_CURRENT) << 4..][..4] == [0; 4];
                assert!(before == after || count && over, "offset {index:#x}");
            }
        }
        Op::Garbage(seed) => {
            let mut page = lapic.get_state(IdFormat::Bits8, clock);
            for (index, byte) in page.regs.iter_mut().enumerate() {
                *byte = (index as u8).wrapping_mul(seed) ^ seed;
            }
            let _ = lapic.set_state(&page, IdFormat::Bits8, post, clock);
        }
    }
}

/// PPR as the manual's formula has it, from the registers.
fn expected_ppr(lapic: &Lapic) -> u8 {
    let tpr = lapic.tpr();
    let isrv = (0..=255u8)
        .rev()
        .find(|v| lapic.isr().contains(*v))
        .unwrap_or(0);
    if tpr >> 4 >= isrv >> 4 {
        tpr
    } else {
        isrv & 0xf0
    }
}

fn check(bench: &Bench) {
    let lapic = &bench.lapic;
    assert_eq!(lapic.ppr(), expected_ppr(lapic));
    if let Some(vector) = lapic.pending_vector() {
        assert!(lapic.irr().contains(vector));
        assert!(vector >> 4 > lapic.ppr() >> 4);
        let in_service = lapic.highest_in_service().unwrap_or(0);
        assert!(vector >> 4 > in_service >> 4);
    }
    let snapshot = bench.post.snapshot();
    assert_eq!(snapshot.is_x2apic(), lapic.mode() == Mode::X2Apic);
    assert_eq!(snapshot.enabled(), lapic.mode() != Mode::Disabled);
    assert_eq!(
        snapshot.software_enabled(),
        lapic.software_enabled() && snapshot.enabled()
    );
    assert_eq!(snapshot.accepts_extint(), lapic.accepts_extint());
    assert_eq!(snapshot.priority() >> 4, lapic.tpr() >> 4);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 400 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever is written: nothing panics, PPR is what it must be, and what
    /// others see is what is.
    #[test]
    fn random_traffic(ops in prop::collection::vec(op(), 1..200), x2apic: bool) {
        let mut bench = Bench::with_config(Config::new(1), false);
        if x2apic {
            let value = base::DEFAULT_ADDRESS | base::ENABLE | base::X2APIC;
            let done = bench.lapic.set_apic_base(value, Initiator::Guest, &bench.post);
            prop_assert_eq!(done, Ok(()));
        }
        for op in &ops {
            run(&mut bench, op);
            check(&bench);
        }
    }

    /// Every vector posted is delivered exactly once, highest class first.
    #[test]
    fn posted_is_delivered_once(
        rounds in prop::collection::vec(prop::collection::vec(16u8..=255, 0..20), 1..20)
    ) {
        let mut bench = Bench::xapic();
        for round in rounds {
            let mut expected = BTreeSet::new();
            for vector in round {
                let _ = bench.post.post(vector, vector % 3 == 0);
                expected.insert(vector);
            }
            let _ = bench.lapic.sync(&bench.post);
            // All of the set are there, none else.
            let mut delivered = Vec::new();
            while let Some(vector) = bench.take() {
                prop_assert!(bench.lapic.tmr.contains(vector) == (vector % 3 == 0));
                let action = bench.lapic.eoi().expect("in service");
                prop_assert_eq!(action.vector, vector);
                delivered.push(vector);
            }
            let descending: Vec<u8> = expected.into_iter().rev().collect();
            prop_assert_eq!(delivered, descending);
        }
    }

    /// Nested delivery: while something is in service only higher classes
    /// come through, and at the end all were delivered.
    #[test]
    fn nesting(posts in prop::collection::vec((16u8..=255, any::<bool>()), 1..60)) {
        let mut bench = Bench::xapic();
        let mut outstanding = BTreeSet::new();
        let mut stack: Vec<u8> = Vec::new();
        for (vector, finish) in posts {
            let _ = bench.post.post(vector, false);
            let _ = bench.lapic.sync(&bench.post);
            outstanding.insert(vector);
            if let Some(taken) = bench.take() {
                prop_assert!(outstanding.remove(&taken));
                prop_assert!(stack.last().is_none_or(|top| taken >> 4 > top >> 4));
                stack.push(taken);
            }
            if finish {
                let done = bench.lapic.eoi().map(|action| action.vector);
                prop_assert_eq!(done, stack.pop());
            }
        }
        loop {
            if let Some(taken) = bench.take() {
                prop_assert!(outstanding.remove(&taken));
                stack.push(taken);
            } else if bench.lapic.eoi().is_none() {
                break;
            } else {
                stack.pop();
            }
        }
        prop_assert!(outstanding.is_empty());
        prop_assert!(stack.is_empty());
    }

    /// The vector set against a model.
    #[test]
    fn vector_set(ops in prop::collection::vec((any::<u8>(), any::<bool>()), 0..300)) {
        let mut set = VectorSet::EMPTY;
        let mut model = BTreeSet::new();
        for (vector, insert) in ops {
            if insert {
                prop_assert_eq!(set.insert(vector), model.insert(vector));
            } else {
                prop_assert_eq!(set.remove(vector), model.remove(&vector));
            }
            prop_assert_eq!(set.highest(), model.last().copied());
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert_eq!(set.len() as usize, model.len());
        }
        let mut copy = VectorSet::EMPTY;
        for index in 0..8 {
            copy.set_register(index, set.register(index));
        }
        prop_assert_eq!(copy, set);
    }
}

/// Threads post while the owner drains: every accepted post is seen, a kick
/// is owed whenever the owner might otherwise sleep over it.
#[test]
fn concurrent_posts_are_not_lost() {
    const SENDERS: u8 = 3;
    const ROUNDS: u32 = if cfg!(miri) { 20 } else { 20_000 };
    let post = Arc::new(LapicPost::new(0));
    let mut lapic = Lapic::new(Config::new(0), true);
    lapic.publish(&post);
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let post = Arc::clone(&post);
            std::thread::spawn(move || {
                let mut accepted = 0u32;
                let vector = 0x40 + sender * 0x41;
                for _ in 0..ROUNDS {
                    match post.post(vector, sender == 1) {
                        Posted::Accepted { .. } => accepted += 1,
                        Posted::Notify => panic!("no processor takes any"),
                        Posted::Coalesced => {}
                        Posted::Rejected => panic!("rejected"),
                    }
                }
                (vector, accepted)
            })
        })
        .collect();
    let owner = std::thread::spawn({
        let post = Arc::clone(&post);
        let stop = Arc::clone(&stop);
        move || {
            let mut seen = [0u32; 256];
            loop {
                let last = stop.load(Ordering::SeqCst);
                let _ = lapic.sync(&post);
                while let Some(vector) = lapic.highest_request() {
                    assert_eq!(lapic.tmr.contains(vector), vector == 0x81);
                    lapic.ack(vector);
                    assert!(lapic.eoi().is_some());
                    seen[usize::from(vector)] += 1;
                }
                if last {
                    return seen;
                }
            }
        }
    });
    let sent: Vec<_> = senders
        .into_iter()
        .map(|sender| sender.join().expect("sender"))
        .collect();
    stop.store(true, Ordering::SeqCst);
    let seen = owner.join().expect("owner");
    for (vector, accepted) in sent {
        assert_eq!(seen[usize::from(vector)], accepted, "{vector:#x}");
    }
    assert!(!post.is_on());
}

/// What a processor does when it is notified (SDM vol. 3C section 31.6).
fn take_as_processor(post: &LapicPost) -> [u64; 4] {
    let [r0, r1, r2, r3, control] = post.descriptor();
    control.fetch_and(!1, Ordering::SeqCst);
    [r0, r1, r2, r3].map(|word| word.swap(0, Ordering::SeqCst))
}

/// Threads post interrupts for the processor and for the owner, and NMIs, while
/// the two take turns. Each looks only when it has been told to: the processor by
/// a notification, the owner by a kick, or when it happens to be outside anyway.
/// So a sender that tells nobody where it should shows as a loss.
#[test]
fn processor_and_owner_lose_nothing_between_them() {
    const SENDERS: u8 = 3;
    const ROUNDS: u32 = if cfg!(miri) { 20 } else { 20_000 };
    let post = Arc::new(LapicPost::with(0, true));
    let mut lapic = Lapic::new(Config::new(0), true);
    lapic.publish(&post);
    let stop = Arc::new(AtomicBool::new(false));
    let notified = Arc::new(AtomicBool::new(false));
    let kicked = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let post = Arc::clone(&post);
            let (notified, kicked) = (Arc::clone(&notified), Arc::clone(&kicked));
            std::thread::spawn(move || {
                let vector = 0x40 + sender * 0x41;
                let mut accepted = 0u32;
                for round in 0..ROUNDS {
                    let posted = match sender {
                        0 => post.post_to_processor(vector),
                        1 => post.post(vector, true),
                        _ if round % 2 == 0 => post.post_to_processor(vector),
                        _ => {
                            if post.post_nmi().needs_kick() {
                                kicked.store(true, Ordering::SeqCst);
                            }
                            continue;
                        }
                    };
                    match posted {
                        Posted::Notify => notified.store(true, Ordering::SeqCst),
                        Posted::Accepted { kick: true } => kicked.store(true, Ordering::SeqCst),
                        Posted::Accepted { kick: false } => {}
                        Posted::Coalesced => continue,
                        Posted::Rejected => panic!("rejected"),
                    }
                    accepted += 1;
                }
                (vector, accepted)
            })
        })
        .collect();
    let taker = std::thread::spawn({
        let post = Arc::clone(&post);
        let stop = Arc::clone(&stop);
        let (notified, kicked) = (Arc::clone(&notified), Arc::clone(&kicked));
        move || {
            let mut seen = [0u32; 256];
            let mut nmis = 0u32;
            let mut turn = 0u32;
            loop {
                let last = stop.load(Ordering::SeqCst);
                turn = turn.wrapping_add(1);
                // In the guest: the processor is at it.
                if notified.swap(false, Ordering::SeqCst) {
                    for (index, mut word) in (0u32..).zip(take_as_processor(&post)) {
                        while word != 0 {
                            let vector = index * 64 + word.trailing_zeros();
                            word &= word - 1;
                            assert!(vector != 0x81, "this one is the owner's");
                            seen[vector as usize] += 1;
                        }
                    }
                }
                // Out of the guest: for a kick, or for reasons of its own.
                if kicked.swap(false, Ordering::SeqCst) || turn % 8 == 0 {
                    nmis += u32::from(lapic.sync(&post).nmis);
                    while let Some(vector) = lapic.highest_request() {
                        assert_eq!(lapic.tmr.contains(vector), vector == 0x81);
                        lapic.ack(vector);
                        assert!(lapic.eoi().is_some());
                        seen[usize::from(vector)] += 1;
                    }
                }
                let told = notified.load(Ordering::SeqCst) || kicked.load(Ordering::SeqCst);
                if last && !told {
                    return (seen, nmis);
                }
            }
        }
    });
    let sent: Vec<_> = senders
        .into_iter()
        .map(|sender| sender.join().expect("sender"))
        .collect();
    stop.store(true, Ordering::SeqCst);
    let (seen, nmis) = taker.join().expect("taker");
    for (vector, accepted) in sent {
        assert_eq!(seen[usize::from(vector)], accepted, "{vector:#x}");
    }
    assert!(nmis > 0);
    assert!(!post.is_on());
}

/// What a processor may take, and who is to be told.
#[test]
fn what_is_for_the_processor() {
    let post = LapicPost::with(0, true);
    let mut lapic = Lapic::new(Config::new(0), true);
    assert_eq!(post.post_to_processor(0x40), Posted::Notify);
    assert_eq!(post.post_to_processor(0x40), Posted::Coalesced);
    assert_eq!(
        post.post_to_processor(0x41),
        Posted::Accepted { kick: false }
    );
    // An interrupt whose end counts, and an NMI: the owner is to be kicked
    // though a notification is under way.
    assert_eq!(post.post(0x50, true), Posted::Accepted { kick: true });
    assert_eq!(post.post_nmi(), Posted::Accepted { kick: false });
    assert_eq!(take_as_processor(&post), [0, 0b11, 0, 0]);
    assert!(post.is_on(), "the owner has not looked");
    let events = lapic.sync(&post);
    assert_eq!(events.nmis, 1);
    assert_eq!(lapic.highest_request(), Some(0x50));
    assert!(lapic.tmr.contains(0x50));
    assert!(!post.is_on());
    // Once level triggered: the processor would leave it so.
    assert_eq!(
        post.post_to_processor(0x50),
        Posted::Accepted { kick: true }
    );
    assert_eq!(take_as_processor(&post), [0; 4]);
    lapic.ack(0x50);
    let _ = lapic.sync(&post);
    assert!(!lapic.tmr.contains(0x50), "edge triggered now");
    assert_eq!(post.post_to_processor(0x50), Posted::Notify);
    // The owner takes what the processor has not.
    lapic.ack(0x50);
    let _ = lapic.sync(&post);
    assert!(lapic.irr().contains(0x50));
    assert_eq!(post.post_to_processor(5), Posted::Rejected);
}
