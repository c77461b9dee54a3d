// SPDX-License-Identifier: GPL-2.0
/*
 * Files whose mappings are buffers: what a device writes into pages of the page
 * cache, and what the file system may rely on meanwhile.
 *
 * O1: a page does not change while it is under writeback. The file system is on
 * a mirror that asks for stable pages. One leg takes its copy of a page when the
 * request is submitted, the other one when the throttle lets the request
 * through, so a page that changed in between is not the same on both legs.
 *
 * O2: a page does not become dirty unless the file system has been told before.
 * Otherwise the data may be lost, or written to blocks that belong to another
 * file by then.
 *
 * Pins give neither. The tests that depend on it count the pages concerned in
 * either mode; with pins there must be some, or else the test sees nothing, and
 * the result is SKIP, with their number.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN		FLIGHT_LEN
#define NR_IO		FLIGHT_NR
#define NR_PAGES	((int)(LEN / PAGE))
#define RMAP_WAIT_MS	100		/* the default */
/* More than any I/O takes: invalidations wait until it is done */
#define FOREVER		"20000"
#define RMAP_WAIT	"/sys/kernel/mm/nopin/rmap_wait_ms"
#define WRITEBACK	"/proc/sys/vm/dirty_writeback_centisecs"

/* ---- a file system on the mirror ---- */

enum fs_type { EXT4, XFS };

static const char *const fs_name[] = { "ext4", "xfs" };

struct mirror {
	enum fs_type type;
	char dir[32];
	bool mounted;
	struct slow late;	/* the leg that takes its copy late */
	int early;		/* the other one */
	int fd;			/* a file of LEN bytes */
	char *map;
	char rmap_wait[32];
	char writeback[32];
};

static int mirror_mount(struct mirror *m)
{
	/* Nobody but the test is to write the file's pages back */
	if (mount(getenv("NOPIN_MIRROR"), m->dir, fs_name[m->type], 0,
		  m->type == EXT4 ? "commit=900" : NULL))
		return -errno;
	m->mounted = true;
	return 0;
}

static int mirror_umount(struct mirror *m)
{
	int ret = 0;

	for (int i = 0; i < 20; i++) {
		ret = umount(m->dir) ? -errno : 0;
		if (ret != -EBUSY)
			break;
		usleep(20000);
	}
	m->mounted = ret;
	return ret;
}

static int mirror_path(struct mirror *m, const char *name, char *path, size_t len)
{
	return snprintf(path, len, "%s/%s", m->dir, name) >= (int)len;
}

static int mirror_open_file(struct mirror *m)
{
	char path[64];

	mirror_path(m, "file", path, sizeof(path));
	m->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (m->fd < 0)
		return -errno;
	if (ftruncate(m->fd, LEN))
		return -errno;
	m->map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	return m->map == MAP_FAILED ? -errno : 0;
}

static void mirror_close_file(struct mirror *m)
{
	if (m->map != MAP_FAILED)
		munmap(m->map, LEN);
	if (m->fd >= 0)
		close(m->fd);
	m->map = MAP_FAILED;
	m->fd = -1;
}

static int mirror_set(struct mirror *m, enum fs_type type)
{
	const char *dev = getenv("NOPIN_MIRROR");
	char cmd[256], *zeros = calloc(1, LEN);
	int ret;

	memset(m, 0, sizeof(*m));
	m->type = type;
	m->fd = -1;
	m->map = MAP_FAILED;
	sysfs_read(RMAP_WAIT, m->rmap_wait, sizeof(m->rmap_wait));
	sysfs_read(WRITEBACK, m->writeback, sizeof(m->writeback));

	m->early = open(getenv("NOPIN_MIRROR_EARLY"), O_RDONLY | O_DIRECT);
	if (m->early < 0)
		return -errno;
	ret = slow_open(&m->late, "NOPIN_MIRROR_LATE");
	if (ret)
		return ret;

	/* First what a test that failed may have left */
	snprintf(cmd, sizeof(cmd),
		 "umount -l %s 2>/dev/null; mkfs.%s -q %s %s >/dev/null 2>&1", dev,
		 fs_name[type], type == EXT4 ? "-F -E nodiscard -J size=4" : "-f -K",
		 dev);
	snprintf(m->dir, sizeof(m->dir), "/tmp/nopin-mirror-XXXXXX");
	if (system(cmd) || !mkdtemp(m->dir))
		return -EIO;
	ret = mirror_mount(m) ?: mirror_open_file(m);
	sysfs_write(WRITEBACK, "0");
	if (nopin_present())
		sysfs_write(RMAP_WAIT, "100");
	/* By a write, so that there are large folios where the fs likes them */
	if (!ret && (pwrite(m->fd, zeros, LEN, 0) != LEN || fsync(m->fd)))
		ret = -EIO;
	free(zeros);
	return ret;
}

