// SPDX-License-Identifier: GPL-2.0
/*
 * The memory that it takes to do without pins: what if there is none, and what if it
 * takes much of it. All of it is given back.
 *
 * No memory: the first allocation of an I/O fails, then the second
 * one, and so on, until there is none left to fail. The I/O may end with an error that
 * says so, and with no other. It succeeds when the program tries again, the data is
 * right, and no pin and no memory is left. The same goes for those who change a
 * mapping while I/O is in flight: they take pins on its behalf, and it ends well
 * whatever becomes of the change.
 *
 * Each try has a process of its own, so that the mm has nothing yet. Where the
 * kernel needs memory for doing without pins, and has none, it pins the pages: I/O
 * must not fail more often than with pins.
 *
 * That takes a kernel with CONFIG_FAULT_INJECTION, CONFIG_FAILSLAB and
 * CONFIG_FAIL_PAGE_ALLOC.
 *
 * Much memory: many processes with I/O in flight at the same time, and a process
 * whose buffers are all over its address space.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define FAIL_NTH	"/proc/thread-self/fail-nth"
#define MAKE_IT_FAIL	"/proc/self/make-it-fail"
#define DEBUG		"/sys/kernel/debug/"
#define SLAB		"/sys/kernel/slab/"
#define FIRST_IOS	"/sys/kernel/mm/nopin/first_ios"

#define DISK		(8 * MB)
#define WRITE_POS	(4 * MB)
#define SEED		61
#define MAX_PIECES	8
#define MAX_NTH		2000
/* Not every try takes as many allocations as the one before */
#define END_AFTER	2	/* in which none has failed */
/* The first I/Os of a process are pinned, one and one more for each mapping */
#define NR_LATER	64

/* ---- failures ---- */

/* Allocations fail that may sleep, of any size, and nobody prints anything */
static const struct {
	const char *name, *during, *after;
} knobs[] = {
	{ DEBUG "failslab/verbose", "0", "2" },
	{ DEBUG "failslab/ignore-gfp-wait", "N", "Y" },
	{ DEBUG "fail_page_alloc/verbose", "0", "2" },
	{ DEBUG "fail_page_alloc/ignore-gfp-wait", "N", "Y" },
	{ DEBUG "fail_page_alloc/ignore-gfp-highmem", "N", "Y" },
	{ DEBUG "fail_page_alloc/min-order", "0", "1" },
};

static int knobs_set(bool during)
{
	int ret = 0;

	for (size_t i = 0; i < ARRAY_SIZE(knobs) && !ret; i++)
		ret = sysfs_write(knobs[i].name,
				  during ? knobs[i].during : knobs[i].after);
	return ret;
}

/* Any allocation of a task that asked for it fails, at @percent */
static int chance_set(const char *percent)
{
	static const char *const dirs[] = { DEBUG "failslab", DEBUG "fail_page_alloc" };
	char name[128];
	int ret = 0;

	for (size_t i = 0; i < ARRAY_SIZE(dirs) && !ret; i++) {
		snprintf(name, sizeof(name), "%s/task-filter", dirs[i]);
		ret = sysfs_write(name, "Y");
		snprintf(name, sizeof(name), "%s/times", dirs[i]);
		ret = ret ?: sysfs_write(name, "-1");
		snprintf(name, sizeof(name), "%s/probability", dirs[i]);
		ret = ret ?: sysfs_write(name, percent);
	}
	return ret;
}

static bool can_fail(void)
{
	return !access(FAIL_NTH, W_OK) && !access(knobs[0].name, W_OK) &&
	       !access(knobs[2].name, W_OK);
}

/* The file is open before, as opening it takes memory */
static int fail_fd = -1;

static int fail_open(const char *name)
{
	if (fail_fd >= 0)
		close(fail_fd);
	fail_fd = open(name, O_RDWR | O_CLOEXEC);
	return fail_fd < 0 ? -errno : 0;
}

static void fail_arm(unsigned int nth)
{
	char buf[16];
	int len = snprintf(buf, sizeof(buf), "%u", nth);

	if (pwrite(fail_fd, buf, len, 0) != len)
		_exit(3);
}

/* Has an allocation failed? */
static bool fail_disarm(void)
{
	char buf[16] = "";

	if (pread(fail_fd, buf, sizeof(buf) - 1, 0) <= 0)
		_exit(3);
	fail_arm(0);
	return !strtoul(buf, NULL, 10);
}

/* ---- what may be left ---- */

static const char *const slabs[] = {
	"nopin_chunk",
	"kmalloc-cg-8k",	/* ranges, and the translations of chunks */
	"mm_struct",
};

struct left {
	long objects[ARRAY_SIZE(slabs)];
	long pins;
};

/* None of the objects is kept for later; 0 if the slab is not there */
static long slab_objects(const char *name)
{
	char path[96], buf[256];

	snprintf(path, sizeof(path), SLAB "%s/shrink", name);
	sysfs_write(path, "1");
	snprintf(path, sizeof(path), SLAB "%s/objects", name);
	return sysfs_read(path, buf, sizeof(buf)) ? 0 : strtol(buf, NULL, 10);
}

static void left_get(struct left *l)
{
	struct vmstat all;

	for (size_t i = 0; i < ARRAY_SIZE(slabs); i++)
		l->objects[i] = slab_objects(slabs[i]);
	vmstat_read(&all, true);
	l->pins = vmstat_in(&all, "nr_foll_pin_acquired") -
		  vmstat_in(&all, "nr_foll_pin_released");
}

/* Memory is freed by RCU, and rings end in a worker */
static void left_check(struct __test_metadata *_metadata, const struct left *before)
{
	uint64_t end = now_ms() + 10000;
	struct left now;
	bool more;

	do {
		left_get(&now);
		more = now.pins > before->pins;
		for (size_t i = 0; i < ARRAY_SIZE(slabs); i++)
			more |= now.objects[i] > before->objects[i];
		if (more)
			usleep(50000);
	} while (more && now_ms() < end);
	EXPECT_EQ(before->pins, now.pins);
	for (size_t i = 0; i < ARRAY_SIZE(slabs); i++) {
		EXPECT_GE(before->objects[i], now.objects[i])
			TH_LOG("objects of %s", slabs[i]);
	}
}

/* ---- one try ---- */

