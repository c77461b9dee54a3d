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
#include <linux/workqueue.h>
#include <linux/xarray.h>

/*
 * A page has one byte per direction: the number of bios that have entered it,
 * a bit that keeps further ones out, and one that sends them to look whether
 * its translation is known. Eight bytes make an atomic64.
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

/* What has one bit per page */
#define NOPIN_BITS_PER_WORD	64U
#define NOPIN_CHUNK_BITMAP	(NOPIN_CHUNK_PAGES / NOPIN_BITS_PER_WORD)

/* How much of the address space one range covers */
#define NOPIN_MM_SHIFT		30
#define NOPIN_MM_SLOTS		64

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
 * @lru: in the list of all chunks
 * @round: of nopin_cache_age(), the last one that it took part in
 */
struct nopin_cache {
	u64			valid[NOPIN_NR_DIRS][NOPIN_CHUNK_BITMAP];
	u64			next[NOPIN_CHUNK_BITMAP];
	struct bio_vec		*huge;
	struct bio_vec		*bvec;
	bool			whole;
	unsigned int		walked;
	struct list_head	lru;
	unsigned int		round;
};

/**
 * struct nopin_chunk - the states of 512 pages, allocated on their first use
 * @word: page states
 * @range: the range that it is a part of
 * @index: address of the first page >> NOPIN_CHUNK_SHIFT
 * @other: bios in flight that are not prompt. Raised before they enter pages,
 *	   lowered after they have left them.
 * @used: one bit per word; clear means that every page of the word is closed
 *	  and was idle when it was closed. Written under &nopin_range.lock.
 * @pinned: one bit per page; set means that the page was pinned on behalf of
 *	    the bios that have entered it, see pin.c. The page is closed as long
 *	    as it is set. Written under &nopin_range.lock.
 * @pins: the pages that were pinned. Allocated before I/O that is not prompt
 *	  enters, and when it is needed; then it stays. Under &nopin_range.lock.
 * @cache: translations
 * @rcu: frees the chunk when nobody can be about to enter a page or to leave one
 */
struct nopin_chunk {
	atomic64_t		word[NOPIN_NR_DIRS][NOPIN_CHUNK_WORDS];
	struct nopin_range	*range;
	unsigned long		index;
	atomic_t		other;
	u64			used[NOPIN_NR_DIRS];
	u64			pinned[NOPIN_NR_DIRS][NOPIN_CHUNK_BITMAP];
	struct page		**pins;
	struct nopin_cache	cache;
	struct rcu_head		rcu;
};

/**
 * struct nopin_range - a range of user memory that I/O may use without pins
 * @notifier: tells of changes to the mapping
 * @lock: the user lock of the notifier's collision-retry scheme; also
 *	  protects @chunk, &nopin_chunk.used, &nopin_chunk.pinned and
 *	  &nopin_cache.valid. Taken in process context only.
 * @wait: invalidations that wait for closed pages to become idle
 * @draining: number of those. They hold pointers to page states, so no chunk is
 *	      freed meanwhile. Under @lock.
 * @late: until then (jiffies) nobody waits: I/O has been waited for in vain
 * @crowded: until then (jiffies) no I/O waits: it has waited in vain for
 *	     invalidations to end
 * @ref: one for whoever has created the range, one for @unpin while it is
 *	 queued or runs, and one while @nr_pinned is not zero
 * @start: first address, page aligned
 * @nr_pages: length
 * @nr_pinned: number of bits set in &nopin_chunk.pinned. Written under @lock.
 * @unpin: drops the pins of pages that are idle
 * @rcu: frees the range when no exit can be about to wake a waiter
 * @huge: translations of whole chunks. Allocated when they are needed, under
 *	  @lock.
 * @chunk: page states. Written under @lock; freed after an RCU grace period.
 */