static void mirror_put(struct mirror *m)
{
	mirror_close_file(m);
	/* A test that has failed may have files open until its process exits */
	if (m->mounted && mirror_umount(m))
		umount2(m->dir, MNT_DETACH);
	rmdir(m->dir);
	slow_close(&m->late);
	close(m->early);
	sysfs_write(WRITEBACK, m->writeback);
	if (nopin_present())
		sysfs_write(RMAP_WAIT, m->rmap_wait);
}

/* Let no invalidation give up waiting for I/O */
static int wait_forever(void)
{
	return nopin_present() ? sysfs_write(RMAP_WAIT, FOREVER) : 0;
}

/* What the file has, from memory as far as it is there */
static int mirror_read(struct mirror *m, void *buf)
{
	ssize_t n = pread(m->fd, buf, LEN, 0);

	return n == LEN ? 0 : n < 0 ? -errno : -EIO;
}

/* The number of pages of the file that differ between the legs */
static int mirror_differ(struct mirror *m)
{
	struct {
		struct fiemap fm;
		struct fiemap_extent fe[64];
	} map = { 0 };
	char *a = aligned_alloc(PAGE, LEN), *b = aligned_alloc(PAGE, LEN);
	int differ = 0;
	uint64_t pos = 0;
	bool last;

	do {
		memset(&map, 0, sizeof(map));
		map.fm.fm_start = pos;
		map.fm.fm_length = LEN - pos;
		map.fm.fm_extent_count = 64;
		if (ioctl(m->fd, FS_IOC_FIEMAP, &map)) {
			differ = -errno;
			break;
		}
		last = !map.fm.fm_mapped_extents;
		for (unsigned int i = 0; i < map.fm.fm_mapped_extents; i++) {
			struct fiemap_extent *e = &map.fe[i];
			size_t len = e->fe_length;

			pos = e->fe_logical + e->fe_length;
			last |= e->fe_flags & FIEMAP_EXTENT_LAST;
			if (e->fe_flags & (FIEMAP_EXTENT_UNKNOWN |
					   FIEMAP_EXTENT_DELALLOC |
					   FIEMAP_EXTENT_UNWRITTEN))
				continue;
			if (len > LEN)
				len = LEN;
			if (pread(m->early, a, len, e->fe_physical) != (ssize_t)len ||
			    pread(m->late.t.fd, b, len, e->fe_physical) != (ssize_t)len) {
				differ = -EIO;
				last = true;
				break;
			}
			for (size_t o = 0; o < len; o += PAGE)
				differ += !!memcmp(a + o, b + o, PAGE);
		}
	} while (!last && pos < LEN);
	free(a);
	free(b);
	return differ;
}

/* Compare what is in the file with @want after a round by the disk */
static ssize_t mirror_remount_check(struct mirror *m, const char *want)
{
	char *copy = malloc(LEN);
	ssize_t bad = -1;
	int ret;

	mirror_close_file(m);
	ret = mirror_umount(m) ?: mirror_mount(m) ?: mirror_open_file(m) ?:
	      mirror_read(m, copy);
	if (ret) {
		note("remount: %s", strerror(-ret));
		bad = -2;
	}
	for (size_t i = 0; i < LEN && bad == -1; i++)
		if (copy[i] != want[i])
			bad = i;
	free(copy);
	return bad;
}

