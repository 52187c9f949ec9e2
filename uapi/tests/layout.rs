// SPDX-License-Identifier: GPL-2.0-or-later

//! The structures have the layout of kvm-bindings', which bindgen made of the
//! kernel's headers.

use core::mem::{align_of, offset_of, size_of};

/// `ours = theirs { field = theirs' name }`; a field with nothing behind its
/// `=` is padding, or part of a union, that kvm-bindings has no name for.
macro_rules! same_layout {
    ($($ours:ident $(= $theirs:ident)? { $($field:ident $(= $($their_field:ident)?)?),* })*) => {$({
        // Every field is listed.
        let ironvm_uapi::$ours { $($field: _),* } = ironvm_uapi::Pod::zeroed();
        type Ours = ironvm_uapi::$ours;
        type Theirs = same_layout!(@type $ours $($theirs)?);
        assert_eq!(size_of::<Ours>(), size_of::<Theirs>(), "size of {}", stringify!($ours));
        assert_eq!(align_of::<Ours>(), align_of::<Theirs>(), "alignment of {}", stringify!($ours));
        $(same_layout!(@field $ours $field $(= $($their_field)?)?);)*
    })*};
    (@type $ours:ident) => { kvm_bindings::$ours };
    (@type $ours:ident $theirs:ident) => { kvm_bindings::$theirs };
    (@field $ours:ident $field:ident) => { same_layout!(@field $ours $field = $field) };
    (@field $ours:ident $field:ident =) => {};
    (@field $ours:ident $field:ident = $their_field:ident) => {
        assert_eq!(
            offset_of!(Ours, $field),
            offset_of!(Theirs, $their_field),
            concat!(stringify!($ours), "::", stringify!($field))
        )
    };
}

