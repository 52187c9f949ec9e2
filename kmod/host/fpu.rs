// SPDX-License-Identifier: GPL-2.0

//! The guest's FPU: x87, SSE, AVX and the other states that XSAVE manages.
//!
//! The kernel keeps it as a second FPU state of the thread that runs the vCPU,
//! and swaps it with the thread's own around a run ([`GuestFpu::swap_in`],
//! [`GuestFpu::swap_out`]). In between, the kernel saves and restores whichever
//! is in use when the thread is scheduled, or when an interrupt uses the FPU;
//! so before each entry the registers may have to be loaded
//! ([`restore_if_needed`]). Two registers of the guest are not part of this
//! and are switched around each entry: XCR0 ([`Xcr0`]) and PKRU.
//!
//! Context: process context unless said otherwise. No locks.

mod xcr0;
mod xmm;
mod xss;

pub use xcr0::Xcr0;
pub use xmm::read_xmm;
pub use xmm::write_xmm;
pub use xss::HostXss;

use super::bindings;
use super::cpu::boot_cpu_has;
use super::cpu::Feature;
use super::task::current;
use super::task::thread_flags;
use super::task::IrqOff;
use super::user::UserPtr;
use crate::uapi::kvm_fpu;
use core::ptr::addr_of_mut;
use kernel::error::to_result;
use kernel::prelude::*;

/// Size in bytes of the region of `struct kvm_xsave`, the least that
/// KVM_GET_XSAVE copies.
pub const XSAVE_REGION: usize = 4096;

/// Offset in bytes of the XSAVE header, which starts with XSTATE_BV (SDM vol.
/// 1, 13.4.2).
const HEADER: usize = 512;

/// XSTATE_BV: x87 and SSE.
const X87_SSE: u64 = 0b11;

/// x87 control word and MXCSR after INIT (SDM vol. 1, 8.1.5 and 10.2.3).
const INITIAL_FCW: u16 = 0x37f;
const INITIAL_MXCSR: u32 = 0x1f80;

/// MXCSR bits of a processor that reports no mask (SDM vol. 1, 11.6.6).
const DEFAULT_MXCSR_MASK: u32 = 0xffbf;

/// The FPU state of one vCPU, as after RESET when it is made.
///
/// # Invariants
///
/// `raw` has been allocated by the kernel and not been freed. While `user` is
/// not null, that thread's FPU state is this one.
pub struct GuestFpu {
    raw: bindings::fpu_guest,
    user: *mut bindings::task_struct,
}

// SAFETY: The state is memory of its own; what ties it to a thread is `user`,
// which is checked.
unsafe impl Send for GuestFpu {}
// SAFETY: Shared references only read.
unsafe impl Sync for GuestFpu {}

