// SPDX-License-Identifier: GPL-2.0-or-later

//! Registers of a vCPU: what is set comes back, what cannot be is refused (KVM API document, 4.11
//! to 4.14, 4.22, 4.31, 4.38, 4.43).

use ironvm_abi_tests::guest::{long_mode, Machine, Paging};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::ioctl;
use ironvm_abi_tests::{code64, ensure, ensure_eq, ensure_errno, skip, test, Exit, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("registers", regs_round_trip),
    test!("registers", regs_reach_guest),
    test!("registers", regs_of_guest_come_back),
    test!("registers", sregs_round_trip),
    test!("registers", sregs_segments),
    test!("registers", sregs_bad_values),
    test!("registers", sregs_bad_is_not_applied),
    test!("registers", sregs2),
    test!("registers", fpu_round_trip),
    test!("registers", fpu_reaches_guest),
    test!("registers", xsave_round_trip),
    test!("registers", xsave_before_cpuid),
    test!("registers", xsave_bad_values),
    test!("registers", xsave2_size),
    test!("registers", avx_reaches_guest),
    test!("registers", xcrs),
    test!("registers", debugregs),
    test!("registers", debugregs_reach_guest),
    test!("registers", vcpu_events),
    test!("registers", mp_state),
    test!("registers", bad_pointers),
    test!("registers", interrupt_bitmap),
    test!("registers", sync_regs),
];

fn regs_round_trip() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let regs = kvm_regs {
        rax: 1,
        rbx: 0x8000_0000_0000_0002,
        rcx: u64::MAX,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rsp: 0xffff_8000_0000_0000,
        rbp: 8,
        r8: 0x88,
        r9: 0x99,
        r10: 0x1010,
        r11: 0x1111,
        r12: 0x1212,
        r13: 0x1313,
        r14: 0x1414,
        r15: 0x1515_1515_1515_1515,
        rip: 0x1234_5678_9abc,
        rflags: 0xcd7,
    };
    vcpu.set_regs(&regs)?;
    ensure_eq!(vcpu.regs()?, regs, "registers");
    // Bit 1 of RFLAGS reads as 1 whatever is written.
    vcpu.set_regs(&kvm_regs { rflags: 0, ..regs })?;
    ensure_eq!(vcpu.regs()?.rflags, 2, "RFLAGS set to 0");
    Ok(())
}

fn regs_reach_guest() -> Outcome {
    // Everything is added up with a weight, so that no two may be exchanged.
    let code = code64!(
        "imul rbx, rbx, 3",
        "add rax, rbx",
        "imul rcx, rcx, 5",
        "add rax, rcx",
        "imul rdx, rdx, 7",
        "add rax, rdx",
        "imul rsi, rsi, 11",
        "add rax, rsi",
        "imul rdi, rdi, 13",
        "add rax, rdi",
        "imul rbp, rbp, 17",
        "add rax, rbp",
        "imul rsp, rsp, 19",
        "add rax, rsp",
        "imul r8, r8, 23",
        "add rax, r8",
        "imul r9, r9, 29",
        "add rax, r9",
        "imul r10, r10, 31",
        "add rax, r10",
        "imul r11, r11, 37",
        "add rax, r11",
        "imul r12, r12, 41",
        "add rax, r12",
        "imul r13, r13, 43",
        "add rax, r13",
        "imul r14, r14, 47",
        "add rax, r14",
        "imul r15, r15, 53",
        "add rax, r15",
        "hlt",
    );
    let (_machine, vcpu) = long_mode(code)?;
    let v = |n: u64| 0x1_0001 * n + 7;
    vcpu.change_regs(|r| {
        (r.rax, r.rbx, r.rcx, r.rdx) = (v(1), v(2), v(3), v(4));
        (r.rsi, r.rdi, r.rbp, r.rsp) = (v(5), v(6), v(7), v(8));
        (r.r8, r.r9, r.r10, r.r11) = (v(9), v(10), v(11), v(12));
        (r.r12, r.r13, r.r14, r.r15) = (v(13), v(14), v(15), v(16));
    })?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    let weights = [
        1, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53u64,
    ];
    let want: u64 = (1..).zip(weights).map(|(n, w)| v(n) * w).sum();
    ensure_eq!(vcpu.regs()?.rax, want, "weighted sum of the registers");
    Ok(())
}

