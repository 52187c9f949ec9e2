// SPDX-License-Identifier: GPL-2.0

//! VMX on this host: whether guests can run, what is the same for all of them,
//! and what belongs to each CPU.

use super::controls::Capabilities;
use super::controls::Controls;
use super::controls::EptVpid;
use super::insn;
use super::insn::InveptScope;
use super::msrs::MsrBitmap;
use super::msrs::Syscall;
use super::pebs;
use super::run_timer;
use super::vmcs::Active;
use super::Vmx;
use crate::host::cpu;
use crate::host::cpu::CpuHooks;
use crate::host::cpu::Extension;
use crate::host::cpu::L1dFlush;
use crate::host::cpu::PerCpu;
use crate::host::errno::error;
use crate::host::global::Global;
use crate::host::params;
use crate::host::task::IrqOff;
use crate::uapi::errno;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

const MSR_FEATURE_CONTROL: u32 = 0x3a;
/// FEATURE_CONTROL cannot be written any more.
const FEATURE_CONTROL_LOCKED: u64 = 1 << 0;
/// FEATURE_CONTROL: VMXON works outside SMX.
const FEATURE_CONTROL_VMX: u64 = 1 << 2;

/// CPUID.1:ECX, VMX.
const ECX_VMX: u32 = 1 << 5;

/// Whether this processor can run guests; the reason goes to the log if not.
pub(super) fn probe() -> Result {
    if cpu::cpuid(1, 0).ecx & ECX_VMX == 0 {
        pr_err!("this processor does not have Intel VMX\n");
        return Err(error(errno::EOPNOTSUPP));
    }
    // The kernel switches VMX on and locks the register if the firmware has
    // not; so what is off now has been switched off.
    let control = cpu::rdmsr_safe(MSR_FEATURE_CONTROL).unwrap_or(0);
    if control & FEATURE_CONTROL_LOCKED != 0 && control & FEATURE_CONTROL_VMX == 0 {
        pr_err!("VMX is switched off by the firmware: enable it in the setup (VT-x, Intel Virtualization Technology)\n");
        return Err(error(errno::EOPNOTSUPP));
    }
    if !cpu::boot_cpu_has(cpu::Feature::VMX) {
        pr_err!("the kernel has switched VMX off on this processor\n");
        return Err(error(errno::EOPNOTSUPP));
    }
    controls().map(drop)
}

/// Whether this CPU's extended page tables have accessed and dirty flags.
pub(super) fn has_accessed_dirty() -> bool {
    let capabilities = read_capabilities();
    EptVpid(capabilities.ept_vpid).has(EptVpid::ACCESSED_DIRTY)
}

fn read_capabilities() -> Capabilities {
    Capabilities::read(|msr| cpu::rdmsr_safe(msr).unwrap_or(0))
}

/// What we use of this CPU's VMX.
fn controls() -> Result<Controls> {
    let mut controls = Controls::negotiate(&read_capabilities()).map_err(|missing| {
        pr_err!(
            "this processor's VMX lacks: {}\n",
            format_args!("{missing}")
        );
        error(errno::EOPNOTSUPP)
    })?;
    if !params::pml() {
        controls.drop_pml();
    }
    Ok(controls)
}

/// What belongs to one CPU. Only that CPU writes it.
struct State {
    /// The VMCSs it holds.
    active: Active,
    /// VMX is on.
    online: AtomicBool,
}

// SAFETY: Atomic integers and pointers; all zero bytes are a value.
unsafe impl Zeroable for State {}

/// What all vCPUs share.
pub(super) struct Shared {
    states: PerCpu<State>,
    /// The controls in use.
    pub(super) controls: Controls,
    /// Which MSRs exit.
    pub(super) msr_bitmap: MsrBitmap,
    /// Which ones while the processor keeps the local APIC, if it can and may.
    pub(super) apicv_bitmap: Option<MsrBitmap>,
    /// The host's registers of SYSCALL.
    pub(super) syscall: Syscall,
    /// Whether the preemption timer ends runs at deadlines.
    pub(super) ends_runs_in_time: bool,
    /// How the first-level cache is kept from guests.
    pub(super) l1d: L1dFlush,
    /// The counters of the host that can write records at the guest's addresses.
    pub(super) pebs_counters: u64,
}

