// SPDX-License-Identifier: GPL-2.0

//! Negotiation against what processors and emulators have.

mod bochs;
mod processors;

use super::*;
use proptest::prelude::*;

/// Capability MSRs: index and value.
type Msrs = &'static [(u32, u64)];

/// Reads only what is there: anything else would have raised #GP.
fn capabilities(msrs: &[(u32, u64)]) -> Capabilities {
    Capabilities::read(|index| {
        msrs.iter()
            .find(|(known, _)| *known == index)
            .unwrap_or_else(|| panic!("MSR {index:#x} does not exist"))
            .1
    })
}

/// What there is beyond the required, in words.
fn extras(controls: &Controls) -> String {
    let ept = |bit| controls.ept.has(bit);
    let secondary = |bit| controls.secondary.available.has(bit);
    let all = [
        ("vpid", controls.has_vpid()),
        ("timer", controls.has_preemption_timer()),
        ("vid", controls.has_virtual_interrupts()),
        ("x2apic", secondary(Secondary::X2APIC)),
        ("posted", controls.has_posted_interrupts()),
        ("ad", controls.has_ept_accessed_dirty()),
        ("pml", controls.has_pml()),
        ("1g", ept(EptVpid::LEAF_1G)),
        ("5level", ept(EptVpid::WALK_5)),
        ("rdtscp", secondary(Secondary::RDTSCP)),
        ("invpcid", secondary(Secondary::INVPCID)),
        ("ple", secondary(Secondary::PAUSE_LOOP)),
        ("xsaves", secondary(Secondary::XSAVES)),
        ("scaling", controls.has_tsc_scaling()),
        ("code", controls.any_error_code()),
    ];
    let there: Vec<_> = all.iter().filter(|(_, on)| *on).map(|(n, _)| *n).collect();
    there.join(" ")
}

fn runs_with(msrs: &[(u32, u64)]) -> String {
    match Controls::negotiate(&capabilities(msrs)) {
        Ok(controls) => extras(&controls),
        Err(missing) => panic!("refused: {missing}"),
    }
}

fn refused_for(msrs: &[(u32, u64)]) -> String {
    match Controls::negotiate(&capabilities(msrs)) {
        Ok(_) => panic!("not refused"),
        Err(missing) => missing.to_string(),
    }
}

#[test]
fn processors_without_unrestricted_guest_are_refused() {
    assert_eq!(
        refused_for(processors::PENRYN_X5482),
        "enable EPT, unrestricted guest, load IA32_EFER on exit, load IA32_EFER on entry"
    );
    assert_eq!(refused_for(processors::NEHALEM), "unrestricted guest");
    assert_eq!(
        refused_for(bochs::CORE2_PENRYN_T9600),
        "enable EPT, unrestricted guest, load IA32_EFER on exit, load IA32_EFER on entry"
    );
    assert_eq!(
        refused_for(bochs::COREI5_LYNNFIELD_750),
        "unrestricted guest"
    );
}

#[test]
fn real_processors() {
    let first = "vpid timer x2apic rdtscp";
    assert_eq!(runs_with(processors::WESTMERE), first);
    assert_eq!(runs_with(processors::SANDY_BRIDGE_2635QM), first);
    assert_eq!(
        runs_with(processors::SANDY_BRIDGE_3960X),
        "vpid timer x2apic 1g rdtscp ple"
    );
    assert_eq!(runs_with(processors::IVY_BRIDGE_3570), first);
    let haswell = "vpid timer x2apic ad 1g rdtscp invpcid ple";
    assert_eq!(runs_with(processors::HASWELL), haswell);
    assert_eq!(runs_with(processors::BROADWELL_5600U), haswell);
    assert_eq!(
        runs_with(processors::BROADWELL_E5_2683),
        "vpid timer vid x2apic posted ad pml 1g rdtscp invpcid ple"
    );
    assert_eq!(
        runs_with(processors::SKYLAKE_6700K),
        "vpid timer x2apic ad pml 1g rdtscp invpcid ple xsaves"
    );
    assert_eq!(
        runs_with(processors::COFFEE_LAKE_8700),
        "vpid timer x2apic ad pml 1g rdtscp invpcid ple xsaves"
    );
    assert_eq!(
        runs_with(processors::SKYLAKE_SP),
        "vpid timer vid x2apic posted ad pml 1g rdtscp invpcid ple xsaves scaling"
    );
}

