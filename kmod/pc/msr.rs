// SPDX-License-Identifier: GPL-2.0

//! Model-specific registers: which there are, who may read and write them,
//! and what happens then.
//!
//! [`table`] says for each MSR where its value lives, who may do what, what
//! may be written and what the guest must be shown for it. A vCPU's
//! [`MsrFile`] holds the values that live nowhere else; the rest of the vCPU
//! is reached through [`MsrContext`]. What a write sets off beyond that is
//! returned as an [`Effect`], for the caller to see to when it can.

use super::addr::Gpa;
use super::control::{self, Controls};
use super::cpuid::{Feature, GuestCaps, Vendor};
use super::regs::Efer;
use crate::uapi as abi;

mod check;
pub mod filter;
pub mod index;
pub mod lists;
pub mod mce;
pub mod table;

use table::{Access, Home, Needs, Row, SLOTS};
pub use table::{Hardware, Slot};

/// Who accesses an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The guest, with RDMSR or WRMSR.
    Guest,
    /// The VMM, with `KVM_GET_MSRS` or `KVM_SET_MSRS`.
    Host,
}

/// Why an access fails. The guest gets #GP(0) (or its VMM an exit,
/// `KVM_MSR_EXIT_REASON_*`); for the VMM the entry is the first not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrError {
    /// There is no such MSR: `KVM_MSR_EXIT_REASON_UNKNOWN`.
    Unknown,
    /// It cannot be accessed so: `KVM_MSR_EXIT_REASON_INVAL`.
    Invalid,
}

impl From<control::Invalid> for MsrError {
    fn from(_: control::Invalid) -> Self {
        Self::Invalid
    }
}

/// What remains to be done after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The guest's TSC jumped: its clock must be written anew.
    TscMoved,
    /// Bits of CPUID that mirror state may have changed.
    CpuidChanged,
    /// The vCPU's clock goes to another place, or nowhere.
    SystemTime {
        /// Where to, if it is enabled.
        record: Option<Gpa>,
        /// Through the MSR of the old interface.
        old: bool,
    },
    /// The VM's wall clock goes to this place, now.
    WallClock {
        /// The MSR's value; what [`MsrContext::wall_clock`] gives from now on.
        record: Gpa,
    },
    /// Steal time goes to another place, or nowhere.
    StealTime(Option<Gpa>),
    /// The word for paravirtual EOI is at another place, or nowhere.
    PvEoi(Option<Gpa>),
    /// Write this to the processor's PRED_CMD. The guest was shown the
    /// features of all bits, so the processor has them.
    PredictionCommand(u64),
    /// Flush the first-level data cache.
    FlushL1d,
    /// Memory types may have changed.
    MemoryTypes,
}

/// The parts of a vCPU and its VM that MSRs reach.
pub trait MsrContext {
    /// An MSR of the vendor's.
    fn hardware(&mut self, msr: Hardware) -> u64;
    /// Sets an MSR of the vendor's; the value has been checked.
    fn set_hardware(&mut self, msr: Hardware, value: u64);
    /// The control registers.
    fn controls(&mut self) -> Controls;
    /// Sets EFER; the value has been checked.
    fn set_efer(&mut self, value: Efer);
    /// APIC_BASE.
    fn apic_base(&mut self) -> u64;
    /// Writes APIC_BASE.
    ///
    /// # Errors
    ///
    /// [`MsrError::Invalid`] for an illegal value or change of mode.
    fn set_apic_base(&mut self, value: u64, origin: Origin) -> Result<(), MsrError>;
    /// Reads a register of the APIC in x2APIC mode.
    ///
    /// # Errors
    ///
    /// [`MsrError::Invalid`] in another mode, or when it cannot be read.
    fn x2apic(&mut self, index: u32) -> Result<u64, MsrError>;
    /// Writes a register of the APIC in x2APIC mode.
    ///
    /// # Errors
    ///
    /// [`MsrError::Invalid`] in another mode, or for an illegal value.
    fn set_x2apic(&mut self, index: u32, value: u64) -> Result<(), MsrError>;
    /// The TSC at which the APIC's timer fires; 0 when it is not armed.
    fn tsc_deadline(&mut self) -> u64;
    /// Arms the APIC's timer, or disarms it with 0.
    fn set_tsc_deadline(&mut self, value: u64);
    /// The guest's TSC, now.
    fn tsc(&mut self) -> u64;
    /// Advances the guest's TSC, by a negative number in two's complement
    /// also backwards.
    fn shift_tsc(&mut self, ticks: u64);
    /// Sets the guest's TSC for the VMM, in step with the other vCPUs'.
    fn synchronize_tsc(&mut self, value: u64);
    /// Where the VM's wall clock was written last: the MSR's value.
    fn wall_clock(&mut self) -> u64;
    /// Does the VM pretend that MSR `index` exists, which does not (parameter
    /// `ignore_msrs`)?
    fn ignores_unknown(&self, _index: u32) -> bool {
        false
    }
    /// Does MISC_ENABLE leave CPUID alone
    /// (`KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT`)?
    fn misc_enable_quirk(&self) -> bool {
        true
    }
}

