// SPDX-License-Identifier: GPL-2.0

//! Segment registers with their hidden parts (APM volume 2, chapter 4).

/// A segment register, numbered as instructions encode it; LDTR and TR follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum SegReg {
    /// Extra.
    Es = 0,
    /// Code.
    Cs = 1,
    /// Stack.
    Ss = 2,
    /// Data.
    Ds = 3,
    /// F.
    Fs = 4,
    /// G.
    Gs = 5,
    /// Local descriptor table.
    Ldtr = 6,
    /// Task.
    Tr = 7,
}

impl SegReg {
    /// All eight, in order of number.
    pub const ALL: [Self; 8] = [
        Self::Es,
        Self::Cs,
        Self::Ss,
        Self::Ds,
        Self::Fs,
        Self::Gs,
        Self::Ldtr,
        Self::Tr,
    ];

    /// The segment register a MOV encodes with `number`, if there is one.
    #[inline]
    pub const fn from_encoding(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Es,
            1 => Self::Cs,
            2 => Self::Ss,
            3 => Self::Ds,
            4 => Self::Fs,
            5 => Self::Gs,
            _ => return None,
        })
    }
}

/// A descriptor's attributes, packed as a VMCB holds them: the descriptor's
/// bits 40 to 47 in the low byte, bits 52 to 55 above, and a bit of our own
/// for "unusable".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Attributes(pub u16);

impl Attributes {
    /// Type, four bits. For code and data: bit 0 accessed, bit 1 readable or
    /// writable, bit 2 conforming or expand-down, bit 3 code.
    pub const TYPE: u16 = 0xf;
    /// Code or data (else system).
    pub const S: u16 = 1 << 4;
    /// Descriptor privilege level, two bits.
    pub const DPL: u16 = 3 << 5;
    /// Present.
    pub const P: u16 = 1 << 7;
    /// Available to software.
    pub const AVL: u16 = 1 << 8;
    /// 64-bit code.
    pub const L: u16 = 1 << 9;
    /// Default size: 32-bit code, stack or expand-down data.
    pub const DB: u16 = 1 << 10;
    /// The descriptor's limit counts 4 KiB units. [`Segment::limit`] is in
    /// bytes all the same.
    pub const G: u16 = 1 << 11;
    /// The register holds a null selector or nothing. Not a descriptor bit.
    pub const UNUSABLE: u16 = 1 << 15;
    /// The bits a VMCB or descriptor holds.
    pub const DESCRIPTOR: u16 = 0xfff;

    /// Present, readable, accessed 16-bit code: real mode's CS.
    pub const CODE16: Self = Self(0x9b);
    /// Present, writable, accessed 16-bit data: real mode's other segments.
    pub const DATA16: Self = Self(0x93);
    /// Flat 32-bit code at DPL 0.
    pub const CODE32: Self = Self(0xc9b);
    /// Flat 32-bit data at DPL 0.
    pub const DATA32: Self = Self(0xc93);
    /// 64-bit code at DPL 0.
    pub const CODE64: Self = Self(0xa9b);
    /// A busy 32-bit or 64-bit TSS.
    pub const TSS_BUSY: Self = Self(0x8b);
    /// A busy 16-bit TSS: what TR holds after reset.
    pub const TSS16_BUSY: Self = Self(0x83);
    /// A local descriptor table.
    pub const LDT: Self = Self(0x82);
    /// An unusable register.
    pub const NULL: Self = Self(Self::UNUSABLE);

    /// Type, 0 to 15.
    #[inline]
    pub const fn kind(self) -> u8 {
        (self.0 & Self::TYPE) as u8
    }

    /// Code or data, rather than system?
    #[inline]
    pub const fn is_code_or_data(self) -> bool {
        self.0 & Self::S != 0
    }

    /// A code segment?
    #[inline]
    pub const fn is_code(self) -> bool {
        self.0 & (Self::S | 8) == Self::S | 8
    }

    /// A data segment whose valid offsets lie above the limit?
    #[inline]
    pub const fn is_expand_down(self) -> bool {
        self.0 & (Self::S | 0xc) == Self::S | 4
    }

