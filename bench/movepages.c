// SPDX-License-Identifier: GPL-2.0
/*
 * Move the pages of a buffer to another NUMA node while a disk writes to them.
 *
 * A thread keeps reads in flight, one per slot of the buffer, and compares what
 * was read with what is on the disk. Meanwhile move_pages() is asked to move the
 * buffer, and again as long as that gets any further. Prints one line of JSON.
 *
 * The first 8 MiB of the disk are overwritten.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"

#define SLOT_PAGES	4
#define SLOT		(SLOT_PAGES * PAGE)
#define SLOTS		64
#define PAGES		(SLOTS * SLOT_PAGES)

static int fd;
static char *buf;
static atomic_bool stop;
static atomic_uint in_flight;
static atomic_ulong reads, wrong;

static char *slot(const struct iocb *cb)
{
	return (char *)(uintptr_t)cb->aio_buf;
}

static void submit(aio_context_t ctx, struct iocb *cb)
{
	clear_sectors(slot(cb), SLOT);
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
			if (ev[i].res != SLOT ||
			    !sectors_right(slot(done), SLOT, done->aio_offset))
				atomic_fetch_add(&wrong, 1);
			if (!atomic_load(&stop))
				submit(ctx, done);
		}
	}
	syscall(SYS_io_destroy, ctx);
	return NULL;
}

int main(int argc, char **argv)
{
	static void *page[PAGES];
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
	write_disk(fd);

	buf = map_pages(PAGES * PAGE);
	madvise(buf, PAGES * PAGE, MADV_NOHUGEPAGE);
	memset(buf, 0, PAGES * PAGE);
	for (i = 0; i < PAGES; i++)
		page[i] = buf + i * PAGE;
	move_pages_to(page, PAGES, 0);
	if (pages_on(page, PAGES, 0) != PAGES)
		errx(1, "the buffer is not on node 0 to begin with");

	if (pthread_create(&thread, NULL, reader, NULL))
		errx(1, "pthread_create");
	while (atomic_load(&reads) < SLOTS)
		sleep_ms(1);

	busy = atomic_load(&in_flight);
	before = atomic_load(&reads);
	us = now_us();
	moved = move_all_to(page, PAGES, 1);
	us = now_us() - us;

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
