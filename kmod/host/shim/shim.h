/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust cannot call itself: inline functions, macros and static data of
 * the kernel, each behind one small function without policy. `bindgen` reads
 * this file when the module is built; types come from `kernel::bindings`, and
 * a type that is missing there is passed as `void *`.
 */
#ifndef IRONVM_SHIM_H
#define IRONVM_SHIM_H

#include <linux/types.h>

#include "mm.h"

/* cpu.c */
unsigned int iv_tsc_khz(void);

#endif
