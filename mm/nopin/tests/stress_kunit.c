// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of nopin: I/O and changes by several threads, at random.
 */

#include <linux/delay.h>
#include <linux/highmem.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/random.h>
#include <linux/uaccess.h>

#include "common.h"

#define STRESS_WORKERS	3
#define STRESS_PAGES	40
#define STRESS_ROUNDS	400

/**
 * struct stress - what the threads of a stress test share
 * @range: the range
 * @first: pages @first and following are used
 * @inside: how many workers are in a page, by their own account
 * @changing: the invalidation is between start and end
 * @bad: somebody was in a page that changed
 * @workers: number of those that have begun
 * @entered: how often pages were entered
 * @waited: how often a worker found a page closed
 * @stop: enough
 */
struct stress {
	struct nopin_range	*range;
	unsigned int		first;
	atomic_t		inside[NOPIN_NR_DIRS][STRESS_PAGES];
	bool			changing[STRESS_PAGES];
	atomic_t		bad;
	atomic_t		workers;
	atomic_t		entered;
	atomic_t		waited;
	bool			stop;
};

static int op_stress_io(struct nt_op *op)
{
	struct stress *s = op->arg;
	u32 seed = atomic_inc_return(&s->workers);
	enum nopin_dir dir;
	unsigned int i;

	while (!READ_ONCE(s->stop)) {
		struct nopin_extent ext;
		unsigned int first, nr;
		int ret;

		seed = nt_random(seed);
		first = (seed >> 8) % STRESS_PAGES;
		nr = min_t(unsigned int, (seed >> 16) % 12 + 1,
			   STRESS_PAGES - first);
		dir = (seed >> 24) % NOPIN_NR_DIRS;

		while (!nt_enter_pages(s->range, s->first + first, nr, dir,
				       false, &ext)) {
			atomic_inc(&s->waited);
			ret = nt_open(s->range, s->first + first, nr, dir,
				      false);
			if (ret && ret != -EAGAIN && ret != -ETIME)
				return ret;
			cond_resched();
		}

		for (i = first; i < first + nr; i++) {
			atomic_inc(&s->inside[dir][i]);
			if (READ_ONCE(s->changing[i]))
				atomic_inc(&s->bad);
		}
		/* some I/O takes long enough for somebody to go to sleep */
		if (!(seed & 0x70))
			usleep_range(20, 100);
		for (i = first; i < first + nr; i++) {
			if (READ_ONCE(s->changing[i]))
				atomic_inc(&s->bad);
			atomic_dec(&s->inside[dir][i]);
		}
		nopin_exit(&ext, dir);
		atomic_inc(&s->entered);
		cond_resched();
	}
	return 0;
}

static int op_stress_inval(struct nt_op *op)
{
	struct stress *s = op->arg;
	unsigned int round, i;
	u32 seed = 4711;

	for (round = 0; round < STRESS_ROUNDS; round++) {
		struct mmu_notifier_range mn;
		unsigned int first, nr;

		seed = nt_random(seed);
		first = (seed >> 8) % STRESS_PAGES;
		nr = min_t(unsigned int, (seed >> 16) % 20 + 1,
			   STRESS_PAGES - first);
		/* somebody was too slow for once */
		if (!nt_inval_start_refusable(&mn, s->range, s->first + first,
					      nr))
			continue;
		for (i = first; i < first + nr; i++)
			WRITE_ONCE(s->changing[i], true);
		for (i = first; i < first + nr; i++)
			if (atomic_read(&s->inside[NOPIN_FROM_DEVICE][i]) ||
			    atomic_read(&s->inside[NOPIN_TO_DEVICE][i]))
				atomic_inc(&s->bad);
		if (!(seed & 0x30))
			usleep_range(20, 50);
		for (i = first; i < first + nr; i++)
			WRITE_ONCE(s->changing[i], false);
		nt_inval_end(&mn);
		if (!(seed & 0x300))
			usleep_range(20, 200);
		cond_resched();
	}
	return 0;
}

