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
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX	0x00200000
#endif

#define LEN	FLIGHT_LEN
#define HELD_MS	300	/* longer than an invalidation waits */

enum fs_type { EXT4, XFS };

static const char *const fs_name[] = { "ext4", "xfs" };

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
	void *space;
	char *map;
};

#define NR_FILES	3

struct dax {
	enum fs_type type;
	bool huge;
	char dir[32];
	bool mounted;
	struct file file[NR_FILES];
};

static int dax_mount(struct dax *d)
{
	const char *dev = getenv("NOPIN_PMEM");
	char path[64];

	if (mount(dev, d->dir, fs_name[d->type], 0, "dax=always"))
		return -errno;
	d->mounted = true;
	if (d->type != EXT4)
		return 0;
	/* Let files have all there is */
	snprintf(path, sizeof(path), "/sys/fs/ext4/%s/reserved_clusters",
		 strrchr(dev, '/') + 1);
	return sysfs_write(path, "0");
}

static int dax_umount(struct dax *d)
{
	int ret = 0;

	for (int i = 0; i < 20; i++) {
		ret = umount(d->dir) ? -errno : 0;
		if (ret != -EBUSY)
			break;
		usleep(20000);
	}
	d->mounted = ret;
	return ret;
}

static int dax_open(struct dax *d, const char *name, int nr)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.%d", d->dir, name, nr);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

static int file_map(struct dax *d, int nr)
{
	struct file *f = &d->file[nr];

	f->fd = dax_open(d, "file", nr);
	if (f->fd < 0)
		return f->fd;
	f->space = mmap(NULL, LEN + 4 * MB, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (f->space == MAP_FAILED)
		return -errno;
	f->map = (char *)ALIGN_UP((unsigned long)f->space, 2 * MB);
	/* A page off the place where a huge page would be */
	if (!d->huge)
		f->map += PAGE;
	if (mmap(f->map, LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 f->fd, 0) == MAP_FAILED)
		return -errno;
	return 0;
}

static void file_unmap(struct dax *d, int nr)
{
	struct file *f = &d->file[nr];

	if (f->space != MAP_FAILED)
		munmap(f->space, LEN + 4 * MB);
	if (f->fd >= 0)
		close(f->fd);
	if (f->next >= 0)
		close(f->next);
	f->space = MAP_FAILED;
	f->fd = -1;
	f->next = -1;
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
	const char *dev = getenv("NOPIN_PMEM");
	char cmd[256];

	memset(d, 0, sizeof(*d));
	d->type = type;
	d->huge = huge;
	for (int i = 0; i < NR_FILES; i++) {
		d->file[i].fd = -1;
		d->file[i].next = -1;
		d->file[i].space = MAP_FAILED;
	}
	/* First what a test that failed may have left */
	snprintf(cmd, sizeof(cmd),
		 "umount -l %s 2>/dev/null; %s %s >/tmp/nopin-mkfs.log 2>&1", dev,
		 mkfs[type][huge], dev);
	snprintf(d->dir, sizeof(d->dir), "/tmp/nopin-dax-XXXXXX");
	if (system(cmd)) {
		note("%s failed", cmd);
		system("sed 's/^/# /' /tmp/nopin-mkfs.log >&2");
		return -EIO;
	}
	if (!mkdtemp(d->dir))
		return -errno;
	return dax_mount(d);
}

static void dax_put(struct dax *d)
{
	for (int i = 0; i < NR_FILES; i++)
		file_unmap(d, i);
	/* A test that has failed may have files open until its process exits */
	if (d->mounted && dax_umount(d))
		umount2(d->dir, MNT_DETACH);
	rmdir(d->dir);
}

/* The file system is in order */
static int dax_fsck(struct dax *d)
{
	char cmd[128];
	int ret;

	for (int i = 0; i < NR_FILES; i++)
		file_unmap(d, i);
	ret = dax_umount(d);
	if (ret)
		return ret;
	snprintf(cmd, sizeof(cmd), "%s %s >/dev/null 2>&1",
		 d->type == EXT4 ? "fsck.ext4 -f -n" : "xfs_repair -n",
		 getenv("NOPIN_PMEM"));
	return system(cmd);
}

/* A file's blocks, by number of page on the device */
struct blocks {
	unsigned int nr;
	uint64_t at[LEN / PAGE];
};

static int blocks_get(struct blocks *b, int fd)
{
	struct {
		struct fiemap fm;
		struct fiemap_extent fe[LEN / PAGE];
	} *map = calloc(1, sizeof(*map));
	int ret = 0;

	b->nr = 0;
	map->fm.fm_length = LEN;
	map->fm.fm_flags = FIEMAP_FLAG_SYNC;
	map->fm.fm_extent_count = LEN / PAGE;
	if (ioctl(fd, FS_IOC_FIEMAP, map))
		ret = -errno;
	for (unsigned int i = 0; i < map->fm.fm_mapped_extents && !ret; i++)
		for (uint64_t o = 0; o < map->fe[i].fe_length &&
		     b->nr < LEN / PAGE; o += PAGE)
			b->at[b->nr++] = (map->fe[i].fe_physical + o) / PAGE;
	free(map);
	return ret;
}

static unsigned int blocks_common(const struct blocks *a, const struct blocks *b)
{
	unsigned int common = 0;

	for (unsigned int i = 0; i < a->nr; i++)
		for (unsigned int j = 0; j < b->nr; j++)
			common += a->at[i] == b->at[j];
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
	if (d->type == XFS && ioctl(fd, SET_RESBLKS, &none))
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
	bool ready;
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
	ASSERT_EQ(0, flight_open(&self->f));
	ASSERT_EQ(0, dax_set(&self->d, variant->type, variant->huge));
	ASSERT_EQ(0, file_make(&self->d, 0));
	self->ready = true;
}

FIXTURE_TEARDOWN(dax)
{
	if (!self->ready)
		return;
	flight_close(&self->f);
	dax_put(&self->d);
}

/* From and to another device, and what was read is there after a remount */
TEST_F_TIMEOUT(dax, transfer, 60)
{
	static const enum engine engines[] = {
		ENG_PSYNC, ENG_AIO, ENG_URING, ENG_URING_FIXED };
	bool nopin = mode_get() == MODE_NOPIN;
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
								  NULL, 0));
			if (nopin)
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
		if (nopin) {
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
	ASSERT_EQ(0, dax_umount(d));
	ASSERT_EQ(0, dax_mount(d));
	ASSERT_EQ(0, file_map(d, 0));
	map = d->file[0].map;
	EXPECT_EQ(-1, pat_check(map, LEN, seed, 0));
	EXPECT_EQ(0, dax_fsck(d));
}

