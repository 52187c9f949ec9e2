// SPDX-License-Identifier: GPL-2.0

//! KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS (KVM API document, 4.25).

use super::Source;
use crate::hw::Vendor;
use crate::pc::irq::LineStatus;
use crate::uapi::kvm_irq_level;
use crate::vm::Vm;
use kernel::prelude::*;

impl<V: Vendor> Vm<V> {
    /// KVM_IRQ_LINE.
    ///
    /// # Errors
    ///
    /// `ENXIO` without interrupt controllers.
    pub fn irq_line(&self, line: &kvm_irq_level) -> Result {
        self.set_line(line).map(|_| ())
    }

    /// KVM_IRQ_LINE_STATUS: says what became of it, too.
    ///
    /// # Errors
    ///
    /// As [`Vm::irq_line`].
    pub fn irq_line_status(&self, line: &mut kvm_irq_level) -> Result {
        line.irq = self.set_line(line)?.to_abi() as u32;
        Ok(())
    }

    fn set_line(&self, line: &kvm_irq_level) -> Result<LineStatus> {
        let interrupts = self.chip.interrupts().ok_or(ENXIO)?;
        Ok(interrupts.raise(line.irq, line.level != 0, Source::User))
    }
}
