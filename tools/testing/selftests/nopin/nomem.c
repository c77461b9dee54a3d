// SPDX-License-Identifier: GPL-2.0
/*
 * The memory that it takes to do without pins: what if there is none, and what if it
 * takes much of it. All of it is given back.
 *
 * No memory: the first allocation of an I/O fails, then the second one, and so on, until
 * there is none left to fail. The I/O may end with an error that says so, and with no
 * other. It succeeds when the program tries again, the data is right, and no pin and no
 * memory is left. The same goes for changes of a mapping while I/O is in flight: they take
 * pins on its behalf, and it ends well whatever becomes of the change.
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
#include <stdarg.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define FAIL_NTH	"/proc/thread-self/fail-nth"
#define MAKE_IT_FAIL	"/proc/self/make-it-fail"
#define FAILSLAB	"/sys/kernel/debug/failslab/"
#define FAIL_PAGE	"/sys/kernel/debug/fail_page_alloc/"

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
static const char *const knobs[][3] = {
	{ FAILSLAB "verbose", "0", "2" },
	{ FAILSLAB "ignore-gfp-wait", "N", "Y" },
	{ FAIL_PAGE "verbose", "0", "2" },
	{ FAIL_PAGE "ignore-gfp-wait", "N", "Y" },
	{ FAIL_PAGE "ignore-gfp-highmem", "N", "Y" },
	{ FAIL_PAGE "min-order", "0", "1" },
	/* chance_set() says how many of the allocations of a task that asks for it */
	{ FAILSLAB "task-filter", "Y", "N" },
	{ FAILSLAB "times", "-1", "1" },
	{ FAIL_PAGE "task-filter", "Y", "N" },
	{ FAIL_PAGE "times", "-1", "1" },
};

static int knobs_set(bool during)
{
	int ret = 0;

	for (size_t i = 0; i < ARRAY_SIZE(knobs) && !ret; i++)
		ret = sysfs_write(knobs[i][0], knobs[i][during ? 1 : 2]);
	return ret;
}

static int chance_set(const char *percent)
{
	return sysfs_write(FAILSLAB "probability", percent) ?:
	       sysfs_write(FAIL_PAGE "probability", percent);
}

static bool can_fail(void)
{
	return !access(FAIL_NTH, W_OK) && !access(FAILSLAB "verbose", W_OK) &&
	       !access(FAIL_PAGE "verbose", W_OK);
}

/* The file is open before, as opening it takes memory */
static int fail_fd = -1;

static int fail_open(const char *name)
{
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

#define NR_LEFT		(ARRAY_SIZE(slabs) + 1)

/* An idle CPU keeps the mm_struct of the process that it ran last: be the last one */
static void visit_cpus(void)
{
	cpu_set_t all, one;

	sched_getaffinity(0, sizeof(all), &all);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
	sched_setaffinity(0, sizeof(all), &all);
}

/* Objects of the slabs, and pins */
static void left_get(long *left)
{
	visit_cpus();
	for (size_t i = 0; i < ARRAY_SIZE(slabs); i++)
		left[i] = slab_objects(slabs[i]);
	left[ARRAY_SIZE(slabs)] = pins_held();
}

static long left_before[NR_LEFT];

/* Memory is freed by RCU, and rings end in a worker */
static void left_check(struct __test_metadata *_metadata)
{
	uint64_t end = now_ms() + 10000;
	long now[NR_LEFT];
	bool more;

	do {
		left_get(now);
		more = false;
		for (size_t i = 0; i < NR_LEFT; i++)
			more |= now[i] > left_before[i];
		if (more)
			usleep(50000);
	} while (more && now_ms() < end);
	for (size_t i = 0; i < NR_LEFT; i++) {
		EXPECT_GE(left_before[i], now[i])
			TH_LOG("%s", i < ARRAY_SIZE(slabs) ? slabs[i] : "pins");
	}
}

/* ---- tries ---- */

/* What a try tells the test: a process of its own */
struct report {
	bool failed;		/* an allocation has */
	bool ends;		/* in this the process ends: see what is left to be counted */
	long ret;
	char error[160];
};

static struct report *r;

/* The first error is the one that counts */
static void error(const char *fmt, ...)
{
	va_list args;

	if (r->error[0])
		return;
	va_start(args, fmt);
	vsnprintf(r->error, sizeof(r->error), fmt, args);
	va_end(args);
}

static int fail_begin(void)
{
	r = shared_get(PAGE);
	left_get(left_before);
	return knobs_set(true);
}

/* Has the try ended well? */
static bool try_it(struct __test_metadata *_metadata,
		   void (*try)(void *arg, unsigned int nth), void *arg, unsigned int nth)
{
	siginfo_t info;
	char path[64];
	pid_t pid;

	memset(r, 0, sizeof(*r));
	pid = fork();
	if (!pid) {
		try(arg, nth);
		_exit(0);
	}
	waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
	snprintf(path, sizeof(path), "/proc/%d/fail-nth", pid);
	if (r->ends)
		r->failed = sysfs_get(path) == 0;
	if (child_reap(pid))
		error("died");
	EXPECT_STREQ("", r->error) TH_LOG("allocation %u", nth);
	return !r->error[0];
}

/* ---- I/O ---- */

struct way {
	const char *env;
	enum engine eng;
	enum mem_kind kind;
	size_t len;		/* of each piece */
	unsigned int pieces;	/* 1 unless the engine is vectored */
	bool write;		/* NOPIN_LONG: the other way as well */
	bool absent;		/* the memory that is read to has no pages */
	bool later;		/* several I/Os, the first of which are pinned */
};

struct io {
	const struct way *way;
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
	char *back;		/* what was written */
};

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
	while (ret && (d = readdir(dir))) {
		pid_t tid = atoi(d->d_name);

		snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth", tid);
		if (tid && tid != getpid())
			ret = fail_open(path);
	}
	closedir(dir);
	return ret;
}

