// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers in mappings of files with DAX: a device works on the medium of another
 * file system. The page is the block, so the file system must not give a block
 * away while it has I/O in flight (O3). With pins it looks for references to the
 * page and waits; without, truncation and hole punching first unmap the page, and
 * so wait for a device that writes the page, or have it pinned if that takes long.
 * A page that a device reads is pinned at once, and the file system then waits as
 * it does with pins.
 */
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX	0x00200000
#endif

#define NR_IO	16
#define LEN	(2 * MB)
#define HELD_MS	300	/* longer than an invalidation waits */

/*
 * Blocks and mappings aligned to 2 MiB, or not. XFS keeps no blocks for itself
 * without these features.
 */
static const char *const mkfs[][2] = {
	[EXT4] = {
		"mkfs.ext4 -q -F -b 4096 -m 0 -E nodiscard",
		"mkfs.ext4 -q -F -b 4096 -m 0 -E nodiscard,stride=512,stripe_width=512",
	},
	[XFS] = {
		"mkfs.xfs -q -f -K -m finobt=0,reflink=0",
		"mkfs.xfs -q -f -K -m finobt=0,reflink=0 -d su=2m,sw=1,agcount=2",
	},
};

/* A file of LEN bytes, mapped */
struct file {
	int fd;
	int next;		/* another one, empty */
	char *map;
};

#define NR_FILES	3

struct dax {
	struct fs fs;
	bool huge;
	struct file file[NR_FILES];
};

static int dax_mount(struct dax *d)
{
	char path[64];

	/* Let files have all there is */
	snprintf(path, sizeof(path), "/sys/fs/ext4/%s/reserved_clusters",
		 strrchr(d->fs.dev, '/') + 1);
	return (d->fs.mounted ? 0 : fs_mount(&d->fs)) ?:
	       (d->fs.type == EXT4 ? sysfs_write(path, "0") : 0);
}

static int dax_open(struct dax *d, const char *name, int nr)
{
	char path[64];

	snprintf(path, sizeof(path), "%s.%d", name, nr);
	return fs_open(&d->fs, path);
}

static int file_map(struct dax *d, int nr)
{
	struct file *f = &d->file[nr];

	f->fd = dax_open(d, "file", nr);
	if (f->fd < 0)
		return f->fd;
	/* A page off the place where a huge page would be, or right there */
	f->map = space_get(LEN + PAGE, 2 * MB) + (d->huge ? 0 : PAGE);
	if (mmap(f->map, LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 f->fd, 0) == MAP_FAILED)
		return -errno;
	return 0;
}

static void file_unmap(struct dax *d, int nr)
{
	struct file *f = &d->file[nr];

	munmap(f->map, LEN);
	close(f->fd);
	close(f->next);
	*f = (struct file) { -1, -1, NULL };
}

/* Make a file: is it what was asked for? */
static int file_make(struct dax *d, int nr)
{
	struct file *f = &d->file[nr];
	struct rusage before, after;
	struct statx stx;
	long faults;
	int ret;

	ret = file_map(d, nr);
	if (ret)
		return ret;
	/* The one that is to get its blocks later, made while there is space */
	f->next = dax_open(d, "next", nr);
	if (f->next < 0)
		return f->next;
	if (fallocate(f->fd, 0, 0, LEN) ||
	    statx(f->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx))
		return -errno;
	if (!(stx.stx_attributes & STATX_ATTR_DAX)) {
		note("the file is not DAX");
		return -EOPNOTSUPP;
	}
	getrusage(RUSAGE_SELF, &before);
	for (size_t i = 0; i < LEN; i += PAGE)
		f->map[i] = 1;
	getrusage(RUSAGE_SELF, &after);
	faults = after.ru_minflt + after.ru_majflt - before.ru_minflt -
		 before.ru_majflt;
	if (d->huge != (faults < (long)(LEN / PAGE))) {
		note("%ld faults for %lu pages", faults, LEN / PAGE);
		return -EINVAL;
	}
	return 0;
}

static int dax_set(struct dax *d, enum fs_type type, bool huge)
{
	d->huge = huge;
	for (int i = 0; i < NR_FILES; i++)
		d->file[i] = (struct file) { -1, -1, NULL };
	return fs_make(&d->fs, getenv("NOPIN_PMEM"), type, mkfs[type][huge],
		       "dax=always") ?: dax_mount(d);
}

static void dax_unmap(struct dax *d)
{
	for (int i = 0; i < NR_FILES; i++)
		file_unmap(d, i);
}

static unsigned int blocks_common(const uint64_t *a, const uint64_t *b)
{
	unsigned int common = 0;

	for (unsigned int i = 0; i < LEN / PAGE; i++)
		for (unsigned int j = 0; j < LEN / PAGE; j++)
			common += a[i] && a[i] == b[j];
	return common;
}

