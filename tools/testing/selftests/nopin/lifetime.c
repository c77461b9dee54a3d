// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that goes away, moves or changes while a device works on it. Guards the
 * invariant of the protocol: a page that is entered stays where it is until the
 * I/O is done, or has a pin. So: whoever wants the pages not to change any more
 * waits, or takes pins if it takes too long (R1, R5); whoever unmaps anonymous
 * memory gains nothing by a wait and takes the pins at once; and neighbours of a
 * buffer neither wait nor take pins. Pages that are free belong to nobody's I/O.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define NR_IO		32
/* Of a buffer: a huge page, or small ones that are not too many to fault in */
#define HUGE_LEN	(2 * MB)
#define SMALL_LEN	(256 * KB)
#define MAX_IO_LEN	(HUGE_LEN / NR_IO)
/* To let somebody get into a wait, or I/O that is let go end */
#define SOON_MS		50
#define HOLD_MS		500

struct life {
	struct gate gate;
	struct ioq q;
	struct mem buf;
	struct grab grab;
	char *addr;		/* where the buffer is now */
	size_t len, io_len;	/* of the buffer and of each transfer */
	long res[NR_IO];
	unsigned int done;
	unsigned long wait, pinned;
	bool late;		/* the I/O takes longer than anybody waits */
	bool other;		/* the I/O is not prompt: nobody waits for it */
	uint64_t seed;
};

/* For buffers of @kind */
static void life_len(struct life *l, enum mem_kind kind)
{
	l->len = mem_of_huge(kind) ? HUGE_LEN : SMALL_LEN;
	l->io_len = l->len / NR_IO;
}

static int life_open(struct life *l, const char *env, enum engine eng,
		     enum mem_kind kind, enum mem_kind grab_kind)
{
	int ret = wait_ms_set(LONG_WAIT_MS);

	ret = ret ?: gate_init(&l->gate, env);
	life_len(l, kind);

	/* The other process must not share the buffer's pages: fork it first */
	ret = ret ?: grab_init(&l->grab, grab_kind, 2 * l->len);
	ret = ret ?: mem_get(&l->buf, kind, l->len);
	ret = ret ?: ioq_init(&l->q, eng, NR_IO);
	if (!ret && eng == ENG_URING_FIXED)
		ret = ring_buffer(&l->q.ring, l->buf.p, l->len);
	l->addr = l->buf.p;
	return ret;
}

static void life_close(struct life *l)
{
	gate_open(&l->gate);
	ioq_exit(&l->q);
	gate_exit(&l->gate);
	mem_put(&l->buf);
	grab_exit(&l->grab);
	wait_ms_set(DEFAULT_WAIT_MS);
}

/* There are gaps between them on the disk */
static off_t life_pos(struct life *l, int i)
{
	return i * (l->io_len + PAGE);
}

/* The buffer as it is before the read, or where a write takes it from */
static void life_fill(struct life *l, uint64_t seed)
{
	for (int i = 0; i < NR_IO; i++)
		pat_fill(l->addr + i * l->io_len, l->io_len, seed, life_pos(l, i));
}

/* Does @p hold what a read of @seed brings? -1, or the offset of a wrong byte */
static ssize_t life_check(struct life *l, const char *p, uint64_t seed)
{
	for (int i = 0; i < NR_IO; i++) {
		ssize_t bad = pat_check(p + i * l->io_len, l->io_len, seed,
					life_pos(l, i));

		if (bad >= 0)
			return bad + i * l->io_len;
	}
	return -1;
}

/* The same for the disk after a write */
static ssize_t life_check_disk(struct life *l)
{
	size_t size = life_pos(l, NR_IO);
	char *copy = malloc(size);
	ssize_t bad = -2;

	if (copy && !target_read(&l->gate.t, copy, size, 0)) {
		for (int i = 0; i < NR_IO; i++)
			memmove(copy + i * l->io_len, copy + life_pos(l, i), l->io_len);
		bad = life_check(l, copy, l->seed);
	}
	free(copy);
	return bad;
}

