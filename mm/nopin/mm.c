// SPDX-License-Identifier: GPL-2.0
/*
 * The ranges of an mm that direct I/O uses, found by address.
 *
 * The address space is divided into aligned pieces of 1 GiB; a range is
 * created on the first direct I/O to or from its piece and lives as long as
 * the mm. The child of a fork starts with none.
 */

#include <linux/blkdev.h>
#include <linux/mm.h>
#include <linux/nopin.h>
#include <linux/nopin_break.h>
#include <linux/slab.h>

#include "nopin.h"

/**
 * nopin_mm_find - find the range of an address
 * @mm: mm that the caller uses (mm_users)
 * @addr: user address
 *
 * Context: Any that can use the mm. Does not sleep.
 *
 * Return: the range, valid while the mm is in use, or NULL if it has to be
 * created.
 */
struct nopin_range *nopin_mm_find(struct mm_struct *mm, unsigned long addr)
{
	struct nopin_chunk *chunk = nopin_mm_slot(mm, addr);
	struct nopin_range *range;
	struct nopin_mm *nm;

	if (likely(chunk))
		return chunk->range;
	/* Pairs with the cmpxchg_release() in nopin_mm_create() */
	nm = smp_load_acquire(&mm->nopin);
	if (!nm)
		return NULL;
	range = xa_load(&nm->ranges, addr >> NOPIN_MM_SHIFT);
	if (!range)
		return NULL;
	chunk = nopin_chunk(range, nopin_index(range, addr));
	if (chunk) {
		/* Pairs with the smp_load_acquire() in nopin_mm_slot() */
		smp_store_release(&nm->slot[chunk->index % NOPIN_MM_SLOTS],
				  chunk);
	}
	return range;
}

static struct nopin_mm *nopin_mm_create(struct mm_struct *mm)
{
	struct nopin_mm *nm, *old;

	nm = kzalloc(sizeof(*nm), GFP_KERNEL_ACCOUNT);
	if (!nm)
		return NULL;
	xa_init(&nm->ranges);
	mutex_init(&nm->lock);

	/* Pairs with the smp_load_acquire() in nopin_mm_find() */
	old = cmpxchg_release(&mm->nopin, NULL, nm);
	if (old) {
		kfree(nm);
		nm = old;
	}
	return nm;
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

	/* Pairs with the cmpxchg_release() in nopin_mm_create() */
	nm = smp_load_acquire(&mm->nopin);
	if (!nm)
		nm = nopin_mm_create(mm);
	if (!nm)
		return ERR_PTR(-ENOMEM);

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
	if (IS_ERR(range))
		xa_release(&nm->ranges, index);
	else
		xa_store(&nm->ranges, index, range, GFP_KERNEL_ACCOUNT);
unlock:
	mutex_unlock(&nm->lock);
	return range;
}

/**
 * nopin_mm_add_polled - can polled I/O to a queue do without pins?
 * @mm: mm that the caller uses (mm_users)
 * @q: queue, of which the caller has a reference
 *
 * Polled I/O raises no interrupt, and who polls may be who waits for it to end
 * in an invalidation. So the invalidation polls, if it knows what.
 *
 * Context: Process context, may sleep. No pages are entered.
 *
 * Return: whether invalidations of @mm poll @q from now on.
 */
bool nopin_mm_add_polled(struct mm_struct *mm, struct request_queue *q)
{
	struct nopin_mm *nm;
	unsigned int i;

	if (!queue_is_mq(q))
		return false;
	/* Pairs with the cmpxchg_release() in nopin_mm_create() */
	nm = smp_load_acquire(&mm->nopin);
	if (!nm)
		nm = nopin_mm_create(mm);
	if (!nm)
		return false;

	for (i = 0; i < NOPIN_MM_POLLED; i++) {
		struct request_queue *old = READ_ONCE(nm->polled[i]);

		if (!old) {
			if (!blk_get_queue(q))
				return false;
			/*
			 * Before the pages are entered, which is a full barrier:
			 * who waits for them, sees this.
			 */
			old = cmpxchg(&nm->polled[i], NULL, q);
			if (!old)
				return true;
			blk_put_queue(q);
		}
		if (old == q)
			return true;
	}
	return false;
}

/**
 * nopin_mm_poll - complete polled I/O of a process
 * @mm: the mm, which has not passed nopin_mm_exit()
 *
 * Context: Process context, of any process.
 *
 * Return: whether there may be any.
 */
bool nopin_mm_poll(struct mm_struct *mm)
{
	struct nopin_mm *nm = READ_ONCE(mm->nopin);
	struct request_queue *q;
	unsigned int i;

	if (!nm || nopin_broken(POLLED))
		return false;
	for (i = 0; i < NOPIN_MM_POLLED; i++) {
		q = READ_ONCE(nm->polled[i]);
		if (!q)
			break;
		bio_nopin_poll(q);
	}
	return i;
}

/**
 * nopin_mm_count_cached - how many pages have translations?
 * @mm: mm that the caller uses (mm_users)
 * @addr: user address, untagged
 * @len: number of bytes
 *
 * Context: Any that can use the mm. Does not sleep.
 *
 * Return: the number of pages whose translation is known.
 */
unsigned int nopin_mm_count_cached(struct mm_struct *mm, unsigned long addr,
				   size_t len)
{
	unsigned int nr = 0;

	while (len) {
		struct nopin_range *range = nopin_mm_find(mm, addr);
		size_t piece = min(len, NOPIN_CACHE_SIZE -
					addr % NOPIN_CACHE_SIZE);

		if (range)
			nr += nopin_count_cached(range, nopin_index(range, addr),
						 nopin_index(range, addr + piece - 1) + 1);
		addr += piece;
		len -= piece;
	}
	return nr;
}

/**
 * nopin_mm_exit - the address space is gone
 * @mm: mm without users
 *
 * Called behind exit_mmap(): mmu_notifier_release() in there has waited for
 * the I/O on all ranges, or has pinned the pages, and with no user left there is
 * no further I/O.
 *
 * Context: Process context, may sleep.
 */
void nopin_mm_exit(struct mm_struct *mm)
{
	struct nopin_mm *nm = mm->nopin;
	struct nopin_range *range;
	unsigned long index;
	unsigned int i;

	if (!nm)
		return;
	xa_for_each(&nm->ranges, index, range)
		nopin_range_destroy(range);
	xa_destroy(&nm->ranges);
	for (i = 0; i < NOPIN_MM_POLLED && nm->polled[i]; i++)
		blk_put_queue(nm->polled[i]);
	kfree(nm);
	mm->nopin = NULL;
}
