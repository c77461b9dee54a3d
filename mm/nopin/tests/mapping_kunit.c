// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of nopin: what the rest of mm does to mappings with I/O on them.
 */

#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/sysctl.h>
#include <linux/swap.h>

#include "common.h"

static void change_desc(const struct nt_change_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(change, nt_change_cases, change_desc);

/* The page at @addr, with a reference, after I/O has entered it and those behind */
static struct page *enter_page(struct kunit *test, unsigned long addr,
			       unsigned int nr, enum nopin_dir dir)
{
	struct page *page;

	KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr, nr * PAGE_SIZE, dir), 0);
	page = nt_get_page(addr);
	KUNIT_ASSERT_NOT_NULL(test, page);
	KUNIT_EXPECT_PTR_EQ(test, nt_page(addr), page);
	return page;
}

/*
 * R1: what the process does to its mapping waits for the I/O on it, if a wait
 * buys something. If not, the I/O gets pins, at once.
 */
static void test_change(struct kunit *test)
{
	const struct nt_change_case *c = test->param_value;
	struct nopin_range *range;
	enum nopin_dir dir;
	struct page *page;
	unsigned int i;
	struct nt_op *op;
	bool shmem;

	for (i = 0; i < 4; i++) {
		unsigned long addr, io;

		dir = i % 2;
		shmem = i / 2;
		addr = nt_map_kind(test, shmem, 8 * PAGE_SIZE);
		io = addr + 5 * PAGE_SIZE;
		page = enter_page(test, io, 2, dir);
		range = nopin_mm_find(current->mm, addr);
		/* idle pages next to it are none of its business */
		op = nt_mapping(test, c->fn, 0, addr, 2 * PAGE_SIZE);
		EXPECT_RET(test, op, 0);

		op = nt_mapping(test, c->fn, 0, io - PAGE_SIZE, 2 * PAGE_SIZE);
		if (dir == NOPIN_FROM_DEVICE && (shmem || c->waits)) {
			KUNIT_EXPECT_TRUE(test, nt_blocked(op));
			/* it has the mmap_lock: no get_user_pages() now */
			KUNIT_EXPECT_TRUE(test, folio_mapped(page_folio(page)));
			KUNIT_EXPECT_FALSE(test, nt_is_pinned(page));
			nt_leave_all(test);
			KUNIT_EXPECT_TRUE(test, nt_done(op));
			KUNIT_EXPECT_FALSE(test, nt_is_pinned(page));
		} else {
			KUNIT_EXPECT_TRUE(test, nt_done(op));
			KUNIT_EXPECT_TRUE(test, nt_is_pinned(page));
			KUNIT_EXPECT_TRUE(test, nt_was_pinned(io, dir));
			KUNIT_EXPECT_EQ(test, folio_mapped(page_folio(page)), !c->to);
			/* the other page is as it was */
			KUNIT_EXPECT_FALSE(test, nt_was_pinned(io + PAGE_SIZE,
							       dir));
			EXPECT_STATE(test, 1, range,
				     nopin_index(range, io) + 1, 1, dir);
			nt_leave_all(test);
			nt_expect_unpinned(test, page);
		}
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		put_page(page);
		nt_expect_opens(test, range, nopin_index(range, io), dir);
		EXPECT_WALK(test, addr, PAGE_SIZE, c->from, c->to);
		EXPECT_WALK(test, io - PAGE_SIZE, 2 * PAGE_SIZE, c->from,
			    c->to);
		EXPECT_WALK(test, addr + 6 * PAGE_SIZE, 2 * PAGE_SIZE, 0, 0);
	}
}

/**
 * struct event_case - an invalidation, as its callback sees it
 * @name: of the case
 * @event: what is about to happen
 * @read_goes_on: it does not concern devices that read memory
 * @waits: even if the page is anonymous, for devices that write it
 * @waits_for_read: and for those that read it
 */
struct event_case {
	const char		*name;
	enum mmu_notifier_event	event;
	bool			read_goes_on;
	bool			waits;
	bool			waits_for_read;
};

static const struct event_case event_cases[] = {
	{ "unmap",		MMU_NOTIFY_UNMAP },
	{ "clear",		MMU_NOTIFY_CLEAR },
	{ "protection-vma",	MMU_NOTIFY_PROTECTION_VMA,	false,	true },
	/* fork(), if the page is anonymous, or else writeback */
	{ "protection-page",	MMU_NOTIFY_PROTECTION_PAGE,	true },
	{ "soft-dirty",		MMU_NOTIFY_SOFT_DIRTY,		true,	true },
	{ "release",		MMU_NOTIFY_RELEASE },
	/* of memory of devices, which does not move while it is pinned */
	{ "migrate",		MMU_NOTIFY_MIGRATE,	false,	true,	true },
	{ "exclusive",		MMU_NOTIFY_EXCLUSIVE },
};

