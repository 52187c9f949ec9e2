// SPDX-License-Identifier: GPL-2.0-or-later

//! MSRs by ioctl (KVM API document, 4.18, 4.19).

use ironvm_abi_tests::guest::Machine;
use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::ioctls::*;
use ironvm_abi_tests::layout::*;
use ironvm_abi_tests::sys::ioctl_buffer;
use ironvm_abi_tests::{ensure, ensure_eq, ensure_errno, lists, test, Outcome};

pub const TESTS: &[Test] = &[
    test!("msrs", listed_can_be_read),
    test!("msrs", listed_can_be_written_back),
    test!("msrs", set_and_get),
    test!("msrs", unknown_stops_the_list),
    test!("msrs", refused_value_stops_the_list),
    test!("msrs", too_many),
    test!("msrs", empty_list),
    test!("msrs", qemu_always_writes),
    test!("msrs", firecracker_writes),
    test!("msrs", apic_base_rules),
    test!("msrs", mtrrs),
    test!("msrs", machine_check_banks),
    test!("msrs", read_only_features),
];

fn listed_can_be_read() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let vcpu = machine.vcpu(0)?;
    let list = lists::msr_indices(&machine.kvm, KVM_GET_MSR_INDEX_LIST)?;
    let unread: Vec<_> = list
        .iter()
        .filter(|&&i| vcpu.msr(i).is_err())
        .map(|i| format!("{i:#x}"))
        .collect();
    ensure!(unread.is_empty(), "cannot be read: {}", unread.join(" "));
    Ok(())
}

fn listed_can_be_written_back() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let vcpu = machine.vcpu(0)?;
    let list = lists::msr_indices(&machine.kvm, KVM_GET_MSR_INDEX_LIST)?;
    let mut refused = Vec::new();
    for index in list {
        let value = vcpu.msr(index)?;
        if vcpu.set_msr(index, value).is_err() {
            refused.push(format!("{index:#x}={value:#x}"));
        }
    }
    ensure!(refused.is_empty(), "not taken back: {}", refused.join(" "));
    Ok(())
}

fn set_and_get() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let pairs = [
        (MSR_STAR, 0x1234_5678_9abc_def0),
        (MSR_LSTAR, 0xffff_ffff_8100_0000),
        (0xc000_0083, 0xffff_ffff_8200_0000),
        (0xc000_0084, 0x47700),
        (MSR_KERNEL_GS_BASE, 0xffff_8880_0000_0000),
        (MSR_FS_BASE, 0x7f12_3456_7000),
        (0xc000_0101, 0xffff_8881_0000_0000),
        (MSR_SYSENTER_CS, 0x10),
        (MSR_PAT, 0x0007_0106_0007_0106),
        (MSR_MISC_ENABLE, 1),
    ];
    ensure_eq!(lists::set_msrs(&vcpu, &pairs)?, pairs.len(), "MSRs written");
    let indices: Vec<u32> = pairs.iter().map(|p| p.0).collect();
    let (done, values) = lists::get_msrs(&vcpu, &indices)?;
    ensure_eq!(done, pairs.len(), "MSRs read");
    for (pair, value) in pairs.iter().zip(values) {
        ensure_eq!(value, pair.1, "MSR {:#x}", pair.0);
    }
    Ok(())
}

fn unknown_stops_the_list() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let (done, _) = lists::get_msrs(&vcpu, &[MSR_STAR, MSR_LSTAR, MSR_NONE, MSR_PAT])?;
    ensure_eq!(done, 2, "MSRs read");
    let (done, _) = lists::get_msrs(&vcpu, &[MSR_NONE])?;
    ensure_eq!(done, 0, "MSRs read");
    let pairs = [(MSR_STAR, 0x77), (MSR_NONE, 0), (MSR_LSTAR, 0x88)];
    ensure_eq!(lists::set_msrs(&vcpu, &pairs)?, 1, "MSRs written");
    ensure_eq!(vcpu.msr(MSR_STAR)?, 0x77, "MSR before the unknown one");
    ensure_eq!(vcpu.msr(MSR_LSTAR)?, 0, "MSR behind the unknown one");
    Ok(())
}

