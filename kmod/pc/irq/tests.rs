// SPDX-License-Identifier: GPL-2.0

//! Tests of message decoding, destination matching and routing.

use super::dest::{is_id, matches, x2apic_ldr, Arbiter, Rules};
use super::msi::DestFormat;
use super::pv_ipi::PvIpi;
use super::routes::{
    default_route, prepare, InvalidRoute, Route, RouteRules, Routes, Target, DEFAULT_ROUTES,
};
use super::{DeliveryMode, DestMode, LineStatus, Message, BROADCAST};
use crate::pc::lapic::{Identity, Snapshot};
use crate::uapi::{
    kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irq_routing_msi, kvm_irq_routing_target,
    KVM_IRQ_ROUTING_HV_SINT, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

const XAPIC: Identity = Identity {
    xapic_id: 0,
    logical_id: 0,
    model: 0xf,
    priority: 0,
    x2apic: false,
    enabled: true,
    software_enabled: true,
    lint0_extint: false,
    lint0_nmi: false,
};

fn xapic(id: u8, logical_id: u8, model: u8) -> Snapshot {
    let identity = Identity {
        xapic_id: id,
        logical_id,
        model,
        ..XAPIC
    };
    Snapshot::new(id.into(), identity)
}

fn x2apic(id: u32) -> Snapshot {
    let identity = Identity {
        xapic_id: id as u8,
        x2apic: true,
        ..XAPIC
    };
    Snapshot::new(id, identity)
}

fn to(dest: u32, dest_mode: DestMode) -> Message {
    Message {
        dest_mode,
        ..Message::fixed(dest, 0x40)
    }
}

fn hits(dest: u32, mode: DestMode, target: &Snapshot) -> bool {
    matches(&to(dest, mode), target, Rules::default())
}

#[test]
fn snapshot_round_trip() {
    let identity = Identity {
        xapic_id: 0x12,
        logical_id: 0x34,
        model: 0xa,
        priority: 0x56,
        ..XAPIC
    };
    let snapshot = Snapshot::new(0x789a_bcde, identity);
    assert_eq!(snapshot.x2apic_id(), 0x789a_bcde);
    assert_eq!(snapshot.xapic_id(), 0x12);
    assert_eq!(snapshot.logical_id(), 0x34);
    assert_eq!(snapshot.model(), 0xa);
    assert_eq!(snapshot.priority(), 0x56);
    assert!(snapshot.enabled() && snapshot.software_enabled());
    assert!(!snapshot.is_x2apic() && !snapshot.accepts_extint() && !snapshot.lint0_nmi());
}

#[test]
fn physical() {
    assert!(hits(3, DestMode::Physical, &xapic(3, 0, 0xf)));
    assert!(!hits(2, DestMode::Physical, &xapic(3, 0, 0xf)));
    assert!(!hits(0x103, DestMode::Physical, &xapic(3, 0, 0xf)));
    assert!(hits(0xff, DestMode::Physical, &xapic(3, 0, 0xf)));
    assert!(hits(BROADCAST, DestMode::Physical, &xapic(3, 0, 0xf)));
    assert!(hits(0x103, DestMode::Physical, &x2apic(0x103)));
    assert!(!hits(3, DestMode::Physical, &x2apic(0x103)));
    assert!(!hits(0xff, DestMode::Physical, &x2apic(0x103)));
    assert!(hits(0xff, DestMode::Physical, &x2apic(0xff)));
    assert!(hits(BROADCAST, DestMode::Physical, &x2apic(0x103)));
}

#[test]
fn large_id_in_xapic_mode_is_reached_by_its_full_id() {
    let target = Snapshot::new(
        0x123,
        Identity {
            xapic_id: 0x23,
            ..XAPIC
        },
    );
    assert!(hits(0x123, DestMode::Physical, &target));
    assert!(hits(0x23, DestMode::Physical, &target));
    assert!(!hits(0x223, DestMode::Physical, &target));
}

#[test]
fn broadcast_quirk_is_for_devices() {
    let quirk = Rules {
        broadcast_quirk: true,
    };
    for mode in [DestMode::Physical, DestMode::Logical] {
        assert!(matches(&to(0xff, mode), &x2apic(0x103), quirk));
        assert!(!matches(&to(0xfe, mode), &x2apic(0x103), quirk));
        assert!(!hits(0xff, mode, &x2apic(0x103)));
    }
}

#[test]
fn logical_flat() {
    let target = xapic(9, 0b0000_0100, 0xf);
    assert!(hits(0b0100, DestMode::Logical, &target));
    assert!(hits(0b0111, DestMode::Logical, &target));
    assert!(!hits(0b1011, DestMode::Logical, &target));
    assert!(hits(0xff, DestMode::Logical, &target));
    assert!(!hits(0x104, DestMode::Logical, &target));
}

#[test]
fn logical_cluster() {
    let target = xapic(9, 0x24, 0x0);
    assert!(hits(0x24, DestMode::Logical, &target));
    assert!(hits(0x2f, DestMode::Logical, &target));
    assert!(!hits(0x14, DestMode::Logical, &target));
    assert!(!hits(0x22, DestMode::Logical, &target));
    assert!(hits(0xff, DestMode::Logical, &target));
    // A model that is not defined matches nothing.
    assert!(!hits(0x24, DestMode::Logical, &xapic(9, 0x24, 0x7)));
}

#[test]
fn logical_x2apic() {
    let target = x2apic(0x35);
    assert_eq!(x2apic_ldr(0x35), 0x0003_0020);
    assert!(hits(0x0003_0020, DestMode::Logical, &target));
    assert!(hits(0x0003_ffff, DestMode::Logical, &target));
    assert!(!hits(0x0003_0010, DestMode::Logical, &target));
    assert!(!hits(0x0002_0020, DestMode::Logical, &target));
    assert!(hits(BROADCAST, DestMode::Logical, &target));
    assert!(hits(0xff, DestMode::Logical, &x2apic(7)));
    assert!(!hits(0xff, DestMode::Logical, &x2apic(8)));
}

#[test]
fn disabled_matches_nothing() {
    let target = Snapshot::new(
        3,
        Identity {
            xapic_id: 3,
            enabled: false,
            ..XAPIC
        },
    );
    assert!(!hits(3, DestMode::Physical, &target));
    assert!(!hits(BROADCAST, DestMode::Physical, &target));
}

#[test]
fn msi() {
    let message = Message::from_msi(0xfee0_500c, 0x1234_5600, 0xc1a5, DestFormat::Bits8);
    assert_eq!(
        message,
        Message {
            dest: 5,
            dest_mode: DestMode::Logical,
            mode: DeliveryMode::LowestPriority,
            vector: 0xa5,
            level_triggered: true,
            assert: true,
            redirect_hint: true,
            watched: false,
        }
    );
    let wide = Message::from_msi(0xfee0_5000, 0x1234_56ff, 0x31, DestFormat::Bits32);
    assert_eq!(wide, Message::fixed(0x1234_5605, 0x31));
    let extended = Message::from_msi(0xfee0_5000 | 0x41 << 5, 0, 0x31, DestFormat::Bits15);
    assert_eq!(extended, Message::fixed(0x4105, 0x31));
    let no_assert_bit = Message::from_msi(0xfee0_0000, 0, 0x8031, DestFormat::Bits8);
    assert!(no_assert_bit.level_triggered && no_assert_bit.assert);
}

#[test]
fn redirection_entry() {
    let entry = 0x0500_0000_0000_8931;
    let message = Message::from_rte(entry, DestFormat::Bits8);
    assert_eq!(message.dest, 5);
    assert_eq!(message.dest_mode, DestMode::Logical);
    assert_eq!(message.mode, DeliveryMode::LowestPriority);
    assert_eq!(message.vector, 0x31);
    assert!(message.level_triggered && message.assert);
    let entry = 0x0500_0000_0000_0031 | 0x12 << 49;
    let message = Message::from_rte(entry, DestFormat::Bits15);
    let watched = Message {
        watched: true,
        ..Message::fixed(0x1205, 0x31)
    };
    assert_eq!(message, watched);
}

#[test]
fn arbitration() {
    let lowest = Message {
        mode: DeliveryMode::LowestPriority,
        ..Message::fixed(BROADCAST, 0x40)
    };
    assert!(lowest.is_redirectable());
    let with = |id: u32, priority, software_enabled| {
        Snapshot::new(
            id,
            Identity {
                priority,
                software_enabled,
                ..XAPIC
            },
        )
    };
    let mut arbiter = Arbiter::default();
    assert_eq!(arbiter.winner(), None);
    arbiter.consider(&lowest, 0, &with(0, 0, false));
    assert_eq!(arbiter.winner(), None, "takes no interrupts");
    arbiter.consider(&lowest, 1, &with(1, 0x50, true));
    arbiter.consider(&lowest, 2, &with(2, 0x2f, true));
    arbiter.consider(&lowest, 3, &with(3, 0x30, true));
    assert_eq!(arbiter.winner(), Some(2));
}

#[test]
fn arbitration_spreads_equals() {
    let mut wins = [0u32; 4];
    for vector in 0x30..=0xef {
        let message = Message {
            mode: DeliveryMode::LowestPriority,
            ..Message::fixed(BROADCAST, vector)
        };
        let winner = |order: &[usize]| {
            let mut arbiter = Arbiter::default();
            for index in order {
                let target = Snapshot::new(*index as u32, XAPIC);
                arbiter.consider(&message, *index, &target);
            }
            arbiter.winner().expect("candidates")
        };
        let first = winner(&[0, 1, 2, 3]);
        assert_eq!(first, winner(&[3, 1, 0, 2]), "the order does not matter");
        wins[first] += 1;
    }
    // 192 vectors over 4 vCPUs: nobody idle, nobody swamped.
    assert!(wins.iter().all(|wins| (24..=72).contains(wins)), "{wins:?}");
}

#[test]
fn pv_ipi() {
    let ids = |a0, a1, a2, long| {
        PvIpi::decode(a0, a1, a2, 0x40fd, long)
            .expect("legal")
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(0b101, 1 << 63, 8, true), [8, 10, 8 + 127]);
    assert_eq!(ids(0b101, 1 << 31, 8, false), [8, 10, 8 + 63]);
    assert_eq!(ids(0, 1 << 32, 8, false), []);
    assert_eq!(ids(u64::MAX, 0, 0xffff_fff0, true).len(), 16);
    let ipi = PvIpi::decode(1, 0, 0, 0x400, true).expect("legal");
    assert_eq!(ipi.message().mode, DeliveryMode::Nmi);
    assert!(PvIpi::decode(1, 0, 0, 0x8fd, true).is_none());
    assert!(PvIpi::decode(1, 0, 0, 0x4_00fd, true).is_none());
    let mut left = PvIpi::decode(0b101, 1 << 63, 8, 0x40fd, true).expect("legal");
    for absent in [0, 7, 9, 8 + 126, 8 + 128, 8 + 256, u32::MAX] {
        assert!(!left.remove(absent), "{absent}");
    }
    assert!(left.remove(10) && !left.remove(10));
    assert!(left.remove(8) && !left.is_empty());
    assert!(left.remove(8 + 127) && left.is_empty());
    // Its ids are never broadcasts.
    assert!(!is_id(0xff, &xapic(1, 0, 0xf)));
    assert!(!is_id(BROADCAST, &x2apic(1)));
}

#[test]
fn line_status() {
    assert_eq!(LineStatus::Ignored.to_abi(), -1);
    assert_eq!(LineStatus::Coalesced.to_abi(), 0);
    assert_eq!(LineStatus::Delivered(2).to_abi(), 2);
    let all = [
        LineStatus::Ignored,
        LineStatus::Coalesced,
        LineStatus::Delivered(1),
    ];
    for (i, a) in all.into_iter().enumerate() {
        for (j, b) in all.into_iter().enumerate() {
            let expected = match i.max(j) {
                2 if i == j => LineStatus::Delivered(2),
                rank => all[rank],
            };
            assert_eq!(a.merge(b), expected);
        }
    }
}

const FULL: RouteRules = RouteRules {
    full_irqchip: true,
    format: DestFormat::Bits8,
};

fn pin_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut u = kvm_irq_routing_target::default();
    u.set_irqchip(kvm_irq_routing_irqchip { irqchip, pin });
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        flags: 0,
        pad: 0,
        u,
    }
}

