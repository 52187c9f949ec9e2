// SPDX-License-Identifier: GPL-2.0

//! Control registers, EFER, RFLAGS and debug registers: every bit once.

use crate::pc::bits::bits;

bits! {
    /// Control register 0 (APM volume 2, section 3.1.1).
    Cr0: u64 {
        /// Protected mode.
        PE = 1 << 0;
        /// WAIT heeds TS.
        MP = 1 << 1;
        /// x87 instructions raise #NM.
        EM = 1 << 2;
        /// Task switched: the next FPU instruction raises #NM.
        TS = 1 << 3;
        /// Extension type; always 1.
        ET = 1 << 4;
        /// x87 errors raise #MF.
        NE = 1 << 5;
        /// Supervisor writes heed read-only pages.
        WP = 1 << 16;
        /// Alignment mask.
        AM = 1 << 18;
        /// Not write-through.
        NW = 1 << 29;
        /// Cache disable.
        CD = 1 << 30;
        /// Paging.
        PG = 1 << 31;
        /// Every bit with a meaning.
        DEFINED = 0xe005_003f;
        /// The bits LMSW can write (it cannot clear PE).
        LMSW = 0xf;
    }
}

bits! {
    /// Control register 3: root of the page tables (APM volume 2, section 3.1.2).
    Cr3: u64 {
        /// Page-level write-through (without PCIDs).
        PWT = 1 << 3;
        /// Page-level cache disable (without PCIDs).
        PCD = 1 << 4;
        /// Process-context identifier (with CR4.PCIDE).
        PCID = 0xfff;
        /// In the operand of MOV to CR3 with PCIDs: keep the PCID's
        /// translations. Never part of the register.
        NOFLUSH = 1 << 63;
    }
}

bits! {
    /// Control register 4 (APM volume 2, section 3.1.3; SDM volume 3A, section 2.5).
    Cr4: u64 {
        /// Virtual-8086 extensions.
        VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        PVI = 1 << 1;
        /// RDTSC only at CPL 0.
        TSD = 1 << 2;
        /// Debug extensions: DR4 and DR5 raise #UD.
        DE = 1 << 3;
        /// 4 MiB pages without PAE.
        PSE = 1 << 4;
        /// Physical-address extensions.
        PAE = 1 << 5;
        /// Machine check.
        MCE = 1 << 6;
        /// Global pages.
        PGE = 1 << 7;
        /// RDPMC at any CPL.
        PCE = 1 << 8;
        /// FXSAVE and SSE.
        OSFXSR = 1 << 9;
        /// SSE exceptions raise #XM.
        OSXMMEXCPT = 1 << 10;
        /// SGDT, SIDT, SLDT, SMSW, STR only at CPL 0.
        UMIP = 1 << 11;
        /// Five-level paging.
        LA57 = 1 << 12;
        /// VMX (Intel).
        VMXE = 1 << 13;
        /// SMX (Intel).
        SMXE = 1 << 14;
        /// RDFSBASE and relatives.
        FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        PCIDE = 1 << 17;
        /// XSAVE and extended states.
        OSXSAVE = 1 << 18;
        /// Supervisor-mode execution prevention.
        SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        SMAP = 1 << 21;
        /// Protection keys for user pages.
        PKE = 1 << 22;
        /// Control-flow enforcement.
        CET = 1 << 23;
        /// Protection keys for supervisor pages (Intel).
        PKS = 1 << 24;
    }
}

bits! {
    /// Extended feature enable register, MSR 0xC000_0080 (APM volume 2, section 3.1.7).
    Efer: u64 {
        /// SYSCALL and SYSRET.
        SCE = 1 << 0;
        /// Long mode enable.
        LME = 1 << 8;
        /// Long mode active (read-only: LME and CR0.PG).
        LMA = 1 << 10;
        /// No-execute pages.
        NXE = 1 << 11;
        /// Secure virtual machine.
        SVME = 1 << 12;
        /// Long mode segment limits.
        LMSLE = 1 << 13;
        /// Fast FXSAVE and FXRSTOR.
        FFXSR = 1 << 14;
        /// Translation cache extension.
        TCE = 1 << 15;
        /// Interruptible WBINVD.
        INTWB = 1 << 18;
        /// Upper address ignore.
        UAIE = 1 << 20;
        /// Automatic IBRS.
        AIBRSE = 1 << 21;
    }
}

bits! {
    /// The flags (APM volume 2, section 3.1.6).
    Rflags: u64 {
        /// Carry.
        CF = 1 << 0;
        /// Bit 1, always set.
        FIXED = 1 << 1;
        /// Parity of the low byte.
        PF = 1 << 2;
        /// Carry out of bit 3.
        AF = 1 << 4;
        /// Zero.
        ZF = 1 << 6;
        /// Sign.
        SF = 1 << 7;
        /// Trap after the instruction.
        TF = 1 << 8;
        /// Maskable interrupts enabled.
        IF = 1 << 9;
        /// String direction.
        DF = 1 << 10;
        /// Signed overflow.
        OF = 1 << 11;
        /// I/O privilege level, two bits.
        IOPL = 3 << 12;
        /// Nested task.
        NT = 1 << 14;
        /// Resume: suppress instruction breakpoints once.
        RF = 1 << 16;
        /// Virtual-8086 mode.
        VM = 1 << 17;
        /// Alignment check; with SMAP, access override.
        AC = 1 << 18;
        /// Virtual interrupt flag.
        VIF = 1 << 19;
        /// Virtual interrupt pending.
        VIP = 1 << 20;
        /// CPUID exists.
        ID = 1 << 21;
        /// The six flags arithmetic sets.
        ARITHMETIC = 0x8d5;
    }
}

impl Rflags {
    /// The I/O privilege level, 0 to 3.
    #[inline]
    pub const fn iopl(self) -> u8 {
        ((self.0 >> 12) & 3) as u8
    }
}

bits! {
    /// Debug status register (APM volume 2, section 13.1.1.3).
    Dr6: u64 {
        /// Breakpoints 0 to 3 that were hit.
        B = 0xf;
        /// Access to a debug register with DR7.GD.
        BD = 1 << 13;
        /// Single step.
        BS = 1 << 14;
        /// Task switch.
        BT = 1 << 15;
        /// Clear inside a transactional region; else set.
        RTM = 1 << 16;
        /// Bus lock: clear when one was trapped.
        BLD = 1 << 11;
        /// The bits that say why a #DB came; the others read as after RESET.
        CAUSES = 0xf | 0b111 << 13;
        /// Value after reset, and the bits that always read as one.
        RESET = 0xffff_0ff0;
    }
}

bits! {
    /// Debug control register (APM volume 2, section 13.1.1.4).
    Dr7: u64 {
        /// Any breakpoint enabled, locally or globally.
        ENABLES = 0xff;
        /// General detect.
        GD = 1 << 13;
        /// Bit 10, always set; the value after reset.
        RESET = 1 << 10;
    }
}
