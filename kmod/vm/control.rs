// SPDX-License-Identifier: GPL-2.0

//! Accesses to control registers, debug registers and XCR0 that exit.

use super::request::Request;
use super::step::Context;
use super::step::Handled;
use super::step::Step;
use super::step::Stop;
use super::vcpu::Vcpu;
use super::vcpu::VcpuShared;
use crate::hw::RegisterAccess;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::control;
use crate::pc::control::Controls;
use crate::pc::control::Invalid;
use crate::pc::decode::Insn;
use crate::pc::lapic::GpFault;
use crate::pc::lapic::Initiator;
use crate::pc::lapic::Lapic;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
use crate::pc::regs::Efer;
use crate::pc::regs::Exception;
use crate::pc::regs::Reg;
use crate::pc::walk::GuestMemory;
use crate::uapi;

/// A decoded access to a control or debug register.
struct Operands {
    number: u8,
    gpr: Reg,
    write: bool,
    length: u8,
}

const MOV_FROM_CR: u8 = 0x20;
const MOV_FROM_DR: u8 = 0x21;
const MOV_TO_CR: u8 = 0x22;
const MOV_TO_DR: u8 = 0x23;
const CLTS: u8 = 0x06;
const GROUP_7: u8 = 0x01;
const GROUP_7_LMSW: u8 = 6;
const GROUP_7_SMSW: u8 = 4;

/// Bits of a physical address of this width.
const fn addr_mask(physical_bits: u8) -> u64 {
    !u64::MAX.wrapping_shl(physical_bits as u32)
}

/// CR0, CR3, CR4, EFER and CS.L: what the rules of control registers are about.
pub fn controls<V: Vendor>(hw: &V) -> Controls {
    Controls {
        cr0: Cr0(hw.cr0()),
        cr3: hw.cr3(),
        cr4: Cr4(hw.cr4()),
        efer: Efer(hw.efer()),
        cs_l: hw.code_attributes().long(),
    }
}

/// Writes IA32_APIC_BASE: the local APIC's, or `user_base` where userspace models
/// that. The CPUID bits that mirror it are the caller's to renew.
///
/// # Errors
///
/// For a value or a change of mode that raises #GP.
pub fn write_apic_base<V: Vendor>(
    hw: &mut V,
    lapic: Option<&mut Lapic>,
    user_base: &mut u64,
    shared: &VcpuShared,
    value: u64,
    initiator: Initiator,
) -> Result<(), GpFault> {
    let Some(lapic) = lapic else {
        *user_base = super::apic::user_base(value).ok_or(GpFault)?;
        return Ok(());
    };
    lapic.set_apic_base(value, initiator, &shared.apic)?;
    if V::KEEPS_APIC {
        shared.requests.add(Request::APIC_PAGE);
    }
    // What the processor has for CR8 is the task priority, in every mode.
    hw.set_cr8(lapic.cr8());
    Ok(())
}

impl<V: Vendor> Vcpu<V> {
    fn operands(
        &mut self,
        access: RegisterAccess,
        insn: Option<&Insn>,
        context: Context,
    ) -> Handled<Operands> {
        if let RegisterAccess::Move { number, gpr, write } = access {
            return Ok(Operands {
                number,
                gpr: Reg::from_bits(gpr),
                write,
                length: self.instruction_length(context)?,
            });
        }
        let insn = insn.ok_or(Stop::Unhandleable)?;
        Ok(Operands {
            number: insn.reg().number(),
            gpr: insn.rm(),
            write: insn.is_0f(MOV_TO_CR) || insn.is_0f(MOV_TO_DR),
            length: insn.length,
        })
    }

    /// The instruction, when the processor has not told the operands.
    fn operand_source(
        &mut self,
        access: RegisterAccess,
        context: Context,
    ) -> Handled<Option<Insn>> {
        match access {
            RegisterAccess::Decode => Ok(Some(self.instruction(context)?)),
            RegisterAccess::Move { .. } => Ok(None),
        }
    }

    /// A general register as a control or debug register takes it.
    fn wide(&self, gpr: Reg) -> u64 {
        let value = self.regs.gprs.get(gpr);
        if self.is_64bit() {
            value
        } else {
            value & 0xffff_ffff
        }
    }

