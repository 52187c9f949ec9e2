// SPDX-License-Identifier: GPL-2.0
/* Module parameters. */
#include <linux/moduleparam.h>
#include <linux/printk.h>

#include "shim.h"

static bool ignore_msrs;
module_param(ignore_msrs, bool, 0644);

static bool report_ignored_msrs = true;
module_param(report_ignored_msrs, bool, 0644);

/*
 * What is asked of the processor, all of it VMX. Once the module is loaded they
 * read as what came of it: N where the processor cannot do it.
 */
static bool pml = true;
module_param(pml, bool, 0444);

static bool enable_apicv = true;
module_param(enable_apicv, bool, 0444);

static bool preemption_timer = true;
module_param(preemption_timer, bool, 0444);

/*
 * PAUSEs no more than ple_gap TSC ticks apart are one loop, and one that has
 * gone on for ple_window ticks ends the guest's run. No gap, no such exits.
 */
static unsigned int ple_gap = 128;
module_param(ple_gap, uint, 0444);

static unsigned int ple_window = 4096;
module_param(ple_window, uint, 0444);

/*
 * The same on SVM: so many PAUSEs, each no more than so many ticks behind the
 * one before it. Both read 0 where the processor does not count them, and the
 * second where it does not look at the time.
 */
static unsigned int pause_filter_count = 3000;
module_param(pause_filter_count, uint, 0444);

static unsigned int pause_filter_thresh = 128;
module_param(pause_filter_thresh, uint, 0444);

/* What the module does, for programs that look. A value given is ignored. */
static int iv_set_fixed(const char *value, const struct kernel_param *kp)
{
	pr_info("kvm: parameter %s cannot be set\n", kp->name);
	return 0;
}

static const struct kernel_param_ops iv_fixed_ops = {
	.set = iv_set_fixed,
	.get = param_get_bool,
};

static bool no;
static bool yes = true;

/* A number, which KVM's selftests want to find. */
static const struct kernel_param_ops iv_fixed_number_ops = {
	.set = iv_set_fixed,
	.get = param_get_int,
};

static int none;

module_param_cb(force_emulation_prefix, &iv_fixed_number_ops, &none, 0444);
module_param_cb(enable_pmu, &iv_fixed_ops, &no, 0444);
module_param_cb(tdp_mmu, &iv_fixed_ops, &yes, 0444);
module_param_cb(eager_page_split, &iv_fixed_ops, &no, 0444);

bool iv_param_ignore_msrs(void)
{
	return READ_ONCE(ignore_msrs);
}

bool iv_param_report_ignored_msrs(void)
{
	return READ_ONCE(report_ignored_msrs);
}

bool iv_param_pml(void)
{
	return READ_ONCE(pml);
}

bool iv_param_apicv(void)
{
	return READ_ONCE(enable_apicv);
}

bool iv_param_preemption_timer(void)
{
	return READ_ONCE(preemption_timer);
}

void iv_param_settle(bool has_pml, bool has_apicv, bool has_preemption_timer)
{
	WRITE_ONCE(pml, has_pml);
	WRITE_ONCE(enable_apicv, has_apicv);
	WRITE_ONCE(preemption_timer, has_preemption_timer);
}

unsigned int iv_param_pause_filter_count(void)
{
	return READ_ONCE(pause_filter_count);
}

unsigned int iv_param_pause_filter_thresh(void)
{
	return READ_ONCE(pause_filter_thresh);
}

void iv_param_settle_pause_filter(unsigned int count, unsigned int thresh)
{
	WRITE_ONCE(pause_filter_count, count);
	WRITE_ONCE(pause_filter_thresh, thresh);
}

unsigned int iv_param_ple_gap(void)
{
	return READ_ONCE(ple_gap);
}

unsigned int iv_param_ple_window(void)
{
	return READ_ONCE(ple_window);
}
