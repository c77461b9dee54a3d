// SPDX-License-Identifier: GPL-2.0
/*
 * What the counters say. In nopin mode an I/O takes no pin, and is one of
 * nopin_bio; in pin mode it is the other way round. That holds for I/O that nobody
 * waits for as well (R6, R7, R8).
 */
#include "nopin_util.h"
#include "kselftest_harness.h"

#define NR	40
#define SEED	41

struct counts {
	unsigned long bio, fallback, acquired, released;
};

static void count(struct counts *c)
{
	struct vmstat all;

	vmstat_read(&all, true);
	c->bio = vmstat_in(&all, "nopin_bio");
	c->fallback = vmstat_in(&all, "nopin_fallback");
	c->acquired = vmstat_in(&all, "nr_foll_pin_acquired");
	c->released = vmstat_in(&all, "nr_foll_pin_released");
}

static void count_since(struct counts *c)
{
	struct counts now;

	count(&now);
	c->bio = now.bio - c->bio;
	c->fallback = now.fallback - c->fallback;
	c->acquired = now.acquired - c->acquired;
	c->released = now.released - c->released;
}

/*
 * @nr I/Os in both directions of @len each, from and to @buf; the data is checked.
 * Fails with a message.
 */
static int do_io(struct target *t, struct ioq *q, char *buf, size_t len, int nr)
{
	for (int i = 0; i < nr; i++) {
		off_t pos = i % 8 * len;
		long ret;

		pat_fill(buf, len, SEED + i, pos);
		ret = ioq_rw(q, t->fd, true, buf, len, pos);
		if (ret == (long)len) {
			memset(buf, 0, len);
			ret = ioq_rw(q, t->fd, false, buf, len, pos);
		}
		if (ret != (long)len || pat_check(buf, len, SEED + i, pos) >= 0) {
			note("I/O %d: %ld", i, ret);
			return -1;
		}
	}
	return 0;
}

FIXTURE(pins) {
	struct target t;
	struct ioq q;
};

FIXTURE_VARIANT(pins) {
	const char *env;
	bool segments;		/* a bio for each piece of a vector */
};

FIXTURE_VARIANT_ADD(pins, raw) { .env = "NOPIN_RAW" };
FIXTURE_VARIANT_ADD(pins, virtio) { .env = "NOPIN_CHURN" };
FIXTURE_VARIANT_ADD(pins, ext4) { .env = "NOPIN_EXT4" };
FIXTURE_VARIANT_ADD(pins, xfs) { .env = "NOPIN_XFS" };
/* By fs/direct-io.c */
FIXTURE_VARIANT_ADD(pins, fat) { .env = "NOPIN_FAT", .segments = true };
FIXTURE_VARIANT_ADD(pins, jfs) { .env = "NOPIN_JFS", .segments = true };
/* On top of a device that is prompt */
FIXTURE_VARIANT_ADD(pins, dm) { .env = "NOPIN_DM" };
/* Devices that are not prompt */
FIXTURE_VARIANT_ADD(pins, loop) { .env = "NOPIN_LOOP" };
FIXTURE_VARIANT_ADD(pins, zram) { .env = "NOPIN_ZRAM" };

FIXTURE_SETUP(pins)
{
	NEED(variant->env);
	ASSERT_EQ(0, target_open(&self->t, variant->env, 8 * MB));
}

FIXTURE_TEARDOWN(pins)
{
}

static void check_pins(struct __test_metadata *_metadata, struct counts *c,
		       unsigned long bios, const char *what)
{
	EXPECT_EQ(c->acquired, c->released) TH_LOG("%s", what);
	EXPECT_EQ(0, c->fallback) TH_LOG("%s", what);
	if (nopin()) {
		EXPECT_EQ(0, c->acquired) TH_LOG("%s", what);
		EXPECT_EQ(bios, c->bio) TH_LOG("%s", what);
	} else {
		EXPECT_LT(0, c->acquired) TH_LOG("%s", what);
		EXPECT_EQ(0, c->bio) TH_LOG("%s", what);
	}
}