/* The same, and the file system is in order */
static int mirror_fsck(struct mirror *m)
{
	char cmd[128];
	int ret;

	mirror_close_file(m);
	ret = mirror_umount(m);
	if (ret)
		return ret;
	snprintf(cmd, sizeof(cmd), "%s %s >/dev/null 2>&1",
		 m->type == EXT4 ? "fsck.ext4 -f -n" : "xfs_repair -n",
		 getenv("NOPIN_MIRROR"));
	return system(cmd);
}

enum sync { SYNC_FSYNC, SYNC_RANGE, SYNC_MSYNC, NR_SYNCS };

static const char *const sync_name[] = { "fsync", "sync_file_range", "msync" };

static int file_sync(struct mirror *m, enum sync how)
{
	int ret;

	if (how == SYNC_FSYNC)
		ret = fsync(m->fd);
	else if (how == SYNC_RANGE)
		ret = sync_file_range(m->fd, 0, LEN, SYNC_FILE_RANGE_WAIT_BEFORE |
				      SYNC_FILE_RANGE_WRITE |
				      SYNC_FILE_RANGE_WAIT_AFTER);
	else
		ret = msync(m->map, LEN, MS_SYNC);
	return ret ? -errno : 0;
}

struct setup {
	struct mirror m;
	struct flight f;
	unsigned long pins;
	bool ready;
};

static int setup(struct setup *s, enum fs_type type)
{
	int ret;

	pin_to_cpu(0);
	ret = flight_open(&s->f) ?: mirror_set(&s->m, type);
	s->f.buf = s->m.map;
	s->pins = vmstat("nr_foll_pin_acquired");
	s->ready = !ret;
	return ret;
}

static void teardown(struct setup *s)
{
	if (!s->ready)
		return;
	flight_close(&s->f);
	mirror_put(&s->m);
}

FIXTURE(mirror) {
	struct setup s;
};

FIXTURE_VARIANT(mirror) {
	enum fs_type type;
};

FIXTURE_VARIANT_ADD(mirror, ext4) { .type = EXT4 };
FIXTURE_VARIANT_ADD(mirror, xfs) { .type = XFS };

FIXTURE_SETUP(mirror)
{
	NEED("NOPIN_HELD");
	NEED("NOPIN_MIRROR");
	ASSERT_EQ(0, setup(&self->s, variant->type));
}

FIXTURE_TEARDOWN(mirror)
{
	teardown(&self->s);
}

/* Clones need XFS */
FIXTURE(xfs) {
	struct setup s;
};

FIXTURE_SETUP(xfs)
{
	NEED("NOPIN_HELD");
	NEED("NOPIN_MIRROR");
	ASSERT_EQ(0, setup(&self->s, XFS));
}

FIXTURE_TEARDOWN(xfs)
{
	teardown(&self->s);
}

/*
 * Everything is in flight when the file is synced, ends while the late leg has
 * yet to take its copy, and is synced once more.
 */
