// SPDX-License-Identifier: GPL-2.0
/*
 * Those who take pages away for the system's sake: reclaim, compaction, migration.
 * They can take no for an answer, reclaim does not even wait (R4), and whatever
 * becomes of the page the data is where it belongs.
 */
#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN		(2 * MB)
#define NR_IO		64
#define NR_PAGES	((int)(LEN / PAGE))

FIXTURE(reclaim) {
	struct flight f;
	struct mem m;
	struct area a;
};

FIXTURE_VARIANT(reclaim) {
	enum mem_kind kind;
	bool write;
};

FIXTURE_VARIANT_ADD(reclaim, anon_read) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(reclaim, anon_write) { .kind = MEM_ANON, .write = true };
FIXTURE_VARIANT_ADD(reclaim, thp_read) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(reclaim, thp_write) { .kind = MEM_THP, .write = true };
FIXTURE_VARIANT_ADD(reclaim, shmem_read) { .kind = MEM_SHMEM };
FIXTURE_VARIANT_ADD(reclaim, xfs_read) { .kind = MEM_SHARED_XFS };

/* I/O is in flight, until somebody waits for it */
FIXTURE_SETUP(reclaim)
{
	struct flight *f = &self->f;

	NEED("NOPIN_HELD");
	NEED("NOPIN_SWAP");
	pin_to_cpu(0);
	ASSERT_EQ(0, flight_open(f, "NOPIN_HELD"));
	ASSERT_EQ(0, mem_get(&self->m, variant->kind, LEN));
	self->a = (struct area) { self->m.p, LEN, self->m.fd };
	flight_set(f, self->m.p, NR_IO, LEN / NR_IO, LEN / NR_IO);
	ASSERT_EQ(0, flight_engine(f, ENG_AIO));
	ASSERT_EQ(0, flight_prepare(f, variant->write));
	ASSERT_EQ(0, flight_start(f, GATE_WAIT, 0));
}

FIXTURE_TEARDOWN(reclaim)
{
	flight_close(&self->f);
}

/* Let them go, wait for them, and compare memory and disk with what they must be */
static void finish(struct __test_metadata *_metadata, struct flight *f)
{
	ASSERT_EQ(0, flight_finish(f));
	EXPECT_EQ(-1, flight_check(f, f->buf, true));
	EXPECT_EQ(-1, flight_check_disk(f));
}

/*
 * Reclaim by the process itself runs as all of reclaim does: it comes back while
 * the I/O is in flight, and has left the pages alone.
 */
TEST_F_TIMEOUT(reclaim, pageout, 60)
{
	struct flight *f = &self->f;
	unsigned long refuse = vmstat("nopin_refuse");

	ASSERT_EQ(0, op_run(OP_PAGEOUT, &self->a));
	EXPECT_EQ(0, flight_done(f));
	refuse = vmstat("nopin_refuse") - refuse;
	note("%lu refusals", refuse);
	if (nopin())
		EXPECT_LT(0, refuse);
	finish(_metadata, f);
	/* Nothing in flight any more, nothing to refuse */
	refuse = vmstat("nopin_refuse");
	ASSERT_EQ(0, op_run(OP_PAGEOUT, &self->a));
	EXPECT_EQ(refuse, vmstat("nopin_refuse"));
	EXPECT_EQ(-1, flight_check(f, f->buf, true));
}

TEST_F_TIMEOUT(reclaim, move_pages, 60)
{
	struct area *a = &self->a;
	int node = mem_node(a->p), moved;

	ASSERT_LE(0, node);
	a->node = !node;
	/* The number of pages that stay; 0 if none does */
	ASSERT_LE(0, op_run(OP_MOVE_PAGES, a));
	moved = pages_on_node(a, a->node);
	ASSERT_LE(0, moved);
	ASSERT_EQ(NR_PAGES, pages_on_node(a, node) + moved);
	note("%d of %d pages moved with I/O in flight", moved, NR_PAGES);
	finish(_metadata, &self->f);

	/* With the I/O done they all do */
	ASSERT_EQ(0, op_run(OP_MOVE_PAGES, a));
	ASSERT_EQ(NR_PAGES, pages_on_node(a, a->node));
	EXPECT_EQ(-1, flight_check(&self->f, a->p, true));
}

TEST_F_TIMEOUT(reclaim, compaction, 300)
{
	ASSERT_EQ(0, op_run(OP_COMPACT, &self->a));
	finish(_metadata, &self->f);
}

/* One page is to be taken out of service, as one that shows errors */
TEST_F_TIMEOUT(reclaim, soft_offline, 60)
{
	struct area page = { self->a.p + 5 * PAGE, PAGE, self->a.fd };
	int ret = op_run(OP_SOFT_OFFLINE, &page);

	ASSERT_TRUE(!ret || ret == -EBUSY || ret == -EAGAIN || ret == -EIO)
		TH_LOG("%s", strerror(-ret));
	finish(_metadata, &self->f);
}

/*
 * Part of a large folio that is mapped by PTEs, and that no I/O uses, next to one that
 * I/O uses: it is split, and the part is swapped out.
 */
#define MTHP		"/sys/kernel/mm/transparent_hugepage/hugepages-64kB/"
#define FOLIO		(64 * KB)

FIXTURE(folios) {
	struct flight f;
};

FIXTURE_SETUP(folios)
{
	NEED("NOPIN_HELD");
	NEED("NOPIN_SWAP");
	if (access(MTHP "enabled", W_OK))
		SKIP(return, "no folios of 64 KiB");
	ASSERT_EQ(0, flight_open(&self->f, "NOPIN_HELD"));
	ASSERT_EQ(0, sysfs_write(MTHP "enabled", "madvise"));
}

FIXTURE_TEARDOWN(folios)
{
	sysfs_write(MTHP "enabled", "never");
	flight_close(&self->f);
}

static int in_swap(const char *p, int nr)
{
	uint64_t entry[16];
	int n = 0;

	if (pagemap_read(p, entry, nr))
		return -1;
	for (int i = 0; i < nr; i++)
		n += entry[i] >> PM_SWAP & 1;
	return n;
}

TEST_F_TIMEOUT(folios, part, 60)
{
	struct flight *f = &self->f;
	char *p = (char *)ALIGN_UP((uintptr_t)anon_map(3 * FOLIO), FOLIO), *idle = p + FOLIO;
	long before = sysfs_get(MTHP "stats/anon_fault_alloc");

	ASSERT_EQ(0, madvise(p, 2 * FOLIO, MADV_HUGEPAGE));
	memset(p, 1, 2 * FOLIO);
	ASSERT_EQ(before + 2, sysfs_get(MTHP "stats/anon_fault_alloc"));
	flight_set(f, p, 1, PAGE, PAGE);
	ASSERT_EQ(0, flight_engine(f, ENG_AIO));
	ASSERT_EQ(0, flight_prepare(f, false));
	ASSERT_EQ(0, flight_start(f, GATE_ASKED, 0));
	ASSERT_EQ(0, madvise(idle, 4 * PAGE, MADV_PAGEOUT));
	EXPECT_EQ(4, in_swap(idle, 4));
	EXPECT_EQ(0, in_swap(idle + 4 * PAGE, 12));
	/* And part of the one that I/O uses is not */
	ASSERT_EQ(0, madvise(p, 4 * PAGE, MADV_PAGEOUT));
	EXPECT_EQ(0, in_swap(p, 16));
	EXPECT_EQ(0, flight_done(f));
	finish(_metadata, f);
	EXPECT_EQ(-1, byte_check(idle, FOLIO, 1));
}

TEST_HARNESS_MAIN