fn regs_of_guest_come_back() -> Outcome {
    let code = code64!(
        "mov rax, 0x0101010101010101",
        "lea rbx, [rax + rax]",
        "lea rcx, [rbx + rax]",
        "lea rdx, [rcx + rax]",
        "lea rsi, [rdx + rax]",
        "lea rdi, [rsi + rax]",
        "lea rbp, [rdi + rax]",
        "lea rsp, [rbp + rax]",
        "lea r8, [rsp + rax]",
        "lea r9, [r8 + rax]",
        "lea r10, [r9 + rax]",
        "lea r11, [r10 + rax]",
        "lea r12, [r11 + rax]",
        "lea r13, [r12 + rax]",
        "lea r14, [r13 + rax]",
        "lea r15, [r14 + rax]",
        "hlt",
    );
    let (_machine, vcpu) = long_mode(code)?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    let r = vcpu.regs()?;
    let got = [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ];
    let want: Vec<u64> = (1..=16).map(|n| n * 0x0101_0101_0101_0101).collect();
    ensure_eq!(got.to_vec(), want, "registers");
    Ok(())
}

fn sregs_round_trip() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("hlt"))?;
    let mut sregs = vcpu.sregs()?;
    sregs.cr2 = 0x1234_5678_9abc_def0;
    sregs.cr8 = 5;
    sregs.fs.base = 0x1111_2222_3333;
    sregs.gs.base = 0xffff_8888_0000_0000;
    sregs.gdt.limit = 0x7f;
    sregs.idt.base = 0xffff_9999_0000_0000;
    vcpu.set_sregs(&sregs)?;
    let got = vcpu.sregs()?;
    ensure_eq!(got.cr2, sregs.cr2, "CR2");
    ensure_eq!(got.cr8, 5, "CR8");
    ensure_eq!(got.fs.base, sregs.fs.base, "FS base");
    ensure_eq!(got.gs.base, sregs.gs.base, "GS base");
    ensure_eq!(got.gdt.limit, 0x7f, "GDT limit");
    ensure_eq!(got.idt.base, sregs.idt.base, "IDT base");
    ensure_eq!(got.cr0, sregs.cr0, "CR0");
    ensure_eq!(got.cr3, sregs.cr3, "CR3");
    ensure_eq!(got.cr4, sregs.cr4, "CR4");
    ensure_eq!(got.efer, EFER_LME | EFER_LMA, "EFER");
    Ok(())
}

fn sregs_segments() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("hlt"))?;
    let before = vcpu.sregs()?;
    vcpu.set_sregs(&before)?;
    ensure_eq!(vcpu.sregs()?, before, "system registers set to themselves");
    ensure_eq!(
        (before.cs.l, before.cs.db, before.cs.type_ & 0xa),
        (1, 0, 0xa),
        "CS of long mode"
    );
    ensure_eq!(before.tr.selector, SEL_TSS, "TR");
    ensure_eq!(before.ldt.unusable, 1, "LDT is unusable");
    let mut sregs = before;
    sregs.ds.unusable = 1;
    sregs.ds.present = 0;
    vcpu.set_sregs(&sregs)?;
    let ds = vcpu.sregs()?.ds;
    ensure!(ds.unusable == 1 || ds.present == 0, "DS is usable: {ds:?}");
    Ok(())
}

fn sregs_bad_values() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("hlt"))?;
    let good = vcpu.sregs()?;
    type Change = fn(&mut kvm_sregs);
    let bad: [(&str, Change); 9] = [
        ("CR0.PG without PE", |s| s.cr0 &= !CR0_PE),
        ("CR0.NW without CD", |s| s.cr0 |= CR0_NW),
        ("CR0 above 32 bits", |s| s.cr0 |= 1 << 40),
        ("CR4 reserved bit", |s| s.cr4 |= 1 << 63),
        ("CR4 bit 15", |s| s.cr4 |= 1 << 15),
        ("long mode without PAE", |s| s.cr4 &= !CR4_PAE),
        ("CR3 reserved bit", |s| s.cr3 |= 1 << 62),
        ("EFER reserved bit", |s| s.efer |= 1 << 63),
        ("LMA without LME", |s| s.efer &= !EFER_LME),
    ];
    for (what, change) in bad {
        let mut sregs = good;
        change(&mut sregs);
        ensure_errno!(vcpu.set_sregs(&sregs), libc::EINVAL, "{what}");
    }
    ensure_eq!(vcpu.sregs()?, good, "registers after all refusals");
    Ok(())
}

