// SPDX-License-Identifier: GPL-2.0-or-later

//! The reset control register, port 0xcf9 of a PC.

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::ending::{Control, Ending};

/// The bit whose rise resets the processor.
const RESET_CPU: u8 = 1 << 2;

/// The register behind [`crate::boot::layout::port::RESET`].
pub struct ResetControl {
    control: Arc<Control>,
    value: u8,
}

impl ResetControl {
    pub fn new(control: Arc<Control>) -> Self {
        Self { control, value: 0 }
    }

    /// What the guest reads: what it wrote.
    pub fn value(&self) -> u8 {
        self.value
    }

    /// Takes what the guest writes.
    pub fn set(&mut self, value: u8) {
        if value & RESET_CPU != 0 && self.value & RESET_CPU == 0 {
            self.control.end(Ending::Reset);
        }
        self.value = value;
    }
}

impl BusDevice for ResetControl {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(self.value);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let [value] = *data {
            self.set(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rise_of_the_bit_resets() {
        let control = Arc::new(Control::new().unwrap());
        let mut register = ResetControl::new(control.clone());
        register.set(2);
        assert_eq!(control.ending(), None);
        assert_eq!(register.value(), 2);
        register.set(6);
        assert_eq!(control.ending(), Some(Ending::Reset));
    }
}
