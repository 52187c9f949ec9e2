// SPDX-License-Identifier: GPL-2.0

//! Intel VMX: one vCPU is one VMCS.
//!
//! Needs EPT and unrestricted guests (SDM vol. 3, 29.3 and 26.3), so that real
//! mode and protected mode without paging run natively. What else is used
//! where the processor has it is in [`controls`].
//!
//! A VMCS can be reached only where it is current, so registers of the guest are
//! read when somebody asks, and kept until the next entry ([`state`]). Between
//! [`Vendor::load`] and [`Vendor::unload`] the VMCS is current and interrupts are
//! off; outside, each access makes it so ([`vmcs`]).

pub mod apicv;
pub mod controls;
mod cpu;
pub mod dump;
mod enter;
pub mod event;
pub mod exit;
#[allow(dead_code, reason = "described whole")]
pub mod field;
mod host_state;
mod insn;
pub mod msr_bitmap;
mod msrs;
mod pebs;
pub mod run_timer;
mod setup;
mod state;
mod virtual_apic;
mod vmcs;
pub mod write_log;

use self::controls::Controls;
use self::controls::EntryControls;
use self::controls::EptVpid;
use self::controls::Primary;
use self::controls::Secondary;
use self::cpu::Shared;
use self::enter::Chores;
use self::enter::Entered;
use self::event::ErrorCodes;
use self::event::Injection;
use self::event::Interruptibility;
use self::exit::Reason;
use self::field::control;
use self::field::guest;
use self::field::info;
use self::field::SegmentFields;
use self::field::PDPTES;
use self::host_state::HostState;
use self::msrs::SwitchedMsrs;
use self::pebs::Pebs;
use self::run_timer::RunTimer;
use self::setup::Words;
use self::state::Cache;
use self::virtual_apic::VirtualApic;
use self::vmcs::Vmcs;
use super::cr4_in_force;
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
use crate::host::page::HostPage;
use crate::host::params::Settled;
use crate::host::task::IrqOff;
use crate::host::task::PreemptOff;
use crate::pc::addr::Gfn;
use crate::pc::addr::Hpa;
use crate::pc::cpuid::Feature;
use crate::pc::lapic::Lapic;
use crate::pc::lapic::LapicPost;
use crate::pc::lapic::VectorSet;
use crate::pc::msr::Hardware;
use crate::pc::regs::Attributes;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
use crate::pc::regs::DescriptorTable;
use crate::pc::regs::Efer;
use crate::pc::regs::SegReg;
use crate::pc::regs::Segment;
use crate::pc::tsc::Rate;
use kernel::prelude::*;

/// Offset of the task priority in the virtual-APIC page (SDM vol. 3, 30.1.1).
const VIRTUAL_TPR: usize = 0x80;

/// Whether this CPU's extended page tables have accessed and dirty flags.
pub fn has_accessed_dirty() -> bool {
    cpu::has_accessed_dirty()
}

/// One vCPU on VMX. With `ACCESSED_DIRTY`, its processors keep accessed and
/// dirty flags in extended page tables.
pub struct Vmx<const ACCESSED_DIRTY: bool> {
    // Dropped first: nothing of the rest is in use then.
    vmcs: Vmcs,
    shared: &'static Shared,
    /// Keeps what is translated for this vCPU apart from what is for others of the
    /// VM, so that none is dropped at entries and exits. Other VMs have other
    /// tables, which tells theirs apart, too (SDM vol. 3, 29.4.1). 0 is the host's.
    vpid: u16,
    eptp: u64,
    /// Where the processor keeps the guest's task priority, or all of its local APIC.
    virtual_apic: HostPage,
    /// Where the processor lists the pages it makes dirty, if it does.
    written: Option<HostPage>,
    apicv: VirtualApic,
    host: HostState,
    pebs: Pebs,
    msrs: SwitchedMsrs,
    /// Between `load` and `unload`: the VMCS is current, interrupts are off.
    in_use: bool,
    cache: Cache,
    words: Words,
    entered: Entered,
    run_timer: RunTimer,
    /// RSP of the host as the VMCS has it.
    host_rsp: u64,
    /// CR0 as the guest wrote it; bits that it changes without an exit may be
    /// others by now.
    cr0: Cr0,
    /// CR4, likewise.
    cr4: Cr4,
    efer: Efer,
    cr2: u64,
    /// Of the last #DB that exited.
    debug_cause: u64,
    /// Its page tables tell the processor to ignore it.
    pat: u64,
    chores: Chores,
}

