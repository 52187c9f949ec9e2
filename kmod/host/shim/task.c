// SPDX-License-Identifier: GPL-2.0
/* The current thread: interrupts, preemption, work before a guest is entered. */
#include <linux/build_bug.h>
#include <asm/debugreg.h>
#include <asm/nospec-branch.h>
#include <linux/context_tracking.h>
#include <linux/entry-virt.h>
#include <linux/hw_breakpoint.h>
#include <linux/irqflags.h>
#include <linux/kvm_host.h>
#include <linux/pid.h>
#include <linux/preempt.h>
#include <linux/rcuwait.h>
#include <linux/sched.h>
#include <linux/sched/task.h>

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

/* The count has come to zero with a reschedule pending. */
void iv_preempt_schedule(void)
{
#ifdef CONFIG_PREEMPTION
	__preempt_schedule();
#endif
}

struct pid *iv_get_current_pid(void)
{
	return get_task_pid(current, PIDTYPE_PID);
}

/* Positive: the thread runs, or will before this one does again. */
int iv_yield_to(struct pid *pid)
{
	struct task_struct *task = get_pid_task(pid, PIDTYPE_PID);
	int result;

	if (!task)
		return -ESRCH;
	result = yield_to(task, true);
	put_task_struct(task);
	return result;
}

int iv_handle_guest_work(void)
{
	return xfer_to_guest_mode_handle_work();
}

/*
 * Before the last look for work of this thread. Whether the kernel wants to be
 * told of each entry, too.
 */
bool iv_guest_begin(void)
{
	xfer_to_guest_mode_prepare();
	guest_timing_enter_irqoff();
	return IS_ENABLED(CONFIG_PROVE_LOCKING) ||
	       IS_ENABLED(CONFIG_TRACE_IRQFLAGS) || context_tracking_enabled();
}

/*
 * A guest has run: the exit has turned breakpoints off, and this CPU's branch
 * predictors hold what the guest has trained.
 */
void iv_guest_end(void)
{
	if (hw_breakpoint_active())
		hw_breakpoint_restore();
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
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

void iv_rcuwait_prepare(struct rcuwait *w)
{
	prepare_to_rcuwait(w);
}

void iv_set_interruptible(void)
{
	set_current_state(TASK_INTERRUPTIBLE);
}
