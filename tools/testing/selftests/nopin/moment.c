// SPDX-License-Identifier: GPL-2.0
/*
 * What a wait for I/O gave stays: a snapshot, a checkpoint, a file system that is
 * frozen, a clone, a collapsed page and a hole are of one moment, although a
 * device writes the memory all the time.
 *
 * A thread keeps 16 reads in flight, each of which brings a generation of its own
 * to its part of a buffer. The disk is the throttled one: 5 ms for each read, and
 * the data moves at the end. A null_blk with a timer would not do. It copies the
 * data when a read begins, so a device that writes too late would not show.
 *
 * Whoever protects pages of that buffer waits until the reads are done. With pins
 * nobody waits. There the tests count the pages that have changed too late, and
 * the result is SKIP, with their number.
 */
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC	0x8000
#endif
#ifndef PAGEMAP_SCAN
struct page_region {
	uint64_t start, end, categories;
};

struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define PAGEMAP_SCAN		_IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_WRITTEN		2
#define PM_SCAN_WP_MATCHING	1
#define PM_SCAN_CHECK_WPASYNC	2
#endif

#define NR		16		/* reads in flight */
#define IO		(32 * KB)	/* bytes of each */
#define LEN		(NR * IO)	/* of the buffer */
#define NR_PAGES	((int)(LEN / PAGE))
#define HPAGE		(2 * MB)
/* Generations on the disk, used in turn; the buffer begins as number 0 */
#define GENS		4
#define SEED(gen)	(71 + (gen) % GENS)
/* What is in flight has ended by then: 16 reads take 80 ms */
#define SETTLE_MS	(with_lockdep() ? 500 : 150)
#define STUCK_MS	60000

/* ---- reads without end ---- */

struct stream {
	struct target t;
	struct ioq q;
	char *buf;
	size_t stride;			/* between the parts of the buffer */
	pthread_t th;
	pthread_mutex_t lock;		/* to begin reads */
	bool hold;			/* begin none */
	atomic_bool stop, on;		/* on: until stream_stop() */
	atomic_uint epoch;		/* odd while what was read may vanish */
	atomic_uint idle;		/* parts that no read is in flight to */
	atomic_uint done[NR];
	unsigned int gen[NR], since[NR];
	bool busy[NR];
	atomic_int error;
	unsigned int lost;		/* reads whose data is not there */
};

static char *part(struct stream *s, int i)
{
	return s->buf + i * s->stride;
}

static bool part_lost(struct stream *s, int i)
{
	return pat_check(part(s, i), IO, SEED(s->gen[i]), i * s->stride) != -1;
}

/* There are gaps between reads on the disk, or neighbours might be merged */
static off_t disk_pos(unsigned int gen, int i)
{
	return (gen % GENS * NR + i) * 2 * IO;
}

static void stream_begin(struct stream *s)
{
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < NR && !s->hold && !s->error && !s->stop; i++) {
		if (s->busy[i])
			continue;
		s->busy[i] = true;
		s->since[i] = s->epoch;
		s->gen[i]++;
		s->error = ioq_start(&s->q, i, s->t.fd, false, part(s, i), IO,
				     disk_pos(s->gen[i], i));
	}
	s->idle = NR - s->q.inflight;
	pthread_mutex_unlock(&s->lock);
}

static void stream_end(struct stream *s, int i, long res)
{
	unsigned int since = s->since[i];

	s->busy[i] = false;
	if (res != IO)
		s->error = res < 0 ? res : -EIO;
	else if (!(since & 1) && part_lost(s, i) && since == s->epoch)
		s->lost++;
	s->done[i]++;
}

static void *stream_thread(void *arg)
{
	struct stream *s = arg;

	pin_to_cpu(1);
	while (!s->error && (!s->stop || s->q.inflight)) {
		long res[NR] = { 0 };
		int ret;

		stream_begin(s);
		if (!s->q.inflight)
			usleep(1000);
		ret = ioq_reap(&s->q, 1, res);
		if (ret < 0)
			s->error = ret;
		for (int i = 0; i < NR; i++)
			if (res[i])
				stream_end(s, i, res[i]);
	}
	return NULL;
}

