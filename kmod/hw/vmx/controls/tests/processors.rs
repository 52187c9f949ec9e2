// SPDX-License-Identifier: GPL-2.0

//! The capability MSRs of processors, from what has been published of them.
//!
//! Those marked "dump" are the MSRs as read on the processor named. Of some
//! only the "vmx flags" line of /proc/cpuinfo is to be found, which tells
//! every control that we know how to use; the rest of their words is that of
//! Coffee Lake (see [`from_flags`]).

use super::Msrs;

/// Xeon X5482, Penryn (2007): dump in the processor database of VirtualBox.
/// Neither EPT nor VPID nor the TRUE MSRs.
pub(super) const PENRYN_X5482: Msrs = &[
    (0x480, 0x005a_0800_0000_000d),
    (0x481, 0x0000_003f_0000_0016),
    (0x482, 0xf7f9_fffe_0401_e172),
    (0x483, 0x0003_ffff_0003_6dff),
    (0x484, 0x0000_3fff_0000_11ff),
    (0x485, 0x0000_0000_0004_03c0),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0000_27ff),
    (0x48b, 0x0000_0041_0000_0000),
];

/// Nehalem (2008). Derived: Westmere's without what the SDM says came with
/// Westmere, unrestricted guest and the saving of EFER.LMA that goes with it.
pub(super) const NEHALEM: Msrs = &[
    (0x480, 0x00da_0400_0000_000e),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_0004_01c7),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0000_27ff),
    (0x48b, 0x0000_007f_0000_0000),
    (0x48c, 0x0000_0f01_0611_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Westmere (2010), in an HP EliteBook 2540p: dump in the notes of XMHF.
pub(super) const WESTMERE: Msrs = &[
    (0x480, 0x00da_0400_0000_000f),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_0004_01e7),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0002_67ff),
    (0x48b, 0x0000_00ff_0000_0000),
    (0x48c, 0x0000_0f01_0611_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Core i7-2635QM, Sandy Bridge (2011): dump in VirtualBox's database.
pub(super) const SANDY_BRIDGE_2635QM: Msrs = &[
    (0x480, 0x00da_0400_0000_0010),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_1004_01e5),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0006_27ff),
    (0x48b, 0x0000_00ff_0000_0000),
    (0x48c, 0x0000_0f01_0611_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Core i7-3960X, Sandy Bridge-E (2011): dump in VirtualBox's database.
pub(super) const SANDY_BRIDGE_3960X: Msrs = &[
    (0x480, 0x00da_0400_0000_0010),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_1004_01e5),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0006_27ff),
    (0x48b, 0x0000_04ff_0000_0000),
    (0x48c, 0x0000_0f01_0613_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Core i5-3570, Ivy Bridge (2012): dump in VirtualBox's database.
pub(super) const IVY_BRIDGE_3570: Msrs = &[
    (0x480, 0x00da_0400_0000_0010),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_1004_01e5),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0017_67ff),
    (0x48b, 0x0000_08ff_0000_0000),
    (0x48c, 0x0000_0f01_0611_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Haswell (2013). Derived: the i7-5600U's without RDSEED exiting and #VE,
/// which the SDM has since Broadwell.
pub(super) const HASWELL: Msrs = &[
    (0x480, 0x00da_0400_0000_0012),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_3004_81e5),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0017_67ff),
    (0x48b, 0x0000_7cff_0000_0000),
    (0x48c, 0x0000_0f01_0633_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Core i7-5600U, Broadwell (2015): dump in VirtualBox's database.
pub(super) const BROADWELL_5600U: Msrs = &[
    (0x480, 0x00da_0400_0000_0012),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_3004_81e5),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0037_67ff),
    (0x48b, 0x0005_7cff_0000_0000),
    (0x48c, 0x0000_0f01_0633_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Xeon E5-2683 v4, Broadwell-EP (2016). Out of a comparison of `vmxcap`
/// outputs on the KVM list (July 2019), which has it whole but for CR4.
pub(super) const BROADWELL_E5_2683: Msrs = &[
    (0x480, 0x00da_0400_0000_0012),
    (0x481, 0x0000_00ff_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_3004_81e5),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0037_67ff),
    (0x48b, 0x0007_7fff_0000_0000),
    (0x48c, 0x0000_0f01_0633_4141),
    (0x48d, 0x0000_00ff_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Core i7-6700K, Skylake (2015): dump in VirtualBox's database.
pub(super) const SKYLAKE_6700K: Msrs = &[
    (0x480, 0x00da_0400_0000_0004),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x01ff_ffff_0003_6dff),
    (0x484, 0x0003_ffff_0000_11ff),
    (0x485, 0x0000_0000_7004_c1e7),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0037_27ff),
    (0x48b, 0x001f_fcff_0000_0000),
    (0x48c, 0x0000_0f01_0633_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x01ff_ffff_0003_6dfb),
    (0x490, 0x0003_ffff_0000_11fb),
];

