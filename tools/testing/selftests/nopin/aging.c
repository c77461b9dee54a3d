// SPDX-License-Identifier: GPL-2.0
/*
 * R14: memory that only devices use, through translations that are kept, looks
 * as young to reclaim as memory that the processor uses.
 */
#include <linux/mempolicy.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define BUSY	(24 * MB)
#define STEPS	40

/* How much of it is in memory, in percent */
static int resident(const char *p, size_t len)
{
	unsigned char *vec = malloc(len / PAGE);
	size_t nr = 0;

	if (!vec || mincore((void *)p, len, vec))
		return -1;
	for (size_t i = 0; i < len / PAGE; i++)
		nr += vec[i] & 1;
	free(vec);
	return nr * 100 / (len / PAGE);
}

struct busy {
	struct io_uring *ring;
	char *p;
	int fd;
	int stop;
	long err;
	unsigned long passes;
};

static int pass(struct busy *b)
{
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;

	for (size_t off = 0; off < BUSY; off += 256 * KB) {
		sqe = io_uring_get_sqe(b->ring);
		io_uring_prep_read_fixed(sqe, b->fd, b->p + off, 256 * KB, 0, 0);
		io_uring_submit(b->ring);
		if (io_uring_wait_cqe(b->ring, &cqe))
			return -EIO;
		if (cqe->res != 256 * KB)
			return cqe->res < 0 ? cqe->res : -EIO;
		io_uring_cqe_seen(b->ring, cqe);
	}
	__atomic_add_fetch(&b->passes, 1, __ATOMIC_RELEASE);
	return 0;
}

static void *busy_thread(void *arg)
{
	struct busy *b = arg;

	while (!__atomic_load_n(&b->stop, __ATOMIC_ACQUIRE) && !b->err)
		b->err = pass(b);
	return NULL;
}

/* In a group of its own, with room for half of what there is. The exit status. */
static int aging(struct cgroup *cgroup, const char *dev)
{
	struct io_uring ring;
	struct busy b = { .ring = &ring };
	struct mem busy, idle;
	unsigned long passes;
	struct rusage before, after;
	unsigned long node0 = 1;
	long fetched;
	pthread_t th;
	int ri;

	if (cgroup_put(cgroup, "cgroup.procs", "0"))
		return 10;
	/* Reclaim ages the pages of each node by themselves */
	syscall(SYS_set_mempolicy, MPOL_BIND, &node0, 64UL);
	b.fd = open(dev, O_RDWR | O_DIRECT);
	if (b.fd < 0 || io_uring_queue_init(4, &ring, 0) ||
	    mem_get(&busy, MEM_ANON, BUSY) || mem_get(&idle, MEM_ANON, BUSY))
		return 11;
	b.p = busy.p;
	if (ring_buffer(&ring, busy.p, BUSY))
		return 12;
	/* Such that the translations are kept, whatever the size of transfers */
	for (int i = 0; i < 4; i++)
		if (pass(&b))
			return 13;
	if (pthread_create(&th, NULL, busy_thread, &b))
		return 14;

	/*
	 * More, a little at a time: reclaim has to look around repeatedly. At
	 * first all is equally young to it, and who is the first to be old when it
	 * comes round is a matter of luck.
	 */
	for (int i = 0; i < STEPS; i++) {
		char *p = anon_map(MB);

		if (p == MAP_FAILED)
			return 16;
		/* Nothing but the busy buffer is fetched back from swap */
		if (i == STEPS / 4)
			getrusage(RUSAGE_SELF, &before);
		memset(p, i + 1, MB);
		passes = __atomic_load_n(&b.passes, __ATOMIC_ACQUIRE);
		for (int ms = 0; ms < 3000 && !b.err; ms += 5) {
			if (__atomic_load_n(&b.passes, __ATOMIC_ACQUIRE) >= passes + 2)
				break;
			usleep(5000);
		}
	}
	ri = resident(idle.p, BUSY);
	getrusage(RUSAGE_SELF, &after);
	fetched = after.ru_majflt - before.ru_majflt;
	__atomic_store_n(&b.stop, 1, __ATOMIC_RELEASE);
	pthread_join(th, NULL);
	note("%lu passes; %ld of %ld busy pages fetched from swap, %d %% of idle memory left",
	     b.passes, fetched, BUSY / PAGE, ri);
	if (b.err) {
		note("I/O: %ld", b.err);
		return 17;
	}
	if (ri > 70)
		return 18;	/* there was no pressure */
	/* All of them, if reclaim is not told of the I/O */
	return fetched < (long)(BUSY / PAGE / 4) ? 0 : 1;
}

FIXTURE(aging) { };
FIXTURE_SETUP(aging) { }
FIXTURE_TEARDOWN(aging) { }

TEST_F_TIMEOUT(aging, busy_stays, 240)
{
	struct cgroup cgroup = {};
	int status;
	pid_t pid;

	NEED("NOPIN_RAW");
	NEED("NOPIN_SWAP");
	if (cgroup_make(&cgroup, "memory"))
		SKIP(return, "no cgroup v2");
	if (cgroup_put(&cgroup, "memory.max", "56M"))
		SKIP(return, "no memory controller");
	/*
	 * Where the busy thread does not get to run for a while, its pages are as
	 * old as others
	 */
	for (int i = 0; i < 4; i++) {
		pid = fork();
		if (!pid)
			_exit(aging(&cgroup, getenv("NOPIN_RAW")));
		status = child_reap(pid);
		if (status >> 8 != 1)
			break;
	}
	EXPECT_EQ(0, status >> 8);
	EXPECT_EQ(0, status & 0x7f);
	cgroup_remove(&cgroup);
}

TEST_HARNESS_MAIN
