// SPDX-License-Identifier: GPL-2.0

//! The guest's clocks: its TSC, the system time it computes from that, its
//! wall clock and its steal time. The last three are records in guest memory.
//!
//! System time goes at the rate of the TSC: it is the host's raw clock less
//! where that was when the VM was made.
//!
//! Lock order: the mutexes here are innermost, and held to copy only.

use super::request::Request;
use super::timer::GuestTime;
use super::vcpu::Vcpu;
use super::Vm;
use crate::host::cpu;
use crate::host::task;
use crate::host::time;
use crate::host::time::Clocks;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::clock;
use crate::pc::clock::Moment;
use crate::pc::clock::Scale;
use crate::pc::clock::WrittenTsc;
use crate::pc::msr::Effect;
use crate::pc::tsc::Rate;
use crate::uapi;
use crate::uapi::kvm_clock_data;
use crate::uapi::kvm_steal_time;
use crate::uapi::pvclock_vcpu_time_info;
use crate::uapi::pvclock_wall_clock;
use crate::uapi::Pod;
use core::mem::offset_of;
use core::mem::size_of;
use core::pin::Pin;
use core::sync::atomic::fence;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Mutex;

/// What KVM_CAP_ADJUST_CLOCK says: the flags KVM_GET_CLOCK can set.
pub const ADJUST_FLAGS: u32 =
    uapi::KVM_CLOCK_TSC_STABLE | uapi::KVM_CLOCK_REALTIME | uapi::KVM_CLOCK_HOST_TSC;

/// The clocks that a VM's vCPUs share.
pub struct VmClock {
    /// Added to the host's raw clock.
    offset: AtomicU64,
    wall_clock: AtomicU64,
    written: Pin<KBox<Mutex<WrittenTsc>>>,
    /// Frequency of a new vCPU's TSC in kHz; 0 is the host's.
    tsc_khz: AtomicU32,
}

impl VmClock {
    /// System time begins now.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        let start = Clocks::read().raw_boottime();
        Ok(Self {
            offset: AtomicU64::new(start.wrapping_neg()),
            wall_clock: AtomicU64::new(0),
            written: KBox::pin_init(
                new_mutex!(WrittenTsc::default(), "kvm tsc"),
                GFP_KERNEL_ACCOUNT,
            )?,
            tsc_khz: AtomicU32::new(0),
        })
    }

    fn system_time(&self, clocks: &Clocks) -> u64 {
        clocks
            .raw_boottime()
            .wrapping_add(self.offset.load(Ordering::Relaxed))
    }

    /// The TSC of a new vCPU: 0 when the VM's first one was made.
    ///
    /// # Errors
    ///
    /// `EINVAL`, not for a frequency that has been set.
    pub fn guest_time<V: Vendor>(&self) -> Result<GuestTime> {
        let rate = rate::<V>(self.tsc_khz.load(Ordering::Relaxed).into())?;
        Ok(GuestTime {
            rate,
            tsc_offset: self.offset_for_written_tsc(0, &rate),
            set_back: cpu::tsc_set_back(),
        })
    }

    /// The offset of a vCPU's TSC that userspace sets to `value`.
    pub fn offset_for_written_tsc(&self, value: u64, rate: &Rate) -> u64 {
        let (tsc, now) = (cpu::rdtsc_ordered(), time::monotonic_ns());
        // What was written before a suspend refers to a TSC that has gone on.
        let set_back = cpu::tsc_set_back();
        let plain = rate.of_host_tsc(tsc.wrapping_add(set_back));
        let khz = rate.real_khz();
        let offset = self.written.lock().write(value, plain, now, khz);
        offset.wrapping_add(rate.of_host_tsc(set_back))
    }

    /// The value of MSR_KVM_WALL_CLOCK.
    pub fn wall_clock_address(&self) -> u64 {
        self.wall_clock.load(Ordering::Relaxed)
    }
}

/// The records of one vCPU.
pub struct VcpuClock {
    scale: Scale,
    stopped: bool,
    /// `sched_run_delay_ns` when steal time was written last.
    run_delay: u64,
    steal_time: Option<Gpa>,
}

impl VcpuClock {
    /// No records, for a TSC of this rate.
    pub fn new(rate: &Rate) -> Self {
        Self {
            scale: Scale::of_khz(rate.real_khz()),
            stopped: false,
            run_delay: 0,
            steal_time: None,
        }
    }
}

