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
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define NR_IO		16
#define LEN		(2 * MB)
#define NR_PAGES	((int)(LEN / PAGE))
/* More than any I/O takes: invalidations wait until it is done */
#define FOREVER_MS	20000
#define WRITEBACK	"/proc/sys/vm/dirty_writeback_centisecs"

/* ---- a file system on the mirror ---- */

struct mirror {
	struct fs fs;
	struct slow late;	/* the leg that takes its copy late */
	int early;		/* the other one */
	int fd;			/* a file of LEN bytes */
	char *map;
	long writeback;
};

static int mirror_open_file(struct mirror *m)
{
	m->fd = fs_open(&m->fs, "file");
	if (m->fd < 0)
		return m->fd;
	if (ftruncate(m->fd, LEN))
		return -errno;
	m->map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	return m->map == MAP_FAILED ? -errno : 0;
}

static void mirror_close_file(struct mirror *m)
{
	munmap(m->map, LEN);
	close(m->fd);
	m->map = NULL;
	m->fd = -1;
}

static int mirror_set(struct mirror *m, enum fs_type type)
{
	static char zeros[LEN];
	int ret;

	m->writeback = sysfs_get(WRITEBACK);
	m->early = open(getenv("NOPIN_MIRROR_EARLY"), O_RDONLY | O_DIRECT);
	if (m->early < 0)
		return -errno;
	/* Nobody but the test is to write the file's pages back */
	ret = slow_open(&m->late, "NOPIN_MIRROR_LATE") ?:
	      fs_make(&m->fs, getenv("NOPIN_MIRROR"), type, type == EXT4 ?
		      "mkfs.ext4 -q -F -E nodiscard -J size=4" : "mkfs.xfs -q -f -K",
		      type == EXT4 ? "commit=900" : NULL) ?:
	      mirror_open_file(m) ?: sysfs_write(WRITEBACK, "0");
	/* By a write, so that there are large folios where the fs likes them */
	if (!ret && (pwrite(m->fd, zeros, LEN, 0) != LEN || fsync(m->fd)))
		ret = -EIO;
	return ret;
}

static void mirror_put(struct mirror *m)
{
	mirror_close_file(m);
	fs_put(&m->fs);
	slow_close(&m->late);
	sysfs_put(WRITEBACK, m->writeback);
	wait_ms_set(DEFAULT_WAIT_MS);
}

/* The number of pages of the file that differ between the legs */
static int mirror_differ(struct mirror *m)
{
	char *a = aligned_alloc(PAGE, LEN), *b = aligned_alloc(PAGE, LEN);
	uint64_t at[NR_PAGES];
	int differ = 0;
	int ret = file_blocks(m->fd, at, NR_PAGES, false) ?:
		  blocks_read(m->early, at, NR_PAGES, a) ?:
		  blocks_read(m->late.t.fd, at, NR_PAGES, b);

	for (size_t o = 0; o < LEN && !ret; o += PAGE)
		differ += !!memcmp(a + o, b + o, PAGE);
	free(a);
	free(b);
	return ret ?: differ;
}

/* Compare what is in the file with @want after a round by the disk */
static ssize_t mirror_remount_check(struct mirror *m, const char *want)
{
	static char copy[LEN];
	int ret;

	mirror_close_file(m);
	ret = fs_umount(&m->fs) ?: fs_mount(&m->fs) ?: mirror_open_file(m);
	if (ret || pread(m->fd, copy, LEN, 0) != LEN) {
		note("remount: %s", strerror(-ret));
		return -2;
	}
	for (size_t i = 0; i < LEN; i++)
		if (copy[i] != want[i])
			return i;
	return -1;
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
};

static int setup(struct setup *s, enum fs_type type)
{
	int ret;

	pin_to_cpu(0);
	ret = flight_open(&s->f, "NOPIN_HELD") ?: mirror_set(&s->m, type);
	flight_set(&s->f, s->m.map, NR_IO, LEN / NR_IO, LEN / NR_IO);
	s->pins = vmstat("nr_foll_pin_acquired");
	return ret;
}

