// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers registered with io_uring, pinned and not: they work the same, but for
 * what is said where a test looks at the mode. A buffer without pins is a range
 * of addresses (R1, R15), and translations that are kept must not outlive the
 * mapping (R1).
 *
 * I/O in flight while the mapping changes is in lifetime.c, variants fixed_*.
 */
#include <arpa/inet.h>
#include <linux/nvme_ioctl.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define CHOICE		NOPIN_DIR "io_uring"
#define LEN		(4 * MB)
/* Walks of 16 KiB after which translations of 2 MiB are kept for sure */
#define WARM		200

/*
 * Submit as many entries. With SQPOLL, earlier ones may count that have completed
 * by now, until the kernel thread says that it has taken them.
 */
static int submit(struct io_uring *ring, int nr)
{
	int ret = io_uring_submit(ring);

	if (ret > nr && ring->flags & IORING_SETUP_SQPOLL)
		return nr;
	return ret;
}

/* One request from start to end */
static long one(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	long res;
	int ret;

	ret = submit(ring, 1);
	if (ret != 1)
		return ret < 0 ? ret : -EIO;
	ret = io_uring_wait_cqe(ring, &cqe);
	if (ret)
		return ret;
	res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return res;
}

static long fixed(struct io_uring *ring, int fd, bool write, void *buf,
		  size_t len, off_t pos, int index, unsigned int flags)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (!sqe)
		return -EBUSY;
	if (write)
		io_uring_prep_write_fixed(sqe, fd, buf, len, pos, index);
	else
		io_uring_prep_read_fixed(sqe, fd, buf, len, pos, index);
	sqe->flags |= flags;
	return one(ring);
}

/* Use all of a buffer until its translations are kept; 0 or -errno */
static int warm(struct io_uring *ring, int fd, char *buf, size_t len)
{
	for (int i = 0; i < WARM; i++) {
		long ret = fixed(ring, fd, i % 2, buf + i * 16 * KB % len,
				 16 * KB, 0, 0, 0);

		if (ret != 16 * KB)
			return ret < 0 ? ret : -EIO;
	}
	return 0;
}

/* What /proc says of a ring's buffer: -1 pinned, else pages valid */
static int buffer_line(struct io_uring *ring, int index)
{
	unsigned int n, nr = 0;
	char line[256];
	int ret = -2;
	FILE *f;

	snprintf(line, sizeof(line), "/proc/self/fdinfo/%d", ring->ring_fd);
	f = fopen(line, "r");
	if (!f)
		return -2;
	while (fgets(line, sizeof(line), f)) {
		char *what = strstr(line, ": 0x");

		if (!what || sscanf(line, "%u:", &n) != 1 || n != (unsigned int)index)
			continue;
		ret = -1;
		what = strstr(what, " nopin, ");
		if (what && sscanf(what, " nopin, %u of", &nr) == 1)
			ret = nr;
	}
	fclose(f);
	return ret;
}

/* It says nothing while somebody, like the thread of SQPOLL, has the ring locked */
static int buffer_info(struct io_uring *ring, int index)
{
	int ret = buffer_line(ring, index);

	for (int i = 0; i < 100 && ret == -2; i++) {
		usleep(1000);
		ret = buffer_line(ring, index);
	}
	return ret;
}

static unsigned long status_kb(const char *field)
{
	return proc_kb("/proc/self/status", field);
}

FIXTURE(ring) {
	struct target t;
	struct io_uring ring;
	unsigned int sqe_flags;
};

FIXTURE_VARIANT(ring) {
	unsigned int setup;
	unsigned int sqe_flags;
};

FIXTURE_VARIANT_ADD(ring, plain) {};
FIXTURE_VARIANT_ADD(ring, sqpoll) { .setup = IORING_SETUP_SQPOLL };
FIXTURE_VARIANT_ADD(ring, defer) {
	.setup = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN };
FIXTURE_VARIANT_ADD(ring, worker) { .sqe_flags = IOSQE_ASYNC };

FIXTURE_SETUP(ring)
{
	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&self->t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, io_uring_queue_init(16, &self->ring, variant->setup));
	self->sqe_flags = variant->sqe_flags;
}

FIXTURE_TEARDOWN(ring)
{
}

/*
 * What is there when a buffer is registered is looked up then, for both directions;
 * what was never touched stays so.
 */
TEST_F(ring, known)
{
	unsigned long before;
	struct mem m;
	char *p;

	if (!nopin())
		SKIP(return, "nothing is looked up for pinned buffers");
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 6 * MB));
	memset(m.p, 1, m.len);
	p = (char *)ALIGN_UP((unsigned long)m.p, 2 * MB);
	ASSERT_EQ(0, madvise(p + 2 * MB, 2 * MB, MADV_DONTNEED));
	ASSERT_EQ(0, ring_buffer(&self->ring, p, 4 * MB));
	EXPECT_EQ(2 * MB / PAGE, buffer_info(&self->ring, 0));

	before = vmstat("nopin_revalidate");
	for (size_t off = 0; off < 2 * MB; off += 64 * KB)
		for (int write = 0; write <= 1; write++)
			ASSERT_EQ(64 * KB, fixed(&self->ring, self->t.fd, write, p + off,
						 64 * KB, 0, 0, self->sqe_flags));
	EXPECT_EQ(before, vmstat("nopin_revalidate"));
	ASSERT_EQ(64 * KB, fixed(&self->ring, self->t.fd, false, p + 2 * MB, 64 * KB, 0,
				 0, self->sqe_flags));
	EXPECT_LT(before, vmstat("nopin_revalidate"));
	EXPECT_EQ((2 * MB + 64 * KB) / PAGE, buffer_info(&self->ring, 0));
	mem_put(&m);
}

/*
 * All kinds of memory, before and after their translations are kept. In a kernel
 * that checks its locks, where all is slow, half of them with half of the rings.
 */
TEST_F_TIMEOUT(ring, memory, 120)
{
	static const enum mem_kind kinds[] = {
		MEM_ANON, MEM_THP, MEM_THP_PTE, MEM_HUGETLB, MEM_SHMEM,
		MEM_PRIVATE_FILE, MEM_SHARED_EXT4, MEM_SHARED_XFS, NR_MEM
	};
	static const struct {
		size_t off, len;
	} part[] = {
		{ 0, 4 * KB }, { 512, 512 }, { 3 * KB, 2 * KB },
		{ 64 * KB, 64 * KB }, { 2 * MB - 8 * KB, 16 * KB },
		{ MB + 512, MB }, { 0, LEN }, { 0, 0 }
	};
	struct io_uring *ring = &self->ring;
	int fd = self->t.fd;

	for (int k = 0; kinds[k] != NR_MEM; k++) {
		unsigned long acquired = vmstat("nr_foll_pin_acquired");
		unsigned long pinned = vmstat("nopin_pinned");
		unsigned long spoilt = fallback("nowait") + fallback("race");
		const char *name = mem_name[kinds[k]];
		struct mem m;
		int ret;

		if (with_lockdep() && k % 2 == !variant->setup)
			continue;
		ASSERT_EQ(0, mem_get(&m, kinds[k], LEN)) TH_LOG("%s", name);
		ret = ring_buffer(ring, m.p, LEN);
		/* Pinned for long, a file's pages would be a problem */
		if (!nopin() && kinds[k] >= MEM_SHARED_EXT4) {
			EXPECT_GT(0, ret) TH_LOG("%s", name);
			mem_put(&m);
			continue;
		}
		ASSERT_EQ(0, ret) TH_LOG("%s", name);
		if (!nopin())
			EXPECT_LT(acquired, vmstat("nr_foll_pin_acquired"));
		for (int round = 0; round < 3; round++) {
			for (int i = 0; part[i].len; i++) {
				char *p = m.p + part[i].off;
				size_t len = part[i].len;
				uint64_t seed = k * 100 + round * 10 + i;

				pat_fill(p, len, seed, 0);
				ASSERT_EQ(len, fixed(ring, fd, true, p, len, 0,
						     0, self->sqe_flags))
					TH_LOG("%s", name);
				ASSERT_EQ(-1, target_check(&self->t, len, seed, 0))
					TH_LOG("%s", name);
				ASSERT_EQ(0, target_fill(&self->t, len, ~seed, 0));
				ASSERT_EQ(len, fixed(ring, fd, false, p, len, 0,
						     0, self->sqe_flags))
					TH_LOG("%s", name);
				ASSERT_EQ(-1, pat_check(p, len, ~seed, 0))
					TH_LOG("%s, %zu at %zu", name, len,
					       part[i].off);
			}
		}
		if (nopin()) {
			EXPECT_EQ(0, status_kb("VmPin")) TH_LOG("%s", name);
			/* Writeback of the file may have been in the way */
			if (kinds[k] < MEM_SHARED_EXT4 ||
			    spoilt == fallback("nowait") + fallback("race"))
				/*
				 * None but for an invalidation that lost its
				 * patience, which a slow machine may bring about
				 */
				EXPECT_EQ(vmstat("nopin_pinned") - pinned,
					  vmstat("nr_foll_pin_acquired") - acquired)
					TH_LOG("%s", name);
			/* Writeback makes what devices write look clean */
			if (kinds[k] < MEM_SHARED_EXT4)
				EXPECT_LT(0, buffer_info(ring, 0)) TH_LOG("%s", name);
		} else {
			EXPECT_EQ(-1, buffer_info(ring, 0));
		}
		ASSERT_EQ(0, io_uring_unregister_buffers(ring));
		mem_put(&m);
	}
}

