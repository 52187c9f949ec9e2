// SPDX-License-Identifier: GPL-2.0

//! Tests of the local APIC in the processor: a processor that delivers and
//! completes interrupts as chapter 30 has it is played here.

use super::*;
use crate::pc::lapic::regs::{base, svr};
use crate::pc::lapic::{Clock, Config, Context, Initiator, Posted};
use core::cell::RefCell;

mod page;

struct NoTime;

impl Clock for NoTime {
    fn now_ns(&self) -> u64 {
        0
    }

    fn guest_tsc(&self) -> u64 {
        0
    }
}

/// The page and the fields, and a processor that works on them.
struct Cpu {
    page: RefCell<[u32; 64]>,
    status: InterruptStatus,
    exits: VectorSet,
}

impl RegisterPage for Cpu {
    fn register(&self, register: u8) -> u32 {
        self.page.borrow()[usize::from(register)]
    }

    fn set_register(&self, register: u8, value: u32) {
        self.page.borrow_mut()[usize::from(register)] = value;
    }
}

impl Cpu {
    fn set(&self, first: u8) -> VectorSet {
        read_set(self, first)
    }

    fn put(&self, first: u8, set: VectorSet) {
        let mut has = self.set(first);
        write_set(self, first, &mut has, &set);
    }

    fn recompute(&mut self, irr: VectorSet, isr: VectorSet) {
        self.put(regs::IRR, irr);
        self.put(regs::ISR, isr);
        self.status = InterruptStatus::of(&irr, &isr);
    }

    /// 30.1.3, 30.2.1, 30.2.2: delivers what may be delivered.
    fn deliver(&mut self) -> Option<u8> {
        let [rvi, svi] = self.status.0.to_le_bytes();
        let vtpr = self.register(regs::TPR) as u8;
        if rvi >> 4 <= vtpr.max(svi) >> 4 {
            return None;
        }
        let (mut irr, mut isr) = (self.set(regs::IRR), self.set(regs::ISR));
        assert!(irr.remove(rvi), "RVI is a request");
        isr.insert(rvi);
        self.recompute(irr, isr);
        Some(rvi)
    }

    /// 30.1.4. The vector if that exits.
    fn eoi(&mut self) -> Option<u8> {
        let [_, svi] = self.status.0.to_le_bytes();
        let (irr, mut isr) = (self.set(regs::IRR), self.set(regs::ISR));
        isr.remove(svi);
        self.recompute(irr, isr);
        self.exits.contains(svi).then_some(svi)
    }

    /// 30.1.5.
    fn self_ipi(&mut self, vector: u8) {
        let (mut irr, isr) = (self.set(regs::IRR), self.set(regs::ISR));
        irr.insert(vector);
        self.recompute(irr, isr);
    }
}

struct Bench {
    lapic: Lapic,
    post: LapicPost,
    mirror: Mirror,
    cpu: Cpu,
    watched: VectorSet,
}

impl Bench {
    fn new() -> Self {
        let post = LapicPost::new(1);
        let mut lapic = Lapic::new(Config::new(1), false);
        assert!(!lapic.may_be_kept(), "xAPIC mode");
        let value = lapic.apic_base() | base::X2APIC;
        assert_eq!(lapic.set_apic_base(value, Initiator::Guest, &post), Ok(()));
        assert!(!lapic.may_be_kept(), "software disabled");
        let mut bench = Self {
            lapic,
            post,
            mirror: Mirror::default(),
            cpu: Cpu {
                page: RefCell::new([0; 64]),
                status: InterruptStatus::default(),
                exits: VectorSet::EMPTY,
            },
            watched: VectorSet::EMPTY,
        };
        bench.write(regs::SVR, svr::ENABLE | 0xff);
        assert!(bench.lapic.may_be_kept());
        bench
    }

    fn write(&mut self, register: u8, value: u32) {
        let cx = Context {
            post: &self.post,
            clock: &NoTime,
        };
        let done = self
            .lapic
            .x2apic_write(msr(register), u64::from(value), &cx);
        assert!(done.is_ok());
    }

    fn post(&mut self, vector: u8, level: bool) {
        assert!(matches!(
            self.post.post(vector, level),
            Posted::Accepted { .. } | Posted::Coalesced
        ));
        let _ = self.lapic.sync(&self.post);
    }

    fn show(&mut self) -> Changes {
        let changes = self.mirror.show(&self.lapic, &self.cpu, || self.watched);
        self.lapic.shown();
        changes
    }