    /// An access to a control register.
    pub fn control_register(&mut self, access: RegisterAccess, context: Context) -> Handled {
        let insn = self.operand_source(access, context)?;
        if let Some(insn) = &insn {
            if insn.is_0f(CLTS) {
                return self.write_cr(0, self.hw.cr0() & !Cr0::TS.0, insn.length);
            }
            if insn.is_0f(GROUP_7) {
                return self.machine_status_word(insn, context);
            }
            if !insn.is_0f(MOV_TO_CR) && !insn.is_0f(MOV_FROM_CR) {
                return Err(Stop::Unhandleable);
            }
        }
        let operands = self.operands(access, insn.as_ref(), context)?;
        if operands.write {
            return self.write_cr(operands.number, self.wide(operands.gpr), operands.length);
        }
        let value = match operands.number {
            0 => self.hw.cr0(),
            2 => self.hw.cr2(),
            3 => self.hw.cr3(),
            4 => self.hw.cr4(),
            8 => u64::from(self.cr8()),
            _ => return self.raise(Exception::UD),
        };
        self.regs.gprs.set(operands.gpr, value);
        self.advance(operands.length)
    }

    /// LMSW and SMSW.
    fn machine_status_word(&mut self, insn: &Insn, context: Context) -> Handled {
        let register = insn.modrm.is_register();
        match insn.modrm.reg() {
            GROUP_7_LMSW if register => {
                let value = self.regs.gprs.get(insn.rm());
                // LMSW sets PE but does not clear it.
                let old = self.hw.cr0();
                let new = (old & !(Cr0::LMSW.0 & !Cr0::PE.0)) | (value & Cr0::LMSW.0);
                self.write_cr(0, new, insn.length)
            }
            GROUP_7_LMSW | GROUP_7_SMSW => self.emulate(Some(*insn), context),
            _ => Err(Stop::Unhandleable),
        }
    }

    fn write_cr(&mut self, number: u8, value: u64, length: u8) -> Handled {
        let priority_before = self.hw.cr8();
        let loaded_for = Cr4(self.hw.cr4());
        let written = match number {
            0 => self.write_cr0(value),
            3 => control::write_cr3(&controls(&self.hw), value, self.model.caps()).map(|value| {
                self.hw.set_cr3(value);
                self.hw.flush_tlb();
                self.paging_changed();
            }),
            4 => self.write_cr4(value),
            8 => control::write_cr8(value).map(|priority| self.set_cr8(priority)),
            _ => return self.raise(Exception::UD),
        };
        if written.is_err() {
            return self.raise(Exception::GP0);
        }
        if number == 8 && self.lapic.is_none() && self.hw.cr8() < priority_before {
            self.run.set_reason(uapi::KVM_EXIT_SET_TPR);
            let step = self.advance(length)?;
            return Ok(if step == Step::Resume {
                Step::User
            } else {
                step
            });
        }
        let step = self.advance(length)?;
        if Cr4(self.hw.cr4())
            .changed(loaded_for)
            .any(Cr4::PKE | Cr4::OSXSAVE)
        {
            // PKRU and XCR0 are switched on the way into the inner loop and out.
            return Ok(step.at_least_leave());
        }
        if self.shared.requests.has(Request::DIRECTORY_POINTERS) {
            return Ok(step.at_least_leave());
        }
        Ok(step)
    }

