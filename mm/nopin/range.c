// SPDX-License-Identifier: GPL-2.0
/*
 * The protocol between I/O that uses user pages and invalidations of them.
 *
 * I/O side				Invalidation side
 *
 * nopin_enter():			nopin_invalidate():
 *   count += 1 unless CLOSED		  set CLOSED
 * nopin_walk():			  wait for count == 0
 *   read the PTE			the caller changes the PTE
 * nopin_check():
 *   out again if CLOSED by now
 * device works on the page		mmu_notifier_invalidate_range_end()
 * nopin_exit():
 *   count -= 1, wake the waiter	nopin_open(), from a later nopin_enter():
 *					  clear CLOSED unless still invalidating
 *
 * CLOSED and the count are parts of the same atomic, so one of the two comes
 * second and sees the other: either the I/O finds the page closed and stays
 * out, or the invalidation finds it in use and waits. Hence the invariant:
 *
 *   While a page is entered, the PTE that the bio relies on is not cleared,
 *   downgraded or cleaned.
 *
 * The page can thus neither be freed nor change places, and no reference to it
 * is needed. There is no other use of a page by a bio than between the two
 * calls, see block/bio-nopin.c.
 *
 * Who may reopen a page: nobody while any invalidation that covers it is
 * between start and end, or else a bio would rely on a PTE that is about to
 * change. mmu_interval_is_active(), under the range lock, tells. Pages start out
 * closed, because an invalidation that began before the range was registered is
 * not reported to it.
 *
 * An invalidation does not always wait, see invalidate.c. Pages that it does not
 * wait for, or not any longer, are pinned on behalf of the I/O, see pin.c.
 */

#include <linux/atomic.h>
#include <linux/bitops.h>
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/nopin.h>
#include <linux/nopin_break.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "nopin.h"

#include <trace/events/nopin.h>

static struct kmem_cache *nopin_chunk_cache;

#ifdef CONFIG_LOCKDEP
/*
 * "Acquired" while a task has entered pages for a prompt bio that it has not
 * submitted yet, and by a task that waits for I/O. So lockdep reports any lock
 * or wait in between that an invalidation might need to make progress.
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
 * nopin_window_end - the bio was submitted, ended or given up
 *
 * Context: Any; a bio that ends while it is being submitted comes here twice,
 * one that ends in interrupt context has nothing to do with the task.
 */
void nopin_window_end(void)
{
	if (in_task() && nopin_map_held(&nopin_window_map))
		lock_map_release(&nopin_window_map);
}

/*
 * mmu_notifier_invalidate_range_start() tells lockdep that any allocation may
 * get there. That is not true of waiting for I/O: allocations come from
 * PF_MEMALLOC context, which never waits, see nopin_patience(). So step out of
 * that map for the moment; otherwise an allocation in submit_bio() would look
 * like a deadlock.
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

	kfree(chunk->cache.bvec);
	kfree(chunk->pins);
	kmem_cache_free(nopin_chunk_cache, chunk);
}

/* A chunk with all pages closed, which is not yet part of the range */
static struct nopin_chunk *nopin_chunk_alloc(struct nopin_range *range,
					     unsigned int page)
{
	struct nopin_chunk *chunk = nopin_cache_alloc(nopin_chunk_cache);
	unsigned int dir, i;

	if (!chunk)
		return NULL;
	chunk->range = range;
	chunk->index = (range->start >> NOPIN_CHUNK_SHIFT) +
		       page / NOPIN_CHUNK_PAGES;
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		for (i = 0; i < NOPIN_CHUNK_WORDS; i++)
			atomic64_set(&chunk->word[dir][i],
				     NOPIN_CLOSED | NOPIN_OLD);
	return chunk;
}

/*
 * Make sure that there are states of the page, and with @other room for the pin
 * of each page of its chunk. They may be freed again by the time this returns.
 */
