// SPDX-License-Identifier: GPL-2.0

//! From the VMCB's exit code to [`Exit`]: APM vol. 2, appendix C.

use super::vmcb::Control;
use super::vmcb::VmcbEvent;
use crate::hw::event::Interruption;
use crate::hw::Event;
use crate::hw::Exit;
use crate::hw::Frequent;
use crate::hw::IoExit;
use crate::hw::NestedFault;
use crate::hw::RegisterAccess;
use crate::pc::addr::Gpa;
use crate::pc::regs::PageFaultError;
use crate::pc::regs::Vector;

mod code {
    pub(super) const READ_CR0: u64 = 0x00;
    pub(super) const WRITE_CR15: u64 = 0x1f;
    pub(super) const READ_DR0: u64 = 0x20;
    pub(super) const WRITE_DR15: u64 = 0x3f;
    pub(super) const EXCEPTION_0: u64 = 0x40;
    pub(super) const EXCEPTION_31: u64 = 0x5f;
    pub(super) const INTR: u64 = 0x60;
    pub(super) const NMI: u64 = 0x61;
    pub(super) const SMI: u64 = 0x62;
    pub(super) const INIT: u64 = 0x63;
    pub(super) const VINTR: u64 = 0x64;
    pub(super) const CR0_SELECTIVE_WRITE: u64 = 0x65;
    pub(super) const RDPMC: u64 = 0x6f;
    pub(super) const CPUID: u64 = 0x72;
    pub(super) const IRET: u64 = 0x74;
    pub(super) const INVD: u64 = 0x76;
    pub(super) const PAUSE: u64 = 0x77;
    pub(super) const HLT: u64 = 0x78;
    pub(super) const INVLPGA: u64 = 0x7a;
    pub(super) const IOIO: u64 = 0x7b;
    pub(super) const MSR: u64 = 0x7c;
    pub(super) const TASK_SWITCH: u64 = 0x7d;
    pub(super) const SHUTDOWN: u64 = 0x7f;
    pub(super) const VMRUN: u64 = 0x80;
    pub(super) const VMMCALL: u64 = 0x81;
    pub(super) const VMLOAD: u64 = 0x82;
    pub(super) const SKINIT: u64 = 0x86;
    pub(super) const WBINVD: u64 = 0x89;
    pub(super) const MONITOR: u64 = 0x8a;
    pub(super) const MWAIT: u64 = 0x8b;
    pub(super) const MWAIT_ARMED: u64 = 0x8c;
    pub(super) const XSETBV: u64 = 0x8d;
    pub(super) const RDPRU: u64 = 0x8e;
    pub(super) const NESTED_PAGE_FAULT: u64 = 0x400;
    /// Every negative code, as the 32 bits that old processors write.
    pub(super) const FIRST_INVALID: u64 = 0xffff_fff0;
}

/// EXITINFO1 of a nested page fault: the walk of the guest's own tables.
const NPF_TABLE_WALK: u64 = 1 << 33;

/// Reads the exit out of the control area.
///
/// `decode_assists`: EXITINFO1 of a MOV CR/DR names the general register.
#[inline(always)]
pub(super) fn decode(control: &Control, decode_assists: bool) -> Exit {
    match control.exit_code {
        // What comes most of what is not `Frequent`.
        code::INTR => Exit::HostInterrupt,
        other => decode_other(control, other, decode_assists),
    }
}

#[inline(never)]
fn decode_other(control: &Control, exit_code: u64, decode_assists: bool) -> Exit {
    match exit_code {
        code::CPUID => Exit::Cpuid,
        code::MSR if control.exit_info1 & 1 != 0 => Exit::WriteMsr,
        code::MSR => Exit::ReadMsr,
        code::HLT => Exit::Hlt,
        code::VINTR => Exit::InterruptWindow,
        code::VMMCALL => Exit::Hypercall,
        code::NESTED_PAGE_FAULT => Exit::NestedFault(nested_fault(control)),
        code::IOIO => Exit::Io(io(control)),
        other => rare(control, other, decode_assists),
    }
}

/// The exit, if it is one of those that come most.
#[inline]
pub(super) fn frequent(control: &Control) -> Option<Frequent> {
    match control.exit_code {
        code::CPUID => Some(Frequent::Cpuid),
        code::MSR if control.exit_info1 & 1 != 0 => Some(Frequent::WriteMsr),
        code::MSR => Some(Frequent::ReadMsr),
        code::VMMCALL => Some(Frequent::Hypercall),
        code::NESTED_PAGE_FAULT => Some(Frequent::NestedFault),
        code::IOIO => Some(Frequent::Io),
        _ => None,
    }
}