TEST_F_TIMEOUT(mirror, stable, 120)
{
	static const enum engine engines[] = {
		ENG_PSYNC, ENG_AIO, ENG_URING_FIXED };
	enum { HELD_MS = 250, LATE_MS = 500 };
	bool pin = mode_get() == MODE_PIN;
	struct mirror *m = &self->s.m;
	struct flight *f = &self->s.f;
	int changed = 0;

	ASSERT_EQ(0, wait_forever());
	for (int i = 0; i < NR_SYNCS; i++)
		ASSERT_EQ(0, flight_fill(f, i, i * 2 * LEN));
	for (int i = 0; i < NR_SYNCS; i++) {
		/* Other pairs for the other file system */
		enum sync how = (i + variant->type) % NR_SYNCS;
		unsigned long wait = vmstat("nopin_wait");
		uint64_t start;
		int differ;

		ASSERT_EQ(0, flight_engine(f, engines[i]));
		pat_fill(m->map, LEN, ~i, 0);
		/* Those that are pinned come when the other leg has its copy */
		ASSERT_EQ(0, flight_start(f, false, i * 2 * LEN,
					  pin ? GATE_TIME : GATE_WAIT,
					  pin ? HELD_MS : 0));
		ASSERT_EQ(0, slow_prime(&m->late, true, LATE_MS));
		if (!pin)
			ASSERT_EQ(0, flight_done(f));
		start = now_ms();
		ASSERT_EQ(0, file_sync(m, how));
		start = now_ms() - start;
		ASSERT_EQ(0, flight_finish(f));
		differ = mirror_differ(m);
		ASSERT_LE(0, differ);
		note("%s, %s: %d of %d pages changed under writeback, %u ms",
		     engine_name[f->q.eng], sync_name[how], differ, NR_PAGES,
		     (unsigned int)start);
		changed += differ;
		if (!pin) {
			EXPECT_EQ(0, differ);
			EXPECT_GT(vmstat("nopin_wait"), wait);
		}
		/* What the device wrote gets to the disk in the end */
		ASSERT_EQ(0, file_sync(m, how));
		EXPECT_EQ(0, mirror_differ(m));
		EXPECT_EQ(-1, pat_check(m->map, LEN, i, 0));
		EXPECT_EQ(0, posix_fadvise(m->fd, 0, 0, POSIX_FADV_DONTNEED));
		EXPECT_EQ(-1, pat_check(m->map, LEN, i, 0));
		ioq_exit(&f->q);
	}
	if (pin) {
		/* A failure so far must not turn into a SKIP */
		ASSERT_LT(0, changed);
		if (_metadata->exit_code == KSFT_PASS)
			SKIP(return, "pins: %d of %d pages changed under writeback",
			     changed, NR_SYNCS * NR_PAGES);
		return;
	}
	EXPECT_EQ(self->s.pins, vmstat("nr_foll_pin_acquired"));
}

/*
 * A clone shares the file's blocks. The file is given others when it tells the
 * file system that it is about to be written; who does not tell writes into the
 * clone.
 */
TEST_F_TIMEOUT(xfs, clone, 60)
{
	char path[64], *before = malloc(LEN), *after = malloc(LEN);
	struct mirror *m = &self->s.m;
	struct flight *f = &self->s.f;
	int fd, changed = 0;

	ASSERT_EQ(0, wait_forever());
	ASSERT_EQ(0, flight_fill(f, 1, 0));
	ASSERT_EQ(0, flight_engine(f, ENG_AIO));
	mirror_path(m, "clone", path, sizeof(path));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	pat_fill(m->map, LEN, 2, 0);
	ASSERT_EQ(0, flight_start(f, false, 0, GATE_WAIT, 0));
	ASSERT_EQ(0, ioctl(fd, FICLONE, m->fd)) TH_LOG("%s", strerror(errno));
	ASSERT_EQ(LEN, pread(fd, before, LEN, 0));
	ASSERT_EQ(0, flight_finish(f));
	ioq_exit(&f->q);

	ASSERT_EQ(0, fsync(m->fd));
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	ASSERT_EQ(LEN, pread(fd, after, LEN, 0));
	for (size_t i = 0; i < LEN; i += PAGE)
		changed += !!memcmp(before + i, after + i, PAGE);
	close(fd);
	EXPECT_EQ(-1, pat_check(m->map, LEN, 1, 0));
	note("%d of %d pages of the clone changed", changed, NR_PAGES);
	free(before);
	free(after);
	if (mode_get() == MODE_PIN) {
		ASSERT_LT(0, changed);
		if (_metadata->exit_code == KSFT_PASS)
			SKIP(return, "pins: %d of %d pages of the clone changed",
			     changed, NR_PAGES);
		return;
	}
	EXPECT_EQ(0, changed);
	EXPECT_EQ(self->s.pins, vmstat("nr_foll_pin_acquired"));
}

/*
 * Do something to the file while transfers are in flight. The number of those that
 * had ended when it was done, or -errno.
 */
