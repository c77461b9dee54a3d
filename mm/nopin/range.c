// SPDX-License-Identifier: GPL-2.0
/*
 * The protocol between I/O that uses user pages and invalidations of them.
 *
 * The invariant:
 *
 *   While a page is entered, the PTE that the bio relies on is not cleared,
 *   downgraded or cleaned.
 *
 * So the page is neither freed nor moved, and needs no reference. A bio uses a
 * page only between nopin_enter() and nopin_exit(), see block/bio-nopin.c.
 *
 * The count of bios and CLOSED are in one atomic, so one of the two sides comes
 * second and sees the other. Either the bio finds the page closed and stays out,
 * or the invalidation finds it in use. Then the invalidation waits, refuses, or
 * pins the page on behalf of the bio, see invalidate.c and pin.c.
 *
 * nopin_open() does not open a page while an invalidation that covers it is
 * between start and end, or else a bio would rely on a PTE that is about to
 * change. mmu_interval_is_active() tells, under the range lock. The PTE is read
 * under the same lock, after the page was opened, and the translation is kept for
 * later I/O, see cache.c. Pages start out closed, because an invalidation that
 * began before the range was registered is not reported to it.
 *
 * Documentation/mm/nopin.rst shows the steps of both sides.
 */

#include <linux/atomic.h>
#include <linux/bitops.h>
#include <linux/init.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmstat.h>
#include <xen/xen.h>

#include "nopin.h"

#include <trace/events/nopin.h>

static struct kmem_cache *nopin_chunk_cache;

#ifdef CONFIG_LOCKDEP
/*
 * A task "holds" this while it has entered pages for a prompt bio and has not
 * called submit_bio() yet. A task that waits for I/O "acquires" it. So lockdep
 * reports locks taken in between that an invalidation holds while it waits.
 */
static struct lockdep_map nopin_window_map =
	STATIC_LOCKDEP_MAP_INIT("nopin_window", &nopin_window_map);

static bool nopin_map_held(struct lockdep_map *map)
{
	return lock_is_held(map) == LOCK_STATE_HELD;
}

/**
 * nopin_window_begin - the current task is about to enter pages for a prompt bio
 *
 * Context: Process context. Ends with nopin_window_end().
 */
void nopin_window_begin(void)
{
	lock_map_acquire(&nopin_window_map);
}

/**
 * nopin_window_end - the bio is about to be submitted, has ended or was given up
 *
 * Context: Any. A bio that was submitted comes here again when it ends, perhaps
 * in an interrupt, of which the current task knows nothing.
 */
void nopin_window_end(void)
{
	if (in_task() && nopin_map_held(&nopin_window_map))
		lock_map_release(&nopin_window_map);
}

/*
 * mmu_notifier_invalidate_range_start() tells lockdep that any allocation may
 * get there. But an allocation never waits for I/O: it gets there in PF_MEMALLOC
 * context, see nopin_patience(). So step out of that map for the moment. Otherwise
 * an allocation between entering pages and submit_bio() would look like a
 * deadlock.
 */
void nopin_window_wait(void)
{
	struct lockdep_map *start = &__mmu_notifier_invalidate_range_start_map;
	bool held = nopin_map_held(start);

	if (held)
		lock_map_release(start);
	lock_map_acquire(&nopin_window_map);
	lock_map_release(&nopin_window_map);
	if (held)
		lock_map_acquire(start);
}
#endif

static void nopin_chunk_free_rcu(struct rcu_head *rcu)
{
	struct nopin_chunk *chunk = container_of(rcu, struct nopin_chunk, rcu);

	kfree(chunk->bvec);
	kmem_cache_free(nopin_chunk_cache, chunk);
}

