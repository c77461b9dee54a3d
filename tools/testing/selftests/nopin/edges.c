// SPDX-License-Identifier: GPL-2.0
/*
 * Operations on the memory of direct I/O that need not wait for it, or not for long:
 * a wait must buy something, and is bounded for the whole operation. And what I/O
 * leaves behind, what it refuses, and when it begins to do without pins.
 *
 * With pins nobody ever waits, so in pin mode all of it is asked for as well, unless
 * a test says otherwise. I/O is held by a gate: it is in flight for as long as
 * a test wants, and an operation that waits for it waits as long as it is allowed to.
 */
#include <sched.h>
#include <sys/syscall.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

/* A wait for the I/O takes this long; without one an operation is done in a quarter */
#define WAIT_MS		(with_lockdep() ? 20000U : 5000U)
#define AT_ONCE_MS	(WAIT_MS / 4)

/*
 * What one operation may take that is allowed to wait, in all: as long as it is
 * allowed to, and what a slow machine needs for the rest
 */
#define BOUND_WAIT_MS	(with_lockdep() ? 500U : DEFAULT_WAIT_MS)
#define BOUND_MS	(2 * BOUND_WAIT_MS + (with_lockdep() ? 2000U : 100U))

#define MAX_IO		20
#define BUF_IO		(16 * KB)
#define BUF_NR		16
#define BUF_LEN		(BUF_NR * BUF_IO)

#define EXPECT_AT_ONCE(what, ms)					\
do {									\
	note("%s: %ld ms", what, ms);					\
	EXPECT_LE(0, ms);						\
	EXPECT_GT(AT_ONCE_MS, ms);					\
} while (0)

/* Kernels that check their locks are slow */
#define TEST_60(group, name, call)					\
	TEST_F_TIMEOUT(group, name, 60) { call; }

/*
 * All that comes before the transfers. Others go first, as the first I/O into some
 * memory may be special. They use a ring: a process that ends does not wait for it.
 */
static int prepare(struct flight *f, char *p, unsigned int nr, size_t len, size_t step)
{
	flight_set(f, p, nr, len, step);
	return flight_engine(f, ENG_URING) ?: flight_submit(f) ?: flight_reap(f) ?:
	       flight_prepare(f, f->write);
}

/* They are in flight on return. In nopin mode, without pins. */
static int go(struct flight *f)
{
	unsigned long bios = vmstat("nopin_bio");
	int ret = flight_start(f, GATE_ASKED, 0);

	if (!ret && nopin() && vmstat("nopin_bio") - bios < f->nr) {
		note("pinned to begin with, this says nothing");
		ret = -ENODATA;
	}
	return ret;
}

/* ---- bound: as long as anybody may wait, and not once for each place ---- */

struct mapper {
	struct flight f;
	int fd;
	unsigned int places, nr;
	struct proc proc[MAX_IO];
	enum op_id op;
};

/* Does the process do it to itself, or another one to the file? */
static bool is_inside(enum op_id op)
{
	return op == OP_MUNMAP || op == OP_EXIT;
}

/* The first page of the file at so many places, and a read into each */
static void mapper_main(int in, int out, void *arg)
{
	struct mapper *m = arg;
	struct area a = { .fd = m->fd, .len = m->places * GB };
	int ret = 0;

	a.p = space_get(a.len, PAGE);
	for (size_t i = 0; i < m->places && !ret; i++)
		if (mmap(a.p + i * GB, PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, m->fd, 0) == MAP_FAILED)
			ret = -errno;
	say(out, ret ?: prepare(&m->f, a.p, m->places, PAGE, GB));
	await(in);
	say(out, flight_submit(&m->f));
	await(in);
	if (is_inside(m->op)) {
		say(out, op_timed(m->op, &a));
		await(in);
	}
	say(out, flight_reap(&m->f));
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
	ASSERT_EQ(0, wait_ms_set(BOUND_WAIT_MS));
	ASSERT_EQ(0, flight_open(&m->f, "NOPIN_HELD"));
	m->f.same = true;
	m->places = variant->places;
	m->nr = variant->processes;
}

FIXTURE_TEARDOWN(bound)
{
	flight_close(&self->m.f);
}