#[test]
fn newer_processors() {
    const ALL: &str = "vpid timer vid x2apic posted ad pml 1g rdtscp invpcid ple xsaves scaling";
    assert_eq!(runs_with(processors::ICE_LAKE_1065G7), ALL);
    let any_code = format!("{ALL} code");
    assert_eq!(runs_with(processors::TIGER_LAKE_1135G7), any_code);
    assert_eq!(
        runs_with(processors::RAPTOR_LAKE),
        any_code.replace("pml ", "")
    );
    assert_eq!(
        runs_with(processors::EMERALD_RAPIDS),
        any_code.replace("1g", "1g 5level")
    );
    assert_eq!(
        runs_with(&processors::from_flags(processors::ARROW_LAKE_FLAGS)),
        ALL
    );
}

#[test]
fn hosts_that_are_guests() {
    assert_eq!(
        runs_with(processors::SKYLAKE_SP_IN_KVM),
        "vpid timer vid x2apic posted ad pml 1g rdtscp invpcid xsaves scaling"
    );
    assert_eq!(
        runs_with(processors::SAPPHIRE_RAPIDS_IN_KVM),
        "vpid timer vid x2apic posted ad pml 1g 5level rdtscp invpcid xsaves scaling"
    );
    assert_eq!(
        runs_with(&processors::from_flags(
            processors::TIGER_LAKE_IN_HYPER_V_FLAGS
        )),
        "vpid x2apic ad 1g rdtscp invpcid xsaves scaling"
    );
}

#[test]
fn models_of_bochs() {
    assert_eq!(
        runs_with(bochs::COREI5_ARRANDALE_M520),
        "vpid timer x2apic rdtscp"
    );
    assert_eq!(
        runs_with(bochs::COREI7_SANDY_BRIDGE_2600K),
        "vpid timer rdtscp"
    );
    assert_eq!(
        runs_with(bochs::COREI7_IVY_BRIDGE_3770K),
        "vpid timer x2apic rdtscp"
    );
    assert_eq!(
        runs_with(bochs::COREI7_HASWELL_4770),
        "vpid timer vid x2apic ad 1g rdtscp invpcid ple"
    );
    assert_eq!(
        runs_with(bochs::BROADWELL_ULT),
        "vpid timer vid x2apic ad 1g rdtscp invpcid ple"
    );
    assert_eq!(
        runs_with(bochs::COREI7_SKYLAKE_X),
        "vpid timer vid x2apic posted ad pml 1g rdtscp invpcid ple xsaves scaling"
    );
    assert_eq!(
        runs_with(bochs::COREI3_CNL),
        "vpid timer x2apic ad 1g rdtscp invpcid ple xsaves scaling"
    );
    assert_eq!(
        runs_with(bochs::COREI7_ICELAKE_U),
        "vpid timer vid x2apic posted ad pml 1g rdtscp invpcid ple xsaves scaling"
    );
    assert_eq!(
        runs_with(bochs::TIGERLAKE),
        "vpid timer vid x2apic posted ad pml 1g rdtscp invpcid ple xsaves scaling code"
    );
    for model in [bochs::SAPPHIRE_RAPIDS, bochs::ARROW_LAKE] {
        assert_eq!(
            runs_with(model),
            "vpid timer vid x2apic posted ad pml 1g rdtscp invpcid ple xsaves scaling code"
        );
    }
}

