// SPDX-License-Identifier: GPL-2.0

//! Whether this processor delivers virtual interrupts as the SDM has it (vol. 3,
//! 30.2), before it is relied on for that.
//!
//! A guest that is interrupted while its IF is 0 deadlocks or worse, and not
//! every processor is one: Bochs looks at IF only to decide whether it goes to
//! deliver anything. If an interrupt of the host is pending, which counts
//! whatever IF is, it delivers a virtual one instead.
//!
//! So a guest is made to meet that once. It begins with IF 1 and both kinds of
//! interrupts pending, in the shadow of STI, which holds back the virtual one,
//! and its first instruction is CLI. Right is an exit for the host's interrupt,
//! before or after that, with the virtual one still requested.

use super::apicv::InterruptStatus;
use super::apicv::Kept;
use super::apicv::RegisterPage;
use super::cpu;
use super::event::Interruptibility;
use super::exit::Reason;
use super::field::guest;
use super::field::ReadFields;
use super::state::Current;
use super::Vmx;
use crate::host::cpu as host_cpu;
use crate::host::mm::table::TableCache;
use crate::host::page::HostPage;
use crate::host::params;
use crate::host::params::Asked;
use crate::host::task;
use crate::host::task::IrqOff;
use crate::host::task::PreemptOff;
use crate::hw::nested::Ept;
use crate::hw::nested::Level;
use crate::hw::nested::NestedTable;
use crate::hw::nested::Permissions;
use crate::hw::Registers;
use crate::hw::Vendor;
use crate::hw::VmSetup;
use crate::pc::addr::Gfn;
use crate::pc::addr::Hpa;
use crate::pc::lapic::regs;
use crate::pc::lapic::VectorSet;
use crate::pc::regs::Attributes;
use crate::pc::regs::Rflags;
use crate::pc::regs::SegReg;
use crate::pc::regs::Segment;
use kernel::prelude::*;

/// The virtual interrupt.
const VECTOR: u8 = 0x81;

/// CLI; JMP to itself.
const CODE: [u8; 3] = [0xfa, 0xeb, 0xfe];
/// Where it is. Below it is the interrupt table of real mode.
const ENTRY: u16 = 0x800;

/// The interrupt of the host may take its time to arrive, and others come: so
/// many entries are made at most, of 2 ms at most.
const ENTRIES: u32 = 100;

/// Where the trial posts interrupts: an address that is as aligned as it must be.
const DESCRIPTOR: usize = 64;
/// In there, the flag of an outstanding notification.
const ON: usize = DESCRIPTOR + 32;

/// Decides whether this processor delivers interrupts of guests, and whether
/// it takes posted ones.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn try_out<const ACCESSED_DIRTY: bool>() -> Result {
    let shared = cpu::shared().ok_or(ENODEV)?;
    let asked = params::virtual_interrupts();
    if shared.apicv_bitmap.is_none() || asked == Asked::No {
        return Ok(());
    }
    let mut guest = Guest::<ACCESSED_DIRTY>::new()?;
    let found = guest.meets_both()?;
    match found {
        Found::Right => {}
        Found::Wrong => pr_warn!(
            "this processor delivers virtual interrupts to guests that have interrupts off\n"
        ),
        Found::Nothing(reason) => pr_warn!(
            "how this processor delivers virtual interrupts could not be found out (exit {:#x})\n",
            reason.0
        ),
    }
    if found != Found::Right && asked != Asked::Force {
        return Ok(());
    }
    shared.set_delivers()?;
    if shared.controls.has_posted_interrupts() {
        match guest.takes_posted()? {
            Found::Right => shared.set_posts(),
            Found::Wrong => pr_warn!("this processor gets posted interrupts wrong\n"),
            Found::Nothing(reason) => pr_warn!(
                "this processor refuses posted interrupts (exit {:#x})\n",
                reason.0
            ),
        }
    }
    Ok(())
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// All was as it should be.
    Right,
    /// It was not.
    Wrong,
    /// Nothing of the kind has happened, and the guest ended like this.
    Nothing(Reason),
}

/// The guest: one page of memory.
struct Guest<const ACCESSED_DIRTY: bool> {
    // Dropped first: nothing of the rest is in use then.
    vmx: Vmx<ACCESSED_DIRTY>,
    _table: Pin<KBox<NestedTable<Ept<ACCESSED_DIRTY>>>>,
    memory: HostPage,
}

