/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of mm/nopin/ and their tests share.
 */
#ifndef __MM_NOPIN_H
#define __MM_NOPIN_H

#include <linux/nopin_state.h>
#include <linux/time64.h>

/* When that many pages of a chunk were looked up, it pays to look up all of them */
#define NOPIN_WALK_ALL		16

static inline unsigned int nopin_next_chunk(unsigned int page)
{
	return round_down(page, NOPIN_CHUNK_PAGES) + NOPIN_CHUNK_PAGES;
}

static inline unsigned int nopin_nr_chunks(const struct nopin_range *range)
{
	return DIV_ROUND_UP(range->nr_pages, NOPIN_CHUNK_PAGES);
}

static inline unsigned long nopin_addr(const struct nopin_range *range,
				       unsigned int page)
{
	return range->start + ((unsigned long)page << PAGE_SHIFT);
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

/* The page of the lowest of these bits, in the word of @page */
static __always_inline unsigned int nopin_page(unsigned int page, u64 bits)
{
	return round_down(page, NOPIN_PAGES_PER_WORD) +
	       __ffs64(bits) / NOPIN_PAGE_BITS;
}

/* Of a word: the open pages, as OLD bits */
static inline u64 nopin_open_bytes(u64 word)
{
	BUILD_BUG_ON(NOPIN_PAGE_CLOSED >> 1 != NOPIN_PAGE_OLD);
	return ~(word >> 1) & NOPIN_OLD;
}

/* How many bios have entered the page? */
static inline unsigned int nopin_count(struct nopin_chunk *chunk,
				       unsigned int page, enum nopin_dir dir)
{
	/* Acquire: what they did to the page comes before what we do */
	u64 word = atomic64_read_acquire(nopin_word(chunk, page, dir));

	return word >> (page % NOPIN_PAGES_PER_WORD * NOPIN_PAGE_BITS) &
	       NOPIN_PAGE_MAX;
}

struct nopin_range *nopin_range_create(struct mm_struct *mm,
				       unsigned long start,
				       unsigned int nr_pages);
void nopin_range_destroy(struct nopin_range *range);
void nopin_range_put(struct nopin_range *range);
int nopin_range_init(void);
bool nopin_chunk_free(struct nopin_chunk *chunk);
bool nopin_invalidate(struct mmu_interval_notifier *notifier,
		      const struct mmu_notifier_range *mn,
		      unsigned long cur_seq);
bool nopin_wait_buys(const struct mmu_notifier_range *mn, struct folio *folio,
		     enum nopin_dir dir);
int nopin_pin(struct nopin_range *range, unsigned int first,
	      unsigned int end, unsigned int dirs,
	      const struct mmu_notifier_range *mn);
void nopin_unpin(struct nopin_range *range);
void nopin_unpin_work(struct work_struct *work);
int nopin_pin_init(void);
int nopin_walk(struct nopin_chunk *chunk, unsigned int start, unsigned int end,
	       enum nopin_dir dir, bool all);
struct nopin_chunk *nopin_cache_alloc(struct kmem_cache *slab);
void nopin_cache_add(struct nopin_chunk *chunk);
void nopin_cache_drop(struct nopin_chunk *chunk);
int nopin_cache_init(void);
unsigned long nopin_cache_age(void);
void nopin_forget(struct nopin_range *range, unsigned int first,
		  unsigned int end);
bool nopin_young(struct mmu_interval_notifier *notifier, unsigned long start,
		 unsigned long end, bool clear);
unsigned int nopin_count_cached(struct nopin_chunk *chunk, unsigned int page,
				unsigned int end);

#ifdef CONFIG_LOCKDEP
void nopin_window_wait(void);
#else
static inline void nopin_window_wait(void) { }
#endif

/* How many I/Os of a process are pinned, plus one for each of its mappings */
#define NOPIN_FIRST_IOS_MAX	(INT_MAX / 2)
extern unsigned int nopin_first_ios;

/* An hour: longer than any I/O, and far from overflowing in jiffies */
#define NOPIN_RMAP_WAIT_MAX	(3600 * MSEC_PER_SEC)
extern unsigned int nopin_rmap_wait_ms;

#endif /* __MM_NOPIN_H */
