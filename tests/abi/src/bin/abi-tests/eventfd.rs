// SPDX-License-Identifier: GPL-2.0-or-later

//! Interrupts from and notifications to eventfds (KVM API document, 4.59, 4.75), and accesses that
//! are gathered (4.116).

use std::os::fd::{AsRawFd, OwnedFd};

use ironvm_abi_tests::driver::{entry, msi_address, Driver, Eoi};
use ironvm_abi_tests::fds::{eventfd, eventfd_add, eventfd_take, Vm};
use ironvm_abi_tests::guest::{long_mode, Machine};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::lists::{route_to_msi, set_routing};
use ironvm_abi_tests::{code64, ensure, ensure_eq, ensure_errno, skip, test};
use ironvm_abi_tests::{Exit, Failure, Outcome, SysResult};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("irqfd", to_message),
    test!("irqfd", to_ioapic_edge),
    test!("irqfd", from_another_thread),
    test!("irqfd", already_signalled),
    test!("irqfd", deassign),
    test!("irqfd", resample),
    test!("irqfd", resample_with_two_sources),
    test!("irqfd", errors),
    test!("irqfd", eventfd_closed_first),
    test!("irqfd", route_changes),
    test!("irqfd", many),
    test!("ioeventfd", pio),
    test!("ioeventfd", pio_datamatch),
    test!("ioeventfd", pio_length),
    test!("ioeventfd", mmio),
    test!("ioeventfd", mmio_any_length),
    test!("ioeventfd", mmio_datamatch_sizes),
    test!("ioeventfd", deassign_gives_exits_back),
    test!("ioeventfd", errors_of_ioeventfd),
    test!("ioeventfd", collisions),
    test!("ioeventfd", reads_are_not_taken),
    test!("ioeventfd", two_values_one_port),
    test!("coalesced", mmio_writes_are_gathered),
    test!("coalesced", order_and_overflow),
    test!("coalesced", pio_writes_are_gathered),
    test!("coalesced", unregister),
    test!("coalesced", errors_of_zones),
];

fn message_driver() -> Result<(Driver, OwnedFd), Failure> {
    let d = Driver::new(Eoi::Xapic)?;
    set_routing(&d.machine.vm, &[route_to_msi(30, msi_address(0), 0x70)])?;
    let fd = eventfd()?;
    d.machine.vm.irqfd(&fd, 30, 0)?;
    Ok((d, fd))
}

fn to_message() -> Outcome {
    let (d, fd) = message_driver()?;
    for n in 1..=5 {
        eventfd_add(&fd, 1)?;
        d.breathe()?;
        ensure_eq!(d.count(0x70), n, "interrupts");
    }
    ensure_eq!(eventfd_take(&fd)?, 0, "count left in the eventfd");
    Ok(())
}

fn to_ioapic_edge() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    d.ioapic(10, entry(0x4a, 0, false))?;
    let fd = eventfd()?;
    d.machine.vm.irqfd(&fd, 10, 0)?;
    for n in 1..=5 {
        eventfd_add(&fd, 1)?;
        // The way to this chip may sleep, so it may be taken later.
        d.halt()?;
        ensure_eq!(d.count(0x4a), n, "interrupts");
    }
    Ok(())
}

fn from_another_thread() -> Outcome {
    let (d, fd) = message_driver()?;
    for n in 1..=10 {
        std::thread::scope(|s| {
            s.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                eventfd_add(&fd, 1)
            });
            d.halt()
        })?;
        ensure_eq!(d.count(0x70), n, "interrupts");
    }
    Ok(())
}

/// A count that is there when the eventfd is assigned is an interrupt.
fn already_signalled() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    set_routing(&d.machine.vm, &[route_to_msi(30, msi_address(0), 0x70)])?;
    let fd = eventfd()?;
    eventfd_add(&fd, 3)?;
    d.machine.vm.irqfd(&fd, 30, 0)?;
    d.halt()?;
    ensure_eq!(d.count(0x70), 1, "interrupts");
    Ok(())
}

