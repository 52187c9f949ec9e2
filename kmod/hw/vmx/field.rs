// SPDX-License-Identifier: GPL-2.0

//! The fields of a VMCS: SDM vol. 3, chapter 25 and appendix B.
//!
//! Each is declared once: encoding, width (its type) and meaning. The groups
//! are those of the encoding: [`control`], [`info`] (read-only), [`guest`] and
//! [`host`]. Fields of features that we do not use are not here; which of the
//! rarer ones exist, the capability MSRs tell.

use crate::pc::regs::SegReg;

/// A field of a VMCS, with the type of its value.
pub trait Field: Copy {
    /// Its value.
    type Value: Copy;
    /// The operand of VMREAD and VMWRITE.
    fn encoding(self) -> u32;
    /// The value in a register.
    fn from_register(register: u64) -> Self::Value;
    /// The register for a value.
    fn to_register(value: Self::Value) -> u64;
}

macro_rules! width {
    ($(#[$doc:meta])* $name:ident: $value:ty, $code:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(transparent)]
        pub struct $name(u32);

        impl $name {
            /// Width in bits.
            pub const BITS: u8 = <$value>::BITS as u8;
            /// Bits 14:13 of the encoding.
            pub const WIDTH: u32 = $code;
        }

        impl Field for $name {
            type Value = $value;

            #[inline(always)]
            fn encoding(self) -> u32 {
                self.0
            }

            #[inline(always)]
            fn from_register(register: u64) -> $value {
                register as $value
            }

            #[inline(always)]
            fn to_register(value: $value) -> u64 {
                u64::from(value)
            }
        }
    };
}

width! {
    /// A field of 16 bits.
    Field16: u16, 0
}
width! {
    /// A field of 32 bits.
    Field32: u32, 2
}
width! {
    /// A field of 64 bits.
    Field64: u64, 1
}
width! {
    /// A field as wide as a general register: 64 bits here.
    FieldNatural: u64, 3
}

/// The fields of a VMCS, to be read.
pub trait ReadFields {
    /// Reads a field.
    fn read<F: Field>(&self, field: F) -> F::Value;
}

/// A field of any width, for people.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The operand of VMREAD.
    pub encoding: u32,
    /// Width in bits: 16, 32 or 64.
    pub bits: u8,
    /// What it is.
    pub name: &'static str,
}

macro_rules! fields {
    ($group:expr; $($width:ident { $( $name:ident = $encoding:expr, $words:expr; )* })*) => {
        $($(
            #[doc = concat!($words, ".")]
            pub const $name: $width = $width($encoding);
        )*)*

        // The parts of the encoding (25.11.2): width, group, an
        // index, and bit 0 for the upper half of a 64-bit field.
        $($(
            const _: () = assert!($encoding == $width::WIDTH << 13 | $group << 10 | $encoding & 0x3fe);
        )*)*

        /// All of them.
        pub const ALL: &[Described] = &[
            $($(
                Described {
                    encoding: $encoding,
                    bits: $width::BITS,
                    name: $words,
                },
            )*)*
        ];
    };
}

/// What the processor is to do: SDM vol. 3, 25.6 to 25.8.
pub mod control {
    use super::{Described, Field16, Field32, Field64, FieldNatural};

    fields! {
        0;
        Field16 {
            VPID = 0x0000, "Virtual-processor identifier";
            POSTED_NOTIFICATION_VECTOR = 0x0002, "Posted-interrupt notification vector";
        }
        Field32 {
            PIN = 0x4000, "Pin-based controls";
            PRIMARY = 0x4002, "Primary processor-based controls";
            EXCEPTION_BITMAP = 0x4004, "Exception bitmap";
            PAGE_FAULT_MASK = 0x4006, "Page-fault error-code mask";
            PAGE_FAULT_MATCH = 0x4008, "Page-fault error-code match";
            CR3_TARGET_COUNT = 0x400a, "CR3-target count";
            EXIT = 0x400c, "Primary VM-exit controls";
            EXIT_MSR_STORE_COUNT = 0x400e, "VM-exit MSR-store count";
            EXIT_MSR_LOAD_COUNT = 0x4010, "VM-exit MSR-load count";
            ENTRY = 0x4012, "VM-entry controls";
            ENTRY_MSR_LOAD_COUNT = 0x4014, "VM-entry MSR-load count";
            ENTRY_INTERRUPTION = 0x4016, "VM-entry interruption information";
            ENTRY_ERROR_CODE = 0x4018, "VM-entry exception error code";
            ENTRY_INSTRUCTION_LENGTH = 0x401a, "VM-entry instruction length";
            TPR_THRESHOLD = 0x401c, "TPR threshold";
            SECONDARY = 0x401e, "Secondary processor-based controls";
            PLE_GAP = 0x4020, "PAUSE-loop gap";
            PLE_WINDOW = 0x4022, "PAUSE-loop window";
        }
        Field64 {
            MSR_BITMAP = 0x2004, "Address of the MSR bitmaps";
            PML_ADDRESS = 0x200e, "PML address";
            TSC_OFFSET = 0x2010, "TSC offset";
            VIRTUAL_APIC_PAGE = 0x2012, "Virtual-APIC address";
            APIC_ACCESS_PAGE = 0x2014, "APIC-access address";
            POSTED_DESCRIPTOR = 0x2016, "Posted-interrupt descriptor address";
            EPTP = 0x201a, "EPT pointer";
            EOI_EXIT_0 = 0x201c, "EOI-exit bitmap 0";
            EOI_EXIT_1 = 0x201e, "EOI-exit bitmap 1";
            EOI_EXIT_2 = 0x2020, "EOI-exit bitmap 2";
            EOI_EXIT_3 = 0x2022, "EOI-exit bitmap 3";
            XSS_EXITING = 0x202c, "XSS-exiting bitmap";
            ENCLS_EXITING = 0x202e, "ENCLS-exiting bitmap";
            TSC_MULTIPLIER = 0x2032, "TSC multiplier";
        }
        FieldNatural {
            CR0_MASK = 0x6000, "CR0 guest/host mask";
            CR4_MASK = 0x6002, "CR4 guest/host mask";
            CR0_SHADOW = 0x6004, "CR0 read shadow";
            CR4_SHADOW = 0x6006, "CR4 read shadow";
        }
    }
}

