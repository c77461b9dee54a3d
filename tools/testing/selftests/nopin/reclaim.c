// SPDX-License-Identifier: GPL-2.0
/*
 * Those who take pages away for the system's sake: reclaim, compaction, migration.
 * They can take no for an answer, reclaim does not even wait (R4), and whatever
 * becomes of the page the data is where it belongs.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN		(2 * MB)
#define NR_IO		64
#define IO_LEN		(LEN / NR_IO)
#define NR_PAGES	(LEN / PAGE)
#define MPOL_MF_MOVE	2

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

FIXTURE(reclaim) {
	struct gate gate;
	struct ioq q;
	struct mem m;
	bool ready;
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

FIXTURE_SETUP(reclaim)
{
	NEED("NOPIN_HELD");
	NEED("NOPIN_SWAP");
	pin_to_cpu(0);
	ASSERT_EQ(0, gate_init(&self->gate, "NOPIN_HELD"));
	ASSERT_EQ(0, ioq_init(&self->q, ENG_AIO, NR_IO));
	ASSERT_EQ(0, mem_get(&self->m, variant->kind, LEN));
	self->ready = true;
}

FIXTURE_TEARDOWN(reclaim)
{
	if (!self->ready)
		return;
	gate_open(&self->gate);
	ioq_exit(&self->q);
	gate_exit(&self->gate);
	mem_put(&self->m);
}

/* Transfers at twice their offset: neighbours might be merged */
static int start(struct gate *g, struct ioq *q, char *buf, bool write,
		 uint64_t seed)
{
	char *copy = aligned_alloc(PAGE, 2 * LEN);
	int ret;

	for (int i = 0; i < NR_IO; i++)
		pat_fill(copy + 2 * i * IO_LEN, IO_LEN, write ? ~seed : seed,
			 i * IO_LEN);
	ret = target_write(&g->t, copy, 2 * LEN, 0);
	free(copy);
	pat_fill(buf, LEN, write ? seed : ~seed, 0);
	ret = ret ?: gate_shut(g, GATE_WAIT, 0);
	for (int i = 0; i < NR_IO && !ret; i++)
		ret = ioq_start(q, i, g->t.fd, write, buf + i * IO_LEN, IO_LEN,
				2 * i * IO_LEN);
	return ret;
}

/* Let them go, wait for them, and compare memory and disk with what they must be */
static void finish(struct __test_metadata *_metadata, struct gate *g,
		   struct ioq *q, char *buf, uint64_t seed)
{
	char *copy = malloc(2 * LEN);
	long res[NR_IO];

	for (int i = 0; i < NR_IO; i++)
		res[i] = IO_LEN;
	ASSERT_EQ(0, gate_open(g));
	ASSERT_LE(0, ioq_reap(q, q->inflight, res));
	for (int i = 0; i < NR_IO; i++)
		EXPECT_EQ(IO_LEN, res[i]);
	EXPECT_EQ(-1, pat_check(buf, LEN, seed, 0));
	ASSERT_EQ(0, target_read(&g->t, copy, 2 * LEN, 0));
	for (int i = 0; i < NR_IO; i++)
		EXPECT_EQ(-1, pat_check(copy + 2 * i * IO_LEN, IO_LEN, seed,
					i * IO_LEN));
	free(copy);
}

/*
 * Reclaim by the process itself runs as all of reclaim does: it comes back while
 * the I/O is in flight, and has left the pages alone.
 */
TEST_F_TIMEOUT(reclaim, pageout, 60)
{
	unsigned long refuse;

	ASSERT_EQ(0, start(&self->gate, &self->q, self->m.p, variant->write, 1));
	refuse = vmstat("nopin_refuse");
	ASSERT_EQ(0, madvise(self->m.p, LEN, MADV_PAGEOUT));
	EXPECT_EQ(0, ioq_reap(&self->q, 0, NULL));
	refuse = vmstat("nopin_refuse") - refuse;
	note("%lu refusals", refuse);
	if (mode_get() == MODE_NOPIN) {
		EXPECT_LT(0, refuse);
	}
	finish(_metadata, &self->gate, &self->q, self->m.p, 1);
	/* Nothing in flight any more, nothing to refuse */
	refuse = vmstat("nopin_refuse");
	ASSERT_EQ(0, madvise(self->m.p, LEN, MADV_PAGEOUT));
	EXPECT_EQ(refuse, vmstat("nopin_refuse"));
	EXPECT_EQ(-1, pat_check(self->m.p, LEN, 1, 0));
}

static int move(char *buf, int node, int *status)
{
	void *pages[NR_PAGES];
	int nodes[NR_PAGES];

	for (size_t i = 0; i < NR_PAGES; i++) {
		pages[i] = buf + i * PAGE;
		nodes[i] = node;
		status[i] = -ENODATA;
	}
	return syscall(SYS_move_pages, 0, NR_PAGES, pages, nodes, status,
		       MPOL_MF_MOVE);
}

TEST_F_TIMEOUT(reclaim, move_pages, 60)
{
	int node, to, status[NR_PAGES], moved = 0;
	long ret;

	node = mem_node(self->m.p);
	ASSERT_LE(0, node);
	to = !node;
	ASSERT_EQ(0, start(&self->gate, &self->q, self->m.p, variant->write, 2));
	ret = move(self->m.p, to, status);
	/* The number of pages that stay, and these tell why; 0 if none does */
	ASSERT_LE(0, ret) TH_LOG("%s", strerror(errno));
	for (size_t i = 0; i < NR_PAGES; i++) {
		int where = mem_node(self->m.p + i * PAGE);

		ASSERT_TRUE(where == 0 || where == 1)
			TH_LOG("page %zu: %d", i, where);
		moved += where == to;
	}
	note("%d of %d pages moved with I/O in flight", moved, (int)NR_PAGES);
	finish(_metadata, &self->gate, &self->q, self->m.p, 2);

	/* With the I/O done they all do */
	ASSERT_EQ(0, move(self->m.p, to, status));
	for (size_t i = 0; i < NR_PAGES; i++) {
		ASSERT_EQ(to, mem_node(self->m.p + i * PAGE))
			TH_LOG("page %zu", i);
	}
	EXPECT_EQ(-1, pat_check(self->m.p, LEN, 2, 0));
}

TEST_F_TIMEOUT(reclaim, compaction, 300)
{
	ASSERT_EQ(0, start(&self->gate, &self->q, self->m.p, variant->write, 3));
	ASSERT_EQ(0, sysfs_write("/proc/sys/vm/compact_memory", "1"));
	finish(_metadata, &self->gate, &self->q, self->m.p, 3);
}

/* One page is to be taken out of service, as one that shows errors */
TEST_F_TIMEOUT(reclaim, soft_offline, 60)
{
	char *page = self->m.p + 5 * PAGE;

	ASSERT_EQ(0, start(&self->gate, &self->q, self->m.p, variant->write, 4));
	if (madvise(page, PAGE, MADV_SOFT_OFFLINE))
		ASSERT_TRUE(errno == EBUSY || errno == EAGAIN || errno == EIO)
			TH_LOG("%s", strerror(errno));
	finish(_metadata, &self->gate, &self->q, self->m.p, 4);
}

TEST_HARNESS_MAIN
