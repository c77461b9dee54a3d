/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page states: what mm/nopin/ and its tests share.
 */
#ifndef __MM_NOPIN_H
#define __MM_NOPIN_H

#include <linux/atomic.h>
#include <linux/bits.h>
#include <linux/bvec.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/nopin.h>
#include <linux/nopin_break.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/time64.h>
#include <linux/wait.h>
#include <linux/xarray.h>

/*
 * A page has one byte per direction: the number of bios that have entered it,
 * and a bit that keeps further ones out. Eight bytes make an atomic64.
 */
#define NOPIN_PAGE_BITS		8
#define NOPIN_PAGES_PER_WORD	(64 / NOPIN_PAGE_BITS)
#define NOPIN_PAGE_CLOSED	0x80
#define NOPIN_PAGE_MAX		0x7f
#define NOPIN_ONES		0x0101010101010101ULL
#define NOPIN_CLOSED		(NOPIN_ONES * NOPIN_PAGE_CLOSED)
#define NOPIN_COUNTS		(NOPIN_ONES * NOPIN_PAGE_MAX)

#define NOPIN_CHUNK_PAGES	512
#define NOPIN_CHUNK_WORDS	(NOPIN_CHUNK_PAGES / NOPIN_PAGES_PER_WORD)

/* What has one bit per page */
#define NOPIN_BITS_PER_WORD	64U
#define NOPIN_CHUNK_BITMAP	(NOPIN_CHUNK_PAGES / NOPIN_BITS_PER_WORD)

/* How much of the address space one range covers */
#define NOPIN_MM_SHIFT		30
#define NOPIN_MM_SLOTS		16

/**
 * struct nopin_cache - translations of 512 pages, see cache.c
 * @young: pages that have one that was used lately
 * @valid: pages that have one. Written under &nopin_range.lock.
 * @huge: that of all pages, if @whole
 * @bvec: those of single pages, allocated when they are needed
 * @whole: @huge is the one to use. Written under &nopin_range.lock.
 * @walked: pages that were looked up in the page tables before this began
 */
struct nopin_cache {
	atomic64_t	young[NOPIN_NR_DIRS][NOPIN_CHUNK_BITMAP];
	u64		valid[NOPIN_NR_DIRS][NOPIN_CHUNK_BITMAP];
	struct bio_vec	huge;
	struct bio_vec	*bvec;
	bool		whole;
	unsigned int	walked;
};

/**
 * struct nopin_chunk - the states of 512 pages, allocated on their first use
 * @word: page states
 * @used: one bit per word; clear means that every page of the word is closed
 *	  and was idle when it was closed. Written under &nopin_range.lock.
 * @pinned: one bit per page; set means that the bios that have entered the
 *	    page are no longer waited for, see pin.c. The page is closed as long
 *	    as it is set. Written under &nopin_range.lock.
 * @cache: translations
 */
struct nopin_chunk {
	atomic64_t	word[NOPIN_NR_DIRS][NOPIN_CHUNK_WORDS];
	u64		used[NOPIN_NR_DIRS];
	u64		pinned[NOPIN_NR_DIRS][NOPIN_CHUNK_BITMAP];
	struct nopin_cache cache;
};

/**
 * struct nopin_range - a range of user memory that I/O may use without pins
 * @notifier: tells of changes to the mapping
 * @lock: the user lock of the notifier's collision-retry scheme; also
 *	  protects &nopin_chunk.used, &nopin_chunk.pinned and
 *	  &nopin_cache.valid. Taken in process context only.
 * @wait: invalidations, and pins, that wait for closed pages to become idle
 * @late: until then (jiffies) nobody waits: I/O has been waited for in vain
 * @ref: one for whoever has created the range, and one for each pin
 * @start: first address, page aligned
 * @nr_pages: length
 * @rcu: frees the range when no exit can be about to wake a waiter
 * @chunk: page states; an entry, once set, stays until the range is freed
 */
