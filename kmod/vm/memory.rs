// SPDX-License-Identifier: GPL-2.0

//! Guest memory of one virtual machine.
//!
//! Guest memory is memory of the VMM's process. Slots say which ([`slots`]);
//! nested page tables, filled on faults ([`fault`]), are how vCPUs reach it, and
//! copies by host virtual address how the module does ([`access`]). An MMU
//! notifier takes out of the tables what changes in the process ([`notify`]).
//! Nothing is pinned.
//!
//! # Locks, outermost first
//!
//! 1. `changes`: one change of slots, or one look at a dirty log, at a time.
//! 2. the readers' side of `slots` (SRCU). Whoever holds `changes` waits for
//!    readers, so a reader must not take `changes`.
//! 3. `mmap_lock` and page-table locks of the process.
//! 4. `invalidating`, held only to count.
//! 5. the lock of the nested tables. Nothing sleeps, allocates or touches the
//!    process's memory under it; TLBs are flushed under its write side.

use crate::host::mm::copy;
use crate::host::mm::notifier::MmuNotifier;
use crate::host::mm::pin;
use crate::host::mm::published::Published;
use crate::host::mm::published::Reading;
use crate::host::mm::table::TableCache;
use crate::hw::nested::Format;
use crate::hw::nested::LastTable;
use crate::hw::nested::Level;
use crate::hw::nested::NestedTable;
use crate::hw::NestedConfig;
use crate::pc::addr::Gfn;
use crate::pc::addr::Hpa;
use crate::pc::addr::Hva;
use crate::pc::nested::invalidation::Invalidations;
use crate::pc::slots::Limits;
use crate::uapi::KVM_MEM_LOG_DIRTY_PAGES;
use crate::uapi::KVM_MEM_READONLY;
use core::cell::Cell;
use core::ops::Deref;
use core::sync::atomic::AtomicU64;
use kernel::new_mutex;
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::sync::SpinLock;

pub mod access;
mod apic_page;
mod dirty;
pub mod fault;
mod log;
mod notify;
mod slots;

pub use access::MemoryError;
pub use fault::Fault;

use apic_page::ApicPage;
use slots::Slots;

/// What guest memory needs of the virtual machine it is part of.
pub trait FlushRemote: Send + Sync + 'static {
    /// Makes every vCPU drop its cached translations of guest memory: when this
    /// returns, none is in the guest with a translation from before the call.
    ///
    /// Called with preemption off and interrupts on, under the lock of the
    /// nested tables; must not sleep, and must not take a lock under which
    /// memory is reached.
    fn flush_remote(&self);

    /// Has every vCPU hand over the pages that its processor has noted as
    /// written ([`View::note_written`]): when this returns, all from before
    /// the call are.
    ///
    /// Called with preemption and interrupts on, and without a lock of memory's
    /// but that for changes.
    fn collect_written(&self);

    /// Has every vCPU look before its next entry whether the page that stands for
    /// the registers of local APICs is to be mapped. Any context.
    fn settle_apic_page(&self);
}

/// Guest memory, and its registration with the address space of the process
/// that created the virtual machine.
///
/// When it is dropped no vCPU is left: all tables are freed.
pub struct GuestMemory<F: Format, V: FlushRemote> {
    // The registration is the last to let go of what is registered.
    notifier: MmuNotifier<Memory<F, V>>,
    memory: Arc<Memory<F, V>>,
}

impl<F: Format, V: FlushRemote> GuestMemory<F, V> {
    /// Memory without slots, of the calling process. `vcpus` is what reaches
    /// the vCPUs that the machine has or will have. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`; `EINVAL` for a configuration that cannot be.
    pub fn new(config: NestedConfig, vcpus: V) -> Result<Self> {
        let memory = Arc::pin_init(Memory::new(config, vcpus), GFP_KERNEL_ACCOUNT)?;
        Ok(Self {
            notifier: MmuNotifier::register(memory.clone())?,
            memory,
        })
    }

    /// The calling thread runs in the address space the memory is of. Every
    /// other method but [`Memory::root`] needs that; ioctls say `EIO` otherwise.
    #[inline]
    pub fn is_current_mm(&self) -> bool {
        self.notifier.is_current()
    }
}