impl<const ACCESSED_DIRTY: bool> Vendor for Vmx<ACCESSED_DIRTY> {
    const NAME: &'static str = "Intel VMX";

    type Nested = nested::Ept<ACCESSED_DIRTY>;

    const RESERVES_GLOBAL: bool = false;

    // Its control needs the host's IA32_UMWAIT_CONTROL to be kept apart.
    const WITHHELD: &'static [Feature] = &[Feature::WAITPKG];

    const KEEPS_APIC: bool = true;

    fn nested_config() -> NestedConfig {
        let controls = cpu::shared().map(|shared| &shared.controls);
        let ept = controls.map_or(EptVpid::NONE, |controls| controls.ept);
        let physical_bits = host_cpu::host_physical_bits();
        let five_levels = ept.has(EptVpid::WALK_5) && physical_bits > 48;
        NestedConfig {
            levels: if five_levels { 5 } else { 4 },
            largest: if ept.has(EptVpid::LEAF_1G) {
                nested::Level::Size1G
            } else if ept.has(EptVpid::LEAF_2M) {
                nested::Level::Size2M
            } else {
                nested::Level::Size4K
            },
            physical_bits: physical_bits.min(if five_levels { 52 } else { 48 }),
            logs_writes: ACCESSED_DIRTY && controls.is_some_and(Controls::has_pml),
            apic_page: cpu::shared().is_some_and(Shared::virtualizes_page),
        }
    }

    fn probe() -> Result {
        cpu::probe()
    }

    fn load_globals() -> Result {
        cpu::init()
    }

    unsafe fn unload_globals() {
        // SAFETY: By the precondition.
        unsafe { cpu::exit() };
    }

    fn settled() -> Settled {
        Settled {
            pml: Self::nested_config().logs_writes,
            apicv: cpu::shared().is_some_and(Shared::keeps_apics),
            preemption_timer: cpu::shared().is_some_and(|shared| shared.ends_runs_in_time),
            ..Settled::default()
        }
    }

    fn posts() -> bool {
        cpu::shared().is_some_and(Shared::posts)
    }

    fn set_posted(&mut self, descriptor: Hpa) {
        self.write(control::POSTED_DESCRIPTOR, descriptor.0);
        let vector = host_cpu::notification_vector();
        self.write(control::POSTED_NOTIFICATION_VECTOR, vector.into());
        self.apicv.posted = true;
    }

    fn new(setup: &VmSetup, id: u16) -> Result<Self> {
        let shared = cpu::shared().ok_or(ENODEV)?;
        let controls = &shared.controls;
        let levels = Self::nested_config().levels;
        let words = Words::new(controls);
        let logs_writes = Self::nested_config().logs_writes;
        let mut vmx = Self {
            vmcs: Vmcs::new(controls.capabilities.revision())?,
            shared,
            eptp: controls.eptp(setup.nested_root, levels),
            vpid: id.wrapping_add(1),
            virtual_apic: HostPage::new()?,
            written: logs_writes.then(HostPage::new).transpose()?,
            apicv: VirtualApic::default(),
            host: HostState::default(),
            pebs: Pebs::new(shared.pebs_counters),
            msrs: SwitchedMsrs::new(shared.syscall),
            in_use: false,
            cache: Cache::default(),
            words,
            entered: Entered::new(),
            run_timer: setup::run_timer(controls),
            host_rsp: 0,
            cr0: Cr0(0),
            cr4: Cr4(0),
            efer: Efer(0),
            cr2: 0,
            debug_cause: 0,
            pat: PAT_RESET,
            chores: Chores::FLUSH_TLB.assign(Chores::FLUSH_L1D, shared.l1d.at_each_entry()),
        };
        vmx.set_up(setup)?;
        Ok(vmx)
    }