struct op {
	const char *env;
	enum engine eng;
	enum mem_kind kind;
	size_t len;		/* of each piece */
	unsigned int pieces;	/* 1 unless the engine is vectored */
	bool write;		/* NOPIN_LONG: the other way as well */
	bool absent;		/* the memory that is read to has no pages */
	bool later;		/* several I/Os, the first of which are pinned */
};

/* What a try tells the test */
struct report {
	bool failed;		/* an allocation has */
	long ret;
	char error[160];
};

struct io {
	const struct op *op;
	struct target *t;
	bool write;
	unsigned int flags;	/* for registering the buffer */
	uint64_t seed;
	off_t pos;
	size_t total;
	struct mem m;
	struct ioq q;
	bool registered;
	struct iovec iov[MAX_PIECES];
};

/* The first error is the one that counts */
static void error(struct report *r, const char *fmt, ...)
{
	va_list args;

	if (r->error[0])
		return;
	va_start(args, fmt);
	vsnprintf(r->error, sizeof(r->error), fmt, args);
	va_end(args);
}

/*
 * The allocations of io_uring's worker are to fail. He is there as soon as he has done
 * something, and waits for more for a while.
 */
static int io_worker(struct io *io)
{
	struct io_uring *ring = &io->q.ring;
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	struct dirent *d;
	char path[64];
	int ret = -ESRCH;
	DIR *dir;

	io_uring_prep_nop(sqe);
	sqe->flags |= IOSQE_ASYNC;
	if (io_uring_submit(ring) != 1 || io_uring_wait_cqe(ring, &cqe))
		return -EIO;
	io_uring_cqe_seen(ring, cqe);
	dir = opendir("/proc/self/task");
	while (dir && ret && (d = readdir(dir))) {
		pid_t tid = atoi(d->d_name);

		if (!tid || tid == getpid())
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth", tid);
		ret = fail_open(path);
	}
	if (dir)
		closedir(dir);
	return ret;
}

static int io_init(struct io *io)
{
	const struct op *op = io->op;
	size_t gap = op->len + 4 * PAGE;
	int ret = mem_get(&io->m, op->kind, op->pieces * gap);

	for (unsigned int i = 0; i < op->pieces; i++) {
		io->iov[i].iov_base = io->m.p + i * gap + (op->later ? 0 : SECTOR);
		io->iov[i].iov_len = op->len;
	}
	io->total = op->pieces * op->len;
	io->flags = mode_get() == MODE_NOPIN ? IORING_RSRC_REGISTER_NOPIN : 0;
	ret = ret ?: ioq_init(&io->q, op->eng, 4);
	if (ret)
		return ret;
	return op->eng == ENG_URING_WQ ? io_worker(io) : fail_open(FAIL_NTH);
}

/* What is there before the transfer */
static int io_fill(struct io *io)
{
	const struct op *op = io->op;

	if (!io->write)
		memset(io->m.p, GRAB_BYTE, io->m.len);
	for (unsigned int i = 0; i < op->pieces && io->write; i++)
		pat_fill(io->iov[i].iov_base, op->len, io->seed, io->pos + i * op->len);
	if (op->absent && madvise(io->m.p, io->m.len, MADV_DONTNEED))
		return -errno;
	return 0;
}

/* Are the first bytes right? */
static bool io_right(struct io *io, size_t bytes)
{
	off_t pos = io->pos;

	for (unsigned int i = 0; i < io->op->pieces && bytes; i++) {
		size_t len = io->iov[i].iov_len < bytes ? io->iov[i].iov_len : bytes;

		if (pat_check(io->iov[i].iov_base, len, io->seed, pos) != -1)
			return false;
		pos += len;
		bytes -= len;
	}
	return true;
}

/* With allocations that fail: takes no memory itself */
static long io_run(struct io *io)
{
	const struct op *op = io->op;
	unsigned int nr = op->later ? NR_LATER : 1;
	long ret = 0;

	if (op->eng == ENG_URING_FIXED && !io->registered) {
		ret = ring_buffers_flags(&io->q.ring, io->iov, 1, NULL, io->flags);
		if (ret)
			return ret;
		io->registered = true;
	}
	while (nr-- && (!ret || ret == (long)io->total))
		ret = ioq_rwv(&io->q, io->t->fd, io->write, io->iov, op->pieces,
			      io->pos);
	return ret;
}

/* Is that an error of an I/O that could not get memory? */
static bool io_may_fail(const struct io *io, long ret)
{
	switch (ret) {
	case -ENOMEM:
		return true;
	case -EAGAIN:
		return io->op->eng != ENG_PSYNC && io->op->eng != ENG_PVSYNC;
	case -ECANCELED:
		/* There is no worker that could do it */
		return io->op->eng >= ENG_URING;
	}
	return ret > 0 && ret < (long)io->total;
}

static void try_io(const struct op *op, struct target *t, bool write, unsigned int nth,
		   struct report *r)
{
	struct io io = {
		.op	= op,
		.t	= t,
		.write	= write,
		.seed	= write ? SEED + 1 + nth : SEED,
		.pos	= write ? WRITE_POS : 0,
	};
	bool another = false;
	unsigned long pinned;
	struct vmstat all;
	struct ioq first;
	long ret;

	ret = io_init(&io) ?: io_fill(&io);
	if (ret) {
		error(r, "setup: %s", strerror(-ret));
		return;
	}
	fail_arm(nth);
	ret = io_run(&io);
	r->failed = fail_disarm();
	r->ret = ret;
	if (ret != (long)io.total && !(r->failed && io_may_fail(&io, ret)))
		error(r, "%ld", ret);
	if (ret > 0 && !io_right(&io, ret))
		error(r, "wrong data after %ld", ret);

	/*
	 * What was not submitted is still in the ring, so take another one. The end of a
	 * ring would be a signal, for which nothing is made that I/O without pins needs.
	 */
	first = io.q;
	if (ret != (long)io.total) {
		io.registered = false;
		ret = ioq_init(&io.q, op->eng, 4);
		if (ret)
			error(r, "another queue: %s", strerror(-ret));
		another = true;
	}
	/* Once more: the process is as any other */
	vmstat_read(&all, false);
	pinned = vmstat_in(&all, "nopin_fallback");
	ret = io_fill(&io) ?: io_run(&io);
	if (ret != (long)io.total)
		error(r, "%ld when tried again, after %ld", ret, r->ret);
	else if (!io_right(&io, ret))
		error(r, "wrong data when tried again, after %ld", r->ret);
	vmstat_read(&all, false);
	if (!op->later && vmstat_in(&all, "nopin_fallback") != pinned)
		error(r, "pinned when tried again, after %ld", r->ret);
	ioq_exit(&io.q);
	if (another)
		ioq_exit(&first);
	mem_put(&io.m);
}