/*
 * Until each part has been read to @nr times more: the second of these reads begins from
 * now on. With 0 it is until no read is in flight, as stream_hold() lets none begin.
 */
static int stream_wait(struct stream *s, unsigned int nr)
{
	uint64_t end = now_ms() + STUCK_MS;
	unsigned int was[NR];
	bool more;

	for (int i = 0; i < NR; i++)
		was[i] = s->done[i];
	do {
		usleep(1000);
		more = !nr && s->idle != NR;
		for (int i = 0; i < NR; i++)
			more |= s->done[i] - was[i] < nr;
	} while (more && !s->error && now_ms() < end);
	return s->error ?: more ? -ETIMEDOUT : 0;
}

/* Begin no more reads: those in flight are the last ones */
static void stream_hold(struct stream *s, bool hold)
{
	pthread_mutex_lock(&s->lock);
	s->hold = hold;
	pthread_mutex_unlock(&s->lock);
}

/* The disk gets its generations, and reads begin */
static int stream_start(struct stream *s, char *buf, size_t stride)
{
	char *img = aligned_alloc(PAGE, 2 * LEN);
	int ret = target_open(&s->t, "NOPIN_SLOW", 0);

	s->buf = buf;
	s->stride = stride;
	s->stop = false;
	pthread_mutex_init(&s->lock, NULL);
	memset(img, 0, 2 * LEN);
	for (int gen = 0; gen < GENS && !ret; gen++) {
		for (int i = 0; i < NR; i++)
			pat_fill(img + i * 2 * IO, IO, SEED(gen), i * stride);
		if (pwrite(s->t.fd, img, 2 * LEN, disk_pos(gen, 0)) != 2 * LEN)
			ret = -EIO;
	}
	free(img);
	ret = ret ?: ioq_init(&s->q, ENG_AIO, NR) ?:
	      -pthread_create(&s->th, NULL, stream_thread, s);
	s->on = !ret;
	/* The throttle lets the first ones through at once */
	return ret ?: stream_wait(s, 2);
}

/* And see whether what was read last is still there */
static int stream_stop(struct stream *s)
{
	int ret;

	s->stop = true;
	s->on = false;
	ret = pthread_join(s->th, NULL);
	ioq_exit(&s->q);
	target_close(&s->t);
	for (int i = 0; i < NR; i++)
		s->lost += part_lost(s, i);
	if (s->lost)
		note("%u reads are lost", s->lost);
	return ret ? -ret : s->error ?: s->lost ? -ENODATA : 0;
}

/* ---- what the tests share ---- */

struct moment {
	struct stream s;
	struct mem m;
	struct area area;
	char *a, *b;			/* copies of the buffer */
};

FIXTURE(moment) {
	struct moment c;
};

