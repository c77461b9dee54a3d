// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of nopin: translations that are kept from one I/O to the next.
 */

#include <linux/mman.h>
#include <linux/page-flags.h>
#include <linux/sched/mm.h>
#include <linux/shrinker.h>
#include <linux/swap.h>

#include "common.h"

/* Small pages that are there, open in both directions, and not known */
#define CACHE_ADDR	(4UL << NOPIN_MM_SHIFT)
#define CACHE_PAGES	(2 * NOPIN_CHUNK_PAGES)

static unsigned long cache_addr(unsigned int page)
{
	return CACHE_ADDR + page * PAGE_SIZE;
}

static int is_young(unsigned int page)
{
	return mmu_notifier_test_young(current->mm, cache_addr(page));
}

static int clear_young(unsigned int first, unsigned int nr)
{
	return mmu_notifier_clear_young(current->mm, cache_addr(first),
					cache_addr(first + nr));
}

static unsigned int count_cached(void)
{
	return nopin_mm_count_known(current->mm, CACHE_ADDR,
				    CACHE_PAGES * PAGE_SIZE);
}

/* Look up these pages and no others: not so many that all of them are */
static void learn(struct kunit *test, struct nopin_range *range,
		  unsigned int first, unsigned int nr, enum nopin_dir dir)
{
	unsigned int end = first + nr, next;
	struct nopin_chunk *chunk;

	for (; first < end; first = next) {
		next = min3(end, nopin_next_chunk(first),
			    first + NOPIN_WALK_ALL / 2);
		spin_lock(&range->lock);
		chunk = nopin_chunk_at(range, first);
		if (chunk)
			chunk->walked = 0;
		spin_unlock(&range->lock);
		nt_open_pages(test, range, first, next - first, dir);
	}
}

static void learn_both(struct kunit *test, struct nopin_range *range,
		       unsigned int first, unsigned int nr)
{
	learn(test, range, first, nr, NOPIN_FROM_DEVICE);
	learn(test, range, first, nr, NOPIN_TO_DEVICE);
}

static int cache_init(struct kunit *test)
{
	struct nt_fixture *f;
	int ret;

	ret = nt_init(test);
	if (ret)
		return ret;
	f = test->priv;
	nt_map_fixed(test, CACHE_ADDR, CACHE_PAGES * PAGE_SIZE);
	nt_write(test, CACHE_ADDR, CACHE_PAGES * PAGE_SIZE);
	f->mm = current->mm;
	mmget(f->mm);
	f->range = nt_range(test, CACHE_ADDR);
	nt_open_pages(test, f->range, 0, CACHE_PAGES, NOPIN_FROM_DEVICE);
	nt_open_pages(test, f->range, 0, CACHE_PAGES, NOPIN_TO_DEVICE);
	clear_young(0, CACHE_PAGES);
	return 0;
}

/* Another page comes to this address */
static void replace(struct kunit *test, unsigned long addr)
{
	/* as long as there is a reference to it, others are not the same */
	struct page *old = nt_get_page(addr), *now;

	KUNIT_ASSERT_NOT_NULL(test, old);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, PAGE_SIZE,
					 MADV_DONTNEED), 0);
	nt_write(test, addr, PAGE_SIZE);
	now = nt_get_page(addr);
	KUNIT_ASSERT_NOT_NULL(test, now);
	KUNIT_EXPECT_PTR_NE(test, now, old);
	put_page(now);
	put_page(old);
}

/*
 * When enough pages were looked up, all are, of the same chunk, and each chunk
 * counts alone. But not those that nobody has accessed, or that must not be used.
 */
static void test_threshold(struct kunit *test)
{
	const unsigned int a = 0, b = NOPIN_CHUNK_PAGES;
	const unsigned int cold = 100, fixed = 200, gone = 300, clean = 400;
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int i;

	lru_add_drain_all();
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, cache_addr(cold),
					 4 * PAGE_SIZE, MADV_COLD), 0);
	KUNIT_ASSERT_EQ(test, nt_protect(cache_addr(fixed), PAGE_SIZE,
					 PROT_READ), 0);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, cache_addr(gone),
					 PAGE_SIZE, MADV_DONTNEED), 0);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, cache_addr(clean),
					 PAGE_SIZE, MADV_FREE), 0);
	nt_read(test, cache_addr(clean), PAGE_SIZE);

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		struct mmu_notifier_range mn;

		/* no I/O has ever used them, as far as anybody remembers */
		nt_inval_start(&mn, range, 0, CACHE_PAGES);
		nt_inval_end(&mn);
		KUNIT_EXPECT_FALSE(test, nt_has_states(range, a));
		KUNIT_EXPECT_FALSE(test, nt_has_states(range, b));

		for (i = 0; i < NOPIN_WALK_ALL - 1; i++)
			nt_open_pages(test, range, a + i, 1, dir);
		KUNIT_EXPECT_EQ(test, nt_count_known(range, 0, CACHE_PAGES,
						     dir), NOPIN_WALK_ALL - 1);
		EXPECT_KNOWN(test, range, a, NOPIN_WALK_ALL - 1, dir);

		nt_open_pages(test, range, a + 500, 1, dir);
		EXPECT_KNOWN(test, range, a, cold, dir);
		EXPECT_KNOWN(test, range, cold + 4, fixed - cold - 4, dir);
		EXPECT_KNOWN(test, range, fixed + 1, gone - fixed - 1, dir);
		EXPECT_KNOWN(test, range, gone + 1, clean - gone - 1, dir);
		EXPECT_KNOWN(test, range, clean + 1,
			     NOPIN_CHUNK_PAGES - clean - 1, dir);
		for (i = cold; i < cold + 4; i++)
			EXPECT_UNKNOWN(test, range, i, 1, dir);
		EXPECT_UNKNOWN(test, range, gone, 1, dir);
		if (dir == NOPIN_FROM_DEVICE) {
			EXPECT_UNKNOWN(test, range, fixed, 1, dir);
			EXPECT_UNKNOWN(test, range, clean, 1, dir);
		} else {
			EXPECT_KNOWN(test, range, fixed, 1, dir);
			EXPECT_KNOWN(test, range, clean, 1, dir);
		}
		/* who asks for it gets what nobody has accessed */
		nt_open_pages(test, range, cold + 2, 1, dir);
		EXPECT_KNOWN(test, range, cold + 2, 1, dir);
		EXPECT_UNKNOWN(test, range, cold + 3, 1, dir);
		/* reclaim has asked since, so it is as cold as before */
		KUNIT_EXPECT_TRUE(test, clear_young(a, NOPIN_CHUNK_PAGES));
		nt_open_pages(test, range, a, NOPIN_WALK_ALL, dir);
		EXPECT_KNOWN(test, range, cold + 4, 1, dir);
		EXPECT_UNKNOWN(test, range, cold + 2, 1, dir);
		EXPECT_UNKNOWN(test, range, cold + 1, 1, dir);
		EXPECT_UNKNOWN(test, range, cold + 3, 1, dir);
		EXPECT_UNKNOWN(test, range, gone, 1, dir);

		/* the same page over and over is as good as another one */
		learn(test, range, b + 7, 1, dir);
		for (i = 1; i < NOPIN_WALK_ALL; i++) {
			KUNIT_EXPECT_EQ(test, nt_count_known(range, b,
							     NOPIN_CHUNK_PAGES,
							     dir), 1);
			KUNIT_EXPECT_TRUE(test, clear_young(b + 7, 1));
			nt_open_pages(test, range, b + 7, 1, dir);
		}
		EXPECT_KNOWN(test, range, b, NOPIN_CHUNK_PAGES, dir);
		clear_young(0, CACHE_PAGES);
	}
}

