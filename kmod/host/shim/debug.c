// SPDX-License-Identifier: GPL-2.0
#include <asm/mce.h>
#include <asm/ptrace.h>

#include "debug.h"

/* The processor has reported a machine check as an exit: handle it here. */
void iv_machine_check(void)
{
	struct pt_regs regs = {
		.cs = 3, /* An event of the guest: as if of user mode. */
		.flags = X86_EFLAGS_IF,
	};

	do_machine_check(&regs);
}
