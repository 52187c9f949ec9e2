// SPDX-License-Identifier: GPL-2.0
/* Guest memory: nested table pages, pages of the process, copies, locks. */

#include <linux/gfp.h>
#include <linux/irqflags.h>
#include <linux/mem_encrypt.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pgtable.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/vmstat.h>

#include "shim.h"

/* Charged to the task's memory cgroup, and counted as SecPageTables. */
void *iv_table_alloc(void)
{
	void *table = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);

	if (table)
		mod_lruvec_page_state(virt_to_page(table),
				      NR_SECONDARY_PAGETABLE, 1);
	return table;
}

void iv_table_free(void *table)
{
	mod_lruvec_page_state(virt_to_page(table), NR_SECONDARY_PAGETABLE, -1);
	free_page((unsigned long)table);
}

/* A link for lists of tables whose contents must stay as they are. */
void *iv_table_next(const void *table)
{
	return (void *)page_private(virt_to_page(table));
}

void iv_table_set_next(void *table, void *next)
{
	set_page_private(virt_to_page(table), (unsigned long)next);
}

u64 iv_encryption_bit(void)
{
	return sme_me_mask;
}

void iv_rwlock_init(rwlock_t *lock)
{
	rwlock_init(lock);
}

void iv_read_lock(rwlock_t *lock)
{
	read_lock(lock);
}

bool iv_read_trylock(rwlock_t *lock)
{
	return read_trylock(lock);
}

void iv_read_unlock(rwlock_t *lock)
{
	read_unlock(lock);
}

void iv_write_lock(rwlock_t *lock)
{
	write_lock(lock);
}

void iv_write_unlock(rwlock_t *lock)
{
	write_unlock(lock);
}

/* Whether the holder should let go for a moment. */
bool iv_lock_wanted(rwlock_t *lock)
{
	return need_resched() || rwlock_is_contended(lock);
}

void iv_mm_cond_resched(void)
{
	cond_resched();
}

/* Without sleeping; only what the process has mapped already. */
bool iv_gup_fast(unsigned long hva, bool write, struct page **page)
{
	return get_user_page_fast_only(hva, write ? FOLL_WRITE : 0, page);
}

/*
 * What a touch by the process itself would do, as far as that is possible under
 * the lock of the one VMA, and without touching: memory of a device must not
 * be. Whether the page can be expected to be there now.
 */
bool iv_fault_in(unsigned long hva, bool write)
{
	unsigned int flags = FAULT_FLAG_DEFAULT | FAULT_FLAG_VMA_LOCK;
	unsigned long need = VM_READ;
	struct vm_area_struct *vma;
	vm_fault_t fault;

	if (write) {
		flags |= FAULT_FLAG_WRITE;
		need |= VM_WRITE;
	}
	vma = lock_vma_under_rcu(current->mm, hva);
	if (!vma)
		return false;
	if ((vma->vm_flags & (need | VM_IO | VM_PFNMAP)) != need) {
		vma_end_read(vma);
		return false;
	}
	fault = handle_mm_fault(vma, hva, flags, NULL);
	if (!(fault & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)))
		vma_end_read(vma);
	return !(fault & (VM_FAULT_ERROR | VM_FAULT_RETRY));
}

/* Faults the page in. 1, or -EFAULT, -EHWPOISON, -EINTR, -EAGAIN. */
int iv_gup_slow(unsigned long hva, bool write, struct page **page)
{
	unsigned int flags = FOLL_HWPOISON | FOLL_INTERRUPTIBLE;

	if (write)
		flags |= FOLL_WRITE;
	return get_user_pages_unlocked(hva, 1, page, flags);
}

u64 iv_page_phys(struct page *page)
{
	return page_to_phys(page);
}

void iv_page_put(struct page *page)
{
	put_page(page);
}

/*
 * For a page that a guest may write from now on. The process's own page table
 * maps it writable at this moment (the caller holds the lock that its
 * invalidation takes), so the filesystem knows of the writer already; what may
 * be missing is the flag, for a table entry that is writable but clean.
 */
void iv_page_dirty(u64 phys)
{
	struct page *page = pfn_to_page(PHYS_PFN(phys));

	if (!PageReserved(page) && !PageDirty(page))
		SetPageDirty(page);
}

/*
 * Pages that a guest may have because the process's page table does: memory of
 * the process's own, shmem and hugetlb. The rest (files, secretmem, what has no
 * struct page) is for get_user_pages() to decide.
 */
static bool iv_is_plain(struct page *page)
{
	struct folio *folio = page_folio(page);

	return folio_test_anon(folio) || folio_test_swapbacked(folio) ||
	       folio_test_hugetlb(folio);
}

