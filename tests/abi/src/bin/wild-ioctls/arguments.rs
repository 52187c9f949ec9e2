// SPDX-License-Identifier: GPL-2.0-or-later

//! Arguments: numbers, pointers of every sort, and structures with contents near to sense.

use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::{CR0_PE, CR0_PG};
use ironvm_abi_tests::sys::Mapping;
use kvm_bindings::*;

use crate::rng::Rng;
use crate::zoo::{is_tame, Kind, Zoo, MEMORY, SCRATCH};

/// A thread's own buffer: `SCRATCH` bytes, then a page that is not mapped.
pub struct Buffer(Mapping);

impl Buffer {
    /// Makes the buffer.
    pub fn new() -> Option<Self> {
        let memory = Mapping::anonymous(SCRATCH + 4096).ok()?;
        memory.protect(SCRATCH, 4096, libc::PROT_NONE).ok()?;
        Some(Self(memory))
    }

    /// Where it starts.
    pub fn address(&self) -> u64 {
        self.0.hva()
    }

    fn put<T: Copy>(&self, value: T) {
        self.0.write(0, value);
    }

    fn randomize(&self, rng: &mut Rng, length: usize) {
        let kind = rng.below(5);
        for at in (0..length.next_multiple_of(8).min(SCRATCH)).step_by(8) {
            let word = match kind {
                0 => 0,
                1 => rng.any(),
                2 if rng.once_in(4) => rng.number(),
                3 => rng.number() & 0xffff_ffff | rng.number() << 32,
                4 if rng.once_in(8) => u64::MAX,
                _ => 0,
            };
            self.0.write(at, word);
        }
    }

    /// Keeps a `kvm_sregs` (or `kvm_sregs2`) in real mode: see `zoo::is_tame`.
    fn keep_real_mode(&self) {
        const AT: usize = std::mem::offset_of!(kvm_sregs, cr0);
        let cr0: u64 = self.0.read(AT);
        self.0.write(AT, cr0 & !(CR0_PE | CR0_PG));
    }

    /// Changes a few of the first `length` bytes.
    fn mutate(&self, rng: &mut Rng, length: usize) {
        for _ in 0..=rng.below(4) {
            let at = rng.below(length.max(1) as u64) as usize;
            match rng.below(3) {
                0 => self.0.write(at, rng.any() as u8),
                1 => self.0.write(at & !3, rng.number() as u32),
                _ => self.0.write(at & !7, rng.number()),
            }
        }
    }
}

/// A pointer that is no good.
pub fn bad_pointer(rng: &mut Rng, zoo: &Zoo, buffer: &Buffer) -> u64 {
    match rng.below(9) {
        0 => 0,
        1 => zoo.gone,
        2 => zoo.read_only.hva() + rng.below(SCRATCH as u64),
        3 => 0xffff_8880_0000_0000 | rng.any() & 0x3fff_ffff,
        4 => 0xffff_ffff_8100_0000 + rng.below(1 << 24),
        // Runs over the end of what is mapped.
        5 => buffer.address() + SCRATCH as u64 - rng.below(64),
        6 => 0x7fff_ffff_f000 + rng.below(4096),
        7 => 0xffff_ffff_ff60_0000,
        _ => rng.any(),
    }
}

/// The call that fills what this one takes.
fn getter(call: &Ioctl) -> Option<Ioctl> {
    Some(match call.0 {
        "KVM_SET_REGS" => KVM_GET_REGS,
        "KVM_SET_SREGS" => KVM_GET_SREGS,
        "KVM_SET_SREGS2" => KVM_GET_SREGS2,
        "KVM_SET_FPU" => KVM_GET_FPU,
        "KVM_SET_XSAVE" => KVM_GET_XSAVE,
        "KVM_SET_XCRS" => KVM_GET_XCRS,
        "KVM_SET_LAPIC" => KVM_GET_LAPIC,
        "KVM_SET_DEBUGREGS" => KVM_GET_DEBUGREGS,
        "KVM_SET_VCPU_EVENTS" => KVM_GET_VCPU_EVENTS,
        "KVM_SET_MP_STATE" => KVM_GET_MP_STATE,
        "KVM_SET_PIT" => KVM_GET_PIT,
        "KVM_SET_PIT2" => KVM_GET_PIT2,
        "KVM_SET_CLOCK" => KVM_GET_CLOCK,
        "KVM_SET_IRQCHIP" => KVM_GET_IRQCHIP,
        "KVM_SET_NESTED_STATE" => KVM_GET_NESTED_STATE,
        _ => return None,
    })
}