fn deassign() -> Outcome {
    let (d, fd) = message_driver()?;
    d.machine.vm.irqfd(&fd, 30, KVM_IRQFD_FLAG_DEASSIGN)?;
    eventfd_add(&fd, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x70), 0, "interrupts");
    ensure_eq!(eventfd_take(&fd)?, 1, "count in the eventfd");
    // What is not there is taken away without an error.
    d.machine.vm.irqfd(&fd, 30, KVM_IRQFD_FLAG_DEASSIGN)?;
    d.machine.vm.irqfd(&fd, 30, 0)?;
    eventfd_add(&fd, 1)?;
    d.breathe()?;
    ensure_eq!(d.count(0x70), 1, "interrupts after a new assignment");
    Ok(())
}

/// A level interrupt: the line stays up until the guest's EOI, which is told to userspace.
fn resample() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    if !d.machine.kvm.has(KVM_CAP_IRQFD_RESAMPLE) {
        skip!("no KVM_CAP_IRQFD_RESAMPLE");
    }
    d.ioapic(11, entry(0x4b, 0, true))?;
    let (fd, resample) = (eventfd()?, eventfd()?);
    d.machine.vm.irqfd_resampling(&fd, 11, &resample)?;
    for n in 1..=4 {
        eventfd_add(&fd, 1)?;
        d.halt()?;
        ensure_eq!(d.count(0x4b), n, "interrupts");
        ensure_eq!(eventfd_take(&resample)?, 0, "resampled before EOI");
        d.apic(APIC_EOI, 0)?;
        ensure_eq!(eventfd_take(&resample)?, 1, "resampled after EOI");
        d.breathe()?;
        ensure_eq!(d.count(0x4b), n, "interrupts after EOI");
    }
    Ok(())
}

/// Two devices on one line: the EOI is told to both.
fn resample_with_two_sources() -> Outcome {
    let d = Driver::new(Eoi::None)?;
    if !d.machine.kvm.has(KVM_CAP_IRQFD_RESAMPLE) {
        skip!("no KVM_CAP_IRQFD_RESAMPLE");
    }
    d.ioapic(11, entry(0x4b, 0, true))?;
    let fds = [eventfd()?, eventfd()?];
    let resamples = [eventfd()?, eventfd()?];
    for (fd, resample) in fds.iter().zip(&resamples) {
        d.machine.vm.irqfd_resampling(fd, 11, resample)?;
    }
    eventfd_add(&fds[1], 1)?;
    d.halt()?;
    d.apic(APIC_EOI, 0)?;
    for resample in &resamples {
        ensure_eq!(eventfd_take(resample)?, 1, "resampled");
    }
    d.breathe()?;
    ensure_eq!(d.count(0x4b), 1, "interrupts");
    Ok(())
}

fn errors() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let vm = &d.machine.vm;
    let fd = eventfd()?;
    ensure_errno!(vm.irqfd(&fd, 5, 1 << 7), libc::EINVAL, "unknown flag");
    vm.irqfd(&fd, 5, 0)?;
    ensure_errno!(vm.irqfd(&fd, 6, 0), libc::EBUSY, "the same eventfd twice");
    let null = std::fs::File::open("/dev/null").map_err(|e| e.to_string())?;
    let null = OwnedFd::from(null);
    ensure_errno!(vm.irqfd(&null, 5, 0), libc::EINVAL, "not an eventfd");
    let closed = kvm_irqfd {
        fd: 999,
        ..Default::default()
    };
    ensure_errno!(vm.set(KVM_IRQFD, &closed), libc::EBADF, "not open");
    let other = eventfd()?;
    let result = d.machine.vm.irqfd_resampling(&other, 9, &null);
    ensure_errno!(result, libc::EINVAL, "resamplefd is not an eventfd");
    let machine = Machine::new()?;
    let result = machine.vm.irqfd(&other, 5, 0);
    ensure!(result.is_err(), "irqfd without chips gave {result:?}");
    Ok(())
}

fn eventfd_closed_first() -> Outcome {
    let (d, fd) = message_driver()?;
    eventfd_add(&fd, 1)?;
    drop(fd);
    d.breathe()?;
    ensure_eq!(d.count(0x70), 1, "interrupts");
    let fd = eventfd()?;
    d.machine.vm.irqfd(&fd, 30, 0)?;
    drop(d);
    // The VM is gone; the eventfd is an ordinary one again.
    eventfd_add(&fd, 2)?;
    Ok(())
}

