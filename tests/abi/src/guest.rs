// SPDX-License-Identifier: GPL-2.0-or-later

//! A small guest: memory, descriptor tables, page tables, exception handlers, start of each mode.
//!
//! `layout` says where things lie. Every exception has a handler that records it and leaves by
//! `PORT_CAUGHT`; entering the guest again returns from the exception.

use kvm_bindings::*;

use crate::fds::{Kvm, Vm};
use crate::harness::Failure;
use crate::layout::*;
use crate::lists::Cpuid;
use crate::sys::{Mapping, SysResult};
use crate::vcpu::Vcpu;
use crate::{code32, code64};

pub mod paging;
pub mod segments;

pub use paging::Paging;

/// Bytes behind the TSS, where the common parts of the exception handlers lie.
const COMMON: u64 = TSS + 0x200;

/// What interrupt hardware the module gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chips {
    /// None: the VMM injects.
    None,
    /// PIC, IOAPIC and local APICs.
    Full,
    /// Local APICs only, with so many IOAPIC pins in userspace.
    Split(u64),
}

/// An exception that a guest's default handler recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Its vector.
    pub vector: u64,
    /// Its error code, 0 if it has none.
    pub error: u64,
    /// Instruction pointer on the stack.
    pub rip: u64,
    /// Flags on the stack.
    pub rflags: u64,
    /// Stack pointer on the stack (64-bit only).
    pub rsp: u64,
    /// CR2 in the handler.
    pub cr2: u64,
    /// How many there have been.
    pub count: u64,
}

/// A VM with memory at address 0 and what a test's guest needs in it.
pub struct Machine {
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// The VM.
    pub vm: Vm,
    /// Memory slot 0, from guest-physical 0.
    pub memory: Mapping,
    /// What the vCPUs' CPUID is made of.
    pub cpuid: Cpuid,
}

impl Machine {
    /// A machine without interrupt hardware.
    pub fn new() -> SysResult<Self> {
        Self::build(Chips::None, MEMORY)
    }

    /// A machine with PIC, IOAPIC and local APICs.
    pub fn with_irqchip() -> SysResult<Self> {
        Self::build(Chips::Full, MEMORY)
    }

    /// A machine with `size` bytes of memory, a multiple of 4096 and at least `FREE`.
    pub fn build(chips: Chips, size: u64) -> SysResult<Self> {
        let kvm = Kvm::open()?;
        let vm = kvm.create_vm(0)?;
        match chips {
            Chips::None => {}
            Chips::Full => {
                vm.create_irqchip()?;
            }
            Chips::Split(pins) => {
                vm.enable(KVM_CAP_SPLIT_IRQCHIP, &[pins])?;
            }
        }
        let memory = Mapping::aligned(size as usize, 2 << 20)?;
        vm.map(0, 0, 0, &memory)?;
        let cpuid = kvm.supported_cpuid()?;
        let machine = Self {
            kvm,
            vm,
            memory,
            cpuid,
        };
        machine.load(GDT, &segments::gdt());
        Ok(machine)
    }

    /// Copies code or data into the guest.
    pub fn load(&self, gpa: u64, bytes: &[u8]) {
        self.memory.fill(gpa as usize, bytes);
    }

    /// Reads a value from the guest's memory.
    pub fn read<T: Copy>(&self, gpa: u64) -> T {
        self.memory.read(gpa as usize)
    }

    /// Writes a value to the guest's memory.
    pub fn write<T: Copy>(&self, gpa: u64, value: T) {
        self.memory.write(gpa as usize, value);
    }

    /// A vCPU with the CPUID of the machine and its own APIC id.
    pub fn vcpu(&self, id: u32) -> SysResult<Vcpu> {
        let vcpu = self.vm.vcpu(&self.kvm, id)?;
        let mut cpuid = self.cpuid.clone();
        cpuid.set_apic_id(id);
        cpuid.set(&vcpu)?;
        Ok(vcpu)
    }

    /// What the default handler recorded last.
    pub fn caught(&self) -> Caught {
        let field = |i: u64| self.read::<u64>(CAUGHT + 8 * i);
        Caught {
            vector: field(0),
            error: field(1),
            rip: field(2),
            rflags: field(3),
            rsp: field(4),
            cr2: field(5),
            count: field(6),
        }
    }

    /// Puts `code` at `CODE` and starts `vcpu` there in long mode.
    pub fn long_mode(&self, vcpu: &Vcpu, code: &[u8]) -> SysResult<()> {
        self.load(CODE, code);
        self.start(vcpu, Paging::Long, CODE)
    }

    /// Puts `code` at `CODE` and starts `vcpu` there in 32-bit protected mode without paging.
    pub fn protected_mode(&self, vcpu: &Vcpu, code: &[u8]) -> SysResult<()> {
        self.load(CODE, code);
        self.start(vcpu, Paging::Off, CODE)
    }

    /// Starts `vcpu` at `entry` in the mode that `paging` belongs to, with its own stack.
    pub fn start(&self, vcpu: &Vcpu, paging: Paging, entry: u64) -> SysResult<()> {
        let long = paging.is_long();
        self.load_handlers(long);
        let mut sregs = vcpu.sregs()?;
        segments::flat(&mut sregs, long);
        paging.set_up(self, &mut sregs);
        vcpu.set_sregs(&sregs)?;
        let top = STACKS + STACK_SIZE * u64::from(vcpu.id + 1);
        vcpu.set_regs(&kvm_regs {
            rip: entry,
            rsp: top - 16,
            rflags: RFLAGS_FIXED,
            ..Default::default()
        })?;
        Ok(())
    }