    fn init(&mut self) {
        reset_registers(self);
        self.write(control::ENTRY_INTERRUPTION, 0);
        self.write(guest::INTERRUPTIBILITY, 0);
        self.write(guest::PENDING_DEBUG, 0);
        self.cache.forget();
        self.request_interrupt_window(false);
    }

    #[inline]
    fn set_deadline(&mut self, deadline: Option<u64>) -> bool {
        if self.shared.ends_runs_in_time {
            self.run_timer.set_deadline(deadline);
            self.chores.set(Chores::TIMER, true);
        }
        self.shared.ends_runs_in_time
    }

    fn prepare(&mut self, pinned: &PreemptOff) -> bool {
        if self.vmcs.is_elsewhere(host_cpu::current_cpu(pinned)) {
            self.vmcs.evict();
            return true;
        }
        // The other CPU may have gone offline since, and have given it up by itself.
        self.vmcs.is_nowhere() && cpu::is_online(&IrqOff::new())
    }

    #[inline(always)]
    fn load(&mut self, off: &IrqOff, moved: bool) -> bool {
        if !self.vmcs.is_current(self.shared.active(off)) && !self.vmcs.make_current(off) {
            return false;
        }
        self.in_use = true;
        if moved {
            self.moved(off);
        }
        self.host.load(off);
        if self.pebs.load() {
            self.chores.set(Chores::PEBS, true);
        }
        self.msrs.load();
        self.shared.l1d.on_load();
        true
    }

    #[inline(always)]
    fn unload(&mut self, off: &IrqOff) {
        self.msrs.unload();
        self.host.unload(off);
        if self.pebs.unload() {
            self.chores.set(Chores::PEBS, false);
        }
        self.in_use = false;
    }

    #[inline]
    fn take_host_interrupt(&mut self, off: &IrqOff) {
        if self.entered.host_interrupt.is_some() {
            self.pass_host_interrupt(off);
        }
    }

    fn enable_rdtscp(&mut self, on: bool) {
        // Without it RDTSCP raises #UD, as RDPID does.
        let secondary = self.words.secondary.without(Secondary::RDTSCP);
        self.words.secondary = if on {
            secondary | (Secondary::RDTSCP & self.shared.controls.secondary.available)
        } else {
            secondary
        };
        self.write(control::SECONDARY, self.words.secondary.0);
    }

    fn flush_tlb(&mut self) {
        self.chores.set(Chores::FLUSH_TLB, true);
    }

    #[inline(always)]
    fn enter(&mut self, off: &IrqOff, regs: &mut Registers) {
        self.run(off, regs);
    }

    #[inline(always)]
    fn frequent_exit(&self) -> Option<Frequent> {
        match self.entered.reason {
            Reason::CPUID => Some(Frequent::Cpuid),
            Reason::VMCALL => Some(Frequent::Hypercall),
            Reason::RDMSR => Some(Frequent::ReadMsr),
            Reason::WRMSR => Some(Frequent::WriteMsr),
            Reason::EPT_VIOLATION => Some(Frequent::NestedFault),
            Reason::IO => Some(Frequent::Io),
            _ => None,
        }
    }

    #[inline(always)]
    fn nested_fault(&self) -> NestedFault {
        self.ept_violation()
    }

    #[inline(always)]
    fn io(&self) -> IoExit {
        self.port_access()
    }

    #[inline]
    fn exit(&mut self, _regs: &mut Registers) -> Exit {
        self.decode_exit()
    }

