// SPDX-License-Identifier: GPL-2.0-or-later

//! The port a guest's kernel reports its panic to (QEMU's docs/specs/pvpanic.rst).

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::ending::{Control, Ending};

/// The guest panicked.
const PANICKED: u8 = 1 << 0;
/// The guest panicked and will dump itself; it says [`PANICKED`] later if that fails.
const CRASH_LOADED: u8 = 1 << 1;

/// The pvpanic device.
pub struct Pvpanic(Arc<Control>);

impl Pvpanic {
    pub fn new(control: Arc<Control>) -> Self {
        Self(control)
    }
}

impl BusDevice for Pvpanic {
    /// Reads as the events that can be reported.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(byte) = data.first_mut() {
            *byte = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|events| events & PANICKED != 0) {
            self.0.end(Ending::Panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_ends_the_run_and_a_crash_kernel_does_not() {
        let control = Arc::new(Control::new().unwrap());
        let mut device = Pvpanic::new(control.clone());
        let mut events = [0];
        device.read(0, &mut events);
        assert_eq!(events, [3]);
        device.write(0, &[CRASH_LOADED]);
        assert_eq!(control.ending(), None);
        device.write(0, &[PANICKED]);
        assert_eq!(control.ending(), Some(Ending::Panic));
    }
}
