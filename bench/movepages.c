// SPDX-License-Identifier: GPL-2.0
/*
 * Move the pages of a buffer to another NUMA node while a disk writes to them.
 *
 * A thread keeps reads in flight, one per slot of the buffer, and compares what
 * was read with what is on the disk. Meanwhile move_pages() is asked, once for
 * each page, to move the buffer. Prints one line of JSON.
 *
 * The first 8 MiB of the disk are overwritten.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096
#define SECTOR		512
#define SLOT_PAGES	4
#define SLOT		(SLOT_PAGES * PAGE)
#define SLOTS		64
#define PAGES		(SLOTS * SLOT_PAGES)
#define BATCH		16
#define DISK		(8UL << 20)

static int fd;
static char *buf;
static atomic_bool stop;
static atomic_uint in_flight;
static atomic_ulong reads, wrong;

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000ULL + ts.tv_nsec / 1000;
}

static void sleep_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

	nanosleep(&ts, NULL);
}

/* Every sector of the disk begins with its own offset */
static void write_disk(void)
{
	size_t len = 1UL << 20, off, i;
	uint64_t *p;

	p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		err(1, "mmap");
	for (off = 0; off < DISK; off += len) {
		for (i = 0; i < len; i += SECTOR)
			p[i / 8] = ~(off + i);
		if (pwrite(fd, p, len, off) != (ssize_t)len)
			err(1, "write");
	}
	munmap(p, len);
}

static bool slot_right(const struct iocb *cb)
{
	const uint64_t *p = (const uint64_t *)(uintptr_t)cb->aio_buf;
	size_t i;

	for (i = 0; i < SLOT; i += SECTOR)
		if (p[i / 8] != ~(uint64_t)(cb->aio_offset + i))
			return false;
	return true;
}

static void submit(aio_context_t ctx, struct iocb *cb)
{
	uint64_t *p = (uint64_t *)(uintptr_t)cb->aio_buf;
	size_t i;

	/* What is left of the last read must not look right */
	for (i = 0; i < SLOT; i += SECTOR)
		p[i / 8] = 0;
	cb->aio_offset = random() % (DISK / SLOT) * SLOT;
	if (syscall(SYS_io_submit, ctx, 1, &cb) != 1)
		err(1, "io_submit");
	atomic_fetch_add(&in_flight, 1);
}

static void *reader(void *arg)
{
	static struct iocb cb[SLOTS];
	struct io_event ev[SLOTS];
	aio_context_t ctx = 0;
	long i, n;

	(void)arg;
	if (syscall(SYS_io_setup, SLOTS, &ctx))
		err(1, "io_setup");
	for (i = 0; i < SLOTS; i++) {
		cb[i].aio_lio_opcode = IOCB_CMD_PREAD;
		cb[i].aio_fildes = fd;
		cb[i].aio_buf = (uintptr_t)buf + i * SLOT;
		cb[i].aio_nbytes = SLOT;
		cb[i].aio_data = i;
		submit(ctx, &cb[i]);
	}
	while (atomic_load(&in_flight)) {
		n = syscall(SYS_io_getevents, ctx, 1, SLOTS, ev, NULL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			err(1, "io_getevents");
		for (i = 0; i < n; i++) {
			struct iocb *done = &cb[ev[i].data];

			atomic_fetch_sub(&in_flight, 1);
			atomic_fetch_add(&reads, 1);
			if (ev[i].res != SLOT || !slot_right(done))
				atomic_fetch_add(&wrong, 1);
			if (!atomic_load(&stop))
				submit(ctx, done);
		}
	}
	syscall(SYS_io_destroy, ctx);
	return NULL;
}

static void *page[PAGES];

/*
 * In small batches: the more pages are on their way at a time, the longer is
 * the reader held up and the more reads end with no successor.
 */
static void move_to(int node)
{
	int nodes[BATCH], status[BATCH], i;

	for (i = 0; i < BATCH; i++)
		nodes[i] = node;
	for (i = 0; i < PAGES; i += BATCH)
		/* A positive result is the number of pages that stayed */
		if (syscall(SYS_move_pages, 0, (unsigned long)BATCH, page + i,
			    nodes, status, MPOL_MF_MOVE) < 0)
			err(1, "move_pages");
}

static int count_on(int node)
{
	int status[PAGES], i, n = 0;

	if (syscall(SYS_move_pages, 0, (unsigned long)PAGES, page, NULL, status,
		    0) < 0)
		err(1, "move_pages");
	for (i = 0; i < PAGES; i++)
		n += status[i] == node;
	return n;
}

int main(int argc, char **argv)
{
	unsigned long before;
	unsigned int busy;
	pthread_t thread;
	int moved, i;
	uint64_t us;

	if (argc != 2) {
		fprintf(stderr, "usage: movepages DISK\n");
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_DIRECT);
	if (fd < 0)
		err(1, "%s", argv[1]);
	write_disk();

	buf = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED)
		err(1, "mmap");
	madvise(buf, PAGES * PAGE, MADV_NOHUGEPAGE);
	memset(buf, 0, PAGES * PAGE);
	for (i = 0; i < PAGES; i++)
		page[i] = buf + i * PAGE;
	move_to(0);
	if (count_on(0) != PAGES)
		errx(1, "the buffer is not on node 0 to begin with");

	if (pthread_create(&thread, NULL, reader, NULL))
		errx(1, "pthread_create");
	while (atomic_load(&reads) < SLOTS)
		sleep_ms(1);

	busy = atomic_load(&in_flight);
	before = atomic_load(&reads);
	us = now_us();
	move_to(1);
	us = now_us() - us;
	moved = count_on(1);

	/* The reads go on, into pages at their new place */
	while (atomic_load(&reads) < before + 4 * SLOTS)
		sleep_ms(1);
	atomic_store(&stop, true);
	pthread_join(thread, NULL);

	printf("{\"pages\": %d, \"moved\": %d, \"in_flight\": %u, \"move_ms\": %.1f, \"reads\": %lu, \"wrong\": %lu}\n",
	       PAGES, moved, busy, us / 1e3, atomic_load(&reads),
	       atomic_load(&wrong));
	return atomic_load(&wrong) ? 1 : 0;
}
