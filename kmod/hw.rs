// SPDX-License-Identifier: GPL-2.0

//! How this CPU runs a guest.
//!
//! A vendor is a type: the run loop and everything above it is generic over
//! [`Vendor`] and instantiated once for the processor the module loads on, so
//! no exit goes through a pointer. A vendor's value is the hardware half of one
//! vCPU and belongs to the thread that holds that vCPU.

pub mod event;
pub mod exit;
pub mod nested;
pub mod svm;
pub mod vmx;

pub use self::exit::Event;
pub use self::exit::Exit;
pub use self::exit::Frequent;
pub use self::exit::IoExit;
pub use self::exit::NestedFault;
pub use self::exit::RegisterAccess;

use crate::host::cpu as host_cpu;
use crate::host::cpu::CpuHooks;
use crate::host::params::Settled;
use crate::host::task::IrqOff;
use crate::host::task::PreemptOff;
use crate::pc::addr::Gfn;
use crate::pc::addr::Hpa;
use crate::pc::control;
use crate::pc::cpuid::Feature;
use crate::pc::lapic::Lapic;
use crate::pc::lapic::LapicPost;
use crate::pc::lapic::VectorSet;
use crate::pc::msr::Hardware;
use crate::pc::regs::Attributes;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
use crate::pc::regs::DescriptorTable;
use crate::pc::regs::Dr6;
use crate::pc::regs::Dr7;
use crate::pc::regs::Gprs;
use crate::pc::regs::Rflags;
use crate::pc::regs::SegReg;
use crate::pc::regs::Segment;
use crate::pc::regs::Vector;
use kernel::prelude::*;

/// Exceptions that the host must see whatever the guest does: a machine check
/// is the host's, and #DB or #AC delivered by a guest whose IDT faults in the
/// same way again never end inside the processor. #UD may be the other vendor's
/// hypercall.
const ALWAYS_INTERCEPTED: u32 = 1 << Vector::MachineCheck as u32
    | 1 << Vector::Alignment as u32
    | 1 << Vector::Debug as u32
    | 1 << Vector::InvalidOpcode as u32;

/// The value of PAT after RESET (APM vol. 2, 7.8.1; SDM vol. 3, 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// CR0 bits that would turn the host's caches off under the guest; the guest
/// reads back what it wrote.
const CR0_CACHE: Cr0 = Cr0(Cr0::CD.0 | Cr0::NW.0);

/// The CR4 to run a guest with on this host that has `guest`.
fn cr4_in_force(guest: Cr4) -> Cr4 {
    let host = Cr4(host_cpu::host_cr4(&PreemptOff::new()));
    control::cr4_in_force(guest, host)
}

/// Sets registers to what they are after RESET or INIT, as far as the hardware
/// holds them (APM vol. 2, 14.1.3; SDM vol. 3, table 10-1).
fn reset_registers(hw: &mut impl Vendor) {
    for which in SegReg::ALL {
        hw.set_segment(which, &Segment::after_reset(which));
    }
    let table = DescriptorTable {
        base: 0,
        limit: 0xffff,
    };
    hw.set_gdtr(table);
    hw.set_idtr(table);
    hw.set_cr2(0);
    hw.set_cr3(0);
    hw.set_cr4(0);
    hw.set_efer(0);
    hw.set_cr0(CR0_CACHE.with(Cr0::ET).0);
    hw.set_dr7(Dr7::RESET.0);
}

/// Registers kept outside the hardware's block: those that every exit needs, and DR6,
/// which no #DB that exits changes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Registers {
    /// General registers.
    pub gprs: Gprs,
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: Rflags,
    /// Why the last #DB came that the guest has had.
    pub dr6: Dr6,
}

impl Registers {
    /// After RESET or INIT.
    pub const RESET: Self = Self {
        gprs: Gprs([0; 16]),
        rip: 0xfff0,
        rflags: Rflags::FIXED,
        dr6: Dr6::RESET,
    };
}

