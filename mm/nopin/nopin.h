/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of mm/nopin/, their tests and block/bio-nopin.c share: page states,
 * and the steps that every I/O takes, inline.
 */
#ifndef __MM_NOPIN_H
#define __MM_NOPIN_H

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/bits.h>
#include <linux/bvec.h>
#include <linux/list.h>
#include <linux/list_lru.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/nopin.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/time64.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

/*
 * The words for it:
 *
 * enter, exit	A bio that enters a page relies on the mapping of the page until it
 *		exits.
 * open, close	A bio can enter a page that is open. An invalidation closes pages.
 * translation	The bio_vec of the page at an address. It is known if it was looked up
 *		after the page was opened, and was not made OLD since.
 * state	A byte for each page and direction: CLOSED, OLD, count of bios.
 * chunk	512 pages with their states and translations.
 * range	1 GiB of an address space, with a notifier and its chunks.
 * prompt	I/O that ends without help of a task, a file system or the network.
 *		Only for such I/O do invalidations wait.
 * pin on behalf	An invalidation that does not wait pins the pages that bios
 *		have entered.
 */

/*
 * The state of a page: the number of bios that have entered it, and two bits that
 * keep others out, CLOSED while its mapping may be changing, and OLD until its
 * translation is known. Eight states make an atomic64.
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

/* The size and alignment of a chunk */
#define NOPIN_CHUNK_PAGES	512
#define NOPIN_CHUNK_SIZE	(512UL << PAGE_SHIFT)
#define NOPIN_CHUNK_WORDS	(NOPIN_CHUNK_PAGES / NOPIN_PAGES_PER_WORD)

/* Bitmaps with one bit per page */
#define NOPIN_BITS_PER_WORD	64U
#define NOPIN_CHUNK_BITMAP	(NOPIN_CHUNK_PAGES / NOPIN_BITS_PER_WORD)

/* How much of the address space a range covers */
#define NOPIN_MM_SHIFT		30
#define NOPIN_MM_SLOTS		64
#define NOPIN_RANGE_CHUNKS	((1UL << NOPIN_MM_SHIFT) / NOPIN_CHUNK_SIZE)

/**
 * struct nopin_chunk - states and translations of 512 pages, allocated on their
 *			first use
 * @word: page states
 * @bvec: translations. Written under &nopin_range.lock, and only while no bio can
 *	  be pointing to them, see cache.c. The array stays as long as the chunk.
 * @range: the range of the chunk
 * @index: index in &nopin_range.slot
 * @other: bios in flight that are not prompt. Raised before they enter pages,
 *	   lowered after they have exited them.
 * @walked: pages that were looked up since all of the chunk was; starts at
 *	    -NOPIN_CHUNK_PAGES if none became known then. Under
 *	    &nopin_range.lock.
 * @used: one bit per word; clear means that every page of the word is closed
 *	  and was idle when it was closed. Written under &nopin_range.lock.
 * @pinned: one bit per page; set means that the page was pinned on behalf of
 *	    the bios that have entered it, see pin.c. The page is closed as long
 *	    as it is set. Written under &nopin_range.lock.
 * @lru: in the list of all chunks
 * @round: the last round of nopin_cache_age() that looked at the chunk
 * @rcu: frees the chunk when no bio can be about to enter or exit a page
 */
struct nopin_chunk {
	atomic64_t		word[NOPIN_NR_DIRS][NOPIN_CHUNK_WORDS];
	struct bio_vec		*bvec;
	struct nopin_range	*range;
	unsigned int		index;
	atomic_t		other;
	int			walked;
	u64			used[NOPIN_NR_DIRS];
	u64			pinned[NOPIN_NR_DIRS][NOPIN_CHUNK_BITMAP];
	struct list_head	lru;
	unsigned int		round;
	struct rcu_head		rcu;
};

/**
 * struct nopin_slot - where a range has a chunk
 * @chunk: the chunk; NULL until it is used. Written under &nopin_range.lock; freed
 *	   after an RCU grace period.
 * @bvec: &nopin_chunk.bvec, so that I/O does not touch the rest of the chunk.
 *	  Usable with a page of the chunk entered. Written before @chunk is set.
 */
struct nopin_slot {
	struct nopin_chunk	*chunk;
	struct bio_vec		*bvec;
};

