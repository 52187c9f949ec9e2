// SPDX-License-Identifier: GPL-2.0

//! A VMCS in lines that a person can read.

mod names;

use self::names::EventInfo;
use super::controls::EntryControls;
use super::controls::ExitControls;
use super::controls::Pin;
use super::controls::Primary;
use super::controls::Secondary;
use super::event::Interruptibility;
use super::event::Interruption;
use super::exit::EptViolation;
use super::exit::Reason;
use super::field::control;
use super::field::guest;
use super::field::host;
use super::field::info;
use super::field::Described;
use super::field::Field;
use super::field::Field16;
use super::field::Field32;
use super::field::Field64;
use super::field::FieldNatural;
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
    line(format_args!("VMCS: host"));
    table(read, line, host::ALL, Values::All);
    dump_controls(read, line);
}

/// Fields and their values, on one line.
struct Row([Option<(&'static Described, u64)>; 4]);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (field, value) in self.0.iter().flatten() {
            let digits = usize::from(field.bits / 4).wrapping_add("0x".len());
            write!(f, "{separator}{} {value:#0digits$x}", field.name)?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Which values of a table are worth a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    /// All.
    All,
    /// What is 0 is not in use.
    NonZero,
}

/// The fields of a group that have no line of their own, the widest first.
fn table(read: Read<'_>, line: Line<'_>, group: &'static [Described], values: Values) {
    const WIDTHS: [u32; 4] = [
        FieldNatural::WIDTH,
        Field64::WIDTH,
        Field32::WIDTH,
        Field16::WIDTH,
    ];
    for width in WIDTHS {
        let mut fields = group
            .iter()
            .filter(|field| field.encoding >> 13 == width && !has_a_line(field.encoding))
            .filter_map(|field| Some((field, read(field.encoding)?)))
            .filter(|(_, value)| *value != 0 || values == Values::All);
        while let Some(first) = fields.next() {
            let row = Row([Some(first), fields.next(), fields.next(), fields.next()]);
            line(format_args!("  {row}"));
        }
    }
}

/// Told apart from the tables, with what it means.
fn has_a_line(field: u32) -> bool {
    macro_rules! is_one_of {
        ($($first:path => $last:path;)*) => {
            $(($first.encoding()..=$last.encoding()).contains(&field))||*
        };
    }
    is_one_of! {
        info::INSTRUCTION_ERROR => info::VECTORING_ERROR_CODE;
        info::QUALIFICATION => info::QUALIFICATION;
        guest::ES_SELECTOR => guest::TR_SELECTOR;
        guest::ES_LIMIT => guest::IDTR_LIMIT;
        guest::ES_ACCESS => guest::TR_ACCESS;
        guest::ES_BASE => guest::IDTR_BASE;
        guest::INTERRUPTIBILITY => guest::ACTIVITY;
        control::PIN => control::PRIMARY;
        control::SECONDARY => control::SECONDARY;
        control::EXIT => control::EXIT;
        control::ENTRY => control::ENTRY;
        control::ENTRY_INTERRUPTION => control::ENTRY_ERROR_CODE;
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
    table(read, line, info::ALL, Values::NonZero);
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
}

fn dump_guest(read: Read<'_>, line: Line<'_>) {
    line(format_args!("VMCS: guest"));
    table(read, line, guest::ALL, Values::All);
    dump_segments(read, line);
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
    word!(control::EXIT, ExitControls(u32), "exit");
    word!(control::ENTRY, EntryControls(u32), "entry");
    table(read, line, control::ALL, Values::NonZero);
}

#[cfg(test)]
mod tests;