struct nopin_range {
	struct mmu_interval_notifier	notifier;
	spinlock_t			lock;	/* user lock of @notifier */
	wait_queue_head_t		wait;
	unsigned long			late;
	refcount_t			ref;
	unsigned long			start;
	unsigned int			nr_pages;
	struct rcu_head			rcu;
	struct nopin_chunk		*chunk[];
};

static inline struct nopin_chunk *nopin_chunk(const struct nopin_range *range,
					      unsigned int page)
{
	/* Pairs with the cmpxchg_release() in nopin_chunk_alloc() */
	return smp_load_acquire(&range->chunk[page / NOPIN_CHUNK_PAGES]);
}

static inline unsigned int nopin_next_chunk(unsigned int page)
{
	return round_down(page, NOPIN_CHUNK_PAGES) + NOPIN_CHUNK_PAGES;
}

/* The bytes of those pages from @page to @end that are in the word of @page */
static __always_inline u64 nopin_bytes(unsigned int page, unsigned int end)
{
	unsigned int skip = page % NOPIN_PAGES_PER_WORD;
	unsigned int left = end - page + skip;
	u64 mask = ~0ULL << (NOPIN_PAGE_BITS * skip);

	if (left < NOPIN_PAGES_PER_WORD)
		mask &= ~(~0ULL << (NOPIN_PAGE_BITS * left));
	return mask;
}

/* The first page of the next word */
static __always_inline unsigned int nopin_next_word(unsigned int page)
{
	return round_down(page, NOPIN_PAGES_PER_WORD) + NOPIN_PAGES_PER_WORD;
}

/* Are the states of these pages in the same word? */
static __always_inline bool nopin_same_word(unsigned int page, unsigned int nr)
{
	return page % NOPIN_PAGES_PER_WORD + nr <= NOPIN_PAGES_PER_WORD;
}

/* A one in the bytes of @nr pages, at least one, from @page on */
static __always_inline u64 nopin_ones(unsigned int page, unsigned int nr)
{
	return NOPIN_ONES >> (NOPIN_PAGE_BITS * (NOPIN_PAGES_PER_WORD - nr)) <<
	       (NOPIN_PAGE_BITS * (page % NOPIN_PAGES_PER_WORD));
}

static __always_inline atomic64_t *nopin_word(struct nopin_chunk *chunk,
					      unsigned int page,
					      enum nopin_dir dir)
{
	return &chunk->word[dir][page % NOPIN_CHUNK_PAGES /
				 NOPIN_PAGES_PER_WORD];
}

/* The bytes, in the word of @page, of pages that are pinned */
static inline u64 nopin_pinned_bytes(const struct nopin_chunk *chunk,
				     unsigned int page, enum nopin_dir dir)
{
	unsigned int i = round_down(page % NOPIN_CHUNK_PAGES,
				    NOPIN_PAGES_PER_WORD);
	u8 bits = READ_ONCE(chunk->pinned[dir][i / NOPIN_BITS_PER_WORD]) >>
		  (i % NOPIN_BITS_PER_WORD);
	u64 bytes = 0;

	for (i = 0; bits >> i; i++)
		if (bits >> i & 1)
			bytes |= 0xffULL << (NOPIN_PAGE_BITS * i);
	return bytes;
}

/* The bits of the pages from *@page to @end in one word, *@page moved behind */
static __always_inline u64 nopin_bits(unsigned int *page, unsigned int end)
{
	unsigned int first = *page % NOPIN_BITS_PER_WORD;
	unsigned int nr = min(end - *page, NOPIN_BITS_PER_WORD - first);

	*page += nr;
	return (~0ULL >> (NOPIN_BITS_PER_WORD - nr)) << first;
}

bool nopin_all_young(struct nopin_cache *cache, unsigned int start,
		     unsigned int nr, enum nopin_dir dir);

