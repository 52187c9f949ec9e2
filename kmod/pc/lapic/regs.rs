// SPDX-License-Identifier: GPL-2.0

//! Registers of the local APIC and their bits (APM vol. 2 section 16.3,
//! SDM vol. 3A section 12.4.1).
//!
//! A register is named by its index: the xAPIC page offset divided by 16,
//! which is also the x2APIC MSR number less 0x800.

/// First x2APIC MSR.
pub const X2APIC_MSR_BASE: u32 = 0x800;
/// Last MSR of the x2APIC range.
pub const X2APIC_MSR_LAST: u32 = 0x8ff;

/// The MSR of a register in x2APIC mode.
pub const fn x2apic_msr(register: u8) -> u32 {
    X2APIC_MSR_BASE + register as u32
}

/// Number of register indices that can be backed.
pub const REGISTERS: usize = 64;

/// APIC ID.
pub const ID: u8 = 0x02;
/// Version.
pub const VERSION: u8 = 0x03;
/// Task priority.
pub const TPR: u8 = 0x08;
/// Arbitration priority.
pub const APR: u8 = 0x09;
/// Processor priority.
pub const PPR: u8 = 0x0a;
/// End of interrupt.
pub const EOI: u8 = 0x0b;
/// Remote read.
pub const RRD: u8 = 0x0c;
/// Logical destination.
pub const LDR: u8 = 0x0d;
/// Destination format.
pub const DFR: u8 = 0x0e;
/// Spurious interrupt vector and software enable.
pub const SVR: u8 = 0x0f;
/// First of the eight in-service registers.
pub const ISR: u8 = 0x10;
/// First of the eight trigger mode registers.
pub const TMR: u8 = 0x18;
/// First of the eight interrupt request registers.
pub const IRR: u8 = 0x20;
/// Error status.
pub const ESR: u8 = 0x28;
/// Local vector table: corrected machine check.
pub const LVT_CMCI: u8 = 0x2f;
/// Interrupt command, low half (all of it in x2APIC mode).
pub const ICR: u8 = 0x30;
/// Interrupt command, high half (xAPIC mode only).
pub const ICR_HIGH: u8 = 0x31;
/// Local vector table: timer.
pub const LVT_TIMER: u8 = 0x32;
/// Local vector table: thermal sensor.
pub const LVT_THERMAL: u8 = 0x33;
/// Local vector table: performance counters.
pub const LVT_PERF: u8 = 0x34;
/// Local vector table: LINT0.
pub const LVT_LINT0: u8 = 0x35;
/// Local vector table: LINT1.
pub const LVT_LINT1: u8 = 0x36;
/// Local vector table: error.
pub const LVT_ERROR: u8 = 0x37;
/// Timer initial count.
pub const TIMER_INITIAL: u8 = 0x38;
/// Timer current count.
pub const TIMER_CURRENT: u8 = 0x39;
/// Timer divide configuration.
pub const TIMER_DIVIDE: u8 = 0x3e;
/// Self IPI (x2APIC mode only).
pub const SELF_IPI: u8 = 0x3f;

/// Bits of IA32_APIC_BASE (MSR 0x1b).
pub mod base {
    /// Bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode.
    pub const X2APIC: u64 = 1 << 10;
    /// Globally enabled.
    pub const ENABLE: u64 = 1 << 11;
    /// Bits below the address that have no meaning.
    pub const RESERVED_LOW: u64 = 0x2ff;
    /// The page's address after reset.
    pub const DEFAULT_ADDRESS: u64 = 0xfee0_0000;
}

/// Bits of the version register.
pub mod version {
    /// An integrated APIC, as KVM reports it.
    pub const INTEGRATED: u32 = 0x14;
    /// Shift of the number of LVT entries less one.
    pub const MAX_LVT_SHIFT: u32 = 16;
    /// EOI broadcasts can be suppressed (directed EOI).
    pub const DIRECTED_EOI: u32 = 1 << 24;
}

/// Bits of the spurious interrupt vector register.
pub mod svr {
    /// The spurious vector.
    pub const VECTOR: u32 = 0xff;
    /// Software enable.
    pub const ENABLE: u32 = 1 << 8;
    /// Focus processor checking off.
    pub const FOCUS_OFF: u32 = 1 << 9;
    /// Suppress EOI broadcasts.
    pub const SUPPRESS_EOI_BROADCAST: u32 = 1 << 12;
}

/// Bits of the destination format register.
pub mod dfr {
    /// The bits that always read as one.
    pub const ONES: u32 = 0x0fff_ffff;
    /// Model: flat.
    pub const FLAT: u8 = 0xf;
    /// Model: cluster.
    pub const CLUSTER: u8 = 0x0;
}

/// Bits of a local vector table entry.
pub mod lvt {
    /// The vector.
    pub const VECTOR: u32 = 0xff;
    /// Delivery mode.
    pub const DELIVERY_MODE: u32 = 0x700;
    /// Shift of the delivery mode.
    pub const DELIVERY_MODE_SHIFT: u32 = 8;
    /// Delivery status (read-only).
    pub const DELIVERY_STATUS: u32 = 1 << 12;
    /// Pin polarity.
    pub const POLARITY: u32 = 1 << 13;
    /// Remote IRR (read-only).
    pub const REMOTE_IRR: u32 = 1 << 14;
    /// Level triggered.
    pub const LEVEL: u32 = 1 << 15;
    /// Masked.
    pub const MASKED: u32 = 1 << 16;
    /// Timer mode, low bit: periodic.
    pub const TIMER_PERIODIC: u32 = 1 << 17;
    /// Timer mode, high bit: TSC deadline.
    pub const TIMER_TSC_DEADLINE: u32 = 1 << 18;
}

/// Bits of the interrupt command register.
pub mod icr {
    /// The vector.
    pub const VECTOR: u32 = 0xff;
    /// Shift of the delivery mode.
    pub const DELIVERY_MODE_SHIFT: u32 = 8;
    /// Logical destination.
    pub const LOGICAL: u32 = 1 << 11;
    /// Delivery status.
    pub const BUSY: u32 = 1 << 12;
    /// Assert.
    pub const ASSERT: u32 = 1 << 14;
    /// Level triggered.
    pub const LEVEL: u32 = 1 << 15;
    /// Shift of the destination shorthand.
    pub const SHORTHAND_SHIFT: u32 = 18;
    /// Bits of the low half that must be zero in x2APIC mode. BUSY is
    /// reserved as well, but Intel ignores it, so it is not among them.
    pub const X2APIC_RESERVED: u32 = 0xfff0_0000 | 0x0003_0000 | 1 << 13;
    /// Bits of the high half an xAPIC keeps.
    pub const HIGH_DESTINATION: u32 = 0xff00_0000;
}

/// Bits of the error status register.
pub mod esr {
    /// An IPI with a vector below 16 was to be sent.
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    /// An interrupt with a vector below 16 arrived.
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    /// A register that does not exist was accessed.
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// Bits of the timer divide configuration register.
pub const DIVIDE_MASK: u32 = 0b1011;

/// Vectors below this one are reserved for exceptions and cannot be sent.
pub const FIRST_LEGAL_VECTOR: u8 = 16;