TEST_F(ring, errors)
{
	struct io_uring *ring = &self->ring;
	unsigned int flag = nopin() ? IORING_RSRC_REGISTER_NOPIN : 0;
	struct iovec iov;
	char *hole, *holed;
	struct mem m;

	ASSERT_EQ(0, mem_get(&m, MEM_ANON, MB));
	hole = anon_map(MB);
	ASSERT_NE(MAP_FAILED, hole);
	ASSERT_EQ(0, munmap(hole, MB));

	EXPECT_EQ(-EFAULT, ring_buffer(ring, hole, MB));
	/* All of it has to be mapped: not so the end, or a page in the middle */
	holed = anon_map(MB);
	ASSERT_NE(MAP_FAILED, holed);
	ASSERT_EQ(0, munmap(holed + MB - PAGE, PAGE));
	EXPECT_EQ(-EFAULT, ring_buffer(ring, holed, MB));
	EXPECT_EQ(-EFAULT, ring_buffer(ring, holed + MB / 2, MB / 2 - PAGE + 1));
	ASSERT_EQ(0, munmap(holed + MB / 2, PAGE));
	EXPECT_EQ(-EFAULT, ring_buffer(ring, holed, MB - PAGE));
	EXPECT_EQ(-EFAULT, ring_buffer(ring, holed + MB / 2, PAGE));
	EXPECT_EQ(-EFAULT, ring_buffer(ring, holed + MB / 2, 2 * PAGE));
	/* What there is of it can be had, although it has not been touched */
	ASSERT_EQ(0, ring_buffer(ring, holed, MB / 2));
	ASSERT_EQ(0, io_uring_unregister_buffers(ring));
	EXPECT_EQ(-EFAULT, ring_buffer(ring, (void *)0xffff888000000000, PAGE));
	EXPECT_EQ(-EOVERFLOW, ring_buffer(ring, (void *)-PAGE, PAGE));
	EXPECT_EQ(-EFAULT, ring_buffer(ring, NULL, PAGE));
	EXPECT_EQ(-EFAULT, ring_buffer(ring, m.p, 0));
	EXPECT_EQ(-EFAULT, ring_buffer(ring, m.p, GB + 1));
	iov = (struct iovec) { m.p, MB };
	EXPECT_EQ(-EINVAL, ring_buffers_flags(ring, &iov, 1, flag | 1 << 5));
	EXPECT_EQ(-EINVAL, ring_buffers_flags(ring, &iov, 0, flag));
	EXPECT_EQ(-EINVAL, ring_buffers_flags(ring, &iov, 1 << 15, flag));
	EXPECT_EQ(-ENXIO, io_uring_unregister_buffers(ring));
	if (nopin()) {
		struct io_uring_rsrc_register rr = {
			.nr = 1, .flags = flag, .data = (unsigned long)&self->t.fd,
		};

		EXPECT_EQ(-EINVAL, ring_register(ring, IORING_REGISTER_FILES2,
						 &rr, sizeof(rr)));
	}

	ASSERT_EQ(0, ring_buffer(ring, m.p + 512, MB / 2));
	EXPECT_EQ(-EBUSY, ring_buffer(ring, m.p, MB));
	EXPECT_EQ(4096, fixed(ring, self->t.fd, false, m.p + 512, 4096, 0, 0,
			      self->sqe_flags));
	/* Not in the buffer, although it is mapped */
	EXPECT_EQ(-EFAULT, fixed(ring, self->t.fd, false, m.p, 4096, 0, 0,
				 self->sqe_flags));
	EXPECT_EQ(-EFAULT, fixed(ring, self->t.fd, false, m.p + MB / 2, 4096, 0,
				 0, self->sqe_flags));
	EXPECT_EQ(-EFAULT, fixed(ring, self->t.fd, false, m.p + 512, 4096, 0, 1,
				 self->sqe_flags));
	/* In the buffer, and not aligned: address, length, position */
	memset(m.p, GRAB_BYTE, m.len);
	for (int write = 0; write < 2; write++) {
		EXPECT_EQ(-EINVAL, fixed(ring, self->t.fd, write, m.p + 513, 4096, 0, 0,
					 self->sqe_flags));
		EXPECT_EQ(-EINVAL, fixed(ring, self->t.fd, write, m.p + 512, 4095, 0, 0,
					 self->sqe_flags));
		EXPECT_EQ(-EINVAL, fixed(ring, self->t.fd, write, m.p + 512, 4096, 1, 0,
					 self->sqe_flags));
	}
	EXPECT_EQ(-1, byte_check(m.p, m.len, GRAB_BYTE));
	ASSERT_EQ(0, io_uring_unregister_buffers(ring));
	EXPECT_EQ(-EFAULT, fixed(ring, self->t.fd, false, m.p + 512, 4096, 0, 0,
				 self->sqe_flags));
}

/* A table of slots that are filled, replaced and emptied, with tags */
TEST_F(ring, update)
{
	struct io_uring *ring = &self->ring;
	struct io_uring_rsrc_register rr = {
		.nr = 4, .flags = IORING_RSRC_REGISTER_SPARSE |
			 (nopin() ? IORING_RSRC_REGISTER_NOPIN : 0),
	};
	struct io_uring_cqe *cqe;
	struct iovec iov;
	struct mem a, b;
	__u64 tag;

	ASSERT_EQ(0, mem_get(&a, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, mem_get(&b, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, target_fill(&self->t, 64 * KB, 1, 0));
	ASSERT_EQ(0, ring_register(ring, IORING_REGISTER_BUFFERS2, &rr, sizeof(rr)));
	EXPECT_EQ(-EFAULT, fixed(ring, self->t.fd, false, a.p, PAGE, 0, 2,
				 self->sqe_flags));

	iov = (struct iovec) { a.p, a.len };
	tag = 77;
	ASSERT_EQ(1, io_uring_register_buffers_update_tag(ring, 2, &iov, &tag, 1));
	EXPECT_EQ(a.len, fixed(ring, self->t.fd, false, a.p, a.len, 0, 2,
			       self->sqe_flags));
	EXPECT_EQ(-1, pat_check(a.p, a.len, 1, 0));
	EXPECT_EQ(nopin(), buffer_info(ring, 2) >= 0);

	iov = (struct iovec) { b.p, b.len };
	tag = 78;
	ASSERT_EQ(1, io_uring_register_buffers_update_tag(ring, 2, &iov, &tag, 1));
	ASSERT_EQ(0, io_uring_wait_cqe(ring, &cqe));
	EXPECT_EQ(77, cqe->user_data);
	io_uring_cqe_seen(ring, cqe);
	EXPECT_EQ(-EFAULT, fixed(ring, self->t.fd, false, a.p, PAGE, 0, 2,
				 self->sqe_flags));
	EXPECT_EQ(b.len, fixed(ring, self->t.fd, false, b.p, b.len, 0, 2,
			       self->sqe_flags));
	EXPECT_EQ(-1, pat_check(b.p, b.len, 1, 0));
	EXPECT_EQ(-EINVAL, io_uring_register_buffers_update_tag(ring, 4, &iov,
								&tag, 1));
	/* Something that cannot be registered changes nothing */
	iov.iov_base = (void *)0xffff888000000000;
	EXPECT_EQ(-EFAULT, io_uring_register_buffers_update_tag(ring, 2, &iov,
								&tag, 1));
	EXPECT_EQ(b.len, fixed(ring, self->t.fd, false, b.p, b.len, 0, 2,
			       self->sqe_flags));
	ASSERT_EQ(0, io_uring_unregister_buffers(ring));
}

/* Requests that wait for one another */
TEST_F(ring, links)
{
	struct io_uring *ring = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct mem m;

	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, ring_buffer(ring, m.p, m.len));
	for (int round = 0; round < 50; round++) {
		pat_fill(m.p, 16 * KB, round, 0);
		memset(m.p + 32 * KB, 0, 16 * KB);
		sqe = io_uring_get_sqe(ring);
		io_uring_prep_write_fixed(sqe, self->t.fd, m.p, 16 * KB, 0, 0);
		sqe->flags |= IOSQE_IO_LINK | self->sqe_flags;
		sqe = io_uring_get_sqe(ring);
		io_uring_prep_read_fixed(sqe, self->t.fd, m.p + 32 * KB, 16 * KB,
					 0, 0);
		sqe->flags |= self->sqe_flags;
		ASSERT_EQ(2, submit(ring, 2));
		for (int i = 0; i < 2; i++) {
			ASSERT_EQ(0, io_uring_wait_cqe(ring, &cqe));
			EXPECT_EQ(16 * KB, cqe->res);
			io_uring_cqe_seen(ring, cqe);
		}
		ASSERT_EQ(-1, pat_check(m.p + 32 * KB, 16 * KB, round, 0));
	}
}

/* The buffers of a ring that ends go on in one that has cloned them */
TEST_F(ring, clone)
{
	struct {
		__u32 src_fd, flags, pad[6];
	} arg = {};
	struct io_uring src;
	struct mem m;

	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, io_uring_queue_init(4, &src, 0));
	ASSERT_EQ(0, ring_buffer(&src, m.p, m.len));
	arg.src_fd = src.ring_fd;
	ASSERT_EQ(0, ring_register(&self->ring, REGISTER_CLONE_BUFFERS, &arg, 1));
	EXPECT_EQ(buffer_info(&src, 0), buffer_info(&self->ring, 0));
	ASSERT_EQ(0, io_uring_unregister_buffers(&src));
	io_uring_queue_exit(&src);
	usleep(100000);
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, target_fill(&self->t, 16 * KB, i, 0));
		EXPECT_EQ(16 * KB, fixed(&self->ring, self->t.fd, false, m.p,
					 16 * KB, 0, 0, self->sqe_flags));
		EXPECT_EQ(-1, pat_check(m.p, 16 * KB, i, 0));
	}
	ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
}

