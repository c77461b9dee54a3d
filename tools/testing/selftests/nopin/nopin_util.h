/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the nopin tests share: the switch and the counters, kinds of memory,
 * ways to do I/O, and disks on which I/O stays in flight for a while.
 */
#ifndef NOPIN_UTIL_H
#define NOPIN_UTIL_H

#include <libaio.h>
#include <liburing.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define SECTOR		512UL
#define PAGE		4096UL
#define KB		1024UL
#define MB		(1024UL * KB)
#define GB		(1024UL * MB)

#define ALIGN_UP(x, a)	(((x) + (a) - 1) & ~((a) - 1))

/* Print a diagnostic line */
#define note(fmt, ...)	fprintf(stderr, "# " fmt "\n", ##__VA_ARGS__)

/* Skip a test whose device or file system run.sh did not set up */
#define NEED(env)							\
	do {								\
		if (!getenv(env))					\
			SKIP(return, "%s is not set", env);		\
	} while (0)

/* ---- the switch and the counters ---- */

enum mode { MODE_PIN, MODE_NOPIN };

/* Does this kernel have the switch at all? Without it the mode is "pin". */
bool nopin_present(void);
enum mode mode_get(void);
int mode_set(enum mode mode);

int sysfs_write(const char *path, const char *val);
int sysfs_read(const char *path, char *buf, size_t len);

/* The counters of a moment: cheaper than vmstat() for each of them */
struct vmstat {
	char text[16 * KB];
};

/* 0 or -errno. Without @refresh some counters may be a little behind */
int vmstat_read(struct vmstat *all, bool refresh);
/* 0 for a counter that the kernel does not have */
unsigned long vmstat_in(const struct vmstat *all, const char *name);
unsigned long vmstat(const char *name);
unsigned long fallback(const char *cause);

/*
 * How long whoever changes a mapping waits for I/O, if that buys him something,
 * before its pages are pinned; without the switch nobody waits anyway
 */
#define DEFAULT_WAIT_MS	100	/* the default */
#define LONG_WAIT_MS	60000	/* until the I/O is done */
/* Who does not wait takes less than that, on a slow machine as well */
#define NO_WAIT_MS	1000

int wait_ms_set(unsigned int ms);

/* NUMA balancing, which run.sh has turned off */
#define NUMA_SWITCH	"/proc/sys/kernel/numa_balancing"

uint64_t now_ms(void);
/* The length of a test that is bounded by time: longer with NOPIN_LONG */
unsigned int test_ms(unsigned int quick);

uint32_t rnd(uint32_t *state);

/* ---- patterns: every 8 bytes depend on the position and the seed ---- */

void pat_fill(void *buf, size_t len, uint64_t seed, off_t pos);
/* Offset of the first wrong byte's word, or -1 */
ssize_t pat_check(const void *buf, size_t len, uint64_t seed, off_t pos);
/* The same for one byte value all over */
ssize_t byte_check(const void *buf, size_t len, unsigned char val);

/* ---- memory ---- */

enum mem_kind {
	MEM_ANON,
	MEM_ANON_GIB,		/* an address divisible by 1 GiB in the middle */
	MEM_THP,
	MEM_THP_PTE,		/* a large folio mapped by PTEs */
	MEM_HUGETLB,
	MEM_HUGETLB_1G,
	MEM_SHMEM,
	MEM_SHMEM_THP,
	MEM_PRIVATE_FILE,
	MEM_SHARED_EXT4,
	MEM_SHARED_XFS,
	NR_MEM
};

extern const char *const mem_name[NR_MEM];
/* Of pages of 2 MiB, however they are mapped */
bool mem_of_huge(enum mem_kind kind);

struct mem {
	enum mem_kind kind;
	char *p;
	size_t len;
	int fd;			/* of the file mapped, or -1 */
	void *map;
	size_t maplen;
};

/* 0 or -errno; the pages are present and written to */
int mem_get(struct mem *m, enum mem_kind kind, size_t len);
void mem_put(struct mem *m);
/* Is the memory at @p mapped by PMDs? */
bool mem_is_huge(const void *p);
/* The NUMA node of a page, or -errno */
int mem_node(const void *p);

/* ---- I/O ---- */

enum engine {
	ENG_PSYNC,		/* pread, pwrite */
	ENG_PVSYNC,		/* preadv2, pwritev2 */
	ENG_AIO,
	ENG_AIOV,
	ENG_URING,
	ENG_URINGV,
	ENG_URING_WQ,		/* issued by a worker thread */
	ENG_URING_SQPOLL,	/* issued by a kernel thread */
	NR_ENGINES,
	/* The buffer has to be registered before: ioq_register() */
	ENG_URING_FIXED = NR_ENGINES
};

extern const char *const engine_name[NR_ENGINES + 1];

static inline bool engine_is_vectored(enum engine e)
{
	return e == ENG_PVSYNC || e == ENG_AIOV || e == ENG_URINGV;
}

struct ioq {
	enum engine eng;
	unsigned int depth;
	unsigned int inflight;
	io_context_t aio;
	struct iocb *iocbs;
	struct iocb **batch;
	unsigned int nr_batch;
	struct io_uring ring;
};

/*
 * Registering buffers, with IORING_RSRC_REGISTER_NOPIN in nopin mode and pinned
 * otherwise. The numbers are those of the kernel: liburing may be older.
 */
#ifndef IORING_RSRC_REGISTER_NOPIN
#define IORING_RSRC_REGISTER_NOPIN	2U
#endif
#define REGISTER_CLONE_BUFFERS		30

int ring_register(struct io_uring *ring, unsigned int op, const void *arg,
		  unsigned int nr);
int ring_buffers_flags(struct io_uring *ring, const struct iovec *iov,
		       unsigned int nr, const uint64_t *tags, unsigned int flags);