/// What this host's processors do with nested page tables.
#[derive(Clone, Copy, Debug)]
pub struct NestedConfig {
    /// Levels of the tables: 4 or 5.
    pub levels: u8,
    /// Largest leaf.
    pub largest: nested::Level,
    /// Width of a guest physical address in bits.
    pub physical_bits: u8,
    /// They keep lists of the pages they make dirty: [`Vendor::take_written`].
    pub logs_writes: bool,
    /// A page may stand for the registers of local APICs:
    /// [`Vendor::virtualize_apic_page`].
    pub apic_page: bool,
}

impl NestedConfig {
    /// First frame that guest memory cannot have.
    pub fn end(&self) -> Gfn {
        let pages = 1u64.checked_shl(u32::from(self.physical_bits).saturating_sub(12));
        Gfn(pages.unwrap_or(u64::MAX)).min(nested::reach(self.levels))
    }
}

/// What is the same for every vCPU of one virtual machine.
#[derive(Clone, Copy)]
pub struct VmSetup {
    /// Root of the nested page tables.
    pub nested_root: Hpa,
    /// The page that stands for the registers of local APICs, if there is one.
    pub apic_page: Option<Hpa>,
}

/// The hardware half of one vCPU.
///
/// [`CpuHooks`]: what it does on each CPU of the host.
pub trait Vendor: CpuHooks + Sized + Send {
    /// Name of the extension, for people.
    const NAME: &'static str;

    /// The layout of nested page tables.
    type Nested: nested::Format;

    /// Bit 8 is reserved in upper page table entries.
    const RESERVES_GLOBAL: bool;

    /// Features of this vendor's processors that guests are not given.
    const WITHHELD: &'static [Feature];

    /// Processors may keep local APICs ([`Vendor::load_apic`]).
    const KEEPS_APIC: bool = false;

    /// How nested page tables are to be built on this host.
    fn nested_config() -> NestedConfig;

    /// Whether this processor can run guests; says why not in the kernel log.
    fn probe() -> Result;

    /// Makes what all CPUs share. Called once, before any other function but
    /// [`Vendor::probe`].
    fn load_globals() -> Result;

    /// Frees what [`Vendor::load_globals`] made.
    ///
    /// # Safety
    ///
    /// No vCPU is left, and the extension is off on every CPU.
    unsafe fn unload_globals();

    /// What came of the module's parameters, after [`Vendor::load_globals`].
    fn settled() -> Settled {
        Settled::default()
    }

    /// Whether processors take interrupts that are posted for a guest while it
    /// runs, when they are notified ([`crate::host::cpu::notify`]).
    #[inline]
    fn posts() -> bool {
        false
    }

    /// The state of a processor after RESET. `id`: no other vCPU of the VM has it.
    fn new(setup: &VmSetup, id: u16) -> Result<Self>;

    /// INIT: the state of a processor after RESET, but for MSRs.
    fn init(&mut self);

    /// After [`Vendor::load`] has given false: what another CPU has of the vCPU is
    /// given up. False when there is nothing of the kind, and [`Vendor::load`] would
    /// give false again. Interrupts are on.
    fn prepare(&mut self, _pinned: &PreemptOff) -> bool {
        false
    }

    /// Before the first entry after interrupts were on: makes this CPU the one
    /// that runs the vCPU. `moved`: the last entry was on another.
    ///
    /// False when that has to wait for [`Vendor::prepare`], or cannot be because the
    /// extension is off: nothing is to be unloaded then, and the next call has to
    /// say that the vCPU has moved.
    #[must_use]
    fn load(&mut self, off: &IrqOff, moved: bool) -> bool;

    /// After the last entry before interrupts are on: gives this CPU back what
    /// [`Vendor::load`] has taken for the guest.
    fn unload(&mut self, off: &IrqOff);

    /// After [`Vendor::unload`], when all of this CPU is the host's again: has
    /// the host take the interrupt that ended the guest's run, if the exit has
    /// acknowledged it.
    #[inline]
    fn take_host_interrupt(&mut self, _off: &IrqOff) {}

    /// The guest has RDTSCP or RDPID.
    fn enable_rdtscp(&mut self, _on: bool) {}

