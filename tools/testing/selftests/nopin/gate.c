// SPDX-License-Identifier: GPL-2.0
#include <limits.h>
#include <linux/dm-ioctl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "nopin_util.h"

#define FORGOTTEN_MS	40000

/*
 * Goes up by one when the gate is shut, when somebody is about to open it, and when
 * that is done. So whoever opens it opens it once, and none that was shut later.
 */
enum { GATE_IS_OPEN, GATE_IS_SHUT, GATE_OPENS, GATE_STATES };

struct gate_shared {
	atomic_uint state;
	enum gate_until until;
	unsigned int ms;
	unsigned long waits;
	char name[64];		/* of the gate, for the device mapper */
	char inflight[64];	/* of the device above it */
};

static int gate_suspend(struct gate_shared *s, bool suspend)
{
	struct dm_ioctl arg = {
		.version = { DM_VERSION_MAJOR, 0, 0 },
		.data_size = sizeof(arg),
		.data_start = sizeof(arg),
		.flags = suspend ? DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG : 0,
	};
	int ret = 0, fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	snprintf(arg.name, sizeof(arg.name), "%s", s->name);
	if (ioctl(fd, DM_DEV_SUSPEND, &arg))
		ret = -errno;
	close(fd);
	return ret;
}

static int gate_release(struct gate_shared *s, unsigned int seen)
{
	int ret = 0;

	if (seen % GATE_STATES == GATE_IS_SHUT &&
	    atomic_compare_exchange_strong(&s->state, &seen, seen + 1)) {
		ret = gate_suspend(s, false);
		atomic_store(&s->state, seen + 2);
	}
	while (atomic_load(&s->state) % GATE_STATES == GATE_OPENS)
		usleep(1000);
	return ret;
}

/* Who gains nothing by a wait, or has waited in vain a moment ago, pins at once */
static unsigned long gate_waits(void)
{
	struct vmstat all;

	vmstat_read(&all, false);
	return vmstat_in(&all, "nopin_wait") + vmstat_in(&all, "nopin_pinned");
}

static void gate_keep(struct gate_shared *s, pid_t parent)
{
	unsigned int last = GATE_IS_OPEN;
	uint64_t since = 0, due = 0;

	/* Outlives the test's process group, and runs where no test hogs the CPU */
	setsid();
	pin_to_cpu(0);
	while (getppid() == parent) {
		unsigned int state = atomic_load(&s->state);
		uint64_t now = now_ms();

		if (state != last) {
			last = state;
			since = now;
			due = s->until == GATE_TIME ? now + s->ms : 0;
		}
		if (state % GATE_STATES == GATE_IS_SHUT) {
			if (s->until == GATE_WAIT && !due && gate_waits() != s->waits)
				due = now_ms() + s->ms;
			if (now >= since + FORGOTTEN_MS) {
				note("nothing happens: let the I/O go");
				due = now;
			}
			if (due && now >= due)
				gate_release(s, state);
		}
		usleep(2000);
	}
	gate_suspend(s, false);
	_exit(0);
}

int gate_init(struct gate *g, const char *env)
{
	char var[64], *name;
	struct stat st;
	pid_t parent;
	dev_t dev;
	int ret;

	snprintf(var, sizeof(var), "%s_GATE", env);
	name = getenv(var);
	if (!name)
		return -ENODEV;
	g->shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (g->shared == MAP_FAILED)
		return -ENOMEM;
	snprintf(g->shared->name, sizeof(g->shared->name), "%s", name);
	/* A test that was killed may have left it shut */
	ret = gate_suspend(g->shared, false) ?: target_open(&g->t, env, 8 * MB);
	if (ret)
		return ret;
	if (fstat(g->t.fd, &st))
		return -errno;
	dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	snprintf(g->shared->inflight, sizeof(g->shared->inflight),
		 "/sys/dev/block/%u:%u/inflight", major(dev), minor(dev));
	parent = getpid();
	g->keeper = fork();
	if (!g->keeper)
		gate_keep(g->shared, parent);
	return g->keeper < 0 ? -errno : 0;
}

