// SPDX-License-Identifier: GPL-2.0
/*
 * What direct I/O costs beside the I/O itself:
 *
 *	costs register DISK	registering buffers with io_uring, by size
 *	costs first DISK	the first I/O of a process, by number of mappings
 *	costs change DISK	changes of mappings, in a process with I/O in flight
 *	costs busy DISK		changes of mappings of a buffer with I/O in flight
 *	costs after DISK	the first I/O of a page after a change of its mapping
 *	costs sparse DISK	reads all over 1 TiB of address space
 *	costs memory DISK	kernel memory for buffers in use
 *
 * DISK is a block device, or slow:NS: a null_blk that the program creates for
 * itself, through configfs, of which each request takes NS nanoseconds. "change"
 * wants one like slow:1000000000, "busy" one like slow:2000000, and slow:200000000
 * to see what is done when rmap_wait_ms is over; the others a fast one. Disks that
 * QEMU throttles let short bursts through at full speed, and with --icount time
 * flies while the guest waits for them. The first 8 MiB of DISK are overwritten.
 *
 * Prints one line of JSON. "results" has an object for each thing measured, with
 * what it is, and the time it takes in nanoseconds as "ns": {"median": N, "min":
 * N, "max": N, "n": ROUNDS}, or {"median": null, "reason": TEXT}.
 *
 * "change" compares what the same system calls take, on memory that has nothing
 * to do with I/O, in processes that
 *	none	have done no direct I/O,
 *	idle	have done some,
 *	flight	have reads in flight, on DISK,
 * with the buffers in another GiB of the address space (other-gib), in the same
 * GiB (same-gib), or between the pieces that are changed, in the same 2 MiB
 * (same-2m). And on buffers themselves that are idle (own), written to by a disk
 * before each change. All of them have the same mappings. The reads are started
 * before the time is taken and end after; rounds in which one has ended too early
 * do not count, so no interrupt and no other thread takes part, and the times
 * mean something on one processor, counted in instructions, as well. The disk
 * must be slow enough for that: slow:1000000000.
 *
 * "busy" changes memory that a read is on its way to, and the same memory when
 * the read has ended (idle). 32 reads are under way then, of which this is the
 * last; "reads" is the time until all of them have ended. "in_flight" is the
 * number of rounds in which that read had not ended when the change was over.
 *
 * "first" forks a process for each round: its first, second and 100th read, when
 * it has so many mappings, in memory, which are adjacent or apart. With first_ios 0
 * it is the first one that registers the notifier, otherwise that is put off.
 *
 * "after" uses each of 2048 pages for a read or a write, changes the mapping of all,
 * and uses each twice, first and second. The changes are a fork, of a child that is
 * still there (fork) or has exited (exited), mprotect() to read-only and back, and
 * MADV_DONTNEED (madvise). The times are those of one read or write.
 *
 * "sparse" has a page in each GiB of 1 TiB, and reads into each of them three times,
 * one after the other.
 *
 * "memory" reads and writes each page of 256 MiB of buffers in 4 KiB pieces. Its
 * results are bytes that the kernel has come to use since before: in "kernel"
 * without page tables, and in "slab" of it, both of a control group; in
 * "all_slab" of the system, free objects included. When the buffers have been
 * used, have not been used for ten minutes (idle), are unmapped, are unmapped and the
 * kernel was told to reclaim memory (pressure), and when the process is gone (exited).
 * And for the pages of "sparse", of which there are few (used, unmapped).
 */
#define _GNU_SOURCE
#include <liburing.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>

#include "common.h"

#define KIB		(1UL << 10)
#define MIB		(1UL << 20)
#define GIB		(1UL << 30)
#define SPARE		(256 * MIB)	/* memory to leave free */

#define ROUNDS		11
#define MAX_DEPTH	32

/* At addresses of its own: nothing else gets in between */
#define ARENA		((char *)(1UL << 44))
#define PIECE		(64 * KIB)
#define PIECES		16
#define STRIDE		(2 * PIECE)	/* half of the 2 MiB is for buffers */

static int disk;
static const char *separator = "";

