// SPDX-License-Identifier: GPL-2.0

//! Exit reasons: SDM vol. 3, appendix C.

/// The exit reason field (25.9.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Reason(pub u32);

/// What makes an exit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// An event, or an instruction that does not always tell its length (software
    /// interrupts, task switches).
    Event,
    /// An instruction, whose length is known.
    Instruction,
    /// Likewise, one that no guest is given.
    Absent,
}

macro_rules! reasons {
    ($( $name:ident = $number:expr, $words:expr $(, $maker:ident)?; )*) => {
        impl Reason {
            $( #[doc = concat!($words, ".")] pub const $name: Self = Self($number); )*

            /// What it is, for people. Bits above the basic reason do not count.
            pub const fn name(self) -> Option<&'static str> {
                Some(match self.basic() {
                    $( Self::$name => $words, )*
                    _ => return None,
                })
            }

            const fn maker(self) -> Maker {
                match self.basic() {
                    $( $( Self::$name => Maker::$maker, )? )*
                    _ => Maker::Event,
                }
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
    CPUID = 10, "CPUID", Instruction;
    GETSEC = 11, "GETSEC", Absent;
    HLT = 12, "HLT", Instruction;
    INVD = 13, "INVD", Instruction;
    INVLPG = 14, "INVLPG", Instruction;
    RDPMC = 15, "RDPMC", Instruction;
    RDTSC = 16, "RDTSC", Instruction;
    RSM = 17, "RSM", Absent;
    VMCALL = 18, "VMCALL", Instruction;
    VMCLEAR = 19, "VMCLEAR", Absent;
    VMLAUNCH = 20, "VMLAUNCH", Absent;
    VMPTRLD = 21, "VMPTRLD", Absent;
    VMPTRST = 22, "VMPTRST", Absent;
    VMREAD = 23, "VMREAD", Absent;
    VMRESUME = 24, "VMRESUME", Absent;
    VMWRITE = 25, "VMWRITE", Absent;
    VMXOFF = 26, "VMXOFF", Absent;
    VMXON = 27, "VMXON", Absent;
    CONTROL_REGISTER = 28, "Control-register access", Instruction;
    DEBUG_REGISTER = 29, "MOV DR", Instruction;
    IO = 30, "I/O instruction", Instruction;
    RDMSR = 31, "RDMSR", Instruction;
    WRMSR = 32, "WRMSR", Instruction;
    INVALID_GUEST_STATE = 33, "VM-entry failure: invalid guest state";
    MSR_LOADING = 34, "VM-entry failure: MSR loading";
    MWAIT = 36, "MWAIT", Instruction;
    MONITOR_TRAP = 37, "Monitor trap flag";
    MONITOR = 39, "MONITOR", Instruction;
    PAUSE = 40, "PAUSE", Instruction;
    ENTRY_MACHINE_CHECK = 41, "VM-entry failure: machine check";
    TPR_BELOW_THRESHOLD = 43, "TPR below threshold";
    APIC_ACCESS = 44, "APIC access";
    VIRTUALIZED_EOI = 45, "Virtualized EOI";
    GDTR_IDTR = 46, "Access to GDTR or IDTR", Instruction;
    LDTR_TR = 47, "Access to LDTR or TR", Instruction;
    EPT_VIOLATION = 48, "EPT violation";
    EPT_MISCONFIGURATION = 49, "EPT misconfiguration";
    INVEPT = 50, "INVEPT", Absent;
    RDTSCP = 51, "RDTSCP", Instruction;
    PREEMPTION_TIMER = 52, "VMX-preemption timer";
    INVVPID = 53, "INVVPID", Absent;
    WBINVD = 54, "WBINVD or WBNOINVD", Instruction;
    XSETBV = 55, "XSETBV", Instruction;
    APIC_WRITE = 56, "APIC write";
    RDRAND = 57, "RDRAND", Instruction;
    INVPCID = 58, "INVPCID", Instruction;
    VMFUNC = 59, "VMFUNC", Absent;
    ENCLS = 60, "ENCLS", Absent;
    RDSEED = 61, "RDSEED", Instruction;
    PML_FULL = 62, "Page-modification log full";
    XSAVES = 63, "XSAVES", Absent;
    XRSTORS = 64, "XRSTORS", Absent;
    PCONFIG = 65, "PCONFIG", Absent;
    SUB_PAGE = 66, "SPP-related event";
    UMWAIT = 67, "UMWAIT", Absent;
    TPAUSE = 68, "TPAUSE", Absent;
    LOADIWKEY = 69, "LOADIWKEY", Absent;
    ENCLV = 70, "ENCLV", Absent;
    ENQCMD = 72, "ENQCMD PASID translation failure", Absent;
    ENQCMDS = 73, "ENQCMDS PASID translation failure", Absent;
    BUS_LOCK = 74, "Bus lock";
    INSTRUCTION_TIMEOUT = 75, "Instruction timeout";
    SEAMCALL = 76, "SEAMCALL", Absent;
    TDCALL = 77, "TDCALL", Absent;
    RDMSRLIST = 78, "RDMSRLIST", Absent;
    WRMSRLIST = 79, "WRMSRLIST", Absent;
    URDMSR = 80, "URDMSR", Absent;
    UWRMSR = 81, "UWRMSR", Absent;
    RDMSR_IMMEDIATE = 84, "RDMSR with immediate", Absent;
    WRMSRNS_IMMEDIATE = 85, "WRMSRNS with immediate", Absent;
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
    /// [`super::super::field::info::INSTRUCTION_LENGTH`] (28.2.5).
    pub fn has_instruction_length(self) -> bool {
        self.maker() != Maker::Event
    }

    /// The exit was made by an instruction that no guest is given.
    pub fn is_absent(self) -> bool {
        self.maker() == Maker::Absent
    }
}