static int in_flight(struct flight *f, bool write, uint64_t seed,
		     int (*act)(void *arg), void *arg, unsigned int *took)
{
	uint64_t start;
	int ret;

	pat_fill(f->buf, LEN, seed, 0);
	ret = flight_start(f, write, 0, GATE_ASKED, 0);
	if (ret)
		return ret;
	start = now_ms();
	if (act(arg))
		return -errno;
	*took = now_ms() - start;
	note("%s: took %u ms", engine_name[f->q.eng], *took);
	return flight_done(f);
}

/* What may be added to the time waited for I/O; nothing lets that go meanwhile */
#define SLACK_MS	(with_lockdep() ? 5000 : 900)

static int act_fsync(void *arg)
{
	return fsync(*(int *)arg);
}

/*
 * Truncate and punch while reads are in flight: who does that does not wait for
 * long, and what the device writes late gets into nobody's memory and no file.
 */

static int cut_truncate(void *arg)
{
	struct mirror *m = arg;

	return ftruncate(m->fd, 0) ?: ftruncate(m->fd, LEN);
}

static int cut_punch(void *arg)
{
	struct mirror *m = arg;

	return fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 0, LEN);
}

static void cut_run(struct __test_metadata *_metadata, struct mirror *m,
		    struct flight *f, enum engine eng, int (*cut)(void *m))
{
	char *zeros = calloc(1, LEN);
	struct grab grab;
	unsigned int took;
	int done;

	/* Another process takes its copy of what is mapped here: not this */
	ASSERT_EQ(0, madvise(m->map, LEN, MADV_DONTFORK));
	ASSERT_EQ(0, grab_init(&grab, MEM_ANON, 2 * LEN));
	ASSERT_EQ(0, flight_fill(f, 1, 0));
	ASSERT_EQ(0, flight_engine(f, eng));
	done = in_flight(f, false, 2, cut, m, &took);
	ASSERT_EQ(0, done);
	ASSERT_EQ(0, grab_fill(&grab));
	EXPECT_GT(RMAP_WAIT_MS + SLACK_MS, took);
	EXPECT_EQ(-1, byte_check(m->map, LEN, 0));
	ASSERT_EQ(0, flight_finish(f));
	ioq_exit(&f->q);

	EXPECT_EQ(-1, grab_check(&grab));
	EXPECT_EQ(-1, byte_check(m->map, LEN, 0));
	EXPECT_EQ(-1, mirror_remount_check(m, zeros));
	grab_exit(&grab);
	free(zeros);
}

TEST_F_TIMEOUT(mirror, truncate, 60)
{
	cut_run(_metadata, &self->s.m, &self->s.f,
		variant->type == XFS ? ENG_AIO : ENG_PSYNC, cut_truncate);
}

TEST_F_TIMEOUT(mirror, punch, 60)
{
	cut_run(_metadata, &self->s.m, &self->s.f, ENG_URING_FIXED, cut_punch);
}

/*
 * A sync that has run out of patience goes on as it would with pins. What the
 * device writes then is not lost, even if there is no other sync.
 */
TEST_F_TIMEOUT(mirror, sync_bounded, 60)
{
	struct mirror *m = &self->s.m;
	struct flight *f = &self->s.f;
	char *want = malloc(LEN);
	unsigned long pinned;
	unsigned int took;
	int done;

	ASSERT_EQ(0, flight_fill(f, 1, 0));
	ASSERT_EQ(0, flight_engine(f, ENG_AIO));
	pinned = vmstat("nopin_pinned");
	done = in_flight(f, false, 2, act_fsync, &m->fd, &took);
	ASSERT_EQ(0, done);
	pinned = vmstat("nopin_pinned") - pinned;
	note("%lu pages pinned", pinned);
	EXPECT_GT(RMAP_WAIT_MS + SLACK_MS, took);
	if (mode_get() == MODE_NOPIN)
		EXPECT_LT(0, pinned);
	ASSERT_EQ(0, flight_finish(f));
	ioq_exit(&f->q);

	EXPECT_EQ(-1, pat_check(m->map, LEN, 1, 0));
	pat_fill(want, LEN, 1, 0);
	EXPECT_EQ(-1, mirror_remount_check(m, want));
	EXPECT_EQ(0, mirror_differ(m));
	free(want);
}

