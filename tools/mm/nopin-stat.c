// SPDX-License-Identifier: GPL-2.0
/*
 * nopin-stat - which processes still pin pages for direct I/O, and why
 *
 * It also shows who changes mappings of memory that I/O uses, whose I/O that is, and
 * how long the changes wait.
 *
 * The tracepoints in events/nopin say what happens. The tool reads them from an
 * instance of tracefs of its own and removes the instance when it ends. The counters
 * come from /proc/vmstat and /sys/kernel/mm/nopin/. From /proc/PID/ the tool learns
 * which files a process has opened with O_DIRECT, how much it reads and writes, and
 * which io_uring buffers it has registered.
 *
 * The tracepoints do not say yet on which device the I/O is, nor whose memory a change
 * concerns. The tool infers that, see attribute() and find_owner(), and leaves it
 * open if in doubt. If a kernel has the fields "dev" and "owner", the tool takes them.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(x)	(sizeof(x) / sizeof((x)[0]))

#define SYSFS		"/sys/kernel/mm/nopin"
#define INSTANCE	"nopin-stat"

#define MAX_CAUSES	16	/* of fallbacks */
#define MAX_DEVICES	256
#define MAX_OF_PROC	4	/* devices of one process */
#define MAX_FDS		4096	/* of one process that are looked at */
#define RING_TRIES	10	/* to see its buffers */
#define MAX_HITS	4096	/* changes of different kinds or places in an interval */
#define MAX_ENDED	256	/* names of processes that have ended */
#define BUCKETS		4096
#define POLL_MS		100
#define BUFFER_KB	"512"	/* of events, per CPU */
#define ROWS		20	/* of a table, if the output is no terminal */
#define NAME		64
#define WORD		24

/* Task flag in /proc/PID/stat */
#define KTHREAD		0x00200000

struct device {
	unsigned int	major, minor;
	char		name[NAME];
	unsigned long	now[MAX_CAUSES];
	unsigned long	total[MAX_CAUSES];
	unsigned int	procs;		/* with direct I/O to it in the interval */
};

struct proc {
	struct proc	*next;
	int		pid;		/* 0: all those called @name that have ended */
	unsigned long	start;		/* when it started; 0 if that is not known */
	char		name[NAME];
	bool		seen;		/* by the last look through /proc */
	bool		kthread;
	bool		direct;		/* has files with O_DIRECT, or was seen to do such I/O */
	unsigned int	ended;		/* how many, if @pid is 0 */
	unsigned long	read, written;		/* bytes, all in all */
	unsigned long	now_read, now_written;	/* in the interval */
	unsigned long	pinned_kb;	/* VmPin */
	unsigned long	ring_pinned;	/* bytes of io_uring buffers */
	unsigned long	ring_nopin;
	bool		ring_busy;	/* not all of the buffers are known */
	unsigned int	dev[MAX_OF_PROC];	/* in devices[] */
	unsigned int	nr_dev;
	unsigned long	now[MAX_CAUSES];	/* bios that were pinned */
	unsigned long	total[MAX_CAUSES];
	unsigned long	no_dev[MAX_CAUSES];	/* of @now: the event names no device */
};

/* What came of changes of mappings */
struct counts {
	unsigned long	waits, us, max_us, vain, refused, pins;
};

/* Changes of one kind by one process in one place, in the interval */
struct hit {
	struct proc	*who;
	char		event[WORD];
	unsigned long	start, end;
	int		owner;		/* PID that the event tells, or 0 */
	struct counts	counts;
};

/* Changes of one kind by one process, under I/O of one process */
struct change {
	struct proc	*who, *whose;	/* @whose is NULL if it is not known */
	bool		told;		/* the event tells @whose */
	char		event[WORD];
	struct counts	now, total;
};

enum {
	BIO, FALLBACK, INVALIDATE, WAIT, REFUSE, PINNED, REVALIDATE, ACQUIRED, RELEASED,
	NR_COUNTERS
};

static const char * const counter_name[NR_COUNTERS] = {
	[BIO]		= "nopin_bio",
	[FALLBACK]	= "nopin_fallback",
	[INVALIDATE]	= "nopin_invalidate",
	[WAIT]		= "nopin_wait",
	[REFUSE]	= "nopin_refuse",
	[PINNED]	= "nopin_pinned",
	[REVALIDATE]	= "nopin_revalidate",
	[ACQUIRED]	= "nr_foll_pin_acquired",
	[RELEASED]	= "nr_foll_pin_released",
};

/* What the tracepoints say, and what an administrator knows it as */
struct text {
	const char	*word, *text;
};

static const struct text event_text[] = {
	{ "unmap",		"munmap, mremap" },
	{ "clear",		"move, discard" },
	{ "protection-vma",	"mprotect" },
	{ "protection-page",	"writeback, fork" },
	{ "soft-dirty",		"clear_refs" },
	{ "release",		"exit" },
	{ "migrate",		"to device memory" },
	{ "exclusive",		"device exclusive" },
	{ NULL, NULL }
};

static const struct text cause_text[] = {
	{ "first",	"one of the first I/Os of a process" },
	{ "nomem",	"no memory for the bookkeeping" },
	{ "invalid",	"the program cannot access the memory that it passed" },
	{ "special",	"memory that always needs pins, or a process with protection keys" },
	{ "busy",	"too many I/Os in flight on the same page, or it is pinned" },
	{ "extents",	"too many pieces of memory in one I/O" },
	{ "nowait",	"the I/O must not wait for a change of the mapping" },
	{ "race",	"the mapping changes again and again" },
	{ NULL, NULL }
};

static char cause_name[MAX_CAUSES][WORD];
static unsigned int nr_causes;

static struct proc *procs[BUCKETS];
static unsigned int nr_ended;
/* The first one stands for all that are not known */
static struct device devices[MAX_DEVICES] = { { .name = "-" } };
static unsigned int nr_devices = 1;
static struct hit hits[MAX_HITS];
static unsigned int nr_hits;
static struct change *changes;
static unsigned int nr_changes;

static unsigned long counter[NR_COUNTERS], counter_now[NR_COUNTERS], counter_total[NR_COUNTERS];
static bool has_counter[NR_COUNTERS];
static unsigned long fallback[MAX_CAUSES], fallback_now[MAX_CAUSES];
static struct counts now_all, total_all;
static unsigned long lost_now, lost_total;
static char direct_io[WORD], io_uring[WORD];

static char tracefs[64], instance[128];
static int trace_fd = -1;
/* Events are taken from here on; the clock is that of now_s() */
static double watch_from;
static sigset_t signals;
static bool stop;

static double interval = 1;
static bool json;

static void copy(char *to, const char *from, size_t size)
{
	while (--size && *from)
		*to++ = *from++;
	*to = 0;
}