/// Nothing of a refused structure is taken over.
fn sregs_bad_is_not_applied() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("hlt"))?;
    let good = vcpu.sregs()?;
    let mut bad = good;
    bad.gdt.base = 0x1234_0000;
    bad.cr2 = 0x99;
    bad.cr4 |= 1 << 63;
    ensure_errno!(vcpu.set_sregs(&bad), libc::EINVAL, "CR4 reserved bit");
    let after = vcpu.sregs()?;
    ensure_eq!(after.cr2, good.cr2, "CR2");
    ensure_eq!(after.gdt, good.gdt, "GDT");
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    Ok(())
}

fn sregs2() -> Outcome {
    let machine = Machine::new()?;
    if !machine.kvm.has(KVM_CAP_SREGS2) {
        skip!("no KVM_CAP_SREGS2");
    }
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, code64!("hlt"))?;
    let long: kvm_sregs2 = vcpu.get(KVM_GET_SREGS2)?;
    ensure_eq!(long.cr3, PAGE_TABLES, "CR3");
    ensure_eq!(long.flags, 0, "no PDPTRs in long mode");
    vcpu.set(KVM_SET_SREGS2, &long)?;
    let mut bad = long;
    bad.flags = 1 << 7;
    ensure_errno!(vcpu.set(KVM_SET_SREGS2, &bad), libc::EINVAL, "unknown flag");
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");

    machine.start(&vcpu, Paging::Pae, CODE)?;
    let pae: kvm_sregs2 = vcpu.get(KVM_GET_SREGS2)?;
    if pae.flags & 1 != 0 {
        ensure_eq!(pae.pdptrs[0], machine.read::<u64>(pae.cr3), "PDPTR 0");
    }
    vcpu.set(KVM_SET_SREGS2, &pae)?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit of PAE mode");
    Ok(())
}

/// MXCSR is in the structure, but KVM neither reads nor fills it.
fn fpu_round_trip() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let mut fpu: kvm_fpu = vcpu.get(KVM_GET_FPU)?;
    ensure_eq!(fpu.fcw, 0x37f, "FCW at start");
    fpu.fcw = 0x27f;
    fpu.fsw = 0x3800;
    fpu.ftwx = 0x81;
    for (i, x) in fpu.xmm.iter_mut().enumerate() {
        x.fill(i as u8 + 1);
    }
    for (i, r) in fpu.fpr.iter_mut().enumerate() {
        r[..10].fill(i as u8 + 0x40);
    }
    vcpu.set(KVM_SET_FPU, &fpu)?;
    let got: kvm_fpu = vcpu.get(KVM_GET_FPU)?;
    ensure_eq!(got.fcw, 0x27f, "FCW");
    ensure_eq!(got.fsw, 0x3800, "FSW");
    ensure_eq!(got.ftwx, 0x81, "FTW");
    ensure_eq!(got.xmm, fpu.xmm, "XMM registers");
    ensure_eq!(got.fpr, fpu.fpr, "x87 registers");
    Ok(())
}