/* The entry for hva in the table that an entry above points to. */
static __always_inline u64 iv_entry_below(u64 above, unsigned long hva,
					  unsigned int shift)
{
	const u64 *table = __va(above & PTE_PFN_MASK);

	return READ_ONCE(table[(hva >> shift) & (PTRS_PER_PTE - 1)]);
}

/*
 * The entry of the process's page table that refers to what maps hva in parts of
 * PUD_SIZE; one that is not present where nothing is mapped. Interrupts are off,
 * which keeps the tables from being freed under the walk.
 *
 * Entries are taken as they are in memory. The kernel's accessors differ only
 * where it is itself a guest of the kind whose hypervisor owns the tables, and
 * there are no guests.
 */
static __always_inline u64 iv_host_pud(unsigned long hva)
{
	const u64 *root = (const u64 *)current->mm->pgd;
	/* The shift is a variable: the mask keeps checks of it out. */
	unsigned long first = hva >> (PGDIR_SHIFT & (BITS_PER_LONG - 1));
	u64 entry = READ_ONCE(root[first & (PTRS_PER_PGD - 1)]);

	if (pgtable_l5_enabled() && (entry & _PAGE_PRESENT))
		entry = iv_entry_below(entry, hva, P4D_SHIFT);
	if (!(entry & _PAGE_PRESENT))
		return 0;
	return iv_entry_below(entry, hva, PUD_SHIFT);
}

/* The answer of iv_host_page() with the process's protection keys heeded. */
static noinline u64 iv_heed_key(u64 answer, u64 entry, bool write)
{
	u16 key = pte_flags_pkey(entry);

	if (!__pkru_allows_pkey(key, write))
		return IV_NOTHING;
	if (!__pkru_allows_pkey(key, true))
		answer &= ~(u64)IV_WRITABLE;
	return answer;
}

/* The answer of iv_host_page() for an entry that is present. */
static __always_inline u64 iv_host_leaf(u64 entry, unsigned long hva,
					unsigned int shift, bool write)
{
	u64 need = _PAGE_USER | (write ? _PAGE_RW : 0);
	u64 start = entry & PTE_PFN_MASK & -BIT_ULL(shift);
	u64 answer = start | (hva & (BIT(shift) - 1) & PAGE_MASK) | shift;

	if ((entry & need) != need)
		return IV_NOTHING;
	if ((entry & _PAGE_SPECIAL) || !iv_is_plain(phys_to_page(start)))
		return IV_ASK;
	if (entry & _PAGE_RW)
		answer |= IV_WRITABLE;
	if (entry & _PAGE_DIRTY)
		answer |= IV_DIRTY;
	if (cpu_feature_enabled(X86_FEATURE_OSPKE))
		return iv_heed_key(answer, entry, write);
	return answer;
}

/*
 * What the process's page table maps at hva, without a reference: the physical
 * address of hva's page, and below PAGE_SHIFT log2 of the bytes of the entry (12,
 * 21 or 30) and IV_WRITABLE, IV_DIRTY: whether the entry lets the process write,
 * and says that it was written. IV_NOTHING, or nothing for this access; IV_ASK
 * if there is a page, but not plain memory. Interrupts are off.
 *
 * That the answer is still true when it is used is for the caller to make sure
 * of.
 */
u64 iv_host_page(unsigned long hva, bool write)
{
	u64 entry = iv_host_pud(hva);

	if (!(entry & _PAGE_PRESENT))
		return IV_NOTHING;
	if (entry & _PAGE_PSE)
		return iv_host_leaf(entry, hva, PUD_SHIFT, write);
	entry = iv_entry_below(entry, hva, PMD_SHIFT);
	if (!(entry & _PAGE_PRESENT))
		return IV_NOTHING;
	if (entry & _PAGE_PSE)
		return iv_host_leaf(entry, hva, PMD_SHIFT, write);
	entry = iv_entry_below(entry, hva, PAGE_SHIFT);
	if (!(entry & _PAGE_PRESENT))
		return IV_NOTHING;
	return iv_host_leaf(entry, hva, PAGE_SHIFT, write);
}

/*
 * Log2 of the bytes that one entry of the process's page table maps at hva: 12,
 * 21 or 30; 0 when nothing is mapped. Interrupts are off.
 */
unsigned int iv_host_mapping_shift(unsigned long hva)
{
	u64 entry = iv_host_pud(hva);

	if (!(entry & _PAGE_PRESENT))
		return 0;
	if (entry & _PAGE_PSE)
		return PUD_SHIFT;
	entry = iv_entry_below(entry, hva, PMD_SHIFT);
	if (!(entry & _PAGE_PRESENT))
		return 0;
	return entry & _PAGE_PSE ? PMD_SHIFT : PAGE_SHIFT;
}

