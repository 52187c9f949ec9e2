// SPDX-License-Identifier: GPL-2.0-or-later

//! Instructions that exit and that the module answers: CPUID, RDMSR, WRMSR, hypercalls, RDTSC,
//! control and debug registers.

use ironvm_abi_tests::guest::{long_mode, Machine, Paging};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::{ioctl, processor_is_tcg};
use ironvm_abi_tests::{code32, code64, ensure, ensure_eq, skip, test, Exit, Outcome, Vcpu};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("cpu", cpuid_as_set),
    test!("cpu", cpuid_of_apic_id),
    test!("cpu", cpuid_beyond_range),
    test!("cpu", cpuid_osxsave_follows_cr4),
    test!("cpu", rdmsr_value),
    test!("cpu", wrmsr_value),
    test!("cpu", pat),
    test!("cpu", unknown_msr_faults),
    test!("cpu", wrmsr_non_canonical_faults),
    test!("cpu", hypercall_unknown),
    test!("cpu", hypercall_from_user_mode),
    test!("cpu", rdtsc_advances),
    test!("cpu", tsc_can_be_set),
    test!("cpu", tsc_khz),
    test!("cpu", control_registers),
    test!("cpu", bad_control_values_fault),
    test!("cpu", machine_checks_in_cr4),
    test!("cpu", debug_registers),
    test!("cpu", invlpg),
    test!("cpu", wbinvd_and_others),
    test!("cpu", syscall_to_kernel),
    test!("cpu", xsetbv_bad_value_faults),
    test!("cpu", efer_bits),
    test!("cpu", long_mode_enabled_without_paging),
];

fn cpuid_as_set() -> Outcome {
    let code = code64!(
        "cpuid",
        "mov r8d, ebx",
        "out 0x10, al",
        "mov eax, 0x40001234",
        "cpuid",
        "out 0x10, al",
    );
    let machine = Machine::new()?;
    let vcpu = machine.vm.vcpu(&machine.kvm, 0)?;
    let mut cpuid = machine.cpuid.clone();
    if let Some(leaf) = cpuid.leaf_mut(0, 0) {
        (leaf.ebx, leaf.ecx, leaf.edx) = (0x1111_1111, 0x2222_2222, 0x3333_3333);
    }
    cpuid.entries.push(kvm_cpuid_entry2 {
        function: 0x4000_1234,
        eax: 0xaaaa,
        ebx: 0xbbbb,
        ecx: 0xcccc,
        edx: 0xdddd,
        ..Default::default()
    });
    cpuid.set(&vcpu)?;
    machine.long_mode(&vcpu, code)?;
    // The upper halves are cleared.
    vcpu.change_regs(|r| (r.rax, r.rcx, r.rbx, r.rdx) = (0, !0 << 32, !0, !0))?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!(
        (r.rbx, r.rcx, r.rdx),
        (0x1111_1111, 0x2222_2222, 0x3333_3333),
        "leaf 0"
    );
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!(
        (r.rax, r.rbx, r.rcx, r.rdx),
        (0xaaaa, 0xbbbb, 0xcccc, 0xdddd),
        "own leaf"
    );
    Ok(())
}

fn cpuid_of_apic_id() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(5)?;
    machine.long_mode(&vcpu, code64!("mov eax, 1", "cpuid", "out 0x10, al"))?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rbx >> 24, 5, "APIC id of leaf 1");
    Ok(())
}

/// Beyond the highest leaf: all zero on AMD, the highest basic leaf on Intel.
fn cpuid_beyond_range() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, code64!("cpuid", "out 0x10, al"))?;
    vcpu.change_regs(|r| r.rax = 0x8fff_ffff)?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    let vendor = machine.cpuid.leaf(0, 0).map_or(0, |l| l.ebx);
    if vendor == u32::from_le_bytes(*b"Auth") {
        ensure_eq!(
            (r.rax, r.rbx, r.rcx, r.rdx),
            (0, 0, 0, 0),
            "leaf 0x8fffffff"
        );
    }
    Ok(())
}