static int nopin_chunk_add(struct nopin_range *range, unsigned int page,
			   bool other)
{
	struct nopin_chunk **slot = &range->chunk[page / NOPIN_CHUNK_PAGES];
	struct page **pins = NULL;
	struct nopin_chunk *chunk;
	bool has, has_pins;

	rcu_read_lock();
	chunk = nopin_chunk(range, page);
	has = chunk;
	has_pins = has && READ_ONCE(chunk->pins);
	rcu_read_unlock();
	chunk = NULL;
	if (has && (has_pins || !other))
		return 0;

	if (!has)
		chunk = nopin_chunk_alloc(range, page);
	if (other)
		pins = kcalloc(NOPIN_CHUNK_PAGES, sizeof(*pins),
			       GFP_KERNEL_ACCOUNT);
	if ((!has && !chunk) || (other && !pins)) {
		if (chunk)
			nopin_chunk_free_rcu(&chunk->rcu);
		kfree(pins);
		return -ENOMEM;
	}

	spin_lock(&range->lock);
	if (chunk && !*slot) {
		nopin_cache_add(chunk);
		/* Pairs with the smp_load_acquire() in nopin_chunk() */
		smp_store_release(slot, chunk);
		chunk = NULL;
	}
	if (*slot && !(*slot)->pins) {
		/* Pairs with the smp_load_acquire() in nopin_other_begin() */
		smp_store_release(&(*slot)->pins, pins);
		pins = NULL;
	}
	spin_unlock(&range->lock);

	if (chunk)
		nopin_chunk_free_rcu(&chunk->rcu); /* lost a race */
	kfree(pins);
	return 0;
}

/**
 * nopin_chunk_free - free the states of 512 pages if nobody uses them
 * @chunk: the chunk
 *
 * Closes all pages, and then looks whether any is in use. If so they stay
 * closed, which costs the next I/O a call of nopin_open().
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

	if (range->draining || atomic_read(&chunk->other) ||
	    memchr_inv(chunk->pinned, 0, sizeof(chunk->pinned)))
		return false;
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		for (i = 0; i < NOPIN_CHUNK_WORDS; i++)
			if (atomic64_read(&chunk->word[dir][i]) & NOPIN_COUNTS &&
			    !nopin_broken(SHRINK))
				return false;
	/* A full barrier. Pairs with the one in nopin_enter_word() */
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		for (i = 0; i < NOPIN_CHUNK_WORDS; i++)
			if (atomic64_fetch_or(NOPIN_CLOSED | NOPIN_OLD,
					      &chunk->word[dir][i]) & NOPIN_COUNTS)
				busy = true;
	if (busy && !nopin_broken(SHRINK))
		return false;

	i = chunk->index - (range->start >> NOPIN_CHUNK_SHIFT);
	WRITE_ONCE(range->chunk[i], NULL);
	/* Pairs with the rcu_read_lock() in nopin_enter() and nopin_exit() */
	call_rcu(&chunk->rcu, nopin_chunk_free_rcu);
	return true;
}

static __always_inline bool nopin_enter_word(atomic64_t *word, u64 ones,
					     u64 *why)
{
	u64 flags = ones * (NOPIN_PAGE_CLOSED | NOPIN_PAGE_OLD);
	s64 old = atomic64_read(word), new;

	do {
		new = old + ones;
		*why = old & (ones * NOPIN_PAGE_CLOSED);
		/* or a count about to spill over */
		if (unlikely(*why || (old ^ new) & flags) &&
		    (*why || !nopin_broken(OVERFLOW)))
			return false;
		/*
		 * A full barrier, between the count and the PTE, or its
		 * translation, that the caller reads. Pairs with the one in
		 * nopin_close().
		 */
	} while (!atomic64_try_cmpxchg(word, &old, new));
	return true;
}

