/* SPDX-License-Identifier: GPL-2.0 */
/* The switch, files of sysfs and the like, the kernel's counters, time */
#ifndef NOPIN_COUNTERS_H
#define NOPIN_COUNTERS_H

#define NOPIN_DIR	"/sys/kernel/mm/nopin/"
#define SWITCH		NOPIN_DIR "direct_io"
#define FIRST_IOS	NOPIN_DIR "first_ios"
#define FALLBACK_DIR	NOPIN_DIR "fallback"
#define RMAP_WAIT	NOPIN_DIR "rmap_wait_ms"
/* run.sh has turned it off */
#define NUMA_SWITCH	"/proc/sys/kernel/numa_balancing"
#define KSM		"/sys/kernel/mm/ksm/"

enum mode { MODE_PIN, MODE_NOPIN };

/* Does this kernel have the switch at all? Without it the mode is "pin" */
bool nopin_present(void);
enum mode mode_get(void);
int mode_set(enum mode mode);
/* Is the mode "nopin"? */
bool nopin(void);

/* 0 or -errno */
int sysfs_write(const char *path, const char *val);
int sysfs_read(const char *path, char *buf, size_t len);
/* A number, or -1 */
long sysfs_get(const char *path);
int sysfs_put(const char *path, long val);

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
/* A field of a file like /proc/meminfo, in KiB; 0 if it is not there */
unsigned long proc_kb(const char *path, const char *field);
/* Pins that exist now */
unsigned long pins_held(void);
/* The same, after a while in which they may go: a ring lets go of them late */
unsigned long pins_left(void);
/* Objects of a slab that are in use, or -1: unused ones, which the kernel keeps, go */
long slab_objects(const char *name);

/*
 * How long an invalidation waits for I/O, if the wait buys something, before it pins
 * the pages. Without the switch nobody waits anyway.
 */
#define DEFAULT_WAIT_MS	100	/* the default */
#define LONG_WAIT_MS	60000	/* until the I/O is done */
/* Somebody who does not wait takes less than that, on a slow machine as well */
#define NO_WAIT_MS	1000

int wait_ms_set(unsigned int ms);

uint64_t now_ms(void);
/* The length of a test that is bounded by time: longer with NOPIN_LONG */
unsigned int test_ms(unsigned int quick);
/* Does the kernel check its locks? Everything takes several times as long then */
bool with_lockdep(void);

uint32_t rnd(uint32_t *state);

#endif
