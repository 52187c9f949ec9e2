// SPDX-License-Identifier: GPL-2.0-or-later

//! Guest memory: where it lies in the guest's physical address space, and getting it.
//!
//! Up to 3 GiB lie at 0; the rest begins at 4 GiB. The hole between holds PCI windows, the
//! IOAPIC and the local APICs.

use anyhow::{anyhow, Context, Result};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use crate::size::{ByteSize, GIB};

/// First address of the hole: RAM below it is "low".
pub const HOLE_START: u64 = 3 * GIB;
/// Where RAM goes on above the hole.
pub const HIGH_START: u64 = 4 * GIB;

/// The ranges of guest RAM, as (guest-physical address, length in bytes), for `size` of memory.
pub fn ranges(size: ByteSize) -> Vec<(u64, u64)> {
    let low = size.0.min(HOLE_START);
    let mut ranges = vec![(0, low)];
    if size.0 > low {
        ranges.push((HIGH_START, size.0 - low));
    }
    ranges
}

/// The first guest-physical address above all memory.
pub fn end(size: ByteSize) -> u64 {
    ranges(size)
        .last()
        .map_or(0, |(start, length)| start + length)
}

/// Gets the memory from the host. It is anonymous and comes in page by page as the guest touches
/// it.
///
/// # Errors
///
/// When the host cannot provide so much address space.
pub fn allocate(size: ByteSize, hugepages: bool) -> Result<GuestMemoryMmap> {
    let ranges = ranges(size)
        .into_iter()
        .map(|(base, length)| Ok((GuestAddress(base), usize::try_from(length)?)))
        .collect::<Result<Vec<_>>>()?;
    let memory = GuestMemoryMmap::from_ranges(&ranges).map_err(|error| {
        anyhow!(
            "the host cannot provide {size} of guest memory ({error}); ask for less with --memory"
        )
    })?;
    if hugepages {
        for region in memory.iter() {
            advise_huge(region.as_ptr(), region.size())?;
        }
    }
    Ok(memory)
}

fn advise_huge(start: *mut u8, length: usize) -> Result<()> {
    // SAFETY: the range is a whole mapping of ours that `GuestMemoryMmap` keeps alive, and the
    // advice changes no contents.
    let result = unsafe { libc::madvise(start.cast(), length, libc::MADV_HUGEPAGE) };
    if result != 0 {
        return Err(std::io::Error::last_os_error())
            .context("this host has no transparent huge pages; leave out --hugepages");
    }
    Ok(())
}

/// Makes `memory` the RAM of `vm`.
///
/// # Errors
///
/// When KVM refuses a region.
pub fn attach(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<()> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the host range is a live mapping that nothing in Rust holds references into;
        // the caller keeps `memory` alive for as long as `vm`, as both belong to `vmm::Machine`.
        unsafe { vm.set_user_memory_region(region) }.with_context(|| {
            format!("KVM refused guest memory at {:#x}", region.guest_phys_addr)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::MIB;

    #[test]
    fn small_memory_is_one_range() {
        assert_eq!(ranges(ByteSize(512 * MIB)), [(0, 512 * MIB)]);
        assert_eq!(ranges(ByteSize(3 * GIB)), [(0, 3 * GIB)]);
    }

    #[test]
    fn large_memory_leaves_the_hole() {
        assert_eq!(
            ranges(ByteSize(3 * GIB + MIB)),
            [(0, 3 * GIB), (4 * GIB, MIB)]
        );
        assert_eq!(
            ranges(ByteSize(8 * GIB)),
            [(0, 3 * GIB), (4 * GIB, 5 * GIB)]
        );
    }
}
