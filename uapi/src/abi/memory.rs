// SPDX-License-Identifier: GPL-2.0-or-later

//! Guest memory: slots and dirty logs.

abi_struct! {
    /// A memory slot (`KVM_SET_USER_MEMORY_REGION`, API document 4.35).
    kvm_userspace_memory_region: 32 {
        /// Slot number in bits 0-15, address space in bits 16-31.
        slot: u32,
        /// `KVM_MEM_*`.
        flags: u32,
        guest_phys_addr: u64,
        /// Bytes; 0 deletes the slot.
        memory_size: u64,
        /// Start of the memory in the VMM's process.
        userspace_addr: u64,
    }
}

abi_struct! {
    /// A memory slot with guest_memfd (`KVM_SET_USER_MEMORY_REGION2`, 4.140).
    kvm_userspace_memory_region2: 160 {
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        memory_size: u64,
        userspace_addr: u64,
        guest_memfd_offset: u64,
        guest_memfd: u32,
        pad1: u32,
        pad2: [u64; 14],
    }
}

pub const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1 << 0;
pub const KVM_MEM_READONLY: u32 = 1 << 1;
pub const KVM_MEM_GUEST_MEMFD: u32 = 1 << 2;

abi_struct! {
    /// `KVM_GET_DIRTY_LOG` (4.8).
    kvm_dirty_log: 16 {
        slot: u32,
        padding1: u32,
        /// User pointer to one bit per page, in units of 64 bits.
        dirty_bitmap: u64,
    }
}

abi_struct! {
    /// `KVM_CLEAR_DIRTY_LOG` (4.116).
    kvm_clear_dirty_log: 24 {
        slot: u32,
        num_pages: u32,
        first_page: u64,
        /// User pointer to one bit per page, in units of 64 bits.
        dirty_bitmap: u64,
    }
}

/// Argument of `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`.
pub const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: u64 = 1 << 0;
pub const KVM_DIRTY_LOG_INITIALLY_SET: u64 = 1 << 1;

abi_struct! {
    /// An entry of the dirty ring (8.29).
    kvm_dirty_gfn: 16 {
        /// `KVM_DIRTY_GFN_F_*`.
        flags: u32,
        slot: u32,
        /// Page offset within the slot.
        offset: u64,
    }
}

pub const KVM_DIRTY_GFN_F_DIRTY: u32 = 1 << 0;
pub const KVM_DIRTY_GFN_F_RESET: u32 = 1 << 1;
pub const KVM_DIRTY_GFN_F_MASK: u32 = 3;

abi_struct! {
    /// `KVM_SET_MEMORY_ATTRIBUTES` (4.141).
    kvm_memory_attributes: 32 {
        address: u64,
        size: u64,
        attributes: u64,
        flags: u64,
    }
}

pub const KVM_MEMORY_ATTRIBUTE_PRIVATE: u64 = 1 << 3;

abi_struct! {
    /// `KVM_CREATE_GUEST_MEMFD` (4.142).
    kvm_create_guest_memfd: 64 {
        size: u64,
        /// `GUEST_MEMFD_FLAG_*`.
        flags: u64,
        reserved: [u64; 6],
    }
}

pub const GUEST_MEMFD_FLAG_MMAP: u64 = 1 << 0;
pub const GUEST_MEMFD_FLAG_INIT_SHARED: u64 = 1 << 1;

abi_struct! {
    /// `KVM_PRE_FAULT_MEMORY` (4.143).
    kvm_pre_fault_memory: 64 {
        gpa: u64,
        size: u64,
        flags: u64,
        padding: [u64; 5],
    }
}

abi_struct! {
    /// `KVM_MEMORY_ENCRYPT_REG_REGION` and its opposite.
    kvm_enc_region: 16 {
        addr: u64,
        size: u64,
    }
}

abi_struct! {
    /// `KVM_TRANSLATE` (4.15).
    kvm_translation: 24 {
        /// In.
        linear_address: u64,
        /// Out.
        physical_address: u64,
        valid: u8,
        writeable: u8,
        usermode: u8,
        pad: [u8; 5],
    }
}