fn cpuid_osxsave_follows_cr4() -> Outcome {
    let code = code64!(
        "mov eax, 1", "cpuid", "mov esi, ecx",
        "mov rax, cr4", "or eax, {osxsave}", "mov cr4, rax",
        "mov eax, 1", "cpuid", "mov edi, ecx",
        "out 0x10, al",
        osxsave = const CR4_OSXSAVE,
    );
    let (machine, vcpu) = long_mode(code)?;
    if machine.cpuid.leaf(1, 0).map_or(0, |l| l.ecx) & 1 << 26 == 0 {
        ironvm_abi_tests::skip!("no XSAVE");
    }
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!(
        (r.rsi >> 27 & 1, r.rdi >> 27 & 1),
        (0, 1),
        "OSXSAVE before, after"
    );
    Ok(())
}

fn rdmsr_value() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("rdmsr", "out 0x10, al"))?;
    let cases = [
        (MSR_STAR, 0x0023_0010_0000_0000),
        (MSR_LSTAR, 0xffff_8000_1234_5678),
        (MSR_KERNEL_GS_BASE, 0x7fff_1234_5678),
        (MSR_SYSENTER_CS, 0x10),
        // On AMD these two have 32 bits.
        (MSR_SYSENTER_EIP, 0xc000_1000),
    ];
    for (index, value) in cases {
        vcpu.set_msr(index, value)?;
        vcpu.change_regs(|r| (r.rip, r.rcx, r.rax, r.rdx) = (CODE, u64::from(index), !0, !0))?;
        vcpu.run_to_done()?;
        let r = vcpu.regs()?;
        ensure_eq!(
            (r.rax, r.rdx),
            (value & 0xffff_ffff, value >> 32),
            "EAX and EDX of MSR {index:#x}"
        );
    }
    Ok(())
}

fn wrmsr_value() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("wrmsr", "out 0x10, al"))?;
    let cases = [
        (MSR_STAR, 0x0033_0018_0000_0000u64),
        (MSR_LSTAR, 0xffff_8000_8765_4321),
        (MSR_KERNEL_GS_BASE, 0x1234_5678_9abc),
        (MSR_FS_BASE, 0x7777_0000),
        (MSR_SYSENTER_ESP, 0xc000_2000),
    ];
    for (index, value) in cases {
        vcpu.change_regs(|r| {
            (r.rip, r.rcx) = (CODE, u64::from(index) | 0xdead << 32);
            (r.rax, r.rdx) = (value & 0xffff_ffff | 0xbad << 32, value >> 32);
        })?;
        vcpu.run_to_done()?;
        ensure_eq!(vcpu.msr(index)?, value, "MSR {index:#x}");
    }
    ensure_eq!(vcpu.sregs()?.fs.base, 0x7777_0000, "FS base");
    Ok(())
}

/// A value that the guest writes and reads back, and one that is not a memory type.
fn pat() -> Outcome {
    let code = code64!(
        "mov ecx, 0x277",
        "mov eax, 0x06060606",
        "mov edx, 0x05050505",
        "wrmsr",
        "xor eax, eax",
        "rdmsr",
        "out 0x10, al",
        "mov eax, 0x02020202",
        "wrmsr",
        "hlt",
    );
    let (machine, vcpu) = long_mode(code)?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!((r.rax, r.rdx), (0x0606_0606, 0x0505_0505), "PAT");
    machine.expect_caught(&vcpu, GP)?;
    Ok(())
}

