// SPDX-License-Identifier: GPL-2.0

//! What other threads may do to a local APIC: post interrupts and events, and
//! read what is needed to match destinations. Atomics only, no locks.
//!
//! # Protocol
//!
//! A sender first marks what it sends, then sets LOOK. The sender that turned
//! LOOK from 0 to 1 has to kick the vCPU; all others know that someone did. The
//! owner first clears LOOK, then takes what is marked ([`Lapic::sync`]). So a
//! mark is either taken, or LOOK is set after it and the owner looks again.
//! A vCPU that goes to sleep must look at [`LapicPost::is_on`] after it made
//! itself known as asleep.
//!
//! # The processor as a second taker
//!
//! While a guest runs, its processor may take requests by posted-interrupt
//! processing (SDM vol. 3C section 31.6): then the guest need not exit for them.
//! It clears ON, takes all requests of the descriptor, and delivers them. It
//! knows nothing of the rest, so marks are in two places, each with a flag of
//! its own:
//!
//! * in the descriptor, with ON, what it may take: edge-triggered interrupts
//!   whose end nobody waits for ([`LapicPost::post_to_processor`]). Who turned ON
//!   from 0 to 1 sends it the notification, which the kernel's handler ignores
//!   if it finds no guest; the owner looks at ON before it enters the guest.
//! * elsewhere, with LOOK, what the owner has to see.
//!
//! Both clear their flag first and take the marks then, and never run at the
//! same time, so nothing is lost between the two.
//!
//! [`Lapic::sync`]: super::Lapic::sync

use super::regs;
use super::vectors::VectorSet;
use crate::pc::irq::{DeliveryMode, Message};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicU8, Ordering};

/// Control word: there are requests that the processor may take (outstanding
/// notification).
const ON: u64 = 1 << 0;
/// Control word, in the part that is left to software: something is posted that
/// the owner has not looked at.
const LOOK: u64 = 1 << 32;

/// The part of a local APIC that every thread may touch.
///
/// The first 64 bytes have the layout of the posted-interrupt descriptor
/// (SDM vol. 3C section 31.6), so that hardware can post here too.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct LapicPost {
    requests: [AtomicU64; 4],
    control: AtomicU64,
    /// Rest of the descriptor.
    _reserved: [u64; 3],
    /// Requests that the processor may not take, if it takes any.
    held: [AtomicU64; 4],
    /// Which of the posted vectors are level triggered.
    level: [AtomicU64; 4],
    events: AtomicU32,
    nmis: AtomicU32,
    extint: AtomicU8,
    sipi_vector: AtomicU8,
    identity: AtomicU64,
    x2apic_id: u32,
    /// The processor takes requests.
    by_processor: bool,
}

/// What became of an interrupt that was handed to one local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Posted {
    /// The APIC does not take it: disabled, or not deliverable.
    Rejected,
    /// The same interrupt was pending already.
    Coalesced,
    /// It will be seen. When `kick` the caller must kick the vCPU.
    Accepted {
        /// The vCPU has to be woken or made to exit.
        kick: bool,
    },
    /// It will be seen if the vCPU is woken, or the processor that runs it
    /// notified. A kick does as well.
    Notify,
}

impl Posted {
    /// Whether the vCPU has to be kicked, or at least notified.
    #[inline]
    pub const fn needs_kick(self) -> bool {
        matches!(self, Self::Accepted { kick: true } | Self::Notify)
    }
}

/// What happened to a vCPU besides fixed interrupts, taken by
/// [`Lapic::sync`](super::Lapic::sync).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Events {
    bits: u32,
    /// Number of NMIs since the last look, at most 2: one to be handled and
    /// one latched behind it.
    pub nmis: u8,
    sipi_vector: u8,
}

impl Events {
    const INIT: u32 = 1 << 0;
    const SIPI: u32 = 1 << 1;
    const SMI: u32 = 1 << 2;
    const TIMER: u32 = 1 << 3;
    const RECEIVE_ILLEGAL: u32 = 1 << 4;

    /// Nothing happened.
    pub const NONE: Self = Self {
        bits: 0,
        nmis: 0,
        sipi_vector: 0,
    };

    /// Whether nothing happened.
    #[inline]
    pub const fn is_none(&self) -> bool {
        self.bits == 0 && self.nmis == 0
    }

    /// An INIT arrived. It comes before [`Self::sipi`].
    #[inline]
    pub const fn init(&self) -> bool {
        self.bits & Self::INIT != 0
    }

    /// A startup IPI arrived, after the INIT if there is one. Its vector is
    /// the number of the 4 KiB page at which to start.
    #[inline]
    pub const fn sipi(&self) -> Option<u8> {
        if self.bits & Self::SIPI != 0 {
            Some(self.sipi_vector)
        } else {
            None
        }
    }