impl Shared {
    /// The VMCSs of this CPU.
    #[inline]
    pub(super) fn active<'a>(&'a self, off: &'a IrqOff) -> &'a Active {
        &self.states.this(off).active
    }

    /// The processor keeps local APICs, and delivers their interrupts.
    #[inline]
    pub(super) fn keeps_apics(&self) -> bool {
        self.apicv_bitmap.is_some()
    }

    /// It can virtualize accesses to the register page of a local APIC, and may.
    #[inline]
    pub(super) fn virtualizes_page(&self) -> bool {
        self.keeps_apics() && self.controls.has_virtual_xapic()
    }

    /// It takes posted interrupts for guests.
    #[inline]
    pub(super) fn posts(&self) -> bool {
        self.keeps_apics() && self.controls.has_posted_interrupts()
    }
}

static SHARED: Global<Shared> = Global::new();

/// What all vCPUs share, between [`init`] and [`exit`].
#[inline]
pub(super) fn shared() -> Option<&'static Shared> {
    SHARED.get()
}

/// Makes what all vCPUs share.
pub(super) fn init() -> Result {
    let controls = controls()?;
    let apicv = params::apicv() && controls.has_virtual_x2apic();
    let ends_runs_in_time = params::preemption_timer()
        && controls.has_preemption_timer()
        && cpu::tsc_khz() != 0
        && !run_timer::has_wrong_rate(cpu::cpuid(1, 0).eax);
    SHARED.set(Shared {
        states: PerCpu::new()?,
        controls,
        msr_bitmap: MsrBitmap::new(false)?,
        apicv_bitmap: apicv.then(|| MsrBitmap::new(true)).transpose()?,
        syscall: Syscall::read(),
        ends_runs_in_time,
        l1d: L1dFlush::new()?,
        pebs_counters: pebs::counters(),
    })
}

/// Frees what [`init`] made.
///
/// # Safety
///
/// No CPU is online for us any more and no vCPU exists.
pub(super) unsafe fn exit() {
    // SAFETY: By the precondition.
    unsafe { SHARED.clear() };
}

/// The VMCSs of this CPU.
#[inline]
pub(super) fn active(off: &IrqOff) -> Option<&Active> {
    // The borrow of the token is the time it can be used.
    Some(shared()?.active(off))
}

/// Whether VMX is on, on this CPU.
pub(super) fn is_online(off: &IrqOff) -> bool {
    shared().is_some_and(|shared| shared.states.this(off).online.load(Ordering::Relaxed))
}

impl<const ACCESSED_DIRTY: bool> CpuHooks for Vmx<ACCESSED_DIRTY> {
    const EXTENSION: Extension = Extension::Vmx;

    fn online(off: &IrqOff) -> Result {
        let shared = shared().ok_or(ENODEV)?;
        // One VMCS is to run on every CPU.
        if controls()? != shared.controls {
            pr_err!(
                "CPU {}: its VMX is not the same as the first one's\n",
                cpu::current_cpu(off)
            );
            return Err(EIO);
        }
        let state = shared.states.this(off);
        // What an earlier use of VMX has left in the TLB, whatever VPIDs that had. What
        // is tagged with those alone no guest with EPT uses (SDM vol. 3, 29.4.2).
        insn::invept(InveptScope::All, 0);
        state.online.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn offline(off: &IrqOff) {
        let Some(shared) = shared() else {
            return;
        };
        let state = shared.states.this(off);
        state.online.store(false, Ordering::Relaxed);
        state.active.clear_all(off);
    }

    fn emergency() {
        let off = IrqOff::new();
        if let Some(active) = active(&off) {
            active.emergency();
        }
    }
}