int ring_buffers(struct io_uring *ring, const struct iovec *iov,
		 unsigned int nr, const uint64_t *tags);
int ring_buffer(struct io_uring *ring, void *buf, size_t len);

int ioq_init(struct ioq *q, enum engine eng, unsigned int depth);
int ioq_init_flags(struct ioq *q, enum engine eng, unsigned int depth,
		   unsigned int setup_flags);
void ioq_exit(struct ioq *q);
/* Queue a transfer; @tag < depth indexes the results. For asynchronous engines. */
int ioq_queue(struct ioq *q, unsigned int tag, int fd, bool write,
	      const struct iovec *iov, int nr, off_t pos);
int ioq_submit(struct ioq *q);
int ioq_start(struct ioq *q, unsigned int tag, int fd, bool write,
	      void *buf, size_t len, off_t pos);
/*
 * Wait for at least @min completions and take all there are; results go to
 * res[tag] unless @res is NULL. The number of completions, or -errno.
 */
int ioq_reap(struct ioq *q, unsigned int min, long *res);
/* One transfer from start to end, with any engine: bytes or -errno */
long ioq_rwv(struct ioq *q, int fd, bool write, const struct iovec *iov, int nr,
	     off_t pos);
long ioq_rw(struct ioq *q, int fd, bool write, void *buf, size_t len, off_t pos);

/* ---- NVMe commands ---- */

struct nvme_ns {
	int fd;			/* of the character device or the disk */
	unsigned int id;
	unsigned int block;	/* that commands count in */
};

/* Queues a transfer; NULL if there is no room. For IORING_SETUP_SQE128 */
struct io_uring_sqe *nvme_queue(struct io_uring *ring, const struct nvme_ns *ns,
				bool write, void *buf, size_t len, off_t pos);

/* ---- targets ---- */

/* A block device, or a file on a file system of its own */
struct target {
	int fd;			/* O_DIRECT */
	int bfd;		/* buffered */
	unsigned int mem_align;	/* that O_DIRECT wants of memory */
};

/*
 * @env names the variable that holds the device or the directory, where the file is
 * of @size bytes. What is in it is unknown.
 */
int target_open(struct target *t, const char *env, size_t size);
void target_close(struct target *t);
/* Through the page cache, which is empty afterwards */
int target_write(struct target *t, const void *buf, size_t len, off_t pos);
int target_read(struct target *t, void *buf, size_t len, off_t pos);
int target_fill(struct target *t, size_t len, uint64_t seed, off_t pos);
/* As pat_check(), of what is on the medium; -2 if that cannot be read */
ssize_t target_check(struct target *t, size_t len, uint64_t seed, off_t pos);

/*
 * The throttled disk: its data moves when a request's turn has come, at the end
 * of the time in flight. slow_prime() uses up the burst that the throttle lets
 * through and puts some requests ahead of those to come, so that these stay in
 * flight for about @head_ms at least. Reads and writes queue separately: @write
 * tells which are to come. QEMU merges requests for adjacent sectors, so leave
 * gaps between them. The end of the disk belongs to slow_prime().
 */
struct slow {
	struct target t;
	struct ioq junk;
	char *scratch;
	off_t junk_pos;
};

int slow_open(struct slow *s, const char *env);
int slow_prime(struct slow *s, bool write, unsigned int head_ms);
void slow_close(struct slow *s);

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
 * Transfers between a buffer and a disk that holds them, by any engine. On the
 * disk they have gaps between them, beginning at @base, as neighbours might be
 * merged; patterns go by the position in the buffer.
 */
#define FLIGHT_LEN	(2 * MB)
#define FLIGHT_NR	16
#define FLIGHT_IO	(FLIGHT_LEN / FLIGHT_NR)

struct flight {
	struct gate gate;
	struct ioq q;
	char *buf;
	bool write;
	off_t base;
	unsigned int done;
	long res[FLIGHT_NR];
	pthread_t th[FLIGHT_NR];
	unsigned int started, ended;	/* threads */
};

/* The engine, or one like it if mappings of files cannot be registered with pins */
enum engine flight_possible(enum engine eng);
/* Before there is a buffer. Use another engine with flight_engine() and ioq_exit() */
int flight_open(struct flight *f);
int flight_engine(struct flight *f, enum engine eng);
void flight_close(struct flight *f);
int flight_fill(struct flight *f, uint64_t seed, off_t base);
/* What writes have left on the disk: as pat_check(); -2 if that cannot be read */
ssize_t flight_check(struct flight *f, uint64_t seed);
/* All in flight on return, until ..., see gate_shut() */
int flight_start(struct flight *f, bool write, off_t base, enum gate_until until,
		 unsigned int ms);
/* How many have ended: ask for as often as you like */
int flight_done(struct flight *f);
/* Lets them go */
int flight_finish(struct flight *f);

/*
 * Somebody who takes free pages and fills them, so that an I/O that still uses a
 * freed page shows: as a wrong byte in here, or as 0x5a on the disk.
 */
#define GRAB_BYTE	0x5a

struct grab {
	enum mem_kind kind;
	size_t len;
	struct mem m;
	pid_t pid;
	int to[2], from[2];
};

/* @len bytes in this process, and as much in another one */
int grab_init(struct grab *g, enum mem_kind kind, size_t len);
int grab_fill(struct grab *g);
/* -1, or the offset of the first byte that somebody changed */
ssize_t grab_check(struct grab *g);
void grab_exit(struct grab *g);

/* Does the kernel check its locks? All it does takes several times as long then */
bool with_lockdep(void);

/* Is the thread of this process asleep until something is done, as I/O is? */
bool task_blocked(pid_t tid);

void pin_to_cpu(int cpu);

#endif
