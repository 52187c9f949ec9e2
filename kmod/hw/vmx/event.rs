// SPDX-License-Identifier: GPL-2.0

//! Events on their way through entries and exits: SDM vol. 3, 25.8.3, 25.9.2,
//! 25.9.3, 27.6 and 28.2.4.

use crate::hw::Event;
use crate::pc::bits::bits;
use crate::pc::bits::named_bits;

bits! {
    /// An event, as the VM-entry interruption information, the VM-exit
    /// interruption information and the IDT-vectoring information hold it. The
    /// vector is in bits 7:0, the [`Kind`] in bits 10:8.
    Interruption: u32 {
        /// The event has an error code.
        ERROR_CODE = 1 << 11;
        /// Of an exit: it was in an IRET, which had ended the blocking of NMIs.
        NMI_UNBLOCKED = 1 << 12;
        /// The rest says something.
        VALID = 1 << 31;
    }
}

/// Kinds of events, as bits 10:8 of [`Interruption`] number them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// External interrupt.
    External = 0,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// Exception that no INT instruction has raised.
    Hardware = 3,
    /// INT n.
    SoftwareInterrupt = 4,
    /// INT1.
    PrivilegedSoftware = 5,
    /// INT3 or INTO.
    SoftwareException = 6,
    /// On entry, an MTF VM exit; else not used.
    Other = 7,
}

impl Interruption {
    /// A valid event without error code.
    const fn new(kind: Kind, vector: u8) -> Self {
        Self(Self::VALID.0 | (kind as u32) << 8 | vector as u32)
    }

    /// Vector.
    #[inline]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Kind; type 1 is reserved.
    #[inline]
    pub const fn kind(self) -> Option<Kind> {
        Some(match self.0 >> 8 & 7 {
            0 => Kind::External,
            2 => Kind::Nmi,
            3 => Kind::Hardware,
            4 => Kind::SoftwareInterrupt,
            5 => Kind::PrivilegedSoftware,
            6 => Kind::SoftwareException,
            7 => Kind::Other,
            _ => return None,
        })
    }

    /// It is valid and of this kind.
    #[inline]
    pub fn is(self, kind: Kind) -> bool {
        self.has(Self::VALID) && self.kind() == Some(kind)
    }
}

named_bits! {
    /// Interruptibility state of the guest (25.4.2). With virtual NMIs, the
    /// blocking of NMIs is that of the guest's.
    Interruptibility: u32 {
        STI = 0, "blocking by STI";
        MOV_SS = 1, "blocking by MOV SS";
        SMI = 2, "blocking by SMI";
        NMI = 3, "blocking by NMI";
        ENCLAVE = 4, "enclave interruption";
    }
}

/// The fields of an entry that delivers an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injection {
    /// For [`super::field::control::ENTRY_INTERRUPTION`].
    pub info: Interruption,
    /// For [`super::field::control::ENTRY_ERROR_CODE`], if it counts.
    pub error_code: Option<u16>,
}

/// What decides whether an exception is delivered with an error code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorCodes {
    /// The guest's CR0.PE: in real mode nothing pushes one.
    pub protected: bool,
    /// The processor leaves it to us ([`super::controls::Controls::any_error_code`]);
    /// else the vector decides.
    pub any: bool,
}

/// Vectors that have an error code, as far as entries without
/// [`ErrorCodes::any`] know (27.2.1.3): #CP is not among them.
const WITH_ERROR_CODE: u32 = 1 << 8 | 0x1f << 10 | 1 << 17;

impl Injection {
    /// The injection that delivers `event` and that the entry does not refuse
    /// (27.2.1.3): an error code is added or left out where it would.
    ///
    /// #BP and #OF are delivered as exceptions of the hardware: with RIP behind
    /// their instruction, which is what is pushed, and without the check of
    /// the gate's DPL. INT n needs no injection: RIP is at the instruction.
    #[inline]
    pub fn of(event: Event, codes: ErrorCodes) -> Option<Self> {
        match event {
            Event::Interrupt(vector) => Some(Self::plain(Kind::External, vector)),
            Event::Nmi => Some(Self::plain(Kind::Nmi, 2)),
            Event::Exception(vector, code) => Some(Self::exception(vector, code, codes)),
            Event::SoftwareInterrupt(_) => None,
        }
    }

    const fn plain(kind: Kind, vector: u8) -> Self {
        Self {
            info: Interruption::new(kind, vector),
            error_code: None,
        }
    }

    fn exception(vector: u8, code: Option<u32>, codes: ErrorCodes) -> Self {
        let vector = vector & 31;
        let expected = if codes.any {
            code.is_some()
        } else {
            WITH_ERROR_CODE >> vector & 1 != 0
        };
        let plain = Self::plain(Kind::Hardware, vector);
        if !(codes.protected && expected) {
            return plain;
        }
        Self {
            info: plain.info | Interruption::ERROR_CODE,
            // The upper half must be 0, and in no error code is anything there
            // that a guest could use.
            error_code: Some(code.unwrap_or(0) as u16),
        }
    }
}

/// The event whose delivery the exit has cut off, out of the IDT-vectoring
/// information (28.2.4). `error_code` reads the IDT-vectoring error code.
#[inline]
pub fn interrupted(vectoring: Interruption, error_code: impl FnOnce() -> u32) -> Option<Event> {
    if !vectoring.has(Interruption::VALID) {
        return None;
    }
    let vector = vectoring.vector();
    match vectoring.kind()? {
        Kind::External => Some(Event::Interrupt(vector)),
        Kind::Nmi => Some(Event::Nmi),
        Kind::Hardware => {
            let code = vectoring.has(Interruption::ERROR_CODE);
            Some(Event::Exception(vector, code.then(error_code)))
        }
        // RIP is at the instruction, which raises it again.
        Kind::SoftwareInterrupt | Kind::PrivilegedSoftware | Kind::SoftwareException => {
            Some(Event::SoftwareInterrupt(vector))
        }
        Kind::Other => None,
    }
}

/// What the exit makes of the guest's blocking of NMIs ([`Interruptibility::NMI`]),
/// if anything: SDM vol. 3, 28.2.3 and 27.3.1.5.
///
/// `vectoring`: the IDT-vectoring information. `unblocked`: the exit says that
/// an IRET had ended the blocking when it failed
/// ([`super::exit::nmi_unblocked`]).
///
/// An NMI whose delivery was cut off is delivered again, which an entry refuses
/// while NMIs are blocked. An IRET that has failed executes again, and until it
/// has, its handler still runs.
#[inline]
pub fn nmi_blocking(vectoring: Interruption, unblocked: bool) -> Option<bool> {
    if vectoring.has(Interruption::VALID) {
        return vectoring.is(Kind::Nmi).then_some(false);
    }
    unblocked.then_some(true)
}

#[cfg(test)]
mod tests;
