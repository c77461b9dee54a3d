// SPDX-License-Identifier: GPL-2.0
/*
 * Steady direct I/O in a process whose other threads change mappings all the
 * time, as a garbage collector, a JIT or malloc() do:
 *
 *	storm [-b SIZE] [-c CHANGERS] [-d DEPTH] [-e ENGINE] [-k KIND] [-l LENGTH]
 *	      DISK SECONDS WHERE [READERS]
 *
 *	-b SIZE		bytes of a read (4096)
 *	-c CHANGERS	threads that change mappings (1)
 *	-d DEPTH	reads in flight per reader (8)
 *	-e ENGINE	libaio, io_uring, fixed: io_uring, registered buffers, or psync: one
 *			read at a time, and DEPTH only tells how many buffers there are
 *			(libaio)
 *	-k KIND		how memory is changed: munmap, mprotect, dontneed or free (which is
 *			MADV_FREE, and changers do not write to the memory, so that they do
 *			little else), or all: the first three in turn (all)
 *	-l LENGTH	bytes of a change, if not of buffers (65536); no more in same-2m
 *	DISK		a block device, or slow:NS, a null_blk that the program creates for
 *			itself, of which each request takes NS nanoseconds
 *	WHERE		what is changed:
 *	  none		nothing, there are no changers
 *	  outside	memory in another GiB of the address space than the buffers
 *	  same-gib	memory in the same GiB, but not in the same 2 MiB
 *	  same-2m	memory in the same 2 MiB, next to the buffers
 *	  buffer	buffers of the same pool that are idle, and used again afterwards
 *	  mixed		the same by the first changer, and memory outside by the others
 *	  busy		buffers of the same pool, reads in flight or not
 *	  fork		all of it: children are forked, one after the other, that exit
 *	  exec		the same, and the children execute a program that exits: this one,
 *			which is to be linked statically
 *	READERS		threads that read (1)
 *
 * Prints one line of JSON: I/Os and changes per second, percentiles of the time
 * that one takes in ns, and the change of some counters of /proc/vmstat and of
 * /sys/kernel/mm/nopin. The first 8 MiB of DISK are overwritten.
 *
 * I/O into pages that are closed waits until no change of the whole address space
 * is going on. Those that only read the mmap_lock overlap, so several changers
 * with "-k free -l 16777216" leave no gap, unless one takes the lock for writing.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "common.h"

#define KIB		(1UL << 10)
#define MIB		(1UL << 20)
#define GIB		(1UL << 30)

#define MAX_THREADS	64
#define MAX_DEPTH	64
#define SPARE		4		/* buffers for each that is in use */

/*
 * Where things are. Blocks of 2 MiB, of which buffers use the first half and
 * changers the second; and what is changed far from buffers.
 */
#define POOL		((char *)(1UL << 44))
#define BLOCK		(2 * MIB)
#define HALF		MIB
#define SAME_GIB	(POOL + 512 * MIB)
#define OUTSIDE		(POOL + 2 * GIB)
#define PIECE		(64 * KIB)	/* that is changed, and not a buffer */
#define MAX_CHANGERS	(HALF / PIECE)
#define AREA		(GIB / 2 / MAX_CHANGERS)	/* of each, where it is not in a block */

enum where {
	NONE, OUT, GIB_OF_POOL, BLOCK_OF_POOL, FORK, EXEC, BUFFER, MIXED, BUSY, WHERES
};

static const char * const where_name[WHERES] = {
	"none", "outside", "same-gib", "same-2m", "fork", "exec", "buffer", "mixed", "busy",
};

enum kind { MUNMAP, MPROTECT, DONTNEED, FREEING, ALL, KINDS };

static const char * const kind_name[KINDS] = {
	"munmap", "mprotect", "dontneed", "free", "all",
};

enum engine { LIBAIO, IO_URING, FIXED, PSYNC, ENGINES };