/**
 * struct nopin_range - a range of user memory that I/O may use without pins
 * @notifier: tells of changes to the mapping
 * @lock: of the two, nopin_open() and an invalidation, one comes second and sees the
 *	  other; also protects @slot and most of each chunk. Taken in process context
 *	  only.
 * @wait: invalidations that wait for closed pages to become idle
 * @draining: number of those. They hold pointers to page states, so no chunk is
 *	      freed meanwhile. Under @lock.
 * @late: until then (jiffies) no invalidation waits: one has waited in vain for I/O
 * @crowded: until then (jiffies) no I/O waits: it has waited in vain for
 *	     invalidations to end
 * @ref: one for the creator of the range, one for @unpin while it is queued or
 *	 runs, and one while @nr_pinned is not zero
 * @apart: pages that are next to each other in memory may not share a bio_vec.
 *	   Written under @lock before such pages can be entered; stays.
 * @soon: a page that is not anonymous is pinned on behalf of I/O that writes it, so
 *	  @unpin must not be late. Under @lock, until @nr_pinned is zero.
 * @start: first address, page aligned
 * @nr_pages: length
 * @nr_pinned: number of bits set in &nopin_chunk.pinned. Written under @lock.
 * @pinned: one bit per chunk; set if any is set there. Under @lock.
 * @adjacent: one bit per chunk; set if its translations are of 512 pages next to
 *	      each other in memory. Written under @lock; cleared before a
 *	      translation changes. To be read with pages of the chunk entered.
 * @unpin: unpins idle pages
 * @rcu: frees the range when no exit can be about to wake a waiter
 * @slot: the chunks
 */