static int io_init(struct io *io)
{
	const struct way *way = io->way;
	size_t gap = way->len + 4 * PAGE;
	int ret = mem_get(&io->m, way->kind, way->pieces * gap);

	for (unsigned int i = 0; i < way->pieces; i++) {
		io->iov[i].iov_base = io->m.p + i * gap + (way->later ? 0 : SECTOR);
		io->iov[i].iov_len = way->len;
	}
	io->total = way->pieces * way->len;
	io->flags = nopin() ? IORING_RSRC_REGISTER_NOPIN : 0;
	ret = ret ?: ioq_init(&io->q, way->eng, 4);
	if (ret)
		return ret;
	return way->eng == ENG_URING_WQ ? io_worker(io) : fail_open(FAIL_NTH);
}

/* What is there before the transfer */
static int io_fill(struct io *io)
{
	const struct way *way = io->way;

	if (!io->write)
		memset(io->m.p, GRAB_BYTE, io->m.len);
	for (unsigned int i = 0; i < way->pieces && io->write; i++)
		pat_fill(io->iov[i].iov_base, way->len, io->seed, io->pos + i * way->len);
	return way->absent && madvise(io->m.p, io->m.len, MADV_DONTNEED) ? -errno : 0;
}

/* Are the first bytes right? */
static bool io_right(struct io *io, size_t bytes)
{
	off_t pos = io->pos;

	for (unsigned int i = 0; i < io->way->pieces && bytes; i++) {
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
	const struct way *way = io->way;
	unsigned int nr = way->later ? NR_LATER : 1;
	long ret = 0;

	if (way->eng == ENG_URING_FIXED && !io->registered) {
		ret = ring_buffers_flags(&io->q.ring, io->iov, 1, io->flags);
		if (ret)
			return ret;
		io->registered = true;
	}
	while (nr-- && (!ret || ret == (long)io->total))
		ret = ioq_rwv(&io->q, io->t->fd, io->write, io->iov, way->pieces,
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
		return io->way->eng != ENG_PSYNC && io->way->eng != ENG_PVSYNC;
	case -ECANCELED:
		/* There is no worker that could do it */
		return io->way->eng >= ENG_URING;
	}
	return ret > 0 && ret < (long)io->total;
}

/* Each try has a copy of what the test has set */
static void try_io(void *arg, unsigned int nth)
{
	struct io *io = arg;
	unsigned long pinned;
	struct vmstat all;
	long ret;

	io->seed = io->write ? SEED + 1 + nth : SEED;
	ret = io_init(io) ?: io_fill(io);
	if (ret) {
		error("setup: %s", strerror(-ret));
		return;
	}
	fail_arm(nth);
	ret = io_run(io);
	r->failed = fail_disarm();
	r->ret = ret;
	if (ret != (long)io->total && !(r->failed && io_may_fail(io, ret)))
		error("%ld", ret);
	if (ret > 0 && !io_right(io, ret))
		error("wrong data after %ld", ret);

	/*
	 * What was not submitted is still in the ring, so take another one. The end of a
	 * ring would be a signal, for which nothing is made that I/O without pins needs.
	 */
	if (ret != (long)io->total) {
		io->registered = false;
		ret = ioq_init(&io->q, io->way->eng, 4);
		if (ret)
			error("another queue: %s", strerror(-ret));
	}
	/* Once more: the process is as any other */
	vmstat_read(&all, false);
	pinned = vmstat_in(&all, "nopin_fallback");
	ret = io_fill(io) ?: io_run(io);
	if (ret != (long)io->total)
		error("%ld when tried again, after %ld", ret, r->ret);
	else if (!io_right(io, ret))
		error("wrong data when tried again, after %ld", r->ret);
	vmstat_read(&all, false);
	if (!io->way->later && vmstat_in(&all, "nopin_fallback") != pinned)
		error("pinned when tried again, after %ld", r->ret);
}

struct tally {
	unsigned int nr;	/* allocations */
	unsigned int errors;	/* I/Os that have failed, or ended early */
	unsigned long instead;	/* I/Os that were pinned for it */
};

static void sweep(struct __test_metadata *_metadata, struct io *io, struct tally *tally)
{
	size_t total = io->way->pieces * io->way->len;
	unsigned int nth = 0, misses = 0;
	bool ok;

	*tally = (struct tally) { .instead = fallback("nomem") };
	do {
		ok = try_it(_metadata, try_io, io, ++nth);
		if (io->write && ok) {
			/* On another way */
			EXPECT_EQ(total, pread(io->t->fd, io->back, total, WRITE_POS));
			EXPECT_EQ(-1, pat_check(io->back, total, SEED + 1 + nth,
						WRITE_POS))
				TH_LOG("on the disk: allocation %u", nth);
		}
		tally->nr += r->failed;
		tally->errors += r->failed && r->ret != (long)total;
		misses = r->failed ? 0 : misses + 1;
	} while (ok && misses < END_AFTER && nth < MAX_NTH);
	EXPECT_GT(MAX_NTH, nth);
	tally->instead = fallback("nomem") - tally->instead;
	note("%s, %s: %u allocations, %lu pinned instead, %u errors",
	     nopin() ? "nopin" : "pin", io->write ? "write" : "read", tally->nr,
	     tally->instead, tally->errors);
}

FIXTURE(nomem) {
	struct target t;
	enum mode mode;
	char *back;
};

FIXTURE_VARIANT(nomem) {
	struct way way;
};

/* A page; a piece that has memory of two ranges */
#define WAY(name, ...)	FIXTURE_VARIANT_ADD(nomem, name) { .way = { __VA_ARGS__ } }

WAY(raw_psync, "NOPIN_RAW", ENG_PSYNC, MEM_ANON, 4 * KB, 1);
WAY(raw_psync_1m, "NOPIN_RAW", ENG_PSYNC, MEM_ANON_GIB, MB, 1);
WAY(raw_aio, "NOPIN_RAW", ENG_AIO, MEM_ANON, 16 * KB, 1, .write = true);
WAY(raw_worker, "NOPIN_RAW", ENG_URING_WQ, MEM_ANON, 16 * KB, 1, .write = true);
WAY(raw_uring_1m, "NOPIN_RAW", ENG_URING, MEM_ANON_GIB, MB, 1);
WAY(raw_fixed, "NOPIN_RAW", ENG_URING_FIXED, MEM_ANON, 16 * KB, 1);
WAY(raw_vector, "NOPIN_RAW", ENG_PVSYNC, MEM_ANON_GIB, 4 * KB, MAX_PIECES);
WAY(raw_uring_vector, "NOPIN_RAW", ENG_URINGV, MEM_ANON_GIB, 4 * KB, MAX_PIECES, .write = true);
WAY(raw_absent, "NOPIN_RAW", ENG_PSYNC, MEM_ANON, 16 * KB, 1, .absent = true);
WAY(raw_huge, "NOPIN_RAW", ENG_PSYNC, MEM_THP, 64 * KB, 1, .write = true);
WAY(raw_huge_absent, "NOPIN_RAW", ENG_PSYNC, MEM_THP, 16 * KB, 1, .absent = true);
/* What is needed for doing without pins is made when the task returns to user space */
WAY(raw_later, "NOPIN_RAW", ENG_PSYNC, MEM_ANON, 4 * KB, 1, .later = true);
WAY(xfs_psync_1m, "NOPIN_XFS", ENG_PSYNC, MEM_ANON_GIB, MB, 1, .write = true);
WAY(xfs_uring, "NOPIN_XFS", ENG_URING, MEM_ANON, 16 * KB, 1);
WAY(xfs_fixed, "NOPIN_XFS", ENG_URING_FIXED, MEM_ANON, 16 * KB, 1, .write = true);
/* By fs/direct-io.c */
WAY(fat_aio_1m, "NOPIN_FAT", ENG_AIO, MEM_ANON_GIB, MB, 1);
WAY(fat_vector, "NOPIN_FAT", ENG_PVSYNC, MEM_ANON_GIB, 4 * KB, MAX_PIECES, .write = true);

FIXTURE_SETUP(nomem)
{
	const struct way *way = &variant->way;

	if (!can_fail())
		SKIP(return, "the kernel cannot make allocations fail");
	NEED(way->env);
	ASSERT_EQ(0, target_open(&self->t, way->env, DISK));
	ASSERT_EQ(0, target_fill(&self->t, way->pieces * way->len, SEED, 0));
	/* All that this process needs for I/O is there */
	self->back = anon_map(MB);
	ASSERT_EQ(MB, pread(self->t.fd, self->back, MB, WRITE_POS));
	self->mode = mode_get();
	ASSERT_EQ(0, fail_begin());
	if (way->later && nopin_present())
		ASSERT_EQ(0, sysfs_write(FIRST_IOS, "1"));
}

FIXTURE_TEARDOWN(nomem)
{
	if (variant->way.later && nopin_present())
		sysfs_write(FIRST_IOS, "0");
	knobs_set(false);
	mode_set(self->mode);
}

TEST_F_TIMEOUT(nomem, nth, 600)
{
	const struct way *way = &variant->way;
	struct tally with, without;

	for (int i = 0; i < 2; i++) {
		struct io io = { .way = way, .t = &self->t, .write = way->write != i,
				 .back = self->back };

		io.pos = io.write ? WRITE_POS : 0;
		/* Who writes what is not there writes zeros */
		if (i && (way->absent || !getenv("NOPIN_LONG")))
			break;
		ASSERT_EQ(0, mode_set(MODE_PIN));
		sweep(_metadata, &io, &with);
		EXPECT_EQ(0, with.instead);
		if (self->mode == MODE_PIN)
			continue;
		ASSERT_EQ(0, mode_set(self->mode));
		sweep(_metadata, &io, &without);
		/*
		 * What a submitter of io_uring cannot do at once, a worker does, and
		 * that there is none is one more thing that may happen. A file system
		 * allocates memory for itself, and not each time.
		 */
		if ((way->eng < ENG_URING || way->eng == ENG_URING_WQ) &&
		    !strcmp(way->env, "NOPIN_RAW")) {
			/* Nor are all tries the same */
			EXPECT_GE(with.errors + 1, without.errors);
			if (!way->later)
				EXPECT_LT(0, without.instead);
		}
	}
	left_check(_metadata);
}

/* ---- signals ---- */

static atomic_uint signals;

static void on_signal(int sig)
{
	atomic_fetch_add(&signals, 1);
}

/* Their locks are what registering for the first time takes its time for */
static int many_mappings(void)
{
	char *p = anon_map(1000 * PAGE);

	for (unsigned int i = 0; i < 1000; i += 2)
		if (mprotect(p + i * PAGE, PAGE, PROT_READ))
			return -errno;
	return 0;
}

static void register_main(int in, int out, void *arg)
{
	atomic_bool *done = arg;
	struct mem m;
	struct ioq q;
	int ret;

	pin_to_cpu(1);
	signal(SIGALRM, on_signal);
	ret = many_mappings() ?: mem_get(&m, MEM_ANON, 64 * KB) ?:
	      ioq_init(&q, ENG_URING_FIXED, 4);
	say(out, ret);
	/* They come one after the other */
	while (!ret && atomic_load(&signals) < 3)
		;
	ret = ret ?: ring_buffer(&q.ring, m.p, m.len);
	atomic_store(done, true);
	signal(SIGALRM, SIG_IGN);
	say(out, ret);
}

/*
 * Signals while a buffer is registered, as a profiler sends them, or as io_uring has
 * them for its own. Programs do not expect EINTR there, unless they are being killed.
 */
TEST(interrupted)
{
	atomic_bool *done = shared_get(PAGE);
	struct proc p;

	pin_to_cpu(0);
	for (unsigned int i = 0; i < 10; i++) {
		atomic_store(done, false);
		ASSERT_EQ(0, proc_start(&p, register_main, done));
		ASSERT_EQ(0, hear(&p));
		while (!atomic_load(done))
			kill(p.pid, SIGALRM);
		EXPECT_EQ(0, hear(&p));
		ASSERT_EQ(0, proc_wait(&p));
	}
}

/* ---- changes of mappings with I/O in flight ---- */

#define FLIGHTS		4
#define FLIGHT		(16 * KB)
#define BUFFER		(FLIGHTS * FLIGHT)

/* What is done: an operation, or a child is born */
#define BEAR_CHILD	NR_OPS

struct change {
	struct flight *f;
	enum op_id op;
	enum engine eng;
	struct area a;
};

static int change_start(struct change *c)
{
	flight_fill(c->f, false);
	return flight_start(c->f, GATE_ASKED, 0);
}

static int change_init(struct change *c)
{
	struct mem m;
	int ret = mem_get(&m, MEM_ANON, BUFFER);

	c->a = (struct area) { m.p, BUFFER, -1, .to = space_get(BUFFER, PAGE) };
	c->f->buf = m.p;
	return ret ?: flight_engine(c->f, c->eng) ?: fail_open(FAIL_NTH) ?:
	       change_start(c);
}

/* 0, -errno, or a child, which has what was there when it was born */
static int change_run(struct change *c)
{
	pid_t pid;

	if (c->op != BEAR_CHILD)
		return op_run(c->op, &c->a);
	pid = fork();
	if (!pid)
		_exit(flight_check(c->f, c->a.p, false) != -1);
	return pid < 0 ? -errno : pid;
}

/* Somebody has taken the pages that were freed meanwhile */
static char *grab_some(void)
{
	char *p = anon_map(4 * BUFFER);

	memset(p, GRAB_BYTE, 4 * BUFFER);
	return p;
}

/* All reads have brought what they should, wherever that is now */
static void change_finish(struct change *c, int ret)
{
	enum found found = ret == 0 ? ops[c->op].found : FOUND_DATA;
	struct flight *f = c->f;

	if (ret > 0 && child_reap(ret))
		error("the child has data that was read later");
	if (flight_finish(f))
		error("reads do not end, or fail");
	if (found == FOUND_ZEROS && byte_check(c->a.p, BUFFER, 0) != -1)
		error("a page that was given up has changed");
	if (found == FOUND_DATA && flight_check(f, c->a.p, true) != -1)
		error("wrong data, change was %ld", r->ret);
	/* A quarter on both sides is left */
	if (!ret && c->op == OP_MUNMAP_MIDDLE &&
	    (pat_check(c->a.p, FLIGHT, f->seed, 0) != -1 ||
	     pat_check(c->a.p + 3 * FLIGHT, FLIGHT, f->seed, 3 * FLIGHT) != -1))
		error("wrong data beside it");
}

static void try_change(void *arg, unsigned int nth)
{
	struct change *c = arg;
	char *grab;
	int ret;

	ret = change_init(c);
	if (ret) {
		error("setup: %s", strerror(-ret));
		return;
	}
	/* Nobody can try again if the process ends */
	r->ends = c->op == OP_EXIT;
	fail_arm(nth);
	ret = change_run(c);
	r->failed = fail_disarm();
	r->ret = ret;
	grab = grab_some();
	if (ret < 0 && (!r->failed || (ret != -ENOMEM && ret != -EAGAIN)))
		error("change: %s", strerror(-ret));
	change_finish(c, ret);
	if (byte_check(grab, 4 * BUFFER, GRAB_BYTE) != -1)
		error("a page of others has changed");
	if (ret < 0) {
		/* Nothing of it is left that the next change would meet */
		munmap(grab, 4 * BUFFER);
		ret = change_start(c) ?: change_run(c);
		if (ret < 0)
			error("change when tried again: %s", strerror(-ret));
		change_finish(c, ret);
	}
	ioq_exit(&c->f->q);
}

/* The test has the gate, and the disk has what is read */
static int change_set(struct flight *f)
{
	int ret = flight_open(f, "NOPIN_HELD");

	flight_set(f, NULL, FLIGHTS, FLIGHT, FLIGHT);
	return ret ?: flight_fill_disk(f) ?: fail_begin();
}

FIXTURE(change) {
	struct flight f;
};

FIXTURE_VARIANT(change) {
	enum op_id op;
	enum engine eng;
	unsigned int step;	/* of that many allocations one fails; NOPIN_LONG: all */
};

FIXTURE_VARIANT_ADD(change, munmap) { OP_MUNMAP, ENG_AIO, 1 };
FIXTURE_VARIANT_ADD(change, middle) { OP_MUNMAP_MIDDLE, ENG_URING, 1 };
FIXTURE_VARIANT_ADD(change, mremap) { OP_MREMAP, ENG_AIO, 1 };
FIXTURE_VARIANT_ADD(change, dontneed) { OP_DONTNEED, ENG_URING, 1 };
FIXTURE_VARIANT_ADD(change, protect) { OP_PROTECT_READ, ENG_AIO, 1 };
FIXTURE_VARIANT_ADD(change, fork) { BEAR_CHILD, ENG_AIO, 12 };

FIXTURE_SETUP(change)
{
	if (!can_fail())
		SKIP(return, "the kernel cannot make allocations fail");
	NEED("NOPIN_HELD");
	/* Who waits for the I/O does so in vain, and need not do it for long */
	ASSERT_EQ(0, wait_ms_set(10));
	ASSERT_EQ(0, change_set(&self->f));
}

FIXTURE_TEARDOWN(change)
{
	knobs_set(false);
	wait_ms_set(DEFAULT_WAIT_MS);
	flight_close(&self->f);
}

static void change_sweep(struct __test_metadata *_metadata, struct flight *f,
			 enum op_id op, enum engine eng, unsigned int every)
{
	struct change c = { .f = f, .op = op, .eng = eng };
	unsigned int step = getenv("NOPIN_LONG") ? 1 : every;
	unsigned int nth, nr = 0, errors = 0, misses = 0;
	unsigned long pinned = vmstat("nopin_pinned");
	bool ok;

	for (nth = 1, ok = true; ok && misses < END_AFTER && nth < MAX_NTH; nth += step) {
		char *grab;

		ok = try_it(_metadata, try_change, &c, nth);
		grab = grab_some();
		ASSERT_EQ(0, gate_idle(&f->gate));
		EXPECT_EQ(-1, byte_check(grab, 4 * BUFFER, GRAB_BYTE))
			TH_LOG("a page of others has changed: allocation %u", nth);
		munmap(grab, 4 * BUFFER);
		nr += r->failed;
		errors += r->failed && r->ret < 0;
		misses = r->failed ? 0 : misses + 1;
	}
	EXPECT_GT(MAX_NTH, nth);
	pinned = vmstat("nopin_pinned") - pinned;
	note("%u allocations, %u changes failed, %lu pages pinned for I/O", nr * step,
	     errors * step, pinned);
	if (nopin())
		EXPECT_LE(BUFFER / PAGE, pinned);
	left_check(_metadata);
}

TEST_F_TIMEOUT(change, nth, 600)
{
	change_sweep(_metadata, &self->f, variant->op, variant->eng, variant->step);
}

FIXTURE(end) {
	struct flight f;
};

FIXTURE_SETUP(end)
{
	if (!can_fail())
		SKIP(return, "the kernel cannot make allocations fail");
	NEED("NOPIN_HELD");
	ASSERT_EQ(0, change_set(&self->f));
}

FIXTURE_TEARDOWN(end)
{
	knobs_set(false);
	flight_close(&self->f);
}

TEST_F_TIMEOUT(end, exit, 300)
{
	change_sweep(_metadata, &self->f, OP_EXIT, ENG_URING, 1);
}

/* ---- many allocations that fail ---- */

FIXTURE(chance) {
	struct target t;
};

FIXTURE_SETUP(chance)
{
	if (!can_fail())
		SKIP(return, "the kernel cannot make allocations fail");
	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&self->t, "NOPIN_RAW", DISK));
	ASSERT_EQ(0, target_fill(&self->t, MB, SEED, 0));
	ASSERT_EQ(0, fail_begin());
}