fn route_changes() -> Outcome {
    let (d, fd) = message_driver()?;
    eventfd_add(&fd, 1)?;
    d.breathe()?;
    set_routing(&d.machine.vm, &[route_to_msi(30, msi_address(0), 0x80)])?;
    eventfd_add(&fd, 1)?;
    d.breathe()?;
    ensure_eq!((d.count(0x70), d.count(0x80)), (1, 1), "old, new vector");
    Ok(())
}

fn many() -> Outcome {
    let d = Driver::new(Eoi::Xapic)?;
    let route = |i: u32| route_to_msi(24 + i, msi_address(0), 0x20 + i);
    let routes: Vec<_> = (0..200).map(route).collect();
    set_routing(&d.machine.vm, &routes)?;
    let fds = (0..200).map(|_| eventfd()).collect::<Result<Vec<_>, _>>()?;
    for (fd, gsi) in fds.iter().zip(24..) {
        d.machine.vm.irqfd(fd, gsi, 0)?;
    }
    for fd in &fds {
        eventfd_add(fd, 1)?;
    }
    for _ in 0..40 {
        d.breathe()?;
    }
    for i in 0..200 {
        ensure_eq!(d.count(0x20 + i as u8), 1, "interrupts of eventfd {i}");
    }
    Ok(())
}

const PIO: u32 = 1 << kvm_ioeventfd_flag_nr_pio;
const MATCH: u32 = 1 << kvm_ioeventfd_flag_nr_datamatch;
const DEASSIGN: u32 = 1 << kvm_ioeventfd_flag_nr_deassign;

fn ioeventfd(
    vm: &Vm,
    fd: &OwnedFd,
    addr: u64,
    len: u32,
    flags: u32,
    datamatch: u64,
) -> SysResult<i32> {
    let arg = kvm_ioeventfd {
        datamatch,
        addr,
        len,
        fd: fd.as_raw_fd(),
        flags,
        ..Default::default()
    };
    vm.set(KVM_IOEVENTFD, &arg)
}

fn pio() -> Outcome {
    let code = code64!(
        "mov dx, 0xc0",
        "mov eax, 7",
        "out dx, ax",
        "out dx, ax",
        "out 0x10, al"
    );
    let (machine, vcpu) = long_mode(code)?;
    let fd = eventfd()?;
    ioeventfd(&machine.vm, &fd, 0xc0, 2, PIO, 0)?;
    vcpu.run_to_done()?;
    ensure_eq!(eventfd_take(&fd)?, 2, "notifications");
    Ok(())
}

fn pio_datamatch() -> Outcome {
    let code = code64!(
        "mov eax, 7",
        "out 0xc0, al",
        "mov eax, 8",
        "out 0xc0, al",
        "mov eax, 7",
        "out 0xc0, al",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    let fd = eventfd()?;
    ioeventfd(&machine.vm, &fd, 0xc0, 1, PIO | MATCH, 7)?;
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(&exit, Exit::Io(io) if io.port == 0xc0 && io.data == [8]),
        "exit is {exit:x?}"
    );
    vcpu.run_to_done()?;
    ensure_eq!(eventfd_take(&fd)?, 2, "notifications");
    Ok(())
}

/// An access of another size is userspace's.
fn pio_length() -> Outcome {
    let code = code64!(
        "out 0xc0, al",
        "out 0xc0, eax",
        "out 0xc0, ax",
        "out 0x10, al"
    );
    let (machine, vcpu) = long_mode(code)?;
    let fd = eventfd()?;
    ioeventfd(&machine.vm, &fd, 0xc0, 2, PIO, 0)?;
    for size in [1, 4] {
        let exit = vcpu.run_on()?;
        ensure!(
            matches!(&exit, Exit::Io(io) if io.size == size),
            "exit is {exit:x?}"
        );
    }
    vcpu.run_to_done()?;
    ensure_eq!(eventfd_take(&fd)?, 1, "notifications");
    Ok(())
}