static const char * const engine_name[ENGINES] = {
	"libaio", "io_uring", "fixed", "psync",
};

/* argv[0] of the program that children execute */
#define CHILD		"exit"

/* Times, with a resolution of 3 % */
#define SUB		32

struct histogram {
	unsigned long count[64 * SUB], sum;
	uint64_t max;
};

/* A buffer is used by one at a time, unless WHERE is busy */
enum { FREE, READING, CHANGING };

struct request {
	struct iocb cb;
	uint64_t start, pos;
	long buffer;
};

struct thread {
	pthread_t id;
	int nr;
	uint64_t seed;
	struct histogram time;
	unsigned long wrong;
	/* readers */
	struct request request[MAX_DEPTH];
	aio_context_t ctx;
	struct io_uring ring;
};

static int disk, depth = 8, readers = 1, changers = 1;
static size_t size = PAGE, length = PIECE;
static enum kind kind = ALL;
static enum where where;
static enum engine engine;
static bool check;
static long buffers;
static atomic_char *state;
static atomic_bool stop;
static pthread_barrier_t ready;

static unsigned int bucket_of(uint64_t ns)
{
	unsigned int log;

	if (ns < SUB)
		return ns;
	log = 63 - __builtin_clzl(ns);
	return (log - 4) * SUB + (ns >> (log - 5)) % SUB;
}

static uint64_t time_of(unsigned int bucket)
{
	if (bucket < SUB)
		return bucket;
	return (SUB + bucket % SUB) << (bucket / SUB - 1);
}

static void add_time(struct histogram *h, uint64_t ns)
{
	h->count[bucket_of(ns)]++;
	h->sum++;
	if (ns > h->max)
		h->max = ns;
}

static uint64_t rank(const struct histogram *h, double part)
{
	unsigned long want = h->sum * part, seen = 0;
	unsigned int i;

	for (i = 0; i < 64 * SUB; i++) {
		seen += h->count[i];
		if (seen > want)
			return time_of(i);
	}
	return h->max;
}

static void print_histogram(const struct histogram *h)
{
	if (!h->sum)
		printf("null");
	else
		printf("{\"p50\": %lu, \"p99\": %lu, \"max\": %lu}",
		       rank(h, 0.5), rank(h, 0.99), h->max);
}

static struct histogram *sum_of(struct thread *thread, int nr)
{
	struct histogram *sum = calloc(1, sizeof(*sum));
	int i, j;

	if (!sum)
		err(1, "calloc");
	for (i = 0; i < nr; i++) {
		struct histogram *h = &thread[i].time;

		for (j = 0; j < 64 * SUB; j++)
			sum->count[j] += h->count[j];
		sum->sum += h->sum;
		if (h->max > sum->max)
			sum->max = h->max;
	}
	return sum;
}

static char *buffer(long i)
{
	long per_block = HALF / size;

	return POOL + i / per_block * BLOCK + i % per_block * size;
}