/* NR_IO transfers between the buffer and the disk, all in flight until ... */
static int life_start(struct life *l, bool write, enum gate_until until,
		      unsigned int ms)
{
	int ret = 0;

	/* What earlier tests left on the disk must not pass */
	l->seed = now_ms();
	if (!write)
		ret = target_fill(&l->gate.t, life_pos(l, NR_IO), l->seed, 0);
	life_fill(l, write ? l->seed : ~l->seed);
	memset(l->res, 0, sizeof(l->res));
	l->done = 0;
	l->wait = vmstat("nopin_wait");
	l->pinned = vmstat("nopin_pinned");
	ret = ret ?: gate_shut(&l->gate, until, ms);
	for (unsigned int i = 0; i < NR_IO && !ret; i++)
		ret = ioq_start(&l->q, i, l->gate.t.fd, write,
				l->addr + i * l->io_len, l->io_len, life_pos(l, i));
	return ret ?: gate_held(&l->gate, NR_IO);
}

/* How many have ended so far */
static int life_done(struct life *l)
{
	int ret = ioq_reap(&l->q, 0, l->res);

	if (ret < 0)
		return ret;
	l->done += ret;
	return l->done;
}

static int life_finish(struct life *l)
{
	int ret = gate_open(&l->gate) ?: ioq_reap(&l->q, NR_IO - l->done, l->res);

	if (ret < 0)
		return ret;
	for (int i = 0; i < NR_IO; i++)
		if (l->res[i] != (long)l->io_len) {
			note("transfer %d: %ld", i, l->res[i]);
			return -EIO;
		}
	return 0;
}

/*
 * What is done to the buffer, and what is to be found at the address afterwards
 */
enum after { HAS_DATA, HAS_ZEROS, HAS_GRAB, IS_GONE };

struct action {
	int (*run)(struct life *l);
	enum after after;
	bool protects;		/* from then on nobody may write to the memory */
};

static int act_munmap(struct life *l)
{
	return munmap(l->addr, l->len);
}

