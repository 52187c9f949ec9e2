// SPDX-License-Identifier: GPL-2.0

//! A vCPU for tests of the emulator: flat memory, a device whose every read
//! gives something else, and switches for what may go wrong.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::ops::Range;

use ironvm_pc::pc::addr::{Gpa, Gva};
use ironvm_pc::pc::decode::{decode, Insn};
use ironvm_pc::pc::emulate::{
    emulate, AccessLog, Answer, EmuContext, Mmio, Outcome, Pio, Step, Target,
};
use ironvm_pc::pc::regs::{
    Attributes, CpuMode, Cr0, Cr4, Exception, Gprs, PageFaultError, Reg, Rflags, SegReg, Segment,
    Segments,
};
use ironvm_pc::pc::walk::Access;

/// One access a device has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub address: u64,
    pub len: u8,
    pub write: bool,
    pub port: bool,
    pub data: u64,
}

/// A device in memory and at every port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Device {
    pub seen: Vec<Seen>,
    reads: u64,
}

impl Device {
    /// No two reads give the same.
    fn read(&mut self, address: u64, len: u8, port: bool) -> u64 {
        self.reads += 1;
        let data = self.reads.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ address;
        let data = data & (u64::MAX >> (64 - 8 * u32::from(len)));
        self.seen.push(Seen {
            address,
            len,
            write: false,
            port,
            data,
        });
        data
    }

    fn write(&mut self, address: u64, len: u8, port: bool, data: u64) {
        self.seen.push(Seen {
            address,
            len,
            write: true,
            port,
            data,
        });
    }
}

/// When a device makes the emulator wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waits {
    Never,
    Always,
    /// As the bits of this number say, one per access.
    Sometimes(u64),
}

#[derive(Clone, PartialEq, Debug)]
pub struct Machine {
    pub gprs: Gprs,
    pub rip: u64,
    pub rflags: Rflags,
    pub segments: Segments,
    pub mode: CpuMode,
    pub cpl: u8,
    pub cr0: Cr0,
    pub cr4: Cr4,
    pub xmm: [u128; 16],
    /// Memory, from guest physical (and linear) address `base`.
    pub memory: Vec<u8>,
    pub base: u64,
    /// Where the device is.
    pub device_at: Range<u64>,
    pub device: Device,
    pub waits: Waits,
    /// Now and then an access to memory has to be given up.
    pub flaky: bool,
    hiccups: u64,
    /// Nothing is mapped outside memory.
    pub confined: bool,
    /// Linear addresses of pages that are not mapped.
    pub unmapped: Vec<u64>,
    /// Linear addresses of pages that cannot be written.
    pub read_only: Vec<u64>,
    /// The next compare-exchange finds memory changed.
    pub contended: u32,
    /// Locked writes that were asked for.
    pub exchanges: u32,
    pub accesses: Vec<(u64, Access)>,
    pub pio_counts: Vec<u32>,
}

impl Machine {
    /// 64-bit code at privilege level 0 over `size` bytes of memory from `base`.
    pub fn long(base: u64, size: usize) -> Self {
        let mut machine = Self {
            gprs: Gprs::default(),
            rip: 0,
            rflags: Rflags::FIXED,
            segments: Segments::default(),
            mode: CpuMode::Long64,
            cpl: 0,
            cr0: Cr0::PE | Cr0::PG,
            cr4: Cr4::PAE | Cr4::OSFXSR,
            xmm: [0; 16],
            memory: vec![0; size],
            base,
            device_at: 0..0,
            device: Device::default(),
            waits: Waits::Never,
            flaky: false,
            hiccups: 0,
            confined: false,
            unmapped: vec![],
            read_only: vec![],
            contended: 0,
            exchanges: 0,
            accesses: vec![],
            pio_counts: vec![],
        };
        machine.set_mode(CpuMode::Long64);
        machine
    }

    /// Flat segments for `mode`.
    pub fn set_mode(&mut self, mode: CpuMode) {
        self.mode = mode;
        let (code, data) = match mode {
            CpuMode::Long64 => (Attributes::CODE64, Attributes::DATA32),
            CpuMode::Prot32 | CpuMode::Compat32 => (Attributes::CODE32, Attributes::DATA32),
            _ => (Attributes::CODE16, Attributes::DATA16),
        };
        for reg in SegReg::ALL {
            let attributes = if reg == SegReg::Cs { code } else { data };
            let limit = if data == Attributes::DATA16 {
                0xffff
            } else {
                u32::MAX
            };
            *self.segments.get_mut(reg) = Segment {
                base: 0,
                limit,
                selector: 8 + 8 * reg as u16,
                attributes,
            };
        }
    }