static void bound_run(struct __test_metadata *_metadata, struct mapper *m, enum op_id op)
{
	unsigned int n = m->nr * m->places;
	struct area a = { .fd = m->fd, .len = PAGE };
	struct gate *gate = &m->f.gate;
	char buf[PAGE] = "";
	unsigned long bios;
	long most = 0;

	m->op = op;
	for (unsigned int i = 0; i < m->nr; i++) {
		ASSERT_EQ(0, proc_start(&m->proc[i], mapper_main, m));
		ASSERT_EQ(0, hear(&m->proc[i]));
	}
	bios = vmstat("nopin_bio");
	ASSERT_EQ(0, gate_shut(gate, GATE_ASKED, 0));
	for (unsigned int i = 0; i < m->nr; i++) {
		ASSERT_EQ(0, tell(&m->proc[i]));
		ASSERT_EQ(0, hear(&m->proc[i]));
	}
	ASSERT_EQ(0, gate_held(gate, n));
	if (nopin())
		ASSERT_LE(n, vmstat("nopin_bio") - bios);

	/* Another process does it; or each of them does, and has its own bound */
	if (!is_inside(op))
		most = op_timed(op, &a);
	for (unsigned int i = 0; i < m->nr; i++) {
		uint64_t start = now_ms();
		long took;

		ASSERT_EQ(0, tell(&m->proc[i]));
		if (!is_inside(op))
			continue;
		took = hear(&m->proc[i]);
		if (op == OP_EXIT && took == -EPIPE)
			took = now_ms() - start;
		ASSERT_LE(0, took);
		if (took > most)
			most = took;
	}
	note("%s, %u reads in flight: %ld ms", ops[op].name, n, most);
	EXPECT_LE(0, most);
	EXPECT_GE(BOUND_MS, most);
	EXPECT_EQ(0, gate_held(gate, n));
	ASSERT_EQ(0, gate_idle(gate));
	for (unsigned int i = 0; i < m->nr; i++) {
		if (op == OP_MUNMAP)
			tell(&m->proc[i]);
		EXPECT_EQ(op == OP_EXIT ? -EPIPE : 0, hear(&m->proc[i]));
		EXPECT_EQ(0, proc_wait(&m->proc[i]));
	}
	EXPECT_EQ(0, pins_left());

	/* What the file has now */
	ASSERT_EQ(0, ftruncate(m->fd, PAGE));
	ASSERT_EQ(PAGE, pread(m->fd, buf, PAGE, 0));
	EXPECT_EQ(-1, ops[op].found == FOUND_ZEROS ? byte_check(buf, PAGE, 0) :
						     pat_check(buf, PAGE, m->f.seed, 0));
}

TEST_60(bound, fsync, bound_run(_metadata, &self->m, OP_FSYNC))
TEST_60(bound, truncate, bound_run(_metadata, &self->m, OP_TRUNCATE))
TEST_60(bound, punch, bound_run(_metadata, &self->m, OP_PUNCH))
TEST_60(bound, munmap, bound_run(_metadata, &self->m, OP_MUNMAP))
TEST_60(bound, exit, bound_run(_metadata, &self->m, OP_EXIT))

/*
 * ---- neighbour: other parts of a huge page have nothing to do with the I/O;
 * atonce: anonymous memory, where a wait buys nothing ----
 */

struct held {
	struct flight f;
	struct grab grab;
	struct mem m;
	struct target t;	/* of I/O that goes through something else */
};

static int held_open(struct held *h, bool write)
{
	/* Pages that are freed are the first to be used again on the same processor */
	pin_to_cpu(0);
	return wait_ms_set(WAIT_MS) ?: flight_open(&h->f, "NOPIN_HELD") ?:
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
	self->h.f.write = variant->write;				\
}									\
FIXTURE_TEARDOWN(name)							\
{									\
	flight_close(&self->h.f);					\
	grab_exit(&self->h.grab);					\
}

HELD(neighbour)
HELD(atonce)

#define NEXT		(64 * KB)