KUNIT_ARRAY_PARAM_DESC(event, event_cases, name);

/* What a wait buys depends on the event, the kind of page and the direction */
static void test_event(struct kunit *test)
{
	const struct event_case *ev = test->param_value;
	struct nopin_range *range;
	enum nopin_dir dir;
	struct page *page;
	bool shmem, closed;
	unsigned int i, n;
	struct nt_op *op;

	for (n = 0; n < 4; n++) {
		unsigned long addr;

		dir = n % 2;
		shmem = n / 2;
		addr = nt_map_kind(test, shmem, 8 * PAGE_SIZE);
		page = enter_page(test, addr + 3 * PAGE_SIZE, 2, dir);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr + 3 * PAGE_SIZE);
		nt_open_pages(test, range, i, 2, !dir);

		op = nt_inval(test, range, ev->event, 0, i, 1);
		if (dir == NOPIN_FROM_DEVICE ? shmem || ev->waits :
					       ev->waits_for_read) {
			KUNIT_EXPECT_TRUE(test, nt_blocked(op));
			KUNIT_EXPECT_FALSE(test, nt_is_pinned(page));
			EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, i, 1,
				     dir);
			nt_leave_all(test);
			KUNIT_EXPECT_TRUE(test, nt_done(op));
			KUNIT_EXPECT_FALSE(test, nt_is_pinned(page));
		} else if (dir == NOPIN_TO_DEVICE && ev->read_goes_on) {
			KUNIT_EXPECT_TRUE(test, nt_done(op));
			KUNIT_EXPECT_FALSE(test, nt_is_pinned(page));
			EXPECT_STATE(test, 1, range, i, 1, dir);
			EXPECT_ENTER(test, range, i, 1, dir, 0);
		} else {
			KUNIT_EXPECT_TRUE(test, nt_done(op));
			KUNIT_EXPECT_TRUE(test, nt_is_pinned(page));
			EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, i, 1,
				     dir);
			EXPECT_ENTER(test, range, i, 1, dir, -EAGAIN);
			EXPECT_STATE(test, 1, range, i + 1, 1, dir);
		}
		closed = dir == NOPIN_TO_DEVICE || !ev->read_goes_on;
		EXPECT_STATE(test, closed ? NOPIN_PAGE_CLOSED : 0, range, i, 1,
			     !dir);
		nt_end(op);
		nt_leave_all(test);
		nt_expect_unpinned(test, page);
		put_page(page);
	}
}

/*
 * A change of a part of a huge page does not concern I/O on other parts: when
 * the PMD is split, each of these stays where it was.
 */
static void test_huge_change(struct kunit *test)
{
	const struct nt_change_case *c = test->param_value;
	static const unsigned int pages[] = { 0, 5, 300, 511 };
	struct nopin_range *range;
	enum nopin_dir dir;
	unsigned int i, how;
	struct nt_op *op;

	for (i = 0; i < 2 * ARRAY_SIZE(pages); i++) {
		unsigned long addr = nt_map_thp(test);
		unsigned long io = addr + pages[i / 2] * PAGE_SIZE;
		unsigned long other = addr + (511 - pages[i / 2]) * PAGE_SIZE;

		dir = i % 2;
		how = i % 4 == 1 ? MEMALLOC : 0;
		KUNIT_ASSERT_EQ(test, nt_enter_at(test, io, 1, dir), 0);
		range = nopin_mm_find(current->mm, addr);
		op = nt_mapping(test, c->fn, how, other, PAGE_SIZE);
		EXPECT_RET(test, op, 0);
		KUNIT_EXPECT_FALSE(test, nt_is_huge(addr));
		KUNIT_EXPECT_FALSE(test, nt_was_pinned(io, dir));
		EXPECT_STATE(test, 1, range, nopin_index(range, io), 1, dir);
		nt_check_pages(test, io, PAGE_SIZE);
		nt_leave_all(test);
		EXPECT_WALK(test, other, PAGE_SIZE, c->from, c->to);
		/* what nobody has changed could not be told from before */
		EXPECT_WALK(test, io, PAGE_SIZE, 0, 0);
	}
}

/* The huge zero page is different, other pages take its place */
static void test_split_huge_zero_page(struct kunit *test)
{
	unsigned long addr = nt_map_huge_zero(test), io = addr + 5 * PAGE_SIZE;
	struct nopin_range *range;
	struct nt_op *op;

	KUNIT_ASSERT_EQ(test, nt_enter_at(test, io, 1, NOPIN_TO_DEVICE), 0);
	range = nopin_mm_find(current->mm, addr);
	op = nt_mapping(test, nt_op_protect, 0, addr + 100 * PAGE_SIZE,
			PAGE_SIZE);
	EXPECT_RET(test, op, 0);
	KUNIT_EXPECT_FALSE(test, nt_is_huge(addr));
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range,
		     nopin_index(range, io), 1, NOPIN_TO_DEVICE);
	KUNIT_EXPECT_TRUE(test, nt_was_pinned(io, NOPIN_TO_DEVICE));
	nt_leave_all(test);
	nt_expect_opens(test, range, nopin_index(range, io), NOPIN_TO_DEVICE);
	EXPECT_WALK(test, io, PAGE_SIZE, -EFAULT, 0);
}