/*
 * Some buffers of a table go into the middle of another one, and take the place of
 * what is there. Linux 6.12 can only clone all of them into a ring without a table.
 */
TEST_F(ring, clone_part)
{
	struct {
		__u32 src_fd, flags, src_off, dst_off, nr, pad[3];
	} arg = {};
	struct io_uring *ring = &self->ring, src;
	struct iovec iov[4];
	struct mem m, own;
	int ret;

	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, mem_get(&own, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, io_uring_queue_init(4, &src, 0));
	for (int i = 0; i < 4; i++)
		iov[i] = (struct iovec) { m.p + i * 16 * KB, 16 * KB };
	ASSERT_EQ(0, ring_buffers_flags(&src, iov, 4,
					nopin() ? IORING_RSRC_REGISTER_NOPIN : 0));
	for (int i = 0; i < 4; i++)
		iov[i].iov_base = own.p + i * 16 * KB;
	/* Pinned, and so is what is put there later */
	ASSERT_EQ(0, ring_buffers_flags(ring, iov, 4, 0));
	arg.src_fd = src.ring_fd;
	arg.flags = 1 << 1;	/* IORING_REGISTER_DST_REPLACE */
	arg.src_off = 2;
	arg.dst_off = 1;
	arg.nr = 2;
	ret = ring_register(ring, REGISTER_CLONE_BUFFERS, &arg, 1);
	/* Linux 6.12 looks whether there is a table before it looks at the flags */
	if (ret == -EINVAL || ret == -EBUSY)
		SKIP(return, "no cloning of parts in this kernel");
	ASSERT_EQ(0, ret);
	arg.nr = 5;
	EXPECT_GT(0, ring_register(ring, REGISTER_CLONE_BUFFERS, &arg, 1));
	EXPECT_EQ(buffer_info(&src, 2), buffer_info(ring, 1));
	EXPECT_EQ(buffer_info(&src, 3), buffer_info(ring, 2));
	EXPECT_EQ(-1, buffer_info(ring, 0));
	EXPECT_EQ(-1, buffer_info(ring, 3));
	ASSERT_EQ(0, io_uring_unregister_buffers(&src));
	io_uring_queue_exit(&src);
	usleep(100000);
	for (int i = 0; i < 4; i++) {
		char *p = i == 1 || i == 2 ? m.p + (i + 1) * 16 * KB :
					     own.p + i * 16 * KB;

		ASSERT_EQ(0, target_fill(&self->t, 8 * KB, i, 0));
		EXPECT_EQ(8 * KB, fixed(ring, self->t.fd, false, p + KB, 8 * KB,
					0, i, self->sqe_flags));
		EXPECT_EQ(-1, pat_check(p + KB, 8 * KB, i, 0));
		/* That of its neighbour */
		EXPECT_EQ(-EFAULT, fixed(ring, self->t.fd, false, p + 12 * KB,
					 8 * KB, 0, i, self->sqe_flags));
	}
	ASSERT_EQ(1, io_uring_register_buffers_update_tag(ring, 3, &iov[3], NULL, 1));
	EXPECT_EQ(-1, buffer_info(ring, 3));

	/* Nothing of its own is left: from now on it does as the source does */
	ASSERT_EQ(0, io_uring_queue_init(4, &src, 0));
	ASSERT_EQ(0, ring_buffers_flags(&src, iov, 4,
					nopin() ? IORING_RSRC_REGISTER_NOPIN : 0));
	arg.src_fd = src.ring_fd;
	arg.src_off = 0;
	arg.dst_off = 0;
	arg.nr = 4;
	ASSERT_EQ(0, ring_register(ring, REGISTER_CLONE_BUFFERS, &arg, 1));
	io_uring_queue_exit(&src);
	ASSERT_EQ(1, io_uring_register_buffers_update_tag(ring, 3, &iov[3], NULL, 1));
	EXPECT_EQ(nopin(), buffer_info(ring, 3) >= 0);
	ASSERT_EQ(0, io_uring_unregister_buffers(ring));
}

/* A ring clones its own buffers, and its table grows */
TEST_F(ring, clone_self)
{
	struct {
		__u32 src_fd, flags, src_off, dst_off, nr, pad[3];
	} arg = { .src_fd = self->ring.ring_fd, .dst_off = 3, .nr = 2 };
	struct io_uring *ring = &self->ring;
	static const int from[] = { 0, 1, -1, 0, 1 };
	struct iovec iov[2];
	struct mem m;
	int ret;

	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	for (int i = 0; i < 2; i++)
		iov[i] = (struct iovec) { m.p + i * 32 * KB, 32 * KB };
	ASSERT_EQ(0, ring_buffers_flags(ring, iov, 2,
					nopin() ? IORING_RSRC_REGISTER_NOPIN : 0));
	EXPECT_GT(0, ring_register(ring, REGISTER_CLONE_BUFFERS, &arg, 1));
	arg.flags = 1 << 1;	/* IORING_REGISTER_DST_REPLACE */
	ret = ring_register(ring, REGISTER_CLONE_BUFFERS, &arg, 1);
	if (ret == -EINVAL || ret == -EBUSY)
		SKIP(return, "no cloning of parts in this kernel");
	ASSERT_EQ(0, ret);
	for (int i = 0; i < 5; i++) {
		char *p = from[i] < 0 ? m.p : iov[from[i]].iov_base;

		ASSERT_EQ(0, target_fill(&self->t, 32 * KB, i, 0));
		ret = fixed(ring, self->t.fd, false, p, 32 * KB, 0, i, self->sqe_flags);
		if (from[i] < 0) {
			EXPECT_EQ(-EFAULT, ret);
			continue;
		}
		EXPECT_EQ(32 * KB, ret);
		EXPECT_EQ(-1, pat_check(p, 32 * KB, i, 0));
		EXPECT_EQ(nopin(), buffer_info(ring, i) >= 0);
	}
	/* The table goes on as it was */
	ASSERT_EQ(1, io_uring_register_buffers_update_tag(ring, 2, iov, NULL, 1));
	EXPECT_EQ(nopin(), buffer_info(ring, 2) >= 0);
	ASSERT_EQ(0, io_uring_unregister_buffers(ring));
}

/* Those of later kernels than liburing may know */
#define OP_READV_FIXED	60
#define OP_WRITEV_FIXED	61

static bool has_op(unsigned int op)
{
	struct io_uring_probe *probe = io_uring_get_probe();
	bool has = probe && op <= probe->last_op &&
		   probe->ops[op].flags & IO_URING_OP_SUPPORTED;

	io_uring_free_probe(probe);
	return has;
}

static long fixedv(struct io_uring *ring, int fd, bool write,
		   const struct iovec *iov, unsigned int nr, off_t pos,
		   unsigned int flags)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (!sqe)
		return -EBUSY;
	io_uring_prep_readv(sqe, fd, iov, nr, pos);
	sqe->opcode = write ? OP_WRITEV_FIXED : OP_READV_FIXED;
	sqe->buf_index = 0;
	sqe->flags |= flags;
	return one(ring);
}

/* Several pieces of a registered buffer, each of which has to be within it */
TEST_F(ring, vectored)
{
	struct io_uring *ring = &self->ring;
	struct iovec iov[4];
	int fd = self->t.fd;
	struct mem m;

	if (!has_op(OP_WRITEV_FIXED))
		SKIP(return, "no IORING_OP_WRITEV_FIXED in this kernel");
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, MB));
	ASSERT_EQ(0, ring_buffer(ring, m.p, MB / 2));
	for (unsigned int round = 0; round < 40; round++) {
		unsigned int nr = round % 4 + 1;
		size_t len = 0;
		off_t pos = 0;

		for (unsigned int i = 0; i < nr; i++) {
			/* Not in the order of addresses */
			iov[i].iov_base = m.p + (nr - i) * 100 * KB - 512 * i;
			iov[i].iov_len = (i + 1) * 4 * KB + 512 * (round % 3);
			len += iov[i].iov_len;
		}
		for (unsigned int i = 0; i < nr; pos += iov[i++].iov_len)
			pat_fill(iov[i].iov_base, iov[i].iov_len, round, pos);
		ASSERT_EQ(len, fixedv(ring, fd, true, iov, nr, 0, self->sqe_flags));
		ASSERT_EQ(-1, target_check(&self->t, len, round, 0));
		ASSERT_EQ(0, target_fill(&self->t, len, ~round, 0));
		ASSERT_EQ(len, fixedv(ring, fd, false, iov, nr, 0, self->sqe_flags));
		pos = 0;
		for (unsigned int i = 0; i < nr; pos += iov[i++].iov_len)
			ASSERT_EQ(-1, pat_check(iov[i].iov_base, iov[i].iov_len,
						~round, pos));
	}

	for (int bad = 0; bad < 3; bad++) {
		for (int i = 0; i < 3; i++)
			iov[i] = (struct iovec) { m.p + i * 8 * KB, 4 * KB };
		/* Mapped, but not in the buffer */
		iov[bad].iov_base = m.p + MB / 2 - 512;
		EXPECT_EQ(-EFAULT, fixedv(ring, fd, false, iov, 3, 0, self->sqe_flags));
		iov[bad] = (struct iovec) { m.p, 0 };
		EXPECT_EQ(-EFAULT, fixedv(ring, fd, false, iov, 3, 0, self->sqe_flags));
		iov[bad] = (struct iovec) { m.p, -PAGE };
		EXPECT_GT(0, fixedv(ring, fd, false, iov, 3, 0, self->sqe_flags));
	}
	ASSERT_EQ(0, io_uring_unregister_buffers(ring));
	EXPECT_EQ(-EFAULT, fixedv(ring, fd, false, iov, 1, 0, self->sqe_flags));
}