fn mmio() -> Outcome {
    let code = code64!(
        "mov [rsi], eax",
        "mov [rsi + 4], eax",
        "mov [rsi], ax",
        "mov [rsi], eax",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    let fd = eventfd()?;
    ioeventfd(&machine.vm, &fd, MMIO, 4, 0, 0)?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    for (address, length) in [(MMIO + 4, 4), (MMIO, 2)] {
        let exit = vcpu.run_on()?;
        ensure!(
            matches!(&exit, Exit::Mmio(m) if m.address == address && m.length == length),
            "exit is {exit:x?}"
        );
    }
    vcpu.run_to_done()?;
    ensure_eq!(eventfd_take(&fd)?, 2, "notifications");
    Ok(())
}

fn mmio_any_length() -> Outcome {
    let code = code64!(
        "mov [rsi], al",
        "mov [rsi], ax",
        "mov [rsi], eax",
        "mov [rsi], rax",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    if !machine.kvm.has(KVM_CAP_IOEVENTFD_ANY_LENGTH) {
        skip!("no KVM_CAP_IOEVENTFD_ANY_LENGTH");
    }
    let fd = eventfd()?;
    ioeventfd(&machine.vm, &fd, MMIO, 0, 0, 0)?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    vcpu.run_to_done()?;
    ensure_eq!(eventfd_take(&fd)?, 4, "notifications");
    Ok(())
}

fn mmio_datamatch_sizes() -> Outcome {
    let code = code64!(
        "mov rax, 0x1122334455667788",
        "mov [rsi], al",
        "mov [rsi + 2], ax",
        "mov [rsi + 4], eax",
        "mov [rsi + 8], rax",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    let value = 0x1122_3344_5566_7788u64;
    let fds = (0..4).map(|_| eventfd()).collect::<Result<Vec<_>, _>>()?;
    for ((fd, offset), length) in fds.iter().zip([0, 2, 4, 8]).zip([1u32, 2, 4, 8]) {
        let kept = value & (!0 >> (64 - 8 * length));
        ioeventfd(&machine.vm, fd, MMIO + offset, length, MATCH, kept)?;
    }
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    vcpu.run_to_done()?;
    for (i, fd) in fds.iter().enumerate() {
        ensure_eq!(eventfd_take(fd)?, 1, "notifications of eventfd {i}");
    }
    Ok(())
}

fn deassign_gives_exits_back() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("2:", "out 0xc0, al", "jmp 2b"))?;
    let fd = eventfd()?;
    for _ in 0..5 {
        ioeventfd(&machine.vm, &fd, 0xc0, 1, PIO, 0)?;
        ioeventfd(&machine.vm, &fd, 0xc0, 1, PIO | DEASSIGN, 0)?;
        let exit = vcpu.run_on()?;
        ensure!(exit.is_out(0xc0), "exit is {exit:x?}");
    }
    Ok(())
}

fn errors_of_ioeventfd() -> Outcome {
    let machine = Machine::new()?;
    let vm = &machine.vm;
    let fd = eventfd()?;
    for length in [3, 5, 16, 0xffff_ffff] {
        let result = ioeventfd(vm, &fd, MMIO, length, 0, 0);
        ensure_errno!(result, libc::EINVAL, "length {length}");
    }
    let result = ioeventfd(vm, &fd, u64::MAX - 1, 4, 0, 0);
    ensure_errno!(result, libc::EINVAL, "a range that wraps");
    let result = ioeventfd(vm, &fd, MMIO, 4, 1 << 20, 0);
    ensure_errno!(result, libc::EINVAL, "unknown flag");
    let result = ioeventfd(vm, &fd, MMIO, 0, MATCH, 0);
    ensure_errno!(result, libc::EINVAL, "a value without a length");
    let result = ioeventfd(vm, &fd, MMIO, 4, DEASSIGN, 0);
    ensure_errno!(result, libc::ENOENT, "taking away what is not there");
    let null = OwnedFd::from(std::fs::File::open("/dev/null").map_err(|e| e.to_string())?);
    let result = ioeventfd(vm, &null, MMIO, 4, 0, 0);
    ensure_errno!(result, libc::EINVAL, "not an eventfd");
    Ok(())
}

fn collisions() -> Outcome {
    let machine = Machine::new()?;
    let vm = &machine.vm;
    let (first, second) = (eventfd()?, eventfd()?);
    ioeventfd(vm, &first, MMIO, 4, MATCH, 1)?;
    let result = ioeventfd(vm, &second, MMIO, 4, MATCH, 1);
    ensure_errno!(result, libc::EEXIST, "the same value");
    ioeventfd(vm, &second, MMIO, 4, MATCH, 2)?;
    let result = ioeventfd(vm, &second, MMIO, 4, 0, 0);
    ensure_errno!(result, libc::EEXIST, "any value beside one");
    // Another space of addresses.
    ioeventfd(vm, &second, MMIO & 0xffff, 4, PIO, 0)?;
    Ok(())
}

fn reads_are_not_taken() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("in al, 0xc0", "mov eax, [rsi]", "out 0x10, al"))?;
    let fd = eventfd()?;
    ioeventfd(&machine.vm, &fd, 0xc0, 1, PIO, 0)?;
    ioeventfd(&machine.vm, &fd, MMIO, 4, 0, 0)?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(&exit, Exit::Io(io) if !io.out),
        "exit is {exit:x?}"
    );
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(&exit, Exit::Mmio(m) if !m.write),
        "exit is {exit:x?}"
    );
    vcpu.run_to_done()?;
    ensure_eq!(eventfd_take(&fd)?, 0, "notifications");
    Ok(())
}

