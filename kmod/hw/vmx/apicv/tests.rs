// SPDX-License-Identifier: GPL-2.0

//! Tests of the local APIC in the processor: a processor that completes
//! interrupts as chapter 30 has it is played here.

use super::*;
use crate::pc::lapic::regs::{base, svr};
use crate::pc::lapic::{Clock, Config, Context, Initiator, Posted};
use core::cell::RefCell;

struct NoTime;

impl Clock for NoTime {
    fn now_ns(&self) -> u64 {
        0
    }

    fn guest_tsc(&self) -> u64 {
        0
    }
}

/// The page and the field, and a processor that works on them.
struct Cpu {
    page: RefCell<[u32; 64]>,
    status: InterruptStatus,
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

    /// 30.1.4.
    fn eoi(&mut self) {
        let [_, svi] = self.status.0.to_le_bytes();
        let mut has = self.set(regs::ISR);
        let mut isr = has;
        isr.remove(svi);
        write_set(self, regs::ISR, &mut has, &isr);
        self.status = InterruptStatus::of(&isr);
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
        assert!(!lapic.may_be_kept(|| VectorSet::EMPTY), "xAPIC mode");
        let value = lapic.apic_base() | base::X2APIC;
        assert_eq!(lapic.set_apic_base(value, Initiator::Guest, &post), Ok(()));
        let mut bench = Self {
            lapic,
            post,
            mirror: Mirror::default(),
            cpu: Cpu {
                page: RefCell::new([0; 64]),
                status: InterruptStatus::default(),
            },
            watched: VectorSet::EMPTY,
        };
        bench.write(regs::SVR, svr::ENABLE | 0xff);
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

    /// What an entry delivers, if anything.
    fn deliver(&mut self) {
        if let Some(vector) = self.lapic.pending_vector() {
            self.lapic.ack(vector);
        }
    }

    fn may_be_kept(&self) -> bool {
        self.lapic.may_be_kept(|| self.watched)
    }

    fn enter(&mut self) {
        assert!(self.may_be_kept());
        if let Some(status) = self.mirror.show(&self.lapic, &self.cpu) {
            self.cpu.status = status;
        }
        assert_eq!(self.cpu.set(regs::IRR), VectorSet::EMPTY);
        assert_eq!(self.cpu.set(regs::ISR), *self.lapic.isr());
        assert_eq!(self.cpu.set(regs::TMR), *self.lapic.tmr());
        assert_eq!(self.cpu.register(regs::TPR), u32::from(self.lapic.tpr()));
        assert_eq!(self.cpu.status, InterruptStatus::of(self.lapic.isr()));
    }

    fn exit(&mut self) {
        let status = self.cpu.status;
        self.mirror
            .take(&mut self.lapic, &self.cpu, status, &self.post);
        assert_eq!(self.cpu.set(regs::ISR), *self.lapic.isr());
        assert_eq!(self.cpu.register(regs::TPR), u32::from(self.lapic.tpr()));
    }
}

#[test]
fn status_is_the_highest_in_service() {
    let mut isr = VectorSet::EMPTY;
    assert_eq!(InterruptStatus::of(&isr).0, 0);
    isr.insert(0x31);
    isr.insert(0xef);
    assert_eq!(InterruptStatus::of(&isr).0, 0xef00);
}

#[test]
fn the_status_is_written_only_when_it_changes() {
    let mut bench = Bench::new();
    assert_eq!(bench.mirror.show(&bench.lapic, &bench.cpu), None);
    bench.post(0x51, false);
    bench.deliver();
    let shown = bench.mirror.show(&bench.lapic, &bench.cpu);
    assert_eq!(shown, Some(InterruptStatus(0x5100)));
    assert_eq!(bench.mirror.show(&bench.lapic, &bench.cpu), None);
}

#[test]
fn nested_interrupts_are_completed_without_exit() {
    let mut bench = Bench::new();
    for vector in [0x51, 0x71, 0xe1] {
        bench.post(vector, false);
        bench.deliver();
        bench.enter();
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
fn a_request_that_waits_sees_the_end() {
    let mut bench = Bench::new();
    bench.post(0x51, false);
    assert!(!bench.may_be_kept(), "not delivered yet");
    bench.deliver();
    assert!(bench.may_be_kept());
    bench.post(0x41, false);
    assert!(!bench.may_be_kept(), "behind the one in service");
    bench.write(regs::EOI, 0);
    bench.deliver();
    assert!(bench.may_be_kept());
}

#[test]
fn level_triggered_and_watched_vectors_see_their_end() {
    let mut bench = Bench::new();
    bench.watched.insert(0x30);
    for (vector, level, kept) in [
        (0x30, false, false),
        (0x41, true, false),
        (0x52, false, true),
    ] {
        bench.post(vector, level);
        bench.deliver();
        assert_eq!(bench.may_be_kept(), kept, "{vector:x}");
        bench.write(regs::EOI, 0);
        assert!(bench.may_be_kept(), "nothing is in service");
    }
    // Edge triggered from now on; another below it is not.
    bench.post(0x30, false);
    bench.deliver();
    bench.post(0x41, false);
    bench.deliver();
    assert!(!bench.may_be_kept());
    bench.watched.remove(0x30);
    assert!(bench.may_be_kept());
}

#[test]
fn a_task_priority_of_the_guest_is_taken_whole() {
    let mut bench = Bench::new();
    bench.enter();
    bench.cpu.set_register(regs::TPR, 0x57);
    bench.exit();
    assert_eq!(bench.lapic.tpr(), 0x57);
    assert_eq!(bench.post.snapshot().priority(), 0x57);
    bench.post(0x51, false);
    assert_eq!(bench.lapic.pending_vector(), None);
    assert!(!bench.may_be_kept(), "a lower priority is to be noticed");
    bench.write(regs::TPR, 0x20);
    bench.deliver();
    bench.enter();
}

#[test]
fn an_init_leaves_nothing() {
    let mut bench = Bench::new();
    bench.post(0x60, false);
    bench.deliver();
    bench.enter();
    bench.exit();
    let _ = bench.lapic.init(&bench.post);
    bench.enter();
    assert_eq!(bench.cpu.status, InterruptStatus(0));
}

#[test]
fn random_traffic() {
    let mut bench = Bench::new();
    bench.watched.insert(0x33);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut kept = 0;
    for _ in 0..20_000 {
        match random(5) {
            0 => bench.post(16 + random(240) as u8, random(8) == 0),
            1 => bench.write(regs::TPR, random(64) as u32),
            // Exits that software answers.
            2 | 3 => bench.write(regs::EOI, 0),
            _ => {}
        }
        bench.deliver();
        if !bench.may_be_kept() {
            continue;
        }
        kept += 1;
        let before = *bench.lapic.isr();
        bench.enter();
        let mut completed = 0;
        for _ in 0..random(3) {
            if random(2) == 0 {
                bench.cpu.set_register(regs::TPR, random(64) as u32);
            } else {
                completed += 1;
                bench.cpu.eoi();
            }
        }
        bench.exit();
        let left = before.len().saturating_sub(completed);
        assert_eq!(bench.lapic.isr().len(), left);
    }
    assert!(kept > 1000, "{kept}");
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
    assert_eq!(WRITTEN, [0x808, 0x80b]);
}