fn msi_entry(gsi: u32, address_hi: u32, data: u32) -> kvm_irq_routing_entry {
    let mut u = kvm_irq_routing_target::default();
    u.set_msi(kvm_irq_routing_msi {
        address_lo: 0xfee0_1000,
        address_hi,
        data,
        devid: 0,
    });
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        flags: 0,
        pad: 0,
        u,
    }
}

#[test]
fn routes_from_abi() {
    let target = |entry: &kvm_irq_routing_entry| Route::from_abi(entry, FULL).map(|r| r.target);
    assert_eq!(target(&pin_entry(1, 0, 7)), Ok(Target::Pic { irq: 7 }));
    assert_eq!(target(&pin_entry(1, 1, 7)), Ok(Target::Pic { irq: 15 }));
    assert_eq!(target(&pin_entry(1, 2, 23)), Ok(Target::IoApic { pin: 23 }));
    for (chip, pin) in [(0, 8), (1, 8), (2, 24), (3, 0), (2, u32::MAX)] {
        assert_eq!(target(&pin_entry(1, chip, pin)), Err(InvalidRoute));
    }
    assert_eq!(target(&pin_entry(4096, 0, 0)), Err(InvalidRoute));
    let flags = kvm_irq_routing_entry {
        flags: 1,
        ..msi_entry(1, 0, 0)
    };
    assert_eq!(target(&flags), Err(InvalidRoute));
    let sint = kvm_irq_routing_entry {
        type_: KVM_IRQ_ROUTING_HV_SINT,
        ..msi_entry(1, 0, 0)
    };
    assert_eq!(target(&sint), Err(InvalidRoute));
    let split = RouteRules {
        full_irqchip: false,
        format: DestFormat::Bits32,
    };
    assert!(Route::from_abi(&pin_entry(1, 0, 0), split).is_err());
    assert!(Route::from_abi(&msi_entry(1, 0x100, 0x31), split).is_ok());
    assert!(Route::from_abi(&msi_entry(1, 0x101, 0x31), split).is_err());
    assert!(Route::from_abi(&msi_entry(1, 0x101, 0x31), FULL).is_ok());
}

