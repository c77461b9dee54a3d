// SPDX-License-Identifier: GPL-2.0
/* The switch: what it says, what it takes, and that it may be thrown at any time */
#include "nopin_util.h"
#include "kselftest_harness.h"

FIXTURE(sw) {
	enum mode mode;
};

FIXTURE_SETUP(sw)
{
	if (!nopin_present())
		SKIP(return, "this kernel has no switch");
	self->mode = mode_get();
}

FIXTURE_TEARDOWN(sw)
{
	mode_set(self->mode);
}

TEST_F(sw, choices)
{
	static const struct {
		const char *val, *shown;
	} good[] = {
		{ "pin", "[pin] nopin\n" },
		{ "nopin", "pin [nopin]\n" },
		{ "pin\n", "[pin] nopin\n" },
		{ "nopin\n", "pin [nopin]\n" },
	};
	char buf[64];

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		ASSERT_EQ(0, sysfs_write(SWITCH, good[i].val));
		ASSERT_EQ(0, sysfs_read(SWITCH, buf, sizeof(buf)));
		EXPECT_STREQ(good[i].shown, buf);
	}
}

TEST_F(sw, bad_values)
{
	static const char *const bad[] = {
		"bogus", "p", "pi", "pinn", "nopinn", "[pin]", "pin nopin",
		"1", "PIN", "\n", " pin",
	};

	for (int mode = MODE_PIN; mode <= MODE_NOPIN; mode++) {
		ASSERT_EQ(0, mode_set(mode));
		for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
			EXPECT_EQ(-EINVAL, sysfs_write(SWITCH, bad[i]))
				TH_LOG("\"%s\"", bad[i]);
			EXPECT_EQ(mode, mode_get()) TH_LOG("\"%s\"", bad[i]);
		}
	}
}

/* Registered buffers are looked up only if direct I/O is going to do without pins */
TEST_F(sw, registered)
{
	unsigned long before;
	struct mem m;

	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 2 * MB));
	memset(m.p, 1, m.len);
	for (int mode = MODE_PIN; mode <= MODE_NOPIN; mode++) {
		struct iovec iov = { m.p, m.len };
		struct io_uring ring;

		ASSERT_EQ(0, mode_set(mode));
		ASSERT_EQ(0, io_uring_queue_init(4, &ring, 0));
		before = vmstat("nopin_revalidate");
		ASSERT_EQ(0, ring_buffers_flags(&ring, &iov, 1, IORING_RSRC_REGISTER_NOPIN));
		EXPECT_EQ(mode == MODE_NOPIN, vmstat("nopin_revalidate") > before);
		io_uring_queue_exit(&ring);
	}
	mem_put(&m);
}

/* Threads that do I/O and check it, while the mode changes all the time */

enum { WORKERS = 4, BLOCKS = 16, BLOCK = 32 * 1024 };

static const enum engine engines[WORKERS] = {
	ENG_PSYNC, ENG_AIO, ENG_URING, ENG_PVSYNC,
};

struct worker {
	struct target *t;
	int id;
	atomic_bool *stop;
	unsigned long ops;
	const char *failed;
};

static const char *work(struct worker *w, struct ioq *q, char *buf)
{
	off_t base = w->id * BLOCKS * BLOCK;
	long res[BLOCKS];

	/* Out and back in: batches where the engine can, in flight together */
	for (uint64_t seed = 1; !atomic_load(w->stop); seed++) {
		for (int write = 1; write >= 0; write--) {
			if (write)
				pat_fill(buf, BLOCKS * BLOCK, seed, base);
			else
				memset(buf, 0, BLOCKS * BLOCK);
			for (int i = 0; i < BLOCKS; i++) {
				char *p = buf + i * BLOCK;
				off_t pos = base + i * BLOCK;

				if (ioq_begin(q, i, w->t->fd, write, p, BLOCK, pos, res))
					return "submit";
			}
			if (ioq_end(q, res))
				return "reap";
			for (int i = 0; i < BLOCKS; i++)
				if (res[i] != BLOCK)
					return write ? "write" : "read";
			w->ops += BLOCKS;
		}
		if (pat_check(buf, BLOCKS * BLOCK, seed, base) >= 0)
			return "data";
	}
	return NULL;
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	struct ioq q;
	struct mem m;

	if (ioq_init(&q, engines[w->id], BLOCKS) ||
	    mem_get(&m, w->id & 1 ? MEM_THP : MEM_ANON, BLOCKS * BLOCK)) {
		w->failed = "setup";
		return NULL;
	}
	w->failed = work(w, &q, m.p);
	ioq_exit(&q);
	mem_put(&m);
	return NULL;
}

static void under_load(struct __test_metadata *_metadata, const char *env)
{
	unsigned long flips = 0;
	struct worker w[WORKERS];
	pthread_t th[WORKERS];
	atomic_bool stop = false;
	struct target t;

	ASSERT_EQ(0, target_open(&t, env, WORKERS * BLOCKS * BLOCK));
	for (int i = 0; i < WORKERS; i++) {
		w[i] = (struct worker) { .t = &t, .id = i, .stop = &stop };
		ASSERT_EQ(0, pthread_create(&th[i], NULL, worker_thread, &w[i]));
	}
	for (uint64_t end = now_ms() + test_ms(2500); now_ms() < end; flips++) {
		if (mode_set(flips & 1))
			break;
		usleep(1000);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < WORKERS; i++) {
		ASSERT_EQ(0, pthread_join(th[i], NULL));
		EXPECT_EQ(NULL, w[i].failed)
			TH_LOG("%s: %s", engine_name[engines[i]], w[i].failed);
		EXPECT_LT(0, w[i].ops);
	}
	note("%lu flips, %lu %lu %lu %lu transfers", flips, w[0].ops, w[1].ops,
	     w[2].ops, w[3].ops);
	EXPECT_LT(10, flips);
	EXPECT_EQ(0, pins_left());
	EXPECT_LT(0, vmstat("nopin_bio"));
}

TEST_F_TIMEOUT(sw, under_load_raw, 60)
{
	NEED("NOPIN_RAW");
	under_load(_metadata, "NOPIN_RAW");
}

TEST_F_TIMEOUT(sw, under_load_throttled, 60)
{
	NEED("NOPIN_CHURN");
	under_load(_metadata, "NOPIN_CHURN");
}

TEST_F_TIMEOUT(sw, under_load_xfs, 60)
{
	NEED("NOPIN_XFS");
	under_load(_metadata, "NOPIN_XFS");
}

TEST_HARNESS_MAIN
