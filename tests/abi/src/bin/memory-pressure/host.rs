// SPDX-License-Identifier: GPL-2.0-or-later

//! What the host does to the memory, one test each.

use std::time::Duration;

use ironvm_abi_tests::guest::long_mode;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::{check, Mapping};
use ironvm_abi_tests::{code64, ensure, ensure_eq, skip, Failure, Outcome};
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;

use crate::swap;
use crate::writers::{Faults, Pattern, Writers, AT};

const SIZE: usize = 64 << 20;
const HUGE: usize = 2 << 20;
const TIME: Duration = Duration::from_secs(6);
/// `MADV_COLLAPSE`, which not every libc knows.
const MADV_COLLAPSE: i32 = 25;

fn writers(pattern: Pattern, faults: Faults) -> Result<Writers, Failure> {
    Ok(Writers::new(
        Mapping::aligned(SIZE, HUGE)?,
        pattern,
        faults,
    )?)
}

/// A range that moves with each turn, and whose size does too.
fn range(turn: u64) -> (usize, usize) {
    let mut x = turn.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    let length = 4096 << (x % 12);
    let pages = (SIZE - length) / 4096;
    let first = (x >> 16) as usize % (pages + 1);
    (first * 4096, length)
}

fn huge_range(turn: u64) -> (usize, usize) {
    let count = SIZE / HUGE;
    (turn as usize * 7 % count * HUGE, HUGE)
}

pub fn undisturbed() -> Outcome {
    let w = writers(Pattern::Unique, Faults::Fail)?;
    w.work(TIME, |_| {
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    })
}

/// Without swap only pages that are clean go; the unmapping is the same.
pub fn page_out() -> Outcome {
    let w = writers(Pattern::Unique, Faults::Fail)?;
    w.work(TIME, |turn| {
        let (at, length) = range(turn);
        Ok(w.memory.advise(at, length, libc::MADV_PAGEOUT)?)
    })
}

pub fn page_out_with_swap() -> Outcome {
    let _swap = swap::on()?;
    let w = writers(Pattern::Unique, Faults::Fail)?;
    let before = vmstat("pswpin");
    w.work(TIME, |turn| {
        let (at, length) = range(turn);
        w.memory.advise(at, length, libc::MADV_PAGEOUT)?;
        Ok(w.memory.advise(at, length.min(8 * 4096), libc::MADV_COLD)?)
    })?;
    ensure!(vmstat("pswpin") > before, "nothing was swapped in");
    Ok(())
}

