// SPDX-License-Identifier: GPL-2.0
/*
 * What an invalidation does about I/O in flight.
 *
 * It closes the pages (see range.c). For those that are in use it can then wait
 * until the I/O ends, refuse the change, or pin the page on behalf of the I/O
 * (see pin.c). As it can always pin, each wait must buy something that a pin
 * does not give:
 *
 * - Write protection, and unmapping of a page that is not anonymous, while a
 *   device writes it: whoever protects the page, or has it written back, wants
 *   it to stay as it is from then on. So they wait, and pin if it takes too long.
 *   The same goes for truncation and the like: what was read is in the file, or
 *   it is not.
 * - Migration, KSM, collapse: the page cannot be changed while it is pinned. So
 *   they wait, and are refused if it takes too long.
 * - Everything else, such as munmap(), fork() or exit() of anonymous memory: a
 *   wait buys nothing. The device finishes with a page that nobody else sees.
 *   So the page is pinned at once.
 * - Reclaim is refused at once. Drivers allocate GFP_NOIO memory to complete the
 *   very I/O that it would wait for.
 * - The OOM reaper may not wait. It pins, and is refused where it cannot.
 *
 * Only prompt I/O is ever waited for: its completion depends on no user task, no
 * file system, no network, and no allocation that may reclaim. For other I/O the
 * wait is zero, as it could be the waiting task that has to complete it.
 *
 * A task has a budget for its waits, see nopin_budget(). So the bound holds for
 * an operation as a whole, however many pages, mappings and processes it goes
 * through.
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

/* How long a task may wait for I/O before it is down to a tenth of its time */
unsigned int nopin_rmap_wait_ms = 100;

/* The budgets of tasks that have waited lately */
#define NOPIN_WAITERS	64