impl<const ACCESSED_DIRTY: bool> Guest<ACCESSED_DIRTY> {
    fn new() -> Result<Self> {
        let memory = HostPage::new()?;
        for (index, byte) in CODE.into_iter().enumerate() {
            memory
                .write(usize::from(ENTRY).wrapping_add(index), byte)
                .ok_or(EINVAL)?;
        }
        let levels = Vmx::<ACCESSED_DIRTY>::nested_config().levels;
        let table = KBox::pin_init(NestedTable::new(levels, false), GFP_KERNEL)?;
        let mut tables = TableCache::new();
        tables.top_up()?;
        let everything = Permissions {
            write: true,
            may_write: true,
            execute: true,
            clean: false,
        };
        table
            .read()
            .map(Gfn(0), Level::Size4K, memory.hpa(), everything, &mut tables)
            .map_err(|_| ENOMEM)?;
        let setup = VmSetup {
            nested_root: table.root(),
            apic_page: None,
        };
        Ok(Self {
            vmx: Vmx::new(&setup)?,
            _table: table,
            memory,
        })
    }

    /// Whether a virtual interrupt waits while the guest has IF 0, an interrupt
    /// of the host notwithstanding.
    fn meets_both(&mut self) -> Result<Found> {
        let requested = self.request(Some(VECTOR))?;
        let mut reason = Reason(0);
        for _ in 0..ENTRIES {
            let left;
            (reason, left) = self.enter();
            match reason {
                _ if left != requested => return Ok(Found::Wrong),
                Reason::EXTERNAL_INTERRUPT => return Ok(Found::Right),
                Reason::EXCEPTION_OR_NMI | Reason::PREEMPTION_TIMER => {}
                _ => break,
            }
        }
        Ok(Found::Nothing(reason))
    }

    /// Whether a notification is no interrupt of the host any more, has the
    /// processor take what is posted, and nothing if nothing is.
    fn takes_posted(&mut self) -> Result<Found> {
        let descriptor = Hpa(self.memory.hpa().0 | DESCRIPTOR as u64);
        self.vmx.set_posted(descriptor);
        for vector in [None, Some(VECTOR)] {
            self.request(None)?;
            if let Some(vector) = vector {
                let byte = DESCRIPTOR | usize::from(vector >> 3);
                self.memory.write(byte, 1u8 << (vector & 7)).ok_or(EINVAL)?;
            }
            let wanted = InterruptStatus(vector.unwrap_or(0).into());
            match self.takes(wanted)? {
                Found::Right => {}
                other => return Ok(other),
            }
        }
        Ok(Found::Right)
    }

    /// Whether a notification leaves the guest with `wanted`.
    fn takes(&mut self, wanted: InterruptStatus) -> Result<Found> {
        self.memory.write(ON, 1u8).ok_or(EINVAL)?;
        let mut reason = Reason(0);
        for _ in 0..ENTRIES {
            let left;
            (reason, left) = self.enter();
            let taken = self.memory.read(ON) == Some(0u8);
            match reason {
                _ if taken && left == wanted => return Ok(Found::Right),
                _ if taken || left != InterruptStatus(0) => return Ok(Found::Wrong),
                Reason::EXTERNAL_INTERRUPT | Reason::EXCEPTION_OR_NMI => {}
                Reason::PREEMPTION_TIMER => {}
                _ => break,
            }
        }
        Ok(Found::Nothing(reason))
    }

    /// Makes `vector` what is requested.
    fn request(&mut self, vector: Option<u8>) -> Result<InterruptStatus> {
        let vmx = &mut self.vmx;
        let mut requests = VectorSet::EMPTY;
        if let Some(vector) = vector {
            requests.insert(vector);
        }
        let page = vmx.virtual_apic.as_ref().ok_or(EINVAL)?;
        for (index, register) in (0..8).zip(regs::IRR..) {
            page.set_register(register, requests.register(index));
        }
        let status = InterruptStatus::of(&requests, &VectorSet::EMPTY);
        vmx.write(guest::INTERRUPT_STATUS, status.0);
        vmx.set_segment(SegReg::Cs, &Segment::real_mode(0, Attributes::CODE16));
        vmx.switch_apicv(Kept::Nothing);
        vmx.switch_apicv(Kept::X2Apic);
        Ok(status)
    }

    /// Runs the guest, and interrupts it by a notification. What ended that, and
    /// the interrupt status then.
    fn enter(&mut self) -> (Reason, InterruptStatus) {
        let vmx = &mut self.vmx;
        let mut registers = Registers {
            rip: u64::from(ENTRY),
            rflags: Rflags::FIXED | Rflags::IF,
            ..Registers::default()
        };
        vmx.write_interruptibility(Interruptibility::STI);
        let pinned = PreemptOff::new();
        vmx.prepare(&pinned);
        let off = IrqOff::new();
        vmx.load(&off, true);
        host_cpu::notify_self(&off);
        vmx.run(&off, &mut registers);
        let left = InterruptStatus(Current.read16(guest::INTERRUPT_STATUS));
        vmx.unload(&off);
        task::guest_end(&off);
        vmx.take_host_interrupt(&off);
        (vmx.entered.reason, left)
    }
}
