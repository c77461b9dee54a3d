// SPDX-License-Identifier: GPL-2.0
/*
 * Who has to do with the memory of direct I/O, but need not wait for it, or not for
 * long: a wait must buy something, and is bounded for the whole operation. And
 * what I/O leaves behind, what it refuses, and when it begins to do without pins.
 *
 * With pins nobody ever waits, so in pin mode all of it is asked for as well, unless
 * a test says otherwise. I/O is held by a gate: it is in flight for as long as
 * a test wants, and whoever waits for it waits as long as it is allowed to.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "edges.h"
#include "kselftest_harness.h"

#define FIRST_IOS	"/sys/kernel/mm/nopin/first_ios"
#define SLAB		"/sys/kernel/slab/nopin_chunk/"

/* Who waits for this long has waited for the I/O; who does not is done in a quarter */
#define WAIT_MS		(with_lockdep() ? 20000U : 5000U)
#define AT_ONCE_MS	(WAIT_MS / 4)

/*
 * What one operation may take that is allowed to wait, in all: as long as it is
 * allowed to, and what a slow machine needs for the rest
 */
#define BOUND_WAIT_MS	(with_lockdep() ? 500U : DEFAULT_WAIT_MS)
#define BOUND_MS	(2 * BOUND_WAIT_MS + (with_lockdep() ? 2000U : 100U))

#define EXPECT_AT_ONCE(what, ms)					\
do {									\
	note("%s: %ld ms", what, ms);					\
	EXPECT_LE(0, ms);						\
	EXPECT_GT(AT_ONCE_MS, ms);					\
} while (0)

/* Kernels that check their locks are slow */
#define TEST_60(group, name, call)					\
	TEST_F_TIMEOUT(group, name, 60) { call; }

/* ---- what is done to memory, or to the file that is mapped there ---- */

struct area {
	char *p;
	size_t len;
	int fd;
};