fn vmstat(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// A huge page is split by a protection of its own for one small page within it.
pub fn huge_pages_come_and_go() -> Outcome {
    let w = writers(Pattern::Unique, Faults::Fail)?;
    w.memory.advise(0, SIZE, libc::MADV_HUGEPAGE)?;
    let before = vmstat("thp_split_pmd");
    w.work(TIME, |turn| {
        let (at, length) = huge_range(turn);
        let page = at + (turn as usize * 13 % 512) * 4096;
        w.memory.advise(page, 4096, libc::MADV_NOHUGEPAGE)?;
        w.memory.advise(page, 4096, libc::MADV_HUGEPAGE)?;
        w.memory.advise(page, 4096, libc::MADV_PAGEOUT)?;
        // Collapsing may fail for many reasons, all of them the kernel's own affair.
        let _ = w.memory.advise(at, length, MADV_COLLAPSE);
        Ok(())
    })?;
    if vmstat("thp_fault_alloc") == 0 {
        skip!("the host has no huge pages");
    }
    ensure!(vmstat("thp_split_pmd") > before, "no huge page was split");
    Ok(())
}

pub fn collapse() -> Outcome {
    let w = writers(Pattern::Unique, Faults::Fail)?;
    w.memory.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
    w.work(Duration::from_secs(2), |_| {
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    })?;
    w.memory.advise(0, SIZE, libc::MADV_HUGEPAGE)?;
    let mut collapsed = 0u32;
    w.work(TIME, |turn| {
        let (at, length) = huge_range(turn);
        collapsed += u32::from(w.memory.advise(at, length, MADV_COLLAPSE).is_ok());
        Ok(())
    })?;
    if collapsed == 0 {
        skip!("MADV_COLLAPSE never succeeded");
    }
    Ok(())
}

pub fn compaction_and_migration() -> Outcome {
    let w = writers(Pattern::Unique, Faults::Fail)?;
    w.memory.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
    let before = vmstat("pgmigrate_success");
    w.work(TIME, |turn| {
        // Holes for the compactor: memory taken and given back page by page.
        let holes = Mapping::anonymous(32 << 20)?;
        (0..holes.len())
            .step_by(4096)
            .for_each(|at| holes.write(at, 1u8));
        (0..holes.len())
            .step_by(8192)
            .try_for_each(|at| holes.advise(at, 4096, libc::MADV_DONTNEED))?;
        if std::fs::write("/proc/sys/vm/compact_memory", "1").is_err() && turn == 0 {
            skip!("compaction cannot be asked for");
        }
        Ok(())
    })?;
    if vmstat("pgmigrate_success") == before {
        skip!("the host migrated nothing");
    }
    Ok(())
}

/// Switches KSM on, and back to what it was.
struct Ksm(String);

impl Ksm {
    fn on() -> Result<Self, Failure> {
        let run = "/sys/kernel/mm/ksm/run";
        let Ok(was) = std::fs::read_to_string(run) else {
            skip!("no KSM");
        };
        let set = |name: &str, value: &str| {
            std::fs::write(format!("/sys/kernel/mm/ksm/{name}"), value).is_ok()
        };
        // With a CPU of its own it must leave the guest time between two of its looks at a page,
        // or the guest does nothing but take its own copies.
        set("pages_to_scan", "400");
        set("sleep_millisecs", "20");
        if !set("run", "1") {
            skip!("KSM cannot be switched on");
        }
        Ok(Ksm(was))
    }

    fn count(name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/sys/kernel/mm/ksm/{name}"));
        text.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Ksm {
    fn drop(&mut self) {
        // Nobody is left to tell if it fails.
        let _ = std::fs::write("/sys/kernel/mm/ksm/run", self.0.trim());
    }
}

/// Pages alike are merged while the guest writes them, and it must get its own copy each time.
pub fn merged_by_ksm() -> Outcome {
    let _ksm = Ksm::on()?;
    let w = writers(Pattern::SamePages, Faults::Fail)?;
    w.memory.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
    w.memory.advise(0, SIZE, libc::MADV_MERGEABLE)?;
    let merged = Ksm::count("pages_sharing").max(1);
    let mut most = 0;
    w.work(TIME, |_| {
        // The guest rests now and then, so that pages stay the same for long enough.
        std::thread::sleep(Duration::from_millis(50));
        most = most.max(Ksm::count("pages_sharing"));
        Ok(())
    })?;
    // At rest everything becomes one page; then it is all written again.
    let scans = Ksm::count("full_scans");
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while Ksm::count("full_scans") < scans + 3 && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    most = most.max(Ksm::count("pages_sharing"));
    ensure!(most > merged, "KSM merged nothing");
    w.work(TIME, |_| {
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    })
}

/// A sum over all the memory.
fn sum(memory: &Mapping) -> u64 {
    let words = (0..memory.len()).step_by(8);
    words.fold(0, |sum: u64, at| {
        sum.rotate_left(1) ^ memory.read::<u64>(at)
    })
}

/// The child's memory is a copy: what the guest writes after the fork must not appear in it.
pub fn copied_on_write_by_fork() -> Outcome {
    let w = writers(Pattern::Unique, Faults::Fail)?;
    w.work(TIME, |_| {
        // SAFETY: the child reads memory and ends by `_exit`; it takes no locks.
        let pid = check("fork", i64::from(unsafe { libc::fork() }))? as i32;
        if pid == 0 {
            let first = sum(&w.memory);
            std::thread::sleep(Duration::from_millis(300));
            let same = first == sum(&w.memory);
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!same)) };
        }
        let mut status = 0;
        // SAFETY: `status` is writable.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        ensure_eq!(
            status,
            0,
            "the guest's writes reached a child's copy: status"
        );
        Ok(())
    })
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn forbidden(prot: i32) -> Outcome {
    let w = writers(Pattern::Unique, Faults::Retry)?;
    w.work(TIME, |turn| {
        let (at, length) = range(turn);
        w.memory.protect(at, length, prot)?;
        if prot == libc::PROT_READ {
            // While it is read-only nothing in it may change.
            let first: Vec<u64> = (0..length)
                .step_by(512)
                .map(|o| w.memory.read(at + o))
                .collect();
            std::thread::sleep(Duration::from_millis(5));
            let again = (0..length).step_by(512).map(|o| w.memory.read(at + o));
            ensure!(first.into_iter().eq(again), "read-only memory changed");
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(w.memory.protect(at, length, READ_WRITE)?)
    })?;
    let retried = w.retried.load(std::sync::atomic::Ordering::Relaxed);
    ensure!(retried > 0, "no access of the guest failed");
    Ok(())
}

pub fn write_protected_for_a_while() -> Outcome {
    forbidden(libc::PROT_READ)
}

pub fn unreadable_for_a_while() -> Outcome {
    forbidden(libc::PROT_NONE)
}

/// The mapping goes elsewhere and comes back. Nothing may be written to the old place meanwhile.
pub fn moved_and_moved_back() -> Outcome {
    let w = writers(Pattern::Unique, Faults::Retry)?;
    let place = Mapping::new(
        SIZE,
        libc::PROT_NONE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        -1,
        0,
    )?;
    let relocate = |from: *mut u8, to: *mut u8, length: usize| {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both ranges belong to mappings of this test; what is lost at `to` is nothing, and
        // `from` is mapped again before it is used.
        let r = unsafe { libc::mremap(from.cast(), length, length, flags, to) };
        check("mremap", if r == libc::MAP_FAILED { -1 } else { 0 })
    };
    w.work(TIME, |turn| {
        let (at, length) = range(turn);
        let (home, away) = (w.memory.at::<u8>(at), place.at::<u8>(at));
        relocate(home, away, length)?;
        let first: Vec<u64> = (0..length)
            .step_by(512)
            .map(|o| place.read(at + o))
            .collect();
        std::thread::sleep(Duration::from_millis(5));
        let again = (0..length).step_by(512).map(|o| place.read(at + o));
        ensure!(
            first.into_iter().eq(again),
            "memory that moved away changed"
        );
        relocate(away, home, length)?;
        Ok(())
    })
}

pub fn dirty_log_on_and_off() -> Outcome {
    let w = writers(Pattern::Unique, Faults::Fail)?;
    w.memory.advise(0, SIZE, libc::MADV_HUGEPAGE)?;
    w.work(TIME, |turn| {
        let flags = if turn % 2 == 0 {
            KVM_MEM_LOG_DIRTY_PAGES
        } else {
            0
        };
        w.machine.vm.map(1, flags, AT, &w.memory)?;
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(10));
            if flags != 0 {
                w.machine.vm.dirty_log(1, SIZE / 4096)?;
            }
        }
        Ok(())
    })
}

