// SPDX-License-Identifier: GPL-2.0

//! xAPIC mode: the guest's accesses to the register page, of which the processor
//! does some itself. Beside it runs a local APIC that no processor keeps, which
//! is told every access: both must be the same.

use super::*;
use crate::pc::lapic::regs::lvt;

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Written {
    /// The processor has done all of it.
    Done,
    /// An exit for the end of this interrupt.
    Eoi(u8),
    /// An exit behind the write.
    Behind,
    /// An exit in its place.
    Before,
}

/// Registers whose writes are virtualized with APIC-register virtualization
/// (30.4.3.1).
const WRITTEN: [u8; 17] = [
    regs::ID,
    regs::TPR,
    regs::EOI,
    regs::LDR,
    regs::DFR,
    regs::SVR,
    regs::ESR,
    regs::ICR,
    regs::ICR_HIGH,
    regs::LVT_TIMER,
    regs::LVT_THERMAL,
    regs::LVT_PERF,
    regs::LVT_LINT0,
    regs::LVT_LINT1,
    regs::LVT_ERROR,
    regs::TIMER_INITIAL,
    regs::TIMER_DIVIDE,
];

impl Cpu {
    /// 30.4.3.2.
    fn write(&mut self, register: u8, value: u32) -> Written {
        if !WRITTEN.contains(&register) {
            return Written::Before;
        }
        self.set_register(register, value);
        match register {
            regs::TPR => {
                self.set_register(regs::TPR, value & 0xff);
                Written::Done
            }
            regs::EOI => {
                self.set_register(regs::EOI, 0);
                self.eoi().map_or(Written::Done, Written::Eoi)
            }
            regs::ICR if is_self_ipi(value) => {
                self.self_ipi(value as u8);
                Written::Done
            }
            regs::ICR_HIGH => {
                self.set_register(regs::ICR_HIGH, value & 0xff00_0000);
                Written::Done
            }
            _ => Written::Behind,
        }
    }
}

/// 30.4.3.2: fixed, edge triggered, to itself by shorthand, a legal vector, and
/// none of the reserved bits.
fn is_self_ipi(value: u32) -> bool {
    value & 0xfff3_b700 == 0 && value >> 18 & 3 == 1 && value & 0xf0 != 0
}

struct Page {
    bench: Bench,
    /// The one that is told everything.
    plain: Lapic,
    plain_post: LapicPost,
    kept: Kept,
}

impl Page {
    fn new() -> Self {
        let post = LapicPost::new(1);
        let mut lapic = Lapic::new(Config::new(1), false);
        let plain = lapic.clone();
        lapic.set_in_page(true);
        assert!(!lapic.may_be_kept(), "software disabled");
        let page = Self {
            bench: Bench {
                lapic,
                post,
                mirror: Mirror::default(),
                cpu: Cpu {
                    page: RefCell::new([0xabcd_ef01; 64]),
                    status: InterruptStatus::default(),
                    exits: VectorSet::EMPTY,
                },
                watched: VectorSet::EMPTY,
            },
            plain,
            plain_post: LapicPost::new(1),
            kept: Kept::Nothing,
        };
        for first in [regs::IRR, regs::ISR, regs::TMR] {
            for index in 0..8 {
                page.bench.cpu.set_register(first | index, 0);
            }
        }
        page
    }

    /// One that is software enabled.
    fn enabled() -> Self {
        let mut page = Self::new();
        page.enter();
        page.write(regs::SVR, 0x1ff);
        page
    }

    fn post(&mut self, vector: u8, level: bool) {
        self.bench.post(vector, level);
        let _ = self.plain_post.post(vector, level);
        let _ = self.plain.sync(&self.plain_post);
    }

    /// An access that software does.
    fn by_software(&mut self, register: u8, value: u32) {
        let cx = Context {
            post: &self.bench.post,
            clock: &NoTime,
        };
        let offset = u32::from(register) << 4;
        let _ = self.bench.lapic.mmio_write(offset, 4, value, &cx);
    }

    fn by_plain(&mut self, register: u8, value: u32) {
        let cx = Context {
            post: &self.plain_post,
            clock: &NoTime,
        };
        let offset = u32::from(register) << 4;
        let _ = self.plain.mmio_write(offset, 4, value, &cx);
    }

