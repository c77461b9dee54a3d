// SPDX-License-Identifier: GPL-2.0
/*
 * More I/O in flight on one page than a count of 6 bits can hold (R16): what does
 * not fit is pinned, and the count is right again when all is over.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define NR	200
#define SEED	51

FIXTURE(saturate) {
	struct gate gate;
	struct ioq q;
	struct mem m;
	bool ready;
};

FIXTURE_VARIANT(saturate) {
	enum engine eng;
	bool write;
};

FIXTURE_VARIANT_ADD(saturate, aio_write) { .eng = ENG_AIO, .write = true };
FIXTURE_VARIANT_ADD(saturate, aio_read) { .eng = ENG_AIO };
FIXTURE_VARIANT_ADD(saturate, uring_write) { .eng = ENG_URING, .write = true };

FIXTURE_SETUP(saturate)
{
	NEED("NOPIN_HELD");
	ASSERT_EQ(0, gate_init(&self->gate, "NOPIN_HELD"));
	ASSERT_EQ(0, ioq_init(&self->q, variant->eng, NR));
	ASSERT_EQ(0, mem_get(&self->m, MEM_ANON, 3 * PAGE));
	self->ready = true;
}

FIXTURE_TEARDOWN(saturate)
{
	if (!self->ready)
		return;
	gate_open(&self->gate);
	ioq_exit(&self->q);
	gate_exit(&self->gate);
	mem_put(&self->m);
}

TEST_F_TIMEOUT(saturate, one_page, 60)
{
	/* The middle one: a count that spills over hits a neighbour's */
	char *page = self->m.p + PAGE;
	struct target *t = &self->gate.t;
	unsigned long busy, bios;
	char *copy = malloc(2 * NR * PAGE);
	uint64_t start;
	long res[NR];

	/* Reads all bring the same, as they all end up in the same page */
	for (int i = 0; i < NR; i++)
		pat_fill(copy + 2 * i * PAGE, 2 * PAGE, SEED, 0);
	if (variant->write)
		memset(copy, 0, 2 * NR * PAGE);
	ASSERT_EQ(0, target_write(t, copy, 2 * NR * PAGE, 0));
	pat_fill(page, PAGE, variant->write ? SEED : ~SEED, 0);
	busy = fallback("busy");
	bios = vmstat("nopin_bio");

	ASSERT_EQ(0, gate_shut(&self->gate, GATE_WAIT, 0));
	for (int i = 0; i < NR; i++)
		ASSERT_EQ(0, ioq_start(&self->q, i, t->fd, variant->write, page,
				       PAGE, 2 * i * PAGE));
	ASSERT_EQ(0, gate_held(&self->gate, NR));
	/* The neighbours are idle, so nothing waits for them */
	ASSERT_EQ(0, mprotect(self->m.p, PAGE, PROT_READ));
	ASSERT_EQ(0, mprotect(self->m.p + 2 * PAGE, PAGE, PROT_READ));
	EXPECT_EQ(0, ioq_reap(&self->q, 0, res));
	ASSERT_EQ(0, gate_open(&self->gate));
	ASSERT_EQ(NR, ioq_reap(&self->q, self->q.inflight, res));
	for (int i = 0; i < NR; i++)
		EXPECT_EQ(PAGE, res[i]);

	if (variant->write) {
		ASSERT_EQ(0, target_read(t, copy, 2 * NR * PAGE, 0));
		for (int i = 0; i < NR; i++) {
			ASSERT_EQ(-1, pat_check(copy + 2 * i * PAGE, PAGE, SEED, 0))
				TH_LOG("write %d", i);
		}
	} else {
		EXPECT_EQ(-1, pat_check(page, PAGE, SEED, 0));
	}

	busy = fallback("busy") - busy;
	bios = vmstat("nopin_bio") - bios;
	note("%lu without pins, %lu pinned as busy", bios, busy);
	if (mode_get() == MODE_NOPIN) {
		/* About 63 of them fit at a time */
		EXPECT_LT(0, busy);
		EXPECT_LT(NR / 4, bios);
	} else {
		EXPECT_EQ(0, busy);
		EXPECT_EQ(0, bios);
	}

	/* No count is left that somebody would wait for */
	start = now_ms();
	ASSERT_EQ(0, mprotect(page, PAGE, PROT_READ));
	ASSERT_EQ(0, munmap(page, PAGE));
	EXPECT_GT(1000, now_ms() - start);
	free(copy);
}

TEST_HARNESS_MAIN