/* ---- all tries ---- */

/* Has ended, but is still there */
static int child_wait(pid_t pid)
{
	siginfo_t info;

	return waitid(P_PID, pid, &info, WEXITED | WNOWAIT) ? -errno : 0;
}

static int child_reap(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return status ? -ECHILD : 0;
}

static struct report *report_new(void)
{
	return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		    -1, 0);
}

struct tally {
	unsigned int nr;	/* allocations */
	unsigned int errors;	/* I/Os that have failed, or ended early; of these */
	unsigned int again, canceled, early;
	unsigned long instead;	/* I/Os that were pinned for it */
};

static void sweep(struct __test_metadata *_metadata, const struct op *op,
		  struct target *t, bool write, char *back, struct tally *tally)
{
	struct report *r = report_new();
	size_t total = op->pieces * op->len;
	unsigned int nth = 0, misses = 0;
	bool ok;

	ASSERT_NE(MAP_FAILED, r);
	memset(tally, 0, sizeof(*tally));
	tally->instead = fallback("nomem");
	do {
		pid_t pid;

		memset(r, 0, sizeof(*r));
		pid = fork();
		ASSERT_LE(0, pid);
		nth++;
		if (!pid) {
			try_io(op, t, write, nth, r);
			_exit(0);
		}
		ASSERT_EQ(0, child_reap(pid)) TH_LOG("allocation %u", nth);
		ok = !r->error[0];
		EXPECT_STREQ("", r->error) TH_LOG("allocation %u", nth);
		if (write && ok) {
			/* On another way */
			EXPECT_EQ(total, pread(t->fd, back, total, WRITE_POS));
			EXPECT_EQ(-1, pat_check(back, total, SEED + 1 + nth, WRITE_POS))
				TH_LOG("on the disk: allocation %u", nth);
		}
		tally->nr += r->failed;
		if (r->failed && r->ret != (long)total) {
			tally->errors++;
			tally->again += r->ret == -EAGAIN;
			tally->canceled += r->ret == -ECANCELED;
			tally->early += r->ret > 0;
			if (getenv("NOPIN_LONG"))
				note("allocation %u: %ld", nth, r->ret);
		}
		misses = r->failed ? 0 : misses + 1;
	} while (ok && misses < END_AFTER && nth < MAX_NTH);
	EXPECT_GT(MAX_NTH, nth);
	tally->instead = fallback("nomem") - tally->instead;
	munmap(r, PAGE);
}

FIXTURE(nomem) {
	struct target t;
	enum mode mode;
	char *back;
	struct left left;
	bool ready;
};

FIXTURE_VARIANT(nomem) {
	struct op op;
};

/* A page; a piece that has memory of two ranges */
FIXTURE_VARIANT_ADD(nomem, raw_psync) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_PSYNC, .kind = MEM_ANON,
	.len = 4 * KB, .pieces = 1 } };
FIXTURE_VARIANT_ADD(nomem, raw_psync_1m) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_PSYNC, .kind = MEM_ANON_GIB,
	.len = MB, .pieces = 1 } };
FIXTURE_VARIANT_ADD(nomem, raw_aio) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_AIO, .kind = MEM_ANON,
	.len = 16 * KB, .pieces = 1, .write = true } };
FIXTURE_VARIANT_ADD(nomem, raw_worker) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_URING_WQ, .kind = MEM_ANON,
	.len = 16 * KB, .pieces = 1, .write = true } };
FIXTURE_VARIANT_ADD(nomem, raw_uring_1m) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_URING, .kind = MEM_ANON_GIB,
	.len = MB, .pieces = 1 } };
FIXTURE_VARIANT_ADD(nomem, raw_fixed) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_URING_FIXED, .kind = MEM_ANON,
	.len = 16 * KB, .pieces = 1 } };
FIXTURE_VARIANT_ADD(nomem, raw_vector) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_PVSYNC, .kind = MEM_ANON_GIB,
	.len = 4 * KB, .pieces = MAX_PIECES } };
FIXTURE_VARIANT_ADD(nomem, raw_uring_vector) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_URINGV, .kind = MEM_ANON_GIB,
	.len = 4 * KB, .pieces = MAX_PIECES, .write = true } };
FIXTURE_VARIANT_ADD(nomem, raw_absent) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_PSYNC, .kind = MEM_ANON,
	.len = 16 * KB, .pieces = 1, .absent = true } };
FIXTURE_VARIANT_ADD(nomem, raw_huge) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_PSYNC, .kind = MEM_THP,
	.len = 64 * KB, .pieces = 1, .write = true } };
FIXTURE_VARIANT_ADD(nomem, raw_huge_absent) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_PSYNC, .kind = MEM_THP,
	.len = 16 * KB, .pieces = 1, .absent = true } };
/* What is needed for doing without pins is made when the task returns to user space */
FIXTURE_VARIANT_ADD(nomem, raw_later) { .op = {
	.env = "NOPIN_RAW", .eng = ENG_PSYNC, .kind = MEM_ANON,
	.len = 4 * KB, .pieces = 1, .later = true } };
FIXTURE_VARIANT_ADD(nomem, xfs_psync_1m) { .op = {
	.env = "NOPIN_XFS", .eng = ENG_PSYNC, .kind = MEM_ANON_GIB,
	.len = MB, .pieces = 1, .write = true } };
FIXTURE_VARIANT_ADD(nomem, xfs_uring) { .op = {
	.env = "NOPIN_XFS", .eng = ENG_URING, .kind = MEM_ANON,
	.len = 16 * KB, .pieces = 1 } };
FIXTURE_VARIANT_ADD(nomem, xfs_fixed) { .op = {
	.env = "NOPIN_XFS", .eng = ENG_URING_FIXED, .kind = MEM_ANON,
	.len = 16 * KB, .pieces = 1, .write = true } };
/* By fs/direct-io.c */
FIXTURE_VARIANT_ADD(nomem, fat_aio_1m) { .op = {
	.env = "NOPIN_FAT", .eng = ENG_AIO, .kind = MEM_ANON_GIB,
	.len = MB, .pieces = 1 } };