/* More pieces than a request keeps room for: all pages, and not in their order */
TEST_F(ring, vectored_many)
{
	enum { NR = 128, STEP = 37 };
	struct io_uring *ring = &self->ring;
	unsigned long pins, pinned, bios;
	static struct iovec iov[NR];
	struct mem m;

	if (!has_op(OP_WRITEV_FIXED))
		SKIP(return, "no IORING_OP_WRITEV_FIXED in this kernel");
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, NR * PAGE));
	ASSERT_EQ(0, ring_buffer(ring, m.p, m.len));
	for (int i = 0; i < NR; i++)
		iov[i] = (struct iovec) { m.p + i * STEP % NR * PAGE, PAGE };
	pins = vmstat("nr_foll_pin_acquired");
	pinned = vmstat("nopin_pinned");
	bios = vmstat("nopin_bio");
	for (unsigned int round = 0; round < 3; round++) {
		for (int i = 0; i < NR; i++)
			pat_fill(iov[i].iov_base, PAGE, round, i * PAGE);
		ASSERT_EQ(m.len, fixedv(ring, self->t.fd, true, iov, NR, 0,
					self->sqe_flags));
		EXPECT_EQ(-1, target_check(&self->t, m.len, round, 0));
		ASSERT_EQ(0, target_fill(&self->t, m.len, ~round, 0));
		ASSERT_EQ(m.len, fixedv(ring, self->t.fd, false, iov, NR, 0,
					self->sqe_flags));
		for (int i = 0; i < NR; i++)
			EXPECT_EQ(-1, pat_check(iov[i].iov_base, PAGE, ~round,
						i * PAGE));
	}
	/* Whatever pins there are were taken when the buffer was registered */
	EXPECT_EQ(vmstat("nopin_pinned") - pinned,
		  vmstat("nr_foll_pin_acquired") - pins);
	EXPECT_EQ(nopin(), vmstat("nopin_bio") > bios);
	ASSERT_EQ(0, io_uring_unregister_buffers(ring));
}

/*
 * R15: a ring that another process inherits works on the memory of the one that
 * registered the buffer
 */
TEST(foreign)
{
	struct io_uring ring;
	struct target t;
	struct mem m;
	pid_t pid;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, io_uring_queue_init(8, &ring, 0));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, target_fill(&t, 64 * KB, 5, 0));
	ASSERT_EQ(0, ring_buffer(&ring, m.p, m.len));
	ASSERT_EQ(4 * KB, fixed(&ring, t.fd, false, m.p, 4 * KB, 0, 0, 0));
	memset(m.p, GRAB_BYTE, m.len);
	pid = fork();
	if (!pid) {
		memset(m.p, 1, m.len);
		if (fixed(&ring, t.fd, false, m.p + 512, 48 * KB, 0, 0, 0) != 48 * KB)
			_exit(1);
		if (byte_check(m.p, m.len, 1) >= 0)
			_exit(2);
		/* A write takes it from there as well */
		if (fixed(&ring, t.fd, true, m.p + 512, 16 * KB, 64 * KB, 0, 0) !=
		    16 * KB)
			_exit(3);
		/* Not in the buffer, or no buffer */
		if (fixed(&ring, t.fd, false, m.p + 63 * KB, 4 * KB, 0, 0, 0) !=
		    -EFAULT)
			_exit(4);
		if (has_op(OP_READV_FIXED)) {
			struct iovec iov[2] = {
				{ m.p + 60 * KB, KB }, { m.p + 56 * KB, KB } };

			if (fixedv(&ring, t.fd, false, iov, 2, 0, 0) != 2 * KB)
				_exit(5);
			if (fixedv(&ring, t.fd, true, iov, 2, 80 * KB, 0) != 2 * KB)
				_exit(6);
			if (byte_check(m.p, m.len, 1) >= 0)
				_exit(7);
		}
		_exit(0);
	}
	EXPECT_EQ(0, child_reap(pid));
	EXPECT_EQ(-1, byte_check(m.p, 512, GRAB_BYTE));
	EXPECT_EQ(-1, pat_check(m.p + 512, 48 * KB, 5, 0));
	if (has_op(OP_READV_FIXED)) {
		EXPECT_EQ(-1, pat_check(m.p + 60 * KB, KB, 5, 0));
		EXPECT_EQ(-1, pat_check(m.p + 56 * KB, KB, 5, KB));
		memset(m.p + 60 * KB, GRAB_BYTE, KB);
		memset(m.p + 56 * KB, GRAB_BYTE, KB);
		ASSERT_EQ(0, target_read(&t, m.p, 2 * KB, 80 * KB));
		EXPECT_EQ(-1, pat_check(m.p, 2 * KB, 5, 0));
	}
	EXPECT_EQ(-1, byte_check(m.p + 512 + 48 * KB, 15 * KB + 512, GRAB_BYTE));
	memset(m.p, 0, m.len);
	ASSERT_EQ(0, target_read(&t, m.p, 16 * KB, 64 * KB));
	EXPECT_EQ(-1, pat_check(m.p, 16 * KB, 5, 0));
}

/* All that is between the parts is pinned for the request, so that must not be too much */
TEST(foreign_far)
{
	const size_t len = 4 * GB;
	struct io_uring ring;
	struct target t;
	pid_t pid;
	char *p;

	NEED("NOPIN_RAW");
	if (!has_op(OP_READV_FIXED))
		SKIP(return, "no IORING_OP_READV_FIXED in this kernel");
	if (!nopin())
		SKIP(return, "pins: all of the buffer was pinned when it was registered");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, io_uring_queue_init(8, &ring, 0));
	p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, ring_buffer(&ring, p, len));
	pid = fork();
	if (!pid) {
		struct iovec iov[2] = { { p, 4 * KB }, { p + MB, 4 * KB } };

		if (fixedv(&ring, t.fd, false, iov, 2, 0, 0) != 8 * KB)
			_exit(1);
		iov[1].iov_base = p + len - 4 * KB;
		if (fixedv(&ring, t.fd, false, iov, 2, 0, 0) != -EFAULT)
			_exit(2);
		_exit(0);
	}
	EXPECT_EQ(0, child_reap(pid));
	EXPECT_GT(64UL << 10, status_kb("VmRSS"));
}

/* R15: the buffer of a process that is gone; its pins would have kept it */
TEST(foreign_gone)
{
	struct io_uring ring;
	struct target t;
	char *addr;
	pid_t pid;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, io_uring_queue_init(8, &ring, 0));
	/* The same address is in use here, by something else */
	addr = anon_map(64 * KB);
	ASSERT_NE(MAP_FAILED, addr);
	memset(addr, GRAB_BYTE, 64 * KB);
	pid = fork();
	if (!pid) {
		memset(addr, 1, 64 * KB);
		_exit(ring_buffer(&ring, addr, 64 * KB) ? 1 : 0);
	}
	ASSERT_EQ(0, child_reap(pid));
	/* The last of the mm goes when the task has been reaped, or shortly after */
	usleep(100000);
	EXPECT_EQ(nopin() ? -EFAULT : 16 * KB,
		  fixed(&ring, t.fd, false, addr, 16 * KB, 0, 0, 0));
	EXPECT_EQ(-1, byte_check(addr, 64 * KB, GRAB_BYTE));
}

static int tcp_pair(int socks[2])
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(addr);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	if (l < 0 || bind(l, (void *)&addr, len) || listen(l, 1) ||
	    getsockname(l, (void *)&addr, &len))
		return -errno;
	socks[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (socks[0] < 0 || connect(socks[0], (void *)&addr, len))
		return -errno;
	socks[1] = accept(l, NULL, NULL);
	close(l);
	return socks[1] < 0 ? -errno : 0;
}

/* IORING_OP_SEND and IORING_OP_RECV, of a registered buffer */
static struct io_uring_sqe *sock_queue(struct io_uring *ring, bool send, int fd,
				       void *buf, size_t len, unsigned int flags)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (!sqe)
		return NULL;
	io_uring_prep_rw(send ? IORING_OP_SEND : IORING_OP_RECV, sqe, fd, buf, len, 0);
	sqe->ioprio = IORING_RECVSEND_FIXED_BUF;
	sqe->buf_index = 0;
	sqe->msg_flags = MSG_WAITALL;
	sqe->flags |= flags;
	return sqe;
}

static long sock_op(struct io_uring *ring, bool send, int fd, void *buf, size_t len,
		    unsigned int flags)
{
	return sock_queue(ring, send, fd, buf, len, flags) ? one(ring) : -EBUSY;
}

