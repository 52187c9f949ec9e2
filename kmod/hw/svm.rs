// SPDX-License-Identifier: GPL-2.0

//! AMD SVM: one vCPU is one VMCB.
//!
//! Needs nested paging (APM vol. 2, 15.25). Uses NRIP save, decode assists,
//! flush by ASID and clean bits where the processor has them; without them the
//! exiting instruction is decoded, a flush takes a new ASID, and the processor
//! reads the whole VMCB.

mod cpu;
mod exit;
mod insn;
mod nmi;
mod permission;
mod vmcb;

use self::cpu::Asid;
use self::cpu::Cpus;
use self::cpu::Features;
use self::nmi::NmiState;
use self::permission::PermissionMaps;
use self::vmcb::Clean;
use self::vmcb::CrIntercepts;
use self::vmcb::Intercepts3;
use self::vmcb::Intercepts4;
use self::vmcb::InterruptState;
use self::vmcb::VirtualInterrupt;
use self::vmcb::Vmcb;
use self::vmcb::VmcbEvent;
use self::vmcb::VmcbSegment;
use super::cr4_in_force;
use super::event::interrupted;
use super::event::Interruption;
use super::nested;
use super::reset_registers;
use super::Event;
use super::Exit;
use super::Frequent;
use super::IoExit;
use super::NestedConfig;
use super::NestedFault;
use super::Registers;
use super::Vendor;
use super::VmSetup;
use super::ALWAYS_INTERCEPTED;
use super::CR0_CACHE;
use super::PAT_RESET;
use crate::host::cpu as host_cpu;
use crate::host::cpu::CpuHooks;
use crate::host::cpu::Extension;
use crate::host::page_box::PageBox;
use crate::host::page_box::PageData;
use crate::host::params::Settled;
use crate::host::task::IrqOff;
use crate::host::task::PreemptOff;
use crate::pc::cpuid::Feature;
use crate::pc::msr::Hardware;
use crate::pc::regs::Attributes;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
use crate::pc::regs::DescriptorTable;
use crate::pc::regs::Dr6;
use crate::pc::regs::Efer;
use crate::pc::regs::Reg;
use crate::pc::regs::Rflags;
use crate::pc::regs::SegReg;
use crate::pc::regs::Segment;
use kernel::prelude::*;

extern "C" {
    /// See `vmenter.S`.
    fn iv_svm_enter(gprs: *mut [u64; 16], guest_vmcb: u64, host_vmcb: u64);
}

/// One vCPU on SVM.
pub struct Svm {
    vmcb: PageBox<Vmcb>,
    cpus: &'static Cpus,
    asid: Asid,
    /// CR0 as the guest wrote it.
    cr0: Cr0,
    /// CR4 as the guest wrote it.
    cr4: Cr4,
    /// EFER as the guest sees it.
    efer: Efer,
    /// The host's DEBUGCTL, if the guest runs with another.
    host_debugctl: Option<u64>,
    features: Features,
    maps: PermissionMaps,
    /// Where this CPU keeps the host's half of VMLOAD and VMSAVE.
    host_vmcb: u64,
    flush: bool,
    nmi: nmi::Nmi,
}

impl Svm {
    fn dirty(&mut self, what: Clean) {
        self.vmcb.control.clean.set(what, false);
    }

