// SPDX-License-Identifier: GPL-2.0-or-later

//! A guest that does one thing at a time, as the test says: write a register of a device, read an
//! MSR, let interrupts in. The chips of the module are tested as the guest sees them by this.

use kvm_bindings::*;

use crate::code64;
use crate::guest::{Chips, Machine};
use crate::harness::Failure;
use crate::ioctls::*;
use crate::layout::*;
use crate::sys::SysResult;
use crate::vcpu::Vcpu;

/// How a handler ends an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eoi {
    /// Not at all.
    None,
    /// By the local APIC's page.
    Xapic,
    /// By the local APIC's MSR.
    X2apic,
    /// By both PICs.
    Pic,
}

/// Where the handlers that count lie, 64 bytes each.
const HANDLERS: u64 = 0x5_0000;
/// Where the counts lie, 8 bytes for each vector.
const COUNTS: u64 = DATA;

const ROUTINES: u64 = CODE2;
const WRITE: u64 = ROUTINES;
const READ: u64 = ROUTINES + 0x10;
const OUT: u64 = ROUTINES + 0x20;
const IN: u64 = ROUTINES + 0x30;
const WRMSR: u64 = ROUTINES + 0x40;
const RDMSR: u64 = ROUTINES + 0x50;
const BREATHE: u64 = ROUTINES + 0x60;
const HALT: u64 = ROUTINES + 0x80;
const READ_TSC: u64 = ROUTINES + 0x90;

/// A guest with interrupt hardware that is told what to do.
pub struct Driver {
    /// The machine.
    pub machine: Machine,
    /// Its first vCPU, in long mode with interrupts off.
    pub vcpu: Vcpu,
    eoi: Eoi,
}

impl Driver {
    /// A machine with PIC, IOAPIC and a local APIC that is enabled by software, and handlers that
    /// count every vector from 0x20 up and end it by `eoi`.
    pub fn new(eoi: Eoi) -> SysResult<Self> {
        Self::with(Chips::Full, eoi)
    }

    /// The same with a choice of chips.
    pub fn with(chips: Chips, eoi: Eoi) -> SysResult<Self> {
        let machine = Machine::build(chips, MEMORY)?;
        let vcpu = machine.vcpu(0)?;
        let driver = Self { machine, vcpu, eoi };
        driver.prepare(&driver.vcpu)?;
        set_lapic_register(&driver.vcpu, APIC_SVR, 0x1ff)?;
        // The PICs, which nobody has set up, must not answer for the other chips.
        set_lapic_register(&driver.vcpu, APIC_LVT_LINT0, 0x1_0700)?;
        Ok(driver)
    }

    /// A second vCPU in the same state.
    pub fn another(&self, id: u32) -> SysResult<Vcpu> {
        let vcpu = self.machine.vcpu(id)?;
        self.prepare(&vcpu)?;
        set_lapic_register(&vcpu, APIC_SVR, 0x1ff)?;
        Ok(vcpu)
    }