/* Sockets copy, from the buffer and into it, whatever it is */
TEST_F_TIMEOUT(ring, send_recv, 60)
{
	struct io_uring *ring = &self->ring;
	unsigned int flags = self->sqe_flags;
	const size_t len = 48 * KB;
	unsigned long pins, pinned;
	struct mem m;

	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 128 * KB));
	ASSERT_EQ(0, ring_buffer(ring, m.p, 2 * 64 * KB - PAGE));
	pins = vmstat("nr_foll_pin_acquired");
	pinned = vmstat("nopin_pinned");
	for (int tcp = 0; tcp < 2; tcp++) {
		char *to = m.p + 64 * KB + 7, *from = m.p + 3;
		int socks[2];
		long ret;

		if (tcp ? tcp_pair(socks) : socketpair(AF_UNIX, SOCK_STREAM, 0, socks))
			SKIP(return, "no socket: %s", strerror(errno));
		for (int i = 0; i < 8; i++) {
			pat_fill(from, len, i, 0);
			memset(to, GRAB_BYTE, len);
			ret = sock_op(ring, true, socks[0], from, len, flags);
			if (ret == -EINVAL && !has_op(OP_WRITEV_FIXED))
				SKIP(return, "this kernel sends no registered buffers");
			ASSERT_EQ(len, ret);
			ASSERT_EQ(len, sock_op(ring, false, socks[1], to, len, flags));
			ASSERT_EQ(-1, pat_check(to, len, i, 0));
		}
		/* The reader is first, and waits */
		for (int i = 8; i < 12; i++) {
			struct io_uring_cqe *cqe;

			pat_fill(from, len, i, 0);
			memset(to, GRAB_BYTE, len);
			ASSERT_NE(NULL, sock_queue(ring, false, socks[1], to, len, flags));
			ASSERT_EQ(1, submit(ring, 1));
			usleep(20000);
			/* A range of addresses, whatever is there: see changed.mapping */
			if (nopin() && i % 2)
				ASSERT_EQ(0, madvise(m.p + 64 * KB, 48 * KB,
						     MADV_DONTNEED));
			ASSERT_EQ(len, write(socks[0], from, len));
			ASSERT_EQ(0, io_uring_wait_cqe(ring, &cqe));
			EXPECT_EQ(len, cqe->res);
			io_uring_cqe_seen(ring, cqe);
			EXPECT_EQ(-1, pat_check(to, len, i, 0));
		}
		/* Not in the buffer, but mapped; and not mapped for it */
		for (int send = 0; send < 2; send++) {
			EXPECT_EQ(-EFAULT, sock_op(ring, send, socks[!send],
						   m.p + 96 * KB, 32 * KB, flags));
			EXPECT_EQ(-EFAULT, sock_op(ring, send, socks[!send], m.p - 1, 2,
						   flags));
		}
		if (nopin()) {
			ASSERT_EQ(0, mprotect(m.p + 64 * KB, PAGE, PROT_NONE));
			ASSERT_EQ(5, write(socks[0], "hello", 5));
			EXPECT_EQ(-EFAULT, sock_op(ring, false, socks[1], to, 5, flags));
			ASSERT_EQ(0, mprotect(m.p + 64 * KB, PAGE,
					      PROT_READ | PROT_WRITE));
		}
		close(socks[0]);
		close(socks[1]);
	}
	EXPECT_EQ(vmstat("nopin_pinned") - pinned,
		  vmstat("nr_foll_pin_acquired") - pins);
	ASSERT_EQ(0, io_uring_unregister_buffers(ring));
}

/* R15, for sockets: the memory of the process that registered the buffer */
TEST(foreign_send)
{
	struct io_uring ring;
	int socks[2];
	struct mem m;
	pid_t pid;

	if (!has_op(OP_WRITEV_FIXED))
		SKIP(return, "this kernel sends no registered buffers");
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
	ASSERT_EQ(0, io_uring_queue_init(8, &ring, 0));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, ring_buffer(&ring, m.p, m.len));
	pat_fill(m.p, 32 * KB, 6, 0);
	memset(m.p + 32 * KB, GRAB_BYTE, 32 * KB);
	pid = fork();
	if (!pid) {
		memset(m.p, 1, m.len);
		if (sock_op(&ring, true, socks[0], m.p + 5, 16 * KB, 0) != 16 * KB)
			_exit(1);
		if (sock_op(&ring, false, socks[1], m.p + 40 * KB + 9, 16 * KB, 0) !=
		    16 * KB)
			_exit(2);
		if (sock_op(&ring, true, socks[0], m.p + 63 * KB, 4 * KB, 0) != -EFAULT)
			_exit(3);
		_exit(byte_check(m.p, m.len, 1) >= 0 ? 4 : 0);
	}
	EXPECT_EQ(0, child_reap(pid));
	EXPECT_EQ(-1, pat_check(m.p, 32 * KB, 6, 0));
	EXPECT_EQ(0, memcmp(m.p + 5, m.p + 40 * KB + 9, 16 * KB));
	EXPECT_EQ(-1, byte_check(m.p + 32 * KB, 8 * KB + 9, GRAB_BYTE));
	EXPECT_EQ(-1, byte_check(m.p + 56 * KB + 9, 8 * KB - 9, GRAB_BYTE));
}

FIXTURE(changed) {
	struct target t;
	struct io_uring ring;
	struct mem m;
	char *p;		/* translations are kept by 2 MiB */
};

FIXTURE_VARIANT(changed) {
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(changed, anon) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(changed, thp) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(changed, shmem) { .kind = MEM_SHMEM };

FIXTURE_SETUP(changed)
{
	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&self->t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, io_uring_queue_init(8, &self->ring, 0));
	ASSERT_EQ(0, mem_get(&self->m, variant->kind, LEN));
	ASSERT_EQ(0, ring_buffer(&self->ring, self->m.p, LEN));
	self->p = (char *)ALIGN_UP((unsigned long)self->m.p, 2 * MB);
	ASSERT_EQ(0, warm(&self->ring, self->t.fd, self->p, 2 * MB));
	if (nopin())
		ASSERT_LT(0, buffer_info(&self->ring, 0));
}

FIXTURE_TEARDOWN(changed)
{
}

#define RW(write, off, len) \
	fixed(&self->ring, self->t.fd, write, self->p + (off), len, 0, 0, 0)

