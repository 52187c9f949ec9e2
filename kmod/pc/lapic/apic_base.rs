// SPDX-License-Identifier: GPL-2.0

//! IA32_APIC_BASE (MSR 0x1b): the APIC's mode and address (SDM vol. 3A
//! sections 12.4.4 and 12.12.5, APM vol. 2 section 16.9).

use super::regs::{self, base};
use super::{GpFault, Lapic, LapicPost};

/// Mode of a local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Globally disabled: as if there were none.
    Disabled,
    /// Registers in memory, ids of 8 bits.
    XApic,
    /// Registers are MSRs, ids of 32 bits.
    X2Apic,
}

impl Mode {
    /// The mode an IA32_APIC_BASE asks for; `None` for the combination that
    /// is illegal.
    pub const fn from_base(value: u64) -> Option<Self> {
        match (value & base::ENABLE != 0, value & base::X2APIC != 0) {
            (false, false) => Some(Self::Disabled),
            (true, false) => Some(Self::XApic),
            (true, true) => Some(Self::X2Apic),
            (false, true) => None,
        }
    }

    /// Whether a guest may go from here to `to`.
    const fn may_become(self, to: Self) -> bool {
        !matches!(
            (self, to),
            (Self::Disabled, Self::X2Apic) | (Self::X2Apic, Self::XApic)
        )
    }
}

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initiator {
    /// The guest: WRMSR.
    Guest,
    /// Userspace: KVM_SET_MSRS or KVM_SET_SREGS, which may go from any legal
    /// mode to any other.
    Userspace,
}

impl Lapic {
    /// IA32_APIC_BASE.
    #[inline]
    pub const fn apic_base(&self) -> u64 {
        self.apic_base
    }

    /// Physical address of the register page in xAPIC mode.
    #[inline]
    pub const fn page_address(&self) -> u64 {
        self.apic_base & !0xfff
    }

    /// Mode of the APIC.
    #[inline]
    pub const fn mode(&self) -> Mode {
        if self.apic_base & base::ENABLE == 0 {
            Mode::Disabled
        } else if self.apic_base & base::X2APIC == 0 {
            Mode::XApic
        } else {
            Mode::X2Apic
        }
    }

    /// In xAPIC mode, with the registers where they are after reset.
    #[inline]
    pub const fn is_at_default_page(&self) -> bool {
        matches!(self.mode(), Mode::XApic) && self.page_address() == base::DEFAULT_ADDRESS
    }

    /// Whether the vCPU is the bootstrap processor.
    #[inline]
    pub const fn is_bsp(&self) -> bool {
        self.apic_base & base::BSP != 0
    }

    /// Writes IA32_APIC_BASE. Afterwards the caller looks at
    /// [`Self::accepts_extint`] again.
    ///
    /// # Errors
    ///
    /// #GP for reserved bits and illegal changes of mode; the ioctls fail
    /// with EINVAL.
    pub fn set_apic_base(
        &mut self,
        value: u64,
        initiator: Initiator,
        post: &LapicPost,
    ) -> Result<(), GpFault> {
        let address_bits = u32::from(self.config.max_phys_bits).min(63);
        let mut reserved = base::RESERVED_LOW | !0 << address_bits;
        if !self.config.x2apic {
            reserved |= base::X2APIC;
        }
        if value & reserved != 0 {
            return Err(GpFault);
        }
        let before = self.mode();
        let mode = Mode::from_base(value).ok_or(GpFault)?;
        if initiator == Initiator::Guest && !before.may_become(mode) {
            return Err(GpFault);
        }
        self.apic_base = value;
        self.changed = true;
        self.in_page = false;
        if before != mode && mode == Mode::XApic {
            // The id a guest gave the xAPIC does not survive; other registers
            // do, which the manuals allow.
            self.set_plain(regs::ID, (self.config.id & 0xff) << 24);
        }
        self.publish(post);
        Ok(())
    }
}
