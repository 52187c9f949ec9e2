// SPDX-License-Identifier: GPL-2.0-or-later

//! When the local APIC's timer goes off: by the guest's own TSC, while it runs, exits, sleeps or
//! is not there at all (SDM volume 3, 12.5.4).

use std::collections::BTreeSet;
use std::time::Duration;

use ironvm_abi_tests::driver::{msi_address, Driver, Eoi};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::ioctl;
use ironvm_abi_tests::{code64, ensure, ensure_eq, fail, skip, test, Failure, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("deadline", while_the_guest_spins),
    test!("deadline", while_the_guest_exits),
    test!("deadline", in_x2apic_mode),
    test!("deadline", while_userspace_has_the_vcpu),
    test!("deadline", while_the_guest_halts),
    test!("deadline", while_interrupts_are_off),
    test!("deadline", one_shot_while_the_guest_spins),
    test!("deadline", only_the_last_one_counts),
    test!("deadline", masked),
    test!("deadline", change_of_mode_disarms),
    test!("deadline", tsc_written_by_the_guest),
    test!("deadline", tsc_written_by_userspace),
    test!("deadline", moves_to_another_vcpu),
    test!("deadline", beside_single_steps),
    test!("deadline", on_another_cpu),
    test!("deadline", at_another_rate),
    test!("deadline", rate_changed_while_armed),
    test!("deadline", host_timers),
];

const TIMER: u8 = 0x90;

/// The handler of `TIMER`: notes the TSC in `WHEN` and counts in `COUNT`.
const WHEN: u64 = DATA2;
const COUNT: u64 = DATA2 + 8;
/// A guest that waits gives up once this is not zero.
const STOP: u64 = DATA2 + 16;
/// `SPIN` has armed its deadline.
const ARMED: u64 = DATA2 + 24;

/// Arms the deadline `rbx` ticks from now, which it leaves in `r8`, and waits for it. It leaves
/// with interrupts off.
const SPIN: u64 = FREE;
/// The same with an exit in each turn of the loop.
const EXIT: u64 = FREE + 0x100;
/// The same with HLT.
const SLEEP: u64 = FREE + 0x200;
/// Lets interrupts in, and waits for one.
const WAIT: u64 = FREE + 0x300;
const HANDLER: u64 = FREE + 0x400;

/// A guest with a TSC deadline, and its rate in kHz.
struct Clocked {
    d: Driver,
    khz: u64,
}

impl Clocked {
    fn new() -> Result<Self, Failure> {
        let d = Driver::new(Eoi::Xapic)?;
        let mut cpuid = d.machine.cpuid.clone();
        match cpuid.leaf_mut(1, 0) {
            // The bit may be set whenever the capability is there.
            Some(leaf) if d.machine.kvm.has(KVM_CAP_TSC_DEADLINE_TIMER) => leaf.ecx |= 1 << 24,
            _ => skip!("no KVM_CAP_TSC_DEADLINE_TIMER"),
        }
        cpuid.set_apic_id(0);
        cpuid.set(&d.vcpu)?;
        d.apic(APIC_LVT_TIMER, 0x4_0000 | u32::from(TIMER))?;
        let khz = ioctl(&d.vcpu, KVM_GET_TSC_KHZ, 0)? as u64;
        load(&d);
        Ok(Self { d, khz })
    }

    fn microseconds(&self, us: u64) -> u64 {
        us * self.khz / 1000
    }

    fn count(&self) -> u64 {
        self.d.machine.read(COUNT)
    }

    /// Runs `routine` to its end, with a deadline `ticks` ahead.
    fn run(&self, routine: u64, ticks: u64) -> Outcome {
        self.d.vcpu.change_regs(|r| {
            (r.rip, r.rbx) = (routine, ticks);
            (r.rsp, r.rflags) = (STACKS + STACK_SIZE - 16, RFLAGS_FIXED);
        })?;
        self.d.vcpu.run_to_done()
    }

