// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of direct I/O without page pins.
 *
 * nopin-protocol: I/O against invalidations, on an mm without mappings, where
 * all that happens to a page is what the test does. Nobody relies on a page
 * that is not mapped, so only those wait there who can be refused.
 * nopin-walk: translation of real mappings.
 * nopin-mapping: what the rest of mm does to mappings with I/O on them.
 * nopin-cache: translations that are kept from one I/O to the next.
 *
 * Whatever may have to wait runs in a thread of its own (an "op"), and the test
 * looks whether it is blocked, does the next step, and looks again. Threads and
 * entered pages are kept in the fixture and cleaned up by its exit handler, so
 * that a failed assertion does not leave anybody waiting.
 *
 * Rule numbers are those of Documentation/mm/nopin.rst.
 */

#include <kunit/test.h>
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/hrtimer.h>
#include <linux/huge_mm.h>
#include <linux/hugetlb.h>
#include <linux/io.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/nopin.h>
#include <linux/pagemap.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/sysctl.h>
#include <linux/secretmem.h>
#include <linux/shmem_fs.h>
#include <linux/sizes.h>
#include <linux/swap.h>
#include <linux/syscalls.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <asm/tlb.h>
#ifdef CONFIG_X86_64
#include <asm/syscall.h>
#endif

#include "../internal.h"
#include "nopin.h"

/* The range of the protocol tests: no alignment, and a short last chunk */
#define RANGE_START	(SZ_1G + 3 * PAGE_SIZE)
#define RANGE_PAGES	(2 * NOPIN_CHUNK_PAGES + 5)

/* An op that can make progress does so in much less */
#define OP_TIMEOUT	(20 * HZ)
/* What nobody waits out, in all tests that do not set it */
#define LONG_WAIT_MS	(60 * MSEC_PER_SEC)

#define MAX_ENTERED	256

#define NOWAIT		NOPIN_OPEN_NOWAIT

/**
 * struct entered - pages that a test has entered
 * @range: where
 * @first: as for nopin_enter()
 * @nr: as for nopin_enter()
 * @dir: as for nopin_enter()
 * @other: by nopin_enter_other() instead
 */
struct entered {
	struct nopin_range	*range;
	unsigned int		first;
	unsigned int		nr;
	enum nopin_dir		dir;
	bool			other;
};

/**
 * struct fixture - what every test has
 * @mm: address space of the protocol and cache tests, otherwise NULL
 * @range: a range of it
 * @cached: in the cache tests, a range of it that is found by address
 * @hits: translations that were known, in the churn test of the cache
 * @other: the I/O of the test is not prompt
 * @entered: pages that are entered
 * @nr_entered: number of them
 * @ops: all &struct op
 * @rmap_wait_ms: value to restore
 * @first_ios: value to restore
 */
struct fixture {
	struct mm_struct	*mm;
	struct nopin_range	*range;
	struct nopin_range	*cached;
	unsigned int		hits;
	bool			other;
	struct entered		entered[MAX_ENTERED];
	unsigned int		nr_entered;
	struct list_head	ops;
	unsigned int		rmap_wait_ms;
	unsigned int		first_ios;
};

/**
 * struct op - something that runs in a thread because it may wait
 * @fn: what; its return value goes to @ret
 * @mm: mm to use meanwhile, if any
 * @memalloc: run as PF_MEMALLOC
 * @nonblock: use mmu_notifier_invalidate_range_start_nonblock()
 * @mn: invalidation to start
 * @active: the invalidation was started and did not end
 * @range: argument
 * @first: argument
 * @nr: argument
 * @dir: argument
 * @addr: argument
 * @len: argument
 * @arg: argument
 * @ret: result, valid when done
 * @ms: time it took, valid when done
 * @task: the thread
 * @done: @fn has returned
 * @list: in &fixture.ops
 */
struct op {
	int			(*fn)(struct op *op);
	struct mm_struct	*mm;
	bool			memalloc;
	bool			nonblock;
	struct mmu_notifier_range mn;
	bool			active;
	struct nopin_range	*range;
	unsigned int		first;
	unsigned int		nr;
	enum nopin_dir		dir;
	unsigned long		addr;
	size_t			len;
	void			*arg;
	int			ret;
	s64			ms;
	struct task_struct	*task;
	struct completion	done;
	struct list_head	list;
};

/* Ops */

static int op_thread(void *data)
{
	ktime_t start = ktime_get();
	unsigned int flags = 0;
	struct op *op = data;

	if (op->mm)
		kthread_use_mm(op->mm);
	if (op->memalloc)
		flags = memalloc_noreclaim_save();
	op->ret = op->fn(op);
	if (op->memalloc)
		memalloc_noreclaim_restore(flags);
	op->ms = ktime_ms_delta(ktime_get(), start);
	if (op->mm) {
		kthread_unuse_mm(op->mm);
		mmput(op->mm);
	}
	complete_all(&op->done);
	return 0;
}

static struct op *op_run(struct kunit *test, const struct op *template)
{
	struct fixture *f = test->priv;
	struct task_struct *task;
	struct op *op;

	op = kunit_kmalloc(test, sizeof(*op), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, op);
	*op = *template;
	init_completion(&op->done);
	task = kthread_create(op_thread, op, "nopin_test_op");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
	op->task = get_task_struct(task);
	if (op->mm)
		mmget(op->mm);
	list_add_tail(&op->list, &f->ops);
	wake_up_process(task);
	return op;
}

/* Does it wait for something that only the test can bring about? */
static bool op_blocked(struct op *op)
{
	unsigned int i;

	for (i = 0; i < 5000 && !completion_done(&op->done); i++) {
		if (READ_ONCE(op->task->__state) == TASK_UNINTERRUPTIBLE)
			break;
		usleep_range(200, 1000);
	}
	msleep(20);
	return !completion_done(&op->done);
}

static bool op_done(struct op *op)
{
	return wait_for_completion_timeout(&op->done, OP_TIMEOUT);
}

static int op_invalidate_fn(struct op *op)
{
	int ret = 0;

	if (op->nonblock)
		ret = mmu_notifier_invalidate_range_start_nonblock(&op->mn);
	else if (op->mn.flags & MMU_NOTIFIER_RANGE_REFUSABLE)
		ret = mmu_notifier_invalidate_range_start_refusable(&op->mn);
	else
		mmu_notifier_invalidate_range_start(&op->mn);
	op->active = !ret;
	return ret;
}

/* The end of an invalidation that an op has started */
static void op_end(struct op *op)
{
	if (!op_done(op) || !op->active)
		return;
	op->active = false;
	mmu_notifier_invalidate_range_end(&op->mn);
}

static int op_open_fn(struct op *op)
{
	return nopin_open(op->range, op->first, op->nr, op->dir, 0);
}

static int op_mmput_fn(struct op *op)
{
	mmput(op->arg);
	return 0;
}

/* Entering pages, opening them first */

static int enter(struct kunit *test, struct nopin_range *range,
		 unsigned int first, unsigned int nr, enum nopin_dir dir)
{
	struct fixture *f = test->priv;
	int ret;

	KUNIT_ASSERT_LT(test, f->nr_entered, MAX_ENTERED);
	if (f->other)
		ret = nopin_enter_other(range, first, nr, dir);
	else
		ret = nopin_enter(range, first, nr, dir);
	if (!ret)
		f->entered[f->nr_entered++] = (struct entered) {
			.range	= range,
			.first	= first,
			.nr	= nr,
			.dir	= dir,
			.other	= f->other,
		};
	return ret;
}

static void exit_entered(const struct entered *e)
{
	if (e->other)
		nopin_exit_other(e->range, e->first, e->nr, e->dir);
	else
		nopin_exit(e->range, e->first, e->nr, e->dir);
}

/* Somebody else is going to call nopin_exit() */
static struct entered forget(struct kunit *test, struct nopin_range *range,
			     unsigned int first, unsigned int nr,
			     enum nopin_dir dir)
{
	struct fixture *f = test->priv;
	struct entered *e, ret = {};

	for (e = f->entered; e < f->entered + f->nr_entered; e++) {
		if (e->range != range || e->first != first || e->nr != nr ||
		    e->dir != dir)
			continue;
		ret = *e;
		*e = f->entered[--f->nr_entered];
		return ret;
	}
	KUNIT_FAIL_AND_ABORT(test, "pages %u+%u were not entered", first, nr);
	return ret;
}

static void leave(struct kunit *test, struct nopin_range *range,
		  unsigned int first, unsigned int nr, enum nopin_dir dir)
{
	struct entered e = forget(test, range, first, nr, dir);

	exit_entered(&e);
}

static void leave_all(struct fixture *f)
{
	while (f->nr_entered)
		exit_entered(&f->entered[--f->nr_entered]);
}

/* How nopin_open() is to be called for the I/O of the test */
static unsigned int open_flags(struct kunit *test)
{
	struct fixture *f = test->priv;

	return f->other ? NOPIN_OPEN_OTHER : 0;
}

static void open_pages(struct kunit *test, struct nopin_range *range,
		       unsigned int first, unsigned int nr, enum nopin_dir dir)
{
	KUNIT_ASSERT_EQ(test, nopin_open(range, first, nr, dir,
					 NOWAIT | open_flags(test)), 0);
}

static void open_range(struct kunit *test, struct nopin_range *range)
{
	open_pages(test, range, 0, range->nr_pages, NOPIN_FROM_DEVICE);
	open_pages(test, range, 0, range->nr_pages, NOPIN_TO_DEVICE);
}

/* A page that was pinned can be opened again soon after the last exit */
static void expect_opens(struct kunit *test, struct nopin_range *range,
			 unsigned int page, enum nopin_dir dir)
{
	unsigned int i;
	int ret;

	for (i = 0; i < 1000; i++) {
		ret = nopin_open(range, page, 1, dir, NOWAIT);
		if (ret != -EBUSY)
			break;
		msleep(20);
	}
	KUNIT_EXPECT_EQ(test, ret, 0);
}

/* The state of a page, as it is kept, but for the bit about its translation */
static u8 state(struct nopin_range *range, unsigned int page,
		enum nopin_dir dir)
{
	u64 word = NOPIN_CLOSED;
	struct nopin_chunk *chunk;

	rcu_read_lock();
	chunk = nopin_chunk(range, page);
	if (chunk)
		word = atomic64_read(nopin_word(chunk, page, dir)) & ~NOPIN_OLD;
	rcu_read_unlock();
	return word >> (page % NOPIN_PAGES_PER_WORD * NOPIN_PAGE_BITS);
}

/* Has that chunk any states? */
static bool has_states(struct nopin_range *range, unsigned int page)
{
	return nopin_chunk(range, page);
}

/* How many bios that are not prompt are in the chunk of that page? */
static int others(struct nopin_range *range, unsigned int page)
{
	struct nopin_chunk *chunk;
	int ret = 0;

	rcu_read_lock();
	chunk = nopin_chunk(range, page);
	if (chunk)
		ret = atomic_read(&chunk->other);
	rcu_read_unlock();
	return ret;
}

/* The first of the pages that has another state, or -1 */
static int first_not(u8 byte, struct nopin_range *range, unsigned int first,
		     unsigned int nr, enum nopin_dir dir)
{
	unsigned int page;

	for (page = first; page < first + nr; page++)
		if (state(range, page, dir) != byte)
			return page;
	return -1;
}

#define EXPECT_STATE(test, byte, range, first, nr, dir) \
	KUNIT_EXPECT_EQ(test, first_not(byte, range, first, nr, dir), -1)

/* Invalidations, by page of a range; @first may lie before it */

static void inval_init(struct mmu_notifier_range *mn,
		       struct nopin_range *range,
		       enum mmu_notifier_event event, unsigned int flags,
		       long first, long nr)
{
	unsigned long start = range->start + first * (long)PAGE_SIZE;

	mmu_notifier_range_init(mn, event, flags, range->notifier.mm, start,
				start + nr * PAGE_SIZE);
}

static void inval_start(struct mmu_notifier_range *mn,
			struct nopin_range *range, long first, long nr)
{
	inval_init(mn, range, MMU_NOTIFY_UNMAP, 0, first, nr);
	mmu_notifier_invalidate_range_start(mn);
}

/* The same of somebody who can be refused; whether that was not so */
static bool inval_start_refusable(struct mmu_notifier_range *mn,
				  struct nopin_range *range, long first,
				  long nr)
{
	inval_init(mn, range, MMU_NOTIFY_CLEAR, MMU_NOTIFIER_RANGE_REFUSABLE,
		   first, nr);
	return !mmu_notifier_invalidate_range_start_refusable(mn);
}

#define inval_end	mmu_notifier_invalidate_range_end

/* How an invalidation comes about, besides plainly */
#define REFUSABLE	BIT(0)
#define MEMALLOC	BIT(1)
#define NONBLOCK	BIT(2)

static struct op *op_inval(struct kunit *test, struct nopin_range *range,
			   enum mmu_notifier_event event, unsigned int how,
			   long first, long nr)
{
	struct op op = {
		.fn		= op_invalidate_fn,
		.memalloc	= how & MEMALLOC,
		.nonblock	= how & NONBLOCK,
	};

	inval_init(&op.mn, range, event,
		   how & REFUSABLE ? MMU_NOTIFIER_RANGE_REFUSABLE : 0,
		   first, nr);
	return op_run(test, &op);
}

/* As from try_to_unmap(), with or without MEMALLOC */
static struct op *op_rmap(struct kunit *test, struct nopin_range *range,
			  unsigned int how, long first, long nr)
{
	return op_inval(test, range, MMU_NOTIFY_CLEAR, REFUSABLE | how, first,
			nr);
}

static struct op *op_open(struct kunit *test, struct nopin_range *range,
			  unsigned int first, unsigned int nr,
			  enum nopin_dir dir)
{
	return op_run(test, &(struct op) {
		.fn	= op_open_fn,
		.range	= range,
		.first	= first,
		.nr	= nr,
		.dir	= dir,
	});
}

/* Fixture */

static int fixture_init(struct kunit *test)
{
	struct fixture *f;

	f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	if (!f)
		return -ENOMEM;
	INIT_LIST_HEAD(&f->ops);
	f->rmap_wait_ms = nopin_rmap_wait_ms;
	WRITE_ONCE(nopin_rmap_wait_ms, LONG_WAIT_MS);
	f->first_ios = nopin_first_ios;
	WRITE_ONCE(nopin_first_ios, 0);
	test->priv = f;
	return 0;
}

static int protocol_init(struct kunit *test)
{
	struct nopin_range *range;
	struct fixture *f;
	int ret;

	ret = fixture_init(test);
	if (ret)
		return ret;
	f = test->priv;
	f->mm = mm_alloc();
	if (!f->mm)
		return -ENOMEM;
	range = nopin_range_create(f->mm, RANGE_START, RANGE_PAGES);
	if (IS_ERR(range))
		return PTR_ERR(range);
	f->range = range;
	return 0;
}

static void fixture_exit(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct op *op;

	if (!f)
		return;
	leave_all(f);
	list_for_each_entry(op, &f->ops, list) {
		if (!op_done(op)) {
			/* it still uses all of this */
			kunit_err(test, "hangs: %ps\n", op->fn);
			return;
		}
		op_end(op);
		put_task_struct(op->task);
	}
	if (f->range)
		nopin_range_destroy(f->range);
	if (f->mm)
		mmput(f->mm);
	/* So that a report of a wrong access comes with its test */
	rcu_barrier();
	WRITE_ONCE(nopin_rmap_wait_ms, f->rmap_wait_ms);
	WRITE_ONCE(nopin_first_ios, f->first_ios);
}

/*
 * nopin-protocol
 */

/* Pages nobody has looked at yet might be in the middle of an invalidation */
static void test_starts_closed(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir, other;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		other = NOPIN_NR_DIRS - 1 - dir;
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0, RANGE_PAGES,
			     dir);
		KUNIT_EXPECT_EQ(test, enter(test, range, 1, 1, dir), -EAGAIN);
		open_pages(test, range, 1, 1, dir);
		KUNIT_EXPECT_EQ(test, enter(test, range, 1, 1, dir), 0);

		/* the other direction, and other chunks */
		EXPECT_STATE(test, dir ? 0 : NOPIN_PAGE_CLOSED, range, 0, 8,
			     other);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 8,
			     RANGE_PAGES - 8, dir);
		KUNIT_EXPECT_EQ(test, enter(test, range, NOPIN_CHUNK_PAGES, 1,
					    dir), -EAGAIN);
		leave(test, range, 1, 1, dir);
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
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int i, n;

	open_range(test, range);
	for (i = 0; i < 2 * ARRAY_SIZE(spans); i++) {
		unsigned int first = spans[i / 2].first;
		unsigned int nr = spans[i / 2].nr;
		unsigned int end = first + nr;

		dir = i % 2;
		for (n = 1; n <= 3; n++) {
			KUNIT_EXPECT_EQ(test, enter(test, range, first, nr,
						    dir), 0);
			EXPECT_STATE(test, n, range, first, nr, dir);
		}
		EXPECT_STATE(test, 0, range, 0, first, dir);
		EXPECT_STATE(test, 0, range, end, RANGE_PAGES - end, dir);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, !dir);

		while (--n)
			leave(test, range, first, nr, dir);
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
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;
	unsigned int i, page;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		page = pages[i];
		open_range(test, range);
		inval_start(&mn, range, page, 1);
		inval_end(&mn);
		KUNIT_EXPECT_EQ(test, enter(test, range, 0, RANGE_PAGES,
					    NOPIN_FROM_DEVICE), -EAGAIN);
		EXPECT_STATE(test, 0, range, 0, page, NOPIN_FROM_DEVICE);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, page, 1,
			     NOPIN_FROM_DEVICE);
		EXPECT_STATE(test, 0, range, page + 1, RANGE_PAGES - page - 1,
			     NOPIN_FROM_DEVICE);
	}
}

/* R16: a full count is refused and does not spill into CLOSED or a neighbour */
static void test_count_full(struct kunit *test)
{
	static const unsigned int pages[] = { 3, 7, NOPIN_CHUNK_PAGES };
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int i, n;
	struct op *op;

	open_range(test, range);
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		unsigned int page = pages[i];

		dir = i % NOPIN_NR_DIRS;
		for (n = 0; n < NOPIN_PAGE_MAX; n++)
			KUNIT_EXPECT_EQ(test, enter(test, range, page, 1, dir),
					0);
		KUNIT_EXPECT_EQ(test, enter(test, range, page, 1, dir),
				-EBUSY);
		KUNIT_EXPECT_EQ(test, enter(test, range, page - 2, 9, dir),
				-EBUSY);
		KUNIT_EXPECT_EQ(test, enter(test, range, 0, RANGE_PAGES, dir),
				-EBUSY);
		EXPECT_STATE(test, NOPIN_PAGE_MAX, range, page, 1, dir);
		EXPECT_STATE(test, 0, range, 0, page, dir);
		EXPECT_STATE(test, 0, range, page + 1, RANGE_PAGES - page - 1,
			     dir);

		/* the neighbours and the other direction have room */
		KUNIT_EXPECT_EQ(test, enter(test, range, page + 1, 1, dir), 0);
		KUNIT_EXPECT_EQ(test, enter(test, range, page - 1, 1, dir), 0);
		KUNIT_EXPECT_EQ(test, enter(test, range, page, 1, !dir), 0);
		leave_all(f);

		/* and an invalidation waits for each */
		for (n = 0; n < NOPIN_PAGE_MAX; n++)
			KUNIT_EXPECT_EQ(test, enter(test, range, page, 1, dir),
					0);
		op = op_rmap(test, range, 0, page, 1);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | NOPIN_PAGE_MAX, range,
			     page, 1, dir);
		while (--n)
			leave(test, range, page, 1, dir);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		leave(test, range, page, 1, dir);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		op_end(op);
		open_range(test, range);
	}
}

/* An invalidation that does not end does not hold up I/O for ever */
static void test_open_timeout(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;
	unsigned long since;
	enum nopin_dir dir;

	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		inval_start(&mn, range, 4, 1);
		KUNIT_EXPECT_EQ(test, nopin_open(range, 4, 1, dir, NOWAIT),
				-EAGAIN);
		since = jiffies;
		KUNIT_EXPECT_EQ(test, nopin_open(range, 4, 1, dir, 0),
				-ETIME);
		KUNIT_EXPECT_LT(test, jiffies - since, 10 * HZ);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 4, 1, dir);
		inval_end(&mn);
		KUNIT_EXPECT_EQ(test, nopin_open(range, 4, 1, dir, 0), 0);
		EXPECT_STATE(test, 0, range, 4, 1, dir);
		open_range(test, range);
	}
}

/* Pages can be opened while others are being invalidated, next to them even */
static void test_open_beside(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range a, b, hint;
	enum nopin_dir dir;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		open_range(test, range);
		inval_start(&a, range, 0, RANGE_PAGES);
		inval_end(&a);

		inval_start(&a, range, 4, 1);
		inval_start(&b, range, 30, 2);
		inval_init(&hint, range, MMU_NOTIFY_PROTECTION_VMA,
			   MMU_NOTIFIER_RANGE_HINT, 0, RANGE_PAGES);
		mmu_notifier_invalidate_range_start(&hint);

		/* the page itself */
		KUNIT_EXPECT_EQ(test, nopin_open(range, 3, 1, dir, 0), 0);
		EXPECT_STATE(test, 0, range, 3, 1, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0, 3, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 4, 28, dir);
		/* or those in the same word */
		KUNIT_EXPECT_EQ(test, nopin_open(range, 20, 1, dir, 0), 0);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 4, 12, dir);
		EXPECT_STATE(test, 0, range, 16, 8, dir);
		/* of several none */
		KUNIT_EXPECT_EQ(test, nopin_open(range, 2, 4, dir, NOWAIT),
				-EAGAIN);
		KUNIT_EXPECT_EQ(test, nopin_open(range, 8, 23, dir, NOWAIT),
				-EAGAIN);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 4, 12, dir);

		/* the end of the one does not wait for that of the other */
		inval_end(&a);
		KUNIT_EXPECT_EQ(test, nopin_open(range, 2, 4, dir, 0), 0);
		EXPECT_STATE(test, 0, range, 0, 8, dir);
		KUNIT_EXPECT_EQ(test, nopin_open(range, 31, 1, dir, NOWAIT),
				-EAGAIN);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 24, 8, dir);
		mmu_notifier_invalidate_range_end(&hint);
		inval_end(&b);
	}
}

/* Nobody waits again at once for what does not end */
static void test_open_crowded(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;
	unsigned long since;
	int i;

	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	open_range(test, range);
	inval_start(&mn, range, 4, 1);
	KUNIT_EXPECT_EQ(test, nopin_open(range, 4, 1, NOPIN_TO_DEVICE, 0),
			-ETIME);
	since = jiffies;
	for (i = 0; i < 50; i++)
		KUNIT_EXPECT_EQ(test, nopin_open(range, 4, 1, NOPIN_TO_DEVICE,
						 0), -ETIME);
	/* each wait would have taken more than HZ / 10 */
	KUNIT_EXPECT_LT(test, jiffies - since, 4 * HZ);
	inval_end(&mn);
	KUNIT_EXPECT_EQ(test, nopin_open(range, 4, 1, NOPIN_TO_DEVICE, 0),
			0);
}

/* Who has read PTEs after an invalidation has begun is told */
static void test_check(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct op *op;

	open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, enter(test, range, 4, 16, dir), 0);
		KUNIT_EXPECT_EQ(test, nopin_check(range, 4, 16, dir), 0);
		op = op_rmap(test, range, 0, 9, 1);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		KUNIT_EXPECT_EQ(test, nopin_check(range, 4, 16, dir), -EAGAIN);
		KUNIT_EXPECT_EQ(test, nopin_check(range, 9, 1, dir), -EAGAIN);
		KUNIT_EXPECT_EQ(test, nopin_check(range, 4, 5, dir), 0);
		KUNIT_EXPECT_EQ(test, nopin_check(range, 10, 10, dir), 0);
		leave(test, range, 4, 16, dir);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		op_end(op);
		open_range(test, range);
	}
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
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;
	enum nopin_dir dir;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(inval); i++) {
		long first = clamp_t(long, inval[i].first, 0, RANGE_PAGES);
		long end = clamp_t(long, inval[i].first + inval[i].nr, 0,
				   RANGE_PAGES);

		open_range(test, range);
		inval_start(&mn, range, inval[i].first, inval[i].nr);
		for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
			EXPECT_STATE(test, 0, range, 0, (unsigned int)first,
				     dir);
			EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range,
				     (unsigned int)first,
				     (unsigned int)(end - first), dir);
			EXPECT_STATE(test, 0, range, (unsigned int)end,
				     (unsigned int)(RANGE_PAGES - end), dir);
		}
		inval_end(&mn);
	}
}

/* R1: who waits for I/O waits for the last exit from the pages */
static void test_waits_for_exit(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct op *op;

	open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, enter(test, range, 0, 2, dir), 0);
		KUNIT_EXPECT_EQ(test, enter(test, range, 6, 20, dir), 0);
		KUNIT_EXPECT_EQ(test, enter(test, range, 12, 1, dir), 0);
		KUNIT_EXPECT_EQ(test, enter(test, range, 12, 1, dir), 0);

		op = op_rmap(test, range, 0, 12, 1);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED + 3, range, 12, 1, dir);
		KUNIT_EXPECT_EQ(test, enter(test, range, 12, 1, dir), -EAGAIN);
		/* the pages around it are not concerned */
		KUNIT_EXPECT_EQ(test, enter(test, range, 11, 1, dir), 0);
		KUNIT_EXPECT_EQ(test, enter(test, range, 13, 1, dir), 0);

		leave(test, range, 12, 1, dir);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		leave(test, range, 6, 20, dir);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		leave(test, range, 12, 1, dir);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 12, 1, dir);
		op_end(op);

		leave_all(f);
		EXPECT_STATE(test, 0, range, 0, 12, dir);
		open_range(test, range);
	}
}

/* Far apart, in both directions, and the last one decides */
static void test_waits_for_all_pages(struct kunit *test)
{
	static const unsigned int pages[] = {
		RANGE_PAGES - 1, 0, NOPIN_CHUNK_PAGES, 200,
	};
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	unsigned int i;
	struct op *op;

	open_range(test, range);
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		KUNIT_EXPECT_EQ(test, enter(test, range, pages[i], 1, i % 2),
				0);
	op = op_rmap(test, range, 0, -10, RANGE_PAGES + 20);
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		leave(test, range, pages[i], 1, i % 2);
	}
	KUNIT_EXPECT_TRUE(test, op_done(op));
	op_end(op);
}

/* Two invalidations share a wait queue, and each waits for its own pages */
static void test_two_waiters(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct op *a, *b;

	open_range(test, range);
	KUNIT_EXPECT_EQ(test, enter(test, range, 3, 1, NOPIN_FROM_DEVICE), 0);
	KUNIT_EXPECT_EQ(test, enter(test, range, 5, 1, NOPIN_FROM_DEVICE), 0);
	a = op_rmap(test, range, 0, 0, 4);
	KUNIT_EXPECT_TRUE(test, op_blocked(a));
	b = op_rmap(test, range, 0, 4, 4);
	KUNIT_EXPECT_TRUE(test, op_blocked(b));

	leave(test, range, 5, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, op_done(b));
	KUNIT_EXPECT_TRUE(test, op_blocked(a));
	leave(test, range, 3, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, op_done(a));
	op_end(a);
	op_end(b);
}

struct irq_exit {
	struct irq_work		work;
	struct entered		entered;
	bool			hardirq;
};

static void irq_exit_fn(struct irq_work *work)
{
	struct irq_exit *ie = container_of(work, struct irq_exit, work);

	ie->hardirq = in_hardirq();
	exit_entered(&ie->entered);
}

/* R5: bios end in hard interrupt context, and the exit wakes from there */
static void test_exit_in_interrupt(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct irq_exit ie = {
		.work	= IRQ_WORK_INIT_HARD(irq_exit_fn),
	};
	struct op *op;

	open_range(test, f->range);
	KUNIT_EXPECT_EQ(test, enter(test, f->range, 0, 20, NOPIN_TO_DEVICE),
			0);
	op = op_rmap(test, f->range, 0, 19, 1);
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	ie.entered = forget(test, f->range, 0, 20, NOPIN_TO_DEVICE);
	irq_work_queue(&ie.work);
	irq_work_sync(&ie.work);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_TRUE(test, ie.hardirq);
	op_end(op);
}