/* Returns the length of what is in @buf, or -1 */
static ssize_t read_at(int dir, const char *path, char *buf, size_t size)
{
	size_t len = 0;
	ssize_t n;
	int fd;

	fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	while (len < size - 1) {
		n = read(fd, buf + len, size - 1 - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += n;
	}
	close(fd);
	buf[len] = 0;
	return len;
}

static bool write_file(const char *dir, const char *name, const char *text)
{
	char path[512];
	bool ok;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void *grow(void *array, size_t size)
{
	array = realloc(array, size);
	if (!array)
		errx(1, "no memory");
	return array;
}

/* ------------------------------------------------------------------------------- */
/* Counters */

/* The number behind @name at the start of a line */
static bool number_of(const char *text, const char *name, unsigned long *value)
{
	size_t len = strlen(name);
	const char *p;

	for (p = text; p; p = strchr(p, '\n')) {
		if (*p == '\n')
			p++;
		if (!strncmp(p, name, len) && (p[len] == ' ' || p[len] == ':')) {
			*value = strtoull(p + len + 1, NULL, 0);
			return true;
		}
	}
	return false;
}

static unsigned int cause_of(const char *name)
{
	unsigned int i;

	for (i = 0; i < nr_causes; i++)
		if (!strcmp(cause_name[i], name))
			return i;
	/* All that do not fit share the last one */
	if (nr_causes == MAX_CAUSES)
		return MAX_CAUSES - 1;
	copy(cause_name[nr_causes], name, WORD);
	return nr_causes++;
}

static void read_counters(void)
{
	char text[65536], path[512];
	struct dirent *d;
	unsigned int i;
	unsigned long value;
	DIR *dir;

	if (read_at(AT_FDCWD, "/proc/vmstat", text, sizeof(text)) < 0)
		text[0] = 0;
	for (i = 0; i < NR_COUNTERS; i++) {
		has_counter[i] = number_of(text, counter_name[i], &value);
		if (!has_counter[i])
			continue;
		counter_now[i] = value - counter[i];
		counter_total[i] += counter_now[i];
		counter[i] = value;
	}
	dir = opendir(SYSFS "/fallback");
	while (dir && (d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), SYSFS "/fallback/%s", d->d_name);
		if (read_at(AT_FDCWD, path, text, sizeof(text)) < 0)
			continue;
		i = cause_of(d->d_name);
		value = strtoull(text, NULL, 10);
		fallback_now[i] = value - fallback[i];
		fallback[i] = value;
	}
	if (dir)
		closedir(dir);
}

/* The word in brackets, or the first one */
static void read_choice(const char *path, char *to)
{
	char text[256], *p;

	if (read_at(AT_FDCWD, path, text, sizeof(text)) < 0) {
		copy(to, "-", WORD);
		return;
	}
	p = strchr(text, '[');
	p = p ? p + 1 : text;
	p[strcspn(p, "\n ]")] = 0;
	copy(to, p, WORD);
}

static void read_settings(void)
{
	read_choice(SYSFS "/direct_io", direct_io);
	read_choice(SYSFS "/io_uring", io_uring);
}

/* ------------------------------------------------------------------------------- */
/* Devices and processes */

static unsigned int device_of(unsigned int major, unsigned int minor)
{
	char path[64], link[PATH_MAX];
	struct device *dev;
	unsigned int i;
	ssize_t len;

	for (i = 1; i < nr_devices; i++)
		if (devices[i].major == major && devices[i].minor == minor)
			return i;
	if (nr_devices == MAX_DEVICES)
		return 0;
	dev = &devices[nr_devices];
	dev->major = major;
	dev->minor = minor;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major, minor);
	len = readlink(path, link, sizeof(link) - 1);
	if (len > 0) {
		link[len] = 0;
		copy(dev->name, strrchr(link, '/') ? strrchr(link, '/') + 1 : link,
		     sizeof(dev->name));
	} else {
		/* A file system that is not on one block device */
		snprintf(dev->name, sizeof(dev->name), "%u:%u", major, minor);
	}
	return nr_devices++;
}

static void add_device(struct proc *p, unsigned int dev)
{
	unsigned int i;

	for (i = 0; i < p->nr_dev; i++)
		if (p->dev[i] == dev)
			return;
	if (p->nr_dev < MAX_OF_PROC)
		p->dev[p->nr_dev++] = dev;
}

static struct proc **bucket(int pid)
{
	return &procs[(unsigned int)pid % BUCKETS];
}

static struct proc *find_proc(int pid)
{
	struct proc *p;

	for (p = *bucket(pid); p; p = p->next)
		if (p->pid == pid)
			return p;
	return NULL;
}

static struct proc *new_proc(int pid, const char *name)
{
	struct proc *p = grow(NULL, sizeof(*p));

	memset(p, 0, sizeof(*p));
	p->pid = pid;
	copy(p->name, name, sizeof(p->name));
	p->next = *bucket(pid);
	*bucket(pid) = p;
	return p;
}

/* A directory in /proc, or -1 if the process has ended */
static int open_proc(int pid)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", pid);
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Name, flags and time of start */
static bool read_stat(int dir, char *name, unsigned int *flags, unsigned long *start)
{
	char text[1024], *p, *end;
	int field;

	if (read_at(dir, "stat", text, sizeof(text)) <= 0)
		return false;
	/* The name may have anything in it, even brackets */
	p = strchr(text, '(');
	end = strrchr(text, ')');
	if (!p || !end)
		return false;
	*end = 0;
	copy(name, p + 1, NAME);
	*flags = 0;
	*start = 0;
	p = end + 1;
	for (field = 3; field <= 22 && (p = strchr(p, ' ')); field++) {
		p++;
		if (field == 9)
			*flags = strtoul(p, NULL, 10);
		if (field == 22)
			*start = strtoull(p, NULL, 10);
	}
	return true;
}

/*
 * Add the buffers that are registered with a ring of io_uring. Returns false if the
 * kernel tells their number only, because somebody else has the lock of the ring.
 */
static bool try_ring(struct proc *p, int fdinfo, const char *fd)
{
	unsigned long len, nr = 0, lines = 0;
	char line[256];
	bool bufs = false;
	FILE *f;
	int n;

	n = openat(fdinfo, fd, O_RDONLY | O_CLOEXEC);
	f = n < 0 ? NULL : fdopen(n, "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (line[0] != ' ') {
			bufs = !strncmp(line, "UserBufs:", 9);
			if (bufs)
				nr = strtoul(line + 9, NULL, 10);
			continue;
		}
		if (!bufs)
			continue;
		lines++;
		if (sscanf(line, " %*u: %*x/%lu", &len) != 1)
			continue;
		if (strstr(line, " nopin"))
			p->ring_nopin += len;
		else
			p->ring_pinned += len;
	}
	if (f)
		fclose(f);
	return lines || !nr;
}

static void read_ring(struct proc *p, int fdinfo, const char *fd)
{
	static const struct timespec ms = { .tv_nsec = 1000000 };
	int tries;

	for (tries = 0; tries < RING_TRIES; tries++) {
		if (try_ring(p, fdinfo, fd))
			return;
		nanosleep(&ms, NULL);
	}
	p->ring_busy = true;
}