FIXTURE_TEARDOWN(chance)
{
	chance_set("0");
	knobs_set(false);
}

/*
 * The memory is there, and small enough that I/O takes no other memory: it succeeds
 * where nothing can be had at all. As it does with pins.
 */
static void try_none(void *arg, unsigned int unused)
{
	struct target *t = arg;
	char *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	long ret;

	if (fail_open(MAKE_IT_FAIL)) {
		error("setup");
		return;
	}
	for (unsigned int i = 0; i < 128; i++) {
		off_t pos = i / 2 * PAGE;
		bool write = i % 2;

		fail_arm(1);
		ret = write ? pwrite(t->fd, p, PAGE, WRITE_POS + pos) :
			      pread(t->fd, p, PAGE, pos);
		fail_arm(0);
		if (ret != PAGE)
			error("I/O %u: %s", i, strerror(errno));
		if (!write && pat_check(p, PAGE, SEED, pos) != -1)
			error("I/O %u: wrong data", i);
	}
}

TEST_F_TIMEOUT(chance, none, 60)
{
	unsigned long nomem = fallback("nomem");

	ASSERT_EQ(0, chance_set("100"));
	try_it(_metadata, try_none, &self->t, 0);
	ASSERT_EQ(0, chance_set("0"));
	nomem = fallback("nomem") - nomem;
	note("%lu pinned", nomem);
	EXPECT_EQ(nopin() ? 128 : 0, nomem);
	left_check(_metadata);
}

