// SPDX-License-Identifier: GPL-2.0
/*
 * NVMe commands from user space, whose memory goes away, or is protected, while a
 * device works on it. The task that has issued a request gives its pages back, and
 * may be busy changing their mapping: so nobody waits for such a request (R6).
 */
#include <linux/nvme_ioctl.h>
#include <sys/ioctl.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN		(1 * MB)
#define NR		16
#define PIECE		(LEN / NR)
#define HEAD_MS		150

struct nvme {
	struct slow slow;
	struct io_uring ring;
	struct nvme_ns ns;
};

static int start(struct nvme *n)
{
	return slow_open(&n->slow, "NOPIN_SLOW_NVME") ?:
	       nvme_open(&n->ns, getenv("NOPIN_SLOW_NVME")) ?:
	       io_uring_queue_init(NR, &n->ring, IORING_SETUP_SQE128 | IORING_SETUP_CQE32);
}

/* 0 if that many commands have succeeded */
static int nvme_reap(struct nvme *n, int nr)
{
	int ret = 0;

	while (nr--) {
		struct io_uring_cqe *cqe;
		int err = io_uring_wait_cqe(&n->ring, &cqe);

		if (err)
			return err;
		if (cqe->res)
			ret = cqe->res;
		io_uring_cqe_seen(&n->ring, cqe);
	}
	return ret;
}

static off_t piece_pos(int i)
{
	return i * 2 * PIECE;
}

FIXTURE(passthrough) {
	struct nvme n;
	struct grab grab;
	struct mem m;
};

