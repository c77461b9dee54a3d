// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that goes away, moves or changes while a device works on it. Guards the
 * invariant of the protocol: a page that is entered stays where it is until the
 * I/O is done, or has a pin. So mprotect() and truncation, which want the pages not to
 * change any more, wait for the I/O, and pin the pages if that takes too long (R1, R5).
 * munmap() and others that unmap anonymous memory gain nothing by a wait, and pin the
 * pages at once. The neighbours of a buffer are neither waited for nor pinned. No I/O
 * touches a page that is free.
 */
#include "nopin_util.h"
#include "kselftest_harness.h"

#define NR_IO		32
/* Of a buffer: a huge page, or small ones that are not too many to fault in */
#define HUGE_LEN	(2 * MB)
#define SMALL_LEN	(256 * KB)
/* To let somebody get into a wait, or I/O that is let go end */
#define SOON_MS		50
#define HOLD_MS		500

struct life {
	struct flight f;
	struct mem buf;
	struct grab grab;
	struct area a;		/* the buffer where it is now */
	bool late;		/* the I/O takes longer than anybody waits */
	bool other;		/* the I/O is not prompt: nobody waits for it */
};

static void life_set(struct life *l, enum mem_kind kind)
{
	size_t len = mem_of_huge(kind) ? HUGE_LEN : SMALL_LEN;

	l->a = (struct area) { .p = l->buf.p, .len = len, .fd = l->buf.fd };
	flight_set(&l->f, l->buf.p, NR_IO, len / NR_IO, len / NR_IO);
}

static int life_open(struct life *l, const char *env, enum engine eng,
		     enum mem_kind kind, enum mem_kind grab_kind)
{
	int ret = wait_ms_set(LONG_WAIT_MS) ?: flight_open(&l->f, env);

	pin_to_cpu(0);
	life_set(l, kind);
	/* The other process must not share the buffer's pages: fork it first */
	ret = ret ?: grab_init(&l->grab, grab_kind, 2 * l->a.len);
	ret = ret ?: mem_get(&l->buf, kind, l->a.len);
	life_set(l, kind);
	return ret ?: flight_engine(&l->f, eng);
}

static void life_close(struct life *l)
{
	flight_close(&l->f);
	grab_exit(&l->grab);
	wait_ms_set(DEFAULT_WAIT_MS);
}

/* Transfers between the buffer and the disk, all in flight until ... */
static int life_start(struct life *l, bool write, enum gate_until until, unsigned int ms)
{
	return flight_prepare(&l->f, write) ?: flight_start(&l->f, until, ms);
}

FIXTURE(life) {
	struct life l;
};

FIXTURE_VARIANT(life) {
	enum engine eng;
	enum mem_kind kind;
	bool late;
	bool fat;		/* by fs/direct-io.c, which is not prompt */
};