static void read_fd(struct proc *p, int fds, int fdinfo, const char *fd)
{
	char text[4096], link[32];
	struct statx stx;
	const char *flags;
	ssize_t len;

	len = readlinkat(fds, fd, link, sizeof(link) - 1);
	if (len <= 0)
		return;
	link[len] = 0;
	if (!strcmp(link, "anon_inode:[io_uring]")) {
		read_ring(p, fdinfo, fd);
		return;
	}
	if (link[0] != '/' || read_at(fdinfo, fd, text, sizeof(text)) < 0)
		return;
	flags = strstr(text, "flags:");
	if (!flags || !(strtoul(flags + 6, NULL, 8) & O_DIRECT))
		return;
	/* Does not ask a file server that may hang */
	if (statx(fds, fd, AT_STATX_DONT_SYNC, STATX_TYPE, &stx))
		return;
	if (S_ISBLK(stx.stx_mode))
		add_device(p, device_of(stx.stx_rdev_major, stx.stx_rdev_minor));
	else if (S_ISREG(stx.stx_mode))
		add_device(p, device_of(stx.stx_dev_major, stx.stx_dev_minor));
	else
		return;
	p->direct = true;
}

static void read_fds(struct proc *p, int dir)
{
	unsigned long pinned = p->ring_pinned, nopin = p->ring_nopin;
	int fd, fdinfo, nr = 0;
	struct dirent *d;
	DIR *fds;

	fd = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fdinfo = openat(dir, "fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fds = fd < 0 ? NULL : fdopendir(fd);
	if (fds && fdinfo >= 0) {
		/* A process that is about to end has closed them */
		bool first = true;

		while ((d = readdir(fds)) && nr < MAX_FDS) {
			if (d->d_name[0] == '.')
				continue;
			if (first) {
				first = false;
				p->direct = false;
				p->nr_dev = 0;
				p->ring_pinned = 0;
				p->ring_nopin = 0;
			}
			nr++;
			read_fd(p, dirfd(fds), fdinfo, d->d_name);
		}
	}
	/* They were known before, maybe */
	if (p->ring_busy && p->ring_pinned + p->ring_nopin < pinned + nopin) {
		p->ring_pinned = pinned;
		p->ring_nopin = nopin;
	}
	p->ring_busy = false;
	if (fds)
		closedir(fds);
	if (fdinfo >= 0)
		close(fdinfo);
}

static unsigned long sum(const unsigned long *value)
{
	unsigned long all = 0;
	unsigned int i;

	for (i = 0; i < MAX_CAUSES; i++)
		all += value[i];
	return all;
}

/*
 * The process of an event. The kernel tells the PID and remembers the name. The tool
 * looks at the process at once, as it may soon end.
 */
static struct proc *proc_of_event(int pid, const char *name)
{
	struct proc *p = find_proc(pid);
	bool new = !p, known;
	char at_start[NAME];
	unsigned int flags;
	unsigned long start;
	int dir;

	/* Workers of the kernel are called as what they work on */
	if (p && strncmp(p->name, "kworker", 7))
		return p;
	dir = open_proc(pid);
	known = dir >= 0 && read_stat(dir, at_start, &flags, &start);
	if (!p)
		p = new_proc(pid, known ? at_start : name);
	if (known) {
		copy(p->name, at_start, NAME);
		p->start = start;
		p->kthread = flags & KTHREAD;
		if (new && !p->kthread)
			read_fds(p, dir);
	}
	if (dir >= 0)
		close(dir);
	return p;
}

static void fold(struct proc *p);

/* What a process did since the last look */
static void look_at(int pid, unsigned int round)
{
	char text[4096], name[NAME];
	unsigned long start, value;
	unsigned int flags;
	struct proc *p;
	bool new, did;
	int dir;

	dir = open_proc(pid);
	if (dir < 0)
		return;
	if (!read_stat(dir, name, &flags, &start))
		goto out;
	p = find_proc(pid);
	if (p && p->start && p->start != start) {
		/* Another process has got its PID */
		fold(p);
		p = NULL;
	}
	new = !p || !p->start;
	if (!p)
		p = new_proc(pid, name);
	if (!(flags & KTHREAD))
		copy(p->name, name, sizeof(p->name));
	p->start = start;
	p->seen = true;
	p->kthread = flags & KTHREAD;
	if (p->kthread)
		goto out;
	if (read_at(dir, "io", text, sizeof(text)) > 0) {
		if (number_of(text, "read_bytes", &value)) {
			p->now_read = value - p->read;
			p->read = value;
		}
		if (number_of(text, "write_bytes", &value)) {
			p->now_written = value - p->written;
			p->written = value;
		}
	}
	did = p->now_read || p->now_written || sum(p->now);
	/* The file "status" takes long. Idle processes change little */
	if ((new || did || (pid + round) % 8 == 0) &&
	    read_at(dir, "status", text, sizeof(text)) > 0 &&
	    number_of(text, "VmPin", &value))
		p->pinned_kb = value;
	if (did || p->pinned_kb || (p->ring_nopin && (pid + round) % 8 == 0))
		read_fds(p, dir);
out:
	close(dir);
}

/* Returns false if there are no processes to be seen */
static bool look_at_all(void)
{
	static unsigned int round;
	struct dirent *d;
	struct proc *p;
	unsigned int i;
	DIR *dir;

	for (i = 0; i < BUCKETS; i++) {
		for (p = procs[i]; p; p = p->next) {
			p->seen = false;
			p->now_read = 0;
			p->now_written = 0;
		}
	}
	dir = opendir("/proc");
	if (!dir)
		return false;
	while ((d = readdir(dir)))
		if (isdigit((unsigned char)d->d_name[0]))
			look_at(atoi(d->d_name), round);
	closedir(dir);
	round++;
	for (i = 0; i < BUCKETS; i++) {
		for (p = procs[i]; p; p = p->next) {
			if (p->seen)
				continue;
			p->pinned_kb = 0;
			p->ring_pinned = 0;
			p->ring_nopin = 0;
		}
	}
	return true;
}

static void add_counts(struct counts *to, const struct counts *from)
{
	to->waits += from->waits;
	to->us += from->us;
	if (to->max_us < from->max_us)
		to->max_us = from->max_us;
	to->vain += from->vain;
	to->refused += from->refused;
	to->pins += from->pins;
}

static struct change *change_of(struct proc *who, struct proc *whose, const char *event)
{
	struct change *c;
	unsigned int i;

	for (i = 0; i < nr_changes; i++) {
		c = &changes[i];
		if (c->who == who && c->whose == whose && !strcmp(c->event, event))
			return c;
	}
	changes = grow(changes, (nr_changes + 1) * sizeof(*changes));
	c = &changes[nr_changes++];
	memset(c, 0, sizeof(*c));
	c->who = who;
	c->whose = whose;
	copy(c->event, event, sizeof(c->event));
	return c;
}

static void replace_proc(struct proc *old, struct proc *new)
{
	unsigned int i, n = nr_changes;
	struct change c, *to;
	bool any = false;

	for (i = 0; i < n; i++)
		any |= changes[i].who == old || changes[i].whose == old;
	if (!any)
		return;
	/* Build the table anew: two lines may become one */
	nr_changes = 0;
	for (i = 0; i < n; i++) {
		c = changes[i];
		if (c.who == old)
			c.who = new;
		if (c.whose == old)
			c.whose = new;
		to = change_of(c.who, c.whose, c.event);
		to->told |= c.told;
		add_counts(&to->now, &c.now);
		add_counts(&to->total, &c.total);
	}
}

/* Forget a process that has ended. What it did counts for all of its name */
static void fold(struct proc *p)
{
	struct proc **at, *all;
	bool used = sum(p->total);
	unsigned int i;

	for (i = 0; i < nr_changes; i++)
		used |= changes[i].who == p || changes[i].whose == p;
	for (i = 0; i < nr_hits; i++)
		used |= hits[i].who == p;
	if (used) {
		for (all = *bucket(0); all; all = all->next)
			if (!all->pid && !strcmp(all->name, p->name))
				break;
		if (!all && nr_ended < MAX_ENDED) {
			all = new_proc(0, p->name);
			nr_ended++;
		}
		if (!all) {
			/* Too many names: any will do */
			all = *bucket(0);
			while (all->next && all->pid)
				all = all->next;
			copy(all->name, "(others)", sizeof(all->name));
		}
		all->ended++;
		for (i = 0; i < MAX_CAUSES; i++) {
			all->now[i] += p->now[i];
			all->total[i] += p->total[i];
			all->no_dev[i] += p->no_dev[i];
		}
		for (i = 0; i < p->nr_dev; i++)
			add_device(all, p->dev[i]);
		for (i = 0; i < nr_hits; i++)
			if (hits[i].who == p)
				hits[i].who = all;
		replace_proc(p, all);
	}
	for (at = bucket(p->pid); *at != p; at = &(*at)->next)
		;
	*at = p->next;
	free(p);
}

/* After the output */
static void fold_ended(void)
{
	struct proc *p, *next;
	unsigned int i, j;

	for (i = 0; i < BUCKETS; i++) {
		for (p = procs[i]; p; p = next) {
			next = p->next;
			memset(p->now, 0, sizeof(p->now));
			if (p->pid && !p->seen)
				fold(p);
		}
	}
	for (i = 0; i < nr_changes; i++)
		memset(&changes[i].now, 0, sizeof(changes[i].now));
	for (i = 0; i < nr_devices; i++)
		for (j = 0; j < MAX_CAUSES; j++)
			devices[i].now[j] = 0;
}

/* ------------------------------------------------------------------------------- */
/* Events */

/* The value of a field in the text of an event, up to the next blank */
static bool field(const char *text, const char *name, char *value)
{
	size_t len = strlen(name), n = 0;
	const char *p = text;

	while ((p = strstr(p, name))) {
		if ((p == text || p[-1] == ' ') && p[len] == '=') {
			for (p += len + 1; *p && *p != ' ' && n < WORD - 1; p++)
				value[n++] = *p;
			value[n] = 0;
			return true;
		}
		p += len;
	}
	return false;
}

static unsigned long number(const char *text, const char *name)
{
	char value[WORD];

	return field(text, name, value) ? strtoull(value, NULL, 0) : 0;
}

static void got_fallback(struct proc *p, const char *text)
{
	unsigned int major, minor, cause;
	char value[WORD];

	if (!field(text, "cause", value))
		return;
	cause = cause_of(value);
	p->now[cause]++;
	p->total[cause]++;
	if (field(text, "dev", value) && sscanf(value, "%u%*[,:]%u", &major, &minor) == 2) {
		unsigned int dev = device_of(major, minor);

		devices[dev].now[cause]++;
		devices[dev].total[cause]++;
		add_device(p, dev);
	} else {
		p->no_dev[cause]++;
	}
}

static struct hit *hit_of(struct proc *who, const char *event, const char *text)
{
	unsigned long start = number(text, "start"), end = number(text, "end");
	int owner = number(text, "owner");
	struct hit *h;

	for (h = hits; h < hits + nr_hits; h++)
		if (h->who == who && h->owner == owner && !strcmp(h->event, event) &&
		    start >> 21 == h->start >> 21)
			return h;
	if (nr_hits == MAX_HITS) {
		/* Where it was does not matter much any more */
		h = &hits[MAX_HITS - 1];
		h->start = 0;
		h->end = 0;
		return h;
	}
	nr_hits++;
	memset(h, 0, sizeof(*h));
	h->who = who;
	copy(h->event, event, sizeof(h->event));
	h->start = start;
	h->end = end;
	h->owner = owner;
	return h;
}

static void got_change(struct proc *who, const char *name, const char *text)
{
	struct counts counts = { 0 };
	char event[WORD];

	if (!field(text, "event", event)) {
		unsigned long start = number(text, "start");
		unsigned int i;

		/*
		 * The pins do not tell what they are for. If the task has waited for
		 * this memory before, it is for the same.
		 */
		copy(event, "-", sizeof(event));
		for (i = 0; i < nr_hits; i++)
			if (hits[i].who == who && hits[i].counts.vain &&
			    start >= hits[i].start && start < hits[i].end)
				copy(event, hits[i].event, sizeof(event));
	}
	if (!strcmp(name, "nopin_wait")) {
		size_t len = strlen(text);

		counts.waits = 1;
		counts.us = number(text, "us");
		counts.max_us = counts.us;
		counts.vain = len > 8 && !strcmp(text + len - 8, " timeout");
	} else if (!strcmp(name, "nopin_refuse")) {
		counts.refused = 1;
	} else if (!strcmp(name, "nopin_pin")) {
		counts.pins = number(text, "pins");
	} else {
		return;
	}
	add_counts(&hit_of(who, event, text)->counts, &counts);
}

/*
 * A line of trace_pipe: the name of the task in 16 columns, "-", its PID, the PID of
 * its process in brackets, the CPU, the time, ": ", the event, ": ", and its fields.
 * Returns false, with the line unchanged, if the event is later than @until.
 */
static bool got_line(char *line, double until)
{
	char name[NAME], *p, *text, *at;
	struct proc *who;
	int tid, pid = 0;
	unsigned long lost;
	double when;

	if (line[0] == 'C' && sscanf(line, "CPU:%*d [LOST %lu EVENTS]", &lost) == 1) {
		lost_now += lost;
		return true;
	}
	if (strlen(line) < 20 || line[16] != '-')
		return true;
	p = strstr(line + 17, ": nopin_");
	text = p ? strstr(p + 2, ": ") : NULL;
	if (!text)
		return true;
	for (at = p; at[-1] != ' ' && at > line; at--)
		;
	when = strtod(at, NULL);
	if (when > until)
		return false;
	if (when < watch_from)
		return true;

	line[16] = 0;
	copy(name, line + strspn(line, " "), sizeof(name));
	*text = 0;
	text += 2;
	tid = strtol(line + 17, &at, 10);
	p += 2;
	at = strchr(at, '(');
	if (at && at < p)
		pid = atoi(at + 1);

	if (pid <= 0) {
		char path[32], status[4096];
		unsigned long value;

		snprintf(path, sizeof(path), "/proc/%d/status", tid);
		pid = tid;
		if (read_at(AT_FDCWD, path, status, sizeof(status)) > 0 &&
		    number_of(status, "Tgid", &value))
			pid = value;
	}
	who = proc_of_event(pid, name);
	if (!strcmp(p, "nopin_fallback"))
		got_fallback(who, text);
	else
		got_change(who, p, text);
	return true;
}

/*
 * Take the events until @until. If there are more of them than the tool can handle, go
 * on no longer than until @end.
 */
static void drain(double until, double end)
{
	static char buf[65536];
	static size_t len;
	char *p, *eol;
	ssize_t n;

	do {
		n = read(trace_fd, buf + len, sizeof(buf) - 1 - len);
		if (n > 0)
			len += n;
		buf[len] = 0;
		for (p = buf; (eol = strchr(p, '\n')); p = eol + 1) {
			*eol = 0;
			if (got_line(p, until))
				continue;
			/* It is of the next interval */
			*eol = '\n';
			n = 0;
			break;
		}
		len -= p - buf;
		memmove(buf, p, len);
		/* No line is that long */
		if (n > 0 && len == sizeof(buf) - 1)
			len = 0;
	} while (n > 0 && now_s() < end);
}

/* ------------------------------------------------------------------------------- */
/* What the events do not tell */

/* Is any of this memory mapped in the process? */
static bool has_mapped(const struct proc *p, unsigned long start, unsigned long end)
{
	unsigned long from, to;
	char path[32], line[512];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", p->pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx", &from, &to) != 2)
			continue;
		if (from >= end)
			break;
		if (to > start) {
			found = true;
			break;
		}
	}
	fclose(f);
	return found;
}

