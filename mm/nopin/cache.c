// SPDX-License-Identifier: GPL-2.0
/*
 * Translations that are kept from one I/O to the next.
 *
 * An open page is where the page tables say it is: an invalidation has to close the
 * page before its mapping changes. So nopin_walk() keeps what it finds in the page
 * tables, as bio_vecs that later bios point to. A translation is known, and right,
 * if the page is neither closed nor OLD. OLD is
 *
 * - cleared by nopin_walk(), for an open page, with the lock of the range held,
 * - set when a closed page is opened again, as its mapping may have changed,
 * - set by reclaim, to see whether I/O clears it again: a device does not set the
 *   accessed bit of PTEs,
 * - set by nopin_cache_age(), to see whether the chunk is still in use.
 *
 * There is a state per page and direction, as a device may not write every page
 * that it may read. Both directions share a bio_vec. When may nopin_walk() write
 * it? If another page is mapped now than the bio_vec names, an invalidation has
 * closed the address in both directions. It has waited until no bio used the
 * address; or it has pinned the page, and then nopin_open() did not open the
 * address before the last of these bios was gone. Since then the address has been
 * OLD, so no bio has entered it. Hence none points to the bio_vec. A bio_vec that is
 * right already is not written.
 */

#include <linux/atomic.h>
#include <linux/bitops.h>
#include <linux/mm.h>
#include <linux/page_idle.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "lru.h"
#include "nopin.h"

/* All chunks */
struct list_lru nopin_lru;

/*
 * Chunks that no I/O has used for one to two times this long are freed: within ten
 * minutes, as a timer of that length may be half a minute late. After each round I/O
 * has to look up again what it uses, so not often.
 */
#define NOPIN_IDLE	(240 * HZ)
static void nopin_idle(struct work_struct *work);
static DECLARE_DELAYED_WORK(nopin_idle_work, nopin_idle);

/*
 * The pages in the word of @page, up to @end, whose translations are known, as the
 * OLD bits of a word. With @clear they are known no longer.
 */
static u64 nopin_young_bytes(struct nopin_chunk *chunk, unsigned int page,
			     unsigned int end, enum nopin_dir dir, bool clear)
{
	atomic64_t *states = nopin_word(chunk, page, dir);
	u64 word = atomic64_read(states);
	u64 young = ~word & nopin_open_bytes(word) & nopin_bytes(page, end);

	if (young && clear)
		atomic64_or(young, states);
	return young;
}

/*
 * Find the next chunk that has any of the pages from *@page to @end. Set *@start and
 * *@stop to where they begin and end in the chunk, and move *@page on behind them.
 * NULL if there is none. With the range lock held, or within rcu_read_lock().
 */
static struct nopin_chunk *nopin_piece(const struct nopin_range *range,
				       unsigned int *page, unsigned int end,
				       unsigned int *start, unsigned int *stop)
{
	while (*page < end) {
		struct nopin_chunk *chunk = nopin_chunk_at(range, *page);
		unsigned int next = min(end, nopin_next_chunk(*page));

		*start = *page % NOPIN_CHUNK_PAGES;
		*stop = *start + next - *page;
		*page = next;
		if (chunk)
			return chunk;
	}
	return NULL;
}

/**
 * nopin_forget - free the states of pages that are unmapped for good
 * @range: range of the pages
 * @first: index of the first page in @range
 * @end: index behind the last page
 *
 * Frees whole chunks only, and those that no I/O uses.
 *
 * Context: Process context. The pages are closed.
 */
void nopin_forget(struct nopin_range *range, unsigned int first,
		  unsigned int end)
{
	struct nopin_chunk *chunk;
	unsigned int start, stop;

	do {
		spin_lock(&range->lock);
		chunk = nopin_piece(range, &first, end, &start, &stop);
		if (chunk && stop - start == NOPIN_CHUNK_PAGES &&
		    nopin_chunk_free(chunk))
			list_lru_del_obj(&nopin_lru, &chunk->lru);
		spin_unlock(&range->lock);
	} while (chunk);
}

/**
 * nopin_young - has I/O used the pages lately, or is any in flight?
 * @notifier: that of the range
 * @start: first address
 * @end: address behind the last one
 * @clear: make the pages OLD, so that the next call tells of later I/O, and of what
 *	   is in flight
 *
 * The young() of &struct mmu_interval_notifier_ops.
 *
 * Context: Any, with the lock of the notifiers held.
 *
 * Return: whether it has.
 */
bool nopin_young(struct mmu_interval_notifier *notifier, unsigned long start,
		 unsigned long end, bool clear)
{
	struct nopin_range *range = container_of(notifier, struct nopin_range,
						 notifier);
	unsigned int page, behind, from, stop, p, dir;
	struct nopin_chunk *chunk;
	bool young = false;

	page = nopin_index(range, max(start, range->start));
	behind = nopin_index(range, min(end - 1,
					notifier->interval_tree.last)) + 1;
	rcu_read_lock();
	while ((chunk = nopin_piece(range, &page, behind, &from, &stop)))
		for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
			for (p = from; p < stop; p = nopin_next_word(p))
				if (nopin_young_bytes(chunk, p, stop, dir, clear) ||
				    nopin_counts(chunk, p, stop, dir))
					young = true;
	rcu_read_unlock();
	return young;
}

