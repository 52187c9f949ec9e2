// SPDX-License-Identifier: GPL-2.0

//! Nested page faults: guest memory is brought in, and what is no memory is
//! emulated, with userspace's help where the device is there.

use super::code_page::Fetched;
use super::memory::Fault;
use super::memory::MemoryError;
use super::pending::Pending;
use super::run_page::PIO_BYTES;
use super::step::Context;
use super::step::Handled;
use super::step::Step;
use super::step::Stop;
use super::vcpu::Vcpu;
use crate::host::fpu;
use crate::hw::Exit;
use crate::hw::NestedFault;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::addr::Gva;
use crate::pc::decode::Insn;
use crate::pc::emulate;
use crate::pc::emulate::AccessLog;
use crate::pc::emulate::Answer;
use crate::pc::emulate::EmuContext;
use crate::pc::emulate::Mmio;
use crate::pc::emulate::Outcome;
use crate::pc::emulate::Pio;
use crate::pc::emulate::SimpleMove;
use crate::pc::emulate::Target;
use crate::pc::nested::Access as NestedAccess;
use crate::pc::regs::CpuMode;
use crate::pc::regs::Cr0;
use crate::pc::regs::Cr4;
use crate::pc::regs::Exception;
use crate::pc::regs::Gprs;
use crate::pc::regs::Rflags;
use crate::pc::regs::SegReg;
use crate::pc::regs::Segment;
use crate::pc::walk::Access;
use crate::uapi;
use kernel::prelude::*;

/// How often an instruction that could not be finished is begun again before
/// it is given up: only races with other vCPUs make it more than once.
const MAX_ATTEMPTS: u32 = 64;

/// What userspace was asked for.
#[derive(Clone, Copy)]
enum Asked {
    Nothing,
    Mmio(Mmio),
    Pio(Pio),
}

/// Port data that userspace gave for several reads at once.
#[derive(Clone, Copy, Default)]
struct PioData {
    next: u32,
    count: u32,
}

/// A plain move from a device that userspace has been asked about.
#[derive(Clone, Copy)]
pub struct DeviceMove {
    access: SimpleMove,
    /// Address of the instruction.
    rip: u64,
}

/// An instruction being emulated.
pub struct Emulation {
    insn: Insn,
    log: AccessLog,
    /// Address of the instruction: if RIP is another, it was abandoned.
    rip: u64,
    asked: Asked,
    data: PioData,
}

impl<V: Vendor> Vcpu<V> {
    /// A nested page fault, with interrupts off.
    #[inline(never)]
    pub fn answer_nested_fault(&mut self, fault: NestedFault) -> Step {
        let view = self.vm.memory.enter();
        if !view.is_known_device(fault.gpa, &self.mmu) {
            match view.try_fault(fault.gpa, wanted(fault), fault.present, &mut self.mmu) {
                Some(Fault::Resume) => return self.go_on(),
                Some(Fault::Mmio | Fault::ReadOnly) => {}
                _ => {
                    drop(view);
                    return self.sleep_on(Exit::NestedFault(fault));
                }
            }
        }
        let fetched = self.code.fetch(&self.hw, self.linear_rip(), &view);
        drop(view);
        let handled = self.device_access(fault, fetched, Context::Atomic);
        self.settle_atomic(handled, Exit::NestedFault(fault))
    }

    /// A nested page fault on memory that the process itself has not touched yet.
    /// Whether that is all there was to do.
    #[inline(always)]
    pub fn bring_in_absent(&mut self, fault: NestedFault) -> bool {
        if !self.mmu.bring_in_absent() {
            return false;
        }
        let view = self.vm.memory.enter();
        let found = view.try_fault(fault.gpa, wanted(fault), false, &mut self.mmu);
        found == Some(Fault::Resume)
    }

    /// A nested page fault, where sleeping is allowed.
    #[inline]
    pub fn nested_fault(&mut self, fault: NestedFault) -> Handled {
        match self.bring_in(fault)? {
            Some(step) => Ok(step),
            None => self.device_access_sleeping(fault),
        }
    }

    #[inline(never)]
    fn device_access_sleeping(&mut self, fault: NestedFault) -> Handled {
        let fetched = self.fetch_known();
        self.device_access(fault, fetched, Context::Sleepable)
    }

