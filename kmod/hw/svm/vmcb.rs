// SPDX-License-Identifier: GPL-2.0

//! The virtual machine control block: APM vol. 2, appendix B.
//!
//! One page per vCPU. The processor reads it at VMRUN and writes it at
//! #VMEXIT; in between only the thread that runs the vCPU touches it.

use crate::hw::event::Interruption;
use crate::pc::bits::bits;
use crate::pc::regs::Attributes;
use crate::pc::regs::Segment;

bits! {
    /// Intercepts of control-register accesses; reads in the low half.
    CrIntercepts: u32 {
        READ_CR0 = 1 << 0;
        READ_CR4 = 1 << 4;
        READ_CR8 = 1 << 8;
        WRITE_CR0 = 1 << 16;
        WRITE_CR3 = 1 << 19;
        WRITE_CR4 = 1 << 20;
        WRITE_CR8 = 1 << 24;
    }
}

bits! {
    /// First vector of instruction intercepts (offset 00Ch).
    Intercepts3: u32 {
        INTR = 1 << 0;
        NMI = 1 << 1;
        SMI = 1 << 2;
        INIT = 1 << 3;
        VINTR = 1 << 4;
        SELECTIVE_CR0 = 1 << 5;
        RDPMC = 1 << 15;
        CPUID = 1 << 18;
        IRET = 1 << 20;
        INVD = 1 << 22;
        PAUSE = 1 << 23;
        HLT = 1 << 24;
        INVLPGA = 1 << 26;
        IOIO = 1 << 27;
        MSR = 1 << 28;
        TASK_SWITCH = 1 << 29;
        SHUTDOWN = 1 << 31;
    }
}

bits! {
    /// Second vector of instruction intercepts (offset 010h).
    Intercepts4: u32 {
        VMRUN = 1 << 0;
        VMMCALL = 1 << 1;
        VMLOAD = 1 << 2;
        VMSAVE = 1 << 3;
        STGI = 1 << 4;
        CLGI = 1 << 5;
        SKINIT = 1 << 6;
        WBINVD = 1 << 9;
        MONITOR = 1 << 10;
        MWAIT = 1 << 11;
        XSETBV = 1 << 13;
        RDPRU = 1 << 14;
    }
}

bits! {
    /// Virtual interrupt control (offset 060h).
    VirtualInterrupt: u64 {
        V_TPR = 0xff;
        V_IRQ = 1 << 8;
        V_IGNORE_TPR = 1 << 20;
        V_INTR_MASKING = 1 << 24;
        V_PRIORITY_MAX = 0xf << 16;
    }
}

bits! {
    /// Interrupt shadow and guest interrupt mask (offset 068h).
    InterruptState: u64 {
        SHADOW = 1 << 0;
    }
}

/// EVENTINJ and EXITINTINFO (offsets 0A8h, 088h).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VmcbEvent {
    /// The event.
    pub info: Interruption,
    /// Its error code, if it has one.
    pub error_code: u32,
}

impl VmcbEvent {
    /// None.
    pub const NONE: Self = Self {
        info: Interruption(0),
        error_code: 0,
    };
}

bits! {
    /// VMCB clean bits (offset 0C0h): what the processor may keep cached.
    Clean: u32 {
        INTERCEPTS = 1 << 0;
        PERMISSION_MAPS = 1 << 1;
        ASID = 1 << 2;
        INTERRUPT = 1 << 3;
        NESTED_PAGING = 1 << 4;
        CONTROL_REGISTERS = 1 << 5;
        DEBUG_REGISTERS = 1 << 6;
        DESCRIPTOR_TABLES = 1 << 7;
        SEGMENTS = 1 << 8;
        CR2 = 1 << 9;
        ALL = 0x3ff;
        NONE = 0;
    }
}

/// Value of TLB_CONTROL that drops every translation of every ASID.
pub const TLB_FLUSH_ALL: u8 = 1;
/// Value of TLB_CONTROL that drops this guest's translations (FlushByAsid).
pub const TLB_FLUSH_ASID: u8 = 3;
/// NESTED_CTL bit that turns nested paging on.
pub const NESTED_PAGING: u64 = 1;

/// A segment register as the VMCB holds it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct VmcbSegment {
    /// Selector.
    pub selector: u16,
    /// Attributes: descriptor bits 55:52 and 47:40, packed (15.5.1).
    pub attributes: u16,
    /// Limit in bytes, already scaled.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

impl VmcbSegment {
    /// The segment in the form of `pc`.
    #[inline]
    pub fn load(&self) -> Segment {
        let mut attributes = Attributes(self.attributes & Attributes::DESCRIPTOR);
        // A processor marks a null segment by P=0 alone.
        if !attributes.present() {
            attributes.0 |= Attributes::UNUSABLE;
        }
        Segment {
            base: self.base,
            limit: self.limit,
            selector: self.selector,
            attributes,
        }
    }

    /// Takes over a segment in the form of `pc`.
    #[inline]
    pub fn store(&mut self, segment: &Segment) {
        self.selector = segment.selector;
        self.limit = segment.limit;
        self.base = segment.base;
        self.attributes = segment.attributes.0 & Attributes::DESCRIPTOR;
        if segment.attributes.unusable() {
            self.attributes &= !Attributes::P;
        }
    }
}

