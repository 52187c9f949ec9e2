// SPDX-License-Identifier: GPL-2.0

//! What this processor's VMX has, and what of it we use: the one place where
//! the capability MSRs (SDM vol. 3, appendix A) are looked at.
//!
//! Required is only what every processor with unrestricted guests has
//! (Westmere, 2010). The rest is used where it is.

mod words;

use self::words::ControlWord;
pub use self::words::EntryControls;
pub use self::words::EptVpid;
pub use self::words::ExitControls;
pub use self::words::Pin;
pub use self::words::Primary;
pub use self::words::Secondary;
use self::words::Use;

use crate::pc::addr::Hpa;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
use core::fmt;

/// Indices of the capability MSRs.
mod index {
    pub(super) const BASIC: u32 = 0x480;
    pub(super) const PIN: u32 = 0x481;
    pub(super) const PRIMARY: u32 = 0x482;
    pub(super) const EXIT: u32 = 0x483;
    pub(super) const ENTRY: u32 = 0x484;
    pub(super) const MISC: u32 = 0x485;
    pub(super) const CR0_FIXED0: u32 = 0x486;
    pub(super) const CR0_FIXED1: u32 = 0x487;
    pub(super) const CR4_FIXED0: u32 = 0x488;
    pub(super) const CR4_FIXED1: u32 = 0x489;
    pub(super) const SECONDARY: u32 = 0x48b;
    pub(super) const EPT_VPID: u32 = 0x48c;
    pub(super) const TRUE_PIN: u32 = 0x48d;
    pub(super) const TRUE_PRIMARY: u32 = 0x48e;
    pub(super) const TRUE_EXIT: u32 = 0x48f;
    pub(super) const TRUE_ENTRY: u32 = 0x490;
}

/// BASIC: the TRUE MSRs exist.
const BASIC_TRUE_CONTROLS: u64 = 1 << 55;
/// BASIC: an entry can deliver an exception with or without error code,
/// whatever its vector.
const BASIC_ANY_ERROR_CODE: u64 = 1 << 56;

/// The VMX capability MSRs. A control MSR has the bits that must be 1 in its low
/// half and those that can be 1 in its high half.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// IA32_VMX_BASIC (A.1).
    pub basic: u64,
    /// IA32_VMX_PINBASED_CTLS, or the TRUE one (A.3.1).
    pub pin: u64,
    /// IA32_VMX_PROCBASED_CTLS, or the TRUE one (A.3.2).
    pub primary: u64,
    /// IA32_VMX_PROCBASED_CTLS2 (A.3.3), 0 where it is not.
    pub secondary: u64,
    /// IA32_VMX_EXIT_CTLS, or the TRUE one (A.4.1).
    pub exit: u64,
    /// IA32_VMX_ENTRY_CTLS, or the TRUE one (A.5).
    pub entry: u64,
    /// IA32_VMX_MISC (A.6).
    pub misc: u64,
    /// IA32_VMX_EPT_VPID_CAP (A.10), 0 where it is not.
    pub ept_vpid: u64,
    /// Bits of CR0 that must be 1 (A.7).
    pub cr0_fixed0: u64,
    /// Bits of CR0 that can be 1 (A.7).
    pub cr0_fixed1: u64,
    /// Bits of CR4 that must be 1 (A.8).
    pub cr4_fixed0: u64,
    /// Bits of CR4 that can be 1 (A.8).
    pub cr4_fixed1: u64,
}

impl Capabilities {
    /// Reads them by `rdmsr`, and none that the processor may not have.
    pub fn read(rdmsr: impl Fn(u32) -> u64) -> Self {
        let basic = rdmsr(index::BASIC);
        let either = |plain, exact| {
            if basic & BASIC_TRUE_CONTROLS != 0 {
                rdmsr(exact)
            } else {
                rdmsr(plain)
            }
        };
        let primary = either(index::PRIMARY, index::TRUE_PRIMARY);
        let can_primary = Primary((primary >> 32) as u32);
        let when = |exists: bool, index| if exists { rdmsr(index) } else { 0 };
        let secondary = when(can_primary.has(Primary::SECONDARY), index::SECONDARY);
        let can_secondary = Secondary((secondary >> 32) as u32);
        Self {
            basic,
            pin: either(index::PIN, index::TRUE_PIN),
            primary,
            secondary,
            exit: either(index::EXIT, index::TRUE_EXIT),
            entry: either(index::ENTRY, index::TRUE_ENTRY),
            misc: rdmsr(index::MISC),
            ept_vpid: when(
                can_secondary.any(Secondary::EPT | Secondary::VPID),
                index::EPT_VPID,
            ),
            cr0_fixed0: rdmsr(index::CR0_FIXED0),
            cr0_fixed1: rdmsr(index::CR0_FIXED1),
            cr4_fixed0: rdmsr(index::CR4_FIXED0),
            cr4_fixed1: rdmsr(index::CR4_FIXED1),
        }
    }

