// SPDX-License-Identifier: GPL-2.0-or-later

//! Interrupts: the controllers in the module, routing, MSIs, irqfds, the PIT.

abi_struct! {
    /// `KVM_IRQ_LINE` and `KVM_IRQ_LINE_STATUS` (API document 4.25).
    kvm_irq_level: 8 {
        /// The GSI; on return from `KVM_IRQ_LINE_STATUS` what became of it:
        /// negative when ignored, 0 when coalesced, else the number of
        /// processors that got it.
        irq: u32,
        level: u32,
    }
}

abi_struct! {
    /// An 8259 (`KVM_GET_IRQCHIP`, 4.26).
    kvm_pic_state: 16 {
        /// Levels seen last, for edge detection.
        last_irr: u8,
        irr: u8,
        imr: u8,
        isr: u8,
        /// The highest priority's IRQ.
        priority_add: u8,
        irq_base: u8,
        read_reg_select: u8,
        poll: u8,
        special_mask: u8,
        init_state: u8,
        auto_eoi: u8,
        rotate_on_auto_eoi: u8,
        special_fully_nested_mode: u8,
        /// True while a four-byte initialisation runs.
        init4: u8,
        /// Edge or level, as on PIIX.
        elcr: u8,
        elcr_mask: u8,
    }
}

pub const KVM_IOAPIC_NUM_PINS: usize = 24;

abi_struct! {
    /// The IOAPIC (`KVM_GET_IRQCHIP`, 4.26).
    kvm_ioapic_state: 216 {
        base_address: u64,
        ioregsel: u32,
        id: u32,
        irr: u32,
        pad: u32,
        /// Redirection entries as in the chip's registers.
        redirtbl: [u64; KVM_IOAPIC_NUM_PINS],
    }
}

abi_overlay! {
    /// The chip of a [`kvm_irqchip`].
    kvm_irqchip_chip: [u64; 64] {
        /// For `KVM_IRQCHIP_PIC_MASTER` and `KVM_IRQCHIP_PIC_SLAVE`.
        pic, set_pic: kvm_pic_state,
        /// For `KVM_IRQCHIP_IOAPIC`.
        ioapic, set_ioapic: kvm_ioapic_state,
    }
}

abi_struct! {
    /// `KVM_GET_IRQCHIP` and `KVM_SET_IRQCHIP` (4.26).
    kvm_irqchip: 520 {
        /// `KVM_IRQCHIP_*`.
        chip_id: u32,
        pad: u32,
        chip: kvm_irqchip_chip,
    }
}

pub const KVM_IRQCHIP_PIC_MASTER: u32 = 0;
pub const KVM_IRQCHIP_PIC_SLAVE: u32 = 1;
pub const KVM_IRQCHIP_IOAPIC: u32 = 2;
pub const KVM_NR_IRQCHIPS: u32 = 3;

pub const KVM_APIC_REG_SIZE: usize = 0x400;

abi_struct! {
    /// A local APIC's register page (`KVM_GET_LAPIC`, 4.57).
    kvm_lapic_state: 1024 {
        regs: [u8; KVM_APIC_REG_SIZE],
    }
}

abi_struct! {
    /// One pin of one chip.
    kvm_irq_routing_irqchip: 8 {
        irqchip: u32,
        pin: u32,
    }
}

abi_struct! {
    /// A message.
    kvm_irq_routing_msi: 16 {
        address_lo: u32,
        address_hi: u32,
        data: u32,
        /// Valid with `KVM_MSI_VALID_DEVID`.
        devid: u32,
    }
}

abi_struct! {
    /// A Hyper-V synthetic interrupt source.
    kvm_irq_routing_hv_sint: 8 {
        vcpu: u32,
        sint: u32,
    }
}

abi_struct! {
    /// A Xen event channel.
    kvm_irq_routing_xen_evtchn: 12 {
        port: u32,
        vcpu: u32,
        priority: u32,
    }
}

abi_overlay! {
    /// The target of a [`kvm_irq_routing_entry`]. (Words of 64 bits in C, for
    /// the sake of s390; nothing behind it depends on the alignment.)
    kvm_irq_routing_target: [u64; 4] {
        /// `KVM_IRQ_ROUTING_IRQCHIP`.
        irqchip, set_irqchip: kvm_irq_routing_irqchip,
        /// `KVM_IRQ_ROUTING_MSI`.
        msi, set_msi: kvm_irq_routing_msi,
        /// `KVM_IRQ_ROUTING_HV_SINT`.
        hv_sint, set_hv_sint: kvm_irq_routing_hv_sint,
        /// `KVM_IRQ_ROUTING_XEN_EVTCHN`.
        xen_evtchn, set_xen_evtchn: kvm_irq_routing_xen_evtchn,
    }
}