    /// [`Self::another`] that runs without being told to by the first.
    pub fn runnable(&self, id: u32) -> SysResult<Vcpu> {
        let vcpu = self.another(id)?;
        let running = kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        };
        vcpu.set(KVM_SET_MP_STATE, &running)?;
        Ok(vcpu)
    }

    fn prepare(&self, vcpu: &Vcpu) -> SysResult<()> {
        self.machine.long_mode(vcpu, code64!("ud2"))?;
        let m = &self.machine;
        m.load(WRITE, code64!("mov [rsi], eax", "out 0x10, al"));
        m.load(READ, code64!("mov eax, [rsi]", "out 0x10, al"));
        m.load(OUT, code64!("out dx, al", "out 0x10, al"));
        m.load(IN, code64!("in al, dx", "out 0x10, al"));
        m.load(WRMSR, code64!("wrmsr", "out 0x10, al"));
        m.load(RDMSR, code64!("rdmsr", "out 0x10, al"));
        m.load(
            BREATHE,
            code64!(
                "mov ecx, 20",
                "sti",
                "2:",
                "nop",
                "loop 2b",
                "cli",
                "out 0x10, al"
            ),
        );
        m.load(HALT, code64!("sti", "hlt", "cli", "out 0x10, al"));
        m.load(READ_TSC, code64!("rdtsc", "out 0x10, al"));
        self.count_vectors();
        Ok(())
    }

    fn count_vectors(&self) {
        let end: &[u8] = match self.eoi {
            Eoi::None => code64!("iretq"),
            Eoi::Xapic => code64!(
                "push rax",
                "mov eax, 0xfee000b0",
                "mov dword ptr [rax], 0",
                "pop rax",
                "iretq",
            ),
            Eoi::X2apic => code64!(
                "push rax",
                "push rcx",
                "push rdx",
                "mov ecx, 0x80b",
                "xor eax, eax",
                "xor edx, edx",
                "wrmsr",
                "pop rdx",
                "pop rcx",
                "pop rax",
                "iretq",
            ),
            Eoi::Pic => code64!(
                "push rax",
                "mov al, 0x20",
                "out 0xa0, al",
                "out 0x20, al",
                "pop rax",
                "iretq",
            ),
        };
        for vector in 0x20..=255u8 {
            let at = HANDLERS + 64 * u64::from(vector);
            // LOCK INC of an absolute address; two vCPUs may count at once.
            let mut code = vec![0xf0, 0x48, 0xff, 0x04, 0x25];
            code.extend(((COUNTS + 8 * u64::from(vector)) as u32).to_le_bytes());
            code.extend(end);
            self.machine.load(at, &code);
            self.machine.set_handler(vector, at);
        }
    }

    /// How often `vector` has come.
    pub fn count(&self, vector: u8) -> u64 {
        self.machine.read(COUNTS + 8 * u64::from(vector))
    }

    fn call(&self, routine: u64, set: impl FnOnce(&mut kvm_regs)) -> Result<kvm_regs, Failure> {
        call(&self.vcpu, routine, set)
    }

    /// The guest writes four bytes.
    pub fn write(&self, address: u64, value: u32) -> Result<(), Failure> {
        self.call(WRITE, |r| (r.rsi, r.rax) = (address, u64::from(value)))
            .map(drop)
    }

    /// The guest reads four bytes.
    pub fn read(&self, address: u64) -> Result<u32, Failure> {
        self.call(READ, |r| r.rsi = address).map(|r| r.rax as u32)
    }

    /// The guest writes a byte to a port.
    pub fn out(&self, port: u16, value: u8) -> Result<(), Failure> {
        self.call(OUT, |r| {
            (r.rdx, r.rax) = (u64::from(port), u64::from(value))
        })
        .map(drop)
    }

    /// The guest reads a byte from a port.
    pub fn inb(&self, port: u16) -> Result<u8, Failure> {
        self.call(IN, |r| r.rdx = u64::from(port))
            .map(|r| r.rax as u8)
    }

    /// The guest writes an MSR.
    pub fn wrmsr(&self, index: u32, value: u64) -> Result<(), Failure> {
        wrmsr(&self.vcpu, index, value)
    }

    /// The guest reads an MSR.
    pub fn rdmsr(&self, index: u32) -> Result<u64, Failure> {
        let r = self.call(RDMSR, |r| r.rcx = u64::from(index))?;
        Ok(r.rdx << 32 | r.rax & 0xffff_ffff)
    }

    /// The guest reads its TSC.
    pub fn tsc(&self) -> Result<u64, Failure> {
        let r = self.call(READ_TSC, |_| {})?;
        Ok(r.rdx << 32 | r.rax & 0xffff_ffff)
    }

    /// The guest lets interrupts in for some instructions.
    pub fn breathe(&self) -> Result<(), Failure> {
        breathe(&self.vcpu)
    }

    /// The guest halts until an interrupt comes.
    pub fn halt(&self) -> Result<(), Failure> {
        halt(&self.vcpu)
    }

    /// Writes a register of the local APIC by its page.
    pub fn apic(&self, register: u32, value: u32) -> Result<(), Failure> {
        self.write(LAPIC + u64::from(register), value)
    }

    /// Reads a register of the local APIC by its page.
    pub fn read_apic(&self, register: u32) -> Result<u32, Failure> {
        self.read(LAPIC + u64::from(register))
    }

    /// Writes a redirection entry of the IOAPIC.
    pub fn ioapic(&self, pin: u32, entry: u64) -> Result<(), Failure> {
        for (half, value) in [(1, (entry >> 32) as u32), (0, entry as u32)] {
            self.write(IOAPIC, 0x10 + 2 * pin + half)?;
            self.write(IOAPIC + 0x10, value)?;
        }
        Ok(())
    }

    /// Reads a register of the IOAPIC.
    pub fn read_ioapic(&self, register: u32) -> Result<u32, Failure> {
        self.write(IOAPIC, register)?;
        self.read(IOAPIC + 0x10)
    }

    /// Sets the PICs up as a PC's firmware does, with vectors from `base` and `base + 8`, all
    /// inputs open, and opens the way to the processor.
    pub fn init_pics(&self, base: u8) -> Result<(), Failure> {
        set_lapic_register(&self.vcpu, APIC_LVT_LINT0, 0x700)?;
        let steps = [
            (0x20, 0x11),
            (0xa0, 0x11),
            (0x21, base),
            (0xa1, base + 8),
            (0x21, 4),
            (0xa1, 2),
            (0x21, 1),
            (0xa1, 1),
            (0x21, 0),
            (0xa1, 0),
        ];
        steps.iter().try_for_each(|&(port, v)| self.out(port, v))
    }
}

