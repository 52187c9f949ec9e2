// SPDX-License-Identifier: GPL-2.0
/* Event file descriptors. */
#include <linux/eventfd.h>
#include <linux/poll.h>

#include "shim.h"

__poll_t iv_poll(struct file *file, struct poll_table_struct *table)
{
	return vfs_poll(file, table);
}

bool iv_eventfd_signal_allowed(void)
{
	return eventfd_signal_allowed();
}