    /// An access to what is no memory, by the instruction whose bytes have been
    /// fetched.
    #[inline(always)]
    fn device_access(
        &mut self,
        fault: NestedFault,
        fetched: Option<Fetched>,
        context: Context,
    ) -> Handled {
        if self.events.injected.is_some() {
            return Ok(self.delivery_failed(fault));
        }
        if fault.fetch || fault.table_walk {
            return Err(Stop::Unhandleable);
        }
        // An exit leaves nothing pending but an instruction that is to be gone on
        // with.
        if !matches!(self.pending, Pending::None) {
            return self.emulate(None, context);
        }
        let place = self.decode(fetched, context)?;
        let insn = self.decoded.get(place);
        if let Some(plain) = self.decoded.plain(place) {
            let gprs = &self.regs.gprs;
            let base = self.hw.segment_base(insn.memory.segment);
            let start = emulate::operand_page_offset(insn, gprs, self.regs.rip, base);
            match SimpleMove::of(plain, gprs, fault.gpa, start) {
                Some(access) if access.write == fault.write => {
                    return self.device_move(access, fault.gpa);
                }
                _ => {}
            }
        }
        let insn = *insn;
        self.emulate(Some(insn), context)
    }

    /// An event cannot be delivered, because the guest's IDT or stack lies where
    /// there is no memory: no instruction made that access.
    #[cold]
    fn delivery_failed(&mut self, fault: NestedFault) -> Step {
        // Where KVM has the address, and the CPU; before them stand words of
        // the processor's own, in whose place the vector is.
        let mut data = [0; 16];
        let [vector, _, _, gpa, cpu, ..] = &mut data;
        *vector = u64::from(self.events.interrupt_in_flight(true).unwrap_or(0));
        *gpa = fault.gpa.0;
        *cpu = u64::from(self.last_cpu);
        self.run.set_exit(
            uapi::KVM_EXIT_INTERNAL_ERROR,
            uapi::kvm_run_internal {
                suberror: uapi::KVM_INTERNAL_ERROR_DELIVERY_EV,
                ndata: 5,
                data,
            },
        );
        Step::User
    }

    /// A plain move between a register and a device: the processor has done
    /// everything but the access.
    #[inline(always)]
    fn device_move(&mut self, access: SimpleMove, gpa: Gpa) -> Handled {
        if let Some(offset) = self.apic_offset(gpa) {
            return self.apic_move(&access, offset);
        }
        let mut bytes = access.data.to_le_bytes();
        let data = bytes
            .get_mut(..usize::from(access.size))
            .ok_or(Stop::Unhandleable)?;
        let answered = if access.write {
            self.vm.mmio_write(gpa, data)
        } else {
            self.vm.mmio_read(gpa, data)
        };
        if answered {
            return self.finish_move(&access, u64::from_le_bytes(bytes));
        }
        self.set_mmio_exit(Mmio {
            gpa,
            data: access.data,
            len: access.size,
            write: access.write,
        });
        let rip = self.regs.rip;
        self.pending = if access.write {
            let next = rip.wrapping_add(u64::from(access.length));
            Pending::Written { next, rip }
        } else {
            Pending::Move(DeviceMove { access, rip })
        };
        Ok(Step::User)
    }

    /// A plain move from or to the page of the local APIC.
    #[inline(always)]
    fn apic_move(&mut self, access: &SimpleMove, offset: u32) -> Handled {
        if access.write {
            let step = self.apic_page_write(offset, access.size, access.data as u32);
            return self.advance_then(access.length, step);
        }
        let value = self.apic_page_read(offset, access.size);
        let step = self.finish_move(access, value)?;
        Ok(self.step_with_report(step))
    }

    #[inline]
    fn finish_move(&mut self, access: &SimpleMove, data: u64) -> Handled {
        if !access.write {
            access.finish_read(&mut self.regs.gprs, data);
        }
        self.advance(access.length)
    }

    /// Completes a plain move that userspace has answered.
    pub fn complete_move(&mut self, pending: DeviceMove) -> Handled {
        if pending.rip != self.regs.rip {
            return Ok(Step::Resume);
        }
        let data = self.mmio_answer(pending.access.size);
        self.finish_move(&pending.access, data)
    }