/* Something is done to all of the buffer; or to the end of a huge page beside it */
static void held_run(struct __test_metadata *_metadata, struct held *h, bool beside,
		     enum op_id op)
{
	size_t step = beside ? 2 * BUF_IO : BUF_IO;
	struct flight *f = &h->f;
	struct area a = { .fd = -1 };
	struct mem *m = &h->m;
	long took;

	ASSERT_EQ(0, beside ? mem_get(m, MEM_THP, 2 * MB) :
			      mem_get(m, MEM_ANON, BUF_LEN));
	a.len = beside ? NEXT : BUF_LEN;
	a.p = m->p + m->len - a.len;
	memset(m->p, GRAB_BYTE, m->len);
	ASSERT_EQ(0, prepare(f, m->p, BUF_NR, BUF_IO, step));
	if (beside)
		ASSERT_TRUE(mem_is_huge(m->p));
	ASSERT_EQ(0, go(f));
	took = op_timed(op, &a);
	EXPECT_AT_ONCE(ops[op].name, took);
	/* What was freed belongs to somebody else now */
	ASSERT_EQ(0, grab_fill(&h->grab));
	EXPECT_EQ(0, gate_held(&f->gate, BUF_NR));
	ASSERT_EQ(0, flight_finish(f));
	EXPECT_EQ(-1, grab_check(&h->grab));

	if (f->write)
		EXPECT_EQ(-1, flight_check_disk(f));
	for (int i = 0; i < BUF_NR && beside; i++)
		EXPECT_EQ(-1, byte_check(m->p + i * step + BUF_IO, BUF_IO, GRAB_BYTE));
	if (beside)
		EXPECT_EQ(-1, flight_check(f, m->p, true));
	if (ops[op].found == FOUND_DATA)
		EXPECT_EQ(-1, byte_check(a.p, a.len, GRAB_BYTE));
	if (ops[op].found == FOUND_ZEROS)
		EXPECT_EQ(-1, byte_check(a.p, a.len, 0));
	EXPECT_EQ(0, pins_left());
}

#define HELD_TEST(group, name, op, beside)				\
	TEST_60(group, name, held_run(_metadata, &self->h, beside, op))

HELD_TEST(neighbour, munmap, OP_MUNMAP, true)
HELD_TEST(neighbour, mprotect, OP_PROTECT_READ, true)
HELD_TEST(neighbour, mremap, OP_MREMAP, true)
HELD_TEST(neighbour, mlock, OP_MLOCK, true)
HELD_TEST(neighbour, dontneed, OP_DONTNEED, true)
HELD_TEST(neighbour, free, OP_FREE, true)
HELD_TEST(neighbour, cold, OP_COLD, true)
HELD_TEST(atonce, munmap, OP_MUNMAP, false)
HELD_TEST(atonce, dontneed, OP_DONTNEED, false)

/*
 * A child has memory of its own, with what was there when it was born. If the device
 * only reads, the child changes its memory.
 */
static void child_main(int in, int out, void *arg)
{
	struct flight *f = arg;
	uint64_t start;

	await(in);
	start = now_ms();
	if (f->write)
		memset(f->buf, GRAB_BYTE, BUF_LEN);
	say(out, now_ms() - start);
	await(in);
	say(out, f->write ? byte_check(f->buf, BUF_LEN, GRAB_BYTE) :
			    flight_check(f, f->buf, false));
}

/* Does the disk have what the transfers wrote, or the pattern of another seed? */
static bool disk_mixed(struct flight *f, uint64_t other)
{
	static char disk[2 * BUF_LEN];
	uint64_t seeds[] = { f->seed, other };

	if (target_read(f->t, disk, sizeof(disk), 0))
		return false;
	for (size_t i = 0; i < BUF_NR; i++)
		if (!pat_mixed(disk + 2 * i * BUF_IO, BUF_IO, seeds, 2, i * BUF_IO))
			return false;
	return true;
}

/*
 * It is born when all is in flight, or @before. With @parent, its parent is the first
 * to change its memory, and the pages are the child's only; what goes to the disk then
 * is the old or the new, as the parent should not have done that.
 */