/// A TSC of `khz`, of which 0 is the host's.
///
/// # Errors
///
/// `EINVAL` for another frequency where the processor does not scale the TSC,
/// or not so far.
fn rate<V: Vendor>(khz: u64) -> Result<Rate> {
    Rate::new(khz, cpu::tsc_khz(), V::scales_tsc()).ok_or(EINVAL)
}

impl<V: Vendor> Vm<V> {
    /// KVM_SET_TSC_KHZ of a VM.
    ///
    /// # Errors
    ///
    /// `EINVAL` when there are vCPUs, or for a frequency that cannot be.
    pub fn set_tsc_khz(&self, khz: u64) -> Result<isize> {
        let rate = rate::<V>(khz)?;
        if self.vcpus.len() != 0 {
            return Err(EINVAL);
        }
        self.clock.tsc_khz.store(rate.khz(), Ordering::Relaxed);
        Ok(0)
    }

    /// KVM_GET_TSC_KHZ of a VM.
    pub fn get_tsc_khz(&self) -> Result<isize> {
        let khz = self.clock.tsc_khz.load(Ordering::Relaxed);
        Ok(rate::<V>(khz.into())?.khz() as isize)
    }

    /// KVM_GET_CLOCK.
    pub fn get_clock(&self) -> Result<kvm_clock_data> {
        let clocks = Clocks::read();
        let mut flags = uapi::KVM_CLOCK_REALTIME;
        if clocks.from_tsc {
            flags |= uapi::KVM_CLOCK_TSC_STABLE | uapi::KVM_CLOCK_HOST_TSC;
        }
        Ok(kvm_clock_data {
            clock: self.clock.system_time(&clocks),
            flags,
            realtime: clocks.realtime,
            host_tsc: clocks.tsc,
            ..kvm_clock_data::default()
        })
    }

    /// KVM_SET_CLOCK.
    ///
    /// # Errors
    ///
    /// `EINVAL` for flags other than KVM_CLOCK_REALTIME.
    pub fn set_clock(&self, data: &kvm_clock_data) -> Result {
        // What KVM_GET_CLOCK tells beyond the time may come back.
        if data.flags & !ADJUST_FLAGS != 0 {
            return Err(EINVAL);
        }
        let clocks = Clocks::read();
        let mut value = data.clock;
        if data.flags & uapi::KVM_CLOCK_REALTIME != 0 {
            // The time since the value was read counts.
            value = value.wrapping_add(clocks.realtime.saturating_sub(data.realtime));
        }
        let offset = value.wrapping_sub(clocks.raw_boottime());
        self.clock.offset.store(offset, Ordering::Relaxed);
        self.vcpus.request_all(Request::CLOCK);
        Ok(())
    }

    fn write_wall_clock(&self, record: Gpa) {
        self.clock.wall_clock.store(record.0, Ordering::Relaxed);
        if record.0 == 0 {
            return;
        }
        let clocks = Clocks::read();
        let system_time = self.clock.system_time(&clocks);
        self.write_versioned(record, |version| {
            clock::wall_clock(clocks.realtime, system_time, version)
        });
    }

    /// Writes a record whose first field is a version: odd while it is written.
    /// What the guest has not backed by memory it does not get.
    fn write_versioned<T: Pod>(&self, record: Gpa, make: impl FnOnce(u32) -> T) {
        const {
            assert!(offset_of!(pvclock_vcpu_time_info, version) == 0);
            assert!(offset_of!(pvclock_wall_clock, version) == 0);
        }
        let view = self.memory.enter();
        let mut old = [0; size_of::<u32>()];
        if view.read(record, &mut old).is_err() {
            return;
        }
        let odd = u32::from_le_bytes(old) | 1;
        let even = odd.wrapping_add(1);
        let value = make(odd);
        let written = view.write(record, value.as_bytes());
        fence(Ordering::Release);
        if written.is_ok() {
            let _ = view.write(record, &even.to_le_bytes());
        }
    }
}

impl<V: Vendor> Vcpu<V> {
    /// KVM_SET_TSC_KHZ of a vCPU. Its TSC reads something else at once: VMMs write
    /// it afterwards, and so the vCPUs of a VM stay in step.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a frequency that cannot be.
    pub fn set_tsc_khz(&mut self, khz: u64) -> Result<isize> {
        self.time.rate = rate::<V>(khz)?;
        self.hw.set_tsc_multiplier(self.time.rate.multiplier());
        self.clock.scale = Scale::of_khz(self.time.rate.real_khz());
        self.tsc_changed();
        self.shared.requests.add(Request::CLOCK);
        Ok(0)
    }