void gate_exit(struct gate *g)
{
	gate_open(g);
	kill(g->keeper, SIGKILL);
	waitpid(g->keeper, NULL, 0);
	munmap(g->shared, PAGE);
	target_close(&g->t);
}

int gate_shut(struct gate *g, enum gate_until until, unsigned int ms)
{
	struct gate_shared *s = g->shared;
	int ret = gate_suspend(s, true);

	if (ret)
		return ret;
	s->until = until;
	s->ms = ms;
	s->waits = gate_waits();
	atomic_fetch_add(&s->state, 1);
	return 0;
}

int gate_open(struct gate *g)
{
	return gate_release(g->shared, atomic_load(&g->shared->state));
}

static int gate_wait(struct gate *g, unsigned long least, unsigned long most)
{
	uint64_t end = now_ms() + FORGOTTEN_MS / 2;
	unsigned long reads, writes;
	char buf[64];
	int ret;

	do {
		ret = sysfs_read(g->shared->inflight, buf, sizeof(buf));
		if (ret)
			return ret;
		if (sscanf(buf, "%lu %lu", &reads, &writes) != 2)
			return -EIO;
		if (reads + writes >= least && reads + writes <= most)
			return 0;
		usleep(1000);
	} while (now_ms() < end);
	return -ETIME;
}

int gate_held(struct gate *g, unsigned int nr)
{
	return gate_wait(g, nr, ULONG_MAX);
}

int gate_idle(struct gate *g)
{
	return gate_open(g) ?: gate_wait(g, 0, 0);
}

/* ---- transfers in flight ---- */

enum engine flight_possible(enum engine eng)
{
	return eng == ENG_URING_FIXED && !nopin() ? ENG_URING : eng;
}

int flight_open(struct flight *f, const char *env)
{
	int ret;

	memset(f, 0, sizeof(*f));
	/* What earlier tests left on the disk must not pass */
	f->seed = now_ms() * 1000;
	f->t = &f->gate.t;
	ret = gate_init(&f->gate, env);
	f->fd = f->t->fd;
	return ret;
}

void flight_close(struct flight *f)
{
	gate_open(&f->gate);
	ioq_exit(&f->q);
	gate_exit(&f->gate);
}

void flight_set(struct flight *f, char *buf, unsigned int nr, size_t len, size_t step)
{
	f->buf = buf;
	f->nr = nr;
	f->len = len;
	f->step = step;
}

int flight_engine(struct flight *f, enum engine eng)
{
	return ioq_init_buffer(&f->q, eng, f->nr, f->buf, f->nr * f->step);
}

/* On the disk */
static off_t flight_pos(struct flight *f, unsigned int i)
{
	return f->base + 2 * i * f->len;
}

/* In the pattern */
static off_t flight_at(struct flight *f, unsigned int i)
{
	return f->same ? 0 : flight_pos(f, i) / 2;
}

/* Transfer @i at @p is what is there before, or after it */
static void pattern_fill(struct flight *f, unsigned int i, char *p, bool after)
{
	pat_fill(p, f->len, after ? f->seed : ~f->seed, flight_at(f, i));
}

ssize_t flight_check_one(struct flight *f, unsigned int i, const char *p, bool after)
{
	return pat_check(p, f->len, after ? f->seed : ~f->seed, flight_at(f, i));
}

void flight_fill(struct flight *f, bool after)
{
	for (unsigned int i = 0; i < f->nr; i++)
		pattern_fill(f, i, f->buf + i * f->step, after);
}

int flight_fill_disk(struct flight *f)
{
	char *disk = calloc(1, flight_pos(f, f->nr));
	int ret;

	for (unsigned int i = 0; i < f->nr; i++)
		pattern_fill(f, i, disk + flight_pos(f, i), !f->write);
	ret = target_write(f->t, disk, flight_pos(f, f->nr), 0);
	free(disk);
	return ret;
}

int flight_prepare(struct flight *f, bool write)
{
	int ret;

	f->write = write;
	ret = flight_fill_disk(f);
	flight_fill(f, write);
	return ret;
}