/* R1: nobody is in a page that changes, and nobody sleeps for good */
static void test_stress(struct kunit *test)
{
	struct nt_op *io[STRESS_WORKERS], *inval;
	unsigned long addr;
	struct stress *s;
	unsigned int i;

	s = kunit_kzalloc(test, sizeof(*s), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, s);
	addr = nt_map_fixed(test, 4UL * SZ_1G, 2 * NOPIN_CHUNK_SIZE);
	nt_write(test, addr, 2 * NOPIN_CHUNK_SIZE);
	s->range = nt_range(test, addr);
	/* on either side of the end of a chunk */
	s->first = NOPIN_CHUNK_PAGES - STRESS_PAGES / 2 - 3;

	for (i = 0; i < STRESS_WORKERS; i++)
		io[i] = nt_run(test, &(struct nt_op) {
			.fn	= op_stress_io,
			.mm	= current->mm,
			.arg	= s,
		});
	inval = nt_run(test, &(struct nt_op) {
		.fn	= op_stress_inval,
		.mm	= current->mm,
		.arg	= s,
	});
	KUNIT_EXPECT_TRUE(test, nt_done(inval));
	WRITE_ONCE(s->stop, true);
	for (i = 0; i < STRESS_WORKERS; i++)
		EXPECT_RET(test, io[i], 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&s->bad), 0);
	KUNIT_EXPECT_GT(test, atomic_read(&s->entered), 0);
	KUNIT_EXPECT_FALSE(test, nopin_mm_busy(current->mm, addr,
					       addr + 2 * NOPIN_CHUNK_SIZE));
	nt_check_at(test, addr, 2 * NOPIN_CHUNK_SIZE, NOPIN_FROM_DEVICE);
	nt_check_at(test, addr, 2 * NOPIN_CHUNK_SIZE, NOPIN_TO_DEVICE);
	kunit_info(test, "entered %d times, found closed %d times\n",
		   atomic_read(&s->entered), atomic_read(&s->waited));
}

#define CHURN_PAGES	64
#define CHURN_ROUNDS	300

/**
 * struct churn - what the two threads of the churn test share
 * @addr: memory that does not rest
 * @len: its length
 * @stop: enough
 */
struct churn {
	unsigned long	addr;
	size_t		len;
	bool		stop;
};

/* Does to a mapping what can be done to it */
static int op_churn(struct nt_op *op)
{
	struct churn *c = op->arg;
	struct nt_op sub = { .addr = c->addr };
	u32 seed = 42;
	int rounds = 0;

	while (!READ_ONCE(c->stop)) {
		unsigned long addr;
		size_t len;

		seed = nt_random(seed);
		addr = c->addr + (seed >> 8) % CHURN_PAGES * PAGE_SIZE;
		len = min_t(size_t, ((seed >> 16) % 16 + 1) * PAGE_SIZE,
			    c->addr + CHURN_PAGES * PAGE_SIZE - addr);
		sub.addr = addr;

		switch ((seed >> 24) % 8) {
		case 0:
		case 1:
		case 2:
			do_madvise(current->mm, addr, len, MADV_DONTNEED);
			break;
		case 3:
			nt_protect(addr, len, PROT_READ);
			nt_protect(addr, len, PROT_READ | PROT_WRITE);
			break;
		case 4:
			nt_op_migrate(&sub);
			break;
		case 5:
			nt_op_split(&sub);
			break;
		case 6:
			do_madvise(current->mm, addr, len, MADV_FREE);
			break;
		case 7:
			do_madvise(current->mm, c->addr, c->len,
				   MADV_COLLAPSE);
			break;
		}
		rounds++;
		cond_resched();
	}
	return rounds;
}

/* Looks for translations that nobody uses; reclaim may do so at any time */
static int op_churn_age(struct nt_op *op)
{
	struct churn *c = op->arg;
	int rounds = 0;

	while (!READ_ONCE(c->stop)) {
		if (rounds % 8)
			mmu_notifier_clear_young(current->mm, c->addr,
						 c->addr + c->len);
		else
			nopin_cache_age();
		rounds++;
		usleep_range(500, 5000);
	}
	return rounds;
}

