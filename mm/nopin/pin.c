// SPDX-License-Identifier: GPL-2.0
/*
 * Pins on behalf of I/O in flight.
 *
 * An invalidation that does not wait for I/O, or no longer, takes the pins that the
 * bios have done without and goes on (see invalidate.c). It can do so at any time
 * before it returns, as an entered page is where its translation says. One pin per
 * page and direction serves all bios that have entered the page. The page is
 * closed, so no more come.
 *
 * The bios exit as ever. The exit of a closed page queues a worker if any page of
 * the range is pinned. The worker looks which pages are idle, sets them dirty if the
 * device has written them, as the PTE that was dirty may be gone or clean by now, and
 * unpins them. Bios that end in an interrupt could not.
 *
 * Until then the page stays closed, in both directions, and its translation stays,
 * for the worker and for the bios. New I/O to the page, or to what is mapped in its
 * place, is pinned the usual way.
 */

#include <linux/bitops.h>
#include <linux/mm.h>
#include <linux/refcount.h>
#include <linux/sched/coredump.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>
#include <trace/events/nopin.h>

#include "../internal.h"
#include "nopin.h"

/*
 * For anonymous pages the worker waits so many jiffies for more bios to exit. If it ran
 * at once, where fork() has pinned the pages of a deep queue, it would preempt the tasks
 * that these bios wake up, again and again. A page of a file has to be dirty when
 * somebody learns of the end of the I/O and calls fsync(), or as soon as with pins: the
 * worker of bio_check_pages_dirty() does not wait either.
 */
#define NOPIN_UNPIN_DELAY	1

/* How many pages the worker unpins at a time */
#define NOPIN_UNPIN_BATCH	32

/* With a rescuer: reclaim may need the memory that is pinned */
static struct workqueue_struct *nopin_wq;

/* How many ranges have &nopin_range.soon set */
atomic_t nopin_nr_soon;

/* With the range lock held */
static void nopin_set_pinned(struct nopin_chunk *chunk, unsigned int page,
			     enum nopin_dir dir, bool pinned)
{
	u64 *bits, bit = BIT_ULL(page % NOPIN_BITS_PER_WORD);
	struct nopin_range *range = chunk->range;

	bits = &chunk->pinned[dir][page % NOPIN_CHUNK_PAGES / NOPIN_BITS_PER_WORD];
	WRITE_ONCE(*bits, pinned ? *bits | bit : *bits & ~bit);
	WRITE_ONCE(range->nr_pinned, range->nr_pinned + (pinned ? 1 : -1));
	if (pinned)
		__set_bit(chunk->index, range->pinned);
	else if (!memchr_inv(chunk->pinned, 0, sizeof(chunk->pinned)))
		__clear_bit(chunk->index, range->pinned);
}

/**
 * nopin_unpin - queue the worker that unpins idle pages
 * @range: range of the pages
 *
 * Context: Any, within rcu_read_lock().
 */
void nopin_unpin(struct nopin_range *range)
{
	bool queued;

	/* The worker has a reference, see nopin_unpin_work() */
	if (!refcount_inc_not_zero(&range->ref))
		return;
	if (READ_ONCE(range->soon))
		queued = !mod_delayed_work(nopin_wq, &range->unpin, 0);
	else
		queued = queue_delayed_work(nopin_wq, &range->unpin,
					    NOPIN_UNPIN_DELAY);
	if (!queued)
		nopin_range_put(range);
}

/*
 * Unpin up to NOPIN_UNPIN_BATCH idle pages of chunk @i of the range; returns how
 * many.
 */
static unsigned int nopin_unpin_some(struct nopin_range *range, unsigned int i,
				     enum nopin_dir dir)
{
	unsigned int index[NOPIN_UNPIN_BATCH], nr = 0, n, word, page;
	struct page *pages[NOPIN_UNPIN_BATCH];
	struct nopin_chunk *chunk;
	bool last;
	u64 bits;

