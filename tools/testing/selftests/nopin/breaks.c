// SPDX-License-Identifier: GPL-2.0
/*
 * What pins break, and a program sees: reads into mapped files that are lost, pages that
 * cannot be moved, buffers that cannot be registered. moment.c has the rest: snapshots,
 * checkpoints, frozen file systems, clones.
 *
 * Without pins none of it may happen. With pins a test counts how often it does, and is
 * skipped with that number. bench/demo shows both.
 */
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#ifndef UFFDIO_MOVE
struct uffdio_move {
	uint64_t dst, src, len, mode;
	int64_t move;
};

#define UFFDIO_MOVE		_IOWR(UFFDIO, 0x05, struct uffdio_move)
#define UFFD_FEATURE_MOVE	0x10000
#endif

#define NR	16			/* reads in flight */
#define IO	(32 * KB)		/* bytes of each */
#define LEN	(NR * IO)

/* ---- reads into a mapped file whose blocks move, or go ---- */

FIXTURE(range) {
	struct flight f;
};

FIXTURE_VARIANT(range) {
	int mode;
	size_t at;		/* where, in the file; the buffer begins at LEN */
	ssize_t move;		/* how far the buffer's data moves, 0: it is gone */
};

FIXTURE_VARIANT_ADD(range, collapse) {
	.mode = FALLOC_FL_COLLAPSE_RANGE, .move = -(ssize_t)LEN,
};

FIXTURE_VARIANT_ADD(range, insert) {
	.mode = FALLOC_FL_INSERT_RANGE, .move = LEN,
};

FIXTURE_VARIANT_ADD(range, zero) {
	.mode = FALLOC_FL_ZERO_RANGE, .at = LEN,
};

FIXTURE_VARIANT_ADD(range, punch) {
	.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, .at = LEN,
};

FIXTURE_SETUP(range)
{
	NEED("NOPIN_HELD");
	NEED("NOPIN_XFS");
	ASSERT_EQ(0, flight_open(&self->f, "NOPIN_HELD"));
	ASSERT_EQ(0, wait_ms_set(LONG_WAIT_MS));
}

FIXTURE_TEARDOWN(range)
{
	wait_ms_set(DEFAULT_WAIT_MS);
	flight_close(&self->f);
}

/*
 * Is the data of a read where it should be? A read that ended before the file was
 * changed has brought it to the file, and it went the way of the rest. After a later
 * one the data has to be in the buffer.
 */
static bool range_has(struct flight *f, unsigned int i, ssize_t move, bool earlier)
{
	const char *p = f->buf + i * f->step;

	if (!earlier)
		return flight_check_one(f, i, p, true) == -1;
	if (move)
		return flight_check_one(f, i, p + move, true) == -1;
	return byte_check(p, f->len, 0) == -1;
}

TEST_F_TIMEOUT(range, reads, 120)
{
	struct flight *f = &self->f;
	int lost = 0, all = 0;

	for (int round = 0; round < 3; round++, all += NR) {
		int fd = open(getenv("NOPIN_XFS"), O_TMPFILE | O_RDWR, 0600);
		char *map;
		int done;

		ASSERT_EQ(0, ftruncate(fd, 3 * LEN));
		map = mmap(NULL, 4 * LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, map);
		memset(map, 0xff, 3 * LEN);
		flight_set(f, map + LEN, NR, IO, IO);
		if (!round)
			ASSERT_EQ(0, flight_engine(f, ENG_AIO));
		ASSERT_EQ(0, flight_prepare(f, false));
		ASSERT_EQ(0, fsync(fd));

		ASSERT_EQ(0, flight_start(f, GATE_WAIT, 0));
		EXPECT_EQ(0, fallocate(fd, variant->mode, variant->at, LEN));
		done = flight_done(f);
		ASSERT_EQ(0, flight_finish(f));
		/* Without pins all of them are, with pins none is */
		EXPECT_EQ(nopin() ? NR : 0, done);
		for (unsigned int i = 0; i < NR; i++)
			lost += !range_has(f, i, variant->move, done);
		munmap(map, 4 * LEN);
		close(fd);
	}
	END_COUNTED(lost, all, "reads are lost");
}