/* The members of a result; print_times() or the like is to follow */
__attribute__((format(printf, 1, 2)))
static void result(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("%s{", separator);
	vprintf(fmt, args);
	printf(", \"ns\": ");
	va_end(args);
	separator = ", ";
}

static void result_end(void)
{
	printf("}");
}

/* Run in a process of its own, of which nothing is left then */
static void in_child(void (*fn)(void *arg), void *arg)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		fn(arg);
		fflush(stdout);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid)
		err(1, "waitpid");
	if (status)
		errx(1, "a process has failed: status %#x", status);
}

static void map_at(char *p, size_t len)
{
	if (mmap(p, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		 MAP_FIXED | MAP_POPULATE, -1, 0) != p)
		err(1, "mmap");
}

static char *piece(int i)
{
	return ARENA + i * STRIDE;
}

/* Where mremap() moves them to: nothing is there */
static char *elsewhere(int i)
{
	return piece(i) + 256 * MIB;
}

enum op { MUNMAP, MPROTECT, DONTNEED, MREMAP, FORK, MOVE_PAGES, OPS };

static const char * const op_name[OPS] = {
	"munmap", "mprotect", "madvise", "mremap", "fork", "move_pages",
};

static int nodes(void)
{
	return access("/sys/devices/system/node/node1", F_OK) ? 1 : 2;
}

static void fork_and_exit(void)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		err(1, "fork");
}

/* Change a piece; of move_pages() the number of pages that have moved */
static int change(enum op op, int i)
{
	int to[PIECE / PAGE], status[PIECE / PAGE], j, moved = 0;
	void *page[PIECE / PAGE];
	char *p = piece(i);
	int ret = 0;

	switch (op) {
	case MUNMAP:
		ret = munmap(p, PIECE);
		break;
	case MPROTECT:
		ret = mprotect(p, PIECE, PROT_READ);
		break;
	case DONTNEED:
		ret = madvise(p, PIECE, MADV_DONTNEED);
		break;
	case MREMAP:
		if (mremap(p, PIECE, PIECE, MREMAP_MAYMOVE | MREMAP_FIXED,
			   elsewhere(i)) == MAP_FAILED)
			ret = -1;
		break;
	case FORK:
		fork_and_exit();
		break;
	default:
		for (j = 0; j < (int)(PIECE / PAGE); j++) {
			page[j] = p + j * PAGE;
			to[j] = 1;
		}
		ret = syscall(SYS_move_pages, 0, PIECE / PAGE, page, to, status,
			      MPOL_MF_MOVE);
		for (j = 0; ret >= 0 && j < (int)(PIECE / PAGE); j++)
			moved += status[j] == 1;
	}
	if (ret < 0)
		err(1, "%s", op_name[op]);
	return moved;
}

/* As they were */
static void restore(enum op op, int i)
{
	if (op == MREMAP && munmap(elsewhere(i), PIECE))
		err(1, "munmap");
	if (op != FORK)
		map_at(piece(i), PIECE);
}

enum place { NOWHERE, OTHER_GIB, SAME_GIB, SAME_2M, OWN };

static const char * const place_name[] = {
	"none", "other-gib", "same-gib", "same-2m", "own",
};

struct setting {
	const char *state;
	enum place place;
	int depth;
	int fast;		/* a disk for I/O that is waited for */
};

/* Page by page, which are buffers; in the same 2 MiB they are all over it */
static char *buffer(enum place place, int i)
{
	switch (place) {
	case OTHER_GIB:
		return ARENA + GIB + i * PAGE;
	case SAME_GIB:
		return ARENA + 512 * MIB + i * PAGE;
	default:
		return piece(i % PIECES) + PIECE + i / PIECES * PAGE;
	}
}

static void map_everything(void)
{
	int i;

	for (i = 0; i < PIECES; i++) {
		map_at(piece(i), PIECE);
		map_at(buffer(SAME_2M, i), 2 * PAGE);
		/* fork() must not find out how busy they are */
		madvise(buffer(SAME_2M, i), 2 * PAGE, MADV_DONTFORK);
	}
	map_at(buffer(SAME_GIB, 0), MAX_DEPTH * PAGE);
	madvise(buffer(SAME_GIB, 0), MAX_DEPTH * PAGE, MADV_DONTFORK);
	map_at(buffer(OTHER_GIB, 0), MAX_DEPTH * PAGE);
	madvise(buffer(OTHER_GIB, 0), MAX_DEPTH * PAGE, MADV_DONTFORK);
}