static void look_again(struct kunit *test, struct nopin_range *range,
		       unsigned int times)
{
	while (times--) {
		clear_young(0, 1);
		nt_open_pages(test, range, 0, 1, NOPIN_FROM_DEVICE);
	}
}

/* All of a chunk is looked up in vain: not again before that has paid */
static void test_in_vain(struct kunit *test)
{
	const size_t rest = (NOPIN_CHUNK_PAGES - 1) * PAGE_SIZE;
	enum nopin_dir dir = NOPIN_FROM_DEVICE;
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;

	nt_inval_start(&mn, range, 0, CACHE_PAGES);
	nt_inval_end(&mn);
	KUNIT_ASSERT_EQ(test, nt_protect(cache_addr(1), rest, PROT_READ), 0);
	look_again(test, range, NOPIN_WALK_ALL);
	KUNIT_ASSERT_EQ(test, nt_protect(cache_addr(1), rest,
					 PROT_READ | PROT_WRITE), 0);
	nt_write(test, cache_addr(1), rest);
	look_again(test, range, NOPIN_CHUNK_PAGES - 1);
	KUNIT_EXPECT_EQ(test, nt_count_known(range, 0, NOPIN_CHUNK_PAGES, dir), 1);
	look_again(test, range, NOPIN_WALK_ALL + 1);
	EXPECT_KNOWN(test, range, 0, NOPIN_CHUNK_PAGES, dir);
	clear_young(0, CACHE_PAGES);
}

/* An invalidation of a page forgets this one, which is missed by who needs it */
static void test_unknown_page(struct kunit *test)
{
	static const unsigned int pages[] = {
		0, 1, 7, 8, 63, 64, 100, 127, NOPIN_CHUNK_PAGES - 1,
	};
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int i;

	learn_both(test, range, 0, CACHE_PAGES);
	KUNIT_EXPECT_EQ(test, count_cached(), CACHE_PAGES);
	for (i = 0; i < 2 * ARRAY_SIZE(pages); i++) {
		unsigned int bad = pages[i / 2], next = bad + 1;

		dir = i % 2;
		replace(test, cache_addr(bad));
		KUNIT_EXPECT_EQ(test, count_cached(), CACHE_PAGES - 1);
		EXPECT_UNKNOWN(test, range, bad, 1, dir);
		EXPECT_UNKNOWN(test, range, 0, NOPIN_CHUNK_PAGES, dir);
		EXPECT_UNKNOWN(test, range, 0, next, dir);
		EXPECT_UNKNOWN(test, range, bad, NOPIN_CHUNK_PAGES - bad, dir);
		if (bad)
			EXPECT_KNOWN(test, range, 0, bad, dir);
		if (next < NOPIN_CHUNK_PAGES)
			EXPECT_KNOWN(test, range, next,
				     NOPIN_CHUNK_PAGES - next, dir);

		/* no others can be in its place */
		learn(test, range, bad ^ 1, 1, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, bad, 1, dir);
		KUNIT_EXPECT_EQ(test, count_cached(), CACHE_PAGES - 1);
		/* another page is there now */
		learn(test, range, bad, 1, dir);
		EXPECT_KNOWN(test, range, bad, 1, dir);
		EXPECT_UNKNOWN(test, range, bad, 1, !dir);
		learn(test, range, bad, 1, !dir);
		EXPECT_KNOWN(test, range, 0, NOPIN_CHUNK_PAGES, dir);
		EXPECT_KNOWN(test, range, 0, NOPIN_CHUNK_PAGES, !dir);
	}
	EXPECT_KNOWN(test, range, NOPIN_CHUNK_PAGES, NOPIN_CHUNK_PAGES,
		     NOPIN_FROM_DEVICE);

	/* from one chunk to the next */
	nt_change(range, NOPIN_CHUNK_PAGES - 2, 5);
	KUNIT_EXPECT_EQ(test, count_cached(), CACHE_PAGES - 5);
	EXPECT_KNOWN(test, range, 0, NOPIN_CHUNK_PAGES - 2, NOPIN_TO_DEVICE);
	EXPECT_UNKNOWN(test, range, NOPIN_CHUNK_PAGES - 2, 1, NOPIN_TO_DEVICE);
	EXPECT_UNKNOWN(test, range, NOPIN_CHUNK_PAGES + 2, 1, NOPIN_TO_DEVICE);
	EXPECT_KNOWN(test, range, NOPIN_CHUNK_PAGES + 3, 100, NOPIN_TO_DEVICE);
}

/* What a device may read is not what it may write, but it is the same page */
static void test_directions(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		unsigned int first = dir * NOPIN_CHUNK_PAGES;

		learn(test, range, first + 60, 10, dir);
		EXPECT_KNOWN(test, range, first + 60, 10, dir);
		EXPECT_UNKNOWN(test, range, first + 60, 10, !dir);
		EXPECT_UNKNOWN(test, range, first + 62, 1, !dir);

		learn(test, range, first + 62, 1, !dir);
		EXPECT_KNOWN(test, range, first + 62, 1, !dir);
		EXPECT_UNKNOWN(test, range, first + 62, 2, !dir);
		EXPECT_KNOWN(test, range, first + 60, 10, dir);
	}
	KUNIT_EXPECT_EQ(test, count_cached(), 20);
}

/* Forgotten is what the change affects, and not before the I/O on it is done */
static void test_forgets_when_idle(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct page *page;
	struct nt_op *op;
	unsigned int n;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		learn_both(test, range, 0, NOPIN_CHUNK_PAGES);
		KUNIT_ASSERT_EQ(test, nt_enter(test, range, 60, 9, dir), 0);
		page = nt_page(cache_addr(64));

		op = nt_rmap(test, range, 0, 64, 1);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		KUNIT_EXPECT_PTR_EQ(test, nt_page(cache_addr(64)), page);
		nt_check_pages(test, cache_addr(60), 9 * PAGE_SIZE);
		nt_leave(test, range, 60, 9, dir);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
		nt_end(op);

		KUNIT_EXPECT_EQ(test, count_cached(), NOPIN_CHUNK_PAGES - 1);
		for (n = 0; n < NOPIN_NR_DIRS; n++) {
			EXPECT_UNKNOWN(test, range, 64, 1, n);
			EXPECT_KNOWN(test, range, 0, 64, n);
			EXPECT_KNOWN(test, range, 65, 100, n);
		}
	}
}