FIXTURE_VARIANT_ADD(nomem, fat_vector) { .op = {
	.env = "NOPIN_FAT", .eng = ENG_PVSYNC, .kind = MEM_ANON_GIB,
	.len = 4 * KB, .pieces = MAX_PIECES, .write = true } };

FIXTURE_SETUP(nomem)
{
	const struct op *op = &variant->op;

	if (!can_fail())
		SKIP(return, "the kernel cannot make allocations fail");
	NEED(op->env);
	ASSERT_EQ(0, target_open(&self->t, op->env, DISK));
	ASSERT_EQ(0, target_fill(&self->t, op->pieces * op->len, SEED, 0));
	self->back = mmap(NULL, MB, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->back);
	/* All that this process needs for I/O is there */
	ASSERT_EQ(MB, pread(self->t.fd, self->back, MB, WRITE_POS));
	self->mode = mode_get();
	left_get(&self->left);
	ASSERT_EQ(0, knobs_set(true));
	if (op->later && nopin_present())
		ASSERT_EQ(0, sysfs_write(FIRST_IOS, "1"));
	self->ready = true;
}

FIXTURE_TEARDOWN(nomem)
{
	if (!self->ready)
		return;
	if (variant->op.later && nopin_present())
		sysfs_write(FIRST_IOS, "0");
	knobs_set(false);
	mode_set(self->mode);
	munmap(self->back, MB);
	target_close(&self->t);
}

static void tally_note(const struct tally *t, const char *mode, bool write)
{
	note("%s, %s: %u allocations, %lu pinned instead, %u errors", mode,
	     write ? "write" : "read", t->nr, t->instead, t->errors);
	if (t->again + t->canceled + t->early)
		note("of these %u EAGAIN, %u ECANCELED, %u ended early", t->again,
		     t->canceled, t->early);
}

TEST_F_TIMEOUT(nomem, nth, 600)
{
	const struct op *op = &variant->op;
	struct tally with, without;

	for (int i = 0; i < 2; i++) {
		bool write = op->write != i;

		/* Who writes what is not there writes zeros */
		if (i && (op->absent || !getenv("NOPIN_LONG")))
			break;
		ASSERT_EQ(0, mode_set(MODE_PIN));
		sweep(_metadata, op, &self->t, write, self->back, &with);
		tally_note(&with, "pin", write);
		EXPECT_EQ(0, with.instead);
		if (self->mode == MODE_PIN)
			continue;
		ASSERT_EQ(0, mode_set(self->mode));
		sweep(_metadata, op, &self->t, write, self->back, &without);
		tally_note(&without, "nopin", write);
		/*
		 * What a submitter of io_uring cannot do at once, a worker does, and
		 * that there is none is one more thing that may happen. A file system
		 * allocates memory for itself, and not each time.
		 */
		if ((op->eng < ENG_URING || op->eng == ENG_URING_WQ) &&
		    !strcmp(op->env, "NOPIN_RAW")) {
			/* Nor are all tries the same */
			EXPECT_GE(with.errors + 1, without.errors);
			if (!op->later)
				EXPECT_LT(0, without.instead);
		}
	}
	left_check(_metadata, &self->left);
}

/* ---- signals ---- */

enum { NOT_YET, REGISTERS, IS_DONE };

static unsigned int signals;

static void on_signal(int sig)
{
	__atomic_add_fetch(&signals, 1, __ATOMIC_SEQ_CST);
}

/* Their locks are what registering for the first time takes its time for */
static int many_mappings(void)
{
	char *p = mmap(NULL, 1000 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	for (unsigned int i = 0; i < 1000; i += 2)
		if (mprotect(p + i * PAGE, PAGE, PROT_READ))
			return -errno;
	return 0;
}

static void try_register(struct report *r)
{
	unsigned int flags;
	struct mem m;
	struct ioq q;
	int ret;

	pin_to_cpu(1);
	signal(SIGALRM, on_signal);
	ret = many_mappings() ?: mem_get(&m, MEM_ANON, 64 * KB) ?:
	      ioq_init(&q, ENG_URING_FIXED, 4);
	if (ret) {
		error(r, "setup: %s", strerror(-ret));
		__atomic_store_n(&r->ret, IS_DONE, __ATOMIC_SEQ_CST);
		return;
	}
	flags = mode_get() == MODE_NOPIN ? IORING_RSRC_REGISTER_NOPIN : 0;
	__atomic_store_n(&r->ret, REGISTERS, __ATOMIC_SEQ_CST);
	/* They come one after the other */
	while (__atomic_load_n(&signals, __ATOMIC_SEQ_CST) < 3)
		;
	ret = ring_buffers_flags(&q.ring, &(struct iovec) { m.p, m.len }, 1, NULL, flags);
	__atomic_store_n(&r->ret, IS_DONE, __ATOMIC_SEQ_CST);
	if (ret)
		error(r, "%s", strerror(-ret));
}

/*
 * Signals while a buffer is registered, as a profiler sends them, or as io_uring has
 * them for its own. Programs do not expect EINTR there, unless they are being killed.
 */
TEST(interrupted)
{
	struct report *r = report_new();
	unsigned int errors = 0;

	ASSERT_NE(MAP_FAILED, r);
	pin_to_cpu(0);
	for (unsigned int i = 0; i < 10; i++) {
		pid_t pid;

		memset(r, 0, sizeof(*r));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			try_register(r);
			_exit(0);
		}
		while (__atomic_load_n(&r->ret, __ATOMIC_SEQ_CST) == NOT_YET)
			usleep(1000);
		while (__atomic_load_n(&r->ret, __ATOMIC_SEQ_CST) == REGISTERS)
			kill(pid, SIGALRM);
		ASSERT_EQ(0, child_reap(pid));
		if (r->error[0] && !errors++)
			note("registration: %s", r->error);
	}
	EXPECT_EQ(0, errors);
	munmap(r, PAGE);
}

/* ---- changes of mappings with I/O in flight ---- */

#define FLIGHTS		4
#define FLIGHT		(16 * KB)
#define BUFFER		(FLIGHTS * FLIGHT)

/* What is found where the buffer was */
enum after { HAS_DATA, HAS_ZEROS, IS_GONE };

struct change_op {
	/* 0, or -errno; @to is what mremap() moves it to */
	int (*run)(char *buf, char *to);
	enum engine eng;
	enum after after;
	bool moves;
	unsigned int step;	/* of that many allocations one fails; NOPIN_LONG: all */
};

