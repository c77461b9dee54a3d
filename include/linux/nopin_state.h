/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page states, and the few steps that every I/O takes: what mm/nopin/ shares
 * with block/bio-nopin.c, which has them inline. Nobody else includes this.
 */
#ifndef _LINUX_NOPIN_STATE_H
#define _LINUX_NOPIN_STATE_H

#include <linux/atomic.h>
#include <linux/bits.h>
#include <linux/bvec.h>
#include <linux/list.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/nopin.h>
#include <linux/nopin_break.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/xarray.h>

/*
 * A page has one byte per direction: the number of bios that have entered it,
 * a bit that keeps further ones out, and one that sends them to look whether
 * its translation is known. Eight bytes make an atomic64. The order of the bits
 * makes a count that spills over look like the second of the two.
 */
#define NOPIN_PAGE_BITS		8
#define NOPIN_PAGES_PER_WORD	(64 / NOPIN_PAGE_BITS)
#define NOPIN_PAGE_CLOSED	0x80
#define NOPIN_PAGE_OLD		0x40
#define NOPIN_PAGE_MAX		0x3f
#define NOPIN_ONES		0x0101010101010101ULL
#define NOPIN_CLOSED		(NOPIN_ONES * NOPIN_PAGE_CLOSED)
#define NOPIN_OLD		(NOPIN_ONES * NOPIN_PAGE_OLD)
#define NOPIN_COUNTS		(NOPIN_ONES * NOPIN_PAGE_MAX)

#define NOPIN_CHUNK_PAGES	512
#define NOPIN_CHUNK_SHIFT	(PAGE_SHIFT + 9)
#define NOPIN_CHUNK_WORDS	(NOPIN_CHUNK_PAGES / NOPIN_PAGES_PER_WORD)

/* How far I/O may reach beyond a multiple of NOPIN_CACHE_SIZE, to either side */
#define NOPIN_BORDER		16

/* What has one bit per page */
#define NOPIN_BITS_PER_WORD	64U
#define NOPIN_CHUNK_BITMAP	(NOPIN_CHUNK_PAGES / NOPIN_BITS_PER_WORD)

/* How much of the address space one range covers */
#define NOPIN_MM_SHIFT		30
#define NOPIN_MM_SLOTS		64

/* To how many request queues a process can have polled I/O without pins */
#define NOPIN_MM_POLLED		4

/**
 * enum nopin_whole - is there a translation for 2 MiB as a whole?
 * @NOPIN_WHOLE_NOT: no, one for each page
 * @NOPIN_WHOLE: yes
 * @NOPIN_WHOLE_FOLIO: yes, and a pin of any of the pages holds all of them
 */
enum nopin_whole {
	NOPIN_WHOLE_NOT,
	NOPIN_WHOLE,
	NOPIN_WHOLE_FOLIO,
};

/**
 * struct nopin_cache - translations of 512 pages, see cache.c
 * @valid: pages that have one. Written under &nopin_range.lock.
 * @next: pages with the next one right behind them in physical memory; of use
 *	  where both have a translation. Written under &nopin_range.lock.
 * @huge: that of all pages, if @whole: the one of &nopin_range.huge that belongs
 *	  to them
 * @bvec: those of single pages, allocated when they are needed
 * @whole: that in @huge is the one to use. Written under &nopin_range.lock.
 * @walked: pages that were looked up in the page tables before this began
 * @lru: in the list of those who have @bvec
 * @round: of nopin_cache_age(), the last one that it took part in
 * @crossed: @border is in use. Never cleared.
 * @border: copies of what is in @bvec, here and in the chunk in front, of pages
 *	    next to the first address. Written when those are.
 */
struct nopin_cache {
	u64			valid[NOPIN_NR_DIRS][NOPIN_CHUNK_BITMAP];
	u64			next[NOPIN_CHUNK_BITMAP];
	struct bio_vec		*huge;
	struct bio_vec		*bvec;
	enum nopin_whole	whole;
	unsigned int		walked;
	struct list_head	lru;
	unsigned int		round;
	bool			crossed;
	struct bio_vec		border[2 * NOPIN_BORDER];
};

