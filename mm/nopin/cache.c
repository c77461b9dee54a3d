// SPDX-License-Identifier: GPL-2.0
/*
 * Translations that are kept from one I/O to the next.
 *
 * A page that has been entered is where the page tables say it is until the
 * exit. Afterwards the same goes on being true until somebody changes the
 * mapping, and whoever does has to pass nopin_invalidate(). So an I/O leaves
 * behind what it has found in the page tables, as bio_vecs that the bios of
 * later I/O point to, and an invalidation forgets it as soon as the pages are
 * closed and idle.
 *
 * There is a translation per page and direction: a page that a device may read
 * is not always one that it may write. Both have the same bio_vec, which is not
 * written while either is valid, because bios may be using it.
 *
 * Two bits tell which translations there are:
 *
 * - valid: the bio_vec is right. Set by those who have entered the page,
 *   cleared by an invalidation when nobody has. Under the range lock.
 *
 * - old, in the state of the page: it is not valid, or was not used lately. The
 *   only one that I/O looks at as a rule, as it comes for free with the rest of
 *   the state. Cleared by those who have entered the page and found it valid.
 *   Set before the page is opened, by reclaim, to see whether it is cleared
 *   again, as it does with the accessed bit of PTEs, which a device does not
 *   set, and by those who want the memory back.
 *
 * 2 MiB that are mapped by a PMD or more need no more than one bio_vec. Should
 * such a mapping be split and then part of it change, the one is turned into
 * one per page.
 *
 * The memory for those, 0.4 % of the memory they are about, is given back when
 * none of them is valid any more. Chunks that have not been used for a while are
 * freed as a whole, and so are those of which reclaim has found all pages old.
 */

#include <linux/atomic.h>
#include <linux/bitops.h>
#include <linux/bvec.h>
#include <linux/list_lru.h>
#include <linux/mm.h>
#include <linux/nopin.h>
#include <linux/nopin_break.h>
#include <linux/page_idle.h>
#include <linux/pkeys.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>
#include <trace/events/nopin.h>

#include "nopin.h"

/* All chunks */
static struct list_lru nopin_lru;

/*
 * Chunks that nobody has used for once or twice as long go. Each time, what is in
 * use has to be found valid once more, hence not often.
 */
#define NOPIN_IDLE	(300 * HZ)
static void nopin_idle(struct work_struct *work);
static DECLARE_DEFERRABLE_WORK(nopin_idle_work, nopin_idle);

/* Sets the bit for all of these pages: who comes next looks at what is valid */
static void nopin_make_old(struct nopin_chunk *chunk, unsigned int start,
			   unsigned int end, enum nopin_dir dir)
{
	unsigned int page;

	for (page = start; page < end; page = nopin_next_word(page))
		atomic64_or(nopin_bytes(page, end) & NOPIN_OLD,
			    nopin_word(chunk, page, dir));
}

/* The opposite, for pages that have been entered and are valid */
static void nopin_make_young(struct nopin_chunk *chunk, unsigned int start,
			     unsigned int end, enum nopin_dir dir)
{
	unsigned int page;

	/* bio_vecs before the bit. Pairs with that in nopin_enter_known() */
	smp_mb__before_atomic();
	for (page = start; page < end; page = nopin_next_word(page))
		atomic64_andnot(nopin_bytes(page, end) & NOPIN_OLD,
				nopin_word(chunk, page, dir));
}

/*
 * The pages in the word of @page, up to @end, that I/O has used lately. Those
 * that are closed may have been forgotten, and their bit is out of date.
 */
static u64 nopin_young_bytes(struct nopin_chunk *chunk, unsigned int page,
			     unsigned int end, enum nopin_dir dir)
{
	u64 word = atomic64_read(nopin_word(chunk, page, dir));

	BUILD_BUG_ON(NOPIN_PAGE_CLOSED >> 1 != NOPIN_PAGE_OLD);
	return ~(word | word >> 1) & nopin_bytes(page, end) & NOPIN_OLD;
}

/**
 * nopin_cached - look for translations of earlier I/O
 * @range: range of the pages
 * @first: index of the first page in @range
 * @nr: number of pages, at least 1; all of them in the same 2 MiB
 * @dir: as they have been entered for
 *
 * If they are known they are used now, although nobody may have done that for a
 * while.
 *
 * Context: Any. The pages have been entered.
 *
 * Return: bio_vecs that stay as they are until nopin_exit(): one for each page,
 * or a single one, for NOPIN_CACHE_SIZE bytes, that has the pages at their
 * offset from a multiple of that. NULL if the translation of any page is not
 * known.
 */
