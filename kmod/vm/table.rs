// SPDX-License-Identifier: GPL-2.0

//! The vCPUs of a VM, in order of creation.
//!
//! vCPUs are added and stay until the VM goes, so readers in any context, hard
//! interrupts too, need no lock: an entry that is set is set for good.

use super::memory::FlushRemote;
use super::request::Request;
use super::vcpu::VcpuShared;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::SetOnce;

/// Most vCPUs of one VM, and one more than the greatest id.
pub const MAX_VCPUS: usize = 1024;

/// The vCPUs of one VM.
pub struct VcpuTable {
    entries: KVVec<SetOnce<Arc<VcpuShared>>>,
    len: AtomicUsize,
    /// The last that [`VcpuTable::yield_to_another`] has chosen.
    yielded_to: AtomicUsize,
}

impl VcpuTable {
    /// No vCPUs yet.
    pub fn new() -> Result<Self> {
        let mut entries = KVVec::with_capacity(MAX_VCPUS, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..MAX_VCPUS {
            entries.push(SetOnce::new(), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self {
            entries,
            len: AtomicUsize::new(0),
            yielded_to: AtomicUsize::new(0),
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Adds the next one. The caller holds the VM's lock for creation.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the table is full.
    pub fn push(&self, vcpu: Arc<VcpuShared>) -> Result {
        let index = self.len();
        if !self.entries.get(index).ok_or(EINVAL)?.populate(vcpu) {
            return Err(EEXIST);
        }
        self.len.store(index.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// All vCPUs.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &Arc<VcpuShared>> {
        self.entries
            .get(..self.len())
            .unwrap_or(&[])
            .iter()
            .filter_map(SetOnce::as_ref)
    }

    /// The vCPU at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&Arc<VcpuShared>> {
        self.entries.get(index)?.as_ref()
    }

    /// The vCPU with this id. The id is the index for most VMMs.
    pub fn by_id(&self, id: u32) -> Option<&Arc<VcpuShared>> {
        match self.get(id as usize) {
            Some(vcpu) if vcpu.id == id => Some(vcpu),
            _ => self.iter().find(|vcpu| vcpu.id == id),
        }
    }

    /// Lets the thread of a vCPU other than `index` run in place of the calling
    /// one, if there is one that waits for a CPU. The next call begins behind
    /// the one chosen, so that all have their turn. May sleep.
    pub fn yield_to_another(&self, index: usize) {
        let len = self.len();
        let last = self.yielded_to.load(Ordering::Relaxed).min(len);
        for step in 1..=len {
            let at = last.wrapping_add(step) % len;
            let Some(vcpu) = self.get(at).filter(|_| at != index) else {
                continue;
            };
            // One that sleeps or runs is left alone by the kernel.
            if !vcpu.requests.is_in_guest() && vcpu.runner.yield_to() {
                self.yielded_to.store(at, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Adds a request to every vCPU and kicks it.
    pub fn request_all(&self, request: Request) {
        for vcpu in self.iter() {
            vcpu.request(request);
        }
    }

    /// Makes every vCPU drop its translations; when this returns none that has
    /// not is in the guest. Interrupts on, preemption off.
    pub fn flush_tlbs(&self) {
        self.get_out_with(Request::FLUSH_TLB);
    }

    /// Adds a request to every vCPU; when this returns none that has been in
    /// the guest since before the call is still there. Interrupts on.
    pub fn get_out_with(&self, request: Request) {
        for vcpu in self.iter() {
            vcpu.requests.add(request);
            vcpu.get_out();
        }
        // The interrupt ends the guest run, and the vCPU sees the request
        // before its next one; it holds no lock until then.
        for vcpu in self.iter() {
            while vcpu.requests.is_in_guest() && vcpu.requests.has(request) {
                core::hint::spin_loop();
            }
        }
    }
}

/// How guest memory reaches the vCPUs.
pub struct Flusher(pub Arc<VcpuTable>);

impl FlushRemote for Flusher {
    fn flush_remote(&self) {
        self.0.flush_tlbs();
    }

    fn collect_written(&self) {
        self.0.get_out_with(Request::WRITTEN);
    }

    fn settle_apic_page(&self) {
        self.0.request_all(Request::APIC_PAGE);
    }
}
