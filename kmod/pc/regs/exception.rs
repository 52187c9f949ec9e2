// SPDX-License-Identifier: GPL-2.0

//! Exceptions: vectors, error codes, and what a second one on the way to the
//! handler of the first makes of both (APM volume 2, chapter 8).

/// An exception's vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Vector {
    /// #DE: divide error.
    Divide = 0,
    /// #DB: debug.
    Debug = 1,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// #BP: INT3.
    Breakpoint = 3,
    /// #OF: INTO.
    Overflow = 4,
    /// #BR: BOUND.
    Bound = 5,
    /// #UD: invalid opcode.
    InvalidOpcode = 6,
    /// #NM: no FPU.
    DeviceNotAvailable = 7,
    /// #DF: double fault.
    DoubleFault = 8,
    /// Coprocessor segment overrun.
    CoprocessorOverrun = 9,
    /// #TS: invalid TSS.
    InvalidTss = 10,
    /// #NP: segment not present.
    NotPresent = 11,
    /// #SS: stack.
    Stack = 12,
    /// #GP: general protection.
    GeneralProtection = 13,
    /// #PF: page fault.
    PageFault = 14,
    /// #MF: x87.
    X87 = 16,
    /// #AC: alignment check.
    Alignment = 17,
    /// #MC: machine check.
    MachineCheck = 18,
    /// #XM: SIMD.
    Simd = 19,
    /// #VE: virtualization (Intel).
    Virtualization = 20,
    /// #CP: control protection.
    ControlProtection = 21,
    /// #HV: hypervisor injection (AMD).
    HypervisorInjection = 28,
    /// #VC: VMM communication (AMD).
    VmmCommunication = 29,
    /// #SX: security (AMD).
    Security = 30,
}

/// How an exception counts when two meet (APM volume 2, table 8-5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultClass {
    /// Handled one after the other.
    Benign,
    /// Two of these make a double fault.
    Contributory,
    /// A page fault, and whatever behaves like one.
    PageFault,
    /// The double fault itself.
    DoubleFault,
}

/// What two exceptions make together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultPair {
    /// Deliver the second; the first comes again when its instruction restarts.
    Serial,
    /// Deliver #DF with error code 0.
    DoubleFault,
    /// Shutdown (triple fault).
    Shutdown,
}

impl Vector {
    /// The exception of a vector number, if that number is an exception's.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Divide,
            1 => Self::Debug,
            2 => Self::Nmi,
            3 => Self::Breakpoint,
            4 => Self::Overflow,
            5 => Self::Bound,
            6 => Self::InvalidOpcode,
            7 => Self::DeviceNotAvailable,
            8 => Self::DoubleFault,
            9 => Self::CoprocessorOverrun,
            10 => Self::InvalidTss,
            11 => Self::NotPresent,
            12 => Self::Stack,
            13 => Self::GeneralProtection,
            14 => Self::PageFault,
            16 => Self::X87,
            17 => Self::Alignment,
            18 => Self::MachineCheck,
            19 => Self::Simd,
            20 => Self::Virtualization,
            21 => Self::ControlProtection,
            28 => Self::HypervisorInjection,
            29 => Self::VmmCommunication,
            30 => Self::Security,
            _ => return None,
        })
    }

    /// The vector number.
    #[inline]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Does its delivery in protected mode push an error code? (In real mode
    /// none does.)
    #[inline]
    pub const fn has_error_code(self) -> bool {
        matches!(
            self,
            Self::DoubleFault
                | Self::InvalidTss
                | Self::NotPresent
                | Self::Stack
                | Self::GeneralProtection
                | Self::PageFault
                | Self::Alignment
                | Self::ControlProtection
                | Self::VmmCommunication
                | Self::Security
        )
    }

    /// Is it a trap, which reports the instruction after? (#DB can be either
    /// and is not counted.)
    #[inline]
    pub const fn is_trap(self) -> bool {
        matches!(self, Self::Breakpoint | Self::Overflow)
    }

    /// The class for meeting another (APM volume 2, section 8.2.9).
    #[inline]
    pub const fn class(self) -> FaultClass {
        match self {
            Self::Divide
            | Self::CoprocessorOverrun
            | Self::InvalidTss
            | Self::NotPresent
            | Self::Stack
            | Self::GeneralProtection
            | Self::ControlProtection
            | Self::VmmCommunication
            | Self::Security => FaultClass::Contributory,
            Self::PageFault | Self::Virtualization => FaultClass::PageFault,
            Self::DoubleFault => FaultClass::DoubleFault,
            _ => FaultClass::Benign,
        }
    }

    /// What happens when `second` arises while `self` is being delivered.
    #[inline]
    pub const fn then(self, second: Self) -> FaultPair {
        use FaultClass::{Benign, Contributory, DoubleFault, PageFault};
        match (self.class(), second.class()) {
            (DoubleFault, Contributory | PageFault | DoubleFault) => FaultPair::Shutdown,
            (Contributory, Contributory) | (PageFault, Contributory | PageFault) => {
                FaultPair::DoubleFault
            }
            (Benign, _) | (_, Benign) | (Contributory, PageFault) | (_, DoubleFault) => {
                FaultPair::Serial
            }
        }
    }
}