static void teardown(struct setup *s)
{
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
	bool pin = !nopin();
	struct mirror *m = &self->s.m;
	struct flight *f = &self->s.f;
	int changed = 0;

	ASSERT_EQ(0, wait_ms_set(FOREVER_MS));
	for (int i = 0; i < NR_SYNCS; i++) {
		/* Other pairs for the other file system */
		enum sync how = (i + variant->type) % NR_SYNCS;
		uint64_t start;
		int differ;

		ASSERT_EQ(0, flight_engine(f, flight_possible(engines[i])));
		ASSERT_EQ(0, flight_prepare(f, false));
		/* Those that are pinned come when the other leg has its copy */
		ASSERT_EQ(0, flight_start(f, pin ? GATE_TIME : GATE_WAIT,
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
			EXPECT_GT(vmstat("nopin_wait"), f->wait);
		}
		/* What the device wrote gets to the disk in the end */
		ASSERT_EQ(0, file_sync(m, how));
		EXPECT_EQ(0, mirror_differ(m));
		EXPECT_EQ(-1, flight_check(f, m->map, true));
		EXPECT_EQ(0, posix_fadvise(m->fd, 0, 0, POSIX_FADV_DONTNEED));
		EXPECT_EQ(-1, flight_check(f, m->map, true));
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
	char *before = malloc(LEN), *after = malloc(LEN);
	struct mirror *m = &self->s.m;
	struct flight *f = &self->s.f;
	int fd, changed = 0;

	ASSERT_EQ(0, wait_ms_set(FOREVER_MS));
	ASSERT_EQ(0, flight_engine(f, ENG_AIO));
	fd = fs_open(&m->fs, "clone");
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, flight_prepare(f, false));
	ASSERT_EQ(0, flight_start(f, GATE_WAIT, 0));
	ASSERT_EQ(0, ioctl(fd, FICLONE, m->fd)) TH_LOG("%s", strerror(errno));
	ASSERT_EQ(LEN, pread(fd, before, LEN, 0));
	ASSERT_EQ(0, flight_finish(f));
	/* Takes so long that a worker has made pinned pages dirty, which it does later */
	ioq_exit(&f->q);

	ASSERT_EQ(0, fsync(m->fd));
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	ASSERT_EQ(LEN, pread(fd, after, LEN, 0));
	for (size_t i = 0; i < LEN; i += PAGE)
		changed += !!memcmp(before + i, after + i, PAGE);
	close(fd);
	EXPECT_EQ(-1, flight_check(f, m->map, true));
	note("%d of %d pages of the clone changed", changed, NR_PAGES);
	if (!nopin()) {
		ASSERT_LT(0, changed);
		if (_metadata->exit_code == KSFT_PASS)
			SKIP(return, "pins: %d of %d pages of the clone changed",
			     changed, NR_PAGES);
		return;
	}
	EXPECT_EQ(0, changed);
	EXPECT_EQ(self->s.pins, vmstat("nr_foll_pin_acquired"));
}

/* What may be added to the time waited for I/O; nothing lets that go meanwhile */
#define SLACK_MS	(with_lockdep() ? 5000 : 900)

/* Something is done to the file while transfers are in flight, which do not end */
static void in_flight(struct __test_metadata *_metadata, struct flight *f, bool write,
		      enum op_id op, int fd)
{
	struct area a = { f->buf, LEN, fd };
	long took;

	ASSERT_EQ(0, flight_prepare(f, write));
	ASSERT_EQ(0, flight_start(f, GATE_ASKED, 0));
	took = op_timed(op, &a);
	note("%s: took %ld ms", engine_name[f->q.eng], took);
	ASSERT_LE(0, took);
	ASSERT_EQ(0, flight_done(f));
	if (!write)
		EXPECT_GT(DEFAULT_WAIT_MS + SLACK_MS, took);
}

/*
 * Truncate and punch while reads are in flight: who does that does not wait for
 * long, and what the device writes late gets into nobody's memory and no file.
 */
static void cut_run(struct __test_metadata *_metadata, struct mirror *m,
		    struct flight *f, enum engine eng, enum op_id op)
{
	char *zeros = calloc(1, LEN);
	struct grab grab;

	/* Another process takes its copy of what is mapped here: not this */
	ASSERT_EQ(0, madvise(m->map, LEN, MADV_DONTFORK));
	ASSERT_EQ(0, grab_init(&grab, MEM_ANON, 2 * LEN));
	ASSERT_EQ(0, flight_engine(f, flight_possible(eng)));
	in_flight(_metadata, f, false, op, m->fd);
	ASSERT_EQ(0, grab_fill(&grab));
	EXPECT_EQ(-1, byte_check(m->map, LEN, 0));
	ASSERT_EQ(0, flight_finish(f));
	ioq_exit(&f->q);

	EXPECT_EQ(-1, grab_check(&grab));
	EXPECT_EQ(-1, byte_check(m->map, LEN, 0));
	EXPECT_EQ(-1, mirror_remount_check(m, zeros));
	grab_exit(&grab);
}

TEST_F_TIMEOUT(mirror, truncate, 60)
{
	cut_run(_metadata, &self->s.m, &self->s.f,
		variant->type == XFS ? ENG_AIO : ENG_PSYNC, OP_CUT);
}

TEST_F_TIMEOUT(mirror, punch, 60)
{
	cut_run(_metadata, &self->s.m, &self->s.f, ENG_URING_FIXED, OP_PUNCH);
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

	ASSERT_EQ(0, flight_engine(f, ENG_AIO));
	in_flight(_metadata, f, false, OP_FSYNC, m->fd);
	pinned = vmstat("nopin_pinned") - f->pinned;
	note("%lu pages pinned", pinned);
	if (nopin())
		EXPECT_LT(0, pinned);
	ASSERT_EQ(0, flight_finish(f));
	ioq_exit(&f->q);

	EXPECT_EQ(-1, flight_check(f, m->map, true));
	memcpy(want, m->map, LEN);
	EXPECT_EQ(-1, mirror_remount_check(m, want));
	EXPECT_EQ(0, mirror_differ(m));
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

	st->error = ioq_init_buffer(&q, st->eng, DEPTH, s->m->map, LEN);
	while (!atomic_load(&s->stop) && !st->error) {
		int nr = st->eng == ENG_PSYNC ? 1 : DEPTH;

		for (int i = 0; i < nr && !st->error; i++) {
			size_t len = (1 + rnd(&seed) % 16) * PAGE;
			off_t to = rnd(&seed) % (NR_PAGES - 16) * PAGE;
			off_t pos = rnd(&seed) % (NR_PAGES - 16) * PAGE;

			st->error = ioq_begin(&q, i, s->src.fd, false, s->m->map + to,
					      len, pos, res);
		}
		st->error = st->error ?: ioq_end(&q, res);
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
	ASSERT_EQ(0, wait_ms_set(FOREVER_MS));
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
	mirror_close_file(m);
	EXPECT_EQ(0, fs_check(&m->fs));
	if (!nopin()) {
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
};

FIXTURE_VARIANT(source) {
	enum mem_kind kind;
	enum engine eng;
};

FIXTURE_VARIANT_ADD(source, ext4_aio) { .kind = MEM_SHARED_EXT4, .eng = ENG_AIO };
FIXTURE_VARIANT_ADD(source, ext4_fixed) { .kind = MEM_SHARED_EXT4, .eng = ENG_URING_FIXED };
FIXTURE_VARIANT_ADD(source, xfs_psync) { .kind = MEM_SHARED_XFS, .eng = ENG_PSYNC };

FIXTURE_SETUP(source)
{
	NEED("NOPIN_HELD");
	NEED(variant->kind == MEM_SHARED_XFS ? "NOPIN_XFS" : "NOPIN_EXT4");
	pin_to_cpu(0);
	ASSERT_EQ(0, flight_open(&self->f, "NOPIN_HELD"));
	ASSERT_EQ(0, mem_get(&self->m, variant->kind, LEN));
	flight_set(&self->f, self->m.p, NR_IO, LEN / NR_IO, LEN / NR_IO);
	ASSERT_EQ(0, flight_engine(&self->f, flight_possible(variant->eng)));
}

FIXTURE_TEARDOWN(source)
{
	flight_close(&self->f);
}

TEST_F_TIMEOUT(source, sync, 60)
{
	struct flight *f = &self->f;

	in_flight(_metadata, f, true, OP_FSYNC, self->m.fd);
	EXPECT_EQ(f->wait, vmstat("nopin_wait"));
	EXPECT_EQ(f->pinned, vmstat("nopin_pinned"));
	ASSERT_EQ(0, flight_finish(f));
	EXPECT_EQ(-1, flight_check_disk(f));
	EXPECT_EQ(-1, flight_check(f, self->m.p, true));
}

TEST_HARNESS_MAIN