    /// Fails unless interrupt number `count` has come, and not before `deadline`.
    fn expect(&self, count: u64, deadline: u64) -> Outcome {
        ensure_eq!(self.count(), count, "interrupts");
        let when: u64 = self.d.machine.read(WHEN);
        ensure!(
            when >= deadline,
            "{} ticks before the deadline {deadline}",
            deadline - when
        );
        // On a loaded machine the guest may have to wait for a CPU.
        let late = when - deadline;
        ensure!(
            late < 2_000 * self.khz,
            "{late} ticks behind the deadline {deadline}"
        );
        Ok(())
    }

    /// Deadlines from nothing to 20 ms.
    fn each_distance(&self, routine: u64) -> Outcome {
        for (n, us) in (1..).zip([0, 1, 10, 100, 500, 1_000, 1_999, 2_001, 5_000, 20_000]) {
            self.run(routine, self.microseconds(us))?;
            self.expect(n, self.d.vcpu.regs()?.r8)?;
        }
        ensure_eq!(self.d.rdmsr(MSR_TSC_DEADLINE)?, 0, "deadline after it");
        Ok(())
    }
}

fn load(d: &Driver) {
    let m = &d.machine;
    m.load(
        SPIN,
        code64!(
            "mov r9, [{count}]",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "add rax, rbx",
            "mov r8, rax",
            "mov rdx, rax",
            "shr rdx, 32",
            "mov ecx, 0x6e0",
            "wrmsr",
            "mov qword ptr [{armed}], 1",
            "sti",
            "2:",
            "cmp qword ptr [{stop}], 0",
            "jne 3f",
            "cmp r9, [{count}]",
            "je 2b",
            "3:",
            "cli",
            "out 0x10, al",
            count = const COUNT,
            stop = const STOP,
            armed = const ARMED
        ),
    );
    m.load(
        EXIT,
        code64!(
            "mov r9, [{count}]",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "add rax, rbx",
            "mov r8, rax",
            "mov rdx, rax",
            "shr rdx, 32",
            "mov ecx, 0x6e0",
            "wrmsr",
            "sti",
            "2:",
            "xor eax, eax",
            "cpuid",
            "cmp r9, [{count}]",
            "je 2b",
            "cli",
            "out 0x10, al",
            count = const COUNT
        ),
    );
    m.load(
        SLEEP,
        code64!(
            "mov r9, [{count}]",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "add rax, rbx",
            "mov r8, rax",
            "mov rdx, rax",
            "shr rdx, 32",
            "mov ecx, 0x6e0",
            "wrmsr",
            "2:",
            "cmp r9, [{count}]",
            "jne 3f",
            "sti",
            "hlt",
            "cli",
            "jmp 2b",
            "3:",
            "out 0x10, al",
            count = const COUNT
        ),
    );
    m.load(
        WAIT,
        code64!(
            "mov r9, [{count}]",
            "sti",
            "2:",
            "cmp r9, [{count}]",
            "je 2b",
            "cli",
            "out 0x10, al",
            count = const COUNT
        ),
    );
    m.load(
        HANDLER,
        code64!(
            "push rax",
            "push rdx",
            "rdtsc",
            "mov [{when}], eax",
            "mov [{when} + 4], edx",
            "inc qword ptr [{count}]",
            "mov eax, 0xfee000b0",
            "mov dword ptr [rax], 0",
            "pop rdx",
            "pop rax",
            "iretq",
            when = const WHEN,
            count = const COUNT
        ),
    );
    m.set_handler(TIMER, HANDLER);
}

fn while_the_guest_spins() -> Outcome {
    Clocked::new()?.each_distance(SPIN)
}

fn while_the_guest_exits() -> Outcome {
    Clocked::new()?.each_distance(EXIT)
}

fn while_the_guest_halts() -> Outcome {
    Clocked::new()?.each_distance(SLEEP)
}