static void read_into(int fd, char *buf, size_t len)
{
	if (pread(fd, buf, len, 0) != (ssize_t)len)
		err(1, "read");
}

/* fork() takes its time, and one piece moves as well as another */
static int pieces(enum op op)
{
	return op < FORK ? PIECES : 4;
}

/*
 * Return immediately after a tick of the kernel's clock: the next one, and what
 * is put off until then, is not to fall into the time to be taken.
 */
static void wait_for_tick(void)
{
	struct timespec then, now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &then);
	do {
		clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	} while (now.tv_nsec == then.tv_nsec && now.tv_sec == then.tv_sec);
}

static uint64_t time_of(enum op op, const struct setting *s)
{
	uint64_t ns;
	int i;

	if (s->place == OWN)
		for (i = 0; i < PIECES; i++)
			read_into(s->fast, piece(i), PIECE);
	wait_for_tick();
	ns = now_ns();
	for (i = 0; i < pieces(op); i++)
		if (op == MOVE_PAGES) {
			if (change(op, i) != PIECE / PAGE)
				errx(1, "idle pages have not moved");
		} else {
			change(op, i);
		}
	ns = now_ns() - ns;
	for (i = 0; i < pieces(op); i++)
		restore(op, i);
	return ns / pieces(op);
}

static void change_in(void *arg)
{
	static uint64_t ns[OPS][ROUNDS];
	static struct iocb cb[MAX_DEPTH];
	struct io_event ev[MAX_DEPTH];
	struct setting *s = arg;
	int i, op, round, good[OPS] = { 0 };
	aio_context_t ctx;

	map_everything();
	/* Whether used or not: it is a mapping as well */
	ctx = aio_open(MAX_DEPTH);
	if (s->place != NOWHERE && s->place != OWN)
		for (i = 0; i < MAX_DEPTH; i++)
			read_into(s->fast, buffer(s->place, i), PAGE);

	/* The first round is for warming up */
	for (round = -1; round < ROUNDS; round++) {
		for (i = 0; i < s->depth; i++)
			aio_read(ctx, &cb[i], disk, buffer(s->place, i), PAGE, 0);
		for (op = 0; op < OPS; op++) {
			uint64_t t;

			if (op == MOVE_PAGES && nodes() < 2)
				continue;
			t = time_of(op, s);
			if (s->depth && aio_wait(ctx, 0, 1, ev)) {
				/* Too late: the disk is not slow enough */
				i--;
				break;
			}
			if (round >= 0)
				ns[op][good[op]++] = t;
		}
		for (; i > 0; i -= aio_wait(ctx, i, i, ev))
			;
	}
	for (op = 0; op < OPS; op++) {
		result("\"op\": \"%s\", \"state\": \"%s\", \"place\": \"%s\", \"depth\": %d",
		       op_name[op], s->state, place_name[s->place], s->depth);
		if (op == MOVE_PAGES && nodes() < 2)
			print_no_times("one NUMA node");
		else if (!good[op])
			print_no_times("the disk is not slow enough");
		else
			print_times(ns[op], good[op]);
		result_end();
	}
}

static void do_change(void)
{
	static const int depths[] = { 1, 8, MAX_DEPTH };
	struct setting s = { "none", NOWHERE, 0, -1 };
	enum place place;
	unsigned int i;

	s.fast = open_nullb(0);
	if (s.fast < 0)
		err(1, "no null_blk through configfs");
	/* The separator is the parent's, too */
	in_child(change_in, &s);
	separator = ", ";
	for (place = OTHER_GIB; place <= OWN; place++) {
		s = (struct setting) { "idle", place, 0, s.fast };
		in_child(change_in, &s);
	}
	for (place = OTHER_GIB; place <= SAME_2M; place++)
		for (i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
			s = (struct setting) { "flight", place, depths[i], s.fast };
			in_child(change_in, &s);
		}
}

