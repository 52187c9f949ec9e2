// SPDX-License-Identifier: GPL-2.0-or-later

//! A CPU of the host goes and comes back between two runs of a guest there: what it had of the
//! guest is gone, and what it has of the host is new.

use std::arch::x86_64::__rdtscp;

use super::deadline::pin;
use ironvm_abi_tests::driver::{Driver, Eoi};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{code64, ensure, ensure_eq, skip, test, Failure, Outcome};

pub const TESTS: &[Test] = &[
    test!("hotplug", tsc_aux, 60),
    test!("hotplug", state_of_a_vcpu, 60),
];

const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
const MSR_TSC_AUX: u32 = 0xc000_0103;

/// Whether there is a CPU to take away.
fn expect_second_cpu() -> Outcome {
    if std::fs::OpenOptions::new()
        .write(true)
        .open(ONLINE)
        .is_err()
    {
        skip!("no second CPU that can be taken off line");
    }
    Ok(())
}

/// The second CPU comes back, and the thread is on it again.
fn renew_second_cpu() -> Outcome {
    for state in ["0", "1"] {
        std::fs::write(ONLINE, state)
            .map_err(|error| Failure::Failed(format!("{ONLINE}: {error}")))?;
    }
    pin(1)
}

/// TSC_AUX as threads of the host read it on this CPU.
fn host_tsc_aux() -> u32 {
    let mut aux = 0;
    // SAFETY: the processor has the instruction, for the guest is about to execute it; it writes
    // the variable alone.
    unsafe { __rdtscp(&mut aux) };
    aux
}

fn tsc_aux() -> Outcome {
    expect_second_cpu()?;
    let d = Driver::new(Eoi::Xapic)?;
    d.machine.load(CODE, code64!("rdtscp", "out 0x10, al"));
    pin(1)?;
    let host = host_tsc_aux();
    ensure_eq!(host & 0xfff, 1, "the host's TSC_AUX");
    for round in 0..4u32 {
        // Twice the same, then the host's own, too.
        let value = [0x1234, 0x1234, host, 0x5678][round as usize];
        d.vcpu.set_msr(MSR_TSC_AUX, u64::from(value))?;
        for when in ["before", "after"] {
            d.vcpu.change_regs(|r| r.rip = CODE)?;
            d.vcpu.run_to_done()?;
            let read = d.vcpu.regs()?.rcx;
            ensure_eq!(read, u64::from(value), "{when}, round {round}");
            ensure_eq!(host_tsc_aux(), host, "the host's {when}, round {round}");
            if when == "before" {
                renew_second_cpu()?;
            }
        }
    }
    Ok(())
}

/// Registers, what is translated, and an interrupt that waits.
fn state_of_a_vcpu() -> Outcome {
    expect_second_cpu()?;
    let d = Driver::new(Eoi::Xapic)?;
    d.machine.load(
        CODE,
        code64!(
            "2:",
            "inc rbx",
            "mov rax, [rsi]",
            "add rcx, rax",
            "mov fs, edi",
            "out 0x10, al",
            "jmp 2b"
        ),
    );
    pin(1)?;
    d.vcpu
        .change_regs(|r| (r.rip, r.rsi, r.rbx, r.rcx, r.rdi) = (CODE, DATA2, 0, 0, 0))?;
    let mut sum = 0;
    for round in 1..=6u64 {
        d.machine.write(DATA2, round << 8);
        sum += round << 8;
        d.vcpu.run_to_done()?;
        let r = d.vcpu.regs()?;
        ensure_eq!((r.rbx, r.rcx), (round, sum), "round {round}");
        match round % 3 {
            // Back on it at once.
            0 => renew_second_cpu()?,
            // On the other while it is gone, or not.
            1 => pin(0)?,
            _ => {
                std::fs::write(ONLINE, "0").map_err(|error| Failure::Failed(error.to_string()))?;
                d.vcpu.run_to_done()?;
                d.vcpu.change_regs(|r| (r.rbx, r.rcx) = (round, sum))?;
                std::fs::write(ONLINE, "1").map_err(|error| Failure::Failed(error.to_string()))?;
                pin(1)?;
            }
        }
    }
    let host = host_tsc_aux();
    ensure!(host & 0xfff == 1, "the host's TSC_AUX is {host:#x}");
    Ok(())
}