    /// KVM_GET_TSC_KHZ of a vCPU.
    pub fn get_tsc_khz(&self) -> Result<isize> {
        Ok(self.time.rate.khz() as isize)
    }

    /// An MSR of the clocks has been written.
    pub fn clock_changed(&mut self, effect: Effect) {
        match effect {
            Effect::WallClock { record } => self.wall_clock_pending = Some(record),
            Effect::StealTime(record) => {
                self.clock.steal_time = record;
                self.clock.run_delay = task::sched_run_delay_ns();
                // The guest sees by the version that it is there.
                if let Some(record) = record {
                    self.steal_time_pending = Some(record);
                }
            }
            Effect::PvEoi(record) => self.pv_eoi = record,
            Effect::TscMoved => self.tsc_changed(),
            _ => {}
        }
        self.shared.requests.add(Request::CLOCK);
    }

    /// At the beginning of every ioctl: if the host's TSC has been set back by a
    /// suspend, the guest's goes on from where it was.
    #[inline]
    pub fn keep_tsc_over_suspend(&mut self) {
        let set_back = cpu::tsc_set_back();
        if set_back != self.time.set_back {
            self.host_tsc_was_set_back(set_back);
        }
    }

    #[cold]
    fn host_tsc_was_set_back(&mut self, set_back: u64) {
        let rate = &self.time.rate;
        let before = rate.of_host_tsc(self.time.set_back);
        let ticks = rate.of_host_tsc(set_back).wrapping_sub(before);
        self.time.set_back = set_back;
        self.time.tsc_offset = self.time.tsc_offset.wrapping_add(ticks);
        self.hw.set_tsc_offset(self.time.tsc_offset);
        self.tsc_changed();
        self.shared.requests.add(Request::CLOCK);
    }

    /// Writes the records of the clocks.
    pub fn update_clock(&mut self) {
        if let Some(record) = self.steal_time_pending.take() {
            self.write_steal_time(record, 0);
        }
        if let Some(record) = self.wall_clock_pending.take() {
            self.vm.write_wall_clock(record);
        }
        let Some(record) = self.model.msrs.system_time() else {
            return;
        };
        let clocks = Clocks::read();
        let moment = Moment {
            tsc: self.time.tsc_at(clocks.tsc),
            system_time: self.vm.clock.system_time(&clocks),
            stable: clocks.from_tsc && cpu::tsc_stable(),
            stopped: core::mem::take(&mut self.clock.stopped),
        };
        let scale = self.clock.scale;
        self.vm
            .write_versioned(record, |version| clock::time_info(&moment, scale, version));
    }

    /// KVM_KVMCLOCK_CTRL: the guest is told that it was stopped.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the guest does not use the clock.
    pub fn clock_was_stopped(&mut self) -> Result {
        if self.model.msrs.system_time().is_none() {
            return Err(EINVAL);
        }
        self.clock.stopped = true;
        self.shared.requests.add(Request::CLOCK);
        Ok(())
    }

    /// Adds the time the thread has waited for a CPU to the guest's steal time.
    #[inline]
    pub fn account_steal(&mut self) {
        let Some(record) = self.clock.steal_time else {
            return;
        };
        let delay = task::sched_run_delay_ns();
        if delay != self.clock.run_delay {
            let stolen = delay.saturating_sub(self.clock.run_delay);
            self.clock.run_delay = delay;
            self.write_steal_time(record, stolen);
        }
    }

    fn write_steal_time(&self, record: Gpa, stolen: u64) {
        let view = self.vm.memory.enter();
        let mut time = kvm_steal_time::zeroed();
        if view.read(record, time.as_bytes_mut()).is_err() {
            return;
        }
        let version = record.wrapping_add(offset_of!(kvm_steal_time, version) as u64);
        let odd = time.version | 1;
        if view.write(version, &odd.to_le_bytes()).is_err() {
            return;
        }
        fence(Ordering::Release);
        let steal = time.steal.wrapping_add(stolen);
        let _ = view.write(record, &steal.to_le_bytes());
        fence(Ordering::Release);
        let _ = view.write(version, &odd.wrapping_add(1).to_le_bytes());
    }
}