    /// Guest runs end with [`Exit::Deadline`] once the host's TSC reads
    /// `deadline`, which may be past; with `None` no more. False when the
    /// processor cannot do that.
    #[inline]
    fn set_deadline(&mut self, _deadline: Option<u64>) -> bool {
        false
    }

    /// Forgets every cached translation before the next entry.
    fn flush_tlb(&mut self);

    /// Runs the guest until it exits, after [`Vendor::load`] on this CPU.
    fn enter(&mut self, off: &IrqOff, regs: &mut Registers);

    /// Why the last [`Vendor::enter`] returned, if that is one of the exits that
    /// come most: [`Vendor::exit`] need not be called then.
    fn frequent_exit(&self) -> Option<Frequent>;

    /// What the exit says, which was [`Frequent::NestedFault`].
    fn nested_fault(&self) -> NestedFault;

    /// What the exit says, which was [`Frequent::Io`].
    fn io(&self) -> IoExit;

    /// Why the last [`Vendor::enter`] returned. Called once after it.
    fn exit(&mut self, regs: &mut Registers) -> Exit;

    /// Hands over the frames that the processor has made dirty since the last
    /// call. After [`Vendor::enter`], before [`Vendor::unload`].
    #[inline]
    fn take_written(&mut self, _each: impl FnMut(Gfn)) {}

    /// The event whose delivery the last exit cut off.
    fn interrupted_event(&self) -> Option<Event>;

    /// Length of the exiting instruction, where the processor tells.
    fn instruction_length(&self, regs: &Registers) -> Option<u8>;

    /// Delivers `event` at the next entry.
    fn inject(&mut self, event: Event);

    /// Asks for [`Exit::InterruptWindow`].
    fn request_interrupt_window(&mut self, on: bool);

    /// The guest handles an NMI: it takes no other before its IRET.
    fn nmi_blocked(&self, regs: &Registers) -> bool;

    /// Sets or ends that. Injecting an NMI sets it.
    fn set_nmi_blocked(&mut self, on: bool);

    /// Asks for an exit as soon as an NMI can be delivered.
    fn request_nmi_window(&mut self, regs: &mut Registers);

    /// The guest is in the shadow of STI or MOV SS.
    fn interrupt_shadow(&self) -> bool;

    /// Sets or ends the shadow.
    fn set_interrupt_shadow(&mut self, on: bool);

    /// The guest's CR8, which it writes without an exit.
    fn cr8(&self) -> u8;

    /// Sets what the guest reads in CR8.
    fn set_cr8(&mut self, value: u8);

    /// Asks for an exit when the guest writes CR8: it masks an interrupt now.
    fn intercept_cr8_write(&mut self, on: bool);

    /// Where interrupts for this vCPU are posted: the address of its
    /// [`LapicPost`], of which the processor takes the first 64 bytes for its
    /// descriptor. Only with [`Vendor::posts`].
    fn set_posted(&mut self, _descriptor: Hpa) {}

    /// Whether the processor can keep the local APIC in the guest: it delivers its
    /// requests, so that they are not injected, and the guest completes
    /// interrupts without an exit.
    #[inline]
    fn keeps(&self, _lapic: &Lapic) -> bool {
        false
    }

    /// Accesses to [`VmSetup::apic_page`] are, or are not, those to the registers
    /// of the local APIC in xAPIC mode, whatever address leads there. Only where
    /// there is such a page. Not between [`Vendor::load`] and [`Vendor::unload`].
    fn virtualize_apic_page(&mut self, _on: bool) {}

    /// Before an entry, when it has been decided what that delivers: has the
    /// processor keep the local APIC, which it [`Vendor::keeps`]. `watched`:
    /// interrupts whose end others wait for; [`Exit::Eoi`] tells of it, and of the
    /// end of those that are level triggered.
    #[inline]
    fn load_apic(&mut self, _lapic: &mut Lapic, _watched: impl Fn() -> VectorSet) {}

    /// Before an entry: the processor is not to keep the local APIC.
    #[inline]
    fn withhold_apic(&mut self) {}