/// Where processors keep local APICs, they deliver the timer's interrupt as well.
fn in_x2apic_mode() -> Outcome {
    let c = Clocked::new()?;
    c.d.wrmsr(MSR_APIC_BASE, LAPIC | 1 << 11 | 1 << 10 | 1 << 8)?;
    c.d.machine.load(
        HANDLER,
        code64!(
            "push rax",
            "push rcx",
            "push rdx",
            "rdtsc",
            "mov [{when}], eax",
            "mov [{when} + 4], edx",
            "inc qword ptr [{count}]",
            "mov ecx, 0x80b",
            "xor eax, eax",
            "xor edx, edx",
            "wrmsr",
            "pop rdx",
            "pop rcx",
            "pop rax",
            "iretq",
            when = const WHEN,
            count = const COUNT
        ),
    );
    let mut count = 0;
    for us in [0, 1, 10, 100, 1_000, 5_000] {
        for routine in [SPIN, EXIT, SLEEP] {
            c.run(routine, c.microseconds(us))?;
            count += 1;
            c.expect(count, c.d.vcpu.regs()?.r8)?;
        }
    }
    Ok(())
}

/// Passes while the vCPU is not in KVM_RUN: it is there when the guest goes on.
fn while_userspace_has_the_vcpu() -> Outcome {
    let c = Clocked::new()?;
    for (n, routine) in (1..).zip([WAIT, WAIT, SLEEP]) {
        let deadline = c.d.tsc()? + c.microseconds(500);
        c.d.wrmsr(MSR_TSC_DEADLINE, deadline)?;
        std::thread::sleep(Duration::from_millis(2));
        ensure_eq!(c.count(), n - 1, "interrupts without a run");
        if routine == SLEEP {
            c.d.vcpu.change_regs(|r| r.rsp = STACKS + STACK_SIZE - 16)?;
            c.d.machine
                .load(CODE, code64!("sti", "hlt", "cli", "out 0x10, al"));
            c.run(CODE, 0)?;
        } else {
            c.run(routine, 0)?;
        }
        c.expect(n, deadline)?;
    }
    Ok(())
}

/// The guest looks at its TSC, with interrupts off, until the deadline has long passed.
fn while_interrupts_are_off() -> Outcome {
    let c = Clocked::new()?;
    c.d.machine.load(
        CODE,
        code64!(
            "2:",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "cmp rax, rbx",
            "jb 2b",
            "mov rdi, [{count}]",
            "sti",
            // It should be there by now, but the host may have been late to notice.
            "3:",
            "cmp rdi, [{count}]",
            "je 3b",
            "cli",
            "out 0x10, al",
            count = const COUNT
        ),
    );
    for (n, us) in (1..).zip([0, 300, 3_000]) {
        let deadline = c.d.tsc()? + c.microseconds(us);
        c.d.wrmsr(MSR_TSC_DEADLINE, deadline)?;
        c.run(CODE, deadline + c.microseconds(5_000))?;
        ensure_eq!(c.d.vcpu.regs()?.rdi, n - 1, "interrupts before STI");
        c.expect(n, deadline)?;
    }
    Ok(())
}

/// The timer that counts down, at 1 GHz.
fn one_shot_while_the_guest_spins() -> Outcome {
    let c = Clocked::new()?;
    c.d.apic(APIC_LVT_TIMER, TIMER.into())?;
    c.d.apic(APIC_TIMER_DIVIDE, 0xb)?;
    for (n, us) in (1..).zip([10, 1_000, 3_000, 50_000]) {
        let start = c.d.tsc()?;
        c.d.apic(APIC_TIMER_INITIAL, us as u32 * 1_000)?;
        c.run(WAIT, 0)?;
        // The host may slow its clock down to be in step with others, and knows the rate of the TSC
        // as well as it has measured it.
        let ticks = c.microseconds(us);
        c.expect(n, start + ticks - ticks / 500)?;
        ensure_eq!(c.d.read_apic(APIC_TIMER_CURRENT)?, 0, "current count");
    }
    Ok(())
}