    /// The bytes that userspace gives for a read.
    fn mmio_answer(&self, len: u8) -> u64 {
        let answer: uapi::kvm_run_mmio = self.run.exit();
        let unused = u32::from(8u8.saturating_sub(len)) * 8;
        let data = u64::from_le_bytes(answer.data);
        data.wrapping_shl(unused).wrapping_shr(unused)
    }

    fn set_mmio_exit(&self, access: Mmio) {
        let Mmio {
            gpa,
            data,
            len,
            write,
        } = access;
        self.run.set_mmio_exit(gpa.0, data, len, write);
    }

    /// Maps guest memory, where that may sleep; `None` if there is none at that
    /// address.
    #[inline(always)]
    fn bring_in(&mut self, fault: NestedFault) -> Handled<Option<Step>> {
        let view = self.vm.memory.enter();
        match view.fault(fault.gpa, wanted(fault), fault.present, &mut self.mmu) {
            Fault::Resume => Ok(Some(Step::Leave)),
            Fault::Mmio | Fault::ReadOnly => Ok(None),
            // The caller's signal is on its way.
            Fault::BadAddress | Fault::HwPoison => Err(EFAULT.into()),
            Fault::Interrupted => Err(EINTR.into()),
            Fault::NoMemory => Err(ENOMEM.into()),
        }
    }

    /// Executes the exiting instruction in software.
    pub fn emulate(&mut self, insn: Option<Insn>, context: Context) -> Handled {
        if let Pending::Emulation(emulation) = core::mem::take(&mut self.pending) {
            if emulation.rip == self.regs.rip {
                return self.continue_emulation(emulation, context);
            }
        }
        let insn = match insn {
            Some(insn) => insn,
            None => self.instruction(context)?,
        };
        let emulation = Emulation {
            insn,
            log: AccessLog::new(),
            rip: self.regs.rip,
            asked: Asked::Nothing,
            data: PioData::default(),
        };
        self.continue_emulation(emulation, context)
    }

    fn continue_emulation(&mut self, mut emulation: Emulation, context: Context) -> Handled {
        for _ in 0..MAX_ATTEMPTS {
            let stepping = self.regs.rflags.has(Rflags::TF);
            let mut machine = Machine {
                vcpu: self,
                context,
                data: emulation.data,
                step: Step::Resume,
            };
            let outcome = emulate::emulate(&mut machine, &emulation.insn, &mut emulation.log);
            emulation.data = machine.data;
            let step = machine.step;
            match outcome {
                Outcome::Done => {
                    self.hw.set_interrupt_shadow(false);
                    if stepping {
                        return Ok(self.after_step()?.or(step));
                    }
                    return Ok(step);
                }
                Outcome::NeedsMmio(access) => {
                    emulation.asked = Asked::Mmio(access);
                    return Ok(self.exit_mmio(access, emulation));
                }
                Outcome::NeedsPio(access) => return Ok(self.exit_pio(access, emulation)),
                Outcome::Fault(exception) => return Err(Stop::Fault(exception)),
                Outcome::Unhandleable => return Err(Stop::Unhandleable),
                Outcome::Repeat if context == Context::Atomic => {
                    self.pending = Pending::Emulation(emulation);
                    return Err(Stop::Step(Step::Sleep));
                }
                // The guest may run it on; it comes back here.
                Outcome::Repeat if emulation.log.is_empty() && emulation.data.count == 0 => {
                    return Ok(Step::Leave);
                }
                Outcome::Repeat => {}
            }
        }
        Err(Stop::Unhandleable)
    }

    fn exit_mmio(&mut self, access: Mmio, emulation: Emulation) -> Step {
        self.set_mmio_exit(access);
        self.pending = Pending::Emulation(emulation);
        Step::User
    }

    fn exit_pio(&mut self, mut access: Pio, mut emulation: Emulation) -> Step {
        let room = PIO_BYTES as u32 / u32::from(access.size.max(1));
        access.count = access.count.clamp(1, room);
        let direction = if access.write {
            self.run.write_pio(access.data, access.size);
            uapi::KVM_EXIT_IO_OUT
        } else {
            uapi::KVM_EXIT_IO_IN
        };
        emulation.asked = Asked::Pio(access);
        self.pending = Pending::Emulation(emulation);
        self.exit_port(direction, access.port, access.size, access.count)
    }