    fn enter(&mut self) -> Changes {
        assert!(self.lapic.may_be_kept());
        let changes = self.show();
        if let Some(status) = changes.status {
            self.cpu.status = status;
        }
        if let Some(exits) = changes.eoi_exits {
            self.cpu.exits = exits;
        }
        self.check_sets();
        assert_eq!(self.cpu.set(regs::TMR), *self.lapic.tmr());
        assert_eq!(
            self.cpu.status,
            InterruptStatus::of(self.lapic.irr(), self.lapic.isr())
        );
        changes
    }

    fn check_sets(&self) {
        assert_eq!(self.cpu.set(regs::IRR), *self.lapic.irr());
        assert_eq!(self.cpu.set(regs::ISR), *self.lapic.isr());
        assert_eq!(self.cpu.register(regs::TPR), u32::from(self.lapic.tpr()));
    }

    fn exit(&mut self) {
        let status = self.cpu.status;
        self.mirror
            .take(&mut self.lapic, &self.cpu, status, &self.post);
        self.check_sets();
        assert!(!self.lapic.has_changed());
    }
}

#[test]
fn status_is_the_highest_of_both() {
    let mut irr = VectorSet::EMPTY;
    let mut isr = VectorSet::EMPTY;
    assert_eq!(InterruptStatus::of(&irr, &isr).0, 0);
    irr.insert(0x31);
    irr.insert(0x80);
    assert_eq!(InterruptStatus::of(&irr, &isr).0, 0x0080);
    isr.insert(0xef);
    isr.insert(0x20);
    assert_eq!(InterruptStatus::of(&irr, &isr).0, 0xef80);
}

#[test]
fn the_status_is_written_only_when_it_changes() {
    let mut bench = Bench::new();
    assert_eq!(bench.show(), Changes::default());
    bench.post(0x51, false);
    assert_eq!(bench.show().status, Some(InterruptStatus(0x0051)));
    assert_eq!(bench.show(), Changes::default());
}

#[test]
fn nested_interrupts_are_completed_without_exit() {
    let mut bench = Bench::new();
    for vector in [0x51, 0x71, 0xe1] {
        bench.post(vector, false);
        bench.enter();
        assert_eq!(bench.cpu.deliver(), Some(vector));
        bench.exit();
        assert_eq!(bench.lapic.highest_in_service(), Some(vector));
    }
    bench.enter();
    bench.cpu.eoi();
    bench.cpu.eoi();
    bench.exit();
    assert_eq!(bench.lapic.highest_in_service(), Some(0x51));
    assert_eq!(bench.lapic.ppr(), 0x50);
    bench.enter();
    bench.cpu.eoi();
    bench.exit();
    assert!(bench.lapic.isr().is_empty());
    assert_eq!(bench.lapic.ppr(), 0);
}

#[test]
fn an_init_leaves_nothing() {
    let mut bench = Bench::new();
    bench.post(0x60, false);
    bench.enter();
    assert_eq!(bench.cpu.deliver(), Some(0x60));
    bench.exit();
    let _ = bench.lapic.init(&bench.post);
    assert!(!bench.lapic.may_be_kept(), "software disabled");
    bench.write(regs::SVR, svr::ENABLE | 0xff);
    bench.enter();
    assert_eq!(bench.cpu.status, InterruptStatus(0));
}

/// The same numbers each time, less than what it is asked for.
fn random() -> impl FnMut(u64) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

#[test]
fn an_idle_apic_changes_nothing() {
    let mut bench = Bench::new();
    assert_eq!(bench.enter(), Changes::default());
    bench.exit();
    assert_eq!(bench.enter(), Changes::default());
}

#[test]
fn a_request_is_delivered_and_completed_without_exit() {
    let mut bench = Bench::new();
    bench.post(0x51, false);
    bench.enter();
    assert_eq!(bench.cpu.deliver(), Some(0x51));
    bench.exit();
    assert_eq!(bench.lapic.highest_in_service(), Some(0x51));
    assert_eq!(bench.lapic.ppr(), 0x50);
    bench.enter();
    assert_eq!(bench.cpu.eoi(), None);
    bench.exit();
    assert!(bench.lapic.isr().is_empty());
    assert_eq!(bench.lapic.ppr(), 0);
}

#[test]
fn level_triggered_and_watched_vectors_exit_at_their_end() {
    let mut bench = Bench::new();
    bench.watched.insert(0x30);
    for (vector, level, exits) in [
        (0x30, false, true),
        (0x41, true, true),
        (0x52, false, false),
    ] {
        bench.post(vector, level);
        bench.enter();
        assert_eq!(bench.cpu.deliver(), Some(vector));
        assert_eq!(bench.cpu.eoi(), exits.then_some(vector));
        bench.exit();
        assert_eq!(bench.lapic.completed(vector).broadcast_to_ioapic, level);
    }
    // Edge triggered from now on.
    bench.post(0x41, false);
    bench.enter();
    assert_eq!(bench.cpu.deliver(), Some(0x41));
    assert_eq!(bench.cpu.eoi(), None);
}