FIXTURE_VARIANT(passthrough) {
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(passthrough, anon) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(passthrough, thp) { .kind = MEM_THP };

FIXTURE_SETUP(passthrough)
{
	NEED("NOPIN_SLOW_NVME");
	pin_to_cpu(0);
	ASSERT_EQ(0, wait_ms_set(LONG_WAIT_MS));
	ASSERT_EQ(0, grab_init(&self->grab, variant->kind, 2 * 2 * MB));
	ASSERT_EQ(0, start(&self->n));
	ASSERT_EQ(0, mem_get(&self->m, variant->kind, 2 * MB));
}

FIXTURE_TEARDOWN(passthrough)
{
	grab_exit(&self->grab);
	wait_ms_set(DEFAULT_WAIT_MS);
}

/* The right data, and no pins for it */
TEST_F_TIMEOUT(passthrough, bytes, 60)
{
	unsigned long pins = vmstat("nr_foll_pin_acquired"), bios = vmstat("nopin_bio");
	struct nvme *n = &self->n;
	char *p = self->m.p + PAGE;	/* as a part of a huge page */

	for (int i = 0; i < 4; i++) {
		pat_fill(p, PIECE, i + 1, 0);
		ASSERT_NE(NULL, nvme_queue(&n->ring, &n->ns, true, p, PIECE, 0));
		ASSERT_EQ(1, io_uring_submit(&n->ring));
		ASSERT_EQ(0, nvme_reap(n, 1));
		memset(p, 0, PIECE);
		ASSERT_NE(NULL, nvme_queue(&n->ring, &n->ns, false, p, PIECE, 0));
		ASSERT_EQ(1, io_uring_submit(&n->ring));
		ASSERT_EQ(0, nvme_reap(n, 1));
		EXPECT_EQ(-1, pat_check(p, PIECE, i + 1, 0));
	}
	if (nopin()) {
		EXPECT_EQ(pins, vmstat("nr_foll_pin_acquired"));
		EXPECT_EQ(bios + 8, vmstat("nopin_bio"));
	} else {
		EXPECT_LT(pins, vmstat("nr_foll_pin_acquired"));
	}
	EXPECT_EQ(vmstat("nr_foll_pin_released"), vmstat("nr_foll_pin_acquired"));
}

/* Commands in flight, and their issuer protects the memory, or replaces it */
static void in_flight(struct __test_metadata *_metadata, struct nvme *n,
		      struct mem *m, struct grab *grab, bool write, bool protect)
{
	struct area a = { m->p, m->len, -1 };
	unsigned long pinned, waits;
	uint64_t seed = now_ms();
	long took;

	if (!write)
		ASSERT_EQ(0, target_fill(&n->slow.t, 2 * LEN, seed, 0));
	for (int i = 0; i < NR; i++)
		pat_fill(m->p + i * PIECE, PIECE, write ? seed : ~seed, piece_pos(i));
	pinned = vmstat("nopin_pinned");
	waits = vmstat("nopin_wait");
	ASSERT_EQ(0, slow_prime(&n->slow, write, HEAD_MS));
	for (int i = 0; i < NR; i++)
		ASSERT_NE(NULL, nvme_queue(&n->ring, &n->ns, write,
					   m->p + i * PIECE, PIECE, piece_pos(i)));
	ASSERT_EQ(NR, io_uring_submit(&n->ring));
	took = op_timed(protect ? OP_PROTECT_READ : OP_DONTNEED, &a);
	ASSERT_LE(0, took);
	note("%s: the memory is %s after %ld ms", write ? "write" : "read",
	     protect ? "protected" : "free", took);

	/* Whatever was freed is used at once by somebody else */
	ASSERT_EQ(0, grab_fill(grab));
	EXPECT_GT(NO_WAIT_MS, took);
	EXPECT_EQ(waits, vmstat("nopin_wait"));
	/* All of it was in flight */
	if (nopin())
		EXPECT_EQ(pinned + LEN / PAGE, vmstat("nopin_pinned"));
	ASSERT_EQ(0, nvme_reap(n, NR));
	EXPECT_EQ(-1, grab_check(grab));
	for (int i = 0; protect && i < NR; i++)
		EXPECT_EQ(-1, pat_check(m->p + i * PIECE, PIECE, seed, piece_pos(i)));
	if (!protect)
		EXPECT_EQ(-1, byte_check(m->p, LEN, 0));
	for (int i = 0; write && i < NR; i++)
		EXPECT_EQ(-1, target_check(&n->slow.t, PIECE, seed, piece_pos(i)));
}

TEST_F_TIMEOUT(passthrough, unmap_read, 60)
{
	in_flight(_metadata, &self->n, &self->m, &self->grab, false, false);
}

TEST_F_TIMEOUT(passthrough, unmap_write, 60)
{
	in_flight(_metadata, &self->n, &self->m, &self->grab, true, false);
}

/* That they are not waited for says so: for other I/O mprotect() waits */
TEST_F_TIMEOUT(passthrough, protect_read, 60)
{
	in_flight(_metadata, &self->n, &self->m, &self->grab, false, true);
}

TEST_F_TIMEOUT(passthrough, protect_write, 60)
{
	in_flight(_metadata, &self->n, &self->m, &self->grab, true, true);
}

/* A request that is never issued: the device does not know the command */
TEST_F_TIMEOUT(passthrough, refused, 60)
{
	struct nvme_passthru_cmd cmd = {
		.opcode = 2,
		.nsid = self->n.ns.id,
		.addr = (unsigned long)self->m.p,
		.data_len = PIECE,
		/* behind the end */
		.cdw10 = ~0U,
		.cdw12 = PIECE / self->n.ns.block - 1,
	};
	unsigned long pinned;

	EXPECT_LT(0, ioctl(self->n.ns.fd, NVME_IOCTL_IO_CMD, &cmd));
	EXPECT_EQ(0, pins_left());
	/* Nothing is left that this would pin */
	pinned = vmstat("nopin_pinned");
	ASSERT_EQ(0, madvise(self->m.p, self->m.len, MADV_DONTNEED));
	/* Longer than a request can be */
	cmd.data_len = 2 * MB;
	cmd.cdw12 = 2 * MB / self->n.ns.block - 1;
	EXPECT_EQ(-1, ioctl(self->n.ns.fd, NVME_IOCTL_IO_CMD, &cmd));
	ASSERT_EQ(0, madvise(self->m.p, self->m.len, MADV_DONTNEED));
	EXPECT_EQ(pinned, vmstat("nopin_pinned"));
}

TEST_HARNESS_MAIN
