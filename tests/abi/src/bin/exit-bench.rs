// SPDX-License-Identifier: GPL-2.0-or-later

//! What an exit costs, in ticks of the guest's TSC, host side included.
//!
//! Run where the TSC counts instructions (QEMU `-icount shift=0,sleep=off`, Bochs with
//! `clock: sync=none`) the numbers are exact: a guest reads the TSC before and after 100 exits. The
//! least of nine runs counts, less what the loop itself takes. One line per kind of exit:
//! `name<TAB>count`. Arguments choose rows by a part of their name; `--all` adds some more rows.
//!
//! The first touch of a page is that of anonymous memory which the VMM has not touched either, so
//! the host's own fault, which clears the page, is in it.

use ironvm_abi_tests::guest::{Chips, Machine};
use ironvm_abi_tests::ioctls::KVM_RUN;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::Mapping;
use ironvm_abi_tests::{code64, Exit, Failure, Vcpu};
use kvm_bindings::*;
use std::os::fd::AsRawFd;

const EXITS: u64 = 100;
const RUNS: u64 = 9;
/// Where the memory lies whose first touch is measured; a slot of its own.
const FRESH: u64 = 0x1000_0000;
const PAGE: u64 = 4096;

/// A loop of 100 times the body, timed. RBX counts; the result is left in RAX. RSI, RDI, R8 and up
/// and RCX keep what the row put there as long as the body leaves them alone.
macro_rules! timed {
    ($($body:literal),* $(; $($name:ident = const $value:expr),*)?) => {
        code64!(
            "mov ebx, {exits}",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "mov rbp, rax",
            "2:",
            $($body,)*
            "dec ebx",
            "jnz 2b",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "sub rax, rbp",
            "out {done}, al",
            exits = const EXITS,
            done = const PORT_DONE,
            $($($name = const $value),*)?
        )
    };
}

/// A kind of exit.
struct Row {
    name: &'static str,
    chips: Chips,
    code: fn() -> &'static [u8],
    /// The same loop with an instruction that does not exit in place of the one that does.
    empty: fn() -> &'static [u8],
    prepare: fn(&Vcpu) -> Result<(), Failure>,
    /// Measured only when asked for: beside the table that the design states.
    extra: bool,
}

fn nothing(_: &Vcpu) -> Result<(), Failure> {
    Ok(())
}

/// The local APIC as after reset, in x2APIC mode: it is disabled by software, so what is sent to it
/// is dropped, and only the exit is counted. The figures of the design are made so.
fn x2apic(vcpu: &Vcpu) -> Result<(), Failure> {
    vcpu.set_msr(MSR_APIC_BASE, LAPIC | 1 << 11 | 1 << 10 | 1 << 8)
}

/// The local APIC enabled, with a priority that keeps every interrupt pending.
fn x2apic_masked(vcpu: &Vcpu) -> Result<(), Failure> {
    x2apic(vcpu)?;
    vcpu.set_msr(MSR_X2APIC + APIC_SVR / 16, 0x1ff)?;
    vcpu.change_sregs(|s| s.cr8 = 15)?;
    Ok(())
}

/// Which instruction makes a hypercall is the processor's choice.
fn hypercall() -> &'static [u8] {
    // SAFETY: every 64-bit processor has CPUID. (Newer compilers know that it is safe.)
    #[allow(unused_unsafe)]
    let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
    if vendor.ebx == u32::from_le_bytes(*b"Genu") {
        return timed!("mov eax, 1", "vmcall");
    }
    timed!("mov eax, 1", "vmmcall")
}

