// SPDX-License-Identifier: GPL-2.0

//! From the exit information of a VMCS to [`Exit`]: SDM vol. 3, 28.2.
//!
//! Each field is read where it is needed, and no sooner: most exits say all in
//! their reason.

mod reason;

pub use self::reason::Reason;

use super::field::info;
use super::field::ReadFields;
use crate::hw::event::Interruption;
use crate::hw::event::Kind;
use crate::hw::Exit;
use crate::hw::IoExit;
use crate::hw::NestedFault;
use crate::hw::RegisterAccess;
use crate::pc::addr::Gpa;
use crate::pc::bits::named_bits;

/// Why the guest has stopped.
///
/// What belongs to features that need more than a look at these fields (the
/// virtual APIC) is [`Exit::Unexpected`] here: who
/// turns such a feature on looks at the reason first.
#[inline]
pub fn decode(reason: Reason, fields: &impl ReadFields) -> Exit {
    match reason {
        Reason::EXTERNAL_INTERRUPT | Reason::PREEMPTION_TIMER => Exit::HostInterrupt,
        Reason::CPUID => Exit::Cpuid,
        Reason::WRMSR => Exit::WriteMsr,
        Reason::RDMSR => Exit::ReadMsr,
        Reason::EPT_VIOLATION => Exit::NestedFault(ept_violation(
            fields.read(info::QUALIFICATION),
            Gpa(fields.read(info::GUEST_PHYSICAL)),
        )),
        Reason::IO => Exit::Io(io(fields.read(info::QUALIFICATION))),
        Reason::HLT => Exit::Hlt,
        // The guest lets more interrupts through than it did.
        Reason::INTERRUPT_WINDOW | Reason::TPR_BELOW_THRESHOLD => Exit::InterruptWindow,
        Reason::VMCALL => Exit::Hypercall,
        Reason::VIRTUALIZED_EOI => Exit::Eoi {
            vector: fields.read(info::QUALIFICATION) as u8,
        },
        other => rare(other, fields),
    }
}

fn rare(reason: Reason, fields: &impl ReadFields) -> Exit {
    if reason.is_entry_failure() {
        return Exit::EntryFailed {
            reason: u64::from(reason.0),
        };
    }
    if reason != reason.basic() {
        // Of an enclave.
        return decode(reason.basic(), fields);
    }
    match reason {
        Reason::EXCEPTION_OR_NMI => exception(reason, fields),
        Reason::NMI_WINDOW => Exit::NmiWindow,
        Reason::TRIPLE_FAULT => Exit::Shutdown,
        Reason::TASK_SWITCH => Exit::TaskSwitch,
        Reason::CONTROL_REGISTER => {
            Exit::ControlRegister(control_register(fields.read(info::QUALIFICATION)))
        }
        Reason::DEBUG_REGISTER => {
            Exit::DebugRegister(debug_register(fields.read(info::QUALIFICATION)))
        }
        Reason::XSETBV => Exit::SetXcr,
        Reason::RDPMC => Exit::ReadPmc,
        Reason::INVD | Reason::WBINVD => Exit::CacheFlush,
        Reason::PAUSE => Exit::Pause,
        Reason::MONITOR | Reason::MWAIT => Exit::MonitorWait,
        // Leaving the inner loop empties the list, and the write comes again.
        Reason::PML_FULL => Exit::HostInterrupt,
        absent if absent.is_absent() => Exit::Undefined,
        _ => unexpected(reason),
    }
}

fn unexpected(reason: Reason) -> Exit {
    Exit::Unexpected {
        code: u64::from(reason.0),
    }
}

/// An exception, or the host's NMI (28.2.2).
fn exception(reason: Reason, fields: &impl ReadFields) -> Exit {
    let info = Interruption(fields.read(info::INTERRUPTION));
    if !info.has(Interruption::VALID) {
        return unexpected(reason);
    }
    match info.kind() {
        Some(Kind::Nmi) => Exit::HostNmi,
        Some(Kind::Hardware | Kind::PrivilegedSoftware | Kind::SoftwareException) => {
            Exit::Exception {
                vector: info.vector(),
                error_code: info
                    .has(Interruption::ERROR_CODE)
                    .then(|| fields.read(info::ERROR_CODE)),
            }
        }
        _ => unexpected(reason),
    }
}