const struct bio_vec *nopin_cached(struct nopin_range *range,
				   unsigned int first, unsigned int nr,
				   enum nopin_dir dir)
{
	struct nopin_chunk *chunk = nopin_chunk(range, first);
	unsigned int start = first % NOPIN_CHUNK_PAGES, end = start + nr;
	unsigned int page = start;

	do {
		unsigned int i = page / NOPIN_BITS_PER_WORD;
		/* Pairs with the smp_store_release() in nopin_learn() */
		u64 valid = smp_load_acquire(&chunk->cache.valid[dir][i]);

		if (nopin_bits(&page, end) & ~valid)
			return NULL;
	} while (page < end);
	nopin_make_young(chunk, start, end, dir);
	return nopin_bvec(&chunk->cache, start);
}

static bool nopin_any_valid(const struct nopin_cache *cache)
{
	return memchr_inv(cache->valid, 0, sizeof(cache->valid));
}

static bool nopin_page_valid(const struct nopin_cache *cache, unsigned int page)
{
	u64 bit = BIT_ULL(page % NOPIN_BITS_PER_WORD);
	unsigned int i = page / NOPIN_BITS_PER_WORD;

	return (cache->valid[NOPIN_FROM_DEVICE][i] |
		cache->valid[NOPIN_TO_DEVICE][i]) & bit;
}

/*
 * Page table walks look at what the protection keys of the current thread
 * permit, and nobody tells when it changes its mind: such memory is looked up
 * each time. Key 0, the one that everybody has, is not worth that.
 */
static bool nopin_uses_pkeys(struct mm_struct *mm)
{
#if defined(CONFIG_X86_INTEL_MEMORY_PROTECTION_KEYS) || \
	defined(CONFIG_ARM64_POE)
	return READ_ONCE(mm_pkey_allocation_map(mm)) & ~BIT(0);
#else
	return IS_ENABLED(CONFIG_ARCH_HAS_PKEYS);
#endif
}

/*
 * Note whether the page at @page + 1 is right behind that at @page. Those from
 * @start to @end are about to become valid.
 */
static void nopin_set_next(struct nopin_cache *cache, unsigned int page,
			   unsigned int start, unsigned int end)
{
	u64 *word = &cache->next[page / NOPIN_BITS_PER_WORD];
	u64 bit = BIT_ULL(page % NOPIN_BITS_PER_WORD);
	const struct bio_vec *bv = &cache->bvec[page];

	if (page + 1 < NOPIN_CHUNK_PAGES &&
	    ((page >= start && page < end) || nopin_page_valid(cache, page)) &&
	    ((page + 1 >= start && page + 1 < end) ||
	     nopin_page_valid(cache, page + 1)) &&
	    bv[1].bv_page == bv->bv_page + 1 &&
	    zone_device_pages_have_same_pgmap(bv->bv_page, bv[1].bv_page) &&
	    nopin_mergeable(bv, bv[1].bv_page))
		WRITE_ONCE(*word, *word | bit);
	else
		WRITE_ONCE(*word, *word & ~bit);
}

/* From one bio_vec for all to one for each page */
static void nopin_break_up(struct nopin_cache *cache)
{
	unsigned int page;

	for (page = 0; page < NOPIN_CHUNK_PAGES; page++)
		if (nopin_page_valid(cache, page))
			bvec_set_page(&cache->bvec[page],
				      cache->huge->bv_page + page, PAGE_SIZE, 0);
	for (page = 0; page < NOPIN_CHUNK_PAGES; page++)
		nopin_set_next(cache, page, 0, 0);
	/* Pairs with the smp_load_acquire() in nopin_bvec() */
	smp_store_release(&cache->whole, false);
}

/**
 * nopin_learn - remember the translations that an I/O has found
 * @range: range of the pages
 * @first: index of the first page in @range
 * @nr: number of pages, at least 1; all of them in the same 2 MiB
 * @dir: as they have been entered for
 * @bv: what nopin_walk() returned
 * @skip: bytes in @bv before the first page, or before the part of it in use
 * @huge: a PMD, or more, maps the pages
 *
 * Memory that is used once or twice is not worth it, so at first this does no
 * more than counting.
 *
 * Context: Process context, does not sleep. The pages have been entered.
 */