/*
 * Whose memory did a process change? For munmap(), exit and pins at once it is its own.
 * For others it is the one process with direct I/O that has something mapped there.
 * NULL if there is none, or more than one.
 */
static struct proc *find_owner(const struct hit *h)
{
	struct proc *p, *found = NULL;
	unsigned int i;

	if (!strcmp(h->event, "unmap") || !strcmp(h->event, "release"))
		return h->who;
	if (!strcmp(h->event, "-"))
		return h->who->direct || sum(h->who->total) ? h->who : NULL;
	for (i = 0; i < BUCKETS; i++) {
		for (p = procs[i]; p; p = p->next) {
			if (!p->seen || !(p->direct || p->ring_nopin || sum(p->total)) ||
			    !has_mapped(p, h->start, h->end))
				continue;
			/* mprotect() is of the process itself */
			if (p == h->who && !strcmp(h->event, "protection-vma"))
				return p;
			if (found)
				return NULL;
			found = p;
		}
	}
	return found;
}

/* Which process, and which device, do the events of the interval concern? */
static void attribute(void)
{
	struct change *c;
	struct proc *p;
	unsigned int i, j;

	memset(&now_all, 0, sizeof(now_all));
	for (i = 0; i < nr_hits; i++) {
		struct hit *h = &hits[i];

		p = h->owner ? proc_of_event(h->owner, "-") : find_owner(h);
		c = change_of(h->who, p, h->event);
		c->told = h->owner;
		add_counts(&c->now, &h->counts);
		add_counts(&c->total, &h->counts);
		add_counts(&now_all, &h->counts);
	}
	nr_hits = 0;
	add_counts(&total_all, &now_all);

	/* A process that uses one device only has its pins there */
	for (i = 0; i < nr_devices; i++)
		devices[i].procs = 0;
	for (i = 0; i < BUCKETS; i++) {
		for (p = procs[i]; p; p = p->next) {
			struct device *dev = &devices[p->nr_dev == 1 ? p->dev[0] : 0];

			for (j = 0; j < MAX_CAUSES; j++) {
				dev->now[j] += p->no_dev[j];
				dev->total[j] += p->no_dev[j];
				p->no_dev[j] = 0;
			}
			if (p->direct && (p->now_read || p->now_written))
				for (j = 0; j < p->nr_dev; j++)
					devices[p->dev[j]].procs++;
		}
	}
}