/// The log of what the guest writes while the slot comes and goes: without it, an access is MMIO,
/// which this guest does not expect, so the vCPUs rest meanwhile.
pub fn slot_deleted_and_made() -> Outcome {
    let w = writers(Pattern::Unique, Faults::Fail)?;
    for _ in 0..5 {
        w.work(Duration::from_millis(500), |_| {
            std::thread::sleep(Duration::from_millis(10));
            Ok(())
        })?;
        w.machine.vm.set_memory(1, 0, AT, 0, 0)?;
        w.machine.vm.map(1, 0, AT, &w.memory)?;
    }
    Ok(())
}

const PAGES: usize = 1024;

/// Writes a mark to every page, or adds up what is in them into a table; the host looks.
fn dropped(memory: Mapping, advice: i32) -> Outcome {
    let code = code64!(
        "mov rdi, rsi",
        "mov rcx, {pages}",
        "2:",
        "mov [rdi], rbx",
        "add rdi, 4096",
        "dec rcx",
        "jnz 2b",
        "out 0x10, al",
        "mov rdi, rsi",
        "mov rcx, {pages}",
        "3:",
        "mov rax, [rdi]",
        "mov [rdx], rax",
        "add rdx, 8",
        "add rdi, 4096",
        "dec rcx",
        "jnz 3b",
        "out 0x10, al",
        pages = const PAGES,
    );
    let (machine, vcpu) = long_mode(code)?;
    machine.vm.map(1, 0, AT, &memory)?;
    let table = FREE;
    for round in 1..=60u64 {
        vcpu.change_regs(|r| {
            (r.rip, r.rsi) = (CODE, AT);
            (r.rbx, r.rdx) = (round, table);
        })?;
        vcpu.run_to_done()?;
        let gone = |page: usize| (page as u64 * 2654435761 + round * 40503) >> 7 & 3 == 0;
        for page in (0..PAGES).filter(|p| gone(*p)) {
            memory.advise(page * 4096, 4096, advice)?;
        }
        vcpu.run_to_done()?;
        for page in 0..PAGES {
            let got: u64 = machine.read(table + 8 * page as u64);
            let want = if gone(page) { 0 } else { round };
            ensure_eq!(got, want, "page {page} in round {round}");
        }
    }
    Ok(())
}

