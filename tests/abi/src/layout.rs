// SPDX-License-Identifier: GPL-2.0-or-later

//! Where things lie in the memory of a test's guest, and the bits of its registers.
//!
//! Addresses are guest-physical; every paging mode set up here maps the first 4 GiB to themselves.

/// Real-mode interrupt vectors, 4 bytes each.
pub const IVT: u64 = 0x0000;
/// Descriptor table: see the `SEL_` constants.
pub const GDT: u64 = 0x1000;
/// 64-bit task state segment.
pub const TSS: u64 = 0x1800;
/// Interrupt descriptors: 256 of 16 bytes (long mode) or of 8 (32-bit).
pub const IDT: u64 = 0x2000;
/// Exception stubs, `STUB_STRIDE` bytes each, 256 of them.
pub const STUBS: u64 = 0x3000;
/// Distance between two exception stubs.
pub const STUB_STRIDE: u64 = 16;
/// Where the default handler leaves what happened: see `guest::Caught`.
pub const CAUGHT: u64 = 0x4000;
/// Free for tests: counters that handlers count up, results. One page.
pub const DATA: u64 = 0x5000;
/// Free for tests, a page of its own.
pub const DATA2: u64 = 0x6000;
/// A handler or a second piece of code.
pub const CODE2: u64 = 0x7000;
/// The code of the first vCPU.
pub const CODE: u64 = 0x8000;
/// Top level of the page tables; the other levels follow.
pub const PAGE_TABLES: u64 = 0x1_0000;
/// First free address behind the page tables.
pub const PAGE_TABLES_END: u64 = 0x1_8000;
/// Stacks, `STACK_SIZE` bytes for each vCPU, growing down.
pub const STACKS: u64 = 0x2_0000;
/// Size of one vCPU's stack.
pub const STACK_SIZE: u64 = 0x1000;
/// Memory from here on is not used by the library.
pub const FREE: u64 = 0x4_0000;
/// Size of the memory of an ordinary test's guest.
pub const MEMORY: u64 = 0x40_0000;
/// An address in the first 4 GiB that no memory slot of a test covers.
pub const MMIO: u64 = 0xd000_0000;
/// The local APIC's registers.
pub const LAPIC: u64 = 0xfee0_0000;
/// The IOAPIC's registers.
pub const IOAPIC: u64 = 0xfec0_0000;

/// Port by which a guest says that it has finished.
pub const PORT_DONE: u16 = 0x10;
/// Port by which the default exception handler reports.
pub const PORT_CAUGHT: u16 = 0x11;

/// Selectors in the GDT.
pub const SEL_CODE64: u16 = 0x08;
pub const SEL_DATA: u16 = 0x10;
pub const SEL_CODE32: u16 = 0x18;
pub const SEL_CODE16: u16 = 0x20;
pub const SEL_DATA16: u16 = 0x28;
pub const SEL_USER_DATA: u16 = 0x33;
pub const SEL_USER_CODE64: u16 = 0x3b;
/// Takes two entries.
pub const SEL_TSS: u16 = 0x40;

pub const CR0_PE: u64 = 1 << 0;
pub const CR0_MP: u64 = 1 << 1;
pub const CR0_TS: u64 = 1 << 3;
pub const CR0_ET: u64 = 1 << 4;
pub const CR0_NE: u64 = 1 << 5;
pub const CR0_WP: u64 = 1 << 16;
pub const CR0_NW: u64 = 1 << 29;
pub const CR0_CD: u64 = 1 << 30;
pub const CR0_PG: u64 = 1 << 31;

pub const CR4_PSE: u64 = 1 << 4;
pub const CR4_PAE: u64 = 1 << 5;
pub const CR4_OSFXSR: u64 = 1 << 9;
pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
pub const CR4_LA57: u64 = 1 << 12;
pub const CR4_OSXSAVE: u64 = 1 << 18;
pub const CR4_SMEP: u64 = 1 << 20;

pub const EFER_SCE: u64 = 1 << 0;
pub const EFER_LME: u64 = 1 << 8;
pub const EFER_LMA: u64 = 1 << 10;
pub const EFER_NXE: u64 = 1 << 11;

pub const RFLAGS_FIXED: u64 = 1 << 1;
pub const RFLAGS_CF: u64 = 1 << 0;
pub const RFLAGS_ZF: u64 = 1 << 6;
pub const RFLAGS_TF: u64 = 1 << 8;
pub const RFLAGS_IF: u64 = 1 << 9;

/// Bits of a page-table entry.
pub const PTE_P: u64 = 1 << 0;
pub const PTE_W: u64 = 1 << 1;
pub const PTE_U: u64 = 1 << 2;
pub const PTE_PS: u64 = 1 << 7;
pub const PTE_NX: u64 = 1 << 63;

/// Vectors of exceptions.
pub const DE: u8 = 0;
pub const DB: u8 = 1;
pub const NMI: u8 = 2;
pub const BP: u8 = 3;
/// #OF.
pub const OVERFLOW: u8 = 4;
pub const UD: u8 = 6;
pub const DF: u8 = 8;
pub const GP: u8 = 13;
pub const PF: u8 = 14;

/// Model-specific registers that tests use.
pub const MSR_TSC: u32 = 0x10;
pub const MSR_APIC_BASE: u32 = 0x1b;
pub const MSR_TSC_ADJUST: u32 = 0x3b;
pub const MSR_SYSENTER_CS: u32 = 0x174;
pub const MSR_SYSENTER_ESP: u32 = 0x175;
pub const MSR_SYSENTER_EIP: u32 = 0x176;
pub const MSR_MISC_ENABLE: u32 = 0x1a0;
pub const MSR_PAT: u32 = 0x277;
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
pub const MSR_X2APIC: u32 = 0x800;
pub const MSR_EFER: u32 = 0xc000_0080;
pub const MSR_STAR: u32 = 0xc000_0081;
pub const MSR_LSTAR: u32 = 0xc000_0082;
pub const MSR_FS_BASE: u32 = 0xc000_0100;
pub const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// An index that no processor and no hypervisor gives a meaning.
pub const MSR_NONE: u32 = 0x1234_5678;

/// Offsets of local APIC registers; the x2APIC MSR is `MSR_X2APIC + offset / 16`.
pub const APIC_ID: u32 = 0x20;
pub const APIC_VERSION: u32 = 0x30;
pub const APIC_TPR: u32 = 0x80;
pub const APIC_PPR: u32 = 0xa0;
pub const APIC_EOI: u32 = 0xb0;
pub const APIC_SVR: u32 = 0xf0;
pub const APIC_ISR: u32 = 0x100;
pub const APIC_IRR: u32 = 0x200;
pub const APIC_ESR: u32 = 0x280;
pub const APIC_ICR: u32 = 0x300;
pub const APIC_ICR2: u32 = 0x310;
pub const APIC_LVT_TIMER: u32 = 0x320;
pub const APIC_LVT_LINT0: u32 = 0x350;
pub const APIC_LVT_LINT1: u32 = 0x360;
pub const APIC_TIMER_INITIAL: u32 = 0x380;
pub const APIC_TIMER_CURRENT: u32 = 0x390;
pub const APIC_TIMER_DIVIDE: u32 = 0x3e0;
pub const APIC_SELF_IPI: u32 = 0x3f0;