    /// An entry delivers what it can, if the processor does not keep the page.
    fn enter(&mut self) {
        self.kept = if self.bench.lapic.may_be_kept() {
            Kept::Page
        } else {
            Kept::Closed
        };
        if self.kept != Kept::Page {
            let vector = self.bench.lapic.pending_vector();
            assert_eq!(vector, self.plain.pending_vector());
            if let Some(vector) = vector {
                self.bench.lapic.ack(vector);
                self.plain.ack(vector);
            }
        }
        if self.kept != Kept::Page {
            self.bench.lapic.shown();
            return;
        }
        let bench = &mut self.bench;
        Mirror::show_registers(&mut bench.lapic, &bench.cpu);
        let changes = bench
            .mirror
            .show(&bench.lapic, &bench.cpu, || bench.watched);
        bench.lapic.shown();
        bench.cpu.status = changes.status.unwrap_or(bench.cpu.status);
        bench.cpu.exits = changes.eoi_exits.unwrap_or(bench.cpu.exits);
        bench.check_sets();
        self.check_page();
    }

    /// What the guest reads without an exit is what it would read with one.
    fn check_page(&mut self) {
        for register in PAGE_REGISTERS {
            let offset = u32::from(register) << 4;
            let read = self.plain.mmio_read(offset, 4, &NoTime);
            assert_eq!(self.bench.cpu.register(register), read, "{register:x}");
        }
    }

    fn exit(&mut self) {
        if self.kept != Kept::Page {
            return;
        }
        let bench = &mut self.bench;
        let status = bench.cpu.status;
        bench
            .mirror
            .take(&mut bench.lapic, &bench.cpu, status, &bench.post);
        Mirror::take_command(&mut bench.lapic, &bench.cpu);
    }

    fn check(&self) {
        let (one, other) = (&self.bench.lapic, &self.plain);
        assert_eq!(one.irr(), other.irr());
        assert_eq!(one.isr(), other.isr());
        // A processor that makes a self-IPI a request leaves that as it was.
        assert_eq!(one.tmr().union(other.tmr()), *one.tmr());
        assert_eq!((one.tpr(), one.ppr()), (other.tpr(), other.ppr()));
        for register in PAGE_REGISTERS {
            let (one, other) = (one.page_register(register), other.page_register(register));
            assert_eq!(one, other, "{register:x}");
        }
    }

    /// The guest writes, and goes on.
    fn write(&mut self, register: u8, value: u32) -> Written {
        let written = match self.kept {
            Kept::Page => self.bench.cpu.write(register, value),
            _ => Written::Before,
        };
        self.by_plain(register, value);
        match written {
            Written::Done => return written,
            Written::Eoi(_) => self.exit(),
            Written::Behind => {
                self.exit();
                self.bench.lapic.page_was_written();
                let value = self.bench.cpu.register(register);
                self.by_software(register, value);
            }
            Written::Before => {
                self.exit();
                self.by_software(register, value);
            }
        }
        self.check();
        self.enter();
        written
    }

    /// The processor delivers, if it may.
    fn deliver(&mut self) -> Option<u8> {
        if self.kept != Kept::Page {
            return None;
        }
        let vector = self.bench.cpu.deliver()?;
        assert_eq!(self.plain.pending_vector(), Some(vector));
        self.plain.ack(vector);
        Some(vector)
    }
}

#[test]
fn what_is_left_to_the_processor() {
    let mut page = Page::new();
    page.enter();
    assert_eq!(page.kept, Kept::Closed, "software disabled");
    assert_eq!(page.write(regs::SVR, 0x1ff), Written::Before);
    assert_eq!(page.kept, Kept::Page);
    assert_eq!(page.write(regs::SVR, 0xff), Written::Behind);
    assert_eq!(page.kept, Kept::Closed);
    assert_eq!(page.write(regs::SVR, 0x1ff), Written::Before);
    assert_eq!(page.kept, Kept::Page);
    page.bench.lapic.set_in_page(false);
    page.enter();
    assert_eq!(page.kept, Kept::Closed);
}