/* Who can take no for an answer waits for some time, and then gets it */
static void test_refused_after_patience(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct op *op;

	open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, enter(test, range, 4, 8, dir), 0);

		WRITE_ONCE(nopin_rmap_wait_ms, 100);
		op = op_rmap(test, range, 0, 6, 1);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		KUNIT_EXPECT_GE(test, op->ms, 50);
		op_end(op);

		/* the invalidation is not going on */
		open_pages(test, range, 4, 8, dir);
		EXPECT_STATE(test, 1, range, 4, 8, dir);
		KUNIT_EXPECT_EQ(test, enter(test, range, 6, 1, dir), 0);
		leave(test, range, 6, 1, dir);

		/* who comes soon after does not wait */
		WRITE_ONCE(nopin_rmap_wait_ms, LONG_WAIT_MS);
		op = op_rmap(test, range, 0, 6, 1);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		op_end(op);

		/* no longer than necessary */
		WRITE_ONCE(range->late, jiffies);
		op = op_rmap(test, range, 0, 6, 1);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		leave(test, range, 4, 8, dir);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 6, 1, dir);
		op_end(op);
		open_range(test, range);
	}
}

/* No patience at all: refused at once, and nothing is closed */
static void test_refused_without_patience(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, 0);
	open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, enter(test, range, 20, 1, dir), 0);
		op = op_rmap(test, range, 0, 0, 100);
		KUNIT_EXPECT_FALSE(test, op_blocked(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		op_end(op);
		leave(test, range, 20, 1, dir);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, dir);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, !dir);
	}
}

/* R4: reclaim never waits, is refused at once, and closes nothing */
static void test_refused_in_reclaim(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, LONG_WAIT_MS);
	open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, enter(test, range, 20, 1, dir), 0);
		op = op_rmap(test, range, MEMALLOC, 0, 100);
		KUNIT_EXPECT_FALSE(test, op_blocked(op));
		leave(test, range, 20, 1, dir);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		op_end(op);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, dir);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, !dir);
	}

	/* idle pages are not refused */
	op = op_rmap(test, range, MEMALLOC, 0, 100);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0, 100,
		     NOPIN_FROM_DEVICE);
	op_end(op);

	/* and nor is what cannot be refused; nobody waits for it either */
	open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		KUNIT_EXPECT_EQ(test, enter(test, range, 20, 1, dir), 0);
	op = op_inval(test, range, MMU_NOTIFY_UNMAP, MEMALLOC, 0, 100);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	op_end(op);
}

/*
 * Nobody relies on a page that is not mapped: there is no wait. Bios that are
 * about to look for it find out that they are late: until all of them have left,
 * nobody opens it.
 */
static void test_unmapped_page(struct kunit *test)
{
	static const unsigned int how[] = { 0, MEMALLOC, NONBLOCK };
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int i;
	struct op *op;

	for (i = 0; i < 2 * ARRAY_SIZE(how); i++) {
		dir = i % 2;
		open_range(test, range);
		KUNIT_EXPECT_EQ(test, enter(test, range, 18, 4, dir), 0);
		op = op_inval(test, range, MMU_NOTIFY_UNMAP, how[i / 2], 20, 1);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, 20, 1, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 20, 1, !dir);
		EXPECT_STATE(test, 1, range, 18, 2, dir);
		op_end(op);
		KUNIT_EXPECT_EQ(test, nopin_check(range, 18, 4, dir), -EAGAIN);
		KUNIT_EXPECT_EQ(test, nopin_open(range, 20, 1, dir, NOWAIT),
				-EBUSY);
		KUNIT_EXPECT_EQ(test, nopin_open(range, 20, 1, !dir, NOWAIT),
				-EBUSY);
		KUNIT_EXPECT_EQ(test, nopin_check(range, 18, 4, dir), -EAGAIN);
		KUNIT_EXPECT_EQ(test, READ_ONCE(range->nr_pinned), 1);
		leave(test, range, 18, 4, dir);
		expect_opens(test, range, 20, dir);
		EXPECT_STATE(test, 0, range, 20, 1, dir);
		KUNIT_EXPECT_EQ(test, READ_ONCE(range->nr_pinned), 0);
	}
}

/* Who invalidates all of a chunk takes its states away, if no I/O is there */
static void test_chunk_in_use(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	struct mmu_notifier_range mn;
	enum nopin_dir dir;

	open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, enter(test, range, 300, 1, dir), 0);
		inval_start(&mn, range, 0, NOPIN_CHUNK_PAGES);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, 300, 1, dir);
		inval_end(&mn);
		KUNIT_ASSERT_TRUE(test, has_states(range, 0));
		leave(test, range, 300, 1, dir);
		expect_opens(test, range, 300, dir);

		/* not if a page is left out, or if it may come back */
		inval_start(&mn, range, 1, NOPIN_CHUNK_PAGES - 1);
		inval_end(&mn);
		inval_init(&mn, range, MMU_NOTIFY_CLEAR, 0, 0,
			   NOPIN_CHUNK_PAGES);
		mmu_notifier_invalidate_range_start(&mn);
		inval_end(&mn);
		KUNIT_EXPECT_TRUE(test, has_states(range, 0));

		inval_start(&mn, range, 0, NOPIN_CHUNK_PAGES);
		KUNIT_EXPECT_FALSE(test, has_states(range, 0));
		/* it does not come back before the end */
		KUNIT_EXPECT_EQ(test, nopin_open(range, 300, 1, dir, NOWAIT),
				-EAGAIN);
		KUNIT_EXPECT_EQ(test, enter(test, range, 300, 1, dir), -EAGAIN);
		inval_end(&mn);
		KUNIT_EXPECT_TRUE(test, has_states(range, NOPIN_CHUNK_PAGES));
		EXPECT_STATE(test, 0, range, NOPIN_CHUNK_PAGES,
			     RANGE_PAGES - NOPIN_CHUNK_PAGES, dir);
		open_range(test, range);
	}
}

/* I/O that is not prompt is counted, from before it enters until it has left */
static void test_other_counts(struct kunit *test)
{
	const unsigned int border = NOPIN_CHUNK_PAGES;
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	unsigned int n;

	/* there has to be room for its pins, which other I/O does not make */
	open_range(test, range);
	f->other = true;
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, enter(test, range, 5, 1, dir), -EAGAIN);
		KUNIT_EXPECT_EQ(test, others(range, 0), 0);
		EXPECT_STATE(test, 0, range, 0, 16, dir);
	}
	/* in each chunk */
	open_pages(test, range, 0, border, NOPIN_TO_DEVICE);
	KUNIT_EXPECT_EQ(test, enter(test, range, border - 1, 2,
				    NOPIN_TO_DEVICE), -EAGAIN);
	KUNIT_EXPECT_EQ(test, others(range, 0), 0);
	EXPECT_STATE(test, 0, range, border - 1, 2, NOPIN_TO_DEVICE);
	open_range(test, range);

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, enter(test, range, 5, 1, dir), 0);
		KUNIT_EXPECT_EQ(test, enter(test, range, border - 3, 9, dir),
				0);
		KUNIT_EXPECT_EQ(test, others(range, 0), 2);
		KUNIT_EXPECT_EQ(test, others(range, border), 1);
		KUNIT_EXPECT_EQ(test, others(range, 2 * border), 0);
		EXPECT_STATE(test, 1, range, border - 3, 9, dir);

		/* nobody is counted who does not get in */
		for (n = 1; n < NOPIN_PAGE_MAX; n++)
			KUNIT_EXPECT_EQ(test, enter(test, range, border, 1,
						    dir), 0);
		KUNIT_EXPECT_EQ(test, enter(test, range, 0, RANGE_PAGES, dir),
				-EBUSY);
		KUNIT_EXPECT_EQ(test, others(range, 0), 2);
		KUNIT_EXPECT_EQ(test, others(range, border), NOPIN_PAGE_MAX);
		KUNIT_EXPECT_EQ(test, others(range, 2 * border), 0);
		leave(test, range, 5, 1, dir);
		KUNIT_EXPECT_EQ(test, others(range, 0), 1);
		leave_all(f);
		KUNIT_EXPECT_EQ(test, others(range, 0), 0);
		KUNIT_EXPECT_EQ(test, others(range, border), 0);
		EXPECT_STATE(test, 0, range, 0, RANGE_PAGES, dir);
	}

	/* prompt I/O is not counted */
	f->other = false;
	KUNIT_EXPECT_EQ(test, enter(test, range, 0, RANGE_PAGES,
				    NOPIN_TO_DEVICE), 0);
	KUNIT_EXPECT_EQ(test, others(range, 0), 0);
}

/* Nobody waits for I/O that is not prompt, nor for what is next to it */
static void test_other_refuses(struct kunit *test)
{
	const unsigned int border = NOPIN_CHUNK_PAGES;
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir;
	struct op *op;

	f->other = true;
	open_range(test, range);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		f->other = true;
		KUNIT_EXPECT_EQ(test, enter(test, range, 7, 3, dir), 0);
		op = op_rmap(test, range, 0, 8, 1);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		op_end(op);
		/* having waited for nothing, it leaves all of it open */
		EXPECT_STATE(test, 1, range, 7, 3, dir);

		/* what is idle can be had all the same */
		op = op_rmap(test, range, 0, 20, 1);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		op_end(op);

		/* in another chunk, prompt I/O is waited for */
		f->other = false;
		KUNIT_EXPECT_EQ(test, enter(test, range, border + 7, 1, dir),
				0);
		op = op_rmap(test, range, 0, border, border);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		leave(test, range, border + 7, 1, dir);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		op_end(op);

		/* and here as soon as there is nothing else */
		KUNIT_EXPECT_EQ(test, enter(test, range, 100, 1, dir), 0);
		leave(test, range, 7, 3, dir);
		op = op_rmap(test, range, 0, 100, 1);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		leave(test, range, 100, 1, dir);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		op_end(op);
		open_range(test, range);
	}
}

#define BUDGET_RANGES	6

static int op_inval_each_fn(struct op *op)
{
	struct nopin_range **range = op->arg;
	struct mmu_notifier_range mn;
	unsigned int i;
	int refused = 0;

	for (i = 0; i < op->nr; i++) {
		if (inval_start_refusable(&mn, range[i], 0, 1))
			inval_end(&mn);
		else
			refused++;
	}
	return refused;
}

/* A task waits so long, wherever that is, and the next one does so as well */
static void test_budget(struct kunit *test)
{
	unsigned long start = RANGE_START + RANGE_PAGES * PAGE_SIZE;
	struct nopin_range *range[BUDGET_RANGES];
	const unsigned int ms = 400;
	struct fixture *f = test->priv;
	struct op *op, *next;
	unsigned int i;

	WRITE_ONCE(nopin_rmap_wait_ms, ms);
	for (i = 0; i < BUDGET_RANGES; i++) {
		range[i] = nopin_range_create(f->mm, start + i * SZ_1M, 8);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, range[i]);
		open_range(test, range[i]);
		KUNIT_EXPECT_EQ(test, enter(test, range[i], 0, 1, i % 2), 0);
	}
	op = op_run(test, &(struct op) {
		.fn	= op_inval_each_fn,
		.nr	= BUDGET_RANGES - 1,
		.arg	= range,
	});
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, BUDGET_RANGES - 1);
	KUNIT_EXPECT_GE(test, op->ms, ms / 2);
	KUNIT_EXPECT_LT(test, op->ms, 3 * ms);

	next = op_rmap(test, range[BUDGET_RANGES - 1], 0, 0, 1);
	KUNIT_EXPECT_TRUE(test, op_done(next));
	KUNIT_EXPECT_EQ(test, next->ret, -EAGAIN);
	KUNIT_EXPECT_GE(test, next->ms, ms / 2);
	op_end(next);

	leave_all(f);
	for (i = 0; i < BUDGET_RANGES; i++)
		nopin_range_destroy(range[i]);
}

/* Refused by the second of two ranges: the first one goes on as well */
static void test_refused_by_another_range(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range, *next;
	struct op *op;

	next = nopin_range_create(f->mm, RANGE_START + RANGE_PAGES * PAGE_SIZE,
				  3);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, next);
	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	open_range(test, range);
	open_range(test, next);

	KUNIT_EXPECT_EQ(test, enter(test, next, 0, 1, NOPIN_FROM_DEVICE), 0);
	op = op_rmap(test, range, 0, RANGE_PAGES - 10, 12);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
	op_end(op);

	open_range(test, range);
	open_range(test, next);
	KUNIT_EXPECT_EQ(test, enter(test, range, 0, RANGE_PAGES,
				    NOPIN_FROM_DEVICE), 0);
	KUNIT_EXPECT_EQ(test, enter(test, next, 0, 3, NOPIN_FROM_DEVICE), 0);
	leave_all(f);
	nopin_range_destroy(next);
}

/* R13: a page stays closed until the last invalidation of it ends */
static void test_overlapping(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir = NOPIN_FROM_DEVICE;
	struct mmu_notifier_range mn[2];
	unsigned int i;
	struct op *op;

	for (i = 0; i < 2; i++) {
		open_range(test, range);
		inval_start(&mn[0], range, 0, 4);
		inval_start(&mn[1], range, 2, 4);
		op = op_open(test, range, 0, 6, dir);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));

		inval_end(&mn[i]);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		KUNIT_EXPECT_EQ(test, nopin_open(range, 0, 6, dir, NOWAIT),
				-EAGAIN);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0, 6, dir);
		KUNIT_EXPECT_EQ(test, enter(test, range, 2, 1, dir), -EAGAIN);
		leave_all(f);

		inval_end(&mn[!i]);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		KUNIT_EXPECT_EQ(test, enter(test, range, 0, 6, dir), 0);
		leave(test, range, 0, 6, dir);
	}
}

/* An opener waits for an invalidation that itself still waits for I/O */
static void test_open_waits(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range;
	enum nopin_dir dir = NOPIN_TO_DEVICE;
	struct op *inval, *op;

	open_range(test, range);
	KUNIT_EXPECT_EQ(test, enter(test, range, 9, 1, dir), 0);
	inval = op_rmap(test, range, 0, 9, 1);
	KUNIT_EXPECT_TRUE(test, op_blocked(inval));
	op = op_open(test, range, 9, 1, dir);
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	KUNIT_EXPECT_EQ(test, nopin_open(range, 9, 1, dir, NOWAIT), -EAGAIN);
	KUNIT_EXPECT_EQ(test, enter(test, range, 9, 1, dir), -EAGAIN);

	leave_all(f);
	/* Had the page been opened already, nobody would wake the other one */
	if (completion_done(&op->done))
		wake_up_all(&range->wait);
	KUNIT_EXPECT_TRUE(test, op_done(inval));
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	op_end(inval);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	KUNIT_EXPECT_EQ(test, enter(test, range, 9, 1, dir), 0);
}

/* An invalidation elsewhere in the mm keeps nobody from opening pages */
static void test_open_other_range(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->range, *other;
	struct mmu_notifier_range mn;

	other = nopin_range_create(f->mm, RANGE_START + RANGE_PAGES * PAGE_SIZE,
				   8);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, other);
	open_range(test, other);
	inval_start(&mn, other, 0, 8);
	open_range(test, range);
	KUNIT_EXPECT_EQ(test, enter(test, range, RANGE_PAGES - 1, 1,
				    NOPIN_FROM_DEVICE), 0);
	inval_end(&mn);
	leave_all(f);
	nopin_range_destroy(other);
}

/* A range that comes in the middle of an invalidation was not told of it */
static void test_created_during_invalidation(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range;
	struct mmu_notifier_range mn;
	unsigned int i;
	struct op *op;

	/* one that no range knew of, and one that some did */
	for (i = 0; i < 2; i++) {
		inval_start(&mn, f->range, i ? 0 : RANGE_PAGES, RANGE_PAGES);
		range = nopin_range_create(f->mm, RANGE_START +
					   RANGE_PAGES * PAGE_SIZE, 8);
		KUNIT_EXPECT_NOT_ERR_OR_NULL(test, range);
		if (IS_ERR(range)) {
			inval_end(&mn);
			return;
		}
		KUNIT_EXPECT_EQ(test, nopin_open(range, 0, 8,
						 NOPIN_FROM_DEVICE, NOWAIT),
				-EAGAIN);
		KUNIT_EXPECT_EQ(test, enter(test, range, 0, 1,
					    NOPIN_FROM_DEVICE), -EAGAIN);
		op = op_open(test, range, 0, 8, NOPIN_FROM_DEVICE);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		inval_end(&mn);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		open_range(test, range);
		KUNIT_EXPECT_EQ(test, enter(test, range, 0, 8,
					    NOPIN_FROM_DEVICE), 0);
		leave(test, range, 0, 8, NOPIN_FROM_DEVICE);
		nopin_range_destroy(range);
	}
}

static int op_destroy_fn(struct op *op)
{
	nopin_range_destroy(op->range);
	return 0;
}

/* A range does not go away under an invalidation that uses it */
static void test_destroyed_during_invalidation(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range;
	struct mmu_notifier_range mn;
	struct op *op;

	range = nopin_range_create(f->mm, RANGE_START + RANGE_PAGES * PAGE_SIZE,
				   8);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, range);
	open_range(test, range);
	inval_start(&mn, range, 0, 8);
	op = op_run(test, &(struct op) {
		.fn	= op_destroy_fn,
		.range	= range,
	});
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	inval_end(&mn);
	KUNIT_EXPECT_TRUE(test, op_done(op));
}

/* Ranges side by side, shorter than a chunk and than a word */
static void test_short_ranges(struct kunit *test)
{
	unsigned long start = RANGE_START + RANGE_PAGES * PAGE_SIZE;
	struct fixture *f = test->priv;
	struct nopin_range *a, *b;
	struct op *op;

	a = nopin_range_create(f->mm, start, 3);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, a);
	b = nopin_range_create(f->mm, start + 3 * PAGE_SIZE, 1);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, b);
	open_range(test, a);
	open_range(test, b);
	KUNIT_EXPECT_EQ(test, enter(test, a, 0, 3, NOPIN_FROM_DEVICE), 0);
	KUNIT_EXPECT_EQ(test, enter(test, b, 0, 1, NOPIN_FROM_DEVICE), 0);

	op = op_rmap(test, a, 0, 2, 2);
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	leave(test, b, 0, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	leave(test, a, 0, 3, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	EXPECT_STATE(test, 0, a, 0, 2, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED, a, 2, 1, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED, b, 0, 1, NOPIN_FROM_DEVICE);
	op_end(op);
	nopin_range_destroy(a);
	nopin_range_destroy(b);
}

static int op_destroy_idle_fn(struct op *op)
{
	/* as the last of an invalidation may see it, without being woken */
	while (state(op->range, 0, NOPIN_FROM_DEVICE) & NOPIN_PAGE_MAX) {
		cpu_relax();
		cond_resched();
	}
	nopin_range_destroy(op->range);
	return 0;
}

/* R12: a range may be destroyed as soon as its count is 0, amid the exit */
static void test_destroyed_during_exit(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range;
	struct op *inval, *op;
	unsigned int i;

	/* leaves the page closed, so that the exit looks for waiters */
	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	for (i = 0; i < 30; i++) {
		range = nopin_range_create(f->mm, RANGE_START +
					   RANGE_PAGES * PAGE_SIZE, 1);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, range);
		open_range(test, range);
		KUNIT_EXPECT_EQ(test, enter(test, range, 0, 1,
					    NOPIN_FROM_DEVICE), 0);
		inval = op_rmap(test, range, 0, 0, 1);
		KUNIT_EXPECT_TRUE(test, op_done(inval));
		KUNIT_EXPECT_EQ(test, inval->ret, -EAGAIN);
		op_end(inval);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED + 1, range, 0, 1,
			     NOPIN_FROM_DEVICE);

		forget(test, range, 0, 1, NOPIN_FROM_DEVICE);
		op = op_run(test, &(struct op) {
			.fn	= op_destroy_idle_fn,
			.range	= range,
		});
		usleep_range(50, 100);
		nopin_exit(range, 0, 1, NOPIN_FROM_DEVICE);
		KUNIT_EXPECT_TRUE(test, op_done(op));
	}
}

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

static int op_stress_io_fn(struct op *op)
{
	struct stress *s = op->arg;
	u32 seed = atomic_inc_return(&s->workers);
	enum nopin_dir dir;
	unsigned int i;

	while (!READ_ONCE(s->stop)) {
		unsigned int first, nr;
		int ret;

		seed = next_pseudo_random32(seed);
		first = (seed >> 8) % STRESS_PAGES;
		nr = min_t(unsigned int, (seed >> 16) % 12 + 1,
			   STRESS_PAGES - first);
		dir = (seed >> 24) % NOPIN_NR_DIRS;

		while ((ret = nopin_enter(s->range, s->first + first, nr,
					  dir))) {
			if (ret != -EAGAIN)
				return ret;
			atomic_inc(&s->waited);
			nopin_open(s->range, s->first + first, nr, dir, 0);
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
		nopin_exit(s->range, s->first + first, nr, dir);
		atomic_inc(&s->entered);
		cond_resched();
	}
	return 0;
}

static int op_stress_inval_fn(struct op *op)
{
	struct stress *s = op->arg;
	unsigned int round, i;
	u32 seed = 4711;

	for (round = 0; round < STRESS_ROUNDS; round++) {
		struct mmu_notifier_range mn;
		unsigned int first, nr;

		seed = next_pseudo_random32(seed);
		first = (seed >> 8) % STRESS_PAGES;
		nr = min_t(unsigned int, (seed >> 16) % 20 + 1,
			   STRESS_PAGES - first);
		/* somebody was too slow for once */
		if (!inval_start_refusable(&mn, s->range, s->first + first, nr))
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
		inval_end(&mn);
		if (!(seed & 0x300))
			usleep_range(20, 200);
		cond_resched();
	}
	return 0;
}

/* R1: nobody is in a page that changes, and nobody sleeps for good */
static void test_stress(struct kunit *test)
{
	struct op *io[STRESS_WORKERS], *inval;
	struct fixture *f = test->priv;
	struct stress *s;
	unsigned int i;

	s = kunit_kzalloc(test, sizeof(*s), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, s);
	s->range = f->range;
	s->first = NOPIN_CHUNK_PAGES - STRESS_PAGES / 2 - 3;

	for (i = 0; i < STRESS_WORKERS; i++)
		io[i] = op_run(test, &(struct op) {
			.fn	= op_stress_io_fn,
			.arg	= s,
		});
	inval = op_run(test, &(struct op) {
		.fn	= op_stress_inval_fn,
		.arg	= s,
	});
	KUNIT_EXPECT_TRUE(test, op_done(inval));
	WRITE_ONCE(s->stop, true);
	for (i = 0; i < STRESS_WORKERS; i++) {
		KUNIT_EXPECT_TRUE(test, op_done(io[i]));
		KUNIT_EXPECT_EQ(test, io[i]->ret, 0);
	}
	KUNIT_EXPECT_EQ(test, atomic_read(&s->bad), 0);
	for (i = 0; i < RANGE_PAGES; i++) {
		KUNIT_EXPECT_EQ(test, state(f->range, i, NOPIN_FROM_DEVICE) &
				NOPIN_PAGE_MAX, 0);
		KUNIT_EXPECT_EQ(test, state(f->range, i, NOPIN_TO_DEVICE) &
				NOPIN_PAGE_MAX, 0);
	}
	kunit_info(test, "entered %d times, found closed %d times\n",
		   atomic_read(&s->entered), atomic_read(&s->waited));
}

/* Addresses find their range, whichever way, and no other one */
static void test_mm_lookup(struct kunit *test)
{
	unsigned long size = 1UL << NOPIN_MM_SHIFT;
	unsigned long far = (4 + NOPIN_MM_SLOTS) * size + 42;
	unsigned long top = round_down(TASK_SIZE - 1, PAGE_SIZE);
	struct fixture *f = test->priv;
	struct nopin_range *a, *b, *c, *d;
	unsigned int i;

	KUNIT_EXPECT_NULL(test, nopin_mm_find(f->mm, 4 * size));
	a = nopin_mm_get(f->mm, 5 * size - 1);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, a);
	b = nopin_mm_get(f->mm, 5 * size);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, b);
	/* the cache has the same place for this one as for the first */
	c = nopin_mm_get(f->mm, far);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, c);
	d = nopin_mm_get(f->mm, top);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, d);

	for (i = 0; i < 2; i++) {
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_find(f->mm, 4 * size), a);
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_find(f->mm, 5 * size - 1),
				    a);
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_find(f->mm, 5 * size), b);
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_find(f->mm, far), c);
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_find(f->mm, top), d);
		KUNIT_EXPECT_PTR_EQ(test, nopin_mm_get(f->mm, 4 * size), a);
		KUNIT_EXPECT_NULL(test, nopin_mm_find(f->mm, 3 * size));
		KUNIT_EXPECT_NULL(test, nopin_mm_find(f->mm, 6 * size));
	}

	KUNIT_EXPECT_EQ(test, nopin_index(a, 4 * size), 0);
	KUNIT_EXPECT_EQ(test, nopin_index(a, 4 * size + PAGE_SIZE - 1), 0);
	KUNIT_EXPECT_EQ(test, nopin_index(a, 5 * size - 1), a->nr_pages - 1);
	KUNIT_EXPECT_EQ(test, nopin_len(a, 4 * size), size);
	KUNIT_EXPECT_EQ(test, nopin_len(a, 5 * size - 1), 1);
	KUNIT_EXPECT_EQ(test, nopin_index(d, top),
			(top % size) >> PAGE_SHIFT);
	/* the states, which come with the first I/O */
	KUNIT_EXPECT_NULL(test, nopin_mm_chunk(f->mm, top));
	KUNIT_EXPECT_NULL(test, nopin_mm_chunk(f->mm, 3 * size));
	open_pages(test, d, nopin_index(d, top), 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_NOT_NULL(test, nopin_mm_chunk(f->mm, top));
	KUNIT_EXPECT_PTR_EQ(test, nopin_mm_chunk(f->mm, top),
			    nopin_chunk(d, nopin_index(d, top)));
	KUNIT_EXPECT_NULL(test, nopin_mm_chunk(f->mm, top - NOPIN_CACHE_SIZE));
	KUNIT_EXPECT_EQ(test, enter(test, d, nopin_index(d, top), 1,
				    NOPIN_FROM_DEVICE), 0);
	leave_all(f);
}

/* An invalidation across the end of a range waits on both sides */
static void test_mm_boundary(struct kunit *test)
{
	unsigned long size = 1UL << NOPIN_MM_SHIFT;
	unsigned int last = (size >> PAGE_SHIFT) - 1;
	struct fixture *f = test->priv;
	struct nopin_range *a, *b;
	struct op *op;

	a = nopin_mm_get(f->mm, 4 * size);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, a);
	b = nopin_mm_get(f->mm, 5 * size);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, b);
	open_pages(test, a, last - 1, 2, NOPIN_FROM_DEVICE);
	open_pages(test, b, 0, 2, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, enter(test, a, last, 1, NOPIN_FROM_DEVICE), 0);
	KUNIT_EXPECT_EQ(test, enter(test, b, 0, 1, NOPIN_FROM_DEVICE), 0);

	op = op_rmap(test, a, 0, last, 2);
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	leave(test, a, last, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	leave(test, b, 0, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	EXPECT_STATE(test, 0, a, last - 1, 1, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED, a, last, 1, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED, b, 0, 1, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, 0, b, 1, 1, NOPIN_FROM_DEVICE);
	op_end(op);
}

static int op_get_fn(struct op *op)
{
	op->range = nopin_mm_get(op->arg, op->addr);
	return PTR_ERR_OR_ZERO(op->range);
}

/* Threads that need a range at the same time get the same one */
static void test_mm_get_race(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct op *op[4];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(op); i++)
		op[i] = op_run(test, &(struct op) {
			.fn	= op_get_fn,
			.arg	= f->mm,
			.addr	= 7UL << NOPIN_MM_SHIFT,
		});
	for (i = 0; i < ARRAY_SIZE(op); i++) {
		KUNIT_EXPECT_TRUE(test, op_done(op[i]));
		KUNIT_EXPECT_EQ(test, op[i]->ret, 0);
		KUNIT_EXPECT_PTR_EQ(test, op[i]->range, op[0]->range);
	}
}

