// SPDX-License-Identifier: GPL-2.0
/*
 * Everything at once: threads that do I/O and compare every byte, while others do
 * to the buffers all that may be done to memory, and while memory is freed with
 * I/O in flight for the rest to get hold of. If invalidations neither wait for the
 * I/O nor pin its pages, this finds wrong bytes in seconds (R1, R13). Some of the
 * memory is that of a file, which is written back, and loses its pages, meanwhile.
 */
#include <linux/falloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define BLOCK		(8 * KB)	/* on the disk */
#define NR_BLOCKS	64		/* of each worker */
#define SLOT		(16 * KB)	/* in memory, a block anywhere inside */
#define BATCH		16
#define VICTIM		(512 * KB)
#define CANARY		MB
#define SLOW_MS		60000	/* for a slow machine */

static const struct {
	enum engine eng;
	enum mem_kind kind;
	size_t len;
} jobs[] = {
	{ ENG_AIO, MEM_ANON, BATCH * SLOT },
	{ ENG_URING, MEM_ANON_GIB, BATCH * SLOT },
	{ ENG_URINGV, MEM_THP, 2 * MB },
	{ ENG_AIOV, MEM_SHMEM, BATCH * SLOT },
	{ ENG_PSYNC, MEM_ANON, BATCH * SLOT },
	{ ENG_AIO, MEM_SHARED_EXT4, BATCH * SLOT },	/* see the variants */
};

#define NR_WORKERS	ARRAY_SIZE(jobs)
#define DISK		(NR_WORKERS * NR_BLOCKS * 2 * BLOCK)

struct churn;

struct worker {
	struct churn *c;
	unsigned int id;
	struct mem m;
	struct ioq q;
	uint64_t seed[NR_BLOCKS];	/* what the disk has */
	unsigned long ops, refused;
	char failed[160];
};

struct churn {
	struct target t;
	struct worker w[NR_WORKERS];
	unsigned int nr_workers;
	atomic_bool stop;
	atomic_ulong mangled, forks, syncs, victims, file_victims, canaries;
	char failed[160];		/* of all but the workers */
};