struct change_io {
	const struct change_op *op;
	struct gate *gate;
	struct mem m;
	struct ioq q;
	char *to;
	long res[FLIGHTS];
};

static int change_munmap(char *buf, char *to)
{
	return munmap(buf, BUFFER) ? -errno : 0;
}

/* Leaves a mapping on both sides */
static int change_middle(char *buf, char *to)
{
	return munmap(buf + FLIGHT, 2 * FLIGHT) ? -errno : 0;
}

static int change_mremap(char *buf, char *to)
{
	return mremap(buf, BUFFER, BUFFER, MREMAP_MAYMOVE | MREMAP_FIXED, to) ==
		       MAP_FAILED ? -errno : 0;
}

static int change_dontneed(char *buf, char *to)
{
	return madvise(buf, BUFFER, MADV_DONTNEED) ? -errno : 0;
}

static int change_protect(char *buf, char *to)
{
	return mprotect(buf, BUFFER, PROT_READ) ? -errno : 0;
}

/* The child has what was there when it was born */
static int change_fork(char *buf, char *to)
{
	pid_t pid = fork();

	if (!pid)
		_exit(byte_check(buf, BUFFER, GRAB_BYTE) != -1);
	return pid < 0 ? -errno : pid;
}

static int change_start(struct change_io *c)
{
	int ret;

	memset(c->m.p, GRAB_BYTE, BUFFER);
	ret = gate_shut(c->gate, GATE_ASKED, 0);
	for (unsigned int i = 0; i < FLIGHTS && !ret; i++)
		ret = ioq_start(&c->q, i, c->gate->t.fd, false, c->m.p + i * FLIGHT,
				FLIGHT, i * FLIGHT);
	return ret ?: gate_held(c->gate, FLIGHTS);
}

static int change_init(struct change_io *c)
{
	int ret = mem_get(&c->m, MEM_ANON, BUFFER);

	c->to = mmap(NULL, BUFFER, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->to == MAP_FAILED)
		return -ENOMEM;
	return ret ?: ioq_init(&c->q, c->op->eng, FLIGHTS) ?: fail_open(FAIL_NTH) ?:
	       change_start(c);
}

/* Somebody has taken the pages that were freed meanwhile */
static char *change_grab(void)
{
	char *p = mmap(NULL, 4 * BUFFER, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p != MAP_FAILED)
		memset(p, GRAB_BYTE, 4 * BUFFER);
	return p;
}

/* The child of a fork, which has ended with success */
static void change_child(pid_t pid, struct report *r)
{
	if (child_reap(pid))
		error(r, "the child has data that was read later");
}

/* All reads have brought what they should, wherever that is now */
static void change_finish(struct change_io *c, bool changed, struct report *r)
{
	char *at = changed && c->op->moves ? c->to : c->m.p;
	bool gone = changed && c->op->after == IS_GONE;

	if (gate_open(c->gate) || ioq_reap(&c->q, FLIGHTS, c->res) != FLIGHTS) {
		error(r, "reads do not end");
		return;
	}
	for (unsigned int i = 0; i < FLIGHTS; i++)
		if (c->res[i] != FLIGHT)
			error(r, "read %u: %ld", i, c->res[i]);
	/* What change_middle() has left */
	if (gone && c->op->run == change_middle &&
	    (pat_check(at, FLIGHT, SEED, 0) != -1 ||
	     pat_check(at + 3 * FLIGHT, FLIGHT, SEED, 3 * FLIGHT) != -1))
		error(r, "wrong data beside it");
	if (gone)
		return;
	if (changed && c->op->after == HAS_ZEROS) {
		if (byte_check(at, BUFFER, 0) != -1)
			error(r, "a page that was given up has changed");
	} else if (pat_check(at, BUFFER, SEED, 0) != -1) {
		error(r, "wrong data, change was %ld", r->ret);
	}
}

static void try_change(const struct change_op *op, struct gate *gate, unsigned int nth,
		       struct report *r)
{
	struct change_io c = { .op = op, .gate = gate };
	char *grab;
	int ret;

	ret = change_init(&c);
	if (ret) {
		error(r, "setup: %s", strerror(-ret));
		return;
	}
	fail_arm(nth);
	ret = op->run(c.m.p, c.to);
	r->failed = fail_disarm();
	r->ret = ret;
	grab = change_grab();
	if (ret > 0)
		change_child(ret, r);
	if (ret < 0 && (!r->failed || (ret != -ENOMEM && ret != -EAGAIN)))
		error(r, "change: %s", strerror(-ret));
	change_finish(&c, ret >= 0, r);
	if (byte_check(grab, 4 * BUFFER, GRAB_BYTE) != -1)
		error(r, "a page of others has changed");
	if (ret < 0) {
		/* Nothing of it is left that the next change would meet */
		munmap(grab, 4 * BUFFER);
		ret = change_start(&c) ?: op->run(c.m.p, c.to);
		if (ret < 0)
			error(r, "change when tried again: %s", strerror(-ret));
		if (ret > 0)
			change_child(ret, r);
		change_finish(&c, ret >= 0, r);
	}
	ioq_exit(&c.q);
}

FIXTURE(change) {
	struct gate gate;
	struct report *r;
	struct left left;
	bool ready;
};

FIXTURE_VARIANT(change) {
	struct change_op op;
};

FIXTURE_VARIANT_ADD(change, munmap) { .op = {
	.run = change_munmap, .eng = ENG_AIO, .after = IS_GONE, .step = 1 } };
FIXTURE_VARIANT_ADD(change, middle) { .op = {
	.run = change_middle, .eng = ENG_URING, .after = IS_GONE, .step = 1 } };
FIXTURE_VARIANT_ADD(change, mremap) { .op = {
	.run = change_mremap, .eng = ENG_AIO, .after = HAS_DATA, .moves = true, .step = 1 } };
FIXTURE_VARIANT_ADD(change, dontneed) { .op = {
	.run = change_dontneed, .eng = ENG_URING, .after = HAS_ZEROS, .step = 1 } };
FIXTURE_VARIANT_ADD(change, protect) { .op = {
	.run = change_protect, .eng = ENG_AIO, .after = HAS_DATA, .step = 1 } };
FIXTURE_VARIANT_ADD(change, fork) { .op = {
	.run = change_fork, .eng = ENG_AIO, .after = HAS_DATA, .step = 12 } };