/// The error code of a page fault (APM volume 2, section 8.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct PageFaultError(pub u32);

impl PageFaultError {
    /// The page was present; its permissions forbade the access.
    pub const PRESENT: u32 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access was made in user mode.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit of an entry was set.
    pub const RESERVED: u32 = 1 << 3;
    /// The access was an instruction fetch (only with NXE or SMEP).
    pub const FETCH: u32 = 1 << 4;
    /// A protection key forbade the access.
    pub const PROTECTION_KEY: u32 = 1 << 5;
    /// The access was to a shadow stack.
    pub const SHADOW_STACK: u32 = 1 << 6;

    /// Are all bits of `bits` set?
    #[inline]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// An exception to deliver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Which.
    pub vector: Vector,
    /// The error code, present exactly when the vector has one.
    pub error_code: Option<u32>,
    /// What goes with it: the faulting address (CR2) for #PF, the bits to set
    /// in DR6 for #DB, else 0.
    pub payload: u64,
}

impl Exception {
    /// #DE.
    pub const DE: Self = Self::plain(Vector::Divide);
    /// #UD.
    pub const UD: Self = Self::plain(Vector::InvalidOpcode);
    /// #NM.
    pub const NM: Self = Self::plain(Vector::DeviceNotAvailable);
    /// #BR.
    pub const BR: Self = Self::plain(Vector::Bound);
    /// #GP with error code 0, the most frequent one.
    pub const GP0: Self = Self::gp(0);
    /// #SS with error code 0.
    pub const SS0: Self = Self::ss(0);
    /// #AC: its error code is always 0.
    pub const AC: Self = Self::with_code(Vector::Alignment, 0);

    /// One without payload; its error code, if the vector has one, is 0.
    #[inline]
    pub const fn plain(vector: Vector) -> Self {
        Self {
            vector,
            error_code: if vector.has_error_code() {
                Some(0)
            } else {
                None
            },
            payload: 0,
        }
    }

    /// One with an error code.
    #[inline]
    pub const fn with_code(vector: Vector, code: u32) -> Self {
        Self {
            vector,
            error_code: Some(code),
            payload: 0,
        }
    }

    /// #GP.
    #[inline]
    pub const fn gp(code: u32) -> Self {
        Self::with_code(Vector::GeneralProtection, code)
    }

    /// #SS.
    #[inline]
    pub const fn ss(code: u32) -> Self {
        Self::with_code(Vector::Stack, code)
    }

    /// #PF at linear address `address`.
    #[inline]
    pub const fn page_fault(error: PageFaultError, address: u64) -> Self {
        Self {
            vector: Vector::PageFault,
            error_code: Some(error.0),
            payload: address,
        }
    }

    /// #DB that sets `dr6` bits.
    #[inline]
    pub const fn debug(dr6: u64) -> Self {
        Self {
            vector: Vector::Debug,
            error_code: None,
            payload: dr6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        let mut known = 0;
        for number in 0..=255 {
            if let Some(vector) = Vector::from_number(number) {
                assert_eq!(vector.number(), number);
                known += 1;
            }
        }
        assert_eq!(known, 24);
    }

    #[test]
    fn pairs() {
        use Vector::{
            Debug, Divide, DoubleFault, GeneralProtection, InvalidOpcode, NotPresent, PageFault,
        };
        assert_eq!(
            GeneralProtection.then(NotPresent),
            FaultPair::DoubleFault,
            "contributory twice"
        );
        assert_eq!(Divide.then(PageFault), FaultPair::Serial);
        assert_eq!(PageFault.then(PageFault), FaultPair::DoubleFault);
        assert_eq!(PageFault.then(GeneralProtection), FaultPair::DoubleFault);
        assert_eq!(InvalidOpcode.then(PageFault), FaultPair::Serial);
        assert_eq!(PageFault.then(Debug), FaultPair::Serial);
        assert_eq!(DoubleFault.then(PageFault), FaultPair::Shutdown);
        assert_eq!(DoubleFault.then(GeneralProtection), FaultPair::Shutdown);
    }

    #[test]
    fn error_codes() {
        assert_eq!(Exception::UD.error_code, None);
        assert_eq!(Exception::plain(Vector::DoubleFault).error_code, Some(0));
        assert_eq!(Exception::GP0.error_code, Some(0));
        let fault = Exception::page_fault(PageFaultError(3), 0x1000);
        assert_eq!((fault.error_code, fault.payload), (Some(3), 0x1000));
    }
}