/// What a VMCS begins with on the smallest host that must do.
#[test]
fn base_words_of_ivy_bridge() {
    for msrs in [bochs::COREI7_IVY_BRIDGE_3770K, processors::IVY_BRIDGE_3570] {
        let controls = Controls::negotiate(&capabilities(msrs)).unwrap();
        assert_eq!(controls.pin.base, Pin(0x3f));
        assert_eq!(
            controls.primary.base,
            Primary(0xb5a0_6dfa | 0x0400_6172),
            "CR3 exits are off where the TRUE MSRs allow it"
        );
        assert!(!controls
            .primary
            .base
            .any(Primary::CR3_LOAD | Primary::CR3_STORE));
        assert_eq!(
            controls.secondary.base,
            Secondary::EPT | Secondary::VPID | Secondary::UNRESTRICTED_GUEST | Secondary::WBINVD
        );
        assert_eq!(controls.exit.base, ExitControls(0x0033_effb | 4));
        assert_eq!(controls.entry.base, EntryControls(0x0000_91fb | 4));
    }
}

/// By name, independently of how the policy is written down.
const REQUIRED: [&str; 30] = [
    "external-interrupt exiting",
    "NMI exiting",
    "virtual NMIs",
    "interrupt-window exiting",
    "use TSC offsetting",
    "HLT exiting",
    "MWAIT exiting",
    "RDPMC exiting",
    "CR8-load exiting",
    "CR8-store exiting",
    "use TPR shadow",
    "NMI-window exiting",
    "MOV-DR exiting",
    "unconditional I/O exiting",
    "use MSR bitmaps",
    "MONITOR exiting",
    "activate secondary controls",
    "enable EPT",
    "unrestricted guest",
    "save debug controls",
    "host address-space size",
    "acknowledge interrupt on exit",
    "load IA32_EFER on exit",
    "load debug controls",
    "IA-32e mode guest",
    "load IA32_EFER on entry",
    "EPT page walks of length 4",
    "write-back EPT structures",
    "INVEPT",
    "single-context INVEPT",
];
const REQUIRED_LAST: &str = "all-context INVEPT";

/// Each word of `Capabilities` that holds controls, and the bits it can have.
type Part = fn(&mut Capabilities) -> &mut u64;
const PARTS: [Part; 5] = [
    |c| &mut c.pin,
    |c| &mut c.primary,
    |c| &mut c.secondary,
    |c| &mut c.exit,
    |c| &mut c.entry,
];

#[test]
fn each_missing_bit_is_named_and_nothing_else() {
    for msrs in [
        bochs::COREI7_IVY_BRIDGE_3770K,
        processors::WESTMERE,
        processors::SKYLAKE_SP,
        processors::SAPPHIRE_RAPIDS_IN_KVM,
        processors::EMERALD_RAPIDS,
        bochs::ARROW_LAKE,
    ] {
        let all = capabilities(msrs);
        let mut named = Vec::new();
        let mut without = |part: Part, bits: u64| {
            let mut less = all;
            *part(&mut less) &= !bits;
            if less == all {
                return;
            }
            if let Err(missing) = Controls::negotiate(&less) {
                assert_eq!(missing.forced, Bits::default());
                named.push(missing.to_string());
            }
        };
        for part in PARTS {
            for bit in 0..32 {
                // What must be 1 can be 1.
                without(part, (1 << 32 | 1) << bit);
            }
        }
        for bit in 0..64 {
            without(|c| &mut c.ept_vpid, 1 << bit);
        }
        let required: Vec<_> = REQUIRED.iter().chain([&REQUIRED_LAST]).copied().collect();
        assert_eq!(named, required);
    }
}

