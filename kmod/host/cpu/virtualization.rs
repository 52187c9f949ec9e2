// SPDX-License-Identifier: GPL-2.0

//! Hardware virtualization switched on, on every CPU.
//!
//! The kernel owns the switch (EFER.SVME, VMXON) and counts its users per CPU;
//! this takes one reference on each CPU that is or comes online, and tells the
//! vendor. References come and go with CPU hotplug; around suspend, and for
//! good before the machine is shut down, all are given back, for firmware must
//! find VMX and SVM off.
//!
//! Lock order: none of our own. The callbacks run under the CPU hotplug lock,
//! or with one CPU left.

use super::bindings;
use super::cpuid;
use super::raw_current_cpu;
use super::tsc;
use super::MAX_CPUS;
use crate::host::task::IrqOff;
use core::marker::PhantomData;
use kernel::error::from_result;
use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::ffi::c_uint;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;

/// CPUID.0:EBX of Intel's processors: "Genu".
const VENDOR_INTEL: u32 = u32::from_le_bytes(*b"Genu");

/// A processor extension that runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// AMD secure virtual machine.
    Svm,
    /// Intel virtual machine extensions.
    Vmx,
}

impl Extension {
    /// The one to look for: by the maker of the processor, for one may have
    /// neither.
    pub fn of_this_cpu() -> Self {
        if cpuid(0, 0).ebx == VENDOR_INTEL {
            Self::Vmx
        } else {
            Self::Svm
        }
    }

    const fn feature(self) -> c_int {
        match self {
            Self::Svm => bindings::X86_FEATURE_SVM as c_int,
            Self::Vmx => bindings::X86_FEATURE_VMX as c_int,
        }
    }
}

/// What the vendor does on each CPU.
pub trait CpuHooks: 'static {
    /// The extension to switch on.
    const EXTENSION: Extension;

    /// This CPU's extension has just been switched on.
    ///
    /// # Errors
    ///
    /// An error keeps the CPU from coming online, or the module from loading.
    fn online(off: &IrqOff) -> Result;

    /// This CPU's extension is about to be switched off. No guest runs here, and
    /// none will until [`CpuHooks::online`].
    fn offline(off: &IrqOff);

    /// The machine crashes or reboots at once, and the extension is switched
    /// off on this CPU whatever runs there. Called in an NMI or with the
    /// machine stopped: no lock may be taken.
    fn emergency() {}
}

/// Whether each CPU holds its reference. A CPU's flag is written on that CPU.
static ENABLED: [Atomic<bool>; MAX_CPUS] = [const { Atomic::new(false) }; MAX_CPUS];

/// The kernel is going down: the extension may be off already, and its
/// instructions fault.
pub fn rebooting() -> bool {
    // SAFETY: Reads a variable of the kernel.
    unsafe { bindings::iv_virt_rebooting() }
}

/// The extension of `H`, switched on on every CPU as long as this lives. There
/// can be one.
///
/// # Invariants
///
/// The CPU hotplug state, the system-core operations and the emergency callback
/// are registered.
pub struct Virtualization<H: CpuHooks>(PhantomData<fn() -> H>);

impl<H: CpuHooks> Virtualization<H> {
    /// Switches the extension on, on all CPUs. May sleep.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` when the processor or the kernel lacks it, `EBUSY` when
    /// firmware or another hypervisor has it or the system is going down, or
    /// what [`CpuHooks::online`] gave. The CPU that refused is named in the
    /// kernel log.
    pub fn enable() -> Result<Self> {
        // SAFETY: Both functions match the callbacks' types and live as long as
        // the module, which removes the state before it goes.
        to_result(unsafe {
            bindings::__cpuhp_setup_state(
                bindings::cpuhp_state_CPUHP_AP_KVM_ONLINE,
                c"kvm/cpu:online".as_char_ptr(),
                true,
                Some(cpu_online::<H>),
                Some(cpu_offline::<H>),
                false,
            )
        })?;
        // SAFETY: As above.
        unsafe {
            bindings::iv_virt_register_emergency(Some(emergency::<H>));
            bindings::iv_syscore_register(
                Some(suspend::<H>),
                Some(resume::<H>),
                Some(shutdown::<H>),
            );
        }
        // INVARIANT: All three are registered; `this` undoes that when dropped.
        let this = Self(PhantomData);

        // A forced reboot may have run the shutdown callbacks before ours was
        // registered. The state is set before they are called.
        // SAFETY: Reads a variable of the kernel.
        if unsafe { bindings::iv_system_going_down() } {
            return Err(EBUSY);
        }
        Ok(this)
    }
}

