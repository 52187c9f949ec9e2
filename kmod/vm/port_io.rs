// SPDX-License-Identifier: GPL-2.0

//! Port I/O: IN, OUT, INS and OUTS.

use super::pending::Pending;
use super::run_page::PIO_BYTES;
use super::step::Context;
use super::step::Handled;
use super::step::Step;
use super::vcpu::Vcpu;
use crate::hw::IoExit;
use crate::hw::Vendor;
use crate::pc::regs::Reg;
use crate::uapi;

/// Where the port data page begins, counted from the start of `kvm_run`.
pub const PIO_DATA_OFFSET: u64 = PIO_BYTES as u64 * uapi::KVM_PIO_PAGE_OFFSET;

impl<V: Vendor> Vcpu<V> {
    /// An intercepted I/O instruction.
    #[inline(always)]
    pub fn port_io(&mut self, io: IoExit, context: Context) -> Handled {
        if io.string {
            return self.emulate(None, context);
        }
        let next = match io.next_rip {
            Some(next) => next,
            None => {
                let length = self.instruction_length(context)?;
                self.regs.rip.wrapping_add(u64::from(length))
            }
        };
        if io.input {
            self.port_in(io, next)
        } else {
            self.port_out(io, next)
        }
    }

    fn port_in(&mut self, io: IoExit, next: u64) -> Handled {
        if let Some(value) = self.vm.port_read(io.port, io.size) {
            self.set_accumulator(io.size, value);
            return self.complete_instruction(next);
        }
        self.pending = Pending::In {
            size: io.size,
            next,
            rip: self.regs.rip,
        };
        Ok(self.exit_port(uapi::KVM_EXIT_IO_IN, io.port, io.size, 1))
    }

    #[inline(always)]
    fn port_out(&mut self, io: IoExit, next: u64) -> Handled {
        let value = self.regs.gprs.get32(Reg::Rax);
        if self.vm.port_write(io.port, io.size, value) {
            return self.complete_instruction(next);
        }
        self.run.write_pio(value, io.size);
        self.pending = Pending::Written {
            next,
            rip: self.regs.rip,
        };
        Ok(self.exit_port(uapi::KVM_EXIT_IO_OUT, io.port, io.size, 1))
    }

    /// Leaves for userspace with KVM_EXIT_IO.
    #[inline(always)]
    pub fn exit_port(&mut self, direction: u8, port: u16, size: u8, count: u32) -> Step {
        self.run
            .set_port_exit(direction, port, size, count, PIO_DATA_OFFSET);
        Step::User
    }

    /// Completes an IN that userspace has answered.
    pub fn complete_in(&mut self, size: u8, next: u64, rip: u64) -> Handled {
        if self.regs.rip != rip {
            return Ok(Step::Resume);
        }
        self.set_accumulator(size, self.run.read_pio(0, size));
        self.complete_instruction(next)
    }

    /// Completes an OUT, or a move to a device, that userspace has seen. Most often
    /// nothing is left to settle.
    #[inline(always)]
    pub fn complete_written(&mut self, next: u64, rip: u64) -> Option<Handled> {
        let more = self.regs.rip == rip && self.go_behind(next);
        more.then(|| self.after_step())
    }

    /// AL, AX or EAX. Only the last clears what is above it.
    fn set_accumulator(&mut self, size: u8, value: u32) {
        let rax = self.regs.gprs.get(Reg::Rax);
        let new = match size {
            1 => (rax & !0xff) | u64::from(value & 0xff),
            2 => (rax & !0xffff) | u64::from(value & 0xffff),
            _ => u64::from(value),
        };
        self.regs.gprs.set(Reg::Rax, new);
    }
}
