// SPDX-License-Identifier: GPL-2.0

//! Register state in and out: KVM_{GET,SET}_{REGS,SREGS,SREGS2,FPU,XSAVE,XCRS,
//! DEBUGREGS} (KVM API document, 4.11 to 4.44).

use crate::host::fpu;
use crate::host::fpu::Xcr0;
use crate::host::user::UserPtr;
use crate::hw::Vendor;
use crate::pc::control;
use crate::pc::control::Controls;
use crate::pc::lapic::Initiator;
use crate::pc::regs::Attributes;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
use crate::pc::regs::DescriptorTable;
use crate::pc::regs::Dr6;
use crate::pc::regs::Dr7;
use crate::pc::regs::Efer;
use crate::pc::regs::Reg;
use crate::pc::regs::Rflags;
use crate::pc::regs::SegReg;
use crate::pc::regs::Segment;
use crate::uapi;
use crate::uapi::kvm_debugregs;
use crate::uapi::kvm_dtable;
use crate::uapi::kvm_fpu;
use crate::uapi::kvm_regs;
use crate::uapi::kvm_segment;
use crate::uapi::kvm_sregs;
use crate::uapi::kvm_sregs2;
use crate::uapi::kvm_xcr;
use crate::uapi::kvm_xcrs;
use crate::uapi::Pod;
use crate::vm::model;
use crate::vm::vcpu::MpState;
use crate::vm::vcpu::Vcpu;
use core::mem::offset_of;
use kernel::prelude::*;

fn segment_out(segment: &Segment) -> kvm_segment {
    let attributes = segment.attributes;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: attributes.kind(),
        present: u8::from(attributes.present()),
        dpl: attributes.dpl(),
        db: u8::from(attributes.default_big()),
        s: u8::from(attributes.is_code_or_data()),
        l: u8::from(attributes.long()),
        g: u8::from(attributes.granular()),
        avl: u8::from(attributes.available()),
        unusable: u8::from(attributes.unusable()),
        padding: 0,
    }
}

fn segment_in(segment: &kvm_segment) -> Segment {
    Segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        attributes: Attributes::from_fields(
            segment.type_,
            segment.s,
            segment.dpl,
            segment.present,
            segment.avl,
            segment.l,
            segment.db,
            segment.g,
            segment.unusable,
        ),
    }
}

fn table_out(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable {
        base: table.base,
        limit: table.limit,
        padding: [0; 3],
    }
}

fn table_in(table: &kvm_dtable) -> DescriptorTable {
    DescriptorTable {
        base: table.base,
        limit: table.limit,
    }
}

/// What kvm_sregs and kvm_sregs2 have in common comes first in both.
const COMMON: usize = offset_of!(kvm_sregs, interrupt_bitmap);

const _: () = assert!(
    offset_of!(kvm_sregs2, flags) == COMMON
        && offset_of!(kvm_sregs2, apic_base) == offset_of!(kvm_sregs, apic_base)
        && offset_of!(kvm_sregs2, cr0) == offset_of!(kvm_sregs, cr0)
);

fn copy_common(from: &impl Pod, to: &mut impl Pod) {
    for (to, from) in to
        .as_bytes_mut()
        .iter_mut()
        .zip(from.as_bytes())
        .take(COMMON)
    {
        *to = *from;
    }
}

impl<V: Vendor> Vcpu<V> {
    /// KVM_GET_REGS.
    pub fn get_regs(&mut self) -> Result<kvm_regs> {
        let get = |reg| self.regs.gprs.get(reg);
        Ok(kvm_regs {
            rax: get(Reg::Rax),
            rbx: get(Reg::Rbx),
            rcx: get(Reg::Rcx),
            rdx: get(Reg::Rdx),
            rsi: get(Reg::Rsi),
            rdi: get(Reg::Rdi),
            rsp: get(Reg::Rsp),
            rbp: get(Reg::Rbp),
            r8: get(Reg::R8),
            r9: get(Reg::R9),
            r10: get(Reg::R10),
            r11: get(Reg::R11),
            r12: get(Reg::R12),
            r13: get(Reg::R13),
            r14: get(Reg::R14),
            r15: get(Reg::R15),
            rip: self.regs.rip,
            rflags: self.debug.hide_flags(self.regs.rflags).0,
        })
    }