/* Memory that comes and goes, and one allocation of a few fails */
static void try_some(void *arg, unsigned int run)
{
	static const struct way way = {
		.eng = ENG_URING, .kind = MEM_ANON_GIB, .len = 64 * KB, .pieces = 1,
	};
	struct io io = { .way = &way, .t = arg, .seed = SEED };
	uint32_t seed = run + 1;
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
				error("wrong data after %d", ret);
			if (ret == (long)io.total)
				break;
			if (!io_may_fail(&io, ret))
				error("I/O %u: %d", i, ret);
			r->ret++;
			ioq_exit(&io.q);
			ret = ioq_init(&io.q, way.eng, 4);
		} while (!ret && ++tries < 1000);
		if (tries == 1000)
			error("I/O %u never succeeds", i);
		ret = 0;
		ioq_exit(&io.q);
		mem_put(&io.m);
	}
	if (ret)
		error("setup: %s", strerror(-ret));
}

TEST_F_TIMEOUT(chance, some, 120)
{
	static const char *const percent[] = { "2", "10", "30" };

	for (unsigned int i = 0; i < 2 * ARRAY_SIZE(percent); i++) {
		unsigned long nomem = fallback("nomem");

		ASSERT_EQ(0, chance_set(percent[i % ARRAY_SIZE(percent)]));
		try_it(_metadata, try_some, &self->t, i);
		ASSERT_EQ(0, chance_set("0"));
		note("at %s %%: %ld errors, %lu pinned", percent[i % ARRAY_SIZE(percent)],
		     r->ret, fallback("nomem") - nomem);
	}
	left_check(_metadata);
}

