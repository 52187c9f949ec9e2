// SPDX-License-Identifier: GPL-2.0

//! One virtual CPU.
//!
//! [`Vcpu`] is the state that belongs to whoever holds the vCPU's lock: the
//! thread in KVM_RUN, or an ioctl while no thread is. [`VcpuShared`] is the part
//! that everybody else may touch, by atomics only.

use super::clock::VcpuClock;
use super::code_page::CodePage;
use super::debug::Debug;
use super::events::EventQueue;
use super::memory::VcpuMmu;
use super::model::Model;
use super::pending::Pending;
use super::request::Request;
use super::request::Requests;
use super::run_page::RunPages;
use super::timer::GuestTime;
use super::timer::VcpuTimer;
use super::vapic::Vapic;
use super::Vm;
use crate::host::cpu;
use crate::host::cpu::TscAux;
use crate::host::fpu::GuestFpu;
use crate::host::fpu::HostXss;
use crate::host::fpu::Xcr0;
use crate::host::page::physical_address_of;
use crate::host::task::Runner;
use crate::host::task::Sigmask;
use crate::host::task::WaitCell;
use crate::hw::Exit;
use crate::hw::Registers;
use crate::hw::Vendor;
use crate::hw::VmSetup;
use crate::pc::addr::Gpa;
use crate::pc::decode::DecodeCache;
use crate::pc::lapic::regs::base as apic_base;
use crate::pc::lapic::Lapic;
use crate::pc::lapic::LapicPost;
use crate::pc::regs::Reg;
use kernel::prelude::*;
use kernel::sync::Arc;

/// What other threads and interrupt handlers may do to a vCPU.
pub struct VcpuShared {
    /// Number given by userspace; its local APIC's id.
    pub id: u32,
    /// Place in the VM's table: vCPUs in order of creation.
    pub index: usize,
    /// Request bits, and whether the vCPU is in the guest.
    pub requests: Requests,
    /// Interrupts posted to its local APIC.
    pub apic: LapicPost,
    /// The thread that runs it.
    pub runner: Runner,
    wait: WaitCell,
}

impl VcpuShared {
    fn new(id: u32, index: usize, posts: bool) -> Self {
        Self {
            id,
            index,
            requests: Requests::new(),
            apic: LapicPost::with(id, posts),
            runner: Runner::new(),
            wait: WaitCell::new(),
        }
    }

    /// Makes the vCPU look at what has been posted: wakes its thread from a
    /// HLT, or makes it leave the guest. Any context.
    pub fn kick(&self) {
        self.wait.wake();
        self.get_out();
    }

    /// Makes the vCPU leave the guest, if it is in there. Any context.
    pub fn get_out(&self) {
        if let Some(cpu) = self.requests.cpu_to_kick(cpu::raw_current_cpu()) {
            cpu::send_reschedule(cpu);
        }
    }

    /// Has the processor that runs the vCPU take what has been posted for it,
    /// without an exit, or wakes its thread from a HLT. Any context.
    pub fn notify(&self) {
        self.wait.wake();
        // Kicked or not, a vCPU outside looks before it enters.
        if let Some(cpu) = self.requests.cpu_to_notify(cpu::raw_current_cpu()) {
            cpu::notify(cpu);
        }
    }

    /// Adds a request and kicks.
    pub fn request(&self, request: Request) {
        self.requests.add(request);
        self.kick();
    }

    /// Sleeps until something is posted or requested, or a signal comes.
    ///
    /// # Errors
    ///
    /// `EINTR` for a signal.
    pub fn sleep(&self) -> Result {
        self.wait.wait(|| self.apic.is_on() || self.requests.any())
    }
}

/// The number of no CPU.
pub const NO_CPU: u32 = u32::MAX;

/// Whether the vCPU executes instructions (KVM API document, 4.38).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MpState {
    /// It runs.
    Runnable,
    /// An application processor that has not had its INIT.
    Uninitialized,
    /// After INIT, waiting for the startup IPI.
    InitReceived,
    /// In HLT.
    Halted,
}