    /// Intercepts and permission maps, which do not change with the guest.
    fn set_up_control(&mut self) {
        let control = &mut self.vmcb.control;
        control.cr = CrIntercepts::WRITE_CR4;
        control.dr = u32::MAX;
        control.exceptions = ALWAYS_INTERCEPTED;
        control.intercepts3 = Intercepts3::INTR
            .with(Intercepts3::NMI)
            .with(Intercepts3::SMI)
            .with(Intercepts3::INIT)
            .with(Intercepts3::SELECTIVE_CR0)
            .with(Intercepts3::RDPMC)
            .with(Intercepts3::CPUID)
            .with(Intercepts3::INVD)
            .with(Intercepts3::HLT)
            .with(Intercepts3::INVLPGA)
            .with(Intercepts3::IOIO)
            .with(Intercepts3::MSR)
            .with(Intercepts3::SHUTDOWN);
        // Many in a row only (APM vol. 2, 15.14.4): the guest waits for another
        // vCPU.
        let filter = self.features.pause_filter;
        control
            .intercepts3
            .set(Intercepts3::PAUSE, filter.count != 0);
        control.pause_filter_count = filter.count;
        control.pause_filter_threshold = filter.threshold;
        control.intercepts4 = Intercepts4::VMRUN
            .with(Intercepts4::VMMCALL)
            .with(Intercepts4::VMLOAD)
            .with(Intercepts4::VMSAVE)
            .with(Intercepts4::STGI)
            .with(Intercepts4::CLGI)
            .with(Intercepts4::SKINIT)
            .with(Intercepts4::WBINVD)
            .with(Intercepts4::MONITOR)
            .with(Intercepts4::MWAIT)
            .with(Intercepts4::XSETBV)
            .with(Intercepts4::RDPRU);
        control.iopm_base = self.maps.io().0;
        control.msrpm_base = self.maps.msr(false).0;
        control.vintr = VirtualInterrupt::V_INTR_MASKING;
        control.nested_ctl = vmcb::NESTED_PAGING;
    }

    /// Registers after RESET or INIT.
    fn reset_registers(&mut self) {
        reset_registers(self);
        // At each entry, so that a #DB says there why it came, and nothing else.
        self.vmcb.save.dr6 = Dr6::RESET.0;
        self.vmcb.control.clean = Clean::NONE;
    }

    fn segment_slot(&self, which: SegReg) -> &VmcbSegment {
        let save = &self.vmcb.save;
        match which {
            SegReg::Es => &save.es,
            SegReg::Cs => &save.cs,
            SegReg::Ss => &save.ss,
            SegReg::Ds => &save.ds,
            SegReg::Fs => &save.fs,
            SegReg::Gs => &save.gs,
            SegReg::Ldtr => &save.ldtr,
            SegReg::Tr => &save.tr,
        }
    }

    fn segment_slot_mut(&mut self, which: SegReg) -> &mut VmcbSegment {
        let save = &mut self.vmcb.save;
        match which {
            SegReg::Es => &mut save.es,
            SegReg::Cs => &mut save.cs,
            SegReg::Ss => &mut save.ss,
            SegReg::Ds => &mut save.ds,
            SegReg::Fs => &mut save.fs,
            SegReg::Gs => &mut save.gs,
            SegReg::Ldtr => &mut save.ldtr,
            SegReg::Tr => &mut save.tr,
        }
    }

    fn intercept_iret(&mut self, on: bool) {
        self.vmcb.control.intercepts3.set(Intercepts3::IRET, on);
        self.dirty(Clean::INTERCEPTS);
    }

    #[cold]
    fn exit_in_nmi(&mut self, regs: &mut Registers) -> Exit {
        let stepped = self.nmi.end_step(regs);
        self.nmi.look(regs);
        let exit = exit::decode(&self.vmcb.control, self.features.decode_assists);
        match exit {
            Exit::NmiWindow => {
                self.nmi.state = NmiState::Leaving { iret: regs.rip };
                self.intercept_iret(false);
                exit
            }
            Exit::Exception { vector: 1, .. } => {
                let Some(stepped) = stepped else { return exit };
                let cause = self.debug_cause();
                match stepped.settle(cause) {
                    Some(cause) => {
                        self.vmcb.save.dr6 |= cause;
                        exit
                    }
                    None => Exit::NmiWindow,
                }
            }
            _ => exit,
        }
    }

    /// Before VMRUN: an ASID of this CPU, and the flush that was asked for.
    #[inline(never)]
    fn prepare_tlb(&mut self, off: &IrqOff) {
        self.flush = false;
        let control = &mut self.vmcb.control;
        let valid = self.asid.is_current(self.cpus.this(off));
        if valid && self.features.flush_by_asid {
            control.tlb_control = vmcb::TLB_FLUSH_ASID;
            return;
        }
        let (asid, wrapped) = Asid::allocate(off);
        self.asid = asid;
        control.asid = asid.number();
        control.tlb_control = if wrapped {
            vmcb::TLB_FLUSH_ALL
        } else if self.features.flush_by_asid {
            vmcb::TLB_FLUSH_ASID
        } else {
            0
        };
        control.clean.set(Clean::ASID, false);
    }
}