FIXTURE_SETUP(change)
{
	if (!can_fail())
		SKIP(return, "the kernel cannot make allocations fail");
	NEED("NOPIN_HELD");
	ASSERT_EQ(0, gate_init(&self->gate, "NOPIN_HELD"));
	ASSERT_EQ(0, target_fill(&self->gate.t, BUFFER, SEED, 0));
	self->r = report_new();
	ASSERT_NE(MAP_FAILED, self->r);
	/* Who waits for the I/O does so in vain, and need not do it for long */
	ASSERT_EQ(0, wait_ms_set(10));
	left_get(&self->left);
	ASSERT_EQ(0, knobs_set(true));
	self->ready = true;
}

FIXTURE_TEARDOWN(change)
{
	if (!self->ready)
		return;
	knobs_set(false);
	wait_ms_set(DEFAULT_WAIT_MS);
	gate_exit(&self->gate);
}

TEST_F_TIMEOUT(change, nth, 600)
{
	unsigned long pinned = vmstat("nopin_pinned");
	unsigned int step = getenv("NOPIN_LONG") ? 1 : variant->op.step;
	unsigned int nth, nr = 0, errors = 0, misses = 0;
	struct report *r = self->r;
	bool ok;

	for (nth = 1, ok = true; ok && misses < END_AFTER && nth < MAX_NTH; nth += step) {
		pid_t pid;

		memset(r, 0, sizeof(*r));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			try_change(&variant->op, &self->gate, nth, r);
			_exit(0);
		}
		ASSERT_EQ(0, child_reap(pid)) TH_LOG("allocation %u", nth);
		ASSERT_EQ(0, gate_idle(&self->gate));
		ok = !r->error[0];
		EXPECT_STREQ("", r->error) TH_LOG("allocation %u", nth);
		nr += r->failed;
		errors += r->failed && r->ret < 0;
		misses = r->failed ? 0 : misses + 1;
	}
	EXPECT_GT(MAX_NTH, nth);
	pinned = vmstat("nopin_pinned") - pinned;
	note("%u allocations, %u changes failed, %lu pages pinned for I/O", nr * step,
	     errors * step, pinned);
	if (mode_get() == MODE_NOPIN)
		EXPECT_LE(BUFFER / PAGE, pinned);
	left_check(_metadata, &self->left);
}

/* The process ends: nobody can try again */

FIXTURE(end) {
	struct gate gate;
	struct left left;
	bool ready;
};

FIXTURE_SETUP(end)
{
	if (!can_fail())
		SKIP(return, "the kernel cannot make allocations fail");
	NEED("NOPIN_HELD");
	ASSERT_EQ(0, gate_init(&self->gate, "NOPIN_HELD"));
	left_get(&self->left);
	ASSERT_EQ(0, knobs_set(true));
	self->ready = true;
}

FIXTURE_TEARDOWN(end)
{
	if (!self->ready)
		return;
	knobs_set(false);
	gate_exit(&self->gate);
}

TEST_F_TIMEOUT(end, exit, 300)
{
	static const struct change_op op = { .eng = ENG_URING };
	struct change_io c = { .op = &op, .gate = &self->gate };
	unsigned int nth = 0, nr = 0, misses = 0;
	char path[64], *grab;

	do {
		char left[16] = "";
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		nth++;
		if (!pid) {
			if (change_init(&c))
				_exit(1);
			fail_arm(nth);
			_exit(0);
		}
		/* What is left to be counted is known until it is reaped */
		ASSERT_EQ(0, child_wait(pid));
		snprintf(path, sizeof(path), "/proc/%d/fail-nth", pid);
		ASSERT_EQ(0, sysfs_read(path, left, sizeof(left)));
		misses = strtoul(left, NULL, 10) ? misses + 1 : 0;
		nr += !misses;
		ASSERT_EQ(0, child_reap(pid)) TH_LOG("allocation %u", nth);
		grab = change_grab();
		ASSERT_NE(MAP_FAILED, grab);
		ASSERT_EQ(0, gate_idle(&self->gate));
		EXPECT_EQ(-1, byte_check(grab, 4 * BUFFER, GRAB_BYTE))
			TH_LOG("a page of others has changed: allocation %u", nth);
		munmap(grab, 4 * BUFFER);
	} while (misses < END_AFTER && nth < MAX_NTH);
	note("%u allocations", nr);
	left_check(_metadata, &self->left);
}

/* ---- many allocations that fail ---- */

FIXTURE(chance) {
	struct target t;
	struct report *r;
	struct left left;
	bool ready;
};

FIXTURE_SETUP(chance)
{
	if (!can_fail())
		SKIP(return, "the kernel cannot make allocations fail");
	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&self->t, "NOPIN_RAW", DISK));
	ASSERT_EQ(0, target_fill(&self->t, MB, SEED, 0));
	self->r = report_new();
	ASSERT_NE(MAP_FAILED, self->r);
	left_get(&self->left);
	ASSERT_EQ(0, knobs_set(true));
	self->ready = true;
}

FIXTURE_TEARDOWN(chance)
{
	if (!self->ready)
		return;
	chance_set("0");
	knobs_set(false);
	target_close(&self->t);
}

/*
 * The memory is there, and small enough that I/O takes no other memory: it succeeds
 * where nothing can be had at all. As it does with pins.
 */
static void try_none(struct target *t, struct report *r)
{
	char *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	long ret;

	if (p == MAP_FAILED || fail_open(MAKE_IT_FAIL)) {
		error(r, "setup: %s", strerror(errno));
		return;
	}
	for (unsigned int i = 0; i < 64; i++) {
		fail_arm(1);
		ret = pread(t->fd, p, PAGE, i * PAGE);
		fail_arm(0);
		if (ret != PAGE)
			error(r, "read %u: %s", i, strerror(errno));
		if (pat_check(p, PAGE, SEED, i * PAGE) != -1)
			error(r, "read %u: wrong data", i);
		fail_arm(1);
		ret = pwrite(t->fd, p, PAGE, WRITE_POS + i * PAGE);
		fail_arm(0);
		if (ret != PAGE)
			error(r, "write %u: %s", i, strerror(errno));
	}
}

TEST_F_TIMEOUT(chance, none, 60)
{
	struct report *r = self->r;
	unsigned long nomem;
	pid_t pid;

	nomem = fallback("nomem");
	ASSERT_EQ(0, chance_set("100"));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		try_none(&self->t, r);
		_exit(0);
	}
	ASSERT_EQ(0, child_reap(pid));
	ASSERT_EQ(0, chance_set("0"));
	EXPECT_STREQ("", r->error);
	nomem = fallback("nomem") - nomem;
	note("%lu pinned", nomem);
	EXPECT_EQ(mode_get() == MODE_NOPIN ? 128 : 0, nomem);
	left_check(_metadata, &self->left);
}