#[test]
fn a_vector_watched_later_exits_too() {
    let mut bench = Bench::new();
    bench.post(0x30, false);
    bench.enter();
    assert_eq!(bench.cpu.deliver(), Some(0x30));
    bench.exit();
    bench.watched.insert(0x30);
    bench.enter();
    assert_eq!(bench.cpu.eoi(), Some(0x30));
}

#[test]
fn the_same_status_can_hide_a_change() {
    let mut bench = Bench::new();
    bench.post(0x60, false);
    bench.post(0x50, false);
    bench.enter();
    // Both are handled, and the guest sends itself the higher one again.
    assert_eq!(bench.cpu.deliver(), Some(0x60));
    assert_eq!(bench.cpu.eoi(), None);
    assert_eq!(bench.cpu.deliver(), Some(0x50));
    assert_eq!(bench.cpu.eoi(), None);
    bench.cpu.self_ipi(0x60);
    bench.exit();
    assert!(bench.lapic.irr().contains(0x60));
    assert!(!bench.lapic.irr().contains(0x50));
}

#[test]
fn a_priority_holds_a_request_back() {
    let mut bench = Bench::new();
    bench.enter();
    bench.cpu.set_register(regs::TPR, 0x57);
    bench.exit();
    assert_eq!(bench.lapic.tpr(), 0x57);
    bench.post(0x51, false);
    bench.enter();
    assert_eq!(bench.cpu.deliver(), None);
    bench.exit();
    assert_eq!(bench.lapic.pending_vector(), None);
    bench.write(regs::TPR, 0x20);
    bench.enter();
    assert_eq!(bench.cpu.deliver(), Some(0x51));
}

#[test]
fn what_software_does_is_noticed() {
    let mut bench = Bench::new();
    bench.enter();
    bench.exit();
    assert!(!bench.lapic.has_changed());
    bench.write(regs::LVT_TIMER, 0x40);
    assert!(!bench.lapic.has_changed(), "nothing that a processor keeps");
    bench.write(regs::TPR, 0x20);
    assert!(bench.lapic.has_changed());
    bench.enter();
    bench.write(regs::SVR, 0xff);
    assert!(bench.lapic.has_changed(), "it delivers nothing any more");
    bench.lapic.shown();
    let value = bench.lapic.apic_base() & !(base::X2APIC | base::ENABLE);
    let done = bench
        .lapic
        .set_apic_base(value, Initiator::Guest, &bench.post);
    assert_eq!(done, Ok(()));
    assert!(
        bench.lapic.has_changed(),
        "it is not in x2APIC mode any more"
    );
}

#[test]
fn random_traffic() {
    let mut bench = Bench::new();
    bench.watched.insert(0x33);
    let mut random = random();
    let mut delivered = 0;
    for _ in 0..20_000 {
        let vector = 16 + random(240) as u8;
        match random(4) {
            0 => bench.post(vector, random(2) == 0),
            1 => bench.write(regs::TPR, random(64) as u32),
            // Exits that software answers.
            2 => bench.write(regs::EOI, 0),
            _ => {}
        }
        bench.enter();
        for _ in 0..random(4) {
            match random(4) {
                0 => bench.cpu.self_ipi(vector),
                1 => bench.cpu.set_register(regs::TPR, random(64) as u32),
                2 if bench.cpu.status.0 >> 8 != 0 => {
                    let svi = (bench.cpu.status.0 >> 8) as u8;
                    let watched = bench.watched.contains(svi);
                    let exits = bench.lapic.tmr().contains(svi) || watched;
                    assert_eq!(bench.cpu.eoi(), exits.then_some(svi));
                }
                _ => delivered += u32::from(bench.cpu.deliver().is_some()),
            }
        }
        bench.exit();
    }
    assert!(delivered > 1000, "{delivered}");
}

#[test]
fn msrs_that_do_not_exit() {
    let reads: usize = READ.into_iter().map(Iterator::count).sum();
    assert_eq!(reads, 2 + 3 * 8);
    for (msr, read) in [
        (0x802, false),
        (0x808, true),
        (0x80a, true),
        (0x80b, false),
        (0x80f, false),
        (0x810, true),
        (0x827, true),
        (0x828, false),
        (0x830, false),
        (0x839, false),
    ] {
        assert_eq!(
            READ.iter().any(|range| range.contains(&msr)),
            read,
            "{msr:x}"
        );
    }
    assert_eq!(WRITTEN, [0x808, 0x80b, 0x83f]);
}