static void child_run(struct __test_metadata *_metadata, struct held *h, bool before,
		      bool parent)
{
	struct flight *f = &h->f;
	uint64_t other = f->seed + 1;
	struct proc child;
	uint64_t start;
	long took;

	if (before && !f->write)
		SKIP(return, "what a device writes to is not shared");
	ASSERT_EQ(0, mem_get(&h->m, MEM_ANON, BUF_LEN));
	ASSERT_EQ(0, prepare(f, h->m.p, BUF_NR, BUF_IO, BUF_IO));
	if (before)
		ASSERT_EQ(0, proc_start(&child, child_main, f));
	ASSERT_EQ(0, go(f));
	start = now_ms();
	if (!before)
		ASSERT_EQ(0, proc_start(&child, child_main, f));
	if (parent)
		pat_fill(f->buf, BUF_LEN, other, 0);
	took = now_ms() - start;
	EXPECT_AT_ONCE(parent ? "COW by the parent" : "fork", took);
	ASSERT_EQ(0, tell(&child));
	took = hear(&child);
	EXPECT_AT_ONCE("COW by the child", took);
	EXPECT_EQ(0, gate_held(&f->gate, 1));
	ASSERT_EQ(0, flight_finish(f));

	ASSERT_EQ(0, tell(&child));
	EXPECT_EQ(-1, hear(&child));
	EXPECT_EQ(0, proc_wait(&child));
	/* The parent sees the data */
	EXPECT_EQ(-1, parent ? pat_check(f->buf, BUF_LEN, other, 0) :
			       flight_check(f, f->buf, true));
	if (f->write)
		EXPECT_TRUE(parent ? disk_mixed(f, other) : flight_check_disk(f) == -1);
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
	struct flight *f;
	enum op_id op;
	int ret;
};

static int starter_main(void *arg)
{
	struct ender *e = arg;

	e->ret = go(e->f);
	return 0;
}

static void ender_main(int in, int out, void *arg)
{
	static char stack[256 * KB];
	struct ender *e = arg;
	struct mem m;
	int ret = mem_get(&m, MEM_ANON, BUF_LEN) ?:
		  prepare(e->f, m.p, BUF_NR, BUF_IO, BUF_IO);

	if (!ret) {
		waitpid(clone(starter_main, stack + sizeof(stack),
			      CLONE_VM | CLONE_VFORK | SIGCHLD, e), NULL, 0);
		ret = e->ret;
	}
	say(out, ret);
	await(in);
	ops[e->op].run(NULL);
	_exit(1);
}

static void ender_run(struct __test_metadata *_metadata, struct held *h, enum op_id op)
{
	struct flight *f = &h->f;
	struct ender e = { f, op };
	struct proc p;
	uint64_t start;
	long took;

	flight_set(f, NULL, BUF_NR, BUF_IO, BUF_IO);
	ASSERT_EQ(0, proc_start(&p, ender_main, &e));
	ASSERT_EQ(0, hear(&p));
	start = now_ms();
	ASSERT_EQ(0, tell(&p));
	/* Closed after the memory is gone */
	ASSERT_EQ(-EPIPE, hear(&p));
	took = now_ms() - start;
	EXPECT_AT_ONCE(ops[op].name, took);
	ASSERT_EQ(0, grab_fill(&h->grab));
	EXPECT_EQ(0, gate_held(&f->gate, BUF_NR));
	ASSERT_EQ(0, gate_idle(&f->gate));
	EXPECT_EQ(0, proc_wait(&p));
	EXPECT_EQ(-1, grab_check(&h->grab));
	if (f->write)
		EXPECT_EQ(-1, flight_check_disk(f));
	EXPECT_EQ(0, pins_left());
}

TEST_60(atonce, exit, ender_run(_metadata, &self->h, OP_EXIT))
TEST_60(atonce, exec, ender_run(_metadata, &self->h, OP_EXEC))

/* ---- other: I/O that depends on somebody is never waited for, nor pinned ---- */