	spin_lock(&range->lock);
	/* It is not freed while any page of it is pinned */
	chunk = test_bit(i, range->pinned) ? range->slot[i].chunk : NULL;
	for (word = 0; chunk && word < ARRAY_SIZE(chunk->pinned[dir]); word++) {
		bits = chunk->pinned[dir][word];
		for (; bits && nr < NOPIN_UNPIN_BATCH; bits &= bits - 1) {
			page = word * NOPIN_BITS_PER_WORD + __ffs64(bits);
			if (nopin_count(chunk, page, dir))
				continue;
			index[nr] = page;
			pages[nr++] = chunk->bvec[page].bv_page;
		}
	}
	spin_unlock(&range->lock);
	if (!nr)
		return 0;

	/*
	 * Not unpin_user_pages() for pages that the device has read: they need
	 * not be exclusive.
	 */
	for (n = 0; n < nr; n++) {
		if (dir == NOPIN_FROM_DEVICE)
			unpin_user_pages_dirty_lock(&pages[n], 1, true);
		else
			unpin_user_folio(page_folio(pages[n]), 1);
	}

	spin_lock(&range->lock);
	for (n = 0; n < nr; n++)
		nopin_set_pinned(chunk, index[n], dir, false);
	last = !range->nr_pinned;
	if (last && range->soon) {
		WRITE_ONCE(range->soon, false);
		atomic_dec(&nopin_nr_soon);
	}
	spin_unlock(&range->lock);
	/* Pairs with the refcount_inc() in nopin_pin_page() */
	if (last)
		nopin_range_put(range);
	return nr;
}

/* The first chunk from @i on that has pinned pages */
static unsigned int nopin_next_pinned(struct nopin_range *range, unsigned int i)
{
	spin_lock(&range->lock);
	i = find_next_bit(range->pinned, NOPIN_RANGE_CHUNKS, i);
	spin_unlock(&range->lock);
	return i;
}

/**
 * nopin_unpin_work - unpin idle pages
 * @work: &nopin_range.unpin
 *
 * Context: Process context, may sleep. Drops the reference to the range that
 * nopin_unpin() took.
 */
void nopin_unpin_work(struct work_struct *work)
{
	struct nopin_range *range = container_of(work, struct nopin_range,
						 unpin.work);
	unsigned int i, dir;

	for (i = 0; (i = nopin_next_pinned(range, i)) < NOPIN_RANGE_CHUNKS; i++)
		for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
			while (nopin_unpin_some(range, i, dir))
				cond_resched();
	nopin_range_put(range);
}

/**
 * nopin_flush_soon - nopin_flush(), if there are such pages
 *
 * Context: Process context, may sleep.
 */
void nopin_flush_soon(void)
{
	flush_workqueue(nopin_wq);
}

/*
 * Pin one page. With @mn, -EAGAIN if a wait buys something. -ENOMEM if the page has
 * too many references.
 *
 * If a bio uses the page, its mapping has a reference to it, and keeps it for as long
 * as we have the range lock: an invalidation takes that lock after it has found the
 * page idle, and only then may the mapping change.
 */
static int nopin_pin_page(struct nopin_chunk *chunk, unsigned int page,
			  enum nopin_dir dir,
			  const struct mmu_notifier_range *mn)
{
	bool other = atomic_read(&chunk->other);
	struct nopin_range *range = chunk->range;
	struct folio *folio;
	int ret;

	lockdep_assert_held(&range->lock);

	if (!nopin_count(chunk, page, dir))
		return 0;
	folio = page_folio(chunk->bvec[page].bv_page);
	if (mn && !other && nopin_wait_buys(mn, folio, dir))
		return -EAGAIN;
	ret = try_grab_folio(folio, 1, FOLL_PIN);
	if (ret)
		return ret;
	/* Pairs with the nopin_range_put() in nopin_unpin_some() */
	if (!range->nr_pinned)
		refcount_inc(&range->ref);
	nopin_set_pinned(chunk, page, dir, true);
	if (dir == NOPIN_FROM_DEVICE && !nopin_anon(folio) && !range->soon) {
		WRITE_ONCE(range->soon, true);
		atomic_inc(&nopin_nr_soon);
	}
	count_vm_event(NOPIN_PINNED);
	/*
	 * The last bio may have exited just before. We raise nr_pinned, set soon and
	 * then look at the count; the bio lowers the count and then looks at these.
	 * Pairs with the barrier in nopin_exit_word().
	 */
	smp_mb();
	if (!nopin_count(chunk, page, dir))
		nopin_unpin(range);
	return 0;
}

