// SPDX-License-Identifier: GPL-2.0
/*
 * A process makes its own I/O last: io.max of its cgroup lets a few KiB a second
 * through, and its bios sit in the throttle with their pages entered. Whoever has
 * to do with these pages must get on all the same, whatever their number, and do
 * no harm: who can be refused is refused, for anybody else the pages are pinned
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
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define LEN		(64 * PAGE)	/* the buffer, all of it busy */
#define NR_IO		16
#define IO_LEN		(LEN / NR_IO)
#define STRIDE		(2 * IO_LEN)	/* gaps between them on the disk */
#define POS(i)		((off_t)(i) * STRIDE)

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
#define RMAP_WAIT_MS		"/sys/kernel/mm/nopin/rmap_wait_ms"

#define CGROUP		"/sys/fs/cgroup"
#define KSM		"/sys/kernel/mm/ksm/"
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
	int fd;			/* of the device that holds the bios */
	bool dm;
	struct gate gate;
	char cgroup[64];
	unsigned int major, minor;
	uint64_t seed;
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

	/* In the process itself, but for @p */
	struct mem m;
	char *p, *ballast, *scratch;
	struct ioq q, head;
	long res[NR_IO], ret;
	unsigned int done;
	pthread_t th;
	atomic_int tid, ended;
};

/* Call @fn in the process, as everything else that is called in_...() */
struct call {
	long (*fn)(struct victim *v, long arg);
	long arg;
};