impl CpuHooks for Svm {
    const EXTENSION: Extension = Extension::Svm;

    fn online(off: &IrqOff) -> Result {
        cpu::online(off)
    }

    fn offline(off: &IrqOff) {
        cpu::offline(off);
    }
}

// SAFETY: The VMCB is integers only; addresses in it are for the processor and
// set by this module's vendor code alone.
unsafe impl PageData for Vmcb {}

impl Vendor for Svm {
    const NAME: &'static str = "AMD SVM";

    type Nested = nested::Npt;

    const RESERVES_GLOBAL: bool = true;

    const WITHHELD: &'static [Feature] = &[];

    fn nested_config() -> NestedConfig {
        let five_levels = host_cpu::host_cr4(&PreemptOff::new()) & Cr4::LA57.0 != 0;
        // The nested walk uses the host's own paging mode (15.25.3), whose
        // addresses are canonical: only the lower half is guest physical.
        NestedConfig {
            levels: if five_levels { 5 } else { 4 },
            largest: if cpu::has_gib_pages() {
                nested::Level::Size1G
            } else {
                nested::Level::Size2M
            },
            physical_bits: host_cpu::host_physical_bits().min(if five_levels { 52 } else { 48 }),
            logs_writes: false,
            apic_page: false,
        }
    }

    fn probe() -> Result {
        cpu::probe()
    }

    fn load_globals() -> Result {
        permission::init()?;
        cpu::init()
    }

    unsafe fn unload_globals() {
        // SAFETY: By the precondition.
        unsafe {
            cpu::exit();
            permission::exit();
        }
    }

    fn settled() -> Settled {
        Settled {
            pause_filter: Features::of_this_cpu().pause_filter,
            ..Settled::default()
        }
    }

    fn new(setup: &VmSetup, _id: u16) -> Result<Self> {
        let mut svm = Self {
            vmcb: PageBox::new()?,
            cpus: cpu::all().ok_or(ENODEV)?,
            asid: Asid::NONE,
            cr0: Cr0(0),
            cr4: Cr4(0),
            efer: Efer(0),
            host_debugctl: None,
            features: Features::of_this_cpu(),
            maps: PermissionMaps::shared(),
            host_vmcb: 0,
            flush: true,
            nmi: nmi::Nmi::new(),
        };
        svm.vmcb.control.nested_cr3 = setup.nested_root.0;
        svm.vmcb.save.g_pat = PAT_RESET;
        svm.set_up_control();
        svm.reset_registers();
        Ok(svm)
    }

    fn init(&mut self) {
        self.reset_registers();
        self.vmcb.control.event_inject = VmcbEvent::NONE;
        self.set_nmi_blocked(false);
        self.set_interrupt_shadow(false);
        self.request_interrupt_window(false);
    }

    #[inline(always)]
    fn load(&mut self, off: &IrqOff, moved: bool) -> bool {
        if moved {
            // What this CPU's TLB and VMCB cache remember of the vCPU is stale.
            self.asid = Asid::NONE;
            self.vmcb.control.clean = Clean::NONE;
        }
        let here = self.cpus.this(off);
        self.host_vmcb = here.save_host(off, self.vmcb.hpa());
        // Nothing else hands identifiers out before the guest is unloaded.
        self.flush |= !self.asid.is_current(here);
        if self.features.host_traps {
            self.host_debugctl = cpu::end_traps(off);
        }
        true
    }

    #[inline]
    fn unload(&mut self, off: &IrqOff) {
        if self.features.host_traps {
            cpu::restore_traps(off, self.host_debugctl);
        }
    }

    fn flush_tlb(&mut self) {
        self.flush = true;
    }