#define CONTEXT struct __test_metadata *_metadata, struct moment *c
#define RUN(name, run, ...)						\
	TEST_F_TIMEOUT(moment, name, 120) { run(_metadata, &self->c, ##__VA_ARGS__); }

FIXTURE_SETUP(moment)
{
	struct moment *c = &self->c;

	NEED("NOPIN_SLOW");
	pin_to_cpu(0);
	ASSERT_EQ(0, wait_ms_set(LONG_WAIT_MS));
	c->area.uffd = -1;
	c->a = aligned_alloc(PAGE, LEN);
	c->b = aligned_alloc(PAGE, LEN);
}

FIXTURE_TEARDOWN(moment)
{
	wait_ms_set(DEFAULT_WAIT_MS);
	/* A page that is protected would hold up the end */
	close(self->c.area.uffd);
	if (self->c.s.on)
		stream_stop(&self->c.s);
}

/* Reads are in flight to memory of @kind, or to a file in the directory @env */
static void begin(CONTEXT, enum mem_kind kind, const char *env)
{
	if (!env) {
		ASSERT_EQ(0, mem_get(&c->m, kind, LEN));
		pat_fill(c->m.p, LEN, SEED(0), 0);
	} else {
		pat_fill(c->a, LEN, SEED(0), 0);
		c->m.fd = open(env, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		ASSERT_EQ(LEN, pwrite(c->m.fd, c->a, LEN, 0));
		ASSERT_EQ(0, fsync(c->m.fd));
		c->m.p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, c->m.fd, 0);
		ASSERT_NE(MAP_FAILED, c->m.p);
	}
	c->area = (struct area) { c->m.p, LEN, c->m.fd, .uffd = -1 };
	/* A child has no copy of it, and does not make us take one */
	ASSERT_EQ(0, madvise(c->m.p, LEN, MADV_DONTFORK));
	ASSERT_EQ(0, stream_start(&c->s, c->m.p, IO));
}

static int differ(const char *a, const char *b)
{
	int nr = 0;

	for (size_t o = 0; o < LEN; o += PAGE)
		nr += !!memcmp(a + o, b + o, PAGE);
	return nr;
}

/* Pages that are not one generation from end to end. Pins do not care */
static int torn(const char *copy)
{
	int nr = 0;

	for (size_t o = 0; o < LEN && nopin(); o += PAGE) {
		bool whole = false;

		for (int gen = 0; gen < GENS; gen++)
			whole |= pat_check(copy + o, PAGE, SEED(gen), o) == -1;
		nr += !whole;
	}
	return nr;
}

/* Nothing is lost in either mode, and none of @all pages is @late unless it is pinned */
static void end(CONTEXT, int late, int all, const char *what)
{
	EXPECT_EQ(0, stream_stop(&c->s));
	END_COUNTED(late, all, what);
}

/* ---- snapshots ---- */

#define SNAPSHOTS	4

/* No page changes from when it is protected until it is unprotected */
static void snapshot(CONTEXT)
{
	int late = 0;

	begin(_metadata, c, MEM_ANON, NULL);
	c->area.uffd = uffd_open(c->m.p, LEN, UFFD_FEATURE_PAGEFAULT_FLAG_WP,
				 UFFDIO_REGISTER_MODE_WP);
	ASSERT_LE(0, c->area.uffd);
	for (int i = 0; i < SNAPSHOTS; i++) {
		ASSERT_EQ(0, op_run(OP_UFFD_PROTECT, &c->area));
		memcpy(c->a, c->m.p, LEN);
		usleep(SETTLE_MS * 1000);
		memcpy(c->b, c->m.p, LEN);
		usleep(SETTLE_MS * 1000);
		late += differ(c->a, c->b);
		EXPECT_EQ(0, differ(c->b, c->m.p));
		EXPECT_EQ(0, torn(c->a));
		ASSERT_EQ(0, op_run(OP_UFFD_UNPROTECT, &c->area));
		ASSERT_EQ(0, stream_wait(&c->s, 2));
	}
	end(_metadata, c, late, SNAPSHOTS * NR_PAGES, "pages changed after they were protected");
}

RUN(snapshot, snapshot)

/* ---- checkpoints ---- */

#define SCANS	24

/* Which pages were written since the last call? Begins anew with them */
static int scan_async(struct moment *c, int fd, bool *written)
{
	struct page_region found[NR_PAGES];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (unsigned long)c->m.p,
		.end = (unsigned long)c->m.p + LEN,
		.vec = (unsigned long)found,
		.vec_len = NR_PAGES,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	int nr = ioctl(fd, PAGEMAP_SCAN, &arg);

	for (int i = 0; i < nr; i++)
		memset(written + (found[i].start - arg.start) / PAGE, true,
		       (found[i].end - found[i].start) / PAGE);
	return nr < 0 ? -errno : 0;
}

/*
 * The bits are read first and cleared then. Nobody may begin to write in between, so
 * checkpoints stop tasks. They do not stop I/O.
 */
static int scan_soft_dirty(struct moment *c, bool *written)
{
	bool held = c->s.hold;
	uint64_t e[NR_PAGES];
	int ret;

	stream_hold(&c->s, true);
	ret = pagemap_read(c->m.p, e, NR_PAGES) ?: op_run(OP_SOFT_DIRTY, &c->area);
	stream_hold(&c->s, held);
	for (int i = 0; i < NR_PAGES; i++)
		written[i] = e[i] >> PM_SOFT_DIRTY & 1;
	return ret;
}

/*
 * Have the copy @b follow the buffer, by what a scan says. A page that it does not
 * tell of has not changed until then, so it is in the copy: if not, it was missed.
 */
static int follow(struct moment *c, int fd, bool async)
{
	bool written[NR_PAGES] = { false };
	int missed = 0, ret;

	memcpy(c->a, c->m.p, LEN);
	ret = async ? scan_async(c, fd, written) : scan_soft_dirty(c, written);
	for (size_t o = 0; o < LEN; o += PAGE) {
		if (written[o / PAGE])
			memcpy(c->b + o, c->m.p + o, PAGE);
		else
			missed += !!memcmp(c->b + o, c->a + o, PAGE);
	}
	return ret ?: missed;
}

static void checkpoint(CONTEXT, enum mem_kind kind, bool async)
{
	int ret, missed = 0, fd = open("/proc/self/pagemap", O_RDONLY);

	begin(_metadata, c, kind, NULL);
	if (async) {
		c->area.uffd = uffd_open(c->m.p, LEN, UFFD_FEATURE_WP_ASYNC,
					 UFFDIO_REGISTER_MODE_WP);
		ASSERT_LE(0, c->area.uffd);
	}
	memset(c->b, 0, LEN);
	for (int i = 0; i < SCANS; i++) {
		/* Reads in flight at every seventh are the last ones, none is at the eighth */
		stream_hold(&c->s, i % 8 >= 6);
		if (i % 8 == 7)
			ASSERT_EQ(0, stream_wait(&c->s, 0));
		ret = follow(c, fd, async);
		ASSERT_LE(0, ret);
		missed += ret;
		if (i % 8 < 6)
			usleep(i % 8 * 5000);
		if (i % 8 < 7)
			continue;
		EXPECT_EQ(0, torn(c->b));
		missed += differ(c->b, c->m.p);
		/* They are not counted again */
		memcpy(c->b, c->m.p, LEN);
		stream_hold(&c->s, false);
		ASSERT_EQ(0, stream_wait(&c->s, 2));
	}
	/* An anonymous page that is pinned remains soft-dirty */
	if (!async && kind == MEM_ANON) {
		EXPECT_EQ(0, stream_stop(&c->s));
		EXPECT_EQ(0, missed);
		return;
	}
	end(_metadata, c, missed, SCANS * NR_PAGES, "pages changed, and no scan has told");
}

RUN(pagemap_scan, checkpoint, MEM_ANON, true)
RUN(pagemap_scan_shmem, checkpoint, MEM_SHMEM, true)
RUN(soft_dirty, checkpoint, MEM_ANON, false)
RUN(soft_dirty_shmem, checkpoint, MEM_SHMEM, false)

/* ---- frozen file systems ---- */

#define FREEZES	3

/* The blocks of the file as they are on the disk */
static int on_disk(int fd, char *buf)
{
	char path[64], uevent[512], *name;
	uint64_t at[NR_PAGES];
	struct stat st;
	int disk, ret;

	fstat(fd, &st);
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/uevent", major(st.st_dev),
		 minor(st.st_dev));
	ret = sysfs_read(path, uevent, sizeof(uevent));
	name = ret ? NULL : strstr(uevent, "DEVNAME=");
	if (!name)
		return -ENODEV;
	snprintf(path, sizeof(path), "/dev/%.40s", strtok(name + strlen("DEVNAME="), "\n"));
	disk = open(path, O_RDONLY | O_DIRECT);
	ret = file_blocks(fd, at, NR_PAGES, false) ?: blocks_read(disk, at, NR_PAGES, buf);
	close(disk);
	return ret;
}

/* Neither what is in memory nor what is on the disk changes until the thaw */
static void freeze(CONTEXT, const char *env)
{
	char *disk = aligned_alloc(PAGE, LEN);
	int late = 0;

	NEED(env);
	begin(_metadata, c, 0, getenv(env));
	for (int i = 0; i < FREEZES; i++) {
		ASSERT_EQ(0, ioctl(c->m.fd, FIFREEZE, 0));
		/* Whatever fails here must not end the test */
		memcpy(c->a, c->m.p, LEN);
		EXPECT_EQ(0, on_disk(c->m.fd, c->b));
		usleep(SETTLE_MS * 1000);
		late += differ(c->a, c->m.p);
		EXPECT_EQ(0, on_disk(c->m.fd, disk));
		EXPECT_EQ(0, differ(c->b, disk));
		EXPECT_EQ(0, torn(disk));
		if (nopin())
			EXPECT_EQ(0, differ(c->a, disk));
		ASSERT_EQ(0, ioctl(c->m.fd, FITHAW, 0));
		ASSERT_EQ(0, stream_wait(&c->s, 2));
	}
	end(_metadata, c, late, FREEZES * NR_PAGES, "pages changed in a frozen file system");
}

RUN(freeze_ext4, freeze, "NOPIN_EXT4")
RUN(freeze_xfs, freeze, "NOPIN_XFS")

/* ---- collapse ---- */

/* Whether the pages are collapsed or not, no read is lost, nor is what is beside it */
static void collapse(CONTEXT, int flags)
{
	int huge = 0, not = 0;
	uint64_t end;

	for (int i = 0; i < 4; i++) {
		int fd = flags & MAP_ANONYMOUS ? -1 : memfd_create("moment", 0);
		char *p = space_get(HPAGE, HPAGE);
		struct area a = { p, HPAGE, fd };

		ASSERT_TRUE(fd < 0 || !ftruncate(fd, HPAGE));
		ASSERT_EQ(p, mmap(p, HPAGE, PROT_READ | PROT_WRITE, MAP_FIXED | flags,
				  fd, 0));
		ASSERT_EQ(0, madvise(p, HPAGE, MADV_NOHUGEPAGE));
		pat_fill(p, HPAGE, SEED(0), 0);
		ASSERT_EQ(0, madvise(p, HPAGE, MADV_HUGEPAGE));
		ASSERT_EQ(0, stream_start(&c->s, p, HPAGE / NR));
		end = now_ms() + 4 * SETTLE_MS;
		while (op_run(OP_COLLAPSE, &a) && now_ms() < end) {
			not++;
			usleep(1000);
		}
		huge += mem_is_huge(p);
		EXPECT_EQ(0, stream_wait(&c->s, 2));
		EXPECT_EQ(0, stream_stop(&c->s));
		for (size_t o = IO; o < HPAGE; o += c->s.stride)
			EXPECT_EQ(-1, pat_check(p + o, c->s.stride - IO, SEED(0), o));
		munmap(p, HPAGE);
	}
	note("4 times: %d collapsed, %d attempts in vain", huge, not);
	/* A private page of a file cannot be, a pinned one may not be */
	if (nopin() && flags != MAP_PRIVATE)
		EXPECT_LT(0, huge);
}

RUN(collapse_anon, collapse, MAP_PRIVATE | MAP_ANONYMOUS)
RUN(collapse_shmem, collapse, MAP_SHARED)
RUN(collapse_private, collapse, MAP_PRIVATE)

/* ---- clones ---- */

#define CLONES	6

static int file_read(int fd, char *buf)
{
	int ret = -posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);

	return ret ?: pread(fd, buf, LEN, 0) == LEN ? 0 : -EIO;
}