fn two_values_one_port() -> Outcome {
    let code = code64!(
        "mov eax, 1",
        "out 0xc0, ax",
        "mov eax, 2",
        "out 0xc0, ax",
        "out 0xc0, ax",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    let fds = [eventfd()?, eventfd()?];
    ioeventfd(&machine.vm, &fds[0], 0xc0, 2, PIO | MATCH, 1)?;
    ioeventfd(&machine.vm, &fds[1], 0xc0, 2, PIO | MATCH, 2)?;
    vcpu.run_to_done()?;
    let counts = (eventfd_take(&fds[0])?, eventfd_take(&fds[1])?);
    ensure_eq!(counts, (1, 2), "notifications");
    Ok(())
}

fn zone(addr: u64, size: u32, pio: u32) -> kvm_coalesced_mmio_zone {
    let mut zone = kvm_coalesced_mmio_zone {
        addr,
        size,
        ..Default::default()
    };
    zone.__bindgen_anon_1.pio = pio;
    zone
}

/// The ring's first and last, and its entries as address, length and data.
struct Ring<'a> {
    area: &'a ironvm_abi_tests::sys::Mapping,
    at: usize,
}

impl Ring<'_> {
    fn first(&self) -> u32 {
        self.area.read(self.at)
    }

    fn last(&self) -> u32 {
        self.area.read(self.at + 4)
    }

    fn set_first(&self, first: u32) {
        self.area.write(self.at, first);
    }

    fn entry(&self, index: u32) -> kvm_coalesced_mmio {
        let size = std::mem::size_of::<kvm_coalesced_mmio>();
        self.area.read(self.at + 8 + index as usize * size)
    }
}

fn ring<'a>(
    machine: &Machine,
    vcpu: &'a ironvm_abi_tests::Vcpu,
    capability: u32,
) -> Result<Ring<'a>, Failure> {
    if !machine.kvm.has(capability) {
        skip!("no coalesced accesses");
    }
    // The MMIO capability's value is the ring's page; both kinds share the ring.
    let page = machine.kvm.extension(KVM_CAP_COALESCED_MMIO)?;
    Ok(Ring {
        area: &vcpu.run,
        at: page as usize * 4096,
    })
}

