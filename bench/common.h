/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs share: a disk whose sectors tell where they are, a disk that
 * is slow on purpose, pages on NUMA nodes, and times and counters as JSON.
 */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/mempolicy.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096
#define SECTOR		512
#define DISK		(8UL << 20)	/* what is used of the disk */
#define BATCH		16

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static inline uint64_t now_us(void)
{
	return now_ns() / 1000;
}

static inline void sleep_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

	nanosleep(&ts, NULL);
}

static inline char *map_pages(size_t len)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

/* Every sector of the disk begins with its own offset */
static inline void write_disk(int fd)
{
	size_t len = 1UL << 20, off, i;
	char *buf = map_pages(len);
	uint64_t *p = (uint64_t *)buf;

	for (off = 0; off < DISK; off += len) {
		for (i = 0; i < len; i += SECTOR)
			p[i / 8] = ~(off + i);
		if (pwrite(fd, p, len, off) != (ssize_t)len)
			err(1, "write");
	}
	munmap(buf, len);
}

/* What is left of the last read must not look right */
static inline void clear_sectors(char *buf, size_t len)
{
	uint64_t *p = (uint64_t *)buf;
	size_t i;

	for (i = 0; i < len; i += SECTOR)
		p[i / 8] = 0;
}

static inline bool sectors_right(const char *buf, size_t len, uint64_t off)
{
	const uint64_t *p = (const uint64_t *)buf;
	size_t i;

	for (i = 0; i < len; i += SECTOR)
		if (p[i / 8] != ~(off + i))
			return false;
	return true;
}

/*
 * In small batches: the more pages are on their way at a time, the longer are
 * those held up who read into them, and the more reads end with no successor.
 */
static inline void move_pages_to(void **page, int nr, int node)
{
	int nodes[BATCH], status[BATCH], i, n;

	for (i = 0; i < BATCH; i++)
		nodes[i] = node;
	for (i = 0; i < nr; i += n) {
		n = nr - i < BATCH ? nr - i : BATCH;
		/* A positive result is the number of pages that stayed */
		if (syscall(SYS_move_pages, 0, (unsigned long)n, page + i,
			    nodes, status, MPOL_MF_MOVE) < 0)
			err(1, "move_pages");
	}
}

static inline int pages_on(void **page, int nr, int node)
{
	int status[BATCH], i, j, n, sum = 0;

	for (i = 0; i < nr; i += n) {
		n = nr - i < BATCH ? nr - i : BATCH;
		if (syscall(SYS_move_pages, 0, (unsigned long)n, page + i, NULL,
			    status, 0) < 0)
			err(1, "move_pages");
		for (j = 0; j < n; j++)
			sum += status[j] == node;
	}
	return sum;
}

/*
 * Whoever moves pages that are in use waits for the I/O, but not for long: try
 * again, as long as there was any success within three seconds. How many have
 * moved.
 */
static inline int move_all_to(void **page, int nr, int node)
{
	uint64_t since = now_us();
	int moved = 0, before;

	do {
		before = moved;
		move_pages_to(page, nr, node);
		moved = pages_on(page, nr, node);
		if (moved > before)
			since = now_us();
	} while (moved < nr && now_us() - since < 3000000);
	return moved;
}

/* Does the disk give back what write_disk() wrote? null_blk may not. */
static inline bool disk_keeps(int fd)
{
	char *buf = map_pages(PAGE);
	bool right;

	if (pread(fd, buf, PAGE, DISK - PAGE) != PAGE)
		err(1, "read");
	right = sectors_right(buf, PAGE, DISK - PAGE);
	munmap(buf, PAGE);
	return right;
}

__attribute__((format(printf, 2, 3)))
static inline int write_file(const char *path, const char *fmt, ...)
{
	char text[64];
	va_list args;
	int fd, len;
	ssize_t ret;

	va_start(args, fmt);
	len = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -1;
	ret = write(fd, text, len);
	close(fd);
	return ret == len ? 0 : -1;
}

/* Without pins: what has been looked up of some memory is looked up again */
static inline void forget(char *p, size_t len)
{
	if (mprotect(p, len, PROT_READ) || mprotect(p, len, PROT_READ | PROT_WRITE))
		err(1, "mprotect");
	write_file("/proc/sys/vm/drop_caches", "2");
}

/* The null_blk devices that this process has created, to be removed by it */
static char nullb[4][64];
static int nullbs;
static pid_t nullb_owner;

