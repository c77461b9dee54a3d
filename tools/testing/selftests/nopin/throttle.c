// SPDX-License-Identifier: GPL-2.0
/*
 * A process makes its own I/O last: io.max of its cgroup lets a few KiB a second
 * through, and its bios sit in the throttle with their pages entered. All that has
 * to do with these pages must get on all the same, whatever their number, and do
 * no harm. Migration and reclaim are refused; for anybody else the pages are pinned
 * on behalf of the I/O, at once if a wait would give him nothing. Pinned pages hold
 * up nobody to begin with, so in pin mode the same times are asked for; what differs
 * is said where it does.
 *
 * No test waits for the throttle. It is lifted once the time has been taken.
 *
 * With lockdep a suspended dm device holds the bios instead: writing to io.max
 * makes it complain, as blkg_conf_prep() unlocks a mutex with the queue's lock
 * held, which is also taken in interrupts.
 */
#include <dirent.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN		(64 * PAGE)	/* the buffer, all of it busy */
#define NR_IO		16

/*
 * One more transfer goes ahead of these. It takes 8 seconds, all of which the
 * others are in flight, then come 16 seconds of their own.
 */
#define RATE		(16 * KB)
#define HEAD		(128 * KB)
#define HEAD_POS	(32 * (off_t)MB)

/* rmap_wait_ms is 100 by default; the rest is for a machine, or a kernel, that is slow */
#define BOUND_MS	(with_lockdep() ? 4000 : 1000)
#define GIVE_UP_MS	(8 * BOUND_MS)	/* so that a test that fails ends */

#define BALLAST		(16 * MB)	/* memory that a killed process leaves */
#define OLD_BYTE	0x11		/* where all pages are to be the same */

struct setup {
	enum mem_kind kind;
	enum engine eng;
	bool write;
};

static const struct setup anon[] = {
	{ MEM_ANON, ENG_AIO, false },
	{ MEM_ANON, ENG_PSYNC, true },
	{ MEM_ANON, ENG_PSYNC, false },
	{ MEM_ANON, ENG_URING_FIXED, true },
	{ MEM_ANON, ENG_URING_FIXED, false },
};

/* Files cannot be registered in pin mode: the buffer is not, then */
static const struct setup files[] = {
	{ MEM_SHARED_EXT4, ENG_AIO, false },
	{ MEM_SHARED_EXT4, ENG_URING_FIXED, true },
	{ MEM_SHARED_XFS, ENG_URING_FIXED, false },
	{ MEM_SHARED_XFS, ENG_PSYNC, true },
	{ MEM_SHARED_XFS, ENG_PSYNC, false },
};

/* Processes that are to end: a task in pread(), or with AIO, waits for its I/O */
static const struct setup rings[] = {
	{ MEM_ANON, ENG_URING, false },
	{ MEM_ANON, ENG_URING_FIXED, true },
	{ MEM_ANON, ENG_URING_FIXED, false },
	{ MEM_SHARED_EXT4, ENG_URING_FIXED, false },
};

/* ---- the process whose I/O is throttled ---- */

struct victim {
	struct setup s;
	struct target t;
	struct grab grab;
	bool dm;
	struct cgroup cgroup;
	bool same;		/* all pages are the same before a read */
	pid_t pid;
	int to[2], from[2];
	atomic_bool held;
	pthread_t guard;
	bool guarded;
	/* Counters, when the I/O had begun */
	unsigned long refuse, pinned, wait;
	/* What the last call took, and the slowest look at smaps meanwhile */
	unsigned int ms, smaps_ms;

	/* The process has its own of these, and works on its own memory */
	struct area a;
	struct flight f;
	struct mem m;
	char *ballast, *scratch;
	struct ioq head;
};

/* Call @fn in the process, as everything else that is called in_...() */
struct call {
	long (*fn)(struct victim *v, long arg);
	long arg;
};

static void victim_main(struct victim *v)
{
	struct call c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* So that a read notices the end of the other side */
	close(v->to[1]);
	if (!v->dm && cgroup_put(&v->cgroup, "cgroup.procs", "0"))
		_exit(1);
	while (read(v->to[0], &c, sizeof(c)) == sizeof(c)) {
		long ret = c.fn(v, c.arg);

		if (write(v->from[1], &ret, sizeof(ret)) != sizeof(ret))
			break;
	}
	_exit(0);
}

static long call(struct victim *v, long (*fn)(struct victim *v, long arg), long arg)
{
	struct call c = { fn, arg };
	long ret;

	if (write(v->to[1], &c, sizeof(c)) != sizeof(c) ||
	    read(v->from[0], &ret, sizeof(ret)) != sizeof(ret))
		return -EPIPE;
	return ret;
}

/* More memory that it has, or that it had before it got its buffer */
#define ROOM		(-1)