/// What the last exit, or VMX instruction that failed, has left: read-only
/// (SDM vol. 3, 25.9).
pub mod info {
    use super::{Described, Field32, Field64, FieldNatural};

    fields! {
        1;
        Field32 {
            INSTRUCTION_ERROR = 0x4400, "VM-instruction error";
            REASON = 0x4402, "Exit reason";
            INTERRUPTION = 0x4404, "VM-exit interruption information";
            ERROR_CODE = 0x4406, "VM-exit interruption error code";
            VECTORING = 0x4408, "IDT-vectoring information";
            VECTORING_ERROR_CODE = 0x440a, "IDT-vectoring error code";
            INSTRUCTION_LENGTH = 0x440c, "VM-exit instruction length";
            INSTRUCTION_INFO = 0x440e, "VM-exit instruction information";
        }
        Field64 {
            GUEST_PHYSICAL = 0x2400, "Guest-physical address";
        }
        FieldNatural {
            QUALIFICATION = 0x6400, "Exit qualification";
            GUEST_LINEAR = 0x640a, "Guest-linear address";
        }
    }
}

/// The guest's state: loaded on entry, saved on exit (SDM vol. 3, 25.4).
pub mod guest {
    use super::{Described, Field16, Field32, Field64, FieldNatural};

    fields! {
        2;
        Field16 {
            ES_SELECTOR = 0x0800, "ES selector";
            CS_SELECTOR = 0x0802, "CS selector";
            SS_SELECTOR = 0x0804, "SS selector";
            DS_SELECTOR = 0x0806, "DS selector";
            FS_SELECTOR = 0x0808, "FS selector";
            GS_SELECTOR = 0x080a, "GS selector";
            LDTR_SELECTOR = 0x080c, "LDTR selector";
            TR_SELECTOR = 0x080e, "TR selector";
            INTERRUPT_STATUS = 0x0810, "Guest interrupt status";
            PML_INDEX = 0x0812, "PML index";
        }
        Field32 {
            ES_LIMIT = 0x4800, "ES limit";
            CS_LIMIT = 0x4802, "CS limit";
            SS_LIMIT = 0x4804, "SS limit";
            DS_LIMIT = 0x4806, "DS limit";
            FS_LIMIT = 0x4808, "FS limit";
            GS_LIMIT = 0x480a, "GS limit";
            LDTR_LIMIT = 0x480c, "LDTR limit";
            TR_LIMIT = 0x480e, "TR limit";
            GDTR_LIMIT = 0x4810, "GDTR limit";
            IDTR_LIMIT = 0x4812, "IDTR limit";
            ES_ACCESS = 0x4814, "ES access rights";
            CS_ACCESS = 0x4816, "CS access rights";
            SS_ACCESS = 0x4818, "SS access rights";
            DS_ACCESS = 0x481a, "DS access rights";
            FS_ACCESS = 0x481c, "FS access rights";
            GS_ACCESS = 0x481e, "GS access rights";
            LDTR_ACCESS = 0x4820, "LDTR access rights";
            TR_ACCESS = 0x4822, "TR access rights";
            INTERRUPTIBILITY = 0x4824, "Interruptibility state";
            ACTIVITY = 0x4826, "Activity state";
            SYSENTER_CS = 0x482a, "IA32_SYSENTER_CS";
            PREEMPTION_TIMER = 0x482e, "VMX-preemption timer value";
        }
        Field64 {
            LINK_POINTER = 0x2800, "VMCS link pointer";
            DEBUGCTL = 0x2802, "IA32_DEBUGCTL";
            EFER = 0x2806, "IA32_EFER";
            PDPTE0 = 0x280a, "PDPTE 0";
            PDPTE1 = 0x280c, "PDPTE 1";
            PDPTE2 = 0x280e, "PDPTE 2";
            PDPTE3 = 0x2810, "PDPTE 3";
        }
        FieldNatural {
            CR0 = 0x6800, "CR0";
            CR3 = 0x6802, "CR3";
            CR4 = 0x6804, "CR4";
            ES_BASE = 0x6806, "ES base";
            CS_BASE = 0x6808, "CS base";
            SS_BASE = 0x680a, "SS base";
            DS_BASE = 0x680c, "DS base";
            FS_BASE = 0x680e, "FS base";
            GS_BASE = 0x6810, "GS base";
            LDTR_BASE = 0x6812, "LDTR base";
            TR_BASE = 0x6814, "TR base";
            GDTR_BASE = 0x6816, "GDTR base";
            IDTR_BASE = 0x6818, "IDTR base";
            DR7 = 0x681a, "DR7";
            RSP = 0x681c, "RSP";
            RIP = 0x681e, "RIP";
            RFLAGS = 0x6820, "RFLAGS";
            PENDING_DEBUG = 0x6822, "Pending debug exceptions";
            SYSENTER_ESP = 0x6824, "IA32_SYSENTER_ESP";
            SYSENTER_EIP = 0x6826, "IA32_SYSENTER_EIP";
        }
    }
}

