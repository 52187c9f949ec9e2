// SPDX-License-Identifier: GPL-2.0-or-later

//! The modes of the CPU, and how a guest gets from one to the next.

use ironvm_abi_tests::guest::{long_mode, Machine, Paging};
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::{code16, code32, code64, ensure, ensure_eq, ensure_errno, skip, test};
use ironvm_abi_tests::{Exit, Outcome};
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    test!("paging", reset_vector),
    test!("paging", real_mode_segments),
    test!("paging", real_mode_interrupt_instruction),
    test!("paging", real_mode_big_segments),
    test!("paging", protected_mode),
    test!("paging", bits_32),
    test!("paging", pae),
    test!("paging", pae_bad_pdpte),
    test!("paging", long_mode_tables),
    test!("paging", five_levels),
    test!("paging", addresses_beyond_48_bits),
    test!("paging", boot_through_all_modes),
    test!("paging", back_to_real_mode),
    test!("paging", fault_per_mode),
    test!("paging", translate),
    test!("paging", translate_without_paging),
    test!("paging", write_protection),
    test!("paging", global_and_large_pages),
];

/// The first instruction is 16 bytes below 4 GiB.
fn reset_vector() -> Outcome {
    let machine = Machine::new()?;
    let memory = ironvm_abi_tests::sys::Mapping::anonymous(0x1_0000)?;
    // A jump within the segment, as firmware has there, then a far jump into low memory.
    memory.fill(0xfff0, code16!(".byte 0xeb, 0x8e"));
    memory.fill(0xff80, code16!(".byte 0xea", ".word 0", ".word 0x800"));
    machine.vm.map(1, KVM_MEM_READONLY, 0xffff_0000, &memory)?;
    machine.load(CODE, code16!("mov ax, cs", "out 0x10, al"));
    let vcpu = machine.vcpu(0)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax & 0xffff, 0x800, "CS");
    ensure_eq!(vcpu.sregs()?.cs.base, CODE, "base of CS");
    Ok(())
}

fn real_mode_segments() -> Outcome {
    let code = code16!(
        "mov ax, 0x0500",
        "mov ds, ax",
        "mov word ptr [0x10], 0x1234",
        "mov ax, 0x0600",
        "mov es, ax",
        "mov di, 0x20",
        "mov ax, 0x5678",
        "stosw",
        "push ds",
        "pop fs",
        "mov bx, fs:[0x10]",
        "out 0x10, al",
    );
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.real_mode(&vcpu, code)?;
    vcpu.run_to_done()?;
    ensure_eq!(machine.read::<u16>(0x5010), 0x1234, "DS:10");
    ensure_eq!(machine.read::<u16>(0x6020), 0x5678, "ES:20");
    ensure_eq!(vcpu.regs()?.rbx, 0x1234, "FS:10");
    Ok(())
}

fn real_mode_interrupt_instruction() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.real_mode(&vcpu, code16!("mov ax, 7", "int 0x21", "out 0x10, al"))?;
    machine.load(CODE2, code16!("add ax, ax", "iret"));
    machine.set_real_handler(0x21, CODE2 as u16);
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 14, "AX");
    ensure_eq!(vcpu.regs()?.rsp, 0x7f0, "SP");
    Ok(())
}

/// Limits of 4 GiB that stay from protected mode, as boot loaders use them.
fn real_mode_big_segments() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.real_mode(&vcpu, code16!("mov eax, [ebx]", "out 0x10, al"))?;
    vcpu.change_sregs(|s| {
        s.ds.limit = 0xffff_ffff;
        s.ds.g = 1;
    })?;
    machine.write(0x20_0000, 0xcafe_f00d_u32);
    vcpu.change_regs(|r| r.rbx = 0x20_0000)?;
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rax, 0xcafe_f00d, "value above 1 MiB");
    Ok(())
}

fn protected_mode() -> Outcome {
    let code = code32!(
        "mov eax, [0x5000]",
        "inc eax",
        "mov [0x5004], eax",
        "int3",
        "out 0x10, al"
    );
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.protected_mode(&vcpu, code)?;
    machine.write(DATA, 41u32);
    machine.expect_caught(&vcpu, BP)?;
    vcpu.run_to_done()?;
    ensure_eq!(machine.read::<u32>(DATA + 4), 42, "value");
    Ok(())
}