#[test]
fn what_cannot_be_switched_off_is_named() {
    // On in every VMCS anyway, or harmless, or asked for by no one.
    let all = capabilities(bochs::ARROW_LAKE);
    for part in PARTS {
        for bit in 0..32 {
            let mut more = all;
            *part(&mut more) |= (1 << 32 | 1) << bit;
            let base = match Controls::negotiate(&more) {
                Ok(controls) => controls,
                Err(missing) => {
                    assert_eq!(missing.absent, Bits::default());
                    let text = missing.to_string();
                    assert!(text.starts_with("a way to switch off "), "{text}");
                    assert!(!text.contains(','), "{text}");
                    continue;
                }
            };
            let words = [
                base.pin.base.0,
                base.primary.base.0,
                base.secondary.base.0,
                base.exit.base.0,
                base.entry.base.0,
            ];
            assert!(
                words.iter().any(|word| word >> bit & 1 != 0),
                "a bit that must be 1 is 1"
            );
        }
    }
    let mut forced = all;
    forced.primary |= 1 << 12;
    forced.secondary |= 1 << 2;
    let missing = Controls::negotiate(&forced).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "a way to switch off RDTSC exiting, a way to switch off descriptor-table exiting"
    );
    // So is what has a name and no use here.
    let mut forced = all;
    forced.primary |= 1 << 25 | 1 << 17;
    let missing = Controls::negotiate(&forced).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "a way to switch off activate tertiary controls, a way to switch off use I/O bitmaps"
    );
    // CR3 exits: processors without the TRUE MSRs.
    let mut old = all;
    old.primary |= 0x1_8000;
    let controls = Controls::negotiate(&old).unwrap();
    assert!(controls
        .primary
        .base
        .has(Primary::CR3_LOAD | Primary::CR3_STORE));
}

#[test]
fn a_missing_word_hides_what_is_behind_it() {
    let mut less = capabilities(processors::WESTMERE);
    less.primary &= !(1 << 63);
    less.secondary = 0;
    less.ept_vpid = 0;
    let missing = Controls::negotiate(&less).unwrap_err();
    assert_eq!(missing.to_string(), "activate secondary controls");
    let mut less = capabilities(processors::WESTMERE);
    less.secondary &= !(1 << 33);
    less.ept_vpid = 0;
    let missing = Controls::negotiate(&less).unwrap_err();
    assert_eq!(missing.to_string(), "enable EPT");
}

#[test]
fn some_come_together_or_not_at_all() {
    let negotiate = |change: fn(&mut Capabilities)| {
        let mut less = capabilities(processors::SKYLAKE_SP);
        change(&mut less);
        Controls::negotiate(&less).unwrap()
    };
    let full = negotiate(|_| ());
    let no_vid = negotiate(|c| c.secondary &= !(1 << (32 + 9)));
    assert!(!no_vid.has_posted_interrupts());
    // Of the APIC's page each access would exit.
    assert!(full.has_virtual_xapic() && !no_vid.has_virtual_xapic());
    let no_registers = negotiate(|c| c.secondary &= !(1 << (32 + 8)));
    assert!(!no_registers
        .secondary
        .available
        .has(Secondary::APIC_ACCESSES));
    let no_accesses = negotiate(|c| c.secondary &= !(1 << 32));
    assert!(no_accesses.has_virtual_x2apic() && !no_accesses.has_virtual_xapic());
    assert!(!full.secondary.base.has(Secondary::APIC_ACCESSES));
    let no_dirty = negotiate(|c| c.ept_vpid &= !(1 << 21));
    assert!(full.has_pml() && !no_dirty.has_pml());
}

#[test]
fn words_are_built_from_what_there_is() {
    let controls = Controls::negotiate(&capabilities(processors::WESTMERE)).unwrap();
    let word = controls.secondary.with(Secondary::RDTSCP | Secondary::PML);
    assert_eq!(word, controls.secondary.base | Secondary::RDTSCP);
    assert_eq!(controls.preemption_timer_shift(), 7);
    assert_eq!(controls.capabilities.revision(), 0xf);
    assert!(!controls.any_error_code());
    let newest = Controls::negotiate(&capabilities(bochs::ARROW_LAKE)).unwrap();
    assert!(newest.any_error_code());
}