impl<F: Format, V: FlushRemote> Deref for GuestMemory<F, V> {
    type Target = Memory<F, V>;

    #[inline]
    fn deref(&self) -> &Memory<F, V> {
        &self.memory
    }
}

/// Guest memory: see the [module](self).
#[pin_data]
pub struct Memory<F: Format, V: FlushRemote> {
    #[pin]
    nested: NestedTable<F>,
    slots: Published<Slots>,
    invalidations: Invalidations,
    #[pin]
    changes: Mutex<()>,
    #[pin]
    invalidating: SpinLock<()>,
    /// `KVM_DIRTY_LOG_*`: what userspace has asked of dirty logs.
    dirty_mode: AtomicU64,
    limits: Limits,
    largest: Level,
    /// The processors keep lists of the pages they make dirty.
    logs_writes: bool,
    apic_page: Option<ApicPage>,
    vcpus: V,
}

impl<F: Format, V: FlushRemote> Memory<F, V> {
    fn new(config: NestedConfig, vcpus: V) -> impl PinInit<Self, Error> {
        let limits = Limits {
            spaces: 1,
            flags: KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY,
            end: config.end(),
            user_end: copy::user_end(),
        };
        try_pin_init!(Self {
            nested <- NestedTable::new(config.levels, config.logs_writes),
            slots: Published::new(Slots::default())?,
            invalidations: Invalidations::new(),
            changes <- new_mutex!((), "guest memory"),
            invalidating <- new_spinlock!((), "invalidating"),
            dirty_mode: AtomicU64::new(0),
            limits,
            largest: config.largest,
            logs_writes: config.logs_writes,
            apic_page: config.apic_page.then(ApicPage::new).transpose()?,
            vcpus,
        }? Error)
    }

    /// Address of the root of the nested tables, as the processor takes it.
    pub fn root(&self) -> Hpa {
        self.nested.root()
    }

    /// Begins to use memory: slots stay as they are seen until this is dropped.
    /// Any context. Not to be held while the guest runs, nor across anything
    /// that changes slots.
    #[inline]
    pub fn enter(&self) -> View<'_, F, V> {
        View {
            memory: self,
            slots: self.slots.read(),
            hint: Cell::new(0),
        }
    }
}

/// Guest memory in use: see [`Memory::enter`].
pub struct View<'a, F: Format, V: FlushRemote> {
    memory: &'a Memory<F, V>,
    slots: Reading<'a, Slots>,
    /// Index of the slot found last.
    hint: Cell<usize>,
}

impl<F: Format, V: FlushRemote> View<'_, F, V> {
    /// A number that changes with the slots; not 0. What was looked up since it
    /// was this holds in every view that gives the same.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.memory.slots.generation()
    }
}

/// What one vCPU keeps for its faults.
#[derive(Default)]
pub struct VcpuMmu {
    tables: TableCache,
    last_table: LastTable,
    /// Index of the slot of the last fault.
    hint: usize,
    /// A frame that had no memory when the slots had this generation.
    device: (Gfn, u64),
    left: Left,
}

/// What [`View::try_fault`] leaves to [`View::fault`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Left {
    /// Whatever there is to do.
    #[default]
    All,
    /// The process has nothing mapped yet at this frame, which is there in its
    /// memory, or nothing for a write.
    Absent { gfn: Gfn, hva: Hva, write: bool },
    /// TLBs are to be flushed, too.
    Flush,
}

impl VcpuMmu {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            tables: TableCache::new(),
            last_table: LastTable::new(),
            hint: 0,
            device: (Gfn(0), 0),
            left: Left::All,
        }
    }

    /// Where [`View::try_fault`] has found nothing mapped by the process: brings the
    /// page in. True when the same call can be expected to find it now. May sleep.
    #[inline]
    pub fn bring_in_absent(&mut self) -> bool {
        let Left::Absent { hva, write, .. } = self.left else {
            return false;
        };
        self.left = Left::All;
        // If slots have changed meanwhile: the page is the process's own anyhow.
        pin::fault_in(hva, write)
    }
}