struct nopin_range {
	struct mmu_interval_notifier	notifier;
	spinlock_t			lock;	/* user lock of @notifier */
	wait_queue_head_t		wait;
	unsigned int			draining;
	unsigned long			late;
	unsigned long			crowded;
	refcount_t			ref;
	unsigned long			start;
	unsigned int			nr_pages;
	unsigned int			nr_pinned;
	struct work_struct		unpin;
	struct rcu_head			rcu;
	struct bio_vec			*huge;
	struct nopin_chunk		*chunk[];
};

/**
 * struct nopin_mm - the ranges of an mm that direct I/O uses
 * @slot: ranges that were created lately, at the low bits of their index. Written
 *	  under @lock.
 * @ranges: all ranges, by index (address >> NOPIN_MM_SHIFT). They stay as long as
 *	    the mm.
 * @lock: one creation of a range at a time
 */
struct nopin_mm {
	struct nopin_range	*slot[NOPIN_MM_SLOTS];
	struct xarray		ranges;
	struct mutex		lock;	/* creation of ranges */
};

static __always_inline struct nopin_chunk *
nopin_chunk(const struct nopin_range *range, unsigned int page)
{
	/* Pairs with the smp_store_release() in nopin_chunk_add() */
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

/* Of a range of a struct nopin_mm: the index in its chunk of a page */
static __always_inline unsigned int nopin_start(unsigned long addr)
{
	return (addr >> PAGE_SHIFT) % NOPIN_CHUNK_PAGES;
}

/**
 * nopin_mm_find - find the range of an address
 * @mm: mm that the caller uses (mm_users)
 * @addr: user address
 *
 * Context: Any that can use the mm. Does not sleep, and writes nothing.
 *
 * Return: the range, valid while the mm is in use, or NULL if it has to be
 * created.
 */
static __always_inline struct nopin_range *nopin_mm_find(struct mm_struct *mm,
							 unsigned long addr)
{
	/* Pairs with the cmpxchg_release() in nopin_mm_create() */
	struct nopin_mm *nm = smp_load_acquire(&mm->nopin);
	unsigned long index = addr >> NOPIN_MM_SHIFT;
	struct nopin_range *range;

	if (unlikely(!nm))
		return NULL;
	/* Pairs with the smp_store_release() in nopin_mm_get() */
	range = smp_load_acquire(&nm->slot[index % NOPIN_MM_SLOTS]);
	if (likely(range && range->start >> NOPIN_MM_SHIFT == index))
		return range;
	return xa_load(&nm->ranges, index);
}

/* The chunk of @addr if it was used; RCU protects it until a page is entered */
static __always_inline struct nopin_chunk *nopin_mm_chunk(struct mm_struct *mm,
							  unsigned long addr)
{
	struct nopin_range *range = nopin_mm_find(mm, addr);

	if (unlikely(!range))
		return NULL;
	return nopin_chunk(range, (addr - range->start) >> PAGE_SHIFT);
}

/* Add one to the counts of open pages whose translations are in use */
static __always_inline bool nopin_enter_known(atomic64_t *word, u64 ones)
{
	u64 flags = ones * (NOPIN_PAGE_CLOSED | NOPIN_PAGE_OLD);
	s64 old = atomic64_read(word), new;

	do {
		new = old + ones;
		/* A count that overflows carries into OLD, so this catches it */
		if (unlikely((old | new) & flags))
			return false;
		/* A full barrier, as in nopin_enter_word() */
	} while (!atomic64_try_cmpxchg(word, &old, new));
	return true;
}

void nopin_exit_wake(struct nopin_range *range);
bool nopin_enter_words(struct nopin_chunk *chunk, unsigned int start,
		       unsigned int nr, enum nopin_dir dir);

/* Returns the CLOSED bits of the pages */
static __always_inline u64 nopin_exit_word(atomic64_t *word, u64 ones)
{
	/*
	 * A full barrier. What was done to the page comes before its count
	 * drops. The caller's look for tasks that wait, and for pins, comes
	 * after. Pairs with the set_current_state() in the wait_event() of
	 * nopin_wait_idle(), and with the smp_mb() in nopin_pin_page().
	 */
	return atomic64_fetch_sub(ones, word) & (ones * NOPIN_PAGE_CLOSED);
}

/*
 * I/O that is not prompt is about to enter pages of the chunk. Fails if there is
 * no room for its pins yet.
 */
static __always_inline bool nopin_other_begin(struct nopin_chunk *chunk)
{
	/* Never taken away. Pairs with the smp_store_release() in nopin_room() */
	if (unlikely(!smp_load_acquire(&chunk->pins)))
		return false;
	/*
	 * Before the count of a page is raised, which is a full barrier: an
	 * invalidation that sees the count sees this, and does not wait.
	 */
	atomic_inc(&chunk->other);
	return true;
}

/* The opposite, after the last exit */
static __always_inline void nopin_other_end(struct nopin_chunk *chunk)
{
	/* After the count of the last page was lowered, see nopin_other_begin() */
	smp_mb__before_atomic();
	atomic_dec(&chunk->other);
}

/* Of pages whose translations are known: is it one for all of them? */
static __always_inline bool nopin_whole(const struct nopin_cache *cache)
{
	/* Pairs with the smp_store_release() in nopin_break_up() */
	return smp_load_acquire(&cache->whole);
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
 * @chunk: what nopin_mm_chunk() returned for @addr
 * @addr: user address, untagged
 * @nr: number of pages, at least 1; all of them in the same 2 MiB
 * @dir: what a device is going to do with them
 * @prompt: an invalidation may wait for the I/O
 * @ext: set to the pages that were entered
 *
 * What nopin_enter() and nopin_cached() do, for the sake of speed; they do it,
 * one after the other, where this fails.
 *
 * Context: As for nopin_enter(), within rcu_read_lock() since before
 * nopin_mm_chunk().
 *
 * Return: whether the pages have been entered: either all of them or none. If
 * so, nopin_bvec() may be used, and @chunk stays until nopin_exit_extent().
 */
static __always_inline bool nopin_enter_cached(struct nopin_chunk *chunk,
					       unsigned long addr, size_t nr,
					       enum nopin_dir dir, bool prompt,
					       struct nopin_extent *ext)
{
	unsigned int start = nopin_start(addr);

	if (!prompt && !nopin_other_begin(chunk))
		return false;
	if (likely(nopin_same_word(start, nr))) {
		if (unlikely(!nopin_enter_known(nopin_word(chunk, start, dir),
						nopin_ones(start, nr))))
			goto fail;
	} else {
		if (unlikely(!nopin_enter_words(chunk, start, nr, dir)))
			goto fail;
	}
	ext->range = chunk->range;
	ext->first = (addr - chunk->range->start) >> PAGE_SHIFT;
	ext->nr = nr;
	ext->other = !prompt;
	ext->is_array = false;
	return true;
fail:
	if (!prompt)
		nopin_other_end(chunk);
	return false;
}

/**
 * nopin_exit_extent - the I/O no longer uses the pages
 * @ext: the pages; not an array
 * @dir: as they have been entered for
 *
 * Context: As for nopin_exit().
 */
static __always_inline void nopin_exit_extent(const struct nopin_extent *ext,
					      enum nopin_dir dir)
{
	struct nopin_range *range = ext->range;
	unsigned int first = ext->first, nr = ext->nr;
	struct nopin_chunk *chunk;

	if (unlikely(ext->other)) {
		nopin_exit_other(range, first, nr, dir);
		return;
	}
	if (unlikely(!nopin_same_word(first, nr))) {
		nopin_exit(range, first, nr, dir);
		return;
	}
	/*
	 * From the subtraction on, an invalidation may find the pages idle, and
	 * the range may be destroyed, before we look for somebody to wake.
	 * Pairs with the call_rcu() in nopin_range_put().
	 */
	rcu_read_lock();
	chunk = nopin_chunk(range, first);
	if (unlikely(nopin_exit_word(nopin_word(chunk, first, dir),
				     nopin_ones(first, nr))))
		nopin_exit_wake(range);
	rcu_read_unlock();
}

#endif /* _LINUX_NOPIN_STATE_H */
