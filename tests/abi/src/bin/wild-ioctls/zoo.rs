// SPDX-License-Identifier: GPL-2.0-or-later

//! The descriptors and memory that a round's threads share, and the round itself.

use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ironvm_abi_tests::fds::{eventfd, Kvm, Vm};
use ironvm_abi_tests::ioctls::{self, *};
use ironvm_abi_tests::signals;
use ironvm_abi_tests::sys::{Mapping, SysResult};
use kvm_bindings::*;

use crate::actions;
use crate::rng::Rng;
use crate::trace;

/// Kinds of descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    System,
    Vm,
    Vcpu,
    Device,
}

/// The ioctls of a kind.
pub fn ioctls_of(kind: Kind) -> &'static [Ioctl] {
    match kind {
        Kind::System => ioctls::SYSTEM,
        Kind::Vm => ioctls::VM,
        Kind::Vcpu => ioctls::VCPU,
        Kind::Device => ioctls::DEVICE,
    }
}

const KINDS: [Kind; 4] = [Kind::System, Kind::Vm, Kind::Vcpu, Kind::Device];

/// Counts that outlive a round's process, in shared memory.
pub struct Tally {
    memory: Mapping,
    /// All calls.
    pub calls: &'static AtomicU64,
}

impl Tally {
    /// Makes room for a count of each ioctl.
    pub fn new() -> SysResult<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let memory = Mapping::new(4096, prot, flags, -1, 0)?;
        // SAFETY: the mapping is zeroed, aligned, and lives as long as the process: `Tally` is
        // made once, by `main`, which ends by `exit`.
        let calls = unsafe { &*memory.at::<AtomicU64>(0) };
        Ok(Self { memory, calls })
    }

    fn index(call: &Ioctl) -> Option<usize> {
        let all = KINDS.iter().flat_map(|k| ioctls_of(*k));
        all.clone().position(|c| c == call)
    }

    fn slot(&self, index: usize) -> &AtomicU64 {
        // SAFETY: in bounds by `at`; atomics need no more than alignment.
        unsafe { &*self.memory.at::<AtomicU64>(8 + 8 * index) }
    }

    /// Counts a call.
    pub fn note(&self, call: &Ioctl, succeeded: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let (true, Some(index)) = (succeeded, Self::index(call)) {
            self.slot(index).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often an ioctl succeeded.
    pub fn successes_of(&self, call: &Ioctl) -> Option<u64> {
        Self::index(call).map(|i| self.slot(i).load(Ordering::Relaxed))
    }

    /// How many ioctls there are.
    pub fn known(&self) -> usize {
        KINDS.iter().map(|k| ioctls_of(*k).len()).sum()
    }

    /// How many succeeded at least once.
    pub fn reached(&self) -> usize {
        let counted = |i: &usize| self.slot(*i).load(Ordering::Relaxed) > 0;
        (0..self.known()).filter(counted).count()
    }
}

/// A descriptor that any thread may use, close or replace at any time.
pub struct Slot {
    pub kind: Kind,
    pub fd: AtomicI32,
}

/// Bytes of guest memory.
pub const MEMORY: usize = 8 << 20;
/// Bytes of the buffer that arguments are made in, and of the page that cannot be written.
pub const SCRATCH: usize = 64 << 10;

/// What a round's threads share.
pub struct Zoo {
    pub slots: Vec<Slot>,
    /// Shared areas of the vCPUs that were made at the start.
    pub areas: Vec<Mapping>,
    /// Memory that guests use; parts may be unmapped for a while.
    pub memory: Mapping,
    /// Readable only.
    pub read_only: Mapping,
    /// An address that was mapped once.
    pub gone: u64,
    pub eventfds: Vec<RawFd>,
    pub run_size: usize,
}

impl Zoo {
    fn new(rng: &mut Rng) -> SysResult<Self> {
        let kvm = Kvm::open()?;
        let run_size = kvm.run_size()?;
        let memory = Mapping::anonymous(MEMORY)?;
        let read_only = Mapping::anonymous(SCRATCH)?;
        read_only.protect(0, SCRATCH, libc::PROT_READ)?;
        let gone = Mapping::anonymous(SCRATCH)?.hva();
        let mut zoo = Self {
            slots: Vec::new(),
            areas: Vec::new(),
            memory,
            read_only,
            gone,
            eventfds: Vec::new(),
            run_size,
        };
        for _ in 0..4 {
            zoo.eventfds.push(eventfd()?.into_raw_fd());
        }
        for chips in 0..3 {
            zoo.add_vm(&kvm, chips, rng)?;
        }
        zoo.add(Kind::System, kvm.as_raw_fd());
        std::mem::forget(kvm);
        for _ in 0..2 {
            zoo.add(Kind::Device, -1);
        }
        Ok(zoo)
    }

    fn add(&mut self, kind: Kind, fd: RawFd) {
        let fd = AtomicI32::new(fd);
        self.slots.push(Slot { kind, fd });
    }

    fn add_vm(&mut self, kvm: &Kvm, chips: u32, rng: &mut Rng) -> SysResult<()> {
        let vm: Vm = kvm.create_vm(0)?;
        match chips {
            0 => {}
            1 => {
                vm.create_irqchip()?;
                vm.create_pit()?;
            }
            // Where there is none, a VM without chips does as well.
            _ => drop(vm.enable(KVM_CAP_SPLIT_IRQCHIP, &[24])),
        }
        fill_with_code(&self.memory, rng);
        vm.set_memory(0, 0, 0, MEMORY as u64, self.memory.hva())?;
        let cpuid = kvm.supported_cpuid()?;
        for id in 0..2 {
            let fd = vm.create_vcpu(id)?;
            cpuid.set(&fd)?;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let raw = fd.as_raw_fd();
            let area = Mapping::new(self.run_size, prot, libc::MAP_SHARED, raw, 0)?;
            self.areas.push(area);
            start(raw, rng);
            self.add(Kind::Vcpu, fd.into_raw_fd());
        }
        self.add(Kind::Vm, vm.into_fd().into_raw_fd());
        Ok(())
    }

    /// A slot of a kind, or of any.
    pub fn pick(&self, rng: &mut Rng, kind: Option<Kind>) -> &Slot {
        loop {
            let slot = &self.slots[rng.below(self.slots.len() as u64) as usize];
            if kind.is_none_or(|k| k == slot.kind) {
                return slot;
            }
        }
    }
}

/// Puts a vCPU on the random code: in real mode, or as far towards another mode as comes out.
pub fn start(vcpu: RawFd, rng: &mut Rng) {
    let mut sregs = kvm_sregs::default();
    let regs = kvm_regs {
        rip: rng.below(64) * 4096,
        rsp: 0x1000,
        rflags: 2 | rng.below(2) << 9,
        rdi: 0xd000,
        rdx: 0x80,
        rcx: rng.number(),
        ..Default::default()
    };
    // SAFETY: both structures are what the calls are made for. Their failure leaves the vCPU as
    // it was, which is as good.
    unsafe {
        libc::ioctl(vcpu, KVM_GET_SREGS.1 as _, &raw mut sregs);
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        sregs.cs.limit = 0xffff_ffff;
        sregs.cs.g = 1;
        if !is_tame() && rng.once_in(2) {
            sregs.cr0 |= 1;
            sregs.cs.db = 1;
        }
        libc::ioctl(vcpu, KVM_SET_SREGS.1 as _, &raw const sregs);
        libc::ioctl(vcpu, KVM_SET_REGS.1 as _, &raw const regs);
    }
}

/// Whether guests must stay in real mode and without breakpoints. A guest whose tables are nonsense
/// ends not itself but QEMU's TCG ("qemu: fatal: invalid tss type"), and with it the host under
/// test. So does a guest with a watchpoint on its stack or vector table: an exception's delivery
/// that hits it aborts TCG (`bql_lock_impl: assertion failed`) or stops its machine.
pub fn is_tame() -> bool {
    static TAME: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *TAME.get_or_init(ironvm_abi_tests::sys::processor_is_tcg)
}

/// Takes the ways into protected mode and to breakpoints out of the code: every `0f 00`, `0f 01`,
/// `0f 22` and `0f 23`.
fn tame(memory: &Mapping, length: usize) {
    for at in 0..length - 1 {
        let pair: [u8; 2] = memory.read(at);
        if pair[0] == 0x0f && matches!(pair[1], 0x00 | 0x01 | 0x22 | 0x23) {
            memory.write(at + 1, 0xa2u8);
        }
    }
}

/// Random bytes with sense in between: port and memory accesses, HLT, CPUID, jumps back.
fn fill_with_code(memory: &Mapping, rng: &mut Rng) {
    const BITS: [&[u8]; 12] = [
        &[0xe6, 0x80],
        &[0xec],
        &[0xf4],
        &[0x0f, 0xa2],
        &[0x0f, 0x32],
        &[0x0f, 0x30],
        &[0xeb, 0xfe],
        &[0xfb],
        &[0x88, 0x07],
        &[0xf3, 0xaa],
        &[0x0f, 0x01, 0xd9],
        &[0x0f, 0x22, 0xc0],
    ];
    for page in 0..64 {
        for at in (page * 4096..page * 4096 + 4096).step_by(8) {
            memory.write(at, rng.any());
            if rng.once_in(3) {
                memory.fill(at, rng.pick(&BITS));
            }
        }
    }
    if is_tame() {
        tame(memory, 64 * 4096);
    }
}

/// One round: `threads` threads work on a new zoo for `time`. Ends the process.
///
/// Whoever is still in a call then is not waited for: a mask of `KVM_SET_SIGNAL_MASK` may keep a
/// thread in `KVM_RUN` that no signal but `SIGKILL` ends, and others wait for its vCPU.
pub fn round(seed: u64, threads: usize, time: Duration, tally: &Tally) {
    let mut rng = Rng::new(seed, 0);
    // Every signal a wild call could raise on purpose of the kernel is left as it is, but for those.
    for signal in [signals::KICK, libc::SIGPIPE, libc::SIGIO] {
        let _ = signals::catch(signal);
    }
    let Ok(zoo) = Zoo::new(&mut rng) else {
        return;
    };
    let end = Instant::now() + time;
    let ids: Vec<AtomicI32> = (0..threads).map(|_| AtomicI32::new(0)).collect();
    std::thread::scope(|s| {
        for (i, id) in ids.iter().enumerate() {
            let (zoo, mut rng) = (&zoo, Rng::new(seed, i as u64 + 1));
            s.spawn(move || {
                trace::this_thread_is(i);
                id.store(signals::thread_id(), Ordering::Relaxed);
                loop {
                    actions::one(zoo, &mut rng, tally);
                }
            });
        }
        // Takes the threads out of KVM_RUN, also of one that never ends by itself.
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(3));
            for id in &ids {
                match id.load(Ordering::Relaxed) {
                    0 => {}
                    id => signals::send(id, signals::KICK),
                }
            }
        }
        // SAFETY: the process is the round's own, made by `in_child`.
        unsafe { libc::_exit(0) };
    });
}