/// An argument for `call` on a descriptor of `kind`.
pub fn argument(
    rng: &mut Rng,
    zoo: &Zoo,
    buffer: &Buffer,
    fd: i32,
    call: &Ioctl,
    kind: Kind,
) -> u64 {
    let size = argument_size(call.1);
    if size == 0 && kind != Kind::Device {
        return plain_number(rng, call);
    }
    if rng.once_in(12) {
        return bad_pointer(rng, zoo, buffer);
    }
    buffer.randomize(rng, (size + 512).min(SCRATCH));
    if let Some(get) = getter(call) {
        buffer.0.write(0, rng.below(4) as u32);
        // SAFETY: the buffer is larger than any structure of the ABI.
        unsafe { libc::ioctl(fd, get.1 as _, buffer.address()) };
        if !rng.once_in(3) {
            buffer.mutate(rng, size);
        }
        if is_tame() && call.0.starts_with("KVM_SET_SREGS") {
            buffer.keep_real_mode();
        }
    } else {
        shape(rng, zoo, buffer, call);
    }
    match rng.below(20) {
        0 => buffer.address() + 1 + rng.below(7),
        _ => buffer.address(),
    }
}

fn plain_number(rng: &mut Rng, call: &Ioctl) -> u64 {
    match call.0 {
        "KVM_CREATE_VCPU" => rng.below(8),
        "KVM_CREATE_VM" if !rng.once_in(4) => 0,
        "KVM_CHECK_EXTENSION" => rng.below(260),
        "KVM_SET_TSS_ADDR" => 0xfffb_d000,
        "KVM_RUN" | "KVM_NMI" | "KVM_GET_API_VERSION" if !rng.once_in(16) => 0,
        _ => rng.number(),
    }
}

