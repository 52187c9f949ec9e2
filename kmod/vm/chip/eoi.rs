// SPDX-License-Identifier: GPL-2.0

//! Completion of interrupts at the I/O APIC.
//!
//! In three steps, with the controllers' lock held in the first and the last:
//! find the pins, tell who watches them (who may lower a line), deliver again
//! what is still asserted.

use super::Chip;
use crate::host::time;
use crate::host::timer::TimerCallback;
use crate::hw::Vendor;
use crate::pc::ioapic::Written;
use crate::vm::irq::Interrupts;
use crate::vm::irq::Pins;
use crate::vm::Vm;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering;
use kernel::sync::Arc;

/// How long a line that is asserted for ever waits after many deliveries in a
/// row, so that the guest gets to something else: 10 ms.
const STORM_DELAY_NS: u64 = 10_000_000;

/// Delivers again after [`STORM_DELAY_NS`].
pub(super) struct Storm {
    interrupts: Arc<Interrupts>,
    pins: AtomicU32,
}

impl Storm {
    pub(super) fn new(interrupts: Arc<Interrupts>) -> Self {
        Self {
            interrupts,
            pins: AtomicU32::new(0),
        }
    }
}

impl TimerCallback for Storm {
    fn fire(&self) -> Option<u64> {
        let controllers = self.interrupts.controllers.as_ref()?;
        let again = controllers.resume(self.pins.swap(0, Ordering::Relaxed));
        if again == 0 {
            return None;
        }
        self.pins.fetch_or(again, Ordering::Relaxed);
        Some(retry_time())
    }
}

fn retry_time() -> u64 {
    time::monotonic_ns().saturating_add(STORM_DELAY_NS)
}

impl Chip {
    /// An entry of the I/O APIC was written.
    pub(super) fn ioapic_written(&self, written: Written) {
        let Some(interrupts) = self.interrupts() else {
            return;
        };
        if written.unmasked != 0 {
            interrupts.unmasked(Pins::ioapic(written.unmasked));
        }
        if written.pending != 0 {
            self.ioapic_completed(written.pending);
        }
    }

    /// Tells who watches the pins, then delivers what is still asserted.
    fn ioapic_completed(&self, pins: u32) {
        let Some((controllers, interrupts)) = self.controllers() else {
            return;
        };
        interrupts.completed(Pins::ioapic(pins));
        let storming = controllers.resume(pins);
        if storming != 0 {
            self.delay(storming);
        }
    }

    #[cold]
    fn delay(&self, pins: u32) {
        let storm = self
            .wiring
            .as_ref()
            .and_then(|wiring| wiring.storm.as_ref());
        if let Some(storm) = storm {
            storm.pins.fetch_or(pins, Ordering::Relaxed);
            storm.start(retry_time());
        }
    }
}

impl<V: Vendor> Vm<V> {
    /// A local APIC completed `vector`, and [`Chip::wants_eoi`].
    pub fn ioapic_eoi(&self, vector: u8) {
        let Some((controllers, _)) = self.chip.controllers() else {
            return;
        };
        let pins = controllers.eoi(vector);
        if pins != 0 {
            self.chip.ioapic_completed(pins);
        }
    }
}
