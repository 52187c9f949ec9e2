// SPDX-License-Identifier: GPL-2.0

//! What SVM needs of each host CPU: its save areas and its address space
//! identifiers.

use super::insn;
use super::vmcb::Clean;
use crate::host::cpu;
use crate::host::cpu::PerCpu;
use crate::host::errno::error;
use crate::host::global::Global;
use crate::host::page::HostPage;
use crate::host::params;
use crate::host::params::PauseFilter;
use crate::host::task::IrqOff;
use crate::pc::addr::Hpa;
use crate::pc::msr::index;
use crate::uapi::errno;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

const MSR_VM_CR: u32 = 0xc001_0114;
const MSR_VM_HSAVE_PA: u32 = 0xc001_0117;
/// VM_CR: the firmware has switched SVM off.
const VM_CR_SVMDIS: u64 = 1 << 4;

/// DEBUGCTL: #DB after branches only, where RFLAGS.TF is set.
const DEBUGCTL_BTF: u64 = 1 << 1;
/// DEBUGCTL: #DB after a bus lock in user mode.
const DEBUGCTL_BUS_LOCK: u64 = 1 << 2;

const LEAF_EXTENDED_MAX: u32 = 0x8000_0000;
const LEAF_EXTENDED_FEATURES: u32 = 0x8000_0001;
const LEAF_SVM: u32 = 0x8000_000a;
const ECX_SVM: u32 = 1 << 2;

/// CPUID Fn8000_000A_EDX.
mod edx {
    pub(super) const NESTED_PAGING: u32 = 1 << 0;
    pub(super) const NRIP_SAVE: u32 = 1 << 3;
    pub(super) const VMCB_CLEAN: u32 = 1 << 5;
    pub(super) const FLUSH_BY_ASID: u32 = 1 << 6;
    pub(super) const DECODE_ASSISTS: u32 = 1 << 7;
    pub(super) const PAUSE_FILTER: u32 = 1 << 10;
    pub(super) const PAUSE_THRESHOLD: u32 = 1 << 12;
}

/// What this processor's SVM has beyond the necessary.
#[derive(Clone, Copy)]
pub(super) struct Features {
    pub(super) next_rip_save: bool,
    pub(super) decode_assists: bool,
    pub(super) flush_by_asid: bool,
    /// The host may have debug traps switched on that know no guests.
    pub(super) host_traps: bool,
    /// Which PAUSEs of a guest end its run.
    pub(super) pause_filter: PauseFilter,
    /// Clean bits to set after an exit: all, or none where there are none.
    pub(super) clean_after_exit: Clean,
}

impl Features {
    pub(super) fn of_this_cpu() -> Self {
        let edx = cpu::cpuid(LEAF_SVM, 0).edx;
        Self {
            next_rip_save: edx & edx::NRIP_SAVE != 0,
            decode_assists: edx & edx::DECODE_ASSISTS != 0,
            flush_by_asid: edx & edx::FLUSH_BY_ASID != 0,
            host_traps: cpu::boot_cpu_has(cpu::Feature::BUS_LOCK_DETECT),
            pause_filter: pause_filter(edx),
            clean_after_exit: if edx & edx::VMCB_CLEAN != 0 {
                Clean::ALL
            } else {
                Clean::NONE
            },
        }
    }
}

/// The PAUSE filter as asked for, as far as the processor has it.
fn pause_filter(edx: u32) -> PauseFilter {
    let asked = params::pause_filter();
    if edx & edx::PAUSE_FILTER == 0 || asked.count == 0 {
        return PauseFilter::default();
    }
    PauseFilter {
        threshold: if edx & edx::PAUSE_THRESHOLD != 0 {
            asked.threshold
        } else {
            0
        },
        ..asked
    }
}

/// Whether a leaf can map 1 GiB.
pub(super) fn has_gib_pages() -> bool {
    const EDX_PAGE_1GB: u32 = 1 << 26;
    cpu::cpuid(LEAF_EXTENDED_FEATURES, 0).edx & EDX_PAGE_1GB != 0
}

