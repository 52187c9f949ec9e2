// SPDX-License-Identifier: GPL-2.0

//! Interrupts of a VM: from a GSI, or a message, to the local APICs.
//!
//! [`Interrupts`] is what everybody shares who raises or completes interrupts:
//! ioctls, vCPUs, and the callbacks of eventfds and timers. It knows nothing
//! of the VM, so that callbacks may hold it.
//!
//! Context: any but NMI, unless a method says that it may sleep.
//!
//! Lock order: the mutex for changes, then SRCU, then the controllers'
//! spinlock or the PIT's, which are never held together. An eventfd's own lock
//! is held around its callback, that is around SRCU; so eventfds are signalled,
//! hooked and let go with no spinlock held.

mod irqfd;
mod line;
mod msi;
mod resample;
mod routing;

pub use self::irqfd::IrqFds;
pub use crate::pc::irq::routes::MAX_ROUTES;

use self::resample::Resamplers;
use self::routing::Table;
use super::chip::Controllers;
use super::chip::Vectors;
use super::pit::VmPit;
use super::settings::Settings;
use super::table::VcpuTable;
use crate::host::sync::Srcu;
use crate::host::sync::SrcuCell;
use crate::host::sync::SrcuGuard;
use crate::pc::ioapic::IoApicSink;
use crate::pc::irq::msi::DestFormat;
use crate::pc::irq::routes::Target;
use crate::pc::irq::LineStatus;
use crate::pc::irq::Message;
use core::ops::BitAnd;
use core::pin::Pin;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::sync::SetOnce;

/// Who drives a line: a line is up while any of them holds it up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Source {
    /// KVM_IRQ_LINE and irqfds.
    User = 0,
    /// Irqfds with a resamplefd.
    Resample = 1,
    /// The PIT.
    Pit = 2,
}

/// Hands messages to local APICs.
#[derive(Clone)]
pub struct Delivery {
    /// The VM's vCPUs.
    pub vcpus: Arc<VcpuTable>,
    /// How destinations are to be read.
    pub settings: Arc<Settings>,
}

impl Delivery {
    fn send(&self, message: &Message) -> LineStatus {
        self.vcpus.deliver(message, &self.settings)
    }

    /// Width of destinations in messages.
    pub fn format(&self) -> DestFormat {
        if self.settings.x2apic_32bit_ids() {
            DestFormat::Bits32
        } else {
            DestFormat::Bits8
        }
    }
}

impl IoApicSink for &Delivery {
    fn deliver(&mut self, message: &Message) -> LineStatus {
        self.send(message)
    }
}

/// Inputs of the controllers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Pins {
    /// Pins of the I/O APIC.
    pub ioapic: u32,
    /// IRQs of the PICs.
    pub pic: u16,
}

impl Pins {
    /// Pins of the I/O APIC.
    pub const fn ioapic(pins: u32) -> Self {
        Self {
            ioapic: pins,
            pic: 0,
        }
    }

    /// IRQs of the PICs.
    pub const fn pic(irqs: u16) -> Self {
        Self {
            ioapic: 0,
            pic: irqs,
        }
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.ioapic | self.pic as u32 == 0
    }

    const fn has_ioapic(self, pin: usize) -> bool {
        self.ioapic.wrapping_shr(pin as u32) & 1 != 0
    }

    const fn has_pic(self, irq: usize) -> bool {
        self.pic.wrapping_shr(irq as u32) & 1 != 0
    }

    fn insert(&mut self, target: &Target) {
        match *target {
            Target::IoApic { pin } => self.ioapic |= 1u32.wrapping_shl(pin.into()),
            Target::Pic { irq } => self.pic |= 1u16.wrapping_shl(irq.into()),
            Target::Msi { .. } => {}
        }
    }

    fn extend(&mut self, other: Self) {
        self.ioapic |= other.ioapic;
        self.pic |= other.pic;
    }
}

impl BitAnd for Pins {
    type Output = Self;

    #[inline]
    fn bitand(self, other: Self) -> Self {
        Self {
            ioapic: self.ioapic & other.ioapic,
            pic: self.pic & other.pic,
        }
    }
}

/// Inputs of the controllers, for everybody to look at.
#[derive(Default)]
struct SharedPins {
    ioapic: AtomicU32,
    pic: AtomicU32,
}

impl SharedPins {
    #[inline]
    fn load(&self) -> Pins {
        Pins {
            ioapic: self.ioapic.load(Ordering::Relaxed),
            pic: self.pic.load(Ordering::Relaxed) as u16,
        }
    }

    fn store(&self, pins: Pins) {
        self.ioapic.store(pins.ioapic, Ordering::Relaxed);
        self.pic.store(pins.pic.into(), Ordering::Relaxed);
    }
}

/// What raises and completes interrupts of one VM.
pub struct Interrupts {
    /// The way to the local APICs.
    pub delivery: Delivery,
    /// PICs and I/O APIC, if they are in the module.
    pub controllers: Option<Controllers>,
    /// The PIT, if there is one.
    pub pit: SetOnce<VmPit>,
    /// Pins of userspace's I/O APIC: the first GSIs.
    reserved_pins: u32,
    /// Vectors of userspace's I/O APIC whose EOI it wants to see.
    user_eoi_vectors: Vectors,
    /// Held while routes or resamplers change, or who wants acknowledgements.
    changes: Pin<KBox<Mutex<()>>>,
    srcu: Arc<Srcu>,
    routing: SrcuCell<Table>,
    resamplers: SrcuCell<Resamplers>,
    /// Where the PIT's GSI leads.
    timer_pins: SharedPins,
    /// Whose completion is of interest.
    watched_pins: SharedPins,
}