/* A power of two: finds the chunk of a word */
#define NOPIN_CHUNK_ALIGN	2048

/**
 * struct nopin_chunk - the states of 512 pages, allocated on their first use
 * @word: page states
 * @range: the range that it is a part of
 * @index: address of the first page >> NOPIN_CHUNK_SHIFT
 * @used: one bit per word; clear means that every page of the word is closed
 *	  and was idle when it was closed. Written under &nopin_range.lock.
 * @pinned: one bit per page; set means that the bios that have entered the
 *	    page are no longer waited for, see pin.c. The page is closed as long
 *	    as it is set. Written under &nopin_range.lock.
 * @cache: translations
 */
struct nopin_chunk {
	atomic64_t		word[NOPIN_NR_DIRS][NOPIN_CHUNK_WORDS];
	struct nopin_range	*range;
	unsigned long		index;
	u64			used[NOPIN_NR_DIRS];
	u64			pinned[NOPIN_NR_DIRS][NOPIN_CHUNK_BITMAP];
	struct nopin_cache	cache;
};

/**
 * struct nopin_range - a range of user memory that I/O may use without pins
 * @notifier: tells of changes to the mapping
 * @lock: the user lock of the notifier's collision-retry scheme; also
 *	  protects &nopin_chunk.used, &nopin_chunk.pinned and
 *	  &nopin_cache.valid. Taken in process context only.
 * @wait: invalidations, and pins, that wait for closed pages to become idle
 * @late: until then (jiffies) nobody waits: I/O has been waited for in vain
 * @crowded: until then (jiffies) no I/O waits: it has waited in vain for
 *	     invalidations to end
 * @ref: one for whoever has created the range, and one for each pin
 * @start: first address, page aligned
 * @nr_pages: length
 * @rcu: frees the range when no exit can be about to wake a waiter
 * @huge: translations of whole chunks, those of chunks that are next to each
 *	  other likewise, so that one bio can use them. Allocated when they are
 *	  needed, under @lock.
 * @chunk: page states; an entry, once set, stays until the range is freed
 */
struct nopin_range {
	struct mmu_interval_notifier	notifier;
	spinlock_t			lock;	/* user lock of @notifier */
	wait_queue_head_t		wait;
	unsigned long			late;
	unsigned long			crowded;
	refcount_t			ref;
	unsigned long			start;
	unsigned int			nr_pages;
	struct rcu_head			rcu;
	struct bio_vec			*huge;
	struct nopin_chunk		*chunk[];
};

/**
 * struct nopin_mm - the ranges of an mm that direct I/O uses
 * @slot: chunks used lately, at the low bits of their index
 * @ranges: all ranges, by index (address >> NOPIN_MM_SHIFT)
 * @lock: one creation of a range at a time
 * @polled: queues that polled I/O has gone to, of which this has references. An
 *	entry, once set, stays; those behind the first NULL are NULL.
 */
struct nopin_mm {
	struct nopin_chunk	*slot[NOPIN_MM_SLOTS];
	struct xarray		ranges;
	struct mutex		lock;	/* creation of ranges */
	struct request_queue	*polled[NOPIN_MM_POLLED];
};

static __always_inline struct nopin_chunk *
nopin_chunk(const struct nopin_range *range, unsigned int page)
{
	/* Pairs with the cmpxchg_release() in nopin_chunk_alloc() */
	return smp_load_acquire(&range->chunk[page / NOPIN_CHUNK_PAGES]);
}

/* Are the states of these pages in the same word? */
static __always_inline bool nopin_same_word(unsigned int page, size_t nr)
{
	return page % NOPIN_PAGES_PER_WORD + nr <= NOPIN_PAGES_PER_WORD;
}