/* Pin the pages in the word of @page, up to @end, that are in use; as nopin_pin() */
static int nopin_pin_word(struct nopin_chunk *chunk, unsigned int page,
			  unsigned int end, enum nopin_dir dir,
			  const struct mmu_notifier_range *mn)
{
	u64 busy = atomic64_read(nopin_word(chunk, page, dir));
	int ret = 0, err;

	/* Any count but zero carries into OLD */
	busy = ((busy & NOPIN_COUNTS) + NOPIN_COUNTS) & NOPIN_OLD &
	       nopin_bytes(page, end) & ~nopin_pinned_bytes(chunk, page, dir);
	page %= NOPIN_CHUNK_PAGES;
	for (; busy; busy &= busy - 1) {
		err = nopin_pin_page(chunk, nopin_page(page, busy), dir, mn);
		if (err && ret != -EAGAIN)
			ret = err;
	}
	return ret;
}

/**
 * nopin_pin - pin pages on behalf of the I/O in flight
 * @range: range of the pages
 * @first: index of the first page in @range
 * @end: index behind the last page
 * @dirs: number of directions, from the first one
 * @mn: what is about to change: leaves out pages for whose I/O a wait buys
 *	something, see nopin_wait_buys(). NULL to pin all.
 *
 * Leaves out pages that were pinned on behalf of I/O before.
 *
 * Context: Process context, does not sleep. An invalidation has closed the
 * pages for these directions.
 *
 * Return: 0 if no page in use is left without a pin; -EAGAIN if there is I/O for
 * which a wait buys something; -ENOMEM if there are only pages that could not be
 * pinned.
 */
int nopin_pin(struct nopin_range *range, unsigned int first,
	      unsigned int end, unsigned int dirs,
	      const struct mmu_notifier_range *mn)
{
	struct mm_struct *mm = range->notifier.mm;
	unsigned int page, next, dir;
	int ret = 0, err;

	/* Fork has to see it before it looks at the pages */
	if (!mm_flags_test(MMF_HAS_PINNED, mm))
		mm_flags_set(MMF_HAS_PINNED, mm);

	for (; first < end; first = next) {
		struct nopin_chunk *chunk;
		unsigned int before;

		next = min(end, nopin_next_chunk(first));
		spin_lock(&range->lock);
		rcu_read_lock();	/* for nopin_unpin() */
		chunk = nopin_chunk_at(range, first);
		before = range->nr_pinned;
		for (dir = 0; chunk && dir < dirs; dir++) {
			if (!chunk->used[dir])
				continue;
			for (page = first; page < next; page = nopin_next_word(page)) {
				err = nopin_pin_word(chunk, page, next, dir, mn);
				if (err && ret != -EAGAIN)
					ret = err;
			}
		}
		if (range->nr_pinned > before)
			trace_nopin_pin(mm, nopin_addr(range, first),
					nopin_addr(range, next),
					range->nr_pinned - before);
		rcu_read_unlock();
		spin_unlock(&range->lock);
	}
	/* Invalidations that wait for these pages need not any longer */
	if (wq_has_sleeper(&range->wait))
		wake_up_all(&range->wait);
	return ret;
}

/* Before the first I/O */
int __init nopin_pin_init(void)
{
	nopin_wq = alloc_workqueue("nopin", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	return nopin_wq ? 0 : -ENOMEM;
}
