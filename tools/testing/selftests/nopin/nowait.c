// SPDX-License-Identifier: GPL-2.0
/*
 * RWF_NOWAIT does not wait, least of all for somebody's invalidation: the I/O
 * works at once or says EAGAIN.
 */
#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN	(16 * PAGE)
#define SEED	31

FIXTURE(nowait) {
	struct flight f;	/* that the changer waits for */
	struct target t;
	struct mem m;
};

FIXTURE_VARIANT(nowait) {
	const char *env;
};

FIXTURE_VARIANT_ADD(nowait, raw) { .env = "NOPIN_RAW" };
FIXTURE_VARIANT_ADD(nowait, ext4) { .env = "NOPIN_EXT4" };
FIXTURE_VARIANT_ADD(nowait, xfs) { .env = "NOPIN_XFS" };

FIXTURE_SETUP(nowait)
{
	NEED(variant->env);
	NEED("NOPIN_HELD");
	ASSERT_EQ(0, flight_open(&self->f, "NOPIN_HELD"));
	ASSERT_EQ(0, target_open(&self->t, variant->env, MB));
	ASSERT_EQ(0, mem_get(&self->m, MEM_ANON, LEN));
	flight_set(&self->f, self->m.p, LEN / PAGE, PAGE, PAGE);
	ASSERT_EQ(0, flight_engine(&self->f, ENG_AIO));
}

FIXTURE_TEARDOWN(nowait)
{
	wait_ms_set(DEFAULT_WAIT_MS);
	flight_close(&self->f);
}

static long nowait_rw(int fd, bool write, void *buf, size_t len, off_t pos)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	ssize_t n = write ? pwritev2(fd, &iov, 1, pos, RWF_NOWAIT) :
			    preadv2(fd, &iov, 1, pos, RWF_NOWAIT);

	return n < 0 ? -errno : n;
}

/* On an idle device it mostly works, and if it does the data is right */
TEST_F(nowait, works)
{
	int worked[2] = {};

	for (int i = 0; i < 200; i++) {
		bool write = i & 1;
		long ret;

		ASSERT_EQ(0, target_fill(&self->t, LEN, write ? ~i : i, 0));
		pat_fill(self->m.p, LEN, write ? i : ~i, 0);
		if (i % 8 == 0)
			ASSERT_EQ(0, madvise(self->m.p, LEN, MADV_DONTNEED));
		/*
		 * Nor does a write wait for a transaction that changes the times of
		 * the file: they have to be those of this tick already
		 */
		if (write && strcmp(variant->env, "NOPIN_RAW"))
			ASSERT_EQ(0, futimens(self->t.fd, NULL));
		ret = nowait_rw(self->t.fd, write, self->m.p, LEN, 0);
		if (ret == -EAGAIN)
			continue;
		ASSERT_EQ(LEN, ret);
		worked[write]++;
		if (write) {
			ASSERT_EQ(-1, target_check(&self->t, LEN, i, 0));
		} else {
			ASSERT_EQ(-1, pat_check(self->m.p, LEN, i, 0));
		}
	}
	note("%d of 100 reads and %d of 100 writes", worked[0], worked[1]);
	EXPECT_LT(0, worked[0]);
	EXPECT_LT(0, worked[1]);
}

/*
 * Somebody changes the protection of memory that a device writes, so he waits, with
 * the mmap_lock held: whoever faults waits as well, so let all others be ready before.
 */
struct changer {
	char *p;
	atomic_bool go, done;
	int ret;
};

static void *changer_thread(void *arg)
{
	struct changer *c = arg;

	while (!atomic_load(&c->go))
		usleep(100);
	c->ret = mprotect(c->p, LEN, PROT_READ | PROT_WRITE | PROT_EXEC);
	atomic_store(&c->done, true);
	return NULL;
}

struct probe {
	unsigned int reads, again, inside, longest;
	long bad;
};