/// Memory through 4 KiB pages and large ones, a remapped page, a fault.
fn in_mode(paging: Paging) -> Outcome {
    let code32 = code32!(
        "mov eax, [esi]",
        "mov ebx, [edi]",
        "mov [esi], ebx",
        "out 0x10, al"
    );
    let code64 = code64!(
        "mov eax, [rsi]",
        "mov ebx, [rdi]",
        "mov [rsi], ebx",
        "out 0x10, al"
    );
    let machine = Machine::build(ironvm_abi_tests::guest::Chips::None, 16 << 20)?;
    let vcpu = machine.vcpu(0)?;
    machine.load(CODE, if paging.is_long() { code64 } else { code32 });
    machine.start(&vcpu, paging, CODE)?;
    let entry = paging.entry_address(DATA2);
    if paging == Paging::Bits32 {
        machine.write(entry, (DATA | PTE_P | PTE_W) as u32);
    } else {
        machine.write(entry, DATA | PTE_P | PTE_W);
    }
    let large = 9 << 20;
    machine.write(DATA, 0x1111_1111u32);
    machine.write(large, 0x2222_2222u32);
    vcpu.change_regs(|r| (r.rsi, r.rdi) = (DATA2, large))?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!((r.rax, r.rbx), (0x1111_1111, 0x2222_2222), "values");
    ensure_eq!(machine.read::<u32>(DATA), 0x2222_2222, "value written");
    Ok(())
}

fn bits_32() -> Outcome {
    in_mode(Paging::Bits32)
}

fn pae() -> Outcome {
    in_mode(Paging::Pae)
}

fn long_mode_tables() -> Outcome {
    in_mode(Paging::Long)
}

/// A PDPTE with reserved bits: loading CR3 faults.
fn pae_bad_pdpte() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.load(
        CODE,
        code32!("mov cr3, esi", "mov eax, [0x40000000]", "out 0x10, al"),
    );
    machine.start(&vcpu, Paging::Pae, CODE)?;
    let bad = FREE;
    let good: u64 = machine.read(vcpu.sregs()?.cr3);
    machine.write(bad, good);
    machine.write(bad + 8, good | 1 << 63);
    vcpu.change_regs(|r| r.rsi = bad)?;
    // With nested paging AMD's processors load PDPTEs when they use them: a page fault then.
    let exit = vcpu.run_on()?;
    ensure!(exit.is_out(PORT_CAUGHT), "exit is {exit:x?}");
    let vector = machine.caught().vector as u8;
    ensure!(vector == GP || vector == PF, "vector {vector}");
    Ok(())
}

fn five_levels() -> Outcome {
    let machine = Machine::new()?;
    let bit = machine.cpuid.leaf(7, 0).map_or(0, |l| l.ecx) & 1 << 16;
    let vcpu = machine.vcpu(0)?;
    if bit == 0 {
        let sregs = vcpu.sregs()?;
        machine.long_mode(&vcpu, code64!("hlt"))?;
        let result = vcpu.change_sregs(|s| s.cr4 |= CR4_LA57);
        ensure_errno!(result, libc::EINVAL, "CR4.LA57 without the feature");
        ensure_eq!(sregs.cr4, 0, "CR4 at start");
        skip!("the CPU has no five-level paging");
    }
    in_mode(Paging::Long5)
}