/*
 * Blocks are taken away from a file with I/O in flight, and given to another one
 * at once.
 */

enum cut { CUT_TRUNCATE, CUT_PUNCH, CUT_HALF, NR_CUTS };

static const char *const cut_name[] = { "truncate", "punch", "punch half" };

static int cut_blocks(int fd, enum cut cut)
{
	if (cut == CUT_TRUNCATE)
		return ftruncate(fd, 0);
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			 cut == CUT_HALF ? LEN / 2 : LEN);
}

static void cut_run(struct __test_metadata *_metadata, struct dax *d,
		    struct flight *f, int nr, enum engine eng, enum cut cut,
		    bool write)
{
	size_t gone = cut == CUT_HALF ? LEN / 2 : LEN, got = 0;
	unsigned long pins = vmstat("nr_foll_pin_acquired");
	unsigned long wait = vmstat("nopin_wait") + vmstat("nopin_pinned");
	struct blocks *old = malloc(sizeof(*old)), *new = malloc(sizeof(*new));
	char *grab = malloc(LEN), *copy = calloc(1, LEN);
	bool nopin = mode_get() == MODE_NOPIN;
	struct file *file = &d->file[nr];
	unsigned int common;
	int fd = file->next, done;
	uint64_t took;

	memset(grab, GRAB_BYTE, LEN);
	ASSERT_EQ(0, flight_fill(f, 1, 0));
	f->buf = file->map;
	ASSERT_EQ(0, flight_engine(f, eng));
	/* This one syncs, so a write to the pages has to come after it */
	ASSERT_EQ(0, blocks_get(old, file->fd));
	pat_fill(file->map, LEN, 2, 0);
	ASSERT_EQ(LEN / PAGE, old->nr);

	/* With pins, the file system waits until they are gone */
	ASSERT_EQ(0, flight_start(f, write, 0, nopin ? GATE_WAIT : GATE_TIME,
				  HELD_MS));
	took = now_ms();
	ASSERT_EQ(0, cut_blocks(file->fd, cut)) TH_LOG("%s", strerror(errno));
	took = now_ms() - took;
	done = flight_done(f);
	while (got < gone) {
		ssize_t n = pwrite(fd, grab, gone - got, got);

		if (n <= 0)
			break;
		got += n;
	}
	ASSERT_EQ(0, flight_finish(f));
	ioq_exit(&f->q);
	ASSERT_EQ(0, blocks_get(new, fd));
	common = blocks_common(old, new);
	note("%s, %s of the device: %s took %u ms, %d of %d done after it",
	     engine_name[f->q.eng], write ? "write" : "read", cut_name[cut],
	     (unsigned int)took, done, FLIGHT_NR);
	note("%u of %zu pages are the next file's", common, gone / PAGE);
	/* The file system may need some of them for itself */
	EXPECT_LT(gone / PAGE * 3 / 4, common);

	/* What was freed is the other file's, and what was not is unharmed */
	ASSERT_EQ(got, pread(fd, copy, got, 0));
	EXPECT_EQ(-1, byte_check(copy, got, GRAB_BYTE));
	memset(copy, 0, LEN);
	ASSERT_EQ(cut == CUT_TRUNCATE ? 0 : LEN, pread(file->fd, copy, LEN, 0));
	EXPECT_EQ(-1, byte_check(copy, gone, 0));
	EXPECT_EQ(-1, pat_check(copy + gone, LEN - gone, write ? 2 : 1, gone));
	if (write)
		EXPECT_EQ(-1, flight_check(f, 2));
	if (nopin) {
		EXPECT_LT(wait, vmstat("nopin_wait") + vmstat("nopin_pinned"));
		/* Only what is pinned on behalf */
		pins = vmstat("nr_foll_pin_acquired") - pins;
		EXPECT_GE(LEN / PAGE, pins);
	}
	free(old);
	free(new);
	free(grab);
	free(copy);
}

TEST_F_TIMEOUT(dax, blocks, 120)
{
	struct dax *d = &self->d;

	for (int i = 1; i < NR_FILES; i++)
		ASSERT_EQ(0, file_make(d, i));
	ASSERT_EQ(0, dax_fill(d));
	cut_run(_metadata, d, &self->f, 0, ENG_AIO, CUT_TRUNCATE, false);
	cut_run(_metadata, d, &self->f, 1, ENG_URING_FIXED, CUT_HALF, false);
	cut_run(_metadata, d, &self->f, 2, ENG_PSYNC, CUT_PUNCH, true);
	EXPECT_EQ(0, dax_fsck(d));
}

TEST_HARNESS_MAIN