/// Whether this processor can run guests; the reason goes to the log if not.
pub(super) fn probe() -> Result {
    let has_svm = cpu::cpuid(LEAF_EXTENDED_MAX, 0).eax >= LEAF_SVM
        && cpu::cpuid(LEAF_EXTENDED_FEATURES, 0).ecx & ECX_SVM != 0;
    if !has_svm {
        pr_err!("this processor does not have AMD SVM\n");
        return Err(error(errno::EOPNOTSUPP));
    }
    if cpu::rdmsr(MSR_VM_CR) & VM_CR_SVMDIS != 0 {
        pr_err!("SVM is switched off by the firmware: enable it in the setup (SVM, AMD-V)\n");
        return Err(error(errno::EOPNOTSUPP));
    }
    if cpu::cpuid(LEAF_SVM, 0).edx & edx::NESTED_PAGING == 0 {
        pr_err!("this processor's SVM has no nested paging, which is required\n");
        return Err(error(errno::EOPNOTSUPP));
    }
    Ok(())
}

/// The pages of one CPU.
struct SaveAreas {
    /// Where VMRUN keeps the host's state (VM_HSAVE_PA).
    vmrun: HostPage,
    /// Where VMSAVE keeps what VMLOAD gives back to the host.
    vmload: HostPage,
}

/// Address space identifiers of one CPU, and what else is its own. Only
/// that CPU reads and writes them.
pub(super) struct ThisCpu {
    generation: AtomicU64,
    next: AtomicU32,
    /// The VMCB that ran here last.
    last_guest: AtomicU64,
    /// Where VMSAVE keeps what VMLOAD gives back to the host.
    vmload: AtomicU64,
}

// SAFETY: Atomic integers are integers; all zero bytes are a value.
unsafe impl Zeroable for ThisCpu {}

/// What every CPU has.
pub(super) struct Cpus {
    areas: KVec<SaveAreas>,
    asids: PerCpu<ThisCpu>,
    /// Identifiers run from 1 to this less one.
    asid_limit: u32,
}

static CPUS: Global<Cpus> = Global::new();

/// Allocates what every possible CPU needs.
pub(super) fn init() -> Result {
    let mut areas = KVec::new();
    for _ in 0..cpu::cpu_ids() {
        let pages = SaveAreas {
            vmrun: HostPage::new()?,
            vmload: HostPage::new()?,
        };
        areas.push(pages, GFP_KERNEL)?;
    }
    CPUS.set(Cpus {
        areas,
        asids: PerCpu::new()?,
        asid_limit: cpu::cpuid(LEAF_SVM, 0).ebx.max(2),
    })
}

/// Frees what [`init`] made.
///
/// # Safety
///
/// No CPU is online for us any more and no vCPU exists.
pub(super) unsafe fn exit() {
    // SAFETY: By the precondition.
    unsafe { CPUS.clear() };
}

/// Takes this CPU into use.
pub(super) fn online(off: &IrqOff) -> Result {
    let cpus = CPUS.get().ok_or(ENODEV)?;
    let areas = cpus
        .areas
        .get(cpu::current_cpu(off) as usize)
        .ok_or(ENODEV)?;
    // SAFETY: The page is for this use on this CPU, and outlives it.
    unsafe { cpu::wrmsr_safe(MSR_VM_HSAVE_PA, areas.vmrun.hpa().0) }?;
    // What was handed out before the CPU went offline is not valid here.
    forget_asids(off);
    let asids = cpus.asids.this(off);
    asids.vmload.store(areas.vmload.hpa().0, Ordering::Relaxed);
    Ok(())
}

/// Takes back all identifiers of this CPU: the next one begins a new round, with
/// a flush of everything.
pub(super) fn forget_asids(off: &IrqOff) {
    let Some(cpus) = CPUS.get() else {
        return;
    };
    let asids = cpus.asids.this(off);
    asids.generation.fetch_add(1, Ordering::Relaxed);
    asids.next.store(cpus.asid_limit, Ordering::Relaxed);
}

