/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IRONVM_SHIM_DEBUG_H
#define IRONVM_SHIM_DEBUG_H

void iv_machine_check(void);

#endif