/* ------------------------------------------------------------------------------- */
/* The screen */

static const char *text_of(const struct text *table, const char *word)
{
	for (; table->word; table++)
		if (!strcmp(table->word, word))
			return table->text;
	return word;
}

/* Bytes as on the screen: no more than ASCII, no control characters */
static const char *clean(const char *name, size_t width)
{
	static char text[2][NAME];
	static int turn;
	char *to = text[turn ^= 1];
	size_t i;

	for (i = 0; name[i] && i < width && i < NAME - 1; i++)
		to[i] = name[i] < ' ' || name[i] > '~' ? '?' : name[i];
	to[i] = 0;
	return to;
}

static const char *pid_of(const struct proc *p)
{
	static char text[2][24];
	static int turn;

	turn ^= 1;
	if (!p)
		return "-";
	if (p->pid)
		snprintf(text[turn], sizeof(text[0]), "%d", p->pid);
	else
		snprintf(text[turn], sizeof(text[0]), "%ux", p->ended);
	return text[turn];
}

/* Prints @before and the causes; nothing if there are none */
static void print_causes(const char *before, const unsigned long *value)
{
	unsigned int i;

	for (i = 0; i < nr_causes; i++) {
		if (!value[i])
			continue;
		printf("%s%s %lu", before, cause_name[i], value[i]);
		before = ", ";
	}
}

static void print_count(const char *text, int i, const char *more)
{
	if (has_counter[i])
		printf("%-30s %10lu %11lu%s", text, counter_now[i],
		       counter_total[i], more);
	else
		printf("%-30s %10s %11s%s", text, "-", "-", more);
}

static unsigned long bytes(const struct proc *p)
{
	return p->now_read + p->now_written;
}

/* Pins now first, then pins before, then I/O */
static int compare_procs(const void *a, const void *b)
{
	const struct proc *p = *(struct proc * const *)a, *q = *(struct proc * const *)b;
	const unsigned long of_p[] = { sum(p->now), p->pinned_kb, sum(p->total), bytes(p) };
	const unsigned long of_q[] = { sum(q->now), q->pinned_kb, sum(q->total), bytes(q) };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(of_p); i++)
		if (of_p[i] != of_q[i])
			return of_p[i] < of_q[i] ? 1 : -1;
	return p->pid - q->pid;
}

static unsigned long nr_of(const struct counts *c)
{
	return c->waits + c->refused + c->pins;
}

static int compare_changes(const void *a, const void *b)
{
	const struct change *c = a, *d = b;
	const unsigned long of_c[] = { nr_of(&c->now), nr_of(&c->total) };
	const unsigned long of_d[] = { nr_of(&d->now), nr_of(&d->total) };
	size_t i;

	for (i = 0; i < 2; i++)
		if (of_c[i] != of_d[i])
			return of_c[i] < of_d[i] ? 1 : -1;
	return 0;
}

/* All processes with direct I/O or pins, in the order of the screen */
static struct proc **list_procs(unsigned int *nr)
{
	struct proc *p, **list = NULL;
	unsigned int i;

	*nr = 0;
	for (i = 0; i < BUCKETS; i++) {
		for (p = procs[i]; p; p = p->next) {
			if (!(p->direct && bytes(p)) && !sum(p->total) && !p->pinned_kb &&
			    !p->ring_nopin)
				continue;
			list = grow(list, (*nr + 1) * sizeof(*list));
			list[(*nr)++] = p;
		}
	}
	if (*nr)
		qsort(list, *nr, sizeof(*list), compare_procs);
	return list;
}

static bool all_pinned(const struct proc *p)
{
	return p->direct && bytes(p) && !strcmp(direct_io, "pin");
}