#define OTHER_DIR	"/tmp/nopin/edges"
#define SERVER		"\"$NOPIN_BIN\"/paths_serve"
#define UBLK		"/dev/ublkb7"
#define UBLK_PID	"/tmp/nopin/ublk.pid"
/* What paths_serve says if ublk cannot pass on the pages of a request */
#define NO_ZERO_COPY	77

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
/* The server's requests have the client's pages, as a registered buffer of the kernel */
FIXTURE_VARIANT_ADD(other, ublk) {
	.env = "NOPIN_HELD", .other = UBLK,
	.make = SERVER " ublk 7 $NOPIN_HELD </dev/null >/dev/null 2>&1 & echo $! >" UBLK_PID
		"; until [ -b " UBLK
		" ]; do kill -0 $! || { wait $!; exit $?; }; sleep 0.1; done",
	.undo = "kill $(cat " UBLK_PID "); while [ -b " UBLK " ]; do sleep 0.1; done" };
/* By fs/direct-io.c */
FIXTURE_VARIANT_ADD(other, fat) { .env = "NOPIN_HELD_FAT" };

FIXTURE_SETUP(other)
{
	struct flight *f = &self->h.f;

	NEED(variant->env);
	NEED("NOPIN_EXT4");
	if (variant->make && strstr(variant->make, "btrfs"))
		NEED("NOPIN_BTRFS");
	ASSERT_EQ(0, wait_ms_set(WAIT_MS));
	ASSERT_EQ(0, flight_open(f, variant->env));
	if (variant->make) {
		int status = system(variant->make);

		if (WIFEXITED(status) && WEXITSTATUS(status) == NO_ZERO_COPY)
			SKIP(return, "this ublk registers no buffers with its server");
		ASSERT_EQ(0, status);
		setenv("NOPIN_EDGES", variant->other, 1);
		ASSERT_EQ(0, target_open(&self->h.t, "NOPIN_EDGES", MB));
		f->fd = self->h.t.fd;
		/* The loop device reads through the page cache of what is held */
		if (variant->other == strstr(variant->other, OTHER_DIR))
			f->t = &self->h.t;
	}
	ASSERT_EQ(0, mem_get(&self->h.m, MEM_SHARED_EXT4, BUF_IO));
	ASSERT_EQ(0, prepare(f, self->h.m.p, 1, BUF_IO, BUF_IO));
}

FIXTURE_TEARDOWN(other)
{
	flight_close(&self->h.f);
	if (variant->make) {
		target_close(&self->h.t);
		EXPECT_EQ(0, system(variant->undo));
	}
}

/* With NR_OPS for an operation: how is it counted? */
static void other_run(struct __test_metadata *_metadata, struct held *h, enum op_id op)
{
	struct area a = { .p = h->m.p, .len = BUF_IO, .fd = h->m.fd };
	struct flight *f = &h->f;
	unsigned long fell = vmstat("nopin_fallback");
	unsigned long pins = vmstat("nr_foll_pin_acquired");
	unsigned long bios = vmstat("nopin_bio");
	static char copy[BUF_IO];
	long took;

	/* Like go(), but it may be held as any number of requests */
	ASSERT_EQ(0, gate_shut(&f->gate, GATE_ASKED, 0));
	ASSERT_EQ(0, flight_submit(f));
	ASSERT_EQ(0, gate_held(&f->gate, 1));
	if (op != NR_OPS) {
		took = op_timed(op, &a);
		EXPECT_AT_ONCE(ops[op].name, took);
		EXPECT_EQ(0, gate_held(&f->gate, 1));
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
	ASSERT_EQ(0, flight_finish(f));
	/* The file has it, even if the mapping was gone when it came */
	ASSERT_EQ(BUF_IO, pread(a.fd, copy, BUF_IO, 0));
	EXPECT_EQ(-1, flight_check(f, copy, true));
	EXPECT_EQ(0, pins_left());
}

TEST_60(other, counts, other_run(_metadata, &self->h, NR_OPS))
TEST_60(other, fsync, other_run(_metadata, &self->h, OP_FSYNC))
TEST_60(other, mprotect, other_run(_metadata, &self->h, OP_PROTECT_READ))
TEST_60(other, munmap, other_run(_metadata, &self->h, OP_MUNMAP))

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
	struct gate *gate = arg;
	struct mem m;
	int ret = mem_get(&m, MEM_ANON, REAPED_LEN);
	char *p = m.p + REAPED_LEN / 2;

	/* Once before it is held */
	if (!ret && pread(gate->t.fd, p, PAGE, 0) != PAGE)
		ret = -EIO;
	say(out, ret);
	await(in);
	/* In which it cannot be killed */
	say(out, pread(gate->t.fd, p, PAGE, 0));
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
	unsigned long bios;
	struct gate gate;
	struct proc p;
	uint64_t start;
	long took, ret;
	int pidfd;

	NEED("NOPIN_HELD");
	ASSERT_EQ(0, wait_ms_set(WAIT_MS));
	ASSERT_EQ(0, gate_init(&gate, "NOPIN_HELD"));
	ASSERT_EQ(0, proc_start(&p, reaped_main, &gate));
	ASSERT_EQ(0, hear(&p));
	bios = vmstat("nopin_bio");
	ASSERT_EQ(0, gate_shut(&gate, GATE_ASKED, 0));
	ASSERT_EQ(0, tell(&p));
	ASSERT_EQ(0, gate_held(&gate, 1));
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
	ASSERT_EQ(0, gate_idle(&gate));
	EXPECT_EQ(SIGKILL, proc_wait(&p));
	EXPECT_EQ(0, pins_left());
	gate_exit(&gate);
}