/// Core i7-8700, Coffee Lake (2017): dump in a log of VirtualBox.
pub(super) const COFFEE_LAKE_8700: Msrs = &[
    (0x480, 0x00da_0400_0000_0004),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x01ff_ffff_0003_6dff),
    (0x484, 0x0003_ffff_0000_11ff),
    (0x485, 0x0000_0000_7004_c1e7),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0037_27ff),
    (0x48b, 0x005f_bcff_0000_0000),
    (0x48c, 0x0000_0f01_0673_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x01ff_ffff_0003_6dfb),
    (0x490, 0x0003_ffff_0000_11fb),
];

/// Skylake-SP (2017). Secondary word of a dump quoted in the tests of a
/// decoder of AIDA64's reports; the rest as Coffee Lake's, with posted
/// interrupts, which every Xeon with virtual-interrupt delivery has.
pub(super) const SKYLAKE_SP: Msrs = &[
    (0x480, 0x00da_0400_0000_0004),
    (0x481, 0x0000_00ff_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x01ff_ffff_0003_6dff),
    (0x484, 0x0003_ffff_0000_11ff),
    (0x485, 0x0000_0000_7004_c1e7),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0037_27ff),
    (0x48b, 0x025f_7fff_0000_0000),
    (0x48c, 0x0000_0f01_0673_4141),
    (0x48d, 0x0000_00ff_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x01ff_ffff_0003_6dfb),
    (0x490, 0x0003_ffff_0000_11fb),
];

/// Core i7-1065G7, Ice Lake (2019): dump in the AIDA64 reports of InstLatx64, as
/// are the next three.
pub(super) const ICE_LAKE_1065G7: Msrs = &[
    (0x480, 0x00da_0500_0000_0013),
    (0x481, 0x0000_00ff_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x037f_ffff_0003_6dff),
    (0x484, 0x0006_ffff_0000_11ff),
    (0x485, 0x0000_0000_7004_c1e7),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0077_2fff),
    (0x48b, 0x335f_bfff_0000_0000),
    (0x48c, 0x0000_0f01_0673_4141),
    (0x48d, 0x0000_00ff_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x037f_ffff_0003_6dfb),
    (0x490, 0x0006_ffff_0000_11fb),
];

/// Core i5-1135G7, Tiger Lake (2020). Tertiary controls, exceptions with any
/// error code.
pub(super) const TIGER_LAKE_1135G7: Msrs = &[
    (0x480, 0x01da_0500_0000_0013),
    (0x481, 0x0000_00ff_0000_0016),
    (0x482, 0xfffb_fffe_0401_e172),
    (0x483, 0x137f_ffff_0003_6dff),
    (0x484, 0x0016_ffff_0000_11ff),
    (0x485, 0x0000_0000_7004_c1e7),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_00ff_2fff),
    (0x48b, 0x035f_3fff_0000_0000),
    (0x48c, 0x0000_0f01_06f3_4141),
    (0x48d, 0x0000_00ff_0000_0016),
    (0x48e, 0xfffb_fffe_0400_6172),
    (0x48f, 0x137f_ffff_0003_6dfb),
    (0x490, 0x0016_ffff_0000_11fb),
];

/// A Raptor Lake of 24 cores (2022), CPUID signature B0671h: a second word of
/// VM-exit controls, user wait; no PML, which Alder Lake without efficiency cores
/// has by its flags.
pub(super) const RAPTOR_LAKE: Msrs = &[
    (0x480, 0x03da_0500_0000_0013),
    (0x481, 0x0000_00ff_0000_0016),
    (0x482, 0xfffb_fffe_0401_e172),
    (0x483, 0xf77f_ffff_0003_6dff),
    (0x484, 0x0076_ffff_0000_11ff),
    (0x485, 0x0000_0000_7004_c1e7),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_01ff_6fff),
    (0x48b, 0x0f5d_7fff_0000_0000),
    (0x48c, 0x0001_0f01_06f3_4141),
    (0x48d, 0x0000_00ff_0000_0016),
    (0x48e, 0xfffb_fffe_0400_6172),
    (0x48f, 0xf77f_ffff_0003_6dfb),
    (0x490, 0x0076_ffff_0000_11fb),
];

/// A Xeon of 28 cores, Emerald Rapids (2023), CPUID signature C06F2h. Five
/// levels of EPT, bus-lock detection.
pub(super) const EMERALD_RAPIDS: Msrs = &[
    (0x480, 0x03da_0500_0000_0013),
    (0x481, 0x0000_00ff_0000_0016),
    (0x482, 0xfffb_fffe_0401_e172),
    (0x483, 0xff7f_ffff_0003_6dff),
    (0x484, 0x007e_ffff_0000_11ff),
    (0x485, 0x0000_0000_7004_c1e7),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_03f7_7fff),
    (0x48b, 0xcfff_ffff_0000_0000),
    (0x48c, 0x0001_0f01_06f3_41c1),
    (0x48d, 0x0000_00ff_0000_0016),
    (0x48e, 0xfffb_fffe_0400_6172),
    (0x48f, 0xff7f_ffff_0003_6dfb),
    (0x490, 0x007e_ffff_0000_11fb),
];