impl<H: CpuHooks> Drop for Virtualization<H> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, and nothing else removes them. When
        // these return, no callback runs or will run.
        unsafe {
            bindings::iv_syscore_unregister();
            bindings::iv_virt_unregister_emergency(Some(emergency::<H>));
            bindings::__cpuhp_remove_state(bindings::cpuhp_state_CPUHP_AP_KVM_ONLINE, true);
        }
    }
}

/// The flag of the CPU this runs on.
fn enabled(_off: &IrqOff) -> Result<&'static Atomic<bool>> {
    ENABLED.get(raw_current_cpu() as usize).ok_or(EINVAL)
}

/// Switches the extension on, on this CPU, once.
fn enable_here<H: CpuHooks>() -> Result {
    let off = IrqOff::new();
    let flag = enabled(&off)?;
    if flag.load(Relaxed) {
        return Ok(());
    }
    let result = take_reference::<H>(&off);
    if let Err(error) = result {
        pr_err!(
            "CPU {}: cannot enable {:?}: {:?}\n",
            raw_current_cpu(),
            H::EXTENSION,
            error
        );
        return Err(error);
    }
    flag.store(true, Relaxed);
    Ok(())
}

fn take_reference<H: CpuHooks>(off: &IrqOff) -> Result {
    // SAFETY: The flag says that this CPU has no reference yet.
    to_result(unsafe { bindings::iv_virt_get_ref(H::EXTENSION.feature()) })?;
    H::online(off).inspect_err(|_| {
        // SAFETY: The reference was taken above.
        unsafe { bindings::iv_virt_put_ref(H::EXTENSION.feature()) };
    })
}

/// Switches the extension off, on this CPU, once.
fn disable_here<H: CpuHooks>() {
    let off = IrqOff::new();
    let Ok(flag) = enabled(&off) else { return };
    if !flag.load(Relaxed) {
        return;
    }
    H::offline(&off);
    // SAFETY: The flag says that this CPU has a reference.
    unsafe { bindings::iv_virt_put_ref(H::EXTENSION.feature()) };
    flag.store(false, Relaxed);
}

/// Called on the CPU that comes online, by its hotplug thread.
extern "C" fn cpu_online<H: CpuHooks>(_cpu: c_uint) -> c_int {
    from_result(|| enable_here::<H>().map(|()| 0))
}

/// Called on the CPU that goes offline, by its hotplug thread.
extern "C" fn cpu_offline<H: CpuHooks>(_cpu: c_uint) -> c_int {
    disable_here::<H>();
    0
}

/// Called on the last CPU, with interrupts off.
extern "C" fn suspend<H: CpuHooks>(_data: *mut c_void) -> c_int {
    tsc::suspends();
    disable_here::<H>();
    0
}

/// Called on the first CPU, with interrupts off.
extern "C" fn resume<H: CpuHooks>(_data: *mut c_void) {
    tsc::resumes();
    // Reported where it failed; there is no way to refuse a resume, and a guest
    // entered on this CPU fails.
    let _ = enable_here::<H>();
}

/// Called when the machine is about to stop, with all CPUs online.
extern "C" fn shutdown<H: CpuHooks>(_data: *mut c_void) {
    // SAFETY: The callback takes no argument; it is waited for.
    unsafe {
        bindings::on_each_cpu_cond_mask(
            None,
            Some(disable_cpu::<H>),
            core::ptr::null_mut(),
            true,
            &raw const bindings::__cpu_online_mask,
        );
    }
}

extern "C" fn disable_cpu<H: CpuHooks>(_info: *mut c_void) {
    disable_here::<H>();
}

/// Called in the crash path, where the extension is on.
extern "C" fn emergency<H: CpuHooks>() {
    H::emergency();
}
