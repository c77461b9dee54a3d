// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of nopin: I/O against invalidations.
 *
 * The pages are small, anonymous, there and writable, and nothing happens to them:
 * the test only claims to change their mapping. As they are anonymous, only those
 * wait who can be refused.
 */

#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/sched/mm.h>
#include <linux/wait.h>

#include "common.h"

/* A range with a short last chunk, and room behind it for others, a chunk each */
#define RANGE_START	SZ_1G
#define RANGE_PAGES	(2 * NOPIN_CHUNK_PAGES + 5)
#define NEXT_PAGE	(3 * NOPIN_CHUNK_PAGES)
#define NR_NEXT		6

static int protocol_init(struct kunit *test)
{
	const size_t len = (NEXT_PAGE + NR_NEXT * NOPIN_CHUNK_PAGES) * PAGE_SIZE;
	struct nopin_range *range;
	struct nt_fixture *f;
	int ret;

	ret = nt_init(test);
	if (ret)
		return ret;
	f = test->priv;
	nt_map_fixed(test, RANGE_START, len);
	nt_write(test, RANGE_START, RANGE_PAGES * PAGE_SIZE);
	f->mm = current->mm;
	mmget(f->mm);
	range = nopin_range_create(f->mm, RANGE_START, RANGE_PAGES);
	if (IS_ERR(range))
		return PTR_ERR(range);
	f->range = range;
	f->own = true;
	return 0;
}

/* Number @i of the ranges behind the first one */
static struct nopin_range *next_range(struct kunit *test, unsigned int i,
				      unsigned int nr)
{
	unsigned long start = RANGE_START + NEXT_PAGE * PAGE_SIZE +
			      i * NOPIN_CHUNK_SIZE;
	struct nopin_range *range;

	nt_write(test, start, nr * PAGE_SIZE);
	range = nopin_range_create(current->mm, start, nr);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, range);
	return range;
}

/* Pages nobody has looked at yet might be in the middle of an invalidation */
static void test_starts_closed(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0, RANGE_PAGES,
			     dir);
		EXPECT_ENTER(test, range, 1, 1, dir, -EAGAIN);
		nt_open_pages(test, range, 1, 1, dir);
		EXPECT_ENTER(test, range, 1, 1, dir, 0);

		/* the other direction, and other pages */
		EXPECT_STATE(test, dir ? 0 : NOPIN_PAGE_CLOSED, range, 1, 1,
			     !dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0, 1, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 2, RANGE_PAGES - 2,
			     dir);
		EXPECT_UNKNOWN(test, range, 2, 1, dir);
		EXPECT_UNKNOWN(test, range, 1, 2, dir);
		EXPECT_ENTER(test, range, NOPIN_CHUNK_PAGES, 1, dir, -EAGAIN);
		nt_leave(test, range, 1, 1, dir);
	}
}

static const struct {
	unsigned int first;
	unsigned int nr;
} spans[] = {
	{ 0, 1 },
	{ 7, 1 },
	{ 7, 2 },
	{ 0, 8 },
	{ 1, 6 },
	{ 8, 8 },
	{ 3, 13 },
	{ 5, 59 },
	{ NOPIN_CHUNK_PAGES - 1, 1 },
	{ NOPIN_CHUNK_PAGES - 1, 2 },
	{ NOPIN_CHUNK_PAGES, 1 },
	{ NOPIN_CHUNK_PAGES - 3, NOPIN_CHUNK_PAGES + 6 },
	{ RANGE_PAGES - 6, 6 },
	{ RANGE_PAGES - 1, 1 },
	{ 0, RANGE_PAGES },
};

/* Every page of an extent is counted, no other one is, and all come back */
static void test_counts(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int i, n;

	nt_open_range(test, range);
	for (i = 0; i < 2 * ARRAY_SIZE(spans); i++) {
		unsigned int first = spans[i / 2].first;
		unsigned int nr = spans[i / 2].nr;
		unsigned int end = first + nr;

		dir = i % 2;
		for (n = 1; n <= 3; n++) {
			EXPECT_ENTER(test, range, first, nr, dir, 0);
			EXPECT_STATE(test, n, range, first, nr, dir);
		}
		EXPECT_STATE(test, 0, range, 0, first, dir);
		EXPECT_STATE(test, 0, range, end, RANGE_PAGES - end, dir);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, !dir);

		while (--n)
			nt_leave(test, range, first, nr, dir);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, dir);
	}
}

/* One closed page keeps a whole extent out, and nothing of it stays entered */
static void test_closed_page_in_extent(struct kunit *test)
{
	static const unsigned int pages[] = {
		0, 5, 7, 8, 100, NOPIN_CHUNK_PAGES - 1, NOPIN_CHUNK_PAGES,
		RANGE_PAGES - 1,
	};
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;
	unsigned int i, page;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		page = pages[i];
		nt_open_range(test, range);
		nt_inval_start(&mn, range, page, 1);
		nt_inval_end(&mn);
		EXPECT_ENTER(test, range, 0, RANGE_PAGES, NOPIN_FROM_DEVICE,
			     -EAGAIN);
		EXPECT_STATE(test, 0, range, 0, page, NOPIN_FROM_DEVICE);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, page, 1,
			     NOPIN_FROM_DEVICE);
		EXPECT_STATE(test, 0, range, page + 1, RANGE_PAGES - page - 1,
			     NOPIN_FROM_DEVICE);
	}
}