impl GuestFpu {
    /// Allocates a state. The first of a process fixes which extended states
    /// its guests may have (`arch_prctl`). May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        let mut raw = bindings::fpu_guest::default();
        // SAFETY: The structure is zeroed, as the function expects.
        if !unsafe { bindings::fpu_alloc_guest_fpstate(&mut raw) } {
            return Err(ENOMEM);
        }
        // INVARIANT: Allocated, and nobody's state yet.
        Ok(Self {
            raw,
            user: core::ptr::null_mut(),
        })
    }

    /// Makes this the FPU state of the current thread, until
    /// [`GuestFpu::swap_out`]. Nothing happens when it is.
    ///
    /// # Errors
    ///
    /// `EBUSY` when it is the state of another thread.
    #[inline(always)]
    pub fn swap_in(&mut self) -> Result {
        let task = current();
        if !self.user.is_null() {
            return if self.user == task {
                Ok(())
            } else {
                Err(EBUSY)
            };
        }
        // SAFETY: The state is allocated and not in use. It stays until it is
        // swapped out, for dropping it while in use does not free it.
        unsafe { bindings::fpu_swap_kvm_fpstate(&mut self.raw, true) };
        // INVARIANT: Now it is this thread's.
        self.user = task;
        Ok(())
    }

    /// Gives the current thread its own FPU state back. Nothing happens when it
    /// has it.
    #[inline(always)]
    pub fn swap_out(&mut self) {
        if self.user != current() {
            return;
        }
        // SAFETY: The state is this thread's.
        unsafe { bindings::fpu_swap_kvm_fpstate(&mut self.raw, false) };
        // INVARIANT: Nobody's.
        self.user = core::ptr::null_mut();
    }

    /// Bytes that KVM_GET_XSAVE2 and KVM_SET_XSAVE copy.
    pub fn xsave_size(&self) -> usize {
        (self.raw.uabi_size as usize).max(XSAVE_REGION)
    }

    /// Copies the state out in the standard XSAVE format: `size` bytes, with
    /// the components of `xcr0` and x87 and SSE. KVM_GET_XSAVE (`size` is
    /// [`XSAVE_REGION`]) and KVM_GET_XSAVE2 ([`GuestFpu::xsave_size`]).
    ///
    /// # Errors
    ///
    /// `EFAULT`, `ENOMEM`, `EBUSY` when a thread runs the guest.
    pub fn write_xsave(&mut self, to: UserPtr, size: usize, xcr0: u64, pkru: u32) -> Result {
        self.check_unused()?;
        let mut image = image(size)?;
        let size = u32::try_from(size).map_err(|_| EINVAL)?;
        // SAFETY: The image has `size` bytes; the state is allocated.
        unsafe {
            bindings::fpu_copy_guest_fpstate_to_uabi(
                &mut self.raw,
                image.as_mut_ptr().cast(),
                size,
                xcr0 | X87_SSE,
                pkru,
            );
        }
        to.write_slice(&image)
    }

    /// Replaces the state by one in the standard XSAVE format of
    /// [`GuestFpu::xsave_size`] bytes, which may have the components of `xcr0`.
    /// `pkru` is set if the image has it. KVM_SET_XSAVE.
    ///
    /// # Errors
    ///
    /// `EFAULT`, `ENOMEM`, `EBUSY` when a thread runs the guest, `EINVAL` for
    /// components beyond `xcr0` or reserved bits.
    pub fn read_xsave(&mut self, from: UserPtr, xcr0: u64, pkru: &mut u32) -> Result {
        self.check_unused()?;
        let mut image = image(self.xsave_size())?;
        from.read_slice(&mut image)?;
        // A component that XFD disables is not loaded (the kernel would refuse).
        // SAFETY: The state is allocated.
        let disabled = unsafe { (*self.raw.fpstate).xfd };
        if let Some(present) = image.get_mut(HEADER / 8) {
            *present &= !disabled;
        }
        // SAFETY: The image is as long as the largest that the state's
        // components make; its contents are checked by the callee.
        to_result(unsafe {
            bindings::fpu_copy_uabi_to_guest_fpstate(
                &mut self.raw,
                image.as_ptr().cast(),
                xcr0 | X87_SSE,
                pkru,
            )
        })
    }

    /// The x87 and SSE registers. KVM_GET_FPU.
    ///
    /// # Errors
    ///
    /// `EBUSY` when a thread runs the guest.
    pub fn legacy(&mut self) -> Result<kvm_fpu> {
        self.check_unused()?;
        let mut fpu = kvm_fpu {
            fcw: INITIAL_FCW,
            mxcsr: INITIAL_MXCSR,
            ..Default::default()
        };
        let image = self.legacy_image();
        let present = self.present();
        // SAFETY: The state is not in use, so only this reads or writes the
        // image, all of which is initialised.
        let image = unsafe { &*image };
        if present & 0b01 != 0 {
            fpu.fcw = image.cwd;
            fpu.fsw = image.swd;
            fpu.ftwx = image.twd as u8;
            fpu.last_opcode = image.fop;
            // SAFETY: Both members of the union are integers.
            let pointers = unsafe { image.__bindgen_anon_1.__bindgen_anon_1 };
            fpu.last_ip = pointers.rip;
            fpu.last_dp = pointers.rdp;
            unpack(&image.st_space, fpu.fpr.as_flattened_mut());
        }
        if present & 0b10 != 0 {
            fpu.mxcsr = image.mxcsr;
            unpack(&image.xmm_space, fpu.xmm.as_flattened_mut());
        }
        Ok(fpu)
    }

    /// Replaces the x87 and SSE registers. Bits that MXCSR does not have are
    /// dropped. KVM_SET_FPU.
    ///
    /// # Errors
    ///
    /// `EBUSY` when a thread runs the guest.
    pub fn set_legacy(&mut self, fpu: &kvm_fpu) -> Result {
        self.check_unused()?;
        let image = self.legacy_image();
        // SAFETY: The state is not in use, so only this reads or writes the
        // image, all of which is initialised.
        let image = unsafe { &mut *image };
        image.cwd = fpu.fcw;
        image.swd = fpu.fsw;
        image.twd = u16::from(fpu.ftwx);
        image.fop = fpu.last_opcode;
        image.__bindgen_anon_1.__bindgen_anon_1.rip = fpu.last_ip;
        image.__bindgen_anon_1.__bindgen_anon_1.rdp = fpu.last_dp;
        image.mxcsr = fpu.mxcsr & mxcsr_mask();
        pack(fpu.fpr.as_flattened(), &mut image.st_space);
        pack(fpu.xmm.as_flattened(), &mut image.xmm_space);
        if boot_cpu_has(Feature::XSAVE) {
            // SAFETY: As above; the header follows the legacy image.
            unsafe { *self.present_ptr() |= X87_SSE };
        }
        Ok(())
    }

    fn check_unused(&self) -> Result {
        if !self.user.is_null() {
            return Err(EBUSY);
        }
        Ok(())
    }

    /// The FXSAVE image, with which every format begins.
    fn legacy_image(&self) -> *mut bindings::fxregs_state {
        // SAFETY: The state is allocated; no reference is made.
        unsafe { addr_of_mut!((*self.raw.fpstate).regs) }.cast()
    }

    /// XSTATE_BV in the state's XSAVE header.
    fn present_ptr(&self) -> *mut u64 {
        // SAFETY: An image that XSAVE fills is longer than the legacy part.
        unsafe { self.legacy_image().byte_add(HEADER) }.cast()
    }

    /// Which components are not in their initial state.
    fn present(&self) -> u64 {
        if !boot_cpu_has(Feature::XSAVE) {
            return X87_SSE;
        }
        // SAFETY: The state is allocated and has a header.
        unsafe { self.present_ptr().read() }
    }
}