/* A change that does not happen makes nothing wrong */
static void test_refused_forgets_nothing(struct kunit *test)
{
	static const unsigned int how[] = { 0, MEMALLOC };
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct page *page[2];
	enum nopin_dir dir;
	struct nt_op *op;
	unsigned int i;

	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	learn_both(test, range, 0, NOPIN_CHUNK_PAGES);
	page[0] = nt_page(cache_addr(20));
	page[1] = nt_page(cache_addr(21));
	for (i = 0; i < 2 * ARRAY_SIZE(how); i++) {
		dir = i % 2;
		KUNIT_ASSERT_EQ(test, nt_enter(test, range, 20, 1, dir), 0);
		WRITE_ONCE(range->late, jiffies);
		op = nt_rmap(test, range, how[i / 2], 0, 100);
		EXPECT_RET(test, op, -EAGAIN);
		nt_end(op);
		/* who has waited has to look again, who has not need not */
		KUNIT_EXPECT_EQ(test, count_cached(), how[i / 2] ?
				NOPIN_CHUNK_PAGES : NOPIN_CHUNK_PAGES - 100);
		learn_both(test, range, 0, 100);
		KUNIT_EXPECT_PTR_EQ(test, nt_page(cache_addr(20)), page[0]);
		KUNIT_EXPECT_PTR_EQ(test, nt_page(cache_addr(21)), page[1]);
		EXPECT_STATE(test, 1, range, 20, 1, dir);
		nt_leave(test, range, 20, 1, dir);
		EXPECT_KNOWN(test, range, 0, NOPIN_CHUNK_PAGES,
			     NOPIN_FROM_DEVICE);
		EXPECT_KNOWN(test, range, 0, NOPIN_CHUNK_PAGES,
			     NOPIN_TO_DEVICE);

		/* and now it does */
		op = nt_rmap(test, range, how[i / 2], 0, 100);
		EXPECT_RET(test, op, 0);
		nt_end(op);
		KUNIT_EXPECT_EQ(test, count_cached(), NOPIN_CHUNK_PAGES - 100);
		EXPECT_UNKNOWN(test, range, 20, 1, dir);
		learn_both(test, range, 0, 100);
	}
}

/* A bio_vec that bios may be pointing to is not written, however often looked up */
static void test_in_flight(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct bio_vec *bv = &nopin_chunk_at(range, 0)->bvec[23];
	unsigned int i, n;
	enum nopin_dir dir;
	struct nt_op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	for (i = 0; i < 6; i++) {
		dir = i % 2;
		learn_both(test, range, 20, 8);
		KUNIT_ASSERT_EQ(test, nt_enter(test, range, 22, 3, dir), 0);
		KUNIT_EXPECT_EQ(test, bv->bv_offset, 0);
		KUNIT_EXPECT_EQ(test, bv->bv_len, PAGE_SIZE);
		/* who writes it would have this as it was */
		bv->bv_offset = 512;

		switch (i / 2) {
		case 0:
			KUNIT_EXPECT_TRUE(test, clear_young(20, 8));
			break;
		case 1:
			nopin_cache_age();
			break;
		case 2:
			/* refused: closed and opened again */
			WRITE_ONCE(range->late, jiffies);
			op = nt_rmap(test, range, 0, 20, 8);
			EXPECT_RET(test, op, -EAGAIN);
			nt_end(op);
			break;
		}
		for (n = 0; n < NOPIN_NR_DIRS; n++) {
			KUNIT_EXPECT_EQ(test, nt_count_known(range, 20, 8, n),
					0);
			EXPECT_UNKNOWN(test, range, 22, 3, n);
			learn(test, range, 20, 8, n);
			KUNIT_EXPECT_EQ(test, nt_count_known(range, 20, 8, n),
					8);
			EXPECT_ENTER(test, range, 22, 3, n, 0);
		}
		KUNIT_EXPECT_EQ(test, bv->bv_offset, 512);
		KUNIT_EXPECT_EQ(test, bv->bv_len, PAGE_SIZE);
		bv->bv_offset = 0;
		nt_leave_all(test);
		EXPECT_KNOWN(test, range, 20, 8, dir);
	}

	/* when it is idle, and another page is there, it is */
	replace(test, cache_addr(23));
	bv->bv_offset = 512;
	learn_both(test, range, 23, 1);
	KUNIT_EXPECT_EQ(test, bv->bv_offset, 0);
	EXPECT_KNOWN(test, range, 20, 8, NOPIN_FROM_DEVICE);
	EXPECT_KNOWN(test, range, 20, 8, NOPIN_TO_DEVICE);
}