    #[inline]
    fn enter(&mut self, off: &IrqOff, regs: &mut Registers) {
        if self.flush {
            self.prepare_tlb(off);
        }
        let save = &mut self.vmcb.save;
        save.rax = regs.gprs.get(Reg::Rax);
        save.rsp = regs.gprs.get(Reg::Rsp);
        save.rip = regs.rip;
        save.rflags = regs.rflags.0;
        // With NRIP save, what an injected #BP or #OF pushes (15.20).
        self.vmcb.control.next_rip = regs.rip;
        let vmcb = self.vmcb.hpa().0;
        // SAFETY: Interrupts are off, this CPU has SVM enabled and its host
        // save areas set (`load`), and the VMCB is consistent, nested paging
        // on, with the host's own memory out of the guest's reach.
        unsafe { iv_svm_enter(&mut regs.gprs.0, vmcb, self.host_vmcb) };
        let save = &self.vmcb.save;
        regs.gprs.set(Reg::Rax, save.rax);
        regs.gprs.set(Reg::Rsp, save.rsp);
        regs.rip = save.rip;
        regs.rflags = Rflags(save.rflags);
        let control = &mut self.vmcb.control;
        if control.tlb_control != 0 && exit::is_entry_failure(control) {
            // The flush may not have been done: no identifier counts on it.
            cpu::forget_asids(off);
        }
        control.tlb_control = 0;
        control.event_inject = VmcbEvent::NONE;
        control.clean = self.features.clean_after_exit;
    }

    #[inline(always)]
    fn frequent_exit(&self) -> Option<Frequent> {
        if self.nmi.is_active() {
            return None;
        }
        exit::frequent(&self.vmcb.control)
    }

    #[inline(always)]
    fn nested_fault(&self) -> NestedFault {
        exit::nested_fault(&self.vmcb.control)
    }

    #[inline(always)]
    fn io(&self) -> IoExit {
        exit::io(&self.vmcb.control)
    }

    #[inline]
    fn exit(&mut self, regs: &mut Registers) -> Exit {
        if self.nmi.is_active() {
            return self.exit_in_nmi(regs);
        }
        exit::decode(&self.vmcb.control, self.features.decode_assists)
    }

    #[inline]
    fn interrupted_event(&self) -> Option<Event> {
        let event = &self.vmcb.control.exit_int_info;
        interrupted(event.info, || event.error_code)
    }

    #[inline]
    fn instruction_length(&self, regs: &Registers) -> Option<u8> {
        if !self.features.next_rip_save {
            return None;
        }
        let length = self.vmcb.control.next_rip.wrapping_sub(regs.rip);
        (1..=15).contains(&length).then_some(length as u8)
    }

    #[inline]
    fn inject(&mut self, event: Event) {
        if event == Event::Nmi {
            self.set_nmi_blocked(true);
        }
        self.vmcb.control.event_inject = exit::injection(event);
    }

    fn request_interrupt_window(&mut self, on: bool) {
        let control = &mut self.vmcb.control;
        if control.intercepts3.has(Intercepts3::VINTR) == on {
            return;
        }
        // A virtual interrupt that is never taken: its intercept is the window.
        control.intercepts3.set(Intercepts3::VINTR, on);
        control.vintr.set(
            VirtualInterrupt::V_IRQ
                .with(VirtualInterrupt::V_IGNORE_TPR)
                .with(VirtualInterrupt::V_PRIORITY_MAX),
            on,
        );
        self.dirty(Clean::INTERCEPTS.with(Clean::INTERRUPT));
    }

    fn nmi_blocked(&self, regs: &Registers) -> bool {
        self.nmi.blocked(regs)
    }

    fn set_nmi_blocked(&mut self, on: bool) {
        self.nmi.state = if on {
            NmiState::Blocked
        } else {
            NmiState::Open
        };
        self.intercept_iret(on);
    }

    fn request_nmi_window(&mut self, regs: &mut Registers) {
        // While the handler runs its IRET exits; then only an instruction is
        // in the way.
        if self.vmcb.control.event_inject.info.has(Interruption::VALID) {
            // The flags on the stack of an event must not have our TF: exit
            // again as soon as the event is delivered.
            host_cpu::send_reschedule(host_cpu::raw_current_cpu());
        } else if self.nmi.state != NmiState::Blocked {
            self.nmi.step_over(regs);
        }
    }