/* "busy" */

/* The last of the reads is the one into what is changed */
static void busy_in(void *arg)
{
	static uint64_t idle[ROUNDS], busy[ROUNDS], reads[ROUNDS];
	static struct iocb cb[MAX_DEPTH];
	struct io_event ev[MAX_DEPTH];
	int i, round, in_flight = 0, left, got;
	const enum op op = *(enum op *)arg;
	aio_context_t ctx;
	uint64_t start, t;
	bool done;

	map_everything();
	ctx = aio_open(MAX_DEPTH);
	for (round = -1; round < ROUNDS; round++) {
		start = now_ns();
		for (i = 0; i < MAX_DEPTH; i++) {
			cb[i].aio_data = i;
			aio_read(ctx, &cb[i], disk, i < MAX_DEPTH - 1 ?
				 buffer(SAME_GIB, i) : piece(0), PAGE, i * PAGE);
		}
		t = now_ns();
		change(op, 0);
		t = now_ns() - t;
		done = false;
		got = aio_wait(ctx, 0, MAX_DEPTH, ev);
		for (i = 0; i < got; i++)
			done |= ev[i].data == MAX_DEPTH - 1;
		if (round >= 0) {
			busy[round] = t;
			in_flight += !done;
		}
		for (left = MAX_DEPTH - got; left; left -= got)
			got = aio_wait(ctx, 1, left, ev);
		if (round >= 0)
			reads[round] = now_ns() - start;

		/* And now that nothing is on its way to it */
		restore(op, 0);
		read_into(disk, piece(0), PAGE);
		t = now_ns();
		change(op, 0);
		if (round >= 0)
			idle[round] = now_ns() - t;
		restore(op, 0);
	}
	result("\"op\": \"%s\", \"state\": \"idle\"", op_name[op]);
	print_times(idle, ROUNDS);
	result_end();
	result("\"op\": \"%s\", \"state\": \"busy\", \"in_flight\": %d",
	       op_name[op], in_flight);
	print_times(busy, ROUNDS);
	result_end();
	result("\"op\": \"%s\", \"state\": \"reads\"", op_name[op]);
	print_times(reads, ROUNDS);
	result_end();
}

static void do_busy(void)
{
	enum op op;

	for (op = 0; op < OPS; op++) {
		if (op == MOVE_PAGES && nodes() < 2) {
			result("\"op\": \"%s\", \"state\": \"busy\"", op_name[op]);
			print_no_times("one NUMA node");
			result_end();
			continue;
		}
		in_child(busy_in, &op);
		separator = ", ";
	}
}

/* "register" */

static bool room_for(size_t len)
{
	struct sysinfo info;

	sysinfo(&info);
	return (uint64_t)info.freeram * info.mem_unit > len + SPARE;
}

static void do_register(void)
{
	static const size_t sizes[] = {
		64 * KIB, MIB, 16 * MIB, 256 * MIB, GIB,
	};
	static const char * const ops[] = { "register", "unregister" };
	static uint64_t ns[2][ROUNDS];
	struct io_uring ring;
	unsigned int i, op;
	int round, ret;

	ret = io_uring_queue_init(8, &ring, 0);
	if (ret)
		errx(1, "io_uring_setup: %s", strerror(-ret));
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct iovec iov = { ARENA, sizes[i] };
		bool room = room_for(sizes[i]);

		if (room)
			map_at(ARENA, sizes[i]);
		for (round = -1; room && round < ROUNDS; round++) {
			uint64_t t[3];

			forget(ARENA, sizes[i]);
			t[0] = now_ns();
			ret = io_uring_register_buffers(&ring, &iov, 1);
			t[1] = now_ns();
			if (!ret)
				ret = io_uring_unregister_buffers(&ring);
			t[2] = now_ns();
			if (ret)
				errx(1, "registering: %s", strerror(-ret));
			for (op = 0; op < 2 && round >= 0; op++)
				ns[op][round] = t[op + 1] - t[op];
		}
		for (op = 0; op < 2; op++) {
			result("\"op\": \"%s\", \"size\": %zu", ops[op], sizes[i]);
			if (room)
				print_times(ns[op], ROUNDS);
			else
				print_no_times("not enough free memory");
			result_end();
		}
		munmap(ARENA, sizes[i]);
	}
}