fn mmio_writes_are_gathered() -> Outcome {
    let code = code64!(
        "mov rax, 0x1122334455667788",
        "mov [rsi], eax",
        "mov [rsi + 8], rax",
        "mov [rsi + 0xffc], al",
        "mov [rsi + 0x1000], al",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    let ring = ring(&machine, &vcpu, KVM_CAP_COALESCED_MMIO)?;
    machine
        .vm
        .set(KVM_REGISTER_COALESCED_MMIO, &zone(MMIO, 0x1000, 0))?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    // Only the one behind the zone leaves.
    let exit = vcpu.run_on()?;
    ensure!(
        matches!(&exit, Exit::Mmio(m) if m.address == MMIO + 0x1000),
        "exit is {exit:x?}"
    );
    ensure_eq!((ring.first(), ring.last()), (0, 3), "first, last");
    for (i, (address, length)) in [(MMIO, 4), (MMIO + 8, 8), (MMIO + 0xffc, 1)]
        .iter()
        .enumerate()
    {
        let e = ring.entry(i as u32);
        ensure_eq!((e.phys_addr, e.len), (*address, *length), "entry {i}");
    }
    ensure_eq!(
        u64::from_le_bytes(ring.entry(1).data),
        0x1122_3344_5566_7788,
        "data of entry 1"
    );
    vcpu.run_to_done()
}

/// A full ring does not lose a write: it leaves as any other.
fn order_and_overflow() -> Outcome {
    let code = code64!("2:", "mov [rsi], eax", "inc eax", "jmp 2b");
    let (machine, vcpu) = long_mode(code)?;
    let ring = ring(&machine, &vcpu, KVM_CAP_COALESCED_MMIO)?;
    machine
        .vm
        .set(KVM_REGISTER_COALESCED_MMIO, &zone(MMIO, 0x1000, 0))?;
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    let mut next = 0u32;
    for _ in 0..3 {
        let exit = vcpu.run_on()?;
        let Exit::Mmio(m) = exit else {
            return Err(vcpu.unexpected(&exit));
        };
        let size = std::mem::size_of::<kvm_coalesced_mmio>();
        let room = (4096 - 8) / size as u32;
        while ring.first() != ring.last() {
            let e = ring.entry(ring.first());
            let value = u32::from_le_bytes([e.data[0], e.data[1], e.data[2], e.data[3]]);
            ensure_eq!(value, next, "value in the ring");
            next += 1;
            ring.set_first((ring.first() + 1) % room);
        }
        ensure_eq!(m.value() as u32, next, "value that left");
        next += 1;
    }
    ensure!(next > 300, "only {next} writes");
    Ok(())
}

fn pio_writes_are_gathered() -> Outcome {
    let code = code64!("mov al, 5", "out 0x70, al", "out 0x72, al", "out 0x10, al");
    let (machine, vcpu) = long_mode(code)?;
    let ring = ring(&machine, &vcpu, KVM_CAP_COALESCED_PIO)?;
    machine
        .vm
        .set(KVM_REGISTER_COALESCED_MMIO, &zone(0x70, 1, 1))?;
    let exit = vcpu.run_on()?;
    ensure!(exit.is_out(0x72), "exit is {exit:x?}");
    ensure_eq!((ring.first(), ring.last()), (0, 1), "first, last");
    let e = ring.entry(0);
    ensure_eq!((e.phys_addr, e.len, e.data[0]), (0x70, 1, 5), "entry");
    vcpu.run_to_done()
}

fn unregister() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("2:", "mov [rsi], eax", "out 0x10, al", "jmp 2b"))?;
    ring(&machine, &vcpu, KVM_CAP_COALESCED_MMIO)?;
    let zone = zone(MMIO, 0x1000, 0);
    vcpu.change_regs(|r| r.rsi = MMIO)?;
    for _ in 0..3 {
        machine.vm.set(KVM_REGISTER_COALESCED_MMIO, &zone)?;
        vcpu.run_to_done()?;
        machine.vm.set(KVM_UNREGISTER_COALESCED_MMIO, &zone)?;
        let exit = vcpu.run_on()?;
        ensure!(matches!(&exit, Exit::Mmio(_)), "exit is {exit:x?}");
        vcpu.run_to_done()?;
    }
    Ok(())
}

fn errors_of_zones() -> Outcome {
    let machine = Machine::new()?;
    if !machine.kvm.has(KVM_CAP_COALESCED_MMIO) {
        skip!("no coalesced accesses");
    }
    let result = machine
        .vm
        .set(KVM_REGISTER_COALESCED_MMIO, &zone(MMIO, 0x1000, 7));
    ensure_errno!(result, libc::EINVAL, "a kind of zone that there is not");
    // Taking away what is not there is no error.
    machine
        .vm
        .set(KVM_UNREGISTER_COALESCED_MMIO, &zone(MMIO, 0x1000, 0))?;
    Ok(())
}
