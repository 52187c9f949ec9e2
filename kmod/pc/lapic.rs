// SPDX-License-Identifier: GPL-2.0

//! The local APIC (APM vol. 2 chapter 16, SDM vol. 3A chapter 12).
//!
//! A [`Lapic`] belongs to the thread that runs the vCPU. Other threads reach
//! it through its [`LapicPost`] alone, by posting and a kick; the owner takes
//! what was posted with [`Lapic::sync`] before it enters the guest. Neither
//! knows time or timers: methods that need the time take a [`Clock`], and
//! what is to be done with the host timer comes back as a [`TimerCommand`].
//!
//! The order of an entry: `sync`, act on the events, then `pending_vector`;
//! what the processor accepts is confirmed with `ack`.

mod access;
mod apic_base;
mod hardware;
mod post;
mod pv_eoi;
pub mod regs;
mod state;
mod timer;
mod vectors;

#[cfg(test)]
mod tests;

pub use access::Context;
pub use apic_base::{Initiator, Mode};
pub use hardware::PAGE_REGISTERS;
pub use post::{Events, Identity, LapicPost, Posted, Snapshot};
pub use state::{IdFormat, InvalidState};
pub use timer::{TimerCommand, TimerMode};
pub use vectors::VectorSet;

use crate::pc::irq::{DeliveryMode, IpiRequest};
use regs::{base, esr, lvt, svr, version};
use timer::Timer;

/// Time as a local APIC sees it.
pub trait Clock {
    /// Monotonic nanoseconds, the time base of the initial-count timer.
    fn now_ns(&self) -> u64;
    /// The guest's time stamp counter, the base of TSC deadlines.
    fn guest_tsc(&self) -> u64;
}

/// The access raises #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GpFault;

/// Suppression of EOI broadcasts (KVM_CAP_X2APIC_API).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SuppressEoi {
    /// Not advertised.
    Absent,
    /// Advertised, but broadcasts are sent nevertheless: what KVM does with a
    /// split irqchip when userspace says nothing.
    Ignored,
    /// Advertised and done.
    Honoured,
}

/// What kind of APIC it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The x2APIC id, which is KVM's vCPU id.
    pub id: u32,
    /// Width of physical addresses, for reserved bits of IA32_APIC_BASE.
    pub max_phys_bits: u8,
    /// CPUID offers x2APIC mode.
    pub x2apic: bool,
    /// CPUID offers the TSC-deadline timer.
    pub tsc_deadline: bool,
    /// There is an LVT entry for corrected machine checks.
    pub cmci: bool,
    /// Directed EOI.
    pub suppress_eoi: SuppressEoi,
    /// Nanoseconds per cycle of the bus clock (KVM_CAP_X86_APIC_BUS_CYCLES_NS).
    pub bus_cycle_ns: u32,
    /// Shortest period of the periodic timer in ns; shorter ones are
    /// stretched so that a guest cannot keep the host busy with timers.
    pub min_period_ns: u64,
    /// A performance counter interrupt masks its LVT entry (Intel).
    pub mask_lvtpc: bool,
    /// LINT0 of the bootstrap processor passes the PIC on after reset
    /// (KVM_X86_QUIRK_LINT0_REENABLED).
    pub lint0_extint: bool,
}

impl Config {
    /// What KVM gives a vCPU when nothing else is asked for.
    pub const fn new(id: u32) -> Self {
        Self {
            id,
            max_phys_bits: 52,
            x2apic: true,
            tsc_deadline: true,
            cmci: false,
            suppress_eoi: SuppressEoi::Absent,
            bus_cycle_ns: 1,
            min_period_ns: 200_000,
            mask_lvtpc: false,
            lint0_extint: true,
        }
    }
}

/// What the caller has to do after a register was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// An interrupt was completed.
    Eoi(EoiAction),
    /// Send this.
    Ipi(IpiRequest),
    /// Program the host timer.
    Timer(TimerCommand),
    /// LINT0 may pass the PIC on where it did not before, or no longer: look
    /// at [`Lapic::accepts_extint`] again.
    Lint0,
}

/// An interrupt was completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EoiAction {
    /// Its vector.
    pub vector: u8,
    /// It was level triggered and broadcasts are not suppressed: I/O APICs
    /// have to see the EOI. (Others may be interested in edge-triggered ones
    /// too: see `IoApic::eoi_vectors`.)
    pub broadcast_to_ioapic: bool,
}

/// An interrupt source inside the processor: an entry of the local vector
/// table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LocalSource {
    /// Corrected machine check.
    Cmci = regs::LVT_CMCI,
    /// Timer.
    Timer = regs::LVT_TIMER,
    /// Thermal sensor.
    Thermal = regs::LVT_THERMAL,
    /// Performance counters.
    Perf = regs::LVT_PERF,
    /// Pin LINT0.
    Lint0 = regs::LVT_LINT0,
    /// Pin LINT1.
    Lint1 = regs::LVT_LINT1,
    /// The APIC's own errors.
    Error = regs::LVT_ERROR,
}