/// Memory, a base in an MSR, and what is not memory, by addresses that only five levels have. The
/// host may have four.
fn addresses_beyond_48_bits() -> Outcome {
    const FAR: u64 = 1 << 48;
    const NOWHERE: u64 = 0xd000_0000;
    let machine = Machine::new()?;
    if machine.cpuid.leaf(7, 0).map_or(0, |l| l.ecx) & 1 << 16 == 0 {
        skip!("the CPU has no five-level paging");
    }
    machine.load(
        CODE,
        code64!(
            "mov rax, {data}",
            "mov dword ptr [rax], 0x77",
            "mov rdx, rax",
            "shr rdx, 32",
            "mov ecx, 0xc0000102",
            "wrmsr",
            "mov rsi, {nowhere}",
            "mov [rsi], eax",
            "swapgs",
            "mov ebx, gs:[0]",
            "swapgs",
            "out 0x10, al",
            data = const FAR + DATA,
            nowhere = const FAR + NOWHERE,
        ),
    );
    let vcpu = machine.vcpu(0)?;
    machine.start(&vcpu, Paging::Long5, CODE)?;
    // The second 256 TiB are the first again.
    let top = vcpu.sregs()?.cr3;
    machine.write(top + 8, machine.read::<u64>(top));
    match vcpu.run_on()? {
        Exit::Mmio(write) if write.address == NOWHERE && write.write => {}
        exit => return Err(vcpu.unexpected(&exit)),
    }
    ensure_eq!(vcpu.msr(MSR_KERNEL_GS_BASE)?, FAR + DATA, "KERNEL_GS_BASE");
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rbx, 0x77, "what is at GS");
    ensure_eq!(machine.read::<u32>(DATA), 0x77, "what was written");
    Ok(())
}

/// Real mode, protected mode, paging, long mode: what a kernel's first instructions do.
fn boot_through_all_modes() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    // The tables as for a start in long mode, then back to real mode.
    machine.long_mode(&vcpu, code64!("hlt"))?;
    machine.write(0x6000, 79u16);
    machine.write(0x6002, GDT as u32);
    machine.real_mode(
        &vcpu,
        code16!(
            "cli",
            "lgdt [0x6000]",
            "mov eax, cr0",
            "or al, 1",
            "mov cr0, eax",
            // JMP 0x18:0x7000
            ".byte 0x66, 0xea",
            ".long 0x7000",
            ".word 0x18",
        ),
    )?;
    machine.load(
        0x7000,
        code32!(
            "mov eax, 0x10",
            "mov ds, eax",
            "mov ss, eax",
            "mov esp, 0x20f00",
            "mov eax, cr4",
            "or eax, 0x20",
            "mov cr4, eax",
            "mov eax, 0x10000",
            "mov cr3, eax",
            "mov ecx, 0xc0000080",
            "rdmsr",
            "or eax, 0x100",
            "wrmsr",
            "mov eax, cr0",
            "or eax, 0x80000000",
            "mov cr0, eax",
            // JMP 0x08:0x7100
            ".byte 0xea",
            ".long 0x7100",
            ".word 0x08",
        ),
    );
    machine.load(
        0x7100,
        code64!(
            "mov rax, 0x123456789abcdef0",
            "push rax",
            "pop rbx",
            "out 0x10, al"
        ),
    );
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rbx, 0x1234_5678_9abc_def0, "RBX");
    let sregs = vcpu.sregs()?;
    ensure_eq!(sregs.efer & EFER_LMA, EFER_LMA, "EFER.LMA");
    ensure_eq!(sregs.cs.l, 1, "CS.L");
    Ok(())
}

fn back_to_real_mode() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.protected_mode(
        &vcpu,
        // JMP 0x20:0x7000, the 16-bit segment.
        code32!(".byte 0xea", ".long 0x7000", ".word 0x20"),
    )?;
    machine.load(
        0x7000,
        code16!(
            "mov ax, 0x28",
            "mov ds, ax",
            "mov ss, ax",
            "mov eax, cr0",
            "and al, 0xfe",
            "mov cr0, eax",
            // JMP 0x0600:0x0000
            ".byte 0xea",
            ".word 0",
            ".word 0x600",
        ),
    );
    machine.load(
        0x6000,
        code16!("mov bx, cs", "xor ax, ax", "mov ds, ax", "out 0x10, al"),
    );
    vcpu.run_to_done()?;
    ensure_eq!(vcpu.regs()?.rbx & 0xffff, 0x600, "CS");
    ensure_eq!(vcpu.sregs()?.cr0 & 1, 0, "CR0.PE");
    Ok(())
}