/* R16: a full count is refused and does not spill into OLD or a neighbour */
static void test_count_full(struct kunit *test)
{
	static const unsigned int pages[] = { 3, 7, NOPIN_CHUNK_PAGES };
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int i, n;
	struct nt_op *op;

	nt_open_range(test, range);
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		unsigned int page = pages[i];

		dir = i % NOPIN_NR_DIRS;
		for (n = 0; n < NOPIN_PAGE_MAX; n++)
			EXPECT_ENTER(test, range, page, 1, dir, 0);
		EXPECT_ENTER(test, range, page, 1, dir, -EAGAIN);
		EXPECT_ENTER(test, range, page - 2, 9, dir, -EAGAIN);
		EXPECT_ENTER(test, range, 0, RANGE_PAGES, dir, -EAGAIN);
		/* it is not worth trying again */
		EXPECT_OPEN(test, range, page, 1, dir, true, -EBUSY);
		EXPECT_OPEN(test, range, page, 1, dir, false, -EBUSY);
		EXPECT_OPEN(test, range, page - 2, 9, dir, true, -EBUSY);
		EXPECT_OPEN(test, range, page - 2, 2, dir, true, 0);
		EXPECT_OPEN(test, range, page + 1, 2, dir, true, 0);
		EXPECT_OPEN(test, range, page, 1, !dir, true, 0);
		EXPECT_STATE(test, NOPIN_PAGE_MAX, range, page, 1, dir);
		EXPECT_STATE(test, 0, range, 0, page, dir);
		EXPECT_STATE(test, 0, range, page + 1, RANGE_PAGES - page - 1,
			     dir);
		KUNIT_EXPECT_EQ(test, nt_count_known(range, 0, RANGE_PAGES,
						     dir), RANGE_PAGES);

		/* the neighbours and the other direction have room */
		EXPECT_ENTER(test, range, page + 1, 1, dir, 0);
		EXPECT_ENTER(test, range, page - 1, 1, dir, 0);
		EXPECT_ENTER(test, range, page, 1, !dir, 0);
		nt_leave_all(test);

		/* and an invalidation waits for each */
		for (n = 0; n < NOPIN_PAGE_MAX; n++)
			EXPECT_ENTER(test, range, page, 1, dir, 0);
		op = nt_rmap(test, range, 0, page, 1);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | NOPIN_PAGE_MAX, range,
			     page, 1, dir);
		while (--n)
			nt_leave(test, range, page, 1, dir);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		nt_leave(test, range, page, 1, dir);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
		nt_end(op);
		nt_open_range(test, range);
	}
}

/* An invalidation that does not end does not hold up I/O for ever */
static void test_open_timeout(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;
	unsigned long since;
	enum nopin_dir dir;

	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	nt_open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		nt_inval_start(&mn, range, 4, 1);
		EXPECT_OPEN(test, range, 4, 1, dir, true, -EAGAIN);
		since = jiffies;
		EXPECT_OPEN(test, range, 4, 1, dir, false, -ETIME);
		KUNIT_EXPECT_LT(test, jiffies - since, 10 * HZ);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 4, 1, dir);
		nt_inval_end(&mn);
		EXPECT_OPEN(test, range, 4, 1, dir, false, 0);
		EXPECT_STATE(test, 0, range, 4, 1, dir);
		nt_open_range(test, range);
	}
}

/* Pages can be opened while others are being invalidated, next to them even */
static void test_open_beside(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range a, b, hint;
	enum nopin_dir dir;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		nt_open_range(test, range);
		nt_inval_start(&a, range, 0, RANGE_PAGES);
		nt_inval_end(&a);

		nt_inval_start(&a, range, 4, 1);
		nt_inval_start(&b, range, 30, 2);
		nt_inval_init(&hint, range, MMU_NOTIFY_PROTECTION_VMA,
			      MMU_NOTIFIER_RANGE_HINT, 0, RANGE_PAGES);
		mmu_notifier_invalidate_range_start(&hint);

		/* the page itself */
		EXPECT_OPEN(test, range, 3, 1, dir, false, 0);
		EXPECT_STATE(test, 0, range, 3, 1, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0, 3, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 4, 28, dir);
		EXPECT_OPEN(test, range, 20, 1, dir, false, 0);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 4, 16, dir);
		EXPECT_STATE(test, 0, range, 20, 1, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 21, 100, dir);
		/* of several none */
		EXPECT_OPEN(test, range, 2, 4, dir, true, -EAGAIN);
		EXPECT_OPEN(test, range, 8, 23, dir, true, -EAGAIN);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 4, 16, dir);

		/* the end of the one does not wait for that of the other */
		nt_inval_end(&a);
		EXPECT_OPEN(test, range, 2, 4, dir, false, 0);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0, 2, dir);
		EXPECT_STATE(test, 0, range, 2, 4, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 6, 14, dir);
		EXPECT_OPEN(test, range, 31, 1, dir, true, -EAGAIN);
		/* it keeps those around from being opened, however many are */
		EXPECT_OPEN(test, range, 40, NOPIN_WALK_ALL, dir, true, 0);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 21, 19, dir);
		EXPECT_STATE(test, 0, range, 40, NOPIN_WALK_ALL, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range,
			     40 + NOPIN_WALK_ALL, 100, dir);
		mmu_notifier_invalidate_range_end(&hint);
		nt_inval_end(&b);

		EXPECT_OPEN(test, range, 31, 1, dir, true, 0);
		EXPECT_STATE(test, 0, range, 0, NOPIN_CHUNK_PAGES, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, NOPIN_CHUNK_PAGES,
			     RANGE_PAGES - NOPIN_CHUNK_PAGES, dir);
	}
}