/// Control area.
#[repr(C)]
pub struct Control {
    /// Intercepts of CR accesses.
    pub cr: CrIntercepts,
    /// Intercepts of DR accesses; reads in the low half.
    pub dr: u32,
    /// Intercepts of exceptions, one bit per vector.
    pub exceptions: u32,
    /// Instruction intercepts.
    pub intercepts3: Intercepts3,
    /// Instruction intercepts.
    pub intercepts4: Intercepts4,
    /// Instruction intercepts (INVLPGB and later).
    pub intercepts5: u32,
    _reserved_018: [u32; 9],
    /// PAUSE filter threshold and count.
    pub pause_filter_threshold: u16,
    /// PAUSE filter count.
    pub pause_filter_count: u16,
    /// Physical address of the I/O permission map.
    pub iopm_base: u64,
    /// Physical address of the MSR permission map.
    pub msrpm_base: u64,
    /// Added to the TSC that the guest reads.
    pub tsc_offset: u64,
    /// Address space identifier: never 0.
    pub asid: u32,
    /// TLB control.
    pub tlb_control: u8,
    _reserved_05d: [u8; 3],
    /// Virtual interrupt control.
    pub vintr: VirtualInterrupt,
    /// Interrupt shadow.
    pub interrupt_state: InterruptState,
    /// Reason of the #VMEXIT.
    pub exit_code: u64,
    /// First operand of the #VMEXIT.
    pub exit_info1: u64,
    /// Second operand of the #VMEXIT.
    pub exit_info2: u64,
    /// Event whose delivery the #VMEXIT interrupted.
    pub exit_int_info: VmcbEvent,
    /// Nested paging and SEV enable bits.
    pub nested_ctl: u64,
    _avic_bar: u64,
    _ghcb: u64,
    /// Event to deliver at VMRUN.
    pub event_inject: VmcbEvent,
    /// Root of the nested page tables.
    pub nested_cr3: u64,
    /// LBR virtualization and virtual VMLOAD/VMSAVE.
    pub virt_ext: u64,
    /// What has not changed since the last VMRUN.
    pub clean: Clean,
    _reserved_0c4: u32,
    /// RIP after the intercepted instruction, where NRIPS is there.
    pub next_rip: u64,
    /// Bytes fetched of the faulting instruction, where decode assists are.
    pub fetched_len: u8,
    /// The bytes.
    pub fetched: [u8; 15],
    _reserved_0e0: [u64; 100],
}

/// State save area.
#[repr(C)]
pub struct Save {
    /// Extra segment.
    pub es: VmcbSegment,
    /// Code segment.
    pub cs: VmcbSegment,
    /// Stack segment.
    pub ss: VmcbSegment,
    /// Data segment.
    pub ds: VmcbSegment,
    /// FS.
    pub fs: VmcbSegment,
    /// GS.
    pub gs: VmcbSegment,
    /// Global descriptor table (base and limit).
    pub gdtr: VmcbSegment,
    /// Local descriptor table.
    pub ldtr: VmcbSegment,
    /// Interrupt descriptor table (base and limit).
    pub idtr: VmcbSegment,
    /// Task register.
    pub tr: VmcbSegment,
    _reserved_0a0: [u8; 43],
    /// Current privilege level.
    pub cpl: u8,
    _reserved_0cc: u32,
    /// EFER; the SVME bit is always set while the guest runs.
    pub efer: u64,
    _reserved_0d8: [u64; 14],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    _reserved_180: [u64; 11],
    /// RSP.
    pub rsp: u64,
    _reserved_1e0: [u64; 3],
    /// RAX.
    pub rax: u64,
    /// STAR.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// CR2.
    pub cr2: u64,
    _reserved_248: [u64; 4],
    /// Guest PAT (only with nested paging).
    pub g_pat: u64,
    /// DEBUGCTL.
    pub debugctl: u64,
    _last_branch: [u64; 4],
    _reserved_298: [u8; 72],
    /// SPEC_CTRL, where it is virtualized.
    pub spec_ctrl: u64,
    _reserved_2e8: [u8; 0x918],
}

/// The whole block: exactly one page.
#[repr(C)]
pub struct Vmcb {
    /// Control area.
    pub control: Control,
    /// State save area.
    pub save: Save,
}

const _: () = {
    use core::mem::offset_of;
    use core::mem::size_of;
    assert!(offset_of!(Control, iopm_base) == 0x40);
    assert!(offset_of!(Control, asid) == 0x58);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, event_inject) == 0xa8);
    assert!(offset_of!(Control, nested_cr3) == 0xb0);
    assert!(offset_of!(Control, next_rip) == 0xc8);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Save, cpl) == 0xcb);
    assert!(offset_of!(Save, efer) == 0xd0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, g_pat) == 0x268);
    assert!(offset_of!(Save, spec_ctrl) == 0x2e0);
    assert!(size_of::<Vmcb>() == 4096);
};
