// SPDX-License-Identifier: GPL-2.0

//! Interrupt messages: what an MSI, an I/O APIC entry or an IPI says, which
//! local APICs it is for, and which message a GSI stands for.
//!
//! Sending a message is: for each vCPU, [`dest::matches`]; for
//! [`DeliveryMode::LowestPriority`] and redirectable messages pick one with
//! [`dest::Arbiter`]; then `LapicPost::accept` and kick if it says so.

pub mod dest;
pub mod msi;
pub mod pv_ipi;
pub mod routes;

#[cfg(test)]
mod tests;

/// The destination that is every local APIC, in the 32-bit form.
pub const BROADCAST: u32 = u32::MAX;
/// The destination that is every local APIC, in the 8-bit form.
pub const BROADCAST_8BIT: u32 = 0xff;

/// Delivery mode of a message (SDM vol. 3A sections 12.6.1 and 12.11.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DeliveryMode {
    /// The vector, to all that match.
    Fixed = 0,
    /// The vector, to the one of lowest priority among those that match.
    LowestPriority = 1,
    /// System management interrupt.
    Smi = 2,
    /// Reserved (once "remote read").
    Reserved = 3,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// INIT.
    Init = 5,
    /// Startup IPI; the vector is the page to start at.
    Startup = 6,
    /// From a PIC that supplies the vector on acknowledge.
    ExtInt = 7,
}

impl DeliveryMode {
    /// From the three-bit field; higher bits are ignored.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            _ => Self::ExtInt,
        }
    }
}

/// How a message names its destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DestMode {
    /// By APIC id.
    Physical,
    /// By logical id: a set of APICs.
    Logical,
}

impl DestMode {
    /// From the register's bit.
    #[inline]
    pub const fn from_bit(logical: bool) -> Self {
        if logical {
            Self::Logical
        } else {
            Self::Physical
        }
    }
}

/// One interrupt message on its way to local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Destination; [`BROADCAST`] is every APIC.
    pub dest: u32,
    /// How `dest` is to be read.
    pub dest_mode: DestMode,
    /// What is delivered.
    pub mode: DeliveryMode,
    /// The vector, where the mode has one.
    pub vector: u8,
    /// Trigger mode: level when true, else edge.
    pub level_triggered: bool,
    /// For level-triggered messages: assert when true. Always true otherwise.
    pub assert: bool,
    /// Redirection hint of an MSI: deliver to one of those that match.
    pub redirect_hint: bool,
    /// Somebody may want to hear of its completion, though it is edge
    /// triggered: it comes from an I/O APIC.
    pub watched: bool,
}

impl Message {
    /// A fixed, edge-triggered interrupt for one physical destination.
    pub const fn fixed(dest: u32, vector: u8) -> Self {
        Self {
            dest,
            dest_mode: DestMode::Physical,
            mode: DeliveryMode::Fixed,
            vector,
            level_triggered: false,
            assert: true,
            redirect_hint: false,
            watched: false,
        }
    }

    /// Whether exactly one of the APICs that match is to get it.
    #[inline]
    pub const fn is_redirectable(&self) -> bool {
        matches!(self.mode, DeliveryMode::LowestPriority) || self.redirect_hint
    }

    /// Whether it takes back a level instead of asserting it, which does
    /// nothing on an integrated APIC. (As an INIT it once synchronised
    /// arbitration ids.)
    #[inline]
    pub const fn is_deassert(&self) -> bool {
        self.level_triggered && !self.assert
    }
}

/// Destination shorthand of an IPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shorthand {
    /// None: the message's destination counts.
    None,
    /// The sender.
    Myself,
    /// All, the sender too.
    All,
    /// All but the sender.
    AllButSelf,
}

/// An IPI that a write to the interrupt command register asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpiRequest {
    /// Who gets it, if not by `message.dest`.
    pub shorthand: Shorthand,
    /// What is sent. `dest` is already [`BROADCAST`] for shorthand `All` and
    /// `AllButSelf`, so only the sender needs special treatment.
    pub message: Message,
}

/// Who gave a message to the sink, and what became of it, in the terms of
/// KVM_IRQ_LINE_STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum LineStatus {
    /// Nobody listens: masked, or no local APIC takes it.
    Ignored,
    /// Merged with one that has not been handled yet.
    Coalesced,
    /// Delivered to this many vCPUs.
    Delivered(u32),
}

impl LineStatus {
    /// The value KVM_IRQ_LINE_STATUS reports: negative when ignored, 0 when
    /// coalesced, else the number of vCPUs.
    pub const fn to_abi(self) -> i32 {
        match self {
            Self::Ignored => -1,
            Self::Coalesced => 0,
            Self::Delivered(vcpus) if vcpus > i32::MAX as u32 => i32::MAX,
            Self::Delivered(vcpus) => vcpus as i32,
        }
    }

    /// The status of a GSI that goes to two controllers: the deliveries add
    /// up, and anything is better than ignored.
    pub const fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ignored, status) | (status, Self::Ignored) => status,
            (Self::Delivered(a), Self::Delivered(b)) => Self::Delivered(a.saturating_add(b)),
            (Self::Delivered(a), Self::Coalesced) | (Self::Coalesced, Self::Delivered(a)) => {
                Self::Delivered(a)
            }
            (Self::Coalesced, Self::Coalesced) => Self::Coalesced,
        }
    }
}