ssize_t flight_check(struct flight *f, const char *p, bool after)
{
	for (unsigned int i = 0; i < f->nr; i++) {
		ssize_t bad = flight_check_one(f, i, p + i * f->step, after);

		if (bad >= 0)
			return bad + i * f->step;
	}
	return -1;
}

ssize_t flight_check_disk(struct flight *f)
{
	size_t size = flight_pos(f, f->nr);
	char *disk = malloc(size);
	ssize_t bad = target_read(f->t, disk, size, 0) ? -2 : -1;

	for (unsigned int i = 0; i < f->nr && bad == -1; i++)
		bad = flight_check_one(f, i, disk + flight_pos(f, i), true);
	free(disk);
	return bad;
}

static void *flight_thread(void *arg)
{
	struct flight *f = arg;
	int i = __atomic_fetch_add(&f->started, 1, __ATOMIC_SEQ_CST);
	char *buf = f->buf + i * f->step;
	cpu_set_t all;
	ssize_t ret;

	__atomic_store_n(&f->tid[i], gettid(), __ATOMIC_RELEASE);
	/* Whatever the test is bound to */
	memset(&all, 0xff, sizeof(all));
	sched_setaffinity(0, sizeof(all), &all);

	if (f->write)
		ret = pwrite(f->fd, buf, f->len, flight_pos(f, i));
	else
		ret = pread(f->fd, buf, f->len, flight_pos(f, i));
	f->res[i] = ret < 0 ? -errno : ret;
	__atomic_fetch_add(&f->ended, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* A thread has submitted all of its transfer when it waits */
static int flight_threads(struct flight *f)
{
	int ret = 0;

	f->started = 0;
	f->ended = 0;
	memset(f->tid, 0, sizeof(f->tid));
	for (unsigned int i = 0; i < f->nr && !ret; i++)
		ret = -pthread_create(&f->th[i], NULL, flight_thread, f);
	for (unsigned int i = 0; i < f->nr && !ret; i++)
		while (!task_blocked(__atomic_load_n(&f->tid[i], __ATOMIC_ACQUIRE)) &&
		       !__atomic_load_n(&f->ended, __ATOMIC_SEQ_CST))
			usleep(1000);
	return ret;
}

int flight_submit(struct flight *f)
{
	int ret = 0;

	f->done = 0;
	memset(f->res, 0, sizeof(f->res));
	if (f->q.eng == ENG_PSYNC)
		return flight_threads(f);
	for (unsigned int i = 0; i < f->nr && !ret; i++)
		ret = ioq_start(&f->q, i, f->fd, f->write, f->buf + i * f->step, f->len,
				flight_pos(f, i));
	return ret;
}

int flight_start(struct flight *f, enum gate_until until, unsigned int ms)
{
	struct vmstat all;

	vmstat_read(&all, true);
	f->wait = vmstat_in(&all, "nopin_wait");
	f->pinned = vmstat_in(&all, "nopin_pinned");
	return gate_shut(&f->gate, until, ms) ?: flight_submit(f) ?:
	       gate_held(&f->gate, f->nr);
}

int flight_done(struct flight *f)
{
	int ret;

	if (f->q.eng == ENG_PSYNC)
		return __atomic_load_n(&f->ended, __ATOMIC_SEQ_CST);
	ret = ioq_reap(&f->q, 0, f->res);
	if (ret < 0)
		return ret;
	f->done += ret;
	return f->done;
}

int flight_reap(struct flight *f)
{
	int ret = 0;

	if (f->q.eng == ENG_PSYNC)
		for (unsigned int i = 0; i < f->nr; i++)
			pthread_join(f->th[i], NULL);
	else
		ret = ioq_reap(&f->q, f->nr - f->done, f->res);
	for (unsigned int i = 0; i < f->nr && ret >= 0; i++)
		if (f->res[i] != (long)f->len) {
			note("transfer %u: %ld", i, f->res[i]);
			return f->res[i] < 0 ? f->res[i] : -EIO;
		}
	return ret < 0 ? ret : 0;
}

int flight_finish(struct flight *f)
{
	return gate_open(&f->gate) ?: flight_reap(f);
}
