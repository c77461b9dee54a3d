// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of nopin: the fixture, threads, invalidations, and pages that are
 * entered.
 */

#include <linux/delay.h>
#include <linux/err.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "common.h"

/* An op that can make progress does so in much less */
#define OP_TIMEOUT	(20 * HZ)

/* Threads */

static int op_thread(void *data)
{
	ktime_t start = ktime_get();
	struct nt_op *op = data;
	unsigned int flags = 0;

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

/* Run a copy of @template in a thread */
struct nt_op *nt_run(struct kunit *test, const struct nt_op *template)
{
	struct nt_fixture *f = test->priv;
	struct task_struct *task;
	struct nt_op *op;

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
bool nt_blocked(struct nt_op *op)
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

/* Is it over, or will it be soon? */
bool nt_done(struct nt_op *op)
{
	return wait_for_completion_timeout(&op->done, OP_TIMEOUT);
}

void nt_expect_ret(int line, struct kunit *test, struct nt_op *op, int ret)
{
	KUNIT_EXPECT_TRUE_MSG(test, nt_done(op), "in line %d", line);
	KUNIT_EXPECT_EQ_MSG(test, op->ret, ret, "in line %d", line);
}

static int op_invalidate_fn(struct nt_op *op)
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
void nt_end(struct nt_op *op)
{
	if (!nt_done(op) || !op->active)
		return;
	op->active = false;
	mmu_notifier_invalidate_range_end(&op->mn);
}

struct nt_op *nt_inval(struct kunit *test, struct nopin_range *range,
		       enum mmu_notifier_event event, unsigned int how,
		       long first, long nr)
{
	struct nt_op op = {
		.fn		= op_invalidate_fn,
		.memalloc	= how & MEMALLOC,
		.nonblock	= how & NONBLOCK,
	};

	nt_inval_init(&op.mn, range, event,
		      how & REFUSABLE ? MMU_NOTIFIER_RANGE_REFUSABLE : 0,
		      first, nr);
	return nt_run(test, &op);
}

/* As from try_to_unmap(), with or without MEMALLOC */
struct nt_op *nt_rmap(struct kunit *test, struct nopin_range *range,
		      unsigned int how, long first, long nr)
{
	return nt_inval(test, range, MMU_NOTIFY_CLEAR, REFUSABLE | how, first,
			nr);
}

/* Do something to memory of the test */
struct nt_op *nt_mapping(struct kunit *test, int (*fn)(struct nt_op *),
			 unsigned int how, unsigned long addr, size_t len)
{
	return nt_run(test, &(struct nt_op) {
		.fn		= fn,
		.mm		= current->mm,
		.memalloc	= how & MEMALLOC,
		.addr		= addr,
		.len		= len,
	});
}

static int op_open_fn(struct nt_op *op)
{
	return nt_open(op->range, op->first, op->nr, op->dir, false);
}

struct nt_op *nt_op_open(struct kunit *test, struct nopin_range *range,
			 unsigned int first, unsigned int nr,
			 enum nopin_dir dir)
{
	return nt_run(test, &(struct nt_op) {
		.fn	= op_open_fn,
		.mm	= range->notifier.mm,
		.range	= range,
		.first	= first,
		.nr	= nr,
		.dir	= dir,
	});
}

int nt_op_mmput(struct nt_op *op)
{
	mmput(op->arg);
	return 0;
}

/* Invalidations */

void nt_inval_init(struct mmu_notifier_range *mn, struct nopin_range *range,
		   enum mmu_notifier_event event, unsigned int flags,
		   long first, long nr)
{
	unsigned long start = range->start + first * (long)PAGE_SIZE;

	mmu_notifier_range_init(mn, event, flags, range->notifier.mm, start,
				start + nr * PAGE_SIZE);
}

void nt_inval_start(struct mmu_notifier_range *mn, struct nopin_range *range,
		    long first, long nr)
{
	nt_inval_init(mn, range, MMU_NOTIFY_UNMAP, 0, first, nr);
	mmu_notifier_invalidate_range_start(mn);
}

/* The same of somebody who can be refused; whether that was not so */
bool nt_inval_start_refusable(struct mmu_notifier_range *mn,
			      struct nopin_range *range, long first, long nr)
{
	nt_inval_init(mn, range, MMU_NOTIFY_CLEAR, MMU_NOTIFIER_RANGE_REFUSABLE,
		      first, nr);
	return !mmu_notifier_invalidate_range_start_refusable(mn);
}

/* A change that nobody is in the way of; what there is stays in use */
void nt_change(struct nopin_range *range, unsigned int first, unsigned int nr)
{
	struct mmu_notifier_range mn;

	nt_inval_init(&mn, range, MMU_NOTIFY_CLEAR, 0, first, nr);
	mmu_notifier_invalidate_range_start(&mn);
	nt_inval_end(&mn);
}

/* Entering pages, opening them first */

/* Either all of the pages or none */
bool nt_enter_pages(struct nopin_range *range, unsigned int first,
		    unsigned int nr, enum nopin_dir dir, bool other,
		    struct nopin_extent *ext)
{
	unsigned int end = first + nr, next;
	struct nopin_extent all = {
		.range	= range,
		.first	= first,
		.other	= other,
	};

	for (; first < end; first = next) {
		struct nopin_extent part;

		next = min(end, nopin_next_chunk(first));
		if (!nopin_enter(range, first, next - first, dir, !other,
				 &part)) {
			if (all.nr)
				nopin_exit(&all, dir);
			return false;
		}
		all.nr += part.nr;
	}
	*ext = all;
	return true;
}

/* 0 or -EAGAIN, which nt_open() may explain */
int nt_enter(struct kunit *test, struct nopin_range *range, unsigned int first,
	     unsigned int nr, enum nopin_dir dir)
{
	struct nt_fixture *f = test->priv;
	struct nopin_extent ext;

	KUNIT_ASSERT_LT(test, f->nr_entered, MAX_ENTERED);
	if (!nt_enter_pages(range, first, nr, dir, f->other, &ext))
		return -EAGAIN;
	f->entered[f->nr_entered++] = (struct nt_entered) {
		.ext	= ext,
		.dir	= dir,
	};
	return 0;
}

/* As the bio glue does it: opens the pages if it has to. An error of nt_open() */
int nt_enter_opened(struct kunit *test, struct nopin_range *range,
		    unsigned int first, unsigned int nr, enum nopin_dir dir)
{
	struct nt_fixture *f = test->priv;
	unsigned int tries = 100;
	int ret;

	for (;;) {
		if (!f->other)
			nopin_window_begin();
		ret = nt_enter(test, range, first, nr, dir);
		nopin_window_end();
		if (!ret || !tries--)
			return ret;
		f->opens++;
		ret = nt_open(range, first, nr, dir, false);
		if (ret && ret != -EAGAIN)
			return ret;
	}
}

/* Somebody else is going to call nopin_exit() */
struct nt_entered nt_forget(struct kunit *test, struct nopin_range *range,
			    unsigned int first, unsigned int nr,
			    enum nopin_dir dir)
{
	struct nt_fixture *f = test->priv;
	struct nt_entered *e, ret = {};

	for (e = f->entered; e < f->entered + f->nr_entered; e++) {
		if (e->ext.range != range || e->ext.first != first ||
		    e->ext.nr != nr || e->dir != dir)
			continue;
		ret = *e;
		*e = f->entered[--f->nr_entered];
		return ret;
	}
	KUNIT_FAIL_AND_ABORT(test, "pages %u+%u were not entered", first, nr);
	return ret;
}

void nt_leave(struct kunit *test, struct nopin_range *range,
	      unsigned int first, unsigned int nr, enum nopin_dir dir)
{
	struct nt_entered e = nt_forget(test, range, first, nr, dir);

	nopin_exit(&e.ext, dir);
}

void nt_leave_all(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nt_entered *e;

	while (f->nr_entered) {
		e = &f->entered[--f->nr_entered];
		nopin_exit(&e->ext, e->dir);
	}
}

/**
 * struct irq_exit - an exit from pages in a hard interrupt
 * @work: the interrupt
 * @entered: the pages
 * @hardirq: it was one
 */
struct irq_exit {
	struct irq_work		work;
	struct nt_entered	entered;
	bool			hardirq;
};

static void irq_exit_fn(struct irq_work *work)
{
	struct irq_exit *irq = container_of(work, struct irq_exit, work);

	irq->hardirq = in_hardirq();
	nopin_exit(&irq->entered.ext, irq->entered.dir);
}

/* Where bios end */
void nt_leave_in_irq(struct kunit *test, struct nopin_range *range,
		     unsigned int first, unsigned int nr, enum nopin_dir dir)
{
	struct irq_exit irq = {
		.work		= IRQ_WORK_INIT_HARD(irq_exit_fn),
		.entered	= nt_forget(test, range, first, nr, dir),
	};

	irq_work_queue(&irq.work);
	irq_work_sync(&irq.work);
	KUNIT_EXPECT_TRUE(test, irq.hardirq);
}

/* nopin_open() for pages of several chunks */
int nt_open(struct nopin_range *range, unsigned int first, unsigned int nr,
	    enum nopin_dir dir, bool nowait)
{
	unsigned int end = first + nr, next;
	int ret;

	for (; first < end; first = next) {
		next = min(end, nopin_next_chunk(first));
		ret = nopin_open(range, first, next - first, dir, nowait);
		if (ret)
			return ret;
	}
	return 0;
}

void nt_open_pages(struct kunit *test, struct nopin_range *range,
		   unsigned int first, unsigned int nr, enum nopin_dir dir)
{
	KUNIT_ASSERT_EQ(test, nt_open(range, first, nr, dir, true), 0);
}

void nt_open_range(struct kunit *test, struct nopin_range *range)
{
	nt_open_pages(test, range, 0, range->nr_pages, NOPIN_FROM_DEVICE);
	nt_open_pages(test, range, 0, range->nr_pages, NOPIN_TO_DEVICE);
}

void nt_expect_enter(int line, struct kunit *test, struct nopin_range *range,
		     unsigned int first, unsigned int nr, enum nopin_dir dir,
		     int ret)
{
	KUNIT_EXPECT_EQ_MSG(test, nt_enter(test, range, first, nr, dir), ret,
			    "in line %d", line);
}

void nt_expect_open(int line, struct kunit *test, struct nopin_range *range,
		    unsigned int first, unsigned int nr, enum nopin_dir dir,
		    bool nowait, int ret)
{
	KUNIT_EXPECT_EQ_MSG(test, nt_open(range, first, nr, dir, nowait), ret,
			    "in line %d", line);
}

/* A page that was pinned can be opened soon after the last exit, if it is there */
void nt_expect_opens(struct kunit *test, struct nopin_range *range,
		     unsigned int page, enum nopin_dir dir)
{
	unsigned int i;
	int ret;

	for (i = 0; i < 1000; i++) {
		ret = nt_open(range, page, 1, dir, true);
		if (ret != -EBUSY)
			break;
		msleep(20);
	}
	KUNIT_EXPECT_NE(test, ret, -EBUSY);
	KUNIT_EXPECT_EQ(test, nt_state(range, page, dir) & NOPIN_PAGE_MAX, 0);
}

/* States */

static u8 state_byte(struct nopin_range *range, unsigned int page,
		     enum nopin_dir dir)
{
	u64 word = NOPIN_CLOSED | NOPIN_OLD;
	struct nopin_chunk *chunk;

	rcu_read_lock();
	chunk = nopin_chunk_at(range, page);
	if (chunk)
		word = atomic64_read(nopin_word(chunk, page, dir));
	rcu_read_unlock();
	return word >> (page % NOPIN_PAGES_PER_WORD * NOPIN_PAGE_BITS);
}

/* The state of a page, but for the bit about its translation */
u8 nt_state(struct nopin_range *range, unsigned int page, enum nopin_dir dir)
{
	return state_byte(range, page, dir) & ~NOPIN_PAGE_OLD;
}

/* Has that chunk any states? */
bool nt_has_states(struct nopin_range *range, unsigned int page)
{
	return nopin_chunk_at(range, page);
}

/* How many bios that are not prompt are in the chunk of that page? */
int nt_others(struct nopin_range *range, unsigned int page)
{
	struct nopin_chunk *chunk;
	int ret = 0;

	rcu_read_lock();
	chunk = nopin_chunk_at(range, page);
	if (chunk)
		ret = atomic_read(&chunk->other);
	rcu_read_unlock();
	return ret;
}

/* The first of the pages that has another state, or -1 */
int nt_first_not(u8 byte, struct nopin_range *range, unsigned int first,
		 unsigned int nr, enum nopin_dir dir)
{
	unsigned int page;

	for (page = first; page < first + nr; page++)
		if (nt_state(range, page, dir) != byte)
			return page;
	return -1;
}

/* How many of the pages could be entered, but for those in use? */
unsigned int nt_count_known(struct nopin_range *range, unsigned int first,
			    unsigned int nr, enum nopin_dir dir)
{
	unsigned int page, known = 0;

	for (page = first; page < first + nr; page++)
		known += !(state_byte(range, page, dir) &
			   (NOPIN_PAGE_CLOSED | NOPIN_PAGE_OLD));
	return known;
}

void nt_expect_known(int line, struct kunit *test, struct nopin_range *range,
		     unsigned int first, unsigned int nr, enum nopin_dir dir,
		     bool known)
{
	int ret = nt_enter(test, range, first, nr, dir);

	KUNIT_EXPECT_EQ_MSG(test, !ret, known, "in line %d", line);
	KUNIT_EXPECT_EQ_MSG(test, nt_count_known(range, first, nr, dir) == nr,
			    known, "in line %d", line);
	if (ret)
		return;
	nt_check(test, range, first, nr);
	nt_leave(test, range, first, nr, dir);
}

/* Fixture */

int nt_init(struct kunit *test)
{
	struct nt_fixture *f;

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

void nt_exit(struct kunit *test)
{
	struct nt_fixture *f = test->priv;
	struct nt_op *op;

	if (!f)
		return;
	nt_leave_all(test);
	list_for_each_entry(op, &f->ops, list) {
		if (!nt_done(op)) {
			/* it still uses all of this */
			kunit_err(test, "hangs: %ps\n", op->fn);
			return;
		}
		nt_end(op);
		put_task_struct(op->task);
	}
	if (f->own)
		nopin_range_destroy(f->range);
	if (f->mm)
		mmput(f->mm);
	/* So that a report of a wrong access comes with its test */
	rcu_barrier();
	WRITE_ONCE(nopin_rmap_wait_ms, f->rmap_wait_ms);
	WRITE_ONCE(nopin_first_ios, f->first_ios);
}
