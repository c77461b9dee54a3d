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
 * Two sets of bits tell which translations there are:
 *
 * - valid: the bio_vec is right. Set by those who have entered the page,
 *   cleared by an invalidation when nobody has. Under the range lock.
 *
 * - young: it is right and was used lately. The only one that I/O looks at as a
 *   rule. Reclaim clears it to see whether it is set again, as it does with the
 *   accessed bit of PTEs, which a device does not set.
 *
 * 2 MiB that are mapped by a PMD or more need no more than one bio_vec. Should
 * such a mapping be split and then part of it change, the one is turned into
 * one per page.
 */

#include <linux/atomic.h>
#include <linux/bitops.h>
#include <linux/bvec.h>
#include <linux/mm.h>
#include <linux/nopin.h>
#include <linux/nopin_break.h>
#include <linux/pkeys.h>
#include <linux/slab.h>
#include <linux/vmstat.h>
#include <trace/events/nopin.h>

#include "nopin.h"

/*
 * Are the translations known? If so they are used now, although nobody may have
 * done that for a while.
 */
bool nopin_all_young(struct nopin_cache *cache, unsigned int start,
		     unsigned int nr, enum nopin_dir dir)
{
	unsigned int page = start, end = start + nr;

	do {
		unsigned int i = page / NOPIN_BITS_PER_WORD;
		u64 mask = nopin_bits(&page, end);

		/* Pairs with the barrier below, and that in nopin_learn() */
		if (!(mask & ~atomic64_read_acquire(&cache->young[dir][i])))
			continue;
		/* Pairs with the smp_store_release() in nopin_learn() */
		if (mask & ~smp_load_acquire(&cache->valid[dir][i]))
			return false;
		/* Others look at this bit only, and then at the bio_vec */
		smp_mb__before_atomic();
		atomic64_or(mask, &cache->young[dir][i]);
	} while (page < end);
	return true;
}

