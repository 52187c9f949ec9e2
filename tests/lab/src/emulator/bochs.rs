// SPDX-License-Identifier: GPL-2.0-or-later

//! Bochs, for VMX.

use super::{Emulator, Machine, Running};
use anyhow::{bail, Result};

/// Bochs emulates VMX with EPT.
pub struct Bochs;

impl Emulator for Bochs {
    fn port(&self) -> &'static str {
        "/dev/ttyS1"
    }

    fn append(&self) -> &'static str {
        "tsc=reliable no_timer_check lpj=1000000"
    }

    fn start(&self, _machine: &Machine) -> Result<Running> {
        bail!("--vendor vmx is not there yet: the lab cannot run Bochs so far")
    }
}