    #[inline(always)]
    fn take_written(&mut self, each: impl FnMut(Gfn)) {
        let Some(page) = &self.written else {
            return;
        };
        let index = self.read(guest::PML_INDEX);
        if index == write_log::EMPTY {
            return;
        }
        write_log::frames(index, |offset| page.read(offset)).for_each(each);
        self.write(guest::PML_INDEX, write_log::EMPTY);
    }

    #[inline]
    fn interrupted_event(&self) -> Option<Event> {
        super::event::interrupted(self.entered.vectoring, || {
            if self.entered.reason.is_entry_failure() {
                self.read(control::ENTRY_ERROR_CODE)
            } else {
                self.read(info::VECTORING_ERROR_CODE)
            }
        })
    }

    #[inline(always)]
    fn instruction_length(&self, _regs: &Registers) -> Option<u8> {
        match self.entered.length {
            0 => self.other_length(),
            length => Some(length),
        }
    }

    fn inject(&mut self, event: Event) {
        let codes = ErrorCodes {
            protected: Cr0(self.cr0()).has(Cr0::PE),
            any: self.shared.controls.any_error_code(),
        };
        let Some(injection) = Injection::of(event, codes) else {
            return;
        };
        if matches!(event, Event::Interrupt(_) | Event::Nmi) {
            // An entry refuses them in a shadow, and an NMI while NMIs are
            // blocked: this one is delivered for the second time.
            self.set_interrupt_shadow(false);
            if event == Event::Nmi {
                self.set_nmi_blocked(false);
            }
        }
        self.write(control::ENTRY_INTERRUPTION, injection.info.0);
        if let Some(code) = injection.error_code {
            self.write(control::ENTRY_ERROR_CODE, u32::from(code));
        }
    }

    #[inline]
    fn request_interrupt_window(&mut self, on: bool) {
        self.words.primary.set(Primary::INTERRUPT_WINDOW, on);
    }

    fn nmi_blocked(&self, _regs: &Registers) -> bool {
        self.interruptibility().has(Interruptibility::NMI)
    }

    fn set_nmi_blocked(&mut self, on: bool) {
        let state = self.interruptibility().assign(Interruptibility::NMI, on);
        self.write_interruptibility(state);
    }

    fn request_nmi_window(&mut self, _regs: &mut Registers) {
        // Some processors open the NMI window in the shadow of STI already,
        // where an entry may refuse an NMI. There IF is 1: the window for
        // interrupts opens behind the shadow.
        if self.interruptibility().has(Interruptibility::STI) {
            self.request_interrupt_window(true);
        } else {
            self.words.primary.set(Primary::NMI_WINDOW, true);
        }
    }

    #[inline(always)]
    fn interrupt_shadow(&self) -> bool {
        self.interruptibility()
            .any(Interruptibility::STI | Interruptibility::MOV_SS)
    }

    #[inline(always)]
    fn set_interrupt_shadow(&mut self, on: bool) {
        if self.interrupt_shadow() != on {
            self.change_shadow(on);
        }
    }

    #[inline]
    fn cr8(&self) -> u8 {
        self.virtual_apic.read::<u8>(VIRTUAL_TPR).unwrap_or(0) >> 4
    }

    #[inline]
    fn set_cr8(&mut self, value: u8) {
        // The low half of the task priority stays if the class does.
        if self.cr8() != value & 15 {
            let _ = self.virtual_apic.write(VIRTUAL_TPR, value << 4);
        }
    }

    #[inline]
    fn intercept_cr8_write(&mut self, on: bool) {
        let on = on || !self.words.primary.has(Primary::TPR_SHADOW);
        self.words.primary.set(Primary::CR8_LOAD, on);
    }

    #[inline]
    fn keeps(&self, lapic: &Lapic) -> bool {
        self.shared.keeps_apics() && lapic.may_be_kept()
    }

    fn virtualize_apic_page(&mut self, on: bool) {
        self.virtualize_page(on && self.shared.virtualizes_page());
    }

    #[inline]
    fn load_apic(&mut self, lapic: &mut Lapic, watched: impl Fn() -> VectorSet) {
        self.show_apic(lapic, watched);
    }

