// SPDX-License-Identifier: GPL-2.0

//! Exit reasons: SDM vol. 3, appendix C.

/// The exit reason field (25.9.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Reason(pub u32);

macro_rules! reasons {
    ($( $name:ident = $number:expr, $words:expr; )*) => {
        impl Reason {
            $( #[doc = concat!($words, ".")] pub const $name: Self = Self($number); )*

            /// What it is, for people. Bits above the basic reason do not count.
            pub const fn name(self) -> Option<&'static str> {
                Some(match self.basic() {
                    $( Self::$name => $words, )*
                    _ => return None,
                })
            }
        }
    };
}

reasons! {
    EXCEPTION_OR_NMI = 0, "Exception or NMI";
    EXTERNAL_INTERRUPT = 1, "External interrupt";
    TRIPLE_FAULT = 2, "Triple fault";
    INIT = 3, "INIT signal";
    SIPI = 4, "Start-up IPI";
    IO_SMI = 5, "I/O SMI";
    OTHER_SMI = 6, "Other SMI";
    INTERRUPT_WINDOW = 7, "Interrupt window";
    NMI_WINDOW = 8, "NMI window";
    TASK_SWITCH = 9, "Task switch";
    CPUID = 10, "CPUID";
    GETSEC = 11, "GETSEC";
    HLT = 12, "HLT";
    INVD = 13, "INVD";
    INVLPG = 14, "INVLPG";
    RDPMC = 15, "RDPMC";
    RDTSC = 16, "RDTSC";
    RSM = 17, "RSM";
    VMCALL = 18, "VMCALL";
    VMCLEAR = 19, "VMCLEAR";
    VMLAUNCH = 20, "VMLAUNCH";
    VMPTRLD = 21, "VMPTRLD";
    VMPTRST = 22, "VMPTRST";
    VMREAD = 23, "VMREAD";
    VMRESUME = 24, "VMRESUME";
    VMWRITE = 25, "VMWRITE";
    VMXOFF = 26, "VMXOFF";
    VMXON = 27, "VMXON";
    CONTROL_REGISTER = 28, "Control-register access";
    DEBUG_REGISTER = 29, "MOV DR";
    IO = 30, "I/O instruction";
    RDMSR = 31, "RDMSR";
    WRMSR = 32, "WRMSR";
    INVALID_GUEST_STATE = 33, "VM-entry failure: invalid guest state";
    MSR_LOADING = 34, "VM-entry failure: MSR loading";
    MWAIT = 36, "MWAIT";
    MONITOR_TRAP = 37, "Monitor trap flag";
    MONITOR = 39, "MONITOR";
    PAUSE = 40, "PAUSE";
    ENTRY_MACHINE_CHECK = 41, "VM-entry failure: machine check";
    TPR_BELOW_THRESHOLD = 43, "TPR below threshold";
    APIC_ACCESS = 44, "APIC access";
    VIRTUALIZED_EOI = 45, "Virtualized EOI";
    GDTR_IDTR = 46, "Access to GDTR or IDTR";
    LDTR_TR = 47, "Access to LDTR or TR";
    EPT_VIOLATION = 48, "EPT violation";
    EPT_MISCONFIGURATION = 49, "EPT misconfiguration";
    INVEPT = 50, "INVEPT";
    RDTSCP = 51, "RDTSCP";
    PREEMPTION_TIMER = 52, "VMX-preemption timer";
    INVVPID = 53, "INVVPID";
    WBINVD = 54, "WBINVD or WBNOINVD";
    XSETBV = 55, "XSETBV";
    APIC_WRITE = 56, "APIC write";
    RDRAND = 57, "RDRAND";
    INVPCID = 58, "INVPCID";
    VMFUNC = 59, "VMFUNC";
    ENCLS = 60, "ENCLS";
    RDSEED = 61, "RDSEED";
    PML_FULL = 62, "Page-modification log full";
    XSAVES = 63, "XSAVES";
    XRSTORS = 64, "XRSTORS";
    PCONFIG = 65, "PCONFIG";
    SUB_PAGE = 66, "SPP-related event";
    UMWAIT = 67, "UMWAIT";
    TPAUSE = 68, "TPAUSE";
    LOADIWKEY = 69, "LOADIWKEY";
    ENCLV = 70, "ENCLV";
    ENQCMD = 72, "ENQCMD PASID translation failure";
    ENQCMDS = 73, "ENQCMDS PASID translation failure";
    BUS_LOCK = 74, "Bus lock";
    INSTRUCTION_TIMEOUT = 75, "Instruction timeout";
    SEAMCALL = 76, "SEAMCALL";
    TDCALL = 77, "TDCALL";
    RDMSRLIST = 78, "RDMSRLIST";
    WRMSRLIST = 79, "WRMSRLIST";
    URDMSR = 80, "URDMSR";
    UWRMSR = 81, "UWRMSR";
    RDMSR_IMMEDIATE = 84, "RDMSR with immediate";
    WRMSRNS_IMMEDIATE = 85, "WRMSRNS with immediate";
}

impl Reason {
    /// The entry has failed after the controls and the host state were checked.
    const ENTRY_FAILED: u32 = 1 << 31;

    /// The reason without what goes with it in the upper half.
    #[inline]
    pub const fn basic(self) -> Self {
        Self(self.0 & 0xffff)
    }

    /// No guest has run: the entry has failed.
    #[inline]
    pub const fn is_entry_failure(self) -> bool {
        self.0 & Self::ENTRY_FAILED != 0
    }

    /// The exit was made by an instruction, whose length is in
    /// [`super::super::field::info::INSTRUCTION_LENGTH`] (28.2.5). Not among
    /// them: software interrupts and task switches, which tell it sometimes.
    pub const fn has_instruction_length(self) -> bool {
        matches!(
            self.basic(),
            Self::CPUID
                | Self::GETSEC
                | Self::HLT
                | Self::INVD
                | Self::INVLPG
                | Self::RDPMC
                | Self::RDTSC
                | Self::RSM
                | Self::VMCALL
                | Self::VMCLEAR
                | Self::VMLAUNCH
                | Self::VMPTRLD
                | Self::VMPTRST
                | Self::VMREAD
                | Self::VMRESUME
                | Self::VMWRITE
                | Self::VMXOFF
                | Self::VMXON
                | Self::CONTROL_REGISTER
                | Self::DEBUG_REGISTER
                | Self::IO
                | Self::RDMSR
                | Self::WRMSR
                | Self::MWAIT
                | Self::MONITOR
                | Self::PAUSE
                | Self::GDTR_IDTR
                | Self::LDTR_TR
                | Self::INVEPT
                | Self::RDTSCP
                | Self::INVVPID
                | Self::WBINVD
                | Self::XSETBV
                | Self::RDRAND
                | Self::INVPCID
                | Self::VMFUNC
                | Self::ENCLS
                | Self::RDSEED
                | Self::XSAVES
                | Self::XRSTORS
                | Self::PCONFIG
                | Self::UMWAIT
                | Self::TPAUSE
                | Self::LOADIWKEY
                | Self::ENCLV
                | Self::ENQCMD
                | Self::ENQCMDS
                | Self::SEAMCALL
                | Self::TDCALL
                | Self::RDMSRLIST
                | Self::WRMSRLIST
                | Self::URDMSR
                | Self::UWRMSR
                | Self::RDMSR_IMMEDIATE
                | Self::WRMSRNS_IMMEDIATE
        )
    }
}