static const char *devices_of(const struct proc *p)
{
	static char text[MAX_OF_PROC * (NAME + 1)];
	unsigned int i;

	copy(text, p->nr_dev ? "" : "-", sizeof(text));
	for (i = 0; i < p->nr_dev; i++) {
		if (i)
			strcat(text, ",");
		strcat(text, devices[p->dev[i]].name);
	}
	return text;
}

static void print_proc(const struct proc *p, double seconds)
{
	const char *sep = "";

	printf("%7s %-15.15s %-12.12s", pid_of(p), clean(p->name, 15), devices_of(p));
	if (p->pid && p->seen)
		printf(" %8.1f", bytes(p) / 1e6 / seconds);
	else
		printf(" %8s", "-");
	if (all_pinned(p))
		printf(" %8s", "all");
	else
		printf(" %8lu", sum(p->now));
	printf(" %8lu  ", sum(p->total));
	if (all_pinned(p)) {
		printf("direct_io is pin");
		sep = "; ";
	}
	if (sum(p->total)) {
		print_causes(sep, p->total);
		sep = "; ";
	}
	if (p->ring_pinned) {
		printf("%s%.1f MiB registered with io_uring", sep,
		       p->ring_pinned / 1048576.0);
		sep = "; ";
	} else if (p->pinned_kb) {
		/* RDMA for example */
		printf("%s%.1f MiB pinned for long", sep, p->pinned_kb / 1024.0);
		sep = "; ";
	}
	if (!sep[0])
		printf("does not pin");
	printf("\n");
}

static void print_change(const struct change *c)
{
	const struct counts *t = &c->total;

	printf("%7s %-15.15s %-16.16s %7s %-15.15s", pid_of(c->who), clean(c->who->name, 15),
	       text_of(event_text, c->event), pid_of(c->whose),
	       c->whose ? clean(c->whose->name, 15) : "");
	printf(" %6lu", t->waits);
	if (t->waits)
		printf(" %6.1f %6.1f", t->us / 1e3 / t->waits, t->max_us / 1e3);
	else
		printf(" %6s %6s", "-", "-");
	printf(" %5lu %7lu %5lu\n", t->vain, t->refused, t->pins);
}

/* How many lines the terminal has; 0 if the output is no terminal */
static unsigned int lines(void)
{
	struct winsize size;

	if (!isatty(STDOUT_FILENO))
		return 0;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || size.ws_row < 1)
		return 24;
	return size.ws_row;
}

static void print_more(unsigned int nr, unsigned int max)
{
	if (nr > max)
		printf("%7s and %u more\n", "", nr - max);
}

static void print_counters(double seconds)
{
	printf("%-30s %8.1f s %11s\n", "", seconds, "total");
	print_count("bios without pins", BIO, "\n");
	print_count("bios pinned all the same", FALLBACK, "");
	print_causes("  ", fallback_now);
	printf("\n");
	print_count("changes that waited for I/O", WAIT, "");
	if (total_all.waits)
		printf("  total: %.1f ms on average, %.1f ms at most, %lu in vain",
		       total_all.us / 1e3 / total_all.waits, total_all.max_us / 1e3,
		       total_all.vain);
	printf("\n");
	print_count("changes refused for I/O", REFUSE, "\n");
	print_count("pages pinned for a change", PINNED, "\n");
	print_count("pins taken, by anybody", ACQUIRED, "");
	if (has_counter[ACQUIRED] && counter[ACQUIRED] >= counter[RELEASED])
		printf("  %lu are held now", counter[ACQUIRED] - counter[RELEASED]);
	printf("\n");
	if (lost_total)
		printf("%-30s %10lu %11lu  the tables lack these\n",
		       "events lost", lost_now, lost_total);
}

static void print_procs(double seconds, unsigned int max)
{
	struct proc **list;
	unsigned int nr, i;

	list = list_procs(&nr);
	printf("\nWHO DOES DIRECT I/O, AND WHO PINS FOR IT\n");
	printf("%7s %-15s %-12s %8s %8s %8s  %s\n", "PID", "COMMAND", "DEVICE", "MB/s",
	       "PINNED", "TOTAL", "WHY, IN TOTAL");
	for (i = 0; i < nr && i < max; i++)
		print_proc(list[i], seconds);
	print_more(nr, max);
	if (!nr)
		printf("%7s nobody\n", "");
	free(list);
}

static void print_devices(unsigned int max)
{
	unsigned int i, n = 0;

	printf("\n%7s %-15s %-12s %8s %8s %8s  %s\n", "", "BY DEVICE", "", "USERS", "PINNED",
	       "TOTAL", "WHY, IN TOTAL");
	for (i = 0; i < nr_devices; i++) {
		const struct device *dev = &devices[i];

		if ((!dev->procs && !sum(dev->total)) || n++ >= max)
			continue;
		printf("%7s %-15.15s %-12s %8u %8lu %8lu", "", i ? dev->name : "not known", "",
		       dev->procs, sum(dev->now), sum(dev->total));
		print_causes("  ", dev->total);
		printf("\n");
	}
	print_more(n, max);
}

static void print_changes(unsigned int max)
{
	unsigned int i;

	if (nr_changes)
		qsort(changes, nr_changes, sizeof(*changes), compare_changes);
	printf("\nWHO CHANGED MAPPINGS UNDER I/O, AND WHOSE I/O IT WAS, IN TOTAL; WAITS IN MS\n");
	printf("%7s %-15s %-16s %7s %-15s %6s %6s %6s %5s %7s %5s\n", "PID", "COMMAND", "CHANGE",
	       "PID", "I/O OF", "WAITS", "MEAN", "MAX", "VAIN", "REFUSED", "PINS");
	for (i = 0; i < nr_changes && i < max; i++)
		print_change(&changes[i]);
	print_more(nr_changes, max);
	if (!nr_changes)
		printf("%7s nobody\n", "");
}

/* What the causes on the screen mean */
static void explain_causes(void)
{
	const char *before = "\n";
	unsigned int i, cause;
	unsigned long total;

	for (cause = 0; cause < nr_causes; cause++) {
		total = 0;
		for (i = 0; i < nr_devices; i++)
			total += devices[i].total[cause];
		if (!total)
			continue;
		printf("%s%s: %s\n", before, cause_name[cause],
		       text_of(cause_text, cause_name[cause]));
		before = "";
	}
}

static void print_screen(double seconds)
{
	unsigned int rows = lines(), max = ROWS;
	/* A small terminal has room for two tables only */
	bool all = !rows || rows >= 40;
	time_t t = time(NULL);
	char when[32];

	/* Tables share what their titles and the counters leave. The last line is free */
	if (rows && all)
		max = (rows - 32) / 3;
	else if (rows)
		max = rows > 22 ? (rows - 20) / 2 : 1;
	strftime(when, sizeof(when), "%H:%M:%S", localtime(&t));
	/* Clear the terminal, and cut lines that are too long for it */
	if (rows)
		printf("\033[H\033[J\033[?7l");
	printf("nopin-stat at %s            direct_io: %s, io_uring: %s\n\n", when, direct_io,
	       io_uring);
	print_counters(seconds);
	print_procs(seconds, max);
	if (all)
		print_devices(max);
	print_changes(max);
	if (all)
		explain_causes();
	printf("%s", rows ? "\033[?7h" : "\n");
}