/* ---- left: states of memory that is not there, or is there no more ---- */

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
	p = space_get(SPARSE, PAGE);
	ASSERT_EQ(0, mprotect(p, SPARSE, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, madvise(p, SPARSE, MADV_NOHUGEPAGE));
	/* Whatever comes with the first I/O is there */
	ASSERT_EQ(PAGE, pread(t.fd, p, PAGE, 0));
	before = slab_objects("nopin_chunk");
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
	most = slab_objects("nopin_chunk");
	/* Else there is nothing to be given back */
	if (mapped && nopin())
		EXPECT_LE(before + NR / 2, most);
	if (mapped)
		ASSERT_EQ(0, munmap(p, SPARSE));
	end = now_ms() + 5000;
	do {
		usleep(50000);
		after = slab_objects("nopin_chunk");
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
}

/* ---- refused: what page faults of the processor permit, and GUP does not ---- */

/* Each in a new process, as its stack may have grown afterwards */
TEST(refused_below_stack)
{
	static const unsigned int gaps[] = { 1, 4, 15, 64 };
	struct target t;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	for (size_t i = 0; i < 2 * ARRAY_SIZE(gaps); i++) {
		pid_t pid = fork();

		if (!pid) {
			char *low = map_named("[stack]"), *p = low - gaps[i / 2] * PAGE;
			long ret = i % 2 ? pread(t.fd, p, PAGE, 0) :
					   pwrite(t.fd, p, PAGE, 0);
			int err = ret < 0 ? errno : 0;

			note("%s %u pages below: %ld, errno %d, it grew by %ld",
			     i % 2 ? "read" : "write", gaps[i / 2], ret, err,
			     (low - map_named("[stack]")) / PAGE);
			_exit(!low || err != EFAULT || low != map_named("[stack]"));
		}
		EXPECT_EQ(0, child_reap(pid));
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
		char *p = anon_map(PAGE);
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
		char *p = anon_map(NR * PAGE);

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
	struct flight f = {};
	struct target t;
	struct mem m;

	NEED("NOPIN_RAW");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, BUF_LEN));
	f.t = &t;
	f.fd = t.fd;
	ASSERT_EQ(0, prepare(&f, m.p, BUF_NR, BUF_IO, BUF_IO));
	do {
		pid_t pid;

		ASSERT_EQ(0, flight_submit(&f));
		pid = fork();
		if (!pid) {
			ops[exec ? OP_EXEC : OP_EXIT].run(NULL);
			_exit(1);
		}
		ASSERT_EQ(0, child_reap(pid));
		ASSERT_EQ(0, flight_reap(&f));
		ASSERT_EQ(-1, flight_check(&f, f.buf, true));
		flight_fill(&f, false);
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
	struct first *f = shared_get(PAGE);
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

	if (op_exec_ends(argc, argv))
		return 0;
	ret = test_harness_run(argc, argv);
	wait_ms_set(DEFAULT_WAIT_MS);
	return ret;
}
