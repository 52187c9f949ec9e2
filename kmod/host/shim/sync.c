// SPDX-License-Identifier: GPL-2.0
/* Locks. */
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>

#include "shim.h"

void iv_raw_spin_lock_init(raw_spinlock_t *lock, const char *name,
			   struct lock_class_key *key)
{
#ifdef CONFIG_DEBUG_SPINLOCK
	__raw_spin_lock_init(lock, name, key, LD_WAIT_SPIN);
#else
	*lock = __RAW_SPIN_LOCK_UNLOCKED(lock);
#endif
}

void iv_raw_spin_lock(raw_spinlock_t *lock)
{
	raw_spin_lock(lock);
}

void iv_raw_spin_unlock(raw_spinlock_t *lock)
{
	raw_spin_unlock(lock);
}

/* A macro where locks are debugged. */
int iv_mutex_lock_killable(struct mutex *lock)
{
	return mutex_lock_killable(lock);
}

int iv_srcu_init(struct srcu_struct *ssp)
{
	return init_srcu_struct(ssp);
}
