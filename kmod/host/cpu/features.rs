// SPDX-License-Identifier: GPL-2.0

//! What the host's processor has: CPUID as the hardware answers it, and the
//! kernel's own view, which leaves out what the kernel has disabled.

use super::bindings;

/// Registers after CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the registers' own names")]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// Executes CPUID. Some leaves differ between CPUs (the APIC ID); slow where
/// the host is a guest itself.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    // SAFETY: Every processor of this architecture has CPUID, which only
    // writes four registers.
    let result = unsafe { core::arch::x86_64::__cpuid_count(leaf, subleaf) };
    CpuidResult {
        eax: result.eax,
        ebx: result.ebx,
        ecx: result.ecx,
        edx: result.edx,
    }
}

/// A feature that the kernel knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature(u32);

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $binding:ident,)*) => {
        #[allow(dead_code, reason = "a list to choose from")]
        impl Feature {
            $($(#[$doc])* pub const $name: Self = Self(bindings::$binding);)*
        }
    };
}

features! {
    /// AMD secure virtual machine.
    SVM = X86_FEATURE_SVM,
    /// Intel virtual machine extensions.
    VMX = X86_FEATURE_VMX,
    /// SVM: nested page tables.
    NPT = X86_FEATURE_NPT,
    /// SVM: next instruction pointer saved on exit.
    NRIPS = X86_FEATURE_NRIPS,
    /// SVM: TSC ratio MSR.
    TSCRATEMSR = X86_FEATURE_TSCRATEMSR,
    /// SVM: VMCB clean bits.
    VMCBCLEAN = X86_FEATURE_VMCBCLEAN,
    /// SVM: flush by ASID.
    FLUSHBYASID = X86_FEATURE_FLUSHBYASID,
    /// SVM: decode assists.
    DECODEASSISTS = X86_FEATURE_DECODEASSISTS,
    /// SVM: pause filter.
    PAUSEFILTER = X86_FEATURE_PAUSEFILTER,
    /// SVM: pause filter threshold.
    PFTHRESHOLD = X86_FEATURE_PFTHRESHOLD,
    /// SVM: virtual VMLOAD and VMSAVE.
    V_VMSAVE_VMLOAD = X86_FEATURE_V_VMSAVE_VMLOAD,
    /// SVM: virtual GIF.
    VGIF = X86_FEATURE_VGIF,
    /// SVM: SPEC_CTRL is virtualized.
    V_SPEC_CTRL = X86_FEATURE_V_SPEC_CTRL,
    /// SVM: last branch record virtualization.
    LBRV = X86_FEATURE_LBRV,
    /// #DB after bus locks in user mode.
    BUS_LOCK_DETECT = X86_FEATURE_BUS_LOCK_DETECT,
    /// XSAVE, enabled by the kernel.
    OSXSAVE = X86_FEATURE_OSXSAVE,
    /// XSAVE.
    XSAVE = X86_FEATURE_XSAVE,
    /// XSAVES and the XSS MSR.
    XSAVES = X86_FEATURE_XSAVES,
    /// Protection keys, enabled by the kernel.
    OSPKE = X86_FEATURE_OSPKE,
    /// Protection keys.
    PKU = X86_FEATURE_PKU,
    /// FXSAVE.
    FXSR = X86_FEATURE_FXSR,
    /// RDTSCP.
    RDTSCP = X86_FEATURE_RDTSCP,
    /// RDPID.
    RDPID = X86_FEATURE_RDPID,
    /// RDFSBASE and its kin.
    FSGSBASE = X86_FEATURE_FSGSBASE,
    /// 1 GiB pages.
    GBPAGES = X86_FEATURE_GBPAGES,
    /// No-execute.
    NX = X86_FEATURE_NX,
    /// 57-bit linear addresses, in use by the kernel.
    LA57 = X86_FEATURE_LA57,
    /// TSC that keeps its rate.
    CONSTANT_TSC = X86_FEATURE_CONSTANT_TSC,
    /// TSC that does not stop.
    NONSTOP_TSC = X86_FEATURE_NONSTOP_TSC,
    /// The kernel runs in a virtual machine itself.
    HYPERVISOR = X86_FEATURE_HYPERVISOR,
    /// SPEC_CTRL MSR.
    MSR_SPEC_CTRL = X86_FEATURE_MSR_SPEC_CTRL,
    /// Indirect branch prediction barrier.
    IBPB = X86_FEATURE_IBPB,
    /// The kernel fills the return stack buffer on VM exit.
    RSB_VMEXIT = X86_FEATURE_RSB_VMEXIT,
    /// Access to supervisor mode pages by user instructions is policed: SMAP.
    SMAP = X86_FEATURE_SMAP,
    /// FLUSH_CMD MSR.
    FLUSH_L1D = X86_FEATURE_FLUSH_L1D,
    /// The processor raises #AC for locked accesses across cache lines, and the
    /// kernel has it do so.
    SPLIT_LOCK_DETECT = X86_FEATURE_SPLIT_LOCK_DETECT,
    /// The kernel wants to know of guests that have run, for a barrier of
    /// predictions on the way to user mode.
    IBPB_EXIT_TO_USER = X86_FEATURE_IBPB_EXIT_TO_USER,
    /// Memory encryption of the host (SME).
    SME = X86_FEATURE_SME,
}

/// Whether the boot CPU has a feature and the kernel has not disabled it.
#[inline]
pub fn boot_cpu_has(feature: Feature) -> bool {
    // SAFETY: The words are written at boot only; the union's other member is
    // the same memory.
    let words =
        unsafe { (&raw const bindings::boot_cpu_data.__bindgen_anon_3.x86_capability).read() };
    let word = words.get((feature.0 / 32) as usize).copied().unwrap_or(0);
    word & 1 << (feature.0 % 32) != 0
}

/// Width of a physical address in bits, as the kernel uses it.
pub fn host_physical_bits() -> u8 {
    // SAFETY: Set at boot.
    unsafe { bindings::boot_cpu_data.x86_phys_bits }
}