/* Each page of a clone is what a page was then, and remains that */
static void reflink(CONTEXT, const char *env)
{
	struct utsname kernel;
	int late = 0, ret;

	NEED(env);
	begin(_metadata, c, 0, getenv(env));
	for (int i = 0; i < CLONES; i++) {
		int fd = open(getenv(env), O_TMPFILE | O_RDWR, 0600);

		/* The reads in flight are the last ones, or they go on and on */
		stream_hold(&c->s, i & 1);
		/*
		 * btrfs may find a page that became dirty untold, or one that has
		 * changed since its checksum was computed
		 */
		ret = ioctl(fd, FICLONE, c->m.fd) ? -errno : file_read(fd, c->a);
		if (ret) {
			ASSERT_TRUE(ret == -EUCLEAN || ret == -EIO);
			ASSERT_FALSE(nopin());
			end(_metadata, c, NR_PAGES, (i + 1) * NR_PAGES,
			    "pages cannot be cloned, or read then");
			return;
		}
		EXPECT_EQ(0, torn(c->a));
		ASSERT_EQ(0, stream_wait(&c->s, i & 1 ? 0 : 2));
		ASSERT_EQ(0, fsync(c->m.fd));
		ASSERT_EQ(0, fsync(fd));
		ASSERT_EQ(0, file_read(fd, c->b));
		late += differ(c->a, c->b);
		/* The file has all that was read. This is not where btrfs has it */
		if (i & 1 && nopin() && strcmp(env, "NOPIN_BTRFS")) {
			EXPECT_EQ(0, on_disk(c->m.fd, c->b));
			EXPECT_EQ(0, differ(c->b, c->m.p));
		}
		close(fd);
		stream_hold(&c->s, false);
		ASSERT_EQ(0, stream_wait(&c->s, 2));
	}
	/* With pins btrfs of 7.3 may be lucky, if it finds no wrong checksum */
	ASSERT_EQ(0, uname(&kernel));
	if (!late && !nopin() && !strcmp(env, "NOPIN_BTRFS") && atoi(kernel.release) >= 7) {
		EXPECT_EQ(0, stream_stop(&c->s));
		SKIP(return, "pins: no page of a clone has changed this time");
	}
	end(_metadata, c, late, CLONES * NR_PAGES, "pages of clones changed");
}