/* R14: reclaim learns of use that is not in the PTEs, once if it wants */
static void test_young(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_FALSE(test, is_young(5));
		KUNIT_EXPECT_FALSE(test, clear_young(5, 1));
		learn(test, range, 5, 2, dir);
		/* to look does not change it */
		KUNIT_EXPECT_TRUE(test, is_young(5));
		KUNIT_EXPECT_TRUE(test, is_young(5));
		KUNIT_EXPECT_TRUE(test, is_young(6));
		KUNIT_EXPECT_FALSE(test, is_young(4));
		KUNIT_EXPECT_FALSE(test, is_young(7));

		KUNIT_EXPECT_TRUE(test, clear_young(5, 1));
		KUNIT_EXPECT_FALSE(test, clear_young(5, 1));
		KUNIT_EXPECT_FALSE(test, is_young(5));
		KUNIT_EXPECT_TRUE(test, is_young(6));

		/* whoever uses it has to look it up, which makes it young */
		KUNIT_EXPECT_EQ(test, count_cached(), 1);
		EXPECT_UNKNOWN(test, range, 5, 1, dir);
		EXPECT_UNKNOWN(test, range, 5, 2, dir);
		EXPECT_KNOWN(test, range, 6, 1, dir);
		learn(test, range, 5, 2, dir);
		EXPECT_KNOWN(test, range, 5, 2, dir);
		KUNIT_EXPECT_TRUE(test, is_young(5));
		KUNIT_EXPECT_TRUE(test, clear_young(0, 100));
		KUNIT_EXPECT_FALSE(test, is_young(6));
		EXPECT_UNKNOWN(test, range, 6, 1, dir);
		learn(test, range, 6, 1, dir);
		EXPECT_KNOWN(test, range, 6, 1, dir);
		KUNIT_EXPECT_FALSE(test, is_young(5));
		KUNIT_EXPECT_TRUE(test, is_young(6));

		/* some of many */
		learn(test, range, 60, 100, dir);
		KUNIT_EXPECT_TRUE(test, clear_young(64, 1));
		KUNIT_EXPECT_TRUE(test, is_young(63));
		KUNIT_EXPECT_FALSE(test, is_young(64));
		KUNIT_EXPECT_TRUE(test, is_young(65));
		EXPECT_UNKNOWN(test, range, 60, 100, dir);
		learn(test, range, 60, 100, dir);
		EXPECT_KNOWN(test, range, 60, 100, dir);
		KUNIT_EXPECT_TRUE(test, is_young(64));
		KUNIT_EXPECT_TRUE(test, clear_young(127, 2));
		KUNIT_EXPECT_FALSE(test, is_young(127));
		KUNIT_EXPECT_FALSE(test, is_young(128));
		KUNIT_EXPECT_TRUE(test, is_young(126));
		KUNIT_EXPECT_TRUE(test, is_young(129));
		EXPECT_UNKNOWN(test, range, 60, 100, dir);
		learn(test, range, 60, 100, dir);
		EXPECT_KNOWN(test, range, 60, 100, dir);
		KUNIT_EXPECT_TRUE(test, is_young(127));
		KUNIT_EXPECT_TRUE(test, is_young(128));

		/* what is in flight is young for as long as that lasts */
		EXPECT_ENTER(test, range, 6, 1, dir, 0);
		KUNIT_EXPECT_TRUE(test, clear_young(6, 1));
		KUNIT_EXPECT_TRUE(test, clear_young(6, 1));
		KUNIT_EXPECT_FALSE(test, is_young(5));
		nt_leave_all(test);
		KUNIT_EXPECT_FALSE(test, is_young(6));
		learn(test, range, 6, 1, dir);

		/* what is forgotten is not young */
		nt_change(range, 6, 1);
		KUNIT_EXPECT_FALSE(test, is_young(6));
		KUNIT_EXPECT_TRUE(test, is_young(63));

		/* all of it, from before the range to behind it */
		learn(test, range, NOPIN_CHUNK_PAGES, 1, dir);
		KUNIT_EXPECT_TRUE(test, is_young(NOPIN_CHUNK_PAGES));
		KUNIT_EXPECT_TRUE(test,
				  mmu_notifier_clear_young(current->mm, 0,
							   2 * CACHE_ADDR));
		KUNIT_EXPECT_FALSE(test,
				   mmu_notifier_clear_young(current->mm, 0,
							    2 * CACHE_ADDR));
		KUNIT_EXPECT_FALSE(test, is_young(63));
		KUNIT_EXPECT_FALSE(test, is_young(NOPIN_CHUNK_PAGES));
		nt_change(range, 0, CACHE_PAGES);
	}
}

/* A page counts once, whatever the directions and the chunks */
static void test_count_cached(struct kunit *test)
{
	const unsigned int last = NOPIN_CHUNK_PAGES - 1;
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mm_struct *mm = current->mm;

	KUNIT_EXPECT_EQ(test, count_cached(), 0);
	learn(test, range, 60, 10, NOPIN_FROM_DEVICE);
	learn(test, range, 65, 15, NOPIN_TO_DEVICE);
	learn(test, range, last, 1, NOPIN_TO_DEVICE);
	learn(test, range, last + 1, 2, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, count_cached(), 23);
	KUNIT_EXPECT_EQ(test, nopin_count_known(range, 0, last + 1), 21);
	KUNIT_EXPECT_EQ(test, nopin_count_known(range, last + 1, CACHE_PAGES), 2);
	KUNIT_EXPECT_EQ(test, nopin_count_known(range, 0, 60), 0);
	KUNIT_EXPECT_EQ(test, nopin_count_known(range, 0, 61), 1);
	KUNIT_EXPECT_EQ(test, nopin_count_known(range, 62, 67), 5);
	KUNIT_EXPECT_EQ(test, nopin_count_known(range, 79, last), 1);
	KUNIT_EXPECT_EQ(test, nopin_count_known(range, 79, last + 2), 3);
	KUNIT_EXPECT_EQ(test, nopin_count_known(range, last, last + 1), 1);
	KUNIT_EXPECT_EQ(test, nopin_count_known(range, last + 1, last + 2), 1);
	KUNIT_EXPECT_EQ(test, nopin_count_known(range, 65, 65), 0);

	/* the same by address; part of a page will do */
	KUNIT_EXPECT_EQ(test, nopin_mm_count_known(mm, cache_addr(60) + 42,
						   1), 1);
	KUNIT_EXPECT_EQ(test, nopin_mm_count_known(mm, cache_addr(60) - 1,
						   PAGE_SIZE + 2), 2);
	KUNIT_EXPECT_EQ(test, nopin_mm_count_known(mm, cache_addr(60) - 1,
						   1), 0);
	KUNIT_EXPECT_EQ(test, nopin_mm_count_known(mm, cache_addr(last),
						   2 * PAGE_SIZE), 2);
	/* from where there is no range, to where there is none */
	KUNIT_EXPECT_EQ(test, nopin_mm_count_known(mm, CACHE_ADDR - SZ_4M,
						   SZ_1G + SZ_8M), 23);
}

/* nopin_enter() by address, as the bio glue calls it */
static bool enter_addr(struct kunit *test, unsigned long addr, size_t len,
		       enum nopin_dir dir, struct nopin_extent *ext)
{
	size_t nr = DIV_ROUND_UP(offset_in_page(addr) + len, PAGE_SIZE);
	struct nt_fixture *f = test->priv;
	struct nopin_range *range;
	bool entered;

	KUNIT_ASSERT_LT(test, f->nr_entered, MAX_ENTERED);
	range = nopin_mm_find(current->mm, addr);
	entered = range && nopin_enter(range, nopin_index(range, addr), nr, dir,
				       !f->other, ext);
	if (entered)
		f->entered[f->nr_entered++] = (struct nt_entered) {
			.ext	= *ext,
			.dir	= dir,
		};
	return entered;
}

static void expect_no_entry(int line, struct kunit *test, unsigned long addr,
			    size_t len, enum nopin_dir dir)
{
	struct nopin_extent ext;

	KUNIT_EXPECT_FALSE_MSG(test, enter_addr(test, addr, len, dir, &ext),
			       "in line %d", line);
}

/* That nopin_enter() declines; see to it that it left nothing behind */
#define EXPECT_NO_ENTRY(...)	expect_no_entry(__LINE__, __VA_ARGS__)

