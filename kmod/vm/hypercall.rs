// SPDX-License-Identifier: GPL-2.0

//! Hypercalls of a guest that knows it runs on KVM
//! (Documentation/virt/kvm/x86/hypercalls.rst).

use super::step::Context;
use super::step::Handled;
use super::step::Step;
use super::step::Stop;
use super::vcpu::Vcpu;
use crate::hw::Vendor;
use crate::pc::cpuid::Feature;
use crate::pc::irq::pv_ipi::PvIpi;
use crate::pc::regs::Exception;
use crate::pc::regs::Reg;
use crate::uapi;

/// Error numbers of hypercalls, as the guest reads them.
const fn failed(errno: i64) -> u64 {
    errno.wrapping_neg() as u64
}

const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
const HYPERCALL_LENGTH: u8 = 3;

const ENOSYS: i64 = 1000;
const EPERM: i64 = 1;
const EINVAL: i64 = 22;

impl<V: Vendor> Vcpu<V> {
    /// VMCALL or VMMCALL.
    #[inline]
    pub fn hypercall(&mut self, context: Context) -> Handled {
        let length = self.instruction_length(context)?;
        self.hypercall_of(length)
    }

    /// #UD: a guest may have been made for the other vendor's hypercalls only,
    /// and finds them here too (KVM_X86_QUIRK_FIX_HYPERCALL_INSN).
    #[cold]
    pub fn invalid_opcode(&mut self, context: Context) -> Handled {
        match self.fetch(context) {
            Ok(fetched) if is_hypercall(fetched.bytes) => self.hypercall_of(HYPERCALL_LENGTH),
            Err(Stop::Step(Step::Sleep)) => Err(Stop::Step(Step::Sleep)),
            _ => {
                self.events.delivery_faulted(&mut self.hw);
                self.raise(Exception::UD)
            }
        }
    }

    /// A hypercall by an instruction of `length` bytes.
    #[inline]
    fn hypercall_of(&mut self, length: u8) -> Handled {
        let long = self.is_64bit();
        let argument = |reg| {
            let value = self.regs.gprs.get(reg);
            if long {
                value
            } else {
                value & 0xffff_ffff
            }
        };
        let number = argument(Reg::Rax);
        let arguments = [Reg::Rbx, Reg::Rcx, Reg::Rdx, Reg::Rsi].map(argument);
        let result = if self.hw.cpl() == 0 {
            self.answer_hypercall(number, arguments, long)
        } else {
            failed(EPERM)
        };
        if long {
            self.regs.gprs.set(Reg::Rax, result);
        } else {
            self.regs.gprs.set32(Reg::Rax, result as u32);
        }
        self.advance(length)
    }

    fn answer_hypercall(&mut self, number: u64, arguments: [u64; 4], long: bool) -> u64 {
        let [a0, a1, a2, a3] = arguments;
        match number {
            uapi::KVM_HC_VAPIC_POLL_IRQ => 0,
            uapi::KVM_HC_KICK_CPU if self.may_use(Feature::PV_UNHALT) => {
                self.kick_halted(a1);
                0
            }
            uapi::KVM_HC_SEND_IPI if self.may_use(Feature::PV_SEND_IPI) => {
                match PvIpi::decode(a0, a1, a2, a3, long) {
                    Some(request) => self.vm.vcpus.send_pv_ipi(request),
                    None => failed(EINVAL),
                }
            }
            // A hint to let another vCPU run, which the host's scheduler does.
            uapi::KVM_HC_SCHED_YIELD if self.may_use(Feature::PV_SCHED_YIELD) => 0,
            _ => failed(ENOSYS),
        }
    }

    fn may_use(&self, feature: Feature) -> bool {
        self.lapic.is_some() && self.model.caps().may_use(feature)
    }

    /// KVM_HC_KICK_CPU: ends the HLT of the vCPU with this APIC id.
    fn kick_halted(&self, apic_id: u64) {
        let id = u32::try_from(apic_id).ok();
        if let Some(vcpu) = id.and_then(|id| self.vm.vcpus.by_apic_id(id)) {
            vcpu.request(super::request::Request::UNHALT);
        }
    }
}

/// Whether an instruction is VMCALL or VMMCALL.
fn is_hypercall(bytes: u128) -> bool {
    let [first, second, third, ..] = bytes.to_le_bytes();
    matches!([first, second, third], VMCALL | VMMCALL)
}