/// A host on Skylake-SP that is itself a guest of KVM: Cloud Hypervisor's
/// CPU profile "skylake". The profile does not tell MISC's timer rate, nor which
/// bits of CR0 and CR4 can be 1; here they are what the processor has.
pub(super) const SKYLAKE_SP_IN_KVM: Msrs = &[
    (0x480, 0x00d8_1000_11e5_7ed0),
    (0x485, 0x0000_0000_2000_0065),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0037_27ff),
    (0x48b, 0x0213_7bff_0000_0000),
    (0x48c, 0x0000_0f01_0633_4041),
    (0x48d, 0x0000_00ff_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_efff_0003_6dfb),
    (0x490, 0x0000_d3ff_0000_11fb),
];

/// The same on Sapphire Rapids (2023): profile "sapphire-rapids". Five levels of
/// paging, user wait.
pub(super) const SAPPHIRE_RAPIDS_IN_KVM: Msrs = &[
    (0x480, 0x00d8_1000_11e5_7ed0),
    (0x485, 0x0000_0000_2000_0065),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_00f7_3fff),
    (0x48b, 0x0613_7bff_0000_0000),
    (0x48c, 0x0000_0f01_0633_40c1),
    (0x48d, 0x0000_00ff_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_efff_0003_6dfb),
    (0x490, 0x0000_d3ff_0000_11fb),
];

/// Tiger Lake (2020) below Hyper-V.
pub(super) const TIGER_LAKE_IN_HYPER_V_FLAGS: &str = "vnmi invvpid ept_x_only ept_ad ept_1gb \
     tsc_offset vtpr ept vpid unrestricted_guest ept_mode_based_exec tsc_scaling";

/// Core Ultra 9 285K, Arrow Lake (2024).
pub(super) const ARROW_LAKE_FLAGS: &str = "vnmi preemption_timer posted_intr invvpid ept_x_only \
     ept_ad ept_1gb flexpriority apicv tsc_offset vtpr mtf vapic ept vpid unrestricted_guest \
     vapic_reg vid ple shadow_vmcs pml ept_violation_ve ept_mode_based_exec tsc_scaling \
     usr_wait_pause notify_vm_exiting ipi_virt";

/// A processor whose flags, as Linux names the controls, are `flags`: the MSRs
/// of Coffee Lake with every control that has a flag as the flags say.
pub(super) fn from_flags(flags: &str) -> Vec<(u32, u64)> {
    const HIGH: u32 = 32;
    /// Flag, MSRs, bit number.
    const FLAGS: [(&str, &[u32], u32); 22] = [
        ("vnmi", &[0x481, 0x48d], HIGH + 5),
        ("preemption_timer", &[0x481, 0x48d], HIGH + 6),
        ("posted_intr", &[0x481, 0x48d], HIGH + 7),
        ("ept_x_only", &[0x48c], 0),
        ("ept_1gb", &[0x48c], 17),
        ("ept_ad", &[0x48c], 21),
        ("invvpid", &[0x48c], 32),
        ("tsc_offset", &[0x482, 0x48e], HIGH + 3),
        ("vtpr", &[0x482, 0x48e], HIGH + 21),
        ("mtf", &[0x482, 0x48e], HIGH + 27),
        ("vapic", &[0x48b], HIGH),
        ("ept", &[0x48b], HIGH + 1),
        ("vpid", &[0x48b], HIGH + 5),
        ("unrestricted_guest", &[0x48b], HIGH + 7),
        ("vapic_reg", &[0x48b], HIGH + 8),
        ("vid", &[0x48b], HIGH + 9),
        ("ple", &[0x48b], HIGH + 10),
        ("shadow_vmcs", &[0x48b], HIGH + 14),
        ("pml", &[0x48b], HIGH + 17),
        ("ept_mode_based_exec", &[0x48b], HIGH + 22),
        ("tsc_scaling", &[0x48b], HIGH + 25),
        ("usr_wait_pause", &[0x48b], HIGH + 26),
    ];
    /// Made of others, or of controls we do not use.
    const OTHERS: [&str; 5] = [
        "flexpriority",
        "apicv",
        "ept_violation_ve",
        "notify_vm_exiting",
        "ipi_virt",
    ];
    let words: Vec<&str> = flags.split_whitespace().collect();
    for word in &words {
        let known = FLAGS.iter().any(|(name, ..)| name == word) || OTHERS.contains(word);
        assert!(known, "no such flag: {word}");
    }
    let mut msrs = COFFEE_LAKE_8700.to_vec();
    for (name, indices, bit) in FLAGS {
        for (index, value) in &mut msrs {
            if indices.contains(index) {
                *value = *value & !(1 << bit) | u64::from(words.contains(&name)) << bit;
            }
        }
    }
    msrs
}
