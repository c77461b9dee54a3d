// SPDX-License-Identifier: GPL-2.0
/*
 * More I/O in flight on one page than a count of 6 bits can hold (R16): what does
 * not fit is pinned, and the count is right again when all is over.
 */
#include "nopin_util.h"
#include "kselftest_harness.h"

#define NR	200

FIXTURE(saturate) {
	struct flight f;
	struct mem m;
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
	ASSERT_EQ(0, flight_open(&self->f, "NOPIN_HELD"));
	ASSERT_EQ(0, mem_get(&self->m, MEM_ANON, 3 * PAGE));
	/* The middle one: a count that spills over hits a neighbour's */
	self->f.same = true;
	flight_set(&self->f, self->m.p + PAGE, NR, PAGE, 0);
	ASSERT_EQ(0, flight_engine(&self->f, variant->eng));
}

FIXTURE_TEARDOWN(saturate)
{
	flight_close(&self->f);
}

TEST_F_TIMEOUT(saturate, one_page, 60)
{
	struct flight *f = &self->f;
	struct area a = { f->buf, PAGE, -1 };
	unsigned long busy, bios;
	uint64_t start;

	ASSERT_EQ(0, flight_prepare(f, variant->write));
	busy = fallback("busy");
	bios = vmstat("nopin_bio");
	ASSERT_EQ(0, flight_start(f, GATE_WAIT, 0));
	/* The neighbours are idle, so nothing waits for them */
	ASSERT_EQ(0, mprotect(self->m.p, PAGE, PROT_READ));
	ASSERT_EQ(0, mprotect(self->m.p + 2 * PAGE, PAGE, PROT_READ));
	EXPECT_EQ(0, flight_done(f));
	ASSERT_EQ(0, flight_finish(f));
	EXPECT_EQ(-1, flight_check(f, f->buf, true));
	EXPECT_EQ(-1, flight_check_disk(f));

	busy = fallback("busy") - busy;
	bios = vmstat("nopin_bio") - bios;
	note("%lu without pins, %lu pinned as busy", bios, busy);
	if (nopin()) {
		/* About 63 of them fit at a time */
		EXPECT_LT(0, busy);
		EXPECT_LT(NR / 4, bios);
	} else {
		EXPECT_EQ(0, busy);
		EXPECT_EQ(0, bios);
	}

	/* No count is left that somebody would wait for */
	start = now_ms();
	ASSERT_EQ(0, op_run(OP_PROTECT_READ, &a));
	ASSERT_EQ(0, op_run(OP_MUNMAP, &a));
	EXPECT_GT(NO_WAIT_MS, now_ms() - start);
}

TEST_HARNESS_MAIN