    /// What stands in the first word of a VMXON region and of a VMCS.
    pub const fn revision(&self) -> u32 {
        self.basic as u32 & 0x7fff_ffff
    }
}

/// One word of controls, negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Word<T> {
    /// What every VMCS begins with.
    pub base: T,
    /// What it can have, of all that we know how to use; has `base` in it.
    pub available: T,
}

/// Without one of them no guest runs.
const EPT_REQUIRED: EptVpid = EptVpid(
    EptVpid::WALK_4.0
        | EptVpid::WRITE_BACK.0
        | EptVpid::INVEPT.0
        | EptVpid::INVEPT_SINGLE.0
        | EptVpid::INVEPT_ALL.0,
);

/// Negotiates one word by its capability MSR: the bits that must be 1 are in the low
/// half, and those that can be in the high half. What stands against using it goes
/// to `absent` and `forced`, as [`Missing`] has them.
fn negotiate<T: ControlWord>(msr: u64, absent: &mut T, forced: &mut T) -> Word<T> {
    let must = T::from_bits(msr as u32);
    let can = T::from_bits((msr >> 32) as u32);
    let used = |ways: &[Use]| {
        let bits = T::USES.iter().filter(|(_, way)| ways.contains(way));
        bits.fold(T::from_bits(0), |all, (bit, _)| all | *bit)
    };
    let wanted = used(&[Use::Required, Use::Preferred]);
    // The rest of `must` are reserved bits, which have to be as they are.
    let base = (wanted & can) | must;
    *absent = used(&[Use::Required, Use::Switched]) & !can;
    *forced = must & T::KNOWN & !(wanted | used(&[Use::Tolerated]));
    Word {
        base,
        available: base | (used(&[Use::Switched, Use::Optional]) & can),
    }
}

/// Bits of every word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bits {
    /// Pin-based controls.
    pub pin: Pin,
    /// Primary processor-based controls.
    pub primary: Primary,
    /// Secondary processor-based controls.
    pub secondary: Secondary,
    /// VM-exit controls.
    pub exit: ExitControls,
    /// VM-entry controls.
    pub entry: EntryControls,
    /// EPT and VPID capabilities.
    pub ept: EptVpid,
}

impl Bits {
    /// Hands the name of each bit to `each`.
    ///
    /// # Errors
    ///
    /// The first that `each` gives.
    pub fn names(&self, mut each: impl FnMut(&'static str) -> fmt::Result) -> fmt::Result {
        self.pin.names(&mut each)?;
        self.primary.names(&mut each)?;
        self.secondary.names(&mut each)?;
        self.exit.names(&mut each)?;
        self.entry.names(&mut each)?;
        self.ept.names(&mut each)
    }
}

/// Why this processor cannot run guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Missing {
    /// What is required and not there.
    pub absent: Bits,
    /// What is on, of no use to us, and cannot be switched off.
    pub forced: Bits,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        self.absent.names(|name| {
            write!(f, "{separator}{name}")?;
            separator = ", ";
            Ok(())
        })?;
        self.forced.names(|name| {
            write!(f, "{separator}a way to switch off {name}")?;
            separator = ", ";
            Ok(())
        })
    }
}

/// The controls in use on this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Controls {
    /// Pin-based controls.
    pub pin: Word<Pin>,
    /// Primary processor-based controls.
    pub primary: Word<Primary>,
    /// Secondary processor-based controls.
    pub secondary: Word<Secondary>,
    /// VM-exit controls.
    pub exit: Word<ExitControls>,
    /// VM-entry controls.
    pub entry: Word<EntryControls>,
    /// What EPT and VPID can do.
    pub ept: EptVpid,
    /// What these have been negotiated from.
    pub capabilities: Capabilities,
}

impl Controls {
    /// What we use of a processor with these capabilities.
    ///
    /// # Errors
    ///
    /// What is missing. Controls behind another that is missing are not named.
    pub fn negotiate(capabilities: &Capabilities) -> Result<Self, Missing> {
        let c = capabilities;
        let mut missing = Missing::default();
        let Missing { absent, forced } = &mut missing;
        let mut controls = Self {
            pin: negotiate(c.pin, &mut absent.pin, &mut forced.pin),
            primary: negotiate(c.primary, &mut absent.primary, &mut forced.primary),
            secondary: negotiate(c.secondary, &mut absent.secondary, &mut forced.secondary),
            exit: negotiate(c.exit, &mut absent.exit, &mut forced.exit),
            entry: negotiate(c.entry, &mut absent.entry, &mut forced.entry),
            ept: EptVpid(c.ept_vpid),
            capabilities: *capabilities,
        };
        if absent.primary.has(Primary::SECONDARY) {
            absent.secondary = Secondary::NONE;
        } else if !absent.secondary.has(Secondary::EPT) {
            absent.ept = EPT_REQUIRED.without(controls.ept);
        }
        if missing != Missing::default() {
            return Err(missing);
        }
        controls.drop_what_is_useless_alone();
        Ok(controls)
    }