void nopin_learn(struct nopin_range *range, unsigned int first,
		 unsigned int nr, enum nopin_dir dir, const struct bio_vec *bv,
		 size_t skip, bool huge)
{
	struct nopin_chunk *chunk = nopin_chunk(range, first);
	unsigned int start = first % NOPIN_CHUNK_PAGES;
	struct nopin_cache *cache = &chunk->cache;
	unsigned int page, end = start + nr;
	struct bio_vec *array = NULL;
	struct page *head;

	/* A hint, no matter if a count gets lost */
	if (READ_ONCE(cache->walked) < NOPIN_CHUNK_PAGES) {
		WRITE_ONCE(cache->walked, READ_ONCE(cache->walked) + nr);
		return;
	}
	if (nopin_uses_pkeys(range->notifier.mm))
		return;

	while (skip >= bv->bv_len) {
		skip -= bv->bv_len;
		bv++;
	}
	head = bv->bv_page + ((bv->bv_offset + skip) >> PAGE_SHIFT) - start;
	if (!IS_ALIGNED(range->start, NOPIN_CHUNK_PAGES * PAGE_SIZE))
		huge = false;

	/* Pages are entered, so this must not wait */
	if (!READ_ONCE(*(huge ? &range->huge : &cache->bvec)))
		array = kmalloc_array(huge ? nopin_nr_chunks(range) :
					     NOPIN_CHUNK_PAGES, sizeof(*array),
				      GFP_NOWAIT | __GFP_NOWARN | __GFP_ACCOUNT);

	spin_lock(&range->lock);
	if (huge && !range->huge) {
		if (!array)
			goto unlock;
		WRITE_ONCE(range->huge, array);
		array = NULL;
	}
	if (!huge && !cache->bvec && array) {
		WRITE_ONCE(cache->bvec, array);
		array = NULL;
	}

	/* No valid bit: no bio uses our bio_vecs, so the layout may change */
	if (!nopin_any_valid(cache)) {
		if (huge) {
			cache->huge = &range->huge[first / NOPIN_CHUNK_PAGES];
			bvec_set_page(cache->huge, head,
				      NOPIN_CHUNK_PAGES * PAGE_SIZE, 0);
		}
		WRITE_ONCE(cache->whole, huge);
	}
	if (cache->whole && (!huge || cache->huge->bv_page != head) &&
	    cache->bvec)
		nopin_break_up(cache);

	if (cache->whole) {
		if (!huge || cache->huge->bv_page != head)
			goto unlock;
	} else {
		size_t in_page = bv->bv_offset + skip;

		if (!cache->bvec)
			goto unlock;
		for (page = start; page < end; page++) {
			struct page *p = bv->bv_page + (in_page >> PAGE_SHIFT);

			if (!nopin_page_valid(cache, page))
				bvec_set_page(&cache->bvec[page], p, PAGE_SIZE, 0);
			in_page = round_down(in_page, PAGE_SIZE) + PAGE_SIZE;
			if (in_page >= bv->bv_offset + bv->bv_len &&
			    page + 1 < end) {
				bv++;
				in_page = bv->bv_offset;
			}
		}
		/*
		 * What these bits tell of earlier translations must be gone
		 * before the pages are valid: others read them from then on.
		 * Of the page in front as well; nobody reads it who has not
		 * this one.
		 */
		for (page = start ? start - 1 : 0; page < end; page++)
			nopin_set_next(cache, page, start, end);
	}

	page = start;
	do {
		unsigned int i = page / NOPIN_BITS_PER_WORD;
		u64 mask = nopin_bits(&page, end);

		/* Pairs with the smp_load_acquire() in nopin_cached() */
		smp_store_release(&cache->valid[dir][i],
				  cache->valid[dir][i] | mask);
	} while (page < end);
	nopin_make_young(chunk, start, end, dir);

	count_vm_event(NOPIN_REVALIDATE);
	trace_nopin_revalidate(nopin_addr(range, first),
			       nr, dir);
unlock:
	spin_unlock(&range->lock);
	kfree(array);
}

/*
 * The next chunk of pages from *@page to @end, *@page moved behind them: its
 * pages from *@start to *@stop. NULL if there is none. With the range lock held,
 * or within rcu_read_lock().
 */
