// SPDX-License-Identifier: GPL-2.0

//! The table of MSRs: one row for each MSR or run of them, in order of their
//! numbers.

use super::super::cpuid::Feature;
use super::super::search::partition_point;
use super::index::*;
use crate::uapi as abi;

/// An MSR the vendor's code keeps, in the VMCB or VMCS or beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// SYSENTER_CS.
    SysenterCs,
    /// SYSENTER_ESP.
    SysenterEsp,
    /// SYSENTER_EIP.
    SysenterEip,
    /// PAT.
    Pat,
    /// STAR.
    Star,
    /// LSTAR.
    Lstar,
    /// CSTAR.
    Cstar,
    /// SFMASK, also SYSCALL_MASK.
    Sfmask,
    /// FS_BASE.
    FsBase,
    /// GS_BASE.
    GsBase,
    /// KERNEL_GS_BASE.
    KernelGsBase,
}

/// A place in an `MsrFile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub(super) u16);

macro_rules! slots {
    ($($(#[$doc:meta])* $name:ident[$length:expr],)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, dead_code)]
        mod ends {
            slots!(@ends 0; $($name[$length],)*);
        }

        #[allow(missing_docs)]
        impl Slot {
            $($(#[$doc])* pub const $name: Self = Self(ends::$name - $length);)*
        }
    };
    (@ends $start:expr;) => {
        pub const COUNT: usize = $start as usize;
    };
    (@ends $start:expr; $name:ident[$length:expr], $($rest:tt)*) => {
        pub const $name: u16 = $start + $length;
        slots!(@ends $name; $($rest)*);
    };
}

slots! {
    MTRR_VARIABLE[16],
    MTRR_FIX_64K[1],
    MTRR_FIX_16K[2],
    MTRR_FIX_4K[8],
    MTRR_DEF_TYPE[1],
    MC_BANKS[4 * 32],
    MC_CTL2[32],
    MCG_CAP[1],
    MCG_STATUS[1],
    MCG_CTL[1],
    SMI_COUNT[1],
    FEATURE_CONTROL[1],
    TSC_ADJUST[1],
    SPEC_CTRL[1],
    TSC_AUX[1],
    UCODE_REV[1],
    PLATFORM_INFO[1],
    ARCH_CAPABILITIES[1],
    MISC_FEATURES_ENABLES[1],
    MISC_ENABLE[1],
    POWER_CTL[1],
    XSS[1],
    HWCR[1],
    VIRT_SPEC_CTRL[1],
    OSVW_ID_LENGTH[1],
    OSVW_STATUS[1],
    DE_CFG[1],
    SYSTEM_TIME[1],
    ASYNC_PF[1],
    STEAL_TIME[1],
    PV_EOI[1],
    POLL_CONTROL[1],
}

/// Address of the 64-byte area in MSR_KVM_ASYNC_PF_EN.
const ASYNC_PF_ADDRESS: u64 = !0x3f;

/// Values an `MsrFile` holds.
pub const SLOTS: usize = ends::COUNT;

/// Where an MSR's value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// With the vendor's code.
    Hardware(Hardware),
    /// In the file; a run takes as many slots from this one on.
    Value(Slot),
    /// Nowhere: it reads as this, and forgets what is written.
    Constant(u64),
    /// In the local APIC: APIC_BASE.
    ApicBase,
    /// In the local APIC: a register, in x2APIC mode.
    X2apic,
    /// In the local APIC's timer.
    TscDeadline,
    /// EFER.
    Efer,
    /// The time stamp counter.
    Tsc,
    /// A command to the processor's predictors.
    PredictionCommand,
    /// A command to the processor's first-level cache.
    FlushCommand,
    /// The VM's wall clock, written to the guest's memory.
    WallClock,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Both.
    ReadWrite,
    /// Writes raise #GP.
    ReadOnly,
    /// Reads raise #GP.
    WriteOnly,
    /// Writes do nothing.
    WritesIgnored,
}

/// What values may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Any.
    Any,
    /// Those with no other bits than these.
    Bits(u64),
    /// Canonical addresses.
    Canonical,
    /// Any; the upper bits are made canonical.
    SignExtend,
    /// Eight memory types, as in PAT.
    PatTypes,
    /// Eight memory types, as in fixed-range MTRRs.
    MtrrTypes,
    /// A base and a memory type, or a mask.
    MtrrVariable,
    /// The default memory type and two enables.
    MtrrDefault,
    /// Of a machine check bank.
    McBank,
    /// The second control register of a machine check bank.
    McCtl2,
    /// All zeros or all ones, where there is such a register.
    McgCtl,
    /// The bits whose features the guest has.
    SpecCtrl,
    /// 32 bits.
    TscAux,
    /// What its lock allows.
    FeatureControl,
    /// The bits that do no harm.
    Hwcr,
    /// Some bits cannot be changed by the guest.
    MiscEnable,
    /// What PLATFORM_INFO announces.
    MiscFeatures,
    /// The supervisor states the guest may use.
    Xss,
    /// An enable bit, and an address aligned to 64.
    StealTime,
    /// An enable bit, and an address aligned to 4.
    PvEoi,
}

/// What a guest must be shown for it to have the MSR. The VMM reaches it
/// anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// One of these features.
    Any(&'static [Feature]),
    /// A paravirtual feature, unless the VM is lenient.
    Paravirtual(Feature),
    /// A processor of AMD's.
    Amd,
    /// A processor of Intel's.
    Intel,
}

/// In which of the lists that VMMs ask for an MSR stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// In none.
    No,
    /// In `KVM_GET_MSR_INDEX_LIST`: it is part of a vCPU's state.
    State,
    /// In `KVM_GET_MSR_FEATURE_INDEX_LIST`, and in the other: it tells about
    /// the host, and is part of a vCPU's state.
    Feature,
    /// In `KVM_GET_MSR_FEATURE_INDEX_LIST` alone.
    FeatureOnly,
}

/// An MSR, or a run of like ones.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The first number.
    pub first: u32,
    /// The last number.
    pub last: u32,
    /// Where its value lives.
    pub home: Home,
    /// What the guest may do.
    pub guest: Access,
    /// What the VMM may do.
    pub host: Access,
    /// What may be written.
    pub check: Check,
    /// When the guest has it.
    pub needs: Needs,
    /// Which lists it is in.
    pub listed: Listed,
}