    #[inline]
    fn withhold_apic(&mut self) {
        self.hide_apic();
    }

    #[inline]
    fn store_apic(&mut self, lapic: &mut Lapic, post: &LapicPost) -> bool {
        self.take_apic(lapic, post)
    }

    fn segment(&self, which: SegReg) -> Segment {
        let fields = SegmentFields::of(which);
        Segment {
            base: self.read(fields.base),
            limit: self.read(fields.limit),
            selector: self.read(fields.selector),
            attributes: Attributes::from_access_rights(self.read(fields.access)),
        }
    }

    fn set_segment(&mut self, which: SegReg, segment: &Segment) {
        let fields = SegmentFields::of(which);
        self.write(fields.base, segment.base);
        self.write(fields.limit, segment.limit);
        self.write(fields.selector, segment.selector);
        self.write(
            fields.access,
            state::access_rights(which, segment.attributes),
        );
        self.cache.forget();
    }

    #[inline]
    fn segment_base(&self, which: SegReg) -> u64 {
        self.read(SegmentFields::of(which).base)
    }

    #[inline]
    fn code_attributes(&self) -> Attributes {
        Attributes::from_access_rights(self.segments().cs_access.get())
    }

    #[inline]
    fn cpl(&self) -> u8 {
        Attributes::from_access_rights(self.segments().ss_access.get()).dpl()
    }

    fn gdtr(&self) -> DescriptorTable {
        self.descriptor_table(guest::GDTR_BASE, guest::GDTR_LIMIT)
    }

    fn set_gdtr(&mut self, table: DescriptorTable) {
        self.write(guest::GDTR_BASE, table.base);
        self.write(guest::GDTR_LIMIT, u32::from(table.limit));
    }

    fn idtr(&self) -> DescriptorTable {
        self.descriptor_table(guest::IDTR_BASE, guest::IDTR_LIMIT)
    }

    fn set_idtr(&mut self, table: DescriptorTable) {
        self.write(guest::IDTR_BASE, table.base);
        self.write(guest::IDTR_LIMIT, u32::from(table.limit));
    }

    #[inline]
    fn cr0(&self) -> u64 {
        let own = Cr0(self.control_registers().cr0.get()) & state::CR0_OWN;
        self.cr0.without(state::CR0_OWN).with(own).0
    }

    fn set_cr0(&mut self, value: u64) {
        self.cr0 = Cr0(value);
        // The guest's cache bits are not the host's caches.
        let real = self.cr0.without(CR0_CACHE);
        self.write(guest::CR0, self.shared.controls.real_cr0(real).0);
        self.write(control::CR0_SHADOW, value);
        self.cache.forget();
    }

    #[inline]
    fn cr2(&self) -> u64 {
        self.cr2
    }

    fn set_cr2(&mut self, value: u64) {
        self.cr2 = value;
    }

    #[inline]
    fn cr3(&self) -> u64 {
        self.control_registers().cr3.get()
    }

    fn set_cr3(&mut self, value: u64) {
        self.write(guest::CR3, value);
        self.cache.forget();
    }

    #[inline]
    fn cr4(&self) -> u64 {
        let own = Cr4(self.control_registers().cr4.get()) & state::CR4_OWN;
        self.cr4.without(state::CR4_OWN).with(own).0
    }

    #[inline]
    fn has_protection_keys(&self) -> bool {
        // Not among `CR4_OWN`: the guest does not change it without an exit.
        self.cr4.has(Cr4::PKE)
    }

    #[inline]
    fn has_xsave(&self) -> bool {
        // Likewise.
        self.cr4.has(Cr4::OSXSAVE)
    }

    fn set_cr4(&mut self, value: u64) {
        self.cr4 = Cr4(value);
        let real = self.shared.controls.real_cr4(cr4_in_force(self.cr4));
        self.write(guest::CR4, real.0);
        self.write(control::CR4_SHADOW, value);
        self.cache.forget();
    }

