// SPDX-License-Identifier: GPL-2.0
/*
 * What a device has written to memory must be as safe as what a CPU has: the page
 * is dirty until somebody has saved it (R9). Each test lets go of the memory after
 * the read and looks whether the data comes back.
 */
#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN	MB
#define SEED	61

/* Shared mappings of files: the file system writes the pages back */

FIXTURE(file) {
	struct flight f;
	struct target raw;
	struct mem m;
};

FIXTURE_VARIANT(file) {
	enum mem_kind kind;
	const char *env;
};

FIXTURE_VARIANT_ADD(file, ext4) { .kind = MEM_SHARED_EXT4, .env = "NOPIN_EXT4" };
FIXTURE_VARIANT_ADD(file, xfs) { .kind = MEM_SHARED_XFS, .env = "NOPIN_XFS" };

FIXTURE_SETUP(file)
{
	NEED("NOPIN_RAW");
	NEED("NOPIN_HELD");
	NEED(variant->env);
	ASSERT_EQ(0, flight_open(&self->f, "NOPIN_HELD"));
	ASSERT_EQ(0, target_open(&self->raw, "NOPIN_RAW", 0));
	ASSERT_EQ(0, mem_get(&self->m, variant->kind, LEN));
	flight_set(&self->f, self->m.p, 32, LEN / 32, LEN / 32);
	ASSERT_EQ(0, flight_engine(&self->f, ENG_AIO));
}

FIXTURE_TEARDOWN(file)
{
	flight_close(&self->f);
}

enum state { ST_CLEAN, ST_DIRTY, ST_ABSENT, ST_READ, NR_STATES };

static const char *const state_name[] = { "clean", "dirty", "absent", "read" };

static int set_state(struct mem *m, enum state state)
{
	memset(m->p, state, m->len);
	if (state == ST_DIRTY)
		return 0;
	/* Now write protected as well */
	if (msync(m->p, m->len, MS_SYNC))
		return -errno;
	if (state == ST_CLEAN)
		return 0;
	if (madvise(m->p, m->len, MADV_DONTNEED) ||
	    posix_fadvise(m->fd, 0, 0, POSIX_FADV_DONTNEED))
		return -errno;
	if (state == ST_READ)
		return byte_check(m->p, m->len, state) < 0 ? 0 : -EIO;
	return 0;
}

/* What the file has when all of it is taken from memory */
static ssize_t check_file(struct mem *m, uint64_t seed)
{
	if (fsync(m->fd) || madvise(m->p, m->len, MADV_DONTNEED) ||
	    posix_fadvise(m->fd, 0, 0, POSIX_FADV_DONTNEED))
		return -2;
	return pat_check(m->p, m->len, seed, 0);
}

TEST_F(file, read)
{
	for (int i = 0; i < NR_STATES; i++) {
		ASSERT_EQ(0, target_fill(&self->raw, LEN, SEED + i, 0));
		ASSERT_EQ(0, set_state(&self->m, i));
		ASSERT_EQ(LEN, ioq_rw(&self->f.q, self->raw.fd, false,
				      self->m.p, LEN, 0));
		ASSERT_EQ(-1, check_file(&self->m, SEED + i))
			TH_LOG("%s", state_name[i]);
	}
}

/*
 * The file is written back all the time while the device works on its pages: what
 * is written early must be written again.
 */
struct syncer {
	struct mem *m;
	atomic_bool stop;
	unsigned long syncs;
	int failed;
};

static void *syncer_thread(void *arg)
{
	struct syncer *s = arg;

	while (!atomic_load(&s->stop) && !s->failed) {
		int ret;

		if (s->syncs++ & 1)
			ret = fdatasync(s->m->fd);
		else
			ret = msync(s->m->p, s->m->len, MS_SYNC);
		if (ret)
			s->failed = -errno;
		usleep(1000);
	}
	return NULL;
}

TEST_F_TIMEOUT(file, sync_in_flight, 60)
{
	unsigned long wait = vmstat("nopin_wait");
	struct syncer s = { .m = &self->m };
	struct flight *f = &self->f;
	pthread_t th;

	ASSERT_EQ(0, pthread_create(&th, NULL, syncer_thread, &s));
	for (int round = 0; round < NR_STATES; round++) {
		f->seed++;
		ASSERT_EQ(0, flight_fill_disk(f));
		ASSERT_EQ(0, set_state(&self->m, round));
		/* The sync waits for them, so not all may be held at a time */
		ASSERT_EQ(0, gate_shut(&f->gate, nopin() ? GATE_WAIT : GATE_TIME, 20));
		ASSERT_EQ(0, flight_submit(f));
		ASSERT_EQ(0, flight_reap(f));
		if (round == NR_STATES - 1) {
			atomic_store(&s.stop, true);
			ASSERT_EQ(0, pthread_join(th, NULL));
		}
		ASSERT_EQ(-1, check_file(&self->m, f->seed))
			TH_LOG("%s", state_name[round]);
	}
	note("%lu syncs", s.syncs);
	EXPECT_EQ(0, s.failed);
	if (nopin())
		EXPECT_GT(vmstat("nopin_wait"), wait);
}