/* Leave pages of one chunk; returns whether any is closed */
static bool nopin_exit_chunk(struct nopin_chunk *chunk, unsigned int start,
			     unsigned int nr, enum nopin_dir dir)
{
	unsigned int page = start, end = start + nr, next;
	u64 closed = 0;

	for (; page < end; page = next) {
		next = min(end, nopin_next_word(page));
		closed |= nopin_exit_word(nopin_word(chunk, page, dir),
					  nopin_ones(page, next - page));
	}
	return closed;
}

/**
 * nopin_enter_words - enter pages whose translations are in use
 * @chunk: chunk of the pages
 * @start: index of the first page in @chunk
 * @nr: number of pages
 * @dir: what a device is going to do with them
 *
 * Context: As for nopin_enter_cached().
 *
 * Return: whether all of the pages have been entered; otherwise none was.
 */
bool nopin_enter_words(struct nopin_chunk *chunk, unsigned int start,
		       unsigned int nr, enum nopin_dir dir)
{
	unsigned int page = start, end = start + nr, next;

	for (; page < end; page = next) {
		next = min(end, nopin_next_word(page));
		if (unlikely(!nopin_enter_known(nopin_word(chunk, page, dir),
						nopin_ones(page, next - page)))) {
			if (nopin_exit_chunk(chunk, start, page - start, dir))
				nopin_exit_wake(chunk->range);
			return false;
		}
	}
	return true;
}

/* nopin_enter() for pages of one chunk, which are all entered or none */
static int nopin_enter_chunk(struct nopin_chunk *chunk, unsigned int start,
			     unsigned int nr, enum nopin_dir dir)
{
	unsigned int page = start, end = start + nr, next;
	u64 why;

	for (; page < end; page = next) {
		next = min(end, nopin_next_word(page));
		if (likely(nopin_enter_word(nopin_word(chunk, page, dir),
					    nopin_ones(page, next - page), &why)))
			continue;
		if (nopin_exit_chunk(chunk, start, page - start, dir))
			nopin_exit_wake(chunk->range);
		return why ? -EAGAIN : -EBUSY;
	}
	return 0;
}

/**
 * nopin_enter - keep the mappings of some pages as they are
 * @range: range of the pages
 * @first: index of the first page in @range
 * @nr: number of pages, at least 1
 * @dir: what a device is going to do with them
 *
 * Once entered, a page's PTE can be relied on until nopin_exit(), provided it
 * is read after this call and before a nopin_check() that returns 0. That holds
 * for PTEs that permit @dir: those of pages that a device writes must be
 * writable and dirty.
 *
 * Context: Any context in which @range cannot go away: that of a task that
 * uses the mm. Does not sleep. Between this call and the submission of the I/O
 * the caller must not wait for anything that may wait for an invalidation.
 *
 * Return: 0, or with nothing entered -EAGAIN if a page is closed (see
 * nopin_open()) or -EBUSY if a page's count is full.
 */
int nopin_enter(struct nopin_range *range, unsigned int first,
		unsigned int nr, enum nopin_dir dir)
{
	unsigned int page = first, end = first + nr, next;
	int ret = 0;

	/* Pairs with the call_rcu() in nopin_chunk_free() */
	rcu_read_lock();
	for (; page < end; page = next) {
		struct nopin_chunk *chunk = nopin_chunk(range, page);

		next = min(end, nopin_next_chunk(page));
		ret = chunk ? nopin_enter_chunk(chunk, page % NOPIN_CHUNK_PAGES,
						next - page, dir) : -EAGAIN;
		if (unlikely(ret)) {
			if (page != first)
				nopin_exit(range, first, page - first, dir);
			break;
		}
	}
	rcu_read_unlock();
	return ret;
}

/**
 * nopin_check - was the mapping read in time?
 * @range: as for nopin_enter()
 * @first: as for nopin_enter()
 * @nr: as for nopin_enter()
 * @dir: as for nopin_enter()
 *
 * To be called behind nopin_walk(). Whoever enters pages and then takes very
 * long to read the PTEs may find those that an invalidation left behind: it had
 * pinned the pages that were there before, on behalf of this very I/O, and went
 * on. Kept translations are different, they stay for as long as the pin does.
 *
 * Context: as for nopin_enter().
 *
 * Return: 0, or -EAGAIN if a page was closed meanwhile. The pages are still
 * entered in either case.
 */