/// A vCPU's MSRs that live nowhere else.
#[derive(Clone)]
pub struct MsrFile {
    values: [u64; SLOTS],
}

/// MISC_ENABLE: performance monitoring is available.
const MISC_ENABLE_EMON: u64 = 1 << 7;
/// MISC_ENABLE: no branch trace store, no precise sampling.
const MISC_ENABLE_UNAVAILABLE: u64 = 1 << 11 | 1 << 12;
/// MISC_ENABLE: MONITOR and MWAIT.
const MISC_ENABLE_MWAIT: u64 = 1 << 18;
/// PLATFORM_INFO: CPUID can be made to fault.
const PLATFORM_INFO_CPUID_FAULTS: u64 = 1 << 31;
/// MISC_FEATURES_ENABLES: CPUID faults outside ring 0.
const MISC_FEATURES_CPUID_FAULTS: u64 = 1;

impl MsrFile {
    /// After power-on.
    ///
    /// `vendor` and `arch_capabilities` are the host's; the VMM sets what its
    /// guest is to see.
    pub fn new(vendor: Vendor, arch_capabilities: u64) -> Self {
        let mut file = Self { values: [0; SLOTS] };
        file.put(Slot::MISC_ENABLE, MISC_ENABLE_UNAVAILABLE);
        file.put(Slot::PLATFORM_INFO, PLATFORM_INFO_CPUID_FAULTS);
        file.put(Slot::POLL_CONTROL, 1);
        // Every bank, and MCG_CTL none, until the VMM says otherwise.
        file.put(Slot::MCG_CAP, u64::from(mce::MAX_BANKS));
        file.put(Slot::ARCH_CAPABILITIES, arch_capabilities);
        file.put(Slot::UCODE_REV, lists::default_ucode(vendor));
        // Three errata are known, and the processor has none of them.
        file.put(Slot::OSVW_ID_LENGTH, 3);
        file
    }

    /// A value of the file.
    #[inline]
    pub const fn get(&self, slot: Slot) -> u64 {
        let place = slot.0 as usize;
        if place < SLOTS {
            self.values[place]
        } else {
            0
        }
    }

    /// Sets a value of the file, unchecked.
    #[inline]
    pub fn put(&mut self, slot: Slot, value: u64) {
        if let Some(place) = self.values.get_mut(slot.0 as usize) {
            *place = value;
        }
    }

    /// Does CPUID raise #GP outside ring 0 (MISC_FEATURES_ENABLES)?
    #[inline]
    pub const fn cpuid_faults(&self) -> bool {
        self.get(Slot::MISC_FEATURES_ENABLES) & MISC_FEATURES_CPUID_FAULTS != 0
    }

    /// Does MISC_ENABLE enable MONITOR and MWAIT?
    #[inline]
    pub const fn mwait_enabled(&self) -> bool {
        self.get(Slot::MISC_ENABLE) & MISC_ENABLE_MWAIT != 0
    }

    /// May the host poll before it lets the idle vCPU sleep (POLL_CONTROL)?
    #[inline]
    pub const fn may_poll(&self) -> bool {
        self.get(Slot::POLL_CONTROL) & 1 != 0
    }

    /// Reads an MSR.
    ///
    /// # Errors
    ///
    /// As [`MsrError`] says.
    pub fn read<C: MsrContext>(
        &self,
        index: u32,
        origin: Origin,
        caps: &GuestCaps,
        context: &mut C,
    ) -> Result<u64, MsrError> {
        if (index::X2APIC_FIRST..=index::X2APIC_LAST).contains(&index) {
            return context.x2apic(index);
        }
        let result = match table::find(index) {
            Some(row) => self.read_row(row, index, origin, caps, context),
            None => Err(MsrError::Unknown),
        };
        match result {
            Err(MsrError::Unknown) if tolerated(index, origin, 0, context) => Ok(0),
            other => other,
        }
    }

