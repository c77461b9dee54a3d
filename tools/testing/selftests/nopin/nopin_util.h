/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the nopin tests share:
 *
 *	counters.h	the switch, sysfs, the kernel's counters, time
 *	mem.h		patterns, kinds of memory, page tables, freed pages
 *	ioq.h		ways to do I/O: system calls, AIO, io_uring, NVMe commands
 *	target.h	disks and files, disks that are slow, file systems of a test's own
 *	gate.h		disks that hold I/O, and transfers that are held
 *	ops.h		what can be done to memory while a device works on it
 *	proc.h		children, threads, cgroups
 *
 * The harness runs each test in a process of its own. The kernel takes back the memory,
 * the files and the rings of that process when it ends, so no test has to. A teardown
 * undoes what outlives the process: it writes settings back, opens a gate, unmounts a
 * file system. The harness calls it only if the setup succeeded.
 */
#ifndef NOPIN_UTIL_H
#define NOPIN_UTIL_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECTOR		512UL
#define PAGE		4096UL
#define KB		1024UL
#define MB		(1024UL * KB)
#define GB		(1024UL * MB)

#define ALIGN_UP(x, a)	(((x) + (a) - 1) & ~((a) - 1))

/* Print a diagnostic line */
#define note(fmt, ...)	fprintf(stderr, "# " fmt "\n", ##__VA_ARGS__)

/*
 * The end of a test that counts what goes wrong, @wrong of @all: only pins may do that,
 * and if they do not, the test sees nothing. bench/breaks.py reads the numbers.
 */
#define END_COUNTED(wrong, all, what)					\
	do {								\
		note("%d of %d %s", wrong, all, what);			\
		if (nopin()) {						\
			EXPECT_EQ(0, wrong);				\
			return;						\
		}							\
		EXPECT_LT(0, wrong);					\
		if (_metadata->exit_code == KSFT_PASS)			\
			SKIP(return, "pins: %d of %d %s", wrong, all, what); \
		return;							\
	} while (0)

/* Skip a test whose device or file system run.sh did not set up */
#define NEED(env)							\
	do {								\
		if (!getenv(env))					\
			SKIP(return, "%s is not set", env);		\
	} while (0)

#include "counters.h"
#include "mem.h"
#include "ioq.h"
#include "target.h"
#include "gate.h"
#include "ops.h"
#include "proc.h"

#endif