TEST_F_TIMEOUT(pins, engines, 60)
{
	struct counts c;
	struct mem m;

	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	for (int e = 0; e < NR_ENGINES; e++) {
		struct ioq q;

		ASSERT_EQ(0, ioq_init(&q, e, 4));
		count(&c);
		EXPECT_EQ(0, do_io(&self->t, &q, m.p, 16 * KB, NR))
			TH_LOG("%s", engine_name[e]);
		count_since(&c);
		check_pins(_metadata, &c, 2 * NR, engine_name[e]);
		ioq_exit(&q);
	}
}

/* All kinds of memory do without; and many pieces make one bio */
TEST_F_TIMEOUT(pins, memory, 60)
{
	struct iovec iov[8];
	struct counts c;
	struct mem m;
	struct ioq q;

	ASSERT_EQ(0, ioq_init(&q, ENG_PVSYNC, 1));
	for (int k = 0; k < NR_MEM; k++) {
		size_t half = mem_of_huge(k) ? 2 * MB : 64 * KB;

		if (k == MEM_HUGETLB_1G)
			continue;
		ASSERT_EQ(0, mem_get(&m, k, 2 * half));
		/* Across a multiple of 2 MiB, in huge pages */
		count(&c);
		EXPECT_EQ(0, do_io(&self->t, &q, m.p + half - 8 * KB, 16 * KB, 8))
			TH_LOG("%s", mem_name[k]);
		count_since(&c);
		check_pins(_metadata, &c, 16, mem_name[k]);

		for (int i = 0; i < 8; i++) {
			iov[i].iov_base = m.p + i * 3 * PAGE;
			iov[i].iov_len = PAGE;
		}
		count(&c);
		EXPECT_EQ(8 * PAGE, preadv(self->t.fd, iov, 8, 0));
		count_since(&c);
		check_pins(_metadata, &c, variant->segments ? 8 : 1, "vector");
		mem_put(&m);
	}
}

/* Memory that is not there is brought, not pinned */
TEST_F(pins, absent)
{
	struct counts c;
	struct mem m;
	struct ioq q;

	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, ioq_init(&q, ENG_PSYNC, 1));
	count(&c);
	for (int i = 0; i < 8; i++) {
		ASSERT_EQ(0, madvise(m.p, m.len, MADV_DONTNEED));
		EXPECT_EQ(m.len, ioq_rw(&q, self->t.fd, false, m.p, m.len, 0));
	}
	count_since(&c);
	check_pins(_metadata, &c, 8, "absent");
}

/* Large transfers, of more than one bio where pages are scattered */
TEST_F_TIMEOUT(pins, large, 60)
{
	static const enum mem_kind kinds[] = { MEM_ANON, MEM_THP, MEM_HUGETLB };
	struct counts c;
	struct mem m;
	struct ioq q;

	ASSERT_EQ(0, ioq_init(&q, ENG_PSYNC, 1));
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		ASSERT_EQ(0, mem_get(&m, kinds[k], 4 * MB));
		count(&c);
		EXPECT_EQ(4 * MB, ioq_rw(&q, self->t.fd, false, m.p, 4 * MB, 0));
		count_since(&c);
		EXPECT_EQ(c.acquired, c.released);
		EXPECT_EQ(0, c.fallback) TH_LOG("%s", mem_name[kinds[k]]);
		if (nopin()) {
			EXPECT_EQ(0, c.acquired) TH_LOG("%s", mem_name[kinds[k]]);
			EXPECT_LE(1, c.bio);
		}
		mem_put(&m);
	}
}

/*
 * btrfs reads with page faults disabled, as it holds locks: the first read of a
 * process, which has to set things up, gets pins and is counted as such. It writes
 * files with checksums through the page cache.
 */
