// SPDX-License-Identifier: GPL-2.0-or-later

//! Why `KVM_RUN` came back (KVM API document, section 5), as a value.

use kvm_bindings::*;

use crate::sys::Mapping;

/// Direction and content of a port access.
#[derive(Debug, Clone, PartialEq)]
pub struct Io {
    /// Whether the guest writes.
    pub out: bool,
    /// Bytes of one access.
    pub size: u8,
    /// The port.
    pub port: u16,
    /// Accesses in this exit, more than one for string instructions.
    pub count: u32,
    /// What the guest writes; for reads, what the area holds before it is filled.
    pub data: Vec<u8>,
}

/// A memory access outside the slots.
#[derive(Debug, Clone, PartialEq)]
pub struct Mmio {
    /// Guest-physical address.
    pub address: u64,
    /// What the guest writes, `length` bytes of it.
    pub data: [u8; 8],
    /// Bytes of the access, 1 to 8.
    pub length: u32,
    /// Whether the guest writes.
    pub write: bool,
}

impl Mmio {
    /// What the guest writes, as a number.
    pub fn value(&self) -> u64 {
        let mut bytes = [0; 8];
        let n = self.length.min(8) as usize;
        bytes[..n].copy_from_slice(&self.data[..n]);
        u64::from_le_bytes(bytes)
    }
}

/// Why the vCPU left the guest.
#[derive(Debug, Clone, PartialEq)]
pub enum Exit {
    /// `KVM_EXIT_IO`.
    Io(Io),
    /// `KVM_EXIT_MMIO`.
    Mmio(Mmio),
    /// `KVM_EXIT_HLT`.
    Hlt,
    /// `KVM_EXIT_IRQ_WINDOW_OPEN`.
    IrqWindow,
    /// `KVM_EXIT_SHUTDOWN`.
    Shutdown,
    /// `KVM_EXIT_INTR`; comes with `EINTR`.
    Intr,
    /// `KVM_EXIT_HYPERCALL`: number and arguments.
    Hypercall(u64, [u64; 6]),
    /// `KVM_EXIT_DEBUG`: exception, address, DR6, DR7.
    Debug {
        /// Vector: 1 or 3.
        exception: u32,
        /// Linear address of the instruction.
        pc: u64,
        /// DR6 as the guest would have seen it.
        dr6: u64,
        /// DR7 in force.
        dr7: u64,
    },
    /// `KVM_EXIT_FAIL_ENTRY`: the hardware's reason.
    FailEntry(u64),
    /// `KVM_EXIT_INTERNAL_ERROR`: suberror and what comes with it.
    InternalError(u32, Vec<u64>),
    /// `KVM_EXIT_IOAPIC_EOI`: the vector.
    IoapicEoi(u8),
    /// `KVM_EXIT_X86_RDMSR`: reason and index.
    Rdmsr(u32, u32),
    /// `KVM_EXIT_X86_WRMSR`: reason, index, value.
    Wrmsr(u32, u32, u64),
    /// `KVM_EXIT_MEMORY_FAULT`: flags, address, size.
    MemoryFault(u64, u64, u64),
    /// `KVM_EXIT_SET_TPR`.
    SetTpr,
    /// `KVM_EXIT_UNKNOWN`: the hardware's code.
    Unknown(u64),
    /// Any other, by number.
    Other(u32),
}

impl Exit {
    /// Reads it from a vCPU's shared area.
    pub fn read(run: &Mapping) -> Self {
        let area: *mut kvm_run = run.at(0);
        // SAFETY: the kernel filled the structure and does not run the vCPU meanwhile; the union
        // is read by the field that the reason names.
        unsafe {
            let u = &(*area).__bindgen_anon_1;
            match (*area).exit_reason {
                KVM_EXIT_IO => Exit::Io(io(run, &u.io)),
                KVM_EXIT_MMIO => Exit::Mmio(Mmio {
                    address: u.mmio.phys_addr,
                    data: u.mmio.data,
                    length: u.mmio.len,
                    write: u.mmio.is_write != 0,
                }),
                KVM_EXIT_HLT => Exit::Hlt,
                KVM_EXIT_IRQ_WINDOW_OPEN => Exit::IrqWindow,
                KVM_EXIT_SHUTDOWN => Exit::Shutdown,
                KVM_EXIT_INTR => Exit::Intr,
                KVM_EXIT_HYPERCALL => Exit::Hypercall(u.hypercall.nr, u.hypercall.args),
                KVM_EXIT_DEBUG => Exit::Debug {
                    exception: u.debug.arch.exception,
                    pc: u.debug.arch.pc,
                    dr6: u.debug.arch.dr6,
                    dr7: u.debug.arch.dr7,
                },
                KVM_EXIT_FAIL_ENTRY => Exit::FailEntry(u.fail_entry.hardware_entry_failure_reason),
                KVM_EXIT_INTERNAL_ERROR => {
                    let n = (u.internal.ndata as usize).min(u.internal.data.len());
                    Exit::InternalError(u.internal.suberror, u.internal.data[..n].to_vec())
                }
                KVM_EXIT_IOAPIC_EOI => Exit::IoapicEoi(u.eoi.vector),
                KVM_EXIT_X86_RDMSR => Exit::Rdmsr(u.msr.reason, u.msr.index),
                KVM_EXIT_X86_WRMSR => Exit::Wrmsr(u.msr.reason, u.msr.index, u.msr.data),
                KVM_EXIT_MEMORY_FAULT => Exit::MemoryFault(
                    u.memory_fault.flags,
                    u.memory_fault.gpa,
                    u.memory_fault.size,
                ),
                KVM_EXIT_SET_TPR => Exit::SetTpr,
                KVM_EXIT_UNKNOWN => Exit::Unknown(u.hw.hardware_exit_reason),
                other => Exit::Other(other),
            }
        }
    }

    /// Whether the guest wrote to `port`.
    pub fn is_out(&self, port: u16) -> bool {
        matches!(self, Exit::Io(io) if io.out && io.port == port)
    }
}

fn io(run: &Mapping, io: &kvm_run__bindgen_ty_1__bindgen_ty_4) -> Io {
    let length = usize::from(io.size) * io.count as usize;
    Io {
        out: u32::from(io.direction) == KVM_EXIT_IO_OUT,
        size: io.size,
        port: io.port,
        count: io.count,
        data: run.bytes(io.data_offset as usize, length),
    }
}
