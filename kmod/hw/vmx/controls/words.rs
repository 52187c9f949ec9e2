// SPDX-License-Identifier: GPL-2.0

//! The control words of a VMCS and the word of EPT and VPID capabilities: every
//! bit once, with its name for people and how we use it. SDM vol. 3, 25.6 to 25.8,
//! A.10.

use crate::pc::bits::named_bits;
use core::ops::BitAnd;
use core::ops::BitOr;
use core::ops::Not;

/// How we use a control.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// On in every VMCS; without it no guest runs.
    Required,
    /// Switched on and off; without it no guest runs.
    Switched,
    /// On in every VMCS where the processor has it.
    Preferred,
    /// Switched on where the processor has it and a guest wants it.
    Optional,
    /// Does no harm where it cannot be switched off.
    Tolerated,
}

/// A word of controls.
pub trait ControlWord:
    Copy + 'static + BitOr<Output = Self> + BitAnd<Output = Self> + Not<Output = Self>
{
    /// The bits that we use.
    const USES: &'static [(Self, Use)];
    /// All that have a name here.
    const KNOWN: Self;
    /// The word with these bits.
    fn from_bits(bits: u32) -> Self;
}

macro_rules! control_word {
    (
        $(#[$doc:meta])*
        $name:ident { $( $bit:ident = $number:expr, $words:expr $(, $use:ident)?; )* }
    ) => {
        named_bits! {
            $(#[$doc])*
            $name: u32 { $( $bit = $number, $words; )* }
        }

        impl ControlWord for $name {
            const USES: &'static [(Self, Use)] = &[$( $( (Self::$bit, Use::$use), )? )*];
            const KNOWN: Self = Self::NAMED;

            fn from_bits(bits: u32) -> Self {
                Self(bits)
            }
        }
    };
}

control_word! {
    /// Pin-based VM-execution controls (25.6.1).
    Pin {
        EXTERNAL_INTERRUPT = 0, "external-interrupt exiting", Required;
        NMI = 3, "NMI exiting", Required;
        VIRTUAL_NMIS = 5, "virtual NMIs", Required;
        PREEMPTION_TIMER = 6, "VMX-preemption timer", Optional;
        POSTED_INTERRUPTS = 7, "process posted interrupts", Optional;
    }
}

control_word! {
    /// Primary processor-based VM-execution controls (25.6.2).
    Primary {
        INTERRUPT_WINDOW = 2, "interrupt-window exiting", Switched;
        TSC_OFFSETTING = 3, "use TSC offsetting", Required;
        HLT = 7, "HLT exiting", Required;
        INVLPG = 9, "INVLPG exiting";
        MWAIT = 10, "MWAIT exiting", Required;
        RDPMC = 11, "RDPMC exiting", Required;
        RDTSC = 12, "RDTSC exiting";
        // Processors without the TRUE MSRs have them; the exits are answered.
        CR3_LOAD = 15, "CR3-load exiting", Tolerated;
        CR3_STORE = 16, "CR3-store exiting", Tolerated;
        TERTIARY = 17, "activate tertiary controls";
        CR8_LOAD = 19, "CR8-load exiting", Switched;
        CR8_STORE = 20, "CR8-store exiting", Switched;
        TPR_SHADOW = 21, "use TPR shadow", Required;
        NMI_WINDOW = 22, "NMI-window exiting", Switched;
        MOV_DR = 23, "MOV-DR exiting", Required;
        UNCONDITIONAL_IO = 24, "unconditional I/O exiting", Required;
        IO_BITMAPS = 25, "use I/O bitmaps";
        MONITOR_TRAP = 27, "monitor trap flag";
        MSR_BITMAPS = 28, "use MSR bitmaps", Required;
        MONITOR = 29, "MONITOR exiting", Required;
        PAUSE = 30, "PAUSE exiting";
        SECONDARY = 31, "activate secondary controls", Required;
    }
}

control_word! {
    /// Secondary processor-based VM-execution controls (25.6.2).
    Secondary {
        APIC_ACCESSES = 0, "virtualize APIC accesses", Optional;
        EPT = 1, "enable EPT", Required;
        DESCRIPTOR_TABLE = 2, "descriptor-table exiting";
        RDTSCP = 3, "enable RDTSCP", Optional;
        X2APIC = 4, "virtualize x2APIC mode", Optional;
        VPID = 5, "enable VPID", Preferred;
        WBINVD = 6, "WBINVD exiting", Preferred;
        UNRESTRICTED_GUEST = 7, "unrestricted guest", Required;
        APIC_REGISTERS = 8, "APIC-register virtualization", Optional;
        VIRTUAL_INTERRUPTS = 9, "virtual-interrupt delivery", Optional;
        PAUSE_LOOP = 10, "PAUSE-loop exiting", Optional;
        RDRAND = 11, "RDRAND exiting";
        INVPCID = 12, "enable INVPCID", Optional;
        VM_FUNCTIONS = 13, "enable VM functions";
        VMCS_SHADOWING = 14, "VMCS shadowing";
        ENCLS = 15, "enable ENCLS exiting", Optional;
        RDSEED = 16, "RDSEED exiting";
        PML = 17, "enable PML", Optional;
        VIRTUALIZATION_EXCEPTION = 18, "EPT-violation #VE";
        CONCEAL_FROM_PT = 19, "conceal VMX from PT";
        XSAVES = 20, "enable XSAVES/XRSTORS", Optional;
        PASID = 21, "PASID translation";
        MODE_BASED_EXECUTE = 22, "mode-based execute control for EPT";
        SUB_PAGE_WRITE = 23, "sub-page write permissions for EPT";
        PT_GUEST_PHYSICAL = 24, "Intel PT uses guest physical addresses";
        TSC_SCALING = 25, "use TSC scaling", Optional;
        USER_WAIT = 26, "enable user wait and pause";
        PCONFIG = 27, "enable PCONFIG";
        ENCLV = 28, "enable ENCLV exiting";
        BUS_LOCK = 30, "VMM bus-lock detection";
        INSTRUCTION_TIMEOUT = 31, "instruction timeout";
    }
}

control_word! {
    /// Primary VM-exit controls (25.7.1).
    ExitControls {
        SAVE_DEBUG = 2, "save debug controls", Required;
        HOST_64BIT = 9, "host address-space size", Required;
        LOAD_PERF_GLOBAL_CTRL = 12, "load IA32_PERF_GLOBAL_CTRL on exit";
        ACKNOWLEDGE_INTERRUPT = 15, "acknowledge interrupt on exit", Required;
        SAVE_PAT = 18, "save IA32_PAT";
        LOAD_PAT = 19, "load IA32_PAT on exit";
        SAVE_EFER = 20, "save IA32_EFER", Preferred;
        LOAD_EFER = 21, "load IA32_EFER on exit", Required;
        SAVE_PREEMPTION_TIMER = 22, "save VMX-preemption timer value";
        CLEAR_BNDCFGS = 23, "clear IA32_BNDCFGS";
        CONCEAL_FROM_PT = 24, "conceal VM exits from PT";
        CLEAR_RTIT_CTL = 25, "clear IA32_RTIT_CTL";
        CLEAR_LBR_CTL = 26, "clear IA32_LBR_CTL";
        CLEAR_UINV = 27, "clear UINV";
        LOAD_CET = 28, "load CET state on exit";
        LOAD_PKRS = 29, "load PKRS on exit";
        SAVE_PERF_GLOBAL_CTRL = 30, "save IA32_PERF_GLOBAL_CTRL";
        SECONDARY = 31, "activate secondary VM-exit controls";
    }
}

control_word! {
    /// VM-entry controls (25.8.1).
    EntryControls {
        LOAD_DEBUG = 2, "load debug controls", Required;
        GUEST_IA32E = 9, "IA-32e mode guest", Switched;
        SMM = 10, "entry to SMM";
        END_DUAL_MONITOR = 11, "deactivate dual-monitor treatment";
        LOAD_PERF_GLOBAL_CTRL = 13, "load IA32_PERF_GLOBAL_CTRL on entry";
        LOAD_PAT = 14, "load IA32_PAT on entry";
        LOAD_EFER = 15, "load IA32_EFER on entry", Required;
        LOAD_BNDCFGS = 16, "load IA32_BNDCFGS";
        CONCEAL_FROM_PT = 17, "conceal VM entries from PT";
        LOAD_RTIT_CTL = 18, "load IA32_RTIT_CTL";
        LOAD_UINV = 19, "load UINV";
        LOAD_CET = 20, "load CET state on entry";
        LOAD_LBR_CTL = 21, "load guest IA32_LBR_CTL";
        LOAD_PKRS = 22, "load PKRS on entry";
    }
}

named_bits! {
    /// What EPT and VPID can do: IA32_VMX_EPT_VPID_CAP (A.10).
    EptVpid: u64 {
        WALK_4 = 6, "EPT page walks of length 4";
        WALK_5 = 7, "EPT page walks of length 5";
        WRITE_BACK = 14, "write-back EPT structures";
        LEAF_2M = 16, "2-MByte EPT pages";
        LEAF_1G = 17, "1-GByte EPT pages";
        INVEPT = 20, "INVEPT";
        ACCESSED_DIRTY = 21, "accessed and dirty flags for EPT";
        INVEPT_SINGLE = 25, "single-context INVEPT";
        INVEPT_ALL = 26, "all-context INVEPT";
    }
}