    /// A system management interrupt arrived.
    #[inline]
    pub const fn smi(&self) -> bool {
        self.bits & Self::SMI != 0
    }

    /// The timer the caller was told to arm has expired: call
    /// [`Lapic::timer_fired`](super::Lapic::timer_fired).
    #[inline]
    pub const fn timer(&self) -> bool {
        self.bits & Self::TIMER != 0
    }

    /// A message with an illegal vector arrived.
    #[inline]
    pub(super) const fn receive_illegal(&self) -> bool {
        self.bits & Self::RECEIVE_ILLEGAL != 0
    }
}

impl LapicPost {
    /// For the vCPU whose x2APIC id is `x2apic_id`. Matches no destination
    /// until the owner publishes its first state.
    pub const fn new(x2apic_id: u32) -> Self {
        Self::with(x2apic_id, false)
    }

    /// The same; if `by_processor`, the processor takes requests of a running
    /// guest.
    pub const fn with(x2apic_id: u32, by_processor: bool) -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; 4],
            control: AtomicU64::new(0),
            _reserved: [0; 3],
            held: [const { AtomicU64::new(0) }; 4],
            level: [const { AtomicU64::new(0) }; 4],
            events: AtomicU32::new(0),
            nmis: AtomicU32::new(0),
            extint: AtomicU8::new(0),
            sipi_vector: AtomicU8::new(0),
            identity: AtomicU64::new(0),
            x2apic_id,
            by_processor,
        }
    }

    /// Whether something is posted that the owner has not taken yet.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.control.load(Ordering::SeqCst) != 0
    }

    /// Sets LOOK; says whether the caller is the one who has to kick.
    #[inline]
    fn raise(&self) -> bool {
        self.control.fetch_or(LOOK, Ordering::SeqCst) & LOOK == 0
    }

    /// Posts a fixed interrupt, whatever state the APIC is in.
    ///
    /// A `vector` below 16 is rejected and noted as an error (SDM vol. 3A
    /// section 12.5.3).
    #[inline]
    pub fn post(&self, vector: u8, level: bool) -> Posted {
        if vector < regs::FIRST_LEGAL_VECTOR {
            let _ = self.post_event(Events::RECEIVE_ILLEGAL);
            return Posted::Rejected;
        }
        let word = usize::from(vector >> 6);
        let bit = 1u64 << (vector & 63);
        // The trigger mode goes first: whoever sees the request sees it too.
        if level {
            self.level[word].fetch_or(bit, Ordering::Release);
        } else if self.level[word].load(Ordering::Relaxed) & bit != 0 {
            self.level[word].fetch_and(!bit, Ordering::Release);
        }
        let requests = if self.by_processor {
            &self.held
        } else {
            &self.requests
        };
        if requests[word].fetch_or(bit, Ordering::SeqCst) & bit != 0 {
            return Posted::Coalesced;
        }
        Posted::Accepted { kick: self.raise() }
    }

    /// Posts a fixed, edge-triggered interrupt whose end nobody waits for: the
    /// processor may take it, if it takes any. As [`Self::post`] otherwise.
    #[inline]
    pub fn post_to_processor(&self, vector: u8) -> Posted {
        let word = usize::from(vector >> 6);
        let bit = 1u64 << (vector & 63);
        // The processor does not change trigger modes.
        let was_level = self.level[word].load(Ordering::Relaxed) & bit != 0;
        if !self.by_processor || vector < regs::FIRST_LEGAL_VECTOR || was_level {
            return self.post(vector, false);
        }
        if self.requests[word].fetch_or(bit, Ordering::SeqCst) & bit != 0 {
            return Posted::Coalesced;
        }
        if self.control.fetch_or(ON, Ordering::SeqCst) & ON == 0 {
            Posted::Notify
        } else {
            Posted::Accepted { kick: false }
        }
    }

    fn post_event(&self, event: u32) -> Posted {
        let before = self.events.fetch_or(event, Ordering::SeqCst);
        let kick = self.raise();
        if before & event != 0 && !kick {
            return Posted::Coalesced;
        }
        Posted::Accepted { kick }
    }

    /// The words of the descriptor, as the processor sees them.
    #[cfg(test)]
    pub(super) const fn descriptor(&self) -> [&AtomicU64; 5] {
        let [r0, r1, r2, r3] = &self.requests;
        [r0, r1, r2, r3, &self.control]
    }

    /// Posts a non-maskable interrupt.
    pub fn post_nmi(&self) -> Posted {
        let before = self.nmis.fetch_add(1, Ordering::SeqCst);
        let kick = self.raise();
        if before >= 2 && !kick {
            return Posted::Coalesced;
        }
        Posted::Accepted { kick }
    }

    /// Posts an INIT. A startup IPI that was still pending is forgotten.
    pub fn post_init(&self) -> Posted {
        self.events.fetch_and(!Events::SIPI, Ordering::SeqCst);
        self.post_event(Events::INIT)
    }

    /// Posts a startup IPI for the page numbered `vector`.
    pub fn post_sipi(&self, vector: u8) -> Posted {
        self.sipi_vector.store(vector, Ordering::SeqCst);
        self.post_event(Events::SIPI)
    }

    /// Posts a system management interrupt.
    pub fn post_smi(&self) -> Posted {
        self.post_event(Events::SMI)
    }

    /// Says that the host timer for this APIC expired. May be called from the
    /// timer's own interrupt.
    pub fn post_timer(&self) -> Posted {
        self.post_event(Events::TIMER)
    }

    /// Sets the level of the PIC's output at this APIC's LINT0. Returns
    /// whether the vCPU has to be kicked, which it has not while its LINT0
    /// passes nothing on: should that change, its owner looks at the level.
    pub fn set_extint(&self, level: bool) -> bool {
        let before = self.extint.swap(u8::from(level), Ordering::SeqCst);
        // Either this sees what the owner has published, or the owner, who
        // publishes before it looks, sees the level.
        let identity = Snapshot {
            x2apic_id: self.x2apic_id,
            bits: self.identity.load(Ordering::SeqCst),
        };
        level && before == 0 && identity.accepts_extint() && self.raise()
    }

    /// Level of the PIC's output.
    #[inline]
    pub fn extint(&self) -> bool {
        self.extint.load(Ordering::SeqCst) != 0
    }

    /// Hands over a message that was found to match this APIC.
    ///
    /// De-asserted levels and delivery modes that mean nothing to a
    /// local APIC are rejected.
    pub fn accept(&self, message: &Message) -> Posted {
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if message.is_deassert() || !self.snapshot().software_enabled() {
                    return Posted::Rejected;
                }
                if message.level_triggered || message.watched {
                    self.post(message.vector, message.level_triggered)
                } else {
                    self.post_to_processor(message.vector)
                }
            }
            DeliveryMode::Nmi => self.post_nmi(),
            DeliveryMode::Smi => self.post_smi(),
            DeliveryMode::Init if message.is_deassert() => Posted::Rejected,
            DeliveryMode::Init => self.post_init(),
            DeliveryMode::Startup => self.post_sipi(message.vector),
            // A PIC is reached through LINT0 here; messages cannot start the
            // acknowledge cycle.
            DeliveryMode::ExtInt | DeliveryMode::Reserved => Posted::Rejected,
        }
    }

    /// The published state, for destination matching.
    #[inline]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            x2apic_id: self.x2apic_id,
            bits: self.identity.load(Ordering::Acquire),
        }
    }

    /// Publishes the owner's state if it differs from what is published.
    #[inline]
    pub(super) fn publish(&self, snapshot: Snapshot) {
        if self.identity.load(Ordering::Relaxed) != snapshot.bits {
            self.identity.store(snapshot.bits, Ordering::SeqCst);
        }
    }

    /// For the owner: takes everything posted into `requests` and `triggers`.
    #[inline]
    pub(super) fn take(&self, requests: &mut VectorSet, triggers: &mut VectorSet) -> Events {
        if self.control.load(Ordering::Acquire) == 0 {
            return Events::NONE;
        }
        self.take_slow(requests, triggers)
    }

    fn take_slow(&self, requests: &mut VectorSet, triggers: &mut VectorSet) -> Events {
        self.control.swap(0, Ordering::SeqCst);
        self.take_requests(&self.requests, requests, triggers);
        if self.by_processor {
            self.take_requests(&self.held, requests, triggers);
        }
        let nmis = match self.nmis.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.nmis.swap(0, Ordering::SeqCst).min(2) as u8,
        };
        let bits = match self.events.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.events.swap(0, Ordering::SeqCst),
        };
        Events {
            bits,
            nmis,
            sipi_vector: self.sipi_vector.load(Ordering::SeqCst),
        }
    }

    #[inline]
    fn take_requests(
        &self,
        from: &[AtomicU64; 4],
        requests: &mut VectorSet,
        triggers: &mut VectorSet,
    ) {
        for (index, (word, level)) in from.iter().zip(&self.level).enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let bits = word.swap(0, Ordering::SeqCst);
            requests.merge_word(triggers, index, bits, level.load(Ordering::Acquire));
        }
    }

    /// For the owner: forgets posted fixed interrupts, keeps events.
    pub(super) fn discard_requests(&self) {
        for word in self.requests.iter().chain(&self.held) {
            word.store(0, Ordering::SeqCst);
        }
    }
}