    /// Conforming code?
    #[inline]
    pub const fn is_conforming(self) -> bool {
        self.0 & (Self::S | 0xc) == Self::S | 0xc
    }

    /// May data be read through it?
    #[inline]
    pub const fn is_readable(self) -> bool {
        self.0 & 8 == 0 || self.0 & 2 != 0
    }

    /// May data be written through it?
    #[inline]
    pub const fn is_writable(self) -> bool {
        self.0 & 0xa == 2
    }

    /// Descriptor privilege level, 0 to 3.
    #[inline]
    pub const fn dpl(self) -> u8 {
        ((self.0 & Self::DPL) >> 5) as u8
    }

    /// Present?
    #[inline]
    pub const fn present(self) -> bool {
        self.0 & Self::P != 0
    }

    /// Available to software.
    #[inline]
    pub const fn available(self) -> bool {
        self.0 & Self::AVL != 0
    }

    /// 64-bit code?
    #[inline]
    pub const fn long(self) -> bool {
        self.0 & Self::L != 0
    }

    /// Default operation size (D or B bit)?
    #[inline]
    pub const fn default_big(self) -> bool {
        self.0 & Self::DB != 0
    }

    /// Does the descriptor count in 4 KiB units?
    #[inline]
    pub const fn granular(self) -> bool {
        self.0 & Self::G != 0
    }

    /// Null or never loaded?
    #[inline]
    pub const fn unusable(self) -> bool {
        self.0 & Self::UNUSABLE != 0
    }

    /// The same with another privilege level (its low two bits).
    #[inline]
    pub const fn with_dpl(self, dpl: u8) -> Self {
        Self((self.0 & !Self::DPL) | ((dpl as u16 & 3) << 5))
    }

    /// From the fields of `struct kvm_segment` (KVM API document, KVM_GET_SREGS):
    /// each counts as its low bits.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    pub const fn from_fields(
        kind: u8,
        s: u8,
        dpl: u8,
        present: u8,
        avl: u8,
        l: u8,
        db: u8,
        g: u8,
        unusable: u8,
    ) -> Self {
        const fn bit(value: u8, at: u16) -> u16 {
            if value & 1 != 0 {
                at
            } else {
                0
            }
        }
        Self(
            (kind as u16 & Self::TYPE)
                | bit(s, Self::S)
                | ((dpl as u16 & 3) << 5)
                | bit(present, Self::P)
                | bit(avl, Self::AVL)
                | bit(l, Self::L)
                | bit(db, Self::DB)
                | bit(g, Self::G)
                | bit(unusable, Self::UNUSABLE),
        )
    }

    /// As the access-rights field of a VMCS (SDM volume 3C, section 25.4.1):
    /// bits 8 to 11 of ours are its bits 12 to 15, "unusable" is bit 16.
    #[inline]
    pub const fn to_access_rights(self) -> u32 {
        let low = (self.0 & 0xff) as u32;
        let high = ((self.0 & 0xf00) as u32) << 4;
        let unusable = if self.unusable() { 1 << 16 } else { 0 };
        low | high | unusable
    }

    /// From the access-rights field of a VMCS.
    #[inline]
    pub const fn from_access_rights(rights: u32) -> Self {
        let low = (rights & 0xff) as u16;
        let high = ((rights & 0xf000) >> 4) as u16;
        let unusable = if rights & (1 << 16) != 0 {
            Self::UNUSABLE
        } else {
            0
        };
        Self(low | high | unusable)
    }

    /// From the upper half of an eight-byte descriptor.
    #[inline]
    pub const fn from_descriptor_high(high: u32) -> Self {
        Self((((high >> 8) & 0xff) | ((high >> 12) & 0xf00)) as u16)
    }
}