/* Memory that comes and goes, and one allocation of a few fails */
static void try_some(struct target *t, uint32_t seed, struct report *r)
{
	static const struct op op = {
		.eng = ENG_URING, .kind = MEM_ANON_GIB, .len = 64 * KB, .pieces = 1,
	};
	struct io io = { .op = &op, .t = t, .seed = SEED };
	int ret = 0;

	for (unsigned int i = 0; i < 24 && !r->error[0]; i++) {
		unsigned int tries = 0;

		ret = io_init(&io) ?: fail_open(MAKE_IT_FAIL);
		if (ret)
			break;
		io.pos = rnd(&seed) % 8 * 64 * KB;
		io_fill(&io);
		if (rnd(&seed) % 4 == 0)
			madvise(io.m.p, io.m.len, MADV_DONTNEED);
		do {
			fail_arm(1);
			ret = io_run(&io);
			fail_arm(0);
			if (ret > 0 && !io_right(&io, ret))
				error(r, "wrong data after %d", ret);
			if (ret == (long)io.total)
				break;
			if (!io_may_fail(&io, ret))
				error(r, "I/O %u: %d", i, ret);
			r->ret++;
			ioq_exit(&io.q);
			ret = ioq_init(&io.q, op.eng, 4);
		} while (!ret && ++tries < 1000);
		if (tries == 1000)
			error(r, "I/O %u never succeeds", i);
		ret = 0;
		ioq_exit(&io.q);
		mem_put(&io.m);
	}
	if (ret)
		error(r, "setup: %s", strerror(-ret));
}

TEST_F_TIMEOUT(chance, some, 120)
{
	static const char *const percent[] = { "2", "10", "30" };
	struct report *r = self->r;

	for (unsigned int i = 0; i < 2 * ARRAY_SIZE(percent); i++) {
		unsigned long nomem = fallback("nomem");
		pid_t pid;

		memset(r, 0, sizeof(*r));
		ASSERT_EQ(0, chance_set(percent[i % ARRAY_SIZE(percent)]));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			try_some(&self->t, i + 1, r);
			_exit(0);
		}
		ASSERT_EQ(0, child_reap(pid));
		ASSERT_EQ(0, chance_set("0"));
		EXPECT_STREQ("", r->error) TH_LOG("run %u", i);
		note("at %s %%: %ld errors, %lu pinned", percent[i % ARRAY_SIZE(percent)],
		     r->ret, fallback("nomem") - nomem);
	}
	left_check(_metadata, &self->left);
}

/* ---- many processes, and memory that is far apart ---- */

#define NR_PROCESSES	100
#define PROCESS_READS	2
#define NR_PAGES	1000	/* each has a range of its own */

/* What a process does while its reads are in flight */
enum part { DOES_UNMAP, DOES_FORK, DOES_EXIT, DOES_NOTHING, NR_PARTS };

struct many {
	struct gate *gate;
	struct report *r;
	struct left left;
	unsigned int started, changed;	/* processes */
	int go[2];			/* closed when they shall go on */
};

/* Milliseconds until all is in flight, all is changed, all has ended */
struct times {
	uint64_t start, flight, change, end;
};

static void many_fail(struct many *all, const char *what, unsigned int nr)
{
	error(all->r, "%s: %u", what, nr);
	_exit(1);
}

/* A child that leaves at once, and did not see what is read later */
static void many_fork(struct many *all, char *p, size_t len, size_t step)
{
	pid_t pid = fork();

	if (!pid) {
		for (size_t i = 0; i < len; i += step)
			if (byte_check(p + i, PAGE, GRAB_BYTE) != -1)
				_exit(1);
		_exit(0);
	}
	if (pid < 0 || child_reap(pid))
		many_fail(all, "child", pid);
}

static void process_run(struct many *all, unsigned int nr)
{
	enum part part = nr % NR_PARTS;
	size_t len = PROCESS_READS * PAGE;
	off_t pos = nr * len;
	long res[PROCESS_READS];
	struct mem m;
	struct ioq q;
	char c, *grab;

	if (mem_get(&m, MEM_ANON, len) || ioq_init(&q, ENG_AIO, PROCESS_READS))
		many_fail(all, "setup", nr);
	memset(m.p, GRAB_BYTE, len);
	for (unsigned int i = 0; i < PROCESS_READS; i++)
		if (ioq_start(&q, i, all->gate->t.fd, false, m.p + i * PAGE, PAGE,
			      pos + i * PAGE))
			many_fail(all, "submission", nr);
	__atomic_add_fetch(&all->started, 1, __ATOMIC_SEQ_CST);
	close(all->go[1]);
	if (read(all->go[0], &c, 1))
		many_fail(all, "go", nr);

	if (part == DOES_UNMAP && munmap(m.p, len))
		many_fail(all, "munmap", nr);
	if (part == DOES_FORK)
		many_fork(all, m.p, len, PAGE);
	grab = change_grab();
	__atomic_add_fetch(&all->changed, 1, __ATOMIC_SEQ_CST);
	if (part == DOES_EXIT)
		_exit(0);
	if (ioq_reap(&q, PROCESS_READS, res) != PROCESS_READS)
		many_fail(all, "completion", nr);
	for (unsigned int i = 0; i < PROCESS_READS; i++)
		if (res[i] != PAGE)
			many_fail(all, "result", nr);
	if (part != DOES_UNMAP && pat_check(m.p, len, SEED, pos) != -1)
		many_fail(all, "wrong data", nr);
	if (byte_check(grab, 4 * BUFFER, GRAB_BYTE) != -1)
		many_fail(all, "a page of others has changed", nr);
	_exit(0);
}

/* Until the counter is at @nr, or somebody has failed */
static bool many_wait(struct many *all, const unsigned int *counter, unsigned int nr)
{
	uint64_t end = now_ms() + 30000;

	while (__atomic_load_n(counter, __ATOMIC_SEQ_CST) < nr) {
		if (all->r->error[0] || now_ms() > end)
			return false;
		usleep(1000);
	}
	return true;
}