/// MOV to and from a control register; CLTS and LMSW come from the instruction
/// (table 28-3).
const fn control_register(qualification: u64) -> RegisterAccess {
    const MOV_TO: u64 = 0;
    const MOV_FROM: u64 = 1;
    let write = match qualification >> 4 & 3 {
        MOV_TO => true,
        MOV_FROM => false,
        _ => return RegisterAccess::Decode,
    };
    RegisterAccess::Move {
        number: (qualification & 15) as u8,
        gpr: (qualification >> 8 & 15) as u8,
        write,
    }
}

/// MOV DR (table 28-4).
const fn debug_register(qualification: u64) -> RegisterAccess {
    RegisterAccess::Move {
        number: (qualification & 7) as u8,
        gpr: (qualification >> 8 & 15) as u8,
        write: qualification & 1 << 4 == 0,
    }
}

/// IN, INS, OUT, OUTS (table 28-5).
#[inline]
pub const fn io(qualification: u64) -> IoExit {
    IoExit {
        port: (qualification >> 16) as u16,
        // Encoded as one less.
        size: (qualification & 3) as u8 + 1,
        input: qualification & 1 << 3 != 0,
        string: qualification & 1 << 4 != 0,
        next_rip: None,
    }
}

named_bits! {
    /// Exit qualification of an EPT violation (table 28-7). "Allowed" is what
    /// the translation says.
    EptViolation: u64 {
        READ = 0, "data read";
        WRITE = 1, "data write";
        FETCH = 2, "instruction fetch";
        READABLE = 3, "reads allowed";
        WRITABLE = 4, "writes allowed";
        EXECUTABLE = 5, "fetches allowed";
        USER_EXECUTABLE = 6, "user-mode fetches allowed";
        LINEAR = 7, "guest-linear address valid";
        TRANSLATED = 8, "access to the translation of it";
        NMI_UNBLOCKED = 12, "NMI unblocking due to IRET";
    }
}

impl EptViolation {
    const PRESENT: Self =
        Self(Self::READABLE.0 | Self::WRITABLE.0 | Self::EXECUTABLE.0 | Self::USER_EXECUTABLE.0);
}

/// An EPT violation (table 28-7).
#[inline]
pub fn ept_violation(qualification: u64, gpa: Gpa) -> NestedFault {
    let info = EptViolation(qualification);
    NestedFault {
        gpa,
        write: info.has(EptViolation::WRITE),
        fetch: info.has(EptViolation::FETCH),
        present: info.any(EptViolation::PRESENT),
        // Without a linear address it is a load of the PDPTEs.
        table_walk: !info.has(EptViolation::LINEAR | EptViolation::TRANSLATED),
    }
}

/// The exit was in an IRET that had ended the blocking of NMIs already; it
/// counts if no event was being delivered
/// ([`super::event::nmi_blocking`]). SDM vol. 3, 28.2.3.
#[inline]
pub fn nmi_unblocked(reason: Reason, fields: &impl ReadFields) -> bool {
    const DOUBLE_FAULT: u8 = 8;
    match reason.basic() {
        Reason::EXCEPTION_OR_NMI => {
            let info = Interruption(fields.read(info::INTERRUPTION));
            info.has(Interruption::VALID | Interruption::NMI_UNBLOCKED)
                && info.vector() != DOUBLE_FAULT
        }
        // The three have it in the same place.
        Reason::EPT_VIOLATION | Reason::PML_FULL | Reason::SUB_PAGE => {
            nmi_unblocked_by_iret(fields.read(info::QUALIFICATION))
        }
        _ => false,
    }
}

/// [`nmi_unblocked`] of an EPT violation and the like, by its qualification.
#[inline]
pub fn nmi_unblocked_by_iret(qualification: u64) -> bool {
    EptViolation(qualification).has(EptViolation::NMI_UNBLOCKED)
}

/// An access to the APIC-access page, which is at `page`, as one that did not get
/// through there (table 28-6).
#[inline]
pub fn apic_access(fields: &impl ReadFields, page: Gpa) -> Exit {
    const LINEAR_WRITE: u64 = 1;
    const LINEAR_FETCH: u64 = 2;
    const DELIVERY: u64 = 3;
    let info = fields.read(info::QUALIFICATION);
    let kind = info >> 12 & 15;
    // Otherwise the access was by a physical address, which may be any in the
    // page: to a page table, or by the processor itself.
    let linear = kind <= DELIVERY;
    let offset = if linear { info & 0xfff } else { 0 };
    Exit::NestedFault(NestedFault {
        gpa: Gpa(page.0 & !0xfff | offset),
        write: kind == LINEAR_WRITE,
        fetch: kind == LINEAR_FETCH,
        present: true,
        table_walk: !linear,
    })
}

#[cfg(test)]
mod tests;