/* Whatever was mapped there before, what is mapped there now is the buffer */
TEST_F_TIMEOUT(changed, mapping, 60)
{
	char *p = self->p;

	if (!nopin())
		SKIP(return, "a pinned buffer is a set of pages");
	for (int round = 0; round < 3; round++) {
		int seed = 40 + 10 * round;

		/* Pages that are thrown away, one in the middle and many */
		ASSERT_EQ(0, target_fill(&self->t, 64 * KB, seed, 0));
		ASSERT_EQ(0, madvise(p + 4 * KB, 4 * KB, MADV_DONTNEED));
		ASSERT_EQ(64 * KB, RW(false, 0, 64 * KB));
		EXPECT_EQ(-1, pat_check(p, 64 * KB, seed, 0));
		ASSERT_EQ(0, madvise(p, MB, MADV_DONTNEED));
		ASSERT_EQ(64 * KB, RW(false, 0, 64 * KB));
		EXPECT_EQ(-1, pat_check(p, 64 * KB, seed, 0));

		/* Something else at the same place */
		ASSERT_EQ(p, mmap(p, MB, PROT_READ | PROT_WRITE, MAP_PRIVATE |
				  MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		pat_fill(p, 64 * KB, seed + 1, 0);
		ASSERT_EQ(64 * KB, RW(true, 0, 64 * KB));
		EXPECT_EQ(-1, target_check(&self->t, 64 * KB, seed + 1, 0));
		ASSERT_EQ(0, target_fill(&self->t, 64 * KB, seed + 2, 0));
		ASSERT_EQ(64 * KB, RW(false, 0, 64 * KB));
		EXPECT_EQ(-1, pat_check(p, 64 * KB, seed + 2, 0));

		/* Only to be read: by the program, and by a device */
		ASSERT_EQ(0, mprotect(p, 64 * KB, PROT_READ));
		EXPECT_EQ(-EFAULT, RW(false, 0, 64 * KB));
		EXPECT_EQ(64 * KB, RW(true, 0, 64 * KB));
		ASSERT_EQ(0, mprotect(p, 64 * KB, PROT_NONE));
		EXPECT_EQ(-EFAULT, RW(true, 0, 64 * KB));
		ASSERT_EQ(0, mprotect(p, 64 * KB, PROT_READ | PROT_WRITE));
		EXPECT_EQ(-1, pat_check(p, 64 * KB, seed + 2, 0));
		EXPECT_EQ(64 * KB, RW(false, 0, 64 * KB));

		/* Swapped out: a worker fetches it */
		if (getenv("NOPIN_SWAP")) {
			pat_fill(p, 64 * KB, seed + 3, 0);
			ASSERT_EQ(0, madvise(p, 64 * KB, MADV_PAGEOUT));
			ASSERT_EQ(64 * KB, RW(true, 0, 64 * KB));
			EXPECT_EQ(-1, target_check(&self->t, 64 * KB, seed + 3, 0));
		}

		/* Gone, in part: nothing of it may be used */
		ASSERT_EQ(0, munmap(p + 32 * KB, 4 * KB));
		EXPECT_EQ(-EFAULT, RW(false, 32 * KB, 4 * KB));
		EXPECT_EQ(-EFAULT, RW(true, 32 * KB, 4 * KB));
		EXPECT_EQ(28 * KB, RW(false, 0, 28 * KB));
		ASSERT_EQ(p + 32 * KB, mmap(p + 32 * KB, 4 * KB,
					    PROT_READ | PROT_WRITE, MAP_PRIVATE |
					    MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		EXPECT_EQ(64 * KB, RW(false, 0, 64 * KB));
		ASSERT_EQ(0, warm(&self->ring, self->t.fd, p, 2 * MB));
	}
}

struct born {
	const char *p;
	uint64_t seed;
	bool shared;
};

static void born_main(int in, int out, void *arg)
{
	struct born *b = arg;

	await(in);
	_exit(!b->shared && pat_check(b->p, 64 * KB, b->seed, 0) >= 0);
}

/* A child that is born has the data of then, the parent those that come */
TEST_F_TIMEOUT(changed, fork, 60)
{
	char *p = self->p;
	struct proc child;

	for (int round = 0; round < 4; round++) {
		struct born b = { p, 60 + round, self->m.fd >= 0 };

		pat_fill(p, 64 * KB, b.seed, 0);
		ASSERT_EQ(0, proc_start(&child, born_main, &b));
		ASSERT_EQ(0, target_fill(&self->t, 64 * KB, 70 + round, 0));
		ASSERT_EQ(64 * KB, RW(false, 0, 64 * KB));
		EXPECT_EQ(-1, pat_check(p, 64 * KB, 70 + round, 0));
		ASSERT_EQ(0, tell(&child));
		EXPECT_EQ(0, proc_wait(&child));
	}
}

/* The file behind a buffer becomes shorter */
TEST(truncated)
{
	struct io_uring ring;
	struct target t;
	struct mem m;

	NEED("NOPIN_RAW");
	NEED("NOPIN_EXT4");
	if (!nopin())
		SKIP(return, "file mappings cannot be registered pinned");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, io_uring_queue_init(8, &ring, 0));
	ASSERT_EQ(0, mem_get(&m, MEM_SHARED_EXT4, LEN));
	ASSERT_EQ(0, ring_buffer(&ring, m.p, LEN));
	ASSERT_EQ(0, warm(&ring, t.fd, m.p, 2 * MB));
	ASSERT_EQ(0, ftruncate(m.fd, 64 * KB));
	EXPECT_EQ(64 * KB, fixed(&ring, t.fd, false, m.p, 64 * KB, 0, 0, 0));
	EXPECT_EQ(-EFAULT, fixed(&ring, t.fd, false, m.p + 64 * KB, 4 * KB, 0, 0, 0));
	EXPECT_EQ(-EFAULT, fixed(&ring, t.fd, true, m.p + 64 * KB, 4 * KB, 0, 0, 0));
	ASSERT_EQ(0, ftruncate(m.fd, LEN));
	ASSERT_EQ(0, target_fill(&t, 4 * KB, 3, 0));
	EXPECT_EQ(4 * KB, fixed(&ring, t.fd, false, m.p + 64 * KB, 4 * KB, 0, 0, 0));
	EXPECT_EQ(-1, pat_check(m.p + 64 * KB, 4 * KB, 3, 0));
}

/* Files that copy, or that hold on to the pages for a while */
TEST_F(changed, other_files)
{
	struct io_uring *ring = &self->ring;
	char *p = self->p, path[256];
	int fd, pipes[2], socks[2];
	uint64_t count = 3;

	/* Through the page cache */
	if (getenv("NOPIN_EXT4")) {
		snprintf(path, sizeof(path), "%s/fixed", getenv("NOPIN_EXT4"));
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
		ASSERT_LE(0, fd);
		unlink(path);
		pat_fill(p, 64 * KB, 90, 0);
		ASSERT_EQ(64 * KB, fixed(ring, fd, true, p, 64 * KB, 0, 0, 0));
		memset(p, 0, 64 * KB);
		ASSERT_EQ(64 * KB, fixed(ring, fd, false, p, 64 * KB, 0, 0, 0));
		EXPECT_EQ(-1, pat_check(p, 64 * KB, 90, 0));
		close(fd);
	}

	ASSERT_EQ(0, pipe(pipes));
	pat_fill(p, 4 * KB, 91, 0);
	ASSERT_EQ(4 * KB, fixed(ring, pipes[1], true, p, 4 * KB, 0, 0, 0));
	memset(p, 0, 4 * KB);
	ASSERT_EQ(4 * KB, fixed(ring, pipes[0], false, p, 4 * KB, 0, 0, 0));
	EXPECT_EQ(-1, pat_check(p, 4 * KB, 91, 0));

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
	ASSERT_EQ(4 * KB, fixed(ring, socks[0], true, p, 4 * KB, 0, 0, 0));
	memset(p, 0, 4 * KB);
	ASSERT_EQ(4 * KB, fixed(ring, socks[1], false, p, 4 * KB, 0, 0, 0));
	EXPECT_EQ(-1, pat_check(p, 4 * KB, 91, 0));

	fd = eventfd(0, 0);
	ASSERT_LE(0, fd);
	memcpy(p, &count, sizeof(count));
	ASSERT_EQ(8, fixed(ring, fd, true, p, 8, 0, 0, 0));
	memset(p, 0, 8);
	ASSERT_EQ(8, fixed(ring, fd, false, p, 8, 0, 0, 0));
	EXPECT_EQ(3, *(uint64_t *)p);
}

/* Once within RLIMIT_MEMLOCK, once beyond it: then the data are copied */
TEST_F(changed, send_zc)
{
	struct io_uring *ring = &self->ring;
	char *p = self->p, *back = malloc(64 * KB);
	struct rlimit lim;
	int socks[2] = { -1, -1 };

	if (tcp_pair(socks))
		SKIP(return, "no TCP to this machine");
	ASSERT_EQ(0, getrlimit(RLIMIT_MEMLOCK, &lim));
	for (int round = 0; round < 2; round++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
		struct io_uring_cqe *cqe;
		bool more;

		pat_fill(p, 64 * KB, 92 + round, 0);
		io_uring_prep_send_zc_fixed(sqe, socks[0], p, 64 * KB, 0, 0, 0);
		ASSERT_EQ(1, io_uring_submit(ring));
		for (size_t got = 0; got < 64 * KB; ) {
			ssize_t n = read(socks[1], back + got, 64 * KB - got);

			ASSERT_LT(0, n);
			got += n;
		}
		EXPECT_EQ(-1, pat_check(back, 64 * KB, 92 + round, 0));
		do {
			ASSERT_EQ(0, io_uring_wait_cqe(ring, &cqe));
			more = cqe->flags & IORING_CQE_F_MORE;
			if (!(cqe->flags & IORING_CQE_F_NOTIF))
				EXPECT_EQ(64 * KB, cqe->res);
			io_uring_cqe_seen(ring, cqe);
		} while (more);
		if (!round) {
			lim.rlim_cur = 0;
			ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &lim));
		}
	}
}

/* What is sent, of a registered buffer that goes away, until it has been received */
static ssize_t receive(int sock, char *to, size_t len)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = read(sock, to + got, len - got);

		if (n <= 0)
			return n ? -errno : (ssize_t)got;
		got += n;
	}
	return got;
}

/* All completions of a zero-copy send, until the kernel is done with the memory */
static long zc_end(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	long res = -ENODATA;
	bool more;

	do {
		int ret = io_uring_wait_cqe(ring, &cqe);

		if (ret)
			return ret;
		more = cqe->flags & IORING_CQE_F_MORE;
		if (!(cqe->flags & IORING_CQE_F_NOTIF))
			res = cqe->res;
		io_uring_cqe_seen(ring, cqe);
	} while (more);
	return res;
}

/*
 * The memory is thrown away, and used by somebody else, while most of it waits to be
 * sent. Before that it is changed, in a round of its own: what arrives must have
 * changed, or else the data were copied, and this says nothing.
 */
TEST_F_TIMEOUT(changed, send_zc_gone, 60)
{
	enum { SEND = MB, ROOM = 4 * MB };
	struct io_uring *ring = &self->ring;
	char *p = self->p, *back = malloc(SEND);
	int socks[2], room = ROOM;
	struct grab grab;

	pin_to_cpu(0);
	ASSERT_EQ(0, grab_init(&grab, MEM_ANON, 2 * SEND));
	if (tcp_pair(socks))
		SKIP(return, "no TCP to this machine");
	ASSERT_EQ(0, setsockopt(socks[0], SOL_SOCKET, SO_SNDBUFFORCE, &room,
				sizeof(room)));
	for (int round = 0; round < 2; round++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

		pat_fill(p, SEND, round, 0);
		io_uring_prep_send_zc_fixed(sqe, socks[0], p, SEND, MSG_WAITALL, 0, 0);
		ASSERT_EQ(1, io_uring_submit(ring));
		usleep(50000);
		if (!round)
			memset(p, GRAB_BYTE, SEND);
		else
			ASSERT_EQ(0, madvise(p, SEND, MADV_DONTNEED));
		if (round)
			ASSERT_EQ(0, grab_fill(&grab));
		ASSERT_EQ(SEND, receive(socks[1], back, SEND));
		ASSERT_EQ(SEND, zc_end(ring));
		if (!round && pat_check(back, SEND, round, 0) < 0)
			SKIP(return, "the socket has copied all of it");
		if (round)
			EXPECT_EQ(-1, pat_check(back, SEND, round, 0));
	}
	EXPECT_EQ(-1, grab_check(&grab));
	grab_exit(&grab);
}