static long in_setup(struct victim *v, long ballast)
{
	void *room = MAP_FAILED;
	char *p;
	int ret;

	/*
	 * Compaction fills memory from its end, and memory that was freed last
	 * is used first. So the buffer may not be what is to be moved.
	 */
	if (ballast == ROOM)
		room = mmap(NULL, BALLAST, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	/* Anonymous memory: two huge pages could be made of it */
	ret = mem_get(&v->m, v->s.kind, v->s.kind == MEM_ANON ? 4 * MB : LEN);
	if (room != MAP_FAILED)
		munmap(room, BALLAST);
	if (ret)
		return ret;
	p = v->m.p;
	if (v->s.kind == MEM_ANON)
		p = (char *)ALIGN_UP((unsigned long)p, 2 * MB) + LEN;
	v->a = (struct area) { p, LEN, v->m.fd };
	v->f.buf = p;
	v->scratch = aligned_alloc(PAGE, HEAD);
	memset(v->scratch, 0, HEAD);
	if (ballast > 0) {
		v->ballast = malloc(ballast);
		memset(v->ballast, 1, ballast);
	}
	/* A ring, which does not hold up a process that ends */
	ret = ioq_init(&v->head, ENG_URING, 1) ?: flight_engine(&v->f, v->s.eng);
	return ret ?: (long)p;
}

static long in_start(struct victim *v, long unused)
{
	if (v->same && !v->s.write)
		memset(v->a.p, OLD_BYTE, LEN);
	else if (v->f.buf == v->a.p)
		flight_fill(&v->f, v->s.write);
	return ioq_start(&v->head, 0, v->f.fd, v->s.write, v->scratch, HEAD, HEAD_POS) ?:
	       flight_submit(&v->f);
}

/* The number of transfers that have ended */
static long in_done(struct victim *v, long unused)
{
	return flight_done(&v->f);
}

static long in_finish(struct victim *v, long unused)
{
	return flight_reap(&v->f);
}

/* -1 if the buffer holds what was read or is to be written */
static long in_check(struct victim *v, long unused)
{
	return flight_check(&v->f, v->a.p, true);
}

static long in_check_byte(struct victim *v, long val)
{
	return byte_check(v->a.p, LEN, val);
}

/* An operation on the buffer, in the process; and by the test */
static long in_op(struct victim *v, long op)
{
	return op_run(op, &v->a);
}

static long run_op(struct victim *v, long op)
{
	return op_run(op, &v->a);
}

/* The part of memory that can be a huge page, with the buffer in it */
static struct area huge_area(struct victim *v)
{
	return (struct area) { (char *)((unsigned long)v->a.p & ~(2 * MB - 1)), 2 * MB, -1,
			       .pid = v->pid };
}

static long run_huge(struct victim *v, long op)
{
	struct area a = huge_area(v);

	return op_run(op, &a);
}

static long in_madvise(struct victim *v, long advice)
{
	struct area a = huge_area(v);

	if (advice == MADV_MERGEABLE)
		v->same = true;
	return madvise(a.p, a.len, advice) ? -errno : 0;
}

/* A child that looks at its memory now, and once more when it is told to */
static struct proc child;

static void child_main(int in, int out, void *arg)
{
	struct victim *v = arg;
	static char copy[LEN];

	memcpy(copy, v->a.p, LEN);
	await(in);
	say(out, memcmp(copy, v->a.p, LEN));
}

static long in_fork(struct victim *v, long unused)
{
	return proc_start(&child, child_main, v);
}

/* 0 if what a child sees has not changed since it was born */
static long in_fork_end(struct victim *v, long unused)
{
	return tell(&child) ?: hear(&child);
}

/* Somebody else's change of a mapping must not take long either */
static long in_mmap(struct victim *v, long unused)
{
	char *p = anon_map(MB);

	if (p == MAP_FAILED)
		return -errno;
	*p = 1;
	return munmap(p, MB) ? -errno : 0;
}

/* ---- the throttle ---- */

static int hold(struct victim *v, bool on)
{
	char line[128];
	struct stat st;

	atomic_store(&v->held, on);
	if (v->dm)
		return on ? gate_shut(&v->f.gate, GATE_ASKED, 0) : gate_open(&v->f.gate);
	if (fstat(v->f.fd, &st))
		return -errno;
	if (on)
		snprintf(line, sizeof(line), "%u:%u rbps=%lu wbps=%lu",
			 major(st.st_rdev), minor(st.st_rdev), RATE, RATE);
	else
		snprintf(line, sizeof(line), "%u:%u rbps=max wbps=max",
			 major(st.st_rdev), minor(st.st_rdev));
	return cgroup_put(&v->cgroup, "io.max", line);
}

/* The file that the process has mapped */
static int file_open(struct victim *v)
{
	char dir[64], path[400], link[256];
	struct dirent *e;
	int fd = -1;
	DIR *d;

	snprintf(dir, sizeof(dir), "/proc/%d/fd", v->pid);
	d = opendir(dir);
	if (!d)
		return -errno;
	while (fd < 0 && (e = readdir(d))) {
		ssize_t n;

		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		n = readlink(path, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = '\0';
		if (strstr(link, "/mem."))
			fd = open(path, O_RDWR | O_CLOEXEC);
	}
	closedir(d);
	return fd;
}

/* The process, with a buffer, and a device that will hold its I/O */
static int victim_open(struct victim *v, const struct setup *s, long ballast)
{
	struct flight *f = &v->f;
	long p;
	int ret;

	memset(v, 0, sizeof(*v));
	v->s = *s;
	if (s->kind != MEM_ANON)
		v->s.eng = flight_possible(s->eng);
	ret = target_open(&v->t, "NOPIN_RAW", 0);
	if (ret)
		return ret;
	f->t = &v->t;
	f->fd = v->t.fd;
	f->write = s->write;
	f->seed = now_ms();
	if (s->eng == ENG_PSYNC)
		flight_set(f, NULL, 1, LEN, LEN);
	else
		flight_set(f, NULL, NR_IO, LEN / NR_IO, LEN / NR_IO);
	v->dm = with_lockdep();
	if (v->dm) {
		ret = gate_init(&f->gate, "NOPIN_DM");
		f->fd = f->gate.t.fd;
	} else {
		ret = cgroup_make(&v->cgroup, "io");
	}
	ret = ret ?: grab_init(&v->grab, MEM_ANON, 2 * LEN);
	if (ret)
		return ret;
	if (pipe2(v->to, O_CLOEXEC) || pipe2(v->from, O_CLOEXEC))
		return -errno;
	v->pid = fork();
	if (v->pid < 0)
		return -errno;
	if (!v->pid)
		victim_main(v);
	close(v->from[1]);
	p = call(v, in_setup, ballast);
	if (p < 0 && p > -4096)
		return p;
	v->a = (struct area) { (char *)p, LEN, -1, .pid = v->pid };
	if (s->kind == MEM_ANON)
		return 0;
	v->a.fd = file_open(v);
	return v->a.fd < 0 ? -ENOENT : 0;
}

static int victim_lift(struct victim *v)
{
	return atomic_exchange(&v->held, false) ? hold(v, false) : 0;
}

static void *guard_thread(void *arg)
{
	struct victim *v = arg;
	uint64_t end = now_ms() + GIVE_UP_MS;

	while (atomic_load(&v->held) && now_ms() < end)
		usleep(5000);
	victim_lift(v);
	return NULL;
}

/* Begin the I/O; all of it, so many transfers of so many pages, is in flight on return */
static int victim_start(struct victim *v, unsigned int nr, unsigned int pages)
{
	unsigned long bios, pins;
	int ret;

	/* What earlier tests left on the disk must not pass */
	ret = flight_fill_disk(&v->f);
	bios = vmstat("nopin_bio");
	pins = pins_held();
	if (v->s.eng == ENG_URING_FIXED)
		pages = 0;	/* pinned when they were registered */
	ret = ret ?: hold(v, true) ?: -pthread_create(&v->guard, NULL, guard_thread, v);
	if (ret)
		return ret;
	v->guarded = true;
	ret = call(v, in_start, 0);
	if (ret)
		return ret;
	/* A worker may submit it, in its own time */
	for (int i = 0; nopin() ? vmstat("nopin_bio") - bios < nr + 1 :
				  pins_held() - pins < pages + HEAD / PAGE; i++) {
		if (i == 1000)
			return -ETIME;
		usleep(10000);
	}
	v->refuse = vmstat("nopin_refuse");
	v->pinned = vmstat("nopin_pinned");
	v->wait = vmstat("nopin_wait");
	return 0;
}

static int victim_close(struct victim *v)
{
	int ret = victim_lift(v);

	if (v->guarded)
		pthread_join(v->guard, NULL);
	/* Ends by itself: a program that is killed is another test */
	close(v->to[1]);
	if (v->pid > 0)
		waitpid(v->pid, NULL, 0);
	close(v->to[0]);
	close(v->from[0]);
	if (v->a.fd >= 0)
		close(v->a.fd);
	grab_exit(&v->grab);
	if (v->dm)
		gate_exit(&v->f.gate);
	target_close(&v->t);
	/* A ring may be the last to let go */
	cgroup_remove(&v->cgroup);
	return ret ?: pins_left() ? -EBUSY : 0;
}

/* ---- taking the time ---- */

struct watch {
	char path[64];
	atomic_bool stop;
	unsigned int ms;
};

static void *watch_thread(void *arg)
{
	static char buf[64 * KB];
	struct watch *w = arg;

	do {
		uint64_t start = now_ms();
		unsigned int took;
		int fd = open(w->path, O_RDONLY);

		if (fd >= 0) {
			while (read(fd, buf, sizeof(buf)) > 0)
				;
			close(fd);
		}
		took = now_ms() - start;
		if (took > w->ms)
			w->ms = took;
		usleep(5000);
	} while (!atomic_load(&w->stop));
	return NULL;
}

/*
 * Do it, be it here or in the process, and look at smaps all the while, which
 * needs a lock that whoever changes a mapping holds.
 */
static long timed(struct victim *v, long (*here)(struct victim *v, long arg),
		  long (*there)(struct victim *v, long arg), long arg)
{
	struct watch w = {};
	uint64_t start;
	pthread_t th;
	long ret;

	v->smaps_ms = 0;
	snprintf(w.path, sizeof(w.path), "/proc/%d/smaps", v->pid);
	if (pthread_create(&th, NULL, watch_thread, &w))
		return -EAGAIN;
	start = now_ms();
	ret = here ? here(v, arg) : call(v, there, arg);
	v->ms = now_ms() - start;
	atomic_store(&w.stop, true);
	pthread_join(th, NULL);
	if (w.ms > v->smaps_ms)
		v->smaps_ms = w.ms;
	return ret;
}

static void tell_of(struct victim *v, const char *what)
{
	note("%s, %s, %s of %s: %u ms, smaps %u ms; waits %lu, refused %lu, pinned %lu",
	     what, mem_name[v->s.kind], v->s.write ? "write" : "read",
	     engine_name[v->s.eng], v->ms, v->smaps_ms,
	     vmstat("nopin_wait") - v->wait, vmstat("nopin_refuse") - v->refuse,
	     vmstat("nopin_pinned") - v->pinned);
}

/* Asked of everything, unless a test says otherwise */
#define EXPECT_BOUNDED(v)						\
do {									\
	EXPECT_GT(BOUND_MS, (v)->ms);					\
	EXPECT_GT(BOUND_MS, (v)->smaps_ms);				\
	/* Else the time says nothing */				\
	EXPECT_EQ(0, call(v, in_done, 0));				\
} while (0)

#define EXPECT_PINNED(v)						\
do {									\
	if (nopin())							\
		EXPECT_LE(LEN / PAGE, vmstat("nopin_pinned") - (v)->pinned);	\
} while (0)

/* Somebody has waited; or nobody, as all he could get by it is what pins give him */
#define EXPECT_WAITED(v, waits)						\
	EXPECT_EQ(nopin() && (waits), (v)->wait < vmstat("nopin_wait"))

/* Somebody has been refused, and no page has been pinned for him */
#define EXPECT_REFUSED(v)						\
do {									\
	if (nopin())							\
		EXPECT_LT((v)->refuse, vmstat("nopin_refuse"));		\
	EXPECT_EQ((v)->pinned, vmstat("nopin_pinned"));			\
} while (0)

/* Does the file have all that was read? The mapping is gone: only the disk remembers */
static ssize_t file_check(struct victim *v)
{
	static char copy[LEN];

	if (fsync(v->a.fd) || posix_fadvise(v->a.fd, 0, 0, POSIX_FADV_DONTNEED) ||
	    pread(v->a.fd, copy, LEN, 0) != LEN)
		return -2;
	return flight_check(&v->f, copy, true);
}

#define for_each_setup(s, array)					\
	for (s = (array); s < (array) + ARRAY_SIZE(array); s++)

#define CONTEXT	struct __test_metadata *_metadata, struct victim *v, const struct setup *s

static void begin(CONTEXT, long ballast)
{
	ASSERT_EQ(0, victim_open(v, s, ballast));
	ASSERT_EQ(0, victim_start(v, v->f.nr, LEN / PAGE));
}

/* The I/O is let go */
static void finish(CONTEXT)
{
	ASSERT_EQ(0, victim_lift(v));
	ASSERT_EQ(0, call(v, in_finish, 0));
}

/* And the process ends. A write took to the disk what was in the buffer when it began */
static void end(CONTEXT)
{
	if (s->write)
		EXPECT_EQ(-1, flight_check_disk(&v->f));
	EXPECT_EQ(0, victim_close(v));
}

/* The data is still in memory */
static void finish_and_end(CONTEXT)
{
	finish(_metadata, v, s);
	EXPECT_EQ(-1, call(v, in_check, 0));
	end(_metadata, v, s);
}

FIXTURE(throttle) {
	struct victim v;
};

FIXTURE_SETUP(throttle)
{
	NEED("NOPIN_RAW");
	if (with_lockdep()) {
		NEED("NOPIN_DM");
	} else if (access("/sys/fs/cgroup/cgroup.controllers", R_OK)) {
		SKIP(return, "no cgroup v2 at /sys/fs/cgroup");
	}
	pin_to_cpu(0);
}

FIXTURE_TEARDOWN(throttle)
{
	wait_ms_set(DEFAULT_WAIT_MS);
	victim_lift(&self->v);
}

/* Tests with one setup after the other */
#define EACH_TEST(name, seconds, array, call)				\
	TEST_F_TIMEOUT(throttle, name, seconds)				\
	{								\
		struct victim *v = &self->v;				\
		const struct setup *s;					\
		for_each_setup(s, array)				\
			call;						\
	}

/* And with anonymous memory and with files */
#define BOTH_TEST(name, seconds, call)					\
	TEST_F_TIMEOUT(throttle, name, seconds)				\
	{								\
		struct victim *v = &self->v;				\
		const struct setup *s;					\
		for_each_setup(s, anon)					\
			call;						\
		for_each_setup(s, files)				\
			call;						\
	}

/* ---- those who can be refused ---- */

/* The node of all pages */
static int node_of(struct victim *v)
{
	int node = pages_on_node(&v->a, 0) == LEN / PAGE ? 0 : 1;

	return pages_on_node(&v->a, node) == LEN / PAGE ? node : -1;
}

static void move_pages(CONTEXT)
{
	int node;

	ASSERT_EQ(0, victim_open(v, s, 0));
	node = node_of(v);
	ASSERT_LE(0, node);
	v->a.node = !node;
	ASSERT_EQ(0, victim_start(v, v->f.nr, LEN / PAGE));
	ASSERT_LE(0, timed(v, run_op, NULL, OP_MOVE_PAGES));
	tell_of(v, "move_pages");
	EXPECT_BOUNDED(v);
	/* Refused, or pinned: each of the pages has I/O in flight */
	EXPECT_EQ(node, node_of(v));
	if (nopin())
		EXPECT_LT(0, vmstat("nopin_refuse") - v->refuse);
	finish(_metadata, v, s);
	EXPECT_EQ(-1, call(v, in_check, 0));
	/* They do when the I/O is done, unless they are pinned by registration */
	if (nopin() || v->s.eng != ENG_URING_FIXED) {
		for (int i = 0; i < 20 && node_of(v) != !node; i++) {
			ASSERT_LE(0, run_op(v, OP_MOVE_PAGES));
			usleep(20000);
		}
		EXPECT_EQ(!node, node_of(v));
		EXPECT_EQ(-1, call(v, in_check, 0));
	}
	end(_metadata, v, s);
}

BOTH_TEST(move_pages, 120, move_pages(_metadata, v, s))

static long run_compact(struct victim *v, long node)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%ld/compact", node);
	return sysfs_write(path, "1");
}

static void compaction(CONTEXT)
{
	begin(_metadata, v, s, ROOM);
	ASSERT_EQ(0, timed(v, run_compact, NULL, node_of(v)));
	tell_of(v, "compaction");
	/* It has all of the node's memory to look at, besides */
	v->ms /= 3;
	EXPECT_BOUNDED(v);
	finish_and_end(_metadata, v, s);
}

TEST_F_TIMEOUT(throttle, compaction, 300)
{
	compaction(_metadata, &self->v, &anon[0]);
	compaction(_metadata, &self->v, &anon[3]);
	compaction(_metadata, &self->v, &files[0]);
	compaction(_metadata, &self->v, &files[2]);
}

/* Reclaim does not even wait */
static void pageout(CONTEXT)
{
	begin(_metadata, v, s, 0);
	ASSERT_LE(0, timed(v, run_huge, NULL, OP_PAGEOUT));
	tell_of(v, "pageout");
	EXPECT_BOUNDED(v);
	EXPECT_REFUSED(v);
	EXPECT_WAITED(v, false);
	finish_and_end(_metadata, v, s);
}

TEST_F_TIMEOUT(throttle, pageout, 60)
{
	const struct setup *s;

	NEED("NOPIN_SWAP");
	for_each_setup(s, anon)
		pageout(_metadata, &self->v, s);
}

/* ---- those who cannot: a file loses its pages ---- */

static void lose_pages(CONTEXT, enum op_id op)
{
	begin(_metadata, v, s, 0);
	ASSERT_EQ(0, timed(v, run_op, NULL, op));
	tell_of(v, ops[op].name);
	/* Whatever was freed is used at once by somebody else */
	ASSERT_EQ(0, grab_fill(&v->grab));
	ASSERT_EQ(0, ftruncate(v->a.fd, LEN));
	EXPECT_BOUNDED(v);
	EXPECT_PINNED(v);
	/* What a device writes to the file's pages is in the file, or it is not */
	EXPECT_WAITED(v, !s->write);
	finish(_metadata, v, s);
	EXPECT_EQ(-1, grab_check(&v->grab));
	/* The file has got new pages, if any */
	EXPECT_EQ(-1, call(v, in_check_byte, 0));
	end(_metadata, v, s);
}

EACH_TEST(truncate, 120, files, lose_pages(_metadata, v, s, OP_TRUNCATE))
EACH_TEST(punch, 120, files, lose_pages(_metadata, v, s, OP_PUNCH))

/* ---- writeback, and what comes in after it ---- */

/*
 * 64 busy pages, one bound for all of them: that of the task that syncs. A device
 * that reads the pages does not mind their being clean: then nobody waits.
 */
static void writeback(CONTEXT, enum op_id op)
{
	begin(_metadata, v, s, 0);
	ASSERT_EQ(0, timed(v, run_op, NULL, op));
	tell_of(v, ops[op].name);
	EXPECT_BOUNDED(v);
	EXPECT_WAITED(v, !s->write);
	if (!s->write)
		EXPECT_PINNED(v);
	/* Again, with pages that are pinned by now */
	ASSERT_EQ(0, timed(v, run_op, NULL, op));
	EXPECT_BOUNDED(v);
	finish(_metadata, v, s);
	EXPECT_EQ(-1, call(v, in_check, 0));
	ASSERT_EQ(0, call(v, in_op, OP_MUNMAP));
	EXPECT_EQ(-1, file_check(v));
	end(_metadata, v, s);
}

EACH_TEST(fsync, 120, files, writeback(_metadata, v, s, OP_FSYNC))

TEST_F_TIMEOUT(throttle, sync, 60)
{
	writeback(_metadata, &self->v, &files[0], OP_SYNCFS);
	writeback(_metadata, &self->v, &files[2], OP_SYNCFS);
}

/* ---- the process itself changes its mapping ---- */

static void change(CONTEXT, enum op_id op)
{
	enum found found = ops[op].found;
	bool file = s->kind != MEM_ANON;

	begin(_metadata, v, s, 0);
	ASSERT_EQ(0, timed(v, NULL, in_op, op));
	tell_of(v, ops[op].name);
	ASSERT_EQ(0, grab_fill(&v->grab));
	EXPECT_BOUNDED(v);
	EXPECT_PINNED(v);
	/* Pages of a file may be written back from then on */
	EXPECT_WAITED(v, !s->write && (file || ops[op].protects));
	/* Clean, if nobody remembers the I/O */
	if (file) {
		ASSERT_EQ(0, timed(v, run_op, NULL, OP_FSYNC));
		EXPECT_BOUNDED(v);
	}
	finish(_metadata, v, s);
	EXPECT_EQ(-1, grab_check(&v->grab));
	if (ops[op].protects)
		ASSERT_EQ(0, call(v, in_op, OP_PROTECT_READ));
	if (found == FOUND_DATA)
		EXPECT_EQ(-1, call(v, in_check, 0));
	if (found == FOUND_ZEROS && !file)
		EXPECT_EQ(-1, call(v, in_check_byte, 0));
	/* The pages are still those of the file: what came in late is kept */
	if (file && found != FOUND_NONE)
		ASSERT_EQ(0, call(v, in_op, OP_MUNMAP));
	if (file)
		EXPECT_EQ(-1, file_check(v));
	end(_metadata, v, s);
}

BOTH_TEST(munmap, 120, change(_metadata, v, s, OP_MUNMAP))

TEST_F_TIMEOUT(throttle, dontneed, 120)
{
	const struct setup *s;

	for_each_setup(s, anon)
		change(_metadata, &self->v, s, OP_DONTNEED);
	change(_metadata, &self->v, &files[0], OP_DONTNEED);
}

TEST_F_TIMEOUT(throttle, mremap, 60)
{
	change(_metadata, &self->v, &anon[0], OP_MREMAP);
	change(_metadata, &self->v, &anon[1], OP_MREMAP);
}

TEST_F_TIMEOUT(throttle, mprotect, 120)
{
	const struct setup *s;

	for_each_setup(s, anon)
		change(_metadata, &self->v, s, OP_PROTECT_READ);
	for_each_setup(s, files)
		change(_metadata, &self->v, s, OP_PROTECT_READ);
	change(_metadata, &self->v, &anon[0], OP_PROTECT_NONE);
	change(_metadata, &self->v, &files[0], OP_PROTECT_NONE);
}

/* A child sees the memory as it was; its parent gets the data */
static void fork_run(CONTEXT)
{
	begin(_metadata, v, s, 0);
	ASSERT_EQ(0, timed(v, NULL, in_fork, 0));
	tell_of(v, "fork");
	EXPECT_BOUNDED(v);
	EXPECT_WAITED(v, false);
	if (!s->write)
		EXPECT_PINNED(v);
	finish(_metadata, v, s);
	EXPECT_EQ(0, call(v, in_fork_end, 0));
	EXPECT_EQ(-1, call(v, in_check, 0));
	end(_metadata, v, s);
}

EACH_TEST(fork, 60, anon, fork_run(_metadata, v, s))

static void soft_dirty(CONTEXT)
{
	begin(_metadata, v, s, 0);
	ASSERT_EQ(0, timed(v, run_op, NULL, OP_SOFT_DIRTY));
	tell_of(v, "soft-dirty");
	EXPECT_BOUNDED(v);
	EXPECT_WAITED(v, true);
	EXPECT_PINNED(v);
	finish_and_end(_metadata, v, s);
}

TEST_F_TIMEOUT(throttle, soft_dirty, 60)
{
	soft_dirty(_metadata, &self->v, &anon[0]);
	soft_dirty(_metadata, &self->v, &files[0]);
}

static long run_kill(struct victim *v, long unused)
{
	pid_t pid = v->pid;

	v->pid = -1;
	return kill(pid, SIGKILL) || waitpid(pid, NULL, 0) != pid ? -errno : 0;
}

/* A process is gone, and its memory, long before its I/O is */
static void sigkill(CONTEXT)
{
	const long most = BALLAST / PAGE * 3 / 4;
	long before, freed;
	uint64_t start;

	begin(_metadata, v, s, BALLAST);
	before = vmstat("nr_anon_pages");
	start = now_ms();
	ASSERT_EQ(0, timed(v, run_kill, NULL, 0));
	do {
		freed = before - vmstat("nr_anon_pages");
	} while (freed < most && now_ms() - start < BOUND_MS && !usleep(10000));
	tell_of(v, "sigkill");
	EXPECT_LE(most, freed);
	EXPECT_GT(2 * BOUND_MS, v->ms);
	EXPECT_PINNED(v);
	if (v->a.fd < 0) {
		EXPECT_WAITED(v, false);
	}
	ASSERT_EQ(0, grab_fill(&v->grab));
	if (v->a.fd >= 0)
		EXPECT_EQ(0, fsync(v->a.fd));
	/* Nothing has moved so far */
	if (s->write)
		EXPECT_NE(-1, flight_check_disk(&v->f));
	ASSERT_EQ(0, victim_lift(v));
	EXPECT_EQ(0, victim_close(v));
}

EACH_TEST(sigkill, 60, rings, sigkill(_metadata, v, s))

/* ---- those who look for something to do ---- */

static long run_ksm(struct victim *v, long scans)
{
	long first = sysfs_get(KSM "full_scans");

	for (int i = 0; i < 2000; i++) {
		uint64_t start = now_ms();
		long ret = call(v, in_mmap, 0);

		if (ret)
			return ret;
		if (now_ms() - start > v->smaps_ms)
			v->smaps_ms = now_ms() - start;
		if (sysfs_get(KSM "full_scans") >= first + scans)
			return 0;
		usleep(10000);
	}
	return -ETIME;
}

static void ksm(CONTEXT)
{
	ASSERT_EQ(0, victim_open(v, s, 0));
	ASSERT_EQ(0, call(v, in_madvise, MADV_MERGEABLE));
	ASSERT_EQ(0, victim_start(v, v->f.nr, LEN / PAGE));
	ASSERT_EQ(0, sysfs_write(KSM "run", "1"));
	ASSERT_EQ(0, timed(v, run_ksm, NULL, 4));
	tell_of(v, "ksm");
	EXPECT_BOUNDED(v);
	/* It wanted to write-protect them, as they looked the same */
	EXPECT_REFUSED(v);
	finish(_metadata, v, s);
	EXPECT_EQ(-1, call(v, in_check, 0));
	EXPECT_EQ(0, sysfs_write(KSM "run", "2"));
	EXPECT_EQ(0, victim_close(v));
}

TEST_F_TIMEOUT(throttle, ksm, 60)
{
	ASSERT_EQ(0, sysfs_write(KSM "pages_to_scan", "10000"));
	ASSERT_EQ(0, sysfs_write(KSM "sleep_millisecs", "10"));
	ksm(_metadata, &self->v, &anon[0]);
	ksm(_metadata, &self->v, &anon[4]);
}

static void collapse(CONTEXT)
{
	long ret;

	begin(_metadata, v, s, 0);
	/* Not earlier: khugepaged might be faster */
	ASSERT_EQ(0, call(v, in_madvise, MADV_HUGEPAGE));
	ret = timed(v, run_huge, NULL, OP_COLLAPSE);
	tell_of(v, "collapse");
	EXPECT_BOUNDED(v);
	/* There is I/O on some of the pages: it cannot */
	EXPECT_GT(0, ret);
	EXPECT_REFUSED(v);
	finish(_metadata, v, s);
	EXPECT_EQ(-1, call(v, in_check, 0));
	if (nopin() || v->s.eng != ENG_URING_FIXED) {
		for (int i = 0; i < 20; i++) {
			ret = run_huge(v, OP_COLLAPSE);
			if (ret >= 0)
				break;
			usleep(20000);
		}
		EXPECT_LE(0, ret) TH_LOG("%s", strerror(-ret));
		EXPECT_EQ(-1, call(v, in_check, 0));
	}
	end(_metadata, v, s);
}

EACH_TEST(collapse, 60, anon, collapse(_metadata, v, s))

/* ---- the bounds themselves ---- */

#define KNOWN_MS	300

/* They do wait, as the I/O might end; for a pin nobody would */
TEST_F_TIMEOUT(throttle, bound_refusable, 60)
{
	struct victim *v = &self->v;
	int node;

	ASSERT_EQ(0, wait_ms_set(KNOWN_MS));
	ASSERT_EQ(0, victim_open(v, &anon[0], 0));
	node = node_of(v);
	ASSERT_LE(0, node);
	ASSERT_EQ(0, victim_start(v, v->f.nr, LEN / PAGE));
	v->a.node = !node;
	v->a.len = PAGE;
	ASSERT_LE(0, timed(v, run_op, NULL, OP_MOVE_PAGES));
	v->a.len = LEN;
	tell_of(v, "move_pages");
	EXPECT_BOUNDED(v);
	EXPECT_EQ(node, node_of(v));
	if (nopin()) {
		EXPECT_LE(KNOWN_MS - 20, v->ms);
		EXPECT_LT(v->refuse, vmstat("nopin_refuse"));
		EXPECT_EQ(v->pinned, vmstat("nopin_pinned"));
	}
	finish_and_end(_metadata, v, &anon[0]);
}

TEST_F_TIMEOUT(throttle, bound_truncate, 60)
{
	struct victim *v = &self->v;

	ASSERT_EQ(0, wait_ms_set(KNOWN_MS));
	begin(_metadata, v, &files[0], 0);
	ASSERT_EQ(0, timed(v, run_op, NULL, OP_TRUNCATE));
	tell_of(v, "truncate");
	if (nopin())
		EXPECT_LE(KNOWN_MS - 20, v->ms);
	EXPECT_BOUNDED(v);
	EXPECT_PINNED(v);
	finish(_metadata, v, &files[0]);
	end(_metadata, v, &files[0]);
}

/*
 * The bound is that of the task that waits, for all it goes through: a page of a
 * file that is mapped at many places, each in another GiB and with a read of its own
 * in flight, does not hold up a task that syncs the file for longer than one would.
 */
#define NR_PLACES	20

static long in_places(struct victim *v, long unused)
{
	char *space = space_get(NR_PLACES * GB, PAGE);

	for (int i = 0; i < NR_PLACES; i++) {
		if (mmap(space + i * GB, LEN, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, v->m.fd, 0) == MAP_FAILED)
			return -errno;
		space[i * GB] = i;
	}
	flight_set(&v->f, space, NR_PLACES, PAGE, GB);
	return flight_engine(&v->f, ENG_AIO);
}

TEST_F_TIMEOUT(throttle, bound_places, 60)
{
	/* The engine is for the buffer, which has no I/O */
	const struct setup s = { MEM_SHARED_EXT4, ENG_URING };
	struct victim *v = &self->v;

	ASSERT_EQ(0, wait_ms_set(KNOWN_MS));
	ASSERT_EQ(0, victim_open(v, &s, 0));
	ASSERT_EQ(0, call(v, in_places, 0));
	ASSERT_EQ(0, victim_start(v, NR_PLACES, NR_PLACES));
	ASSERT_EQ(0, timed(v, run_op, NULL, OP_FSYNC));
	tell_of(v, "fsync through many mappings");
	EXPECT_BOUNDED(v);
	if (nopin()) {
		EXPECT_LE(KNOWN_MS - 20, v->ms);
		/* With a bound for each of them it were NR_PLACES times as long */
		EXPECT_GT(2 * KNOWN_MS, v->ms);
		EXPECT_EQ(v->pinned + NR_PLACES, vmstat("nopin_pinned"));
	}
	finish(_metadata, v, &s);
	end(_metadata, v, &s);
}

static void *lift_thread(void *arg)
{
	usleep(KNOWN_MS * 1000);
	victim_lift(arg);
	return NULL;
}

/* I/O that ends in time is waited for, and nothing is pinned */
TEST_F_TIMEOUT(throttle, in_time, 60)
{
	struct victim *v = &self->v;
	pthread_t th;

	ASSERT_EQ(0, wait_ms_set(5000));
	begin(_metadata, v, &files[0], 0);
	ASSERT_EQ(0, pthread_create(&th, NULL, lift_thread, v));
	ASSERT_EQ(0, timed(v, run_op, NULL, OP_TRUNCATE));
	pthread_join(th, NULL);
	tell_of(v, "truncate");
	if (nopin()) {
		EXPECT_LE(KNOWN_MS - 20, v->ms);
		EXPECT_LT(v->wait, vmstat("nopin_wait"));
		EXPECT_EQ(v->pinned, vmstat("nopin_pinned"));
	}
	ASSERT_EQ(0, call(v, in_finish, 0));
	EXPECT_EQ(0, victim_close(v));
}

TEST_HARNESS_MAIN
