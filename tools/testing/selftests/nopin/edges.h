/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What edges.c does its tests with: transfers that are held by a gate, and processes
 * that do as they are told.
 */
#ifndef NOPIN_EDGES_H
#define NOPIN_EDGES_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nopin_util.h"

static bool nopin(void)
{
	return mode_get() == MODE_NOPIN;
}

/* Somebody may be about to let go of them, as a ring is whose process has ended */
static unsigned long pins_left(void)
{
	unsigned long left = 1;

	for (int i = 0; i < 100 && left; i++) {
		usleep(i ? 50000 : 0);
		left = vmstat("nr_foll_pin_acquired") - vmstat("nr_foll_pin_released");
	}
	return left;
}

/* ---- transfers that are held ---- */

#define MAX_IO		20
#define BUF_IO		(16 * KB)
#define BUF_NR		16
#define BUF_LEN		(BUF_NR * BUF_IO)

struct io {
	struct gate gate;
	struct ioq q;
	struct target *t;	/* what is on the disk */
	int fd;			/* for the transfers */
	char *p;
	unsigned int nr;
	size_t len, step;	/* of a transfer, and from one to the next in memory */
	bool write;
	bool same;		/* all of them go to one page, and bring the same */
	uint64_t seed;
	long res[MAX_IO];
	int ret;
};

/* Before there is memory. @wait_ms: what others may wait for the I/O */
static int io_open(struct io *io, const char *env, bool write, unsigned int wait_ms)
{
	int ret = wait_ms_set(wait_ms) ?: gate_init(&io->gate, env);

	io->write = write;
	io->seed = now_ms() * 1000;
	io->t = &io->gate.t;
	io->fd = io->t->fd;
	return ret;
}

static void io_close(struct io *io)
{
	gate_open(&io->gate);
	ioq_exit(&io->q);
	gate_exit(&io->gate);
}

/* On the disk there are gaps between them */
static off_t io_pos(struct io *io, unsigned int i)
{
	return 2 * i * io->len;
}

/* What is there before a transfer, in memory or on the disk, or after it */
static uint64_t io_seed(struct io *io, unsigned int i, bool after)
{
	uint64_t seed = io->seed + (io->same ? 0 : i);

	return after ? seed : ~seed;
}

static void io_fill(struct io *io, char *p, size_t step, bool after)
{
	for (unsigned int i = 0; i < io->nr; i++)
		pat_fill(p + i * step, io->len, io_seed(io, i, after), 0);
}

/* -1, or the offset of a wrong byte */
static ssize_t io_check_at(struct io *io, const char *p, size_t step, bool after)
{
	for (unsigned int i = 0; i < io->nr; i++) {
		ssize_t bad = pat_check(p + i * step, io->len, io_seed(io, i, after), 0);

		if (bad >= 0)
			return bad + i * step;
	}
	return -1;
}

static ssize_t io_check(struct io *io, bool after)
{
	return io_check_at(io, io->p, io->step, after);
}

/*
 * -1 if a write has brought its data to the disk. With @either, GRAB_BYTE may be
 * there as well: memory was changed while it was given to the device.
 */
static ssize_t io_check_disk(struct io *io, bool either)
{
	size_t size = io_pos(io, io->nr), step = 2 * io->len;
	char *disk = malloc(size), *good = calloc(1, size);
	ssize_t bad = target_read(io->t, disk, size, 0) ? -2 : -1;

	io_fill(io, good, step, true);
	for (size_t b = 0; b < size && bad == -1; b++)
		if (b % step < io->len && disk[b] != good[b] &&
		    !(either && disk[b] == GRAB_BYTE))
			bad = b;
	free(good);
	free(disk);
	return bad;
}

static int io_submit_all(struct io *io)
{
	int ret = 0;

	for (unsigned int i = 0; i < io->nr && !ret; i++)
		ret = ioq_start(&io->q, i, io->fd, io->write, io->p + i * io->step,
				io->len, io_pos(io, i));
	return ret;
}

static int io_reap_all(struct io *io)
{
	int ret = ioq_reap(&io->q, io->nr, io->res);

	for (unsigned int i = 0; i < io->nr && ret >= 0; i++)
		if (io->res[i] != (long)io->len)
			return io->res[i] < 0 ? io->res[i] : -EIO;
	return ret < 0 ? ret : 0;
}

/*
 * All that comes before the transfers. Others go first, as the first I/O into some
 * memory may be special. Then everything is as it is to be before them.
 */
static int io_prepare(struct io *io, char *p, unsigned int nr, size_t len, size_t step)
{
	char *disk;
	int ret;

	io->p = p;
	io->nr = nr;
	io->len = len;
	io->step = step;
	/* A ring: a process that ends does not wait for its I/O */
	ret = ioq_init(&io->q, ENG_URING, nr) ?: io_submit_all(io) ?: io_reap_all(io);
	if (ret)
		return ret;
	disk = calloc(1, io_pos(io, nr));
	io_fill(io, disk, 2 * len, !io->write);
	ret = target_write(io->t, disk, io_pos(io, nr), 0);
	io_fill(io, p, step, io->write);
	free(disk);
	return ret;
}

/* They are in flight on return. In nopin mode, without pins. */
static int io_go(struct io *io)
{
	unsigned long bios = vmstat("nopin_bio");
	int ret = gate_shut(&io->gate, GATE_ASKED, 0) ?: io_submit_all(io) ?:
		  gate_held(&io->gate, io->nr);

	if (!ret && nopin() && vmstat("nopin_bio") - bios < io->nr) {
		note("pinned to begin with, this says nothing");
		ret = -ENODATA;
	}
	return ret;
}

static int io_finish(struct io *io)
{
	return gate_open(&io->gate) ?: io_reap_all(io);
}

/* ---- processes that do as they are told ---- */

struct proc {
	pid_t pid;
	int to, from;
};

typedef void proc_main(int in, int out, void *arg);

static int proc_start(struct proc *p, proc_main *main, void *arg)
{
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		return -errno;
	p->pid = fork();
	if (!p->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		main(to[0], from[1], arg);
		_exit(0);
	}
	p->to = to[1];
	p->from = from[0];
	close(to[0]);
	close(from[1]);
	return p->pid < 0 ? -errno : 0;
}

/* On its side: say something, and wait for the word to go on */
static void say(int out, long val)
{
	if (write(out, &val, sizeof(val)) != sizeof(val))
		_exit(1);
}

static void await(int in)
{
	char c;

	if (read(in, &c, 1) != 1)
		_exit(1);
}

static int tell(struct proc *p)
{
	return write(p->to, "", 1) == 1 ? 0 : -EPIPE;
}

/* What it says. It has ended, or become another program: -EPIPE */
static long hear(struct proc *p)
{
	long val;

	return read(p->from, &val, sizeof(val)) == sizeof(val) ? val : -EPIPE;
}

static int proc_wait(struct proc *p)
{
	int status = -1;

	close(p->to);
	waitpid(p->pid, &status, 0);
	close(p->from);
	return status;
}

#endif
