// SPDX-License-Identifier: GPL-2.0

//! What this processor's VMX has, and what of it we use: the one place where
//! the capability MSRs (SDM vol. 3, appendix A) are looked at.
//!
//! Required is only what every processor with unrestricted guests has
//! (Westmere, 2010). The rest is used where it is.

mod words;

pub use self::words::EntryControls;
pub use self::words::EptVpid;
pub use self::words::ExitControls;
pub use self::words::Pin;
pub use self::words::Primary;
pub use self::words::Secondary;

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

    /// Size of a VMCS in bytes, at most 4096.
    pub const fn vmcs_size(&self) -> u32 {
        (self.basic >> 32) as u32 & 0x1fff
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

/// How we use the bits of one word.
struct Policy<T> {
    /// On in every VMCS; without one of them no guest runs.
    required: T,
    /// Switched on and off; without one of them no guest runs.
    switched: T,
    /// On in every VMCS where the processor has it.
    preferred: T,
    /// Switched on where the processor has it and a guest wants it.
    optional: T,
    /// Does no harm where it cannot be switched off.
    tolerated: T,
}

const PIN: Policy<Pin> = Policy {
    required: Pin(Pin::EXTERNAL_INTERRUPT.0 | Pin::NMI.0 | Pin::VIRTUAL_NMIS.0),
    switched: Pin::NONE,
    preferred: Pin::NONE,
    optional: Pin(Pin::PREEMPTION_TIMER.0 | Pin::POSTED_INTERRUPTS.0),
    tolerated: Pin::NONE,
};

const PRIMARY: Policy<Primary> = Policy {
    required: Primary(
        Primary::TSC_OFFSETTING.0
            | Primary::HLT.0
            | Primary::MWAIT.0
            | Primary::RDPMC.0
            | Primary::CR8_LOAD.0
            | Primary::CR8_STORE.0
            | Primary::MOV_DR.0
            | Primary::UNCONDITIONAL_IO.0
            | Primary::MSR_BITMAPS.0
            | Primary::MONITOR.0
            | Primary::SECONDARY.0,
    ),
    switched: Primary(Primary::INTERRUPT_WINDOW.0 | Primary::NMI_WINDOW.0),
    preferred: Primary::NONE,
    optional: Primary::TPR_SHADOW,
    // Processors without the TRUE MSRs; the exits are answered.
    tolerated: Primary(Primary::CR3_LOAD.0 | Primary::CR3_STORE.0),
};

const SECONDARY: Policy<Secondary> = Policy {
    required: Secondary(Secondary::EPT.0 | Secondary::UNRESTRICTED_GUEST.0),
    switched: Secondary::NONE,
    preferred: Secondary(Secondary::VPID.0 | Secondary::WBINVD.0),
    optional: Secondary(
        Secondary::APIC_ACCESSES.0
            | Secondary::RDTSCP.0
            | Secondary::X2APIC.0
            | Secondary::APIC_REGISTERS.0
            | Secondary::VIRTUAL_INTERRUPTS.0
            | Secondary::PAUSE_LOOP.0
            | Secondary::INVPCID.0
            | Secondary::ENCLS.0
            | Secondary::PML.0
            | Secondary::XSAVES.0
            | Secondary::TSC_SCALING.0,
    ),
    tolerated: Secondary::NONE,
};

const EXIT: Policy<ExitControls> = Policy {
    required: ExitControls(
        ExitControls::SAVE_DEBUG.0
            | ExitControls::HOST_64BIT.0
            | ExitControls::ACKNOWLEDGE_INTERRUPT.0
            | ExitControls::LOAD_EFER.0,
    ),
    switched: ExitControls::NONE,
    preferred: ExitControls::SAVE_EFER,
    optional: ExitControls::NONE,
    tolerated: ExitControls::NONE,
};

const ENTRY: Policy<EntryControls> = Policy {
    required: EntryControls(EntryControls::LOAD_DEBUG.0 | EntryControls::LOAD_EFER.0),
    switched: EntryControls::GUEST_IA32E,
    preferred: EntryControls::NONE,
    optional: EntryControls::NONE,
    tolerated: EntryControls::NONE,
};

/// Without one of them no guest runs.
const EPT_REQUIRED: EptVpid = EptVpid(
    EptVpid::WALK_4.0
        | EptVpid::WRITE_BACK.0
        | EptVpid::INVEPT.0
        | EptVpid::INVEPT_SINGLE.0
        | EptVpid::INVEPT_ALL.0,
);

/// What VPIDs are of no use without.
const VPID_NEEDS: EptVpid =
    EptVpid(EptVpid::INVVPID.0 | EptVpid::INVVPID_SINGLE.0 | EptVpid::INVVPID_ALL.0);

/// The outcome for one word: its value, and what stands against using it.
struct Outcome<T> {
    word: Word<T>,
    missing: T,
    forced: T,
}

macro_rules! negotiate_word {
    ($name:ident, $type:ident) => {
        /// `must`: bits that must be 1; `can`: bits that can be.
        fn $name(policy: &Policy<$type>, must: $type, can: $type) -> Outcome<$type> {
            let wanted = policy.required | policy.preferred;
            let known = wanted | policy.switched | policy.optional;
            // The rest of `must` are reserved bits, which have to be as they are.
            let base = (wanted & can) | must;
            let harmless = wanted | policy.tolerated;
            Outcome {
                word: Word {
                    base,
                    available: base | (known & can),
                },
                missing: (policy.required | policy.switched).without(can),
                forced: (must & $type::NAMED).without(harmless),
            }
        }
    };
}

negotiate_word!(negotiate_pin, Pin);
negotiate_word!(negotiate_primary, Primary);
negotiate_word!(negotiate_secondary, Secondary);
negotiate_word!(negotiate_exit, ExitControls);
negotiate_word!(negotiate_entry, EntryControls);

const fn must(msr: u64) -> u32 {
    msr as u32
}

const fn can(msr: u64) -> u32 {
    (msr >> 32) as u32
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
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

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
        let pin = negotiate_pin(&PIN, Pin(must(c.pin)), Pin(can(c.pin)));
        let primary =
            negotiate_primary(&PRIMARY, Primary(must(c.primary)), Primary(can(c.primary)));
        let secondary = negotiate_secondary(
            &SECONDARY,
            Secondary(must(c.secondary)),
            Secondary(can(c.secondary)),
        );
        let exit = negotiate_exit(&EXIT, ExitControls(must(c.exit)), ExitControls(can(c.exit)));
        let entry = negotiate_entry(
            &ENTRY,
            EntryControls(must(c.entry)),
            EntryControls(can(c.entry)),
        );
        let ept = EptVpid(c.ept_vpid);

        let mut absent = Bits {
            pin: pin.missing,
            primary: primary.missing,
            exit: exit.missing,
            entry: entry.missing,
            ..Bits::default()
        };
        if !primary.missing.has(Primary::SECONDARY) {
            absent.secondary = secondary.missing;
            if !secondary.missing.has(Secondary::EPT) {
                absent.ept = EPT_REQUIRED.without(ept);
            }
        }
        let forced = Bits {
            pin: pin.forced,
            primary: primary.forced,
            secondary: secondary.forced,
            exit: exit.forced,
            entry: entry.forced,
            ..Bits::default()
        };
        if !absent.is_empty() || !forced.is_empty() {
            return Err(Missing { absent, forced });
        }
        let mut controls = Self {
            pin: pin.word,
            primary: primary.word,
            secondary: secondary.word,
            exit: exit.word,
            entry: entry.word,
            ept,
            capabilities: *capabilities,
        };
        controls.drop_what_is_useless_alone();
        Ok(controls)
    }

    /// Some controls need others, for VM entry (27.2.1) or for us.
    fn drop_what_is_useless_alone(&mut self) {
        if !self.ept.has(VPID_NEEDS) {
            self.secondary.drop(Secondary::VPID);
        }
        if !self.ept.has(EptVpid::ACCESSED_DIRTY) {
            self.secondary.drop(Secondary::PML);
        }
        if !self.has_tpr_shadow() {
            self.secondary.drop(
                Secondary::X2APIC | Secondary::APIC_REGISTERS | Secondary::VIRTUAL_INTERRUPTS,
            );
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

    /// CR8 is read and written without exits.
    pub const fn has_tpr_shadow(&self) -> bool {
        self.primary.available.has(Primary::TPR_SHADOW)
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

macro_rules! word_drop {
    ($type:ident) => {
        impl Word<$type> {
            /// Leaves `bits` out of use.
            fn drop(&mut self, bits: $type) {
                self.base = self.base.without(bits);
                self.available = self.available.without(bits);
            }

            /// The base and, of `extra`, what there is.
            #[inline]
            pub fn with(self, extra: $type) -> $type {
                self.base | (extra & self.available)
            }
        }
    };
}

word_drop!(Pin);
word_drop!(Secondary);

#[cfg(test)]
mod tests;