impl core::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Attributes({:#x})", self.0)
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Linear address of offset 0.
    pub base: u64,
    /// Last valid offset, in bytes whatever the granularity.
    pub limit: u32,
    /// The visible part.
    pub selector: u16,
    /// Type, privilege and size.
    pub attributes: Attributes,
}

impl Segment {
    /// A register as real mode holds it: base 16 times the selector, 64 KiB.
    #[inline]
    pub const fn real_mode(selector: u16, attributes: Attributes) -> Self {
        Self {
            base: (selector as u64) << 4,
            limit: 0xffff,
            selector,
            attributes,
        }
    }

    /// What RESET and INIT leave in `which` (APM vol. 2, 14.1.3; SDM vol. 3, table
    /// 10-1).
    pub const fn after_reset(which: SegReg) -> Self {
        let (base, selector, attributes) = match which {
            SegReg::Cs => (0xffff_0000, 0xf000, Attributes::CODE16),
            SegReg::Ldtr => (0, 0, Attributes::LDT),
            SegReg::Tr => (0, 0, Attributes::TSS_BUSY),
            _ => (0, 0, Attributes::DATA16),
        };
        Self {
            base,
            limit: 0xffff,
            selector,
            attributes,
        }
    }

    /// A register holding the null selector.
    pub const NULL: Self = Self {
        base: 0,
        limit: 0,
        selector: 0,
        attributes: Attributes::NULL,
    };

    /// The segment an eight-byte code, data or system descriptor gives
    /// (APM volume 2, section 4.7.1). For a 16-byte descriptor the upper half
    /// of the base is the caller's to add.
    pub const fn from_descriptor(selector: u16, descriptor: u64) -> Self {
        let low = descriptor as u32;
        let high = (descriptor >> 32) as u32;
        let attributes = Attributes::from_descriptor_high(high);
        let units = (low & 0xffff) | (high & 0xf_0000);
        Self {
            base: ((low >> 16) | ((high & 0xff) << 16) | (high & 0xff00_0000)) as u64,
            limit: if attributes.granular() {
                (units << 12) | 0xfff
            } else {
                units
            },
            selector,
            attributes,
        }
    }
}

/// The base and limit of the GDT or IDT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DescriptorTable {
    /// Linear address of the first descriptor.
    pub base: u64,
    /// Last valid offset.
    pub limit: u16,
}

/// All segment registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segments(pub [Segment; 8]);

impl Segments {
    /// One of them.
    #[inline]
    pub const fn get(&self, reg: SegReg) -> &Segment {
        &self.0[(reg as u8 & 7) as usize]
    }

    /// One of them, to change.
    #[inline]
    pub fn get_mut(&mut self, reg: SegReg) -> &mut Segment {
        &mut self.0[(reg as u8 & 7) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_rights_round_trip() {
        for bits in 0..0x1000 {
            for unusable in [0, Attributes::UNUSABLE] {
                let attributes = Attributes(bits | unusable);
                let rights = attributes.to_access_rights();
                assert_eq!(Attributes::from_access_rights(rights), attributes);
            }
        }
        assert_eq!(Attributes::CODE64.to_access_rights(), 0xa09b);
        assert_eq!(Attributes::NULL.to_access_rights(), 0x1_0000);
    }

    #[test]
    fn fields() {
        let code = Attributes::from_fields(0xb, 1, 3, 1, 0, 1, 0, 1, 0);
        assert_eq!(code, Attributes::CODE64.with_dpl(3));
        assert!(code.is_code() && code.is_readable() && !code.is_writable());
        assert!(code.long() && !code.default_big() && code.granular() && code.present());
        assert_eq!((code.kind(), code.dpl()), (0xb, 3));
        assert!(Attributes(0x97).is_expand_down());
        assert!(!Attributes(0x9f).is_expand_down());
        assert!(Attributes(0x9f).is_conforming());
        assert!(!Attributes(0x98).is_readable());
        assert!(Attributes::DATA32.is_writable());
    }

    #[test]
    fn descriptors() {
        // The flat 32-bit code and data descriptors every boot loader has.
        let code = Segment::from_descriptor(8, 0x00cf_9b00_0000_ffff);
        assert_eq!(code.limit, u32::MAX);
        assert_eq!(code.attributes, Attributes::CODE32);
        let odd = Segment::from_descriptor(0x10, 0x1240_9334_5678_9abc);
        assert_eq!(odd.base, 0x1234_5678);
        assert_eq!(odd.limit, 0x9abc);
        assert_eq!(odd.attributes, Attributes(0x493));
    }
}