    #[inline]
    fn efer(&self) -> u64 {
        self.efer.0
    }

    fn set_efer(&mut self, value: u64) {
        self.efer = Efer(value);
        self.write(guest::EFER, value);
        let long = self.efer.has(Efer::LMA);
        let base = self.shared.controls.entry.base;
        let entry = base.assign(EntryControls::GUEST_IA32E, long);
        self.write(control::ENTRY, entry.0);
        self.msrs.enable_syscall(self.efer.has(Efer::SCE));
    }

    fn pdptes(&self) -> Option<[u64; 4]> {
        self.has_pdptes()
            .then(|| PDPTES.map(|field| self.read(field)))
    }

    fn set_pdptes(&mut self, pointers: &[u64; 4]) {
        for (field, pointer) in PDPTES.into_iter().zip(pointers) {
            self.write(field, *pointer);
        }
    }

    fn debug_cause(&mut self) -> u64 {
        self.debug_cause
    }

    fn set_dr7(&mut self, value: u64) {
        self.write(guest::DR7, value);
    }

    fn msr(&self, which: Hardware) -> u64 {
        match which {
            Hardware::Star => self.msrs.syscall.star,
            Hardware::Lstar => self.msrs.syscall.lstar,
            Hardware::Cstar => self.msrs.syscall.cstar,
            Hardware::Sfmask => self.msrs.syscall.sfmask,
            Hardware::KernelGsBase => self.msrs.kernel_gs_base(),
            Hardware::SysenterCs => u64::from(self.read(guest::SYSENTER_CS)),
            Hardware::SysenterEsp => self.read(guest::SYSENTER_ESP),
            Hardware::SysenterEip => self.read(guest::SYSENTER_EIP),
            Hardware::Pat => self.pat,
            Hardware::FsBase => self.read(guest::FS_BASE),
            Hardware::GsBase => self.read(guest::GS_BASE),
        }
    }

    fn set_msr(&mut self, which: Hardware, value: u64) {
        match which {
            Hardware::Star => self.msrs.change_syscall(|own| own.star = value),
            Hardware::Lstar => self.msrs.change_syscall(|own| own.lstar = value),
            Hardware::Cstar => self.msrs.change_syscall(|own| own.cstar = value),
            Hardware::Sfmask => self.msrs.change_syscall(|own| own.sfmask = value),
            Hardware::KernelGsBase => self.msrs.set_kernel_gs_base(value),
            Hardware::SysenterCs => self.write(guest::SYSENTER_CS, value as u32),
            Hardware::SysenterEsp => self.write(guest::SYSENTER_ESP, value),
            Hardware::SysenterEip => self.write(guest::SYSENTER_EIP, value),
            Hardware::Pat => self.pat = value,
            Hardware::FsBase => self.write(guest::FS_BASE, value),
            Hardware::GsBase => self.write(guest::GS_BASE, value),
        }
    }

    #[inline]
    fn intercept_all_msrs(&mut self, on: bool) {
        self.words.primary.set(Primary::MSR_BITMAPS, !on);
    }

    fn scales_tsc() -> bool {
        cpu::shared().is_some_and(|shared| shared.controls.has_tsc_scaling())
    }

    fn set_tsc_multiplier(&mut self, multiplier: u64) {
        if !self.shared.controls.has_tsc_scaling() {
            return;
        }
        let scaled = multiplier != Rate::ONE;
        self.words.secondary.set(Secondary::TSC_SCALING, scaled);
        self.write(control::TSC_MULTIPLIER, multiplier);
        self.write(control::SECONDARY, self.words.secondary.0);
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.write(control::TSC_OFFSET, offset);
    }

    fn set_exception_intercepts(&mut self, vectors: u32) {
        self.write(control::EXCEPTION_BITMAP, ALWAYS_INTERCEPTED | vectors);
    }

    fn dump(&self) {
        self.dump_to_log();
    }
}
