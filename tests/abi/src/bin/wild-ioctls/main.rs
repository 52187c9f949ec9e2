// SPDX-License-Identifier: GPL-2.0-or-later

//! Every ioctl with arguments that nobody means, from several threads at once.
//!
//! Rounds run in child processes: a round makes a few VMs and lets its threads call whatever they
//! draw, run vCPUs on random code, change and unmap the memory below them, close descriptors that
//! others use, and fork. What counts is the host: nothing may hang, the kernel may not complain, and
//! afterwards an ordinary guest must still run. The seed is printed and can be given back.

mod actions;
mod arguments;
mod rng;
mod trace;
mod zoo;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ironvm_abi_tests::harness::kernel_log::KernelLog;
use ironvm_abi_tests::harness::{in_child, say, Report};
use ironvm_abi_tests::{code64, ensure_eq, guest, Exit, Failure, Outcome};

use zoo::Tally;

struct Options {
    seconds: u64,
    threads: usize,
    seed: u64,
    /// Each call is printed before it is made: for hosts that stop.
    trace: bool,
}

const USAGE: &str = "usage: wild-ioctls [--seconds S] [--threads N] [--seed X] [--trace]";

fn options() -> Result<Options, String> {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |d| d.as_nanos() as u64);
    let mut options = Options {
        seconds: 30,
        threads: 4,
        seed: nanos,
        trace: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--trace" {
            options.trace = true;
            continue;
        }
        let value = args.next().ok_or(USAGE)?;
        let digits = value.strip_prefix("0x");
        let number = match digits {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => value.parse(),
        };
        let number = number.map_err(|_| USAGE)?;
        match arg.as_str() {
            "--seconds" => options.seconds = number,
            "--threads" => options.threads = number.clamp(1, trace::THREADS as u64) as usize,
            "--seed" => options.seed = number,
            _ => return Err(USAGE.to_string()),
        }
    }
    Ok(options)
}

/// How long one round's threads work, and how long its end may take.
const ROUND: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(60);

struct Storm {
    rounds: u64,
    /// Rounds that a signal ended: a wild `munmap` hits the process itself now and then.
    killed: u64,
    hung: Vec<u64>,
    complaints: Vec<String>,
}

fn storm(options: &Options, tally: &Tally) -> Storm {
    let mut log = KernelLog::open();
    let mut storm = Storm {
        rounds: 0,
        killed: 0,
        hung: Vec::new(),
        complaints: Vec::new(),
    };
    let end = Instant::now() + Duration::from_secs(options.seconds);
    while Instant::now() < end {
        let round = storm.rounds;
        let seed = options.seed.wrapping_add(round);
        let left = end.saturating_duration_since(Instant::now());
        trace::forget();
        let outcome = in_child(LIMIT, || {
            zoo::round(seed, options.threads, left.min(ROUND), tally);
            Ok(())
        });
        storm.rounds += 1;
        match outcome {
            Err(Failure::Failed(why)) if why.starts_with("no end") => {
                say(format_args!("round of seed {seed:#x}: no end"));
                trace::show();
                storm.hung.push(seed);
            }
            Err(_) => storm.killed += 1,
            Ok(()) => {}
        }
        let mut lines = log.as_mut().map(KernelLog::complaints).unwrap_or_default();
        lines.retain(|line| !known_of_kvm(seed, line));
        if !lines.is_empty() {
            say(format_args!("round of seed {seed:#x}: {}", lines[0]));
            trace::show();
            storm.complaints.extend(lines);
        }
        if storm.hung.len() > 2 {
            break;
        }
    }
    storm
}

/// Warnings that Linux's own KVM gives, told by their place in its source, which no other module
/// has: `KVM_PRE_FAULT_MEMORY` warns (`WARN_ON_ONCE`) when a fault ends without a mapping.
fn known_of_kvm(seed: u64, line: &str) -> bool {
    let known = line.contains("virt/kvm/kvm_main.c:") && line.contains("kvm_vcpu_ioctl");
    if known {
        say(format_args!(
            "round of seed {seed:#x}, known of KVM: {line}"
        ));
    }
    known
}

fn nothing_hung(storm: &Storm) -> Outcome {
    if !storm.hung.is_empty() {
        return Err(Failure::Failed(format!(
            "no end with seeds {:x?}",
            storm.hung
        )));
    }
    Ok(())
}

fn log_is_clean(storm: &Storm) -> Outcome {
    match storm.complaints.first() {
        None => Ok(()),
        Some(line) => Err(Failure::Failed(format!(
            "{} lines, the first: {line}",
            storm.complaints.len()
        ))),
    }
}

/// The storm must have got somewhere: an ioctl that always fails at the door tests nothing.
fn reached(storm: &Storm, tally: &Tally) -> Outcome {
    use ironvm_abi_tests::ioctls::*;
    if storm.killed * 2 > storm.rounds {
        return Err(Failure::Failed(format!(
            "{} of {} rounds were killed",
            storm.killed, storm.rounds
        )));
    }
    let must = [
        KVM_RUN,
        KVM_CREATE_VM,
        KVM_CREATE_VCPU,
        KVM_SET_USER_MEMORY_REGION,
        KVM_SET_REGS,
        KVM_SET_SREGS,
        KVM_SET_MSRS,
        KVM_SET_CPUID2,
        KVM_SET_LAPIC,
        KVM_IRQ_LINE,
        KVM_IRQFD,
        KVM_IOEVENTFD,
        KVM_SET_GSI_ROUTING,
        KVM_GET_DIRTY_LOG,
    ];
    let missed: Vec<_> = must
        .iter()
        .filter(|call| tally.successes_of(call).is_some_and(|n| n == 0))
        .map(|call| call.0)
        .collect();
    if !missed.is_empty() {
        let list = missed.join(" ");
        return Err(Failure::Failed(format!("never succeeded: {list}")));
    }
    Ok(())
}

fn still_works() -> Outcome {
    in_child(Duration::from_secs(30), || {
        let code = code64!("mov eax, 1", "cpuid", "mov ebx, 0x1234", "hlt");
        let (_machine, vcpu) = guest::long_mode(code)?;
        ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
        ensure_eq!(vcpu.regs()?.rbx, 0x1234, "RBX");
        Ok(())
    })
}

fn main() {
    let options = match options() {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            std::process::exit(2);
        }
    };
    say(format_args!(
        "seed {:#x}, {} s, {} threads",
        options.seed, options.seconds, options.threads
    ));
    if let Err(e) = trace::begin(options.trace) {
        eprintln!("{e}");
        std::process::exit(2);
    }
    let tally = match Tally::new() {
        Ok(tally) => tally,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(2);
        }
    };
    let storm = storm(&options, &tally);
    say(format_args!(
        "{} rounds, {} ended by a signal, {} calls, {} of {} ioctls succeeded at least once",
        storm.rounds,
        storm.killed,
        tally.calls.load(Ordering::Relaxed),
        tally.reached(),
        tally.known(),
    ));
    let mut report = Report::new();
    report.note("wild-ioctls/nothing_hung", nothing_hung(&storm));
    report.note("wild-ioctls/kernel_log_is_clean", log_is_clean(&storm));
    report.note("wild-ioctls/got_somewhere", reached(&storm, &tally));
    report.note("wild-ioctls/guests_still_run", still_works());
    std::process::exit(report.finish());
}