/* R18: the first I/Os of a process do without a notifier, and so with pins */
static void test_mm_ready(struct kunit *test)
{
	unsigned long addr = 5UL << NOPIN_MM_SHIFT;
	struct mm_struct *mm = mm_alloc();
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

static struct kunit_case protocol_cases[] = {
	KUNIT_CASE(test_starts_closed),
	KUNIT_CASE(test_counts),
	KUNIT_CASE(test_closed_page_in_extent),
	KUNIT_CASE(test_count_full),
	KUNIT_CASE(test_open_timeout),
	KUNIT_CASE(test_open_beside),
	KUNIT_CASE(test_open_crowded),
	KUNIT_CASE(test_check),
	KUNIT_CASE(test_closes_its_pages),
	KUNIT_CASE(test_waits_for_exit),
	KUNIT_CASE(test_waits_for_all_pages),
	KUNIT_CASE(test_two_waiters),
	KUNIT_CASE(test_exit_in_interrupt),
	KUNIT_CASE(test_refused_after_patience),
	KUNIT_CASE(test_refused_without_patience),
	KUNIT_CASE(test_refused_in_reclaim),
	KUNIT_CASE(test_unmapped_page),
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
	KUNIT_CASE(test_stress),
	KUNIT_CASE(test_mm_lookup),
	KUNIT_CASE(test_mm_boundary),
	KUNIT_CASE(test_mm_get_race),
	KUNIT_CASE(test_mm_ready),
	{}
};

static struct kunit_suite protocol_suite = {
	.name		= "nopin-protocol",
	.init		= protocol_init,
	.exit		= fixture_exit,
	.test_cases	= protocol_cases,
};

/*
 * nopin-walk
 */

static unsigned long map(struct kunit *test, struct file *file, size_t len,
			 unsigned long prot, unsigned long flags,
			 unsigned long offset)
{
	unsigned long addr;

	addr = kunit_vm_mmap(test, file, 0, len, prot, flags, offset);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	return addr;
}

#define map_anon(test, len) \
	map(test, NULL, len, PROT_READ | PROT_WRITE, \
	    MAP_PRIVATE | MAP_ANONYMOUS, 0)

static unsigned long map_fixed(struct kunit *test, unsigned long addr,
			       size_t len)
{
	unsigned long ret;

	ret = kunit_vm_mmap(test, NULL, addr, len, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
			    0);
	KUNIT_ASSERT_EQ(test, ret, addr);
	return ret;
}

/* Not huge, whatever the default is */
static unsigned long map_small(struct kunit *test, size_t len)
{
	unsigned long addr = map_anon(test, len);

	if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, len,
						 MADV_NOHUGEPAGE), 0);
	return addr;
}

static unsigned long map_shmem(struct kunit *test, size_t len,
			       unsigned long flags)
{
	struct file *file = shmem_file_setup("nopin_kunit", len, 0);
	unsigned long addr;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	addr = kunit_vm_mmap(test, file, 0, len, PROT_READ | PROT_WRITE, flags,
			     0);
	fput(file);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	return addr;
}

/* A page of the process's own choice, as a write by the CPU would get */
static void fault_write(struct kunit *test, unsigned long addr, size_t len)
{
	KUNIT_ASSERT_EQ(test, fault_in_safe_writeable((char __user *)addr,
						      len), 0);
}

static void fault_read(struct kunit *test, unsigned long addr, size_t len)
{
	KUNIT_ASSERT_EQ(test, fault_in_readable((char __user *)addr, len), 0);
}

/* No page is like another one, as far as KSM and zero pages go */
static void fill(struct kunit *test, unsigned long addr, size_t len)
{
	unsigned long a;

	for (a = addr; a < addr + len; a += PAGE_SIZE)
		KUNIT_ASSERT_EQ(test, put_user(a, (unsigned long __user *)a),
				0);
}

static bool maps_huge(unsigned long addr)
{
	struct mm_struct *mm = current->mm;
	bool huge = false;
	pmd_t *pmd;

	mmap_read_lock(mm);
	pmd = mm_find_pmd(mm, addr);
	if (pmd)
		huge = pmd_trans_huge(pmdp_get_lockless(pmd));
	mmap_read_unlock(mm);
	return huge;
}

/* Two huge pages; skips the test if there are none */
static unsigned long map_thp(struct kunit *test)
{
	unsigned long addr;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		kunit_skip(test, "no transparent huge pages");
	addr = ALIGN(map_anon(test, 3 * PMD_SIZE), PMD_SIZE);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, 2 * PMD_SIZE,
					 MADV_HUGEPAGE), 0);
	fault_write(test, addr, 2 * PMD_SIZE);
	if (!maps_huge(addr) || !maps_huge(addr + PMD_SIZE))
		kunit_skip(test, "no memory for transparent huge pages");
	return addr;
}

static unsigned long map_hugetlb(struct kunit *test, unsigned long size,
				 unsigned int nr, unsigned long flags)
{
#ifdef CONFIG_HUGETLB_PAGE
	struct hstate *h = size_to_hstate(size);
	unsigned long addr, overcommit;
	struct file *file;
	unsigned int i;

	if (!h)
		kunit_skip(test, "no hugetlb pages of %lu MiB", size / SZ_1M);
	if (hstate_is_gigantic(h) && h->free_huge_pages < nr)
		kunit_skip(test, "boot with hugepagesz=%luM hugepages=%u",
			   size / SZ_1M, nr);

	overcommit = h->nr_overcommit_huge_pages;
	h->nr_overcommit_huge_pages += nr;
	file = hugetlb_file_setup("nopin_kunit", nr * size, VM_NORESERVE,
				  HUGETLB_ANONHUGE_INODE, ilog2(size));
	if (IS_ERR(file))
		h->nr_overcommit_huge_pages = overcommit;
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	addr = kunit_vm_mmap(test, file, 0, nr * size, PROT_READ | PROT_WRITE,
			     flags, 0);
	fput(file);
	for (i = 0; addr && !IS_ERR_VALUE(addr) && i < nr; i++)
		fault_in_safe_writeable((char __user *)addr + i * size, 1);
	h->nr_overcommit_huge_pages = overcommit;
	if (addr == -ENOMEM)
		kunit_skip(test, "no memory for hugetlb pages of %lu MiB",
			   size / SZ_1M);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	return addr;
#else
	kunit_skip(test, "no hugetlb pages");
#endif
}

static int protect(unsigned long addr, size_t len, unsigned long prot)
{
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma, *prev;
	unsigned long end = addr + len;
	struct mmu_gather tlb;
	int ret = -ENOMEM;

	VMA_ITERATOR(vmi, mm, addr);

	mmap_write_lock(mm);
	vma = vma_find(&vmi, end);
	if (vma && vma->vm_start <= addr && end <= vma->vm_end) {
		vm_flags_t flags = (vma->vm_flags & ~VM_ACCESS_FLAGS) |
				   calc_vm_prot_bits(prot, 0);

		prev = vma_prev(&vmi);
		vma = vma_next(&vmi);
		if (addr > vma->vm_start)
			prev = vma;
		tlb_gather_mmu(&tlb, mm);
		ret = mprotect_fixup(&vmi, &tlb, vma, &prev, addr, end, flags);
		tlb_finish_mmu(&tlb);
	}
	mmap_write_unlock(mm);
	return ret;
}

/* What the bio glue does in an address space of its own, within one range */
static int translate_piece(struct kunit *test, unsigned long addr, size_t len,
			   enum nopin_dir dir, struct bio_vec *bvec,
			   unsigned short *vcnt)
{
	struct fixture *f = test->priv;
	struct nopin_range *range;
	unsigned int first, nr, tries = 100;
	bool huge;
	int ret;

	range = nopin_mm_get(current->mm, addr);
	if (IS_ERR(range))
		return PTR_ERR(range);
	first = nopin_index(range, addr);
	nr = nopin_index(range, addr + len - 1) - first + 1;

	do {
		if (!f->other)
			nopin_window_begin();
		ret = enter(test, range, first, nr, dir);
		if (!ret)
			break;
		nopin_window_end();
		nopin_open(range, first, nr, dir, open_flags(test));
	} while (ret == -EAGAIN && --tries);
	if (ret)
		return ret;

	ret = nopin_translate(range, first, nr, addr, len, dir, bvec, vcnt,
			      &huge);
	if (ret)
		leave(test, range, first, nr, dir);
	nopin_window_end();
	return ret;
}

/* Enters the pages if it returns 0 */
static int translate(struct kunit *test, unsigned long addr, size_t len,
		     enum nopin_dir dir, struct bio_vec *bvec,
		     unsigned short *vcnt)
{
	while (len) {
		struct nopin_range *range = nopin_mm_get(current->mm, addr);
		size_t piece;
		int ret;

		if (IS_ERR(range))
			return PTR_ERR(range);
		piece = min(len, nopin_len(range, addr));
		ret = translate_piece(test, addr, piece, dir, bvec, vcnt);
		if (ret) {
			leave_all(test->priv);
			return ret;
		}
		addr += piece;
		len -= piece;
	}
	return 0;
}

/* Only whether it could be done */
static int try_translate(struct kunit *test, unsigned long addr, size_t len,
			 enum nopin_dir dir)
{
	struct bio_vec *bvec;
	unsigned short vcnt = 0;
	int ret;

	bvec = kvcalloc(len / PAGE_SIZE + 2, sizeof(*bvec), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, bvec);
	ret = translate(test, addr, len, dir, bvec, &vcnt);
	leave_all(test->priv);
	kvfree(bvec);
	return ret;
}

static phys_addr_t bvec_end(const struct bio_vec *bv)
{
	return page_to_phys(bv->bv_page) + bv->bv_offset + bv->bv_len;
}

static phys_addr_t bvec_begin(const struct bio_vec *bv)
{
	return page_to_phys(bv->bv_page) + bv->bv_offset;
}

/* Compare with what get_user_pages() finds; the pages must be entered */
static void check_bvec(struct kunit *test, unsigned long addr, size_t len,
		       const struct bio_vec *bvec, unsigned short vcnt)
{
	unsigned long start = addr & PAGE_MASK;
	unsigned long nr = (PAGE_ALIGN(addr + len) - start) >> PAGE_SHIFT;
	size_t pos = 0, wrong = 0, off, n;
	struct page **pages;
	unsigned int i;
	long got;

	pages = kvcalloc(nr, sizeof(*pages), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, pages);
	mmap_read_lock(current->mm);
	got = get_user_pages_remote(current->mm, start, nr, 0, pages, NULL);
	mmap_read_unlock(current->mm);
	KUNIT_EXPECT_EQ(test, got, nr);
	if (got != nr)
		goto out;

	for (i = 0; i < vcnt; i++) {
		const struct bio_vec *bv = &bvec[i];

		for (off = 0; off < bv->bv_len; off += n, pos += n) {
			size_t at = bv->bv_offset + off;
			unsigned long uaddr = addr + pos;

			n = min(PAGE_SIZE - at % PAGE_SIZE, bv->bv_len - off);
			if (pos >= len ||
			    bv->bv_page + at / PAGE_SIZE !=
			    pages[(uaddr - start) >> PAGE_SHIFT] ||
			    at % PAGE_SIZE != offset_in_page(uaddr))
				wrong++;
		}
		KUNIT_EXPECT_NE(test, bv->bv_len, 0);
		KUNIT_EXPECT_LT(test, bv->bv_offset, PAGE_SIZE);
		/* contiguous memory is one bio_vec */
		if (i)
			KUNIT_EXPECT_NE(test, bvec_end(bv - 1),
					bvec_begin(bv));
	}
	KUNIT_EXPECT_EQ(test, pos, len);
	KUNIT_EXPECT_EQ(test, wrong, 0);
out:
	while (got > 0)
		put_page(pages[--got]);
	kvfree(pages);
}

/* Returns the number of bio_vecs */
static unsigned int check_translation(struct kunit *test, unsigned long addr,
				      size_t len, enum nopin_dir dir)
{
	struct bio_vec *bvec;
	unsigned short vcnt = 0;
	int ret;

	bvec = kvcalloc(len / PAGE_SIZE + 2, sizeof(*bvec), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, bvec);
	ret = translate(test, addr, len, dir, bvec, &vcnt);
	KUNIT_EXPECT_EQ_MSG(test, ret, 0, "%#lx+%#zx", addr, len);
	if (!ret)
		check_bvec(test, addr, len, bvec, vcnt);
	leave_all(test->priv);
	kvfree(bvec);
	return vcnt;
}

/* All kinds of offsets and lengths in at least four pages */
static void check_spans(struct kunit *test, unsigned long addr, size_t len,
			enum nopin_dir dir)
{
	static const struct {
		size_t off;
		size_t len;
	} pieces[] = {
		{ 0, 1 },
		{ 0, PAGE_SIZE },
		{ PAGE_SIZE - 1, 1 },
		{ PAGE_SIZE - 1, 2 },
		{ 512, 512 },
		{ 512, PAGE_SIZE },
		{ PAGE_SIZE, 2 * PAGE_SIZE },
		{ PAGE_SIZE - 512, 2 * PAGE_SIZE + 1024 },
		{ 3, 3 * PAGE_SIZE },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pieces); i++)
		check_translation(test, addr + pieces[i].off, pieces[i].len,
				  dir);
	check_translation(test, addr, len, dir);
	check_translation(test, addr + 100, len - 200, dir);
	check_translation(test, addr + len - 512, 512, dir);
}

static void expect_walk(int line, struct kunit *test, unsigned long addr,
			size_t len, int from, int to)
{
	KUNIT_EXPECT_EQ_MSG(test, try_translate(test, addr, len,
						NOPIN_FROM_DEVICE), from,
			    "in line %d", line);
	KUNIT_EXPECT_EQ_MSG(test, try_translate(test, addr, len,
						NOPIN_TO_DEVICE), to,
			    "in line %d", line);
}

/* What either direction is to get */
#define EXPECT_WALK(...)	expect_walk(__LINE__, __VA_ARGS__)

/* R9, R11: what a mapping does not permit, and what mends it */
static void check_access(struct kunit *test, unsigned long addr, size_t len,
			 unsigned long step)
{
	unsigned long a;

	EXPECT_WALK(test, addr, len, 0, 0);

	KUNIT_ASSERT_EQ(test, protect(addr, len, PROT_NONE), 0);
	EXPECT_WALK(test, addr, len, -EFAULT, -EFAULT);
	for (a = addr; a < addr + len; a += step)
		EXPECT_WALK(test, a, 1, -EFAULT, -EFAULT);

	KUNIT_ASSERT_EQ(test, protect(addr, len, PROT_READ), 0);
	EXPECT_WALK(test, addr, len, -EFAULT, 0);
	for (a = addr; a < addr + len; a += step)
		EXPECT_WALK(test, a, 1, -EFAULT, 0);

	KUNIT_ASSERT_EQ(test, protect(addr, len, PROT_READ | PROT_WRITE), 0);
	for (a = addr; a < addr + len; a += step)
		fault_write(test, a, 1);
	EXPECT_WALK(test, addr, len, 0, 0);
	check_translation(test, addr, len, NOPIN_FROM_DEVICE);
}

/* R9: a PTE that is writable but clean is not good enough to be written to */
static void check_clean(struct kunit *test, unsigned long addr, size_t len,
			unsigned long step)
{
	unsigned long a;

	/* the lazily freed page of a process that has not written it again */
	lru_add_drain_all();
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, len, MADV_FREE),
			0);
	for (a = addr; a < addr + len; a += step)
		EXPECT_WALK(test, a, 1, -EFAULT, 0);
	EXPECT_WALK(test, addr, len, -EFAULT, 0);
	fault_write(test, addr, len);
	EXPECT_WALK(test, addr, len, 0, 0);
}

/* Nothing there, before the first touch and after MADV_DONTNEED */
static void check_missing(struct kunit *test, unsigned long addr, size_t len,
			  unsigned long step)
{
	unsigned long a;

	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, len,
					 MADV_DONTNEED), 0);
	for (a = addr; a < addr + len; a += step)
		EXPECT_WALK(test, a, 1, -EFAULT, -EFAULT);
	EXPECT_WALK(test, addr, len, -EFAULT, -EFAULT);
	fault_write(test, addr, len);
	EXPECT_WALK(test, addr, len, 0, 0);
	check_translation(test, addr, len, NOPIN_FROM_DEVICE);
}

#define SMALL_LEN	(40 * PAGE_SIZE)

/* Anonymous pages of the base size */
static void test_anon(struct kunit *test)
{
	unsigned long addr = map_small(test, SMALL_LEN);

	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, -EFAULT);
	fault_write(test, addr, SMALL_LEN);
	check_spans(test, addr, SMALL_LEN, NOPIN_FROM_DEVICE);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);
	check_access(test, addr, SMALL_LEN, PAGE_SIZE);
	check_clean(test, addr, SMALL_LEN, PAGE_SIZE);
	check_missing(test, addr, SMALL_LEN, PAGE_SIZE);
}

/* Shared memory */
static void test_shmem(struct kunit *test)
{
	unsigned long addr = map_shmem(test, SMALL_LEN, MAP_SHARED);

	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, -EFAULT);
	/* R9: shared and writable, but nobody has written */
	fault_read(test, addr, SMALL_LEN);
	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, 0);
	fault_write(test, addr, SMALL_LEN);
	check_spans(test, addr, SMALL_LEN, NOPIN_FROM_DEVICE);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);
	check_access(test, addr, SMALL_LEN, PAGE_SIZE);
	check_missing(test, addr, SMALL_LEN, PAGE_SIZE);
}

/* A private mapping of a file: its own pages can be read, copies written */
static void test_file_private(struct kunit *test)
{
	unsigned long addr = map_shmem(test, SMALL_LEN, MAP_PRIVATE);

	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, -EFAULT);
	fault_read(test, addr, SMALL_LEN);
	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, 0);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);

	/* copied, some of them */
	fault_write(test, addr + 5 * PAGE_SIZE, 3 * PAGE_SIZE);
	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, 0);
	EXPECT_WALK(test, addr + 5 * PAGE_SIZE, 3 * PAGE_SIZE, 0, 0);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);

	fault_write(test, addr, SMALL_LEN);
	check_spans(test, addr, SMALL_LEN, NOPIN_FROM_DEVICE);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);
	check_access(test, addr, SMALL_LEN, PAGE_SIZE);
}

/* Transparent huge pages */
static void test_thp(struct kunit *test)
{
	unsigned long addr = map_thp(test);
	size_t len = 2 * PMD_SIZE;

	KUNIT_EXPECT_EQ(test, check_translation(test, addr, PMD_SIZE,
						NOPIN_FROM_DEVICE), 1);
	check_spans(test, addr, len, NOPIN_FROM_DEVICE);
	check_spans(test, addr + PMD_SIZE - 2 * PAGE_SIZE, 4 * PAGE_SIZE,
		    NOPIN_TO_DEVICE);
	check_access(test, addr, len, PMD_SIZE / 2);
	check_clean(test, addr, len, PMD_SIZE / 2);
	KUNIT_EXPECT_TRUE(test, maps_huge(addr));
	KUNIT_EXPECT_TRUE(test, maps_huge(addr + PMD_SIZE));
	check_missing(test, addr, len, PMD_SIZE / 2);
}

/* R11: zero pages are good to read from, and never written */
static void test_zero_page(struct kunit *test)
{
	unsigned long addr = map_small(test, SMALL_LEN);
	struct bio_vec bvec[8];
	unsigned short vcnt = 0;
	unsigned int i;

	fault_read(test, addr, SMALL_LEN);
	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, 0);
	KUNIT_EXPECT_EQ(test, translate(test, addr, 4 * PAGE_SIZE,
					NOPIN_TO_DEVICE, bvec, &vcnt), 0);
	KUNIT_EXPECT_EQ(test, vcnt, 4);
	for (i = 0; i < vcnt; i++)
		KUNIT_EXPECT_TRUE(test, is_zero_page(bvec[i].bv_page));
	leave_all(test->priv);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);

	fault_write(test, addr + PAGE_SIZE, 1);
	EXPECT_WALK(test, addr + PAGE_SIZE, PAGE_SIZE, 0, 0);
	EXPECT_WALK(test, addr, 3 * PAGE_SIZE, -EFAULT, 0);
	check_translation(test, addr, 3 * PAGE_SIZE, NOPIN_TO_DEVICE);
}

/* R11: and so is the huge one */
static void test_huge_zero_page(struct kunit *test)
{
	unsigned long addr = map_thp(test);

	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, 2 * PMD_SIZE,
					 MADV_DONTNEED), 0);
	fault_read(test, addr, 2 * PMD_SIZE);
	if (!maps_huge(addr))
		kunit_skip(test, "no huge zero page");
	EXPECT_WALK(test, addr, 2 * PMD_SIZE, -EFAULT, 0);
	check_spans(test, addr, 2 * PMD_SIZE, NOPIN_TO_DEVICE);
}

/* hugetlb pages that a PMD maps */
static void test_hugetlb_pmd(struct kunit *test)
{
	unsigned long addr = map_hugetlb(test, PMD_SIZE, 2, MAP_PRIVATE);

	KUNIT_EXPECT_EQ(test, check_translation(test, addr, PMD_SIZE,
						NOPIN_FROM_DEVICE), 1);
	check_spans(test, addr, 2 * PMD_SIZE, NOPIN_FROM_DEVICE);
	check_spans(test, addr + PMD_SIZE - 2 * PAGE_SIZE, 4 * PAGE_SIZE,
		    NOPIN_TO_DEVICE);
	check_access(test, addr, 2 * PMD_SIZE, PMD_SIZE / 2);
}

/* The same, shared */
static void test_hugetlb_pmd_shared(struct kunit *test)
{
	unsigned long addr = map_hugetlb(test, PMD_SIZE, 2, MAP_SHARED);

	check_spans(test, addr, 2 * PMD_SIZE, NOPIN_FROM_DEVICE);
	check_access(test, addr, 2 * PMD_SIZE, PMD_SIZE / 2);
}

/* hugetlb pages that a PUD maps */
static void test_hugetlb_pud(struct kunit *test)
{
	unsigned long addr = map_hugetlb(test, PUD_SIZE, 1, MAP_SHARED);

	check_spans(test, addr, PMD_SIZE, NOPIN_FROM_DEVICE);
	check_spans(test, addr + PUD_SIZE / 2 - 2 * PAGE_SIZE, 4 * PAGE_SIZE,
		    NOPIN_FROM_DEVICE);
	check_spans(test, addr + PUD_SIZE - 4 * PAGE_SIZE, 4 * PAGE_SIZE,
		    NOPIN_TO_DEVICE);
	check_access(test, addr, PUD_SIZE, PUD_SIZE / 2);
}

/* Huge and small pages in one go */
static void test_mixed_sizes(struct kunit *test)
{
	unsigned long addr = map_thp(test);
	unsigned long mid = addr + PMD_SIZE;

	/* the second one becomes small */
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, mid, PMD_SIZE,
					 MADV_DONTNEED), 0);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, mid, PMD_SIZE,
					 MADV_NOHUGEPAGE), 0);
	fault_write(test, mid, PMD_SIZE);
	KUNIT_EXPECT_TRUE(test, maps_huge(addr));
	KUNIT_EXPECT_FALSE(test, maps_huge(mid));
	check_spans(test, mid - 2 * PAGE_SIZE, 4 * PAGE_SIZE,
		    NOPIN_FROM_DEVICE);
	check_spans(test, addr, 2 * PMD_SIZE, NOPIN_FROM_DEVICE);
	check_access(test, addr, PMD_SIZE, PMD_SIZE / 2);
}

/* From one page table to the next, on every level */
static void test_table_boundaries(struct kunit *test)
{
	const unsigned long sizes[] = { PMD_SIZE, PUD_SIZE, P4D_SIZE };
	unsigned long addr;
	unsigned int i;

	/* gives the thread its mm */
	map_small(test, PAGE_SIZE);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		/* away from what is mapped already */
		addr = SZ_1G * 5UL + sizes[i];
		addr = round_up(addr, sizes[i]);
		if (addr + 2 * PAGE_SIZE > TASK_SIZE)
			continue;
		addr = map_fixed(test, addr - 2 * PAGE_SIZE, 4 * PAGE_SIZE);
		fault_write(test, addr, PAGE_SIZE);
		EXPECT_WALK(test, addr, 4 * PAGE_SIZE, -EFAULT, -EFAULT);
		fault_write(test, addr, 4 * PAGE_SIZE);
		check_spans(test, addr, 4 * PAGE_SIZE, NOPIN_FROM_DEVICE);
		check_spans(test, addr, 4 * PAGE_SIZE, NOPIN_TO_DEVICE);
	}
}

/* Adjacent in memory is one bio_vec, anything else is not */
static void test_merging(struct kunit *test)
{
	unsigned long addr = map_thp(test), twice;
	struct file *file;
	struct folio *folio;
	struct page *page;
	unsigned short vcnt = 0;
	struct bio_vec bvec[8];
	int ret;

	/* small pages that are known to be adjacent */
	fill(test, addr, PMD_SIZE);
	KUNIT_ASSERT_EQ(test, get_user_pages_fast(addr, 1, FOLL_WRITE, &page),
			1);
	folio = page_folio(page);
	lru_add_drain_all();
	folio_lock(folio);
	ret = split_folio(folio);
	folio_unlock(folio);
	folio_put(folio);
	KUNIT_ASSERT_EQ(test, ret, 0);
	KUNIT_ASSERT_FALSE(test, maps_huge(addr));
	fault_write(test, addr, PMD_SIZE);
	KUNIT_EXPECT_EQ(test, check_translation(test, addr, PMD_SIZE,
						NOPIN_FROM_DEVICE), 1);

	/* in two calls, that meet in the middle of a page */
	KUNIT_EXPECT_EQ(test, translate(test, addr + 10, PAGE_SIZE,
					NOPIN_FROM_DEVICE, bvec, &vcnt), 0);
	KUNIT_EXPECT_EQ(test, vcnt, 1);
	KUNIT_EXPECT_EQ(test, translate(test, addr + 10 + PAGE_SIZE,
					3 * PAGE_SIZE, NOPIN_FROM_DEVICE,
					bvec, &vcnt), 0);
	KUNIT_EXPECT_EQ(test, vcnt, 1);
	check_bvec(test, addr + 10, 4 * PAGE_SIZE, bvec, vcnt);

	/* what does not follow does not merge, not even in the same page */
	KUNIT_EXPECT_EQ(test, translate(test, addr + 10 + 4 * PAGE_SIZE + 512,
					100, NOPIN_FROM_DEVICE, bvec, &vcnt),
			0);
	KUNIT_EXPECT_EQ(test, vcnt, 2);
	KUNIT_EXPECT_EQ(test, translate(test, addr, PAGE_SIZE,
					NOPIN_FROM_DEVICE, bvec, &vcnt), 0);
	KUNIT_EXPECT_EQ(test, vcnt, 3);
	check_bvec(test, addr + 10, 4 * PAGE_SIZE, bvec, 1);
	check_bvec(test, addr + 10 + 4 * PAGE_SIZE + 512, 100, bvec + 1, 1);
	check_bvec(test, addr, PAGE_SIZE, bvec + 2, 1);
	leave_all(test->priv);

	/* one page at two addresses */
	file = shmem_file_setup("nopin_kunit", PAGE_SIZE, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	twice = map_anon(test, 2 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, vm_mmap(file, twice, PAGE_SIZE,
				      PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_FIXED, 0), twice);
	KUNIT_EXPECT_EQ(test, vm_mmap(file, twice + PAGE_SIZE, PAGE_SIZE,
				      PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_FIXED, 0),
			twice + PAGE_SIZE);
	fput(file);
	fault_write(test, twice, 2 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, check_translation(test, twice, 2 * PAGE_SIZE,
						NOPIN_FROM_DEVICE), 2);
}

/* A failure takes nothing from what was translated before */
static void test_failure_keeps_vcnt(struct kunit *test)
{
	unsigned long addr = map_small(test, 8 * PAGE_SIZE);
	unsigned short vcnt = 0, before;
	struct nopin_range *range;
	struct bio_vec bvec[16];
	unsigned int first;
	bool huge;
	int ret;

	fault_write(test, addr, 4 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, translate(test, addr, 2 * PAGE_SIZE,
					NOPIN_FROM_DEVICE, bvec, &vcnt), 0);
	check_bvec(test, addr, 2 * PAGE_SIZE, bvec, vcnt);
	before = vcnt;

	/* two pages more, and then a hole */
	range = nopin_mm_get(current->mm, addr);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, range);
	KUNIT_ASSERT_PTR_EQ(test, nopin_mm_get(current->mm,
					       addr + 8 * PAGE_SIZE - 1),
			    range);
	first = nopin_index(range, addr + 2 * PAGE_SIZE);
	open_pages(test, range, first, 4, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, enter(test, range, first, 4, NOPIN_FROM_DEVICE),
			0);
	huge = true;
	ret = nopin_translate(range, first, 4, addr + 2 * PAGE_SIZE,
			      4 * PAGE_SIZE, NOPIN_FROM_DEVICE, bvec, &vcnt,
			      &huge);
	KUNIT_EXPECT_EQ(test, ret, -EFAULT);
	KUNIT_EXPECT_EQ(test, vcnt, before);
	KUNIT_EXPECT_FALSE(test, huge);
	if (vcnt > 1)
		check_bvec(test, addr, PAGE_SIZE, bvec, 1);
	leave_all(test->priv);
}