/// Fills the fields by which a structure is judged first.
fn shape(rng: &mut Rng, zoo: &Zoo, buffer: &Buffer, call: &Ioctl) {
    let page = |rng: &mut Rng| rng.below(MEMORY as u64 / 4096) * 4096;
    let gpa = rng.pick(&[
        0,
        0x10_0000,
        0xa_0000,
        0xfee0_0000,
        0xd000_0000,
        1 << 32,
        1 << 40,
    ]);
    match call.0 {
        "KVM_SET_USER_MEMORY_REGION" | "KVM_SET_USER_MEMORY_REGION2" => {
            let offset = page(rng);
            // Tables for a slot of the greatest size and its log would fill the host's memory.
            let size = match rng.below(8) {
                0 => 0,
                1 => 1 << (12 + rng.below(24)),
                _ => 4096 << rng.below(11),
            };
            let odd = if rng.once_in(16) { rng.number() } else { 0 };
            buffer.put(kvm_userspace_memory_region {
                slot: rng.below(6) as u32 | (odd as u32 & 0xffff) << 16,
                flags: rng.below(4) as u32,
                guest_phys_addr: gpa + odd,
                memory_size: size,
                userspace_addr: zoo.memory.hva() + offset,
            });
        }
        "KVM_GET_DIRTY_LOG" | "KVM_CLEAR_DIRTY_LOG" => {
            buffer.0.write(0, rng.below(6) as u32);
            buffer.0.write(8, rng.below(64) * 64);
            if call.0 == "KVM_GET_DIRTY_LOG" || rng.once_in(2) {
                let bitmap = buffer.address() + 4096;
                buffer.0.write(argument_size(call.1) - 8, bitmap);
            }
        }
        "KVM_GET_MSRS" | "KVM_SET_MSRS" => {
            let count = rng.below(8);
            buffer.0.write(0, count);
            for i in 0..count as usize {
                let base = rng.pick(&[0x10u64, 0x174, 0x1d9, 0x277, 0x400, 0x800, 0xc000_0080]);
                let index = base + rng.below(32);
                buffer.0.write(8 + 16 * i, index);
                buffer.0.write(16 + 16 * i, rng.number());
            }
        }
        "KVM_GET_SUPPORTED_CPUID"
        | "KVM_GET_EMULATED_CPUID"
        | "KVM_GET_SUPPORTED_HV_CPUID"
        | "KVM_GET_CPUID2"
        | "KVM_GET_MSR_INDEX_LIST"
        | "KVM_GET_MSR_FEATURE_INDEX_LIST" => {
            buffer.0.write(0, rng.below(1000));
        }
        "KVM_SET_CPUID2" => {
            buffer.0.write(0, rng.below(6));
        }
        "KVM_IRQ_LINE" | "KVM_IRQ_LINE_STATUS" => {
            buffer.0.write(0, rng.below(32) as u32);
            buffer.0.write(4, rng.below(2) as u32);
        }
        "KVM_SIGNAL_MSI" => {
            buffer.0.write(0, 0xfee0_0000 | (rng.below(4) << 12) as u32);
            buffer.0.write(4, 0u32);
            buffer.0.write(8, rng.below(0x1000) as u32);
            buffer.0.write(12, 0u32);
        }
        "KVM_SET_GSI_ROUTING" => {
            let count = rng.below(40);
            buffer.0.write(0, count);
            for i in 0..count as usize {
                let entry = [
                    rng.below(64),
                    1 + rng.below(2),
                    0,
                    0,
                    rng.below(3),
                    rng.below(24),
                ];
                for (j, word) in entry.into_iter().enumerate() {
                    buffer.0.write(8 + 48 * i + 4 * j, word as u32);
                }
            }
        }
        "KVM_IRQFD" => buffer.put(kvm_irqfd {
            fd: rng.pick(&zoo.eventfds) as u32,
            gsi: rng.below(32) as u32,
            flags: rng.pick(&[0, 0, 1, 2, 3]),
            resamplefd: rng.pick(&zoo.eventfds) as u32,
            ..Default::default()
        }),
        "KVM_IOEVENTFD" => buffer.put(kvm_ioeventfd {
            datamatch: rng.below(4),
            addr: rng.pick(&[0x80, 0xd000_0000, 0xd000_0008]),
            len: rng.pick(&[0, 1, 2, 4, 8]),
            fd: rng.pick(&zoo.eventfds),
            flags: rng.below(8) as u32,
            ..Default::default()
        }),
        "KVM_ENABLE_CAP" => {
            buffer.0.write(0, rng.below(250) as u32);
            buffer.0.write(4, 0u32);
        }
        "KVM_CREATE_DEVICE" => {
            buffer.0.write(0, rng.below(16) as u32);
            buffer.0.write(8, rng.below(2) as u32);
        }
        "KVM_REGISTER_COALESCED_MMIO" | "KVM_UNREGISTER_COALESCED_MMIO" => {
            buffer.0.write(0, rng.pick(&[0xd000_0000u64, 0x80, 0]));
            buffer.0.write(8, rng.below(64) as u32);
            buffer.0.write(12, rng.below(2) as u32);
        }
        "KVM_INTERRUPT" => buffer.0.write(0, rng.below(300) as u32),
        "KVM_SET_SIGNAL_MASK" => {
            // Nothing blocked: the threads must stay interruptible.
            buffer.0.write(0, 8u64);
            buffer.0.write(8, 0u64);
        }
        "KVM_X86_SETUP_MCE" => buffer.0.write(0, rng.below(34) | 1 << 8),
        "KVM_PRE_FAULT_MEMORY" => {
            buffer.0.write(0, page(rng));
            buffer.0.write(8, 4096 * rng.below(64));
            buffer.0.write(16, 0u64);
        }
        _ => {}
    }
}
