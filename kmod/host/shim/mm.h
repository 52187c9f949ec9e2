/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IRONVM_SHIM_MM_H
#define IRONVM_SHIM_MM_H

#endif