/* Reads to the buffer, and whether they return before the changer is done */
static void probe(struct probe *p, struct changer *c, int fd, unsigned int nr)
{
	for (memset(p, 0, sizeof(*p)); p->reads < nr; p->reads++) {
		uint64_t start = now_ms();
		long ret = nowait_rw(fd, false, c->p, LEN, 0);
		unsigned int took = now_ms() - start;

		if (took > p->longest)
			p->longest = took;
		if (ret == -EAGAIN)
			p->again++;
		else if (ret != LEN)
			p->bad = ret;
		if (!atomic_load(&c->done))
			p->inside++;
		usleep(1000);
	}
}

/*
 * While a waiter drains the pages of a buffer, reads to the same pages from an
 * idle device must come back before it is done.
 */
TEST_F_TIMEOUT(nowait, while_draining, 60)
{
	struct changer c = { .p = self->m.p };
	struct probe p;
	pthread_t th;

	ASSERT_EQ(0, wait_ms_set(LONG_WAIT_MS));
	ASSERT_EQ(0, flight_prepare(&self->f, false));
	ASSERT_EQ(0, target_fill(&self->t, LEN, SEED, 0));
	ASSERT_EQ(0, pthread_create(&th, NULL, changer_thread, &c));
	probe(&p, &c, self->t.fd, 3);
	ASSERT_EQ(0, flight_start(&self->f, GATE_ASKED, 0));
	atomic_store(&c.go, true);
	usleep(20000);
	probe(&p, &c, self->t.fd, 100);
	note("%u reads, %u EAGAIN, longest %u ms, %u while draining",
	     p.reads, p.again, p.longest, p.inside);
	ASSERT_EQ(0, flight_finish(&self->f));
	ASSERT_EQ(0, pthread_join(th, NULL));
	EXPECT_EQ(0, c.ret);
	EXPECT_EQ(0, p.bad);
	/* A read that waits for the drain waits until the gate was forgotten */
	EXPECT_GT(with_lockdep() ? 5000 : 100, p.longest);
	if (nopin())
		EXPECT_EQ(p.reads, p.inside);

	/* All is over: it works again */
	for (int i = 0; i < 100; i++) {
		if (nowait_rw(self->t.fd, false, self->m.p, LEN, 0) == LEN)
			break;
		ASSERT_LT(i, 99);
		usleep(1000);
	}
	EXPECT_EQ(-1, pat_check(self->m.p, LEN, SEED, 0));
}

/* io_uring tries with NOWAIT and hands over to a worker: right in the end */
TEST_F_TIMEOUT(nowait, uring_while_draining, 60)
{
	enum { NR = 8 };
	struct changer c = { .p = self->m.p };
	struct ioq uring;
	long res[NR];
	pthread_t th;

	ASSERT_EQ(0, ioq_init(&uring, ENG_URING, NR));
	ASSERT_EQ(0, flight_prepare(&self->f, false));
	ASSERT_EQ(0, target_fill(&self->t, LEN, SEED, 0));
	ASSERT_EQ(0, pthread_create(&th, NULL, changer_thread, &c));
	ASSERT_EQ(0, flight_start(&self->f, GATE_ASKED, 0));
	atomic_store(&c.go, true);
	usleep(20000);
	for (int i = 0; i < NR; i++)
		ASSERT_EQ(0, ioq_start(&uring, i, self->t.fd, false, self->m.p,
				       LEN, 0));
	ASSERT_EQ(NR, ioq_reap(&uring, NR, res));
	for (int i = 0; i < NR; i++)
		EXPECT_EQ(LEN, res[i]);
	ASSERT_EQ(0, pthread_join(th, NULL));
	ASSERT_EQ(0, flight_finish(&self->f));
	ASSERT_EQ(LEN, ioq_rw(&uring, self->t.fd, false, self->m.p, LEN, 0));
	EXPECT_EQ(-1, pat_check(self->m.p, LEN, SEED, 0));
}

TEST_HARNESS_MAIN
