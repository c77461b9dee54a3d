// SPDX-License-Identifier: GPL-2.0
/*
 * I/O that needs memory to be completed, while memory is short and what reclaim
 * gains goes through the same disk: direct I/O on top of dm-crypt, whose workers
 * allocate, and of a loop device, which has a file system below it. Nobody may
 * wait for I/O of which he is a part (R3, R4), and I/O to a device that is like that
 * is waited for by nobody (R7): it goes on, and all data is right.
 */
#include <sys/prctl.h>
#include <sys/swap.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define BLOCK		(8 * KB)	/* on the disk */
#define NR_BLOCKS	64		/* of each worker */
#define SLOT		(16 * KB)	/* in memory, a block at its start */
#define NR_SLOTS	128
#define BATCH		16

#define LIMIT		"24M"		/* of all the memory, in a cgroup */
#define HOG		(32 * MB)
#define LEAVE		(128 * MB)	/* of the memory of the machine */
#define SWAP		(96 * MB)
#define PAGES_OUT	256		/* written there at least */

/* The longest time in which nothing is done, on a slow machine as well */
#define STALL_MS	30000
/* What it may take to use up the memory there, or to give it back */
#define FILL_MS		120000

#define HUGEPAGES	"/sys/kernel/mm/hugepages/hugepages-2048kB/"

static const enum engine engines[] = {
	ENG_PSYNC, ENG_AIO, ENG_URINGV, ENG_URING_FIXED,
};

#define NR_WORKERS	ARRAY_SIZE(engines)
#define DISK		(NR_WORKERS * NR_BLOCKS * 2 * BLOCK)

/* Shared by the test and the process that is short of memory */
struct shared {
	atomic_bool stop;
	atomic_ulong ops[NR_WORKERS], hogged;
	uint64_t seed[NR_WORKERS][NR_BLOCKS];	/* what the disk has */
	char failed[160];
};

struct worker {
	struct shared *sh;
	struct target *t;
	unsigned int id;
	struct mem m;
	struct ioq q;
};

