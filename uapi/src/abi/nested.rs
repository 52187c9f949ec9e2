// SPDX-License-Identifier: GPL-2.0-or-later

//! State of nested virtualization (`KVM_GET_NESTED_STATE`, API document 4.114).

abi_struct! {
    /// Header of the state, at the size the ioctl numbers carry.
    kvm_nested_state: 128 {
        /// `KVM_STATE_NESTED_*`.
        flags: u16,
        /// `KVM_STATE_NESTED_FORMAT_*`.
        format: u16,
        /// Bytes, the data included.
        size: u32,
        hdr: kvm_nested_state_hdr,
        data: [u8; 0],
    }
}

abi_overlay! {
    /// The vendor's part of the header.
    kvm_nested_state_hdr: [u64; 15] {
        /// `KVM_STATE_NESTED_FORMAT_VMX`.
        vmx, set_vmx: kvm_vmx_nested_state_hdr,
        /// `KVM_STATE_NESTED_FORMAT_SVM`.
        svm, set_svm: kvm_svm_nested_state_hdr,
    }
}

abi_struct! {
    /// VMX.
    kvm_vmx_nested_state_hdr: 32 {
        vmxon_pa: u64,
        vmcs12_pa: u64,
        smm: kvm_vmx_nested_state_smm,
        pad: u16,
        flags: u32,
        preemption_timer_deadline: u64,
    }
}

abi_struct! {
    /// VMX within SMM.
    kvm_vmx_nested_state_smm: 2 {
        flags: u16,
    }
}

abi_struct! {
    /// SVM.
    kvm_svm_nested_state_hdr: 16 {
        vmcb_pa: u64,
        gpat: u64,
    }
}

abi_struct! {
    /// Data of VMX.
    kvm_vmx_nested_state_data: 8192 {
        vmcs12: [u8; KVM_STATE_NESTED_VMX_VMCS_SIZE],
        shadow_vmcs12: [u8; KVM_STATE_NESTED_VMX_VMCS_SIZE],
    }
}

abi_struct! {
    /// Data of SVM.
    kvm_svm_nested_state_data: 4096 {
        vmcb12: [u8; KVM_STATE_NESTED_SVM_VMCB_SIZE],
    }
}

pub const KVM_STATE_NESTED_FORMAT_VMX: u16 = 0;
pub const KVM_STATE_NESTED_FORMAT_SVM: u16 = 1;

pub const KVM_STATE_NESTED_GUEST_MODE: u16 = 0x0001;
pub const KVM_STATE_NESTED_RUN_PENDING: u16 = 0x0002;
pub const KVM_STATE_NESTED_EVMCS: u16 = 0x0004;
pub const KVM_STATE_NESTED_MTF_PENDING: u16 = 0x0008;
pub const KVM_STATE_NESTED_GIF_SET: u16 = 0x0100;

pub const KVM_STATE_NESTED_SMM_GUEST_MODE: u16 = 0x0001;
pub const KVM_STATE_NESTED_SMM_VMXON: u16 = 0x0002;

pub const KVM_STATE_NESTED_VMX_VMCS_SIZE: usize = 0x1000;
pub const KVM_STATE_NESTED_SVM_VMCB_SIZE: usize = 0x1000;
pub const KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE: u32 = 1;