/// A row for one MSR that both sides read and write; the rest is added by the
/// methods below.
const fn row(index: u32, home: Home) -> Row {
    Row {
        first: index,
        last: index,
        home,
        guest: Access::ReadWrite,
        host: Access::ReadWrite,
        check: Check::Any,
        needs: Needs::Nothing,
        listed: Listed::No,
    }
}

const fn hardware(index: u32, hardware: Hardware) -> Row {
    row(index, Home::Hardware(hardware)).listed(Listed::State)
}

const fn value(index: u32, slot: Slot) -> Row {
    row(index, Home::Value(slot)).listed(Listed::State)
}

/// An MSR that guests read and that means nothing here.
const fn constant(index: u32, value: u64) -> Row {
    row(index, Home::Constant(value)).both(Access::ReadOnly)
}

/// Likewise, and writes are forgotten.
const fn ignored(index: u32) -> Row {
    row(index, Home::Constant(0))
}

impl Row {
    const fn to(mut self, last: u32) -> Self {
        self.last = last;
        self
    }

    const fn guest(mut self, guest: Access) -> Self {
        self.guest = guest;
        self
    }

    const fn both(mut self, access: Access) -> Self {
        self.guest = access;
        self.host = access;
        self
    }

    const fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    const fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    const fn listed(mut self, listed: Listed) -> Self {
        self.listed = listed;
        self
    }
}

/// Features that bring SPEC_CTRL.
const SPEC_CTRL_FEATURES: &[Feature] = &[
    Feature::SPEC_CTRL,
    Feature::INTEL_STIBP,
    Feature::SPEC_CTRL_SSBD,
    Feature::AMD_IBRS,
    Feature::AMD_STIBP,
    Feature::AMD_SSBD,
    Feature::AMD_PSFD,
];

/// Features that bring PRED_CMD.
const PRED_CMD_FEATURES: &[Feature] = &[Feature::SPEC_CTRL, Feature::AMD_IBPB, Feature::SBPB];