    /// KVM_SET_REGS. What has been raised but not delivered is forgotten.
    pub fn set_regs(&mut self, regs: &kvm_regs) -> Result {
        for (reg, value) in [
            (Reg::Rax, regs.rax),
            (Reg::Rbx, regs.rbx),
            (Reg::Rcx, regs.rcx),
            (Reg::Rdx, regs.rdx),
            (Reg::Rsi, regs.rsi),
            (Reg::Rdi, regs.rdi),
            (Reg::Rsp, regs.rsp),
            (Reg::Rbp, regs.rbp),
            (Reg::R8, regs.r8),
            (Reg::R9, regs.r9),
            (Reg::R10, regs.r10),
            (Reg::R11, regs.r11),
            (Reg::R12, regs.r12),
            (Reg::R13, regs.r13),
            (Reg::R14, regs.r14),
            (Reg::R15, regs.r15),
        ] {
            self.regs.gprs.set(reg, value);
        }
        self.regs.rip = regs.rip;
        self.regs.rflags = self
            .debug
            .show_flags(Rflags(regs.rflags).with(Rflags::FIXED));
        self.events.exception = None;
        Ok(())
    }

    /// KVM_GET_SREGS.
    pub fn get_sregs(&mut self) -> Result<kvm_sregs> {
        let mut interrupt_bitmap = [0; 4];
        if let Some(vector) = self.events.interrupt_in_flight(self.lapic.is_some()) {
            if let Some(word) = interrupt_bitmap.get_mut(usize::from(vector >> 6)) {
                *word = 1 << (vector & 63);
            }
        }
        let mut sregs = kvm_sregs {
            interrupt_bitmap,
            ..kvm_sregs::default()
        };
        copy_common(&self.get_sregs2()?, &mut sregs);
        Ok(sregs)
    }

    /// KVM_GET_SREGS2.
    pub fn get_sregs2(&mut self) -> Result<kvm_sregs2> {
        let segment = |which| segment_out(&self.hw.segment(which));
        let pdptrs = self.hw.pdptes();
        Ok(kvm_sregs2 {
            cs: segment(SegReg::Cs),
            ds: segment(SegReg::Ds),
            es: segment(SegReg::Es),
            fs: segment(SegReg::Fs),
            gs: segment(SegReg::Gs),
            ss: segment(SegReg::Ss),
            tr: segment(SegReg::Tr),
            ldt: segment(SegReg::Ldtr),
            gdt: table_out(self.hw.gdtr()),
            idt: table_out(self.hw.idtr()),
            cr0: self.hw.cr0(),
            cr2: self.hw.cr2(),
            cr3: self.hw.cr3(),
            cr4: self.hw.cr4(),
            cr8: u64::from(self.cr8()),
            efer: self.hw.efer(),
            apic_base: self.apic_base(),
            flags: match pdptrs {
                Some(_) => uapi::KVM_SREGS2_FLAGS_PDPTRS_VALID,
                None => 0,
            },
            pdptrs: pdptrs.unwrap_or_default(),
        })
    }

    /// KVM_SET_SREGS.
    pub fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result {
        let mut common = kvm_sregs2::default();
        copy_common(sregs, &mut common);
        self.set_sregs2(&common)?;
        let in_flight = sregs
            .interrupt_bitmap
            .iter()
            .enumerate()
            .find(|(_, word)| **word != 0)
            .map(|(index, word)| (index as u8) << 6 | word.trailing_zeros() as u8);
        if in_flight.is_some() {
            self.events
                .set_interrupt_in_flight(in_flight, self.lapic.is_some());
        }
        Ok(())
    }

    /// KVM_SET_SREGS2.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a combination of CR0, CR4, EFER and CS that the processor
    /// would not enter, or bits that the guest's CPUID does not offer.
    pub fn set_sregs2(&mut self, sregs: &kvm_sregs2) -> Result {
        if sregs.flags & !uapi::KVM_SREGS2_FLAGS_PDPTRS_VALID != 0 {
            return Err(EINVAL);
        }
        let new = Controls {
            cr0: Cr0(sregs.cr0),
            cr3: sregs.cr3,
            cr4: Cr4(sregs.cr4),
            efer: Efer(sregs.efer),
            cs_l: sregs.cs.l != 0,
        };
        control::check_sregs(&new, self.model.caps()).map_err(|_| EINVAL)?;
        self.set_apic_base(sregs.apic_base, Initiator::Userspace)
            .map_err(|_| EINVAL)?;

        self.hw.set_gdtr(table_in(&sregs.gdt));
        self.hw.set_idtr(table_in(&sregs.idt));
        self.hw.set_cr2(sregs.cr2);
        self.hw.set_cr3(sregs.cr3);
        self.set_cr8(sregs.cr8 as u8);
        self.hw.set_efer(sregs.efer);
        self.hw.set_cr0(sregs.cr0);
        self.hw.set_cr4(sregs.cr4);
        for (which, segment) in [
            (SegReg::Cs, &sregs.cs),
            (SegReg::Ds, &sregs.ds),
            (SegReg::Es, &sregs.es),
            (SegReg::Fs, &sregs.fs),
            (SegReg::Gs, &sregs.gs),
            (SegReg::Ss, &sregs.ss),
            (SegReg::Tr, &sregs.tr),
            (SegReg::Ldtr, &sregs.ldt),
        ] {
            self.hw.set_segment(which, &segment_in(segment));
        }
        self.hw.flush_tlb();
        if sregs.flags & uapi::KVM_SREGS2_FLAGS_PDPTRS_VALID != 0 {
            self.hw.set_pdptes(&sregs.pdptrs);
        } else if self.hw.pdptes().is_some() && self.vm.memory.is_current_mm() {
            self.load_pdptes();
        }
        self.mirror_state_in_cpuid();
        // An older VMM starts its boot processor by state alone.
        let at_reset = sregs.cr0 & Cr0::PE.0 == 0 && sregs.cs.selector == 0xf000;
        if self.shared.id == self.vm.boot_cpu() && at_reset && self.regs.rip == 0xfff0 {
            self.mp_state = MpState::Runnable;
        }
        Ok(())
    }

