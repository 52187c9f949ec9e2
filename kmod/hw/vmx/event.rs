// SPDX-License-Identifier: GPL-2.0

//! Events on their way through entries and exits: SDM vol. 3, 25.8.3, 25.9.2,
//! 25.9.3, 27.6 and 28.2.4.

use crate::hw::event::Interruption;
use crate::hw::event::Kind;
use crate::hw::Event;
use crate::pc::bits::named_bits;

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
            Event::SoftwareInterrupt(_) => None,
            Event::Exception(vector, code) => Some(Self::exception(vector & 31, code, codes)),
            event => Some(Self::plain(event)),
        }
    }

    fn plain(event: Event) -> Self {
        Self {
            info: Interruption::of(event),
            error_code: None,
        }
    }

    fn exception(vector: u8, code: Option<u32>, codes: ErrorCodes) -> Self {
        let expected = if codes.any {
            code.is_some()
        } else {
            WITH_ERROR_CODE >> vector & 1 != 0
        };
        let plain = Self::plain(Event::Exception(vector, None));
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