/// The table, sorted.
pub const TABLE: [Row; 87] = [
    // Old machine check registers.
    constant(P5_MC_ADDR, 0).to(P5_MC_TYPE),
    row(TSC, Home::Tsc).listed(Listed::State),
    // The clock's old addresses, both of one clock with the new.
    row(abi::MSR_KVM_WALL_CLOCK, Home::WallClock)
        .needs(Needs::Paravirtual(Feature::PV_CLOCKSOURCE))
        .listed(Listed::State),
    value(abi::MSR_KVM_SYSTEM_TIME, Slot::SYSTEM_TIME)
        .needs(Needs::Paravirtual(Feature::PV_CLOCKSOURCE)),
    constant(PLATFORM_ID, 0),
    row(APIC_BASE, Home::ApicBase),
    constant(EBL_CR_POWERON, 0),
    // Core and bus run at one rate; a guest may divide by it.
    constant(EBC_FREQUENCY_ID, 1 << 24),
    value(SMI_COUNT, Slot::SMI_COUNT).guest(Access::ReadOnly),
    value(FEATURE_CONTROL, Slot::FEATURE_CONTROL)
        .check(Check::FeatureControl)
        .needs(Needs::Intel)
        .listed(Listed::No),
    value(TSC_ADJUST, Slot::TSC_ADJUST).needs(Needs::Any(&[Feature::TSC_ADJUST])),
    value(SPEC_CTRL, Slot::SPEC_CTRL)
        .check(Check::SpecCtrl)
        .needs(Needs::Any(SPEC_CTRL_FEATURES)),
    row(PRED_CMD, Home::PredictionCommand)
        .both(Access::WriteOnly)
        .needs(Needs::Any(PRED_CMD_FEATURES)),
    // Updates of microcode are taken and forgotten.
    ignored(UCODE_WRITE).both(Access::WriteOnly),
    value(UCODE_REV, Slot::UCODE_REV)
        .guest(Access::WritesIgnored)
        .listed(Listed::Feature),
    // Counters of the P6, which some guests clear without asking.
    ignored(P6_PERFCTR0).to(P6_PERFCTR1),
    constant(FSB_FREQ, 3),
    value(PLATFORM_INFO, Slot::PLATFORM_INFO)
        .guest(Access::ReadOnly)
        .listed(Listed::Feature),
    // 8 variable ranges, fixed ranges, write-combining.
    constant(MTRR_CAP, 0x508),
    value(ARCH_CAPABILITIES, Slot::ARCH_CAPABILITIES)
        .guest(Access::ReadOnly)
        .needs(Needs::Any(&[Feature::ARCH_CAPABILITIES]))
        .listed(Listed::Feature),
    row(FLUSH_CMD, Home::FlushCommand)
        .both(Access::WriteOnly)
        .needs(Needs::Any(&[Feature::FLUSH_L1D])),
    // A second-level cache of a Pentium II, enabled.
    row(BBL_CR_CTL3, Home::Constant(0xbe70_2111)),
    value(MISC_FEATURES_ENABLES, Slot::MISC_FEATURES_ENABLES).check(Check::MiscFeatures),
    hardware(SYSENTER_CS, Hardware::SysenterCs),
    hardware(SYSENTER_ESP, Hardware::SysenterEsp).check(Check::SignExtend),
    hardware(SYSENTER_EIP, Hardware::SysenterEip).check(Check::SignExtend),
    value(MCG_CAP, Slot::MCG_CAP)
        .both(Access::ReadOnly)
        .listed(Listed::No),
    value(MCG_STATUS, Slot::MCG_STATUS),
    value(MCG_CTL, Slot::MCG_CTL).check(Check::McgCtl),
    ignored(P6_EVNTSEL0).to(P6_EVNTSEL1),
    // Base clock and multiplier; a guest may divide by them.
    constant(PERF_STATUS, 1000 | 4 << 40),
    constant(PERF_CTL, 0),
    value(MISC_ENABLE, Slot::MISC_ENABLE).check(Check::MiscEnable),
    // Branches are not recorded: the bits are taken and stay zero.
    ignored(DEBUGCTL).check(Check::Bits(0x3f)),
    ignored(LAST_BRANCH_FROM)
        .to(LAST_INTERRUPT_TO)
        .guest(Access::ReadOnly)
        .check(Check::Bits(0)),
    value(POWER_CTL, Slot::POWER_CTL),
    value(MTRR_PHYS_BASE0, Slot::MTRR_VARIABLE)
        .to(MTRR_PHYS_MASK7)
        .check(Check::MtrrVariable)
        .listed(Listed::No),
    value(MTRR_FIX_64K, Slot::MTRR_FIX_64K)
        .check(Check::MtrrTypes)
        .listed(Listed::No),
    value(MTRR_FIX_16K_80000, Slot::MTRR_FIX_16K)
        .to(MTRR_FIX_16K_A0000)
        .check(Check::MtrrTypes)
        .listed(Listed::No),
    value(MTRR_FIX_4K_C0000, Slot::MTRR_FIX_4K)
        .to(MTRR_FIX_4K_F8000)
        .check(Check::MtrrTypes)
        .listed(Listed::No),
    hardware(PAT, Hardware::Pat).check(Check::PatTypes),
    // Without CMCI in MCG_CAP there are none: guests' reads fault, and their
    // writes do in the check.
    value(MC0_CTL2, Slot::MC_CTL2)
        .to(MC31_CTL2)
        .guest(Access::WriteOnly)
        .check(Check::McCtl2)
        .listed(Listed::No),
    value(MTRR_DEF_TYPE, Slot::MTRR_DEF_TYPE)
        .check(Check::MtrrDefault)
        .listed(Listed::No),
    value(MC0_CTL, Slot::MC_BANKS)
        .to(MC31_MISC)
        .check(Check::McBank)
        .listed(Listed::No),
    // Energy is the host's to measure.
    constant(RAPL_POWER_UNIT, 0),
    constant(PKG_ENERGY_STATUS, 0),
    constant(DRAM_ENERGY_STATUS, 0),
    constant(PP0_ENERGY_STATUS, 0),
    constant(PP1_ENERGY_STATUS, 0),
    row(TSC_DEADLINE, Home::TscDeadline).listed(Listed::State),
    row(X2APIC_FIRST, Home::X2apic).to(X2APIC_LAST),
    value(XSS, Slot::XSS)
        .check(Check::Xss)
        .needs(Needs::Any(&[Feature::XSAVES])),
    row(abi::MSR_KVM_WALL_CLOCK_NEW, Home::WallClock)
        .needs(Needs::Paravirtual(Feature::PV_CLOCKSOURCE2))
        .listed(Listed::State),
    value(abi::MSR_KVM_SYSTEM_TIME_NEW, Slot::SYSTEM_TIME)
        .needs(Needs::Paravirtual(Feature::PV_CLOCKSOURCE2)),
    // Delivery of asynchronous page faults (as an interrupt, or to a nested
    // hypervisor) is not there yet.
    value(abi::MSR_KVM_ASYNC_PF_EN, Slot::ASYNC_PF)
        .check(Check::Bits(
            ASYNC_PF_ADDRESS | abi::KVM_ASYNC_PF_ENABLED | abi::KVM_ASYNC_PF_SEND_ALWAYS,
        ))
        .needs(Needs::Paravirtual(Feature::PV_ASYNC_PF)),
    value(abi::MSR_KVM_STEAL_TIME, Slot::STEAL_TIME)
        .check(Check::StealTime)
        .needs(Needs::Paravirtual(Feature::PV_STEAL_TIME)),
    value(abi::MSR_KVM_PV_EOI_EN, Slot::PV_EOI)
        .check(Check::PvEoi)
        .needs(Needs::Paravirtual(Feature::PV_EOI)),
    value(abi::MSR_KVM_POLL_CONTROL, Slot::POLL_CONTROL)
        .check(Check::Bits(1))
        .needs(Needs::Paravirtual(Feature::PV_POLL_CONTROL)),
    // A VMM may restore zeros.
    ignored(abi::MSR_KVM_ASYNC_PF_INT)
        .to(abi::MSR_KVM_ASYNC_PF_ACK)
        .check(Check::Bits(0))
        .needs(Needs::Paravirtual(Feature::PV_ASYNC_PF_INT)),
    row(EFER, Home::Efer),
    hardware(STAR, Hardware::Star),
    hardware(LSTAR, Hardware::Lstar).check(Check::Canonical),
    hardware(CSTAR, Hardware::Cstar).check(Check::Canonical),
    // The host writes it to the processor, which refuses reserved bits.
    hardware(SFMASK, Hardware::Sfmask).check(Check::Bits(0xffff_ffff)),
    hardware(FS_BASE, Hardware::FsBase)
        .check(Check::Canonical)
        .listed(Listed::No),
    hardware(GS_BASE, Hardware::GsBase)
        .check(Check::Canonical)
        .listed(Listed::No),
    hardware(KERNEL_GS_BASE, Hardware::KernelGsBase).check(Check::Canonical),
    value(TSC_AUX, Slot::TSC_AUX)
        .check(Check::TscAux)
        .needs(Needs::Any(&[Feature::RDTSCP, Feature::RDPID])),
    ignored(K7_EVNTSEL0).to(K7_PERFCTR3),
    constant(SYSCFG, 0),
    value(HWCR, Slot::HWCR).check(Check::Hwcr),
    // Its reset value; a workaround for the K7 writes it.
    row(K7_CLK_CTL, Home::Constant(0x2000_0000)),
    ignored(NB_CFG),
    ignored(PATCH_LOADER).both(Access::WriteOnly),
    constant(INT_PENDING_MSG, 0),
    ignored(MMIO_CONF_BASE).check(Check::Bits(0)),
    constant(TSEG_ADDR, 0).to(TSEG_MASK),
    ignored(VM_CR).guest(Access::ReadOnly),
    value(VIRT_SPEC_CTRL, Slot::VIRT_SPEC_CTRL)
        .check(Check::Bits(1 << 2))
        .needs(Needs::Any(&[Feature::VIRT_SSBD]))
        .listed(Listed::No),
    value(OSVW_ID_LENGTH, Slot::OSVW_ID_LENGTH)
        .guest(Access::ReadOnly)
        .needs(Needs::Any(&[Feature::OSVW]))
        .listed(Listed::No),
    value(OSVW_STATUS, Slot::OSVW_STATUS)
        .guest(Access::ReadOnly)
        .needs(Needs::Any(&[Feature::OSVW]))
        .listed(Listed::No),
    ignored(IC_CFG),
    ignored(DC_CFG),
    ignored(TW_CFG),
    // Only that LFENCE serializes can be said, and only by who says so.
    value(DE_CFG, Slot::DE_CFG)
        .check(Check::Bits(1 << 1))
        .needs(Needs::Amd)
        .listed(Listed::FeatureOnly),
    ignored(BU_CFG2),
    ignored(EX_CFG),
];