/* All the pages, no others, and where they are */
static void test_enter(struct kunit *test)
{
	static const struct {
		unsigned int	page;
		unsigned int	off;
		size_t		len;
		unsigned int	nr;
	} pieces[] = {
		{ 0, 0, 1, 1 },
		{ 5, 512, 512, 1 },
		{ 6, PAGE_SIZE - 1, 2, 2 },
		{ 7, PAGE_SIZE - 1, 2, 2 },
		{ 8, 0, 8 * PAGE_SIZE, 8 },
		{ 56, 0, 8 * PAGE_SIZE, 8 },
		{ 62, 100, 4 * PAGE_SIZE, 5 },
		{ 3, 0, 13 * PAGE_SIZE, 13 },
		{ 1, PAGE_SIZE - 1, 200 * PAGE_SIZE, 201 },
		{ 0, 0, NOPIN_CHUNK_SIZE, NOPIN_CHUNK_PAGES },
		{ NOPIN_CHUNK_PAGES - 1, PAGE_SIZE - 1, 1, 1 },
		{ NOPIN_CHUNK_PAGES, 0, PAGE_SIZE, 1 },
		{ NOPIN_CHUNK_PAGES + 9, 1, 70 * PAGE_SIZE, 71 },
	};
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int i;

	learn_both(test, range, 0, CACHE_PAGES);
	for (i = 0; i < 4 * ARRAY_SIZE(pieces); i++) {
		unsigned int first = pieces[i / 4].page, nr = pieces[i / 4].nr;
		unsigned int end = first + nr;
		struct nopin_extent ext;
		bool entered;

		dir = i % 2;
		f->other = i / 2 % 2;
		memset(&ext, 0xff, sizeof(ext));
		entered = enter_addr(test, cache_addr(first) +
				     pieces[i / 4].off, pieces[i / 4].len, dir,
				     &ext);
		KUNIT_EXPECT_TRUE_MSG(test, entered, "page %u", first);
		if (!entered)
			continue;
		nt_check_pages(test, cache_addr(first), nr * PAGE_SIZE);
		KUNIT_EXPECT_PTR_EQ(test, ext.range, range);
		KUNIT_EXPECT_EQ(test, ext.first, first);
		KUNIT_EXPECT_TRUE(test, ext.nr == nr);
		KUNIT_EXPECT_TRUE(test, ext.other == f->other);
		KUNIT_EXPECT_TRUE(test, !ext.is_array);
		KUNIT_EXPECT_EQ(test, nt_others(range, first), f->other);

		EXPECT_STATE(test, 0, range, 0, first, dir);
		EXPECT_STATE(test, 1, range, first, nr, dir);
		EXPECT_STATE(test, 0, range, end, CACHE_PAGES - end, dir);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, !dir);
		nt_leave_all(test);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, dir);
		KUNIT_EXPECT_EQ(test, nt_others(range, first), 0);
	}
	KUNIT_EXPECT_EQ(test, count_cached(), CACHE_PAGES);
}

/* Neither the page, nor those of its word up to it, nor many */
static void expect_nothing(struct kunit *test, unsigned int page,
			   enum nopin_dir dir)
{
	unsigned int word = round_down(page, NOPIN_PAGES_PER_WORD);

	EXPECT_NO_ENTRY(test, cache_addr(page), 1, dir);
	EXPECT_NO_ENTRY(test, cache_addr(word), (page - word + 1) * PAGE_SIZE,
			dir);
	EXPECT_NO_ENTRY(test, cache_addr(0), (page + 1) * PAGE_SIZE, dir);
	EXPECT_NO_ENTRY(test, cache_addr(0), 100 * PAGE_SIZE, dir);
}

/* All or nothing: what cannot be had in one go is left as it was */
static void test_enter_nothing(struct kunit *test)
{
	static const unsigned int pages[] = { 0, 5, 15, 99 };
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int i, n;
	struct nt_op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	for (i = 0; i < 2 * ARRAY_SIZE(pages); i++) {
		unsigned int bad = pages[i / 2], failed = 0;

		dir = i % 2;
		learn(test, range, 0, 100, dir);

		/* unknown */
		KUNIT_EXPECT_TRUE(test, clear_young(bad, 1));
		expect_nothing(test, bad, dir);
		/* or in the other direction */
		EXPECT_NO_ENTRY(test, cache_addr(50), 1, !dir);
		EXPECT_NO_ENTRY(test, cache_addr(50), 20 * PAGE_SIZE, !dir);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, dir);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, !dir);

		/* closed, by somebody who was refused */
		learn(test, range, bad, 1, dir);
		EXPECT_ENTER(test, range, bad, 1, dir, 0);
		WRITE_ONCE(range->late, jiffies);
		op = nt_rmap(test, range, 0, bad, 1);
		EXPECT_RET(test, op, -EAGAIN);
		nt_end(op);
		nt_leave(test, range, bad, 1, dir);
		expect_nothing(test, bad, dir);
		EXPECT_STATE(test, 0, range, 0, bad, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, bad, 1, dir);
		EXPECT_STATE(test, 0, range, bad + 1, CACHE_PAGES - bad - 1,
			     dir);
		learn(test, range, bad, 1, dir);
		EXPECT_KNOWN(test, range, 0, 100, dir);

		/* full */
		for (n = 0; n < NOPIN_PAGE_MAX; n++) {
			struct nopin_extent ext;

			failed += !enter_addr(test, cache_addr(bad), 1, dir,
					      &ext);
		}
		KUNIT_EXPECT_EQ(test, failed, 0);
		expect_nothing(test, bad, dir);
		EXPECT_STATE(test, 0, range, 0, bad, dir);
		EXPECT_STATE(test, NOPIN_PAGE_MAX, range, bad, 1, dir);
		EXPECT_STATE(test, 0, range, bad + 1, CACHE_PAGES - bad - 1,
			     dir);
		nt_leave_all(test);
		nt_open_pages(test, range, bad, 1, !dir);
		clear_young(0, 100);
	}
}

/* Where there is nothing to look at */
static void test_enter_bounds(struct kunit *test)
{
	unsigned long far = CACHE_ADDR +
			    ((unsigned long)NOPIN_MM_SLOTS << NOPIN_MM_SHIFT);
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range, *other;
	struct nopin_extent ext;
	enum nopin_dir dir;

	learn_both(test, range, 0, CACHE_PAGES);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_NO_ENTRY(test, CACHE_ADDR - PAGE_SIZE, PAGE_SIZE, dir);
		EXPECT_NO_ENTRY(test, cache_addr(2 * CACHE_PAGES), 1, dir);
		EXPECT_NO_ENTRY(test, far, 1, dir);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, dir);
	}

	/* somebody else has the place where it would be found first */
	nt_map_fixed(test, far, PAGE_SIZE);
	nt_write(test, far, PAGE_SIZE);
	other = nt_range(test, far);
	EXPECT_NO_ENTRY(test, far, 1, NOPIN_FROM_DEVICE);
	nt_open_pages(test, other, 0, 1, NOPIN_FROM_DEVICE);
	EXPECT_NO_ENTRY(test, far, 1, NOPIN_TO_DEVICE);
	EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, 0, other, 0, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, enter_addr(test, CACHE_ADDR, 1,
					   NOPIN_FROM_DEVICE, &ext));
	KUNIT_EXPECT_PTR_EQ(test, ext.range, range);
	KUNIT_EXPECT_TRUE(test, enter_addr(test, far, 1, NOPIN_FROM_DEVICE,
					   &ext));
	KUNIT_EXPECT_PTR_EQ(test, ext.range, other);
	EXPECT_STATE(test, 1, range, 0, 1, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, 1, other, 0, 1, NOPIN_FROM_DEVICE);
	nt_leave_all(test);
}

