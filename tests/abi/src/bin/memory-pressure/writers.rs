// SPDX-License-Identifier: GPL-2.0-or-later

//! The guest, and the threads that run it.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ironvm_abi_tests::guest::{Chips, Machine, Paging};
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::{Mapping, SysResult};
use ironvm_abi_tests::{code64, signals, Failure, Outcome, Vcpu};

/// Where the memory lies in the guest.
pub const AT: u64 = 0x1000_0000;
/// Bytes between two words that are checked.
const STEP: u64 = 32;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// The guest says by this port that a word was wrong.
const PORT_WRONG: u16 = 0x13;
/// Rounds that each vCPU must have finished under a test.
const ROUNDS: u64 = 3;

/// How alike pages are.
#[derive(Clone, Copy, PartialEq)]
pub enum Pattern {
    /// Every word of the memory differs.
    Unique,
    /// All pages are the same within a round.
    SamePages,
}

/// What becomes of an access that fails with `EFAULT`.
#[derive(Clone, Copy, PartialEq)]
pub enum Faults {
    /// It fails the test.
    Fail,
    /// It is tried again.
    Retry,
}

/// A guest at work.
pub struct Writers {
    pub machine: Machine,
    pub memory: Mapping,
    vcpus: Vec<Vcpu>,
    faults: Faults,
    stop: AtomicBool,
    /// Accesses that failed and were tried again.
    pub retried: AtomicU64,
}

impl Writers {
    /// A guest with two vCPUs on `memory`.
    pub fn new(memory: Mapping, pattern: Pattern, faults: Faults) -> SysResult<Self> {
        let machine = Machine::build(Chips::None, MEMORY)?;
        machine.vm.map(1, 0, AT, &memory)?;
        machine.load(CODE, guest());
        let half = memory.len() as u64 / 2;
        let mask = match pattern {
            Pattern::Unique => !0,
            Pattern::SamePages => 0xfff,
        };
        let mut vcpus = Vec::new();
        for id in 0..2u64 {
            let vcpu = machine.vcpu(id as u32)?;
            machine.start(&vcpu, Paging::Long, CODE)?;
            vcpu.change_regs(|r| {
                r.r8 = AT + id * half;
                r.r9 = AT + (id + 1) * half;
                (r.r11, r.r12) = (FACTOR, mask);
                r.r13 = DATA + 8 * id;
            })?;
            vcpus.push(vcpu);
        }
        Ok(Self {
            machine,
            memory,
            vcpus,
            faults,
            stop: AtomicBool::new(false),
            retried: AtomicU64::new(0),
        })
    }

    /// Rounds that the slower vCPU has finished.
    pub fn rounds(&self) -> u64 {
        let of = |id: u64| self.machine.read::<u64>(DATA + 8 * id);
        of(0).min(of(1))
    }

    fn run(&self, vcpu: &Vcpu) -> Outcome {
        while !self.stop.load(Ordering::Relaxed) {
            match vcpu.run() {
                Err(e) if e.number == libc::EINTR || e.number == libc::EAGAIN => {}
                Err(e) if e.number == libc::EFAULT && self.faults == Faults::Retry => {
                    self.retried.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                }
                Err(e) => return Err(e.into()),
                Ok(exit) if exit.is_out(PORT_WRONG) => return Err(wrong(vcpu)?),
                Ok(exit) => return Err(vcpu.unexpected(&exit)),
            }
        }
        Ok(())
    }

    /// Lets the guest work while `disturb` is called again and again, for at least `time` and until
    /// each vCPU has been over all its memory several times.
    pub fn work(&self, time: Duration, mut disturb: impl FnMut(u64) -> Outcome) -> Outcome {
        signals::catch(signals::KICK)?;
        let ids: Vec<AtomicI32> = self.vcpus.iter().map(|_| AtomicI32::new(0)).collect();
        let first = self.rounds();
        std::thread::scope(|s| {
            let mut threads = Vec::new();
            for (vcpu, id) in self.vcpus.iter().zip(&ids) {
                threads.push(s.spawn(move || {
                    id.store(signals::thread_id(), Ordering::Relaxed);
                    let outcome = self.run(vcpu);
                    id.store(-1, Ordering::Relaxed);
                    outcome
                }));
            }
            let ended = || ids.iter().any(|id| id.load(Ordering::Relaxed) == -1);
            let end = Instant::now() + time;
            let mut outcome = Ok(());
            let mut turn = 0;
            while outcome.is_ok()
                && !ended()
                && (Instant::now() < end || self.rounds() < first + ROUNDS)
            {
                outcome = disturb(turn);
                turn += 1;
            }
            self.stop.store(true, Ordering::Relaxed);
            while ids.iter().any(|id| id.load(Ordering::Relaxed) != -1) {
                ids.iter()
                    .map(|id| id.load(Ordering::Relaxed))
                    .filter(|id| *id > 0)
                    .for_each(|id| signals::send(id, signals::KICK));
                std::thread::sleep(Duration::from_millis(2));
            }
            self.stop.store(false, Ordering::Relaxed);
            for thread in threads {
                thread.join().unwrap()?;
            }
            outcome
        })
    }
}

fn wrong(vcpu: &Vcpu) -> SysResult<Failure> {
    let r = vcpu.regs()?;
    Ok(Failure::Failed(format!(
        "word at {:#x} in round {} is {:#x}, not {:#x}",
        r.rsi, r.r10, r.rax, r.rbx
    )))
}

/// R8 to R9: the memory. R10: the round, from 0. R11: a factor. R12: which bits of an address count.
/// R13: where the count of rounds goes. A word of round n is (address & R12 + n) * R11; in round 0
/// the memory is only written.
fn guest() -> &'static [u8] {
    code64!(
        "3:",
        "mov rsi, r8",
        "2:",
        "mov rax, [rsi]",
        "mov rbx, rsi",
        "and rbx, r12",
        "add rbx, r10",
        "imul rbx, r11",
        "test r10, r10",
        "jz 4f",
        "cmp rax, rbx",
        "je 4f",
        "out {wrong}, al",
        "4:",
        "add rbx, r11",
        "mov [rsi], rbx",
        "add rsi, {step}",
        "cmp rsi, r9",
        "jb 2b",
        "inc r10",
        "mov [r13], r10",
        "jmp 3b",
        wrong = const PORT_WRONG,
        step = const STEP,
    )
}