    #[inline]
    fn interrupt_shadow(&self) -> bool {
        self.vmcb
            .control
            .interrupt_state
            .has(InterruptState::SHADOW)
    }

    #[inline]
    fn set_interrupt_shadow(&mut self, on: bool) {
        self.vmcb
            .control
            .interrupt_state
            .set(InterruptState::SHADOW, on);
    }

    #[inline]
    fn cr8(&self) -> u8 {
        (self.vmcb.control.vintr.0 & 0xf) as u8
    }

    #[inline]
    fn set_cr8(&mut self, value: u8) {
        let vintr = &mut self.vmcb.control.vintr;
        let new = (vintr.0 & !VirtualInterrupt::V_TPR.0) | u64::from(value & 0xf);
        if vintr.0 != new {
            vintr.0 = new;
            self.dirty(Clean::INTERRUPT);
        }
    }

    fn intercept_cr8_write(&mut self, on: bool) {
        if self.vmcb.control.cr.has(CrIntercepts::WRITE_CR8) != on {
            self.vmcb.control.cr.set(CrIntercepts::WRITE_CR8, on);
            self.dirty(Clean::INTERCEPTS);
        }
    }

    fn segment(&self, which: SegReg) -> Segment {
        self.segment_slot(which).load()
    }

    fn set_segment(&mut self, which: SegReg, segment: &Segment) {
        self.segment_slot_mut(which).store(segment);
        if which == SegReg::Ss {
            self.vmcb.save.cpl = segment.attributes.dpl();
        }
        self.dirty(Clean::SEGMENTS);
    }

    #[inline]
    fn segment_base(&self, which: SegReg) -> u64 {
        self.segment_slot(which).base
    }

    #[inline]
    fn code_attributes(&self) -> Attributes {
        Attributes(self.vmcb.save.cs.attributes)
    }

    #[inline]
    fn cpl(&self) -> u8 {
        self.vmcb.save.cpl & 3
    }

    fn gdtr(&self) -> DescriptorTable {
        descriptor_table(&self.vmcb.save.gdtr)
    }

    fn set_gdtr(&mut self, table: DescriptorTable) {
        self.vmcb.save.gdtr.base = table.base;
        self.vmcb.save.gdtr.limit = u32::from(table.limit);
        self.dirty(Clean::DESCRIPTOR_TABLES);
    }

    fn idtr(&self) -> DescriptorTable {
        descriptor_table(&self.vmcb.save.idtr)
    }

    fn set_idtr(&mut self, table: DescriptorTable) {
        self.vmcb.save.idtr.base = table.base;
        self.vmcb.save.idtr.limit = u32::from(table.limit);
        self.dirty(Clean::DESCRIPTOR_TABLES);
    }

    #[inline]
    fn cr0(&self) -> u64 {
        // TS and MP change without an exit; the cache bits only with one.
        Cr0(self.vmcb.save.cr0).with(self.cr0 & CR0_CACHE).0
    }

    fn set_cr0(&mut self, value: u64) {
        self.cr0 = Cr0(value);
        self.vmcb.save.cr0 = Cr0(value).without(CR0_CACHE).0;
        // While the guest believes its caches off, what it reads is not what
        // the processor has.
        let differs = self.cr0.any(CR0_CACHE);
        let accesses = CrIntercepts::READ_CR0.with(CrIntercepts::WRITE_CR0);
        self.vmcb.control.cr.set(accesses, differs);
        self.dirty(Clean::CONTROL_REGISTERS.with(Clean::INTERCEPTS));
    }

    #[inline]
    fn cr2(&self) -> u64 {
        self.vmcb.save.cr2
    }

    fn set_cr2(&mut self, value: u64) {
        self.vmcb.save.cr2 = value;
        self.dirty(Clean::CR2);
    }

    #[inline]
    fn cr3(&self) -> u64 {
        self.vmcb.save.cr3
    }