    /// Reads an MSR for the guest if it is nothing but a value of the file, as
    /// most are: the same as [`Self::read`], which reads the others, and has the
    /// errors.
    #[inline]
    pub fn read_plain(&self, index: u32, caps: &GuestCaps) -> Option<u64> {
        let row = table::guess(index)?;
        let Home::Value(first) = row.home else {
            return None;
        };
        match allow(row, Origin::Guest, caps) {
            Ok(Access::WriteOnly) | Err(_) => None,
            Ok(_) => Some(self.get(self.slot(row, first, index).ok()?)),
        }
    }

    fn read_row<C: MsrContext>(
        &self,
        row: &Row,
        index: u32,
        origin: Origin,
        caps: &GuestCaps,
        context: &mut C,
    ) -> Result<u64, MsrError> {
        let access = allow(row, origin, caps)?;
        if access == Access::WriteOnly {
            return Err(MsrError::Invalid);
        }
        Ok(match row.home {
            Home::Hardware(msr) => context.hardware(msr),
            Home::Value(first) => self.get(self.slot(row, first, index)?),
            Home::Constant(value) => value,
            Home::ApicBase => context.apic_base(),
            Home::X2apic => context.x2apic(index)?,
            Home::TscDeadline => context.tsc_deadline(),
            Home::Efer => context.controls().efer.bits(),
            Home::Tsc => context.tsc(),
            Home::WallClock => context.wall_clock(),
            Home::PredictionCommand | Home::FlushCommand => return Err(MsrError::Invalid),
        })
    }

    /// Writes an MSR.
    ///
    /// # Errors
    ///
    /// As [`MsrError`] says; nothing has changed then.
    pub fn write<C: MsrContext>(
        &mut self,
        index: u32,
        value: u64,
        origin: Origin,
        caps: &GuestCaps,
        context: &mut C,
    ) -> Result<Effect, MsrError> {
        if (index::X2APIC_FIRST..=index::X2APIC_LAST).contains(&index) {
            return context.set_x2apic(index, value).map(|()| Effect::None);
        }
        let result = match table::find(index) {
            Some(row) => self.write_row(row, index, value, origin, caps, context),
            None => Err(MsrError::Unknown),
        };
        match result {
            Err(MsrError::Unknown) if tolerated(index, origin, value, context) => Ok(Effect::None),
            other => other,
        }
    }

    fn write_row<C: MsrContext>(
        &mut self,
        row: &Row,
        index: u32,
        value: u64,
        origin: Origin,
        caps: &GuestCaps,
        context: &mut C,
    ) -> Result<Effect, MsrError> {
        match allow(row, origin, caps)? {
            Access::ReadOnly => return Err(MsrError::Invalid),
            Access::WritesIgnored => return Ok(Effect::None),
            Access::ReadWrite | Access::WriteOnly => {}
        }
        let request = check::Request {
            row,
            index,
            value,
            origin,
        };
        let value = self.checked(&request, caps, context)?;
        match row.home {
            Home::Hardware(msr) => {
                context.set_hardware(msr, value);
                Ok(effect_of_hardware(msr))
            }
            Home::Value(first) => {
                let slot = self.slot(row, first, index)?;
                let old = self.get(slot);
                self.put(slot, value);
                Ok(self.effect(index, old, value, origin, context))
            }
            Home::Constant(_) => Ok(Effect::None),
            Home::ApicBase => {
                context.set_apic_base(value, origin)?;
                Ok(Effect::CpuidChanged)
            }
            Home::X2apic => context.set_x2apic(index, value).map(|()| Effect::None),
            Home::TscDeadline => {
                context.set_tsc_deadline(value);
                Ok(Effect::None)
            }
            Home::Efer => {
                let host = origin == Origin::Host;
                let efer = control::write_efer(&context.controls(), value, caps, host)?;
                context.set_efer(efer);
                Ok(Effect::None)
            }
            Home::Tsc => {
                self.write_tsc(value, origin, context);
                Ok(Effect::TscMoved)
            }
            Home::WallClock => Ok(Effect::WallClock { record: Gpa(value) }),
            Home::PredictionCommand => check::prediction_command(value, caps),
            Home::FlushCommand => check::flush_command(value, caps),
        }
    }

    /// The slot of an MSR of a row. Machine check banks end where the VMM
    /// said.
    fn slot(&self, row: &Row, first: Slot, index: u32) -> Result<Slot, MsrError> {
        let offset = index.wrapping_sub(row.first);
        if row.last != row.first && offset >= self.run_length(first) {
            return Err(MsrError::Invalid);
        }
        // A run is shorter than the file.
        Ok(Slot(first.0.wrapping_add(offset as u16)))
    }

    fn run_length(&self, first: Slot) -> u32 {
        match first {
            Slot::MC_BANKS => self.banks().saturating_mul(4),
            Slot::MC_CTL2 => self.banks(),
            _ => u32::MAX,
        }
    }