/*
 * Memory that swap can take. Each way below leaves PTEs that are writable but
 * clean, over pages that may be dropped as long as they are clean.
 */

FIXTURE(swap) {
	struct target t;
	struct mem m;
	struct ioq q;
};

FIXTURE_VARIANT(swap) {
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(swap, anon) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(swap, thp) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(swap, shmem) { .kind = MEM_SHMEM };

FIXTURE_SETUP(swap)
{
	NEED("NOPIN_RAW");
	NEED("NOPIN_SWAP");
	ASSERT_EQ(0, target_open(&self->t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, target_fill(&self->t, LEN, SEED, 0));
	ASSERT_EQ(0, mem_get(&self->m, variant->kind, 2 * LEN));
	ASSERT_EQ(0, ioq_init(&self->q, ENG_PSYNC, 1));
}

FIXTURE_TEARDOWN(swap)
{
}

/* Read into the first half, then have all of the memory reclaimed */
static void read_and_reclaim(struct __test_metadata *_metadata,
			     struct target *t, struct ioq *q, struct mem *m)
{
	ASSERT_EQ(LEN, ioq_rw(q, t->fd, false, m->p, LEN, 0));
	ASSERT_EQ(0, madvise(m->p, 2 * LEN, MADV_PAGEOUT));
	EXPECT_EQ(-1, pat_check(m->p, LEN, SEED, 0));
}

/* Swapped in by a read, and still there in swap */
TEST_F(swap, swapped_in)
{
	volatile char *c = self->m.p;

	pat_fill(self->m.p, 2 * LEN, ~SEED, 0);
	ASSERT_EQ(0, madvise(self->m.p, 2 * LEN, MADV_PAGEOUT));
	for (size_t i = 0; i < 2 * LEN; i += PAGE)
		(void)c[i];
	read_and_reclaim(_metadata, &self->t, &self->q, &self->m);
	EXPECT_EQ(-1, pat_check(self->m.p + LEN, LEN, ~SEED, LEN));
}

/* Brought by the I/O itself */
TEST_F(swap, swapped_out)
{
	pat_fill(self->m.p, 2 * LEN, ~SEED, 0);
	ASSERT_EQ(0, madvise(self->m.p, 2 * LEN, MADV_PAGEOUT));
	read_and_reclaim(_metadata, &self->t, &self->q, &self->m);
	EXPECT_EQ(-1, pat_check(self->m.p + LEN, LEN, ~SEED, LEN));
	/* And as the source of a write */
	ASSERT_EQ(0, madvise(self->m.p + LEN, LEN, MADV_PAGEOUT));
	ASSERT_EQ(LEN, ioq_rw(&self->q, self->t.fd, true, self->m.p + LEN, LEN, 0));
	ASSERT_EQ(LEN, ioq_rw(&self->q, self->t.fd, false, self->m.p, LEN, 0));
	EXPECT_EQ(-1, pat_check(self->m.p, LEN, ~SEED, LEN));
}

/* Given up by the process: gone unless somebody writes to it */
TEST_F(swap, lazyfree)
{
	size_t kept = 0;

	if (variant->kind == MEM_SHMEM)
		return;
	memset(self->m.p, GRAB_BYTE, 2 * LEN);
	ASSERT_EQ(0, madvise(self->m.p, 2 * LEN, MADV_FREE));
	read_and_reclaim(_metadata, &self->t, &self->q, &self->m);
	/* Nobody wrote to the other half, so this does reclaim such pages */
	for (size_t i = LEN; i < 2 * LEN; i += PAGE)
		kept += self->m.p[i] == GRAB_BYTE;
	if (variant->kind == MEM_ANON)
		EXPECT_EQ(0, kept);
}

/* Read faults of shared memory map it writable and clean */
TEST(shmem_clean)
{
	struct target t;
	struct mem m;
	struct ioq q;

	NEED("NOPIN_RAW");
	NEED("NOPIN_SWAP");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, target_fill(&t, LEN, SEED, 0));
	ASSERT_EQ(0, ioq_init(&q, ENG_PSYNC, 1));
	ASSERT_EQ(0, mem_get(&m, MEM_SHMEM, 2 * LEN));
	/* Pages that were never written to */
	ASSERT_EQ(0, madvise(m.p, 2 * LEN, MADV_REMOVE));
	ASSERT_EQ(-1, byte_check(m.p, 2 * LEN, 0));
	read_and_reclaim(_metadata, &t, &q, &m);
	EXPECT_EQ(-1, byte_check(m.p + LEN, LEN, 0));
}

TEST_HARNESS_MAIN
