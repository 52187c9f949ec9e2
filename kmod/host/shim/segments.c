// SPDX-License-Identifier: GPL-2.0
/* The host's segment registers and descriptor tables. */
#include <asm/cpu_entry_area.h>
#include <asm/desc.h>
#include <asm/segment.h>

#include "shim.h"

void iv_host_tables(u64 *idt, u64 *tss)
{
	struct desc_ptr table;

	store_idt(&table);
	*idt = table.address;
	*tss = (u64)&get_cpu_entry_area(smp_processor_id())->tss.x86_tss;
}

void iv_reload_task_register(void)
{
	force_reload_TR();
}

void iv_restore_selectors(u16 ds, u16 es, u16 fs, u16 gs, u16 ldt)
{
	if (ldt)
		asm volatile("lldt %0" : : "m"(ldt));
	if (ds | es) {
		loadsegment(ds, ds);
		loadsegment(es, es);
	}
	if (fs)
		loadsegment(fs, fs);
	if (gs)
		load_gs_index(gs);
}