/* R9: writeback waits for devices that write memory, and for no others */
static void test_mkclean_waits(struct kunit *test)
{
	unsigned long addr = nt_map_shmem(test, 4 * PAGE_SIZE, MAP_SHARED);
	struct nt_op *op;

	nt_write(test, addr, 4 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr, 4 * PAGE_SIZE,
					  NOPIN_FROM_DEVICE), 0);
	op = nt_mapping(test, nt_op_mkclean, 0, addr + PAGE_SIZE, 0);
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	nt_leave_all(test);
	EXPECT_RET(test, op, 1);
	EXPECT_WALK(test, addr, PAGE_SIZE, 0, 0);
	EXPECT_WALK(test, addr + PAGE_SIZE, PAGE_SIZE, -EFAULT, 0);

	nt_write(test, addr, 4 * PAGE_SIZE);
	EXPECT_WALK(test, addr, 4 * PAGE_SIZE, 0, 0);
	KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr, 4 * PAGE_SIZE,
					  NOPIN_TO_DEVICE), 0);
	op = nt_mapping(test, nt_op_mkclean, 0, addr + PAGE_SIZE, 0);
	EXPECT_RET(test, op, 1);
	nt_check_pages(test, addr, 4 * PAGE_SIZE);
	nt_leave_all(test);
	EXPECT_WALK(test, addr + PAGE_SIZE, PAGE_SIZE, -EFAULT, 0);
}

/* What takes too long is pinned, and the process gets on with its change */
static void test_change_pins(struct kunit *test)
{
	const struct nt_change_case *c = test->param_value;
	struct nopin_range *range;
	enum nopin_dir dir;
	struct page *page;
	unsigned int i, n;
	struct nt_op *op;
	bool shmem;

	for (n = 0; n < 4; n++) {
		unsigned long addr;

		dir = n % 2;
		shmem = n / 2;
		/* so long it does take only if there is something in it */
		WRITE_ONCE(nopin_rmap_wait_ms,
			   dir == NOPIN_FROM_DEVICE && (shmem || c->waits) ?
			   2 : LONG_WAIT_MS);
		addr = nt_map_kind(test, shmem, 24 * PAGE_SIZE);
		page = enter_page(test, addr + 7 * PAGE_SIZE, 2, dir);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr);

		op = nt_mapping(test, c->fn, 0, addr, 8 * PAGE_SIZE);
		EXPECT_RET(test, op, 0);
		KUNIT_EXPECT_TRUE(test, nt_is_pinned(page));
		/* twice does not make a difference */
		op = nt_mapping(test, nt_op_munmap, 0, addr, 8 * PAGE_SIZE);
		KUNIT_EXPECT_TRUE(test, nt_done(op));

		/* nobody gets in, not even the other way, and only there */
		EXPECT_ENTER(test, range, i + 7, 1, dir, -EAGAIN);
		EXPECT_OPEN(test, range, i + 7, 1, dir, true, -EBUSY);
		EXPECT_OPEN(test, range, i + 7, 1, !dir, true, -EBUSY);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, i + 7, 1, dir);
		EXPECT_OPEN(test, range, i + 8, 1, dir, true, 0);
		EXPECT_STATE(test, 1, range, i + 8, 1, dir);

		nt_leave_all(test);
		nt_expect_unpinned(test, page);
		nt_expect_opens(test, range, i + 7, dir);
		nt_expect_opens(test, range, i + 7, !dir);
		EXPECT_WALK(test, addr + 7 * PAGE_SIZE, 1, -EFAULT, -EFAULT);
		EXPECT_WALK(test, addr + 8 * PAGE_SIZE, 1, 0, 0);
		put_page(page);
	}
}

/* The OOM reaper and reclaim do not wait for what cannot be refused: pinned */
static void test_no_wait_pins(struct kunit *test)
{
	static const unsigned int hows[] = { NONBLOCK, MEMALLOC };
	struct nopin_range *range;
	enum nopin_dir dir;
	struct page *page;
	unsigned int i, n;
	struct nt_op *op;

	for (n = 0; n < 8; n++) {
		unsigned int how = hows[n / 4];
		bool shmem = n / 2 % 2;
		unsigned long addr;

		dir = n % 2;
		addr = nt_map_kind(test, shmem, 8 * PAGE_SIZE);
		page = enter_page(test, addr + 3 * PAGE_SIZE, 2, dir);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr + 3 * PAGE_SIZE);

		op = nt_inval(test, range, MMU_NOTIFY_CLEAR, how, i - 3, 4);
		EXPECT_RET(test, op, 0);
		KUNIT_EXPECT_TRUE(test, nt_is_pinned(page));
		KUNIT_EXPECT_TRUE(test, nt_was_pinned(addr + 3 * PAGE_SIZE,
						      dir));
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, i, 1, dir);
		EXPECT_STATE(test, 1, range, i + 1, 1, dir);
		nt_end(op);
		nt_leave_all(test);
		nt_expect_unpinned(test, page);
		put_page(page);
	}
}

