// SPDX-License-Identifier: GPL-2.0-or-later

//! The structures of the ABI that end in a list: CPUID, MSR indices, MSR values, routes.

use std::os::fd::AsRawFd;

use kvm_bindings::*;

use crate::ioctls::*;
use crate::sys::{ioctl_buffer, SysResult};

/// A list with an 8-byte header whose first word is the count.
fn pack<T: Copy>(count: u32, entries: &[T]) -> Vec<u64> {
    let bytes = std::mem::size_of_val(entries);
    let mut buffer = vec![0u64; 1 + bytes.div_ceil(8)];
    buffer[0] = u64::from(count);
    // SAFETY: the buffer has `bytes` bytes behind its header.
    unsafe {
        std::ptr::copy_nonoverlapping(
            entries.as_ptr().cast::<u8>(),
            buffer.as_mut_ptr().add(1).cast::<u8>(),
            bytes,
        )
    };
    buffer
}

fn unpack<T: Copy>(buffer: &[u64], count: usize) -> Vec<T> {
    let room = (buffer.len() - 1) * 8 / std::mem::size_of::<T>();
    let first = buffer[1..].as_ptr().cast::<T>();
    // SAFETY: below `room` the read lies in the buffer; `T` is plain data of the ABI.
    let read = |i| unsafe { first.add(i).read_unaligned() };
    (0..count.min(room)).map(read).collect()
}

/// CPUID leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Cpuid {
    /// The leaves, in the order of the list.
    pub entries: Vec<kvm_cpuid_entry2>,
}

impl Cpuid {
    /// A leaf, if it is in the list.
    pub fn leaf(&self, function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
        self.entries.iter().find(|e| {
            let indexed = e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
            e.function == function && (!indexed || e.index == index)
        })
    }

    /// A leaf to change.
    pub fn leaf_mut(&mut self, function: u32, index: u32) -> Option<&mut kvm_cpuid_entry2> {
        self.entries
            .iter_mut()
            .find(|e| e.function == function && e.index == index)
    }

    /// Puts in the id of the vCPU's local APIC.
    pub fn set_apic_id(&mut self, id: u32) {
        for e in &mut self.entries {
            match e.function {
                1 => e.ebx = e.ebx & 0x00ff_ffff | id << 24,
                0xb | 0x1f => e.edx = id,
                _ => {}
            }
        }
    }

    /// `KVM_SET_CPUID2`.
    pub fn set(&self, vcpu: &impl AsRawFd) -> SysResult<i32> {
        let mut buffer = pack(self.entries.len() as u32, &self.entries);
        ioctl_buffer(vcpu, KVM_SET_CPUID2, &mut buffer)
    }
}

/// Gets a CPUID list with room for as many leaves as it needs.
pub fn get_cpuid(fd: &impl AsRawFd, call: Ioctl) -> SysResult<Cpuid> {
    let mut room = 64;
    loop {
        match get_cpuid_of(fd, call, room) {
            Err(e) if e.number == libc::E2BIG && room < 4096 => room *= 2,
            other => return other,
        }
    }
}

/// Gets a CPUID list with room for `room` leaves.
pub fn get_cpuid_of(fd: &impl AsRawFd, call: Ioctl, room: u32) -> SysResult<Cpuid> {
    get_cpuid_and_count(fd, call, room).0
}

/// Gets a CPUID list with room for `room` leaves, and the count in its header afterwards.
pub fn get_cpuid_and_count(fd: &impl AsRawFd, call: Ioctl, room: u32) -> (SysResult<Cpuid>, u32) {
    let empty = vec![kvm_cpuid_entry2::default(); room as usize];
    let mut buffer = pack(room, &empty);
    let result = ioctl_buffer(fd, call, &mut buffer);
    let count = buffer[0] as u32;
    let cpuid = result.map(|_| Cpuid {
        entries: unpack(&buffer, count as usize),
    });
    (cpuid, count)
}

/// Gets a list of MSR indices with room for `room`; gives the count that came back and the list.
pub fn msr_indices_of(
    fd: &impl AsRawFd,
    call: Ioctl,
    room: u32,
) -> (SysResult<i32>, u32, Vec<u32>) {
    // The header of this list is four bytes, so the list starts in the middle of the first word.
    let mut buffer = vec![0u64; 2 + room as usize / 2];
    buffer[0] = u64::from(room);
    let result = ioctl_buffer(fd, call, &mut buffer);
    let count = buffer[0] as u32;
    let word = |i: usize| (buffer[i / 2] >> (32 * (i % 2))) as u32;
    let listed = count.min(room) as usize;
    (result, count, (1..=listed).map(word).collect())
}

/// Gets a list of MSR indices.
pub fn msr_indices(fd: &impl AsRawFd, call: Ioctl) -> SysResult<Vec<u32>> {
    let (result, count, list) = msr_indices_of(fd, call, 0);
    match result {
        Ok(_) => Ok(list),
        Err(e) if e.number == libc::E2BIG => {
            let (result, _, list) = msr_indices_of(fd, call, count);
            result.map(|_| list)
        }
        Err(e) => Err(e),
    }
}

fn msr_entries(pairs: &[(u32, u64)]) -> Vec<kvm_msr_entry> {
    let entry = |&(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    pairs.iter().map(entry).collect()
}

/// `KVM_GET_MSRS`: how many were read, and the values.
pub fn get_msrs(fd: &impl AsRawFd, indices: &[u32]) -> SysResult<(usize, Vec<u64>)> {
    let pairs: Vec<_> = indices.iter().map(|&i| (i, 0)).collect();
    let mut buffer = pack(indices.len() as u32, &msr_entries(&pairs));
    let done = ioctl_buffer(fd, KVM_GET_MSRS, &mut buffer)? as usize;
    let entries: Vec<kvm_msr_entry> = unpack(&buffer, indices.len());
    Ok((done, entries.iter().map(|e| e.data).collect()))
}

/// `KVM_SET_MSRS`: how many were written.
pub fn set_msrs(fd: &impl AsRawFd, pairs: &[(u32, u64)]) -> SysResult<usize> {
    let mut buffer = pack(pairs.len() as u32, &msr_entries(pairs));
    ioctl_buffer(fd, KVM_SET_MSRS, &mut buffer).map(|n| n as usize)
}

/// `KVM_SET_GSI_ROUTING`.
pub fn set_routing(vm: &impl AsRawFd, routes: &[kvm_irq_routing_entry]) -> SysResult<i32> {
    let mut buffer = pack(routes.len() as u32, routes);
    ioctl_buffer(vm, KVM_SET_GSI_ROUTING, &mut buffer)
}

/// A route from `gsi` to a pin of a chip.
pub fn route_to_chip(gsi: u32, chip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip: chip, pin };
    entry
}

/// A route from `gsi` to a message.
pub fn route_to_msi(gsi: u32, address: u64, data: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: address as u32,
        address_hi: (address >> 32) as u32,
        data,
        ..Default::default()
    };
    entry
}