/* "first" */

enum which { FIRST, SECOND, LATER, WHICH };

#define LATER_READ	100

struct first {
	int mappings;
	bool apart;
	uint64_t ns[WHICH];
};

/*
 * Mappings of a page, which do not merge: with every other one read-only, or
 * apart. The kernel has a lock for anonymous memory (of an anon_vma), which the
 * former share, and of which each of the latter has its own.
 */
static void map_many(const struct first *f)
{
	int i;

	if (!f->apart)
		map_at(ARENA + GIB, (size_t)f->mappings * PAGE);
	for (i = 0; i < f->mappings; i++)
		if (f->apart)
			map_at(ARENA + GIB + 2L * i * PAGE, PAGE);
		else if (i % 2 && mprotect(ARENA + GIB + (long)i * PAGE, PAGE,
					   PROT_READ))
			err(1, "mprotect");
}

static void first_in(void *arg)
{
	struct first *f = arg;
	uint64_t t;
	int i;

	map_at(ARENA, PAGE);
	map_many(f);
	/* Not the time it takes to get at the code */
	now_ns();
	for (i = 0; i <= LATER_READ; i++) {
		t = now_ns();
		read_into(disk, ARENA, PAGE);
		t = now_ns() - t;
		if (i < LATER)
			f->ns[i] = t;
		else
			f->ns[LATER] = t;
	}
}

static void do_first(void)
{
	static const char * const which_name[] = { "first", "second", "later" };
	static const int mappings[] = { 10, 1000, 30000 };
	static uint64_t ns[WHICH][ROUNDS];
	struct first *f;
	unsigned int i;
	int apart, round, which;

	f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (f == MAP_FAILED)
		err(1, "mmap");
	/* The code of the library, for one thing, is not in memory at first */
	f->mappings = 1;
	in_child(first_in, f);
	for (i = 0; i < sizeof(mappings) / sizeof(mappings[0]); i++)
		for (apart = 0; apart < 2; apart++) {
			for (round = 0; round < ROUNDS; round++) {
				f->mappings = mappings[i];
				f->apart = apart;
				in_child(first_in, f);
				for (which = 0; which < WHICH; which++)
					ns[which][round] = f->ns[which];
			}
			for (which = 0; which < WHICH; which++) {
				result("\"mappings\": %d, \"are\": \"%s\", \"read\": \"%s\"",
				       mappings[i], apart ? "apart" : "adjacent",
				       which_name[which]);
				print_times(ns[which], ROUNDS);
				result_end();
			}
		}
}

/* "after" */

#define AFTER_PAGES	2048

enum after { AFTER_FORK, AFTER_EXIT, AFTER_MPROTECT, AFTER_DONTNEED, AFTERS };

static const char * const after_name[AFTERS] = {
	"fork", "exited", "mprotect", "madvise",
};

/* Returns a child that is still there, to be ended by a signal, or 0 */
static pid_t change_all(enum after after)
{
	const size_t len = AFTER_PAGES * PAGE;
	pid_t pid = 0;
	int ret = 0;

	switch (after) {
	case AFTER_FORK:
		pid = fork();
		if (!pid) {
			pause();
			_exit(1);
		}
		ret = pid;
		break;
	case AFTER_EXIT:
		fork_and_exit();
		break;
	case AFTER_MPROTECT:
		ret = mprotect(ARENA, len, PROT_READ) ?:
		      mprotect(ARENA, len, PROT_READ | PROT_WRITE);
		break;
	default:
		ret = madvise(ARENA, len, MADV_DONTNEED);
	}
	if (ret < 0)
		err(1, "%s", after_name[after]);
	return pid;
}