/* One pin for all the bios of a page; the last one drops it, in an interrupt */
static void test_pin_dropped(struct kunit *test)
{
	struct nopin_range *range;
	enum nopin_dir dir;
	struct page *page;
	unsigned int i;
	struct nt_op *op;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		unsigned long addr = nt_map_kind(test, false, 8 * PAGE_SIZE);

		page = enter_page(test, addr, 1, dir);
		KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr, 2 * PAGE_SIZE,
						  dir), 0);
		KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr, 2 * PAGE_SIZE,
						  !dir), 0);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr);
		op = nt_mapping(test, nt_op_munmap, 0, addr, PAGE_SIZE);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
		KUNIT_EXPECT_TRUE(test, nt_was_pinned(addr, dir));
		KUNIT_EXPECT_TRUE(test, nt_was_pinned(addr, !dir));

		/* one pin for each direction, and this is not the last */
		nt_leave(test, range, i, 2, !dir);
		nt_expect_drops(test, addr, !dir);
		nt_leave(test, range, i, 1, dir);
		msleep(50);
		KUNIT_EXPECT_TRUE(test, nt_is_pinned(page));
		KUNIT_EXPECT_TRUE(test, nt_was_pinned(addr, dir));
		EXPECT_OPEN(test, range, i, 1, !dir, true, -EBUSY);

		nt_leave_in_irq(test, range, i, 2, dir);
		nt_expect_unpinned(test, page);
		nt_expect_opens(test, range, i, dir);
		put_page(page);
	}
}

#define PINNED_CHUNKS	6

/* Many pages of a range are pinned: each comes free with its own I/O */
static void test_many_pins(struct kunit *test)
{
	static const unsigned int order[PINNED_CHUNKS] = { 3, 0, 5, 1, 4, 2 };
	size_t len = PINNED_CHUNKS * NOPIN_CHUNK_SIZE;
	unsigned long addr = nt_map_small(test, len + NOPIN_CHUNK_SIZE), io;
	struct page *page[PINNED_CHUNKS];
	struct nopin_range *range;
	unsigned int i, j;
	struct nt_op *op;

	addr = ALIGN(addr, NOPIN_CHUNK_SIZE);
	for (i = 0; i < PINNED_CHUNKS; i++) {
		io = addr + i * (NOPIN_CHUNK_SIZE + PAGE_SIZE);
		nt_write(test, io, PAGE_SIZE);
		page[i] = enter_page(test, io, 1, i % 2);
	}
	op = nt_mapping(test, nt_op_dontneed, 0, addr, len);
	EXPECT_RET(test, op, 0);

	for (i = 0; i < PINNED_CHUNKS; i++) {
		for (j = i; j < PINNED_CHUNKS; j++)
			KUNIT_EXPECT_TRUE(test, nt_is_pinned(page[order[j]]));
		io = addr + order[i] * (NOPIN_CHUNK_SIZE + PAGE_SIZE);
		range = nopin_mm_find(current->mm, io);
		nt_leave(test, range, nopin_index(range, io), 1, order[i] % 2);
		nt_expect_unpinned(test, page[order[i]]);
		put_page(page[order[i]]);
	}
}

