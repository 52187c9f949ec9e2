// SPDX-License-Identifier: GPL-2.0

//! Every feature bit of CPUID that a guest may see, once, and on what terms.
//!
//! A bit is *given* when the guest gets it if the host has it, *emulated*
//! when the module provides it on any host, *dynamic* when it mirrors state
//! of the guest. All other bits are zero. Those somebody might miss are
//! listed as *withheld*, each group with its reason; they have names so that
//! other code can speak of them.
//!
//! Sources: APM volume 3, appendix E; SDM volume 2A, CPUID; for leaf
//! 0x4000_0001 `Documentation/virt/kvm/x86/cpuid.rst`.

use crate::uapi as abi;

/// A register of CPUID's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// What stands in one register of one leaf.
#[derive(Clone, Copy, Debug)]
pub struct WordInfo {
    /// The leaf.
    pub leaf: u32,
    /// The subleaf.
    pub index: u32,
    /// The register.
    pub register: Register,
    /// Bits that pass from the host.
    pub given: u32,
    /// Bits the module provides.
    pub emulated: u32,
    /// Bits that mirror the guest's state.
    pub dynamic: u32,
}

/// A feature bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    word: Word,
    bit: u8,
}

impl Feature {
    /// The word the bit is in.
    #[inline]
    pub const fn word(self) -> Word {
        self.word
    }

    /// The bit, as a mask of its word.
    #[inline]
    pub const fn mask(self) -> u32 {
        1u32.wrapping_shl(self.bit as u32)
    }
}

/// A set of feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureSet {
    words: [u32; Word::COUNT],
}

impl FeatureSet {
    /// No features.
    pub const EMPTY: Self = Self {
        words: [0; Word::COUNT],
    };

    /// Is the feature in the set?
    #[inline]
    pub const fn has(&self, feature: Feature) -> bool {
        self.words[feature.word as usize] & feature.mask() != 0
    }

    /// All of a word's bits in the set.
    #[inline]
    pub const fn word(&self, word: Word) -> u32 {
        self.words[word as usize]
    }

    /// Replaces all of a word's bits.
    #[inline]
    pub fn set_word(&mut self, word: Word, bits: u32) {
        self.words[word as usize] = bits;
    }

    /// Puts a feature in or takes it out.
    pub fn assign(&mut self, feature: Feature, present: bool) {
        let word = &mut self.words[feature.word as usize];
        if present {
            *word |= feature.mask();
        } else {
            *word &= !feature.mask();
        }
    }

    /// The set with the features in it.
    #[must_use]
    pub fn with(mut self, features: &[Feature]) -> Self {
        for feature in features {
            self.assign(*feature, true);
        }
        self
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn minus(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.words.iter_mut().zip(other.words) {
            *mine &= !theirs;
        }
        self
    }

    /// What is in both sets.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.words.iter_mut().zip(other.words) {
            *mine &= theirs;
        }
        self
    }
}

const fn bits(list: &[u32]) -> u32 {
    let mut mask = 0;
    let mut next = 0;
    while next < list.len() {
        assert!(mask & 1 << list[next] == 0, "a bit is listed twice");
        mask |= 1 << list[next];
        next += 1;
    }
    mask
}