static void many_begin(struct __test_metadata *_metadata, struct many *all,
		       struct times *t)
{
	all->started = 0;
	all->changed = 0;
	memset(all->r, 0, sizeof(*all->r));
	ASSERT_EQ(0, pipe(all->go));
	t->start = now_ms();
	ASSERT_EQ(0, gate_shut(all->gate, GATE_ASKED, 0));
}

static void many_processes(struct __test_metadata *_metadata, struct many *all,
			   struct times *t)
{
	pid_t pid[NR_PROCESSES];

	many_begin(_metadata, all, t);
	for (unsigned int i = 0; i < NR_PROCESSES; i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (!pid[i])
			process_run(all, i);
	}
	close(all->go[0]);
	EXPECT_TRUE(many_wait(all, &all->started, NR_PROCESSES));
	EXPECT_EQ(0, gate_held(all->gate, NR_PROCESSES * PROCESS_READS));
	t->flight = now_ms();
	close(all->go[1]);
	EXPECT_TRUE(many_wait(all, &all->changed, NR_PROCESSES));
	t->change = now_ms();
	EXPECT_EQ(0, gate_open(all->gate));
	for (unsigned int i = 0; i < NR_PROCESSES; i++)
		EXPECT_EQ(0, child_reap(pid[i]));
	t->end = now_ms();
	EXPECT_STREQ("", all->r->error);
}

static void pages_run(struct many *all)
{
	size_t size = NR_PAGES * GB, half = size / 2;
	static long res[NR_PAGES];
	struct ioq q;
	char *p, *grab;

	p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED || madvise(p, size, MADV_NOHUGEPAGE) ||
	    ioq_init(&q, ENG_AIO, NR_PAGES))
		many_fail(all, "setup", 0);
	for (unsigned int i = 0; i < NR_PAGES; i++) {
		memset(p + i * GB, GRAB_BYTE, PAGE);
		if (ioq_start(&q, i, all->gate->t.fd, false, p + i * GB, PAGE, i * PAGE))
			many_fail(all, "submission", i);
	}
	if (gate_held(all->gate, NR_PAGES))
		many_fail(all, "not in flight", 0);
	__atomic_store_n(&all->started, 1, __ATOMIC_SEQ_CST);

	many_fork(all, p, size, GB);
	if (munmap(p, half))
		many_fail(all, "munmap", 0);
	grab = change_grab();
	__atomic_store_n(&all->changed, 1, __ATOMIC_SEQ_CST);
	if (ioq_reap(&q, NR_PAGES, res) != NR_PAGES)
		many_fail(all, "completion", 0);
	for (unsigned int i = 0; i < NR_PAGES; i++) {
		if (res[i] != PAGE)
			many_fail(all, "result", i);
		if (i >= NR_PAGES / 2 &&
		    pat_check(p + i * GB, PAGE, SEED, i * PAGE) != -1)
			many_fail(all, "wrong data", i);
	}
	if (byte_check(grab, 4 * BUFFER, GRAB_BYTE) != -1)
		many_fail(all, "a page of others has changed", 0);
	_exit(0);
}

static void many_pages(struct __test_metadata *_metadata, struct many *all,
		       struct times *t)
{
	pid_t pid;

	many_begin(_metadata, all, t);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		pages_run(all);
	close(all->go[0]);
	close(all->go[1]);
	EXPECT_TRUE(many_wait(all, &all->started, 1));
	t->flight = now_ms();
	EXPECT_TRUE(many_wait(all, &all->changed, 1));
	t->change = now_ms();
	EXPECT_EQ(0, gate_open(all->gate));
	EXPECT_EQ(0, child_reap(pid));
	t->end = now_ms();
	EXPECT_STREQ("", all->r->error);
}

FIXTURE(many) {
	struct many *all;
	struct gate gate;
	enum mode mode;
	bool ready;
};

FIXTURE_VARIANT(many) {
	void (*run)(struct __test_metadata *_metadata, struct many *all,
		    struct times *t);
};

FIXTURE_VARIANT_ADD(many, processes) { .run = many_processes };
FIXTURE_VARIANT_ADD(many, pages) { .run = many_pages };

FIXTURE_SETUP(many)
{
	NEED("NOPIN_HELD");
	self->all = mmap(NULL, sizeof(*self->all), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->all);
	self->all->r = report_new();
	ASSERT_NE(MAP_FAILED, self->all->r);
	ASSERT_EQ(0, gate_init(&self->gate, "NOPIN_HELD"));
	self->all->gate = &self->gate;
	ASSERT_EQ(0, target_fill(&self->gate.t, 4 * MB, SEED, 0));
	self->mode = mode_get();
	self->ready = true;
}

FIXTURE_TEARDOWN(many)
{
	if (!self->ready)
		return;
	mode_set(self->mode);
	gate_exit(&self->gate);
}

static void many_run(struct __test_metadata *_metadata, struct many *all,
		     void (*run)(struct __test_metadata *_metadata, struct many *all,
				 struct times *t), struct times *t)
{
	left_get(&all->left);
	run(_metadata, all, t);
	left_check(_metadata, &all->left);
	note("%s: in flight after %lu ms, changed after %lu more, ended after %lu more",
	     mode_get() == MODE_NOPIN ? "nopin" : "pin", t->flight - t->start,
	     t->change - t->flight, t->end - t->change);
}

TEST_F_TIMEOUT(many, in_flight, 180)
{
	unsigned long bios = vmstat("nopin_bio"), pinned = vmstat("nopin_pinned");
	struct times with, without;

	many_run(_metadata, self->all, variant->run, &without);
	bios = vmstat("nopin_bio") - bios;
	pinned = vmstat("nopin_pinned") - pinned;
	note("%lu without pins, %lu pages pinned on behalf of them", bios, pinned);
	if (self->mode == MODE_PIN)
		return;
	EXPECT_LT(0, pinned);
	EXPECT_LE(NR_PROCESSES * PROCESS_READS, bios);
	ASSERT_EQ(0, mode_set(MODE_PIN));
	many_run(_metadata, self->all, variant->run, &with);
	ASSERT_EQ(0, mode_set(self->mode));
	/* Each step may take some times as long, but not forever */
	EXPECT_GT(4 * (with.flight - with.start) + 3000, without.flight - without.start);
	EXPECT_GT(4 * (with.change - with.flight) + 3000, without.change - without.flight);
	EXPECT_GT(4 * (with.end - with.change) + 3000, without.end - without.change);
}

TEST_HARNESS_MAIN