/* ---- many processes, and memory that is far apart ---- */

#define MAX_PROCESSES	100

/* What a process does while its reads are in flight */
enum part { DOES_UNMAP, DOES_FORK, DOES_EXIT, DOES_NOTHING, NR_PARTS };

struct many {
	struct flight f;
	unsigned int processes, nr;
	struct proc p[MAX_PROCESSES];
};

FIXTURE(many) {
	struct many m;
	enum mode mode;
};

FIXTURE_VARIANT(many) {
	unsigned int processes, reads;
	size_t step;		/* from one page to the next */
};

FIXTURE_VARIANT_ADD(many, processes) { .processes = 100, .reads = 2, .step = PAGE };
/* Each page has a range of its own */
FIXTURE_VARIANT_ADD(many, pages) { .processes = 1, .reads = 1000, .step = GB };

FIXTURE_SETUP(many)
{
	struct flight *f = &self->m.f;

	NEED("NOPIN_HELD");
	ASSERT_EQ(0, flight_open(f, "NOPIN_HELD"));
	flight_set(f, NULL, variant->processes * variant->reads, PAGE, variant->step);
	ASSERT_EQ(0, flight_fill_disk(f));
	f->nr = variant->reads;
	self->m.processes = variant->processes;
	self->mode = mode_get();
}

