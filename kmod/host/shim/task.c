// SPDX-License-Identifier: GPL-2.0
/* The current thread: interrupts, preemption, work before a guest is entered. */
#include <linux/build_bug.h>
#include <linux/context_tracking.h>
#include <linux/entry-virt.h>
#include <linux/irqflags.h>
#include <linux/kvm_host.h>
#include <linux/preempt.h>
#include <linux/rcuwait.h>
#include <linux/sched.h>

#include "shim.h"

/* task.rs has the flags by hand, to read them without a call. */
static_assert(XFER_TO_GUEST_MODE_WORK ==
	      (BIT(TIF_NEED_RESCHED) | BIT(TIF_NEED_RESCHED_LAZY) |
	       BIT(TIF_SIGPENDING) | BIT(TIF_NOTIFY_SIGNAL) |
	       BIT(TIF_NOTIFY_RESUME)));

bool iv_irq_save(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return !irqs_disabled_flags(flags);
}

void iv_irq_enable(void)
{
	local_irq_enable();
}

void iv_preempt_disable(void)
{
	preempt_disable();
}

void iv_preempt_enable(void)
{
	preempt_enable();
}

int iv_handle_guest_work(void)
{
	return xfer_to_guest_mode_handle_work();
}

void iv_guest_prepare(void)
{
	xfer_to_guest_mode_prepare();
}

void iv_guest_timing_enter(void)
{
	guest_timing_enter_irqoff();
}

void iv_guest_timing_exit(void)
{
	guest_timing_exit_irqoff();
}

void iv_guest_state_enter(void)
{
	guest_state_enter_irqoff();
}

void iv_guest_state_exit(void)
{
	guest_state_exit_irqoff();
}

bool iv_guest_state_tracked(void)
{
	return IS_ENABLED(CONFIG_PROVE_LOCKING) ||
	       IS_ENABLED(CONFIG_TRACE_IRQFLAGS) || context_tracking_enabled();
}

void iv_rcuwait_prepare(struct rcuwait *w)
{
	prepare_to_rcuwait(w);
}

void iv_set_interruptible(void)
{
	set_current_state(TASK_INTERRUPTIBLE);
}