/// The guest uses the registers first: with XSAVE, state that was never used is marked as initial,
/// and `KVM_SET_FPU` does not change the mark.
fn fpu_reaches_guest() -> Outcome {
    let code = code64!(
        "fld1",
        "pcmpeqd xmm3, xmm3",
        "out 0x10, al",
        "movups [rsi], xmm3",
        "fnstcw [rsi + 20]",
        "paddd xmm3, xmm3",
        "movaps xmm15, xmm3",
        "fld1",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    vcpu.run_to_done()?;
    let mut fpu: kvm_fpu = vcpu.get(KVM_GET_FPU)?;
    ensure_eq!(fpu.xmm[3], [0xff; 16], "XMM3 of the guest");
    fpu.xmm[3] = [0x11; 16];
    fpu.fcw = 0x27f;
    vcpu.set(KVM_SET_FPU, &fpu)?;
    vcpu.change_regs(|r| r.rsi = DATA)?;
    vcpu.run_to_done()?;
    ensure_eq!(machine.read::<[u8; 16]>(DATA), [0x11; 16], "XMM3");
    ensure_eq!(machine.read::<u16>(DATA + 20), 0x27f, "FCW");
    let got: kvm_fpu = vcpu.get(KVM_GET_FPU)?;
    ensure_eq!(got.xmm[15], [0x22; 16], "XMM15");
    ensure_eq!(got.fpr[0][9], 0x3f, "exponent of 1.0");
    Ok(())
}

const XSTATE_HEADER: usize = 512 / 4;

fn xsave_round_trip() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let mut area: kvm_xsave = vcpu.get(KVM_GET_XSAVE)?;
    area.region[0] = 0x027f;
    area.region[6] = 0x1fa0;
    for i in 0..64 {
        // The sixteen XMM registers.
        area.region[40 + i] = 0x0101_0101 * i as u32;
    }
    area.region[XSTATE_HEADER] |= 3;
    vcpu.set(KVM_SET_XSAVE, &area)?;
    let got: kvm_xsave = vcpu.get(KVM_GET_XSAVE)?;
    ensure_eq!(got.region[0] & 0xffff, 0x27f, "FCW");
    ensure_eq!(got.region[6], 0x1fa0, "MXCSR");
    ensure_eq!(
        got.region[40..104].to_vec(),
        area.region[40..104].to_vec(),
        "XMM registers"
    );
    let fpu: kvm_fpu = vcpu.get(KVM_GET_FPU)?;
    ensure_eq!(fpu.fcw, 0x27f, "FCW by KVM_GET_FPU");
    ensure_eq!(
        fpu.xmm[1],
        [4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7],
        "XMM1"
    );
    Ok(())
}

/// A VMM that restores a guest may set its extended state before its CPUID, or give the guest
/// less than the state has.
fn xsave_before_cpuid() -> Outcome {
    let machine = Machine::new()?;
    let Some(states) = machine.cpuid.leaf(0xd, 0).map(|l| l.eax) else {
        skip!("no XSAVE");
    };
    ensure!(states > 3, "states are {states:#x}");
    let mut area: kvm_xsave = machine.vcpu(0)?.get(KVM_GET_XSAVE)?;
    area.region[XSTATE_HEADER] = states;
    for index in 1..=2 {
        let vcpu = machine.vm.vcpu(&machine.kvm, index)?;
        if index == 2 {
            ironvm_abi_tests::lists::Cpuid { entries: vec![] }.set(&vcpu)?;
        }
        vcpu.set(KVM_SET_XSAVE, &area)?;
    }
    Ok(())
}

fn xsave_bad_values() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let good: kvm_xsave = vcpu.get(KVM_GET_XSAVE)?;
    let mut bad = good.region;
    bad[XSTATE_HEADER + 1] = 1 << 31;
    let set = |region: [u32; 1024]| {
        let area = kvm_xsave {
            region,
            ..Default::default()
        };
        vcpu.set(KVM_SET_XSAVE, &area)
    };
    ensure_errno!(set(bad), libc::EINVAL, "state component 63");
    let mut bad = good.region;
    bad[6] = 0xffff_ffff;
    bad[XSTATE_HEADER] |= 3;
    ensure_errno!(set(bad), libc::EINVAL, "MXCSR with reserved bits");
    set(good.region)?;
    Ok(())
}

fn xsave2_size() -> Outcome {
    let machine = Machine::new()?;
    if !machine.vm.has(KVM_CAP_XSAVE2) {
        skip!("no KVM_CAP_XSAVE2");
    }
    let size = machine.vm.extension(KVM_CAP_XSAVE2)? as usize;
    let vcpu = machine.vcpu(0)?;
    let mut area = vec![u64::MAX; size / 8 + 1];
    ironvm_abi_tests::sys::ioctl_buffer(&vcpu, KVM_GET_XSAVE2, &mut area)?;
    ensure_eq!(area[size / 8], u64::MAX, "word behind the {size} bytes");
    ensure!(
        area[size / 8 - 1] != u64::MAX,
        "the area is not {size} bytes"
    );
    Ok(())
}

