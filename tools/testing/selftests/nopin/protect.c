// SPDX-License-Identifier: GPL-2.0
/*
 * Disks that check what they get. A program hands over metadata of its own with the
 * data, by an attribute of io_uring's reads and writes: these are pinned while the data
 * are not, so nobody waits for such I/O, and I/O whose metadata are refused leaves
 * nothing behind. And file systems that promise pages which do not change write from
 * a copy of the buffer.
 *
 * Linux 6.12 has neither.
 */
#include <endian.h>
#include <sys/utsname.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN		(16 * KB)
#define NR		(LEN / SECTOR)

/* Those of later kernels than liburing may know */
#define ATTR_PI		1
#define FEAT_RW_ATTR	0x10000U

struct attr_pi {
	uint16_t flags;
	uint16_t app_tag;
	uint32_t len;
	uint64_t addr;
	uint64_t seed;
	uint64_t reserved;
};

#define CHECK_GUARD	1
#define CHECK_REF	2
#define CHECK_APP	4

/* The metadata of a sector: T10 protection information, type 1 */
struct tuple {
	uint16_t guard;
	uint16_t app;
	uint32_t ref;
};

static uint16_t guard_of(const uint8_t *p, size_t len)
{
	uint16_t crc = 0;

	while (len--) {
		crc ^= *p++ << 8;
		for (int i = 0; i < 8; i++)
			crc = crc & 0x8000 ? crc << 1 ^ 0x8bb7 : crc << 1;
	}
	return crc;
}

#define APP		0x1234

static void tuples_fill(struct tuple *t, const char *data, size_t nr, off_t pos)
{
	for (size_t i = 0; i < nr; i++) {
		t[i].guard = htobe16(guard_of((const uint8_t *)data + i * SECTOR, SECTOR));
		t[i].app = htobe16(APP);
		t[i].ref = htobe32(pos / SECTOR + i);
	}
}

FIXTURE(pi) {
	char name[64];
	struct target t;
	struct io_uring ring;
	struct mem m, meta;
	unsigned int sqe_flags;
	bool fixed;
	unsigned long pins;	/* of the buffer, if that is registered */
};

FIXTURE_VARIANT(pi) {
	unsigned int sqe_flags;
	bool fixed;
};

FIXTURE_VARIANT_ADD(pi, plain) {};
FIXTURE_VARIANT_ADD(pi, fixed) { .fixed = true };
FIXTURE_VARIANT_ADD(pi, worker) { .sqe_flags = IOSQE_ASYNC };

/* A transfer with metadata; @attr has to stay until it is submitted */
static int pi_queue(struct io_uring *ring, struct target *t, bool fixed,
		    unsigned int flags, bool write, void *buf, size_t len, off_t pos,
		    void *meta, size_t meta_len, struct attr_pi *attr)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (!sqe)
		return -EBUSY;
	*attr = (struct attr_pi) {
		.flags = CHECK_GUARD | CHECK_REF | CHECK_APP,
		.app_tag = APP, .len = meta_len, .addr = (unsigned long)meta,
		.seed = pos / SECTOR,
	};
	if (fixed && write)
		io_uring_prep_write_fixed(sqe, t->fd, buf, len, pos, 0);
	else if (fixed)
		io_uring_prep_read_fixed(sqe, t->fd, buf, len, pos, 0);
	else if (write)
		io_uring_prep_write(sqe, t->fd, buf, len, pos);
	else
		io_uring_prep_read(sqe, t->fd, buf, len, pos);
	sqe->flags |= flags;
	/* attr_ptr and attr_type_mask */
	sqe->addr3 = (unsigned long)attr;
	sqe->__pad2[0] = ATTR_PI;
	return 0;
}

static long pi_wait(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	long res = io_uring_wait_cqe(ring, &cqe);

	if (res)
		return res;
	res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return res;
}

static long pi_rw(struct io_uring *ring, struct target *t, bool fixed, unsigned int flags,
		  bool write, void *buf, size_t len, off_t pos, void *meta,
		  size_t meta_len)
{
	struct attr_pi attr;
	int ret = pi_queue(ring, t, fixed, flags, write, buf, len, pos, meta, meta_len,
			   &attr);

	if (ret)
		return ret;
	ret = io_uring_submit(ring);
	if (ret != 1)
		return ret < 0 ? ret : -EIO;
	return pi_wait(ring);
}

#define PI(write, buf, len, pos, meta, meta_len)			\
	pi_rw(&self->ring, &self->t, self->fixed, self->sqe_flags, write, buf, len, pos, \
	      meta, meta_len)