/* Nobody waits again at once for what does not end */
static void test_open_crowded(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;
	unsigned long since;
	int i;

	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	nt_open_range(test, range);
	nt_inval_start(&mn, range, 4, 1);
	EXPECT_OPEN(test, range, 4, 1, NOPIN_TO_DEVICE, false, -ETIME);
	since = jiffies;
	for (i = 0; i < 50; i++)
		EXPECT_OPEN(test, range, 4, 1, NOPIN_TO_DEVICE, false, -ETIME);
	/* each wait would have taken more than HZ / 10 */
	KUNIT_EXPECT_LT(test, jiffies - since, 4 * HZ);
	nt_inval_end(&mn);
	EXPECT_OPEN(test, range, 4, 1, NOPIN_TO_DEVICE, false, 0);
}

/* An invalidation closes the pages it is about, clipped, and no others */
static void test_closes_its_pages(struct kunit *test)
{
	static const struct {
		long first;
		long nr;
	} inval[] = {
		{ 0, 1 },
		{ 6, 4 },
		{ 8, 8 },
		{ NOPIN_CHUNK_PAGES - 1, 2 },
		{ 100, 800 },
		{ -3, 4 },
		{ -3, 3 },
		{ RANGE_PAGES - 1, 100 },
		{ RANGE_PAGES, 1 },
		{ -100, RANGE_PAGES + 200 },
	};
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;
	enum nopin_dir dir;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(inval); i++) {
		unsigned int first = clamp_t(long, inval[i].first, 0,
					     RANGE_PAGES);
		unsigned int end = clamp_t(long, inval[i].first + inval[i].nr,
					   0, RANGE_PAGES);

		nt_open_range(test, range);
		nt_inval_start(&mn, range, inval[i].first, inval[i].nr);
		for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
			EXPECT_STATE(test, 0, range, 0, first, dir);
			EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, first,
				     end - first, dir);
			EXPECT_STATE(test, 0, range, end, RANGE_PAGES - end,
				     dir);
		}
		nt_inval_end(&mn);
	}
}

/* R1: who waits for I/O waits for the last exit from the pages */
static void test_waits_for_exit(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct nt_op *op;

	nt_open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_ENTER(test, range, 0, 2, dir, 0);
		EXPECT_ENTER(test, range, 6, 20, dir, 0);
		EXPECT_ENTER(test, range, 12, 1, dir, 0);
		EXPECT_ENTER(test, range, 12, 1, dir, 0);

		op = nt_rmap(test, range, 0, 12, 1);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED + 3, range, 12, 1, dir);
		EXPECT_ENTER(test, range, 12, 1, dir, -EAGAIN);
		/* the pages around it are not concerned */
		EXPECT_ENTER(test, range, 11, 1, dir, 0);
		EXPECT_ENTER(test, range, 13, 1, dir, 0);

		nt_leave(test, range, 12, 1, dir);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		nt_leave(test, range, 6, 20, dir);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		nt_leave(test, range, 12, 1, dir);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 12, 1, dir);
		nt_end(op);

		nt_leave_all(test);
		EXPECT_STATE(test, 0, range, 0, 12, dir);
		nt_open_range(test, range);
	}
}

/* Far apart, in both directions, and the last one decides */
static void test_waits_for_all_pages(struct kunit *test)
{
	static const unsigned int pages[] = {
		RANGE_PAGES - 1, 0, NOPIN_CHUNK_PAGES, 200,
	};
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	unsigned int i;
	struct nt_op *op;

	nt_open_range(test, range);
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		EXPECT_ENTER(test, range, pages[i], 1, i % 2, 0);
	op = nt_rmap(test, range, 0, -10, RANGE_PAGES + 20);
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		nt_leave(test, range, pages[i], 1, i % 2);
	}
	KUNIT_EXPECT_TRUE(test, nt_done(op));
	nt_end(op);
}

