// SPDX-License-Identifier: GPL-2.0
/*
 * Direct I/O of 4 KiB by many threads, with buffers that have more or less in
 * common:
 *
 *	scale [-e ENGINE] DISK THREADS HOW SECONDS
 *
 *	-e ENGINE	psync or io_uring (psync), one I/O in flight per thread
 *	DISK		a block device
 *	HOW		where the buffers are:
 *	  shared-thp	in one huge page of 2 MiB, a page per thread, 64 KiB apart
 *	  shared-words	in one huge page, in adjacent pages
 *	  same-page	all threads write from one and the same page
 *	  private	each thread has a mapping of its own, of small pages
 *	  ranges	each thread has 64 pages, each in another GiB of address space
 *	  processes	THREADS processes, each with a few reads of its own: see below
 *
 * Prints one line of JSON: I/Os per second of all threads together (iops), and of
 * the slowest and the fastest; and in windows of 50 ms, the median and the most.
 * Where others use the machine as well, compare several runs of each mode in
 * turn; the most is near to what a quiet machine would give, if the run had a
 * quiet moment. All but same-page read. Fails if a huge page is not one.
 *
 * "processes" first starts one process after the other, at most THREADS of them
 * and no longer than SECONDS, each of which reads 8 times and exits, and reports
 * the time that one takes; and of others that do not read. Then it starts THREADS,
 * and when all of them have read, and wait, reports how much memory the kernel
 * uses, without page tables, for each of them, and how much is left of that after
 * their end. The same without reads, to compare.
 *
 * The first 8 MiB of DISK are overwritten.
 */
#define _GNU_SOURCE
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "common.h"

#define KIB		(1UL << 10)
#define MIB		(1UL << 20)
#define GIB		(1UL << 30)
#define HUGE		(2 * MIB)

#define MAX_THREADS	64
#define MAX_PROCESSES	10000
#define APART		(64 * KIB)
#define SPREAD		64		/* buffers of a thread, for ranges */
#define WINDOW_MS	50
#define READS		8		/* of a process */

/* At an address of its own */
#define ARENA		((char *)(1UL << 44))

enum how { SHARED_THP, SHARED_WORDS, SAME_PAGE, PRIVATE, RANGES, PROCESSES, HOWS };

static const char * const how_name[HOWS] = {
	"shared-thp", "shared-words", "same-page", "private", "ranges", "processes",
};

struct thread {
	pthread_t id;
	char *buffer[SPREAD];
	int buffers;
	uint64_t seed;
	atomic_ulong ios;
	unsigned long wrong;
	uint64_t ns;
	struct io_uring ring;
} __attribute__((aligned(256)));

static int disk;
static enum how how;
static bool use_io_uring, check;
static atomic_bool stop;
static pthread_barrier_t ready;

static int do_io(struct thread *t, char *buf, uint64_t pos)
{
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int ret;

	if (!use_io_uring) {
		if (how == SAME_PAGE)
			return pwrite(disk, buf, PAGE, pos);
		return pread(disk, buf, PAGE, pos);
	}
	sqe = io_uring_get_sqe(&t->ring);
	if (how == SAME_PAGE)
		io_uring_prep_write(sqe, disk, buf, PAGE, pos);
	else
		io_uring_prep_read(sqe, disk, buf, PAGE, pos);
	do {
		ret = io_uring_submit_and_wait(&t->ring, 1);
	} while (ret == -EINTR);
	if (ret < 0 || io_uring_peek_cqe(&t->ring, &cqe))
		errx(1, "io_uring_submit_and_wait: %d", ret);
	ret = cqe->res;
	io_uring_cqe_seen(&t->ring, cqe);
	return ret;
}

static void *work(void *arg)
{
	struct thread *t = arg;
	unsigned long ios = 0;
	uint64_t start;

	if (use_io_uring && io_uring_queue_init(2, &t->ring, 0))
		errx(1, "io_uring_setup");
	pthread_barrier_wait(&ready);
	start = now_ns();
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		char *buf = t->buffer[ios % t->buffers];
		uint64_t pos = random_next(&t->seed) % (DISK / PAGE) * PAGE;

		if (check)
			clear_sectors(buf, SECTOR);
		if (do_io(t, buf, pos) != PAGE)
			err(1, "I/O");
		if (check && !sectors_right(buf, SECTOR, pos))
			t->wrong++;
		atomic_store_explicit(&t->ios, ++ios, memory_order_relaxed);
	}
	t->ns = now_ns() - start;
	return NULL;
}

