// SPDX-License-Identifier: GPL-2.0

//! Machine check banks (APM volume 2, chapter 9; SDM volume 3B, chapter 16;
//! API document 4.104 to 4.106).

use super::super::cpuid::{GuestCaps, Vendor};
use super::table::Slot;
use super::{MsrError, MsrFile};
use crate::uapi::errno::EINVAL;
use crate::uapi::kvm_x86_mce;

/// Most banks; the value of `KVM_CAP_MCE`.
pub const MAX_BANKS: u32 = 32;

/// MCG_CAP: MCG_CTL exists.
const MCG_CTL_P: u64 = 1 << 8;
/// MCG_CAP: software can recover from errors.
const MCG_SER_P: u64 = 1 << 24;
/// MCG_CAP: the number of banks.
const MCG_BANKS: u64 = 0xff;

/// What `KVM_X86_GET_MCE_CAP_SUPPORTED` returns.
pub const SUPPORTED_CAP: u64 = MCG_CTL_P | MCG_SER_P;

/// MCG_STATUS: a machine check is being handled.
const MCG_STATUS_MCIP: u64 = 1 << 2;
/// MCi_STATUS: the bank holds an error.
const STATUS_VALID: u64 = 1 << 63;
/// MCi_STATUS: an error was lost.
const STATUS_OVERFLOW: u64 = 1 << 62;
/// MCi_STATUS: the error was not corrected.
const STATUS_UNCORRECTED: u64 = 1 << 61;
/// HWCR: MCi_STATUS can be written.
const HWCR_MC_STATUS_WRITABLE: u64 = 1 << 18;

/// A register of a bank.
#[derive(Clone, Copy)]
enum Register {
    Control = 0,
    Status = 1,
    Address = 2,
    Misc = 3,
}

/// What comes of an injected error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    /// It is not reported, or waits in its bank.
    Nothing,
    /// Raise #MC.
    Exception,
    /// The guest cannot handle it: it shuts down.
    Shutdown,
}

impl MsrFile {
    /// Banks the vCPU has; all there can be before `KVM_X86_SETUP_MCE`.
    pub fn banks(&self) -> u32 {
        // At most MAX_BANKS, since `setup_mce`.
        (self.get(Slot::MCG_CAP) & MCG_BANKS) as u32
    }

    /// `KVM_X86_SETUP_MCE` (4.105).
    ///
    /// # Errors
    ///
    /// `EINVAL` for no banks, too many, or capabilities that are not there.
    pub fn setup_mce(&mut self, capability: u64) -> Result<(), i32> {
        let banks = capability & MCG_BANKS;
        if banks == 0 || banks > u64::from(MAX_BANKS) {
            return Err(EINVAL);
        }
        if capability & !(SUPPORTED_CAP | MCG_BANKS | 0xff_0000) != 0 {
            return Err(EINVAL);
        }
        self.put(Slot::MCG_CAP, capability);
        if capability & MCG_CTL_P != 0 {
            self.put(Slot::MCG_CTL, u64::MAX);
        }
        for bank in 0..MAX_BANKS {
            if u64::from(bank) < banks {
                self.put(slot(bank, Register::Control), u64::MAX);
            }
        }
        Ok(())
    }

    /// `KVM_X86_SET_MCE` (4.106). `enabled` is CR4.MCE.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a bank that does not exist or an error that is not valid.
    pub fn inject_mce(&mut self, error: &kvm_x86_mce, enabled: bool) -> Result<Injected, i32> {
        let bank = u32::from(error.bank);
        if bank >= self.banks() || error.status & STATUS_VALID == 0 {
            return Err(EINVAL);
        }
        if error.status & STATUS_UNCORRECTED == 0 {
            self.keep_corrected(bank, error);
            return Ok(Injected::Nothing);
        }
        let reported = (self.get(Slot::MCG_CAP) & MCG_CTL_P == 0
            || self.get(Slot::MCG_CTL) == u64::MAX)
            && self.get(slot(bank, Register::Control)) == u64::MAX;
        if !reported {
            return Ok(Injected::Nothing);
        }
        if self.get(Slot::MCG_STATUS) & MCG_STATUS_MCIP != 0 || !enabled {
            return Ok(Injected::Shutdown);
        }
        let lost = self.get(slot(bank, Register::Status)) & STATUS_VALID != 0;
        self.store(bank, error, lost);
        self.put(Slot::MCG_STATUS, error.mcg_status);
        Ok(Injected::Exception)
    }

    /// A corrected error waits in its bank, unless a worse one is there.
    fn keep_corrected(&mut self, bank: u32, error: &kvm_x86_mce) {
        let status = slot(bank, Register::Status);
        let old = self.get(status);
        let free = old & STATUS_VALID == 0;
        if free || old & STATUS_UNCORRECTED == 0 {
            self.store(bank, error, !free);
        } else {
            self.put(status, old | STATUS_OVERFLOW);
        }
    }

    fn store(&mut self, bank: u32, error: &kvm_x86_mce, lost: bool) {
        let overflow = if lost { STATUS_OVERFLOW } else { 0 };
        self.put(slot(bank, Register::Address), error.addr);
        self.put(slot(bank, Register::Misc), error.misc);
        self.put(slot(bank, Register::Status), error.status | overflow);
    }

    /// A write to a register of a bank that may exist.
    pub(super) fn check_bank(
        &self,
        index: u32,
        value: u64,
        host: bool,
        caps: &GuestCaps,
    ) -> Result<u64, MsrError> {
        let valid = match index % 4 {
            // All ones or nothing; there are guests that clear bit 10 of an
            // AMD's bank 4 or bit 0, and expect no fault.
            0 => value == 0 || value | 1 << 10 | 1 == u64::MAX,
            // Zero clears it. AMD's can be set where HWCR says so.
            1 => {
                let writable = caps.vendor == Vendor::Amd
                    && self.get(Slot::HWCR) & HWCR_MC_STATUS_WRITABLE != 0;
                host || value == 0 || writable
            }
            _ => true,
        };
        if valid {
            Ok(value)
        } else {
            Err(MsrError::Invalid)
        }
    }

    /// No corrected errors are signalled, so nothing can be enabled.
    pub(super) fn check_ctl2(&self, value: u64, host: bool) -> Result<u64, MsrError> {
        if host && value == 0 {
            Ok(0)
        } else {
            Err(MsrError::Invalid)
        }
    }

    /// MCG_CTL is all zeros or all ones, if it is there.
    pub(super) fn check_mcg_ctl(&self, value: u64, host: bool) -> Result<u64, MsrError> {
        let exists = self.get(Slot::MCG_CAP) & MCG_CTL_P != 0;
        let legal = value == 0 || value == u64::MAX;
        if legal && (exists || host && value == 0) {
            Ok(value)
        } else {
            Err(MsrError::Invalid)
        }
    }
}

/// The place of a bank's register.
const fn slot(bank: u32, register: Register) -> Slot {
    // Four registers for each of at most 32 banks.
    let offset = (bank % MAX_BANKS) * 4 + register as u32;
    Slot(Slot::MC_BANKS.0.wrapping_add(offset as u16))
}
