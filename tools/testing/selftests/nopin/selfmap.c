// SPDX-License-Identifier: GPL-2.0
/*
 * Direct I/O of a file whose buffer is a mapping of the same file. The file system
 * flushes or unmaps the very pages that the I/O uses, so they must not be entered
 * yet when it does (R2). A kernel that gets this wrong does not return.
 */
#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN	MB
#define CHUNK	(64 * KB)
#define NR	(LEN / CHUNK)

FIXTURE(selfmap) {
	struct target t;
	struct ioq q;
	char *map;
};

FIXTURE_VARIANT(selfmap) {
	const char *env;
	enum engine eng;
};

FIXTURE_VARIANT_ADD(selfmap, ext4_psync) { .env = "NOPIN_EXT4", .eng = ENG_PSYNC };
FIXTURE_VARIANT_ADD(selfmap, ext4_aio) { .env = "NOPIN_EXT4", .eng = ENG_AIO };
FIXTURE_VARIANT_ADD(selfmap, ext4_uring) { .env = "NOPIN_EXT4", .eng = ENG_URING };
FIXTURE_VARIANT_ADD(selfmap, xfs_psync) { .env = "NOPIN_XFS", .eng = ENG_PSYNC };
FIXTURE_VARIANT_ADD(selfmap, xfs_aio) { .env = "NOPIN_XFS", .eng = ENG_AIO };
FIXTURE_VARIANT_ADD(selfmap, xfs_uring) { .env = "NOPIN_XFS", .eng = ENG_URING };
FIXTURE_VARIANT_ADD(selfmap, fat_psync) { .env = "NOPIN_FAT", .eng = ENG_PSYNC };
FIXTURE_VARIANT_ADD(selfmap, jfs_aio) { .env = "NOPIN_JFS", .eng = ENG_AIO };

FIXTURE_SETUP(selfmap)
{
	NEED(variant->env);
	ASSERT_EQ(0, target_open(&self->t, variant->env, LEN));
	ASSERT_EQ(0, ioq_init(&self->q, variant->eng, 2 * NR));
	self->map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED,
			 self->t.bfd, 0);
	ASSERT_NE(MAP_FAILED, self->map);
}

FIXTURE_TEARDOWN(selfmap)
{
}

/* What the mapping is when the I/O comes */
enum state { ST_ABSENT, ST_CLEAN, ST_DIRTY, NR_STATES };

static const char *const state_name[] = { "absent", "clean", "dirty" };

static int prepare(struct target *t, char *map, enum state state, uint64_t seed)
{
	int ret;

	if (state == ST_DIRTY) {
		pat_fill(map, LEN, seed, 0);
		return 0;
	}
	madvise(map, LEN, MADV_DONTNEED);
	ret = target_fill(t, LEN, seed, 0);
	if (!ret && state == ST_CLEAN)
		for (size_t i = 0; i < LEN; i += PAGE)
			(void)*(volatile char *)(map + i);
	return ret;
}

/*
 * A direct write that cannot invalidate the page cache, as somebody dirties it
 * again, is reported by the next fsync(): that is as it should be.
 */
static int flush(int fd)
{
	if (fsync(fd) && errno != EIO)
		return -errno;
	return 0;
}

/* The file's contents by mapping and on the medium: @half is there twice if set */
static const char *check(struct target *t, const char *map, uint64_t seed,
			 bool half)
{
	char *copy = aligned_alloc(PAGE, LEN);
	size_t len = half ? LEN / 2 : LEN;
	const char *err = NULL;

	if (pat_check(map, len, seed, 0) >= 0 ||
	    (half && pat_check(map + len, len, seed, 0) >= 0))
		err = "mapping";
	else if (flush(t->bfd) || pread(t->fd, copy, LEN, 0) != (ssize_t)LEN)
		err = "cannot read the file";
	else if (pat_check(copy, len, seed, 0) >= 0 ||
		 (half && pat_check(copy + len, len, seed, 0) >= 0))
		err = "file";
	free(copy);
	return err;
}

static void run(struct __test_metadata *_metadata, struct target *t,
		struct ioq *q, char *map, bool write, bool shifted)
{
	size_t len = shifted ? LEN / 2 : LEN;
	/* Shifted: from the first half of the file to its second, either way */
	char *buf = shifted && !write ? map + len : map;
	off_t pos = shifted && write ? len : 0;

	for (int s = 0; s < NR_STATES; s++) {
		const char *err;

		ASSERT_EQ(0, prepare(t, map, s, s + 1));
		ASSERT_EQ(len, ioq_rw(q, t->fd, write, buf, len, pos))
			TH_LOG("%s", state_name[s]);
		err = check(t, map, s + 1, shifted);
		ASSERT_EQ(NULL, err)
			TH_LOG("%s: %s", state_name[s], err);
	}
}