    fn set_cr3(&mut self, value: u64) {
        self.vmcb.save.cr3 = value;
        self.dirty(Clean::CONTROL_REGISTERS);
    }

    #[inline]
    fn cr4(&self) -> u64 {
        self.cr4.0
    }

    fn set_cr4(&mut self, value: u64) {
        self.cr4 = Cr4(value);
        let real = cr4_in_force(self.cr4);
        self.vmcb.save.cr4 = real.0;
        let differs = real != self.cr4;
        self.vmcb.control.cr.set(CrIntercepts::READ_CR4, differs);
        self.dirty(Clean::CONTROL_REGISTERS.with(Clean::INTERCEPTS));
    }

    #[inline]
    fn efer(&self) -> u64 {
        self.efer.0
    }

    fn set_efer(&mut self, value: u64) {
        self.efer = Efer(value);
        // LME matters when paging is switched on, which always exits. QEMU's
        // processor, leaving a guest that has LME without PAE and paging,
        // fails to restore the host's CR0: the guest runs without it.
        let idle = if self.efer.has(Efer::LMA) {
            Efer(0)
        } else {
            Efer::LME
        };
        self.vmcb.save.efer = self.efer.without(idle).with(Efer::SVME).0;
        self.dirty(Clean::CONTROL_REGISTERS);
    }

    fn debug_cause(&mut self) -> u64 {
        let found = core::mem::replace(&mut self.vmcb.save.dr6, Dr6::RESET.0);
        self.dirty(Clean::DEBUG_REGISTERS);
        found & Dr6::CAUSES.0
    }

    fn set_dr7(&mut self, value: u64) {
        if self.vmcb.save.dr7 != value {
            self.vmcb.save.dr7 = value;
            self.dirty(Clean::DEBUG_REGISTERS);
        }
    }

    fn msr(&self, which: Hardware) -> u64 {
        let save = &self.vmcb.save;
        match which {
            Hardware::Star => save.star,
            Hardware::Lstar => save.lstar,
            Hardware::Cstar => save.cstar,
            Hardware::Sfmask => save.sfmask,
            Hardware::KernelGsBase => save.kernel_gs_base,
            Hardware::SysenterCs => save.sysenter_cs,
            Hardware::SysenterEsp => save.sysenter_esp,
            Hardware::SysenterEip => save.sysenter_eip,
            Hardware::Pat => save.g_pat,
            Hardware::FsBase => save.fs.base,
            Hardware::GsBase => save.gs.base,
        }
    }

    fn set_msr(&mut self, which: Hardware, value: u64) {
        let save = &mut self.vmcb.save;
        match which {
            Hardware::Star => save.star = value,
            Hardware::Lstar => save.lstar = value,
            Hardware::Cstar => save.cstar = value,
            Hardware::Sfmask => save.sfmask = value,
            Hardware::KernelGsBase => save.kernel_gs_base = value,
            Hardware::SysenterCs => save.sysenter_cs = value,
            Hardware::SysenterEsp => save.sysenter_esp = value,
            Hardware::SysenterEip => save.sysenter_eip = value,
            Hardware::Pat => {
                save.g_pat = value;
                self.dirty(Clean::NESTED_PAGING);
            }
            Hardware::FsBase => save.fs.base = value,
            Hardware::GsBase => save.gs.base = value,
        }
    }

    fn intercept_all_msrs(&mut self, on: bool) {
        let map = self.maps.msr(on).0;
        if self.vmcb.control.msrpm_base != map {
            self.vmcb.control.msrpm_base = map;
            self.dirty(Clean::PERMISSION_MAPS);
        }
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb.control.tsc_offset = offset;
        self.dirty(Clean::INTERCEPTS);
    }

    fn set_exception_intercepts(&mut self, vectors: u32) {
        self.vmcb.control.exceptions = ALWAYS_INTERCEPTED | vectors;
        self.dirty(Clean::INTERCEPTS);
    }
}

fn descriptor_table(table: &VmcbSegment) -> DescriptorTable {
    DescriptorTable {
        base: table.base,
        limit: table.limit as u16,
    }
}
