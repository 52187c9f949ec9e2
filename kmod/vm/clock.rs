//! stub
use crate::vm::timer::GuestTime;
use crate::hw::Vendor;
use crate::vm::Vm;
use crate::vm::vcpu::Vcpu;
use crate::uapi::*;
use kernel::prelude::*;
use crate::host::cpu;
pub struct VmClock;
impl VmClock { pub fn new()->Self{Self} pub fn guest_time(&self)->GuestTime{ GuestTime{tsc_offset:cpu::rdtsc().wrapping_neg(), tsc_khz:cpu::tsc_khz()} } }
pub struct VcpuClock;
impl VcpuClock { pub fn new()->Self{Self} }
impl<V: Vendor> Vm<V> {
pub fn check_tsc_khz(&self,_k:u64)->Result{Ok(())}
pub fn get_clock(&self)->Result<kvm_clock_data>{Err(EINVAL)}
pub fn set_clock(&self,_c:&kvm_clock_data)->Result{Err(EINVAL)}
pub fn set_tsc_khz(&self,_c:u64)->Result<isize>{Err(EINVAL)}
pub fn get_tsc_khz(&self)->Result<isize>{Ok(cpu::tsc_khz() as isize)}
}
impl<V: Vendor> Vcpu<V> {
pub fn update_clock(&mut self){}
pub fn clock_was_stopped(&mut self)->Result{Err(EINVAL)}
}
pub const ADJUST_FLAGS: u32 = 0;
use crate::pc::msr::Effect;
impl VmClock { pub fn offset_for_written_tsc(&self, v:u64)->u64{ v.wrapping_sub(cpu::rdtsc()) } pub fn wall_clock_address(&self)->u64{0} }
impl<V: Vendor> Vcpu<V> { pub fn clock_changed(&mut self,_e:Effect){} }