/* What XFS keeps from users, XFS_IOC_SET_RESBLKS */
struct resblks {
	uint64_t want;
	uint64_t have;
};

#define SET_RESBLKS	_IOWR('X', 114, struct resblks)

/* Take the free space, so that blocks that get free are used next */
static int dax_fill(struct dax *d)
{
	struct resblks none = { 0 };
	int fd = dax_open(d, "filler", 0);
	off_t pos = 0;

	if (fd < 0)
		return fd;
	if (d->fs.type == XFS && ioctl(fd, SET_RESBLKS, &none))
		return -errno;
	for (size_t len = 64 * MB; len >= PAGE; ) {
		if (!fallocate(fd, 0, pos, len))
			pos += len;
		else if (errno == ENOSPC)
			len /= 4;
		else
			return -errno;
	}
	/* Some is left for what the file system has to remember */
	if (ftruncate(fd, pos - 128 * KB) || fsync(fd))
		return -errno;
	close(fd);
	return 0;
}

FIXTURE(dax) {
	struct dax d;
	struct flight f;
};

FIXTURE_VARIANT(dax) {
	enum fs_type type;
	bool huge;
};

FIXTURE_VARIANT_ADD(dax, ext4) { .type = EXT4 };
FIXTURE_VARIANT_ADD(dax, ext4_pmd) { .type = EXT4, .huge = true };
FIXTURE_VARIANT_ADD(dax, xfs) { .type = XFS };
FIXTURE_VARIANT_ADD(dax, xfs_pmd) { .type = XFS, .huge = true };

FIXTURE_SETUP(dax)
{
	NEED("NOPIN_HELD");
	NEED("NOPIN_PMEM");
	pin_to_cpu(0);
	ASSERT_EQ(0, flight_open(&self->f, "NOPIN_HELD"));
	ASSERT_EQ(0, dax_set(&self->d, variant->type, variant->huge));
	ASSERT_EQ(0, file_make(&self->d, 0));
}

FIXTURE_TEARDOWN(dax)
{
	flight_close(&self->f);
	dax_unmap(&self->d);
	fs_put(&self->d.fs);
}

/* From and to another device, and what was read is there after a remount */
TEST_F_TIMEOUT(dax, transfer, 60)
{
	static const enum engine engines[] = {
		ENG_PSYNC, ENG_AIO, ENG_URING, ENG_URING_FIXED };
	struct dax *d = &self->d;
	struct target raw;
	char *map = d->file[0].map;
	int seed = 0;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&raw, "NOPIN_RAW", 0));
	for (int i = 0; i < 4; i++) {
		unsigned long bios, pins;
		struct iovec iov = { map, LEN };
		struct ioq q;

		ASSERT_EQ(0, ioq_init(&q, flight_possible(engines[i]), 4));
		if (engines[i] == ENG_URING_FIXED) {
			/* Pins that last are refused, as they always were */
			EXPECT_EQ(-EOPNOTSUPP, ring_buffers_flags(&q.ring, &iov, 1,
								  0));
			if (nopin())
				ASSERT_EQ(0, ring_buffer(&q.ring, map, LEN));
		}
		bios = vmstat("nopin_bio");
		pins = vmstat("nr_foll_pin_acquired");
		ASSERT_EQ(0, target_fill(&raw, LEN, ++seed, 0));
		/* In one piece, and in many */
		ASSERT_EQ(LEN / 2, ioq_rw(&q, raw.fd, false, map, LEN / 2, 0));
		for (size_t o = LEN / 2; o < LEN; o += 16 * PAGE)
			ASSERT_EQ(16 * PAGE, ioq_rw(&q, raw.fd, false, map + o,
						    16 * PAGE, o));
		EXPECT_EQ(-1, pat_check(map, LEN, seed, 0));
		EXPECT_EQ(-1, target_check(&raw, LEN, seed, 0));

		pat_fill(map, LEN, ++seed, 0);
		ASSERT_EQ(LEN / 2, ioq_rw(&q, raw.fd, true, map, LEN / 2, 0));
		for (size_t o = LEN / 2; o < LEN; o += 16 * PAGE)
			ASSERT_EQ(16 * PAGE, ioq_rw(&q, raw.fd, true, map + o,
						    16 * PAGE, o));
		EXPECT_EQ(-1, target_check(&raw, LEN, seed, 0));
		EXPECT_EQ(-1, pat_check(map, LEN, seed, 0));
		bios = vmstat("nopin_bio") - bios;
		pins = vmstat("nr_foll_pin_acquired") - pins;
		note("%s: %lu bios without pins, %lu pins", engine_name[q.eng],
		     bios, pins);
		if (nopin()) {
			EXPECT_LE(2 * (1 + LEN / 2 / (16 * PAGE)), bios);
			EXPECT_EQ(0, pins);
		} else {
			EXPECT_EQ(0, bios);
			EXPECT_LE(2 * LEN / PAGE, pins);
		}
		ioq_exit(&q);
	}
	/* Brought by a device, and by nobody since */
	ASSERT_EQ(0, target_fill(&raw, LEN, ++seed, 0));
	ASSERT_EQ(LEN, pread(raw.fd, map, LEN, 0));
	target_close(&raw);
	file_unmap(d, 0);
	ASSERT_EQ(0, fs_umount(&d->fs));
	ASSERT_EQ(0, dax_mount(d));
	ASSERT_EQ(0, file_map(d, 0));
	map = d->file[0].map;
	EXPECT_EQ(-1, pat_check(map, LEN, seed, 0));
	dax_unmap(d);
	EXPECT_EQ(0, fs_check(&d->fs));
}

