// SPDX-License-Identifier: GPL-2.0-or-later

//! Kills VMs at random moments and looks whether everything came back.
//!
//! Each is a process of its own with four vCPUs that touch memory, take timer interrupts and exit to
//! userspace. It is killed by SIGKILL after up to half a second, so at any point from its creation
//! on. Afterwards memory, files and the module's users must be what they were.

use std::time::Duration;

use ironvm_abi_tests::driver::set_lapic_register;
use ironvm_abi_tests::guest::{Chips, Machine, Paging};
use ironvm_abi_tests::harness::kernel_log::KernelLog;
use ironvm_abi_tests::harness::{wait, Report};
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::memory_info::{module_users, Usage};
use ironvm_abi_tests::sys::check;
use ironvm_abi_tests::{code64, ioctls::KVM_SET_MP_STATE, Failure, Outcome};
use kvm_bindings::{kvm_mp_state, KVM_MP_STATE_RUNNABLE};

const VCPUS: u32 = 4;
const SIZE: u64 = 64 << 20;
/// A tenth of one guest's memory is not allowed to be lost in all the rounds together.
const SLACK: Usage = Usage {
    used: 12 << 10,
    slab: 4 << 10,
    vmalloc: 1 << 10,
    tables: 256,
    files: 16,
};

/// The guest: writes every page of its memory, with a port access now and then. It counts between
/// two pages: a walk through both sets of tables for every fourth instruction is all that Bochs would
/// do, and the host's clock would hardly go on.
fn work() -> Outcome {
    let machine = Machine::build(Chips::Full, SIZE)?;
    let code = code64!(
        "sti",
        "3:",
        "mov rsi, {start}",
        "2:",
        "lock add [rsi], rbx",
        "mov ecx, 200",
        "4:",
        "dec ecx",
        "jnz 4b",
        "add rsi, 4096",
        "cmp rsi, {end}",
        "jb 2b",
        "out 0x80, al",
        "jmp 3b",
        start = const FREE + 0x10_0000,
        end = const SIZE,
    );
    machine.load(CODE, code);
    machine.load(
        CODE2,
        code64!(
            "push rax",
            "mov eax, 0xfee000b0",
            "mov dword ptr [rax], 0",
            "pop rax",
            "iretq"
        ),
    );
    let running = kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    };
    let mut vcpus = Vec::new();
    for id in 0..VCPUS {
        let vcpu = machine.vcpu(id)?;
        machine.start(&vcpu, Paging::Long, CODE)?;
        vcpu.set(KVM_SET_MP_STATE, &running)?;
        for (register, value) in [
            (APIC_SVR, 0x1ff),
            (APIC_LVT_LINT0, 0x1_0000),
            (APIC_TIMER_DIVIDE, 0xb),
            (APIC_LVT_TIMER, 0x2_0040),
            (APIC_TIMER_INITIAL, 3_000_000),
        ] {
            set_lapic_register(&vcpu, register, value)?;
        }
        vcpus.push(vcpu);
    }
    machine.set_handler(0x40, CODE2);
    std::thread::scope(|s| {
        let threads: Vec<_> = vcpus
            .iter()
            .map(|vcpu| {
                s.spawn(|| -> Outcome {
                    loop {
                        let exit = vcpu.run_on()?;
                        if !exit.is_out(0x80) {
                            return Err(vcpu.unexpected(&exit));
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap())
    })
}

/// Starts a guest's process and kills it after `delay`.
fn kill_one(delay: Duration) -> Outcome {
    // SAFETY: this process has one thread.
    let pid = check("fork", i64::from(unsafe { libc::fork() }))? as i32;
    if pid == 0 {
        // It only ends by itself when it failed.
        let outcome = work();
        eprintln!("{outcome:?}");
        // SAFETY: ends the child.
        unsafe { libc::_exit(1) };
    }
    std::thread::sleep(delay);
    // SAFETY: the child has not been waited for, so the number is its own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    match wait(pid, Duration::from_secs(30)) {
        Some(status) if libc::WIFSIGNALED(status) => Ok(()),
        Some(_) => Err(Failure::Failed("the guest failed by itself".to_string())),
        None => Err(Failure::Failed("the process does not end".to_string())),
    }
}

fn rounds(count: u64) -> Outcome {
    // A fixed series of delays that looks like chance.
    (0..count).try_for_each(|i| kill_one(Duration::from_millis(i * 7919 % 500)))
}

/// The modules that a VM holds: the vendor's part has a name of its own in Linux's KVM.
fn users() -> i64 {
    let names = ["kvm", "kvm_amd", "kvm_intel"];
    names.iter().filter_map(|n| module_users(n)).sum()
}

fn main() {
    let count = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(50);
    let mut report = Report::new();
    let mut log = KernelLog::open();
    report.note("lifecycle/warm_up", rounds(5));
    let (before, users_before) = (Usage::now(), users());
    report.note("lifecycle/killed_guests_end", rounds(count));
    report.note(
        "lifecycle/memory_and_files_are_back",
        Usage::check_back(&before, &SLACK),
    );
    report.note(
        "lifecycle/module_users_are_back",
        match users() {
            n if n == users_before => Ok(()),
            n => Err(Failure::Failed(format!("{users_before} before, {n} after"))),
        },
    );
    let complaints = log.as_mut().map(KernelLog::complaints).unwrap_or_default();
    report.note(
        "lifecycle/kernel_log_is_clean",
        match complaints.first() {
            None => Ok(()),
            Some(line) => Err(Failure::Failed(line.clone())),
        },
    );
    std::process::exit(report.finish());
}