/// A deadline replaces the one before it; 0 is none.
fn only_the_last_one_counts() -> Outcome {
    let c = Clocked::new()?;
    let now = c.d.tsc()?;
    c.d.wrmsr(MSR_TSC_DEADLINE, now + 1_000 * c.khz)?;
    c.d.wrmsr(MSR_TSC_DEADLINE, 0)?;
    ensure_eq!(c.d.rdmsr(MSR_TSC_DEADLINE)?, 0, "deadline disarmed");
    c.d.wrmsr(MSR_TSC_DEADLINE, now + 1_000 * c.khz)?;
    let deadline = now + 1_050 * c.khz;
    c.d.wrmsr(MSR_TSC_DEADLINE, deadline)?;
    ensure_eq!(c.d.rdmsr(MSR_TSC_DEADLINE)?, deadline, "deadline");
    c.run(WAIT, 0)?;
    c.expect(1, deadline)?;
    // And one that is nearer.
    let now = c.d.tsc()?;
    c.d.wrmsr(MSR_TSC_DEADLINE, now + 3_600_000 * c.khz)?;
    c.run(SPIN, c.microseconds(1_000))?;
    c.expect(2, c.d.vcpu.regs()?.r8)
}

/// It passes without an interrupt.
fn masked() -> Outcome {
    let c = Clocked::new()?;
    c.d.apic(APIC_LVT_TIMER, 0x5_0000 | u32::from(TIMER))?;
    c.d.wrmsr(MSR_TSC_DEADLINE, c.d.tsc()? + c.microseconds(100))?;
    std::thread::sleep(Duration::from_millis(5));
    c.d.breathe()?;
    ensure_eq!(c.count(), 0, "interrupts");
    // The next one is not.
    c.d.apic(APIC_LVT_TIMER, 0x4_0000 | u32::from(TIMER))?;
    c.run(SPIN, c.microseconds(100))?;
    ensure!(c.count() > 0, "no interrupt when it is not masked");
    Ok(())
}

fn change_of_mode_disarms() -> Outcome {
    let c = Clocked::new()?;
    c.d.wrmsr(MSR_TSC_DEADLINE, c.d.tsc()? + 1_000 * c.khz)?;
    c.d.apic(APIC_LVT_TIMER, TIMER.into())?;
    c.d.apic(APIC_LVT_TIMER, 0x4_0000 | u32::from(TIMER))?;
    ensure_eq!(c.d.rdmsr(MSR_TSC_DEADLINE)?, 0, "deadline");
    std::thread::sleep(Duration::from_millis(1_050));
    c.d.breathe()?;
    ensure_eq!(c.count(), 0, "interrupts");
    Ok(())
}

/// An hour ahead, until the TSC is written.
fn tsc_written_by_the_guest() -> Outcome {
    let c = Clocked::new()?;
    let deadline = c.d.tsc()? + 3_600_000 * c.khz;
    c.d.machine.load(
        CODE,
        code64!(
            "mov ecx, 0x6e0",
            "mov eax, ebx",
            "mov rdx, rbx",
            "shr rdx, 32",
            "wrmsr",
            "mov ecx, 0x10",
            "wrmsr",
            "sti",
            "2:",
            "cmp qword ptr [{count}], 0",
            "je 2b",
            "cli",
            "out 0x10, al",
            count = const COUNT
        ),
    );
    c.run(CODE, deadline)?;
    c.expect(1, deadline)
}

fn tsc_written_by_userspace() -> Outcome {
    let c = Clocked::new()?;
    let deadline = c.d.tsc()? + 3_600_000 * c.khz;
    c.d.wrmsr(MSR_TSC_DEADLINE, deadline)?;
    // Farther from the value before than what is taken for the same moment of one clock.
    c.d.vcpu.set_msr(MSR_TSC, deadline)?;
    c.run(WAIT, 0)?;
    c.expect(1, deadline)
}

/// As a VMM takes it along.
fn moves_to_another_vcpu() -> Outcome {
    let c = Clocked::new()?;
    let deadline = c.d.tsc()? + FAR_MS * c.khz;
    c.d.wrmsr(MSR_TSC_DEADLINE, deadline)?;
    let state: kvm_lapic_state = c.d.vcpu.get(KVM_GET_LAPIC)?;
    ensure_eq!(c.d.vcpu.msr(MSR_TSC_DEADLINE)?, deadline, "deadline saved");
    let other = Clocked::new()?;
    // Much later.
    let tsc = deadline - c.microseconds(5_000);
    other.d.vcpu.set_msr(MSR_TSC, tsc)?;
    other.d.vcpu.set(KVM_SET_LAPIC, &state)?;
    other.d.vcpu.set_msr(MSR_TSC_DEADLINE, deadline)?;
    other.run(WAIT, 0)?;
    other.expect(1, deadline)
}

