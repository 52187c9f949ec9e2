// SPDX-License-Identifier: GPL-2.0-or-later

//! What the host's thread has of the processor is as it was after runs of a guest.

use std::arch::asm;
use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use ironvm_abi_tests::guest::long_mode;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{code64, ensure, ensure_eq, skip, test, Failure, Machine, Outcome, Vcpu};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("host", watchpoint),
    test!("host", selectors),
    test!("host", local_descriptor_table),
    test!("host", xcr0),
];

/// A guest that leaves for userspace again and again.
fn machine() -> Result<(Machine, Vcpu), Failure> {
    Ok(long_mode(code64!("2:", "out 0x10, al", "jmp 2b"))?)
}

/// What `perf_event_open` takes, as far as breakpoints need it (`PERF_ATTR_SIZE_VER1`).
#[repr(C)]
#[derive(Default)]
struct PerfEvent {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    bp_type: u32,
    bp_addr: u64,
    bp_len: u64,
}

/// Counts this thread's writes to `watched` by a breakpoint of the host.
fn count_writes(watched: &'static AtomicU64) -> Result<File, Failure> {
    const TYPE_BREAKPOINT: u32 = 5;
    const WRITES: u32 = 2;
    // In user mode alone.
    const EXCLUDE_KERNEL_AND_HYPERVISOR: u64 = 1 << 5 | 1 << 6;
    let event = PerfEvent {
        kind: TYPE_BREAKPOINT,
        size: size_of::<PerfEvent>() as u32,
        flags: EXCLUDE_KERNEL_AND_HYPERVISOR,
        bp_type: WRITES,
        bp_addr: watched.as_ptr() as u64,
        bp_len: size_of::<u64>() as u64,
        ..Default::default()
    };
    // SAFETY: the kernel reads the structure, whose size is in it.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &event, 0, -1, -1, 0) };
    if fd < 0 {
        skip!("no breakpoints: {}", std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

/// Its breakpoints are in force, whether the guest has any or not.
fn watchpoint() -> Outcome {
    static WATCHED: AtomicU64 = AtomicU64::new(0);
    let (_machine, vcpu) = machine()?;
    let mut counter = count_writes(&WATCHED)?;
    let mut written = 0;
    let mut expect_counted = |when: &str| -> Outcome {
        WATCHED.fetch_add(1, Ordering::SeqCst);
        written += 1;
        let mut counted = [0; size_of::<u64>()];
        counter
            .read_exact(&mut counted)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        ensure_eq!(
            u64::from_ne_bytes(counted),
            written,
            "writes counted {when}"
        );
        Ok(())
    };
    expect_counted("before the guest runs")?;
    vcpu.run_to_done()?;
    expect_counted("after it has run")?;
    let mut debug: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    // Writes of eight bytes, in the place that the host has taken, too.
    (debug.db[0], debug.dr7) = (DATA, 0x401 | 0b1001 << 16);
    vcpu.set(KVM_SET_DEBUGREGS, &debug)?;
    for _ in 0..2 {
        vcpu.run_to_done()?;
        expect_counted("after it has run with a watchpoint of its own")?;
    }
    Ok(())
}

/// DS, ES and GS of this thread. FS leads to the storage of the thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Selectors {
    ds: u16,
    es: u16,
    gs: u16,
}

impl Selectors {
    fn read() -> Self {
        let (ds, es, gs): (u16, u16, u16);
        // SAFETY: reading them changes nothing.
        unsafe {
            asm!(
                "mov {ds:x}, ds",
                "mov {es:x}, es",
                "mov {gs:x}, gs",
                ds = out(reg) ds,
                es = out(reg) es,
                gs = out(reg) gs,
                options(nostack, nomem, preserves_flags),
            );
        }
        Self { ds, es, gs }
    }

    /// Loads them: selectors of data in one of the thread's tables, or null.
    fn load(self) {
        // SAFETY: 64-bit code goes by none of them but GS, and nothing here does by that.
        unsafe {
            asm!(
                "mov ds, {ds:x}",
                "mov es, {es:x}",
                "mov gs, {gs:x}",
                ds = in(reg) self.ds,
                es = in(reg) self.es,
                gs = in(reg) self.gs,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Data of user mode, flat, in the GDT of Linux.
const USER_DATA: u16 = 0x2b;
const NULL: Selectors = Selectors {
    ds: 0,
    es: 0,
    gs: 0,
};

/// Segment registers, as threads of 32-bit programs have them.
fn selectors() -> Outcome {
    let (_machine, vcpu) = machine()?;
    for loaded in [
        NULL,
        Selectors {
            es: USER_DATA,
            ..NULL
        },
        Selectors {
            ds: USER_DATA,
            es: USER_DATA,
            gs: USER_DATA,
        },
        NULL,
    ] {
        loaded.load();
        let ran = vcpu.run_to_done();
        let after = Selectors::read();
        NULL.load();
        ran?;
        ensure_eq!(after, loaded, "segment registers after a run");
    }
    Ok(())
}

/// A segment of the thread's LDT.
fn local_descriptor_table() -> Outcome {
    /// What `modify_ldt` takes.
    #[repr(C)]
    struct Descriptor {
        entry: u32,
        base: u32,
        limit: u32,
        flags: u32,
    }
    const WRITE: i32 = 0x11;
    const FIRST_OF_LDT: u16 = 7;
    // 32-bit data, its limit in pages, usable.
    const FLAGS: u32 = 1 | 1 << 4 | 1 << 6;
    // SAFETY: a mapping of its own, below 4 GiB, where a base can lead.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            0x1000,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
            -1,
            0,
        )
    };
    ensure!(page != libc::MAP_FAILED, "no page below 4 GiB");
    let descriptor = Descriptor {
        entry: 0,
        base: page as u32,
        limit: 0xf_ffff,
        flags: FLAGS,
    };
    let size = size_of::<Descriptor>();
    // SAFETY: the kernel reads the structure, and has the entry lead to the page.
    let result = unsafe { libc::syscall(libc::SYS_modify_ldt, WRITE, &descriptor, size) };
    if result != 0 {
        skip!("no LDT: {}", std::io::Error::last_os_error());
    }
    let (_machine, vcpu) = machine()?;
    let loaded = Selectors {
        gs: FIRST_OF_LDT,
        ..NULL
    };
    for round in 1..=3u64 {
        // SAFETY: the mapping is there, and nobody else uses it.
        unsafe { page.cast::<u64>().write_volatile(round) };
        loaded.load();
        let ran = vcpu.run_to_done();
        let found: u64;
        // SAFETY: GS leads to the page, if it is as it was loaded.
        unsafe { asm!("mov {}, gs:[0]", out(reg) found, options(nostack, readonly)) };
        let after = Selectors::read();
        NULL.load();
        ran?;
        ensure_eq!((after, found), (loaded, round), "GS, what it leads to");
        // With GS null the LDT itself has to stay.
        vcpu.run_to_done()?;
    }
    Ok(())
}

/// XCR0 of the host, as user mode reads it.
fn host_xcr0() -> u64 {
    // SAFETY: a guest has XSAVE only if the host has it enabled.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

/// The guest has what userspace or it has set, whoever sets CR4.OSXSAVE, and before or after.
fn xcr0() -> Outcome {
    let code = code64!(
        "2:",
        "mov rax, cr4",
        "or eax, {osxsave}",
        "mov cr4, rax",
        "xor ecx, ecx",
        "xgetbv",
        "mov ebx, eax",
        "mov eax, 1",
        "xsetbv",
        "xgetbv",
        "mov ebp, eax",
        "mov rax, cr4",
        "xor eax, {osxsave}",
        "mov cr4, rax",
        "out 0x10, al",
        "jmp 2b",
        osxsave = const CR4_OSXSAVE,
    );
    let (machine, vcpu) = long_mode(code)?;
    if machine.cpuid.leaf(1, 0).map_or(0, |l| l.ecx) & 1 << 26 == 0 {
        skip!("no XSAVE");
    }
    let host = host_xcr0();
    let mut xcrs: kvm_xcrs = vcpu.get(KVM_GET_XCRS)?;
    for (value, enabled) in [(1, false), (3, false), (3, true), (1, true), (3, false)] {
        xcrs.xcrs[0].value = value;
        vcpu.set(KVM_SET_XCRS, &xcrs)?;
        if enabled {
            vcpu.change_sregs(|s| s.cr4 |= CR4_OSXSAVE)?;
        }
        vcpu.run_to_done()?;
        let r = vcpu.regs()?;
        ensure_eq!(
            (r.rbx, r.rbp),
            (value, 1),
            "XCR0 that was set, and the guest's own"
        );
        let left: kvm_xcrs = vcpu.get(KVM_GET_XCRS)?;
        ensure_eq!(left.xcrs[0].value, 1, "XCR0 that the guest has left");
        ensure_eq!(host_xcr0(), host, "XCR0 of the host");
    }
    Ok(())
}