static void victim_main(struct victim *v)
{
	char procs[80];
	struct call c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* So that a read notices the end of the other side */
	close(v->to[1]);
	snprintf(procs, sizeof(procs), "%s/cgroup.procs", v->cgroup);
	if (!v->dm && sysfs_write(procs, "0"))
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

static void *psync_thread(void *arg)
{
	struct victim *v = arg;

	atomic_store(&v->tid, syscall(SYS_gettid));
	v->ret = ioq_rw(&v->q, v->fd, v->s.write, v->p, LEN, 0);
	atomic_store(&v->ended, 1);
	return NULL;
}

/* What a read brings, or a write takes along. psync transfers all at once. */
static off_t disk_pos(struct victim *v, int i)
{
	return v->s.eng == ENG_PSYNC ? (off_t)(i * IO_LEN) : POS(i);
}

static void pattern(struct victim *v, char *p, uint64_t seed)
{
	for (int i = 0; i < NR_IO; i++)
		pat_fill(p + i * IO_LEN, IO_LEN, seed, disk_pos(v, i));
}

static ssize_t pattern_check(struct victim *v, const char *p)
{
	for (int i = 0; i < NR_IO; i++) {
		ssize_t bad = pat_check(p + i * IO_LEN, IO_LEN, v->seed,
					disk_pos(v, i));

		if (bad >= 0)
			return i * IO_LEN + bad;
	}
	return -1;
}

/* More memory that it has, or that it had before it got its buffer */
#define ROOM		(-1)

static long in_setup(struct victim *v, long ballast)
{
	void *room = MAP_FAILED;
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
	v->p = v->m.p;
	if (v->s.kind == MEM_ANON)
		v->p = (char *)ALIGN_UP((unsigned long)v->p, 2 * MB) + LEN;
	v->scratch = aligned_alloc(PAGE, HEAD);
	memset(v->scratch, 0, HEAD);
	if (ballast > 0) {
		v->ballast = malloc(ballast);
		memset(v->ballast, 1, ballast);
	}
	/* A ring, which does not hold up a process that ends */
	ret = ioq_init(&v->head, ENG_URING, 1) ?:
	      ioq_init(&v->q, v->s.eng, NR_IO);
	if (!ret && v->s.eng == ENG_URING_FIXED)
		ret = ring_buffer(&v->q.ring, v->p, LEN);
	return ret ?: (long)v->p;
}

static long in_start(struct victim *v, long seed)
{
	int ret;

	v->seed = seed;
	if (v->s.write)
		pattern(v, v->p, seed);
	else if (v->same)
		memset(v->p, OLD_BYTE, LEN);
	else
		pattern(v, v->p, ~seed);
	ret = ioq_start(&v->head, 0, v->fd, v->s.write, v->scratch, HEAD,
			HEAD_POS);
	if (ret)
		return ret;
	if (v->s.eng == ENG_PSYNC) {
		if (pthread_create(&v->th, NULL, psync_thread, v))
			return -EAGAIN;
		while (!task_blocked(atomic_load(&v->tid))) {
			if (atomic_load(&v->ended))
				return -ETIME;
			usleep(1000);
		}
		return 0;
	}
	for (int i = 0; i < NR_IO; i++) {
		ret = ioq_start(&v->q, i, v->fd, v->s.write, v->p + i * IO_LEN,
				IO_LEN, POS(i));
		if (ret)
			return ret;
	}
	return 0;
}

/* The number of transfers that have ended */
static long in_done(struct victim *v, long unused)
{
	int ret;

	if (v->s.eng == ENG_PSYNC)
		return atomic_load(&v->ended);
	ret = ioq_reap(&v->q, 0, v->res);
	if (ret > 0)
		v->done += ret;
	return ret < 0 ? ret : v->done;
}

static long in_finish(struct victim *v, long unused)
{
	int ret;

	if (v->s.eng == ENG_PSYNC) {
		pthread_join(v->th, NULL);
		return v->ret == LEN ? 0 : v->ret < 0 ? v->ret : -EIO;
	}
	ret = ioq_reap(&v->q, NR_IO - v->done, v->res);
	if (ret < 0)
		return ret;
	for (int i = 0; i < NR_IO; i++)
		if (v->res[i] != (long)IO_LEN)
			return v->res[i] < 0 ? v->res[i] : -EIO;
	return 0;
}

/* -1 if the buffer holds what was read or is to be written */
static long in_check(struct victim *v, long unused)
{
	return pattern_check(v, v->p);
}

static long in_check_byte(struct victim *v, long val)
{
	return byte_check(v->p, LEN, val);
}

static long in_munmap(struct victim *v, long unused)
{
	return munmap(v->p, LEN) ? -errno : 0;
}

static long in_dontneed(struct victim *v, long unused)
{
	return madvise(v->p, LEN, MADV_DONTNEED) ? -errno : 0;
}

static long in_mremap(struct victim *v, long unused)
{
	char *to = mmap(NULL, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (to == MAP_FAILED ||
	    mremap(v->p, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		return -errno;
	v->p = to;
	return 0;
}

static long in_mprotect(struct victim *v, long prot)
{
	return mprotect(v->p, LEN, prot) ? -errno : 0;
}

static long in_madvise(struct victim *v, long advice)
{
	char *start = (char *)((unsigned long)v->p & ~(2 * MB - 1));

	if (advice == MADV_MERGEABLE)
		v->same = true;
	return madvise(start, 2 * MB, advice) ? -errno : 0;
}

/* A child that looks at its memory now, and once more when it is told to */
static int fork_go[2], fork_end[2];

static long in_fork(struct victim *v, long unused)
{
	pid_t pid;

	if (pipe(fork_go) || pipe(fork_end))
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		static char copy[LEN];
		char c, same;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		memcpy(copy, v->p, LEN);
		if (read(fork_go[0], &c, 1) != 1)
			_exit(1);
		same = !memcmp(copy, v->p, LEN);
		_exit(write(fork_end[1], &same, 1) != 1);
	}
	return 0;
}

/* 1 if what a child sees has not changed since it was born */
static long in_fork_end(struct victim *v, long unused)
{
	char c = 0;

	if (write(fork_go[1], &c, 1) != 1 || read(fork_end[0], &c, 1) != 1)
		return -EPIPE;
	return c;
}

/* Somebody else's change of a mapping must not take long either */
static long in_mmap(struct victim *v, long unused)
{
	char *p = mmap(NULL, MB, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	*p = 1;
	return munmap(p, MB) ? -errno : 0;
}

/* ---- the throttle ---- */

static int hold(struct victim *v, bool on)
{
	char path[80], line[128];

	atomic_store(&v->held, on);
	if (v->dm)
		return on ? gate_shut(&v->gate, GATE_ASKED, 0) : gate_open(&v->gate);
	snprintf(path, sizeof(path), "%s/io.max", v->cgroup);
	if (on)
		snprintf(line, sizeof(line), "%u:%u rbps=%lu wbps=%lu", v->major,
			 v->minor, RATE, RATE);
	else
		snprintf(line, sizeof(line), "%u:%u rbps=max wbps=max", v->major,
			 v->minor);
	return sysfs_write(path, line);
}

static int cgroup_make(struct victim *v)
{
	struct stat st;
	int ret;

	if (fstat(v->fd, &st))
		return -errno;
	v->major = major(st.st_rdev);
	v->minor = minor(st.st_rdev);
	ret = sysfs_write(CGROUP "/cgroup.subtree_control", "+io");
	snprintf(v->cgroup, sizeof(v->cgroup), CGROUP "/nopin.%d", getpid());
	return ret ?: mkdir(v->cgroup, 0700) ? -errno : 0;
}

static unsigned long pins_held(void)
{
	return vmstat("nr_foll_pin_acquired") - vmstat("nr_foll_pin_released");
}

/* The process, with a buffer, and a device that will hold its I/O */
static int victim_open(struct victim *v, const struct setup *s, long ballast)
{
	long p;
	int ret;

	memset(v, 0, sizeof(*v));
	v->s = *s;
	if (s->eng == ENG_URING_FIXED && s->kind != MEM_ANON &&
	    mode_get() == MODE_PIN)
		v->s.eng = ENG_URING;
	ret = target_open(&v->t, "NOPIN_RAW", 0);
	if (ret)
		return ret;
	v->fd = v->t.fd;
	v->dm = with_lockdep();
	if (v->dm) {
		ret = gate_init(&v->gate, "NOPIN_DM");
		v->fd = v->gate.t.fd;
	} else {
		ret = cgroup_make(v);
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
	v->p = (char *)p;
	return 0;
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

/* Begin the I/O; all of it is in flight on return */
static int victim_start(struct victim *v)
{
	unsigned int nr = v->s.eng == ENG_PSYNC ? 1 : NR_IO;
	unsigned long bios, pins, pages = (LEN + HEAD) / PAGE;
	int ret;

	v->seed = now_ms();
	/* What earlier tests left on the disk must not pass */
	ret = target_fill(&v->t, NR_IO * STRIDE, v->s.write ? ~v->seed : v->seed, 0);
	bios = vmstat("nopin_bio");
	pins = pins_held();
	if (v->s.eng == ENG_URING_FIXED)
		pages -= LEN / PAGE;	/* pinned when they were registered */
	ret = ret ?: hold(v, true) ?: -pthread_create(&v->guard, NULL, guard_thread, v);
	if (ret)
		return ret;
	v->guarded = true;
	ret = call(v, in_start, v->seed);
	if (ret)
		return ret;
	/* A worker may submit it, in its own time */
	for (int i = 0; mode_get() == MODE_NOPIN ?
			vmstat("nopin_bio") - bios < nr + 1 :
			pins_held() - pins < pages; i++) {
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
	grab_exit(&v->grab);
	if (v->dm)
		gate_exit(&v->gate);
	target_close(&v->t);
	/* A ring may be the last to let go */
	for (int i = 0; i < 300 && !v->dm && rmdir(v->cgroup) && errno == EBUSY; i++)
		usleep(10000);
	for (int i = 0; i < 500 && pins_held(); i++)
		usleep(10000);
	return ret ?: pins_held() ? -EBUSY : 0;
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

static void say(struct victim *v, const char *what)
{
	note("%s, %s, %s of %s: %u ms, smaps %u ms; waits %lu, refused %lu, pinned %lu",
	     what, mem_name[v->s.kind], v->s.write ? "write" : "read",
	     engine_name[v->s.eng], v->ms, v->smaps_ms,
	     vmstat("nopin_wait") - v->wait, vmstat("nopin_refuse") - v->refuse,
	     vmstat("nopin_pinned") - v->pinned);
}

/* All of what is asked of everybody */
#define EXPECT_BOUNDED(v)						\
do {									\
	EXPECT_GT(BOUND_MS, (v)->ms);					\
	EXPECT_GT(BOUND_MS, (v)->smaps_ms);				\
	/* Else the time says nothing */				\
	EXPECT_EQ(0, call(v, in_done, 0));				\
} while (0)

#define EXPECT_PINNED(v)						\
do {									\
	if (mode_get() == MODE_NOPIN)					\
		EXPECT_LE(LEN / PAGE,					\
			  vmstat("nopin_pinned") - (v)->pinned);	\
} while (0)

/* Nobody has waited, as all he could get by it is what pins give him */
#define EXPECT_NO_WAIT(v)						\
	EXPECT_EQ((v)->wait, vmstat("nopin_wait"))

#define EXPECT_WAIT(v)							\
do {									\
	if (mode_get() == MODE_NOPIN)					\
		EXPECT_LT((v)->wait, vmstat("nopin_wait"));		\
} while (0)

/* Somebody has been refused, and no page has been pinned for him */
#define EXPECT_REFUSED(v)						\
do {									\
	if (mode_get() == MODE_NOPIN)					\
		EXPECT_LT((v)->refuse, vmstat("nopin_refuse"));		\
	EXPECT_EQ((v)->pinned, vmstat("nopin_pinned"));			\
} while (0)

#define ASSERT_FINISHED(v)						\
do {									\
	ASSERT_EQ(0, victim_lift(v));					\
	ASSERT_EQ(0, call(v, in_finish, 0));				\
} while (0)

/* -1 if a write took to the disk what was in the buffer when it began */
static ssize_t disk_check(struct victim *v)
{
	static char disk[NR_IO * STRIDE], copy[LEN];

	if (target_read(&v->t, disk, sizeof(disk), 0))
		return -2;
	for (int i = 0; i < NR_IO; i++)
		memcpy(copy + i * IO_LEN, disk + disk_pos(v, i), IO_LEN);
	return pattern_check(v, copy);
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

/* What became of the file, as the disk has it: -1 if all that was read */
static ssize_t file_check(struct victim *v, int fd)
{
	static char copy[LEN];

	/* The mapping is gone: nothing but the disk remembers */
	if (fsync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) ||
	    pread(fd, copy, LEN, 0) != LEN)
		return -2;
	return pattern_check(v, copy);
}

#define for_each_setup(s, array)					\
	for (s = (array); s < (array) + ARRAY_SIZE(array); s++)

FIXTURE(throttle) {
	struct victim v;
	char wait_ms[32];
};

FIXTURE_SETUP(throttle)
{
	NEED("NOPIN_RAW");
	if (with_lockdep()) {
		NEED("NOPIN_DM");
	} else if (access(CGROUP "/cgroup.controllers", R_OK)) {
		SKIP(return, "no cgroup v2 at " CGROUP);
	}
	pin_to_cpu(0);
	if (nopin_present()) {
		ASSERT_EQ(0, sysfs_read(RMAP_WAIT_MS, self->wait_ms,
					sizeof(self->wait_ms)));
	}
}

FIXTURE_TEARDOWN(throttle)
{
	if (self->wait_ms[0])
		sysfs_write(RMAP_WAIT_MS, self->wait_ms);
	victim_lift(&self->v);
}

/* ---- those who can be refused ---- */

static long move_to(struct victim *v, int node, size_t nr)
{
	void *pages[LEN / PAGE];
	int nodes[LEN / PAGE], status[LEN / PAGE];

	for (size_t i = 0; i < nr; i++) {
		pages[i] = v->p + i * PAGE;
		nodes[i] = node;
		status[i] = -ENODATA;
	}
	return syscall(SYS_move_pages, v->pid, nr, pages, nodes, status, 2) < 0 ?
		-errno : 0;
}

/* How many are on another node than @node */
static long moved_from(struct victim *v, int node)
{
	void *pages[LEN / PAGE];
	int status[LEN / PAGE];
	long moved = 0;

	for (size_t i = 0; i < LEN / PAGE; i++)
		pages[i] = v->p + i * PAGE;
	if (syscall(SYS_move_pages, v->pid, LEN / PAGE, pages, NULL, status, 0))
		return -errno;
	for (size_t i = 0; i < LEN / PAGE; i++) {
		if (status[i] < 0)
			return status[i];
		moved += status[i] != node;
	}
	return moved;
}

static int first_node(struct victim *v)
{
	return moved_from(v, 0) == 0 ? 0 : moved_from(v, 1) == 0 ? 1 : -1;
}

static long run_move_pages(struct victim *v, long to)
{
	return move_to(v, to, LEN / PAGE);
}

static void move_pages(struct __test_metadata *_metadata, struct victim *v,
		       const struct setup *s)
{
	int node;

	ASSERT_EQ(0, victim_open(v, s, 0));
	node = first_node(v);
	ASSERT_LE(0, node);
	ASSERT_EQ(0, victim_start(v));
	ASSERT_LE(0, timed(v, run_move_pages, NULL, !node));
	say(v, "move_pages");
	EXPECT_BOUNDED(v);
	/* Refused, or pinned: each of the pages has I/O in flight */
	EXPECT_EQ(0, moved_from(v, node));
	if (mode_get() == MODE_NOPIN) {
		EXPECT_LT(0, vmstat("nopin_refuse") - v->refuse);
	}
	ASSERT_FINISHED(v);
	EXPECT_EQ(-1, call(v, in_check, 0));
	if (s->write) {
		EXPECT_EQ(-1, disk_check(v));
	}
	/* They do when the I/O is done, unless they are pinned by registration */
	if (mode_get() == MODE_NOPIN || v->s.eng != ENG_URING_FIXED) {
		for (int i = 0; i < 20 && moved_from(v, node) < (long)(LEN / PAGE); i++) {
			ASSERT_LE(0, move_to(v, !node, LEN / PAGE));
			usleep(20000);
		}
		EXPECT_EQ(LEN / PAGE, moved_from(v, node));
		EXPECT_EQ(-1, call(v, in_check, 0));
	}
	EXPECT_EQ(0, victim_close(v));
}

TEST_F_TIMEOUT(throttle, move_pages, 120)
{
	const struct setup *s;

	for_each_setup(s, anon)
		move_pages(_metadata, &self->v, s);
	for_each_setup(s, files)
		move_pages(_metadata, &self->v, s);
}

static long run_compact(struct victim *v, long node)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%ld/compact", node);
	return sysfs_write(path, "1");
}

static void compaction(struct __test_metadata *_metadata, struct victim *v,
		       const struct setup *s)
{
	ASSERT_EQ(0, victim_open(v, s, ROOM));
	ASSERT_EQ(0, victim_start(v));
	ASSERT_EQ(0, timed(v, run_compact, NULL, first_node(v)));
	say(v, "compaction");
	/* It has all of the node's memory to look at, besides */
	v->ms /= 3;
	EXPECT_BOUNDED(v);
	ASSERT_FINISHED(v);
	EXPECT_EQ(-1, call(v, in_check, 0));
	if (s->write) {
		EXPECT_EQ(-1, disk_check(v));
	}
	EXPECT_EQ(0, victim_close(v));
}

TEST_F_TIMEOUT(throttle, compaction, 300)
{
	compaction(_metadata, &self->v, &anon[0]);
	compaction(_metadata, &self->v, &anon[3]);
	compaction(_metadata, &self->v, &files[0]);
	compaction(_metadata, &self->v, &files[2]);
}

static long run_process_madvise(struct victim *v, long advice)
{
	unsigned long start = (unsigned long)v->p & ~(2 * MB - 1);
	struct iovec iov = { (void *)start, 2 * MB };
	int fd = syscall(SYS_pidfd_open, v->pid, 0);
	long ret;

	if (fd < 0)
		return -errno;
	ret = syscall(SYS_process_madvise, fd, &iov, 1, advice, 0);
	if (ret < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/* Reclaim does not even wait */
TEST_F_TIMEOUT(throttle, pageout, 60)
{
	struct victim *v = &self->v;
	const struct setup *s;

	NEED("NOPIN_SWAP");
	for_each_setup(s, anon) {
		ASSERT_EQ(0, victim_open(v, s, 0));
		ASSERT_EQ(0, victim_start(v));
		ASSERT_LE(0, timed(v, run_process_madvise, NULL, MADV_PAGEOUT));
		say(v, "pageout");
		EXPECT_BOUNDED(v);
		EXPECT_REFUSED(v);
		EXPECT_NO_WAIT(v);
		ASSERT_FINISHED(v);
		EXPECT_EQ(-1, call(v, in_check, 0));
		EXPECT_EQ(0, victim_close(v));
	}
}

/* ---- those who cannot: a file loses its pages ---- */

static long run_truncate(struct victim *v, long fd)
{
	return ftruncate(fd, 0) ? -errno : 0;
}

static long run_punch(struct victim *v, long fd)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LEN) ?
		-errno : 0;
}

static void lose_pages(struct __test_metadata *_metadata, struct victim *v,
		       const struct setup *s, const char *what,
		       long (*run)(struct victim *v, long fd))
{
	int fd;

	ASSERT_EQ(0, victim_open(v, s, 0));
	fd = file_open(v);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, victim_start(v));
	ASSERT_EQ(0, timed(v, run, NULL, fd));
	say(v, what);
	/* Whatever was freed is used at once by somebody else */
	ASSERT_EQ(0, grab_fill(&v->grab));
	ASSERT_EQ(0, ftruncate(fd, LEN));
	EXPECT_BOUNDED(v);
	EXPECT_PINNED(v);
	/* What a device writes to the file's pages is in the file, or it is not */
	if (s->write) {
		EXPECT_NO_WAIT(v);
	} else {
		EXPECT_WAIT(v);
	}
	ASSERT_FINISHED(v);
	EXPECT_EQ(-1, grab_check(&v->grab));
	/* The file has got new pages, if any */
	EXPECT_EQ(-1, call(v, in_check_byte, 0));
	if (s->write) {
		EXPECT_EQ(-1, disk_check(v));
	}
	close(fd);
	EXPECT_EQ(0, victim_close(v));
}

TEST_F_TIMEOUT(throttle, truncate, 120)
{
	const struct setup *s;

	for_each_setup(s, files)
		lose_pages(_metadata, &self->v, s, "truncate", run_truncate);
}

TEST_F_TIMEOUT(throttle, punch, 120)
{
	const struct setup *s;

	for_each_setup(s, files)
		lose_pages(_metadata, &self->v, s, "punch", run_punch);
}

/* ---- writeback, and what comes in after it ---- */

static long run_fsync(struct victim *v, long fd)
{
	return fsync(fd) ? -errno : 0;
}

static long run_sync(struct victim *v, long fd)
{
	return syncfs(fd) ? -errno : 0;
}

/*
 * 64 busy pages, one bound for all of them: that of the task that syncs. A device
 * that reads the pages does not mind their being clean: then nobody waits.
 */
static void writeback(struct __test_metadata *_metadata, struct victim *v,
		      const struct setup *s, const char *what,
		      long (*run)(struct victim *v, long fd))
{
	int fd;

	ASSERT_EQ(0, victim_open(v, s, 0));
	fd = file_open(v);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, victim_start(v));
	ASSERT_EQ(0, timed(v, run, NULL, fd));
	say(v, what);
	EXPECT_BOUNDED(v);
	if (s->write) {
		EXPECT_NO_WAIT(v);
	} else {
		EXPECT_WAIT(v);
		EXPECT_PINNED(v);
	}
	/* Again, with pages that are pinned by now */
	ASSERT_EQ(0, timed(v, run, NULL, fd));
	EXPECT_BOUNDED(v);
	ASSERT_FINISHED(v);
	EXPECT_EQ(-1, call(v, in_check, 0));
	ASSERT_EQ(0, call(v, in_munmap, 0));
	EXPECT_EQ(-1, file_check(v, fd));
	if (s->write) {
		EXPECT_EQ(-1, disk_check(v));
	}
	close(fd);
	EXPECT_EQ(0, victim_close(v));
}

TEST_F_TIMEOUT(throttle, fsync, 120)
{
	const struct setup *s;

	for_each_setup(s, files)
		writeback(_metadata, &self->v, s, "fsync", run_fsync);
}

TEST_F_TIMEOUT(throttle, sync, 60)
{
	writeback(_metadata, &self->v, &files[0], "sync", run_sync);
	writeback(_metadata, &self->v, &files[2], "sync", run_sync);
}

/* ---- the process itself ---- */

static void after_unmap(struct __test_metadata *_metadata, struct victim *v,
			const struct setup *s, const char *what,
			long (*run)(struct victim *v, long arg))
{
	int fd = -1;

	ASSERT_EQ(0, victim_open(v, s, 0));
	if (s->kind != MEM_ANON) {
		fd = file_open(v);
		ASSERT_LE(0, fd);
	}
	ASSERT_EQ(0, victim_start(v));
	ASSERT_EQ(0, timed(v, NULL, run, 0));
	say(v, what);
	ASSERT_EQ(0, grab_fill(&v->grab));
	EXPECT_BOUNDED(v);
	EXPECT_PINNED(v);
	/* Pages of a file may be written back from then on */
	if (s->write || fd < 0) {
		EXPECT_NO_WAIT(v);
	} else {
		EXPECT_WAIT(v);
	}
	/* Clean, if nobody remembers the I/O */
	if (fd >= 0) {
		EXPECT_EQ(0, fsync(fd));
	}
	ASSERT_FINISHED(v);
	EXPECT_EQ(-1, grab_check(&v->grab));
	/* The pages are still those of the file: what came in late is kept */
	if (fd >= 0) {
		if (run == in_dontneed) {
			ASSERT_EQ(0, call(v, in_munmap, 0));
		}
		EXPECT_EQ(-1, file_check(v, fd));
		close(fd);
	} else if (run == in_dontneed) {
		EXPECT_EQ(-1, call(v, in_check_byte, 0));
	} else if (run == in_mremap) {
		EXPECT_EQ(-1, call(v, in_check, 0));
	}
	if (s->write) {
		EXPECT_EQ(-1, disk_check(v));
	}
	EXPECT_EQ(0, victim_close(v));
}

TEST_F_TIMEOUT(throttle, munmap, 120)
{
	const struct setup *s;

	for_each_setup(s, anon)
		after_unmap(_metadata, &self->v, s, "munmap", in_munmap);
	for_each_setup(s, files)
		after_unmap(_metadata, &self->v, s, "munmap", in_munmap);
}

TEST_F_TIMEOUT(throttle, dontneed, 120)
{
	const struct setup *s;

	for_each_setup(s, anon)
		after_unmap(_metadata, &self->v, s, "dontneed", in_dontneed);
	after_unmap(_metadata, &self->v, &files[0], "dontneed", in_dontneed);
}

TEST_F_TIMEOUT(throttle, mremap, 60)
{
	after_unmap(_metadata, &self->v, &anon[0], "mremap", in_mremap);
	after_unmap(_metadata, &self->v, &anon[1], "mremap", in_mremap);
}

static void protect(struct __test_metadata *_metadata, struct victim *v,
		    const struct setup *s, int prot)
{
	int fd = -1;

	ASSERT_EQ(0, victim_open(v, s, 0));
	if (s->kind != MEM_ANON) {
		fd = file_open(v);
		ASSERT_LE(0, fd);
	}
	ASSERT_EQ(0, victim_start(v));
	ASSERT_EQ(0, timed(v, NULL, in_mprotect, prot));
	say(v, prot == PROT_NONE ? "mprotect none" : "mprotect read");
	EXPECT_BOUNDED(v);
	EXPECT_PINNED(v);
	if (s->write) {
		EXPECT_NO_WAIT(v);
	} else {
		EXPECT_WAIT(v);
	}
	if (fd >= 0) {
		ASSERT_EQ(0, timed(v, run_fsync, NULL, fd));
		EXPECT_BOUNDED(v);
	}
	ASSERT_FINISHED(v);
	ASSERT_EQ(0, call(v, in_mprotect, PROT_READ));
	EXPECT_EQ(-1, call(v, in_check, 0));
	if (fd >= 0) {
		ASSERT_EQ(0, call(v, in_munmap, 0));
		EXPECT_EQ(-1, file_check(v, fd));
		close(fd);
	}
	if (s->write) {
		EXPECT_EQ(-1, disk_check(v));
	}
	EXPECT_EQ(0, victim_close(v));
}

TEST_F_TIMEOUT(throttle, mprotect, 120)
{
	const struct setup *s;

	for_each_setup(s, anon)
		protect(_metadata, &self->v, s, PROT_READ);
	for_each_setup(s, files)
		protect(_metadata, &self->v, s, PROT_READ);
	protect(_metadata, &self->v, &anon[0], PROT_NONE);
	protect(_metadata, &self->v, &files[0], PROT_NONE);
}

/* A child sees the memory as it was; its parent gets the data */
TEST_F_TIMEOUT(throttle, fork, 60)
{
	struct victim *v = &self->v;
	const struct setup *s;

	for_each_setup(s, anon) {
		ASSERT_EQ(0, victim_open(v, s, 0));
		ASSERT_EQ(0, victim_start(v));
		ASSERT_EQ(0, timed(v, NULL, in_fork, 0));
		say(v, "fork");
		EXPECT_BOUNDED(v);
		EXPECT_NO_WAIT(v);
		if (!s->write) {
			EXPECT_PINNED(v);
		}
		ASSERT_FINISHED(v);
		EXPECT_EQ(1, call(v, in_fork_end, 0));
		EXPECT_EQ(-1, call(v, in_check, 0));
		if (s->write) {
			EXPECT_EQ(-1, disk_check(v));
		}
		EXPECT_EQ(0, victim_close(v));
	}
}

static long run_soft_dirty(struct victim *v, long unused)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", v->pid);
	return sysfs_write(path, "4");
}

TEST_F_TIMEOUT(throttle, soft_dirty, 60)
{
	struct victim *v = &self->v;

	for (int i = 0; i < 2; i++) {
		const struct setup *s = i ? &files[0] : &anon[0];

		ASSERT_EQ(0, victim_open(v, s, 0));
		ASSERT_EQ(0, victim_start(v));
		ASSERT_EQ(0, timed(v, run_soft_dirty, NULL, 0));
		say(v, "soft-dirty");
		EXPECT_BOUNDED(v);
		EXPECT_WAIT(v);
		EXPECT_PINNED(v);
		ASSERT_FINISHED(v);
		EXPECT_EQ(-1, call(v, in_check, 0));
		EXPECT_EQ(0, victim_close(v));
	}
}

static long run_kill(struct victim *v, long unused)
{
	pid_t pid = v->pid;

	v->pid = -1;
	return kill(pid, SIGKILL) || waitpid(pid, NULL, 0) != pid ? -errno : 0;
}

/* A process is gone, and its memory, long before its I/O is */
TEST_F_TIMEOUT(throttle, sigkill, 60)
{
	struct victim *v = &self->v;
	const struct setup *s;

	for_each_setup(s, rings) {
		long before, freed;
		uint64_t start;
		int fd = -1;

		ASSERT_EQ(0, victim_open(v, s, BALLAST));
		if (s->kind != MEM_ANON) {
			fd = file_open(v);
			ASSERT_LE(0, fd);
		}
		ASSERT_EQ(0, victim_start(v));
		before = vmstat("nr_anon_pages");
		start = now_ms();
		ASSERT_EQ(0, timed(v, run_kill, NULL, 0));
		do {
			freed = before - vmstat("nr_anon_pages");
		} while (freed < (long)(BALLAST / PAGE * 3 / 4) &&
			 now_ms() - start < BOUND_MS && !usleep(10000));
		say(v, "sigkill");
		EXPECT_LE(BALLAST / PAGE * 3 / 4, freed);
		EXPECT_GT(2 * BOUND_MS, v->ms);
		EXPECT_PINNED(v);
		if (fd < 0) {
			EXPECT_NO_WAIT(v);
		}
		ASSERT_EQ(0, grab_fill(&v->grab));
		if (fd >= 0) {
			EXPECT_EQ(0, fsync(fd));
		}
		/* Nothing has moved so far */
		if (s->write) {
			EXPECT_NE(-1, disk_check(v));
		}
		ASSERT_EQ(0, victim_lift(v));
		EXPECT_EQ(0, victim_close(v));
	}
}

/* ---- those who look for something to do ---- */

static long run_ksm(struct victim *v, long scans)
{
	char buf[32];
	unsigned long first;

	if (sysfs_read(KSM "full_scans", buf, sizeof(buf)))
		return -errno;
	first = strtoul(buf, NULL, 10);
	for (int i = 0; i < 2000; i++) {
		uint64_t start = now_ms();
		long ret = call(v, in_mmap, 0);

		if (ret)
			return ret;
		if (now_ms() - start > v->smaps_ms)
			v->smaps_ms = now_ms() - start;
		if (sysfs_read(KSM "full_scans", buf, sizeof(buf)))
			return -errno;
		if (strtoul(buf, NULL, 10) >= first + scans)
			return 0;
		usleep(10000);
	}
	return -ETIME;
}

TEST_F_TIMEOUT(throttle, ksm, 60)
{
	struct victim *v = &self->v;

	ASSERT_EQ(0, sysfs_write(KSM "pages_to_scan", "10000"));
	ASSERT_EQ(0, sysfs_write(KSM "sleep_millisecs", "10"));
	for (int i = 0; i < 2; i++) {
		const struct setup *s = &anon[i ? 4 : 0];

		ASSERT_EQ(0, victim_open(v, s, 0));
		ASSERT_EQ(0, call(v, in_madvise, MADV_MERGEABLE));
		ASSERT_EQ(0, victim_start(v));
		ASSERT_EQ(0, sysfs_write(KSM "run", "1"));
		ASSERT_EQ(0, timed(v, run_ksm, NULL, 4));
		say(v, "ksm");
		EXPECT_BOUNDED(v);
		/* It wanted to write-protect them, as they looked the same */
		EXPECT_REFUSED(v);
		ASSERT_FINISHED(v);
		EXPECT_EQ(-1, call(v, in_check, 0));
		EXPECT_EQ(0, sysfs_write(KSM "run", "2"));
		EXPECT_EQ(0, victim_close(v));
	}
}

TEST_F_TIMEOUT(throttle, collapse, 60)
{
	struct victim *v = &self->v;
	const struct setup *s;
	long ret;

	for_each_setup(s, anon) {
		ASSERT_EQ(0, victim_open(v, s, 0));
		ASSERT_EQ(0, victim_start(v));
		/* Not earlier: khugepaged might be faster */
		ASSERT_EQ(0, call(v, in_madvise, MADV_HUGEPAGE));
		ret = timed(v, run_process_madvise, NULL, MADV_COLLAPSE);
		say(v, "collapse");
		EXPECT_BOUNDED(v);
		/* There is I/O on some of the pages: it cannot */
		EXPECT_GT(0, ret);
		EXPECT_REFUSED(v);
		ASSERT_FINISHED(v);
		EXPECT_EQ(-1, call(v, in_check, 0));
		if (s->write) {
			EXPECT_EQ(-1, disk_check(v));
		}
		if (mode_get() == MODE_NOPIN || v->s.eng != ENG_URING_FIXED) {
			for (int i = 0; i < 20; i++) {
				ret = run_process_madvise(v, MADV_COLLAPSE);
				if (ret >= 0)
					break;
				usleep(20000);
			}
			EXPECT_LE(0, ret) TH_LOG("%s", strerror(-ret));
			EXPECT_EQ(-1, call(v, in_check, 0));
		}
		EXPECT_EQ(0, victim_close(v));
	}
}

/* ---- the bounds themselves ---- */

#define KNOWN_MS	300

static int wait_ms(const char *ms)
{
	return nopin_present() ? sysfs_write(RMAP_WAIT_MS, ms) : 0;
}

static long run_move_one(struct victim *v, long to)
{
	return move_to(v, to, 1);
}

/* They do wait, as the I/O might end; for a pin nobody would */
TEST_F_TIMEOUT(throttle, bound_refusable, 60)
{
	struct victim *v = &self->v;
	int node;

	ASSERT_EQ(0, wait_ms("300"));
	ASSERT_EQ(0, victim_open(v, &anon[0], 0));
	node = first_node(v);
	ASSERT_LE(0, node);
	ASSERT_EQ(0, victim_start(v));
	ASSERT_LE(0, timed(v, run_move_one, NULL, !node));
	say(v, "move_pages");
	EXPECT_BOUNDED(v);
	EXPECT_EQ(0, moved_from(v, node));
	if (mode_get() == MODE_NOPIN) {
		EXPECT_LE(KNOWN_MS - 20, v->ms);
		EXPECT_LT(v->refuse, vmstat("nopin_refuse"));
		EXPECT_EQ(v->pinned, vmstat("nopin_pinned"));
	}
	ASSERT_FINISHED(v);
	EXPECT_EQ(-1, call(v, in_check, 0));
	EXPECT_EQ(0, victim_close(v));
}

TEST_F_TIMEOUT(throttle, bound_truncate, 60)
{
	struct victim *v = &self->v;
	int fd;

	ASSERT_EQ(0, wait_ms("300"));
	ASSERT_EQ(0, victim_open(v, &files[0], 0));
	fd = file_open(v);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, victim_start(v));
	ASSERT_EQ(0, timed(v, run_truncate, NULL, fd));
	say(v, "truncate");
	if (mode_get() == MODE_NOPIN) {
		EXPECT_LE(KNOWN_MS - 20, v->ms);
	}
	EXPECT_BOUNDED(v);
	EXPECT_PINNED(v);
	ASSERT_FINISHED(v);
	close(fd);
	EXPECT_EQ(0, victim_close(v));
}

/*
 * The bound is that of the task that waits, for all it goes through: a page of a
 * file that is mapped at many places, each in another GiB and with a read of its own
 * in flight, does not hold up a task that syncs the file for longer than one would.
 */
#define NR_PLACES	20

static char *places[NR_PLACES];

/* Where each of them has its read from */
static off_t place_pos(int i)
{
	return i * 2 * PAGE;
}

static long in_places(struct victim *v, long unused)
{
	char *space = mmap(NULL, (NR_PLACES + 1) * GB, PROT_NONE, MAP_PRIVATE |
			   MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (space == MAP_FAILED)
		return -errno;
	for (int i = 0; i < NR_PLACES; i++) {
		places[i] = mmap(space + i * GB, LEN, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_FIXED, v->m.fd, 0);
		if (places[i] == MAP_FAILED)
			return -errno;
		places[i][0] = i;
	}
	return ioq_init(&v->q, ENG_AIO, NR_PLACES);
}

static long in_places_start(struct victim *v, long unused)
{
	int ret = ioq_start(&v->head, 0, v->fd, false, v->scratch, HEAD, HEAD_POS);

	for (int i = 0; i < NR_PLACES && !ret; i++)
		ret = ioq_start(&v->q, i, v->fd, false, places[i], PAGE,
				place_pos(i));
	return ret;
}

static long in_places_done(struct victim *v, long min)
{
	return ioq_reap(&v->q, min, NULL);
}

TEST_F_TIMEOUT(throttle, bound_places, 60)
{
	struct victim *v = &self->v;
	unsigned long bios;
	int fd;

	ASSERT_EQ(0, wait_ms("300"));
	/* The engine is for the buffer, which has no I/O */
	ASSERT_EQ(0, victim_open(v, &(struct setup) { MEM_SHARED_EXT4, ENG_URING }, 0));
	fd = file_open(v);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, call(v, in_places, 0));
	bios = vmstat("nopin_bio");
	ASSERT_EQ(0, hold(v, true));
	ASSERT_EQ(0, pthread_create(&v->guard, NULL, guard_thread, v));
	v->guarded = true;
	ASSERT_EQ(0, call(v, in_places_start, 0));
	/* A worker may submit the first one, in its own time */
	for (int i = 0; i < 1000 && mode_get() == MODE_NOPIN; i++) {
		if (vmstat("nopin_bio") - bios >= NR_PLACES + 1)
			break;
		usleep(10000);
	}
	v->refuse = vmstat("nopin_refuse");
	v->pinned = vmstat("nopin_pinned");
	v->wait = vmstat("nopin_wait");
	ASSERT_EQ(0, timed(v, run_fsync, NULL, fd));
	say(v, "fsync through many mappings");
	EXPECT_GT(BOUND_MS, v->ms);
	EXPECT_GT(BOUND_MS, v->smaps_ms);
	EXPECT_EQ(0, call(v, in_places_done, 0));
	if (mode_get() == MODE_NOPIN) {
		EXPECT_LE(KNOWN_MS - 20, v->ms);
		/* With a bound for each of them it were NR_PLACES times as long */
		EXPECT_GT(2 * KNOWN_MS, v->ms);
		EXPECT_EQ(v->pinned + NR_PLACES, vmstat("nopin_pinned"));
	}
	ASSERT_EQ(0, victim_lift(v));
	ASSERT_EQ(NR_PLACES, call(v, in_places_done, NR_PLACES));
	close(fd);
	EXPECT_EQ(0, victim_close(v));
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
	int fd;

	ASSERT_EQ(0, wait_ms("5000"));
	ASSERT_EQ(0, victim_open(v, &files[0], 0));
	fd = file_open(v);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, victim_start(v));
	ASSERT_EQ(0, pthread_create(&th, NULL, lift_thread, v));
	ASSERT_EQ(0, timed(v, run_truncate, NULL, fd));
	pthread_join(th, NULL);
	say(v, "truncate");
	if (mode_get() == MODE_NOPIN) {
		EXPECT_LE(KNOWN_MS - 20, v->ms);
		EXPECT_LT(v->wait, vmstat("nopin_wait"));
		EXPECT_EQ(v->pinned, vmstat("nopin_pinned"));
	}
	ASSERT_EQ(0, call(v, in_finish, 0));
	close(fd);
	EXPECT_EQ(0, victim_close(v));
}

TEST_HARNESS_MAIN