/**
 * nopin_count_known - how many pages have known translations?
 * @range: range of the pages
 * @first: index of the first page in @range
 * @end: index behind the last page
 *
 * Context: Any.
 *
 * Return: the number of pages with a translation that is known for either direction.
 */
unsigned int nopin_count_known(const struct nopin_range *range,
			       unsigned int first, unsigned int end)
{
	unsigned int page, stop, nr = 0;
	struct nopin_chunk *chunk;

	rcu_read_lock();
	while ((chunk = nopin_piece(range, &first, end, &page, &stop)))
		for (; page < stop; page = nopin_next_word(page))
			nr += hweight64(nopin_young_bytes(chunk, page, stop,
							  NOPIN_FROM_DEVICE, false) |
					nopin_young_bytes(chunk, page, stop,
							  NOPIN_TO_DEVICE, false));
	rcu_read_unlock();
	return nr;
}

/* Was any translation used lately? With @clear, since that was last asked */
static bool nopin_used(struct nopin_chunk *chunk, bool clear)
{
	unsigned int dir, page, i;
	struct folio *folio;
	bool used = false;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		for (page = 0; page < NOPIN_CHUNK_PAGES;
		     page += NOPIN_PAGES_PER_WORD) {
			u64 young = nopin_young_bytes(chunk, page,
						      NOPIN_CHUNK_PAGES, dir,
						      clear);

			if (!young)
				continue;
			if (!clear)
				return true;
			used = true;
			/*
			 * Tell reclaim, too. These pages are still mapped: an
			 * invalidation takes the range lock first.
			 */
			for (; young; young &= young - 1) {
				i = nopin_page(page, young);
				folio = page_folio(chunk->bvec[i].bv_page);
				folio_set_young(folio);
				folio_set_referenced(folio);
			}
		}
	}
	return used;
}

/* A round of nopin_cache_age(): all chunks, some at a time */
struct nopin_round {
	unsigned int	nr;	/* which one */
	unsigned int	left;	/* chunks until there is a break */
};

/* With the lock of the list held, on return as well; @arg: the round, if there is one */
static enum lru_status nopin_isolate(struct list_head *item,
				     struct list_lru_one *list, void *arg)
{
	struct nopin_chunk *chunk = container_of(item, struct nopin_chunk, lru);
	/* Neither is freed before the chunk is off the list */
	struct nopin_range *range = chunk->range;
	struct nopin_round *round = arg;
	enum lru_status ret = LRU_ROTATE;

	/* Chunks that had their turn are at the end of the list */
	if (round && (!round->left || chunk->round == round->nr))
		return LRU_STOP;
	/* The locks nest the other way round elsewhere */
	if (!spin_trylock(&range->lock))
		return LRU_SKIP;
	if (round) {
		chunk->round = round->nr;
		round->left--;
	}
	/* The shrinker does not age pages: the rest of reclaim does */
	if (!nopin_used(chunk, round) && nopin_chunk_free(chunk)) {
		list_lru_isolate(list, item);
		ret = LRU_REMOVED;
	}
	spin_unlock(&range->lock);
	return ret;
}

static unsigned long nopin_shrink_count(struct shrinker *shrinker,
					struct shrink_control *sc)
{
	return list_lru_shrink_count(&nopin_lru, sc) ?: SHRINK_EMPTY;
}

static unsigned long nopin_shrink_scan(struct shrinker *shrinker,
				       struct shrink_control *sc)
{
	return list_lru_shrink_walk(&nopin_lru, sc, nopin_lru_isolate, NULL);
}

/**
 * nopin_cache_age - free chunks that no I/O has used since the last call
 *
 * Context: Process context, may sleep. One at a time.
 *
 * Return: the number of chunks freed.
 */
unsigned long nopin_cache_age(void)
{
	static unsigned int nr;
	struct nopin_round round = { .nr = ++nr };
	unsigned long freed = 0;

	do {
		/* Not too many: the walk holds a spinlock */
		round.left = 8;
		freed += list_lru_walk(&nopin_lru, nopin_lru_isolate, &round,
				       ULONG_MAX);
		cond_resched();
	} while (!round.left);
	return freed;
}

static void nopin_idle(struct work_struct *work)
{
	nopin_cache_age();
	if (list_lru_count(&nopin_lru))
		schedule_delayed_work(&nopin_idle_work, NOPIN_IDLE);
}

/**
 * nopin_cache_add - put a chunk on the list of nopin_cache_age()
 * @chunk: the chunk, allocated for &nopin_lru
 *
 * Context: Process context, with &nopin_range.lock held.
 */
void nopin_cache_add(struct nopin_chunk *chunk)
{
	list_lru_add_obj(&nopin_lru, &chunk->lru);
	schedule_delayed_work(&nopin_idle_work, NOPIN_IDLE);
}

/* Before the first I/O */
int __init nopin_cache_init(void)
{
	struct shrinker *shrinker;
	int ret;

	shrinker = shrinker_alloc(SHRINKER_NUMA_AWARE | SHRINKER_MEMCG_AWARE,
				  "nopin");
	if (!shrinker)
		return -ENOMEM;
	ret = list_lru_init_memcg(&nopin_lru, shrinker);
	if (ret) {
		shrinker_free(shrinker);
		return ret;
	}
	shrinker->count_objects = nopin_shrink_count;
	shrinker->scan_objects = nopin_shrink_scan;
	/* A chunk takes 10 KiB, and a few page table walks to be filled */
	shrinker->batch = 32;
	shrinker_register(shrinker);
	return 0;
}
