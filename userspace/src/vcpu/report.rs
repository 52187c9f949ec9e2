// SPDX-License-Identifier: GPL-2.0-or-later

//! What is printed when a vCPU cannot go on: why, its registers, and the code it was at.

use std::fmt;

use kvm_bindings::{
    kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs, KVM_INTERNAL_ERROR_DELIVERY_EV,
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::message;

/// Why a vCPU cannot go on.
#[derive(Debug)]
pub enum Cause {
    /// It can; the user wants to know what it is doing.
    Asked,
    TripleFault,
    InternalError,
    FailEntry {
        reason: u64,
        cpu: u32,
    },
    MemoryFault {
        flags: u64,
        gpa: u64,
        size: u64,
    },
    /// KVM_RUN failed.
    Errno(i32),
    /// An exit for which nothing is set up.
    Unexpected(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => write!(f, "what it is doing"),
            Self::TripleFault => write!(f, "triple fault (KVM_EXIT_SHUTDOWN)"),
            Self::InternalError => write!(f, "KVM gave up (KVM_EXIT_INTERNAL_ERROR)"),
            Self::FailEntry { reason, cpu } => write!(
                f,
                "the processor refused to enter the guest (KVM_EXIT_FAIL_ENTRY, hardware reason {reason:#x}, host CPU {cpu})"
            ),
            Self::MemoryFault { flags, gpa, size } => write!(
                f,
                "guest memory is not accessible (KVM_EXIT_MEMORY_FAULT, {gpa:#x}, {size:#x} bytes, flags {flags:#x})"
            ),
            Self::Errno(errno) => {
                write!(f, "KVM_RUN failed: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Unexpected(exit) => write!(f, "unexpected exit from the guest: {exit}"),
        }
    }
}

/// How many bytes of code are shown.
const CODE_SIZE: usize = 24;
/// How many of them lie before the instruction pointer.
const CODE_BEFORE: u64 = 8;

/// Prints a report on vCPU `index` to stderr.
pub fn print(index: u32, fd: &mut VcpuFd, memory: &GuestMemoryMmap, cause: &Cause) {
    let mut text = format!("ironvm: vCPU {index}: {cause}\n");
    if matches!(cause, Cause::InternalError) {
        text += &internal_error(fd);
    }
    if matches!(cause, Cause::Asked) {
        text += &activity(fd);
    }
    match (fd.get_regs(), fd.get_sregs()) {
        (Ok(regs), Ok(sregs)) if matches!(cause, Cause::TripleFault) && is_reset(&regs, &sregs) => {
            text += "  (KVM has reset its registers: the processor does not keep them here)\n";
        }
        (Ok(regs), Ok(sregs)) => {
            text += &registers(&regs, &sregs);
            text += &code(memory, &regs, &sregs);
        }
        _ => text += "  (its registers cannot be read)\n",
    }
    message::to_stderr(format_args!("{text}"));
}

/// Whether a vCPU is in the state it has after a reset, which is all that SVM leaves of one that
/// shut down (APM volume 2, 15.14.3).
fn is_reset(regs: &kvm_regs, sregs: &kvm_sregs) -> bool {
    const RESET_VECTOR: u64 = 0xfff0;
    regs.rip == RESET_VECTOR && sregs.cs.selector == 0xf000 && sregs.cr0 & 1 == 0
}

/// Whether a vCPU runs, halts, or waits to be started.
fn activity(fd: &VcpuFd) -> String {
    let state = match fd.get_mp_state().map(|state| state.mp_state) {
        Ok(KVM_MP_STATE_RUNNABLE) => "running",
        Ok(KVM_MP_STATE_HALTED) => "halted",
        Ok(KVM_MP_STATE_UNINITIALIZED) => "not started yet",
        Ok(KVM_MP_STATE_INIT_RECEIVED) => "reset, waiting for its startup message",
        Ok(KVM_MP_STATE_SIPI_RECEIVED) => "about to start",
        _ => "unknown",
    };
    let interrupts = fd
        .get_lapic()
        .map_or_else(|_| String::new(), |apic| interrupts(&apic));
    format!("  state: {state}{interrupts}\n")
}

/// Which interrupts a local APIC has requested and in service.
fn interrupts(apic: &kvm_lapic_state) -> String {
    const TASK_PRIORITY: usize = 0x80;
    const IN_SERVICE: usize = 0x100;
    const REQUESTED: usize = 0x200;
    let vectors = |base: usize| {
        let set: Vec<String> = (0..256usize)
            .filter(|vector| {
                // 32 vectors to a register, registers 16 bytes apart.
                let byte = apic.regs.get(base + vector / 32 * 16 + vector / 8 % 4);
                byte.is_some_and(|byte| *byte as u8 >> (vector % 8) & 1 != 0)
            })
            .map(|vector| format!("{vector:#x}"))
            .collect();
        if set.is_empty() {
            "none".to_owned()
        } else {
            set.join(" ")
        }
    };
    let priority = apic.regs.get(TASK_PRIORITY).map_or(0, |byte| *byte as u8);
    format!(
        "; interrupts requested: {}; in service: {}; task priority {priority:#x}",
        vectors(REQUESTED),
        vectors(IN_SERVICE)
    )
}

fn internal_error(fd: &mut VcpuFd) -> String {
    // SAFETY: only called after an exit of this type, for which KVM filled this in.
    let error = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal };
    let name = match error.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction could not be emulated",
        KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions at once",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit during the delivery of an event",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an unexpected exit reason",
        _ => "unknown",
    };
    let mut text = format!("  suberror {}: {name}\n", error.suberror);
    let count = usize::try_from(error.ndata).unwrap_or(0);
    for (index, value) in error.data.iter().take(count).enumerate() {
        text += &format!("  data[{index}] {value:#018x}\n");
    }
    text
}