/* R17: the states of memory go with it, as soon as nobody uses them */
static void test_chunk_freed(struct kunit *test)
{
	unsigned long addr, io, len = NOPIN_CHUNK_SIZE;
	struct nopin_range *range;
	enum nopin_dir dir;
	struct page *page;
	unsigned int i;
	struct nt_op *op;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		addr = nt_map_chunk(test);
		io = addr + 77 * PAGE_SIZE;
		nt_write(test, addr, 100 * PAGE_SIZE);
		EXPECT_WALK(test, io, PAGE_SIZE, 0, 0);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr);
		KUNIT_EXPECT_TRUE(test, nt_has_states(range, i));

		/* the memory is there still, and may be used again */
		op = nt_mapping(test, nt_op_dontneed, 0, addr, len);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
		KUNIT_EXPECT_TRUE(test, nt_has_states(range, i));
		nt_write(test, io, PAGE_SIZE);
		op = nt_mapping(test, nt_op_protect, 0, addr, len);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
		KUNIT_EXPECT_TRUE(test, nt_has_states(range, i));
		KUNIT_ASSERT_EQ(test, nt_protect(addr, len,
						 PROT_READ | PROT_WRITE), 0);
		nt_write(test, io, PAGE_SIZE);

		/* it is gone, but not the I/O */
		page = enter_page(test, io, 1, dir);
		op = nt_mapping(test, nt_op_munmap, 0, addr, len);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
		KUNIT_EXPECT_TRUE(test, nt_is_pinned(page));
		KUNIT_EXPECT_TRUE(test, nt_has_states(range, i));
		/* no matter how long that takes */
		nopin_cache_age();
		nopin_cache_age();
		KUNIT_ASSERT_TRUE(test, nt_has_states(range, i));
		nt_leave_all(test);
		nt_expect_unpinned(test, page);
		put_page(page);
		nt_expect_drops(test, io, dir);
		/* nobody comes and unmaps it once more */
		nopin_cache_age();
		nopin_cache_age();
		KUNIT_EXPECT_FALSE(test, nt_has_states(range, i));
		/* and there is nothing to allocate it for */
		EXPECT_OPEN(test, range, i + 77, 1, dir, true, -EFAULT);
		KUNIT_EXPECT_FALSE(test, nt_has_states(range, i));

		/* with no I/O it goes at once */
		nt_map_fixed(test, addr, len);
		nt_write(test, io, PAGE_SIZE);
		EXPECT_WALK(test, io, PAGE_SIZE, 0, 0);
		op = nt_mapping(test, nt_op_munmap, 0, addr, len);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
		KUNIT_EXPECT_FALSE(test, nt_has_states(range, i));

		/* and comes back with the next one */
		nt_map_fixed(test, addr, len);
		nt_write(test, io, PAGE_SIZE);
		nt_check_at(test, io, PAGE_SIZE, dir);
		KUNIT_EXPECT_TRUE(test, nt_has_states(range, i));
		KUNIT_ASSERT_EQ(test, vm_munmap(addr, len), 0);
		KUNIT_EXPECT_FALSE(test, nt_has_states(range, i));
	}
}

/* Neither writeback nor mprotect() waits for I/O that is not prompt */
static void test_other_pins(struct kunit *test)
{
	int (*const fn[])(struct nt_op *) = { nt_op_protect, nt_op_mkclean };
	struct nt_fixture *f = test->priv;
	struct nopin_range *range;
	struct page *page;
	unsigned int i;
	struct nt_op *op;

	for (i = 0; i < 4; i++) {
		bool shmem = i < 2;
		unsigned long addr = nt_map_kind(test, shmem, 8 * PAGE_SIZE);

		/* of anonymous memory there is no writeback */
		if (!shmem && fn[i % 2] == nt_op_mkclean)
			continue;
		f->other = true;
		KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr + PAGE_SIZE,
						  2 * PAGE_SIZE,
						  NOPIN_FROM_DEVICE), 0);
		f->other = false;
		range = nopin_mm_find(current->mm, addr);
		KUNIT_EXPECT_EQ(test, nt_others(range, nopin_index(range, addr)),
				1);

		/* who can be refused is */
		op = nt_mapping(test, nt_op_migrate, 0, addr + PAGE_SIZE, 0);
		KUNIT_EXPECT_TRUE(test, nt_done(op));
		KUNIT_EXPECT_NE(test, op->ret, 0);
		KUNIT_EXPECT_FALSE(test, nt_was_pinned(addr + PAGE_SIZE,
						       NOPIN_FROM_DEVICE));
		page = nt_get_page(addr + PAGE_SIZE);
		KUNIT_ASSERT_PTR_EQ(test, page, nt_page(addr + PAGE_SIZE));

		op = nt_mapping(test, fn[i % 2], 0, addr + PAGE_SIZE,
				PAGE_SIZE);
		EXPECT_RET(test, op, fn[i % 2] == nt_op_mkclean);
		KUNIT_EXPECT_TRUE(test, nt_is_pinned(page));
		KUNIT_EXPECT_TRUE(test, nt_was_pinned(addr + PAGE_SIZE,
						      NOPIN_FROM_DEVICE));
		KUNIT_EXPECT_EQ(test, range->soon, shmem);
		if (shmem)
			folio_test_clear_dirty(page_folio(page));
		nt_leave_all(test);
		/* fsync() may be the next thing that happens */
		if (shmem) {
			KUNIT_EXPECT_FALSE(test, timer_pending(&range->unpin.timer));
			nopin_flush();
			KUNIT_EXPECT_TRUE(test, folio_test_dirty(page_folio(page)));
		}
		KUNIT_EXPECT_EQ(test, nt_others(range, nopin_index(range, addr)),
				0);
		nt_expect_unpinned(test, page);
		/* what the device wrote later is not lost */
		KUNIT_EXPECT_TRUE(test, folio_test_dirty(page_folio(page)));
		flush_delayed_work(&range->unpin);
		KUNIT_EXPECT_FALSE(test, range->soon);
		put_page(page);
	}
}