TEST_F_TIMEOUT(selfmap, read_same, 60)
{
	run(_metadata, &self->t, &self->q, self->map, false, false);
}

TEST_F_TIMEOUT(selfmap, write_same, 60)
{
	run(_metadata, &self->t, &self->q, self->map, true, false);
}

TEST_F_TIMEOUT(selfmap, read_shifted, 60)
{
	run(_metadata, &self->t, &self->q, self->map, false, true);
}

TEST_F_TIMEOUT(selfmap, write_shifted, 60)
{
	run(_metadata, &self->t, &self->q, self->map, true, true);
}

/*
 * Many transfers of one submission: what was submitted first sits in the plug
 * while the next one flushes or unmaps its pages.
 */
TEST_F_TIMEOUT(selfmap, batch, 60)
{
	long res[2 * NR];

	if (variant->eng == ENG_PSYNC)
		return;
	for (int round = 0; round < 2 * NR_STATES; round++) {
		const char *err;

		ASSERT_EQ(0, prepare(&self->t, self->map, round % NR_STATES,
				     round + 1));
		for (unsigned int i = 0; i < NR; i++) {
			struct iovec iov = {
				.iov_base = self->map + i * CHUNK,
				.iov_len = CHUNK,
			};

			ASSERT_EQ(0, ioq_queue(&self->q, 2 * i, self->t.fd, false,
					       &iov, 1, i * CHUNK));
			/* Of another piece, and the same bytes anyway */
			iov.iov_base = self->map + (i ^ 1) * CHUNK;
			ASSERT_EQ(0, ioq_queue(&self->q, 2 * i + 1, self->t.fd,
					       true, &iov, 1, (i ^ 1) * CHUNK));
		}
		ASSERT_EQ(0, ioq_submit(&self->q));
		ASSERT_EQ(2 * NR, ioq_reap(&self->q, 2 * NR, res));
		for (unsigned int i = 0; i < 2 * NR; i++) {
			ASSERT_EQ(CHUNK, res[i])
				TH_LOG("%s", i % 2 ? "write" : "read");
		}
		err = check(&self->t, self->map, round + 1, false);
		ASSERT_EQ(NULL, err)
			TH_LOG("%s: %s", state_name[round % NR_STATES], err);
	}
}

/* The same while others dirty and flush the file, never changing a byte of it */

struct worker {
	struct target *t;
	char *map;
	int role;
	atomic_bool *stop;
	unsigned long ops;
	long failed;
};

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	uint32_t r = w->role + 1;

	while (!atomic_load(w->stop) && !w->failed) {
		size_t off = rnd(&r) % NR * CHUNK;
		ssize_t n = CHUNK;
		char byte;

		switch (w->role) {
		case 0:
			n = pread(w->t->fd, w->map + off, CHUNK, off);
			break;
		case 1:
			n = pwrite(w->t->fd, w->map + off, CHUNK, off);
			break;
		case 2:
			for (size_t i = 0; i < CHUNK; i += PAGE) {
				byte = *(volatile char *)(w->map + off + i);
				*(volatile char *)(w->map + off + i) = byte;
			}
			usleep(200);
			break;
		case 3:
			if (flush(w->t->bfd))
				n = -1;
			break;
		}
		if (n != (ssize_t)CHUNK)
			w->failed = n < 0 ? -errno : n;
		w->ops++;
	}
	return NULL;
}

TEST_F_TIMEOUT(selfmap, with_sync, 90)
{
	struct worker w[4];
	pthread_t th[4];
	atomic_bool stop = false;
	const char *err;

	if (variant->eng != ENG_PSYNC)
		return;
	ASSERT_EQ(0, prepare(&self->t, self->map, ST_DIRTY, 5));
	for (int i = 0; i < 4; i++) {
		w[i] = (struct worker) { .t = &self->t, .map = self->map,
					 .role = i, .stop = &stop };
		/*
		 * A byte read and written back may be older than what a read
		 * brings: the same, as long as nobody writes other contents
		 */
		ASSERT_EQ(0, pthread_create(&th[i], NULL, worker_thread, &w[i]));
	}
	usleep(1000 * test_ms(1500));
	atomic_store(&stop, true);
	for (int i = 0; i < 4; i++) {
		ASSERT_EQ(0, pthread_join(th[i], NULL));
		EXPECT_EQ(0, w[i].failed) TH_LOG("role %d", i);
		EXPECT_LT(0, w[i].ops);
	}
	note("%lu reads, %lu writes, %lu syncs", w[0].ops, w[1].ops, w[3].ops);
	err = check(&self->t, self->map, 5, false);
	EXPECT_EQ(NULL, err) TH_LOG("%s", err);
}

TEST_HARNESS_MAIN