/* The time that the I/O of a page takes */
static uint64_t use_all(bool write)
{
	uint64_t ns = now_ns();
	ssize_t ret;
	int i;

	for (i = 0; i < AFTER_PAGES; i++) {
		char *buf = ARENA + i * PAGE;

		ret = write ? pwrite(disk, buf, PAGE, 0) : pread(disk, buf, PAGE, 0);
		if (ret != (ssize_t)PAGE)
			err(1, "%s", write ? "write" : "read");
	}
	return (now_ns() - ns) / AFTER_PAGES;
}

static void after_in(void *arg)
{
	static const char * const which_name[] = { "first", "second" };
	static uint64_t ns[2][ROUNDS];
	enum after after = *(int *)arg / 2;
	bool write = *(int *)arg % 2;
	int round, which;

	map_at(ARENA, AFTER_PAGES * PAGE);
	/* The first round is for warming up */
	for (round = -1; round < ROUNDS; round++) {
		pid_t pid;

		use_all(write);
		pid = change_all(after);
		for (which = 0; which < 2; which++) {
			uint64_t t = use_all(write);

			if (round >= 0)
				ns[which][round] = t;
		}
		if (pid && (kill(pid, SIGKILL) || waitpid(pid, NULL, 0) != pid))
			err(1, "kill");
	}
	for (which = 0; which < 2; which++) {
		result("\"after\": \"%s\", \"op\": \"%s\", \"which\": \"%s\"",
		       after_name[after], write ? "write" : "read", which_name[which]);
		print_times(ns[which], ROUNDS);
		result_end();
	}
}

static void do_after(void)
{
	int i;

	for (i = 0; i < 2 * AFTERS; i++) {
		in_child(after_in, &i);
		separator = ", ";
	}
}

/* "sparse" */

#define SPARSE		1024UL	/* GiB */
#define VISITS		3

static char *sparse_page(unsigned long i)
{
	/* Not all of them at the same place of the GiB */
	return ARENA + i * GIB + i % 512 * 2 * MIB;
}