fn avx_reaches_guest() -> Outcome {
    const OSXSAVE_AVX: u32 = 1 << 26 | 1 << 28;
    let code = code64!(
        "mov rax, cr4",
        "or eax, {osxsave}",
        "mov cr4, rax",
        "xor ecx, ecx",
        "xor edx, edx",
        "mov eax, 7",
        "xsetbv",
        "vmovups ymm5, [rsi]",
        "out 0x10, al",
        "vmovups [rdi], ymm5",
        "out 0x10, al",
        osxsave = const CR4_OSXSAVE,
    );
    let (machine, vcpu) = long_mode(code)?;
    let features = machine.cpuid.leaf(1, 0).map_or(0, |l| l.ecx);
    if features & OSXSAVE_AVX != OSXSAVE_AVX {
        skip!("no AVX");
    }
    let pattern: Vec<u8> = (0x80..0xa0).collect();
    machine.load(DATA, &pattern);
    vcpu.change_regs(|r| (r.rsi, r.rdi) = (DATA, DATA2))?;
    vcpu.run_to_done()?;
    let mut area: kvm_xsave = vcpu.get(KVM_GET_XSAVE)?;
    ensure!(
        area.region[XSTATE_HEADER] & 4 != 0,
        "AVX state is not in use"
    );
    // Component 2 lies at 576 in the standard form.
    let upper = 576 / 4 + 5 * 4;
    ensure_eq!(area.region[upper], 0x9392_9190, "upper half of YMM5");
    area.region[upper] = 0x7766_5544;
    vcpu.set(KVM_SET_XSAVE, &area)?;
    vcpu.run_to_done()?;
    ensure_eq!(machine.read::<[u8; 16]>(DATA2)[..], pattern[..16], "lower");
    ensure_eq!(machine.read::<u32>(DATA2 + 16), 0x7766_5544, "upper");
    Ok(())
}

fn xcrs() -> Outcome {
    let machine = Machine::new()?;
    if !machine.kvm.has(KVM_CAP_XCRS) {
        skip!("no KVM_CAP_XCRS");
    }
    let vcpu = machine.vcpu(0)?;
    let mut xcrs: kvm_xcrs = vcpu.get(KVM_GET_XCRS)?;
    ensure_eq!((xcrs.nr_xcrs, xcrs.xcrs[0].xcr), (1, 0), "XCRs at start");
    ensure_eq!(xcrs.xcrs[0].value, 1, "XCR0 at start");
    xcrs.xcrs[0].value = 3;
    vcpu.set(KVM_SET_XCRS, &xcrs)?;
    let got: kvm_xcrs = vcpu.get(KVM_GET_XCRS)?;
    ensure_eq!(got.xcrs[0].value, 3, "XCR0");
    for bad in [0, 2, 1 << 63, 4 | 1] {
        xcrs.xcrs[0].value = bad;
        let result = vcpu.set(KVM_SET_XCRS, &xcrs);
        ensure_errno!(result, libc::EINVAL, "XCR0 = {bad:#x}");
    }
    xcrs.xcrs[0].value = 1;
    xcrs.flags = 1;
    ensure_errno!(vcpu.set(KVM_SET_XCRS, &xcrs), libc::EINVAL, "flags");
    xcrs.flags = 0;
    xcrs.nr_xcrs = 17;
    ensure_errno!(vcpu.set(KVM_SET_XCRS, &xcrs), libc::EINVAL, "17 XCRs");
    Ok(())
}

