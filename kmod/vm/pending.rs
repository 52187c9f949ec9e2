// SPDX-License-Identifier: GPL-2.0

//! What userspace has to answer before the guest goes on.
//!
//! KVM_RUN returns in the middle of an instruction; the next KVM_RUN, even one
//! with `immediate_exit` set, completes it first (KVM API document, 5).

use super::mmio::DeviceMove;
use super::mmio::Emulation;

/// An instruction that waits for userspace.
#[derive(Default)]
#[expect(
    clippy::large_enum_variant,
    reason = "one a vCPU, never moved on the way of an exit"
)]
pub enum Pending {
    /// None does.
    #[default]
    None,
    /// IN: the data come from the port data page.
    In {
        /// Bytes.
        size: u8,
        /// Address of the next instruction.
        next: u64,
        /// The instruction's own address: if userspace has moved RIP, the
        /// instruction is not completed.
        rip: u64,
    },
    /// OUT, or a plain move to a device: only RIP is left to do.
    Written {
        /// Address of the next instruction.
        next: u64,
        /// The instruction's own address.
        rip: u64,
    },
    /// A plain move from a device.
    Move(DeviceMove),
    /// An instruction being emulated: MMIO, or string I/O.
    Emulation(Emulation),
    /// RDMSR or WRMSR that userspace handles.
    Msr {
        /// RDMSR: the value comes from userspace.
        read: bool,
        /// Length of the instruction.
        length: u8,
        /// The instruction's own address.
        rip: u64,
    },
}