/* Have all of @nr pages, whose bits are in one word, been used lately? */
static __always_inline bool nopin_few_young(struct nopin_cache *cache,
					    unsigned int start, unsigned int nr,
					    enum nopin_dir dir)
{
	u64 mask = ~0ULL >> (NOPIN_BITS_PER_WORD - nr) <<
		   (start % NOPIN_BITS_PER_WORD);

	/* Pairs with the barriers before young is set */
	return !(mask & ~atomic64_read_acquire(&cache->young[dir][start /
						NOPIN_BITS_PER_WORD]));
}

/* The translation of that page, which is known, and those behind it */
static __always_inline const struct bio_vec *
nopin_bvec(struct nopin_cache *cache, unsigned int start)
{
	/* Pairs with the smp_store_release() in nopin_break_up() */
	if (smp_load_acquire(&cache->whole))
		return &cache->huge;
	return &cache->bvec[start];
}

/* See nopin_cached(); @start is an index in the chunk */
static __always_inline const struct bio_vec *
nopin_look_up(struct nopin_chunk *chunk, unsigned int start, unsigned int nr,
	      enum nopin_dir dir)
{
	if (start % NOPIN_BITS_PER_WORD + nr <= NOPIN_BITS_PER_WORD &&
	    likely(nopin_few_young(&chunk->cache, start, nr, dir)))
		return nopin_bvec(&chunk->cache, start);
	if (nopin_all_young(&chunk->cache, start, nr, dir))
		return nopin_bvec(&chunk->cache, start);
	return NULL;
}

/**
 * struct nopin_mm - the ranges of an mm that direct I/O uses
 * @slot: ranges used lately, at the low bits of their index
 * @ranges: all ranges, by index (address >> NOPIN_MM_SHIFT)
 * @lock: one creation of a range at a time
 */
struct nopin_mm {
	struct nopin_range	*slot[NOPIN_MM_SLOTS];
	struct xarray		ranges;
	struct mutex		lock;	/* creation of ranges */
};

/* The range of @addr if it was used lately */
static __always_inline struct nopin_range *nopin_mm_slot(struct mm_struct *mm,
							 unsigned long addr)
{
	unsigned long index = addr >> NOPIN_MM_SHIFT;
	struct nopin_range *range;
	struct nopin_mm *nm;

	/* Pairs with the cmpxchg_release() in nopin_mm_create() */
	nm = smp_load_acquire(&mm->nopin);
	if (unlikely(!nm))
		return NULL;
	/* Pairs with the smp_store_release() in nopin_mm_find() */
	range = smp_load_acquire(&nm->slot[index % NOPIN_MM_SLOTS]);
	if (unlikely(!range || range->start >> NOPIN_MM_SHIFT != index))
		return NULL;
	return range;
}

struct nopin_range *nopin_range_create(struct mm_struct *mm,
				       unsigned long start,
				       unsigned int nr_pages);
void nopin_range_destroy(struct nopin_range *range);
void nopin_range_put(struct nopin_range *range);
void nopin_range_init(void);
bool nopin_invalidate(struct mmu_interval_notifier *notifier,
		      const struct mmu_notifier_range *mn,
		      unsigned long cur_seq);
bool nopin_pin(struct nopin_range *range, unsigned int first,
	       unsigned int end, unsigned int dirs);
struct folio *nopin_walk_get(struct mm_struct *mm, unsigned long addr,
			     struct page **page);
void nopin_forget_bits(struct nopin_chunk *chunk, enum nopin_dir dir,
		       unsigned int i, u64 mask);
void nopin_forget(struct nopin_range *range, unsigned int first,
		  unsigned int end, unsigned int dirs);
bool nopin_young(struct mmu_interval_notifier *notifier, unsigned long start,
		 unsigned long end, bool clear);
unsigned int nopin_count_cached(struct nopin_range *range, unsigned int first,
				unsigned int end);

/* An hour: longer than any I/O, and far from overflowing in jiffies */
#define NOPIN_RMAP_WAIT_MAX	(3600 * MSEC_PER_SEC)
extern unsigned int nopin_rmap_wait_ms;

#endif /* __MM_NOPIN_H */