/// A vCPU, for the holder of its lock.
pub struct Vcpu<V: Vendor> {
    /// The machine it is part of.
    pub vm: Arc<Vm<V>>,
    /// Its public half.
    pub shared: Arc<VcpuShared>,
    /// The pages shared with the VMM.
    pub run: Arc<RunPages>,
    /// General registers, RIP and RFLAGS.
    pub regs: Registers,
    /// Everything that the hardware holds.
    pub hw: V,
    /// x87, SSE, AVX and further extended state.
    pub fpu: GuestFpu,
    /// Events to deliver.
    pub events: EventQueue,
    /// Debug registers and the VMM's guest debugging.
    pub debug: Debug,
    /// What userspace has to answer before the guest goes on.
    pub pending: Pending,
    /// Runnable, halted, ...
    pub mp_state: MpState,
    /// XCR0.
    pub xcr0: Xcr0,
    /// XCR0 of the host, if it uses XSAVE.
    pub host_xcr0: Option<Xcr0>,
    /// Supervisor states of the host.
    pub host_xss: HostXss,
    /// XCR0 in the processor while the guest runs, if it is not the host's.
    pub loaded_xcr0: Option<Xcr0>,
    /// PKRU of the guest while it does not run.
    pub pkru: u32,
    /// PKRU of the host while the guest runs with its own.
    pub host_pkru: Option<u32>,
    /// TSC_AUX while the guest runs.
    pub tsc_aux: TscAux,
    /// The local APIC, unless userspace models it.
    pub lapic: Option<Lapic>,
    /// The PICs and the I/O APIC are userspace's, though the local APIC is not.
    pub split_irqchip: bool,
    /// IA32_APIC_BASE, if userspace models the local APIC.
    pub user_apic_base: u64,
    /// What is behind the local APIC's timer.
    pub timer: VcpuTimer,
    /// The guest's time stamp counter.
    pub time: GuestTime,
    /// Clocks that the guest reads from memory.
    pub clock: VcpuClock,
    /// The guest wants its wall clock written there.
    pub wall_clock_pending: Option<Gpa>,
    /// The guest wants its steal time written there.
    pub steal_time_pending: Option<Gpa>,
    /// The guest's flag for paravirtual EOI.
    pub pv_eoi: Option<Gpa>,
    /// The task priority in guest memory.
    pub vapic: Vapic,
    /// The vector of an interrupt whose end userspace's I/O APIC is to be told,
    /// once the instruction is done and with it what else it exits for.
    pub user_eoi: Option<u8>,
    /// Accesses to the local APIC's page are not virtualized, and memory knows.
    pub bare_apic: bool,
    /// Another vCPU has ended this one's HLT (KVM_HC_KICK_CPU), perhaps before
    /// it began.
    pub unhalted: bool,
    /// An INIT has arrived.
    pub init_pending: bool,
    /// Writes of CR8 exit, though the local APIC is here.
    pub watches_cr8: bool,
    /// A startup IPI has arrived, for this page.
    pub sipi_pending: Option<u8>,
    /// Signal mask while in KVM_RUN.
    pub sigmask: Option<Sigmask>,
    /// The CPU of the last entry, or [`NO_CPU`].
    pub last_cpu: u32,
    /// CPUID and MSRs.
    pub model: KBox<Model>,
    /// Where the guest's code was found last.
    pub code: CodePage,
    /// Instructions decoded lately.
    pub decoded: DecodeCache,
    /// Tables for the next nested page fault.
    pub mmu: VcpuMmu,
    /// The exit that is to be handled where sleeping is allowed.
    pub unanswered: Exit,
    /// An interrupt of the host has ended the guest's run since RCU heard of it.
    pub rcu_waits: bool,
    /// Exits so far.
    pub exits: u64,
}

impl<V: Vendor> Vcpu<V> {
    /// A vCPU after RESET.
    ///
    /// Too large for the stack of a kernel thread, so never moved.
    #[inline(never)]
    pub fn new(vm: Arc<Vm<V>>, id: u32, index: usize) -> Result<KBox<Self>> {
        let shared = Arc::new(VcpuShared::new(id, index, V::posts()), GFP_KERNEL)?;
        let run = Arc::new(RunPages::new()?, GFP_KERNEL)?;
        let setup = VmSetup {
            nested_root: vm.memory.root(),
            apic_page: vm.memory.apic_page(),
        };
        let lapic = vm.chip.new_lapic(id, id == vm.boot_cpu());
        if let Some(lapic) = &lapic {
            lapic.publish(&shared.apic);
        }
        let time = vm.clock.guest_time::<V>()?;
        let mp_state = if lapic.is_none() || id == vm.boot_cpu() {
            MpState::Runnable
        } else {
            MpState::Uninitialized
        };
        let vcpu = Self {
            hw: V::new(&setup, u16::try_from(id).map_err(|_| EINVAL)?)?,
            fpu: GuestFpu::new()?,
            model: Model::new()?,
            regs: Registers::RESET,
            events: EventQueue::default(),
            debug: Debug::new(),
            pending: Pending::None,
            xcr0: Xcr0::RESET,
            host_xcr0: Xcr0::host(),
            host_xss: HostXss::read(),
            loaded_xcr0: None,
            pkru: 0,
            host_pkru: None,
            tsc_aux: TscAux::default(),
            split_irqchip: vm.chip.is_split(),
            user_apic_base: apic_base::DEFAULT_ADDRESS
                | apic_base::ENABLE
                | if id == vm.boot_cpu() {
                    apic_base::BSP
                } else {
                    0
                },
            timer: VcpuTimer::new(&shared)?,
            clock: VcpuClock::new(&time.rate),
            time,
            wall_clock_pending: None,
            steal_time_pending: None,
            pv_eoi: None,
            vapic: Vapic::default(),
            user_eoi: None,
            bare_apic: false,
            unhalted: false,
            init_pending: false,
            watches_cr8: false,
            sipi_pending: None,
            sigmask: None,
            last_cpu: NO_CPU,
            code: CodePage::default(),
            decoded: DecodeCache::new(),
            mmu: VcpuMmu::new(),
            unanswered: Exit::HostInterrupt,
            rcu_waits: true,
            exits: 0,
            lapic,
            mp_state,
            run,
            shared,
            vm,
        };
        let mut vcpu = KBox::new(vcpu, GFP_KERNEL_ACCOUNT)?;
        let offset = vcpu.time.tsc_offset;
        vcpu.hw.set_tsc_offset(offset);
        vcpu.hw.set_tsc_multiplier(time.rate.multiplier());
        let models_apic = vcpu.lapic.is_none();
        vcpu.hw.intercept_cr8_write(models_apic);
        if V::posts() {
            let descriptor = physical_address_of(&vcpu.shared.apic);
            vcpu.hw.set_posted(descriptor);
        }
        vcpu.shared.requests.add(Request::MSR_EXITS);
        if setup.apic_page.is_some() {
            vcpu.shared.requests.add(Request::APIC_PAGE);
        }
        vcpu.reset_registers();
        Ok(vcpu)
    }

    /// The values of RESET that the hardware half does not hold.
    fn reset_registers(&mut self) {
        self.regs = Registers::RESET;
        self.regs
            .gprs
            .set(Reg::Rdx, u64::from(self.model.signature()));
    }
}

impl<V: Vendor> Drop for Vcpu<V> {
    fn drop(&mut self) {
        if self.bare_apic {
            self.vm.memory.bare_vcpu_gone();
        }
    }
}