/* Two invalidations share a wait queue, and each waits for its own pages */
static void test_two_waiters(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir = NOPIN_FROM_DEVICE;
	struct nt_op *a, *b;

	nt_open_range(test, range);
	EXPECT_ENTER(test, range, 3, 1, dir, 0);
	EXPECT_ENTER(test, range, 5, 1, dir, 0);
	a = nt_rmap(test, range, 0, 0, 4);
	KUNIT_EXPECT_TRUE(test, nt_blocked(a));
	b = nt_rmap(test, range, 0, 4, 4);
	KUNIT_EXPECT_TRUE(test, nt_blocked(b));

	nt_leave(test, range, 5, 1, dir);
	KUNIT_EXPECT_TRUE(test, nt_done(b));
	KUNIT_EXPECT_TRUE(test, nt_blocked(a));
	nt_leave(test, range, 3, 1, dir);
	KUNIT_EXPECT_TRUE(test, nt_done(a));
	nt_end(a);
	nt_end(b);
}

/* R5: bios end in hard interrupt context, and the exit wakes from there */
static void test_exit_in_interrupt(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nt_op *op;

	nt_open_range(test, f->range);
	EXPECT_ENTER(test, f->range, 0, 20, NOPIN_TO_DEVICE, 0);
	op = nt_rmap(test, f->range, 0, 19, 1);
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	nt_leave_in_irq(test, f->range, 0, 20, NOPIN_TO_DEVICE);
	KUNIT_EXPECT_TRUE(test, nt_done(op));
	nt_end(op);
}

/* Who can take no for an answer waits for some time, and then gets it */
static void test_refused_after_patience(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct nt_op *op;

	nt_open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_ENTER(test, range, 4, 8, dir, 0);

		WRITE_ONCE(nopin_rmap_wait_ms, 100);
		op = nt_rmap(test, range, 0, 6, 1);
		EXPECT_RET(test, op, -EAGAIN);
		KUNIT_EXPECT_GE(test, op->ms, 50);
		nt_end(op);

		/* the invalidation is not going on */
		nt_open_pages(test, range, 4, 8, dir);
		EXPECT_STATE(test, 1, range, 4, 8, dir);
		EXPECT_ENTER(test, range, 6, 1, dir, 0);
		nt_leave(test, range, 6, 1, dir);

		/* who comes soon after does not wait */
		WRITE_ONCE(nopin_rmap_wait_ms, LONG_WAIT_MS);
		op = nt_rmap(test, range, 0, 6, 1);
		EXPECT_RET(test, op, -EAGAIN);
		nt_end(op);

		/* no longer than necessary */
		WRITE_ONCE(range->late, jiffies);
		op = nt_rmap(test, range, 0, 6, 1);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		nt_leave(test, range, 4, 8, dir);
		EXPECT_RET(test, op, 0);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 6, 1, dir);
		nt_end(op);
		nt_open_range(test, range);
	}
}

/* No patience at all: refused at once, and nothing is closed */
static void test_refused_without_patience(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct nt_op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, 0);
	nt_open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_ENTER(test, range, 20, 1, dir, 0);
		op = nt_rmap(test, range, 0, 0, 100);
		KUNIT_EXPECT_FALSE(test, nt_blocked(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		nt_end(op);
		nt_leave(test, range, 20, 1, dir);
		EXPECT_KNOWN(test, range, 0, RANGE_PAGES, dir);
		EXPECT_KNOWN(test, range, 0, RANGE_PAGES, !dir);
	}
}

static int refuse_nonblock(struct mmu_notifier *mn,
			   const struct mmu_notifier_range *range)
{
	return mmu_notifier_range_blockable(range) ? 0 : -EAGAIN;
}

static const struct mmu_notifier_ops refuse_ops = {
	.invalidate_range_start	= refuse_nonblock,
};

/* An ordinary notifier refuses, after the interval notifiers were told of a start */
static void test_other_notifier_refuses(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier other = { .ops = &refuse_ops };
	struct mm_struct *mm = range->notifier.mm;
	struct nt_op *op;

	KUNIT_ASSERT_EQ(test, mmu_notifier_register(&other, mm), 0);
	op = nt_inval(test, range, MMU_NOTIFY_CLEAR, NONBLOCK, 20, 1);
	EXPECT_RET(test, op, -EAGAIN);
	nt_end(op);
	KUNIT_EXPECT_FALSE(test, mmu_interval_is_active(&range->notifier,
							range->start,
							range->start + SZ_1M));
	nt_open_pages(test, range, 20, 1, NOPIN_FROM_DEVICE);
	mmu_notifier_unregister(&other, mm);
}

/* R4: reclaim never waits, is refused at once, and closes nothing */
static void test_refused_in_reclaim(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct nt_op *op;

	nt_open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_ENTER(test, range, 20, 1, dir, 0);
		op = nt_rmap(test, range, MEMALLOC, 0, 100);
		KUNIT_EXPECT_FALSE(test, nt_blocked(op));
		nt_leave(test, range, 20, 1, dir);
		EXPECT_RET(test, op, -EAGAIN);
		nt_end(op);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, dir);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, !dir);
	}

	/* idle pages are not refused */
	op = nt_rmap(test, range, MEMALLOC, 0, 100);
	EXPECT_RET(test, op, 0);
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0, 100,
		     NOPIN_FROM_DEVICE);
	nt_end(op);

	/* and nor is what cannot be refused; nobody waits for it either */
	nt_open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		EXPECT_ENTER(test, range, 20, 1, dir, 0);
	op = nt_inval(test, range, MMU_NOTIFY_UNMAP, MEMALLOC, 0, 100);
	EXPECT_RET(test, op, 0);
	nt_end(op);
}

