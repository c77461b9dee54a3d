/* SPDX-License-Identifier: GPL-2.0 */
/* Disks that hold I/O until a test lets it go, and transfers that are held */
#ifndef NOPIN_GATE_H
#define NOPIN_GATE_H

/*
 * A disk that holds I/O until the test lets it go. So a test knows what is in flight,
 * however slow the machine is. It is one device mapper over another. The test suspends
 * the one below, the gate; the one above counts the requests that wait for it.
 *
 * A keeper process opens the gate when the test itself waits for the I/O, and when the
 * test forgets to. gate_init() forks it, so call that before there is memory that no
 * other process may share.
 */
struct gate_shared;

struct gate {
	struct target t;
	struct gate_shared *shared;
	pid_t keeper;
};

enum gate_until {
	GATE_ASKED,	/* the test calls gate_open() */
	GATE_TIME,	/* some time has passed */
	GATE_WAIT,	/* an invalidation waits for I/O, or pins pages for it, for some time */
};

/* @env names the device, or a directory, in which the target is a file of 8 MiB */
int gate_init(struct gate *g, const char *env);
void gate_exit(struct gate *g);
/* Shuts the open gate until ..., and for @ms longer */
int gate_shut(struct gate *g, enum gate_until until, unsigned int ms);
/* Waits until the gate holds @nr requests: io_uring's workers take their time */
int gate_held(struct gate *g, unsigned int nr);
int gate_open(struct gate *g);
/* Opens the gate and waits until nothing is in flight */
int gate_idle(struct gate *g);

/*
 * Transfers of one size between a buffer and a disk that holds them, by any engine.
 * There are gaps between them on the disk, or the kernel might merge neighbours. The
 * pattern in the buffer goes on from one transfer to the next, without gaps.
 *
 * A test calls flight_open(), gets its memory, calls flight_set() and flight_engine(),
 * and then for each round flight_prepare(), flight_start() and flight_finish().
 */
#define FLIGHT_MAX	1000

struct flight {
	struct gate gate;
	struct target *t;	/* the disk, to fill and to look at: that of the gate */
	int fd;			/* for the transfers: of the same disk */
	struct ioq q;
	char *buf;
	unsigned int nr;
	size_t len, step;	/* of a transfer, and from one to the next in memory */
	bool write;
	bool same;		/* all transfers use one page, and have the same data */
	uint64_t seed;
	off_t base;		/* where they begin on the disk */
	/* Counters, as they were before the transfers */
	unsigned long wait, pinned;
	unsigned int done;
	long res[FLIGHT_MAX];
	pthread_t th[FLIGHT_MAX];
	pid_t tid[FLIGHT_MAX];
	unsigned int started, ended;	/* threads */
};

/* Before there is a buffer, see gate_init() */
int flight_open(struct flight *f, const char *env);
void flight_close(struct flight *f);
/* @nr transfers of @len bytes, which begin @step bytes apart in the buffer */
void flight_set(struct flight *f, char *buf, unsigned int nr, size_t len, size_t step);
/* With ENG_PSYNC each transfer has a thread. ENG_URING_FIXED registers the buffer */
int flight_engine(struct flight *f, enum engine eng);
/* The engine for mappings of files: the kernel does not register them with pins */
enum engine flight_possible(enum engine eng);
/* Fills the disk and the buffer with different data: the transfers make them the same */
int flight_prepare(struct flight *f, bool write);
/* These fill one of them. The buffer gets what it has before a read, or @after it */
void flight_fill(struct flight *f, bool after);
int flight_fill_disk(struct flight *f);
/* -1 if memory at @p has the data of before a read, or of @after it */
ssize_t flight_check(struct flight *f, const char *p, bool after);
/* The same of transfer @i, at @p */
ssize_t flight_check_one(struct flight *f, unsigned int i, const char *p, bool after);
/* -1 if the disk has the data of after the transfers */
ssize_t flight_check_disk(struct flight *f);
/* Starts the transfers */
int flight_submit(struct flight *f);
/* Shuts the gate, as gate_shut() does, starts them, and waits until it holds them */
int flight_start(struct flight *f, enum gate_until until, unsigned int ms);
/* How many have ended so far */
int flight_done(struct flight *f);
/* Waits for all of them: -errno if one has failed, or was short */
int flight_reap(struct flight *f);
/* Opens the gate and does the same */
int flight_finish(struct flight *f);

#endif