int nopin_check(struct nopin_range *range, unsigned int first,
		unsigned int nr, enum nopin_dir dir)
{
	unsigned int page, end = first + nr;

	if (nopin_broken(CHECK))
		return 0;
	/*
	 * PTEs, of which this may be a new one, before the state. Pairs with
	 * the barrier in nopin_close().
	 */
	smp_rmb();
	for (page = first; page < end; page = nopin_next_word(page)) {
		u64 word = atomic64_read(nopin_word(nopin_chunk(range, page),
						    page, dir));

		if (word & nopin_bytes(page, end) & NOPIN_CLOSED)
			return -EAGAIN;
	}
	return 0;
}

/**
 * nopin_exit_wake - closed pages have been left
 * @range: range of the pages
 *
 * Context: Any, within rcu_read_lock() since before the pages were left.
 */
void nopin_exit_wake(struct nopin_range *range)
{
	if (nopin_broken(FREE))
		mdelay(20);
	/* The subtraction, of the caller, is the barrier that both need */
	if (waitqueue_active(&range->wait))
		wake_up_all(&range->wait);
	if (READ_ONCE(range->nr_pinned))
		nopin_unpin(range);
}

/**
 * nopin_exit - the I/O no longer uses the pages
 * @range: as for nopin_enter()
 * @first: as for nopin_enter()
 * @nr: as for nopin_enter()
 * @dir: as for nopin_enter()
 *
 * Context: Any, hard interrupts included. @range may be freed by a task that
 * waits for the last exit, so callers must not touch it again.
 */
void nopin_exit(struct nopin_range *range, unsigned int first,
		unsigned int nr, enum nopin_dir dir)
{
	unsigned int end = first + nr, next;
	bool closed = false;

	/* As in nopin_exit_extent() */
	rcu_read_lock();
	for (; first < end; first = next) {
		next = min(end, nopin_next_chunk(first));
		closed |= nopin_exit_chunk(nopin_chunk(range, first),
					   first % NOPIN_CHUNK_PAGES,
					   next - first, dir);
	}
	if (unlikely(closed))
		nopin_exit_wake(range);
	rcu_read_unlock();
}

/**
 * nopin_enter_other - nopin_enter() for I/O that is not prompt
 * @range: as for nopin_enter()
 * @first: as for nopin_enter()
 * @nr: as for nopin_enter()
 * @dir: as for nopin_enter()
 *
 * Nobody waits for such I/O: an invalidation pins the pages on its behalf, or is
 * refused, at once. So the caller may wait for anything before it leaves the
 * pages by nopin_exit_other().
 *
 * Context: As for nopin_enter(), but for what may be done behind it.
 *
 * Return: As for nopin_enter(). -EAGAIN also if there is no room for pins, which
 * nopin_open() makes with NOPIN_OPEN_OTHER.
 */
int nopin_enter_other(struct nopin_range *range, unsigned int first,
		      unsigned int nr, enum nopin_dir dir)
{
	unsigned int page = first, end = first + nr, next;
	int ret = 0;

	rcu_read_lock();
	for (; page < end; page = next) {
		/*
		 * Looked up once: with no page entered it may be replaced by
		 * another one, and what is raised in this one is to be lowered
		 * in this one.
		 */
		struct nopin_chunk *chunk = nopin_chunk(range, page);

		next = min(end, nopin_next_chunk(page));
		ret = -EAGAIN;
		if (likely(chunk && nopin_other_begin(chunk))) {
			ret = nopin_enter_chunk(chunk, page % NOPIN_CHUNK_PAGES,
						next - page, dir);
			if (unlikely(ret))
				nopin_other_end(chunk);
		}
		if (unlikely(ret)) {
			if (page != first)
				nopin_exit_other(range, first, page - first,
						 dir);
			break;
		}
	}
	rcu_read_unlock();
	return ret;
}