/*
 * Who does not wait pins exactly the page that the I/O is on. Until the I/O has
 * ended nobody opens it, not even for the other direction.
 */
static void test_pinned_page(struct kunit *test)
{
	static const unsigned int how[] = { 0, MEMALLOC, NONBLOCK };
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int i, n;
	struct nt_op *op;

	for (i = 0; i < 2 * ARRAY_SIZE(how); i++) {
		struct bio_vec *bvec;
		struct page *page;

		dir = i % 2;
		nt_open_range(test, range);
		bvec = nopin_chunk_at(range, 0)->bvec;
		EXPECT_ENTER(test, range, 18, 4, dir, 0);
		page = nt_get_page(nopin_addr(range, 20));
		KUNIT_ASSERT_NOT_NULL(test, page);
		op = nt_inval(test, range, MMU_NOTIFY_UNMAP, how[i / 2], 20, 1);
		EXPECT_RET(test, op, 0);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, 20, 1, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 20, 1, !dir);
		EXPECT_STATE(test, 1, range, 18, 2, dir);
		EXPECT_STATE(test, 1, range, 21, 1, dir);
		nt_end(op);

		KUNIT_EXPECT_EQ(test, READ_ONCE(range->nr_pinned), 1);
		KUNIT_EXPECT_PTR_EQ(test, bvec[20].bv_page, page);
		KUNIT_EXPECT_TRUE(test, nt_is_pinned(page));
		for (n = 18; n < 22; n++)
			KUNIT_EXPECT_EQ(test, nt_is_pinned(bvec[n].bv_page),
					n == 20);
		for (n = 0; n < NOPIN_NR_DIRS; n++) {
			EXPECT_OPEN(test, range, 20, 1, n, true, -EBUSY);
			EXPECT_OPEN(test, range, 16, 9, n, false, -EBUSY);
			EXPECT_ENTER(test, range, 20, 1, n, -EAGAIN);
			/* those around it can be */
			EXPECT_OPEN(test, range, 21, 9, n, true, 0);
		}
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, 20, 1, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 20, 1, !dir);
		KUNIT_EXPECT_PTR_EQ(test, bvec[20].bv_page, page);

		nt_leave(test, range, 18, 4, dir);
		nt_expect_unpinned(test, page);
		for (n = 0; n < NOPIN_NR_DIRS; n++) {
			nt_expect_opens(test, range, 20, n);
			EXPECT_KNOWN(test, range, 20, 1, n);
		}
		KUNIT_EXPECT_EQ(test, READ_ONCE(range->nr_pinned), 0);
		put_page(page);
	}
}

/* Who invalidates all of a chunk takes its states away, if no I/O is there */
static void test_chunk_in_use(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;
	enum nopin_dir dir;

	nt_open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_ENTER(test, range, 300, 1, dir, 0);
		nt_inval_start(&mn, range, 0, NOPIN_CHUNK_PAGES);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, 300, 1, dir);
		nt_inval_end(&mn);
		KUNIT_ASSERT_TRUE(test, nt_has_states(range, 0));
		nt_leave(test, range, 300, 1, dir);
		nt_expect_opens(test, range, 300, dir);

		/* not if a page is left out, or if it may come back */
		nt_inval_start(&mn, range, 1, NOPIN_CHUNK_PAGES - 1);
		nt_inval_end(&mn);
		nt_change(range, 0, NOPIN_CHUNK_PAGES);
		KUNIT_EXPECT_TRUE(test, nt_has_states(range, 0));

		nt_inval_start(&mn, range, 0, NOPIN_CHUNK_PAGES);
		KUNIT_EXPECT_FALSE(test, nt_has_states(range, 0));
		/* it does not come back before the end */
		EXPECT_OPEN(test, range, 300, 1, dir, true, -EAGAIN);
		EXPECT_ENTER(test, range, 300, 1, dir, -EAGAIN);
		nt_inval_end(&mn);
		KUNIT_EXPECT_TRUE(test, nt_has_states(range, NOPIN_CHUNK_PAGES));
		EXPECT_STATE(test, 0, range, NOPIN_CHUNK_PAGES,
			     RANGE_PAGES - NOPIN_CHUNK_PAGES, dir);
		nt_open_range(test, range);
	}
}

