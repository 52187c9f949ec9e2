/* SPDX-License-Identifier: GPL-2.0 */
/* Guest memory: nested table pages, pages of the process, copies, locks. */
#ifndef IRONVM_SHIM_MM_H
#define IRONVM_SHIM_MM_H

#include <linux/mm_types.h>
#include <linux/spinlock_types.h>
#include <linux/types.h>

/* Table pages: addresses in the kernel's map of all memory. */
void *iv_table_alloc(void);
void iv_table_free(void *table);
void *iv_table_next(const void *table);
void iv_table_set_next(void *table, void *next);
u64 iv_encryption_bit(void);

/* Reader-writer spinlock. */
void iv_rwlock_init(rwlock_t *lock);
void iv_read_lock(rwlock_t *lock);
bool iv_read_trylock(rwlock_t *lock);
void iv_read_unlock(rwlock_t *lock);
void iv_write_lock(rwlock_t *lock);
void iv_write_unlock(rwlock_t *lock);
bool iv_lock_wanted(rwlock_t *lock);
void iv_mm_cond_resched(void);

/* Pages of the calling process. */
bool iv_gup_fast(unsigned long hva, bool write, struct page **page);
bool iv_fault_in(unsigned long hva, bool write);
int iv_gup_slow(unsigned long hva, bool write, struct page **page);
u64 iv_page_phys(struct page *page);
void iv_page_put(struct page *page);
void iv_page_dirty(u64 phys);
/* What iv_host_page() says besides an address; kmod/host/mm/pin.rs has it, too. */
#define IV_NOTHING	0
#define IV_ASK		1
#define IV_WRITABLE	0x40
#define IV_DIRTY	0x80
u64 iv_host_page(unsigned long hva, bool write);
unsigned int iv_host_mapping_shift(unsigned long hva);
void iv_send_hwpoison(unsigned long hva);
struct mm_struct *iv_current_mm(void);

/* The calling process's memory, by address. */
unsigned long iv_user_end(void);
unsigned long iv_user_read(void *to, unsigned long hva, unsigned long n);
unsigned long iv_user_write(unsigned long hva, const void *from,
			    unsigned long n);
unsigned long iv_user_read_nofault(void *to, unsigned long hva,
				   unsigned long n);
unsigned long iv_user_write_nofault(unsigned long hva, const void *from,
				    unsigned long n);
bool iv_user_get_u32_nofault(unsigned long hva, u32 *value);
bool iv_user_get_u64_nofault(unsigned long hva, u64 *value);
bool iv_user_read_if_nofault(const u64 *words, unsigned long n,
			     unsigned long hva, u64 *bytes);
int iv_user_cmpxchg(unsigned long hva, unsigned int size, u64 *old, u64 new);
int iv_user_cmpxchg_nofault(unsigned long hva, unsigned int size, u64 *old,
			    u64 new);

#endif