/// What an interrupt of a [`LocalSource`] turned into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum LocalDelivery {
    /// Masked or meaningless.
    None,
    /// A vector in IRR; nothing to do for the caller.
    Requested,
    /// The caller has to inject an NMI.
    Nmi,
    /// The caller has to inject an SMI.
    Smi,
    /// The caller has to INIT the vCPU.
    Init,
    /// The PIC supplies the vector.
    ExtInt,
}

/// A local APIC, owned by the thread that runs the vCPU.
///
/// # Invariants
///
/// `ppr` is what TPR and ISR make it.
#[derive(Clone, Debug)]
pub struct Lapic {
    config: Config,
    apic_base: u64,
    /// Registers that merely hold a value, by index.
    plain: [u32; regs::REGISTERS],
    irr: VectorSet,
    isr: VectorSet,
    tmr: VectorSet,
    ppr: u8,
    /// Errors since ESR was last written.
    errors: u32,
    timer: Timer,
    pv_eoi_offered: bool,
    /// What [`hardware`] needs to know has changed since it looked last.
    changed: bool,
    /// A processor may answer accesses to the register page, see [`hardware`].
    in_page: bool,
    /// Then: registers that merely hold a value have changed, too.
    registers_changed: bool,
}

impl Lapic {
    /// The APIC at power-on. The caller publishes it with [`Self::publish`]
    /// before others may send to it.
    pub fn new(config: Config, bsp: bool) -> Self {
        let mut lapic = Self {
            config,
            apic_base: 0,
            plain: [0; regs::REGISTERS],
            irr: VectorSet::EMPTY,
            isr: VectorSet::EMPTY,
            tmr: VectorSet::EMPTY,
            ppr: 0,
            errors: 0,
            timer: Timer::default(),
            pv_eoi_offered: false,
            changed: true,
            in_page: false,
            registers_changed: true,
        };
        lapic.power_on(bsp);
        lapic
    }

    /// Power-on reset (APM vol. 2 section 16.3.2): xAPIC mode, enabled at the
    /// default address, software disabled.
    fn power_on(&mut self, bsp: bool) {
        let bsp = if bsp { base::BSP } else { 0 };
        self.apic_base = base::DEFAULT_ADDRESS | base::ENABLE | bsp;
        self.in_page = false;
        self.set_plain(regs::ID, (self.config.id & 0xff) << 24);
        self.reset_registers();
    }

    /// Power-on reset of an APIC that others know. The host timer is to be
    /// cancelled.
    pub fn reset(&mut self, bsp: bool, post: &LapicPost) -> TimerCommand {
        self.power_on(bsp);
        post.discard_requests();
        self.publish(post);
        TimerCommand::Cancel
    }

    /// INIT (SDM vol. 3A section 12.4.7.3): as after power-on, but id, mode
    /// and base address stay. The host timer is to be cancelled.
    pub fn init(&mut self, post: &LapicPost) -> TimerCommand {
        self.reset_registers();
        post.discard_requests();
        self.publish(post);
        TimerCommand::Cancel
    }

    fn reset_registers(&mut self) {
        let id = self.plain(regs::ID);
        self.plain = [0; regs::REGISTERS];
        self.set_plain(regs::ID, id);
        self.set_plain(regs::DFR, u32::MAX);
        self.set_plain(regs::SVR, svr::VECTOR);
        for entry in [
            regs::LVT_CMCI,
            regs::LVT_TIMER,
            regs::LVT_THERMAL,
            regs::LVT_PERF,
            regs::LVT_LINT0,
            regs::LVT_LINT1,
            regs::LVT_ERROR,
        ] {
            self.set_plain(entry, lvt::MASKED);
        }
        if self.config.lint0_extint && self.is_bsp() {
            let mode = DeliveryMode::ExtInt as u32;
            self.set_plain(regs::LVT_LINT0, mode << lvt::DELIVERY_MODE_SHIFT);
        }
        self.irr = VectorSet::EMPTY;
        self.isr = VectorSet::EMPTY;
        self.tmr = VectorSet::EMPTY;
        self.errors = 0;
        self.timer = Timer::default();
        self.pv_eoi_offered = false;
        self.update_ppr();
    }

    /// What kind of APIC it is.
    #[inline]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Changes what kind of APIC it is, after CPUID was set. State that the
    /// new kind would not allow stays as it is; the id must not change.
    pub fn set_config(&mut self, config: Config) {
        let id = self.config.id;
        self.config = config;
        self.config.id = id;
        self.note_registers();
    }