struct nopin_range {
	struct mmu_interval_notifier	notifier;
	spinlock_t			lock;	/* opening against invalidations */
	wait_queue_head_t		wait;
	unsigned int			draining;
	unsigned long			late;
	unsigned long			crowded;
	refcount_t			ref;
	bool				apart;
	bool				soon;
	unsigned long			start;
	unsigned int			nr_pages;
	unsigned int			nr_pinned;
	DECLARE_BITMAP(pinned, NOPIN_RANGE_CHUNKS);
	DECLARE_BITMAP(adjacent, NOPIN_RANGE_CHUNKS);
	struct delayed_work		unpin;
	struct rcu_head			rcu;
	struct nopin_slot		slot[];
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

/* The index in the range of the page at an address */
static __always_inline unsigned int nopin_index(const struct nopin_range *range,
						unsigned long addr)
{
	return (addr - range->start) >> PAGE_SHIFT;
}

static __always_inline struct nopin_chunk *
nopin_chunk_at(const struct nopin_range *range, unsigned int page)
{
	/* Pairs with the smp_store_release() in nopin_chunk_add() */
	return smp_load_acquire(&range->slot[page / NOPIN_CHUNK_PAGES].chunk);
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

/* The same for the pages from @page on in its word, and for those up to @page */
static __always_inline u64 nopin_ones_from(unsigned int page)
{
	return NOPIN_ONES << (NOPIN_PAGE_BITS * (page % NOPIN_PAGES_PER_WORD));
}

static __always_inline u64 nopin_ones_to(unsigned int page)
{
	return nopin_ones(0, page % NOPIN_PAGES_PER_WORD + 1);
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

/* Which word of a chunk has the state of the page? */
static __always_inline unsigned int nopin_word_index(unsigned int page)
{
	return page % NOPIN_CHUNK_PAGES / NOPIN_PAGES_PER_WORD;
}

static __always_inline atomic64_t *nopin_word(struct nopin_chunk *chunk,
					      unsigned int page,
					      enum nopin_dir dir)
{
	return &chunk->word[dir][nopin_word_index(page)];
}

/* The index in its chunk of the page at an address */
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
	return nopin_chunk_at(range, nopin_index(range, addr));
}

/* Add one to the counts of pages whose translations are known */
static __always_inline bool nopin_enter_word(atomic64_t *word, u64 ones)
{
	u64 flags = ones * (NOPIN_PAGE_CLOSED | NOPIN_PAGE_OLD);
	s64 old = atomic64_read(word), new;

	do {
		new = old + ones;
		/* A count that overflows carries into OLD, so this catches it */
		if (unlikely((old | new) & flags))
			return false;
		/*
		 * A full barrier, between the count and the translation that
		 * the caller reads. Pairs with those in nopin_close() and
		 * nopin_publish().
		 */
	} while (!atomic64_try_cmpxchg(word, &old, new));
	return true;
}

void nopin_exit_wake(struct nopin_range *range);
void nopin_enter_undo(struct nopin_chunk *chunk, unsigned int page,
		      unsigned int nr, enum nopin_dir dir);
void nopin_exit_slow(const struct nopin_extent *ext, enum nopin_dir dir);

/* Enter pages of one chunk, at least one; all of them or none */
static __always_inline bool nopin_enter_pages(struct nopin_chunk *chunk,
					      unsigned int page, unsigned int nr,
					      enum nopin_dir dir)
{
	atomic64_t *word = nopin_word(chunk, page, dir), *first = word, *last;
	u64 ones;

	if (likely(nopin_same_word(page, nr)))
		return nopin_enter_word(word, nopin_ones(page, nr));
	ones = nopin_ones_from(page);
	last = nopin_word(chunk, page + nr - 1, dir);
	do {
		if (unlikely(!nopin_enter_word(word, ones)))
			goto undo;
		ones = NOPIN_ONES;
	} while (++word != last);
	if (likely(nopin_enter_word(last, nopin_ones_to(page + nr - 1))))
		return true;
undo:
	if (word != first)
		nopin_enter_undo(chunk, page, (word - first) * NOPIN_PAGES_PER_WORD -
				 page % NOPIN_PAGES_PER_WORD, dir);
	return false;
}

/* Returns the CLOSED bits of the pages */
static __always_inline u64 nopin_exit_word(atomic64_t *word, u64 ones)
{
	/*
	 * A full barrier. What was done to the page comes before its count
	 * drops. The caller looks for tasks that wait, and for pins, after it.
	 * Pairs with the set_current_state() in the wait_event() of
	 * nopin_drain(), and with the smp_mb() in nopin_pin_page().
	 */
	return atomic64_fetch_sub(ones, word) & (ones * NOPIN_PAGE_CLOSED);
}

/* Exit pages of one chunk, at least one; returns their CLOSED bits */
static __always_inline u64 nopin_exit_pages(struct nopin_chunk *chunk,
					    unsigned int page, unsigned int nr,
					    enum nopin_dir dir)
{
	atomic64_t *word = nopin_word(chunk, page, dir), *last;
	u64 ones, closed = 0;

	if (likely(nopin_same_word(page, nr)))
		return nopin_exit_word(word, nopin_ones(page, nr));
	ones = nopin_ones_from(page);
	last = nopin_word(chunk, page + nr - 1, dir);
	do {
		closed |= nopin_exit_word(word, ones);
		ones = NOPIN_ONES;
	} while (++word != last);
	return closed | nopin_exit_word(last, nopin_ones_to(page + nr - 1));
}

/* I/O that is not prompt has exited the pages of a chunk, or could not enter */
static __always_inline void nopin_other_end(struct nopin_chunk *chunk)
{
	/* After the counts of the pages were lowered, see nopin_enter() */
	smp_mb__before_atomic();
	atomic_dec(&chunk->other);
}

/*
 * Are the pages from @page on next to each other in memory? They are entered, or the
 * caller has the range lock.
 */
static __always_inline bool nopin_contiguous(const struct nopin_range *range,
					     unsigned int page,
					     const struct bio_vec *bvec,
					     unsigned int nr)
{
	unsigned int i;

	/* Small pages seldom are: do not look at more than two of them */
	if (nr > 1 && bvec[1].bv_page != bvec->bv_page + 1)
		return false;
	if (READ_ONCE(range->apart))
		return false;
	/* Pages were entered before. Pairs with the clear_bit() in nopin_add() */
	if (test_bit(page / NOPIN_CHUNK_PAGES, range->adjacent))
		return true;
	for (i = 2; i < nr; i++)
		if (bvec[i].bv_page != bvec->bv_page + i)
			return false;
	return true;
}

/**
 * nopin_enter - keep the mappings of some pages as they are
 * @range: range of the pages
 * @page: index in @range of the first page
 * @nr: number of pages, at least 1; all of them of the same chunk
 * @dir: what a device is going to do with them
 * @prompt: an invalidation may wait for the I/O
 * @ext: set to the pages that were entered
 *
 * Until nopin_exit() the translations are true.
 *
 * If the I/O is prompt, the caller must not wait for anything that may wait for an
 * invalidation, before it has submitted the I/O. If it is not, the caller may wait
 * for anything before nopin_exit(): an invalidation pins the pages on behalf of
 * the I/O, or is refused, at once.
 *
 * Context: Any context of a task that uses the mm. Does not sleep.
 *
 * Return: the translations of the pages, which stay until nopin_exit(); NULL if no
 * page has been entered. nopin_open() tells why.
 */
static __always_inline struct bio_vec *
nopin_enter(struct nopin_range *range, unsigned int page, size_t nr,
	    enum nopin_dir dir, bool prompt, struct nopin_extent *ext)
{
	struct bio_vec *bvec = NULL;
	struct nopin_chunk *chunk;

	/* Until the pages are entered. Pairs with the call_rcu() of chunks */
	rcu_read_lock();
	chunk = nopin_chunk_at(range, page);
	if (unlikely(!chunk))
		goto out;
	/*
	 * Before the count of a page is raised, which is a full barrier: an
	 * invalidation that sees the count sees this, and does not wait.
	 */
	if (!prompt)
		atomic_inc(&chunk->other);
	if (unlikely(!nopin_enter_pages(chunk, page, nr, dir))) {
		if (!prompt)
			nopin_other_end(chunk);
		goto out;
	}
	ext->range = range;
	ext->first = page;
	ext->nr = nr;
	ext->other = !prompt;
	ext->is_array = false;
	bvec = &range->slot[page / NOPIN_CHUNK_PAGES].bvec[page % NOPIN_CHUNK_PAGES];
out:
	rcu_read_unlock();
	return bvec;
}

/**
 * nopin_exit - the I/O no longer uses the pages
 * @ext: pages that have been entered; not an array. May be of several chunks.
 * @dir: as they have been entered for
 *
 * Context: Any, hard interrupts included. A task that waits for the last exit may
 * free the range, so callers must not touch it again.
 */
static __always_inline void nopin_exit(const struct nopin_extent *ext,
				       enum nopin_dir dir)
{
	struct nopin_range *range = ext->range;
	unsigned int first = ext->first, nr = ext->nr;
	struct nopin_chunk *chunk;

	/* Pages of the same word are of the same chunk */
	if (unlikely(ext->other || (!nopin_same_word(first, nr) &&
				    first % NOPIN_CHUNK_PAGES + nr > NOPIN_CHUNK_PAGES))) {
		nopin_exit_slow(ext, dir);
		return;
	}
	/*
	 * As soon as the count is lowered, an invalidation may find the pages
	 * idle, and the range may be destroyed before we look for tasks to wake.
	 * Pairs with the call_rcu() in nopin_range_put().
	 */
	rcu_read_lock();
	chunk = nopin_chunk_at(range, first);
	if (unlikely(nopin_exit_pages(chunk, first, nr, dir)))
		nopin_exit_wake(range);
	rcu_read_unlock();
}

bool nopin_mm_ready(struct mm_struct *mm, unsigned long addr);
void nopin_mm_want(struct mm_struct *mm, unsigned long addr);
struct nopin_range *nopin_mm_get(struct mm_struct *mm, unsigned long addr);
int nopin_open(struct nopin_range *range, unsigned int first, unsigned int nr,
	       enum nopin_dir dir, bool nowait);
int nopin_fault(struct mm_struct *mm, unsigned long addr, size_t len,
		enum nopin_dir dir);
bool nopin_present(struct mm_struct *mm, unsigned long addr, enum nopin_dir dir);
unsigned long nopin_skip(struct mm_struct *mm, unsigned long addr,
			 unsigned long end);
void nopin_count_fallback(enum nopin_fallback cause, dev_t dev);

/* From here on for mm/nopin/ only */

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

/* The bytes, in the word of @page, of pages that are pinned on behalf of I/O */
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

/* On Linux 6.12, pages of fs-DAX that files share look anonymous */
static inline bool nopin_anon(struct folio *folio)
{
	return folio_test_anon(folio) && !folio_is_zone_device(folio);
}

/* The counts of the pages from @page to @end that are in the word of @page */
static inline u64 nopin_counts(struct nopin_chunk *chunk, unsigned int page,
			       unsigned int end, enum nopin_dir dir)
{
	return atomic64_read(nopin_word(chunk, page, dir)) &
	       nopin_bytes(page, end) & NOPIN_COUNTS;
}

/* How many bios have entered the page? */
static inline unsigned int nopin_count(struct nopin_chunk *chunk,
				       unsigned int page, enum nopin_dir dir)
{
	/* Acquire: what the bios did to the page comes before what we do */
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
extern struct list_lru nopin_lru;
void nopin_cache_add(struct nopin_chunk *chunk);
int nopin_cache_init(void);
unsigned long nopin_cache_age(void);
void nopin_forget(struct nopin_range *range, unsigned int first,
		  unsigned int end);
bool nopin_young(struct mmu_interval_notifier *notifier, unsigned long start,
		 unsigned long end, bool clear);
unsigned int nopin_count_known(const struct nopin_range *range,
			       unsigned int first, unsigned int end);

#ifdef CONFIG_LOCKDEP
void nopin_window_wait(void);
#else
static inline void nopin_window_wait(void) { }
#endif

/* How many I/Os of a process are pinned, besides one for each of its mappings */
#define NOPIN_FIRST_IOS_MAX	(INT_MAX / 2)
extern unsigned int nopin_first_ios;

/* An hour: longer than any I/O, and far from overflowing in jiffies */
#define NOPIN_RMAP_WAIT_MAX	(3600 * MSEC_PER_SEC)
extern unsigned int nopin_rmap_wait_ms;

#endif /* __MM_NOPIN_H */