fn registers(regs: &kvm_regs, sregs: &kvm_sregs) -> String {
    let mut text = String::new();
    let general = [
        ("rax", regs.rax),
        ("rbx", regs.rbx),
        ("rcx", regs.rcx),
        ("rdx", regs.rdx),
        ("rsi", regs.rsi),
        ("rdi", regs.rdi),
        ("rbp", regs.rbp),
        ("rsp", regs.rsp),
        ("r8", regs.r8),
        ("r9", regs.r9),
        ("r10", regs.r10),
        ("r11", regs.r11),
        ("r12", regs.r12),
        ("r13", regs.r13),
        ("r14", regs.r14),
        ("r15", regs.r15),
        ("rip", regs.rip),
        ("rfl", regs.rflags),
        ("cr0", sregs.cr0),
        ("cr2", sregs.cr2),
        ("cr3", sregs.cr3),
        ("cr4", sregs.cr4),
        ("cr8", sregs.cr8),
        ("efer", sregs.efer),
        ("apic", sregs.apic_base),
    ];
    for line in general.chunks(4) {
        for (name, value) in line {
            text += &format!("  {name:<4} {value:016x}");
        }
        text += "\n";
    }
    let segments = [
        ("cs", &sregs.cs),
        ("ss", &sregs.ss),
        ("ds", &sregs.ds),
        ("es", &sregs.es),
        ("fs", &sregs.fs),
        ("gs", &sregs.gs),
        ("tr", &sregs.tr),
        ("ldt", &sregs.ldt),
    ];
    for (name, segment) in segments {
        text += &segment_line(name, segment);
    }
    for (name, table) in [("gdt", &sregs.gdt), ("idt", &sregs.idt)] {
        text += &format!(
            "  {name:<3}      base {:016x} limit {:08x}\n",
            table.base, table.limit
        );
    }
    text
}

fn segment_line(name: &str, segment: &kvm_segment) -> String {
    format!(
        "  {name:<3} {:04x} base {:016x} limit {:08x} type {:x} s {} dpl {} p {} l {} db {} g {}{}\n",
        segment.selector,
        segment.base,
        segment.limit,
        segment.type_,
        segment.s,
        segment.dpl,
        segment.present,
        segment.l,
        segment.db,
        segment.g,
        if segment.unusable != 0 { " unusable" } else { "" },
    )
}