RUN(clone_xfs, reflink, "NOPIN_XFS")
RUN(clone_btrfs, reflink, "NOPIN_BTRFS")

/* ---- holes ---- */

/* What was in flight is neither in the hole afterwards nor in anybody's memory */
static void punch(CONTEXT, const char *env)
{
	struct grab grab;

	if (env)
		NEED(env);
	begin(_metadata, c, MEM_SHMEM, env ? getenv(env) : NULL);
	for (int i = 0; i < 6; i++) {
		ASSERT_EQ(0, grab_init(&grab, MEM_ANON, 2 * LEN));
		stream_hold(&c->s, i & 1);
		c->s.epoch++;
		ASSERT_EQ(0, op_run(OP_PUNCH, &c->area));
		c->s.epoch++;
		ASSERT_EQ(0, grab_fill(&grab));
		if (i & 1) {
			EXPECT_EQ(-1, byte_check(c->m.p, LEN, 0));
			ASSERT_EQ(0, stream_wait(&c->s, 0));
			EXPECT_EQ(-1, byte_check(c->m.p, LEN, 0));
		}
		stream_hold(&c->s, false);
		ASSERT_EQ(0, stream_wait(&c->s, 2));
		EXPECT_EQ(-1, grab_check(&grab));
		grab_exit(&grab);
	}
	EXPECT_EQ(0, stream_stop(&c->s));
}

RUN(punch_ext4, punch, "NOPIN_EXT4")
RUN(punch_xfs, punch, "NOPIN_XFS")
RUN(punch_shmem, punch, NULL)

TEST_HARNESS_MAIN
