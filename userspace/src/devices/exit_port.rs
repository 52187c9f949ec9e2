// SPDX-License-Identifier: GPL-2.0-or-later

//! A port through which a guest ends the run and says how it went (`--exit-port`).
//!
//! The first byte written becomes the exit status of the process, unchanged. (QEMU's
//! isa-debug-exit sits at the same port, but makes `status << 1 | 1` of it.)

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::ending::{Control, Ending};

/// The exit port.
pub struct ExitPort(Arc<Control>);

impl ExitPort {
    pub fn new(control: Arc<Control>) -> Self {
        Self(control)
    }
}

impl BusDevice for ExitPort {
    /// Reads as 0, so that a guest can tell it from a port where nothing is.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let Some(status) = data.first() {
            self.0.end(Ending::Reported(*status));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_byte_is_the_status() {
        let control = Arc::new(Control::new().unwrap());
        let mut port = ExitPort::new(control.clone());
        port.write(0, &[3, 0, 0, 0]);
        port.write(0, &[4]);
        assert_eq!(control.ending(), Some(Ending::Reported(3)));
    }
}
