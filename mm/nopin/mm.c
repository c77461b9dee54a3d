// SPDX-License-Identifier: GPL-2.0
/*
 * The ranges of an mm that direct I/O uses, found by address.
 *
 * A range covers an aligned GiB of the address space. The first direct I/O that
 * does without pins there, or a buffer that is registered, creates it, and it
 * lives as long as the mm. The child of a fork starts with none.
 *
 * The first I/Os of a process are pinned. To register a notifier takes the locks
 * of all mappings, which costs about as much as pinning one I/O per mapping. Task
 * work registers it once that pays, as the task holds no locks then.
 */

#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/task_work.h>

#include "nopin.h"

unsigned int nopin_first_ios = 64;

/**
 * nopin_mm_create - let direct I/O of an mm do without pins
 * @mm: mm that the caller uses (mm_users)
 *
 * Context: Process context, may sleep; takes the mmap_lock for writing unless
 * this was called before.
 *
 * Return: 0, -ENOMEM, or -EINTR on a signal.
 */
int nopin_mm_create(struct mm_struct *mm)
{
	struct nopin_mm *nm;
	int ret;

	if (READ_ONCE(mm->nopin))
		return 0;
	/* What mmu_interval_notifier_insert() would do */
	ret = mmu_notifier_register(NULL, mm);
	if (ret)
		return ret;
	nm = kzalloc_obj(*nm, GFP_KERNEL_ACCOUNT);
	if (!nm)
		return -ENOMEM;
	xa_init(&nm->ranges);
	mutex_init(&nm->lock);

	/* Pairs with the smp_load_acquire() in nopin_mm_find() */
	if (cmpxchg_release(&mm->nopin, NULL, nm))
		kfree(nm);	/* lost a race */
	return 0;
}

/**
 * struct nopin_first - task work that creates the first range of an mm
 * @work: queued to a task of the mm
 * @mm: the mm, with a reference to the struct
 * @addr: user address that I/O has used
 */
struct nopin_first {
	struct callback_head	work;
	struct mm_struct	*mm;
	unsigned long		addr;
};

static void nopin_first_done(struct nopin_first *first)
{
	/* If it failed, try again after as many I/Os */
	atomic_set(&first->mm->nopin_first, 0);
	mmdrop(first->mm);
	kfree(first);
}

static void nopin_first_work(struct callback_head *work)
{
	struct nopin_first *first = container_of(work, struct nopin_first, work);

	/* Task work runs after exit_mm() as well, and after exec */
	if (current->mm == first->mm)
		nopin_mm_get(first->mm, first->addr);
	nopin_first_done(first);
}

/**
 * nopin_mm_want - queue task work that creates the range of an address
 * @mm: mm of the current task
 * @addr: user address
 *
 * Not at once, as the caller may hold locks that nest inside the mmap_lock.
 *
 * Context: Process context. Does not sleep.
 */
void nopin_mm_want(struct mm_struct *mm, unsigned long addr)
{
	int nr = atomic_read(&mm->nopin_first);
	struct nopin_first *first;

	/* A kernel thread that uses the mm does not run task work */
	if (current->flags & PF_KTHREAD)
		return;
	/* Negative while the work is pending */
	if (nr < 0 || !atomic_try_cmpxchg(&mm->nopin_first, &nr, INT_MIN))
		return;
	first = kmalloc_obj(*first, GFP_NOWAIT);
	if (!first) {
		atomic_set(&mm->nopin_first, 0);
		return;
	}
	first->mm = mm;
	first->addr = addr;
	mmgrab(mm);
	init_task_work(&first->work, nopin_first_work);
	if (task_work_add(current, &first->work, TWA_RESUME))
		nopin_first_done(first);
}

/**
 * nopin_mm_ready - may I/O of the current task do without pins?
 * @mm: mm of the task
 * @addr: user address that the I/O uses
 *
 * The first I/Os of a process may not. Counts them; after enough of them, queues
 * the task work that lets later ones do without.
 *
 * Context: Process context. Does not sleep.
 *
 * Return: whether it may.
 */
bool nopin_mm_ready(struct mm_struct *mm, unsigned long addr)
{
	unsigned int limit = READ_ONCE(nopin_first_ios);
	int nr;

	if (likely(READ_ONCE(mm->nopin)) || !limit)
		return true;
	/* The locks cost per mapping about what a pin costs per I/O */
	nr = atomic_inc_return(&mm->nopin_first);
	if (nr >= 0 && nr >= limit + READ_ONCE(mm->map_count))
		nopin_mm_want(mm, addr);
	return false;
}

/**
 * nopin_mm_get - find or create the range of an address
 * @mm: mm that the caller uses (mm_users)
 * @addr: user address
 *
 * Context: Process context, may sleep; may take the mmap_lock for writing.
 *
 * Return: the range, valid while the mm is in use, or an ERR_PTR() as for
 * nopin_range_create().
 */
struct nopin_range *nopin_mm_get(struct mm_struct *mm, unsigned long addr)
{
	unsigned long index = addr >> NOPIN_MM_SHIFT;
	struct nopin_range *range;
	struct nopin_mm *nm;
	int ret;

	range = nopin_mm_find(mm, addr);
	if (range)
		return range;
	ret = nopin_mm_create(mm);
	if (ret)
		return ERR_PTR(ret);

	/* Pairs with the cmpxchg_release() in nopin_mm_create() */
	nm = smp_load_acquire(&mm->nopin);
	mutex_lock(&nm->lock);
	range = xa_load(&nm->ranges, index);
	if (range)
		goto unlock;