FIXTURE_SETUP(pi)
{
	char path[128], format[64];
	long ret;

	if (!sdebug_there())
		SKIP(return, "no scsi_debug");
	ASSERT_EQ(0, io_uring_queue_init(8, &self->ring, 0));
	if (!(self->ring.features & FEAT_RW_ATTR))
		SKIP(return, "io_uring takes no metadata in this kernel");
	ASSERT_EQ(0, sdebug_add(self->name, sizeof(self->name)));
	snprintf(path, sizeof(path), "/sys/block/%s/integrity/format", self->name);
	if (sysfs_read(path, format, sizeof(format)) ||
	    strncmp(format, "T10-DIF-TYPE1-CRC", 17)) {
		sdebug_remove();
		SKIP(return, "scsi_debug has no protection, see vm.sh");
	}
	snprintf(path, sizeof(path), "/dev/%s", self->name);
	setenv("NOPIN_PI", path, 1);
	ASSERT_EQ(0, target_open(&self->t, "NOPIN_PI", 0));
	ASSERT_EQ(0, mem_get(&self->m, MEM_ANON, 64 * KB));
	ASSERT_EQ(0, mem_get(&self->meta, MEM_ANON, 64 * KB));
	if (variant->fixed)
		ASSERT_EQ(0, ring_buffer(&self->ring, self->m.p, self->m.len));
	self->sqe_flags = variant->sqe_flags;
	self->fixed = variant->fixed;
	ASSERT_EQ(0, target_fill(&self->t, LEN, 1, 0));
	/* Whatever is special about the first I/O */
	ret = PI(false, self->m.p, LEN, 0, self->meta.p, NR * sizeof(struct tuple));
	/* Those that the block layer makes have another application tag */
	ASSERT_TRUE(ret == LEN || ret == -EILSEQ) TH_LOG("%ld", ret);
	self->pins = pins_left();
	EXPECT_EQ(self->fixed && !nopin() ? self->m.len / PAGE : 0, self->pins);
}

FIXTURE_TEARDOWN(pi)
{
	target_close(&self->t);
	sdebug_remove();
}

/* What is written with metadata is read with the same, and without */
TEST_F(pi, bytes)
{
	const size_t meta_len = NR * sizeof(struct tuple);
	struct tuple *out = (void *)self->meta.p, *in = out + PAGE / sizeof(*out);
	unsigned long pins = vmstat("nr_foll_pin_acquired"), bios = vmstat("nopin_bio");
	char *p = self->m.p + SECTOR;

	for (int i = 0; i < 4; i++) {
		off_t pos = i * 2 * LEN;

		pat_fill(p, LEN, i, pos);
		tuples_fill(out, p, NR, pos);
		memset(in, 0, meta_len);
		ASSERT_EQ(LEN, PI(true, p, LEN, pos, out, meta_len));
		memset(p, GRAB_BYTE, LEN);
		ASSERT_EQ(LEN, PI(false, p, LEN, pos, in, meta_len));
		EXPECT_EQ(-1, pat_check(p, LEN, i, pos));
		EXPECT_EQ(0, memcmp(in, out, meta_len));
	}
	pins = vmstat("nr_foll_pin_acquired") - pins;
	bios = vmstat("nopin_bio") - bios;
	note("8 transfers: %lu bios without pins, %lu pins", bios, pins);
	if (nopin()) {
		EXPECT_EQ(8, bios);
		/* A page of metadata for each */
		EXPECT_GE(8, pins);
	} else if (!self->fixed) {
		EXPECT_LE(8 * (LEN / PAGE + 1), pins);
	}
	/* The block layer verifies them */
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(-1, target_check(&self->t, LEN, i, i * 2 * LEN));
	EXPECT_EQ(self->pins, pins_left());
}