/* A chunk with all pages closed, not yet in the range */
static struct nopin_chunk *nopin_chunk_alloc(struct nopin_range *range,
					     unsigned int page)
{
	struct nopin_chunk *chunk;
	unsigned int dir, i;

	chunk = kmem_cache_alloc_lru(nopin_chunk_cache, &nopin_lru,
				     GFP_KERNEL | __GFP_ZERO);
	if (!chunk)
		return NULL;
	chunk->bvec = kcalloc(NOPIN_CHUNK_PAGES, sizeof(*chunk->bvec),
			      GFP_KERNEL_ACCOUNT);
	if (!chunk->bvec) {
		kmem_cache_free(nopin_chunk_cache, chunk);
		return NULL;
	}
	INIT_LIST_HEAD(&chunk->lru);
	chunk->range = range;
	chunk->index = page / NOPIN_CHUNK_PAGES;
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		for (i = 0; i < NOPIN_CHUNK_WORDS; i++)
			atomic64_set(&chunk->word[dir][i],
				     NOPIN_CLOSED | NOPIN_OLD);
	return chunk;
}

/*
 * Make sure that there are states of the page; they may be freed again by the time
 * this returns. -EFAULT if no page is mapped: I/O that fails leaves no states.
 */
static int nopin_chunk_add(struct nopin_range *range, unsigned int page,
			   enum nopin_dir dir)
{
	struct nopin_slot *slot = &range->slot[page / NOPIN_CHUNK_PAGES];
	struct nopin_chunk *chunk;

	if (READ_ONCE(slot->chunk))
		return 0;
	if (!nopin_present(range->notifier.mm, nopin_addr(range, page), dir))
		return -EFAULT;
	chunk = nopin_chunk_alloc(range, page);
	if (!chunk)
		return -ENOMEM;

	spin_lock(&range->lock);
	if (!slot->chunk) {
		nopin_cache_add(chunk);
		/* No bio uses that of a chunk that was freed: its pages were idle */
		slot->bvec = chunk->bvec;
		/* Pairs with the smp_load_acquire() in nopin_chunk_at() */
		smp_store_release(&slot->chunk, chunk);
		chunk = NULL;
	}
	spin_unlock(&range->lock);

	if (chunk)
		nopin_chunk_free_rcu(&chunk->rcu); /* lost a race */
	return 0;
}

/**
 * nopin_chunk_free - free the states of 512 pages if no I/O uses them
 * @chunk: the chunk
 *
 * Closes all pages, and sees by the same atomics whether any is in use. If so
 * they stay closed, which costs the next I/O a call of nopin_open().
 *
 * Context: Process context, with &nopin_range.lock held.
 *
 * Return: whether the chunk is gone. It is freed after a grace period: I/O that
 * is about to enter a page of it finds the page closed.
 */
bool nopin_chunk_free(struct nopin_chunk *chunk)
{
	struct nopin_range *range = chunk->range;
	unsigned int dir, i;
	bool busy = false;

	lockdep_assert_held(&range->lock);

	if (range->draining || test_bit(chunk->index, range->pinned))
		return false;
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		for (i = 0; i < NOPIN_CHUNK_WORDS; i++)
			if (atomic64_read(&chunk->word[dir][i]) & NOPIN_COUNTS)
				return false;
	/* A full barrier. Pairs with the one in nopin_enter_word() */
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		for (i = 0; i < NOPIN_CHUNK_WORDS; i++)
			if (atomic64_fetch_or(NOPIN_CLOSED | NOPIN_OLD,
					      &chunk->word[dir][i]) & NOPIN_COUNTS)
				busy = true;
	if (busy)
		return false;

	WRITE_ONCE(range->slot[chunk->index].chunk, NULL);
	/* Pairs with the rcu_read_lock() in nopin_enter() and in nopin_exit() */
	call_rcu(&chunk->rcu, nopin_chunk_free_rcu);
	return true;
}

/**
 * nopin_enter_undo - exit the pages that were entered before one that is closed
 * @chunk: the chunk of the pages
 * @page: index of the first page
 * @nr: number of pages, at least 1
 * @dir: as they have been entered for
 *
 * Context: Within the rcu_read_lock() of nopin_enter().
 */