/*
 * Everything at once: reads from a busy disk, by all engines, into a file that
 * is written, truncated, extended, punched and synced.
 */

struct storm {
	struct mirror *m;
	struct target src;
	atomic_bool stop;
};

struct stormer {
	struct storm *s;
	enum engine eng;
	pthread_t th;
	unsigned long done;
	unsigned long failed;	/* beyond the end of the file */
	int error;
};

static void *storm_thread(void *arg)
{
	enum { DEPTH = 8 };
	struct stormer *st = arg;
	struct storm *s = st->s;
	uint32_t seed = st->eng + 1;
	long res[DEPTH];
	struct ioq q;

	st->error = ioq_init(&q, st->eng, DEPTH);
	if (!st->error && st->eng == ENG_URING_FIXED)
		st->error = ring_buffer(&q.ring, s->m->map, LEN);
	while (!atomic_load(&s->stop) && !st->error) {
		int nr = st->eng == ENG_PSYNC ? 1 : DEPTH;

		for (int i = 0; i < nr && !st->error; i++) {
			size_t len = (1 + rnd(&seed) % 16) * PAGE;
			off_t to = rnd(&seed) % (NR_PAGES - 16) * PAGE;
			off_t pos = rnd(&seed) % (NR_PAGES - 16) * PAGE;

			res[i] = len;
			if (st->eng == ENG_PSYNC)
				res[i] = ioq_rw(&q, s->src.fd, false,
						s->m->map + to, len, pos);
			else
				st->error = ioq_start(&q, i, s->src.fd, false,
						      s->m->map + to, len, pos);
		}
		if (st->eng != ENG_PSYNC && !st->error) {
			int ret = ioq_reap(&q, nr, res);

			st->error = ret < 0 ? ret : 0;
		}
		for (int i = 0; i < nr && !st->error; i++) {
			st->done++;
			if (res[i] < 0)
				st->failed++;
			if (res[i] < 0 && res[i] != -EFAULT)
				st->error = res[i];
		}
		/* There are two processors, and others want them, too */
		usleep(500);
	}
	ioq_exit(&q);
	return NULL;
}

static int storm_change(struct mirror *m, uint32_t *seed, const char *data)
{
	size_t len = (1 + rnd(seed) % 64) * PAGE;
	off_t pos = rnd(seed) % (NR_PAGES - 64) * PAGE;

	switch (rnd(seed) % 4) {
	case 0:
		return ftruncate(m->fd, pos) ?: ftruncate(m->fd, LEN);
	case 1:
		return fallocate(m->fd, FALLOC_FL_PUNCH_HOLE |
				 FALLOC_FL_KEEP_SIZE, pos, len);
	default:
		return pwrite(m->fd, data, len, pos) != (ssize_t)len;
	}
}