    #[inline]
    fn plain(&self, register: u8) -> u32 {
        // The mask keeps the index in bounds.
        self.plain[usize::from(register) & (regs::REGISTERS - 1)]
    }

    #[inline]
    fn set_plain(&mut self, register: u8, value: u32) {
        self.hold(register, value);
        self.note_registers();
    }

    /// [`Self::set_plain`] where whoever keeps the page knows of it.
    #[inline]
    fn hold(&mut self, register: u8, value: u32) {
        self.plain[usize::from(register) & (regs::REGISTERS - 1)] = value;
    }

    /// Registers that merely hold a value have changed: the page is to follow.
    #[inline]
    fn note_registers(&mut self) {
        self.registers_changed |= self.in_page;
        self.changed |= self.in_page;
    }

    /// Whether SVR enables the APIC.
    #[inline]
    pub fn software_enabled(&self) -> bool {
        self.plain(regs::SVR) & svr::ENABLE != 0
    }

    fn version(&self) -> u32 {
        let last_lvt = if self.config.cmci { 6 } else { 5 };
        let directed = match self.config.suppress_eoi {
            SuppressEoi::Absent => 0,
            SuppressEoi::Ignored | SuppressEoi::Honoured => version::DIRECTED_EOI,
        };
        version::INTEGRATED | last_lvt << version::MAX_LVT_SHIFT | directed
    }

    /// The state to publish.
    fn identity(&self) -> Identity {
        let lint0 = self.plain(regs::LVT_LINT0);
        let unmasked = lint0 & lvt::MASKED == 0;
        let mode = DeliveryMode::from_bits(lint0 >> lvt::DELIVERY_MODE_SHIFT);
        Identity {
            xapic_id: (self.plain(regs::ID) >> 24) as u8,
            logical_id: (self.plain(regs::LDR) >> 24) as u8,
            model: (self.plain(regs::DFR) >> 28) as u8,
            priority: self.tpr(),
            x2apic: self.mode() == Mode::X2Apic,
            enabled: self.mode() != Mode::Disabled,
            software_enabled: self.software_enabled(),
            lint0_extint: unmasked && mode == DeliveryMode::ExtInt,
            lint0_nmi: unmasked && mode == DeliveryMode::Nmi,
        }
    }

    /// Publishes what others need to know for matching destinations. All
    /// methods that take the [`LapicPost`] do so by themselves.
    pub fn publish(&self, post: &LapicPost) {
        post.publish(Snapshot::new(self.config.id, self.identity()));
    }

    /// Takes what others posted. One load when nothing is.
    #[inline]
    pub fn sync(&mut self, post: &LapicPost) -> Events {
        let events = post.take(&mut self.irr, &mut self.tmr);
        if events.receive_illegal() {
            self.raise_error(esr::RECEIVE_ILLEGAL_VECTOR);
        }
        events
    }

    /// Requests a fixed interrupt from the owner's own thread.
    #[inline]
    fn request(&mut self, vector: u8, level: bool) {
        self.irr.insert(vector);
        if level {
            self.tmr.insert(vector);
        } else {
            self.tmr.remove(vector);
        }
    }

    /// A fixed, edge-triggered interrupt for the own APIC.
    #[inline]
    fn request_self(&mut self, vector: u8) {
        if vector < regs::FIRST_LEGAL_VECTOR {
            self.raise_error(esr::SEND_ILLEGAL_VECTOR);
        } else if self.software_enabled() {
            self.request(vector, false);
        }
    }

    /// The interrupt the processor is to be given now: the highest request,
    /// if its priority class is above the processor's. The caller still has
    /// to look at RFLAGS.IF, GIF and the interrupt shadow.
    #[inline]
    pub fn pending_vector(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (vector >> 4 > self.ppr >> 4 && self.mode() != Mode::Disabled).then_some(vector)
    }

    /// The highest request, whatever the processor's priority, for hardware
    /// that compares priorities itself.
    #[inline]
    pub fn highest_request(&self) -> Option<u8> {
        self.irr.highest()
    }

    /// The processor accepted `vector`: it is in service now.
    #[inline]
    pub fn ack(&mut self, vector: u8) {
        if self.irr.remove(vector) {
            self.isr.insert(vector);
            self.update_ppr();
        }
    }

    /// End of interrupt. `None` if none is in service.
    #[inline]
    pub fn eoi(&mut self) -> Option<EoiAction> {
        let vector = self.isr.highest()?;
        self.isr.remove(vector);
        self.update_ppr();
        Some(self.completed(vector))
    }