    pub fn with(mut self, reg: Reg, value: u64) -> Self {
        self.gprs.set(reg, value);
        self
    }

    pub fn reg(&self, reg: Reg) -> u64 {
        self.gprs.get(reg)
    }

    fn index(&self, gpa: Gpa) -> usize {
        usize::try_from(gpa.0.wrapping_sub(self.base)).unwrap()
    }

    pub fn bytes(&mut self, address: u64, len: usize) -> &mut [u8] {
        let at = self.index(Gpa(address));
        &mut self.memory[at..at + len]
    }

    pub fn word(&mut self, address: u64) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(self.bytes(address, 8));
        u64::from_le_bytes(word)
    }

    pub fn put(&mut self, address: u64, value: &[u8]) {
        self.bytes(address, value.len()).copy_from_slice(value);
    }

    fn is_device(&self, gpa: Gpa) -> bool {
        self.device_at.contains(&gpa.0)
    }

    /// Does the device want to wait for this access?
    fn must_wait(&mut self) -> bool {
        match &mut self.waits {
            Waits::Never => false,
            Waits::Always => true,
            Waits::Sometimes(bits) => {
                *bits = bits.rotate_right(1);
                *bits & 1 != 0
            }
        }
    }

    fn hiccup(&mut self) -> Step<()> {
        self.hiccups = self
            .hiccups
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        if self.flaky && self.hiccups >> 62 == 0 {
            return Err(Outcome::Repeat);
        }
        Ok(())
    }

    /// What userspace does when asked for an access.
    pub fn serve_mmio(&mut self, mmio: Mmio) -> u64 {
        if mmio.write {
            let (address, data) = (mmio.gpa.0, mmio.data);
            self.device.write(address, mmio.len, false, data);
            return 0;
        }
        self.device.read(mmio.gpa.0, mmio.len, false)
    }

    pub fn serve_pio(&mut self, pio: Pio) -> u64 {
        if pio.write {
            let data = u64::from(pio.data);
            self.device.write(u64::from(pio.port), pio.size, true, data);
            return 0;
        }
        self.device.read(u64::from(pio.port), pio.size, true)
    }

    /// Emulates one instruction to its end, serving whatever it asks for.
    pub fn run(&mut self, insn: &Insn) -> Outcome {
        let mut log = AccessLog::new();
        for _ in 0..100_000 {
            match emulate(self, insn, &mut log) {
                Outcome::NeedsMmio(mmio) => {
                    assert!(log.is_pending());
                    let data = self.serve_mmio(mmio);
                    log.complete(data);
                }
                Outcome::NeedsPio(pio) => {
                    let data = self.serve_pio(pio);
                    log.complete(data);
                }
                Outcome::Repeat => {}
                outcome => {
                    assert!(log.is_empty(), "an ended instruction leaves no log");
                    return outcome;
                }
            }
        }
        panic!("no end to {insn:?}");
    }

    /// Decodes `bytes` and emulates them.
    pub fn execute(&mut self, bytes: &[u8]) -> Outcome {
        let insn = decode(bytes, self.mode).unwrap();
        assert_eq!(usize::from(insn.length), bytes.len());
        self.run(&insn)
    }

    /// What is left of the machine when the bookkeeping is put aside.
    pub fn visible(&self) -> (Gprs, u64, Rflags, [u128; 16], Vec<u8>, Vec<Seen>) {
        (
            self.gprs,
            self.rip,
            self.rflags,
            self.xmm,
            self.memory.clone(),
            self.device.seen.clone(),
        )
    }
}

impl EmuContext for Machine {
    fn gprs(&self) -> &Gprs {
        &self.gprs
    }

    fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.gprs
    }

    fn rip(&self) -> u64 {
        self.rip
    }

    fn set_rip(&mut self, rip: u64) {
        self.rip = rip;
    }

    fn rflags(&self) -> Rflags {
        self.rflags
    }

    fn set_rflags(&mut self, rflags: Rflags) {
        self.rflags = rflags;
    }

    fn mode(&self) -> CpuMode {
        self.mode
    }

    fn cpl(&self) -> u8 {
        self.cpl
    }

    fn segment(&self, reg: SegReg) -> Segment {
        *self.segments.get(reg)
    }

    fn cr0(&self) -> Cr0 {
        self.cr0
    }

    fn cr4(&self) -> Cr4 {
        self.cr4
    }

    fn xmm(&mut self, number: u8) -> u128 {
        self.xmm[usize::from(number)]
    }

    fn set_xmm(&mut self, number: u8, value: u128) {
        self.xmm[usize::from(number)] = value;
    }

    fn translate(&mut self, gva: Gva, access: Access) -> Step<Gpa> {
        self.accesses.push((gva.0, access));
        let page = gva.page_base().0;
        let outside = gva.0.wrapping_sub(self.base) >= self.memory.len() as u64;
        let absent = self.unmapped.contains(&page) || (self.confined && outside);
        let present = !absent;
        let refused = access.is_write() && self.read_only.contains(&page);
        if present && !refused {
            return Ok(Gpa(gva.0));
        }
        let code = u32::from(present)
            | if access.is_write() { 2 } else { 0 }
            | if access.is_user() { 4 } else { 0 };
        Err(Exception::page_fault(PageFaultError(code), gva.0).into())
    }

    fn read_phys(&mut self, gpa: Gpa, data: &mut [u8]) -> Step<Target> {
        assert!(gpa.page_offset() as usize + data.len() <= 4096);
        if self.is_device(gpa) {
            return Ok(Target::Device);
        }
        self.hiccup()?;
        let at = self.index(gpa);
        // Beyond memory, only a fetch may read.
        for (offset, byte) in data.iter_mut().enumerate() {
            *byte = self.memory.get(at + offset).copied().unwrap_or(0x90);
        }
        Ok(Target::Memory)
    }

    fn write_phys(&mut self, gpa: Gpa, data: &[u8]) -> Step<Target> {
        assert!(gpa.page_offset() as usize + data.len() <= 4096);
        if self.is_device(gpa) {
            return Ok(Target::Device);
        }
        self.hiccup()?;
        let at = self.index(gpa);
        self.memory[at..at + data.len()].copy_from_slice(data);
        Ok(Target::Memory)
    }

    fn cmpxchg_phys(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> Step<Target> {
        assert_eq!(gpa.0 % old.len() as u64, 0);
        assert_eq!(old.len(), new.len());
        if self.is_device(gpa) {
            return Ok(Target::Device);
        }
        self.hiccup()?;
        self.exchanges += 1;
        if self.contended > 0 {
            self.contended -= 1;
            return Ok(Target::Changed);
        }
        let at = self.index(gpa);
        let memory = &mut self.memory[at..at + old.len()];
        if memory != old {
            return Ok(Target::Changed);
        }
        memory.copy_from_slice(new);
        Ok(Target::Memory)
    }

    fn mmio_read(&mut self, gpa: Gpa, data: &mut [u8]) -> Answer<()> {
        if self.must_wait() {
            return Answer::Pending;
        }
        let value = self.device.read(gpa.0, data.len() as u8, false);
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
        Answer::Now(())
    }

    fn mmio_write(&mut self, gpa: Gpa, data: &[u8]) -> Answer<()> {
        if self.must_wait() {
            return Answer::Pending;
        }
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(value);
        self.device.write(gpa.0, data.len() as u8, false, value);
        Answer::Now(())
    }

    fn pio_read(&mut self, port: u16, size: u8, count: u32) -> Answer<u32> {
        self.pio_counts.push(count);
        if self.must_wait() {
            return Answer::Pending;
        }
        Answer::Now(self.device.read(u64::from(port), size, true) as u32)
    }

    fn pio_write(&mut self, port: u16, size: u8, data: u32) -> Answer<()> {
        if self.must_wait() {
            return Answer::Pending;
        }
        let data = u64::from(data);
        self.device.write(u64::from(port), size, true, data);
        Answer::Now(())
    }
}

/// xorshift64*: the same numbers in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Fills memory around its middle, where operands are.
    pub fn fill(&mut self, memory: &mut [u8]) {
        let middle = memory.len() / 2;
        let near = middle.saturating_sub(2048)..middle + 2048;
        for bytes in memory[near].chunks_exact_mut(8) {
            bytes.copy_from_slice(&self.next().to_le_bytes());
        }
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number that is often on an edge.
    pub fn operand(&mut self) -> u64 {
        let edges = [
            0,
            1,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            i64::MAX as u64,
            1 << 63,
            u64::MAX,
        ];
        match self.below(3) {
            0 => self.pick(&edges),
            1 => self.next() >> self.below(64),
            _ => self.next(),
        }
    }
}
