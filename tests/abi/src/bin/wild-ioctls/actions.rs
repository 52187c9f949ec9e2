// SPDX-License-Identifier: GPL-2.0-or-later

//! What a thread does at a time.

use std::cell::OnceCell;
use std::sync::atomic::Ordering;

use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::sys::Mapping;

use crate::arguments::{argument, bad_pointer, Buffer};
use crate::rng::Rng;
use crate::trace;
use crate::zoo::{ioctls_of, is_tame, start, Kind, Slot, Tally, Zoo, MEMORY};

thread_local! {
    static BUFFER: OnceCell<Option<Buffer>> = const { OnceCell::new() };
}

/// Does one thing that the numbers choose.
pub fn one(zoo: &Zoo, rng: &mut Rng, tally: &Tally) {
    match rng.below(100) {
        0..=59 => meant(zoo, rng, tally),
        60..=69 => run(zoo, rng, tally),
        70..=75 => unmeant(zoo, rng),
        76..=79 => replace(zoo, rng, tally),
        80..=84 => map_area(zoo, rng),
        85..=89 => memory(zoo, rng),
        90..=93 => scribble(zoo, rng),
        94..=96 => other_calls(zoo, rng),
        97..=98 => notify(zoo, rng),
        _ => fork_and_call(zoo, rng, tally),
    }
}

fn with_buffer(f: impl FnOnce(&Buffer)) {
    BUFFER.with(|cell| {
        if let Some(buffer) = cell.get_or_init(Buffer::new) {
            f(buffer);
        }
    });
}

fn call(fd: i32, request: u64, arg: u64) -> i32 {
    let arg = if is_tame() && sets_breakpoints(request) {
        0
    } else {
        arg
    };
    // SAFETY: the argument is a number or a pointer into memory that holds no Rust object; the
    // buffers are larger than any structure of the ABI.
    trace::keeping(fd, request, arg, || unsafe {
        libc::ioctl(fd, request as _, arg)
    })
}

/// Calls that can set breakpoints, told by the number alone: the kernel compares all of the lower
/// 32 bits, but who knows which it compares. See `zoo::is_tame`.
fn sets_breakpoints(request: u64) -> bool {
    [KVM_SET_DEBUGREGS, KVM_SET_GUEST_DEBUG]
        .iter()
        .any(|known| request & 0xffff == known.1 & 0xffff)
}

/// Keeps a new descriptor in a slot of its kind, whose old one is closed under whoever uses it.
fn keep(slot: &Slot, fd: i32) {
    let old = slot.fd.swap(fd, Ordering::Relaxed);
    // SAFETY: closing a number is safe; that others still use it is what is tested.
    unsafe { libc::close(old) };
}

/// An ioctl on a descriptor that knows it.
fn meant(zoo: &Zoo, rng: &mut Rng, tally: &Tally) {
    let slot = zoo.pick(rng, None);
    let fd = slot.fd.load(Ordering::Relaxed);
    let ioctl = rng.pick(ioctls_of(slot.kind));
    with_buffer(|buffer| {
        let arg = argument(rng, zoo, buffer, fd, &ioctl, slot.kind);
        let r = call(fd, ioctl.1, arg);
        tally.note(&ioctl, r >= 0);
        if r < 0 {
            return;
        }
        match ioctl.0 {
            "KVM_CREATE_VM" => keep(zoo.pick(rng, Some(Kind::Vm)), r),
            "KVM_CREATE_VCPU" => keep(zoo.pick(rng, Some(Kind::Vcpu)), r),
            "KVM_GET_STATS_FD" | "KVM_CREATE_GUEST_MEMFD" => {
                keep(zoo.pick(rng, Some(Kind::Device)), r)
            }
            _ => {}
        }
    });
}

fn run(zoo: &Zoo, rng: &mut Rng, tally: &Tally) {
    let fd = zoo.pick(rng, Some(Kind::Vcpu)).fd.load(Ordering::Relaxed);
    if rng.once_in(4) {
        start(fd, rng);
    }
    for _ in 0..rng.below(8) {
        let r = call(fd, KVM_RUN.1, 0);
        tally.note(&KVM_RUN, r >= 0);
        if r < 0 {
            return;
        }
    }
}

