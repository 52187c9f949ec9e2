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
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/rcuwait.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/types.h>

#include "debug.h"
#include "mm.h"

/* cpu.c */
unsigned int iv_num_online_cpus(void);
void iv_another_guest(void);
bool iv_tsc_stable(void);
int iv_rdmsr_safe(u32 msr, u64 *value);
int iv_wrmsr_safe(u32 msr, u64 value);
void iv_send_reschedule(int cpu);
void iv_notify_cpu(int cpu);
unsigned int iv_notification_vector(void);
int iv_virt_get_ref(int feature);
void iv_virt_put_ref(int feature);
bool iv_virt_rebooting(void);
void iv_virt_register_emergency(void (*callback)(void));
void iv_virt_unregister_emergency(void (*callback)(void));
bool iv_system_going_down(void);
void iv_syscore_register(int (*suspend)(void *), void (*resume)(void *),
			 void (*shutdown)(void *));
void iv_syscore_unregister(void);

void iv_take_interrupt(unsigned int vector);
void iv_take_nmi(void);
int iv_l1tf_policy(void);
void iv_l1tf_policy_ends(void);
bool iv_guest_split_lock(u64 rip);

/* eventfd.c */
__poll_t iv_poll(struct file *file, struct poll_table_struct *table);
bool iv_eventfd_signal_allowed(void);

/* file.c */
struct file *iv_anon_inode_getfile(const char *name,
				   const struct file_operations *fops,
				   void *priv, int flags);
struct page *iv_get_page(const void *address);

/* params.c */
bool iv_param_apicv(void);
bool iv_param_ignore_msrs(void);
bool iv_param_pml(void);
unsigned int iv_param_pause_filter_count(void);
unsigned int iv_param_pause_filter_thresh(void);
unsigned int iv_param_ple_gap(void);
unsigned int iv_param_ple_window(void);
bool iv_param_report_ignored_msrs(void);
bool iv_param_preemption_timer(void);
void iv_param_settle_pause_filter(unsigned int count, unsigned int thresh);
void iv_param_settle(bool has_pml, bool has_apicv, bool has_preemption_timer);

/* segments.c */
void iv_host_tables(u64 *idt, u64 *tss);
void iv_reload_task_register(void);
void iv_restore_selectors(u16 ds, u16 es, u16 fs, u16 gs, u16 ldt);

/* sync.c */
void iv_raw_spin_lock_init(raw_spinlock_t *lock, const char *name,
			   struct lock_class_key *key);
void iv_raw_spin_lock(raw_spinlock_t *lock);
void iv_raw_spin_unlock(raw_spinlock_t *lock);
int iv_mutex_lock_killable(struct mutex *lock);
int iv_srcu_init(struct srcu_struct *ssp);

/* task.c */
bool iv_irq_save(void);
void iv_irq_enable(void);
void iv_preempt_disable(void);
void iv_preempt_enable(void);
void iv_preempt_schedule(void);
struct pid *iv_get_current_pid(void);
int iv_yield_to(struct pid *pid);
int iv_handle_guest_work(void);
bool iv_guest_begin(void);
void iv_guest_end(void);
void iv_guest_timing_exit(void);
void iv_guest_state_enter(void);
void iv_guest_state_exit(void);
void iv_rcuwait_prepare(struct rcuwait *w);
void iv_set_interruptible(void);

#endif