fn call(vcpu: &Vcpu, routine: u64, set: impl FnOnce(&mut kvm_regs)) -> Result<kvm_regs, Failure> {
    vcpu.change_regs(|r| {
        r.rip = routine;
        r.rflags = RFLAGS_FIXED;
        set(r);
    })?;
    vcpu.run_to_done()?;
    Ok(vcpu.regs()?)
}

/// A vCPU writes an MSR.
pub fn wrmsr(vcpu: &Vcpu, index: u32, value: u64) -> Result<(), Failure> {
    call(vcpu, WRMSR, |r| {
        (r.rcx, r.rax, r.rdx) = (u64::from(index), value & 0xffff_ffff, value >> 32)
    })
    .map(drop)
}

/// A vCPU lets interrupts in for some instructions.
pub fn breathe(vcpu: &Vcpu) -> Result<(), Failure> {
    call(vcpu, BREATHE, |_| {}).map(drop)
}

/// A vCPU halts until an interrupt comes.
pub fn halt(vcpu: &Vcpu) -> Result<(), Failure> {
    call(vcpu, HALT, |_| {}).map(drop)
}

/// Reads a register of the local APIC by `KVM_GET_LAPIC`.
pub fn lapic_register(vcpu: &Vcpu, register: u32) -> SysResult<u32> {
    let state: kvm_lapic_state = vcpu.get(KVM_GET_LAPIC)?;
    let at = register as usize;
    let byte = |i: usize| state.regs[at + i] as u8;
    Ok(u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]))
}

/// Changes a register of the local APIC by `KVM_SET_LAPIC`.
pub fn set_lapic_register(vcpu: &Vcpu, register: u32, value: u32) -> SysResult<i32> {
    let mut state: kvm_lapic_state = vcpu.get(KVM_GET_LAPIC)?;
    for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
        state.regs[register as usize + i] = byte as _;
    }
    vcpu.set(KVM_SET_LAPIC, &state)
}

/// A redirection entry or message: vector, delivery mode and so on to a physical APIC id.
pub fn entry(vector: u8, destination: u8, level: bool) -> u64 {
    u64::from(vector) | u64::from(level) << 15 | u64::from(destination) << 56
}

/// Address of a message for a physical APIC id.
pub fn msi_address(destination: u8) -> u64 {
    LAPIC | u64::from(destination) << 12
}