fn unknown_msr_faults() -> Outcome {
    let code = code64!("rdmsr", "nop", "wrmsr", "nop", "out 0x10, al");
    let (machine, vcpu) = long_mode(code)?;
    vcpu.change_regs(|r| r.rcx = u64::from(MSR_NONE))?;
    let caught = machine.expect_caught(&vcpu, GP)?;
    ensure_eq!((caught.rip, caught.error), (CODE, 0), "RIP, error of RDMSR");
    skip_on_stack(&machine, &vcpu, 2)?;
    let caught = machine.expect_caught(&vcpu, GP)?;
    ensure_eq!(
        (caught.rip, caught.error),
        (CODE + 3, 0),
        "RIP, error of WRMSR"
    );
    skip_on_stack(&machine, &vcpu, 2)?;
    vcpu.run_to_done()
}

/// Lets the handler return behind an instruction of `length` bytes.
pub fn skip_on_stack(machine: &Machine, vcpu: &Vcpu, length: u64) -> Outcome {
    // The handler has popped RAX: vector, error code, RIP.
    let at = vcpu.regs()?.rsp + 16;
    let rip: u64 = machine.read(at);
    machine.write(at, rip + length);
    Ok(())
}

fn wrmsr_non_canonical_faults() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("wrmsr", "hlt"))?;
    vcpu.set_msr(MSR_LSTAR, 0x1000)?;
    vcpu.change_regs(|r| (r.rcx, r.rdx, r.rax) = (u64::from(MSR_SYSENTER_EIP), 0x8000, 0))?;
    match vcpu.run_on()? {
        Exit::Hlt => ironvm_abi_tests::skip!("the processor itself takes such values"),
        exit => ensure!(exit.is_out(PORT_CAUGHT), "exit is {exit:x?}"),
    }
    ensure_eq!(machine.caught().vector, u64::from(GP), "vector");
    Ok(())
}

/// VMMCALL on AMD, VMCALL on Intel.
fn hypercall_code(machine: &Machine) -> &'static [u8] {
    let vendor = machine.cpuid.leaf(0, 0).map_or(0, |l| l.ebx);
    if vendor == u32::from_le_bytes(*b"Genu") {
        return code64!("vmcall", "out 0x10, al");
    }
    code64!("vmmcall", "out 0x10, al")
}

fn hypercall_unknown() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, hypercall_code(&machine))?;
    vcpu.change_regs(|r| (r.rax, r.rbx) = (0x7777, 5))?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    // Linux's KVM_ENOSYS.
    ensure_eq!(r.rax as i64, -1000, "RAX");
    ensure_eq!(r.rbx, 5, "RBX");
    // KVM_HC_VAPIC_POLL_IRQ does nothing and succeeds.
    vcpu.change_regs(|r| (r.rip, r.rax) = (CODE, 1))?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 0, "RAX of hypercall 1");
    Ok(())
}

/// From outside the kernel a hypercall is refused with `KVM_EPERM`, -1.
fn hypercall_from_user_mode() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let code = hypercall_code(&machine);
    machine.long_mode(&vcpu, code64!("iretq"))?;
    // The call, then an exception to come back by.
    machine.load(CODE2, &[&code[..3], &[0x0f, 0x0b]].concat());
    to_user_mode(&machine, &vcpu)?;
    vcpu.change_regs(|r| r.rax = 1)?;
    machine.expect_caught(&vcpu, UD)?;
    ensure_eq!(vcpu.regs()?.rax as i64, -1, "RAX");
    Ok(())
}

/// Puts a frame on the stack by which IRETQ goes to `CODE2` in user mode, and a kernel stack into
/// the TSS.
pub fn to_user_mode(machine: &Machine, vcpu: &Vcpu) -> Outcome {
    let top = STACKS + 0x800;
    let frame = [
        CODE2,
        u64::from(SEL_USER_CODE64),
        RFLAGS_FIXED,
        STACKS + 0x400,
        u64::from(SEL_USER_DATA),
    ];
    for (i, word) in (0..).zip(frame) {
        machine.write(top + 8 * i, word);
    }
    machine.write(TSS + 4, STACKS + 0xff0);
    vcpu.change_regs(|r| r.rsp = top)?;
    Ok(())
}