/* I/O that is not prompt is counted, from before it enters until it has left */
static void test_other_counts(struct kunit *test)
{
	const unsigned int border = NOPIN_CHUNK_PAGES;
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int n;

	f->other = true;
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		/* nobody is counted who does not get in */
		nt_open_pages(test, range, 5, 1, dir);
		EXPECT_ENTER(test, range, 5, 2, dir, -EAGAIN);
		nt_open_pages(test, range, 0, border, dir);
		EXPECT_ENTER(test, range, border - 1, 2, dir, -EAGAIN);
		KUNIT_EXPECT_EQ(test, nt_others(range, 0), 0);
		EXPECT_STATE(test, 0, range, 0, border, dir);
	}
	nt_open_range(test, range);

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		/* in each chunk */
		EXPECT_ENTER(test, range, 5, 1, dir, 0);
		EXPECT_ENTER(test, range, border - 3, 9, dir, 0);
		KUNIT_EXPECT_EQ(test, nt_others(range, 0), 2);
		KUNIT_EXPECT_EQ(test, nt_others(range, border), 1);
		KUNIT_EXPECT_EQ(test, nt_others(range, 2 * border), 0);
		EXPECT_STATE(test, 1, range, border - 3, 9, dir);

		for (n = 1; n < NOPIN_PAGE_MAX; n++)
			EXPECT_ENTER(test, range, border, 1, dir, 0);
		EXPECT_ENTER(test, range, 0, RANGE_PAGES, dir, -EAGAIN);
		KUNIT_EXPECT_EQ(test, nt_others(range, 0), 2);
		KUNIT_EXPECT_EQ(test, nt_others(range, border), NOPIN_PAGE_MAX);
		KUNIT_EXPECT_EQ(test, nt_others(range, 2 * border), 0);
		nt_leave(test, range, 5, 1, dir);
		KUNIT_EXPECT_EQ(test, nt_others(range, 0), 1);
		nt_leave_all(test);
		KUNIT_EXPECT_EQ(test, nt_others(range, 0), 0);
		KUNIT_EXPECT_EQ(test, nt_others(range, border), 0);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, dir);
	}

	/* prompt I/O is not counted */
	f->other = false;
	EXPECT_ENTER(test, range, 0, RANGE_PAGES, NOPIN_TO_DEVICE, 0);
	KUNIT_EXPECT_EQ(test, nt_others(range, 0), 0);
}

/* Nobody waits for I/O that is not prompt, nor for what is next to it */
static void test_other_refuses(struct kunit *test)
{
	const unsigned int border = NOPIN_CHUNK_PAGES;
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct nt_op *op;

	nt_open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		f->other = true;
		EXPECT_ENTER(test, range, 7, 3, dir, 0);
		op = nt_rmap(test, range, 0, 8, 1);
		EXPECT_RET(test, op, -EAGAIN);
		nt_end(op);
		/* having waited for nothing, it leaves all of it open */
		EXPECT_STATE(test, 1, range, 7, 3, dir);

		/* what is idle can be had all the same */
		op = nt_rmap(test, range, 0, 20, 1);
		EXPECT_RET(test, op, 0);
		nt_end(op);

		/* in another chunk, prompt I/O is waited for */
		f->other = false;
		EXPECT_ENTER(test, range, border + 7, 1, dir, 0);
		op = nt_rmap(test, range, 0, border, border);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		nt_leave(test, range, border + 7, 1, dir);
		EXPECT_RET(test, op, 0);
		nt_end(op);

		/* and here as soon as there is nothing else */
		EXPECT_ENTER(test, range, 100, 1, dir, 0);
		nt_leave(test, range, 7, 3, dir);
		op = nt_rmap(test, range, 0, 100, 1);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		nt_leave(test, range, 100, 1, dir);
		EXPECT_RET(test, op, 0);
		nt_end(op);
		nt_open_range(test, range);
	}
}

static int op_inval_each(struct nt_op *op)
{
	struct nopin_range **range = op->arg;
	struct mmu_notifier_range mn;
	unsigned int i;
	int refused = 0;

	for (i = 0; i < op->nr; i++) {
		if (nt_inval_start_refusable(&mn, range[i], 0, 1))
			nt_inval_end(&mn);
		else
			refused++;
	}
	return refused;
}

/* A task waits so long, wherever that is, and the next one does so as well */
static void test_budget(struct kunit *test)
{
	struct nopin_range *range[NR_NEXT];
	const unsigned int ms = 400;
	struct nt_op *op, *next;
	unsigned int i;

	WRITE_ONCE(nopin_rmap_wait_ms, ms);
	for (i = 0; i < NR_NEXT; i++) {
		range[i] = next_range(test, i, 8);
		nt_open_range(test, range[i]);
		EXPECT_ENTER(test, range[i], 0, 1, i % 2, 0);
	}
	op = nt_run(test, &(struct nt_op) {
		.fn	= op_inval_each,
		.nr	= NR_NEXT - 1,
		.arg	= range,
	});
	EXPECT_RET(test, op, NR_NEXT - 1);
	KUNIT_EXPECT_GE(test, op->ms, ms / 2);
	KUNIT_EXPECT_LT(test, op->ms, 3 * ms);

	next = nt_rmap(test, range[NR_NEXT - 1], 0, 0, 1);
	EXPECT_RET(test, next, -EAGAIN);
	KUNIT_EXPECT_GE(test, next->ms, ms / 2);
	nt_end(next);

	nt_leave_all(test);
	for (i = 0; i < NR_NEXT; i++)
		nopin_range_destroy(range[i]);
}