/// Any number on any descriptor.
fn unmeant(zoo: &Zoo, rng: &mut Rng) {
    let fd = zoo.pick(rng, None).fd.load(Ordering::Relaxed);
    let kind = rng.pick(&[Kind::System, Kind::Vm, Kind::Vcpu, Kind::Device]);
    let known = rng.pick(ioctls_of(kind)).1;
    let number = match rng.below(5) {
        0 => rng.any() & 0xffff_ffff,
        1 => request(rng.below(4), rng.below(256), rng.below(0x4000) as usize),
        // A known one with another size, or with bits above those of a request.
        2 => known ^ rng.below(0x4000) << 16,
        3 => known | rng.any() << 32,
        _ => known,
    };
    with_buffer(|buffer| {
        let arg = match rng.below(3) {
            0 => bad_pointer(rng, zoo, buffer),
            1 => rng.number(),
            _ => buffer.address(),
        };
        call(fd, number, arg);
    });
}

/// Closes a descriptor that others may be using and makes a new one of its kind.
fn replace(zoo: &Zoo, rng: &mut Rng, tally: &Tally) {
    let system = zoo.pick(rng, Some(Kind::System)).fd.load(Ordering::Relaxed);
    let vm = zoo.pick(rng, Some(Kind::Vm));
    match rng.below(6) {
        0 => {
            let fd = call(system, KVM_CREATE_VM.1, 0);
            tally.note(&KVM_CREATE_VM, fd >= 0);
            if fd >= 0 {
                equip(zoo, rng, fd, tally);
                keep(vm, fd);
            }
        }
        1..=3 => {
            let fd = call(
                vm.fd.load(Ordering::Relaxed),
                KVM_CREATE_VCPU.1,
                rng.below(16),
            );
            tally.note(&KVM_CREATE_VCPU, fd >= 0);
            if fd >= 0 {
                start(fd, rng);
                keep(zoo.pick(rng, Some(Kind::Vcpu)), fd);
            }
        }
        4 => {
            // SAFETY: a system call on a number and a constant string.
            let fd = unsafe { libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR) };
            keep(zoo.pick(rng, Some(Kind::System)), fd);
        }
        _ => {
            // SAFETY: a system call on a number.
            let fd = unsafe { libc::dup(zoo.pick(rng, None).fd.load(Ordering::Relaxed)) };
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
}

/// Gives a new VM memory and perhaps chips, so that its vCPUs have something to run.
fn equip(zoo: &Zoo, rng: &mut Rng, vm: i32, tally: &Tally) {
    if rng.once_in(2) {
        let r = call(vm, KVM_CREATE_IRQCHIP.1, 0);
        tally.note(&KVM_CREATE_IRQCHIP, r >= 0);
    }
    let region = kvm_bindings::kvm_userspace_memory_region {
        slot: 0,
        memory_size: MEMORY as u64,
        userspace_addr: zoo.memory.hva(),
        ..Default::default()
    };
    let r = call(vm, KVM_SET_USER_MEMORY_REGION.1, &raw const region as u64);
    tally.note(&KVM_SET_USER_MEMORY_REGION, r >= 0);
}

/// Maps a descriptor at any offset and length, touches what must be there, unmaps it.
fn map_area(zoo: &Zoo, rng: &mut Rng) {
    let fd = zoo.pick(rng, None).fd.load(Ordering::Relaxed);
    let length = rng.pick(&[1, 4096, 8192, zoo.run_size, 1 << 20, 1 << 30]);
    let offset = match rng.below(3) {
        0 => 0,
        1 => 4096 * rng.below(8) as i64,
        _ => (rng.number() & !4095) as i64,
    };
    let prot = rng.pick(&[1, 2, 3, 4, 7]);
    let flags = rng.pick(&[libc::MAP_SHARED, libc::MAP_PRIVATE]);
    let Ok(map) = Mapping::new(length, prot, flags, fd, offset) else {
        return;
    };
    // The kernel reads for us: where there is nothing it fails, we would die.
    let mut byte = 0u8;
    let local = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let remote = libc::iovec {
        iov_base: map.at::<u8>(rng.below(length as u64) as usize).cast(),
        iov_len: 1,
    };
    // SAFETY: both vectors are valid; the remote address is only read by the kernel.
    unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    let _ = map.protect(0, length, libc::PROT_READ);
}

/// Changes to the memory below the guests.
fn memory(zoo: &Zoo, rng: &mut Rng) {
    let pages = 1 + rng.below(64);
    let first = rng.below(MEMORY as u64 / 4096 - pages);
    let (offset, length) = (first as usize * 4096, pages as usize * 4096);
    let address = zoo.memory.at::<u8>(offset).cast::<libc::c_void>();
    // Code and tables stay, or nothing runs any more.
    if first < 32 {
        return;
    }
    match rng.below(6) {
        0 => drop(zoo.memory.advise(offset, length, libc::MADV_DONTNEED)),
        1 => drop(zoo.memory.advise(offset, length, libc::MADV_PAGEOUT)),
        2 => drop(zoo.memory.advise(offset, length, libc::MADV_HUGEPAGE)),
        3 => drop(zoo.memory.protect(offset, length, libc::PROT_READ)),
        4 => drop(
            zoo.memory
                .protect(offset, length, libc::PROT_READ | libc::PROT_WRITE),
        ),
        _ => {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // SAFETY: the range is the guests' memory, which no Rust object lies in; it is mapped
            // again at once in the same call.
            unsafe { libc::mmap(address, length, prot, flags, -1, 0) };
        }
    }
}

/// Writes anything into a vCPU's shared area while it may be running.
fn scribble(zoo: &Zoo, rng: &mut Rng) {
    let area = &zoo.areas[rng.below(zoo.areas.len() as u64) as usize];
    for _ in 0..=rng.below(8) {
        match rng.below(4) {
            0 => area.write(rng.below(2) as usize, rng.below(2) as u8),
            1 => area.write(8 * rng.below(300) as usize, rng.number()),
            2 => area.write(rng.below(area.len() as u64 / 8) as usize * 8, rng.any()),
            // What tells the kernel to do something the next time.
            _ => area.write(rng.pick(&[0, 1]), 0u8),
        }
    }
    if is_tame() {
        // Or the next entry would take system registers from what was written.
        let dirty = std::mem::offset_of!(kvm_bindings::kvm_run, kvm_dirty_regs);
        area.write(dirty, 0u64);
    }
}

/// System calls that these descriptors are not made for.
fn other_calls(zoo: &Zoo, rng: &mut Rng) {
    let fd = zoo.pick(rng, None).fd.load(Ordering::Relaxed);
    let mut bytes = [0u8; 256];
    let length = rng.below(256) as usize;
    // SAFETY: `bytes` is as long as each call is told; the rest are plain numbers.
    unsafe {
        match rng.below(8) {
            0 => drop(libc::read(fd, bytes.as_mut_ptr().cast(), length)),
            1 => drop(libc::write(fd, bytes.as_ptr().cast(), length)),
            2 => drop(libc::lseek(fd, rng.number() as i64, rng.below(5) as i32)),
            3 => drop(libc::pread(
                fd,
                bytes.as_mut_ptr().cast(),
                length,
                rng.number() as i64,
            )),
            4 => drop(libc::fcntl(fd, libc::F_GETFL)),
            5 => drop(libc::ftruncate(fd, rng.below(1 << 20) as i64)),
            6 => {
                let mut poll = libc::pollfd {
                    fd,
                    events: !0,
                    revents: 0,
                };
                libc::poll(&mut poll, 1, 0);
            }
            _ => drop(libc::fsync(fd)),
        }
    }
}

fn notify(zoo: &Zoo, rng: &mut Rng) {
    let fd = rng.pick(&zoo.eventfds);
    let one = 1u64;
    // SAFETY: eight readable bytes. A full counter would block, but that takes 2^64 of them.
    unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

/// The same descriptors in another process, whose memory is another.
fn fork_and_call(zoo: &Zoo, rng: &mut Rng, tally: &Tally) {
    if !rng.once_in(8) {
        return;
    }
    // SAFETY: the child only makes system calls and reads what it has, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // A child that gets stuck must not stay for ever.
        // SAFETY: plain system calls.
        unsafe { libc::alarm(10) };
        for _ in 0..100 {
            let slot = zoo.pick(rng, None);
            let fd = slot.fd.load(Ordering::Relaxed);
            let ioctl = rng.pick(ioctls_of(slot.kind));
            let arg = zoo.memory.hva() + rng.below(MEMORY as u64 / 2);
            tally.note(&ioctl, call(fd, ioctl.1, arg) >= 0);
        }
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    if pid > 0 {
        let mut status = 0;
        // SAFETY: waits for the child just made. A signal may end the wait; the round's end reaps.
        unsafe { libc::waitpid(pid, &mut status, 0) };
    }
}
