// SPDX-License-Identifier: GPL-2.0

//! A VMCS in lines that a person can read.

mod names;

use self::names::EventInfo;
use super::controls::EntryControls;
use super::controls::ExitControls;
use super::controls::Pin;
use super::controls::Primary;
use super::controls::Secondary;
use super::controls::Tertiary;
use super::event::Interruptibility;
use super::event::Interruption;
use super::exit::EptViolation;
use super::exit::Reason;
use super::field::control;
use super::field::guest;
use super::field::host;
use super::field::info;
use super::field::SegmentFields;
use crate::pc::regs::SegReg;
use core::fmt;

/// Reads a field by its encoding; `None` if the processor does not have it.
type Read<'a> = &'a dyn Fn(u32) -> Option<u64>;

/// Takes one line, without its end.
type Line<'a> = &'a mut dyn FnMut(fmt::Arguments<'_>);

/// Hands the VMCS to `line`, field by field as `read` finds them: why the last
/// entry or exit ended, the guest, the host, and what the processor is told to
/// do. What it does not have is left out.
pub fn dump(read: Read<'_>, line: Line<'_>) {
    dump_exit(read, line);
    dump_guest(read, line);
    dump_host(read, line);
    dump_controls(read, line);
}

/// Fields with short names, on one line.
struct Row<'a> {
    read: Read<'a>,
    fields: &'a [(&'static str, u32)],
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, encoding) in self.fields {
            if let Some(value) = (self.read)(*encoding) {
                write!(f, " {name}={value:#x}")?;
            }
        }
        Ok(())
    }
}