/// The row of an MSR that is known when this is compiled; of another there is
/// none, and the compiler says so.
macro_rules! known {
    ($index:ident) => {
        const {
            let mut place = 0;
            while TABLE[place].first != $index {
                place += 1;
            }
            &TABLE[place]
        }
    };
}

const _: () = {
    let mut place = 0;
    while place < TABLE.len() {
        assert!(TABLE[place].first <= TABLE[place].last);
        if place > 0 {
            assert!(TABLE[place - 1].last < TABLE[place].first, "out of order");
        }
        place += 1;
    }
};

/// Places in [`FIRST_GUESS`]; a power of two.
const GUESSES: usize = 512;

/// Where to look for an MSR first: what tells the ranges of numbers apart, and
/// the low bits.
#[inline]
const fn guess_place(index: u32) -> usize {
    (index ^ (index >> 24) ^ (index >> 8)) as usize % GUESSES
}

/// Places in the table of rows, by [`guess_place`]; of two for one place the
/// first.
static FIRST_GUESS: [u8; GUESSES] = {
    const NONE: u8 = u8::MAX;
    assert!(TABLE.len() < NONE as usize);
    let mut guesses = [NONE; GUESSES];
    let mut row = 0;
    while row < TABLE.len() {
        let mut index = TABLE[row].first;
        // Of a long run its beginning: the rest is not much used.
        while index <= TABLE[row].last && index - TABLE[row].first < 16 {
            let guess = &mut guesses[guess_place(index)];
            if *guess == NONE {
                *guess = row as u8;
            }
            index += 1;
        }
        row += 1;
    }
    guesses
};