TEST_F_TIMEOUT(mirror, storm, 120)
{
	enum { NR = 3 };
	struct stormer st[NR] = {
		{ .eng = ENG_PSYNC }, { .eng = ENG_AIO },
		{ .eng = flight_possible(ENG_URING_FIXED) },
	};
	unsigned int syncs = 0, changed = 0;
	struct mirror *m = &self->s.m;
	unsigned long pins;
	struct storm s = { .m = m };
	char *data = malloc(LEN);
	uint32_t seed = 5;
	uint64_t end;

	NEED("NOPIN_SLOW");
	ASSERT_EQ(0, wait_forever());
	ASSERT_EQ(0, target_open(&s.src, "NOPIN_SLOW", 0));
	ASSERT_EQ(0, target_fill(&s.src, LEN, 3, 0));
	pat_fill(data, LEN, 4, 0);
	pat_fill(m->map, LEN, 5, 0);
	for (int i = 0; i < NR; i++) {
		st[i].s = &s;
		ASSERT_EQ(0, pthread_create(&st[i].th, NULL, storm_thread, &st[i]));
	}
	end = now_ms() + test_ms(1500);
	do {
		int differ;

		ASSERT_EQ(0, storm_change(m, &seed, data))
			TH_LOG("%s", strerror(errno));
		ASSERT_EQ(0, slow_prime(&m->late, true, 30));
		ASSERT_EQ(0, file_sync(m, syncs % NR_SYNCS));
		differ = mirror_differ(m);
		ASSERT_LE(0, differ);
		changed += differ;
		syncs++;
	} while (now_ms() < end);
	atomic_store(&s.stop, true);
	for (int i = 0; i < NR; i++) {
		ASSERT_EQ(0, pthread_join(st[i].th, NULL));
		note("%s: %lu reads, %lu of them beyond the end",
		     engine_name[st[i].eng], st[i].done, st[i].failed);
		EXPECT_EQ(0, st[i].error);
		EXPECT_LT(st[i].failed, st[i].done);
	}
	target_close(&s.src);
	pins = vmstat("nr_foll_pin_acquired") - self->s.pins;
	note("%u syncs, %u pages changed under writeback, %lu pins", syncs,
	     changed, pins);

	/* Nothing but the dirty state says now what there is to write */
	memcpy(data, m->map, LEN);
	EXPECT_EQ(-1, mirror_remount_check(m, data));
	EXPECT_EQ(0, mirror_differ(m));
	EXPECT_EQ(0, mirror_fsck(m));
	free(data);
	if (mode_get() == MODE_PIN) {
		/* On a busy machine there may be none */
		if (changed && _metadata->exit_code == KSFT_PASS)
			SKIP(return, "pins: %u pages changed under %u writebacks",
			     changed, syncs);
		return;
	}
	/* Reads that go beyond the end of the file are pinned as far as it goes */
	EXPECT_GE(pins, changed);
}

/*
 * Devices that read memory do not mind that it becomes read-only: a sync does
 * not wait for writes whose buffer the file's mapping is.
 */

FIXTURE(source) {
	struct mem m;
	struct flight f;
	bool ready;
};

FIXTURE_VARIANT(source) {
	enum mem_kind kind;
	enum engine eng;
};

FIXTURE_VARIANT_ADD(source, ext4_aio) {
	.kind = MEM_SHARED_EXT4, .eng = ENG_AIO };
FIXTURE_VARIANT_ADD(source, ext4_fixed) {
	.kind = MEM_SHARED_EXT4, .eng = ENG_URING_FIXED };
FIXTURE_VARIANT_ADD(source, xfs_psync) {
	.kind = MEM_SHARED_XFS, .eng = ENG_PSYNC };

FIXTURE_SETUP(source)
{
	NEED("NOPIN_HELD");
	NEED(variant->kind == MEM_SHARED_XFS ? "NOPIN_XFS" : "NOPIN_EXT4");
	pin_to_cpu(0);
	ASSERT_EQ(0, flight_open(&self->f));
	ASSERT_EQ(0, mem_get(&self->m, variant->kind, LEN));
	self->f.buf = self->m.p;
	ASSERT_EQ(0, flight_engine(&self->f, variant->eng));
	self->ready = true;
}

FIXTURE_TEARDOWN(source)
{
	if (!self->ready)
		return;
	ioq_exit(&self->f.q);
	flight_close(&self->f);
	mem_put(&self->m);
}

TEST_F_TIMEOUT(source, sync, 60)
{
	unsigned long wait, pinned;
	unsigned int took;
	int done;

	wait = vmstat("nopin_wait");
	pinned = vmstat("nopin_pinned");
	done = in_flight(&self->f, true, 7, act_fsync, &self->m.fd, &took);
	ASSERT_EQ(0, done);
	EXPECT_EQ(wait, vmstat("nopin_wait"));
	EXPECT_EQ(pinned, vmstat("nopin_pinned"));
	ASSERT_EQ(0, flight_finish(&self->f));
	EXPECT_EQ(-1, flight_check(&self->f, 7));
	EXPECT_EQ(-1, pat_check(self->m.p, LEN, 7, 0));
}

TEST_HARNESS_MAIN