#[test]
fn default_table() {
    let mut table: Vec<Route> = (0..).map_while(default_route).collect();
    assert_eq!(table.len(), DEFAULT_ROUTES);
    let sorted = table.clone();
    let routes = prepare(&mut table).expect("valid");
    for gsi in 0..24u32 {
        let pin = gsi as u8;
        let found = routes.lookup(gsi);
        let targets: Vec<Target> = found.iter().map(|route| route.target).collect();
        if gsi < 16 {
            assert_eq!(targets, [Target::IoApic { pin }, Target::Pic { irq: pin }]);
        } else {
            assert_eq!(targets, [Target::IoApic { pin }]);
        }
        assert_eq!(routes.gsi_of_pin(Target::IoApic { pin }), Some(gsi));
    }
    assert!(routes.lookup(24).is_empty());
    let count = routes.raise(3, |_| LineStatus::Delivered(1));
    assert_eq!(count, LineStatus::Delivered(2));
    assert_eq!(
        routes.raise(30, |_| LineStatus::Delivered(1)),
        LineStatus::Ignored
    );
    assert_eq!(table, sorted, "the default table needs no sorting");
}

#[test]
fn conflicting_routes() {
    let check = |entries: &[kvm_irq_routing_entry]| {
        let mut table: Vec<Route> = entries
            .iter()
            .map(|entry| Route::from_abi(entry, FULL).expect("valid"))
            .collect();
        prepare(&mut table).map(|_| ()).is_ok()
    };
    let (a, b) = (pin_entry(5, 0, 5), pin_entry(5, 2, 5));
    assert!(check(&[b, a]));
    assert!(!check(&[a, pin_entry(5, 0, 6)]));
    assert!(!check(&[a, msi_entry(5, 0, 0)]));
    assert!(!check(&[msi_entry(5, 0, 0), msi_entry(5, 0, 1)]));
    assert!(check(&[msi_entry(5, 0, 0), msi_entry(6, 0, 0)]));
    assert!(check(&[a, pin_entry(5, 1, 5), b]), "one pin of each chip");
}