static void map_sparse(void)
{
	unsigned long i;

	if (mmap(ARENA, SPARSE * GIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED |
		 MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != ARENA)
		err(1, "mmap");
	for (i = 0; i < SPARSE; i++)
		*sparse_page(i) = 1;
}

/* The time that a read takes */
static uint64_t visit_sparse(void)
{
	uint64_t ns = now_ns();
	unsigned long i;

	for (i = 0; i < SPARSE; i++)
		read_into(disk, sparse_page(i), PAGE);
	return (now_ns() - ns) / SPARSE;
}

static void sparse_in(void *arg)
{
	uint64_t *ns = arg;
	int i;

	map_sparse();
	for (i = 0; i < VISITS; i++)
		ns[i] = visit_sparse();
}

static void do_sparse(void)
{
	static const char * const visit[VISITS] = { "first", "second", "third" };
	static uint64_t ns[VISITS][ROUNDS];
	uint64_t *shared;
	int i, round;

	shared = mmap(NULL, VISITS * sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		err(1, "mmap");
	for (round = -1; round < ROUNDS; round++) {
		in_child(sparse_in, shared);
		for (i = 0; i < VISITS && round >= 0; i++)
			ns[i][round] = shared[i];
	}
	for (i = 0; i < VISITS; i++) {
		result("\"gib\": %lu, \"visit\": \"%s\"", SPARSE, visit[i]);
		print_times(ns[i], ROUNDS);
		result_end();
	}
}

/* "memory" */

#define MUCH		(256 * MIB)
#define TIMES		3
#define IDLE_SECONDS	605	/* ten minutes, and for timers to be late */

static void print_memory(const char *pages, const char *stage, size_t size,
			 const struct kernel_memory *before)
{
	struct kernel_memory now = kernel_memory();

	now.kernel -= before->kernel;
	now.slab -= before->slab;
	now.all_slab -= before->all_slab;
	printf("%s{\"pages\": \"%s\", \"stage\": \"%s\", \"kernel\": %ld, \"slab\": %ld, \"all_slab\": %ld, \"kernel_per_gib\": %ld, \"percent\": %.4f}",
	       separator, pages, stage, now.kernel, now.slab, now.all_slab,
	       (long)(now.kernel * ((double)GIB / size)), now.kernel * 100.0 / size);
	separator = ", ";
}

/* Each page is read and written several times */
static void use_pages(bool check)
{
	size_t off;
	int i;

	for (i = 0; i < TIMES; i++)
		for (off = 0; off < MUCH; off += PAGE) {
			char *buf = ARENA + off;

			if (pread(disk, buf, PAGE, off % DISK) != PAGE)
				err(1, "read");
			if (check && !sectors_right(buf, PAGE, off % DISK))
				errx(1, "wrong data");
			if (pwrite(disk, buf, PAGE, off % DISK) != PAGE)
				err(1, "write");
		}
}

static void memory_in(void *arg)
{
	const char *pages = arg;
	bool huge = !strcmp(pages, "huge");
	struct kernel_memory before;
	bool check;
	int i;

	if (prctl(PR_SET_THP_DISABLE, !huge, 0, 0, 0))
		err(1, "prctl");
	write_disk(disk);
	check = disk_keeps(disk);
	if (mmap(ARENA, MUCH, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		 MAP_ANONYMOUS | MAP_FIXED, -1, 0) != ARENA)
		err(1, "mmap");
	if (huge && madvise(ARENA, MUCH, MADV_HUGEPAGE))
		err(1, "MADV_HUGEPAGE");
	memset(ARENA, 0x5a, MUCH);
	if (huge_pages() != (huge ? MUCH / KIB : 0)) {
		printf("%s{\"pages\": \"%s\", \"stage\": \"used\", \"kernel\": null, \"reason\": \"%lu of %lu MiB in huge pages\"}",
		       separator, pages, huge_pages() / KIB, MUCH / MIB);
		return;
	}
	before = kernel_memory();
	use_pages(check);
	print_memory(pages, "used", MUCH, &before);
	/* As any other process would, wake up the processor at times */
	for (i = 0; i < IDLE_SECONDS; i++)
		sleep(1);
	print_memory(pages, "idle", MUCH, &before);
	if (munmap(ARENA, MUCH))
		err(1, "munmap");
	print_memory(pages, "unmapped", MUCH, &before);
	write_file("/proc/sys/vm/drop_caches", "2");
	reclaim_group(MUCH);
	print_memory(pages, "pressure", MUCH, &before);
}

static void sparse_memory_in(void *arg)
{
	struct kernel_memory before;
	int i;

	map_sparse();
	before = kernel_memory();
	for (i = 0; i < VISITS; i++)
		visit_sparse();
	print_memory("sparse", "used", SPARSE * GIB, &before);
	if (munmap(ARENA, SPARSE * GIB))
		err(1, "munmap");
	print_memory("sparse", "unmapped", SPARSE * GIB, &before);
}

static void do_memory(void)
{
	struct kernel_memory before;

	enter_group();
	before = kernel_memory();
	in_child(memory_in, "small");
	separator = ", ";
	print_memory("small", "exited", MUCH, &before);
	before = kernel_memory();
	in_child(memory_in, "huge");
	print_memory("huge", "exited", MUCH, &before);
	in_child(sparse_memory_in, NULL);
}

static const struct {
	const char *name;
	void (*fn)(void);
} measure[] = {
	{ "register", do_register }, { "first", do_first }, { "change", do_change },
	{ "busy", do_busy }, { "after", do_after }, { "sparse", do_sparse },
	{ "memory", do_memory },
};

int main(int argc, char **argv)
{
	unsigned int i, nr = sizeof(measure) / sizeof(measure[0]);

	for (i = 0; argc == 3 && i < nr; i++)
		if (!strcmp(argv[1], measure[i].name))
			break;
	if (argc != 3 || i == nr) {
		fprintf(stderr, "usage: costs register|first|change|busy|after|sparse|memory DISK\n");
		return 2;
	}
	disk = open_disk(argv[2]);
	/* Small pages, whatever the system's default; for children as well */
	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0))
		err(1, "prctl");
	printf("{\"what\": \"%s\", \"results\": [", measure[i].name);
	measure[i].fn();
	printf("]}\n");
	return 0;
}