/**
 * nopin_cached - look for translations of earlier I/O
 * @range: range of the pages
 * @first: index of the first page in @range
 * @nr: number of pages, at least 1; all of them in the same 2 MiB
 * @dir: as they have been entered for
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
	return nopin_look_up(nopin_chunk(range, first),
			     first % NOPIN_CHUNK_PAGES, nr, dir);
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
#ifdef CONFIG_X86_INTEL_MEMORY_PROTECTION_KEYS
	return READ_ONCE(mm_pkey_allocation_map(mm)) & ~BIT(0);
#else
	return IS_ENABLED(CONFIG_ARCH_HAS_PKEYS);
#endif
}

/* From one bio_vec for all to one for each page */
static void nopin_break_up(struct nopin_cache *cache)
{
	unsigned int page;

	for (page = 0; page < NOPIN_CHUNK_PAGES; page++)
		if (nopin_page_valid(cache, page))
			bvec_set_page(&cache->bvec[page],
				      cache->huge.bv_page + page, PAGE_SIZE, 0);
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
	struct nopin_cache *cache = &nopin_chunk(range, first)->cache;
	unsigned int start = first % NOPIN_CHUNK_PAGES;
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
	if (!huge && !READ_ONCE(cache->bvec))
		array = kmalloc_array(NOPIN_CHUNK_PAGES, sizeof(*array),
				      GFP_NOWAIT | __GFP_NOWARN | __GFP_ACCOUNT);

	spin_lock(&range->lock);
	if (!cache->bvec && array) {
		WRITE_ONCE(cache->bvec, array);
		array = NULL;
	}

	/* Who has entered a page and uses a bio_vec has set a bit */
	if (!nopin_any_valid(cache)) {
		if (huge)
			bvec_set_page(&cache->huge, head,
				      NOPIN_CHUNK_PAGES * PAGE_SIZE, 0);
		WRITE_ONCE(cache->whole, huge);
	}
	if (cache->whole && (!huge || cache->huge.bv_page != head) &&
	    cache->bvec)
		nopin_break_up(cache);

	if (cache->whole) {
		if (!huge || cache->huge.bv_page != head)
			goto unlock;
	} else {
		size_t in_page = bv->bv_offset + skip;

		if (!cache->bvec)
			goto unlock;
		for (page = start; page < end; page++) {
			struct page *p = bv->bv_page + (in_page >> PAGE_SHIFT);

			if (!nopin_page_valid(cache, page))
				bvec_set_page(&cache->bvec[page], p, PAGE_SIZE,
					      0);
			in_page = round_down(in_page, PAGE_SIZE) + PAGE_SIZE;
			if (in_page >= bv->bv_offset + bv->bv_len &&
			    page + 1 < end) {
				bv++;
				in_page = bv->bv_offset;
			}
		}
	}

	page = start;
	do {
		unsigned int i = page / NOPIN_BITS_PER_WORD;
		u64 mask = nopin_bits(&page, end);

		/* Pairs with the smp_load_acquire() in nopin_all_young() */
		smp_store_release(&cache->valid[dir][i],
				  cache->valid[dir][i] | mask);
		/* Pairs with the atomic64_read_acquire() in nopin_few_young() */
		smp_mb__before_atomic();
		atomic64_or(mask, &cache->young[dir][i]);
	} while (page < end);

	count_vm_event(NOPIN_REVALIDATE);
	trace_nopin_revalidate(range->start + ((unsigned long)first << PAGE_SHIFT),
			       nr, dir);
unlock:
	spin_unlock(&range->lock);
	kfree(array);
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

	WRITE_ONCE(cache->valid[dir][i], cache->valid[dir][i] & ~mask);
	atomic64_andnot(mask, &cache->young[dir][i]);
	if (!nopin_any_valid(cache)) {
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
 *
 * Those of pages that are pinned stay for the bios that point to them. They are
 * of no use to others, who do not get to enter such pages.
 *
 * Context: Process context. The pages are closed for these directions, idle
 * unless they are pinned, and an invalidation keeps them closed.
 */
void nopin_forget(struct nopin_range *range, unsigned int first,
		  unsigned int end, unsigned int dirs)
{
	unsigned int next, dir;

	if (nopin_broken(STALE))
		return;
	for (; first < end; first = next) {
		struct nopin_chunk *chunk = nopin_chunk(range, first);
		unsigned int page, stop;

		next = min(end, nopin_next_chunk(first));
		if (!chunk)
			continue;
		stop = first % NOPIN_CHUNK_PAGES + next - first;
		for (dir = 0; dir < dirs; dir++) {
			page = first % NOPIN_CHUNK_PAGES;
			while (page < stop) {
				unsigned int i = page / NOPIN_BITS_PER_WORD;
				u64 mask = nopin_bits(&page, stop);

				/*
				 * Bits of these pages are not set by others: it
				 * would take to enter them. Those of their
				 * neighbours are.
				 */
				if (!(READ_ONCE(chunk->cache.valid[dir][i]) & mask))
					continue;
				spin_lock(&range->lock);
				nopin_forget_bits(chunk, dir, i,
						  mask & ~chunk->pinned[dir][i]);
				spin_unlock(&range->lock);
			}
		}
	}
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
 */
bool nopin_young(struct mmu_interval_notifier *notifier, unsigned long start,
		 unsigned long end, bool clear)
{
	struct nopin_range *range = container_of(notifier, struct nopin_range,
						 notifier);
	unsigned int page, last, next, dir;
	bool young = false;

	if (nopin_broken(YOUNG))
		return false;
	start = max(start, range->start);
	last = nopin_index(range, min(end - 1, notifier->interval_tree.last));
	for (page = nopin_index(range, start); page <= last; page = next) {
		struct nopin_chunk *chunk = nopin_chunk(range, page);
		unsigned int stop;

		next = min(last + 1, nopin_next_chunk(page));
		if (!chunk)
			continue;
		stop = page % NOPIN_CHUNK_PAGES + next - page;
		for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
			unsigned int p = page % NOPIN_CHUNK_PAGES;

			while (p < stop) {
				atomic64_t *word = &chunk->cache.young[dir]
					[p / NOPIN_BITS_PER_WORD];
				u64 mask = nopin_bits(&p, stop);

				if (!(atomic64_read(word) & mask))
					continue;
				young = true;
				if (clear)
					atomic64_andnot(mask, word);
			}
		}
	}
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
	unsigned int nr = 0, next;

	for (; first < end; first = next) {
		struct nopin_chunk *chunk = nopin_chunk(range, first);
		unsigned int page = first % NOPIN_CHUNK_PAGES, stop;

		next = min(end, nopin_next_chunk(first));
		if (!chunk)
			continue;
		stop = page + next - first;
		while (page < stop) {
			unsigned int i = page / NOPIN_BITS_PER_WORD;
			u64 mask = nopin_bits(&page, stop);

			nr += hweight64(mask &
				(READ_ONCE(chunk->cache.valid[NOPIN_FROM_DEVICE][i]) |
				 READ_ONCE(chunk->cache.valid[NOPIN_TO_DEVICE][i])));
		}
	}
	return nr;
}