fn fault_per_mode() -> Outcome {
    for paging in [Paging::Bits32, Paging::Pae, Paging::Long] {
        let machine = Machine::new()?;
        let vcpu = machine.vcpu(0)?;
        let code: &[u8] = if paging.is_long() {
            code64!("mov [rsi], eax", "out 0x10, al")
        } else {
            code32!("mov [esi], eax", "out 0x10, al")
        };
        machine.load(CODE, code);
        machine.start(&vcpu, paging, CODE)?;
        let entry = paging.entry_address(DATA2);
        machine.write(entry, 0u32);
        vcpu.change_regs(|r| r.rsi = DATA2 + 0x10)?;
        let caught = machine.expect_caught(&vcpu, PF)?;
        ensure_eq!((caught.cr2, caught.error), (DATA2 + 0x10, 2), "{paging:?}");
        machine.write(entry, (DATA2 | PTE_P | PTE_W) as u32);
        vcpu.run_to_done()?;
    }
    Ok(())
}

fn translate() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("hlt"))?;
    machine.write(Paging::Long.entry_address(DATA2), DATA | PTE_P | PTE_W);
    machine.write(Paging::Long.entry_address(DATA2 + 0x1000), 0u64);
    let ask = |address: u64| {
        let mut t = kvm_translation {
            linear_address: address,
            ..Default::default()
        };
        ironvm_abi_tests::sys::ioctl_mut(&vcpu, KVM_TRANSLATE, &mut t).map(|_| t)
    };
    let t = ask(DATA2 + 0x123)?;
    ensure_eq!(
        (t.valid, t.physical_address),
        (1, DATA + 0x123),
        "remapped page"
    );
    let t = ask(0x8012_3456)?;
    ensure_eq!(
        (t.valid, t.physical_address),
        (1, 0x8012_3456),
        "large page"
    );
    ensure_eq!(ask(DATA2 + 0x1000)?.valid, 0, "page that is not present");
    ensure_eq!(ask(0x7f00_0000_0000)?.valid, 0, "address without tables");
    Ok(())
}

fn translate_without_paging() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.protected_mode(&vcpu, code32!("hlt"))?;
    let mut t = kvm_translation {
        linear_address: 0x1234_5678,
        ..Default::default()
    };
    ironvm_abi_tests::sys::ioctl_mut(&vcpu, KVM_TRANSLATE, &mut t)?;
    ensure_eq!(
        (t.valid, t.physical_address),
        (1, 0x1234_5678),
        "without paging"
    );
    Ok(())
}

/// A read-only page may be written by the kernel if CR0.WP is clear.
fn write_protection() -> Outcome {
    let (machine, vcpu) = long_mode(code64!("mov [rsi], eax", "out 0x10, al"))?;
    machine.write(Paging::Long.entry_address(DATA2), DATA2 | PTE_P);
    vcpu.change_sregs(|s| s.cr0 &= !CR0_WP)?;
    vcpu.change_regs(|r| (r.rsi, r.rax) = (DATA2, 0x99))?;
    vcpu.run_to_done()?;
    ensure_eq!(machine.read::<u32>(DATA2), 0x99, "value");
    vcpu.change_sregs(|s| s.cr0 |= CR0_WP)?;
    vcpu.change_regs(|r| r.rip = CODE)?;
    let caught = machine.expect_caught(&vcpu, PF)?;
    ensure_eq!(caught.error, 3, "error code");
    Ok(())
}

/// A change of a global page's entry needs its INVLPG or a write of CR4.PGE.
fn global_and_large_pages() -> Outcome {
    let code = code64!(
        "mov rax, cr4",
        "or eax, 0x80",
        "mov cr4, rax",
        "mov ebx, [rsi]",
        "mov [rdi], r8",
        "mov rax, cr4",
        "and eax, 0xffffff7f",
        "mov cr4, rax",
        "mov ecx, [rsi]",
        "out 0x10, al",
    );
    let (machine, vcpu) = long_mode(code)?;
    let entry = Paging::Long.entry_address(DATA2);
    machine.write(entry, DATA2 | PTE_P | PTE_W | 1 << 8);
    machine.write(DATA2, 0xaaaau32);
    machine.write(DATA, 0xbbbbu32);
    vcpu.change_regs(|r| {
        (r.rsi, r.rdi) = (DATA2, entry);
        r.r8 = DATA | PTE_P | PTE_W;
    })?;
    vcpu.run_to_done()?;
    let r = vcpu.regs()?;
    ensure_eq!((r.rbx, r.rcx), (0xaaaa, 0xbbbb), "before, after");
    Ok(())
}
