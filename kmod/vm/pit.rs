// SPDX-License-Identifier: GPL-2.0

//! The PIT of a VM: `pc::pit` with a host timer and a GSI.
//!
//! Context: any but NMI; ioctls may sleep.
//!
//! Lock order: the PIT's spinlock is innermost, and not held when its
//! interrupt is raised. The timer is started under it; its callback takes it,
//! so it is waited for without.

use super::chip::Chip;
use super::irq::Interrupts;
use super::irq::Source;
use super::Vm;
use crate::host::sync::new_irq_spinlock;
use crate::host::sync::IrqSpinLock;
use crate::host::time;
use crate::host::timer::Timer;
use crate::host::timer::TimerCallback;
use crate::hw::Vendor;
use crate::pc::irq::LineStatus;
use crate::pc::pit::port;
use crate::pc::pit::Pit;
use crate::uapi::kvm_pit_config;
use crate::uapi::kvm_pit_state;
use crate::uapi::kvm_pit_state2;
use crate::uapi::kvm_reinject_control;
use crate::uapi::KVM_PIT_SPEAKER_DUMMY;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The GSI of counter 0.
pub const GSI: u32 = 0;

/// A PIT.
pub struct VmPit {
    state: IrqSpinLock<Pit>,
    /// It answers the speaker's port.
    speaker: bool,
}

impl VmPit {
    /// Whether ticks that a guest had no time for are made up for.
    pub fn reinjects(&self) -> bool {
        self.state.lock().reinject()
    }

    /// The guest did not want the ticks that it is owed.
    pub fn reset_reinject(&self) {
        self.state.lock().reset_reinject();
    }
}

/// What the timer of counter 0 does.
pub struct Expiry(Arc<Interrupts>);

/// The timer of counter 0.
pub type PitTimer = Timer<Expiry>;

impl TimerCallback for Expiry {
    fn fire(&self) -> Option<u64> {
        let pit = self.0.pit.as_ref()?;
        let tick = pit.state.lock().timer_fired(time::monotonic_ns());
        if tick.inject {
            self.0.pit_tick();
        }
        tick.next_expiry
    }
}

impl Interrupts {
    /// An edge of counter 0.
    fn pit_tick(&self) {
        let status = self.pulse(GSI, Source::Pit);
        self.pit_watchdog();
        if status == LineStatus::Ignored {
            if let Some(pit) = self.pit.as_ref() {
                pit.state.lock().not_delivered();
            }
        }
    }

    /// Counter 0 is wired to LINT0 of all local APICs, too: guests have used it
    /// as an NMI watchdog.
    fn pit_watchdog(&self) {
        for vcpu in self.delivery.vcpus.iter() {
            if vcpu.apic.snapshot().lint0_nmi() && vcpu.apic.post_nmi().needs_kick() {
                vcpu.kick();
            }
        }
    }

    /// The guest has completed the interrupt of counter 0.
    pub fn pit_acked(&self) {
        let Some(pit) = self.pit.as_ref() else {
            return;
        };
        let again = pit.state.lock().acked();
        if again {
            self.pit_tick();
        }
    }
}

impl Chip {
    /// Reads a port of the PIT; `None` when there is none that answers.
    pub fn pit_read(&self, port: u16) -> Option<u32> {
        let (_, interrupts) = self.pit()?;
        let pit = interrupts.pit.as_ref()?;
        if port == port::SPEAKER && !pit.speaker {
            return None;
        }
        let mut state = pit.state.lock();
        state.read(port, time::monotonic_ns()).map(u32::from)
    }

    /// Writes a port of the PIT; false when there is none that takes it.
    pub fn pit_write(&self, port: u16, value: u8) -> bool {
        let Some((timer, interrupts)) = self.pit() else {
            return false;
        };
        let Some(pit) = interrupts.pit.as_ref() else {
            return false;
        };
        if port == port::SPEAKER {
            return pit.speaker && pit.state.lock().write(port, value, time::monotonic_ns());
        }
        change(timer, pit, |state, now| state.write(port, value, now))
    }
}

