// SPDX-License-Identifier: GPL-2.0
/* Files, and pages that a process maps. */
#include <linux/anon_inodes.h>
#include <linux/mm.h>

#include "shim.h"

struct file *iv_anon_inode_getfile(const char *name,
				   const struct file_operations *fops,
				   void *priv, int flags)
{
	return anon_inode_getfile(name, fops, priv, flags);
}

struct page *iv_get_page(const void *address)
{
	struct page *page = virt_to_page(address);

	get_page(page);
	return page;
}