/* No page is in use any more: nobody waits for it, or pins it */
static void left_alone(struct __test_metadata *_metadata, struct mem *m,
		       unsigned long pins)
{
	unsigned long wait = vmstat("nopin_wait"), pinned = vmstat("nopin_pinned");

	ASSERT_EQ(0, mprotect(m->p, m->len, PROT_READ));
	ASSERT_EQ(0, mprotect(m->p, m->len, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, madvise(m->p, m->len, MADV_DONTNEED));
	memset(m->p, GRAB_BYTE, m->len);
	EXPECT_EQ(wait, vmstat("nopin_wait"));
	EXPECT_EQ(pinned, vmstat("nopin_pinned"));
	EXPECT_EQ(pins, pins_left());
}

/* Metadata that are not there, too short, or wrong */
TEST_F(pi, refused)
{
	const size_t meta_len = NR * sizeof(struct tuple);
	struct tuple *out = (void *)self->meta.p;
	char *p = self->m.p, *none = anon_map(PAGE);

	ASSERT_NE(MAP_FAILED, none);
	ASSERT_EQ(0, mprotect(none, PAGE, PROT_NONE));
	for (int write = 0; write < 2; write++) {
		ASSERT_EQ(0, target_fill(&self->t, LEN, 3, 0));
		memset(p, GRAB_BYTE, LEN);
		tuples_fill(out, p, NR, 0);
		/* What the block layer makes of EFAULT, pins or not */
		EXPECT_EQ(-EIO, PI(write, p, LEN, 0, none, meta_len));
		EXPECT_EQ(-EINVAL, PI(write, p, LEN, 0, out, meta_len - sizeof(*out)));
		EXPECT_EQ(self->fixed ? -EFAULT : -EIO,
			  PI(write, none, LEN, 0, out, meta_len));
		EXPECT_EQ(-1, byte_check(p, LEN, GRAB_BYTE));
		left_alone(_metadata, &self->m, self->pins);
	}
	EXPECT_EQ(-1, target_check(&self->t, LEN, 3, 0));

	tuples_fill(out, p, NR, 0);
	out[NR / 2].guard ^= 1;
	EXPECT_EQ(-EILSEQ, PI(true, p, LEN, 0, out, meta_len));
	left_alone(_metadata, &self->m, self->pins);
	tuples_fill(out, p, NR, 0);
	out[NR - 1].ref ^= htobe32(1);
	EXPECT_EQ(-EILSEQ, PI(true, p, LEN, 0, out, meta_len));
	left_alone(_metadata, &self->m, self->pins);
	EXPECT_EQ(-1, target_check(&self->t, LEN, 3, 0));
}

/* Nobody waits for it: the metadata may have waited for a change of the mapping */
TEST_F(pi, in_flight)
{
	const size_t meta_len = NR * sizeof(struct tuple);
	struct tuple *in = (void *)self->meta.p;
	unsigned long wait, pinned;
	struct attr_pi attr;
	uint64_t start;

	/* With metadata that it will be found to have */
	pat_fill(self->m.p, LEN, 5, 0);
	tuples_fill(in, self->m.p, NR, 0);
	ASSERT_EQ(LEN, PI(true, self->m.p, LEN, 0, in, meta_len));
	ASSERT_EQ(0, wait_ms_set(LONG_WAIT_MS));
	ASSERT_EQ(0, sysfs_write(SDEBUG "ndelay", "900000000"));
	memset(self->m.p, GRAB_BYTE, LEN);
	ASSERT_EQ(0, pi_queue(&self->ring, &self->t, self->fixed, self->sqe_flags, false,
			      self->m.p, LEN, 0, in, meta_len, &attr));
	wait = vmstat("nopin_wait");
	pinned = vmstat("nopin_pinned");
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	/* A worker takes its time */
	usleep(self->sqe_flags ? 200000 : 0);
	start = now_ms();
	ASSERT_EQ(0, mprotect(self->m.p, LEN, PROT_READ));
	note("protected after %u ms", (unsigned int)(now_ms() - start));
	EXPECT_EQ(wait, vmstat("nopin_wait"));
	if (nopin())
		EXPECT_EQ(pinned + LEN / PAGE, vmstat("nopin_pinned"));
	EXPECT_EQ(0, io_uring_peek_cqe(&self->ring, &(struct io_uring_cqe *){ NULL }) !=
		     -EAGAIN) TH_LOG("it has ended, this says nothing");
	EXPECT_EQ(LEN, pi_wait(&self->ring));
	EXPECT_EQ(-1, pat_check(self->m.p, LEN, 5, 0));
	ASSERT_EQ(0, wait_ms_set(DEFAULT_WAIT_MS));
	EXPECT_EQ(self->pins, pins_left());
}

/* ---- writes from a copy, as file systems do that want stable pages ---- */

#define PIECES		16
#define PIECE		(32 * KB)
#define FILE_LEN	(PIECES * PIECE)
#define LATE_MS		400

FIXTURE(bounce) {
	struct fs fs;
	struct slow late;	/* the leg of a mirror that takes its data late */
	int early, fd;
	struct mem m;
};

FIXTURE_SETUP(bounce)
{
	char path[64];
	int fd;

	NEED("NOPIN_MIRROR");
	self->early = open(getenv("NOPIN_MIRROR_EARLY"), O_RDONLY | O_DIRECT);
	ASSERT_LE(0, self->early);
	ASSERT_EQ(0, slow_open(&self->late, "NOPIN_MIRROR_LATE"));
	ASSERT_EQ(0, fs_make(&self->fs, getenv("NOPIN_MIRROR"), XFS, "mkfs.xfs -q -f -K",
			     NULL));
	fd = fs_open(&self->fs, "file");
	ASSERT_LE(0, fd);
	close(fd);
	snprintf(path, sizeof(path), "%s/file", self->fs.dir);
	self->fd = open(path, O_RDWR | O_DIRECT);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, mem_get(&self->m, MEM_ANON, FILE_LEN));
	/* Blocks that are there, so that writing submits nothing but the data */
	ASSERT_EQ(FILE_LEN, pwrite(self->fd, self->m.p, FILE_LEN, 0));
	ASSERT_EQ(0, fsync(self->fd));
}