static inline void remove_nullb(void)
{
	char path[128];

	while (getpid() == nullb_owner && nullbs) {
		nullbs--;
		snprintf(path, sizeof(path), "%s/power", nullb[nullbs]);
		write_file(path, "0");
		rmdir(nullb[nullbs]);
	}
}

/*
 * A null_blk, of which each request takes that many nanoseconds, whether there
 * are others or not. 0: it ends at once. Keeps data. Returns -1 if there can be
 * none.
 */
static inline int open_nullb(uint64_t ns)
{
	static const char config[] = "/sys/kernel/config/nullb";
	static const char * const set[] = {
		"size=64", "queue_mode=2", "hw_queue_depth=256", "memory_backed=1",
	};
	char *dir = nullb[nullbs], path[128];
	unsigned int i;

	if (nullbs == 4)
		errx(1, "too many disks");
	snprintf(dir, sizeof(nullb[0]), "%s/bench%d-%d", config, getpid(),
		 nullbs);
	if (mkdir(dir, 0700))
		return -1;
	if (!nullbs++) {
		nullb_owner = getpid();
		atexit(remove_nullb);
	}
	for (i = 0; i < sizeof(set) / sizeof(set[0]); i++) {
		const char *value = strchr(set[i], '=') + 1;

		snprintf(path, sizeof(path), "%s/%.*s", dir,
			 (int)(value - set[i] - 1), set[i]);
		if (write_file(path, "%s", value))
			err(1, "%s", path);
	}
	snprintf(path, sizeof(path), "%s/irqmode", dir);
	if (write_file(path, ns ? "2" : "0"))
		err(1, "%s", path);
	snprintf(path, sizeof(path), "%s/completion_nsec", dir);
	if (ns && write_file(path, "%lu", ns))
		err(1, "%s", path);
	snprintf(path, sizeof(path), "%s/power", dir);
	if (write_file(path, "1"))
		err(1, "%s", path);
	snprintf(path, sizeof(path), "/dev/%s", dir + sizeof(config));
	return open(path, O_RDWR | O_DIRECT);
}

/* A path, or slow:NS */
static inline int open_disk(const char *name)
{
	static const char slow[] = "slow:";
	int fd;

	if (strncmp(name, slow, strlen(slow)))
		fd = open(name, O_RDWR | O_DIRECT);
	else
		fd = open_nullb(strtoull(name + strlen(slow), NULL, 0));
	if (fd < 0)
		err(1, "%s", name);
	return fd;
}

static inline int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* As JSON; sorts them */
static inline void print_times(uint64_t *ns, size_t nr)
{
	qsort(ns, nr, sizeof(*ns), compare_u64);
	printf("{\"median\": %lu, \"min\": %lu, \"max\": %lu, \"n\": %zu}",
	       ns[nr / 2], ns[0], ns[nr - 1], nr);
}

static inline void print_no_times(const char *reason)
{
	printf("{\"median\": null, \"reason\": \"%s\"}", reason);
}

static const char * const counter_name[] = {
	"nr_foll_pin_acquired", "nr_foll_pin_released", "nopin_bio",
	"nopin_fallback", "nopin_invalidate", "nopin_wait", "nopin_refuse",
	"nopin_revalidate", "nopin_pinned",
	/* of nopin_fallback, why */
	"fallback/first", "fallback/busy", "fallback/race", "fallback/nowait",
	"fallback/invalid",
};

#define COUNTERS	(sizeof(counter_name) / sizeof(counter_name[0]))

/* -1: this kernel has none of that name */
struct counters {
	long value[COUNTERS];
};

static inline void read_counters(struct counters *counters)
{
	char line[128], name[64];
	unsigned int i;
	long value;
	FILE *f;
	int fd;

	/* Some are kept per CPU: this sums them up */
	fd = open("/proc/sys/vm/stat_refresh", O_RDONLY);
	if (fd < 0 || read(fd, line, sizeof(line)) < 0)
		err(1, "/proc/sys/vm/stat_refresh");
	close(fd);
	for (i = 0; i < COUNTERS; i++) {
		counters->value[i] = -1;
		snprintf(line, sizeof(line), "/sys/kernel/mm/nopin/%s",
			 counter_name[i]);
		f = fopen(line, "r");
		if (!f)
			continue;
		if (fscanf(f, "%ld", &counters->value[i]) != 1)
			errx(1, "%s: no number", line);
		fclose(f);
	}
	f = fopen("/proc/vmstat", "r");
	if (!f)
		err(1, "/proc/vmstat");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%63s %ld", name, &value) != 2)
			continue;
		for (i = 0; i < COUNTERS; i++)
			if (!strcmp(name, counter_name[i]))
				counters->value[i] = value;
	}
	fclose(f);
}