abi_struct! {
    /// Where a GSI leads.
    kvm_irq_routing_entry: 48 {
        gsi: u32,
        /// `KVM_IRQ_ROUTING_*`; `type` in C.
        type_: u32,
        flags: u32,
        pad: u32,
        u: kvm_irq_routing_target,
    }
}

abi_struct! {
    /// Header of the routing table (`KVM_SET_GSI_ROUTING`, 4.52).
    kvm_irq_routing: 8 {
        nr: u32,
        flags: u32,
        entries: [kvm_irq_routing_entry; 0],
    }
}

pub const KVM_IRQ_ROUTING_IRQCHIP: u32 = 1;
pub const KVM_IRQ_ROUTING_MSI: u32 = 2;
pub const KVM_IRQ_ROUTING_S390_ADAPTER: u32 = 3;
pub const KVM_IRQ_ROUTING_HV_SINT: u32 = 4;
pub const KVM_IRQ_ROUTING_XEN_EVTCHN: u32 = 5;

abi_struct! {
    /// `KVM_SIGNAL_MSI` (4.70).
    kvm_msi: 32 {
        address_lo: u32,
        address_hi: u32,
        data: u32,
        flags: u32,
        devid: u32,
        pad: [u8; 12],
    }
}

pub const KVM_MSI_VALID_DEVID: u32 = 1 << 0;

abi_struct! {
    /// `KVM_IRQFD` (4.75).
    kvm_irqfd: 32 {
        fd: u32,
        gsi: u32,
        /// `KVM_IRQFD_FLAG_*`.
        flags: u32,
        resamplefd: u32,
        pad: [u8; 16],
    }
}

pub const KVM_IRQFD_FLAG_DEASSIGN: u32 = 1 << 0;
pub const KVM_IRQFD_FLAG_RESAMPLE: u32 = 1 << 1;

abi_struct! {
    /// `KVM_CREATE_PIT2` (4.71).
    kvm_pit_config: 64 {
        flags: u32,
        pad: [u32; 15],
    }
}

/// The speaker port is answered by the module.
pub const KVM_PIT_SPEAKER_DUMMY: u32 = 1;

abi_struct! {
    /// A counter of the 8254.
    kvm_pit_channel_state: 24 {
        /// 1 to 65536.
        count: u32,
        latched_count: u16,
        count_latched: u8,
        status_latched: u8,
        status: u8,
        read_state: u8,
        write_state: u8,
        write_latch: u8,
        rw_mode: u8,
        mode: u8,
        bcd: u8,
        gate: u8,
        /// Nanoseconds.
        count_load_time: i64,
    }
}

abi_struct! {
    /// `KVM_GET_PIT`.
    kvm_pit_state: 72 {
        channels: [kvm_pit_channel_state; 3],
    }
}

abi_struct! {
    /// `KVM_GET_PIT2` and `KVM_SET_PIT2` (4.72, 4.73).
    kvm_pit_state2: 112 {
        channels: [kvm_pit_channel_state; 3],
        /// `KVM_PIT_FLAGS_*`.
        flags: u32,
        reserved: [u32; 9],
    }
}

pub const KVM_PIT_FLAGS_HPET_LEGACY: u32 = 1;
pub const KVM_PIT_FLAGS_SPEAKER_DATA_ON: u32 = 2;

abi_struct! {
    /// `KVM_REINJECT_CONTROL` (4.100).
    kvm_reinject_control: 32 {
        pit_reinject: u8,
        reserved: [u8; 31],
    }
}

abi_struct! {
    /// `KVM_INTERRUPT` (4.16).
    kvm_interrupt: 4 {
        irq: u32,
    }
}

abi_struct! {
    /// `KVM_TPR_ACCESS_REPORTING`.
    kvm_tpr_access_ctl: 40 {
        enabled: u32,
        flags: u32,
        reserved: [u32; 8],
    }
}

abi_struct! {
    /// `KVM_SET_VAPIC_ADDR`.
    kvm_vapic_addr: 8 {
        vapic_addr: u64,
    }
}

/// `KVM_CAP_X2APIC_API` (7.7).
pub const KVM_X2APIC_API_USE_32BIT_IDS: u64 = 1 << 0;
pub const KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: u64 = 1 << 1;
pub const KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST: u64 = 1 << 2;
pub const KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST: u64 = 1 << 3;