macro_rules! words {
    ($(
        $(#[$doc:meta])*
        $word:ident = ($leaf:expr, $index:expr, $register:ident) {
            given [$($(#[$given_meta:meta])* $given:ident = $given_bit:expr,)*]
            emulated [$($(#[$emulated_meta:meta])* $emulated:ident = $emulated_bit:expr,)*]
            dynamic [$($(#[$dynamic_meta:meta])* $dynamic:ident = $dynamic_bit:expr,)*]
            withheld [$($(#[$withheld_meta:meta])* $withheld:ident = $withheld_bit:expr,)*]
        }
    )*) => {
        /// A register of a leaf that holds feature bits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Word {
            $($(#[$doc])* $word,)*
        }

        impl Word {
            /// Every word.
            pub const ALL: [Self; [$(Self::$word),*].len()] = [$(Self::$word),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Where the word is and what a guest may have of it.
            #[inline]
            pub const fn info(self) -> &'static WordInfo {
                const INFO: [WordInfo; Word::COUNT] = [$({
                    let info = WordInfo {
                        leaf: $leaf,
                        index: $index,
                        register: Register::$register,
                        given: bits(&[$($given_bit),*]),
                        emulated: bits(&[$($emulated_bit),*]),
                        dynamic: bits(&[$($dynamic_bit),*]),
                    };
                    let withheld = bits(&[$($withheld_bit),*]);
                    assert!(info.given & info.emulated == 0);
                    assert!((info.given | info.emulated) & info.dynamic == 0);
                    assert!((info.given | info.emulated | info.dynamic) & withheld == 0);
                    info
                }),*];
                &INFO[self as usize]
            }
        }

        #[allow(missing_docs)]
        impl Feature {
            $(
                $($(#[$given_meta])* pub const $given: Self = Self { word: Word::$word, bit: $given_bit as u8 };)*
                $($(#[$emulated_meta])* pub const $emulated: Self = Self { word: Word::$word, bit: $emulated_bit as u8 };)*
                $($(#[$dynamic_meta])* pub const $dynamic: Self = Self { word: Word::$word, bit: $dynamic_bit as u8 };)*
                $($(#[$withheld_meta])* pub const $withheld: Self = Self { word: Word::$word, bit: $withheld_bit as u8 };)*
            )*
        }
    };
}

words! {
    /// Leaf 1, ECX.
    Leaf1Ecx = (1, 0, Ecx) {
        given [
            SSE3 = 0, PCLMULQDQ = 1, SSSE3 = 9, FMA = 12, CX16 = 13, PCID = 17, SSE4_1 = 19,
            SSE4_2 = 20, MOVBE = 22, POPCNT = 23, AES = 25, XSAVE = 26, AVX = 28, F16C = 29,
            RDRAND = 30,
        ]
        emulated [
            X2APIC = 21,
            TSC_DEADLINE = 24,
            HYPERVISOR = 31,
        ]
        dynamic [
            /// Mirrors CR4.OSXSAVE.
            OSXSAVE = 27,
        ]
        withheld [
            // Guests get no branch traces, thermal monitors or frequency
            // control, nor the debug interface.
            DTES64 = 2, DS_CPL = 4, EIST = 7, TM2 = 8, CNXT_ID = 10, SDBG = 11, XTPR = 14,
            DCA = 18,
            // MWAIT would keep the host's CPU; a VMM that wants it sets it.
            MONITOR = 3,
            // No virtualization within guests yet; no SMX.
            VMX = 5, SMX = 6,
            // No performance monitoring yet.
            PDCM = 15,
        ]
    }

    /// Leaf 1, EDX.
    Leaf1Edx = (1, 0, Edx) {
        given [
            FPU = 0, VME = 1, DE = 2, PSE = 3, TSC = 4, MSR = 5, PAE = 6, MCE = 7, CX8 = 8,
            SEP = 11, MTRR = 12, PGE = 13, MCA = 14, CMOV = 15, PAT = 16, PSE36 = 17,
            CLFLUSH = 19, MMX = 23, FXSR = 24, SSE = 25, SSE2 = 26, SELFSNOOP = 27,
        ]
        emulated [
            /// What the guest sees follows APIC_BASE; see `Dynamic`.
            APIC = 9,
        ]
        dynamic []
        withheld [
            PSN = 18,
            // No debug store, no thermal control.
            DS = 21, ACPI = 22, TM = 29, PBE = 31,
            // The VMM says what the topology is.
            HTT = 28,
        ]
    }

    /// Leaf 6, EAX.
    Leaf6Eax = (6, 0, Eax) {
        given []
        emulated [
            /// The APIC timer always runs.
            ARAT = 2,
        ]
        dynamic []
        withheld []
    }

    /// Leaf 7, subleaf 0, EBX.
    Leaf7Ebx = (7, 0, Ebx) {
        given [
            FSGSBASE = 0, BMI1 = 3, HLE = 4, AVX2 = 5, FDP_EXCPTN_ONLY = 6, SMEP = 7, BMI2 = 8,
            ERMS = 9, INVPCID = 10, RTM = 11, ZERO_FCS_FDS = 13, AVX512F = 16, AVX512DQ = 17,
            RDSEED = 18, ADX = 19, SMAP = 20, AVX512_IFMA = 21, CLFLUSHOPT = 23, CLWB = 24,
            AVX512PF = 26, AVX512ER = 27, AVX512CD = 28, SHA_NI = 29, AVX512BW = 30,
            AVX512VL = 31,
        ]
        emulated [
            TSC_ADJUST = 1,
        ]
        dynamic []
        withheld [
            // Needs the driver's enclave pages.
            SGX = 2,
            // Resource control is the host's.
            PQM = 12, RDT_A = 15,
            // Removed from processors; the kernel keeps no state for it.
            MPX = 14,
            // Trace state is not switched.
            INTEL_PT = 25,
        ]
    }

    /// Leaf 7, subleaf 0, ECX.
    Leaf7Ecx = (7, 0, Ecx) {
        given [
            AVX512_VBMI = 1, UMIP = 2, PKU = 3, AVX512_VBMI2 = 6, GFNI = 8, VAES = 9,
            VPCLMULQDQ = 10, AVX512_VNNI = 11, AVX512_BITALG = 12, AVX512_VPOPCNTDQ = 14,
            LA57 = 16, RDPID = 22, CLDEMOTE = 25, MOVDIRI = 27, MOVDIR64B = 28,
        ]
        emulated []
        dynamic [
            /// Mirrors CR4.PKE.
            OSPKE = 4,
        ]
        withheld [
            // TPAUSE and UMWAIT need a control and an MSR of their own.
            WAITPKG = 5,
            // Control-flow enforcement: its state is not switched yet.
            SHSTK = 7,
            TME_EN = 13,
            // Needs #DB with DR6.BLD and DEBUGCTL.
            BUS_LOCK_DETECT = 24,
            // Address space ids of devices are the host's.
            ENQCMD = 29,
            SGX_LC = 30,
            // Supervisor protection keys: an MSR that is not switched.
            PKS = 31,
        ]
    }

    /// Leaf 7, subleaf 0, EDX.
    Leaf7Edx = (7, 0, Edx) {
        given [
            AVX512_4VNNIW = 2, AVX512_4FMAPS = 3, FSRM = 4, AVX512_VP2INTERSECT = 8,
            MD_CLEAR = 10, SERIALIZE = 14, TSXLDTRK = 16, AVX512_FP16 = 23, FLUSH_L1D = 28,
        ]
        emulated [
            /// An MSR of constants. Intel only: AMD's processors have no such
            /// bit, and there are guests that stumble over it.
            ARCH_CAPABILITIES = 29,
        ]
        dynamic []
        withheld [
            // User interrupts, last-branch records and hybrid cores need
            // state and MSRs that are not switched.
            UINTR = 5, HYBRID = 15, PCONFIG = 18, ARCH_LBR = 19, CORE_CAPABILITIES = 30,
            CET_IBT = 20,
            // SPEC_CTRL is not switched yet.
            SPEC_CTRL = 26, INTEL_STIBP = 27, SPEC_CTRL_SSBD = 31,
            // Tile state is too large to be given unasked.
            AMX_BF16 = 22, AMX_TILE = 24, AMX_INT8 = 25,
        ]
    }

    /// Leaf 7, subleaf 1, EAX.
    Leaf7_1Eax = (7, 1, Eax) {
        given [
            SHA512 = 0, SM3 = 1, SM4 = 2, AVX_VNNI = 4, AVX512_BF16 = 5, CMPCCXADD = 7,
            FZRM = 10, FSRS = 11, FSRC = 12, AVX_IFMA = 23,
        ]
        emulated []
        dynamic []
        withheld [
            // New event delivery; exits this module does not know.
            FRED = 17, LKGS = 18, WRMSRNS = 19, MSRLIST = 27,
            AMX_FP16 = 21,
            // Needs bits 61 and 62 of CR3 in the walker.
            LAM = 26,
        ]
    }

    /// Leaf 7, subleaf 1, EDX.
    Leaf7_1Edx = (7, 1, Edx) {
        given [
            AVX_VNNI_INT8 = 4, AVX_NE_CONVERT = 5, AVX_VNNI_INT16 = 10, PREFETCHITI = 14,
        ]
        emulated []
        dynamic []
        withheld [
            AMX_COMPLEX = 8, UTMR = 13, CET_SSS = 18,
            // Comes with leaf 0x24, which is not there yet.
            AVX10 = 19,
        ]
    }

    /// Leaf 7, subleaf 2, EDX: bits of SPEC_CTRL.
    Leaf7_2Edx = (7, 2, Edx) {
        given [MCDT_NO = 5,]
        emulated []
        dynamic []
        withheld [
            // SPEC_CTRL is not switched yet.
            INTEL_PSFD = 0, IPRED_CTRL = 1, RRSBA_CTRL = 2, DDPD_U = 3, BHI_CTRL = 4,
        ]
    }

    /// Leaf 0xd, subleaf 1, EAX.
    LeafDEax = (0xd, 1, Eax) {
        given [XSAVEOPT = 0, XSAVEC = 1, XGETBV1 = 2,]
        emulated []
        dynamic []
        withheld [
            // XSS is not switched yet; the guest would save by the host's.
            XSAVES = 3,
            // Goes with AMX.
            XFD = 4,
        ]
    }

    /// Leaf 0x4000_0001, EAX: what KVM offers.
    KvmEax = (abi::KVM_CPUID_FEATURES, 0, Eax) {
        given []
        emulated [
            PV_CLOCKSOURCE = abi::KVM_FEATURE_CLOCKSOURCE,
            PV_NOP_IO_DELAY = abi::KVM_FEATURE_NOP_IO_DELAY,
            PV_CLOCKSOURCE2 = abi::KVM_FEATURE_CLOCKSOURCE2,
            // Alone it lets a guest say where it would be told, and no more:
            // what it is told comes as the interrupt of PV_ASYNC_PF_INT.
            PV_ASYNC_PF = abi::KVM_FEATURE_ASYNC_PF,
            PV_STEAL_TIME = abi::KVM_FEATURE_STEAL_TIME,
            PV_EOI = abi::KVM_FEATURE_PV_EOI,
            PV_UNHALT = abi::KVM_FEATURE_PV_UNHALT,
            PV_SEND_IPI = abi::KVM_FEATURE_PV_SEND_IPI,
            PV_POLL_CONTROL = abi::KVM_FEATURE_POLL_CONTROL,
            PV_SCHED_YIELD = abi::KVM_FEATURE_PV_SCHED_YIELD,
            PV_CLOCKSOURCE_STABLE = abi::KVM_FEATURE_CLOCKSOURCE_STABLE_BIT,
        ]
        dynamic []
        withheld [
            // Not there yet.
            PV_TLB_FLUSH = abi::KVM_FEATURE_PV_TLB_FLUSH,
            PV_ASYNC_PF_VMEXIT = abi::KVM_FEATURE_ASYNC_PF_VMEXIT,
            PV_ASYNC_PF_INT = abi::KVM_FEATURE_ASYNC_PF_INT,
            // For the VMM to offer, as it needs its help.
            PV_MSI_EXT_DEST_ID = abi::KVM_FEATURE_MSI_EXT_DEST_ID,
            PV_HC_MAP_GPA_RANGE = abi::KVM_FEATURE_HC_MAP_GPA_RANGE,
            PV_MIGRATION_CONTROL = abi::KVM_FEATURE_MIGRATION_CONTROL,
        ]
    }

    /// Leaf 0x8000_0001, ECX.
    Ext1Ecx = (0x8000_0001, 0, Ecx) {
        given [
            LAHF_LM = 0, CMP_LEGACY = 1, CR8_LEGACY = 4, ABM = 5, SSE4A = 6, MISALIGNSSE = 7,
            PREFETCHW = 8, OSVW = 9, XOP = 11, FMA4 = 16, TBM = 21, TOPOEXT = 22,
        ]
        emulated []
        dynamic []
        withheld [
            // No virtualization within guests yet.
            SVM = 2, SKINIT = 12,
            // The APIC emulated has no extended space.
            EXTAPIC = 3,
            // Sampling, profiling and counters are not switched.
            IBS = 10, WDT = 13, LWP = 15, PERFCTR_CORE = 23, PERFCTR_NB = 24, DBEXT = 26,
            PERFTSC = 27, PERFCTR_LLC = 28,
            MWAITX = 29,
        ]
    }

    /// Leaf 0x8000_0001, EDX. Bits 0 to 24 repeat leaf 1 on AMD.
    Ext1Edx = (0x8000_0001, 0, Edx) {
        given [
            EXT_FPU = 0, EXT_VME = 1, EXT_DE = 2, EXT_PSE = 3, EXT_TSC = 4, EXT_MSR = 5,
            EXT_PAE = 6, EXT_MCE = 7, EXT_CX8 = 8, EXT_APIC = 9, SYSCALL = 11, EXT_MTRR = 12,
            EXT_PGE = 13, EXT_MCA = 14, EXT_CMOV = 15, EXT_PAT = 16, EXT_PSE36 = 17, NX = 20,
            MMXEXT = 22, EXT_MMX = 23, EXT_FXSR = 24, FXSR_OPT = 25, GBPAGES = 26, RDTSCP = 27,
            LM = 29, AMD_3DNOWEXT = 30, AMD_3DNOW = 31,
        ]
        emulated []
        dynamic []
        withheld []
    }

    /// Leaf 0x8000_0007, EDX.
    Ext7Edx = (0x8000_0007, 0, Edx) {
        given [INVARIANT_TSC = 8,]
        emulated []
        dynamic []
        withheld [
            // Frequencies and their counters are the host's.
            HW_PSTATE = 7, EFF_FREQ_RO = 10,
        ]
    }

    /// Leaf 0x8000_0008, EBX.
    Ext8Ebx = (0x8000_0008, 0, Ebx) {
        given [
            CLZERO = 0, XSAVEERPTR = 2, WBNOINVD = 9, AMD_IBPB = 12, AMD_SSB_NO = 26, BTC_NO = 29,
            IBPB_RET = 30,
        ]
        emulated [
            /// EFER.LMSLE cannot be set. AMD only.
            EFER_LMSLE_MBZ = 20,
        ]
        dynamic []
        withheld [
            // SPEC_CTRL is not switched yet.
            AMD_IBRS = 14, AMD_STIBP = 15, AMD_STIBP_ALWAYS_ON = 17, AMD_IBRS_SAME_MODE = 19,
            AMD_SSBD = 24, AMD_PSFD = 28,
            // Read what the host's frequency is.
            RDPRU = 4,
            // Broadcast of TLB flushes needs ASIDs shared by all CPUs.
            INVLPGB = 3,
            INT_WBINVD = 13,
            AMD_PPIN = 23,
            // Would have to be emulated with LS_CFG.
            VIRT_SSBD = 25,
        ]
    }

    /// Leaf 0x8000_0021, EAX.
    Ext21Eax = (0x8000_0021, 0, Eax) {
        given [
            NO_NESTED_DATA_BP = 0, WRMSR_XX_BASE_NS = 1, VERW_CLEAR = 5, NULL_SEL_CLR_BASE = 6,
            AUTOIBRS = 8, PREFETCHI = 20, SBPB = 27, IBPB_BRTYPE = 28, SRSO_NO = 29,
            SRSO_USER_KERNEL_NO = 30,
        ]
        emulated [
            /// LFENCE serializes: Linux makes it so on AMD's processors (DE_CFG)
            /// when it boots, where it is not so by itself.
            LFENCE_RDTSC = 2,
            /// There is no SMM_CTL MSR.
            NO_SMM_CTL_MSR = 9,
        ]
        dynamic []
        withheld [
            // Needs the upper bits of addresses ignored in the walker.
            UPPER_ADDRESS_IGNORE = 7,
            ERAPS = 24,
        ]
    }

    /// Leaf 0x8000_0021, ECX.
    Ext21Ecx = (0x8000_0021, 0, Ecx) {
        given [TSA_SQ_NO = 1, TSA_L1_NO = 2,]
        emulated []
        dynamic []
        withheld []
    }
}
