// SPDX-License-Identifier: GPL-2.0

//! A VMCS that has been refused, in lines that a person can read: all fields that
//! there are, and in words what says why.

use super::controls::EntryControls;
use super::controls::ExitControls;
use super::controls::Pin;
use super::controls::Primary;
use super::controls::Secondary;
use super::event::Interruptibility;
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
use crate::hw::event::Interruption;
use crate::hw::event::Kind;
use crate::pc::regs::SegReg;
use core::fmt;

/// Reads a field by its encoding; `None` if the processor does not have it.
type Read<'a> = &'a dyn Fn(u32) -> Option<u64>;

/// Takes one line, without its end.
type Line<'a> = &'a mut dyn FnMut(fmt::Arguments<'_>);

/// Hands the VMCS to `line`, as `read` finds it: why the last entry or exit ended,
/// the guest, the host, and what the processor is told to do.
pub fn dump(read: Read<'_>, line: Line<'_>) {
    line(format_args!("VMCS: the last exit or failed entry"));
    table(read, line, info::ALL, Values::NonZero);
    explain(read, line, info::INSTRUCTION_ERROR, "error", |number| {
        instruction_error(number)
    });
    explain(read, line, info::REASON, "reason", Reason);
    if read(info::REASON.encoding()).is_some_and(is_invalid_state) {
        explain(read, line, info::QUALIFICATION, "invalid", |number| {
            invalid_guest_state(number)
        });
    }
    line(format_args!("VMCS: guest"));
    table(read, line, guest::ALL, Values::All);
    segments(read, line);
    explain(
        read,
        line,
        guest::INTERRUPTIBILITY,
        "interruptibility",
        Interruptibility,
    );
    line(format_args!("VMCS: host"));
    table(read, line, host::ALL, Values::All);
    line(format_args!("VMCS: controls"));
    table(read, line, control::ALL, Values::NonZero);
    explain(read, line, control::PIN, "pin-based", Pin);
    explain(read, line, control::PRIMARY, "primary", Primary);
    explain(read, line, control::SECONDARY, "secondary", Secondary);
    explain(read, line, control::EXIT, "exit", ExitControls);
    explain(read, line, control::ENTRY, "entry", EntryControls);
    explain(
        read,
        line,
        control::ENTRY_INTERRUPTION,
        "injected",
        Interruption,
    );
}

/// What the value of a field means.
fn explain<F: Field, M: fmt::Display>(
    read: Read<'_>,
    line: Line<'_>,
    field: F,
    what: &str,
    meaning: impl FnOnce(F::Value) -> M,
) {
    if let Some(value) = read(field.encoding()) {
        let meaning = meaning(F::from_register(value));
        line(format_args!("  {what}: {meaning}"));
    }
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

/// The fields of a group, the widest first, but for those of segments.
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
            .filter(|field| field.encoding >> 13 == width && !is_of_segment(field.encoding))
            .filter_map(|field| Some((field, read(field.encoding)?)))
            .filter(|(_, value)| *value != 0 || values == Values::All);
        while let Some(first) = fields.next() {
            let row = Row([Some(first), fields.next(), fields.next(), fields.next()]);
            line(format_args!("  {row}"));
        }
    }
}

fn is_of_segment(field: u32) -> bool {
    SegReg::ALL.iter().any(|which| {
        let fields = SegmentFields::of(*which);
        [
            fields.selector.encoding(),
            fields.limit.encoding(),
            fields.access.encoding(),
            fields.base.encoding(),
        ]
        .contains(&field)
    })
}

fn segments(read: Read<'_>, line: Line<'_>) {
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
        line(format_args!(
            "  {name:<4} {selector:04x} base={base:016x} limit={limit:08x} access={access:05x}"
        ));
    }
}

/// VM-instruction errors of an entry: SDM vol. 3, 31.4.
const fn instruction_error(number: u32) -> &'static str {
    match number {
        0 => "none",
        4 => "VMLAUNCH with non-clear VMCS",
        5 => "VMRESUME with non-launched VMCS",
        7 => "VM entry with invalid control fields",
        8 => "VM entry with invalid host-state fields",
        26 => "VM entry with events blocked by MOV SS",
        _ => "of another instruction",
    }
}

fn is_invalid_state(reason: u64) -> bool {
    Reason(reason as u32).basic() == Reason::INVALID_GUEST_STATE
}

/// Exit qualification of an entry that failed for the guest's state (27.8).
const fn invalid_guest_state(qualification: u64) -> &'static str {
    match qualification {
        2 => "PDPTEs",
        3 => "NMI injected in the shadow of STI",
        4 => "VMCS link pointer",
        _ => "not told which",
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("not defined"))?;
        if self.is_entry_failure() {
            f.write_str(" (entry failed)")?;
        }
        Ok(())
    }
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.has(Self::VALID) {
            return f.write_str("none");
        }
        let kind = match self.kind() {
            Some(Kind::External) => "external interrupt",
            Some(Kind::Nmi) => "NMI",
            Some(Kind::Hardware) => "exception",
            _ => "other event",
        };
        write!(f, "{kind}, vector {}", self.vector())?;
        if self.has(Self::ERROR_CODE) {
            f.write_str(", with error code")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