    /// After an exit: takes what the guest has done to its local APIC. False
    /// when the processor did not keep it.
    #[inline]
    fn store_apic(&mut self, _lapic: &mut Lapic, _post: &LapicPost) -> bool {
        false
    }

    /// Segment register.
    fn segment(&self, which: SegReg) -> Segment;
    /// Sets a segment register.
    fn set_segment(&mut self, which: SegReg, segment: &Segment);
    /// Base of a segment register alone.
    fn segment_base(&self, which: SegReg) -> u64;
    /// Attributes of CS alone: with CR0 and EFER they are the mode.
    fn code_attributes(&self) -> Attributes;
    /// Current privilege level.
    fn cpl(&self) -> u8;
    /// Global descriptor table register.
    fn gdtr(&self) -> DescriptorTable;
    /// Sets the global descriptor table register.
    fn set_gdtr(&mut self, table: DescriptorTable);
    /// Interrupt descriptor table register.
    fn idtr(&self) -> DescriptorTable;
    /// Sets the interrupt descriptor table register.
    fn set_idtr(&mut self, table: DescriptorTable);

    /// CR0 as the guest sees it.
    fn cr0(&self) -> u64;
    /// Sets CR0. The value has been checked.
    fn set_cr0(&mut self, value: u64);
    /// CR2.
    fn cr2(&self) -> u64;
    /// Sets CR2.
    fn set_cr2(&mut self, value: u64);
    /// CR3.
    fn cr3(&self) -> u64;
    /// Sets CR3.
    fn set_cr3(&mut self, value: u64);
    /// CR4 as the guest sees it.
    fn cr4(&self) -> u64;
    /// CR4.PKE alone.
    #[inline]
    fn has_protection_keys(&self) -> bool {
        Cr4(self.cr4()).has(Cr4::PKE)
    }
    /// CR4.OSXSAVE alone: without it the guest executes no instruction that XCR0
    /// or XSS matter to (SDM vol. 1, 13.5 and 14.5).
    #[inline]
    fn has_xsave(&self) -> bool {
        Cr4(self.cr4()).has(Cr4::OSXSAVE)
    }
    /// Sets CR4. The value has been checked.
    fn set_cr4(&mut self, value: u64);
    /// EFER as the guest sees it.
    fn efer(&self) -> u64;
    /// Sets EFER. The value has been checked.
    fn set_efer(&mut self, value: u64);
    /// The PAE directory pointers, if the processor keeps copies of them.
    fn pdptes(&self) -> Option<[u64; 4]> {
        None
    }
    /// Sets the PAE directory pointers, if the processor keeps copies of them.
    fn set_pdptes(&mut self, _pointers: &[u64; 4]) {}
    /// After the exit of a #DB, once: why it came, as DR6 has it in
    /// [`Dr6::CAUSES`], and nothing of before.
    fn debug_cause(&mut self) -> u64;
    /// Sets the DR7 that is in force while the guest runs.
    fn set_dr7(&mut self, value: u64);

    /// Reads an MSR that the processor switches.
    fn msr(&self, which: Hardware) -> u64;
    /// Writes an MSR that the processor switches. The value has been checked.
    fn set_msr(&mut self, which: Hardware, value: u64);

    /// Makes every access to an MSR exit, or only those that need to.
    fn intercept_all_msrs(&mut self, on: bool);

    /// Whether a guest's TSC can run at another rate than the host's.
    fn scales_tsc() -> bool {
        false
    }

    /// Sets what the processor multiplies the TSC by for the guest, in parts of
    /// [`Rate::ONE`](crate::pc::tsc::Rate::ONE), before it adds the offset. Not
    /// [`Vendor::scales_tsc`]: only with that.
    fn set_tsc_multiplier(&mut self, _multiplier: u64) {}

    /// Sets what the processor adds to the TSC for the guest.
    fn set_tsc_offset(&mut self, offset: u64);

    /// Intercepts the exceptions whose bits are set, beyond those always taken.
    fn set_exception_intercepts(&mut self, vectors: u32);

    /// Writes what the processor has refused to enter to the kernel log.
    fn dump(&self) {}
}