fn code(memory: &GuestMemoryMmap, regs: &kvm_regs, sregs: &kvm_sregs) -> String {
    let linear = sregs.cs.base.wrapping_add(regs.rip);
    let mut text = "  code".to_owned();
    for offset in 0..CODE_SIZE as u64 {
        let address = linear.wrapping_sub(CODE_BEFORE).wrapping_add(offset);
        let marker = if offset == CODE_BEFORE { " <" } else { " " };
        let after = if offset == CODE_BEFORE { ">" } else { "" };
        text += marker;
        text += &match read_linear(memory, sregs, address) {
            Some(byte) => format!("{byte:02x}"),
            None => "??".to_owned(),
        };
        text += after;
    }
    text + "\n"
}

fn read_linear(memory: &GuestMemoryMmap, sregs: &kvm_sregs, address: u64) -> Option<u8> {
    let read = |gpa: u64| memory.read_obj::<u64>(GuestAddress(gpa)).ok();
    let physical = translate(sregs, address, read)?;
    memory.read_obj(GuestAddress(physical)).ok()
}

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const PTE_PRESENT: u64 = 1 << 0;
const PTE_LARGE: u64 = 1 << 7;
const PTE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where a linear address is in guest-physical memory, as far as long mode goes; other paging
/// modes are not worth the while of a report.
fn translate(sregs: &kvm_sregs, address: u64, read: impl Fn(u64) -> Option<u64>) -> Option<u64> {
    if sregs.cr0 & CR0_PG == 0 {
        return Some(address);
    }
    if sregs.efer & EFER_LMA == 0 || sregs.cr4 & CR4_PAE == 0 {
        return None;
    }
    let levels = if sregs.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
    let mut table = sregs.cr3 & PTE_ADDRESS;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let entry = read(table + (address >> shift & 511) * 8)?;
        if entry & PTE_PRESENT == 0 {
            return None;
        }
        let leaf = level == 0 || (level <= 2 && entry & PTE_LARGE != 0);
        if leaf {
            let within = (1u64 << shift) - 1;
            return Some((entry & PTE_ADDRESS & !within) | (address & within));
        }
        table = entry & PTE_ADDRESS;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn paging() -> kvm_sregs {
        kvm_sregs {
            cr0: CR0_PG | 1,
            cr3: 0x1000,
            cr4: CR4_PAE,
            efer: EFER_LMA,
            ..Default::default()
        }
    }

    #[test]
    fn small_and_large_pages() {
        let tables = HashMap::from([
            (0x1000 + 511 * 8, 0x2003u64),
            (0x2000 + 510 * 8, 0x3003),
            (0x3000, 0x4003),
            (0x3000 + 8, 0x1_0020_0083),
            (0x4000 + 8, 0x7003),
        ]);
        let read = |gpa| tables.get(&gpa).copied().or(Some(0));
        let base = 0xffff_ffff_8000_0000u64;
        assert_eq!(translate(&paging(), base + 0x1234, read), Some(0x7234));
        assert_eq!(
            translate(&paging(), base + 0x20_1234, read),
            Some(0x1_0020_1234)
        );
        assert_eq!(translate(&paging(), base + 0x2234, read), None);
        assert_eq!(translate(&paging(), 0x1234, read), None);
    }

    #[test]
    fn without_paging_addresses_are_physical() {
        assert_eq!(
            translate(&kvm_sregs::default(), 0x1234, |_| None),
            Some(0x1234)
        );
    }

    #[test]
    fn interrupts_are_listed_by_vector() {
        let mut apic = kvm_lapic_state::default();
        assert!(interrupts(&apic).contains("requested: none; in service: none"));
        apic.regs[0x210] = 1 << 1; // vectors 32 to 39 of the requests
        apic.regs[0x173] = -128; // vectors 248 to 255 of those in service
        let text = interrupts(&apic);
        assert!(text.contains("requested: 0x21; in service: 0xff"), "{text}");
    }

    #[test]
    fn code_marks_the_instruction() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        memory
            .write_slice(&[0x90, 0xf4], GuestAddress(0x100))
            .unwrap();
        let regs = kvm_regs {
            rip: 0x100,
            ..Default::default()
        };
        let text = code(&memory, &regs, &kvm_sregs::default());
        assert!(text.contains(" 00 <90> f4 00"), "{text}");
        let regs = kvm_regs {
            rip: 0,
            ..Default::default()
        };
        assert!(code(&memory, &regs, &kvm_sregs::default()).contains(" ?? <00>"));
    }
}
