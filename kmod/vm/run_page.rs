// SPDX-License-Identifier: GPL-2.0

//! The pages a vCPU shares with the VMM: `kvm_run`, the data of port I/O, and
//! the ring of coalesced writes (KVM API document, section 5).
//!
//! The VMM may write any byte at any time. So every field is read once, by
//! copy, and checked after that; nothing that is written here is read back.

use crate::host::page::HostPage;
use crate::uapi;
use crate::uapi::kvm_run;
use crate::uapi::kvm_run_exit;
use crate::uapi::kvm_run_io;
use crate::uapi::kvm_run_mmio;
use crate::uapi::Pod;
use crate::uapi::KVM_RUN_EXIT_OFFSET;
use core::mem::offset_of;
use kernel::prelude::*;

/// Pages of the mapping: what KVM_GET_VCPU_MMAP_SIZE says.
pub const PAGES: usize = 3;

/// Bytes of one page of port data.
pub const PIO_BYTES: usize = 4096;

/// The shared pages of one vCPU.
pub struct RunPages {
    run: HostPage,
    pio: HostPage,
}

impl RunPages {
    /// New pages, all zero.
    pub fn new() -> Result<Self> {
        Ok(Self {
            run: HostPage::new()?,
            pio: HostPage::new()?,
        })
    }

    /// The page at `index` of the mapping, for mmap; the VM has the ring.
    pub fn page(&self, index: usize) -> Option<&HostPage> {
        match index {
            0 => Some(&self.run),
            1 => Some(&self.pio),
            _ => None,
        }
    }

    #[inline]
    fn get<T: Pod>(&self, offset: usize) -> T {
        // In the page: the offsets are those of `kvm_run`.
        self.run.read(offset).unwrap_or_else(T::zeroed)
    }

    #[inline]
    fn put<T: Pod>(&self, offset: usize, value: T) {
        let _ = self.run.write(offset, value);
    }

    /// The VMM wants KVM_RUN to return at once.
    #[inline]
    pub fn immediate_exit(&self) -> bool {
        self.get::<u8>(offset_of!(kvm_run, immediate_exit)) != 0
    }

    /// The VMM wants to be told when an interrupt could be queued.
    #[inline]
    pub fn wants_interrupt_window(&self) -> bool {
        self.get::<u8>(offset_of!(kvm_run, request_interrupt_window)) != 0
    }

    /// CR8 as the VMM wants it, where it models the local APIC.
    #[inline]
    pub fn cr8(&self) -> u64 {
        self.get(offset_of!(kvm_run, cr8))
    }

    /// Sets the exit reason.
    #[inline]
    pub fn set_reason(&self, reason: u32) {
        self.put(offset_of!(kvm_run, exit_reason), reason);
    }

    /// Sets the exit reason and its particulars.
    #[inline]
    pub fn set_exit<T: Pod>(&self, reason: u32, particulars: T) {
        const { assert!(size_of::<T>() <= size_of::<kvm_run_exit>()) };
        self.set_reason(reason);
        self.put(KVM_RUN_EXIT_OFFSET, particulars);
    }

    /// KVM_EXIT_IO with the members of [`kvm_run_io`], the first four of which are
    /// one word.
    #[inline]
    pub fn set_port_exit(&self, direction: u8, port: u16, size: u8, count: u32, data: u64) {
        const { assert!(offset_of!(kvm_run_io, data_offset) == size_of::<u64>()) };
        let word = u64::from(direction)
            | u64::from(size) << (8 * offset_of!(kvm_run_io, size))
            | u64::from(port) << (8 * offset_of!(kvm_run_io, port))
            | u64::from(count) << (8 * offset_of!(kvm_run_io, count));
        self.set_reason(uapi::KVM_EXIT_IO);
        self.put(KVM_RUN_EXIT_OFFSET, word);
        self.put(KVM_RUN_EXIT_OFFSET + size_of::<u64>(), data);
    }

