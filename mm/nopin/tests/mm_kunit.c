// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of nopin: the ranges of an mm.
 */

#include <linux/err.h>
#include <linux/sched/mm.h>

#include "common.h"

/* How much of the address space a range covers */
static const unsigned long size = 1UL << NOPIN_MM_SHIFT;

static int mm_test_init(struct kunit *test)
{
	struct nt_fixture *f;
	int ret;

	ret = nt_init(test);
	if (ret)
		return ret;
	f = test->priv;
	/* gives the thread its mm */
	nt_map_small(test, PAGE_SIZE);
	f->mm = current->mm;
	mmget(f->mm);
	return 0;
}

/* Addresses find their range, whichever way, and no other one */
static void test_mm_lookup(struct kunit *test)
{
	unsigned long far = (4 + NOPIN_MM_SLOTS) * size + 42;
	unsigned long top = round_down(TASK_SIZE - 1, PAGE_SIZE);
	struct mm_struct *mm = current->mm;
	struct nopin_range *a, *b, *c, *d;
	unsigned int i;

	KUNIT_EXPECT_NULL(test, nopin_mm_find(mm, 4 * size));
	a = nt_range(test, 5 * size - 1);
	b = nt_range(test, 5 * size);
	/* the first look is at the same place for this one as for the first */
	c = nt_range(test, far);
	d = nt_range(test, top);

	for (i = 0; i < 2; i++) {
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_find(mm, 4 * size), a);
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_find(mm, 5 * size - 1), a);
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_find(mm, 5 * size), b);
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_find(mm, far), c);
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_find(mm, top), d);
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_get(mm, 4 * size), a);
		KUNIT_EXPECT_NULL(test, nopin_mm_find(mm, 3 * size));
		KUNIT_EXPECT_NULL(test, nopin_mm_find(mm, 6 * size));
	}

	KUNIT_EXPECT_EQ(test, nopin_index(a, 4 * size), 0);
	KUNIT_EXPECT_EQ(test, nopin_index(a, 4 * size + PAGE_SIZE - 1), 0);
	KUNIT_EXPECT_EQ(test, nopin_index(a, 5 * size - 1), a->nr_pages - 1);
	KUNIT_EXPECT_EQ(test, nopin_index(d, top), (top % size) >> PAGE_SHIFT);
	KUNIT_EXPECT_EQ(test, a->start, 4 * size);
	KUNIT_EXPECT_EQ(test, a->nr_pages, size >> PAGE_SHIFT);

	/* the states, which come with the first I/O, and only for memory */
	KUNIT_EXPECT_EQ(test, nopin_open(d, nopin_index(d, top), 1,
					 NOPIN_FROM_DEVICE, true), -EFAULT);
	KUNIT_EXPECT_NULL(test, nopin_mm_chunk(mm, top));
	KUNIT_EXPECT_NULL(test, nopin_mm_chunk(mm, 3 * size));
	nt_map_fixed(test, top, PAGE_SIZE);
	nt_write(test, top, PAGE_SIZE);
	nt_open_pages(test, d, nopin_index(d, top), 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_NOT_NULL(test, nopin_mm_chunk(mm, top));
	KUNIT_EXPECT_PTR_EQ(test, nopin_mm_chunk(mm, top),
			    nopin_chunk_at(d, nopin_index(d, top)));
	KUNIT_EXPECT_NULL(test, nopin_mm_chunk(mm, top - NOPIN_CHUNK_SIZE));
	EXPECT_KNOWN(test, d, nopin_index(d, top), 1, NOPIN_FROM_DEVICE);
}

