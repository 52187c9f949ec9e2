// SPDX-License-Identifier: GPL-2.0
/* This CPU and the others. */
#include <asm/tsc.h>

#include "shim.h"

unsigned int iv_tsc_khz(void)
{
	return tsc_khz;
}