FIXTURE_TEARDOWN(many)
{
	mode_set(self->mode);
	flight_close(&self->m.f);
}

/* Its child leaves at once, and did not see what is read later */
static int many_fork(struct flight *f)
{
	pid_t pid = fork();

	if (!pid)
		_exit(flight_check(f, f->buf, false) != -1);
	return child_reap(pid);
}

static void many_main(int in, int out, void *arg)
{
	struct many *m = arg;
	struct flight *f = &m->f;
	enum part part = m->nr % NR_PARTS;
	size_t len = f->nr * f->step;
	/* One process does all but end: it gives up the second half */
	bool one = m->processes == 1;
	unsigned int kept = one ? f->nr / 2 : part == DOES_UNMAP ? 0 : f->nr;
	char *grab;
	int ret;

	f->base = 2 * m->nr * f->nr * PAGE;
	f->buf = space_get(len, PAGE);
	ret = mprotect(f->buf, len, PROT_READ | PROT_WRITE) ||
	      madvise(f->buf, len, MADV_NOHUGEPAGE) ? -errno : 0;
	if (!ret)
		flight_fill(f, false);
	say(out, ret ?: flight_engine(f, ENG_AIO) ?: flight_submit(f));
	await(in);

	if (one || part == DOES_FORK)
		ret = many_fork(f);
	if (!ret && kept < f->nr)
		ret = munmap(f->buf + kept * f->step, (f->nr - kept) * f->step);
	grab = grab_some();
	say(out, ret);
	if (!one && part == DOES_EXIT)
		_exit(0);
	say(out, flight_reap(f));
	f->nr = kept;
	say(out, flight_check(f, f->buf, true));
	say(out, byte_check(grab, 4 * BUFFER, GRAB_BYTE));
}