#define fail(where, fmt, ...)						\
	snprintf((where)->failed, sizeof((where)->failed), fmt, ##__VA_ARGS__)

static off_t block_pos(struct worker *w, unsigned int block)
{
	/* Gaps, so that a request is one block */
	return ((off_t)w->id * NR_BLOCKS + block) * 2 * BLOCK;
}

/* ---- workers ---- */

struct transfer {
	unsigned int block;
	char *p;
	uint64_t seed;
};

static int run_batch(struct worker *w, struct transfer *tr, unsigned int nr,
		     bool write, long *res)
{
	for (unsigned int i = 0; i < nr; i++) {
		int ret = ioq_begin(&w->q, i, w->c->t.fd, write, tr[i].p, BLOCK,
				    block_pos(w, tr[i].block), res);

		if (ret)
			return ret;
	}
	return ioq_end(&w->q, res);
}

static void work(struct worker *w, uint32_t *r, uint64_t *seed)
{
	bool write = rnd(r) % 3 == 0;
	unsigned int nr = 1 + rnd(r) % BATCH, first = rnd(r) % NR_BLOCKS;
	struct transfer tr[BATCH];
	long res[BATCH];
	ssize_t bad;
	int ret;

	for (unsigned int i = 0; i < nr; i++) {
		tr[i].block = (first + i * 5) % NR_BLOCKS;
		tr[i].p = w->m.p + i * SLOT + rnd(r) % 16 * SECTOR;
		tr[i].seed = write ? ++*seed : w->seed[tr[i].block];
		/* Of a read, a late or missing write to memory has to show */
		pat_fill(tr[i].p, BLOCK, write ? tr[i].seed : ++*seed, 0);
	}
	ret = run_batch(w, tr, nr, write, res);
	if (ret) {
		fail(w, "batch: %s", strerror(-ret));
		return;
	}
	for (unsigned int i = 0; i < nr; i++) {
		w->ops++;
		/* Memory that is read-only at the moment */
		if (!write && (res[i] == -EFAULT ||
			       (res[i] >= 0 && res[i] < (long)BLOCK))) {
			w->refused++;
			continue;
		}
		if (res[i] != (long)BLOCK) {
			fail(w, "%s: %ld", write ? "write" : "read", res[i]);
			return;
		}
		if (write)
			w->seed[tr[i].block] = tr[i].seed;
		bad = pat_check(tr[i].p, BLOCK, tr[i].seed, 0);
		if (bad >= 0) {
			fail(w, "%s: block %u at %p: wrong from byte %zd on",
			     write ? "after a write" : "read", tr[i].block,
			     tr[i].p, bad);
			return;
		}
		/* The device had better be done with it */
		memset(tr[i].p, GRAB_BYTE, BLOCK);
	}
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	uint32_t r = w->id + 1;
	uint64_t seed = (w->id + 1ULL) << 32;

	while (!atomic_load(&w->c->stop) && !w->failed[0]) {
		work(w, &r, &seed);
		/* Leave some time to the others, on a fast device as well */
		usleep(rnd(&r) % 2000);
	}
	return NULL;
}

/* A worker fills memory that is read-only at the moment: try again */
static void on_segv(int sig, siginfo_t *info, void *context)
{
	if (info->si_code != SEGV_ACCERR)
		signal(sig, SIG_DFL);
	sched_yield();
}

/* ---- what is done to their memory ---- */

/* Those who wait for nothing but each other must not take all the time */
static void hurry(void)
{
	setpriority(PRIO_PROCESS, syscall(SYS_gettid), -10);
}

/* Nothing that another thread must not be forked in the middle of */
static void mangle(struct churn *c, uint32_t *r)
{
	struct mem *m = &c->w[rnd(r) % c->nr_workers].m;
	struct area all = { m->p, m->len, m->fd }, some = all;
	size_t pages = m->len / PAGE, first = rnd(r) % pages;
	size_t nr = 1 + rnd(r) % 32;

	some.p += first * PAGE;
	some.len = (nr > pages - first ? pages - first : nr) * PAGE;
	some.node = !mem_node(some.p);
	switch (rnd(r) % 32) {
	default:
		op_run(OP_MOVE_PAGES, &some);
		break;
	case 16 ... 27:
		op_run(OP_PAGEOUT, &some);
		break;
	case 28 ... 29:
		op_run(OP_COLLAPSE, &all);
		break;
	case 30:
		/* Write protects all of the memory */
		op_run(OP_SOFT_DIRTY, &all);
		break;
	case 31:
		if (rnd(r) % 4 == 0)
			op_run(OP_COMPACT, &all);
		break;
	}
	atomic_fetch_add(&c->mangled, 1);
}

static void *mangler_thread(void *arg)
{
	struct churn *c = arg;
	uint32_t r = 77;

	hurry();
	while (!atomic_load(&c->stop)) {
		mangle(c, &r);
		usleep(rnd(&r) % 1000);
	}
	return NULL;
}

/*
 * Writeback of memory that belongs to a file. What comes in late must not be lost
 * when a page is paged out after that.
 */
static void *syncer_thread(void *arg)
{
	struct churn *c = arg;
	uint32_t r = 88;

	hurry();
	while (!atomic_load(&c->stop)) {
		for (unsigned int i = 0; i < c->nr_workers; i++) {
			struct mem *m = &c->w[i].m;

			if (m->kind != MEM_SHARED_EXT4)
				continue;
			if (fsync(m->fd))
				fail(c, "fsync: %s", strerror(errno));
			atomic_fetch_add(&c->syncs, 1);
		}
		usleep(rnd(&r) % 10000);
	}
	return NULL;
}

/*
 * Protection and forks, by one thread: a child must not find its memory read-only.
 * Children change their copies, and live on for a while.
 */
static void *forker_thread(void *arg)
{
	struct churn *c = arg;
	uint32_t r = 99;

	hurry();
	while (!atomic_load(&c->stop)) {
		struct mem *m = &c->w[rnd(&r) % c->nr_workers].m;
		size_t pages = m->len / PAGE, first = rnd(&r) % pages;
		size_t len = (1 + rnd(&r) % (pages - first)) * PAGE;
		char *p = m->p + first * PAGE;
		pid_t pid;

		switch (rnd(&r) % 4) {
		case 0:
			mprotect(p, len, PROT_READ);
			usleep(rnd(&r) % 500);
			mprotect(p, len, PROT_READ | PROT_WRITE);
			break;
		case 1:
			mprotect(p, len, PROT_READ | PROT_WRITE | PROT_EXEC);
			mprotect(p, len, PROT_READ | PROT_WRITE);
			break;
		case 2:
			pid = fork();
			if (!pid) {
				for (size_t i = 0; i < len && m->fd < 0; i += PAGE)
					p[i] = i;
				usleep(rnd(&r) % 5000);
				_exit(0);
			}
			if (pid > 0)
				waitpid(pid, NULL, 0);
			atomic_fetch_add(&c->forks, 1);
			break;
		}
		usleep(rnd(&r) % 3000);
	}
	return NULL;
}

/* ---- memory that is given back with I/O in flight ---- */

/* Anonymous memory, or the pages of a file, which are taken away by another way */
static void *give_up(struct churn *c, bool file)
{
	static const enum op_id how[2][2] = {
		{ OP_MMAP_OVER, OP_DONTNEED }, { OP_CUT, OP_PUNCH }
	};
	const char *what = file ? "file victim" : "victim";
	off_t pos = DISK + (file ? 2 * VICTIM : 0);	/* nobody's blocks */
	enum { NR = 16, LEN = VICTIM / NR };
	uint32_t r = file ? 44 : 55;
	struct ioq q;
	struct mem m;

	hurry();
	if (ioq_init(&q, ENG_AIO, NR) || (file && mem_get(&m, MEM_SHARED_EXT4, VICTIM))) {
		fail(c, "%s: setup", what);
		return NULL;
	}
	while (!atomic_load(&c->stop)) {
		struct area a = { file ? m.p : anon_map(VICTIM), VICTIM, file ? m.fd : -1 };
		bool write = rnd(&r) & 1;
		enum op_id op = how[file][rnd(&r) & 1];

		memset(a.p, 0, VICTIM);
		for (unsigned int i = 0; i < NR; i++)
			if (ioq_start(&q, i, c->t.fd, write, a.p + i * LEN, LEN,
				      pos + 2 * i * LEN))
				fail(c, "%s: submission", what);
		if (op_run(op, &a))
			fail(c, "%s: %s: %s", what, ops[op].name, strerror(errno));
		if (ioq_reap(&q, NR, NULL) != NR)
			fail(c, "%s: completion", what);
		if (byte_check(a.p, VICTIM,
			       ops[op].found == FOUND_GRAB ? GRAB_BYTE : 0) >= 0)
			fail(c, "%s: a page that was given up changed", what);
		if (!file)
			munmap(a.p, VICTIM);
		atomic_fetch_add(file ? &c->file_victims : &c->victims, 1);
	}
	ioq_exit(&q);
	return NULL;
}

static void *victim_thread(void *arg)
{
	return give_up(arg, false);
}

static void *file_victim_thread(void *arg)
{
	return give_up(arg, true);
}

/* Takes free pages, and looks whether they are left alone */
static void *canary_thread(void *arg)
{
	struct churn *c = arg;
	uint32_t r = 33;

	while (!atomic_load(&c->stop)) {
		char *p = anon_map(CANARY);

		if (p == MAP_FAILED)
			break;
		memset(p, GRAB_BYTE, CANARY);
		usleep(rnd(&r) % 20000);
		if (byte_check(p, CANARY, GRAB_BYTE) >= 0)
			fail(c, "canary: somebody wrote to a page of others");
		munmap(p, CANARY);
		atomic_fetch_add(&c->canaries, 1);
	}
	return NULL;
}

/* ---- all of it ---- */

FIXTURE(churn) {
	struct churn c;
	enum mode mode;
};

FIXTURE_VARIANT(churn) {
	const char *env;
	unsigned int ms;
	bool file;
};

/* Nearly all memory in flight nearly all the time, or many more transfers */
FIXTURE_VARIANT_ADD(churn, slow) { .env = "NOPIN_SLOW", .ms = 7000 };
FIXTURE_VARIANT_ADD(churn, throttled) { .env = "NOPIN_CHURN", .ms = 5000 };
FIXTURE_VARIANT_ADD(churn, raw) { .env = "NOPIN_RAW", .ms = 4000 };
FIXTURE_VARIANT_ADD(churn, xfs) { .env = "NOPIN_XFS", .ms = 4000 };
/* Memory of a file among it, which makes everything else wait for its journal */
FIXTURE_VARIANT_ADD(churn, file) { .env = "NOPIN_RAW", .ms = 6000, .file = true };

FIXTURE_SETUP(churn)
{
	struct churn *c = &self->c;

	NEED(variant->env);
	if (variant->file)
		NEED("NOPIN_EXT4");
	c->nr_workers = variant->file ? NR_WORKERS : NR_WORKERS - 1;
	ASSERT_EQ(0, target_open(&c->t, variant->env, 16 * MB));
	for (unsigned int i = 0; i < c->nr_workers; i++) {
		struct worker *w = &c->w[i];

		w->c = c;
		w->id = i;
		ASSERT_EQ(0, mem_get(&w->m, jobs[i].kind, jobs[i].len));
		ASSERT_EQ(0, ioq_init(&w->q, jobs[i].eng, BATCH));
		for (unsigned int b = 0; b < NR_BLOCKS; b++)
			w->seed[b] = 1;
		/* So that every block has the same to begin with */
		madvise(w->m.p, w->m.len, MADV_MERGEABLE);
	}
}

FIXTURE_TEARDOWN(churn)
{
}

static int fill_disk(struct churn *c)
{
	char *buf = malloc(DISK);
	int ret;

	for (size_t pos = 0; pos < DISK; pos += BLOCK)
		pat_fill(buf + pos, BLOCK, 1, 0);
	ret = target_write(&c->t, buf, DISK, 0);
	free(buf);
	return ret;
}

/* Has everybody had a turn? */
static bool churn_all(struct churn *c, bool file)
{
	return c->victims && c->canaries && c->forks &&
	       (!file || (c->syncs && c->file_victims));
}

TEST_F_TIMEOUT(churn, run, 180)
{
	static void *(*const others[])(void *) = {
		mangler_thread, forker_thread, victim_thread, canary_thread,
		/* of files */
		syncer_thread, file_victim_thread,
	};
	struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO };
	pthread_t th[NR_WORKERS + ARRAY_SIZE(others)];
	unsigned long ops = 0, refused = 0;
	struct churn *c = &self->c;
	unsigned int n = 0;
	bool bad = false;
	uint64_t end;
	char *disk;

	ASSERT_EQ(0, fill_disk(c));
	sigaction(SIGSEGV, &sa, NULL);
	sysfs_write(KSM "pages_to_scan", "200");
	sysfs_write(KSM "sleep_millisecs", "20");
	sysfs_write(KSM "run", "1");
	sysfs_write(NUMA_SWITCH, "1");
	for (unsigned int i = 0; i < c->nr_workers; i++)
		ASSERT_EQ(0, pthread_create(&th[n++], NULL, worker_thread, &c->w[i]));
	for (unsigned int i = 0; i < ARRAY_SIZE(others) -
	     (variant->file ? 0 : 2); i++)
		ASSERT_EQ(0, pthread_create(&th[n++], NULL, others[i], c));

	end = now_ms() + test_ms(variant->ms);
	while (!bad && (now_ms() < end || (!churn_all(c, variant->file) &&
					   now_ms() < end + SLOW_MS))) {
		usleep(50000);
		bad = c->failed[0];
		for (unsigned int i = 0; i < c->nr_workers; i++)
			bad |= c->w[i].failed[0];
	}
	atomic_store(&c->stop, true);
	while (n)
		ASSERT_EQ(0, pthread_join(th[--n], NULL));
	sysfs_write(NUMA_SWITCH, "0");
	sysfs_write(KSM "run", "2");

	for (unsigned int i = 0; i < c->nr_workers; i++) {
		struct worker *w = &c->w[i];

		EXPECT_STREQ("", w->failed)
			TH_LOG("worker %u: %s, %s", i, engine_name[jobs[i].eng],
			       mem_name[jobs[i].kind]);
		EXPECT_LT(0, w->ops) TH_LOG("worker %u", i);
		ops += w->ops;
		refused += w->refused;
	}
	EXPECT_STREQ("", c->failed);
	note("%lu transfers, %lu refused; %lu changes, %lu forks, %lu syncs",
	     ops, refused, c->mangled, c->forks, c->syncs);
	note("%lu victims, %lu of files, %lu canaries", c->victims,
	     c->file_victims, c->canaries);
	EXPECT_EQ(variant->file, c->syncs > 0);
	EXPECT_LT(0, c->victims);
	EXPECT_EQ(variant->file, c->file_victims > 0);
	EXPECT_LT(0, c->canaries);
	EXPECT_LT(0, c->forks);

	/* All that was written, read back on another way */
	disk = malloc(DISK);
	ASSERT_EQ(0, target_read(&c->t, disk, DISK, 0));
	for (unsigned int i = 0; i < c->nr_workers; i++) {
		struct worker *w = &c->w[i];

		for (unsigned int b = 0; b < NR_BLOCKS; b++) {
			EXPECT_EQ(-1, pat_check(disk + block_pos(w, b), BLOCK,
						w->seed[b], 0))
				TH_LOG("worker %u: block %u on the disk", i, b);
		}
	}
	free(disk);
}

TEST_HARNESS_MAIN
