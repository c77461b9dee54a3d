// SPDX-License-Identifier: GPL-2.0
/*
 * Pins on behalf of I/O that takes too long.
 *
 * An invalidation that cannot be refused waits for I/O for some time only, see
 * nopin_patience() in range.c. Then it takes the pins that the bios have done
 * without and goes on. From there these bios have what pinned ones have: their
 * pages are theirs until they end, wherever the mapping goes meanwhile.
 *
 * It can do so at any time before it returns: a page that is entered still is
 * where the PTE says. A bio that has entered it and has not read the PTE yet
 * finds out by nopin_check() that it is too late. One pin per page and
 * direction does for all the bios that have entered the page. As the page is
 * closed, no further ones come; when the last one has left, the pin is dropped.
 *
 * So the bios need not know. They exit as ever, which wakes those who wait for
 * closed pages, and the pin is one of these, see nopin_pin_wake(). It is in a
 * worker that pages are then set dirty and unpinned: the bios end in interrupts,
 * and the PTE that was dirty may be gone or clean by now.
 *
 * Until then the page stays closed: what its count is about is what the pin is
 * about. New I/O to the page, or what is mapped in its place, gets pinned the
 * usual way.
 */

#include <linux/bitops.h>
#include <linux/mm.h>
#include <linux/nopin.h>
#include <linux/nopin_break.h>
#include <linux/refcount.h>
#include <linux/sched/coredump.h>
#include <linux/slab.h>
#include <linux/vmstat.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <trace/events/nopin.h>

#include "../internal.h"
#include "nopin.h"

/**
 * struct nopin_pins - pages of one chunk that were pinned
 * @range: range of the pages, with a reference
 * @first: index of the first page of the chunk
 * @dir: what the device does with the pages
 * @nr: number of pages
 * @pinned: what this has set in &nopin_chunk.pinned
 * @wait: entry in &nopin_range.wait
 * @work: drops the pins
 * @page: the pages
 */
struct nopin_pins {
	struct nopin_range	*range;
	unsigned int		first;
	enum nopin_dir		dir;
	unsigned int		nr;
	u64			pinned[NOPIN_CHUNK_BITMAP];
	struct wait_queue_entry	wait;
	struct work_struct	work;
	struct page		*page[];
};

/* How many bios have entered the page? */
static unsigned int nopin_count(struct nopin_chunk *chunk, unsigned int page,
				enum nopin_dir dir)
{
	/* Acquire: what they did to the page comes before what we do */
	u64 word = atomic64_read_acquire(nopin_word(chunk, page, dir));

	return word >> (page % NOPIN_PAGES_PER_WORD * NOPIN_PAGE_BITS) &
	       NOPIN_PAGE_MAX;
}

static bool nopin_pinned(const struct nopin_chunk *chunk, unsigned int page,
			 enum nopin_dir dir)
{
	page %= NOPIN_CHUNK_PAGES;
	return READ_ONCE(chunk->pinned[dir][page / NOPIN_BITS_PER_WORD]) &
	       BIT_ULL(page % NOPIN_BITS_PER_WORD);
}

/* The I/O has ended; the rest takes a context that can sleep */
static void nopin_pin_work(struct work_struct *work)
{
	struct nopin_pins *pins = container_of(work, struct nopin_pins, work);
	struct nopin_range *range = pins->range;
	struct nopin_chunk *chunk = nopin_chunk(range, pins->first);
	unsigned int i;

	/*
	 * Not unpin_user_pages() for pages that the device has read: they need
	 * not be exclusive.
	 */
	if (pins->dir == NOPIN_FROM_DEVICE)
		unpin_user_pages_dirty_lock(pins->page, pins->nr, true);
	else
		for (i = 0; i < pins->nr; i++)
			unpin_user_folio(page_folio(pins->page[i]), 1);

	spin_lock(&range->lock);
	for (i = 0; i < NOPIN_CHUNK_BITMAP; i++) {
		/* Left behind by nopin_forget(), if they were known */
		nopin_forget_bits(chunk, pins->dir, i, pins->pinned[i]);
		WRITE_ONCE(chunk->pinned[pins->dir][i],
			   chunk->pinned[pins->dir][i] & ~pins->pinned[i]);
	}
	spin_unlock(&range->lock);

	nopin_range_put(range);
	kfree(pins);
}

/* Somebody exits: was it the last one? */
static int nopin_pin_wake(struct wait_queue_entry *wait, unsigned int mode,
			  int flags, void *key)
{
	struct nopin_pins *pins = container_of(wait, struct nopin_pins, wait);
	struct nopin_chunk *chunk = nopin_chunk(pins->range, pins->first);
	unsigned int i, bit;

	for (i = 0; i < NOPIN_CHUNK_BITMAP; i++) {
		u64 bits = pins->pinned[i];

		for (; bits; bits &= bits - 1) {
			bit = i * NOPIN_BITS_PER_WORD + __ffs64(bits);
			if (nopin_count(chunk, bit, pins->dir))
				return 0;
		}
	}
	list_del_init(&wait->entry);
	queue_work(system_unbound_wq, &pins->work);
	return 0;
}

