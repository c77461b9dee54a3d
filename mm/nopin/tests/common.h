/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the KUnit tests of nopin share. The prefix is short for "nopin test".
 *
 * Whatever may have to wait runs in a thread of its own (an "op"), and the test
 * looks whether it is blocked, does the next step, and looks again. Threads and
 * entered pages are kept in the fixture and cleaned up by its exit handler, so
 * that a failed assertion does not leave anybody waiting.
 *
 * Rule numbers are those of Documentation/mm/nopin.rst.
 */
#ifndef __NOPIN_TESTS_COMMON_H
#define __NOPIN_TESTS_COMMON_H

#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/sizes.h>

#include "../../internal.h"
#include "../nopin.h"

/* What nobody waits out, in all tests that do not set it */
#define LONG_WAIT_MS	(60 * MSEC_PER_SEC)

#define MAX_ENTERED	256

/* Length of some memory: pages of several words */
#define SMALL_LEN	(40 * PAGE_SIZE)

/* The next one of a row of numbers that look random */
static inline u32 nt_random(u32 seed)
{
	return seed * 1664525 + 1013904223;
}

/**
 * struct nt_entered - pages that a test has entered
 * @ext: which
 * @dir: as for nopin_enter()
 */
struct nt_entered {
	struct nopin_extent	ext;
	enum nopin_dir		dir;
};

/**
 * struct nt_fixture - what every test has
 * @mm: the mm of the test if it has a range from the beginning, otherwise NULL
 * @range: that range
 * @own: the test has created it, and it is not found by address
 * @other: the I/O of the test is not prompt
 * @opens: how often nt_enter_opened() had to open pages
 * @entered: pages that are entered
 * @nr_entered: number of them
 * @ops: all &struct nt_op
 * @rmap_wait_ms: value to restore
 * @first_ios: value to restore
 */
struct nt_fixture {
	struct mm_struct	*mm;
	struct nopin_range	*range;
	bool			own;
	bool			other;
	unsigned int		opens;
	struct nt_entered	entered[MAX_ENTERED];
	unsigned int		nr_entered;
	struct list_head	ops;
	unsigned int		rmap_wait_ms;
	unsigned int		first_ios;
};

int nt_init(struct kunit *test);
void nt_exit(struct kunit *test);

/**
 * struct nt_op - something that runs in a thread because it may wait
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
 * @list: in &nt_fixture.ops
 */