/* Addresses where nothing is mapped, on every level of the page table */
static void test_unmapped(struct kunit *test)
{
	unsigned long addr = map_small(test, 4 * PAGE_SIZE);

	fault_write(test, addr, 4 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr + PAGE_SIZE, PAGE_SIZE), 0);
	EXPECT_WALK(test, addr, 4 * PAGE_SIZE, -EFAULT, -EFAULT);
	EXPECT_WALK(test, addr + PAGE_SIZE, 1, -EFAULT, -EFAULT);
	EXPECT_WALK(test, addr + 2 * PAGE_SIZE, 2 * PAGE_SIZE, 0, 0);
	EXPECT_WALK(test, addr ^ PMD_SIZE, PAGE_SIZE, -EFAULT, -EFAULT);
	EXPECT_WALK(test, addr ^ PUD_SIZE, PAGE_SIZE, -EFAULT, -EFAULT);
	EXPECT_WALK(test, P4D_SIZE + SZ_1G, PAGE_SIZE, -EFAULT, -EFAULT);
	EXPECT_WALK(test, PAGE_SIZE, PAGE_SIZE, -EFAULT, -EFAULT);
}

static bool is_mapped(unsigned long addr)
{
	bool mapped;

	mmap_read_lock(current->mm);
	mapped = nopin_mapped(current->mm, addr);
	mmap_read_unlock(current->mm);
	return mapped;
}

static struct page *special_page;

static vm_fault_t special_fault(const struct vm_special_mapping *sm,
				struct vm_area_struct *vma,
				struct vm_fault *vmf)
{
	return vmf_insert_pfn(vma, vmf->address, page_to_pfn(special_page));
}

static const struct vm_special_mapping special_spec = {
	.name	= "[nopin_kunit]",
	.fault	= special_fault,
};

/* R11: page frames that a driver has mapped, which may not even have a page */
static void test_special_pte(struct kunit *test)
{
	unsigned long addr = map_small(test, 4 * PAGE_SIZE), hole;
	struct vm_area_struct *vma;

	special_page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	KUNIT_ASSERT_NOT_NULL(test, special_page);
	fault_write(test, addr, 4 * PAGE_SIZE);
	hole = addr + PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, vm_munmap(hole, PAGE_SIZE), 0);
	mmap_write_lock(current->mm);
	vma = _install_special_mapping(current->mm, hole, PAGE_SIZE,
				       VM_READ | VM_MAYREAD | VM_WRITE |
				       VM_MAYWRITE | VM_SHARED | VM_MAYSHARE |
				       VM_IO | VM_PFNMAP, &special_spec);
	mmap_write_unlock(current->mm);
	KUNIT_EXPECT_NOT_ERR_OR_NULL(test, vma);
	if (!IS_ERR_OR_NULL(vma)) {
		/* once to map it, and once more to make it dirty */
		fault_in_safe_writeable((char __user *)hole, 1);
		fault_in_safe_writeable((char __user *)hole, 1);
		EXPECT_WALK(test, hole, PAGE_SIZE, -EPERM, -EPERM);
		/* there is something, but nothing to be used */
		KUNIT_EXPECT_TRUE(test, nopin_present(current->mm, hole));
		KUNIT_EXPECT_FALSE(test, is_mapped(hole));
		EXPECT_WALK(test, addr, 4 * PAGE_SIZE, -EPERM, -EPERM);
		EXPECT_WALK(test, addr, PAGE_SIZE, 0, 0);
		EXPECT_WALK(test, hole + PAGE_SIZE, 2 * PAGE_SIZE, 0, 0);
	}
	KUNIT_EXPECT_EQ(test, vm_munmap(hole, PAGE_SIZE), 0);
	__free_page(special_page);
}

#if defined(CONFIG_SECRETMEM) && defined(CONFIG_X86_64)
/* The kernel has no other way to make some */
static long secretmem_fd(void)
{
	struct pt_regs regs = {};

	return x64_sys_call(&regs, __NR_memfd_secret);
}
#elif defined(CONFIG_SECRETMEM) && defined(CONFIG_ARM64)
asmlinkage long __arm64_sys_memfd_secret(const struct pt_regs *regs);

static long secretmem_fd(void)
{
	struct pt_regs regs = {};

	return __arm64_sys_memfd_secret(&regs);
}
#else
static long secretmem_fd(void)
{
	return -EOPNOTSUPP;
}
#endif

/* R11: memory that not even the kernel may look at */
static void test_secretmem(struct kunit *test)
{
	unsigned long addr, own = map_small(test, 4 * PAGE_SIZE);
	unsigned long shared = map_shmem(test, 4 * PAGE_SIZE, MAP_SHARED);
	struct file *file;
	long fd, ret;

	fd = secretmem_fd();
	if (fd < 0)
		kunit_skip(test, "no secretmem: %ld", fd);
	ret = ksys_ftruncate(fd, 2 * PAGE_SIZE);
	file = fget(fd);
	close_fd(fd);
	KUNIT_ASSERT_NOT_NULL(test, file);
	addr = kunit_vm_mmap(test, file, 0, 2 * PAGE_SIZE,
			     PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	fput(file);
	KUNIT_ASSERT_EQ(test, ret, 0);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	KUNIT_EXPECT_TRUE(test, secretmem_active());

	fault_write(test, addr, 2 * PAGE_SIZE);
	fault_write(test, own, 4 * PAGE_SIZE);
	fault_write(test, shared, 4 * PAGE_SIZE);
	EXPECT_WALK(test, addr, PAGE_SIZE, -EPERM, -EPERM);
	EXPECT_WALK(test, addr, 2 * PAGE_SIZE, -EPERM, -EPERM);
	/* other memory is none the worse for it */
	EXPECT_WALK(test, own, 4 * PAGE_SIZE, 0, 0);
	EXPECT_WALK(test, shared, 4 * PAGE_SIZE, 0, 0);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, 2 * PAGE_SIZE), 0);
}

#define ATOMIC_PAGES	1024

/**
 * struct atomic_walk - a walk seen from an interrupt
 * @timer: the interrupt
 * @bvec: where the walk puts its result
 * @last: the last bio_vec of it
 * @len: what the length of that is in the end
 * @halves: how often it was seen half done
 */
struct atomic_walk {
	struct hrtimer		timer;
	struct bio_vec		*bvec;
	struct bio_vec		*last;
	unsigned int		len;
	unsigned int		halves;
};

static enum hrtimer_restart atomic_walk_fn(struct hrtimer *timer)
{
	struct atomic_walk *aw = container_of(timer, struct atomic_walk,
					      timer);

	if (READ_ONCE(aw->bvec->bv_page) &&
	    READ_ONCE(aw->last->bv_len) != aw->len)
		aw->halves++;
	hrtimer_forward_now(timer, 50 * NSEC_PER_USEC);
	return HRTIMER_RESTART;
}

/* R10: no interrupt sees the middle of a walk, as page tables go by IPI */
static void test_walk_is_atomic(struct kunit *test)
{
	unsigned long len = ATOMIC_PAGES * PAGE_SIZE;
	unsigned long addr = map_small(test, len);
	struct nopin_walked walked;
	struct atomic_walk *aw;
	unsigned short vcnt = 0;
	unsigned int i;
	int ret;

	aw = kunit_kzalloc(test, sizeof(*aw), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, aw);
	aw->bvec = kunit_kcalloc(test, ATOMIC_PAGES, sizeof(*aw->bvec),
				 GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, aw->bvec);
	fault_write(test, addr, len);
	KUNIT_ASSERT_EQ(test, translate(test, addr, len, NOPIN_FROM_DEVICE,
					aw->bvec, &vcnt), 0);
	aw->last = &aw->bvec[vcnt - 1];
	aw->len = aw->last->bv_len;

	/* they are entered, so it is the same again and again */
	migrate_disable();
	hrtimer_init(&aw->timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	aw->timer.function = atomic_walk_fn;
	hrtimer_start(&aw->timer, 0, HRTIMER_MODE_REL_PINNED_HARD);
	for (i = 0; i < 50; i++) {
		WRITE_ONCE(aw->bvec->bv_page, NULL);
		barrier();
		memset(aw->bvec, 0, ATOMIC_PAGES * sizeof(*aw->bvec));
		barrier();
		vcnt = 0;
		ret = nopin_walk(current->mm, addr, len, NOPIN_FROM_DEVICE,
				 aw->bvec, &vcnt, &walked);
		if (ret)
			break;
	}
	hrtimer_cancel(&aw->timer);
	migrate_enable();
	KUNIT_EXPECT_EQ(test, ret, 0);
	KUNIT_EXPECT_EQ(test, aw->last->bv_len, aw->len);
	KUNIT_EXPECT_EQ(test, aw->halves, 0);
	leave_all(test->priv);
}

/* A page at @addr, or NULL: what the process has there, with a reference */
static struct page *get_page_at(unsigned long addr)
{
	struct page *page;
	long got;

	mmap_read_lock(current->mm);
	got = get_user_pages_remote(current->mm, addr, 1, 0, &page, NULL);
	mmap_read_unlock(current->mm);
	return got == 1 ? page : NULL;
}

/*
 * Of a hugetlb page that others have as well, the last one gets no copy when he
 * writes, whoever has pinned it. So it is left to GUP if a device reads it.
 */
static void test_hugetlb_shared_anon(struct kunit *test)
{
	unsigned long addr = map_hugetlb(test, PMD_SIZE, 2, MAP_PRIVATE);
	struct page *page = get_page_at(addr + PMD_SIZE), *head;

	KUNIT_ASSERT_NOT_NULL(test, page);
	head = &page_folio(page)->page;
	EXPECT_WALK(test, addr, 2 * PMD_SIZE, 0, 0);
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(head));
	/* what fork() does to it, besides the write protection */
	ClearPageAnonExclusive(head);
	EXPECT_WALK(test, addr, PMD_SIZE, 0, 0);
	EXPECT_WALK(test, addr + PMD_SIZE, 1, 0, -EPERM);
	EXPECT_WALK(test, addr, 2 * PMD_SIZE, 0, -EPERM);
	EXPECT_WALK(test, addr + PMD_SIZE - 1, 2, 0, -EPERM);
	SetPageAnonExclusive(head);
	EXPECT_WALK(test, addr, 2 * PMD_SIZE, 0, 0);
	put_page(page);
}

/* Whoever walks too late is told, and does not touch what he has found */
static void test_walk_too_late(struct kunit *test)
{
	unsigned long addr = map_small(test, 8 * PAGE_SIZE);
	struct nopin_range *range;
	unsigned short vcnt;
	struct bio_vec bvec[8];
	struct folio *folio;
	enum nopin_dir dir;
	struct page *page;
	unsigned int i;
	struct op *op;
	bool huge;

	WRITE_ONCE(nopin_rmap_wait_ms, 2);
	fault_write(test, addr, 8 * PAGE_SIZE);
	page = get_page_at(addr + 5 * PAGE_SIZE);
	KUNIT_ASSERT_NOT_NULL(test, page);
	folio = page_folio(page);
	range = nopin_mm_get(current->mm, addr);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, range);
	i = nopin_index(range, addr);
	lru_add_drain_all();

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		/* an access is to be reported */
		KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr,
						 8 * PAGE_SIZE, MADV_COLD), 0);
		folio_clear_referenced(folio);
		open_pages(test, range, i, 8, dir);
		KUNIT_EXPECT_EQ(test, enter(test, range, i, 8, dir), 0);
		WRITE_ONCE(range->late, jiffies);
		op = op_rmap(test, range, 0, i + 5, 1);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		op_end(op);

		vcnt = 0;
		huge = true;
		KUNIT_EXPECT_EQ(test, nopin_translate(range, i, 8, addr,
						      8 * PAGE_SIZE, dir, bvec,
						      &vcnt, &huge), -EAGAIN);
		KUNIT_EXPECT_FALSE(test, huge);
		KUNIT_EXPECT_FALSE(test, folio_test_referenced(folio));
		EXPECT_STATE(test, 1, range, i, 5, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, i + 5, 1, dir);
		/* in time is who does not need that page */
		vcnt = 0;
		KUNIT_EXPECT_EQ(test, nopin_translate(range, i, 5, addr,
						      5 * PAGE_SIZE, dir, bvec,
						      &vcnt, &huge), 0);

		open_pages(test, range, i + 5, 1, dir);
		vcnt = 0;
		KUNIT_EXPECT_EQ(test, nopin_translate(range, i, 8, addr,
						      8 * PAGE_SIZE, dir, bvec,
						      &vcnt, &huge), 0);
		KUNIT_EXPECT_TRUE(test, folio_test_referenced(folio));
		leave_all(test->priv);
	}
	put_page(page);
}

static void expect_there(int line, struct kunit *test, unsigned long addr,
			 bool there)
{
	KUNIT_EXPECT_EQ_MSG(test, nopin_present(current->mm, addr), there,
			    "in line %d", line);
	KUNIT_EXPECT_EQ_MSG(test, is_mapped(addr), there, "in line %d", line);
}

/* That there is a page, or none, with a look that takes locks and without */
#define EXPECT_THERE(...)	expect_there(__LINE__, __VA_ARGS__)

/* Is there a page? Asked of tables of all kinds, and where there are none */
static void test_present(struct kunit *test)
{
	unsigned long small = map_small(test, 4 * PAGE_SIZE), thp;

	EXPECT_THERE(test, small, false);
	fault_write(test, small + PAGE_SIZE, 1);
	fault_read(test, small + 2 * PAGE_SIZE, 1);
	EXPECT_THERE(test, small, false);
	EXPECT_THERE(test, small + PAGE_SIZE, true);
	EXPECT_THERE(test, small + PAGE_SIZE + 42, true);
	EXPECT_THERE(test, small + 2 * PAGE_SIZE, true);
	EXPECT_THERE(test, small + 3 * PAGE_SIZE, false);
	EXPECT_THERE(test, PAGE_SIZE, false);
	EXPECT_THERE(test, small ^ PUD_SIZE, false);
	EXPECT_THERE(test, P4D_SIZE + SZ_1G, false);
	/* whatever may be done with it */
	KUNIT_ASSERT_EQ(test, protect(small, 4 * PAGE_SIZE, PROT_NONE), 0);
	EXPECT_THERE(test, small, false);
	EXPECT_THERE(test, small + PAGE_SIZE, true);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, small, 4 * PAGE_SIZE,
					 MADV_DONTNEED), 0);
	EXPECT_THERE(test, small + PAGE_SIZE, false);

	thp = map_thp(test);
	EXPECT_THERE(test, thp, true);
	EXPECT_THERE(test, thp + PMD_SIZE - 1, true);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, thp, PMD_SIZE,
					 MADV_DONTNEED), 0);
	EXPECT_THERE(test, thp, false);
	EXPECT_THERE(test, thp + PMD_SIZE, true);
}

/* The same of hugetlb */
static void test_present_hugetlb(struct kunit *test)
{
	unsigned long addr = map_hugetlb(test, PUD_SIZE, 1, MAP_SHARED);

	EXPECT_THERE(test, addr, true);
	EXPECT_THERE(test, addr + PUD_SIZE - 1, true);
	EXPECT_THERE(test, addr + PUD_SIZE / 2, true);
}

/* R11: a page fault of a device permits what GUP permits */
static void test_fault(struct kunit *test)
{
	unsigned long addr = map_small(test, 8 * PAGE_SIZE), low, below;
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	enum nopin_dir dir;

	/* in part of a page, and into the next one */
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr + PAGE_SIZE - 1, 2,
					  NOPIN_FROM_DEVICE), 0);
	EXPECT_WALK(test, addr, 2 * PAGE_SIZE, 0, 0);
	EXPECT_THERE(test, addr + 2 * PAGE_SIZE, false);
	/* no more than it takes */
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr + 2 * PAGE_SIZE, PAGE_SIZE,
					  NOPIN_TO_DEVICE), 0);
	EXPECT_WALK(test, addr + 2 * PAGE_SIZE, PAGE_SIZE, -EFAULT, 0);
	EXPECT_THERE(test, addr + 3 * PAGE_SIZE, false);
	/* clean is not good enough, nor is what only may be read */
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr, 4 * PAGE_SIZE,
					  NOPIN_FROM_DEVICE), 0);
	EXPECT_WALK(test, addr, 4 * PAGE_SIZE, 0, 0);

	KUNIT_ASSERT_EQ(test, protect(addr + 4 * PAGE_SIZE, PAGE_SIZE,
				      PROT_READ), 0);
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr, 5 * PAGE_SIZE,
					  NOPIN_FROM_DEVICE), -EFAULT);
	EXPECT_THERE(test, addr + 4 * PAGE_SIZE, false);
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr, 5 * PAGE_SIZE,
					  NOPIN_TO_DEVICE), 0);
	EXPECT_WALK(test, addr, 5 * PAGE_SIZE, -EFAULT, 0);

	/* writable memory that nobody may read, and no access at all */
	KUNIT_ASSERT_EQ(test, protect(addr + 5 * PAGE_SIZE, PAGE_SIZE,
				      PROT_WRITE), 0);
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr + 5 * PAGE_SIZE, 1,
					  NOPIN_TO_DEVICE), -EFAULT);
	EXPECT_THERE(test, addr + 5 * PAGE_SIZE, false);
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr + 5 * PAGE_SIZE, 1,
					  NOPIN_FROM_DEVICE), 0);
	KUNIT_ASSERT_EQ(test, protect(addr + 6 * PAGE_SIZE, PAGE_SIZE,
				      PROT_NONE), 0);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr + 6 * PAGE_SIZE, 1,
						  dir), -EFAULT);
		/* and where there is no memory */
		KUNIT_EXPECT_EQ(test, nopin_fault(mm, PAGE_SIZE, 1, dir),
				-EFAULT);
	}
	EXPECT_THERE(test, addr + 6 * PAGE_SIZE, false);

	/* the stack does not grow */
	low = kunit_vm_mmap(test, NULL, 5UL * SZ_1G, 2 * PAGE_SIZE,
			    PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN |
			    MAP_FIXED_NOREPLACE, 0);
	KUNIT_ASSERT_EQ(test, low, 5UL * SZ_1G);
	/* so far below that GUP does not even warn */
	below = low - SZ_128K;
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, nopin_fault(mm, low, 1, dir), 0);
		KUNIT_EXPECT_EQ(test, nopin_fault(mm, below, 1, dir), -EFAULT);
	}
	EXPECT_THERE(test, below, false);
	mmap_read_lock(mm);
	vma = vma_lookup(mm, low);
	KUNIT_EXPECT_NOT_NULL(test, vma);
	if (vma) {
		KUNIT_EXPECT_TRUE(test, vma->vm_flags & VM_GROWSDOWN);
		KUNIT_EXPECT_EQ(test, vma->vm_start, low);
	}
	mmap_read_unlock(mm);
	/* as it would for the CPU */
	fault_read(test, below, 1);
	EXPECT_THERE(test, below, true);
}

static struct kunit_case walk_cases[] = {
	KUNIT_CASE(test_anon),
	KUNIT_CASE(test_shmem),
	KUNIT_CASE(test_file_private),
	KUNIT_CASE(test_thp),
	KUNIT_CASE(test_zero_page),
	KUNIT_CASE(test_huge_zero_page),
	KUNIT_CASE(test_hugetlb_pmd),
	KUNIT_CASE(test_hugetlb_pmd_shared),
	KUNIT_CASE(test_hugetlb_pud),
	KUNIT_CASE(test_mixed_sizes),
	KUNIT_CASE(test_table_boundaries),
	KUNIT_CASE(test_merging),
	KUNIT_CASE(test_failure_keeps_vcnt),
	KUNIT_CASE(test_unmapped),
	KUNIT_CASE(test_special_pte),
	KUNIT_CASE(test_secretmem),
	KUNIT_CASE(test_walk_is_atomic),
	KUNIT_CASE(test_walk_too_late),
	KUNIT_CASE(test_hugetlb_shared_anon),
	KUNIT_CASE(test_present),
	KUNIT_CASE(test_present_hugetlb),
	KUNIT_CASE(test_fault),
	{}
};

static struct kunit_suite walk_suite = {
	.name		= "nopin-walk",
	.init		= fixture_init,
	.exit		= fixture_exit,
	.test_cases	= walk_cases,
};

/*
 * nopin-mapping
 */

static int op_munmap_fn(struct op *op)
{
	return vm_munmap(op->addr, op->len);
}

static int op_dontneed_fn(struct op *op)
{
	return do_madvise(current->mm, op->addr, op->len, MADV_DONTNEED);
}

static int op_protect_fn(struct op *op)
{
	return protect(op->addr, op->len, PROT_READ);
}

/* Elsewhere on the same node; 0 or how many pages stayed where they are */
static int op_migrate_fn(struct op *op)
{
	struct migration_target_control mtc = {
		.nid		= NUMA_NO_NODE,
		.gfp_mask	= GFP_HIGHUSER_MOVABLE,
		.reason		= MR_SYSCALL,
	};
	struct page *page;
	struct folio *folio;
	LIST_HEAD(list);
	int ret = -EBUSY;

	lru_add_drain_all();
	page = get_page_at(op->addr);
	if (!page)
		return -EFAULT;
	folio = page_folio(page);
	if (folio_isolate_lru(folio)) {
		node_stat_mod_folio(folio, NR_ISOLATED_ANON +
				    folio_is_file_lru(folio),
				    folio_nr_pages(folio));
		list_add(&folio->lru, &list);
	}
	folio_put(folio);
	if (list_empty(&list))
		return ret;
	ret = migrate_pages(&list, alloc_migration_target, NULL,
			    (unsigned long)&mtc, MIGRATE_SYNC, MR_SYSCALL,
			    NULL);
	if (!list_empty(&list))
		putback_movable_pages(&list);
	return ret;
}

/* As writeback does it */
static int op_mkclean_fn(struct op *op)
{
	struct page *page = get_page_at(op->addr);
	struct folio *folio;
	int ret;

	if (!page)
		return -EFAULT;
	folio = page_folio(page);
	folio_lock(folio);
	ret = folio_mkclean(folio);
	folio_unlock(folio);
	folio_put(folio);
	return ret;
}

static int op_split_fn(struct op *op)
{
	struct page *page = get_page_at(op->addr);
	struct folio *folio;
	int ret;

	if (!page)
		return -EFAULT;
	folio = page_folio(page);
	lru_add_drain_all();
	folio_lock(folio);
	ret = folio_test_large(folio) ? split_folio(folio) : -EINVAL;
	folio_unlock(folio);
	/* the reference stays with the head, wherever @page was */
	folio_put(folio);
	return ret;
}

static struct op *op_mapping(struct kunit *test, int (*fn)(struct op *),
			     unsigned int how, unsigned long addr, size_t len)
{
	return op_run(test, &(struct op) {
		.fn		= fn,
		.mm		= current->mm,
		.memalloc	= how & MEMALLOC,
		.addr		= addr,
		.len		= len,
	});
}

/**
 * struct change_case - what a process does to its memory
 * @name: of the case
 * @fn: does it
 * @from: what a translation for devices that write memory gives afterwards
 * @to: the same for devices that read it
 * @waits: even if it is anonymous, for devices that write it
 */
struct change_case {
	const char	*name;
	int		(*fn)(struct op *op);
	int		from;
	int		to;
	bool		waits;
};

static const struct change_case change_cases[] = {
	{ "munmap",		op_munmap_fn,	-EFAULT,	-EFAULT },
	{ "MADV_DONTNEED",	op_dontneed_fn,	-EFAULT,	-EFAULT },
	{ "mprotect",		op_protect_fn,	-EFAULT,	0,	true },
};