fn debugregs() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let set = kvm_debugregs {
        db: [0x1000, 0x2000, 0x3000, 0xffff_8000_0000_0000],
        dr6: 0xffff_0ff1,
        dr7: 0x401,
        ..Default::default()
    };
    vcpu.set(KVM_SET_DEBUGREGS, &set)?;
    let got: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    ensure_eq!(got.db, set.db, "DR0 to DR3");
    ensure_eq!(got.dr6, set.dr6, "DR6");
    ensure_eq!(got.dr7, set.dr7, "DR7");
    for bad in [
        kvm_debugregs { flags: 1, ..set },
        kvm_debugregs {
            dr6: 1 << 32,
            ..set
        },
        kvm_debugregs {
            dr7: 1 << 32,
            ..set
        },
    ] {
        let result = vcpu.set(KVM_SET_DEBUGREGS, &bad);
        ensure_errno!(result, libc::EINVAL, "{bad:x?}");
    }
    Ok(())
}

fn debugregs_reach_guest() -> Outcome {
    let code = code64!(
        "mov rax, dr0",
        "mov rbx, dr3",
        "mov rcx, 0x7777",
        "mov dr1, rcx",
        "hlt",
    );
    let (_machine, vcpu) = long_mode(code)?;
    let set = kvm_debugregs {
        db: [0x1000, 0x2000, 0x3000, 0x4000],
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        ..Default::default()
    };
    vcpu.set(KVM_SET_DEBUGREGS, &set)?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    let regs = vcpu.regs()?;
    ensure_eq!(
        (regs.rax, regs.rbx),
        (0x1000, 0x4000),
        "DR0, DR3 in the guest"
    );
    let got: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS)?;
    ensure_eq!(got.db, [0x1000, 0x7777, 0x3000, 0x4000], "DR0 to DR3");
    Ok(())
}

fn vcpu_events() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let clean: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    ensure_eq!(clean.exception.injected, 0, "exception at start");
    ensure_eq!(clean.interrupt.injected, 0, "interrupt at start");
    ensure_eq!(clean.nmi.pending, 0, "NMI at start");
    let mut events = clean;
    events.nmi.masked = 1;
    events.interrupt.shadow = 1;
    events.flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING;
    vcpu.set(KVM_SET_VCPU_EVENTS, &events)?;
    let got: kvm_vcpu_events = vcpu.get(KVM_GET_VCPU_EVENTS)?;
    ensure_eq!(got.nmi.masked, 1, "NMI mask");
    ensure!(got.interrupt.shadow != 0, "interrupt shadow");
    let mut bad = clean;
    bad.flags = 1 << 20;
    let result = vcpu.set(KVM_SET_VCPU_EVENTS, &bad);
    ensure_errno!(result, libc::EINVAL, "unknown flag");
    let mut bad = clean;
    bad.exception.injected = 1;
    bad.exception.nr = 32;
    let result = vcpu.set(KVM_SET_VCPU_EVENTS, &bad);
    ensure_errno!(result, libc::EINVAL, "exception 32");
    let mut bad = clean;
    bad.exception.injected = 1;
    bad.exception.nr = 2;
    let result = vcpu.set(KVM_SET_VCPU_EVENTS, &bad);
    ensure_errno!(result, libc::EINVAL, "NMI as an exception");
    Ok(())
}

fn mp_state() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let get = |v: &ironvm_abi_tests::Vcpu| v.get::<kvm_mp_state>(KVM_GET_MP_STATE);
    let set = |state| {
        let state = kvm_mp_state { mp_state: state };
        vcpu.set(KVM_SET_MP_STATE, &state)
    };
    ensure_eq!(get(&vcpu)?.mp_state, KVM_MP_STATE_RUNNABLE, "state");
    set(KVM_MP_STATE_RUNNABLE)?;
    // Without local APICs in the module there is no other state.
    for state in [
        KVM_MP_STATE_INIT_RECEIVED,
        KVM_MP_STATE_HALTED,
        KVM_MP_STATE_SIPI_RECEIVED,
        KVM_MP_STATE_STOPPED,
        0x99,
    ] {
        ensure_errno!(set(state), libc::EINVAL, "state {state} without irqchip");
    }
    let machine = Machine::with_irqchip()?;
    let (first, second) = (machine.vcpu(0)?, machine.vcpu(1)?);
    ensure_eq!(get(&first)?.mp_state, KVM_MP_STATE_RUNNABLE, "vCPU 0");
    ensure_eq!(get(&second)?.mp_state, KVM_MP_STATE_UNINITIALIZED, "vCPU 1");
    for state in [
        KVM_MP_STATE_HALTED,
        KVM_MP_STATE_INIT_RECEIVED,
        KVM_MP_STATE_UNINITIALIZED,
        KVM_MP_STATE_RUNNABLE,
    ] {
        second.set(KVM_SET_MP_STATE, &kvm_mp_state { mp_state: state })?;
        ensure_eq!(get(&second)?.mp_state, state, "state");
    }
    for state in [KVM_MP_STATE_STOPPED, KVM_MP_STATE_OPERATING, 0x99] {
        let state = kvm_mp_state { mp_state: state };
        let result = second.set(KVM_SET_MP_STATE, &state);
        ensure_errno!(result, libc::EINVAL, "state {state:?}");
    }
    Ok(())
}