/// Switches off the debug traps of the host that DEBUGCTL has, which would be
/// traps of a guest: VMRUN does not change it without LBR virtualization (APM vol. 2,
/// 15.23). The host's value, if that is now another.
#[cold]
pub(super) fn end_traps(_off: &IrqOff) -> Option<u64> {
    let host = cpu::rdmsr(index::DEBUGCTL);
    let traps = host & (DEBUGCTL_BTF | DEBUGCTL_BUS_LOCK);
    if traps == 0 {
        return None;
    }
    // SAFETY: The kernel does without until `restore_traps`.
    unsafe { cpu::wrmsr(index::DEBUGCTL, host & !traps) };
    Some(host)
}

/// After [`end_traps`], which gave `host`.
#[cold]
pub(super) fn restore_traps(_off: &IrqOff, host: Option<u64>) {
    if let Some(host) = host {
        // SAFETY: The value is the host's own.
        unsafe { cpu::wrmsr(index::DEBUGCTL, host) };
    }
}

/// Takes this CPU out of use.
pub(super) fn offline(_off: &IrqOff) {
    // SAFETY: No guest runs here; address 0 is the value after RESET.
    let _ = unsafe { cpu::wrmsr_safe(MSR_VM_HSAVE_PA, 0) };
}

/// What every CPU has; `None` before [`init`].
pub(super) fn all() -> Option<&'static Cpus> {
    CPUS.get()
}

impl Cpus {
    /// The record of this CPU.
    #[inline]
    pub(super) fn this<'a>(&'a self, off: &'a IrqOff) -> &'a ThisCpu {
        self.asids.this(off)
    }
}

impl ThisCpu {
    /// Before the guest of this VMCB runs: saves what VMLOAD takes away from the
    /// host and gives the page's address,
    /// to be called before entries from a thread that may have been switched in
    /// with another FS or GS base since.
    #[inline(always)]
    pub(super) fn save_host(&self, off: &IrqOff, guest: Hpa) -> u64 {
        if self.last_guest.load(Ordering::Relaxed) != guest.0 {
            self.last_guest.store(guest.0, Ordering::Relaxed);
            cpu::another_guest(off);
        }
        let page = Hpa(self.vmload.load(Ordering::Relaxed));
        insn::vmsave(page);
        page.0
    }
}

/// An address space identifier on one CPU.
#[derive(Clone, Copy)]
pub(super) struct Asid {
    number: u32,
    generation: u64,
}

impl Asid {
    /// None: not valid anywhere, for the generations of a CPU that is in use
    /// begin with 1.
    pub(super) const NONE: Self = Self {
        number: 0,
        generation: 0,
    };

    /// Whether it is still this guest's own on this CPU.
    #[inline]
    pub(super) fn is_current(self, here: &ThisCpu) -> bool {
        here.generation.load(Ordering::Relaxed) == self.generation
    }

    /// A fresh identifier of this CPU. True when they have all been used, and
    /// every translation must be dropped before the first of the new round.
    pub(super) fn allocate(off: &IrqOff) -> (Self, bool) {
        let Some(cpus) = CPUS.get() else {
            return (Self::NONE, true);
        };
        let asids = cpus.asids.this(off);
        let next = asids.next.load(Ordering::Relaxed);
        let wrapped = next >= cpus.asid_limit;
        let number = if wrapped { 1 } else { next };
        if wrapped {
            asids.generation.fetch_add(1, Ordering::Relaxed);
        }
        asids.next.store(number.wrapping_add(1), Ordering::Relaxed);
        let generation = asids.generation.load(Ordering::Relaxed);
        (Self { number, generation }, wrapped)
    }

    /// The value for the VMCB.
    pub(super) fn number(self) -> u32 {
        self.number
    }
}