    /// Some controls need others, for VM entry (27.2.1) or for us.
    fn drop_what_is_useless_alone(&mut self) {
        if !self.ept.has(EptVpid::ACCESSED_DIRTY) {
            self.secondary.drop(Secondary::PML);
        }
        if !self.has_virtual_interrupts() {
            self.pin.drop(Pin::POSTED_INTERRUPTS);
            // Each access would exit, which it does without.
            self.secondary.drop(Secondary::APIC_ACCESSES);
        }
    }

    /// Leaves the list of pages written out of use.
    pub fn drop_pml(&mut self) {
        self.secondary.drop(Secondary::PML);
    }

    /// Translations are tagged: they survive exits and entries.
    pub const fn has_vpid(&self) -> bool {
        self.secondary.base.has(Secondary::VPID)
    }

    /// A timer that ends the guest's run.
    pub const fn has_preemption_timer(&self) -> bool {
        self.pin.available.has(Pin::PREEMPTION_TIMER)
    }

    /// The preemption timer counts down once in `1 << shift` ticks of the TSC.
    pub const fn preemption_timer_shift(&self) -> u8 {
        self.capabilities.misc as u8 & 0x1f
    }

    /// Interrupts are evaluated and delivered by the processor.
    pub const fn has_virtual_interrupts(&self) -> bool {
        self.secondary.available.has(Secondary(
            Secondary::VIRTUAL_INTERRUPTS.0 | Secondary::APIC_REGISTERS.0,
        ))
    }

    /// The processor can keep a local APIC in x2APIC mode: it delivers its
    /// interrupts, and the guest reaches the registers without exits.
    pub const fn has_virtual_x2apic(&self) -> bool {
        self.has_virtual_interrupts() && self.secondary.available.has(Secondary::X2APIC)
    }

    /// It can keep one in xAPIC mode, too: accesses to the register page are
    /// those to registers, and most need no exit.
    pub const fn has_virtual_xapic(&self) -> bool {
        self.has_virtual_x2apic() && self.secondary.available.has(Secondary::APIC_ACCESSES)
    }

    /// Interrupts posted by other CPUs arrive without an exit.
    pub const fn has_posted_interrupts(&self) -> bool {
        self.pin.available.has(Pin::POSTED_INTERRUPTS)
    }

    /// A loop of PAUSEs ends the guest's run.
    pub const fn has_pause_loop_exiting(&self) -> bool {
        self.secondary.available.has(Secondary::PAUSE_LOOP)
    }

    /// The processor keeps a list of pages written.
    pub const fn has_pml(&self) -> bool {
        self.secondary.available.has(Secondary::PML)
    }

    /// The guest's TSC can run at another rate.
    pub const fn has_tsc_scaling(&self) -> bool {
        self.secondary.available.has(Secondary::TSC_SCALING)
    }

    /// EPT entries have accessed and dirty flags.
    pub const fn has_ept_accessed_dirty(&self) -> bool {
        self.ept.has(EptVpid::ACCESSED_DIRTY)
    }

    /// Exceptions can be injected with or without error code, whatever the vector.
    pub const fn any_error_code(&self) -> bool {
        self.capabilities.basic & BASIC_ANY_ERROR_CODE != 0
    }

    /// The EPT pointer for tables of `levels` levels (4 or 5) at `root`
    /// (25.6.11): write-back, with accessed and dirty flags where they are.
    pub const fn eptp(&self, root: Hpa, levels: u8) -> u64 {
        const WRITE_BACK: u64 = 6;
        const ACCESSED_DIRTY: u64 = 1 << 6;
        let flags = if self.has_ept_accessed_dirty() {
            ACCESSED_DIRTY
        } else {
            0
        };
        root.0 | flags | (levels.wrapping_sub(1) as u64 & 7) << 3 | WRITE_BACK
    }

    /// The CR0 to run a guest with that wants `cr0`. With unrestricted guest PE
    /// and PG are the guest's own (A.7, 24.8).
    pub const fn real_cr0(&self, cr0: Cr0) -> Cr0 {
        let must = self.capabilities.cr0_fixed0 & !(Cr0::PE.0 | Cr0::PG.0);
        Cr0((cr0.0 | must) & self.capabilities.cr0_fixed1)
    }

    /// The CR4 to run a guest with that wants `cr4` (A.8).
    pub const fn real_cr4(&self, cr4: Cr4) -> Cr4 {
        Cr4((cr4.0 | self.capabilities.cr4_fixed0) & self.capabilities.cr4_fixed1)
    }
}

impl<T: ControlWord> Word<T> {
    /// Leaves `bits` out of use.
    fn drop(&mut self, bits: T) {
        self.base = self.base & !bits;
        self.available = self.available & !bits;
    }

    /// The base and, of `extra`, what there is.
    #[inline]
    pub fn with(self, extra: T) -> T {
        self.base | (extra & self.available)
    }
}

#[cfg(test)]
mod tests;
