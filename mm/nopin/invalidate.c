// SPDX-License-Identifier: GPL-2.0
/*
 * What an invalidation does about I/O in flight.
 *
 * It closes the pages (see range.c). For those that are in use it can then wait
 * until the I/O ends, refuse the change, or pin the page on behalf of the I/O
 * (see pin.c). As it can always pin, a wait must buy something that a pin does
 * not give:
 *
 * - mprotect(), writeback, truncation and the like, while a device writes the
 *   page: the page stays as it is from then on. Wait, then pin.
 * - Migration, KSM, collapse: the page can be moved at all. Wait, then refuse.
 * - Reclaim: nothing, as the I/O may need the memory. Refuse at once.
 * - munmap(), fork(), exit() and the like of anonymous memory: nothing, as the
 *   device finishes with a page that nobody else sees. Pin at once.
 *
 * Only prompt I/O is ever waited for, and a task has a budget for its waits, see
 * nopin_budget(). Documentation/mm/nopin.rst has the whole table, and why.
 */

#include <linux/atomic.h>
#include <linux/ktime.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/sched.h>

#include "nopin.h"

#define CREATE_TRACE_POINTS
#include <trace/events/nopin.h>

/* How long a task may wait for I/O; after that it may for a tenth of its time */
unsigned int nopin_rmap_wait_ms = 100;

/* The budgets of tasks that have waited lately */
#define NOPIN_WAITERS	64

/**
 * struct nopin_waiter - what a task has waited for I/O
 * @task: the task. Only compared; it may be gone.
 * @start: when it was started, as there may be another one at that address
 * @debt: nanoseconds that it has waited, less a tenth of the time since
 * @at: when @debt was last brought up to date
 */
struct nopin_waiter {
	const struct task_struct	*task;
	u64				start;
	u64				debt;
	u64				at;
};

static struct nopin_waiter nopin_waiters[NOPIN_WAITERS];
static DEFINE_SPINLOCK(nopin_waiters_lock);

/*
 * The entry of the current task. If it has none it takes that of the task that
 * owes least. A task without an entry owes nothing.
 */
static struct nopin_waiter *nopin_waiter(void)
{
	struct nopin_waiter *w, *least = nopin_waiters;
	u64 now = ktime_get_ns();

	lockdep_assert_held(&nopin_waiters_lock);

	for (w = nopin_waiters; w < nopin_waiters + NOPIN_WAITERS; w++) {
		w->debt -= min(w->debt, div_u64(now - w->at, 10));
		w->at = now;
		if (w->task == current && w->start == current->start_boottime)
			return w;
		if (w->debt < least->debt)
			least = w;
	}
	least->task = current;
	least->start = current->start_boottime;
	least->debt = 0;
	return least;
}

/* How long may the current task wait? In nanoseconds */
static u64 nopin_budget(void)
{
	u64 all = (u64)READ_ONCE(nopin_rmap_wait_ms) * NSEC_PER_MSEC, debt;

	spin_lock(&nopin_waiters_lock);
	debt = nopin_waiter()->debt;
	spin_unlock(&nopin_waiters_lock);
	return all - min(all, debt);
}

/*
 * Charge a wait to the current task. The first millisecond is free: fsync() of a
 * thousand pages with healthy I/Os must wait for each, or the pages would change
 * while they are written back.
 */
static void nopin_spend(u64 ns)
{
	if (ns <= NSEC_PER_MSEC)
		return;
	spin_lock(&nopin_waiters_lock);
	nopin_waiter()->debt += ns - NSEC_PER_MSEC;
	spin_unlock(&nopin_waiters_lock);
}

/*
 * The next word with pages from *@page to @end that I/O in direction @dir has
 * used, and the bytes of these pages in *@mask. Moves *@page on behind them. Leaves
 * out pages that are pinned: they are closed, and nothing waits for them. NULL
 * when there are no more. No chunk may be freed meanwhile: the caller has the
 * range lock, or is counted in &nopin_range.draining.
 */
