/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page states: what mm/nopin/ and its tests share.
 */
#ifndef __MM_NOPIN_H
#define __MM_NOPIN_H

#include <linux/atomic.h>
#include <linux/bits.h>
#include <linux/mmu_notifier.h>
#include <linux/nopin.h>
#include <linux/nopin_break.h>
#include <linux/spinlock.h>
#include <linux/time64.h>
#include <linux/wait.h>

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

/* Plain direct I/O: how much of the address space one range covers */
#define NOPIN_MM_SHIFT		30
#define NOPIN_MM_SLOTS		16

/**
 * struct nopin_chunk - the states of 512 pages, allocated on their first use
 * @word: page states
 * @used: one bit per word; clear means that every page of the word is closed
 *	  and was idle when it was closed. Written under &nopin_range.lock.
 */
struct nopin_chunk {
	atomic64_t	word[NOPIN_NR_DIRS][NOPIN_CHUNK_WORDS];
	u64		used[NOPIN_NR_DIRS];
};

/**
 * struct nopin_range - a range of user memory that I/O may use without pins
 * @notifier: tells of changes to the mapping
 * @lock: the user lock of the notifier's collision-retry scheme; also
 *	  protects &nopin_chunk.used. Taken in process context only.
 * @wait: invalidations that wait for closed pages to become idle
 * @start: first address, page aligned
 * @nr_pages: length
 * @rcu: frees the range when no exit can be about to wake a waiter
 * @chunk: page states; an entry, once set, stays until the range is freed
 */
struct nopin_range {
	struct mmu_interval_notifier	notifier;
	spinlock_t			lock;	/* user lock of @notifier */
	wait_queue_head_t		wait;
	unsigned long			start;
	unsigned int			nr_pages;
	struct rcu_head			rcu;
	struct nopin_chunk		*chunk[];
};

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

struct nopin_range *nopin_range_create(struct mm_struct *mm,
				       unsigned long start,
				       unsigned int nr_pages);
void nopin_range_destroy(struct nopin_range *range);
void nopin_range_init(void);
bool nopin_invalidate(struct mmu_interval_notifier *notifier,
		      const struct mmu_notifier_range *mn,
		      unsigned long cur_seq);

/* An hour: longer than any I/O, and far from overflowing in jiffies */
#define NOPIN_RMAP_WAIT_MAX	(3600 * MSEC_PER_SEC)
extern unsigned int nopin_rmap_wait_ms;

#endif /* __MM_NOPIN_H */