/* Which pages are behind each other in memory */
static void test_contiguous(struct kunit *test)
{
	unsigned int first, nr, wrong = 0;
	struct nopin_range *range;
	struct bio_vec *bvec;
	struct page *page;

	range = kunit_kzalloc(test, sizeof(*range), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, range);
	bvec = kunit_kcalloc(test, NOPIN_CHUNK_PAGES, sizeof(*bvec), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, bvec);
	/* nobody looks into these */
	page = virt_to_page(range);
	for (first = 0; first < NOPIN_CHUNK_PAGES; first++)
		bvec_set_page(&bvec[first], page + first, PAGE_SIZE, 0);
	KUNIT_EXPECT_TRUE(test, nopin_contiguous(range, 0, bvec,
						 NOPIN_CHUNK_PAGES));

	/* one in another place; and then backwards, and the same one twice */
	bvec[70].bv_page = page + 300;
	bvec[200].bv_page = page + 201;
	bvec[201].bv_page = page + 200;
	bvec[202].bv_page = page + 200;
	for (first = 0; first < 192; first++)
		for (nr = 1; nr <= 192 - first; nr += 1 + nr / 8)
			wrong += nopin_contiguous(range, first, bvec + first, nr) !=
				 (nr == 1 || first + nr <= 70 || first > 70);
	KUNIT_EXPECT_EQ(test, wrong, 0);
	for (first = 199; first < 203; first++)
		KUNIT_EXPECT_FALSE(test, nopin_contiguous(range, first,
							  bvec + first, 2));
	KUNIT_EXPECT_TRUE(test, nopin_contiguous(range, 203, bvec + 203,
						 NOPIN_CHUNK_PAGES - 203));
	KUNIT_EXPECT_FALSE(test, nopin_contiguous(range, 0, bvec,
						  NOPIN_CHUNK_PAGES));
	/* which is known of a whole chunk, and says nothing of the next one */
	set_bit(0, range->adjacent);
	KUNIT_EXPECT_TRUE(test, nopin_contiguous(range, 0, bvec,
						 NOPIN_CHUNK_PAGES));
	KUNIT_EXPECT_FALSE(test, nopin_contiguous(range, NOPIN_CHUNK_PAGES,
						  bvec, NOPIN_CHUNK_PAGES));
	/* or their struct pages only */
	range->apart = true;
	KUNIT_EXPECT_FALSE(test, nopin_contiguous(range, 0, bvec, 2));
}

/* The states of memory that nobody uses go: not at once, and not in use */
static void test_age(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct folio *folio;
	enum nopin_dir dir;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		/* this one has not been used since */
		learn(test, range, NOPIN_CHUNK_PAGES, 1, dir);
		KUNIT_EXPECT_TRUE(test, clear_young(NOPIN_CHUNK_PAGES, 1));
		learn(test, range, 5, 70, dir);
		folio = page_folio(nt_page(cache_addr(74)));
		folio_clear_referenced(folio);
		nopin_cache_age();
		KUNIT_EXPECT_TRUE(test, nt_has_states(range, 0));
		KUNIT_EXPECT_FALSE(test, nt_has_states(range,
						       NOPIN_CHUNK_PAGES));
		/* reclaim, which may want to know, was told otherwise */
		KUNIT_EXPECT_FALSE(test, is_young(5));
		KUNIT_EXPECT_TRUE(test, folio_test_referenced(folio));
		KUNIT_EXPECT_EQ(test, count_cached(), 0);
		EXPECT_UNKNOWN(test, range, 5, 70, dir);
		/* used once more, by one of them */
		learn(test, range, 70, 1, dir);
		EXPECT_KNOWN(test, range, 70, 1, dir);
		nopin_cache_age();
		KUNIT_EXPECT_TRUE(test, nt_has_states(range, 0));
		nopin_cache_age();
		KUNIT_EXPECT_FALSE(test, nt_has_states(range, 0));
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0,
			     NOPIN_CHUNK_PAGES, dir);
		EXPECT_NO_ENTRY(test, cache_addr(5), 1, dir);
		EXPECT_UNKNOWN(test, range, 5, 1, dir);

		/* it can be had again, and stays while I/O uses it */
		learn(test, range, 5, 70, dir);
		EXPECT_ENTER(test, range, 60, 9, dir, 0);
		nopin_cache_age();
		nopin_cache_age();
		nopin_cache_age();
		KUNIT_ASSERT_TRUE(test, nt_has_states(range, 0));
		EXPECT_STATE(test, 1, range, 60, 9, dir);
		nt_check_pages(test, cache_addr(60), 9 * PAGE_SIZE);
		nt_leave_all(test);
		nopin_cache_age();
		KUNIT_EXPECT_FALSE(test, nt_has_states(range, 0));

		/* reclaim takes what it has found to be old */
		learn(test, range, 5, 70, dir);
		drop_slab();
		drop_slab();
		KUNIT_EXPECT_EQ(test, count_cached(), 70);
		KUNIT_EXPECT_TRUE(test, is_young(5));
		KUNIT_EXPECT_TRUE(test, clear_young(5, 69));
		drop_slab();
		KUNIT_EXPECT_TRUE(test, nt_has_states(range, 0));
		KUNIT_EXPECT_EQ(test, count_cached(), 1);
		EXPECT_ENTER(test, range, 74, 1, dir, 0);
		KUNIT_EXPECT_TRUE(test, clear_young(74, 1));
		drop_slab();
		KUNIT_ASSERT_TRUE(test, nt_has_states(range, 0));
		nt_check_pages(test, cache_addr(74), PAGE_SIZE);
		nt_leave_all(test);
		drop_slab();
		KUNIT_EXPECT_EQ(test, count_cached(), 0);
		KUNIT_EXPECT_FALSE(test, nt_has_states(range, 0));
	}

	/* those of which all is known are no exception */
	learn_both(test, range, 0, NOPIN_CHUNK_PAGES);
	nopin_cache_age();
	KUNIT_EXPECT_TRUE(test, nt_has_states(range, 0));
	nopin_cache_age();
	KUNIT_EXPECT_FALSE(test, nt_has_states(range, 0));
}

#define RACE_ROUNDS	1000

static int op_age(struct nt_op *op)
{
	while (!READ_ONCE(*(bool *)op->arg)) {
		nopin_cache_age();
		cond_resched();
	}
	return 0;
}