/// A local APIC's identity at one moment, as another thread sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    x2apic_id: u32,
    bits: u64,
}

/// What [`Snapshot`] is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// xAPIC id (bits 31..24 of the ID register).
    pub xapic_id: u8,
    /// Logical id of an xAPIC (bits 31..24 of LDR).
    pub logical_id: u8,
    /// DFR's model, bits 31..28.
    pub model: u8,
    /// Task priority, for lowest-priority arbitration.
    pub priority: u8,
    /// x2APIC mode.
    pub x2apic: bool,
    /// IA32_APIC_BASE.EN.
    pub enabled: bool,
    /// SVR bit 8.
    pub software_enabled: bool,
    /// LINT0 passes the PIC's interrupts on.
    pub lint0_extint: bool,
    /// LINT0 delivers NMIs (the PIT as a watchdog).
    pub lint0_nmi: bool,
}

impl Snapshot {
    const LOGICAL_SHIFT: u32 = 8;
    const PRIORITY_SHIFT: u32 = 16;
    const MODEL_SHIFT: u32 = 24;
    const X2APIC: u64 = 1 << 28;
    const ENABLED: u64 = 1 << 29;
    const SOFTWARE_ENABLED: u64 = 1 << 30;
    const LINT0_EXTINT: u64 = 1 << 31;
    const LINT0_NMI: u64 = 1 << 32;