/* ------------------------------------------------------------------------------- */
/* JSON */

static void json_string(const char *text)
{
	const unsigned char *p;

	putchar('"');
	for (p = (const unsigned char *)text; *p; p++) {
		/* A name may be any bytes: take them for Latin-1 */
		if (*p < ' ' || *p > '~')
			printf("\\u%04x", *p);
		else if (*p == '"' || *p == '\\')
			printf("\\%c", *p);
		else
			putchar(*p);
	}
	putchar('"');
}

static void json_key(const char *before, const char *name)
{
	printf("%s", before);
	json_string(name);
	printf(":");
}

static void json_causes(const char *name, const unsigned long *value, bool all)
{
	const char *comma = "";
	unsigned int i;

	json_key(",", name);
	printf("{");
	for (i = 0; i < nr_causes; i++) {
		if (!value[i] && !all)
			continue;
		json_key(comma, cause_name[i]);
		printf("%lu", value[i]);
		comma = ",";
	}
	printf("}");
}

static void json_proc(const struct proc *p)
{
	unsigned int i;

	printf("{\"pid\":%d,\"command\":", p->pid);
	json_string(p->name);
	printf(",\"ended\":%s,\"devices\":[", p->seen ? "false" : "true");
	for (i = 0; i < p->nr_dev; i++) {
		printf("%s", i ? "," : "");
		json_string(devices[p->dev[i]].name);
	}
	printf("],\"read_bytes\":%lu,\"written_bytes\":%lu", p->now_read,
	       p->now_written);
	printf(",\"all_pinned\":%s,\"pinned_bios\":", all_pinned(p) ? "true" : "false");
	if (all_pinned(p))
		printf("null");
	else
		printf("%lu", sum(p->now));
	json_causes("causes", p->now, false);
	printf(",\"registered_pinned_bytes\":%lu,\"registered_nopin_bytes\":%lu",
	       p->ring_pinned, p->ring_nopin);
	printf(",\"long_pinned_bytes\":%lu}", p->pinned_kb << 10);
}

static void json_change(const struct change *c)
{
	const struct counts *n = &c->now;

	printf("{\"pid\":%d,\"command\":", c->who->pid);
	json_string(c->who->name);
	printf(",\"change\":");
	if (strcmp(c->event, "-"))
		json_string(c->event);
	else
		printf("null");
	printf(",\"owner_pid\":");
	if (c->whose) {
		printf("%d,\"owner_command\":", c->whose->pid);
		json_string(c->whose->name);
	} else {
		printf("null,\"owner_command\":null");
	}
	printf(",\"owner_inferred\":%s", c->whose && !c->told ? "true" : "false");
	printf(",\"waits\":%lu,\"wait_us\":%lu,\"longest_wait_us\":%lu",
	       n->waits, n->us, n->max_us);
	printf(",\"waits_in_vain\":%lu,\"refused\":%lu,\"pages_pinned\":%lu}",
	       n->vain, n->refused, n->pins);
}

static void print_json(double seconds)
{
	const char *comma;
	struct timespec ts;
	struct proc **list;
	unsigned int i, nr;

	clock_gettime(CLOCK_REALTIME, &ts);
	printf("{\"time\":%lld.%03ld,\"seconds\":%.3f,\"direct_io\":", (long long)ts.tv_sec,
	       ts.tv_nsec / 1000000, seconds);
	json_string(direct_io);
	json_key(",", "io_uring");
	json_string(io_uring);
	json_key(",", "counters");
	printf("{");
	for (i = 0; i < NR_COUNTERS; i++) {
		json_key(i ? "," : "", counter_name[i]);
		if (has_counter[i])
			printf("%lu", counter_now[i]);
		else
			printf("null");
	}
	printf("}");
	json_causes("fallback", fallback_now, true);
	json_key(",", "pins_held");
	if (has_counter[ACQUIRED])
		printf("%ld", (long)(counter[ACQUIRED] - counter[RELEASED]));
	else
		printf("null");
	printf(",\"lost_events\":%lu", lost_now);

	comma = "";
	json_key(",", "processes");
	printf("[");
	list = list_procs(&nr);
	for (i = 0; i < nr; i++) {
		const struct proc *p = list[i];

		if (!(p->direct && bytes(p)) && !sum(p->now) && !p->pinned_kb && !p->ring_nopin)
			continue;
		printf("%s", comma);
		json_proc(p);
		comma = ",";
	}
	free(list);
	printf("]");

	comma = "";
	json_key(",", "devices");
	printf("[");
	for (i = 0; i < nr_devices; i++) {
		const struct device *dev = &devices[i];

		if (!dev->procs && !sum(dev->now))
			continue;
		printf("%s{\"device\":", comma);
		if (i)
			json_string(dev->name);
		else
			printf("null");
		printf(",\"processes\":%u,\"pinned_bios\":%lu", dev->procs, sum(dev->now));
		json_causes("causes", dev->now, false);
		printf("}");
		comma = ",";
	}
	printf("]");

	comma = "";
	json_key(",", "changes");
	printf("[");
	for (i = 0; i < nr_changes; i++) {
		if (!nr_of(&changes[i].now))
			continue;
		printf("%s", comma);
		json_change(&changes[i]);
		comma = ",";
	}
	printf("]}\n");
}

/* ------------------------------------------------------------------------------- */
/* Start and end */

static void remove_instance(void)
{
	if (trace_fd >= 0)
		close(trace_fd);
	trace_fd = -1;
	if (instance[0] && rmdir(instance) && errno != ENOENT)
		warnx("cannot remove %s: %s", instance, strerror(errno));
	instance[0] = 0;
}

/* Those of nopin-stats that were killed */
static void remove_stale(const char *instances)
{
	char path[PATH_MAX + 300];
	struct dirent *d;
	DIR *dir;
	int pid;

	dir = opendir(instances);
	while (dir && (d = readdir(dir))) {
		if (sscanf(d->d_name, INSTANCE ".%d", &pid) != 1)
			continue;
		if (pid != getpid() && (!kill(pid, 0) || errno != ESRCH))
			continue;
		snprintf(path, sizeof(path), "%s/%s", instances, d->d_name);
		rmdir(path);
	}
	if (dir)
		closedir(dir);
}

static bool find_tracefs(void)
{
	static const char * const at[] = { "/sys/kernel/tracing", "/sys/kernel/debug/tracing" };
	char path[96], text[4096];
	size_t i;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/instances", at[i]);
		if (!access(path, F_OK)) {
			copy(tracefs, at[i], sizeof(tracefs));
			return true;
		}
	}
	if (read_at(AT_FDCWD, "/proc/filesystems", text, sizeof(text)) >= 0 &&
	    !strstr(text, "tracefs"))
		warnx("this kernel has no tracefs. Build it with CONFIG_FTRACE=y.");
	else
		warnx("tracefs is not mounted. Mount it: mount -t tracefs nodev %s", at[0]);
	return false;
}

