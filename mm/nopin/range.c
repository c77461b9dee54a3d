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
 * The wait is bounded, see nopin_patience(). I/O may take seconds where it is
 * throttled, and invalidations hold locks that others want: of the file, of the
 * folio, of the mm. When time is up, those who can take no for an answer get
 * it; for the others the pages are pinned, see pin.c.
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

#define CREATE_TRACE_POINTS
#include <trace/events/nopin.h>

static struct kmem_cache *nopin_chunk_cache;

/* How long an invalidation waits for I/O */
unsigned int nopin_rmap_wait_ms = 100;

#ifdef CONFIG_LOCKDEP
/*
 * "Acquired" while a task has entered pages for a bio that it has not
 * submitted yet, and by whoever waits for I/O. So lockdep reports any lock or
 * wait in between that an invalidation might need to make progress.
 */
static struct lockdep_map nopin_window_map =
	STATIC_LOCKDEP_MAP_INIT("nopin_window", &nopin_window_map);

static bool nopin_map_held(struct lockdep_map *map)
{
	return lock_is_held(map) == LOCK_STATE_HELD;
}

/**
 * nopin_window_begin - the current task is about to enter pages for a bio
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
static void nopin_window_wait(void)
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
#else
static void nopin_window_wait(void) { }
#endif

static int nopin_chunk_alloc(struct nopin_range *range, unsigned int page)
{
	struct nopin_chunk **slot = &range->chunk[page / NOPIN_CHUNK_PAGES];
	struct nopin_chunk *chunk;
	unsigned int dir, i;

	chunk = nopin_cache_alloc(nopin_chunk_cache);
	if (!chunk)
		return -ENOMEM;
	chunk->range = range;
	chunk->index = (range->start >> NOPIN_CHUNK_SHIFT) +
		       page / NOPIN_CHUNK_PAGES;
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		for (i = 0; i < NOPIN_CHUNK_WORDS; i++)
			atomic64_set(&chunk->word[dir][i],
				     NOPIN_CLOSED | NOPIN_OLD);

	/* Pairs with the smp_load_acquire() in nopin_chunk() */
	if (cmpxchg_release(slot, NULL, chunk))
		kmem_cache_free(nopin_chunk_cache, chunk); /* lost a race */
	return 0;
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

/*
 * Enter pages of one chunk, or those in front of the first one that is closed
 * or full: returns how many, and in *@why the closed ones of those behind.
 */
static __always_inline unsigned int
nopin_enter_chunk(struct nopin_chunk *chunk, unsigned int start,
		  unsigned int nr, enum nopin_dir dir, u64 *why)
{
	unsigned int skip = start % NOPIN_PAGES_PER_WORD;
	unsigned int left = skip + nr;
	atomic64_t *word = nopin_word(chunk, start, dir);
	u64 ones = NOPIN_ONES << (NOPIN_PAGE_BITS * skip);

	for (; left >= NOPIN_PAGES_PER_WORD; left -= NOPIN_PAGES_PER_WORD) {
		if (unlikely(!nopin_enter_word(word++, ones, why)))
			goto fail;
		ones = NOPIN_ONES;
	}
	if (!left)
		return nr;
	ones &= nopin_ones(0, left);
	if (likely(nopin_enter_word(word, ones, why)))
		return nr;
fail:
	return max(skip + nr - left, skip) - skip;
}

/**
 * nopin_exit_words - the I/O no longer uses the pages
 * @first: the state of the first one
 * @skip: its index in there
 * @nr: number of pages; all of them in the same chunk, and at least up to the end
 *	of the first word
 *
 * Context: As for nopin_exit().
 */