	ret = xa_reserve(&nm->ranges, index, GFP_KERNEL_ACCOUNT);
	if (ret) {
		range = ERR_PTR(ret);
		goto unlock;
	}
	range = nopin_range_create(mm, index << NOPIN_MM_SHIFT,
				   1U << (NOPIN_MM_SHIFT - PAGE_SHIFT));
	if (IS_ERR(range)) {
		xa_release(&nm->ranges, index);
		goto unlock;
	}
	xa_store(&nm->ranges, index, range, GFP_KERNEL_ACCOUNT);
	/* Pairs with the smp_load_acquire() in nopin_mm_find() */
	smp_store_release(&nm->slot[index % NOPIN_MM_SLOTS], range);
unlock:
	mutex_unlock(&nm->lock);
	return range;
}

/**
 * nopin_mm_open - look up memory that I/O is going to use
 * @mm: mm of the current task
 * @addr: user address, untagged
 * @len: number of bytes
 *
 * For both directions, so that the first I/O need not look it up. Faults in nothing,
 * and waits for no invalidation: that is left to the first I/O, as are 2 MiB whose
 * first page is not mapped or does not permit the access.
 *
 * Context: Process context, may sleep; takes the mmap_lock for writing if
 * nopin_mm_create() was not called before.
 */
void nopin_mm_open(struct mm_struct *mm, unsigned long addr, size_t len)
{
	unsigned long end = addr + len, next;
	struct nopin_range *range;
	unsigned int page, dir;
	int ret;

	for (addr = nopin_skip(mm, addr, end); addr < end;
	     addr = nopin_skip(mm, next, end)) {
		next = min(end, round_down(addr, NOPIN_CHUNK_SIZE) +
				NOPIN_CHUNK_SIZE);
		for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
			if (!nopin_present(mm, addr, dir))
				continue;
			range = nopin_mm_get(mm, addr);
			if (IS_ERR(range))
				return;
			page = nopin_index(range, addr);
			ret = nopin_open(range, page,
					 nopin_index(range, next - 1) + 1 - page,
					 dir, true);
			/* No memory, or GUP has to judge what is mapped there */
			if (ret == -ENOMEM || ret == -EPERM)
				return;
		}
		if (fatal_signal_pending(current))
			return;
		cond_resched();
	}
}

/**
 * nopin_mm_busy - is there I/O without pins on some memory?
 * @mm: the mm
 * @start: first address, page aligned
 * @end: address behind the last one
 *
 * For khugepaged and madvise(), which leave pinned pages alone.
 *
 * Context: Any that keeps the mm in use, or its page tables locked. Does not
 * sleep.
 *
 * Return: whether there is, or was a moment ago.
 */
bool nopin_mm_busy(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	unsigned int page, stop, dir;
	struct nopin_chunk *chunk;
	unsigned long next;
	bool busy = false;

	/* Most processes */
	if (!READ_ONCE(mm->nopin))
		return false;
	rcu_read_lock();
	for (; start < end && !busy; start = next) {
		next = min(end, round_down(start, NOPIN_CHUNK_SIZE) +
				NOPIN_CHUNK_SIZE);
		chunk = nopin_mm_chunk(mm, start);
		stop = nopin_start(next - 1) + 1;
		for (dir = 0; chunk && dir < NOPIN_NR_DIRS; dir++)
			for (page = nopin_start(start); page < stop;
			     page = nopin_next_word(page))
				if (nopin_counts(chunk, page, stop, dir))
					busy = true;
	}
	rcu_read_unlock();
	return busy;
}

/**
 * nopin_mm_count_known - how many pages have known translations?
 * @mm: mm that the caller uses (mm_users)
 * @addr: user address, untagged
 * @len: number of bytes
 *
 * Takes time for memory that was looked up, not for what is merely mapped.
 *
 * Context: Process context, may sleep.
 *
 * Return: the number of pages whose translation is known.
 */
unsigned int nopin_mm_count_known(struct mm_struct *mm, unsigned long addr,
				  size_t len)
{
	/* Pairs with the cmpxchg_release() in nopin_mm_create() */
	struct nopin_mm *nm = smp_load_acquire(&mm->nopin);
	unsigned long last = addr + len - 1, index;
	struct nopin_range *range;
	unsigned int nr = 0, first;

	if (!nm || !len)
		return 0;
	/* Ranges live as long as the mm */
	xa_for_each_range(&nm->ranges, index, range, addr >> NOPIN_MM_SHIFT,
			  last >> NOPIN_MM_SHIFT) {
		first = nopin_index(range, max(addr, range->start));
		nr += nopin_count_known(range, first, nopin_index(range,
				min(last, range->notifier.interval_tree.last)) + 1);
		if (fatal_signal_pending(current))
			break;
		cond_resched();
	}
	return nr;
}

/**
 * nopin_mm_exit - the address space is gone
 * @mm: mm without users
 *
 * Called after exit_mmap(), in which mmu_notifier_release() has waited for the I/O
 * on all ranges, or has pinned the pages. The mm has no user left to begin more.
 *
 * Context: Process context, may sleep.
 */
void nopin_mm_exit(struct mm_struct *mm)
{
	struct nopin_mm *nm = mm->nopin;
	struct nopin_range *range;
	unsigned long index;

	if (!nm)
		return;
	xa_for_each(&nm->ranges, index, range)
		nopin_range_destroy(range);
	xa_destroy(&nm->ranges);
	kfree(nm);
	mm->nopin = NULL;
}