void nopin_enter_undo(struct nopin_chunk *chunk, unsigned int page,
		      unsigned int nr, enum nopin_dir dir)
{
	if (nopin_exit_pages(chunk, page, nr, dir))
		nopin_exit_wake(chunk->range);
}

/**
 * nopin_exit_wake - wake tasks that wait, and have pins dropped
 * @range: range of closed pages that were exited
 *
 * Context: Any, within rcu_read_lock() since before the pages were exited.
 */
void nopin_exit_wake(struct nopin_range *range)
{
	/* The caller has lowered the count: that is the barrier for both */
	if (waitqueue_active(&range->wait))
		wake_up_all(&range->wait);
	if (READ_ONCE(range->nr_pinned))
		nopin_unpin(range);
}

/**
 * nopin_exit_slow - nopin_exit() for pages of several chunks, or whose I/O is not
 *		     prompt
 * @ext: the pages
 * @dir: as they have been entered for
 *
 * Context: As for nopin_exit().
 */
void nopin_exit_slow(const struct nopin_extent *ext, enum nopin_dir dir)
{
	unsigned int first = ext->first, end = first + ext->nr, next;
	struct nopin_range *range = ext->range;
	bool other = ext->other, closed = false;

	/* As in nopin_exit() */
	rcu_read_lock();
	for (; first < end; first = next) {
		struct nopin_chunk *chunk = nopin_chunk_at(range, first);

		next = min(end, nopin_next_chunk(first));
		closed |= nopin_exit_pages(chunk, first, next - first, dir);
		if (other)
			nopin_other_end(chunk);
	}
	if (unlikely(closed))
		nopin_exit_wake(range);
	rcu_read_unlock();
}

/*
 * Open the closed pages of a chunk, but for those that are pinned on behalf of
 * earlier I/O, in either direction: both share the translation, and bios of the
 * other direction may still be using it. No invalidation covers the pages.
 */
static void nopin_open_pages(struct nopin_chunk *chunk, unsigned int page,
			     unsigned int end, enum nopin_dir dir)
{
	for (; page < end; page = nopin_next_word(page)) {
		atomic64_t *word = nopin_word(chunk, page, dir);
		s64 old = atomic64_read(word), new;
		u64 closed = old & nopin_bytes(page, end) & NOPIN_CLOSED;

		if (!closed)
			continue;
		closed &= ~nopin_pinned_bytes(chunk, page, NOPIN_FROM_DEVICE) &
			  ~nopin_pinned_bytes(chunk, page, NOPIN_TO_DEVICE);
		/* Counts may change; CLOSED not, as we have the range lock */
		do {
			new = (old & ~closed) | closed >> 1;
		} while (!atomic64_try_cmpxchg(word, &old, new));
		WRITE_ONCE(chunk->used[dir], chunk->used[dir] |
			   BIT_ULL(word - chunk->word[dir]));
	}
}

/* Is any of the pages closed, or its count full? */
static bool nopin_no_entry(struct nopin_chunk *chunk, unsigned int page,
			   unsigned int end, enum nopin_dir dir)
{
	for (; page < end; page = nopin_next_word(page)) {
		u64 mask = nopin_bytes(page, end);
		u64 word = atomic64_read(nopin_word(chunk, page, dir)) & mask;

		/* One more would carry into OLD */
		if ((word & NOPIN_CLOSED) ||
		    (((word & NOPIN_COUNTS) + (mask & NOPIN_ONES)) & NOPIN_OLD))
			return true;
	}
	return false;
}

/*
 * Open pages of a chunk and look them up, with the range lock held. No invalidation
 * covers them.
 */