/* Several pieces in one message */
TEST_F(changed, sendmsg_zc)
{
	struct io_uring *ring = &self->ring;
	char *p = self->p, back[16 * KB];
	int socks[2] = { -1, -1 };
	bool bad = false;

	if (!has_op(OP_WRITEV_FIXED))
		SKIP(return, "no pieces of registered buffers in this kernel");
	if (tcp_pair(socks))
		SKIP(return, "no TCP to this machine");
	for (int round = 0; round < 6; round++) {
		struct iovec iov[3] = {
			{ p + 100 * KB + 3, 5 * KB }, { p + 8 * KB, 8 * KB + 8 },
			{ p + MB, 3 * KB - 8 },
		};
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 3 };
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
		off_t pos = 0;

		/* In one round a piece is not in the buffer */
		bad = round == 3;
		if (bad)
			iov[1].iov_base = self->m.p + LEN - PAGE;
		for (int i = 0; i < 3 && !bad; pos += iov[i++].iov_len)
			pat_fill(iov[i].iov_base, iov[i].iov_len, round, pos);
		io_uring_prep_rw(IORING_OP_SENDMSG_ZC, sqe, socks[0], &msg, 1, 0);
		sqe->ioprio = IORING_RECVSEND_FIXED_BUF;
		sqe->buf_index = 0;
		ASSERT_EQ(1, io_uring_submit(ring));
		if (bad) {
			EXPECT_EQ(-EFAULT, zc_end(ring));
			continue;
		}
		ASSERT_EQ(16 * KB, receive(socks[1], back, 16 * KB));
		EXPECT_EQ(-1, pat_check(back, 16 * KB, round, 0));
		EXPECT_EQ(16 * KB, zc_end(ring));
	}
}

/* NVMe commands that the program makes itself */
TEST(passthrough)
{
	struct io_uring_sqe *sqe;
	struct io_uring ring;
	struct target t;
	struct nvme_ns ns;
	struct mem m;

	NEED("NOPIN_RAW");
	if (nvme_open(&ns, getenv("NOPIN_RAW")))
		SKIP(return, "%s takes no NVMe commands", getenv("NOPIN_RAW"));
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, io_uring_queue_init(4, &ring, IORING_SETUP_SQE128 |
					 IORING_SETUP_CQE32));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, ring_buffer(&ring, m.p, m.len));
	for (int round = 0; round < 4; round++) {
		ASSERT_EQ(0, target_fill(&t, 16 * KB, round, 0));
		sqe = nvme_queue(&ring, &ns, false, m.p + 16 * KB, 16 * KB, 0);
		ASSERT_NE(NULL, sqe);
		sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
		ASSERT_EQ(0, one(&ring));
		EXPECT_EQ(-1, pat_check(m.p + 16 * KB, 16 * KB, round, 0));
	}
}

/*
 * The same, of several pieces. The device wants all but the first to begin, and all
 * but the last to end, at a page: others are copied.
 */
TEST(passthrough_vectored)
{
	static const struct {
		size_t off[3], len[3];
	} kases[] = {
		{ { 32 * KB, 0, 16 * KB }, { 8 * KB, 4 * KB, 4 * KB } },
		{ { 8 * KB - 512, 40 * KB, 12 * KB }, { 512, 4 * KB, 3584 } },
		{ { 512, 40 * KB + 512, 20 * KB + 512 }, { 1024, 512, 2560 } },
	};
	unsigned long pins, pinned, bios;
	struct io_uring ring;
	struct nvme_ns ns;
	struct target t;
	struct mem m;

	NEED("NOPIN_RAW");
	if (nvme_open(&ns, getenv("NOPIN_RAW")))
		SKIP(return, "%s takes no NVMe commands", getenv("NOPIN_RAW"));
	if (!has_op(OP_WRITEV_FIXED))
		SKIP(return, "no pieces of registered buffers in this kernel");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, io_uring_queue_init(4, &ring, IORING_SETUP_SQE128 |
					 IORING_SETUP_CQE32));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 128 * KB));
	ASSERT_EQ(0, ring_buffer(&ring, m.p, 64 * KB));
	pins = vmstat("nr_foll_pin_acquired");
	pinned = vmstat("nopin_pinned");
	bios = vmstat("nopin_bio");
	for (unsigned int i = 0; i < 2 * (ARRAY_SIZE(kases) + 1); i++) {
		/* In the last two rounds a piece is not in the buffer */
		bool write = i % 2, bad = i / 2 == ARRAY_SIZE(kases);
		const typeof(kases[0]) *k = &kases[bad ? 0 : i / 2];
		struct io_uring_sqe *sqe;
		struct nvme_uring_cmd *cmd;
		struct iovec iov[3];
		size_t len = 0;

		memset(m.p, GRAB_BYTE, m.len);
		for (int j = 0; j < 3; j++) {
			iov[j] = (struct iovec) { m.p + k->off[j], k->len[j] };
			pat_fill(iov[j].iov_base, iov[j].iov_len, write ? i : ~i, len);
			len += iov[j].iov_len;
		}
		if (bad)
			iov[1].iov_base = m.p + 64 * KB;
		ASSERT_EQ(0, target_fill(&t, len, write ? ~i : i, 0));
		sqe = nvme_queue(&ring, &ns, write, iov, len, 0);
		ASSERT_NE(NULL, sqe);
		sqe->cmd_op = NVME_URING_CMD_IO_VEC;
		sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
		cmd = (void *)sqe->cmd;
		cmd->data_len = 3;	/* of the vector */
		ASSERT_EQ(bad ? -EFAULT : 0, one(&ring));
		EXPECT_EQ(-1, target_check(&t, len, write && bad ? ~i : i, 0));
		len = 0;
		for (int j = 0; j < 3 && !bad; len += iov[j++].iov_len) {
			EXPECT_EQ(-1, pat_check(iov[j].iov_base, iov[j].iov_len, i, len))
				TH_LOG("round %u, piece %d", i, j);
		}
		EXPECT_EQ(-1, byte_check(m.p + 64 * KB, 64 * KB, GRAB_BYTE));
	}
	EXPECT_EQ(vmstat("nopin_pinned") - pinned,
		  vmstat("nr_foll_pin_acquired") - pins);
	/* Some are copied */
	EXPECT_EQ(nopin(), vmstat("nopin_bio") >= bios + 4);
}

/* Giving up a buffer with I/O in flight: the I/O ends first, and is right */
FIXTURE(held) {
	struct flight f;
	struct mem m;
};

FIXTURE_SETUP(held)
{
	NEED("NOPIN_HELD");
	ASSERT_EQ(0, flight_open(&self->f, "NOPIN_HELD"));
	ASSERT_EQ(0, mem_get(&self->m, MEM_ANON, MB));
	flight_set(&self->f, self->m.p, 16, 64 * KB, 64 * KB);
	ASSERT_EQ(0, flight_engine(&self->f, ENG_URING_FIXED));
	/* The second half of the buffer is idle */
	self->f.nr = 8;
	ASSERT_EQ(0, flight_prepare(&self->f, false));
}

FIXTURE_TEARDOWN(held)
{
	flight_close(&self->f);
}

TEST_F(held, unregister)
{
	struct flight *f = &self->f;

	/* Waits for them */
	ASSERT_EQ(0, flight_start(f, GATE_TIME, 100));
	ASSERT_EQ(0, io_uring_unregister_buffers(&f->q.ring));
	ASSERT_EQ(0, flight_reap(f));
	EXPECT_EQ(-1, flight_check(f, f->buf, true));
}

TEST_F(held, update)
{
	struct iovec iov = { self->m.p + 512 * KB, 512 * KB };
	struct flight *f = &self->f;
	__u64 tag = 0;

	ASSERT_EQ(0, flight_start(f, GATE_ASKED, 0));
	ASSERT_EQ(1, io_uring_register_buffers_update_tag(&f->q.ring, 0, &iov, &tag, 1));
	EXPECT_EQ(0, flight_done(f));
	ASSERT_EQ(0, flight_finish(f));
	EXPECT_EQ(-1, flight_check(f, f->buf, true));
}

TEST_F(held, ring_exit)
{
	struct area a = { self->m.p, MB, -1 };
	struct flight *f = &self->f;

	ASSERT_EQ(0, flight_start(f, GATE_ASKED, 0));
	f->q.inflight = 0;
	ioq_exit(&f->q);
	/* Nobody tells when they are done: pins keep the pages */
	ASSERT_EQ(0, op_run(OP_MUNMAP, &a));
	ASSERT_EQ(0, op_run(OP_MMAP_OVER, &a));
	ASSERT_EQ(0, gate_idle(&f->gate));
	EXPECT_EQ(-1, byte_check(self->m.p, MB, GRAB_BYTE));
}

/* Polled rings work, without pins as others do (R6: nobody waits for them) */
TEST(polled)
{
	unsigned long before = vmstat("nr_foll_pin_acquired");
	struct io_uring ring;
	struct target t;
	struct mem m;

	NEED("NOPIN_POLL");
	ASSERT_EQ(0, target_open(&t, "NOPIN_POLL", 0));
	ASSERT_EQ(0, io_uring_queue_init(4, &ring, IORING_SETUP_IOPOLL));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, ring_buffer(&ring, m.p, m.len));
	ASSERT_EQ(0, target_fill(&t, 64 * KB, 8, 0));
	for (int i = 0; i < 4; i++) {
		memset(m.p, 0, m.len);
		ASSERT_EQ(64 * KB, fixed(&ring, t.fd, false, m.p, 64 * KB, 0, 0, 0));
		EXPECT_EQ(-1, pat_check(m.p, m.len, 8, 0));
	}
	if (nopin())
		EXPECT_EQ(before, vmstat("nr_foll_pin_acquired"));
}