static void change_desc(const struct change_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(change, change_cases, change_desc);

/* Is a page that has been entered pinned, so that its mapping may change? */
static bool was_pinned(unsigned long addr, enum nopin_dir dir)
{
	struct nopin_range *range = nopin_mm_find(current->mm, addr);
	unsigned int page = nopin_index(range, addr);
	struct nopin_chunk *chunk;
	bool pinned;

	rcu_read_lock();
	chunk = nopin_chunk(range, page);
	pinned = chunk && nopin_pinned_bytes(chunk, page, dir) &
			  nopin_bytes(page, page + 1);
	rcu_read_unlock();
	return pinned;
}

static bool is_pinned(struct page *page)
{
	return folio_maybe_dma_pinned(page_folio(page));
}

/* The pin on behalf of I/O is dropped when the I/O has ended */
static void expect_unpinned(struct kunit *test, struct page *page)
{
	unsigned int i;

	for (i = 0; i < 1000 && is_pinned(page); i++)
		msleep(20);
	KUNIT_EXPECT_FALSE(test, is_pinned(page));
}

/* The same, told by the states of the pages */
static void expect_drops(struct kunit *test, unsigned long addr,
			 enum nopin_dir dir)
{
	unsigned int i;

	for (i = 0; i < 1000 && was_pinned(addr, dir); i++)
		msleep(20);
	KUNIT_EXPECT_FALSE(test, was_pinned(addr, dir));
}

/* Memory of both kinds, of base pages, aligned to those of a word */
static unsigned long map_kind(struct kunit *test, bool shmem, size_t len)
{
	unsigned long addr;

	if (shmem)
		addr = map_shmem(test, len + SZ_64K, MAP_SHARED);
	else
		addr = map_small(test, len + SZ_64K);
	addr = ALIGN(addr, NOPIN_PAGES_PER_WORD * PAGE_SIZE);
	fault_write(test, addr, len);
	if (maps_huge(addr))
		kunit_skip(test, "shared memory is huge");
	return addr;
}

/* Pages that a device uses, by their address; see translate() */
static void enter_at(struct kunit *test, unsigned long addr, unsigned int nr,
		     enum nopin_dir dir, struct bio_vec *bvec)
{
	unsigned short vcnt = 0;

	KUNIT_ASSERT_EQ(test, translate(test, addr, nr * PAGE_SIZE, dir, bvec,
					&vcnt), 0);
}

/*
 * R1: what the process does to its mapping waits for the I/O on it, if a wait
 * buys something. If not, the I/O gets pins, at once.
 */
static void test_change(struct kunit *test)
{
	const struct change_case *c = test->param_value;
	struct nopin_range *range;
	struct bio_vec bvec[4];
	enum nopin_dir dir;
	struct page *page;
	unsigned int i;
	struct op *op;
	bool shmem;

	for (i = 0; i < 4; i++) {
		unsigned long addr, io;

		dir = i % 2;
		shmem = i / 2;
		addr = map_kind(test, shmem, 8 * PAGE_SIZE);
		io = addr + 5 * PAGE_SIZE;
		enter_at(test, io, 2, dir, bvec);
		range = nopin_mm_find(current->mm, addr);
		/* idle pages next to it are none of its business */
		op = op_mapping(test, c->fn, 0, addr, 2 * PAGE_SIZE);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);

		page = get_page_at(io);
		KUNIT_ASSERT_PTR_EQ(test, page, bvec[0].bv_page);
		op = op_mapping(test, c->fn, 0, io - PAGE_SIZE, 2 * PAGE_SIZE);
		if (dir == NOPIN_FROM_DEVICE && (shmem || c->waits)) {
			KUNIT_EXPECT_TRUE(test, op_blocked(op));
			/* it has the mmap_lock: no get_user_pages() now */
			KUNIT_EXPECT_TRUE(test, page_mapped(page));
			KUNIT_EXPECT_FALSE(test, is_pinned(page));
			leave_all(test->priv);
			KUNIT_EXPECT_TRUE(test, op_done(op));
			KUNIT_EXPECT_FALSE(test, is_pinned(page));
		} else {
			KUNIT_EXPECT_TRUE(test, op_done(op));
			KUNIT_EXPECT_TRUE(test, is_pinned(page));
			KUNIT_EXPECT_TRUE(test, was_pinned(io, dir));
			KUNIT_EXPECT_EQ(test, page_mapped(page), !c->to);
			/* the other page is as it was */
			KUNIT_EXPECT_FALSE(test, was_pinned(io + PAGE_SIZE,
							    dir));
			EXPECT_STATE(test, 1, range,
				     nopin_index(range, io) + 1, 1, dir);
			leave_all(test->priv);
			expect_unpinned(test, page);
		}
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		put_page(page);
		expect_opens(test, range, nopin_index(range, io), dir);
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
	struct bio_vec bvec[4];
	enum nopin_dir dir;
	struct page *page;
	bool shmem, closed;
	unsigned int i, n;
	struct op *op;

	for (n = 0; n < 4; n++) {
		unsigned long addr;

		dir = n % 2;
		shmem = n / 2;
		addr = map_kind(test, shmem, 8 * PAGE_SIZE);
		enter_at(test, addr + 3 * PAGE_SIZE, 2, dir, bvec);
		page = get_page_at(addr + 3 * PAGE_SIZE);
		KUNIT_ASSERT_PTR_EQ(test, page, bvec[0].bv_page);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr + 3 * PAGE_SIZE);
		open_pages(test, range, i, 2, !dir);

		op = op_inval(test, range, ev->event, 0, i, 1);
		if (dir == NOPIN_FROM_DEVICE ? shmem || ev->waits :
					       ev->waits_for_read) {
			KUNIT_EXPECT_TRUE(test, op_blocked(op));
			KUNIT_EXPECT_FALSE(test, is_pinned(page));
			EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, i, 1,
				     dir);
			leave_all(test->priv);
			KUNIT_EXPECT_TRUE(test, op_done(op));
			KUNIT_EXPECT_FALSE(test, is_pinned(page));
		} else if (dir == NOPIN_TO_DEVICE && ev->read_goes_on) {
			KUNIT_EXPECT_TRUE(test, op_done(op));
			KUNIT_EXPECT_FALSE(test, is_pinned(page));
			EXPECT_STATE(test, 1, range, i, 1, dir);
			KUNIT_EXPECT_EQ(test, enter(test, range, i, 1, dir), 0);
		} else {
			KUNIT_EXPECT_TRUE(test, op_done(op));
			KUNIT_EXPECT_TRUE(test, is_pinned(page));
			EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, i, 1,
				     dir);
			KUNIT_EXPECT_EQ(test, enter(test, range, i, 1, dir),
					-EAGAIN);
			EXPECT_STATE(test, 1, range, i + 1, 1, dir);
		}
		closed = dir == NOPIN_TO_DEVICE || !ev->read_goes_on;
		EXPECT_STATE(test, closed ? NOPIN_PAGE_CLOSED : 0, range, i, 1,
			     !dir);
		op_end(op);
		leave_all(test->priv);
		expect_unpinned(test, page);
		put_page(page);
	}
}

/*
 * A change of a part of a huge page does not concern I/O on other parts: when
 * the PMD is split, each of these stays where it was.
 */
static void test_huge_change(struct kunit *test)
{
	const struct change_case *c = test->param_value;
	static const unsigned int pages[] = { 0, 5, 300, 511 };
	struct nopin_range *range;
	struct bio_vec bvec[4];
	enum nopin_dir dir;
	unsigned int i, how;
	struct op *op;

	for (i = 0; i < 2 * ARRAY_SIZE(pages); i++) {
		unsigned long addr = map_thp(test);
		unsigned long io = addr + pages[i / 2] * PAGE_SIZE;
		unsigned long other = addr + (511 - pages[i / 2]) * PAGE_SIZE;

		dir = i % 2;
		how = i % 4 == 1 ? MEMALLOC : 0;
		enter_at(test, io, 1, dir, bvec);
		range = nopin_mm_find(current->mm, addr);
		op = op_mapping(test, c->fn, how, other, PAGE_SIZE);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		KUNIT_EXPECT_FALSE(test, maps_huge(addr));
		KUNIT_EXPECT_FALSE(test, was_pinned(io, dir));
		EXPECT_STATE(test, 1, range, nopin_index(range, io), 1, dir);
		check_bvec(test, io, PAGE_SIZE, bvec, 1);
		leave_all(test->priv);
		EXPECT_WALK(test, other, PAGE_SIZE, c->from, c->to);
		/* what nobody has changed could not be told from before */
		EXPECT_WALK(test, io, PAGE_SIZE, 0, 0);
	}
}

/* The huge zero page is different, other pages take its place */
static void test_split_huge_zero_page(struct kunit *test)
{
	unsigned long addr = map_thp(test), io = addr + 5 * PAGE_SIZE;
	struct nopin_range *range;
	struct bio_vec bvec[4];
	struct op *op;

	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, PMD_SIZE,
					 MADV_DONTNEED), 0);
	fault_read(test, addr, PMD_SIZE);
	if (!maps_huge(addr))
		kunit_skip(test, "no huge zero page");
	enter_at(test, io, 1, NOPIN_TO_DEVICE, bvec);
	range = nopin_mm_find(current->mm, addr);
	op = op_mapping(test, op_protect_fn, 0, addr + 100 * PAGE_SIZE,
			PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	KUNIT_EXPECT_FALSE(test, maps_huge(addr));
	EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range,
		     nopin_index(range, io), 1, NOPIN_TO_DEVICE);
	KUNIT_EXPECT_TRUE(test, was_pinned(io, NOPIN_TO_DEVICE));
	leave_all(test->priv);
	expect_opens(test, range, nopin_index(range, io), NOPIN_TO_DEVICE);
	EXPECT_WALK(test, io, PAGE_SIZE, -EFAULT, 0);
}

/* R9: writeback waits for devices that write memory, and for no others */
static void test_mkclean_waits(struct kunit *test)
{
	unsigned long addr = map_shmem(test, 4 * PAGE_SIZE, MAP_SHARED);
	unsigned short vcnt = 0;
	struct bio_vec bvec[4];
	struct op *op;

	fault_write(test, addr, 4 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, translate(test, addr, 4 * PAGE_SIZE,
					NOPIN_FROM_DEVICE, bvec, &vcnt), 0);
	op = op_mapping(test, op_mkclean_fn, 0, addr + PAGE_SIZE, 0);
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	leave_all(test->priv);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 1);
	EXPECT_WALK(test, addr, PAGE_SIZE, 0, 0);
	EXPECT_WALK(test, addr + PAGE_SIZE, PAGE_SIZE, -EFAULT, 0);

	fault_write(test, addr, 4 * PAGE_SIZE);
	EXPECT_WALK(test, addr, 4 * PAGE_SIZE, 0, 0);
	vcnt = 0;
	KUNIT_ASSERT_EQ(test, translate(test, addr, 4 * PAGE_SIZE,
					NOPIN_TO_DEVICE, bvec, &vcnt), 0);
	op = op_mapping(test, op_mkclean_fn, 0, addr + PAGE_SIZE, 0);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 1);
	check_bvec(test, addr, 4 * PAGE_SIZE, bvec, vcnt);
	leave_all(test->priv);
	EXPECT_WALK(test, addr + PAGE_SIZE, PAGE_SIZE, -EFAULT, 0);
}

/* What takes too long is pinned, and the process gets on with its change */
static void test_change_pins(struct kunit *test)
{
	const struct change_case *c = test->param_value;
	struct nopin_range *range;
	struct bio_vec bvec[4];
	enum nopin_dir dir;
	struct page *page;
	unsigned int i, n;
	struct op *op;
	bool shmem;

	for (n = 0; n < 4; n++) {
		unsigned long addr;

		dir = n % 2;
		shmem = n / 2;
		/* so long it does take only if there is something in it */
		WRITE_ONCE(nopin_rmap_wait_ms,
			   dir == NOPIN_FROM_DEVICE && (shmem || c->waits) ?
			   2 : LONG_WAIT_MS);
		addr = map_kind(test, shmem, 24 * PAGE_SIZE);
		enter_at(test, addr + 7 * PAGE_SIZE, 2, dir, bvec);
		page = get_page_at(addr + 7 * PAGE_SIZE);
		KUNIT_ASSERT_PTR_EQ(test, page, bvec[0].bv_page);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr);

		op = op_mapping(test, c->fn, 0, addr, 8 * PAGE_SIZE);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		KUNIT_EXPECT_TRUE(test, is_pinned(page));
		/* twice does not make a difference */
		op = op_mapping(test, op_munmap_fn, 0, addr, 8 * PAGE_SIZE);
		KUNIT_EXPECT_TRUE(test, op_done(op));

		/* nobody gets in, not even the other way, and only there */
		KUNIT_EXPECT_EQ(test, nopin_enter(range, i + 7, 1, dir),
				-EAGAIN);
		KUNIT_EXPECT_EQ(test, nopin_open(range, i + 7, 1, dir, NOWAIT),
				-EBUSY);
		KUNIT_EXPECT_EQ(test, nopin_open(range, i + 7, 1, !dir, NOWAIT),
				-EBUSY);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, i + 7, 1, dir);
		KUNIT_EXPECT_EQ(test, nopin_open(range, i + 8, 1, dir, NOWAIT),
				0);
		EXPECT_STATE(test, 1, range, i + 8, 1, dir);

		leave_all(test->priv);
		expect_unpinned(test, page);
		expect_opens(test, range, i + 7, dir);
		expect_opens(test, range, i + 7, !dir);
		EXPECT_STATE(test, 0, range, i + 7, 2, dir);
		put_page(page);
	}
}

/* The OOM reaper and reclaim do not wait for what cannot be refused: pinned */
static void test_no_wait_pins(struct kunit *test)
{
	static const unsigned int hows[] = { NONBLOCK, MEMALLOC };
	struct nopin_range *range;
	struct bio_vec bvec[4];
	enum nopin_dir dir;
	struct page *page;
	unsigned int i, n;
	struct op *op;

	for (n = 0; n < 8; n++) {
		unsigned int how = hows[n / 4];
		bool shmem = n / 2 % 2;
		unsigned long addr;

		dir = n % 2;
		addr = map_kind(test, shmem, 8 * PAGE_SIZE);
		enter_at(test, addr + 3 * PAGE_SIZE, 2, dir, bvec);
		page = get_page_at(addr + 3 * PAGE_SIZE);
		KUNIT_ASSERT_PTR_EQ(test, page, bvec[0].bv_page);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr + 3 * PAGE_SIZE);

		op = op_inval(test, range, MMU_NOTIFY_CLEAR, how, i - 3, 4);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		KUNIT_EXPECT_TRUE(test, is_pinned(page));
		KUNIT_EXPECT_TRUE(test, was_pinned(addr + 3 * PAGE_SIZE, dir));
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED | 1, range, i, 1, dir);
		EXPECT_STATE(test, 1, range, i + 1, 1, dir);
		op_end(op);
		leave_all(test->priv);
		expect_unpinned(test, page);
		put_page(page);
	}
}

/* A page that cannot be had for the moment: the OOM reaper goes, others wait */
static void test_cannot_pin(struct kunit *test)
{
	struct nopin_range *range;
	struct bio_vec bvec[4];
	struct folio *folio;
	enum nopin_dir dir;
	struct op *op;

	/* others wait for the I/O as well, so this is to be over soon */
	WRITE_ONCE(nopin_rmap_wait_ms, 100);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		unsigned long addr = map_kind(test, false, 8 * PAGE_SIZE);
		unsigned int i;

		enter_at(test, addr, 1, dir, bvec);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr);
		folio = page_folio(bvec[0].bv_page);
		lru_add_drain_all();
		/* as somebody does who moves or splits it */
		KUNIT_ASSERT_TRUE(test, folio_ref_freeze(folio, 1));
		op = op_inval(test, range, MMU_NOTIFY_CLEAR, NONBLOCK, i, 1);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		op_end(op);
		KUNIT_EXPECT_FALSE(test, was_pinned(addr, dir));

		op = op_inval(test, range, MMU_NOTIFY_CLEAR, 0, i, 1);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		msleep(300);
		KUNIT_EXPECT_FALSE(test, completion_done(&op->done));
		KUNIT_EXPECT_FALSE(test, was_pinned(addr, dir));
		folio_ref_unfreeze(folio, 1);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_TRUE(test, was_pinned(addr, dir));
		op_end(op);
		leave_all(test->priv);
		expect_opens(test, range, i, dir);
	}
}

/* One pin for all the bios of a page; the last one drops it, in an interrupt */
static void test_pin_dropped(struct kunit *test)
{
	struct irq_exit ie = {
		.work	= IRQ_WORK_INIT_HARD(irq_exit_fn),
	};
	struct nopin_range *range;
	struct bio_vec bvec[4];
	enum nopin_dir dir;
	struct page *page;
	unsigned int i;
	struct op *op;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		unsigned long addr = map_kind(test, false, 8 * PAGE_SIZE);

		enter_at(test, addr, 1, dir, bvec);
		enter_at(test, addr, 2, dir, bvec);
		enter_at(test, addr, 2, !dir, bvec);
		page = get_page_at(addr);
		KUNIT_ASSERT_PTR_EQ(test, page, bvec[0].bv_page);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr);
		op = op_mapping(test, op_munmap_fn, 0, addr, PAGE_SIZE);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_TRUE(test, was_pinned(addr, dir));
		KUNIT_EXPECT_TRUE(test, was_pinned(addr, !dir));

		/* one pin for each direction, and this is not the last */
		leave(test, range, i, 2, !dir);
		expect_drops(test, addr, !dir);
		leave(test, range, i, 1, dir);
		msleep(50);
		KUNIT_EXPECT_TRUE(test, is_pinned(page));
		KUNIT_EXPECT_TRUE(test, was_pinned(addr, dir));
		KUNIT_EXPECT_EQ(test, nopin_open(range, i, 1, !dir, NOWAIT),
				-EBUSY);

		ie.entered = forget(test, range, i, 2, dir);
		irq_work_queue(&ie.work);
		irq_work_sync(&ie.work);
		KUNIT_EXPECT_TRUE(test, ie.hardirq);
		expect_unpinned(test, page);
		expect_opens(test, range, i, dir);
		put_page(page);
	}
}

#define PINNED_CHUNKS	6

/* Many pages of a range are pinned: each comes free with its own I/O */
static void test_many_pins(struct kunit *test)
{
	static const unsigned int order[PINNED_CHUNKS] = { 3, 0, 5, 1, 4, 2 };
	size_t len = PINNED_CHUNKS * NOPIN_CACHE_SIZE;
	unsigned long addr = map_small(test, len + NOPIN_CACHE_SIZE), io;
	struct page *page[PINNED_CHUNKS];
	struct nopin_range *range;
	struct bio_vec bvec[4];
	unsigned int i, j;
	struct op *op;

	addr = ALIGN(addr, NOPIN_CACHE_SIZE);
	for (i = 0; i < PINNED_CHUNKS; i++) {
		io = addr + i * (NOPIN_CACHE_SIZE + PAGE_SIZE);
		fault_write(test, io, PAGE_SIZE);
		enter_at(test, io, 1, i % 2, bvec);
		page[i] = get_page_at(io);
		KUNIT_ASSERT_PTR_EQ(test, page[i], bvec[0].bv_page);
	}
	op = op_mapping(test, op_dontneed_fn, 0, addr, len);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);

	for (i = 0; i < PINNED_CHUNKS; i++) {
		for (j = i; j < PINNED_CHUNKS; j++)
			KUNIT_EXPECT_TRUE(test, is_pinned(page[order[j]]));
		io = addr + order[i] * (NOPIN_CACHE_SIZE + PAGE_SIZE);
		range = nopin_mm_find(current->mm, io);
		leave(test, range, nopin_index(range, io), 1, order[i] % 2);
		expect_unpinned(test, page[order[i]]);
		put_page(page[order[i]]);
	}
}

/* R17: the states of memory go with it, as soon as nobody uses them */
static void test_chunk_freed(struct kunit *test)
{
	unsigned long addr, io, len = NOPIN_CACHE_SIZE;
	struct nopin_range *range;
	struct bio_vec bvec[4];
	enum nopin_dir dir;
	struct page *page;
	unsigned int i;
	struct op *op;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		addr = ALIGN(map_small(test, 2 * len), len);
		io = addr + 77 * PAGE_SIZE;
		fault_write(test, addr, 100 * PAGE_SIZE);
		EXPECT_WALK(test, io, PAGE_SIZE, 0, 0);
		range = nopin_mm_find(current->mm, addr);
		i = nopin_index(range, addr);
		KUNIT_EXPECT_TRUE(test, has_states(range, i));

		/* the memory is there still, and may be used again */
		op = op_mapping(test, op_dontneed_fn, 0, addr, len);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_TRUE(test, has_states(range, i));
		fault_write(test, io, PAGE_SIZE);
		op = op_mapping(test, op_protect_fn, 0, addr, len);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_TRUE(test, has_states(range, i));
		KUNIT_ASSERT_EQ(test, protect(addr, len,
					      PROT_READ | PROT_WRITE), 0);
		fault_write(test, io, PAGE_SIZE);

		/* it is gone, but not the I/O */
		enter_at(test, io, 1, dir, bvec);
		page = get_page_at(io);
		KUNIT_ASSERT_PTR_EQ(test, page, bvec[0].bv_page);
		op = op_mapping(test, op_munmap_fn, 0, addr, len);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_TRUE(test, is_pinned(page));
		KUNIT_EXPECT_TRUE(test, has_states(range, i));
		/* no matter how long that takes */
		nopin_cache_age();
		nopin_cache_age();
		KUNIT_ASSERT_TRUE(test, has_states(range, i));
		leave_all(test->priv);
		expect_unpinned(test, page);
		put_page(page);
		expect_drops(test, io, dir);
		/* nobody comes and unmaps it once more */
		nopin_cache_age();
		nopin_cache_age();
		KUNIT_EXPECT_FALSE(test, has_states(range, i));

		/* with no I/O it goes at once */
		map_fixed(test, addr, len);
		fault_write(test, io, PAGE_SIZE);
		EXPECT_WALK(test, io, PAGE_SIZE, 0, 0);
		op = op_mapping(test, op_munmap_fn, 0, addr, len);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_FALSE(test, has_states(range, i));

		/* and comes back with the next one */
		map_fixed(test, addr, len);
		fault_write(test, io, PAGE_SIZE);
		check_translation(test, io, PAGE_SIZE, dir);
		KUNIT_EXPECT_TRUE(test, has_states(range, i));
		KUNIT_ASSERT_EQ(test, vm_munmap(addr, len), 0);
		KUNIT_EXPECT_FALSE(test, has_states(range, i));
	}
}

/* Neither writeback nor mprotect() waits for I/O that is not prompt */
static void test_other_pins(struct kunit *test)
{
	int (*const fn[])(struct op *) = { op_protect_fn, op_mkclean_fn };
	struct fixture *f = test->priv;
	struct nopin_range *range;
	struct bio_vec bvec[4];
	struct page *page;
	unsigned int i;
	struct op *op;

	for (i = 0; i < 4; i++) {
		bool shmem = i < 2;
		unsigned long addr = map_kind(test, shmem, 8 * PAGE_SIZE);

		/* of anonymous memory there is no writeback */
		if (!shmem && fn[i % 2] == op_mkclean_fn)
			continue;
		f->other = true;
		enter_at(test, addr + PAGE_SIZE, 2, NOPIN_FROM_DEVICE, bvec);
		f->other = false;
		range = nopin_mm_find(current->mm, addr);
		KUNIT_EXPECT_EQ(test, others(range, nopin_index(range, addr)),
				1);

		/* who can be refused is */
		op = op_mapping(test, op_migrate_fn, 0, addr + PAGE_SIZE, 0);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_NE(test, op->ret, 0);
		KUNIT_EXPECT_FALSE(test, was_pinned(addr + PAGE_SIZE,
						    NOPIN_FROM_DEVICE));
		page = get_page_at(addr + PAGE_SIZE);
		KUNIT_ASSERT_PTR_EQ(test, page, bvec[0].bv_page);

		op = op_mapping(test, fn[i % 2], 0, addr + PAGE_SIZE,
				PAGE_SIZE);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, fn[i % 2] == op_mkclean_fn);
		KUNIT_EXPECT_TRUE(test, is_pinned(page));
		KUNIT_EXPECT_TRUE(test, was_pinned(addr + PAGE_SIZE,
						   NOPIN_FROM_DEVICE));
		if (shmem)
			folio_test_clear_dirty(page_folio(page));
		leave_all(f);
		KUNIT_EXPECT_EQ(test, others(range, nopin_index(range, addr)),
				0);
		expect_unpinned(test, page);
		/* what the device wrote later is not lost */
		KUNIT_EXPECT_TRUE(test, folio_test_dirty(page_folio(page)));
		put_page(page);
	}
}

/* Prompt I/O elsewhere is waited for as ever */
static void test_other_elsewhere(struct kunit *test)
{
	unsigned long addr = map_shmem(test, 3 * NOPIN_CACHE_SIZE, MAP_SHARED);
	unsigned long prompt, other;
	struct fixture *f = test->priv;
	struct bio_vec bvec[4];
	struct op *op;

	other = ALIGN(addr, NOPIN_CACHE_SIZE);
	prompt = other + NOPIN_CACHE_SIZE;
	fault_write(test, other, PAGE_SIZE);
	fault_write(test, prompt, PAGE_SIZE);
	if (maps_huge(other) || maps_huge(prompt))
		kunit_skip(test, "shared memory is huge");
	f->other = true;
	enter_at(test, other, 1, NOPIN_FROM_DEVICE, bvec);
	f->other = false;
	enter_at(test, prompt, 1, NOPIN_FROM_DEVICE, bvec);

	/* one change of both is as much of a change */
	op = op_mapping(test, op_protect_fn, 0, other, 2 * NOPIN_CACHE_SIZE);
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	KUNIT_EXPECT_TRUE(test, was_pinned(other, NOPIN_FROM_DEVICE));
	KUNIT_EXPECT_FALSE(test, was_pinned(prompt, NOPIN_FROM_DEVICE));
	leave(test, nopin_mm_find(current->mm, prompt),
	      nopin_index(nopin_mm_find(current->mm, prompt), prompt), 1,
	      NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	leave_all(f);
}

/* What a device writes into a page that was cleaned meanwhile is not lost */
static void test_mkclean_pins(struct kunit *test)
{
	unsigned long addr = map_shmem(test, 4 * PAGE_SIZE, MAP_SHARED);
	struct bio_vec bvec[4];
	unsigned short vcnt = 0;
	struct folio *folio;
	struct page *page;
	struct op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, 2);
	fault_write(test, addr, 4 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, translate(test, addr, 4 * PAGE_SIZE,
					NOPIN_FROM_DEVICE, bvec, &vcnt), 0);
	page = get_page_at(addr + PAGE_SIZE);
	KUNIT_ASSERT_NOT_NULL(test, page);
	folio = page_folio(page);

	op = op_mapping(test, op_mkclean_fn, 0, addr + PAGE_SIZE, 0);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 1);
	KUNIT_EXPECT_TRUE(test, folio_maybe_dma_pinned(folio));
	folio_test_clear_dirty(folio);
	leave_all(test->priv);
	expect_unpinned(test, page);
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folio));
	put_page(page);
}

static int op_mkclean_all_fn(struct op *op)
{
	struct op sub = *op;

	for (; sub.addr < op->addr + op->len; sub.addr += PAGE_SIZE)
		op_mkclean_fn(&sub);
	return 0;
}

/* Page after page of a file: they are not waited for one after the other */
static void test_mkclean_late(struct kunit *test)
{
	unsigned long addr = map_shmem(test, SMALL_LEN, MAP_SHARED);
	const unsigned int nr = SMALL_LEN / PAGE_SIZE, ms = 200;
	unsigned short vcnt = 0;
	struct bio_vec *bvec;
	struct op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, ms);
	bvec = kunit_kcalloc(test, nr, sizeof(*bvec), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, bvec);
	fault_write(test, addr, SMALL_LEN);
	KUNIT_ASSERT_EQ(test, translate(test, addr, SMALL_LEN,
					NOPIN_FROM_DEVICE, bvec, &vcnt), 0);
	op = op_mapping(test, op_mkclean_all_fn, 0, addr, SMALL_LEN);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_GE(test, op->ms, ms / 2);
	KUNIT_EXPECT_LT(test, op->ms, nr * ms / 4);
	leave_all(test->priv);
}

#ifdef CONFIG_NUMA_BALANCING
/* As the scan of NUMA balancing does it */
static int op_hint_fn(struct op *op)
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
	unsigned long addr = map_small(test, 4 * PAGE_SIZE);
	struct nopin_range *range;
	struct bio_vec bvec[4];
	unsigned short vcnt = 0;
	struct page *page;
	struct op *op;

	fault_write(test, addr, 4 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, translate(test, addr, 4 * PAGE_SIZE,
					NOPIN_FROM_DEVICE, bvec, &vcnt), 0);
	page = get_page_at(addr);
	KUNIT_ASSERT_PTR_EQ(test, page, bvec[0].bv_page);
	op = op_mapping(test, op_hint_fn, 0, addr, 4 * PAGE_SIZE);
	KUNIT_EXPECT_FALSE(test, op_blocked(op));
	KUNIT_EXPECT_EQ(test, op->ret, 4);

	KUNIT_EXPECT_FALSE(test, is_pinned(page));
	range = nopin_mm_find(current->mm, addr);
	EXPECT_STATE(test, 1, range, nopin_index(range, addr), 4,
		     NOPIN_FROM_DEVICE);

	op = op_mapping(test, op_munmap_fn, 0, addr, PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_TRUE(test, is_pinned(page));
	leave_all(test->priv);
	expect_unpinned(test, page);
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
	bool huge = maps_huge(addr);
	unsigned short vcnt;
	struct bio_vec bvec[8];
	enum nopin_dir dir;
	struct page *page;
	unsigned int how;
	struct op *op;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		vcnt = 0;
		KUNIT_ASSERT_EQ(test, translate(test, addr, len, dir, bvec,
						&vcnt), 0);
		page = bvec[0].bv_page;

		/* R4: in reclaim without a wait, otherwise after some */
		for (how = 0; how <= MEMALLOC; how += MEMALLOC) {
			WRITE_ONCE(nopin_rmap_wait_ms, how ? LONG_WAIT_MS : 2);
			op = op_mapping(test, op_migrate_fn, how, addr, 0);
			KUNIT_EXPECT_TRUE(test, op_done(op));
			KUNIT_EXPECT_GT(test, op->ret, 0);
			KUNIT_EXPECT_EQ(test, maps_huge(addr), huge);
			check_bvec(test, addr, len, bvec, vcnt);
		}

		leave_all(test->priv);
		op = op_mapping(test, op_migrate_fn, 0, addr, 0);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		vcnt = 0;
		KUNIT_ASSERT_EQ(test, translate(test, addr, len, dir, bvec,
						&vcnt), 0);
		KUNIT_EXPECT_PTR_NE(test, bvec[0].bv_page, page);
		check_bvec(test, addr, len, bvec, vcnt);
		leave_all(test->priv);
	}
}