static atomic64_t *nopin_next_used(struct nopin_range *range,
				   unsigned int *page, unsigned int end,
				   enum nopin_dir dir, u64 *mask,
				   struct nopin_chunk **chunkp)
{
	while (*page < end) {
		unsigned int stop = min(end, nopin_next_chunk(*page));
		struct nopin_chunk *chunk = nopin_chunk_at(range, *page);
		u64 used = chunk ? READ_ONCE(chunk->used[dir]) >>
				   nopin_word_index(*page) : 0;
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

/* Has I/O used any word with these pages since it was closed? */
static bool nopin_any_used(struct nopin_range *range, unsigned int first,
			   unsigned int end)
{
	struct nopin_chunk *chunk;
	u64 words;

	lockdep_assert_held(&range->lock);

	for (; first < end; first = nopin_next_chunk(first)) {
		chunk = nopin_chunk_at(range, first);
		if (!chunk)
			continue;
		words = GENMASK_ULL(nopin_word_index(min(end, nopin_next_chunk(first)) - 1),
				    nopin_word_index(first));
		if ((chunk->used[NOPIN_FROM_DEVICE] |
		     chunk->used[NOPIN_TO_DEVICE]) & words)
			return true;
	}
	return false;
}

/* Is I/O that is not prompt in flight in any chunk of the pages? */
static bool nopin_any_other(struct nopin_range *range, unsigned int first,
			    unsigned int end)
{
	struct nopin_chunk *chunk;

	lockdep_assert_held(&range->lock);

	for (; first < end; first = nopin_next_chunk(first)) {
		chunk = nopin_chunk_at(range, first);
		if (chunk && atomic_read(&chunk->other))
			return true;
	}
	return false;
}

/* Is any of the pages in use? */
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
 * Close the pages; with @only_idle stop before the first one that is in use.
 * Returns whether any is in use.
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

/* Is any of these pages of a word in use, and not pinned by now? */
static bool nopin_in_use(struct nopin_chunk *chunk, atomic64_t *word,
			 enum nopin_dir dir, u64 mask)
{
	unsigned int page = (word - chunk->word[dir]) * NOPIN_PAGES_PER_WORD;

	/*
	 * Acquire: what the I/O did to the page comes before what the caller
	 * does to it.
	 */
	return atomic64_read_acquire(word) & mask & NOPIN_COUNTS &
	       ~nopin_pinned_bytes(chunk, page, dir);
}

/*
 * Wait until the pages are idle or pinned; nopin_exit_wake() and nopin_pin() wake
 * us. Returns whether they are. They are closed, so no bio enters them meanwhile, and
 * it is enough to find each idle once.
 */
static bool nopin_drain(struct nopin_range *range, unsigned int first,
			unsigned int end, unsigned int dirs, long timeout)
{
	struct nopin_chunk *chunk;
	atomic64_t *word;
	unsigned int dir;
	u64 mask;

	spin_lock(&range->lock);
	range->draining++;
	spin_unlock(&range->lock);

	for (dir = 0; dir < dirs && timeout; dir++) {
		unsigned int page = first;

		while (timeout && (word = nopin_next_used(range, &page, end, dir,
							  &mask, &chunk)))
			timeout = wait_event_timeout(range->wait,
						     !nopin_in_use(chunk, word,
								   dir, mask),
						     timeout);
	}

	spin_lock(&range->lock);
	range->draining--;
	spin_unlock(&range->lock);
	return timeout;
}

/*
 * How long may the current task wait for I/O? Returns a timeout in jiffies, 0 if
 * it must not wait at all.
 */
static long nopin_patience(const struct nopin_range *range,
			   const struct mmu_notifier_range *mn)
{
	u64 ns;

	if (!mmu_notifier_range_blockable(mn))
		return 0;
	/*
	 * Reclaim, and compaction on behalf of an allocation. Drivers allocate
	 * GFP_NOIO memory to complete the very I/O that we would wait for.
	 */
	if (current->flags & PF_MEMALLOC)
		return 0;
	/*
	 * A task has waited here in vain. Tasks that queue up behind a lock, of
	 * a file say, must not wait one after the other for the same I/O.
	 */
	if (time_before(jiffies, READ_ONCE(range->late)))
		return 0;
	ns = nopin_budget();
	return ns < NSEC_PER_MSEC ? 0 : nsecs_to_jiffies(ns) ?: 1;
}

/**
 * nopin_wait_buys - does it help the caller of the notifier to wait for I/O?
 * @mn: what is about to change; it cannot be refused
 * @folio: folio of the page
 * @dir: what the device does with the page
 *
 * Decides by the event and the kind of page, as an invalidation knows no VMA.
 *
 * Return: whether it helps. If not, the page is pinned at once.
 */
bool nopin_wait_buys(const struct mmu_notifier_range *mn, struct folio *folio,
		     enum nopin_dir dir)
{
	/* Device-private memory: a page cannot be moved while it is pinned */
	if (mn->event == MMU_NOTIFY_MIGRATE)
		return true;
	/* The content of the page does not change */
	if (dir != NOPIN_FROM_DEVICE)
		return false;
	switch (mn->event) {
	case MMU_NOTIFY_PROTECTION_VMA:
	case MMU_NOTIFY_SOFT_DIRTY:
		return true;
	default:
		/*
		 * fork() protects anonymous pages (PROTECTION_PAGE), and
		 * folio_mkclean() others. After CLEAR, UNMAP or RELEASE nobody
		 * sees an anonymous page any more, or only a copy.
		 */
		return !nopin_anon(folio);
	}
}

/*
 * How many directions, from the first one, the change would disturb. A device can
 * still read a page that becomes read-only or clean but stays where it is. During
 * MMU_NOTIFY_PROTECTION_VMA hugetlb may unshare page tables, which takes the
 * mapping away, so that disturbs both.
 */
static unsigned int nopin_dirs(const struct mmu_notifier_range *mn)
{
	BUILD_BUG_ON(NOPIN_FROM_DEVICE != 0);

	if (mn->event == MMU_NOTIFY_PROTECTION_PAGE ||
	    mn->event == MMU_NOTIFY_SOFT_DIRTY)
		return NOPIN_FROM_DEVICE + 1;
	return NOPIN_NR_DIRS;
}

/* Wait for the I/O; returns whether any page is still in use */
static bool nopin_wait(struct nopin_range *range, unsigned int first,
		       unsigned int end, unsigned int dirs,
		       const struct mmu_notifier_range *mn, long patience)
{
	ktime_t since = ktime_get();
	u64 ns;
	bool busy;

	count_vm_event(NOPIN_WAIT);
	busy = !nopin_drain(range, first, end, dirs, patience);
	ns = ktime_to_ns(ktime_sub(ktime_get(), since));
	trace_nopin_wait(mn, div_u64(ns, NSEC_PER_USEC), busy);
	nopin_spend(ns);
	/* Limit waiting to 10 %: skip it for ten times as long */
	if (busy)
		WRITE_ONCE(range->late, jiffies + 10 * patience);
	return busy;
}

/**
 * nopin_invalidate - close pages; wait for the I/O on them, refuse, or pin
 * @notifier: that of the range
 * @mn: what is about to change
 * @cur_seq: for mmu_interval_set_seq()
 *
 * A refusal may leave pages closed, which costs the next I/O on them a call of
 * nopin_open(). A refusal without the intention to wait closes no page that is in
 * use, unless @mn is not blockable.
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
	bool refusable, only_idle, busy;
	unsigned int dirs;
	long patience = 0;
	int ret;

	/* The page stays where it is, as writable and as dirty */
	if (mn->flags & MMU_NOTIFIER_RANGE_HINT)
		return true;

	spin_lock(&range->lock);
	if (!nopin_any_used(range, first, end)) {
		mmu_interval_set_seq(notifier, cur_seq);
		spin_unlock(&range->lock);
		goto idle;
	}
	dirs = nopin_dirs(mn);
	refusable = mn->flags & MMU_NOTIFIER_RANGE_REFUSABLE;
	if (refusable && nopin_busy(range, first, end, dirs)) {
		if (!nopin_any_other(range, first, end))
			patience = nopin_patience(range, mn);
		if (!patience) {
			spin_unlock(&range->lock);
			goto refuse;
		}
	}
	only_idle = refusable && !patience;
	mmu_interval_set_seq(notifier, cur_seq);
	busy = nopin_close(range, first, end, dirs, only_idle);
	/* I/O that is not prompt may have entered since we looked */
	if (refusable && nopin_any_other(range, first, end))
		only_idle = true;
	spin_unlock(&range->lock);

	if (!busy)
		goto idle;
	if (only_idle)
		goto refuse;

	if (!refusable) {
		/* Pin what a wait does not help */
		ret = nopin_pin(range, first, end, dirs, mn);
		if (!ret)
			goto idle;
		if (ret == -EAGAIN)
			patience = nopin_patience(range, mn);
	}
	if (patience) {
		nopin_window_wait();
		if (!nopin_wait(range, first, end, dirs, mn, patience))
			goto idle;
	}
	if (refusable)
		goto refuse;
	/*
	 * Pin what is left. A page with too many references cannot be pinned: then
	 * we have to wait for its I/O, prompt or not.
	 */
	while (nopin_pin(range, first, end, dirs, NULL)) {
		if (!mmu_notifier_range_blockable(mn))
			goto refuse;
		if (nopin_drain(range, first, end, dirs, HZ / 10))
			break;
	}
idle:
	if (mn->event == MMU_NOTIFY_UNMAP && end - first >= NOPIN_CHUNK_PAGES)
		nopin_forget(range, first, end);
	/* The next GiB may take as long */
	if (mmu_notifier_range_blockable(mn))
		cond_resched();
	return true;

refuse:
	count_vm_event(NOPIN_REFUSE);
	trace_nopin_refuse(mn);
	return false;
}