impl Interrupts {
    /// With PICs and I/O APIC, or for those of userspace, whose I/O APIC has
    /// `reserved_pins`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(
        delivery: Delivery,
        controllers: Option<Controllers>,
        reserved_pins: u32,
    ) -> Result<Self> {
        let srcu = Arc::new(Srcu::new()?, GFP_KERNEL_ACCOUNT)?;
        let table = match &controllers {
            Some(_) => Table::default_routes()?,
            None => Table::empty(),
        };
        let table = KBox::new(table, GFP_KERNEL_ACCOUNT)?;
        let resamplers = KBox::new(Resamplers::default(), GFP_KERNEL_ACCOUNT)?;
        let interrupts = Self {
            delivery,
            controllers,
            pit: SetOnce::new(),
            reserved_pins,
            user_eoi_vectors: Vectors::default(),
            changes: KBox::pin_init(new_mutex!((), "kvm irq routing"), GFP_KERNEL_ACCOUNT)?,
            routing: SrcuCell::new(srcu.clone(), table),
            resamplers: SrcuCell::new(srcu.clone(), resamplers),
            srcu,
            timer_pins: SharedPins::default(),
            watched_pins: SharedPins::default(),
        };
        interrupts.update_watched();
        Ok(interrupts)
    }

    /// Whether the completion of `vector` is for userspace's I/O APIC.
    #[inline]
    pub fn is_user_eoi_vector(&self, vector: u8) -> bool {
        self.user_eoi_vectors.contains(vector)
    }

    /// Sets the level of `gsi` as `source` drives it.
    pub fn raise(&self, gsi: u32, level: bool, source: Source) -> LineStatus {
        let reading = self.srcu.read();
        let table = self.routing.load(&reading);
        table
            .routes()
            .raise(gsi, |target| self.set_target(target, level, source))
    }

    /// Raises `gsi` and lowers it again: an edge, or a message.
    pub fn pulse(&self, gsi: u32, source: Source) -> LineStatus {
        let reading = self.srcu.read();
        let table = self.routing.load(&reading);
        let status = table
            .routes()
            .raise(gsi, |target| self.set_target(target, true, source));
        for route in table.routes().lookup(gsi) {
            let _ = self.set_target(&route.target, false, source);
        }
        status
    }

    #[inline]
    fn set_target(&self, target: &Target, level: bool, source: Source) -> LineStatus {
        match (target, &self.controllers) {
            (Target::IoApic { pin }, Some(controllers)) => {
                controllers.set_ioapic(*pin, source, level)
            }
            (Target::Pic { irq }, Some(controllers)) => controllers.set_pic(*irq, source, level),
            (Target::Msi { .. }, _) if level => match target.message(self.delivery.format()) {
                Some(message) => self.delivery.send(&message),
                None => LineStatus::Ignored,
            },
            _ => LineStatus::Ignored,
        }
    }

    /// The guest has completed interrupts of these pins. No spinlock is held.
    #[inline]
    pub fn completed(&self, pins: Pins) {
        let watched = pins & self.watched_pins.load();
        if !watched.is_empty() {
            self.notify(watched);
        }
    }

    #[cold]
    fn notify(&self, pins: Pins) {
        let reading = self.srcu.read();
        let table = self.routing.load(&reading);
        for gsi in table.gsis_of(pins) {
            if gsi == super::pit::GSI {
                self.pit_acked();
            }
            self.resample(gsi, &reading);
        }
    }

    /// The line is lowered, and raised again by who still needs it.
    fn resample(&self, gsi: u32, reading: &SrcuGuard<'_>) {
        let resamplers = self.resamplers.load(reading);
        if !resamplers.has(gsi) {
            return;
        }
        let _ = self.raise(gsi, false, Source::Resample);
        resamplers.signal(gsi);
    }

    /// The guest has unmasked these pins.
    #[inline]
    pub fn unmasked(&self, pins: Pins) {
        if (pins & self.timer_pins.load()).is_empty() {
            return;
        }
        if let Some(pit) = self.pit.as_ref() {
            pit.reset_reinject();
        }
    }

    /// Finds out anew whose completion is of interest. May sleep.
    pub fn watched_changed(&self) {
        let _changes = self.changes.lock();
        self.update_watched();
    }

    /// As [`Interrupts::watched_changed`], under `changes`.
    fn update_watched(&self) {
        let reading = self.srcu.read();
        let table = self.routing.load(&reading);
        let timer = table.pins_of(super::pit::GSI);
        self.timer_pins.store(timer);
        let mut watched = Pins::default();
        for gsi in self.resamplers.load(&reading).gsis() {
            watched.extend(table.pins_of(gsi));
        }
        if self.pit.as_ref().is_some_and(VmPit::reinjects) {
            watched.extend(timer);
        }
        self.watched_pins.store(watched);
        match &self.controllers {
            Some(controllers) => controllers.watch(watched.ioapic),
            None => self.user_eoi_vectors.store(
                table
                    .routes()
                    .eoi_exit_vectors(self.reserved_pins, self.delivery.format()),
            ),
        }
    }
}