static char *map_at(char *p, size_t len)
{
	if (mmap(p, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p)
		err(1, "mmap");
	return p;
}

static char *map_huge(void)
{
	char *p = map_at(ARENA, HUGE);

	if (madvise(p, HUGE, MADV_HUGEPAGE))
		err(1, "MADV_HUGEPAGE");
	memset(p, 0x5a, HUGE);
	if (huge_pages() != HUGE / KIB)
		errx(1, "no huge page: is it off in /sys/kernel/mm/transparent_hugepage, or memory fragmented?");
	return p;
}

static char *map_small(char *p)
{
	map_at(p, PAGE);
	memset(p, 0x5a, PAGE);
	return p;
}

static void lay_out(struct thread *thread, int threads)
{
	char *huge = NULL;
	int i, j;

	if (how == SHARED_THP || how == SHARED_WORDS)
		huge = map_huge();
	for (i = 0; i < threads; i++) {
		struct thread *t = &thread[i];

		t->seed = (i + 1) * 88172645463325252ULL;
		t->buffers = how == RANGES ? SPREAD : 1;
		for (j = 0; j < t->buffers; j++)
			switch (how) {
			case SHARED_THP:
				t->buffer[j] = huge + i * APART % HUGE +
					       i * APART / HUGE * PAGE;
				break;
			case SHARED_WORDS:
				t->buffer[j] = huge + i * PAGE;
				break;
			case SAME_PAGE:
				t->buffer[j] = i ? thread->buffer[0] :
					       map_small(ARENA);
				break;
			case PRIVATE:
				t->buffer[j] = map_small(ARENA + i * 2 * HUGE);
				break;
			default:
				t->buffer[j] = map_small(ARENA + j * GIB +
							 i * 2 * HUGE);
			}
	}
}

static unsigned long sum_ios(struct thread *thread, int threads)
{
	unsigned long sum = 0;

	while (threads--)
		sum += atomic_load_explicit(&thread[threads].ios,
					    memory_order_relaxed);
	return sum;
}

/* I/Os per second in pieces of the time: returns the most, and their median */
static double watch(struct thread *thread, int threads, int seconds,
		    double *median)
{
	uint64_t rate[seconds * 1000 / WINDOW_MS], ns, then;
	unsigned long ios, before;
	int i, nr = seconds * 1000 / WINDOW_MS;

	then = now_ns();
	before = sum_ios(thread, threads);
	for (i = 0; i < nr; i++) {
		sleep_ms(WINDOW_MS);
		ns = now_ns();
		ios = sum_ios(thread, threads);
		rate[i] = (ios - before) * 1000000000 / (ns - then);
		before = ios;
		then = ns;
	}
	qsort(rate, nr, sizeof(*rate), compare_u64);
	*median = rate[nr / 2];
	return rate[nr - 1];
}

static void do_threads(int threads, int seconds)
{
	static struct thread thread[MAX_THREADS];
	double best, median;
	unsigned long ios = 0, wrong = 0;
	double iops, sum = 0, least = 0, most = 0;
	struct counters before;
	int i;

	lay_out(thread, threads);
	pthread_barrier_init(&ready, NULL, threads + 1);
	for (i = 0; i < threads; i++)
		if (pthread_create(&thread[i].id, NULL, work, &thread[i]))
			errx(1, "pthread_create");
	read_counters(&before);
	pthread_barrier_wait(&ready);
	best = watch(thread, threads, seconds, &median);
	atomic_store(&stop, true);
	for (i = 0; i < threads; i++) {
		pthread_join(thread[i].id, NULL);
		iops = thread[i].ios * 1e9 / thread[i].ns;
		sum += iops;
		if (!i || iops < least)
			least = iops;
		if (iops > most)
			most = iops;
		ios += thread[i].ios;
		wrong += thread[i].wrong;
	}
	if ((how == SHARED_THP || how == SHARED_WORDS) &&
	    huge_pages() != HUGE / KIB)
		errx(1, "the huge page was split meanwhile");
	printf("\"ios\": %lu, \"iops\": %.1f, \"window_median\": %.0f, \"window_max\": %.0f, \"thread_min\": %.1f, \"thread_max\": %.1f, \"checked\": %s, \"wrong\": %lu, \"counters\": ",
	       ios, sum, median, best, least, most, check ? "true" : "false", wrong);
	print_counters(&before);
	printf("}\n");
	if (wrong)
		exit(1);
}

/* A process; without I/O it does everything but the reads */
static void child(bool io)
{
	char *buf = map_at(ARENA, READS * PAGE);
	int i;

	memset(buf, 0x5a, READS * PAGE);
	for (i = 0; io && i < READS; i++) {
		if (pread(disk, buf + i * PAGE, PAGE, i * PAGE) != PAGE)
			err(1, "read");
		if (check && !sectors_right(buf + i * PAGE, PAGE, i * PAGE))
			errx(1, "wrong data");
	}
}

static void wait_for(int nr)
{
	int status;

	while (nr--)
		if (wait(&status) < 0 || status)
			errx(1, "a process has failed");
}

static uint64_t one_process(bool io)
{
	uint64_t start = now_ns();
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		child(io);
		_exit(0);
	}
	wait_for(1);
	return now_ns() - start;
}