static ROWS: [Row; TABLE.len()] = TABLE;

/// The row of an MSR. Those that guests use all the time are found at once.
#[inline]
pub fn find(index: u32) -> Option<&'static Row> {
    match index {
        TSC_DEADLINE => return Some(known!(TSC_DEADLINE)),
        SPEC_CTRL => return Some(known!(SPEC_CTRL)),
        EFER => return Some(known!(EFER)),
        FS_BASE => return Some(known!(FS_BASE)),
        GS_BASE => return Some(known!(GS_BASE)),
        KERNEL_GS_BASE => return Some(known!(KERNEL_GS_BASE)),
        TSC_ADJUST => return Some(known!(TSC_ADJUST)),
        _ => {}
    }
    guess(index).or_else(|| search(&ROWS, index))
}

/// The row of an MSR, if it is where it is looked for first.
#[inline]
pub fn guess(index: u32) -> Option<&'static Row> {
    let place = FIRST_GUESS[guess_place(index) % GUESSES];
    let row = ROWS.get(usize::from(place))?;
    (row.first <= index && index <= row.last).then_some(row)
}

#[inline(never)]
fn search(rows: &'static [Row], index: u32) -> Option<&'static Row> {
    let behind = partition_point(rows, |row| row.first <= index);
    let row = rows.get(behind.checked_sub(1)?)?;
    (index <= row.last).then_some(row)
}