    /// KVM_EXIT_MMIO with the members of [`kvm_run_mmio`], the last of which are
    /// one word.
    #[inline]
    pub fn set_mmio_exit(&self, address: u64, data: u64, len: u8, write: bool) {
        const LEN: usize = offset_of!(kvm_run_mmio, len);
        const { assert!(LEN == 2 * size_of::<u64>()) };
        let word =
            u64::from(len) | u64::from(write) << (8 * (offset_of!(kvm_run_mmio, is_write) - LEN));
        self.set_reason(uapi::KVM_EXIT_MMIO);
        self.put(KVM_RUN_EXIT_OFFSET, address);
        self.put(KVM_RUN_EXIT_OFFSET + offset_of!(kvm_run_mmio, data), data);
        self.put(KVM_RUN_EXIT_OFFSET + LEN, word);
    }

    /// The particulars, as the VMM has completed them.
    #[inline]
    pub fn exit<T: Pod>(&self) -> T {
        const { assert!(size_of::<T>() <= size_of::<kvm_run_exit>()) };
        self.get(KVM_RUN_EXIT_OFFSET)
    }

    /// What every return from KVM_RUN tells. The first three are one word.
    #[inline]
    pub fn set_status(&self, status: &Status) {
        const READY: usize = offset_of!(kvm_run, ready_for_interrupt_injection);
        const { assert!(offset_of!(kvm_run, flags) == READY + size_of::<u16>()) };
        let word = u32::from(status.ready_for_interrupt)
            | u32::from(status.interrupts_on) << (8 * (offset_of!(kvm_run, if_flag) - READY))
            | u32::from(status.flags) << (8 * (offset_of!(kvm_run, flags) - READY));
        self.put(READY, word);
        self.put(offset_of!(kvm_run, cr8), status.cr8);
        self.put(offset_of!(kvm_run, apic_base), status.apic_base);
    }

    /// Register sets the VMM wants stored at each exit (KVM_CAP_SYNC_REGS).
    #[inline]
    pub fn valid_regs(&self) -> u64 {
        self.get(offset_of!(kvm_run, kvm_valid_regs))
    }

    /// Register sets the VMM has changed.
    #[inline]
    pub fn dirty_regs(&self) -> u64 {
        self.get(offset_of!(kvm_run, kvm_dirty_regs))
    }

    /// The changes have been taken over.
    pub fn clear_dirty_regs(&self) {
        self.put(offset_of!(kvm_run, kvm_dirty_regs), 0u64);
    }

    /// One of the stored register sets, at `offset` in `kvm_run`.
    pub fn synced<T: Pod>(&self, offset: usize) -> T {
        self.get(offset)
    }

    /// Stores a register set at `offset` in `kvm_run`.
    pub fn set_synced<T: Pod>(&self, offset: usize, value: T) {
        self.put(offset, value);
    }

    /// Item `index` of port data, from the VMM: each has `size` bytes, 1, 2 or
    /// 4. 0 beyond the page.
    #[inline]
    pub fn read_pio(&self, index: u32, size: u8) -> u32 {
        let offset = (index as usize).saturating_mul(usize::from(size));
        let item = match size {
            1 => self.pio.read::<u8>(offset).map(u32::from),
            2 => self.pio.read::<u16>(offset).map(u32::from),
            _ => self.pio.read(offset),
        };
        item.unwrap_or(0)
    }

    /// The first item of port data, to the VMM: the low `size` bytes of `value`.
    #[inline]
    pub fn write_pio(&self, value: u32, size: u8) {
        let _ = match size {
            1 => self.pio.write(0, value as u8),
            2 => self.pio.write(0, value as u16),
            _ => self.pio.write(0, value),
        };
    }
}

/// What every return from KVM_RUN tells.
pub struct Status {
    /// An interrupt could be queued by KVM_INTERRUPT now.
    pub ready_for_interrupt: bool,
    /// The guest's RFLAGS.IF.
    pub interrupts_on: bool,
    /// KVM_RUN_X86_* flags.
    pub flags: u16,
    /// CR8.
    pub cr8: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
}