TEST(btrfs)
{
	unsigned long first;
	struct target t;
	struct counts c;
	struct mem m;
	struct ioq q;

	NEED("NOPIN_BTRFS");
	ASSERT_EQ(0, target_open(&t, "NOPIN_BTRFS", 8 * MB));
	ASSERT_EQ(0, ioq_init(&q, ENG_URING, 4));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 16 * KB));
	first = fallback("first");
	count(&c);
	ASSERT_EQ(16 * KB, ioq_rw(&q, t.fd, false, m.p, 16 * KB, 0));
	count_since(&c);
	EXPECT_EQ(0, c.bio);
	EXPECT_LT(0, c.acquired);
	EXPECT_EQ(c.acquired, c.released);
	EXPECT_EQ(nopin(), c.fallback);
	EXPECT_EQ(first + c.fallback, fallback("first"));

	count(&c);
	EXPECT_EQ(0, do_io(&t, &q, m.p, 16 * KB, NR));
	count_since(&c);
	/* What has just been written it may read through the page cache as well */
	EXPECT_GE(NR, c.bio);
	check_pins(_metadata, &c, c.bio, "btrfs");
	EXPECT_EQ(nopin(), c.bio > NR / 2);
}

/* Polled I/O is like other I/O */
TEST(polled)
{
	struct target t;
	struct counts c;
	struct mem m;
	struct ioq q;

	NEED("NOPIN_POLL");
	ASSERT_EQ(0, target_open(&t, "NOPIN_POLL", 8 * MB));
	ASSERT_EQ(0, ioq_init_flags(&q, ENG_URING, 4, IORING_SETUP_IOPOLL));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 16 * KB));
	count(&c);
	EXPECT_EQ(0, do_io(&t, &q, m.p, 16 * KB, NR));
	count_since(&c);
	check_pins(_metadata, &c, 2 * NR, "polled");
}

/* Polled I/O to a disk that takes its time */

FIXTURE(slow) {
	struct slow slow;
	struct mem m;
	struct ioq q;
};

FIXTURE_SETUP(slow)
{
	NEED("NOPIN_POLL");
	NEED("NOPIN_SLOW_NVME");
	ASSERT_EQ(0, wait_ms_set(LONG_WAIT_MS));
	ASSERT_EQ(0, slow_open(&self->slow, "NOPIN_SLOW_NVME"));
	ASSERT_EQ(0, ioq_init_flags(&self->q, ENG_URING, 4, IORING_SETUP_IOPOLL));
	ASSERT_EQ(0, mem_get(&self->m, MEM_ANON, 16 * KB));
}

FIXTURE_TEARDOWN(slow)
{
	wait_ms_set(DEFAULT_WAIT_MS);
}

/*
 * But it ends when its submitter looks after it, who may be busy unmapping its
 * memory, or protecting it: so he does not wait for it (R6).
 */
TEST_F_TIMEOUT(slow, polled_in_flight, 60)
{
	struct mem *m = &self->m;
	struct ioq *q = &self->q;

	for (int i = 0; i < 6; i++) {
		unsigned long bios, wait, pinned;
		uint64_t start;
		long res[4];

		/* While a page is pinned on behalf of I/O, more I/O to its address is, too */
		ASSERT_EQ(0, pins_left());
		memset(m->p, 0, 16 * KB);
		ASSERT_EQ(0, slow_prime(&self->slow, false, 200));
		bios = vmstat("nopin_bio");
		wait = vmstat("nopin_wait");
		pinned = vmstat("nopin_pinned");
		ASSERT_EQ(0, ioq_start(q, 0, self->slow.t.fd, false, m->p, 16 * KB, 0));
		/* A worker may submit it, in its own time */
		for (int j = 0; j < 1000 && nopin(); j++) {
			if (vmstat("nopin_bio") != bios)
				break;
			usleep(1000);
		}
		start = now_ms();
		/* To write-protect memory is what others wait for */
		if (i % 2)
			ASSERT_EQ(0, mprotect(m->p, 16 * KB, PROT_READ));
		ASSERT_EQ(m->p, mmap(m->p, 16 * KB, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		EXPECT_GT(NO_WAIT_MS, now_ms() - start);
		EXPECT_EQ(wait, vmstat("nopin_wait"));
		if (nopin())
			EXPECT_EQ(pinned + 16 * KB / PAGE, vmstat("nopin_pinned"));
		ASSERT_EQ(1, ioq_reap(q, 1, res));
		EXPECT_EQ(16 * KB, res[0]);
		EXPECT_EQ(-1, byte_check(m->p, 16 * KB, 0));
	}
}

TEST_HARNESS_MAIN