/* Milliseconds until all is in flight, all is changed, all has ended */
struct times {
	long flight, change, end;
};

static void many_run(struct __test_metadata *_metadata, struct many *m, struct times *t)
{
	struct gate *gate = &m->f.gate;
	uint64_t start = now_ms();

	left_get(left_before);
	ASSERT_EQ(0, gate_shut(gate, GATE_ASKED, 0));
	for (m->nr = 0; m->nr < m->processes; m->nr++)
		ASSERT_EQ(0, proc_start(&m->p[m->nr], many_main, m));
	for (unsigned int i = 0; i < m->processes; i++)
		EXPECT_EQ(0, hear(&m->p[i]));
	EXPECT_EQ(0, gate_held(gate, m->processes * m->f.nr));
	t->flight = now_ms() - start;
	for (unsigned int i = 0; i < m->processes; i++)
		tell(&m->p[i]);
	for (unsigned int i = 0; i < m->processes; i++)
		EXPECT_EQ(0, hear(&m->p[i]));
	t->change = now_ms() - start - t->flight;
	EXPECT_EQ(0, gate_open(gate));
	for (unsigned int i = 0; i < m->processes; i++) {
		if (m->processes == 1 || i % NR_PARTS != DOES_EXIT) {
			EXPECT_EQ(0, hear(&m->p[i])) TH_LOG("reads of %u", i);
			EXPECT_EQ(-1, hear(&m->p[i])) TH_LOG("wrong data of %u", i);
			EXPECT_EQ(-1, hear(&m->p[i])) TH_LOG("a page of others");
		}
		EXPECT_EQ(0, proc_wait(&m->p[i]));
	}
	t->end = now_ms() - start - t->flight - t->change;
	left_check(_metadata);
	note("%s: in flight after %ld ms, changed after %ld more, ended after %ld more",
	     nopin() ? "nopin" : "pin", t->flight, t->change, t->end);
}

TEST_F_TIMEOUT(many, in_flight, 180)
{
	unsigned long bios = vmstat("nopin_bio"), pinned = vmstat("nopin_pinned");
	struct times with, without;

	many_run(_metadata, &self->m, &without);
	bios = vmstat("nopin_bio") - bios;
	pinned = vmstat("nopin_pinned") - pinned;
	note("%lu without pins, %lu pages pinned on behalf of them", bios, pinned);
	if (self->mode == MODE_PIN)
		return;
	EXPECT_LT(0, pinned);
	EXPECT_LE(variant->processes * variant->reads, bios);
	ASSERT_EQ(0, mode_set(MODE_PIN));
	many_run(_metadata, &self->m, &with);
	ASSERT_EQ(0, mode_set(self->mode));
	/* Each step may take some times as long, but not forever */
	EXPECT_GT(4 * with.flight + 3000, without.flight);
	EXPECT_GT(4 * with.change + 3000, without.change);
	EXPECT_GT(4 * with.end + 3000, without.end);
}

TEST_HARNESS_MAIN
