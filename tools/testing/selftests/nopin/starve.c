// SPDX-License-Identifier: GPL-2.0
/*
 * An invalidation waits for the device, not for the task that does the I/O: the kernel
 * gives pages back when the bio ends, wherever that is, and not when the submitter gets to
 * run again (R5). Here mprotect() waits, as nobody may write to the memory when it is done.
 */
#include <sched.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define LEN		(64 * KB)
/* Less than the scheduler takes to lend the reader some of the hog's time */
#define BOUND_MS	800
#define HOG_MS		3000
#define RT_RUNTIME	"/proc/sys/kernel/sched_rt_runtime_us"

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
	char runtime[32] = "";
	struct flight f;
	int hogging = 0;
	cpu_set_t cpu1;
	struct area a;
	struct mem m;
	pthread_t th;
	long took;

	NEED("NOPIN_HELD");
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two processors");
	ASSERT_EQ(0, wait_ms_set(LONG_WAIT_MS));
	ASSERT_EQ(0, flight_open(&f, "NOPIN_HELD"));
	ASSERT_EQ(0, mem_get(&m, MEM_ANON, LEN));
	a = (struct area) { m.p, LEN, -1 };
	flight_set(&f, m.p, 1, LEN, LEN);
	ASSERT_EQ(0, flight_engine(&f, ENG_PSYNC));
	ASSERT_EQ(0, flight_prepare(&f, false));
	/* Real-time tasks leave some time to others, unless told not to */
	ASSERT_EQ(0, sysfs_read(RT_RUNTIME, runtime, sizeof(runtime)));
	ASSERT_EQ(0, sysfs_write(RT_RUNTIME, "-1"));

	pin_to_cpu(0);
	/* The reader sleeps. When the read has ended it may run where the hog is */
	ASSERT_EQ(0, flight_start(&f, GATE_WAIT, 0));
	CPU_ZERO(&cpu1);
	CPU_SET(1, &cpu1);
	ASSERT_EQ(0, pthread_setaffinity_np(f.th[0], sizeof(cpu1), &cpu1));
	ASSERT_EQ(0, pthread_create(&th, NULL, hog_thread, &hogging));
	while (!__atomic_load_n(&hogging, __ATOMIC_ACQUIRE))
		usleep(1000);
	EXPECT_EQ(1, hogging);

	took = op_timed(OP_PROTECT_READ, &a);
	gate_open(&f.gate);
	note("mprotect took %ld ms", took);

	pthread_join(th, NULL);
	EXPECT_EQ(0, flight_reap(&f));
	sysfs_write(RT_RUNTIME, runtime);
	EXPECT_LE(0, took);
	EXPECT_GT(BOUND_MS, took);
	EXPECT_EQ(f.wait + nopin(), vmstat("nopin_wait"));
	EXPECT_EQ(f.pinned, vmstat("nopin_pinned"));
	flight_close(&f);
	wait_ms_set(DEFAULT_WAIT_MS);
}

TEST_HARNESS_MAIN