/* Refused by the second of two ranges: the first one goes on as well */
static void test_refused_by_another_range(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range, *next = next_range(test, 0, 3);
	struct nt_op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	nt_open_range(test, range);
	nt_open_range(test, next);

	EXPECT_ENTER(test, next, 0, 1, NOPIN_FROM_DEVICE, 0);
	op = nt_rmap(test, range, 0, RANGE_PAGES - 10,
		     NEXT_PAGE + 2 - RANGE_PAGES + 10);
	EXPECT_RET(test, op, -EAGAIN);
	nt_end(op);

	nt_open_range(test, range);
	nt_open_range(test, next);
	EXPECT_ENTER(test, range, 0, RANGE_PAGES, NOPIN_FROM_DEVICE, 0);
	EXPECT_ENTER(test, next, 0, 3, NOPIN_FROM_DEVICE, 0);
	nt_leave_all(test);
	nopin_range_destroy(next);
}

/* R13: a page stays closed until the last invalidation of it ends */
static void test_overlapping(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir = NOPIN_FROM_DEVICE;
	struct mmu_notifier_range mn[2];
	unsigned int i;
	struct nt_op *op;

	for (i = 0; i < 2; i++) {
		nt_open_range(test, range);
		nt_inval_start(&mn[0], range, 0, 4);
		nt_inval_start(&mn[1], range, 2, 4);
		op = nt_op_open(test, range, 0, 6, dir);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));

		nt_inval_end(&mn[i]);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		EXPECT_OPEN(test, range, 0, 6, dir, true, -EAGAIN);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0, 6, dir);
		EXPECT_ENTER(test, range, 2, 1, dir, -EAGAIN);
		nt_leave_all(test);

		nt_inval_end(&mn[!i]);
		EXPECT_RET(test, op, 0);
		EXPECT_ENTER(test, range, 0, 6, dir, 0);
		nt_leave(test, range, 0, 6, dir);
	}
}

/* An opener waits for an invalidation that itself still waits for I/O */
static void test_open_waits(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir = NOPIN_TO_DEVICE;
	struct nt_op *inval, *op;

	nt_open_range(test, range);
	EXPECT_ENTER(test, range, 9, 1, dir, 0);
	inval = nt_rmap(test, range, 0, 9, 1);
	KUNIT_EXPECT_TRUE(test, nt_blocked(inval));
	op = nt_op_open(test, range, 9, 1, dir);
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	EXPECT_OPEN(test, range, 9, 1, dir, true, -EAGAIN);
	EXPECT_ENTER(test, range, 9, 1, dir, -EAGAIN);

	nt_leave_all(test);
	/* Had the page been opened already, nobody would wake the other one */
	if (completion_done(&op->done))
		wake_up_all(&range->wait);
	KUNIT_EXPECT_TRUE(test, nt_done(inval));
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	nt_end(inval);
	EXPECT_RET(test, op, 0);
	EXPECT_ENTER(test, range, 9, 1, dir, 0);
}

/* An invalidation elsewhere in the mm keeps nobody from opening pages */
static void test_open_other_range(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nopin_range *range = f->range, *other = next_range(test, 0, 8);
	struct mmu_notifier_range mn;

	nt_open_range(test, other);
	nt_inval_start(&mn, other, 0, 8);
	nt_open_range(test, range);
	EXPECT_ENTER(test, range, RANGE_PAGES - 1, 1, NOPIN_FROM_DEVICE, 0);
	nt_inval_end(&mn);
	nt_leave_all(test);
	nopin_range_destroy(other);
}

/* A range that comes in the middle of an invalidation was not told of it */
static void test_created_during_invalidation(struct kunit *test)
{
	unsigned long start = RANGE_START + NEXT_PAGE * PAGE_SIZE;
	struct nt_fixture *f = test->priv;
	struct mmu_notifier_range mn;
	struct nopin_range *range;
	unsigned int i;
	struct nt_op *op;

	nt_write(test, start, 8 * PAGE_SIZE);
	/* one that no range knew of, and one that some did */
	for (i = 0; i < 2; i++) {
		nt_inval_start(&mn, f->range, i ? 0 : RANGE_PAGES, RANGE_PAGES);
		range = nopin_range_create(f->mm, start, 8);
		KUNIT_EXPECT_NOT_ERR_OR_NULL(test, range);
		if (IS_ERR(range)) {
			nt_inval_end(&mn);
			return;
		}
		EXPECT_OPEN(test, range, 0, 8, NOPIN_FROM_DEVICE, true,
			    -EAGAIN);
		EXPECT_ENTER(test, range, 0, 1, NOPIN_FROM_DEVICE, -EAGAIN);
		op = nt_op_open(test, range, 0, 8, NOPIN_FROM_DEVICE);
		KUNIT_EXPECT_TRUE(test, nt_blocked(op));
		nt_inval_end(&mn);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
		nt_open_range(test, range);
		EXPECT_ENTER(test, range, 0, 8, NOPIN_FROM_DEVICE, 0);
		nt_leave(test, range, 0, 8, NOPIN_FROM_DEVICE);
		nopin_range_destroy(range);
	}
}

