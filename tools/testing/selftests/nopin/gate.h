/* SPDX-License-Identifier: GPL-2.0 */
/* Disks that hold I/O until a test lets it go, and transfers that are held */
#ifndef NOPIN_GATE_H
#define NOPIN_GATE_H

/*
 * A disk that holds what it is given until it is told to let go. So a test knows
 * what is in flight, however slow the machine is. One device mapper over another:
 * the one below, the gate, is suspended, and the one above counts what is held. A
 * process of its own opens the gate where the test waits for the I/O itself, and
 * when it is forgotten: fork it before there is memory that it must not share.
 */
struct gate_shared;

struct gate {
	struct target t;
	struct gate_shared *shared;
	pid_t keeper;
};

enum gate_until {
	GATE_ASKED,	/* gate_open() */
	GATE_TIME,	/* some time has passed */
	GATE_WAIT,	/* some time has passed since somebody waits for I/O, or pins for it */
};

/* The device, or a new file of 8 MiB in the directory, that @env names */
int gate_init(struct gate *g, const char *env);
void gate_exit(struct gate *g);
/* The gate is open: it holds what comes from now on until ... and @ms after that */
int gate_shut(struct gate *g, enum gate_until until, unsigned int ms);
/* Until @nr requests are held: io_uring's workers take their time */
int gate_held(struct gate *g, unsigned int nr);
int gate_open(struct gate *g);
/* Open it, and wait until nothing is in flight */
int gate_idle(struct gate *g);

/*
 * Transfers of the same size between a buffer and a disk that holds them, by any
 * engine. On the disk there are gaps between them, as neighbours might be merged.
 * Patterns go by the position in the buffer without gaps.
 */
#define FLIGHT_MAX	1000

struct flight {
	struct gate gate;
	struct target *t;	/* where the data is looked at: that of the gate */
	int fd;			/* where the transfers go: to the same */
	struct ioq q;
	char *buf;
	unsigned int nr;
	size_t len, step;	/* of a transfer, and from one to the next in memory */
	bool write;
	bool same;		/* all of them go to one page, and bring the same */
	uint64_t seed;
	off_t base;		/* where they begin on the disk */
	/* Counters of before the transfers */
	unsigned long wait, pinned;
	unsigned int done;
	long res[FLIGHT_MAX];
	pthread_t th[FLIGHT_MAX];
	pid_t tid[FLIGHT_MAX];
	unsigned int started, ended;	/* threads */
};

/* Before there is a buffer. On the device or in the directory that @env names */
int flight_open(struct flight *f, const char *env);
void flight_close(struct flight *f);
/* The buffer: a transfer of @len bytes each @step */
void flight_set(struct flight *f, char *buf, unsigned int nr, size_t len, size_t step);
/* ENG_PSYNC is a thread each. Mappings of files cannot be registered with pins */
enum engine flight_possible(enum engine eng);
int flight_engine(struct flight *f, enum engine eng);
/* Memory and disk as they are before the transfers, which change the one or the other */
int flight_prepare(struct flight *f, bool write);
/* Each of these by itself: memory is as before a read, or as after it */
void flight_fill(struct flight *f, bool after);
int flight_fill_disk(struct flight *f);
/* -1 if memory at @p, or the disk, is what it is after the transfers; or before */
ssize_t flight_check(struct flight *f, const char *p, bool after);
ssize_t flight_check_disk(struct flight *f);
/* Begin them */
int flight_submit(struct flight *f);
/* All in flight and held on return, until ..., see gate_shut() */
int flight_start(struct flight *f, enum gate_until until, unsigned int ms);
/* How many have ended: ask for as often as you like */
int flight_done(struct flight *f);
/* Wait for them. -EIO, or their error, if they have not transferred all */
int flight_reap(struct flight *f);
/* The same, and before that let them go */
int flight_finish(struct flight *f);

#endif