#[test]
fn pointers() {
    let old = Controls::negotiate(&capabilities(processors::WESTMERE)).unwrap();
    assert_eq!(old.eptp(Hpa(0x1234_5000), 4), 0x1234_501e);
    let new = Controls::negotiate(&capabilities(processors::HASWELL)).unwrap();
    assert_eq!(new.eptp(Hpa(0x1234_5000), 4), 0x1234_505e);
    assert_eq!(new.eptp(Hpa(0x1234_5000), 5), 0x1234_5066);
}

#[test]
fn control_registers() {
    let controls = Controls::negotiate(&capabilities(processors::WESTMERE)).unwrap();
    assert_eq!(controls.real_cr0(Cr0(0)), Cr0::NE, "PE and PG are free");
    assert_eq!(
        controls.real_cr0(Cr0::PE | Cr0::PG),
        Cr0::PE | Cr0::PG | Cr0::NE
    );
    assert_eq!(controls.real_cr4(Cr4(0)), Cr4::VMXE);
    assert_eq!(
        controls.real_cr4(Cr4::PAE | Cr4::SMEP),
        Cr4::PAE | Cr4::VMXE,
        "a bit that the processor does not have stays 0"
    );
}

fn any_capabilities() -> impl Strategy<Value = Capabilities> {
    // Mostly there, so that some are accepted: holes in a real processor's.
    let word = || prop_oneof![3 => Just(u64::MAX), 1 => any::<u64>()];
    (
        (word(), word(), word(), word(), word(), word()),
        prop_oneof![Just(0u32), 0u32..0x40],
    )
        .prop_map(|(holes, forced)| {
            let mut c = capabilities(bochs::ARROW_LAKE);
            let hole = |value: u64, hole: u64| value & (hole | 0xffff_ffff);
            c.pin = hole(c.pin, holes.0) | u64::from(forced) << 5;
            c.primary = hole(c.primary, holes.1);
            c.secondary = hole(c.secondary, holes.2);
            c.exit = hole(c.exit, holes.3);
            c.entry = hole(c.entry, holes.4);
            c.ept_vpid &= holes.5;
            c
        })
}

proptest! {
    /// SDM vol. 3, 27.2.1: what an entry checks of the words.
    #[test]
    fn negotiated_words_are_allowed(c in any_capabilities()) {
        let Ok(n) = Controls::negotiate(&c) else {
            return Ok(());
        };
        for (word, msr) in [
            (Word { base: n.pin.base.0, available: n.pin.available.0 }, c.pin),
            (Word { base: n.primary.base.0, available: n.primary.available.0 }, c.primary),
            (Word { base: n.secondary.base.0, available: n.secondary.available.0 }, c.secondary),
            (Word { base: n.exit.base.0, available: n.exit.available.0 }, c.exit),
            (Word { base: n.entry.base.0, available: n.entry.available.0 }, c.entry),
        ] {
            let (must, can) = (msr as u32, (msr >> 32) as u32);
            prop_assert_eq!(word.base & must, must);
            prop_assert_eq!(word.base & !(can | must), 0);
            prop_assert_eq!(word.available & !(can | must), 0);
            prop_assert_eq!(word.base & !word.available, 0);
        }
        let (pin, secondary) = (n.pin.available, n.secondary.available);
        if secondary.has(Secondary::APIC_ACCESSES) {
            prop_assert!(secondary.has(Secondary::APIC_REGISTERS));
        }
        if pin.has(Pin::POSTED_INTERRUPTS) {
            prop_assert!(secondary.has(Secondary::VIRTUAL_INTERRUPTS));
            prop_assert!(n.exit.base.has(ExitControls::ACKNOWLEDGE_INTERRUPT));
        }
        prop_assert!(pin.has(Pin::VIRTUAL_NMIS | Pin::NMI));
        prop_assert!(secondary.has(Secondary::EPT | Secondary::UNRESTRICTED_GUEST));
    }
}
