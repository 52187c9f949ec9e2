// SPDX-License-Identifier: GPL-2.0-or-later

//! The keyboard controller, for the one thing left of it: its command 0xfe resets the machine.

use std::convert::Infallible;
use std::sync::Arc;

use vm_superio::i8042::I8042Device;
use vm_superio::Trigger;

use crate::bus::BusDevice;
use crate::ending::{Control, Ending};

struct Reset(Arc<Control>);

impl Trigger for Reset {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.end(Ending::Reset);
        Ok(())
    }
}

/// The controller's ports, 0x60 to 0x64. Port 0x61, in between, is KVM's own (its PIT's).
pub struct I8042(I8042Device<Reset>);

impl I8042 {
    pub fn new(control: Arc<Control>) -> Self {
        Self(I8042Device::new(Reset(control)))
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let [byte] = data {
            *byte = self.0.read(offset as u8);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let [byte] = *data {
            let Ok(()) = self.0.write(offset as u8, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_command() {
        let control = Arc::new(Control::new().unwrap());
        let mut controller = I8042::new(control.clone());
        controller.write(0, &[0xfe]);
        controller.write(4, &[0xd1]);
        assert_eq!(control.ending(), None);
        controller.write(4, &[0xfe]);
        assert_eq!(control.ending(), Some(Ending::Reset));
    }

    #[test]
    fn input_buffer_is_always_free() {
        let mut status = [0xff];
        I8042::new(Arc::new(Control::new().unwrap())).read(4, &mut status);
        assert_eq!(status[0] & 2, 0);
    }
}