/* The signal that a touch of this poisoned page would have raised. */
void iv_send_hwpoison(unsigned long hva)
{
	send_sig_mceerr(BUS_MCEERR_AR, (void __user *)hva, PAGE_SHIFT, current);
}

struct mm_struct *iv_current_mm(void)
{
	return current->mm;
}

unsigned long iv_user_end(void)
{
	return TASK_SIZE_MAX;
}

/* The number of bytes not copied, as copy_from_user(). May sleep. */
unsigned long iv_user_read(void *to, unsigned long hva, unsigned long n)
{
	return copy_from_user(to, (const void __user *)hva, n);
}

unsigned long iv_user_write(unsigned long hva, const void *from,
			    unsigned long n)
{
	return copy_to_user((void __user *)hva, from, n);
}

/* Neither sleep nor fault anything in; for any context with this mm. */
unsigned long iv_user_read_nofault(void *to, unsigned long hva,
				   unsigned long n)
{
	unsigned long left = n;

	pagefault_disable();
	if (access_ok((const void __user *)hva, n))
		left = __copy_from_user_inatomic(to,
						 (const void __user *)hva, n);
	pagefault_enable();
	return left;
}

unsigned long iv_user_write_nofault(unsigned long hva, const void *from,
				    unsigned long n)
{
	unsigned long left = n;

	pagefault_disable();
	if (access_ok((void __user *)hva, n))
		left = __copy_to_user_inatomic((void __user *)hva, from, n);
	pagefault_enable();
	return left;
}

/*
 * One aligned load each: page walks read guest tables with these, with
 * interrupts off. The range was checked when its slot was made.
 */
#define DEFINE_GET_NOFAULT(type)					\
bool iv_user_get_##type##_nofault(unsigned long hva, type *value)	\
{									\
	type got;							\
									\
	pagefault_disable();						\
	if (!user_read_access_begin((const void __user *)hva,		\
				    sizeof(got)))			\
		goto refused;						\
	unsafe_get_user(got, (type __user *)hva, fault);		\
	user_read_access_end();						\
	pagefault_enable();						\
	*value = got;							\
	return true;							\
fault:									\
	user_read_access_end();						\
refused:								\
	pagefault_enable();						\
	return false;							\
}
DEFINE_GET_NOFAULT(u32)
DEFINE_GET_NOFAULT(u64)

/*
 * The 16 bytes at hva, if n words are what they were: address and value of each
 * follow each other in words. The words are read first, in order. All ranges
 * were checked when their slots were made; hva's is checked again.
 */
bool iv_user_read_if_nofault(const u64 *words, unsigned long n,
			     unsigned long hva, u64 *bytes)
{
	const u64 __user *from = (const u64 __user *)hva;
	u64 low, high, seen;

	pagefault_disable();
	if (!user_read_access_begin(from, 2 * sizeof(*from)))
		goto refused;
	for (; n; n--, words += 2) {
		unsafe_get_user(seen, (const u64 __user *)words[0], fault);
		if (seen != words[1])
			goto fault;
	}
	unsafe_get_user(low, from, fault);
	unsafe_get_user(high, from + 1, fault);
	user_read_access_end();
	pagefault_enable();
	bytes[0] = low;
	bytes[1] = high;
	return true;
fault:
	user_read_access_end();
refused:
	pagefault_enable();
	return false;
}

#define CMPXCHG_CASE(type)						\
	case sizeof(type): {						\
		type seen = *old;					\
									\
		done = unsafe_try_cmpxchg_user((type __user *)hva,	\
					       &seen, (type)new, fault);\
		*old = seen;						\
		break;							\
	}

/*
 * Locked compare and exchange of 1, 2, 4 or 8 aligned bytes. 0: exchanged; 1:
 * not, *old is what was there; -EFAULT. Faults the page in: may sleep.
 */
int iv_user_cmpxchg(unsigned long hva, unsigned int size, u64 *old, u64 new)
{
	bool done = false;

	if (!user_access_begin((void __user *)hva, size))
		return -EFAULT;
	switch (size) {
	CMPXCHG_CASE(u8)
	CMPXCHG_CASE(u16)
	CMPXCHG_CASE(u32)
	CMPXCHG_CASE(u64)
	default:
		goto fault;
	}
	user_access_end();
	return !done;
fault:
	user_access_end();
	return -EFAULT;
}

int iv_user_cmpxchg_nofault(unsigned long hva, unsigned int size, u64 *old,
			    u64 new)
{
	int ret;

	pagefault_disable();
	ret = iv_user_cmpxchg(hva, size, old, new);
	pagefault_enable();
	return ret;
}