/* ---- pages that another address is to get ---- */

FIXTURE(move) {
	struct flight f;
	int uffd;
};

FIXTURE_SETUP(move)
{
	NEED("NOPIN_HELD");
	self->uffd = -1;
	ASSERT_EQ(0, flight_open(&self->f, "NOPIN_HELD"));
	ASSERT_EQ(0, wait_ms_set(LONG_WAIT_MS));
}

FIXTURE_TEARDOWN(move)
{
	wait_ms_set(DEFAULT_WAIT_MS);
	close(self->uffd);
	flight_close(&self->f);
}

/* A page of each read goes elsewhere, with the data that was read */
TEST_F_TIMEOUT(move, uffd, 60)
{
	char *to = anon_map(LEN), *buf = anon_map(LEN);
	struct flight *f = &self->f;
	bool moved[NR];
	int busy = 0;

	ASSERT_NE(MAP_FAILED, to);
	ASSERT_NE(MAP_FAILED, buf);
	ASSERT_EQ(0, madvise(to, LEN, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, madvise(buf, LEN, MADV_NOHUGEPAGE));
	self->uffd = uffd_open(to, LEN, UFFD_FEATURE_MOVE, UFFDIO_REGISTER_MODE_MISSING);
	ASSERT_LE(0, self->uffd);
	flight_set(f, buf, NR, PAGE, IO);
	ASSERT_EQ(0, flight_engine(f, ENG_AIO));
	ASSERT_EQ(0, flight_prepare(f, false));
	ASSERT_EQ(0, flight_start(f, GATE_WAIT, 0));
	for (unsigned int i = 0; i < NR; i++) {
		struct uffdio_move arg = {
			.dst = (unsigned long)to + i * IO,
			.src = (unsigned long)buf + i * IO,
			.len = PAGE,
		};

		moved[i] = !ioctl(self->uffd, UFFDIO_MOVE, &arg);
		if (!moved[i])
			EXPECT_EQ(EBUSY, errno);
		busy += !moved[i];
	}
	ASSERT_EQ(0, flight_finish(f));
	for (unsigned int i = 0; i < NR; i++)
		EXPECT_EQ(-1, flight_check_one(f, i, (moved[i] ? to : buf) + i * IO, true));
	END_COUNTED(busy, NR, "pages are busy");
}

/* I/O on one page of many does not keep those in front of it from being moved */
TEST_F_TIMEOUT(move, batch, 60)
{
	char *to = anon_map(64 * PAGE), *buf = anon_map(64 * PAGE);
	struct flight *f = &self->f;
	struct uffdio_move arg = {
		.dst = (unsigned long)to,
		.src = (unsigned long)buf,
		.len = 64 * PAGE,
	};

	ASSERT_NE(MAP_FAILED, to);
	ASSERT_NE(MAP_FAILED, buf);
	ASSERT_EQ(0, madvise(to, 64 * PAGE, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, madvise(buf, 64 * PAGE, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, wait_ms_set(DEFAULT_WAIT_MS));
	self->uffd = uffd_open(to, 64 * PAGE, UFFD_FEATURE_MOVE,
			       UFFDIO_REGISTER_MODE_MISSING);
	ASSERT_LE(0, self->uffd);
	pat_fill(buf, 64 * PAGE, 9, 0);
	flight_set(f, buf + 40 * PAGE, 1, PAGE, PAGE);
	ASSERT_EQ(0, flight_engine(f, ENG_AIO));
	ASSERT_EQ(0, flight_prepare(f, false));
	ASSERT_EQ(0, flight_start(f, GATE_ASKED, 0));
	EXPECT_EQ(-1, ioctl(self->uffd, UFFDIO_MOVE, &arg));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(40 * PAGE, arg.move);
	ASSERT_EQ(0, flight_finish(f));
	EXPECT_EQ(-1, pat_check(to, 40 * PAGE, 9, 0));
	EXPECT_EQ(-1, flight_check(f, buf + 40 * PAGE, true));
	EXPECT_EQ(-1, pat_check(buf + 41 * PAGE, 23 * PAGE, 9, 41 * PAGE));
}

/* ---- buffers that cannot be registered ---- */

#define RINGS	40

/* Register 48 KiB with a limit of 64 KiB, right after another ring was closed */
static int limit_run(void)
{
	struct rlimit lim = { 64 * KB, 64 * KB };
	char *buf = anon_map(48 * KB);
	int failed = 0;

	if (setrlimit(RLIMIT_MEMLOCK, &lim) || setgid(65534) || setuid(65534))
		return -errno;
	for (int i = 0; i < RINGS; i++) {
		uint64_t end = now_ms() + 10000;
		struct io_uring first, second;
		int ret;

		/* What was charged before is given back in the end */
		ret = io_uring_queue_init(1, &first, 0);
		while (!ret && (ret = ring_buffer(&first, buf, 48 * KB)) == -ENOMEM &&
		       now_ms() < end) {
			ret = 0;
			usleep(1000);
		}
		if (ret)
			return ret;
		io_uring_queue_exit(&first);
		ret = io_uring_queue_init(1, &second, 0);
		if (ret)
			return ret;
		ret = ring_buffer(&second, buf, 48 * KB);
		io_uring_queue_exit(&second);
		if (ret && ret != -ENOMEM)
			return ret;
		failed += !!ret;
	}
	return failed;
}

TEST(limit)
{
	int *failed = shared_get(sizeof(*failed));
	pid_t pid = fork();

	if (!pid) {
		*failed = limit_run();
		_exit(0);
	}
	ASSERT_EQ(0, child_reap(pid));
	ASSERT_LE(0, *failed);
	END_COUNTED(*failed, RINGS, "buffers are refused");
}

FIXTURE(file) {
	struct fs dax;
};

FIXTURE_SETUP(file)
{
	NEED("NOPIN_PMEM");
	NEED("NOPIN_XFS");
	NEED("NOPIN_RAW");
	ASSERT_EQ(0, fs_make(&self->dax, getenv("NOPIN_PMEM"), EXT4, "mkfs.ext4 -q -F -b 4096",
			     "dax=always"));
}

FIXTURE_TEARDOWN(file)
{
	fs_put(&self->dax);
}

/* Register a mapping of the file, and read into it: 1 if it is refused, or -errno */
static int file_refused(int fd)
{
	struct target t;
	struct ioq q;
	char *map;
	int ret;

	if (fd < 0 || fallocate(fd, 0, 0, LEN))
		return -errno;
	map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	memset(map, 0, LEN);
	ret = ioq_init_buffer(&q, ENG_URING_FIXED, 1, map, LEN);
	if (ret == -EFAULT || ret == -EOPNOTSUPP)
		return 1;
	ret = ret ?: target_open(&t, "NOPIN_RAW", 0) ?: target_fill(&t, LEN, 5, 0);
	if (ret)
		return ret;
	if (ioq_rw(&q, t.fd, false, map, LEN, 0) != (ssize_t)LEN ||
	    pat_check(map, LEN, 5, 0) != -1)
		ret = -EIO;
	ioq_exit(&q);
	target_close(&t);
	munmap(map, LEN);
	close(fd);
	return ret;
}

TEST_F(file, dax)
{
	int ret = file_refused(fs_open(&self->dax, "file"));

	ASSERT_LE(0, ret);
	END_COUNTED(ret, 1, "buffers are refused");
}

TEST_F(file, xfs)
{
	int ret = file_refused(open(getenv("NOPIN_XFS"), O_TMPFILE | O_RDWR, 0600));

	ASSERT_LE(0, ret);
	END_COUNTED(ret, 1, "buffers are refused");
}

TEST_HARNESS_MAIN