/* An invalidation across the end of a range waits on both sides */
static void test_mm_boundary(struct kunit *test)
{
	unsigned int last = (size >> PAGE_SHIFT) - 1;
	struct nopin_range *a, *b;
	struct nt_op *op;

	nt_map_fixed(test, 5 * size - 2 * PAGE_SIZE, 4 * PAGE_SIZE);
	nt_write(test, 5 * size - 2 * PAGE_SIZE, 4 * PAGE_SIZE);
	a = nt_range(test, 4 * size);
	b = nt_range(test, 5 * size);
	nt_open_pages(test, a, last - 1, 2, NOPIN_FROM_DEVICE);
	nt_open_pages(test, b, 0, 2, NOPIN_FROM_DEVICE);
	EXPECT_ENTER(test, a, last, 1, NOPIN_FROM_DEVICE, 0);
	EXPECT_ENTER(test, b, 0, 1, NOPIN_FROM_DEVICE, 0);

	op = nt_rmap(test, a, 0, last, 2);
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	nt_leave(test, a, last, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	nt_leave(test, b, 0, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, nt_done(op));
	EXPECT_STATE(test, 0, a, last - 1, 1, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED, a, last, 1, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED, b, 0, 1, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, 0, b, 1, 1, NOPIN_FROM_DEVICE);
	nt_end(op);
}

/* What is mapped is looked up for both directions, and nothing else is touched */
static void test_mm_open(struct kunit *test)
{
	unsigned long start = 5 * size - PAGE_SIZE;
	unsigned int last = (size >> PAGE_SHIFT) - 1, dir;
	struct mm_struct *mm = current->mm;
	struct nopin_range *a, *b, *c;

	nt_map_fixed(test, start, size + 4 * PAGE_SIZE);
	nt_write(test, start, 4 * PAGE_SIZE);
	nt_read(test, 5 * size + 3 * PAGE_SIZE, PAGE_SIZE);
	nt_write(test, 6 * size, 2 * PAGE_SIZE);
	nopin_mm_open(mm, start + 1, size + PAGE_SIZE);

	a = nopin_mm_find(mm, start);
	b = nopin_mm_find(mm, 5 * size);
	c = nopin_mm_find(mm, 6 * size);
	KUNIT_ASSERT_NOT_NULL(test, a);
	KUNIT_ASSERT_NOT_NULL(test, b);
	KUNIT_ASSERT_NOT_NULL(test, c);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_KNOWN(test, a, last, 1, dir);
		EXPECT_KNOWN(test, b, 0, 3, dir);
		EXPECT_UNKNOWN(test, b, 4, 1, dir);
		EXPECT_KNOWN(test, c, 0, 1, dir);
		EXPECT_UNKNOWN(test, c, 1, 1, dir);
	}
	EXPECT_KNOWN(test, b, 3, 1, NOPIN_TO_DEVICE);
	EXPECT_UNKNOWN(test, b, 3, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_FALSE(test, nt_has_states(b, NOPIN_CHUNK_PAGES));
}

/* Of huge pages as well */
static void test_mm_open_huge(struct kunit *test)
{
	unsigned long addr = nt_map_thp(test), end = addr + 2 * PMD_SIZE;
	struct nopin_range *range;
	unsigned int dir;

	nopin_mm_open(current->mm, addr + PAGE_SIZE, 2 * PMD_SIZE - 2 * PAGE_SIZE);
	for (addr += PAGE_SIZE; addr < end; addr += PMD_SIZE) {
		range = nopin_mm_find(current->mm, addr);
		KUNIT_ASSERT_NOT_NULL(test, range);
		for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
			EXPECT_KNOWN(test, range, nopin_index(range, addr), 8, dir);
	}
}

static int op_get(struct nt_op *op)
{
	op->range = nopin_mm_get(op->arg, op->addr);
	return PTR_ERR_OR_ZERO(op->range);
}

/* Threads that need a range at the same time get the same one */
static void test_mm_get_race(struct kunit *test)
{
	struct nt_op *op[4];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(op); i++)
		op[i] = nt_run(test, &(struct nt_op) {
			.fn	= op_get,
			.mm	= current->mm,
			.arg	= current->mm,
			.addr	= 7 * size,
		});
	for (i = 0; i < ARRAY_SIZE(op); i++) {
		EXPECT_RET(test, op[i], 0);
		KUNIT_EXPECT_PTR_EQ(test, op[i]->range, op[0]->range);
	}
}

/* R18: the first I/Os of a process do without a notifier, and so with pins */
static void test_mm_ready(struct kunit *test)
{
	struct mm_struct *mm = mm_alloc();
	unsigned long addr = 5 * size;
	unsigned int i;

	KUNIT_ASSERT_NOT_NULL(test, mm);
	KUNIT_EXPECT_TRUE(test, nopin_mm_ready(mm, addr));
	WRITE_ONCE(nopin_first_ios, 2);
	/* nobody runs task work for us, so this is never enough */
	for (i = 0; i < 10; i++)
		KUNIT_EXPECT_FALSE(test, nopin_mm_ready(mm, addr));
	KUNIT_EXPECT_NULL(test, nopin_mm_find(mm, addr));
	KUNIT_EXPECT_EQ(test, nopin_mm_create(mm), 0);
	KUNIT_EXPECT_TRUE(test, nopin_mm_ready(mm, addr));
	KUNIT_EXPECT_NULL(test, nopin_mm_find(mm, addr));
	mmput(mm);
}

static struct kunit_case mm_cases[] = {
	KUNIT_CASE(test_mm_lookup),
	KUNIT_CASE(test_mm_boundary),
	KUNIT_CASE(test_mm_open),
	KUNIT_CASE(test_mm_open_huge),
	KUNIT_CASE(test_mm_get_race),
	KUNIT_CASE(test_mm_ready),
	{}
};

NT_SUITE(mm, mm_test_init);