#define fail(sh, fmt, ...)						\
	snprintf((sh)->failed, sizeof((sh)->failed), fmt, ##__VA_ARGS__)

static off_t block_pos(unsigned int id, unsigned int block)
{
	/* Gaps, so that a request is one block */
	return ((off_t)id * NR_BLOCKS + block) * 2 * BLOCK;
}

/* ---- the process ---- */

static int run_batch(struct worker *w, const unsigned int *blocks,
		     char *const *bufs, unsigned int nr, bool write, long *res)
{
	for (unsigned int i = 0; i < nr; i++) {
		int ret = ioq_begin(&w->q, i, w->t->fd, write, bufs[i], BLOCK,
				    block_pos(w->id, blocks[i]), res);

		if (ret)
			return ret;
	}
	/* Reclaim seldom gets at what was used a moment ago: help it */
	if (w->q.eng != ENG_PSYNC && nr % 4 == 0)
		madvise(bufs[0], BLOCK, MADV_PAGEOUT);
	return ioq_end(&w->q, res);
}

static int work(struct worker *w, uint32_t *r, uint64_t *seed)
{
	unsigned int nr = 1 + rnd(r) % BATCH, first = rnd(r) % NR_BLOCKS;
	unsigned int slot = rnd(r) % NR_SLOTS, blocks[BATCH];
	uint64_t *disk = w->sh->seed[w->id];
	bool write = rnd(r) % 2;
	char *bufs[BATCH];
	long res[BATCH];
	int ret;

	for (unsigned int i = 0; i < nr; i++) {
		blocks[i] = (first + i * 5) % NR_BLOCKS;
		bufs[i] = w->m.p + (slot + i * 7) % NR_SLOTS * SLOT;
		++*seed;
		/* Of a read, a late or missing write to memory has to show */
		pat_fill(bufs[i], BLOCK, *seed, 0);
		if (write)
			disk[blocks[i]] = *seed;
	}
	ret = run_batch(w, blocks, bufs, nr, write, res);
	if (ret) {
		fail(w->sh, "batch: %s", strerror(-ret));
		return ret;
	}
	for (unsigned int i = 0; i < nr; i++) {
		ssize_t bad;

		if (res[i] != (long)BLOCK) {
			fail(w->sh, "worker %u: %ld", w->id, res[i]);
			return -EIO;
		}
		bad = pat_check(bufs[i], BLOCK, disk[blocks[i]], 0);
		if (bad >= 0) {
			fail(w->sh, "worker %u, %s: block %u wrong from byte %zd on",
			     w->id, write ? "write" : "read", blocks[i], bad);
			return -EIO;
		}
		atomic_fetch_add(&w->sh->ops[w->id], 1);
	}
	return 0;
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	uint32_t r = w->id + 1;
	uint64_t seed = (w->id + 1ULL) << 32;

	while (!atomic_load(&w->sh->stop) && !work(w, &r, &seed))
		usleep(rnd(&r) % 2000);
	return NULL;
}

struct hog {
	struct shared *sh;
	char *p;
	size_t len;
};

/* Uses more memory than there is, and looks whether it comes back as it was */
static void *hog_thread(void *arg)
{
	struct hog *h = arg;
	uint32_t r = 4711;

	while (!atomic_load(&h->sh->stop)) {
		size_t pos = rnd(&r) % (h->len / PAGE) * PAGE;
		uint64_t *word = (uint64_t *)(h->p + pos);

		if (*word != pos + 1) {
			fail(h->sh, "hog: wrong page at %zu", pos);
			break;
		}
		word[1]++;
		atomic_fetch_add(&h->sh->hogged, 1);
		usleep(2000);
	}
	return NULL;
}

static void process(struct shared *sh, const char *env, size_t hog_len)
{
	struct worker w[NR_WORKERS];
	struct hog h = { .sh = sh, .len = hog_len };
	pthread_t th[NR_WORKERS + 1];
	unsigned int n = 0;
	struct target t;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (target_open(&t, env, 0)) {
		fail(sh, "target");
		_exit(1);
	}
	for (unsigned int i = 0; i < NR_WORKERS; i++) {
		w[i].sh = sh;
		w[i].t = &t;
		w[i].id = i;
		if (mem_get(&w[i].m, MEM_ANON, NR_SLOTS * SLOT) ||
		    ioq_init_buffer(&w[i].q, engines[i], BATCH, w[i].m.p,
				    NR_SLOTS * SLOT)) {
			fail(sh, "worker %u: setup", i);
			_exit(1);
		}
	}
	h.p = space_get(hog_len, PAGE);
	if (mprotect(h.p, hog_len, PROT_READ | PROT_WRITE)) {
		fail(sh, "hog: %s", strerror(errno));
		_exit(1);
	}
	for (unsigned int i = 0; i < NR_WORKERS; i++)
		if (!pthread_create(&th[n], NULL, worker_thread, &w[i]))
			n++;
	/* With I/O going on */
	for (size_t pos = 0; pos < hog_len && !atomic_load(&sh->stop); pos += PAGE) {
		*(uint64_t *)(h.p + pos) = pos + 1;
		if (pos % MB == 0)
			atomic_fetch_add(&sh->hogged, 1);
		/* The others are to get some, too, if there is that little */
		if (hog_len == HOG && pos % (16 * PAGE) == 0)
			usleep(1000);
	}
	if (!pthread_create(&th[n], NULL, hog_thread, &h))
		n++;
	while (n)
		pthread_join(th[--n], NULL);
	_exit(0);
}

/* ---- the machine ---- */

static unsigned long mem_stat(const char *field)
{
	return proc_kb("/proc/meminfo", field) * KB;
}

/* Swap that is used before any other */
static int swap_on(const char *path)
{
	struct stat st;
	char cmd[320];
	int fd;

	if (stat(path, &st) || !S_ISBLK(st.st_mode)) {
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
		if (fd < 0)
			return -errno;
		if (posix_fallocate(fd, 0, SWAP) || fsync(fd)) {
			close(fd);
			return -ENOSPC;
		}
		close(fd);
	}
	snprintf(cmd, sizeof(cmd), "mkswap -f %s >/dev/null 2>&1", path);
	if (system(cmd))
		return -EIO;
	if (swapon(path, SWAP_FLAG_PREFER | 100))
		return -errno;
	return 0;
}

FIXTURE(pressure) {
	struct target t;
	struct shared *sh;
	char swap[256];
	struct cgroup cgroup;
	long hugepages;
	pid_t pid;
};

FIXTURE_VARIANT(pressure) {
	const char *env, *swap;
	bool machine;		/* all of its memory, or that of a cgroup */
	bool other;		/* the device does not complete by itself */
	unsigned int ms;
};

/* Each has its swap on the same disk */
FIXTURE_VARIANT_ADD(pressure, crypt_cgroup) {
	.env = "NOPIN_CRYPT", .swap = "NOPIN_CRYPT_SWAP", .ms = 4000 };
FIXTURE_VARIANT_ADD(pressure, crypt_machine) {
	.env = "NOPIN_CRYPT", .swap = "NOPIN_CRYPT_SWAP", .ms = 4000,
	.machine = true };
FIXTURE_VARIANT_ADD(pressure, loop_cgroup) {
	.env = "NOPIN_LOOP", .swap = "NOPIN_EXT4", .ms = 2000, .other = true };
FIXTURE_VARIANT_ADD(pressure, loop_machine) {
	.env = "NOPIN_LOOP", .swap = "NOPIN_EXT4", .ms = 2000, .other = true,
	.machine = true };

FIXTURE_SETUP(pressure)
{
	struct stat st;

	self->hugepages = -1;
	NEED(variant->env);
	NEED(variant->swap);
	if (cgroup_make(&self->cgroup, "memory") == -ENOENT)
		SKIP(return, "no cgroup v2");
	self->sh = shared_get(sizeof(*self->sh));
	ASSERT_EQ(0, target_open(&self->t, variant->env, 0));

	snprintf(self->swap, sizeof(self->swap), "%s%s", getenv(variant->swap),
		 !stat(getenv(variant->swap), &st) && S_ISDIR(st.st_mode) ?
		 "/swap" : "");
	ASSERT_EQ(0, swap_on(self->swap));

	if (variant->machine) {
		long take = ((long)mem_stat("MemFree") - (long)LEAVE) / (2 * (long)MB);

		/* Takes memory without ever looking at it */
		self->hugepages = sysfs_get(HUGEPAGES "nr_hugepages");
		ASSERT_LE(0, self->hugepages);
		ASSERT_EQ(0, sysfs_put(HUGEPAGES "nr_hugepages", self->hugepages + take));
	}
}

FIXTURE_TEARDOWN(pressure)
{
	if (self->hugepages >= 0)
		sysfs_put(HUGEPAGES "nr_hugepages", self->hugepages);
	cgroup_remove(&self->cgroup);
	EXPECT_EQ(0, swapoff(self->swap));
	if (strcmp(variant->swap, "NOPIN_CRYPT_SWAP"))
		unlink(self->swap);
}

static int fill_disk(struct target *t, struct shared *sh)
{
	char *buf = malloc(DISK);
	int ret;

	for (size_t pos = 0; pos < DISK; pos += BLOCK)
		pat_fill(buf + pos, BLOCK, 1, 0);
	for (unsigned int i = 0; i < NR_WORKERS; i++)
		for (unsigned int b = 0; b < NR_BLOCKS; b++)
			sh->seed[i][b] = 1;
	ret = target_write(t, buf, DISK, 0);
	free(buf);
	return ret;
}

TEST_F_TIMEOUT(pressure, run, 600)
{
	unsigned long refuse, wait, bios, out, last[NR_WORKERS] = { 0 };
	uint64_t start, since[NR_WORKERS], end;
	unsigned int stall[NR_WORKERS] = { 0 };
	struct shared *sh = self->sh;
	size_t hog = HOG;
	int status;
	char *disk;

	ASSERT_EQ(0, fill_disk(&self->t, sh));
	/* More than can be had, and less than there is swap for */
	if (variant->machine)
		hog = mem_stat("MemAvailable") + SWAP / 4;
	refuse = vmstat("nopin_refuse");
	wait = vmstat("nopin_wait");
	bios = vmstat("nopin_bio");
	out = vmstat("pswpout");

	self->pid = fork();
	ASSERT_LE(0, self->pid);
	if (!self->pid) {
		/* The first to go, if it comes to that; then the test fails */
		sysfs_write("/proc/self/oom_score_adj", "1000");
		if (!variant->machine && (cgroup_put(&self->cgroup, "memory.max", LIMIT) ||
					  cgroup_put(&self->cgroup, "cgroup.procs", "0")))
			_exit(2);
		process(sh, variant->env, hog);
	}

	start = now_ms();
	end = start + test_ms(variant->ms);
	for (unsigned int i = 0; i < NR_WORKERS; i++)
		since[i] = start;
	while (!sh->failed[0] && !waitpid(self->pid, &status, WNOHANG)) {
		uint64_t now = now_ms();
		bool done = now >= end;

		for (unsigned int i = 0; i < NR_WORKERS; i++) {
			unsigned long ops = atomic_load(&sh->ops[i]);

			if (ops != last[i]) {
				last[i] = ops;
				since[i] = now;
			}
			if (now - since[i] > stall[i])
				stall[i] = now - since[i];
			if (stall[i] > STALL_MS)
				fail(sh, "worker %u: nothing done for %u ms", i,
				     stall[i]);
			done &= ops > 0;
		}
		/* Memory takes its time to fill up */
		if (done && (vmstat("pswpout") - out > PAGES_OUT ||
			     now >= end + FILL_MS))
			break;
		usleep(50000);
	}
	atomic_store(&sh->stop, true);
	for (int i = 0; i < FILL_MS / 50; i++) {
		if (waitpid(self->pid, &status, WNOHANG) != 0)
			goto ended;
		usleep(50000);
	}
	fail(sh, "the process does not end");
	kill(self->pid, SIGKILL);
	ASSERT_EQ(self->pid, waitpid(self->pid, &status, 0));
ended:
	EXPECT_STREQ("", sh->failed);
	EXPECT_EQ(0, status);
	for (unsigned int i = 0; i < NR_WORKERS; i++) {
		note("%s: %lu transfers, none for %u ms at most",
		     engine_name[engines[i]], sh->ops[i], stall[i]);
		EXPECT_LT(0, sh->ops[i]);
	}
	note("%lu pages of the hog, %lu pages written to swap, refused %lu",
	     sh->hogged, vmstat("pswpout") - out, vmstat("nopin_refuse") - refuse);
	/* Was there any pressure? */
	EXPECT_LT(PAGES_OUT, vmstat("pswpout") - out);
	if (nopin()) {
		EXPECT_LT(bios, vmstat("nopin_bio"));
		/* Reclaim has met pages that were busy */
		EXPECT_LT(refuse, vmstat("nopin_refuse"));
		if (variant->other)
			EXPECT_EQ(wait, vmstat("nopin_wait"));
	}

	/* All that was written, read back on another way */
	disk = malloc(DISK);
	ASSERT_EQ(0, target_read(&self->t, disk, DISK, 0));
	for (unsigned int i = 0; i < NR_WORKERS; i++) {
		for (unsigned int b = 0; b < NR_BLOCKS; b++) {
			EXPECT_EQ(-1, pat_check(disk + block_pos(i, b), BLOCK,
						sh->seed[i][b], 0))
				TH_LOG("worker %u: block %u on the disk", i, b);
		}
	}
	free(disk);
}

TEST_HARNESS_MAIN
