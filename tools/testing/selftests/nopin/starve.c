// SPDX-License-Identifier: GPL-2.0
/*
 * Whoever waits for a buffer waits for the device, not for the task that does
 * the I/O: pages are given back when the bio ends, wherever that is, and not
 * when the submitter gets to run again (R5). mprotect() is who waits, as it wants
 * nobody to write to the memory when it is done.
 */
#include <sched.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN		(64 * KB)
/* Less than the scheduler takes to lend the reader some of the hog's time */
#define BOUND_MS	800
#define HOG_MS		3000
#define RT_RUNTIME	"/proc/sys/kernel/sched_rt_runtime_us"

struct reader {
	int fd;
	char *buf;
	long ret;
};

static void *reader_thread(void *arg)
{
	struct reader *r = arg;

	pin_to_cpu(1);
	r->ret = pread(r->fd, r->buf, LEN, 0);
	return NULL;
}

/* Keeps everybody else but interrupts away from the reader's CPU */
static void *hog_thread(void *arg)
{
	struct sched_param param = { .sched_priority = 50 };
	uint64_t end = now_ms() + HOG_MS;
	int *hogging = arg;

	pin_to_cpu(1);
	if (sched_setscheduler(0, SCHED_FIFO, &param)) {
		__atomic_store_n(hogging, -1, __ATOMIC_RELEASE);
		return NULL;
	}
	__atomic_store_n(hogging, 1, __ATOMIC_RELEASE);
	while (now_ms() < end)
		;
	return NULL;
}

TEST(submitter)
{
	unsigned long wait, pinned;
	struct reader r = { 0 };
	char runtime[32] = "";
	pthread_t rth, hth;
	uint64_t start, took;
	struct gate gate;
	int hogging = 0;
	struct mem m;

	NEED("NOPIN_HELD");
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two processors");
	ASSERT_EQ(0, wait_ms_set(LONG_WAIT_MS));
	ASSERT_EQ(0, gate_init(&gate, "NOPIN_HELD"));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, LEN));
	/* Real-time tasks leave some time to others, unless told not to */
	ASSERT_EQ(0, sysfs_read(RT_RUNTIME, runtime, sizeof(runtime)));
	ASSERT_EQ(0, sysfs_write(RT_RUNTIME, "-1"));

	pin_to_cpu(0);
	/* Not with the other CPU busy: it is asked for its share of the counters */
	wait = vmstat("nopin_wait");
	pinned = vmstat("nopin_pinned");
	r.fd = gate.t.fd;
	r.buf = m.p;
	ASSERT_EQ(0, gate_shut(&gate, GATE_WAIT, 0));
	ASSERT_EQ(0, pthread_create(&rth, NULL, reader_thread, &r));
	ASSERT_EQ(0, gate_held(&gate, 1));
	ASSERT_EQ(0, pthread_create(&hth, NULL, hog_thread, &hogging));
	while (!__atomic_load_n(&hogging, __ATOMIC_ACQUIRE))
		usleep(1000);
	EXPECT_EQ(1, hogging);

	start = now_ms();
	EXPECT_EQ(0, mprotect(m.p, LEN, PROT_READ));
	took = now_ms() - start;
	gate_open(&gate);
	note("mprotect took %u ms", (unsigned int)took);

	pthread_join(hth, NULL);
	pthread_join(rth, NULL);
	sysfs_write(RT_RUNTIME, runtime);
	EXPECT_EQ(LEN, r.ret);
	EXPECT_GT(BOUND_MS, took);
	EXPECT_EQ(wait + nopin(), vmstat("nopin_wait"));
	EXPECT_EQ(pinned, vmstat("nopin_pinned"));
	gate_exit(&gate);
	wait_ms_set(DEFAULT_WAIT_MS);
}

TEST_HARNESS_MAIN