void nopin_exit_words(atomic64_t *first, unsigned int skip, unsigned int nr)
{
	u64 ones = NOPIN_ONES << (NOPIN_PAGE_BITS * skip), closed;
	unsigned int left = skip + nr - NOPIN_PAGES_PER_WORD;
	atomic64_t *word = first;

	/* As in nopin_exit_ones() */
	rcu_read_lock();
	closed = nopin_exit_word(word, ones);
	for (; left > NOPIN_PAGES_PER_WORD; left -= NOPIN_PAGES_PER_WORD)
		closed |= nopin_exit_word(++word, NOPIN_ONES);
	if (left)
		closed |= nopin_exit_word(++word, nopin_ones(0, left));
	if (unlikely(closed))
		nopin_exit_wake(nopin_word_chunk(first)->range);
	rcu_read_unlock();
}

/* nopin_enter_words(), for any number of them */
bool nopin_enter_many(atomic64_t *first, unsigned int skip, unsigned int nr)
{
	u64 ones = NOPIN_ONES << (NOPIN_PAGE_BITS * skip);
	unsigned int left = skip + nr - NOPIN_PAGES_PER_WORD;
	atomic64_t *word = first;

	if (unlikely(!nopin_enter_known(word, ones)))
		return false;
	for (; left > NOPIN_PAGES_PER_WORD; left -= NOPIN_PAGES_PER_WORD)
		if (unlikely(!nopin_enter_known(++word, NOPIN_ONES)))
			goto fail;
	if (likely(nopin_enter_known(++word, nopin_ones(0, left))))
		return true;
fail:
	nopin_exit_words(first, skip, nr - left);
	return false;
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
	unsigned int page = first, end = first + nr;

	do {
		struct nopin_chunk *chunk = nopin_chunk(range, page);
		unsigned int n = min(end, nopin_next_chunk(page)) - page;
		u64 why = NOPIN_CLOSED;
		unsigned int got = 0;

		if (likely(chunk))
			got = nopin_enter_chunk(chunk, page % NOPIN_CHUNK_PAGES,
						n, dir, &why);
		page += got;
		if (unlikely(got < n)) {
			if (page != first)
				nopin_exit(range, first, page - first, dir);
			return why ? -EAGAIN : -EBUSY;
		}
	} while (page < end);
	return 0;
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

/* Somebody waits for closed pages to become idle, or pins them */
void nopin_exit_wake(struct nopin_range *range)
{
	if (nopin_broken(FREE))
		mdelay(20);
	/* The subtraction, of the caller, is the barrier this needs */
	if (waitqueue_active(&range->wait))
		wake_up_all(&range->wait);
}

/**
 * nopin_exit - the I/O no longer uses the pages
 * @range: as for nopin_enter()
 * @first: as for nopin_enter()
 * @nr: as for nopin_enter()
 * @dir: as for nopin_enter()
 *
 * Context: Any, hard interrupts included. @range may be freed by whoever waits
 * for the last exit, so callers must not touch it again.
 */
void nopin_exit(struct nopin_range *range, unsigned int first,
		unsigned int nr, enum nopin_dir dir)
{
	unsigned int end = first + nr, next;
	atomic64_t *word;

	/* Each but the last one keeps the invalidation, and so the range, waiting */
	for (; first < end; first = next) {
		next = min(end, nopin_next_chunk(first));
		word = nopin_word(nopin_chunk(range, first), first, dir);
		if (nopin_same_word(first, next - first))
			nopin_exit_ones(word, nopin_ones(first, next - first));
		else
			nopin_exit_words(word, first % NOPIN_PAGES_PER_WORD,
					 next - first);
	}
}

/**
 * nopin_open - let I/O enter pages again
 * @range: range of the pages
 * @first: index of the first page in @range
 * @nr: number of pages
 * @dir: direction to open
 * @nowait: do not wait for an invalidation to end
 *
 * Opens the pages unless an invalidation of any of them is going on, for which it
 * waits. That may wait for I/O: the caller must have entered nothing. As there may
 * be one after the other, the time to wait is bounded, to a little more than what
 * an invalidation waits for I/O, and after a wait in vain nobody waits for a while.
 *
 * Context: Process context, may sleep. Even with @nowait it may allocate
 * memory.
 *
 * Return: 0; -EAGAIN if an invalidation intervened, or with @nowait is going
 * on; -ETIME if waiting is in vain; -EBUSY if a page is pinned on behalf of earlier
 * I/O; -ENOMEM. The pages may be closed again by the time this returns 0.
 */
int nopin_open(struct nopin_range *range, unsigned int first,
	       unsigned int nr, enum nopin_dir dir, bool nowait)
{
	unsigned int page, end = first + nr;
	unsigned long start, stop;
	long timeout = 0;
	int ret = 0;

	/* This would wait for ourselves */
	nopin_window_wait();

	for (page = first; page < end; page = nopin_next_chunk(page)) {
		if (!nopin_chunk(range, page))
			ret = nopin_chunk_alloc(range, page);
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

/*
 * The pages from *@page to @end that the I/O of one direction has used: the
 * word of the first one and the bytes in it, with *@page moved on behind them.
 * Not those that are pinned, which are closed and need not be waited for. NULL
 * when there are no more.
 */
static atomic64_t *nopin_next_used(struct nopin_range *range,
				   unsigned int *page, unsigned int end,
				   enum nopin_dir dir, u64 *mask,
				   struct nopin_chunk **chunkp)
{
	while (*page < end) {
		unsigned int stop = min(end, nopin_next_chunk(*page));
		struct nopin_chunk *chunk = nopin_chunk(range, *page);
		unsigned int i = *page % NOPIN_CHUNK_PAGES /
				 NOPIN_PAGES_PER_WORD;
		u64 used = chunk ? READ_ONCE(chunk->used[dir]) >> i : 0;
		atomic64_t *word;

		if (used && __ffs64(used))
			*page = round_down(*page, NOPIN_PAGES_PER_WORD) +
				__ffs64(used) * NOPIN_PAGES_PER_WORD;
		if (!used || *page >= stop) {
			*page = stop;
			continue;
		}

		*mask = nopin_bytes(*page, stop) &
			~nopin_pinned_bytes(chunk, *page, dir);
		word = nopin_word(chunk, *page, dir);
		*page = nopin_next_word(*page);
		*chunkp = chunk;
		return word;
	}
	return NULL;
}

static bool nopin_busy(struct nopin_range *range, unsigned int first,
		       unsigned int end, unsigned int dirs)
{
	struct nopin_chunk *chunk;
	atomic64_t *word;
	unsigned int dir;
	u64 mask;

	for (dir = 0; dir < dirs; dir++) {
		unsigned int page = first;

		while ((word = nopin_next_used(range, &page, end, dir, &mask,
					       &chunk)))
			if (atomic64_read(word) & mask & NOPIN_COUNTS)
				return true;
	}
	return false;
}

/*
 * Close the pages; with @only_idle stop at the first one that is in use.
 * Returns whether any is.
 */
static bool nopin_close(struct nopin_range *range, unsigned int first,
			unsigned int end, unsigned int dirs, bool only_idle)
{
	bool busy = false, closed = false;
	struct nopin_chunk *chunk;
	atomic64_t *word;
	unsigned int dir;
	u64 mask;

	lockdep_assert_held(&range->lock);

	for (dir = 0; dir < dirs; dir++) {
		unsigned int page = first;

		while ((word = nopin_next_used(range, &page, end, dir, &mask,
					       &chunk))) {
			s64 old = atomic64_read(word), new;

			/*
			 * A full barrier, between CLOSED and the PTE that the
			 * caller of the notifier changes. Pairs with the one
			 * in nopin_enter_word().
			 */
			do {
				new = old | (mask & NOPIN_CLOSED);
				if (only_idle && (old & mask & NOPIN_COUNTS))
					return true;
			} while (!atomic64_try_cmpxchg(word, &old, new));

			closed |= old != new;
			busy |= old & mask & NOPIN_COUNTS;
			if ((new & ~NOPIN_OLD) == NOPIN_CLOSED)
				WRITE_ONCE(chunk->used[dir], chunk->used[dir] &
					~BIT_ULL(word - chunk->word[dir]));
		}
	}

	if (closed)
		count_vm_event(NOPIN_INVALIDATE);
	return busy;
}

/*
 * Wait until pages that share a word are idle, and return what is left of the
 * timeout, at least 1, or 0 if they are not. Woken by nopin_exit(); polled I/O
 * ends when it is polled.
 */
static long nopin_wait_idle(struct nopin_range *range, atomic64_t *word,
			    u64 mask, long timeout)
{
	/*
	 * Acquire: what the I/O did to the page comes before what the caller
	 * does to it.
	 */
	while (atomic64_read_acquire(word) & mask) {
		bool polled = nopin_mm_poll(range->notifier.mm);
		long piece = polled ? min(timeout, 1L) : timeout;
		long left;

		left = wait_event_timeout(range->wait,
					  !(atomic64_read_acquire(word) & mask),
					  piece);
		if (left)
			return timeout - piece + left;
		timeout -= piece;
		if (!timeout)
			return 0;
	}
	return timeout;
}

/*
 * Wait until the pages, which are closed, are idle. They cannot be entered
 * again in the meantime, so each needs to be found idle only once.
 */
static bool nopin_drain(struct nopin_range *range, unsigned int first,
			unsigned int end, unsigned int dirs, long timeout)
{
	struct nopin_chunk *chunk;
	atomic64_t *word;
	unsigned int dir;
	u64 mask;

	for (dir = 0; dir < dirs; dir++) {
		unsigned int page = first;

		while ((word = nopin_next_used(range, &page, end, dir, &mask,
					       &chunk))) {
			mask &= NOPIN_COUNTS;
			timeout = nopin_wait_idle(range, word, mask, timeout);
			if (!timeout)
				return false;
		}
	}
	return true;
}

/* Can the caller of the notifier leave the mapping as it is? */
static bool nopin_refusable(const struct mmu_notifier_range *mn)
{
	/* The OOM reaper, or somebody to whom unmapping is one way of many */
	return !mmu_notifier_range_blockable(mn) ||
	       (mn->flags & MMU_NOTIFIER_RANGE_REFUSABLE) ||
	       nopin_broken(WAIT);
}

/*
 * Who waits for I/O, and how long: the one place that decides. Returns a
 * timeout in jiffies.
 */
static long nopin_patience(const struct nopin_range *range,
			   const struct mmu_notifier_range *mn)
{
	bool refusable = nopin_refusable(mn);

	if (nopin_broken(WAIT) || !mmu_notifier_range_blockable(mn))
		return 0;
	/*
	 * Reclaim and compaction on behalf of an allocation. Drivers allocate
	 * GFP_NOIO memory to complete the very I/O that we would wait for.
	 */
	if ((current->flags & PF_MEMALLOC) && !nopin_broken(MEMALLOC))
		return 0;
	if (refusable ? nopin_broken(REFUSE) : nopin_broken(BEHALF))
		return MAX_SCHEDULE_TIMEOUT;
	/* Page after page of a file, say: not that long for each of them */
	if (time_before(jiffies, READ_ONCE(range->late)))
		return 0;
	/* As a rule I/O ends much earlier, and that is best for everybody */
	return msecs_to_jiffies(READ_ONCE(nopin_rmap_wait_ms));
}

/*
 * Directions whose I/O the change would disturb. A page that becomes read-only
 * or clean but stays where it is can still be read by a device. Not so for
 * MMU_NOTIFY_PROTECTION_VMA, during which hugetlb may unshare page tables,
 * which takes the mapping away.
 */
static unsigned int nopin_dirs(const struct mmu_notifier_range *mn)
{
	BUILD_BUG_ON(NOPIN_FROM_DEVICE != 0);

	if (mn->event == MMU_NOTIFY_PROTECTION_PAGE ||
	    mn->event == MMU_NOTIFY_SOFT_DIRTY)
		return NOPIN_FROM_DEVICE + 1;
	return NOPIN_NR_DIRS;
}

/**
 * nopin_invalidate - close pages and wait for the I/O on them
 * @notifier: that of the range
 * @mn: what is about to change
 * @cur_seq: for mmu_interval_set_seq()
 *
 * A refusal may leave pages closed, which costs the next I/O on them a call of
 * nopin_open(). Without having waited, it leaves none closed that is in use.
 *
 * Return: whether the mapping may be changed. False is returned only if @mn is
 * not blockable or can be refused.
 */
bool nopin_invalidate(struct mmu_interval_notifier *notifier,
		      const struct mmu_notifier_range *mn,
		      unsigned long cur_seq)
{
	struct nopin_range *range = container_of(notifier, struct nopin_range,
						 notifier);
	unsigned long start = max(mn->start, range->start);
	unsigned long last = min(mn->end - 1, notifier->interval_tree.last);
	unsigned int first = nopin_index(range, start);
	unsigned int end = nopin_index(range, last) + 1;
	unsigned int dirs = nopin_dirs(mn);
	long patience = nopin_patience(range, mn);
	bool refusable = nopin_refusable(mn);
	bool only_idle = refusable && !patience;
	ktime_t since;
	bool busy;

	/* Whoever relies on the PTE can go on doing so */
	if ((mn->flags & MMU_NOTIFIER_RANGE_HINT) && !nopin_broken(HINT))
		return true;
	if (patience)
		nopin_window_wait();

	spin_lock(&range->lock);
	if (only_idle && nopin_busy(range, first, end, dirs)) {
		spin_unlock(&range->lock);
		goto refuse;
	}
	mmu_interval_set_seq(notifier, cur_seq);
	busy = nopin_close(range, first, end, dirs, only_idle);
	spin_unlock(&range->lock);

	if (!busy)
		goto idle;
	if (only_idle)
		goto refuse;
	if (mn->event == MMU_NOTIFY_RELEASE && nopin_broken(RELEASE))
		return true;

	if (patience) {
		count_vm_event(NOPIN_WAIT);
		since = ktime_get();
		busy = !nopin_drain(range, first, end, dirs, patience);
		trace_nopin_wait(mn, ktime_us_delta(ktime_get(), since), busy);
		if (!busy)
			goto idle;
		/* Waiting is to be a small part of what the next ones do */
		WRITE_ONCE(range->late, jiffies + 10 * patience);
	}
	if (refusable)
		goto refuse;
	while (!nopin_pin(range, first, end, dirs) &&
	       !nopin_drain(range, first, end, dirs, HZ / 10))
		; /* out of memory, for the moment */
idle:
	nopin_forget(range, first, end, dirs);
	return true;

refuse:
	if (nopin_broken(WAIT))
		goto idle;
	count_vm_event(NOPIN_REFUSE);
	trace_nopin_refuse(mn);
	return false;
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

	for (i = 0; i < nopin_nr_chunks(range); i++) {
		if (!range->chunk[i])
			continue;
		kfree(range->chunk[i]->cache.bvec);
		kmem_cache_free(nopin_chunk_cache, range->chunk[i]);
	}
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
	for (i = 0; i < nopin_nr_chunks(range); i++)
		if (range->chunk[i])
			nopin_cache_drop(range->chunk[i]);
	nopin_range_put(range);
}

/* Before the first I/O */
void __init nopin_range_init(void)
{
	BUILD_BUG_ON(offsetof(struct nopin_chunk, word) ||
		     sizeof(struct nopin_chunk) > NOPIN_CHUNK_ALIGN);
	nopin_chunk_cache = kmem_cache_create("nopin_chunk",
					      sizeof(struct nopin_chunk),
					      NOPIN_CHUNK_ALIGN,
					      SLAB_ACCOUNT | SLAB_PANIC, NULL);
	nopin_cache_init();
}