static int nopin_open_chunk(struct nopin_chunk *chunk, unsigned int start,
			    unsigned int end, enum nopin_dir dir)
{
	struct nopin_range *range = chunk->range;
	unsigned int base = chunk->index * NOPIN_CHUNK_PAGES;
	unsigned int nr = min(NOPIN_CHUNK_PAGES, range->nr_pages - base);
	int ret;

	nopin_open_pages(chunk, start, end, dir);
	if (nopin_no_entry(chunk, start, end, dir))
		return -EBUSY;
	ret = nopin_walk(chunk, start, end, dir, false);
	if (ret < 0)
		return ret;

	/* All of the chunk: at once if a PMD maps it, otherwise when it pays */
	chunk->walked += end - start;
	if (end - start == nr) {
		chunk->walked = 0;
	} else if ((ret || chunk->walked >= NOPIN_WALK_ALL) &&
		   !mmu_interval_is_active(&range->notifier,
					   nopin_addr(range, base),
					   nopin_addr(range, base + nr))) {
		nopin_open_pages(chunk, 0, nr, dir);
		/* If none became known, not before as many more were looked up */
		chunk->walked = nopin_walk(chunk, 0, nr, dir, true) > 0 ?
				0 : -NOPIN_CHUNK_PAGES;
	}
	if (!chunk->walked &&
	    nopin_contiguous(range, base, chunk->bvec, NOPIN_CHUNK_PAGES))
		set_bit(chunk->index, range->adjacent);
	count_vm_event(NOPIN_REVALIDATE);
	return 0;
}

/**
 * nopin_open - let I/O enter pages
 * @range: range of the pages
 * @first: index of the first page in @range
 * @nr: number of pages, at least 1; all of them of the same chunk
 * @dir: direction to open
 * @nowait: do not wait for an invalidation to end
 *
 * Waits until no invalidation covers any of the pages, opens them, and looks them
 * up. An invalidation may wait for I/O: the caller must have entered nothing. One
 * invalidation may follow the other, so the wait is bounded, by a little more than
 * twice what an invalidation waits for I/O. After a wait in vain no I/O waits in
 * this range for ten times as long.
 *
 * Context: Process context of a task that uses the mm, may sleep. Even with
 * @nowait it may allocate memory.
 *
 * Return: 0, but the pages may be closed again; -EAGAIN if an invalidation
 * intervened, or with @nowait is active; -ETIME if waiting is in vain; -EBUSY if
 * too many bios use a page, or it is pinned on behalf of earlier ones; -EFAULT and
 * -EPERM as nopin_walk(); -ENOMEM.
 */
int nopin_open(struct nopin_range *range, unsigned int first, unsigned int nr,
	       enum nopin_dir dir, bool nowait)
{
	unsigned long start = nopin_addr(range, first);
	unsigned long stop = nopin_addr(range, first + nr);
	unsigned int page = first % NOPIN_CHUNK_PAGES;
	struct nopin_chunk *chunk;
	long timeout = 0;
	int ret;

	/* With pages entered we would wait for ourselves */
	nopin_window_wait();

	ret = nopin_chunk_add(range, first, dir);
	if (ret)
		goto out;

	/* Enough for an invalidation that waits for I/O itself */
	if (!nowait && time_after_eq(jiffies, READ_ONCE(range->crowded)))
		timeout = 2 * msecs_to_jiffies(READ_ONCE(nopin_rmap_wait_ms)) +
			  HZ / 10;
	if (timeout &&
	    !mmu_interval_wait(&range->notifier, start, stop, timeout)) {
		/* Limit waiting to 10 %: skip it for ten times as long */
		WRITE_ONCE(range->crowded, jiffies + 10 * timeout);
		ret = -ETIME;
		goto out;
	}

	/* Serializes with nopin_invalidate() */
	spin_lock(&range->lock);
	chunk = nopin_chunk_at(range, first);
	if (mmu_interval_is_active(&range->notifier, start, stop))
		ret = nowait || timeout ? -EAGAIN : -ETIME;
	else if (unlikely(!chunk))
		/* Freed since, as it was not in use: try again */
		ret = -EAGAIN;
	else
		ret = nopin_open_chunk(chunk, page, page + nr, dir);
	spin_unlock(&range->lock);
out:
	trace_nopin_open(start, nr, dir, ret);
	return ret;
}