/* An unprivileged user and its limit on locked memory */
TEST(memlock)
{
	struct rlimit lim = { 64 * KB, 64 * KB };
	pid_t pid = fork();

	if (!pid) {
		struct io_uring ring;
		struct mem m;
		int ret;

		if (setrlimit(RLIMIT_MEMLOCK, &lim) || setgid(65534) ||
		    setuid(65534) || mem_get(&m, MEM_ANON, 16 * MB) ||
		    io_uring_queue_init(4, &ring, 0))
			_exit(1);
		ret = ring_buffer(&ring, m.p, m.len);
		if (nopin())
			_exit(ret || status_kb("VmPin") || status_kb("VmLck") ? 2 : 0);
		_exit(ret != -ENOMEM ? 3 : 0);
	}
	EXPECT_EQ(0, child_reap(pid));
}

/* To register large buffers, and to tell of them, takes time for what was touched only */
TEST(many_large)
{
	const unsigned int nr = 16384;		/* as many as a ring may have */
	struct iovec *iov = calloc(nr, sizeof(*iov));
	struct io_uring ring;
	uint64_t start;
	char *p;

	if (!nopin())
		SKIP(return, "pins: all of the memory would have to be there");
	p = mmap(NULL, GB, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	for (unsigned int i = 0; i < nr; i++)
		iov[i] = (struct iovec) { p, GB };
	ASSERT_EQ(0, io_uring_queue_init(4, &ring, 0));
	start = now_ms();
	ASSERT_EQ(0, ring_buffers_flags(&ring, iov, nr, IORING_RSRC_REGISTER_NOPIN));
	EXPECT_GT(start + 5 * NO_WAIT_MS, now_ms());
	start = now_ms();
	EXPECT_EQ(0, buffer_info(&ring, nr - 1));
	EXPECT_GT(start + 5 * NO_WAIT_MS, now_ms());
}

/* Where the address is, from the beginning of a large buffer */
#define BORDER		(16 * MB - 512)

FIXTURE(large) {
	struct target t;
	struct io_uring ring;
	char *p;
	size_t len;
};

FIXTURE_SETUP(large)
{
	char *map;
	int ret;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&self->t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, io_uring_queue_init(8, &self->ring, 0));
	self->len = (nopin() ? 5 * GB : GB) + 32 * MB + 512;
	map = space_get(self->len + GB, GB);
	ASSERT_NE(MAP_FAILED, map);
	self->p = map + GB - BORDER;
	ASSERT_EQ(map + GB - 16 * MB,
		  mmap(map + GB - 16 * MB, self->len + 2 * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0));
	ASSERT_EQ(0, madvise(map + GB - 16 * MB, self->len + 2 * PAGE, MADV_HUGEPAGE));
	ret = ring_buffer(&self->ring, self->p, self->len);
	if (ret == -EFAULT && !has_op(OP_READV_FIXED))
		SKIP(return, "this kernel registers no more than 1 GiB");
	if (ret == -ENOMEM && !nopin())
		SKIP(return, "pins: not enough memory");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(large)
{
}

/*
 * More than 1 GiB, with an address divisible by 1 GiB in it. With pins, all of it has to
 * be there: huge pages take less time.
 */
TEST_F_TIMEOUT(large, ends, 120)
{
	struct io_uring *ring = &self->ring;
	char *p = self->p;
	const size_t at[] = {
		0, BORDER - 8 * KB, GB - 8 * KB, GB, self->len - 16 * KB,
		/* A part of a block at the end */
		self->len - 16 * KB + 512,
	};

	for (unsigned int round = 0; round < 2; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
			size_t len = self->len - at[i];
			uint64_t seed = round * 10 + i;

			if (len > 16 * KB)
				len = 16 * KB;
			pat_fill(p + at[i], len, seed, 0);
			ASSERT_EQ(len, fixed(ring, self->t.fd, true, p + at[i], len,
					     0, 0, 0));
			EXPECT_EQ(-1, target_check(&self->t, len, seed, 0));
			ASSERT_EQ(0, target_fill(&self->t, len, ~seed, 0));
			ASSERT_EQ(len, fixed(ring, self->t.fd, false, p + at[i], len,
					     0, 0, 0));
			EXPECT_EQ(-1, pat_check(p + at[i], len, ~seed, 0))
				TH_LOG("at %zu", at[i]);
		}
	}
	/* Mapped, but not in the buffer */
	EXPECT_EQ(-EFAULT, fixed(ring, self->t.fd, false, p + self->len - 512, 1024, 0, 0,
				 0));
	EXPECT_EQ(-EFAULT, fixed(ring, self->t.fd, false, p + self->len, 512, 0, 0, 0));
}

/* From one end to the other in one request */
TEST_F_TIMEOUT(large, vectored, 120)
{
	char *p = self->p;
	struct iovec iov[] = {
		{ p + self->len - 8 * KB, 8 * KB }, { p + GB - 4 * KB, 8 * KB },
		{ p, 4 * KB }, { p + BORDER - 4 * KB, 8 * KB },
	};
	off_t pos = 0;

	for (size_t i = 0; i < ARRAY_SIZE(iov); pos += iov[i++].iov_len)
		pat_fill(iov[i].iov_base, iov[i].iov_len, 4, pos);
	ASSERT_EQ(pos, fixedv(&self->ring, self->t.fd, true, iov, ARRAY_SIZE(iov), 0, 0));
	EXPECT_EQ(-1, target_check(&self->t, pos, 4, 0));
	ASSERT_EQ(0, target_fill(&self->t, pos, 5, 0));
	ASSERT_EQ(pos, fixedv(&self->ring, self->t.fd, false, iov, ARRAY_SIZE(iov), 0, 0));
	pos = 0;
	for (size_t i = 0; i < ARRAY_SIZE(iov); pos += iov[i++].iov_len)
		EXPECT_EQ(-1, pat_check(iov[i].iov_base, iov[i].iov_len, 5, pos));
	iov[0].iov_len += 512;
	EXPECT_EQ(-EFAULT, fixedv(&self->ring, self->t.fd, false, iov, ARRAY_SIZE(iov), 0,
				  0));
}

/* The administrator's choice, for programs that do not know the flag */
TEST(choice)
{
	struct iovec iov;
	struct mem m;

	if (access(CHOICE, R_OK))
		SKIP(return, "this kernel has no %s", CHOICE);
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 64 * KB));
	iov = (struct iovec) { m.p, m.len };
	for (int i = 0; i < 3; i++) {
		static const char *const choice[] = { "pin", "flag", "nopin" };
		static const char *const shown[] = {
			"[pin] flag nopin\n", "pin [flag] nopin\n",
			"pin flag [nopin]\n",
		};
		struct io_uring ring;
		char buf[64];
		int ret;

		ASSERT_EQ(0, sysfs_write(CHOICE, choice[i]));
		ASSERT_EQ(0, sysfs_read(CHOICE, buf, sizeof(buf)));
		EXPECT_STREQ(shown[i], buf);

		ASSERT_EQ(0, io_uring_queue_init(4, &ring, 0));
		ASSERT_EQ(0, io_uring_register_buffers(&ring, &iov, 1));
		if (i == 2) {
			EXPECT_LE(0, buffer_info(&ring, 0));
		} else {
			EXPECT_EQ(-1, buffer_info(&ring, 0));
		}
		ASSERT_EQ(0, io_uring_unregister_buffers(&ring));

		ret = ring_buffers_flags(&ring, &iov, 1,
					 IORING_RSRC_REGISTER_NOPIN);
		if (i == 0) {
			EXPECT_EQ(-EINVAL, ret);
		} else {
			EXPECT_LE(0, buffer_info(&ring, 0));
		}
		io_uring_queue_exit(&ring);
	}
	EXPECT_EQ(-EINVAL, sysfs_write(CHOICE, "maybe"));
	ASSERT_EQ(0, sysfs_write(CHOICE, "flag"));
}

/* Only what an invalidation hit is looked up again */
TEST_F(changed, revalidate)
{
	unsigned long before;
	int valid;

	if (!nopin())
		SKIP(return, "nothing is looked up again for pinned buffers");
	/* Each piece has been through the page tables by now */
	for (int i = 0; i < 128; i++)
		ASSERT_EQ(16 * KB, RW(false, i * 16 * KB, 16 * KB));
	valid = buffer_info(&self->ring, 0);
	EXPECT_LE(2 * MB / PAGE, valid);
	before = vmstat("nopin_revalidate");
	for (int i = 0; i < 128; i++)
		ASSERT_EQ(16 * KB, RW(false, i * 16 * KB, 16 * KB));
	EXPECT_EQ(before, vmstat("nopin_revalidate"));

	ASSERT_EQ(0, madvise(self->p + 20 * KB, 4 * KB, MADV_DONTNEED));
	/* Also where the page is a part of a huge one, which is split for that */
	EXPECT_EQ(valid - 1, buffer_info(&self->ring, 0));
	for (int i = 0; i < 128; i++)
		ASSERT_EQ(16 * KB, RW(false, i * 16 * KB, 16 * KB));
	EXPECT_EQ(before + 1, vmstat("nopin_revalidate"));
	EXPECT_EQ(valid, buffer_info(&self->ring, 0));
}

TEST_HARNESS_MAIN