struct nt_op {
	int			(*fn)(struct nt_op *op);
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

struct nt_op *nt_run(struct kunit *test, const struct nt_op *template);
bool nt_blocked(struct nt_op *op);
bool nt_done(struct nt_op *op);
void nt_end(struct nt_op *op);

void nt_expect_ret(int line, struct kunit *test, struct nt_op *op, int ret);

/* That an op is over soon, and what it returns */
#define EXPECT_RET(...)		nt_expect_ret(__LINE__, __VA_ARGS__)

/* How an invalidation comes about, besides plainly */
#define REFUSABLE	BIT(0)
#define MEMALLOC	BIT(1)
#define NONBLOCK	BIT(2)

/* Ops that are changes of a mapping, or claim to be; @first may lie before @range */
struct nt_op *nt_inval(struct kunit *test, struct nopin_range *range,
		       enum mmu_notifier_event event, unsigned int how,
		       long first, long nr);
struct nt_op *nt_rmap(struct kunit *test, struct nopin_range *range,
		      unsigned int how, long first, long nr);
struct nt_op *nt_mapping(struct kunit *test, int (*fn)(struct nt_op *),
			 unsigned int how, unsigned long addr, size_t len);
struct nt_op *nt_op_open(struct kunit *test, struct nopin_range *range,
			 unsigned int first, unsigned int nr,
			 enum nopin_dir dir);

/* Invalidations by the test itself, while nobody needs to be waited for */
void nt_inval_init(struct mmu_notifier_range *mn, struct nopin_range *range,
		   enum mmu_notifier_event event, unsigned int flags,
		   long first, long nr);
void nt_inval_start(struct mmu_notifier_range *mn, struct nopin_range *range,
		    long first, long nr);
bool nt_inval_start_refusable(struct mmu_notifier_range *mn,
			      struct nopin_range *range, long first, long nr);
void nt_change(struct nopin_range *range, unsigned int first, unsigned int nr);

#define nt_inval_end	mmu_notifier_invalidate_range_end

/* Pages by their index in a range: several chunks will do */
bool nt_enter_pages(struct nopin_range *range, unsigned int first,
		    unsigned int nr, enum nopin_dir dir, bool other,
		    struct nopin_extent *ext);
int nt_enter(struct kunit *test, struct nopin_range *range, unsigned int first,
	     unsigned int nr, enum nopin_dir dir);
int nt_enter_opened(struct kunit *test, struct nopin_range *range,
		    unsigned int first, unsigned int nr, enum nopin_dir dir);
struct nt_entered nt_forget(struct kunit *test, struct nopin_range *range,
			    unsigned int first, unsigned int nr,
			    enum nopin_dir dir);
void nt_leave(struct kunit *test, struct nopin_range *range,
	      unsigned int first, unsigned int nr, enum nopin_dir dir);
void nt_leave_all(struct kunit *test);
int nt_open(struct nopin_range *range, unsigned int first, unsigned int nr,
	    enum nopin_dir dir, bool nowait);
void nt_open_pages(struct kunit *test, struct nopin_range *range,
		   unsigned int first, unsigned int nr, enum nopin_dir dir);
void nt_open_range(struct kunit *test, struct nopin_range *range);
void nt_expect_enter(int line, struct kunit *test, struct nopin_range *range,
		     unsigned int first, unsigned int nr, enum nopin_dir dir,
		     int ret);
void nt_expect_open(int line, struct kunit *test, struct nopin_range *range,
		    unsigned int first, unsigned int nr, enum nopin_dir dir,
		    bool nowait, int ret);
void nt_expect_opens(struct kunit *test, struct nopin_range *range,
		     unsigned int page, enum nopin_dir dir);

/* What nt_enter() and nt_open() return */
#define EXPECT_ENTER(...)	nt_expect_enter(__LINE__, __VA_ARGS__)
#define EXPECT_OPEN(...)	nt_expect_open(__LINE__, __VA_ARGS__)

void nt_leave_in_irq(struct kunit *test, struct nopin_range *range,
		     unsigned int first, unsigned int nr, enum nopin_dir dir);

/* States */
u8 nt_state(struct nopin_range *range, unsigned int page, enum nopin_dir dir);
bool nt_has_states(struct nopin_range *range, unsigned int page);
int nt_others(struct nopin_range *range, unsigned int page);
int nt_first_not(u8 byte, struct nopin_range *range, unsigned int first,
		 unsigned int nr, enum nopin_dir dir);
unsigned int nt_count_known(struct nopin_range *range, unsigned int first,
			    unsigned int nr, enum nopin_dir dir);
void nt_expect_known(int line, struct kunit *test, struct nopin_range *range,
		     unsigned int first, unsigned int nr, enum nopin_dir dir,
		     bool known);

/* What the state of these pages is, but for the bit about their translation */
#define EXPECT_STATE(test, byte, range, first, nr, dir) \
	KUNIT_EXPECT_EQ(test, nt_first_not(byte, range, first, nr, dir), -1)

/* Whether I/O can enter these pages, and finds what the process has there */
#define EXPECT_KNOWN(...)	nt_expect_known(__LINE__, __VA_ARGS__, true)
#define EXPECT_UNKNOWN(...)	nt_expect_known(__LINE__, __VA_ARGS__, false)

/* Memory of the test, of several kinds */
unsigned long nt_map(struct kunit *test, struct file *file, size_t len,
		     unsigned long prot, unsigned long flags);
unsigned long nt_map_anon(struct kunit *test, size_t len);
unsigned long nt_map_small(struct kunit *test, size_t len);
unsigned long nt_map_fixed(struct kunit *test, unsigned long addr, size_t len);
unsigned long nt_map_shmem(struct kunit *test, size_t len, unsigned long flags);
unsigned long nt_map_kind(struct kunit *test, bool shmem, size_t len);
unsigned long nt_map_chunk(struct kunit *test);
unsigned long nt_map_thp(struct kunit *test);
unsigned long nt_map_huge_zero(struct kunit *test);
unsigned long nt_map_hugetlb(struct kunit *test, unsigned long size,
			     unsigned int nr, unsigned long flags);
void nt_write(struct kunit *test, unsigned long addr, size_t len);
void nt_read(struct kunit *test, unsigned long addr, size_t len);
void nt_fill(struct kunit *test, unsigned long addr, size_t len);
bool nt_is_huge(unsigned long addr);
int nt_protect(unsigned long addr, size_t len, unsigned long prot);
struct page *nt_get_page(unsigned long addr);

/* Pages by their address */
struct nopin_range *nt_range(struct kunit *test, unsigned long addr);
int nt_enter_at(struct kunit *test, unsigned long addr, size_t len,
		enum nopin_dir dir);
int nt_look_up(struct kunit *test, unsigned long addr, size_t len,
	       enum nopin_dir dir);
struct page *nt_page(unsigned long addr);
void nt_check(struct kunit *test, struct nopin_range *range, unsigned int first,
	      unsigned int nr);
void nt_check_pages(struct kunit *test, unsigned long addr, size_t len);
void nt_check_at(struct kunit *test, unsigned long addr, size_t len,
		 enum nopin_dir dir);
void nt_expect_walk(int line, struct kunit *test, unsigned long addr,
		    size_t len, int from, int to);

/* What a look at the page tables gives for either direction */
#define EXPECT_WALK(...)	nt_expect_walk(__LINE__, __VA_ARGS__)

/* Pins on behalf of I/O */
bool nt_is_pinned(struct page *page);
bool nt_was_pinned(unsigned long addr, enum nopin_dir dir);
void nt_expect_unpinned(struct kunit *test, struct page *page);
void nt_expect_drops(struct kunit *test, unsigned long addr,
		     enum nopin_dir dir);

/* For ops, see nt_mapping() */
int nt_op_munmap(struct nt_op *op);
int nt_op_dontneed(struct nt_op *op);
int nt_op_protect(struct nt_op *op);
int nt_op_migrate(struct nt_op *op);
int nt_op_mkclean(struct nt_op *op);
int nt_op_split(struct nt_op *op);
int nt_op_mmput(struct nt_op *op);

/**
 * struct nt_change_case - what a process does to its memory
 * @name: of the case
 * @fn: does it
 * @from: what a look at it for devices that write memory gives afterwards
 * @to: the same for devices that read it
 * @waits: even if it is anonymous, for devices that write it
 */
struct nt_change_case {
	const char	*name;
	int		(*fn)(struct nt_op *op);
	int		from;
	int		to;
	bool		waits;
};

extern const struct nt_change_case nt_change_cases[3];

/* The suite of the tests in _name_cases */
#define NT_SUITE(_name, _init)				\
static struct kunit_suite _name##_suite = {		\
	.name		= "nopin-" #_name,		\
	.init		= _init,			\
	.exit		= nt_exit,			\
	.test_cases	= _name##_cases,		\
};							\
kunit_test_suite(_name##_suite)

#endif /* __NOPIN_TESTS_COMMON_H */
