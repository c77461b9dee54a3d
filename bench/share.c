// SPDX-License-Identifier: GPL-2.0
/*
 * Two threads of a process, each on its processor, read a disk and share something:
 *
 *	share HOW IOS DISK
 *
 * HOW is what they do:
 *
 *	near	each reads into 64 pages of its own, with those of the other
 *		between them
 *	far	each reads into 64 pages of its own, which are 4 MiB from the others
 *	same	both read into the same 64 pages
 *	pool	both read into any pages of 1 GiB
 *	remote	one submits reads to a disk that is polled, the other polls
 *
 * It executes now_ns() before IOS reads of each thread, and behind them. With
 * remote, it is IOS reads of both. cache.c counts what is between the two.
 */
#define _GNU_SOURCE
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "common.h"

#define THREADS	2
#define PAGES	64
#define FAR	(4UL << 20)
#define POOL	(FAR << 8)
#define DEPTH	16
#define WARM	32768UL

enum how { NEAR, APART, SAME, ANY, REMOTE, HOWS };

static const char * const names[] = { "near", "far", "same", "pool", "remote" };

static enum how how;
static unsigned long ios;
static char *pool;
static int disk;
static struct io_uring ring, poller;
static atomic_uint arrived, turn;
/* Not in the same line */
static uint64_t state[THREADS][16];

/* Nobody sleeps: a wakeup has lines that move as well */
static void meet(unsigned int *round)
{
	*round += THREADS;
	atomic_fetch_add(&arrived, 1);
	while ((int)(atomic_load(&arrived) - *round) < 0)
		__builtin_ia32_pause();
}

static char *buffer(int me, unsigned long i)
{
	i %= PAGES;
	switch (how) {
	case NEAR:
		return pool + (i * THREADS + me) * PAGE;
	case APART:
		return pool + me * FAR + i * PAGE;
	case ANY:
		return pool + random_next(state[me]) % (POOL / PAGE) * PAGE;
	default:
		return pool + i * PAGE;
	}
}

static void submit(unsigned long first)
{
	struct io_uring_sqe *sqe;
	unsigned long i;

	for (i = first; i < first + DEPTH; i++) {
		sqe = io_uring_get_sqe(&ring);
		io_uring_prep_read(sqe, disk, buffer(0, i), PAGE, i % 1024 * PAGE);
	}
	if (io_uring_submit(&ring) != DEPTH)
		errx(1, "io_uring_submit");
}

static void poll(void)
{
	struct io_uring_cqe *cqe;
	int i;

	for (i = 0; i < DEPTH; i++) {
		if (io_uring_wait_cqe(&poller, &cqe))
			errx(1, "io_uring_wait_cqe");
		if (cqe->res != PAGE)
			errx(1, "a read: %d", cqe->res);
		io_uring_cqe_seen(&poller, cqe);
	}
}

static void work(int me, unsigned long n)
{
	unsigned long i;

	if (how != REMOTE) {
		for (i = 0; i < n; i++)
			if (pread(disk, buffer(me, i), PAGE, i % 1024 * PAGE) != PAGE)
				err(1, "read");
		return;
	}
	for (i = 0; i < n; i += DEPTH) {
		while ((int)atomic_load(&turn) != me)
			__builtin_ia32_pause();
		if (me)
			poll();
		else
			submit(i);
		atomic_store(&turn, !me);
	}
}

static void *thread(void *arg)
{
	int me = (intptr_t)arg;
	unsigned int round = 0;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(me, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "sched_setaffinity");
	meet(&round);
	work(me, WARM);
	meet(&round);
	if (!me)
		now_ns();
	meet(&round);
	work(me, ios);
	meet(&round);
	if (!me)
		now_ns();
	return NULL;
}

int main(int argc, char **argv)
{
	size_t size = 2 * FAR, i;
	pthread_t other;
	int ret;

	if (argc != 4)
		goto usage;
	for (how = 0; how < HOWS; how++)
		if (!strcmp(argv[1], names[how]))
			break;
	ios = strtoul(argv[2], NULL, 0) / DEPTH * DEPTH;
	if (how == HOWS || !ios)
		goto usage;
	disk = open(argv[3], O_RDONLY | O_DIRECT);
	if (disk < 0)
		err(1, "%s", argv[3]);

	/* Aligned, so that it does not depend on the place what shares a line */
	if (how == ANY)
		size = POOL;
	pool = map_pages(size + FAR);
	pool = (char *)(((uintptr_t)pool + FAR - 1) & ~(FAR - 1));
	madvise(pool, size, MADV_NOHUGEPAGE);
	for (i = 0; i < size; i += PAGE)
		pool[i] = 1;
	for (i = 0; i < THREADS; i++)
		state[i][0] = (i + 1) * 88172645463325252ULL;
	if (how == REMOTE) {
		ret = io_uring_queue_init(DEPTH, &ring, IORING_SETUP_IOPOLL);
		if (ret)
			errx(1, "io_uring_queue_init: %s", strerror(-ret));
		poller = ring;
		/* Or liburing polls when it submits */
		ring.flags &= ~IORING_SETUP_IOPOLL;
	}
	if (pthread_create(&other, NULL, thread, (void *)1L))
		errx(1, "pthread_create");
	thread(NULL);
	if (pthread_join(other, NULL))
		errx(1, "pthread_join");
	printf("{\"ios\": %lu}\n", how == REMOTE ? ios : THREADS * ios);
	return 0;

usage:
	fprintf(stderr, "usage: share near|far|same|pool|remote IOS DISK\n");
	return 2;
}