fn rows(read: Read<'_>, line: Line<'_>, rows: &[&[(&'static str, u32)]]) {
    for fields in rows {
        if fields.iter().any(|(_, field)| read(*field).is_some()) {
            line(format_args!(" {}", Row { read, fields }));
        }
    }
}

fn dump_exit(read: Read<'_>, line: Line<'_>) {
    line(format_args!("VMCS: the last exit or failed entry"));
    if let Some(error) = read(info::INSTRUCTION_ERROR.encoding()) {
        let name = names::instruction_error(error);
        line(format_args!("  VM-instruction error {error}: {name}"));
    }
    let Some(value) = read(info::REASON.encoding()) else {
        return;
    };
    let reason = Reason(value as u32);
    let name = reason.name().unwrap_or("not defined");
    let failed = if reason.is_entry_failure() {
        " (entry failed)"
    } else {
        ""
    };
    line(format_args!("  reason {:#x}: {name}{failed}", reason.0));
    dump_qualification(reason, read, line);
    for (name, info, code) in [
        ("event", info::INTERRUPTION, info::ERROR_CODE),
        ("delivered", info::VECTORING, info::VECTORING_ERROR_CODE),
        (
            "injected",
            control::ENTRY_INTERRUPTION,
            control::ENTRY_ERROR_CODE,
        ),
    ] {
        let (Some(value), Some(code)) = (read(info.encoding()), read(code.encoding())) else {
            continue;
        };
        let event = EventInfo(Interruption(value as u32));
        line(format_args!(
            "  {name} {value:#x}: {event}; error code {code:#x}"
        ));
    }
    rows(
        read,
        line,
        &[&[
            ("instruction length", info::INSTRUCTION_LENGTH.encoding()),
            ("information", info::INSTRUCTION_INFO.encoding()),
            (
                "on entry: length",
                control::ENTRY_INSTRUCTION_LENGTH.encoding(),
            ),
        ]],
    );
}

fn dump_qualification(reason: Reason, read: Read<'_>, line: Line<'_>) {
    let Some(value) = read(info::QUALIFICATION.encoding()) else {
        return;
    };
    match reason.basic() {
        Reason::EPT_VIOLATION => {
            let names = EptViolation(value);
            line(format_args!("  qualification {value:#x}: {names}"));
        }
        Reason::INVALID_GUEST_STATE => {
            let name = names::invalid_guest_state(value);
            line(format_args!("  qualification {value:#x}: {name}"));
        }
        _ => line(format_args!("  qualification {value:#x}")),
    }
    rows(
        read,
        line,
        &[&[
            ("guest linear", info::GUEST_LINEAR.encoding()),
            ("guest physical", info::GUEST_PHYSICAL.encoding()),
        ]],
    );
}

fn dump_guest(read: Read<'_>, line: Line<'_>) {
    line(format_args!("VMCS: guest"));
    rows(
        read,
        line,
        &[
            &[
                ("RIP", guest::RIP.encoding()),
                ("RSP", guest::RSP.encoding()),
                ("RFLAGS", guest::RFLAGS.encoding()),
                ("DR7", guest::DR7.encoding()),
            ],
            &[
                ("CR0", guest::CR0.encoding()),
                ("shadow", control::CR0_SHADOW.encoding()),
                ("mask", control::CR0_MASK.encoding()),
            ],
            &[
                ("CR4", guest::CR4.encoding()),
                ("shadow", control::CR4_SHADOW.encoding()),
                ("mask", control::CR4_MASK.encoding()),
            ],
            &[
                ("CR3", guest::CR3.encoding()),
                ("EFER", guest::EFER.encoding()),
                ("PAT", guest::PAT.encoding()),
            ],
            &[
                ("PDPTE0", guest::PDPTE0.encoding()),
                ("PDPTE1", guest::PDPTE1.encoding()),
                ("PDPTE2", guest::PDPTE2.encoding()),
                ("PDPTE3", guest::PDPTE3.encoding()),
            ],
        ],
    );
    dump_segments(read, line);
    rows(
        read,
        line,
        &[
            &[
                ("SYSENTER CS", guest::SYSENTER_CS.encoding()),
                ("ESP", guest::SYSENTER_ESP.encoding()),
                ("EIP", guest::SYSENTER_EIP.encoding()),
            ],
            &[
                ("DEBUGCTL", guest::DEBUGCTL.encoding()),
                ("pending debug", guest::PENDING_DEBUG.encoding()),
                ("PERF_GLOBAL_CTRL", guest::PERF_GLOBAL_CTRL.encoding()),
                ("BNDCFGS", guest::BNDCFGS.encoding()),
            ],
            &[
                ("S_CET", guest::S_CET.encoding()),
                ("SSP", guest::SSP.encoding()),
                ("SSP table", guest::INTERRUPT_SSP_TABLE.encoding()),
                ("PKRS", guest::PKRS.encoding()),
            ],
            &[
                ("link", guest::LINK_POINTER.encoding()),
                ("timer", guest::PREEMPTION_TIMER.encoding()),
                ("interrupt status", guest::INTERRUPT_STATUS.encoding()),
                ("PML index", guest::PML_INDEX.encoding()),
            ],
        ],
    );
    if let Some(value) = read(guest::ACTIVITY.encoding()) {
        let name = names::activity(value);
        line(format_args!("  activity {value}: {name}"));
    }
    if let Some(value) = read(guest::INTERRUPTIBILITY.encoding()) {
        let names = Interruptibility(value as u32);
        line(format_args!("  interruptibility {value:#x}: {names}"));
    }
}

fn dump_segments(read: Read<'_>, line: Line<'_>) {
    const NAMES: [&str; 8] = ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"];
    for (which, name) in SegReg::ALL.iter().zip(NAMES) {
        let fields = SegmentFields::of(*which);
        let (Some(selector), Some(base), Some(limit), Some(access)) = (
            read(fields.selector.encoding()),
            read(fields.base.encoding()),
            read(fields.limit.encoding()),
            read(fields.access.encoding()),
        ) else {
            continue;
        };
        let dpl = access >> 5 & 3;
        let kind = names::segment_type(access);
        line(format_args!(
            "  {name:<4} {selector:04x} base={base:016x} limit={limit:08x} access={access:05x} DPL {dpl}, {kind}"
        ));
    }
    for (name, base, limit) in [
        ("GDTR", guest::GDTR_BASE, guest::GDTR_LIMIT),
        ("IDTR", guest::IDTR_BASE, guest::IDTR_LIMIT),
    ] {
        let (Some(base), Some(limit)) = (read(base.encoding()), read(limit.encoding())) else {
            continue;
        };
        line(format_args!(
            "  {name}      base={base:016x} limit={limit:08x}"
        ));
    }
}

fn dump_host(read: Read<'_>, line: Line<'_>) {
    line(format_args!("VMCS: host"));
    rows(
        read,
        line,
        &[
            &[
                ("RIP", host::RIP.encoding()),
                ("RSP", host::RSP.encoding()),
                ("CR0", host::CR0.encoding()),
                ("CR3", host::CR3.encoding()),
                ("CR4", host::CR4.encoding()),
            ],
            &[
                ("ES", host::ES_SELECTOR.encoding()),
                ("CS", host::CS_SELECTOR.encoding()),
                ("SS", host::SS_SELECTOR.encoding()),
                ("DS", host::DS_SELECTOR.encoding()),
                ("FS", host::FS_SELECTOR.encoding()),
                ("GS", host::GS_SELECTOR.encoding()),
                ("TR", host::TR_SELECTOR.encoding()),
            ],
            &[
                ("FS base", host::FS_BASE.encoding()),
                ("GS base", host::GS_BASE.encoding()),
                ("TR base", host::TR_BASE.encoding()),
                ("GDTR", host::GDTR_BASE.encoding()),
                ("IDTR", host::IDTR_BASE.encoding()),
            ],
            &[
                ("SYSENTER CS", host::SYSENTER_CS.encoding()),
                ("ESP", host::SYSENTER_ESP.encoding()),
                ("EIP", host::SYSENTER_EIP.encoding()),
            ],
            &[
                ("EFER", host::EFER.encoding()),
                ("PAT", host::PAT.encoding()),
                ("PERF_GLOBAL_CTRL", host::PERF_GLOBAL_CTRL.encoding()),
                ("PKRS", host::PKRS.encoding()),
            ],
            &[
                ("S_CET", host::S_CET.encoding()),
                ("SSP", host::SSP.encoding()),
                ("SSP table", host::INTERRUPT_SSP_TABLE.encoding()),
            ],
        ],
    );
}

fn dump_controls(read: Read<'_>, line: Line<'_>) {
    line(format_args!("VMCS: controls"));
    macro_rules! word {
        ($field:expr, $type:ident($repr:ty), $name:expr) => {
            if let Some(value) = read($field.encoding()) {
                let names = $type(value as $repr);
                line(format_args!("  {} {value:#010x}: {names}", $name));
            }
        };
    }
    word!(control::PIN, Pin(u32), "pin-based");
    word!(control::PRIMARY, Primary(u32), "primary");
    word!(control::SECONDARY, Secondary(u32), "secondary");
    word!(control::TERTIARY, Tertiary(u64), "tertiary");
    word!(control::EXIT, ExitControls(u32), "exit");
    word!(control::ENTRY, EntryControls(u32), "entry");
    for field in control::ALL {
        if SHOWN.contains(&field.encoding) {
            continue;
        }
        // What is 0 is not in use.
        let Some(value) = read(field.encoding).filter(|value| *value != 0) else {
            continue;
        };
        line(format_args!("  {}: {value:#x}", field.name));
    }
}

/// Control fields that have a place elsewhere in the dump.
const SHOWN: [u32; 13] = [
    control::PIN.encoding(),
    control::PRIMARY.encoding(),
    control::SECONDARY.encoding(),
    control::TERTIARY.encoding(),
    control::EXIT.encoding(),
    control::ENTRY.encoding(),
    control::ENTRY_INTERRUPTION.encoding(),
    control::ENTRY_ERROR_CODE.encoding(),
    control::ENTRY_INSTRUCTION_LENGTH.encoding(),
    control::CR0_SHADOW.encoding(),
    control::CR0_MASK.encoding(),
    control::CR4_SHADOW.encoding(),
    control::CR4_MASK.encoding(),
];

#[cfg(test)]
mod tests;