/// The host's state: loaded on exit (SDM vol. 3, 25.5).
pub mod host {
    use super::{Described, Field16, Field32, Field64, FieldNatural};

    fields! {
        3;
        Field16 {
            ES_SELECTOR = 0x0c00, "ES selector";
            CS_SELECTOR = 0x0c02, "CS selector";
            SS_SELECTOR = 0x0c04, "SS selector";
            DS_SELECTOR = 0x0c06, "DS selector";
            FS_SELECTOR = 0x0c08, "FS selector";
            GS_SELECTOR = 0x0c0a, "GS selector";
            TR_SELECTOR = 0x0c0c, "TR selector";
        }
        Field32 {
            SYSENTER_CS = 0x4c00, "IA32_SYSENTER_CS";
        }
        Field64 {
            EFER = 0x2c02, "IA32_EFER";
        }
        FieldNatural {
            CR0 = 0x6c00, "CR0";
            CR3 = 0x6c02, "CR3";
            CR4 = 0x6c04, "CR4";
            FS_BASE = 0x6c06, "FS base";
            GS_BASE = 0x6c08, "GS base";
            TR_BASE = 0x6c0a, "TR base";
            GDTR_BASE = 0x6c0c, "GDTR base";
            IDTR_BASE = 0x6c0e, "IDTR base";
            SYSENTER_ESP = 0x6c10, "IA32_SYSENTER_ESP";
            SYSENTER_EIP = 0x6c12, "IA32_SYSENTER_EIP";
            RSP = 0x6c14, "RSP";
            RIP = 0x6c16, "RIP";
        }
    }
}

/// The PAE directory pointers of the guest.
pub const PDPTES: [Field64; 4] = [guest::PDPTE0, guest::PDPTE1, guest::PDPTE2, guest::PDPTE3];

/// The four fields of one of the guest's segment registers.
#[derive(Clone, Copy, Debug)]
pub struct SegmentFields {
    /// Selector.
    pub selector: Field16,
    /// Limit in bytes.
    pub limit: Field32,
    /// Access rights (25.4.1).
    pub access: Field32,
    /// Base.
    pub base: FieldNatural,
}

impl SegmentFields {
    /// Those of `which`: the encodings of each kind follow one another in the
    /// order of [`SegReg`].
    #[inline]
    pub const fn of(which: SegReg) -> Self {
        let step = 2 * which as u32;
        Self {
            selector: Field16(guest::ES_SELECTOR.0 + step),
            limit: Field32(guest::ES_LIMIT.0 + step),
            access: Field32(guest::ES_ACCESS.0 + step),
            base: FieldNatural(guest::ES_BASE.0 + step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: [&[Described]; 4] = [control::ALL, info::ALL, guest::ALL, host::ALL];

    fn all() -> impl Iterator<Item = &'static Described> {
        GROUPS.iter().flat_map(|fields| fields.iter())
    }

    fn named(encoding: u32) -> &'static str {
        all()
            .find(|field| field.encoding == encoding)
            .map_or("none", |field| field.name)
    }

    #[test]
    fn none_twice() {
        let mut seen = std::collections::HashSet::new();
        for field in all() {
            assert!(
                seen.insert(field.encoding),
                "{:#x} twice: {}",
                field.encoding,
                field.name
            );
        }
        for fields in GROUPS {
            let mut names = std::collections::HashSet::new();
            for field in fields {
                assert!(names.insert(field.name), "two are named {}", field.name);
            }
        }
    }

    #[test]
    fn segments() {
        let names = ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"];
        for (which, name) in SegReg::ALL.iter().zip(names) {
            let fields = SegmentFields::of(*which);
            assert_eq!(
                named(fields.selector.encoding()),
                format!("{name} selector")
            );
            assert_eq!(named(fields.limit.encoding()), format!("{name} limit"));
            assert_eq!(
                named(fields.access.encoding()),
                format!("{name} access rights")
            );
            assert_eq!(named(fields.base.encoding()), format!("{name} base"));
        }
    }
}