/* A one in the bytes of @nr pages, at least one, from @page on */
static __always_inline u64 nopin_ones(unsigned int page, unsigned int nr)
{
	return NOPIN_ONES >> (NOPIN_PAGE_BITS * (NOPIN_PAGES_PER_WORD - nr)) <<
	       (NOPIN_PAGE_BITS * (page % NOPIN_PAGES_PER_WORD));
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

static __always_inline atomic64_t *nopin_word(struct nopin_chunk *chunk,
					      unsigned int page,
					      enum nopin_dir dir)
{
	return &chunk->word[dir][page % NOPIN_CHUNK_PAGES /
				 NOPIN_PAGES_PER_WORD];
}

/* The bits of the pages from *@page to @end in one word, *@page moved behind */
static __always_inline u64 nopin_bits(unsigned int *page, unsigned int end)
{
	unsigned int first = *page % NOPIN_BITS_PER_WORD;
	unsigned int nr = min(end - *page, NOPIN_BITS_PER_WORD - first);

	*page += nr;
	return (~0ULL >> (NOPIN_BITS_PER_WORD - nr)) << first;
}

/* The chunk whose pages have that state */
static __always_inline struct nopin_chunk *nopin_word_chunk(atomic64_t *word)
{
	return (struct nopin_chunk *)round_down((unsigned long)word,
						NOPIN_CHUNK_ALIGN);
}

/* Of a range of a struct nopin_mm: the index in its chunk of a page */
static __always_inline unsigned int nopin_start(unsigned long addr)
{
	return (addr >> PAGE_SHIFT) % NOPIN_CHUNK_PAGES;
}

/* The chunk of @addr if it was used lately */
static __always_inline struct nopin_chunk *nopin_mm_slot(struct mm_struct *mm,
							 unsigned long addr)
{
	unsigned long index = addr >> NOPIN_CHUNK_SHIFT;
	struct nopin_chunk *chunk;
	struct nopin_mm *nm;

	/* Pairs with the cmpxchg_release() in nopin_mm_create() */
	nm = smp_load_acquire(&mm->nopin);
	if (unlikely(!nm))
		return NULL;
	/* Pairs with the smp_store_release() in nopin_mm_find() */
	chunk = smp_load_acquire(&nm->slot[index % NOPIN_MM_SLOTS]);
	if (unlikely(!chunk || chunk->index != index))
		return NULL;
	return chunk;
}

/* nopin_mm_add_polled(), of the first one as a rule */
static __always_inline bool nopin_mm_polls(struct mm_struct *mm,
					   struct request_queue *q)
{
	/* Pairs with the cmpxchg_release() in nopin_mm_create() */
	struct nopin_mm *nm = smp_load_acquire(&mm->nopin);

	return likely(nm && READ_ONCE(nm->polled[0]) == q) ||
	       nopin_mm_add_polled(mm, q);
}

/* Add one to the counts of open pages whose translations are in use */
static __always_inline bool nopin_enter_known(atomic64_t *word, u64 ones)
{
	u64 flags = ones * (NOPIN_PAGE_CLOSED | NOPIN_PAGE_OLD);
	s64 old = atomic64_read(word), new;

	do {
		new = old + ones;
		/* or a count about to spill over */
		if (unlikely((old | new) & flags))
			return false;
		/* A full barrier, as in nopin_enter_word() */
	} while (!atomic64_try_cmpxchg(word, &old, new));
	return true;
}

void nopin_exit_wake(struct nopin_range *range);
bool nopin_enter_many(atomic64_t *first, unsigned int skip, unsigned int nr);
void nopin_exit_words(atomic64_t *first, unsigned int skip, unsigned int nr);
void nopin_cross(struct nopin_chunk *front, struct nopin_chunk *behind);

/* Returns the CLOSED bits of the pages */
static __always_inline u64 nopin_exit_word(atomic64_t *word, u64 ones)
{
	/*
	 * A full barrier: what was done to the page comes before its count
	 * drops, and the test for waiters after. Pairs with the
	 * set_current_state() in the wait_event() of nopin_drain().
	 */
	return atomic64_fetch_sub(ones, word) & (ones * NOPIN_PAGE_CLOSED);
}

/* nopin_exit() for pages that share a word, given what was added to it */
static __always_inline void nopin_exit_ones(atomic64_t *word, u64 ones)
{
	/*
	 * From the subtraction on, an invalidation may find the pages idle and
	 * the range may be destroyed, before we look for somebody to wake.
	 * Pairs with the call_rcu() in nopin_range_put().
	 */
	rcu_read_lock();
	if (unlikely(nopin_exit_word(word, ones)))
		nopin_exit_wake(nopin_word_chunk(word)->range);
	rcu_read_unlock();
}

/* nopin_enter_known() for pages of several words of a chunk: all or none */
static __always_inline bool nopin_enter_words(atomic64_t *first,
					      unsigned int skip,
					      unsigned int nr)
{
	u64 ones = NOPIN_ONES << (NOPIN_PAGE_BITS * skip);
	unsigned int left = skip + nr - NOPIN_PAGES_PER_WORD;

	if (left > NOPIN_PAGES_PER_WORD)
		return nopin_enter_many(first, skip, nr);
	if (unlikely(!nopin_enter_known(first, ones)))
		return false;
	if (likely(nopin_enter_known(first + 1, nopin_ones(0, left))))
		return true;
	nopin_exit_ones(first, ones);
	return false;
}

/* Of pages whose translations are known: is it one for all of them? */
static __always_inline enum nopin_whole
nopin_whole(const struct nopin_cache *cache)
{
	/* Pairs with the smp_store_release() in nopin_break_up() */
	return smp_load_acquire(&cache->whole);
}

/* And does a pin of any of the pages hold all of them? */
static __always_inline bool nopin_one_folio(const struct nopin_cache *cache)
{
	return nopin_whole(cache) == NOPIN_WHOLE_FOLIO;
}

/* The translation of that page, which is known, and those behind it */
static __always_inline const struct bio_vec *
nopin_bvec(const struct nopin_cache *cache, unsigned int start)
{
	return nopin_whole(cache) ? cache->huge : &cache->bvec[start];
}

/* Is the page behind that one right behind it in memory? Both are known */
static __always_inline bool nopin_followed(const struct nopin_cache *cache,
					   unsigned int page)
{
	return READ_ONCE(cache->next[page / NOPIN_BITS_PER_WORD]) &
	       BIT_ULL(page % NOPIN_BITS_PER_WORD);
}

/* Do these pages, whose translations are known, follow each other in memory? */
static __always_inline bool nopin_contiguous(const struct nopin_cache *cache,
					     unsigned int start,
					     unsigned int nr)
{
	unsigned int page = start, end = start + nr - 1;

	while (page < end) {
		unsigned int i = page / NOPIN_BITS_PER_WORD;

		if (nopin_bits(&page, end) & ~READ_ONCE(cache->next[i]))
			return false;
	}
	return true;
}

/**
 * nopin_enter_cached - enter pages whose translations are in use
 * @chunk: what nopin_mm_slot() returned for @addr
 * @addr: user address, untagged
 * @nr: number of pages, at least 1; all of them in the same 2 MiB
 * @dir: what a device is going to do with them
 * @ext: set to the pages that were entered
 *
 * What nopin_enter() and nopin_cached() do, for the sake of speed; they do it,
 * one after the other, where this fails.
 *
 * Context: As for nopin_enter().
 *
 * Return: whether the pages have been entered: either all of them or none. If
 * so, nopin_bvec() may be used.
 */
static __always_inline bool nopin_enter_cached(struct nopin_chunk *chunk,
					       unsigned long addr, size_t nr,
					       enum nopin_dir dir,
					       struct nopin_extent *ext)
{
	unsigned int start = nopin_start(addr);
	unsigned int skip = start % NOPIN_PAGES_PER_WORD;
	atomic64_t *word = nopin_word(chunk, start, dir);

	if (likely(nopin_same_word(start, nr))) {
		u64 ones = nopin_ones(start, nr);

		if (unlikely(!nopin_enter_known(word, ones)))
			return false;
		ext->word = (unsigned long)word + NOPIN_EXTENT_WORD;
		ext->ones = ones;
	} else {
		if (unlikely(!nopin_enter_words(word, skip, nr)))
			return false;
		ext->word = (unsigned long)word + NOPIN_EXTENT_WORDS;
		ext->first = skip;
		ext->nr = nr;
		ext->is_array = false;
	}
	return true;
}

#endif /* _LINUX_NOPIN_STATE_H */