/// The processor has refused the VMCB.
pub(super) fn is_entry_failure(control: &Control) -> bool {
    control.exit_code as u32 >= code::FIRST_INVALID as u32
}

fn rare(control: &Control, exit_code: u64, decode_assists: bool) -> Exit {
    match exit_code {
        code::NMI => Exit::HostNmi,
        code::IRET => Exit::NmiWindow,
        code::CR0_SELECTIVE_WRITE => Exit::ControlRegister(RegisterAccess::Decode),
        code::READ_CR0..=code::WRITE_CR15 => {
            Exit::ControlRegister(register_access(control, exit_code, decode_assists))
        }
        code::READ_DR0..=code::WRITE_DR15 => Exit::DebugRegister(register_access(
            control,
            exit_code - code::READ_DR0,
            decode_assists,
        )),
        code::EXCEPTION_0..=code::EXCEPTION_31 => exception(control, exit_code),
        code::SHUTDOWN => Exit::Shutdown,
        code::XSETBV => Exit::SetXcr,
        code::INVD | code::WBINVD => Exit::CacheFlush,
        code::PAUSE => Exit::Pause,
        code::MONITOR | code::MWAIT | code::MWAIT_ARMED => Exit::MonitorWait,
        code::RDPMC => Exit::ReadPmc,
        code::VMRUN | code::VMLOAD..=code::SKINIT | code::INVLPGA | code::RDPRU => Exit::Undefined,
        code::TASK_SWITCH => Exit::TaskSwitch,
        // Held pending by the processor until GIF is set again.
        code::SMI | code::INIT => Exit::HostInterrupt,
        invalid if invalid as u32 >= code::FIRST_INVALID as u32 => {
            Exit::EntryFailed { reason: invalid }
        }
        code => Exit::Unexpected { code },
    }
}

/// 16 registers to read, then 16 to write, in the order of the exit codes.
fn register_access(control: &Control, index: u64, decode_assists: bool) -> RegisterAccess {
    const IS_MOV: u64 = 1 << 63;
    // Without the bit it is CLTS, LMSW or SMSW.
    let is_cr = control.exit_code < code::READ_DR0;
    if !decode_assists || (is_cr && control.exit_info1 & IS_MOV == 0) {
        return RegisterAccess::Decode;
    }
    RegisterAccess::Move {
        number: (index & 15) as u8,
        gpr: (control.exit_info1 & 15) as u8,
        write: index & 16 != 0,
    }
}

fn exception(control: &Control, exit_code: u64) -> Exit {
    let vector = (exit_code & 31) as u8;
    let has_code = Vector::from_number(vector).is_some_and(Vector::has_error_code);
    Exit::Exception {
        vector,
        error_code: has_code.then_some(control.exit_info1 as u32),
    }
}

/// EXITINFO1 and 2 of a nested page fault: APM vol. 2, 15.25.6.
#[inline]
pub(super) fn nested_fault(control: &Control) -> NestedFault {
    let error = PageFaultError(control.exit_info1 as u32);
    NestedFault {
        gpa: Gpa(control.exit_info2),
        write: error.has(PageFaultError::WRITE),
        fetch: error.has(PageFaultError::FETCH),
        present: error.has(PageFaultError::PRESENT),
        table_walk: control.exit_info1 & NPF_TABLE_WALK != 0,
    }
}

/// EXITINFO1 of IOIO: APM vol. 2, 15.10.2.
#[inline]
pub(super) fn io(control: &Control) -> IoExit {
    let info = control.exit_info1;
    IoExit {
        port: (info >> 16) as u16,
        size: ((info >> 4) & 7) as u8,
        input: info & 1 != 0,
        string: info & (1 << 2) != 0,
        next_rip: Some(control.exit_info2),
    }
}

/// The EVENTINJ value that delivers `event`.
#[inline]
pub(super) fn injection(event: Event) -> VmcbEvent {
    let info = Interruption::of(event);
    match event {
        Event::Exception(_, Some(error_code)) => VmcbEvent {
            info: info.with(Interruption::ERROR_CODE),
            error_code,
        },
        _ => VmcbEvent {
            info,
            error_code: 0,
        },
    }
}