fn rdtsc_advances() -> Outcome {
    let code = code64!(
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov rbx, rax",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    let mut last = 0;
    for _ in 0..50 {
        vcpu.change_regs(|r| r.rip = CODE)?;
        vcpu.run_to_done()?;
        let r = vcpu.regs()?;
        ensure!(
            r.rbx > last && r.rax >= r.rbx,
            "TSC {last}, {}, {}",
            r.rbx,
            r.rax
        );
        last = r.rax;
    }
    Ok(())
}

fn tsc_can_be_set() -> Outcome {
    let (_machine, vcpu) = long_mode(code64!("rdtsc", "out 0x10, al"))?;
    vcpu.set_msr(MSR_TSC, 0x5000_0000_0000)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rdx, 0x5000, "upper half of the TSC");
    let now = vcpu.msr(MSR_TSC)?;
    ensure_eq!(now >> 32, 0x5000, "upper half of the TSC by KVM_GET_MSRS");
    Ok(())
}

fn tsc_khz() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let khz = ioctl(&vcpu, KVM_GET_TSC_KHZ, 0)?;
    ensure!(khz > 0, "TSC frequency is {khz} kHz");
    // Setting what it is already needs no scaling.
    ioctl(&vcpu, KVM_SET_TSC_KHZ, khz as u64)?;
    ensure_eq!(ioctl(&vcpu, KVM_GET_TSC_KHZ, 0)?, khz, "TSC frequency");
    Ok(())
}

fn control_registers() -> Outcome {
    let code = code64!(
        "mov rax, cr0", "or eax, {ts}", "mov cr0, rax", "mov rbx, cr0", "clts", "mov rcx, cr0",
        "mov rax, 7", "mov cr8, rax", "mov rdx, cr8",
        "mov rax, 0x123000", "mov cr2, rax", "mov rsi, cr2",
        "mov rdi, cr3", "mov cr3, rdi",
        "smsw r8", "mov r9, cr4",
        "out 0x10, al",
        ts = const CR0_TS,
    );
    let (_machine, vcpu) = long_mode(code)?;
    let before = vcpu.sregs()?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!(r.rbx, before.cr0 | CR0_TS, "CR0 with TS");
    ensure_eq!(r.rcx, before.cr0, "CR0 after CLTS");
    ensure_eq!(r.rdx, 7, "CR8");
    ensure_eq!(r.rsi, 0x12_3000, "CR2");
    ensure_eq!(r.rdi, PAGE_TABLES, "CR3");
    ensure_eq!(r.r8 & 0xffff, before.cr0 & 0xffff, "SMSW");
    // CR4.MCE (bit 6) is the host's, and on AMD the guest may see it.
    ensure_eq!(r.r9 & !(1 << 6), before.cr4, "CR4");
    ensure_eq!(vcpu.sregs()?.cr8, 7, "CR8 by KVM_GET_SREGS");
    ensure_eq!(vcpu.run_cr8(), 7, "CR8 in the shared area");
    Ok(())
}

fn bad_control_values_fault() -> Outcome {
    let cases: [(&str, &[u8], u64, u64); 5] = [
        (
            "CR0.PG off in long mode",
            code64!("mov cr0, rax"),
            CR0_PE | CR0_ET,
            3,
        ),
        (
            "CR0.NW without CD",
            code64!("mov cr0, rax"),
            CR0_PG | CR0_PE | CR0_NW,
            3,
        ),
        ("CR4.PAE off in long mode", code64!("mov cr4, rax"), 0, 3),
        (
            "CR4 reserved bit",
            code64!("mov cr4, rax"),
            CR4_PAE | 1 << 15,
            3,
        ),
        ("CR8 = 16", code64!("mov cr8, rax"), 16, 4),
    ];
    for (what, code, value, length) in cases {
        let (machine, vcpu) = long_mode(&[code, &[0xf4]].concat())?;
        vcpu.change_regs(|r| r.rax = value)?;
        let before = vcpu.sregs()?;
        let exit = vcpu.run_on()?;
        ensure!(exit.is_out(PORT_CAUGHT), "{what}: exit is {exit:x?}");
        let caught = machine.caught();
        let want = (u64::from(GP), CODE, 0);
        ensure_eq!((caught.vector, caught.rip, caught.error), want, "{what}");
        ensure!(length as usize == code.len(), "length of the instruction");
        let after = vcpu.sregs()?;
        let values = |s: &kvm_sregs| (s.cr0, s.cr3, s.cr4, s.cr8);
        ensure_eq!(values(&after), values(&before), "{what}: control registers");
    }
    Ok(())
}