static const struct mmu_interval_notifier_ops nopin_notifier_ops = {
	.invalidate	= nopin_invalidate,
	.young		= nopin_young,
};

/**
 * nopin_range_create - watch a range of user memory
 * @mm: the mm
 * @start: first address, a multiple of NOPIN_CHUNK_SIZE
 * @nr_pages: length, at most 1 GiB
 *
 * Context: Process context, with the mm in use; takes the mmap_lock for
 * writing if @mm has no interval notifier yet.
 *
 * Return: the range, all of its pages closed, or an ERR_PTR(): -ENOMEM, -EINTR
 * on a signal, -EOVERFLOW if the range wraps.
 */
struct nopin_range *nopin_range_create(struct mm_struct *mm,
				       unsigned long start,
				       unsigned int nr_pages)
{
	unsigned int nr = DIV_ROUND_UP(nr_pages, NOPIN_CHUNK_PAGES);
	struct nopin_range *range;
	int ret;

	range = kvzalloc(struct_size(range, slot, nr), GFP_KERNEL_ACCOUNT);
	if (!range)
		return ERR_PTR(-ENOMEM);
	spin_lock_init(&range->lock);
	init_waitqueue_head(&range->wait);
	INIT_DELAYED_WORK(&range->unpin, nopin_unpin_work);
	refcount_set(&range->ref, 1);
	range->late = jiffies;
	range->crowded = jiffies;
	/* Are struct pages in the same order as memory? */
	range->apart = IS_ENABLED(CONFIG_KMSAN) || xen_domain();
	range->start = start;
	range->nr_pages = nr_pages;

	ret = mmu_interval_notifier_insert(&range->notifier, mm, start,
					   (unsigned long)nr_pages << PAGE_SHIFT,
					   &nopin_notifier_ops);
	if (ret) {
		kvfree(range);
		return ERR_PTR(ret);
	}
	return range;
}

static void nopin_range_free(struct rcu_head *rcu)
{
	struct nopin_range *range = container_of(rcu, struct nopin_range, rcu);
	unsigned int i;

	for (i = 0; i < nopin_nr_chunks(range); i++)
		if (range->slot[i].chunk)
			nopin_chunk_free_rcu(&range->slot[i].chunk->rcu);
	kvfree(range);
}

/**
 * nopin_range_put - drop a reference to a range
 * @range: the range
 *
 * Context: Any.
 */
void nopin_range_put(struct nopin_range *range)
{
	if (!refcount_dec_and_test(&range->ref))
		return;
	/* Pairs with the rcu_read_lock() in nopin_exit() */
	call_rcu(&range->rcu, nopin_range_free);
}

/**
 * nopin_range_destroy - stop watching a range
 * @range: the range
 *
 * No new I/O may use @range. Earlier I/O has lowered all counts, but its calls of
 * nopin_exit() may not have returned yet. For pages that are pinned on its behalf,
 * these calls may not even have begun.
 *
 * Context: Process context, may sleep.
 */
void nopin_range_destroy(struct nopin_range *range)
{
	unsigned int i;

	mmu_interval_notifier_remove(&range->notifier);
	/* nopin_cache_age() and the shrinker may free chunks at the same time */
	spin_lock(&range->lock);
	for (i = 0; i < nopin_nr_chunks(range); i++)
		if (range->slot[i].chunk)
			list_lru_del_obj(&nopin_lru, &range->slot[i].chunk->lru);
	spin_unlock(&range->lock);
	nopin_range_put(range);
}

/* Before the first I/O */
int __init nopin_range_init(void)
{
	nopin_chunk_cache = kmem_cache_create("nopin_chunk",
					      sizeof(struct nopin_chunk), 0,
					      SLAB_ACCOUNT, NULL);
	return nopin_chunk_cache ? 0 : -ENOMEM;
}