/* Migration of a small page */
static void test_migration(struct kunit *test)
{
	unsigned long addr = map_small(test, 4 * PAGE_SIZE);

	fault_write(test, addr, 4 * PAGE_SIZE);
	check_migration(test, addr, PAGE_SIZE);
}

/* Migration of a huge page of which one small part is used */
static void test_migration_thp(struct kunit *test)
{
	unsigned long addr = map_thp(test);

	check_migration(test, addr + 3 * PAGE_SIZE, 2 * PAGE_SIZE);
}

/* A huge page is not split under I/O on a part of it, nor is its mapping */
static void test_split_thp(struct kunit *test)
{
	unsigned long addr = map_thp(test);
	unsigned short vcnt = 0;
	struct bio_vec bvec[8];
	struct page *page;
	unsigned int how;
	struct op *op;

	fill(test, addr, PMD_SIZE);
	KUNIT_ASSERT_EQ(test, translate(test, addr + 3 * PAGE_SIZE,
					2 * PAGE_SIZE, NOPIN_FROM_DEVICE, bvec,
					&vcnt), 0);
	page = bvec[0].bv_page;
	for (how = 0; how <= MEMALLOC; how += MEMALLOC) {
		WRITE_ONCE(nopin_rmap_wait_ms, how ? LONG_WAIT_MS : 2);
		op = op_mapping(test, op_split_fn, how, addr, 0);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		KUNIT_EXPECT_TRUE(test, maps_huge(addr));
		check_bvec(test, addr + 3 * PAGE_SIZE, 2 * PAGE_SIZE, bvec,
			   vcnt);
	}

	leave_all(test->priv);
	op = op_mapping(test, op_split_fn, 0, addr, 0);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	KUNIT_EXPECT_FALSE(test, maps_huge(addr));
	fault_write(test, addr, PMD_SIZE);
	check_translation(test, addr, 2 * PMD_SIZE, NOPIN_FROM_DEVICE);

	/* the same pages as before */
	vcnt = 0;
	KUNIT_ASSERT_EQ(test, translate(test, addr + 3 * PAGE_SIZE,
					2 * PAGE_SIZE, NOPIN_FROM_DEVICE, bvec,
					&vcnt), 0);
	KUNIT_EXPECT_PTR_EQ(test, bvec[0].bv_page, page);
	leave_all(test->priv);
}

/* R4: reclaim that splits a page does not wait for I/O on its neighbours */
static void test_split_beside_io(struct kunit *test)
{
	unsigned long addr = map_thp(test);
	unsigned long other = addr + PMD_SIZE / 2;
	unsigned short vcnt = 0;
	struct bio_vec bvec[8];
	struct op *op;

	fill(test, addr, PMD_SIZE);
	/* half of the huge page makes room for another mapping */
	KUNIT_ASSERT_EQ(test, vm_munmap(other, PMD_SIZE / 2), 0);
	map_fixed(test, other, 4 * PAGE_SIZE);
	fault_write(test, other, 4 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, translate(test, other, 4 * PAGE_SIZE,
					NOPIN_FROM_DEVICE, bvec, &vcnt), 0);

	op = op_mapping(test, op_split_fn, MEMALLOC, addr, 0);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	check_bvec(test, other, 4 * PAGE_SIZE, bvec, vcnt);
	leave_all(test->priv);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	fault_write(test, addr, PMD_SIZE / 2);
	check_translation(test, addr, PMD_SIZE / 2 + 4 * PAGE_SIZE,
			  NOPIN_FROM_DEVICE);
}

/* A process that exits waits for what a device writes into pages of files */
static void test_exit_waits(struct kunit *test)
{
	unsigned long addr = map_shmem(test, 4 * PAGE_SIZE, MAP_SHARED);
	struct mm_struct *mm = current->mm;
	unsigned short vcnt = 0;
	struct bio_vec bvec[4];
	struct op *op;

	fault_write(test, addr, 4 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, translate(test, addr, 4 * PAGE_SIZE,
					NOPIN_FROM_DEVICE, bvec, &vcnt), 0);
	/* the process is gone, with this reference as its last one */
	kthread_unuse_mm(mm);
	op = op_run(test, &(struct op) { .fn = op_mmput_fn, .arg = mm });
	KUNIT_EXPECT_TRUE(test, op_blocked(op));
	if (!completion_done(&op->done)) {
		KUNIT_EXPECT_TRUE(test, page_mapped(bvec[0].bv_page));
		leave_all(test->priv);
	} else {
		/* the range is gone */
		((struct fixture *)test->priv)->nr_entered = 0;
	}
	KUNIT_EXPECT_TRUE(test, op_done(op));
}

/* It does not wait for the rest: that is pinned, and its range goes last */
static void test_exit_pins(struct kunit *test)
{
	unsigned long anon = map_kind(test, false, 4 * PAGE_SIZE);
	unsigned long shmem = map_kind(test, true, 4 * PAGE_SIZE);
	struct mm_struct *mm = current->mm;
	struct page *page[3];
	struct bio_vec bvec[4];
	unsigned int i;
	struct op *op;

	enter_at(test, anon, 1, NOPIN_FROM_DEVICE, bvec);
	enter_at(test, anon + 2 * PAGE_SIZE, 1, NOPIN_TO_DEVICE, bvec);
	enter_at(test, shmem, 1, NOPIN_TO_DEVICE, bvec);
	page[0] = get_page_at(anon);
	page[1] = get_page_at(anon + 2 * PAGE_SIZE);
	page[2] = get_page_at(shmem);
	for (i = 0; i < ARRAY_SIZE(page); i++)
		KUNIT_ASSERT_NOT_NULL(test, page[i]);
	kthread_unuse_mm(mm);
	op = op_run(test, &(struct op) { .fn = op_mmput_fn, .arg = mm });
	KUNIT_EXPECT_TRUE(test, op_done(op));
	for (i = 0; i < ARRAY_SIZE(page); i++) {
		KUNIT_EXPECT_FALSE(test, page_mapped(page[i]));
		KUNIT_EXPECT_TRUE(test, is_pinned(page[i]));
	}
	rcu_barrier();
	leave_all(test->priv);
	for (i = 0; i < ARRAY_SIZE(page); i++) {
		expect_unpinned(test, page[i]);
		put_page(page[i]);
	}
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
static int op_churn_fn(struct op *op)
{
	struct churn *c = op->arg;
	struct op sub = { .addr = c->addr };
	u32 seed = 42;
	int rounds = 0;

	while (!READ_ONCE(c->stop)) {
		unsigned long addr;
		size_t len;

		seed = next_pseudo_random32(seed);
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
			protect(addr, len, PROT_READ);
			protect(addr, len, PROT_READ | PROT_WRITE);
			break;
		case 4:
			op_migrate_fn(&sub);
			break;
		case 5:
			op_split_fn(&sub);
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
	now = get_page_at(addr);
	if (now)
		put_page(now);
	return now == page;
}

/* @find enters and translates; it gets the same address @repeat times */
static void churn(struct kunit *test, unsigned int repeat,
		  int (*find)(struct kunit *test, unsigned long addr,
			      size_t len, enum nopin_dir dir,
			      struct bio_vec *bvec, unsigned short *vcnt))
{
	unsigned int served = 0, refused = 0, pinned = 0, bad = 0, i;
	struct bio_vec bvec[4];
	enum nopin_dir dir;
	struct churn *c;
	struct op *op;
	u32 seed = 7;

	c = kunit_kzalloc(test, sizeof(*c), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, c);
	c->len = PMD_SIZE;
	c->addr = ALIGN(map_anon(test, 2 * PMD_SIZE), PMD_SIZE);
	fault_write(test, c->addr, c->len);
	WRITE_ONCE(nopin_rmap_wait_ms, 5);
	op = op_run(test, &(struct op) {
		.fn	= op_churn_fn,
		.mm	= current->mm,
		.arg	= c,
	});

	for (i = 0; i < CHURN_ROUNDS * repeat; i++) {
		unsigned long addr, *dev;
		unsigned short vcnt = 0;
		struct page *page;

		if (i % repeat == 0)
			seed = next_pseudo_random32(seed);
		dir = seed >> 31;
		addr = c->addr + (seed >> 8) % CHURN_PAGES * PAGE_SIZE +
		       (seed >> 16) % 32 * sizeof(*dev);

		/* the mapping may be read-only for the moment */
		if (fault_in_safe_writeable((char __user *)addr, sizeof(*dev)) ||
		    find(test, addr, sizeof(*dev), dir, bvec, &vcnt)) {
			refused++;
			cond_resched();
			continue;
		}
		served++;
		page = bvec[0].bv_page + bvec[0].bv_offset / PAGE_SIZE;
		dev = kmap_local_page(page) + bvec[0].bv_offset % PAGE_SIZE;
		if (dir == NOPIN_FROM_DEVICE)
			WRITE_ONCE(*dev, seed + i);
		if (!(seed & 0x700))
			usleep_range(50, 200);
		if (!still_there(addr, page, dev)) {
			if (was_pinned(addr, dir))
				pinned++;
			else
				bad++;
		}
		kunmap_local(dev);
		leave_all(test->priv);
		cond_resched();
	}
	WRITE_ONCE(c->stop, true);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, bad, 0);
	KUNIT_EXPECT_GT(test, served, 0);
	kunit_info(test, "served %u, refused %u, pinned %u, %d changes\n",
		   served, refused, pinned, op->ret);
}

/*
 * R1: the process sees what the device wrote, as long as a page is entered and
 * not pinned
 */
static void test_churn(struct kunit *test)
{
	churn(test, 1, translate);
}

static struct kunit_case mapping_cases[] = {
	KUNIT_CASE_PARAM(test_change, change_gen_params),
	KUNIT_CASE_PARAM(test_event, event_gen_params),
	KUNIT_CASE_PARAM(test_huge_change, change_gen_params),
	KUNIT_CASE(test_split_huge_zero_page),
	KUNIT_CASE(test_mkclean_waits),
	KUNIT_CASE_PARAM(test_change_pins, change_gen_params),
	KUNIT_CASE(test_no_wait_pins),
	KUNIT_CASE(test_cannot_pin),
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
	KUNIT_CASE(test_churn),
	{}
};

static struct kunit_suite mapping_suite = {
	.name		= "nopin-mapping",
	.init		= fixture_init,
	.exit		= fixture_exit,
	.test_cases	= mapping_cases,
};

/*
 * nopin-cache
 *
 * Most of it is on an mm without mappings, with page structs that nobody looks
 * into for what a walk would have found.
 */

#define CACHE_ADDR	(4UL << NOPIN_MM_SHIFT)
/* Pages that are open at the beginning, in chunks that were walked enough */
#define CACHE_PAGES	(2 * NOPIN_CHUNK_PAGES)

static unsigned long cache_addr(unsigned int page)
{
	return CACHE_ADDR + page * PAGE_SIZE;
}

/*
 * Of many that are adjacent: those of the kernel. They are never freed, and so
 * nobody minds that nopin_cache_age() marks them as referenced.
 */
static struct page *some_page(struct kunit *test)
{
	KUNIT_ASSERT_GT(test, _end - _text, 3 * CACHE_PAGES * PAGE_SIZE);
	return pfn_to_page(PHYS_PFN(__pa_symbol(_text)));
}

static void enter_opened(struct kunit *test, struct nopin_range *range,
			 unsigned int first, unsigned int nr,
			 enum nopin_dir dir)
{
	unsigned int tries = 100;
	int ret;

	while ((ret = enter(test, range, first, nr, dir)) == -EAGAIN && --tries)
		nopin_open(range, first, nr, dir, open_flags(test));
	KUNIT_ASSERT_EQ(test, ret, 0);
}

/* I/O that finds those pages, adjacent from @page on, in the page tables */
static void learn(struct kunit *test, struct nopin_range *range,
		  unsigned int first, unsigned int nr, enum nopin_dir dir,
		  struct page *page, bool huge)
{
	struct bio_vec bv;

	bvec_set_page(&bv, page, nr * PAGE_SIZE, 0);
	enter_opened(test, range, first, nr, dir);
	nopin_learn(range, first, nr, dir, &bv, 0, huge);
	leave(test, range, first, nr, dir);
}

/* The first pages that are looked up do not count, see test_threshold() */
static void walk_chunk(struct kunit *test, struct nopin_range *range,
		       unsigned int first)
{
	learn(test, range, first, NOPIN_CHUNK_PAGES, NOPIN_TO_DEVICE,
	      some_page(test), false);
}

/* The whole chunk, both directions */
static void learn_chunk(struct kunit *test, struct nopin_range *range,
			unsigned int first, bool huge)
{
	struct page *page = some_page(test) + first;

	learn(test, range, first, NOPIN_CHUNK_PAGES, NOPIN_FROM_DEVICE, page,
	      huge);
	learn(test, range, first, NOPIN_CHUNK_PAGES, NOPIN_TO_DEVICE, page,
	      huge);
}

/* Where the page @i behind @first is, given what nopin_cached() returned */
static struct page *cached_page(const struct bio_vec *bv, unsigned int first,
				unsigned int i)
{
	if (bv->bv_len == NOPIN_CACHE_SIZE && !bv->bv_offset)
		return bv->bv_page + first % NOPIN_CHUNK_PAGES + i;
	if (bv[i].bv_len != PAGE_SIZE || bv[i].bv_offset)
		return NULL;
	return bv[i].bv_page;
}

static unsigned int wrong_pages(const struct bio_vec *bv, unsigned int first,
				unsigned int nr, struct page *page)
{
	unsigned int i, wrong = 0;

	for (i = 0; i < nr; i++)
		wrong += cached_page(bv, first, i) != page + i;
	return wrong;
}

static void expect_cached(int line, struct kunit *test,
			  struct nopin_range *range, unsigned int first,
			  unsigned int nr, enum nopin_dir dir,
			  struct page *page)
{
	const struct bio_vec *bv;

	enter_opened(test, range, first, nr, dir);
	bv = nopin_cached(range, first, nr, dir);
	KUNIT_EXPECT_EQ_MSG(test, !!bv, !!page, "in line %d", line);
	if (bv && page)
		KUNIT_EXPECT_EQ_MSG(test, wrong_pages(bv, first, nr, page), 0,
				    "in line %d", line);
	leave(test, range, first, nr, dir);
}

/* That these pages are known, adjacent from the given one on, or not known */
#define EXPECT_CACHED(...)	expect_cached(__LINE__, __VA_ARGS__)
#define EXPECT_UNKNOWN(...)	expect_cached(__LINE__, __VA_ARGS__, NULL)

/* A change that nobody is in the way of; what there is stays in use */
static void change(struct nopin_range *range, unsigned int first,
		   unsigned int nr)
{
	struct mmu_notifier_range mn;

	inval_init(&mn, range, MMU_NOTIFY_CLEAR, 0, first, nr);
	mmu_notifier_invalidate_range_start(&mn);
	inval_end(&mn);
}

static unsigned int count_cached(struct nopin_range *range)
{
	return nopin_count_cached(range, 0, CACHE_PAGES);
}

static const struct bio_vec *enter_cached(struct kunit *test,
					  struct mm_struct *mm,
					  unsigned long addr, size_t len,
					  enum nopin_dir dir,
					  struct nopin_extent *ext)
{
	size_t nr = DIV_ROUND_UP(offset_in_page(addr) + len, PAGE_SIZE);
	struct fixture *f = test->priv;
	struct nopin_chunk *chunk;
	bool entered;

	KUNIT_ASSERT_LT(test, f->nr_entered, MAX_ENTERED);
	rcu_read_lock();
	chunk = nopin_mm_chunk(mm, addr);
	entered = chunk && nopin_enter_cached(chunk, addr, nr, dir, !f->other,
					      ext);
	rcu_read_unlock();
	if (!entered)
		return NULL;
	f->entered[f->nr_entered++] = (struct entered) {
		.range	= ext->range,
		.first	= ext->first,
		.nr	= ext->nr,
		.dir	= dir,
		.other	= ext->other,
	};
	return nopin_bvec(&chunk->cache, nopin_start(addr));
}

static void expect_no_entry(int line, struct kunit *test, unsigned long addr,
			    size_t len, enum nopin_dir dir)
{
	struct fixture *f = test->priv;
	struct nopin_extent ext;

	KUNIT_EXPECT_NULL_MSG(test, enter_cached(test, f->mm, addr, len, dir,
						 &ext), "in line %d", line);
}

/* That nopin_enter_cached() declines; see to it that it left nothing behind */
#define EXPECT_NO_ENTRY(...)	expect_no_entry(__LINE__, __VA_ARGS__)

static int cache_init(struct kunit *test)
{
	struct nopin_range *range;
	struct fixture *f;
	unsigned int i;
	int ret;

	ret = fixture_init(test);
	if (ret)
		return ret;
	f = test->priv;
	f->mm = mm_alloc();
	if (!f->mm)
		return -ENOMEM;
	range = nopin_mm_get(f->mm, CACHE_ADDR);
	if (IS_ERR(range))
		return PTR_ERR(range);
	f->cached = range;
	open_pages(test, range, 0, CACHE_PAGES, NOPIN_FROM_DEVICE);
	open_pages(test, range, 0, CACHE_PAGES, NOPIN_TO_DEVICE);
	for (i = 0; i < CACHE_PAGES; i += NOPIN_CHUNK_PAGES)
		walk_chunk(test, range, i);
	return 0;
}

static void cache_exit(struct kunit *test)
{
	struct fixture *f = test->priv;
	enum nopin_dir dir;
	unsigned int i;

	if (!f)
		return;
	leave_all(f);
	/* What was entered by mistake would keep the mm from going away */
	for (i = 0; f->cached && i < 2 * CACHE_PAGES; i++)
		for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
			while (state(f->cached, i, dir) & NOPIN_PAGE_MAX)
				nopin_exit(f->cached, i, 1, dir);
	fixture_exit(test);
}

/* Memory that is used once or twice is not kept, and each chunk counts alone */
static void test_threshold(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	unsigned int a = CACHE_PAGES, b = a + NOPIN_CHUNK_PAGES;

	learn(test, range, a, NOPIN_CHUNK_PAGES - 2, NOPIN_TO_DEVICE, page,
	      false);
	learn(test, range, b, NOPIN_CHUNK_PAGES - 1, NOPIN_TO_DEVICE, page,
	      false);
	/* the same page over and over is as good as another one */
	learn(test, range, a, 1, NOPIN_FROM_DEVICE, page, false);
	learn(test, range, a, 1, NOPIN_TO_DEVICE, page, false);
	KUNIT_EXPECT_EQ(test, nopin_count_cached(range, a, a + CACHE_PAGES),
			0);
	EXPECT_UNKNOWN(test, range, a, 1, NOPIN_FROM_DEVICE);
	EXPECT_UNKNOWN(test, range, a, 1, NOPIN_TO_DEVICE);

	learn(test, range, a + 7, 3, NOPIN_FROM_DEVICE, page + 7, false);
	KUNIT_EXPECT_EQ(test, nopin_count_cached(range, a, a + CACHE_PAGES),
			3);
	EXPECT_CACHED(test, range, a + 7, 3, NOPIN_FROM_DEVICE, page + 7);
	EXPECT_UNKNOWN(test, range, a, 1, NOPIN_FROM_DEVICE);

	/* that one is a page short still */
	learn(test, range, b, 1, NOPIN_FROM_DEVICE, page, false);
	EXPECT_UNKNOWN(test, range, b, 1, NOPIN_FROM_DEVICE);
	learn(test, range, b, 1, NOPIN_FROM_DEVICE, page, false);
	EXPECT_CACHED(test, range, b, 1, NOPIN_FROM_DEVICE, page);
}

/* An invalidation of a page forgets this one, which is missed by who needs it */
static void test_unknown_page(struct kunit *test)
{
	static const unsigned int pages[] = {
		0, 1, 7, 8, 63, 64, 100, 127, NOPIN_CHUNK_PAGES - 1,
	};
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	enum nopin_dir dir;
	unsigned int i;

	learn_chunk(test, range, 0, false);
	learn_chunk(test, range, NOPIN_CHUNK_PAGES, false);
	KUNIT_EXPECT_EQ(test, count_cached(range), CACHE_PAGES);
	for (i = 0; i < 2 * ARRAY_SIZE(pages); i++) {
		unsigned int bad = pages[i / 2], next = bad + 1;

		dir = i % 2;
		change(range, bad, 1);
		KUNIT_EXPECT_EQ(test, count_cached(range), CACHE_PAGES - 1);
		EXPECT_UNKNOWN(test, range, bad, 1, dir);
		EXPECT_UNKNOWN(test, range, 0, NOPIN_CHUNK_PAGES, dir);
		EXPECT_UNKNOWN(test, range, 0, next, dir);
		EXPECT_UNKNOWN(test, range, bad, NOPIN_CHUNK_PAGES - bad, dir);
		if (bad)
			EXPECT_CACHED(test, range, 0, bad, dir, page);
		if (next < NOPIN_CHUNK_PAGES)
			EXPECT_CACHED(test, range, next,
				      NOPIN_CHUNK_PAGES - next, dir,
				      page + next);

		/* another page is there now */
		learn(test, range, bad, 1, dir, page + 2 * CACHE_PAGES, false);
		EXPECT_CACHED(test, range, bad, 1, dir, page + 2 * CACHE_PAGES);
		change(range, bad, 1);
		learn(test, range, bad, 1, NOPIN_FROM_DEVICE, page + bad,
		      false);
		learn(test, range, bad, 1, NOPIN_TO_DEVICE, page + bad, false);
		EXPECT_CACHED(test, range, 0, NOPIN_CHUNK_PAGES, dir, page);
	}
	EXPECT_CACHED(test, range, NOPIN_CHUNK_PAGES, NOPIN_CHUNK_PAGES,
		      NOPIN_FROM_DEVICE, page + NOPIN_CHUNK_PAGES);

	/* from one chunk to the next */
	change(range, NOPIN_CHUNK_PAGES - 2, 5);
	KUNIT_EXPECT_EQ(test, count_cached(range), CACHE_PAGES - 5);
	EXPECT_CACHED(test, range, 0, NOPIN_CHUNK_PAGES - 2, NOPIN_TO_DEVICE,
		      page);
	EXPECT_UNKNOWN(test, range, NOPIN_CHUNK_PAGES - 2, 1, NOPIN_TO_DEVICE);
	EXPECT_UNKNOWN(test, range, NOPIN_CHUNK_PAGES + 2, 1, NOPIN_TO_DEVICE);
	EXPECT_CACHED(test, range, NOPIN_CHUNK_PAGES + 3, 100, NOPIN_TO_DEVICE,
		      page + NOPIN_CHUNK_PAGES + 3);
}

/* What a device may read is not what it may write, but it is the same page */
static void test_directions(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	const struct bio_vec *bv[NOPIN_NR_DIRS];
	unsigned int first;
	enum nopin_dir dir;
	bool huge;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		huge = dir == NOPIN_TO_DEVICE;
		first = dir * NOPIN_CHUNK_PAGES;
		learn(test, range, first + 60, 10, dir, page + 60, huge);
		EXPECT_CACHED(test, range, first + 60, 10, dir, page + 60);
		EXPECT_UNKNOWN(test, range, first + 60, 10, !dir);
		EXPECT_UNKNOWN(test, range, first + 62, 1, !dir);

		enter_opened(test, range, first + 60, 10, dir);
		bv[dir] = nopin_cached(range, first + 60, 10, dir);
		learn(test, range, first + 62, 1, !dir, page + 62, huge);
		EXPECT_CACHED(test, range, first + 62, 1, !dir, page + 62);
		EXPECT_UNKNOWN(test, range, first + 62, 2, !dir);

		enter_opened(test, range, first + 62, 1, !dir);
		bv[!dir] = nopin_cached(range, first + 62, 1, !dir);
		KUNIT_EXPECT_NOT_NULL(test, bv[dir]);
		KUNIT_EXPECT_PTR_EQ(test, bv[dir] + (huge ? 0 : 2), bv[!dir]);
		leave_all(f);
	}
	KUNIT_EXPECT_EQ(test, count_cached(range), 20);
}

/**
 * struct learn_case - memory of some I/O, as a bio has it
 * @nr: number of pages
 * @skip: bytes in @bv that are of other memory
 * @bv: bio_vecs, with numbers of pages
 * @to: the pages that are to be found in there
 */
struct learn_case {
	unsigned int	nr;
	size_t		skip;
	struct {
		unsigned int	page;
		unsigned int	offset;
		unsigned int	len;
	}		bv[4];
	unsigned int	to[6];
};

static const struct learn_case learn_cases[] = {
	{ 1, 0, { { 9, 512, 512 } }, { 9 } },
	{ 6, 0, { { 10, 512, 3 * PAGE_SIZE - 512 },
		  { 77, 0, PAGE_SIZE },
		  { 33, 0, 2 * PAGE_SIZE - 512 } },
	  { 10, 11, 12, 77, 33, 34 } },
	/* what comes first is other memory, in the same bio_vec or not */
	{ 3, 2 * PAGE_SIZE - 512,
	  { { 20, 512, 5 * PAGE_SIZE - 512 } }, { 22, 23, 24 } },
	{ 2, PAGE_SIZE, { { 40, 0, PAGE_SIZE }, { 50, 0, 2 * PAGE_SIZE } },
	  { 50, 51 } },
	{ 3, 2 * PAGE_SIZE + 512,
	  { { 40, 0, 512 }, { 45, 0, 3 * PAGE_SIZE },
	    { 60, 0, 2 * PAGE_SIZE } },
	  { 47, 60, 61 } },
	/* the rest of a page that another piece begins */
	{ 2, 512, { { 70, 0, 2 * PAGE_SIZE } }, { 70, 71 } },
};

/* From the bio_vecs of a bio, wherever they begin and however long they are */
static void test_learn_pieces(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	unsigned int i, j, first;
	enum nopin_dir dir;

	for (i = 0; i < 2 * ARRAY_SIZE(learn_cases); i++) {
		const struct learn_case *b = &learn_cases[i / 2];
		struct bio_vec bvec[4] = {};

		dir = i % 2;
		first = 61 + i;
		for (j = 0; j < ARRAY_SIZE(bvec); j++)
			bvec_set_page(&bvec[j], page + b->bv[j].page,
				      b->bv[j].len, b->bv[j].offset);
		enter_opened(test, range, first, b->nr, dir);
		nopin_learn(range, first, b->nr, dir, bvec, b->skip, false);
		leave(test, range, first, b->nr, dir);

		KUNIT_EXPECT_EQ(test, count_cached(range), b->nr);
		for (j = 0; j < b->nr; j++)
			EXPECT_CACHED(test, range, first + j, 1, dir,
				      page + b->to[j]);
		change(range, first, b->nr);
	}
}

/* Forgotten is what the change affects, and not before the I/O on it is done */
static void test_forgets_when_idle(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	const struct bio_vec *bv;
	enum nopin_dir dir;
	struct op *op;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		learn_chunk(test, range, 0, false);
		enter_opened(test, range, 60, 9, dir);
		bv = nopin_cached(range, 60, 9, dir);
		KUNIT_EXPECT_NOT_NULL(test, bv);

		op = op_rmap(test, range, 0, 64, 1);
		KUNIT_EXPECT_TRUE(test, op_blocked(op));
		KUNIT_EXPECT_PTR_EQ(test, nopin_cached(range, 60, 9, dir), bv);
		if (bv)
			KUNIT_EXPECT_EQ(test, wrong_pages(bv, 60, 9, page + 60),
					0);
		leave(test, range, 60, 9, dir);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		op_end(op);

		EXPECT_UNKNOWN(test, range, 64, 1, NOPIN_FROM_DEVICE);
		EXPECT_UNKNOWN(test, range, 64, 1, NOPIN_TO_DEVICE);
		KUNIT_EXPECT_EQ(test, count_cached(range),
				NOPIN_CHUNK_PAGES - 1);
		EXPECT_CACHED(test, range, 0, 64, NOPIN_FROM_DEVICE, page);
		EXPECT_CACHED(test, range, 0, 64, NOPIN_TO_DEVICE, page);
		EXPECT_CACHED(test, range, 65, 100, NOPIN_FROM_DEVICE,
			      page + 65);
		EXPECT_CACHED(test, range, 65, 100, NOPIN_TO_DEVICE,
			      page + 65);
	}
}