static int act_mmap_over(struct life *l)
{
	if (mmap(l->addr, l->len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -1;
	memset(l->addr, GRAB_BYTE, l->len);
	return 0;
}

static int act_mremap(struct life *l)
{
	char *space = mmap(NULL, l->len + 2 * MB, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *to = (char *)ALIGN_UP((unsigned long)space, 2 * MB);

	if (space == MAP_FAILED ||
	    mremap(l->addr, l->len, l->len, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		return -1;
	l->addr = to;
	return 0;
}

static int act_protect_read(struct life *l)
{
	return mprotect(l->addr, l->len, PROT_READ);
}

static int act_protect_none(struct life *l)
{
	return mprotect(l->addr, l->len, PROT_NONE);
}

static int act_dontneed(struct life *l)
{
	return madvise(l->addr, l->len, MADV_DONTNEED);
}

FIXTURE(life) {
	struct life l;
	bool ready;
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
FIXTURE_VARIANT_ADD(life, aio_fat) {
	.eng = ENG_AIO, .kind = MEM_ANON, .fat = true };
FIXTURE_VARIANT_ADD(life, aio_late) {
	.eng = ENG_AIO, .kind = MEM_ANON, .late = true };
FIXTURE_VARIANT_ADD(life, fixed_late) {
	.eng = ENG_URING_FIXED, .kind = MEM_THP, .late = true };

FIXTURE_SETUP(life)
{
	const char *env = variant->fat ? "NOPIN_HELD_FAT" : "NOPIN_HELD";

	NEED(env);
	pin_to_cpu(0);
	ASSERT_EQ(0, life_open(&self->l, env, variant->eng, variant->kind,
			       variant->kind));
	self->ready = true;
	self->l.late = variant->late;
	self->l.other = variant->fat;
	if (self->l.late)
		ASSERT_EQ(0, wait_ms_set(20));
}

FIXTURE_TEARDOWN(life)
{
	if (self->ready)
		life_close(&self->l);
}

/* Those who gain nothing by a wait have taken pins at once, for all of the buffer */
static void life_pinned_at_once(struct __test_metadata *_metadata, struct life *l,
				unsigned int took)
{
	if (mode_get() == MODE_NOPIN)
		EXPECT_EQ(l->pinned + l->len / PAGE, vmstat("nopin_pinned"));
	EXPECT_EQ(l->wait, vmstat("nopin_wait"));
	EXPECT_GT(NO_WAIT_MS, took);
}

static void life_run(struct __test_metadata *_metadata, struct life *l,
		     const struct action *a, bool write)
{
	bool waits = mode_get() == MODE_NOPIN && a->protects && !write && !l->other;
	uint64_t start, took;

	ASSERT_EQ(0, life_start(l, write, waits && !l->late ? GATE_WAIT : GATE_ASKED,
				SOON_MS));
	start = now_ms();
	ASSERT_EQ(0, a->run(l)) TH_LOG("%s", strerror(errno));
	took = now_ms() - start;

	/* Whatever was freed is used at once by somebody else */
	ASSERT_EQ(0, grab_fill(&l->grab));
	ASSERT_LE(0, life_done(l));
	note("%s: took %u ms, %u of %u transfers done after it",
	     write ? "write" : "read", (unsigned int)took, l->done, NR_IO);
	if (!waits) {
		life_pinned_at_once(_metadata, l, took);
		EXPECT_EQ(0, l->done);
	} else {
		EXPECT_GT(vmstat("nopin_wait"), l->wait);
		EXPECT_EQ(l->pinned + (l->late ? l->len / PAGE : 0),
			  vmstat("nopin_pinned"));
		EXPECT_EQ(l->late ? 0 : NR_IO, l->done);
	}
	ASSERT_EQ(0, life_finish(l));

	EXPECT_EQ(-1, grab_check(&l->grab));
	if (write) {
		EXPECT_EQ(-1, life_check_disk(l));
	}
	switch (a->after) {
	case HAS_DATA:
		mprotect(l->addr, l->len, PROT_READ);
		EXPECT_EQ(-1, life_check(l, l->addr, l->seed));
		break;
	case HAS_ZEROS:
		EXPECT_EQ(-1, byte_check(l->addr, l->len, 0));
		break;
	case HAS_GRAB:
		EXPECT_EQ(-1, byte_check(l->addr, l->len, GRAB_BYTE));
		break;
	case IS_GONE:
		break;
	}
}

#define LIFE_TEST(name, ...)						\
	static const struct action action_##name = {			\
		.run = act_##name, __VA_ARGS__ };			\
	TEST_F_TIMEOUT(life, name##_read, 60)				\
	{								\
		life_run(_metadata, &self->l, &action_##name, false);	\
	}								\
	TEST_F_TIMEOUT(life, name##_write, 60)				\
	{								\
		life_run(_metadata, &self->l, &action_##name, true);	\
	}

LIFE_TEST(munmap, .after = IS_GONE)
LIFE_TEST(mmap_over, .after = HAS_GRAB)
LIFE_TEST(mremap, .after = HAS_DATA)
LIFE_TEST(protect_read, .after = HAS_DATA, .protects = true)
LIFE_TEST(protect_none, .after = HAS_DATA, .protects = true)
LIFE_TEST(dontneed, .after = HAS_ZEROS)

/*
 * Is @copy what a child may see of one transfer: how it was before, or after? A
 * fork copies the pages while the device writes them, so each byte is one or the
 * other.
 */
static bool fork_either(struct life *l, const char *copy, int i)
{
	static char old[MAX_IO_LEN], new[MAX_IO_LEN];

	pat_fill(old, l->io_len, ~l->seed, life_pos(l, i));
	pat_fill(new, l->io_len, l->seed, life_pos(l, i));
	for (size_t b = 0; b < l->io_len; b++)
		if (copy[b] != old[b] && copy[b] != new[b])
			return false;
	return true;
}

/* The parent gets all of its data; what arrives later is not seen by a child */
TEST_F_TIMEOUT(life, fork_read, 60)
{
	struct life *l = &self->l;
	enum { CHILDREN = 4 };
	uint64_t start, took = 0;
	int status, over[2];
	pid_t pids[CHILDREN];

	ASSERT_EQ(0, pipe(over));
	ASSERT_EQ(0, life_start(l, false, GATE_ASKED, 0));
	for (int c = 0; c < CHILDREN; c++) {
		start = now_ms();
		pids[c] = fork();
		ASSERT_LE(0, pids[c]);
		if (!pids[c]) {
			char *copy = malloc(l->len);

			close(over[1]);
			memcpy(copy, l->addr, l->len);
			for (int i = 0; i < NR_IO; i++)
				if (!fork_either(l, copy + i * l->io_len, i))
					_exit(1);
			if (read(over[0], copy, 1))
				_exit(3);
			_exit(memcmp(copy, l->addr, l->len) ? 2 : 0);
		}
		if (now_ms() - start > took)
			took = now_ms() - start;
		/* Then some of the data arrives, and some more */
		if (c)
			ASSERT_EQ(0, gate_open(&l->gate));
		usleep(30000);
	}
	ASSERT_EQ(0, life_finish(l));
	close(over[1]);
	EXPECT_EQ(-1, life_check(l, l->addr, l->seed));
	for (int c = 0; c < CHILDREN; c++) {
		ASSERT_EQ(pids[c], waitpid(pids[c], &status, 0));
		EXPECT_EQ(0, status);
	}
	life_pinned_at_once(_metadata, l, took);
}

/*
 * Writes go on while a child is born. Then both sides change their memory, each
 * in turn the one that gets the copy: the disk has the data of before.
 */
TEST_F_TIMEOUT(life, fork_write, 60)
{
	struct life *l = &self->l;
	/* Huge pages of hugetlbfs come and go as a whole */
	size_t half = variant->kind == MEM_HUGETLB ? 0 : l->len / 2;
	int status, step[2];
	uint64_t start, took;
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(step));
	ASSERT_EQ(0, life_start(l, true, GATE_ASKED, 0));
	start = now_ms();
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		for (size_t i = 0; i < half; i += PAGE)
			l->addr[i + 1] ^= 0xff;
		/* The parent gives up its pages of the rest */
		if (read(step[0], &c, 1) != 1)
			_exit(1);
		memset(l->addr, GRAB_BYTE, l->len);
		_exit(byte_check(l->addr, l->len, GRAB_BYTE) >= 0);
	}
	/*
	 * The device only reads the pages: fork() leaves them as they are. But
	 * hugetlbfs does not say that it only write-protects them.
	 */
	if (variant->kind != MEM_HUGETLB)
		EXPECT_EQ(l->pinned, vmstat("nopin_pinned"));
	ASSERT_EQ(0, madvise(l->addr + half, l->len - half, MADV_DONTNEED));
	took = now_ms() - start;
	EXPECT_EQ(0, life_done(l));
	EXPECT_EQ(l->wait, vmstat("nopin_wait"));
	if (mode_get() == MODE_NOPIN)
		EXPECT_LE(l->pinned + (l->len - half) / PAGE, vmstat("nopin_pinned"));
	EXPECT_GT(NO_WAIT_MS, took);
	ASSERT_EQ(1, write(step[1], "", 1));
	ASSERT_EQ(0, grab_fill(&l->grab));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	ASSERT_EQ(0, life_finish(l));
	EXPECT_EQ(-1, life_check_disk(l));
	EXPECT_EQ(-1, grab_check(&l->grab));
}

/*
 * Processes that end, or become another program, with I/O in flight. They use a
 * ring of their parent's where there is one, which stays when they are gone.
 */

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

FIXTURE(end) {
	struct life l;
	bool ready;
};

FIXTURE_VARIANT(end) {
	enum engine eng;
	enum mem_kind kind;
	bool write;
};

FIXTURE_VARIANT_ADD(end, aio_read) {
	.eng = ENG_AIO, .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(end, aio_write) {
	.eng = ENG_AIO, .kind = MEM_THP, .write = true };
FIXTURE_VARIANT_ADD(end, uring_read) {
	.eng = ENG_URING, .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(end, uring_write) {
	.eng = ENG_URING, .kind = MEM_ANON, .write = true };
FIXTURE_VARIANT_ADD(end, uring_read_thp) {
	.eng = ENG_URING, .kind = MEM_THP };

FIXTURE_SETUP(end)
{
	NEED("NOPIN_HELD");
	pin_to_cpu(0);
	ASSERT_EQ(0, gate_init(&self->l.gate, "NOPIN_HELD"));
	life_len(&self->l, variant->kind);
	ASSERT_EQ(0, grab_init(&self->l.grab, variant->kind, 2 * self->l.len));
	if (variant->eng == ENG_URING)
		ASSERT_EQ(0, ioq_init(&self->l.q, variant->eng, NR_IO));
	self->ready = true;
}

FIXTURE_TEARDOWN(end)
{
	if (!self->ready)
		return;
	gate_exit(&self->l.gate);
	grab_exit(&self->l.grab);
}

static void end_child(struct life *l, enum engine eng, enum mem_kind kind,
		      bool wr, enum end end, int fd)
{
	char *argv[] = { "lifetime", "--hold", NULL };

	/* A context of the parent's is of no use here */
	if (mem_get(&l->buf, kind, l->len) ||
	    (eng != ENG_URING && ioq_init(&l->q, eng, NR_IO)))
		_exit(2);
	l->addr = l->buf.p;
	if (life_start(l, wr, GATE_ASKED, 0) ||
	    write(fd, &l->seed, sizeof(l->seed)) < 0)
		_exit(3);
	if (end == END_EXEC)
		execv("/proc/self/exe", argv);
	if (end == END_KILL)
		pause();
	_exit(0);
}

static void end_run(struct __test_metadata *_metadata, struct life *l,
		    enum engine eng, enum mem_kind kind, bool write, enum end end)
{
	int ready[2], status;
	pid_t pid;

	ASSERT_EQ(0, pipe2(ready, O_CLOEXEC));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		end_child(l, eng, kind, write, end, ready[1]);
	close(ready[1]);
	ASSERT_EQ(sizeof(l->seed), read(ready[0], &l->seed, sizeof(l->seed)))
		TH_LOG("the child failed");
	if (end == END_KILL)
		ASSERT_EQ(0, kill(pid, SIGKILL));
	/* While it is about to end, or has ended */
	usleep(1000 * SOON_MS);
	ASSERT_EQ(0, grab_fill(&l->grab));
	ASSERT_EQ(0, gate_idle(&l->gate));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(end == END_KILL ? SIGKILL : 0, status);
	EXPECT_EQ(-1, grab_check(&l->grab));
	if (write) {
		EXPECT_EQ(-1, life_check_disk(l));
	}
}

TEST_F_TIMEOUT(end, exit, 60)
{
	end_run(_metadata, &self->l, variant->eng, variant->kind,
		variant->write, END_EXIT);
}

TEST_F_TIMEOUT(end, sigkill, 60)
{
	end_run(_metadata, &self->l, variant->eng, variant->kind,
		variant->write, END_KILL);
}

TEST_F_TIMEOUT(end, exec, 60)
{
	end_run(_metadata, &self->l, variant->eng, variant->kind,
		variant->write, END_EXEC);
}

/* R15: a ring used by a child works on the child's memory */
TEST(ring_of_parent)
{
	enum { SEED = 12 };
	struct target t;
	struct ioq q;
	struct mem m;
	int status;
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
	ASSERT_LE(0, pid);
	if (!pid) {
		if (ioq_rw(&q, t.fd, false, m.p, m.len, 0) != (long)m.len)
			_exit(1);
		_exit(pat_check(m.p, m.len, SEED, 0) >= 0 ? 2 : 0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(-1, byte_check(m.p, m.len, GRAB_BYTE));
	mem_put(&m);
	ioq_exit(&q);
	target_close(&t);
}

/* A thread in a synchronous read whose buffer another thread unmaps */

struct reader {
	struct life *l;
	bool write;
	pid_t tid;
	long ret;
};

static void *reader_thread(void *arg)
{
	struct reader *r = arg;
	int fd = r->l->gate.t.fd;

	__atomic_store_n(&r->tid, gettid(), __ATOMIC_RELEASE);
	if (r->write)
		r->ret = pwrite(fd, r->l->addr, r->l->len, 0);
	else
		r->ret = pread(fd, r->l->addr, r->l->len, 0);
	return NULL;
}

static void sync_run(struct __test_metadata *_metadata, struct life *l,
		     bool write)
{
	struct reader r = { .l = l, .write = write };
	uint64_t start, took;
	pthread_t th;

	l->seed = now_ms();
	if (!write)
		ASSERT_EQ(0, target_fill(&l->gate.t, l->len, l->seed, 0));
	pat_fill(l->addr, l->len, l->seed, 0);
	l->wait = vmstat("nopin_wait");
	l->pinned = vmstat("nopin_pinned");
	ASSERT_EQ(0, gate_shut(&l->gate, GATE_ASKED, 0));
	ASSERT_EQ(0, pthread_create(&th, NULL, reader_thread, &r));
	ASSERT_EQ(0, gate_held(&l->gate, 1));
	/* It has submitted all of it when it waits */
	while (!task_blocked(__atomic_load_n(&r.tid, __ATOMIC_ACQUIRE)))
		usleep(1000);
	start = now_ms();
	ASSERT_EQ(0, munmap(l->addr, l->len));
	took = now_ms() - start;
	ASSERT_EQ(0, grab_fill(&l->grab));
	life_pinned_at_once(_metadata, l, took);
	ASSERT_EQ(0, gate_open(&l->gate));
	ASSERT_EQ(0, pthread_join(th, NULL));
	/* The transfer had begun, so it is one of the whole */
	EXPECT_EQ(l->len, r.ret);
	EXPECT_EQ(-1, grab_check(&l->grab));
	if (write)
		EXPECT_EQ(-1, target_check(&l->gate.t, l->len, l->seed, 0));
}

TEST_F_TIMEOUT(life, other_thread_read, 60)
{
	sync_run(_metadata, &self->l, false);
}

TEST_F_TIMEOUT(life, other_thread_write, 60)
{
	sync_run(_metadata, &self->l, true);
}

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

	NEED("NOPIN_HELD");
	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, life_open(&l, "NOPIN_HELD", ENG_AIO, MEM_ANON, MEM_ANON));
	ASSERT_EQ(0, target_fill(&t, l.len, SEED, 0));
	ASSERT_EQ(0, life_start(&l, false, GATE_ASKED, 0));
	ASSERT_EQ(0, act_dontneed(&l));

	busy = fallback("busy");
	race = fallback("race");
	ASSERT_EQ(l.len, pread(t.fd, l.addr, l.len, 0));
	busy = fallback("busy") - busy;
	race = fallback("race") - race;
	ASSERT_EQ(0, life_done(&l));
	if (mode_get() == MODE_NOPIN) {
		EXPECT_LT(0, busy);
		EXPECT_EQ(0, race);
	}
	ASSERT_EQ(0, life_finish(&l));
	EXPECT_EQ(-1, pat_check(l.addr, l.len, SEED, 0));

	/* Before long these pages are like others */
	end = now_ms() + 5000;
	do {
		busy = fallback("busy");
		ASSERT_EQ(l.len, pread(t.fd, l.addr, l.len, 0));
		busy = fallback("busy") - busy;
	} while (busy && now_ms() < end);
	EXPECT_EQ(0, busy);
	life_close(&l);
	target_close(&t);
}

/*
 * Pages between those of a buffer are free to change: the state is kept for each
 * page, and nobody waits for the neighbours', or has them pinned. In a huge page as
 * well: if it is mapped by a PMD that has to be split, all of it stays where it is.
 */

FIXTURE(neighbours) {
	struct gate g;
	struct ioq q;
	struct mem m;
	bool ready;
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
FIXTURE_VARIANT_ADD(neighbours, thp_pte_write) {
	.kind = MEM_THP_PTE, .write = true };

#define NR_CHANGES	7
#define NR_NEIGHBOURS	(4 * NR_CHANGES)

FIXTURE_SETUP(neighbours)
{
	NEED("NOPIN_HELD");
	/* A wait shows, and does not take all the time that the test has */
	ASSERT_EQ(0, wait_ms_set(2 * NO_WAIT_MS));
	ASSERT_EQ(0, gate_init(&self->g, "NOPIN_HELD"));
	ASSERT_EQ(0, mem_get(&self->m, variant->kind,
			     mem_of_huge(variant->kind) ? HUGE_LEN :
						2 * NR_NEIGHBOURS * PAGE));
	ASSERT_EQ(0, ioq_init(&self->q, ENG_AIO, NR_NEIGHBOURS));
	self->ready = true;
}

FIXTURE_TEARDOWN(neighbours)
{
	if (!self->ready)
		return;
	ioq_exit(&self->q);
	gate_exit(&self->g);
	mem_put(&self->m);
	wait_ms_set(DEFAULT_WAIT_MS);
}

/* Change a page in one of several ways; 0 or -1 */
static int neighbour_change(char *p, unsigned int how)
{
	char *to;

	switch (how) {
	case 0:
		return madvise(p, PAGE, MADV_DONTNEED);
	case 1:
		return mprotect(p, PAGE, PROT_READ);
	case 2:
		return madvise(p, PAGE, MADV_FREE);
	case 3:
		return madvise(p, PAGE, MADV_COLD);
	case 4:
		return mlock(p, PAGE);
	case 5:
		to = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		return mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to ?
			0 : -1;
	default:
		return munmap(p, PAGE);
	}
}

/* The first change is what splits a PMD: let each be the first in turn */
static void neighbours_run(struct __test_metadata *_metadata, struct gate *g,
			   struct ioq *q, char *p, bool wr, unsigned int first)
{
	enum { SEED = 11 };
	unsigned long wait, pinned;
	uint64_t start;

	ASSERT_EQ(0, target_fill(&g->t, 2 * NR_NEIGHBOURS * PAGE, wr ? ~SEED : SEED, 0));
	pat_fill(p, 2 * NR_NEIGHBOURS * PAGE, wr ? SEED : ~SEED, 0);
	wait = vmstat("nopin_wait");
	pinned = vmstat("nopin_pinned");
	ASSERT_EQ(0, gate_shut(g, GATE_ASKED, 0));
	for (int i = 0; i < NR_NEIGHBOURS; i++)
		ASSERT_EQ(0, ioq_start(q, i, g->t.fd, wr, p + 2 * i * PAGE, PAGE,
				       2 * i * PAGE));
	start = now_ms();
	for (int i = 0; i < NR_NEIGHBOURS; i++)
		ASSERT_EQ(0, neighbour_change(p + (2 * i + 1) * PAGE,
					      (i + first) % NR_CHANGES))
			TH_LOG("%s", strerror(errno));
	EXPECT_GT(NO_WAIT_MS, now_ms() - start);
	EXPECT_EQ(0, ioq_reap(q, 0, NULL));
	EXPECT_EQ(wait, vmstat("nopin_wait"));
	EXPECT_EQ(pinned, vmstat("nopin_pinned"));
	ASSERT_EQ(0, gate_open(g));
	ASSERT_EQ(NR_NEIGHBOURS, ioq_reap(q, NR_NEIGHBOURS, NULL));
	for (int i = 0; i < NR_NEIGHBOURS; i++) {
		EXPECT_EQ(-1, pat_check(p + 2 * i * PAGE, PAGE, SEED, 2 * i * PAGE));
		if (wr)
			EXPECT_EQ(-1, target_check(&g->t, PAGE, SEED, 2 * i * PAGE));
	}
}

TEST_F_TIMEOUT(neighbours, change, 120)
{
	for (unsigned int first = 0; first < NR_CHANGES; first++) {
		neighbours_run(_metadata, &self->g, &self->q, self->m.p,
			       variant->write, first);
		mem_put(&self->m);
		ASSERT_EQ(0, mem_get(&self->m, variant->kind, self->m.len));
	}
}

/* A file whose mapping is the buffer loses the pages */

FIXTURE(file) {
	struct life l;
	bool ready;
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
	pin_to_cpu(0);
	ASSERT_EQ(0, life_open(&self->l, "NOPIN_HELD", ENG_AIO, variant->kind,
			       MEM_ANON));
	self->ready = true;
}

FIXTURE_TEARDOWN(file)
{
	if (self->ready)
		life_close(&self->l);
}

static int act_truncate(struct life *l)
{
	return ftruncate(l->buf.fd, 0) ?: ftruncate(l->buf.fd, l->len);
}

static int act_punch(struct life *l)
{
	return fallocate(l->buf.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 0, l->len);
}

static int act_remove(struct life *l)
{
	return madvise(l->addr, l->len, MADV_REMOVE);
}

/*
 * The free pages are let alone, and the file's new pages are empty. Truncation waits
 * for what a device writes to the file's pages, so that it is in the file, or not.
 * Pages that a device only reads are pinned at once.
 */
static void file_run(struct __test_metadata *_metadata, struct life *l,
		     int (*act)(struct life *l), bool write)
{
	bool waits = mode_get() == MODE_NOPIN && !write;
	uint64_t start, took;

	ASSERT_EQ(0, life_start(l, write, waits ? GATE_WAIT : GATE_ASKED, SOON_MS));
	start = now_ms();
	ASSERT_EQ(0, act(l)) TH_LOG("%s", strerror(errno));
	took = now_ms() - start;
	ASSERT_EQ(0, grab_fill(&l->grab));
	if (waits) {
		EXPECT_GT(vmstat("nopin_wait"), l->wait);
		EXPECT_EQ(l->pinned, vmstat("nopin_pinned"));
	} else {
		life_pinned_at_once(_metadata, l, took);
	}
	ASSERT_EQ(0, life_finish(l));
	EXPECT_EQ(-1, grab_check(&l->grab));
	EXPECT_EQ(-1, byte_check(l->addr, l->len, 0));
	if (write) {
		EXPECT_EQ(-1, life_check_disk(l));
	}
}

#define FILE_TEST(name)							\
	TEST_F_TIMEOUT(file, name##_read, 60)				\
	{								\
		file_run(_metadata, &self->l, act_##name, false);	\
	}								\
	TEST_F_TIMEOUT(file, name##_write, 60)				\
	{								\
		file_run(_metadata, &self->l, act_##name, true);	\
	}

FILE_TEST(truncate)
FILE_TEST(punch)
FILE_TEST(remove)

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--hold"))
		return self_hold();
	return test_harness_run(argc, argv);
}