/// CR4.MCE reads as the guest has written it, whatever is in force: the host's machine checks are
/// not the guest's to turn off.
fn machine_checks_in_cr4() -> Outcome {
    const MCE: u64 = 1 << 6;
    if processor_is_tcg() {
        skip!("QEMU's processor does not intercept reads of CR4");
    }
    let code = code64!(
        "mov rax, cr4",
        "mov rbx, rax",
        "or rax, 0x40",
        "mov cr4, rax",
        "mov rcx, cr4",
        "out 0x10, al",
        "and rax, ~0x40",
        "mov cr4, rax",
        "mov rdx, cr4",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    let without = vcpu.sregs()?.cr4;
    ensure_eq!(without & MCE, 0, "MCE in the beginning");
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!((r.rbx, r.rcx), (without, without | MCE), "CR4 before, set");
    ensure_eq!(vcpu.sregs()?.cr4, without | MCE, "CR4 by KVM_GET_SREGS");
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rdx, without, "CR4 cleared");
    ensure_eq!(vcpu.sregs()?.cr4, without, "CR4 by KVM_GET_SREGS");
    Ok(())
}

fn debug_registers() -> Outcome {
    let code = code64!(
        "mov rax, 0x1234",
        "mov dr0, rax",
        "mov rbx, dr0",
        "mov rcx, dr6",
        "mov rdx, dr7",
        "mov rax, 0x401",
        "mov dr7, rax",
        "mov rsi, dr7",
        "out 0x10, al",
    );
    let (_machine, vcpu) = long_mode(code)?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!(
        (r.rbx, r.rcx, r.rdx, r.rsi),
        (0x1234, 0xffff_0ff0, 0x400, 0x401),
        "DR0, DR6, DR7, DR7"
    );
    Ok(())
}

/// A changed entry counts after INVLPG.
fn invlpg() -> Outcome {
    let code = code64!(
        "mov rax, [rsi]",
        "mov [rdi], rcx",
        "invlpg [rsi]",
        "mov rbx, [rsi]",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    machine.write(DATA, 0x1111u64);
    machine.write(DATA2, 0x2222u64);
    vcpu.change_regs(|r| {
        r.rsi = DATA;
        r.rdi = Paging::Long.entry_address(DATA);
        r.rcx = DATA2 | PTE_P | PTE_W;
    })?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!((r.rax, r.rbx), (0x1111, 0x2222), "before, after");
    Ok(())
}

fn wbinvd_and_others() -> Outcome {
    let code = code64!(
        "wbinvd",
        "invd",
        "pause",
        "mfence",
        "lfence",
        "clflush [rsi]",
        "prefetchnta [rsi]",
        "sgdt [rsi]",
        "sidt [rsi + 16]",
        "str eax",
        "sldt ebx",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    vcpu.change_regs(|r| r.rsi = DATA)?;
    vcpu.run_to_done()?;
    ensure_eq!(machine.read::<u64>(DATA + 2), GDT, "SGDT");
    ensure_eq!(machine.read::<u64>(DATA + 18), IDT, "SIDT");
    ensure_eq!(vcpu.regs()?.rax, u64::from(SEL_TSS), "STR");
    Ok(())
}

fn syscall_to_kernel() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("iretq"))?;
    machine.load(CODE2, code64!("mov eax, 0x1234", "syscall"));
    machine.load(
        CODE2 + 0x100,
        code64!("swapgs", "mov rbx, gs:[0]", "swapgs", "out 0x10, al"),
    );
    machine.write(DATA, 0xfeed_u64);
    vcpu.change_sregs(|s| s.efer |= EFER_SCE)?;
    vcpu.set_msr(MSR_STAR, u64::from(SEL_CODE64) << 32)?;
    vcpu.set_msr(MSR_LSTAR, CODE2 + 0x100)?;
    vcpu.set_msr(MSR_KERNEL_GS_BASE, DATA)?;
    to_user_mode(&machine, &vcpu)?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!(
        (r.rax, r.rbx, r.rcx),
        (0x1234, 0xfeed, CODE2 + 7),
        "RAX, RBX, RCX"
    );
    ensure_eq!(vcpu.sregs()?.cs.selector, SEL_CODE64, "CS");
    Ok(())
}