/* Prompt I/O elsewhere is waited for as ever */
static void test_other_elsewhere(struct kunit *test)
{
	unsigned long addr = nt_map_shmem(test, 3 * NOPIN_CHUNK_SIZE,
					  MAP_SHARED);
	unsigned long prompt, other;
	struct nt_fixture *f = test->priv;
	struct nopin_range *range;
	struct nt_op *op;

	other = ALIGN(addr, NOPIN_CHUNK_SIZE);
	prompt = other + NOPIN_CHUNK_SIZE;
	nt_write(test, other, PAGE_SIZE);
	nt_write(test, prompt, PAGE_SIZE);
	if (nt_is_huge(other) || nt_is_huge(prompt))
		kunit_skip(test, "shared memory is huge");
	f->other = true;
	KUNIT_ASSERT_EQ(test, nt_enter_at(test, other, 1, NOPIN_FROM_DEVICE),
			0);
	f->other = false;
	KUNIT_ASSERT_EQ(test, nt_enter_at(test, prompt, 1, NOPIN_FROM_DEVICE),
			0);

	/* one change of both is as much of a change */
	op = nt_mapping(test, nt_op_protect, 0, other, 2 * NOPIN_CHUNK_SIZE);
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	KUNIT_EXPECT_TRUE(test, nt_was_pinned(other, NOPIN_FROM_DEVICE));
	KUNIT_EXPECT_FALSE(test, nt_was_pinned(prompt, NOPIN_FROM_DEVICE));
	range = nopin_mm_find(current->mm, prompt);
	nt_leave(test, range, nopin_index(range, prompt), 1,
		 NOPIN_FROM_DEVICE);
	EXPECT_RET(test, op, 0);
	nt_leave_all(test);
}

/* What a device writes into a page that was cleaned meanwhile is not lost */
static void test_mkclean_pins(struct kunit *test)
{
	unsigned long addr = nt_map_shmem(test, 4 * PAGE_SIZE, MAP_SHARED);
	struct folio *folio;
	struct page *page;
	struct nt_op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, 2);
	nt_write(test, addr, 4 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr, 4 * PAGE_SIZE,
					  NOPIN_FROM_DEVICE), 0);
	page = nt_get_page(addr + PAGE_SIZE);
	KUNIT_ASSERT_NOT_NULL(test, page);
	folio = page_folio(page);

	op = nt_mapping(test, nt_op_mkclean, 0, addr + PAGE_SIZE, 0);
	EXPECT_RET(test, op, 1);
	KUNIT_EXPECT_TRUE(test, folio_maybe_dma_pinned(folio));
	folio_test_clear_dirty(folio);
	nt_leave_all(test);
	nt_expect_unpinned(test, page);
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folio));
	put_page(page);
}

static int op_mkclean_all(struct nt_op *op)
{
	struct nt_op sub = *op;

	for (; sub.addr < op->addr + op->len; sub.addr += PAGE_SIZE)
		nt_op_mkclean(&sub);
	return 0;
}

/* Page after page of a file: they are not waited for one after the other */
static void test_mkclean_late(struct kunit *test)
{
	unsigned long addr = nt_map_shmem(test, SMALL_LEN, MAP_SHARED);
	const unsigned int nr = SMALL_LEN / PAGE_SIZE, ms = 200;
	struct nt_op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, ms);
	nt_write(test, addr, SMALL_LEN);
	KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr, SMALL_LEN,
					  NOPIN_FROM_DEVICE), 0);
	op = nt_mapping(test, op_mkclean_all, 0, addr, SMALL_LEN);
	KUNIT_EXPECT_TRUE(test, nt_done(op));
	KUNIT_EXPECT_GE(test, op->ms, ms / 2);
	KUNIT_EXPECT_LT(test, op->ms, nr * ms / 4);
	nt_leave_all(test);
}

#ifdef CONFIG_NUMA_BALANCING
/* As the scan of NUMA balancing does it */
static int op_hint(struct nt_op *op)
{
	int mode = READ_ONCE(sysctl_numa_balancing_mode);
	struct vm_area_struct *vma;
	int ret = -EFAULT;

	/* it is off where there is one node */
	WRITE_ONCE(sysctl_numa_balancing_mode, NUMA_BALANCING_NORMAL);
	mmap_read_lock(current->mm);
	vma = vma_lookup(current->mm, op->addr);
	if (vma)
		ret = change_prot_numa(vma, op->addr, op->addr + op->len);
	mmap_read_unlock(current->mm);
	WRITE_ONCE(sysctl_numa_balancing_mode, mode);
	return ret;
}