/**
 * nopin_exit_other - I/O that is not prompt no longer uses the pages
 * @range: as for nopin_enter()
 * @first: as for nopin_enter()
 * @nr: as for nopin_enter()
 * @dir: as for nopin_enter()
 *
 * Context: As for nopin_exit().
 */
void nopin_exit_other(struct nopin_range *range, unsigned int first,
		      unsigned int nr, enum nopin_dir dir)
{
	unsigned int end = first + nr, next;
	bool closed = false;

	/* As in nopin_exit_extent() */
	rcu_read_lock();
	for (; first < end; first = next) {
		struct nopin_chunk *chunk = nopin_chunk(range, first);

		next = min(end, nopin_next_chunk(first));
		closed |= nopin_exit_chunk(chunk, first % NOPIN_CHUNK_PAGES,
					   next - first, dir);
		nopin_other_end(chunk);
	}
	if (unlikely(closed))
		nopin_exit_wake(range);
	rcu_read_unlock();
}

/**
 * nopin_open - let I/O enter pages again
 * @range: range of the pages
 * @first: index of the first page in @range
 * @nr: number of pages
 * @dir: direction to open
 * @flags: NOPIN_OPEN_NOWAIT, not to wait for an invalidation to end;
 *	   NOPIN_OPEN_OTHER, for I/O that is not prompt
 *
 * Opens the pages unless an invalidation of any of them is going on, for which it
 * waits. That may wait for I/O: the caller must have entered nothing. As there may
 * be one after the other, the time to wait is bounded, to a little more than what
 * an invalidation waits for I/O, and after a wait in vain nobody waits for a while.
 *
 * Context: Process context, may sleep. Even with NOPIN_OPEN_NOWAIT it may
 * allocate memory.
 *
 * Return: 0; -EAGAIN if an invalidation intervened, or with NOPIN_OPEN_NOWAIT is
 * going on; -ETIME if waiting is in vain; -EBUSY if a page is pinned on behalf of earlier
 * I/O; -ENOMEM. The pages may be closed again by the time this returns 0.
 */