/* A change that does not happen makes nothing wrong */
static void test_refused_forgets_nothing(struct kunit *test)
{
	static const unsigned int how[] = { REFUSABLE, REFUSABLE | MEMALLOC };
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	enum nopin_dir dir;
	struct op *op;
	unsigned int i;

	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	for (i = 0; i < 2 * ARRAY_SIZE(how); i++) {
		dir = i % 2;
		learn_chunk(test, range, 0, false);
		enter_opened(test, range, 20, 1, dir);
		op = op_inval(test, range, MMU_NOTIFY_CLEAR, how[i / 2], 0,
			      100);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		op_end(op);
		leave(test, range, 20, 1, dir);
		EXPECT_CACHED(test, range, 0, 100, NOPIN_FROM_DEVICE, page);
		EXPECT_CACHED(test, range, 0, 100, NOPIN_TO_DEVICE, page);

		/* and now it does */
		op = op_inval(test, range, MMU_NOTIFY_CLEAR, how[i / 2], 0,
			      100);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		op_end(op);
		KUNIT_EXPECT_EQ(test, count_cached(range),
				NOPIN_CHUNK_PAGES - 100);
		EXPECT_UNKNOWN(test, range, 20, 1, dir);
	}
}

/* From one bio_vec to one per page, under the eyes of I/O that uses the one */
static void test_break_up(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test), *other = page + 2 * CACHE_PAGES;
	const struct bio_vec *bv, *now;
	struct bio_vec copy = {};
	enum nopin_dir dir;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		learn_chunk(test, range, 0, true);
		enter_opened(test, range, 0, 70, dir);
		bv = nopin_cached(range, 0, 70, dir);
		KUNIT_ASSERT_NOT_NULL(test, bv);
		copy = *bv;
		KUNIT_EXPECT_EQ(test, bv->bv_len, NOPIN_CACHE_SIZE);
		KUNIT_EXPECT_PTR_EQ(test, bv->bv_page, page);

		/* two pages elsewhere become others, and one is used */
		change(range, 100, 1);
		change(range, 200, 1);
		EXPECT_CACHED(test, range, 101, 99, !dir, page + 101);
		learn(test, range, 100, 1, dir, other, false);
		EXPECT_CACHED(test, range, 100, 1, dir, other);
		EXPECT_UNKNOWN(test, range, 100, 1, !dir);
		EXPECT_UNKNOWN(test, range, 200, 1, dir);
		EXPECT_CACHED(test, range, 0, 100, NOPIN_FROM_DEVICE, page);
		EXPECT_CACHED(test, range, 0, 100, NOPIN_TO_DEVICE, page);
		EXPECT_CACHED(test, range, 101, 99, NOPIN_FROM_DEVICE,
			      page + 101);
		EXPECT_CACHED(test, range, 201, 311, NOPIN_TO_DEVICE,
			      page + 201);
		now = nopin_cached(range, 0, 70, dir);
		KUNIT_ASSERT_NOT_NULL(test, now);
		KUNIT_EXPECT_EQ(test, now->bv_len, PAGE_SIZE);

		/* the other one may be used by then */
		learn(test, range, 200, 1, dir, other, false);
		EXPECT_CACHED(test, range, 200, 1, dir, other);
		EXPECT_CACHED(test, range, 100, 1, dir, other);
		KUNIT_EXPECT_MEMEQ(test, bv, &copy, sizeof(copy));
		leave(test, range, 0, 70, dir);

		/* and huge again, elsewhere, when nothing is left */
		change(range, 0, NOPIN_CHUNK_PAGES);
		KUNIT_EXPECT_EQ(test, count_cached(range), 0);
		learn(test, range, 5, 3, dir, other + 5, true);
		EXPECT_CACHED(test, range, 5, 3, dir, other + 5);
		enter_opened(test, range, 5, 3, dir);
		bv = nopin_cached(range, 5, 3, dir);
		KUNIT_ASSERT_NOT_NULL(test, bv);
		KUNIT_EXPECT_EQ(test, bv->bv_len, NOPIN_CACHE_SIZE);
		KUNIT_EXPECT_PTR_EQ(test, bv->bv_page, other);
		leave_all(f);
		change(range, 0, NOPIN_CHUNK_PAGES);
	}
}

static int is_young(struct kunit *test, unsigned int page)
{
	struct fixture *f = test->priv;

	return mmu_notifier_test_young(f->mm, cache_addr(page));
}

static int clear_young(struct kunit *test, unsigned int first, unsigned int nr)
{
	struct fixture *f = test->priv;

	return mmu_notifier_clear_young(f->mm, cache_addr(first),
					cache_addr(first + nr));
}

/* R14: reclaim learns of use that is not in the PTEs, once if it wants */
static void test_young(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	struct nopin_extent ext;
	enum nopin_dir dir;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_FALSE(test, is_young(test, 5));
		KUNIT_EXPECT_FALSE(test, clear_young(test, 5, 1));
		learn(test, range, 5, 2, dir, page + 5, false);
		/* to look does not change it */
		KUNIT_EXPECT_TRUE(test, is_young(test, 5));
		KUNIT_EXPECT_TRUE(test, is_young(test, 5));
		KUNIT_EXPECT_TRUE(test, is_young(test, 6));
		KUNIT_EXPECT_FALSE(test, is_young(test, 4));
		KUNIT_EXPECT_FALSE(test, is_young(test, 7));

		KUNIT_EXPECT_TRUE(test, clear_young(test, 5, 1));
		KUNIT_EXPECT_FALSE(test, clear_young(test, 5, 1));
		KUNIT_EXPECT_FALSE(test, is_young(test, 5));
		KUNIT_EXPECT_TRUE(test, is_young(test, 6));

		/* known all the same, and whoever uses it makes it young */
		KUNIT_EXPECT_EQ(test, count_cached(range), 2);
		EXPECT_CACHED(test, range, 5, 2, dir, page + 5);
		KUNIT_EXPECT_TRUE(test, is_young(test, 5));
		KUNIT_EXPECT_TRUE(test, clear_young(test, 0, 100));
		KUNIT_EXPECT_FALSE(test, is_young(test, 6));
		EXPECT_NO_ENTRY(test, cache_addr(6), 512, dir);
		EXPECT_CACHED(test, range, 6, 1, dir, page + 6);
		KUNIT_EXPECT_NOT_NULL(test, enter_cached(test, f->mm,
							 cache_addr(6), 512,
							 dir, &ext));
		leave_all(f);
		KUNIT_EXPECT_FALSE(test, is_young(test, 5));
		KUNIT_EXPECT_TRUE(test, is_young(test, 6));

		/* some of many */
		learn(test, range, 60, 100, dir, page + 60, false);
		KUNIT_EXPECT_TRUE(test, clear_young(test, 64, 1));
		KUNIT_EXPECT_TRUE(test, is_young(test, 63));
		KUNIT_EXPECT_FALSE(test, is_young(test, 64));
		KUNIT_EXPECT_TRUE(test, is_young(test, 65));
		EXPECT_CACHED(test, range, 60, 100, dir, page + 60);
		KUNIT_EXPECT_TRUE(test, is_young(test, 64));
		KUNIT_EXPECT_TRUE(test, clear_young(test, 127, 2));
		KUNIT_EXPECT_FALSE(test, is_young(test, 127));
		KUNIT_EXPECT_FALSE(test, is_young(test, 128));
		KUNIT_EXPECT_TRUE(test, is_young(test, 126));
		KUNIT_EXPECT_TRUE(test, is_young(test, 129));
		EXPECT_NO_ENTRY(test, cache_addr(60), 100 * PAGE_SIZE, dir);
		EXPECT_CACHED(test, range, 60, 100, dir, page + 60);
		KUNIT_EXPECT_NOT_NULL(test, enter_cached(test, f->mm,
							 cache_addr(60),
							 100 * PAGE_SIZE, dir,
							 &ext));
		leave_all(f);
		KUNIT_EXPECT_TRUE(test, is_young(test, 127));
		KUNIT_EXPECT_TRUE(test, is_young(test, 128));

		/* what is forgotten is not young */
		change(range, 6, 1);
		KUNIT_EXPECT_FALSE(test, is_young(test, 6));
		KUNIT_EXPECT_TRUE(test, is_young(test, 63));

		/* all of it, from before the range to behind it */
		learn(test, range, NOPIN_CHUNK_PAGES, 1, dir,
		      page + NOPIN_CHUNK_PAGES, false);
		KUNIT_EXPECT_TRUE(test, is_young(test, NOPIN_CHUNK_PAGES));
		KUNIT_EXPECT_TRUE(test, mmu_notifier_clear_young(f->mm, 0,
								 2 * CACHE_ADDR));
		KUNIT_EXPECT_FALSE(test, mmu_notifier_clear_young(f->mm, 0,
								  2 * CACHE_ADDR));
		KUNIT_EXPECT_FALSE(test, is_young(test, 63));
		KUNIT_EXPECT_FALSE(test, is_young(test, NOPIN_CHUNK_PAGES));
		change(range, 0, CACHE_PAGES);
	}
}

/* A page counts once, whatever the directions and the chunks */
static void test_count_cached(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	unsigned int last = NOPIN_CHUNK_PAGES - 1;

	KUNIT_EXPECT_EQ(test, count_cached(range), 0);
	learn(test, range, 60, 10, NOPIN_FROM_DEVICE, page + 60, false);
	learn(test, range, 65, 15, NOPIN_TO_DEVICE, page + 65, false);
	learn(test, range, last, 1, NOPIN_TO_DEVICE, page, false);
	learn(test, range, last + 1, 2, NOPIN_FROM_DEVICE, page, true);
	KUNIT_EXPECT_EQ(test, count_cached(range), 23);
	KUNIT_EXPECT_EQ(test, nopin_count_cached(range, 0, range->nr_pages),
			23);
	KUNIT_EXPECT_EQ(test, nopin_count_cached(range, 0, 60), 0);
	KUNIT_EXPECT_EQ(test, nopin_count_cached(range, 0, 61), 1);
	KUNIT_EXPECT_EQ(test, nopin_count_cached(range, 62, 67), 5);
	KUNIT_EXPECT_EQ(test, nopin_count_cached(range, 79, last), 1);
	KUNIT_EXPECT_EQ(test, nopin_count_cached(range, last, last + 2), 2);
	KUNIT_EXPECT_EQ(test, nopin_count_cached(range, 65, 65), 0);

	/* the same by address; part of a page will do */
	KUNIT_EXPECT_EQ(test, nopin_mm_count_cached(f->mm, cache_addr(60) + 42,
						    1), 1);
	KUNIT_EXPECT_EQ(test, nopin_mm_count_cached(f->mm, cache_addr(60) - 1,
						    PAGE_SIZE + 2), 2);
	KUNIT_EXPECT_EQ(test, nopin_mm_count_cached(f->mm, cache_addr(60) - 1,
						    1), 0);
	KUNIT_EXPECT_EQ(test, nopin_mm_count_cached(f->mm, cache_addr(last),
						    2 * PAGE_SIZE), 2);
	/* from where there is no range, to where there is none */
	KUNIT_EXPECT_EQ(test, nopin_mm_count_cached(f->mm, CACHE_ADDR - SZ_4M,
						    SZ_1G + SZ_8M), 23);
}

/* Enter and look up in one: all the pages, no others, and where they are */
static void test_enter_cached(struct kunit *test)
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
		{ 0, 0, NOPIN_CACHE_SIZE, NOPIN_CHUNK_PAGES },
		{ NOPIN_CHUNK_PAGES - 1, PAGE_SIZE - 1, 1, 1 },
		{ NOPIN_CHUNK_PAGES, 0, PAGE_SIZE, 1 },
		{ NOPIN_CHUNK_PAGES + 9, 1, 70 * PAGE_SIZE, 71 },
	};
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	enum nopin_dir dir;
	unsigned int i;

	learn_chunk(test, range, 0, false);
	learn_chunk(test, range, NOPIN_CHUNK_PAGES, true);
	for (i = 0; i < 2 * ARRAY_SIZE(pieces); i++) {
		unsigned int first = pieces[i / 2].page, nr = pieces[i / 2].nr;
		unsigned int end = first + nr;
		const struct bio_vec *bv;
		struct nopin_extent ext;

		dir = i % 2;
		memset(&ext, 0xff, sizeof(ext));
		bv = enter_cached(test, f->mm,
				  cache_addr(first) + pieces[i / 2].off,
				  pieces[i / 2].len, dir, &ext);
		KUNIT_EXPECT_NOT_NULL_MSG(test, bv, "page %u", first);
		if (!bv)
			continue;
		KUNIT_EXPECT_EQ(test, bv->bv_len, first < NOPIN_CHUNK_PAGES ?
				PAGE_SIZE : NOPIN_CACHE_SIZE);
		KUNIT_EXPECT_EQ(test, wrong_pages(bv, first, nr, page + first),
				0);
		KUNIT_EXPECT_PTR_EQ(test, nopin_cached(range, first, nr, dir),
				    bv);
		KUNIT_EXPECT_PTR_EQ(test, ext.range, range);
		KUNIT_EXPECT_EQ(test, ext.first, first);
		KUNIT_EXPECT_TRUE(test, ext.nr == nr);
		KUNIT_EXPECT_TRUE(test, !ext.other);
		KUNIT_EXPECT_TRUE(test, !ext.is_array);

		EXPECT_STATE(test, 0, range, 0, first, dir);
		EXPECT_STATE(test, 1, range, first, nr, dir);
		EXPECT_STATE(test, 0, range, end, CACHE_PAGES - end, dir);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, !dir);
		leave_all(f);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, dir);
	}
}

/* All or nothing: what cannot be had in one go is left as it was */
static void test_enter_cached_nothing(struct kunit *test)
{
	static const unsigned int pages[] = { 0, 5, 15, 99 };
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	enum nopin_dir dir;
	unsigned int i, n;
	struct op *op;

	WRITE_ONCE(nopin_rmap_wait_ms, 1);
	for (i = 0; i < 2 * ARRAY_SIZE(pages); i++) {
		unsigned int bad = pages[i / 2], failed = 0;
		unsigned int word = round_down(bad, NOPIN_PAGES_PER_WORD);

		dir = i % 2;
		learn(test, range, 0, 100, dir, page, false);

		/* unknown */
		change(range, bad, 1);
		open_pages(test, range, bad, 1, dir);
		open_pages(test, range, bad, 1, !dir);
		EXPECT_NO_ENTRY(test, cache_addr(bad), 1, dir);
		EXPECT_NO_ENTRY(test, cache_addr(word),
				(bad - word + 1) * PAGE_SIZE, dir);
		EXPECT_NO_ENTRY(test, cache_addr(0), 100 * PAGE_SIZE, dir);
		/* or in the other direction */
		EXPECT_NO_ENTRY(test, cache_addr(50), 1, !dir);
		EXPECT_NO_ENTRY(test, cache_addr(50), 20 * PAGE_SIZE, !dir);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, dir);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, !dir);

		/* closed, and known still: by who was refused */
		learn(test, range, bad, 1, dir, page + bad, false);
		enter_opened(test, range, bad, 1, dir);
		WRITE_ONCE(range->late, jiffies);
		op = op_rmap(test, range, 0, bad, 1);
		KUNIT_EXPECT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, -EAGAIN);
		op_end(op);
		leave(test, range, bad, 1, dir);
		EXPECT_NO_ENTRY(test, cache_addr(bad), 1, dir);
		EXPECT_NO_ENTRY(test, cache_addr(word),
				(bad - word + 1) * PAGE_SIZE, dir);
		EXPECT_NO_ENTRY(test, cache_addr(0), (bad + 1) * PAGE_SIZE,
				dir);
		EXPECT_NO_ENTRY(test, cache_addr(0), 100 * PAGE_SIZE, dir);
		EXPECT_STATE(test, 0, range, 0, bad, dir);
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, bad, 1, dir);
		EXPECT_STATE(test, 0, range, bad + 1, CACHE_PAGES - bad - 1,
			     dir);
		EXPECT_CACHED(test, range, 0, 100, dir, page);

		/* full */
		for (n = 0; n < NOPIN_PAGE_MAX; n++) {
			struct nopin_extent ext;

			failed += !enter_cached(test, f->mm, cache_addr(bad),
						1, dir, &ext);
		}
		KUNIT_EXPECT_EQ(test, failed, 0);
		EXPECT_NO_ENTRY(test, cache_addr(bad), 1, dir);
		EXPECT_NO_ENTRY(test, cache_addr(word),
				(bad - word + 1) * PAGE_SIZE, dir);
		EXPECT_NO_ENTRY(test, cache_addr(0), 100 * PAGE_SIZE, dir);
		EXPECT_STATE(test, 0, range, 0, bad, dir);
		EXPECT_STATE(test, NOPIN_PAGE_MAX, range, bad, 1, dir);
		EXPECT_STATE(test, 0, range, bad + 1, CACHE_PAGES - bad - 1,
			     dir);
		leave_all(f);
		change(range, 0, 100);
		open_pages(test, range, 0, 100, NOPIN_FROM_DEVICE);
		open_pages(test, range, 0, 100, NOPIN_TO_DEVICE);
	}
}

/* Which pages are behind each other in memory */
static void test_contiguous(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct nopin_cache *cache = &nopin_chunk(range, 0)->cache;
	struct page *page = some_page(test);
	unsigned int first, nr, wrong = 0;
	enum nopin_dir dir;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		/* in pieces, from the end, with one in another place */
		for (first = 192; first; first -= 32)
			learn(test, range, first - 32, 32, dir,
			      page + first - 32, false);
		change(range, 70, 1);
		open_pages(test, range, 70, 1, dir);
		learn(test, range, 70, 1, dir, page + 300, false);
		/* from there on with a gap, but backwards or not at all */
		learn(test, range, 200, 1, dir, page + 201, false);
		learn(test, range, 201, 1, dir, page + 200, false);
		learn(test, range, 202, 1, dir, page + 200, false);

		for (first = 0; first < 192; first++)
			for (nr = 1; nr <= 192 - first; nr += 1 + nr / 8)
				wrong += nopin_contiguous(cache, first, nr) !=
					 (nr == 1 || first + nr <= 70 ||
					  first > 70);
		KUNIT_EXPECT_EQ(test, wrong, 0);
		for (first = 200; first < 202; first++)
			KUNIT_EXPECT_FALSE(test, nopin_contiguous(cache, first, 2));

		/* the last ones of the chunk */
		learn(test, range, NOPIN_CHUNK_PAGES - 70, 70, dir, page, false);
		KUNIT_EXPECT_TRUE(test, nopin_contiguous(cache,
							 NOPIN_CHUNK_PAGES - 70, 70));
		change(range, 0, NOPIN_CHUNK_PAGES);
		open_pages(test, range, 0, NOPIN_CHUNK_PAGES, dir);
	}

	/* one bio_vec that becomes many */
	learn_chunk(test, range, 0, true);
	change(range, 9, 1);
	open_pages(test, range, 9, 1, NOPIN_FROM_DEVICE);
	learn(test, range, 9, 1, NOPIN_FROM_DEVICE, page + 300, false);
	KUNIT_EXPECT_TRUE(test, nopin_contiguous(cache, 0, 9));
	KUNIT_EXPECT_FALSE(test, nopin_contiguous(cache, 8, 2));
	KUNIT_EXPECT_FALSE(test, nopin_contiguous(cache, 9, 2));
	KUNIT_EXPECT_TRUE(test, nopin_contiguous(cache, 10,
						 NOPIN_CHUNK_PAGES - 10));
}

/* The states of memory that nobody uses go: not at once, and not in use */
static void test_age(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	const struct bio_vec *bv;
	enum nopin_dir dir;
	bool huge;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		open_pages(test, range, NOPIN_CHUNK_PAGES, 1, dir);
		/* cache_init() has done it, but that is gone now */
		if (dir)
			walk_chunk(test, range, 0);
		learn(test, range, 5, 70, dir, page + 5, false);
		folio_clear_referenced(page_folio(page + 74));
		nopin_cache_age();
		KUNIT_EXPECT_EQ(test, count_cached(range), 70);
		/* reclaim, which may want to know, was told otherwise */
		KUNIT_EXPECT_FALSE(test, is_young(test, 5));
		KUNIT_EXPECT_TRUE(test, folio_test_referenced(page_folio(page + 74)));
		/* that one has not been used at all */
		KUNIT_EXPECT_FALSE(test, has_states(range, NOPIN_CHUNK_PAGES));
		/* used once more, by one of them */
		EXPECT_CACHED(test, range, 70, 1, dir, page + 70);
		nopin_cache_age();
		KUNIT_EXPECT_EQ(test, count_cached(range), 70);
		nopin_cache_age();
		KUNIT_EXPECT_EQ(test, count_cached(range), 0);
		KUNIT_EXPECT_FALSE(test, has_states(range, 0));
		EXPECT_STATE(test, NOPIN_PAGE_CLOSED, range, 0,
			     NOPIN_CHUNK_PAGES, dir);
		EXPECT_NO_ENTRY(test, cache_addr(5), 1, dir);
		EXPECT_UNKNOWN(test, range, 5, 1, dir);

		/* it can be had again, and stays while I/O uses it */
		walk_chunk(test, range, 0);
		learn(test, range, 5, 70, dir, page + 5, false);
		enter_opened(test, range, 60, 9, dir);
		bv = nopin_cached(range, 60, 9, dir);
		KUNIT_ASSERT_NOT_NULL(test, bv);
		nopin_cache_age();
		nopin_cache_age();
		nopin_cache_age();
		KUNIT_EXPECT_EQ(test, count_cached(range), 70);
		KUNIT_EXPECT_PTR_EQ(test, nopin_cached(range, 60, 9, dir), bv);
		KUNIT_EXPECT_EQ(test, wrong_pages(bv, 60, 9, page + 60), 0);
		EXPECT_STATE(test, 1, range, 60, 9, dir);
		leave_all(f);
		nopin_cache_age();
		KUNIT_EXPECT_TRUE(test, has_states(range, 0));
		nopin_cache_age();
		KUNIT_EXPECT_FALSE(test, has_states(range, 0));

		/* I/O on pages that are not known keeps it as well */
		open_pages(test, range, 9, 1, dir);
		KUNIT_EXPECT_EQ(test, enter(test, range, 9, 1, dir), 0);
		nopin_cache_age();
		nopin_cache_age();
		KUNIT_ASSERT_TRUE(test, has_states(range, 0));
		EXPECT_STATE(test, 1, range, 9, 1, dir);
		leave_all(f);
		nopin_cache_age();
		KUNIT_EXPECT_FALSE(test, has_states(range, 0));

		/* reclaim takes what it has found to be old */
		walk_chunk(test, range, 0);
		learn(test, range, 5, 70, dir, page + 5, false);
		drop_slab();
		drop_slab();
		KUNIT_EXPECT_EQ(test, count_cached(range), 70);
		KUNIT_EXPECT_TRUE(test, is_young(test, 5));
		KUNIT_EXPECT_TRUE(test, clear_young(test, 5, 69));
		drop_slab();
		KUNIT_EXPECT_EQ(test, count_cached(range), 70);
		KUNIT_EXPECT_TRUE(test, clear_young(test, 74, 1));
		enter_opened(test, range, 74, 1, dir);
		drop_slab();
		KUNIT_EXPECT_EQ(test, count_cached(range), 70);
		leave_all(f);
		drop_slab();
		KUNIT_EXPECT_EQ(test, count_cached(range), 0);
		KUNIT_EXPECT_FALSE(test, has_states(range, 0));
	}

	/* those of 2 MiB are no exception */
	for (huge = false; ; huge = true) {
		walk_chunk(test, range, 0);
		learn(test, range, 0, NOPIN_CHUNK_PAGES, NOPIN_TO_DEVICE, page,
		      huge);
		nopin_cache_age();
		KUNIT_EXPECT_EQ(test, count_cached(range), NOPIN_CHUNK_PAGES);
		nopin_cache_age();
		KUNIT_EXPECT_FALSE(test, has_states(range, 0));
		if (huge)
			break;
	}
}

#define RACE_ROUNDS	1000

static int op_age_fn(struct op *op)
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
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	struct op *op, *age;
	unsigned int i, known = 0;
	bool stop = false;

	/* What somebody uses keeps all of it */
	learn(test, range, 0, 1, NOPIN_TO_DEVICE, page, false);
	enter_opened(test, range, 0, 1, NOPIN_TO_DEVICE);
	age = op_run(test, &(struct op) { .fn = op_age_fn, .arg = &stop });
	for (i = 0; i < RACE_ROUNDS && !known; i++) {
		learn(test, range, 100, 8, NOPIN_TO_DEVICE, page + 100, false);
		enter_opened(test, range, 100, 1, NOPIN_TO_DEVICE);
		op = op_rmap(test, range, 0, 100, 8);
		while (!(state(range, 100, NOPIN_TO_DEVICE) & NOPIN_PAGE_CLOSED))
			cond_resched();
		leave(test, range, 100, 1, NOPIN_TO_DEVICE);
		op_end(op);
		known = nopin_count_cached(range, 100, 108);
	}
	WRITE_ONCE(stop, true);
	KUNIT_EXPECT_TRUE(test, op_done(age));
	KUNIT_EXPECT_EQ_MSG(test, known, 0, "in round %u", i);
}

/* A chunk that goes takes nobody with it who is about to enter it */
static void test_enter_during_age(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	unsigned int i, page, gone = 0, entered = 0;
	bool stop = false;
	struct op *age;
	int ret;

	age = op_run(test, &(struct op) { .fn = op_age_fn, .arg = &stop });
	for (i = 0; i < 20 * RACE_ROUNDS; i++) {
		f->other = i & 1;
		ret = enter(test, range, 5, NOPIN_CHUNK_PAGES, i / 2 % 2);
		if (ret) {
			nopin_open(range, 5, NOPIN_CHUNK_PAGES, i / 2 % 2,
				   open_flags(test));
			continue;
		}
		entered++;
		/*
		 * The states are those that it has entered, and stay. They may
		 * have been closed since, by an aging that found them in use.
		 */
		for (page = 5; page < 5 + NOPIN_CHUNK_PAGES; page++)
			gone += (state(range, page, i / 2 % 2) &
				 NOPIN_PAGE_MAX) != 1;
		gone += others(range, 0) != f->other;
		gone += others(range, NOPIN_CHUNK_PAGES) != f->other;
		leave_all(f);
		cond_resched();
	}
	f->other = false;
	WRITE_ONCE(stop, true);
	KUNIT_EXPECT_TRUE(test, op_done(age));
	KUNIT_EXPECT_EQ(test, gone, 0);
	KUNIT_EXPECT_GT(test, entered, 0);
	KUNIT_EXPECT_EQ(test, others(range, 0), 0);
	KUNIT_EXPECT_EQ(test, others(range, NOPIN_CHUNK_PAGES), 0);
}

static int op_learn_fn(struct op *op)
{
	struct bio_vec bv[2];
	int ret;

	bvec_set_page(&bv[0], op->arg, (op->nr - 1) * PAGE_SIZE, 0);
	bvec_set_page(&bv[1], (struct page *)op->arg + op->nr, PAGE_SIZE, 0);
	do {
		nopin_open(op->range, op->first, op->nr, op->dir, 0);
		ret = nopin_enter(op->range, op->first, op->nr, op->dir);
	} while (ret == -EAGAIN);
	if (ret)
		return ret;
	nopin_learn(op->range, op->first, op->nr, op->dir, bv, 0, false);
	nopin_exit(op->range, op->first, op->nr, op->dir);
	return 0;
}