fn bad_pointers() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let vcpu = machine.vcpu(0)?;
    let calls = [
        KVM_GET_REGS,
        KVM_SET_REGS,
        KVM_GET_SREGS,
        KVM_SET_SREGS,
        KVM_GET_FPU,
        KVM_SET_FPU,
        KVM_GET_XSAVE,
        KVM_SET_XSAVE,
        KVM_GET_XCRS,
        KVM_SET_XCRS,
        KVM_GET_DEBUGREGS,
        KVM_SET_DEBUGREGS,
        KVM_GET_VCPU_EVENTS,
        KVM_SET_VCPU_EVENTS,
        KVM_GET_MP_STATE,
        KVM_SET_MP_STATE,
        KVM_GET_LAPIC,
        KVM_SET_LAPIC,
        KVM_GET_MSRS,
        KVM_SET_MSRS,
        KVM_SET_CPUID2,
        KVM_GET_CPUID2,
        KVM_TRANSLATE,
        KVM_INTERRUPT,
    ];
    for call in calls {
        for pointer in [8u64, 0x7fff_ffff_fff0, 0xffff_ffff_8000_0000] {
            ensure_errno!(
                ioctl(&vcpu, call, pointer),
                libc::EFAULT,
                "{} at {pointer:#x}",
                call.0
            );
        }
    }
    Ok(())
}

/// An interrupt set by `interrupt_bitmap` is delivered at the next entry.
fn interrupt_bitmap() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("sti", "nop", "hlt"))?;
    vcpu.change_regs(|r| r.rflags |= RFLAGS_IF)?;
    let mut sregs = vcpu.sregs()?;
    sregs.interrupt_bitmap[0x41 / 64] = 1 << (0x41 % 64);
    vcpu.set_sregs(&sregs)?;
    ensure_eq!(
        vcpu.sregs()?.interrupt_bitmap,
        sregs.interrupt_bitmap,
        "bitmap"
    );
    let caught = machine.expect_caught(&vcpu, 0x41)?;
    ensure_eq!(caught.rip, CODE, "RIP at the interrupt");
    ensure_eq!(vcpu.sregs()?.interrupt_bitmap, [0; 4], "bitmap after it");
    Ok(())
}

/// `KVM_CAP_SYNC_REGS`: registers in the shared area.
fn sync_regs() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("2:", "inc rbx", "hlt", "jmp 2b"))?;
    let kinds = machine.vm.extension(KVM_CAP_SYNC_REGS)?;
    if kinds & 1 == 0 {
        skip!("no KVM_CAP_SYNC_REGS");
    }
    let area: *mut kvm_run = vcpu.run.at(0);
    // SAFETY: the vCPU does not run; the area is mapped.
    unsafe { (*area).kvm_valid_regs = 1 };
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    // SAFETY: as above; the union has the one field.
    unsafe {
        ensure_eq!((*area).s.regs.regs.rbx, 1, "RBX in the area");
        (*area).s.regs.regs.rbx = 100;
        (*area).kvm_dirty_regs = 1;
    }
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    ensure_eq!(vcpu.regs()?.rbx, 101, "RBX");
    // SAFETY: as above.
    unsafe { (*area).kvm_valid_regs = 1 << 40 };
    ensure_errno!(vcpu.run(), libc::EINVAL, "unknown registers");
    Ok(())
}