#[test]
fn structures_are_laid_out_as_in_the_headers() {
    same_layout! {
        kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
        kvm_segment { base, limit, selector, type_, present, dpl, db, s, l, g, avl, unusable, padding }
        kvm_dtable { base, limit, padding }
        kvm_sregs { cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, apic_base, interrupt_bitmap }
        kvm_sregs2 { cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, apic_base, flags, pdptrs }
        kvm_fpu { fpr, fcw, fsw, ftwx, pad1, last_opcode, last_ip, last_dp, xmm, mxcsr, pad2 }
        kvm_xsave { region, extra }
        kvm_xcr { xcr, reserved, value }
        kvm_xcrs { nr_xcrs, flags, xcrs, padding }
        kvm_debugregs { db, dr6, dr7, flags, reserved }
        kvm_vcpu_events_exception = kvm_vcpu_events__bindgen_ty_1 { injected, nr, has_error_code, pending, error_code }
        kvm_vcpu_events_interrupt = kvm_vcpu_events__bindgen_ty_2 { injected, nr, soft, shadow }
        kvm_vcpu_events_nmi = kvm_vcpu_events__bindgen_ty_3 { injected, pending, masked, pad }
        kvm_vcpu_events_smi = kvm_vcpu_events__bindgen_ty_4 { smm, pending, smm_inside_nmi, latched_init }
        kvm_vcpu_events_triple_fault = kvm_vcpu_events__bindgen_ty_5 { pending }
        kvm_vcpu_events { exception, interrupt, nmi, sipi_vector, flags, smi, triple_fault, reserved, exception_has_payload, exception_payload }
        kvm_mp_state { mp_state }
        kvm_msr_entry { index, reserved, data }
        kvm_msrs { nmsrs, pad, entries }
        kvm_msr_list { nmsrs, indices }
        kvm_msr_filter_range { flags, nmsrs, base, pad =, bitmap }
        kvm_msr_filter { flags, pad =, ranges }
        kvm_cpuid_entry { function, eax, ebx, ecx, edx, padding }
        kvm_cpuid { nent, padding, entries }
        kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding }
        kvm_cpuid2 { nent, padding, entries }
        kvm_guest_debug_arch { debugreg }
        kvm_guest_debug { control, pad, arch }
        kvm_signal_mask { len, sigset }
        kvm_x86_mce { status, addr, misc, mcg_status, bank, pad1, pad2 }
        kvm_pmu_event_filter { action, nevents, fixed_counter_bitmap, flags, pad, events }
        kvm_one_reg { id, addr }
        kvm_reg_list { n, reg }
        kvm_irq_level { irq = __bindgen_anon_1, level }
        kvm_pic_state { last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask, init_state, auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask }
        kvm_ioapic_state { base_address, ioregsel, id, irr, pad, redirtbl }
        kvm_irqchip { chip_id, pad, chip }
        kvm_lapic_state { regs }
        kvm_irq_routing_irqchip { irqchip, pin }
        kvm_irq_routing_msi { address_lo, address_hi, data, devid = __bindgen_anon_1 }
        kvm_irq_routing_hv_sint { vcpu, sint }
        kvm_irq_routing_xen_evtchn { port, vcpu, priority }
        kvm_irq_routing_entry { gsi, type_, flags, pad, u }
        kvm_irq_routing { nr, flags, entries }
        kvm_msi { address_lo, address_hi, data, flags, devid, pad }
        kvm_irqfd { fd, gsi, flags, resamplefd, pad }
        kvm_pit_config { flags, pad }
        kvm_pit_channel_state { count, latched_count, count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode, mode, bcd, gate, count_load_time }
        kvm_pit_state { channels }
        kvm_pit_state2 { channels, flags, reserved }
        kvm_reinject_control { pit_reinject, reserved }
        kvm_interrupt { irq }
        kvm_tpr_access_ctl { enabled, flags, reserved }
        kvm_vapic_addr { vapic_addr }
        kvm_userspace_memory_region { slot, flags, guest_phys_addr, memory_size, userspace_addr }
        kvm_userspace_memory_region2 { slot, flags, guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset, guest_memfd, pad1, pad2 }
        kvm_dirty_log { slot, padding1, dirty_bitmap = __bindgen_anon_1 }
        kvm_clear_dirty_log { slot, num_pages, first_page, dirty_bitmap = __bindgen_anon_1 }
        kvm_dirty_gfn { flags, slot, offset }
        kvm_memory_attributes { address, size, attributes, flags }
        kvm_create_guest_memfd { size, flags, reserved }
        kvm_pre_fault_memory { gpa, size, flags, padding }
        kvm_enc_region { addr, size }
        kvm_translation { linear_address, physical_address, valid, writeable, usermode, pad }
        kvm_nested_state { flags, format, size, hdr, data }
        kvm_vmx_nested_state_hdr { vmxon_pa, vmcs12_pa, smm, pad, flags, preemption_timer_deadline }
        kvm_vmx_nested_state_smm = kvm_vmx_nested_state_hdr__bindgen_ty_1 { flags }
        kvm_vmx_nested_state_data { vmcs12, shadow_vmcs12 }
        kvm_svm_nested_state_data { vmcb12 }
        kvm_run { request_interrupt_window, immediate_exit, padding1, exit_reason, ready_for_interrupt_injection, if_flag, flags, cr8, apic_base, exit = __bindgen_anon_1, kvm_valid_regs, kvm_dirty_regs, s }
        kvm_run_hw = kvm_run__bindgen_ty_1__bindgen_ty_1 { hardware_exit_reason }
        kvm_run_fail_entry = kvm_run__bindgen_ty_1__bindgen_ty_2 { hardware_entry_failure_reason, cpu, pad = }
        kvm_run_ex = kvm_run__bindgen_ty_1__bindgen_ty_3 { exception, error_code }
        kvm_run_io = kvm_run__bindgen_ty_1__bindgen_ty_4 { direction, size, port, count, data_offset }
        kvm_debug_exit_arch { exception, pad, pc, dr6, dr7 }
        kvm_run_mmio = kvm_run__bindgen_ty_1__bindgen_ty_6 { phys_addr, data, len, is_write, pad = }
        kvm_run_hypercall = kvm_run__bindgen_ty_1__bindgen_ty_8 { nr, args, ret, flags = __bindgen_anon_1 }
        kvm_run_tpr_access = kvm_run__bindgen_ty_1__bindgen_ty_9 { rip, is_write, pad }
        kvm_run_internal = kvm_run__bindgen_ty_1__bindgen_ty_13 { suberror, ndata, data }
        kvm_run_emulation_failure = kvm_run__bindgen_ty_1__bindgen_ty_14 { suberror, ndata, flags, insn_size = __bindgen_anon_1, insn_bytes = }
        kvm_run_system_event = kvm_run__bindgen_ty_1__bindgen_ty_19 { type_, ndata, data = __bindgen_anon_1 }
        kvm_run_eoi = kvm_run__bindgen_ty_1__bindgen_ty_21 { vector }
        kvm_hyperv_exit { type_, pad1, u }
        kvm_hyperv_exit_synic = kvm_hyperv_exit__bindgen_ty_1__bindgen_ty_1 { msr, pad2, control, evt_page, msg_page }
        kvm_hyperv_exit_hcall = kvm_hyperv_exit__bindgen_ty_1__bindgen_ty_2 { input, result, params }
        kvm_hyperv_exit_syndbg = kvm_hyperv_exit__bindgen_ty_1__bindgen_ty_3 { msr, pad2, control, status, send_page, recv_page, pending_page }
        kvm_run_msr = kvm_run__bindgen_ty_1__bindgen_ty_23 { error, pad, reason, index, data }
        kvm_run_notify = kvm_run__bindgen_ty_1__bindgen_ty_26 { flags }
        kvm_run_memory_fault = kvm_run__bindgen_ty_1__bindgen_ty_27 { flags, gpa, size }
        kvm_sync_regs { regs, sregs, events }
        kvm_coalesced_mmio_zone { addr, size, pio = __bindgen_anon_1 }
        kvm_coalesced_mmio { phys_addr, len, pio = __bindgen_anon_1, data }
        kvm_coalesced_mmio_ring { first, last, coalesced_mmio }
        kvm_ioeventfd { datamatch, addr, len, fd, flags, pad }
        kvm_enable_cap { cap, flags, args, pad }
        kvm_clock_data { clock, flags, pad0, realtime, host_tsc, pad }
        kvm_create_device { type_, fd, flags }
        kvm_device_attr { flags, group, attr, addr }
        kvm_stats_header { flags, name_size, num_desc, id_offset, desc_offset, data_offset }
        kvm_stats_desc { flags, exponent, size, offset, bucket_size, name }
        kvm_hyperv_eventfd { conn_id, fd, flags, padding }
        kvm_xen_hvm_config { flags, msr, blob_addr_32, blob_addr_64, blob_size_32, blob_size_64, pad2 }
    }
}