FIXTURE_VARIANT_ADD(life, aio_anon) { .eng = ENG_AIO, .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(life, uring_anon) { .eng = ENG_URING, .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(life, uringv_thp) { .eng = ENG_URINGV, .kind = MEM_THP };
FIXTURE_VARIANT_ADD(life, aiov_hugetlb) { .eng = ENG_AIOV, .kind = MEM_HUGETLB };
FIXTURE_VARIANT_ADD(life, fixed_anon) { .eng = ENG_URING_FIXED, .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(life, fixed_thp) { .eng = ENG_URING_FIXED, .kind = MEM_THP };
FIXTURE_VARIANT_ADD(life, aio_fat) { .eng = ENG_AIO, .kind = MEM_ANON, .fat = true };
FIXTURE_VARIANT_ADD(life, aio_late) { .eng = ENG_AIO, .kind = MEM_ANON, .late = true };
FIXTURE_VARIANT_ADD(life, fixed_late) {
	.eng = ENG_URING_FIXED, .kind = MEM_THP, .late = true };

FIXTURE_SETUP(life)
{
	const char *env = variant->fat ? "NOPIN_HELD_FAT" : "NOPIN_HELD";

	NEED(env);
	ASSERT_EQ(0, life_open(&self->l, env, variant->eng, variant->kind,
			       variant->kind));
	self->l.late = variant->late;
	self->l.other = variant->fat;
	if (self->l.late)
		ASSERT_EQ(0, wait_ms_set(20));
}

FIXTURE_TEARDOWN(life)
{
	life_close(&self->l);
}

/* Nobody gained anything by a wait: all of the buffer was pinned at once */
static void life_pinned_at_once(struct __test_metadata *_metadata, struct life *l,
				long took)
{
	if (nopin())
		EXPECT_EQ(l->f.pinned + l->a.len / PAGE, vmstat("nopin_pinned"));
	EXPECT_EQ(l->f.wait, vmstat("nopin_wait"));
	EXPECT_GT(NO_WAIT_MS, took);
}

static void life_run(struct __test_metadata *_metadata, struct life *l, enum op_id op,
		     bool write)
{
	bool waits = nopin() && ops[op].protects && !write && !l->other;
	int done;
	long took;

	ASSERT_EQ(0, life_start(l, write, waits && !l->late ? GATE_WAIT : GATE_ASKED,
				SOON_MS));
	took = op_timed(op, &l->a);
	ASSERT_LE(0, took) TH_LOG("%s", strerror(-took));

	/* Whatever was freed is used at once by somebody else */
	ASSERT_EQ(0, grab_fill(&l->grab));
	done = flight_done(&l->f);
	note("%s: took %ld ms, %d of %u transfers done after it",
	     write ? "write" : "read", took, done, NR_IO);
	if (!waits) {
		life_pinned_at_once(_metadata, l, took);
		EXPECT_EQ(0, done);
	} else {
		EXPECT_GT(vmstat("nopin_wait"), l->f.wait);
		EXPECT_EQ(l->f.pinned + (l->late ? l->a.len / PAGE : 0),
			  vmstat("nopin_pinned"));
		EXPECT_EQ(l->late ? 0 : NR_IO, done);
	}
	ASSERT_EQ(0, flight_finish(&l->f));

	EXPECT_EQ(-1, grab_check(&l->grab));
	if (write)
		EXPECT_EQ(-1, flight_check_disk(&l->f));
	if (ops[op].found == FOUND_DATA) {
		mprotect(l->a.p, l->a.len, PROT_READ);
		EXPECT_EQ(-1, flight_check(&l->f, l->a.p, true));
	} else if (ops[op].found != FOUND_NONE) {
		EXPECT_EQ(-1, byte_check(l->a.p, l->a.len,
					 ops[op].found == FOUND_GRAB ? GRAB_BYTE : 0));
	}
}

#define LIFE_TEST(name, op)						\
	TEST_F_TIMEOUT(life, name##_read, 60)				\
	{								\
		life_run(_metadata, &self->l, op, false);		\
	}								\
	TEST_F_TIMEOUT(life, name##_write, 60)				\
	{								\
		life_run(_metadata, &self->l, op, true);		\
	}

LIFE_TEST(munmap, OP_MUNMAP)
LIFE_TEST(mmap_over, OP_MMAP_OVER)
LIFE_TEST(mremap, OP_MREMAP)
LIFE_TEST(protect_read, OP_PROTECT_READ)
LIFE_TEST(protect_none, OP_PROTECT_NONE)
LIFE_TEST(dontneed, OP_DONTNEED)

/* A child has what was there, or came, when it was born. That does not change */
static void born_main(int in, int out, void *arg)
{
	struct life *l = arg;
	uint64_t seeds[] = { l->f.seed, ~l->f.seed };
	char *copy = malloc(l->a.len);

	memcpy(copy, l->a.p, l->a.len);
	if (!pat_mixed(copy, l->a.len, seeds, 2, 0))
		_exit(1);
	await(in);
	_exit(memcmp(copy, l->a.p, l->a.len) ? 2 : 0);
}

/* The parent gets all of its data; what arrives later is not seen by a child */
TEST_F_TIMEOUT(life, fork_read, 60)
{
	enum { CHILDREN = 4 };
	struct life *l = &self->l;
	struct proc child[CHILDREN];
	uint64_t start, took = 0;

	ASSERT_EQ(0, life_start(l, false, GATE_ASKED, 0));
	for (int c = 0; c < CHILDREN; c++) {
		start = now_ms();
		ASSERT_EQ(0, proc_start(&child[c], born_main, l));
		if (now_ms() - start > took)
			took = now_ms() - start;
		/* Then some of the data arrives, and some more */
		if (c)
			ASSERT_EQ(0, gate_open(&l->f.gate));
		usleep(30000);
	}
	ASSERT_EQ(0, flight_finish(&l->f));
	EXPECT_EQ(-1, flight_check(&l->f, l->a.p, true));
	for (int c = 0; c < CHILDREN; c++) {
		tell(&child[c]);
		EXPECT_EQ(0, proc_wait(&child[c]));
	}
	life_pinned_at_once(_metadata, l, took);
}

/* Huge pages of hugetlbfs come and go as a whole */
static size_t life_half(struct life *l)
{
	return l->buf.kind == MEM_HUGETLB ? 0 : l->a.len / 2;
}

static void changing_main(int in, int out, void *arg)
{
	struct life *l = arg;

	for (size_t i = 0; i < life_half(l); i += PAGE)
		l->a.p[i + 1] ^= 0xff;
	/* The parent gives up its pages of the rest */
	await(in);
	memset(l->a.p, GRAB_BYTE, l->a.len);
	_exit(byte_check(l->a.p, l->a.len, GRAB_BYTE) >= 0);
}

/*
 * Writes go on while a child is born. Then both sides change their memory, each
 * in turn the one that gets the copy: the disk has the data of before.
 */
TEST_F_TIMEOUT(life, fork_write, 60)
{
	struct life *l = &self->l;
	size_t rest = l->a.len - life_half(l);
	struct proc child;
	uint64_t start, took;

	ASSERT_EQ(0, life_start(l, true, GATE_ASKED, 0));
	start = now_ms();
	ASSERT_EQ(0, proc_start(&child, changing_main, l));
	/*
	 * The device only reads the pages: fork() leaves them as they are. But
	 * hugetlbfs does not say that it only write-protects them.
	 */
	if (variant->kind != MEM_HUGETLB)
		EXPECT_EQ(l->f.pinned, vmstat("nopin_pinned"));
	ASSERT_EQ(0, madvise(l->a.p + life_half(l), rest, MADV_DONTNEED));
	took = now_ms() - start;
	EXPECT_EQ(0, flight_done(&l->f));
	EXPECT_EQ(l->f.wait, vmstat("nopin_wait"));
	if (nopin())
		EXPECT_LE(l->f.pinned + rest / PAGE, vmstat("nopin_pinned"));
	EXPECT_GT(NO_WAIT_MS, took);
	ASSERT_EQ(0, tell(&child));
	ASSERT_EQ(0, grab_fill(&l->grab));
	EXPECT_EQ(0, proc_wait(&child));
	ASSERT_EQ(0, flight_finish(&l->f));
	EXPECT_EQ(-1, flight_check_disk(&l->f));
	EXPECT_EQ(-1, grab_check(&l->grab));
}

/*
 * Processes that end, or become another program, with I/O in flight. They use a
 * ring of their parent's where there is one, which stays when they are gone.
 */

/* What they become: it takes memory, which nobody else may change */
static int self_hold(void)
{
	struct mem m;

	if (mem_get(&m, MEM_ANON, 4 * HUGE_LEN))
		return 1;
	memset(m.p, GRAB_BYTE, m.len);
	usleep(1000 * HOLD_MS);
	return byte_check(m.p, m.len, GRAB_BYTE) >= 0;
}

enum end { END_EXIT, END_KILL, END_EXEC };

struct ending {
	struct life l;
	enum engine eng;
	enum mem_kind kind;
	bool write;
	enum end end;
};

FIXTURE(end) {
	struct ending e;
};

FIXTURE_VARIANT(end) {
	enum engine eng;
	enum mem_kind kind;
	bool write;
};

FIXTURE_VARIANT_ADD(end, aio_read) { .eng = ENG_AIO, .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(end, aio_write) { .eng = ENG_AIO, .kind = MEM_THP, .write = true };
FIXTURE_VARIANT_ADD(end, uring_read) { .eng = ENG_URING, .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(end, uring_write) {
	.eng = ENG_URING, .kind = MEM_ANON, .write = true };
FIXTURE_VARIANT_ADD(end, uring_read_thp) { .eng = ENG_URING, .kind = MEM_THP };

FIXTURE_SETUP(end)
{
	struct life *l = &self->e.l;

	NEED("NOPIN_HELD");
	pin_to_cpu(0);
	self->e.eng = variant->eng;
	self->e.kind = variant->kind;
	self->e.write = variant->write;
	ASSERT_EQ(0, flight_open(&l->f, "NOPIN_HELD"));
	life_set(l, variant->kind);
	ASSERT_EQ(0, grab_init(&l->grab, variant->kind, 2 * l->a.len));
	if (variant->eng == ENG_URING)
		ASSERT_EQ(0, flight_engine(&l->f, variant->eng));
}

FIXTURE_TEARDOWN(end)
{
	gate_exit(&self->e.l.f.gate);
	grab_exit(&self->e.l.grab);
}

static void end_main(int in, int out, void *arg)
{
	static char *const argv[] = { "lifetime", "--hold", NULL };
	struct ending *e = arg;
	struct life *l = &e->l;
	int ret = mem_get(&l->buf, e->kind, l->a.len);

	life_set(l, e->kind);
	/* A context of the parent's is of no use here */
	if (!ret && e->eng != ENG_URING)
		ret = flight_engine(&l->f, e->eng);
	say(out, ret ?: life_start(l, e->write, GATE_ASKED, 0));
	if (e->end == END_EXEC)
		execv("/proc/self/exe", argv);
	if (e->end == END_KILL)
		pause();
}

static void end_run(struct __test_metadata *_metadata, struct ending *e, enum end end)
{
	struct life *l = &e->l;
	struct proc p;

	e->end = end;
	ASSERT_EQ(0, proc_start(&p, end_main, e));
	ASSERT_EQ(0, hear(&p));
	if (end == END_KILL)
		ASSERT_EQ(0, kill(p.pid, SIGKILL));
	/* While it is about to end, or has ended */
	usleep(1000 * SOON_MS);
	ASSERT_EQ(0, grab_fill(&l->grab));
	ASSERT_EQ(0, gate_idle(&l->f.gate));
	EXPECT_EQ(end == END_KILL ? SIGKILL : 0, proc_wait(&p));
	EXPECT_EQ(-1, grab_check(&l->grab));
	if (e->write)
		EXPECT_EQ(-1, flight_check_disk(&l->f));
}

TEST_F_TIMEOUT(end, exit, 60) { end_run(_metadata, &self->e, END_EXIT); }
TEST_F_TIMEOUT(end, sigkill, 60) { end_run(_metadata, &self->e, END_KILL); }
TEST_F_TIMEOUT(end, exec, 60) { end_run(_metadata, &self->e, END_EXEC); }

/* R15: a ring used by a child works on the child's memory */
TEST(ring_of_parent)
{
	enum { SEED = 12 };
	struct target t;
	struct ioq q;
	struct mem m;
	pid_t pid;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, ioq_init(&q, ENG_URING, 4));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, target_fill(&t, m.len, SEED, 0));
	/* Let the kernel know the parent's buffer first */
	ASSERT_EQ(m.len, ioq_rw(&q, t.fd, false, m.p, m.len, 0));
	memset(m.p, GRAB_BYTE, m.len);
	pid = fork();
	if (!pid) {
		if (ioq_rw(&q, t.fd, false, m.p, m.len, 0) != (long)m.len)
			_exit(1);
		_exit(pat_check(m.p, m.len, SEED, 0) >= 0 ? 2 : 0);
	}
	EXPECT_EQ(0, child_reap(pid));
	EXPECT_EQ(-1, byte_check(m.p, m.len, GRAB_BYTE));
}

/* A thread in a synchronous transfer whose buffer another thread unmaps */
static void sync_run(struct __test_metadata *_metadata, struct life *l, bool write)
{
	long took;

	ioq_exit(&l->f.q);
	flight_set(&l->f, l->a.p, 1, l->a.len, l->a.len);
	ASSERT_EQ(0, flight_engine(&l->f, ENG_PSYNC));
	ASSERT_EQ(0, life_start(l, write, GATE_ASKED, 0));
	took = op_timed(OP_MUNMAP, &l->a);
	ASSERT_LE(0, took);
	ASSERT_EQ(0, grab_fill(&l->grab));
	life_pinned_at_once(_metadata, l, took);
	/* The transfer had begun, so it is one of the whole */
	ASSERT_EQ(0, flight_finish(&l->f));
	EXPECT_EQ(-1, grab_check(&l->grab));
	if (write)
		EXPECT_EQ(-1, flight_check_disk(&l->f));
}

TEST_F_TIMEOUT(life, other_thread_read, 60) { sync_run(_metadata, &self->l, false); }
TEST_F_TIMEOUT(life, other_thread_write, 60) { sync_run(_metadata, &self->l, true); }

/*
 * New I/O where earlier I/O is in flight that was pinned when its memory went away:
 * it does not wait, and the two do not get into each other's way.
 */
TEST(pinned_again)
{
	enum { SEED = 13 };
	unsigned long busy, race;
	struct life l = { 0 };
	struct target t;
	uint64_t end;
	size_t len;

	NEED("NOPIN_HELD");
	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, life_open(&l, "NOPIN_HELD", ENG_AIO, MEM_ANON, MEM_ANON));
	len = l.a.len;
	ASSERT_EQ(0, target_fill(&t, len, SEED, 0));
	ASSERT_EQ(0, life_start(&l, false, GATE_ASKED, 0));
	ASSERT_EQ(0, op_run(OP_DONTNEED, &l.a));

	busy = fallback("busy");
	race = fallback("race");
	ASSERT_EQ(len, pread(t.fd, l.a.p, len, 0));
	busy = fallback("busy") - busy;
	race = fallback("race") - race;
	ASSERT_EQ(0, flight_done(&l.f));
	if (nopin()) {
		EXPECT_LT(0, busy);
		EXPECT_EQ(0, race);
	}
	ASSERT_EQ(0, flight_finish(&l.f));
	EXPECT_EQ(-1, pat_check(l.a.p, len, SEED, 0));

	/* Before long these pages are like others */
	end = now_ms() + 5000;
	do {
		busy = fallback("busy");
		ASSERT_EQ(len, pread(t.fd, l.a.p, len, 0));
		busy = fallback("busy") - busy;
	} while (busy && now_ms() < end);
	EXPECT_EQ(0, busy);
	life_close(&l);
}

/*
 * Pages between those of a buffer are free to change: the state is kept for each
 * page, and nobody waits for the neighbours', or has them pinned. In a huge page as
 * well: if it is mapped by a PMD that has to be split, all of it stays where it is.
 */

FIXTURE(neighbours) {
	struct flight f;
	struct mem m;
};

FIXTURE_VARIANT(neighbours) {
	enum mem_kind kind;
	bool write;
};

FIXTURE_VARIANT_ADD(neighbours, anon_read) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(neighbours, anon_write) { .kind = MEM_ANON, .write = true };
FIXTURE_VARIANT_ADD(neighbours, thp_read) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(neighbours, thp_write) { .kind = MEM_THP, .write = true };
FIXTURE_VARIANT_ADD(neighbours, thp_pte_read) { .kind = MEM_THP_PTE };
FIXTURE_VARIANT_ADD(neighbours, thp_pte_write) { .kind = MEM_THP_PTE, .write = true };

static const enum op_id changes[] = {
	OP_DONTNEED, OP_PROTECT_READ, OP_FREE, OP_COLD, OP_MLOCK, OP_MREMAP, OP_MUNMAP,
};

#define NR_CHANGES	ARRAY_SIZE(changes)
#define NR_NEIGHBOURS	(4 * NR_CHANGES)

FIXTURE_SETUP(neighbours)
{
	NEED("NOPIN_HELD");
	/* A wait shows, and does not take all the time that the test has */
	ASSERT_EQ(0, wait_ms_set(2 * NO_WAIT_MS));
	ASSERT_EQ(0, flight_open(&self->f, "NOPIN_HELD"));
	flight_set(&self->f, NULL, NR_NEIGHBOURS, PAGE, 2 * PAGE);
	ASSERT_EQ(0, flight_engine(&self->f, ENG_AIO));
}

FIXTURE_TEARDOWN(neighbours)
{
	flight_close(&self->f);
	wait_ms_set(DEFAULT_WAIT_MS);
}

TEST_F_TIMEOUT(neighbours, change, 120)
{
	size_t len = mem_of_huge(variant->kind) ? HUGE_LEN : 2 * NR_NEIGHBOURS * PAGE;
	struct flight *f = &self->f;
	uint64_t start;

	/* The first change is what splits a PMD: let each be the first in turn */
	for (size_t first = 0; first < NR_CHANGES; first++) {
		ASSERT_EQ(0, mem_get(&self->m, variant->kind, len));
		f->buf = self->m.p;
		ASSERT_EQ(0, flight_prepare(f, variant->write));
		ASSERT_EQ(0, flight_start(f, GATE_ASKED, 0));
		start = now_ms();
		for (size_t i = 0; i < NR_NEIGHBOURS; i++) {
			struct area a = { f->buf + (2 * i + 1) * PAGE, PAGE, -1 };

			ASSERT_EQ(0, op_run(changes[(i + first) % NR_CHANGES], &a));
		}
		EXPECT_GT(NO_WAIT_MS, now_ms() - start);
		EXPECT_EQ(0, flight_done(f));
		EXPECT_EQ(f->wait, vmstat("nopin_wait"));
		EXPECT_EQ(f->pinned, vmstat("nopin_pinned"));
		ASSERT_EQ(0, flight_finish(f));
		EXPECT_EQ(-1, flight_check(f, f->buf, true));
		if (variant->write)
			EXPECT_EQ(-1, flight_check_disk(f));
		mem_put(&self->m);
	}
}

/*
 * A task that learns that I/O has ended finds its pages idle: if it changes the mapping
 * then, nothing is pinned. The end of a read into so many places takes a while to leave
 * them, and here it does so on another processor than that of the task, which does not
 * sleep.
 */
#define MAX_PLACES	400
#define NR_OVERS	2000

struct over {
	struct target t;
	io_context_t aio;
	struct iovec iov[MAX_PLACES];
	int nr;				/* of these */
	atomic_int rounds;		/* to begin */
	atomic_int error;
};

FIXTURE(over) {
	struct over o;
};

FIXTURE_VARIANT(over) {
	const char *env;
	int nr;				/* more than 256 need several bios */
};

FIXTURE_VARIANT_ADD(over, raw) { .env = "NOPIN_RAW", .nr = 256 };
FIXTURE_VARIANT_ADD(over, raw_bios) { .env = "NOPIN_RAW", .nr = MAX_PLACES };
FIXTURE_VARIANT_ADD(over, xfs) { .env = "NOPIN_XFS", .nr = 256 };

FIXTURE_SETUP(over)
{
	struct over *o = &self->o;
	char *p = anon_map(variant->nr * HUGE_LEN);

	NEED(variant->env);
	ASSERT_NE(MAP_FAILED, p);
	o->nr = variant->nr;
	for (int i = 0; i < o->nr; i++)
		o->iov[i] = (struct iovec) { p + i * HUGE_LEN, PAGE };
	ASSERT_EQ(0, target_open(&o->t, variant->env, 8 * MB));
	ASSERT_EQ(0, target_fill(&o->t, o->nr * PAGE, 5, 0));
	ASSERT_EQ(0, io_setup(1, &o->aio));
}

FIXTURE_TEARDOWN(over)
{
	io_destroy(self->o.aio);
	target_close(&self->o.t);
}

static void *over_start(void *arg)
{
	struct over *o = arg;
	struct iocb cb, *cbp = &cb;

	pin_to_cpu(0);
	for (int i = 0; i < NR_OVERS; i++) {
		while (atomic_load(&o->rounds) == i)
			;
		io_prep_preadv(&cb, o->t.fd, o->iov, o->nr, 0);
		if (io_submit(o->aio, 1, &cbp) != 1) {
			atomic_store(&o->error, 1);
			break;
		}
	}
	return NULL;
}

TEST_F_TIMEOUT(over, told, 120)
{
	struct over *o = &self->o;
	unsigned long bios = vmstat("nopin_bio"), pinned = vmstat("nopin_pinned");
	char *last = o->iov[o->nr - 1].iov_base;
	struct timespec zero = {};
	struct io_event ev;
	pthread_t th;

	if (!nopin())
		SKIP(return, "nothing is pinned on behalf of pinned I/O");
	pin_to_cpu(1);
	ASSERT_EQ(0, pthread_create(&th, NULL, over_start, o));
	for (int i = 0; i < NR_OVERS; i++) {
		atomic_store(&o->rounds, i + 1);
		while (!io_getevents(o->aio, 0, 1, &ev, &zero))
			ASSERT_EQ(0, atomic_load(&o->error));
		ASSERT_EQ(0, madvise(last, PAGE, MADV_DONTNEED));
		ASSERT_EQ(o->nr * PAGE, ev.res);
	}
	ASSERT_EQ(0, pthread_join(th, NULL));
	/* All but the last one have what was read */
	for (int i = 0; i < o->nr - 1; i++)
		EXPECT_EQ(-1, pat_check(o->iov[i].iov_base, PAGE, 5, i * PAGE));
	EXPECT_LE(bios + NR_OVERS, vmstat("nopin_bio"));
	EXPECT_EQ(pinned, vmstat("nopin_pinned"));
}

/* A file whose mapping is the buffer loses the pages */

FIXTURE(file) {
	struct life l;
};

FIXTURE_VARIANT(file) {
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(file, ext4) { .kind = MEM_SHARED_EXT4 };
FIXTURE_VARIANT_ADD(file, xfs) { .kind = MEM_SHARED_XFS };
FIXTURE_VARIANT_ADD(file, shmem) { .kind = MEM_SHMEM };

FIXTURE_SETUP(file)
{
	NEED("NOPIN_HELD");
	ASSERT_EQ(0, life_open(&self->l, "NOPIN_HELD", ENG_AIO, variant->kind,
			       MEM_ANON));
}

FIXTURE_TEARDOWN(file)
{
	life_close(&self->l);
}

/*
 * The free pages are let alone, and the file's new pages are empty. Truncation waits
 * for what a device writes to the file's pages, so that it is in the file, or not.
 * Pages that a device only reads are pinned at once.
 */
static void file_run(struct __test_metadata *_metadata, struct life *l, enum op_id op,
		     bool write)
{
	bool waits = nopin() && !write;
	long took;

	ASSERT_EQ(0, life_start(l, write, waits ? GATE_WAIT : GATE_ASKED, SOON_MS));
	took = op_timed(op, &l->a);
	ASSERT_LE(0, took) TH_LOG("%s", strerror(-took));
	ASSERT_EQ(0, grab_fill(&l->grab));
	if (waits) {
		EXPECT_GT(vmstat("nopin_wait"), l->f.wait);
		EXPECT_EQ(l->f.pinned, vmstat("nopin_pinned"));
	} else {
		life_pinned_at_once(_metadata, l, took);
	}
	ASSERT_EQ(0, flight_finish(&l->f));
	EXPECT_EQ(-1, grab_check(&l->grab));
	EXPECT_EQ(-1, byte_check(l->a.p, l->a.len, 0));
	if (write)
		EXPECT_EQ(-1, flight_check_disk(&l->f));
}

#define FILE_TEST(name, op)						\
	TEST_F_TIMEOUT(file, name##_read, 60)				\
	{								\
		file_run(_metadata, &self->l, op, false);		\
	}								\
	TEST_F_TIMEOUT(file, name##_write, 60)				\
	{								\
		file_run(_metadata, &self->l, op, true);		\
	}

FILE_TEST(truncate, OP_CUT)
FILE_TEST(punch, OP_PUNCH)
FILE_TEST(remove, OP_REMOVE)

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--hold"))
		return self_hold();
	return test_harness_run(argc, argv);
}
