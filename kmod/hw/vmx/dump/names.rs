// SPDX-License-Identifier: GPL-2.0

//! Names of what a VMCS holds as numbers.

use crate::hw::vmx::event::Interruption;
use crate::hw::vmx::event::Kind;
use core::fmt;

/// VM-instruction errors: SDM vol. 3, 31.4.
pub(super) const fn instruction_error(number: u64) -> &'static str {
    match number {
        0 => "none",
        1 => "VMCALL executed in VMX root operation",
        2 => "VMCLEAR with invalid physical address",
        3 => "VMCLEAR with VMXON pointer",
        4 => "VMLAUNCH with non-clear VMCS",
        5 => "VMRESUME with non-launched VMCS",
        6 => "VMRESUME after VMXOFF",
        7 => "VM entry with invalid control fields",
        8 => "VM entry with invalid host-state fields",
        9 => "VMPTRLD with invalid physical address",
        10 => "VMPTRLD with VMXON pointer",
        11 => "VMPTRLD with incorrect VMCS revision identifier",
        12 => "VMREAD or VMWRITE of unsupported VMCS component",
        13 => "VMWRITE to read-only VMCS component",
        15 => "VMXON executed in VMX root operation",
        16 => "VM entry with invalid executive-VMCS pointer",
        17 => "VM entry with non-launched executive VMCS",
        18 => "VM entry with executive-VMCS pointer not VMXON pointer",
        19 => "VMCALL with non-clear VMCS",
        20 => "VMCALL with invalid VM-exit control fields",
        22 => "VMCALL with incorrect MSEG revision identifier",
        23 => "VMXOFF under dual-monitor treatment",
        24 => "VMCALL with invalid SMM-monitor features",
        25 => "VM entry with invalid VM-execution controls in executive VMCS",
        26 => "VM entry with events blocked by MOV SS",
        28 => "invalid operand to INVEPT or INVVPID",
        _ => "not defined",
    }
}

/// Exit qualification of an entry that failed for the guest's state (27.8).
pub(super) const fn invalid_guest_state(qualification: u64) -> &'static str {
    match qualification {
        2 => "PDPTEs",
        3 => "NMI injected in the shadow of STI",
        4 => "VMCS link pointer",
        _ => "not told which",
    }
}

/// Activity states (25.4.2).
pub(super) const fn activity(state: u64) -> &'static str {
    match state {
        0 => "active",
        1 => "HLT",
        2 => "shutdown",
        3 => "wait-for-SIPI",
        _ => "not defined",
    }
}

/// Types of system descriptors, and what code and data segments are.
pub(super) const fn segment_type(access: u64) -> &'static str {
    const UNUSABLE: u64 = 1 << 16;
    const CODE_OR_DATA: u64 = 1 << 4;
    const LONG: u64 = 1 << 13;
    const BIG: u64 = 1 << 14;
    if access & UNUSABLE != 0 {
        return "unusable";
    }
    if access & CODE_OR_DATA == 0 {
        return match access & 15 {
            2 => "LDT",
            3 => "16-bit TSS, busy",
            11 => "TSS, busy",
            _ => "system",
        };
    }
    match (access & 8 != 0, access & LONG != 0, access & BIG != 0) {
        (true, true, _) => "64-bit code",
        (true, false, true) => "32-bit code",
        (true, false, false) => "16-bit code",
        (false, _, true) => "32-bit data",
        (false, _, false) => "16-bit data",
    }
}

/// An event as the interruption and vectoring fields hold it.
pub(super) struct EventInfo(pub(super) Interruption);

impl fmt::Display for EventInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        if !info.has(Interruption::VALID) {
            return f.write_str("none");
        }
        let kind = match info.kind() {
            Some(Kind::External) => "external interrupt",
            Some(Kind::Nmi) => "NMI",
            Some(Kind::Hardware) => "exception",
            Some(Kind::SoftwareInterrupt) => "software interrupt",
            Some(Kind::PrivilegedSoftware) => "INT1",
            Some(Kind::SoftwareException) => "software exception",
            Some(Kind::Other) => "other event",
            None => "reserved type",
        };
        write!(f, "{kind}, vector {}", info.vector())?;
        if info.has(Interruption::ERROR_CODE) {
            f.write_str(", with error code")?;
        }
        Ok(())
    }
}