static int op_destroy(struct nt_op *op)
{
	nopin_range_destroy(op->range);
	return 0;
}

/* A range does not go away under an invalidation that uses it */
static void test_destroyed_during_invalidation(struct kunit *test)
{
	struct nopin_range *range = next_range(test, 0, 8);
	struct mmu_notifier_range mn;
	struct nt_op *op;

	nt_open_range(test, range);
	nt_inval_start(&mn, range, 0, 8);
	op = nt_run(test, &(struct nt_op) {
		.fn	= op_destroy,
		.range	= range,
	});
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	nt_inval_end(&mn);
	KUNIT_EXPECT_TRUE(test, nt_done(op));
}

/* Ranges one after the other, shorter than a chunk and than a word */
static void test_short_ranges(struct kunit *test)
{
	struct nopin_range *a = next_range(test, 0, 3);
	struct nopin_range *b = next_range(test, 1, 1);
	struct nt_op *op;

	nt_open_range(test, a);
	nt_open_range(test, b);
	EXPECT_ENTER(test, a, 0, 3, NOPIN_FROM_DEVICE, 0);
	EXPECT_ENTER(test, b, 0, 1, NOPIN_FROM_DEVICE, 0);

	op = nt_rmap(test, a, 0, 2, NOPIN_CHUNK_PAGES - 1);
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	nt_leave(test, b, 0, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	nt_leave(test, a, 0, 3, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, nt_done(op));
	EXPECT_STATE(test, 0, a, 0, 2, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED, a, 2, 1, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED, b, 0, 1, NOPIN_FROM_DEVICE);
	nt_end(op);
	nopin_range_destroy(a);
	nopin_range_destroy(b);
}

static int op_destroy_idle(struct nt_op *op)
{
	/* as the last of an invalidation may see it, without being woken */
	while (nt_state(op->range, 0, NOPIN_FROM_DEVICE) & NOPIN_PAGE_MAX) {
		cpu_relax();
		cond_resched();
	}
	nopin_range_destroy(op->range);
	return 0;
}

/* R12: a range may be destroyed as soon as its count is 0, amid the exit */
static void test_destroyed_during_exit(struct kunit *test)
{
	struct nopin_range *range;
	struct nt_op *inval, *op;
	struct nt_entered e;
	unsigned int i;

	/* leaves the page closed, so that the exit looks for waiters */
	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	for (i = 0; i < 30; i++) {
		range = next_range(test, 0, 1);
		nt_open_range(test, range);
		EXPECT_ENTER(test, range, 0, 1, NOPIN_FROM_DEVICE, 0);
		inval = nt_rmap(test, range, 0, 0, 1);
		EXPECT_RET(test, inval, -EAGAIN);
		nt_end(inval);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED + 1, range, 0, 1,
			     NOPIN_FROM_DEVICE);

		e = nt_forget(test, range, 0, 1, NOPIN_FROM_DEVICE);
		op = nt_run(test, &(struct nt_op) {
			.fn	= op_destroy_idle,
			.range	= range,
		});
		usleep_range(50, 100);
		nopin_exit(&e.ext, e.dir);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
	}
}

static struct kunit_case protocol_cases[] = {
	KUNIT_CASE(test_starts_closed),
	KUNIT_CASE(test_counts),
	KUNIT_CASE(test_closed_page_in_extent),
	KUNIT_CASE(test_count_full),
	KUNIT_CASE(test_open_timeout),
	KUNIT_CASE(test_open_beside),
	KUNIT_CASE(test_open_crowded),
	KUNIT_CASE(test_closes_its_pages),
	KUNIT_CASE(test_waits_for_exit),
	KUNIT_CASE(test_waits_for_all_pages),
	KUNIT_CASE(test_two_waiters),
	KUNIT_CASE(test_exit_in_interrupt),
	KUNIT_CASE(test_refused_after_patience),
	KUNIT_CASE(test_refused_without_patience),
	KUNIT_CASE(test_other_notifier_refuses),
	KUNIT_CASE(test_refused_in_reclaim),
	KUNIT_CASE(test_pinned_page),
	KUNIT_CASE(test_chunk_in_use),
	KUNIT_CASE(test_other_counts),
	KUNIT_CASE(test_other_refuses),
	KUNIT_CASE(test_budget),
	KUNIT_CASE(test_refused_by_another_range),
	KUNIT_CASE(test_overlapping),
	KUNIT_CASE(test_open_waits),
	KUNIT_CASE(test_open_other_range),
	KUNIT_CASE(test_created_during_invalidation),
	KUNIT_CASE(test_destroyed_during_invalidation),
	KUNIT_CASE(test_short_ranges),
	KUNIT_CASE(test_destroyed_during_exit),
	{}
};

NT_SUITE(protocol, protocol_init);