/* A look at who uses the pages disturbs nobody; later changes do */
static void test_hint(struct kunit *test)
{
	unsigned long addr = nt_map_small(test, 4 * PAGE_SIZE);
	struct nopin_range *range;
	struct page *page;
	struct nt_op *op;

	nt_write(test, addr, 4 * PAGE_SIZE);
	page = enter_page(test, addr, 4, NOPIN_FROM_DEVICE);
	op = nt_mapping(test, op_hint, 0, addr, 4 * PAGE_SIZE);
	KUNIT_EXPECT_FALSE(test, nt_blocked(op));
	KUNIT_EXPECT_EQ(test, op->ret, 4);

	KUNIT_EXPECT_FALSE(test, nt_is_pinned(page));
	range = nopin_mm_find(current->mm, addr);
	EXPECT_STATE(test, 1, range, nopin_index(range, addr), 4,
		     NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, nt_count_known(range, nopin_index(range, addr), 4,
					     NOPIN_FROM_DEVICE), 4);

	op = nt_mapping(test, nt_op_munmap, 0, addr, PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, nt_done(op));
	KUNIT_EXPECT_TRUE(test, nt_is_pinned(page));
	nt_leave_all(test);
	nt_expect_unpinned(test, page);
	put_page(page);
}
#else
static void test_hint(struct kunit *test)
{
	kunit_skip(test, "needs CONFIG_NUMA_BALANCING");
}
#endif

/* Pages with I/O on them do not move, and move once it is done */
static void check_migration(struct kunit *test, unsigned long addr, size_t len)
{
	bool huge = nt_is_huge(addr);
	enum nopin_dir dir;
	struct page *page;
	unsigned int how;
	struct nt_op *op;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr, len, dir), 0);
		page = nt_page(addr);

		/* R4: in reclaim without a wait, otherwise after some */
		for (how = 0; how <= MEMALLOC; how += MEMALLOC) {
			WRITE_ONCE(nopin_rmap_wait_ms, how ? LONG_WAIT_MS : 2);
			op = nt_mapping(test, nt_op_migrate, how, addr, 0);
			KUNIT_EXPECT_TRUE(test, nt_done(op));
			KUNIT_EXPECT_GT(test, op->ret, 0);
			KUNIT_EXPECT_EQ(test, nt_is_huge(addr), huge);
			nt_check_pages(test, addr, len);
		}

		nt_leave_all(test);
		op = nt_mapping(test, nt_op_migrate, 0, addr, 0);
		EXPECT_RET(test, op, 0);
		KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr, len, dir), 0);
		KUNIT_EXPECT_PTR_NE(test, nt_page(addr), page);
		nt_check_pages(test, addr, len);
		nt_leave_all(test);
	}
}

/* Migration of a small page */
static void test_migration(struct kunit *test)
{
	unsigned long addr = nt_map_small(test, 4 * PAGE_SIZE);

	nt_write(test, addr, 4 * PAGE_SIZE);
	check_migration(test, addr, PAGE_SIZE);
}

/* Migration of a huge page of which one small part is used */
static void test_migration_thp(struct kunit *test)
{
	unsigned long addr = nt_map_thp(test);

	check_migration(test, addr + 3 * PAGE_SIZE, 2 * PAGE_SIZE);
}

/* A huge page is not split under I/O on a part of it, nor is its mapping */
static void test_split_thp(struct kunit *test)
{
	unsigned long addr = nt_map_thp(test), io = addr + 3 * PAGE_SIZE;
	struct page *page;
	unsigned int how;
	struct nt_op *op;

	nt_fill(test, addr, PMD_SIZE);
	KUNIT_ASSERT_EQ(test, nt_enter_at(test, io, 2 * PAGE_SIZE,
					  NOPIN_FROM_DEVICE), 0);
	page = nt_page(io);
	for (how = 0; how <= MEMALLOC; how += MEMALLOC) {
		WRITE_ONCE(nopin_rmap_wait_ms, how ? LONG_WAIT_MS : 2);
		op = nt_mapping(test, nt_op_split, how, addr, 0);
		EXPECT_RET(test, op, -EAGAIN);
		KUNIT_EXPECT_TRUE(test, nt_is_huge(addr));
		nt_check_pages(test, io, 2 * PAGE_SIZE);
	}

	nt_leave_all(test);
	op = nt_mapping(test, nt_op_split, 0, addr, 0);
	EXPECT_RET(test, op, 0);
	KUNIT_EXPECT_FALSE(test, nt_is_huge(addr));
	nt_write(test, addr, PMD_SIZE);
	nt_check_at(test, addr, 2 * PMD_SIZE, NOPIN_FROM_DEVICE);

	/* the same pages as before */
	KUNIT_ASSERT_EQ(test, nt_enter_at(test, io, 2 * PAGE_SIZE,
					  NOPIN_FROM_DEVICE), 0);
	KUNIT_EXPECT_PTR_EQ(test, nt_page(io), page);
	nt_leave_all(test);
}