    /// What the end of `vector`, which is not in service any more, asks for.
    #[inline]
    pub fn completed(&self, vector: u8) -> EoiAction {
        let suppressed = self.config.suppress_eoi == SuppressEoi::Honoured
            && self.plain(regs::SVR) & svr::SUPPRESS_EOI_BROADCAST != 0;
        EoiAction {
            vector,
            broadcast_to_ioapic: self.tmr.contains(vector) && !suppressed,
        }
    }

    /// The interrupt in service of highest priority.
    #[inline]
    pub fn highest_in_service(&self) -> Option<u8> {
        self.isr.highest()
    }

    /// Interrupts requested.
    #[inline]
    pub const fn irr(&self) -> &VectorSet {
        &self.irr
    }

    /// Interrupts in service.
    #[inline]
    pub const fn isr(&self) -> &VectorSet {
        &self.isr
    }

    /// Task priority.
    #[inline]
    pub fn tpr(&self) -> u8 {
        self.plain(regs::TPR) as u8
    }

    /// Processor priority (SDM vol. 3A section 12.8.3.1).
    #[inline]
    pub const fn ppr(&self) -> u8 {
        self.ppr
    }

    /// CR8: the task priority class.
    #[inline]
    pub fn cr8(&self) -> u8 {
        self.tpr() >> 4
    }

    /// Writes CR8; bits above 3 are ignored (the caller raises #GP for them).
    #[inline]
    pub fn set_cr8(&mut self, value: u8, post: &LapicPost) {
        self.set_tpr((value & 0xf) << 4, post);
    }

    /// Writes TPR: its low half counts only where classes are equal.
    #[inline]
    pub fn set_tpr(&mut self, value: u8, post: &LapicPost) {
        let class_changes = (self.tpr() ^ value) & 0xf0 != 0;
        self.set_plain(regs::TPR, u32::from(value));
        self.update_ppr();
        if class_changes {
            self.publish(post);
        }
    }

    #[inline]
    fn update_ppr(&mut self) {
        self.changed = true;
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        let tpr = self.tpr();
        self.ppr = if tpr & 0xf0 >= in_service {
            tpr
        } else {
            in_service
        };
    }

    /// Whether an interrupt of the PIC reaches the processor, through LINT0
    /// in ExtINT mode or because there is no local APIC in the way.
    #[inline]
    pub fn accepts_extint(&self) -> bool {
        let lint0 = self.plain(regs::LVT_LINT0);
        let mode = DeliveryMode::from_bits(lint0 >> lvt::DELIVERY_MODE_SHIFT);
        self.mode() == Mode::Disabled || (lint0 & lvt::MASKED == 0 && mode == DeliveryMode::ExtInt)
    }

    /// An interrupt of a source inside the processor (SDM vol. 3A section
    /// 12.5.1).
    pub fn deliver_local(&mut self, source: LocalSource) -> LocalDelivery {
        let register = source as u8;
        let entry = self.plain(register);
        if entry & lvt::MASKED != 0 || self.mode() == Mode::Disabled {
            return LocalDelivery::None;
        }
        if source == LocalSource::Perf && self.config.mask_lvtpc {
            self.set_plain(register, entry | lvt::MASKED);
        }
        let mode = match source {
            // These two have no delivery mode: it reads as zero.
            LocalSource::Timer | LocalSource::Error => DeliveryMode::Fixed,
            _ => DeliveryMode::from_bits(entry >> lvt::DELIVERY_MODE_SHIFT),
        };
        match mode {
            DeliveryMode::Fixed => self.request_local((entry & lvt::VECTOR) as u8, source),
            DeliveryMode::Nmi => LocalDelivery::Nmi,
            DeliveryMode::Smi => LocalDelivery::Smi,
            DeliveryMode::Init => LocalDelivery::Init,
            DeliveryMode::ExtInt => LocalDelivery::ExtInt,
            DeliveryMode::LowestPriority | DeliveryMode::Reserved | DeliveryMode::Startup => {
                LocalDelivery::None
            }
        }
    }

    fn request_local(&mut self, vector: u8, source: LocalSource) -> LocalDelivery {
        if !self.software_enabled() {
            // Unmasked all the same: userspace or a reset may leave it so.
            return LocalDelivery::None;
        }
        if vector >= regs::FIRST_LEGAL_VECTOR {
            self.request(vector, false);
            return LocalDelivery::Requested;
        }
        // The error interrupt's own vector must not call for another one.
        if source == LocalSource::Error {
            self.errors |= esr::RECEIVE_ILLEGAL_VECTOR;
        } else {
            self.raise_error(esr::RECEIVE_ILLEGAL_VECTOR);
        }
        LocalDelivery::None
    }

    /// Notes an error and interrupts through LVT error (SDM vol. 3A section
    /// 12.5.3).
    fn raise_error(&mut self, error: u32) {
        self.errors |= error;
        let _ = self.deliver_local(LocalSource::Error);
    }
}