/* What has happened since, as JSON */
static inline void print_counters(const struct counters *before)
{
	struct counters now;
	unsigned int i;

	read_counters(&now);
	printf("{");
	for (i = 0; i < COUNTERS; i++) {
		printf("%s\"%s\": ", i ? ", " : "", counter_name[i]);
		if (now.value[i] < 0)
			printf("null");
		else
			printf("%ld", now.value[i] - before->value[i]);
	}
	printf("}");
}

/* xorshift64: the same in every run */
static inline uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline aio_context_t aio_open(unsigned int nr)
{
	aio_context_t ctx = 0;

	if (syscall(SYS_io_setup, nr, &ctx))
		err(1, "io_setup");
	return ctx;
}

static inline void aio_read(aio_context_t ctx, struct iocb *cb, int fd,
			    void *buf, size_t len, uint64_t pos)
{
	cb->aio_lio_opcode = IOCB_CMD_PREAD;
	cb->aio_fildes = fd;
	cb->aio_buf = (uintptr_t)buf;
	cb->aio_nbytes = len;
	cb->aio_offset = pos;
	if (syscall(SYS_io_submit, ctx, 1, &cb) != 1)
		err(1, "io_submit");
}

/* At least @min of them, at most @max */
static inline long aio_wait(aio_context_t ctx, long min, long max,
			    struct io_event *ev)
{
	struct timespec none = { 0 };
	long n;

	do {
		n = syscall(SYS_io_getevents, ctx, min, max, ev,
			    min ? NULL : &none);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		err(1, "io_getevents");
	return n;
}

/*
 * A control group for this process and its children, which tells how much memory
 * the kernel uses for them
 */
#define CGROUP		"/sys/fs/cgroup"

static char group[64];
static pid_t group_owner;

static inline void leave_group(void)
{
	if (getpid() != group_owner)
		return;
	write_file(CGROUP "/cgroup.procs", "0");
	rmdir(group);
}

static inline void enter_group(void)
{
	char path[96];

	if (access(CGROUP "/cgroup.procs", W_OK) &&
	    mount("cgroup2", CGROUP, "cgroup2", 0, NULL))
		err(1, "mount " CGROUP);
	if (write_file(CGROUP "/cgroup.subtree_control", "+memory"))
		err(1, "no memory controller in " CGROUP);
	group_owner = getpid();
	snprintf(group, sizeof(group), CGROUP "/bench%d", group_owner);
	if (mkdir(group, 0700))
		err(1, "%s", group);
	atexit(leave_group);
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	if (write_file(path, "0"))
		err(1, "%s", path);
}

/* In bytes */
struct kernel_memory {
	long kernel;		/* of the group, all of it but page tables */
	long slab;		/* of the group */
	long all_slab;		/* of the system, parts of pages that are free too */
};

static inline struct kernel_memory kernel_memory(void)
{
	struct kernel_memory m = { 0 };
	char line[128], name[64];
	long value;
	FILE *f;

	/* RCU frees late, and what CPUs have counted is summed up every 2 s */
	sleep_ms(2500);
	snprintf(line, sizeof(line), "%s/memory.stat", group);
	f = fopen(line, "r");
	if (!f)
		err(1, "%s", line);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%63s %ld", name, &value) != 2)
			continue;
		if (!strcmp(name, "kernel"))
			m.kernel += value;
		else if (!strcmp(name, "pagetables"))
			m.kernel -= value;
		else if (!strcmp(name, "slab"))
			m.slab = value;
	}
	fclose(f);
	f = fopen("/proc/meminfo", "r");
	if (!f)
		err(1, "/proc/meminfo");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Slab: %ld", &value) == 1)
			m.all_slab = value * 1024;
	fclose(f);
	return m;
}

/* As far as there is something to reclaim */
static inline void reclaim_group(size_t len)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/memory.reclaim", group);
	if (access(path, W_OK))
		err(1, "%s", path);
	write_file(path, "%zu", len);
}

/* In KiB, of the memory of this process */
static inline unsigned long huge_pages(void)
{
	unsigned long kib = 0, n;
	char line[256];
	FILE *f;

	f = fopen("/proc/self/smaps", "r");
	if (!f)
		err(1, "/proc/self/smaps");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "AnonHugePages: %lu", &n) == 1)
			kib += n;
	fclose(f);
	return kib;
}

#endif
