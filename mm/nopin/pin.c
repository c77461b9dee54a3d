// SPDX-License-Identifier: GPL-2.0
/*
 * Pins on behalf of I/O in flight.
 *
 * An invalidation that does not wait for I/O, or not any longer, takes the pins
 * that the bios have done without and goes on (see invalidate.c). From there
 * these bios have what pinned ones have: their pages are theirs until they end,
 * wherever the mapping goes meanwhile.
 *
 * It can do so at any time before it returns: a page that is entered still is
 * where its translation says. One pin per page and direction does for all the bios
 * that have entered the page. As the page is closed, no further ones come; when the
 * last one has left, the pin is dropped.
 *
 * So the bios need not know. They exit as ever. The exit of a closed page looks
 * whether any page of the range is pinned, and if so has a worker look which of
 * them are idle. It is in the worker that pages are then set dirty and unpinned:
 * the bios end in interrupts, and the PTE that was dirty may be gone or clean by
 * now.
 *
 * Until then the page stays closed, for both directions, and its translation
 * stays, for the worker as well as for the bios. New I/O to the page, or to what is
 * mapped in its place, gets pinned the usual way.
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

/* How many pages the worker unpins at a time */
#define NOPIN_UNPIN_BATCH	32

/* With a rescuer: reclaim may need the memory that is pinned */
static struct workqueue_struct *nopin_wq;

/* With the range lock held */
static void nopin_set_pinned(struct nopin_chunk *chunk, unsigned int page,
			     enum nopin_dir dir, bool pinned)
{
	u64 *bits, bit = BIT_ULL(page % NOPIN_BITS_PER_WORD);
	struct nopin_range *range = chunk->range;

	bits = &chunk->pinned[dir][page % NOPIN_CHUNK_PAGES / NOPIN_BITS_PER_WORD];
	WRITE_ONCE(*bits, pinned ? *bits | bit : *bits & ~bit);
	WRITE_ONCE(range->nr_pinned, range->nr_pinned + (pinned ? 1 : -1));
}

/**
 * nopin_unpin - have the pins dropped of pages that are idle
 * @range: range of the pages
 *
 * Context: Any, within rcu_read_lock().
 */
void nopin_unpin(struct nopin_range *range)
{
	/* The worker has a reference, see nopin_unpin_work() */
	if (!refcount_inc_not_zero(&range->ref))
		return;
	if (!queue_work(nopin_wq, &range->unpin))
		nopin_range_put(range);
}

/*
 * Drop up to NOPIN_UNPIN_BATCH pins of pages of that chunk of the range that are
 * idle; returns how many.
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
	chunk = range->slot[i].chunk;
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

	/* The chunk is not freed while any page of it is pinned */
	spin_lock(&range->lock);
	for (n = 0; n < nr; n++)
		nopin_set_pinned(chunk, index[n], dir, false);
	last = !range->nr_pinned;
	spin_unlock(&range->lock);
	/* Pairs with the refcount_inc() in nopin_pin_page() */
	if (last)
		nopin_range_put(range);
	return nr;
}

/**
 * nopin_unpin_work - drop the pins of pages that are idle
 * @work: &nopin_range.unpin
 *
 * Context: Process context, may sleep. Has a reference to the range, which it
 * drops.
 */
void nopin_unpin_work(struct work_struct *work)
{
	struct nopin_range *range = container_of(work, struct nopin_range,
						 unpin);
	unsigned int i, dir;

	for (i = 0; i < nopin_nr_chunks(range) && READ_ONCE(range->nr_pinned); i++) {
		struct nopin_chunk *chunk;
		bool any;

		rcu_read_lock();
		chunk = nopin_chunk_at(range, i * NOPIN_CHUNK_PAGES);
		any = chunk && memchr_inv(chunk->pinned, 0,
					  sizeof(chunk->pinned));
		rcu_read_unlock();
		for (dir = 0; any && dir < NOPIN_NR_DIRS; dir++)
			while (nopin_unpin_some(range, i, dir))
				cond_resched();
	}
	nopin_range_put(range);
}

/*
 * The folio of a page that bios have entered, with a reference. NULL if they have
 * left it.
 */
static struct folio *nopin_pin_get(struct nopin_chunk *chunk, unsigned int page,
				   enum nopin_dir dir)
{
	struct page *p = chunk->bvec[page].bv_page;
	struct folio *folio;

	while (nopin_count(chunk, page, dir)) {
		/*
		 * When the last bio leaves, another invalidation may go on and
		 * have the page freed. But not the memory of its struct page: to
		 * take that away needs this CPU, which holds a spinlock.
		 */
		folio = page_folio(p);
		if (folio_try_get(folio)) {
			/*
			 * If a bio uses the page now, one did so before: nobody
			 * enters a closed page. Getting the reference is a full
			 * barrier.
			 */
			if (nopin_count(chunk, page, dir))
				return folio;
			/* Not folio_put(): truncation may wait for fs-DAX */
			put_page(p);
			break;
		}
		/* Somebody has frozen the count for a moment */
		cpu_relax();
	}
	return NULL;
}

/*
 * Pin one page; with @mn only if a wait buys nothing, otherwise -EAGAIN. -ENOMEM
 * if it has too many references.
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

	folio = nopin_pin_get(chunk, page, dir);
	if (!folio)
		return 0;
	ret = -EAGAIN;
	if (mn && !other && nopin_wait_buys(mn, folio, dir))
		goto put;
	ret = try_grab_folio(folio, 1, FOLL_PIN);
	if (ret)
		goto put;
	/* Pairs with the nopin_range_put() in nopin_unpin_some() */
	if (!range->nr_pinned)
		refcount_inc(&range->ref);
	nopin_set_pinned(chunk, page, dir, true);
	count_vm_event(NOPIN_PINNED);
	/*
	 * The last bio may have left just before. We set nr_pinned and then
	 * look at the count; it lowers the count and then looks at nr_pinned.
	 * Pairs with the barrier in nopin_exit_word().
	 */
	smp_mb();
	if (!nopin_count(chunk, page, dir))
		nopin_unpin(range);
put:
	/* As above */
	put_page(chunk->bvec[page].bv_page);
	return ret;
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
 * nopin_pin - take the pins that the I/O in flight has done without
 * @range: range of the pages
 * @first: index of the first page in @range
 * @end: index behind the last page
 * @dirs: number of directions, from the first one
 * @mn: what is about to change: pages whose I/O is worth waiting for are left
 *	alone, see nopin_wait_buys(). NULL to pin all.
 *
 * Pages that were pinned like that before are left alone.
 *
 * Context: Process context, does not sleep. An invalidation has closed the
 * pages for these directions.
 *
 * Return: 0 if there is nothing left to wait for; -EAGAIN if there is I/O that is
 * worth waiting for; -ENOMEM if there is only I/O for which a pin could not be
 * had.
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
			trace_nopin_pin(nopin_addr(range, first),
					nopin_addr(range, next),
					range->nr_pinned - before);
		rcu_read_unlock();
		spin_unlock(&range->lock);
	}
	/* Those who wait for these pages need not any longer */
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