    /// KVM_GET_FPU.
    pub fn get_fpu(&mut self) -> Result<kvm_fpu> {
        self.fpu.legacy()
    }

    /// KVM_SET_FPU.
    pub fn set_fpu(&mut self, state: &kvm_fpu) -> Result {
        self.fpu.set_legacy(state)
    }

    /// KVM_GET_XSAVE.
    pub fn get_xsave(&mut self, to: UserPtr) -> Result {
        let features = self.xsave_features();
        self.fpu
            .write_xsave(to, fpu::XSAVE_REGION, features, self.pkru)
    }

    /// KVM_GET_XSAVE2.
    pub fn get_xsave2(&mut self, to: UserPtr) -> Result {
        let features = self.xsave_features();
        let size = self.fpu.xsave_size();
        self.fpu.write_xsave(to, size, features, self.pkru)
    }

    /// KVM_SET_XSAVE: whatever guests can have here, as a VMM may set CPUID
    /// later.
    pub fn set_xsave(&mut self, from: UserPtr) -> Result {
        let features = model::platform()?.xcr0;
        self.fpu.read_xsave(from, features, &mut self.pkru)
    }

    /// The extended states this guest can have, by its CPUID.
    fn xsave_features(&self) -> u64 {
        self.model.caps().xcr0
    }

    /// KVM_GET_XCRS.
    pub fn get_xcrs(&mut self) -> Result<kvm_xcrs> {
        let mut xcrs = kvm_xcrs::default();
        if Xcr0::host().is_none() {
            return Ok(xcrs);
        }
        xcrs.nr_xcrs = 1;
        if let Some(first) = xcrs.xcrs.first_mut() {
            *first = kvm_xcr {
                xcr: 0,
                reserved: 0,
                value: self.xcr0.bits(),
            };
        }
        Ok(xcrs)
    }

    /// KVM_SET_XCRS.
    pub fn set_xcrs(&mut self, xcrs: &kvm_xcrs) -> Result {
        if Xcr0::host().is_none() || xcrs.flags != 0 {
            return Err(EINVAL);
        }
        let given = xcrs.xcrs.get(..xcrs.nr_xcrs as usize).ok_or(EINVAL)?;
        // XCR0 is the only one there is.
        for xcr in given.iter().filter(|xcr| xcr.xcr == 0) {
            self.set_xcr0(xcr.value).ok_or(EINVAL)?;
        }
        Ok(())
    }

    /// KVM_GET_DEBUGREGS.
    pub fn get_debugregs(&mut self) -> Result<kvm_debugregs> {
        Ok(kvm_debugregs {
            db: self.debug.addresses,
            dr6: self.regs.dr6.0,
            dr7: self.debug.dr7,
            ..kvm_debugregs::default()
        })
    }

    /// KVM_SET_DEBUGREGS.
    pub fn set_debugregs(&mut self, regs: &kvm_debugregs) -> Result {
        let valid_high = |value: u64| value >> 32 == 0;
        if regs.flags != 0 || !valid_high(regs.dr6) || !valid_high(regs.dr7) {
            return Err(EINVAL);
        }
        self.debug.addresses = regs.db;
        self.regs.dr6 = (Dr6(regs.dr6) & Dr6::CAUSES) | Dr6::RESET;
        self.debug.set_dr7(regs.dr7 | Dr7::RESET.0, &mut self.hw);
        Ok(())
    }
}
