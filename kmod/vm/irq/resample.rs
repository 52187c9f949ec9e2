// SPDX-License-Identifier: GPL-2.0

//! Who wants to know that a level-triggered interrupt was completed: the
//! resamplefds of irqfds.

use super::Interrupts;
use super::Source;
use crate::host::eventfd::EventFd;
use kernel::prelude::*;
use kernel::sync::Arc;

/// One resamplefd.
struct Resampler {
    gsi: u32,
    event: Arc<EventFd>,
}

/// All resamplefds of a VM. Immutable once published.
#[derive(Default)]
pub(super) struct Resamplers(KVVec<Resampler>);

impl Resamplers {
    /// Whether anybody waits for `gsi`.
    pub(super) fn has(&self, gsi: u32) -> bool {
        self.0.iter().any(|resampler| resampler.gsi == gsi)
    }

    /// The GSIs waited for, some more than once.
    pub(super) fn gsis(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().map(|resampler| resampler.gsi)
    }

    /// Tells everybody who waits for `gsi`. No spinlock is held.
    pub(super) fn signal(&self, gsi: u32) {
        for resampler in self.0.iter().filter(|resampler| resampler.gsi == gsi) {
            // Refused in the callback of an eventfd only, which completes
            // no interrupts.
            let _ = resampler.event.signal();
        }
    }

    /// A copy without `event`, with room for one more.
    fn without(&self, event: Option<&Arc<EventFd>>) -> Result<Self> {
        let room = self.0.len().saturating_add(1);
        let mut kept = KVVec::with_capacity(room, GFP_KERNEL_ACCOUNT)?;
        for resampler in &self.0 {
            if event.is_some_and(|event| Arc::ptr_eq(event, &resampler.event)) {
                continue;
            }
            let copy = Resampler {
                gsi: resampler.gsi,
                event: resampler.event.clone(),
            };
            kept.push(copy, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self(kept))
    }
}

impl Interrupts {
    /// Signals `event` whenever an interrupt of `gsi` has been completed. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn add_resampler(&self, gsi: u32, event: Arc<EventFd>) -> Result {
        let _changes = self.changes.lock();
        let mut next = self.resamplers.load(&self.srcu.read()).without(None)?;
        next.0.push(Resampler { gsi, event }, GFP_KERNEL_ACCOUNT)?;
        self.publish_resamplers(next)
    }

    /// Undoes [`Interrupts::add_resampler`]. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; nothing has changed then.
    pub(super) fn remove_resampler(&self, event: &Arc<EventFd>) -> Result {
        let _changes = self.changes.lock();
        let next = self
            .resamplers
            .load(&self.srcu.read())
            .without(Some(event))?;
        self.publish_resamplers(next)
    }

    /// Lowers `gsi` unless it has resamplers, which would have to do it. May
    /// sleep.
    pub(super) fn release_line(&self, gsi: u32) {
        let _changes = self.changes.lock();
        if !self.resamplers.load(&self.srcu.read()).has(gsi) {
            let _ = self.raise(gsi, false, Source::Resample);
        }
    }

    fn publish_resamplers(&self, next: Resamplers) -> Result {
        let next = KBox::new(next, GFP_KERNEL_ACCOUNT)?;
        drop(self.resamplers.replace(next)?);
        self.update_watched();
        Ok(())
    }
}