    /// Goes on with an instruction that userspace has been asked about.
    pub fn complete_emulation(&mut self, mut emulation: Emulation) -> Handled {
        if emulation.rip != self.regs.rip {
            return Ok(Step::Resume);
        }
        match core::mem::replace(&mut emulation.asked, Asked::Nothing) {
            Asked::Nothing => {}
            Asked::Mmio(access) => {
                emulation.log.complete(self.mmio_answer(access.len));
            }
            Asked::Pio(access) => {
                let first = self.run.read_pio(0, access.size);
                emulation.data = PioData {
                    next: 1,
                    count: if access.write { 0 } else { access.count },
                };
                emulation.log.complete(u64::from(first));
            }
        }
        self.continue_emulation(emulation, Context::Sleepable)
    }

    /// The instruction cannot be emulated. A guest's kernel is shown to
    /// userspace; a guest's user program gets #UD, so that it cannot end its
    /// machine.
    pub fn emulation_failed(&mut self) -> Step {
        if self.hw.cpl() != 0 {
            self.events.raise(Exception::UD);
            return Step::Leave;
        }
        let fetched = self.fetch(Context::Sleepable).unwrap_or_default();
        let [insn_bytes @ .., _] = fetched.bytes.to_le_bytes();
        self.run.set_exit(
            uapi::KVM_EXIT_INTERNAL_ERROR,
            uapi::kvm_run_emulation_failure {
                suberror: uapi::KVM_INTERNAL_ERROR_EMULATION,
                ndata: 3,
                flags: uapi::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
                insn_size: fetched.len,
                insn_bytes,
            },
        );
        Step::User
    }
}

/// The vCPU as the emulator sees it.
struct Machine<'a, V: Vendor> {
    vcpu: &'a mut Vcpu<V>,
    context: Context,
    data: PioData,
    /// What a device access asks for beyond the instruction.
    step: Step,
}

impl<V: Vendor> Machine<'_, V> {
    /// A reach into guest memory, as the emulator is told.
    fn reached(&self, result: Result<(), MemoryError>) -> emulate::Step<Target> {
        match result {
            Ok(()) => Ok(Target::Memory),
            Err(MemoryError::NoSlot | MemoryError::ReadOnly) => Ok(Target::Device),
            Err(MemoryError::Fault) if self.context == Context::Atomic => Err(Outcome::Repeat),
            Err(MemoryError::Fault) => Err(Outcome::Unhandleable),
        }
    }
}