FIXTURE_TEARDOWN(bounce)
{
	close(self->fd);
	fs_put(&self->fs);
	slow_close(&self->late);
}

/* How many pages of the file have not the pattern, on one of the legs */
static int bounce_wrong(int leg, const uint64_t *at, uint64_t seed)
{
	char *p = aligned_alloc(PAGE, FILE_LEN);
	int wrong = 0;

	if (blocks_read(leg, at, FILE_LEN / PAGE, p))
		return -1;
	for (size_t o = 0; o < FILE_LEN; o += PAGE)
		wrong += pat_check(p + o, PAGE, seed, o) >= 0;
	free(p);
	return wrong;
}

/* A program changes the buffer while it is written */
TEST_F_TIMEOUT(bounce, changed, 60)
{
	unsigned long pins, bios;
	uint64_t at[FILE_LEN / PAGE];
	struct utsname u;
	int early, late;
	struct ioq q;

	ASSERT_EQ(0, uname(&u));
	ASSERT_EQ(0, file_blocks(self->fd, at, FILE_LEN / PAGE, true));
	ASSERT_EQ(0, ioq_init(&q, ENG_AIO, PIECES));
	ASSERT_EQ(0, slow_prime(&self->late, true, LATE_MS));
	pins = vmstat("nr_foll_pin_acquired");
	bios = vmstat("nopin_bio");
	pat_fill(self->m.p, FILE_LEN, 7, 0);
	for (int i = 0; i < PIECES; i++)
		ASSERT_EQ(0, ioq_queue(&q, i, self->fd, true,
				       &(struct iovec){ self->m.p + i * PIECE, PIECE }, 1,
				       i * PIECE));
	ASSERT_EQ(0, ioq_submit(&q));
	memset(self->m.p, GRAB_BYTE, FILE_LEN);
	pins = vmstat("nr_foll_pin_acquired") - pins;
	bios = vmstat("nopin_bio") - bios;
	for (int n = 0; n < PIECES; ) {
		long res[PIECES];
		int ret = ioq_reap(&q, 1, res);

		ASSERT_LT(0, ret);
		n += ret;
	}
	early = bounce_wrong(self->early, at, 7);
	late = bounce_wrong(self->late.t.fd, at, 7);
	note("%d and %d of %lu pages changed, %lu pins, %lu bios without pins", early, late,
	     FILE_LEN / PAGE, pins, bios);
	ASSERT_LE(0, early);
	if (atoi(u.release) < 7) {
		EXPECT_LT(0, late);
		SKIP(return, "this kernel writes from the buffer: %d pages changed", late);
	}
	EXPECT_EQ(0, early);
	EXPECT_EQ(0, late);
	/* Nobody needs the buffer any longer than it takes to copy it */
	EXPECT_EQ(0, pins);
	EXPECT_EQ(0, bios);
	/* It is read through other pages as well */
	memset(self->m.p, GRAB_BYTE, FILE_LEN);
	for (int i = 0; i < PIECES; i++) {
		ASSERT_EQ(PIECE, ioq_rw(&q, self->fd, false, self->m.p + i * PIECE, PIECE,
					i * PIECE));
		EXPECT_EQ(-1, pat_check(self->m.p + i * PIECE, PIECE, 7, i * PIECE));
	}
	EXPECT_EQ(0, pins_left());
}

TEST_HARNESS_MAIN
