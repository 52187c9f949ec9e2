// SPDX-License-Identifier: GPL-2.0
/* Memory of the host and of the processes that run guests. */
#include "mm.h"