pub fn dropped_pages_read_zero() -> Outcome {
    let memory = Mapping::aligned(PAGES * 4096, HUGE)?;
    memory.advise(0, PAGES * 4096, libc::MADV_HUGEPAGE)?;
    dropped(memory, libc::MADV_DONTNEED)
}

/// Shared memory, dropped from the file itself.
pub fn dropped_file_pages() -> Outcome {
    use std::os::fd::AsRawFd;
    // SAFETY: a constant name that ends in a zero byte.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    let fd = ironvm_abi_tests::sys::own_fd(check("memfd_create", i64::from(fd))? as i32);
    // SAFETY: a system call on plain numbers.
    let r = unsafe { libc::ftruncate(fd.as_raw_fd(), (PAGES * 4096) as i64) };
    check("ftruncate", i64::from(r))?;
    let memory = Mapping::new(
        PAGES * 4096,
        READ_WRITE,
        libc::MAP_SHARED,
        fd.as_raw_fd(),
        0,
    )?;
    dropped(memory, libc::MADV_REMOVE)
}

/// Memory given back and taken anew while the guest is on other pages of it, with the zero page.
pub fn balloon_on_fresh_memory() -> Outcome {
    let code = code64!(
        "2:",
        "mov rax, [rsi]",
        "add rax, 1",
        "mov [rsi], rax",
        "out 0x10, al",
        "jmp 2b"
    );
    let (machine, vcpu) = long_mode(code)?;
    let memory = Mapping::anonymous(PAGES * 4096)?;
    machine.vm.map(1, 0, AT, &memory)?;
    for turn in 0..3000u64 {
        let page = turn * 7 % PAGES as u64;
        vcpu.change_regs(|r| (r.rip, r.rsi) = (CODE, AT + page * 4096))?;
        vcpu.run_to_done()?;
        ensure_eq!(vcpu.regs()?.rax, 1, "count of page {page} in turn {turn}");
        memory.advise(page as usize * 4096, 4096, libc::MADV_DONTNEED)?;
    }
    Ok(())
}