static bool make_instance(void)
{
	static const char * const event[] = { "fallback", "wait", "refuse", "pin" };
	char path[PATH_MAX];
	size_t i;

	snprintf(path, sizeof(path), "%s/events/nopin", tracefs);
	if (access(path, F_OK)) {
		if (errno == ENOENT)
			warnx("this kernel has no events/nopin. Build it with CONFIG_FTRACE=y.");
		else
			warnx("%s: %s", path, strerror(errno));
		return false;
	}
	snprintf(path, sizeof(path), "%s/instances", tracefs);
	remove_stale(path);
	snprintf(instance, sizeof(instance), "%s/instances/" INSTANCE ".%d", tracefs, getpid());
	if (mkdir(instance, 0700)) {
		const char *hint = "";

		if (errno == ENOMEM)
			hint = " It takes 1.4 MB per CPU.";
		else if (errno == EPERM)
			hint = " See /sys/kernel/security/lockdown: it may forbid that.";
		warnx("cannot make %s: %s.%s", instance, strerror(errno), hint);
		instance[0] = 0;
		return false;
	}
	write_file(instance, "buffer_size_kb", BUFFER_KB);
	/* That of CLOCK_MONOTONIC */
	if (!write_file(instance, "trace_clock", "mono")) {
		warnx("%s/trace_clock: %s", instance, strerror(errno));
		return false;
	}
	/* Lines have the PID of the process besides that of the thread */
	write_file(instance, "options/record-tgid", "1");
	write_file(instance, "options/irq-info", "0");
	snprintf(path, sizeof(path), "%s/trace_pipe", instance);
	trace_fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (trace_fd < 0) {
		warnx("%s: %s", path, strerror(errno));
		return false;
	}
	for (i = 0; i < ARRAY_SIZE(event); i++) {
		snprintf(path, sizeof(path), "events/nopin/nopin_%s/enable", event[i]);
		if (write_file(instance, path, "1"))
			continue;
		warnx("cannot enable %s: %s", path, strerror(errno));
		return false;
	}
	return true;
}

static bool can_run(void)
{
	struct utsname name;

	if (geteuid()) {
		warnx("only root may read tracepoints and what other processes do. Use sudo.");
		return false;
	}
	if (access(SYSFS, F_OK)) {
		uname(&name);
		warnx("the kernel %s does not have nopin: there is no %s.", name.release, SYSFS);
		warnx("Boot a kernel that is built with CONFIG_NOPIN=y.");
		return false;
	}
	return find_tracefs();
}

/* These are taken by sigtimedwait() */
static void catch_signals(void)
{
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SIGQUIT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	/* The write fails then */
	signal(SIGPIPE, SIG_IGN);
}

static void print_usage(FILE *f)
{
	fprintf(f,
		"usage: nopin-stat [-i SECONDS] [-n COUNT] [-1] [-j]\n"
		"\n"
		"Shows who still pins pages for direct I/O, and why. Shows who changes mappings\n"
		"of memory that direct I/O uses, whose I/O that is, and how long the changes wait.\n"
		"\n"
		"  -i, --interval SECONDS  time between two screens: 0.1 to 3600 (1)\n"
		"  -n, --count COUNT       end after so many screens\n"
		"  -1, --once              end after one screen, as -n 1\n"
		"  -j, --json              print one JSON object per interval instead of a screen.\n"
		"                          All in it is of the interval, nothing is in total\n"
		"  -h, --help              print this\n"
		"\n"
		"PINNED, of a process or device: so many bios were pinned in the interval. TOTAL is\n"
		"since nopin-stat began. A large read or write is several bios.\n"
		"WHY: the causes, as in " SYSFS "/fallback/.\n"
		"VAIN: the I/O had not ended when the wait did. PINS: the kernel pinned so many\n"
		"pages so that the change could take place. MEAN, MAX: how long a change waited.\n"
		"A PID like 3x: three processes of this name have ended.\n"
		"\n"
		"The kernel does not tell the device, nor the owner of the memory. The tool looks\n"
		"which files a process has opened with O_DIRECT, and where such processes have\n"
		"memory. It prints '-' where that leaves a doubt.\n"
		"\n"
		"Needs root, tracefs, and a kernel with CONFIG_NOPIN=y. A signal such as Ctrl-C\n"
		"ends it after one more screen.\n");
}

/* A number in the whole of @text, from @min to @max */
static double option(char opt, const char *text, double min, double max)
{
	char *end;
	double value;

	value = strtod(text, &end);
	if (end == text || *end || !(value >= min && value <= max)) {
		warnx("-%c: '%s' is not a number from %g to %g, see --help", opt, text, min, max);
		exit(2);
	}
	return value;
}

/* Returns the number of screens, 0 for no limit */
static unsigned long parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "interval",	required_argument,	NULL, 'i' },
		{ "count",	required_argument,	NULL, 'n' },
		{ "once",	no_argument,		NULL, '1' },
		{ "json",	no_argument,		NULL, 'j' },
		{ "help",	no_argument,		NULL, 'h' },
		{ 0 }
	};
	unsigned long count = 0;
	int opt;

	while ((opt = getopt_long(argc, argv, "i:n:1jh", options, NULL)) != -1) {
		switch (opt) {
		case 'i':
			interval = option('i', optarg, 0.1, 3600);
			break;
		case 'n':
			count = option('n', optarg, 1, 1e9);
			break;
		case '1':
			count = 1;
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			print_usage(stdout);
			exit(0);
		default:
			fprintf(stderr, "See nopin-stat --help.\n");
			exit(2);
		}
	}
	if (optind < argc) {
		warnx("what is '%s'? See --help.", argv[optind]);
		exit(2);
	}
	return count;
}

/* Returns whether the output could be written */
static bool show(double seconds)
{
	lost_total += lost_now;
	attribute();
	if (json)
		print_json(seconds);
	else
		print_screen(seconds);
	lost_now = 0;
	fold_ended();
	return !fflush(stdout) && !ferror(stdout);
}

static bool run(unsigned long count)
{
	double began, next, now;

	if (!look_at_all()) {
		warnx("/proc: %s", strerror(errno));
		return false;
	}
	began = now_s();
	watch_from = began;
	read_counters();
	memset(counter_total, 0, sizeof(counter_total));
	next = began + interval;
	while (!stop) {
		while (!stop && (now = now_s()) < next) {
			double pause = next - now < POLL_MS / 1e3 ? next - now : POLL_MS / 1e3;
			struct timespec ts = { .tv_nsec = pause * 1e9 };

			stop = sigtimedwait(&signals, NULL, &ts) > 0;
			drain(next, next);
		}
		now = now_s();
		read_counters();
		read_settings();
		drain(now, now + interval);
		look_at_all();
		if (!show(now - began))
			return false;
		if (count && !--count)
			break;
		began = now;
		next += interval;
		/* The machine may be too busy, or has slept */
		if (next < now)
			next = now + interval;
	}
	return true;
}

int main(int argc, char **argv)
{
	unsigned long count = parse(argc, argv);
	bool ok;

	if (!can_run())
		return 1;
	catch_signals();
	/* A screen comes at once */
	setvbuf(stdout, NULL, _IOFBF, 65536);
	ok = make_instance() && run(count);
	remove_instance();
	return ok ? 0 : 1;
}