fn refused_value_stops_the_list() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let bad = [
        (MSR_LSTAR, 0x8000_0000_0000_0000),
        // Not canonical with five levels of paging either.
        (MSR_KERNEL_GS_BASE, 1 << 60),
        (MSR_PAT, 0x0202_0202_0202_0202),
        (MSR_EFER, 1 << 63),
        (0x2ff, 0x12),
    ];
    for (index, value) in bad {
        let pairs = [(MSR_STAR, 1), (index, value), (MSR_STAR, 2)];
        let done = lists::set_msrs(&vcpu, &pairs)?;
        ensure_eq!(done, 1, "MSRs written with {value:#x} for {index:#x}");
        ensure_eq!(vcpu.msr(MSR_STAR)?, 1, "MSR before the refused one");
    }
    Ok(())
}

fn too_many() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    for count in [256usize, 1000, 100_000] {
        let pairs = vec![(MSR_STAR, 0); count];
        let result = lists::set_msrs(&vcpu, &pairs);
        ensure_errno!(result, libc::E2BIG, "{count} MSRs to write");
        let indices = vec![MSR_STAR; count];
        let result = lists::get_msrs(&vcpu, &indices);
        ensure_errno!(result, libc::E2BIG, "{count} MSRs to read");
    }
    let (done, _) = lists::get_msrs(&vcpu, &[MSR_STAR; 255])?;
    ensure_eq!(done, 255, "MSRs read");
    let mut header = [0xffff_ffffu64];
    let result = ioctl_buffer(&vcpu, KVM_GET_MSRS, &mut header);
    ensure_errno!(result, libc::E2BIG, "2^32 - 1 MSRs");
    Ok(())
}

fn empty_list() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    ensure_eq!(lists::get_msrs(&vcpu, &[])?.0, 0, "MSRs read");
    ensure_eq!(lists::set_msrs(&vcpu, &[])?, 0, "MSRs written");
    Ok(())
}

/// QEMU stops if one of these is refused.
fn qemu_always_writes() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let vcpu = machine.vcpu(0)?;
    let banks = 10u64;
    let mut mce = banks | 1 << 8;
    ironvm_abi_tests::sys::ioctl_mut(&vcpu, KVM_X86_SETUP_MCE, &mut mce)?;
    let mut pairs = vec![
        (MSR_SYSENTER_CS, 0),
        (MSR_SYSENTER_ESP, 0),
        (MSR_SYSENTER_EIP, 0),
        (MSR_PAT, 0x0007_0406_0007_0406),
        (MSR_STAR, 0),
        (0xc000_0083, 0),
        (MSR_KERNEL_GS_BASE, 0),
        (0xc000_0084, 0),
        (MSR_LSTAR, 0),
        (MSR_TSC, 0),
        (0x2ff, 0),
        (0x250, 0),
        (0x258, 0),
        (0x259, 0),
    ];
    pairs.extend((0x268..=0x26f).map(|i| (i, 0)));
    pairs.extend((0x200..0x210).map(|i| (i, 0)));
    pairs.extend([(0x17a, 0), (0x17b, 0)]);
    pairs.extend((0x400..0x400 + 4 * banks as u32).map(|i| (i, 0)));
    for pair in &pairs {
        let done = lists::set_msrs(&vcpu, &[*pair])?;
        ensure_eq!(done, 1, "MSR {:#x}", pair.0);
    }
    ensure_eq!(lists::set_msrs(&vcpu, &pairs)?, pairs.len(), "all at once");
    Ok(())
}

fn firecracker_writes() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let vcpu = machine.vcpu(0)?;
    let pairs = [
        (MSR_SYSENTER_CS, 0),
        (MSR_SYSENTER_ESP, 0),
        (MSR_SYSENTER_EIP, 0),
        (MSR_STAR, 0),
        (0xc000_0083, 0),
        (MSR_KERNEL_GS_BASE, 0),
        (0xc000_0084, 0),
        (MSR_LSTAR, 0),
        (MSR_TSC, 0),
        (MSR_MISC_ENABLE, 1),
        // Write-back by default, MTRRs on.
        (0x2ff, 0x806),
    ];
    ensure_eq!(lists::set_msrs(&vcpu, &pairs)?, pairs.len(), "MSRs written");
    Ok(())
}