    /// Puts `code` at `CODE` and starts `vcpu` there in real mode, at offset 0 of its segment.
    pub fn real_mode(&self, vcpu: &Vcpu, code: &[u8]) -> SysResult<()> {
        self.load(CODE, code);
        let mut sregs = vcpu.sregs()?;
        segments::real(&mut sregs, CODE);
        vcpu.set_sregs(&sregs)?;
        vcpu.set_regs(&kvm_regs {
            rsp: 0x7f0,
            rflags: RFLAGS_FIXED,
            ..Default::default()
        })?;
        Ok(())
    }

    /// Lets `vector` go to `entry` in place of the default handler (long mode).
    pub fn set_handler(&self, vector: u8, entry: u64) {
        let gate = segments::gate64(entry, SEL_CODE64, 0);
        self.write(IDT + 16 * u64::from(vector), gate);
    }

    /// Lets `vector` go to `entry` in place of the default handler (32-bit protected mode).
    pub fn set_handler32(&self, vector: u8, entry: u64) {
        let gate = segments::gate32(entry, SEL_CODE32);
        self.write(IDT + 8 * u64::from(vector), gate);
    }

    /// Lets `vector` go to `entry`, in the first 64 KiB, in real mode.
    pub fn set_real_handler(&self, vector: u8, entry: u16) {
        self.write(IVT + 4 * u64::from(vector), u32::from(entry));
    }

    fn load_handlers(&self, long: bool) {
        self.load(COMMON, if long { common64() } else { common32() });
        for vector in 0..=255u8 {
            let at = STUBS + STUB_STRIDE * u64::from(vector);
            self.load(at, &stub(vector, at));
            if long {
                self.set_handler(vector, at);
            } else {
                self.set_handler32(vector, at);
            }
        }
    }

    /// Fails unless the guest has just caught `vector` by the default handler.
    pub fn expect_caught(&self, vcpu: &Vcpu, vector: u8) -> Result<Caught, Failure> {
        let exit = vcpu.run_on()?;
        let caught = self.caught();
        if !exit.is_out(PORT_CAUGHT) {
            return Err(vcpu.unexpected(&exit));
        }
        if caught.vector != u64::from(vector) {
            return Err(Failure::Failed(format!(
                "expected exception {vector}, caught {caught:x?}"
            )));
        }
        Ok(caught)
    }
}

/// Pushes an error code where the CPU does not, then the vector, and goes to the common part. The
/// encodings mean the same in 32 and in 64 bits.
fn stub(vector: u8, at: u64) -> Vec<u8> {
    const WITH_ERROR: [u8; 9] = [8, 10, 11, 12, 13, 14, 17, 21, 30];
    let mut code = if WITH_ERROR.contains(&vector) {
        vec![0x90, 0x90]
    } else {
        vec![0x6a, 0x00]
    };
    code.push(0x68);
    code.extend(u32::from(vector).to_le_bytes());
    code.push(0xe9);
    let next = at + code.len() as u64 + 4;
    code.extend((COMMON.wrapping_sub(next) as u32).to_le_bytes());
    code
}

fn common64() -> &'static [u8] {
    code64!(
        "push rax",
        "mov rax, [rsp + 8]",
        "mov [{caught}], rax",
        "mov rax, [rsp + 16]",
        "mov [{caught} + 8], rax",
        "mov rax, [rsp + 24]",
        "mov [{caught} + 16], rax",
        "mov rax, [rsp + 40]",
        "mov [{caught} + 24], rax",
        "mov rax, [rsp + 48]",
        "mov [{caught} + 32], rax",
        "mov rax, cr2",
        "mov [{caught} + 40], rax",
        "inc qword ptr [{caught} + 48]",
        "pop rax",
        "out {port}, al",
        "add rsp, 16",
        "iretq",
        caught = const CAUGHT,
        port = const PORT_CAUGHT,
    )
}

fn common32() -> &'static [u8] {
    code32!(
        "push eax",
        "mov eax, [esp + 4]",
        "mov [{caught}], eax",
        "mov eax, [esp + 8]",
        "mov [{caught} + 8], eax",
        "mov eax, [esp + 12]",
        "mov [{caught} + 16], eax",
        "mov eax, [esp + 20]",
        "mov [{caught} + 24], eax",
        "mov eax, cr2",
        "mov [{caught} + 40], eax",
        "inc dword ptr [{caught} + 48]",
        "pop eax",
        "out {port}, al",
        "add esp, 8",
        "iretd",
        caught = const CAUGHT,
        port = const PORT_CAUGHT,
    )
}

/// A machine without interrupt hardware and one vCPU about to run `code` in long mode.
pub fn long_mode(code: &[u8]) -> SysResult<(Machine, Vcpu)> {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, code)?;
    Ok((machine, vcpu))
}

/// The same with PIC, IOAPIC and local APIC.
pub fn long_mode_with_irqchip(code: &[u8]) -> SysResult<(Machine, Vcpu)> {
    let machine = Machine::with_irqchip()?;
    let vcpu = machine.vcpu(0)?;
    machine.long_mode(&vcpu, code)?;
    Ok((machine, vcpu))
}