/// Each step is an exit, and most of the time the guest is not there.
fn beside_single_steps() -> Outcome {
    let c = Clocked::new()?;
    let d = &c.d;
    if !d.machine.kvm.has(KVM_CAP_SET_GUEST_DEBUG) {
        skip!("no KVM_CAP_SET_GUEST_DEBUG");
    }
    let deadline = d.tsc()? + c.microseconds(1_000);
    d.wrmsr(MSR_TSC_DEADLINE, deadline)?;
    let step = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
        ..Default::default()
    };
    d.vcpu.set(KVM_SET_GUEST_DEBUG, &step)?;
    d.vcpu
        .change_regs(|r| (r.rip, r.rsp) = (WAIT, STACKS + STACK_SIZE - 16))?;
    let mut steps = 0;
    loop {
        match d.vcpu.run_on()? {
            ironvm_abi_tests::Exit::Debug { .. } => steps += 1,
            exit if exit.is_out(PORT_DONE) => break,
            exit => return Err(d.vcpu.unexpected(&exit)),
        }
        ensure!(steps < 10_000_000, "no interrupt in {steps} steps");
    }
    c.expect(1, deadline)
}

/// The guest's TSC is not as fast as the host's.
fn at_another_rate() -> Outcome {
    let mut c = Clocked::new()?;
    if !c.d.machine.kvm.has(KVM_CAP_TSC_CONTROL) {
        skip!("no KVM_CAP_TSC_CONTROL");
    }
    let host = c.khz;
    let mut count = 0;
    for (n, khz) in (1..).zip([host / 7, host - host / 1_000, host * 3, host * 17 + 1]) {
        ioctl(&c.d.vcpu, KVM_SET_TSC_KHZ, khz)?;
        // Until it is written it may be anything, also near its end.
        c.d.vcpu.set_msr(MSR_TSC, n << 48)?;
        c.khz = khz;
        for (routine, us) in [(SPIN, 700), (SLEEP, 700), (EXIT, 3_500), (SPIN, 3_500)] {
            let ticks = c.microseconds(us);
            c.run(routine, ticks)?;
            count += 1;
            c.expect(count, c.d.vcpu.regs()?.r8)?;
        }
    }
    Ok(())
}

/// A day ahead at one rate, and less than a second at another.
fn rate_changed_while_armed() -> Outcome {
    let mut c = Clocked::new()?;
    if !c.d.machine.kvm.has(KVM_CAP_TSC_CONTROL) {
        skip!("no KVM_CAP_TSC_CONTROL");
    }
    let slow = c.khz / 1_000;
    let start = 1 << 48;
    ioctl(&c.d.vcpu, KVM_SET_TSC_KHZ, slow)?;
    c.d.vcpu.set_msr(MSR_TSC, start)?;
    let deadline = start + 86_400_000 * slow;
    c.d.wrmsr(MSR_TSC_DEADLINE, deadline)?;
    c.khz = (c.khz * 10_000).min(0x7fff_fffe);
    ioctl(&c.d.vcpu, KVM_SET_TSC_KHZ, c.khz)?;
    // The change itself has moved the TSC.
    c.d.vcpu.set_msr(MSR_TSC, start + 1)?;
    c.run(WAIT, 0)?;
    c.expect(1, deadline)
}

/// Armed on one CPU of the host, due on another.
fn on_another_cpu() -> Outcome {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        skip!("one CPU");
    }
    let c = Clocked::new()?;
    for n in 1..=20 {
        pin(n as usize % 2)?;
        let deadline = c.d.tsc()? + c.microseconds(1_000);
        c.d.wrmsr(MSR_TSC_DEADLINE, deadline)?;
        pin((n as usize + 1) % 2)?;
        c.run(WAIT, 0)?;
        c.expect(n, deadline)?;
    }
    Ok(())
}