static void map_at(char *p, size_t len)
{
	if (mmap(p, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p)
		err(1, "mmap");
}

static void touch(char *p, size_t len)
{
	size_t i;

	for (i = 0; i < len; i += PAGE)
		((volatile char *)p)[i] = 1;
}

/* A buffer at random that is free, or if it need not be any */
static long take(struct thread *t, char as)
{
	long i, n = random_next(&t->seed) % buffers;

	if (where == BUSY)
		return n;
	for (i = 0; i < buffers; i++, n = (n + 1) % buffers) {
		char is = FREE;

		if (atomic_load(&state[n]) == FREE &&
		    atomic_compare_exchange_strong(&state[n], &is, as))
			return n;
	}
	return -1;
}

static void give_back(long n)
{
	atomic_store(&state[n], FREE);
}

static void complete(struct thread *t, struct request *r, long res)
{
	add_time(&t->time, now_ns() - r->start);
	if (res != (long)size) {
		if (res < 0)
			warnx("read: %s", strerror(-res));
		t->wrong++;
	} else if (check && !sectors_right(buffer(r->buffer), size, r->pos)) {
		t->wrong++;
	}
	give_back(r->buffer);
}

static void submit(struct thread *t, struct request *r)
{
	struct io_uring_sqe *sqe;
	char *buf;
	int ret;

	while ((r->buffer = take(t, READING)) < 0)
		sched_yield();
	buf = buffer(r->buffer);
	r->pos = random_next(&t->seed) % (DISK / size) * size;
	if (check)
		clear_sectors(buf, size);

	r->start = now_ns();
	if (engine == PSYNC) {
		ret = pread(disk, buf, size, r->pos);
		complete(t, r, ret < 0 ? -errno : ret);
		return;
	}
	if (engine == LIBAIO) {
		r->cb.aio_data = r - t->request;
		aio_read(t->ctx, &r->cb, disk, buf, size, r->pos);
		return;
	}
	sqe = io_uring_get_sqe(&t->ring);
	if (engine == FIXED)
		io_uring_prep_read_fixed(sqe, disk, buf, size, r->pos, 0);
	else
		io_uring_prep_read(sqe, disk, buf, size, r->pos);
	io_uring_sqe_set_data(sqe, r);
	ret = io_uring_submit(&t->ring);
	if (ret != 1)
		errx(1, "io_uring_submit: %d", ret);
}

/*
 * Wait for one or more reads, and start as many new ones until it is time to
 * stop. Returns how many fewer are in flight.
 */
static int reap(struct thread *t)
{
	struct request *done[MAX_DEPTH];
	int i, n = 0;

	if (engine == LIBAIO) {
		struct io_event ev[MAX_DEPTH];

		n = aio_wait(t->ctx, 1, depth, ev);
		for (i = 0; i < n; i++) {
			done[i] = &t->request[ev[i].data];
			complete(t, done[i], ev[i].res);
		}
	} else {
		struct io_uring_cqe *cqe;
		int ret;

		do {
			ret = io_uring_wait_cqe(&t->ring, &cqe);
		} while (ret == -EINTR);
		for (; !ret && n < depth; ret = io_uring_peek_cqe(&t->ring, &cqe)) {
			done[n] = io_uring_cqe_get_data(cqe);
			complete(t, done[n++], cqe->res);
			io_uring_cqe_seen(&t->ring, cqe);
		}
		if (ret && ret != -EAGAIN)
			errx(1, "io_uring_wait_cqe: %s", strerror(-ret));
	}
	if (atomic_load(&stop))
		return n;
	for (i = 0; i < n; i++)
		submit(t, done[i]);
	return 0;
}

static void *reader(void *arg)
{
	struct thread *t = arg;
	int i, in_flight;

	if (engine == LIBAIO) {
		t->ctx = aio_open(depth);
	} else if (engine != PSYNC) {
		int ret = io_uring_queue_init(depth, &t->ring, 0);

		if (ret)
			errx(1, "io_uring_setup: %s", strerror(-ret));
	}
	if (engine == FIXED) {
		struct iovec iov = { POOL, buffer(buffers - 1) + size - POOL };
		int ret = io_uring_register_buffers(&t->ring, &iov, 1);

		if (ret)
			errx(1, "io_uring_register_buffers: %s", strerror(-ret));
	}
	pthread_barrier_wait(&ready);
	if (engine == PSYNC) {
		while (!atomic_load(&stop))
			submit(t, &t->request[0]);
		return NULL;
	}
	for (i = 0; i < depth; i++)
		submit(t, &t->request[i]);
	for (in_flight = depth; in_flight; )
		in_flight -= reap(t);
	return NULL;
}

#define TIMED(t, call)						\
	do {							\
		uint64_t start_ = now_ns();			\
								\
		if (call)					\
			err(1, #call);				\
		add_time(&(t)->time, now_ns() - start_);	\
	} while (0)

/*
 * The memory is there, and written to, before and after, or a read into it would
 * have to wait for its pages as well.
 */
static void change(struct thread *t, char *p, size_t len, enum kind how)
{
	switch (how) {
	case MUNMAP:
		/* With reads on their way there has to be memory */
		if (where == BUSY) {
			TIMED(t, mprotect(p, len, PROT_READ | PROT_WRITE | PROT_EXEC));
			break;
		}
		TIMED(t, munmap(p, len));
		map_at(p, len);
		break;
	case MPROTECT:
		if (where != BUSY)
			TIMED(t, mprotect(p, len, PROT_READ));
		TIMED(t, mprotect(p, len, PROT_READ | PROT_WRITE));
		break;
	case DONTNEED:
		TIMED(t, madvise(p, len, MADV_DONTNEED));
		break;
	default:
		TIMED(t, madvise(p, len, MADV_FREE));
		return;
	}
	touch(p, len);
}

/* Returns whether it has failed */
static int fork_one(void)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		if (where == EXEC)
			execl("/proc/self/exe", CHILD, NULL);
		_exit(where == EXEC);
	}
	return pid < 0 || waitpid(pid, &status, 0) != pid || status;
}