    fn write_cr0(&mut self, value: u64) -> Result<(), Invalid> {
        let old = controls(&self.hw);
        let (cr0, efer) = control::write_cr0(&old, value)?;
        self.hw.set_efer(efer.0);
        self.hw.set_cr0(cr0.0);
        if cr0.changed(old.cr0).any(Cr0::PG | Cr0::WP) {
            self.hw.flush_tlb();
            self.paging_changed();
        }
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Invalid> {
        const TRANSLATION: Cr4 = Cr4(Cr4::PGE.0
            | Cr4::PAE.0
            | Cr4::PSE.0
            | Cr4::PCIDE.0
            | Cr4::SMEP.0
            | Cr4::SMAP.0
            | Cr4::PKE.0);
        let old = controls(&self.hw);
        let cr4 = control::write_cr4(&old, value, self.model.caps())?;
        self.hw.set_cr4(cr4.0);
        if cr4.changed(old.cr4).any(TRANSLATION) {
            self.hw.flush_tlb();
            self.paging_changed();
        }
        self.mirror_state_in_cpuid();
        Ok(())
    }

    /// Paging has been switched: a processor that keeps copies of the PAE
    /// directory pointers has old ones. They are loaded where sleeping is
    /// allowed, before the guest runs again.
    pub fn paging_changed(&mut self) {
        if self.hw.pdptes().is_some() {
            self.shared.requests.add(Request::DIRECTORY_POINTERS);
        }
    }

    /// Gives the processor the PAE directory pointers that CR3 points to (SDM
    /// vol. 3, 4.4.1). One that MOV to CR would have raised #GP for maps nothing.
    #[cold]
    pub fn load_pdptes(&mut self) {
        const PRESENT: u64 = 1;
        /// Reserved below the address.
        const RESERVED: u64 = 0x1e6;
        let table = Gpa(self.hw.cr3() & 0xffff_ffe0);
        let reserved = RESERVED | !addr_mask(self.model.caps().physical_bits);
        let mut reader = self.reader(Context::Sleepable);
        let pointers = [0, 8, 16, 24].map(|offset| {
            let pointer = reader.read_u64(table.wrapping_add(offset)).unwrap_or(0);
            if pointer & PRESENT != 0 && pointer & reserved == 0 {
                pointer
            } else {
                0
            }
        });
        drop(reader);
        self.hw.set_pdptes(&pointers);
    }

    /// CR8, which is the task priority of the local APIC.
    pub fn cr8(&self) -> u8 {
        match &self.lapic {
            Some(lapic) => lapic.cr8(),
            None => self.hw.cr8(),
        }
    }

    /// Sets CR8.
    pub fn set_cr8(&mut self, value: u8) {
        if let Some(lapic) = self.lapic.as_mut() {
            lapic.set_cr8(value & 15, &self.shared.apic);
        }
        self.hw.set_cr8(value & 15);
    }

    /// IA32_APIC_BASE.
    pub fn apic_base(&self) -> u64 {
        match &self.lapic {
            Some(lapic) => lapic.apic_base(),
            None => self.user_apic_base,
        }
    }

    /// Sets IA32_APIC_BASE.
    ///
    /// # Errors
    ///
    /// For a value or a change of mode that raises #GP.
    pub fn set_apic_base(&mut self, value: u64, initiator: Initiator) -> Result<(), GpFault> {
        write_apic_base(
            &mut self.hw,
            self.lapic.as_mut(),
            &mut self.user_apic_base,
            &self.shared,
            value,
            initiator,
        )?;
        self.mirror_state_in_cpuid();
        Ok(())
    }

    /// MOV to or from a debug register.
    pub fn debug_register(&mut self, access: RegisterAccess, context: Context) -> Handled {
        let insn = self.operand_source(access, context)?;
        if let Some(insn) = &insn {
            if !insn.is_0f(MOV_TO_DR) && !insn.is_0f(MOV_FROM_DR) {
                return Err(Stop::Unhandleable);
            }
        }
        let operands = self.operands(access, insn.as_ref(), context)?;
        let alias = matches!(operands.number, 4 | 5);
        if operands.number > 7 || (alias && Cr4(self.hw.cr4()).has(Cr4::DE)) {
            return self.raise(Exception::UD);
        }
        if let Some(trapped) = self.debug_access_traps() {
            return trapped;
        }
        if operands.write {
            let value = self.wide(operands.gpr);
            if self.write_debug_register(operands.number, value).is_none() {
                return self.raise(Exception::GP0);
            }
        } else {
            let value = self.read_debug_register(operands.number);
            self.regs.gprs.set(operands.gpr, value);
        }
        // Breakpoints are loaded on the way into the inner loop.
        let step = self.advance(operands.length)?;
        Ok(step.at_least_leave())
    }

    /// XSETBV.
    pub fn set_xcr(&mut self, context: Context) -> Handled {
        let length = self.instruction_length(context)?;
        let index = self.regs.gprs.get32(Reg::Rcx);
        let value = self.regs.gprs.edx_eax();
        if index != 0 || self.hw.cpl() != 0 || self.set_xcr0(value).is_none() {
            return self.raise(Exception::GP0);
        }
        // The new value is loaded on the way into the inner loop.
        let step = self.advance(length)?;
        Ok(step.at_least_leave())
    }
}