fn xsetbv_bad_value_faults() -> Outcome {
    let code = code64!(
        "mov rax, cr4", "or eax, {osxsave}", "mov cr4, rax",
        "xor ecx, ecx", "xor edx, edx", "mov eax, 4", "xsetbv", "hlt",
        osxsave = const CR4_OSXSAVE,
    );
    let (machine, vcpu) = long_mode(code)?;
    if machine.cpuid.leaf(1, 0).map_or(0, |l| l.ecx) & 1 << 26 == 0 {
        ironvm_abi_tests::skip!("no XSAVE");
    }
    machine.expect_caught(&vcpu, GP)?;
    let xcrs: kvm_xcrs = vcpu.get(KVM_GET_XCRS)?;
    ensure_eq!(xcrs.xcrs[0].value, 1, "XCR0");
    Ok(())
}

/// The guest turns SYSCALL on and off; bits that nobody knows fault.
fn efer_bits() -> Outcome {
    let code = code64!(
        "mov ecx, 0xc0000080",
        "rdmsr",
        "mov ebx, eax",
        "or eax, 1",
        "wrmsr",
        "rdmsr",
        "out 0x10, al",
        "or eax, 2",
        "wrmsr",
        "hlt",
    );
    let (machine, vcpu) = long_mode(code)?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!(
        (r.rbx, r.rax),
        (EFER_LME | EFER_LMA, EFER_LME | EFER_LMA | EFER_SCE),
        "EFER"
    );
    ensure_eq!(vcpu.sregs()?.efer, EFER_LME | EFER_LMA | EFER_SCE, "EFER");
    machine.expect_caught(&vcpu, GP)?;
    Ok(())
}

/// EFER.LME while paging and PAE are off: legal, and nothing changes until paging is on.
///
/// QEMU's processor loses its host when a guest exits in this state with LME in the VMCB, as it is
/// with the kernel's own module: CR0 of the host is not restored, and the CPU runs on without
/// paging. The exit is not one that the host under test would survive.
fn long_mode_enabled_without_paging() -> Outcome {
    if processor_is_tcg() && std::path::Path::new("/sys/module/kvm_amd").exists() {
        ironvm_abi_tests::skip!("QEMU's processor does not restore the host's CR0");
    }
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let code = code32!(
        "mov ecx, 0xc0000080",
        "mov eax, 0x100",
        "xor edx, edx",
        "wrmsr",
        "xor eax, eax",
        "out 0x80, al",
        "rdmsr",
        "out 0x10, al",
    );
    machine.protected_mode(&vcpu, code)?;
    let exit = vcpu.run()?;
    ensure!(
        exit.is_out(0x80),
        "exit is {exit:x?}, {:x?}",
        machine.caught()
    );
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, EFER_LME, "EFER as the guest reads it");
    ensure_eq!(vcpu.sregs()?.efer, EFER_LME, "EFER as userspace reads it");
    Ok(())
}