static struct nopin_chunk *nopin_piece(const struct nopin_range *range,
				       unsigned int *page, unsigned int end,
				       unsigned int *start, unsigned int *stop)
{
	while (*page < end) {
		struct nopin_chunk *chunk = nopin_chunk(range, *page);
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
 * nopin_forget_bits - forget translations of pages whose bits are in one word
 * @chunk: chunk of the pages
 * @dir: direction
 * @i: which word
 * @mask: bits of the pages
 *
 * Context: Process context, with &nopin_range.lock held. Nobody uses the
 * translations, and nobody can enter the pages.
 */
void nopin_forget_bits(struct nopin_chunk *chunk, enum nopin_dir dir,
		       unsigned int i, u64 mask)
{
	struct nopin_cache *cache = &chunk->cache;

	if (!(cache->valid[dir][i] & mask))
		return;
	WRITE_ONCE(cache->valid[dir][i], cache->valid[dir][i] & ~mask);
	if (cache->bvec && !nopin_any_valid(cache)) {
		/* and so nobody uses it */
		kfree(cache->bvec);
		WRITE_ONCE(cache->bvec, NULL);
	}
}

/**
 * nopin_forget - translations are about to become wrong
 * @range: range of the pages
 * @first: index of the first page in @range
 * @end: index behind the last page
 * @dirs: number of directions, from the first one
 * @unmapped: there will be nothing in place of the pages
 *
 * Those of pages that are pinned stay for the bios that point to them. They are
 * of no use to others, who do not get to enter such pages.
 *
 * Context: Process context. The pages are closed for these directions, idle
 * unless they are pinned, and an invalidation keeps them closed.
 */
void nopin_forget(struct nopin_range *range, unsigned int first,
		  unsigned int end, unsigned int dirs, bool unmapped)
{
	unsigned int start, stop, page, dir;
	struct nopin_chunk *chunk;

	if (nopin_broken(STALE))
		return;
	spin_lock(&range->lock);
	while ((chunk = nopin_piece(range, &first, end, &start, &stop))) {
		for (dir = 0; dir < dirs; dir++) {
			page = start;
			while (page < stop) {
				unsigned int i = page / NOPIN_BITS_PER_WORD;
				u64 mask = nopin_bits(&page, stop);

				nopin_forget_bits(chunk, dir, i,
						  mask & ~chunk->pinned[dir][i]);
			}
		}
		if (unmapped && stop - start == NOPIN_CHUNK_PAGES &&
		    nopin_chunk_free(chunk))
			nopin_cache_drop(chunk);
	}
	spin_unlock(&range->lock);
}

/**
 * nopin_young - has I/O used the pages lately, without looking at PTEs?
 * @notifier: that of the range
 * @start: first address
 * @end: address behind the last one
 * @clear: forget about it; who asks again learns of later I/O
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

	if (nopin_broken(YOUNG))
		return false;
	page = nopin_index(range, max(start, range->start));
	behind = nopin_index(range, min(end - 1,
					notifier->interval_tree.last)) + 1;
	rcu_read_lock();
	while ((chunk = nopin_piece(range, &page, behind, &from, &stop))) {
		for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
			for (p = from; p < stop; p = nopin_next_word(p)) {
				if (!nopin_young_bytes(chunk, p, stop, dir))
					continue;
				young = true;
				if (clear)
					nopin_make_old(chunk, p,
						       min(stop, nopin_next_word(p)),
						       dir);
			}
		}
	}
	rcu_read_unlock();
	return young;
}

/**
 * nopin_count_cached - how many pages have translations?
 * @range: the range
 * @first: index of the first page in @range
 * @end: index behind the last page
 *
 * Context: Any in which @range cannot go away.
 *
 * Return: the number of pages with a translation for either direction.
 */
unsigned int nopin_count_cached(struct nopin_range *range, unsigned int first,
				unsigned int end)
{
	unsigned int nr = 0, page, stop;
	struct nopin_chunk *chunk;

	rcu_read_lock();
	while ((chunk = nopin_piece(range, &first, end, &page, &stop))) {
		while (page < stop) {
			unsigned int i = page / NOPIN_BITS_PER_WORD;
			u64 mask = nopin_bits(&page, stop);

			nr += hweight64(mask &
				(READ_ONCE(chunk->cache.valid[NOPIN_FROM_DEVICE][i]) |
				 READ_ONCE(chunk->cache.valid[NOPIN_TO_DEVICE][i])));
		}
	}
	rcu_read_unlock();
	return nr;
}

/* Was any translation used lately? With @clear, since that was last asked */
static bool nopin_used(struct nopin_chunk *chunk, bool clear)
{
	struct nopin_cache *cache = &chunk->cache;
	unsigned int dir, page, i;
	bool used = false;
	struct page *p;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		for (page = 0; page < NOPIN_CHUNK_PAGES;
		     page += NOPIN_PAGES_PER_WORD) {
			u64 young = nopin_young_bytes(chunk, page,
						      NOPIN_CHUNK_PAGES, dir);

			if (!young)
				continue;
			if (!clear)
				return true;
			used = true;
			nopin_make_old(chunk, page, page + NOPIN_PAGES_PER_WORD,
				       dir);
			/*
			 * Reclaim wants to know as well, as far as that can be
			 * told. Valid pages are still mapped: who unmaps them
			 * takes the range lock first.
			 */
			for (; young; young &= young - 1) {
				i = page + __ffs64(young) / NOPIN_PAGE_BITS;
				if (!nopin_page_valid(cache, i))
					continue;
				p = cache->whole ? cache->huge->bv_page + i :
						   cache->bvec[i].bv_page;
				folio_set_young(page_folio(p));
				folio_set_referenced(page_folio(p));
			}
		}
	}
	return used;
}

/* One of the turns that all chunks have, some at a time */
struct nopin_round {
	unsigned int	nr;	/* which one */
	unsigned int	left;	/* chunks until there is a break */
};

/* With the lock of the list held; @arg: the round, if there is one */
static enum lru_status nopin_isolate(struct list_head *item,
				     struct list_lru_one *list,
				     spinlock_t *lock, void *arg)
{
	struct nopin_chunk *chunk = container_of(item, struct nopin_chunk,
						 cache.lru);
	/* Neither is freed before the chunk is off the list */
	struct nopin_range *range = chunk->range;
	struct nopin_round *round = arg;
	enum lru_status ret = LRU_ROTATE;

	/* Those who had their turn go to the end of the list */
	if (round && (!round->left || chunk->cache.round == round->nr))
		return LRU_STOP;
	/* Others take the two locks the other way round */
	if (!spin_trylock(&range->lock))
		return LRU_SKIP;
	if (round) {
		chunk->cache.round = round->nr;
		round->left--;
	}
	/* The shrinker leaves it to the rest of reclaim to age pages */
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
	return list_lru_shrink_walk(&nopin_lru, sc, nopin_isolate, NULL);
}

/**
 * nopin_cache_age - take back the memory of chunks that nobody uses
 *
 * All chunks have a turn: those that have not been used since their last one are
 * freed.
 *
 * Context: Process context, may sleep. One at a time.
 *
 * Return: the number of chunks that were.
 */
unsigned long nopin_cache_age(void)
{
	static unsigned int nr;
	struct nopin_round round = { .nr = ++nr };
	unsigned long freed = 0;

	do {
		/* With a spinlock held */
		round.left = 64;
		freed += list_lru_walk(&nopin_lru, nopin_isolate, &round,
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
 * nopin_cache_alloc - allocate a chunk, which may get translations
 * @slab: where from
 *
 * Context: Process context, may sleep.
 *
 * Return: the chunk, zeroed, or NULL.
 */
struct nopin_chunk *nopin_cache_alloc(struct kmem_cache *slab)
{
	struct nopin_chunk *chunk;

	chunk = kmem_cache_alloc_lru(slab, &nopin_lru, GFP_KERNEL | __GFP_ZERO);
	if (chunk)
		INIT_LIST_HEAD(&chunk->cache.lru);
	return chunk;
}

/**
 * nopin_cache_add - a chunk is to have its turns in nopin_cache_age()
 * @chunk: chunk that nopin_cache_alloc() has returned
 *
 * Context: Process context, with &nopin_range.lock held.
 */
void nopin_cache_add(struct nopin_chunk *chunk)
{
	list_lru_add_obj(&nopin_lru, &chunk->cache.lru);
	schedule_delayed_work(&nopin_idle_work, NOPIN_IDLE);
}

/**
 * nopin_cache_drop - the opposite of nopin_cache_add()
 * @chunk: chunk that is going to be freed
 *
 * Context: Process context, with &nopin_range.lock held.
 */
void nopin_cache_drop(struct nopin_chunk *chunk)
{
	list_lru_del_obj(&nopin_lru, &chunk->cache.lru);
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
	/* A chunk takes 2 to 14 KiB, and a few page table walks to be filled */
	shrinker->batch = 32;
	shrinker_register(shrinker);
	return 0;
}