/// Changes the counters, and the timer with them.
fn change<R>(timer: &PitTimer, pit: &VmPit, change: impl FnOnce(&mut Pit, u64) -> R) -> R {
    // A callback that has computed its next expiry already must not start the
    // timer after this has: it is short and needs nothing that is held here.
    while timer.try_cancel().is_none() {
        core::hint::spin_loop();
    }
    let mut state = pit.state.lock();
    let result = change(&mut state, time::monotonic_ns());
    if let Some(at) = state.next_expiry() {
        timer.start(at);
    }
    result
}

impl<V: Vendor> Vm<V> {
    /// KVM_CREATE_PIT2 (KVM API document, 4.71).
    ///
    /// # Errors
    ///
    /// `EEXIST`, `ENOENT` unless the interrupt controllers are in the module,
    /// `ENOMEM`.
    pub fn create_pit(&self, config: &kvm_pit_config) -> Result {
        let _creation = self.creation.lock();
        if self.chip.pit().is_some() {
            return Err(EEXIST);
        }
        let (place, interrupts) = self.chip.pit_place().ok_or(ENOENT)?;
        let timer = Timer::new(Expiry(interrupts.clone()))?;
        let pit = VmPit {
            state: new_irq_spinlock!(Pit::new(time::monotonic_ns())),
            speaker: config.flags & KVM_PIT_SPEAKER_DUMMY != 0,
        };
        // Left over, should the next step have failed once.
        let _ = interrupts.pit.populate(pit);
        interrupts.watched_changed();
        if !place.populate(timer) {
            return Err(EEXIST);
        }
        Ok(())
    }

    /// KVM_CREATE_PIT: with the speaker's port.
    ///
    /// # Errors
    ///
    /// As [`Vm::create_pit`].
    pub fn create_pit_with_speaker(&self) -> Result {
        self.create_pit(&kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        })
    }

    fn pit(&self) -> Result<(&PitTimer, &VmPit, &Interrupts)> {
        let (timer, interrupts) = self.chip.pit().ok_or(ENXIO)?;
        Ok((timer, interrupts.pit.as_ref().ok_or(ENXIO)?, interrupts))
    }

    /// KVM_GET_PIT2 (4.72).
    ///
    /// # Errors
    ///
    /// `ENXIO` without a PIT.
    pub fn get_pit2(&self) -> Result<kvm_pit_state2> {
        let (_, pit, _) = self.pit()?;
        let state = pit.state.lock();
        Ok(state.get_state(time::monotonic_ns()))
    }

    /// KVM_GET_PIT: as KVM_GET_PIT2 without the flags.
    ///
    /// # Errors
    ///
    /// As [`Vm::get_pit2`].
    pub fn get_pit(&self) -> Result<kvm_pit_state> {
        Ok(kvm_pit_state {
            channels: self.get_pit2()?.channels,
        })
    }

    /// KVM_SET_PIT2 (4.73).
    ///
    /// # Errors
    ///
    /// `ENXIO` without a PIT.
    pub fn set_pit2(&self, new: &kvm_pit_state2) -> Result {
        let (timer, pit, _) = self.pit()?;
        change(timer, pit, |state, now| {
            state.set_state(&new.channels, new.flags, now);
        });
        Ok(())
    }

    /// KVM_SET_PIT: the flags stay.
    ///
    /// # Errors
    ///
    /// As [`Vm::set_pit2`].
    pub fn set_pit(&self, new: &kvm_pit_state) -> Result {
        let (timer, pit, _) = self.pit()?;
        change(timer, pit, |state, now| {
            let flags = state.flags();
            state.set_state(&new.channels, flags, now);
        });
        Ok(())
    }

    /// KVM_REINJECT_CONTROL (4.100).
    ///
    /// # Errors
    ///
    /// `ENXIO` without a PIT.
    pub fn reinject_control(&self, control: &kvm_reinject_control) -> Result {
        let (_, pit, interrupts) = self.pit()?;
        pit.state.lock().set_reinject(control.pit_reinject != 0);
        interrupts.watched_changed();
        Ok(())
    }
}