    /// The snapshot of an APIC in the state `identity`.
    #[inline]
    pub const fn new(x2apic_id: u32, identity: Identity) -> Self {
        const fn flag(on: bool, bit: u64) -> u64 {
            if on {
                bit
            } else {
                0
            }
        }
        let bits = identity.xapic_id as u64
            | (identity.logical_id as u64) << Self::LOGICAL_SHIFT
            | (identity.priority as u64) << Self::PRIORITY_SHIFT
            | ((identity.model & 0xf) as u64) << Self::MODEL_SHIFT
            | flag(identity.x2apic, Self::X2APIC)
            | flag(identity.enabled, Self::ENABLED)
            | flag(identity.software_enabled, Self::SOFTWARE_ENABLED)
            | flag(identity.lint0_extint, Self::LINT0_EXTINT)
            | flag(identity.lint0_nmi, Self::LINT0_NMI);
        Self { x2apic_id, bits }
    }

    /// The 32-bit id of x2APIC mode.
    #[inline]
    pub const fn x2apic_id(&self) -> u32 {
        self.x2apic_id
    }

    /// The 8-bit id of xAPIC mode.
    #[inline]
    pub const fn xapic_id(&self) -> u8 {
        self.bits as u8
    }

    /// The 8-bit logical id of xAPIC mode.
    #[inline]
    pub const fn logical_id(&self) -> u8 {
        (self.bits >> Self::LOGICAL_SHIFT) as u8
    }

    /// The logical destination model of xAPIC mode (see [`regs::dfr`]).
    #[inline]
    pub const fn model(&self) -> u8 {
        (self.bits >> Self::MODEL_SHIFT) as u8 & 0xf
    }

    /// Task priority when last published.
    #[inline]
    pub const fn priority(&self) -> u8 {
        (self.bits >> Self::PRIORITY_SHIFT) as u8
    }

    /// Whether it is in x2APIC mode.
    #[inline]
    pub const fn is_x2apic(&self) -> bool {
        self.bits & Self::X2APIC != 0
    }

    /// Whether it is globally enabled. One that is not matches nothing.
    #[inline]
    pub const fn enabled(&self) -> bool {
        self.bits & Self::ENABLED != 0
    }

    /// Whether it takes fixed interrupts: globally and software enabled.
    #[inline]
    pub const fn software_enabled(&self) -> bool {
        let both = Self::ENABLED | Self::SOFTWARE_ENABLED;
        self.bits & both == both
    }

    /// Whether an interrupt of the PIC reaches this vCPU: through LINT0 in
    /// ExtINT mode, or directly because the APIC is disabled.
    #[inline]
    pub const fn accepts_extint(&self) -> bool {
        self.bits & Self::LINT0_EXTINT != 0 || !self.enabled()
    }

    /// Whether LINT0 is set to deliver NMIs.
    #[inline]
    pub const fn lint0_nmi(&self) -> bool {
        self.enabled() && self.bits & Self::LINT0_NMI != 0
    }
}
