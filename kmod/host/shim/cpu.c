// SPDX-License-Identifier: GPL-2.0
/* This CPU and the others; hardware virtualization on all of them. */
#include <asm/apic.h>
#include <asm/cpu.h>
#include <asm/irq_vectors.h>
#include <asm/nospec-branch.h>
#include <linux/kernel.h>
#include <linux/smp.h>
#include <linux/syscore_ops.h>
#include <trace/events/ipi.h>
#include <asm/entry-common.h>
#include <asm/msr.h>
#include <asm/mmu_context.h>
#include <asm/tlbflush.h>
#include <asm/tsc.h>
#include <asm/virt.h>
#include <asm/vmx.h>

#include "shim.h"

bool iv_tsc_stable(void)
{
	return !check_tsc_unstable();
}

int iv_rdmsr_safe(u32 msr, u64 *value)
{
	return rdmsrq_safe(msr, value);
}

int iv_wrmsr_safe(u32 msr, u64 value)
{
	return wrmsrq_safe(msr, value);
}

void iv_send_reschedule(int cpu)
{
	smp_send_reschedule(cpu);
}

/*
 * The kernel's handler of this vector does nothing. In a guest whose VMCS
 * names the vector, the processor takes what has been posted instead.
 */
void iv_notify_cpu(int cpu)
{
	__apic_send_IPI_mask(cpumask_of(cpu), POSTED_INTR_VECTOR);
}

unsigned int iv_notification_vector(void)
{
	return POSTED_INTR_VECTOR;
}

int iv_virt_get_ref(int feature)
{
	return x86_virt_get_ref(feature);
}

void iv_virt_put_ref(int feature)
{
	x86_virt_put_ref(feature);
}

bool iv_virt_rebooting(void)
{
	return virt_rebooting;
}

void iv_virt_register_emergency(void (*callback)(void))
{
	x86_virt_register_emergency_callback(callback);
}

void iv_virt_unregister_emergency(void (*callback)(void))
{
	x86_virt_unregister_emergency_callback(callback);
}

bool iv_system_going_down(void)
{
	return system_state == SYSTEM_HALT || system_state == SYSTEM_POWER_OFF ||
	       system_state == SYSTEM_RESTART;
}

static struct syscore_ops iv_syscore_ops;

static struct syscore iv_syscore = {
	.ops = &iv_syscore_ops,
};

void iv_syscore_register(int (*suspend)(void *), void (*resume)(void *),
			 void (*shutdown)(void *))
{
	iv_syscore_ops.suspend = suspend;
	iv_syscore_ops.resume = resume;
	iv_syscore_ops.shutdown = shutdown;
	register_syscore(&iv_syscore);
}

void iv_syscore_unregister(void)
{
	unregister_syscore(&iv_syscore);
}

unsigned int iv_num_online_cpus(void)
{
	return num_online_cpus();
}

/* The next guest on this CPU is not the last one. */
void iv_another_guest(void)
{
	if (static_branch_unlikely(&switch_vcpu_ibpb))
		indirect_branch_prediction_barrier();
}

/* An external interrupt or NMI that an exit of VMX has acknowledged. */
void iv_take_interrupt(unsigned int vector)
{
	x86_entry_from_kvm(EVENT_TYPE_EXTINT, vector);
}

void iv_take_nmi(void)
{
	x86_entry_from_kvm(EVENT_TYPE_NMI, NMI_VECTOR);
}

/* 0: never flush the first-level cache, 1: now and then, 2: always. */
int iv_l1tf_policy(void)
{
	u64 capabilities = 0;

	if (boot_cpu_has(X86_FEATURE_ARCH_CAPABILITIES))
		rdmsrq_safe(MSR_IA32_ARCH_CAPABILITIES, &capabilities);
	if (!boot_cpu_has_bug(X86_BUG_L1TF) ||
	    (capabilities & ARCH_CAP_SKIP_VMENTRY_L1DFLUSH)) {
		l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_NOT_REQUIRED;
		return 0;
	}
	switch (l1tf_mitigation) {
	case L1TF_MITIGATION_OFF:
		l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_NEVER;
		return 0;
	case L1TF_MITIGATION_FULL:
	case L1TF_MITIGATION_FULL_FORCE:
		l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_ALWAYS;
		return 2;
	default:
		l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_COND;
		return 1;
	}
}

/* No guests any more, and nobody who flushes for them. */
void iv_l1tf_policy_ends(void)
{
	l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_AUTO;
}

/* Whether the guest may go on; else the thread has a signal. May sleep. */
bool iv_guest_split_lock(u64 rip)
{
	return handle_guest_split_lock(rip);
}