/// Loops with the registers as every row starts with them: see `start`.
const ROWS: &[Row] = &[
    Row {
        name: "cpuid",
        chips: Chips::None,
        code: || timed!("xor eax, eax", "cpuid", "mov ebx, r9d", "dec r9d"),
        empty: || timed!("xor eax, eax", "nop", "mov ebx, r9d", "dec r9d"),
        prepare: nothing,
        extra: false,
    },
    Row {
        name: "hypercall",
        chips: Chips::None,
        code: hypercall,
        empty: || timed!("mov eax, 1", "nop"),
        prepare: nothing,
        extra: false,
    },
    Row {
        name: "msr",
        chips: Chips::None,
        code: || timed!("mov ecx, {msr}", "rdmsr"; msr = const MSR_MISC_ENABLE),
        empty: || timed!("mov ecx, {msr}", "nop"; msr = const MSR_MISC_ENABLE),
        prepare: nothing,
        extra: false,
    },
    Row {
        name: "self-ipi",
        chips: Chips::Full,
        code: || timed!("mov ecx, 0x83f", "mov eax, 0x40", "xor edx, edx", "wrmsr"),
        empty: || timed!("mov ecx, 0x83f", "mov eax, 0x40", "xor edx, edx", "nop"),
        prepare: x2apic,
        extra: false,
    },
    Row {
        name: "pio-module",
        chips: Chips::Full,
        code: || timed!("in al, 0x21"),
        empty: || timed!("nop"),
        prepare: nothing,
        extra: false,
    },
    Row {
        name: "pio-user",
        chips: Chips::Full,
        code: || timed!("out 0x80, al"),
        empty: || timed!("nop"),
        prepare: nothing,
        extra: false,
    },
    Row {
        name: "mmio-user",
        chips: Chips::None,
        code: || timed!("mov [rsi], eax"),
        empty: || timed!("nop"),
        prepare: nothing,
        extra: false,
    },
    Row {
        name: "mmio-module",
        chips: Chips::Full,
        code: || timed!("mov eax, [rdi]"),
        empty: || timed!("nop"),
        prepare: nothing,
        extra: false,
    },
    Row {
        name: "page-fault",
        chips: Chips::Full,
        code: || timed!("mov byte ptr [r8], 1", "add r8, 4096"),
        empty: || timed!("nop", "add r8, 4096"),
        prepare: nothing,
        extra: false,
    },
    Row {
        name: "self-ipi-pending",
        chips: Chips::Full,
        code: || timed!("mov ecx, 0x83f", "mov eax, 0x40", "xor edx, edx", "wrmsr"),
        empty: || timed!("mov ecx, 0x83f", "mov eax, 0x40", "xor edx, edx", "nop"),
        prepare: x2apic_masked,
        extra: true,
    },
    Row {
        name: "cpuid-irqchip",
        chips: Chips::Full,
        code: || timed!("xor eax, eax", "cpuid", "mov ebx, r9d", "dec r9d"),
        empty: || timed!("xor eax, eax", "nop", "mov ebx, r9d", "dec r9d"),
        prepare: nothing,
        extra: true,
    },
    Row {
        name: "page-fault-populated",
        chips: Chips::None,
        code: || timed!("mov byte ptr [r8], 1", "add r8, 4096"),
        empty: || timed!("nop", "add r8, 4096"),
        prepare: nothing,
        extra: true,
    },
];

fn start(vcpu: &Vcpu, run: u64) -> Result<(), Failure> {
    vcpu.change_regs(|r| {
        r.rip = CODE;
        r.rsi = MMIO;
        r.rdi = LAPIC + u64::from(APIC_ID);
        r.r8 = FRESH + run * EXITS * PAGE;
        // CPUID overwrites the loop's counter, which is put back from here.
        r.r9 = EXITS;
    })?;
    Ok(())
}

/// Runs the guest to its end with as little as can be in between.
fn run_loop(vcpu: &Vcpu) -> Result<(), Failure> {
    let area: *const kvm_run = vcpu.run.at(0);
    let fd = vcpu.as_raw_fd();
    loop {
        // SAFETY: `KVM_RUN` takes no pointer.
        let r = unsafe { libc::ioctl(fd, KVM_RUN.1 as _, 0) };
        // SAFETY: the area is mapped and the vCPU is not running; the union is read by the field
        // that the reason names.
        let go_on = unsafe {
            match (*area).exit_reason {
                KVM_EXIT_IO => (*area).__bindgen_anon_1.io.port != PORT_DONE,
                KVM_EXIT_MMIO => true,
                _ => false,
            }
        };
        if r == 0 && go_on {
            continue;
        }
        return match Exit::read(&vcpu.run) {
            exit if r == 0 && exit.is_out(PORT_DONE) => Ok(()),
            exit => Err(vcpu.unexpected(&exit)),
        };
    }
}

/// The least of the runs of one loop.
fn least(row: &Row, code: &[u8]) -> Result<u64, Failure> {
    let machine = Machine::build(row.chips, MEMORY)?;
    let size = (RUNS * EXITS * PAGE) as usize;
    let fresh = Mapping::aligned(size.next_multiple_of(2 << 20), 2 << 20)?;
    fresh.advise(0, fresh.len(), libc::MADV_NOHUGEPAGE)?;
    if row.name == "page-fault-populated" {
        (0..fresh.len())
            .step_by(PAGE as usize)
            .for_each(|page| fresh.write(page, 1u8));
    }
    machine.vm.map(1, 0, FRESH, &fresh)?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, code)?;
    (row.prepare)(&vcpu)?;
    let mut best = u64::MAX;
    for run in 0..RUNS {
        start(&vcpu, run)?;
        run_loop(&vcpu)?;
        best = best.min(vcpu.regs()?.rax);
    }
    Ok(best)
}

fn measure(row: &Row) -> Result<u64, Failure> {
    let full = least(row, (row.code)())?;
    let empty = least(row, (row.empty)())?;
    Ok(full.saturating_sub(empty) / EXITS)
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    if chosen.iter().any(|a| a == "--list") {
        ROWS.iter().for_each(|r| println!("{}", r.name));
        return;
    }
    let all = chosen.iter().any(|a| a == "--all");
    let wanted = |row: &&Row| match chosen.is_empty() {
        true => !row.extra,
        false => all || chosen.iter().any(|c| row.name.contains(c.as_str())),
    };
    let mut failed = false;
    for row in ROWS.iter().filter(wanted) {
        match measure(row) {
            Ok(count) => println!("{}\t{count}", row.name),
            Err(Failure::Failed(why) | Failure::Skipped(why)) => {
                failed = true;
                println!("{}\tFAIL {why}", row.name);
            }
        }
    }
    std::process::exit(i32::from(failed));
}
