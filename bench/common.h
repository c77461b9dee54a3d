/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs of bench/demo that check data and move pages share: a disk
 * whose sectors tell where they are, and pages on NUMA nodes.
 */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <err.h>
#include <linux/mempolicy.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096
#define SECTOR		512
#define DISK		(8UL << 20)	/* what is used of the disk */
#define BATCH		16

static inline uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000ULL + ts.tv_nsec / 1000;
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

#endif