/*
 * Blocks are taken away from a file with I/O in flight, and given to another one
 * at once.
 */

static void cut_run(struct __test_metadata *_metadata, struct dax *d,
		    struct flight *f, int nr, enum engine eng, enum op_id op,
		    size_t gone, bool write)
{
	unsigned long pins = vmstat("nr_foll_pin_acquired");
	char *grab = malloc(LEN), *copy = calloc(1, LEN);
	uint64_t old[LEN / PAGE], new[LEN / PAGE];
	struct file *file = &d->file[nr];
	struct area a = { file->map, gone, file->fd };
	int fd = file->next, done;
	unsigned int common;
	size_t got = 0;
	long took;

	memset(grab, GRAB_BYTE, LEN);
	flight_set(f, file->map, NR_IO, LEN / NR_IO, LEN / NR_IO);
	ASSERT_EQ(0, flight_engine(f, flight_possible(eng)));
	/* This one syncs, so a write to the pages has to come after it */
	ASSERT_EQ(0, file_blocks(file->fd, old, LEN / PAGE, true));
	ASSERT_EQ(0, flight_prepare(f, write));
	for (size_t i = 0; i < LEN / PAGE; i++)
		ASSERT_NE(0, old[i]);

	/* With pins, the file system waits until they are gone */
	ASSERT_EQ(0, flight_start(f, nopin() ? GATE_WAIT : GATE_TIME, HELD_MS));
	took = op_timed(op, &a);
	ASSERT_LE(0, took) TH_LOG("%s", strerror(-took));
	done = flight_done(f);
	while (got < gone) {
		ssize_t n = pwrite(fd, grab, gone - got, got);

		if (n <= 0)
			break;
		got += n;
	}
	ASSERT_EQ(0, flight_finish(f));
	ioq_exit(&f->q);
	ASSERT_EQ(0, file_blocks(fd, new, LEN / PAGE, true));
	common = blocks_common(old, new);
	note("%s, %s of the device: %s of %zu pages took %ld ms, %d of %d done after it",
	     engine_name[f->q.eng], write ? "write" : "read", ops[op].name, gone / PAGE,
	     took, done, NR_IO);
	note("%u of %zu pages are the next file's", common, gone / PAGE);
	/* The file system may need some of them for itself */
	EXPECT_LT(gone / PAGE * 3 / 4, common);

	/* What was freed is the other file's, and what was not is unharmed */
	ASSERT_EQ(got, pread(fd, copy, got, 0));
	EXPECT_EQ(-1, byte_check(copy, got, GRAB_BYTE));
	memset(copy, 0, LEN);
	ASSERT_EQ(op == OP_TRUNCATE ? 0 : LEN, pread(file->fd, copy, LEN, 0));
	EXPECT_EQ(-1, byte_check(copy, gone, 0));
	EXPECT_EQ(-1, pat_check(copy + gone, LEN - gone, f->seed, gone));
	if (write)
		EXPECT_EQ(-1, flight_check_disk(f));
	if (nopin()) {
		EXPECT_LT(f->wait + f->pinned,
			  vmstat("nopin_wait") + vmstat("nopin_pinned"));
		/* Only what is pinned on behalf */
		pins = vmstat("nr_foll_pin_acquired") - pins;
		EXPECT_GE(LEN / PAGE, pins);
	}
	free(grab);
	free(copy);
}

TEST_F_TIMEOUT(dax, blocks, 120)
{
	struct dax *d = &self->d;

	for (int i = 1; i < NR_FILES; i++)
		ASSERT_EQ(0, file_make(d, i));
	ASSERT_EQ(0, dax_fill(d));
	cut_run(_metadata, d, &self->f, 0, ENG_AIO, OP_TRUNCATE, LEN, false);
	cut_run(_metadata, d, &self->f, 1, ENG_URING_FIXED, OP_PUNCH, LEN / 2, false);
	cut_run(_metadata, d, &self->f, 2, ENG_PSYNC, OP_PUNCH, LEN, true);
	dax_unmap(d);
	EXPECT_EQ(0, fs_check(&d->fs));
}

TEST_HARNESS_MAIN