/* R4: reclaim that splits a page does not wait for I/O on its neighbours */
static void test_split_beside_io(struct kunit *test)
{
	unsigned long addr = nt_map_thp(test);
	unsigned long other = addr + PMD_SIZE / 2;
	struct nt_op *op;

	nt_fill(test, addr, PMD_SIZE);
	/* half of the huge page makes room for another mapping */
	KUNIT_ASSERT_EQ(test, vm_munmap(other, PMD_SIZE / 2), 0);
	nt_map_fixed(test, other, 4 * PAGE_SIZE);
	nt_write(test, other, 4 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, nt_enter_at(test, other, 4 * PAGE_SIZE,
					  NOPIN_FROM_DEVICE), 0);

	op = nt_mapping(test, nt_op_split, MEMALLOC, addr, 0);
	KUNIT_EXPECT_TRUE(test, nt_done(op));
	nt_check_pages(test, other, 4 * PAGE_SIZE);
	nt_leave_all(test);
	EXPECT_RET(test, op, 0);
	nt_write(test, addr, PMD_SIZE / 2);
	nt_check_at(test, addr, PMD_SIZE / 2 + 4 * PAGE_SIZE,
		    NOPIN_FROM_DEVICE);
}

/* A process that exits waits for what a device writes into pages of files */
static void test_exit_waits(struct kunit *test)
{
	unsigned long addr = nt_map_shmem(test, 4 * PAGE_SIZE, MAP_SHARED);
	struct mm_struct *mm = current->mm;
	struct page *page;
	struct nt_op *op;

	nt_write(test, addr, 4 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, nt_enter_at(test, addr, 4 * PAGE_SIZE,
					  NOPIN_FROM_DEVICE), 0);
	page = nt_page(addr);
	/* the process is gone, with this reference as its last one */
	kthread_unuse_mm(mm);
	op = nt_run(test, &(struct nt_op) { .fn = nt_op_mmput, .arg = mm });
	KUNIT_EXPECT_TRUE(test, nt_blocked(op));
	if (!completion_done(&op->done)) {
		KUNIT_EXPECT_TRUE(test, folio_mapped(page_folio(page)));
		nt_leave_all(test);
	} else {
		/* the range is gone */
		((struct nt_fixture *)test->priv)->nr_entered = 0;
	}
	KUNIT_EXPECT_TRUE(test, nt_done(op));
}

/* It does not wait for the rest: that is pinned, and its range goes last */
static void test_exit_pins(struct kunit *test)
{
	unsigned long anon = nt_map_kind(test, false, 4 * PAGE_SIZE);
	unsigned long shmem = nt_map_kind(test, true, 4 * PAGE_SIZE);
	struct mm_struct *mm = current->mm;
	struct page *page[3];
	unsigned int i;
	struct nt_op *op;

	page[0] = enter_page(test, anon, 1, NOPIN_FROM_DEVICE);
	page[1] = enter_page(test, anon + 2 * PAGE_SIZE, 1, NOPIN_TO_DEVICE);
	page[2] = enter_page(test, shmem, 1, NOPIN_TO_DEVICE);
	kthread_unuse_mm(mm);
	op = nt_run(test, &(struct nt_op) { .fn = nt_op_mmput, .arg = mm });
	KUNIT_EXPECT_TRUE(test, nt_done(op));
	for (i = 0; i < ARRAY_SIZE(page); i++) {
		KUNIT_EXPECT_FALSE(test, folio_mapped(page_folio(page[i])));
		KUNIT_EXPECT_TRUE(test, nt_is_pinned(page[i]));
	}
	rcu_barrier();
	nt_leave_all(test);
	for (i = 0; i < ARRAY_SIZE(page); i++) {
		nt_expect_unpinned(test, page[i]);
		put_page(page[i]);
	}
}

static struct kunit_case mapping_cases[] = {
	KUNIT_CASE_PARAM(test_change, change_gen_params),
	KUNIT_CASE_PARAM(test_event, event_gen_params),
	KUNIT_CASE_PARAM(test_huge_change, change_gen_params),
	KUNIT_CASE(test_split_huge_zero_page),
	KUNIT_CASE(test_mkclean_waits),
	KUNIT_CASE_PARAM(test_change_pins, change_gen_params),
	KUNIT_CASE(test_no_wait_pins),
	KUNIT_CASE(test_pin_dropped),
	KUNIT_CASE(test_many_pins),
	KUNIT_CASE(test_chunk_freed),
	KUNIT_CASE(test_other_pins),
	KUNIT_CASE(test_other_elsewhere),
	KUNIT_CASE(test_mkclean_pins),
	KUNIT_CASE(test_mkclean_late),
	KUNIT_CASE(test_hint),
	KUNIT_CASE(test_migration),
	KUNIT_CASE(test_migration_thp),
	KUNIT_CASE(test_split_thp),
	KUNIT_CASE(test_split_beside_io),
	KUNIT_CASE(test_exit_waits),
	KUNIT_CASE(test_exit_pins),
	{}
};

NT_SUITE(mapping, nt_init);