/* A change is not overlooked by those who look for memory that is not in use */
static void test_change_during_age(struct kunit *test)
{
	enum nopin_dir dir = NOPIN_TO_DEVICE;
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct nt_op *op, *age;
	unsigned int i, known = 0;
	bool stop = false;

	/* What somebody uses keeps all of it */
	KUNIT_ASSERT_EQ(test, nt_enter_opened(test, range, 0, 1, dir), 0);
	age = nt_run(test, &(struct nt_op) { .fn = op_age, .arg = &stop });
	for (i = 0; i < RACE_ROUNDS && !known; i++) {
		KUNIT_EXPECT_EQ(test, nt_enter_opened(test, range, 100, 8, dir),
				0);
		op = nt_rmap(test, range, 0, 100, 8);
		while (!(nt_state(range, 100, dir) & NOPIN_PAGE_CLOSED))
			cond_resched();
		nt_leave(test, range, 100, 8, dir);
		nt_end(op);
		known = nt_count_known(range, 100, 8, dir);
	}
	WRITE_ONCE(stop, true);
	KUNIT_EXPECT_TRUE(test, nt_done(age));
	KUNIT_EXPECT_EQ_MSG(test, known, 0, "in round %u", i);
}

/* A chunk that goes takes nobody with it who is about to enter it */
static void test_enter_during_age(struct kunit *test)
{
	const unsigned int first = NOPIN_CHUNK_PAGES - 40, nr = 80;
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	unsigned int i, page, gone = 0, entered = 0;
	bool stop = false;
	struct nt_op *age;

	age = nt_run(test, &(struct nt_op) { .fn = op_age, .arg = &stop });
	for (i = 0; i < 5 * RACE_ROUNDS; i++) {
		enum nopin_dir dir = i / 2 % 2;

		f->other = i & 1;
		if (nt_enter(test, range, first, nr, dir)) {
			nt_open(range, first, nr, dir, false);
			continue;
		}
		entered++;
		/*
		 * The states are those that it has entered, and stay. They may
		 * have been closed since, by an aging that found them in use.
		 */
		for (page = first; page < first + nr; page++)
			gone += (nt_state(range, page, dir) &
				 NOPIN_PAGE_MAX) != 1;
		gone += nt_others(range, 0) != f->other;
		gone += nt_others(range, NOPIN_CHUNK_PAGES) != f->other;
		nt_leave_all(test);
		cond_resched();
	}
	f->other = false;
	WRITE_ONCE(stop, true);
	KUNIT_EXPECT_TRUE(test, nt_done(age));
	KUNIT_EXPECT_EQ(test, gone, 0);
	KUNIT_EXPECT_GT(test, entered, 0);
	KUNIT_EXPECT_EQ(test, nt_others(range, 0), 0);
	KUNIT_EXPECT_EQ(test, nt_others(range, NOPIN_CHUNK_PAGES), 0);
	kunit_info(test, "entered %u times\n", entered);
}

/* A huge page is known as a whole, and goes on being so when its PMD is split */
static void test_cached_thp(struct kunit *test)
{
	unsigned long addr = nt_map_thp(test), hole = addr + 100 * PAGE_SIZE;
	struct nopin_range *range = nt_range(test, addr);
	unsigned int first = nopin_index(range, addr);
	struct bio_vec copy[8], *bv;
	struct nt_op *op;

	if (PMD_SIZE != NOPIN_CHUNK_SIZE)
		kunit_skip(test, "huge pages are not as large as chunks");
	nt_check_at(test, addr + 3 * PAGE_SIZE, 1, NOPIN_FROM_DEVICE);
	EXPECT_KNOWN(test, range, first, NOPIN_CHUNK_PAGES, NOPIN_FROM_DEVICE);
	EXPECT_UNKNOWN(test, range, first, 1, NOPIN_TO_DEVICE);
	nt_check_at(test, addr + 4 * PAGE_SIZE, 1, NOPIN_TO_DEVICE);

	/* I/O on other pages of it, and it does not notice */
	KUNIT_ASSERT_EQ(test, nt_enter(test, range, first, 8,
				       NOPIN_FROM_DEVICE), 0);
	bv = nopin_chunk_at(range, first)->bvec;
	memcpy(copy, bv, sizeof(copy));
	op = nt_mapping(test, nt_op_protect, 0, hole, PAGE_SIZE);
	EXPECT_RET(test, op, 0);
	KUNIT_EXPECT_FALSE(test, nt_is_huge(addr));
	KUNIT_EXPECT_MEMEQ(test, bv, copy, sizeof(copy));
	EXPECT_STATE(test, 1, range, first, 8, NOPIN_FROM_DEVICE);
	nt_leave_all(test);

	EXPECT_UNKNOWN(test, range, first + 100, 1, NOPIN_FROM_DEVICE);
	EXPECT_UNKNOWN(test, range, first + 100, 1, NOPIN_TO_DEVICE);
	nt_open_pages(test, range, first, NOPIN_CHUNK_PAGES, NOPIN_TO_DEVICE);
	EXPECT_KNOWN(test, range, first, NOPIN_CHUNK_PAGES, NOPIN_TO_DEVICE);
	EXPECT_OPEN(test, range, first + 100, 1, NOPIN_FROM_DEVICE, true,
		    -EFAULT);
	EXPECT_KNOWN(test, range, first, 100, NOPIN_FROM_DEVICE);
	EXPECT_KNOWN(test, range, first + 101, NOPIN_CHUNK_PAGES - 101,
		     NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_MEMEQ(test, bv, copy, sizeof(copy));

	nopin_cache_age();
	KUNIT_EXPECT_TRUE(test, nt_has_states(range, first));
	nopin_cache_age();
	KUNIT_EXPECT_FALSE(test, nt_has_states(range, first));
}

static void change_desc(const struct nt_change_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(change, nt_change_cases, change_desc);

/* What the process does to one page: the old one is never found again */
static void test_cached_change(struct kunit *test)
{
	const struct nt_change_case *c = test->param_value;
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	unsigned long hole = cache_addr(5);
	struct page *old, *now;
	enum nopin_dir dir;
	struct nt_op *op;

	learn_both(test, range, 0, 8);
	/* as long as there is a reference to it, others are not the same */
	old = nt_get_page(hole);
	KUNIT_ASSERT_NOT_NULL(test, old);
	op = nt_mapping(test, c->fn, 0, hole, PAGE_SIZE);
	EXPECT_RET(test, op, 0);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_UNKNOWN(test, range, 5, 1, dir);
		EXPECT_UNKNOWN(test, range, 0, 8, dir);
		EXPECT_KNOWN(test, range, 0, 5, dir);
		EXPECT_KNOWN(test, range, 6, 2, dir);
	}

	if (c->fn == nt_op_munmap)
		nt_map_fixed(test, hole, PAGE_SIZE);
	if (c->fn == nt_op_protect)
		KUNIT_EXPECT_EQ(test, nt_protect(hole, PAGE_SIZE, PROT_READ |
						 PROT_WRITE), 0);
	nt_write(test, hole, PAGE_SIZE);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_UNKNOWN(test, range, 5, 1, dir);
		learn(test, range, 5, 1, dir);
		EXPECT_KNOWN(test, range, 0, 8, dir);
	}
	now = nt_page(hole);
	KUNIT_EXPECT_EQ(test, now == old, c->fn == nt_op_protect);
	put_page(old);
}