static void *changer(void *arg)
{
	long blocks = (buffers - 1) / (HALF / size) + 1;
	struct thread *t = arg;
	enum where w = where;
	unsigned long turn;
	char *own = NULL;
	enum kind how;
	long n;

	if (w == MIXED)
		w = t->nr ? OUT : BUFFER;
	if (w == OUT || w == GIB_OF_POOL) {
		own = (w == OUT ? OUTSIDE : SAME_GIB) + t->nr * AREA;
		map_at(own, length);
		touch(own, length);
	}
	pthread_barrier_wait(&ready);
	for (turn = t->nr; !atomic_load(&stop); turn++) {
		if (w == FORK || w == EXEC) {
			TIMED(t, fork_one());
			continue;
		}
		how = kind == ALL ? turn % 3 : kind;
		if (w == BLOCK_OF_POOL) {
			/* Other changers have other pieces */
			own = POOL + random_next(&t->seed) % blocks * BLOCK +
			      HALF + t->nr * PIECE;
		}
		if (own) {
			change(t, own, length, how);
			continue;
		}
		n = take(t, CHANGING);
		if (n < 0) {
			sched_yield();
			continue;
		}
		change(t, buffer(n), size, how);
		give_back(n);
	}
	return NULL;
}

static void lay_out(void)
{
	long i, blocks;

	buffers = (long)SPARE * (readers + changers) * depth;
	blocks = (buffers - 1) / (HALF / (long)size) + 1;
	if ((size_t)blocks * BLOCK > SAME_GIB - POOL)
		errx(2, "too many buffers");
	state = calloc(buffers, 1);
	if (!state)
		err(1, "calloc");
	/* Small pages, whatever the system's default */
	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0))
		err(1, "prctl");
	for (i = 0; i < blocks; i++) {
		map_at(POOL + i * BLOCK, BLOCK);
		touch(POOL + i * BLOCK, BLOCK);
	}
}

static void start(struct thread *thread, int nr, void *(*fn)(void *),
		  uint64_t seed)
{
	int i;

	for (i = 0; i < nr; i++) {
		thread[i].nr = i;
		thread[i].seed = (seed + i) * 88172645463325252ULL;
		if (pthread_create(&thread[i].id, NULL, fn, &thread[i]))
			errx(1, "pthread_create");
	}
}

static int index_of(const char *name, const char * const *names, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		if (!strcmp(name, names[i]))
			return i;
	errx(2, "unknown: %s", name);
}