int nopin_open(struct nopin_range *range, unsigned int first,
	       unsigned int nr, enum nopin_dir dir, unsigned int flags)
{
	unsigned int page, end = first + nr;
	bool nowait = flags & NOPIN_OPEN_NOWAIT;
	unsigned long start, stop;
	long timeout = 0;
	int ret = 0;

	/* This would wait for ourselves */
	nopin_window_wait();

	for (page = first; page < end; page = nopin_next_chunk(page)) {
		ret = nopin_chunk_add(range, page, flags & NOPIN_OPEN_OTHER);
		if (ret)
			return ret;
	}

	/* Enough for an invalidation that waits for I/O itself */
	start = nopin_addr(range, first);
	stop = nopin_addr(range, end);
	if (!nowait && time_after_eq(jiffies, READ_ONCE(range->crowded)))
		timeout = 2 * msecs_to_jiffies(READ_ONCE(nopin_rmap_wait_ms)) +
			  HZ / 10;
	if (timeout && !nopin_broken(REOPEN) &&
	    !mmu_interval_wait(&range->notifier, start, stop, timeout)) {
		/* Something keeps on changing: this is not the time to wait */
		WRITE_ONCE(range->crowded, jiffies + 10 * timeout);
		ret = -ETIME;
		goto out;
	}

	/* Serializes with nopin_invalidate() */
	spin_lock(&range->lock);
	if (!nopin_broken(REOPEN) &&
	    mmu_interval_is_active(&range->notifier, start, stop)) {
		ret = nowait || timeout ? -EAGAIN : -ETIME;
		goto unlock;
	}
	/* Those in the same words will be next */
	page = round_down(first, NOPIN_PAGES_PER_WORD);
	stop = min(round_up(end, NOPIN_PAGES_PER_WORD), range->nr_pages);
	if (!mmu_interval_is_active(&range->notifier, nopin_addr(range, page),
				    nopin_addr(range, stop)))
		end = stop;
	else
		page = first;
	for (; !ret && page < end; page = nopin_next_word(page)) {
		struct nopin_chunk *chunk = nopin_chunk(range, page);
		unsigned int i = page % NOPIN_CHUNK_PAGES /
				 NOPIN_PAGES_PER_WORD;
		u64 pinned, mask = nopin_bytes(page, end);

		/* Freed since? It was not in use, so try again */
		if (unlikely(!chunk)) {
			ret = -EAGAIN;
			break;
		}
		/*
		 * In either direction: a page has one translation for both,
		 * and bios of the other one may still be using it.
		 */
		pinned = nopin_pinned_bytes(chunk, page, NOPIN_FROM_DEVICE) |
			 nopin_pinned_bytes(chunk, page, NOPIN_TO_DEVICE);
		if (unlikely(pinned)) {
			if (nopin_bytes(max(page, first), first + nr) & pinned)
				ret = -EBUSY;
			mask &= ~pinned;
		}
		/* What was known of the pages may have been forgotten since */
		atomic64_or(mask & NOPIN_OLD, &chunk->word[dir][i]);
		/* Open after old. Pairs with nopin_enter_known() */
		smp_mb__before_atomic();
		atomic64_andnot(mask & NOPIN_CLOSED, &chunk->word[dir][i]);
		WRITE_ONCE(chunk->used[dir], chunk->used[dir] | BIT_ULL(i));
	}
unlock:
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
 * nopin_index - index of an address in a range
 * @range: the range
 * @addr: user address within @range
 *
 * Return: the index of the page, for nopin_enter() and others.
 */
unsigned int nopin_index(const struct nopin_range *range, unsigned long addr)
{
	return (addr - range->start) >> PAGE_SHIFT;
}

/**
 * nopin_len - how far a range reaches beyond an address
 * @range: the range
 * @addr: user address within @range
 *
 * Return: the number of bytes from @addr to the end of @range.
 */
size_t nopin_len(const struct nopin_range *range, unsigned long addr)
{
	return range->start + ((size_t)range->nr_pages << PAGE_SHIFT) - addr;
}

/**
 * nopin_range_create - watch a range of user memory
 * @mm: the mm
 * @start: first address, page aligned
 * @nr_pages: length
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

	range = kvzalloc(struct_size(range, chunk, nr), GFP_KERNEL_ACCOUNT);
	if (!range)
		return ERR_PTR(-ENOMEM);
	spin_lock_init(&range->lock);
	init_waitqueue_head(&range->wait);
	INIT_WORK(&range->unpin, nopin_unpin_work);
	refcount_set(&range->ref, 1);
	range->late = jiffies;
	range->crowded = jiffies;
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
		if (range->chunk[i])
			nopin_chunk_free_rcu(&range->chunk[i]->rcu);
	kfree(range->huge);
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
	if (nopin_broken(FREE))
		nopin_range_free(&range->rcu);
	else
		call_rcu(&range->rcu, nopin_range_free);
}

/**
 * nopin_range_destroy - stop watching a range
 * @range: the range
 *
 * Nobody may use @range for new I/O. All earlier I/O must have called
 * nopin_exit(), as far as an invalidation can tell: the calls themselves may
 * still be on their way out, and those for pages that are pinned may be yet to
 * come.
 *
 * Context: Process context, may sleep.
 */
void nopin_range_destroy(struct nopin_range *range)
{
	unsigned int i;

	mmu_interval_notifier_remove(&range->notifier);
	/* An aging of translations may free chunks at the same time */
	spin_lock(&range->lock);
	for (i = 0; i < nopin_nr_chunks(range); i++)
		if (range->chunk[i])
			nopin_cache_drop(range->chunk[i]);
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