/*
 * Does the process still see the page at @dev there? Not every look is allowed: it
 * may take a page fault to set the accessed bit, and arm64 removes an entry for a
 * moment to change its neighbours. Then GUP tells.
 */
static bool still_there(unsigned long addr, struct page *page,
			const unsigned long *dev)
{
	unsigned long cpu;
	struct page *now;

	if (!copy_from_user_nofault(&cpu, (void __user *)addr, sizeof(cpu)))
		return cpu == READ_ONCE(*dev);
	now = nt_get_page(addr);
	if (now)
		put_page(now);
	return now == page;
}

/* I/O on each address is done @repeat times, so that some find it known */
static void churn(struct kunit *test, unsigned int repeat)
{
	unsigned int served = 0, refused = 0, pinned = 0, bad = 0, hits = 0, i;
	struct nt_fixture *f = test->priv;
	struct nt_op *op, *age;
	enum nopin_dir dir;
	struct churn *c;
	u32 seed = 7;

	c = kunit_kzalloc(test, sizeof(*c), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, c);
	c->len = PMD_SIZE;
	c->addr = ALIGN(nt_map_anon(test, 2 * PMD_SIZE), PMD_SIZE);
	nt_write(test, c->addr, c->len);
	WRITE_ONCE(nopin_rmap_wait_ms, 5);
	op = nt_run(test, &(struct nt_op) {
		.fn	= op_churn,
		.mm	= current->mm,
		.arg	= c,
	});
	age = nt_run(test, &(struct nt_op) {
		.fn	= op_churn_age,
		.mm	= current->mm,
		.arg	= c,
	});

	for (i = 0; i < CHURN_ROUNDS * repeat; i++) {
		unsigned int opens = f->opens;
		unsigned long addr, *dev;
		struct page *page;

		if (i % repeat == 0)
			seed = nt_random(seed);
		dir = seed >> 31;
		addr = c->addr + (seed >> 8) % CHURN_PAGES * PAGE_SIZE +
		       (seed >> 16) % 32 * sizeof(*dev);

		/* the mapping may be read-only for the moment */
		if (fault_in_safe_writeable((char __user *)addr, sizeof(*dev)) ||
		    nt_enter_at(test, addr, sizeof(*dev), dir)) {
			refused++;
			cond_resched();
			continue;
		}
		served++;
		hits += f->opens == opens;
		page = nt_page(addr);
		dev = kmap_local_page(page) + offset_in_page(addr);
		if (dir == NOPIN_FROM_DEVICE)
			WRITE_ONCE(*dev, seed + i);
		if (!(seed & 0x700))
			usleep_range(50, 200);
		if (!still_there(addr, page, dev)) {
			if (nt_was_pinned(addr, dir))
				pinned++;
			else
				bad++;
		}
		kunmap_local(dev);
		nt_leave_all(test);
		cond_resched();
	}
	WRITE_ONCE(c->stop, true);
	KUNIT_EXPECT_TRUE(test, nt_done(op));
	KUNIT_EXPECT_TRUE(test, nt_done(age));
	KUNIT_EXPECT_EQ(test, bad, 0);
	KUNIT_EXPECT_GT(test, served, 0);
	if (repeat > 1)
		KUNIT_EXPECT_GT(test, hits, 0);
	kunit_info(test, "served %u (known: %u), refused %u, pinned %u, %d changes\n",
		   served, hits, refused, pinned, op->ret);
}

/*
 * R1: the process sees what the device wrote, as long as a page is entered and
 * not pinned
 */
static void test_churn(struct kunit *test)
{
	churn(test, 1);
}

/* The same of translations that are kept, while all is changing */
static void test_cached_churn(struct kunit *test)
{
	churn(test, 4);
}

static struct kunit_case stress_cases[] = {
	KUNIT_CASE(test_stress),
	KUNIT_CASE(test_churn),
	KUNIT_CASE(test_cached_churn),
	{}
};

NT_SUITE(stress, nt_init);