/* What others do to it: writeback and migration */
static void test_cached_rmap(struct kunit *test)
{
	unsigned long addr = nt_map_kind(test, true, 8 * PAGE_SIZE);
	unsigned long it = addr + 5 * PAGE_SIZE;
	struct nopin_range *range = nt_range(test, it);
	unsigned int first = nopin_index(range, addr), i = first + 5;
	struct page *old;
	enum nopin_dir dir;
	struct nt_op *op;

	learn_both(test, range, first, 8);

	/* R9: clean, so that a device must not write it unnoticed */
	op = nt_mapping(test, nt_op_mkclean, 0, it, 0);
	EXPECT_RET(test, op, 1);
	EXPECT_UNKNOWN(test, range, i, 1, NOPIN_FROM_DEVICE);
	EXPECT_OPEN(test, range, i, 1, NOPIN_FROM_DEVICE, true, -EFAULT);
	EXPECT_KNOWN(test, range, first, 8, NOPIN_TO_DEVICE);

	/* a page fault does not close it: who may write it now has to look */
	nt_write(test, it, PAGE_SIZE);
	EXPECT_UNKNOWN(test, range, i, 1, NOPIN_FROM_DEVICE);
	learn(test, range, i, 1, NOPIN_FROM_DEVICE);
	EXPECT_KNOWN(test, range, first, 8, NOPIN_FROM_DEVICE);

	/* there is nobody to keep it in place, so only its number counts */
	old = nt_page(it);
	op = nt_mapping(test, nt_op_migrate, 0, it, 0);
	KUNIT_EXPECT_TRUE(test, nt_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		EXPECT_UNKNOWN(test, range, i, 1, dir);
	nt_write(test, it, PAGE_SIZE);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_KNOWN(test, range, first, 5, dir);
		EXPECT_KNOWN(test, range, i + 1, 2, dir);
		learn(test, range, i, 1, dir);
		EXPECT_KNOWN(test, range, first, 8, dir);
	}
	KUNIT_EXPECT_PTR_NE(test, nt_page(it), old);
}

/*
 * A bio goes on pointing to its translation, whatever is mapped there by now. Until
 * it has ended the address is of no use to others.
 */
static void test_cached_pinned(struct kunit *test)
{
	unsigned long addr = nt_map_chunk(test), io = addr + 3 * PAGE_SIZE;
	struct nopin_range *range = nt_range(test, addr);
	unsigned int first = nopin_index(range, addr), i = first + 3;
	struct bio_vec copy[2], *bv;
	enum nopin_dir dir;
	struct page *page;
	struct nt_op *op;

	nt_write(test, addr, NOPIN_CHUNK_SIZE);
	learn_both(test, range, first, NOPIN_CHUNK_PAGES);
	KUNIT_ASSERT_EQ(test, nt_enter(test, range, i, 2, NOPIN_FROM_DEVICE),
			0);
	bv = &nopin_chunk_at(range, first)->bvec[3];
	memcpy(copy, bv, sizeof(copy));
	page = nt_get_page(io);
	KUNIT_ASSERT_PTR_EQ(test, page, bv->bv_page);

	op = nt_mapping(test, nt_op_munmap, 0, addr, NOPIN_CHUNK_SIZE);
	EXPECT_RET(test, op, 0);
	KUNIT_EXPECT_TRUE(test, nt_is_pinned(page));
	nt_map_fixed(test, addr, NOPIN_CHUNK_SIZE);
	nt_write(test, addr, NOPIN_CHUNK_SIZE);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_UNKNOWN(test, range, first + 64, 1, dir);
		learn(test, range, first + 64, 40, dir);
		EXPECT_KNOWN(test, range, first + 64, 40, dir);
		EXPECT_OPEN(test, range, i, 1, dir, true, -EBUSY);
		EXPECT_OPEN(test, range, i + 1, 1, dir, true, -EBUSY);
		EXPECT_OPEN(test, range, first, NOPIN_CHUNK_PAGES, dir, true,
			    -EBUSY);
		/* all but these, with so many that all are looked up */
		nt_open_pages(test, range, i + 2, NOPIN_CHUNK_PAGES - 5, dir);
		EXPECT_KNOWN(test, range, i + 2, NOPIN_CHUNK_PAGES - 5, dir);
		EXPECT_UNKNOWN(test, range, i, 1, dir);
		EXPECT_UNKNOWN(test, range, i + 1, 1, dir);
	}
	KUNIT_EXPECT_MEMEQ(test, bv, copy, sizeof(copy));

	/* Idle but still pinned, as the worker needs the lock: the chunk stays */
	spin_lock(&range->lock);
	nt_leave(test, range, i, 2, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_NE(test, range->nr_pinned, 0);
	KUNIT_EXPECT_FALSE(test, nopin_chunk_free(nopin_chunk_at(range, i)));
	spin_unlock(&range->lock);
	nt_expect_unpinned(test, page);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		nt_expect_opens(test, range, i, dir);
		nt_expect_opens(test, range, i + 1, dir);
		EXPECT_KNOWN(test, range, first, 8, dir);
	}
	KUNIT_EXPECT_PTR_NE(test, bv->bv_page, page);
	put_page(page);
}

static struct kunit_case cache_cases[] = {
	KUNIT_CASE(test_threshold),
	KUNIT_CASE(test_in_vain),
	KUNIT_CASE(test_unknown_page),
	KUNIT_CASE(test_directions),
	KUNIT_CASE(test_forgets_when_idle),
	KUNIT_CASE(test_refused_forgets_nothing),
	KUNIT_CASE(test_in_flight),
	KUNIT_CASE(test_young),
	KUNIT_CASE(test_count_cached),
	KUNIT_CASE(test_enter),
	KUNIT_CASE(test_enter_nothing),
	KUNIT_CASE(test_enter_bounds),
	KUNIT_CASE(test_contiguous),
	KUNIT_CASE(test_age),
	KUNIT_CASE(test_change_during_age),
	KUNIT_CASE(test_enter_during_age),
	KUNIT_CASE(test_cached_thp),
	KUNIT_CASE_PARAM(test_cached_change, change_gen_params),
	KUNIT_CASE(test_cached_rmap),
	KUNIT_CASE(test_cached_pinned),
	{}
};

NT_SUITE(cache, cache_init);