    /// A guest that sets its TSC moves TSC_ADJUST along (SDM volume 3B,
    /// section 18.17.3); a VMM sets both.
    fn write_tsc<C: MsrContext>(&mut self, value: u64, origin: Origin, context: &mut C) {
        if origin == Origin::Host {
            context.synchronize_tsc(value);
            return;
        }
        let ticks = value.wrapping_sub(context.tsc());
        context.shift_tsc(ticks);
        let adjust = self.get(Slot::TSC_ADJUST);
        self.put(Slot::TSC_ADJUST, adjust.wrapping_add(ticks));
    }

    /// What a write to the file sets off.
    fn effect<C: MsrContext>(
        &mut self,
        index: u32,
        old: u64,
        new: u64,
        origin: Origin,
        context: &mut C,
    ) -> Effect {
        match index {
            index::TSC_ADJUST if origin == Origin::Guest => {
                context.shift_tsc(new.wrapping_sub(old));
                Effect::TscMoved
            }
            index::XSS => Effect::CpuidChanged,
            index::MISC_ENABLE if (old ^ new) & MISC_ENABLE_MWAIT != 0 => Effect::CpuidChanged,
            index::MTRR_PHYS_BASE0..=index::MTRR_FIX_4K_F8000 | index::MTRR_DEF_TYPE => {
                Effect::MemoryTypes
            }
            abi::MSR_KVM_SYSTEM_TIME | abi::MSR_KVM_SYSTEM_TIME_NEW => Effect::SystemTime {
                record: enabled(new, 1),
                old: index == abi::MSR_KVM_SYSTEM_TIME,
            },
            abi::MSR_KVM_STEAL_TIME => Effect::StealTime(enabled(new, !abi::KVM_STEAL_VALID_BITS)),
            abi::MSR_KVM_PV_EOI_EN => Effect::PvEoi(enabled(new, 3)),
            _ => Effect::None,
        }
    }

    /// Where the guest wants its clock, if anywhere.
    pub fn system_time(&self) -> Option<Gpa> {
        enabled(self.get(Slot::SYSTEM_TIME), 1)
    }

    /// Where the guest wants its steal time, if anywhere.
    pub fn steal_time(&self) -> Option<Gpa> {
        enabled(self.get(Slot::STEAL_TIME), !abi::KVM_STEAL_VALID_BITS)
    }

    /// TSC_AUX of the guest.
    #[inline]
    pub const fn tsc_aux(&self) -> u64 {
        self.get(Slot::TSC_AUX)
    }

    /// Where the guest has its paravirtual EOI, if anywhere.
    pub fn pv_eoi(&self) -> Option<Gpa> {
        enabled(self.get(Slot::PV_EOI), 3)
    }
}

/// The address in an MSR whose bit 0 enables it.
const fn enabled(value: u64, low_bits: u64) -> Option<Gpa> {
    if value & abi::KVM_MSR_ENABLED != 0 {
        Some(Gpa(value & !low_bits))
    } else {
        None
    }
}

const fn effect_of_hardware(msr: Hardware) -> Effect {
    match msr {
        Hardware::Pat => Effect::MemoryTypes,
        _ => Effect::None,
    }
}

/// What the accessor may do, if the MSR is there for it.
fn allow(row: &Row, origin: Origin, caps: &GuestCaps) -> Result<Access, MsrError> {
    if origin == Origin::Host {
        return Ok(row.host);
    }
    let present = match row.needs {
        Needs::Nothing => true,
        Needs::Any(features) => features.iter().any(|feature| caps.has(*feature)),
        Needs::Amd => caps.vendor == Vendor::Amd,
        Needs::Intel => caps.vendor == Vendor::Intel,
        Needs::Paravirtual(feature) => {
            if !caps.may_use(feature) {
                return Err(MsrError::Unknown);
            }
            true
        }
    };
    if present {
        Ok(row.guest)
    } else {
        Err(MsrError::Invalid)
    }
}

/// Is an access to an MSR that does not exist let pass, reading zero or
/// writing nowhere?
fn tolerated<C: MsrContext>(index: u32, origin: Origin, value: u64, context: &C) -> bool {
    // A VMM saves and restores what the lists name, whether or not the vCPU
    // has it.
    let listed = origin == Origin::Host && value == 0 && lists::is_listed(index);
    listed || context.ignores_unknown(index)
}

/// Width of the guest's linear addresses in MSRs.
fn linear_bits(caps: &GuestCaps) -> u32 {
    if caps.has(Feature::LA57) {
        57
    } else {
        48
    }
}

#[cfg(test)]
mod tests;
