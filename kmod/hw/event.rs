// SPDX-License-Identifier: GPL-2.0

//! Events on their way through entries and exits. Both vendors write them down in the
//! same way: EVENTINJ and EXITINTINFO (APM vol. 2, 15.20 and 15.7.2), the VM-entry and
//! VM-exit interruption information and the IDT-vectoring information (SDM vol. 3,
//! 25.8.3, 25.9.2 and 25.9.3).

use super::Event;
use crate::pc::bits::bits;

bits! {
    /// An event. The vector is in bits 7:0, the [`Kind`] in bits 10:8.
    Interruption: u32 {
        /// The event has an error code.
        ERROR_CODE = 1 << 11;
        /// Of an exit on VMX: it was in an IRET, which had ended the blocking of NMIs.
        NMI_UNBLOCKED = 1 << 12;
        /// The rest says something.
        VALID = 1 << 31;
    }
}

/// Kinds of events, as bits 10:8 of [`Interruption`] number them. SVM knows no more
/// than the first four.
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
    /// A valid event, whose error code is to be added.
    #[inline]
    pub const fn of(event: Event) -> Self {
        let (kind, vector) = match event {
            Event::Interrupt(vector) => (Kind::External, vector),
            Event::Nmi => (Kind::Nmi, 2),
            Event::Exception(vector, _) => (Kind::Hardware, vector),
            Event::SoftwareInterrupt(vector) => (Kind::SoftwareInterrupt, vector),
        };
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

/// The event whose delivery the exit has cut off (SDM 28.2.4, APM 15.7.2).
/// `error_code` reads what is its error code if it has one.
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