/// The x2APIC bit needs the enable bit; going from x2APIC to xAPIC needs a step in between, which
/// the host need not take.
fn apic_base_rules() -> Outcome {
    let machine = Machine::with_irqchip()?;
    let vcpu = machine.vcpu(0)?;
    let enabled = LAPIC | 1 << 11 | 1 << 8;
    ensure_eq!(vcpu.msr(MSR_APIC_BASE)?, enabled, "at start");
    let done = lists::set_msrs(&vcpu, &[(MSR_APIC_BASE, LAPIC | 1 << 10)])?;
    ensure_eq!(done, 0, "x2APIC without enable");
    let done = lists::set_msrs(&vcpu, &[(MSR_APIC_BASE, 1 << 60)])?;
    ensure_eq!(done, 0, "a reserved bit");
    vcpu.set_msr(MSR_APIC_BASE, enabled | 1 << 10)?;
    ensure_eq!(
        vcpu.sregs()?.apic_base,
        enabled | 1 << 10,
        "by KVM_GET_SREGS"
    );
    vcpu.set_msr(MSR_APIC_BASE, enabled)?;
    ensure_eq!(vcpu.msr(MSR_APIC_BASE)?, enabled, "back");
    Ok(())
}

fn mtrrs() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let capability = vcpu.msr(0xfe)?;
    ensure_eq!(capability & 0xff, 8, "variable MTRRs");
    vcpu.set_msr(0x200, 0x8000_0006)?;
    vcpu.set_msr(0x201, 0xff_8000_0800)?;
    vcpu.set_msr(0x250, 0x0606_0606_0606_0606)?;
    vcpu.set_msr(0x2ff, 0xc06)?;
    ensure_eq!(vcpu.msr(0x200)?, 0x8000_0006, "base 0");
    ensure_eq!(vcpu.msr(0x201)?, 0xff_8000_0800, "mask 0");
    ensure_eq!(vcpu.msr(0x250)?, 0x0606_0606_0606_0606, "fixed 64K");
    ensure_eq!(vcpu.msr(0x2ff)?, 0xc06, "default type");
    for (index, value) in [(0x200, 0x3u64), (0x250, 0x0202), (0x2ff, 1 << 20)] {
        let done = lists::set_msrs(&vcpu, &[(index, value)])?;
        ensure_eq!(done, 0, "MTRR {index:#x} = {value:#x}");
    }
    Ok(())
}

fn machine_check_banks() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    let set_up = |value: u64| {
        let mut value = value;
        ironvm_abi_tests::sys::ioctl_mut(&vcpu, KVM_X86_SETUP_MCE, &mut value)
    };
    ensure_errno!(set_up(0), libc::EINVAL, "no bank");
    ensure_errno!(set_up(100), libc::EINVAL, "100 banks");
    ensure_errno!(set_up(1 << 60 | 4), libc::EINVAL, "an unknown bit");
    set_up(4 | 1 << 8)?;
    ensure_eq!(vcpu.msr(0x179)?, 4 | 1 << 8, "MCG_CAP");
    vcpu.set_msr(0x400, 0)?;
    vcpu.set_msr(0x400 + 4 * 3, !0)?;
    ensure_eq!(vcpu.msr(0x400 + 4 * 3)?, !0, "MC3_CTL");
    Ok(())
}

/// MSRs that tell what there is cannot be made to tell anything else by a guest.
fn read_only_features() -> Outcome {
    let code = ironvm_abi_tests::code64!("wrmsr", "hlt");
    for index in [0xfeu32, 0x8b] {
        let (machine, vcpu) = ironvm_abi_tests::guest::long_mode(code)?;
        let before = vcpu.msr(index)?;
        vcpu.change_regs(|r| (r.rcx, r.rax) = (u64::from(index), 0x1234))?;
        // Some are written without effect, others fault.
        let exit = vcpu.run_on()?;
        if exit.is_out(PORT_CAUGHT) {
            ensure_eq!(machine.caught().vector, u64::from(GP), "vector");
        }
        ensure_eq!(vcpu.msr(index)?, before, "MSR {index:#x} after WRMSR");
    }
    Ok(())
}
