// SPDX-License-Identifier: GPL-2.0

//! The processor's registers as the architecture names them: general registers,
//! segments, control registers and the mode they add up to, exceptions.
//!
//! Everything here is plain data. Bits are declared once, with the names of the
//! AMD APM volume 2 (chapters 3, 4 and 8) and the Intel SDM volume 3A.

mod control;
mod exception;
mod segment;

pub use control::{Cr0, Cr3, Cr4, Dr6, Dr7, Efer, Rflags};
pub use exception::{Exception, FaultClass, FaultPair, PageFaultError, Vector};
pub use segment::{Attributes, DescriptorTable, SegReg, Segment, Segments};

/// A general register, numbered as instructions encode it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Reg {
    /// Accumulator.
    Rax = 0,
    /// Counter.
    Rcx = 1,
    /// Data.
    Rdx = 2,
    /// Base.
    Rbx = 3,
    /// Stack pointer.
    Rsp = 4,
    /// Frame pointer.
    Rbp = 5,
    /// Source index.
    Rsi = 6,
    /// Destination index.
    Rdi = 7,
    /// R8.
    R8 = 8,
    /// R9.
    R9 = 9,
    /// R10.
    R10 = 10,
    /// R11.
    R11 = 11,
    /// R12.
    R12 = 12,
    /// R13.
    R13 = 13,
    /// R14.
    R14 = 14,
    /// R15.
    R15 = 15,
}

impl Reg {
    /// All sixteen, in encoding order.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// The register of an encoded number; only the low four bits count.
    #[inline]
    pub const fn from_bits(number: u8) -> Self {
        Self::ALL[(number & 15) as usize]
    }

    /// The number instructions encode it with.
    #[inline]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// The sixteen general registers.
///
/// Laid out as `[u64; 16]` in encoding order, so that entry code can address
/// them by constant offsets (`8 * number`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Gprs(pub [u64; 16]);

impl Gprs {
    /// The whole register.
    #[inline]
    pub const fn get(&self, reg: Reg) -> u64 {
        self.0[(reg as u8 & 15) as usize]
    }

    /// Replaces the whole register.
    #[inline]
    pub fn set(&mut self, reg: Reg, value: u64) {
        self.0[(reg as u8 & 15) as usize] = value;
    }

    /// The low 32 bits.
    #[inline]
    pub const fn get32(&self, reg: Reg) -> u32 {
        self.get(reg) as u32
    }

    /// Replaces the register by a zero-extended 32-bit value, as 32-bit
    /// instructions do.
    #[inline]
    pub fn set32(&mut self, reg: Reg, value: u32) {
        self.set(reg, u64::from(value));
    }

    /// `EDX:EAX` as one number (the operand of RDMSR, WRMSR, XSETBV).
    #[inline]
    pub const fn edx_eax(&self) -> u64 {
        (self.get(Reg::Rdx) << 32) | self.get32(Reg::Rax) as u64
    }

    /// Splits a number over `EDX:EAX`, clearing both upper halves.
    #[inline]
    pub fn set_edx_eax(&mut self, value: u64) {
        self.set(Reg::Rax, value & 0xffff_ffff);
        self.set(Reg::Rdx, value >> 32);
    }
}

/// What the processor makes of instruction bytes and addresses right now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuMode {
    /// CR0.PE = 0.
    Real,
    /// Virtual-8086 mode.
    Vm86,
    /// Protected mode, 16-bit code segment.
    Prot16,
    /// Protected mode, 32-bit code segment.
    Prot32,
    /// Long mode, 16-bit code segment.
    Compat16,
    /// Long mode, 32-bit code segment.
    Compat32,
    /// Long mode, 64-bit code segment.
    Long64,
}

impl CpuMode {
    /// The mode that the control registers and the code segment give
    /// (APM volume 2, section 1.3).
    #[inline]
    pub const fn of(cr0: Cr0, efer: Efer, rflags: Rflags, cs: Attributes) -> Self {
        if !cr0.has(Cr0::PE) {
            return Self::Real;
        }
        if efer.has(Efer::LMA) {
            return match (cs.long(), cs.default_big()) {
                (true, _) => Self::Long64,
                (false, true) => Self::Compat32,
                (false, false) => Self::Compat16,
            };
        }
        if rflags.has(Rflags::VM) {
            return Self::Vm86;
        }
        if cs.default_big() {
            Self::Prot32
        } else {
            Self::Prot16
        }
    }