#[test]
fn eoi_exits_of_a_split_irqchip() {
    let level = 0x8000;
    let mut table: Vec<Route> = [
        msi_entry(3, 0, 0x41 | level),
        msi_entry(4, 0, 0x42),
        msi_entry(23, 0, 0x43 | level),
        msi_entry(24, 0, 0x44 | level),
    ]
    .iter()
    .map(|entry| Route::from_abi(entry, FULL).expect("valid"))
    .collect();
    let routes = prepare(&mut table).expect("valid");
    let vectors = routes.eoi_exit_vectors(24, DestFormat::Bits8);
    let members: Vec<u8> = (0..=255).filter(|v| vectors.contains(*v)).collect();
    assert_eq!(members, [0x41, 0x43]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Any table of messages with distinct GSIs can be had, and each GSI is
    /// found again.
    #[test]
    fn lookup_finds_all(
        gsis in prop::collection::vec(0u32..4096, 0..300).prop_map(|mut gsis| {
            let mut seen = BTreeSet::new();
            gsis.retain(|gsi| seen.insert(*gsi));
            gsis
        })
    ) {
        let mut table: Vec<Route> = gsis.iter().map(|gsi| Route {
            gsi: *gsi,
            target: Target::Msi { address_lo: 0xfee0_0000, address_hi: 0, data: *gsi },
        }).collect();
        prop_assert!(prepare(&mut table).is_ok());
        prop_assert!(table.windows(2).all(|pair| pair[0].gsi < pair[1].gsi));
        let routes = Routes::from_prepared(&table);
        for gsi in 0..4096u32 {
            let found = routes.lookup(gsi);
            if gsis.contains(&gsi) {
                prop_assert_eq!(found.len(), 1);
                let data = match found[0].target {
                    Target::Msi { data, .. } => Some(data),
                    _ => None,
                };
                prop_assert_eq!(data, Some(gsi));
            } else {
                prop_assert!(found.is_empty());
            }
        }
    }

    /// Decoding never fails, and a broadcast reaches everyone enabled.
    #[test]
    fn any_message(lo: u32, hi: u32, data: u32, rte: u64, id: u32, x2: bool) {
        for format in [DestFormat::Bits8, DestFormat::Bits15, DestFormat::Bits32] {
            let target = if x2 { x2apic(id) } else { xapic(id as u8, lo as u8, hi as u8) };
            let _ = matches(&Message::from_msi(lo, hi, data, format), &target, Rules::default());
            let mut message = Message::from_rte(rte, format);
            message.dest = BROADCAST;
            prop_assert!(matches(&message, &target, Rules::default()));
        }
    }
}
