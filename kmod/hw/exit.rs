// SPDX-License-Identifier: GPL-2.0

//! What the vendors tell of an exit, and what an entry delivers, in terms that
//! no longer know the vendor. No kernel types: vendors' decoders are tested on
//! the host.

use crate::pc::addr::Gpa;

/// Why the guest stopped, in terms that no longer know the vendor.
#[derive(Clone, Copy, Debug)]
pub enum Exit {
    /// The host has an interrupt to take: it is delivered once interrupts are on.
    HostInterrupt,
    /// The time has come that `Vendor::set_deadline` was told.
    Deadline,
    /// The host had an NMI; it has been taken already.
    HostNmi,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// The guest can take an NMI now, or is nearer to it: look again.
    NmiWindow,
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// INVD or WBINVD.
    CacheFlush,
    /// PAUSE, too often in a row.
    Pause,
    /// MONITOR or MWAIT.
    MonitorWait,
    /// XSETBV.
    SetXcr,
    /// RDPMC.
    ReadPmc,
    /// An instruction that this guest's processor does not have.
    Undefined,
    /// An access to a control register.
    ControlRegister(RegisterAccess),
    /// An access to a debug register.
    DebugRegister(RegisterAccess),
    /// IN, OUT, INS or OUTS.
    Io(IoExit),
    /// A guest physical address without a (sufficient) translation.
    NestedFault(NestedFault),
    /// The guest has completed an interrupt whose end somebody waits for, at
    /// the local APIC that the processor keeps. The instruction is done.
    Eoi {
        /// Vector.
        vector: u8,
    },
    /// The guest has written a register of the local APIC that the processor
    /// keeps, which did no more than take the value. The instruction is done.
    ApicWrite {
        /// Where in the register page the write began.
        offset: u16,
        /// The value of the whole register.
        value: u32,
    },
    /// An intercepted exception.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code, where the vector has one.
        error_code: Option<u32>,
    },
    /// A hardware task switch.
    TaskSwitch,
    /// Triple fault.
    Shutdown,
    /// The processor refused the guest state.
    EntryFailed {
        /// The processor's reason.
        reason: u64,
    },
    /// An exit that nothing asked for.
    Unexpected {
        /// The processor's exit code.
        code: u64,
    },
}

/// The exits that come most. They are looked for before an [`Exit`] is made, which
/// goes through memory.
#[derive(Clone, Copy, Debug)]
pub enum Frequent {
    /// [`Exit::Cpuid`].
    Cpuid,
    /// [`Exit::Hypercall`].
    Hypercall,
    /// [`Exit::ReadMsr`].
    ReadMsr,
    /// [`Exit::WriteMsr`].
    WriteMsr,
    /// [`Exit::NestedFault`]: [`Vendor::nested_fault`](super::Vendor::nested_fault)
    /// has the rest.
    NestedFault,
    /// [`Exit::Io`]: [`Vendor::io`](super::Vendor::io) has the rest.
    Io,
}

/// An access to a control or debug register, as far as the processor tells it.
#[derive(Clone, Copy, Debug)]
pub enum RegisterAccess {
    /// The processor gives no operands: they come from the instruction.
    Decode,
    /// MOV between a general register and register `number`.
    Move {
        /// Number of the control or debug register.
        number: u8,
        /// Number of the general register.
        gpr: u8,
        /// To the control or debug register.
        write: bool,
    },
}

/// An I/O instruction.
#[derive(Clone, Copy, Debug)]
pub struct IoExit {
    /// Port.
    pub port: u16,
    /// Operand size in bytes: 1, 2 or 4.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// Address of the next instruction, where the processor gives it.
    pub next_rip: Option<u64>,
}

/// What the processor says of a nested page fault.
#[derive(Clone, Copy, Debug)]
pub struct NestedFault {
    /// Where.
    pub gpa: Gpa,
    /// The access was a write.
    pub write: bool,
    /// The access was an instruction fetch.
    pub fetch: bool,
    /// A translation was there but did not allow the access (a hint only).
    pub present: bool,
    /// The access was the processor's own, to a guest page table.
    pub table_walk: bool,
}

/// An event that a VM entry delivers, or that an exit cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// External interrupt.
    Interrupt(u8),
    /// Non-maskable interrupt.
    Nmi,
    /// Exception, with its error code.
    Exception(u8, Option<u32>),
    /// INT n: delivered again by executing the instruction again.
    SoftwareInterrupt(u8),
}