impl Drop for GuestFpu {
    fn drop(&mut self) {
        self.swap_out();
        // When another thread uses it, the kernel warns and frees nothing.
        // SAFETY: By the invariant.
        unsafe { bindings::fpu_free_guest_fpstate(&mut self.raw) };
    }
}

/// Loads the thread's FPU state, the guest's, into the registers if it is not
/// there. To be called before each entry into the guest; nothing may use the
/// FPU between.
#[inline]
pub fn restore_if_needed(_off: &IrqOff) {
    if thread_flags() & 1 << bindings::TIF_NEED_FPU_LOAD != 0 {
        // SAFETY: Interrupts are off.
        unsafe { bindings::switch_fpu_return() };
    }
}

/// Extended states that guests of the current process may be given, as in
/// XCR0: those in use on the host, less what needs a permission it lacks.
pub fn permitted_features() -> u64 {
    // SAFETY: Reads the current process's permissions.
    unsafe { bindings::xstate_get_guest_group_perm() }
}

/// A zeroed buffer of `size` bytes, aligned for XSAVE's header fields.
fn image(size: usize) -> Result<KVVec<u64>> {
    let words = size.div_ceil(8);
    let mut image = KVVec::with_capacity(words, GFP_KERNEL_ACCOUNT)?;
    image.resize(words, 0, GFP_KERNEL_ACCOUNT)?;
    Ok(image)
}

/// Spreads 32-bit words over bytes.
fn unpack(words: &[u32], mut bytes: &mut [u8]) {
    for word in words {
        let Some((head, rest)) = bytes.split_first_chunk_mut() else {
            return;
        };
        *head = word.to_le_bytes();
        bytes = rest;
    }
}

/// Collects bytes into 32-bit words.
fn pack(mut bytes: &[u8], words: &mut [u32]) {
    for word in words {
        let Some((head, rest)) = bytes.split_first_chunk() else {
            return;
        };
        *word = u32::from_le_bytes(*head);
        bytes = rest;
    }
}

/// The bits that MXCSR has on this processor.
fn mxcsr_mask() -> u32 {
    // FXSAVE wants 16 bytes; but the kernel's stack is aligned to 8 where the
    // compiler counts on 16, and aligns itself only what needs more.
    #[repr(C, align(64))]
    struct Image([u32; 128]);
    let mut image = Image([0; 128]);
    // SAFETY: FXSAVE stores to the image and changes no register; every 64-bit
    // processor has it.
    unsafe {
        core::arch::asm!(
            "fxsave64 [{}]",
            in(reg) &mut image,
            options(nostack, preserves_flags),
        );
    }
    let [_, _, _, _, _, _, _, mask, ..] = image.0;
    if mask == 0 {
        return DEFAULT_MXCSR_MASK;
    }
    mask
}