    /// Is this 64-bit mode proper, where REX prefixes exist and segment
    /// limits do not?
    #[inline]
    pub const fn is_64bit(self) -> bool {
        matches!(self, Self::Long64)
    }

    /// Do segment registers hold paragraph numbers rather than selectors?
    #[inline]
    pub const fn is_real_or_vm86(self) -> bool {
        matches!(self, Self::Real | Self::Vm86)
    }

    /// Default address size in bytes: 2, 4 or 8.
    #[inline]
    pub const fn address_size(self) -> u8 {
        match self {
            Self::Real | Self::Vm86 | Self::Prot16 | Self::Compat16 => 2,
            Self::Prot32 | Self::Compat32 => 4,
            Self::Long64 => 8,
        }
    }

    /// Default operand size in bytes: 2 or 4 (64-bit mode defaults to 4).
    #[inline]
    pub const fn operand_size(self) -> u8 {
        match self {
            Self::Real | Self::Vm86 | Self::Prot16 | Self::Compat16 => 2,
            Self::Prot32 | Self::Compat32 | Self::Long64 => 4,
        }
    }

    /// Mask of the bits of RIP that exist here: 16-bit code wraps at 64 KiB
    /// only through the limit check, so outside 64-bit mode it is 32 bits.
    #[inline]
    pub const fn rip_mask(self) -> u64 {
        match self {
            Self::Long64 => u64::MAX,
            _ => 0xffff_ffff,
        }
    }
}

/// Is `address` canonical: are all bits above the implemented ones copies of
/// the highest implemented one? 57 bits are implemented with CR4.LA57, else 48.
#[inline]
pub const fn is_canonical(address: u64, la57: bool) -> bool {
    let shift = if la57 { 64 - 57 } else { 64 - 48 };
    (((address << shift) as i64) >> shift) as u64 == address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let flat32 = Attributes::CODE32;
        let long = Attributes::CODE64;
        let real = Attributes::CODE16;
        let none = Cr0(0);
        assert_eq!(
            CpuMode::of(none, Efer(0), Rflags(2), flat32),
            CpuMode::Real,
            "big real mode is still real mode"
        );
        assert_eq!(
            CpuMode::of(Cr0::PE, Efer(0), Rflags(2), flat32),
            CpuMode::Prot32
        );
        assert_eq!(
            CpuMode::of(Cr0::PE, Efer(0), Rflags::VM, real),
            CpuMode::Vm86
        );
        assert_eq!(
            CpuMode::of(Cr0::PE | Cr0::PG, Efer::LMA | Efer::LME, Rflags(2), long),
            CpuMode::Long64
        );
        assert_eq!(
            CpuMode::of(Cr0::PE | Cr0::PG, Efer::LMA | Efer::LME, Rflags(2), flat32),
            CpuMode::Compat32
        );
    }

    #[test]
    fn canonical() {
        assert!(is_canonical(0x7fff_ffff_ffff, false));
        assert!(!is_canonical(0x8000_0000_0000, false));
        assert!(is_canonical(0x8000_0000_0000, true));
        assert!(is_canonical(u64::MAX, false));
        assert!(!is_canonical(1 << 63, true));
        assert!(is_canonical(0xffff_8000_0000_0000, false));
        assert!(!is_canonical(0xfeff_8000_0000_0000, true));
    }

    #[test]
    fn edx_eax() {
        let mut gprs = Gprs([u64::MAX; 16]);
        gprs.set_edx_eax(0x1234_5678_9abc_def0);
        assert_eq!(gprs.get(Reg::Rax), 0x9abc_def0);
        assert_eq!(gprs.get(Reg::Rdx), 0x1234_5678);
        gprs.set(Reg::Rax, 0xffff_ffff_9abc_def0);
        assert_eq!(gprs.edx_eax(), 0x1234_5678_9abc_def0);
    }

    #[test]
    fn register_numbers() {
        for (number, reg) in Reg::ALL.iter().enumerate() {
            assert_eq!(usize::from(reg.number()), number);
            assert_eq!(Reg::from_bits(reg.number() | 0xf0), *reg);
        }
    }
}