/* What the kernel uses for processes that wait */
static void many_processes(int nr, bool io)
{
	struct kernel_memory before, with, after;
	int done[2], end[2], i;
	char c = 0;

	before = kernel_memory();
	if (pipe(done) || pipe(end))
		err(1, "pipe");
	for (i = 0; i < nr; i++) {
		pid_t pid = fork();

		if (pid < 0)
			err(1, "fork");
		if (pid)
			continue;
		close(end[1]);
		child(io);
		if (write(done[1], &c, 1) != 1)
			err(1, "write");
		_exit(read(end[0], &c, 1));
	}
	close(done[1]);
	for (i = 0; i < nr; i++)
		if (read(done[0], &c, 1) != 1)
			errx(1, "a process has failed");
	with = kernel_memory();
	close(end[1]);
	wait_for(nr);
	close(end[0]);
	close(done[0]);
	after = kernel_memory();
	printf("{\"kernel\": %ld, \"slab\": %ld, \"all_slab\": %ld, \"kernel_left\": %ld, \"slab_left\": %ld}",
	       (with.kernel - before.kernel) / nr, (with.slab - before.slab) / nr,
	       (with.all_slab - before.all_slab) / nr,
	       (after.kernel - before.kernel) / nr, (after.slab - before.slab) / nr);
}

static void do_processes(int nr, int seconds)
{
	uint64_t *ns[2] = { calloc(nr, 8), calloc(nr, 8) }, end;
	struct counters before;
	int i;

	if (!ns[0] || !ns[1])
		err(1, "calloc");
	enter_group();
	read_counters(&before);
	one_process(true);
	end = now_ns() + seconds * 1000000000UL;
	for (i = 0; i < nr && (!i || now_ns() < end); i++) {
		ns[0][i] = one_process(false);
		ns[1][i] = one_process(true);
	}
	printf("\"reads\": %d, \"process_ns\": ", READS);
	print_times(ns[1], i);
	printf(", \"process_without_io_ns\": ");
	print_times(ns[0], i);
	printf(", \"bytes_per_process\": ");
	many_processes(nr, true);
	printf(", \"bytes_per_process_without_io\": ");
	many_processes(nr, false);
	printf(", \"counters\": ");
	print_counters(&before);
	printf("}\n");
}

int main(int argc, char **argv)
{
	int c, threads, seconds;

	while ((c = getopt(argc, argv, "e:")) != -1) {
		if (c != 'e' || (strcmp(optarg, "io_uring") && strcmp(optarg, "psync")))
			goto usage;
		use_io_uring = !strcmp(optarg, "io_uring");
	}
	if (argc - optind != 4)
		goto usage;
	threads = atoi(argv[optind + 1]);
	seconds = atoi(argv[optind + 3]);
	for (how = 0; how < HOWS; how++)
		if (!strcmp(argv[optind + 2], how_name[how]))
			break;
	if (how == HOWS || threads < 1 || seconds < 1 ||
	    threads > (how == PROCESSES ? MAX_PROCESSES : MAX_THREADS))
		goto usage;

	disk = open_disk(argv[optind]);
	write_disk(disk);
	check = disk_keeps(disk) && how != SAME_PAGE;
	printf("{\"how\": \"%s\", \"engine\": \"%s\", \"threads\": %d, ",
	       how_name[how], use_io_uring ? "io_uring" : "psync", threads);
	fflush(stdout);
	if (how == PROCESSES)
		do_processes(threads, seconds);
	else
		do_threads(threads, seconds);
	return 0;

usage:
	fprintf(stderr, "usage: scale [-e psync|io_uring] DISK THREADS HOW SECONDS\n"
		"  HOW: shared-thp, shared-words, same-page, private, ranges or processes\n");
	return 2;
}
