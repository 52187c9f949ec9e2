/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust cannot call itself: inline functions, macros and static data of
 * the kernel, each behind one small function without policy. `bindgen` reads
 * this file when the module is built; types come from `kernel::bindings`, and
 * a type that is missing there is passed as `void *`.
 */
#ifndef IRONVM_SHIM_H
#define IRONVM_SHIM_H

#include <linux/fs.h>
#include <linux/types.h>

#include "mm.h"

/* cpu.c */
unsigned int iv_tsc_khz(void);

/* file.c */
struct file *iv_anon_inode_getfile(const char *name,
				   const struct file_operations *fops,
				   void *priv, int flags);
struct page *iv_get_page(const void *address);
unsigned long iv_clear_user(void __user *to, unsigned long n);

#endif