#[test]
fn a_new_base_ends_it() {
    let mut page = Page::new();
    let lapic = &mut page.bench.lapic;
    for value in [lapic.apic_base(), lapic.apic_base() | base::X2APIC] {
        lapic.set_in_page(true);
        assert!(lapic.in_page());
        let done = lapic.set_apic_base(value, Initiator::Userspace, &page.bench.post);
        assert_eq!(done, Ok(()));
        assert!(!lapic.in_page() && lapic.has_changed());
    }
    lapic.set_in_page(true);
    assert!(!lapic.in_page(), "x2APIC mode");
    let moved = base::ENABLE | 0xfee1_0000;
    let done = lapic.set_apic_base(moved, Initiator::Userspace, &page.bench.post);
    assert_eq!(done, Ok(()));
    lapic.set_in_page(true);
    assert!(!lapic.in_page(), "elsewhere");
}

#[test]
fn what_software_changes_is_shown() {
    let mut page = Page::enabled();
    page.exit();
    assert!(!page.bench.lapic.has_changed());
    page.by_software(regs::LVT_TIMER, lvt::MASKED | 0x40);
    page.by_plain(regs::LVT_TIMER, lvt::MASKED | 0x40);
    assert!(page.bench.lapic.has_changed());
    page.enter();
    // As with KVM_SET_LAPIC while all accesses exit.
    page.exit();
    page.bench.lapic.set_in_page(false);
    page.enter();
    page.by_software(regs::LVT_TIMER, lvt::MASKED | 0x50);
    page.by_plain(regs::LVT_TIMER, lvt::MASKED | 0x50);
    page.bench.lapic.set_in_page(true);
    page.enter();
    assert_eq!(page.kept, Kept::Page);
    assert_eq!(page.bench.cpu.register(regs::LVT_TIMER), lvt::MASKED | 0x50);
}

#[test]
fn what_the_guest_writes_is_not_what_the_register_holds() {
    let mut page = Page::enabled();
    assert_eq!(page.write(regs::ESR, u32::MAX), Written::Behind);
    assert_eq!(page.bench.cpu.register(regs::ESR), 0);
    assert_eq!(page.write(regs::DFR, 0), Written::Behind);
    assert_eq!(page.bench.cpu.register(regs::DFR), 0x0fff_ffff);
    assert_eq!(page.write(regs::ICR, 0xffff_ffff), Written::Behind);
    let sent = page.bench.cpu.register(regs::ICR);
    assert_eq!(sent, page.plain.page_register(regs::ICR));
}

#[test]
fn random_traffic_in_the_page() {
    let mut page = Page::enabled();
    page.bench.watched.insert(0x33);
    let mut random = random();
    let (mut delivered, mut silent, mut kept) = (0, 0, 0);
    for _ in 0..40_000 {
        let vector = 16 + random(240) as u8;
        let value = random(1 << 32) as u32;
        let written = match random(24) {
            0 | 1 => page.write(regs::TPR, random(48) as u32),
            2 | 3 => page.write(regs::ICR_HIGH, value),
            4..=15 => page.write(regs::EOI, value & 1),
            16 | 17 => page.write(regs::ICR, 0x4_0000 | u32::from(vector)),
            18 => {
                // Software disabled now and then.
                let enabled = random(4) != 0;
                page.write(regs::SVR, u32::from(enabled) << 8 | 0xff)
            }
            19 => {
                let index = random(WRITTEN.len() as u64) as usize;
                page.write(WRITTEN[index], value)
            }
            20 => page.write(random(64) as u8, value),
            _ => {
                page.exit();
                page.check();
                if random(2) == 0 {
                    page.post(vector, random(4) == 0);
                }
                page.enter();
                Written::Before
            }
        };
        silent += u32::from(written == Written::Done);
        kept += u32::from(page.kept.is_shown());
        if let Written::Eoi(vector) = written {
            let level = page.bench.lapic.tmr().contains(vector);
            assert!(level || vector == 0x33, "{vector:x}");
        }
        while let (true, Some(_)) = (random(2) == 0, page.deliver()) {
            delivered += 1;
        }
        if page.kept.is_shown() {
            for register in [regs::ISR, regs::IRR] {
                let offset = u32::from(register | 3) << 4;
                let read = page.plain.mmio_read(offset, 4, &NoTime);
                assert_eq!(page.bench.cpu.register(register | 3), read);
            }
        }
    }
    assert!(silent > 1000 && kept > 1000, "{silent} {kept}");
    assert!(delivered > 1000, "{delivered}");
}