impl<V: Vendor> EmuContext for Machine<'_, V> {
    fn gprs(&self) -> &Gprs {
        &self.vcpu.regs.gprs
    }

    fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.vcpu.regs.gprs
    }

    fn rip(&self) -> u64 {
        self.vcpu.regs.rip
    }

    fn set_rip(&mut self, rip: u64) {
        self.vcpu.regs.rip = rip;
    }

    fn rflags(&self) -> Rflags {
        self.vcpu.regs.rflags
    }

    fn set_rflags(&mut self, rflags: Rflags) {
        self.vcpu.regs.rflags = rflags;
    }

    fn mode(&self) -> CpuMode {
        self.vcpu.mode()
    }

    fn cpl(&self) -> u8 {
        self.vcpu.hw.cpl()
    }

    fn segment(&self, reg: SegReg) -> Segment {
        self.vcpu.hw.segment(reg)
    }

    fn cr0(&self) -> Cr0 {
        Cr0(self.vcpu.hw.cr0())
    }

    fn cr4(&self) -> Cr4 {
        Cr4(self.vcpu.hw.cr4())
    }

    fn xmm(&mut self, number: u8) -> u128 {
        fpu::read_xmm(number)
    }

    fn set_xmm(&mut self, number: u8, value: u128) {
        fpu::write_xmm(number, value);
    }

    fn translate(&mut self, gva: Gva, access: Access) -> emulate::Step<Gpa> {
        match self.vcpu.translate(gva, access.marking(), self.context) {
            Ok(gpa) => Ok(gpa),
            Err(Stop::Fault(exception)) => Err(Outcome::Fault(exception)),
            Err(Stop::Step(_)) => Err(Outcome::Repeat),
            Err(Stop::Unhandleable | Stop::Error(_)) => Err(Outcome::Unhandleable),
        }
    }

    fn read_phys(&mut self, gpa: Gpa, data: &mut [u8]) -> emulate::Step<Target> {
        if self.vcpu.apic_offset(gpa).is_some() {
            return Ok(Target::Device);
        }
        let view = self.vcpu.vm.memory.enter();
        let result = match self.context {
            Context::Atomic => view.read_nofault(gpa, data),
            Context::Sleepable => view.read(gpa, data),
        };
        drop(view);
        self.reached(result)
    }

    fn write_phys(&mut self, gpa: Gpa, data: &[u8]) -> emulate::Step<Target> {
        if self.vcpu.apic_offset(gpa).is_some() {
            return Ok(Target::Device);
        }
        let view = self.vcpu.vm.memory.enter();
        let result = match self.context {
            Context::Atomic => view.write_nofault(gpa, data),
            Context::Sleepable => view.write(gpa, data),
        };
        drop(view);
        self.reached(result)
    }

    fn cmpxchg_phys(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> emulate::Step<Target> {
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some(u64::from_le_bytes(word))
        };
        let (Some(before), Some(after)) = (word(old), word(new)) else {
            return Err(Outcome::Unhandleable);
        };
        let size = old.len() as u32;
        let view = self.vcpu.vm.memory.enter();
        let result = match self.context {
            Context::Atomic => view.cmpxchg_nofault(gpa, size, before, after),
            Context::Sleepable => view.cmpxchg(gpa, size, before, after),
        };
        drop(view);
        match result {
            Ok(Ok(())) => Ok(Target::Memory),
            Ok(Err(_)) => Ok(Target::Changed),
            Err(error) => self.reached(Err(error)),
        }
    }

    fn mmio_read(&mut self, gpa: Gpa, data: &mut [u8]) -> Answer<()> {
        if let Some(offset) = self.vcpu.apic_offset(gpa) {
            let value = self.vcpu.apic_page_read(offset, data.len() as u8);
            self.step = self.vcpu.step_with_report(self.step);
            for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
            return Answer::Now(());
        }
        if self.vcpu.vm.mmio_read(gpa, data) {
            return Answer::Now(());
        }
        Answer::Pending
    }

    fn mmio_write(&mut self, gpa: Gpa, data: &[u8]) -> Answer<()> {
        if let Some(offset) = self.vcpu.apic_offset(gpa) {
            let mut bytes = [0; 4];
            for (to, from) in bytes.iter_mut().zip(data) {
                *to = *from;
            }
            let value = u32::from_le_bytes(bytes);
            self.step = self.vcpu.apic_page_write(offset, data.len() as u8, value);
            return Answer::Now(());
        }
        if self.vcpu.vm.mmio_write(gpa, data) {
            return Answer::Now(());
        }
        Answer::Pending
    }

    fn pio_read(&mut self, port: u16, size: u8, _count: u32) -> Answer<u32> {
        if self.data.next < self.data.count {
            let value = self.vcpu.run.read_pio(self.data.next, size);
            self.data.next = self.data.next.wrapping_add(1);
            if self.data.next >= self.data.count {
                self.data = PioData::default();
            }
            return Answer::Now(value);
        }
        self.data = PioData::default();
        match self.vcpu.vm.port_read(port, size) {
            Some(value) => Answer::Now(value),
            None => Answer::Pending,
        }
    }

    fn pio_write(&mut self, port: u16, size: u8, data: u32) -> Answer<()> {
        if self.vcpu.vm.port_write(port, size, data) {
            Answer::Now(())
        } else {
            Answer::Pending
        }
    }
}

/// What the access needs of the nested tables.
#[inline]
fn wanted(fault: NestedFault) -> NestedAccess {
    match fault {
        NestedFault { write: true, .. } => NestedAccess::Write,
        NestedFault { fetch: true, .. } => NestedAccess::Fetch,
        _ => NestedAccess::Read,
    }
}