/* Pin one page, if anybody still uses it; false if there is no telling */
static bool nopin_pin_page(struct nopin_pins *pins, struct nopin_chunk *chunk,
			   unsigned int page)
{
	struct nopin_range *range = pins->range;
	unsigned int start = page % NOPIN_CHUNK_PAGES;
	struct folio *folio;
	bool done = true;

	lockdep_assert_held(&range->lock);

	folio = nopin_walk_get(range->notifier.mm,
			       nopin_addr(range, page),
			       &pins->page[pins->nr]);
	/*
	 * If somebody uses the page now, it was mapped when it was looked up.
	 * Getting the reference is a full barrier.
	 */
	if (!nopin_count(chunk, page, pins->dir))
		goto put;
	if (!folio || try_grab_folio(folio, 1, FOLL_PIN)) {
		done = false;
		goto put;
	}
	pins->nr++;
	pins->pinned[start / NOPIN_BITS_PER_WORD] |=
		BIT_ULL(start % NOPIN_BITS_PER_WORD);
	WRITE_ONCE(chunk->pinned[pins->dir][start / NOPIN_BITS_PER_WORD],
		   chunk->pinned[pins->dir][start / NOPIN_BITS_PER_WORD] |
		   BIT_ULL(start % NOPIN_BITS_PER_WORD));
put:
	if (folio)
		folio_put(folio);
	return done;
}

/* As nopin_pin(), for pages of one chunk and one direction */
static bool nopin_pin_chunk(struct nopin_range *range, unsigned int first,
			    unsigned int end, enum nopin_dir dir)
{
	struct nopin_chunk *chunk = nopin_chunk(range, first);
	unsigned int page, nr = 0;
	struct nopin_pins *pins;
	bool done = true;

	if (!chunk)
		return true;
	for (page = first; page < end; page++)
		if (nopin_count(chunk, page, dir) &&
		    !nopin_pinned(chunk, page, dir))
			nr++;
	if (!nr)
		return true;

	/* Callers hold locks that reclaim may want */
	pins = kzalloc(struct_size(pins, page, nr), GFP_NOWAIT | __GFP_NOWARN);
	if (!pins)
		return false;
	pins->range = range;
	pins->first = round_down(first, NOPIN_CHUNK_PAGES);
	pins->dir = dir;
	init_waitqueue_func_entry(&pins->wait, nopin_pin_wake);
	INIT_WORK(&pins->work, nopin_pin_work);

	spin_lock(&range->lock);
	for (page = first; page < end && done; page++) {
		if (!nopin_count(chunk, page, dir) ||
		    nopin_pinned(chunk, page, dir))
			continue;
		/* Closed pages do not become busy, so there should be room */
		done = pins->nr < nr && nopin_pin_page(pins, chunk, page);
	}
	spin_unlock(&range->lock);

	if (!pins->nr) {
		kfree(pins);
		return done;
	}
	refcount_inc(&range->ref);
	count_vm_events(NOPIN_PINNED, pins->nr);
	trace_nopin_pin(nopin_addr(range, first),
			nopin_addr(range, end),
			pins->nr, dir);
	add_wait_queue(&range->wait, &pins->wait);
	/*
	 * The last one may have left just before. The lock of the queue does
	 * not order what precedes it; pairs with the barrier in
	 * nopin_exit_word().
	 */
	smp_mb();
	wake_up_all(&range->wait);
	return done;
}

/**
 * nopin_pin - take the pins that the I/O in flight has done without
 * @range: range of the pages
 * @first: index of the first page in @range
 * @end: index behind the last page
 * @dirs: number of directions, from the first one
 *
 * Pages that were pinned like that before are left alone.
 *
 * Context: Process context, does not sleep. An invalidation has closed the
 * pages for these directions and was waiting for the I/O on them.
 *
 * Return: whether there is nothing left to wait for. False when there is no
 * memory, or a PTE cannot be read right now, with some pages pinned maybe.
 */
bool nopin_pin(struct nopin_range *range, unsigned int first,
	       unsigned int end, unsigned int dirs)
{
	struct mm_struct *mm = range->notifier.mm;
	unsigned int next, dir;

	if (nopin_broken(UNHELD))
		return true;
	/* Fork has to see it before it looks at the pages */
	if (!test_bit(MMF_HAS_PINNED, &mm->flags))
		set_bit(MMF_HAS_PINNED, &mm->flags);

	for (; first < end; first = next) {
		next = min(end, nopin_next_chunk(first));
		for (dir = 0; dir < dirs; dir++)
			if (!nopin_pin_chunk(range, first, next, dir))
				return false;
	}
	return true;
}
