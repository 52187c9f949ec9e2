// SPDX-License-Identifier: GPL-2.0-or-later

//! Descriptors: the GDT, gates, and the segment registers of each mode (APM volume 2, chapter 4).

use kvm_bindings::*;

use crate::layout::*;

const TYPE_CODE: u8 = 0xb;
const TYPE_DATA: u8 = 0x3;
const TYPE_TSS: u8 = 0xb;

/// A flat code or data segment with limit 4 GiB.
fn segment(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: (selector & 3) as u8,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    }
}

/// A real-mode segment register.
fn real_segment(base: u64, kind: u8) -> kvm_segment {
    kvm_segment {
        base,
        limit: 0xffff,
        selector: (base >> 4) as u16,
        type_: kind,
        present: 1,
        s: 1,
        ..Default::default()
    }
}

fn descriptor(s: &kvm_segment) -> u64 {
    let limit = u64::from(if s.g != 0 { s.limit >> 12 } else { s.limit });
    let access = u64::from(s.type_)
        | u64::from(s.s) << 4
        | u64::from(s.dpl) << 5
        | u64::from(s.present) << 7;
    let flags = u64::from(s.l) << 1 | u64::from(s.db) << 2 | u64::from(s.g) << 3;
    limit & 0xffff
        | (s.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (s.base >> 24 & 0xff) << 56
}

/// The 64-bit code segment of a privilege level.
pub fn code64(selector: u16) -> kvm_segment {
    kvm_segment {
        db: 0,
        l: 1,
        ..segment(selector, TYPE_CODE)
    }
}

/// The flat data segment of a selector.
pub fn data(selector: u16) -> kvm_segment {
    segment(selector, TYPE_DATA)
}

fn task(long: bool) -> kvm_segment {
    kvm_segment {
        base: TSS,
        limit: if long { 0x67 } else { 0x66 },
        selector: SEL_TSS,
        type_: TYPE_TSS,
        present: 1,
        ..Default::default()
    }
}

/// The descriptor table as bytes.
pub fn gdt() -> Vec<u8> {
    let code16 = kvm_segment {
        db: 0,
        g: 0,
        limit: 0xffff,
        ..segment(SEL_CODE16, TYPE_CODE)
    };
    let data16 = kvm_segment {
        db: 0,
        g: 0,
        limit: 0xffff,
        ..segment(SEL_DATA16, TYPE_DATA)
    };
    let rows = [
        0,
        descriptor(&code64(SEL_CODE64)),
        descriptor(&segment(SEL_DATA, TYPE_DATA)),
        descriptor(&segment(SEL_CODE32, TYPE_CODE)),
        descriptor(&code16),
        descriptor(&data16),
        descriptor(&segment(SEL_USER_DATA, TYPE_DATA)),
        descriptor(&code64(SEL_USER_CODE64)),
        descriptor(&task(true)),
        0,
    ];
    rows.iter().flat_map(|r: &u64| r.to_le_bytes()).collect()
}

/// Segment registers and tables for protected or long mode.
pub fn flat(sregs: &mut kvm_sregs, long: bool) {
    sregs.cs = if long {
        code64(SEL_CODE64)
    } else {
        segment(SEL_CODE32, TYPE_CODE)
    };
    let data = segment(SEL_DATA, TYPE_DATA);
    sregs.ds = data;
    sregs.es = data;
    sregs.ss = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.tr = task(long);
    sregs.ldt = kvm_segment {
        unusable: 1,
        ..Default::default()
    };
    sregs.gdt = kvm_dtable {
        base: GDT,
        limit: 10 * 8 - 1,
        ..Default::default()
    };
    sregs.idt = kvm_dtable {
        base: IDT,
        limit: if long { 256 * 16 - 1 } else { 256 * 8 - 1 },
        ..Default::default()
    };
}

/// Segment registers for real mode, with code at `code` and data from 0.
pub fn real(sregs: &mut kvm_sregs, code: u64) {
    sregs.cs = real_segment(code, TYPE_CODE);
    let data = real_segment(0, TYPE_DATA);
    sregs.ds = data;
    sregs.es = data;
    sregs.ss = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.idt = kvm_dtable {
        base: IVT,
        limit: 0x3ff,
        ..Default::default()
    };
    sregs.cr0 &= !(CR0_PE | CR0_PG);
    sregs.efer = 0;
}

/// A 64-bit interrupt gate; `ist` is 0 for none.
pub fn gate64(entry: u64, selector: u16, ist: u8) -> [u64; 2] {
    let low = entry & 0xffff
        | u64::from(selector) << 16
        | u64::from(ist) << 32
        | 0xee_u64 << 40
        | (entry >> 16 & 0xffff) << 48;
    [low, entry >> 32]
}

/// A 32-bit interrupt gate.
pub fn gate32(entry: u64, selector: u16) -> u64 {
    entry & 0xffff | u64::from(selector) << 16 | 0xee_u64 << 40 | (entry >> 16 & 0xffff) << 48
}