static int do_mremap(struct area *a)
{
	char *to = mmap(NULL, a->len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (to == MAP_FAILED ||
	    mremap(a->p, a->len, a->len, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		return -1;
	a->p = to;
	return 0;
}

/* What is there afterwards */
enum after { KEPT, ZEROS, EITHER, GONE };

#define DO(name, call)	static int run_##name(struct area *a) { return call; }
DO(munmap, munmap(a->p, a->len))
DO(mprotect, mprotect(a->p, a->len, PROT_READ))
DO(mremap, do_mremap(a))
DO(mlock, mlock(a->p, a->len))
DO(dontneed, madvise(a->p, a->len, MADV_DONTNEED))
DO(free, madvise(a->p, a->len, MADV_FREE))
DO(cold, madvise(a->p, a->len, MADV_COLD))
DO(fsync, fsync(a->fd))
DO(truncate, ftruncate(a->fd, 0))
DO(punch, fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE))
DO(exit, (_exit(0), 0))
DO(exec, execl("/proc/self/exe", "edges", "--exit", NULL))

enum op_id {
	OP_munmap, OP_mprotect, OP_mremap, OP_mlock, OP_dontneed, OP_free, OP_cold,
	OP_fsync, OP_truncate, OP_punch, OP_exit, OP_exec,
};

/* In the order of the numbers */
#define ROW(name, inside, after)	{ #name, run_##name, inside, after }
static const struct op {
	const char *name;
	int (*run)(struct area *a);
	bool inside;		/* the process does it to itself */
	enum after after;
} ops[] = {
	ROW(munmap, true, GONE),
	ROW(mprotect, true, KEPT),
	ROW(mremap, true, KEPT),
	ROW(mlock, true, KEPT),
	ROW(dontneed, true, ZEROS),
	ROW(free, true, EITHER),
	ROW(cold, true, KEPT),
	ROW(fsync, false, KEPT),
	ROW(truncate, false, ZEROS),
	ROW(punch, false, ZEROS),
	ROW(exit, true, GONE),
	ROW(exec, true, GONE),
};

/* The time it takes, in ms, or -errno */
static long timed(const struct op *op, struct area *a)
{
	uint64_t start = now_ms();

	if (op->run(a))
		return -errno;
	return now_ms() - start;
}

/* ---- bound: as long as anybody may wait, and not once for each place ---- */

struct mapper {
	struct io io;
	int fd;
	unsigned int places, nr;
	struct proc proc[MAX_IO];
	const struct op *op;
};

/* The first page of the file at so many places, and a read into each */
static void mapper_main(int in, int out, void *arg)
{
	struct mapper *m = arg;
	struct area a = { .fd = m->fd, .len = m->places * GB };
	int ret = 0;

	a.p = mmap(NULL, a.len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		   -1, 0);
	for (size_t i = 0; i < m->places && !ret; i++)
		if (mmap(a.p + i * GB, PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, m->fd, 0) == MAP_FAILED)
			ret = -errno;
	say(out, ret ?: io_prepare(&m->io, a.p, m->places, PAGE, GB));
	await(in);
	say(out, io_submit_all(&m->io));
	await(in);
	if (m->op->inside) {
		say(out, timed(m->op, &a));
		await(in);
	}
	say(out, io_reap_all(&m->io));
}

FIXTURE(bound) {
	struct mapper m;
};

FIXTURE_VARIANT(bound) {
	unsigned int processes, places;
};

FIXTURE_VARIANT_ADD(bound, one_process) { .processes = 1, .places = MAX_IO };
FIXTURE_VARIANT_ADD(bound, many_processes) { .processes = MAX_IO, .places = 1 };

FIXTURE_SETUP(bound)
{
	struct mapper *m = &self->m;

	NEED("NOPIN_HELD");
	NEED("NOPIN_EXT4");
	m->fd = open(getenv("NOPIN_EXT4"), O_RDWR | O_TMPFILE, 0600);
	ASSERT_LE(0, m->fd);
	ASSERT_EQ(0, ftruncate(m->fd, PAGE));
	ASSERT_EQ(0, io_open(&m->io, "NOPIN_HELD", false, BOUND_WAIT_MS));
	m->io.same = true;
	m->places = variant->places;
	m->nr = variant->processes;
}

FIXTURE_TEARDOWN(bound)
{
	io_close(&self->m.io);
	close(self->m.fd);
}

static void bound_run(struct __test_metadata *_metadata, struct mapper *m,
		      const struct op *op)
{
	unsigned int n = m->nr * m->places;
	struct area a = { .fd = m->fd };
	char buf[PAGE] = "";
	unsigned long bios;
	long most = 0;

	m->op = op;
	for (unsigned int i = 0; i < m->nr; i++) {
		ASSERT_EQ(0, proc_start(&m->proc[i], mapper_main, m));
		ASSERT_EQ(0, hear(&m->proc[i]));
	}
	bios = vmstat("nopin_bio");
	ASSERT_EQ(0, gate_shut(&m->io.gate, GATE_ASKED, 0));
	for (unsigned int i = 0; i < m->nr; i++) {
		ASSERT_EQ(0, tell(&m->proc[i]));
		ASSERT_EQ(0, hear(&m->proc[i]));
	}
	ASSERT_EQ(0, gate_held(&m->io.gate, n));
	if (nopin())
		ASSERT_LE(n, vmstat("nopin_bio") - bios);

	/* Another process does it; or each of them does, and has its own bound */
	if (!op->inside)
		most = timed(op, &a);
	for (unsigned int i = 0; i < m->nr; i++) {
		uint64_t start = now_ms();
		long took;

		ASSERT_EQ(0, tell(&m->proc[i]));
		if (!op->inside)
			continue;
		took = hear(&m->proc[i]);
		if (op == &ops[OP_exit] && took == -EPIPE)
			took = now_ms() - start;
		ASSERT_LE(0, took);
		if (took > most)
			most = took;
	}
	note("%s, %u reads in flight: %ld ms", op->name, n, most);
	EXPECT_LE(0, most);
	EXPECT_GE(BOUND_MS, most);
	EXPECT_EQ(0, gate_held(&m->io.gate, n));
	ASSERT_EQ(0, gate_idle(&m->io.gate));
	for (unsigned int i = 0; i < m->nr; i++) {
		if (op->inside && op != &ops[OP_exit])
			tell(&m->proc[i]);
		EXPECT_EQ(op == &ops[OP_exit] ? -EPIPE : 0, hear(&m->proc[i]));
		EXPECT_EQ(0, proc_wait(&m->proc[i]));
	}
	EXPECT_EQ(0, pins_left());

	/* What the file has now */
	ASSERT_EQ(0, ftruncate(m->fd, PAGE));
	ASSERT_EQ(PAGE, pread(m->fd, buf, PAGE, 0));
	EXPECT_EQ(-1, op->after == ZEROS ? byte_check(buf, PAGE, 0) :
					   pat_check(buf, PAGE, m->io.seed, 0));
}

TEST_60(bound, fsync, bound_run(_metadata, &self->m, &ops[OP_fsync]))
TEST_60(bound, truncate, bound_run(_metadata, &self->m, &ops[OP_truncate]))
TEST_60(bound, punch, bound_run(_metadata, &self->m, &ops[OP_punch]))
TEST_60(bound, munmap, bound_run(_metadata, &self->m, &ops[OP_munmap]))
TEST_60(bound, exit, bound_run(_metadata, &self->m, &ops[OP_exit]))

/*
 * ---- neighbour: other parts of a huge page have nothing to do with the I/O;
 * atonce: anonymous memory, where a wait buys nothing ----
 */

struct held {
	struct io io;
	struct grab grab;
	struct mem m;
	struct target t;	/* of I/O that goes through something else */
};

static int held_open(struct held *h, bool write)
{
	/* Pages that are freed are the first to be used again on the same processor */
	pin_to_cpu(0);
	return io_open(&h->io, "NOPIN_HELD", write, WAIT_MS) ?:
	       grab_init(&h->grab, MEM_ANON, 2 * BUF_LEN);
}

#define HELD(name)							\
FIXTURE(name) { struct held h; };					\
FIXTURE_VARIANT(name) { bool write; };					\
FIXTURE_VARIANT_ADD(name, read) {};					\
FIXTURE_VARIANT_ADD(name, write) { .write = true };			\
FIXTURE_SETUP(name)							\
{									\
	NEED("NOPIN_HELD");						\
	ASSERT_EQ(0, held_open(&self->h, variant->write));		\
}									\
FIXTURE_TEARDOWN(name)							\
{									\
	io_close(&self->h.io);						\
	grab_exit(&self->h.grab);					\
}

HELD(neighbour)
HELD(atonce)

#define NEXT		(64 * KB)

/* Something is done to all of the buffer; or to the end of a huge page beside it */
static void held_run(struct __test_metadata *_metadata, struct held *h, bool beside,
		     const struct op *op)
{
	struct io *io = &h->io;
	struct mem *m = &h->m;
	size_t step = beside ? 2 * BUF_IO : BUF_IO;
	struct area a = { .fd = -1 };
	long took;

	ASSERT_EQ(0, beside ? mem_get(m, MEM_THP, 2 * MB) :
			      mem_get(m, MEM_ANON, BUF_LEN));
	a.len = beside ? NEXT : BUF_LEN;
	a.p = m->p + m->len - a.len;
	memset(m->p, GRAB_BYTE, m->len);
	ASSERT_EQ(0, io_prepare(io, m->p, BUF_NR, BUF_IO, step));
	if (beside)
		ASSERT_TRUE(mem_is_huge(m->p));
	ASSERT_EQ(0, io_go(io));
	took = timed(op, &a);
	EXPECT_AT_ONCE(op->name, took);
	/* What was freed belongs to somebody else now */
	ASSERT_EQ(0, grab_fill(&h->grab));
	EXPECT_EQ(0, gate_held(&io->gate, BUF_NR));
	ASSERT_EQ(0, io_finish(io));
	EXPECT_EQ(-1, grab_check(&h->grab));

	if (io->write)
		EXPECT_EQ(-1, io_check_disk(io, false));
	for (int i = 0; i < BUF_NR && beside; i++)
		EXPECT_EQ(-1, byte_check(io->p + i * step + BUF_IO, BUF_IO, GRAB_BYTE));
	if (beside)
		EXPECT_EQ(-1, io_check(io, true));
	if (op->after == KEPT)
		EXPECT_EQ(-1, byte_check(a.p, a.len, GRAB_BYTE));
	if (op->after == ZEROS)
		EXPECT_EQ(-1, byte_check(a.p, a.len, 0));
	EXPECT_EQ(0, pins_left());
}

#define HELD_TEST(group, op, beside)					\
	TEST_60(group, op, held_run(_metadata, &self->h, beside, &ops[OP_##op]))

HELD_TEST(neighbour, munmap, true)
HELD_TEST(neighbour, mprotect, true)
HELD_TEST(neighbour, mremap, true)
HELD_TEST(neighbour, mlock, true)
HELD_TEST(neighbour, dontneed, true)
HELD_TEST(neighbour, free, true)
HELD_TEST(neighbour, cold, true)
HELD_TEST(atonce, munmap, false)
HELD_TEST(atonce, dontneed, false)

/*
 * A child has memory of its own, with what was there when it was born. If the device
 * only reads, the child changes its memory.
 */
static void child_main(int in, int out, void *arg)
{
	struct io *io = arg;
	uint64_t start;

	await(in);
	start = now_ms();
	if (io->write)
		memset(io->p, GRAB_BYTE, BUF_LEN);
	say(out, now_ms() - start);
	await(in);
	say(out, io->write ? byte_check(io->p, BUF_LEN, GRAB_BYTE) :
			     io_check(io, false));
}

/*
 * It is born when all is in flight, or @before. With @parent, its parent is the first
 * to change its memory, and the pages are the child's only; what goes to the disk then
 * is the old or the new, as the parent should not have done that.
 */
static void child_run(struct __test_metadata *_metadata, struct held *h, bool before,
		      bool parent)
{
	struct io *io = &h->io;
	struct proc child;
	uint64_t start;
	long took;

	if (before && !io->write)
		SKIP(return, "what a device writes to is not shared");
	ASSERT_EQ(0, mem_get(&h->m, MEM_ANON, BUF_LEN));
	ASSERT_EQ(0, io_prepare(io, h->m.p, BUF_NR, BUF_IO, BUF_IO));
	if (before)
		ASSERT_EQ(0, proc_start(&child, child_main, io));
	ASSERT_EQ(0, io_go(io));
	start = now_ms();
	if (!before)
		ASSERT_EQ(0, proc_start(&child, child_main, io));
	if (parent)
		memset(io->p, GRAB_BYTE, BUF_LEN);
	took = now_ms() - start;
	EXPECT_AT_ONCE(parent ? "COW by the parent" : "fork", took);
	ASSERT_EQ(0, tell(&child));
	took = hear(&child);
	EXPECT_AT_ONCE("COW by the child", took);
	EXPECT_EQ(0, gate_held(&io->gate, 1));
	ASSERT_EQ(0, io_finish(io));

	ASSERT_EQ(0, tell(&child));
	EXPECT_EQ(-1, hear(&child));
	EXPECT_EQ(0, proc_wait(&child));
	/* The parent sees the data */
	EXPECT_EQ(-1, parent ? byte_check(io->p, BUF_LEN, GRAB_BYTE) : io_check(io, true));
	if (io->write)
		EXPECT_EQ(-1, io_check_disk(io, parent));
	EXPECT_EQ(0, pins_left());
}

TEST_60(atonce, fork, child_run(_metadata, &self->h, false, false))
TEST_60(atonce, cow_child, child_run(_metadata, &self->h, true, false))
TEST_60(atonce, cow_parent, child_run(_metadata, &self->h, true, true))

/*
 * A process that ends, or becomes another program. It must have no I/O of its own,
 * as exec waits for that, pins or no pins: a task with the same memory starts it, and
 * ends.
 */
struct ender {
	struct io *io;
	const struct op *op;
};

static int starter_main(void *arg)
{
	struct io *io = arg;

	io->ret = io_go(io);
	return 0;
}

static void ender_main(int in, int out, void *arg)
{
	static char stack[256 * KB];
	struct ender *e = arg;
	struct mem m;
	int ret = mem_get(&m, MEM_ANON, BUF_LEN) ?:
		  io_prepare(e->io, m.p, BUF_NR, BUF_IO, BUF_IO);

	if (!ret) {
		waitpid(clone(starter_main, stack + sizeof(stack),
			      CLONE_VM | CLONE_VFORK | SIGCHLD, e->io), NULL, 0);
		ret = e->io->ret;
	}
	say(out, ret);
	await(in);
	e->op->run(NULL);
	_exit(1);
}

static void ender_run(struct __test_metadata *_metadata, struct held *h,
		      const struct op *op)
{
	struct io *io = &h->io;
	struct ender e = { io, op };
	struct proc p;
	uint64_t start;
	long took;

	ASSERT_EQ(0, proc_start(&p, ender_main, &e));
	ASSERT_EQ(0, hear(&p));
	start = now_ms();
	ASSERT_EQ(0, tell(&p));
	/* Closed after the memory is gone */
	ASSERT_EQ(-EPIPE, hear(&p));
	took = now_ms() - start;
	EXPECT_AT_ONCE(op->name, took);
	ASSERT_EQ(0, grab_fill(&h->grab));
	EXPECT_EQ(0, gate_held(&io->gate, BUF_NR));
	ASSERT_EQ(0, gate_idle(&io->gate));
	EXPECT_EQ(0, proc_wait(&p));
	EXPECT_EQ(-1, grab_check(&h->grab));
	io->nr = BUF_NR;
	io->len = BUF_IO;
	if (io->write)
		EXPECT_EQ(-1, io_check_disk(io, false));
	EXPECT_EQ(0, pins_left());
}

TEST_60(atonce, exit, ender_run(_metadata, &self->h, &ops[OP_exit]))
TEST_60(atonce, exec, ender_run(_metadata, &self->h, &ops[OP_exec]))

/* ---- other: I/O that depends on somebody is never waited for, nor pinned ---- */

#define OTHER_DIR	"/tmp/nopin/edges"

FIXTURE(other) {
	struct held h;
};

FIXTURE_VARIANT(other) {
	const char *env, *other;
	/* To make something of the device that is held, and to undo that */
	const char *make, *undo;
};

FIXTURE_VARIANT_ADD(other, loop) {
	.env = "NOPIN_HELD", .other = "/dev/loop7",
	.make = "losetup /dev/loop7 $NOPIN_HELD",
	.undo = "losetup -d /dev/loop7" };
FIXTURE_VARIANT_ADD(other, btrfs) {
	.env = "NOPIN_HELD", .other = OTHER_DIR,
	.make = "mkfs.btrfs -q -f --mixed $NOPIN_HELD >/dev/null && mkdir -p " OTHER_DIR
		" && mount -t btrfs $NOPIN_HELD " OTHER_DIR,
	.undo = "umount " OTHER_DIR };
/* By fs/direct-io.c */
FIXTURE_VARIANT_ADD(other, fat) { .env = "NOPIN_HELD_FAT" };

FIXTURE_SETUP(other)
{
	struct io *io = &self->h.io;

	NEED(variant->env);
	NEED("NOPIN_EXT4");
	if (variant->make && strstr(variant->make, "btrfs"))
		NEED("NOPIN_BTRFS");
	ASSERT_EQ(0, io_open(io, variant->env, false, WAIT_MS));
	if (variant->make) {
		ASSERT_EQ(0, system(variant->make));
		setenv("NOPIN_EDGES", variant->other, 1);
		ASSERT_EQ(0, target_open(&self->h.t, "NOPIN_EDGES", MB));
		io->fd = self->h.t.fd;
		/* The loop device reads through the page cache of what is held */
		if (variant->other == strstr(variant->other, OTHER_DIR))
			io->t = &self->h.t;
	}
	ASSERT_EQ(0, mem_get(&self->h.m, MEM_SHARED_EXT4, BUF_IO));
	ASSERT_EQ(0, io_prepare(io, self->h.m.p, 1, BUF_IO, BUF_IO));
}

FIXTURE_TEARDOWN(other)
{
	io_close(&self->h.io);
	if (variant->make) {
		target_close(&self->h.t);
		EXPECT_EQ(0, system(variant->undo));
	}
}

/* Without an operation: how is it counted? */
static void other_run(struct __test_metadata *_metadata, struct held *h,
		      const struct op *op)
{
	struct area a = { .p = h->m.p, .len = BUF_IO, .fd = h->m.fd };
	struct io *io = &h->io;
	unsigned long fell = vmstat("nopin_fallback");
	unsigned long pins = vmstat("nr_foll_pin_acquired");
	unsigned long bios = vmstat("nopin_bio");
	static char copy[BUF_IO];
	long took;

	/* Like io_go(), but it may be held as any number of requests */
	ASSERT_EQ(0, gate_shut(&io->gate, GATE_ASKED, 0));
	ASSERT_EQ(0, io_submit_all(io));
	ASSERT_EQ(0, gate_held(&io->gate, 1));
	if (op) {
		took = timed(op, &a);
		EXPECT_AT_ONCE(op->name, took);
		EXPECT_EQ(0, gate_held(&io->gate, 1));
	} else {
		bios = vmstat("nopin_bio") - bios;
		fell = vmstat("nopin_fallback") - fell;
		pins = vmstat("nr_foll_pin_acquired") - pins;
		note("bios %lu, fallbacks %lu, pins %lu", bios, fell, pins);
		EXPECT_EQ(nopin(), bios > 0);
		EXPECT_EQ(0, fell);
		/* fs/direct-io.c pins a page once more for each part of it */
		if (nopin()) {
			EXPECT_EQ(0, pins);
		} else {
			EXPECT_LE(BUF_IO / PAGE, pins);
		}
	}
	ASSERT_EQ(0, io_finish(io));
	/* The file has it, even if the mapping was gone when it came */
	ASSERT_EQ(BUF_IO, pread(a.fd, copy, BUF_IO, 0));
	EXPECT_EQ(-1, io_check_at(io, copy, BUF_IO, true));
	EXPECT_EQ(0, pins_left());
}

TEST_60(other, counts, other_run(_metadata, &self->h, NULL))
TEST_60(other, fsync, other_run(_metadata, &self->h, &ops[OP_fsync]))
TEST_60(other, mprotect, other_run(_metadata, &self->h, &ops[OP_mprotect]))
TEST_60(other, munmap, other_run(_metadata, &self->h, &ops[OP_munmap]))

/* ---- reaped: a process that cannot end gives up all memory but the page ---- */

#define REAPED_LEN	(64 * MB)

/* Is it a zombie, or gone? */
static bool has_ended(pid_t pid)
{
	char path[64], state = 'X';
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (f) {
		if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
			state = 'X';
		fclose(f);
	}
	return state == 'X' || state == 'Z';
}

static void reaped_main(int in, int out, void *arg)
{
	struct io *io = arg;
	struct mem m;
	int ret = mem_get(&m, MEM_ANON, REAPED_LEN);
	char *p = m.p + REAPED_LEN / 2;

	/* Once before it is held */
	if (!ret && pread(io->fd, p, PAGE, 0) != PAGE)
		ret = -EIO;
	say(out, ret);
	await(in);
	/* In which it cannot be killed */
	say(out, pread(io->fd, p, PAGE, 0));
}

static long resident(pid_t pid)
{
	char path[64], buf[128];
	long pages = -1;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	if (sysfs_read(path, buf, sizeof(buf)) || sscanf(buf, "%*d %ld", &pages) != 1)
		return -1;
	return pages * PAGE;
}

TEST(reaped)
{
	struct io io = {};
	unsigned long bios;
	struct proc p;
	uint64_t start;
	long took, ret;
	int pidfd;

	NEED("NOPIN_HELD");
	ASSERT_EQ(0, io_open(&io, "NOPIN_HELD", false, WAIT_MS));
	ASSERT_EQ(0, proc_start(&p, reaped_main, &io));
	ASSERT_EQ(0, hear(&p));
	bios = vmstat("nopin_bio");
	ASSERT_EQ(0, gate_shut(&io.gate, GATE_ASKED, 0));
	ASSERT_EQ(0, tell(&p));
	ASSERT_EQ(0, gate_held(&io.gate, 1));
	if (nopin())
		ASSERT_LT(bios, vmstat("nopin_bio"));
	pidfd = syscall(SYS_pidfd_open, p.pid, 0);
	ASSERT_LE(0, pidfd);
	ASSERT_EQ(0, kill(p.pid, SIGKILL));
	EXPECT_LT(REAPED_LEN, resident(p.pid));
	start = now_ms();
	ret = syscall(SYS_process_mrelease, pidfd, 0) ? -errno : 0;
	took = now_ms() - start;
	note("process_mrelease: %ld, %ld ms, %ld KiB are left", ret, took,
	     resident(p.pid) / 1024);
	EXPECT_EQ(0, ret);
	EXPECT_GT(AT_ONCE_MS, took);
	EXPECT_GT(2 * MB, resident(p.pid));
	/* Or it has ended, and this says nothing */
	EXPECT_FALSE(has_ended(p.pid));
	ASSERT_EQ(0, gate_idle(&io.gate));
	EXPECT_EQ(SIGKILL, proc_wait(&p));
	EXPECT_EQ(0, pins_left());
	io_close(&io);
}

/* ---- left: states of memory that is not there, or is there no more ---- */

/* Objects of the slab of the states, none of them kept for later; -1: unknown */
static long slab_objects(void)
{
	char buf[256];
	long nr = -1;
	FILE *f;

	sysfs_write(SLAB "shrink", "1");
	if (!sysfs_read(SLAB "objects", buf, sizeof(buf)))
		return strtol(buf, NULL, 10);
	f = fopen("/proc/slabinfo", "r");
	while (f && nr < 0 && fgets(buf, sizeof(buf), f))
		sscanf(buf, "nopin_chunk %ld", &nr);
	if (f)
		fclose(f);
	return nr;
}

#define SPARSE		(64 * GB)	/* of address space */
#define SLACK		64		/* what others may have come to use */

static void left_run(struct __test_metadata *_metadata, bool mapped)
{
	enum { READS = 32, NR = 1024 };
	long before, most, after;
	static struct iovec iov[NR];
	struct target t;
	uint64_t end;
	char *p;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	p = mmap(NULL, SPARSE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, madvise(p, SPARSE, MADV_NOHUGEPAGE));
	/* Whatever comes with the first I/O is there */
	ASSERT_EQ(PAGE, pread(t.fd, p, PAGE, 0));
	before = slab_objects();
	if (before < 0)
		SKIP(return, "no slab nopin_chunk to be read");
	if (!mapped)
		ASSERT_EQ(0, munmap(p, SPARSE));
	for (size_t i = 0; i < READS * NR; i++) {
		iov[i % NR] = (struct iovec) { p + i * 2 * MB, PAGE };
		if (mapped && i < NR)
			ASSERT_EQ(PAGE, pread(t.fd, p + i * 2 * MB, PAGE, 0));
		if (!mapped && i % NR == NR - 1)
			ASSERT_TRUE(preadv(t.fd, iov, NR, 0) == -1 && errno == EFAULT);
	}
	most = slab_objects();
	/* Else there is nothing to be given back */
	if (mapped && nopin())
		EXPECT_LE(before + NR / 2, most);
	if (mapped)
		ASSERT_EQ(0, munmap(p, SPARSE));
	end = now_ms() + 5000;
	do {
		usleep(50000);
		after = slab_objects();
	} while (after >= before + SLACK && now_ms() < end);
	note("states: %ld before, %ld then, %ld in the end", before, most, after);
	EXPECT_GT(before + SLACK, after);
}

TEST(left_by_errors) { left_run(_metadata, false); }
TEST(left_by_munmap) { left_run(_metadata, true); }

/* ---- a mapping at address 0, which begins where nothing is said to begin ---- */

TEST(address_zero)
{
	unsigned long bios;
	struct target t;
	char *volatile p;	/* the compiler knows better */

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (p)
		SKIP(return, "nothing can be mapped at address 0");
	for (int i = 0; i < 8; i++) {
		bios = vmstat("nopin_bio");
		ASSERT_EQ(16 * PAGE, pread(t.fd, p, 16 * PAGE, 0));
		if (nopin())
			EXPECT_LT(bios, vmstat("nopin_bio"));
		ASSERT_EQ(0, mprotect(p, PAGE << i % 4, PROT_READ));
		ASSERT_EQ(0, mprotect(p, PAGE << i % 4, PROT_READ | PROT_WRITE));
	}
	munmap(p, 16 * PAGE);
	target_close(&t);
}

/* ---- refused: what page faults of the processor permit, and GUP does not ---- */

static char *stack_low(void)
{
	unsigned long start, low = 0;
	char line[256];
	FILE *f = fopen("/proc/self/maps", "r");

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "[stack]") && sscanf(line, "%lx-", &start) == 1)
			low = start;
	if (f)
		fclose(f);
	return (char *)low;
}

/* Each in a new process, as its stack may have grown afterwards */
TEST(refused_below_stack)
{
	static const unsigned int gaps[] = { 1, 4, 15, 64 };
	struct target t;
	int status;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	for (size_t i = 0; i < 2 * ARRAY_SIZE(gaps); i++) {
		pid_t pid = fork();

		if (!pid) {
			char *low = stack_low(), *p = low - gaps[i / 2] * PAGE;
			long ret = i % 2 ? pread(t.fd, p, PAGE, 0) :
					   pwrite(t.fd, p, PAGE, 0);
			int err = ret < 0 ? errno : 0;

			note("%s %u pages below: %ld, errno %d, it grew by %ld",
			     i % 2 ? "read" : "write", gaps[i / 2], ret, err,
			     (low - stack_low()) / PAGE);
			_exit(!low || err != EFAULT || low != stack_low());
		}
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_EQ(0, status);
	}
}

TEST(refused_protection)
{
	static const struct {
		const char *name;
		int prot;
		bool write, touched;
	} kases[] = {
		{ "write from PROT_WRITE",	PROT_WRITE,	true },
		{ "write from PROT_EXEC",	PROT_EXEC,	true },
		{ "write from PROT_NONE",	PROT_NONE,	true },
		{ "write from PROT_NONE, touched", PROT_NONE,	true, true },
		{ "read into PROT_READ",	PROT_READ },
		{ "read into PROT_READ, touched", PROT_READ,	false, true },
		{ "read into PROT_EXEC, touched", PROT_EXEC,	false, true },
		{ "read into PROT_NONE",	PROT_NONE },
	}, *k;
	struct target t;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	for (k = kases; k < kases + ARRAY_SIZE(kases); k++) {
		char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		long ret;

		ASSERT_NE(MAP_FAILED, p);
		if (k->touched)
			memset(p, GRAB_BYTE, PAGE);
		ASSERT_EQ(0, mprotect(p, PAGE, k->prot));
		ret = k->write ? pwrite(t.fd, p, PAGE, 0) : pread(t.fd, p, PAGE, 0);
		EXPECT_EQ(-EFAULT, ret < 0 ? -errno : ret) TH_LOG("%s", k->name);
		ASSERT_EQ(0, mprotect(p, PAGE, PROT_READ));
		EXPECT_EQ(-1, byte_check(p, PAGE, k->touched ? GRAB_BYTE : 0))
			TH_LOG("%s", k->name);
	}
}

/* ---- partly: a buffer is registered as a whole ---- */

TEST(partly)
{
	enum { NR = 16 };
	static const int holes[] = { 1, NR / 2, NR - 1, 0, -1 };
	struct io_uring ring;

	ASSERT_EQ(0, io_uring_queue_init(4, &ring, 0));
	for (size_t i = 0; i < ARRAY_SIZE(holes); i++) {
		char *p = mmap(NULL, NR * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		ASSERT_NE(MAP_FAILED, p);
		/* More than one mapping may be a buffer */
		ASSERT_EQ(0, madvise(p + 4 * PAGE, PAGE, MADV_DONTFORK));
		if (holes[i] >= 0)
			ASSERT_EQ(0, munmap(p + holes[i] * PAGE, PAGE));
		EXPECT_EQ(holes[i] >= 0 ? -EFAULT : 0, ring_buffer(&ring, p, NR * PAGE))
			TH_LOG("page %d is missing", holes[i]);
		/* There is none, or the one */
		EXPECT_EQ(holes[i] >= 0 ? -ENXIO : 0, io_uring_unregister_buffers(&ring));
		munmap(p, NR * PAGE);
	}
	io_uring_queue_exit(&ring);
	EXPECT_EQ(0, pins_left());
}

/* ---- loop: children are born and end, whatever is read meanwhile ---- */

static void loop_run(struct __test_metadata *_metadata, bool exec)
{
	uint64_t end = now_ms() + test_ms(2000);
	unsigned int children = 0;
	struct io io = {};
	struct target t;
	struct mem m;
	int status;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, BUF_LEN));
	io.t = &t;
	io.fd = t.fd;
	ASSERT_EQ(0, io_prepare(&io, m.p, BUF_NR, BUF_IO, BUF_IO));
	do {
		pid_t pid;

		ASSERT_EQ(0, io_submit_all(&io));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			if (exec)
				run_exec(NULL);
			_exit(exec);
		}
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		ASSERT_EQ(0, status);
		ASSERT_EQ(0, io_reap_all(&io));
		ASSERT_EQ(-1, io_check(&io, true));
		io_fill(&io, io.p, io.step, false);
		children++;
	} while (now_ms() < end);
	note("%u children, %u reads", children, children * BUF_NR);
	EXPECT_EQ(0, pins_left());
}

TEST(loop_fork_exit) { loop_run(_metadata, false); }
TEST(loop_fork_exec) { loop_run(_metadata, true); }

/* ---- first: the first I/Os of a process are pinned ---- */

#define FIRST		8

struct first {
	int fd, nr;
	unsigned long bio, first, last_pins, invalidate;
};

/* In a process of its own. Says whether the reads have failed. */
static void first_main(int in, int out, void *arg)
{
	struct first *f = arg;
	unsigned long bio = vmstat("nopin_bio"), first = fallback("first"), n = 0;
	struct iovec iov = { .iov_len = PAGE };
	bool ok = true;

	iov.iov_base = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	for (int i = 0; i < f->nr; i++) {
		if (i == f->nr - FIRST)
			n = vmstat("nr_foll_pin_acquired");
		ok &= preadv(f->fd, &iov, 1, 0) == PAGE;
	}
	f->last_pins = vmstat("nr_foll_pin_acquired") - n;
	f->bio = vmstat("nopin_bio") - bio;
	f->first = fallback("first") - first;
	/* Is there somebody to be told? */
	n = vmstat("nopin_invalidate");
	mprotect(iov.iov_base, PAGE, PROT_READ);
	mprotect(iov.iov_base, PAGE, PROT_READ | PROT_WRITE);
	f->invalidate = vmstat("nopin_invalidate") - n;
	ok &= preadv2(f->fd, &iov, 1, 0, RWF_NOWAIT) == PAGE;
	say(out, ok ? 0 : -EIO);
}

/* More than such a process has */
#define MAPPINGS	200

static void first_run(struct __test_metadata *_metadata, int nr)
{
	struct first *f = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bool pinned = !nopin() || nr == FIRST;
	struct target t;
	char saved[32];
	struct proc p;

	NEED("NOPIN_RAW");
	if (sysfs_read(FIRST_IOS, saved, sizeof(saved)))
		SKIP(return, "no " FIRST_IOS);
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	f->fd = t.fd;
	f->nr = nr;
	ASSERT_EQ(0, sysfs_write(FIRST_IOS, "8"));
	EXPECT_EQ(0, proc_start(&p, first_main, f));
	EXPECT_EQ(0, hear(&p));
	EXPECT_EQ(0, sysfs_write(FIRST_IOS, saved));
	EXPECT_EQ(0, proc_wait(&p));
	note("%d reads: %lu bios, %lu first, %lu pins in the end, %lu invalidations",
	     nr, f->bio, f->first, f->last_pins, f->invalidate);
	/* As many, and then one for each mapping */
	if (!nopin() || nr == FIRST) {
		EXPECT_EQ(nopin() ? FIRST : 0, f->first);
	} else {
		EXPECT_TRUE(f->first > FIRST && f->first <= FIRST + MAPPINGS);
	}
	EXPECT_EQ(pinned ? 0 : nr - f->first, f->bio);
	EXPECT_EQ(pinned ? FIRST : 0, f->last_pins);
	EXPECT_EQ(pinned, !f->invalidate);
	EXPECT_EQ(0, pins_left());
}

TEST(first_few) { first_run(_metadata, FIRST); }
TEST(first_many) { first_run(_metadata, 1000); }

int main(int argc, char **argv)
{
	int ret;

	/* What a process becomes */
	if (argc > 1 && !strcmp(argv[1], "--exit"))
		return 0;
	ret = test_harness_run(argc, argv);
	wait_ms_set(DEFAULT_WAIT_MS);
	return ret;
}
