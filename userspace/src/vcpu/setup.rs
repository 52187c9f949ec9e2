// SPDX-License-Identifier: GPL-2.0-or-later

//! The state a vCPU starts in.

use anyhow::{bail, Context, Result};
use kvm_bindings::{
    kvm_cpuid_entry2, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, CpuId, Msrs,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::cpuid;
use crate::boot::{layout, Entry};

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always one.
const RFLAGS_FIXED: u64 = 1 << 1;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1 << 0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// Offsets into the local APIC's registers.
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const APIC_MODE_NMI: u32 = 4 << 8;
const APIC_MODE_EXTINT: u32 = 7 << 8;

/// Room for as many CPUID entries as KVM ever returns.
const CPUID_ENTRIES_MAX: usize = 256;

/// What CPUID says on this host, before it is made each vCPU's own.
///
/// # Errors
///
/// When KVM does not answer.
pub fn supported_cpuid(kvm: &Kvm) -> Result<CpuId> {
    match kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES) {
        Err(error) if error.errno() == libc::E2BIG => kvm.get_supported_cpuid(CPUID_ENTRIES_MAX),
        answer => answer,
    }
    .context("KVM does not say which CPUID it supports")
}

/// How many bits a guest-physical address has (leaf 0x80000008, EAX 7:0).
pub fn physical_address_bits(supported: &[kvm_cpuid_entry2]) -> u32 {
    const SIZES: u32 = 0x8000_0008;
    /// What processors without that leaf have.
    const LEAST: u32 = 36;
    const MOST: u32 = 52;
    supported
        .iter()
        .find(|entry| entry.function == SIZES)
        .map_or(LEAST, |entry| (entry.eax & 0xff).clamp(LEAST, MOST))
}

/// Gives vCPU `index` of `count` its CPUID, registers of a model and interrupt inputs.
///
/// # Errors
///
/// When KVM refuses something.
pub fn common(fd: &VcpuFd, kvm: &Kvm, supported: &CpuId, index: u32, count: u32) -> Result<()> {
    let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    let entries = cpuid::for_vcpu(
        supported.as_slice(),
        cpuid::Place {
            index,
            count,
            deadline_timer,
        },
    );
    let entries = CpuId::from_entries(&entries).context("too many CPUID entries")?;
    fd.set_cpuid2(&entries)
        .with_context(|| format!("KVM refused the CPUID of vCPU {index}"))?;
    set_msrs(
        fd,
        &[
            (MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
            (MSR_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
        ],
    )?;
    if index == 0 {
        wire_local_apic(fd)?;
    }
    Ok(())
}

fn set_msrs(fd: &VcpuFd, values: &[(u32, u64)]) -> Result<()> {
    let entries: Vec<_> = values
        .iter()
        .map(|&(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    let msrs = Msrs::from_entries(&entries).context("too many MSRs")?;
    let accepted = fd.set_msrs(&msrs).context("KVM refused to set MSRs")?;
    if let Some((index, _)) = values.get(accepted) {
        bail!("KVM refused to set MSR {index:#x}");
    }
    Ok(())
}

/// The boot processor's inputs: the PIC on LINT0, NMI on LINT1.
fn wire_local_apic(fd: &VcpuFd) -> Result<()> {
    let mut apic = fd.get_lapic().context("KVM does not show the local APIC")?;
    set_apic_register(&mut apic, APIC_LVT_LINT0, APIC_MODE_EXTINT);
    set_apic_register(&mut apic, APIC_LVT_LINT1, APIC_MODE_NMI);
    fd.set_lapic(&apic)
        .context("KVM refused the state of the local APIC")
}

fn set_apic_register(apic: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (register, byte) in apic.regs.iter_mut().skip(offset).zip(value.to_le_bytes()) {
        *register = byte as libc::c_char;
    }
}

/// A flat segment: base 0, limit 4 GiB.
fn flat(selector: u16, code: bool, long: bool) -> kvm_segment {
    const CODE_EXECUTE_READ_ACCESSED: u8 = 0xb;
    const DATA_READ_WRITE_ACCESSED: u8 = 0x3;
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: if code {
            CODE_EXECUTE_READ_ACCESSED
        } else {
            DATA_READ_WRITE_ACCESSED
        },
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

/// The selectors the 64-bit boot protocol asks for; PVH asks for none in particular.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;

fn task_segment() -> kvm_segment {
    const TSS_BUSY_32: u8 = 0xb;
    kvm_segment {
        base: 0,
        limit: 0x67,
        selector: TSS_SELECTOR,
        type_: TSS_BUSY_32,
        present: 1,
        ..Default::default()
    }
}

/// The descriptor of `segment`, as it lies in memory (APM volume 2, 4.7).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = if segment.g != 0 {
        segment.limit >> 12
    } else {
        segment.limit
    };
    let (base, limit) = (segment.base, u64::from(limit));
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

/// Puts the boot processor at the kernel's entry point.
///
/// # Errors
///
/// When KVM refuses the registers.
pub fn boot_processor(fd: &VcpuFd, memory: &GuestMemoryMmap, entry: Entry) -> Result<()> {
    let mut sregs = fd.get_sregs().context("KVM does not show the registers")?;
    let long = matches!(entry, Entry::Long { .. });
    let (code, data, task) = (
        flat(CODE_SELECTOR, true, long),
        flat(DATA_SELECTOR, false, false),
        task_segment(),
    );
    let table = [
        0,
        0,
        descriptor(&code),
        descriptor(&data),
        descriptor(&task),
        0,
    ];
    for (address, entry) in (layout::GDT_START..).step_by(8).zip(table) {
        memory
            .write_obj(entry.to_le(), GuestAddress(address))
            .context("cannot write the descriptor table")?;
    }
    sregs.gdt.base = layout::GDT_START;
    sregs.gdt.limit = (table.len() * 8 - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cs = code;
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = task;
    let mut regs = kvm_regs {
        rflags: RFLAGS_FIXED,
        ..Default::default()
    };
    match entry {
        Entry::Long { rip, boot_params } => {
            sregs.cr0 = CR0_PG | CR0_ET | CR0_PE;
            sregs.cr3 = layout::PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
            regs.rip = rip;
            regs.rsi = boot_params;
        }
        Entry::Pvh { eip, start_info } => {
            sregs.cr0 = CR0_ET | CR0_PE;
            sregs.cr4 = 0;
            sregs.efer = 0;
            regs.rip = eip;
            regs.rbx = start_info;
        }
    }
    fd.set_sregs(&sregs)
        .context("KVM refused the system registers")?;
    fd.set_regs(&regs).context("KVM refused the registers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_usual_ones() {
        assert_eq!(descriptor(&flat(0x10, true, true)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&flat(0x10, true, false)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&flat(0x18, false, false)), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task_segment()), 0x0000_8b00_0000_0067);
    }

    #[test]
    fn apic_registers_are_little_endian() {
        let mut apic = kvm_lapic_state::default();
        set_apic_register(&mut apic, APIC_LVT_LINT0, APIC_MODE_EXTINT);
        assert_eq!(apic.regs[0x350..0x354], [0, 7, 0, 0]);
    }
}