/// Keeps this thread on one CPU.
pub fn pin(cpu: usize) -> Outcome {
    // SAFETY: the set is plain data, and lives as long as the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set)
    };
    ensure_eq!(result, 0, "sched_setaffinity");
    Ok(())
}

/// How many timers of the host the module has armed.
///
/// The kernel goes through its timers by their place in the queue: while others come and go, one can
/// be listed twice or be left out. So they are told by their address, and looked for three times.
fn timers_of_the_module() -> Result<usize, Failure> {
    let mut found = BTreeSet::new();
    for _ in 0..3 {
        let Ok(list) = std::fs::read_to_string("/proc/timer_list") else {
            skip!("no /proc/timer_list");
        };
        let ours = |line: &&str| line.starts_with(" #") && line.contains("[kvm");
        let address = |line: &str| line.split(['<', '>']).nth(1).map(str::to_string);
        found.extend(list.lines().filter(ours).filter_map(address));
    }
    Ok(found.len())
}

/// Whether the processor's own timer is said to end the guest's runs.
fn has_preemption_timer() -> bool {
    ["kvm_intel", "kvm"].iter().any(|module| {
        std::fs::read_to_string(format!("/sys/module/{module}/parameters/preemption_timer"))
            .is_ok_and(|value| value.starts_with('Y'))
    })
}

/// As far ahead as a test can be sure that it does not come, and not too far for the processor's
/// timer: that has 32 bits.
const FAR_MS: u64 = 20_000;

/// Runs `routine`, with a deadline that is far away, while `watch` looks on; `end` makes the guest
/// end it. What `watch` gives.
fn while_it_runs(
    c: &Clocked,
    routine: u64,
    watch: impl FnOnce() -> Result<usize, Failure> + Send,
    end: fn(&Clocked),
) -> Result<usize, Failure> {
    let found = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let found = watch();
            end(c);
            found
        });
        let ran = c.run(routine, FAR_MS * c.khz);
        let found = watcher.join();
        ran.map(|()| found)
    })?;
    let Ok(found) = found else {
        fail!("the watcher panicked");
    };
    found
}

/// A guest that runs needs none where the processor has a timer that ends its run; one that sleeps
/// needs one.
fn host_timers() -> Outcome {
    let c = Clocked::new()?;
    let none = timers_of_the_module()?;
    let running = none + usize::from(!has_preemption_timer());
    let stop = |c: &Clocked| c.d.machine.write(STOP, 1u64);
    let wake = |c: &Clocked| {
        // Nothing can be told from here; without the interrupt the test has no end.
        let _ = c.d.machine.vm.signal_msi(msi_address(0), 0x61);
    };
    let when_armed = || {
        while c.d.machine.read::<u64>(ARMED) == 0 {
            std::thread::yield_now();
        }
        timers_of_the_module()
    };
    // There is no telling when a guest sleeps but by this.
    let when_there = || loop {
        let found = timers_of_the_module()?;
        if found > none {
            return Ok(found);
        }
        std::thread::yield_now();
    };
    let found = while_it_runs(&c, SPIN, when_armed, stop)?;
    ensure_eq!(found, running, "timers while it runs");
    c.d.machine
        .load(CODE, code64!("sti", "hlt", "cli", "out 0x10, al"));
    c.d.wrmsr(MSR_TSC_DEADLINE, 0)?;
    ensure_eq!(timers_of_the_module()?, none, "timers before");
    let far = c.d.tsc()? + FAR_MS * c.khz;
    c.d.wrmsr(MSR_TSC_DEADLINE, far)?;
    ensure_eq!(timers_of_the_module()?, running, "timers when armed");
    let found = while_it_runs(&c, CODE, when_there, wake)?;
    ensure_eq!(found, none + 1, "timers while it sleeps");
    ensure_eq!(timers_of_the_module()?, running, "timers when awake");
    c.d.wrmsr(MSR_TSC_DEADLINE, 0)?;
    ensure_eq!(timers_of_the_module()?, none, "timers when disarmed");
    ensure_eq!(c.count(), 0, "interrupts");
    Ok(())
}