/* A page that was replaced does not follow the one in front, not for a moment */
static void test_contiguous_race(struct kunit *test)
{
	const unsigned int nr = NOPIN_CHUNK_PAGES;
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct nopin_cache *cache = &nopin_chunk(range, 0)->cache;
	struct page *page = some_page(test);
	unsigned int i, wrong = 0;
	struct op *op;

	for (i = 0; i < 50 && !wrong; i++) {
		learn(test, range, 0, nr, NOPIN_TO_DEVICE, page, false);
		change(range, nr - 1, 1);
		enter_opened(test, range, nr - 2, 2, NOPIN_TO_DEVICE);
		op = op_run(test, &(struct op) {
			.fn = op_learn_fn, .range = range, .nr = nr,
			.dir = NOPIN_TO_DEVICE, .arg = page });
		while (!nopin_cached(range, nr - 2, 2, NOPIN_TO_DEVICE) &&
		       !completion_done(&op->done))
			cond_resched();
		wrong += nopin_contiguous(cache, nr - 2, 2);
		KUNIT_ASSERT_TRUE(test, op_done(op));
		KUNIT_EXPECT_EQ(test, op->ret, 0);
		leave_all(f);
		change(range, 0, nr);
	}
	KUNIT_EXPECT_EQ_MSG(test, wrong, 0, "in round %u", i);
}

/* Where there is nothing to look at */
static void test_enter_cached_bounds(struct kunit *test)
{
	unsigned long far = CACHE_ADDR +
			    ((unsigned long)NOPIN_MM_SLOTS << NOPIN_MM_SHIFT);
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached, *other;
	struct nopin_extent ext;
	enum nopin_dir dir;

	learn_chunk(test, range, 0, false);
	learn_chunk(test, range, NOPIN_CHUNK_PAGES, false);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_NO_ENTRY(test, CACHE_ADDR - PAGE_SIZE, PAGE_SIZE, dir);
		EXPECT_NO_ENTRY(test, CACHE_ADDR - PAGE_SIZE, 2 * PAGE_SIZE,
				dir);
		EXPECT_NO_ENTRY(test, cache_addr(2 * CACHE_PAGES), 1, dir);
		EXPECT_NO_ENTRY(test, far, 1, dir);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, dir);
	}

	/* somebody else has the place where it would be found first */
	other = nopin_mm_get(f->mm, far);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, other);
	open_pages(test, other, 0, 1, NOPIN_FROM_DEVICE);
	EXPECT_NO_ENTRY(test, far, 1, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, NOPIN_FROM_DEVICE);
	EXPECT_STATE(test, 0, other, 0, 1, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_NOT_NULL(test, enter_cached(test, f->mm, CACHE_ADDR, 1,
						 NOPIN_FROM_DEVICE, &ext));
	KUNIT_EXPECT_PTR_EQ(test, ext.range, range);
	EXPECT_STATE(test, 1, range, 0, 1, NOPIN_FROM_DEVICE);
	leave_all(f);
}

/**
 * struct fake_io - I/O to a device that is not there
 * @q: the queue of @bdev
 * @bdev: the device
 * @iocb: the I/O
 * @iter: its memory
 * @bio: its bio, with @vecs
 * @vecs: as many as a bio has embedded
 */
struct fake_io {
	struct request_queue	q;
	struct block_device	bdev;
	struct kiocb		iocb;
	struct iov_iter		iter;
	struct bio		bio;
	struct bio_vec		vecs[BIO_NOPIN_VECS];
};

static struct fake_io *fake_io(struct kunit *test, bool prompt)
{
	struct fake_io *io = kunit_kzalloc(test, sizeof(*io), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, io);
	if (prompt)
		io->q.limits.features = BLK_FEAT_PROMPT;
	io->bdev.bd_queue = &io->q;
	return io;
}

/* Makes an iocb one that nobody waits for */
static void known_complete(struct kiocb *iocb, long ret)
{
}

static int get_known(struct kunit *test, struct fake_io *io,
		     unsigned long addr, size_t len, enum nopin_dir dir)
{
	bool write = dir == NOPIN_TO_DEVICE;
	struct fixture *f = test->priv;
	int ret;

	bio_init(&io->bio, NULL, io->vecs, BIO_NOPIN_VECS,
		 write ? REQ_OP_WRITE : REQ_OP_READ);
	io->bio.bi_bdev = &io->bdev;
	iov_iter_ubuf(&io->iter, write ? ITER_SOURCE : ITER_DEST,
		      (void __user *)addr, len);

	kthread_use_mm(f->mm);
	ret = bio_nopin_get_known(&io->bio, &io->iter, &io->iocb);
	kthread_unuse_mm(f->mm);

	KUNIT_EXPECT_EQ(test, iov_iter_count(&io->iter), ret ? len : 0);
	KUNIT_EXPECT_EQ(test, bio_nopin(&io->bio), !ret);
	return ret;
}

/* How many pieces of the bio are not where they should be, @off behind @page */
static unsigned int wrong_bytes(struct fake_io *io, struct page *page,
				size_t off, size_t len)
{
	unsigned int wrong = 0;
	struct bvec_iter it;
	struct bio_vec bv;

	bio_for_each_segment(bv, &io->bio, it) {
		wrong += bv.bv_page != page + off / PAGE_SIZE;
		wrong += bv.bv_offset != offset_in_page(off);
		off += bv.bv_len;
		len -= bv.bv_len;
	}
	return wrong + !!len;
}

/* A bio of one piece that is known; of a queue that is prompt, or of another */
static void test_known(struct kunit *test)
{
	static const struct {
		unsigned int	page;
		size_t		off;
		size_t		len;
	} pieces[] = {
		{ 0, 0, PAGE_SIZE },
		{ 7, PAGE_SIZE - 512, 1024 },
		{ 62, 512, 3 * PAGE_SIZE },
		{ 100, 0, 16 * PAGE_SIZE },
		{ 0, 0, NOPIN_CACHE_SIZE },
		{ NOPIN_CHUNK_PAGES - 1, 512, 512 },
		{ NOPIN_CHUNK_PAGES, 0, PAGE_SIZE },
		{ NOPIN_CHUNK_PAGES + 300, 1024, 200 * PAGE_SIZE },
	};
	struct fixture *f = test->priv;
	struct nopin_range *range = f->cached;
	struct page *page = some_page(test);
	unsigned int i;

	learn_chunk(test, range, 0, false);
	learn_chunk(test, range, NOPIN_CHUNK_PAGES, true);
	for (i = 0; i < 4 * ARRAY_SIZE(pieces); i++) {
		unsigned int first = pieces[i / 4].page, nr, end;
		size_t off = pieces[i / 4].off, len = pieces[i / 4].len;
		bool prompt = i / 2 % 2;
		struct fake_io *io = fake_io(test, prompt);
		enum nopin_dir dir = i % 2;

		nr = DIV_ROUND_UP(off + len, PAGE_SIZE);
		end = first + nr;
		/* nor is polled I/O prompt, unless it is its task that waits */
		if (!prompt && dir) {
			io->q.limits.features = BLK_FEAT_PROMPT;
			io->iocb.ki_flags = IOCB_HIPRI;
			io->iocb.ki_complete = known_complete;
		} else if (prompt && dir) {
			io->iocb.ki_flags = IOCB_HIPRI;
		}
		if (!i) {
			/* there has to be room for pins first */
			KUNIT_EXPECT_EQ(test, get_known(test, io,
							cache_addr(first) + off,
							len, dir), -EAGAIN);
			EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, dir);
			KUNIT_EXPECT_EQ(test, others(range, first), 0);
		}
		f->other = !prompt;
		enter_opened(test, range, first, nr, dir);
		KUNIT_EXPECT_NOT_NULL(test, nopin_cached(range, first, nr,
							 dir));
		leave_all(f);
		f->other = false;
		KUNIT_ASSERT_EQ(test, get_known(test, io,
						cache_addr(first) + off, len,
						dir), 0);
		KUNIT_EXPECT_EQ(test, io->bio.bi_iter.bi_size, len);
		KUNIT_EXPECT_EQ(test, wrong_bytes(io, page + first, off, len),
				0);
		KUNIT_EXPECT_TRUE(test, io->bio.bi_nopin.other == !prompt);
		KUNIT_EXPECT_EQ(test, others(range, first), !prompt);
		EXPECT_STATE(test, 0, range, 0, first, dir);
		EXPECT_STATE(test, 1, range, first, nr, dir);
		EXPECT_STATE(test, 0, range, end, CACHE_PAGES - end, dir);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, !dir);
		bio_nopin_exit(&io->bio);
		EXPECT_STATE(test, 0, range, 0, CACHE_PAGES, dir);
		KUNIT_EXPECT_EQ(test, others(range, first), 0);
	}
}

/* More than one chunk is too much, whether they are of one range or of two */
static void test_known_border(struct kunit *test)
{
	const unsigned int nr = 1U << (NOPIN_MM_SHIFT - PAGE_SHIFT);
	unsigned long border = cache_addr(NOPIN_CHUNK_PAGES - 1);
	unsigned long last = CACHE_ADDR - PAGE_SIZE;
	struct page *page = some_page(test);
	struct fake_io *io = fake_io(test, true);
	struct fixture *f = test->priv;
	struct nopin_range *range;
	enum nopin_dir dir;

	range = nopin_mm_get(f->mm, last);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, range);
	/* the first one does not count, see test_threshold() */
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		learn(test, range, nr - NOPIN_CHUNK_PAGES, NOPIN_CHUNK_PAGES,
		      dir, page, false);
	learn_chunk(test, f->cached, NOPIN_CHUNK_PAGES, false);

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		learn(test, range, nr - 1, 1, dir, page, false);
		learn(test, f->cached, 0, 1, dir, page + 1, false);
		KUNIT_EXPECT_EQ(test, get_known(test, io, last, PAGE_SIZE, dir),
				0);
		bio_nopin_exit(&io->bio);
		KUNIT_EXPECT_EQ(test, get_known(test, io, CACHE_ADDR, PAGE_SIZE,
						dir), 0);
		bio_nopin_exit(&io->bio);
		KUNIT_EXPECT_EQ(test, get_known(test, io, last, 2 * PAGE_SIZE,
						dir), -EAGAIN);
		EXPECT_STATE(test, 0, range, nr - 1, 1, dir);
		EXPECT_STATE(test, 0, f->cached, 0, 1, dir);

		learn(test, f->cached, NOPIN_CHUNK_PAGES - 1, 1, dir,
		      page + NOPIN_CHUNK_PAGES - 1, false);
		KUNIT_EXPECT_EQ(test, get_known(test, io, border, 2 * PAGE_SIZE,
						dir), -EAGAIN);
		EXPECT_STATE(test, 0, f->cached, 0, CACHE_PAGES, dir);
	}
}

/* Real mappings */

static struct nopin_range *range_at(struct kunit *test, unsigned long addr)
{
	struct nopin_range *range = nopin_mm_get(current->mm, addr);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, range);
	return range;
}

/* Small pages, no less than 2 MiB of them, at the beginning of a chunk */
static unsigned long map_chunk(struct kunit *test)
{
	unsigned long addr = map_small(test, 2 * NOPIN_CACHE_SIZE);

	return ALIGN(addr, NOPIN_CACHE_SIZE);
}

/* Whole pages of one chunk, as many times as it takes for them to be kept */
static void learn_at(struct kunit *test, unsigned long addr, size_t len,
		     enum nopin_dir dir)
{
	struct nopin_range *range = range_at(test, addr);
	unsigned int first = nopin_index(range, addr);
	unsigned int nr = len >> PAGE_SHIFT, times = 0;
	struct nopin_walked walked;
	struct bio_vec *bvec;
	unsigned short vcnt;

	bvec = kunit_kcalloc(test, nr, sizeof(*bvec), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, bvec);
	enter_opened(test, range, first, nr, dir);
	while (!nopin_cached(range, first, nr, dir)) {
		vcnt = 0;
		KUNIT_ASSERT_EQ(test, nopin_walk(current->mm, addr, len, dir,
						 bvec, &vcnt, &walked), 0);
		KUNIT_ASSERT_LT(test, times * nr, NOPIN_CHUNK_PAGES + nr);
		nopin_learn(range, first, nr, dir, bvec, 0, walked.huge);
		times++;
	}
	leave(test, range, first, nr, dir);
}

static void expect_unknown_at(int line, struct kunit *test, unsigned long addr,
			      size_t len, enum nopin_dir dir)
{
	struct nopin_range *range = range_at(test, addr);

	expect_cached(line, test, range, nopin_index(range, addr),
		      len >> PAGE_SHIFT, dir, NULL);
}

#define EXPECT_UNKNOWN_AT(...)	expect_unknown_at(__LINE__, __VA_ARGS__)

/*
 * They are known, in the one way and the other, and it is where the page tables
 * have them; returns what was found, to be compared.
 */
static const struct bio_vec *check_cached(struct kunit *test,
					  unsigned long addr, size_t len,
					  enum nopin_dir dir)
{
	struct nopin_range *range = range_at(test, addr);
	unsigned int first = nopin_index(range, addr);
	unsigned int i, nr = len >> PAGE_SHIFT;
	const struct bio_vec *bv;
	struct nopin_extent ext;
	struct bio_vec tmp;

	enter_opened(test, range, first, nr, dir);
	bv = nopin_cached(range, first, nr, dir);
	KUNIT_EXPECT_NOT_NULL(test, bv);
	KUNIT_EXPECT_PTR_EQ(test, enter_cached(test, current->mm, addr, len,
					       dir, &ext), bv);
	if (bv && bv->bv_len == NOPIN_CACHE_SIZE) {
		bvec_set_page(&tmp, cached_page(bv, first, 0), len, 0);
		check_bvec(test, addr, len, &tmp, 1);
	} else if (bv) {
		for (i = 0; i < nr; i++)
			check_bvec(test, addr + i * PAGE_SIZE, PAGE_SIZE,
				   &bv[i], 1);
	}
	leave_all(test->priv);
	return bv;
}

/* 2 MiB of pages from here and there, and shared ones */
static void test_cached_pages(struct kunit *test)
{
	unsigned long addr = map_chunk(test);
	unsigned long shm = map_shmem(test, SMALL_LEN, MAP_SHARED);
	const struct bio_vec *bv;

	fault_write(test, addr, NOPIN_CACHE_SIZE);
	learn_at(test, addr, NOPIN_CACHE_SIZE, NOPIN_TO_DEVICE);
	bv = check_cached(test, addr, NOPIN_CACHE_SIZE, NOPIN_TO_DEVICE);
	EXPECT_UNKNOWN_AT(test, addr, PAGE_SIZE, NOPIN_FROM_DEVICE);
	learn_at(test, addr + 60 * PAGE_SIZE, SMALL_LEN, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_PTR_EQ(test, check_cached(test, addr + 60 * PAGE_SIZE,
					       SMALL_LEN, NOPIN_FROM_DEVICE),
			    bv ? bv + 60 : NULL);

	/* R9: only read, so a device may read it only */
	fault_read(test, shm, PAGE_SIZE);
	learn_at(test, shm, PAGE_SIZE, NOPIN_TO_DEVICE);
	check_cached(test, shm, PAGE_SIZE, NOPIN_TO_DEVICE);
	EXPECT_UNKNOWN_AT(test, shm, PAGE_SIZE, NOPIN_FROM_DEVICE);
	fault_write(test, shm, PAGE_SIZE);
	learn_at(test, shm, PAGE_SIZE, NOPIN_FROM_DEVICE);
	check_cached(test, shm, PAGE_SIZE, NOPIN_FROM_DEVICE);
}

/* A PMD is one bio_vec, and one for each page after it has been split */
static void test_cached_thp(struct kunit *test)
{
	unsigned long addr = map_thp(test), hole = addr + 100 * PAGE_SIZE;
	struct nopin_range *range = range_at(test, addr);
	unsigned int first = nopin_index(range, addr);
	struct fixture *f = test->priv;
	const struct bio_vec *bv;
	struct bio_vec copy;
	struct op *op;

	if (PMD_SIZE != NOPIN_CACHE_SIZE)
		kunit_skip(test, "huge pages are not of 2 MiB");
	/* from a part of it to all */
	learn_at(test, addr + 3 * PAGE_SIZE, 2 * PAGE_SIZE, NOPIN_FROM_DEVICE);
	check_cached(test, addr + 3 * PAGE_SIZE, 2 * PAGE_SIZE,
		     NOPIN_FROM_DEVICE);
	EXPECT_UNKNOWN_AT(test, addr, PAGE_SIZE, NOPIN_FROM_DEVICE);
	learn_at(test, addr, PMD_SIZE, NOPIN_FROM_DEVICE);
	learn_at(test, addr, PMD_SIZE, NOPIN_TO_DEVICE);
	bv = check_cached(test, addr, PMD_SIZE, NOPIN_FROM_DEVICE);
	KUNIT_ASSERT_NOT_NULL(test, bv);
	KUNIT_EXPECT_EQ(test, bv->bv_len, NOPIN_CACHE_SIZE);
	KUNIT_EXPECT_PTR_EQ(test, check_cached(test, hole, PAGE_SIZE,
					       NOPIN_TO_DEVICE), bv);

	/* I/O on other pages of it, and it does not notice */
	enter_opened(test, range, first, 8, NOPIN_FROM_DEVICE);
	bv = nopin_cached(range, first, 8, NOPIN_FROM_DEVICE);
	KUNIT_ASSERT_NOT_NULL(test, bv);
	copy = *bv;
	op = op_mapping(test, op_protect_fn, 0, hole, PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	KUNIT_EXPECT_FALSE(test, maps_huge(addr));
	KUNIT_EXPECT_PTR_EQ(test, nopin_cached(range, first, 8,
					       NOPIN_FROM_DEVICE), bv);
	KUNIT_EXPECT_MEMEQ(test, bv, &copy, sizeof(copy));
	EXPECT_STATE(test, 1, range, first, 8, NOPIN_FROM_DEVICE);
	leave_all(f);

	EXPECT_UNKNOWN_AT(test, hole, PAGE_SIZE, NOPIN_FROM_DEVICE);
	EXPECT_UNKNOWN_AT(test, hole, PAGE_SIZE, NOPIN_TO_DEVICE);
	learn_at(test, addr, PMD_SIZE, NOPIN_TO_DEVICE);
	bv = check_cached(test, addr, PMD_SIZE, NOPIN_TO_DEVICE);
	KUNIT_ASSERT_NOT_NULL(test, bv);
	KUNIT_EXPECT_EQ(test, bv->bv_len, PAGE_SIZE);
	fault_write(test, addr, 100 * PAGE_SIZE);
	learn_at(test, addr, 100 * PAGE_SIZE, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_PTR_EQ(test, check_cached(test, addr, 100 * PAGE_SIZE,
					       NOPIN_FROM_DEVICE), bv);
	EXPECT_UNKNOWN_AT(test, hole, PAGE_SIZE, NOPIN_FROM_DEVICE);
}

/* What the process does to one page: the old one is never found again */
static void test_cached_change(struct kunit *test)
{
	const struct change_case *c = test->param_value;
	unsigned long addr = map_chunk(test), hole = addr + 5 * PAGE_SIZE;
	struct page *old, *now;
	enum nopin_dir dir;
	struct op *op;

	fault_write(test, addr, 8 * PAGE_SIZE);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		learn_at(test, addr, 8 * PAGE_SIZE, dir);
		check_cached(test, addr, 8 * PAGE_SIZE, dir);
	}
	/* as long as there is a reference to it, others are not the same */
	old = get_page_at(hole);
	KUNIT_ASSERT_NOT_NULL(test, old);
	op = op_mapping(test, c->fn, 0, hole, PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_UNKNOWN_AT(test, hole, PAGE_SIZE, dir);
		EXPECT_UNKNOWN_AT(test, addr, 8 * PAGE_SIZE, dir);
		check_cached(test, addr, 5 * PAGE_SIZE, dir);
		check_cached(test, hole + PAGE_SIZE, 2 * PAGE_SIZE, dir);
	}

	if (c->fn == op_munmap_fn)
		map_fixed(test, hole, PAGE_SIZE);
	if (c->fn == op_protect_fn)
		KUNIT_EXPECT_EQ(test, protect(hole, PAGE_SIZE, PROT_READ |
					      PROT_WRITE), 0);
	fault_write(test, hole, PAGE_SIZE);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		EXPECT_UNKNOWN_AT(test, hole, PAGE_SIZE, dir);
		learn_at(test, hole, PAGE_SIZE, dir);
		check_cached(test, addr, 8 * PAGE_SIZE, dir);
	}
	now = get_page_at(hole);
	if (c->fn != op_protect_fn)
		KUNIT_EXPECT_PTR_NE(test, now, old);
	if (now)
		put_page(now);
	put_page(old);
}

/* What others do to it: writeback and migration */
static void test_cached_rmap(struct kunit *test)
{
	unsigned long addr = map_shmem(test, 8 * PAGE_SIZE, MAP_SHARED);
	unsigned long it = addr + 5 * PAGE_SIZE;
	struct page *old, *now;
	enum nopin_dir dir;
	struct op *op;

	fault_write(test, addr, 8 * PAGE_SIZE);
	if (maps_huge(addr))
		kunit_skip(test, "shared memory is huge");
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		learn_at(test, it, PAGE_SIZE, dir);

	/* R9: clean, so that a device must not write it unnoticed */
	op = op_mapping(test, op_mkclean_fn, 0, it, 0);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 1);
	EXPECT_UNKNOWN_AT(test, it, PAGE_SIZE, NOPIN_FROM_DEVICE);
	check_cached(test, it, PAGE_SIZE, NOPIN_TO_DEVICE);

	fault_write(test, it, PAGE_SIZE);
	EXPECT_UNKNOWN_AT(test, it, PAGE_SIZE, NOPIN_FROM_DEVICE);
	learn_at(test, it, PAGE_SIZE, NOPIN_FROM_DEVICE);
	check_cached(test, it, PAGE_SIZE, NOPIN_FROM_DEVICE);

	/* there is nobody to keep it in place, so only its number counts */
	old = get_page_at(it);
	KUNIT_ASSERT_NOT_NULL(test, old);
	put_page(old);
	op = op_mapping(test, op_migrate_fn, 0, it, 0);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		EXPECT_UNKNOWN_AT(test, it, PAGE_SIZE, dir);
	fault_write(test, it, PAGE_SIZE);
	now = get_page_at(it);
	KUNIT_EXPECT_PTR_NE(test, now, old);
	if (now)
		put_page(now);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		learn_at(test, it, PAGE_SIZE, dir);
		check_cached(test, it, PAGE_SIZE, dir);
	}
}

/* A bio goes on pointing to its translation, whatever is mapped there by now */
static void test_cached_pinned(struct kunit *test)
{
	unsigned long addr = map_chunk(test), io = addr + 3 * PAGE_SIZE;
	struct nopin_range *range = range_at(test, addr);
	unsigned int i = nopin_index(range, io);
	const struct bio_vec *bv;
	struct bio_vec copy[2];
	struct page *page;
	struct op *op;

	fault_write(test, addr, NOPIN_CACHE_SIZE);
	learn_at(test, addr, NOPIN_CACHE_SIZE, NOPIN_FROM_DEVICE);
	learn_at(test, addr, NOPIN_CACHE_SIZE, NOPIN_TO_DEVICE);
	enter_opened(test, range, i, 2, NOPIN_FROM_DEVICE);
	bv = nopin_cached(range, i, 2, NOPIN_FROM_DEVICE);
	KUNIT_ASSERT_NOT_NULL(test, bv);
	memcpy(copy, bv, sizeof(copy));
	page = get_page_at(io);
	KUNIT_ASSERT_PTR_EQ(test, page, bv->bv_page);

	op = op_mapping(test, op_munmap_fn, 0, addr, NOPIN_CACHE_SIZE);
	KUNIT_EXPECT_TRUE(test, op_done(op));
	KUNIT_EXPECT_EQ(test, op->ret, 0);
	map_fixed(test, addr, NOPIN_CACHE_SIZE);
	fault_write(test, addr, NOPIN_CACHE_SIZE);
	EXPECT_UNKNOWN_AT(test, addr + 64 * PAGE_SIZE, PAGE_SIZE,
			  NOPIN_FROM_DEVICE);
	learn_at(test, addr + 64 * PAGE_SIZE, SMALL_LEN, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_MEMEQ(test, bv, copy, sizeof(copy));

	leave(test, range, i, 2, NOPIN_FROM_DEVICE);
	expect_unpinned(test, page);
	put_page(page);
	expect_opens(test, range, i, NOPIN_TO_DEVICE);
	EXPECT_UNKNOWN_AT(test, io, PAGE_SIZE, NOPIN_TO_DEVICE);
	learn_at(test, addr, 8 * PAGE_SIZE, NOPIN_TO_DEVICE);
	check_cached(test, addr, 8 * PAGE_SIZE, NOPIN_TO_DEVICE);
}

/* As the bio glue does it, for part of one page */
static int translate_cached(struct kunit *test, unsigned long addr, size_t len,
			    enum nopin_dir dir, struct bio_vec *bvec,
			    unsigned short *vcnt)
{
	struct fixture *f = test->priv;
	const struct bio_vec *bv;
	struct nopin_walked walked;
	struct nopin_range *range;
	struct nopin_extent ext;
	unsigned int first, i;
	int ret;

	bv = enter_cached(test, current->mm, addr, len, dir, &ext);
	if (bv) {
		bvec_set_page(bvec, cached_page(bv, ext.first, 0), len,
			      offset_in_page(addr));
		*vcnt = 1;
		f->hits++;
		return 0;
	}
	ret = translate(test, addr, len, dir, bvec, vcnt);
	if (ret)
		return ret;
	/* it is entered: the same again, and where it is in the PMD */
	*vcnt = 0;
	ret = nopin_walk(current->mm, addr, len, dir, bvec, vcnt, &walked);
	if (ret) {
		leave_all(f);
		return ret;
	}
	range = nopin_mm_find(current->mm, addr);
	first = nopin_index(range, addr);
	/* the first pages of a chunk are only counted */
	for (i = 0; i <= NOPIN_CHUNK_PAGES; i++) {
		nopin_learn(range, first, 1, dir, bvec, 0, walked.huge);
		if (nopin_cached(range, first, 1, dir))
			break;
	}
	return 0;
}

/* R1: the same of translations that are kept, while all is changing */
static void test_cached_churn(struct kunit *test)
{
	struct fixture *f = test->priv;

	churn(test, 4, translate_cached);
	KUNIT_EXPECT_GT(test, f->hits, 0);
	kunit_info(test, "known %u times\n", f->hits);
}

static struct kunit_case cache_cases[] = {
	KUNIT_CASE(test_threshold),
	KUNIT_CASE(test_unknown_page),
	KUNIT_CASE(test_directions),
	KUNIT_CASE(test_learn_pieces),
	KUNIT_CASE(test_forgets_when_idle),
	KUNIT_CASE(test_refused_forgets_nothing),
	KUNIT_CASE(test_break_up),
	KUNIT_CASE(test_young),
	KUNIT_CASE(test_count_cached),
	KUNIT_CASE(test_enter_cached),
	KUNIT_CASE(test_enter_cached_nothing),
	KUNIT_CASE(test_enter_cached_bounds),
	KUNIT_CASE(test_known),
	KUNIT_CASE(test_known_border),
	KUNIT_CASE(test_contiguous),
	KUNIT_CASE(test_age),
	KUNIT_CASE(test_change_during_age),
	KUNIT_CASE(test_enter_during_age),
	KUNIT_CASE(test_contiguous_race),
	KUNIT_CASE(test_cached_pages),
	KUNIT_CASE(test_cached_thp),
	KUNIT_CASE_PARAM(test_cached_change, change_gen_params),
	KUNIT_CASE(test_cached_rmap),
	KUNIT_CASE(test_cached_pinned),
	KUNIT_CASE(test_cached_churn),
	{}
};

static struct kunit_suite cache_suite = {
	.name		= "nopin-cache",
	.init		= cache_init,
	.exit		= cache_exit,
	.test_cases	= cache_cases,
};

kunit_test_suites(&protocol_suite, &walk_suite, &mapping_suite, &cache_suite);

MODULE_DESCRIPTION("KUnit tests of direct I/O without page pins");
MODULE_LICENSE("GPL");