/**
 * struct nopin_waiter - what a task has waited for I/O
 * @task: the task. Only compared; it may be gone.
 * @start: when it was started, as there may be another one at that address
 * @debt: nanoseconds that it has waited; a tenth of the time since is off
 * @at: when @debt was right
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
 * The entry of the current task. If there is none it takes the one of the task
 * that owes least. The debt of a task without an entry is zero.
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
 * The current task has waited. The first millisecond is free: fsync() of a
 * thousand pages must wait for each of their I/Os, if these are healthy, or the
 * pages would change while they are written back.
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
 * The pages from *@page to @end that the I/O of one direction has used: the
 * word of the first one and the bytes in it, with *@page moved on behind them.
 * Not those that are pinned, which are closed and need not be waited for. NULL
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

/* Has I/O used any of the chunks of the pages since they were closed? */
static bool nopin_any_used(struct nopin_range *range, unsigned int first,
			   unsigned int end)
{
	struct nopin_chunk *chunk;

	lockdep_assert_held(&range->lock);

	for (; first < end; first = nopin_next_chunk(first)) {
		chunk = nopin_chunk_at(range, first);
		if (chunk && (chunk->used[0] | chunk->used[1]))
			return true;
	}
	return false;
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

/* Is I/O that is not prompt in flight in the chunks of the pages? */
static bool nopin_others(struct nopin_range *range, unsigned int first,
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

/* Is any of the pages that share a word in use, and not pinned by now? */
static bool nopin_in_use(struct nopin_chunk *chunk, atomic64_t *word,
			 enum nopin_dir dir, u64 mask)
{
	unsigned int page = (word - chunk->word[dir]) * NOPIN_PAGES_PER_WORD;

	/*
	 * Acquire: what the I/O did to the page comes before what the caller
	 * does to it.
	 */
	return atomic64_read_acquire(word) & mask &
	       ~nopin_pinned_bytes(chunk, page, dir);
}

/*
 * Wait until pages that share a word are idle or pinned, and return what is left
 * of the timeout, at least 1, or 0 if they are not. Woken by nopin_exit_wake()
 * and nopin_pin().
 */
static long nopin_wait_idle(struct nopin_chunk *chunk, atomic64_t *word,
			    enum nopin_dir dir, u64 mask, long timeout)
{
	if (!nopin_in_use(chunk, word, dir, mask))
		return timeout;
	return wait_event_timeout(chunk->range->wait,
				  !nopin_in_use(chunk, word, dir, mask),
				  timeout);
}

/*
 * Wait until the pages, which are closed, are idle or pinned. They cannot be
 * entered again in the meantime, so each needs to be found idle only once.
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
			timeout = nopin_wait_idle(chunk, word, dir,
						  mask & NOPIN_COUNTS, timeout);
	}

	spin_lock(&range->lock);
	range->draining--;
	spin_unlock(&range->lock);
	return timeout;
}

/*
 * Can the caller of the notifier leave the mapping as it is?
 */
static bool nopin_refusable(const struct mmu_notifier_range *mn)
{
	return mn->flags & MMU_NOTIFIER_RANGE_REFUSABLE;
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
	 * Reclaim and compaction on behalf of an allocation. Drivers allocate
	 * GFP_NOIO memory to complete the very I/O that we would wait for.
	 */
	if (current->flags & PF_MEMALLOC)
		return 0;
	/*
	 * Somebody has waited here in vain. Tasks that queue up behind a lock,
	 * of a file say, do not wait as long one after the other.
	 */
	if (time_before(jiffies, READ_ONCE(range->late)))
		return 0;
	ns = nopin_budget();
	return ns < NSEC_PER_MSEC ? 0 : nsecs_to_jiffies(ns) ?: 1;
}

/**
 * nopin_wait_buys - does it help the caller of the notifier to wait for I/O?
 * @mn: what is about to change; it cannot be refused
 * @folio: that of the page
 * @dir: what the device does with the page
 *
 * The table at the top of this file: who does is told by the event and by the
 * kind of the page, as an invalidation does not know of VMAs.
 *
 * Return: whether it does. If not, the page is pinned at once.
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
		 * PROTECTION_PAGE of an anonymous page is fork(), of others it
		 * is folio_mkclean(). CLEAR, UNMAP and RELEASE of an anonymous
		 * page leave nobody who sees it, or make a copy.
		 */
		return !folio_test_anon(folio);
	}
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

/* Wait for I/O that is worth it; returns whether pages are left that are in use */
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
 * nopin_invalidate - close pages, and see to the I/O on them
 * @notifier: that of the range
 * @mn: what is about to change
 * @cur_seq: for mmu_interval_set_seq()
 *
 * A refusal may leave pages closed, which costs the next I/O on them a call of
 * nopin_open(). One that was not going to wait closes none that is in use, unless
 * @mn is not blockable.
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

	/* The PTE that I/O relies on stays as it is, as far as I/O can tell */
	if (mn->flags & MMU_NOTIFIER_RANGE_HINT)
		return true;

	spin_lock(&range->lock);
	if (!nopin_any_used(range, first, end)) {
		mmu_interval_set_seq(notifier, cur_seq);
		spin_unlock(&range->lock);
		goto idle;
	}
	dirs = nopin_dirs(mn);
	refusable = nopin_refusable(mn);
	if (refusable && nopin_busy(range, first, end, dirs)) {
		if (!nopin_others(range, first, end))
			patience = nopin_patience(range, mn);
		if (!patience) {
			spin_unlock(&range->lock);
			goto refuse;
		}
	}
	only_idle = refusable && !patience;
	mmu_interval_set_seq(notifier, cur_seq);
	busy = nopin_close(range, first, end, dirs, only_idle);
	/* Other I/O may have come in between */
	if (refusable && nopin_others(range, first, end))
		only_idle = true;
	spin_unlock(&range->lock);

	if (!busy)
		goto idle;
	if (only_idle)
		goto refuse;

	if (!refusable) {
		/* What a wait does not help is pinned at once */
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
	 * A page with too many references cannot be pinned. Then there is nothing
	 * but to wait, for I/O that is not prompt as well.
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
	return true;

refuse:
	count_vm_event(NOPIN_REFUSE);
	trace_nopin_refuse(mn);
	return false;
}