static void usage(void)
{
	fprintf(stderr, "usage: storm [-b SIZE] [-c CHANGERS] [-d DEPTH] [-e ENGINE] [-k KIND] [-l LENGTH]\n"
		"             DISK SECONDS WHERE [READERS]\n"
		"  WHERE: none, outside, same-gib, same-2m, buffer, mixed, busy, fork or exec\n"
		"  ENGINE: libaio, io_uring, fixed or psync\n"
		"  KIND: munmap, mprotect, dontneed, free or all\n");
	exit(2);
}

int main(int argc, char **argv)
{
	static struct thread reading[MAX_THREADS], changing[MAX_THREADS];
	struct histogram *ios, *changes;
	unsigned long wrong = 0;
	struct counters before;
	uint64_t ns;
	int c, i, seconds;

	if (!strcmp(argv[0], CHILD))
		return 0;
	while ((c = getopt(argc, argv, "b:c:d:e:k:l:")) != -1) {
		switch (c) {
		case 'b':
			size = strtoul(optarg, NULL, 0);
			break;
		case 'c':
			changers = atoi(optarg);
			break;
		case 'd':
			depth = atoi(optarg);
			break;
		case 'e':
			engine = index_of(optarg, engine_name, ENGINES);
			break;
		case 'k':
			kind = index_of(optarg, kind_name, KINDS);
			break;
		case 'l':
			length = strtoul(optarg, NULL, 0);
			break;
		default:
			usage();
		}
	}
	if (argc - optind != 3 && argc - optind != 4)
		usage();
	seconds = atoi(argv[optind + 1]);
	where = index_of(argv[optind + 2], where_name, WHERES);
	if (argc - optind == 4)
		readers = atoi(argv[optind + 3]);
	if (where == NONE)
		changers = 0;
	if (seconds < 1 || readers < 1 || readers > MAX_THREADS || depth < 1 ||
	    depth > MAX_DEPTH || changers < (where != NONE) ||
	    changers > (int)MAX_CHANGERS || !size || size % PAGE || HALF % size ||
	    !length || length % PAGE || length > AREA ||
	    (where == BLOCK_OF_POOL && length > PIECE))
		usage();
	/* Pinned, they are pages, and what is mapped there later is not a buffer */
	if (engine == FIXED && where >= BUFFER)
		errx(2, "registered buffers are not to be changed");

	disk = open_disk(argv[optind]);
	write_disk(disk);
	/* While a buffer is being changed nobody can say what is in it */
	check = disk_keeps(disk) && where != BUSY;
	lay_out();

	pthread_barrier_init(&ready, NULL, readers + changers + 1);
	start(reading, readers, reader, 1);
	start(changing, changers, changer, MAX_THREADS);
	read_counters(&before);
	pthread_barrier_wait(&ready);
	ns = now_ns();
	sleep_ms(1000 * seconds);
	atomic_store(&stop, true);
	ns = now_ns() - ns;
	for (i = 0; i < readers; i++) {
		pthread_join(reading[i].id, NULL);
		wrong += reading[i].wrong;
	}
	for (i = 0; i < changers; i++)
		pthread_join(changing[i].id, NULL);
	ios = sum_of(reading, readers);
	changes = sum_of(changing, changers);

	printf("{\"where\": \"%s\", \"engine\": \"%s\", \"size\": %zu, \"depth\": %d, \"readers\": %d, \"changers\": %d, \"kind\": \"%s\", \"length\": %zu, \"seconds\": %.3f, \"ios\": %lu, \"iops\": %.1f, \"io_ns\": ",
	       where_name[where], engine_name[engine], size, depth, readers,
	       changers, kind_name[kind], length, ns / 1e9, ios->sum, ios->sum * 1e9 / ns);
	print_histogram(ios);
	printf(", \"changes\": %lu, \"changes_per_s\": %.1f, \"change_ns\": ",
	       changes->sum, changes->sum * 1e9 / ns);
	print_histogram(changes);
	printf(", \"checked\": %s, \"wrong\": %lu, \"counters\": ",
	       check ? "true" : "false", wrong);
	print_counters(&before);
	printf("}\n");
	return wrong ? 1 : 0;
}
